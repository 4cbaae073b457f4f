//! The process environment. The only place that reads environment variables.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::{env, fmt, io, thread};

/// Prefix of the names of embedgate's variables.
pub(super) const PREFIX: &str = "EMBEDGATE_";

/// Variable of other programs, too, that names ONNX Runtime's library.
pub(super) const ORT_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Variable of other programs, too, that names the collector of traces.
pub(super) const OTLP_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Address of a model hub, a variable of Hugging Face's libraries as are the next three.
pub(super) const HF_ENDPOINT: &str = "HF_ENDPOINT";

/// Cache folder of models.
pub(super) const HF_HUB_CACHE: &str = "HF_HUB_CACHE";

/// Forbids requests to a hub.
pub(super) const HF_HUB_OFFLINE: &str = "HF_HUB_OFFLINE";

/// Access token for a hub.
const HF_TOKEN: &str = "HF_TOKEN";

/// Key for a server with OpenAI's API, a variable of OpenAI's SDKs.
const OPENAI_API_KEY: &str = "OPENAI_API_KEY";

/// Names of further variables that are read: keys, places of the cache and of the token, and the proxy.
const OTHERS: [&str; 14] = [
    OPENAI_API_KEY,
    HF_TOKEN,
    "HF_TOKEN_PATH",
    "HF_HOME",
    "XDG_CACHE_HOME",
    "HOME",
    "USERPROFILE",
    "ALL_PROXY",
    "all_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
];

/// Everything outside the command line and the settings file that [`Config::resolve`](super::Config::resolve) depends
/// on.
#[derive(Clone)]
pub struct ProcessEnv {
    /// Directory in which the settings file and ONNX Runtime are looked for.
    pub working_directory: PathBuf,
    /// Path of the program itself, if known.
    pub executable: Option<PathBuf>,
    /// CPUs that this process may use, at least 1; a cgroup's quota is honored.
    pub cpus: usize,
    /// Variables that begin with `EMBEDGATE_`, except those that Kubernetes sets, and those of other programs that are
    /// used.
    pub variables: BTreeMap<String, OsString>,
}

impl ProcessEnv {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// When there is no working directory.
    pub fn of_this_process() -> io::Result<Self> {
        let variables = env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let is_ours = name.starts_with(PREFIX) && !is_service_link(&name, &value.to_string_lossy());
            let shared = [ORT_VARIABLE, OTLP_VARIABLE, HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE];
            let is_used = is_ours || shared.contains(&&*name) || OTHERS.contains(&&*name);
            is_used.then_some((name, value))
        });
        Ok(Self {
            working_directory: env::current_dir()?,
            executable: env::current_exe().ok(),
            cpus: thread::available_parallelism().map_or(1, NonZeroUsize::get),
            variables: variables.collect(),
        })
    }

    /// Returns an environment without variables on a machine of `cpus` CPUs.
    pub(super) fn empty(cpus: usize) -> Self {
        Self { working_directory: PathBuf::new(), executable: None, cpus, variables: BTreeMap::new() }
    }

    /// Returns the text of a variable that is not empty.
    fn text(&self, name: &str) -> Option<&str> {
        self.variables.get(name)?.to_str().filter(|text| !text.is_empty())
    }

    /// Returns the API key for the server that a command asks.
    pub(crate) fn openai_api_key(&self) -> Option<String> {
        self.text(OPENAI_API_KEY).map(str::to_owned)
    }

    /// Returns the folder of Hugging Face's libraries.
    fn hf_home(&self) -> Option<PathBuf> {
        let home = || self.text("HOME").or_else(|| self.text("USERPROFILE")).map(PathBuf::from);
        if let Some(given) = self.text("HF_HOME") {
            // As Python's `expanduser` does.
            let below_home = given.strip_prefix("~/").and_then(|rest| Some(home()?.join(rest)));
            return Some(below_home.unwrap_or_else(|| PathBuf::from(given)));
        }
        let cache =
            self.text("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cache")))?;
        Some(cache.join("huggingface"))
    }

    /// Returns the cache folder of models, unless `HF_HUB_CACHE` or a setting names another.
    pub(super) fn hub_cache(&self) -> Option<PathBuf> {
        Some(self.hf_home()?.join("hub"))
    }

    /// Returns the access token: `HF_TOKEN`, or the one that `hf auth login` has stored.
    pub(super) fn hub_token(&self) -> Option<String> {
        let stored = || {
            let named = self.text("HF_TOKEN_PATH").map(PathBuf::from);
            let path = named.or_else(|| Some(self.hf_home()?.join("token")))?;
            std::fs::read_to_string(path).ok()
        };
        let token = self.text(HF_TOKEN).map(str::to_owned).or_else(stored)?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    }

    /// Returns the proxy for requests to a hub, as other programs read it from their environment.
    pub(super) fn proxy(&self) -> Option<(&str, Option<&str>)> {
        let names = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
        let address = names.iter().find_map(|name| self.text(name))?;
        Some((address, self.text("NO_PROXY")))
    }

    /// Looks for ONNX Runtime where an installation has it, and where a checkout does.
    pub(super) fn find_onnxruntime(&self) -> Option<PathBuf> {
        let name = match env::consts::OS {
            "macos" => "libonnxruntime.dylib",
            "windows" => "onnxruntime.dll",
            _ => "libonnxruntime.so",
        };
        let installed = self.executable.as_deref().and_then(Path::parent);
        let folders = installed
            .map(|folder| [folder.join("../lib"), folder.to_owned()])
            .into_iter()
            .flatten()
            .chain([self.working_directory.join(".runtime/onnxruntime")]);
        folders.map(|folder| folder.join(name)).find(|library| library.is_file())
    }
}

impl fmt::Debug for ProcessEnv {
    /// Writes the names of the variables only: their values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessEnv")
            .field("working_directory", &self.working_directory)
            .field("executable", &self.executable)
            .field("cpus", &self.cpus)
            .field("variables", &self.variables.keys())
            .finish()
    }
}

/// Returns true for a variable by which Kubernetes announces a Service to a pod, if the Service's name begins with
/// `embedgate`: `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_HTTP`, `…_PORT` (a URL), and
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

#[cfg(test)]
mod tests {
    use super::is_service_link;

    #[test]
    fn variables_of_kubernetes_services_are_no_settings() {
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
