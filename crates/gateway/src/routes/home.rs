//! The page at `/`, for people who open the address in a browser: try the models, copy a request, see what is served
//! and the load.
//!
//! One document holds everything, so that the page works without internet. Its Content-Security-Policy allows the one
//! style and the one script by their SHA-256, and requests to this server alone.

use actix_web::{HttpRequest, HttpResponse, http::header, web};

use crate::{
    auth::Keys,
    config::PathPrefix,
    html::{escape, source_hash},
    lifecycle::Lifecycle,
    request::DefaultModel,
    tls::IsTls,
};

const HTML: &str = include_str!("home/page.html");
const CSS: &str = include_str!("home/page.css");
const JS: &str = include_str!("home/page.js");

/// The page before a request fills it in, built once at start.
pub(crate) struct HomePage {
    parts: Vec<TemplatePart>,
    policy: String,
    /// True if probes and metrics are on another listener, which the page's readers may not reach.
    has_ops_listener: bool,
}

/// A part of the page.
enum TemplatePart {
    Text(String),
    /// The name of a value, which stands between double braces in the HTML.
    Name(&'static str),
}

impl HomePage {
    pub(crate) fn new(has_ops_listener: bool) -> Self {
        // HTML's parser changes line breaks to `\n` before the browser computes a digest.
        let [css, js] = [CSS, JS].map(|source| source.replace("\r\n", "\n"));
        let policy = format!(
            "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
            source_hash(&css),
            source_hash(&js)
        );
        let mut parts = Vec::new();
        for (index, piece) in HTML.split("{{").flat_map(|part| part.split("}}")).enumerate() {
            parts.push(match piece {
                "style" => TemplatePart::Text(css.clone()),
                "script" => TemplatePart::Text(js.clone()),
                name if index % 2 == 1 => TemplatePart::Name(name),
                text => TemplatePart::Text(text.to_owned()),
            });
        }
        Self { parts, policy, has_ops_listener }
    }
}

/// Renders the page.
pub(super) async fn page(
    request: HttpRequest,
    home: web::Data<HomePage>,
    lifecycle: web::Data<Lifecycle>,
    keys: web::Data<Keys>,
    (prefix, model): (web::Data<PathPrefix>, web::Data<DefaultModel>),
) -> HttpResponse {
    let connection = request.connection_info();
    let scheme = if request.app_data::<IsTls>().is_some() { "https" } else { connection.scheme() };
    let base_url = escape(&format!("{scheme}://{}{}/v1", connection.host(), prefix.as_str()));
    let model = escape(&model.id);
    let value = |name| match name {
        "version" => env!("CARGO_PKG_VERSION"),
        "state" if lifecycle.is_draining() => "Shutting down",
        "state" if lifecycle.is_loaded() => "Ready",
        "state" => "Loading its models",
        "base_url" => &base_url,
        "prefix" => prefix.as_str(),
        "api_key" if keys.is_required() => "YOUR_KEY",
        "api_key" => "any",
        "model" => &model,
        "ops_hidden" if home.has_ops_listener => "hidden",
        _ => "",
    };
    let part = |part| match part {
        &TemplatePart::Name(name) => value(name),
        TemplatePart::Text(text) => text,
    };
    let page: String = home.parts.iter().map(part).collect();
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((header::CONTENT_SECURITY_POLICY, home.policy.as_str()))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(page)
}

/// Responds to the browser's request for an icon with 204 instead of an error.
pub(super) async fn favicon() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_are_small_and_load_nothing() {
        assert!(HTML.len() + CSS.len() + JS.len() < 60_000);
        for source in [HTML, CSS, JS] {
            for banned in ["url(", "@import", "src=", "innerHTML", "eval(", " style="] {
                assert!(!source.contains(banned), "{banned}");
            }
            let links = source.replace("http://www.w3.org/2000/svg", "");
            assert!(!links.contains("http://") && !links.contains("https://"), "an outside address");
        }
        // The end of an inline element, or of a name, must not be in its content.
        for content in [CSS, JS] {
            assert!(!content.contains("</") && !content.contains("<!--"));
        }
    }
}
