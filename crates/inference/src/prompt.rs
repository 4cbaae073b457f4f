//! Prompts: texts such as `query: ` that a model was trained to read before a text.

use std::sync::Arc;

use crate::tokenizer::Tokenizer;

/// A text that the engine puts before every text of a job, as it is. Both are tokenized together, as
/// sentence-transformers does. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    text: Arc<str>,
    ids: Arc<[u32]>,
    unpooled_tokens: usize,
}

impl Prompt {
    /// Measures `text` with the model's tokenizer. `include_prompt` is the setting of the model's pooling.
    ///
    /// # Errors
    /// The tokenizer library's message.
    pub fn new(text: &str, tokenizer: &Tokenizer, include_prompt: bool) -> Result<Self, String> {
        let ids = tokenizer.encode(text)?;
        let tokens = ids.len() + tokenizer.num_special_tokens() - usize::from(tokenizer.ends_with_special());
        let unpooled_tokens = if include_prompt { 0 } else { tokens };
        Ok(Self { text: text.into(), ids: ids.into(), unpooled_tokens })
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Number of tokens of the text alone, without special tokens.
    pub(crate) fn content_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Returns the ids that precede the text in the second and later windows of an input, which have room for
    /// `max_content` ids each. A prompt that takes more than half of a window is not repeated, because the number of
    /// windows would have no bound.
    pub(crate) fn repeated_ids(&self, max_content: usize) -> &[u32] {
        if 2 * self.ids.len() <= max_content { &self.ids } else { &[] }
    }

    /// Number of leading tokens of a sequence that pooling leaves out, as sentence-transformers counts them: the tokens
    /// of the prompt alone with special tokens, without the special one at the end; 0 if the prompt is pooled.
    pub fn unpooled_tokens(&self) -> usize {
        self.unpooled_tokens
    }
}
