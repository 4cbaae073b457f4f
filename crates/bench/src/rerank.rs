//! `cargo xtask bench rerank`: one query with 100 passages of 128 tokens, on a synthetic cross-encoder with the sizes
//! of all-MiniLM-L6-v2. Servers are measured over HTTP and libraries in process, one after the other. The table also
//! has the largest difference of a score to fp32.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use testkit::workspace::Workspace;
use xtask::{serve, setup};

use super::{
    client::Client,
    competitors::{self, Binaries, Competitor, Name, Ready, launch::Launch},
    in_process::{self, Job},
    number::shown,
    report,
    results::Results,
    running::{Running, log_of},
    stats::{median, ratio},
    synthetic, sysinfo,
    texts::{self, TextKind},
};

/// Passages of a request.
const PASSAGES: u32 = 100;
/// Words of a passage, each one token.
const PASSAGE_TOKENS: usize = 128;
/// Words of the query.
const QUERY_TOKENS: usize = 10;
/// `[CLS]` and two `[SEP]`.
const PAIR_TOKENS: usize = QUERY_TOKENS + PASSAGE_TOKENS + 3;
/// Special tokens of a single text, which [`texts::text`] counts.
const SPECIAL: usize = 2;
/// Series of the passages whose scores are compared.
const SCORED: u32 = 0;
/// Competitors that rerank, in the order of measuring.
const NAMES: [Name; 6] = [
    Name::Embedgate,
    Name::EmbedgateFp32,
    Name::EmbedgateInt8,
    Name::Tei,
    Name::Infinity,
    Name::SentenceTransformers,
];
/// Flags of `embedgate serve` for the scores that all others are compared with: those of ONNX Runtime.
const REFERENCE_FLAGS: [&str; 6] = ["--isa", "none", "--precision", "fp32", "--cache-memory", "0"];
/// A bound that no model exceeds: the accuracy with random weights says nothing about that with trained ones.
const ANY_ACCURACY: &str = "--int8-max-score-difference=1";

#[derive(Args)]
pub(crate) struct RerankArgs {
    /// Servers and libraries to measure, separated by commas; all that rerank by default
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = reranker_name)]
    competitors: Vec<Name>,
    /// Rounds; the figures are medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Seconds of each round
    #[arg(long, default_value_t = 5.0, value_parser = super::positive)]
    seconds: f64,
    /// Measure the release binary as it is, without building first
    #[arg(long)]
    no_build: bool,
    #[command(flatten)]
    binaries: Binaries,
}

fn reranker_name(text: &str) -> Result<Name> {
    let name = <Name as clap::ValueEnum>::from_str(text, false).ok();
    let known = || NAMES.iter().map(|name| name.label()).collect::<Vec<_>>().join(", ");
    name.filter(|name| NAMES.contains(name))
        .with_context(|| format!("expected a competitor that reranks: {}", known()))
}

/// A competitor's figures.
#[derive(Debug, Default)]
struct Reranker {
    label: String,
    is_ours: bool,
    /// Precision, as the competitor names it.
    note: String,
    /// Passages a second of each round.
    rounds: Vec<Option<f64>>,
    /// Largest difference of a score to fp32, after the activation.
    difference: Option<f64>,
    /// The reason why it was not measured.
    failure: Option<String>,
}

