//! The English STS benchmark's test set: 1,379 pairs of sentences that people scored for likeness.
//!
//! The set has a licence of its own and is no part of the project: `EMBEDGATE_STSB` names a CSV file of
//! sentence, sentence, score. `cargo xtask test` leaves this test out where there is none, and says so.

use std::{env, fs};

use crate::{
    reference::{cosine, served as least_cosine},
    server::Server,
    spearman::spearman,
};

/// Published by MTEB for all-MiniLM-L6-v2: Spearman of cosine and score, in percent.
const PUBLISHED: f64 = 82.03;
/// How far ours may be from it.
const TOLERANCE: f64 = 0.02;

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

    let (served, exact) = (vectors(&[], &pairs), vectors(&["--precision", "fp32"], &pairs));
    let worst = served.iter().zip(&exact).map(|(served, exact)| cosine(served, exact)).fold(1.0, f64::min);
    let scores: Vec<_> = pairs.iter().map(|pair| pair.score).collect();
    let [found, in_fp32] = [served, exact].map(|vectors| {
        let cosines: Vec<_> = vectors.chunks(2).map(|pair| cosine(&pair[0], &pair[1])).collect();
        100.0 * spearman(&cosines, &scores)
    });
    println!("STS-B: Spearman {found:.4}, in fp32 {in_fp32:.4}; worst cosine to fp32 {worst:.7}");
    for found in [found, in_fp32] {
        assert!((found - PUBLISHED).abs() <= TOLERANCE, "Spearman {found:.4}, published {PUBLISHED}");
    }
    assert!(worst >= least_cosine(), "worst cosine to fp32 {worst}");
}

/// The vectors of all sentences, from a server with these flags.
fn vectors(flags: &[&str], pairs: &[Pair]) -> Vec<Vec<f64>> {
    let server = Server::start(flags);
    let mut client = server.connect();
    let embed = |some: &[Pair]| {
        let texts: Vec<_> = some.iter().flat_map(|pair| pair.sentences.clone()).collect();
        let (vectors, _) = client.embed(texts);
        assert_eq!(vectors.len(), 2 * some.len());
        vectors
    };
    pairs.chunks(64).flat_map(embed).collect()
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
