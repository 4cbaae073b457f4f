//! `embedgate model …`: downloads, imports, lists, verifies and benchmarks models.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inference::{GoldenError, GoldenText};
use model_import::{Golden, ImportProgress, ImportStage, ModelFolder, Task};

use crate::backend::{Selection, SelectionReason};
use crate::cli::ModelAction;
pub use crate::command_error::{CommandError, Verdict};
use crate::config::{self, CliArgs, Config, DEFAULT_MODEL, ProcessEnv};
use crate::error_chain::error_chain;
use crate::hub;
use crate::load::{
    CacheFactory, Encoders, LoadContext, ModelLoadError, Prover, Runtime, encoders, fingerprint,
    max_input_tokens, min_golden_cosine, no_folder, plan_backends, select_backend, tokenizer,
};
use crate::model_bench::{self, BenchParams};
use crate::progress_line::ProgressLine;
use crate::registry::{LoadedModel, PER_TEXT};
use crate::{model_list, model_pull};

/// Executes `action`. The result goes to `out`, progress to standard error if that is a terminal.
///
/// # Errors
/// When the action fails. A model that fails its golden check is no error but [`Verdict::Fail`].
pub fn run(
    action: &ModelAction,
    args: &CliArgs,
    env: &ProcessEnv,
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    match action {
        ModelAction::Pull(options) => {
            let config = Config::resolve_for(Path::new(DEFAULT_MODEL), args, env)?;
            model_pull::run(options, &config, config::onnx_file(args, env).as_deref(), out)
        }
        ModelAction::Import { folder } => {
            let onnx_file = config::onnx_file(args, env);
            if folder.is_dir() {
                return import(folder, onnx_file.as_deref(), out);
            }
            let config = Config::resolve_for(folder, args, env)?;
            import(&in_cache(folder, &config), onnx_file.as_deref(), out)
        }
        ModelAction::List { folder, json } => {
            let config = Config::resolve_for(Path::new(DEFAULT_MODEL), args, env)?;
            model_list::run(folder.as_deref(), *json, config.hub.cache_dir.as_deref(), out)
        }
        ModelAction::Verify { folder } => {
            let config = Config::resolve_for(folder, args, env)?;
            verify(&in_cache(folder, &config), &config, out)
        }
        ModelAction::Bench { folder, seconds, json } => {
            let time = Duration::from_secs_f64(*seconds);
            let config = Config::resolve_for(folder, args, env)?;
            bench(&in_cache(folder, &config), &config, (time, *json), out)
        }
    }
}

/// Returns the folder of a model of a hub's cache, or `path` if that is a folder or in no cache.
fn in_cache(path: &Path, config: &Config) -> PathBuf {
    hub::cached(path, &config.hub).unwrap_or_else(|| path.to_owned())
}

/// Opens a model's folder, with `onnx_file` as its graph if given.
fn open(folder: &Path, onnx_file: Option<&Path>) -> Result<ModelFolder, CommandError> {
    if !folder.is_dir() {
        return Err(CommandError::NoFolder { folder: folder.to_owned(), advice: no_folder(folder) });
    }
    Ok(ModelFolder::open_with_graph(folder, onnx_file)?)
}

fn import(folder: &Path, onnx_file: Option<&Path>, out: &mut dyn Write) -> Result<Verdict, CommandError> {
    let model = open(folder, onnx_file)?;
    let (mut line, mut has_written) = (ProgressLine::new(), false);
    let graph = model_import::import(&model, &mut |progress| {
        has_written |= progress.stage == ImportStage::Writing;
        line.show(&describe(progress));
    });
    line.clear();
    let graph = graph?;
    let done = if has_written { "written" } else { "is up to date" };
    writeln!(out, "{} {done}", graph.path.display())?;
    let result = match model.task() {
        Task::Embed => format!("{} dimensions", model.dimensions()),
        Task::Rerank => "reranks".to_owned(),
        Task::EmbedSparse => format!("sparse, {} dimensions", model.dimensions()),
    };
    writeln!(
        out,
        "{} · {result} · at most {} tokens · fingerprint {}",
        model.family(),
        model.max_input_tokens(),
        graph.fingerprint
    )?;
    if !graph.dynamic_quantization.is_empty() {
        let operators = graph.dynamic_quantization.join(", ");
        writeln!(out, "{PER_TEXT} ({operators})")?;
    }
    Ok(Verdict::Pass)
}

/// Returns the text that is shown while a folder is imported.
fn describe(progress: ImportProgress) -> String {
    let activity = match progress.stage {
        ImportStage::Checking => "checking the files",
        ImportStage::Writing => "writing the graph",
    };
    format!("{activity} … {} %", progress.done.saturating_mul(100) / progress.total.max(1))
}

