//! Request coalescing: equal sequences of all jobs in flight are computed once (single-flight, as in Go's
//! `golang.org/x/sync/singleflight`).
//!
//! A vector is stored in the local cache before its sequence leaves this map, and both are searched under one lock.
//! So a sequence that has been computed is not computed again, as long as the cache holds it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    cache::{local::LocalCache, sequence::TokenSequence},
    job::JobState,
};

/// The sequences in flight. The map hashes with a random key, so clients cannot construct collisions.
#[derive(Debug, Default)]
pub(crate) struct InflightMap {
    sequences: Mutex<HashMap<TokenSequence, SequenceRef>>,
}

/// A sequence in flight, shared by the map, the scheduler and the worker that computes it.
pub(crate) type SequenceRef = Arc<InflightSequence>;

/// Result of looking up the sequences of a job.
#[derive(Debug, Default)]
pub(crate) struct CoalesceResult {
    /// Vectors from the local cache, by position.
    pub(crate) hits: Vec<(usize, Arc<[f32]>)>,
    /// Sequences for which the job must queue a reference: new ones, and queued ones of other jobs.
    pub(crate) to_queue: Vec<SequenceRef>,
    /// Number of new sequences.
    pub(crate) new: usize,
    /// Number of sequences that were in flight already.
    pub(crate) deduplicated: usize,
    /// At least one of these is being computed.
    pub(crate) is_running: bool,
}

impl InflightMap {
    /// Looks up `sequences` of `job` with their positions: subscribes to those in flight, takes those in the local
    /// cache, and adds the others to the map.
    pub(crate) fn get_or_subscribe(
        &self,
        sequences: impl IntoIterator<Item = (usize, TokenSequence)>,
        job: &Arc<JobState>,
        local_cache: Option<&LocalCache>,
        result: &mut CoalesceResult,
    ) {
        let mut inflight = self.lock();
        for (position, key) in sequences {
            if let Some(sequence) = inflight.get(&key) {
                result.deduplicated += 1;
                match sequence.subscribe(job, position) {
                    Subscription::Queued => result.to_queue.push(Arc::clone(sequence)),
                    Subscription::AlreadySubscribed => {}
                    Subscription::Running => result.is_running = true,
                }
            } else if let Some(vector) = local_cache.and_then(|cache| cache.get(&key)) {
                result.hits.push((position, vector));
            } else {
                let sequence = InflightSequence::new(key.clone(), job, position, false);
                inflight.insert(key, Arc::clone(&sequence));
                result.to_queue.push(sequence);
                result.new += 1;
            }
        }
    }

