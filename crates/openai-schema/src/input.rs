//! The four forms of `input`: a text, an array of texts, an array of token ids, an array of such arrays.
//!
//! The first element of an array decides its form while the array is being read. An untagged enum would first buffer
//! the whole array in a generic tree of many times its size, and report every error as "data did not match any
//! variant".

use serde::de::{IgnoredAny, SeqAccess};

use crate::{
    error::RequestError,
    lenient::{FromJsonKind, Lenient, skip_array},
};

/// Maximum number of texts or token arrays of a request. One more is kept, so that the server can tell that there are
/// too many; for later ones only the syntax is checked. The bound limits memory: three bytes of a body can allocate an
/// element of a hundred bytes.
pub const MAX_INPUTS: usize = 65_536;

/// Maximum number of token ids of a request. One more is kept, as for [`MAX_INPUTS`]. Two bytes of a body can allocate
/// an id of four bytes. Including the extra one the number is a power of two, to which a vector grows by doubling.
pub const MAX_TOKENS: usize = (1 << 21) - 1;

/// The texts or token ids to embed.
///
/// A parsed input holds at least one text or token array, and none inside an array is empty. Only a single text may be
/// empty: LangChain sends `"input": ""` for an empty document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbeddingInput {
    /// `"a"`: one text.
    Text(String),
    /// `["a", "b"]`: one text per vector.
    Texts(Vec<String>),
    /// `[791, 4062]`: one input, tokenised by the client.
    Tokens(Vec<u32>),
    /// `[[791], [4062]]`: one array of token ids per vector.
    TokenArrays(Vec<Vec<u32>>),
}

impl EmbeddingInput {
    /// Returns the number of vectors in the response.
    #[expect(clippy::len_without_is_empty, reason = "a parsed input is never empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenArrays(arrays) => arrays.len(),
        }
    }

    /// Returns true for one input that is not an element of an array. OpenAI's messages call it `'input'`, and elements
    /// `'input[0]'`, `'input[1]'`, …
    pub fn is_single(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Tokens(_))
    }

    /// Returns the number of token ids that the client sent.
    fn tokens(&self) -> usize {
        match self {
            Self::Text(_) | Self::Texts(_) => 0,
            Self::Tokens(ids) => ids.len(),
            Self::TokenArrays(arrays) => arrays.iter().map(Vec::len).sum(),
        }
    }

    /// Returns an error for an empty array, or for an empty text or token array in an array.
    pub(crate) fn check_not_empty(&self, name: &'static str) -> Result<(), RequestError> {
        let (len, empty) = match self {
            Self::Text(_) => return Ok(()),
            Self::Tokens(ids) => (ids.len(), None),
            Self::Texts(texts) => (texts.len(), texts.iter().position(String::is_empty)),
            Self::TokenArrays(arrays) => (arrays.len(), arrays.iter().position(Vec::is_empty)),
        };
        match empty {
            _ if len == 0 => Err(RequestError::EmptyArray { name }),
            Some(index) => Err(RequestError::EmptyInput { name, index }),
            None => Ok(()),
        }
    }
}

impl FromJsonKind for EmbeddingInput {
    fn from_text(text: &str) -> Option<Self> {
        Some(Self::Text(text.to_owned()))
    }

    fn from_array<'de, A: SeqAccess<'de>>(mut array: A) -> Result<Option<Self>, A::Error> {
        let mut input = match array.next_element()? {
            // An empty array has no form; `check_not_empty` rejects it.
            None => return Ok(Some(Self::Tokens(Vec::new()))),
            Some(Lenient(Some(Item::Text(text)))) => Self::Texts(vec![text]),
            Some(Lenient(Some(Item::Token(id)))) => Self::Tokens(vec![id]),
            Some(Lenient(Some(Item::Tokens(ids)))) => Self::TokenArrays(vec![ids]),
            Some(Lenient(None)) => return skip_array(array),
        };
        let mut tokens = input.tokens();
        while input.len() <= MAX_INPUTS && tokens <= MAX_TOKENS {
            let Some(Lenient(item)) = array.next_element()? else { return Ok(Some(input)) };
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

impl FromJsonKind for Item {
    fn from_text(text: &str) -> Option<Self> {
        Some(Self::Text(text.to_owned()))
    }

    fn from_integer(integer: i128) -> Option<Self> {
        u32::from_integer(integer).map(Self::Token)
    }

    fn from_array<'de, A: SeqAccess<'de>>(mut array: A) -> Result<Option<Self>, A::Error> {
        let mut ids = Vec::new();
        while ids.len() <= MAX_TOKENS {
            let Some(Lenient(id)) = array.next_element()? else { return Ok(Some(Self::Tokens(ids))) };
            let Some(id) = id else { return skip_array(array) };
            ids.push(id);
        }
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Some(Self::Tokens(ids)))
    }
}
