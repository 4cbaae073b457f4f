//! The encoder that runs an ONNX graph: the only file, with `provider`, that names `ort`.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

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

use crate::{Batch, EncodeError, Encoder, EncoderFactory, Head, Provider, StartError, shape};

/// ONNX Runtime, loaded into the process. Cheap to clone; a process has one.
#[derive(Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    library: PathBuf,
    version: Arc<str>,
}

/// The process's one runtime: neither the library nor its environment can be loaded twice.
static LOADED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);

impl OnnxRuntime {
    /// Loads the shared library, or returns the runtime if that library is loaded already.
    ///
    /// # Errors
    /// [`StartError::Library`] when it is missing or no ONNX Runtime, [`StartError::LibraryTooOld`],
    /// [`StartError::Config`] when another library is loaded.
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

    /// The library's version, such as `1.32.0`; where its file name does not tell, what it says of its build.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The file that was loaded.
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

/// Reads the start of a library. `dlopen` holds a lock without which no thread can start or end, so a volume that does not
/// answer must keep this thread waiting before the lock is taken.
fn read_start(file: &Path) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(file)?.read_exact(&mut [0; 64])
}

/// The version in a library's real file name: `libonnxruntime.so.1.32.0`, `libonnxruntime.1.32.0.dylib`.
fn version_of(file: &Path) -> Option<Arc<str>> {
    let name = file.file_name()?.to_str()?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    let version = digits.trim_end_matches(|c: char| !c.is_ascii_digit());
    let is_version = version.split('.').filter(|part| part.parse::<u32>().is_ok()).count() == 3;
    is_version.then(|| version.into())
}

