//! Limits for repeating failed requests.

use std::time::Duration;

/// Number of attempts and the waits between them.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Attempts of a request that makes no progress. A download that has received bytes since the last attempt counts
    /// from 1 again.
    pub max_attempts: u32,
    /// Wait before the second attempt; each further one waits twice as long.
    pub first_backoff: Duration,
    /// Longest wait that a hub may ask for (`retry-after`). A hub that asks for more ends the download.
    pub max_wait: Duration,
    /// Time without a byte after which a connection counts as broken.
    pub stall_timeout: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            first_backoff: Duration::from_secs(1),
            max_wait: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// Returns the wait after the failed attempt `attempt`, counted from 1.
    pub(crate) fn backoff(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(5);
        (self.first_backoff * 2_u32.pow(doublings)).min(self.max_wait)
    }
}
