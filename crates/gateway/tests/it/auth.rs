//! Authentication by API key, from the settings and from a file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use gateway::RunError;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    app::{BODY, Builder, SetOnDrop, TestApp, wait_until},
    http::{Connection, request},
    logs::LOG,
    schema::assert_valid,
};

const KEY: &str = "sk-0123456789abcdefghij";

#[test]
fn with_keys_every_api_route_and_no_other_requires_one() {
    let app = TestApp::builder().key("team", KEY).key("other", "secret").start();
    let routes = [
        ("POST", "/v1/embeddings", BODY),
        ("POST", "/embeddings", BODY),
        ("GET", "/v1/models", b""),
        ("GET", "/models", b""),
        ("GET", "/v1/models/tiny", b""),
        ("GET", "/models/tiny", b""),
    ];
    for (method, path, body) in routes {
        for headers in [&[][..], &[("authorization", "Bearer ")], &[("authorization", "Basic c2stMA==")]] {
            let reply = app.send(method, path, headers, body);
            assert_eq!(
                (reply.status, &reply.json()["error"]["code"]),
                (401, &json!(null)),
                "{path} {headers:?}"
            );
        }
        for headers in [("authorization", "Bearer unknown"), ("api-key", "unknown"), ("api-key", "sk-")] {
            let reply = app.send(method, path, &[headers], body);
            assert_eq!(
                (reply.status, &reply.json()["error"]["code"]),
                (401, &json!("invalid_api_key")),
                "{path}"
            );
            assert_valid("error", &reply.json());
        }
        let bearer = format!("Bearer {KEY}");
        for headers in
            [("authorization", bearer.as_str()), ("authorization", "bearer secret"), ("api-key", KEY)]
        {
            assert_eq!(app.send(method, path, &[headers], body).status, 200, "{path} {headers:?}");
        }
    }
    for path in ["/", "/startupz", "/readyz", "/livez", "/metrics"] {
        assert_eq!(app.get(path).status, 200, "{path}");
    }
}

#[test]
fn without_configured_keys_requests_need_none() {
    let app = TestApp::start();
    for headers in
        [&[][..], &[("authorization", "Bearer ")], &[("authorization", "anything")], &[("api-key", "x")]]
    {
        let reply = app.send("POST", "/v1/embeddings", headers, BODY);
        assert_eq!(reply.status, 200, "{headers:?}");
    }
}

#[test]
fn a_rejection_never_repeats_a_key() {
    let app = TestApp::builder().key("team", KEY).start();
    for wrong in ["sk-shortkey", "sk-012345678-almost-the-right-one-9876"] {
        let reply = app.send("GET", "/v1/models", &[("api-key", wrong)], b"");
        assert_eq!(reply.status, 401);
        let message = reply.message();
        assert!(!message.contains(wrong) && !message.contains(&wrong[4..10]), "{message}");
    }
}

/// A folder with a file of keys.
fn key_file(keys: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    fs::write(&path, keys).unwrap();
    (folder, path)
}

fn with_file(path: &Path) -> Builder {
    TestApp::builder().config(|config| config.auth.api_keys_file = Some(path.to_owned()))
}

fn status(app: &TestApp, key: &str) -> u16 {
    app.send("GET", "/v1/models", &[("api-key", key)], b"").status
}

#[test]
fn keys_of_the_settings_and_of_the_file_are_accepted() {
    let (_folder, path) = key_file("# allowed clients\r\nalice = sk-alice\r\n\r\n  sk-bare\n");
    let app = with_file(&path).key("team", KEY).start();
    assert_eq!(["sk-alice", "sk-bare", KEY].map(|key| status(&app, key)), [200; 3]);
    assert_eq!(["alice", "# allowed clients", "sk-alic"].map(|key| status(&app, key)), [401; 3]);
    assert!(app.get("/").text().contains("YOUR_KEY"));
    let only_file = with_file(&path).start();
    assert_eq!((status(&only_file, "sk-alice"), only_file.get("/v1/models").status), (200, 401));
}

