//! What the process finds around itself. The only place that reads environment variables which no flag has.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::{env, fmt, io, thread};

use clap::{Args, Command};

use super::file::nearest;
use super::merge::Merge;
use super::renamed::renamed_flag;
use super::resolve::Problem;
use super::settings::Settings;
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
    /// Names of the variables that begin with `EMBEDGATE_`, but for those that Kubernetes sets.
    pub variables: Vec<String>,
    /// Value of `EMBEDGATE_API_KEYS`.
    pub api_keys: Option<Secret>,
    /// Value of `ORT_DYLIB_PATH`.
    pub ort_dylib_path: Option<PathBuf>,
    /// Value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub otlp_endpoint: Option<CollectorUrl>,
}

/// Prefix of the names of our variables.
const PREFIX: &str = "EMBEDGATE_";

/// Names of this process's variables that begin with [`PREFIX`], but for those that Kubernetes sets.
fn variables() -> Vec<String> {
    let ours = env::vars_os().filter_map(|(name, value)| {
        let name = name.to_string_lossy().into_owned();
        (name.starts_with(PREFIX) && !is_service_link(&name, &value.to_string_lossy())).then_some(name)
    });
    ours.collect()
}

/// Returns true for a variable by which Kubernetes announces a Service to a pod, if the Service's name begins with
/// `embedgate`: `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_HTTP`, `…_PORT` (an URL), and
/// `…_PORT_8080_TCP` with `_PROTO`, `_PORT` or `_ADDR`.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let protocol = || {
        let (number, rest) = name.rsplit_once("_PORT_")?.1.split_once('_')?;
        number.parse::<u16>().ok().and(rest.split('_').next())
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_url)
        || protocol().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
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
            variables: variables(),
            api_keys: env::var_os(API_KEYS_VARIABLE).map(Secret),
            ort_dylib_path: env::var_os(ORT_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from),
            otlp_endpoint: env::var_os(OTLP_VARIABLE)
                .filter(|url| !url.is_empty())
                .map(|url| CollectorUrl::from(&*url.to_string_lossy())),
        })
    }

    /// Looks for ONNX Runtime where an installation has it, and where a checkout does.
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

impl Merge<'_> {
    /// Refuses every variable with our prefix that belongs to no setting, as it refuses unknown keys of the file.
    pub(super) fn refuse_unknown_variables(&mut self) {
        let settings = Settings::augment_args(Command::new("settings"));
        let mut known: Vec<_> = settings.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
        known.push(API_KEYS_VARIABLE);
        let name = |variable: &str| variable.trim_start_matches(PREFIX).to_lowercase();
        let names: Vec<String> = known.iter().map(|variable| name(variable)).collect();
        for variable in
            self.surroundings.variables.iter().filter(|variable| !known.contains(&variable.as_str()))
        {
            if let Some(new_name) = renamed_flag(&name(variable)) {
                let new_name = format!("{PREFIX}{}", new_name.to_uppercase());
                self.problems.push(Problem::RenamedVariable { variable: variable.clone(), new_name });
                continue;
            }
            let nearest =
                nearest(&name(variable), &names).map(|name| format!("{PREFIX}{}", name.to_uppercase()));
            self.problems.push(Problem::UnknownVariable { variable: variable.clone(), nearest });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_service_link;

    #[test]
    fn variables_of_kubernetes_services_are_told_from_settings() {
        for (name, value) in [
            ("EMBEDGATE_SERVICE_HOST", "10.0.0.1"),
            ("EMBEDGATE_SERVICE_PORT", "8080"),
            ("EMBEDGATE_SERVICE_PORT_HTTP", "8080"),
            ("EMBEDGATE_PORT", "tcp://10.0.0.1:8080"),
            ("EMBEDGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("EMBEDGATE_PORT_8080_TCP_PROTO", "tcp"),
            ("EMBEDGATE_PORT_8080_TCP_PORT", "8080"),
            ("EMBEDGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("EMBEDGATE_METRICS_PORT_53_UDP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_service_link(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("EMBEDGATE_PORT", "8080"),
            ("EMBEDGATE_HOST", "0.0.0.0"),
            ("EMBEDGATE_LISTEN", "tcp://10.0.0.1:8080"),
            ("EMBEDGATE_PORT_HTTP", "8080"),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }
}
