//! HTTP connections: keep-alive, pipelining, declined upgrades, 100-continue, chunked bodies.

use crate::{
    app::{BODY, TestApp},
    http::{Connection, request},
};

#[test]
fn a_connection_serves_many_requests_errors_included() {
    let app = TestApp::start();
    let mut connection = Connection::open(app.address);
    let bodies: [(&[u8], u16); 5] =
        [(BODY, 200), (b"{", 400), (BODY, 200), (b"{\"model\":\"x\",\"input\":\"a\"}", 404), (BODY, 200)];
    let mut ids = std::collections::HashSet::new();
    for (body, status) in bodies {
        connection.send(&request("POST", "/v1/embeddings", &[], body));
        let reply = connection.receive();
        assert_eq!(reply.status, status);
        assert_ne!(reply.header("connection"), Some("close"));
        ids.insert(reply.header("x-request-id").unwrap().to_owned());
    }
    assert_eq!(ids.len(), 5, "request ids repeat");
}

#[test]
fn connection_close_is_obeyed() {
    let app = TestApp::start();
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &[("connection", "close")], BODY));
    let reply = connection.receive();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert!(connection.is_closed());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let app = TestApp::start();
    let mut connection = Connection::open(app.address);
    let both =
        [request("POST", "/v1/embeddings", &[], BODY), request("GET", "/v1/models/tiny", &[], b"")].concat();
    connection.send(&both);
    assert_eq!(connection.receive().json()["object"], "list");
    assert_eq!(connection.receive().json()["object"], "model");
}

/// While it computes, the server reads ahead as little as possible, but enough to see a disconnect.
#[test]
fn a_disconnect_is_detected_for_requests_of_any_size() {
    for size in [400_usize, 2047, 2048, 2049, 4096, 18_432, 20_480, 500_000] {
        let app = TestApp::start();
        app.control.hold();
        let entered = app.control.entered();
        let padded = |padding| request("POST", "/v1/embeddings", &[], &[BODY, &vec![b' '; padding]].concat());
        let padding =
            (size.saturating_sub(400)..size).rev().find(|&padding| padded(padding).len() <= size).unwrap();
        let mut connection = Connection::open(app.address);
        connection.send(&padded(padding));
        app.control.wait_for_batch(entered);
        drop(connection);
        app.wait_for_cancelled();
    }
}

/// The body of a later request must not end the connection: the dispatcher would announce so in the responses to those
/// before it, and close after its own if no further request has arrived by then.
#[test]
fn a_pipelined_body_keeps_the_connection_open() {
    let app = TestApp::start();
    let get = request("GET", "/v1/models/tiny", &[], b"");
    for size in [10, 1_000, 3_000, 20_000, 200_000] {
        let post = request("POST", "/v1/embeddings", &[], &vec![b' '; size]);
        let chunked = [
            &b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n19\r\n"[..],
            BODY,
            b"\r\n0\r\n\r\n",
        ]
        .concat();
        let mut connection = Connection::open(app.address);
        for _ in 0..3 {
            connection.send(&[&get[..], &get, &post, &chunked, &get, &post].concat());
            for status in [200, 200, 400, 200, 200, 400] {
                let reply = connection.receive();
                assert_eq!((reply.status, reply.header("connection")), (status, None), "{size}");
            }
        }
    }
}

#[test]
fn a_disconnect_is_detected_while_further_requests_wait() {
    for further in [1, 100] {
        let app = TestApp::start();
        app.control.hold();
        let entered = app.control.entered();
        let post = request("POST", "/v1/embeddings", &[], BODY);
        let mut connection = Connection::open(app.address);
        connection.send(&post.repeat(1 + further));
        app.control.wait_for_batch(entered);
        drop(connection);
        app.wait_for_cancelled();
    }
}

/// More than the server reads ahead, so that it has to continue with the rest by itself.
#[test]
fn hundreds_of_pipelined_requests_are_answered_in_order() {
    let app = TestApp::start();
    let mut connection = Connection::open(app.address);
    let post = request("POST", "/v1/embeddings", &[], &format!("{:20000}", "").into_bytes());
    let (known, unknown) =
        (request("GET", "/v1/models/tiny", &[], b""), request("GET", "/v1/models/none", &[], b""));
    let round = [known.as_slice(), &unknown, &post, &known].concat();
    for _ in 0..3 {
        connection.send(&round.repeat(100));
        for _ in 0..100 {
            assert_eq!([0; 4].map(|_| connection.receive().status), [200, 404, 400, 200]);
        }
    }
}

#[test]
fn an_h2c_upgrade_is_declined_by_answering_in_http_1() {
    let app = TestApp::start();
    let headers = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA"),
    ];
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &headers, BODY));
    let reply = connection.receive();
    assert_eq!(
        (reply.status, reply.header("upgrade"), reply.header("connection")),
        (200, None, Some("close"))
    );
    assert!(connection.is_closed());
}

#[test]
fn a_client_may_wait_for_100_continue() {
    let app = TestApp::start();
    let mut connection = Connection::open(app.address);
    connection.send(
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 25\r\n\r\n",
    );
    connection.send(BODY);
    assert_eq!(connection.receive().status, 200);
}

#[test]
fn the_100_continue_comes_before_the_body() {
    let app = TestApp::start();
    let mut connection = Connection::open(app.address);
    for _ in 0..2 {
        connection.send(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 25\r\n\r\n",
        );
        assert_eq!(connection.receive_head().status, 100);
        connection.send(BODY);
        assert_eq!(connection.receive().status, 200);
    }
}

#[test]
fn a_request_rejected_by_its_head_gets_no_100_continue() {
    let app = TestApp::builder().key("team", "secret").start();
    for (target, headers, status) in [
        ("/v1/embeddings", "content-length: 25", 401),
        ("/v1/embeddings", "transfer-encoding: chunked", 401),
        ("/v1/embeddings", "api-key: secret\r\ncontent-length: 99999999", 413),
        ("/v1/no", "content-length: 25", 404),
        ("/livez", "content-length: 25", 405),
    ] {
        let mut connection = Connection::open(app.address);
        let head = format!("POST {target} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n{headers}\r\n\r\n");
        connection.send(head.as_bytes());
        let reply = connection.receive_head();
        assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{head}");
    }
}

#[test]
fn a_body_may_come_byte_by_byte_and_in_chunks() {
    let app = TestApp::start();
    let mut connection = Connection::open(app.address);
    connection.send(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    for byte in BODY {
        connection.send(&[b'1', b'\r', b'\n', *byte, b'\r', b'\n']);
    }
    connection.send(b"0\r\n\r\n");
    assert_eq!(connection.receive().status, 200);
    for byte in request("POST", "/v1/embeddings", &[], BODY) {
        connection.send(&[byte]);
    }
    assert_eq!(connection.receive().status, 200);
}
