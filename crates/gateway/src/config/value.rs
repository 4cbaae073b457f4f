//! The types of settings: how each is written in the file, on the command line and in a report.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bert_cpu::Isa;
use clap::ValueEnum;
use inference::{Provider, TruncationPolicy};
use toml::de::DeValue;

use super::bounds::{MAX_BYTES, MAX_TIME, max_count};

/// A type that a key of the file can have.
pub(super) trait Value: Sized + Clone {
    /// What to write, for an error message: "expected …".
    const EXPECTED: &'static str;

    /// Reads the value of a key; `None` when it has another type or cannot be understood.
    fn from_toml(value: &DeValue<'_>) -> Option<Self>;

    /// The value as the file would hold it.
    fn to_toml(&self) -> String;

    /// The largest value of the key whose flag has clap's id `arg`; `None` for types that are not numbers.
    fn upper_bound(_arg: &str) -> Option<Self> {
        None
    }

    /// Returns true if the value, or an element of it, is above `max`.
    fn exceeds(&self, _max: &Self) -> bool {
        false
    }
}

/// The methods of a value that is a number with an upper bound.
macro_rules! bounded {
    ($bound:expr) => {
        fn upper_bound(arg: &str) -> Option<Self> {
            Some($bound(arg))
        }

        fn exceeds(&self, max: &Self) -> bool {
            self > max
        }
    };
}

/// A part of a list, as one flag or a variable gives it: elements separated by commas or line breaks, with optional
/// blanks around them. Empty elements are skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T: FromStr> FromStr for List<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        elements(text).map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl<T> List<T> {
    /// The elements of all parts, in their order.
    pub(super) fn joined(parts: impl IntoIterator<Item = Self>) -> Vec<T> {
        parts.into_iter().flat_map(|Self(elements)| elements).collect()
    }
}

/// The elements of a list that is written in one text.
pub(super) fn elements(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n', '\r']).map(str::trim).filter(|element| !element.is_empty())
}

/// Lines for people or objects for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line an event, coloured on a terminal.
    Text,
    /// One JSON object an event.
    Json,
}

/// What becomes of requests while the server of the shared limits is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RedisFailureMode {
    /// They are answered, within this server's own limits.
    FailOpen,
    /// They are refused.
    FailClosed,
}

/// Answer to a request with parameters of other vendors that cannot be honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnsupportedParameters {
    /// 400.
    Reject,
    /// Vectors that do not honour them, and a header that names them.
    Ignore,
}

/// What the token ids of a request mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenIds {
    /// OpenAI's vocabulary of its embedding models, which LangChain sends: decoded to text.
    #[value(name = "cl100k_base")]
    Cl100kBase,
    /// OpenAI's later vocabulary: decoded to text.
    #[value(name = "o200k_base")]
    O200kBase,
    /// The served model's own vocabulary.
    Native,
    /// They are refused.
    Reject,
}

/// What a model is computed in, as the settings ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionWish {
    /// bf16 where the processor is fast at it and the model's golden vectors hold, else fp32.
    Auto,
    /// IEEE single precision, whatever the processor.
    Fp32,
    /// bf16, or an error.
    Bf16,
}

/// Treatment of an ONNX graph that quantises activations with one scale for a whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DynamicQuantization {
    /// It runs one text at a time, so that a text's vector does not depend on its batch.
    PerText,
    /// It is refused at start-up.
    Reject,
}

/// Up to which instructions embedgate's own kernels may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsaCap {
    /// The best that the processor has.
    Best,
    /// No better than this.
    At(Isa),
    /// None at all: ONNX Runtime computes every model.
    None,
}

impl fmt::Display for IsaCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("auto"),
            Self::At(isa) => isa.fmt(f),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for IsaCap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Best),
            "none" => Ok(Self::None),
            isa => isa.parse().map(Self::At).map_err(|_| {
                let known: Vec<_> = Isa::ALL.iter().rev().map(|isa| format!("`{isa}`")).collect();
                format!("unknown instruction set `{isa}`: expected `auto`, {} or `none`", known.join(", "))
            }),
        }
    }
}

/// A size in bytes, written with a binary unit such as `32MiB`, or as a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub struct Bytes(pub usize);

impl Bytes {
    /// The units, the largest first.
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

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let size = Self::UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, size)| size);
        let (Ok(number), Some(size)) = (number.parse::<usize>(), size) else {
            return Err(format!("expected {}", Self::EXPECTED));
        };
        number.checked_mul(*size).map(Self).ok_or_else(|| "too large".to_owned())
    }
}

impl Value for Bytes {
    const EXPECTED: &'static str = "a size such as \"32MiB\" or \"1GiB\", or a number of bytes";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(_) => usize::from_toml(value).map(Self),
            _ => value.as_str().and_then(|text| text.parse().ok()),
        }
    }

    fn to_toml(&self) -> String {
        quote(&self.to_string())
    }

    bounded!(|_| MAX_BYTES);
}

/// Where a Redis or Valkey server is. It may hold a password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The address with its password.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }

    /// Whether it can be used.
    pub(super) fn is_valid(&self) -> bool {
        redis::Client::open(&*self.0).is_ok()
    }

    /// Whether it asks for TLS.
    pub(super) fn is_encrypted(&self) -> bool {
        ["rediss://", "valkeys://"].iter().any(|scheme| self.0.starts_with(scheme))
    }
}

impl From<&str> for RedisUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl FromStr for RedisUrl {
    /// What is wrong with an address is said elsewhere: an error from here would be shown with the value.
    type Err = std::convert::Infallible;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Ok(url.into())
    }
}

