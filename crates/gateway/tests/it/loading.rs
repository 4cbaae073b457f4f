//! Loading and unloading of models while requests are served: on demand, within a memory budget, after idle time, and
//! by the admin routes.

use std::{fs, path::PathBuf, time::Duration};

use gateway::{
    LoadError, RunError,
    config::{ApiKey, Bytes, Config, KeepAlive, LoadTime, ModelConfig},
};
use inference::EncodeError;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::model::copy_tiny;

use crate::{
    app::{Builder, MODEL_MEMORY, TestApp, get, wait_until},
    fake::InjectedFault,
    http::{Connection, Reply, request},
};

const ADMIN_KEY: &str = "sk-admin-0123456789abcdef";

/// A server of models on demand with these ids, and with an admin key.
pub(crate) fn on_demand(ids: &[&str]) -> Builder {
    TestApp::builder().config(|config| {
        let model = |id: &&str| ModelConfig {
            load: LoadTime::OnDemand,
            ..ModelConfig::builtin((*id).to_owned(), PathBuf::new(), 1)
        };
        config.models = ids.iter().map(model).collect();
        config.aliases = [("m".to_owned(), ids[0].into())].into();
        config.auth.admin_keys = vec![ApiKey::new("operator", ADMIN_KEY)];
    })
}

/// Makes room for this many models.
fn with_room_for(models: usize) -> impl FnOnce(&mut Config) {
    move |config| config.loading.memory_budget = Some(Bytes(models * MODEL_MEMORY))
}

fn body(model: &str) -> Vec<u8> {
    json!({"model": model, "input": "a"}).to_string().into_bytes()
}

#[track_caller]
fn assert_served(app: &TestApp, model: &str) {
    let reply = app.post(body(model));
    assert_eq!(reply.status, 200, "{model}: {}", reply.text());
}

/// Sends a request for embeddings without waiting for its response.
fn send(app: &TestApp, model: &str) -> Connection {
    let mut connection = Connection::open(app.address);
    connection.send(&request("POST", "/v1/embeddings", &[], &body(model)));
    connection
}

#[track_caller]
fn wait_for_waiting(app: &TestApp, model: &str, count: usize) {
    app.wait_for_metric(&format!("embedgate_requests_waiting_for_load{{model=\"{model}\"}} {count}"));
}

pub(crate) fn admin(app: &TestApp, method: &str, path: &str) -> Reply {
    app.send(method, &format!("/admin/models{path}"), &[("authorization", &admin_bearer())], b"")
}

/// Value of the header `authorization` for the admin key of [`on_demand`].
pub(crate) fn admin_bearer() -> String {
    format!("Bearer {ADMIN_KEY}")
}

/// The state of a model by the admin routes.
#[track_caller]
fn model(app: &TestApp, id: &str) -> Value {
    let reply = admin(app, "GET", "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let models = reply.json()["data"].as_array().unwrap().clone();
    models.into_iter().find(|model| model["id"] == id).unwrap()
}

fn state(app: &TestApp, id: &str) -> String {
    model(app, id)["state"].as_str().unwrap().to_owned()
}

#[track_caller]
fn wait_for_state(app: &TestApp, id: &str, expected: &str) {
    wait_until(&format!("{id} is {expected}"), || state(app, id) == expected);
}

/// An error that a test injects into a load.
fn failure() -> EncodeError {
    EncodeError::Shape { expected: vec![1], found: vec![2] }
}

#[test]
fn a_model_on_demand_is_listed_and_loaded_by_its_first_request() {
    let app = on_demand(&["a", "b"]).start();
    let list = app.get("/v1/models").json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["a", "b", "m"]);
    assert_eq!((state(&app, "a"), app.loads["a"].has_encoders()), ("unloaded".to_owned(), false));
    // By its alias.
    assert_served(&app, "m");
    assert_served(&app, "a");
    assert_eq!((app.loads["a"].entered(), app.loads["b"].entered()), (1, 0));
    assert_eq!((state(&app, "a"), state(&app, "b")), ("loaded".to_owned(), "unloaded".to_owned()));
    for line in [
        r#"embedgate_model_loads_total{model="b",result="failure"} 0"#,
        r#"embedgate_model_unloads_total{model="b",reason="idle"} 0"#,
        r#"embedgate_requests_rejected_total{model="b",reason="load_failed"} 0"#,
        r#"embedgate_model_loaded{model="a"} 1"#,
        r#"embedgate_model_loaded{model="b"} 0"#,
        r#"embedgate_model_loads_total{model="a",result="success"} 1"#,
        r#"embedgate_model_memory_bytes{model="a"} 1048576"#,
        r#"embedgate_model_memory_bytes{model="b"} 0"#,
    ] {
        app.wait_for_metric(line);
    }
}

