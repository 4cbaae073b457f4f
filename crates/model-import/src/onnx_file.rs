//! ONNX files of a model folder: found, decoded, and their weights checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    ops::Range,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use prost::{Message, bytes::Bytes};

use crate::{
    ImportError, file,
    float_type::{FloatType, coordinates},
    json, mapped,
    onnx::{DataLocation, GraphProto, ModelProto, StringStringEntryProto, TensorProto},
};

/// The name of the graph that an import writes.
pub(crate) const EXPORTED_GRAPH: &str = "embedgate.onnx";

/// The usual places of a graph in a model folder, in order of preference.
const CANDIDATE_PATHS: &[&str] = &["model.onnx", "onnx/model.onnx"];

/// Maximum number of graphs that an error lists.
const MAX_LISTED: usize = 10;

/// Returns the ready-made graph of a model folder: the one that the setting `onnx_file` names, else the one at a usual
/// place.
pub(crate) fn find(root: &Path, onnx_file: Option<&Path>) -> Result<Option<PathBuf>, ImportError> {
    let Some(relative) = onnx_file else {
        return Ok(CANDIDATE_PATHS.iter().map(|path| root.join(path)).find(|path| path.is_file()));
    };
    let path = json::resolve_within(root, &relative.to_string_lossy(), root)?;
    if !path.is_file() {
        let hint = match describe_graphs(root) {
            Some(graphs) => format!("the setting `onnx_file` names it; the folder holds {graphs}"),
            None => "the setting `onnx_file` names it, but the folder holds no ONNX graph".to_owned(),
        };
        return Err(ImportError::Missing { path, hint });
    }
    Ok(Some(path))
}

/// Lists the ONNX graphs in the folder and in its direct subfolders, for a message; `None` if there are none. The graph
/// that an import wrote is left out.
pub(crate) fn describe_graphs(root: &Path) -> Option<String> {
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.collect::<Vec<_>>()
    };
    let mut paths = entries(root);
    paths.extend(paths.clone().iter().filter(|path| path.is_dir()).flat_map(|folder| entries(folder)));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "onnx") && path.is_file());
    paths.retain(|path| *path != root.join(EXPORTED_GRAPH));
    paths.sort_unstable();
    let relative = paths.iter().map(|path| path.strip_prefix(root).unwrap_or(path).to_string_lossy());
    let mut listed = quoted(relative.take(MAX_LISTED));
    if paths.len() > MAX_LISTED {
        listed += &format!(" and {} more", paths.len() - MAX_LISTED);
    }
    (!paths.is_empty()).then_some(listed)
}

/// Decodes an ONNX file. Weights inside the file are not copied: the result keeps the file's memory map.
pub(crate) fn read(path: &Path) -> Result<ModelProto, ImportError> {
    let map = mapped::map(path, "expected an ONNX graph")?;
    ModelProto::decode(Bytes::from_owner(map))
        .map_err(|source| ImportError::OnnxDecode { path: path.to_owned(), source })
}

/// The facts about a graph that its model folder needs.
pub(crate) struct GraphSummary {
    /// The graph, and the files that hold its weights.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Rows of the token embedding table, if the graph looks ids up in a constant.
    pub(crate) vocab_size: Option<usize>,
}

/// Summarizes a graph, and checks that all its weights are there.
pub(crate) fn summarize(path: &Path) -> Result<GraphSummary, ImportError> {
    let model = read(path)?;
    let mut files = check_external_data(path, &model)?;
    files.insert(path.to_owned());
    Ok(GraphSummary { files, vocab_size: model.graph.as_ref().and_then(embedding_rows) })
}

/// Operators that look ids up in a table, with the positions of the table and of the ids in their inputs.
const LOOKUPS: &[(&str, usize, usize)] = &[
    ("Gather", 0, 1),
    // ONNX Runtime's own (com.microsoft): 4-bit tables, and BERT's embeddings after its optimizer.
    ("GatherBlockQuantized", 0, 1),
    ("EmbedLayerNormalization", 2, 0),
    ("QEmbedLayerNormalization", 2, 0),
];

/// Operators that keep all ids, whatever their type and shape.
const KEEP_IDS: &[&str] = &["Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"];

/// Operators that keep the rows of a table.
const KEEP_ROWS: &[&str] = &["Cast", "Identity", "DequantizeLinear"];

/// Returns the first dimension of the constant that `input_ids` are looked up in; of several constants, the smallest.
fn embedding_rows(graph: &GraphProto) -> Option<usize> {
    let rows_of = |tensor: &TensorProto| tensor.dims.first().and_then(|&rows| usize::try_from(rows).ok());
    let mut ids = BTreeSet::from(["input_ids"]);
    let mut rows: BTreeMap<&str, usize> = graph
        .initializer
        .iter()
        .filter_map(|tensor| rows_of(tensor).map(|rows| (tensor.name.as_str(), rows)))
        .collect();
    let mut smallest: Option<usize> = None;
    // The file format sorts nodes topologically: every value is defined before it is used.
    for node in &graph.node {
        let operator = node.op_type.as_str();
        let input = |at: usize| node.input.get(at).map_or("", String::as_str);
        if let Some(&(_, table, indices)) = LOOKUPS.iter().find(|(name, ..)| *name == operator)
            && ids.contains(input(indices))
            && let Some(&found) = rows.get(input(table))
        {
            smallest = Some(smallest.map_or(found, |rows| rows.min(found)));
        }
        let Some(output) = node.output.first().map(String::as_str) else { continue };
        if KEEP_IDS.contains(&operator) && ids.contains(input(0)) {
            ids.insert(output);
        }
        let kept = KEEP_ROWS.contains(&operator).then(|| rows.get(input(0)).copied()).flatten();
        let constant = || node.attribute.iter().filter(|_| operator == "Constant").find_map(|a| a.t.as_ref());
        if let Some(found) = kept.or_else(|| constant().and_then(rows_of)) {
            rows.insert(output, found);
        }
    }
    smallest
}

