//! Specification and tensors of an encoder, for kernels that compute it without a graph.

use std::{borrow::Cow, collections::BTreeSet, path::Path, sync::Arc};

use encoder_spec::{EncoderSpec, TensorId};

use crate::{
    ImportError, ModelFolder,
    family::{self, Location, Network},
    folder::ModelSource,
    weights::{TensorLocation, Weights},
};

/// The tensors of an encoder, read from its files on demand.
pub struct EncoderWeights {
    network: Box<Network>,
    weights: Weights,
}

impl ModelFolder {
    /// Opens the encoder's weights; `None` if the folder holds a ready-made graph instead.
    ///
    /// # Errors
    /// If the weights cannot be opened.
    pub fn encoder(&self) -> Result<Option<EncoderWeights>, ImportError> {
        let ModelSource::Weights { folder, network } = &self.source else { return Ok(None) };
        let weights = Weights::open(folder, network.prefixes)?;
        Ok(Some(EncoderWeights { network: network.clone(), weights }))
    }
}

impl EncoderWeights {
    /// The specification.
    pub fn spec(&self) -> &EncoderSpec {
        &self.network.spec
    }

    /// Returns a tensor, row-major, in the shape that the specification gives it.
    ///
    /// # Errors
    /// If the specification has no such tensor, or if the file's is missing, has another shape or an unsupported type,
    /// or holds a value that is not finite.
    pub fn read(&self, tensor: TensorId) -> Result<Cow<'_, [f32]>, ImportError> {
        self.network.read(&self.weights, tensor)
    }

    /// Returns the first layer that has the weights of `layer`: another one if layers share them, as in ALBERT.
    pub fn source_layer(&self, layer: usize) -> usize {
        self.network.source_layer(layer)
    }

    /// Returns the token embeddings. Rows are read from the mapped file on demand.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn into_token_embeddings(self) -> Result<TokenEmbeddings, ImportError> {
        let spec = &self.network.spec;
        let name = self.network.locate(TensorId::TokenEmbeddings).name;
        let location = self.weights.find_rows(&name, &[spec.vocabulary, spec.embeddings.width])?;
        self.weights.advise_random()?;
        Ok(TokenEmbeddings { inner: Arc::new((self.weights, location)) })
    }
}

impl std::fmt::Debug for EncoderWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncoderWeights").field("network", &self.network).finish_non_exhaustive()
    }
}

/// A tensor of a model's weight file.
#[derive(Debug, Clone)]
pub struct WeightEntry {
    /// Its name in the file.
    pub name: String,
    /// Its shape in the file.
    pub shape: Vec<usize>,
    /// The tensor that it holds, or the first of those whose rows it packs.
    pub tensor: TensorId,
}

/// Returns the tensors that the weights of the network in `config`, a `config.json`, consist of.
///
/// # Errors
/// If the file cannot be read, or describes no supported network.
pub fn weight_entries(config: &Path) -> Result<Vec<WeightEntry>, ImportError> {
    let (_, network) = family::read(config, "it describes the network")?;
    let mut names = BTreeSet::new();
    let entry = |tensor| {
        let (Location { name, rows }, mut shape) = (network.locate(tensor), network.spec.shape(tensor)?);
        if let Some((_, total)) = rows {
            shape[0] = total;
        }
        names.insert(name.clone()).then_some(WeightEntry { name, shape, tensor })
    };
    Ok(network.spec.tensors().into_iter().filter_map(entry).collect())
}

/// The token embedding table in a mapped file. Cheap to clone.
#[derive(Clone)]
pub struct TokenEmbeddings {
    inner: Arc<(Weights, TensorLocation)>,
}

impl TokenEmbeddings {
    /// Copies the row of `id` to `out`, which has the table's width.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn read_row(&self, id: u32, out: &mut [f32]) {
        let (weights, location) = &*self.inner;
        weights.read_row(location, id as usize, out);
    }
}

impl std::fmt::Debug for TokenEmbeddings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenEmbeddings").finish_non_exhaustive()
    }
}
