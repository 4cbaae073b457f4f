//! The competitors: packages, command lines, and size on disk.

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
    /// This project's release build with default settings, without its cache
    Embedgate,
    /// The same in fp32
    EmbedgateFp32,
    /// The same in int8
    EmbedgateInt8,
    /// The server infinity-emb with its engine optimum (ONNX Runtime, fp32)
    Infinity,
    /// A minimal FastAPI server around sentence-transformers
    Fastapi,
    /// Hugging Face's text-embeddings-inference; needs `--tei`
    Tei,
    /// llama.cpp's server; needs `--llama` and `--gguf`
    Llama,
    /// onnxruntime in a Python process, fp32
    Onnxruntime,
    /// onnxruntime in a Python process, after dynamic quantization to int8
    OnnxruntimeInt8,
    /// OpenVINO in a Python process, bf16 if the CPU supports it
    Openvino,
    /// OpenVINO in a Python process, after static quantization to int8
    OpenvinoInt8,
    /// OpenVINO in a Python process, with weights compressed to int8
    OpenvinoInt8Weights,
    /// sentence-transformers in a Python process
    SentenceTransformers,
}

impl Name {
    /// Name in tables and charts.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Embedgate => "embedgate",
            Self::EmbedgateFp32 => "embedgate, fp32",
            Self::EmbedgateInt8 => "embedgate, int8",
            Self::Infinity => "infinity (optimum)",
            Self::Fastapi => "FastAPI + sentence-transformers",
            Self::Tei => "text-embeddings-inference",
            Self::Llama => "llama.cpp server",
            Self::Onnxruntime => "onnxruntime",
            Self::OnnxruntimeInt8 => "onnxruntime, int8",
            Self::Openvino => "OpenVINO",
            Self::OpenvinoInt8 => "OpenVINO, int8",
            Self::OpenvinoInt8Weights => "OpenVINO, int8 weights",
            Self::SentenceTransformers => "sentence-transformers",
        }
    }

    pub(crate) fn is_server(self) -> bool {
        !matches!(
            self,
            Self::Onnxruntime
                | Self::OnnxruntimeInt8
                | Self::Openvino
                | Self::OpenvinoInt8
                | Self::OpenvinoInt8Weights
                | Self::SentenceTransformers
        )
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Embedgate | Self::EmbedgateFp32 | Self::EmbedgateInt8)
    }
}

/// Paths of binaries that no package index has.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Binaries {
    /// text-embeddings-router, the binary of text-embeddings-inference
    #[arg(long, value_name = "PATH")]
    tei: Option<PathBuf>,
    /// The model's folder for it, if built for ONNX: the common one plus `onnx/model.onnx`
    #[arg(long, value_name = "FOLDER", requires = "tei")]
    tei_model: Option<PathBuf>,
    /// llama.cpp's llama-server
    #[arg(long, value_name = "PATH", requires = "gguf")]
    llama: Option<PathBuf>,
    /// all-MiniLM-L6-v2 converted for llama.cpp
    #[arg(long, value_name = "PATH")]
    gguf: Option<PathBuf>,
}

/// A competitor that can be measured.
#[derive(Debug)]
pub(crate) enum Ready {
    Server {
        launch: Launch,
        /// Launch with a cache for repeated texts, if that differs.
        cached: Option<Launch>,
    },
    InProcess {
        python: PathBuf,
        /// Name in the script.
        library: &'static str,
    },
}

/// A competitor and its state.
#[derive(Debug)]
pub(crate) struct Competitor {
    pub(crate) name: Name,
    pub(crate) versions: String,
    /// Size on disk without the model; `None` before it is installed.
    pub(crate) size: Option<Size>,
    /// Ready to run, or the reason why not.
    pub(crate) ready: Result<Ready, String>,
}

const INFINITY: Packages = Packages {
    name: "infinity",
    pins: include_str!("requirements/infinity.txt"),
    gigabytes: 9.0,
    quoted: &["infinity_emb", "optimum", "onnxruntime", "transformers"],
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
const ONNXRUNTIME_INT8: Packages = Packages {
    name: "onnxruntime-int8",
    pins: include_str!("requirements/onnxruntime-int8.txt"),
    gigabytes: 0.6,
    quoted: &["onnxruntime", "onnx", "tokenizers"],
};
const OPENVINO_INT8: Packages = Packages {
    name: "openvino-int8",
    pins: include_str!("requirements/openvino-int8.txt"),
    gigabytes: 1.5,
    quoted: &["openvino", "nncf", "tokenizers"],
};
const OPENVINO: Packages = Packages {
    name: "openvino",
    pins: include_str!("requirements/openvino.txt"),
    gigabytes: 1.0,
    quoted: &["openvino", "tokenizers"],
};

/// Installs a competitor. A failure is kept as the reason, which the page shows.
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
        Name::Embedgate => embedgate(workspace, competitor, serve_flags, None),
        Name::EmbedgateFp32 => embedgate(workspace, competitor, serve_flags, Some("fp32")),
        Name::EmbedgateInt8 => embedgate(workspace, competitor, serve_flags, Some("int8")),
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
            let program = foreign(competitor, program)?;
            // The name of a GGUF file contains its quantization, such as Q8_0 or F16.
            competitor.versions += &format!(", model file {}", file_name(&gguf));
            Ok(server(Launch::Llama { program, gguf, cores }))
        }
        Name::Onnxruntime => in_process(workspace, competitor, &ONNXRUNTIME, "onnxruntime"),
        Name::OnnxruntimeInt8 => in_process(workspace, competitor, &ONNXRUNTIME_INT8, "onnxruntime-int8"),
        Name::Openvino => in_process(workspace, competitor, &OPENVINO, "openvino"),
        Name::OpenvinoInt8 => in_process(workspace, competitor, &OPENVINO_INT8, "openvino-int8"),
        Name::OpenvinoInt8Weights => {
            in_process(workspace, competitor, &OPENVINO_INT8, "openvino-int8-weights")
        }
        Name::SentenceTransformers => {
            in_process(workspace, competitor, &SENTENCE_TRANSFORMERS, "sentence-transformers")
        }
    }
}

