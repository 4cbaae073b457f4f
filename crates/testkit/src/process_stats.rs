//! Memory, descriptors and threads of a process at one moment, and their growth.

use std::fs;

use anyhow::{Context, Result};

/// Resources of a process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Resident memory in megabytes (10⁶ bytes).
    pub resident: f64,
    /// Anonymous part of it, in megabytes. The rest is pages of mapped files (the weights), which the kernel can
    /// reclaim.
    pub allocated: f64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

/// Samples the process `id`.
///
/// # Errors
/// There is no such process, or no `/proc`.
pub fn sample(id: u32) -> Result<Sample> {
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

/// Returns true if the process `id` has a handler for SIGTERM.
///
/// # Errors
/// As [`sample`].
pub fn catches_sigterm(id: u32) -> Result<bool> {
    const SIGTERM: u64 = 1 << 14;
    let path = format!("/proc/{id}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim);
    let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok());
    Ok(mask.with_context(|| format!("{path} has no SigCgt"))? & SIGTERM != 0)
}

/// Slope of the least-squares line through the points (x, y); 0 for fewer than two points.
pub fn slope(points: &[(f64, f64)]) -> f64 {
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
    fn a_running_process_has_statistics_and_an_ended_one_has_none() {
        let before = sample(std::process::id()).unwrap();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = sample(std::process::id()).unwrap();
        assert!(before.allocated > 0.1 && before.resident > before.allocated && before.threads > 0);
        assert!(after.descriptors >= before.descriptors.saturating_sub(20) + files.len());
        assert!(sample(u32::MAX).is_err());
        assert!(!catches_sigterm(std::process::id()).unwrap());
    }
}
