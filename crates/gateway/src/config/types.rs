//! Types of single settings.

use std::fmt;
use std::time::Duration;

use bert_cpu::Isa;
use inference::{Provider, TruncationPolicy};
use toml::de::DeValue;

use super::value::{Value, alternatives, choices, elements, quote, split_unit, string_values};

choices! {
    /// Form of the log.
    pub enum LogFormat, "FORMAT" {
        /// One readable line an event, coloured on a terminal.
        Text = "text",
        /// One JSON object an event.
        Json = "json",
    }

    /// Treatment of requests while the Redis server of the rate limits is unavailable.
    pub enum RedisFailureMode, "MODE" {
        /// Each server applies the limits by itself.
        FailOpen = "fail-open",
        /// Requests are rejected.
        FailClosed = "fail-closed",
    }

    /// Treatment of parameters of other vendors that cannot be honored.
    pub enum UnsupportedParameters, "POLICY" {
        /// The request is rejected.
        Reject = "reject",
        /// The parameters are ignored, and named in a header of the response.
        Ignore = "ignore",
    }

    /// Vocabulary of the token ids in a request.
    pub enum TokenIds, "VOCABULARY" {
        /// OpenAI's vocabulary of its embedding models, which LangChain sends: decoded to text.
        Cl100kBase = "cl100k_base",
        /// OpenAI's later vocabulary: decoded to text.
        O200kBase = "o200k_base",
        /// The served model's own vocabulary.
        Native = "native",
        /// Token ids are rejected.
        Reject = "reject",
    }

    /// Number format that a model is computed in, as the settings ask for it.
    pub enum PrecisionSetting, "PRECISION" {
        /// bf16 if the CPU has fast instructions for it and accuracy proof and golden check pass, otherwise fp32.
        Auto = "auto",
        /// IEEE single precision on every CPU.
        Fp32 = "fp32",
        /// bf16, or an error at start-up.
        Bf16 = "bf16",
        /// int8, or an error at start-up.
        Int8 = "int8",
    }

    /// Time at which a model is loaded.
    pub enum LoadTime, "TIME" {
        /// Before the server is ready.
        Startup = "startup",
        /// At the first request for the model.
        OnDemand = "on-demand",
    }

    /// Treatment of an ONNX graph that quantizes activations with one scale for a whole batch.
    pub enum DynamicQuantization, "POLICY" {
        /// The graph runs one text at a time, so that a text's vector does not depend on its batch.
        PerText = "per-text",
        /// The graph is an error at start-up.
        Reject = "reject",
    }
}

string_values! {
    Provider: "PROVIDER", "\"cpu\", \"openvino\", \"cuda\" or \"cuda:1\"";
    TruncationPolicy: "POLICY", "\"truncate\", \"average\" or \"error\"";
}

/// Highest instruction set that the native kernels may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxIsa {
    /// The best one of the CPU.
    Best,
    /// No better one than this.
    At(Isa),
    /// None: ONNX Runtime computes every model.
    None,
}

impl MaxIsa {
    /// All values, the highest instruction set first.
    fn all() -> impl Iterator<Item = Self> {
        let isas = Isa::ALL.into_iter().rev().map(Self::At);
        [Self::Best].into_iter().chain(isas).chain([Self::None])
    }

    fn name(self) -> &'static str {
        match self {
            Self::Best => "auto",
            Self::At(isa) => isa.name(),
            Self::None => "none",
        }
    }
}

impl Value for MaxIsa {
    const PLACEHOLDER: &'static str = "ISA";

    fn expected() -> String {
        alternatives(Self::all().map(Self::name))
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::all().find(|isa| isa.name() == text)
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(self.name()))
    }
}

/// The model that another name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Id of the model.
    pub model: String,
    /// Name of the prompt for a request that names none; empty for no prompt. Without it, the model's default applies.
    pub prompt: Option<String>,
    /// Value of `dimensions` that means the model's own length: the length of the vectors of the model whose name the
    /// alias is, which clients send unasked.
    pub native_dimensions: Option<usize>,
}

