//! How much of its minute a key has left, in this process: two buckets that fill steadily.
//!
//! A bucket holds what one minute allows and fills at that pace. A request takes from both or from none. What it
//! really cost is known later, so a level may be driven below zero; then the key waits. The script beside this file
//! does the same arithmetic in Redis.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The time in which an empty bucket fills, in seconds.
const MINUTE: f64 = 60.0;

/// Less than this is nothing: whoever waited as long as it was told shall not fail by a rounding.
const GRAIN: f64 = 1e-6;

/// Requests and tokens: what a key may use a minute, what it has left, or what something costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Amounts {
    pub(crate) requests: f64,
    pub(crate) tokens: f64,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Requests,
    Tokens,
}

/// What a key may use a minute; 0 where that is not limited. Its size is also that of the bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates(pub(crate) Amounts);

/// Which bucket does not hold enough, and when it will.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shortage {
    pub(crate) kind: Kind,
    pub(crate) limit: f64,
    pub(crate) level: f64,
    pub(crate) cost: f64,
    pub(crate) wait: Duration,
}

impl Amounts {
    fn map2(self, other: Self, both: impl Fn(f64, f64) -> f64) -> Self {
        Self { requests: both(self.requests, other.requests), tokens: both(self.tokens, other.tokens) }
    }
}

impl Rates {
    /// Whether anything is limited.
    pub(crate) fn any(self) -> bool {
        self.0 != Amounts::default()
    }

    /// The cost of something, of which only what is limited counts.
    pub(crate) fn cost(self, requests: f64, tokens: f64) -> Amounts {
        self.0.map2(Amounts { requests, tokens }, |limit, cost| if limit == 0.0 { 0.0 } else { cost })
    }

    /// The levels after `elapsed`.
    fn filled(self, levels: Amounts, elapsed: Duration) -> Amounts {
        let minutes = elapsed.as_secs_f64() / MINUTE;
        self.0.map2(levels, |limit, level| limit.min(level + limit * minutes))
    }

    /// The levels once `cost` is taken; what is given back fills no bucket beyond its brim.
    pub(crate) fn less(self, levels: Amounts, cost: Amounts) -> Amounts {
        self.0.map2(levels.map2(cost, |level, cost| level - cost), f64::min)
    }

    /// The bucket that keeps a request of this cost waiting longest, if one does. A full bucket is enough for
    /// anything: whether a request is too large by itself is decided by its tokens, not by an estimate.
    pub(crate) fn shortage(self, levels: Amounts, cost: Amounts) -> Option<Shortage> {
        let short = |kind, limit: f64, level, cost| {
            let missing = limit.min(cost) - level;
            (missing > GRAIN).then(|| {
                let wait = Duration::try_from_secs_f64(missing / limit * MINUTE).unwrap_or(Duration::MAX);
                Shortage { kind, limit, level, cost, wait }
            })
        };
        let requests = short(Kind::Requests, self.0.requests, levels.requests, cost.requests);
        let tokens = short(Kind::Tokens, self.0.tokens, levels.tokens, cost.tokens);
        [requests, tokens].into_iter().flatten().max_by_key(|shortage| shortage.wait)
    }
}

/// The buckets of all callers of this process.
pub(crate) struct Buckets {
    rates: Rates,
    callers: Mutex<HashMap<u64, Bucket>>,
}

struct Bucket {
    levels: Amounts,
    at: Instant,
}

impl Buckets {
    pub(crate) fn new(rates: Rates) -> Self {
        Self { rates, callers: Mutex::default() }
    }

    /// Takes `cost` if there is enough; the levels after that.
    ///
    /// # Errors
    /// The levels as they are, where there is not.
    pub(crate) fn take(&self, caller: u64, cost: Amounts, now: Instant) -> Result<Amounts, Amounts> {
        self.with(caller, now, |rates, levels| match rates.shortage(*levels, cost) {
            Some(_) => Err(*levels),
            None => {
                *levels = rates.less(*levels, cost);
                Ok(*levels)
            }
        })
    }

    /// Takes `cost` whatever there is, or gives it back where it is negative; the levels after that.
    pub(crate) fn charge(&self, caller: u64, cost: Amounts, now: Instant) -> Amounts {
        self.with(caller, now, |rates, levels| {
            *levels = rates.less(*levels, cost);
            *levels
        })
    }

