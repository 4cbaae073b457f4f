//! Who may ask: the extractor that lets a request in by its API key.
//!
//! Only SHA-256 hashes of keys are held, and all of them are compared, each in constant time, so that the
//! time of a refusal tells nothing about any key. Keys may change while requests are served (`file`).

mod file;

use std::{
    future::{Ready, ready},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderMap},
    web,
};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::{
    background::Background,
    config::{ApiKey, ApiKeyError, AuthConfig},
    error::{ApiError, Code},
    middleware::Record,
};

pub use file::KeysFileError;

const MISSING: &str = "You didn't provide an API key. You need to provide your API key in an Authorization \
                       header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";

/// The keys that are let in; where none are configured, anyone is.
#[derive(Clone)]
pub(crate) struct Keys {
    /// From the settings themselves.
    fixed: Arc<[ApiKey]>,
    /// Whether there is a file of keys, too.
    from_file: bool,
    /// All of them.
    all: Arc<RwLock<Arc<[ApiKey]>>>,
}

impl Keys {
    /// The keys of the settings and of their file, which is watched for as long as the second value lives.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(crate) fn open(config: &AuthConfig) -> Result<(Self, Option<Background>), KeysFileError> {
        let fixed: Arc<[ApiKey]> = config.keys.clone().into();
        let all = Arc::new(RwLock::new(Arc::clone(&fixed)));
        let keys = Self { fixed, from_file: config.api_keys_file.is_some(), all };
        let Some(path) = &config.api_keys_file else { return Ok((keys, None)) };
        let watch = file::watch(keys.clone(), path.clone())?;
        Ok((keys, Some(watch)))
    }

    /// Whether a request needs a key at all.
    pub(crate) fn required(&self) -> bool {
        self.from_file || !self.fixed.is_empty()
    }

    /// Number of keys at present.
    pub(crate) fn count(&self) -> usize {
        self.current().len()
    }

    /// Puts the keys of the file `path` beside those of the settings.
    ///
    /// # Errors
    /// A name that both have; then nothing changes.
    fn replace(&self, path: &Path, found: Vec<ApiKey>) -> Result<(), KeysFileError> {
        if let Some(key) = found.iter().find(|key| self.fixed.iter().any(|fixed| fixed.name == key.name)) {
            let source = ApiKeyError::DuplicateName { name: key.name.clone() };
            return Err(KeysFileError::Key { path: path.to_owned(), source });
        }
        let all = self.fixed.iter().cloned().chain(found).collect();
        *self.all.write().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(())
    }

    fn current(&self) -> Arc<[ApiKey]> {
        Arc::clone(&self.all.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who asks by the key that `headers` bring; `None` when no key is needed.
    fn admit(&self, headers: &HeaderMap) -> Result<Option<Admitted>, ApiError> {
        if !self.required() {
            return Ok(None);
        }
        let secret = presented(headers).ok_or_else(|| ApiError::new(Code::MissingKey, MISSING))?;
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let mut admitted = None;
        for key in &*self.current() {
            let equal: Choice = key.sha256.ct_eq(&hash);
            if bool::from(equal) {
                admitted = Some(Admitted { name: key.name.clone(), number: number(&key.sha256) });
            }
        }
        admitted.map(Some).ok_or_else(|| {
            let message = format!(
                "Incorrect API key provided: {}. The keys of this server are set by whoever runs it.",
                mask(secret)
            );
            ApiError::new(Code::InvalidKey, message)
        })
    }
}

/// The owner of a key.
#[derive(Debug, PartialEq)]
struct Admitted {
    name: String,
    number: u64,
}

/// A number for a key, never 0, that is the same in every process and tells nothing about the key: hashed once more,
/// it cannot be looked up where hashes of keys are kept.
fn number(sha256: &[u8; 32]) -> u64 {
    let digest = Sha256::new().chain_update(b"embedgate caller").chain_update(sha256).finalize();
    let number = digest.iter().take(8).fold(0, |number, &byte| (number << 8) | u64::from(byte));
    number.max(1)
}

/// Proof that the request was let in. A handler that takes it cannot run for anyone else.
pub(crate) struct Caller {
    /// Tells callers apart: one number for each key, 0 where no key is needed.
    pub(crate) number: u64,
}

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(keys) = request.app_data::<web::Data<Keys>>() else {
            return ready(Err(ApiError::internal("the app was built without its keys")));
        };
        ready(keys.admit(request.headers()).map(|admitted| match admitted {
            Some(Admitted { name, number }) => {
                Record::of(request).set_key(&name);
                Self { number }
            }
            None => Self { number: 0 },
        }))
    }
}

/// The secret in `Authorization: Bearer …` or, as Azure's clients send it, in `api-key`.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, secret) = value.as_bytes().split_at_checked("bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(secret)
    });
    let api_key = || headers.get("api-key").map(header::HeaderValue::as_bytes);
    bearer.or_else(api_key).map(<[u8]>::trim_ascii).filter(|secret| !secret.is_empty())
}

/// Enough of a wrong key to recognise it in one's own settings: three characters and four, and nothing of
/// a key under 20 characters, where seven would be too many.
fn mask(secret: &[u8]) -> String {
    const SHORTEST_SHOWN: usize = 20;
    match std::str::from_utf8(secret) {
        Ok(text) if text.len() >= SHORTEST_SHOWN && text.is_ascii() => {
            format!("{}***{}", &text[..3], &text[text.len() - 4..])
        }
        _ => "***".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str) -> Result<Option<String>, Code> {
        let keys = vec![ApiKey::new("first", "secret-one"), ApiKey::new("second", "secret-two")];
        let (keys, _) = Keys::open(&AuthConfig { keys, api_keys_file: None }).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(name.parse().unwrap(), value.parse().unwrap());
        keys.admit(&headers).map(|admitted| admitted.map(|who| who.name)).map_err(|error| error.code())
    }

    #[test]
    fn each_key_is_let_in_under_its_name() {
        for (header, value, name) in [
            ("authorization", "Bearer secret-one", "first"),
            ("authorization", "bearer  secret-two ", "second"),
            ("api-key", "secret-two", "second"),
        ] {
            assert_eq!(check(header, value), Ok(Some(name.to_owned())), "{header}: {value}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for (header, value, code) in [
            ("authorization", "Bearer secret-on", Code::InvalidKey),
            ("authorization", "Bearer secret-one1", Code::InvalidKey),
            ("authorization", "Bearer ", Code::MissingKey),
            ("authorization", "Basic secret-one", Code::MissingKey),
            ("authorization", "secret-one", Code::MissingKey),
            ("api-key", "", Code::MissingKey),
            ("x-other", "secret-one", Code::MissingKey),
        ] {
            assert_eq!(check(header, value), Err(code), "{header}: {value}");
        }
    }

    #[test]
    fn a_key_has_a_number_of_its_own_that_a_rename_does_not_change() {
        let number = |name, secret| number(&ApiKey::new(name, secret).sha256);
        assert_eq!(number("a", "secret-one"), number("b", "secret-one"));
        assert_ne!(number("a", "secret-one"), number("a", "secret-two"));
        assert_ne!(number("a", "secret-one"), 0);
    }

    #[test]
    fn a_mask_shows_seven_characters_at_most() {
        assert_eq!(mask(b"sk-5f6ce0123456789acdb"), "sk-***acdb");
        assert_eq!(mask(b"sk-5f6ce"), "***");
        assert_eq!(mask("ключ-ключ-ключ-ключ-ключ".as_bytes()), "***");
        assert_eq!(mask(&[0xff; 40]), "***");
    }
}
