//! Who may ask: the extractor that lets a request in by its API key.
//!
//! Only SHA-256 hashes of keys are held, and all of them are compared, each in constant time, so that the
//! time of a refusal tells nothing about any key.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderMap},
    web,
};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::{
    config::ApiKey,
    error::{ApiError, Code},
    middleware::Record,
};

const MISSING: &str = "You didn't provide an API key. You need to provide your API key in an Authorization \
                       header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";

/// The configured keys; with none, anyone is let in.
pub(crate) struct Keys(Vec<ApiKey>);

impl Keys {
    pub(crate) fn new(keys: Vec<ApiKey>) -> Self {
        Self(keys)
    }

    /// Whether a request needs a key at all.
    pub(crate) fn required(&self) -> bool {
        !self.0.is_empty()
    }

    /// The name of the key that `headers` bring; `None` when no key is needed.
    fn admit(&self, headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
        if !self.required() {
            return Ok(None);
        }
        let secret = presented(headers).ok_or_else(|| ApiError::new(Code::MissingKey, MISSING))?;
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let mut admitted = None;
        for key in &self.0 {
            let equal: Choice = key.sha256.ct_eq(&hash);
            if bool::from(equal) {
                admitted = Some(key.name.as_str());
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

/// Proof that the request was let in. A handler that takes it cannot run for anyone else.
pub(crate) struct Caller;

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(keys) = request.app_data::<web::Data<Keys>>() else {
            return ready(Err(ApiError::internal("the app was built without its keys")));
        };
        ready(keys.admit(request.headers()).map(|name| {
            if let Some(name) = name {
                Record::of(request).set_key(name);
            }
            Self
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
        let keys = Keys::new(vec![ApiKey::new("first", "secret-one"), ApiKey::new("second", "secret-two")]);
        let mut headers = HeaderMap::new();
        headers.insert(name.parse().unwrap(), value.parse().unwrap());
        keys.admit(&headers).map(|name| name.map(str::to_owned)).map_err(|error| error.code())
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
    fn a_mask_shows_seven_characters_at_most() {
        assert_eq!(mask(b"sk-5f6ce0123456789acdb"), "sk-***acdb");
        assert_eq!(mask(b"sk-5f6ce"), "***");
        assert_eq!(mask("ключ-ключ-ключ-ключ-ключ".as_bytes()), "***");
        assert_eq!(mask(&[0xff; 40]), "***");
    }
}
