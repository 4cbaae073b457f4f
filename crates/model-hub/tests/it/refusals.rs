//! Answers that end a download at once, each with the remedy.

use model_hub::{Hub, HubError};
use testkit::hub::Fault;

use crate::{Setup, assert_complete, ignore, model, names};

#[test]
fn a_refusal_is_not_repeated_and_names_the_remedy() {
    for (status, headers, says) in [
        (401, "x-error-code: RepoNotFound", "set HF_TOKEN to an access token"),
        (401, "x-error-code: GatedRepo", "accept its license at http://127.0.0.1:"),
        (403, "x-error-code: GatedRepo", "set HF_TOKEN to an access token of the account that accepted it"),
        (403, "x-error-message: No access for you", "(403: No access for you)"),
        (404, "x-error-code: RepoNotFound", "has no model acme/tiny"),
        (404, "x-error-code: RevisionNotFound", "has no revision `main`"),
        (404, "", "has no model acme/tiny"),
        (418, "", "answered 418"),
    ] {
        let setup = Setup::new();
        setup.remote.fail("/api/", Fault::Status(status, headers));
        let error = setup.pull().unwrap_err().to_string();
        assert!(error.contains(says), "{status} {headers}: {error}");
        assert!(error.contains("127.0.0.1"), "the host is named: {error}");
        assert_eq!(setup.remote.take_requests().len(), 1, "{status}");
        assert_eq!(names(setup.cache.path()), Vec::<String>::new(), "nothing is written");
    }
}

#[test]
fn a_gated_file_of_a_listed_model_is_refused_by_name() {
    let setup = Setup::new();
    setup.remote.fail("/resolve/", Fault::Status(403, "x-error-code: GatedRepo"));
    let error = setup.pull().unwrap_err();
    assert!(matches!(error, HubError::Gated { status: 403, .. }), "{error}");
}

#[test]
fn the_token_is_sent_to_the_hub_and_not_to_its_content_network() {
    let setup = Setup::new();
    setup.remote.require_token("hf_secret");
    let error = setup.pull().unwrap_err();
    assert!(matches!(error, HubError::Unauthorized { .. }), "{error}");
    let wrong = setup.hub(Some("hf_wrong")).pull(&model(), None, &mut ignore).unwrap_err().to_string();
    assert!(wrong.contains("does not accept the token") && !wrong.contains("hf_wrong"), "{wrong}");
    setup.remote.take_requests();

    let hub = setup.hub(Some("hf_secret"));
    assert_complete(&hub.pull(&model(), None, &mut ignore).unwrap().folder);
    let requests = setup.remote.take_requests();
    let (cdn, hub_requests): (Vec<_>, Vec<_>) =
        requests.into_iter().partition(|request| request.path.starts_with("/cdn/"));
    assert!(!cdn.is_empty() && cdn.iter().all(|request| request.authorization.is_none()), "{cdn:?}");
    assert!(hub_requests.iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_secret")));
    assert!(!format!("{hub:?}").contains("hf_secret"));
}

#[test]
fn an_unknown_revision_is_named() {
    let setup = Setup::new();
    let error = setup.hub(None).pull(&"acme/tiny@v9".parse().unwrap(), None, &mut ignore).unwrap_err();
    let HubError::NoRevision { revision, .. } = &error else { panic!("{error}") };
    assert_eq!(revision, "v9");
}

#[test]
fn a_repository_without_weights_is_refused_with_its_files() {
    let setup = Setup::new();
    let graph = Some("onnx/model_q4.onnx");
    let error = setup.hub(None).pull(&model(), graph, &mut ignore).unwrap_err().to_string();
    assert!(error.contains("model.safetensors, pytorch_model.bin"), "{error}");
}

#[test]
fn a_list_with_a_path_outside_the_folder_is_refused() {
    for name in ["../config.json", "/config.json", "1_Pooling/../../model.safetensors"] {
        let remote = testkit::hub::FakeHub::start([
            ("config.json".to_owned(), b"{}".to_vec()),
            ("model.safetensors".to_owned(), b"w".to_vec()),
            (name.to_owned(), b"{}".to_vec()),
        ]);
        let setup = Setup { remote: remote.unwrap(), ..Setup::new() };
        // A name that is not needed is ignored; a needed one must stay inside.
        match setup.pull() {
            Ok(pulled) => assert_eq!(names(&pulled.folder), ["config.json", "model.safetensors"], "{name}"),
            Err(error) => assert!(matches!(error, HubError::Protocol { .. }), "{name}: {error}"),
        }
    }
}

#[test]
fn answers_that_are_no_list_are_a_protocol_error() {
    let setup = Setup::new();
    setup.remote.fail("/api/", Fault::CutAfter(0));
    setup.remote.fail("/api/", Fault::Status(200, ""));
    let error = setup.pull().unwrap_err().to_string();
    assert!(error.contains("does not answer like a model hub") && error.contains("HF_ENDPOINT"), "{error}");
    let redirect = Setup::new();
    for _ in 0..11 {
        redirect.remote.fail("/api/", Fault::Status(302, "location: /api/models/acme/tiny/revision/main"));
    }
    let error = redirect.pull().unwrap_err().to_string();
    assert!(error.contains("redirects more than 10 times"), "{error}");
}

#[test]
fn an_invalid_endpoint_is_refused() {
    let settings = crate::settings("huggingface.co".to_owned(), std::path::Path::new("cache"));
    assert!(matches!(Hub::new(settings, None), Err(HubError::InvalidAddress { .. })));
}
