//! Admission in two steps: room for a request's memory at the door, room and time for its computation at the queue.
//!
//! The cost of a request is known only after the tokenizer, the cache and single-flight. So the door reserves the
//! footprint, the least that any job of that size holds, and judges the deadline by the time until the job is
//! tokenized. The queue reserves the tokens that the job adds to it, all or nothing, and judges the deadline by the
//! time to compute them: a job that adds none is never refused there. Dropping the [`Reservation`] gives both back.
//!
//! Under overload, tokenizing a job that is then refused is wasted work. If there is no room or no time for a job's
//! upper estimate, the job passes the door only while its caller has credit, which batches earn and such refusals spend
//! ([`Credits`]). Without credit the door refuses the job by the estimate.
//!
//! A caller with a name cannot fill either account: the last quarter is reserved for callers that hold little of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    SubmitError,
    credit::Credits,
    throughput::{Ewma, Throughput},
};

/// Expected times are multiplied by this before they are compared with a deadline. Later jobs take turns with the one
/// that is judged, and throughput is an average: under a steady overload, a server that admitted jobs without this
/// margin would finish almost none of them in time (`cargo xtask stress overload`).
const DEADLINE_SAFETY_FACTOR: f64 = 1.75;

/// Maximum number of a job's turns for which the forecast assumes that later jobs keep the queue as full as it is: each
/// of these turns costs a round of all waiting jobs. For later turns of a longer job no new jobs are predicted.
const MAX_PREDICTED_ROUNDS: usize = 4;

/// One part in this many of an account is reserved for callers that hold at most half of that part.
const RESERVED_FRACTION: usize = 4;

/// Bytes below which a sample says nothing about the tokenizer's throughput: overhead outweighs them.
const MIN_TOKENIZER_SAMPLE: usize = 1024;

/// Identifies a caller for quotas and for fair queueing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallerId(pub u64);

/// Resources of one engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// Tokens of each account.
    pub(crate) tokens: usize,
    /// Tokens of one turn: a full batch.
    pub(crate) quantum: usize,
    pub(crate) workers: usize,
    pub(crate) tokenizer_threads: usize,
}

/// Estimated cost of a job before it is tokenized.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Estimate {
    /// Upper bound of the job's tokens.
    pub(crate) tokens: usize,
    /// Cost in tokens even if all inputs are cached: their memory, and the time to tokenize them.
    pub(crate) footprint: usize,
    /// Bytes of text to tokenize.
    pub(crate) bytes: usize,
}

/// Tokens that a job needs from the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Tokens that it adds to the queue.
    pub(crate) new: usize,
    /// Tokens that it waits for: the new ones, and the queued ones that it shares with other jobs.
    pub(crate) total: usize,
    /// Tokens in the queue; a sequence that several jobs share counts once.
    pub(crate) queued: usize,
}

/// Tokens held by jobs, all together and by caller.
#[derive(Debug, Default)]
struct Account {
    tokens: usize,
    tokens_by_caller: HashMap<CallerId, usize>,
}

impl Account {
    /// Returns true if `caller` may hold `tokens` more, where all may hold `limit`.
    fn fits(&self, caller: Option<CallerId>, tokens: usize, limit: usize) -> bool {
        let own = caller.map(|caller| self.tokens_by_caller.get(&caller).copied().unwrap_or(0));
        let reserved = limit / RESERVED_FRACTION;
        let may_use_reserve = own.is_none_or(|own| own + tokens <= reserved / 2);
        let limit = if may_use_reserve { limit } else { limit - reserved };
        // A job may always fill an account that is otherwise empty.
        tokens == 0 || self.tokens == 0 || self.tokens.saturating_add(tokens) <= limit
    }

    fn add(&mut self, caller: Option<CallerId>, tokens: usize) {
        self.tokens += tokens;
        if let Some(caller) = caller
            && tokens > 0
        {
            *self.tokens_by_caller.entry(caller).or_default() += tokens;
        }
    }

    fn remove(&mut self, caller: Option<CallerId>, tokens: usize) {
        self.tokens -= tokens;
        if let Some(caller) = caller
            && let Some(own) = self.tokens_by_caller.get_mut(&caller)
        {
            *own -= tokens;
            if *own == 0 {
                self.tokens_by_caller.remove(&caller);
            }
        }
    }
}

