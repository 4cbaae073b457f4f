//! The log: `tracing` events as text or as JSON objects, one per line on standard error.
//!
//! No event contains input text or a secret. A line that cannot be written (full disk, closed pipe) is dropped and does
//! not affect its request.

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

/// The log cannot be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter cannot be parsed.
    #[error("the log filter `{filter}` is invalid")]
    Filter {
        /// The filter.
        filter: String,
        /// The parser's error.
        #[source]
        source: ParseError,
    },
    /// The process has another subscriber.
    #[error("the log is already set up")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Writes the events of this process to standard error.
///
/// # Errors
/// If the filter is invalid, or the log is already set up.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|source| TelemetryError::Filter { filter: config.filter.clone(), source })?;
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Text => {
            let lines =
                fmt::layer().compact().with_target(false).with_writer(io::stderr).log_internal_errors(false);
            // On a terminal the library decides, which respects NO_COLOR.
            if io::stderr().is_terminal() { lines.boxed() } else { lines.with_ansi(false).boxed() }
        }
        LogFormat::Json => {
            let lines = fmt::layer().fmt_fields(JsonFields::new()).event_format(JsonLines);
            lines.with_writer(io::stderr).log_internal_errors(false).boxed()
        }
    };
    let filter = filter.and(filter_fn(|event| !is_duplicate(event)));
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    Ok(())
}

/// Returns true for an error that `connection` logs at a level that fits its cause. The HTTP library logs it, too, and
/// always as an error, even a client's malformed request.
fn is_duplicate(event: &Metadata<'_>) -> bool {
    event.target() == "actix_http::h1::dispatcher" && *event.level() == Level::ERROR
}
