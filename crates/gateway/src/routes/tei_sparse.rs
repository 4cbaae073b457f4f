//! `POST /embed_sparse` of text-embeddings-inference's API: the weights of vocabulary entries (SPLADE). The first
//! model of the settings that computes sparse embeddings answers, unless a request has `model`, an extension.

use actix_web::HttpResponse;
use model_import::Task;
use openai_schema::{ModelField, RequestFormat, Vectors};
use serde::Serialize;

use super::inference_call::{Embedded, InferenceCall};
use crate::{body::Body, error::ApiError, response::PartialJson};

/// A vocabulary entry with a weight other than 0.
#[derive(Serialize)]
struct TokenWeight {
    index: usize,
    value: f32,
}

/// A response: for each input, the list of its entries.
struct SparseVectors(Vectors);

/// Embeds the inputs of one request.
pub(super) async fn create(call: InferenceCall, body: Body) -> Result<HttpResponse, ApiError> {
    const KEPT: [&str; 3] = ["truncate", "truncation_direction", "prompt_name"];
    let format = RequestFormat {
        input: "inputs",
        model: ModelField::Optional(call.first_model(Task::EmbedSparse)?),
        extra_name: |key| KEPT.into_iter().find(|kept| *kept == key),
    };
    let (mut request, arrival) = call.parse_in(body, format).await?;
    request.encoding_format = None;
    request.dimensions = None;
    let Embedded { vectors, head, .. } =
        call.embed_with(Task::EmbedSparse, request, arrival, |_, _| {}).await?;
    Ok(head.send(SparseVectors(vectors)))
}

impl PartialJson for SparseVectors {
    fn write_part(&self, from: usize, bytes: usize, out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        for index in from..self.0.len() {
            if index > from && out.len() - start >= bytes {
                return Some(index);
            }
            out.push(if index == 0 { b'[' } else { b',' });
            let entries = self.0.row(index).iter().enumerate().filter(|(_, value)| **value != 0.0);
            let entries = entries.map(|(index, &value)| TokenWeight { index, value });
            let entries: Vec<_> = entries.collect();
            // Numbers in memory can always be written.
            out.extend(serde_json::to_vec(&entries).unwrap_or_default());
        }
        out.push(b']');
        None
    }

    fn json_len(&self) -> Option<u64> {
        None
    }
}
