//! The fuzz target of token ids: OpenAI's are read as the original encoder reads them, over HTTP.
//!
//! `cargo test` runs it on the corpus and a bounded number of random inputs; docs/fuzzing.md says how to run it under a
//! coverage-guided fuzzer.

use std::sync::LazyLock;

use serde_json::json;
use tiktoken_rs::{CoreBPE, cl100k_base};

use crate::app::{TestApp, vectors};

/// Size of the input: a hundred ids; more of them reach no further code.
const MAX_LEN: usize = 301;
/// Ends an array of ids.
const END: u32 = 0xff_ffff;
/// Every number up to here is an id.
const KNOWN: u32 = 100_256;

static APP: LazyLock<TestApp> = LazyLock::new(TestApp::start);
static ORIGINAL: LazyLock<CoreBPE> = LazyLock::new(|| cl100k_base().unwrap());

#[test]
fn token_ids() {
    bolero::check!().with_max_len(MAX_LEN).with_iterations(300).for_each(check);
}

/// Sends `bytes` as ids: bit 0 of the first byte selects one array or several, bit 1 known ids only; each further three
/// bytes are an id.
fn check(bytes: &[u8]) {
    let Some((shape, bytes)) = bytes.split_first() else { return };
    let known = |id: u32| if shape & 2 != 0 && id != END { id % KNOWN } else { id };
    let ids: Vec<u32> =
        bytes.as_chunks().0.iter().map(|&[a, b, c]| known(u32::from_le_bytes([a, b, c, 0]))).collect();
    let arrays: Vec<Vec<u32>> = match shape % 2 {
        0 => vec![ids.into_iter().filter(|&id| id != END).collect()],
        _ => ids.split(|&id| id == END).map(<[u32]>::to_vec).collect(),
    };
    let bare = shape % 2 == 0;
    let input = if bare { json!(arrays[0]) } else { json!(arrays) };
    let reply = APP.post(json!({"model": "m", "input": input}).to_string());

    match read(&arrays, bare) {
        Ok(texts) => {
            assert_eq!(reply.status, 200, "{input}: {}", reply.text());
            let text = APP.post(json!({"model": "m", "input": texts}).to_string());
            assert_eq!(vectors(&reply.json()), vectors(&text.json()), "{input} is not {texts:?}");
        }
        Err(place) => {
            assert_eq!(reply.status, 400, "{input}");
            assert!(
                reply.message().starts_with(&format!("Invalid '{place}': ")),
                "{input}: {}",
                reply.message()
            );
        }
    }
}

/// The texts of `arrays` by the original encoder, or the place that the error must name.
fn read(arrays: &[Vec<u32>], bare: bool) -> Result<Vec<String>, String> {
    if let Some(index) = arrays.iter().position(Vec::is_empty) {
        return Err(if bare { "input".to_owned() } else { format!("input[{index}]") });
    }
    let unknown = |id: &u32| ORIGINAL.decode_bytes(&[*id]).is_err();
    let text = |(index, ids): (usize, &Vec<u32>)| match ids.iter().position(unknown) {
        Some(position) if bare => Err(format!("input[{position}]")),
        Some(position) => Err(format!("input[{index}][{position}]")),
        None => Ok(String::from_utf8_lossy(&ORIGINAL.decode_bytes(ids).unwrap()).into_owned()),
    };
    arrays.iter().enumerate().map(text).collect()
}
