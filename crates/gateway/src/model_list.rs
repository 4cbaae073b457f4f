//! `embedgate model list`: the models on this machine, and those of the catalogue.

use std::io::Write;
use std::path::{Path, PathBuf};

use model_hub::Cache;
use model_import::{ModelEntry, ModelFolder, ModelState};
use serde_json::{Value, json};

use crate::catalogue::{CatalogueEntry, catalogue};
use crate::command_error::{CommandError, Verdict};
use crate::registry::PER_TEXT;

/// Folder of model folders that is listed unless another is named.
const DEFAULT_FOLDER: &str = "models";

/// A model on this machine.
struct LocalModel {
    /// The name to serve it by.
    name: String,
    path: PathBuf,
    dimensions: Option<usize>,
    max_input_tokens: Option<usize>,
    is_ready: bool,
    state: String,
}

/// Executes the command. `folder` must exist if it is named.
pub(crate) fn run(
    folder: Option<&Path>,
    json: bool,
    cache: Option<&Path>,
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    let folders = folder.unwrap_or(Path::new(DEFAULT_FOLDER));
    let mut local = Vec::new();
    if folder.is_some() || folders.is_dir() {
        local.extend(model_import::list_models(folders)?.into_iter().map(from_folder));
    }
    let cached = cache.map(|cache| Cache::new(cache).list()).unwrap_or_default();
    local.extend(cached.iter().filter_map(|(id, path)| from_cache(id, path)));
    // A named folder is listed alone.
    let known = if folder.is_none() { catalogue()? } else { Vec::new() };
    if json {
        for model in &local {
            writeln!(out, "{}", to_json(model))?;
        }
        for entry in known.iter().filter(|entry| !is_ready(entry, &local)) {
            let mut value = serde_json::to_value(entry).unwrap_or_default();
            value["installed"] = false.into();
            writeln!(out, "{value}")?;
        }
        return Ok(Verdict::Pass);
    }
    print_local(&local, folders, out)?;
    if !known.is_empty() {
        print_known(&known, &local, out)?;
    }
    Ok(Verdict::Pass)
}

fn from_folder(entry: ModelEntry) -> LocalModel {
    let manifest = entry.manifest.as_ref();
    let declared = manifest.map_or((None, None), |manifest| (manifest.dimensions, manifest.max_input_tokens));
    let opened = ModelFolder::open(&entry.path).ok();
    let (dimensions, max_input_tokens) =
        opened.map_or(declared, |folder| (Some(folder.dimensions()), Some(folder.max_input_tokens())));
    let state = match &entry.state {
        ModelState::Ready { is_per_text: false } => "ready".to_owned(),
        ModelState::Ready { is_per_text: true } => format!("ready · {PER_TEXT}"),
        ModelState::NotImported => {
            format!("ready; for ONNX Runtime run: embedgate model import {}", entry.path.display())
        }
        ModelState::Incomplete(error) => format!("incomplete: {error}"),
    };
    let is_ready = !matches!(entry.state, ModelState::Incomplete(_));
    LocalModel { name: entry.id, path: entry.path, dimensions, max_input_tokens, is_ready, state }
}

/// Returns a model of a hub's cache, unless it is no text embedding model: the cache holds models of all kinds.
fn from_cache(id: &str, path: &Path) -> Option<LocalModel> {
    let folder = ModelFolder::open(path).ok()?;
    Some(LocalModel {
        name: id.to_owned(),
        path: path.to_owned(),
        dimensions: Some(folder.dimensions()),
        max_input_tokens: Some(folder.max_input_tokens()),
        is_ready: true,
        state: "ready; from the cache of the model hub".to_owned(),
    })
}

/// Returns true if the model can be served: from the cache, or from a folder with its name.
fn is_ready(entry: &CatalogueEntry, local: &[LocalModel]) -> bool {
    let short = entry.id.rsplit('/').next().unwrap_or_default();
    local.iter().any(|model| model.is_ready && (model.name == entry.id || model.name == short))
}

fn to_json(model: &LocalModel) -> Value {
    json!({
        "id": model.name,
        "path": model.path,
        "dimensions": model.dimensions,
        "max_input_tokens": model.max_input_tokens,
        "state": model.state,
        "installed": true,
    })
}

fn print_local(models: &[LocalModel], folders: &Path, out: &mut dyn Write) -> Result<(), CommandError> {
    let width = models.iter().map(|model| model.name.chars().count()).max().unwrap_or(0);
    let number = |number: Option<usize>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    for LocalModel { name, dimensions, max_input_tokens, state, .. } in models {
        let (dimensions, tokens) = (number(*dimensions), number(*max_input_tokens));
        writeln!(out, "{name:width$}  {dimensions:>5} dimensions  at most {tokens:>5} tokens  {state}")?;
    }
    if models.is_empty() {
        writeln!(out, "no model folders in {}", folders.display())?;
    }
    Ok(())
}

fn print_known(
    known: &[CatalogueEntry],
    local: &[LocalModel],
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    const HEADINGS: [&str; 7] = ["MODEL", "DIMENSIONS", "TOKENS", "LANGUAGES", "LICENSE", "PARAMS", ""];
    let rows = known.iter().map(|entry| {
        [
            entry.id.clone(),
            entry.dimensions.to_string(),
            entry.max_input_tokens.map_or_else(String::new, |tokens| tokens.to_string()),
            entry.languages.clone(),
            entry.license.clone(),
            format!("{}M", (entry.parameters + 500_000) / 1_000_000),
            match (is_ready(entry, local), entry.gated) {
                (true, _) => "ready".to_owned(),
                (false, true) => "gated".to_owned(),
                (false, false) => String::new(),
            },
        ]
    });
    let table: Vec<[String; 7]> = std::iter::once(HEADINGS.map(str::to_owned)).chain(rows).collect();
    let widths: [usize; 7] =
        std::array::from_fn(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    writeln!(out, "\nknown models, for embedgate model pull and embedgate serve --pull --model:\n")?;
    for row in &table {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            let is_number = [1, 2, 5].contains(&column);
            if is_number { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    writeln!(
        out,
        "\nAny other model of the hub can be pulled by its name, ORG/NAME, if its family is supported."
    )?;
    Ok(())
}
