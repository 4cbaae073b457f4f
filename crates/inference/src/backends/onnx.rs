//! The ONNX Runtime backend: runs an ONNX graph. Only this file, `provider` and `error` use `ort`.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use encoder_spec::HeadSpec;
use half::slice::HalfFloatSliceExt;
use ndarray::{ArrayView2, Axis};
use ort::{
    environment::Environment,
    session::{
        Session, SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{DynValue, Outlet, Shape, Tensor, TensorElementType, TensorRef},
};

use super::shape_buckets;
use crate::{
    encoder::{Batch, Encoder, EncoderFactory},
    error::{EncodeError, StartError},
    pooling::{apply_head, check_head},
    provider::Provider,
};

/// ONNX Runtime, loaded into this process. Cheap to clone; a process can load one.
#[derive(Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    library: PathBuf,
    version: Arc<str>,
}

/// The loaded runtime. Neither the library nor its environment can be loaded twice.
static LOADED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);

impl OnnxRuntime {
    /// Loads the shared library, or returns the runtime if that library is loaded already.
    ///
    /// # Errors
    /// [`StartError::Library`] if it is missing or not ONNX Runtime, [`StartError::LibraryTooOld`], or
    /// [`StartError::Config`] if another library is loaded.
    pub fn load(library: &Path) -> Result<Self, StartError> {
        let failed = |source| StartError::Library { library: library.to_owned(), source };
        let file = library.canonicalize().map_err(|error| failed(Box::new(error)))?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*loaded {
            Some(runtime) if runtime.library == file => return Ok(runtime.clone()),
            Some(runtime) => {
                return Err(StartError::Config(format!(
                    "cannot load ONNX Runtime from {}: this process has loaded {}",
                    file.display(),
                    runtime.library.display()
                )));
            }
            None => {}
        }
        read_start(&file).map_err(|error| failed(Box::new(error)))?;
        let environment = ort::init_from(&file)
            .map_err(|error| match error {
                ort::LoadDynamicError::BadVersion { version_str, .. } => StartError::LibraryTooOld {
                    library: library.to_owned(),
                    found: version_str,
                    minimum: ort::MINOR_VERSION,
                },
                error => failed(Box::new(error)),
            })?
            .with_name("embedgate")
            .with_telemetry(false)
            .build()
            .map_err(|error| failed(Box::new(error)))?;
        let version = version_of(&file).unwrap_or_else(|| ort::info().into());
        Ok(loaded.insert(Self { environment, library: file, version }).clone())
    }

    /// The library's version from its file name, such as `1.32.0`, or else its build information.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The loaded file.
    pub fn library(&self) -> &Path {
        &self.library
    }
}

impl std::fmt::Debug for OnnxRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxRuntime")
            .field("library", &self.library)
            .field("version", &self.version())
            .finish()
    }
}

/// Reads the start of a library. `dlopen` holds a lock that every starting or ending thread needs. So if the volume
/// does not respond, this thread must block here, before it takes that lock.
fn read_start(file: &Path) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(file)?.read_exact(&mut [0; 64])
}

/// Returns the version in a library's canonical file name: `libonnxruntime.so.1.32.0`, `libonnxruntime.1.32.0.dylib`.
fn version_of(file: &Path) -> Option<Arc<str>> {
    let name = file.file_name()?.to_str()?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    let version = digits.trim_end_matches(|c: char| !c.is_ascii_digit());
    let is_version = version.split('.').filter(|part| part.parse::<u32>().is_ok()).count() == 3;
    is_version.then(|| version.into())
}

/// An input of a graph, by its customary name. Each is int64 or int32 with shape `[batch, sequence]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnnxInput {
    /// Token ids.
    InputIds,
    /// 1 for a token, 0 for padding.
    AttentionMask,
    /// 1 for a token of the second text of a pair, otherwise 0.
    TokenTypeIds,
    /// Position id of each token.
    PositionIds {
        /// Positions start after this id and skip tokens with this id, as in RoBERTa. `None`: positions start at 0.
        after_padding: Option<u32>,
    },
}

