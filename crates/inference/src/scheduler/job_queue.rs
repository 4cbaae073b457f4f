//! The jobs of one priority class, ordered by start tag.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use super::batch::{BatchBudget, plan};
use crate::{cache::inflight::SequenceRef, job::JobState};

/// Number of jobs in each class that a selection checks in addition to those it takes from, to remove finished ones.
pub(super) const REAP_PER_SELECTION: usize = 8;

/// A job's references to the sequences that it waits for.
#[derive(Debug)]
pub(super) struct QueuedJob {
    pub(super) job: Arc<JobState>,
    /// Start tag of its next batch.
    pub(super) start_tag: u64,
    /// A short job has overtaken this job since its last batch.
    pub(super) was_overtaken: bool,
    /// Longest first, so that similar lengths are adjacent and a job's last batch is a small one.
    sequences: VecDeque<SequenceRef>,
    /// Tokens of these sequences, claimed or not.
    pub(super) tokens: usize,
}

impl QueuedJob {
    pub(super) fn new(job: Arc<JobState>, mut sequences: Vec<SequenceRef>, start_tag: u64) -> Self {
        sequences.sort_by_key(|sequence| std::cmp::Reverse(sequence.tokens()));
        let tokens = sequences.iter().map(|sequence| sequence.tokens()).sum();
        Self { job, start_tag, was_overtaken: false, sequences: sequences.into(), tokens }
    }

    fn pop(&mut self) -> Option<SequenceRef> {
        let sequence = self.sequences.pop_front()?;
        self.tokens -= sequence.tokens();
        Some(sequence)
    }

    fn put_back(&mut self, sequence: SequenceRef) {
        self.tokens += sequence.tokens();
        self.sequences.push_front(sequence);
    }

    /// Removes the next reference to an unclaimed sequence. Drops references to claimed ones.
    fn next(&mut self) -> Option<SequenceRef> {
        while let Some(sequence) = self.pop() {
            if !sequence.is_claimed() {
                return Some(sequence);
            }
            sequence.queue_meta.references.fetch_sub(1, Ordering::Relaxed);
        }
        None
    }

    /// Drops all references.
    fn discard(&mut self, totals: &mut QueueTotals) {
        while let Some(sequence) = self.pop() {
            if sequence.queue_meta.references.fetch_sub(1, Ordering::Relaxed) == 1 && !sequence.is_claimed() {
                totals.tokens -= sequence.tokens();
                totals.orphans.push(sequence);
            }
        }
    }
}

/// Totals over all priority classes.
#[derive(Debug, Default)]
pub(super) struct QueueTotals {
    /// Tokens of the queued sequences, each counted once. Those of finished jobs count until the jobs are removed.
    pub(super) tokens: usize,
    /// Sequences that lost their last reference.
    pub(super) orphans: Vec<SequenceRef>,
}

/// The jobs of one priority class.
#[derive(Debug, Default)]
pub(super) struct JobQueue {
    /// Ordered by start tag.
    jobs: VecDeque<QueuedJob>,
    /// Index of the last job that [`reap_finished`](Self::reap_finished) checked.
    reaped: usize,
}

/// A sequence that may join the batch, and the index of its job.
struct Candidate {
    job: usize,
    sequence: SequenceRef,
}

/// The candidates of a selection.
struct CandidateSet {
    budget: BatchBudget,
    candidates: Vec<Candidate>,
    /// Tokens of all candidates.
    tokens: usize,
}

impl CandidateSet {
    fn push(&mut self, job: usize, sequence: SequenceRef) {
        self.tokens += sequence.tokens();
        self.candidates.push(Candidate { job, sequence });
    }

    fn is_full(&self) -> bool {
        let anchor = self.candidates.first().map(|candidate| candidate.sequence.tokens());
        anchor.is_some_and(|anchor| {
            self.budget.has_enough_candidates(self.candidates.len(), self.tokens, anchor)
        })
    }
}

