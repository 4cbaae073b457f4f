//! Ready-made ONNX graphs: found, checked and described, never rewritten.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message;

use crate::{
    Graph, GraphInput, GraphOutput, ImportError, ModelFolder, OutputKind, Precision, Progress, fingerprint,
    json, mapped,
    onnx::{DataLocation, ElementType, Entry, Model, Size, Tensor, Value},
};

/// Where a graph may lie in a model folder, in order of preference.
const PLACES: &[&str] = &["model.onnx", "onnx/model.onnx"];

/// What the input of that name is, if it is one that can be provided.
const INPUTS: &[(&str, GraphInput)] = &[
    ("input_ids", GraphInput::InputIds),
    ("attention_mask", GraphInput::AttentionMask),
    ("token_type_ids", GraphInput::TokenTypeIds),
];

/// The outputs that can be used. A whole sentence vector goes first: the model's author has put pooling and
/// dense layers into it, and less leaves the runtime.
const OUTPUTS: &[(&str, OutputKind)] = &[
    ("sentence_embedding", OutputKind::SentenceEmbedding),
    ("token_embeddings", OutputKind::TokenEmbeddings),
    ("last_hidden_state", OutputKind::TokenEmbeddings),
];

/// The ready-made graph in a model folder.
pub(crate) fn find(root: &Path) -> Option<PathBuf> {
    PLACES.iter().map(|place| root.join(place)).find(|path| path.is_file())
}

/// Decodes a graph; weights inside the file are passed over.
pub(crate) fn read(path: &Path) -> Result<Model, ImportError> {
    let map = mapped::map(path, "expected an ONNX graph")?;
    Model::decode(&map[..]).map_err(|source| ImportError::OnnxDecode { path: path.to_owned(), source })
}

/// The graph and the files that it takes weights from.
pub(crate) fn files(path: &Path) -> Result<BTreeSet<PathBuf>, ImportError> {
    let mut files = check_external_data(path, &read(path)?)?;
    files.insert(path.to_owned());
    Ok(files)
}

/// Checks that each weight outside the graph is there in full, and returns the files that hold them.
pub(crate) fn check_external_data(path: &Path, model: &Model) -> Result<BTreeSet<PathBuf>, ImportError> {
    let mut files = BTreeSet::new();
    let folder = path.parent().unwrap_or(Path::new(""));
    for tensor in model.constants() {
        if tensor.data_location() != DataLocation::External {
            continue;
        }
        let unusable = |what: &str| ImportError::Onnx {
            path: path.to_owned(),
            reason: format!("tensor `{}` {what}", tensor.name),
        };
        let location = Entry::find(&tensor.external_data, "location")
            .ok_or_else(|| unusable("lies in another file, but which is not said"))?;
        let number = |key| match Entry::find(&tensor.external_data, key).map(str::parse::<u64>) {
            None => Ok(None),
            Some(Ok(number)) => Ok(Some(number)),
            Some(Err(_)) => Err(unusable(&format!("has an unreadable {key} in its external data"))),
        };
        let end = number("offset")?.unwrap_or(0).checked_add(number("length")?.unwrap_or(0));
        let needed = end.ok_or_else(|| unusable("ends beyond any file"))?;
        let data = json::inside(folder, location, path)?;
        let found = match fs::metadata(&data) {
            Ok(metadata) => Some(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(ImportError::Read { path: data, source }),
        };
        if found.is_none_or(|found| found < needed) {
            let (path, tensor) = (path.to_owned(), tensor.name.clone());
            return Err(ImportError::ExternalData { path, tensor, data, needed, found });
        }
        files.insert(data);
    }
    Ok(files)
}

/// Describes a ready-made graph for a folder that has been read.
pub(crate) fn inspect(
    path: &Path,
    folder: &ModelFolder,
    progress: &mut dyn FnMut(Progress),
) -> Result<Graph, ImportError> {
    let unusable = |reason| ImportError::Onnx { path: path.to_owned(), reason };
    let Some(graph) = read(path)?.graph else {
        return Err(unusable("it holds no graph".to_owned()));
    };
    // Older files list the weights among the inputs.
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut inputs = Vec::new();
    for value in graph.input.iter().filter(|value| !constants.contains(value.name.as_str())) {
        let known = INPUTS.iter().find(|(name, _)| *name == value.name);
        let Some((_, input)) = known.filter(|_| value.element() == Some(ElementType::Int64.into())) else {
            let known = names(INPUTS.iter().map(|(name, _)| *name));
            return Err(unusable(format!("it asks for `{}`; int64 inputs known: {known}", value.name)));
        };
        inputs.push(*input);
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
        let (name, found) = (&value.name, value.r#type.as_ref());
        return Err(unusable(format!(
            "its output `{name}` is {found:?}, expected float with {rank} dimensions, the last of {width}"
        )));
    }
    let output = GraphOutput { name: value.name.clone(), kind };
    let fingerprint = fingerprint::identify(folder, progress)?;
    Ok(Graph { path: path.to_owned(), inputs, output, precision: precision(&graph.initializer), fingerprint })
}

/// The type in which most weights are stored, by number of elements.
fn precision(weights: &[Tensor]) -> Precision {
    let mut elements: BTreeMap<i32, u64> = BTreeMap::new();
    for tensor in weights.iter().filter(|tensor| tensor.data_type() != ElementType::Int64) {
        let sizes = tensor.dims.iter().map(|&dim| u64::try_from(dim).unwrap_or(0));
        let most = elements.entry(tensor.data_type).or_default();
        *most = most.saturating_add(sizes.fold(1, u64::saturating_mul));
    }
    let most = elements.into_iter().max_by_key(|&(_, count)| count);
    match most.and_then(|(kind, _)| ElementType::try_from(kind).ok()) {
        Some(ElementType::Float) => Precision::Fp32,
        Some(ElementType::Float16) => Precision::Fp16,
        Some(ElementType::Bfloat16) => Precision::Bf16,
        Some(ElementType::Int8 | ElementType::Uint8) => Precision::Int8,
        _ => Precision::Other,
    }
}

/// Whether an output is f32 of that rank, with a last dimension of `width` as far as the file says.
fn fits(value: &Value, rank: usize, width: usize) -> bool {
    let shape = value.dimensions().is_none_or(|dimensions| {
        dimensions.len() == rank
            && match dimensions.last().and_then(|dimension| dimension.size.as_ref()) {
                Some(Size::Fixed(size)) => usize::try_from(*size) == Ok(width),
                Some(Size::Named(_)) | None => true,
            }
    });
    shape && value.element() == Some(ElementType::Float.into())
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
