//! The first file system of a Linux kernel, which unpacks it from a cpio archive in the format `newc`
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::Write;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
/// The format's multiple of names' and files' ends, in bytes.
const ALIGNMENT: usize = 4;

/// An archive to which files are added.
#[derive(Default)]
pub(super) struct Initramfs {
    archive: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    /// Adds an empty folder; those above it must be there.
    pub(super) fn add_folder(&mut self, name: &str) {
        self.add(name, FOLDER, &[]);
    }

    /// Adds an executable file; the folders above it must be there.
    pub(super) fn add_program(&mut self, name: &str, content: &[u8]) {
        self.add(name, PROGRAM, content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.archive
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        self.archive.extend(b"070701");
        // Inode, mode, user, group, links, time of change, size, two numbers of the device that has the file, two of
        // the device that it is, length of the name with its final zero, checksum.
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        for field in [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            let _: std::io::Result<()> = write!(self.archive, "{field:08x}"); // A vector accepts every write.
        }
        self.archive.extend(name.bytes().chain([0]));
        self.align();
        self.archive.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_a_header_a_name_and_content_at_multiples_of_four() {
        let mut files = Initramfs::default();
        files.add_folder("proc");
        files.add_program("init", b"x");
        let zeros = |count: usize| "00000000".repeat(count);
        let folder = format!("07070100000001000041ed{}00000001{}", zeros(2), zeros(6));
        let program = format!("07070100000002000081ed{}00000001{}00000001{}", zeros(2), zeros(1), zeros(4));
        let trailer = format!("0707010000000300000000{}00000001{}", zeros(2), zeros(6));
        let expected = format!(
            "{folder}00000005{}proc\0\0{program}00000005{}init\0\0x\0\0\0{trailer}0000000b{}TRAILER!!!\0\0\0\0",
            zeros(1),
            zeros(1),
            zeros(1)
        );
        assert_eq!(String::from_utf8(files.finish()).unwrap(), expected);
    }
}
