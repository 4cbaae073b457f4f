//! `/openapi.yaml`, `/openapi.json` and `/docs`: the forms of the document.

use std::{collections::BTreeSet, fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gateway::config::PathPrefix;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::app::TestApp;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.yaml");
    fs::read_to_string(path).unwrap()
}

/// The parts of `page` between `start` and `end`.
fn between<'a>(page: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    page.split(start).skip(1).filter_map(|rest| rest.split(end).next()).collect()
}

#[test]
fn yaml_and_json_are_the_document() {
    let app = TestApp::start();
    let yaml = app.get("/openapi.yaml");
    assert_eq!((yaml.status, yaml.header("content-type")), (200, Some("application/yaml")));
    assert_eq!(yaml.text(), document());
    let json = app.get("/openapi.json");
    assert_eq!((json.status, json.header("content-type")), (200, Some("application/json")));
    let parsed: Value = serde_saphyr::from_str(&document()).unwrap();
    assert_eq!(json.json(), parsed);
}

#[test]
fn the_document_and_the_page_need_no_key() {
    let app = TestApp::builder().key("team", "secret").start();
    for path in ["/openapi.yaml", "/openapi.json", "/docs", "/docs/"] {
        assert_eq!(app.get(path).status, 200, "{path}");
    }
}

#[test]
fn every_operation_has_tag_summary_and_description() {
    let app = TestApp::start();
    let document = app.get("/openapi.json").json();
    let tags: BTreeSet<_> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let items = ["paths", "components/pathItems"].map(|path| document.pointer(&format!("/{path}")).unwrap());
    let items = items.into_iter().flat_map(|items| items.as_object().unwrap());
    let mut operations = 0;
    for (path, item) in items {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "$ref") {
            operations += 1;
            let what = format!("{method} {path}");
            assert!(tags.contains(operation["tags"][0].as_str().unwrap()), "{what}: tag");
            let summary = operation["summary"].as_str().unwrap();
            assert!(summary.len() <= 80 && !summary.ends_with('.'), "{what}: {summary}");
            let description = operation["description"].as_str().unwrap();
            assert!(!description.is_empty() && description.len() < 500, "{what}: {description}");
            let body = &operation["requestBody"]["content"]["application/json"];
            assert!(body.is_null() || !body["example"].is_null(), "{what}: no example of a request");
        }
    }
    assert!(operations > 30, "{operations}");
}

#[test]
fn the_page_has_every_operation_and_no_broken_link() {
    let app = TestApp::start();
    let reply = app.get("/docs");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let page = reply.text();
    let ids: Vec<_> = between(page, " id=\"", "\"");
    let unique: BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "an id occurs twice");
    let links = between(page, "href=\"#", "\"");
    assert!(links.len() > 60, "{}", links.len());
    assert!(links.iter().all(|link| ids.contains(link)), "{links:?}");
    for path in app.get("/openapi.json").json()["paths"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("{path}</code>")), "{path}");
    }
    // Every reference is resolved, and every table has rows.
    assert!(!page.contains("$ref") && !page.contains("<tbody></tbody>"));
    assert!(!page.contains("any<"), "a field has no type");
}

#[test]
fn the_page_is_accessible_and_loads_nothing() {
    let app = TestApp::start();
    let reply = app.get("/docs");
    let page = reply.text();
    for element in ["<html lang=\"en\">", "<header>", "<main>", "<nav aria-label=", "<footer>", "<title>"] {
        assert_eq!(page.matches(element).count(), 1, "{element}");
    }
    let levels: Vec<u32> =
        page.split("<h").skip(1).filter_map(|rest| rest.chars().next()?.to_digit(10)).collect();
    assert_eq!(levels.iter().filter(|level| **level == 1).count(), 1);
    assert!(levels.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{levels:?}");
    for banned in ["<script", "<img", "<link", "style=\"", "src=", "@import", "url(", "javascript:"] {
        assert!(!page.contains(banned), "{banned}");
    }
    let style = between(page, "<style>", "</style>")[0];
    let policy = reply.header("content-security-policy").unwrap();
    let digest = format!("'sha256-{}'", STANDARD.encode(Sha256::digest(style)));
    assert!(policy.starts_with("default-src 'none'; ") && policy.contains(&digest), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.len() < 300_000, "{} bytes", page.len());
}

#[test]
fn links_and_addresses_have_the_path_prefix() {
    let prefix = PathPrefix::new("/a/b").unwrap();
    let app = TestApp::builder().config(|config| config.server.path_prefix = prefix).launch();
    app.wait_for("/a/b/readyz", 200);
    let json = app.get("/a/b/openapi.json").json();
    assert_eq!(json["servers"][0]["url"], "/a/b");
    let page = app.get("/a/b/docs");
    assert_eq!(page.status, 200);
    for link in ["href=\"/a/b/openapi.yaml\"", "href=\"/a/b/openapi.json\"", "href=\"/a/b\""] {
        assert!(page.text().contains(link), "{link}");
    }
    assert_eq!(app.get("/docs").status, 404);
}

#[test]
fn the_setting_of_the_pages_turns_them_off() {
    let app = TestApp::builder().config(|config| config.server.home_page = false).start();
    for path in ["/", "/docs", "/openapi.yaml", "/openapi.json"] {
        assert_eq!(app.get(path).status, 404, "{path}");
    }
    assert_eq!(app.get("/status").status, 200);
}
