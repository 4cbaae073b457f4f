//! One round of one competitor: start, profiles, resource usage, stop.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Result;

use super::{
    accuracy::{self, Cosines},
    competitors::{self, Competitor, Ready, launch::Launch},
    in_process::{self, Job},
    load,
    profile::{LIBRARY_PROFILES, Load, PROFILES, Profile},
    resource_usage::Usage,
    results::{Entry, Figure, Outcome, Round},
    running::{Running, log_of},
    sysinfo,
};
use testkit::workspace::Workspace;

/// Different texts of one job in process; they come again when all were embedded.
const JOB_TEXTS: u32 = 2048;

/// Selection of a measurement.
pub(crate) struct Plan<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) seconds: f64,
    /// Profiles' ids; empty for all.
    pub(crate) profiles: &'a [String],
    /// Vectors in fp32 of the texts that show the accuracy.
    pub(crate) reference: Option<Vec<Vec<f32>>>,
}

impl Plan<'_> {
    fn wants(&self, profile: &str) -> bool {
        self.profiles.is_empty() || self.profiles.iter().any(|wanted| wanted == profile)
    }

    /// Measures `competitor` once more and adds the round to `entry`. A competitor that cannot be started is marked so
    /// and not tried again.
    pub(crate) fn round(&self, competitor: &Competitor, entry: &mut Entry) {
        let Ok(ready) = &competitor.ready else { return };
        if entry.not_run.is_some() {
            return;
        }
        let round = match ready {
            Ready::Server { launch, cached } => self.server(competitor, (launch, cached.as_ref()), entry),
            Ready::InProcess { python, library } => self.in_process(python, library, entry),
        };
        match round {
            Ok(round) => entry.rounds.push(round),
            Err(error) => {
                eprintln!("  not run: {error:#}");
                entry.not_run = Some(format!("{error:#}"));
            }
        }
    }

    fn start(&self, competitor: &Competitor, launch: &Launch) -> Result<Running> {
        let log = log_of(&self.workspace.runtime(), competitor.name.label());
        let model = competitors::model(self.workspace);
        Running::start(|port| launch.command(&model, port), &log)
    }

    fn server(
        &self,
        competitor: &Competitor,
        (launch, cached): (&Launch, Option<&Launch>),
        entry: &mut Entry,
    ) -> Result<Round> {
        if entry.rounds.is_empty() {
            // Brings the files into the page cache, compiles Python's.
            let running = self.start(competitor, launch)?;
            entry.cosines = self.cosines(accuracy::ask(running.address));
            running.stop();
        }
        let (load, busy_cores) = (sysinfo::load(), sysinfo::busy_cores());
        let running = self.start(competitor, launch)?;
        let log = log_of(&self.workspace.runtime(), competitor.name.label());
        entry.note = fs::read_to_string(log).ok().as_deref().and_then(precision).unwrap_or_default();
        let idle = running.usage();
        let mut figures = BTreeMap::new();
        for (series, profile) in (0..).zip(&PROFILES) {
            let again = matches!(profile.load, Load::RepeatedTexts { .. });
            if self.wants(profile.id) && !(again && cached.is_some()) {
                figures.insert(profile.id.to_owned(), self.profile(&running, profile, series));
            }
        }
        let after = running.usage();
        let cold_milliseconds = Some(running.cold.as_secs_f64() * 1e3);
        running.stop();

        if let Some(cached) = cached {
            let again = (0..)
                .zip(&PROFILES)
                .filter(|(_, profile)| matches!(profile.load, Load::RepeatedTexts { .. }));
            for (series, profile) in again.filter(|(_, profile)| self.wants(profile.id)) {
                let running = self.start(competitor, cached)?;
                figures.insert(profile.id.to_owned(), self.profile(&running, profile, series));
                running.stop();
            }
        }
        Ok(Round {
            load,
            busy_cores,
            cold_milliseconds,
            idle_megabytes: idle.map(|usage| usage.resident_megabytes),
            after_megabytes: after.map(|usage| usage.resident_megabytes),
            peak_megabytes: after.map(|usage| usage.peak_megabytes),
            figures,
        })
    }

    /// Cosines of a competitor's vectors to those in fp32; `None` if one of them is missing.
    fn cosines(&self, vectors: Result<Vec<Vec<f32>>>) -> Option<Cosines> {
        let vectors = vectors.inspect_err(|error| eprintln!("  no cosine to fp32: {error:#}")).ok()?;
        let cosines = Cosines::between(&vectors, self.reference.as_deref()?);
        eprintln!("  cosine to fp32, worst / mean: {cosines}");
        Some(cosines)
    }

    fn profile(&self, running: &Running, profile: &Profile, series: u32) -> Outcome {
        let before = running.usage();
        let measured = load::run(running.address, profile.load, series, self.seconds);
        let after = running.usage();
        match measured {
            Ok(measured) => {
                let figure = Figure {
                    outside: outside(before, after),
                    ..Figure::new(&measured, cpu_between(before, after))
                };
                eprintln!(
                    "  {:34} {:9.1} texts/s  p50 {:8.2} ms  p99 {:8.2} ms",
                    profile.title,
                    figure.texts_per_second,
                    figure.p50.unwrap_or(f64::NAN),
                    figure.p99.unwrap_or(f64::NAN)
                );
                Outcome::Measured(figure)
            }
            Err(error) => {
                eprintln!("  {:34} failed: {error:#}", profile.title);
                Outcome::Failed(format!("{error:#}"))
            }
        }
    }

    fn in_process(&self, python: &Path, library: &str, entry: &mut Entry) -> Result<Round> {
        let jobs: Vec<Job> = (10..)
            .zip(&LIBRARY_PROFILES)
            .filter(|(_, job)| self.wants(job.compared_with))
            .map(|(series, job)| {
                Job::new(job.id, job.kind, series, JOB_TEXTS, self.seconds).single(job.single)
            })
            .collect();
        let log = log_of(&self.workspace.runtime(), library);
        let script = competitors::sources(self.workspace).join("in_process.py");
        let command = || in_process::python(python, &script, library, &competitors::model(self.workspace));
        if entry.rounds.is_empty() {
            let done = in_process::run(command(), &[Job::vectors(&accuracy::texts())], &log)?;
            entry.cosines = self.cosines(Ok(done.vectors));
        }
        let (load, busy_cores) = (sysinfo::load(), sysinfo::busy_cores());
        let done = in_process::run(command(), &jobs, &log)?;
        entry.note.clone_from(&done.note);
        let mut figures = BTreeMap::new();
        for (id, measured, cpu_seconds) in &done.jobs {
            let figure = Figure::new(measured, Some(*cpu_seconds));
            eprintln!("  {id:34} {:9.1} texts/s", figure.texts_per_second);
            figures.insert(id.clone(), Outcome::Measured(figure));
        }
        Ok(Round {
            load,
            busy_cores,
            cold_milliseconds: Some(done.cold_milliseconds),
            idle_megabytes: done.idle_megabytes,
            after_megabytes: None,
            peak_megabytes: done.peak_megabytes,
            figures,
        })
    }
}

