//! Builds and runs images without a daemon and without a registry: buildah and podman with their own store.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Place, Target};
use testkit::files;
use testkit::process::capture;
use testkit::workspace::Workspace;

/// Revision label of the test's images.
pub(super) const REVISION: &str = "the-test's";
/// 1980-01-01 in seconds since 1970, as the archive's files.
const TIMESTAMP: &str = "315532800";

/// Podman manages control groups, which a machine that is a container itself may not allow: it gets an empty folder
/// instead, and is then told not to use them.
const WITHOUT_CGROUPS: &str = "\
    umount --recursive /sys/fs/cgroup 2>/dev/null
    mount -t tmpfs none /sys/fs/cgroup && exec podman \"$@\"";

/// The two programs and their store. Dropping it removes the store.
pub(super) struct Engine {
    place: Place,
    storage: PathBuf,
    /// Short, since it contains sockets, whose paths are limited.
    state: PathBuf,
}

impl Engine {
    /// Starts with an empty store.
    pub(super) fn new(place: Place) -> Result<Self> {
        let storage = place.folder.join("storage");
        let mounts = storage.join("overlay");
        // A killed run leaves mounts, whose content must not be removed with the store.
        if capture(Command::new("mountpoint").arg(&mounts)).is_ok() {
            capture(Command::new("umount").arg("--recursive").arg(&mounts))?;
        }
        files::remove(&storage)?;
        let state = env::temp_dir().join(format!("embedgate-image-{}", std::process::id()));
        Ok(Self { place, storage, state })
    }

    /// The emulator of its images' programs, for another architecture.
    pub(super) fn emulator(&self) -> Option<&Path> {
        self.place.emulator.as_deref()
    }

    fn buildah(&self) -> Command {
        let mut command = Command::new("buildah");
        self.add_paths(&mut command);
        command
    }

    pub(super) fn podman(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", WITHOUT_CGROUPS, "podman"]);
        self.add_paths(&mut command);
        command.arg("--cgroup-manager=cgroupfs");
        command
    }

    fn add_paths(&self, command: &mut Command) {
        command.arg("--root").arg(&self.storage).arg("--runroot").arg(&self.state);
    }

    /// Imports an archive of files as an image with the name that the Dockerfile uses.
    pub(super) fn import(&self, files: &Path, name: &str) -> Result<()> {
        let container = capture(self.buildah().args(["from", "--arch", self.place.arch, "scratch"]))?;
        let container = container.trim();
        capture(self.buildah().args(["add", "--quiet", container]).arg(files).arg("/"))?;
        capture(self.buildah().args(["commit", "--quiet", "--rm", container, name])).map(drop)
    }

    /// Builds a stage of the shipped Dockerfile without a cache; returns the image's id.
    pub(super) fn build(&self, workspace: &Workspace, target: &Target, context: &Path) -> Result<String> {
        let id = capture(
            self.buildah()
                .args(["build", "--quiet", "--no-cache", "--pull-never", "--isolation=chroot"])
                .args(["--arch", self.place.arch])
                .args(["--timestamp", TIMESTAMP, "--target", target.stage])
                .args(["--build-arg", &format!("REVISION={REVISION}")])
                .arg(format!("--build-context={}={}", target.filled_by, context.display()))
                .arg("--file")
                .arg(workspace.root().join("deploy/docker/Dockerfile"))
                .arg(workspace.root()),
        )?;
        Ok(id.trim().to_owned())
    }

    /// Builds an image with the whole build context; returns the image's id.
    pub(super) fn copy(&self, workspace: &Workspace) -> Result<String> {
        let dockerfile = self.place.folder.join("copy.Dockerfile");
        files::write(&dockerfile, "FROM scratch\nCOPY . /\n")?;
        let id = capture(
            self.buildah()
                .args(["build", "--quiet", "--no-cache", "--isolation=chroot", "--file"])
                .arg(dockerfile)
                .arg(workspace.root()),
        )?;
        Ok(id.trim().to_owned())
    }

    /// The configuration of an image.
    pub(super) fn inspect(&self, image: &str) -> Result<Value> {
        let said = capture(self.buildah().args(["inspect", "--type=image", image]))?;
        let mut said: Value =
            serde_json::from_str(&said).context("cannot parse buildah's description of the image")?;
        Ok(said["OCIv1"]["config"].take())
    }

    /// Mounts an image and passes its root folder to `inspect`.
    pub(super) fn mounted<T>(&self, image: &str, inspect: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let container = capture(self.buildah().args(["from", "--pull-never", image]))?;
        let container = container.trim();
        let folder = capture(self.buildah().args(["mount", container]))?;
        let found = inspect(Path::new(folder.trim()));
        capture(self.buildah().args(["umount", container]))?;
        capture(self.buildah().args(["rm", container]))?;
        found
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The next run removes remains.
        let _ = capture(self.buildah().args(["rm", "--all"]));
        let _ = files::remove(&self.storage);
        let _ = files::remove(&self.state);
    }
}
