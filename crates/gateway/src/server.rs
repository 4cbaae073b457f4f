//! The server, from bound listeners to the last joined thread.

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
use rustls::ServerConfig as TlsSettings;
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    background::{BackgroundThread, spawn_detached},
    config::Config,
    connection,
    cors::cors_middleware,
    load::{LoadError, load},
    metrics::Metrics,
    middleware::observe,
    registry::Registry,
    routes::RouteSet,
    run_error::RunError,
    services::Services,
    tls::{self, IsTls},
};

/// Delay between the close of the listener and the stop of the workers. A connection that was accepted just before may
/// not have reached its worker, which drops such connections when it stops.
const ACCEPT_DRAIN_DELAY: Duration = Duration::from_millis(50);

/// Maximum number of connections to the listener for probes and metrics.
const MAX_OPS_CONNECTIONS: usize = 256;

/// Sockets that the server listens on.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub main: TcpListener,
    /// For probes and metrics, which the main listener then does not serve.
    pub ops: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(main: TcpListener) -> Self {
        Self { main, ops: None }
    }
}

/// Serves `config` on `listeners` until `stop` yields, then drains. Each further item of `stop` ends the current wait:
/// the shutdown delay, the drain, or the wait for the engines' last batches. If the first item comes during the start,
/// the current step gets `drain_timeout` to end, or the time until the next item. Requires a tokio runtime with time.
///
/// # Errors
/// If a model cannot be served, a listener cannot be used, the start does not end in time, or a further item ends the
/// drain. A drained shutdown is `Ok`.
pub async fn run(
    config: Config,
    listeners: impl Into<Listeners>,
    stop: impl Stream<Item = ()>,
) -> Result<(), RunError> {
    let settings = config.clone();
    run_with(config, listeners, stop, move |metrics, cancelled| load(&settings, metrics, cancelled)).await
}

