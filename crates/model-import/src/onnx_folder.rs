//! Ready-made ONNX graphs: found, checked and described, never rewritten.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    ops::Range,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use prost::{Message, bytes::Bytes};

use crate::{
    Graph, GraphInput, GraphOutput, ImportError, ImportProgress, ModelFolder, OutputKind, Positions,
    Precision, dynamic_quantization,
    element::{Element, coordinates},
    file, fingerprint, import, json, mapped,
    onnx::{DataLocation, ElementType, Entry, Model, Size, Tensor, Value},
};

/// Where a graph may lie in a model folder, in order of preference.
const PLACES: &[&str] = &["model.onnx", "onnx/model.onnx"];

/// Most graphs that an error lists.
const MAX_LISTED: usize = 10;

/// A graph that the folder came with.
#[derive(Debug)]
pub(crate) struct ReadyMade {
    pub(crate) path: PathBuf,
    /// The way in which the family counts positions, for a graph that has them as an input; `None` if `config.json`
    /// does not say.
    pub(crate) positions: Option<Positions>,
}

/// The outputs that can be used. A whole sentence vector goes first: the model's author has put pooling and
/// dense layers into it, and less leaves the runtime.
const OUTPUTS: &[(&str, OutputKind)] = &[
    ("sentence_embedding", OutputKind::SentenceEmbedding),
    ("token_embeddings", OutputKind::TokenEmbeddings),
    ("last_hidden_state", OutputKind::TokenEmbeddings),
];

/// The ready-made graph in a model folder: the one that the setting `onnx_file` names, else the one at its usual place.
pub(crate) fn find(root: &Path, onnx_file: Option<&Path>) -> Result<Option<PathBuf>, ImportError> {
    let Some(relative) = onnx_file else {
        return Ok(PLACES.iter().map(|place| root.join(place)).find(|path| path.is_file()));
    };
    let path = json::inside(root, &relative.to_string_lossy(), root)?;
    if !path.is_file() {
        let hint = match list(root) {
            Some(graphs) => format!("the setting `onnx_file` names it; the folder holds {graphs}"),
            None => "the setting `onnx_file` names it, but the folder holds no ONNX graph".to_owned(),
        };
        return Err(ImportError::Missing { path, hint });
    }
    Ok(Some(path))
}

/// The ONNX graphs in the folder and in the folders directly in it, in words; `None` if there are none. What an
/// import wrote is not one of them.
pub(crate) fn list(root: &Path) -> Option<String> {
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.collect::<Vec<_>>()
    };
    let mut paths = entries(root);
    paths.extend(paths.clone().iter().filter(|path| path.is_dir()).flat_map(|folder| entries(folder)));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "onnx") && path.is_file());
    paths.retain(|path| *path != root.join(import::GRAPH));
    paths.sort_unstable();
    let relative = paths.iter().map(|path| path.strip_prefix(root).unwrap_or(path).to_string_lossy());
    let mut listed = names(relative.take(MAX_LISTED));
    if paths.len() > MAX_LISTED {
        listed += &format!(" and {} more", paths.len() - MAX_LISTED);
    }
    (!paths.is_empty()).then_some(listed)
}

/// Decodes a graph; weights inside the file stay in its map, which the graph keeps.
pub(crate) fn read(path: &Path) -> Result<Model, ImportError> {
    let map = mapped::map(path, "expected an ONNX graph")?;
    Model::decode(Bytes::from_owner(map))
        .map_err(|source| ImportError::OnnxDecode { path: path.to_owned(), source })
}

/// Facts about a graph that its model folder needs.
pub(crate) struct Contents {
    /// The graph, and the files that it takes weights from.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Rows of the word table, where the graph looks ids up in a constant.
    pub(crate) vocab_size: Option<usize>,
}

/// Looks into a graph, and checks that all its weights are there.
pub(crate) fn contents(path: &Path) -> Result<Contents, ImportError> {
    let model = read(path)?;
    let mut files = check_external_data(path, &model)?;
    files.insert(path.to_owned());
    Ok(Contents { files, vocab_size: model.graph.as_ref().and_then(embedding_rows) })
}

/// Operators that look ids up in a table, with the positions of the table and of the ids among their inputs.
const LOOKUPS: &[(&str, usize, usize)] = &[
    ("Gather", 0, 1),
    // ONNX Runtime's own (com.microsoft): 4-bit tables, and what its optimizer makes of BERT's embeddings.
    ("GatherBlockQuantized", 0, 1),
    ("EmbedLayerNormalization", 2, 0),
    ("QEmbedLayerNormalization", 2, 0),
];

/// Operators that keep all ids, whatever their type and shape.
const KEEP_IDS: &[&str] = &["Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"];

/// Operators that keep the rows of a table.
const KEEP_ROWS: &[&str] = &["Cast", "Identity", "DequantizeLinear"];

