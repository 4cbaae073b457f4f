//! Decoders of OpenAI's token ids, `cl100k_base` and `o200k_base`, to text.
//!
//! LangChain sends ids of these vocabularies for any model. As ids of the served model they would give a plausible but
//! wrong vector, so they are decoded to text, which the model's own tokenizer then reads.

use std::sync::LazyLock;

use tiktoken_rs::{CoreBPE, cl100k_base, o200k_base};

/// `cl100k_base`: ids 0–100255, 100257–100260 and 100276. The first use builds it, which takes a fraction of a second
/// and must not be on an async thread.
pub(crate) static CL100K_BASE: LazyLock<TiktokenDecoder> =
    LazyLock::new(|| TiktokenDecoder::build("cl100k_base", &embedded(cl100k_base()), 100_277));

/// `o200k_base`: ids 0–199997, 199999 and 200018. Built on first use like [`CL100K_BASE`].
pub(crate) static O200K_BASE: LazyLock<TiktokenDecoder> =
    LazyLock::new(|| TiktokenDecoder::build("o200k_base", &embedded(o200k_base()), 200_019));

/// Table from token ids to bytes.
pub(crate) struct TiktokenDecoder {
    name: &'static str,
    /// The bytes of all tokens, concatenated.
    bytes: Vec<u8>,
    /// Token `id` is `bytes[ends[id - 1]..ends[id]]`; empty if no token has the id.
    ends: Vec<u32>,
}

impl TiktokenDecoder {
    /// Copies the tokens with ids below `size` from `encoder`, which also has regular expressions and two hash maps for
    /// encoding, about ten times as large.
    fn build(name: &'static str, encoder: &CoreBPE, size: u32) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(size as usize));
        for id in 0..size {
            // An error means that no token has this id.
            if let Ok(token) = encoder.decode_bytes(&[id]) {
                bytes.extend_from_slice(&token);
            }
            ends.push(bytes.len() as u32);
        }
        bytes.shrink_to_fit();
        Self { name, bytes, ends }
    }

    /// OpenAI's name of the vocabulary.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Decodes `ids`. A sequence that begins or ends inside a character gets U+FFFD there; LangChain splits at 8,191
    /// tokens.
    ///
    /// # Errors
    /// The position of the first unknown id.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, usize> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for (position, &id) in ids.iter().enumerate() {
            bytes.extend_from_slice(self.token(id).ok_or(position)?);
        }
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn token(&self, id: u32) -> Option<&[u8]> {
        let id = usize::try_from(id).ok()?;
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        (start < end).then(|| &self.bytes[start as usize..end as usize])
    }
}

/// The encoder, whose data is compiled into this program, so that it cannot fail at run time.
fn embedded<E: std::fmt::Debug>(encoder: Result<CoreBPE, E>) -> CoreBPE {
    encoder.expect("the vocabulary embedded in tiktoken-rs parses")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn valid_ids(decoder: &TiktokenDecoder) -> Vec<std::ops::RangeInclusive<u32>> {
        let mut runs: Vec<std::ops::RangeInclusive<u32>> = Vec::new();
        for id in (0..=210_000).filter(|&id| decoder.token(id).is_some()) {
            match runs.last_mut() {
                Some(run) if *run.end() + 1 == id => *run = *run.start()..=id,
                _ => runs.push(id..=id),
            }
        }
        runs
    }

    #[test]
    fn only_the_published_ids_are_valid() {
        assert_eq!(valid_ids(&CL100K_BASE), [0..=100_255, 100_257..=100_260, 100_276..=100_276]);
        assert_eq!(valid_ids(&O200K_BASE), [0..=199_997, 199_999..=199_999, 200_018..=200_018]);
        assert_eq!(CL100K_BASE.token(u32::MAX), None);
    }

    #[test]
    fn ids_decode_to_their_text() {
        assert_eq!(CL100K_BASE.decode(&[15339, 1917]), Ok("hello world".to_owned()));
        assert_eq!(CL100K_BASE.decode(&[100_257]), Ok("<|endoftext|>".to_owned()));
        assert_eq!(O200K_BASE.decode(&[24912, 2375]), Ok("hello world".to_owned()));
        assert_eq!(CL100K_BASE.decode(&[]), Ok(String::new()));
    }

    #[test]
    fn the_position_of_the_first_unknown_id_is_returned() {
        assert_eq!(CL100K_BASE.decode(&[1, 2, 100_256, 4_000_000_000]), Err(2));
    }

    #[test]
    fn a_split_character_decodes_to_the_replacement_character() {
        let encoder = cl100k_base().unwrap();
        let ids = encoder.encode_ordinary("日本🙂");
        let whole = CL100K_BASE.decode(&ids).unwrap();
        assert_eq!(whole, "日本🙂");
        let cut = CL100K_BASE.decode(&ids[..ids.len() - 1]).unwrap();
        assert!(cut.starts_with("日本") && cut.ends_with('\u{fffd}'), "{cut:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn decoding_inverts_tiktoken_encoding(text in "\\PC{0,40}") {
            static ENCODERS: LazyLock<(CoreBPE, CoreBPE)> =
                LazyLock::new(|| (cl100k_base().unwrap(), o200k_base().unwrap()));
            prop_assert_eq!(CL100K_BASE.decode(&ENCODERS.0.encode_ordinary(&text)), Ok(text.clone()));
            prop_assert_eq!(O200K_BASE.decode(&ENCODERS.1.encode_ordinary(&text)), Ok(text));
        }
    }
}
