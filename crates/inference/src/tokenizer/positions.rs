//! Positions of tokens in their text, for people who look at a tokenization.
//!
//! The tokenizer library returns ids without positions. So this module runs the library's public stages again (added
//! tokens, normalizers, words, tokens of a word) and records from which characters each output stems. Nothing is
//! guessed: if a stage cannot be followed, or the ids differ from the library's, all positions of the text are unknown.
//! This takes several times as long as encoding, and vectors are computed without it.

use std::{borrow::Cow, ops::Range};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    normalizers::metaspace::MetaspaceNormalizer,
    pipeline::{
        Model, Normalizer, PipelineModel, PipelineNormalizer, PipelinePatternMatcher, PipelineToken,
        PipelineTokenizer, PreTokenizer, PreTokenizerScratch, Span,
    },
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{Tokenizer, strip};

/// Maximum number of characters that share one position because a normalizer changes them together. With more, the
/// positions are unknown.
const MAX_CLUSTER_CHARS: usize = 64;

/// A token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextToken {
    /// Its id in the vocabulary.
    pub id: u32,
    /// True if the model adds it to every text.
    pub is_special: bool,
    /// The characters (Unicode scalar values) of the text that it stands for. Several tokens of one character, such as
    /// its bytes, have the same range; a token that stands for no character has an empty one. `None` for a special
    /// token, and if the position is unknown.
    pub chars: Option<Range<usize>>,
}

/// Returns true if positions leave out the spaces around a token: by the post-processor of the `tokenizer.json`.
///
/// # Errors
/// `json` is not a JSON object.
pub(super) fn trims_spaces(json: &[u8]) -> serde_json::Result<bool> {
    #[derive(Deserialize)]
    struct Components {
        post_processor: Option<Value>,
    }
    fn trims(processor: &Value) -> bool {
        let kind = processor.get("type").and_then(Value::as_str);
        let parts = processor.get("processors").and_then(Value::as_array);
        kind.is_some_and(|kind| ["ByteLevel", "RobertaProcessing"].contains(&kind))
            && processor.get("trim_offsets") != Some(&Value::Bool(false))
            || parts.is_some_and(|parts| parts.iter().any(trims))
    }
    let components: Components = serde_json::from_slice(json)?;
    Ok(components.post_processor.as_ref().is_some_and(trims))
}

impl Tokenizer {
    /// Encodes the whole `text` with the position of each token, and with special tokens if `with_special`.
    ///
    /// # Errors
    /// The tokenizer library's message.
    pub fn encode_with_positions(&self, text: &str, with_special: bool) -> Result<Vec<TextToken>, String> {
        let ids = self.encode(text)?;
        let positions = self.positions(text).filter(|found| found.iter().map(|(id, _)| id).eq(&ids));
        let content: Vec<_> = match positions {
            Some(found) => found,
            None => ids.into_iter().map(|id| (id, None)).collect(),
        };
        let special = |&id: &u32| TextToken { id, is_special: true, chars: None };
        let token = |(id, chars)| TextToken { id, is_special: false, chars };
        let (prefix, suffix) = if with_special { (&*self.prefix, &*self.suffix) } else { Default::default() };
        let content = content.into_iter().map(token);
        Ok(prefix.iter().map(special).chain(content).chain(suffix.iter().map(special)).collect())
    }

    /// A token as the vocabulary has it; empty if there is none with this id.
    pub fn token(&self, id: u32) -> String {
        self.pipeline.decode_tokens(&[id], false).concat()
    }

    /// Runs the stages of the library. `None` if one cannot be followed.
    fn positions(&self, text: &str) -> Option<Vec<(u32, Option<Range<usize>>)>> {
        let stripped = if self.strip_whitespace { strip(text) } else { text };
        let first = text[..stripped_start(text, stripped)].chars().count();
        // The replaced text has as many characters.
        let read = self.unicode.replace(stripped);
        let mut stages = Stages::new(&self.pipeline);
        let whole = AlignedText::new(&read, first);
        for (range, added) in split_added(&self.pipeline, &whole.text, false) {
            match added {
                Some(id) => stages.found.push((id, whole.chars(range))),
                None => {
                    let normalized = whole.slice(range.clone()).normalize_all(&self.pipeline, range.start)?;
                    stages.tokenize(&normalized)?;
                }
            }
        }
        let chars: Vec<char> = if self.trims_spaces { text.chars().collect() } else { Vec::new() };
        let trim = |range: Range<usize>| if self.trims_spaces { trimmed(&chars, range) } else { range };
        Some(stages.found.into_iter().map(|(id, range)| (id, range.map(trim))).collect())
    }
}

