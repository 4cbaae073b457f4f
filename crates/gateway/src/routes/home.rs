//! The page at `/`, for people who open the address in a browser: state, models and examples of use.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, http::header, web};

use crate::{
    auth::Keys,
    config::PathPrefix,
    lifecycle::Lifecycle,
    registry::{ModelDescription, ModelSlot, Registry},
    tls::IsTls,
};

/// Template; each `{{name}}` is replaced once, by escaped text, and `{{prefix}}` everywhere.
const PAGE: &str = include_str!("home.html");

/// Renders the page.
pub(super) async fn page(
    request: HttpRequest,
    lifecycle: web::Data<Lifecycle>,
    keys: web::Data<Keys>,
    prefix: web::Data<PathPrefix>,
) -> HttpResponse {
    let registry = lifecycle.models();
    let state = match &registry {
        _ if lifecycle.is_draining() => "Shutting down.",
        None => "Loading its models.",
        Some(_) => "Ready: an OpenAI-compatible embeddings server.",
    };
    let connection = request.connection_info();
    let scheme = if request.app_data::<IsTls>().is_some() { "https" } else { connection.scheme() };
    let base_url = format!("{scheme}://{}{}/v1", connection.host(), prefix.as_str());
    let model = registry.as_ref().and_then(|registry| registry.models().next());
    let page = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("state", state.to_owned()),
        ("models", registry.as_deref().map(rows).unwrap_or_default()),
        ("base_url", escape(&base_url)),
        ("api_key", (if keys.is_required() { "YOUR_KEY" } else { "unused" }).to_owned()),
        ("model", model.map(|model| escape(model.id())).unwrap_or_default()),
    ]
    .iter()
    .fold(PAGE.replace("{{prefix}}", prefix.as_str()), |page, (name, value)| {
        page.replacen(&format!("{{{{{name}}}}}"), value, 1)
    });
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"))
        .body(page)
}

/// Responds to the browser's request for an icon with 204 instead of an error.
pub(super) async fn favicon() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

/// One HTML table row for each model.
fn rows(registry: &Registry) -> String {
    let row = |model: &Arc<ModelSlot>| {
        let aliases = registry.aliases().filter(|(_, other)| other.id() == model.id());
        let aliases: Vec<_> = aliases.map(|(alias, _)| format!("<code>{}</code>", escape(alias))).collect();
        let ModelDescription { dimensions, max_input_tokens, provider, .. } = model.description();
        format!(
            "<tr><td><code>{}</code><td>{}<td>{dimensions}<td>{max_input_tokens}<td>{provider}",
            escape(model.id()),
            aliases.join(" "),
        )
    };
    registry.models().map(row).collect::<Vec<_>>().join("\n")
}

/// Escapes text for an HTML element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
