//! Spans of a request at the collector, and secrets that must not be in them.

use std::{collections::BTreeMap, net::TcpStream, ops::Range, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::ServerName,
};
use serde_json::{Value, json};
use testkit::wait::until;

use crate::{
    collector::{Collector, CollectorBehavior, Seen, now},
    http::{Connection, request},
    program::Server,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

#[track_caller]
fn named<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    let found: Vec<_> = spans.iter().filter(|seen| seen.span.name == name).collect();
    let names: Vec<_> = spans.iter().map(|seen| &seen.span.name).collect();
    let [found] = found[..] else { panic!("{name} is not there once: {names:?}") };
    found
}

#[track_caller]
fn assert_attributes(seen: &Seen, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(seen.attributes.get(key), Some(value), "{key} of {:#?}", seen.attributes);
    }
}

/// The trace of the only request.
#[track_caller]
fn only(mut traces: BTreeMap<String, Vec<Seen>>) -> (String, Vec<Seen>) {
    assert_eq!(traces.len(), 1, "{:?}", traces.keys());
    traces.pop_first().unwrap()
}

#[test]
fn a_request_is_a_span_of_its_callers_trace_with_embedding_stages() {
    let collector = Collector::start(CollectorBehavior::Accepts);
    let server = Server::start(&[("EMBEDGATE_OTLP_ENDPOINT", &collector.url())]);
    let before = now();
    let headers = [("traceparent", &*parent("01")), ("tracestate", "vendor=a1,other=b2")];
    let reply = server.embed(&headers, ["one", "two"]);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let id = reply.header("x-request-id").unwrap().to_owned();
    let tokens = reply.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);

    let (trace, spans) = only(collector.traces());
    assert_eq!((trace.as_str(), spans.len()), (TRACE, 5));
    let request = named(&spans, "POST /v1/embeddings");
    assert_eq!(request.parent(), CALLER);
    assert_eq!(request.span.kind, 2, "SERVER");
    assert_attributes(
        request,
        &json!({
            "http.request.method": "POST", "http.route": "/v1/embeddings", "http.response.status_code": 200,
            "url.scheme": "http", "url.path": "/v1/embeddings", "network.protocol.version": "1.1",
            "server.address": "test.example", "server.port": 8080, "embedgate.request.id": id,
        }),
    );
    let model = named(&spans, "embeddings text-embedding-3-small");
    assert_eq!((model.parent(), model.span.kind), (request.id(), 1), "INTERNAL");
    assert_attributes(
        model,
        &json!({
            "gen_ai.operation.name": "embeddings", "gen_ai.provider.name": "embedgate",
            "gen_ai.request.model": "text-embedding-3-small", "gen_ai.response.model": "tiny",
            "gen_ai.request.encoding_formats": ["base64"], "gen_ai.usage.input_tokens": tokens,
            "gen_ai.embeddings.dimension.count": 48, "embedgate.request.inputs": 2,
            "server.address": "test.example", "server.port": 8080,
        }),
    );
    // In sequence, within their parents.
    let within = |inner: &Seen, outer: &Seen| {
        let (inner, outer) = (inner.times(), outer.times());
        assert!(outer.0 <= inner.0 && inner.0 <= inner.1 && inner.1 <= outer.1, "{inner:?} in {outer:?}");
    };
    within(model, request);
    let stages = ["tokenize", "queue", "inference"].map(|name| named(&spans, name));
    for stage in stages {
        assert_eq!(stage.parent(), model.id());
        within(stage, model);
    }
    assert!(stages.windows(2).all(|pair| pair[0].times().1 == pair[1].times().0));
    assert!(before <= request.times().0 && request.times().1 <= now());
    for seen in &spans {
        assert_eq!(seen.span.trace_state, "vendor=a1,other=b2");
        assert!(!seen.attributes.contains_key("error.type"), "{:?}", seen.attributes);
        assert_eq!(seen.resource["service.name"], "embedgate");
        assert_eq!(seen.resource["service.version"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn a_request_over_tls_has_scheme_https() {
    let made = rcgen::generate_simple_self_signed(["gateway.example".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let collector = Collector::start(CollectorBehavior::Accepts);
    let server = Server::start(&[
        ("EMBEDGATE_OTLP_ENDPOINT", &collector.url()),
        ("EMBEDGATE_TLS_CERTIFICATE", &file("tls.crt", made.cert.pem())),
        ("EMBEDGATE_TLS_KEY", &file("tls.key", made.signing_key.serialize_pem())),
    ]);
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("gateway.example").unwrap();
    let tls = ClientConnection::new(Arc::new(client), name).unwrap();
    let stream = TcpStream::connect(server.address).unwrap();
    let mut connection = Connection::over(StreamOwned::new(tls, stream));
    connection.send(&request("GET", "/v1/models", &[], b""));
    assert_eq!(connection.receive().status, 200);
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);
    let (_, spans) = only(collector.traces());
    assert_attributes(named(&spans, "GET /v1/models"), &json!({"url.scheme": "https"}));
}

#[test]
fn the_caller_decides_sampling_and_a_malformed_traceparent_is_ignored() {
    let collector = Collector::start(CollectorBehavior::Accepts);
    let variables = [("EMBEDGATE_OTLP_ENDPOINT", &*collector.url())];
    let server = Server::start(&variables);
    assert_eq!(server.embed(&[("traceparent", &parent("00"))], "not sampled").status, 200);
    let malformed = format!("00-{}-{CALLER}-01", TRACE.to_uppercase());
    assert_eq!(server.embed(&[("traceparent", &malformed)], "malformed").status, 200);
    // Probes are not traced.
    for path in ["/readyz", "/livez", "/metrics", "/status"] {
        assert_eq!(server.send("GET", path, &[("traceparent", &parent("01"))], b"").status, 200);
    }
    let log = server.stop().log;
    let (trace, spans) = only(collector.traces());
    assert_ne!(trace, TRACE);
    assert_eq!(named(&spans, "POST /v1/embeddings").parent(), "");
    // The log has the ids of both.
    let line = |trace: &str| log.lines().any(|line| line.contains(&format!("trace_id={trace}")));
    assert!(line(TRACE) && line(&trace), "{log}");

    let collector = Collector::start(CollectorBehavior::Accepts);
    let variables = [("EMBEDGATE_OTLP_ENDPOINT", &*collector.url()), ("EMBEDGATE_TRACE_SAMPLE_RATIO", "0")];
    let server = Server::start(&variables);
    assert_eq!(server.embed(&[], "left out").status, 200);
    assert_eq!(server.embed(&[("traceparent", &parent("01"))], "sampled by the caller").status, 200);
    server.stop();
    assert_eq!(only(collector.traces()).0, TRACE);
}

#[test]
fn the_standard_otel_variables_apply() {
    let collector = Collector::start(CollectorBehavior::Accepts);
    let server = Server::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url()),
        ("OTEL_SERVICE_NAME", "vectors"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=9"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ]);
    assert_eq!(server.send("GET", "/v1/models", &[], b"").status, 200);
    until("spans are sent", || collector.tried() > 0);
    server.stop();
    let (_, spans) = only(collector.traces());
    let resource = &named(&spans, "GET /v1/models").resource;
    assert_eq!(resource["service.name"], "vectors");
    assert_eq!(resource["deployment.environment.name"], "test");
    assert_eq!(resource["service.version"], "9");
}

#[test]
fn a_span_of_an_error_has_its_code_and_no_input_text() {
    const SECRETS: [&str; 7] = [
        "sk-right-41c7",
        "sk-wrong-88d0",
        "confidential-text",
        "my-own-model",
        "in-the-path",
        "in-the-query",
        "brew",
    ];
    let collector = Collector::start(CollectorBehavior::Accepts);
    let server = Server::start(&[
        ("EMBEDGATE_OTLP_ENDPOINT", &collector.url()),
        ("EMBEDGATE_API_KEYS", "team=sk-right-41c7"),
        ("EMBEDGATE_MAX_REQUEST_TOKENS", "100"),
        ("EMBEDGATE_TRUNCATION", "error"),
    ]);
    let right = ("authorization", "Bearer sk-right-41c7");
    let wrong = ("authorization", "Bearer sk-wrong-88d0");
    let unknown = json!({"model": "my-own-model", "input": "confidential-text"}).to_string();
    let long = "confidential-text ".repeat(200);
    let statuses = [
        server.embed(&[right], "confidential-text").status,
        server.embed(&[wrong], "confidential-text").status,
        server.send("POST", "/v1/embeddings", &[right], unknown.as_bytes()).status,
        server.embed(&[right], long).status,
        server.send("GET", "/v1/models/in-the-path?key=in-the-query", &[right], b"").status,
        server.send("GET", "/in-the-path?key=in-the-query", &[right], b"").status,
        server.send("BREW", "/v1/embeddings?key=in-the-query", &[right], b"").status,
    ];
    assert_eq!(statuses, [200, 401, 404, 400, 404, 404, 405]);
    server.stop();

    let bytes = String::from_utf8_lossy(&collector.bytes()).to_lowercase();
    assert!(bytes.contains("text-embedding-3-small"), "the search below works");
    for secret in SECRETS {
        assert!(!bytes.contains(secret), "{secret} was sent");
    }
    let spans: Vec<Seen> = collector.traces().into_values().flatten().collect();
    let statuses = |name: &str| {
        let spans = spans.iter().filter(|seen| seen.span.name == name);
        let mut statuses: Vec<_> =
            spans.map(|seen| seen.attributes["http.response.status_code"].clone()).collect();
        statuses.sort_by_key(Value::as_i64);
        statuses
    };
    assert_eq!(statuses("POST /v1/embeddings"), [200, 400, 401, 404]);
    assert_eq!(statuses("GET /v1/models/{id:.+}"), [404]);
    assert_eq!(statuses("_OTHER /v1/embeddings"), [405]);
    assert_eq!(statuses("GET"), [404]);
    // Only requests that reached the model have such a span: the answered one, and the one that is too long.
    let models: Vec<_> = spans.iter().filter(|seen| seen.span.name.starts_with("embeddings ")).collect();
    let mut errors: Vec<_> = models.iter().map(|seen| seen.attributes.get("error.type").cloned()).collect();
    errors.sort_by_key(Option::is_some);
    assert_eq!(errors, [None, Some("invalid_request_error".into())]);
    // A 4xx is not an error of a server span.
    let requests = spans.iter().filter(|seen| seen.span.kind == 2);
    assert!(requests.into_iter().all(|seen| !seen.attributes.contains_key("error.type")));
}

#[test]
fn a_503_and_a_disconnect_are_errors_of_the_span_and_a_4xx_is_not() {
    let collector = Collector::start(CollectorBehavior::Accepts);
    // The queue has room for one of the requests below, and each takes longer than the other needs to arrive.
    let mut server = Server::start(&[
        ("EMBEDGATE_OTLP_ENDPOINT", &collector.url()),
        ("EMBEDGATE_MAX_INPUTS", "20000"),
        ("EMBEDGATE_MAX_REQUEST_TOKENS", "2000000"),
        ("EMBEDGATE_MAX_QUEUE_TOKENS", "2000000"),
    ]);
    let body = |numbers: Range<usize>| {
        let texts: Vec<String> = numbers.map(|number| format!("{number} {}", "word ".repeat(70))).collect();
        json!({"model": "tiny", "input": texts}).to_string()
    };
    let mut first = Connection::open(server.address);
    first.send(&request("POST", "/v1/embeddings", &[], body(0..20_000).as_bytes()));
    let idle = "embedgate_tokens_in_flight{model=\"tiny\"} 0";
    until("the request is admitted", || !server.send("GET", "/metrics", &[], b"").text().contains(idle));
    // Other inputs: the same ones would be coalesced and admitted.
    assert_eq!(server.send("POST", "/v1/embeddings", &[], body(20_000..40_000).as_bytes()).status, 503);
    drop(first);
    server.wait_for_line("the client disconnected");
    assert!(server.stop().status.success());

    let errors = |name: &str| {
        let spans: Vec<Seen> = collector.traces().into_values().flatten().collect();
        let spans = spans.iter().filter(|seen| seen.span.name == name);
        let error =
            |seen: &Seen| (seen.attributes["error.type"].clone(), seen.span.status.as_ref().unwrap().code);
        spans.map(error).collect::<Vec<_>>()
    };
    // 2 is ERROR. The span of the disconnected request has no response and so no route.
    assert_eq!(errors("POST /v1/embeddings"), [("server_is_overloaded".into(), 2)]);
    assert_eq!(errors("POST"), [("cancelled".into(), 2)]);
    let mut models = errors("embeddings tiny");
    models.sort_by_key(|(error, _)| error.to_string());
    assert_eq!(models, [("cancelled".into(), 2), ("server_is_overloaded".into(), 2)]);
}
