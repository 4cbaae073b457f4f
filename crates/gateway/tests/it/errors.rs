//! Every error that a client can see, as a snapshot of status, headers and body.

use insta::assert_snapshot;
use serde_json::json;

use crate::{
    app::{BODY, TestApp, WINDOW},
    http::{Connection, Reply, request},
    schema::assert_valid,
};

/// Status, headers and body of a response that must be an error in OpenAI's format.
#[track_caller]
fn summary(reply: &Reply) -> String {
    assert_valid("error", &reply.json());
    assert!(reply.header("x-request-id").is_some_and(|id| id.starts_with("req_")), "{reply:?}");
    reply.summary()
}

/// Sends the request line of `POST /v1/embeddings` and `rest`: further headers, an empty line, the start of a body.
fn send_beginning(app: &TestApp, rest: &str) -> Connection {
    let mut connection = Connection::open(app.address);
    connection.send(format!("POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n{rest}").as_bytes());
    connection
}

/// Header of a chunked body, and the end of the head.
const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";

#[test]
fn no_key() {
    let app = TestApp::builder().key("team", "sk-0123456789abcdefghij").start();
    assert_snapshot!(summary(&app.post(BODY)), @r#"
    401
    content-type: application/json
    www-authenticate: Bearer
    {"error":{"message":"You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).","type":"invalid_request_error","param":null,"code":null}}
    "#);
}

#[test]
fn wrong_key() {
    let app = TestApp::builder().key("team", "sk-0123456789abcdefghij").start();
    let headers = [("authorization", "Bearer sk-5f6ce0123456789acdb0")];
    assert_snapshot!(summary(&app.send("POST", "/v1/embeddings", &headers, b"{}")), @r#"
    401
    content-type: application/json
    www-authenticate: Bearer
    {"error":{"message":"Incorrect API key provided: sk-***cdb0. The operator of this server sets its keys.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}
    "#);
}

#[test]
fn invalid_bodies() {
    let app = TestApp::start();
    let responses = [
        r#"{"model":"gpt-5","input":"a"}"#,
        r#"{"input":"a"}"#,
        r#"{"model":"m"}"#,
        r#"{"model":"m","input":{"text":"a"}}"#,
        r#"{"model":"m","input":[]}"#,
        r#"{"model":"m","input":["a",""]}"#,
        r#"{"model":"m","input":"a","dimensions":4}"#,
        r#"{"model":"m","input":"a","dimensions":9}"#,
        r#"{"model":"m","input":"a","encoding_format":"int8"}"#,
        r#"{"model":"m","input":"#,
    ]
    .map(|body| format!("{body}\n{}", summary(&app.post(body))));
    assert_snapshot!(responses.join("\n\n"), @r#"
    {"model":"gpt-5","input":"a"}
    404
    content-type: application/json
    {"error":{"message":"The model `gpt-5` does not exist or you do not have access to it. Models here: `tiny`, `m`.","type":"invalid_request_error","param":null,"code":"model_not_found"}}

    {"input":"a"}
    400
    content-type: application/json
    {"error":{"message":"you must provide a model parameter","type":"invalid_request_error","param":null,"code":null}}

    {"model":"m"}
    400
    content-type: application/json
    {"error":{"message":"Missing required parameter: 'input'.","type":"invalid_request_error","param":"input","code":"missing_required_parameter"}}

    {"model":"m","input":{"text":"a"}}
    400
    content-type: application/json
    {"error":{"message":"'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference.","type":"invalid_request_error","param":null,"code":null}}

    {"model":"m","input":[]}
    400
    content-type: application/json
    {"error":{"message":"Invalid 'input': input cannot be an empty array.","type":"invalid_request_error","param":null,"code":null}}

    {"model":"m","input":["a",""]}
    400
    content-type: application/json
    {"error":{"message":"Invalid 'input[1]': input cannot be an empty string.","type":"invalid_request_error","param":null,"code":null}}

    {"model":"m","input":"a","dimensions":4}
    400
    content-type: application/json
    {"error":{"message":"This model does not support specifying dimensions. `m` stands for `tiny` here, which has 8 dimensions: leave 'dimensions' out, or send 8.","type":"invalid_request_error","param":"dimensions","code":null}}

    {"model":"m","input":"a","dimensions":9}
    400
    content-type: application/json
    {"error":{"message":"Invalid value for 'dimensions' = 9. Must be less than or equal to 8. `m` stands for `tiny` here, which has 8 dimensions: leave 'dimensions' out, or send 8.","type":"invalid_request_error","param":"dimensions","code":null}}

    {"model":"m","input":"a","encoding_format":"int8"}
    400
    content-type: application/json
    {"error":{"message":"Invalid value for 'encoding_format' = int8. Supported values: ['float', 'base64'].","type":"invalid_request_error","param":null,"code":null}}

    {"model":"m","input":
    400
    content-type: application/json
    {"error":{"message":"We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.) (EOF while parsing a value at line 1 column 21)","type":"invalid_request_error","param":null,"code":null}}
    "#);
}

#[test]
fn unknown_routes_and_methods() {
    let app = TestApp::start();
    let responses = [
        ("GET", "/v1/models/org/x", ""),
        ("GET", "/v1/embeddings", ""),
        ("DELETE", "/v1/models/tiny", ""),
        ("POST", "/v1/foo?x=1", "{}"),
    ]
    .map(|(method, path, body)| {
        format!("{method} {path}\n{}", summary(&app.send(method, path, &[], body.as_bytes())))
    });
    assert_snapshot!(responses.join("\n\n"), @r#"
    GET /v1/models/org/x
    404
    content-type: application/json
    {"error":{"message":"The model 'org/x' does not exist. Models here: `tiny`, `m`.","type":"invalid_request_error","param":"model","code":"model_not_found"}}

    GET /v1/embeddings
    405
    allow: POST
    content-type: application/json
    {"error":{"message":"Not allowed to GET on /v1/embeddings. (HINT: Perhaps you meant to use a different HTTP method?)","type":"invalid_request_error","param":null,"code":null}}

    DELETE /v1/models/tiny
    405
    allow: GET, HEAD
    content-type: application/json
    {"error":{"message":"Not allowed to DELETE on /v1/models/tiny. (HINT: Perhaps you meant to use a different HTTP method?)","type":"invalid_request_error","param":null,"code":null}}

    POST /v1/foo?x=1
    404
    content-type: application/json
    {"error":{"message":"Invalid URL (POST /v1/foo)","type":"invalid_request_error","param":null,"code":null}}
    "#);
}

#[test]
fn too_many_inputs() {
    let body = json!({"model": "m", "input": vec!["a"; 2049]}).to_string();
    assert_snapshot!(summary(&TestApp::start().post(body)), @r#"
    400
    content-type: application/json
    {"error":{"message":"Invalid 'input': array length must be 2048 or less.","type":"invalid_request_error","param":null,"code":null}}
    "#);
}

#[test]
fn too_long_an_input() {
    let app = TestApp::builder().model(|model| model.truncation = inference::TruncationPolicy::Error).start();
    let text = "a ".repeat(WINDOW + 1);
    let bare = app.post(json!({"model": "m", "input": text}).to_string());
    assert_snapshot!(summary(&bare), @r#"
    400
    content-type: application/json
    {"error":{"message":"Invalid 'input': maximum context length is 64 tokens. `m` stands for `tiny` here, which accepts 64 tokens per input: send shorter inputs, or choose how longer ones are handled with the header 'x-embedgate-truncation' (truncate, average).","type":"invalid_request_error","param":null,"code":null}}
    "#);
    let listed = app.post(json!({"model": "m", "input": ["a", text]}).to_string());
    assert_snapshot!(summary(&listed), @r#"
    400
    content-type: application/json
    {"error":{"message":"Invalid 'input[1]': maximum input length is 64 tokens. `m` stands for `tiny` here, which accepts 64 tokens per input: send shorter inputs, or choose how longer ones are handled with the header 'x-embedgate-truncation' (truncate, average).","type":"invalid_request_error","param":null,"code":null}}
    "#);
}

#[test]
fn too_many_tokens() {
    let app = TestApp::builder().config(|config| config.limits.max_request_tokens = 100).start();
    let text = "a ".repeat(WINDOW);
    assert_eq!(app.post(json!({"model": "m", "input": [text]}).to_string()).status, 200);
    assert_snapshot!(summary(&app.post(json!({"model": "m", "input": [text, text]}).to_string())), @r#"
    400
    content-type: application/json
    {"error":{"message":"Invalid 'input': maximum request size is 100 tokens per request.","type":"invalid_request_error","param":null,"code":null}}
    "#);
}

#[test]
fn dimensions_between_those_that_the_model_was_trained_for() {
    let app = TestApp::builder().model(|model| model.matryoshka_dimensions = vec![2, 4]).start();
    assert_snapshot!(summary(&app.post(r#"{"model":"m","input":"a","dimensions":3}"#)), @r#"
    400
    content-type: application/json
    {"error":{"message":"Invalid value for 'dimensions' = 3. Supported values: [2, 4, 8]. `m` stands for `tiny` here, which has 8 dimensions: leave 'dimensions' out, or send 2 or 4 or 8.","type":"invalid_request_error","param":"dimensions","code":null}}
    "#);
}

#[test]
fn unknown_truncation_policy() {
    let app = TestApp::start();
    let headers = [("x-embedgate-truncation", "cut")];
    let reply = app.send("POST", "/v1/embeddings", &headers, BODY);
    assert_snapshot!(summary(&reply), @r#"
    400
    content-type: application/json
    {"error":{"message":"Invalid value for header 'x-embedgate-truncation' = cut. Supported values: ['truncate', 'average', 'error'].","type":"invalid_request_error","param":null,"code":null}}
    "#);
}

/// Rejected by its `content-length`, so that the client need not send a body that the server would not read.
#[test]
fn announced_body_too_large() {
    let app = TestApp::builder().config(|config| config.limits.max_body_bytes = 1000).start();
    let reply = send_beginning(&app, "content-length: 5000\r\n\r\n{").receive();
    assert_snapshot!(summary(&reply), @r#"
    413
    content-type: application/json
    {"error":{"message":"Maximum content size limit (1000) exceeded (5000 bytes read)","type":"server_error","param":null,"code":null}}
    "#);
}

/// Rejected by its head, so that the client need not send a body that the server would not read.
#[test]
fn a_body_in_an_unknown_coding() {
    let app = TestApp::builder().key("team", "secret").start();
    let post =
        |headers: &str| send_beginning(&app, &format!("content-length: 50\r\n{headers}\r\n\r\n")).receive();
    let reply = post("api-key: secret\r\ncontent-encoding: compress");
    assert_snapshot!(summary(&reply), @r#"
    415
    content-type: application/json
    {"error":{"message":"The header 'content-encoding: compress' is not supported: send the body uncompressed, or in one of the codings gzip, deflate, br and zstd.","type":"invalid_request_error","param":null,"code":null}}
    "#);
    assert_eq!(reply.header("accept-encoding"), Some("gzip, deflate, br, zstd, identity"));
    for coding in ["lzma", "gzip, br", "aws-chunked", "gzip\r\ncontent-encoding: gzip"] {
        let reply = post(&format!("api-key: secret\r\ncontent-encoding: {coding}"));
        assert_eq!(reply.status, 415, "{coding}");
    }
    // The key is checked first.
    assert_eq!(post("content-encoding: compress").status, 401);
}

#[test]
fn broken_chunks_and_a_chunked_body_too_large() {
    let app = TestApp::builder().config(|config| config.limits.max_body_bytes = 1000).start();
    let large = format!("3e9\r\n{}\r\n", "x".repeat(1001));
    for (body, status) in [("zz\r\n", 400), (large.as_str(), 413)] {
        let reply = send_beginning(&app, &format!("{CHUNKED}{body}")).receive();
        assert_eq!(reply.status, status, "{reply:?}");
        assert_valid("error", &reply.json());
    }
}

/// Chunk sizes, extensions and trailers are not part of the body, but they are bounded, too.
#[test]
fn framing_of_a_chunked_body_is_bounded() {
    let app = TestApp::builder().config(|config| config.limits.max_body_bytes = 1000).start();
    for begin in ["", "1;", "0\r\nx: "] {
        let mut connection = send_beginning(&app, &format!("{CHUNKED}{begin}"));
        for _ in 0..32 {
            connection.send(&[b'0'; 16 << 10]);
        }
        let reply = connection.receive();
        assert_eq!((reply.status, reply.header("connection")), (413, Some("close")), "{begin:?}");
        assert_valid("error", &reply.json());
    }
}

#[test]
fn body_that_never_comes() {
    let app = TestApp::builder()
        .config(|config| config.server.request_timeout = std::time::Duration::from_secs(1))
        .start();
    let reply = send_beginning(&app, "content-length: 50\r\n\r\n{").receive();
    assert_snapshot!(summary(&reply), @r#"
    408
    content-type: application/json
    {"error":{"message":"Timed out reading the request: the body took more than 1 seconds.","type":"invalid_request_error","param":null,"code":null}}
    "#);
}

#[test]
fn invalid_utf8() {
    let message = TestApp::start().post_invalid(b"{\"model\":\"m\",\"input\":\"\xff\xfe\"}");
    assert!(message.starts_with("We could not parse the JSON body of your request."), "{message}");
}

#[test]
fn two_hundred_thousand_open_brackets() {
    let app = TestApp::start();
    for body in ["[".repeat(200_000), format!("{{\"model\":\"m\",\"input\":{}", "[".repeat(200_000))] {
        let reply = app.post(&body);
        assert_eq!(reply.status, 400);
        assert_valid("error", &reply.json());
    }
    assert_eq!(app.post(r#"{"model":"m","input":"still there"}"#).status, 200);
}

#[test]
fn routes_are_checked_before_keys_and_keys_before_bodies() {
    let app = TestApp::builder().key("team", "secret").config(|c| c.limits.max_body_bytes = 10).start();
    let status = |method, path, headers: &[_], body: &[u8]| app.send(method, path, headers, body).status;
    assert_eq!(status("POST", "/v1/foo", &[], b"{}"), 404);
    assert_eq!(status("GET", "/v1/embeddings", &[], b""), 405);
    assert_eq!(status("POST", "/v1/embeddings", &[], &[b'x'; 100]), 401);
    assert_eq!(status("POST", "/v1/embeddings", &[("api-key", "secret")], &[b'x'; 100]), 413);
    assert_eq!(status("POST", "/v1/embeddings", &[("api-key", "secret")], b"x"), 400);
}

/// A request that the HTTP layer rejects gets a response without a body, and its connection is closed.
#[test]
fn invalid_http_gets_a_status_without_a_body() {
    let app = TestApp::start();
    let huge = request("GET", "/livez", &[("x-huge", &"x".repeat(200_000))], b"");
    let many = request("GET", "/livez", &[("x", "y"); 96], b"");
    for (bytes, status) in [(b"\x16\x03\x01\x02\x00\x01\r\n\r\n".to_vec(), 400), (huge, 431), (many, 431)] {
        let mut connection = Connection::open(app.address);
        // The server may respond and close before it has read everything.
        let _ = connection.try_send(&bytes);
        assert_eq!(connection.receive().status, status);
        assert!(connection.is_closed());
    }
}
