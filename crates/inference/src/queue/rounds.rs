//! In which round a job's turn comes, so that callers take turns however many jobs each of them has.
//!
//! This is fair queueing with a job's batch as the unit: a caller's jobs stand in one round after the other, and a
//! caller who comes new stands in the present one. So one who has a thousand jobs delays another's single job by one
//! batch, not by a thousand. With one caller it is a queue like any other.

use std::collections::HashMap;

use crate::CallerId;

/// Callers that are remembered before those whose rounds have passed are forgotten.
const REMEMBERED: usize = 1024;

/// The rounds that are given out.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// The round of the last turn.
    now: u64,
    /// The last round that each caller was given.
    last: HashMap<Option<CallerId>, u64>,
}

impl Rounds {
    /// The round of `caller`'s next job.
    pub(super) fn next(&mut self, caller: Option<CallerId>) -> u64 {
        if self.last.len() >= REMEMBERED {
            self.last.retain(|_, last| *last >= self.now);
        }
        let round = self.last.get(&caller).map_or(self.now, |last| (last + 1).max(self.now));
        self.last.insert(caller, round);
        round
    }

    /// A job of `round` has its turn.
    pub(super) fn reach(&mut self, round: u64) {
        self.now = self.now.max(round);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u64) -> Option<CallerId> {
        Some(CallerId(number))
    }

    #[test]
    fn one_caller_is_served_in_order() {
        let mut rounds = Rounds::default();
        assert_eq!([None; 3].map(|caller| rounds.next(caller)), [0, 1, 2]);
    }

    #[test]
    fn a_new_caller_stands_in_the_present_round() {
        let mut rounds = Rounds::default();
        let busy = [1; 100].map(|number| rounds.next(caller(number)));
        rounds.reach(busy[9]);
        assert_eq!((rounds.next(caller(2)), rounds.next(caller(2)), rounds.next(caller(1))), (9, 10, 100));
        // One who was away gains nothing by it.
        rounds.reach(50);
        assert_eq!(rounds.next(caller(2)), 50);
    }

    #[test]
    fn those_whose_rounds_have_passed_are_forgotten() {
        let mut rounds = Rounds::default();
        for number in 0..10 * REMEMBERED as u64 {
            let round = rounds.next(caller(number));
            rounds.reach(round + 1);
        }
        assert!(rounds.last.len() <= REMEMBERED);
    }
}