/// Byte position of `stripped`, which is a part of `text`.
fn stripped_start(text: &str, stripped: &str) -> usize {
    // An empty part may be anywhere.
    if stripped.is_empty() { 0 } else { text.find(stripped).unwrap_or(0) }
}

/// Splits `text` at added tokens: the bytes of each part, and the id if it is an added token.
fn split_added(
    pipeline: &PipelineTokenizer,
    text: &str,
    is_normalized: bool,
) -> Vec<(Range<usize>, Option<u32>)> {
    let (mut parts, mut start) = (Vec::new(), 0);
    while start < text.len() {
        let added =
            pipeline.get_added_vocabulary().extract_next(text.as_bytes(), start, is_normalized, false);
        let ((from, to), id) =
            added.map_or(((text.len(), text.len()), None), |(range, id)| (range, Some(id)));
        if from > start {
            parts.push((start..from, None));
        }
        if id.is_some() {
            parts.push((from..to, id));
        }
        start = to;
    }
    parts
}

/// `range` without the spaces at its ends; unchanged if it holds nothing else.
fn trimmed(chars: &[char], range: Range<usize>) -> Range<usize> {
    let part = &chars[range.clone()];
    let Some(before) = part.iter().position(|&c| c != ' ') else { return range };
    let after = part.iter().rev().take_while(|&&c| c == ' ').count();
    range.start + before..range.end - after
}

/// A text, with the characters of the original text from which each of its bytes stems.
struct AlignedText<'t> {
    text: Cow<'t, str>,
    /// For each byte, the first character and the one after the last; equal if it was inserted.
    source: Cow<'t, [(u32, u32)]>,
}

impl<'t> AlignedText<'t> {
    /// The text itself, whose first character has the index `first`.
    fn new(text: &'t str, first: usize) -> Self {
        let indexed = text.chars().zip(first as u32..);
        let source = indexed.flat_map(|(c, index)| std::iter::repeat_n((index, index + 1), c.len_utf8()));
        Self { text: Cow::Borrowed(text), source: source.collect() }
    }

    fn slice(&self, bytes: Range<usize>) -> AlignedText<'_> {
        AlignedText { text: self.text[bytes.clone()].into(), source: self.source[bytes].into() }
    }

    /// The characters of the original text from which these bytes stem: an empty range if all were inserted, `None` if
    /// there are no bytes.
    fn chars(&self, bytes: Range<usize>) -> Option<Range<usize>> {
        let sources = &self.source[bytes];
        let read = sources.iter().filter(|(start, end)| start < end);
        let start =
            read.clone().map(|(start, _)| *start).min().or(sources.first().map(|(start, _)| *start))?;
        let end = read.map(|(_, end)| *end).max().unwrap_or(start);
        Some(start as usize..end as usize)
    }

    /// Applies all normalizers. `offset` is the position of this text in the whole one.
    fn normalize_all(self, pipeline: &PipelineTokenizer, offset: usize) -> Option<Self> {
        pipeline
            .get_normalizers()
            .iter()
            .try_fold(self, |text, normalizer| text.normalize(normalizer, offset))
    }

    /// Applies one normalizer; `None` if the sources of its output cannot be found.
    fn normalize(self, normalizer: &PipelineNormalizer, offset: usize) -> Option<Self> {
        let output = normalizer.normalize(&self.text, offset).ok()?.into_owned();
        if output == *self.text {
            return Some(self);
        }
        let mut pieces = Pieces::default();
        match normalizer {
            PipelineNormalizer::Prepend(prepend) => {
                pieces.push(0, prepend.prepend.clone());
                pieces.keep(&self.text);
            }
            PipelineNormalizer::Strip(_) => {
                let start = stripped_start(&self.text, &output);
                pieces.push(start, String::new());
                pieces.keep(&output);
                pieces.push(self.text.len() - start - output.len(), String::new());
            }
            PipelineNormalizer::Metaspace(metaspace) => {
                pieces.follow_metaspace(metaspace, &self.text, &output)?;
            }
            _ => pieces.cut_words(normalizer, &self.text)?,
        }
        let source = pieces.sources(&self)?;
        (pieces.output() == output).then(|| Self { text: output.into(), source: source.into() })
    }
}

/// Consecutive parts of a normalizer's input: the length of each in bytes, and its output.
#[derive(Default)]
struct Pieces(Vec<(usize, String)>);

