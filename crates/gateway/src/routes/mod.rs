//! Every route of the server on one page, and the answers for all that is none.

use actix_web::{
    Handler, HttpRequest, HttpResponse, Responder, ResponseError,
    guard::{self, Guard},
    http::header,
    web::{self, ServiceConfig},
};

use crate::error::{ApiError, Code};

mod embeddings;
mod home;
mod models;
mod ops;

/// What is asked on one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Everything.
    Whole,
    /// What clients ask.
    Api,
    /// What operators ask.
    Ops,
}

/// Adds the routes of one side.
pub(crate) fn configure(config: &mut ServiceConfig, side: Side) {
    if side != Side::Ops {
        api(config);
    }
    if side != Side::Api {
        get(config, "/startupz", ops::startupz);
        get(config, "/readyz", ops::readyz);
        get(config, "/livez", ops::livez);
        get(config, "/metrics", ops::metrics);
    }
    config.default_service(web::to(unknown_url));
}

/// The API answers under `/v1` and without it, because some clients take a `base_url`
/// that ends in `/v1` and others append it.
fn api(config: &mut ServiceConfig) {
    for prefix in ["/v1", ""] {
        post(config, &format!("{prefix}/embeddings"), embeddings::create);
        get(config, &format!("{prefix}/models"), models::list);
        // Ids may hold slashes, raw or as %2F.
        get(config, &format!("{prefix}/models/{{id:.+}}"), models::retrieve);
    }
    get(config, "/", home::page);
    get(config, "/favicon.ico", home::favicon);
}

fn get<F, Args>(config: &mut ServiceConfig, path: &str, handler: F)
where
    F: Handler<Args>,
    F::Output: Responder + 'static,
    Args: actix_web::FromRequest + 'static,
{
    route(config, path, guard::Any(guard::Get()).or(guard::Head()), "GET, HEAD", handler);
}

fn post<F, Args>(config: &mut ServiceConfig, path: &str, handler: F)
where
    F: Handler<Args>,
    F::Output: Responder + 'static,
    Args: actix_web::FromRequest + 'static,
{
    route(config, path, guard::Post(), "POST", handler);
}

fn route<F, Args>(
    config: &mut ServiceConfig,
    path: &str,
    methods: impl Guard + 'static,
    allow: &'static str,
    handler: F,
) where
    F: Handler<Args>,
    F::Output: Responder + 'static,
    Args: actix_web::FromRequest + 'static,
{
    let refuse = move |request: HttpRequest| std::future::ready(method_not_allowed(&request, allow));
    config.service(
        web::resource(path).route(web::route().guard(methods).to(handler)).default_service(web::to(refuse)),
    );
}

fn method_not_allowed(request: &HttpRequest, allow: &'static str) -> HttpResponse {
    let message = format!(
        "Not allowed to {} on {}. (HINT: Perhaps you meant to use a different HTTP method?)",
        request.method(),
        request.path()
    );
    let mut response = ApiError::new(Code::MethodNotAllowed, message).error_response();
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
    response
}

async fn unknown_url(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let message = format!("Invalid URL ({} {})", request.method(), request.path());
    Err(ApiError::new(Code::UnknownUrl, message))
}
