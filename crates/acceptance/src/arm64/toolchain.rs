//! A compiler, a linker and an emulator for arm64 on amd64, in `.runtime/arm64`, and a Cargo configured to use them.
//!
//! The compiler is Debian's, which has a standard library for arm64. Programs are linked with the C library of
//! Debian 12, so that they run in the image and on anything newer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use testkit::workspace::Workspace;
use testkit::{files, process};

use crate::packages::Packages;

/// Target triple.
pub(super) const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Instruction sets of the emulated CPU, in the names of `bert-cpu`, whose build script reads them. A test fails if the
/// emulator has others.
const ISAS: &str = "neon,neon-dotprod";

/// The compiler of Debian 13's backports, which keep up with Rust's releases, and an emulator that is one static file.
const RUST: Packages = Packages {
    what: "a compiler and an emulator for arm64",
    suites: &["trixie", "trixie-backports"],
    with_dependencies: &["rustc"],
    without_dependencies: &["libstd-rust-dev:arm64/trixie-backports", "qemu-user/trixie"],
};
/// The C library that programs are linked with and emulated on, and the C compiler and linker for it.
const CROSS: Packages = Packages {
    what: "the C compiler and library of Debian 12 for arm64",
    suites: &["bookworm"],
    with_dependencies: &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    without_dependencies: &[],
};

/// Tools that build and run programs for arm64.
pub(super) struct Toolchain {
    workspace: Workspace,
    folder: PathBuf,
}

impl Toolchain {
    /// Fetches what is missing. Needs Debian for amd64.
    pub(super) fn install(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.runtime().join("arm64");
        let rust = RUST.unpack(&folder.join("rust"))?;
        let cross = CROSS.unpack(&folder.join("cross"))?;
        let toolchain = Self { workspace: workspace.clone(), folder };
        toolchain.write_programs(&rust, &cross)?;
        Ok(toolchain)
    }

    /// Writes the programs that Cargo calls. They set the library path for themselves only: the compiler also starts
    /// programs of this machine.
    fn write_programs(&self, rust: &Path, cross: &Path) -> Result<()> {
        let [rust, cross] = [rust, cross].map(|path| process::shell_word(&path.to_string_lossy()));
        let gnu = |tool: &str| {
            format!(
                "LD_LIBRARY_PATH={cross}/usr/lib/x86_64-linux-gnu exec {cross}/usr/bin/aarch64-linux-gnu-{tool}"
            )
        };
        let rustc = format!(
            "exec {rust}/usr/lib64/ld-linux-x86-64.so.2 --library-path {rust}/usr/lib/x86_64-linux-gnu \
             {rust}/usr/bin/rustc --sysroot {rust}/usr"
        );
        let run = format!("exec {rust}/usr/bin/qemu-aarch64 -L {cross}/usr/aarch64-linux-gnu");
        let programs = [
            ("rustc", rustc),
            ("cc", format!("{} --sysroot={cross}", gnu("gcc-12"))),
            ("ar", gnu("ar")),
            ("run", run),
        ];
        for (name, line) in programs {
            write_program(&self.program(name), &format!("#!/bin/sh\n{line} \"$@\"\n"))?;
        }
        Ok(())
    }

    fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// A Cargo that builds for arm64 into a target folder of its own and runs programs in the emulator.
    pub(super) fn cargo(&self, command: &str) -> Command {
        let mut cargo = process::cargo();
        cargo.args([command, "--locked", "--target", TARGET]).current_dir(self.workspace.root());
        cargo.env("CARGO_TARGET_DIR", self.target()).env("RUSTC", self.program("rustc"));
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", self.program("cc"));
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", self.program("run"));
        cargo.env("CC_aarch64_unknown_linux_gnu", self.program("cc"));
        cargo.env("AR_aarch64_unknown_linux_gnu", self.program("ar")).env("BERT_CPU_TEST_ISAS", ISAS);
        cargo
    }

    /// The emulator, for a program and its arguments.
    pub(super) fn emulator(&self) -> Command {
        Command::new(self.program("run"))
    }

    /// The emulator as a static file.
    pub(super) fn emulator_file(&self) -> PathBuf {
        self.folder.join("rust/root/usr/bin/qemu-aarch64")
    }

    /// Folder of the toolchain.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn target(&self) -> PathBuf {
        self.folder.join("target")
    }

    /// The release binary.
    pub(super) fn release_binary(&self) -> PathBuf {
        self.target().join(TARGET).join("release/embedgate")
    }

    /// The compiler's version.
    pub(super) fn version(&self) -> Result<String> {
        process::capture(Command::new(self.program("rustc")).arg("--version"))
    }
}

/// Writes an executable script if it changed: Cargo rebuilds when its modification time changes.
fn write_program(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    files::write(path, text)?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}