impl Pieces {
    fn push(&mut self, bytes: usize, output: String) {
        self.0.push((bytes, output));
    }

    /// A part that the normalizer does not change.
    fn keep(&mut self, text: &str) {
        self.push(text.len(), text.to_owned());
    }

    fn output(&self) -> String {
        self.0.iter().map(|(_, output)| output.as_str()).collect()
    }

    /// The sources of the output's bytes: character by character in a part of as many characters, otherwise those of
    /// the whole part.
    fn sources(&self, input: &AlignedText<'_>) -> Option<Vec<(u32, u32)>> {
        let (mut sources, mut start) = (Vec::new(), 0);
        for (bytes, output) in &self.0 {
            let part = input.text.get(start..start + bytes)?;
            if part.chars().count() == output.chars().count() {
                for ((at, _), c) in part.char_indices().zip(output.chars()) {
                    sources.extend(std::iter::repeat_n(input.source[start + at], c.len_utf8()));
                }
            } else {
                if part.chars().nth(MAX_CLUSTER_CHARS).is_some() && !output.is_empty() {
                    return None;
                }
                let inserted_at = match input.source.get(start) {
                    Some((start, _)) => *start,
                    None => input.source.last().map_or(0, |(_, end)| *end),
                };
                let whole = input.chars(start..start + bytes);
                let whole =
                    whole.map_or((inserted_at, inserted_at), |range| (range.start as u32, range.end as u32));
                sources.extend(std::iter::repeat_n(whole, output.len()));
            }
            start += bytes;
        }
        Some(sources)
    }

    /// Follows a normalizer that writes a delimiter in place of spaces and before words.
    fn follow_metaspace(&mut self, metaspace: &MetaspaceNormalizer, input: &str, output: &str) -> Option<()> {
        let (mut input, mut output) = (input.chars().peekable(), output.chars().peekable());
        loop {
            match (input.peek().copied(), output.peek().copied()) {
                (None, None) => return Some(()),
                (Some(read), _) if metaspace.drop_whitespace() && read.is_whitespace() => {
                    self.push(read.len_utf8(), String::new());
                    input.next();
                }
                (Some(read), Some(written))
                    if read == written || read == ' ' && written == metaspace.delimiter() =>
                {
                    self.push(read.len_utf8(), written.into());
                    input.next();
                    output.next();
                }
                (_, Some(written)) if written == metaspace.delimiter() => {
                    self.push(0, written.into());
                    output.next();
                }
                _ => return None,
            }
        }
    }

    /// Cuts the input into the smallest parts whose outputs join to the output of the whole: for nearly all texts,
    /// single characters. White space begins a part, so that a normalizer that joins spaces is followed.
    fn cut_words(&mut self, normalizer: &PipelineNormalizer, input: &str) -> Option<()> {
        let mut rest = input;
        while !rest.is_empty() {
            let spaces = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_whitespace()).len();
            let word = rest[spaces..].find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len() - spaces);
            let (part, tail) = rest.split_at(spaces + word);
            let output = normalizer.normalize(part, 0).ok()?;
            self.cut(normalizer, part, &output)?;
            rest = tail;
        }
        Some(())
    }

    fn cut(&mut self, normalizer: &PipelineNormalizer, part: &str, output: &str) -> Option<()> {
        if part.is_ascii() && output.is_ascii() && part.len() == output.len() {
            self.push(part.len(), output.to_owned());
            return Some(());
        }
        let normalize = |part| normalizer.normalize(part, 0).ok().map(Cow::into_owned);
        let ends = part.char_indices().map(|(start, c)| start..start + c.len_utf8());
        let chars: Vec<_> = ends.map(|range| normalize(&part[range])).collect::<Option<_>>()?;
        if chars.concat() == output {
            self.0.extend(part.chars().map(char::len_utf8).zip(chars));
            return Some(());
        }
        let middle = chars.len() / 2;
        let boundaries = [middle, middle + 1, middle.saturating_sub(1), middle + 2, middle.saturating_sub(2)];
        for boundary in boundaries {
            let Some((at, _)) = part.char_indices().nth(boundary).filter(|(at, _)| *at > 0) else { continue };
            let (left, right) = part.split_at(at);
            let (left_output, right_output) = (normalize(left)?, normalize(right)?);
            if output.strip_prefix(&*left_output) == Some(&right_output) {
                self.cut(normalizer, left, &left_output)?;
                return self.cut(normalizer, right, &right_output);
            }
        }
        self.push(part.len(), output.to_owned());
        Some(())
    }
}

