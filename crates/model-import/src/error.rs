//! Why a model folder cannot be used: each failure names the file, what was expected, and what was found.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Everything that can go wrong between a folder and a graph.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file that the model cannot do without.
    #[error("`{}` is missing: {hint}", path.display())]
    Missing {
        /// The file looked for.
        path: PathBuf,
        /// Why it is needed, or how to get it.
        hint: String,
    },
    /// The system refused to read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A folder, a device or a pipe in place of a file.
    #[error("`{}` is {found}, expected a regular file", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
        /// Kind of what is there instead.
        found: &'static str,
    },
    /// The text that a checkout without Git LFS has in the place of a large file.
    #[error(
        "`{}` is a Git LFS pointer, not the file itself: run `git lfs pull` in the model's repository, or download \
         the file",
        path.display()
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file that is larger than its kind can be.
    #[error("`{}` has more than {max} bytes, the limit for such a file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Maximum number of bytes that are read.
        max: u64,
    },
    /// The system refused to write: a full disk, a read-only folder.
    #[error("cannot write `{}`: the folder must be writable and hold the weights once more", path.display())]
    Write {
        /// The file being written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Not JSON, or not of the expected shape; the source holds line and column.
    #[error("`{}` is not JSON with the expected keys", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Names line and column.
        source: serde_json::Error,
    },
    /// A manifest that cannot be parsed.
    #[error("`{}` is not a model manifest", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Names line and column.
        source: Box<toml::de::Error>,
    },
    /// A manifest whose parts contradict each other or the folder.
    #[error("the manifest `{}` does not fit: {reason}", path.display())]
    ManifestMismatch {
        /// The manifest.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// Files that are not those of the manifest.
    #[error("`{}` is not the model of its manifest: {}", root.display(), differences.join("; "))]
    ManifestFiles {
        /// The model folder.
        root: PathBuf,
        /// One entry per file that differs.
        differences: Vec<String>,
    },
    /// A setting that would change the vectors and that is not supported.
    #[error("`{}`: {setting} is not supported: {expected}", path.display())]
    Setting {
        /// The file that holds it.
        path: PathBuf,
        /// The setting with its value.
        setting: String,
        /// What is supported.
        expected: String,
    },
    /// No exporter for this architecture.
    #[error(
        "`{}`: no exporter for model_type `{model_type}` (there is one for {supported}); a ready-made `model.onnx` \
         or `onnx/model.onnx` in the folder would be used instead",
        path.display()
    )]
    UnsupportedFamily {
        /// The `config.json`.
        path: PathBuf,
        /// What it asks for.
        model_type: String,
        /// The known ones.
        supported: String,
    },
    /// No graph at its usual place and nothing else to compute the model with, but graphs under other names.
    #[error(
        "`{}`: {reason}, and there is no graph at `model.onnx` or `onnx/model.onnx`; the folder holds {graphs}: name \
         the one to use in the setting `onnx_file`",
        root.display()
    )]
    ChooseGraph {
        /// The model folder.
        root: PathBuf,
        /// Reason why the folder cannot be used as it is.
        reason: String,
        /// The graphs, in words.
        graphs: String,
    },
    /// No pooling mode, several at once, or an unknown one.
    #[error("`{}`: exactly one known pooling mode is needed, found {found}", path.display())]
    UnsupportedPooling {
        /// The pooling configuration.
        path: PathBuf,
        /// The modes that are on.
        found: String,
    },
    /// A step of the pipeline that the engine does not know, or knows in another order.
    #[error(
        "`{}`: module {position} is `{module}`; supported are Transformer, Pooling, any Dense, Normalize, in this order",
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
    /// A weights file whose header lies, or that was cut.
    #[error("`{}` is not a whole safetensors file", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the header check says.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that the architecture needs.
    #[error("`{}` has no tensor `{tensor}` (expected shape {expected:?})", path.display())]
    MissingTensor {
        /// The weights file or index.
        path: PathBuf,
        /// The name looked for.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor of another shape than the configuration says.
    #[error("`{}`: tensor `{tensor}` has shape {found:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// By `config.json`.
        expected: Vec<usize>,
        /// By the file's header.
        found: Vec<usize>,
    },
    /// A tensor of numbers that cannot be weights.
    #[error("`{}`: tensor `{tensor}` is {found}, expected F32, F16 or BF16", path.display())]
    TensorType {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// A weight that is not a finite number as f32.
    #[error(
        "`{}`: tensor `{tensor}` holds {value:e} at {index:?}, expected numbers that are finite as F32: the file is damaged, or was saved \
         by a training run that diverged; use another copy of the model",
        path.display()
    )]
    NotFinite {
        /// The file that holds the tensor.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Coordinates of the weight in the tensor, one for each dimension.
        index: Vec<usize>,
        /// NaN, an infinity, or a double beyond the range of f32.
        value: f64,
    },
    /// Not an ONNX file.
    #[error("`{}` is not an ONNX file", path.display())]
    OnnxDecode {
        /// The file.
        path: PathBuf,
        /// Where decoding stopped.
        source: prost::DecodeError,
    },
    /// An ONNX file that is no text encoder we can drive.
    #[error("`{}` cannot be used: {reason}", path.display())]
    Onnx {
        /// The file.
        path: PathBuf,
        /// What is expected and what was found.
        reason: String,
    },
    /// External weights that are absent or too short.
    #[error(
        "`{}`: tensor `{tensor}` needs {needed} bytes of `{}`, which has {}",
        path.display(),
        data.display(),
        found.map_or("not been found".to_owned(), |bytes| format!("{bytes}"))
    )]
    ExternalData {
        /// The ONNX file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file it points into.
        data: PathBuf,
        /// End of the tensor in that file.
        needed: u64,
        /// The file's size; none when it is absent.
        found: Option<u64>,
    },
}

impl ImportError {
    /// For `map_err` on a read: an absent file is [`ImportError::Missing`] with the hint.
    pub(crate) fn read(path: &Path, hint: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: path.to_owned(), hint: hint.to_owned() },
            _ => Self::Read { path: path.to_owned(), source },
        }
    }

    /// For `map_err` on a write.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}
