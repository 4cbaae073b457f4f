//! Typed access to `config.json`. Keys that a folder omits have the defaults of transformers, and every error names the
//! file and the key.

use std::path::{Path, PathBuf};

use encoder_spec::{Activation, DenseActivation, EncoderSpec, Rope};
use serde_json::{Map, Value};

use super::check_size;
use crate::{ImportError, json};

/// The content of a `config.json`.
pub(super) struct ConfigFile {
    path: PathBuf,
    values: Map<String, Value>,
}

/// Kinds of attention layers that transformers knows RoPE settings for, by its names for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttentionKind {
    Full,
    Sliding,
}

impl AttentionKind {
    fn name(self) -> &'static str {
        match self {
            Self::Full => "full_attention",
            Self::Sliding => "sliding_attention",
        }
    }
}

/// The RoPE settings of a family.
pub(super) struct RopeKeys {
    /// The kind of the layers.
    pub(super) kind: AttentionKind,
    /// The key of θ outside `rope_parameters`.
    pub(super) theta: &'static str,
    /// θ if no key states it.
    pub(super) default_theta: f64,
    /// `rope_scaling` applies to these layers.
    pub(super) scaled: bool,
    /// Scaling of type `ntk` is that of the published GTE models; transformers itself has no such type.
    pub(super) ntk: bool,
    /// `rope_parameters` holds one object for each kind of layer. transformers then ignores a single one.
    pub(super) by_kind: bool,
}

impl ConfigFile {
    /// Reads the file; a missing one is reported with `hint`.
    pub(super) fn read(path: &Path, hint: &str) -> Result<Self, ImportError> {
        Ok(Self { path: path.to_owned(), values: json::read(path, hint)? })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The family, by transformers' name for it.
    pub(super) fn model_type(&self) -> Result<&str, ImportError> {
        const KEY: &str = "model_type";
        let missing = || self.unsupported(KEY, "the name of the architecture");
        self.get(KEY).ok_or_else(missing)?.as_str().ok_or_else(missing)
    }

    /// Returns the value of a key; `None` for null too, which transformers writes for a setting without a value.
    fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Returns true if the file has a value for the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Returns true if the file has the key, with null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(Value::is_null)
    }