/// The stages of the library after its normalizers, and the tokens found so far.
struct Stages<'p> {
    pipeline: &'p PipelineTokenizer,
    found: Vec<(u32, Option<Range<usize>>)>,
    model: <PipelineModel as Model>::Scratch,
    words: PreTokenizerScratch,
    /// The characters by which byte-level vocabularies write bytes, in the order of the bytes.
    alphabet: [char; 256],
}

impl<'p> Stages<'p> {
    fn new(pipeline: &'p PipelineTokenizer) -> Self {
        let (model, words) = (pipeline.get_model().init_scratch(), PreTokenizerScratch::default());
        Self { pipeline, found: Vec::new(), model, words, alphabet: ByteLevel::alphabet() }
    }

    /// Tokenizes a normalized text.
    fn tokenize(&mut self, text: &AlignedText<'_>) -> Option<()> {
        for (range, added) in split_added(self.pipeline, &text.text, true) {
            if let Some(id) = added {
                self.found.push((id, text.chars(range)));
                continue;
            }
            let (chunk, mut words) = (&text.text[range.clone()], Vec::<Span>::new());
            self.pipeline.get_pre_tokenizer().pre_tokenize(chunk, &mut self.words, &mut words).ok()?;
            for word in words {
                let word = word.range();
                let mut tokens: Vec<PipelineToken> = Vec::new();
                let model = self.pipeline.get_model();
                model.tokenize_pipeline(&chunk[word.clone()], &mut self.model, &mut tokens).ok()?;
                let start = range.start + word.start;
                let lengths = self.lengths(&chunk.as_bytes()[word.clone()], &tokens);
                let whole = start..range.start + word.end;
                let mut at = start;
                for (index, token) in tokens.iter().enumerate() {
                    let bytes = match &lengths {
                        Some(lengths) => at..at + lengths[index],
                        None => whole.clone(),
                    };
                    at = bytes.end;
                    self.found.push((token.id(), text.chars(bytes)));
                }
            }
        }
        Some(())
    }

    /// The number of bytes of `word` that each of its tokens stands for; `None` if it is unknown.
    fn lengths(&self, word: &[u8], tokens: &[PipelineToken]) -> Option<Vec<usize>> {
        if let [_] = tokens {
            return Some(vec![word.len()]);
        }
        let texts: Vec<_> =
            tokens.iter().enumerate().map(|(index, token)| self.bytes(token.id(), index == 0)).collect();
        let (mut lengths, mut at) = (Vec::with_capacity(tokens.len()), 0);
        for (index, text) in texts.iter().enumerate() {
            let rest = &word[at..];
            let length = if starts_with(rest, text) {
                text.len()
            } else {
                // An unknown token stands for all up to the next known one, or else for one character.
                let next =
                    |next: &Vec<u8>| (1..rest.len()).find(|&length| starts_with(&rest[length..], next));
                match texts.get(index + 1) {
                    None => rest.len(),
                    Some(text) => next(text).or_else(|| first_char_len(rest))?,
                }
            };
            lengths.push(length);
            at += length;
        }
        (at == word.len()).then_some(lengths)
    }

    /// The bytes of a normalized text that a token stands for, if it is known.
    fn bytes(&self, id: u32, is_first: bool) -> Vec<u8> {
        let model = self.pipeline.get_model();
        let token = model.id_to_token(id).unwrap_or_default();
        match model {
            PipelineModel::BPE(bpe) if bpe.is_byte_level() => {
                let byte = |c| self.alphabet.iter().position(|&known| known == c).map(|byte| byte as u8);
                token.chars().filter_map(byte).collect()
            }
            PipelineModel::WordPiece(model) if !is_first => {
                let prefix = model.continuing_subword_prefix();
                token.strip_prefix(prefix).unwrap_or(&token).as_bytes().to_vec()
            }
            _ => match token
                .strip_prefix("<0x")
                .and_then(|hex| u8::from_str_radix(hex.strip_suffix('>')?, 16).ok())
            {
                Some(byte) => vec![byte],
                None => token.into_bytes(),
            },
        }
    }
}

fn first_char_len(bytes: &[u8]) -> Option<usize> {
    (1..=bytes.len().min(4)).find(|&length| str::from_utf8(&bytes[..length]).is_ok())
}

fn starts_with(bytes: &[u8], start: &[u8]) -> bool {
    !start.is_empty() && bytes.starts_with(start)
}
