//! An unreachable, failing or hanging collector, and a log that cannot be written, do not affect requests.

use std::{fs::OpenOptions, io::pipe, net::TcpListener};

use testkit::{ExitReport, wait::until};

use crate::{
    collector::{Collector, CollectorBehavior},
    program::Server,
};

/// Sends requests while their traces cannot be exported, for longer than several attempts.
#[track_caller]
fn without_collector(url: &str) -> ExitReport {
    // A small queue, which overflows.
    let variables = [
        ("EMBEDGATE_OTLP_ENDPOINT", url),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16"),
    ];
    let server = Server::start(&variables);
    for number in 0..200 {
        let reply = server.embed(&[], format!("number {number}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let ended = server.stop();
    assert!(ended.status.success(), "{:?}\n{}", ended.status, ended.log);
    ended
}

fn warnings(log: &str) -> usize {
    log.lines()
        .filter(|line| line.contains("WARN") && line.contains("cannot export spans to the trace collector"))
        .count()
}

#[test]
fn an_unreachable_collector_is_logged_once() {
    // Bound and closed again: a free port.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ended = without_collector(&format!("http://{address}"));
    assert_eq!(warnings(&ended.log), 1, "{}", ended.log);
    assert!(!ended.log.contains("ERROR"), "{}", ended.log);
}

#[test]
fn a_failing_collector_is_logged_once() {
    let collector = Collector::start(CollectorBehavior::Rejects);
    let ended = without_collector(&collector.url());
    assert_eq!(warnings(&ended.log), 1, "{}", ended.log);
    assert!(ended.log.contains("503"), "{}", ended.log);
    assert!(collector.tried() > 1);
}

#[test]
fn a_hanging_collector_delays_neither_requests_nor_the_shutdown() {
    let collector = Collector::start(CollectorBehavior::Hangs);
    // The queue has room for the spans of six requests, in 16 batches, each of which times out after five seconds.
    let server = Server::start(&[
        ("EMBEDGATE_OTLP_ENDPOINT", &collector.url()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "32"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
    ]);
    assert_eq!(server.embed(&[], "first attempt").status, 200);
    // A request that waited for an attempt, or for room in the queue, would not be answered before the attempt ends. An
    // attempt that outlasts these requests proves that none of them waited. On a slow machine this takes several tries.
    until("an attempt outlasts 20 requests", || {
        let Some(attempt) = collector.waits() else { return false };
        for number in 0..20 {
            assert_eq!(server.embed(&[], format!("number {number}")).status, 200);
        }
        collector.waits() == Some(attempt)
    });
    // Exporting the rest would take longer than `stop` waits.
    let ended = server.stop();
    assert!(ended.status.success(), "{:?}\n{}", ended.status, ended.log);
    assert!(ended.log.contains("queue full"), "{}", ended.log);
}

#[test]
fn a_recovered_collector_is_logged() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}");
    let mut server = Server::start(&[("EMBEDGATE_OTLP_ENDPOINT", &url), ("OTEL_BSP_SCHEDULE_DELAY", "20")]);
    assert_eq!(server.embed(&[], "lost").status, 200);
    server.wait_for_line("cannot export spans to the trace collector");
    let collector = Collector::on(TcpListener::bind(address).unwrap(), CollectorBehavior::Accepts);
    assert_eq!(server.embed(&[], "found").status, 200);
    server.wait_for_line("the trace collector accepts spans again");
    server.stop();
    assert_eq!(collector.traces().len(), 1);
}

/// Every write to `/dev/full` fails as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_the_log_affects_no_request() {
    for format in ["text", "json"] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let variables = [("EMBEDGATE_LOG_FORMAT", format), ("EMBEDGATE_LOG_FILTER", "debug")];
        serves(Server::start_logging_to(&variables, full.into()));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_closed_pipe_under_the_log_affects_no_request() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    serves(Server::start_logging_to(&[("EMBEDGATE_LOG_FILTER", "debug")], writer.into()));
}

#[cfg(target_os = "linux")]
#[track_caller]
fn serves(server: Server) {
    for number in 0..20 {
        assert_eq!(server.embed(&[], format!("number {number}")).status, 200);
    }
    assert_eq!(server.send("POST", "/v1/embeddings", &[], b"{").status, 400);
    assert_eq!(server.send("GET", "/livez", &[], b"").status, 200);
    assert!(server.stop().status.success());
}
