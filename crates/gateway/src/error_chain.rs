//! An error with its sources, in one line for the log.

use std::{error::Error, fmt::Write};

/// Joins the messages of an error and its sources with colons.
pub(crate) fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
