//! `POST /embed_sparse` in the format of text-embeddings-inference: the weights of vocabulary entries (SPLADE).

use actix_web::HttpResponse;
use model_import::Task;
use openai_schema::{EmbeddingInput, EmbeddingRequest, ExtraValue};
use serde::{Deserialize, Serialize};

use super::{
    inference_call::{Embedded, InferenceCall},
    rerank::parse,
    tei_rerank::truncation,
};
use crate::{body::Body, error::ApiError, response::SerializedJson};

/// The body of a request.
#[derive(Deserialize)]
struct SparseBody {
    /// An extension: text-embeddings-inference serves one model.
    model: Option<String>,
    inputs: SparseInputs,
    truncate: Option<bool>,
    truncation_direction: Option<String>,
    prompt_name: Option<String>,
}

/// One text or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum SparseInputs {
    One(String),
    Several(Vec<String>),
}

/// A vocabulary entry with a weight other than 0.
#[derive(Serialize)]
struct TokenWeight {
    index: usize,
    value: f32,
}

/// Embeds the inputs of one request.
pub(super) async fn create(call: InferenceCall, body: Body) -> Result<HttpResponse, ApiError> {
    let (request, arrival) = call.parse(body, parse::<SparseBody>).await?;
    let SparseBody { model, inputs, truncate, truncation_direction, prompt_name } = request;
    truncation(None, truncation_direction.as_deref())?;
    let mut extra = Vec::new();
    extra.extend(truncate.map(|truncate| ("truncate", ExtraValue::Bool(truncate))));
    extra.extend(prompt_name.map(|name| ("prompt_name", ExtraValue::Text(name))));
    let input = match inputs {
        SparseInputs::One(text) => EmbeddingInput::Texts(vec![text]),
        SparseInputs::Several(texts) => EmbeddingInput::Texts(texts),
    };
    let request = EmbeddingRequest {
        model: call.model_or_first(model.as_deref(), Task::EmbedSparse)?,
        input,
        encoding_format: None,
        dimensions: None,
        extra,
    };
    let Embedded { vectors, head, .. } = call.embed_by(Task::EmbedSparse, request, arrival).await?;
    let weights = |vector: &[f32]| -> Vec<TokenWeight> {
        let entries = vector.iter().enumerate().filter(|(_, value)| **value != 0.0);
        entries.map(|(index, &value)| TokenWeight { index, value }).collect()
    };
    let results: Vec<_> = vectors.rows().map(weights).collect();
    Ok(head.send(SerializedJson::new(&results)?))
}
