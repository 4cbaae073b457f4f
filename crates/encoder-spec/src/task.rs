//! The task of a model: the kind of result that it computes.

use std::fmt;

/// Kind of result that a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Task {
    /// A dense vector for each text.
    #[default]
    Embed,
    /// A relevance score for each pair of a query and a document (a cross-encoder).
    Rerank,
    /// A weight for each entry of the vocabulary, most of them 0, for each text (SPLADE).
    EmbedSparse,
}

impl Task {
    /// Name, as in `/v1/models`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Rerank => "rerank",
            Self::EmbedSparse => "embed-sparse",
        }
    }

    /// Verb phrase, with the model as its subject.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Embed => "computes embeddings",
            Self::Rerank => "reranks",
            Self::EmbedSparse => "computes sparse embeddings",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
