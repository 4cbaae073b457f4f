//! Programs and libraries out of Debian's packages, unpacked into folders of the checkout: apt fetches and checks them,
//! and nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::process::capture;

/// What Debian signs its archive with; every Debian has it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Packages that lie in one folder.
pub(super) struct Packages {
    /// For messages.
    pub(super) what: &'static str,
    /// The releases that they come from; where several have a package, the last counts.
    pub(super) suites: &'static [&'static str],
    /// Packages for amd64, which come with everything that they depend on.
    pub(super) whole: &'static [&'static str],
    /// Packages that come alone, as `apt-get download` names them.
    pub(super) alone: &'static [&'static str],
}

impl Packages {
    /// Unpacks them below `folder`, unless they are there already; yields the folder that is their root.
    ///
    /// # Errors
    /// This is no Debian for amd64, or apt says why the packages cannot be had.
    pub(super) fn unpacked(&self, folder: &Path) -> Result<PathBuf> {
        let (root, stamp) = (folder.join("root"), folder.join("packages.txt"));
        let wanted = format!("{:?} {:?} {:?}\n", self.suites, self.whole, self.alone);
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(root);
        }
        let begun = Instant::now();
        println!("fetching {} from Debian's packages …", self.what);
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let apt = Apt::new(folder.join("apt"), self.suites)?;
        let archives = apt.fetched(self)?;
        make(&root)?;
        for package in archives {
            capture(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root))?;
        }
        apt.remove()?;
        fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
        println!("unpacked {} in {:.0} s", self.what, begun.elapsed().as_secs_f64());
        Ok(root)
    }
}

/// apt with lists and a record of what is installed (nothing) of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: PathBuf, suites: &[&str]) -> Result<Self> {
        let archive = archive()?;
        for needed in ["preferences.d", "lists/partial", "cache/archives/partial", "state"] {
            make(&folder.join(needed))?;
        }
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {archive} {suite} main\n"))
            .collect();
        write(&folder.join("sources.list"), &sources)?;
        write(&folder.join("state/status"), "")?;
        Ok(Self { folder })
    }

    /// The files of all the packages.
    fn fetched(&self, packages: &Packages) -> Result<Vec<PathBuf>> {
        capture(self.get().arg("update"))?;
        let release = packages.suites.last().map(|suite| format!("--target-release={suite}"));
        let archives = self.folder.join("cache/archives");
        let whole = ["install", "--yes", "--download-only"];
        capture(self.get().args(&release).args(whole).args(packages.whole))?;
        if !packages.alone.is_empty() {
            capture(self.get().arg("download").args(packages.alone).current_dir(&archives))?;
        }
        let listed =
            fs::read_dir(&archives).with_context(|| format!("cannot list {}", archives.display()))?;
        let mut found = Vec::new();
        for entry in listed {
            let path = entry.with_context(|| format!("cannot list {}", archives.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                found.push(path);
            }
        }
        // The order of a folder is anybody's guess; a file that two packages hold is the same file.
        found.sort();
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
            // Root's apt would fetch as another user, who may not be allowed into the checkout.
            "APT::Sandbox::User=root",
        ] {
            command.args(["-o", option]);
        }
        command
    }

    /// Lists and packages have served when they are unpacked.
    fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

/// Where this machine gets Debian from.
fn archive() -> Result<String> {
    const NEEDED: &str = "cross-building needs Debian for amd64, whose compilers and libraries it takes";
    let machine = capture(Command::new("dpkg").arg("--print-architecture")).context(NEEDED)?;
    ensure!(machine.trim() == "amd64", "{NEEDED}; this machine is {}", machine.trim());
    let format = "$(LABEL)\t$(REPO_URI)";
    let sources =
        capture(Command::new("apt-get").args(["indextargets", "--format", format])).context(NEEDED)?;
    let debian = sources.lines().find_map(|line| line.strip_prefix("Debian\t"));
    Ok(debian.with_context(|| format!("{NEEDED}; apt's sources name no Debian"))?.to_owned())
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
