//! Damaged model files: a start that fails says which file, soon, with an exit code other than 0.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::survive::judge;
use crate::survive::program::{Program, Scratch, embedgate};
use crate::test::report::Suite;
use crate::workspace::{DEFAULT_MODEL, Workspace};

/// A start that fails does so within this time, or hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A way to spoil one file.
struct Damage {
    what: &'static str,
    file: &'static str,
    spoil: fn(&mut Vec<u8>),
    /// What the error must name.
    names: &'static str,
    /// Whether an import, too, must notice. What a tensor holds only its vectors can tell.
    structural: bool,
}

const DAMAGES: [Damage; 9] = [
    Damage {
        what: "weights cut in half",
        file: "model.safetensors",
        spoil: |bytes| bytes.truncate(bytes.len() / 2),
        names: "model.safetensors",
        structural: true,
    },
    Damage {
        what: "weights that are empty",
        file: "model.safetensors",
        spoil: Vec::clear,
        names: "model.safetensors",
        structural: true,
    },
    Damage {
        what: "a bit of the header's length flipped",
        file: "model.safetensors",
        spoil: |bytes| bytes[5] ^= 0x40,
        names: "model.safetensors",
        structural: true,
    },
    Damage {
        what: "a bit of the header flipped",
        file: "model.safetensors",
        // The opening brace.
        spoil: |bytes| bytes[8] ^= 0x04,
        names: "model.safetensors",
        structural: true,
    },
    Damage {
        what: "64 KiB of a tensor overwritten",
        file: "model.safetensors",
        spoil: |bytes| {
            let middle = bytes.len() * 3 / 4;
            bytes[middle..middle + (64 << 10)].fill(0x7e);
        },
        names: DEFAULT_MODEL,
        structural: false,
    },
    Damage {
        what: "a tokenizer cut in half",
        file: "tokenizer.json",
        spoil: |bytes| bytes.truncate(bytes.len() / 2),
        names: "tokenizer.json",
        structural: false,
    },
    Damage {
        what: "settings cut in half",
        file: "config.json",
        spoil: |bytes| bytes.truncate(bytes.len() / 2),
        names: "config.json",
        structural: true,
    },
    Damage {
        what: "settings of a wider model",
        file: "config.json",
        spoil: |bytes| {
            let text = String::from_utf8_lossy(bytes).replace("\"hidden_size\": 384", "\"hidden_size\": 768");
            *bytes = text.into_bytes();
        },
        names: "config.json",
        structural: true,
    },
    Damage {
        what: "a manifest cut in half",
        file: "model.toml",
        spoil: |bytes| bytes.truncate(bytes.len() / 2),
        names: "model.toml",
        structural: true,
    },
];

/// A copy of the default model's folder: links, but for `own`, which is left out. Earlier imports are, too.
pub(super) fn folder(workspace: &Workspace, scratch: &Path, own: Option<&str>) -> Result<PathBuf> {
    let folder = scratch.join(DEFAULT_MODEL);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let model = workspace.model(DEFAULT_MODEL);
    for entry in fs::read_dir(&model).with_context(|| format!("cannot list {}", model.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", model.display()))?;
        let name = entry.file_name();
        let ours = name.to_string_lossy().contains("embedgate");
        if !ours && own.is_none_or(|own| name != own) {
            let link = folder.join(&name);
            symlink(entry.path(), &link).with_context(|| format!("cannot link {}", link.display()))?;
        }
    }
    Ok(folder)
}

pub(super) fn run(workspace: &Workspace, suite: &mut Suite) -> Result<()> {
    let scratch = Scratch::new("damage")?;
    for damage in &DAMAGES {
        let folder = folder(workspace, scratch.path(), Some(damage.file))?;
        let original = workspace.model(DEFAULT_MODEL).join(damage.file);
        let mut bytes = fs::read(&original).with_context(|| format!("cannot read {}", original.display()))?;
        let whole = bytes.clone();
        (damage.spoil)(&mut bytes);
        let spoilt = folder.join(damage.file);
        fs::write(&spoilt, &bytes).with_context(|| format!("cannot write {}", spoilt.display()))?;
        let path = folder.to_string_lossy();
        // Digests of the files that are there may be noted, and what can be imported may be: that is no harm.
        let files = || {
            let names = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
            let allowed = |name: &str| {
                name == "embedgate.fingerprint" || !damage.structural && name.starts_with("embedgate.onnx")
            };
            names.filter(|name| !allowed(&name.to_string_lossy())).count()
        };

        let (mut kept, mut said) = (bytes != whole, damage.what.to_owned());
        let mut commands = vec![vec!["serve", "--listen", "127.0.0.1:0", "--model", &path]];
        if damage.structural {
            commands.push(vec!["model", "import", &path]);
        }
        for arguments in commands {
            let before = files();
            let ended = Program::start(embedgate(workspace, &arguments), scratch.path())?.wait(LIMIT)?;
            let clear = ended.log.contains(damage.names) && !ended.log.contains("panicked");
            kept &= ended.status.code().is_some_and(|code| code != 0) && clear && files() == before;
            said += &format!("; {}: {} after {:.0} ms", arguments[0], ended.status, millis(ended.took));
            if !kept {
                said += &format!(", having said: {}", ended.log);
                break;
            }
        }
        judge(suite, kept, said);
    }
    Ok(())
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
