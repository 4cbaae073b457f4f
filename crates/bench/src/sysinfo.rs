//! Properties of the machine that affect the figures.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use testkit::{process::capture, workspace::Workspace};

/// Instruction sets that determine a model's speed, in the names of `/proc/cpuinfo`.
const FLAGS: [&str; 8] =
    ["avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"];

/// The machine of the figures.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) processor: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    pub(crate) flags: Vec<String>,
    pub(crate) memory_gigabytes: f64,
    /// Kernel and its release.
    pub(crate) system: String,
    /// Frequency governor, if the kernel reports it.
    pub(crate) governor: Option<String>,
    pub(crate) commit: String,
}

impl Machine {
    pub(crate) fn read(workspace: &Workspace) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
        };
        let known: Vec<&str> = field("flags").split(' ').collect();
        let say = |program: &str, arguments: &[&str]| {
            let said = capture(Command::new(program).args(arguments).current_dir(workspace.root()));
            said.map_or_else(|_| "unknown".into(), |said| said.trim().to_owned())
        };
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kilobytes = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kilobytes = kilobytes.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
        let governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
        Self {
            date: say("date", &["-u", "+%Y-%m-%d"]),
            processor: field("model name").to_owned(),
            cores: thread::available_parallelism().map_or(0, usize::from),
            flags: FLAGS.iter().filter(|flag| known.contains(flag)).map(ToString::to_string).collect(),
            memory_gigabytes: kilobytes.unwrap_or(0.0) * 1024.0 / 1e9,
            system: say("uname", &["-srm"]),
            governor: fs::read_to_string(governor).ok().map(|name| name.trim().to_owned()),
            commit: say("git", &["describe", "--always", "--dirty"]),
        }
    }
}

/// The load average over the last minute: runnable processes. `None` where the kernel does not say.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Cores that other processes keep busy, measured over one idle second of this program.
///
/// The load average still includes the previous competitor. `None` without `/proc/stat`.
pub(crate) fn busy_cores() -> Option<f64> {
    let ticks = || busy_ticks(&fs::read_to_string("/proc/stat").ok()?);
    let (before, started) = (ticks()?, Instant::now());
    thread::sleep(Duration::from_secs(1));
    Some((ticks()? - before) / super::resource_usage::TICKS / started.elapsed().as_secs_f64())
}

/// Of the line `cpu user nice system idle iowait irq softirq steal …`, all but idle and iowait (proc(5)).
fn busy_ticks(stat: &str) -> Option<f64> {
    let ticks: Vec<f64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] = *ticks.first_chunk()?;
    Some(user + nice + system + irq + softirq + steal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_iowait_are_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 3 1000 5000 4 5 6 0 0\ncpu0 9 9\n"), Some(21.0));
        assert_eq!(busy_ticks("cpu 1 2"), None);
    }
}
