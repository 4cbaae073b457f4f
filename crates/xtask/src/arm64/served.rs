//! The release binary for arm64 in the emulator, beside the one for this machine: their vectors must agree.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::toolchain::Toolchain;
use crate::bench::client::Connection;
use crate::server::Server;
use crate::test::report::Suite;
use crate::workspace::{DEFAULT_MODEL, Workspace};

/// Cosine of a text's two vectors; sums in another order differ by some 1e-7.
const ALIKE: f64 = 0.999_99;
/// Cosine below which two texts are different ones.
const DIFFERENT: f64 = 0.99;

/// Texts of one token and of many, with and without letters of ASCII; about different things.
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

/// Compares, with our own kernels and with ONNX Runtime.
pub(super) fn run(workspace: &Workspace, toolchain: &Toolchain, library: &Path) -> Suite {
    let mut suite = Suite::new("embedgate for arm64, in the emulator");
    println!("\n{}", suite.name);
    let native = match native(workspace) {
        Ok(vectors) => vectors,
        Err(error) => {
            suite.fail(format!("this machine's own server gives no vectors: {error:#}"));
            return suite;
        }
    };
    for (kernels, isa) in [("neon", "auto"), ("onnxruntime", "none")] {
        suite.check(&format!("with {kernels} its vectors are this machine's"), || {
            let server = Server::launch(emulated(workspace, toolchain, library, isa))?;
            let metrics = ask(&server, "GET /metrics HTTP/1.1\r\nhost: embedgate\r\n\r\n")?;
            let label = format!("kernels=\"{kernels}\"");
            ensure!(metrics.contains(&label), "the metrics do not say {label}");
            compare(&embed(&server)?, &native)?;
            server.stop()
        });
    }
    suite
}

/// Every vector is like its counterpart, and unlike the others: a comparison that cannot fail says nothing.
fn compare(found: &[Vec<f64>], expected: &[Vec<f64>]) -> Result<()> {
    let mut least = 1.0_f64;
    for (index, found) in found.iter().enumerate() {
        for (other, expected) in expected.iter().enumerate() {
            let cosine = cosine(found, expected);
            if index == other {
                ensure!(cosine >= ALIKE, "text {index}: the two vectors have a cosine of {cosine}");
                least = least.min(cosine);
            } else {
                ensure!(cosine < DIFFERENT, "texts {index} and {other} have a cosine of {cosine}");
            }
        }
    }
    println!("       {} texts, least cosine {least:.9}", found.len());
    Ok(())
}

/// The vectors of this machine's release binary, by its own kernels where it has any.
fn native(workspace: &Workspace) -> Result<Vec<Vec<f64>>> {
    let server = Server::start(workspace, &["--precision=fp32".to_owned()])?;
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
    let head = "POST /v1/embeddings HTTP/1.1\r\nhost: embedgate\r\ncontent-type: application/json";
    let said = ask(server, &format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))?;
    let answer: Value = serde_json::from_str(&said).context("the answer is no JSON")?;
    let data = answer["data"].as_array().context("the answer has no vectors")?;
    let vector = |item: &Value| -> Option<Vec<f64>> {
        item["embedding"].as_array()?.iter().map(Value::as_f64).collect()
    };
    let vectors: Vec<_> = data.iter().filter_map(vector).collect();
    ensure!(vectors.len() == texts.len(), "{} vectors for {} texts", vectors.len(), texts.len());
    Ok(vectors)
}

fn ask(server: &Server, request: &str) -> Result<String> {
    let mut connection = Connection::open(server.address()?)?;
    let head = connection.ask(request.as_bytes())?;
    ensure!(head.status == 200, "status {}: {}", head.status, connection.said());
    Ok(String::from_utf8_lossy(connection.body()).into_owned())
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_compared_with_their_counterparts_and_with_the_others() {
        let (x, y) = (vec![1.0, 0.0], vec![0.0, 1.0]);
        compare(&[x.clone(), y.clone()], &[x.clone(), y.clone()]).unwrap();
        let swapped = compare(&[y.clone(), x.clone()], &[x.clone(), y]).unwrap_err();
        assert!(swapped.to_string().starts_with("text 0: the two vectors"), "{swapped}");
        let same = compare(&[x.clone(), x.clone()], &[x.clone(), x]).unwrap_err();
        assert!(same.to_string().starts_with("texts 0 and 1"), "{same}");
    }
}
