//! `POST /tokenize` of text-embeddings-inference's API: the tokens of texts, with their positions. The default model's
//! tokenizer answers, unless a request has `model`, an extension.
//!
//! The texts are not truncated, so that a client sees where the model's window ends. Positions are in characters
//! (Unicode code points). No embedding is computed, so a request does not enter the engine's queue. Large ones run one
//! at a time, on a thread of their own, so that they take at most one core from embeddings.

use std::ops::Range;

use actix_web::{HttpResponse, web};
use inference::{TextToken, Tokenizer};
use serde::{Deserialize, Serialize};

use super::{
    inference_call::{Arrival, InferenceCall},
    rerank::parse,
};
use crate::{
    body::Body,
    error::ApiError,
    request::{DefaultModel, offload, too_many_tokens},
    response::SerializedJson,
};

/// Maximum size of texts that are tokenized on the thread of the server, which takes about 1 ms.
const MAX_INLINE_BYTES: usize = 4096;

/// The body of a request.
#[derive(Deserialize)]
struct TokenizeBody {
    model: Option<String>,
    inputs: TokenizeInputs,
    add_special_tokens: Option<bool>,
    prompt_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`inputs` must be a text or a list of texts")]
enum TokenizeInputs {
    One(String),
    Many(Vec<String>),
}

/// A token of a response. `start` and `stop` are `null` for special tokens, and where the position is unknown.
#[derive(Serialize)]
struct TokenObject<'t> {
    id: u32,
    text: &'t str,
    special: bool,
    start: Option<usize>,
    stop: Option<usize>,
}

/// Tokenizes the texts of one request.
pub(super) async fn create(
    call: InferenceCall,
    default_model: web::Data<DefaultModel>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let (request, arrival) = call.parse(body, parse::<TokenizeBody>).await?;
    let TokenizeBody { model, inputs, add_special_tokens, prompt_name } = request;
    if prompt_name.is_some() {
        let message = "Unsupported 'prompt_name': put the prompt before the texts instead.";
        return Err(ApiError::invalid(message).about("prompt_name"));
    }
    let inputs = match inputs {
        TokenizeInputs::One(text) => vec![text],
        TokenizeInputs::Many(texts) => texts,
    };
    let maximum = call.limits.limits.max_inputs;
    if inputs.is_empty() || inputs.len() > maximum {
        let message = format!("Invalid 'inputs': array length must be from 1 to {maximum}.");
        return Err(ApiError::invalid(message).about("inputs"));
    }
    let model = model.unwrap_or_else(|| default_model.id.clone());
    let named = call.resolve(&model)?;
    let Arrival { received, .. } = arrival;
    let requested = call.lease(named, &model, arrival).await?;
    let tokenizer = requested.served.engine.tokenizer().clone();
    let (max_tokens, with_special) = (call.limits.max_tokens(), add_special_tokens.unwrap_or(true));
    let is_large = inputs.iter().map(String::len).sum::<usize>() > MAX_INLINE_BYTES;
    let _turn = match is_large {
        true => Some(call.limits.tokenize.turn(received + call.limits.timeout).await?),
        false => None,
    };
    let work = move || tokenize(&tokenizer, &inputs, with_special, max_tokens);
    let json = offload(is_large, work).await??;
    let memory = call.limits.responses.reserve_text(json.len())?;
    Ok(call.response_head(memory).send(json))
}

/// The response to `inputs`.
///
/// # Errors
/// 400 if a text cannot be tokenized, or for more than `max_tokens` tokens.
fn tokenize(
    tokenizer: &Tokenizer,
    inputs: &[String],
    with_special: bool,
    max_tokens: usize,
) -> Result<SerializedJson, ApiError> {
    let (mut tokens, mut all) = (0, Vec::with_capacity(inputs.len()));
    for (index, text) in inputs.iter().enumerate() {
        let encoded = tokenizer.encode_with_positions(text, with_special).map_err(|reason| {
            ApiError::invalid(format!(
                "Invalid 'inputs[{index}]': the tokenizer cannot read this text: {reason}."
            ))
        })?;
        tokens += encoded.len();
        if tokens > max_tokens {
            return Err(too_many_tokens("inputs", max_tokens));
        }
        all.push(encoded);
    }
    let lists = inputs.iter().zip(&all).map(|(text, tokens)| TokenList::new(tokenizer, text, tokens));
    SerializedJson::new(&lists.collect::<Vec<_>>())
}

/// The tokens of one text, as they are written.
struct TokenList<'t> {
    tokenizer: &'t Tokenizer,
    text: &'t str,
    /// The position of each character in bytes, and at the end the length of the text.
    starts: Vec<u32>,
    tokens: &'t [TextToken],
}

impl<'t> TokenList<'t> {
    fn new(tokenizer: &'t Tokenizer, text: &'t str, tokens: &'t [TextToken]) -> Self {
        // A body is far smaller than 4 GiB.
        let starts = text.char_indices().map(|(start, _)| start).chain([text.len()]);
        Self { tokenizer, text, starts: starts.map(|start| start as u32).collect(), tokens }
    }

    fn slice(&self, chars: &Range<usize>) -> &'t str {
        &self.text[self.starts[chars.start] as usize..self.starts[chars.end] as usize]
    }
}

impl Serialize for TokenList<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.tokens.iter().map(|token| TokenInText { list: self, token }))
    }
}

struct TokenInText<'t> {
    list: &'t TokenList<'t>,
    token: &'t TextToken,
}

impl Serialize for TokenInText<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let TextToken { id, is_special: special, chars } = self.token;
        let (id, special) = (*id, *special);
        match chars {
            Some(chars) => {
                let (start, stop) = (Some(chars.start), Some(chars.end));
                TokenObject { id, text: self.list.slice(chars), special, start, stop }.serialize(serializer)
            }
            None => {
                let token = self.list.tokenizer.token(id);
                TokenObject { id, text: &token, special, start: None, stop: None }.serialize(serializer)
            }
        }
    }
}
