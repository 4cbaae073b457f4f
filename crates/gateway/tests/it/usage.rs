//! Usage by API key: its metrics, and `GET /v1/organization/usage/embeddings`.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use gateway::config::ApiKey;
use serde_json::{Value, json};

use crate::{
    app::{BODY, Builder, TestApp, WINDOW, get, wait_until},
    http::{Reply, ask, request},
};

const ADMIN: (&str, &str) = ("authorization", "Bearer sk-admin");
const PATH: &str = "/v1/organization/usage/embeddings";

/// A server with the keys `team` and `batch`, and an admin key.
fn with_keys() -> Builder {
    with_admin(TestApp::builder().key("team", "sk-team").key("batch", "sk-batch"))
}

fn with_admin(builder: Builder) -> Builder {
    builder.config(|config| config.auth.admin_keys = vec![ApiKey::new("operator", "sk-admin")])
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn embed(app: &TestApp, key: &str, body: &[u8]) -> Reply {
    app.send("POST", "/v1/embeddings", &[("authorization", &format!("Bearer {key}"))], body)
}

#[track_caller]
fn usage(app: &TestApp, query: &str) -> Value {
    let reply = app.send("GET", &format!("{PATH}?{query}"), &[ADMIN], b"");
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    reply.json()
}

/// Requests and tokens by key and model, over all buckets, since an hour ago.
#[track_caller]
fn sums(app: &TestApp, query: &str) -> BTreeMap<String, (u64, u64)> {
    let page = usage(app, &format!("start_time={}&bucket_width=1m&limit=1440&{query}", now() - 3600));
    assert_eq!((&page["has_more"], &page["next_page"]), (&json!(false), &json!(null)));
    let mut sums = BTreeMap::new();
    for bucket in page["data"].as_array().unwrap() {
        for result in bucket["results"].as_array().unwrap() {
            let group = format!("{} {}", result["api_key_id"], result["model"]);
            let sum: &mut (u64, u64) = sums.entry(group).or_default();
            sum.0 += result["num_model_requests"].as_u64().unwrap();
            sum.1 += result["input_tokens"].as_u64().unwrap();
        }
    }
    sums
}

fn of(entries: &[(&str, u64, u64)]) -> BTreeMap<String, (u64, u64)> {
    entries.iter().map(|&(group, requests, tokens)| (group.to_owned(), (requests, tokens))).collect()
}

#[test]
fn answered_requests_are_counted_by_key_and_model() {
    let app = with_keys().start();
    let short = embed(&app, "sk-team", BODY).json()["usage"]["prompt_tokens"].as_u64().unwrap();
    let long = json!({"model": "tiny", "input": ["a", "a ".repeat(WINDOW)]}).to_string();
    let long = embed(&app, "sk-team", long.as_bytes()).json()["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(long, short + WINDOW as u64);
    assert_eq!(embed(&app, "sk-batch", BODY).status, 200);
    // Requests without vectors are not counted.
    for (key, body, status) in [
        ("sk-team", &br#"{"model":"m","input":[]}"#[..], 400),
        ("sk-team", br#"{"model":"unknown","input":"a"}"#, 404),
        ("sk-wrong", BODY, 401),
    ] {
        assert_eq!(embed(&app, key, body).status, status);
    }
    let (team, batch) = (short + long, short);
    let by_key = [("\"team\" null", 2, team), ("\"batch\" null", 1, batch)];
    assert_eq!(sums(&app, "group_by=api_key_id"), of(&by_key));
    assert_eq!(sums(&app, "group_by=model"), of(&[("null \"tiny\"", 3, team + batch)]));
    assert_eq!(
        sums(&app, "group_by[]=api_key_id&group_by[]=model&api_key_ids[]=team"),
        of(&[("\"team\" \"tiny\"", 2, team)])
    );
    assert_eq!(sums(&app, "models=tiny"), of(&[("null null", 3, team + batch)]));
    assert_eq!(sums(&app, "api_key_ids=operator"), of(&[]));
    for line in [
        "requests_total{api_key=\"team\"} 2".to_owned(),
        format!("input_tokens_total{{api_key=\"team\"}} {team}"),
        "inputs_truncated_total{api_key=\"team\"} 1".to_owned(),
        "requests_total{api_key=\"batch\"} 1".to_owned(),
        "inputs_truncated_total{api_key=\"batch\"} 0".to_owned(),
    ] {
        app.wait_for_metric(&format!("embedgate_api_key_{line}"));
    }
    assert!(!app.get("/metrics").text().contains("api_key=\"operator\""));
}

#[test]
fn a_key_has_no_series_before_its_first_request_and_none_without_keys() {
    let app = with_keys().start();
    assert_eq!(embed(&app, "sk-team", BODY).status, 200);
    let text = app.get("/metrics").text().to_owned();
    assert_eq!(text.matches("api_key=\"").count(), 3, "{text}");
    let app = with_admin(TestApp::builder()).start();
    let tokens = app.post(BODY).json()["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(sums(&app, "group_by=api_key_id"), of(&[("null null", 1, tokens)]));
    assert!(!app.get("/metrics").text().contains("api_key=\""));
}

#[test]
fn usage_has_the_shape_of_openais_api() {
    let app = with_keys().start();
    let tokens = embed(&app, "sk-team", BODY).json()["usage"]["total_tokens"].clone();
    let page = usage(&app, &format!("start_time={}", now() - 3600));
    // Two buckets if midnight has just passed.
    let buckets = page["data"].as_array().unwrap();
    let bucket = buckets.iter().find(|bucket| bucket["results"] != json!([])).unwrap();
    let start = bucket["start_time"].as_u64().unwrap();
    assert_eq!(start % 86_400, 0);
    let expected = json!({
        "object": "bucket",
        "start_time": start,
        "end_time": start + 86_400,
        "results": [{
            "object": "organization.usage.embeddings.result",
            "input_tokens": tokens,
            "num_model_requests": 1,
            "project_id": null,
            "user_id": null,
            "api_key_id": null,
            "model": null,
        }],
    });
    assert_eq!(bucket, &expected);
    assert_eq!((&page["object"], &page["has_more"]), (&json!("page"), &json!(false)));
}

#[test]
fn usage_needs_an_admin_key() {
    let start = format!("{PATH}?start_time={}", now());
    let app = TestApp::builder().key("team", "sk-team").start();
    let team = ("authorization", "Bearer sk-team");
    assert_eq!(
        app.send("GET", &start, &[team], b"").status,
        404,
        "without admin keys there is no such route"
    );
    let (builder, ops) = with_keys().ops();
    let app = builder.launch();
    wait_until("the server is ready", || get(ops, "/readyz").status == 200);
    assert_eq!(app.send("GET", &start, &[ADMIN], b"").status, 404, "it is on the address for operators");
    let status = |headers: &[(&str, &str)]| ask(ops, &request("GET", &start, headers, b"")).unwrap().status;
    assert_eq!([status(&[ADMIN]), status(&[team]), status(&[])], [200, 401, 401]);
}

#[test]
fn a_query_that_cannot_be_answered_is_a_400_that_names_the_parameter() {
    let app = with_keys().start();
    for (query, param) in [
        ("", json!("start_time")),
        ("start_time=1&bucket_width=1w", json!("bucket_width")),
        ("start_time=1&project_ids=p", json!("project_ids")),
        ("start_time=1&unknown=1", json!(null)),
    ] {
        let reply = app.send("GET", &format!("{PATH}?{query}"), &[ADMIN], b"");
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (400, &param),
            "{query}: {}",
            reply.text()
        );
    }
}
