//! Suggestions for unknown keys, flags and variables.

use super::setting::Setting;

/// Former names of settings: the key with its table, the flag in the spelling of keys, and the present key. Where only
/// the flag has changed, both keys are the same.
const RENAMED: [(&str, &str, &str); 17] = [
    ("onnxruntime", "onnxruntime", "onnxruntime_path"),
    ("server.client_timeout", "client_timeout", "server.client_header_timeout"),
    ("server.grace_pause", "grace_pause", "server.shutdown_delay"),
    ("limits.body_memory", "body_memory", "limits.max_buffered_body_bytes"),
    ("limits.redis_down", "limits_redis_down", "limits.redis_failure_mode"),
    ("cache.redis_url", "redis_url", "cache.redis_url"),
    ("cache.redis_timeout", "redis_timeout", "cache.redis_timeout"),
    ("cache.redis_ttl", "redis_ttl", "cache.redis_ttl"),
    ("auth.keys_file", "api_keys_file", "auth.api_keys_file"),
    ("log.filter", "log", "log.filter"),
    ("models.workers", "workers", "models.onnx_sessions"),
    ("models.overlong", "overlong", "models.truncation"),
    ("models.matryoshka", "matryoshka", "models.matryoshka_dimensions"),
    ("models.batch_tokens", "batch_tokens", "models.max_batch_tokens"),
    ("models.batch_inputs", "batch_inputs", "models.max_batch_inputs"),
    ("models.queue_tokens", "queue_tokens", "models.max_queue_tokens"),
    ("models.window", "window", "models.max_input_tokens"),
];

/// Names that other servers have for `listen` or a part of it. `--host` and `--port` are flags here, too.
const LISTEN_ELSEWHERE: [&str; 5] = ["port", "host", "hostname", "bind", "address"];

/// Likeness below which a known name is not suggested.
const MIN_SIMILARITY: f64 = 0.55;

/// Returns the present name of the key `key`, if it was renamed.
pub(super) fn renamed_key(key: &str) -> Option<&'static str> {
    let renamed = RENAMED.iter().find(|(old, _, new)| *old == key && old != new);
    renamed.map(|(.., new)| *new)
}

/// Returns the setting whose flag or variable had the name `flag`, in the spelling of keys.
pub(crate) fn renamed_flag(
    flag: &str,
    settings: impl IntoIterator<Item = &'static Setting>,
) -> Option<&'static Setting> {
    let (.., new) = RENAMED.iter().find(|(_, old, _)| *old == flag)?;
    settings.into_iter().find(|setting| setting.qualified_key() == *new)
}

/// Returns the present setting for `name`, if other servers call it so.
pub(crate) fn known_elsewhere(name: &str) -> Option<&'static str> {
    LISTEN_ELSEWHERE.contains(&name).then_some("listen")
}

/// Returns the known name that is most like `name`, if any is. Its last part counts, for a key in the wrong table is as
/// frequent a mistake as a misspelt one; the table decides between equals.
pub(super) fn nearest<'known>(name: &str, known: &'known [String]) -> Option<&'known str> {
    fn last(name: &str) -> &str {
        name.rsplit('.').next().unwrap_or(name)
    }
    if let Some(meant) = known_elsewhere(name.strip_prefix("server.").unwrap_or(name)) {
        return Some(meant);
    }
    let similarity = |candidate: &str| {
        let of_last = strsim::normalized_damerau_levenshtein(last(name), last(candidate));
        (of_last, strsim::normalized_damerau_levenshtein(name, candidate))
    };
    let similar = known.iter().map(|candidate| (similarity(candidate), candidate));
    let similar = similar.filter(|((of_last, _), _)| *of_last > MIN_SIMILARITY);
    similar
        .max_by(|(a, _), (b, _)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)))
        .map(|(_, candidate)| candidate.as_str())
}
