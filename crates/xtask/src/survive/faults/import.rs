//! Imports that cannot finish: a disk that is full, a limit on files, SIGKILL at any moment. What is left is either
//! a whole graph or none, and the next import mends everything.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::model::{folder, millis};
use crate::process::{self, without_settings};
use crate::survive::judge;
use crate::survive::program::{Program, Scratch, embedgate};
use crate::test::report::Suite;
use crate::workspace::{DEFAULT_MODEL, Workspace};

const LIMIT: Duration = Duration::from_secs(120);
const GRAPH: &str = "embedgate.onnx";
const WEIGHTS: &str = "embedgate.onnx.data";

pub(super) fn run(workspace: &Workspace, kills: u32, suite: &mut Suite) -> Result<()> {
    let scratch = Scratch::new("import")?;
    file_limit(workspace, scratch.path(), suite)?;
    full_disk(workspace, suite)?;
    killed(workspace, scratch.path(), kills, suite)
}

/// What an import has left in `folder`, by name; the model's own files are links.
fn left(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The shell limits files to 8 MiB and hides the signal that says so: every write beyond fails, as on a full disk.
fn file_limit(workspace: &Workspace, scratch: &Path, suite: &mut Suite) -> Result<()> {
    let folder = folder(workspace, scratch, None)?;
    let mut command = Command::new("sh");
    without_settings(&mut command)
        .args(["-c", "trap '' XFSZ; ulimit -f 16384; exec \"$0\" model import \"$1\""]);
    command.arg(workspace.release_binary()).arg(&folder).current_dir(workspace.root());
    let ended = Program::start(command, scratch)?.wait(LIMIT)?;
    let left = left(&folder)?;
    judge(
        suite,
        ended.status.code() == Some(1) && ended.log.contains(WEIGHTS) && left.is_empty(),
        format!("no room in a file: {}, {} left; it said {:?}", ended.status, left.len(), ended.log.trim()),
    );
    Ok(())
}

/// A file system of 16 MiB in a mount namespace of its own, where this process may make one.
fn full_disk(workspace: &Workspace, suite: &mut Suite) -> Result<()> {
    const SCRIPT: &str = "set -e
        mount -t tmpfs -o size=16m none \"$1\"
        mkdir \"$1/model\"
        for file in \"$2\"/*; do
            case \"$file\" in */embedgate.*) ;; *) ln -s \"$file\" \"$1/model/\" ;; esac
        done
        code=0
        \"$0\" model import \"$1/model\" || code=$?
        echo \"code $code, left: $(find \"$1/model\" -type f | wc -l)\"";
    let scratch = Scratch::new("full")?;
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        without_settings(&mut command).args(["--mount", "sh", "-c", script]).arg(workspace.release_binary());
        command.arg(scratch.path()).arg(workspace.model(DEFAULT_MODEL));
        command
    };
    if process::capture(&mut unshare("mount -t tmpfs -o size=1m none \"$1\"")).is_err() {
        suite.skip("a full disk: this process may not mount one");
        return Ok(());
    }
    let folder = Scratch::new("full-log")?;
    let ended = Program::start(unshare(SCRIPT), folder.path())?.wait(LIMIT)?;
    judge(
        suite,
        ended.log.contains("code 1, left: 0") && ended.log.contains(WEIGHTS),
        format!("a full disk: it said {:?}", ended.log.trim()),
    );
    Ok(())
}

/// Kills imports at moments spread over their whole time.
fn killed(workspace: &Workspace, scratch: &Path, kills: u32, suite: &mut Suite) -> Result<()> {
    let import = |folder: &Path| embedgate(workspace, &["model", "import", &folder.to_string_lossy()]);
    let model = folder(workspace, scratch, None)?;
    let whole = Program::start(import(&model), scratch)?.wait(LIMIT)?;
    ensure!(whole.status.success(), "the import failed: {}", whole.log);
    let contents = |folder: &Path| -> Result<(Vec<u8>, Vec<u8>)> {
        let read = |name| fs::read(folder.join(name)).with_context(|| format!("cannot read {name}"));
        Ok((read(GRAPH)?, read(WEIGHTS)?))
    };
    let expected = contents(&model)?;

    let (mut halves, mut bad, mut orphans) = (0, Vec::new(), 0);
    for kill in 0..kills {
        let model = folder(workspace, scratch, None)?;
        let mut program = Program::start(import(&model), scratch)?;
        let moment = whole.took.mul_f64((f64::from(kill) + 0.5) / f64::from(kills));
        thread::sleep(moment);
        program.kill()?;
        let names = left(&model)?;
        halves += usize::from(names.iter().any(|name| name.ends_with(".partial")));
        // A graph is there only when its weights are.
        if names.iter().any(|name| name == GRAPH) && contents(&model)? != expected {
            bad.push(format!("after {:.0} ms a graph was left that is not whole", millis(moment)));
        }
        let again = Program::start(import(&model), scratch)?.wait(LIMIT)?;
        if !again.status.success() || contents(&model)? != expected {
            bad.push(format!(
                "after {:.0} ms the next import did not mend it: {}",
                millis(moment),
                again.log
            ));
        }
        orphans += left(&model)?.iter().filter(|name| name.ends_with(".partial")).count();
    }
    judge(
        suite,
        bad.is_empty(),
        format!(
            "{kills} imports of {:.0} ms killed, {halves} of them while writing; the next was whole each time{}",
            millis(whole.took),
            bad.iter().map(|bad| format!("; {bad}")).collect::<String>()
        ),
    );
    judge(suite, orphans == 0, format!("{orphans} unfinished files were left after the next import"));
    Ok(())
}
