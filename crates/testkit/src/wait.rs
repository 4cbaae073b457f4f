//! Waiting for a condition, always with a limit.

use std::thread;
use std::time::{Duration, Instant};

/// Default limit. A loaded machine may be slow; a hang must still end.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Time between two probes.
const INTERVAL: Duration = Duration::from_millis(5);

/// Calls `probe` until it returns a value; `None` after `timeout`.
pub fn poll<T>(timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let found = probe();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        thread::sleep(INTERVAL);
    }
}

/// Waits until `condition` returns true.
///
/// # Panics
/// After [`TIMEOUT`], with `what`.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(poll(TIMEOUT, || condition().then_some(())).is_some(), "not within {TIMEOUT:?}: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_returns_the_first_value_or_gives_up() {
        let mut calls = 0;
        let found = poll(TIMEOUT, || {
            calls += 1;
            (calls == 3).then_some(calls)
        });
        assert_eq!(found, Some(3));
        assert_eq!(poll(Duration::ZERO, || None::<()>), None);
    }
}
