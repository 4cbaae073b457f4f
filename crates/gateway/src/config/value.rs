//! Types of settings: how a value is read from a flag, a variable and TOML, and how it is written.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

/// A type that a setting can have.
pub(super) trait Value: Sized {
    /// Placeholder for the value in the help.
    const PLACEHOLDER: &'static str;

    /// True if a flag of this type may be repeated.
    const IS_LIST: bool = false;

    /// True if a flag of this type needs no value.
    const IS_SWITCH: bool = false;

    /// Largest number of a setting that declares none of its own; `None` for types that are not numbers.
    const MAX: Option<u64> = None;

    /// Describes what may be written, for an error message: "expected …".
    fn expected() -> String;

    /// Reads a flag or variable; `None` if the text cannot be understood. Repeated flags are joined by commas.
    fn from_text(text: &str) -> Option<Self>;

    /// Reads a flag or variable that may hold a path.
    fn from_os(text: &OsStr) -> Option<Self> {
        text.to_str().and_then(Self::from_text)
    }

    /// Reads the value of a key; `None` if it has another type or cannot be understood.
    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    /// Writes the value as the settings file would hold it; `None` if it is not set.
    fn to_toml(&self) -> Option<String>;

    /// Returns the numbers that the bounds of the setting hold for.
    fn numbers(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Writes one of [`Self::numbers`] as the settings file would hold it.
    fn format_number(number: u64) -> String {
        number.to_string()
    }
}

/// Largest count: exact in a `f64`, in Redis, and when a few of them are multiplied.
const MAX_COUNT: u64 = 1_000_000_000;

/// Longest time in milliseconds: 365 days, which can be added to any point in time.
const MAX_TIME: u64 = 365 * 24 * 60 * 60 * 1000;

/// Returns the elements of a list in one text, separated by commas or line breaks. Empty elements are skipped.
pub(super) fn elements(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n', '\r']).map(str::trim).filter(|element| !element.is_empty())
}

/// Splits a number from its unit.
pub(super) fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

/// Writes a TOML basic string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Writes names as alternatives: `"a", "b" or "c"`.
pub(super) fn alternatives<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let mut names: Vec<_> = names.into_iter().map(|name| format!("\"{}\"", name.as_ref())).collect();
    let last = names.pop().unwrap_or_default();
    if names.is_empty() { last } else { format!("{} or {last}", names.join(", ")) }
}

/// Writes a duration as it is read, in whole seconds where it has them.
pub(super) fn format_duration(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

impl<T: Value> Value for Option<T> {
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;
    const IS_LIST: bool = T::IS_LIST;
    const IS_SWITCH: bool = T::IS_SWITCH;
    const MAX: Option<u64> = T::MAX;

    fn expected() -> String {
        T::expected()
    }

    fn from_text(text: &str) -> Option<Self> {
        T::from_text(text).map(Some)
    }

    fn from_os(text: &OsStr) -> Option<Self> {
        T::from_os(text).map(Some)
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        T::from_toml(value).map(Some)
    }

    fn to_toml(&self) -> Option<String> {
        self.as_ref().and_then(T::to_toml)
    }

    fn numbers(&self) -> Vec<u64> {
        self.as_ref().map(T::numbers).unwrap_or_default()
    }

    fn format_number(number: u64) -> String {
        T::format_number(number)
    }
}

impl Value for bool {
    const PLACEHOLDER: &'static str = "true|false";
    const IS_SWITCH: bool = true;

    fn expected() -> String {
        "true or false".to_owned()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for usize {
    const PLACEHOLDER: &'static str = "N";
    const MAX: Option<u64> = Some(MAX_COUNT);

    fn expected() -> String {
        "a whole number".to_owned()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        let integer = value.as_integer()?;
        Self::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }

    fn numbers(&self) -> Vec<u64> {
        vec![*self as u64]
    }
}

impl<T: Value> Value for Vec<T> {
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;
    const IS_LIST: bool = true;
    const MAX: Option<u64> = T::MAX;

    fn expected() -> String {
        format!("an array, each element {}", T::expected())
    }

    fn from_text(text: &str) -> Option<Self> {
        elements(text).map(T::from_text).collect()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_array()?.iter().map(|element| T::from_toml(element.get_ref())).collect()
    }

    fn to_toml(&self) -> Option<String> {
        let elements: Vec<_> = self.iter().filter_map(T::to_toml).collect();
        Some(format!("[{}]", elements.join(", ")))
    }

    fn numbers(&self) -> Vec<u64> {
        self.iter().flat_map(T::numbers).collect()
    }

    fn format_number(number: u64) -> String {
        T::format_number(number)
    }
}

impl Value for String {
    const PLACEHOLDER: &'static str = "TEXT";

    fn expected() -> String {
        "a string in quotes".to_owned()
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(self))
    }
}

impl Value for PathBuf {
    const PLACEHOLDER: &'static str = "FILE";

    fn expected() -> String {
        "a path".to_owned()
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::from_os(OsStr::new(text))
    }

    fn from_os(text: &OsStr) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(&self.to_string_lossy()))
    }
}

