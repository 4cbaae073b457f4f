//! A fake trace collector, with real HTTP and protobuf, that can also fail or hang.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::Span,
};
use prost::Message;
use serde_json::Value;

/// Reaction to requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CollectorBehavior {
    Accepts,
    Rejects,
    /// Accepts connections and never answers.
    Hangs,
}

/// A running collector; dropping it ends it.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Connections that are not answered.
    held: Arc<Mutex<Vec<TcpStream>>>,
    tried: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    pub(crate) fn start(behavior: CollectorBehavior) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), behavior)
    }

    /// Starts on a bound socket.
    pub(crate) fn on(listener: TcpListener, behavior: CollectorBehavior) -> Self {
        let address = listener.local_addr().unwrap();
        let (received, tried, over) = <(Arc<Mutex<Vec<_>>>, Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
        let (bodies, count, ended) = (Arc::clone(&received), Arc::clone(&tried), Arc::clone(&over));
        let held = Arc::<Mutex<Vec<TcpStream>>>::default();
        let holds = Arc::clone(&held);
        let serve = move || {
            for stream in listener.incoming().map(Result::unwrap) {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                match behavior {
                    CollectorBehavior::Hangs => {
                        stream.set_nonblocking(true).unwrap();
                        holds.lock().unwrap().push(stream);
                    }
                    CollectorBehavior::Rejects => drop(respond(stream, "503 Service Unavailable")),
                    CollectorBehavior::Accepts => bodies.lock().unwrap().extend(respond(stream, "200 OK")),
                }
            }
        };
        Self { address, received, held, tried, over, thread: Some(thread::spawn(serve)) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Number of connections so far.
    pub(crate) fn tried(&self) -> usize {
        self.tried.load(Ordering::SeqCst)
    }

    /// Number of the attempt that waits for a response, of a collector that [`CollectorBehavior::Hangs`].
    pub(crate) fn waits(&self) -> Option<usize> {
        let held = self.held.lock().unwrap();
        let mut last = held.last()?;
        loop {
            match last.read(&mut [0; 4096]) {
                Ok(0) => return None,
                // The request.
                Ok(_) => {}
                Err(error) => return (error.kind() == ErrorKind::WouldBlock).then_some(held.len()),
            }
        }
    }

    /// All received bytes, to search for secrets.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.received.lock().unwrap().concat()
    }

    /// The received spans, by trace.
    pub(crate) fn traces(&self) -> BTreeMap<String, Vec<Seen>> {
        let mut traces: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
        for body in &*self.received.lock().unwrap() {
            for group in ExportTraceServiceRequest::decode(&body[..]).unwrap().resource_spans {
                let resource = attributes(&group.resource.unwrap().attributes);
                for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    let seen =
                        Seen { resource: resource.clone(), attributes: attributes(&span.attributes), span };
                    traces.entry(hex(&seen.span.trace_id)).or_default().push(seen);
                }
            }
        }
        traces
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread, which may have failed.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the collector failed");
        }
    }
}

/// Reads one request, responds and returns its body.
fn respond(stream: TcpStream, status: &str) -> Option<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_ascii_lowercase());
    }
    assert_eq!(lines[0], "post /v1/traces http/1.1");
    assert!(lines.iter().any(|line| line == "content-type: application/x-protobuf"), "{lines:?}");
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    reader.get_mut().write_all(response.as_bytes()).unwrap();
    Some(body)
}

/// A received span.
pub(crate) struct Seen {
    pub(crate) resource: BTreeMap<String, Value>,
    pub(crate) attributes: BTreeMap<String, Value>,
    pub(crate) span: Span,
}

impl Seen {
    pub(crate) fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub(crate) fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    /// Start and end, since 1970.
    pub(crate) fn times(&self) -> (Duration, Duration) {
        let (start, end) = (self.span.start_time_unix_nano, self.span.end_time_unix_nano);
        (Duration::from_nanos(start), Duration::from_nanos(end))
    }
}

/// The current time, since 1970.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, Value> {
    let value = |pair: &KeyValue| {
        pair.value.as_ref().and_then(|value| value.value.as_ref()).map_or(Value::Null, json)
    };
    pairs.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

fn json(value: &Any) -> Value {
    match value {
        Any::StringValue(text) => text.as_str().into(),
        Any::IntValue(number) => (*number).into(),
        Any::BoolValue(truth) => (*truth).into(),
        Any::DoubleValue(number) => (*number).into(),
        Any::ArrayValue(array) => {
            array.values.iter().map(|value| value.value.as_ref().map_or(Value::Null, json)).collect()
        }
        other => panic!("{other:?} is none of ours"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
