//! Memory that parsing a hostile body takes, before the server applies its limits.

use openai_schema::{EmbeddingInput, EmbeddingRequest, MAX_INPUTS, MAX_TOKENS, RequestError, RequestFormat};

/// The server's default limit for a body, in bytes.
const MAX_BODY_BYTES: usize = 32 << 20;

/// Parses a body of about [`MAX_BODY_BYTES`] whose input repeats `element`. Returns the result and the peak memory in
/// bytes.
fn read(element: &str) -> (Result<EmbeddingRequest, RequestError>, u64) {
    let elements = vec![element; MAX_BODY_BYTES / (element.len() + 1)].join(",");
    parse(&elements)
}

/// Parses a body with these elements. Returns the result and the peak memory in bytes.
fn parse(elements: &str) -> (Result<EmbeddingRequest, RequestError>, u64) {
    let body = format!(r#"{{"model":"m","input":[{elements}]}}"#);
    let mut request = None;
    let info = allocation_counter::measure(|| request = Some(EmbeddingRequest::from_json(body.as_bytes())));
    (request.unwrap(), info.bytes_max)
}

#[test]
fn a_body_of_tiny_elements_takes_at_most_its_own_size() {
    for element in [r#""a""#, "[1]", r#""\u0061""#] {
        let (request, peak) = read(element);
        assert_eq!(request.unwrap().input.len(), MAX_INPUTS + 1, "{element}");
        assert!(peak < MAX_BODY_BYTES as u64, "{element}: {peak} bytes");
    }
    for element in [r#""""#, "[]"] {
        let (request, peak) = read(element);
        assert_eq!(request, Err(RequestError::EmptyInput { name: "input", index: 0 }));
        assert!(peak < MAX_BODY_BYTES as u64, "{element}: {peak} bytes");
    }
    let ids = |request: Result<EmbeddingRequest, RequestError>| match request.unwrap().input {
        EmbeddingInput::Tokens(ids) => ids.len(),
        EmbeddingInput::TokenArrays(arrays) => arrays.iter().map(Vec::len).sum(),
        other => panic!("{other:?}"),
    };
    let (request, peak) = read("1");
    assert_eq!(ids(request), MAX_TOKENS + 1);
    assert!(peak < MAX_BODY_BYTES as u64, "{peak} bytes");
    // Longer arrays after one of exactly the maximum.
    let long = format!("[{}]", vec!["1"; MAX_TOKENS].join(","));
    let longer = format!("[{}]", vec!["1"; 2 * MAX_TOKENS].join(","));
    let (request, peak) = parse(&format!("{long},{longer},{longer}"));
    assert_eq!(ids(request), 2 * MAX_TOKENS + 1);
    assert!(peak < MAX_BODY_BYTES as u64, "{peak} bytes");
}

#[test]
fn the_syntax_of_surplus_inputs_is_checked() {
    let many = vec![r#""a""#; MAX_INPUTS + 10].join(",");
    let read = |tail: &str| {
        EmbeddingRequest::from_json(format!(r#"{{"model":"m","input":[{many}{tail}"#).as_bytes())
    };
    assert_eq!(read("]}").unwrap().input.len(), MAX_INPUTS + 1);
    assert!(matches!(read(",x]}"), Err(RequestError::MalformedJson { .. })));
}

#[test]
fn an_extra_parameter_of_tiny_texts_takes_at_most_the_size_of_the_body() {
    fn keep(_: &str) -> Option<&'static str> {
        Some("extra")
    }
    let element = |number: usize| format!("\"{}\"", number % 40);
    let array = (0..MAX_BODY_BYTES / 5).map(element).collect::<Vec<_>>().join(",");
    for array in [array, vec![r#""a""#; MAX_BODY_BYTES / 4].join(",")] {
        let body = format!(r#"{{"model":"m","input":"a","extra":[{array}]}}"#);
        let mut request = None;
        let info = allocation_counter::measure(|| {
            request = Some(EmbeddingRequest::from_json_in(body.as_bytes(), RequestFormat::openai(keep)));
        });
        assert_eq!(request.unwrap().unwrap().extra.len(), 1);
        assert!(info.bytes_max < MAX_BODY_BYTES as u64, "{} bytes", info.bytes_max);
    }
}
