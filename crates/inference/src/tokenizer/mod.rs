//! Converts text to token ids exactly as sentence-transformers does: the current release, or releases before 5.4, which
//! stripped white space.
//!
//! The library's truncation, padding and post-processing are off: a text is encoded without special tokens, and the
//! caller truncates it and adds them ([`Tokenizer::add_special_tokens`]). So nothing unused is allocated, such as
//! offsets and masks, and every truncation policy starts from the whole text.

mod pair;
mod positions;
mod unicode_compat;
mod vocabulary;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

use self::{
    pair::PairTemplate, positions::trims_spaces, unicode_compat::UnicodeCompat, vocabulary::Vocabulary,
};
pub use self::{pair::truncate_pair, positions::TextToken};
use crate::error::StartError;

/// A model's tokenizer. Cheap to clone, and shared between threads.
#[derive(Clone)]
pub struct Tokenizer {
    pipeline: PipelineTokenizer,
    options: EncodeOptions,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// The template of pairs, if the model reads pairs.
    pair: Option<PairTemplate>,
    unicode: UnicodeCompat,
    strip_whitespace: bool,
    /// Positions of tokens leave out the spaces around them.
    trims_spaces: bool,
    /// Tokens that a text can hold and for which the model has no embedding, by id. Empty for nearly all models.
    without_embedding: Arc<BTreeMap<u32, String>>,
}

