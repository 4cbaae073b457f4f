//! What clients say and what they are told: the JSON of OpenAI's embeddings API, and nothing else.
//!
//! This crate knows the wire format. It must never know HTTP, models, tokenizers, limits or
//! settings: a status code is the server's business, and so is how many inputs are too many.
//!
//! A request enters through [`EmbeddingRequest::from_json`], which takes the bytes of a body and
//! either returns a request whose every field is well formed or a [`RequestError`] whose text is the
//! one that OpenAI's clients know. A response leaves through [`EmbeddingResponse::write_json`],
//! which formats vectors straight into the output buffer: at tens of thousands of vectors a second,
//! a copy of them all would show.
//!
//! Three properties hold for every input and are worth knowing before changing anything here:
//!
//! - **Parsing is total.** No body panics, overflows the stack or recurses deeper than the format
//!   itself does, however many brackets it opens.
//! - **Faults are ranked, not raced.** Syntax comes first, then `model`, `input`, `encoding_format`
//!   and `dimensions`, whatever order the keys are in. A [`RequestError`] is therefore stable.
//! - **`null` vectors cannot be written.** [`Vectors::new`] refuses NaN and infinity, which JSON
//!   cannot express and which `serde_json` would silently turn into `null`.
//!
//! ```
//! use openai_schema::{EmbeddingInput, EmbeddingRequest, EmbeddingResponse, Usage, Vectors};
//!
//! let request = EmbeddingRequest::from_json(br#"{"model": "m", "input": ["a", "b"]}"#)?;
//! assert_eq!(request.input, EmbeddingInput::Texts(vec!["a".into(), "b".into()]));
//!
//! let response = EmbeddingResponse {
//!     model: request.model,
//!     vectors: Vectors::new(vec![1.0, 0.0, 0.0, 1.0], 2)?,
//!     format: request.encoding_format.unwrap_or_default(),
//!     usage: Usage { prompt_tokens: 6, total_tokens: 6 },
//! };
//! let mut body = Vec::new();
//! response.write_json(&mut body);
//! assert!(body.starts_with(br#"{"object":"list","data":[{"object":"embedding","index":0,"#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod embeddings;
mod error;
mod extra;
mod input;
mod models;
mod shape;
mod surrogates;
mod vector;

pub use embeddings::{EmbeddingRequest, EmbeddingResponse, EncodingFormat, Usage};
pub use error::{ErrorBody, ErrorDetail, RequestError};
pub use extra::ExtraValue;
pub use input::{EmbeddingInput, MAX_INPUTS, MAX_TOKENS};
pub use models::{ModelList, ModelObject};
pub use vector::{Vectors, VectorsError};
