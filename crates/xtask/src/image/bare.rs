//! The archive on a machine that has nothing: unpacked into a Debian 12 without a shell, and served from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::container::embeds;
use super::machine::unpack;
use crate::server::Server;
use crate::test::report::Suite;
use crate::workspace::{DEFAULT_MODEL, Workspace};

/// Mounts what every system has, and becomes the program. Its arguments: the new root, then the command.
const INSIDE: &str = "\
    mkdir -p \"$1/proc\" && mount -t proc proc \"$1/proc\" && exec chroot \"$@\"";

/// Serves from the unpacked archive, by embedgate's own kernels and then by the library that goes along.
///
/// # Errors
/// The root cannot be made. What is wrong with the archive is in `suite` instead.
pub(super) fn run(workspace: &Workspace, debian: &Path, archive: &Path, suite: &mut Suite) -> Result<()> {
    println!("\n{}", suite.name);
    let root = Root::new(workspace)?;
    unpack(debian, &root.0)?;
    let opt = root.0.join("opt");
    unpack(archive, &opt)?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let folder = format!("/opt/{}", name.trim_end_matches(".tar.gz"));
    for (what, isa) in [("it embeds", "auto"), ("it embeds with ONNX Runtime", "none")] {
        suite.check(what, || {
            let server = Server::launch(command(&root.0, &folder, isa))?;
            embeds(&server)?;
            server.stop()
        });
    }
    Ok(())
}

fn command(root: &Path, folder: &str, isa: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", INSIDE, "sh"]).arg(root);
    command.arg(format!("{folder}/bin/embedgate")).args(["serve", "--listen=127.0.0.1:0", "--isa", isa]);
    command.arg(format!("--model={folder}/models/{DEFAULT_MODEL}"));
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// The folder that is the root of the bare machine. Dropping it removes it.
struct Root(PathBuf);

impl Root {
    fn new(workspace: &Workspace) -> Result<Self> {
        let root = Self(workspace.runtime().join("image/bare"));
        root.remove().with_context(|| format!("cannot remove {}", root.0.display()))?;
        Ok(root)
    }

    fn remove(&self) -> std::io::Result<()> {
        if self.0.exists() { fs::remove_dir_all(&self.0) } else { Ok(()) }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // What cannot be removed now, the next run will.
        let _ = self.remove();
    }
}
