//! Settings that had another name before 0.1.0: the error about an old name says the new one.

/// A setting that was renamed.
struct Renamed {
    /// Former key of the settings file with its table, or the present key if only flag and variable were renamed.
    key: &'static str,
    /// Former flag and variable, in the spelling of keys.
    flag: &'static str,
    /// Present key.
    new_key: &'static str,
    /// Present flag and variable, in the spelling of keys.
    new_flag: &'static str,
}

const fn renamed(
    key: &'static str,
    flag: &'static str,
    new_key: &'static str,
    new_flag: &'static str,
) -> Renamed {
    Renamed { key, flag, new_key, new_flag }
}

const RENAMED: [Renamed; 17] = [
    renamed("onnxruntime", "onnxruntime", "onnxruntime_path", "onnxruntime_path"),
    renamed(
        "server.client_timeout",
        "client_timeout",
        "server.client_header_timeout",
        "client_header_timeout",
    ),
    renamed("server.grace_pause", "grace_pause", "server.shutdown_delay", "shutdown_delay"),
    renamed("limits.body_memory", "body_memory", "limits.max_buffered_body_bytes", "max_buffered_body_bytes"),
    renamed(
        "limits.redis_down",
        "limits_redis_down",
        "limits.redis_failure_mode",
        "limits_redis_failure_mode",
    ),
    renamed("cache.redis_url", "redis_url", "cache.redis_url", "cache_redis_url"),
    renamed("cache.redis_timeout", "redis_timeout", "cache.redis_timeout", "cache_redis_timeout"),
    renamed("cache.redis_ttl", "redis_ttl", "cache.redis_ttl", "cache_redis_ttl"),
    renamed("auth.keys_file", "api_keys_file", "auth.api_keys_file", "api_keys_file"),
    renamed("log.filter", "log", "log.filter", "log_filter"),
    renamed("models.workers", "workers", "models.onnx_sessions", "onnx_sessions"),
    renamed("models.overlong", "overlong", "models.truncation", "truncation"),
    renamed("models.matryoshka", "matryoshka", "models.matryoshka_dimensions", "matryoshka_dimensions"),
    renamed("models.batch_tokens", "batch_tokens", "models.max_batch_tokens", "max_batch_tokens"),
    renamed("models.batch_inputs", "batch_inputs", "models.max_batch_inputs", "max_batch_inputs"),
    renamed("models.queue_tokens", "queue_tokens", "models.max_queue_tokens", "max_queue_tokens"),
    renamed("models.window", "window", "models.max_input_tokens", "max_input_tokens"),
];

/// Returns the present name of the key `old` of the settings file, if it was renamed.
pub(super) fn renamed_key(old: &str) -> Option<&'static str> {
    RENAMED.iter().find(|renamed| renamed.key == old && renamed.new_key != old).map(|renamed| renamed.new_key)
}

/// Returns the present name of the flag or variable `old`, if it was renamed; both in the spelling of keys.
pub(crate) fn renamed_flag(old: &str) -> Option<&'static str> {
    RENAMED
        .iter()
        .find(|renamed| renamed.flag == old && renamed.new_flag != old)
        .map(|renamed| renamed.new_flag)
}
