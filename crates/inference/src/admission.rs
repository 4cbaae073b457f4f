//! Who may enter: the queue's capacity in tokens, and whether a deadline can be met.
//!
//! A job reserves an upper estimate of its tokens before any work is done on it, all or nothing, and settles
//! for the exact number once it is tokenized. A reservation is given back when it is dropped.
//!
//! A caller with a name cannot fill the queue: its last quarter is for those who hold little of it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::SubmitError;

/// Weight of the newest batch in the moving average of the pace.
const PACE_WEIGHT: f64 = 0.1;

/// How many times as long as expected a job may take without being late. Whoever comes later takes turns with it, and
/// the pace is an average: a server that let in what it could only just finish would, under a steady overload, finish
/// next to nothing in time (`cargo xtask survive overload`).
const MARGIN: f64 = 1.5;

/// Turns of a job for which it is foreseen that newcomers will keep the queue as full as it is: each turn then costs a round
/// of all that wait. What a longer job will meet later on is anybody's guess.
const FORESEEN: usize = 4;

/// The part of the capacity, one in so many, that is kept for callers who hold at most half as much.
const KEPT: usize = 4;

/// Shared counters of one engine.
#[derive(Debug)]
pub(crate) struct Admission {
    limit: usize,
    /// Tokens of one turn.
    turn: usize,
    tokens: AtomicUsize,
    /// Tokens of each caller with a name, where there are any.
    held: Mutex<HashMap<u64, usize>>,
    jobs: AtomicUsize,
    running: AtomicUsize,
    /// Tokens a second over all workers, as the bits of an f64; 0 until the first batch.
    pace: AtomicU64,
}

impl Admission {
    /// Room for `limit` tokens, of which jobs get `turn` at a time.
    pub(crate) fn new(limit: usize, turn: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            turn: turn.max(1),
            tokens: AtomicUsize::new(0),
            held: Mutex::default(),
            jobs: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            pace: AtomicU64::new(0),
        })
    }

    /// Reserves `tokens` for `caller`, or says why not.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        caller: u64,
        tokens: usize,
        deadline: Instant,
    ) -> Result<Reservation, SubmitError> {
        if tokens > self.limit {
            return Err(SubmitError::TooLarge { tokens, limit: self.limit });
        }
        let wait = self.wait(tokens);
        let left = deadline.saturating_duration_since(Instant::now());
        let needed = wait.saturating_add(self.time_for(tokens));
        // An idle engine lets every legal request in: nobody could do better by it.
        let needed = if self.jobs() == 0 { Duration::ZERO } else { needed };
        if needed.as_secs_f64() * MARGIN > left.as_secs_f64() {
            let late = needed.saturating_sub(left.div_f64(MARGIN));
            return Err(SubmitError::TooLate { retry_after: whole_seconds(late) });
        }
        // Nobody's jobs are not counted one by one.
        let mut held = (caller != 0).then(|| self.held());
        let own = held.as_ref().and_then(|held| held.get(&caller)).copied().unwrap_or(0);
        let kept = self.limit / KEPT;
        let limit = if caller == 0 || own + tokens <= kept / 2 { self.limit } else { self.limit - kept };
        let reserved = self.tokens.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            // One request may always be as large as the queue, if it has the queue for itself.
            taken.checked_add(tokens).filter(|&sum| sum <= limit || taken == 0)
        });
        if reserved.is_err() {
            return Err(SubmitError::Full { retry_after: self.retry_after() });
        }
        if let Some(held) = &mut held {
            held.insert(caller, own + tokens);
        }
        self.jobs.fetch_add(1, Ordering::AcqRel);
        Ok(Reservation { admission: Arc::clone(self), caller, tokens, running: false })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        // Nothing here panics halfway through a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job of `caller` that held `before` tokens now holds `after`.
    fn change(&self, caller: u64, before: usize, after: usize) {
        if after >= before {
            self.tokens.fetch_add(after - before, Ordering::AcqRel);
        } else {
            self.tokens.fetch_sub(before - after, Ordering::AcqRel);
        }
        if caller != 0 {
            let mut held = self.held();
            let own = held.get(&caller).copied().unwrap_or(0) + after - before;
            if own == 0 {
                held.remove(&caller);
            } else {
                held.insert(caller, own);
            }
        }
    }

    /// Expected wait of a job of `tokens`. Jobs take turns, so those ahead cost it no more than either all
    /// that is left of them or as much as the job itself needs, each. If it needs several turns, others will have come
    /// before the next, and go first.
    fn wait(&self, tokens: usize) -> Duration {
        let (waiting, jobs) = (self.tokens(), self.jobs());
        let ahead = waiting.min(jobs.saturating_mul(tokens));
        let round = waiting.min(jobs.saturating_mul(tokens.min(self.turn)));
        let turns = tokens.div_ceil(self.turn).min(FORESEEN);
        self.time_for(ahead.max(round * turns))
    }

    fn time_for(&self, tokens: usize) -> Duration {
        let pace = f64::from_bits(self.pace.load(Ordering::Relaxed));
        if pace > 0.0 {
            Duration::try_from_secs_f64(tokens as f64 / pace).unwrap_or(Duration::MAX)
        } else {
            Duration::ZERO
        }
    }

    /// When about half of what is in flight will be done, from 1 s to 60 s.
    pub(crate) fn retry_after(&self) -> Duration {
        whole_seconds(self.time_for(self.tokens() / 2))
    }

    /// Somebody ran `tokens` in `elapsed`, while there was room for `alike` to do so.
    pub(crate) fn observe_pace(&self, tokens: usize, elapsed: Duration, alike: f64) {
        let seconds = elapsed.as_secs_f64();
        if tokens == 0 || seconds <= 0.0 {
            return;
        }
        let now = tokens as f64 / seconds * alike;
        let before = f64::from_bits(self.pace.load(Ordering::Relaxed));
        let pace = if before > 0.0 { before + (now - before) * PACE_WEIGHT } else { now };
        // Two workers may overwrite each other's sample; the average does not need every one.
        self.pace.store(pace.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Tokens reserved at present.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens.load(Ordering::Acquire)
    }

    /// Jobs that hold a reservation.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs.load(Ordering::Acquire)
    }

    /// Of these, jobs of which at least one sequence reached an encoder.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }
}

