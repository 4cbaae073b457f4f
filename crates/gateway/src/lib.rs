//! embedgate over HTTP: OpenAI's embeddings API in front of [`inference`] engines.
//!
//! ```text
//! config ─▶ run ─▶ load ─▶ Registry ───────────────┐
//!            │                                     ▼
//!            └─▶ middleware ─▶ auth ─▶ body ─▶ routes ─▶ request ─▶ Engine
//!                    │                               └──────┴─▶ error ─▶ client
//!                    └─▶ metrics, log, trace
//! ```
//!
//! This crate joins what clients say (`openai-schema`), what a model folder is (`model-import`) and what a
//! model does (`inference`); those three never meet elsewhere. One request's journey: its `connection` gives every
//! state a limit in time, `middleware` gives it an id and reports it once, `auth` lets it in, `body` reads it, `request`
//! turns it into a job or refuses it, `limits` sees what its key has left, the engine embeds it, and the route prints
//! the answer. Every failure on the way is an [`ApiError`](error::ApiError) and leaves in OpenAI's envelope.
//!
//! The caller of [`run`] owns socket and signals: it passes a bound listener and a stream of requests to stop
//! ([`signals`]). The listener answers at once, with 503 until every model is loaded, warm and checked; after
//! the signal `/readyz` turns to 503, requests keep being answered for `shutdown_delay`, then the listener
//! closes, and what is in flight finishes before every thread is joined.
//!
//! What this crate must never know: how a vector is computed, how a graph is written.

mod auth;
mod backend;
mod background;
mod body;
mod budget;
pub mod cli;
pub mod config;
mod connection;
mod cors;
pub mod error;
pub mod health;
mod lifecycle;
mod limits;
mod load;
pub mod metrics;
mod middleware;
pub mod model_bench;
pub mod model_command;
pub mod parameters;
pub mod redis_cache;
mod registry;
mod request;
mod response;
mod routes;
mod server;
mod services;
pub mod signals;
pub mod telemetry;
mod tls;
mod trace;
mod vocabulary;
mod watched;

pub use auth::KeysFileError;
pub use backend::{Backend, Selection, SelectionReason};
pub use background::spawn_detached;
pub use load::{LoadError, ModelLoadError, load};
pub use registry::{LoadedModel, Registry, UnknownModel};
pub use server::{Listeners, RunError, run, run_with};
pub use tls::TlsError;
