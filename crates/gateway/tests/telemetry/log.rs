//! The lines of a request in the log: each with the request's id, and with its trace's where there is one.

use serde_json::Value;

use crate::{http::Connection, program::Server};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Makes a request that is logged at three levels or more, from the middleware and from below it; its id and the log.
fn logged(format: &str, filter: &str) -> (String, String) {
    let server = Server::start(&[("EMBEDGATE_LOG_FORMAT", format), ("EMBEDGATE_LOG_FILTER", filter)]);
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-00");
    let reply = server.embed(&[("traceparent", &traceparent)], "cut at the window ".repeat(400));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.header("x-embedgate-truncated").is_some());
    let id = reply.header("x-request-id").unwrap().to_owned();
    (id, server.stop().log)
}

#[test]
fn the_start_up_lines_say_which_protections_are_on() {
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
    let line = "API keys: 2 · limits: 600 requests and 100000 tokens a minute · CORS: 2 origins · TLS: off · metrics \
                and probes: on 127.0.0.1:";
    assert!(on.contains(line) && !on.contains("sk-1"), "{on}");
}

#[test]
fn a_request_is_found_by_its_id_and_by_its_trace_though_nothing_is_traced() {
    let (id, log) = logged("text", "info");
    let found = |what: &str| log.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
    let lines = found(&format!("request=\"{id}\""));
    assert_eq!(lines, found(&format!("trace_id={TRACE}")));
    let said = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((said("answered"), said("inputs were cut"), lines.len()), (1, 1, 2), "{log}");
}

#[test]
fn in_json_both_ids_stand_beside_the_message() {
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
    assert!(answered.get("key").is_none(), "nobody's key is no key");
    // Lines that are no request's have no such field.
    assert!(lines.iter().any(|line| line.get("request").is_none()));
}

/// The ids belong to a line, not to its level.
#[test]
fn a_warning_has_its_ids_where_only_warnings_are_logged() {
    let (id, log) = logged("json", "warn,gateway::services=info");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ours: Vec<_> = lines.iter().filter(|line| line["request"] == id.as_str()).collect();
    let [line] = ours[..] else { panic!("{log}") };
    assert_eq!((line["level"].as_str(), line["trace_id"].as_str()), (Some("WARN"), Some(TRACE)));
}

#[test]
fn a_clients_malformed_request_is_logged_as_no_error() {
    let server = Server::start(&[("EMBEDGATE_LOG_FILTER", "debug")]);
    let mut connection = Connection::open(server.address);
    connection.send(b"no HTTP\r\n\r\n");
    assert_eq!(connection.receive().status, 400);
    assert!(connection.is_closed());
    let log = server.stop().log;
    assert!(log.contains("DEBUG") && log.contains("the connection broke"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}
