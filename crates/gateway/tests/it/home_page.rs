//! The page at `/` as the server sends it: its policy, its values and its setting. `cargo xtask test --only page`
//! checks it in a browser.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use gateway::config::PathPrefix;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::app::{Builder, TestApp};

const POLICY: &str = "content-security-policy";

/// The content of the only element `name` of a page.
#[track_caller]
fn content<'a>(page: &'a str, name: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("<{name}")).unwrap();
    let (_, rest) = rest.split_once('>').unwrap();
    let (content, rest) = rest.split_once(&format!("</{name}>")).unwrap();
    assert!(!rest.contains(&format!("<{name}")), "a second {name}");
    content
}

/// The address of the API on the page that a request with these headers gets.
#[track_caller]
fn address(app: &TestApp, headers: &[(&str, &str)]) -> String {
    let reply = app.send("GET", "/", headers, b"");
    assert_eq!(reply.status, 200);
    let (_, rest) = reply.text().split_once(r#"id="address" data-fill="base_url">"#).unwrap();
    rest.split('<').next().unwrap().to_owned()
}

#[test]
fn the_policy_of_the_home_page_allows_its_own_style_and_script_alone() {
    let app = TestApp::start();
    let reply = app.get("/");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = reply.header(POLICY).unwrap();
    let hash = |name| BASE64.encode(Sha256::digest(content(reply.text(), name)));
    for directive in [
        "default-src 'none'",
        &format!("style-src 'sha256-{}'", hash("style")),
        &format!("script-src 'sha256-{}'", hash("script")),
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.split("; ").any(|found| found == directive), "{directive} is not in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    // Another start has the same digests, and so has another request.
    assert_eq!(TestApp::start().get("/").header(POLICY), Some(policy));
}

#[test]
fn the_home_page_names_the_address_that_the_client_sees() {
    let app = TestApp::start();
    assert_eq!(address(&app, &[]), "http://test.example:8080/v1");
    let proxied = [("x-forwarded-host", "ai.example"), ("x-forwarded-proto", "https")];
    assert_eq!(address(&app, &proxied), "https://ai.example/v1");
    let hostile = address(&app, &[("x-forwarded-host", "\"><b>{{model}}")]);
    assert_eq!(hostile, "http://&quot;&gt;&lt;b&gt;{{model}}/v1");
}

#[test]
fn the_home_page_shows_the_default_model_the_state_and_the_need_for_a_key() {
    let page = TestApp::start().get("/");
    let text = page.text();
    assert!(text.contains(r#"data-fill="model">tiny<"#) && text.contains(r#"id="state">Ready<"#));
    assert!(text.contains("Bearer <b>any</b>") && !text.contains("YOUR_KEY"));
    assert!(
        TestApp::builder().key("team", "secret").start().get("/").text().contains("Bearer <b>YOUR_KEY</b>")
    );

    let (builder, gate) = TestApp::builder().gate();
    let app = builder.launch();
    app.wait_for("/livez", 200);
    assert!(app.get("/").text().contains(r#"id="state">Loading its models<"#));
    drop(gate);
}

#[test]
fn the_home_page_links_to_probes_where_they_are_served() {
    assert!(TestApp::start().get("/").text().contains("<span >"));
    let (builder, ops) = TestApp::builder().ops();
    let app = builder.config(|config| config.ops_listen = Some(ops)).launch();
    assert!(app.get("/").text().contains("<span hidden>"));
}

#[test]
fn without_the_home_page_its_path_is_unknown() {
    let without = |builder: Builder| builder.config(|config| config.server.home_page = false).launch();
    let app = without(TestApp::builder());
    app.wait_for("/readyz", 200);
    let reply = app.get("/");
    assert_eq!((reply.status, reply.header("content-type")), (404, Some("application/json")));
    assert!(reply.message().contains("(GET /)"), "{}", reply.message());
    // `POST /` is no page: text-embeddings-inference's clients embed there.
    assert_eq!(app.post_to("/", &json!({ "inputs": "a" })).status, 200);
    assert_eq!(app.get("/v1/models").status, 200);
    let prefix = PathPrefix::new("/ai").unwrap();
    let app = without(TestApp::builder().config(|config| config.server.path_prefix = prefix));
    app.wait_for("/ai/readyz", 200);
    assert_eq!((app.get("/ai").status, app.get("/ai/v1/models").status), (404, 200));
}

#[test]
fn the_request_for_an_icon_is_no_error() {
    assert_eq!(TestApp::start().get("/favicon.ico").status, 204);
}
