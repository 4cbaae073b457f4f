//! End to end: the program, started as a user starts it, with the default model.
//!
//! The tests need the downloads of `cargo xtask setup`, and fail without them.

#![allow(clippy::unwrap_used)]

mod drain;
mod hostile;
#[cfg(unix)]
mod proof;
mod quality;
mod reference;
mod server;
mod start_up;

use testkit::http;
