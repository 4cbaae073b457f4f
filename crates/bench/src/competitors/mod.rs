//! Who is compared: what each one needs to be installed, how it is started, what of it lies on disk.

pub(crate) mod install;
pub(crate) mod launch;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use self::{install::Packages, launch::Launch};
use super::resource_usage::Size;
use testkit::{
    process::{self, capture},
    workspace::{DEFAULT_MODEL, Workspace},
};

/// A competitor's name, on the command line and in the record.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Name {
    /// This project's release build, as it comes, its cache switched off
    Embedgate,
    /// The same, told to compute in fp32
    EmbedgateFp32,
    /// The server infinity-emb with torch
    Infinity,
    /// A minimal FastAPI server around sentence-transformers
    Fastapi,
    /// Hugging Face's text-embeddings-inference; needs `--tei`
    Tei,
    /// llama.cpp's server; needs `--llama` and `--gguf`
    Llama,
    /// onnxruntime in a Python process
    Onnxruntime,
    /// OpenVINO in a Python process, bf16 where the processor has it
    Openvino,
    /// sentence-transformers in a Python process
    SentenceTransformers,
}

impl Name {
    /// As tables and charts show it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Embedgate => "embedgate",
            Self::EmbedgateFp32 => "embedgate, fp32",
            Self::Infinity => "infinity",
            Self::Fastapi => "FastAPI + sentence-transformers",
            Self::Tei => "text-embeddings-inference",
            Self::Llama => "llama.cpp server",
            Self::Onnxruntime => "onnxruntime",
            Self::Openvino => "OpenVINO",
            Self::SentenceTransformers => "sentence-transformers",
        }
    }

    pub(crate) fn is_server(self) -> bool {
        !matches!(self, Self::Onnxruntime | Self::Openvino | Self::SentenceTransformers)
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Embedgate | Self::EmbedgateFp32)
    }
}

/// Binaries that no package index has, by where the user says they are.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Binaries {
    /// text-embeddings-router, the binary of text-embeddings-inference
    #[arg(long, value_name = "PATH")]
    tei: Option<PathBuf>,
    /// The model's folder for it, if built for ONNX: as everybody's, with `onnx/model.onnx` in it
    #[arg(long, value_name = "FOLDER", requires = "tei")]
    tei_model: Option<PathBuf>,
    /// llama.cpp's llama-server
    #[arg(long, value_name = "PATH", requires = "gguf")]
    llama: Option<PathBuf>,
    /// all-MiniLM-L6-v2 converted for llama.cpp
    #[arg(long, value_name = "PATH")]
    gguf: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug)]
pub(crate) enum Ready {
    Server {
        launch: Launch,
        /// How it is started to answer the same texts again, where that differs.
        cached: Option<Launch>,
    },
    InProcess {
        python: PathBuf,
        /// As the script knows it.
        library: &'static str,
    },
}

/// A competitor that was looked for.
#[derive(Debug)]
pub(crate) struct Competitor {
    pub(crate) name: Name,
    pub(crate) versions: String,
    /// What must be on disk to serve, without the model; `None` before it is installed.
    pub(crate) size: Option<Size>,
    /// Ready to run, or why it cannot be.
    pub(crate) ready: Result<Ready, String>,
}

const INFINITY: Packages = Packages {
    name: "infinity",
    pins: include_str!("requirements/infinity.txt"),
    gigabytes: 9.0,
    quoted: &["infinity_emb", "torch", "transformers"],
};
const SENTENCE_TRANSFORMERS: Packages = Packages {
    name: "sentence-transformers",
    pins: include_str!("requirements/sentence-transformers.txt"),
    gigabytes: 10.0,
    quoted: &["sentence-transformers", "torch", "fastapi"],
};
const ONNXRUNTIME: Packages = Packages {
    name: "onnxruntime",
    pins: include_str!("requirements/onnxruntime.txt"),
    gigabytes: 0.5,
    quoted: &["onnxruntime", "tokenizers"],
};
const OPENVINO: Packages = Packages {
    name: "openvino",
    pins: include_str!("requirements/openvino.txt"),
    gigabytes: 1.0,
    quoted: &["openvino", "tokenizers"],
};