#[test]
fn concurrent_first_requests_share_one_load() {
    const REQUESTS: usize = 8;
    let app = on_demand(&["a"]).start();
    app.loads["a"].hold();
    let connections: Vec<_> = (0..REQUESTS).map(|_| send(&app, "a")).collect();
    wait_for_waiting(&app, "a", REQUESTS);
    assert_eq!(
        (state(&app, "a"), model(&app, "a")["requests_waiting"].clone()),
        ("loading".to_owned(), json!(8))
    );
    app.loads["a"].release();
    for mut connection in connections {
        assert_eq!(connection.receive().status, 200);
    }
    assert_eq!(app.loads["a"].entered(), 1);
    wait_for_waiting(&app, "a", 0);
}

#[test]
fn requests_of_other_models_are_served_while_a_load_is_blocked() {
    let app = on_demand(&["a", "b", "c"]).config(|config| config.server.http_workers = 1).start();
    assert_served(&app, "b");
    app.loads["a"].hold();
    let mut blocked = send(&app, "a");
    wait_for_waiting(&app, "a", 1);
    assert_served(&app, "b");
    // Another model can be loaded meanwhile.
    assert_served(&app, "c");
    assert_eq!(app.get("/readyz").status, 200);
    app.loads["a"].release();
    assert_eq!(blocked.receive().status, 200);
}

