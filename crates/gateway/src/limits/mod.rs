//! What one key may use a minute, in requests and tokens: decided before the engine is asked, settled when the tokens
//! are known.
//!
//! A request is admitted by an estimate of its tokens, which is taken at once, so that many requests together cannot
//! pass one bucket; the difference to what it cost is charged or given back afterwards. Where a Redis server is
//! named, its buckets decide for all servers together; this process's own are kept in step for when it is away.

mod bucket;
mod shared;
mod standing;

use std::{
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, web::Data};

use self::{
    bucket::{Amounts, Buckets, Kind, Rates},
    shared::{Answer, Shared},
};
use crate::{
    background::Background,
    config::{LimitsConfig, RedisFailureMode},
    error::{ApiError, Code},
    metrics::RedisMetrics,
    middleware::Record,
};

pub(crate) use standing::Standing;

/// What a client is told to wait when nobody can say whether it may ask.
const AWAY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The limits of all keys; without keys, everybody shares one bucket.
pub(crate) struct KeyLimits {
    rates: Rates,
    buckets: Buckets,
    shared: Option<Shared>,
    when_down: RedisFailureMode,
}

/// A request that was let in, and what was taken for it.
#[must_use = "what was taken is an estimate until it is settled"]
pub(crate) struct Admission(Option<Taken>);

struct Taken {
    limits: Data<KeyLimits>,
    record: Rc<Record>,
    caller: u64,
    estimate: f64,
    levels: Amounts,
    /// Whether the shared buckets let it in.
    shared: bool,
}

impl KeyLimits {
    /// Limits by the settings. Shared ones work for as long as the second value lives.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        config: &LimitsConfig,
        metrics: RedisMetrics,
    ) -> io::Result<(Self, Option<Background>)> {
        let rates = Rates(Amounts {
            requests: config.key_requests_per_minute as f64,
            tokens: config.key_tokens_per_minute as f64,
        });
        let url = config.redis_url.as_ref().filter(|_| rates.any());
        let shared = url.map(|url| Shared::start(url, config.redis_timeout, rates, metrics)).transpose()?;
        let (shared, thread) = shared.unzip();
        Ok((
            Self { rates, buckets: Buckets::new(rates), shared, when_down: config.redis_failure_mode },
            thread,
        ))
    }

    /// Limits of a key in words, for the line at start-up.
    pub(crate) fn describe(&self) -> String {
        let Rates(Amounts { requests, tokens }) = self.rates;
        let of = |limit: f64, what| (limit > 0.0).then(|| format!("{limit} {what}"));
        let limits: Vec<_> = [of(requests, "requests"), of(tokens, "tokens")].into_iter().flatten().collect();
        match (limits.is_empty(), &self.shared) {
            (true, _) => "off".to_owned(),
            (_, None) => format!("{} a minute", limits.join(" and ")),
            (_, Some(_)) => format!("{} a minute, counted in Redis", limits.join(" and ")),
        }
    }

    async fn ask(&self, caller: u64, cost: Amounts) -> Option<Answer> {
        self.shared.as_ref()?.ask(caller, cost).await
    }

    fn refusal(&self, levels: Amounts, cost: Amounts, model: &str) -> ApiError {
        match self.rates.shortage(levels, cost) {
            Some(shortage) => {
                let code = match shortage.kind {
                    Kind::Requests => Code::TooManyRequests,
                    Kind::Tokens => Code::TooManyTokens,
                };
                ApiError::limited(code, standing::refusal(&shortage, model), shortage.wait)
            }
            // Refused there by a little more than these numbers show.
            None => ApiError::limited(Code::TooManyRequests, "Rate limit reached.", Duration::ZERO),
        }
    }
}

/// Lets a request of `caller` in that may cost `estimate` tokens. What the caller has left is noted in its record.
///
/// # Errors
/// 429 when there is not enough left, 503 when the shared limits are away and must not be passed over.
pub(crate) async fn admit(
    request: &HttpRequest,
    caller: u64,
    estimate: usize,
) -> Result<Admission, ApiError> {
    let limits = request.app_data::<Data<KeyLimits>>();
    let limits = limits.ok_or_else(|| ApiError::internal("the app was built without limits of keys"))?;
    let rates = limits.rates;
    if !rates.any() {
        return Ok(Admission(None));
    }
    let cost = rates.cost(1.0, estimate as f64);
    let (answer, shared) = match limits.ask(caller, cost).await {
        Some(answer) => {
            if answer.taken {
                limits.buckets.charge(caller, cost, Instant::now());
            }
            (answer, true)
        }
        None if limits.shared.is_some() && limits.when_down == RedisFailureMode::FailClosed => {
            return Err(ApiError::unavailable(Code::RateLimiterUnavailable, AWAY_RETRY_AFTER));
        }
        None => {
            let taken = limits.buckets.take(caller, cost, Instant::now());
            (Answer { taken: taken.is_ok(), levels: taken.unwrap_or_else(|levels| levels) }, false)
        }
    };
    let (levels, record) = (answer.levels, Record::of(request));
    record.set_standing(Standing { rates, levels });
    if !answer.taken {
        return Err(limits.refusal(levels, cost, record.model().unwrap_or_default()));
    }
    let (limits, estimate) = (limits.clone(), cost.tokens);
    Ok(Admission(Some(Taken { limits, record, caller, estimate, levels, shared })))
}

impl Admission {
    /// Charges what the request really cost: nothing where it was refused or failed. Without this, what was estimated
    /// stays taken.
    pub(crate) fn settle(self, tokens: u64) {
        if let Some(taken) = self.0 {
            let standing = taken.charge(tokens as f64 - taken.estimate);
            taken.record.set_standing(standing);
        }
    }
}

impl Taken {
    fn charge(&self, tokens: f64) -> Standing {
        let rates = self.limits.rates;
        let cost = rates.cost(0.0, tokens);
        let mut levels = self.limits.buckets.charge(self.caller, cost, Instant::now());
        if let Some(shared) = self.limits.shared.as_ref().filter(|_| self.shared) {
            // Nobody waits for that: what is left there is known well enough.
            levels = rates.less(self.levels, cost);
            if cost.tokens != 0.0 {
                shared.charge(self.caller, cost);
            }
        }
        Standing { rates, levels }
    }
}