/// Starts the model like the server, measures its accuracy again if its precision is below fp32, and compares its
/// golden vectors one by one.
fn verify(path: &Path, config: &Config, out: &mut dyn Write) -> Result<Verdict, CommandError> {
    let no_golden = || CommandError::NoGolden { folder: path.to_owned() };
    let failed = |error| CommandError::Model { folder: path.to_owned(), error: Box::new(error) };
    let model = config.models.first().ok_or_else(no_golden)?;
    let folder = open(path, model.onnx_file.as_deref())?;
    let golden = folder.manifest().map_or(&[][..], |manifest| &manifest.golden);
    let plan = plan_backends(model, &folder).map_err(failed)?;
    if golden.is_empty() && !plan.needs_proof() && folder.task() == Task::Embed {
        return Err(no_golden());
    }
    if let Some(manifest) = folder.manifest() {
        manifest.verify_files(path)?;
    }
    let runtime = Runtime::new(config.onnxruntime_path.as_deref(), None);
    let context = LoadContext { runtime, cache: CacheFactory::default() };
    let fingerprint = fingerprint(&folder).map_err(failed)?;
    let mut prover = Prover::new(model, &folder, &fingerprint).without_records();
    let (mut next, mut fallbacks) = (Some(plan.preferred), plan.fallbacks.into_iter());
    while let Some(selection) = next {
        let reason = match prover.start(selection, &context, Arc::new(())) {
            Ok(loaded) => {
                print_selection(path, &loaded, &context.runtime, out)?;
                if loaded.task == Task::Rerank {
                    let probed = loaded.engine.probe();
                    probed.map_err(|error| failed(ModelLoadError::Probe(Box::new(error))))?;
                    writeln!(out, "{} reranks: it scored a short query and document", path.display())?;
                    return Ok(Verdict::Pass);
                }
                if golden.is_empty() {
                    writeln!(out, "{} has no golden vectors to compare with", path.display())?;
                    return Ok(Verdict::Pass);
                }
                let min_cosine = min_golden_cosine(model, &loaded);
                if compare(&loaded, (golden, min_cosine), out)? == Verdict::Pass {
                    return Ok(Verdict::Pass);
                }
                SelectionReason::GoldenFailed
            }
            Err(error) => {
                let Some(reason) = error.fallback_reason() else { return Err(failed(error)) };
                writeln!(out, "{} · {}: {}", path.display(), selection.backend, error_chain(&error))?;
                reason
            }
        };
        next = fallbacks.next().map(|backend| Selection { backend, reason });
    }
    Ok(Verdict::Fail)
}

fn print_selection(
    path: &Path,
    model: &LoadedModel,
    runtime: &Runtime,
    out: &mut dyn Write,
) -> io::Result<()> {
    let LoadedModel { provider, precision, per_text, selection: Selection { backend, reason }, .. } = model;
    let (folder, batching) = (path.display(), batching_note(*per_text));
    let version = runtime.version().map_or_else(String::new, |version| format!(" {version}"));
    let name = precision.name();
    writeln!(out, "{folder} · {provider} {name} · {backend}{version} ({reason}){batching}")?;
    for proof in model.proofs.iter().filter(|proof| proof.precision == *precision) {
        writeln!(out, "accuracy of {proof}")?;
    }
    Ok(())
}

/// Benchmarks the backend that the server would select with the same settings.
fn bench(
    path: &Path,
    config: &Config,
    (time, json): (Duration, bool),
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    let Some(model) = config.models.first() else { return Ok(Verdict::Fail) };
    let folder = open(path, model.onnx_file.as_deref())?;
    let failed = |error| CommandError::Model { folder: path.to_owned(), error: Box::new(error) };
    let runtime = Runtime::new(config.onnxruntime_path.as_deref(), None);
    let context = LoadContext { runtime, cache: CacheFactory::default() };
    let Selection { backend, reason } = select_backend(model, &folder, &context).map_err(failed)?;
    let encoders = encoders(model, &folder, backend, &context.runtime).map_err(failed)?;
    let tokenizer = tokenizer(model, &folder).map_err(failed)?;
    let Encoders { factory, precision, workers, batch_tokens, per_text } = encoders;
    let (precision, threads) = (precision.name(), model.threads);
    let batching = batching_note(per_text);
    let title = format!("{precision} · {backend} ({reason}) · {threads} threads{batching}");
    let params = BenchParams {
        workers,
        batch_tokens,
        max_input_tokens: max_input_tokens(model, &folder),
        duration: time,
    };
    model_bench::run(&factory, &tokenizer, params, (&title, json), out)?;
    Ok(Verdict::Pass)
}

fn batching_note(per_text: bool) -> String {
    if per_text { format!(" · {PER_TEXT}") } else { String::new() }
}

fn compare(
    model: &LoadedModel,
    (golden, min_cosine): (&[Golden], f64),
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    let mut worst: f64 = 1.0;
    let mut failed = 0;
    writeln!(out, "tokens     cosine  text")?;
    for golden in golden {
        let text = GoldenText { text: &golden.text, tokens: golden.tokens, vector: &golden.vector };
        let shown: String = golden.text.chars().take(50).collect();
        // With this minimum no vector fails the check, so its cosine is always reported.
        match model.engine.check_golden(&[text], -1.0) {
            Ok(report) => {
                let cosine = report.worst_cosine;
                worst = worst.min(cosine);
                failed += usize::from(cosine < min_cosine);
                writeln!(out, "{:>6}  {cosine:.7}  {shown:?}", golden.tokens)?;
            }
            Err(error @ (GoldenError::Tokens { .. } | GoldenError::Dimensions { .. })) => {
                failed += 1;
                writeln!(out, "{:>6}  {:>9}  {shown:?}: {error}", golden.tokens, "-")?;
            }
            Err(error) => return Err(CommandError::Golden(Box::new(error))),
        }
    }
    let texts = golden.len();
    if failed == 0 {
        writeln!(out, "PASS: {texts} texts, worst cosine {worst:.7}")?;
        Ok(Verdict::Pass)
    } else {
        writeln!(out, "FAIL: {failed} of {texts} texts, worst cosine {worst:.7}, needed {min_cosine}")?;
        Ok(Verdict::Fail)
    }
}