    /// Returns the first of several names of one setting that the file has a value for, or else the first name.
    pub(super) fn first<'k>(&self, keys: &[&'k str]) -> &'k str {
        keys.iter().find(|key| self.has(key)).unwrap_or(&keys[0])
    }

    /// Returns the error for a key whose value is not supported.
    pub(super) fn unsupported(&self, key: &str, expected: impl Into<String>) -> ImportError {
        let setting = match self.values.get(key) {
            None => format!("no `{key}`"),
            Some(Value::String(text)) => format!("{key} `{text}`"),
            Some(value) => format!("{key} = {value}"),
        };
        ImportError::unsupported_setting(&self.path, setting, expected)
    }

    /// Returns a size of at least 1.
    pub(super) fn size(&self, key: &str, default: usize) -> Result<usize, ImportError> {
        let size = self.count(key, default)?;
        check_size(&self.path, key, size)?;
        Ok(size)
    }

    /// Returns a number of rows, of which there may be none.
    pub(super) fn rows(&self, key: &str, default: usize) -> Result<Option<usize>, ImportError> {
        match self.count(key, default)? {
            0 => Ok(None),
            _ => self.size(key, default).map(Some),
        }
    }

    /// Returns a whole number that is not negative.
    pub(super) fn count(&self, key: &str, default: usize) -> Result<usize, ImportError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| self.unsupported(key, "a whole number"))
    }

    /// Returns a whole number, which may be negative.
    pub(super) fn integer(&self, key: &str, default: i64) -> Result<i64, ImportError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_i64().ok_or_else(|| self.unsupported(key, "a whole number"))
    }

    /// Returns a number.
    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64, ImportError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.unsupported(key, "a number"))
    }

    /// Returns a flag.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ImportError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.unsupported(key, "true or false"))
    }

    /// Returns a text.
    pub(super) fn text<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str, ImportError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| self.unsupported(key, "a text"))
    }

    /// Returns the lower-case words of a list, which old files write as one text with `|` between them.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, ImportError> {
        let words = match self.get(key) {
            None => Some(vec![]),
            Some(Value::String(text)) => Some(text.split('|').collect()),
            Some(Value::Array(list)) => list.iter().map(Value::as_str).collect(),
            Some(_) => None,
        };
        let words = words.ok_or_else(|| self.unsupported(key, "a list of texts"))?;
        Ok(words.iter().map(|word| word.trim().to_lowercase()).collect())
    }

    /// Returns the ε of the norms.
    pub(super) fn epsilon(&self, key: &str, default: f64) -> Result<f32, ImportError> {
        let epsilon = self.number(key, default)? as f32;
        // Norms divide by the square root of the variance plus ε.
        if epsilon > 0.0 && epsilon <= 1.0 {
            return Ok(epsilon);
        }
        Err(self.unsupported(key, "a number above 0 and at most 1"))
    }

    /// Returns the activation function that a key names.
    pub(super) fn activation(&self, key: &str, default: &str) -> Result<Activation, ImportError> {
        let name = self.text(key, default)?;
        Activation::from_name(name).ok_or_else(|| self.unsupported(key, known_activations()))
    }

    /// Returns the activation function of a head's layer that a key names.
    pub(super) fn dense_activation(&self, key: &str, default: &str) -> Result<DenseActivation, ImportError> {
        let name = self.text(key, default)?;
        DenseActivation::from_transformers(name)
            .ok_or_else(|| self.unsupported(key, "one of gelu, relu, sigmoid, silu, tanh"))
    }

    /// Returns an error if a key has another value than the only one that is supported, which is also the default.
    pub(super) fn expect(&self, key: &str, supported: impl Into<Value>) -> Result<(), ImportError> {
        self.expect_stated(key, supported.into(), true)
    }

    /// Returns an error unless a key has the only value that is supported, which is not the default.
    pub(super) fn require(&self, key: &str, supported: impl Into<Value>) -> Result<(), ImportError> {
        self.expect_stated(key, supported.into(), false)
    }

    fn expect_stated(&self, key: &str, supported: Value, is_default: bool) -> Result<(), ImportError> {
        let is_supported = match (self.get(key), supported.as_f64()) {
            (None, _) => is_default,
            // 1 and 1.0 are equal.
            (Some(value), Some(number)) => value.as_f64() == Some(number),
            (Some(value), None) => *value == supported,
        };
        let expected = match &supported {
            Value::String(text) => format!("only `{text}`"),
            Value::Null => "only null".to_owned(),
            value => format!("only {value}"),
        };
        if is_supported { Ok(()) } else { Err(self.unsupported(key, expected)) }
    }

    /// Returns the width of an attention head, if all heads together have the width of the hidden states.
    pub(super) fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize, ImportError> {
        if hidden.is_multiple_of(heads) {
            return Ok(hidden / heads);
        }
        let setting = format!("{heads} attention heads over a width of {hidden}");
        Err(ImportError::unsupported_setting(&self.path, setting, "the heads must divide the width"))
    }

    /// Returns the kind of each of `layers` layers from `layer_types`; `None` if the file has no such list.
    pub(super) fn layer_types(&self, layers: usize) -> Result<Option<Vec<AttentionKind>>, ImportError> {
        const KEY: &str = "layer_types";
        let Some(value) = self.get(KEY) else { return Ok(None) };
        let kinds = value.as_array().and_then(|names| {
            let kind = |name: &Value| {
                [AttentionKind::Full, AttentionKind::Sliding].into_iter().find(|kind| *name == kind.name())
            };
            names.iter().map(kind).collect::<Option<Vec<_>>>()
        });
        let kinds = kinds.filter(|kinds| kinds.len() == layers);
        kinds.map(Some).ok_or_else(|| {
            self.unsupported(
                KEY,
                format!("`full_attention` or `sliding_attention` for each of {layers} layers"),
            )
        })
    }

    /// Returns the rotary position embedding of the layers of one kind, from the keys of transformers 4 (θ at the top
    /// level, `rope_scaling`) or 5 (`rope_parameters`, for all layers or by their kind).
    pub(super) fn rope(&self, keys: &RopeKeys, head_dim: usize) -> Result<Rope, ImportError> {
        self.expect("partial_rotary_factor", 1)?;
        let mut theta = self.number(keys.theta, keys.default_theta)?;
        let mut scaling = self.rope_parameters(keys)?;
        if let Some(parameters) = &scaling {
            theta = parameters.number("rope_theta")?.unwrap_or(theta);
        }
        if keys.scaled && self.has("rope_scaling") {
            let found = self.object("rope_scaling")?;
            theta = found.number("rope_theta")?.unwrap_or(theta);
            scaling = Some(found);
        }
        if !(theta.is_finite() && theta > 1.0) {
            let setting = format!("a RoPE base ({}) of {theta}", keys.theta);
            return Err(ImportError::unsupported_setting(&self.path, setting, "a number above 1"));
        }
        scaling.map_or(Ok(Rope::new(theta)), |scaling| scaling.rope(keys, theta, head_dim))
    }

    /// Returns the entry of `rope_parameters` for a kind of layers.
    fn rope_parameters(&self, keys: &RopeKeys) -> Result<Option<ConfigObject<'_>>, ImportError> {
        const KEY: &str = "rope_parameters";
        if !self.has(KEY) {
            return Ok(None);
        }
        let all = self.object(KEY)?;
        let kinds = [AttentionKind::Full, AttentionKind::Sliding].map(AttentionKind::name);
        let is_kind = |key: &String| kinds.contains(&key.as_str());
        if !keys.by_kind {
            let is_single = !all.values.keys().any(is_kind);
            return if is_single { Ok(Some(all)) } else { Err(self.unsupported(KEY, "one for all layers")) };
        }
        if !all.values.keys().all(is_kind) {
            let expected = "objects named `full_attention` and `sliding_attention`";
            return Err(self.unsupported(KEY, expected));
        }
        let name = keys.kind.name();
        let Some(value) = all.get(name) else { return Ok(None) };
        let values = value.as_object().ok_or_else(|| all.unsupported(name, "an object"))?;
        Ok(Some(ConfigObject { config: self, path: format!("{KEY}.{name}"), values }))
    }

    /// Returns the object that a key holds.
    fn object(&self, key: &str) -> Result<ConfigObject<'_>, ImportError> {
        let values = self.get(key).and_then(Value::as_object);
        let values = values.ok_or_else(|| self.unsupported(key, "an object"))?;
        Ok(ConfigObject { config: self, path: key.to_owned(), values })
    }

    /// Returns the specification unchanged if it can be computed.
    pub(super) fn validate(&self, spec: EncoderSpec) -> Result<EncoderSpec, ImportError> {
        spec.validate().map_err(|invalid| {
            ImportError::unsupported_setting(&self.path, "this network", invalid.to_string())
        })
    }
}