#[test]
fn the_least_recently_used_model_is_unloaded_to_make_room() {
    let app = on_demand(&["a", "b", "c"]).config(with_room_for(2)).start();
    for model in ["a", "b", "a", "c"] {
        assert_served(&app, model);
    }
    let states = ["a", "b", "c"].map(|id| state(&app, id));
    assert_eq!(states, ["loaded", "unloaded", "loaded"]);
    assert!(!app.loads["b"].has_encoders(), "the engine of an unloaded model exists");
    app.wait_for_metric(r#"embedgate_model_unloads_total{model="b",reason="budget"} 1"#);
    app.wait_for_metric("embedgate_model_memory_budget_bytes 2097152");
    let list = admin(&app, "GET", "").json();
    assert_eq!((&list["memory_bytes"], &list["memory_budget_bytes"]), (&json!(2 << 20), &json!(2 << 20)));
    assert_served(&app, "b");
    assert_eq!(app.loads["b"].entered(), 2);
}

#[test]
fn a_model_loaded_at_startup_is_never_unloaded_to_make_room() {
    let app = on_demand(&["a", "b", "c"])
        .config(with_room_for(2))
        .model(|model| {
            model.load = LoadTime::Startup;
            model.keep_alive = KeepAlive::For(Duration::ZERO);
        })
        .start();
    for model in ["b", "c", "b"] {
        assert_served(&app, model);
    }
    assert_eq!(["a", "b", "c"].map(|id| state(&app, id)), ["loaded", "loaded", "unloaded"]);
}

#[test]
fn a_model_in_use_is_unloaded_only_after_its_request() {
    let app = on_demand(&["a", "b"]).config(with_room_for(1)).start();
    assert_served(&app, "a");
    let mut in_use = app.hold_request();
    let mut other = send(&app, "b");
    wait_for_state(&app, "a", "unloading");
    assert_eq!(
        (state(&app, "b"), model(&app, "a")["requests_in_flight"].clone()),
        ("loading".to_owned(), json!(1))
    );
    assert_eq!(app.loads["b"].entered(), 0, "the memory is not free yet");
    // A request for the model that is being unloaded waits for its next load.
    let mut again = send(&app, "a");
    wait_for_waiting(&app, "a", 1);
    app.control.release();
    for connection in [&mut in_use, &mut other, &mut again] {
        assert_eq!(connection.receive().status, 200);
    }
    assert_eq!((app.loads["a"].entered(), app.loads["b"].entered()), (2, 1));
}

#[test]
fn alternating_requests_in_a_budget_for_one_model_are_all_served() {
    let app = on_demand(&["a", "b", "c"]).config(with_room_for(1)).start();
    std::thread::scope(|scope| {
        for model in ["a", "b", "c"] {
            let app = &app;
            scope.spawn(move || (0..5).for_each(|_| assert_served(app, model)));
        }
    });
}

#[test]
fn an_idle_model_is_unloaded_after_its_keep_alive_and_loaded_again() {
    let app = on_demand(&["a"]).model(|model| model.keep_alive = KeepAlive::For(Duration::ZERO)).start();
    for load in 1..=2 {
        assert_served(&app, "a");
        wait_for_state(&app, "a", "unloaded");
        assert!(!app.loads["a"].has_encoders(), "the engine of an unloaded model exists");
        assert_eq!(app.loads["a"].entered(), load);
    }
    app.wait_for_metric(r#"embedgate_model_unloads_total{model="a",reason="idle"} 2"#);
}

#[test]
fn a_model_in_use_is_not_idle() {
    let app = on_demand(&["a", "b"])
        .config(|config| {
            for model in &mut config.models {
                model.keep_alive = KeepAlive::For(Duration::ZERO);
            }
        })
        .start();
    let mut in_use = app.hold_request();
    // The check that unloads the second model has seen the first.
    assert_eq!(admin(&app, "POST", "/b/load").status, 200);
    wait_for_state(&app, "b", "unloaded");
    assert_eq!(state(&app, "a"), "loaded");
    app.control.release();
    assert_eq!(in_use.receive().status, 200);
    wait_for_state(&app, "a", "unloaded");
}

#[test]
fn a_failed_load_rejects_its_requests_and_is_retried() {
    let app = on_demand(&["a"]).start();
    app.loads["a"].hold();
    app.loads["a"].fail(1, failure);
    let connections: Vec<_> = (0..3).map(|_| send(&app, "a")).collect();
    wait_for_waiting(&app, "a", 3);
    app.loads["a"].release();
    for mut connection in connections {
        let reply = connection.receive();
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
        assert_eq!(reply.json()["error"]["code"], "server_is_overloaded");
        assert!(!reply.text().contains("graph"), "the cause is not for clients");
    }
    app.wait_for_metric(r#"embedgate_model_loads_total{model="a",result="failure"} 1"#);
    app.wait_for_metric(r#"embedgate_requests_rejected_total{model="a",reason="load_failed"} 3"#);
    wait_until("the load is retried", || app.post(body("a")).status == 200);
    assert_eq!(app.loads["a"].entered(), 2);
}

#[test]
fn a_failed_load_is_not_retried_before_its_backoff_except_by_the_operator() {
    let app = on_demand(&["a"]).start();
    // The backoff doubles with each failure, to 32 seconds.
    app.loads["a"].fail(6, failure);
    for attempts in 1..=6 {
        assert_eq!(admin(&app, "POST", "/a/load").status, 503);
        assert_eq!(app.loads["a"].entered(), attempts);
    }
    let failed = model(&app, "a");
    assert_eq!(failed["state"], "failed");
    assert_eq!(failed["error"], failure().to_string());
    let reply = app.post(body("a"));
    let retry_after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(reply.status == 503 && (2..=32).contains(&retry_after), "{} {retry_after}", reply.status);
    assert_eq!(app.loads["a"].entered(), 6);
    assert_eq!(admin(&app, "POST", "/a/load").status, 200);
    assert_served(&app, "a");
}

#[test]
fn a_panic_of_the_loader_is_a_failed_load() {
    let app = on_demand(&["a"]).config(with_room_for(1)).start();
    app.loads["a"].inject(InjectedFault::Panic);
    assert_eq!(app.post(body("a")).status, 503);
    assert_eq!(model(&app, "a")["error"], "loading panicked");
    assert_eq!(
        admin(&app, "GET", "").json()["memory_bytes"],
        0,
        "the reservation of a failed load is released"
    );
    assert_eq!(admin(&app, "POST", "/a/load").status, 200);
}

#[test]
fn a_load_that_takes_too_long_rejects_its_requests_and_continues() {
    let app = on_demand(&["a"]).config(|config| config.loading.timeout = Duration::from_millis(50)).start();
    app.loads["a"].hold();
    let reply = app.post(body("a"));
    assert_eq!(reply.status, 503);
    assert!(reply.header("retry-after").is_some());
    app.wait_for_metric(r#"embedgate_requests_rejected_total{model="a",reason="load_timeout"} 1"#);
    assert_eq!(admin(&app, "POST", "/a/load").status, 202);
    app.loads["a"].release();
    wait_for_state(&app, "a", "loaded");
    assert_served(&app, "a");
    assert_eq!(app.loads["a"].entered(), 1);
}

#[test]
fn a_request_waits_for_a_load_no_longer_than_its_deadline() {
    let app =
        on_demand(&["a"]).config(|config| config.server.request_timeout = Duration::from_millis(50)).start();
    app.loads["a"].hold();
    assert_eq!(app.post(body("a")).status, 503);
}

#[test]
fn a_client_that_disconnects_does_not_cancel_the_load_for_others() {
    let app = on_demand(&["a"]).start();
    app.loads["a"].hold();
    let first = send(&app, "a");
    wait_for_waiting(&app, "a", 1);
    let mut second = send(&app, "a");
    wait_for_waiting(&app, "a", 2);
    drop(first);
    wait_for_waiting(&app, "a", 1);
    app.loads["a"].release();
    assert_eq!(second.receive().status, 200);
    assert_eq!(app.loads["a"].entered(), 1);
}

#[test]
fn a_request_beyond_the_maximum_of_waiting_ones_is_rejected() {
    let app = on_demand(&["a", "b"]).config(|config| config.loading.max_waiting_requests = 1).start();
    app.loads["a"].hold();
    let mut waiting = send(&app, "a");
    wait_for_waiting(&app, "a", 1);
    assert_eq!(app.post(body("a")).status, 503);
    app.wait_for_metric(r#"embedgate_requests_rejected_total{model="a",reason="load_queue_full"} 1"#);
    // The maximum is one of each model.
    assert_served(&app, "b");
    app.loads["a"].release();
    assert_eq!(waiting.receive().status, 200);
}

#[test]
fn a_large_body_is_counted_while_its_request_waits_for_a_load() {
    let app = on_demand(&["a"]).start();
    app.loads["a"].hold();
    let mut connection = Connection::open(app.address);
    let large = json!({"model": "a", "input": "a ".repeat(30_000)}).to_string();
    connection.send(&request("POST", "/v1/embeddings", &[], large.as_bytes()));
    wait_for_waiting(&app, "a", 1);
    assert!(app.get("/metrics").text().lines().any(|line| {
        let bytes = line.strip_prefix("embedgate_buffered_body_bytes ");
        bytes.is_some_and(|bytes| bytes.parse::<usize>().unwrap() > 40_000)
    }));
    app.loads["a"].release();
    assert_eq!(connection.receive().status, 200);
    app.wait_for_metric("embedgate_buffered_body_bytes 0");
}

#[test]
fn without_admin_keys_there_are_no_admin_routes() {
    let app = TestApp::builder().key("team", "sk-team").start();
    for (method, path) in [("GET", ""), ("POST", "/tiny/load"), ("POST", "/tiny/unload")] {
        for headers in [&[][..], &[("authorization", "Bearer sk-team")]] {
            let reply = app.send(method, &format!("/admin/models{path}"), headers, b"");
            assert_eq!(reply.status, 404, "{path}");
            assert!(reply.message().starts_with("Invalid URL"), "{}", reply.message());
        }
    }
}

#[test]
fn admin_routes_need_an_admin_key_and_the_api_does_not_accept_it() {
    let app = on_demand(&["a"]).key("team", "sk-team").start();
    for (method, path) in [("GET", ""), ("POST", "/a/load"), ("POST", "/a/unload"), ("POST", "/unknown/load")]
    {
        for headers in [&[][..], &[("authorization", "Bearer sk-team")], &[("api-key", "sk-admin")]] {
            let reply = app.send(method, &format!("/admin/models{path}"), headers, b"");
            assert_eq!(reply.status, 401, "{path} {headers:?}");
            assert!(!reply.text().contains("Models here"), "{}", reply.text());
        }
    }
    assert_eq!(app.loads["a"].entered(), 0);
    assert_eq!(app.send("GET", "/v1/models", &[("api-key", ADMIN_KEY)], b"").status, 401);
    assert_eq!(admin(&app, "GET", "").status, 200);
}

#[test]
fn admin_routes_load_and_unload_a_model_by_any_of_its_names() {
    let app = on_demand(&["org/a", "b"]).start();
    let (load, unload) = (
        |id| admin(&app, "POST", &format!("/{id}/load")),
        |id| admin(&app, "POST", &format!("/{id}/unload")),
    );
    for (reply, expected) in [
        (load("org/a"), "loaded"),
        (load("org%2Fa"), "loaded"),
        (load("m"), "loaded"),
        (unload("org/a"), "unloaded"),
        (unload("M"), "unloaded"),
    ] {
        let model = reply.json();
        assert_eq!((reply.status, &model["state"], &model["id"]), (200, &json!(expected), &json!("org/a")));
    }
    assert_eq!((app.loads["org/a"].entered(), app.loads["org/a"].has_encoders()), (1, false));
    app.wait_for_metric(r#"embedgate_model_unloads_total{model="org/a",reason="admin"} 1"#);
    for path in ["/unknown/load", "/unknown/unload", "/a/load"] {
        let reply = admin(&app, "POST", path);
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (404, &json!("model_not_found")),
            "{path}"
        );
    }
    // A request loads it again.
    assert_served(&app, "org/a");
    assert!(model(&app, "org/a")["last_used"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(model(&app, "b")["last_used"], json!(null));
}

#[test]
fn a_model_loaded_at_startup_can_be_unloaded_by_the_operator_and_is_loaded_again() {
    let app = on_demand(&["a"]).model(|model| model.load = LoadTime::Startup).start();
    assert_eq!(admin(&app, "POST", "/a/unload").status, 200);
    assert_eq!((app.get("/readyz").status, app.loads["a"].has_encoders()), (200, false));
    assert_served(&app, "a");
    assert_eq!(app.loads["a"].entered(), 1);
}

#[test]
fn an_unload_waits_for_requests_in_flight_and_a_load_in_progress_is_a_conflict() {
    let app = on_demand(&["a"]).config(|config| config.loading.timeout = Duration::from_millis(50)).start();
    app.loads["a"].hold();
    assert_eq!(admin(&app, "POST", "/a/load").status, 202);
    let conflict = admin(&app, "POST", "/a/unload");
    assert_eq!(
        (conflict.status, conflict.message()),
        (409, "The model `a` is loading. Unload it when it is loaded.".to_owned())
    );
    app.loads["a"].release();
    wait_for_state(&app, "a", "loaded");
    let mut in_use = app.hold_request();
    let unloading = admin(&app, "POST", "/a/unload");
    assert_eq!((unloading.status, &unloading.json()["state"]), (202, &json!("unloading")));
    assert!(app.loads["a"].has_encoders());
    app.control.release();
    assert_eq!(in_use.receive().status, 200);
    wait_for_state(&app, "a", "unloaded");
}

#[test]
fn with_ops_listen_admin_routes_are_served_only_there() {
    let (builder, ops) = on_demand(&["a"]).ops();
    let app = builder.launch();
    wait_until("the server is ready", || get(ops, "/readyz").status == 200);
    assert_eq!(admin(&app, "GET", "").status, 404);
    assert_eq!(get(ops, "/admin/models").status, 401);
}

#[test]
fn a_request_that_waits_for_a_load_is_served_while_the_server_drains() {
    let mut app = on_demand(&["a"]).start();
    app.loads["a"].hold();
    let mut connection = send(&app, "a");
    wait_for_waiting(&app, "a", 1);
    app.begin_shutdown();
    app.wait_for_closed_listener();
    app.loads["a"].release();
    assert_eq!(connection.receive().status, 200);
    app.join().unwrap();
}

#[test]
fn a_load_that_hangs_is_abandoned_after_the_drain_timeout() {
    let mut app =
        on_demand(&["a"]).config(|config| config.server.drain_timeout = Duration::from_millis(100)).start();
    app.loads["a"].hold();
    let connection = send(&app, "a");
    wait_for_waiting(&app, "a", 1);
    drop(connection);
    app.begin_shutdown();
    let ended = app.join();
    assert!(matches!(ended, Err(RunError::StartHangs { .. })), "{ended:?}");
}

/// Copies of two tiny models, and a server of both on demand with room for one of them.
fn with_folders(names: [&str; 2]) -> (TempDir, Builder) {
    let root = tempfile::tempdir().unwrap();
    let folders = ["a", "b"].map(|id| root.path().join(id));
    for (name, folder) in names.iter().zip(&folders) {
        copy_tiny(name, folder).unwrap();
    }
    let builder = on_demand(&["a", "b"]).real_models().config(|config| {
        config.cache.memory = Bytes(0);
        config.loading.memory_budget = Some(Bytes(500_000));
        for (model, folder) in config.models.iter_mut().zip(folders) {
            model.path = folder;
        }
    });
    (root, builder)
}

#[test]
fn native_models_take_turns_in_a_budget_for_one() {
    let (_root, builder) = with_folders(["bert-mean", "roberta-mean"]);
    let app = builder.start();
    let embed = |model: &str| {
        let reply = app.post(body(model));
        assert_eq!(reply.status, 200, "{model}: {}", reply.text());
        reply.json()["data"][0]["embedding"].clone()
    };
    let (a, b) = (embed("a"), embed("b"));
    assert_ne!(a, b);
    assert_eq!((embed("a"), embed("b"), embed("a")), (a.clone(), b, a));
    assert_eq!((state(&app, "a"), state(&app, "b")), ("loaded".to_owned(), "unloaded".to_owned()));
    app.wait_for_metric(r#"embedgate_model_loads_total{model="a",result="success"} 3"#);
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn a_model_loaded_on_demand_passes_its_accuracy_proof_first() {
    let (root, builder) = with_folders(["bert-mean", "roberta-mean"]);
    let app = builder.start();
    let has_proof = || app.get("/metrics").text().contains(r#"model_accuracy_worst_cosine{model="a""#);
    assert!(!has_proof());
    assert_served(&app, "a");
    assert!(has_proof());
    assert!(root.path().join("a/embedgate.accuracy.json").is_file());
    // The series belongs to the loaded model.
    assert_served(&app, "b");
    assert!(!has_proof());
}

#[test]
fn a_model_that_fails_its_golden_check_is_never_served() {
    let (root, builder) = with_folders(["bert-mean", "bert-mean"]);
    let manifest = "id = \"a\"\n[[golden]]\ntext = \"a\"\ntokens = 3\nprefix = [1.0]\n";
    fs::write(root.path().join("a/model.toml"), manifest).unwrap();
    let app = builder.start();
    assert_eq!(app.post(body("a")).status, 503);
    let error = model(&app, "a")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("its golden check failed"), "{error}");
    assert_served(&app, "b");
}

#[test]
fn models_that_cannot_be_served_are_start_up_errors() {
    let ended = |builder: Builder| match builder.launch().join() {
        Err(RunError::Load(error)) => error,
        other => panic!("{other:?}"),
    };
    let (_root, builder) = with_folders(["bert-mean", "bert-mean"]);
    let error = ended(builder.config(|config| config.loading.memory_budget = Some(Bytes(100_000))));
    assert!(matches!(&error, LoadError::Memory { id, .. } if id == "a"), "{error}");
    let (root, builder) = with_folders(["bert-mean", "bert-mean"]);
    fs::remove_dir_all(root.path().join("b")).unwrap();
    let error = ended(builder);
    assert!(matches!(&error, LoadError::Model { id, .. } if id == "b"), "{error}");
}