impl OnnxInput {
    /// The input's name in the graph.
    pub fn name(self) -> &'static str {
        match self {
            Self::InputIds => "input_ids",
            Self::AttentionMask => "attention_mask",
            Self::TokenTypeIds => "token_type_ids",
            Self::PositionIds { .. } => "position_ids",
        }
    }
}

/// Writes the position id of each token.
fn write_position_ids(sequence: &[u32], after_padding: Option<u32>, position_ids: &mut [i64]) {
    let mut next = after_padding.map_or(0, |padding| i64::from(padding) + 1);
    for (position_id, id) in position_ids.iter_mut().zip(sequence) {
        if after_padding == Some(*id) {
            *position_id = i64::from(*id);
        } else {
            *position_id = next;
            next += 1;
        }
    }
}

/// Content of a graph's output.
#[derive(Debug, Clone)]
pub enum OnnxOutput {
    /// `[batch, sequence, hidden]`: one embedding for each token, from which the head computes a vector.
    TokenEmbeddings(HeadSpec),
    /// `[batch, dimensions]`: the graph contains all modules. It pools the prompt, too.
    SentenceEmbedding,
}

/// Settings of ONNX encoders.
#[derive(Debug, Clone)]
pub struct OnnxConfig {
    /// The ONNX file.
    pub graph: PathBuf,
    /// The inputs of the graph.
    pub inputs: Vec<OnnxInput>,
    /// Name of the output to read.
    pub output: String,
    /// Content of that output.
    pub output_kind: OnnxOutput,
    /// The execution provider.
    pub provider: Provider,
    /// Number of threads of one run.
    pub intra_threads: usize,
    /// Maximum number of tokens of a sequence; padding does not exceed it.
    pub max_input_tokens: usize,
    /// Length of a vector.
    pub dimensions: usize,
    /// Runs each sequence in a batch of its own and without padding. Needed for a graph that quantizes activations
    /// with one scale for a whole batch, so that a vector would depend on the other sequences.
    pub per_text: bool,
}

/// Encoders that run the graph of `config`, each in a session of its own.
pub fn onnx_encoders(runtime: &OnnxRuntime, config: OnnxConfig) -> EncoderFactory {
    let (runtime, config) = (runtime.clone(), Arc::new(config));
    Arc::new(move || {
        let (session, inputs) = open_session(&runtime, &config)?;
        Ok(Box::new(OnnxEncoder {
            session,
            config: Arc::clone(&config),
            inputs,
            ids: Vec::new(),
            mask: Vec::new(),
            types: Vec::new(),
            positions: Vec::new(),
        }))
    })
}

/// Opens a session. Returns it with the graph's inputs and their element types.
fn open_session(
    runtime: &OnnxRuntime,
    config: &OnnxConfig,
) -> Result<(Session, Vec<TypedInput>), StartError> {
    let failed = |source: ort::Error| StartError::Session { graph: config.graph.clone(), source };
    let builder = Session::builder(&runtime.environment).map_err(failed)?;
    let builder = config
        .provider
        .register(builder, config.intra_threads)
        .map_err(|error| StartError::Provider { provider: config.provider, source: error })?;
    let mut builder = configure(builder, config.intra_threads).map_err(failed)?;
    let session = builder.commit_from_file(&config.graph).map_err(failed)?;
    let missing = |what, name: &str, found: Vec<&str>| StartError::Signature {
        graph: config.graph.clone(),
        what,
        name: name.to_owned(),
        found: found.join(", "),
    };
    let mut inputs = Vec::with_capacity(config.inputs.len());
    for &input in &config.inputs {
        let Some(outlet) = session.inputs().iter().find(|outlet| outlet.name() == input.name()) else {
            return Err(missing("input", input.name(), session.inputs().iter().map(Outlet::name).collect()));
        };
        inputs.push((input, outlet.dtype().tensor_type()));
    }
    let outputs: Vec<&str> = session.outputs().iter().map(Outlet::name).collect();
    if !outputs.contains(&config.output.as_str()) {
        return Err(missing("output", &config.output, outputs));
    }
    Ok((session, inputs))
}

