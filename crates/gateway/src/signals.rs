//! Signals that request the program to stop.

use std::io;

use futures_util::Stream;

/// Requests to stop, one for each SIGTERM, SIGINT (Ctrl-C) or SIGHUP. The signals are caught from this call on, not
/// from the first poll; equal signals before a poll count once. Requires a tokio runtime.
///
/// A terminal that closes sends SIGHUP, which kills a program that does not catch it. If the process was started with
/// SIGHUP ignored, as by `nohup`, it stays ignored.
///
/// # Errors
/// If the system does not allow to catch a signal.
#[cfg(unix)]
pub fn stop_requests() -> io::Result<impl Stream<Item = ()> + Unpin> {
    use futures_util::stream::{StreamExt, select_all, unfold};
    use tokio::signal::unix::{SignalKind, signal};

    let mut kinds = vec![SignalKind::terminate(), SignalKind::interrupt()];
    if !is_hangup_ignored() {
        kinds.push(SignalKind::hangup());
    }
    let requests = kinds.into_iter().map(|kind| {
        let caught = signal(kind)?;
        let next = |mut caught: tokio::signal::unix::Signal| async { Some((caught.recv().await?, caught)) };
        Ok(unfold(caught, next).boxed_local())
    });
    Ok(select_all(requests.collect::<io::Result<Vec<_>>>()?))
}

/// Returns true if the process was started with SIGHUP ignored. Without `unsafe` code only Linux reports this.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Signal 1 is the lowest bit.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// Requests to stop, one for each Ctrl-C.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn stop_requests() -> io::Result<impl Stream<Item = ()> + Unpin> {
    use futures_util::stream::{StreamExt, unfold};

    let next = |()| async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "cannot wait for Ctrl-C: shutting down");
        }
        Some(((), ()))
    };
    Ok(unfold((), next).boxed_local())
}
