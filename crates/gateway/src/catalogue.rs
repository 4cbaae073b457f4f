//! The catalogue of models that many people serve, `models/catalogue.toml`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

const TEXT: &str = include_str!("../../../models/catalogue.toml");

/// A model of the catalogue. What is missing is stated by the model's own files only.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogueEntry {
    /// Its name on the Hugging Face hub.
    pub(crate) id: String,
    /// The commit that the facts are from.
    pub(crate) revision: String,
    /// `model_type` of its configuration.
    pub(crate) family: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pooling: Option<String>,
    pub(crate) dimensions: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_input_tokens: Option<usize>,
    /// Sizes to which vectors may be truncated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) matryoshka_dimensions: Vec<usize>,
    /// Texts to put before an input, by the kind of input.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) prompts: BTreeMap<String, String>,
    /// A language code, or `multilingual`.
    pub(crate) languages: String,
    pub(crate) license: String,
    /// True if its owner has to grant access, so that a download needs a token.
    #[serde(default)]
    pub(crate) gated: bool,
    /// Number of weights.
    pub(crate) parameters: u64,
}

/// Returns all models of the catalogue.
pub(crate) fn catalogue() -> Result<Vec<CatalogueEntry>, toml::de::Error> {
    #[derive(Deserialize)]
    struct Catalogue {
        models: Vec<CatalogueEntry>,
    }
    Ok(toml::from_str::<Catalogue>(TEXT)?.models)
}

/// License of the model `id` of the hub, if the catalogue has it.
pub(crate) fn license(id: &str) -> Option<String> {
    let models = catalogue().ok()?;
    models.into_iter().find(|model| model.id == id).map(|model| model.license)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model_hub::RepoRef;

    use super::*;

    #[test]
    fn every_entry_is_a_model_at_a_commit() {
        let models = catalogue().unwrap();
        assert_eq!(models.len(), 30);
        let ids: BTreeSet<&str> = models.iter().map(|model| model.id.as_str()).collect();
        assert_eq!(ids.len(), models.len(), "a model is listed twice");
        for model in &models {
            let repo: RepoRef = format!("{}@{}", model.id, model.revision).parse().unwrap();
            assert!(repo.is_commit(), "{}", model.id);
            let poolings = [None, Some("mean"), Some("cls"), Some("last-token")];
            assert!(poolings.contains(&model.pooling.as_deref()), "{}", model.id);
            assert!(model.dimensions >= 128 && model.max_input_tokens.is_none_or(|tokens| tokens >= 128));
            assert!(model.matryoshka_dimensions.iter().all(|size| *size < model.dimensions), "{}", model.id);
            assert!(model.parameters > 10_000_000, "{}", model.id);
        }
    }
}
