//! The scheduler: which queued sequences run next, fair between callers and between their jobs.
//!
//! Jobs are ordered by start-time fair queueing ([`fair`]) with a batch as the quantum: the job with the smallest
//! start tag anchors the next batch, and then gets its next start tag. Short jobs (that fit one batch) and long jobs
//! are separate priority classes. A short job shares its batch only with short jobs, and may overtake a long one,
//! once for each of that job's batches. So a single text never waits for a batch to fill up. Nor does it wait for a
//! long job's batch that is running: if no worker is idle, one of them interrupts such a batch for it
//! ([`Scheduler::take_preempting_batch`]).
//!
//! There is no batching delay. An idle worker takes what is queued at once, but leaves a share for other idle
//! workers. The cost of a selection depends on the size of the batch, not on the number of queued jobs: cancelled
//! jobs are removed when a selection meets them, and each selection checks a few others.

mod batch;
mod fair;
mod job_queue;

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) use self::batch::BatchBudget;
use self::{
    batch::MIN_BATCH_TOKENS,
    fair::VirtualTime,
    job_queue::{JobQueue, QueueTotals, QueuedJob},
};
use crate::{
    admission::{Admission, QueueDemand},
    cache::inflight::{InflightMap, SequenceRef},
    error::EmbedError,
    job::JobState,
};

/// The sequences of the next batch.
#[derive(Debug, Default)]
pub(crate) struct NextBatch {
    pub(crate) sequences: Vec<SequenceRef>,
    /// The batch is part of a long job, so short jobs may interrupt it.
    pub(crate) is_preemptible: bool,
}

impl NextBatch {
    pub(crate) fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens()).sum()
    }
}

/// The queue of one engine, and the selection of batches from it.
#[derive(Debug)]
pub(crate) struct Scheduler {
    admission: Arc<Admission>,
    inflight: Arc<InflightMap>,
    max_batch_tokens: usize,
    state: Mutex<SchedulerState>,
    /// `SchedulerState::idle` for reading without the lock.
    idle_workers: AtomicUsize,
    /// A short job is queued and no worker is idle.
    needs_preemption: AtomicBool,
    has_work: Condvar,
    stopping: Condvar,
}

#[derive(Debug, Default)]
struct SchedulerState {
    /// Jobs whose remaining tokens fit one batch.
    short_jobs: JobQueue,
    long_jobs: JobQueue,
    virtual_time: VirtualTime,
    totals: QueueTotals,
    /// Workers that wait for work and have not been woken.
    idle: usize,
    /// Workers that have been woken and have not taken the lock yet.
    waking: usize,
    /// Number of the last selection.
    selection: u64,
    stopped: bool,
}

impl Scheduler {
    pub(crate) fn new(
        admission: Arc<Admission>,
        inflight: Arc<InflightMap>,
        max_batch_tokens: usize,
    ) -> Self {
        let (state, idle_workers, needs_preemption, has_work, stopping) = Default::default();
        Self {
            admission,
            inflight,
            max_batch_tokens,
            state,
            idle_workers,
            needs_preemption,
            has_work,
            stopping,
        }
    }

    /// Admits a job and queues its references, or fails the job. Only under this lock is it certain which sequences are
    /// queued already: the job that added them may have been rejected or cancelled since this job subscribed to them.
    pub(crate) fn enqueue(&self, job: Arc<JobState>, sequences: Vec<SequenceRef>) {
        let mut state = self.lock();
        if state.stopped {
            job.fail(EmbedError::Stopped);
            return;
        }
        if let Err(rejection) = job.reserve_tokens(state.demand(&sequences)) {
            drop(state);
            job.fail(rejection.into());
            self.inflight.remove_abandoned(&sequences);
            return;
        }
        for sequence in &sequences {
            if sequence.queue_meta.references.fetch_add(1, Ordering::Relaxed) == 0 && !sequence.is_claimed() {
                state.totals.tokens += sequence.tokens();
            }
        }
        let start_tag = state.virtual_time.next_start_tag(job.caller);
        state.insert(QueuedJob::new(job, sequences, start_tag), self.max_batch_tokens);
        let useful_workers = state.totals.tokens.div_ceil(MIN_BATCH_TOKENS).max(1);
        self.wake_workers(state, useful_workers);
    }

