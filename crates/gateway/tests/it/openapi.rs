//! `docs/openapi.yaml` matches the server: its routes, the schemas of responses, and the statuses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use inference::EncodeError;
use serde_json::{Value, json};

use crate::{
    app::{TestApp, wait_until},
    http::Reply,
    loading::{admin, admin_bearer, on_demand},
};

const METHODS: [&str; 6] = ["get", "post", "put", "delete", "patch", "options"];

fn project(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn document() -> Value {
    serde_saphyr::from_str(&project("docs/openapi.yaml")).unwrap()
}

/// The target of a `$ref`, or the value itself.
fn follow<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(name) => {
            document.pointer(name.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("no {name}"))
        }
        None => value,
    }
}

/// Every path with its operations by method.
fn operations(document: &Value) -> BTreeMap<&str, BTreeMap<&str, &Value>> {
    document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, value)| {
            let methods = follow(document, value).as_object().unwrap();
            (path.as_str(), methods.iter().map(|(method, operation)| (method.as_str(), operation)).collect())
        })
        .collect()
}

/// Asserts that `document` allows `reply` to an operation: its status, its headers, its body.
#[track_caller]
fn assert_documented(document: &Value, operation: &Value, what: &str, reply: &Reply) {
    let status = reply.status.to_string();
    let response = follow(document, &operation["responses"][&status]);
    assert!(response.is_object(), "{what}: {status} is not documented");
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let header = follow(document, header);
        let found = reply.header(name);
        assert!(found.is_some() || header["required"] != true, "{what}: {status} without {name}");
        let Some(found) = found else { continue };
        let found = if header["schema"]["type"] == "integer" { found.parse().unwrap() } else { json!(found) };
        assert!(valid(document, &header["schema"], &found), "{what}: {name} is {found}");
    }
    let Some(contents) = response["content"].as_object() else {
        assert!(reply.body.is_empty(), "{what}: {status} has a body");
        return;
    };
    let found = reply.header("content-type").unwrap();
    let (kind, content) = contents.iter().next().unwrap();
    assert_eq!(found.split(';').next().unwrap(), kind, "{what}: {status}");
    let body = match kind.as_str() {
        "application/json" => reply.json(),
        "application/yaml" => serde_saphyr::from_str(reply.text()).unwrap(),
        _ => json!(reply.text()),
    };
    assert!(valid(document, &content["schema"], &body), "{what}: {status}: {body}");
}

/// Returns true if `schema`, which may refer to other parts of `document`, allows `value`.
fn valid(document: &Value, schema: &Value, value: &Value) -> bool {
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    jsonschema::draft202012::is_valid(&schema, value)
}

#[test]
fn routes_match_the_openapi_document() {
    let document = document();
    let documented = operations(&document);
    // The route table has each path once; those of the API are also served without their prefix.
    let table = project("crates/gateway/src/routes/mod.rs");
    let paths = table.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/'));
    let routes: BTreeSet<String> = paths
        .filter(|path| *path != "/v1")
        .flat_map(|path| [Some(path), path.strip_prefix("/v1")].into_iter().flatten())
        .map(|path| path.replace(":.+}", "}"))
        .collect();
    assert!(routes.len() >= 12, "{routes:?}");
    assert_eq!(routes, documented.keys().map(|path| (*path).to_owned()).collect());

    let app = TestApp::start();
    for (path, operations) in documented {
        let path = path.replace("{id}", "tiny").replace("{deployment}", "tiny");
        for method in METHODS {
            let reply = app.send(&method.to_uppercase(), &path, &[], b"");
            let exists = operations.contains_key(method);
            assert_eq!(reply.status != 405, exists, "{method} {path}: {}", reply.status);
            if exists {
                assert_documented(&document, operations[method], &format!("{method} {path}"), &reply);
            }
        }
    }
}

#[test]
fn schemas_match_the_openapi_document() {
    let document = document();
    for (name, file) in
        [("EmbeddingResponse", "embeddings"), ("Error", "error"), ("Model", "model"), ("ModelList", "models")]
    {
        let text = project(&format!("crates/gateway/tests/schemas/{file}.json"));
        let mut schema: Value = serde_json::from_str(&text).unwrap();
        let fields = schema.as_object_mut().unwrap();
        fields.remove("$schema");
        fields.remove("title");
        assert_eq!(document["components"]["schemas"][name], schema, "{name}");
    }
}

#[test]
fn the_openapi_document_has_the_package_version() {
    assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
}

/// Requests, whether the document allows them, and the status of each response.
#[test]
fn valid_requests_are_answered_and_invalid_ones_rejected_as_documented() {
    let document = document();
    let operation = operations(&document)["/v1/embeddings"]["post"];
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let app = TestApp::start();
    for (input, rest, allowed) in [
        (json!("a"), json!({}), true),
        (json!(""), json!({}), true),
        (json!(["a", "b"]), json!({"encoding_format": "base64"}), true),
        (json!([1, 2]), json!({"encoding_format": null, "dimensions": null}), true),
        (json!([[1], [2, 3]]), json!({"dimensions": 8, "user": "u", "more": [1]}), true),
        (json!([]), json!({}), false),
        (json!([""]), json!({}), false),
        (json!([[]]), json!({}), false),
        (json!(["a", 1]), json!({}), false),
        (json!([-1]), json!({}), false),
        (json!([1.5]), json!({}), false),
        (json!({"text": "a"}), json!({}), false),
        (json!(null), json!({}), false),
        (json!("a"), json!({"encoding_format": "hex"}), false),
        (json!("a"), json!({"dimensions": 0}), false),
        (json!("a"), json!({"dimensions": "8"}), false),
        (json!("a"), json!({"model": 1}), false),
        (json!("a"), json!({"model": ""}), false),
        (json!(vec!["a"; 2049]), json!({}), false),
    ] {
        let mut body = json!({"model": "m", "input": input});
        body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        assert_eq!(valid(&document, schema, &body), allowed, "{body}");
        let reply = app.post(body.to_string());
        assert_eq!(reply.status == 200, allowed, "{body}: {}", reply.text());
        assert_documented(&document, operation, &body.to_string(), &reply);
    }
}

