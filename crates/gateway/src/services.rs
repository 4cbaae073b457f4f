//! State of the application: built once from the settings, shared by all threads and both listeners.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use actix_web::web::{Data, ServiceConfig};

use crate::{
    auth::{AdminKeys, Keys},
    background::{BackgroundThread, spawn_detached},
    body::BodyLimits,
    budget::ByteBudget,
    config::{Config, Origins, PathPrefix},
    lifecycle::Lifecycle,
    metrics::Metrics,
    openapi::ApiDocument,
    rate_limit::RateLimiter,
    registry::{ModelSlot, Registry},
    request::{DefaultModel, RequestLimits},
    response::ResponseMemory,
    routes::{self, RouteSet, home::HomePage},
    run_error::RunError,
    tokenize_queue::TokenizeQueue,
    trace::Tracing,
    usage::{UsageLedger, unix_time},
};

/// Shared state; a clone is another handle to the same.
#[derive(Clone)]
pub(crate) struct Services {
    keys: Data<Keys>,
    admin_keys: Data<AdminKeys>,
    origins: Data<Origins>,
    rate_limiter: Data<RateLimiter>,
    body: Data<BodyLimits>,
    requests: Data<RequestLimits>,
    pub(crate) lifecycle: Data<Lifecycle>,
    pub(crate) metrics: Data<Metrics>,
    tracing: Data<Tracing>,
    usage: Data<UsageLedger>,
    path_prefix: Data<PathPrefix>,
    default_model: Data<DefaultModel>,
    home_page: Option<Data<HomePage>>,
    document: Data<ApiDocument>,
}

impl Services {
    /// Builds the services. Returns the threads that work for them, too.
    pub(crate) fn new(config: &Config) -> Result<(Self, [Option<BackgroundThread>; 2]), RunError> {
        let time = config.server.request_timeout;
        let metrics = Metrics::new(config.models.iter().map(|model| model.id.as_str()));
        let (keys, key_watcher) = Keys::open(&config.auth)?;
        let (rate_limiter, limiter_thread) =
            RateLimiter::start(&config.limits, metrics.rate_limiter()).map_err(RunError::Limits)?;
        let services = Self {
            keys: Data::new(keys),
            admin_keys: Data::new(AdminKeys::new(&config.auth)),
            origins: Data::new(config.cors.origins.clone()),
            rate_limiter: Data::new(rate_limiter),
            body: Data::new(BodyLimits::new(
                config.limits.max_body_bytes,
                time,
                ByteBudget::new(config.limits.max_buffered_body_bytes.0, metrics.bodies()),
            )),
            requests: Data::new(RequestLimits {
                limits: config.limits.clone(),
                timeout: time,
                compress: config.server.compress_responses,
                responses: ResponseMemory::new(
                    config.limits.max_buffered_response_bytes.0,
                    metrics.responses(),
                ),
                tokenize: TokenizeQueue::default(),
            }),
            lifecycle: Data::new(Lifecycle::default()),
            metrics: Data::new(metrics),
            tracing: Data::new(Tracing::new(&config.trace).map_err(RunError::Trace)?),
            usage: Data::new(UsageLedger::new(unix_time())),
            path_prefix: Data::new(config.server.path_prefix.clone()),
            default_model: Data::new(DefaultModel { id: config.default_model.clone() }),
            document: Data::new(ApiDocument::new(&config.server.path_prefix)),
            home_page: config.server.home_page.then(|| Data::new(HomePage::new(config.ops_listen.is_some()))),
        };
        Ok((services, [key_watcher, limiter_thread]))
    }

    pub(crate) fn configure(&self, app: &mut ServiceConfig, routes: RouteSet) {
        app.app_data(self.keys.clone())
            .app_data(self.admin_keys.clone())
            .app_data(self.origins.clone())
            .app_data(self.rate_limiter.clone())
            .app_data(self.body.clone())
            .app_data(self.requests.clone())
            .app_data(self.lifecycle.clone())
            .app_data(self.metrics.clone())
            .app_data(self.tracing.clone())
            .app_data(self.usage.clone())
            .app_data(self.path_prefix.clone())
            .app_data(self.default_model.clone())
            .app_data(self.document.clone());
        if let Some(page) = &self.home_page {
            app.app_data(page.clone());
        }
        routes::configure(app, routes, &self.path_prefix, self.home_page.is_some());
    }

    /// Puts the models into service, and logs it. `ops` is the address of the second listener, if there is one.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(crate) fn open(
        &self,
        registry: Registry,
        url: &str,
        ops: Option<SocketAddr>,
        elapsed: Duration,
    ) -> Result<(), RunError> {
        let describe = |model: &Arc<ModelSlot>| match model.loaded() {
            Some(loaded) => loaded.describe(),
            None => format!("{} · loaded on demand", model.id()),
        };
        let models: Vec<_> = registry.models().map(describe).collect();
        let name = |(alias, model): (&str, &Arc<ModelSlot>)| format!("{alias} → {}", model.id());
        let aliases: Vec<_> = registry.aliases().map(name).collect();
        registry.start_idle_unloader().map_err(RunError::Thread)?;
        // Before the line below: a client that waits for it may send a request at once.
        self.lifecycle.open(registry);
        tracing::info!("{}", self.protections(url, ops));
        let seconds = elapsed.as_secs_f64();
        tracing::info!("listening on {url} · {} · ready in {seconds:.1} s", models.join(" · "));
        if !aliases.is_empty() {
            tracing::info!("aliases: {}", aliases.join(", "));
        }
        Ok(())
    }

    /// Describes in one line which protections are on.
    fn protections(&self, url: &str, ops: Option<SocketAddr>) -> String {
        let keys = if self.keys.is_required() { self.keys.count().to_string() } else { "off".to_owned() };
        let limits = self.rate_limiter.describe();
        let cors = match self.origins.count() {
            0 => "off".to_owned(),
            _ if self.origins.is_any() => "every origin".to_owned(),
            1 => "1 origin".to_owned(),
            count => format!("{count} origins"),
        };
        let tls = if url.starts_with("https://") { "on" } else { "off" };
        let ops = ops.map_or_else(|| "on the main address".to_owned(), |ops| format!("on {ops}"));
        format!("API keys: {keys} · limits: {limits} · CORS: {cors} · TLS: {tls} · metrics and probes: {ops}")
    }

    /// Takes the models out of service and joins their threads. Yields false if a model's load or unload did not end
    /// within `grace`.
    pub(crate) fn close(&self, grace: Duration) -> impl Future<Output = bool> + use<> {
        let registry = self.lifecycle.close();
        let tracing = self.tracing.clone();
        // Started now, not when the future is polled, and detached: a batch that never ends must not hold up a process
        // that gets a second signal.
        let closing = registry.map(|registry| {
            spawn_detached("close", move || {
                let has_ended = registry.stop(grace);
                tracing.shutdown();
                has_ended
            })
        });
        async move {
            let ended = match closing {
                None => Ok(true),
                Some(Ok(closing)) => {
                    closing.await.map_err(|_| "stopping the engines or the traces panicked".to_owned())
                }
                Some(Err(error)) => Err(format!("cannot start a thread to stop the engines: {error}")),
            };
            ended.unwrap_or_else(|error| {
                tracing::error!("{error}");
                true
            })
        }
    }
}
