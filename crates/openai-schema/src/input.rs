//! The four shapes of `input`: one text, many texts, one array of token ids, many of them.
//!
//! The shapes are told apart while the array is read, by its first element. An untagged enum would
//! first buffer the whole array in a generic tree, at many times its size, and then report every
//! fault as "data did not match any variant".

use serde::de::{IgnoredAny, SeqAccess};

use crate::{
    error::RequestError,
    shape::{Shape, Shaped, skip_array},
};

/// How many texts or token arrays of a request are kept, and one more that tells that there were too many. What comes
/// after that is only read for its syntax: three bytes of a body can ask for an element of a hundred bytes.
pub const MAX_INPUTS: usize = 65_536;

/// How many token ids of a request are kept, and one more. Two bytes of a body can ask for an id of four. With that
/// one the number is a power of two, to which a vector grows by doubling.
pub const MAX_TOKENS: usize = (1 << 21) - 1;

/// What is to be embedded.
///
/// A parsed input holds at least one text or token array, and none inside an array is empty. Only a
/// bare text may be empty: LangChain sends `"input": ""` for an empty document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbeddingInput {
    /// `"a"`: one text.
    Text(String),
    /// `["a", "b"]`: a text for each vector.
    Texts(Vec<String>),
    /// `[791, 4062]`: one input, already tokenised by the client.
    Tokens(Vec<u32>),
    /// `[[791], [4062]]`: an array of token ids for each vector.
    TokenArrays(Vec<Vec<u32>>),
}

impl EmbeddingInput {
    /// The number of vectors that answer this input.
    #[expect(clippy::len_without_is_empty, reason = "a parsed input is never empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenArrays(arrays) => arrays.len(),
        }
    }

    /// Whether this is one input that is not an element of an array. OpenAI's messages call such an
    /// input `'input'` and the others `'input[0]'`, `'input[1]'`, …
    pub fn is_single(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Tokens(_))
    }

    /// The number of token ids that the client sent.
    fn tokens(&self) -> usize {
        match self {
            Self::Text(_) | Self::Texts(_) => 0,
            Self::Tokens(ids) => ids.len(),
            Self::TokenArrays(arrays) => arrays.iter().map(Vec::len).sum(),
        }
    }

    /// Refuses what has the right shape but nothing in it.
    pub(crate) fn check_not_empty(&self) -> Result<(), RequestError> {
        let (len, empty) = match self {
            Self::Text(_) => return Ok(()),
            Self::Tokens(ids) => (ids.len(), None),
            Self::Texts(texts) => (texts.len(), texts.iter().position(String::is_empty)),
            Self::TokenArrays(arrays) => (arrays.len(), arrays.iter().position(Vec::is_empty)),
        };
        match empty {
            _ if len == 0 => Err(RequestError::EmptyArray),
            Some(index) => Err(RequestError::EmptyInput { index }),
            None => Ok(()),
        }
    }
}

impl Shape for EmbeddingInput {
    fn from_text(text: &str) -> Option<Self> {
        Some(Self::Text(text.to_owned()))
    }

    fn from_array<'de, A: SeqAccess<'de>>(mut array: A) -> Result<Option<Self>, A::Error> {
        let mut input = match array.next_element()? {
            // An empty array has no first element to tell its shape; `check_not_empty` refuses all.
            None => return Ok(Some(Self::Tokens(Vec::new()))),
            Some(Shaped(Some(Item::Text(text)))) => Self::Texts(vec![text]),
            Some(Shaped(Some(Item::Token(id)))) => Self::Tokens(vec![id]),
            Some(Shaped(Some(Item::Tokens(ids)))) => Self::TokenArrays(vec![ids]),
            Some(Shaped(None)) => return skip_array(array),
        };
        let mut tokens = input.tokens();
        while input.len() <= MAX_INPUTS && tokens <= MAX_TOKENS {
            let Some(Shaped(item)) = array.next_element()? else { return Ok(Some(input)) };
            match (&mut input, item) {
                (Self::Texts(texts), Some(Item::Text(text))) => texts.push(text),
                (Self::Tokens(ids), Some(Item::Token(id))) => {
                    ids.push(id);
                    tokens += 1;
                }
                (Self::TokenArrays(arrays), Some(Item::Tokens(ids))) => {
                    tokens += ids.len();
                    arrays.push(ids);
                }
                _ => return skip_array(array),
            }
        }
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Some(input))
    }
}

/// An element of the outer array.
enum Item {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl Shape for Item {
    fn from_text(text: &str) -> Option<Self> {
        Some(Self::Text(text.to_owned()))
    }

    fn from_integer(integer: i128) -> Option<Self> {
        u32::from_integer(integer).map(Self::Token)
    }

    fn from_array<'de, A: SeqAccess<'de>>(mut array: A) -> Result<Option<Self>, A::Error> {
        let mut ids = Vec::new();
        while ids.len() <= MAX_TOKENS {
            let Some(Shaped(id)) = array.next_element()? else { return Ok(Some(Self::Tokens(ids))) };
            let Some(id) = id else { return skip_array(array) };
            ids.push(id);
        }
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Some(Self::Tokens(ids)))
    }
}
