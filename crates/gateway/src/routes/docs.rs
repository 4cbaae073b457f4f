//! The description of the API: `GET /openapi.yaml`, `/openapi.json`, and `/docs`, a page for people.

use actix_web::{HttpResponse, http::header, web};

use crate::{
    error::ApiError,
    html::source_hash,
    openapi::{ApiDocument, Forms, PAGE_STYLE},
};

/// `GET /openapi.yaml`.
pub(super) async fn yaml(document: web::Data<ApiDocument>) -> Result<HttpResponse, ApiError> {
    respond(&document, "application/yaml", |forms| &forms.yaml)
}

/// `GET /openapi.json`.
pub(super) async fn json(document: web::Data<ApiDocument>) -> Result<HttpResponse, ApiError> {
    respond(&document, "application/json", |forms| &forms.json)
}

/// `GET /docs`. The page has no script and loads nothing, and its policy allows only that.
pub(super) async fn page(document: web::Data<ApiDocument>) -> Result<HttpResponse, ApiError> {
    let mut response = respond(&document, "text/html; charset=utf-8", |forms| &forms.html)?;
    let policy = format!(
        "default-src 'none'; style-src {}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        source_hash(PAGE_STYLE)
    );
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy.parse().map_err(ApiError::permanent)?);
    headers.insert(header::REFERRER_POLICY, header::HeaderValue::from_static("no-referrer"));
    Ok(response)
}

fn respond(
    document: &ApiDocument,
    kind: &'static str,
    form: impl FnOnce(&Forms) -> &String,
) -> Result<HttpResponse, ApiError> {
    let forms = document.forms().map_err(ApiError::permanent)?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, kind))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(form(forms).clone()))
}
