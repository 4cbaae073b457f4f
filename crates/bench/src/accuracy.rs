//! Accuracy of a competitor: the cosines between its vectors of fixed texts and those in fp32.
//!
//! The texts are embedded one by one and then all together, because some quantized graphs share scales between the
//! texts of a batch. The vectors in fp32 are those of ONNX Runtime, which embedgate runs with `--isa none`.

use std::{
    fmt::{self, Display, Formatter},
    net::SocketAddr,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use testkit::workspace::Workspace;

use super::{
    client::{Client, floats_request},
    competitors::{self, launch::Launch},
    running::{Running, log_of},
};

/// Flags of `embedgate serve` for the vectors that all others are compared with.
const REFERENCE_FLAGS: [&str; 4] = ["--isa", "none", "--precision", "fp32"];

/// Texts that no competitor is calibrated with: sentences, long texts, single words, numbers, code, other scripts.
pub(crate) fn texts() -> Vec<&'static str> {
    include_str!("accuracy_texts.txt").split("\n\n").map(str::trim).collect()
}

/// Cosines between vectors and those in fp32 of the same texts, from −1 to 1; NaN if one of them is NaN.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Cosines {
    #[serde(deserialize_with = "null_as_nan")]
    pub(crate) worst: f64,
    #[serde(deserialize_with = "null_as_nan")]
    pub(crate) mean: f64,
}

impl Cosines {
    /// Compares vectors of the same texts in the same order. NaN if they differ in number or length, or if there are
    /// none.
    pub(crate) fn between(found: &[Vec<f32>], expected: &[Vec<f32>]) -> Self {
        if found.len() != expected.len() || found.is_empty() {
            return Self { worst: f64::NAN, mean: f64::NAN };
        }
        let cosines: Vec<f64> = found.iter().zip(expected).map(|(a, b)| cosine(a, b)).collect();
        // `f64::min` would hide NaN.
        let worst = cosines.iter().copied().reduce(|a, b| if b < a || b.is_nan() { b } else { a });
        Self { worst: worst.unwrap_or(f64::NAN), mean: cosines.iter().sum::<f64>() / cosines.len() as f64 }
    }
}

/// `worst / mean`.
impl Display for Cosines {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.5} / {:.5}", self.worst, self.mean)
    }
}

/// JSON has no NaN; serde writes null.
fn null_as_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The vectors in fp32 that all others are compared with.
///
/// # Errors
/// As [`of_embedgate`].
pub(crate) fn reference(workspace: &Workspace) -> Result<Vec<Vec<f32>>> {
    of_embedgate(workspace, &REFERENCE_FLAGS)
}

/// Starts embedgate with `flags` of `embedgate serve`, asks it for its vectors, and stops it.
///
/// # Errors
/// The release build is missing, does not start, or does not answer.
pub(crate) fn of_embedgate(workspace: &Workspace, flags: &[&str]) -> Result<Vec<Vec<f32>>> {
    let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    let launch = Launch::Embedgate { program: workspace.release_binary(), flags };
    let log = log_of(&workspace.runtime(), "accuracy");
    let running = Running::start(|port| launch.command(&competitors::model(workspace), port), &log)?;
    let vectors = ask(running.address);
    running.stop();
    vectors
}

/// The server's vectors of [`texts`]: each text alone, then all in one request.
///
/// # Errors
/// The connection fails, or a response is not 200 with a vector for each text.
pub(crate) fn ask(address: SocketAddr) -> Result<Vec<Vec<f32>>> {
    let mut client = Client::open(address)?;
    let texts = texts();
    let mut vectors = Vec::with_capacity(2 * texts.len());
    for batch in texts.chunks(1).chain([texts.as_slice()]) {
        let status = client.ask(&floats_request(batch))?;
        if status != 200 {
            bail!("status {status}: {}", client.excerpt());
        }
        let found = vectors_in(&client.reply().body)?;
        ensure!(found.len() == batch.len(), "{} vectors for {} texts", found.len(), batch.len());
        vectors.extend(found);
    }
    Ok(vectors)
}

/// The vectors of a response with `encoding_format` float, in the order of their indices.
fn vectors_in(body: &[u8]) -> Result<Vec<Vec<f32>>> {
    #[derive(Deserialize)]
    struct Item {
        index: usize,
        /// NaN is null in JSON.
        embedding: Vec<Option<f32>>,
    }
    let mut body: Value = serde_json::from_slice(body).context("the response is not JSON")?;
    let mut items: Vec<Item> =
        serde_json::from_value(body["data"].take()).context("the response has no vectors")?;
    items.sort_by_key(|item| item.index);
    let vector = |item: Item| item.embedding.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect();
    Ok(items.into_iter().map(vector).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_by_hand() {
        let expected = [vec![3.0, 4.0], vec![0.0, 2.0]];
        let cosines = Cosines::between(&[vec![4.0, 3.0], vec![0.0, 1.0]], &expected);
        assert_eq!(cosines, Cosines { worst: 0.96, mean: 0.98 });
        assert_eq!(cosines.to_string(), "0.96000 / 0.98000");
        assert_eq!(Cosines::between(&[vec![-3.0, -4.0]], &expected[..1]).worst, -1.0);
    }

    #[test]
    fn nan_is_not_hidden() {
        let expected = [vec![1.0, 0.0], vec![1.0, 0.0], vec![1.0, 0.0]];
        for place in 0..3 {
            let mut found = expected.clone();
            found[place][1] = f32::NAN;
            let cosines = Cosines::between(&found, &expected);
            assert!(cosines.worst.is_nan() && cosines.mean.is_nan(), "{place}: {cosines}");
        }
        for found in [vec![], vec![vec![1.0, 0.0]], vec![vec![1.0]; 3], vec![vec![0.0; 2]; 3]] {
            assert_eq!(Cosines::between(&found, &expected).to_string(), "NaN / NaN", "{found:?}");
        }
        let written = serde_json::to_string(&Cosines::between(&[], &[])).unwrap();
        assert!(serde_json::from_str::<Cosines>(&written).unwrap().worst.is_nan(), "{written}");
    }

    #[test]
    fn vectors_are_sorted_by_index_and_keep_nan() {
        let body = r#"{"data":[{"index":1,"embedding":[null,2]},{"index":0,"embedding":[0.5,1.0]}]}"#;
        let vectors = vectors_in(body.as_bytes()).unwrap();
        assert_eq!(vectors[0], [0.5, 1.0]);
        assert!(vectors[1][0].is_nan() && vectors[1][1] == 2.0);
        assert!(vectors_in(b"{}").unwrap_err().to_string().contains("no vectors"));
        assert!(vectors_in(b"<html>").unwrap_err().to_string().contains("not JSON"));
    }

    #[test]
    fn texts_differ_from_those_of_calibrations() {
        let texts = texts();
        // Stated in rules.md.
        assert!(texts.len() == 44 && texts.iter().all(|text| !text.is_empty()));
        let (ours, python) = (
            include_str!("../../gateway/src/load/builtin_texts.txt"),
            include_str!("competitors/in_process.py"),
        );
        for (index, text) in texts.iter().enumerate() {
            assert!(!texts[..index].contains(text), "{text}");
            assert!(
                ours.lines().all(|line| line != *text) && !python.contains(&format!("\"{text}")),
                "{text}"
            );
        }
        let words = |text: &&str| text.split_whitespace().count();
        // At most 256 tokens, the model's maximum: the longest has about 190.
        assert!(texts.iter().map(words).max() < Some(180) && texts.iter().any(|text| words(text) == 1));
    }
}