/// Kubernetes mounts a secret as a folder behind a symbolic link, and swaps the link on a change.
#[test]
fn keys_are_reloaded_when_a_mounted_secret_changes_and_no_request_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let version = |number: u32, keys: &str| {
        let version = folder.path().join(format!("..{number}"));
        fs::create_dir(&version).unwrap();
        fs::write(version.join("keys"), keys).unwrap();
        std::os::unix::fs::symlink(&version, folder.path().join("..new")).unwrap();
        fs::rename(folder.path().join("..new"), folder.path().join("..data")).unwrap();
    };
    version(1, "stays=sk-stays\ngoes=sk-goes");
    std::os::unix::fs::symlink("..data/keys", folder.path().join("keys")).unwrap();
    let app = with_file(&folder.path().join("keys")).start();
    assert_eq!(["sk-stays", "sk-goes", "sk-comes"].map(|key| status(&app, key)), [200, 200, 401]);

    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let stop = SetOnDrop(&done);
        scope.spawn(|| {
            let mut connection = Connection::open(app.address);
            let headers = [("authorization", "Bearer sk-stays")];
            while !done.load(Ordering::SeqCst) {
                connection.send(&request("POST", "/v1/embeddings", &headers, BODY));
                assert_eq!(connection.receive().status, 200);
                sent.fetch_add(1, Ordering::SeqCst);
            }
        });
        // Same length and, on many file systems, the same modification time.
        version(2, "stays=sk-stays\ncome=sk-comes");
        wait_until("the new key is accepted", || status(&app, "sk-comes") == 200);
        assert_eq!(status(&app, "sk-goes"), 401);
        drop(stop);
    });
    assert!(sent.load(Ordering::SeqCst) > 0);
}

/// A change that makes the file of keys unusable.
type Damage = fn(&Path);

/// The unit tests of `reload` show that later polls change nothing and log nothing.
#[test]
fn an_unusable_key_file_leaves_the_last_good_keys_in_use() {
    let damages: [(&str, Damage); 5] = [
        ("vanished", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("comments", |path| fs::write(path, "# no keys\n").unwrap()),
        ("half", |path| fs::write(path, "alice=sk-alice\nbob=").unwrap()),
        ("garbage", |path| fs::write(path, b"alice=\xff\xfe").unwrap()),
    ];
    // Before the first server, so that no line is missed.
    let log = &*LOG;
    let apps = damages.map(|(name, damage)| {
        let (folder, path) = key_file("alice=sk-alice\nold=sk-old-7f31");
        let app = with_file(&path).start();
        damage(&path);
        (name, app, folder, path)
    });
    let warnings = |path: &Path| {
        let path = path.to_str().unwrap();
        log.text()
            .lines()
            .filter(|line| line.contains("the last good API keys stay in use") && line.contains(path))
            .count()
    };
    for (name, _, _, path) in &apps {
        wait_until(name, || warnings(path) > 0);
    }
    for (name, app, _, path) in &apps {
        assert_eq!([status(app, "sk-alice"), status(app, "sk-old-7f31")], [200; 2], "{name}");
        assert_eq!([status(app, ""), status(app, "#"), status(app, "sk-new")], [401; 3], "{name}");
        assert_eq!(warnings(path), 1, "{name}");
        fs::write(path, "alice=sk-alice\nnew=sk-new").unwrap();
    }
    for (name, app, ..) in &apps {
        wait_until(name, || status(app, "sk-new") == 200);
        assert_eq!([status(app, "sk-alice"), status(app, "sk-old-7f31")], [200, 401], "{name}");
    }
    assert!(!log.text().contains("sk-old-7f31"));
}

#[test]
fn an_unusable_key_file_at_start_up_is_an_error() {
    for (keys, said) in [
        ("", "contains no key"),
        ("\n# nothing\n", "contains no key"),
        ("a=sk-dup-1\na=sk-dup-2", "cannot be used"),
        ("alice=", "cannot be used"),
        ("team=sk-file", "cannot be used"),
    ] {
        let (_folder, path) = key_file(keys);
        let error = with_file(&path).key("team", KEY).launch().join().unwrap_err();
        assert!(matches!(error, RunError::Keys(_)));
        let shown = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        assert!(shown.contains(said) && !shown.contains("sk-"), "{shown}");
    }
    let (folder, path) = key_file("sk-a");
    for path in [path.with_extension("none"), folder.path().to_owned(), "/dev/zero".into()] {
        assert!(matches!(with_file(&path).launch().join(), Err(RunError::Keys(_))), "{path:?}");
    }
}
