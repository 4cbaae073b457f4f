//! Compares the ids of a `tokenizer.json` with the embeddings of a model.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The ids of a tokenizer's vocabulary, without added tokens: the tokenizer library assigns the ids of added tokens
/// that are not in the vocabulary, and ignores the ids that the file states.
#[derive(Deserialize)]
pub(crate) struct Vocabulary {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(deserialize_with = "count_ids")]
    vocab: u64,
}

impl Vocabulary {
    /// Refuses a vocabulary with an id that a word table of `rows` rows has no embedding for: any text may hold it.
    ///
    /// # Errors
    /// The ids and the remedy, in words.
    pub(crate) fn check(&self, rows: usize) -> Result<(), String> {
        let ids = self.model.vocab;
        if ids <= rows as u64 {
            return Ok(());
        }
        Err(format!(
            "its vocabulary has ids up to {}, but the model has embeddings for ids up to {} only: tokenizer and weights \
             are not of the same model",
            ids - 1,
            rows.saturating_sub(1)
        ))
    }
}

/// One more than the highest id of a vocabulary: a map from token to id or, for unigram models, a list in the order of
/// the ids.
fn count_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Ids;
    impl<'de> Visitor<'de> for Ids {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map from token to id, or a list of tokens")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
            let mut count = 0;
            while let Some((IgnoredAny, id)) = map.next_entry::<_, u32>()? {
                count = count.max(u64::from(id) + 1);
            }
            Ok(count)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<u64, A::Error> {
            let mut count = 0;
            while list.next_element::<IgnoredAny>()?.is_some() {
                count += 1;
            }
            Ok(count)
        }
    }
    deserializer.deserialize_any(Ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(vocabulary: &str, rows: usize) -> Result<(), String> {
        let json = format!(r#"{{"added_tokens": [], "model": {{"type": "any", "vocab": {vocabulary}}}}}"#);
        serde_json::from_str::<Vocabulary>(&json).unwrap().check(rows)
    }

    #[test]
    fn every_id_of_a_vocabulary_needs_an_embedding() {
        for vocabulary in [r#"{"c": 2, "a": 0, "[B]": 1}"#, r#"[["a", 0.0], ["[B]", -1.5], ["c", -2.0]]"#] {
            for rows in [3, 4, 1 << 20] {
                assert_eq!(check(vocabulary, rows), Ok(()));
            }
            let refused = check(vocabulary, 2).unwrap_err();
            assert!(refused.contains("ids up to 2") && refused.contains("ids up to 1 only"), "{refused}");
        }
        assert_eq!(check("{}", 0), Ok(()));
    }
}
