//! The cache folder that Hugging Face's own libraries share.

use std::{fs, path::Path, thread};

use model_hub::{Cache, Hub, HubError, RepoRef};
use testkit::hub::{COMMIT, git_sha1, sha256};

use crate::{NEEDED, Setup, assert_complete, files, ignore, model, names, settings};

#[test]
fn a_model_has_the_layout_of_hugging_faces_libraries() {
    let setup = Setup::new();
    let pulled = setup.pull().unwrap();
    let root = setup.cache.path().join("models--acme--tiny");
    assert_eq!(pulled.folder, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    for (name, content) in files().iter().filter(|(name, _)| NEEDED.contains(&name.as_str())) {
        let digest = if name.ends_with(".safetensors") { sha256(content) } else { git_sha1(content) };
        let up = if name.contains('/') { "../../../" } else { "../../" };
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(pulled.folder.join(name)).unwrap(),
            Path::new(&format!("{up}blobs/{digest}"))
        );
        assert!(root.join("blobs").join(digest).is_file(), "{up}");
    }
    assert_eq!(names(&root.join("blobs")).len(), NEEDED.len(), "no unfinished file stays");
    assert!(pulled.unverified.is_empty());
    assert_complete(&pulled.folder);
}

#[test]
fn a_second_pull_downloads_nothing() {
    let setup = Setup::new();
    let first = setup.pull().unwrap();
    setup.remote.take_requests();
    let second = setup.pull().unwrap();
    assert_eq!((second.downloaded, second.bytes, &second.folder), (0, first.bytes, &first.folder));
    assert!(
        setup
            .remote
            .take_requests()
            .iter()
            .all(|request| { request.method == "HEAD" || request.path.starts_with("/api/") })
    );
}

/// Lays out a model as `huggingface_hub.snapshot_download` does.
fn lay_out(cache: &Path) {
    let root = cache.join("models--acme--other");
    let snapshot = root.join("snapshots").join(COMMIT);
    for folder in ["blobs", "refs"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(root.join("refs/main"), COMMIT).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
}

#[test]
fn a_model_of_another_program_is_found_without_network() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let cache = Cache::new(folder.path());
    let other: RepoRef = "acme/other".parse().unwrap();
    let found = cache.find(&other).unwrap();
    assert!(found.join("config.json").is_file());
    assert_eq!(cache.find(&format!("acme/other@{COMMIT}").parse().unwrap()), Some(found.clone()));
    assert_eq!(cache.find(&"acme/other@v2".parse().unwrap()), None);
    assert_eq!(cache.list(), [("acme/other".to_owned(), found.clone())]);

    // The address is invalid for a request: one that is sent would fail.
    let mut offline = settings("http://127.0.0.1:1".to_owned(), folder.path());
    offline.is_offline = true;
    let hub = Hub::new(offline, None).unwrap();
    assert_eq!(hub.pull(&other, None, &mut ignore).unwrap().folder, found);
    let error = hub.pull(&model(), None, &mut ignore).unwrap_err();
    assert!(
        matches!(error, HubError::Offline { .. }) && error.to_string().contains("HF_HUB_OFFLINE"),
        "{error}"
    );
}

#[test]
fn a_commit_is_pulled_without_a_reference() {
    let setup = Setup::new();
    let repo: RepoRef = format!("acme/tiny@{COMMIT}").parse().unwrap();
    let pulled = setup.hub(None).pull(&repo, None, &mut ignore).unwrap();
    assert_complete(&pulled.folder);
    assert_eq!(setup.hub(None).cache().find(&repo), Some(pulled.folder));
    assert_eq!(setup.hub(None).cache().find(&model()), None, "the branch was not asked for");
}

#[test]
fn concurrent_pulls_download_each_file_once() {
    let setup = Setup::new();
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| setup.pull().unwrap())).collect();
        for pull in pulls {
            assert_complete(&pull.join().unwrap().folder);
        }
    });
    let requests = setup.remote.take_requests();
    let weights = requests.iter().filter(|request| request.path.starts_with("/cdn/"));
    assert_eq!(weights.count(), 1);
}

#[test]
fn a_mirror_without_digests_is_checked_by_length_and_says_so() {
    let setup = Setup::new();
    setup.remote.hide_digests();
    let mut pulled = setup.pull().unwrap();
    assert_complete(&pulled.folder);
    pulled.unverified.sort();
    assert_eq!(pulled.unverified, NEEDED);
}

#[test]
fn a_model_can_be_pulled_into_a_folder_of_its_own() {
    let setup = Setup::new();
    let target = setup.cache.path().join("models/tiny");
    for _ in 0..2 {
        let pulled = setup.hub(None).pull_to(&model(), None, &target, &mut ignore).unwrap();
        assert_eq!(pulled.folder, target);
        assert_complete(&target);
    }
    assert!(!setup.cache.path().join("models--acme--tiny").exists(), "the cache is not used");

    setup.pull().unwrap();
    let mut offline = settings("http://127.0.0.1:1".to_owned(), setup.cache.path());
    offline.is_offline = true;
    let copy = setup.cache.path().join("models/copy");
    Hub::new(offline, None).unwrap().pull_to(&model(), None, &copy, &mut ignore).unwrap();
    assert_complete(&copy);
}
