//! Whether the machine itself stood still while something was tested.
//!
//! A virtual machine can be halted, or lose a core to others, for seconds. A server with deadlines of seconds then
//! answers late, rightly, and a test of these deadlines says nothing about the server. So a part that fails while the
//! machine stood still is tried again; one that fails on a machine that ran is broken.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// How often the watch looks.
const PULSE: Duration = Duration::from_millis(20);
/// From here on a standstill can make a deadline of two seconds be missed that is met with time to spare otherwise.
const EXCUSE: Duration = Duration::from_millis(500);
/// Length of one of the kernel's ticks, the unit of `/proc/stat` (proc(5); `USER_HZ` is 100 on every Linux).
const TICK: Duration = Duration::from_millis(10);

/// Looks at the clocks until it is asked.
pub(super) struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Watch {
    pub(super) fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        Self { over, thread: thread::spawn(move || longest(&seen)) }
    }

    /// Ends the watch: the longest time for which nothing ran, on all cores or on one.
    pub(super) fn end(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        // It does nothing that could panic; what it did not see is no excuse.
        self.thread.join().unwrap_or_default()
    }
}

/// Whether so long a standstill can be why something came too late.
pub(super) fn excuses(standstill: Duration) -> bool {
    standstill >= EXCUSE
}

fn longest(over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    let (mut steady, mut wall, mut stolen) = (Instant::now(), SystemTime::now(), stolen_now());
    while !over.load(Ordering::Relaxed) {
        thread::sleep(PULSE);
        let now = (Instant::now(), SystemTime::now(), stolen_now());
        // A machine that was halted may find only its wall clock changed.
        let passed = now.1.duration_since(wall).unwrap_or_default().max(now.0 - steady);
        let taken = now.2.iter().zip(&stolen).map(|(now, before)| now.saturating_sub(*before)).max();
        longest = longest.max(passed.saturating_sub(PULSE)).max(taken.unwrap_or_default());
        (steady, wall, stolen) = now;
    }
    longest
}

fn stolen_now() -> Vec<Duration> {
    // Where there is no such file, the clocks must do.
    stolen(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// For each core, how long others have had it while something here wanted to run: the eighth number of its line.
fn stolen(stat: &str) -> Vec<Duration> {
    let cores = stat.lines().skip(1).take_while(|line| line.starts_with("cpu"));
    cores.filter_map(|line| Some(TICK * line.split_whitespace().nth(8)?.parse().ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_read_core_by_core() {
        let stat =
            "cpu  1 2 3 4 5 6 7 250 0 0\ncpu0 1 2 3 4 5 6 7 200 0 0\ncpu1 1 2 3 4 5 6 7 50 0 0\nintr 9\n";
        assert_eq!(stolen(stat), [Duration::from_secs(2), Duration::from_millis(500)]);
        assert!(stolen("").is_empty());
    }

    #[test]
    fn a_watch_ends_when_asked_and_a_moment_is_no_excuse() {
        let watch = Watch::start();
        let _ = watch.end();
        assert!(!excuses(Duration::from_millis(499)) && excuses(Duration::from_secs(2)));
    }
}