#[derive(Debug)]
struct State {
    /// Footprints of all jobs that were admitted at the door.
    footprints: Account,
    /// Tokens that jobs added to the queue, until the jobs are over.
    computed: Account,
    jobs: usize,
    /// Jobs that added tokens to the queue. Those that only share the tokens of others delay no job.
    computing_jobs: usize,
    /// Jobs of which at least one sequence reached an encoder.
    running_jobs: usize,
    /// Bytes that wait for a tokenizer thread or are with one.
    bytes: usize,
    /// Credit of the callers for refusals after tokenizing.
    credits: Credits,
    throughput: Throughput,
    /// Bytes per second of one tokenizer thread.
    tokenizer_throughput: Ewma,
}

/// The accounts of one engine.
#[derive(Debug)]
pub(crate) struct Admission {
    capacity: Capacity,
    state: Mutex<State>,
}

impl Admission {
    pub(crate) fn new(capacity: Capacity) -> Arc<Self> {
        let state = State {
            footprints: Account::default(),
            computed: Account::default(),
            jobs: 0,
            computing_jobs: 0,
            running_jobs: 0,
            bytes: 0,
            credits: Credits::new(capacity.tokens),
            throughput: Throughput::new(capacity.quantum, capacity.workers),
            tokenizer_throughput: Ewma::default(),
        };
        Arc::new(Self { capacity, state: Mutex::new(state) })
    }

    /// Admits a job at the door: reserves its footprint.
    ///
    /// # Errors
    /// There is no room for the footprint, no time to tokenize it, or no credit and no room or time for its estimate.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        caller: Option<CallerId>,
        estimate: Estimate,
        deadline: Instant,
    ) -> Result<Reservation, SubmitError> {
        let Capacity { tokens: limit, .. } = self.capacity;
        let Estimate { tokens, footprint, bytes } = estimate;
        if footprint > limit {
            return Err(SubmitError::TooLarge { tokens: footprint, limit });
        }
        let mut state = self.lock();
        if state.bytes > 0 {
            check_time(self.tokenizing_time(&state, bytes), deadline)?;
        }
        if !state.footprints.fits(caller, footprint, limit) {
            return Err(SubmitError::Full { retry_after: state.retry_after() });
        }
        if !state.credits.covers(caller, footprint) {
            let worst = Demand { new: tokens, total: tokens, queued: 0 };
            self.check_queue(&state, caller, worst, deadline)?;
        }
        state.footprints.add(caller, footprint);
        state.bytes += bytes;
        state.jobs += 1;
        let admission = Arc::clone(self);
        Ok(Reservation { admission, caller, footprint, bytes, computed: 0, running: false })
    }

    /// Checks that the queue has room for `demand`, and time to compute it before `deadline`.
    fn check_queue(
        &self,
        state: &State,
        caller: Option<CallerId>,
        demand: Demand,
        deadline: Instant,
    ) -> Result<(), SubmitError> {
        // Sequences that a job shared outlive it in the queue, and no other job's reservation holds them.
        let waiting = demand.queued.max(state.computed.tokens);
        // An idle engine admits every legal job: on another server it would not finish earlier.
        if waiting > 0 {
            let tokens = self.tokens_until_done(waiting, state.computing_jobs.max(1), demand);
            check_time(state.throughput.time_for(tokens), deadline)?;
        }
        if !state.computed.fits(caller, demand.new, self.capacity.tokens) {
            return Err(SubmitError::Full { retry_after: state.retry_after() });
        }
        Ok(())
    }

    /// Tokens that are computed before a job with this demand is done, behind `jobs` with `waiting` tokens. Jobs take
    /// turns, so each job ahead delays this one by no more than its own remaining tokens, and no more than the tokens
    /// of this job. If this job needs several turns, jobs that arrive before its next turn go first.
    fn tokens_until_done(&self, waiting: usize, jobs: usize, demand: Demand) -> usize {
        let Demand { new, total, .. } = demand;
        let quantum = self.capacity.quantum;
        let round = waiting.min(jobs.saturating_mul(total.min(quantum)));
        let rounds = total.div_ceil(quantum).min(MAX_PREDICTED_ROUNDS);
        let fair = jobs.saturating_mul(total).saturating_add(total);
        // Its shared tokens are part of `waiting`, and other jobs' turns compute them, too.
        (waiting + new).min(fair).max(round * rounds + new)
    }

    /// Expected time until `bytes` are tokenized behind those that wait.
    fn tokenizing_time(&self, state: &State, bytes: usize) -> Duration {
        let throughput = state.tokenizer_throughput.get();
        throughput.map_or(Duration::ZERO, |throughput| {
            let throughput = throughput * self.capacity.tokenizer_threads as f64;
            Duration::try_from_secs_f64((state.bytes + bytes) as f64 / throughput).unwrap_or(Duration::MAX)
        })
    }

    /// Expected time for half of what is in flight, from 1 s to 60 s.
    pub(crate) fn retry_after(&self) -> Duration {
        self.lock().retry_after()
    }

    /// Learns from a batch of `tokens` that took `elapsed` while there was room for `parallelism` of its kind.
    pub(crate) fn observe_batch(&self, tokens: usize, elapsed: Duration, parallelism: f64) {
        let mut state = self.lock();
        state.throughput.observe(tokens, elapsed, parallelism);
        state.credits.earn(tokens);
    }

    /// Learns from `bytes` that one thread tokenized in `elapsed`.
    pub(crate) fn observe_tokenizer(&self, bytes: usize, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if bytes >= MIN_TOKENIZER_SAMPLE && seconds > 0.0 {
            self.lock().tokenizer_throughput.add(bytes as f64 / seconds);
        }
    }

    /// Capacity of each account in tokens.
    pub(crate) fn limit(&self) -> usize {
        self.capacity.tokens
    }

    /// Tokens that are to be computed for the jobs in flight.
    pub(crate) fn tokens(&self) -> usize {
        self.lock().computed.tokens
    }

    /// Jobs that hold a reservation.
    pub(crate) fn jobs(&self) -> usize {
        self.lock().jobs
    }

    /// Of these, jobs of which at least one sequence reached an encoder.
    pub(crate) fn running(&self) -> usize {
        self.lock().running_jobs
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn retry_after(&self) -> Duration {
        whole_seconds(self.throughput.time_for(self.computed.tokens / 2))
    }
}

