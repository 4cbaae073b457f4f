//! Smoke test of the archive: unpacked into a Debian 12 without a shell, and served from there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::container::embeds;
use super::host_tools::unpack;
use testkit::report::Suite;
use testkit::workspace::{DEFAULT_MODEL, Workspace};
use testkit::{Server, files};

/// Mounts /proc and replaces itself with the program. Arguments: the new root, then the command.
const ENTER: &str = "\
    mkdir -p \"$1/proc\" && mount -t proc proc \"$1/proc\" && exec chroot \"$@\"";

/// Serves from the unpacked archive with the native kernels, then with the included ONNX Runtime. Failed checks are
/// part of the suite.
pub(super) fn run(workspace: &Workspace, debian: &Path, archive: &Path, suite: &mut Suite) -> Result<()> {
    let root = Root(workspace.runtime().join("image/smoke-test"));
    // Remains of a killed run.
    files::remove(&root.0)?;
    unpack(debian, &root.0)?;
    let opt = root.0.join("opt");
    unpack(archive, &opt)?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let folder = format!("/opt/{}", name.trim_end_matches(".tar.gz"));
    for (what, isa) in [("it embeds", "auto"), ("it embeds with ONNX Runtime", "none")] {
        suite.check(what, || {
            let server = Server::start(command(&root.0, &folder, isa))?;
            embeds(&server)?;
            server.stop()
        });
    }
    Ok(())
}

fn command(root: &Path, folder: &str, isa: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"]).arg(root);
    command.arg(format!("{folder}/bin/embedgate")).args(["serve", "--listen=127.0.0.1:0", "--isa", isa]);
    command.arg(format!("--model={folder}/models/{DEFAULT_MODEL}"));
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// The root folder of the test machine. Dropping it removes it.
struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        // The next run removes remains.
        let _ = files::remove(&self.0);
    }
}
