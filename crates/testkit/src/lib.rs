//! Tools shared by tests and developer commands: the program as a child process, an HTTP client, files, waiting with a
//! limit, process statistics, the checkout's folders and the test report.
//!
//! No shipped crate depends on it: it is a dev-dependency of `gateway` and a dependency of the tools.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "checks print their results as they run")]

pub mod files;
pub mod http;
pub mod hub;
pub mod model;
pub mod process;
pub mod process_stats;
mod program;
pub mod report;
mod server;
pub mod wait;
pub mod workspace;

pub use self::program::{ExitReport, Program};
pub use self::server::{Server, embedgate};