#[test]
fn errors_match_the_openapi_document() {
    let document = document();
    let operations = operations(&document);
    let (post, list) = (operations["/v1/embeddings"]["post"], operations["/v1/models"]["get"]);
    let app = TestApp::builder().key("team", "sk-0123456789abcdefghij").start();
    for key in [None, Some(("api-key", "wrong"))] {
        let headers: Vec<_> = key.into_iter().collect();
        let reply = app.send("GET", "/v1/models", &headers, b"");
        assert_eq!(reply.status, 401);
        assert_documented(&document, list, "a wrong key", &reply);
    }
    let app = TestApp::builder().config(|config| config.limits.max_body_bytes = 100).start();
    let reply = app.post(json!({"model": "m", "input": "a".repeat(200)}).to_string());
    assert_eq!(reply.status, 413);
    assert_documented(&document, post, "a large body", &reply);
    let reply = app.send("POST", "/v1/embeddings", &[("content-encoding", "compress")], b"a");
    assert_eq!(reply.status, 415);
    assert_documented(&document, post, "a compressed body", &reply);
    let reply = app.post(r#"{"model":"m","input":"a","input_type":"query"}"#);
    assert_eq!(reply.header("x-embedgate-ignored"), Some("input_type"));
    assert_documented(&document, post, "an ignored parameter", &reply);
    let app = TestApp::builder().prompt("query", "query: ").start();
    for (fields, header) in
        [("", "x-embedgate-prompt-missing"), (r#","prompt_name":"query""#, "x-embedgate-prompt")]
    {
        let reply = app.post(format!(r#"{{"model":"m","input":"a"{fields}}}"#));
        assert_eq!(reply.header(header), Some("query"));
        assert_documented(&document, post, header, &reply);
    }
    let reply = app.post(r#"{"model":"unknown","input":"a"}"#);
    assert_eq!(reply.status, 404);
    assert_documented(&document, post, "another model", &reply);

    let (builder, gate) = TestApp::builder().gate();
    let app = builder.launch();
    app.wait_for("/livez", 200);
    for (method, path) in
        [("post", "/v1/embeddings"), ("get", "/v1/models"), ("get", "/readyz"), ("get", "/startupz")]
    {
        let reply = app.send(&method.to_uppercase(), path, &[], b"");
        assert_eq!(reply.status, 503, "{path}");
        assert_documented(&document, operations[path][method], path, &reply);
    }
    drop(gate);
}

#[test]
fn usage_matches_the_openapi_document() {
    let document = document();
    let operation = operations(&document)["/v1/organization/usage/embeddings"]["get"];
    let app = on_demand(&["a"]).key("team", "sk-team").start();
    let body = json!({"model": "m", "input": "a"}).to_string();
    assert_eq!(app.send("POST", "/embeddings", &[("api-key", "sk-team")], body.as_bytes()).status, 200);
    for (query, status) in [("start_time=0&group_by=model&group_by=api_key_id", 200), ("", 400)] {
        let path = format!("/v1/organization/usage/embeddings?{query}");
        let reply = app.send("GET", &path, &[("authorization", &admin_bearer())], b"");
        assert_eq!(reply.status, status, "{}", reply.text());
        assert_documented(&document, operation, query, &reply);
    }
}

#[test]
fn admin_responses_match_the_openapi_document() {
    let document = document();
    let operations = operations(&document);
    let app = on_demand(&["a"]).config(|config| config.loading.timeout = Duration::from_secs(1)).start();
    let check = |method: &str, path: &str, status: u16| {
        let reply = admin(&app, &method.to_uppercase(), &path.replace("{id}", "a"));
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        let documented = format!("/admin/models{path}");
        assert_documented(&document, operations[documented.as_str()][method], path, &reply);
    };
    check("get", "", 200);
    app.loads["a"].hold();
    check("post", "/{id}/load", 202);
    check("post", "/{id}/unload", 409);
    app.loads["a"].release();
    wait_until("the model is loaded", || admin(&app, "POST", "/a/load").status == 200);
    check("post", "/{id}/load", 200);
    check("get", "", 200);
    check("post", "/{id}/unload", 200);
    app.loads["a"].fail(1, || EncodeError::Shape { expected: vec![1], found: vec![2] });
    check("post", "/{id}/load", 503);
    check("get", "", 200);
}

#[test]
fn status_and_tokens_match_the_openapi_document() {
    let document = document();
    let operations = operations(&document);
    let app = TestApp::builder().prompt("query", "query: ").start();
    app.post(r#"{"model":"unknown","input":"a"}"#);
    assert_documented(&document, operations["/status"]["get"], "status", &app.get("/status"));
    let post = operations["/tokenize"]["post"];
    for (body, status) in [
        (json!({"inputs": ["The café", ""], "model": "m"}), 200),
        (json!({"inputs": "a", "add_special_tokens": false}), 200),
        (json!({"inputs": []}), 400),
        (json!({"inputs": "a", "model": "unknown"}), 404),
    ] {
        let reply = app.post_to("/tokenize", &body);
        assert_eq!(reply.status, status, "{body}: {}", reply.text());
        assert_documented(&document, post, &body.to_string(), &reply);
    }
}