impl Value for Duration {
    const PLACEHOLDER: &'static str = "DURATION";
    const MAX: Option<u64> = Some(MAX_TIME);

    fn expected() -> String {
        "a duration such as \"90s\", \"500ms\" or \"2m\"".to_owned()
    }

    /// Reads a number and `ms`, `s`, `m` or `h`; without a unit, seconds.
    fn from_text(text: &str) -> Option<Self> {
        let (number, unit) = split_unit(text)?;
        let milliseconds = match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            _ => return None,
        };
        number.checked_mul(milliseconds).map(Self::from_millis)
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(_) => {
                usize::from_toml(value).and_then(|number| Self::from_text(&number.to_string()))
            }
            _ => value.as_str().and_then(Self::from_text),
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(&format_duration(*self)))
    }

    fn numbers(&self) -> Vec<u64> {
        vec![u64::try_from(self.as_millis()).unwrap_or(u64::MAX)]
    }

    fn format_number(number: u64) -> String {
        quote(&format_duration(Self::from_millis(number)))
    }
}

/// Implements [`Value`] for types that are written as a string, in the spelling of `FromStr` and `Display`.
macro_rules! string_values {
    ($($type:ty: $placeholder:literal, $expected:expr;)+) => {$(
        impl $crate::config::value::Value for $type {
            const PLACEHOLDER: &'static str = $placeholder;

            fn expected() -> String {
                $expected.into()
            }

            fn from_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn to_toml(&self) -> Option<String> {
                Some($crate::config::value::quote(&self.to_string()))
            }
        }
    )+};
}

/// Declares enums of which each variant has a name in the settings.
macro_rules! choices {
    ($(
        $(#[doc = $about:literal])+
        pub enum $type:ident, $placeholder:literal {
            $($(#[doc = $variant_doc:literal])+ $variant:ident = $name:literal,)+
        }
    )+) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {
            $($(#[doc = $variant_doc])+ $variant,)+
        }

        impl $crate::config::value::Value for $type {
            const PLACEHOLDER: &'static str = $placeholder;

            fn expected() -> String {
                $crate::config::value::alternatives([$($name),+])
            }

            fn from_text(text: &str) -> Option<Self> {
                match text {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn to_toml(&self) -> Option<String> {
                let name = match self {
                    $(Self::$variant => $name,)+
                };
                Some($crate::config::value::quote(name))
            }
        }
    )+};
}

/// Declares addresses that may hold a password: they are checked only after all sources are merged, so that no message
/// quotes them, and are shown as their `Display` writes them.
macro_rules! secret_urls {
    ($($(#[doc = $about:literal])+ pub struct $type:ident, $expected:literal;)+) => {$(
        $(#[doc = $about])+
        #[derive(Clone, PartialEq, Eq)]
        pub struct $type(String);

        impl From<&str> for $type {
            fn from(url: &str) -> Self {
                Self(url.to_owned())
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl $crate::config::value::Value for $type {
            const PLACEHOLDER: &'static str = "URL";

            fn expected() -> String {
                $expected.to_owned()
            }

            fn from_text(text: &str) -> Option<Self> {
                Some(text.into())
            }

            fn to_toml(&self) -> Option<String> {
                Some($crate::config::value::quote(&self.to_string()))
            }
        }
    )+};
}

pub(super) use {choices, secret_urls, string_values};