/// Options of a tokenizer that are not in its `tokenizer.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenizerOptions {
    /// Remove white space from both ends of every text, as sentence-transformers did before release 5.4.
    pub strip_whitespace: bool,
    /// Number of embeddings of the model: ids below it have one. Without it, every id is accepted.
    pub embeddings: Option<usize>,
    /// The tokenizer is that of a cross-encoder, which reads pairs of texts.
    pub reads_pairs: bool,
    /// Token types distinguish the texts of a pair. Otherwise all tokens of a pair are in segment 0.
    pub has_token_types: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` of any version, for a model with an embedding for each id.
    ///
    /// # Errors
    /// [`StartError::Tokenizer`] if the file cannot be read or has an unsupported component.
    pub fn load(path: &Path) -> Result<Self, StartError> {
        Self::load_with(path, TokenizerOptions::default())
    }

    /// Reads a `tokenizer.json` of any version.
    ///
    /// # Errors
    /// [`StartError::Tokenizer`] if the file cannot be read or has an unsupported component, if the model has no
    /// embedding for an id of its vocabulary or for a special token, or if the template of pairs is not supported.
    pub fn load_with(path: &Path, options: TokenizerOptions) -> Result<Self, StartError> {
        let json = std::fs::read(path)
            .map_err(|source| StartError::Tokenizer { path: path.to_owned(), reason: source.to_string() })?;
        Self::from_json(&json, path, options)
    }

    /// Creates a tokenizer from the content of a `tokenizer.json` of any version. `path` names its source in errors.
    ///
    /// # Errors
    /// Those of [`load_with`](Self::load_with).
    pub fn from_json(json: &[u8], path: &Path, options: TokenizerOptions) -> Result<Self, StartError> {
        let TokenizerOptions { strip_whitespace, embeddings, reads_pairs, has_token_types } = options;
        let error = |reason: String| StartError::Tokenizer { path: path.to_owned(), reason };
        let trims_spaces = trims_spaces(json).map_err(|source| error(source.to_string()))?;
        let json = str::from_utf8(json).map_err(|source| error(source.to_string()))?;
        let json = tokenizers::canonicalize_str(json).map_err(|source| error(source.to_string()))?;
        let pipeline = tokenizers::from_json(&json).map_err(|source| error(source.to_string()))?;
        let template = &pipeline.get_post_processor().single;
        let ids = |run: &[(PipelineToken, u8)]| run.iter().map(|(token, _)| token.id()).collect();
        let (prefix, suffix): (Vec<u32>, Vec<u32>) = (ids(&template.prefix), ids(&template.suffix));
        let pair = if reads_pairs {
            let template = PairTemplate::new(&pipeline.get_post_processor().pair, has_token_types);
            let unsupported = "the token types of its template for pairs are not 0 for the first text and 0 or 1 for \
                               the second: rerankers with other token types are not supported";
            Some(template.ok_or_else(|| error(unsupported.to_owned()))?)
        } else {
            None
        };
        let without_embedding = match embeddings {
            None => BTreeMap::new(),
            Some(rows) => {
                let vocabulary: Vocabulary =
                    serde_json::from_str(&json).map_err(|source| error(source.to_string()))?;
                vocabulary.check(rows).map_err(error)?;
                let added = pipeline.get_added_vocabulary().get_vocab().into_iter();
                added.map(|(token, id)| (id, token)).filter(|&(id, _)| id as usize >= rows).collect()
            }
        };
        let pair_ids = pair.iter().flat_map(PairTemplate::special_ids);
        if let Some(id) =
            prefix.iter().chain(&suffix).chain(pair_ids).find(|id| without_embedding.contains_key(id))
        {
            return Err(error(format!(
                "it adds token id {id} to every text, but the model has no embedding for this id: tokenizer and \
                 weights belong to different models"
            )));
        }
        let options = EncodeOptions {
            add_special_tokens: false,
            encode_special_tokens: false,
            padding: Override::Off,
            truncation: Override::Off,
        };
        let unicode = UnicodeCompat::for_tokenizer(&json).map_err(|source| error(source.to_string()))?;
        let without_embedding = Arc::new(without_embedding);
        Ok(Self {
            pipeline,
            options,
            prefix,
            suffix,
            pair,
            unicode,
            strip_whitespace,
            trims_spaces,
            without_embedding,
        })
    }

    /// Number of special tokens that are added to every sequence.
    pub fn num_special_tokens(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// Returns true if the last token of every sequence is a special one.
    pub(crate) fn ends_with_special(&self) -> bool {
        !self.suffix.is_empty()
    }

    /// Encodes the whole `text`, without special tokens.
    ///
    /// # Errors
    /// The tokenizer library's message.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids)?;
        Ok(PipelineToken::cast_slice(&ids).to_vec())
    }

    /// The same as [`encode`](Self::encode), into a buffer that the caller reuses.
    pub(crate) fn encode_into(&self, text: &str, ids: &mut Vec<PipelineToken>) -> Result<(), String> {
        ids.clear();
        let text = self.unicode.replace(if self.strip_whitespace { strip(text) } else { text });
        self.pipeline.encode_into(&text, &self.options, ids).map_err(|error| error.to_string())
    }

    /// Appends `content` to `out`, with special tokens before and after it.
    pub fn add_special_tokens(&self, content: &[u32], out: &mut Vec<u32>) {
        out.reserve(content.len() + self.num_special_tokens());
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(content);
        out.extend_from_slice(&self.suffix);
    }

    /// Number of special tokens that are added to a pair of texts; 0 if the model reads no pairs.
    pub fn num_special_tokens_of_pair(&self) -> usize {
        self.pair.as_ref().map_or(0, |pair| pair.special_ids().count())
    }

    /// Appends the tokens of a pair of texts to `out`, with the special tokens of pairs. Returns the number of tokens
    /// at the end that are in segment 1, or `None` if the model reads no pairs.
    pub fn join_pair(&self, first: &[u32], second: &[u32], out: &mut Vec<u32>) -> Option<usize> {
        self.pair.as_ref().map(|pair| pair.join(first, second, out))
    }

    /// Returns true if the vocabulary has this id and the model has an embedding for it.
    pub fn is_valid_id(&self, id: u32) -> bool {
        !self.without_embedding.contains_key(&id) && !self.pipeline.decode_tokens(&[id], false).is_empty()
    }

    /// Tokens that a text can hold and for which the model has no embedding, by id.
    pub fn without_embedding(&self) -> &BTreeMap<u32, String> {
        &self.without_embedding
    }

    /// Returns the first of `ids` for which the model has no embedding, and its token.
    pub(crate) fn first_without_embedding(&self, ids: &[u32]) -> Option<(u32, &str)> {
        // All ids of an ordinary text are smaller than the ids without an embedding.
        let (lowest, _) = self.without_embedding.first_key_value()?;
        let found =
            ids.iter().filter(|id| *id >= lowest).find_map(|id| self.without_embedding.get_key_value(id));
        found.map(|(id, token)| (*id, token.as_str()))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("prefix", &self.prefix).field("suffix", &self.suffix).finish()
    }
}

/// Removes white space from both ends like Python's `str.strip`, which sentence-transformers applied to every text
/// before release 5.4. Python counts the four information separators as white space; Unicode's property does not.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of allocations for `texts` with a buffer that is large enough, after a first pass.
    fn allocations(tokenizer: &Tokenizer, texts: &[String]) -> u64 {
        let mut ids = Vec::with_capacity(1 << 16);
        let mut encode_all = || {
            for text in texts {
                tokenizer.encode_into(text, &mut ids).unwrap();
            }
        };
        encode_all();
        allocation_counter::measure(encode_all).count_total
    }

    /// Byte-level models make none. BERT models make one for the lower-case copy without accents, and one more for
    /// letters with many marks. Unigram models allocate their lattice.
    #[test]
    fn allocations_of_a_text_do_not_depend_on_its_length() {
        let texts = [
            "the quick brown fox, unbelievable embeddings 42 https://a.org/b?c=d ",
            "The quick brown Fox; déjà vu à Zürich: cafe\u{301} naïve Ångström ",
            "Привет мир, Καλημέρα, السَّلَامُ, नमस्ते, 東京都, 한국어, 👩\u{200d}👩 ",
        ];
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-import/tests/tiny-models");
        let (bert, bytes, unigram) = ([0, 1, 2], [0, 0, 0], [12, 20, 12]);
        for (name, limits) in [
            ("bert-mean", bert),
            ("bert-cls", bert),
            ("distilbert-cls", bert),
            ("mpnet-mean", bytes),
            ("roberta-mean", bytes),
            ("modernbert-mean", bytes),
            ("qwen3-last", bytes),
            ("xlm-roberta-mean", unigram),
            ("albert-mean", unigram),
        ] {
            let tokenizer = Tokenizer::load(&models.join(name).join("tokenizer.json")).unwrap();
            for (text, limit) in texts.iter().zip(limits) {
                for times in [1, 20] {
                    let texts: Vec<String> =
                        (0..100).map(|number| format!("{}{number}", text.repeat(times))).collect();
                    let found = allocations(&tokenizer, &texts);
                    assert!(found <= limit * 100, "{name}: {found} allocations for 100 times {text:?}");
                }
            }
        }
    }

    #[test]
    fn strip_equals_str_strip_of_python() {
        assert_eq!(strip("\u{1c}\u{1f} \t\n\u{85}\u{a0}\u{2028}\u{3000}a b\u{200b} "), "a b\u{200b}");
        assert_eq!(strip("\u{1f}"), "");
    }
}
