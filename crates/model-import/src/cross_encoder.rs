//! Settings of cross-encoders outside the network: whether a folder holds one, its labels, the activation of its
//! scores, and the token types of its tokenizer.

use std::path::Path;

use encoder_spec::DenseActivation;
use serde::Deserialize;

use crate::{ImportError, json};

/// The file in which sentence-transformers stores the settings of the whole model.
pub(crate) const LIBRARY_CONFIG: &str = "config_sentence_transformers.json";

/// The parts of `config.json` that describe a classification head.
#[derive(Deserialize, Default)]
pub(crate) struct ClassifierConfig {
    architectures: Option<Vec<String>>,
    id2label: Option<serde_json::Map<String, serde_json::Value>>,
    num_labels: Option<usize>,
    /// Activation of the scores, as sentence-transformers 2 to 3 wrote it.
    sbert_ce_default_activation_function: Option<String>,
    /// Settings of sentence-transformers 4 and later.
    sentence_transformers: Option<ActivationSetting>,
}

#[derive(Deserialize, Default)]
struct ActivationSetting {
    activation_fn: Option<String>,
}

/// `tokenizer_config.json`.
#[derive(Deserialize)]
struct TokenizerInputs {
    model_input_names: Option<Vec<String>>,
}

impl ClassifierConfig {
    /// Reads `config.json` in `folder`; without one, it describes nothing.
    pub(crate) fn read(folder: &Path) -> Result<Self, ImportError> {
        Ok(json::read_optional(&folder.join("config.json"))?.unwrap_or_default())
    }

    /// Returns true if the model was saved with a classification head for whole texts.
    pub(crate) fn is_classifier(&self) -> bool {
        self.architectures().any(|name| name.ends_with("ForSequenceClassification"))
    }

    /// Returns true if the model was saved by the ColBERT library.
    pub(crate) fn is_late_interaction(&self) -> bool {
        self.architectures().any(|name| name.to_ascii_lowercase().contains("colbert"))
    }

    fn architectures(&self) -> impl Iterator<Item = &str> {
        self.architectures.iter().flatten().map(String::as_str)
    }

    /// Checks that the model yields one score.
    pub(crate) fn check_labels(&self, folder: &Path) -> Result<(), ImportError> {
        // transformers' default is two labels.
        let labels = self.id2label.as_ref().map(serde_json::Map::len).or(self.num_labels).unwrap_or(2);
        if labels == 1 {
            return Ok(());
        }
        Err(ImportError::unsupported_setting(
            &folder.join("config.json"),
            format!("a classifier with {labels} labels"),
            "a cross-encoder with one label, the relevance of a document to a query",
        ))
    }

    /// Returns the activation of the scores of the model in `root`: the one that a file names, or else sigmoid, as
    /// sentence-transformers takes for one label.
    pub(crate) fn score_activation(
        &self,
        root: &Path,
        folder: &Path,
    ) -> Result<DenseActivation, ImportError> {
        let library = root.join(LIBRARY_CONFIG);
        let config = folder.join("config.json");
        let stated = json::read_optional::<ActivationSetting>(&library)?;
        let settings = [
            (&library, stated.and_then(|setting| setting.activation_fn)),
            (&config, self.sentence_transformers.as_ref().and_then(|setting| setting.activation_fn.clone())),
            (&config, self.sbert_ce_default_activation_function.clone()),
        ];
        let named = settings.into_iter().find_map(|(path, name)| Some((path, name?)));
        let Some((path, name)) = named else { return Ok(DenseActivation::Sigmoid) };
        DenseActivation::from_torch(&name).ok_or_else(|| unknown_activation(path, &name))
    }
}

fn unknown_activation(path: &Path, name: &str) -> ImportError {
    let names: Vec<_> = DenseActivation::NAMES.iter().map(|(name, _)| *name).collect();
    let expected = format!("one of PyTorch's modules {}", names.join(", "));
    ImportError::unsupported_setting(path, format!("activation function `{name}`"), expected)
}

/// Returns true if the tokenizer in `folder` passes token types to the model. Old files do not say so; the template for
/// pairs in `tokenizer.json` then decides.
pub(crate) fn has_token_types(folder: &Path) -> Result<bool, ImportError> {
    let config = json::read_optional::<TokenizerInputs>(&folder.join("tokenizer_config.json"))?;
    let names = config.and_then(|config| config.model_input_names);
    Ok(names.is_none_or(|names| names.iter().any(|name| name == "token_type_ids")))
}
