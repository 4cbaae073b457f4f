//! Facts about one request, collected while it is handled. The middleware logs and counts them at its end.

use std::{
    cell::{Cell, OnceCell},
    rc::Rc,
    sync::Arc,
};

use actix_web::{HttpMessage, HttpRequest, dev::ServiceRequest, http::header::HeaderMap};
use uuid::Uuid;

use crate::rate_limit::RateLimitStatus;

/// The facts about one request.
pub(crate) struct RequestContext {
    /// The id in `x-request-id`, in the log and in the trace.
    pub(crate) id: String,
    /// The client's own id of the request.
    pub(crate) client_id: Option<String>,
    /// Name of the API key.
    pub(crate) key: OnceCell<String>,
    /// Id of the model that embeds the inputs.
    pub(crate) model: OnceCell<Arc<str>>,
    pub(crate) inputs: Cell<usize>,
    pub(crate) tokens: Cell<u64>,
    /// Number of inputs that were truncated.
    pub(crate) truncated: Cell<usize>,
    /// The model expects a prompt before its inputs, and these get none.
    pub(crate) misses_prompt: Cell<bool>,
    /// Parameters of other vendors that were ignored.
    pub(crate) ignored: OnceCell<Vec<&'static str>>,
    /// State of the caller's rate limit, which every response tells after the debit, also an error.
    pub(crate) rate_limit: Cell<Option<RateLimitStatus>>,
}

impl RequestContext {
    /// Creates the context of `request` and attaches it.
    pub(crate) fn attach(request: &ServiceRequest) -> Rc<Self> {
        let context = Rc::new(Self::new(request.headers()));
        request.extensions_mut().insert(Rc::clone(&context));
        context
    }

    /// The context that was attached to `request`.
    pub(crate) fn of(request: &HttpRequest) -> Rc<Self> {
        let attached = request.extensions().get::<Rc<Self>>().cloned();
        attached.unwrap_or_else(|| Rc::new(Self::new(request.headers())))
    }

    fn new(headers: &HeaderMap) -> Self {
        Self {
            id: format!("req_{}", Uuid::now_v7().simple()),
            client_id: client_id(headers),
            key: OnceCell::new(),
            model: OnceCell::new(),
            inputs: Cell::new(0),
            tokens: Cell::new(0),
            truncated: Cell::new(0),
            misses_prompt: Cell::new(false),
            ignored: OnceCell::new(),
            rate_limit: Cell::new(None),
        }
    }

    /// Id of the model, once it is known.
    pub(crate) fn model(&self) -> Option<&str> {
        self.model.get().map(|id| &**id)
    }
}

/// The client's own id of the request, which joins its log to ours. Ids that could forge a part of a log line are
/// ignored.
fn client_id(headers: &HeaderMap) -> Option<String> {
    const MAX_LEN: usize = 128;
    let names = ["x-client-request-id", "x-request-id"];
    let value = names.iter().find_map(|name| headers.get(*name))?.to_str().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (!value.is_empty() && value.len() <= MAX_LEN && value.bytes().all(is_plain)).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    #[track_caller]
    fn logged(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-request-id"), HeaderValue::from_str(value).unwrap());
        client_id(&headers)
    }

    #[test]
    fn only_a_harmless_client_id_is_logged() {
        assert_eq!(logged("0af7-65.a:b_c"), Some("0af7-65.a:b_c".to_owned()));
        for value in ["", "a b", "a\"b", "a=b", "é", &"x".repeat(129)] {
            assert_eq!(logged(value), None, "{value}");
        }
    }
}
