//! Command lines of the servers, on a given port.
//!
//! All of them serve the same folder on the loopback interface with one thread per core, which is the default of each.
//! None logs requests.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use testkit::process::remove_embedgate_env;

/// embedgate's flag for the cache size; 0 disables it.
const CACHE: &str = "--cache-memory";
/// embedgate's flag for the precision.
const PRECISION: &str = "--precision";

/// A server that can be started.
#[derive(Clone, Debug)]
pub(crate) enum Launch {
    /// Further flags of `embedgate serve`.
    Embedgate {
        program: PathBuf,
        flags: Vec<String>,
    },
    Infinity {
        program: PathBuf,
    },
    /// The same with a cross-encoder, in torch: its engine optimum needs a graph that contains the classifier.
    InfinityReranker {
        program: PathBuf,
    },
    Fastapi {
        python: PathBuf,
        script: PathBuf,
    },
    /// `text-embeddings-router`, one binary.
    Tei {
        program: PathBuf,
        /// The folder to serve, if its backend cannot read the common one.
        folder: Option<PathBuf>,
    },
    /// `llama-server` with a converted model.
    Llama {
        program: PathBuf,
        gguf: PathBuf,
        cores: usize,
    },
}

impl Launch {
    /// The command that serves `model` on 127.0.0.1 at `port`.
    pub(crate) fn command(&self, model: &Path, port: u16) -> Command {
        let port = port.to_string();
        let mut command;
        match self {
            Self::Embedgate { program, flags } => {
                command = Command::new(program);
                remove_embedgate_env(&mut command);
                command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--model"]).arg(model);
                // The start-up line is needed: it names the precision.
                if !flags.iter().any(|flag| flag.starts_with("--log-filter")) {
                    command.args(["--log-filter", "info,actix_server=warn,gateway::middleware=warn"]);
                }
                command.args(flags);
            }
            Self::Infinity { program } => {
                command = Command::new(program);
                // Its README recommends the engine optimum (ONNX Runtime) on a CPU. The pooling must be named: the
                // engine's default is the first token. The folder contains one ONNX file, embedgate.onnx in fp32. It
                // runs in that folder, since optimum accepts only a path relative to the model. It writes an optimized
                // copy to the cache of Hugging Face's libraries, here a folder of its own.
                command.current_dir(model);
                command.args(["v2", "--engine", "optimum", "--device", "cpu", "--url-prefix", "/v1"]);
                command.args(["--pooling-method", "mean"]);
                command.args(["--served-model-name", "all-MiniLM-L6-v2", "--log-level", "warning"]);
                command.args(["--host", "127.0.0.1", "--port", &port, "--model-id", "."]);
                command.env("INFINITY_ANONYMOUS_USAGE_STATS", "0");
                command.env("HF_HOME", program.with_file_name("cache"));
            }
            Self::InfinityReranker { program } => {
                command = Command::new(program);
                command.args(["v2", "--engine", "torch", "--device", "cpu", "--dtype", "float32"]);
                // Its replacement for encoder layers does not know the classes of later releases of transformers.
                command.args(["--no-bettertransformer", "--log-level", "warning", "--no-model-warmup"]);
                command.args(["--served-model-name", "reranker", "--host", "127.0.0.1", "--port", &port]);
                command.arg("--model-id").arg(model);
                command.env("INFINITY_ANONYMOUS_USAGE_STATS", "0");
                command.env("HF_HOME", program.with_file_name("cache"));
            }
            Self::Fastapi { python, script } => {
                command = Command::new(python);
                command.arg(script).arg(model).arg(&port);
            }
            Self::Tei { program, folder } => {
                command = Command::new(program);
                command.args(["--hostname", "127.0.0.1", "--port", &port, "--auto-truncate"]);
                // Its defaults reject more than 32 texts per request and 512 concurrent requests.
                command.args(["--max-client-batch-size", "2048", "--max-concurrent-requests", "4096"]);
                // It warns about each request for a model of another name.
                command.args(["--served-model-name", "all-MiniLM-L6-v2", "--model-id"]);
                command.arg(folder.as_deref().unwrap_or(model));
                command.env("LOG_LEVEL", "warn");
            }
            Self::Llama { program, gguf, cores } => {
                command = Command::new(program);
                command.args(["--embedding", "--pooling", "mean", "--host", "127.0.0.1", "--port", &port]);
                // 32 slots of the model's maximum length; a physical batch must hold a text.
                command.args(["--parallel", "32", "--ctx-size", "8192"]);
                command.args(["--batch-size", "2048", "--ubatch-size", "2048"]);
                // Warnings and errors: the next level logs each text.
                command.args(["--log-verbosity", "2"]);
                command.args(["--threads", &cores.to_string(), "--model"]).arg(gguf);
            }
        }
        // No downloads during a measurement, and no telemetry.
        command.envs([("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_OFFLINE", "1"), ("DO_NOT_TRACK", "1")]);
        command
    }
}

