//! The route table, and the responses for unknown paths and methods.

use actix_web::{
    Handler, HttpRequest, HttpResponse, Responder,
    guard::{self, Guard},
    http::{Method, header},
    web::{self, ServiceConfig},
};

use crate::{
    config::PathPrefix,
    error::{ApiError, Code, ErrorShape},
};

mod admin;
mod cohere;
mod docs;
mod embeddings;
pub(crate) mod home;
mod inference_call;
mod models;
mod ollama;
mod ops;
pub(crate) mod rate_limit_response;
mod rerank;
mod response_head;
mod status;
mod tei;
mod tei_rerank;
mod tei_sparse;
mod tokenize;
mod usage;
mod vector_lists;

/// Routes of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteSet {
    All,
    /// Routes for clients.
    Api,
    /// Probes, metrics and admin routes.
    Ops,
}

/// Kind of a route, by which the middleware decides what to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteKind {
    /// Counted per model, and subject to the rate limit.
    Embeddings,
    /// Requested every few seconds by programs: neither traced nor logged at level INFO.
    Probe,
    /// For browsers, or the document that one of them shows: a setting turns these off.
    Page,
    Other,
}

struct Route {
    path: &'static str,
    set: RouteSet,
    kind: RouteKind,
    /// Shape of every error that a client of this route can see.
    errors: ErrorShape,
    register: fn(&mut ServiceConfig, &str),
}

/// Prefix of the API. Its routes are also served without it, because some clients expect a `base_url` that ends in
/// `/v1` and others append it.
const API_PREFIX: &str = "/v1";

const ROUTES: [Route; 41] = [
    api("/v1/embeddings", RouteKind::Embeddings, |config, path| post(config, path, embeddings::create)),
    api("/v1/models", RouteKind::Other, |config, path| get(config, path, models::list)),
    // Ids may contain slashes, raw or as %2F.
    api("/v1/models/{id:.+}", RouteKind::Other, |config, path| get(config, path, models::retrieve)),
    // Azure's form of the same API: the deployment is the model.
    api("/openai/deployments/{deployment:.+}/embeddings", RouteKind::Embeddings, |config, path| {
        post(config, path, embeddings::create_for_deployment);
    }),
    api("/openai/v1/embeddings", RouteKind::Embeddings, |config, path| {
        post(config, path, embeddings::create);
    }),
    api("/openai/v1/models", RouteKind::Other, |config, path| get(config, path, models::list)),
    api("/openai/v1/models/{id:.+}", RouteKind::Other, |config, path| get(config, path, models::retrieve)),
    // The list of Azure's older form, whose `api-version` has no effect.
    api("/openai/models", RouteKind::Other, |config, path| get(config, path, models::list)),
    api("/openai/models/{id:.+}", RouteKind::Other, |config, path| get(config, path, models::retrieve)),
    door("/v1/embed", ErrorShape::Cohere, |config, path| post(config, path, cohere::embed_v1)),
    door("/v2/embed", ErrorShape::Cohere, |config, path| post(config, path, cohere::embed_v2)),
    door("/api/embed", ErrorShape::Ollama, |config, path| post(config, path, ollama::embed)),
    door("/api/embeddings", ErrorShape::Ollama, |config, path| post(config, path, ollama::embed_one)),
    info("/api/tags", ErrorShape::Ollama, |config, path| get(config, path, ollama::tags)),
    info("/api/show", ErrorShape::Ollama, |config, path| post(config, path, ollama::show)),
    info("/api/version", ErrorShape::Ollama, |config, path| get(config, path, ollama::version)),
    door("/embed", ErrorShape::Tei, |config, path| post(config, path, tei::embed)),
    door("/v1/rerank", ErrorShape::Cohere, |config, path| post(config, path, rerank::create)),
    door("/v2/rerank", ErrorShape::Cohere, |config, path| post(config, path, rerank::create)),
    door("/rerank", ErrorShape::Tei, |config, path| post(config, path, tei_rerank::create)),
    door("/embed_sparse", ErrorShape::Tei, |config, path| post(config, path, tei_sparse::create)),
    info("/embed_all", ErrorShape::Tei, |config, path| post(config, path, tei::embed_all)),
    info("/tokenize", ErrorShape::Tei, |config, path| post(config, path, tokenize::create)),
    info("/info", ErrorShape::Tei, |config, path| get(config, path, tei::info)),
    // For the page at `/` and the command `status`, which poll it.
    api("/status", RouteKind::Probe, |config, path| get(config, path, status::status)),
    // Clients of Hugging Face's inference endpoints send `/embed`'s body to the address itself.
    door("/", ErrorShape::Tei, |config, path| {
        config.service(web::resource(path).guard(guard::Post()).to(tei::embed));
    }),
    api("/", RouteKind::Page, |config, path| {
        let methods = guard::Any(guard::Get()).or(guard::Head());
        register(config, path, methods, "GET, HEAD, POST", home::page);
    }),
    api("/docs", RouteKind::Page, |config, path| get(config, path, docs::page)),
    api("/openapi.yaml", RouteKind::Page, |config, path| get(config, path, docs::yaml)),
    api("/openapi.json", RouteKind::Page, |config, path| get(config, path, docs::json)),
    api("/favicon.ico", RouteKind::Other, |config, path| get(config, path, home::favicon)),
    probe("/startupz", |config, path| get(config, path, ops::startupz)),
    probe("/readyz", |config, path| get(config, path, ops::readyz)),
    // Names of `/readyz` in other servers.
    probe("/health", |config, path| get(config, path, ops::readyz)),
    probe("/ping", |config, path| get(config, path, ops::readyz)),
    probe("/livez", |config, path| get(config, path, ops::livez)),
    probe("/metrics", |config, path| get(config, path, ops::metrics)),
    admin("/admin/models", |config, path| get(config, path, admin::list)),
    admin("/admin/models/{id:.+}/load", |config, path| post(config, path, admin::load)),
    admin("/admin/models/{id:.+}/unload", |config, path| post(config, path, admin::unload)),
    admin("/v1/organization/usage/embeddings", |config, path| get(config, path, usage::embeddings)),
];

