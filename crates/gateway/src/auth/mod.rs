//! Authentication by API key, as an extractor of the HTTP framework.
//!
//! Only SHA-256 hashes of keys are stored. All of them are compared, each in constant time, so that the response time
//! reveals nothing about a key. Keys may change while requests are served (`file`).

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
use inference::CallerId;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::{
    background::BackgroundThread,
    config::{ApiKey, ApiKeyError, AuthConfig},
    error::{ApiError, Code},
    request_context::RequestContext,
};

pub use file::KeysFileError;

const MISSING: &str = "You didn't provide an API key. You need to provide your API key in an Authorization \
                       header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";

/// The accepted keys. If none are configured, every request is admitted.
#[derive(Clone)]
pub(crate) struct Keys {
    /// Keys of the settings themselves.
    fixed: Arc<[ApiKey]>,
    /// True if there is a file of keys, too.
    has_file: bool,
    /// Keys of the settings and of the file.
    all: Arc<RwLock<Arc<[ApiKey]>>>,
}

impl Keys {
    /// Loads the keys of the settings and of their file, which is reloaded while the returned thread lives.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub(crate) fn open(config: &AuthConfig) -> Result<(Self, Option<BackgroundThread>), KeysFileError> {
        let fixed: Arc<[ApiKey]> = config.keys.clone().into();
        let all = Arc::new(RwLock::new(Arc::clone(&fixed)));
        let keys = Self { fixed, has_file: config.api_keys_file.is_some(), all };
        let Some(path) = &config.api_keys_file else { return Ok((keys, None)) };
        let thread = file::watch(keys.clone(), path.clone())?;
        Ok((keys, Some(thread)))
    }

    /// The keys of the admin routes.
    fn of_admins(config: &AuthConfig) -> Self {
        let fixed: Arc<[ApiKey]> = config.admin_keys.clone().into();
        Self { all: Arc::new(RwLock::new(Arc::clone(&fixed))), fixed, has_file: false }
    }

    /// Returns true if requests need a key.
    pub(crate) fn is_required(&self) -> bool {
        self.has_file || !self.fixed.is_empty()
    }

    /// Number of keys.
    pub(crate) fn count(&self) -> usize {
        self.current().len()
    }

    /// Replaces the keys of the file `path`; those of the settings stay.
    ///
    /// # Errors
    /// If a name occurs in both; then nothing changes.
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

    /// The owner of the key in `headers`; `None` if no key is required.
    fn authenticate(&self, headers: &HeaderMap) -> Result<Option<Principal>, ApiError> {
        if !self.is_required() {
            return Ok(None);
        }
        let secret = presented(headers).ok_or_else(|| ApiError::new(Code::MissingKey, MISSING))?;
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let mut principal = None;
        for key in &*self.current() {
            let equal: Choice = key.sha256.ct_eq(&hash);
            if bool::from(equal) {
                principal = Some(Principal { name: key.name.clone(), id: caller_id(&key.sha256) });
            }
        }
        principal.map(Some).ok_or_else(|| {
            let message = format!(
                "Incorrect API key provided: {}. The operator of this server sets its keys.",
                redact(secret)
            );
            ApiError::new(Code::InvalidKey, message)
        })
    }
}

/// The owner of a key.
#[derive(Debug, PartialEq)]
struct Principal {
    name: String,
    id: CallerId,
}

/// Id of a key, never 0, and the same in every process. The key's hash is hashed again, so that the id cannot be looked
/// up in a list of key hashes.
fn caller_id(sha256: &[u8; 32]) -> CallerId {
    let digest = Sha256::new().chain_update(b"embedgate caller").chain_update(sha256).finalize();
    let number = digest.iter().take(8).fold(0, |number, &byte| (number << 8) | u64::from(byte));
    CallerId(number.max(1))
}

/// Proof that the request is authenticated: a handler that takes it runs only for admitted callers.
pub(crate) struct Caller {
    /// Identifies the caller's key; `None` if no key is required.
    pub(crate) id: Option<CallerId>,
}

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(keys) = request.app_data::<web::Data<Keys>>() else {
            return ready(Err(ApiError::internal("the app was built without its keys")));
        };
        ready(keys.authenticate(request.headers()).map(|principal| match principal {
            Some(Principal { name, id }) => {
                RequestContext::of(request).key.get_or_init(|| name);
                Self { id: Some(id) }
            }
            None => Self { id: None },
        }))
    }
}

/// The keys of the admin routes. If none are configured, there are no such routes.
pub(crate) struct AdminKeys(Keys);

impl AdminKeys {
    pub(crate) fn new(config: &AuthConfig) -> Self {
        Self(Keys::of_admins(config))
    }
}

/// Proof that the request has an admin key: a handler that takes it runs only for the operator.
pub(crate) struct Admin;

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(AdminKeys(keys)) = request.app_data::<web::Data<AdminKeys>>().map(|keys| &***keys) else {
            return ready(Err(ApiError::internal("the app was built without its admin keys")));
        };
        ready(match keys.authenticate(request.headers()) {
            Ok(Some(Principal { name, .. })) => {
                RequestContext::of(request).key.get_or_init(|| name);
                Ok(Self)
            }
            Ok(None) => Err(ApiError::unknown_url(request.method().as_str(), request.path())),
            Err(error) => Err(error),
        })
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

/// The first three and last four characters of a wrong key, enough to recognise it, or `***` for a key of fewer than 20
/// characters.
fn redact(secret: &[u8]) -> String {
    const MIN_SHOWN_LEN: usize = 20;
    match std::str::from_utf8(secret) {
        Ok(text) if text.len() >= MIN_SHOWN_LEN && text.is_ascii() => {
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
        let (keys, _) =
            Keys::open(&AuthConfig { keys, admin_keys: Vec::new(), api_keys_file: None }).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(name.parse().unwrap(), value.parse().unwrap());
        keys.authenticate(&headers)
            .map(|principal| principal.map(|owner| owner.name))
            .map_err(|error| error.code())
    }

    #[test]
    fn each_key_is_accepted_under_its_name() {
        for (header, value, name) in [
            ("authorization", "Bearer secret-one", "first"),
            ("authorization", "bearer  secret-two ", "second"),
            ("api-key", "secret-two", "second"),
        ] {
            assert_eq!(check(header, value), Ok(Some(name.to_owned())), "{header}: {value}");
        }
    }

    #[test]
    fn other_credentials_are_rejected() {
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
    fn the_id_of_a_key_depends_on_its_secret_and_not_on_its_name() {
        let id = |name, secret| caller_id(&ApiKey::new(name, secret).sha256);
        assert_eq!(id("a", "secret-one"), id("b", "secret-one"));
        assert_ne!(id("a", "secret-one"), id("a", "secret-two"));
        assert_ne!(id("a", "secret-one"), CallerId(0));
    }

    #[test]
    fn redaction_keeps_at_most_seven_characters() {
        assert_eq!(redact(b"sk-5f6ce0123456789acdb"), "sk-***acdb");
        assert_eq!(redact(b"sk-5f6ce"), "***");
        assert_eq!(redact("ключ-ключ-ключ-ключ-ключ".as_bytes()), "***");
        assert_eq!(redact(&[0xff; 40]), "***");
    }
}
