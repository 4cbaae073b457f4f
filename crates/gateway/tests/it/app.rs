//! A real server of one test, and helpers to wait.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use futures_util::stream::poll_fn;
use gateway::{
    Backend, Listeners, LoadedModel, ModelDescription, ModelSlot, PromptNames, Prompts, Registry, RunError,
    Selection, SelectionReason,
    config::{Alias, ApiKey, Config, LoadTime, ModelConfig, PrecisionSetting},
    load,
    metrics::Metrics,
    run_with,
};
use inference::{Engine, EngineConfig, Tokenizer, TokenizerOptions};
use model_import::{DenseActivation, Task};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

pub(crate) use testkit::wait::{TIMEOUT, until as wait_until};

use crate::{
    fake::{Control, DIMENSIONS, InjectedFault, encoders},
    http::{Connection, Reply, ask, request},
};

/// A small request.
pub(crate) const BODY: &[u8] = br#"{"model":"m","input":"a"}"#;

/// Maximum number of input tokens of the models.
pub(crate) const WINDOW: usize = 64;

/// Number of ids for which its models have embeddings: all ids of its tokenizer.
pub(crate) const EMBEDDINGS: usize = 600;

/// Memory of each model, as its description states it.
pub(crate) const MODEL_MEMORY: usize = 1 << 20;

/// Settings of a server to start.
pub(crate) struct Builder {
    config: Config,
    tokenizer: PathBuf,
    dimensions: usize,
    hub_id: Option<String>,
    normalize: bool,
    prompts: BTreeMap<String, String>,
    /// The folder of the model of [`Builder::real`], which is removed with the server.
    folder: Option<tempfile::TempDir>,
    /// Loading waits until the other end sends or is dropped.
    gate: Option<mpsc::Receiver<()>>,
    /// The listener for probes and metrics.
    ops: Option<TcpListener>,
    /// The models of the settings are loaded from their folders.
    real_models: bool,
}

/// A running server. Dropping it stops it and asserts a clean shutdown.
pub(crate) struct TestApp {
    pub(crate) address: SocketAddr,
    /// The encoders of every model.
    pub(crate) control: Arc<Control>,
    /// The loads of each model after the startup, by id.
    pub(crate) loads: BTreeMap<String, Arc<Control>>,
    stop: UnboundedSender<()>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

impl TestApp {
    /// A server of one model, `tiny`, under the name `m` too.
    pub(crate) fn builder() -> Builder {
        let mut config = Config::builtin(2);
        config.models = vec![ModelConfig::builtin("tiny".to_owned(), PathBuf::new(), 1)];
        config.default_model = "tiny".to_owned();
        config.aliases = BTreeMap::from([("m".to_owned(), "tiny".into())]);
        config.server.drain_timeout = Duration::from_secs(10);
        let tokenizer = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../model-import/tests/tiny-models/bert-mean/tokenizer.json"
        )
        .into();
        Builder {
            config,
            tokenizer,
            dimensions: DIMENSIONS,
            hub_id: None,
            normalize: true,
            prompts: BTreeMap::new(),
            folder: None,
            gate: None,
            ops: None,
            real_models: false,
        }
    }

    /// Starts a server with the defaults of [`TestApp::builder`].
    pub(crate) fn start() -> Self {
        Self::builder().start()
    }

    /// Sends one request on a connection of its own.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        ask(self.address, &request(method, path, headers, body)).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    /// Posts a body to `/v1/embeddings`.
    pub(crate) fn post(&self, body: impl AsRef<[u8]>) -> Reply {
        self.send("POST", "/v1/embeddings", &[("content-type", "application/json")], body.as_ref())
    }

    /// Posts JSON to a path.
    pub(crate) fn post_to(&self, path: &str, body: &Value) -> Reply {
        let headers = [("content-type", "application/json")];
        self.send("POST", path, &headers, body.to_string().as_bytes())
    }

