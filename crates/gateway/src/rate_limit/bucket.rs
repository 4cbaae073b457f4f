//! Token buckets of this process: two for each caller, one for requests and one for tokens.
//!
//! A bucket holds one minute's limit and refills steadily at that rate (docs/adr/0010). A request debits both buckets
//! or neither. Its exact cost is known later, so a level may fall below zero; then the caller waits until the debt is
//! refilled. `bucket.lua` does the same arithmetic in Redis.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Seconds in which an empty bucket refills.
const REFILL_SECONDS: f64 = 60.0;

/// Rounding tolerance: a client that waits exactly `retry-after` must be admitted.
const EPSILON: f64 = 1e-6;

/// Requests and tokens, of a limit, a level or a cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) requests: f64,
    pub(crate) tokens: f64,
}

/// Unit of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitKind {
    Requests,
    Tokens,
}

/// Requests and tokens per minute for each caller, which are also the capacities of its buckets; 0 for no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateLimits(pub(crate) Counts);

/// A bucket that holds less than a request costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Exceeded {
    pub(crate) kind: LimitKind,
    pub(crate) limit: f64,
    pub(crate) level: f64,
    pub(crate) cost: f64,
    /// Time until the bucket holds enough.
    pub(crate) retry_after: Duration,
}

impl Counts {
    fn zip_with(self, other: Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        Self { requests: combine(self.requests, other.requests), tokens: combine(self.tokens, other.tokens) }
    }
}

impl RateLimits {
    /// Returns true if requests or tokens are limited.
    pub(crate) fn is_limited(self) -> bool {
        self.0 != Counts::default()
    }

    /// The part of a cost that is limited.
    pub(crate) fn cost(self, requests: f64, tokens: f64) -> Counts {
        self.0.zip_with(Counts { requests, tokens }, |limit, cost| if limit == 0.0 { 0.0 } else { cost })
    }

    /// The levels after `elapsed`.
    fn refill(self, levels: Counts, elapsed: Duration) -> Counts {
        let minutes = elapsed.as_secs_f64() / REFILL_SECONDS;
        self.0.zip_with(levels, |limit, level| limit.min(level + limit * minutes))
    }

    /// The levels after `cost` is debited. A negative cost is a refund, which never exceeds the capacity.
    pub(crate) fn debit(self, levels: Counts, cost: Counts) -> Counts {
        self.0.zip_with(levels.zip_with(cost, |level, cost| level - cost), f64::min)
    }

    /// The bucket that makes a request of this cost wait longest, or `None` if it is admitted. A full bucket admits any
    /// cost, because a cost is an estimate: the engine rejects a request that is too large by its exact tokens.
    pub(crate) fn exceeded(self, levels: Counts, cost: Counts) -> Option<Exceeded> {
        let check = |kind, limit: f64, level, cost| {
            let missing = limit.min(cost) - level;
            (missing > EPSILON).then(|| {
                let retry_after =
                    Duration::try_from_secs_f64(missing / limit * REFILL_SECONDS).unwrap_or(Duration::MAX);
                Exceeded { kind, limit, level, cost, retry_after }
            })
        };
        let requests = check(LimitKind::Requests, self.0.requests, levels.requests, cost.requests);
        let tokens = check(LimitKind::Tokens, self.0.tokens, levels.tokens, cost.tokens);
        [requests, tokens].into_iter().flatten().max_by_key(|exceeded| exceeded.retry_after)
    }
}

/// The buckets of all callers of this process.
pub(crate) struct LocalBuckets {
    limits: RateLimits,
    callers: Mutex<HashMap<u64, Bucket>>,
}

struct Bucket {
    levels: Counts,
    updated: Instant,
}

impl LocalBuckets {
    pub(crate) fn new(limits: RateLimits) -> Self {
        Self { limits, callers: Mutex::default() }
    }

    /// Debits `cost` if the buckets hold enough, and returns the levels after that.
    ///
    /// # Errors
    /// The unchanged levels, if a bucket holds less.
    pub(crate) fn try_debit(&self, caller: u64, cost: Counts, now: Instant) -> Result<Counts, Counts> {
        self.update(caller, now, |limits, levels| match limits.exceeded(*levels, cost) {
            Some(_) => Err(*levels),
            None => {
                *levels = limits.debit(*levels, cost);
                Ok(*levels)
            }
        })
    }

    /// Debits `cost` even if the buckets hold less, or refunds a negative one. Returns the levels after that.
    pub(crate) fn debit(&self, caller: u64, cost: Counts, now: Instant) -> Counts {
        self.update(caller, now, |limits, levels| {
            *levels = limits.debit(*levels, cost);
            *levels
        })
    }

