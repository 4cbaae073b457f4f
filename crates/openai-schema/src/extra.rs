//! Values of parameters that OpenAI's API does not have.
//!
//! This crate does not know what such a parameter means. It keeps the value as one of a few kinds of JSON, bounded in
//! memory; the server judges it.

use serde::de::SeqAccess;

use crate::shape::{Shape, Shaped, skip_array};

/// Maximum number of distinct strings of an array that are kept.
const MAX_TEXTS: usize = 16;

/// The value of a parameter that OpenAI's API does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtraValue {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without fraction and exponent that fits 64 bits, signed or not.
    Integer(i128),
    /// A string.
    Text(String),
    /// The distinct strings of an array, in the order of their first occurrence; at most 16.
    Texts(Vec<String>),
    /// Anything else: another number, an object, an array of other things or of more strings.
    Other,
}

impl Shape for ExtraValue {
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
        while let Some(Shaped(text)) = array.next_element::<Shaped<String>>()? {
            match text {
                Some(text) if texts.contains(&text) => {}
                Some(text) if texts.len() < MAX_TEXTS => texts.push(text),
                _ => return skip_array(array),
            }
        }
        Ok(Some(Self::Texts(texts)))
    }
}

impl From<Option<Shaped<Self>>> for ExtraValue {
    fn from(value: Option<Shaped<Self>>) -> Self {
        value.map_or(Self::Null, |Shaped(value)| value.unwrap_or(Self::Other))
    }
}
