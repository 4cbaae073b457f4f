//! The tokenizer of a folder with a WordPiece vocabulary (`vocab.txt`) and without `tokenizer.json`: the same that
//! transformers makes from these files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    ImportError,
    file::{self, MAX_TOKENIZER_BYTES},
    json,
};

/// The vocabulary: one token a line, whose number is its id.
pub(crate) const VOCABULARY: &str = "vocab.txt";

/// The way to a `tokenizer.json`.
pub(crate) const SAVE_AGAIN: &str = "save the tokenizer again with transformers: \
    `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`";

/// A tokenizer made from a vocabulary.
pub(crate) struct WordPiece {
    /// The content of a `tokenizer.json`.
    pub(crate) json: Vec<u8>,
    /// The files that it was made from, except the configurations of the model and of the tokenizer.
    pub(crate) files: Vec<PathBuf>,
}

/// A token that a text may hold and that is not split.
#[derive(Clone, Deserialize, Serialize)]
struct AddedToken {
    #[serde(skip_deserializing)]
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl AddedToken {
    fn new(content: &str, special: bool) -> Self {
        let content = content.to_owned();
        Self {
            id: 0,
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: !special,
            special,
        }
    }
}

/// A special token, by its text or with its properties.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Full(AddedToken),
}

impl Token {
    fn content(&self) -> &str {
        match self {
            Self::Text(content) => content,
            Self::Full(token) => &token.content,
        }
    }

    fn to_added(&self) -> AddedToken {
        match self {
            Self::Text(content) => AddedToken::new(content, true),
            Self::Full(token) => AddedToken { special: true, ..token.clone() },
        }
    }
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Tokens {
    List(Vec<Token>),
    Named(BTreeMap<String, Token>),
}

/// The special tokens, in `tokenizer_config.json` or `special_tokens_map.json`.
#[derive(Deserialize, Default)]
struct SpecialTokens {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    unk_token: Option<Token>,
    sep_token: Option<Token>,
    pad_token: Option<Token>,
    cls_token: Option<Token>,
    mask_token: Option<Token>,
    additional_special_tokens: Option<Tokens>,
    /// The name of the same since transformers 5; before, names that a tokenizer's attributes have.
    extra_special_tokens: Option<Tokens>,
}

impl SpecialTokens {
    /// The defaults of BERT's tokenizer and of those that equal it.
    fn bert() -> Self {
        let token = |content: &str| Some(Token::Text(content.to_owned()));
        Self {
            unk_token: token("[UNK]"),
            sep_token: token("[SEP]"),
            pad_token: token("[PAD]"),
            cls_token: token("[CLS]"),
            mask_token: token("[MASK]"),
            ..Self::default()
        }
    }

    /// The defaults of MPNet's tokenizer. A mask includes the space before it.
    fn mpnet() -> Self {
        let token = |content: &str| Some(Token::Text(content.to_owned()));
        Self {
            bos_token: token("<s>"),
            eos_token: token("</s>"),
            unk_token: token("[UNK]"),
            sep_token: token("</s>"),
            pad_token: token("<pad>"),
            cls_token: token("<s>"),
            mask_token: Some(Token::Full(AddedToken { lstrip: true, ..AddedToken::new("<mask>", true) })),
            ..Self::default()
        }
    }

    /// Replaces the tokens that `other` states.
    fn update(&mut self, other: Self) {
        let replace =
            |token: &mut Option<Token>, other: Option<Token>| *token = other.or_else(|| token.take());
        replace(&mut self.bos_token, other.bos_token);
        replace(&mut self.eos_token, other.eos_token);
        replace(&mut self.unk_token, other.unk_token);
        replace(&mut self.sep_token, other.sep_token);
        replace(&mut self.pad_token, other.pad_token);
        replace(&mut self.cls_token, other.cls_token);
        replace(&mut self.mask_token, other.mask_token);
        let replace =
            |tokens: &mut Option<Tokens>, other: Option<Tokens>| *tokens = other.or_else(|| tokens.take());
        replace(&mut self.additional_special_tokens, other.additional_special_tokens);
        replace(&mut self.extra_special_tokens, other.extra_special_tokens);
    }

