//! What the app's parts are made of: built once from the settings, shared by all threads and both listeners.

use std::time::Duration;

use actix_web::web::{Data, ServiceConfig};

use crate::{
    auth::Keys,
    background::{Background, spawn_detached},
    body::BodyLimits,
    budget::ByteBudget,
    config::{Config, Origins},
    lifecycle::Lifecycle,
    limits::KeyLimits,
    load::Choice,
    metrics::{Metrics, ModelInfo},
    registry::{Registry, Served},
    request::RequestLimits,
    response::ResponseMemory,
    routes::{self, Side},
    server::RunError,
    trace::Tracing,
};

/// One of each; a clone is another handle on the same.
#[derive(Clone)]
pub(crate) struct Services {
    keys: Data<Keys>,
    origins: Data<Origins>,
    key_limits: Data<KeyLimits>,
    body: Data<BodyLimits>,
    requests: Data<RequestLimits>,
    pub(crate) lifecycle: Data<Lifecycle>,
    pub(crate) metrics: Data<Metrics>,
    tracing: Data<Tracing>,
}

impl Services {
    /// The services, and the threads that work for them.
    pub(crate) fn new(config: &Config) -> Result<(Self, [Option<Background>; 2]), RunError> {
        let time = config.server.request_timeout;
        let metrics = Metrics::new(config.models.iter().map(|model| model.id.as_str()));
        let (keys, watch) = Keys::open(&config.auth)?;
        let (limits, errands) =
            KeyLimits::start(&config.limits, metrics.limits()).map_err(RunError::Limits)?;
        let services = Self {
            keys: Data::new(keys),
            origins: Data::new(config.cors.clone()),
            key_limits: Data::new(limits),
            body: Data::new(BodyLimits::new(
                config.limits.max_body_bytes,
                time,
                ByteBudget::new(config.limits.body_memory.0, metrics.bodies()),
            )),
            requests: Data::new(RequestLimits {
                limits: config.limits.clone(),
                time,
                responses: ResponseMemory::new(
                    config.limits.max_buffered_response_bytes.0,
                    metrics.responses(),
                ),
            }),
            lifecycle: Data::new(Lifecycle::default()),
            metrics: Data::new(metrics),
            tracing: Data::new(Tracing::new(&config.trace).map_err(RunError::Trace)?),
        };
        Ok((services, [watch, errands]))
    }

    pub(crate) fn configure(&self, app: &mut ServiceConfig, side: Side) {
        app.app_data(self.keys.clone())
            .app_data(self.origins.clone())
            .app_data(self.key_limits.clone())
            .app_data(self.body.clone())
            .app_data(self.requests.clone())
            .app_data(self.lifecycle.clone())
            .app_data(self.metrics.clone())
            .app_data(self.tracing.clone());
        routes::configure(app, side);
    }

    /// Lets requests in, and says so.
    pub(crate) fn open(&self, registry: Registry, url: &str, elapsed: Duration) {
        let describe = |served: &Served| {
            let Served { id, dimensions, provider, precision, choice, .. } = served;
            let (precision, Choice { kernels, why }) = (precision.name(), choice);
            format!("{id} · {dimensions} dimensions · {provider} {precision} {kernels} ({})", why.words())
        };
        let models: Vec<_> = registry.models().map(describe).collect();
        let name = |(alias, served): (&str, &Served)| format!("{alias} → {}", served.id);
        let aliases: Vec<_> = registry.aliases().map(name).collect();
        for served in registry.models() {
            self.metrics.model_loaded(&ModelInfo {
                model: &served.id,
                revision: &served.fingerprint,
                dtype: served.precision.name(),
                provider: served.provider,
                choice: served.choice,
                dimensions: served.dimensions,
                max_tokens: served.window,
                load_time: served.load_time,
            });
        }
        // Before the line below: whoever waits for it may send at once.
        self.lifecycle.open(registry);
        let seconds = elapsed.as_secs_f64();
        tracing::info!("listening on {url} · {} · ready in {seconds:.1} s", models.join(" · "));
        if !aliases.is_empty() {
            tracing::info!("aliases: {}", aliases.join(", "));
        }
    }

    /// Takes the models out of service and joins their threads.
    pub(crate) async fn close(&self) {
        let Some(registry) = self.lifecycle.close() else { return };
        let tracing = self.tracing.clone();
        // Detached: a batch that never ends must not hold a process that is told again to stop.
        let closing = spawn_detached("close", move || {
            registry.stop();
            tracing.shutdown();
        });
        match closing {
            Ok(closing) => {
                if closing.await.is_err() {
                    tracing::error!("stopping the engines or the traces panicked");
                }
            }
            Err(error) => tracing::error!(%error, "cannot start a thread to stop the engines"),
        }
    }
}
