//! Faults that a download survives, and those that end it without leaving anything half-written.

use std::fs;

use model_hub::{HubError, PullObserver, PullProgress};
use testkit::hub::{Fault, sha256};

use crate::{Setup, WEIGHTS, assert_complete, files, model};

/// Path of the weights on the content network.
const CDN: &str = "/cdn/model.safetensors";

/// Ranges that were asked of the content network.
fn ranges(setup: &Setup) -> Vec<Option<String>> {
    let requests = setup.remote.take_requests().into_iter();
    requests.filter(|request| request.path.starts_with(CDN)).map(|request| request.range).collect()
}

#[test]
fn a_download_that_is_cut_off_is_resumed() {
    let setup = Setup::new();
    setup.remote.fail(CDN, Fault::CutAfter(100_000));
    setup.remote.fail(CDN, Fault::CutAfter(50_000));
    let (pulled, reasons) = setup.pull_with_retries();
    assert_complete(&pulled.unwrap().folder);
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    let asked: Vec<Option<String>> = ranges(&setup);
    assert_eq!(asked, [None, Some("bytes=100000-".to_owned()), Some("bytes=150000-".to_owned())]);
}

#[test]
fn progress_resets_the_count_of_attempts() {
    let setup = Setup::new();
    for _ in 0..6 {
        setup.remote.fail(CDN, Fault::CutAfter(10_000));
    }
    let (pulled, reasons) = setup.pull_with_retries();
    assert_complete(&pulled.unwrap().folder);
    assert_eq!(reasons.len(), 6, "{reasons:?}");
}

#[test]
fn bytes_that_arrive_again_are_no_progress() {
    let setup = Setup::new();
    for _ in 0..5 {
        setup.remote.fail(CDN, Fault::CutFromStart(10_000));
    }
    let error = setup.pull().unwrap_err();
    assert!(matches!(error, HubError::Transfer { attempts: 3, .. }), "{error}");
}

#[test]
fn a_cancelled_download_stops_and_is_resumed_later() {
    #[derive(Default)]
    struct Cancels(u64);
    impl PullObserver for Cancels {
        fn on_progress(&mut self, progress: PullProgress<'_>) {
            if let PullProgress::Bytes { done, .. } = progress {
                self.0 = done;
            }
        }

        fn is_cancelled(&self) -> bool {
            self.0 > 0
        }
    }
    let setup = Setup::new();
    let mut observer = Cancels::default();
    let error = setup.hub(None).pull(&model(), None, &mut observer).unwrap_err();
    assert!(matches!(error, HubError::Cancelled), "{error}");
    let pulled = setup.pull().unwrap();
    assert_complete(&pulled.folder);
    assert_eq!(pulled.downloaded, pulled.bytes - observer.0);
}

#[test]
fn a_later_run_resumes_what_an_earlier_one_left() {
    let setup = Setup::new();
    setup.remote.fail(CDN, Fault::CutAfter(100_000));
    for _ in 0..2 {
        setup.remote.fail(CDN, Fault::Status(500, ""));
    }
    let error = setup.pull().unwrap_err();
    let message = error.to_string();
    assert!(message.contains("model.safetensors") && message.contains("500"), "{message}");
    assert!(!message.contains("signature"), "{message}");
    let found = setup.hub(None).cache().find(&model());
    assert_eq!(found, None, "an incomplete model is not in the cache");
    setup.remote.take_requests();
    let pulled = setup.pull().unwrap();
    assert_complete(&pulled.folder);
    assert_eq!(ranges(&setup), [Some("bytes=100000-".to_owned())]);
    assert_eq!(pulled.downloaded, pulled.bytes - 100_000);
}

#[test]
fn a_stalled_connection_is_abandoned_and_resumed() {
    let setup = Setup::new();
    setup.remote.fail(CDN, Fault::StallAfter(100_000));
    let (pulled, reasons) = setup.pull_with_retries();
    assert_complete(&pulled.unwrap().folder);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
}