/// Checks that work which takes `needed` is done before `deadline`, with [`DEADLINE_SAFETY_FACTOR`] as the margin.
fn check_time(needed: Duration, deadline: Instant) -> Result<(), SubmitError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if needed.as_secs_f64() * DEADLINE_SAFETY_FACTOR > left.as_secs_f64() {
        let late = needed.saturating_sub(left.div_f64(DEADLINE_SAFETY_FACTOR));
        return Err(SubmitError::DeadlineUnmeetable { retry_after: whole_seconds(late) });
    }
    Ok(())
}

/// Rounds up to whole seconds between 1 and 60, as `retry-after` is sent.
fn whole_seconds(wait: Duration) -> Duration {
    Duration::from_secs((wait.as_secs_f64().ceil() as u64).clamp(1, 60))
}

/// A job's share of the accounts.
#[derive(Debug)]
pub(crate) struct Reservation {
    admission: Arc<Admission>,
    caller: Option<CallerId>,
    footprint: usize,
    /// Bytes that are not tokenized yet.
    bytes: usize,
    /// Tokens that it added to the queue.
    computed: usize,
    running: bool,
}

impl Reservation {
    /// All of the job is tokenized.
    pub(crate) fn tokenized(&mut self) {
        self.admission.lock().bytes -= std::mem::take(&mut self.bytes);
    }

    /// Admits the job to the queue: reserves the tokens that it adds. Once for each job.
    ///
    /// # Errors
    /// There is no room or no time for them.
    pub(crate) fn enqueue(&mut self, demand: Demand, deadline: Instant) -> Result<(), SubmitError> {
        if demand.new == 0 {
            return Ok(());
        }
        let admission = &self.admission;
        let limit = admission.limit();
        let mut state = admission.lock();
        let checked = if demand.new > limit {
            Err(SubmitError::TooLarge { tokens: demand.new, limit })
        } else {
            admission.check_queue(&state, self.caller, demand, deadline)
        };
        if checked.is_err() {
            state.credits.spend(self.caller, self.footprint);
            return checked;
        }
        state.computed.add(self.caller, demand.new);
        state.computing_jobs += 1;
        self.computed = demand.new;
        Ok(())
    }

