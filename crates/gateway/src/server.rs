//! The server's life from bound listeners to the last joined thread.

use std::{
    future::pending,
    io,
    net::TcpListener,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use actix_http::{HttpService, KeepAlive};
use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, map_config};
use actix_web::{
    App, Error as ActixError,
    dev::AppConfig,
    middleware::{NormalizePath, from_fn},
    web,
};
use futures_util::{Stream, StreamExt, future::select_all, stream::FusedStream};
use opentelemetry_otlp::ExporterBuildError;
use rustls::ServerConfig as TlsSettings;
use thiserror::Error;
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    auth::KeysFileError,
    background::{Background, spawn_detached},
    config::Config,
    connection,
    cors::share,
    load::{LoadError, load},
    metrics::Metrics,
    middleware::observe,
    registry::Registry,
    routes::Side,
    services::Services,
    tls::{self, Encrypted, TlsError},
};

/// A connection that was accepted just before the listener closed may still be on its way to a worker, which
/// drops those when it is told to stop.
const HAND_OVER: Duration = Duration::from_millis(50);

/// Connections to the second listener: a few probes, and whoever scrapes.
const OPS_CONNECTIONS: usize = 256;

/// The server could not start, or ended before it was told to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The listener cannot be used.
    #[error("cannot start the HTTP server on its listeners")]
    Listen(#[source] io::Error),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file of API keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysFileError),
    /// The limits of keys cannot be kept.
    #[error("cannot start the shared rate limiter (`limits.redis_url`)")]
    Limits(#[source] io::Error),
    /// A model cannot be served.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A step of the start panicked.
    #[error("{step} panicked")]
    StartPanicked {
        /// The step.
        step: &'static str,
    },
    /// A step of the start did not end when it was told to.
    #[error(
        "stopped while {step}, which did not end: abandoned after {} s; does a volume with model, key or certificate \
         files not answer?", waited.as_secs_f64()
    )]
    StartHangs {
        /// The step.
        step: &'static str,
        /// Time since the first request to stop.
        waited: Duration,
    },
    /// The system gives no thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The drain was ended by a further request to stop.
    #[error("told again to stop before the drain was done: requests in flight were dropped")]
    DrainInterrupted,
    /// Traces cannot be sent.
    #[error("cannot set up the exporter of traces (`trace.otlp_endpoint`)")]
    Trace(#[source] ExporterBuildError),
    /// The HTTP server ended by itself.
    #[error("the HTTP server ended unexpectedly")]
    Ended(#[source] Option<io::Error>),
}

impl RunError {
    /// Returns true if threads that may hang are left: the process must then end without running exit handlers.
    pub fn leaves_threads(&self) -> bool {
        matches!(self, Self::StartHangs { .. } | Self::DrainInterrupted)
    }
}

/// Where the server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub main: TcpListener,
    /// For metrics and probes, which then answer here alone.
    pub ops: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(main: TcpListener) -> Self {
        Self { main, ops: None }
    }
}

/// Serves `config` on `listeners` until `stop` yields, then drains. Each further item of `stop` ends the current wait:
/// the pause, the drain, or the wait for the engines' last batches. If the first item comes during the start,
/// the current step may take `drain_timeout` to end, or until the next item. Needs a tokio runtime with time.
///
/// # Errors
/// When a model cannot be served or a listener cannot be used; when the start did not end in time, or the drain was
/// ended by a further item. A drained shutdown is `Ok`.
pub async fn run(
    config: Config,
    listeners: impl Into<Listeners>,
    stop: impl Stream<Item = ()>,
) -> Result<(), RunError> {
    let settings = config.clone();
    run_with(config, listeners, stop, move |metrics, cancelled| load(&settings, metrics, cancelled)).await
}

