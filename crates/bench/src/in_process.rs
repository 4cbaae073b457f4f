//! Libraries without a server: one Python process for each, which reads its jobs and prints its measurements.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use testkit::{files, process};

use super::{
    load::Measured,
    resource_usage,
    running::{Group, create, end_of},
    texts::{TextKind, text},
};

/// Time of a job in addition to its measurement: warm-up, search for the best batch size, a slow last batch.
const EXTRA_TIMEOUT: Duration = Duration::from_secs(300);

/// One measurement, as the script reads it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Job {
    id: String,
    texts: Vec<String>,
    tokens: Vec<usize>,
    seconds: f64,
    /// One text at a time.
    single: bool,
    /// Texts of one batch; without it the script looks for the fastest.
    batch: Option<usize>,
    /// Without the time for tokenizing.
    encoder: bool,
    /// Nothing is measured: each text alone, then all in batches, for their vectors.
    vectors: bool,
}

impl Job {
    /// `count` texts of `series`, over and over for `seconds`: a library in process has no cache.
    pub(crate) fn new(id: &str, kind: TextKind, series: u32, count: u32, seconds: f64) -> Self {
        let (texts, tokens) =
            (0..count).map(|index| text(kind, series, index)).map(|text| (text.text, text.tokens)).unzip();
        Self { id: id.into(), texts, tokens, seconds, ..Self::default() }
    }

    /// Texts that are given, in batches of all of them.
    pub(crate) fn of_texts(id: &str, texts: Vec<String>, tokens: usize, seconds: f64) -> Self {
        let (batch, tokens) = (Some(texts.len()), vec![tokens; texts.len()]);
        Self { id: id.into(), texts, tokens, seconds, batch, ..Self::default() }
    }

    /// The vectors of `texts`.
    pub(crate) fn vectors(texts: &[&str]) -> Self {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        Self { id: "vectors".into(), texts, vectors: true, ..Self::default() }
    }

    pub(crate) fn single(self, single: bool) -> Self {
        Self { single, ..self }
    }

    pub(crate) fn batch(self, batch: Option<usize>) -> Self {
        Self { batch, ..self }
    }

    pub(crate) fn encoder_alone(self) -> Self {
        Self { encoder: true, ..self }
    }
}

/// Results of a library.
#[derive(Debug, Default)]
pub(crate) struct LibraryResults {
    /// Precision, as the library names it.
    pub(crate) note: String,
    /// From the start of Python to the first vector.
    pub(crate) cold_milliseconds: f64,
    /// After the first vector.
    pub(crate) idle_megabytes: Option<f64>,
    pub(crate) peak_megabytes: Option<f64>,
    /// Measurement and CPU time by job.
    pub(crate) jobs: Vec<(String, Measured, f64)>,
    /// Vectors of the job that asks for them, or of embedgate's workload of mixed lengths.
    pub(crate) vectors: Vec<Vec<f32>>,
}

/// A line of the script's output.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Ready {
        #[serde(rename = "ready")]
        _ready: bool,
        note: String,
    },
    Measured {
        id: String,
        texts: usize,
        tokens: usize,
        seconds: f64,
        milliseconds: Vec<f64>,
        #[serde(default)]
        cpu_seconds: f64,
        #[serde(default)]
        vectors: Vec<Vec<f32>>,
    },
    End {
        peak_megabytes: f64,
    },
    /// The end of a program that does not report its memory.
    Over {
        #[serde(rename = "over")]
        _over: bool,
    },
}

/// The command that runs a library of `in_process.py` on `model`, without the jobs.
pub(crate) fn python(python: &Path, script: &Path, library: &str, model: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg(script).arg(library).arg(model);
    command.envs([("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_OFFLINE", "1")]);
    command
}

/// Runs `command`, which prints the script's lines, with a file of `jobs` as its last argument.
///
/// # Errors
/// The process fails or takes too long; the message carries the end of its log.
pub(crate) fn run(mut command: Command, jobs: &[Job], log: &Path) -> Result<LibraryResults> {
    let input = log.with_extension("jobs.json");
    files::write(&input, serde_json::to_string(jobs)?)?;
    command.arg(&input);
    let longest = jobs.iter().map(|job| job.seconds).fold(0.0, f64::max);
    follow(command, longest, log)
}

/// Runs `command` and reads what it prints; no measurement takes longer than `longest` seconds, give or take.
///
/// # Errors
/// As [`run`].
pub(crate) fn follow(mut command: Command, longest: f64, log: &Path) -> Result<LibraryResults> {
    let errors = create(log)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let started = Instant::now();
    let child = command.process_group(0).spawn();
    let child = child.with_context(|| format!("cannot start `{}`", process::command_line(&command)))?;
    let mut child = Group(child);
    let lines = read_lines(child.0.stdout.take().context("the script has no output")?);

    let mut done = LibraryResults::default();
    let timeout = Duration::from_secs_f64(longest) + EXTRA_TIMEOUT;
    loop {
        let Ok(line) = lines.recv_timeout(timeout) else {
            bail!("no more output after {:.0} s: {}", started.elapsed().as_secs_f64(), end_of(log));
        };
        match serde_json::from_str(&line).with_context(|| format!("not a line of the script: {line:?}"))? {
            Line::Ready { note, .. } => {
                done.note = note;
                done.cold_milliseconds = started.elapsed().as_secs_f64() * 1e3;
                done.idle_megabytes = resource_usage::of(child.0.id()).map(|usage| usage.resident_megabytes);
            }
            Line::Measured { id, texts, tokens, seconds, milliseconds, cpu_seconds, vectors } => {
                if !vectors.is_empty() {
                    done.vectors = vectors;
                }
                let measured = Measured { texts, tokens, seconds, milliseconds, warm_tokens: 0 };
                done.jobs.push((id, measured, cpu_seconds));
            }
            Line::End { peak_megabytes } => {
                done.peak_megabytes = Some(peak_megabytes);
                return Ok(done);
            }
            Line::Over { .. } => return Ok(done),
        }
    }
}

/// Sends on each line; the channel closes with the output.
fn read_lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Runs a shell script in place of Python: it gets the library, the model and the jobs as arguments.
    fn script(text: &str) -> Result<LibraryResults> {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script.sh");
        fs::write(&script, text).unwrap();
        let jobs = [Job::new("short", TextKind::Short, 0, 3, 0.1)];
        let command = python(Path::new("sh"), &script, "library", Path::new("model"));
        run(command, &jobs, &folder.path().join("log"))
    }

    #[test]
    fn the_scripts_lines_are_parsed() {
        let done = script(
            r#"grep -q '"id":"short"' "$3" || exit 1
               echo '{"ready":true,"note":"fp32"}'
               echo '{"id":"short","texts":3,"tokens":42,"seconds":0.5,"milliseconds":[],"cpu_seconds":1.0,"batch":8}'
               echo '{"peak_megabytes":12.5}'"#,
        )
        .unwrap();
        assert_eq!((done.note.as_str(), done.peak_megabytes), ("fp32", Some(12.5)));
        let (id, measured, cpu) = &done.jobs[0];
        assert_eq!((id.as_str(), measured.texts, measured.tokens, *cpu), ("short", 3, 42, 1.0));
    }

    #[test]
    fn a_failed_script_reports_its_error() {
        let error = script("echo 'no module named x' >&2; exit 1").unwrap_err().to_string();
        assert!(error.ends_with("no module named x"), "{error}");
        assert!(script("echo what").unwrap_err().to_string().contains("not a line of the script"));
    }
}