    fn with<T>(&self, caller: u64, now: Instant, change: impl FnOnce(Rates, &mut Amounts) -> T) -> T {
        let mut callers = self.callers();
        if !callers.contains_key(&caller) {
            // A full bucket is as good as none: keys that are gone, or rest, take no room.
            callers.retain(|_, bucket| {
                self.rates.filled(bucket.levels, now.saturating_duration_since(bucket.at)) != self.rates.0
            });
        }
        let bucket = callers.entry(caller).or_insert(Bucket { levels: self.rates.0, at: now });
        bucket.levels = self.rates.filled(bucket.levels, now.saturating_duration_since(bucket.at));
        bucket.at = bucket.at.max(now);
        change(self.rates, &mut bucket.levels)
    }

    fn callers(&self) -> MutexGuard<'_, HashMap<u64, Bucket>> {
        // Nothing panics halfway through a change.
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(requests: f64, tokens: f64) -> Buckets {
        Buckets::new(Rates(Amounts { requests, tokens }))
    }

    fn cost(requests: f64, tokens: f64) -> Amounts {
        Amounts { requests, tokens }
    }

    #[test]
    fn a_minutes_worth_may_come_at_once_and_then_at_its_pace() {
        let (buckets, start) = (buckets(6.0, 0.0), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let take = |at| buckets.take(1, cost(1.0, 0.0), at).is_ok();
        assert_eq!([0; 7].map(|_| take(start)), [true, true, true, true, true, true, false]);
        assert!(!take(after(9)));
        assert!(take(after(10)) && !take(after(10)));
        assert_eq!([0; 7].map(|_| take(after(600))), [true, true, true, true, true, true, false]);
        // Clocks of several threads: what was seen later counts, and nothing fills twice.
        assert!(!take(after(9)) && !take(after(600)));
    }

    #[test]
    fn either_bucket_refuses_and_a_refusal_takes_from_neither() {
        let (buckets, now) = (buckets(2.0, 100.0), Instant::now());
        assert_eq!(buckets.take(1, cost(1.0, 90.0), now), Ok(cost(1.0, 10.0)));
        assert_eq!(buckets.take(1, cost(1.0, 11.0), now), Err(cost(1.0, 10.0)));
        assert_eq!(buckets.take(1, cost(1.0, 10.0), now), Ok(cost(0.0, 0.0)));
        assert_eq!(buckets.take(1, cost(1.0, 0.0), now), Err(cost(0.0, 0.0)));
        // Others have their own.
        assert!(buckets.take(2, cost(1.0, 100.0), now).is_ok());
    }

    #[test]
    fn what_was_charged_too_late_is_a_debt_and_what_was_too_much_comes_back() {
        let (buckets, now) = (buckets(0.0, 60.0), Instant::now());
        assert_eq!(buckets.take(1, cost(0.0, 10.0), now), Ok(cost(0.0, 50.0)));
        assert_eq!(buckets.charge(1, cost(0.0, 80.0), now), cost(0.0, -30.0));
        let levels = buckets.take(1, cost(0.0, 6.0), now).unwrap_err();
        let shortage = buckets.rates.shortage(levels, cost(0.0, 6.0)).unwrap();
        assert_eq!((shortage.kind, shortage.wait), (Kind::Tokens, Duration::from_secs(36)));
        assert!(buckets.take(1, cost(0.0, 6.0), now + Duration::from_secs(36)).is_ok());
        assert_eq!(buckets.charge(1, cost(0.0, -1000.0), now), cost(0.0, 60.0));
    }

    #[test]
    fn a_full_bucket_is_enough_for_any_estimate() {
        let (buckets, now) = (buckets(0.0, 60.0), Instant::now());
        assert_eq!(buckets.take(1, cost(0.0, 600.0), now), Ok(cost(0.0, -540.0)));
        assert!(buckets.take(1, cost(0.0, 1.0), now).is_err());
    }

    #[test]
    fn what_is_not_limited_is_never_short() {
        let rates = Rates(Amounts { requests: 0.0, tokens: 5.0 });
        assert_eq!(rates.cost(7.0, 2.0), cost(0.0, 2.0));
        assert!(rates.any() && !Rates(Amounts::default()).any());
        assert_eq!(rates.shortage(cost(0.0, 5.0), rates.cost(1e9, 5.0)), None);
    }

    #[test]
    fn callers_who_rest_take_no_room() {
        let (buckets, start) = (buckets(60.0, 0.0), Instant::now());
        for caller in 0..100 {
            buckets.charge(caller, cost(1.0, 0.0), start);
        }
        buckets.charge(100, cost(60.0, 0.0), start);
        buckets.charge(101, cost(1.0, 0.0), start + Duration::from_secs(2));
        let mut left: Vec<u64> = buckets.callers().keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [100, 101]);
    }
}