impl From<&str> for Alias {
    fn from(id: &str) -> Self {
        Self { model: id.to_owned(), prompt: None, native_dimensions: None }
    }
}

impl Value for Alias {
    const PLACEHOLDER: &'static str = "ID";

    fn expected() -> String {
        "the id of a model in quotes, or { model = \"ID\", prompt = \"NAME\" }; `native_dimensions = 1536` may stand \
         there, too"
            .to_owned()
    }

    /// Reads `ID` or `ID#PROMPT`.
    fn from_text(text: &str) -> Option<Self> {
        let (model, prompt) = match text.rsplit_once('#') {
            Some((model, prompt)) => (model, Some(prompt.to_owned())),
            None => (text, None),
        };
        (!model.is_empty()).then(|| Self { prompt, ..Self::from(model) })
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        let DeValue::Table(table) = value else { return value.as_str().map(Self::from) };
        let text = |key: &str| table.get(key).map(|value| value.get_ref().as_str().map(str::to_owned));
        let (model, prompt) = (text("model")??, text("prompt"));
        let size = table.get("native_dimensions").map(|value| usize::from_toml(value.get_ref()));
        let known = ["model", "prompt", "native_dimensions"];
        let is_known = table.keys().all(|key| known.contains(&key.get_ref().as_ref()));
        // The prompt is absent, or a string; the dimensions are absent, or a number.
        let is_valid = is_known && prompt != Some(None) && !matches!(size, Some(None | Some(0)));
        is_valid.then(|| Self { model, prompt: prompt.flatten(), native_dimensions: size.flatten() })
    }

    fn to_toml(&self) -> Option<String> {
        let model = quote(&self.model);
        let prompt = self.prompt.as_ref().map(|prompt| format!(", prompt = {}", quote(prompt)));
        let size = self.native_dimensions.map(|size| format!(", native_dimensions = {size}"));
        Some(match (prompt, size) {
            (None, None) => model,
            (prompt, size) => {
                format!("{{ model = {model}{}{} }}", prompt.unwrap_or_default(), size.unwrap_or_default())
            }
        })
    }
}

/// Aliases as a flag or variable gives them, by name.
pub(super) struct Aliases(pub(super) Vec<(String, Alias)>);

impl Value for Aliases {
    const PLACEHOLDER: &'static str = "NAME=ID[#PROMPT]";
    const IS_LIST: bool = true;

    fn expected() -> String {
        "NAME=ID or NAME=ID#PROMPT, such as text-embedding-3-small=all-MiniLM-L6-v2".to_owned()
    }

    /// Reads `NAME=ID` or `NAME=ID#PROMPT`. The last `=` separates, for model names may contain one and ids need not.
    fn from_text(text: &str) -> Option<Self> {
        let alias = |text: &str| {
            let (name, target) = text.rsplit_once('=')?;
            (!name.is_empty()).then_some((name.to_owned(), Alias::from_text(target)?))
        };
        elements(text).map(alias).collect::<Option<_>>().map(Self)
    }

    fn from_toml(_: &DeValue<'_>) -> Option<Self> {
        None
    }

    fn to_toml(&self) -> Option<String> {
        None
    }
}

/// True if no request to a hub may be sent. `HF_HUB_OFFLINE` is usually 1, which is no TOML boolean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offline(pub bool);

impl Value for Offline {
    const PLACEHOLDER: &'static str = bool::PLACEHOLDER;
    const IS_SWITCH: bool = true;

    fn expected() -> String {
        bool::expected()
    }

    /// Reads the words that Hugging Face's libraries take for true, and their opposites.
    fn from_text(text: &str) -> Option<Self> {
        let is_any = |words: [&str; 4]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
        let is_true = is_any(["1", "on", "yes", "true"]);
        (is_true || is_any(["0", "off", "no", "false"])).then_some(Self(is_true))
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        bool::from_toml(value).map(Self)
    }