/// Measures and prints.
///
/// # Errors
/// Set-up or the build fails, or the scores in fp32 cannot be computed. A competitor that fails is part of the result.
pub(crate) fn run(workspace: &Workspace, options: &RerankArgs) -> Result<()> {
    setup::run(workspace)?;
    if !options.no_build {
        serve::build_and_import(workspace)?;
    }
    let model = workspace.runtime().join("bench/synthetic/cross-encoder");
    synthetic::write_cross_encoder(&model, &competitors::model(workspace).join("tokenizer.json"))?;
    let bench = Bench { workspace, model, seconds: options.seconds };
    let expected = bench.reference().context("cannot compute the scores in fp32")?;
    let names = if options.competitors.is_empty() { &NAMES[..] } else { &options.competitors };
    let competitors: Vec<Competitor> = names
        .iter()
        .map(|&name| competitors::prepare(workspace, name, &options.binaries, &[ANY_ACCURACY.to_owned()]))
        .collect();
    let mut measured: Vec<Reranker> = competitors.iter().map(Reranker::new).collect();
    for round in 1..=options.rounds {
        for (competitor, reranker) in competitors.iter().zip(&mut measured) {
            let Ok(ready) = &competitor.ready else { continue };
            if reranker.failure.is_some() {
                continue;
            }
            eprintln!("round {round} of {}: {} …", options.rounds, reranker.label);
            match bench.round(competitor.name, ready, u32::from(round), &expected) {
                Ok((note, rate, difference)) => {
                    reranker.note = note;
                    reranker.rounds.push(Some(rate));
                    reranker.difference =
                        Some(reranker.difference.map_or(difference, |worst| worst.max(difference)));
                    eprintln!("  {rate:.1} passages/s, largest difference of a score {difference:.1e}");
                }
                Err(error) => {
                    eprintln!("  failed: {error:#}");
                    reranker.failure = Some(format!("{error:#}"));
                }
            }
        }
    }
    let results = Results {
        machine: sysinfo::Machine::read(workspace),
        seconds: options.seconds,
        rounds: options.rounds.into(),
        ..Default::default()
    };
    println!("{}{}", report::machine(&results), table(&measured));
    for competitor in competitors.iter().filter(|competitor| !competitor.versions.is_empty()) {
        println!("* {}: {}", competitor.name.label(), competitor.versions);
    }
    Ok(())
}

struct Bench<'w> {
    workspace: &'w Workspace,
    /// The folder of the cross-encoder.
    model: PathBuf,
    seconds: f64,
}

impl Bench<'_> {
    /// The scores in fp32, by ONNX Runtime in embedgate.
    fn reference(&self) -> Result<Vec<f64>> {
        let flags = REFERENCE_FLAGS.map(str::to_owned).to_vec();
        let launch = Launch::Embedgate { program: self.workspace.release_binary(), flags };
        let running = self.start(&launch, "accuracy")?;
        let scores = Client::open(running.address)
            .and_then(|mut client| scores(&mut client, &request(SCORED, 0, false)));
        running.stop();
        scores
    }

    fn start(&self, launch: &Launch, log: &str) -> Result<Running> {
        let log = log_of(&self.workspace.runtime(), log);
        let takes_documents = takes_documents(launch);
        let ask = |address: SocketAddr| -> Result<()> {
            scores(&mut Client::open(address)?, &request(SCORED, 0, takes_documents)).map(drop)
        };
        Running::start_until(|port| launch.command(&self.model, port), &log, ask)
    }

    /// Starts a competitor, and measures it. Returns its precision, its passages a second, and the largest difference
    /// of a score to fp32.
    fn round(&self, name: Name, ready: &Ready, round: u32, expected: &[f64]) -> Result<(String, f64, f64)> {
        match ready {
            Ready::InProcess { python, .. } => self.in_process(python, expected),
            Ready::Server { launch: Launch::Infinity { program }, .. } => {
                self.server(name, &Launch::InfinityReranker { program: program.clone() }, round, expected)
            }
            Ready::Server { launch, .. } => self.server(name, launch, round, expected),
        }
    }

    fn server(
        &self,
        name: Name,
        launch: &Launch,
        round: u32,
        expected: &[f64],
    ) -> Result<(String, f64, f64)> {
        let running = self.start(launch, name.label())?;
        let log =
            std::fs::read_to_string(log_of(&self.workspace.runtime(), name.label())).unwrap_or_default();
        let note = if name.is_ours() { precision(&log).unwrap_or_default() } else { "fp32".to_owned() };
        let measured = self.ask(running.address, takes_documents(launch), round, expected);
        running.stop();
        measured.map(|(rate, difference)| (note, rate, difference))
    }

    /// Sends requests one after the other, each with other passages.
    fn ask(
        &self,
        address: SocketAddr,
        takes_documents: bool,
        round: u32,
        expected: &[f64],
    ) -> Result<(f64, f64)> {
        let mut client = Client::open(address)?;
        let found = scores(&mut client, &request(SCORED, 0, takes_documents))?;
        let difference = largest_difference(&found, expected)?;
        let (mut requests, started) = (0, Instant::now());
        loop {
            let body = request(round, requests, takes_documents);
            let status = client.ask(&body)?;
            ensure!(status == 200, "status {status}: {}", client.excerpt());
            requests += 1;
            let seconds = started.elapsed().as_secs_f64();
            if seconds >= self.seconds {
                return Ok((f64::from(requests * PASSAGES) / seconds, difference));
            }
        }
    }

    fn in_process(&self, python: &Path, expected: &[f64]) -> Result<(String, f64, f64)> {
        let log = log_of(&self.workspace.runtime(), "cross-encoder");
        let script = competitors::sources(self.workspace).join("in_process.py");
        let query = query();
        let pairs: Vec<String> =
            passages(SCORED, 0).iter().map(|passage| format!("{query}\t{passage}")).collect();
        let texts: Vec<&str> = pairs.iter().map(String::as_str).collect();
        let jobs = [Job::vectors(&texts), Job::of_texts("rerank", pairs.clone(), PAIR_TOKENS, self.seconds)];
        let command = in_process::python(python, &script, "cross-encoder", &self.model);
        let done = in_process::run(command, &jobs, &log)?;
        let (alone, together) = done.vectors.split_at(done.vectors.len() / 2);
        let mut difference: f64 = 0.0;
        for vectors in [alone, together] {
            let scores: Vec<f64> = vectors.iter().flatten().map(|&score| f64::from(score)).collect();
            difference = difference.max(largest_difference(&scores, expected)?);
        }
        let rate = done
            .jobs
            .iter()
            .find(|(id, ..)| id == "rerank")
            .map(|(_, measured, _)| measured.texts as f64 / measured.seconds);
        Ok((done.note, rate.context("it measured nothing")?, difference))
    }
}