impl fmt::Display for RedisUrl {
    /// Scheme and place alone: a name and a password may stand before `@` or in the query. Of what is no address,
    /// nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://").filter(|_| self.is_valid()) else {
            return f.write_str("…");
        };
        let (place, query) = rest.split_once('?').map_or((rest, ""), |(place, _)| (place, "?…"));
        match place.rsplit_once('@') {
            Some((_, place)) => write!(f, "{scheme}://…@{place}{query}"),
            None => write!(f, "{scheme}://{place}{query}"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a duration: a number and `ms`, `s`, `m` or `h`; without a unit, seconds.
///
/// # Errors
/// What to write instead, when the text is none.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err(format!("expected {}", Duration::EXPECTED)),
    };
    let number: u64 = number.parse().map_err(|_| format!("expected {}", Duration::EXPECTED))?;
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

/// Writes a duration as [`parse_duration`] reads it, in whole seconds where it has them.
pub(super) fn format_duration(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

/// Writes a TOML basic string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

impl Value for Duration {
    const EXPECTED: &'static str = "a duration such as \"90s\", \"500ms\" or \"2m\"";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(_) => {
                usize::from_toml(value).and_then(|seconds| parse_duration(&seconds.to_string()).ok())
            }
            _ => value.as_str().and_then(|text| parse_duration(text).ok()),
        }
    }

    fn to_toml(&self) -> String {
        quote(&format_duration(*self))
    }

    bounded!(|_| MAX_TIME);
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Value for usize {
    const EXPECTED: &'static str = "a whole number";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        let integer = value.as_integer()?;
        Self::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }

    bounded!(max_count);
}

impl Value for NonZeroUsize {
    const EXPECTED: &'static str = "a whole number, at least 1";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        usize::from_toml(value).and_then(Self::new)
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }

    bounded!(|arg| Self::new(max_count(arg)).unwrap_or(Self::MIN));
}

/// Arrays of one type.
macro_rules! array_values {
    ($($element:ty: $expected:literal),* $(,)?) => {$(
        impl Value for Vec<$element> {
            const EXPECTED: &'static str = $expected;

            fn from_toml(value: &DeValue<'_>) -> Option<Self> {
                value.as_array()?.iter().map(|element| <$element>::from_toml(element.get_ref())).collect()
            }

            fn to_toml(&self) -> String {
                let elements: Vec<String> = self.iter().map(Value::to_toml).collect();
                format!("[{}]", elements.join(", "))
            }

            fn upper_bound(arg: &str) -> Option<Self> {
                <$element>::upper_bound(arg).map(|max| vec![max])
            }

            fn exceeds(&self, max: &Self) -> bool {
                self.iter().any(|element| max.iter().any(|max| element.exceeds(max)))
            }
        }
    )*};
}

array_values! {
    NonZeroUsize: "an array of whole numbers, each at least 1",
    String: "an array of strings",
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path in quotes";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().filter(|path| !path.is_empty()).map(Self::from)
    }

    fn to_toml(&self) -> String {
        quote(&self.to_string_lossy())
    }
}

/// Types that are written as a string in TOML, in the spelling of `FromStr` and `Display`.
macro_rules! string_values {
    ($($type:ty: $expected:literal),* $(,)?) => {$(
        impl Value for $type {
            const EXPECTED: &'static str = $expected;

            fn from_toml(value: &DeValue<'_>) -> Option<Self> {
                value.as_str().and_then(|text| text.parse().ok())
            }

            fn to_toml(&self) -> String {
                quote(&self.to_string())
            }
        }
    )*};
}

string_values! {
    String: "a string in quotes",
    Provider: "\"cpu\", \"openvino\", \"cuda\" or \"cuda:1\"",
    TruncationPolicy: "\"truncate\", \"average\" or \"error\"",
    TokenIds: "\"cl100k_base\", \"o200k_base\", \"native\" or \"reject\"",
    LogFormat: "\"text\" or \"json\"",
    RedisFailureMode: "\"fail-open\" or \"fail-closed\"",
    UnsupportedParameters: "\"reject\" or \"ignore\"",
    RedisUrl: "an address such as \"redis://host:6379/0\"",
    PrecisionWish: "\"auto\", \"fp32\" or \"bf16\"",
    DynamicQuantization: "\"per-text\" or \"reject\"",
    IsaCap: "\"auto\", \"amx\", \"avx512\", \"avx2\", \"neon\" or \"none\"",
}

/// `FromStr` and `Display` in the spelling of `clap::ValueEnum`, so that flag and file agree.
macro_rules! spelt_as_flag {
    ($($type:ty),*) => {$(
        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                <Self as ValueEnum>::from_str(text, false)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.to_possible_value() {
                    Some(value) => f.write_str(value.get_name()),
                    None => Ok(()),
                }
            }
        }
    )*};
}

spelt_as_flag!(
    DynamicQuantization,
    LogFormat,
    PrecisionWish,
    TokenIds,
    UnsupportedParameters,
    RedisFailureMode
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_and_sizes_survive_a_round_trip() {
        for text in ["auto", "neon", "avx2", "avx512", "amx", "none"] {
            assert_eq!(text.parse::<IsaCap>().unwrap().to_string(), text);
        }
        for (text, size) in
            [("0", 0), ("1000", 1000), ("3KiB", 3072), ("1536MiB", 1536 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!((text.parse(), Bytes(size).to_string().as_str()), (Ok(Bytes(size)), text));
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1MB", "99999999999999999999", "99999999999GiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert!("mmx".parse::<IsaCap>().unwrap_err().contains("`none`"));
    }
}