/// Installs a competitor and says how to run it. What fails is kept as the reason that the page shows.
pub(crate) fn prepare(
    workspace: &Workspace,
    name: Name,
    binaries: &Binaries,
    serve_flags: &[String],
) -> Competitor {
    let mut competitor = Competitor { name, versions: String::new(), size: None, ready: Err(String::new()) };
    competitor.ready = match find(workspace, &mut competitor, binaries, serve_flags) {
        Ok(ready) => Ok(ready),
        Err(error) => {
            let reason = format!("{error:#}");
            eprintln!("{}: not run: {reason}", name.label());
            Err(reason)
        }
    };
    competitor
}

fn find(
    workspace: &Workspace,
    competitor: &mut Competitor,
    binaries: &Binaries,
    serve_flags: &[String],
) -> Result<Ready> {
    let server = |launch| Ready::Server { launch, cached: None };
    match competitor.name {
        Name::Embedgate | Name::EmbedgateFp32 => embedgate(workspace, competitor, serve_flags),
        Name::Infinity => {
            let bin = packaged(workspace, competitor, &INFINITY)?;
            Ok(server(Launch::Infinity { program: bin.join("infinity_emb") }))
        }
        Name::Fastapi => {
            let bin = packaged(workspace, competitor, &SENTENCE_TRANSFORMERS)?;
            let script = sources(workspace).join("fastapi_server.py");
            Ok(server(Launch::Fastapi { python: bin.join("python"), script }))
        }
        Name::Tei => {
            let program = binaries.tei.as_deref().context("no binary was named with --tei")?;
            let folder = binaries.tei_model.clone();
            ensure!(folder.iter().all(|folder| folder.is_dir()), "--tei-model is not a folder");
            Ok(server(Launch::Tei { program: foreign(competitor, program)?, folder: absolute(folder)? }))
        }
        Name::Llama => {
            let program = binaries.llama.as_deref().context("no binary was named with --llama")?;
            let gguf = absolute(binaries.gguf.clone())?.context("no model was named with --gguf")?;
            ensure!(gguf.is_file(), "{} is not a file", gguf.display());
            let cores = thread::available_parallelism().map_or(1, usize::from);
            Ok(server(Launch::Llama { program: foreign(competitor, program)?, gguf, cores }))
        }
        Name::Onnxruntime => in_process(workspace, competitor, &ONNXRUNTIME),
        Name::Openvino => in_process(workspace, competitor, &OPENVINO),
        Name::SentenceTransformers => in_process(workspace, competitor, &SENTENCE_TRANSFORMERS),
    }
}

fn embedgate(workspace: &Workspace, competitor: &mut Competitor, serve_flags: &[String]) -> Result<Ready> {
    let program = binary(competitor, &workspace.release_binary())?;
    let mut library = Size::default();
    library.add(&workspace.runtime().join("onnxruntime"));
    if let Some(size) = &mut competitor.size {
        size.megabytes += library.megabytes;
    }
    let help = capture(Command::new(&program).args(["serve", "--help"]))?;
    let mut flags = serve_flags.to_vec();
    if competitor.name == Name::EmbedgateFp32 {
        flags.extend(launch::in_fp32(&help).context("this build computes in fp32 anyway: see embedgate")?);
    }
    let off = launch::cache_off(&help)?;
    let cached =
        (!off.is_empty()).then(|| Launch::Embedgate { program: program.clone(), flags: flags.clone() });
    flags.extend(off);
    Ok(Ready::Server { launch: Launch::Embedgate { program, flags }, cached })
}

fn in_process(
    workspace: &Workspace,
    competitor: &mut Competitor,
    packages: &'static Packages,
) -> Result<Ready> {
    let bin = packaged(workspace, competitor, packages)?;
    Ok(Ready::InProcess { python: bin.join("python"), library: packages.name })
}