/// [`run`] with models from elsewhere than the settings: `load` runs on a thread of its own, gets the metrics
/// that its engines should report to, and should end early when the flag is set.
///
/// # Errors
/// As [`run`].
pub async fn run_with<L>(
    config: Config,
    listeners: impl Into<Listeners>,
    stop: impl Stream<Item = ()>,
    load: L,
) -> Result<(), RunError>
where
    L: FnOnce(&Metrics, &AtomicBool) -> Result<Registry, LoadError> + Send + 'static,
{
    let started = Instant::now();
    let mut stop = pin!(stop.fuse());
    let Listeners { main, ops } = listeners.into();
    let address = main.local_addr().map_err(RunError::Listen)?;
    let ops_address = ops.as_ref().map(TcpListener::local_addr).transpose().map_err(RunError::Listen)?;
    let mut opening = Step::start("opening keys and certificates", {
        let config = config.clone();
        move || Opened::new(&config)
    })?;
    let opened = tokio::select! {
        opened = opening.result() => opened??,
        () = requested(&mut stop) => {
            let opened = opening.abandon(config.server.drain_timeout, &mut stop).await?;
            tracing::info!(outcome = ?opened.err(), "stopped before loading");
            return Ok(());
        }
    };
    let Opened { services, tls, _threads } = opened;
    let (tls, _watch) = tls.unzip();
    let url = format!("{}://{address}", if tls.is_some() { "https" } else { "http" });
    let servers = Servers::start(&config, main, ops, tls, &services).map_err(RunError::Listen)?;
    let (handle, ops) = (servers.main.clone(), servers.ops.clone());
    let mut serving = pin!(servers.ended());

    let cancelled = Arc::new(AtomicBool::new(false));
    let (metrics, flag) = (services.metrics.clone(), Arc::clone(&cancelled));
    let mut loading = Step::start("loading the models", move || load(&metrics, &flag))?;
    let loaded = tokio::select! {
        loaded = loading.result() => loaded,
        ended = &mut serving => return Err(ended),
        () = requested(&mut stop) => {
            // Nothing was promised yet, so nothing has to be finished but the model at hand.
            cancelled.store(true, Ordering::Release);
            handle.stop(false).await;
            let loaded = loading.abandon(config.server.drain_timeout, &mut stop).await;
            stop_ops(ops).await;
            // Not in the macro, which evaluates nothing where the level is not logged.
            let outcome = loaded?.err().map(|error| error.to_string());
            tracing::info!(outcome, "stopped while loading");
            return Ok(());
        }
    };
    match loaded.and_then(|loaded| Ok(loaded?)) {
        Ok(registry) => services.open(registry, &url, ops_address, started.elapsed()),
        Err(error) => {
            handle.stop(false).await;
            stop_ops(ops).await;
            return Err(error);
        }
    }

    tokio::select! {
        ended = &mut serving => return Err(ended),
        () = requested(&mut stop) => {}
    }
    tracing::info!(pause = config.server.shutdown_delay.as_secs_f64(), "shutting down: not ready any more");
    services.lifecycle.drain();
    tokio::select! {
        () = sleep(config.server.shutdown_delay) => {}
        () = requested(&mut stop) => tracing::info!("told again to stop: the pause ends"),
    }
    handle.pause().await;
    sleep(HAND_OVER).await;
    let stopping = handle.stop(true);
    let drained = tokio::select! {
        () = stopping => true,
        () = requested(&mut stop) => {
            tracing::warn!("told again to stop: the drain ends, requests in flight are dropped");
            false
        }
    };
    let closing = services.close();
    let closed = tokio::select! {
        () = closing => true,
        () = requested(&mut stop) => {
            tracing::warn!("told again to stop: batches in the engines are abandoned");
            false
        }
    };
    stop_ops(ops).await;
    if !(drained && closed) {
        return Err(RunError::DrainInterrupted);
    }
    tracing::info!("drained");
    Ok(())
}

/// Waits for the next request to stop; for ever if the stream has ended.
async fn requested(stop: &mut (impl FusedStream<Item = ()> + Unpin)) {
    if stop.next().await.is_none() {
        pending::<()>().await;
    }
}

/// Services and certificates that are opened before the servers start.
struct Opened {
    services: Services,
    tls: Option<(TlsSettings, Background)>,
    /// These threads end when this is dropped.
    _threads: [Option<Background>; 2],
}

impl Opened {
    fn new(config: &Config) -> Result<Self, RunError> {
        let (services, threads) = Services::new(config)?;
        let tls = config.tls.as_ref().map(tls::open).transpose()?;
        Ok(Self { services, tls, _threads: threads })
    }
}

/// A step of the start, on a thread of its own: it reads files, and a read may never end.
struct Step<T> {
    name: &'static str,
    result: oneshot::Receiver<T>,
}

