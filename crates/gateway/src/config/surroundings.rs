//! What the process finds around itself. The only place that reads environment variables which no flag has.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::{env, fmt, io, thread};

use super::trace::CollectorUrl;

/// Variable that holds the API keys: they have no flag, for a command line can be read by other users.
pub const API_KEYS_VARIABLE: &str = "EMBEDGATE_API_KEYS";

/// Variable by which other programs, too, find ONNX Runtime.
pub(super) const ORT_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Variable by which other programs, too, find their collector of traces.
pub(super) const OTLP_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What the process finds around itself; everything that [`Config::resolve`] may look at besides the flags
/// and the file.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The settings file and ONNX Runtime are looked for from here.
    pub working_directory: PathBuf,
    /// The program's own file, where that is known.
    pub executable: Option<PathBuf>,
    /// Processors that this process may use, at least 1; a cgroup's quota is honoured.
    pub processors: usize,
    /// Value of `EMBEDGATE_API_KEYS`.
    pub api_keys: Option<Secret>,
    /// Value of `ORT_DYLIB_PATH`.
    pub ort_dylib_path: Option<PathBuf>,
    /// Value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub otlp_endpoint: Option<CollectorUrl>,
}

/// A text that `Debug` does not show.
#[derive(Clone)]
pub struct Secret(pub OsString);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Surroundings {
    /// Looks around in this process.
    ///
    /// # Errors
    /// When there is no working directory.
    pub fn of_this_process() -> io::Result<Self> {
        Ok(Self {
            working_directory: env::current_dir()?,
            executable: env::current_exe().ok(),
            processors: thread::available_parallelism().map_or(1, NonZeroUsize::get),
            api_keys: env::var_os(API_KEYS_VARIABLE).map(Secret),
            ort_dylib_path: env::var_os(ORT_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from),
            otlp_endpoint: env::var_os(OTLP_VARIABLE)
                .filter(|url| !url.is_empty())
                .map(|url| CollectorUrl::from(&*url.to_string_lossy())),
        })
    }

    /// Looks for ONNX Runtime where an installation and `cargo xtask setup` put it.
    pub(super) fn find_onnxruntime(&self) -> Option<PathBuf> {
        let name = match env::consts::OS {
            "macos" => "libonnxruntime.dylib",
            "windows" => "onnxruntime.dll",
            _ => "libonnxruntime.so",
        };
        let beside = self.executable.as_deref().and_then(Path::parent);
        let folders = beside
            .map(|folder| [folder.join("../lib"), folder.to_owned()])
            .into_iter()
            .flatten()
            .chain([self.working_directory.join(".runtime/onnxruntime")]);
        folders.map(|folder| folder.join(name)).find(|library| library.is_file())
    }
}