/// Installs `packages` and yields the folder of their programs.
fn packaged(workspace: &Workspace, competitor: &mut Competitor, packages: &Packages) -> Result<PathBuf> {
    competitor.versions = packages.versions();
    let venv = packages.install(workspace)?;
    let mut size = Size::default();
    size.add(&packages.folder(workspace));
    competitor.size = Some(size);
    Ok(venv.bin())
}

/// Checks that `program` runs, and notes its version and size.
fn binary(competitor: &mut Competitor, program: &Path) -> Result<PathBuf> {
    let program = std::path::absolute(program).context("there is no working directory")?;
    let mut command = Command::new(&program);
    command.arg("--version");
    let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
    let said = process::stdout_of(&process::line(&command), &output)?;
    // llama.cpp says it on standard error.
    let also = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = said.lines().chain(also.lines()).find(|line| !line.trim().is_empty());
    competitor.versions = first.unwrap_or("version unknown").trim().to_owned();
    let mut size = Size::default();
    size.add(&program);
    competitor.size = Some(size);
    Ok(program)
}

/// As [`binary`], of a program that brings its libraries along: they lie beside it and count as its own.
fn foreign(competitor: &mut Competitor, program: &Path) -> Result<PathBuf> {
    let program = binary(competitor, program)?;
    let beside = program.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten();
    let files = beside.filter_map(Result::ok).map(|entry| entry.path());
    for library in files.filter(|path| is_library(path)) {
        competitor.size.get_or_insert_default().add(&library);
    }
    Ok(program)
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("lib") && (name.ends_with(".so") || name.contains(".so."))
}

/// Where `path` is from anywhere: a server is started in the checkout, the user may be elsewhere.
fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>> {
    path.map(std::path::absolute).transpose().context("there is no working directory")
}

/// Where the competitors' scripts lie.
pub(crate) fn sources(workspace: &Workspace) -> PathBuf {
    workspace.root().join("crates/bench/src/competitors")
}

/// The folder that every competitor serves.
pub(crate) fn model(workspace: &Workspace) -> PathBuf {
    workspace.model(DEFAULT_MODEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_pinned_and_what_is_quoted_is_among_it() {
        for packages in [&INFINITY, &SENTENCE_TRANSFORMERS, &ONNXRUNTIME, &OPENVINO] {
            for line in packages.pins.lines().filter(|line| !line.starts_with('#')) {
                let version = line.split_once("==").map(|(_, version)| version);
                assert!(version.is_some_and(|version| !version.is_empty()), "{}: {line}", packages.name);
            }
            assert!(!packages.versions().contains("unpinned"), "{}", packages.versions());
        }
    }

    #[test]
    fn what_is_not_named_or_not_there_is_a_reason() {
        let workspace = Workspace::locate().unwrap();
        let reason = |name, binaries| prepare(&workspace, name, &binaries, &[]).ready.unwrap_err();
        assert_eq!(reason(Name::Tei, Binaries::default()), "no binary was named with --tei");
        assert_eq!(reason(Name::Llama, Binaries::default()), "no binary was named with --llama");
        let missing = Binaries { tei: Some("no/such/router".into()), ..Binaries::default() };
        assert!(reason(Name::Tei, missing).contains("cannot start"));
        let folder = Binaries {
            tei: Some("no/such/router".into()),
            tei_model: Some("no/such/model".into()),
            ..Binaries::default()
        };
        assert_eq!(reason(Name::Tei, folder), "--tei-model is not a folder");
    }

    #[test]
    fn libraries_beside_a_foreign_program_are_known_by_their_names() {
        let found = ["libonnxruntime.so.1", "libggml.so", "llama-server", "libx.a", "so.libx"];
        let libraries: Vec<_> = found.iter().filter(|name| is_library(Path::new(name))).collect();
        assert_eq!(libraries, [&"libonnxruntime.so.1", &"libggml.so"]);
    }
}
