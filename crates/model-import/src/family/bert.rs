//! BERT, and the settings and tensor names that its descendants share.

use encoder_spec::{
    AttentionSpec, DenseActivation, EmbeddingSpec, EncoderSpec, FeedForwardSpec, LayerNormId, LayerSpec,
    LinearId, NormId, NormKind, NormPlacement, NormSpec, PoolingMode, PositionIds, PositionTable, ScoreBias,
    Span, TensorId,
};

use super::{Location, Network, config::ConfigFile, norm_of};
use crate::{
    ImportError,
    head::{HeadPlan, LayerPlan},
};

/// Keys of the settings that BERT and its descendants share, each with the value that applies if it is omitted.
pub(super) struct BertKeys {
    pub(super) vocabulary: (&'static str, usize),
    pub(super) hidden: (&'static str, usize),
    pub(super) layers: (&'static str, usize),
    pub(super) heads: (&'static str, usize),
    pub(super) intermediate: (&'static str, usize),
    pub(super) activation: (&'static str, &'static str),
    pub(super) epsilon: (&'static str, f64),
}

impl BertKeys {
    /// Those of transformers' `BertConfig`.
    pub(super) const BERT: Self = Self {
        vocabulary: ("vocab_size", 30_522),
        hidden: ("hidden_size", 768),
        layers: ("num_hidden_layers", 12),
        heads: ("num_attention_heads", 12),
        intermediate: ("intermediate_size", 3072),
        activation: ("hidden_act", "gelu"),
        epsilon: ("layer_norm_eps", 1e-12),
    };
}

pub(super) fn read(config: &ConfigFile) -> Result<Network, ImportError> {
    let mut spec = post_norm(config, &BertKeys::BERT)?;
    check_encoder(config)?;
    spec.embeddings.positions = Some(positions(config, PositionIds::FromZero)?);
    spec.embeddings.segments = Some(config.size("type_vocab_size", 2)?);
    Ok(Network::new(config.validate(spec)?, locate, &["bert.", "model."]))
}

/// The head of `BertForSequenceClassification`: the pooler and a linear layer.
pub(super) fn classifier(config: &ConfigFile) -> Result<HeadPlan, ImportError> {
    let (hidden, default) = BertKeys::BERT.hidden;
    let pooler = LayerPlan::Dense {
        weight: "pooler.dense.weight",
        bias: Some("pooler.dense.bias"),
        outputs: config.size(hidden, default)?,
        activation: DenseActivation::Tanh,
    };
    let layers = vec![pooler, score_layer("classifier.weight", "classifier.bias")];
    Ok(HeadPlan { pooling: PoolingMode::Cls, token_layers: vec![], layers })
}

/// The linear layer of a cross-encoder that yields the score.
pub(super) fn score_layer(weight: &'static str, bias: &'static str) -> LayerPlan {
    LayerPlan::Dense { weight, bias: Some(bias), outputs: 1, activation: DenseActivation::Identity }
}

/// Names of the tensors of a masked language model's head.
pub(super) struct MaskedLmNames {
    /// Weight and bias of the dense layer.
    pub(super) transform: [&'static str; 2],
    /// Weight and bias of the norm.
    pub(super) norm: [&'static str; 2],
    /// Weight of the last layer, if it is not that of the token embeddings, and its bias.
    pub(super) decoder: [&'static str; 2],
}

impl MaskedLmNames {
    /// The head: for each token a dense layer, a norm of `epsilon`, and a product with the token embeddings, which
    /// yields a value for each entry of the vocabulary. The maximum over the tokens is pooled.
    pub(super) fn head(
        &self,
        config: &ConfigFile,
        keys: &BertKeys,
        epsilon: f32,
    ) -> Result<HeadPlan, ImportError> {
        let Self { transform, norm, decoder } = self;
        let transform = LayerPlan::Dense {
            weight: transform[0],
            bias: Some(transform[1]),
            outputs: config.size(keys.hidden.0, keys.hidden.1)?,
            activation: config.dense_activation(keys.activation.0, keys.activation.1)?,
        };
        let norm = LayerPlan::LayerNorm { weight: norm[0], bias: Some(norm[1]), epsilon: epsilon.into() };
        let is_tied = config.flag("tie_word_embeddings", true)?;
        let decoder = LayerPlan::Dense {
            weight: if is_tied { "embeddings.word_embeddings.weight" } else { decoder[0] },
            bias: Some(decoder[1]),
            outputs: config.size(keys.vocabulary.0, keys.vocabulary.1)?,
            activation: DenseActivation::Identity,
        };
        let token_layers = vec![transform, norm, decoder];
        Ok(HeadPlan { pooling: PoolingMode::Max, token_layers, layers: vec![] })
    }
}

/// The head of `BertForMaskedLM`.
pub(super) fn masked_lm_head(config: &ConfigFile) -> Result<HeadPlan, ImportError> {
    let keys = BertKeys::BERT;
    let names = MaskedLmNames {
        transform: ["cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias"],
        norm: ["cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias"],
        decoder: ["cls.predictions.decoder.weight", "cls.predictions.bias"],
    };
    names.head(config, &keys, config.epsilon(keys.epsilon.0, keys.epsilon.1)?)
}

/// Returns an error for settings of BERT and its descendants that change what tokens attend to.
pub(super) fn check_encoder(config: &ConfigFile) -> Result<(), ImportError> {
    config.expect("position_embedding_type", "absolute")?;
    config.expect("is_decoder", false)
}

/// Returns the learned positions.
pub(super) fn positions(config: &ConfigFile, ids: PositionIds) -> Result<PositionTable, ImportError> {
    Ok(PositionTable { rows: config.size("max_position_embeddings", 512)?, ids })
}

/// Returns BERT's network from the keys that its descendants share, without positions and segments.
pub(super) fn post_norm(config: &ConfigFile, keys: &BertKeys) -> Result<EncoderSpec, ImportError> {
    let size = |(key, default): (&str, usize)| config.size(key, default);
    let (hidden, heads) = (size(keys.hidden)?, size(keys.heads)?);
    let head_dim = config.head_dim(hidden, heads)?;
    Ok(EncoderSpec {
        hidden,
        vocabulary: size(keys.vocabulary)?,
        embeddings: EmbeddingSpec {
            width: hidden,
            has_projection: false,
            scale: 1.0,
            positions: None,
            segments: None,
            has_norm: true,
        },
        attention: AttentionSpec {
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            has_query_key_norm: false,
            has_qkv_bias: true,
            has_output_bias: true,
            score_bias: ScoreBias::None,
        },
        feed_forward: FeedForwardSpec {
            intermediate: size(keys.intermediate)?,
            activation: config.activation(keys.activation.0, keys.activation.1)?,
            is_gated: false,
            has_up_bias: true,
            has_down_bias: true,
        },
        norm: NormSpec {
            kind: NormKind::LayerNorm { has_shift: true },
            epsilon: config.epsilon(keys.epsilon.0, keys.epsilon.1)?,
        },
        norm_placement: NormPlacement::Post,
        layers: vec![LayerSpec { span: Span::Full, rope: None }; size(keys.layers)?],
    })
}

/// Returns the place of a tensor by BERT's names.
pub(super) fn locate(_: &EncoderSpec, tensor: TensorId) -> Location {
    let (layer, module) = match (tensor, norm_of(tensor)) {
        (TensorId::TokenEmbeddings, _) => return Location::of("embeddings.word_embeddings", tensor),
        (TensorId::PositionEmbeddings, _) => return Location::of("embeddings.position_embeddings", tensor),
        (TensorId::SegmentEmbeddings, _) => return Location::of("embeddings.token_type_embeddings", tensor),
        (_, Some(NormId::Embeddings)) => return Location::of("embeddings.LayerNorm", tensor),
        (TensorId::Linear(layer, LinearId::Query, _), _) => (layer, "attention.self.query"),
        (TensorId::Linear(layer, LinearId::Key, _), _) => (layer, "attention.self.key"),
        (TensorId::Linear(layer, LinearId::Value, _), _) => (layer, "attention.self.value"),
        (TensorId::Linear(layer, LinearId::AttentionOutput, _), _) => (layer, "attention.output.dense"),
        (TensorId::Linear(layer, LinearId::Up, _), _) => (layer, "intermediate.dense"),
        (TensorId::Linear(layer, LinearId::Down, _), _) => (layer, "output.dense"),
        (_, Some(NormId::Layer(layer, LayerNormId::AttentionOutput))) => {
            (layer, "attention.output.LayerNorm")
        }
        (_, Some(NormId::Layer(layer, LayerNormId::FeedForwardOutput))) => (layer, "output.LayerNorm"),
        _ => return Location::nowhere(tensor),
    };
    Location::of(format!("encoder.layer.{layer}.{module}"), tensor)
}