fn configure(builder: SessionBuilder, intra_threads: usize) -> ort::Result<SessionBuilder> {
    let builder = builder
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(intra_threads)?
        // Shapes differ from batch to batch, so a memory plan would not be reused.
        .with_memory_pattern(false)?
        // Spinning threads take cores from tokenizing, from HTTP and from other models. With spinning, the median
        // latency of single texts was lower, but the 99th percentile and the CPU time were higher (docs/adr/0002).
        .with_intra_op_spinning(false)?;
    Ok(builder)
}

/// An input and its element type in the graph.
type TypedInput = (OnnxInput, Option<TensorElementType>);

/// An encoder with its session. Its buffers are reused.
struct OnnxEncoder {
    session: Session,
    config: Arc<OnnxConfig>,
    inputs: Vec<TypedInput>,
    ids: Vec<i64>,
    mask: Vec<i64>,
    types: Vec<i64>,
    positions: Vec<i64>,
}

impl OnnxEncoder {
    /// Shape of the tensors: `[batch, length of the longest]`, or a larger bucket with unused rows for providers that
    /// compile per shape.
    fn shape(&self, batch: &Batch) -> [usize; 2] {
        let (rows, length) = (batch.len(), batch.max_length());
        if self.config.provider.compiles_per_shape() && !self.config.per_text {
            shape_buckets::bucket(rows, length, self.config.max_input_tokens)
        } else {
            [rows, length]
        }
    }

    /// Writes the batch into the input buffers, padded with id 0, and masks the padding. Returns the shape.
    fn fill_inputs(&mut self, batch: &Batch) -> [usize; 2] {
        let shape @ [rows, length] = self.shape(batch);
        let cells = rows * length;
        for buffer in [&mut self.ids, &mut self.mask, &mut self.types, &mut self.positions] {
            buffer.clear();
            buffer.resize(cells, 0);
        }
        let after_padding = self.config.inputs.iter().find_map(|input| match input {
            OnnxInput::PositionIds { after_padding } => Some(*after_padding),
            _ => None,
        });
        for (row, (sequence, second)) in batch.sequences().zip(batch.second_segments()).enumerate() {
            let start = row * length;
            let end = start + sequence.len();
            self.types[end - second..end].fill(1);
            for (cell, &id) in self.ids[start..].iter_mut().zip(sequence) {
                *cell = i64::from(id);
            }
            self.mask[start..start + sequence.len()].fill(1);
            if let Some(after_padding) = after_padding {
                write_position_ids(sequence, after_padding, &mut self.positions[start..]);
            }
        }
        // A row without an unmasked token would divide by zero.
        for row in batch.len()..rows {
            self.mask[row * length] = 1;
        }
        shape
    }
}

impl Encoder for OnnxEncoder {
    fn dimensions(&self) -> usize {
        self.config.dimensions
    }

    fn needs_padding(&self) -> bool {
        !self.config.per_text
    }

    fn padded_tokens(&self, batch: &Batch) -> usize {
        if self.needs_padding() { self.shape(batch).iter().product() } else { batch.tokens() }
    }

    fn encode(
        &mut self,
        batch: &Batch,
        _: &mut dyn FnMut() -> usize,
        out: &mut [f32],
    ) -> Result<(), EncodeError> {
        if !self.config.per_text {
            return self.run(batch, out);
        }
        let mut single = Batch::new();
        let sequences = batch.sequences().zip(batch.prompt_tokens()).zip(batch.second_segments());
        for (((ids, &prompt_tokens), &second), out) in
            sequences.zip(out.chunks_exact_mut(self.config.dimensions))
        {
            single.clear();
            single.push_sequence(ids, prompt_tokens, second);
            self.run(&single, out)?;
        }
        Ok(())
    }
}