    /// All of them, in the order in which transformers adds them to a vocabulary.
    fn all(&self) -> Vec<AddedToken> {
        let single = [
            &self.bos_token,
            &self.eos_token,
            &self.unk_token,
            &self.sep_token,
            &self.pad_token,
            &self.cls_token,
        ]
        .into_iter()
        .chain([&self.mask_token])
        .flatten();
        let several = [&self.additional_special_tokens, &self.extra_special_tokens].into_iter().flatten();
        let several = several.flat_map(|tokens| match tokens {
            Tokens::List(tokens) => tokens.iter().collect::<Vec<_>>(),
            Tokens::Named(tokens) => tokens.values().collect(),
        });
        single.chain(several).map(Token::to_added).collect()
    }
}

/// `tokenizer_config.json`. Old folders lack it.
#[derive(Deserialize, Default)]
struct Options {
    tokenizer_class: Option<String>,
    do_lower_case: Option<bool>,
    do_basic_tokenize: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    word_tokenizer_type: Option<String>,
    subword_tokenizer_type: Option<String>,
    added_tokens_decoder: Option<BTreeMap<u32, AddedToken>>,
    #[serde(flatten)]
    special: SpecialTokens,
}

/// The part of `config.json` that old folders have instead of that in `tokenizer_config.json`.
#[derive(Deserialize)]
struct ClassConfig {
    tokenizer_class: Option<String>,
}

impl Options {
    /// Checks that the tokenizer splits words as BERT's does.
    fn check(&self, path: &Path) -> Result<(), ImportError> {
        let words = self.word_tokenizer_type.as_deref().filter(|&kind| kind != "basic");
        let pieces = self.subword_tokenizer_type.as_deref().filter(|&kind| kind != "wordpiece");
        for (key, found) in [
            ("do_basic_tokenize", (self.do_basic_tokenize == Some(false)).then_some("false")),
            ("word_tokenizer_type", words),
            ("subword_tokenizer_type", pieces),
        ] {
            if let Some(found) = found {
                let setting = format!("{key} = {found} without `tokenizer.json`");
                return Err(ImportError::unsupported_setting(path, setting, SAVE_AGAIN));
            }
        }
        Ok(())
    }
}

impl WordPiece {
    /// Makes the tokenizer of a model in `folder`, which holds `vocab.txt`.
    pub(crate) fn read(folder: &Path, model_type: &str) -> Result<Self, ImportError> {
        let path = folder.join("tokenizer_config.json");
        let options: Options = json::read_optional(&path)?.unwrap_or_default();
        options.check(&path)?;
        let config: ClassConfig = json::read(&folder.join("config.json"), "")?;
        let class = options.tokenizer_class.or(config.tokenizer_class);
        let mut special = defaults(class.as_deref(), model_type).map_err(|found| {
            let known = "BERT, DistilBERT, ELECTRA and MPNet";
            let expected = format!("only the tokenizers of {known} are made from {VOCABULARY}; {SAVE_AGAIN}");
            ImportError::unsupported_setting(&path, found, expected)
        })?;
        // MPNet, the only one with a default token for the beginning, has no token types and separates pairs as
        // RoBERTa does.
        let has_types = special.bos_token.is_none();
        special.update(options.special);

        let vocabulary_path = folder.join(VOCABULARY);
        let vocabulary = read_vocabulary(&vocabulary_path)?;
        let mut files = vec![vocabulary_path.clone()];
        // Each with the id that the folder states, and the file that states it. A folder of an early release has two
        // files instead of the key.
        let mut added: Vec<(Option<u32>, AddedToken)> = Vec::new();
        let mut ids_path = path;
        if let Some(tokens) = options.added_tokens_decoder {
            added.extend(tokens.into_iter().map(|(id, token)| (Some(id), token)));
        } else {
            let special_path = folder.join("special_tokens_map.json");
            if let Some(stated) = json::read_optional(&special_path)? {
                special.update(stated);
                files.push(special_path);
            }
            let added_path = folder.join("added_tokens.json");
            if let Some(ids) = json::read_optional::<BTreeMap<String, u32>>(&added_path)? {
                let special: BTreeSet<String> =
                    special.all().into_iter().map(|token| token.content).collect();
                let token = |content: &String| AddedToken::new(content, special.contains(content));
                added.extend(ids.iter().map(|(content, &id)| (Some(id), token(content))));
                added.sort_by_key(|&(id, _)| id);
                files.push(added_path.clone());
                ids_path = added_path;
            }
        }
        // A token may be special in several ways.
        let mut known: BTreeSet<String> = added.iter().map(|(_, token)| token.content.clone()).collect();
        let others = special.all().into_iter().filter(|token| known.insert(token.content.clone()));
        added.extend(others.map(|token| (None, token)));

        let required = |token: &Option<Token>, key: &str| {
            let content = token.as_ref().map(Token::content).unwrap_or_default();
            let found = vocabulary.get_key_value(content).map(|(token, &id)| (token.as_str(), id));
            found.ok_or_else(|| {
                let found = format!("a vocabulary without the {key} `{content}`");
                let expected =
                    "one that holds it: the file belongs to another model, or is not a WordPiece vocabulary";
                ImportError::unsupported_setting(&vocabulary_path, found, expected)
            })
        };
        let (unknown, _) = required(&special.unk_token, "unk_token")?;
        let (start, start_id) = required(&special.cls_token, "cls_token")?;
        let (end, end_id) = required(&special.sep_token, "sep_token")?;
        let piece = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
        let first = [piece(start), json!({"Sequence": {"id": "A", "type_id": 0}}), piece(end)];
        let second = json!({"Sequence": {"id": "B", "type_id": u8::from(has_types)}});
        let last = json!({"SpecialToken": {"id": end, "type_id": u8::from(has_types)}});
        let between = (!has_types).then(|| piece(end));
        let pair: Vec<Value> = first.into_iter().chain(between).chain([second, last]).collect();
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": number(added, &vocabulary, &ids_path)?,
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": true,
                "handle_chinese_chars": options.tokenize_chinese_chars.unwrap_or(true),
                "strip_accents": options.strip_accents,
                "lowercase": options.do_lower_case.unwrap_or(true),
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [piece(start), {"Sequence": {"id": "A", "type_id": 0}}, piece(end)],
                "pair": pair,
                "special_tokens": {
                    start: {"id": start, "ids": [start_id], "tokens": [start]},
                    end: {"id": end, "ids": [end_id], "tokens": [end]},
                },
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {
                "type": "WordPiece",
                "unk_token": unknown,
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": vocabulary,
            },
        });
        Ok(Self { json: tokenizer.to_string().into_bytes(), files })
    }
}

