//! The log: `tracing` events as lines for people or as JSON objects, on standard error.
//!
//! What is logged is decided where it is logged; the rule there is that no input text and no secret ever is. A line that
//! cannot be written, for the disk is full or the reader gone, is lost, and the request that it speaks of goes on.

mod json;

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, ParseError, filter_fn},
    fmt::{self, format::JsonFields},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{LogConfig, LogFormat};

use json::JsonLines;

/// The log could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter means nothing.
    #[error("the log filter `{filter}` is not understood")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// Something else receives this program's events already.
    #[error("the log is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends the events of this process to standard error.
///
/// # Errors
/// A filter that is not understood, or a second call.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|source| TelemetryError::Filter { filter: config.filter.clone(), source })?;
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Text => {
            let lines =
                fmt::layer().compact().with_target(false).with_writer(io::stderr).log_internal_errors(false);
            // On a terminal the library's own choice stands, which honours NO_COLOR.
            if io::stderr().is_terminal() { lines.boxed() } else { lines.with_ansi(false).boxed() }
        }
        LogFormat::Json => {
            let lines = fmt::layer().fmt_fields(JsonFields::new()).event_format(JsonLines);
            lines.with_writer(io::stderr).log_internal_errors(false).boxed()
        }
    };
    let filter = filter.and(filter_fn(|event| !is_repeated(event)));
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    Ok(())
}

/// Returns true for an error of the HTTP library that `connection` logs, too, at a level by its cause: the library calls a
/// client's malformed request an error of the server.
fn is_repeated(event: &Metadata<'_>) -> bool {
    event.target() == "actix_http::h1::dispatcher" && *event.level() == Level::ERROR
}
