//! Admission control in two steps: on arrival, memory for a job; on enqueue, room and time for its computation.
//!
//! The cost of a job is known only after tokenizing, cache lookup and request coalescing. On arrival a job reserves
//! its footprint, the minimum that a job of its size occupies, and its deadline is compared with the time to tokenize
//! it. On enqueue it reserves the tokens that it adds to the queue, all or nothing, and its deadline is compared with
//! the time to compute them. A job that adds no tokens is never rejected there. Dropping the [`Reservation`] releases
//! both.
//!
//! Under overload, tokenizing a job that is then rejected is wasted work. If there is no room or no time for a job's
//! upper estimate, the job is tokenized only while its caller has credit ([`Credits`]): batches earn credit, and
//! rejections after tokenizing spend it. Without credit the job is rejected on arrival, by its estimate.
//!
//! No caller can fill either account: the last quarter is reserved for callers that hold a small part of it.

mod account;
mod credits;
mod throughput;
mod wait;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use self::{
    account::TokenAccount,
    credits::Credits,
    throughput::{Ewma, Throughput},
    wait::{check_deadline, clamp_retry_after, tokens_until_done},
};
use crate::error::SubmitError;

/// Minimum number of bytes of a sample of the tokenizer's throughput. In smaller samples overhead dominates.
const MIN_TOKENIZER_SAMPLE: usize = 1024;

/// Identifies a caller for its quota and for fair queueing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallerId(pub u64);

/// Resources of one engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// Tokens of each account.
    pub(crate) tokens: usize,
    /// Tokens of one scheduling quantum: a full batch.
    pub(crate) quantum: usize,
    pub(crate) workers: usize,
    pub(crate) tokenizer_threads: usize,
}

/// Estimated cost of a job before it is tokenized.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CostEstimate {
    /// Upper bound of the job's tokens.
    pub(crate) tokens: usize,
    /// Cost in tokens even if all inputs are cached: their memory, and the time to tokenize them.
    pub(crate) footprint: usize,
    /// Bytes of text to tokenize.
    pub(crate) bytes: usize,
}

/// Tokens that a job needs from the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct QueueDemand {
    /// Tokens that the job adds to the queue.
    pub(crate) new: usize,
    /// Tokens that the job waits for: the new ones, and the queued ones that it shares with other jobs.
    pub(crate) total: usize,
    /// Tokens in the queue. A sequence that several jobs share counts once.
    pub(crate) queued: usize,
}

/// Admission control of one engine.
#[derive(Debug)]
pub(crate) struct Admission {
    capacity: Capacity,
    state: Mutex<AdmissionState>,
}

#[derive(Debug)]
struct AdmissionState {
    /// Footprints of all admitted jobs.
    footprints: TokenAccount,
    /// Tokens that jobs added to the queue, until the jobs finish.
    computed: TokenAccount,
    jobs: usize,
    /// Jobs that added tokens to the queue. Jobs that only share the tokens of others delay no job.
    computing_jobs: usize,
    /// Jobs of which at least one sequence reached an encoder.
    running_jobs: usize,
    /// Bytes that wait for a tokenizer thread or are being tokenized.
    bytes: usize,
    credits: Credits,
    throughput: Throughput,
    /// Bytes per second of one tokenizer thread.
    tokenizer_throughput: Ewma,
}