    /// Posts a body to `/v1/embeddings` that must be rejected with 400, and returns the message.
    #[track_caller]
    pub(crate) fn post_invalid(&self, body: impl AsRef<[u8]>) -> String {
        let reply = self.post(body);
        assert_eq!(reply.status, 400, "{}", reply.text());
        reply.message()
    }

    /// Returns the vectors of `input`; the status must be 200.
    #[track_caller]
    pub(crate) fn embed(&self, input: &Value) -> Vec<Vec<f64>> {
        let reply = self.post(serde_json::json!({ "model": "m", "input": input }).to_string());
        assert_eq!(reply.status, 200, "{}", reply.text());
        vectors(&reply.json())
    }

    /// Sends a request to stop, without waiting.
    pub(crate) fn begin_shutdown(&self) {
        // The server may have ended.
        let _ = self.stop.send(());
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the server's end, which must come in time.
    #[track_caller]
    pub(crate) fn join(&mut self) -> Result<(), RunError> {
        wait_until("the server has ended", || self.has_ended());
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits until the metrics contain exactly this line.
    #[track_caller]
    pub(crate) fn wait_for_metric(&self, line: &str) {
        wait_for_metric(self.address, line);
    }

    /// Sends [`BODY`] and waits until its batch is held in the encoder.
    #[track_caller]
    pub(crate) fn hold_request(&self) -> Connection {
        self.hold_request_on(Connection::open(self.address), BODY)
    }

    /// Sends `body` on `connection` and waits until its batch is held in the encoder.
    #[track_caller]
    pub(crate) fn hold_request_on<S: Read + Write>(
        &self,
        mut connection: Connection<S>,
        body: &[u8],
    ) -> Connection<S> {
        self.control.hold();
        let entered = self.control.entered();
        connection.send(&request("POST", "/v1/embeddings", &[], body));
        self.control.wait_for_batch(entered);
        connection
    }

    /// Shuts the server down while `connection` waits for the response to a held request. It must be a 200.
    #[track_caller]
    pub(crate) fn drain<S: Read + Write>(&mut self, mut connection: Connection<S>) -> Reply {
        self.begin_shutdown();
        self.wait_for_closed_listener();
        self.control.release();
        let reply = connection.receive();
        assert_eq!(reply.status, 200);
        self.join().unwrap();
        reply
    }

    /// Waits until the listener is closed.
    #[track_caller]
    pub(crate) fn wait_for_closed_listener(&self) {
        wait_until("the listener is closed", || std::net::TcpStream::connect(self.address).is_err());
    }

    /// Waits until a request was cancelled, as the metrics count it.
    #[track_caller]
    pub(crate) fn wait_for_cancelled(&self) {
        self.wait_for_metric(
            "embedgate_request_duration_seconds_count{model=\"tiny\",outcome=\"cancelled\"} 1",
        );
    }

    /// Waits until the response of `path` has `status`.
    #[track_caller]
    pub(crate) fn wait_for(&self, path: &str, status: u16) {
        wait_until(path, || self.get(path).status == status);
    }
}

/// Sends a GET request on a connection of its own.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Reply {
    testkit::http::get(address, path).unwrap()
}

/// Waits until the metrics at `address` contain exactly this line.
#[track_caller]
pub(crate) fn wait_for_metric(address: SocketAddr, line: &str) {
    wait_until(line, || get(address, "/metrics").text().lines().any(|found| found == line));
}

/// Sets a flag that ends the client threads of a test, also if the test fails: a thread scope joins its threads.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.control.release();
        self.loads.values().for_each(|load| load.release());
        self.begin_shutdown();
        if self.thread.is_some() && !std::thread::panicking() {
            self.join().unwrap();
        }
    }
}

impl Builder {
    pub(crate) fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Changes the settings of the first model.
    pub(crate) fn model(self, change: impl FnOnce(&mut ModelConfig)) -> Self {
        self.config(|config| change(&mut config.models[0]))
    }

