//! Estimates of the wait in a fair queue, and their comparison with deadlines.

use std::time::{Duration, Instant};

use super::QueueDemand;
use crate::error::SubmitError;

/// Expected times are multiplied by this before they are compared with a deadline. Later jobs share the workers with
/// the admitted one, and throughput is an average: under a steady overload, a server that admitted jobs without this
/// margin would finish almost none of them in time (stress scenario `overload`).
const DEADLINE_SAFETY_FACTOR: f64 = 1.75;

/// Maximum number of quanta of a job for which later jobs are assumed to keep the queue as full as it is: each of these
/// quanta waits for one round of all waiting jobs. No new jobs are predicted for the later quanta of a longer job.
const MAX_PREDICTED_ROUNDS: usize = 4;

/// Number of tokens that are computed before a job with this demand is done, behind `jobs` jobs with `waiting`
/// tokens. The queue is fair, so each job ahead delays this one by no more than its own remaining tokens, and by no
/// more than the tokens of this job. If this job needs several quanta, jobs that arrive before its next quantum go
/// first.
pub(super) fn tokens_until_done(quantum: usize, waiting: usize, jobs: usize, demand: QueueDemand) -> usize {
    let QueueDemand { new, total, .. } = demand;
    let round = waiting.min(jobs.saturating_mul(total.min(quantum)));
    let rounds = total.div_ceil(quantum).min(MAX_PREDICTED_ROUNDS);
    let fair = jobs.saturating_mul(total).saturating_add(total);
    // The job's shared tokens are part of `waiting`, and the quanta of other jobs compute them, too.
    (waiting + new).min(fair).max(round * rounds + new)
}

/// Checks that work which takes `needed` is done before `deadline`, with [`DEADLINE_SAFETY_FACTOR`] as the margin.
pub(super) fn check_deadline(needed: Duration, deadline: Instant) -> Result<(), SubmitError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if needed.as_secs_f64() * DEADLINE_SAFETY_FACTOR > left.as_secs_f64() {
        let excess = needed.saturating_sub(left.div_f64(DEADLINE_SAFETY_FACTOR));
        return Err(SubmitError::DeadlineUnmeetable { retry_after: clamp_retry_after(excess) });
    }
    Ok(())
}

/// Rounds up to whole seconds from 1 to 60, the unit of `retry-after`.
pub(super) fn clamp_retry_after(wait: Duration) -> Duration {
    Duration::from_secs((wait.as_secs_f64().ceil() as u64).clamp(1, 60))
}
