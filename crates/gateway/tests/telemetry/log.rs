//! Log lines of a request have its id, and the id of its trace if there is one.

use serde_json::Value;

use crate::{http::Connection, program::Server};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Sends a request that is logged as INFO and WARN. Returns its id and the log.
fn logged(format: &str, filter: &str) -> (String, String) {
    let server = Server::start(&[("EMBEDGATE_LOG_FORMAT", format), ("EMBEDGATE_LOG_FILTER", filter)]);
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-00");
    let reply = server.embed(&[("traceparent", &traceparent)], "longer than the maximum ".repeat(400));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.header("x-embedgate-truncated").is_some());
    let id = reply.header("x-request-id").unwrap().to_owned();
    (id, server.stop().log)
}

#[test]
fn the_start_up_line_lists_the_enabled_protections() {
    let off = Server::start(&[]).stop().log;
    let line = "API keys: off · limits: off · CORS: off · TLS: off · metrics and probes: on the main address";
    assert!(off.contains(line), "{off}");
    let on = Server::start(&[
        ("EMBEDGATE_API_KEYS", "alice=sk-1\nbob=sk-2"),
        ("EMBEDGATE_KEY_REQUESTS_PER_MINUTE", "600"),
        ("EMBEDGATE_KEY_TOKENS_PER_MINUTE", "100000"),
        ("EMBEDGATE_CORS_ORIGINS", "https://a.example,https://b.example"),
        ("EMBEDGATE_OPS_LISTEN", "localhost:0"),
    ])
    .stop()
    .log;
    let line = "API keys: 2 · limits: 600 requests and 100000 tokens per minute · CORS: 2 origins · TLS: off · \
                metrics and probes: on 127.0.0.1:";
    assert!(on.contains(line) && !on.contains("sk-1"), "{on}");
}

#[test]
fn log_lines_have_request_id_and_trace_id_without_a_collector() {
    let (id, log) = logged("text", "info");
    let found = |what: &str| log.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
    let lines = found(&format!("request=\"{id}\""));
    assert_eq!(lines, found(&format!("trace_id={TRACE}")));
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("answered"), count("inputs were truncated"), lines.len()), (1, 1, 2), "{log}");
}

#[test]
fn json_lines_have_both_ids_at_the_top_level() {
    let (id, log) = logged("json", "info");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ours: Vec<_> = lines.iter().filter(|line| line["request"] == id.as_str()).collect();
    assert_eq!(ours.len(), 2, "{log}");
    for line in &ours {
        assert_eq!(line["trace_id"], TRACE);
    }
    let answered = ours.iter().find(|line| line["message"] == "answered").unwrap();
    assert_eq!((answered["level"].as_str(), answered["status"].as_u64()), (Some("INFO"), Some(200)));
    assert_eq!(
        (answered["target"].as_str(), answered["inputs"].as_u64()),
        (Some("gateway::middleware"), Some(1))
    );
    assert!(answered["ms"].as_f64().is_some() && answered["timestamp"].as_str().is_some());
    assert!(answered.get("key").is_none(), "without keys there is no key field");
    // Lines without a request have no such field.
    assert!(lines.iter().any(|line| line.get("request").is_none()));
}

#[test]
fn warnings_have_their_ids_at_filter_level_warn() {
    let (id, log) = logged("json", "warn,gateway::services=info");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ours: Vec<_> = lines.iter().filter(|line| line["request"] == id.as_str()).collect();
    let [line] = ours[..] else { panic!("{log}") };
    assert_eq!((line["level"].as_str(), line["trace_id"].as_str()), (Some("WARN"), Some(TRACE)));
}

#[test]
fn a_malformed_request_is_logged_at_level_debug() {
    let server = Server::start(&[("EMBEDGATE_LOG_FILTER", "debug")]);
    let mut connection = Connection::open(server.address);
    connection.send(b"no HTTP\r\n\r\n");
    assert_eq!(connection.receive().status, 400);
    assert!(connection.is_closed());
    let log = server.stop().log;
    assert!(log.contains("DEBUG") && log.contains("connection failed"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}
