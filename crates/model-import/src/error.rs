//! The errors of a model folder. Each names the file, the expected and the found content.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A reason why a model folder cannot be read or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A required file is missing.
    #[error("`{}` is missing: {hint}", path.display())]
    Missing {
        /// The expected file.
        path: PathBuf,
        /// Its purpose, or a way to get it.
        hint: String,
    },
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A folder, a device or a pipe is in the place of a file.
    #[error("`{}` is {found}, expected a regular file", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
        /// The kind that was found.
        found: &'static str,
    },
    /// A Git LFS pointer is in the place of a large file.
    #[error(
        "`{}` is a Git LFS pointer, not the file itself: run `git lfs pull` in the model's repository, or download \
         the file",
        path.display()
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file is larger than the limit for its kind.
    #[error("`{}` has more than {max} bytes, the limit for such a file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Maximum number of bytes that are read.
        max: u64,
    },
    /// A file cannot be written: a full disk, a read-only folder.
    #[error(
        "cannot write `{}`: the folder must be writable and have room for a second copy of the weights",
        path.display()
    )]
    Write {
        /// The file being written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not JSON, or lacks a key; the source holds line and column.
    #[error("`{}` is not JSON with the expected keys", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause, with line and column.
        source: serde_json::Error,
    },
    /// A manifest cannot be parsed.
    #[error("`{}` is not a valid manifest", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The cause, with line and column.
        source: Box<toml::de::Error>,
    },
    /// The parts of a manifest contradict each other or the folder.
    #[error("the manifest `{}` does not match the model: {reason}", path.display())]
    ManifestMismatch {
        /// The manifest.
        path: PathBuf,
        /// The difference.
        reason: String,
    },
    /// The folder's files are not those of the manifest.
    #[error("the files in `{}` are not those of its manifest: {}", root.display(), differences.join("; "))]
    ManifestFiles {
        /// The model folder.
        root: PathBuf,
        /// One entry per file that differs.
        differences: Vec<String>,
    },
    /// A setting that would change the vectors is not supported.
    #[error("`{}`: {setting} is not supported: {expected}", path.display())]
    Setting {
        /// The file that holds it.
        path: PathBuf,
        /// The setting with its value.
        setting: String,
        /// The supported values.
        expected: String,
    },
    /// The architecture has no exporter.
    #[error(
        "`{}`: no exporter for model_type `{model_type}` (there is one for {supported}); a ready-made `model.onnx` \
         or `onnx/model.onnx` in the folder would be used instead",
        path.display()
    )]
    UnsupportedFamily {
        /// The `config.json`.
        path: PathBuf,
        /// The architecture in it.
        model_type: String,
        /// The architectures that have an exporter.
        supported: String,
    },
    /// The folder holds neither usable weights nor a graph at a usual place, but graphs under other names.
    #[error(
        "`{}`: {reason}, and there is no graph at `model.onnx` or `onnx/model.onnx`; the folder holds {graphs}: name \
         the one to use in the setting `onnx_file`",
        root.display()
    )]
    ChooseGraph {
        /// The model folder.
        root: PathBuf,
        /// The reason why the folder cannot be used without a graph.
        reason: String,
        /// The list of graphs.
        graphs: String,
    },
    /// A pooling mode is unknown.
    #[error("`{}`: unknown pooling mode {found}; known are {supported}", path.display())]
    UnsupportedPooling {
        /// The pooling configuration.
        path: PathBuf,
        /// The name or the setting.
        found: String,
        /// The known modes.
        supported: String,
    },
    /// A module takes another number of values than the one before it yields.
    #[error("the modules in `{}` do not fit together", path.display())]
    ModuleSizes {
        /// `modules.json`.
        path: PathBuf,
        /// The module and the sizes.
        source: encoder_spec::InvalidSpec,
    },
    /// A module of the pipeline is unknown, or at an unsupported position.
    #[error(
        "`{}`: module {position} is `{module}`; supported are Transformer, Pooling, and after these any Dense, \
         LayerNorm and Normalize; the Transformer of a cross-encoder alone; or Transformer and SpladePooling",
        path.display()
    )]
    UnsupportedModule {
        /// `modules.json`.
        path: PathBuf,
        /// Index in the list.
        position: usize,
        /// Its type.
        module: String,
    },
    /// The model computes a vector for each token.
    #[error(
        "`{}` describes a late-interaction model (ColBERT), which computes a vector for each token; embedgate does not \
         serve such models: use a cross-encoder to rerank documents, or a model with one vector for each text",
        path.display()
    )]
    LateInteraction {
        /// The file that says so.
        path: PathBuf,
    },
    /// A weights file is truncated, or its header contradicts its content.
    #[error("`{}` is not a complete safetensors file", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The result of the header check.
        source: safetensors::SafeTensorError,
    },
    /// A PyTorch weights file is truncated, or its parts contradict each other.
    #[error(
        "`{}` is not a complete PyTorch weights file: {reason}; copy or download it again",
        path.display()
    )]
    PyTorchDamaged {
        /// The file.
        path: PathBuf,
        /// The found and the expected content.
        reason: String,
    },
    /// A PyTorch weights file holds something else than a dictionary of plain tensors.
    #[error(
        "cannot use `{}`: {reason}; save the model again with transformers' `safe_serialization=True`, which writes \
         `model.safetensors`",
        path.display()
    )]
    PyTorchRefused {
        /// The file.
        path: PathBuf,
        /// The content that was refused.
        reason: String,
    },
    /// A required tensor is missing.
    #[error("`{}` has no tensor `{tensor}` (expected shape {expected:?})", path.display())]
    MissingTensor {
        /// The weights file or index.
        path: PathBuf,
        /// The expected name.
        tensor: String,
        /// The expected shape.
        expected: Vec<usize>,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("`{}`: tensor `{tensor}` has shape {found:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that follows from `config.json`.
        expected: Vec<usize>,
        /// The shape in the file's header.
        found: Vec<usize>,
    },
    /// A tensor's type is not supported for weights.
    #[error("`{}`: tensor `{tensor}` is {found}, expected F32, F16 or BF16, row-major", path.display())]
    TensorType {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type, and its layout if that is the reason.
        found: String,
    },
    /// A weight is not a finite number as f32.
    #[error(
        "`{}`: tensor `{tensor}` holds {value:e} at {index:?}, expected numbers that are finite as F32: the file is \
         damaged, or was saved by a training run that diverged; use another copy of the model",
        path.display()
    )]
    NotFinite {
        /// The file that holds the tensor.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Coordinates of the weight in the tensor, one for each dimension.
        index: Vec<usize>,
        /// NaN, an infinity, or a double out of the range of f32.
        value: f64,
    },
    /// A file is not an ONNX file.
    #[error("`{}` is not an ONNX file", path.display())]
    OnnxDecode {
        /// The file.
        path: PathBuf,
        /// The cause, with the position.
        source: prost::DecodeError,
    },
    /// An ONNX file is not a text encoder that embedgate can run.
    #[error("`{}` cannot be used: {reason}", path.display())]
    Onnx {
        /// The file.
        path: PathBuf,
        /// The expected and the found content.
        reason: String,
    },
    /// A file of external weights is missing or too short.
    #[error(
        "`{}`: tensor `{tensor}` needs {needed} bytes of `{}`, which has {}",
        path.display(),
        data.display(),
        found.map_or("not been found".to_owned(), |bytes| bytes.to_string())
    )]
    ExternalData {
        /// The ONNX file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file that holds the tensor.
        data: PathBuf,
        /// End of the tensor in that file.
        needed: u64,
        /// The file's size; `None` if it is missing.
        found: Option<u64>,
    },
}

impl ImportError {
    /// Converts an error of reading `path`, for `map_err`. A missing file becomes [`ImportError::Missing`] with `hint`.
    pub(crate) fn read(path: &Path, hint: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: path.to_owned(), hint: hint.to_owned() },
            _ => Self::Read { path: path.to_owned(), source },
        }
    }

    /// Converts an error of writing `path`, for `map_err`.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }

    /// Returns the error for a setting in `path` that would change the vectors.
    pub(crate) fn unsupported_setting(
        path: &Path,
        setting: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Setting { path: path.to_owned(), setting: setting.into(), expected: expected.into() }
    }
}
