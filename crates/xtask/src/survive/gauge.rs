//! What a process holds at one moment (memory, descriptors, threads), and whether it grows.

use std::fs;

use anyhow::{Context, Result};

/// One look at a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Resident memory in megabytes (10⁶ bytes).
    pub(super) resident: f64,
    /// Of these, what the process itself allocated. The rest is pages of mapped files, which the system takes back
    /// when it needs them: of the weights, as many as texts have asked for.
    pub(super) allocated: f64,
    pub(super) descriptors: usize,
    pub(super) threads: usize,
}

/// Looks at the process `id`.
///
/// # Errors
/// There is no such process, or no `/proc`.
pub(super) fn look(id: u32) -> Result<Sample> {
    let path = format!("/proc/{id}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let number = |name: &str| -> Result<usize> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        word.and_then(|word| word.parse().ok()).with_context(|| format!("{path} has no {name}"))
    };
    let open = format!("/proc/{id}/fd");
    let descriptors = fs::read_dir(&open).with_context(|| format!("cannot list {open}"))?.count();
    let megabytes = |name| number(name).map(|kibibytes| kibibytes as f64 * 1024.0 / 1e6);
    Ok(Sample {
        resident: megabytes("VmRSS:")?,
        allocated: megabytes("RssAnon:")?,
        descriptors,
        threads: number("Threads:")?,
    })
}

/// Whether the process `id` catches SIGTERM by now.
///
/// # Errors
/// As [`look`].
pub(super) fn catches_sigterm(id: u32) -> Result<bool> {
    const SIGTERM: u64 = 1 << 14;
    let path = format!("/proc/{id}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim);
    let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok());
    Ok(mask.with_context(|| format!("{path} has no SigCgt"))? & SIGTERM != 0)
}

/// By how much `y` grows when `x` grows by one: the line of least squares. 0 of fewer than two points.
pub(super) fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if spread == 0.0 || points.len() < 2 {
        return 0.0;
    }
    points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_by_hand() {
        assert!((slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]) - 2.0).abs() < 1e-12);
        assert!((slope(&[(0.0, 1.0), (1.0, 0.0), (2.0, 1.0)])).abs() < 1e-12);
        assert_eq!(slope(&[]), 0.0);
        assert_eq!(slope(&[(1.0, 3.0), (1.0, 4.0)]), 0.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_can_be_looked_at_and_one_that_is_gone_cannot() {
        let before = look(std::process::id()).unwrap();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = look(std::process::id()).unwrap();
        assert!(before.allocated > 0.1 && before.resident > before.allocated && before.threads > 0);
        assert!(after.descriptors >= before.descriptors.saturating_sub(20) + files.len());
        assert!(look(u32::MAX).is_err());
        assert!(!catches_sigterm(std::process::id()).unwrap());
    }
}
