//! The gateway from outside: every test starts the real server on a port of its own, with a fake encoder
//! behind it, and speaks HTTP over a socket.

mod app;
mod auth;
mod captures;
mod connections;
mod documentation;
mod embeddings;
mod errors;
mod fake;
mod http;
mod lifecycle;
mod logs;
mod models;
mod ops;
mod overload;
mod schema;
mod tokens;