/// The first dimension of the constant that `input_ids` are looked up in; of several constants, the smallest.
fn embedding_rows(graph: &crate::onnx::Graph) -> Option<usize> {
    let rows_of = |tensor: &Tensor| tensor.dims.first().and_then(|&rows| usize::try_from(rows).ok());
    let mut ids = BTreeSet::from(["input_ids"]);
    let mut rows: BTreeMap<&str, usize> = graph
        .initializer
        .iter()
        .filter_map(|tensor| rows_of(tensor).map(|rows| (tensor.name.as_str(), rows)))
        .collect();
    let mut bound: Option<usize> = None;
    // The file format has nodes in an order in which every value is there before it is used.
    for node in &graph.node {
        let operator = node.op_type.as_str();
        let input = |at: usize| node.input.get(at).map_or("", String::as_str);
        if let Some(&(_, table, indices)) = LOOKUPS.iter().find(|(name, ..)| *name == operator)
            && ids.contains(input(indices))
            && let Some(&found) = rows.get(input(table))
        {
            bound = Some(bound.map_or(found, |bound| bound.min(found)));
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
    bound
}

/// Checks that each weight outside the graph is there in full, and returns the files that hold them.
pub(crate) fn check_external_data(path: &Path, model: &Model) -> Result<BTreeSet<PathBuf>, ImportError> {
    let mut files = BTreeMap::new();
    for tensor in model.constants() {
        let Some(External { data, bytes }) = External::of(tensor, path)? else { continue };
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

/// Place of a tensor that is stored outside the graph's own file.
struct External {
    data: PathBuf,
    bytes: Range<u64>,
}

impl External {
    fn of(tensor: &Tensor, graph: &Path) -> Result<Option<Self>, ImportError> {
        if tensor.data_location() != DataLocation::External {
            return Ok(None);
        }
        let unusable = |what: &str| ImportError::Onnx {
            path: graph.to_owned(),
            reason: format!("tensor `{}` {what}", tensor.name),
        };
        let location = Entry::find(&tensor.external_data, "location")
            .ok_or_else(|| unusable("lies in another file, but which is not said"))?;
        let number = |key| match Entry::find(&tensor.external_data, key).map(str::parse::<u64>) {
            None => Ok(None),
            Some(Ok(number)) => Ok(Some(number)),
            Some(Err(_)) => Err(unusable(&format!("has an unreadable {key} in its external data"))),
        };
        let start = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or_else(|| {
            elements(tensor).saturating_mul(tensor.element().map_or(0, Element::size) as u64)
        });
        let end = start.checked_add(length).ok_or_else(|| unusable("ends beyond any file"))?;
        let data = json::inside(graph.parent().unwrap_or(Path::new("")), location, graph)?;
        Ok(Some(Self { data, bytes: start..end }))
    }
}

/// Checks that no weight of a graph is NaN or infinite, or a double that is infinite as f32. A tensor that holds only
/// zeros and −∞ is allowed: it is a mask that is added to attention scores.
pub(crate) fn check_finite(path: &Path) -> Result<(), ImportError> {
    let model = read(path)?;
    let mut maps: BTreeMap<PathBuf, Mmap> = BTreeMap::new();
    for tensor in model.constants() {
        let Some(element) = tensor.element() else { continue };
        let (holder, found) = match External::of(tensor, path)? {
            None => (path.to_owned(), not_finite(element, &tensor.inline_bytes())),
            Some(External { data, bytes }) => {
                if !maps.contains_key(&data) {
                    maps.insert(data.clone(), mapped::map(&data, "it holds weights")?);
                }
                // The length of the file was checked when the folder was opened.
                let bytes = maps[&data].get(bytes.start as usize..bytes.end as usize).unwrap_or_default();
                (data, not_finite(element, bytes))
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

/// The first value of a tensor that is not finite as f32, unless the tensor is a mask.
fn not_finite(element: Element, bytes: &[u8]) -> Option<(usize, f64)> {
    let first = element.first_not_finite(bytes)?;
    let is_mask = (0..bytes.len() / element.size())
        .all(|index| matches!(element.value(bytes, index) as f32, 0.0 | f32::NEG_INFINITY));
    (!is_mask).then(|| (first, element.value(bytes, first)))
}

/// Number of a tensor's elements.
fn elements(tensor: &Tensor) -> u64 {
    tensor.dims.iter().map(|&size| u64::try_from(size).unwrap_or(0)).fold(1, u64::saturating_mul)
}

/// Describes a ready-made graph for a folder that has been read.
pub(crate) fn inspect(
    ready_made: &ReadyMade,
    folder: &ModelFolder,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<Graph, ImportError> {
    let path = &ready_made.path;
    let unusable = |reason| ImportError::Onnx { path: path.clone(), reason };
    let model = read(path)?;
    let dynamic_quantization: Vec<_> = dynamic_quantization::operators(&model).into_iter().collect();
    let Some(graph) = model.graph else {
        return Err(unusable("it holds no graph".to_owned()));
    };
    // Older files list the weights among the inputs.
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut inputs = Vec::new();
    for value in graph.input.iter().filter(|value| !constants.contains(value.name.as_str())) {
        inputs.push(input(value, ready_made.positions).map_err(unusable)?);
    }
    if !inputs.contains(&GraphInput::InputIds) {
        return Err(unusable("it has no input `input_ids`".to_owned()));
    }

    let find = |name: &str| graph.output.iter().find(|value| value.name == name);
    let Some((value, kind)) = OUTPUTS.iter().find_map(|(name, kind)| Some((find(name)?, *kind))) else {
        let found = names(graph.output.iter().map(|value| value.name.as_str()));
        let known = names(OUTPUTS.iter().map(|(name, _)| *name));
        return Err(unusable(format!("its outputs are {found}; one of {known} is needed")));
    };
    let (rank, width) = match kind {
        OutputKind::TokenEmbeddings => (3, folder.hidden()),
        OutputKind::SentenceEmbedding => (2, folder.dimensions()),
    };
    if !fits(value, rank, width) {
        let (name, found) = (&value.name, value.describe());
        return Err(unusable(format!(
            "its output `{name}` is {found}, expected float, float16 or bfloat16 with {rank} dimensions, the last of \
             {width}"
        )));
    }
    let output = GraphOutput { name: value.name.clone(), kind };
    // The products determine the precision: most weights may be an embedding table in float.
    let is_quantized = !dynamic_quantization.is_empty();
    let precision = if is_quantized { Precision::Int8 } else { precision(&graph.initializer) };
    let fingerprint = fingerprint::fingerprint(folder, progress)?;
    Ok(Graph { path: path.clone(), inputs, output, precision, dynamic_quantization, fingerprint })
}

/// The input as embedgate provides it, or the reason why it cannot.
fn input(value: &Value, positions: Option<Positions>) -> Result<GraphInput, String> {
    let name = &value.name;
    let input = match name.as_str() {
        "input_ids" => Some(GraphInput::InputIds),
        "attention_mask" => Some(GraphInput::AttentionMask),
        "token_type_ids" => Some(GraphInput::TokenTypeIds),
        "position_ids" => Some(GraphInput::PositionIds(positions.ok_or(
            "its input `position_ids` counts from the padding id, but `config.json` states no `pad_token_id`",
        )?)),
        _ => None,
    };
    let integers = [ElementType::Int64, ElementType::Int32].map(i32::from);
    let is_integer = value.element().is_some_and(|element| integers.contains(&element));
    let is_matrix = value.dimensions().is_none_or(|dimensions| dimensions.len() == 2);
    input.filter(|_| is_integer && is_matrix).ok_or_else(|| {
        format!(
            "its input `{name}` is {}, which cannot be provided; supported inputs are `input_ids`, `attention_mask`, \
             `token_type_ids` and `position_ids`, each int64 or int32 [batch, sequence]",
            value.describe()
        )
    })
}

/// The type in which most weights are stored, by number of elements.
fn precision(weights: &[Tensor]) -> Precision {
    let mut counts: BTreeMap<i32, u64> = BTreeMap::new();
    for tensor in weights.iter().filter(|tensor| tensor.data_type() != ElementType::Int64) {
        let most = counts.entry(tensor.data_type).or_default();
        *most = most.saturating_add(elements(tensor));
    }
    let most = counts.into_iter().max_by_key(|&(_, count)| count);
    match most.and_then(|(kind, _)| ElementType::try_from(kind).ok()) {
        Some(ElementType::Float) => Precision::Fp32,
        Some(ElementType::Float16) => Precision::Fp16,
        Some(ElementType::Bfloat16) => Precision::Bf16,
        Some(ElementType::Int8 | ElementType::Uint8) => Precision::Int8,
        _ => Precision::Other,
    }
}

/// Returns true if an output has floats, that rank and, if the file states it, a last dimension of `width`.
fn fits(value: &Value, rank: usize, width: usize) -> bool {
    let shape = value.dimensions().is_none_or(|dimensions| {
        dimensions.len() == rank
            && match dimensions.last().and_then(|dimension| dimension.size.as_ref()) {
                Some(Size::Fixed(size)) => usize::try_from(*size) == Ok(width),
                Some(Size::Named(_)) | None => true,
            }
    });
    let floats = [ElementType::Float, ElementType::Float16, ElementType::Bfloat16].map(i32::from);
    shape && value.element().is_some_and(|element| floats.contains(&element))
}

fn names(names: impl Iterator<Item = impl fmt::Display>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
