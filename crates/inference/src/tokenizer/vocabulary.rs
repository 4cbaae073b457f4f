//! Checks the ids of a `tokenizer.json` against the number of embeddings of a model.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The vocabulary of a `tokenizer.json` without added tokens: the tokenizer library assigns the ids of added tokens
/// that are not in the vocabulary, and ignores the ids in the file.
#[derive(Deserialize)]
pub(super) struct Vocabulary {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    /// One more than the highest id.
    #[serde(deserialize_with = "count_ids", rename = "vocab")]
    ids: u64,
}

impl Vocabulary {
    /// Checks that each id is below `rows`, the number of embeddings: a text may hold any id of the vocabulary.
    ///
    /// # Errors
    /// The highest ids of both, and the probable cause.
    pub(super) fn check(&self, rows: usize) -> Result<(), String> {
        let ids = self.model.ids;
        if ids <= rows as u64 {
            return Ok(());
        }
        Err(format!(
            "its vocabulary has ids up to {}, but the model has embeddings for ids up to {} only: tokenizer and \
             weights belong to different models",
            ids - 1,
            rows.saturating_sub(1)
        ))
    }
}

/// Reads one more than the highest id of a vocabulary: a map from token to id or, for unigram models, a list in the
/// order of the ids.
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
    fn each_id_of_a_vocabulary_needs_an_embedding() {
        for vocabulary in [r#"{"c": 2, "a": 0, "[B]": 1}"#, r#"[["a", 0.0], ["[B]", -1.5], ["c", -2.0]]"#] {
            for rows in [3, 4, 1 << 20] {
                assert_eq!(check(vocabulary, rows), Ok(()));
            }
            let error = check(vocabulary, 2).unwrap_err();
            assert!(error.contains("ids up to 2") && error.contains("ids up to 1 only"), "{error}");
        }
        assert_eq!(check("{}", 0), Ok(()));
    }
}
