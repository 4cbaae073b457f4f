//! From a folder to a graph on disk: once, whole or not at all.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use prost::Message;
use tempfile::NamedTempFile;

use crate::{
    ImportError, ModelFolder, Positions,
    family::Architecture,
    fingerprint,
    folder::ModelSource,
    graph::GraphBuilder,
    onnx::{Entry, Model},
    onnx_folder,
    safetensors::Weights,
};

/// The graph's name in the model folder.
pub(crate) const GRAPH: &str = "embedgate.onnx";
/// The name of its weights, beside it.
const DATA: &str = "embedgate.onnx.data";
/// The key of the graph's metadata under which the fingerprint stands.
const FINGERPRINT: &str = "embedgate.fingerprint";
/// The key for the stamp of the files it was made from.
const STAMP: &str = "embedgate.stamp";

/// A graph that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// The ONNX file.
    pub path: PathBuf,
    /// Inputs that it needs, each int64 or int32 `[batch, sequence]`.
    pub inputs: Vec<GraphInput>,
    /// What to read.
    pub output: GraphOutput,
    /// What its weights are stored in.
    pub precision: Precision,
    /// Operators that quantise activations with one scale for a whole batch, each name once. A graph that has any
    /// gives a text its own vector only if the text is run alone and without padding.
    pub dynamic_quantization: Vec<String>,
    /// Hexadecimal SHA-256 over weights, tokenizer, configuration and exporter version: equal fingerprints give
    /// equal vectors.
    pub fingerprint: String,
}

/// An input, by its customary name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GraphInput {
    /// `input_ids`.
    InputIds,
    /// `attention_mask`: 1 for a token, 0 for padding.
    AttentionMask,
    /// `token_type_ids`: all 0, since texts come alone.
    TokenTypeIds,
    /// `position_ids`: each token's row in the position table.
    PositionIds(Positions),
}

/// The output to read: float, float16 or bfloat16.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphOutput {
    /// Its name in the graph.
    pub name: String,
    /// What it holds.
    pub kind: OutputKind,
}

/// What an output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// `[batch, sequence, hidden]`, still to be pooled and sent through the dense layers.
    TokenEmbeddings,
    /// `[batch, dimensions]`: pooling and dense layers are part of the graph.
    SentenceEmbedding,
}

/// The type of most of a graph's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// IEEE single precision.
    Fp32,
    /// IEEE half precision.
    Fp16,
    /// The upper half of single precision.
    Bf16,
    /// Integers of 8 bits.
    Int8,
    /// Anything else.
    Other,
}

impl Precision {
    /// The customary short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Other => "other",
        }
    }
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// What is being done.
    pub stage: ImportStage,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// The parts of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportStage {
    /// Reading the model's files to compute their digest.
    Checking,
    /// Writing the graph's weights.
    Writing,
}

/// Makes sure that the folder holds a graph whose weights are all finite, and returns it.
///
/// Weights are exported to `embedgate.onnx` and `embedgate.onnx.data` beside them, unless an export of exactly
/// these files is there already. A ready-made graph is inspected and left as it is.
///
/// # Errors
/// Any [`ImportError`]; the folder then holds no new file.
pub fn import(folder: &ModelFolder, progress: &mut dyn FnMut(ImportProgress)) -> Result<Graph, ImportError> {
    match &folder.network {
        ModelSource::Onnx(ready_made) => {
            onnx_folder::check_finite(&ready_made.path)?;
            onnx_folder::inspect(ready_made, folder, progress)
        }
        ModelSource::Weights { folder: weights, architecture } => {
            // If an export holds NaN, exporting again either repairs it or reports the weight that is not finite.
            if let Some(graph) = up_to_date(folder, progress)?
                && onnx_folder::check_finite(&graph.path).is_ok()
            {
                return Ok(graph);
            }
            let stamp = fingerprint::stamp(folder)?;
            let fingerprint = fingerprint::compute(folder, progress)?;
            let metadata = vec![Entry::new(FINGERPRINT, fingerprint.clone()), Entry::new(STAMP, stamp)];
            export(folder.root(), weights, architecture.as_ref(), metadata, progress)?;
            Ok(ours(folder.root(), fingerprint))
        }
    }
}

