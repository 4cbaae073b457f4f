//! The import: a model folder becomes a graph on disk, completely or not at all.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use prost::Message;

use crate::{
    Graph, GraphInput, GraphOutput, ImportError, ImportProgress, ImportStage, ModelFolder, OutputKind,
    Precision, atomic_write,
    encoder_graph::{self, SequenceLimits},
    family::Network,
    fingerprint,
    folder::ModelSource,
    graph_builder::GraphBuilder,
    onnx::{ModelProto, StringStringEntryProto},
    onnx_file::{self, EXPORTED_GRAPH},
    ready_made,
    weights::Weights,
};

/// The name of the exported graph's weights, in the same folder.
const EXPORTED_DATA: &str = "embedgate.onnx.data";
/// The metadata key of the fingerprint in an exported graph.
const FINGERPRINT_KEY: &str = "embedgate.fingerprint";
/// The metadata key of the stamp of the files that the graph was exported from.
const STAMP_KEY: &str = "embedgate.stamp";

/// Makes sure that the folder holds a graph whose weights are all finite, and returns it.
///
/// Weights are exported to `embedgate.onnx` and `embedgate.onnx.data`, unless an up-to-date export exists. A ready-made
/// graph is inspected and left unchanged.
///
/// # Errors
/// Any [`ImportError`]; the folder then holds no new file.
pub fn import(folder: &ModelFolder, progress: &mut dyn FnMut(ImportProgress)) -> Result<Graph, ImportError> {
    match &folder.source {
        ModelSource::Onnx(ready_made) => {
            let model = onnx_file::read(&ready_made.path)?;
            onnx_file::check_finite(&ready_made.path, &model)?;
            ready_made::inspect(ready_made, model, folder, progress)
        }
        ModelSource::Weights { folder: weights, network } => {
            // If an export holds NaN, exporting again either repairs it or reports the weight that is not finite.
            if let Some((graph, model)) = up_to_date_export(folder, progress)?
                && onnx_file::check_finite(&graph.path, &model).is_ok()
            {
                return Ok(graph);
            }
            let stamp = fingerprint::stamp(folder)?;
            let fingerprint = fingerprint::compute(folder, progress)?;
            let metadata = vec![
                StringStringEntryProto::new(FINGERPRINT_KEY, fingerprint.clone()),
                StringStringEntryProto::new(STAMP_KEY, stamp),
            ];
            export(folder, weights, network, metadata, progress)?;
            Ok(exported_graph(folder, fingerprint))
        }
    }
}

/// Returns the graph that an import would leave unchanged; `None` if it would export one.
pub(crate) fn up_to_date_graph(
    folder: &ModelFolder,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<Option<Graph>, ImportError> {
    match &folder.source {
        ModelSource::Onnx(ready_made) => {
            let model = onnx_file::read(&ready_made.path)?;
            ready_made::inspect(ready_made, model, folder, progress).map(Some)
        }
        ModelSource::Weights { .. } => Ok(up_to_date_export(folder, progress)?.map(|(graph, _)| graph)),
    }
}

/// Returns the earlier export of exactly these files, with its decoded ONNX file.
fn up_to_date_export(
    folder: &ModelFolder,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<Option<(Graph, ModelProto)>, ImportError> {
    let path = folder.root().join(EXPORTED_GRAPH);
    // A damaged export is not an error: it is replaced by a new one.
    let Ok(model) = onnx_file::read(&path) else { return Ok(None) };
    if onnx_file::check_external_data(&path, &model).is_err() {
        return Ok(None);
    }
    let find = |key| StringStringEntryProto::find(&model.metadata_props, key);
    let Some(known) = find(FINGERPRINT_KEY) else { return Ok(None) };
    let stamp = fingerprint::stamp(folder)?;
    if find(STAMP_KEY) == Some(&stamp) || fingerprint::compute(folder, progress)? == known {
        return Ok(Some((exported_graph(folder, known.to_owned()), model)));
    }
    Ok(None)
}

fn exported_graph(folder: &ModelFolder, fingerprint: String) -> Graph {
    let mut inputs = vec![GraphInput::InputIds, GraphInput::AttentionMask];
    if folder.segments() > 1 {
        inputs.push(GraphInput::TokenTypeIds);
    }
    Graph {
        path: folder.root().join(EXPORTED_GRAPH),
        inputs,
        output: GraphOutput { name: "last_hidden_state".to_owned(), kind: OutputKind::TokenEmbeddings },
        precision: Precision::Fp32,
        dynamic_quantization: Vec::new(),
        fingerprint,
    }
}

/// Writes graph and weights under temporary names, which are removed on failure, and then renames them.
fn export(
    folder: &ModelFolder,
    weights: &Path,
    network: &Network,
    metadata: Vec<StringStringEntryProto>,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<(), ImportError> {
    let root = folder.root();
    let weights = Weights::open(weights, network.prefixes)?;
    atomic_write::remove_stale_temporaries(root);
    let total = weights.bytes();
    let (graph_path, data_path) = (root.join(EXPORTED_GRAPH), root.join(EXPORTED_DATA));
    let mut data = atomic_write::temporary(root).map_err(ImportError::write(&data_path))?;
    let mut report =
        |done: u64| progress(ImportProgress { stage: ImportStage::Writing, done: done.min(total), total });
    let mut builder = GraphBuilder::new(data.as_file_mut(), &data_path, &mut report);
    let sequences = SequenceLimits { max_tokens: folder.max_input_tokens(), segments: folder.segments() };
    encoder_graph::export(network, sequences, &weights, &mut builder)?;
    let model: ModelProto = builder.finish(metadata)?;
    let mut graph = atomic_write::temporary(root).map_err(ImportError::write(&graph_path))?;
    graph.write_all(&model.encode_to_vec()).map_err(ImportError::write(&graph_path))?;
    for (file, path) in [(&data, &data_path), (&graph, &graph_path)] {
        file.as_file().sync_all().map_err(ImportError::write(path))?;
    }

    // The old graph is removed first: if the process ends between the two renames, no old graph refers to new weights.
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
