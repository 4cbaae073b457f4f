//! Sharing with web pages of other origins (CORS), for the origins that the settings name; off where they name none.
//!
//! Written by hand because it is little: keys travel in headers and never in cookies, so credentials are not shared,
//! and every route takes the same headers.

use actix_web::{
    Error, HttpResponse,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{self, HeaderMap, HeaderValue},
    },
    middleware::Next,
    web,
};

use crate::config::Origins;

/// How long a browser may remember the answer to a preflight, in seconds: what all of them allow.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// What a page may read of an answer besides its body. With credentials left out `*` would do, if all browsers knew it.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "openai-processing-ms, openai-version, retry-after, retry-after-ms, server-timing, \
     x-embedgate-ignored, x-embedgate-model, x-embedgate-truncated, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, \
     x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens, x-request-id, x-should-retry",
);

/// Answers preflights, and marks the answers to pages that may read them. A page of another origin is answered, too,
/// but its browser keeps the answer from it.
pub(crate) async fn share(
    origins: web::Data<Origins>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody>>, Error> {
    if origins.is_empty() {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    let allowed = request.headers().get(header::ORIGIN).and_then(|origin| allowed(&origins, origin));
    if request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    {
        let mut response = HttpResponse::NoContent().finish();
        if let Some(allowed) = allowed {
            let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static("GET, HEAD, POST, OPTIONS"),
            );
            // SDKs send a dozen of their own, which change with their versions; a header does no harm here.
            if let Some(asked) = asked {
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
            }
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        vary(response.headers_mut());
        return Ok(request.into_response(response).map_into_right_body());
    }
    let mut response = next.call(request).await?;
    let headers = response.headers_mut();
    vary(headers);
    if let Some(allowed) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    Ok(response.map_into_left_body())
}

/// What the answer to a page of `origin` says, if it may be read there.
fn allowed(origins: &Origins, origin: &HeaderValue) -> Option<HeaderValue> {
    if origins.is_any() {
        return Some(HeaderValue::from_static("*"));
    }
    origin.to_str().is_ok_and(|origin| origins.contains(origin)).then(|| origin.clone())
}

/// Tells caches that the answer depends on who asks.
fn vary(headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("origin, access-control-request-headers"));
}