#[test]
fn a_host_that_ignores_ranges_sends_the_file_from_its_beginning() {
    let setup = Setup::new();
    setup.remote.fail(CDN, Fault::CutAfter(100_000));
    setup.remote.fail(CDN, Fault::IgnoresRange);
    assert_complete(&setup.pull().unwrap().folder);
    assert_eq!(ranges(&setup).len(), 2);
}

#[test]
fn a_damaged_file_is_downloaded_once_more() {
    for (path, name) in [(CDN, "model.safetensors"), ("resolve/", "1_Pooling/config.json")] {
        let setup = Setup::new();
        if name == "model.safetensors" {
            setup.remote.fail(path, Fault::Damaged);
        } else {
            // The first request is HEAD, which has no body to damage.
            setup.remote.fail("1_Pooling/config.json", Fault::IgnoresRange);
            setup.remote.fail("1_Pooling/config.json", Fault::Damaged);
        }
        let (pulled, reasons) = setup.pull_with_retries();
        assert_complete(&pulled.unwrap().folder);
        assert!(reasons.len() == 1 && reasons[0].contains("is damaged"), "{reasons:?}");
    }
}

#[test]
fn a_file_that_stays_damaged_is_refused_and_discarded() {
    let setup = Setup::new();
    for _ in 0..2 {
        setup.remote.fail(CDN, Fault::Damaged);
    }
    let error = setup.pull().unwrap_err();
    let weights = files().into_iter().find(|(name, _)| name == "model.safetensors").unwrap().1;
    let HubError::Digest { file, expected, .. } = &error else { panic!("{error}") };
    assert_eq!((file.as_str(), expected.as_str()), ("model.safetensors", sha256(&weights).as_str()));
    let blobs = setup.cache.path().join("models--acme--tiny/blobs");
    let left = fs::read_dir(blobs).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        name.contains(expected.as_str()) || name.ends_with(".incomplete")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn retry_after_is_respected_up_to_the_limit() {
    let setup = Setup::new();
    setup.remote.fail("/api/", Fault::Status(429, "retry-after: 1"));
    let begun = std::time::Instant::now();
    assert_complete(&setup.pull().unwrap().folder);
    assert!(begun.elapsed().as_secs_f64() >= 1.0, "{:?}", begun.elapsed());

    let setup = Setup::new();
    setup.remote.fail("/api/", Fault::Status(429, "ratelimit: \"api\";r=0;t=299"));
    let error = setup.pull().unwrap_err();
    assert!(matches!(error, HubError::RateLimited { seconds: 299, .. }), "{error}");
}

#[test]
fn server_errors_are_repeated_up_to_the_limit() {
    let setup = Setup::new();
    setup.remote.fail("/api/", Fault::Status(503, ""));
    setup.remote.fail("config.json", Fault::Status(502, ""));
    assert_complete(&setup.pull().unwrap().folder);

    let setup = Setup::new();
    for _ in 0..3 {
        setup.remote.fail("/api/", Fault::Status(503, ""));
    }
    let error = setup.pull().unwrap_err();
    assert!(matches!(error, HubError::Transfer { attempts: 3, .. }), "{error}");
    assert_eq!(setup.remote.take_requests().len(), 3);
}

#[test]
fn an_expired_address_of_the_content_network_is_replaced() {
    let setup = Setup::new();
    setup.remote.fail(CDN, Fault::Status(403, ""));
    assert_complete(&setup.pull().unwrap().folder);
}

#[test]
fn a_file_that_became_shorter_is_downloaded_from_its_beginning() {
    let setup = Setup::new();
    let weights = files().into_iter().find(|(name, _)| name == "model.safetensors").unwrap().1;
    let blobs = setup.cache.path().join("models--acme--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", sha256(&weights))), vec![0; WEIGHTS + 1]).unwrap();
    assert_complete(&setup.pull().unwrap().folder);
}

#[test]
fn an_unreachable_hub_is_reported_with_its_host() {
    let setup = Setup::new();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = crate::settings(format!("http://127.0.0.1:{port}"), setup.cache.path());
    let hub = model_hub::Hub::new(settings, None).unwrap();
    let error = hub.pull(&model(), None, &mut crate::ignore).unwrap_err().to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}")) && error.contains("its list of files"), "{error}");
}
