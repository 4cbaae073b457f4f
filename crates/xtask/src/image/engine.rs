//! Building and running images without a daemon and without a registry: buildah and podman, on a store of their own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Place, Target};
use crate::process::capture;
use crate::workspace::Workspace;

/// What the test's images say that they were built from.
pub(super) const REVISION: &str = "the-test's";
/// 1980-01-01, in seconds since 1970, as the archive's files are dated.
const DATED: &str = "315532800";

/// Podman wants to manage control groups, which a machine that is a container itself may not allow: it gets an empty
/// place of its own instead, and is then told to leave them alone.
const WITHOUT_GROUPS: &str = "\
    umount --recursive /sys/fs/cgroup 2>/dev/null
    mount -t tmpfs none /sys/fs/cgroup && exec podman \"$@\"";

/// The two programs and where they keep what they make. Dropping it removes all of that.
pub(super) struct Engine {
    place: Place,
    storage: PathBuf,
    /// Short, for sockets lie in it.
    state: PathBuf,
}

impl Engine {
    /// Starts with an empty store.
    ///
    /// # Errors
    /// What an earlier run left cannot be removed.
    pub(super) fn new(place: Place) -> Result<Self> {
        let storage = place.folder.join("storage");
        let mounts = storage.join("overlay");
        // A run that was killed leaves them behind; what is removed must be the store's own.
        if capture(Command::new("mountpoint").arg(&mounts)).is_ok() {
            capture(Command::new("umount").arg("--recursive").arg(&mounts))?;
        }
        if storage.exists() {
            fs::remove_dir_all(&storage).with_context(|| format!("cannot remove {}", storage.display()))?;
        }
        let state = env::temp_dir().join(format!("embedgate-image-{}", std::process::id()));
        Ok(Self { place, storage, state })
    }

    /// What runs the programs of its images, if not this machine's processor does.
    pub(super) fn emulator(&self) -> Option<&Path> {
        self.place.emulator.as_deref()
    }

    fn buildah(&self) -> Command {
        let mut command = Command::new("buildah");
        self.places(&mut command);
        command
    }

    pub(super) fn podman(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", WITHOUT_GROUPS, "podman"]);
        self.places(&mut command);
        command.arg("--cgroup-manager=cgroupfs");
        command
    }

    fn places(&self, command: &mut Command) {
        command.arg("--root").arg(&self.storage).arg("--runroot").arg(&self.state);
    }

    /// Makes an image of an archive of files, under the name by which the Dockerfile asks for it.
    ///
    /// # Errors
    /// buildah says why not.
    pub(super) fn import(&self, files: &Path, name: &str) -> Result<()> {
        let container = capture(self.buildah().args(["from", "--arch", self.place.arch, "scratch"]))?;
        let container = container.trim();
        capture(self.buildah().args(["add", "--quiet", container]).arg(files).arg("/"))?;
        capture(self.buildah().args(["commit", "--quiet", "--rm", container, name])).map(drop)
    }

    /// Builds a stage of the shipped Dockerfile from scratch; yields the image's id.
    ///
    /// # Errors
    /// buildah says why not.
    pub(super) fn build(&self, workspace: &Workspace, target: &Target, context: &Path) -> Result<String> {
        let id = capture(
            self.buildah()
                .args(["build", "--quiet", "--no-cache", "--pull-never", "--isolation=chroot"])
                .args(["--arch", self.place.arch])
                .args(["--timestamp", DATED, "--target", target.stage])
                .args(["--build-arg", &format!("REVISION={REVISION}")])
                .arg(format!("--build-context={}={}", target.filled_by, context.display()))
                .arg("--file")
                .arg(workspace.root().join("deploy/docker/Dockerfile"))
                .arg(workspace.root()),
        )?;
        Ok(id.trim().to_owned())
    }

    /// Builds an image of all that the checkout sends to a builder; yields the image's id.
    ///
    /// # Errors
    /// buildah says why not.
    pub(super) fn copy(&self, workspace: &Workspace) -> Result<String> {
        let dockerfile = self.place.folder.join("copy.Dockerfile");
        fs::write(&dockerfile, "FROM scratch\nCOPY . /\n")
            .with_context(|| format!("cannot write {}", dockerfile.display()))?;
        let id = capture(
            self.buildah()
                .args(["build", "--quiet", "--no-cache", "--isolation=chroot", "--file"])
                .arg(dockerfile)
                .arg(workspace.root()),
        )?;
        Ok(id.trim().to_owned())
    }

    /// The configuration with which an image's containers run.
    ///
    /// # Errors
    /// There is no such image.
    pub(super) fn inspect(&self, image: &str) -> Result<Value> {
        let said = capture(self.buildah().args(["inspect", "--type=image", image]))?;
        let mut said: Value =
            serde_json::from_str(&said).context("cannot read what buildah says of the image")?;
        Ok(said["OCIv1"]["config"].take())
    }

    /// Gives `look` the folder in which an image's files lie.
    ///
    /// # Errors
    /// The image cannot be mounted, or `look` fails.
    pub(super) fn mounted<T>(&self, image: &str, look: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let container = capture(self.buildah().args(["from", "--pull-never", image]))?;
        let container = container.trim();
        let folder = capture(self.buildah().args(["mount", container]))?;
        let found = look(Path::new(folder.trim()));
        capture(self.buildah().args(["umount", container]))?;
        capture(self.buildah().args(["rm", container]))?;
        found
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // buildah unmounts what it mounted; what it leaves, the next run removes.
        let _ = capture(self.buildah().args(["rm", "--all"]));
        let _ = fs::remove_dir_all(&self.storage);
        let _ = fs::remove_dir_all(&self.state);
    }
}
