//! Programs and libraries from Debian's packages, unpacked into folders of the checkout. apt downloads and verifies
//! them; nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use testkit::files;
use testkit::process::capture;

/// Keys of Debian's archive; every Debian has this file.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Packages that are unpacked into one folder.
pub(crate) struct Packages {
    /// For messages.
    pub(crate) what: &'static str,
    /// Releases to use; the last one wins.
    pub(crate) suites: &'static [&'static str],
    /// Packages for amd64, fetched with their dependencies.
    pub(crate) with_dependencies: &'static [&'static str],
    /// Packages fetched without dependencies, as `apt-get download` names them.
    pub(crate) without_dependencies: &'static [&'static str],
}

impl Packages {
    /// Unpacks them below `folder` unless they are there; returns their root folder.
    pub(crate) fn unpack(&self, folder: &Path) -> Result<PathBuf> {
        let (root, stamp) = (folder.join("root"), folder.join("packages.txt"));
        let wanted =
            format!("{:?} {:?} {:?}\n", self.suites, self.with_dependencies, self.without_dependencies);
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(root);
        }
        let started = Instant::now();
        println!("fetching {} from Debian's packages …", self.what);
        files::remove(folder)?;
        let apt = Apt::new(folder.join("apt"), self.suites)?;
        let archives = apt.fetch(self)?;
        files::create_folder(&root)?;
        for package in archives {
            capture(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root))?;
        }
        files::remove(&apt.folder)?;
        files::write(&stamp, wanted)?;
        println!("unpacked {} in {:.0} s", self.what, started.elapsed().as_secs_f64());
        Ok(root)
    }
}

/// apt with its own package lists and an empty record of installed packages.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: PathBuf, suites: &[&str]) -> Result<Self> {
        let archive = archive()?;
        for needed in ["preferences.d", "lists/partial", "cache/archives/partial", "state"] {
            files::create_folder(&folder.join(needed))?;
        }
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {archive} {suite} main\n"))
            .collect();
        files::write(&folder.join("sources.list"), sources)?;
        files::write(&folder.join("state/status"), "")?;
        Ok(Self { folder })
    }

    /// Downloads all packages and returns their files.
    fn fetch(&self, packages: &Packages) -> Result<Vec<PathBuf>> {
        capture(self.get().arg("update"))?;
        let release = packages.suites.last().map(|suite| format!("--target-release={suite}"));
        let archives = self.folder.join("cache/archives");
        let whole = ["install", "--yes", "--download-only"];
        capture(self.get().args(&release).args(whole).args(packages.with_dependencies))?;
        if !packages.without_dependencies.is_empty() {
            capture(self.get().arg("download").args(packages.without_dependencies).current_dir(&archives))?;
        }
        let mut found = files::list(&archives)?;
        found.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        Ok(found)
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
        for (option, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::preferencesparts", "preferences.d"),
            ("Dir::State", "state"),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "state/status"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.folder.join(path).display()));
        }
        for option in [
            "Dir::Etc::sourceparts=-",
            "APT::Architecture=amd64",
            "APT::Architectures::=amd64",
            "APT::Architectures::=arm64",
            "APT::Install-Recommends=false",
            "Acquire::Languages=none",
            // By default, root's apt downloads as another user, who may not read the checkout.
            "APT::Sandbox::User=root",
        ] {
            command.args(["-o", option]);
        }
        command
    }
}

/// URL of this machine's Debian archive.
fn archive() -> Result<String> {
    const NEEDED: &str = "this command needs Debian for amd64, whose packages it takes";
    let machine = capture(Command::new("dpkg").arg("--print-architecture")).context(NEEDED)?;
    ensure!(machine.trim() == "amd64", "{NEEDED}; this machine is {}", machine.trim());
    let format = "$(LABEL)\t$(REPO_URI)";
    let sources =
        capture(Command::new("apt-get").args(["indextargets", "--format", format])).context(NEEDED)?;
    let debian = sources.lines().find_map(|line| line.strip_prefix("Debian\t"));
    Ok(debian.with_context(|| format!("{NEEDED}; apt's sources do not name Debian"))?.to_owned())
}
