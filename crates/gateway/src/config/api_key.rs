//! API keys: kept as SHA-256 only, so that no log, dump or report can show one.

use std::fmt;

use sha2::{Digest, Sha256};
use thiserror::Error;
use toml::de::DeValue;

use super::value::Value;

/// One key that is accepted: its name, which may be shown, and the hash of its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Name in logs and reports.
    pub name: String,
    /// SHA-256 of the secret.
    pub sha256: [u8; 32],
}

/// An API key that cannot be used. Never quotes a secret.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ApiKeyError {
    /// Nothing before or after `=`, nothing between two commas, or an empty variable. Rejected, because a
    /// secret that was not filled in must not leave the server open.
    #[error(
        "API key {position} is empty: write `name=key`, or a bare `key` without `=`; \
         to serve clients without a key, leave the setting out"
    )]
    Empty {
        /// Its position, counted from 1.
        position: usize,
    },
    /// A character that no key has, but that a list of keys or a comment in the wrong form has.
    #[error(
        "API key {position} holds {found}: write each key as an element of its own, without quotes, and a comment on a \
         line of its own"
    )]
    Character {
        /// Its position, counted from 1.
        position: usize,
        /// The character, described.
        found: &'static str,
    },
    /// Two keys of one name.
    #[error("two API keys are named `{name}`: their names must differ")]
    DuplicateName {
        /// The name.
        name: String,
    },
}

impl ApiKey {
    /// Hashes `secret` under `name`.
    pub fn new(name: impl Into<String>, secret: &str) -> Self {
        Self { name: name.into(), sha256: Sha256::digest(secret.as_bytes()).into() }
    }

    /// Reads keys written as `name=key`, or as a bare `key`, which is then called `key-1`, `key-2`, … by its
    /// position. A key that contains `=` needs a name.
    ///
    /// # Errors
    /// An empty name or secret, or a name that occurs twice.
    pub fn read_all<S: AsRef<str>>(entries: &[S]) -> Result<Vec<Self>, ApiKeyError> {
        Self::read_named(entries.iter().map(S::as_ref), "key")
    }

    /// Reads the keys of a file, each on a line of its own as [`Self::read_all`] has them; a bare one is called
    /// `file-key-1` and so on. Empty lines and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// As [`Self::read_all`].
    pub fn read_lines(text: &str) -> Result<Vec<Self>, ApiKeyError> {
        Self::read_named(lines(text), "file-key")
    }

    fn read_named<'a>(entries: impl Iterator<Item = &'a str>, bare: &str) -> Result<Vec<Self>, ApiKeyError> {
        let mut keys: Vec<Self> = Vec::new();
        for (position, entry) in (1..).zip(entries) {
            let bare = format!("{bare}-{position}");
            let (name, secret) = entry.split_once('=').unwrap_or((&bare, entry));
            let (name, secret) = (name.trim(), secret.trim());
            // Nothing but `=` is the padding of a bare key in base64, which must not become a name.
            if name.is_empty() || secret.trim_matches('=').is_empty() {
                return Err(ApiKeyError::Empty { position });
            }
            let control = name.contains(char::is_control).then_some(CONTROL);
            if let Some(found) = control.or_else(|| foreign(secret)) {
                return Err(ApiKeyError::Character { position, found });
            }
            if keys.iter().any(|known| known.name == name) {
                return Err(ApiKeyError::DuplicateName { name: name.to_owned() });
            }
            keys.push(Self::new(name, secret));
        }
        Ok(keys)
    }
}

const CONTROL: &str = "a line break or another control character";

/// Describes the character that shows that a list, a quotation or a comment was taken for a key.
fn foreign(secret: &str) -> Option<&'static str> {
    secret.chars().find_map(|character| match character {
        '"' | '\'' | '`' => Some("a quotation mark"),
        ',' | ';' => Some("a comma or semicolon"),
        '[' | ']' | '{' | '}' => Some("a bracket"),
        _ if character.is_control() => Some(CONTROL),
        _ if character.is_whitespace() => Some("white space"),
        _ => None,
    })
}

/// Returns the lines of a text that are neither empty nor a comment.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.trim_start_matches('\u{feff}').split(['\n', '\r']).map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Keys as a variable or the settings file holds them, not read yet.
pub(super) struct ApiKeyEntries(pub(super) Vec<String>);

impl Value for ApiKeyEntries {
    const PLACEHOLDER: &'static str = "KEYS";
    const IS_LIST: bool = true;

    fn expected() -> String {
        Vec::<String>::expected()
    }

    /// Reads lines as in a file of keys, each with one or several keys, separated by commas. A comma may end a line
    /// that another follows. A text without any key is one empty key, which [`ApiKey::read_all`] rejects.
    fn from_text(text: &str) -> Option<Self> {
        let mut lines: Vec<_> = lines(text).collect();
        let last = lines.pop();
        let ended = lines.into_iter().map(|line| line.strip_suffix(',').unwrap_or(line));
        let entries: Vec<_> = ended.chain(last).flat_map(|line| line.split(',')).map(str::to_owned).collect();
        Some(Self(if entries.is_empty() { vec![String::new()] } else { entries }))
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        Vec::from_toml(value).map(Self)
    }

    /// The keys are secret.
    fn to_toml(&self) -> Option<String> {
        None
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).finish_non_exhaustive()
    }
}
