//! Vectors as integers of 8 bits, or as one bit for each component, by the formulas of sentence-transformers'
//! `quantize_embeddings` with fixed ranges.
//!
//! That function calibrates the range of each component on texts of its caller. A server has none, so that the range is
//! fixed: ±r with r = min(1, 9/√d) for unit vectors of d components. Their root mean square is 1/√d. The largest
//! component of all-MiniLM-L6-v2's golden vectors is 8.0 times that, and one that is clipped costs more than all
//! others gain by smaller steps; ±1 would leave a vector of 384 components some 13 of 256 steps.

/// Bound of the range that 8 bits divide, in root mean squares of a unit vector's components.
const RANGE_RMS: f32 = 9.0;

/// Returns the bound r of the range ±r that [`quantize_int8`] and [`quantize_uint8`] divide into 255 steps, for vectors
/// of `dimensions` components and norm 1.
pub fn quantization_range(dimensions: usize) -> f32 {
    (RANGE_RMS / (dimensions.max(1) as f32).sqrt()).min(1.0)
}

/// Returns (x + r) / (2r / 255) for each component x.
fn steps(vector: &[f32]) -> impl Iterator<Item = f32> {
    let range = quantization_range(vector.len());
    let step = 2.0 * range / 255.0;
    vector.iter().map(move |value| (value + range) / step)
}

/// Returns (x + r) / (2r / 255) for each component x, without its fraction; components outside ±r as 0 and 255.
pub fn quantize_uint8(vector: &[f32]) -> Vec<u8> {
    // The cast truncates and saturates.
    steps(vector).map(|value| value as u8).collect()
}

/// Returns (x + r) / (2r / 255) - 128 for each component x, without its fraction; outside ±r, -128 and 127.
pub fn quantize_int8(vector: &[f32]) -> Vec<i8> {
    // The cast truncates towards zero, as numpy's `astype`, and saturates.
    steps(vector).map(|value| (value - 128.0) as i8).collect()
}

/// Returns one bit for each component, 1 if it is above 0: eight to a byte, the first in its highest bit. Missing bits
/// of the last byte are 0.
pub fn quantize_ubinary(vector: &[f32]) -> Vec<u8> {
    let byte = |components: &[f32]| {
        let bits = components.iter().zip((0..8).rev());
        bits.fold(0, |byte, (value, bit)| byte | u8::from(*value > 0.0) << bit)
    };
    vector.chunks(8).map(byte).collect()
}

/// Returns the bytes of [`quantize_ubinary`] minus 128.
pub fn quantize_binary(vector: &[f32]) -> Vec<i8> {
    quantize_ubinary(vector).into_iter().map(|byte| byte.wrapping_sub(128) as i8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `quantize_embeddings` of sentence-transformers for `ranges` of ±1 in numpy's float32.
    #[test]
    fn integers_are_those_of_sentence_transformers() {
        // 81 components or fewer have the range ±1.
        assert_eq!(quantization_range(81).to_bits(), 1.0_f32.to_bits());
        let vector = [-1.0, -0.5, -0.01, 0.0, 0.01, 0.5, 1.0];
        // By numpy 2.4 in float32, in which 2 / (2 / 255) is a little less than 255.
        assert_eq!(quantize_uint8(&vector), [0, 63, 126, 127, 128, 191, 254]);
        assert_eq!(quantize_int8(&vector), [-128, -64, -1, 0, 0, 63, 126]);
        assert_eq!(quantize_int8(&[-2.0, 2.0]), [-128, 127]);
        assert_eq!(quantize_uint8(&[-2.0, 2.0]), [0, 255]);
    }

    #[test]
    fn bits_are_those_of_packbits() {
        let vector = [0.1, -0.1, 0.0, 0.2, -0.3, 0.4, 0.5, -0.6, 0.7];
        assert_eq!(quantize_ubinary(&vector), [0b1001_0110, 0b1000_0000]);
        assert_eq!(quantize_binary(&vector), [22, 0]);
        assert_eq!(quantize_binary(&[-1.0; 8]), [-128]);
    }

    #[test]
    fn a_unit_vector_keeps_its_direction_in_8_bits() {
        let values: Vec<f32> = (0..384_u32).map(|at| ((at * 7919 % 1000) as f32 / 500.0) - 1.0).collect();
        let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        let vector: Vec<f32> = values.iter().map(|value| value / norm).collect();
        let back: Vec<f32> = quantize_int8(&vector).into_iter().map(f32::from).collect();
        let dot: f32 = vector.iter().zip(&back).map(|(a, b)| a * b).sum();
        let length = back.iter().map(|value| value * value).sum::<f32>().sqrt();
        // Dropping fractions, as the formula does, moves components by up to 1.5 steps.
        assert!(dot / length > 0.998, "{}", dot / length);
    }
}