/// An object in a `config.json`.
struct ConfigObject<'c> {
    config: &'c ConfigFile,
    /// Its keys from the top level on.
    path: String,
    values: &'c Map<String, Value>,
}

impl<'c> ConfigObject<'c> {
    /// Returns the value of a key; `None` for null too.
    fn get(&self, key: &str) -> Option<&'c Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Returns the error for a key whose value is not supported.
    fn unsupported(&self, key: &str, expected: impl Into<String>) -> ImportError {
        let path = &self.path;
        let setting = match self.values.get(key) {
            None => format!("{path} without `{key}`"),
            Some(Value::String(text)) => format!("{path}.{key} = `{text}`"),
            Some(value) => format!("{path}.{key} = {value}"),
        };
        ImportError::unsupported_setting(&self.config.path, setting, expected)
    }

    /// Returns a number; `None` if the object has no such key.
    fn number(&self, key: &str) -> Result<Option<f64>, ImportError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.unsupported(key, "a number"))
    }

    /// Returns the rotary position embedding with the scaling that the object describes.
    fn rope(&self, keys: &RopeKeys, theta: f64, head_dim: usize) -> Result<Rope, ImportError> {
        if self.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(self.unsupported("partial_rotary_factor", "1: all dimensions of a head are rotated"));
        }
        if self.get("mixed_b").is_some() {
            return Err(self.unsupported("mixed_b", "only null"));
        }
        let factor = || match self.number("factor")? {
            Some(factor) if factor.is_finite() && factor > 0.0 => Ok(factor),
            _ => Err(self.unsupported("factor", "a number above 0")),
        };
        let key = if self.get("rope_type").is_some() { "rope_type" } else { "type" };
        match self.get(key).map(Value::as_str) {
            None | Some(Some("default")) => Ok(Rope::new(theta)),
            Some(Some("linear")) => Ok(Rope { theta, divisor: factor()? }),
            Some(Some("ntk")) if keys.ntk => Ok(Rope::ntk(theta, factor()?, head_dim)),
            Some(_) if keys.ntk => Err(self.unsupported(key, "default, linear or ntk")),
            Some(_) => Err(self.unsupported(key, "default or linear")),
        }
    }
}

/// Returns the supported values of a key that names an activation function.
pub(super) fn known_activations() -> String {
    let names = Activation::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    format!("one of {}", names.join(", "))
}
