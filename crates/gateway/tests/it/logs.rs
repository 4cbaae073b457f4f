//! The log at the highest verbosity: it identifies requests, and never contains input text or keys.

use std::{
    io::{self, Write},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    app::{BODY, TestApp},
    fake::{FAILURES_OF_ENCODER, InjectedFault},
};

/// All log lines of this process.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(bytes.clone()).unwrap()
    }

    /// The lines of one request.
    #[track_caller]
    fn lines(&self, request: &str) -> Vec<String> {
        let lines: Vec<_> =
            self.text().lines().filter(|line| line.contains(request)).map(str::to_owned).collect();
        assert!(!lines.is_empty(), "{request} is not in the log");
        lines
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The log of all tests of this process: servers log on their own threads, so it cannot belong to one test.
pub(crate) static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .init();
    log
});

#[test]
fn input_texts_and_keys_are_never_logged() {
    let log = &*LOG;
    let app = TestApp::builder().key("team", "sk-right-key-7c1e0b").start();
    let body = json!({"model": "m", "input": ["confidential-4f2a"]}).to_string();
    let send = |key: &str, body: &str| {
        let headers = [("authorization", format!("Bearer {key}"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        app.send("POST", "/v1/embeddings", &headers, body.as_bytes())
    };
    assert_eq!(send("sk-right-key-7c1e0b", &body).status, 200);
    assert_eq!(send("sk-wrong-key-93d5aa", &body).status, 401);
    assert_eq!(send("sk-right-key-7c1e0b", &body[..body.len() - 1]).status, 400);
    app.control.inject(InjectedFault::Panic);
    assert_eq!(send("sk-right-key-7c1e0b", &body).status, 500);
    drop(app);
    for secret in ["confidential-4f2a", "right-key-7c1e0b", "wrong-key-93d5aa"] {
        let text = log.text();
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None);
    }
}

#[test]
fn a_request_has_one_log_line_with_its_tokens_and_the_clients_id() {
    let log = &*LOG;
    let app = TestApp::builder().key("team", "secret").start();
    let headers = [("api-key", "secret"), ("x-request-id", "client-77.a")];
    let reply = app.send("POST", "/embeddings", &headers, br#"{"model":"m","input":["a","b"]}"#);
    let lines = log.lines(reply.header("x-request-id").unwrap());
    let answered: Vec<_> = lines.iter().filter(|line| line.contains("answered")).collect();
    let [line] = answered[..] else { panic!("{lines:#?}") };
    for field in [
        "route=\"/embeddings\"",
        "status=200",
        "model=\"tiny\"",
        "inputs=2",
        "tokens=6",
        "key=\"team\"",
        "client-77.a",
    ] {
        assert!(line.contains(field), "{field} is not in {line}");
    }
    let (_, time) = line.split_once(" ms=").unwrap();
    let time = time.split(' ').next().unwrap();
    assert!(time.parse::<f64>().unwrap() > 0.0, "{time}");
    assert!(time.split_once('.').unwrap().1.len() <= 3, "{time} is more precise than microseconds");
}

#[test]
fn a_fault_is_logged_once_with_its_cause() {
    let log = &*LOG;
    let app = TestApp::start();
    app.control.fail(FAILURES_OF_ENCODER, || inference::EncodeError::Other("the cause".to_owned()));
    let reply = app.post(BODY);
    let lines = log.lines(reply.header("x-request-id").unwrap());
    assert_eq!(lines.iter().filter(|line| line.contains("the cause")).count(), 1, "{lines:#?}");
}
