//! `POST /v1/rerank` and `/v2/rerank`: reranking in the format that Cohere's and Jina's APIs share.
//!
//! infinity's format is nearly the same. Its client sends `raw_scores`, which the others do not have, and requires
//! another `object` and documents as strings in the response.

use actix_web::HttpResponse;
use inference::activate;
use model_import::{DenseActivation, Task};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::inference_call::{Arrival, Embedded, InferenceCall};
use crate::{
    body::Body, budget::ReservedBytes, error::ApiError, registry::echo, request::RerankInputs,
    response::PartialJson,
};

/// Name that infinity's client sends for the only model of a server.
const INFINITY_DEFAULT_MODEL: &str = "default/not-specified";

/// The body of a request.
#[derive(Deserialize)]
pub(super) struct RerankBody {
    model: Option<String>,
    query: String,
    documents: Vec<Document>,
    top_n: Option<usize>,
    return_documents: Option<bool>,
    /// Cohere: names of the fields of an object that are ranked.
    rank_fields: Option<Vec<String>>,
    /// Cohere: maximum number of tokens of a document.
    max_tokens_per_doc: Option<usize>,
    /// Cohere: maximum number of parts that a long document is split into.
    max_chunks_per_doc: Option<usize>,
    /// infinity: scores before the activation. Its presence makes the response that of infinity.
    raw_scores: Option<bool>,
}

/// A document: its text, or an object with the text in a field.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Text(String),
    Object(Map<String, Value>),
}

/// Ranks documents by their scores: the best `top_n` with their indices, best first. Of equal scores, the earlier
/// document comes first.
pub(super) fn rank_scores(scores: impl Iterator<Item = f32>, top_n: Option<usize>) -> Vec<(usize, f32)> {
    let mut scores: Vec<_> = scores.enumerate().collect();
    scores.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    scores.truncate(top_n.unwrap_or(usize::MAX));
    scores
}

/// A response, whose results are written in parts.
struct RankingJson {
    /// The JSON before the results, and after them.
    around: [String; 2],
    scores: Vec<(usize, f32)>,
    /// The documents of the request, if they are returned.
    documents: Option<Vec<Value>>,
    /// Memory of the documents.
    _memory: Option<ReservedBytes>,
}

impl PartialJson for RankingJson {
    fn write_part(&self, from: usize, bytes: usize, out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        if from == 0 {
            out.extend_from_slice(self.around[0].as_bytes());
        }
        for (position, &(index, score)) in self.scores.iter().enumerate().skip(from) {
            if position > from && out.len() - start >= bytes {
                return Some(position);
            }
            let mut result = json!({ "index": index, "relevance_score": score });
            if let Some(document) = self.documents.as_ref().and_then(|documents| documents.get(index)) {
                result["document"] = document.clone();
            }
            if position > 0 {
                out.push(b',');
            }
            out.extend_from_slice(result.to_string().as_bytes());
        }
        out.extend_from_slice(self.around[1].as_bytes());
        None
    }

    fn json_len(&self) -> Option<u64> {
        None
    }
}

/// Parses a body.
///
/// # Errors
/// 400 for a body that is not JSON, or lacks a field.
pub(super) fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid(format!("Invalid request body: {}.", echo(&error.to_string()))))
}

/// Ranks the documents of one request.
pub(super) async fn create(call: InferenceCall, body: Body) -> Result<HttpResponse, ApiError> {
    let (request, arrival) = call.parse(body, parse::<RerankBody>).await?;
    rank(&call, request, arrival).await
}

