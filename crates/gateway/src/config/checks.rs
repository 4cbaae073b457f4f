//! Checks of settings against each other, and of values that only have a meaning elsewhere.

use std::path::{Component, Path};
use std::time::Duration;

use bert_cpu::Isa;
use inference::TruncationPolicy;
use tracing_subscriber::EnvFilter;

use super::Config;
use super::settings::{API_KEYS, AuthConfig, LimitsConfig, ModelConfig};
use super::types::{Bytes, KeepAlive, LoadTime, MaxIsa};
use super::urls::{CollectorUrl, RedisUrl};
use super::value::format_duration;

/// Idle time below which a client's connection pool may reuse a connection in the moment it is closed.
const SAFE_KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Returns what cannot work.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let Config { limits, cache, .. } = config;
    let mut problems = Vec::new();
    if limits.max_buffered_body_bytes.0 < limits.max_body_bytes {
        let (memory, largest) = (limits.max_buffered_body_bytes, Bytes(limits.max_body_bytes));
        problems.push(format!(
            "`limits.max_buffered_body_bytes` is {memory}, but one body may have {largest}: raise it or lower \
             `limits.max_body_bytes`"
        ));
    }
    for (table, url) in [("limits", &limits.redis_url), ("cache", &cache.redis_url)] {
        if let Some(fault) = url.as_ref().and_then(RedisUrl::fault) {
            problems.push(format!("`{table}.redis_url` {fault}"));
        }
    }
    let AuthConfig { keys, admin_keys, .. } = &config.auth;
    if let Some(admin) = admin_keys.iter().find(|admin| keys.iter().any(|key| key.sha256 == admin.sha256)) {
        problems.push(format!(
            "the key `{}` of `auth.admin_keys` is in `auth.api_keys`, too: clients must not have an admin key",
            admin.name
        ));
    }
    problems.extend(config.cors.origins.faults());
    if let Err(error) = EnvFilter::try_new(&config.log.filter) {
        let filter = &config.log.filter;
        problems
            .push(format!("`log.filter` is `{filter}` ({error}): write a level, or `info,gateway=debug`"));
    }
    if let Some(fault) = config.trace.otlp_endpoint.as_ref().and_then(CollectorUrl::fault) {
        problems.push(format!("`trace.otlp_endpoint` {fault}"));
    }
    if let Err(error) = model_hub::check_address(&config.hub.endpoint) {
        problems.push(format!("`hub.endpoint` (HF_ENDPOINT): {error}"));
    }
    problems.extend(config.models.iter().flat_map(|model| of_model(model, limits)));
    problems
}

/// Returns what cannot work about a model, as far as its folder need not be read.
fn of_model(model: &ModelConfig, limits: &LimitsConfig) -> Vec<String> {
    let mut problems = Vec::new();
    let id = &model.id;
    if let MaxIsa::At(isa) = model.isa
        && !isa.is_of_this_architecture()
    {
        let native = Isa::ALL.into_iter().rev().filter(|isa| isa.is_of_this_architecture());
        let native = native.map(|isa| format!("`{isa}`")).collect::<Vec<_>>().join(", ");
        problems.push(format!(
            "`isa` of model `{id}` is `{isa}`, which no {} CPU has: write `auto`, {native} or `none`",
            std::env::consts::ARCH
        ));
    }
    let stays_inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    if let Some(path) = model.onnx_file.as_deref().filter(|path| !stays_inside(path)) {
        problems.push(format!(
            "`onnx_file` of model `{id}` is `{}`: it must be a path inside the model's folder, such as \
             onnx/model_quantized.onnx",
            path.display()
        ));
    }
    // Averaging reads all of a text, so only where texts are truncated does the maximum bound a request.
    let truncated = model.max_input_tokens.filter(|_| model.truncation != TruncationPolicy::Average);
    let most = truncated.map_or(usize::MAX, |tokens| tokens.saturating_mul(limits.max_inputs));
    let needed = limits.max_request_tokens.min(most);
    let max_queue_tokens = model.max_queue_tokens;
    if max_queue_tokens < needed {
        problems.push(format!(
            "`max_queue_tokens` of model `{id}` is {max_queue_tokens}, but one request may have {needed} tokens: raise \
             `max_queue_tokens` or lower `limits.max_request_tokens`"
        ));
    }
    problems
}

/// Returns what works, but probably not as intended.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let Config { listen, limits, auth, .. } = config;
    let mut warnings = Vec::new();
    let unused = |model: &&ModelConfig| {
        model.load == LoadTime::Startup && matches!(model.keep_alive, KeepAlive::For(_))
    };
    if let Some(model) = config.models.iter().find(unused) {
        warnings.push(format!(
            "`keep_alive` of model `{}` has no effect, because its `load` is `startup`: only models with \
             `load = \"on-demand\"` are unloaded",
            model.id
        ));
    }
    let keep_alive = config.server.keep_alive;
    if keep_alive < SAFE_KEEP_ALIVE {
        warnings.push(format!(
            "`server.keep_alive` is {}, below {}: a client may reuse a connection in the moment it is closed",
            format_duration(keep_alive),
            format_duration(SAFE_KEEP_ALIVE),
        ));
    }
    if limits.redis_url.is_some() && limits.key_requests_per_minute == 0 && limits.key_tokens_per_minute == 0
    {
        warnings.push(
            "`limits.redis_url` is set, but neither `limits.key_requests_per_minute` nor \
             `limits.key_tokens_per_minute`: nothing is limited"
                .to_owned(),
        );
    }
    if !listen.ip().is_loopback() && auth.keys.is_empty() && auth.api_keys_file.is_none() {
        let variable = API_KEYS.variable_name().unwrap_or_default();
        warnings.push(format!(
            "listening on {listen} without API keys: any client that reaches this address is served; set {variable} or \
             `auth.api_keys_file`"
        ));
    }
    warnings
}