fn cpu_between(before: Option<Usage>, after: Option<Usage>) -> Option<f64> {
    Some(after?.cpu_seconds - before?.cpu_seconds)
}

/// Share of the time in between that threads other than the model's took; `None` where no thread is the model's.
fn outside(before: Option<Usage>, after: Option<Usage>) -> Option<f64> {
    let (before, after) = (before?, after?);
    let model = after.model_seconds - before.model_seconds;
    (model > 0.0).then(|| 1.0 - model / (after.cpu_seconds - before.cpu_seconds))
}

/// Provider and precision from embedgate's start-up line: `… 384 dimensions · cpu fp32 · … · ready in …`.
fn precision(log: &str) -> Option<String> {
    let (_, rest) = log.split_once(" dimensions · ")?;
    rest.split_once(" · ").map(|(said, _)| said.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_precision_is_read_from_the_start_up_line() {
        let log = "loading\nINFO listening on http://127.0.0.1:1 · m · 384 dimensions · cpu bf16 amx · ready in 1 s\n";
        assert_eq!(precision(log).as_deref(), Some("cpu bf16 amx"));
        let proved = log.replace("amx", "amx · bf16: worst cosine 0.9999506 to fp32 (29 texts, 0.50 s)");
        assert_eq!(precision(&proved).as_deref(), Some("cpu bf16 amx"));
        assert_eq!(precision("Uvicorn running"), None);
    }
}
