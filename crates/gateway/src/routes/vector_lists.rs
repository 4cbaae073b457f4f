//! JSON of responses whose vectors stand in plain lists, one list for each format that was requested.

use openai_schema::{EncodingFormat, Vectors};

use crate::response::PartialJson;

/// A list of all vectors in one format, with the JSON around it.
pub(super) struct VectorList {
    /// JSON before the first vector.
    pub(super) head: String,
    pub(super) format: EncodingFormat,
    /// JSON after the last vector.
    pub(super) tail: String,
}

/// The lists of a response, in the order in which they are written.
pub(super) struct VectorLists {
    vectors: Vectors,
    lists: Vec<VectorList>,
}

impl VectorLists {
    /// A response with `lists` of `vectors`.
    pub(super) fn new(vectors: Vectors, lists: Vec<VectorList>) -> Self {
        Self { vectors, lists }
    }

    /// A response with one list of numbers between `head` and `tail`.
    pub(super) fn floats(vectors: Vectors, head: impl Into<String>, tail: impl Into<String>) -> Self {
        let list = VectorList { head: head.into(), format: EncodingFormat::Float, tail: tail.into() };
        Self::new(vectors, vec![list])
    }
}

impl PartialJson for VectorLists {
    fn write_part(&self, from: usize, bytes: usize, out: &mut Vec<u8>) -> Option<usize> {
        let (count, start) = (self.vectors.len(), out.len());
        for at in from..count * self.lists.len() {
            if at > from && out.len() - start >= bytes {
                return Some(at);
            }
            let (VectorList { head, format, tail }, row) = (&self.lists[at / count], at % count);
            out.extend_from_slice(if row == 0 { head.as_bytes() } else { b"," });
            format.write(self.vectors.row(row), out);
            if row + 1 == count {
                out.extend_from_slice(tail.as_bytes());
            }
        }
        None
    }

    fn json_len(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_to_the_whole_response() {
        let vectors = Vectors::new(vec![1.0, 0.5, -1.0, 0.0], 2).unwrap();
        let list =
            |head: &str, format, tail: &str| VectorList { head: head.into(), format, tail: tail.into() };
        let lists = VectorLists::new(
            vectors,
            vec![
                list("{\"a\":[", EncodingFormat::Float, "]"),
                list(",\"b\":[", EncodingFormat::Ubinary, "]}"),
            ],
        );
        let mut whole = Vec::new();
        assert_eq!(lists.write_part(0, usize::MAX, &mut whole), None);
        assert_eq!(str::from_utf8(&whole).unwrap(), r#"{"a":[[1.0,0.5],[-1.0,0.0]],"b":[[192],[0]]}"#);
        let (mut parts, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            next = lists.write_part(from, 1, &mut parts);
        }
        assert_eq!(parts, whole);
    }
}
