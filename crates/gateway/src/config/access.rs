//! Merging who may ask, and for how much.

use super::merge::{Key, Merge, pick};
use super::report::{Shown, Source, Table};
use super::resolve::Problem;
use super::surroundings::API_KEYS_VARIABLE;
use super::{ApiKey, AuthConfig, Bytes, LimitsConfig};

/// Room for a few hundred vectors of common sizes. The size of the largest answer is known only once models are loaded.
const MIN_BUFFERED_RESPONSE_BYTES: Bytes = Bytes(1 << 20);

impl Merge<'_> {
    pub(super) fn auth(&mut self) -> AuthConfig {
        let from_environment = match &self.surroundings.api_keys {
            None => None,
            Some(secret) => match secret.0.to_str() {
                Some(text) => Some(ApiKey::entries(text)),
                None => {
                    self.problems.push(Problem::ApiKeysNotText);
                    None
                }
            },
        };
        let (entries, source) = match (from_environment, self.file.api_keys.take()) {
            (Some(keys), _) => (keys, Source::Environment(API_KEYS_VARIABLE.to_owned())),
            (None, Some(keys)) => (keys, self.file_source()),
            (None, None) => (Vec::new(), Source::Default),
        };
        let keys = ApiKey::read_all(&entries).unwrap_or_else(|error| {
            self.problems.push(error.into());
            Vec::new()
        });
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        let shown = match names.len() {
            0 => Shown::Toml("[]".to_owned()),
            count => Shown::Secret(format!("{count} ({})", names.join(", "))),
        };
        self.note(Table::Named("auth"), "api_keys", shown, source);
        let key = Key { table: Table::Named("auth"), name: "api_keys_file", arg: "api_keys_file" };
        let (flag, file) = (&self.flags.settings.auth, self.file.settings.auth.clone());
        AuthConfig {
            keys,
            api_keys_file: self.pick_optional(key, flag.api_keys_file.clone(), file.api_keys_file),
        }
    }

    pub(super) fn limits(&mut self, builtin: &LimitsConfig) -> LimitsConfig {
        let (flags, file) = (&self.flags.settings.limits, self.file.settings.limits.clone());
        let table = Table::Named("limits");
        let key = |name, arg| Key { table, name, arg };
        let limits = LimitsConfig {
            max_inputs: pick!(self, table, flags, file, builtin, max_inputs),
            max_request_tokens: pick!(self, table, flags, file, builtin, max_request_tokens),
            max_body_bytes: pick!(self, table, flags, file, builtin, max_body_bytes),
            max_buffered_body_bytes: pick!(self, table, flags, file, builtin, max_buffered_body_bytes),
            unsupported_parameters: pick!(self, table, flags, file, builtin, unsupported_parameters),
            max_buffered_response_bytes: pick!(
                self,
                table,
                flags,
                file,
                builtin,
                max_buffered_response_bytes
            ),
            key_requests_per_minute: pick!(self, table, flags, file, builtin, key_requests_per_minute),
            key_tokens_per_minute: pick!(self, table, flags, file, builtin, key_tokens_per_minute),
            redis_url: self.pick_optional(
                key("redis_url", "limits_redis_url"),
                flags.redis_url.clone(),
                file.redis_url.clone(),
            ),
            redis_timeout: self.pick(
                key("redis_timeout", "limits_redis_timeout"),
                flags.redis_timeout,
                file.redis_timeout,
                builtin.redis_timeout,
            ),
            redis_failure_mode: self.pick(
                key("redis_failure_mode", "limits_redis_failure_mode"),
                flags.redis_failure_mode,
                file.redis_failure_mode,
                builtin.redis_failure_mode,
            ),
        };
        if limits.max_buffered_body_bytes.0 < limits.max_body_bytes {
            let (memory, largest) = (limits.max_buffered_body_bytes, Bytes(limits.max_body_bytes));
            self.problems.push(Problem::SmallBodyMemory { memory, largest });
        }
        if limits.max_buffered_response_bytes.0 < MIN_BUFFERED_RESPONSE_BYTES.0 {
            self.problems.push(Problem::SmallResponseMemory {
                memory: limits.max_buffered_response_bytes,
                least: MIN_BUFFERED_RESPONSE_BYTES,
            });
        }
        self.prove_shared(&limits);
        limits
    }

    /// What can be proved about limits that several servers share.
    fn prove_shared(&mut self, limits: &LimitsConfig) {
        let LimitsConfig { redis_url: Some(url), .. } = limits else { return };
        self.problems.extend(Problem::of_redis(url, "limits"));
        if limits.redis_timeout.is_zero() {
            self.problems.push(Problem::LimitsRedisTimeout);
        }
        if limits.key_requests_per_minute == 0 && limits.key_tokens_per_minute == 0 {
            self.warnings.push(
                "`limits.redis_url` is set, but neither `limits.key_requests_per_minute` nor \
                 `limits.key_tokens_per_minute`: nothing is limited"
                    .to_owned(),
            );
        }
    }
}
