//! The gateway from outside: every test starts the real server on its own port, with a fake encoder, and sends HTTP
//! over a socket.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod app;
mod auth;
mod azure;
mod captures;
mod cohere;
mod commands;
mod compression;
mod connections;
mod dimensions;
mod docs;
mod documentation;
mod door_messages;
mod doors;
mod embeddings;
mod errors;
mod exposure;
mod fake;
mod fuzz;
mod home_page;
mod lifecycle;
mod limits;
mod loading;
mod logs;
mod models;
mod ollama;
mod openapi;
mod ops;
mod output_types;
mod overload;
mod parameters;
mod path_prefix;
mod prompts;
#[path = "../redis_server/mod.rs"]
mod redis_server;
mod rerank;
mod responses;
mod schema;
mod shared_limits;
#[cfg(unix)]
mod slow_clients;
mod status;
mod tei;
#[cfg(unix)]
mod tls;
mod tokenize;
mod tokens;
mod usage;

use testkit::http;
