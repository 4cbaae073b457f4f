//! Names of models on a hub: `ORG/NAME` or `ORG/NAME@REVISION`.

use std::{fmt, str::FromStr};

use crate::HubError;

/// Longest name or revision that is accepted: the hub itself allows 96 characters for a name.
const MAX_LENGTH: usize = 200;

/// A model on a hub, at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoRef {
    /// `ORG/NAME`.
    id: String,
    /// Branch, tag or commit.
    revision: String,
}

impl RepoRef {
    /// The branch of a name without a revision.
    pub const MAIN: &str = "main";

    /// Returns `ORG/NAME`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the name without the organization.
    pub fn short_name(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or(&self.id)
    }

    /// Returns the branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Returns true if the revision is a commit, whose files never change.
    pub fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }
}

/// Returns true for Git's full name of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl FromStr for RepoRef {
    type Err = HubError;

    /// Reads `ORG/NAME` or `ORG/NAME@REVISION`. The parts become parts of paths and addresses, so only the characters
    /// that the hub allows are accepted, and no part consists of dots.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let invalid = || HubError::InvalidName { name: text.to_owned() };
        let (id, revision) = text.split_once('@').unwrap_or((text, Self::MAIN));
        let (organization, name) = id.split_once('/').ok_or_else(invalid)?;
        let is_allowed = |part: &str, separators: &[u8]| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || separators.contains(&byte);
            (1..=MAX_LENGTH).contains(&part.len()) && part.bytes().all(allowed)
        };
        let is_name = |part: &str| {
            is_allowed(part, b"-_.")
                && !part.starts_with(['.', '-'])
                && !part.contains("--")
                && !part.ends_with('.')
        };
        // A revision such as `refs/pr/1` has several parts.
        let is_revision = is_allowed(revision, b"-_./")
            && revision
                .split('/')
                .all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.'));
        if !(is_name(organization) && is_name(name) && is_revision) {
            return Err(invalid());
        }
        Ok(Self { id: id.to_owned(), revision: revision.to_owned() })
    }
}

impl fmt::Display for RepoRef {
    /// Writes the name as it was given, without the default revision.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if self.revision == Self::MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_an_organization_and_may_have_a_revision() {
        for (text, id, revision) in [
            ("BAAI/bge-m3", "BAAI/bge-m3", "main"),
            ("a/b_c.d@v1.0", "a/b_c.d", "v1.0"),
            ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
        ] {
            let parsed: RepoRef = text.parse().unwrap();
            assert_eq!((parsed.id(), parsed.revision()), (id, revision));
            assert_eq!(parsed.to_string(), text);
        }
        assert!("a/b@5617a9f61b028005a4858fdac845db406aefb181".parse::<RepoRef>().unwrap().is_commit());
    }

    #[test]
    fn names_that_would_leave_the_cache_or_the_address_are_refused() {
        for text in [
            "bge-m3", "/b", "a/", "a/b/c", "../b", "a/..", "a/.b", "a/b@", "a/b@..", "a/b@../c", "a/b@/c",
            "a/b?x", "a b/c", "a/b@x#y", "a--b/c", "a/b\\c", "a/b@c%2f",
        ] {
            assert!(text.parse::<RepoRef>().is_err(), "{text}");
        }
    }
}
