//! Values of parameters that OpenAI's API does not have.
//!
//! This crate does not know the meaning of such a parameter. It keeps the value as one of a few kinds of JSON, in
//! bounded memory, for the server to interpret.

use serde::de::{Deserialize, Deserializer, SeqAccess};

use crate::lenient::{FromJsonKind, Lenient, skip_array};

/// Maximum number of distinct strings of an array that are kept.
const MAX_TEXTS: usize = 16;

/// The value of a parameter that OpenAI's API does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtraValue {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without fraction and exponent that fits `i64` or `u64`.
    Integer(i128),
    /// A string.
    Text(String),
    /// The distinct strings of an array, in the order of their first occurrence; at most 16.
    Texts(Vec<String>),
    /// Any other value: another number, an object, an array of other values or of more strings.
    Other,
}

impl FromJsonKind for ExtraValue {
    fn from_bool(value: bool) -> Option<Self> {
        Some(Self::Bool(value))
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(Self::Text(text.to_owned()))
    }

    fn from_integer(integer: i128) -> Option<Self> {
        Some(Self::Integer(integer))
    }

    fn from_array<'de, A: SeqAccess<'de>>(mut array: A) -> Result<Option<Self>, A::Error> {
        let mut texts = Vec::new();
        while let Some(Lenient(text)) = array.next_element::<Lenient<String>>()? {
            match text {
                Some(text) if texts.contains(&text) => {}
                Some(text) if texts.len() < MAX_TEXTS => texts.push(text),
                _ => return skip_array(array),
            }
        }
        Ok(Some(Self::Texts(texts)))
    }
}

impl<'de> Deserialize<'de> for ExtraValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<Lenient<Self>>::deserialize(deserializer).map(Self::from)
    }
}

impl From<Option<Lenient<Self>>> for ExtraValue {
    fn from(value: Option<Lenient<Self>>) -> Self {
        value.map_or(Self::Null, |Lenient(value)| value.unwrap_or(Self::Other))
    }
}
