//! A machine with AVX-512, emulated by Bochs, that boots Linux, runs one program and stops.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use testkit::workspace::Workspace;
use testkit::{files, process};

use super::initramfs::Initramfs;
use crate::packages::Packages;

/// Debian 13: Bochs 2.7, in Debian 12, has neither AVX512_BF16 nor AVX-VNNI.
const MACHINE: Packages = Packages {
    what: "an emulator of AVX-512 and a Linux kernel",
    suites: &["trixie"],
    with_dependencies: &[
        "bochs",
        "bochs-term",
        "busybox-static",
        "isolinux",
        "linux-image-cloud-amd64",
        "syslinux-common",
        "xorriso",
    ],
    without_dependencies: &[],
};

/// The machine. Linux enables AMX only with XFD, which this Bochs lacks, and fails to boot on AMX without it.
/// `$BXSHARE` is the folder of Bochs's files. The screen is not shown: `term` draws it on a terminal of its own.
const CONFIGURATION: &str = r#"
cpu: model=sapphire_rapids, exclude_features="amx,amx_int8,amx_bf16", ips=50000000, reset_on_triple_fault=0
megs: 1024
romimage: file=$BXSHARE/BIOS-bochs-latest
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest
display_library: term
speaker: enabled=0
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=/dev/stdout
log: bochs.log
info: action=ignore
error: action=ignore
panic: action=fatal
"#;

/// Linux's command line: messages to the serial port, and only those of a crash. A restart ends the emulator, because
/// the kernel asks for it by a triple fault. Without ACPI it boots faster, and its first use crashes this Bochs.
const BOOT_MENU: &str = "\
DEFAULT linux
LABEL linux
KERNEL linux
INITRD initrd
APPEND console=ttyS0,115200 loglevel=1 mitigations=off acpi=off panic=-1 reboot=triple
";

/// Prefix of the line that ends the program's output.
const STATUS: &str = "exit status of the program: ";
/// Time after which the emulator is ended, as `timeout` reads it.
const TIMEOUT: &str = "40m";

/// An installed emulator with what its machine boots.
pub(super) struct Emulator {
    root: PathBuf,
    folder: PathBuf,
}

impl Emulator {
    /// Fetches what is missing. Needs Debian for amd64.
    pub(super) fn install(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.runtime().join("avx512");
        Ok(Self { root: MACHINE.unpack(&folder)?, folder: folder.join("machine") })
    }

    /// Runs a static program in the machine; returns its exit status. Gives each line of its output to `on_line`.
    pub(super) fn run(&self, program: &Path, arguments: &[String], on_line: impl Fn(&str)) -> Result<i32> {
        self.write_disk(program, arguments)?;
        files::write(&self.folder.join("bochsrc"), CONFIGURATION)?;
        let mut emulator = self.bochs().stdout(Stdio::piped()).spawn().context("cannot start `timeout`")?;
        let output = emulator.stdout.take().context("the emulator has no output")?;
        let mut status = None;
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("cannot read the emulated machine's output")?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if let Some(number) = line.strip_prefix(STATUS) {
                status = number.parse().ok();
            } else if status.is_none() {
                on_line(line); // Later lines are the kernel's and the emulator's farewells.
            }
        }
        // Its own status is that of a crash: the machine stops by a triple fault.
        let ended = emulator.wait().context("cannot wait for the emulator")?;
        let log = self.folder.join("bochs.log");
        status.with_context(|| {
            format!("the emulated machine stopped before the program ended: {ended}; see {}", log.display())
        })
    }

    /// Writes the disk from which the machine boots.
    fn write_disk(&self, program: &Path, arguments: &[String]) -> Result<()> {
        let content = self.folder.join("disk");
        files::create_empty_folder(&content)?;
        for (name, path) in
            [("isolinux.bin", "ISOLINUX/isolinux.bin"), ("ldlinux.c32", "syslinux/modules/bios/ldlinux.c32")]
        {
            files::copy(&self.root.join("usr/lib").join(path), &content.join(name))?;
        }
        files::copy(&self.kernel()?, &content.join("linux"))?;
        files::write(&content.join("isolinux.cfg"), BOOT_MENU)?;

        let mut initramfs = Initramfs::default();
        for folder in ["dev", "proc", "tmp"] {
            initramfs.add_folder(folder);
        }
        initramfs.add_program("busybox", &files::read(&self.root.join("usr/bin/busybox"))?);
        initramfs.add_program("program", &files::read(program)?);
        initramfs.add_program("init", init(arguments).as_bytes());
        files::write(&content.join("initrd"), initramfs.finish())?;

        let mut xorriso = self.program("xorriso");
        xorriso.args(["-as", "mkisofs", "-quiet", "-o", "boot.iso", "-b", "isolinux.bin", "-c", "boot.cat"]);
        xorriso.args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "disk"]);
        process::capture(xorriso.current_dir(&self.folder)).map(drop)
    }

    fn kernel(&self) -> Result<PathBuf> {
        let folder = self.root.join("boot");
        let is_kernel = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        };
        let kernel = files::list(&folder)?.into_iter().find(is_kernel);
        kernel.with_context(|| format!("there is no kernel in {}", folder.display()))
    }

    fn bochs(&self) -> Command {
        let bochs = self.program("bochs-bin");
        let mut command = Command::new("timeout");
        // In the foreground: an interrupt from the terminal also ends the emulator.
        command
            .args(["--foreground", "--signal=KILL", TIMEOUT])
            .arg(bochs.get_program())
            .args(bochs.get_args());
        command.args(["-q", "-f", "bochsrc"]).current_dir(&self.folder);
        command.env("LTDL_LIBRARY_PATH", self.libraries().join("bochs/plugins"));
        command.env("BXSHARE", self.root.join("usr/share/bochs")).env("TERM", "linux");
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// A program of the packages, with their libraries.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.root.join("usr/lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(self.libraries()).arg(self.root.join("usr/bin").join(name));
        command
    }

    fn libraries(&self) -> PathBuf {
        self.root.join("usr/lib/x86_64-linux-gnu")
    }
}

/// The machine's first process. A restart discards output that the serial port has not yet sent.
fn init(arguments: &[String]) -> String {
    let arguments: String =
        arguments.iter().map(|argument| format!(" {}", process::shell_word(argument))).collect();
    format!(
        "#!/busybox sh\n\
         /busybox mount -t proc proc /proc\n\
         /busybox mount -t devtmpfs dev /dev\n\
         /program{arguments}\n\
         echo \"{STATUS}$?\"\n\
         /busybox sleep 1\n\
         /busybox reboot -f\n"
    )
}
