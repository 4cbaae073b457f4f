//! End to end: the program itself, started as a user starts it, with the real model behind it.
//!
//! The tests need what `cargo xtask setup` fetches, and say so when it is not there.

#![allow(clippy::unwrap_used)]

// Written for the neighbouring tests, of which this client needs only a part.
#[allow(dead_code)]
#[path = "../it/http.rs"]
mod http;

mod drain;
mod hostile;
mod quality;
mod reference;
mod server;
mod spearman;
mod start_up;
mod stsb;