const fn api(path: &'static str, kind: RouteKind, register: fn(&mut ServiceConfig, &str)) -> Route {
    Route { path, set: RouteSet::Api, kind, errors: ErrorShape::OpenAi, register }
}

/// A route that embeds or reranks, in the format of another vendor.
const fn door(path: &'static str, errors: ErrorShape, register: fn(&mut ServiceConfig, &str)) -> Route {
    Route { path, set: RouteSet::Api, kind: RouteKind::Embeddings, errors, register }
}

/// A route that describes models or the server, in the format of another vendor.
const fn info(path: &'static str, errors: ErrorShape, register: fn(&mut ServiceConfig, &str)) -> Route {
    Route { path, set: RouteSet::Api, kind: RouteKind::Other, errors, register }
}

const fn probe(path: &'static str, register: fn(&mut ServiceConfig, &str)) -> Route {
    Route { path, set: RouteSet::Ops, kind: RouteKind::Probe, errors: ErrorShape::OpenAi, register }
}

/// A route that needs an admin key. With two listeners it is on the one that clients do not reach.
const fn admin(path: &'static str, register: fn(&mut ServiceConfig, &str)) -> Route {
    Route { path, set: RouteSet::Ops, kind: RouteKind::Other, errors: ErrorShape::OpenAi, register }
}

impl Route {
    /// The patterns under which the route is served, without the prefix of the settings.
    fn patterns(&self) -> impl Iterator<Item = &'static str> + use<> {
        let is_openai = self.errors == ErrorShape::OpenAi;
        let short = is_openai.then(|| self.path.strip_prefix(API_PREFIX)).flatten();
        [Some(self.path), short].into_iter().flatten()
    }
}

/// The pattern of a matched route without the prefix of the settings.
pub(crate) fn without_prefix<'a>(pattern: &'a str, prefix: &PathPrefix) -> &'a str {
    match pattern.strip_prefix(prefix.as_str()) {
        Some("") => "/",
        Some(rest) => rest,
        None => pattern,
    }
}

/// The kind of the route with this pattern, and the shape of its errors. A path without a route has OpenAI's errors.
pub(crate) fn kind_and_errors(pattern: Option<&str>, method: &Method) -> (RouteKind, ErrorShape) {
    let is = |route: &&Route| route.patterns().any(|known| Some(known) == pattern);
    let mut routes = ROUTES.iter().filter(is);
    // A page may have the path of another route, which is then for other methods.
    let is_read = [Method::GET, Method::HEAD].contains(method);
    let of_method = routes.clone().find(|route| (route.kind == RouteKind::Page) == is_read);
    let route = of_method.or_else(|| routes.next());
    route.map_or((RouteKind::Other, ErrorShape::OpenAi), |route| (route.kind, route.errors))
}

/// Registers the routes of a set, under `prefix`, and the pages for browsers if `has_pages`.
pub(crate) fn configure(config: &mut ServiceConfig, set: RouteSet, prefix: &PathPrefix, has_pages: bool) {
    let is_served = |route: &&Route| {
        (set == RouteSet::All || set == route.set) && (has_pages || route.kind != RouteKind::Page)
    };
    for route in ROUTES.iter().filter(is_served) {
        for pattern in route.patterns() {
            let path = match (prefix.as_str(), pattern) {
                ("", _) => pattern.to_owned(),
                // Requests have no slash at their end here.
                (prefix, "/") => prefix.to_owned(),
                (prefix, _) => format!("{prefix}{pattern}"),
            };
            (route.register)(config, &path);
        }
    }
    config.default_service(web::to(unknown_url));
}

fn get<F, Args>(config: &mut ServiceConfig, path: &str, handler: F)
where
    F: Handler<Args>,
    F::Output: Responder + 'static,
    Args: actix_web::FromRequest + 'static,
{
    register(config, path, guard::Any(guard::Get()).or(guard::Head()), "GET, HEAD", handler);
}

fn post<F, Args>(config: &mut ServiceConfig, path: &str, handler: F)
where
    F: Handler<Args>,
    F::Output: Responder + 'static,
    Args: actix_web::FromRequest + 'static,
{
    register(config, path, guard::Post(), "POST", handler);
}

fn register<F, Args>(
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
    let reject = move |request: HttpRequest| std::future::ready(method_not_allowed(&request, allow));
    config.service(
        web::resource(path).route(web::route().guard(methods).to(handler)).default_service(web::to(reject)),
    );
}

fn method_not_allowed(request: &HttpRequest, allow: &'static str) -> HttpResponse {
    let message = format!(
        "Not allowed to {} on {}. (HINT: Perhaps you meant to use a different HTTP method?)",
        request.method(),
        request.path()
    );
    let mut response = HttpResponse::from_error(ApiError::new(Code::MethodNotAllowed, message));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
    response
}

async fn unknown_url(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::unknown_url(request.method().as_str(), request.path()))
}