    /// Waits for work and takes the next batch; `None` after [`stop`](Self::stop).
    pub(crate) fn take_batch(&self, budget: BatchBudget) -> Option<NextBatch> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let is_finished = self.finished_check();
            state.reap_finished(&is_finished);
            let budget = budget.split_for(state.totals.tokens, state.idle + state.waking + 1);
            let batch = state.select(false, budget, self.max_batch_tokens, is_finished);
            let orphans = std::mem::take(&mut state.totals.orphans);
            if !batch.sequences.is_empty() {
                let has_jobs = state.has_jobs();
                self.wake_workers(state, usize::from(has_jobs));
                self.inflight.remove_abandoned(&orphans);
                return Some(batch);
            }
            // A job that was cancelled during the selection may have hidden another one.
            if orphans.is_empty() && !state.has_jobs() {
                state = self.wait_for_work(state);
            } else {
                drop(state);
                self.inflight.remove_abandoned(&orphans);
                state = self.lock();
            }
        }
    }

    /// Takes a batch of short jobs if any are queued and no worker is idle; never waits. A worker calls this within a
    /// long job's batch. It counts as overtaking that job.
    pub(crate) fn take_preempting_batch(&self, budget: BatchBudget) -> Option<NextBatch> {
        if !self.needs_preemption.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.lock();
        let budget = budget.split_for(state.totals.tokens, state.idle + state.waking + 1);
        let batch = state.select(true, budget, self.max_batch_tokens, self.finished_check());
        let orphans = std::mem::take(&mut state.totals.orphans);
        self.publish(&state);
        drop(state);
        self.inflight.remove_abandoned(&orphans);
        (!batch.sequences.is_empty()).then_some(batch)
    }

    /// Number of workers that wait for work.
    pub(crate) fn idle_workers(&self) -> usize {
        self.idle_workers.load(Ordering::Relaxed)
    }

    /// Returns a check whether a job is finished, which fails a job whose deadline has passed.
    fn finished_check(&self) -> impl Fn(&JobState) -> bool {
        let now = Instant::now();
        move |job| {
            if job.deadline <= now {
                job.fail(EmbedError::DeadlineExceeded { retry_after: self.admission.retry_after() });
            }
            job.is_finished()
        }
    }

    /// Wakes up to `workers` of the idle ones.
    fn wake_workers(&self, mut state: MutexGuard<'_, SchedulerState>, workers: usize) {
        let workers = workers.min(state.idle);
        state.idle -= workers;
        state.waking += workers;
        self.publish(&state);
        drop(state);
        for _ in 0..workers {
            self.has_work.notify_one();
        }
    }

    /// Waits until this worker is woken or the scheduler is stopped.
    fn wait_for_work<'s>(&self, mut state: MutexGuard<'s, SchedulerState>) -> MutexGuard<'s, SchedulerState> {
        state.idle += 1;
        self.publish(&state);
        let is_idle = |state: &mut SchedulerState| state.waking == 0 && !state.stopped;
        state = self.has_work.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner);
        // The first worker to take the lock counts as the woken one; the notified worker then waits on.
        match state.waking.checked_sub(1) {
            Some(waking) => state.waking = waking,
            None => state.idle -= 1,
        }
        self.publish(&state);
        state
    }

    fn publish(&self, state: &SchedulerState) {
        self.idle_workers.store(state.idle, Ordering::Relaxed);
        let needs_preemption = !state.short_jobs.is_empty() && state.idle + state.waking == 0;
        self.needs_preemption.store(needs_preemption, Ordering::Relaxed);
    }

    /// Rejects new jobs, fails the queued ones, and wakes every worker.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.totals.tokens = 0;
        let SchedulerState { short_jobs, long_jobs, .. } = &mut *state;
        for queued in short_jobs.drain().chain(long_jobs.drain()) {
            queued.job.fail(EmbedError::Stopped);
        }
        drop(state);
        self.has_work.notify_all();
        self.stopping.notify_all();
    }

    /// Waits up to `timeout` for [`stop`](Self::stop), and returns true if it was called.
    pub(crate) fn wait_for_stop(&self, timeout: Duration) -> bool {
        let state = self.lock();
        let waited = self.stopping.wait_timeout_while(state, timeout, |state| !state.stopped);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopped
    }

    /// Number of tokens that wait for a worker.
    pub(crate) fn tokens(&self) -> usize {
        self.lock().totals.tokens
    }

    fn lock(&self) -> MutexGuard<'_, SchedulerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SchedulerState {
    fn insert(&mut self, queued: QueuedJob, max_batch_tokens: usize) {
        let is_short = queued.tokens <= max_batch_tokens;
        let queue = if is_short { &mut self.short_jobs } else { &mut self.long_jobs };
        queue.insert(queued);
    }

    /// Demand of a job with these references.
    fn demand(&self, sequences: &[SequenceRef]) -> QueueDemand {
        let mut demand = QueueDemand { queued: self.totals.tokens, ..QueueDemand::default() };
        for sequence in sequences.iter().filter(|sequence| !sequence.is_claimed()) {
            demand.total += sequence.tokens();
            if sequence.queue_meta.references.load(Ordering::Relaxed) == 0 {
                demand.new += sequence.tokens();
            }
        }
        demand
    }

    fn has_jobs(&self) -> bool {
        !(self.short_jobs.is_empty() && self.long_jobs.is_empty())
    }

    fn reap_finished(&mut self, is_finished: impl Fn(&JobState) -> bool) {
        self.short_jobs.reap_finished(&is_finished, &mut self.totals);
        self.long_jobs.reap_finished(&is_finished, &mut self.totals);
    }

    /// Selects the sequences to run next; none if no job is queued. A `preempting` batch holds short jobs only,
    /// whatever their start tags.
    fn select(
        &mut self,
        preempting: bool,
        budget: BatchBudget,
        max_batch_tokens: usize,
        is_finished: impl Fn(&JobState) -> bool,
    ) -> NextBatch {
        self.selection += 1;
        let totals = &mut self.totals;
        let short = self.short_jobs.front(&is_finished, totals);
        let long = self.long_jobs.front(&is_finished, totals);
        let (start_tag, takes_short) = match (short, long) {
            (Some(short), None) => (short.start_tag, true),
            (Some(short), Some(long))
                if preempting || long.start_tag <= short.start_tag && !long.was_overtaken =>
            {
                long.was_overtaken = true;
                // The long job has not had its quantum, so virtual time must not pass its start tag.
                (long.start_tag.min(short.start_tag), true)
            }
            (Some(short), Some(long)) if short.start_tag < long.start_tag => (short.start_tag, true),
            (_, Some(long)) if !preempting => (long.start_tag, false),
            _ => return NextBatch::default(),
        };
        self.virtual_time.advance_to(start_tag);
        let queue = if takes_short { &mut self.short_jobs } else { &mut self.long_jobs };
        let (sequences, rest) = queue.take(self.selection, budget, is_finished, totals);
        if let Some(mut rest) = rest {
            rest.start_tag = self.virtual_time.next_start_tag(rest.job.caller);
            rest.was_overtaken = false;
            self.insert(rest, max_batch_tokens);
        }
        NextBatch { sequences, is_preemptible: !takes_short }
    }
}

#[cfg(test)]
mod tests;