impl<T: Send + 'static> Step<T> {
    fn start(name: &'static str, work: impl FnOnce() -> T + Send + 'static) -> Result<Self, RunError> {
        Ok(Self { name, result: spawn_detached("start", work).map_err(RunError::Thread)? })
    }

    async fn result(&mut self) -> Result<T, RunError> {
        (&mut self.result).await.map_err(|_| RunError::StartPanicked { step: self.name })
    }

    /// Waits for the step's end for at most `limit`, and no longer than until the next request to stop.
    async fn abandon(
        mut self,
        limit: Duration,
        stop: &mut (impl FusedStream<Item = ()> + Unpin),
    ) -> Result<T, RunError> {
        let (step, asked) = (self.name, Instant::now());
        tokio::select! {
            result = self.result() => return result,
            () = sleep(limit) => {}
            () = requested(stop) => {}
        }
        Err(RunError::StartHangs { step, waited: asked.elapsed() })
    }
}

/// Stops the second listener, last of all, so that it can tell of everything before.
async fn stop_ops(ops: Option<ServerHandle>) {
    if let Some(ops) = ops {
        ops.stop(false).await;
    }
}

/// The HTTP servers that run.
struct Servers {
    main: ServerHandle,
    ops: Option<ServerHandle>,
    tasks: Vec<JoinHandle<io::Result<()>>>,
}

impl Servers {
    fn start(
        config: &Config,
        main: TcpListener,
        ops: Option<TcpListener>,
        tls: Option<TlsSettings>,
        services: &Services,
    ) -> io::Result<Self> {
        let side = if ops.is_some() { Side::Api } else { Side::Whole };
        let server = listen(config, main, tls, services, side)?;
        let main = server.handle();
        let mut tasks = vec![tokio::spawn(server)];
        let ops = match ops {
            None => None,
            Some(listener) => {
                let address = listener.local_addr()?;
                // A thread and places of its own: however busy the main address is, probes are answered.
                let mut config = config.clone();
                config.server.http_workers = 1;
                config.server.max_connections = OPS_CONNECTIONS;
                config.server.drain_timeout = Duration::ZERO;
                let server = listen(&config, listener, None, services, Side::Ops)?;
                let handle = server.handle();
                tasks.push(tokio::spawn(server));
                tracing::info!("metrics and probes on http://{address}");
                Some(handle)
            }
        };
        Ok(Self { main, ops, tasks })
    }

    /// Ends when a server does that was not told to.
    async fn ended(self) -> RunError {
        ended_early(select_all(self.tasks).await.0)
    }
}

/// An HTTP server of one listener, made from the parts of the framework's own: that one would offer HTTP/2 to clients that
/// speak TLS, and has time limits for few states of a connection.
fn listen(
    config: &Config,
    listener: TcpListener,
    tls: Option<TlsSettings>,
    services: &Services,
    side: Side,
) -> io::Result<Server> {
    let (services, settings, limits) = (services.clone(), &config.server, connection::Limits::new(config));
    let workers = settings.http_workers.max(1);
    // The supervisor of a connection decides how long it is kept.
    let keep_alive = if settings.keep_alive.is_zero() { KeepAlive::Disabled } else { KeepAlive::Os };
    let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
    let server = Server::build();
    let stopping = server.graceful_shutdown_signal();
    let service = move || {
        let configure = |app: &mut web::ServiceConfig| {
            services.configure(app, side);
            if tls.is_some() {
                app.app_data(Encrypted);
            }
        };
        let app = App::new()
            .configure(configure)
            .wrap(from_fn(share))
            .wrap(from_fn(observe))
            // Outermost, so that a stray slash is gone before routing: a redirect would turn a POST into a GET.
            .wrap(NormalizePath::trim());
        let stopping = stopping.clone();
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(keep_alive)
            .client_request_timeout(Duration::ZERO)
            // By default a client that closes its side still keeps its place in the queue.
            .h1_allow_half_closed(false)
            .on_connect_ext(|stream: &connection::Stream, data| drop(data.insert(stream.connection())))
            .h1(map_config(app.into_factory(), |()| AppConfig::default())
                .map_err(|error: ActixError| error.error_response()));
        connection::serve(http, tls.clone(), limits, services.metrics.get_ref().clone())
    };
    Ok(server
        .workers(workers)
        // The framework counts for each worker.
        .max_concurrent_connections(settings.max_connections.div_ceil(workers))
        .disable_signals()
        .shutdown_timeout(settings.drain_timeout.as_secs_f64().ceil() as u64)
        .listen("http", listener, service)?
        .run())
}

fn ended_early(ended: Result<io::Result<()>, JoinError>) -> RunError {
    RunError::Ended(match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(error) => Some(io::Error::other(error)),
    })
}
