//! What clients send only to break something: enormous words, texts that are empty once normalised, requests without end
//! whose answers they do not read.

#[cfg(target_os = "linux")]
use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
};

use crate::{
    reference::{EXAMPLES, assert_same, cosine},
    server::{Client, Server},
};

/// The model sees these as nothing: its tokenizer removes them before it looks for words.
const NOTHING: [&str; 6] = ["\u{301}", "\0", "\u{200b}", "\u{fffd}", "\u{301}\u{327}", "\u{202e}\u{200d}"];

fn one(client: &mut Client, text: &str) -> (Vec<f64>, u64) {
    let (mut vectors, tokens) = client.embed(text);
    (vectors.remove(0), tokens)
}

#[track_caller]
fn assert_alike(found: &(Vec<f64>, u64), expected: &(Vec<f64>, u64), what: &str) {
    assert_eq!(found.1, expected.1, "{what}");
    assert!(cosine(&found.0, &expected.0) > 0.999_999, "{what}");
}

#[test]
fn texts_that_nobody_writes_have_the_vectors_that_are_due_to_them() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let nothing = one(&mut client, "");
    assert_eq!(nothing.1, 2, "the special tokens alone");
    for text in NOTHING {
        for count in [1, 1000, 1 << 20] {
            assert_alike(&one(&mut client, &text.repeat(count)), &nothing, &format!("{text:?} × {count}"));
        }
    }
    // A word of more than a hundred letters is unknown to the vocabulary, whatever it is.
    let unknown = one(&mut client, &"x".repeat(101));
    assert_eq!(unknown.1, 3);
    for word in ["a", "e\u{301}", "ß", "ก"] {
        let long = word.repeat((5 << 20) / word.len());
        assert_alike(&one(&mut client, &long), &unknown, word);
    }
    // Five million letters that are words of their own: the window is full, the rest is cut.
    assert_eq!(one(&mut client, &"字".repeat((5 << 20) / 3)).1, 256);
    // Marks that belong to no letter between letters that do.
    let (plain, marked) =
        (one(&mut client, "cafe"), one(&mut client, "\u{200b}c\0a\u{301}\u{301}fe\u{fffd}"));
    assert_alike(&marked, &plain, "cafe");
    let example = &EXAMPLES[0];
    assert_same(&one(&mut client, &example.text).0, example);
}

/// The decoded requests of one such client took 20 MB when the server read ahead without a limit.
#[cfg(target_os = "linux")]
#[test]
fn pipelined_requests_without_readers_take_a_bounded_memory() {
    const CLIENTS: usize = 10;
    const MAX_GROWTH_KIB: usize = 30 << 10;
    let server = Server::start(&[]);
    server.connect().get("/livez");
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let before = resident();
    let requests = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2000);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = TcpStream::connect(server.address).unwrap();
            client.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            // Until the server takes no more of it.
            let error = std::iter::repeat_with(|| client.write_all(requests.as_bytes()))
                .take(100_000)
                .find_map(Result::err)
                .expect("the server reads on without a limit");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            client
        })
        .collect();
    let growth = resident().saturating_sub(before);
    assert!(growth < MAX_GROWTH_KIB, "{growth} KiB for {CLIENTS} clients");
    assert_eq!(server.connect().get("/livez").status, 200);
    drop(clients);
}
