//! Accuracy over HTTP: vectors equal those of sentence-transformers, alone and in shared batches.

use std::thread;

use bert_cpu::{Isa, Precision};

use crate::{
    reference::{EXAMPLES, Example, FP32, assert_near, cosine, listable, served},
    server::Server,
};

fn texts(examples: &[&Example]) -> Vec<String> {
    examples.iter().map(|example| example.text.clone()).collect()
}

/// Every text is computed for each request.
const NO_CACHE: [&str; 2] = ["--cache-memory", "0"];

#[test]
fn reference_texts_have_the_reference_vectors_and_token_counts() {
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
fn the_cosine_of_two_sentences_equals_the_published_one() {
    let server = Server::start(&[]);
    let (vectors, _) = server.connect().embed(vec!["I feel extremely chilly", "I am so cold"]);
    let cosine = cosine(&vectors[0], &vectors[1]);
    assert!((cosine - 0.742_075_7).abs() < 1e-4, "{cosine}");
}

/// Requests of several clients share batches, which must not change the vectors (batch invariance). The native kernels
/// are bit-identical; the order of ONNX Runtime's sums depends on the shape of a batch.
#[test]
fn vectors_do_not_depend_on_the_batch() {
    let own = Isa::best(Precision::Fp32, None).is_some();
    for (isa, allowed) in [("auto", if own { 0.0 } else { 1e-5 }), ("none", 1e-5)] {
        check_batch_invariance(&Server::start(&[&NO_CACHE, &["--isa", isa][..]].concat()), allowed);
    }
}

fn check_batch_invariance(server: &Server, allowed: f64) {
    let examples = listable();
    let mut client = server.connect();
    let alone: Vec<_> =
        examples.iter().map(|example| client.embed(example.text.as_str()).0.remove(0)).collect();
    let check = |vector: &[f64], index: usize| {
        let worst = vector.iter().zip(&alone[index]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= allowed, "{:?} differs by {worst} in a shared batch", examples[index].text);
    };
    thread::scope(|scope| {
        for shift in 0..8 {
            let (examples, check) = (&examples, &check);
            scope.spawn(move || {
                let mut client = server.connect();
                let order: Vec<_> =
                    (0..examples.len()).map(|index| (index + 3 * shift) % examples.len()).collect();
                let chosen: Vec<_> = order.iter().map(|&index| examples[index]).collect();
                // Unique texts: equal texts of other clients are coalesced and not computed again.
                let own = (0..8).map(|number| format!("unique {shift} {number}"));
                let (vectors, _) = client.embed(texts(&chosen).into_iter().chain(own).collect::<Vec<_>>());
                for (vector, &index) in vectors.iter().zip(&order) {
                    check(vector, index);
                }
            });
        }
    });
}

/// The first requests may allocate memory, further ones may not.
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_bounded() {
    let server = Server::start(&NO_CACHE);
    let all = texts(&listable());
    let mut client = server.connect();
    let mut round = |requests: usize| {
        for number in 0..requests {
            client.embed(all[number % 6].as_str());
        }
        client.embed(all.clone());
    };
    round(100);
    let warm = server.resident();
    round(400);
    let later = server.resident();
    assert!(later < 536.9, "{later} MB resident");
    assert!(later < warm + 33.6, "from {warm} to {later} MB in 400 requests");
}
