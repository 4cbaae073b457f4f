//! Start-time fair queueing between callers (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996), with equal
//! weights and a batch as the packet.
//!
//! Each job has a start tag, and the job with the smallest one runs next. A caller's jobs get consecutive tags, and a
//! new caller starts at the present virtual time. So a caller with a thousand jobs delays another caller's single job
//! by one batch. Jobs of one caller run in order of arrival.

use std::collections::HashMap;

use crate::admission::CallerId;

/// Number of callers above which those whose last start tag has passed are removed.
const MAX_TRACKED_CALLERS: usize = 1024;

/// Virtual time, and the start tags that have been assigned.
#[derive(Debug, Default)]
pub(super) struct VirtualTime {
    /// Start tag of the last selected job.
    now: u64,
    last_start_tags: HashMap<Option<CallerId>, u64>,
}

impl VirtualTime {
    /// Assigns the start tag of the next batch of `caller`.
    pub(super) fn next_start_tag(&mut self, caller: Option<CallerId>) -> u64 {
        if self.last_start_tags.len() >= MAX_TRACKED_CALLERS {
            self.last_start_tags.retain(|_, last| *last >= self.now);
        }
        let start_tag = self.last_start_tags.get(&caller).map_or(self.now, |last| (last + 1).max(self.now));
        self.last_start_tags.insert(caller, start_tag);
        start_tag
    }

    /// Advances virtual time to the start tag of the selected job.
    pub(super) fn advance_to(&mut self, start_tag: u64) {
        self.now = self.now.max(start_tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u64) -> Option<CallerId> {
        Some(CallerId(number))
    }

    #[test]
    fn jobs_of_one_caller_run_in_order_of_arrival() {
        let mut time = VirtualTime::default();
        assert_eq!([None; 3].map(|caller| time.next_start_tag(caller)), [0, 1, 2]);
    }

    #[test]
    fn a_new_caller_starts_at_the_present_virtual_time() {
        let mut time = VirtualTime::default();
        let busy = [1; 100].map(|number| time.next_start_tag(caller(number)));
        time.advance_to(busy[9]);
        let tags = [2, 2, 1].map(|number| time.next_start_tag(caller(number)));
        assert_eq!(tags, [9, 10, 100]);
        // An idle caller saves up no share.
        time.advance_to(50);
        assert_eq!(time.next_start_tag(caller(2)), 50);
    }

    #[test]
    fn callers_whose_start_tags_have_passed_are_removed() {
        let mut time = VirtualTime::default();
        for number in 0..10 * MAX_TRACKED_CALLERS as u64 {
            let start_tag = time.next_start_tag(caller(number));
            time.advance_to(start_tag + 1);
        }
        assert!(time.last_start_tags.len() <= MAX_TRACKED_CALLERS);
    }
}
