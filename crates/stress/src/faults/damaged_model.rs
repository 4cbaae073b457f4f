//! Damaged model files: the start fails soon, names the file, and has an exit code other than 0.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use testkit::workspace::{DEFAULT_MODEL, Workspace};
use testkit::{Program, embedgate, files};

use crate::{Run, millis};

/// Limit of a start that fails.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Damage of one file.
struct Damage {
    what: &'static str,
    file: &'static str,
    apply: fn(&mut Vec<u8>),
    /// The name that the error must contain.
    names: &'static str,
    /// If true, an import must detect it, too. Damage inside a tensor shows only in its vectors.
    structural: bool,
}

const DAMAGES: [Damage; 9] = [
    Damage {
        what: "weights cut in half",
        file: "model.safetensors",
        apply: |bytes| bytes.truncate(bytes.len() / 2),
        names: "model.safetensors",
        structural: true,
    },
    Damage {
        what: "weights that are empty",
        file: "model.safetensors",
        apply: Vec::clear,
        names: "model.safetensors",
        structural: true,
    },
    Damage {
        what: "a bit of the header's length flipped",
        file: "model.safetensors",
        apply: |bytes| bytes[5] ^= 0x40,
        names: "model.safetensors",
        structural: true,
    },
    Damage {
        what: "a bit of the header flipped",
        file: "model.safetensors",
        // The opening brace.
        apply: |bytes| bytes[8] ^= 0x04,
        names: "model.safetensors",
        structural: true,
    },
    Damage {
        what: "64 KiB of a tensor overwritten",
        file: "model.safetensors",
        apply: |bytes| {
            let middle = bytes.len() * 3 / 4;
            bytes[middle..middle + (64 << 10)].fill(0x7e);
        },
        names: DEFAULT_MODEL,
        structural: false,
    },
    Damage {
        what: "a tokenizer cut in half",
        file: "tokenizer.json",
        apply: |bytes| bytes.truncate(bytes.len() / 2),
        names: "tokenizer.json",
        structural: false,
    },
    Damage {
        what: "settings cut in half",
        file: "config.json",
        apply: |bytes| bytes.truncate(bytes.len() / 2),
        names: "config.json",
        structural: true,
    },
    Damage {
        what: "settings of a wider model",
        file: "config.json",
        apply: |bytes| {
            let text = String::from_utf8_lossy(bytes).replace("\"hidden_size\": 384", "\"hidden_size\": 768");
            *bytes = text.into_bytes();
        },
        names: "config.json",
        structural: true,
    },
    Damage {
        what: "a manifest cut in half",
        file: "model.toml",
        apply: |bytes| bytes.truncate(bytes.len() / 2),
        names: "model.toml",
        structural: true,
    },
];

/// A folder with links to the default model's files, without `own` and files of earlier imports.
pub(super) fn link_model(workspace: &Workspace, scratch: &Path, own: Option<&str>) -> Result<PathBuf> {
    let folder = scratch.join(DEFAULT_MODEL);
    files::create_empty_folder(&folder)?;
    for file in files::list(&workspace.model(DEFAULT_MODEL))? {
        let name = file.file_name().unwrap_or_default();
        let imported = name.to_string_lossy().contains("embedgate");
        if !imported && own.is_none_or(|own| name != own) {
            let link = folder.join(name);
            symlink(&file, &link).with_context(|| format!("cannot link {}", link.display()))?;
        }
    }
    Ok(folder)
}

pub(super) fn run(run: &mut Run<'_>) -> Result<()> {
    let workspace = run.workspace;
    let scratch = tempfile::tempdir().context("cannot create a folder")?;
    for damage in &DAMAGES {
        let folder = link_model(workspace, scratch.path(), Some(damage.file))?;
        let intact = files::read(&workspace.model(DEFAULT_MODEL).join(damage.file))?;
        let mut bytes = intact.clone();
        (damage.apply)(&mut bytes);
        files::write(&folder.join(damage.file), &bytes)?;
        let path = folder.to_string_lossy();
        // What is remembered about the existing files may be written, and so may an import that succeeds.
        let left_files = || {
            let names = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
            let is_allowed = |name: &str| {
                ["embedgate.fingerprint", "embedgate.accuracy.json"].contains(&name)
                    || !damage.structural && name.starts_with("embedgate.onnx")
            };
            names.filter(|name| !is_allowed(&name.to_string_lossy())).count()
        };

        let (mut passed, mut text) = (bytes != intact, damage.what.to_owned());
        let mut commands = vec![vec!["serve", "--listen", "127.0.0.1:0", "--model", &path]];
        if damage.structural {
            commands.push(vec!["model", "import", &path]);
        }
        for arguments in commands {
            let before = left_files();
            let program = embedgate(&workspace.release_binary(), workspace.root(), &arguments);
            let ended = Program::start(program)?.wait(TIMEOUT)?;
            let is_clear = ended.log.contains(damage.names) && !ended.log.contains("panicked");
            passed &= ended.status.code().is_some_and(|code| code != 0) && is_clear && left_files() == before;
            text += &format!("; {}: {} after {:.0} ms", arguments[0], ended.status, millis(ended.elapsed));
            if !passed {
                text += &format!(", log: {}", ended.log);
                break;
            }
        }
        run.judge(passed, text);
    }
    Ok(())
}