/// An input that a graph may ask for, by its customary name; each is int64 or int32 of shape `[batch, sequence]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnnxInput {
    /// Token ids.
    InputIds,
    /// 1 for a token, 0 for padding.
    AttentionMask,
    /// Always 0: one segment.
    TokenTypeIds,
    /// Each token's row in the position table.
    PositionIds {
        /// Count from the row after this id, but not tokens of this id, as RoBERTa does. `None`: count from 0.
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

/// Writes each token's row in the position table.
fn count_positions(sequence: &[u32], after_padding: Option<u32>, rows: &mut [i64]) {
    let mut next = after_padding.map_or(0, |padding| i64::from(padding) + 1);
    for (row, id) in rows.iter_mut().zip(sequence) {
        if after_padding == Some(*id) {
            *row = i64::from(*id);
        } else {
            *row = next;
            next += 1;
        }
    }
}

/// What a graph's output holds.
#[derive(Debug, Clone)]
pub enum OnnxOutput {
    /// `[batch, sequence, hidden]`: one embedding for each token, which the head makes into a vector.
    TokenEmbeddings(Head),
    /// `[batch, dimensions]`: the graph holds pooling and dense layers.
    SentenceEmbedding,
}

/// Which graph to run, and how.
#[derive(Debug, Clone)]
pub struct OnnxConfig {
    /// The ONNX file.
    pub graph: PathBuf,
    /// The inputs that it takes.
    pub inputs: Vec<OnnxInput>,
    /// Name of the output to read.
    pub output: String,
    /// What that output holds.
    pub output_kind: OnnxOutput,
    /// Where it runs.
    pub provider: Provider,
    /// Threads that share one run.
    pub intra_threads: usize,
    /// Tokens of the longest sequence that the graph takes; padding stays below it.
    pub max_input_tokens: usize,
    /// Length of a vector.
    pub dimensions: usize,
    /// Runs each sequence of a batch alone and without padding: for a graph that quantises activations with one scale
    /// for a whole batch, which would make a vector depend on the other sequences.
    pub per_text: bool,
}

/// Encoders that run `config`'s graph, each in a session of its own.
pub fn onnx_encoders(runtime: &OnnxRuntime, config: OnnxConfig) -> EncoderFactory {
    let (runtime, config) = (runtime.clone(), Arc::new(config));
    Arc::new(move || {
        let (session, inputs) = open(&runtime, &config)?;
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

/// The session, and the config's inputs with the types that the graph wants them in.
fn open(runtime: &OnnxRuntime, config: &OnnxConfig) -> Result<(Session, Vec<TypedInput>), StartError> {
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
        // Shapes differ from batch to batch, so a plan of the memory would be made for nothing.
        .with_memory_pattern(false)?
        // A thread that spins takes the core from tokenizing, from HTTP and from other models: a lone text was
        // somewhat faster with it, but its 99th percentile was higher, and so was the CPU time.
        .with_intra_op_spinning(false)?;
    Ok(builder)
}

/// An input and its element type in the graph.
type TypedInput = (OnnxInput, Option<TensorElementType>);

/// An encoder with its session. Buffers are kept from batch to batch.
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
    /// The shape of the tensors, `[batch, longest]`: for some providers a larger one with rows that belong to no text.
    fn shape(&self, batch: &Batch) -> [usize; 2] {
        let (rows, longest) = (batch.len(), batch.max_length());
        if self.config.provider.prepares_shapes() && !self.config.per_text {
            shape::bucket(rows, longest, self.config.max_input_tokens)
        } else {
            [rows, longest]
        }
    }

    /// Lays the batch out in its shape, which is returned, padded with id 0, which the mask hides.
    fn pad(&mut self, batch: &Batch) -> [usize; 2] {
        let shape @ [rows, longest] = self.shape(batch);
        let cells = rows * longest;
        self.types.resize(cells, 0);
        for buffer in [&mut self.ids, &mut self.mask, &mut self.positions] {
            buffer.clear();
            buffer.resize(cells, 0);
        }
        let after_padding = self.config.inputs.iter().find_map(|input| match input {
            OnnxInput::PositionIds { after_padding } => Some(*after_padding),
            _ => None,
        });
        for (row, sequence) in batch.sequences().enumerate() {
            let start = row * longest;
            for (cell, &id) in self.ids[start..].iter_mut().zip(sequence) {
                *cell = i64::from(id);
            }
            self.mask[start..start + sequence.len()].fill(1);
            if let Some(after_padding) = after_padding {
                count_positions(sequence, after_padding, &mut self.positions[start..]);
            }
        }
        // A row of which the mask hides everything would be a division by zero.
        for row in batch.len()..rows {
            self.mask[row * longest] = 1;
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
        let mut alone = Batch::new();
        for (sequence, out) in batch.sequences().zip(out.chunks_exact_mut(self.config.dimensions)) {
            alone.clear();
            alone.push(sequence);
            self.run(&alone, out)?;
        }
        Ok(())
    }
}

impl OnnxEncoder {
    /// Runs the graph once, for the whole batch.
    fn run(&mut self, batch: &Batch, out: &mut [f32]) -> Result<(), EncodeError> {
        let shape = self.pad(batch);
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
                    // Ids, rows and flags are all far below the limit of an i32.
                    let narrow: Vec<i32> = buffer.iter().map(|&value| value as i32).collect();
                    Tensor::from_array((shape, narrow))?.into()
                }
                _ => TensorRef::from_array_view((shape, buffer.as_slice()))?.into(),
            };
            inputs.push((input.name(), value));
        }
        let outputs = self.session.run(inputs)?;
        let (found, values) = floats(&outputs[self.config.output.as_str()])?;
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
        head.check(hidden, self.config.dimensions).map_err(|error| EncodeError::Other(error.to_string()))?;
        let texts = values.chunks_exact(shape[1] * hidden).zip(batch.lengths());
        for ((text, &length), row) in texts.zip(out.chunks_exact_mut(self.config.dimensions)) {
            let tokens = ArrayView2::from_shape((shape[1], hidden), text)
                .map_err(|error| EncodeError::Other(error.to_string()))?;
            head.apply(tokens.split_at(Axis(0), length).0, row);
        }
        Ok(())
    }
}

/// An output's shape and its values, converted if the graph computes in half precision.
fn floats(output: &DynValue) -> ort::Result<(&Shape, Cow<'_, [f32]>)> {
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
    fn positions_count_from_zero_or_after_the_padding_id() {
        let positions = |after_padding| {
            let mut rows = [0; 5];
            count_positions(&[7, 1, 8, 9], after_padding, &mut rows);
            rows
        };
        assert_eq!(positions(None), [0, 1, 2, 3, 0]);
        assert_eq!(positions(Some(1)), [2, 1, 3, 4, 0]);
    }

    #[test]
    fn the_file_name_tells_the_version() {
        let version = |name: &str| version_of(Path::new(name)).map(|version| version.to_string());
        assert_eq!(version("/lib/libonnxruntime.so.1.32.0").as_deref(), Some("1.32.0"));
        assert_eq!(version("libonnxruntime.1.24.1.dylib").as_deref(), Some("1.24.1"));
        assert_eq!(version("/lib/libonnxruntime.so.1"), None);
        assert_eq!(version("onnxruntime.dll"), None);
    }
}
