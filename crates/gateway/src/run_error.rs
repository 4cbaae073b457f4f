//! Errors of [`run`](crate::run).

use std::{io, time::Duration};

use opentelemetry_otlp::ExporterBuildError;
use thiserror::Error;

use crate::{auth::KeysFileError, load::LoadError, tls::TlsError};

/// The server could not start, or ended without a request to stop.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The listener cannot be used.
    #[error("cannot start the HTTP server on its listeners")]
    Listen(#[source] io::Error),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file of API keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysFileError),
    /// The shared rate limiter cannot start.
    #[error("cannot start the shared rate limiter (`limits.redis_url`)")]
    Limits(#[source] io::Error),
    /// A model cannot be served.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A step of the start panicked.
    #[error("{step} panicked")]
    StartPanicked {
        /// The step.
        step: &'static str,
    },
    /// A step of the start did not end after a request to stop.
    #[error(
        "stopped while {step}: the step did not end within {} s and was abandoned; check the volumes with model, key \
         and certificate files", waited.as_secs_f64()
    )]
    StartHangs {
        /// The step.
        step: &'static str,
        /// Time since the first request to stop.
        waited: Duration,
    },
    /// The system cannot start a thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A further request to stop ended the drain.
    #[error("a further stop request ended the drain: requests in flight were dropped")]
    DrainInterrupted,
    /// The trace exporter cannot be set up.
    #[error("cannot set up the trace exporter (`trace.otlp_endpoint`)")]
    Trace(#[source] ExporterBuildError),
    /// The HTTP server ended without a request to stop.
    #[error("the HTTP server ended unexpectedly")]
    Ended(#[source] Option<io::Error>),
}

impl RunError {
    /// Returns true if threads that may hang are left. The process must then exit without running exit handlers.
    pub fn leaves_threads(&self) -> bool {
        matches!(self, Self::StartHangs { .. } | Self::DrainInterrupted)
    }
}