/// Assigns ids to added tokens as the tokenizer library does: that of the vocabulary, else the next one after it. An id
/// that the file at `path` states must be the same. Returns the tokens by id.
fn number(
    added: Vec<(Option<u32>, AddedToken)>,
    vocabulary: &BTreeMap<String, u32>,
    path: &Path,
) -> Result<Vec<AddedToken>, ImportError> {
    let mut next = vocabulary.len() as u32;
    let mut tokens = Vec::with_capacity(added.len());
    for (stated, mut token) in added {
        token.id = vocabulary.get(&token.content).copied().unwrap_or_else(|| {
            next += 1;
            next - 1
        });
        if let Some(stated) = stated.filter(|&stated| stated != token.id) {
            let setting = format!("the id {stated} of the added token `{}`", token.content);
            let expected = format!("{VOCABULARY} gives it {}; {SAVE_AGAIN}", token.id);
            return Err(ImportError::unsupported_setting(path, setting, expected));
        }
        tokens.push(token);
    }
    tokens.sort_by_key(|token| token.id);
    Ok(tokens)
}

/// Returns the default special tokens of a tokenizer's class or, if it is a general one, of the model's family. The
/// error is the description of an unsupported one.
fn defaults(class: Option<&str>, model_type: &str) -> Result<SpecialTokens, String> {
    // The classes with and without the suffix read the same files.
    match class.map(|class| class.strip_suffix("Fast").unwrap_or(class)) {
        Some("BertTokenizer" | "DistilBertTokenizer" | "ElectraTokenizer") => Ok(SpecialTokens::bert()),
        Some("MPNetTokenizer") => Ok(SpecialTokens::mpnet()),
        None | Some("PreTrainedTokenizer" | "TokenizersBackend") => match model_type {
            "bert" | "distilbert" | "electra" | "nomic_bert" => Ok(SpecialTokens::bert()),
            "mpnet" => Ok(SpecialTokens::mpnet()),
            other => Err(format!("model_type `{other}` with {VOCABULARY} and without `tokenizer.json`")),
        },
        Some(other) => Err(format!("tokenizer_class `{other}` without `tokenizer.json`")),
    }
}

/// Reads the ids of all tokens. Of equal lines, the last counts. Python, which wrote the ids, ends a line at `\n`, `\r`
/// or `\r\n`.
fn read_vocabulary(path: &Path) -> Result<BTreeMap<String, u32>, ImportError> {
    let bytes = file::read(path, "it holds the tokenizer's vocabulary", MAX_TOKENIZER_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        ImportError::unsupported_setting(
            path,
            format!("a byte at {at} that is not UTF-8"),
            "a list of tokens",
        )
    })?;
    let text = text.replace("\r\n", "\n");
    let text = text.strip_suffix(['\n', '\r']).unwrap_or(&text);
    Ok(text.split(['\n', '\r']).zip(0..).map(|(token, id)| (token.to_owned(), id)).collect())
}
