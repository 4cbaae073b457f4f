//! The JSON of OpenAI's embeddings API: requests, responses and errors.
//!
//! This crate knows only the wire format. It must not depend on HTTP, models, tokenizers, limits or settings: status
//! codes and the maximum number of inputs are up to the server.
//!
//! [`EmbeddingRequest::from_json`] parses the bytes of a body. It returns a request with valid fields, or a
//! [`RequestError`] with the message of OpenAI's API. [`EmbeddingResponse::write_json`] formats vectors straight into
//! the output buffer, without a copy: a server writes tens of thousands of vectors per second.
//!
//! Three properties hold for every input:
//!
//! - **Parsing is total.** No body causes a panic or a stack overflow, or recursion deeper than the request format, no
//!   matter how many brackets it opens.
//! - **Errors have a fixed order.** Syntax comes first, then `model`, `input`, `encoding_format` and `dimensions`,
//!   independent of the order of the keys. The same mistakes always give the same [`RequestError`].
//! - **Vectors never contain `null`.** [`Vectors::new`] rejects NaN and infinity, which JSON cannot express and which
//!   `serde_json` would silently write as `null`.
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
mod lenient;
mod models;
mod quantization;
mod surrogates;
mod vector;

pub use embeddings::{EmbeddingRequest, EmbeddingResponse, EncodingFormat, ModelField, RequestFormat, Usage};
pub use error::{ErrorBody, ErrorDetail, RequestError};
pub use extra::ExtraValue;
pub use input::{EmbeddingInput, MAX_INPUTS, MAX_TOKENS};
pub use models::{ModelList, ModelObject};
pub use quantization::{
    quantization_range, quantize_binary, quantize_int8, quantize_ubinary, quantize_uint8,
};
pub use vector::{Vectors, VectorsError};