    /// Removes sequences that have a result. Later jobs find their vectors in the cache, or compute them again.
    pub(crate) fn remove_completed<'sequences>(
        &self,
        completed: impl IntoIterator<Item = &'sequences SequenceRef>,
    ) {
        let mut inflight = self.lock();
        for sequence in completed {
            remove(&mut inflight, sequence);
        }
    }

    /// Removes those of `candidates` that have no subscribers. A job may have subscribed since they were collected.
    pub(crate) fn remove_abandoned(&self, candidates: &[SequenceRef]) {
        if candidates.is_empty() {
            return;
        }
        let mut inflight = self.lock();
        for sequence in
            candidates.iter().filter(|sequence| !sequence.is_claimed() && !sequence.has_subscribers())
        {
            remove(&mut inflight, sequence);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenSequence, SequenceRef>> {
        self.sequences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes this sequence, but not a newer one with an equal key.
fn remove(inflight: &mut HashMap<TokenSequence, SequenceRef>, sequence: &SequenceRef) {
    if inflight.get(sequence.key()).is_some_and(|found| Arc::ptr_eq(found, sequence)) {
        inflight.remove(sequence.key());
    }
}

/// One distinct sequence in flight. Each job that needs it subscribes and queues a reference of its own. The first
/// reference that is scheduled claims it. So a job that is cancelled does not delay the others.
#[derive(Debug)]
pub(crate) struct InflightSequence {
    key: TokenSequence,
    /// The sequence belongs to one job: it is not in the map, and its vector is not cached.
    pub(crate) bypass_cache: bool,
    /// Set when a worker has claimed it or when it has a vector: it must not be computed again.
    claimed: AtomicBool,
    /// The remote cache has been asked for it.
    looked_up: AtomicBool,
    subscribers: Mutex<Vec<Subscriber>>,
    pub(crate) queue_meta: QueueMeta,
}

/// The scheduler's data about a sequence, accessed only under the scheduler's lock.
#[derive(Debug, Default)]
pub(crate) struct QueueMeta {
    /// Number of references in the queue.
    pub(crate) references: AtomicUsize,
    /// Number of the last selection in which it was a candidate.
    pub(crate) last_selection: AtomicU64,
}

/// A window of a job that waits for the vector of a sequence.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) job: Arc<JobState>,
    /// Position among the job's windows.
    pub(crate) position: usize,
}

/// State in which a job finds a sequence in flight when it subscribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscription {
    /// The sequence is not claimed; the job must queue a reference.
    Queued,
    /// The sequence is not claimed, and this job has a reference.
    AlreadySubscribed,
    /// The sequence is being computed.
    Running,
}

impl InflightSequence {
    /// A sequence with its first subscriber.
    pub(crate) fn new(
        key: TokenSequence,
        job: &Arc<JobState>,
        position: usize,
        bypass_cache: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            bypass_cache,
            claimed: AtomicBool::new(false),
            looked_up: AtomicBool::new(false),
            subscribers: Mutex::new(vec![Subscriber { job: Arc::clone(job), position }]),
            queue_meta: QueueMeta::default(),
        })
    }

    /// The sequence itself; at least one token.
    pub(crate) fn key(&self) -> &TokenSequence {
        &self.key
    }

    pub(crate) fn tokens(&self) -> usize {
        self.key.ids.len()
    }

    /// Adds a subscriber. The sequence must be in the map, so that its subscribers have not been taken.
    fn subscribe(&self, job: &Arc<JobState>, position: usize) -> Subscription {
        let mut subscribers = self.lock();
        let is_subscribed = subscribers.last().is_some_and(|last| Arc::ptr_eq(&last.job, job));
        subscribers.push(Subscriber { job: Arc::clone(job), position });
        match (self.is_claimed(), is_subscribed) {
            (true, _) => Subscription::Running,
            (false, true) => Subscription::AlreadySubscribed,
            (false, false) => Subscription::Queued,
        }
    }

    /// Claims the sequence for a batch; returns false if it is claimed already.
    pub(crate) fn try_claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Acquire)
    }

    /// Returns true on the first call: the remote cache must be asked for the sequence.
    pub(crate) fn try_look_up(&self) -> bool {
        !self.looked_up.swap(true, Ordering::AcqRel)
    }

    /// Returns true if a job that is not finished waits for the vector.
    pub(crate) fn has_subscribers(&self) -> bool {
        self.lock().iter().any(|subscriber| !subscriber.job.is_finished())
    }

    /// Tells every subscriber that the sequence reached an encoder. Calls `on_first` with the waiting time of each
    /// job of which it is the first sequence.
    pub(crate) fn record_start(&self, now: Instant, mut on_first: impl FnMut(Duration)) {
        for subscriber in &*self.lock() {
            if let Some(waited) = subscriber.job.record_start(now) {
                on_first(waited);
            }
        }
    }

    /// Returns all subscribers. The caller has removed the sequence from the map, so no job can subscribe later.
    pub(crate) fn take_subscribers(&self) -> Vec<Subscriber> {
        self.claimed.store(true, Ordering::Release);
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        // No code panics between two dependent changes, so a poisoned lock holds consistent state.
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Admission, Capacity, CostEstimate};

    #[test]
    fn sequences_that_leave_out_different_tokens_are_not_shared() {
        let capacity = Capacity { tokens: 1 << 20, quantum: 1 << 20, workers: 1, tokenizer_threads: 1 };
        let estimate = CostEstimate { tokens: 1, footprint: 1, bytes: 0 };
        let deadline = Instant::now() + Duration::from_secs(60);
        let reservation = Admission::new(capacity).reserve(None, estimate, deadline).unwrap();
        let (job, _) = JobState::new(None, deadline, reservation);
        let sequence = |prompt_tokens| TokenSequence { prompt_tokens, ..TokenSequence::from(&[5, 6, 7][..]) };
        let cache = LocalCache::new(1 << 20, 1).unwrap();
        cache.insert(sequence(2), Arc::new([2.0]));
        let (map, mut result) = (InflightMap::default(), CoalesceResult::default());
        let sequences = [sequence(0), sequence(1), sequence(0), sequence(2)].into_iter().enumerate();
        map.get_or_subscribe(sequences, &job, Some(&cache), &mut result);
        assert_eq!((result.new, result.deduplicated, map.len()), (2, 1, 2));
        let hits: Vec<_> = result.hits.iter().map(|(position, vector)| (*position, &**vector)).collect();
        assert_eq!(hits, [(3, &[2.0][..])]);
    }
}
