//! The fuzz target of the request parser.
//!
//! `cargo test` runs it on the corpus and a bounded number of random bodies; docs/fuzzing.md says how to let a
//! coverage-guided fuzzer at it. What that finds worth keeping is added to the corpus under a name of its own.

use crate::reference;

/// Longer bodies reach no code that shorter ones do not.
const MAX_LEN: usize = 4096;

#[test]
fn request() {
    bolero::check!().with_max_len(MAX_LEN).with_iterations(2000).for_each(reference::check);
}
