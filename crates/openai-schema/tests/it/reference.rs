//! A reference parser of requests, over a tree of JSON values.
//!
//! It is slower and stricter than the real parser (`serde_json` rejects lone surrogates, for example), but short enough
//! to be reviewed against OpenAI's documentation. For every body that it can read, the real parser must return the same
//! request or the same error.

use openai_schema::{EmbeddingInput, EmbeddingRequest, EncodingFormat, RequestError};
use serde_json::{Value, json};

/// Parses `body` with both parsers, and panics unless they agree and an accepted request is well formed.
pub(crate) fn check(body: &[u8]) {
    let parsed = EmbeddingRequest::from_json(body);
    match serde_json::from_slice::<Value>(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)) {
        Ok(value) => assert_eq!(parsed, request(&value), "{}", String::from_utf8_lossy(body)),
        // The real parser may accept a body that `serde_json` rejects: lone surrogates, and deep nesting and numbers
        // out of range in ignored fields.
        Err(_) if parsed.is_ok() => assert!(str::from_utf8(body).is_ok()),
        Err(_) => {}
    }
    if let Ok(request) = parsed {
        check_well_formed(&request);
    }
}

/// Checks the guarantees of [`EmbeddingRequest`].
fn check_well_formed(request: &EmbeddingRequest) {
    assert!(!request.model.is_empty());
    assert!(request.input.len() > 0);
    assert_ne!(request.dimensions, Some(0));
    match &request.input {
        EmbeddingInput::Text(_) => {}
        EmbeddingInput::Texts(texts) => assert!(texts.iter().all(|text| !text.is_empty())),
        EmbeddingInput::Tokens(ids) => assert!(!ids.is_empty()),
        EmbeddingInput::TokenArrays(arrays) => assert!(arrays.iter().all(|ids| !ids.is_empty())),
    }
    // The request, serialised again, parses to the same request.
    let again = EmbeddingRequest::from_json(serialize(request).to_string().as_bytes());
    assert_eq!(again.as_ref(), Ok(request));
}

/// Serialises `request` with every field.
fn serialize(request: &EmbeddingRequest) -> Value {
    json!({
        "model": request.model,
        "input": match &request.input {
            EmbeddingInput::Text(text) => json!(text),
            EmbeddingInput::Texts(texts) => json!(texts),
            EmbeddingInput::Tokens(ids) => json!(ids),
            EmbeddingInput::TokenArrays(arrays) => json!(arrays),
        },
        "encoding_format": request.encoding_format.map(EncodingFormat::name),
        "dimensions": request.dimensions,
    })
}

fn request(body: &Value) -> Result<EmbeddingRequest, RequestError> {
    let object = body.as_object().ok_or(RequestError::NotAnObject)?;
    let field = |name| object.get(name).filter(|value| !value.is_null());
    let text = |name: &'static str| {
        field(name)
            .map(|value| value.as_str().map(str::to_owned).ok_or(RequestError::WrongType { param: name }))
            .transpose()
    };
    Ok(EmbeddingRequest {
        model: text("model")?.filter(|model| !model.is_empty()).ok_or(RequestError::MissingModel)?,
        input: input(field("input").ok_or(RequestError::MissingInput { name: "input" })?)?,
        input_name: "input",
        encoding_format: match text("encoding_format")?.as_deref() {
            None => None,
            Some("float") => Some(EncodingFormat::Float),
            Some("base64") => Some(EncodingFormat::Base64),
            Some(other) => return Err(RequestError::UnsupportedEncodingFormat { value: other.to_owned() }),
        },
        dimensions: field("dimensions").map(dimensions).transpose()?,
        extra: Vec::new(),
    })
}

fn dimensions(value: &Value) -> Result<u32, RequestError> {
    let value = value
        .as_u64()
        .map(i128::from)
        .or(value.as_i64().map(i128::from))
        .ok_or(RequestError::WrongType { param: "dimensions" })?;
    match u32::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(RequestError::BadDimensions { value }),
    }
}

fn input(value: &Value) -> Result<EmbeddingInput, RequestError> {
    let wrong_type = RequestError::WrongType { param: "input" };
    if let Some(text) = value.as_str() {
        return Ok(EmbeddingInput::Text(text.to_owned()));
    }
    let items = value.as_array().ok_or(wrong_type.clone())?;
    let not_empty = |empty: Option<usize>, input| match empty {
        Some(index) => Err(RequestError::EmptyInput { name: "input", index }),
        None => Ok(input),
    };
    if items.is_empty() {
        Err(RequestError::EmptyArray { name: "input" })
    } else if let Some(texts) = all(items, |item| item.as_str().map(str::to_owned)) {
        not_empty(texts.iter().position(String::is_empty), EmbeddingInput::Texts(texts))
    } else if let Some(ids) = all(items, token) {
        Ok(EmbeddingInput::Tokens(ids))
    } else if let Some(arrays) = all(items, |item| all(item.as_array()?, token)) {
        not_empty(arrays.iter().position(Vec::is_empty), EmbeddingInput::TokenArrays(arrays))
    } else {
        Err(wrong_type)
    }
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

fn all<T>(items: &[Value], read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    items.iter().map(read).collect()
}
