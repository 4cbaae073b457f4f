//! `embedgate model pull`: downloads a model by name, or installs one from an archive or a folder.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use model_hub::{ArchiveLimits, PullProgress, PulledModel, RepoRef, unpack};
use model_import::ModelFolder;

use crate::cli::PullOptions;
use crate::command_error::{CommandError, Verdict};
use crate::config::Config;
use crate::hub::{self, HubModelError};
use crate::progress_line::{ProgressLine, bar, size};

/// Ends of the names of archives, which the name of the folder does not have.
const ARCHIVE_ENDS: [&str; 4] = [".tar.gz", ".tgz", ".tar", ".zip"];

/// Executes the command.
pub(crate) fn run(
    options: &PullOptions,
    config: &Config,
    onnx_file: Option<&Path>,
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    match (&options.model, &options.from) {
        (Some(model), None) => pull(model, options.to.as_deref(), config, onnx_file, out),
        (None, Some(source)) => install(source, options, config, onnx_file, out),
        _ => {
            Err(CommandError::Usage("name a model, ORG/NAME, or an archive or folder with --from".to_owned()))
        }
    }
}

/// Downloads a model into the cache, or into the folder `to`.
fn pull(
    model: &str,
    to: Option<&Path>,
    config: &Config,
    onnx_file: Option<&Path>,
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    let repo: RepoRef = model.parse().map_err(HubModelError::from)?;
    let hub = hub::client(&config.hub, &config.hub_access, to.is_none())?;
    let mut progress = PullLine::new();
    let mut observer = |step: PullProgress<'_>| progress.show(&step);
    let graph = onnx_file.and_then(Path::to_str);
    let pulled = match to {
        Some(to) => hub.pull_to(&repo, graph, to, &mut observer),
        None => hub.pull(&repo, graph, &mut observer),
    };
    progress.line.clear();
    let PulledModel { folder, commit, bytes, downloaded, unverified } =
        pulled.map_err(HubModelError::from)?;
    if !unverified.is_empty() {
        let files = unverified.join(", ");
        progress
            .line
            .note(&format!("warning: the hub states no digest, so only the length was checked: {files}"));
    }
    match commit {
        Some(commit) => {
            writeln!(out, "{repo} · commit {commit} · {} ({} downloaded)", size(bytes), size(downloaded))?;
        }
        None => writeln!(out, "{repo} · from the cache, without network")?,
    }
    describe(&repo.to_string(), &folder, onnx_file, to.is_none().then_some(&repo), out)
}

/// Unpacks an archive, or copies a folder, into a model folder.
fn install(
    source: &str,
    options: &PullOptions,
    config: &Config,
    onnx_file: Option<&Path>,
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    let is_address = source.starts_with("http://") || source.starts_with("https://");
    let name = source.trim_end_matches('/').rsplit(['/', '\\']).next().unwrap_or_default();
    let name = ARCHIVE_ENDS.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let target = match &options.to {
        Some(to) => to.clone(),
        None if name.is_empty() || name.starts_with('.') => {
            return Err(CommandError::Usage(format!(
                "{source} has no name: name the model's folder with --to"
            )));
        }
        None => Path::new("models").join(name),
    };
    let mut archive = PathBuf::from(source);
    if is_address {
        let sha256 = options.sha256.as_deref().ok_or_else(|| {
            CommandError::Usage(
                "an archive from another machine needs its digest: give it with --sha256".to_owned(),
            )
        })?;
        archive = target
            .clone()
            .into_os_string()
            .into_string()
            .map(|path| format!("{path}.archive"))
            .map_or(archive, PathBuf::from);
        let mut progress = PullLine::new();
        let mut observer = |step: PullProgress<'_>| progress.show(&step);
        let hub = hub::client(&config.hub, &config.hub_access, false)?;
        let fetched = hub.fetch_archive(source, sha256, &archive, &mut observer);
        progress.line.clear();
        fetched.map_err(HubModelError::from)?;
    } else if let Some(sha256) = &options.sha256 {
        model_hub::verify_sha256(&archive, sha256).map_err(HubModelError::from)?;
    }
    let unpacked = unpack(&archive, &target, ArchiveLimits::default());
    if is_address {
        // Unpacked or refused, it is of no further use.
        let _ = std::fs::remove_file(&archive);
    }
    unpacked.map_err(HubModelError::from)?;
    describe(name, &target, onnx_file, None, out)
}

/// Opens the model, and prints what it is and how to serve it.
fn describe(
    name: &str,
    folder: &Path,
    onnx_file: Option<&Path>,
    repo: Option<&RepoRef>,
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    let model = ModelFolder::open_with_graph(folder, onnx_file).map_err(|error| CommandError::Unusable {
        name: name.to_owned(),
        folder: folder.to_owned(),
        error: Box::new(error),
    })?;
    if let Some(manifest) = model.manifest() {
        manifest.verify_files(folder)?;
    }
    let mut line = ProgressLine::new();
    line.show("computing the fingerprint …");
    let fingerprint = model_import::fingerprint(&model, &mut |_| {});
    line.clear();
    let (family, dimensions, tokens) = (model.family(), model.dimensions(), model.max_input_tokens());
    writeln!(
        out,
        "{family} · {dimensions} dimensions · at most {tokens} tokens · fingerprint {}",
        fingerprint?
    )?;
    let prompts = model.prompts();
    if !prompts.is_empty() {
        let named = prompts.iter().map(|(name, text)| format!("{name} {text:?}"));
        writeln!(out, "prompts: {}", named.collect::<Vec<_>>().join(", "))?;
    }
    writeln!(out, "{}", folder.display())?;
    let to_serve = repo.map_or_else(|| folder.display().to_string(), RepoRef::to_string);
    let graph = onnx_file.map(|graph| format!(" --onnx-file {}", graph.display())).unwrap_or_default();
    writeln!(out, "\nserve it with: embedgate serve --model {to_serve}{graph}")?;
    Ok(Verdict::Pass)
}

/// The line about a download: a bar, the bytes, the rate and the file.
struct PullLine {
    line: ProgressLine,
    started: Instant,
    /// Bytes that were there before.
    before: Option<u64>,
}

impl PullLine {
    fn new() -> Self {
        Self { line: ProgressLine::new(), started: Instant::now(), before: None }
    }

    fn show(&mut self, progress: &PullProgress<'_>) {
        match *progress {
            PullProgress::Bytes { file, done, total } => {
                let before = *self.before.get_or_insert(done);
                let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
                let rate = size(done.saturating_sub(before).saturating_mul(1000) / millis);
                let (bar, done, total) = (bar(done, total), size(done), size(total));
                self.line.show(&format!("{bar} {done} of {total} · {rate}/s · {file}"));
            }
            PullProgress::Verifying { file } => self.line.show(&format!("checking {file} …")),
            PullProgress::Waiting { file } => {
                self.line.show(&format!("waiting for another process that downloads {file} …"));
            }
            PullProgress::Retrying { file, reason, wait } => {
                let seconds = wait.as_secs_f64();
                self.line.note(&format!("{file}: {reason}; trying again in {seconds:.0} s"));
            }
        }
    }
}
