//! The description of an ONNX graph that a model folder came with. The graph is inspected and never rewritten.

use std::collections::{BTreeMap, BTreeSet};

use encoder_spec::{PositionIds, Task};

use crate::{
    Graph, GraphInput, GraphOutput, ImportError, ImportProgress, ModelFolder, OutputKind, Precision,
    dynamic_quantization, fingerprint,
    folder::ReadyMadeGraph,
    onnx::{DataType, DimensionValue, ModelProto, TensorProto, ValueInfoProto},
    onnx_file::quoted,
};

/// The outputs that can be used, in order of preference. A sentence embedding comes first: the model's author has put
/// pooling and dense layers into the graph, and fewer bytes leave the runtime.
const OUTPUTS: &[(&str, OutputKind)] = &[
    ("sentence_embedding", OutputKind::SentenceEmbedding),
    ("token_embeddings", OutputKind::TokenEmbeddings),
    ("last_hidden_state", OutputKind::TokenEmbeddings),
];

/// The output of a cross-encoder, whose head is part of the graph.
const RERANK_OUTPUTS: &[(&str, OutputKind)] = &[("logits", OutputKind::SentenceEmbedding)];

/// Describes `model`, the decoded file of `ready_made`, for its folder.
pub(crate) fn inspect(
    ready_made: &ReadyMadeGraph,
    model: ModelProto,
    folder: &ModelFolder,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<Graph, ImportError> {
    let path = &ready_made.path;
    let unusable = |reason| ImportError::Onnx { path: path.clone(), reason };
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
    // A graph that pools does not know which tokens are the prompt's.
    let include_prompt = folder.head().include_prompt;
    let outputs = if folder.task() == Task::Rerank { RERANK_OUTPUTS } else { OUTPUTS };
    let usable = outputs.iter().filter(|(_, kind)| include_prompt || *kind == OutputKind::TokenEmbeddings);
    let Some((value, kind)) = usable.clone().find_map(|(name, kind)| Some((find(name)?, *kind))) else {
        let found = quoted(graph.output.iter().map(|value| value.name.as_str()));
        let known = quoted(usable.map(|(name, _)| *name));
        let reason =
            if include_prompt { "" } else { ", because pooling leaves out the prompt (`include_prompt`)" };
        return Err(unusable(format!("its outputs are {found}; one of {known} is needed{reason}")));
    };
    let (rank, width) = match kind {
        OutputKind::TokenEmbeddings => (3, folder.hidden()),
        OutputKind::SentenceEmbedding => (2, folder.dimensions()),
    };
    if !matches_shape(value, rank, width) {
        let (name, found) = (&value.name, value.describe());
        return Err(unusable(format!(
            "its output `{name}` is {found}, expected float, float16 or bfloat16 with {rank} dimensions, the last of \
             {width}"
        )));
    }
    let output = GraphOutput { name: value.name.clone(), kind };
    // In a dynamically quantized graph the matrix products are in int8, even if most weights are a float table of
    // embeddings.
    let is_quantized = !dynamic_quantization.is_empty();
    let precision = if is_quantized { Precision::Int8 } else { precision(&graph.initializer) };
    let fingerprint = fingerprint::fingerprint(folder, progress)?;
    Ok(Graph { path: path.clone(), inputs, output, precision, dynamic_quantization, fingerprint })
}

/// Returns the input as embedgate provides it, or the reason why it cannot.
fn input(value: &ValueInfoProto, positions: Option<PositionIds>) -> Result<GraphInput, String> {
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
    let integers = [DataType::Int64, DataType::Int32].map(i32::from);
    let is_integer = value.data_type().is_some_and(|data_type| integers.contains(&data_type));
    let is_matrix = value.dimensions().is_none_or(|dimensions| dimensions.len() == 2);
    input.filter(|_| is_integer && is_matrix).ok_or_else(|| {
        format!(
            "its input `{name}` is {}, which cannot be provided; supported inputs are `input_ids`, `attention_mask`, \
             `token_type_ids` and `position_ids`, each int64 or int32 [batch, sequence]",
            value.describe()
        )
    })
}

/// Returns the type of most weights, by number of elements.
fn precision(weights: &[TensorProto]) -> Precision {
    let mut counts: BTreeMap<i32, u64> = BTreeMap::new();
    for tensor in weights.iter().filter(|tensor| tensor.data_type() != DataType::Int64) {
        let count = counts.entry(tensor.data_type).or_default();
        *count = count.saturating_add(tensor.elements());
    }
    let most = counts.into_iter().max_by_key(|&(_, count)| count);
    match most.and_then(|(data_type, _)| DataType::try_from(data_type).ok()) {
        Some(DataType::Float) => Precision::Fp32,
        Some(DataType::Float16) => Precision::Fp16,
        Some(DataType::Bfloat16) => Precision::Bf16,
        Some(DataType::Int8 | DataType::Uint8) => Precision::Int8,
        _ => Precision::Other,
    }
}

/// Returns true if an output has floats, `rank` dimensions and, if the file states it, a last dimension of `width`.
fn matches_shape(value: &ValueInfoProto, rank: usize, width: usize) -> bool {
    let shape = value.dimensions().is_none_or(|dimensions| {
        dimensions.len() == rank
            && match dimensions.last().and_then(|dimension| dimension.value.as_ref()) {
                Some(DimensionValue::Fixed(size)) => usize::try_from(*size) == Ok(width),
                Some(DimensionValue::Named(_)) | None => true,
            }
    });
    let floats = [DataType::Float, DataType::Float16, DataType::Bfloat16].map(i32::from);
    shape && value.data_type().is_some_and(|data_type| floats.contains(&data_type))
}
