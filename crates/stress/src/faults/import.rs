//! Imports that cannot finish: a full disk, a limit of file sizes, SIGKILL at any moment. Each leaves a complete graph
//! or none, and the next import succeeds.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::process::{self, remove_embedgate_env};
use testkit::workspace::DEFAULT_MODEL;
use testkit::{Program, embedgate, files};

use super::damaged_model::link_model;
use crate::{Run, millis};

const TIMEOUT: Duration = Duration::from_secs(120);
const GRAPH: &str = "embedgate.onnx";
const WEIGHTS: &str = "embedgate.onnx.data";

pub(super) fn run(run: &mut Run<'_>, kills: u32) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot create a folder")?;
    file_size_limit(run, scratch.path())?;
    full_disk(run)?;
    killed(run, scratch.path(), kills)
}

/// Names of the files that an import left in `folder`; the model's own files are links.
fn left_files(folder: &Path) -> Result<Vec<String>> {
    let paths = files::list(folder)?.into_iter().filter(|path| path.is_file() && !path.is_symlink());
    Ok(paths.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
}

/// The shell limits files to 8 MiB and ignores the signal, so every further write fails, as on a full disk.
fn file_size_limit(run: &mut Run<'_>, scratch: &Path) -> Result<()> {
    let folder = link_model(run.workspace, scratch, None)?;
    let mut command = Command::new("sh");
    remove_embedgate_env(&mut command)
        .args(["-c", "trap '' XFSZ; ulimit -f 16384; exec \"$0\" model import \"$1\""]);
    command.arg(run.workspace.release_binary()).arg(&folder).current_dir(run.workspace.root());
    let ended = Program::start(command)?.wait(TIMEOUT)?;
    let left = left_files(&folder)?;
    run.judge(
        ended.status.code() == Some(1) && ended.log.contains(WEIGHTS) && left.is_empty(),
        format!("file size limit: {}, {} files left; log {:?}", ended.status, left.len(), ended.log.trim()),
    );
    Ok(())
}

/// A file system of 16 MiB in a mount namespace of its own, if this process may create one.
fn full_disk(run: &mut Run<'_>) -> Result<()> {
    const SCRIPT: &str = "set -e
        mount -t tmpfs -o size=16m none \"$1\"
        mkdir \"$1/model\"
        for file in \"$2\"/*; do
            case \"$file\" in */embedgate.*) ;; *) ln -s \"$file\" \"$1/model/\" ;; esac
        done
        code=0
        \"$0\" model import \"$1/model\" || code=$?
        echo \"code $code, left: $(find \"$1/model\" -type f | wc -l)\"";
    let scratch = tempfile::tempdir().context("cannot create a folder")?;
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        remove_embedgate_env(&mut command).args(["--mount", "sh", "-c", script]);
        command
            .arg(run.workspace.release_binary())
            .arg(scratch.path())
            .arg(run.workspace.model(DEFAULT_MODEL));
        command
    };
    if process::capture(&mut unshare("mount -t tmpfs -o size=1m none \"$1\"")).is_err() {
        run.suite.skip("a full disk: this process may not mount a file system");
        return Ok(());
    }
    let ended = Program::start(unshare(SCRIPT))?.wait(TIMEOUT)?;
    run.judge(
        ended.log.contains("code 1, left: 0") && ended.log.contains(WEIGHTS),
        format!("full disk: log {:?}", ended.log.trim()),
    );
    Ok(())
}

/// Kills imports at moments spread over their whole time.
fn killed(run: &mut Run<'_>, scratch: &Path, kills: u32) -> Result<()> {
    let workspace = run.workspace;
    let import = |folder: &Path| {
        let arguments = ["model", "import", &folder.to_string_lossy()];
        Program::start(embedgate(&workspace.release_binary(), workspace.root(), &arguments))
    };
    let model = link_model(workspace, scratch, None)?;
    let complete = import(&model)?.wait(TIMEOUT)?;
    ensure!(complete.status.success(), "the import failed: {}", complete.log);
    let contents = |folder: &Path| -> Result<(Vec<u8>, Vec<u8>)> {
        Ok((files::read(&folder.join(GRAPH))?, files::read(&folder.join(WEIGHTS))?))
    };
    let expected = contents(&model)?;

    let (mut while_writing, mut failures, mut orphans) = (0, Vec::new(), 0);
    let is_partial = |name: &String| name.ends_with(".partial");
    for kill in 0..kills {
        let model = link_model(workspace, scratch, None)?;
        let mut program = import(&model)?;
        let moment = complete.elapsed.mul_f64((f64::from(kill) + 0.5) / f64::from(kills));
        thread::sleep(moment);
        program.kill()?;
        let names = left_files(&model)?;
        while_writing += usize::from(names.iter().any(is_partial));
        // A graph exists only together with its weights.
        if names.iter().any(|name| name == GRAPH) && contents(&model)? != expected {
            failures.push(format!("after {:.0} ms the graph was incomplete", millis(moment)));
        }
        let again = import(&model)?.wait(TIMEOUT)?;
        if !again.status.success() || contents(&model)? != expected {
            failures.push(format!("after {:.0} ms the next import failed: {}", millis(moment), again.log));
        }
        orphans += left_files(&model)?.iter().filter(|name| is_partial(name)).count();
    }
    run.judge(
        failures.is_empty(),
        format!(
            "{kills} imports of {:.0} ms killed, {while_writing} of them while writing; the next was complete each \
             time{}",
            millis(complete.elapsed),
            failures.iter().map(|failure| format!("; {failure}")).collect::<String>()
        ),
    );
    run.judge(orphans == 0, format!("{orphans} partial files were left after the next import"));
    Ok(())
}