/// The flags that disable embedgate's cache, from the output of `embedgate serve --help`; none if it has no cache. An
/// unknown cache flag is an error: the comparison must not run with a cache.
pub(crate) fn cache_off(help: &str) -> Result<Vec<String>> {
    if has_flag(help, CACHE) {
        return Ok(vec![CACHE.into(), "0".into()]);
    }
    ensure!(
        !help.contains("--cache"),
        "embedgate has a cache that {CACHE} does not switch off: see launch.rs"
    );
    Ok(Vec::new())
}

/// The flags for `precision`; `None` if embedgate has only fp32.
pub(crate) fn in_precision(help: &str, precision: &str) -> Option<[String; 2]> {
    has_flag(help, PRECISION).then(|| [PRECISION.into(), precision.into()])
}

fn has_flag(help: &str, flag: &str) -> bool {
    help.split(|end: char| end.is_whitespace() || "=,[]".contains(end)).any(|word| word == flag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::process;

    fn line(launch: &Launch) -> String {
        process::command_line(&launch.command(Path::new("models/m"), 4321))
    }

    #[test]
    fn every_server_gets_its_port_and_the_model() {
        let program = PathBuf::from("prog");
        let launches = [
            Launch::Embedgate { program: program.clone(), flags: vec!["--onnx-sessions".into(), "2".into()] },
            Launch::Infinity { program: program.clone() },
            Launch::InfinityReranker { program: program.clone() },
            Launch::Fastapi { python: program.clone(), script: "s.py".into() },
            Launch::Tei { program: program.clone(), folder: None },
            Launch::Tei { program: program.clone(), folder: Some("own/models/m".into()) },
        ];
        for launch in &launches {
            let line = line(launch);
            assert!(line.starts_with("prog ") && line.contains("4321"), "{line}");
            let folder = launch.command(Path::new("models/m"), 1).get_current_dir().map(Path::to_owned);
            if matches!(launch, Launch::Infinity { .. }) {
                assert!(line.ends_with("--model-id ."), "{line}");
                assert_eq!(folder.as_deref(), Some(Path::new("models/m")));
            } else {
                assert!(line.contains("models/m") && folder.is_none(), "{line}");
            }
            let offline = launch.command(Path::new("m"), 1);
            assert!(offline.get_envs().any(|(name, value)| {
                name == "HF_HUB_OFFLINE" && value.is_some_and(|value| value == "1")
            }));
        }
        assert_eq!(
            line(&launches[0]),
            "prog serve --listen 127.0.0.1:4321 --model models/m --log-filter \
             info,actix_server=warn,gateway::middleware=warn --onnx-sessions 2"
        );
        assert_eq!(
            line(&launches[4]),
            "prog --hostname 127.0.0.1 --port 4321 --auto-truncate --max-client-batch-size 2048 \
             --max-concurrent-requests 4096 --served-model-name all-MiniLM-L6-v2 --model-id models/m"
        );
        assert!(line(&launches[5]).ends_with("--model-id own/models/m"));
    }

    #[test]
    fn llama_cpp_gets_its_file_and_mean_pooling() {
        let launch = Launch::Llama { program: "llama-server".into(), gguf: "m.gguf".into(), cores: 3 };
        let line = line(&launch);
        assert!(line.starts_with("llama-server --embedding --pooling mean --host 127.0.0.1 --port 4321"));
        assert!(line.ends_with("--threads 3 --model m.gguf"), "{line}");
    }

    #[test]
    fn flags_are_used_only_if_the_program_has_them() {
        assert_eq!(cache_off("  --onnx-sessions <N>").unwrap(), Vec::<String>::new());
        assert_eq!(cache_off("  --cache-memory <SIZE>  Size").unwrap(), ["--cache-memory", "0"]);
        assert!(cache_off("  --cache-size <BYTES>").unwrap_err().to_string().contains("launch.rs"));
        assert_eq!(in_precision("  --precision <P>", "int8").unwrap(), ["--precision", "int8"]);
        assert_eq!(in_precision("  --precision-of <P>", "int8"), None);
    }
}