    /// Uses another tokenizer.
    pub(crate) fn tokenizer(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.tokenizer);
        self
    }

    pub(crate) fn alias(self, name: &str) -> Self {
        self.config(|config| drop(config.aliases.insert(name.to_owned(), "tiny".into())))
    }

    /// Adds an alias with a prompt.
    pub(crate) fn prompt_alias(self, name: &str, prompt: &str) -> Self {
        let alias = Alias { prompt: Some(prompt.to_owned()), ..Alias::from("tiny") };
        self.config(|config| drop(config.aliases.insert(name.to_owned(), alias)))
    }

    pub(crate) fn key(self, name: &str, secret: &str) -> Self {
        self.config(|config| config.auth.keys.push(ApiKey::new(name, secret)))
    }

    /// Sets the length of the vectors.
    pub(crate) fn dimensions(mut self, dimensions: usize) -> Self {
        self.dimensions = dimensions;
        self
    }

    pub(crate) fn hub_id(mut self, id: &str) -> Self {
        self.hub_id = Some(id.to_owned());
        self
    }

    /// Serves models whose vectors are not normalized.
    pub(crate) fn unnormalized(mut self) -> Self {
        self.normalize = false;
        self
    }

    /// Adds a prompt to the models.
    pub(crate) fn prompt(mut self, name: &str, text: &str) -> Self {
        self.prompts.insert(name.to_owned(), text.to_owned());
        self
    }

    /// Serves a tiny model of `model-import`'s tests, as `tiny`, with its own weights in fp32.
    pub(crate) fn real(mut self, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        testkit::model::copy_tiny(name, folder.path()).unwrap();
        let path = folder.path().to_owned();
        self.folder = Some(folder);
        self.real_models().model(|model| {
            model.path = path;
            model.precision = PrecisionSetting::Fp32;
        })
    }

    /// Makes loading wait until the returned sender is used or dropped.
    pub(crate) fn gate(mut self) -> (Self, mpsc::Sender<()>) {
        let (open, gate) = mpsc::channel();
        self.gate = Some(gate);
        (self, open)
    }

    /// Gives probes and metrics a listener of their own, and returns its address.
    pub(crate) fn ops(mut self) -> (Self, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        self.ops = Some(listener);
        (self, address)
    }

    /// Loads the models from their folders.
    pub(crate) fn real_models(mut self) -> Self {
        self.real_models = true;
        self
    }

    /// Starts the server and waits until it is ready.
    pub(crate) fn start(self) -> TestApp {
        let app = self.launch();
        app.wait_for("/readyz", 200);
        app
    }

    /// Starts the server without waiting.
    pub(crate) fn launch(self) -> TestApp {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let control = Arc::new(Control::default());
        let (stop, mut stops) = unbounded_channel();
        let Self {
            config,
            tokenizer,
            dimensions,
            hub_id,
            normalize,
            prompts,
            folder,
            gate,
            ops,
            real_models,
        } = self;
        let loads = config.models.iter().map(|model| (model.id.clone(), Arc::default()));
        let loads: BTreeMap<String, Arc<Control>> = loads.collect();
        let fake = FakeModel {
            tokenizer,
            dimensions,
            normalize,
            hub_id,
            prompts,
            control: Arc::clone(&control),
            loads: loads.clone(),
        };
        let settings = config.clone();
        let serve = async move {
            let _folder = folder;
            let stops = poll_fn(move |context| stops.poll_recv(context));
            let load = move |metrics: &Metrics, cancelled: &AtomicBool| {
                // An error means that the test dropped the gate, which opens it, too.
                gate.map(|gate| gate.recv());
                if real_models {
                    return load(&settings, metrics, cancelled);
                }
                let slots = settings.models.iter().map(|model| slot(model, &fake, metrics));
                Ok(Registry::new(slots.collect(), &settings.aliases, &settings.loading, metrics)?)
            };
            run_with(config, Listeners { main: listener, ops }, stops, load).await
        };
        let thread = std::thread::spawn(move || actix_web::rt::System::new().block_on(serve));
        TestApp { address, control, loads, stop, thread: Some(thread) }
    }
}

/// Properties of the models that a test can set.
#[derive(Clone)]
struct FakeModel {
    tokenizer: PathBuf,
    dimensions: usize,
    normalize: bool,
    hub_id: Option<String>,
    prompts: BTreeMap<String, String>,
    control: Arc<Control>,
    loads: BTreeMap<String, Arc<Control>>,
}

