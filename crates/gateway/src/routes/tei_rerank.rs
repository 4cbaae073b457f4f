//! `POST /rerank` in the format of text-embeddings-inference. A body with `documents` instead of `texts` has the format
//! of `/v1/rerank`, because some clients send that one to this path.

use actix_web::HttpResponse;
use inference::activate;
use model_import::{DenseActivation, Task};
use openai_schema::ExtraValue;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    inference_call::{Embedded, InferenceCall},
    rerank::{self, RerankBody, parse, rank_scores},
};
use crate::{body::Body, error::ApiError, request::RerankInputs, response::SerializedJson};

/// The body of a request.
#[derive(Deserialize)]
struct TeiRerankBody {
    /// An extension: text-embeddings-inference serves one model. Without it, the first reranker of the settings
    /// answers.
    model: Option<String>,
    query: String,
    texts: Vec<String>,
    #[serde(default)]
    raw_scores: bool,
    #[serde(default)]
    return_text: bool,
    truncate: Option<ExtraValue>,
    truncation_direction: Option<ExtraValue>,
}

/// A body in one of the formats.
enum RerankFormat {
    Tei(TeiRerankBody),
    Documents(RerankBody),
}

/// A result: a text's index, its score, and the text if it is requested.
#[derive(Serialize)]
struct TextScore<'t> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'t str>,
    score: f32,
}

impl RerankFormat {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        /// The keys that tell the formats apart.
        #[derive(Deserialize)]
        struct Keys {
            texts: Option<IgnoredAny>,
            documents: Option<IgnoredAny>,
        }
        let Keys { texts, documents } = parse(body)?;
        if texts.is_none() && documents.is_some() {
            return parse(body).map(Self::Documents);
        }
        parse(body).map(Self::Tei)
    }
}

/// Ranks the texts of one request.
pub(super) async fn create(call: InferenceCall, body: Body) -> Result<HttpResponse, ApiError> {
    let (request, arrival) = call.parse(body, RerankFormat::parse).await?;
    let request = match request {
        RerankFormat::Tei(request) => request,
        RerankFormat::Documents(request) => return rerank::rank(&call, request, arrival).await,
    };
    let TeiRerankBody { model, query, texts, raw_scores, return_text, .. } = request;
    let extra = [("truncate", request.truncate), ("truncation_direction", request.truncation_direction)];
    let extra = extra.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let model = model.map_or_else(|| call.first_model(Task::Rerank), Ok)?;
    let bytes: usize = if return_text { texts.iter().map(String::len).sum() } else { 0 };
    let _memory = call.limits.responses.reserve_text(bytes)?;
    let returned = if return_text { texts.clone() } else { Vec::new() };
    let inputs = RerankInputs { model, query, documents: texts, input_name: "texts", extra };
    let (scored, activation) = call.rerank(inputs, arrival).await?;
    let activation = if raw_scores { DenseActivation::Identity } else { activation };
    let Embedded { vectors, head, .. } = scored;
    let ranked = rank_scores(vectors.rows().map(|score| activate(activation, score[0])), None);
    let result = |(index, score): (usize, f32)| {
        let text = returned.get(index).map(String::as_str);
        TextScore { index, text, score }
    };
    let results: Vec<_> = ranked.into_iter().map(result).collect();
    Ok(head.send(SerializedJson::new(&results)?))
}
