//! Traces and log of a running program: a process of its own with a tiny model, and a fake collector that decodes OTLP.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod collector;
mod faults;
mod log;
mod program;
mod traces;

use testkit::http;
