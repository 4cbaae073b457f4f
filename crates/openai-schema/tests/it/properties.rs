//! Property tests: every body gives the result of the reference parser, and none makes the parser panic.

use std::sync::LazyLock;

use openai_schema::{EmbeddingInput, EmbeddingRequest, EncodingFormat};
use proptest::{prelude::*, sample::Index};
use serde_json::{Value, json};

use crate::{captures, reference};

static CAPTURED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| captures::bodies().into_values().collect());

/// Bytes with a meaning in JSON, and bytes that are invalid in it or in UTF-8.
const SIGNIFICANT_BYTES: &[u8] = b"[]{}\",:\\ \n0123456789-+.eEutfnlasd\x00\x7f\x80\xc3\xed\xa0\xff";

/// A change of a byte or a range. Positions are fractions of the body's length.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index, Index),
    Repeat(Index, Index),
    Paste(Index, &'static str),
    Cross(Index, Index, Index),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let byte = || prop_oneof![4 => prop::sample::select(SIGNIFICANT_BYTES), 1 => any::<u8>()];
    let texts = [
        r"\ud83d",
        r"\ude00",
        "null",
        "[[",
        r#""input":["#,
        r#""dimensions":-1,"#,
        r#"{"model":"#,
        "1e400",
        "18446744073709551616",
        "\u{10ffff}",
    ];
    let edit = prop_oneof![
        (any::<Index>(), byte()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<Index>(), byte()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        any::<(Index, Index)>().prop_map(|(from, to)| Edit::Remove(from, to)),
        any::<(Index, Index)>().prop_map(|(from, to)| Edit::Repeat(from, to)),
        (any::<Index>(), prop::sample::select(texts.to_vec())).prop_map(|(at, text)| Edit::Paste(at, text)),
        any::<(Index, Index, Index)>().prop_map(|(other, at, from)| Edit::Cross(other, at, from)),
    ];
    prop::collection::vec(edit, 1..6)
}

fn apply(edit: &Edit, body: &mut Vec<u8>) {
    let position = |index: &Index, body: &[u8]| index.index(body.len() + 1);
    let range = |a: &Index, b: &Index, body: &[u8]| {
        let (a, b) = (position(a, body), position(b, body));
        a.min(b)..a.max(b)
    };
    match edit {
        Edit::Set(at, byte) => {
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = *byte;
            }
        }
        Edit::Insert(at, byte) => body.insert(position(at, body), *byte),
        Edit::Remove(from, to) => drop(body.drain(range(from, to, body))),
        Edit::Repeat(from, to) => {
            let range = range(from, to, body);
            let copy = body[range.clone()].to_vec();
            body.splice(range.end..range.end, copy);
        }
        Edit::Paste(at, text) => {
            let at = position(at, body);
            body.splice(at..at, text.bytes());
        }
        Edit::Cross(other, at, from) => {
            let other = other.get(&CAPTURED);
            body.truncate(position(at, body));
            body.extend_from_slice(&other[position(from, other)..]);
        }
    }
}

/// JSON similar to a request: known and unknown keys with values of every kind.
fn near_request() -> impl Strategy<Value = Value> {
    let scalar = || {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u32>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop::sample::select(vec!["", "m", "float", "base64"]).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ]
    };
    let ids = || prop::collection::vec(any::<u32>(), 0..4);
    let value = prop_oneof![
        4 => scalar(),
        1 => prop::collection::vec(scalar(), 0..4).prop_map(Value::from),
        1 => ids().prop_map(Value::from),
        1 => prop::collection::vec(ids(), 0..4).prop_map(Value::from),
        1 => prop::collection::vec(any::<String>(), 0..4).prop_map(Value::from),
        1 => prop::collection::btree_map(any::<String>(), scalar(), 0..3).prop_map(|map| json!(map)),
    ];
    let key = prop_oneof![
        8 => prop::sample::select(vec!["model", "input", "encoding_format", "dimensions", "user"]).prop_map(String::from),
        1 => any::<String>(),
    ];
    prop::collection::btree_map(key, value, 0..6).prop_map(|fields| json!(fields))
}

fn input() -> impl Strategy<Value = EmbeddingInput> {
    let text = "(?s).{1,20}";
    let ids = || prop::collection::vec(any::<u32>(), 1..20);
    prop_oneof![
        any::<String>().prop_map(EmbeddingInput::Text),
        prop::collection::vec(text, 1..8).prop_map(EmbeddingInput::Texts),
        ids().prop_map(EmbeddingInput::Tokens),
        prop::collection::vec(ids(), 1..8).prop_map(EmbeddingInput::TokenArrays),
    ]
}

/// Escapes all characters outside ASCII, as Python and Java clients do.
fn in_ascii(json: &str) -> String {
    let mut units = [0; 2];
    json.chars()
        .map(|c| match c {
            c if c.is_ascii() => c.to_string(),
            c => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_match_the_reference(body in prop::collection::vec(any::<u8>(), 0..200)) {
        reference::check(&body);
    }

    #[test]
    fn arbitrary_json_bytes_match_the_reference(body in prop::collection::vec(prop::sample::select(SIGNIFICANT_BYTES), 0..200)) {
        reference::check(&body);
    }

    #[test]
    fn edited_captures_match_the_reference(body in any::<Index>(), edits in edits()) {
        let mut body = body.get(&CAPTURED).clone();
        for edit in &edits {
            apply(edit, &mut body);
        }
        reference::check(&body);
    }

    #[test]
    fn objects_similar_to_requests_match_the_reference(value in near_request()) {
        reference::check(value.to_string().as_bytes());
    }

    /// Lone surrogates are replaced as in JavaScript's `toWellFormed`.
    #[test]
    fn any_utf16_is_decoded_lossily(units in prop::collection::vec(prop_oneof![0xD7F0_u16..=0xE010, any::<u16>()], 0..30)) {
        let escaped: String = units.iter().map(|unit| format!("\\u{unit:04X}")).collect();
        let request = EmbeddingRequest::from_json(format!(r#"{{"model":"m","input":"{escaped}"}}"#).as_bytes());
        prop_assert_eq!(request.unwrap().input, EmbeddingInput::Text(String::from_utf16_lossy(&units)));
    }

    #[test]
    fn the_four_forms_of_input_round_trip(
        input in input(),
        model in ".{1,10}",
        format in prop::sample::select(vec![
            (json!(null), None),
            (json!("float"), Some(EncodingFormat::Float)),
            (json!("base64"), Some(EncodingFormat::Base64)),
        ]),
        dimensions in prop::option::of(1_u32..),
    ) {
        let json = json!({
            "model": model,
            "input": match &input {
                EmbeddingInput::Text(text) => json!(text),
                EmbeddingInput::Texts(texts) => json!(texts),
                EmbeddingInput::Tokens(ids) => json!(ids),
                EmbeddingInput::TokenArrays(arrays) => json!(arrays),
            },
            "encoding_format": format.0,
            "dimensions": dimensions,
        });
        let request = Ok(EmbeddingRequest {
            model,
            input,
            input_name: "input",
            encoding_format: format.1,
            dimensions,
            extra: Vec::new(),
        });
        for body in [json.to_string(), format!("{json:#}"), in_ascii(&json.to_string())] {
            prop_assert_eq!(&EmbeddingRequest::from_json(body.as_bytes()), &request);
        }
    }
}
