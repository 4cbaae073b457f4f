//! Tests with single bodies: the four forms of `input`, every error with OpenAI's message, and bodies that break naive
//! parsers.

use openai_schema::{
    EmbeddingInput, EmbeddingRequest, EncodingFormat, ExtraValue, RequestError, RequestFormat,
};

fn parse(body: &str) -> Result<EmbeddingRequest, RequestError> {
    EmbeddingRequest::from_json(body.as_bytes())
}

fn with_input(input: &str) -> Result<EmbeddingInput, RequestError> {
    parse(&format!(r#"{{"model":"m","input":{input}}}"#)).map(|request| request.input)
}

/// Parses a request with `"model": "m", "input": "a"` and these fields.
fn with_fields(fields: &str) -> Result<EmbeddingRequest, RequestError> {
    parse(&format!(r#"{{"model":"m","input":"a",{fields}}}"#))
}

fn texts<const N: usize>(texts: [&str; N]) -> EmbeddingInput {
    EmbeddingInput::Texts(texts.map(str::to_owned).to_vec())
}

#[test]
fn all_fields_are_parsed() {
    let request = parse(
        r#"{
          "user": "u", "dimensions": 256, "input_type": {"nested": [1, "x", null]},
          "encoding_format": "base64", "input": ["a", "b"], "model": "org/m"
        }"#,
    );
    assert_eq!(
        request,
        Ok(EmbeddingRequest {
            input_name: "input",
            model: "org/m".to_owned(),
            input: texts(["a", "b"]),
            encoding_format: Some(EncodingFormat::Base64),
            dimensions: Some(256),
            extra: Vec::new(),
        })
    );
}

#[test]
fn absent_and_null_mean_the_default() {
    let plain = with_fields(r#""user":"u""#).unwrap();
    assert_eq!(plain.encoding_format, None);
    assert_eq!(EncodingFormat::default(), EncodingFormat::Float);
    assert_eq!(plain.dimensions, None);
    assert_eq!(with_fields(r#""encoding_format":null,"dimensions":null,"user":null"#), Ok(plain));
}

#[test]
fn the_four_forms_of_input_are_parsed() {
    for (json, input, len, single) in [
        (r#""a""#, EmbeddingInput::Text("a".into()), 1, true),
        (r#""""#, EmbeddingInput::Text(String::new()), 1, true),
        (r#"["a"]"#, texts(["a"]), 1, false),
        (r#"["a"," ","c"]"#, texts(["a", " ", "c"]), 3, false),
        ("[0]", EmbeddingInput::Tokens(vec![0]), 1, true),
        ("[791, 4062, 4294967295]", EmbeddingInput::Tokens(vec![791, 4062, u32::MAX]), 1, true),
        ("[[7]]", EmbeddingInput::TokenArrays(vec![vec![7]]), 1, false),
        ("[[7,8],[9]]", EmbeddingInput::TokenArrays(vec![vec![7, 8], vec![9]]), 2, false),
    ] {
        assert_eq!((input.len(), input.is_single()), (len, single), "{json}");
        assert_eq!(with_input(json), Ok(input), "{json}");
    }
}

#[test]
fn the_last_of_repeated_keys_counts() {
    assert_eq!(with_fields(r#""input":"b""#).unwrap().input, EmbeddingInput::Text("b".into()));
    assert_eq!(with_fields(r#""dimensions":"x","dimensions":2"#).unwrap().dimensions, Some(2));
    assert_eq!(with_fields(r#""input":5"#), Err(RequestError::WrongType { param: "input" }));
    assert_eq!(with_fields(r#""model":null"#), Err(RequestError::MissingModel));
}

#[test]
fn a_key_may_be_escaped() {
    assert_eq!(parse(r#"{"\u006dodel":"m","inp\u0075t":"a"}"#).unwrap().model, "m");
}

#[test]
fn inputs_of_the_wrong_type_are_errors() {
    for json in [
        "5",
        "-1",
        "1.5",
        "true",
        "{}",
        r#"{"text":"a"}"#,
        "[null]",
        "[true]",
        "[{}]",
        r#"["a",1]"#,
        r#"[1,"a"]"#,
        r#"["a",["b"]]"#,
        r#"["a",null,"b"]"#,
        "[1,[2]]",
        "[[1],2]",
        r#"[[1],"a"]"#,
        r#"[["a"]]"#,
        "[[[1]]]",
        "[[1],[[2]]]",
        "[1.0]",
        "[1e3]",
        "[-1]",
        "[-0]",
        "[4294967296]",
        "[[4294967296]]",
        "[18446744073709551616]",
        "[1,true]",
        r#"["","a",3]"#,
        "[[],1]",
        r#"[[],"a"]"#,
    ] {
        assert_eq!(with_input(json), Err(RequestError::WrongType { param: "input" }), "{json}");
    }
}

#[test]
fn empty_inputs_in_arrays_are_errors() {
    for (json, error) in [
        ("[]", RequestError::EmptyArray { name: "input" }),
        ("[ ]", RequestError::EmptyArray { name: "input" }),
        (r#"[""]"#, RequestError::EmptyInput { name: "input", index: 0 }),
        (r#"["a","b","",""]"#, RequestError::EmptyInput { name: "input", index: 2 }),
        ("[[]]", RequestError::EmptyInput { name: "input", index: 0 }),
        ("[[1],[]]", RequestError::EmptyInput { name: "input", index: 1 }),
    ] {
        assert_eq!(with_input(json), Err(error), "{json}");
    }
}

/// Message, `param` and `code` of each error.
#[test]
fn errors_have_openais_message_param_and_code() {
    const SEE: &str = "Please check the API reference: https://platform.openai.com/docs/api-reference.";
    let long = "x".repeat(1000);
    let cases = [
        (r#"{"input":"a"}"#, "you must provide a model parameter".to_owned()),
        (r#"{"model":null,"input":"a"}"#, "you must provide a model parameter".to_owned()),
        (r#"{"model":"","input":"a"}"#, "you must provide a model parameter".to_owned()),
        (r#"{"model":3,"input":"a"}"#, format!("'$.model' is invalid. {SEE}")),
        (r#"{"model":"m","input":5}"#, format!("'$.input' is invalid. {SEE}")),
        (r#"{"model":"m","input":[]}"#, "Invalid 'input': input cannot be an empty array.".to_owned()),
        (
            r#"{"model":"m","input":["a",""]}"#,
            "Invalid 'input[1]': input cannot be an empty string.".to_owned(),
        ),
        (
            r#"{"model":"m","input":"a","encoding_format":"hex"}"#,
            "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64'].".to_owned(),
        ),
        (
            &format!(r#"{{"model":"m","input":"a","encoding_format":"{long}"}}"#),
            format!(
                "Invalid value for 'encoding_format' = {}…. Supported values: ['float', 'base64'].",
                &long[..64]
            ),
        ),
        (
            r#"{"model":"m","input":"a","encoding_format":1}"#,
            format!("'$.encoding_format' is invalid. {SEE}"),
        ),
        (r#"{"model":"m","input":"a","dimensions":"8"}"#, format!("'$.dimensions' is invalid. {SEE}")),
        (r#"{"model":"m","input":"a","dimensions":8.5}"#, format!("'$.dimensions' is invalid. {SEE}")),
        (
            r#"{"model":"m","input":"a","dimensions":0}"#,
            "Invalid value for 'dimensions' = 0. Must be greater than or equal to 1.".to_owned(),
        ),
        (
            r#"{"model":"m","input":"a","dimensions":-3}"#,
            "Invalid value for 'dimensions' = -3. Must be greater than or equal to 1.".to_owned(),
        ),
        (
            r#"{"model":"m","input":"a","dimensions":4294967296}"#,
            "Invalid value for 'dimensions' = 4294967296. Must be less than or equal to 4294967295."
                .to_owned(),
        ),
        ("[]", format!("'$' is invalid: the body must be a JSON object. {SEE}")),
        (r#""m""#, format!("'$' is invalid: the body must be a JSON object. {SEE}")),
        ("null", format!("'$' is invalid: the body must be a JSON object. {SEE}")),
    ];
    for (body, message) in cases {
        let error = parse(body).unwrap_err();
        assert_eq!((error.to_string(), error.param(), error.code()), (message, None, None), "{body}");
    }

    for body in [r#"{"model":"m"}"#, r#"{"model":"m","input":null}"#] {
        let error = parse(body).unwrap_err();
        assert_eq!(error.to_string(), "Missing required parameter: 'input'.");
        assert_eq!((error.param(), error.code()), (Some("input"), Some("missing_required_parameter")));
    }
}

#[test]
fn errors_are_ranked_independent_of_the_order_of_keys() {
    let wrong = |param| Err(RequestError::WrongType { param });
    assert_eq!(parse(r#"{"dimensions":"x","encoding_format":1,"input":5,"model":3}"#), wrong("model"));
    assert_eq!(parse(r#"{"dimensions":"x","encoding_format":1,"input":5,"model":"m"}"#), wrong("input"));
    assert_eq!(with_fields(r#""dimensions":"x","encoding_format":1"#), wrong("encoding_format"));
    assert!(matches!(parse(r#"{"model":3,"input":5"#), Err(RequestError::MalformedJson { .. })));
}

#[test]
fn malformed_json_is_reported_with_line_and_column() {
    for (body, line, column, reason) in [
        (&b""[..], 1, 0, "EOF while parsing a value"),
        (b"{", 1, 1, "EOF while parsing an object"),
        (b"{\"model\":\"m\",\n\"input\":tru}", 2, 12, "expected ident"),
        (b"{\"model\":\"m\",\"input\":\"a\"} x", 1, 27, "trailing characters"),
        (b"{\"model\":\"\\x\"}", 1, 12, "invalid escape"),
        (b"{\"model\":\"m\",\"input\":\"\xff\"}", 1, 23, "invalid UTF-8"),
        (b"\n\n {\"model\":\"caf\xc3\"}", 3, 15, "invalid UTF-8"),
        // A surrogate encoded in bytes (WTF-8) is not UTF-8, although its escape is accepted.
        (b"{\"user\":\"\xed\xa0\xbd\"}", 1, 10, "invalid UTF-8"),
        // The byte order mark is not part of the JSON; only one is skipped.
        (b"\xef\xbb\xbf{\"model\":x", 1, 10, "expected value"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", 1, 1, "expected value"),
    ] {
        let error = EmbeddingRequest::from_json(body).unwrap_err();
        let location = format!("({reason} at line {line} column {column})");
        assert_eq!(error, RequestError::MalformedJson { line, column, reason: reason.to_owned() });
        let message = error.to_string();
        assert!(message.starts_with(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your \
             HTTP library correctly. "
        ));
        assert!(message.ends_with(&location), "{message}");
        assert_eq!((error.param(), error.code()), (None, None));
    }
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let body = r#"{"model":"m","input":"a"}"#;
    assert_eq!(parse(&format!("\u{feff}{body}")), parse(body));
}

/// Accepts the names of the extra parameters in these tests.
fn extra_name(key: &str) -> Option<&'static str> {
    ["first", "second", "model"].into_iter().find(|name| *name == key)
}

/// Returns the extra parameters of a request with these fields.
#[track_caller]
fn extra(fields: &str) -> Vec<(&'static str, ExtraValue)> {
    let body = format!(r#"{{"model":"m","input":"a",{fields}}}"#);
    EmbeddingRequest::from_json_in(body.as_bytes(), RequestFormat::openai(extra_name)).unwrap().extra
}

#[test]
fn extra_parameters_are_kept_by_name_with_their_kind() {
    let texts = |texts: &[&str]| ExtraValue::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
    let many = serde_json::to_string(&(0..17).map(|number| number.to_string()).collect::<Vec<_>>()).unwrap();
    for (json, value) in [
        ("null", ExtraValue::Null),
        ("true", ExtraValue::Bool(true)),
        ("-1", ExtraValue::Integer(-1)),
        (r#""END""#, ExtraValue::Text("END".to_owned())),
        (r#"["a","b","a"]"#, texts(&["a", "b"])),
        ("[]", texts(&[])),
        ("1.5", ExtraValue::Other),
        ("18446744073709551616", ExtraValue::Other),
        (r#"{"a":[{}]}"#, ExtraValue::Other),
        (r#"["a",1,{"b":[2]}]"#, ExtraValue::Other),
        (r#"["a",null]"#, ExtraValue::Other),
        (&many, ExtraValue::Other),
    ] {
        assert_eq!(extra(&format!(r#""third":0,"first":{json}"#)), [("first", value)], "{json}");
    }
    let both = extra(r#""second":1,"first":false,"second":2"#);
    assert_eq!(both, [("first", ExtraValue::Bool(false)), ("second", ExtraValue::Integer(2))]);
    assert_eq!(extra(r#""model":"n""#), [], "a field of OpenAI's is never extra");
}

#[test]
fn lone_surrogates_become_replacement_characters() {
    for (json, text) in [
        (r#""cut \ud83d""#, "cut \u{fffd}"),
        (r#""cut \uDE00""#, "cut \u{fffd}"),
        (r#""\ud83d in front""#, "\u{fffd} in front"),
        (r#""in \ud83d the middle""#, "in \u{fffd} the middle"),
        (r#""\ud83d\ud83d""#, "\u{fffd}\u{fffd}"),
        (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
        (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
        (r#""\ud83d\ude00\ud83d""#, "😀\u{fffd}"),
        (r#""\ud83d\ude00\ude00""#, "😀\u{fffd}"),
        (r#""\ud83d😀""#, "\u{fffd}😀"),
        (r#""\ud83d\n\ude00""#, "\u{fffd}\n\u{fffd}"),
        (r#""\ud83d\ude00""#, "😀"),
        (r#""\\ud83d""#, "\\ud83d"),
        (r#""\\\ud83d\"""#, "\\\u{fffd}\""),
    ] {
        assert_eq!(with_input(json), Ok(EmbeddingInput::Text(text.to_owned())), "{json}");
        assert_eq!(with_input(&format!("[{json}, {json}]")), Ok(texts([text, text])), "{json}");
        assert_eq!(parse(&format!(r#"{{"model":{json},"input":"a"}}"#)).unwrap().model, text, "{json}");
        assert!(with_fields(&format!(r#""user":{json},{json}:1"#)).is_ok(), "{json}");
    }
}

#[test]
fn a_truncated_escape_is_malformed() {
    for json in [r#""\ud83""#, r#""\ud83d\u""#, r#""\ud83d\ude0""#, r#""\ud83d\"#, r#""\ud83g""#] {
        assert!(matches!(with_input(json), Err(RequestError::MalformedJson { .. })), "{json}");
    }
}

/// A parser that recurses per bracket overflows its stack on these bodies.
#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    for bracket in ["[", r#"{"a":"#] {
        let open = bracket.repeat(200_000);
        for body in [
            open.clone(),
            format!(r#"{{"model":"m","input":{open}"#),
            format!(r#"{{"model":"m","input":[{open}"#),
            format!(r#"{{"model":"m","input":"a","metadata":{open}"#),
            format!(r#"{{"model":{open}"#),
        ] {
            let error = parse(&body).unwrap_err();
            assert!(matches!(error, RequestError::MalformedJson { .. }), "{}", &body[..40]);
        }
    }

    let nested = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(parse(&nested), Err(RequestError::NotAnObject));
    assert_eq!(with_input(&nested), Err(RequestError::WrongType { param: "input" }));
    assert!(with_fields(&format!(r#""metadata":{nested}"#)).is_ok());
}

#[test]
fn a_number_out_of_range_is_accepted_only_in_an_ignored_field() {
    assert!(with_fields(r#""temperature":1e999"#).is_ok());
    assert!(matches!(with_input("[1e999]"), Err(RequestError::MalformedJson { .. })));
}

#[test]
fn a_large_token_array_is_parsed() {
    let ids: Vec<u32> = (0..300_000).collect();
    let json = serde_json::to_string(&ids).unwrap();
    assert_eq!(with_input(&json), Ok(EmbeddingInput::Tokens(ids)));
}
