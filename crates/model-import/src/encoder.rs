//! Sizes and tensors of an encoder, for kernels that compute it without a graph.

use std::{borrow::Cow, sync::Arc};

use crate::{
    Activation, ImportError, ModelFolder, Positions,
    family::post_norm::{EMBEDDINGS_NORM, PostNorm, WORD_EMBEDDINGS},
    folder::ModelSource,
    weights::{TensorLocation, Weights},
};

/// The sizes of a post-norm encoder: BERT, RoBERTa, XLM-RoBERTa, DistilBERT.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderSizes {
    /// Hidden size.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Width of the feed-forward network.
    pub intermediate: usize,
    /// Rows of the token embedding table.
    pub vocabulary: usize,
    /// Rows of the position table.
    pub position_rows: usize,
    /// The way in which positions are counted.
    pub positions: Positions,
    /// The activation of the feed-forward network.
    pub activation: Activation,
    /// Added to the variance in every layer norm.
    pub epsilon: f32,
}

/// A linear layer of a transformer layer, with a weight of `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linear {
    /// Queries of all heads.
    Query,
    /// Keys of all heads.
    Key,
    /// Values of all heads.
    Value,
    /// Output projection of attention.
    Projection,
    /// First linear layer of the feed-forward network.
    Up,
    /// Second linear layer of the feed-forward network.
    Down,
}

/// A layer norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// After the sum of the embeddings.
    Embeddings,
    /// After a layer's attention.
    Attention(usize),
    /// After a layer's feed-forward network.
    Output(usize),
}

/// The tensors of an encoder, read from its files on demand.
pub struct EncoderWeights {
    network: PostNorm,
    weights: Weights,
}

impl ModelFolder {
    /// Opens the encoder's weights; `None` if the folder holds a ready-made graph instead.
    ///
    /// # Errors
    /// If the weights cannot be opened.
    pub fn encoder(&self) -> Result<Option<EncoderWeights>, ImportError> {
        let ModelSource::Weights { folder, architecture } = &self.source else { return Ok(None) };
        let Some(network) = architecture.post_norm() else { return Ok(None) };
        Ok(Some(EncoderWeights { network, weights: Weights::open(folder, network.prefixes)? }))
    }
}

impl EncoderWeights {
    /// Returns the sizes.
    pub fn sizes(&self) -> EncoderSizes {
        let network = &self.network;
        EncoderSizes {
            hidden: network.hidden,
            heads: network.heads,
            layers: network.layers,
            intermediate: network.intermediate,
            vocabulary: network.vocabulary,
            position_rows: network.position_rows,
            positions: network.positions,
            activation: network.activation,
            epsilon: network.epsilon,
        }
    }

    /// Returns the weight of a linear layer, `[outputs, inputs]`, row-major.
    ///
    /// # Errors
    /// If the tensor is missing, has another shape or an unsupported type, or holds a value that is not finite.
    pub fn weight(&self, layer: usize, linear: Linear) -> Result<Cow<'_, [f32]>, ImportError> {
        let (module, shape) = self.module(layer, linear);
        self.weights.view(&format!("{module}.weight"), &shape)
    }

    /// Returns the bias of a linear layer, `[outputs]`.
    ///
    /// # Errors
    /// Those of [`weight`](Self::weight).
    pub fn bias(&self, layer: usize, linear: Linear) -> Result<Cow<'_, [f32]>, ImportError> {
        let (module, [outputs, _]) = self.module(layer, linear);
        self.weights.view(&format!("{module}.bias"), &[outputs])
    }

    /// Returns a norm's scale, `[hidden]`.
    ///
    /// # Errors
    /// Those of [`weight`](Self::weight).
    pub fn scale(&self, norm: Norm) -> Result<Cow<'_, [f32]>, ImportError> {
        self.weights.view(&format!("{}.weight", self.norm(norm)), &[self.network.hidden])
    }

    /// Returns a norm's shift, `[hidden]`.
    ///
    /// # Errors
    /// Those of [`weight`](Self::weight).
    pub fn shift(&self, norm: Norm) -> Result<Cow<'_, [f32]>, ImportError> {
        self.weights.view(&format!("{}.bias", self.norm(norm)), &[self.network.hidden])
    }

    /// Returns the position table, `[position_rows, hidden]`, to which the first segment's row has been added if the
    /// model has segments.
    ///
    /// # Errors
    /// Those of [`weight`](Self::weight).
    pub fn positions(&self) -> Result<Vec<f32>, ImportError> {
        self.network.position_table(&self.weights)
    }

    /// Returns the token embeddings. Rows are read from the mapped file on demand.
    ///
    /// # Errors
    /// Those of [`weight`](Self::weight).
    pub fn into_token_embeddings(self) -> Result<TokenEmbeddings, ImportError> {
        let location =
            self.weights.find_rows(WORD_EMBEDDINGS, &[self.network.vocabulary, self.network.hidden])?;
        self.weights.advise_random()?;
        Ok(TokenEmbeddings { inner: Arc::new((self.weights, location)) })
    }

    fn module(&self, layer: usize, linear: Linear) -> (String, [usize; 2]) {
        let PostNorm { names, hidden, intermediate, .. } = self.network;
        let (module, shape) = match linear {
            Linear::Query => (names.query, [hidden, hidden]),
            Linear::Key => (names.key, [hidden, hidden]),
            Linear::Value => (names.value, [hidden, hidden]),
            Linear::Projection => (names.attention_output, [hidden, hidden]),
            Linear::Up => (names.up, [intermediate, hidden]),
            Linear::Down => (names.down, [hidden, intermediate]),
        };
        (format!("{}.{layer}.{module}", names.layer), shape)
    }

    fn norm(&self, norm: Norm) -> String {
        let names = self.network.names;
        match norm {
            Norm::Embeddings => EMBEDDINGS_NORM.to_owned(),
            Norm::Attention(layer) => format!("{}.{layer}.{}", names.layer, names.attention_norm),
            Norm::Output(layer) => format!("{}.{layer}.{}", names.layer, names.output_norm),
        }
    }
}

impl std::fmt::Debug for EncoderWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncoderWeights").field("network", &self.network).finish_non_exhaustive()
    }
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
