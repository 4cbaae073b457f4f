//! Traces and log of a running program: a process of its own with a tiny model, and a fake collector that decodes OTLP.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

// Shared with the tests in `it`; not all of it is used here.
#[allow(dead_code)]
#[path = "../it/http.rs"]
mod http;

mod collector;
mod faults;
mod log;
mod program;
mod traces;
