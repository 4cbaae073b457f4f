//! HTTP server for OpenAI's embeddings API, in front of [`inference`] engines.
//!
//! ```text
//! config ─▶ run ─▶ load ─▶ Registry ───────────────┐
//!            │                                     ▼
//!            └─▶ middleware ─▶ auth ─▶ body ─▶ routes ─▶ request ─▶ Engine
//!                    │                               └──────┴─▶ error ─▶ client
//!                    └─▶ metrics, log, trace
//! ```
//!
//! This crate connects the API's types (`openai-schema`), model folders (`model-import`) and engines (`inference`),
//! which do not know each other. The way of a request: `connection` sets a timeout for each state of its connection,
//! `middleware` logs and counts it, `auth` checks its key, `body` reads it, `request` validates it and builds the
//! engine's job, `rate_limit` debits its tokens, the engine embeds its inputs, and `routes` serializes the response.
//! Every failure is an [`ApiError`](error::ApiError) in OpenAI's error format.
//!
//! The caller of [`run`] provides bound listeners and a stream of requests to stop ([`signals`]). Until every model of
//! the startup is loaded, warmed up and checked, the response to every request is 503. A model on demand is loaded by
//! its first request (`registry`). After a request to stop, `/readyz` fails while requests are still answered for
//! `shutdown_delay`. Then the listener closes, requests in flight finish, and every thread is joined.
//!
//! This crate never computes vectors and never reads model graphs.

mod auth;
mod backend;
mod background;
mod body;
mod body_coding;
mod budget;
mod catalogue;
pub mod cli;
mod command_error;
pub mod config;
mod connection;
mod cors;
pub mod error;
mod error_chain;
pub mod health;
mod html;
mod hub;
mod lifecycle;
mod load;
pub mod metrics;
mod middleware;
pub mod model_bench;
pub mod model_command;
mod model_list;
mod model_pull;
mod openapi;
pub mod parameters;
mod progress_line;
mod prompts;
mod rate_limit;
pub mod redis_cache;
mod registry;
mod reload;
mod request;
mod request_context;
mod response;
mod response_coding;
mod routes;
mod run_error;
mod server;
mod server_client;
mod services;
pub mod signals;
pub mod similarity_command;
pub mod status_command;
pub mod telemetry;
mod text_table;
mod tiktoken;
mod tls;
mod tokenize_queue;
mod trace;
mod usage;

pub use auth::KeysFileError;
pub use backend::{AccuracyProof, Backend, Selection, SelectionReason};
pub use background::spawn_detached;
pub use hub::HubModelError;
pub use load::{LoadError, ModelLoadError, load};
pub use prompts::{INPUT_KINDS, InputKind, PromptNames, Prompts};
pub use registry::{AliasError, LoadedModel, ModelDescription, ModelLoader, ModelSlot, Registry};
pub use run_error::RunError;
pub use server::{Listeners, run, run_with};
pub use server_client::ServerError;
pub use tls::TlsError;
