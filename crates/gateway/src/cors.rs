//! CORS for the configured origins; off if there are none.
//!
//! A library is not needed: keys are in headers and never in cookies, so there are no credentials, and all routes
//! accept the same headers.

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

/// Seconds for which a browser may cache a preflight response: the maximum that all browsers accept.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Headers that a page may read. `*` would be enough without credentials, but not all browsers support it.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "openai-processing-ms, openai-version, retry-after, retry-after-ms, server-timing, \
     x-embedgate-ignored, x-embedgate-model, x-embedgate-precision, x-embedgate-prompt, x-embedgate-prompt-missing, \
     x-embedgate-truncated, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, \
     x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens, x-request-id, x-should-retry",
);

/// Answers preflight requests, and marks responses that pages may read. Requests of other origins are answered, too,
/// but the browser hides the response from the page.
pub(crate) async fn cors_middleware(
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
            let requested = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static("GET, HEAD, POST, OPTIONS"),
            );
            // All requested headers are allowed: SDKs send a dozen, which change with their versions, and none is
            // harmful.
            if let Some(requested) = requested {
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, requested);
            }
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        add_vary(response.headers_mut());
        return Ok(request.into_response(response).map_into_right_body());
    }
    let mut response = next.call(request).await?;
    let headers = response.headers_mut();
    add_vary(headers);
    if let Some(allowed) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    Ok(response.map_into_left_body())
}

/// Value of `access-control-allow-origin` for a page of `origin`, if it may read responses.
fn allowed(origins: &Origins, origin: &HeaderValue) -> Option<HeaderValue> {
    if origins.is_any() {
        return Some(HeaderValue::from_static("*"));
    }
    origin.to_str().is_ok_and(|origin| origins.contains(origin)).then(|| origin.clone())
}

/// Tells caches that the response depends on the origin.
fn add_vary(headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("origin, access-control-request-headers"));
}