impl Admission {
    pub(crate) fn new(capacity: Capacity) -> Arc<Self> {
        let state = AdmissionState {
            footprints: TokenAccount::default(),
            computed: TokenAccount::default(),
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

    /// Admits a job on arrival: reserves its footprint.
    ///
    /// # Errors
    /// There is no room for the footprint, no time to tokenize it, or no credit and no room or time for its estimate.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        caller: Option<CallerId>,
        estimate: CostEstimate,
        deadline: Instant,
    ) -> Result<Reservation, SubmitError> {
        let Capacity { tokens: limit, .. } = self.capacity;
        let CostEstimate { tokens, footprint, bytes } = estimate;
        if footprint > limit {
            return Err(SubmitError::TooLarge { tokens: footprint, limit });
        }
        let mut state = self.lock();
        if state.bytes > 0 {
            check_deadline(self.tokenizing_time(&state, bytes), deadline)?;
        }
        if !state.footprints.has_room(caller, footprint, limit) {
            return Err(SubmitError::Full { retry_after: state.retry_after() });
        }
        if !state.credits.covers(caller, footprint) {
            let worst = QueueDemand { new: tokens, total: tokens, queued: 0 };
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
        state: &AdmissionState,
        caller: Option<CallerId>,
        demand: QueueDemand,
        deadline: Instant,
    ) -> Result<(), SubmitError> {
        // Shared sequences stay in the queue after the job that added them, and no other reservation holds them.
        let waiting = demand.queued.max(state.computed.tokens());
        // An idle engine admits every job within its limits: no other server would finish it earlier.
        if waiting > 0 {
            let jobs = state.computing_jobs.max(1);
            let tokens = tokens_until_done(self.capacity.quantum, waiting, jobs, demand);
            check_deadline(state.throughput.time_for(tokens), deadline)?;
        }
        if !state.computed.has_room(caller, demand.new, self.capacity.tokens) {
            return Err(SubmitError::Full { retry_after: state.retry_after() });
        }
        Ok(())
    }

    /// Expected time until `bytes` are tokenized behind those that wait.
    fn tokenizing_time(&self, state: &AdmissionState, bytes: usize) -> Duration {
        let throughput = state.tokenizer_throughput.get();
        throughput.map_or(Duration::ZERO, |throughput| {
            let throughput = throughput * self.capacity.tokenizer_threads as f64;
            Duration::try_from_secs_f64((state.bytes + bytes) as f64 / throughput).unwrap_or(Duration::MAX)
        })
    }

    /// Expected time for half of the tokens in flight, from 1 s to 60 s.
    pub(crate) fn retry_after(&self) -> Duration {
        self.lock().retry_after()
    }

    /// Learns from a batch of `tokens` that took `elapsed` while `parallelism` such batches could run in parallel.
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

    /// Tokens that are computed for the jobs in flight.
    pub(crate) fn tokens(&self) -> usize {
        self.lock().computed.tokens()
    }

    /// Number of jobs that hold a reservation.
    pub(crate) fn jobs(&self) -> usize {
        self.lock().jobs
    }

    /// Number of these jobs of which at least one sequence reached an encoder.
    pub(crate) fn running_jobs(&self) -> usize {
        self.lock().running_jobs
    }

    fn lock(&self) -> MutexGuard<'_, AdmissionState> {
        // No code panics between two dependent changes, so a poisoned lock holds consistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdmissionState {
    fn retry_after(&self) -> Duration {
        clamp_retry_after(self.throughput.time_for(self.computed.tokens() / 2))
    }
}

/// A job's share of the accounts.
#[derive(Debug)]
pub(crate) struct Reservation {
    admission: Arc<Admission>,
    caller: Option<CallerId>,
    footprint: usize,
    /// Bytes that are not tokenized yet.
    bytes: usize,
    /// Tokens that the job added to the queue.
    computed: usize,
    running: bool,
}

impl Reservation {
    /// Releases the bytes to tokenize: the whole job is tokenized.
    pub(crate) fn release_bytes(&mut self) {
        self.admission.lock().bytes -= std::mem::take(&mut self.bytes);
    }

    /// Admits the job on enqueue: reserves the tokens that it adds to the queue. Called once for each job.
    ///
    /// # Errors
    /// There is no room or no time for them.
    pub(crate) fn reserve_tokens(
        &mut self,
        demand: QueueDemand,
        deadline: Instant,
    ) -> Result<(), SubmitError> {
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

    /// Counts the job as running: its first sequence reached an encoder.
    pub(crate) fn mark_running(&mut self) {
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
mod tests;