/// Checks that each weight outside the graph's file is there in full, and returns the files that hold them.
pub(crate) fn check_external_data(path: &Path, model: &ModelProto) -> Result<BTreeSet<PathBuf>, ImportError> {
    let mut files = BTreeMap::new();
    for tensor in model.constants() {
        let Some(ExternalData { data, bytes }) = ExternalData::of(tensor, path)? else { continue };
        let found = match files.get(&data) {
            Some(&size) => Some(size),
            None => match file::open(&data, "") {
                Ok(file) => Some(file.metadata().map_err(ImportError::read(&data, ""))?.len()),
                Err(ImportError::Missing { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        match found {
            Some(size) if size >= bytes.end => files.insert(data, size),
            _ => {
                let (path, tensor, needed) = (path.to_owned(), tensor.name.clone(), bytes.end);
                return Err(ImportError::ExternalData { path, tensor, data, needed, found });
            }
        };
    }
    Ok(files.into_keys().collect())
}

/// The location of a tensor that is stored outside the graph's own file.
struct ExternalData {
    data: PathBuf,
    bytes: Range<u64>,
}

impl ExternalData {
    fn of(tensor: &TensorProto, graph: &Path) -> Result<Option<Self>, ImportError> {
        if tensor.data_location() != DataLocation::External {
            return Ok(None);
        }
        let unusable = |what: &str| ImportError::Onnx {
            path: graph.to_owned(),
            reason: format!("tensor `{}` {what}", tensor.name),
        };
        let location = StringStringEntryProto::find(&tensor.external_data, "location")
            .ok_or_else(|| unusable("is stored in another file, but its `location` is missing"))?;
        let number =
            |key| match StringStringEntryProto::find(&tensor.external_data, key).map(str::parse::<u64>) {
                None => Ok(None),
                Some(Ok(number)) => Ok(Some(number)),
                Some(Err(_)) => Err(unusable(&format!("has an unreadable {key} in its external data"))),
            };
        let start = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or_else(|| {
            tensor.elements().saturating_mul(tensor.float_type().map_or(0, FloatType::size) as u64)
        });
        let end = start.checked_add(length).ok_or_else(|| unusable("ends beyond any file"))?;
        let data = json::resolve_within(graph.parent().unwrap_or(Path::new("")), location, graph)?;
        Ok(Some(Self { data, bytes: start..end }))
    }
}

/// Checks that no weight of `model`, the decoded file at `path`, is NaN or infinite, or a double that is infinite as
/// f32. A tensor that holds only zeros and −∞ is allowed: it is a mask that is added to attention scores.
pub(crate) fn check_finite(path: &Path, model: &ModelProto) -> Result<(), ImportError> {
    let mut maps: BTreeMap<PathBuf, Mmap> = BTreeMap::new();
    for tensor in model.constants() {
        let Some(float_type) = tensor.float_type() else { continue };
        let (holder, found) = match ExternalData::of(tensor, path)? {
            None => (path.to_owned(), first_not_finite(float_type, &tensor.inline_bytes())),
            Some(ExternalData { data, bytes }) => {
                if !maps.contains_key(&data) {
                    maps.insert(data.clone(), mapped::map(&data, "it holds weights")?);
                }
                // The length of the file was checked when the folder was opened.
                let bytes = maps[&data].get(bytes.start as usize..bytes.end as usize).unwrap_or_default();
                (data, first_not_finite(float_type, bytes))
            }
        };
        if let Some((index, value)) = found {
            let shape: Vec<usize> =
                tensor.dims.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
            let (tensor, index) = (tensor.name.clone(), coordinates(&shape, index));
            return Err(ImportError::NotFinite { path: holder, tensor, index, value });
        }
    }
    Ok(())
}

/// Returns the first value of a tensor that is not finite as f32, with its index; `None` for a mask.
fn first_not_finite(float_type: FloatType, bytes: &[u8]) -> Option<(usize, f64)> {
    let first = float_type.first_not_finite(bytes)?;
    let is_mask = (0..bytes.len() / float_type.size())
        .all(|index| matches!(float_type.value(bytes, index) as f32, 0.0 | f32::NEG_INFINITY));
    (!is_mask).then(|| (first, float_type.value(bytes, first)))
}

/// Lists names for a message: `a`, `b`.
pub(crate) fn quoted(names: impl Iterator<Item = impl fmt::Display>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