/// [`run`] with other models than those of the settings. `load` runs on a thread of its own, gets the metrics for its
/// engines, and should return early once the flag is set.
///
/// # Errors
/// Those of [`run`].
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
        () = stop_requested(&mut stop) => {
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
        () = stop_requested(&mut stop) => {
            // No request was admitted yet, so only the current model's load has to end.
            cancelled.store(true, Ordering::Release);
            handle.stop(false).await;
            let loaded = loading.abandon(config.server.drain_timeout, &mut stop).await;
            stop_ops(ops).await;
            // Outside the macro, which does not evaluate its arguments if the level is disabled.
            let outcome = loaded?.err().map(|error| error.to_string());
            tracing::info!(outcome, "stopped while loading");
            return Ok(());
        }
    };
    let opened = loaded
        .and_then(|loaded| Ok(loaded?))
        .and_then(|registry| services.open(registry, &url, ops_address, started.elapsed()));
    if let Err(error) = opened {
        handle.stop(false).await;
        stop_ops(ops).await;
        return Err(error);
    }

    tokio::select! {
        ended = &mut serving => return Err(ended),
        () = stop_requested(&mut stop) => {}
    }
    tracing::info!(
        delay = config.server.shutdown_delay.as_secs_f64(),
        "shutting down: /readyz fails from now on"
    );
    services.lifecycle.drain();
    tokio::select! {
        () = sleep(config.server.shutdown_delay) => {}
        () = stop_requested(&mut stop) => tracing::info!("second stop request: the shutdown delay ends"),
    }
    handle.pause().await;
    sleep(ACCEPT_DRAIN_DELAY).await;
    let stopping = handle.stop(true);
    let drained = tokio::select! {
        () = stopping => true,
        () = stop_requested(&mut stop) => {
            tracing::warn!("further stop request: the drain ends and requests in flight are dropped");
            false
        }
    };
    let (closing, close_started) = (services.close(config.server.drain_timeout), Instant::now());
    let closed = tokio::select! {
        has_ended = closing => {
            if !has_ended {
                stop_ops(ops).await;
                let waited = close_started.elapsed();
                return Err(RunError::StartHangs { step: "loading or unloading a model", waited });
            }
            true
        }
        () = stop_requested(&mut stop) => {
            tracing::warn!("further stop request: batches in the engines are abandoned");
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

/// Waits for the next request to stop; forever if the stream has ended.
async fn stop_requested(stop: &mut (impl FusedStream<Item = ()> + Unpin)) {
    if stop.next().await.is_none() {
        pending::<()>().await;
    }
}

/// Services and certificates, which are opened before the servers start.
struct Opened {
    services: Services,
    tls: Option<(TlsSettings, BackgroundThread)>,
    /// Stopped when this is dropped.
    _threads: [Option<BackgroundThread>; 2],
}

impl Opened {
    fn new(config: &Config) -> Result<Self, RunError> {
        let (services, threads) = Services::new(config)?;
        let tls = config.tls.as_ref().map(tls::open).transpose()?;
        Ok(Self { services, tls, _threads: threads })
    }
}

/// A step of the start, on a thread of its own, because it reads files and a read may never end.
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

    /// Waits up to `limit` for the step's end, or until the next request to stop.
    async fn abandon(
        mut self,
        limit: Duration,
        stop: &mut (impl FusedStream<Item = ()> + Unpin),
    ) -> Result<T, RunError> {
        let (step, started) = (self.name, Instant::now());
        tokio::select! {
            result = self.result() => return result,
            () = sleep(limit) => {}
            () = stop_requested(stop) => {}
        }
        Err(RunError::StartHangs { step, waited: started.elapsed() })
    }
}

/// Stops the listener for probes and metrics. It is stopped last, so that it can report the whole shutdown.
async fn stop_ops(ops: Option<ServerHandle>) {
    if let Some(ops) = ops {
        ops.stop(false).await;
    }
}

/// The running HTTP servers.
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
        let routes = if ops.is_some() { RouteSet::Api } else { RouteSet::All };
        let server = listen(config, main, tls, services, routes)?;
        let main = server.handle();
        let mut tasks = vec![tokio::spawn(server)];
        let ops = match ops {
            None => None,
            Some(listener) => {
                let address = listener.local_addr()?;
                // A thread and connections of its own, so that probes are answered when the main listener is busy.
                let mut config = config.clone();
                config.server.http_workers = 1;
                config.server.max_connections = MAX_OPS_CONNECTIONS;
                config.server.drain_timeout = Duration::ZERO;
                let server = listen(&config, listener, None, services, RouteSet::Ops)?;
                let handle = server.handle();
                tasks.push(tokio::spawn(server));
                tracing::info!("metrics and probes on http://{address}");
                Some(handle)
            }
        };
        Ok(Self { main, ops, tasks })
    }

    /// Waits for a server that ends without a request to stop.
    async fn ended(self) -> RunError {
        ended_early(select_all(self.tasks).await.0)
    }
}

/// Starts the HTTP server of one listener, assembled from the framework's parts. The framework's own server offers
/// HTTP/2 to clients with TLS, and has timeouts for few states of a connection (docs/adr/0014).
fn listen(
    config: &Config,
    listener: TcpListener,
    tls: Option<TlsSettings>,
    services: &Services,
    routes: RouteSet,
) -> io::Result<Server> {
    let (services, settings, limits) = (services.clone(), &config.server, connection::Limits::new(config));
    let workers = settings.http_workers.max(1);
    // The connection's supervisor decides how long an idle connection is kept.
    let keep_alive = if settings.keep_alive.is_zero() { KeepAlive::Disabled } else { KeepAlive::Os };
    let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
    let server = Server::build();
    let stopping = server.graceful_shutdown_signal();
    let service = move || {
        let configure = |app: &mut web::ServiceConfig| {
            services.configure(app, routes);
            if tls.is_some() {
                app.app_data(IsTls);
            }
        };
        let app = App::new()
            .configure(configure)
            .wrap(from_fn(cors_middleware))
            .wrap(from_fn(observe))
            // Outermost, to remove a trailing slash before routing: a redirect would turn a POST into a GET.
            .wrap(NormalizePath::trim());
        let stopping = stopping.clone();
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(keep_alive)
            .client_request_timeout(Duration::ZERO)
            // By default, a client that closes its side keeps its place in the queue.
            .h1_allow_half_closed(false)
            .on_connect_ext(|stream: &connection::Stream, data| drop(data.insert(stream.connection())))
            .h1(map_config(app.into_factory(), |()| AppConfig::default())
                .map_err(|error: ActixError| error.error_response()));
        connection::serve(http, tls.clone(), limits, services.metrics.get_ref().clone())
    };
    Ok(server
        .workers(workers)
        // The framework's limit is per worker.
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
