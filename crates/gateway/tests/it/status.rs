//! `GET /status`: the counters, the facts about models, and who may read them.

use gateway::config::LoadTime;
use inference::EncodeError;
use serde_json::{Value, json};

use crate::{
    app::{BODY, TestApp, WINDOW, wait_until},
    http::Reply,
    loading::on_demand,
};

#[track_caller]
fn status(app: &TestApp) -> Value {
    let reply = app.get("/status");
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")), "{}", reply.text());
    reply.json()
}

/// Waits until the number at `pointer` is `expected`: the counters change after a response is sent.
#[track_caller]
fn wait_for(app: &TestApp, pointer: &str, expected: u64) {
    wait_until(pointer, || status(app).pointer(pointer).and_then(Value::as_u64) == Some(expected));
}

#[test]
fn counters_change_with_requests() {
    let app = TestApp::start();
    let before = status(&app);
    assert_eq!((&before["object"], &before["state"]), (&json!("status"), &json!("ready")));
    assert_eq!(before["requests"], json!({"total": 0, "in_flight": 0, "errors": {}}));
    assert_eq!(
        before["latency"]["counts"].as_array().unwrap().iter().filter(|count| **count != 0).count(),
        0
    );
    app.post(r#"{"model":"m","input":["a","b"]}"#);
    let long = json!({"model": "m", "input": "a ".repeat(2 * WINDOW)}).to_string();
    app.post(long);
    wait_for(&app, "/requests/total", 2);
    let after = status(&app);
    assert_eq!(after["inputs"], 3);
    assert_eq!(after["tokens"], 6 + WINDOW);
    assert_eq!(after["truncated_inputs"], 1);
    assert_eq!(after["queue"], json!({"requests": 0, "tokens": 0}));
    let (bounds, counts) = (&after["latency"]["upper_bounds_seconds"], &after["latency"]["counts"]);
    let counts: Vec<u64> = counts.as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).collect();
    let bounds = bounds.as_array().unwrap();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (bounds.len() + 1, 2));
    assert!(bounds.is_sorted_by(|a, b| a.as_f64() < b.as_f64()) && bounds[0] == 0.00125, "{bounds:?}");
    assert!(after["uptime_seconds"].as_f64() > before["uptime_seconds"].as_f64());
    if cfg!(target_os = "linux") {
        assert!(after["memory"]["resident_bytes"].as_u64().unwrap() > 1_000_000);
    }
}

#[test]
fn errors_are_counted_by_name_on_all_routes() {
    let app = TestApp::start();
    app.post(r#"{"model":"unknown","input":"a"}"#);
    app.post(r#"{"model":"unknown","input":"b"}"#);
    app.post(r#"{"model":"m"}"#);
    app.get("/v1/embedding");
    app.get("/v1/embeddings");
    let expected = json!({
        "model_not_found": 2,
        "missing_required_parameter": 1,
        "unknown_url": 1,
        "method_not_allowed": 1,
    });
    wait_until("all errors are counted", || status(&app)["requests"]["errors"] == expected);
    // Failed requests are in the total, and not in the latencies.
    let status = status(&app);
    assert_eq!(status["requests"]["total"], 4);
    assert!(status["latency"]["counts"].as_array().unwrap().iter().all(|count| *count == 0));
}

#[test]
fn requests_in_flight_and_in_the_queue_are_counted() {
    let app = TestApp::start();
    let mut held = app.hold_request();
    wait_for(&app, "/requests/in_flight", 1);
    app.control.release();
    assert_eq!(held.receive().status, 200);
    wait_for(&app, "/requests/in_flight", 0);
}

#[test]
fn a_key_is_required_where_keys_are_configured() {
    let app = TestApp::builder().key("team", "secret").start();
    let send = |key: &str| -> Reply { app.send("GET", "/status", &[("authorization", key)], b"") };
    for (key, code) in [("", Value::Null), ("Bearer wrong", json!("invalid_api_key"))] {
        let reply = send(key);
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (401, &code));
    }
    let reply = send("Bearer secret");
    assert_eq!(reply.status, 200);
    let access = json!({"keys": true, "rate_limits": false, "cors": false, "tls": false});
    assert_eq!(reply.json()["access"], access);
    let errors = &reply.json()["requests"]["errors"];
    assert_eq!(*errors, json!({"missing_api_key": 1, "invalid_api_key": 1}));
}

#[test]
fn models_are_described_by_their_facts() {
    let app = TestApp::builder()
        .hub_id("org/tiny")
        .prompt("query", "query: ")
        .prompt("document", "")
        .config(|config| {
            config.models[0].default_prompt = Some("query".to_owned());
            config.models[0].matryoshka_dimensions = vec![4, 2];
        })
        .start();
    let models = status(&app)["models"].clone();
    assert_eq!(
        models,
        json!([{
            "id": "tiny",
            "aliases": ["m", "org/tiny"],
            "task": "embed",
            "is_loaded": true,
            "dimensions": 8,
            "matryoshka_dimensions": [4, 2],
            "max_input_tokens": WINDOW,
            "prompts": ["document", "query"],
            "default_prompt": "query",
            "precision": "fp32",
            "accuracy": null,
            "backend": "onnxruntime",
            "isa": null,
            "backend_reason": "selected by the settings",
            "provider": "cpu",
            "license": null,
            "weights_bytes": null,
        }])
    );
}

#[test]
fn a_real_model_tells_the_size_of_its_files_and_its_kernels() {
    let app = TestApp::builder().real("bert-mean").start();
    let model = status(&app)["models"][0].clone();
    assert_eq!((&model["precision"], &model["accuracy"]), (&json!("fp32"), &Value::Null));
    assert!(model["weights_bytes"].as_u64().unwrap() > 10_000, "{model}");
    assert_eq!(model["isa"].is_string(), model["backend"] == "native", "{model}");
}

#[test]
fn the_status_loads_no_model() {
    let app = on_demand(&["a"]).start();
    let described = |app: &TestApp| status(app)["models"][0].clone();
    let unloaded = described(&app);
    assert_eq!((&unloaded["is_loaded"], &unloaded["precision"]), (&json!(false), &Value::Null));
    assert_eq!((&unloaded["dimensions"], &unloaded["backend"]), (&json!(8), &Value::Null));
    assert_eq!(app.loads["a"].entered(), 0);
    app.loads["a"].fail(1, || EncodeError::Shape { expected: vec![1], found: vec![2] });
    assert_eq!(app.post(r#"{"model":"a","input":"a"}"#).status, 503);
    assert_eq!(described(&app)["is_loaded"], false);
    assert_eq!(status(&app)["requests"]["errors"], json!({"load_failed": 1}));
}

#[test]
fn the_status_is_answered_while_models_load() {
    let (builder, gate) = TestApp::builder().gate();
    let app = builder.config(|config| config.models[0].load = LoadTime::Startup).launch();
    app.wait_for("/livez", 200);
    assert_eq!(app.post(BODY).status, 503);
    let loading = status(&app);
    assert_eq!((&loading["state"], &loading["models"]), (&json!("loading"), &json!([])));
    drop(gate);
    app.wait_for("/readyz", 200);
    assert_eq!(status(&app)["state"], "ready");
}
