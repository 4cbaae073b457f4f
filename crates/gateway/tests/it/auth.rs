//! Who is let in where.

use serde_json::json;

use crate::{app::TestApp, schema::assert_valid};

const KEY: &str = "sk-0123456789abcdefghij";

#[test]
fn with_keys_every_api_route_asks_for_one_and_nothing_else_does() {
    let app = TestApp::builder().key("team", KEY).key("other", "secret").start();
    let body = br#"{"model":"m","input":"a"}"#;
    let routes = [
        ("POST", "/v1/embeddings", &body[..]),
        ("POST", "/embeddings", &body[..]),
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
        for headers in [("authorization", "Bearer nobody"), ("api-key", "nobody"), ("api-key", "sk-")] {
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
fn without_keys_any_key_and_none_is_accepted() {
    let app = TestApp::start();
    for headers in
        [&[][..], &[("authorization", "Bearer ")], &[("authorization", "anything")], &[("api-key", "x")]]
    {
        let reply = app.send("POST", "/v1/embeddings", headers, br#"{"model":"m","input":"a"}"#);
        assert_eq!(reply.status, 200, "{headers:?}");
    }
}

#[test]
fn a_refusal_never_repeats_a_key() {
    let app = TestApp::builder().key("team", KEY).start();
    for wrong in ["sk-shortkey", "sk-012345678-almost-the-right-one-9876"] {
        let reply = app.send("GET", "/v1/models", &[("api-key", wrong)], b"");
        assert_eq!(reply.status, 401);
        let shown = reply.message();
        assert!(!shown.contains(wrong) && !shown.contains(&wrong[4..10]), "{shown}");
    }
}
