//! Rate limiter: requests and tokens per minute for each caller, with token buckets. It knows nothing of HTTP.
//!
//! A request is admitted by an estimate of its tokens, which is debited immediately, so that concurrent requests cannot
//! spend one bucket twice. The permit later settles the difference to the exact number. If a Redis server is
//! configured, its buckets decide for all gateways together. The local buckets are debited too, for the time when Redis
//! is unavailable (docs/adr/0010).

mod bucket;
mod redis;

use std::{io, time::Instant};

use inference::CallerId;

use self::{
    bucket::LocalBuckets,
    redis::{DebitResult, RedisRateLimiter},
};
use crate::{
    background::BackgroundThread,
    config::{LimitsConfig, RedisFailureMode},
    metrics::RedisMetrics,
};

pub(crate) use bucket::{Counts, Exceeded, LimitKind, RateLimits};

/// The limits of all callers.
pub(crate) struct RateLimiter {
    limits: RateLimits,
    local: LocalBuckets,
    redis: Option<RedisRateLimiter>,
    failure_mode: RedisFailureMode,
}

/// Limits and levels of a caller at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateLimitStatus {
    pub(crate) limits: RateLimits,
    pub(crate) levels: Counts,
}

/// Reason why a request was not admitted.
#[derive(Debug)]
pub(crate) enum RateLimitError {
    /// A bucket holds too little. `exceeded` is `None` if it is short by less than the rounded levels show.
    Exceeded { status: RateLimitStatus, exceeded: Option<Exceeded> },
    /// Redis is unavailable, and the failure mode is to reject.
    Unavailable,
}

/// An admitted request, and the debit that was made for it.
#[must_use = "the debit is an estimate until it is settled"]
pub(crate) struct RateLimitPermit<'a>(Option<Charge<'a>>);

struct Charge<'a> {
    limiter: &'a RateLimiter,
    caller: u64,
    /// Debited tokens.
    estimate: f64,
    levels: Counts,
    /// True if Redis admitted the request.
    is_shared: bool,
}

impl RateLimiter {
    /// Creates the limiter. Shared limits work while the returned thread lives.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(crate) fn start(
        config: &LimitsConfig,
        metrics: RedisMetrics,
    ) -> io::Result<(Self, Option<BackgroundThread>)> {
        let limits = RateLimits(Counts {
            requests: config.key_requests_per_minute as f64,
            tokens: config.key_tokens_per_minute as f64,
        });
        let url = config.redis_url.as_ref().filter(|_| limits.is_limited());
        let redis =
            url.map(|url| RedisRateLimiter::start(url, config.redis_timeout, limits, metrics)).transpose()?;
        let (redis, thread) = redis.unzip();
        let local = LocalBuckets::new(limits);
        Ok((Self { limits, local, redis, failure_mode: config.redis_failure_mode }, thread))
    }

    /// Returns true if callers have limits.
    pub(crate) fn is_limited(&self) -> bool {
        self.limits.is_limited()
    }

    /// Description of the limits for the log line at start-up.
    pub(crate) fn describe(&self) -> String {
        let RateLimits(Counts { requests, tokens }) = self.limits;
        let describe = |limit: f64, unit| (limit > 0.0).then(|| format!("{limit} {unit}"));
        let limits: Vec<_> =
            [describe(requests, "requests"), describe(tokens, "tokens")].into_iter().flatten().collect();
        match (limits.is_empty(), &self.redis) {
            (true, _) => "off".to_owned(),
            (_, None) => format!("{} per minute", limits.join(" and ")),
            (_, Some(_)) => format!("{} per minute, counted in Redis", limits.join(" and ")),
        }
    }

    /// Admits one request of `caller` with about `estimate` tokens, and debits both.
    ///
    /// # Errors
    /// If a bucket holds too little, or Redis is unavailable and the failure mode is to reject.
    pub(crate) async fn acquire(
        &self,
        caller: Option<CallerId>,
        estimate: usize,
    ) -> Result<RateLimitPermit<'_>, RateLimitError> {
        if !self.limits.is_limited() {
            return Ok(RateLimitPermit(None));
        }
        // Without keys, all requests share the buckets of caller 0.
        let caller = caller.map_or(0, |CallerId(id)| id);
        let cost = self.limits.cost(1.0, estimate as f64);
        let shared = match &self.redis {
            Some(redis) => redis.try_debit(caller, cost).await,
            None => None,
        };
        let is_shared = shared.is_some();
        let DebitResult { allowed, levels } = match shared {
            Some(result) => {
                if result.allowed {
                    self.local.debit(caller, cost, Instant::now());
                }
                result
            }
            None if self.redis.is_some() && self.failure_mode == RedisFailureMode::FailClosed => {
                return Err(RateLimitError::Unavailable);
            }
            None => {
                let debited = self.local.try_debit(caller, cost, Instant::now());
                DebitResult { allowed: debited.is_ok(), levels: debited.unwrap_or_else(|levels| levels) }
            }
        };
        if !allowed {
            let status = RateLimitStatus { limits: self.limits, levels };
            return Err(RateLimitError::Exceeded { status, exceeded: self.limits.exceeded(levels, cost) });
        }
        Ok(RateLimitPermit(Some(Charge { limiter: self, caller, estimate: cost.tokens, levels, is_shared })))
    }
}

impl RateLimitError {
    /// Limits and levels of the caller, if they are known.
    pub(crate) fn status(&self) -> Option<RateLimitStatus> {
        match self {
            Self::Exceeded { status, .. } => Some(*status),
            Self::Unavailable => None,
        }
    }
}

impl RateLimitPermit<'_> {
    /// Limits and levels after the debit; `None` if nothing is limited.
    pub(crate) fn status(&self) -> Option<RateLimitStatus> {
        self.0.as_ref().map(|charge| RateLimitStatus { limits: charge.limiter.limits, levels: charge.levels })
    }

    /// Debits or refunds the difference between the estimate and `tokens`, the exact number: 0 for a request that was
    /// rejected or failed. A permit that is dropped instead keeps its debit. Returns the new levels.
    pub(crate) fn settle(self, tokens: u64) -> Option<RateLimitStatus> {
        self.0.map(|charge| charge.settle(tokens as f64))
    }
}

impl Charge<'_> {
    fn settle(self, tokens: f64) -> RateLimitStatus {
        let RateLimiter { limits, local, redis, .. } = self.limiter;
        let cost = limits.cost(0.0, tokens - self.estimate);
        let mut levels = local.debit(self.caller, cost, Instant::now());
        if let Some(redis) = redis.as_ref().filter(|_| self.is_shared) {
            // Computed here instead of awaiting the response, which the client would wait for.
            levels = limits.debit(self.levels, cost);
            if cost.tokens != 0.0 {
                redis.debit(self.caller, cost);
            }
        }
        RateLimitStatus { limits: *limits, levels }
    }
}
