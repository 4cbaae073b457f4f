//! The number formats of weights, and the search for values that are not finite.

use half::{bf16, f16};

/// Elements that are examined without a branch, so that the compiler vectorizes the search.
const CHUNK: usize = 4096;

/// The format of a tensor's elements, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloatType {
    F16,
    Bf16,
    F32,
    F64,
}

impl FloatType {
    /// Returns the size of one element in bytes.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Returns the index of the first NaN or infinity: a number whose exponent is all ones, or a double out of the
    /// range of f32, in which models are computed.
    pub(crate) fn first_not_finite(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::F16 => first(bytes, |bytes| u16::from_le_bytes(bytes) & 0x7c00 == 0x7c00),
            Self::Bf16 => first(bytes, |bytes| u16::from_le_bytes(bytes) & 0x7f80 == 0x7f80),
            Self::F32 => first(bytes, |bytes| u32::from_le_bytes(bytes) & 0x7f80_0000 == 0x7f80_0000),
            Self::F64 => first(bytes, |bytes| !(f64::from_le_bytes(bytes) as f32).is_finite()),
        }
    }

    /// Decodes as many elements as `out` has room for.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F16 => convert(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => convert(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Self::F32 => convert(bytes, out, f32::from_le_bytes),
            Self::F64 => convert(bytes, out, |bytes| f64::from_le_bytes(bytes) as f32),
        }
    }

    /// Returns the element at `index`.
    ///
    /// # Panics
    /// If `bytes` has no such element.
    pub(crate) fn value(self, bytes: &[u8], index: usize) -> f64 {
        fn get<const SIZE: usize>(bytes: &[u8], index: usize) -> [u8; SIZE] {
            bytes.as_chunks::<SIZE>().0[index]
        }
        match self {
            Self::F16 => f16::from_le_bytes(get(bytes, index)).to_f64(),
            Self::Bf16 => bf16::from_le_bytes(get(bytes, index)).to_f64(),
            Self::F32 => f32::from_le_bytes(get(bytes, index)).into(),
            Self::F64 => f64::from_le_bytes(get(bytes, index)),
        }
    }
}

fn convert<const SIZE: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; SIZE]) -> f32) {
    out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, &element)| *out = decode(element));
}

fn first<const SIZE: usize>(bytes: &[u8], matches: impl Fn([u8; SIZE]) -> bool) -> Option<usize> {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    let any = |chunk: &[[u8; SIZE]]| chunk.iter().fold(false, |any, &element| any | matches(element));
    let start = elements.chunks(CHUNK).position(any)? * CHUNK;
    elements[start..].iter().position(|&element| matches(element)).map(|at| start + at)
}

/// Returns the coordinates of the element at a flat index of a row-major tensor.
pub(crate) fn coordinates(shape: &[usize], index: usize) -> Vec<usize> {
    let mut rest = index;
    let mut coordinates: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let at = rest % size.max(1);
            rest /= size.max(1);
            at
        })
        .collect();
    coordinates.reverse();
    coordinates
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes −1.0 everywhere but at `index`, which holds `value`.
    fn stored(float_type: FloatType, index: usize, value: f64) -> Vec<u8> {
        let encode = |value: f64| match float_type {
            FloatType::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
            FloatType::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            FloatType::F32 => (value as f32).to_le_bytes().to_vec(),
            FloatType::F64 => value.to_le_bytes().to_vec(),
        };
        (0..=index + 3).flat_map(|at| encode(if at == index { value } else { -1.0 })).collect()
    }

    #[test]
    fn first_not_finite_finds_nan_and_infinity_in_every_format() {
        for float_type in [FloatType::F16, FloatType::Bf16, FloatType::F32, FloatType::F64] {
            for index in [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 5] {
                for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                    let bytes = stored(float_type, index, value);
                    assert_eq!(float_type.first_not_finite(&bytes), Some(index), "{float_type:?} {value}");
                    assert_eq!(float_type.value(&bytes, index).to_string(), value.to_string());
                }
            }
            for value in [0.0, -0.0, 65_504.0, -65_504.0, 1e-7] {
                assert_eq!(
                    float_type.first_not_finite(&stored(float_type, 7, value)),
                    None,
                    "{float_type:?} {value}"
                );
            }
        }
        for (value, found) in [(1e300, Some(7)), (-f64::MAX, Some(7)), (1e38, None), (1e-300, None)] {
            assert_eq!(
                FloatType::F64.first_not_finite(&stored(FloatType::F64, 7, value)),
                found,
                "{value:e}"
            );
        }
        let extremes = [f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45].map(f32::to_le_bytes).concat();
        assert_eq!(FloatType::F32.first_not_finite(&extremes), None);
    }

    #[test]
    fn coordinates_are_row_major() {
        assert_eq!(coordinates(&[2, 3], 5), [1, 2]);
        assert_eq!(coordinates(&[4], 3), [3]);
        assert_eq!(coordinates(&[], 0), [0; 0]);
    }
}
