//! Tests of responses byte for byte, and of vectors that must survive both encodings unchanged.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use openai_schema::{
    EmbeddingResponse, EncodingFormat, ErrorBody, ModelList, ModelObject, Usage, Vectors, VectorsError,
};
use proptest::prelude::*;
use serde_json::Value;

fn write(model: &str, vectors: Vectors, format: EncodingFormat) -> String {
    let usage = Usage { prompt_tokens: 8, total_tokens: 8 };
    let mut json = Vec::new();
    EmbeddingResponse { model: model.to_owned(), vectors, format, usage }.write_json(&mut json);
    String::from_utf8(json).unwrap()
}

/// Reads the vectors of a response as a client does: numbers as f64, base64 as little-endian f32.
fn read(json: &str) -> Vec<Vec<f32>> {
    let response: Value = serde_json::from_str(json).unwrap();
    let read_item = |(index, item): (usize, &Value)| {
        assert_eq!(item["index"], index);
        match &item["embedding"] {
            Value::Array(numbers) => numbers.iter().map(|number| number.as_f64().unwrap() as f32).collect(),
            Value::String(base64) => {
                let bytes = STANDARD.decode(base64).unwrap();
                assert_eq!(bytes.len() % 4, 0);
                bytes.chunks(4).map(|le| f32::from_le_bytes(le.try_into().unwrap())).collect()
            }
            other => panic!("an embedding that is {other}"),
        }
    };
    response["data"].as_array().unwrap().iter().enumerate().map(read_item).collect()
}

fn bits(vectors: &[Vec<f32>]) -> Vec<Vec<u32>> {
    vectors.iter().map(|vector| vector.iter().map(|value| value.to_bits()).collect()).collect()
}

#[test]
fn a_float_response_is_written_byte_for_byte() {
    let vectors = Vectors::new(vec![1.0, -0.0, 0.1, -0.033_823, 1e-45, f32::MAX], 3).unwrap();
    assert_eq!(
        write("org/m", vectors, EncodingFormat::Float),
        concat!(
            r#"{"object":"list","data":["#,
            r#"{"object":"embedding","index":0,"embedding":[1.0,-0.0,0.1]},"#,
            r#"{"object":"embedding","index":1,"embedding":[-0.033823,1e-45,3.4028235e+38]}"#,
            r#"],"model":"org/m","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
        )
    );
}

/// The strings are from Python: `base64.b64encode(struct.pack("<2f", 1.0, -2.5))`, and so on.
#[test]
fn a_base64_response_is_written_byte_for_byte() {
    let vectors = Vectors::new(vec![1.0, -2.5, -0.0, 1e-45], 2).unwrap();
    assert_eq!(
        write("m", vectors, EncodingFormat::Base64),
        concat!(
            r#"{"object":"list","data":["#,
            r#"{"object":"embedding","index":0,"embedding":"AACAPwAAIMA="},"#,
            r#"{"object":"embedding","index":1,"embedding":"AAAAgAEAAAA="}"#,
            r#"],"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
        )
    );
}

#[test]
fn write_json_appends_to_the_buffer() {
    let mut json = b"before".to_vec();
    EmbeddingResponse {
        model: "m".to_owned(),
        vectors: Vectors::new(vec![], 3).unwrap(),
        format: EncodingFormat::Float,
        usage: Usage { prompt_tokens: 0, total_tokens: u64::MAX },
    }
    .write_json(&mut json);
    assert_eq!(
        String::from_utf8(json).unwrap(),
        r#"before{"object":"list","data":[],"model":"m","usage":{"prompt_tokens":0,"total_tokens":18446744073709551615}}"#
    );
}

#[test]
fn a_model_name_is_escaped() {
    let name = "\"\\\n\u{0}é😀";
    let json = write(name, Vectors::new(vec![1.0], 1).unwrap(), EncodingFormat::Float);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["model"], name);
}

