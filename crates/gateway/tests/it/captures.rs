//! Recorded requests of real clients, replayed byte for byte over a socket.
//!
//! `tests/captures` has one file for each: client, version, method, path, headers and body. The expected response
//! follows from the request by the rules of the API.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    app::{TestApp, vectors},
    http::{Connection, Reply},
    schema::assert_valid,
};

#[derive(Deserialize)]
struct Capture {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    /// The raw JSON of the file, so that keys and escapes are sent as the client wrote them.
    body: Box<RawValue>,
    /// The body as the sent text, for a body that JSON parsers reject.
    #[serde(default)]
    body_is_raw_text: bool,
}

impl Capture {
    fn all() -> Vec<(String, Self)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
        let mut captures: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let capture = serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap();
                (entry.file_name().into_string().unwrap(), capture)
            })
            .collect();
        captures.sort_by(|a: &(String, Self), b| a.0.cmp(&b.0));
        captures
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The sent body.
    fn body(&self) -> String {
        match self.body.get() {
            "null" => String::new(),
            text if self.body_is_raw_text => serde_json::from_str(text).unwrap(),
            json => json.to_owned(),
        }
    }

    /// The body as JSON, without its lone surrogate; `null` if there is none.
    fn json(&self) -> Value {
        match self.body().as_str() {
            "" => Value::Null,
            body => serde_json::from_str(&body.replace(r#"\ud83d""#, "\"")).unwrap(),
        }
    }

    /// The request as it was on the wire, with a recomputed length.
    fn bytes(&self) -> Vec<u8> {
        let body = self.body();
        let mut bytes = format!("{} {} HTTP/1.1\r\nHost: 127.0.0.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            if name.eq_ignore_ascii_case("content-length") {
                bytes += &format!("{name}: {}\r\n", body.len());
            } else if !name.eq_ignore_ascii_case("host") {
                bytes += &format!("{name}: {value}\r\n");
            }
        }
        bytes += "\r\n";
        if self.header("transfer-encoding").is_some() {
            bytes += &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        } else {
            bytes += &body;
        }
        bytes.into_bytes()
    }

    /// The requested model, from the body or the path.
    fn model(&self) -> Option<String> {
        let in_body = self.json()["model"].as_str().map(str::to_owned);
        in_body.or_else(|| self.path.split_once("/models/").map(|(_, id)| id.replace("%2F", "/")))
    }

    /// Number of requested vectors.
    fn inputs(&self) -> usize {
        match &self.json()["input"] {
            Value::Array(items) if items.first().is_some_and(|item| !item.is_number()) => items.len(),
            _ => 1,
        }
    }

    #[track_caller]
    fn check(&self, name: &str, reply: &Reply) {
        if self.path.ends_with("/models") {
            assert_eq!(reply.status, 200, "{name}");
            assert_valid("models", &reply.json());
        } else if self.method == "GET" {
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
            assert_eq!(reply.json()["id"], self.model().unwrap(), "{name}");
        } else if let Some(reason) = self.fault() {
            assert_eq!((reply.status, reply.message()), (400, reason.to_owned()), "{name}");
        } else {
            self.check_embeddings(name, reply);
        }
    }

    #[track_caller]
    fn check_embeddings(&self, name: &str, reply: &Reply) {
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        let response = reply.json();
        assert_valid("embeddings", &response);
        assert_eq!(response["model"], self.model().unwrap(), "{name}");
        assert_eq!(vectors(&response).len(), self.inputs(), "{name}");
        let base64 = self.json()["encoding_format"] == "base64";
        assert_eq!(response["data"][0]["embedding"].is_string(), base64, "{name}");
        if let Some(dimensions) = self.json()["dimensions"].as_u64() {
            assert!(vectors(&response).iter().all(|vector| vector.len() as u64 == dimensions), "{name}");
        }
    }

    /// The error for a request that OpenAI rejects, too.
    fn fault(&self) -> Option<&'static str> {
        match &self.json()["input"] {
            Value::Array(items) if items.is_empty() => {
                Some("Invalid 'input': input cannot be an empty array.")
            }
            Value::Array(items) if items.first() == Some(&"".into()) => {
                Some("Invalid 'input[0]': input cannot be an empty string.")
            }
            _ => None,
        }
    }
}

fn replay(app: &TestApp, capture: &Capture) -> Reply {
    let mut connection = Connection::open(app.address);
    connection.send(&capture.bytes());
    connection.receive()
}

#[test]
fn every_client_gets_what_it_asked_for() {
    let captures = Capture::all();
    assert!(captures.len() > 100, "only {} captures were found", captures.len());
    // Some clients request 4 dimensions.
    let mut builder = TestApp::builder().model(|model| model.matryoshka_dimensions = vec![4]);
    for model in captures.iter().filter_map(|(_, capture)| capture.model()) {
        builder = builder.alias(&model);
    }
    let app = builder.start();
    for (name, capture) in &captures {
        capture.check(name, &replay(&app, capture));
    }
}

#[test]
fn without_aliases_every_client_is_told_that_there_is_no_such_model() {
    let app = TestApp::builder().config(|config| config.aliases.clear()).start();
    for (name, capture) in Capture::all() {
        let reply = replay(&app, &capture);
        if capture.model().is_none() {
            assert_eq!(reply.status, 200, "{name}");
        } else if capture.fault().is_none() {
            let error = reply.json();
            assert_eq!((reply.status, &error["error"]["code"]), (404, &"model_not_found".into()), "{name}");
        }
    }
}

#[test]
fn without_matryoshka_a_client_that_wants_fewer_dimensions_is_told_so() {
    let mut builder = TestApp::builder();
    let captures: Vec<_> =
        Capture::all().into_iter().filter(|(_, capture)| capture.json()["dimensions"].is_u64()).collect();
    for model in captures.iter().filter_map(|(_, capture)| capture.model()) {
        builder = builder.alias(&model);
    }
    let app = builder.start();
    assert!(captures.len() >= 8);
    for (name, capture) in captures {
        let reply = replay(&app, &capture);
        assert_eq!(reply.status, 400, "{name}");
        let message = reply.message();
        assert!(
            message.starts_with("This model does not support specifying dimensions. "),
            "{name}: {message}"
        );
    }
}
