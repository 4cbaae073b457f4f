//! What the program tells of itself while it serves: traces, by OTLP to a collector, and lines in its log. The program
//! runs as a process of its own, with a tiny model, and the collector is a stand-in that decodes what it gets.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod collector;
mod faults;
mod log;
mod program;
mod traces;

use testkit::http;
