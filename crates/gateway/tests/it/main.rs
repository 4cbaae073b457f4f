//! The gateway from outside: every test starts the real server on its own port, with a fake encoder, and sends HTTP
//! over a socket.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod app;
mod auth;
mod captures;
mod connections;
mod documentation;
mod embeddings;
mod errors;
mod exposure;
mod fake;
mod fuzz;
mod lifecycle;
mod limits;
mod loading;
mod logs;
mod models;
mod openapi;
mod ops;
mod overload;
mod parameters;
mod prompts;
#[path = "../redis_server/mod.rs"]
mod redis_server;
mod rerank;
mod responses;
mod schema;
mod shared_limits;
#[cfg(unix)]
mod slow_clients;
#[cfg(unix)]
mod tls;
mod tokens;

use testkit::http;