/// Returns true if the server's bodies hold `documents`, as Cohere's do, instead of `texts`.
fn takes_documents(launch: &Launch) -> bool {
    matches!(launch, Launch::InfinityReranker { .. })
}

fn query() -> String {
    texts::text(TextKind::Exactly(QUERY_TOKENS + SPECIAL), 31, 0).text
}

/// The passages of a request.
fn passages(series: u32, request: u32) -> Vec<String> {
    let kind = TextKind::Exactly(PASSAGE_TOKENS + SPECIAL);
    let first = request * PASSAGES;
    (first..first + PASSAGES).map(|index| texts::text(kind, series, index).text).collect()
}

/// The bytes of a request of `series`.
fn request(series: u32, index: u32, takes_documents: bool) -> Vec<u8> {
    let (query, passages) = (query(), passages(series, index));
    let body = if takes_documents {
        json!({ "model": "reranker", "query": query, "documents": passages })
    } else {
        json!({ "query": query, "texts": passages })
    };
    let body = body.to_string();
    format!(
        "POST /rerank HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends `request` and returns the scores in the order of the passages.
fn scores(client: &mut Client, request: &[u8]) -> Result<Vec<f64>> {
    let status = client.ask(request)?;
    if status != 200 {
        bail!("status {status}: {}", client.excerpt());
    }
    scores_in(&client.reply().body)
}

/// The scores of a response, in the order of their indices.
fn scores_in(body: &[u8]) -> Result<Vec<f64>> {
    let body: Value = serde_json::from_slice(body).context("the response is not JSON")?;
    let results =
        body.as_array().or_else(|| body["results"].as_array()).context("the response has no results")?;
    let result = |result: &Value| {
        let score = result.get("score").or_else(|| result.get("relevance_score"))?;
        Some((result["index"].as_u64()?, score.as_f64()?))
    };
    let mut scores: Vec<(u64, f64)> =
        results.iter().map(result).collect::<Option<_>>().context("a result has no index or no score")?;
    scores.sort_by_key(|(index, _)| *index);
    Ok(scores.into_iter().map(|(_, score)| score).collect())
}

fn largest_difference(found: &[f64], expected: &[f64]) -> Result<f64> {
    ensure!(found.len() == expected.len(), "{} scores for {} passages", found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    differences
        .reduce(f64::max)
        .filter(|difference| difference.is_finite())
        .context("a score is not a number")
}

/// Provider and precision from embedgate's start-up line: `… reranks · cpu fp32 avx2 (…) · …`.
fn precision(log: &str) -> Option<String> {
    let (_, rest) = log.split_once(" reranks · ")?;
    rest.split_once(" (").map(|(said, _)| said.to_owned())
}

impl Reranker {
    fn new(competitor: &Competitor) -> Self {
        let label = match competitor.name {
            Name::SentenceTransformers => "sentence-transformers (CrossEncoder), in process".to_owned(),
            Name::Infinity => "infinity (torch)".to_owned(),
            name => name.label().to_owned(),
        };
        let is_ours = competitor.name.is_ours();
        Self { label, is_ours, failure: competitor.ready.as_ref().err().cloned(), ..Self::default() }
    }

    fn rate(&self) -> Option<f64> {
        let rates: Vec<f64> = self.rounds.iter().flatten().copied().collect();
        (!rates.is_empty()).then(|| median(&rates))
    }
}

/// A row for each competitor; ratios are those of the passages a second of embedgate, in its first precision here.
fn table(measured: &[Reranker]) -> String {
    let mut text = String::from(
        "| 1 query, 100 passages of 128 tokens | precision | passages/s | ms a request | embedgate against it | \
         largest difference of a score to fp32 |\n|---|---|---:|---:|---:|---:|\n",
    );
    let ours = measured.iter().find(|reranker| reranker.is_ours);
    for reranker in measured {
        if let Some(reason) = &reranker.failure {
            let reason: String = reason.replace(['|', '\n'], " ").chars().take(240).collect();
            _ = writeln!(text, "| {} | not run: {reason} | – | – | – | – |", reranker.label);
            continue;
        }
        let rate = reranker.rate();
        let against = ours.and_then(|ours| ratio(&ours.rounds, &reranker.rounds));
        _ = writeln!(
            text,
            "| {} | {} | {} | {} | {}× | {} |",
            reranker.label,
            reranker.note,
            shown(rate),
            shown(rate.map(|rate| f64::from(PASSAGES) * 1e3 / rate)),
            shown(against),
            reranker.difference.map_or_else(|| "–".into(), |difference| format!("{difference:.1e}")),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_that_rerank_can_be_named() {
        assert_eq!(reranker_name("tei").unwrap(), Name::Tei);
        assert!(reranker_name("llama").unwrap_err().to_string().contains("text-embeddings-inference"));
    }

    #[test]
    fn requests_hold_a_query_and_different_passages_of_known_lengths() {
        for (takes_documents, key) in [(false, "texts"), (true, "documents")] {
            let request = String::from_utf8(request(1, 3, takes_documents)).unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            let body: Value = serde_json::from_str(body).unwrap();
            let words = |text: &Value| text.as_str().unwrap().split(' ').count();
            let passages = body[key].as_array().unwrap();
            assert_eq!((words(&body["query"]), passages.len()), (QUERY_TOKENS, PASSAGES as usize));
            assert!(passages.iter().all(|passage| words(passage) == PASSAGE_TOKENS));
        }
        assert!(passages(1, 0).iter().all(|passage| !passages(1, 1).contains(passage)));
    }

    #[test]
    fn scores_of_every_format_are_sorted_by_index() {
        let expected = [0.25, 0.75];
        for body in [
            r#"[{"index":1,"score":0.75},{"index":0,"score":0.25}]"#,
            r#"{"results":[{"index":1,"relevance_score":0.75},{"index":0,"relevance_score":0.25}]}"#,
        ] {
            assert_eq!(scores_in(body.as_bytes()).unwrap(), expected);
        }
        assert!(scores_in(b"{}").unwrap_err().to_string().contains("no results"));
        assert!(scores_in(b"[{}]").unwrap_err().to_string().contains("no score"));
        assert_eq!(largest_difference(&expected, &[0.5, 0.625]).unwrap(), 0.25);
        assert!(largest_difference(&expected, &[0.5]).is_err());
    }

    #[test]
    fn the_table_has_ratios_and_reasons() {
        let reranker = |label: &str, rate| Reranker {
            label: label.to_owned(),
            is_ours: label == "b",
            note: "fp32".to_owned(),
            rounds: vec![Some(rate), Some(2.0 * rate)],
            difference: Some(0.002),
            ..Default::default()
        };
        let failed =
            Reranker { label: "c".into(), failure: Some("no | binary".into()), ..Default::default() };
        let table = table(&[reranker("a", 100.0), reranker("b", 50.0), failed]);
        assert!(table.contains("| a | fp32 | 150 | 667 | 0.50× | 2.0e-3 |"), "{table}");
        assert!(table.contains("| b | fp32 | 75.0 | 1,333 | 1.00× | 2.0e-3 |"), "{table}");
        assert!(table.ends_with("| c | not run: no   binary | – | – | – | – |\n"), "{table}");
        let log = "INFO listening on http://x · m · reranks · cpu int8 avx2-int8 (selected by the settings)";
        assert_eq!(precision(log).as_deref(), Some("cpu int8 avx2-int8"));
    }
}