impl JobQueue {
    /// Inserts a job behind those with the same or a smaller start tag.
    pub(super) fn insert(&mut self, queued: QueuedJob) {
        let index = self.jobs.partition_point(|other| other.start_tag <= queued.start_tag);
        self.jobs.insert(index, queued);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = QueuedJob> {
        self.jobs.drain(..)
    }

    /// Returns the first job that is not finished and has an unclaimed sequence. Removes the jobs before it.
    pub(super) fn front(
        &mut self,
        is_finished: impl Fn(&JobState) -> bool,
        totals: &mut QueueTotals,
    ) -> Option<&mut QueuedJob> {
        while let Some(front) = self.jobs.front_mut() {
            if is_finished(&front.job) {
                front.discard(totals);
            } else if let Some(sequence) = front.next() {
                front.put_back(sequence);
                break;
            }
            self.jobs.pop_front();
        }
        self.jobs.front_mut()
    }

    /// Claims the sequences of the next batch, of which at least one belongs to the first job. Removes the first job
    /// and returns it if it has sequences left. Returns no sequences if no job is queued.
    pub(super) fn take(
        &mut self,
        selection: u64,
        budget: BatchBudget,
        is_finished: impl Fn(&JobState) -> bool,
        totals: &mut QueueTotals,
    ) -> (Vec<SequenceRef>, Option<QueuedJob>) {
        let (collected, visited) = self.collect_candidates(budget, is_finished, totals);
        // A sequence to which two jobs refer is one candidate.
        let is_first = |candidate: &&Candidate| {
            candidate.sequence.queue_meta.last_selection.swap(selection, Ordering::Relaxed) != selection
        };
        let candidates: Vec<&Candidate> = collected.iter().filter(is_first).collect();
        let lengths: Vec<usize> = candidates.iter().map(|candidate| candidate.sequence.tokens()).collect();
        let chosen = plan(&lengths, budget).into_iter().map(|index| Arc::clone(&candidates[index].sequence));
        let claimed: Vec<SequenceRef> = chosen.filter(|sequence| sequence.try_claim()).collect();
        totals.tokens -= claimed.iter().map(|sequence| sequence.tokens()).sum::<usize>();
        // The other candidates return to their jobs, in their former order.
        for Candidate { job, sequence } in collected.into_iter().rev() {
            if sequence.is_claimed() {
                sequence.queue_meta.references.fetch_sub(1, Ordering::Relaxed);
            } else {
                self.jobs[job].put_back(sequence);
            }
        }
        let mut visited: VecDeque<QueuedJob> = self.jobs.drain(..visited).collect();
        let anchor = visited.pop_front();
        for queued in visited.into_iter().rev().filter(|queued| !queued.sequences.is_empty()) {
            self.jobs.push_front(queued);
        }
        (claimed, anchor.filter(|queued| !queued.sequences.is_empty()))
    }

    /// Collects candidates round-robin: the first sequence of every job, then the second of every job, …, until there
    /// are enough. Returns them and the number of jobs visited.
    fn collect_candidates(
        &mut self,
        budget: BatchBudget,
        is_finished: impl Fn(&JobState) -> bool,
        totals: &mut QueueTotals,
    ) -> (Vec<Candidate>, usize) {
        self.front(&is_finished, totals);
        let mut set = CandidateSet { budget, candidates: Vec::new(), tokens: 0 };
        let mut contributors = Vec::new();
        let mut visited = 0;
        while visited < self.jobs.len() && !set.is_full() {
            let queued = &mut self.jobs[visited];
            if visited > 0 && is_finished(&queued.job) {
                queued.discard(totals);
            } else if let Some(sequence) = queued.next() {
                set.push(visited, sequence);
                contributors.push(visited);
            }
            visited += 1;
        }
        while !contributors.is_empty() && !set.is_full() {
            contributors.retain(|&job| {
                let sequence = if set.is_full() { None } else { self.jobs[job].next() };
                sequence.map(|sequence| set.push(job, sequence)).is_some()
            });
        }
        (set.candidates, visited)
    }

    /// Checks a few jobs, which may be far from the front, and discards the references of finished ones.
    pub(super) fn reap_finished(
        &mut self,
        is_finished: impl Fn(&JobState) -> bool,
        totals: &mut QueueTotals,
    ) {
        for _ in 0..REAP_PER_SELECTION.min(self.jobs.len()) {
            self.reaped = (self.reaped + 1) % self.jobs.len();
            let queued = &mut self.jobs[self.reaped];
            if is_finished(&queued.job) {
                queued.discard(totals);
            }
        }
    }
}
