//! The English STS benchmark's test set: 1,379 pairs of sentences that people scored for likeness.
//!
//! The set has a licence of its own and is no part of the project: `EMBEDGATE_STSB` names a CSV file of
//! sentence, sentence, score. `cargo xtask test` leaves this test out where there is none, and says so.

use std::{env, fs};

use crate::{reference::cosine, server::Server, spearman::spearman};

/// Published by MTEB for all-MiniLM-L6-v2: Spearman of cosine and score, in percent.
const PUBLISHED: f64 = 82.03;

struct Pair {
    sentences: [String; 2],
    score: f64,
}

#[test]
fn stsb_spearman_over_http() {
    let path = env::var_os("EMBEDGATE_STSB").expect(
        "set EMBEDGATE_STSB to the benchmark's CSV file, or run `cargo xtask test`, which may do without",
    );
    let pairs: Vec<_> = fs::read_to_string(path).unwrap().lines().map(pair).collect();
    assert_eq!(pairs.len(), 1379);

    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut cosines = Vec::with_capacity(pairs.len());
    for some in pairs.chunks(64) {
        let texts: Vec<_> = some.iter().flat_map(|pair| pair.sentences.clone()).collect();
        let (vectors, _) = client.embed(texts);
        assert_eq!(vectors.len(), 2 * some.len());
        cosines.extend(vectors.chunks(2).map(|pair| cosine(&pair[0], &pair[1])));
    }
    let scores: Vec<_> = pairs.iter().map(|pair| pair.score).collect();
    let found = 100.0 * spearman(&cosines, &scores);
    assert!((found - PUBLISHED).abs() <= 0.05, "Spearman {found:.3}, published {PUBLISHED}");
}

fn pair(line: &str) -> Pair {
    let fields: [String; 3] =
        fields(line).try_into().unwrap_or_else(|_| panic!("not three fields: {line:?}"));
    let [first, second, score] = fields;
    Pair { sentences: [first, second], score: score.parse().unwrap() }
}

/// The fields of a CSV line by RFC 4180: a field with commas stands in quotes, and a quote in it is doubled.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => fields.last_mut().unwrap().push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap().push(character),
        }
    }
    fields
}

#[test]
fn a_quoted_field_may_hold_commas_and_quotes() {
    assert_eq!(fields("a b,c,2.5"), ["a b", "c", "2.5"]);
    assert_eq!(fields("\"a, \"\"b\"\"\",,5"), ["a, \"b\"", "", "5"]);
}
