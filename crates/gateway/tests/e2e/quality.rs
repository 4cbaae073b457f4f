//! The right vectors, through HTTP: against sentence-transformers, alone and in company.

use std::thread;

use bert_cpu::{Isa, Precision};

use crate::{
    reference::{EXAMPLES, Example, FP32, assert_near, cosine, listable, served},
    server::Server,
};

fn texts(examples: &[&Example]) -> Vec<String> {
    examples.iter().map(|example| example.text.clone()).collect()
}

/// Every text is computed each time that it is asked for.
const NO_CACHE: [&str; 2] = ["--cache-memory", "0"];

#[test]
fn the_reference_texts_have_their_vectors_and_token_counts() {
    for (flags, least) in
        [(["--isa", "auto"], served()), (["--precision", "fp32"], FP32), (["--isa", "none"], FP32)]
    {
        check_reference(&Server::start(&[&NO_CACHE, &flags[..]].concat()), least);
    }
}

fn check_reference(server: &Server, least: f64) {
    let mut client = server.connect();
    for example in EXAMPLES.iter() {
        let (vectors, tokens) = client.embed(example.text.as_str());
        assert_eq!(vectors.len(), 1);
        assert_near(&vectors[0], example, least);
        assert_eq!(tokens, example.tokens, "{:?}", example.text);
    }
    let examples = listable();
    let (vectors, tokens) = client.embed(texts(&examples));
    assert_eq!(vectors.len(), examples.len());
    for (vector, example) in vectors.iter().zip(&examples) {
        assert_near(vector, example, least);
    }
    assert_eq!(tokens, examples.iter().map(|example| example.tokens).sum::<u64>());
}

/// 0.7420757 is what sentence-transformers gives for this model.
#[test]
fn two_sentences_about_the_cold_are_as_near_as_they_should_be() {
    let server = Server::start(&[]);
    let (vectors, _) = server.connect().embed(vec!["I feel extremely chilly", "I am so cold"]);
    let cosine = cosine(&vectors[0], &vectors[1]);
    assert!((cosine - 0.742_075_7).abs() < 1e-4, "{cosine}");
}

/// Requests of several clients share batches; who shares them must not show in the numbers. Our own kernels give the
/// same bits; the order of ONNX Runtime's sums depends on the shape of a batch.
#[test]
fn a_vector_is_the_same_alone_and_in_company() {
    let own = Isa::best(Precision::Fp32, None).is_some();
    for (isa, allowed) in [("auto", if own { 0.0 } else { 1e-5 }), ("none", 1e-5)] {
        check_company(&Server::start(&[&NO_CACHE, &["--isa", isa][..]].concat()), allowed);
    }
}

fn check_company(server: &Server, allowed: f64) {
    let examples = listable();
    let mut client = server.connect();
    let alone: Vec<_> =
        examples.iter().map(|example| client.embed(example.text.as_str()).0.remove(0)).collect();
    let check = |vector: &[f64], index: usize| {
        let worst = vector.iter().zip(&alone[index]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= allowed, "{:?} differs by {worst} in company", examples[index].text);
    };
    thread::scope(|scope| {
        for shift in 0..8 {
            let (examples, check) = (&examples, &check);
            scope.spawn(move || {
                let mut client = server.connect();
                let order: Vec<_> =
                    (0..examples.len()).map(|index| (index + 3 * shift) % examples.len()).collect();
                let chosen: Vec<_> = order.iter().map(|&index| examples[index]).collect();
                // What nobody else sends, so that texts which others have in flight are not all that runs.
                let own = (0..8).map(|number| format!("company {shift} {number}"));
                let (vectors, _) = client.embed(texts(&chosen).into_iter().chain(own).collect::<Vec<_>>());
                for (vector, &index) in vectors.iter().zip(&order) {
                    check(vector, index);
                }
            });
        }
    });
}

/// Memory may be taken by the first requests, not by each.
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_bounded() {
    const MIB: u64 = 1 << 20;
    let server = Server::start(&NO_CACHE);
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    };
    let all = texts(&listable());
    let mut client = server.connect();
    let mut round = |requests: usize| {
        for number in 0..requests {
            client.embed(all[number % 6].as_str());
        }
        client.embed(all.clone());
    };
    round(100);
    let warm = resident();
    round(400);
    let later = resident();
    assert!(later < 512 * MIB, "{} MiB resident", later / MIB);
    assert!(later < warm + 32 * MIB, "from {} to {} MiB in 400 requests", warm / MIB, later / MIB);
}
