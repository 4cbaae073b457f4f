//! A collector that is away, silent or unwilling, and a log that cannot be written: requests are answered as ever.

use std::{fs::OpenOptions, io::pipe, net::TcpListener};

use crate::{
    collector::{Collector, Manner},
    program::{Ended, Server},
};

/// Has requests answered while nobody takes their traces, for longer than several attempts.
#[track_caller]
fn without_collector(url: &str) -> Ended {
    // Small, so that it overflows.
    let variables = [
        ("EMBEDGATE_OTLP_ENDPOINT", url),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16"),
    ];
    let server = Server::start(&variables);
    for number in 0..200 {
        let reply = server.embed(&[], format!("nobody is told of number {number}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let ended = server.stop();
    assert!(ended.status.success(), "{:?}\n{}", ended.status, ended.log);
    ended
}

fn warnings(log: &str) -> usize {
    log.lines().filter(|line| line.contains("WARN") && line.contains("the collector takes no traces")).count()
}

#[test]
fn a_collector_that_is_away_is_spoken_of_once() {
    // Bound and let go: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ended = without_collector(&format!("http://{address}"));
    assert_eq!(warnings(&ended.log), 1, "{}", ended.log);
    assert!(!ended.log.contains("ERROR"), "{}", ended.log);
}

#[test]
fn a_collector_that_refuses_is_spoken_of_once() {
    let collector = Collector::start(Manner::Refuses);
    let ended = without_collector(&collector.url());
    assert_eq!(warnings(&ended.log), 1, "{}", ended.log);
    assert!(ended.log.contains("503"), "{}", ended.log);
    assert!(collector.tried() > 1);
}

#[test]
fn a_collector_that_hangs_delays_neither_requests_nor_the_end() {
    let collector = Collector::start(Manner::Hangs);
    // Room for the spans of six requests, in sixteen batches, each of which is given up after five seconds.
    let mut server = Server::start(&[
        ("EMBEDGATE_OTLP_ENDPOINT", &collector.url()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "32"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
    ]);
    assert_eq!(server.embed(&[], "what the first attempt is about").status, 200);
    // Whoever waits for an attempt is not answered before it ends, and whoever waits for room neither. So that an
    // attempt outlasts these requests proves that none of them did; on a slow machine it may take several.
    server.wait(|server| {
        let attempt = collector.waits()?;
        for number in 0..20 {
            assert_eq!(server.embed(&[], format!("nobody is told of number {number}")).status, 200);
        }
        (collector.waits() == Some(attempt)).then_some(())
    });
    // To wait for what is left would take longer than `stop` waits.
    let ended = server.stop();
    assert!(ended.status.success(), "{:?}\n{}", ended.status, ended.log);
    assert!(ended.log.contains("queue full"), "{}", ended.log);
}

#[test]
fn a_collector_that_comes_back_is_spoken_of() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{address}");
    let mut server = Server::start(&[("EMBEDGATE_OTLP_ENDPOINT", &url), ("OTEL_BSP_SCHEDULE_DELAY", "20")]);
    assert_eq!(server.embed(&[], "lost").status, 200);
    server.wait_for_line("the collector takes no traces");
    let collector = Collector::on(TcpListener::bind(address).unwrap(), Manner::Takes);
    assert_eq!(server.embed(&[], "found").status, 200);
    server.wait_for_line("the collector takes traces again");
    server.stop();
    assert_eq!(collector.traces().len(), 1);
}

/// Every write to `/dev/full` fails as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_log_on_a_full_disk_stops_nothing() {
    for format in ["text", "json"] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let variables = [("EMBEDGATE_LOG_FORMAT", format), ("EMBEDGATE_LOG_FILTER", "debug")];
        serves(Server::start_logging_to(&variables, full.into()));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
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
