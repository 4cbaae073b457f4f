//! The fuzz target of the request parser.
//!
//! `cargo test` runs it on the corpus and a bounded number of random bodies. docs/fuzzing.md describes the run with a
//! coverage-guided fuzzer, whose finds join the corpus under a descriptive name.

use crate::reference;

/// Longer bodies reach no further code.
const MAX_LEN: usize = 4096;

#[test]
fn request() {
    bolero::check!().with_max_len(MAX_LEN).with_iterations(2000).for_each(reference::check);
}
