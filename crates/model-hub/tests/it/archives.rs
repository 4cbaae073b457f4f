//! Models from archives and folders.

use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use model_hub::{ArchiveLimits, HubError, unpack};
use testkit::hub::{FakeHub, Fault, sha256};

use crate::{Setup, ignore, names};

const MEMBERS: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("1_Pooling/config.json", b"{\"a\":1}")];

/// A tar archive of files below `prefix`. The names are written as they are, also ones that no tool would write.
fn tar_of(members: &[(&str, &[u8])], prefix: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        let name = format!("{prefix}{name}");
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gz_of(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in members {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Unpacks an archive into `target/tiny`.
fn unpack_bytes(archive: &[u8], target: &Path, limits: ArchiveLimits) -> Result<(), HubError> {
    let path = target.join("archive");
    fs::write(&path, archive).unwrap();
    let unpacked = unpack(&path, &target.join("tiny"), limits);
    fs::remove_file(path).unwrap();
    unpacked
}

#[test]
fn every_kind_of_archive_is_recognized_by_its_content() {
    for archive in [
        tar_of(&MEMBERS, ""),
        tar_of(&MEMBERS, "tiny-1.0/"),
        tar_of(&MEMBERS, "./"),
        gz_of(&tar_of(&MEMBERS, "tiny-1.0/")),
        zip_of(&MEMBERS),
    ] {
        let target = tempfile::tempdir().unwrap();
        unpack_bytes(&archive, target.path(), ArchiveLimits::default()).unwrap();
        assert_eq!(names(target.path()), ["tiny/1_Pooling/config.json", "tiny/config.json"]);
        assert_eq!(fs::read(target.path().join("tiny/1_Pooling/config.json")).unwrap(), b"{\"a\":1}");
    }
}

#[test]
fn a_folder_is_copied_without_hidden_files() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    for (name, content) in MEMBERS.iter().chain(&[(".git/config", &b"x"[..])]) {
        let path = source.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    unpack(&source, &target, ArchiveLimits::default()).unwrap();
    assert_eq!(names(&target), ["1_Pooling/config.json", "config.json"]);
    fs::write(target.join("config.json"), "changed").unwrap();
    assert_eq!(fs::read(source.join("config.json")).unwrap(), b"{}", "it is a copy");
}

#[test]
fn an_archive_that_leaves_its_folder_is_refused() {
    for name in ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "c:evil"] {
        for archive in [tar_of(&[MEMBERS[0], (name, b"x")], ""), zip_of(&[MEMBERS[0], (name, b"x")])] {
            let target = tempfile::tempdir().unwrap();
            let error = unpack_bytes(&archive, target.path(), ArchiveLimits::default()).unwrap_err();
            assert!(error.to_string().contains("leaves the folder"), "{name}: {error}");
            assert_eq!(names(target.path()), Vec::<String>::new(), "{name}: nothing stays");
        }
    }
}

#[test]
fn links_and_devices_of_an_archive_are_refused() {
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Char, tar::EntryType::Fifo] {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        archive.append_link(&mut header, "config.json", "/etc/passwd").unwrap();
        let target = tempfile::tempdir().unwrap();
        let archive = archive.into_inner().unwrap();
        let error = unpack_bytes(&archive, target.path(), ArchiveLimits::default()).unwrap_err();
        assert!(error.to_string().contains("neither a file nor a folder"), "{kind:?}: {error}");
    }
}

#[test]
fn an_archive_above_the_limits_is_refused() {
    let zeros = vec![0; 1 << 20];
    let bomb = gz_of(&tar_of(&[("config.json", &zeros)], ""));
    for (archive, limits, says) in [
        (&bomb, ArchiveLimits { max_bytes: 1 << 19, ..ArchiveLimits::default() }, "more than 524288 bytes"),
        (
            &tar_of(&MEMBERS, ""),
            ArchiveLimits { max_files: 1, ..ArchiveLimits::default() },
            "more than 1 files",
        ),
    ] {
        let target = tempfile::tempdir().unwrap();
        let error = unpack_bytes(archive, target.path(), limits).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(names(target.path()), Vec::<String>::new());
    }
}

#[test]
fn a_damaged_archive_leaves_nothing() {
    let whole = tar_of(&[("config.json", &[1; 5000]), ("model.safetensors", &[2; 5000])], "");
    let packed = gz_of(&whole);
    for archive in [&whole[..7000], &packed[..packed.len() - 9], b"no archive", b"", b"PK\x03\x04 no zip"] {
        let target = tempfile::tempdir().unwrap();
        let error = unpack_bytes(archive, target.path(), ArchiveLimits::default()).unwrap_err();
        assert!(matches!(error, HubError::Archive { .. }), "{error}");
        assert_eq!(names(target.path()), Vec::<String>::new());
    }
}

#[test]
fn an_archive_is_downloaded_with_its_digest_and_resumed() {
    let archive = gz_of(&tar_of(&[("model.safetensors", &[7; 9000]), MEMBERS[0]], "tiny/"));
    let remote = FakeHub::start([("tiny.tar.gz".to_owned(), archive.clone())]).unwrap();
    let setup = Setup { remote, ..Setup::new() };
    let (hub, path) = (setup.hub(None), setup.cache.path().join("tiny.tar.gz"));
    let address = format!("{}/tiny.tar.gz", setup.remote.endpoint());
    let wrong = hub.fetch_archive(&address, &"0".repeat(64), &path, &mut ignore).unwrap_err();
    assert!(matches!(wrong, HubError::Digest { .. }) && !path.exists(), "{wrong}");
    let invalid = hub.fetch_archive(&address, "abc", &path, &mut ignore).unwrap_err();
    assert!(matches!(invalid, HubError::InvalidDigest { .. }), "{invalid}");

    setup.remote.take_requests();
    setup.remote.fail("tiny.tar.gz", Fault::CutAfter(20));
    hub.fetch_archive(&address, &sha256(&archive), &path, &mut ignore).unwrap();
    assert_eq!(fs::read(&path).unwrap(), archive);
    let ranges: Vec<_> = setup.remote.take_requests().into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some("bytes=20-".to_owned())]);
}
