//! Compressed bodies of requests and responses.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzDecoder, write};
use serde_json::json;

use crate::{
    app::{BODY, TestApp, vectors},
    http::Reply,
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = write::GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = write::ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = write::DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 19).unwrap()
}

/// `BODY` as Google's `brotli` writes it: one metablock that is not compressed, and an empty last one (RFC 7932, 9).
fn brotli() -> Vec<u8> {
    // WBITS 16 (1 bit), not last (1 bit), 4 nibbles (2 bits), length - 1 (16 bits), uncompressed (1 bit).
    let header = (u32::try_from(BODY.len()).unwrap() - 1) << 4 | 1 << 20;
    let mut bytes = header.to_le_bytes()[..3].to_vec();
    bytes.extend_from_slice(BODY);
    // Last and empty.
    bytes.push(0b11);
    bytes
}

fn send(app: &TestApp, coding: &str, body: &[u8]) -> Reply {
    app.send("POST", "/v1/embeddings", &[("content-encoding", coding)], body)
}

#[test]
fn bodies_in_every_coding_are_decoded() {
    let app = TestApp::start();
    let plain = app.post(BODY).json();
    let two_members = [gzip(&BODY[..5]), gzip(&BODY[5..])].concat();
    for (coding, body) in [
        ("gzip", gzip(BODY)),
        ("GZIP, identity", gzip(BODY)),
        ("x-gzip", two_members),
        ("deflate", zlib(BODY)),
        ("deflate", deflate(BODY)),
        ("zstd", zstd(BODY)),
        ("br", brotli()),
    ] {
        let reply = send(&app, coding, &body);
        assert_eq!(reply.status, 200, "{coding}: {}", reply.text());
        assert_eq!(reply.json(), plain, "{coding}");
    }
}

#[test]
fn a_bomb_ends_at_the_limit_of_a_body() {
    let app = TestApp::builder().config(|config| config.limits.max_body_bytes = 100_000).start();
    let zeros = vec![b' '; 50_000_000];
    for (coding, bomb) in [("gzip", gzip(&zeros)), ("deflate", zlib(&zeros)), ("zstd", zstd(&zeros))] {
        assert!(bomb.len() < 100_000, "{coding}");
        let reply = send(&app, coding, &bomb);
        assert_eq!(reply.status, 413, "{coding}: {}", reply.text());
        assert!(
            reply.message().starts_with("Maximum content size limit (100000) exceeded"),
            "{}",
            reply.text()
        );
    }
    assert!(app.get("/metrics").text().contains("embedgate_buffered_body_bytes 0\n"));
}

#[test]
fn bodies_that_cannot_be_decoded_are_rejected() {
    let app = TestApp::start();
    let cut = gzip(BODY);
    for (coding, body) in [
        ("gzip", BODY),
        ("gzip", &cut[..cut.len() - 4]),
        ("deflate", b"\xff\xff"),
        ("br", b"\xff"),
        ("zstd", BODY),
    ] {
        let reply = send(&app, coding, body);
        assert_eq!(reply.status, 400, "{coding}: {}", reply.text());
        assert!(reply.message().contains(&format!("could not be decoded as {coding}")), "{}", reply.text());
    }
}

/// A window of a zstd frame is memory that its header asks for.
#[test]
fn a_zstd_window_above_8_mib_is_rejected() {
    // Magic number, no content size, window of 2^27 bytes, a last block of one repeated byte.
    let frame = b"\x28\xb5\x2f\xfd\x00\x88\x0b\x00\x00a";
    let reply = send(&TestApp::start(), "zstd", frame);
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert!(reply.message().contains("could not be decoded as zstd"), "{}", reply.text());
}

#[test]
fn numbers_are_compressed_on_request_if_the_setting_allows_it() {
    let app =
        TestApp::builder().dimensions(64).config(|config| config.server.compress_responses = true).start();
    let post = |coding: &str, format: &str, inputs: usize| {
        let body = json!({"model": "m", "input": vec!["a"; inputs], "encoding_format": format}).to_string();
        app.send("POST", "/v1/embeddings", &[("accept-encoding", coding)], body.as_bytes())
    };
    // The second is sent in parts.
    for inputs in [10, 500] {
        let plain = post("identity", "float", inputs);
        assert_eq!((plain.header("content-encoding"), plain.header("vary")), (None, Some("accept-encoding")));
        for (accepted, coding) in [("br, gzip", "gzip"), ("gzip, zstd", "zstd"), ("gzip, zstd;q=0.9", "gzip")]
        {
            let compressed = post(accepted, "float", inputs);
            assert_eq!(compressed.header("content-encoding"), Some(coding), "{inputs}");
            assert!(compressed.body.len() < plain.body.len() / 2, "{coding}, {inputs}");
            let mut decoded = Vec::new();
            if coding == "gzip" {
                GzDecoder::new(&*compressed.body).read_to_end(&mut decoded).unwrap();
            } else {
                zstd::stream::copy_decode(&*compressed.body, &mut decoded).unwrap();
            }
            assert_eq!(decoded, plain.body, "{coding}, {inputs}");
        }
        let base64 = post("gzip", "base64", inputs);
        assert_eq!((base64.header("content-encoding"), vectors(&base64.json()).len()), (None, inputs));
    }
    assert_eq!(post("gzip", "float", 1).header("content-encoding"), None);
    let app = TestApp::builder().dimensions(64).start();
    let body = json!({"model": "m", "input": vec!["a"; 10]}).to_string();
    let reply = app.send("POST", "/v1/embeddings", &[("accept-encoding", "gzip")], body.as_bytes());
    assert_eq!((reply.header("content-encoding"), reply.header("vary")), (None, None));
}
