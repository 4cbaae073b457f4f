//! What a hostile body costs before anybody has looked at its limits.

use openai_schema::{EmbeddingInput, EmbeddingRequest, MAX_INPUTS, MAX_TOKENS, RequestError};

/// The largest body that a server takes by default, in bytes.
const LARGEST: usize = 32 << 20;

/// A body of [`LARGEST`] bytes whose input is `element` again and again, what it is read as, and the most memory that
/// reading it takes, in bytes.
fn read(element: &str) -> (Result<EmbeddingRequest, RequestError>, u64) {
    let elements = vec![element; LARGEST / (element.len() + 1)].join(",");
    parse(&elements)
}

/// What a body with these elements is read as, and the most memory that takes, in bytes.
fn parse(elements: &str) -> (Result<EmbeddingRequest, RequestError>, u64) {
    let body = format!(r#"{{"model":"m","input":[{elements}]}}"#);
    let mut request = None;
    let info = allocation_counter::measure(|| request = Some(EmbeddingRequest::from_json(body.as_bytes())));
    (request.unwrap(), info.bytes_max)
}

#[test]
fn a_body_of_tiny_elements_takes_no_more_memory_than_itself() {
    for element in [r#""a""#, "[1]", r#""\u0061""#] {
        let (request, most) = read(element);
        assert_eq!(request.unwrap().input.len(), MAX_INPUTS + 1, "{element}");
        assert!(most < LARGEST as u64, "{element}: {most} bytes");
    }
    for element in [r#""""#, "[]"] {
        let (request, most) = read(element);
        assert_eq!(request, Err(RequestError::EmptyInput { index: 0 }));
        assert!(most < LARGEST as u64, "{element}: {most} bytes");
    }
    let ids = |request: Result<EmbeddingRequest, RequestError>| match request.unwrap().input {
        EmbeddingInput::Tokens(ids) => ids.len(),
        EmbeddingInput::TokenArrays(arrays) => arrays.iter().map(Vec::len).sum(),
        other => panic!("{other:?}"),
    };
    let (request, most) = read("1");
    assert_eq!(ids(request), MAX_TOKENS + 1);
    assert!(most < LARGEST as u64, "{most} bytes");
    // The largest that is kept behind one that is just not too large.
    let long = format!("[{}]", vec!["1"; MAX_TOKENS].join(","));
    let longer = format!("[{}]", vec!["1"; 2 * MAX_TOKENS].join(","));
    let (request, most) = parse(&format!("{long},{longer},{longer}"));
    assert_eq!(ids(request), 2 * MAX_TOKENS + 1);
    assert!(most < LARGEST as u64, "{most} bytes");
}

#[test]
fn the_rest_of_too_many_inputs_is_still_json() {
    let many = vec![r#""a""#; MAX_INPUTS + 10].join(",");
    let read = |tail: &str| {
        EmbeddingRequest::from_json(format!(r#"{{"model":"m","input":[{many}{tail}"#).as_bytes())
    };
    assert_eq!(read("]}").unwrap().input.len(), MAX_INPUTS + 1);
    assert!(matches!(read(",x]}"), Err(RequestError::MalformedJson { .. })));
}

#[test]
fn an_array_of_tiny_texts_in_an_extra_parameter_takes_no_more_memory_than_the_body() {
    fn keep(_: &str) -> Option<&'static str> {
        Some("extra")
    }
    let element = |number: usize| format!("\"{}\"", number % 40);
    let array = (0..LARGEST / 5).map(element).collect::<Vec<_>>().join(",");
    for array in [array, vec![r#""a""#; LARGEST / 4].join(",")] {
        let body = format!(r#"{{"model":"m","input":"a","extra":[{array}]}}"#);
        let mut request = None;
        let info = allocation_counter::measure(|| {
            request = Some(EmbeddingRequest::from_json_keeping(body.as_bytes(), keep));
        });
        assert_eq!(request.unwrap().unwrap().extra.len(), 1);
        assert!(info.bytes_max < LARGEST as u64, "{} bytes", info.bytes_max);
    }
}
