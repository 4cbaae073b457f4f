//! Memory and CPU time of a process and its children, and sizes on disk.

use std::{collections::BTreeMap, fs, path::Path};

/// Clock ticks a second in `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux that programs see.
pub(crate) const TICKS: f64 = 100.0;
const MEGABYTE: f64 = 1e6;

/// Memory and time of a process with all its descendants.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) resident_megabytes: f64,
    /// Sum of each process's peak.
    pub(crate) peak_megabytes: f64,
    pub(crate) cpu_seconds: f64,
    /// Part of the threads that compute vectors in embedgate; 0 in another server.
    pub(crate) model_seconds: f64,
}

/// Names of embedgate's threads that compute vectors.
const MODEL_THREADS: [&str; 2] = ["worker", "helper"];

/// Reads `/proc`; `None` without `/proc` or process.
pub(crate) fn of(process: u32) -> Option<Usage> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").ok()?.filter_map(Result::ok) {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end at any time.
        if let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(stat) {
            parents.insert(id, stat);
        }
    }
    parents.get(&process)?;
    let mut family = vec![process];
    let mut usage = Usage::default();
    while let Some(id) = family.pop() {
        family.extend(parents.iter().filter(|(_, stat)| stat.parent == id).map(|(child, _)| child));
        usage.cpu_seconds += parents.get(&id).map_or(0.0, |stat| stat.ticks / TICKS);
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        usage.resident_megabytes += megabytes(&status, "VmRSS:");
        usage.peak_megabytes += megabytes(&status, "VmHWM:");
        usage.model_seconds += model_seconds(id);
    }
    Some(usage)
}

fn model_seconds(id: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().filter_map(Result::ok);
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    stats.filter_map(|line| stat(&line)).filter(|stat| stat.is_model).map(|stat| stat.ticks / TICKS).sum()
}

#[derive(Debug, PartialEq)]
struct Stat {
    parent: u32,
    /// In user and kernel mode, with reaped children.
    ticks: f64,
    is_model: bool,
}

/// Fields 4 and 14 to 17 of `/proc/PID/stat` (proc(5)); the name in field 2 may hold spaces and parentheses.
fn stat(line: &str) -> Option<Stat> {
    let (start, rest) = line.rsplit_once(')')?;
    let (_, name) = start.split_once('(')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let ticks = fields.get(11..15)?.iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    Some(Stat { parent, ticks, is_model: MODEL_THREADS.contains(&name) })
}

fn megabytes(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) * 1024.0 / MEGABYTE
}

/// Megabytes of a file or folder, and of those the ones that CUDA needs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Size {
    pub(crate) megabytes: f64,
    pub(crate) cuda_megabytes: f64,
}

impl Size {
    /// Adds a file or folder; links are not followed, a missing path counts 0.
    pub(crate) fn add(&mut self, path: &Path) {
        let Ok(found) = path.symlink_metadata() else { return };
        if found.is_dir() {
            for entry in fs::read_dir(path).into_iter().flatten().filter_map(Result::ok) {
                self.add(&entry.path());
            }
        } else if found.is_file() {
            let megabytes = found.len() as f64 / MEGABYTE;
            self.megabytes += megabytes;
            if is_cuda(path) {
                self.cuda_megabytes += megabytes;
            }
        }
    }
}

/// Returns true if a file's path shows that only NVIDIA's GPUs need it.
fn is_cuda(path: &Path) -> bool {
    path.iter().any(|part| {
        let part = part.to_string_lossy();
        part.starts_with("nvidia") || part.starts_with("triton") || part.contains("cuda")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_stat_is_read_despite_its_name() {
        let line = "7 (a) b (c) S 3 7 7 0 -1 4194560 10 20 0 0 150 50 7 3 20 0 2 0 99 1 2";
        assert_eq!(stat(line), Some(Stat { parent: 3, ticks: 210.0, is_model: false }));
        assert!(stat(&line.replace("a) b (c", "worker")).unwrap().is_model);
        assert_eq!(stat("7 (a) S"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_memory_and_one_that_is_gone_is_unknown() {
        let usage = of(std::process::id()).unwrap();
        assert!(usage.resident_megabytes > 0.5 && usage.peak_megabytes > 0.5, "{usage:?}");
        assert_eq!(of(u32::MAX), None);
    }

    #[test]
    fn sizes_add_up_and_tell_cuda_apart() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("site/nvidia/lib")).unwrap();
        fs::write(folder.path().join("site/nvidia/lib/a.so"), vec![0; 2000]).unwrap();
        fs::write(folder.path().join("site/libtorch_cuda.so"), vec![0; 3000]).unwrap();
        fs::write(folder.path().join("site/libtorch_cpu.so"), vec![0; 1000]).unwrap();
        let mut size = Size::default();
        size.add(folder.path());
        size.add(&folder.path().join("missing"));
        assert!((size.megabytes - 0.006).abs() < 1e-9 && (size.cuda_megabytes - 0.005).abs() < 1e-9);
    }
}