    fn to_toml(&self) -> Option<String> {
        self.0.to_toml()
    }
}

/// A size in bytes, written with a binary unit such as `32MiB`, or as a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub struct Bytes(pub usize);

impl Bytes {
    /// Units, the largest first.
    const UNITS: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |&&(_, size): &&(&str, usize)| self.0 >= size && self.0.is_multiple_of(size);
        match Self::UNITS.iter().find(fits) {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => f.write_str("0"),
        }
    }
}

impl Value for Bytes {
    const PLACEHOLDER: &'static str = "SIZE";
    /// 1 TiB.
    const MAX: Option<u64> = Some(1 << 40);

    fn expected() -> String {
        "a size such as \"32MiB\" or \"1GiB\", or a number of bytes".to_owned()
    }

    fn from_text(text: &str) -> Option<Self> {
        let (number, unit) = split_unit(text)?;
        let (_, size) = Self::UNITS.iter().find(|(name, _)| *name == unit)?;
        usize::try_from(number).ok()?.checked_mul(*size).map(Self)
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(_) => usize::from_toml(value).map(Self),
            _ => value.as_str().and_then(Self::from_text),
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }

    fn numbers(&self) -> Vec<u64> {
        vec![self.0 as u64]
    }

    fn format_number(number: u64) -> String {
        quote(&Self(usize::try_from(number).unwrap_or(usize::MAX)).to_string())
    }
}

/// Path under which all routes are served: empty, or segments that each begin with a slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// The path `text`, with or without a slash at its end; `None` if it has other characters than letters, digits and
    /// `-._~`.
    pub fn new(text: &str) -> Option<Self> {
        let path = text.strip_suffix('/').unwrap_or(text);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        // A client removes the segments `.` and `..` of an address before it sends the request.
        let is_segment = |text: &str| !["", ".", ".."].contains(&text) && text.bytes().all(is_plain);
        let is_valid = path.is_empty()
            || path.strip_prefix('/').is_some_and(|segments| segments.split('/').all(is_segment));
        is_valid.then(|| Self(path.to_owned()))
    }

    /// Returns the path, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for PathPrefix {
    const PLACEHOLDER: &'static str = "PATH";

    fn expected() -> String {
        "a path such as \"/embeddings\", of letters, digits and `-._~`, or \"\" for none".to_owned()
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::new(text)
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(&self.0))
    }
}

/// Time for which an idle model stays loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// This long after its last request.
    For(Duration),
    /// Without limit.
    Forever,
}

impl Value for KeepAlive {
    const PLACEHOLDER: &'static str = "DURATION";
    const MAX: Option<u64> = <Duration as Value>::MAX;

    fn expected() -> String {
        format!("{}, or \"forever\"", Duration::expected())
    }

    /// Reads a duration or `forever`. Ollama writes a negative number for the same.
    fn from_text(text: &str) -> Option<Self> {
        let is_negative = || text.parse::<i64>().is_ok_and(|seconds| seconds < 0);
        if text == "forever" || is_negative() {
            return Some(Self::Forever);
        }
        Duration::from_text(text).map(Self::For)
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(integer) => Self::from_text(integer.as_str()),
            _ => value.as_str().and_then(Self::from_text),
        }
    }

    fn to_toml(&self) -> Option<String> {
        match self {
            Self::For(duration) => duration.to_toml(),
            Self::Forever => Some(quote("forever")),
        }
    }

    fn numbers(&self) -> Vec<u64> {
        match self {
            Self::For(duration) => duration.numbers(),
            Self::Forever => Vec::new(),
        }
    }

    fn format_number(number: u64) -> String {
        Duration::format_number(number)
    }
}

/// A fraction from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

impl Ratio {
    /// The whole.
    pub const ALL: Self = Self(1.0);