fn slot(model: &ModelConfig, fake: &FakeModel, metrics: &Metrics) -> ModelSlot {
    let loaded = (model.load == LoadTime::Startup).then(|| served(model, fake, metrics));
    let description = ModelDescription {
        id: model.id.as_str().into(),
        hub_id: fake.hub_id.clone(),
        task: Task::Embed,
        dimensions: fake.dimensions,
        max_input_tokens: WINDOW,
        matryoshka: model.matryoshka_dimensions.clone(),
        prompts: PromptNames::new(&fake.prompts, model.default_prompt.as_deref()).unwrap(),
        license: None,
        file_bytes: None,
        created: 1_700_000_000,
        provider: model.provider,
        memory: MODEL_MEMORY,
        load: model.load,
        keep_alive: model.keep_alive,
    };
    let (model, fake, metrics) = (model.clone(), fake.clone(), metrics.clone());
    let loader = move || match fake.loads[&model.id].enter() {
        Some(InjectedFault::Panic) => panic!("injected by the test"),
        Some(InjectedFault::Fail(error)) => Err(error.into()),
        Some(InjectedFault::NotFinite) | None => Ok(served(&model, &fake, &metrics)),
    };
    ModelSlot::new(description, Box::new(loader), loaded)
}

fn served(model: &ModelConfig, fake: &FakeModel, metrics: &Metrics) -> LoadedModel {
    let FakeModel { ref tokenizer, dimensions, normalize, ref prompts, .. } = *fake;
    let options = TokenizerOptions {
        strip_whitespace: model.strip_whitespace,
        embeddings: Some(EMBEDDINGS),
        ..TokenizerOptions::default()
    };
    let tokenizer = Tokenizer::load_with(tokenizer, options).unwrap();
    let prompts = Prompts::new(prompts, model.default_prompt.as_deref(), true, &tokenizer).unwrap();
    let config = EngineConfig {
        name: model.id.clone(),
        task: Task::Embed,
        tokenizer,
        max_input_tokens: WINDOW,
        dimensions,
        normalize,
        workers: model.onnx_sessions,
        tokenizer_threads: 1,
        max_batch_tokens: model.max_batch_tokens.unwrap_or(1024),
        max_batch_inputs: model.max_batch_inputs,
        max_queue_tokens: model.max_queue_tokens,
        cache: None,
    };
    let observer = Arc::new(metrics.model(Some(&model.id)));
    let encoders = encoders(&fake.control, dimensions, &fake.loads[&model.id]);
    LoadedModel {
        id: model.id.as_str().into(),
        task: Task::Embed,
        score_activation: DenseActivation::Identity,
        engine: Engine::start(config, &encoders, observer).unwrap(),
        max_input_tokens: WINDOW,
        dimensions,
        normalized: normalize,
        prompts,
        matryoshka: model.matryoshka_dimensions.clone(),
        truncation: model.truncation,
        token_ids: model.token_ids,
        created: 1_700_000_000,
        fingerprint: "0".repeat(64),
        provider: model.provider,
        precision: model_import::Precision::Fp32,
        per_text: false,
        selection: Selection { backend: Backend::OnnxRuntime, reason: SelectionReason::Configured },
        proofs: Vec::new(),
        load_time: Duration::ZERO,
    }
}

/// The vectors of a response, in the order of `data`, whose indices must count up.
#[track_caller]
pub(crate) fn vectors(response: &Value) -> Vec<Vec<f64>> {
    let data = response["data"].as_array().unwrap();
    let row = |(index, item): (usize, &Value)| {
        assert_eq!(item["index"], index);
        match &item["embedding"] {
            Value::String(base64) => floats(base64),
            floats => floats.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect(),
        }
    };
    data.iter().enumerate().map(row).collect()
}

fn floats(text: &str) -> Vec<f64> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    assert!(bytes.len().is_multiple_of(4));
    bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap()).into()).collect()
}
