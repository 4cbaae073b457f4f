//! A network as numbers, for a runtime that computes it without a graph: sizes, and tensors by their role.

use std::{borrow::Cow, sync::Arc};

use crate::{
    Activation, ImportError, ModelFolder, Positions,
    family::post_norm::{EMBEDDINGS_NORM, PostNorm, WORDS},
    folder::ModelSource,
    safetensors::{Stored, Weights},
};

/// Sizes of an encoder with norms after its residuals: BERT, RoBERTa, XLM-RoBERTa, DistilBERT.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderSizes {
    /// Width of a token's state.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Rows of the word table.
    pub vocabulary: usize,
    /// Rows of the position table.
    pub position_rows: usize,
    /// How a token's row in it is found.
    pub positions: Positions,
    /// The feed-forward part's non-linearity.
    pub activation: Activation,
    /// Added to the variance in every norm.
    pub epsilon: f32,
}

/// An affine map of a layer, its weight `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linear {
    /// Queries of all heads.
    Query,
    /// Keys of all heads.
    Key,
    /// Values of all heads.
    Value,
    /// After attention.
    Projection,
    /// Into the feed-forward part.
    Up,
    /// Out of it.
    Down,
}

/// A layer norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// After the embeddings' sum.
    Embeddings,
    /// After a layer's attention.
    Attention(usize),
    /// After a layer's feed-forward part.
    Output(usize),
}

/// A model's tensors, read from its files when they are asked for.
pub struct EncoderWeights {
    network: PostNorm,
    weights: Weights,
}

impl ModelFolder {
    /// The network's sizes and tensors; `None` where the folder holds a ready-made graph instead.
    ///
    /// # Errors
    /// When the weights cannot be opened.
    pub fn encoder(&self) -> Result<Option<EncoderWeights>, ImportError> {
        let ModelSource::Weights { folder, architecture } = &self.network else { return Ok(None) };
        let Some(network) = architecture.post_norm() else { return Ok(None) };
        Ok(Some(EncoderWeights { network, weights: Weights::open(folder, network.prefixes)? }))
    }
}

impl EncoderWeights {
    /// The sizes.
    pub fn sizes(&self) -> EncoderSizes {
        let PostNorm { hidden, heads, layers, intermediate, vocabulary, .. } = self.network;
        let PostNorm { position_rows, positions, activation, epsilon, .. } = self.network;
        EncoderSizes {
            hidden,
            heads,
            layers,
            intermediate,
            vocabulary,
            position_rows,
            positions,
            activation,
            epsilon,
        }
    }

    /// The weight of one of a layer's maps, `[outputs, inputs]`, row-major.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape or an unknown type; as for the other tensors.
    pub fn weight(&self, layer: usize, linear: Linear) -> Result<Cow<'_, [f32]>, ImportError> {
        let (module, shape) = self.module(layer, linear);
        self.weights.view(&format!("{module}.weight"), &shape)
    }

    /// Its bias, `[outputs]`.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub fn bias(&self, layer: usize, linear: Linear) -> Result<Cow<'_, [f32]>, ImportError> {
        let (module, [outputs, _]) = self.module(layer, linear);
        self.weights.view(&format!("{module}.bias"), &[outputs])
    }

    /// A norm's scale, `[hidden]`.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub fn scale(&self, norm: Norm) -> Result<Cow<'_, [f32]>, ImportError> {
        self.weights.view(&format!("{}.weight", self.norm(norm)), &[self.network.hidden])
    }

    /// A norm's shift, `[hidden]`.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub fn shift(&self, norm: Norm) -> Result<Cow<'_, [f32]>, ImportError> {
        self.weights.view(&format!("{}.bias", self.norm(norm)), &[self.network.hidden])
    }

    /// The position table, `[position_rows, hidden]`, with the first segment's row added where there are segments.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub fn positions(&self) -> Result<Vec<f32>, ImportError> {
        self.network.position_table(&self.weights)
    }

    /// The word table, left where it is: rows are read from the mapped file when they are asked for.
    ///
    /// # Errors
    /// As [`weight`](Self::weight).
    pub fn into_token_embeddings(self) -> Result<TokenEmbeddings, ImportError> {
        let stored = self.weights.find_rows(WORDS, &[self.network.vocabulary, self.network.hidden])?;
        self.weights.scattered()?;
        Ok(TokenEmbeddings { inner: Arc::new((self.weights, stored)) })
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

/// A word table in a mapped file. Cheap to clone.
#[derive(Clone)]
pub struct TokenEmbeddings {
    inner: Arc<(Weights, Stored)>,
}

impl TokenEmbeddings {
    /// Writes the row of `id`; `out` has the table's width.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, id: u32, out: &mut [f32]) {
        let (weights, stored) = &*self.inner;
        weights.row(stored, id as usize, out);
    }
}

impl std::fmt::Debug for TokenEmbeddings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenEmbeddings").finish_non_exhaustive()
    }
}