    /// The smallest cosine that vectors in int8 may have to those in fp32.
    pub const INT8_MIN_COSINE: Self = Self(0.99);

    /// The largest difference that scores in int8 may have to those in fp32, as a part of their range.
    pub const INT8_MAX_SCORE_DIFFERENCE: Self = Self(0.05);

    /// The ratio of a number from 0 to 1; `None` for any other.
    pub fn new(number: f64) -> Option<Self> {
        (0.0..=1.0).contains(&number).then_some(Self(number))
    }

    /// Returns the number, from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Value for Ratio {
    const PLACEHOLDER: &'static str = "0..1";

    fn expected() -> String {
        "a number from 0 to 1".to_owned()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.trim().parse().ok().and_then(Self::new)
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(integer) => Self::from_text(integer.as_str()),
            DeValue::Float(float) => Self::from_text(float.as_str()),
            _ => None,
        }
    }

    fn to_toml(&self) -> Option<String> {
        // `{:?}` keeps the point, without which TOML would read an integer.
        Some(format!("{:?}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_isa_and_sizes_survive_a_round_trip() {
        for text in ["auto", "neon", "neon-dotprod", "avx2", "avx512", "amx", "none"] {
            assert_eq!(MaxIsa::from_text(text).map(MaxIsa::name), Some(text));
        }
        for (text, size) in
            [("0", 0), ("1000", 1000), ("3KiB", 3072), ("1536MiB", 1536 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!((Bytes::from_text(text), Bytes(size).to_string().as_str()), (Some(Bytes(size)), text));
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1MB", "99999999999999999999", "99999999999GiB"] {
            assert_eq!(Bytes::from_text(text), None, "{text}");
        }
        assert_eq!(MaxIsa::from_text("mmx"), None);
        assert!(MaxIsa::expected().ends_with("or \"none\""));
    }

    #[test]
    fn offline_takes_the_words_of_hugging_faces_libraries() {
        for (text, is_offline) in [("1", true), ("ON", true), ("Yes", true), ("true", true), ("0", false)] {
            assert_eq!(Offline::from_text(text), Some(Offline(is_offline)), "{text}");
        }
        assert_eq!(Offline::from_text("2"), None);
    }

    #[test]
    fn keep_alive_is_a_duration_or_forever() {
        for (text, read) in [
            ("forever", KeepAlive::Forever),
            ("-1", KeepAlive::Forever),
            ("0", KeepAlive::For(Duration::ZERO)),
            ("300", KeepAlive::For(Duration::from_secs(300))),
            ("5m", KeepAlive::For(Duration::from_secs(300))),
        ] {
            assert_eq!(KeepAlive::from_text(text), Some(read), "{text}");
            assert_eq!(KeepAlive::from_text(read.to_toml().unwrap().trim_matches('"')), Some(read), "{text}");
        }
        for text in ["", "never", "-1s", "5 days"] {
            assert_eq!(KeepAlive::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn a_path_prefix_has_plain_segments() {
        for (text, path) in [("", ""), ("/", ""), ("/ai", "/ai"), ("/ai/v2.x/", "/ai/v2.x")] {
            assert_eq!(PathPrefix::from_text(text).unwrap().as_str(), path, "{text}");
        }
        for text in ["ai", "//", "/a//b", "/a b", "/{id}", "/a?b", "/..", "/%2F"] {
            assert_eq!(PathPrefix::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn a_ratio_is_from_0_to_1() {
        for (text, shown) in [("0", "0.0"), ("1", "1.0"), (" 0.25 ", "0.25"), ("1e-3", "0.001")] {
            assert_eq!(Ratio::from_text(text).unwrap().to_toml().unwrap(), shown);
        }
        for text in ["", "-0.1", "1.01", "nan", "inf", "half"] {
            assert_eq!(Ratio::from_text(text), None, "{text}");
        }
    }
}