/// Ranks the documents of a parsed request.
pub(super) async fn rank(
    call: &InferenceCall,
    request: RerankBody,
    arrival: Arrival,
) -> Result<HttpResponse, ApiError> {
    let is_infinity = request.raw_scores.is_some();
    let named = request.model.clone().filter(|name| !(is_infinity && name == INFINITY_DEFAULT_MODEL));
    let model = named.map_or_else(|| call.first_model(Task::Rerank), Ok)?;
    check_parameters(&request, call.resolve(&model)?.slot.description().max_input_tokens)?;
    let RerankBody { query, documents, top_n, return_documents, rank_fields, raw_scores, .. } = request;
    let field = rank_fields.as_ref().and_then(|fields| fields.first()).map_or("text", String::as_str);
    let (returned, memory) = if return_documents == Some(true) {
        let bytes = documents.iter().filter_map(|document| document.text(field)).map(str::len).sum();
        let memory = call.limits.responses.reserve_text(bytes)?;
        let documents = match is_infinity {
            true => {
                documents.iter().map(|document| document.text(field).unwrap_or_default().into()).collect()
            }
            false => documents.iter().map(Document::to_json).collect(),
        };
        (Some(documents), memory)
    } else {
        (None, None)
    };
    let texts = documents.into_iter().enumerate().map(|(index, document)| document.into_text(index, field));
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    let inputs = RerankInputs { model, query, documents: texts, input_name: "documents", extra: Vec::new() };
    let (scored, activation) = call.rerank(inputs, arrival).await?;
    let activation = if raw_scores == Some(true) { DenseActivation::Identity } else { activation };
    let Embedded { model, vectors, tokens, head, .. } = scored;
    let scores = rank_scores(vectors.rows().map(|score| activate(activation, score[0])), top_n);
    let meta = json!({
        "api_version": { "version": if call.path().ends_with("/v2/rerank") { "2" } else { "1" } },
        "billed_units": { "search_units": 1 },
        "tokens": { "input_tokens": tokens, "output_tokens": 0 },
    });
    let (id, model) = (Value::from(call.context.id.as_str()), Value::from(model));
    let object = if is_infinity { "rerank" } else { "list" };
    let around = [
        format!(r#"{{"id":{id},"object":"{object}","model":{model},"results":["#),
        format!(r#"],"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}},"meta":{meta}}}"#),
    ];
    Ok(head.send(RankingJson { around, scores, documents: returned, _memory: memory }))
}

/// Checks the parameters of Cohere's API for a model that reads up to `max_tokens` tokens.
///
/// # Errors
/// 400 for a value that would change the scores in a way that is not supported.
fn check_parameters(request: &RerankBody, max_tokens: usize) -> Result<(), ApiError> {
    let invalid = |name: &'static str, reason: String| {
        Err(ApiError::invalid(format!("Invalid '{name}': {reason}.")).about(name))
    };
    if request.top_n == Some(0) {
        return invalid("top_n", "it must be at least 1".to_owned());
    }
    if request.rank_fields.as_ref().is_some_and(|fields| fields.len() > 1) {
        return invalid("rank_fields", "only one field is supported; send documents as strings".to_owned());
    }
    if request.max_tokens_per_doc.is_some_and(|max| max < max_tokens) {
        let reason = format!(
            "the model reads up to {max_tokens} tokens of query and document together, and no smaller maximum for \
             documents is supported; omit it"
        );
        return invalid("max_tokens_per_doc", reason);
    }
    if request.max_chunks_per_doc.is_some_and(|max| max > 1) {
        let reason = "a document is not split into parts; omit it, or send the parts as documents".to_owned();
        return invalid("max_chunks_per_doc", reason);
    }
    Ok(())
}

impl Document {
    /// The text to score; of an object, its `field`.
    fn text(&self, field: &str) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Object(object) => object.get(field)?.as_str(),
        }
    }

    /// The text to score of the document at `index`.
    fn into_text(self, index: usize, field: &str) -> Result<String, ApiError> {
        let text = match self {
            Self::Text(text) => return Ok(text),
            Self::Object(mut object) => object.remove(field),
        };
        if let Some(Value::String(text)) = text {
            return Ok(text);
        }
        let message = format!("Invalid 'documents[{index}]': an object needs the text in `{}`.", echo(field));
        Err(ApiError::invalid(message).about("documents"))
    }

    /// The document as a response returns it.
    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!({ "text": text }),
            Self::Object(object) => Value::Object(object.clone()),
        }
    }
}
