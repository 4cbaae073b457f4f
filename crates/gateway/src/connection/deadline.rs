//! The time at which a connection is ended. It depends on the phase and, while sending, on the rate.
//!
//! Most phases have a timeout that counts from their beginning. Sending has a time budget, which shrinks while the
//! socket accepts nothing, grows by `1 / min_send_rate` seconds for each byte that it accepts, and never exceeds
//! `send_timeout`. So the connection of a client that stops reading ends after at most `send_timeout`, and that of a
//! client that is too slow on average a little later. A client that only pauses now and then keeps its connection.

use std::time::Duration;

use tokio::time::Instant;

use super::{Limits, Phase};

/// Deadline of one connection.
pub(super) struct Deadline {
    limits: Limits,
    phase: Option<Phase>,
    at: Option<Instant>,
    /// Time left for sending.
    budget: Duration,
    /// Bytes written, and the time, at the last update.
    written: u64,
    updated: Instant,
}

impl Deadline {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, phase: None, at: None, budget: limits.send, written: 0, updated: now }
    }

    /// The deadline of a connection that is in `phase` and has written `written` bytes; `None` for no deadline.
    pub(super) fn update(&mut self, phase: Option<Phase>, written: u64, now: Instant) -> Option<Instant> {
        if self.phase == Some(Phase::Send) {
            self.budget = self.budget.saturating_sub(now - self.updated);
        }
        let sent = written - self.written;
        let earned = self.limits.earned(sent);
        self.budget = self.budget.saturating_add(earned).min(self.limits.send);
        self.at = match phase {
            None => None,
            Some(Phase::Send) => now.checked_add(self.budget),
            Some(phase) => {
                self.budget = self.limits.send;
                let limit = if phase == Phase::Idle { self.limits.idle } else { self.limits.head };
                // The dispatcher can read a request and answer it in one poll. Then the phase is the same, but a new
                // period began with the response.
                let continues = self.phase == Some(phase) && sent == 0;
                if continues { self.at } else { now.checked_add(limit) }
            }
        };
        (self.phase, self.written, self.updated) = (phase, written, now);
        self.at
    }
}

impl Limits {
    /// Time budget that a client earns by accepting `bytes` bytes.
    fn earned(&self, bytes: u64) -> Duration {
        if bytes == 0 {
            Duration::ZERO
        } else if self.min_send_rate == 0 {
            Duration::MAX
        } else {
            Duration::from_secs_f64(bytes as f64 / self.min_send_rate as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const LIMITS: Limits = Limits {
        head: seconds(10),
        idle: seconds(90),
        send: seconds(30),
        min_send_rate: 1000,
        linger_bytes: 0,
    };

    /// Seconds until the connection ends of a client that accepts `bytes` bytes of an endless response every `pause`
    /// seconds, if within a day.
    fn lifetime(limits: Limits, bytes: u64, pause: u64) -> Option<u64> {
        let start = Instant::now();
        let mut deadline = Deadline::new(limits, start);
        (0..86_400 / pause).find_map(|step| {
            let now = start + seconds(step * pause);
            let end = deadline.update(Some(Phase::Send), bytes * step, now)?;
            (end < now + seconds(pause)).then(|| (end - start).as_secs())
        })
    }

    #[test]
    fn a_client_that_accepts_nothing_is_ended_after_the_send_timeout() {
        assert_eq!(lifetime(LIMITS, 0, 1), Some(30));
    }

    #[test]
    fn only_a_client_below_the_minimum_rate_is_ended() {
        assert_eq!(lifetime(LIMITS, 1000, 1), None);
        assert_eq!(lifetime(LIMITS, 25_000, 25), None);
        assert_eq!(lifetime(LIMITS, 500, 1), Some(59));
        // A burst, however large, does not raise the budget above the timeout.
        assert_eq!(lifetime(LIMITS, 1_000_000_000, 40), Some(30));
    }

    #[test]
    fn without_a_minimum_rate_any_byte_is_enough() {
        let limits = Limits { min_send_rate: 0, ..LIMITS };
        assert_eq!(lifetime(limits, 1, 29), None);
        assert_eq!(lifetime(limits, 0, 1), Some(30));
    }

    #[test]
    fn the_budget_does_not_shrink_while_the_server_computes() {
        let start = Instant::now();
        let mut deadline = Deadline::new(LIMITS, start);
        deadline.update(Some(Phase::Send), 0, start);
        assert_eq!(deadline.update(None, 0, start + seconds(10)), None);
        let end = deadline.update(Some(Phase::Send), 0, start + seconds(1000));
        assert_eq!(end, Some(start + seconds(1020)));
    }

    #[test]
    fn a_timeout_counts_from_the_beginning_of_its_phase() {
        let start = Instant::now();
        let mut deadline = Deadline::new(LIMITS, start);
        for (after, phase, end) in [
            (0, Some(Phase::Head), Some(10)),
            (9, Some(Phase::Head), Some(10)),
            (9, None, None),
            (500, Some(Phase::Idle), Some(590)),
            (580, Some(Phase::Head), Some(590)),
        ] {
            let found = deadline.update(phase, 0, start + seconds(after));
            assert_eq!(found, end.map(|end| start + seconds(end)), "{phase:?} after {after} s");
        }
    }

    #[test]
    fn a_response_begins_a_new_period() {
        let start = Instant::now();
        let mut deadline = Deadline::new(LIMITS, start);
        for (after, phase, written, end) in [
            (0, Phase::Idle, 0, 90),
            // A request was read and answered in one poll.
            (60, Phase::Idle, 100, 150),
            // Bytes that are not a request change nothing.
            (120, Phase::Idle, 100, 150),
            (130, Phase::Head, 100, 140),
            (135, Phase::Head, 200, 145),
        ] {
            let found = deadline.update(Some(phase), written, start + seconds(after));
            assert_eq!(found, Some(start + seconds(end)), "{phase:?} after {after} s");
        }
    }

    #[test]
    fn without_a_limit_there_is_no_deadline() {
        let limits = Limits { head: Duration::MAX, send: Duration::MAX, ..LIMITS };
        let now = Instant::now();
        let mut deadline = Deadline::new(limits, now);
        assert_eq!(deadline.update(Some(Phase::Head), 0, now), None);
        assert_eq!(deadline.update(Some(Phase::Send), 10, now), None);
    }
}