    fn update<T>(&self, caller: u64, now: Instant, change: impl FnOnce(RateLimits, &mut Counts) -> T) -> T {
        let mut callers = self.callers();
        if !callers.contains_key(&caller) {
            // A missing caller has full buckets, so full ones need not be stored.
            callers.retain(|_, bucket| {
                self.limits.refill(bucket.levels, now.saturating_duration_since(bucket.updated))
                    != self.limits.0
            });
        }
        let bucket = callers.entry(caller).or_insert(Bucket { levels: self.limits.0, updated: now });
        bucket.levels = self.limits.refill(bucket.levels, now.saturating_duration_since(bucket.updated));
        bucket.updated = bucket.updated.max(now);
        change(self.limits, &mut bucket.levels)
    }

    fn callers(&self) -> MutexGuard<'_, HashMap<u64, Bucket>> {
        // No panic can leave a change half done.
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(requests: f64, tokens: f64) -> LocalBuckets {
        LocalBuckets::new(RateLimits(Counts { requests, tokens }))
    }

    fn cost(requests: f64, tokens: f64) -> Counts {
        Counts { requests, tokens }
    }

    #[test]
    fn a_full_bucket_admits_a_burst_and_then_the_refill_rate() {
        let (buckets, start) = (buckets(6.0, 0.0), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let admit = |at| buckets.try_debit(1, cost(1.0, 0.0), at).is_ok();
        assert_eq!([0; 7].map(|_| admit(start)), [true, true, true, true, true, true, false]);
        assert!(!admit(after(9)));
        assert!(admit(after(10)) && !admit(after(10)));
        assert_eq!([0; 7].map(|_| admit(after(600))), [true, true, true, true, true, true, false]);
        // Threads may report times out of order: an earlier time refills nothing twice.
        assert!(!admit(after(9)) && !admit(after(600)));
    }

    #[test]
    fn either_bucket_can_reject_and_a_rejection_debits_neither() {
        let (buckets, now) = (buckets(2.0, 100.0), Instant::now());
        assert_eq!(buckets.try_debit(1, cost(1.0, 90.0), now), Ok(cost(1.0, 10.0)));
        assert_eq!(buckets.try_debit(1, cost(1.0, 11.0), now), Err(cost(1.0, 10.0)));
        assert_eq!(buckets.try_debit(1, cost(1.0, 10.0), now), Ok(cost(0.0, 0.0)));
        assert_eq!(buckets.try_debit(1, cost(1.0, 0.0), now), Err(cost(0.0, 0.0)));
        // Another caller has its own buckets.
        assert!(buckets.try_debit(2, cost(1.0, 100.0), now).is_ok());
    }

    #[test]
    fn a_late_debit_is_a_debt_and_a_refund_stops_at_the_capacity() {
        let (buckets, now) = (buckets(0.0, 60.0), Instant::now());
        assert_eq!(buckets.try_debit(1, cost(0.0, 10.0), now), Ok(cost(0.0, 50.0)));
        assert_eq!(buckets.debit(1, cost(0.0, 80.0), now), cost(0.0, -30.0));
        let levels = buckets.try_debit(1, cost(0.0, 6.0), now).unwrap_err();
        let exceeded = buckets.limits.exceeded(levels, cost(0.0, 6.0)).unwrap();
        assert_eq!((exceeded.kind, exceeded.retry_after), (LimitKind::Tokens, Duration::from_secs(36)));
        assert!(buckets.try_debit(1, cost(0.0, 6.0), now + Duration::from_secs(36)).is_ok());
        assert_eq!(buckets.debit(1, cost(0.0, -1000.0), now), cost(0.0, 60.0));
    }

    #[test]
    fn a_full_bucket_admits_any_estimate() {
        let (buckets, now) = (buckets(0.0, 60.0), Instant::now());
        assert_eq!(buckets.try_debit(1, cost(0.0, 600.0), now), Ok(cost(0.0, -540.0)));
        assert!(buckets.try_debit(1, cost(0.0, 1.0), now).is_err());
    }

    #[test]
    fn an_unlimited_unit_is_never_exceeded() {
        let limits = RateLimits(Counts { requests: 0.0, tokens: 5.0 });
        assert_eq!(limits.cost(7.0, 2.0), cost(0.0, 2.0));
        assert!(limits.is_limited() && !RateLimits(Counts::default()).is_limited());
        assert_eq!(limits.exceeded(cost(0.0, 5.0), limits.cost(1e9, 5.0)), None);
    }

    #[test]
    fn callers_with_full_buckets_are_not_stored() {
        let (buckets, start) = (buckets(60.0, 0.0), Instant::now());
        for caller in 0..100 {
            buckets.debit(caller, cost(1.0, 0.0), start);
        }
        buckets.debit(100, cost(60.0, 0.0), start);
        buckets.debit(101, cost(1.0, 0.0), start + Duration::from_secs(2));
        let mut left: Vec<u64> = buckets.callers().keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [100, 101]);
    }
}
