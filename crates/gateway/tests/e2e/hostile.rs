//! Hostile input: enormous words, texts that are empty after normalization, pipelined requests whose responses are not
//! read.

#[cfg(target_os = "linux")]
use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
};

use crate::{
    reference::{EXAMPLES, assert_same, cosine},
    server::{Client, Server},
};

/// Characters that the tokenizer removes before it splits words.
const REMOVED: [&str; 6] = ["\u{301}", "\0", "\u{200b}", "\u{fffd}", "\u{301}\u{327}", "\u{202e}\u{200d}"];

fn one(client: &mut Client, text: &str) -> (Vec<f64>, u64) {
    let (mut vectors, tokens) = client.embed(text);
    (vectors.remove(0), tokens)
}

#[track_caller]
fn assert_equal(found: &(Vec<f64>, u64), expected: &(Vec<f64>, u64), what: &str) {
    assert_eq!(found.1, expected.1, "{what}");
    assert!(cosine(&found.0, &expected.0) > 0.999_999, "{what}");
}

#[test]
fn degenerate_texts_have_the_expected_vectors() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let empty = one(&mut client, "");
    assert_eq!(empty.1, 2, "the special tokens alone");
    for text in REMOVED {
        for count in [1, 1000, 1 << 20] {
            assert_equal(&one(&mut client, &text.repeat(count)), &empty, &format!("{text:?} × {count}"));
        }
    }
    // Any word of more than a hundred letters is the unknown token.
    let unknown = one(&mut client, &"x".repeat(101));
    assert_eq!(unknown.1, 3);
    for word in ["a", "e\u{301}", "ß", "ก"] {
        let long = word.repeat((5 << 20) / word.len());
        assert_equal(&one(&mut client, &long), &unknown, word);
    }
    // Five million letters that are words of their own: truncated to max_input_tokens.
    assert_eq!(one(&mut client, &"字".repeat((5 << 20) / 3)).1, 256);
    // Combining marks and removed characters between letters.
    let (plain, marked) =
        (one(&mut client, "cafe"), one(&mut client, "\u{200b}c\0a\u{301}\u{301}fe\u{fffd}"));
    assert_equal(&marked, &plain, "cafe");
    let example = &EXAMPLES[0];
    assert_same(&one(&mut client, &example.text).0, example);
}

/// Without a limit of what is read ahead, the decoded requests of one such client take 20 MB.
#[cfg(target_os = "linux")]
#[test]
fn pipelined_requests_without_readers_take_a_bounded_memory() {
    const CLIENTS: usize = 10;
    const MAX_GROWTH_MB: f64 = 31.5;
    let server = Server::start(&[]);
    server.connect().get("/livez");
    let before = server.resident();
    let requests = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2000);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = TcpStream::connect(server.address()).unwrap();
            client.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            // Until the server reads no more.
            let error = std::iter::repeat_with(|| client.write_all(requests.as_bytes()))
                .take(100_000)
                .find_map(Result::err)
                .expect("the server reads on without a limit");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            client
        })
        .collect();
    let growth = server.resident() - before;
    assert!(growth < MAX_GROWTH_MB, "{growth} MB for {CLIENTS} clients");
    assert_eq!(server.connect().get("/livez").status, 200);
    drop(clients);
}
