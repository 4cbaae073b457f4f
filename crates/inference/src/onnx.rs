//! The encoder that runs an ONNX graph: the only file, with `provider`, that names `ort`.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ndarray::{ArrayView2, Axis};
use ort::{
    environment::Environment,
    session::{
        Session, SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{Outlet, TensorRef},
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

/// The version in a library's real file name: `libonnxruntime.so.1.32.0`, `libonnxruntime.1.32.0.dylib`.
fn version_of(file: &Path) -> Option<Arc<str>> {
    let name = file.file_name()?.to_str()?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    let version = digits.trim_end_matches(|c: char| !c.is_ascii_digit());
    let is_version = version.split('.').filter(|part| part.parse::<u32>().is_ok()).count() == 3;
    is_version.then(|| version.into())
}

/// An input that a graph may ask for, by its customary name; each is i64 of shape `[batch, sequence]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnnxInput {
    /// Token ids.
    InputIds,
    /// 1 for a token, 0 for padding.
    AttentionMask,
    /// Always 0: one segment.
    TokenTypeIds,
}

impl OnnxInput {
    /// The input's name in the graph.
    pub fn name(self) -> &'static str {
        match self {
            Self::InputIds => "input_ids",
            Self::AttentionMask => "attention_mask",
            Self::TokenTypeIds => "token_type_ids",
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
    pub window: usize,
    /// Length of a vector.
    pub dimensions: usize,
}

/// Encoders that run `config`'s graph, each in a session of its own.
pub fn onnx_encoders(runtime: &OnnxRuntime, config: OnnxConfig) -> EncoderFactory {
    let (runtime, config) = (runtime.clone(), Arc::new(config));
    Arc::new(move || {
        let session = open(&runtime, &config)?;
        Ok(Box::new(OnnxEncoder {
            session,
            config: Arc::clone(&config),
            ids: Vec::new(),
            mask: Vec::new(),
            types: Vec::new(),
        }))
    })
}

fn open(runtime: &OnnxRuntime, config: &OnnxConfig) -> Result<Session, StartError> {
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
    let inputs: Vec<&str> = session.inputs().iter().map(Outlet::name).collect();
    if let Some(input) = config.inputs.iter().find(|input| !inputs.contains(&input.name())) {
        return Err(missing("input", input.name(), inputs));
    }
    let outputs: Vec<&str> = session.outputs().iter().map(Outlet::name).collect();
    if !outputs.contains(&config.output.as_str()) {
        return Err(missing("output", &config.output, outputs));
    }
    Ok(session)
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

/// An encoder with its session. Buffers are kept from batch to batch.
struct OnnxEncoder {
    session: Session,
    config: Arc<OnnxConfig>,
    ids: Vec<i64>,
    mask: Vec<i64>,
    types: Vec<i64>,
}

impl OnnxEncoder {
    /// The shape of the tensors, `[batch, longest]`: for some providers a larger one with rows that belong to no text.
    fn shape(&self, batch: &Batch) -> [usize; 2] {
        let (rows, longest) = (batch.len(), batch.longest());
        if self.config.provider.prepares_shapes() {
            shape::bucket(rows, longest, self.config.window)
        } else {
            [rows, longest]
        }
    }

    /// Lays the batch out in its shape, which is returned, padded with id 0, which the mask hides.
    fn pad(&mut self, batch: &Batch) -> [usize; 2] {
        let shape @ [rows, longest] = self.shape(batch);
        let cells = rows * longest;
        self.types.resize(cells, 0);
        for buffer in [&mut self.ids, &mut self.mask] {
            buffer.clear();
            buffer.resize(cells, 0);
        }
        for (row, sequence) in batch.sequences().enumerate() {
            let start = row * longest;
            for (cell, &id) in self.ids[start..].iter_mut().zip(sequence) {
                *cell = i64::from(id);
            }
            self.mask[start..start + sequence.len()].fill(1);
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

    fn pads(&self) -> bool {
        true
    }

    fn spent(&self, batch: &Batch) -> usize {
        self.shape(batch).iter().product()
    }

    fn encode(
        &mut self,
        batch: &Batch,
        _: &mut dyn FnMut() -> usize,
        out: &mut [f32],
    ) -> Result<(), EncodeError> {
        let shape = self.pad(batch);
        let mut inputs = Vec::with_capacity(self.config.inputs.len());
        for input in &self.config.inputs {
            let buffer = match input {
                OnnxInput::InputIds => &self.ids,
                OnnxInput::AttentionMask => &self.mask,
                OnnxInput::TokenTypeIds => &self.types,
            };
            let tensor = TensorRef::from_array_view((shape, buffer.as_slice()))?;
            inputs.push((input.name(), SessionInputValue::from(tensor)));
        }
        let outputs = self.session.run(inputs)?;
        let (found, values) = outputs[self.config.output.as_str()].try_extract_tensor::<f32>()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_tells_the_version() {
        let version = |name: &str| version_of(Path::new(name)).map(|version| version.to_string());
        assert_eq!(version("/lib/libonnxruntime.so.1.32.0").as_deref(), Some("1.32.0"));
        assert_eq!(version("libonnxruntime.1.24.1.dylib").as_deref(), Some("1.24.1"));
        assert_eq!(version("/lib/libonnxruntime.so.1"), None);
        assert_eq!(version("onnxruntime.dll"), None);
    }
}
