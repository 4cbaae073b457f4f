//! The number formats of weights, and the search for values that no weight may have.

use half::{bf16, f16};

/// Elements examined without a branch, which lets the compiler vectorise the search.
const PIECE: usize = 4096;

/// Format in which a tensor's elements are stored, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    /// Bytes of one element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Index of the first NaN or infinity: the numbers whose exponent is all ones, and doubles beyond the range of f32,
    /// in which models are computed.
    pub(crate) fn first_not_finite(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::F16 => first(bytes, |bytes| u16::from_le_bytes(bytes) & 0x7c00 == 0x7c00),
            Self::Bf16 => first(bytes, |bytes| u16::from_le_bytes(bytes) & 0x7f80 == 0x7f80),
            Self::F32 => first(bytes, |bytes| u32::from_le_bytes(bytes) & 0x7f80_0000 == 0x7f80_0000),
            Self::F64 => first(bytes, |bytes| !(f64::from_le_bytes(bytes) as f32).is_finite()),
        }
    }

    /// The element at `index`.
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

fn first<const SIZE: usize>(bytes: &[u8], matches: impl Fn([u8; SIZE]) -> bool) -> Option<usize> {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    let any = |piece: &[[u8; SIZE]]| piece.iter().fold(false, |any, &element| any | matches(element));
    let piece = elements.chunks(PIECE).position(any)?;
    let start = piece * PIECE;
    elements[start..].iter().position(|&element| matches(element)).map(|at| start + at)
}

/// The coordinates of the element at a flat index of a row-major tensor.
pub(crate) fn coordinates(shape: &[usize], index: usize) -> Vec<usize> {
    let mut rest = index;
    let mut place: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let at = rest % size.max(1);
            rest /= size.max(1);
            at
        })
        .collect();
    place.reverse();
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1.0, then `value` at `index`, in each format.
    fn stored(element: Element, index: usize, value: f64) -> Vec<u8> {
        let encode = |value: f64| match element {
            Element::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
            Element::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            Element::F32 => (value as f32).to_le_bytes().to_vec(),
            Element::F64 => value.to_le_bytes().to_vec(),
        };
        (0..=index + 3).flat_map(|at| encode(if at == index { value } else { -1.0 })).collect()
    }

    #[test]
    fn nan_and_infinity_are_found_in_every_format_and_nothing_else_is() {
        for element in [Element::F16, Element::Bf16, Element::F32, Element::F64] {
            for index in [0, 1, PIECE - 1, PIECE, 3 * PIECE + 5] {
                for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                    let bytes = stored(element, index, value);
                    assert_eq!(element.first_not_finite(&bytes), Some(index), "{element:?} {value}");
                    assert_eq!(element.value(&bytes, index).to_string(), value.to_string());
                }
            }
            for value in [0.0, -0.0, 65_504.0, -65_504.0, 1e-7] {
                assert_eq!(element.first_not_finite(&stored(element, 7, value)), None, "{element:?} {value}");
            }
        }
        for (value, found) in [(1e300, Some(7)), (-f64::MAX, Some(7)), (1e38, None), (1e-300, None)] {
            assert_eq!(Element::F64.first_not_finite(&stored(Element::F64, 7, value)), found, "{value:e}");
        }
        let extremes = [f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45].map(f32::to_le_bytes).concat();
        assert_eq!(Element::F32.first_not_finite(&extremes), None);
    }

    #[test]
    fn coordinates_are_row_major() {
        assert_eq!(coordinates(&[2, 3], 5), [1, 2]);
        assert_eq!(coordinates(&[4], 3), [3]);
        assert_eq!(coordinates(&[], 0), [0; 0]);
    }
}