fn embedgate(
    workspace: &Workspace,
    competitor: &mut Competitor,
    serve_flags: &[String],
    precision: Option<&str>,
) -> Result<Ready> {
    let program = binary(competitor, &workspace.release_binary())?;
    let mut library = Size::default();
    library.add(&workspace.runtime().join("onnxruntime"));
    if let Some(size) = &mut competitor.size {
        size.megabytes += library.megabytes;
    }
    let help = capture(Command::new(&program).args(["serve", "--help"]))?;
    let mut flags = serve_flags.to_vec();
    if let Some(precision) = precision {
        let set = launch::in_precision(&help, precision);
        flags.extend(set.context("this build computes in fp32 anyway: see embedgate")?);
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
    packages: &Packages,
    library: &'static str,
) -> Result<Ready> {
    let bin = packaged(workspace, competitor, packages)?;
    Ok(Ready::InProcess { python: bin.join("python"), library })
}

/// Installs `packages` and returns the folder of their programs.
fn packaged(workspace: &Workspace, competitor: &mut Competitor, packages: &Packages) -> Result<PathBuf> {
    competitor.versions = packages.versions();
    let venv = packages.install(workspace)?;
    let mut size = Size::default();
    size.add(&packages.folder(workspace));
    competitor.size = Some(size);
    Ok(venv.bin())
}

/// Checks that `program` runs, and records its version and size.
fn binary(competitor: &mut Competitor, program: &Path) -> Result<PathBuf> {
    let program = std::path::absolute(program).context("there is no working directory")?;
    let mut command = Command::new(&program);
    command.arg("--version");
    let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
    let said = process::stdout_of(&process::command_line(&command), &output)?;
    // llama.cpp prints it to standard error.
    let also = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = said.lines().chain(also.lines()).find(|line| !line.trim().is_empty());
    competitor.versions = first.unwrap_or("version unknown").trim().to_owned();
    let mut size = Size::default();
    size.add(&program);
    competitor.size = Some(size);
    Ok(program)
}

/// As [`binary`], for a program whose shared libraries are in the same folder.
fn foreign(competitor: &mut Competitor, program: &Path) -> Result<PathBuf> {
    let program = binary(competitor, program)?;
    let siblings = program.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten();
    let files = siblings.filter_map(Result::ok).map(|entry| entry.path());
    for library in files.filter(|path| is_library(path)) {
        competitor.size.get_or_insert_default().add(&library);
    }
    Ok(program)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_library(path: &Path) -> bool {
    let name = file_name(path);
    name.starts_with("lib") && (name.ends_with(".so") || name.contains(".so."))
}

/// An absolute path: a server is started in the checkout, the user may be in another folder.
fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>> {
    path.map(std::path::absolute).transpose().context("there is no working directory")
}

/// Folder of the competitors' scripts.
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
    fn all_packages_are_pinned_and_the_quoted_ones_included() {
        for packages in
            [&INFINITY, &SENTENCE_TRANSFORMERS, &ONNXRUNTIME, &ONNXRUNTIME_INT8, &OPENVINO, &OPENVINO_INT8]
        {
            for line in packages.pins.lines().filter(|line| !line.starts_with('#')) {
                let version = line.split_once("==").map(|(_, version)| version);
                assert!(version.is_some_and(|version| !version.is_empty()), "{}: {line}", packages.name);
            }
            assert!(!packages.versions().contains("unpinned"), "{}", packages.versions());
        }
    }

    #[test]
    fn missing_binaries_are_reported_with_the_reason() {
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
    fn shared_libraries_are_recognized_by_name() {
        let found = ["libonnxruntime.so.1", "libggml.so", "llama-server", "libx.a", "so.libx"];
        let libraries: Vec<_> = found.iter().filter(|name| is_library(Path::new(name))).collect();
        assert_eq!(libraries, [&"libonnxruntime.so.1", &"libggml.so"]);
    }
}