    /// The job's first sequence reached an encoder.
    pub(crate) fn run(&mut self) {
        if !std::mem::replace(&mut self.running, true) {
            self.admission.lock().running_jobs += 1;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.footprints.remove(self.caller, self.footprint);
        state.bytes -= self.bytes;
        state.jobs -= 1;
        state.computed.remove(self.caller, self.computed);
        state.computing_jobs -= usize::from(self.computed > 0);
        state.running_jobs -= usize::from(self.running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credit::CREDIT_PER_FOOTPRINT;

    fn admission(tokens: usize, quantum: usize) -> Arc<Admission> {
        Admission::new(Capacity { tokens, quantum, workers: 1, tokenizer_threads: 2 })
    }

    /// An admission that has learned 1,000 tokens per second from a full batch, and where jobs without a caller have no credit.
    fn measured(tokens: usize, quantum: usize) -> Arc<Admission> {
        let admission = admission(tokens, quantum);
        admission.observe_batch(quantum, Duration::from_millis(quantum as u64), 1.0);
        admission.lock().credits.spend(None, tokens);
        admission
    }

    fn caller(number: u64) -> Option<CallerId> {
        Some(CallerId(number))
    }

    fn estimate(tokens: usize) -> Estimate {
        Estimate { tokens, footprint: 1, bytes: 0 }
    }

    fn demand(tokens: usize) -> Demand {
        Demand { new: tokens, total: tokens, queued: 0 }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn patient() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    /// Admits a job of which nothing is cached, and whose estimate is exact.
    fn admit(
        admission: &Arc<Admission>,
        caller: Option<CallerId>,
        tokens: usize,
        deadline: Instant,
    ) -> Result<Reservation, SubmitError> {
        let mut reservation = admission.reserve(caller, estimate(tokens), deadline)?;
        reservation.enqueue(demand(tokens), deadline)?;
        Ok(reservation)
    }

    #[test]
    fn tokens_are_reserved_all_or_nothing_and_given_back() {
        let admission = admission(100, 100);
        let first = admit(&admission, None, 60, soon()).unwrap();
        assert!(matches!(admit(&admission, None, 41, soon()), Err(SubmitError::Full { .. })));
        assert_eq!((admission.tokens(), admission.jobs()), (60, 1));
        let mut second = admit(&admission, None, 40, soon()).unwrap();
        second.run();
        second.run();
        assert_eq!((admission.tokens(), admission.running()), (100, 1));
        drop((first, second));
        assert_eq!((admission.tokens(), admission.jobs(), admission.running()), (0, 0, 0));
        let refused = admit(&admission, None, 101, soon()).unwrap_err();
        assert_eq!(refused, SubmitError::TooLarge { tokens: 101, limit: 100 });
    }

    /// The same for footprints, which jobs hold before their cost is known.
    #[test]
    fn footprints_are_reserved_all_or_nothing_and_given_back() {
        let admission = admission(100, 100);
        let reserve =
            |footprint| admission.reserve(None, Estimate { tokens: footprint, footprint, bytes: 7 }, soon());
        let mut first = reserve(60).unwrap();
        assert!(matches!(reserve(41), Err(SubmitError::Full { .. })));
        let second = reserve(40).unwrap();
        assert_eq!((admission.tokens(), admission.jobs(), admission.lock().bytes), (0, 2, 14));
        first.tokenized();
        first.tokenized();
        assert_eq!(admission.lock().bytes, 7);
        drop((first, second));
        let state = admission.lock();
        assert_eq!((state.jobs, state.bytes, state.footprints.tokens), (0, 0, 0));
        drop(state);
        assert_eq!(reserve(101).unwrap_err(), SubmitError::TooLarge { tokens: 101, limit: 100 });
    }

    #[test]
    fn a_hopeless_deadline_is_refused_at_once() {
        let admission = measured(100_000, 1000);
        // Five jobs with 5,000 tokens each: 25 s of work.
        let held: Vec<_> = (0..5).map(|_| admit(&admission, None, 5_000, patient()).unwrap()).collect();
        // A small job takes its turn and is done long before.
        assert!(admit(&admission, None, 100, soon()).is_ok());
        let refused = admission.reserve(None, estimate(5_000), soon()).unwrap_err();
        assert!(
            // Until 5.7 s are left of 30: then it would be admitted.
            matches!(refused, SubmitError::DeadlineUnmeetable { retry_after } if (24..=25).contains(&retry_after.as_secs())),
            "{refused:?}"
        );
        assert_eq!(admission.retry_after(), Duration::from_secs(13));
        drop(held);
        assert_eq!(admission.retry_after(), Duration::from_secs(1));
    }

    /// Ten seconds hold 11 jobs of half a second each, one and three quarter times.
    #[test]
    fn who_is_let_in_has_time_to_spare() {
        let admission = measured(100_000, 100);
        let held: Vec<_> = (0..100).map_while(|_| admit(&admission, None, 500, soon()).ok()).collect();
        assert_eq!(held.len(), 11);
        let refused = admit(&admission, None, 500, soon()).unwrap_err();
        assert_eq!(refused, SubmitError::DeadlineUnmeetable { retry_after: Duration::from_secs(1) });
        drop(held);
        assert!(admit(&admission, None, 100_000, soon()).is_ok(), "no other job is there");
    }

    /// The upper estimate alone refuses no job, as long as there is credit; the exact number does.
    #[test]
    fn what_costs_nothing_is_admitted_however_long_the_queue() {
        let admission = measured(10_000, 100);
        let _full = admit(&admission, None, 10_000, soon()).unwrap();
        let late = |result| matches!(result, Err(SubmitError::DeadlineUnmeetable { .. }));
        assert!(late(admission.reserve(None, estimate(9_000), soon()).map(drop)), "there is no credit");
        admission.observe_batch(100, Duration::from_millis(100), 1.0);
        // Even to wait for the whole queue, which takes longer than there is time.
        for total in [5, 10_000].repeat(50) {
            let mut reservation = admission.reserve(None, estimate(9_000), soon()).unwrap();
            reservation.enqueue(Demand { new: 0, total, queued: 10_000 }, soon()).unwrap();
        }
        // Refusals after tokenizing spend what 100 computed tokens earned.
        let refused = (0..100).map_while(|_| admission.reserve(None, estimate(9_000), soon()).ok());
        let refused = refused.map(|mut job| assert!(late(job.enqueue(demand(9_000), soon()))));
        assert_eq!(refused.count(), 100 / CREDIT_PER_FOOTPRINT);
    }

    /// One caller has filled its part of the queue and goes on with single texts. Another one sends 2,048 texts, all of
    /// them cached, of which the upper estimate finds no room.
    #[test]
    fn refusals_of_one_caller_leave_the_credit_of_others() {
        let admission = admission(16_000, 100);
        let _held = admit(&admission, caller(1), 12_000, soon()).unwrap();
        let text = Estimate { tokens: 20, footprint: 3, bytes: 0 };
        let cached = Estimate { tokens: 9_000, footprint: 2048 * 3, bytes: 0 };
        let full = |result| matches!(result, Err(SubmitError::Full { .. }));
        let flood = || {
            let passed = (0..).map_while(|_| admission.reserve(caller(1), text, soon()).ok());
            passed.map(|mut job| assert!(full(job.enqueue(demand(3), soon())))).count()
        };
        assert_eq!(flood(), 16_000 / 3);
        for _ in 0..100 {
            assert!(full(admission.reserve(caller(1), text, soon()).map(drop)), "the flood ends at the door");
            let mut other = admission.reserve(caller(2), cached, soon()).unwrap();
            other.enqueue(demand(0), soon()).unwrap();
            admission.observe_batch(text.footprint * CREDIT_PER_FOOTPRINT, Duration::from_millis(1), 1.0);
            assert_eq!(flood(), 1);
        }
    }

    /// Jobs of equal texts wait for the same tokens, so they wait for the present queue and no more.
    #[test]
    fn what_is_shared_is_expected_once() {
        let admission = measured(100_000, 100);
        let first = admit(&admission, None, 5_000, soon()).unwrap();
        let shares = Demand { new: 0, total: 5_000, queued: 5_000 };
        let mut held: Vec<_> =
            (0..25).map(|_| admission.reserve(None, estimate(1), soon()).unwrap()).collect();
        for reservation in &mut held {
            reservation.enqueue(shares, soon()).unwrap();
        }
        assert_eq!(admission.tokens(), 5_000);
        // The first job leaves. The tokens that the others share are still queued, and delay a job of other texts.
        drop(first);
        let mut other = admission.reserve(None, estimate(1), soon()).unwrap();
        let other = other.enqueue(Demand { new: 5_000, total: 5_000, queued: 5_000 }, soon());
        assert!(matches!(other, Err(SubmitError::DeadlineUnmeetable { .. })), "{other:?}");
    }

    /// At the door the deadline is judged by the texts that wait for the tokenizer.
    #[test]
    fn what_cannot_be_tokenized_in_time_is_refused_at_once() {
        let admission = admission(100_000, 100);
        let texts = |bytes| Estimate { tokens: 1, footprint: 1, bytes };
        // Two threads, 10,000 bytes per second each. Single queries say nothing.
        admission.observe_tokenizer(10_000, Duration::from_secs(1));
        admission.observe_tokenizer(10, Duration::from_secs(1));
        let mut first = admission.reserve(None, texts(100_000), soon()).unwrap();
        let late = admission.reserve(None, texts(100_000), soon()).unwrap_err();
        // 10 s, of which 5.7 s are left with time to spare.
        assert_eq!(late, SubmitError::DeadlineUnmeetable { retry_after: Duration::from_secs(5) });
        assert!(admission.reserve(None, texts(10_000), soon()).is_ok());
        first.tokenized();
        assert!(admission.reserve(None, texts(100_000), soon()).is_ok());
    }

    /// Who needs several turns waits for as many rounds of a queue that newcomers keep full.
    #[test]
    fn every_turn_costs_a_round() {
        let admission = measured(100_000, 250);
        let needed = |tokens| {
            let state = admission.lock();
            admission.tokens_until_done(state.computed.tokens, state.computing_jobs, demand(tokens))
        };
        // 20 jobs of one turn each: a round is 5,000 tokens.
        let held: Vec<_> = (0..20).map(|_| admit(&admission, None, 250, patient()).unwrap()).collect();
        let waits = [100, 250, 251, 500, 750].map(|tokens| needed(tokens) - tokens);
        assert_eq!(waits, [2_000, 5_000, 10_000, 10_000, 15_000]);
        // Of a job of a hundred turns, a few are foreseen.
        assert_eq!(needed(25_000), 20_000 + 25_000);
        drop(held);
        // A single large job: each of its turns costs the newcomer no more than the newcomer's costs it.
        let _held = admit(&admission, None, 50_000, patient()).unwrap();
        assert_eq!([250, 500, 5_000].map(|tokens| needed(tokens) - tokens), [250, 500, 5_000]);
    }

    #[test]
    fn the_last_quarter_is_for_those_who_hold_little() {
        let computed = |admission: &Arc<Admission>, caller, tokens| admit(admission, caller, tokens, soon());
        let footprint = |admission: &Arc<Admission>, caller, footprint| {
            admission.reserve(caller, Estimate { tokens: 1, footprint, bytes: 0 }, soon())
        };
        type Reserve = fn(&Arc<Admission>, Option<CallerId>, usize) -> Result<Reservation, SubmitError>;
        for reserve in [computed as Reserve, footprint] {
            let admission = admission(800, 800);
            let reserve = |caller, tokens| reserve(&admission, caller, tokens);
            let mut held: Vec<_> = (0..6).map(|_| reserve(caller(1), 100).unwrap()).collect();
            assert!(matches!(reserve(caller(1), 100), Err(SubmitError::Full { .. })));
            // Callers that hold little find room in the reserved quarter.
            held.push(reserve(caller(2), 100).unwrap());
            assert!(matches!(reserve(caller(2), 100), Err(SubmitError::Full { .. })));
            held.push(reserve(caller(3), 100).unwrap());
            assert!(matches!(reserve(caller(4), 1), Err(SubmitError::Full { .. })), "it is full");
            drop(held);
            let state = admission.lock();
            assert_eq!((state.computed.tokens, state.computed.tokens_by_caller.len()), (0, 0));
            assert_eq!((state.footprints.tokens, state.footprints.tokens_by_caller.len()), (0, 0));
            drop(state);
            // A job that has the queue for itself may fill it, and so may callers without a name.
            drop(reserve(caller(1), 800).unwrap());
            let _half = reserve(None, 400).unwrap();
            assert!(reserve(None, 400).is_ok());
        }
    }
}
