//! The release binary for arm64 in the emulator: its vectors must equal those of this machine's binary.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::toolchain::Toolchain;
use testkit::report::Suite;
use testkit::workspace::{DEFAULT_MODEL, Workspace};
use testkit::{Server, http};

use crate::start_server;

/// Minimum cosine of a text's two vectors; sums in another order differ by 1e-7.
const MIN_SAME: f64 = 0.999_99;
/// Maximum cosine of different texts.
const MAX_DIFFERENT: f64 = 0.99;

/// Texts of different lengths, topics and scripts.
fn texts() -> Vec<String> {
    let long = "The river rose over its banks and into the mill. ".repeat(4);
    [
        "hi",
        "I am so cold",
        "Grüße aus Köln, 東京 и Москва 🙂",
        "fn main() { println!(\"{}\", 6 * 7); }",
        long.trim(),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Compares the vectors of the native kernels and of ONNX Runtime.
pub(super) fn run(workspace: &Workspace, toolchain: &Toolchain, library: &Path) -> Suite {
    let mut suite = Suite::begin("embedgate for arm64, in the emulator");
    let native = match native(workspace) {
        Ok(vectors) => vectors,
        Err(error) => {
            suite.fail(format!("this machine's server returned no vectors: {error:#}"));
            return suite;
        }
    };
    for (label, kernels, isa) in [("isa", "neon", "auto"), ("backend", "onnxruntime", "none")] {
        suite.check(&format!("with {kernels} its vectors equal this machine's"), || {
            let server = Server::start(emulated(workspace, toolchain, library, isa))?;
            let metrics = http::get(server.address(), "/metrics")?;
            let label = format!("{label}=\"{kernels}\"");
            ensure!(metrics.text().contains(&label), "the metrics lack {label}");
            compare(&embed(&server)?, &native)?;
            server.stop()
        });
    }
    suite
}

/// Checks that every vector equals its counterpart and differs from the others.
fn compare(found: &[Vec<f64>], expected: &[Vec<f64>]) -> Result<()> {
    let mut least = 1.0_f64;
    for (index, found) in found.iter().enumerate() {
        for (other, expected) in expected.iter().enumerate() {
            let cosine = cosine(found, expected);
            if index == other {
                ensure!(cosine >= MIN_SAME, "text {index}: the two vectors have a cosine of {cosine}");
                least = least.min(cosine);
            } else {
                ensure!(cosine < MAX_DIFFERENT, "texts {index} and {other} have a cosine of {cosine}");
            }
        }
    }
    println!("       {} texts, minimum cosine {least:.9}", found.len());
    Ok(())
}

/// The vectors of this machine's release binary.
fn native(workspace: &Workspace) -> Result<Vec<Vec<f64>>> {
    let server = start_server(workspace, &["--precision=fp32"])?;
    let vectors = embed(&server)?;
    server.stop()?;
    Ok(vectors)
}

fn emulated(workspace: &Workspace, toolchain: &Toolchain, library: &Path, isa: &str) -> Command {
    let mut command = toolchain.emulator();
    command.arg(toolchain.release_binary()).args(["serve", "--listen=127.0.0.1:0", "--isa", isa]);
    command.arg("--onnxruntime-path").arg(library);
    command.arg("--model").arg(workspace.model(DEFAULT_MODEL)).current_dir(workspace.root());
    command.env_clear();
    command
}

fn embed(server: &Server) -> Result<Vec<Vec<f64>>> {
    let texts = texts();
    let body = json!({ "input": texts, "model": DEFAULT_MODEL }).to_string();
    let reply = http::post(server.address(), "/v1/embeddings", "application/json", &body)?;
    ensure!(reply.status == 200, "status {}: {}", reply.status, reply.text());
    let answer: Value = serde_json::from_slice(&reply.body).context("the response is not JSON")?;
    let data = answer["data"].as_array().context("the response has no vectors")?;
    let vector = |item: &Value| -> Option<Vec<f64>> {
        item["embedding"].as_array()?.iter().map(Value::as_f64).collect()
    };
    let vectors: Vec<_> = data.iter().filter_map(vector).collect();
    ensure!(vectors.len() == texts.len(), "{} vectors for {} texts", vectors.len(), texts.len());
    Ok(vectors)
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_must_equal_their_counterparts_and_differ_from_others() {
        let (x, y) = (vec![1.0, 0.0], vec![0.0, 1.0]);
        compare(&[x.clone(), y.clone()], &[x.clone(), y.clone()]).unwrap();
        let swapped = compare(&[y.clone(), x.clone()], &[x.clone(), y]).unwrap_err();
        assert!(swapped.to_string().starts_with("text 0: the two vectors"), "{swapped}");
        let same = compare(&[x.clone(), x.clone()], &[x.clone(), x]).unwrap_err();
        assert!(same.to_string().starts_with("texts 0 and 1"), "{same}");
    }
}