/// The lengths cover the size of an encoding chunk and the three paddings.
#[test]
fn base64_is_correct_for_every_length() {
    let values: Vec<f32> = (0..1200_u16).map(|n| f32::from(n) / 7.0 - 80.0).collect();
    for dimensions in (1..=7).chain(383..=386).chain(767..=770).chain([1024, 1152, 1153]) {
        let row = &values[..dimensions];
        let json = write("m", Vectors::new(row.to_vec(), dimensions).unwrap(), EncodingFormat::Base64);
        let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(json.contains(&format!(r#""embedding":"{}"}}"#, STANDARD.encode(bytes))), "{dimensions}");
        assert_eq!(bits(&read(&json)), bits(&[row.to_vec()]), "{dimensions}");
    }
}

#[test]
fn a_buffer_for_unit_vectors_is_reserved_once() {
    let (dimensions, rows) = (384, 50);
    let values: Vec<f32> = (0..dimensions * rows)
        .map(|n| (n as f32 * 0.618_034).fract() - 0.5)
        .map(|value| value * (12.0 / dimensions as f32).sqrt())
        .collect();
    let vectors = Vectors::new(values, dimensions).unwrap();
    for format in [EncodingFormat::Float, EncodingFormat::Base64] {
        let usage = Usage { prompt_tokens: 1, total_tokens: 1 };
        let mut json = Vec::new();
        EmbeddingResponse { model: "m".to_owned(), vectors: vectors.clone(), format, usage }
            .write_json(&mut json);
        // A buffer that grows at least doubles.
        assert!(json.capacity() < json.len() * 5 / 4, "{format:?}: {} of {}", json.len(), json.capacity());
    }
}

#[test]
fn ragged_and_non_finite_vectors_are_errors() {
    assert_eq!(Vectors::new(vec![1.0; 5], 2), Err(VectorsError::Ragged { values: 5, dimensions: 2 }));
    assert_eq!(Vectors::new(vec![], 0), Err(VectorsError::Ragged { values: 0, dimensions: 0 }));
    for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = Vectors::new(vec![1.0, 2.0, 3.0, value, 5.0, 6.0], 3).unwrap_err();
        assert_eq!(error, VectorsError::NotFinite { vector: 1, component: 0 });
        assert_eq!(error.to_string(), "component 0 of vector 1 is not a finite number");
    }
}

#[test]
fn models_are_written_byte_for_byte() {
    let (id, owned_by) = ("org/m".to_owned(), "org".to_owned());
    let model = ModelObject { id, created: 1_700_000_000, owned_by, task: "embed" };
    let one = r#"{"object":"model","id":"org/m","created":1700000000,"owned_by":"org","task":"embed"}"#;
    assert_eq!(serde_json::to_string(&model).unwrap(), one);
    let list = ModelList { data: vec![model.clone(), model] };
    assert_eq!(serde_json::to_string(&list).unwrap(), format!(r#"{{"object":"list","data":[{one},{one}]}}"#));
}

#[test]
fn errors_are_written_byte_for_byte() {
    let full = ErrorBody::new("no \"x\"", "invalid_request_error", Some("input"), Some("c"));
    assert_eq!(
        serde_json::to_string(&full).unwrap(),
        r#"{"error":{"message":"no \"x\"","type":"invalid_request_error","param":"input","code":"c"}}"#
    );
    assert_eq!(
        serde_json::to_string(&ErrorBody::new("m", "server_error", None, None)).unwrap(),
        r#"{"error":{"message":"m","type":"server_error","param":null,"code":null}}"#
    );
}

/// Finite f32 by bit pattern, so that subnormals and -0.0 are as likely as other values.
fn finite() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |value| value.is_finite())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_encodings_keep_every_bit(
        rows in (1_usize..40).prop_flat_map(|dimensions| {
            prop::collection::vec(prop::collection::vec(finite(), dimensions), 0..5)
        })
    ) {
        let values = rows.concat();
        let vectors = Vectors::new(values, rows.first().map_or(1, Vec::len)).unwrap();
        for format in [EncodingFormat::Float, EncodingFormat::Base64] {
            let json = write("m", vectors.clone(), format);
            prop_assert_eq!(bits(&read(&json)), bits(&rows));
            prop_assert!(!json.contains("null"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Tested for any size of the parts, and with indices of one to three digits.
    #[test]
    fn concatenated_parts_equal_the_whole_response(
        (dimensions, values) in (1_usize..10, 0_usize..130).prop_flat_map(|(dimensions, rows)| {
            (Just(dimensions), prop::collection::vec(finite(), dimensions * rows))
        }),
        part_bytes in prop_oneof![Just(0), 1_usize..2000, Just(usize::MAX)],
        model in "\\PC{0,8}",
    ) {
        let vectors = Vectors::new(values, dimensions).unwrap();
        for format in [EncodingFormat::Float, EncodingFormat::Base64] {
            let usage = Usage { prompt_tokens: 12, total_tokens: 12 };
            let response = EmbeddingResponse { model: model.clone(), vectors: vectors.clone(), format, usage };
            let mut whole = Vec::new();
            response.write_json(&mut whole);
            let (mut parts, mut next) = (Vec::new(), Some(0));
            while let Some(from) = next {
                let before = parts.len();
                next = response.write_part(from, part_bytes, &mut parts);
                prop_assert!(next.is_none_or(|next| next > from));
                let longest_vector = 60 + dimensions * 16;
                prop_assert!(parts.len() - before <= part_bytes.saturating_add(longest_vector + 200));
            }
            prop_assert_eq!(String::from_utf8(parts), String::from_utf8(whole.clone()));
            let known = (format == EncodingFormat::Base64).then_some(whole.len() as u64);
            prop_assert_eq!(response.json_len(), known);
        }
    }
}

#[test]
fn both_encodings_keep_the_edge_values_of_f32() {
    let edges = [
        0.0,
        -0.0,
        f32::from_bits(1),
        -f32::from_bits(1),
        f32::from_bits(0x007f_ffff),
        f32::MIN_POSITIVE,
        f32::EPSILON,
        1.0 - f32::EPSILON / 2.0,
        16_777_216.0,
        f32::MAX,
        f32::MIN,
    ];
    let vectors = Vectors::new(edges.to_vec(), edges.len()).unwrap();
    for format in [EncodingFormat::Float, EncodingFormat::Base64] {
        assert_eq!(bits(&read(&write("m", vectors.clone(), format))), bits(&[edges.to_vec()]));
    }
}