/// The graph that is already there for exactly these files.
pub(crate) fn up_to_date(
    folder: &ModelFolder,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<Option<Graph>, ImportError> {
    let path = match &folder.network {
        ModelSource::Onnx(ready_made) => return onnx_folder::inspect(ready_made, folder, progress).map(Some),
        ModelSource::Weights { .. } => folder.root().join(GRAPH),
    };
    // Whatever is wrong with an earlier export is mended by exporting again.
    let Ok(model) = onnx_folder::read(&path) else { return Ok(None) };
    if onnx_folder::check_external_data(&path, &model).is_err() {
        return Ok(None);
    }
    let Some(known) = Entry::find(&model.metadata_props, FINGERPRINT) else { return Ok(None) };
    let stamp = fingerprint::stamp(folder)?;
    if Entry::find(&model.metadata_props, STAMP) == Some(&stamp)
        || fingerprint::compute(folder, progress)? == known
    {
        return Ok(Some(ours(folder.root(), known.to_owned())));
    }
    Ok(None)
}

fn ours(root: &Path, fingerprint: String) -> Graph {
    Graph {
        path: root.join(GRAPH),
        inputs: vec![GraphInput::InputIds, GraphInput::AttentionMask],
        output: GraphOutput { name: "last_hidden_state".to_owned(), kind: OutputKind::TokenEmbeddings },
        precision: Precision::Fp32,
        dynamic_quantization: Vec::new(),
        fingerprint,
    }
}

/// Writes both files under temporary names, which vanish on failure, then renames them.
fn export(
    root: &Path,
    weights: &Path,
    architecture: &dyn Architecture,
    metadata: Vec<Entry>,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<(), ImportError> {
    let weights = Weights::open(weights, architecture.prefixes())?;
    sweep(root);
    let total = weights.bytes();
    let (graph_path, data_path) = (root.join(GRAPH), root.join(DATA));
    let mut data = temporary(root).map_err(ImportError::write(&data_path))?;
    let mut report =
        |done: u64| progress(ImportProgress { stage: ImportStage::Writing, done: done.min(total), total });
    let mut builder = GraphBuilder::new(data.as_file_mut(), &data_path, &mut report);
    architecture.write(&weights, &mut builder)?;
    let model: Model = builder.finish(metadata)?;
    let mut graph = temporary(root).map_err(ImportError::write(&graph_path))?;
    graph.write_all(&model.encode_to_vec()).map_err(ImportError::write(&graph_path))?;
    for (file, path) in [(&data, &data_path), (&graph, &graph_path)] {
        file.as_file().sync_all().map_err(ImportError::write(path))?;
    }

    // Were the process to end between the renames, an old graph must not be left beside new weights.
    match fs::remove_file(&graph_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ImportError::Write { path: graph_path, source: error });
        }
        _ => {}
    }
    data.persist(&data_path).map_err(|error| ImportError::Write { path: data_path, source: error.error })?;
    graph
        .persist(&graph_path)
        .map_err(|error| ImportError::Write { path: graph_path, source: error.error })?;
    report(total);
    Ok(())
}

const PREFIX: &str = ".embedgate-";
const SUFFIX: &str = ".partial";

/// A file in `root` that is removed unless it is renamed. Readable by all, as far as the umask lets it: the
/// server may run as another user than the importer.
///
/// It is locked for as long as its writer lives, which tells it from what a killed one left behind.
pub(crate) fn temporary(root: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    loop {
        let file = builder.tempfile_in(root)?;
        // Where files cannot be locked, nobody sweeps either. Whoever sweeps may have come first.
        if file.as_file().lock().is_err() || file.path().exists() {
            return Ok(file);
        }
    }
}

/// Removes the temporary files in `root` that nobody is writing any more: a process that was killed could not, and
/// each has the size of the weights. What cannot be removed now may be next time.
fn sweep(root: &Path) {
    for path in fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ours = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        // Opening anything but a file might wait for ever.
        if ours
            && path.is_file()
            && let Ok(file) = fs::File::open(&path)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
}
