//! A request's body, read whole, whatever its content type, up to the configured size and no further.
//!
//! The framework's own extractors would ask for `Content-Type: application/json`, stop at 2 MiB and answer
//! in plain text.

use std::{future::Future, pin::Pin, time::Duration};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header,
    web::{self, Bytes, BytesMut},
};
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::error::{ApiError, Code};

/// How much of a body is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    pub(crate) bytes: usize,
    /// Without it a client could hold a connection for ever by sending a byte now and then.
    pub(crate) time: Duration,
}

/// The bytes of the body.
pub(crate) struct Body(pub(crate) Bytes);

impl FromRequest for Body {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let limits = request.app_data::<web::Data<BodyLimits>>().map(|limits| *limits.get_ref());
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok())
            .and_then(|length| length.parse().ok());
        let payload = payload.take();
        Box::pin(async move {
            let limits = limits.ok_or_else(|| ApiError::internal("the app was built without body limits"))?;
            let slow = |_| {
                let seconds = limits.time.as_secs();
                let message =
                    format!("Timed out reading the request: the body took more than {seconds} seconds.");
                ApiError::new(Code::SlowBody, message)
            };
            timeout(limits.time, read(payload, announced, limits.bytes)).await.map_err(slow)?
        })
    }
}

async fn read(mut payload: Payload, announced: Option<usize>, limit: usize) -> Result<Body, ApiError> {
    if let Some(length) = announced.filter(|&length| length > limit) {
        return Err(too_large(limit, length));
    }
    // What a client merely announces may reserve little; what it sends may grow to the limit.
    const LARGEST_RESERVE: usize = 1 << 20;
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0).min(LARGEST_RESERVE));
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(broken)?;
        if bytes.len() + chunk.len() > limit {
            return Err(too_large(limit, bytes.len() + chunk.len()));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Body(bytes.freeze()))
}

fn too_large(limit: usize, read: usize) -> ApiError {
    let message = format!("Maximum content size limit ({limit}) exceeded ({read} bytes read)");
    ApiError::new(Code::BodyTooLarge, message)
}

fn broken(error: PayloadError) -> ApiError {
    ApiError::invalid(format!("The body of your request could not be read: {error}."))
}