/// Rounds up to whole seconds between 1 and 60, as `retry-after` is sent.
fn whole_seconds(wait: Duration) -> Duration {
    Duration::from_secs((wait.as_secs_f64().ceil() as u64).clamp(1, 60))
}

/// A job's tokens in the queue's account.
#[derive(Debug)]
pub(crate) struct Reservation {
    admission: Arc<Admission>,
    caller: u64,
    tokens: usize,
    running: bool,
}

impl Reservation {
    /// Replaces the estimate by the exact number, which is nearly always smaller. Where it is larger (text
    /// that grows in normalisation) the account follows, beyond the limit if need be: the job is admitted.
    pub(crate) fn settle(&mut self, tokens: usize) {
        self.admission.change(self.caller, self.tokens, tokens);
        self.tokens = tokens;
    }

    /// The job's first sequence reached an encoder.
    pub(crate) fn run(&mut self) {
        if !std::mem::replace(&mut self.running, true) {
            self.admission.running.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.admission.change(self.caller, self.tokens, 0);
        if self.running {
            self.admission.running.fetch_sub(1, Ordering::AcqRel);
        }
        self.admission.jobs.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn all_or_nothing_and_given_back() {
        let admission = Admission::new(100, 100);
        let first = admission.reserve(0, 60, soon()).unwrap();
        assert!(matches!(admission.reserve(0, 41, soon()), Err(SubmitError::Full { .. })));
        assert_eq!((admission.tokens(), admission.jobs()), (60, 1));
        let second = admission.reserve(0, 40, soon()).unwrap();
        drop((first, second));
        assert_eq!((admission.tokens(), admission.jobs()), (0, 0));
        assert_eq!(
            admission.reserve(0, 101, soon()).unwrap_err(),
            SubmitError::TooLarge { tokens: 101, limit: 100 }
        );
    }

    #[test]
    fn settling_follows_the_exact_number() {
        let admission = Admission::new(100, 100);
        let mut reservation = admission.reserve(0, 60, soon()).unwrap();
        reservation.settle(10);
        assert_eq!(admission.tokens(), 10);
        reservation.settle(120);
        assert_eq!(admission.tokens(), 120);
        reservation.run();
        reservation.run();
        assert_eq!(admission.running(), 1);
        drop(reservation);
        assert_eq!((admission.tokens(), admission.running()), (0, 0));
    }

    #[test]
    fn a_hopeless_deadline_is_refused_at_once() {
        let admission = Admission::new(100_000, 100_000);
        admission.observe_pace(1_000, Duration::from_secs(1), 1.0);
        // Five jobs with 5,000 tokens each: 25 s of work.
        let patient = Instant::now() + Duration::from_secs(3600);
        let held: Vec<_> = (0..5).map(|_| admission.reserve(0, 5_000, patient).unwrap()).collect();
        // A small job takes its turn and is done long before.
        assert!(admission.reserve(0, 100, soon()).is_ok());
        let refused = admission.reserve(0, 5_000, soon()).unwrap_err();
        assert!(
            // Until 6⅔ s are left of 30: then it would be let in.
            matches!(refused, SubmitError::TooLate { retry_after } if (23..=24).contains(&retry_after.as_secs())),
            "{refused:?}"
        );
        assert_eq!(admission.retry_after(), Duration::from_secs(13));
        drop(held);
        assert_eq!(admission.retry_after(), Duration::from_secs(1));
    }

    /// Ten seconds hold 13 jobs of half a second each, one and a half times.
    #[test]
    fn who_is_let_in_has_time_to_spare() {
        let admission = Admission::new(100_000, 100_000);
        admission.observe_pace(1_000, Duration::from_secs(1), 1.0);
        let held: Vec<_> = (0..100).map_while(|_| admission.reserve(0, 500, soon()).ok()).collect();
        assert_eq!(held.len(), 13);
        let refused = admission.reserve(0, 500, soon()).unwrap_err();
        assert_eq!(refused, SubmitError::TooLate { retry_after: Duration::from_secs(1) });
        drop(held);
        assert!(admission.reserve(0, 100_000, soon()).is_ok(), "nobody else is there");
    }

    /// Who needs several turns waits for as many rounds of a queue that newcomers keep full.
    #[test]
    fn every_turn_costs_a_round() {
        let admission = Admission::new(100_000, 250);
        admission.observe_pace(1_000, Duration::from_secs(1), 1.0);
        let wait = |tokens| admission.wait(tokens).as_secs_f64();
        // 20 jobs of one turn each: a round is 5 s.
        let patient = Instant::now() + Duration::from_secs(3600);
        let held: Vec<_> = (0..20).map(|_| admission.reserve(0, 250, patient).unwrap()).collect();
        assert_eq!([wait(100), wait(250), wait(251), wait(500), wait(750)], [2.0, 5.0, 10.0, 10.0, 15.0]);
        // Of a job of a hundred turns, a few are foreseen.
        assert_eq!(wait(25_000), 20.0);
        drop(held);
        // A single large job: each of its turns costs the newcomer no more than the newcomer's costs it.
        let _held = admission.reserve(0, 50_000, patient).unwrap();
        assert_eq!([wait(250), wait(500), wait(5_000)], [0.25, 0.5, 5.0]);
    }

    #[test]
    fn the_last_quarter_is_for_those_who_hold_little() {
        let admission = Admission::new(800, 800);
        let mut held: Vec<_> = (0..6).map(|_| admission.reserve(1, 100, soon()).unwrap()).collect();
        assert!(matches!(admission.reserve(1, 100, soon()), Err(SubmitError::Full { .. })));
        // Others find room, as much as is kept for the like of them.
        held.push(admission.reserve(2, 100, soon()).unwrap());
        assert!(matches!(admission.reserve(2, 100, soon()), Err(SubmitError::Full { .. })));
        held.push(admission.reserve(3, 100, soon()).unwrap());
        assert!(matches!(admission.reserve(4, 1, soon()), Err(SubmitError::Full { .. })), "it is full");
        drop(held);
        assert_eq!((admission.tokens(), admission.held().len()), (0, 0));
        // What has the queue for itself may fill it, and so may those without a name.
        drop(admission.reserve(1, 800, soon()).unwrap());
        let _half = admission.reserve(0, 400, soon()).unwrap();
        assert!(admission.reserve(0, 400, soon()).is_ok());
    }
}