impl OnnxEncoder {
    /// Runs the graph once for the whole batch.
    fn run(&mut self, batch: &Batch, out: &mut [f32]) -> Result<(), EncodeError> {
        let shape = self.fill_inputs(batch);
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (input, element) in &self.inputs {
            let buffer = match input {
                OnnxInput::InputIds => &self.ids,
                OnnxInput::AttentionMask => &self.mask,
                OnnxInput::TokenTypeIds => &self.types,
                OnnxInput::PositionIds { .. } => &self.positions,
            };
            let value: SessionInputValue<'_> = match element {
                Some(TensorElementType::Int32) => {
                    // Ids, positions and flags are far below the maximum of i32.
                    let values: Vec<i32> = buffer.iter().map(|&value| value as i32).collect();
                    Tensor::from_array((shape, values))?.into()
                }
                _ => TensorRef::from_array_view((shape, buffer.as_slice()))?.into(),
            };
            inputs.push((input.name(), value));
        }
        let outputs = self.session.run(inputs)?;
        let (found, values) = output_as_f32(&outputs[self.config.output.as_str()])?;
        let hidden = found.last().map_or(0, |&hidden| hidden as usize);
        let expected: &[usize] = match &self.config.output_kind {
            OnnxOutput::TokenEmbeddings(_) => &[shape[0], shape[1], hidden],
            OnnxOutput::SentenceEmbedding => &[shape[0], self.config.dimensions],
        };
        if !found.iter().copied().eq(expected.iter().map(|&length| length as i64)) {
            return Err(EncodeError::Shape {
                found: found.to_vec(),
                expected: expected.iter().map(|&length| length as i64).collect(),
            });
        }
        let OnnxOutput::TokenEmbeddings(head) = &self.config.output_kind else {
            out.copy_from_slice(&values[..out.len()]);
            return Ok(());
        };
        check_head(head, hidden, self.config.dimensions)
            .map_err(|error| EncodeError::Other(error.to_string()))?;
        let texts = values.chunks_exact(shape[1] * hidden).zip(batch.lengths()).zip(batch.prompt_tokens());
        for (((text, &length), &prompt_tokens), row) in
            texts.zip(out.chunks_exact_mut(self.config.dimensions))
        {
            let tokens = ArrayView2::from_shape((shape[1], hidden), text)
                .map_err(|error| EncodeError::Other(error.to_string()))?;
            apply_head(head, tokens.split_at(Axis(0), length).0, prompt_tokens, row);
        }
        Ok(())
    }
}

/// Returns the shape and the values of an output, converted to f32 if the graph computes in half precision.
fn output_as_f32(output: &DynValue) -> ort::Result<(&Shape, Cow<'_, [f32]>)> {
    Ok(match output.dtype().tensor_type() {
        Some(TensorElementType::Float16) => {
            let (shape, values) = output.try_extract_tensor::<half::f16>()?;
            (shape, Cow::Owned(values.to_f32_vec()))
        }
        Some(TensorElementType::Bfloat16) => {
            let (shape, values) = output.try_extract_tensor::<half::bf16>()?;
            (shape, Cow::Owned(values.to_f32_vec()))
        }
        _ => {
            let (shape, values) = output.try_extract_tensor::<f32>()?;
            (shape, Cow::Borrowed(values))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_ids_start_at_zero_or_after_the_padding_id() {
        let positions = |after_padding| {
            let mut rows = [0; 5];
            write_position_ids(&[7, 1, 8, 9], after_padding, &mut rows);
            rows
        };
        assert_eq!(positions(None), [0, 1, 2, 3, 0]);
        assert_eq!(positions(Some(1)), [2, 1, 3, 4, 0]);
    }

    #[test]
    fn the_version_is_read_from_the_file_name() {
        let version = |name: &str| version_of(Path::new(name)).map(|version| version.to_string());
        assert_eq!(version("/lib/libonnxruntime.so.1.32.0").as_deref(), Some("1.32.0"));
        assert_eq!(version("libonnxruntime.1.24.1.dylib").as_deref(), Some("1.24.1"));
        assert_eq!(version("/lib/libonnxruntime.so.1"), None);
        assert_eq!(version("onnxruntime.dll"), None);
    }
}
