//! Synthetic weights and texts, reference results, and the tests' choice of instruction sets.
#![allow(clippy::unwrap_used)]

use std::{borrow::Cow, sync::Arc};

use encoder_spec::{
    Activation, AttentionSpec, EmbeddingSpec, EncoderSpec, FeedForwardSpec, LayerSpec, LinearId, NormId,
    NormKind, NormPlacement, NormSpec, Part, PositionIds, PositionTable, RelativeBias, Rope, ScoreBias, Span,
    TensorId,
};

#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::{
    ActivationMaxima, Encoder, EncoderConfig, Isa, Model, ModelInputs, Precision, ThreadPool,
    TokenEmbeddings, WeightSource, reference,
    simd::{Simd, WithSimd},
};

/// Defines one test for each f32 instruction set of the architecture, ignored if this CPU lacks the set.
macro_rules! fp32_tests {
    ($($(#[$meta:meta])* fn $name:ident($isa:ident: Isa) $body:block)+) => {$(
        $(#[$meta])*
        fn $name($isa: $crate::Isa) $body

        mod $name {
            #[cfg(target_arch = "x86_64")]
            #[test]
            #[cfg_attr(not(cpu_has = "avx2"), ignore = "this CPU has no AVX2")]
            fn avx2() {
                super::$name($crate::Isa::Avx2);
            }

            #[cfg(target_arch = "x86_64")]
            #[test]
            #[cfg_attr(not(cpu_has = "avx512"), ignore = "this CPU has no AVX-512")]
            fn avx512() {
                super::$name($crate::Isa::Avx512);
            }

            #[cfg(target_arch = "aarch64")]
            #[test]
            #[cfg_attr(not(cpu_has = "neon"), ignore = "this CPU has no NEON")]
            fn neon() {
                super::$name($crate::Isa::Neon);
            }
        }
    )+};
}
pub(crate) use fp32_tests;

/// Defines one test for each instruction set in int8 or bf16 of this architecture, as [`fp32_tests`].
macro_rules! rounded_tests {
    ($($(#[$meta:meta])* fn $name:ident($isa:ident: Isa) $body:block)+) => {$(
        $(#[$meta])*
        fn $name($isa: $crate::Isa) $body

        mod $name {
            #[cfg(target_arch = "x86_64")]
            #[test]
            #[cfg_attr(not(cpu_has = "avx2-int8"), ignore = "this CPU has no AVX2")]
            fn avx2_int8() {
                super::$name($crate::Isa::Avx2Int8);
            }

            #[cfg(target_arch = "x86_64")]
            #[test]
            #[cfg_attr(not(cpu_has = "avx-vnni"), ignore = "this CPU has no AVX-VNNI")]
            fn avx_vnni() {
                super::$name($crate::Isa::AvxVnni);
            }

            #[cfg(target_arch = "x86_64")]
            #[test]
            #[cfg_attr(not(cpu_has = "avx512-vnni"), ignore = "this CPU has no AVX-512 VNNI")]
            fn avx512_vnni() {
                super::$name($crate::Isa::Avx512Vnni);
            }

            #[cfg(target_arch = "x86_64")]
            #[test]
            #[cfg_attr(not(cpu_has = "avx512-bf16"), ignore = "this CPU has no AVX-512 BF16")]
            fn avx512_bf16() {
                super::$name($crate::Isa::Avx512Bf16);
            }

            #[cfg(target_arch = "aarch64")]
            #[test]
            #[cfg_attr(not(cpu_has = "neon-dotprod"), ignore = "this CPU has no FEAT_DotProd")]
            fn neon_dotprod() {
                super::$name($crate::Isa::NeonDotprod);
            }
        }
    )+};
}
pub(crate) use rounded_tests;

/// Runs `op` compiled for `isa`.
///
/// # Panics
/// If this CPU lacks the instruction set.
pub(crate) fn run_with(isa: Isa, op: impl WithSimd) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Avx2::detect().unwrap().run(op),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Avx512::detect().unwrap().run(op),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Neon::detect().unwrap().run(op),
        _ => panic!("no f32 kernels for {isa}"),
    }
}

/// Weights that differ for every tensor and index, of the magnitude of trained ones.
#[derive(Clone)]
pub(crate) struct SyntheticWeights(pub(crate) EncoderSpec);

impl SyntheticWeights {
    /// A pseudo-random value from −½ to ½.
    pub(crate) fn value(salt: u64, index: usize) -> f32 {
        // SplitMix64's finalizer (Steele, Lea and Flood 2014): any bit of the input changes every bit of the output.
        let mut z = (salt << 32).wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 40) as f32 / (1u64 << 24) as f32) - 0.5
    }

    pub(crate) fn token_embeddings(&self) -> TokenEmbeddings {
        let width = self.0.embeddings.width;
        Arc::new(move |id, out: &mut [f32]| {
            for (index, value) in out.iter_mut().enumerate() {
                *value = Self::value(1, id as usize * width + index);
            }
        })
    }
}

impl WeightSource for SyntheticWeights {
    fn read(&self, tensor: TensorId) -> Result<Cow<'_, [f32]>, Box<dyn std::error::Error + Send + Sync>> {
        let mut salt = 7u64;
        for byte in tensor.to_string().bytes() {
            salt = salt.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
        let spec = &self.0;
        let (scale, shift) = match tensor {
            TensorId::Linear(_, LinearId::Down, Part::Weight) => {
                (2.0 / (spec.feed_forward.intermediate as f32).sqrt(), 0.0)
            }
            TensorId::Linear(_, _, Part::Weight) => (4.0 / (spec.hidden as f32).sqrt(), 0.0),
            TensorId::Scale(_) => (0.5, 1.0 - spec.norm.scale_offset()),
            TensorId::RelativeBias => (2.0, 0.0),
            _ => (0.2, 0.0),
        };
        let len: usize = spec.shape(tensor).unwrap().iter().product();
        Ok((0..len).map(|index| Self::value(salt & 0xffff_ffff, index) * scale + shift).collect())
    }
}

/// Weights of a network whose layers all have those of layer 0.
pub(crate) struct SharedLayers(pub(crate) SyntheticWeights);

impl WeightSource for SharedLayers {
    fn read(&self, tensor: TensorId) -> Result<Cow<'_, [f32]>, Box<dyn std::error::Error + Send + Sync>> {
        self.0.read(match tensor {
            TensorId::Linear(_, linear, part) => TensorId::Linear(0, linear, part),
            TensorId::Scale(NormId::Layer(_, norm)) => TensorId::Scale(NormId::Layer(0, norm)),
            TensorId::Shift(NormId::Layer(_, norm)) => TensorId::Shift(NormId::Layer(0, norm)),
            other => other,
        })
    }

    fn source_layer(&self, _: usize) -> usize {
        0
    }
}

/// The sizes of a BERT encoder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BertShape {
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) layers: usize,
    pub(crate) intermediate: usize,
    pub(crate) vocabulary: usize,
    pub(crate) position_rows: usize,
    pub(crate) position_ids: PositionIds,
    pub(crate) activation: Activation,
}

/// Maximum length of the tests' sequences.
pub(crate) const MAX_TOKENS: usize = 80;

/// A small BERT encoder, with some sizes changed.
pub(crate) fn bert(change: impl FnOnce(&mut BertShape)) -> EncoderSpec {
    let mut shape = BertShape {
        hidden: 48,
        heads: 4,
        layers: 2,
        intermediate: 96,
        vocabulary: 100,
        position_rows: MAX_TOKENS,
        position_ids: PositionIds::FromZero,
        activation: Activation::Gelu,
    };
    change(&mut shape);
    let head_dim = shape.hidden / shape.heads;
    EncoderSpec {
        hidden: shape.hidden,
        vocabulary: shape.vocabulary,
        embeddings: EmbeddingSpec {
            width: shape.hidden,
            has_projection: false,
            scale: 1.0,
            positions: Some(PositionTable { rows: shape.position_rows, ids: shape.position_ids }),
            segments: Some(2),
            has_norm: true,
        },
        attention: AttentionSpec {
            heads: shape.heads,
            kv_heads: shape.heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            has_query_key_norm: false,
            has_qkv_bias: true,
            has_output_bias: true,
            score_bias: ScoreBias::None,
        },
        feed_forward: FeedForwardSpec {
            intermediate: shape.intermediate,
            activation: shape.activation,
            is_gated: false,
            has_up_bias: true,
            has_down_bias: true,
        },
        norm: NormSpec { kind: NormKind::LayerNorm { has_shift: true }, epsilon: 1e-12 },
        norm_placement: NormPlacement::Post,
        layers: vec![LayerSpec { span: Span::Full, rope: None }; shape.layers],
    }
}

/// BERT without position embeddings and biases, with RoPE in every layer.
fn rotary(theta: f64, spans: &[Span]) -> EncoderSpec {
    let mut spec = bert(|_| ());
    spec.embeddings.positions = None;
    spec.attention.has_qkv_bias = false;
    spec.attention.has_output_bias = false;
    spec.feed_forward.has_up_bias = false;
    spec.feed_forward.has_down_bias = false;
    spec.feed_forward.is_gated = true;
    let layer = |&span| LayerSpec { span, rope: Some(Rope::new(theta)) };
    spec.layers = spans.iter().map(layer).collect();
    spec
}

/// All mechanisms of Gemma 3: four norms in a layer, one key head, windows of two sizes, a head of another width than
/// hidden / heads.
pub(crate) fn gemma() -> EncoderSpec {
    let mut spec = rotary(10_000.0, &[Span::Window(3), Span::Full, Span::Window(8)]);
    spec.embeddings.scale = (spec.hidden as f32).sqrt();
    spec.embeddings.segments = None;
    spec.embeddings.has_norm = false;
    spec.attention.heads = 3;
    spec.attention.kv_heads = 1;
    spec.attention.scale = 0.2;
    spec.attention.has_query_key_norm = true;
    spec.feed_forward.activation = Activation::GeluTanh;
    spec.norm = NormSpec { kind: NormKind::RmsNorm { has_unit_offset: true }, epsilon: 1e-6 };
    spec.norm_placement = NormPlacement::PreAndPost;
    spec.layers[1].rope = Some(Rope { theta: 1e6, divisor: 1.2 });
    spec
}

/// Small networks that together use every mechanism that has kernels.
pub(crate) fn networks() -> Vec<(&'static str, EncoderSpec)> {
    let roberta = bert(|shape| {
        (shape.position_ids, shape.vocabulary) = (PositionIds::AfterPadding(1), 5);
    });
    let mut nomic = rotary(1_000.0, &[Span::Full, Span::Full]);
    nomic.feed_forward.activation = Activation::Silu;
    let mut modernbert = rotary(10_000.0, &[Span::Full, Span::Window(4), Span::Window(0)]);
    modernbert.embeddings.segments = None;
    modernbert.norm.kind = NormKind::LayerNorm { has_shift: false };
    modernbert.norm_placement = NormPlacement::Pre { first_attention_norm: false };
    let mut qwen = rotary(10_000.0, &[Span::Causal, Span::Causal]);
    qwen.embeddings.has_norm = false;
    qwen.attention.kv_heads = 2;
    qwen.attention.head_dim = 40;
    qwen.attention.has_query_key_norm = true;
    qwen.feed_forward.activation = Activation::Silu;
    qwen.norm = NormSpec { kind: NormKind::RmsNorm { has_unit_offset: false }, epsilon: 1e-6 };
    qwen.norm_placement = NormPlacement::Pre { first_attention_norm: true };
    let mut mpnet = bert(|_| ());
    mpnet.attention.score_bias =
        ScoreBias::Relative(RelativeBias { rows: 32, buckets: 32, max_distance: 128 });
    let mut t5 = bert(|shape| shape.activation = Activation::Relu);
    t5.embeddings.positions = None;
    t5.embeddings.segments = None;
    t5.embeddings.has_norm = false;
    t5.attention.scale = 0.25;
    t5.attention.score_bias = ScoreBias::Relative(RelativeBias { rows: 16, buckets: 16, max_distance: 40 });
    t5.norm = NormSpec { kind: NormKind::RmsNorm { has_unit_offset: false }, epsilon: 1e-6 };
    t5.norm_placement = NormPlacement::Pre { first_attention_norm: true };
    let mut albert = bert(|shape| shape.activation = Activation::GeluTanh);
    albert.embeddings.width = 24;
    albert.embeddings.has_projection = true;
    vec![
        ("bert", bert(|_| ())),
        ("roberta", roberta),
        ("nomic", nomic),
        ("modernbert", modernbert),
        ("qwen", qwen),
        ("gemma", gemma()),
        ("mpnet", mpnet),
        ("t5", t5),
        ("albert", albert),
    ]
}

pub(crate) fn config(spec: &EncoderSpec) -> EncoderConfig {
    // The network's own limit where it has one.
    EncoderConfig::new(spec.clone(), spec.max_tokens().unwrap_or(MAX_TOKENS)).unwrap()
}

/// Inputs of a model in f32.
pub(crate) fn inputs<'s>(
    spec: &EncoderSpec,
    source: &'s dyn WeightSource,
    token_embeddings: TokenEmbeddings,
) -> ModelInputs<'s> {
    ModelInputs { config: config(spec), source, token_embeddings, activation_maxima: None, threads: 2 }
}

/// Maxima of activations in f32, over two synthetic texts.
pub(crate) fn maxima(
    spec: &EncoderSpec,
    source: &dyn WeightSource,
    token_embeddings: TokenEmbeddings,
) -> ActivationMaxima {
    let isa = Isa::best(Precision::Fp32, None).unwrap();
    let model = Model::new(isa, inputs(spec, source, token_embeddings)).unwrap();
    let mut encoder = Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(0).unwrap()));
    let sequences = sequences(spec, &[30, 7]);
    encoder.activation_maxima(&sequences.concat(), &[30, 7], &[], &mut || 0).unwrap()
}

/// A model with some weights, calibrated if it is in int8.
pub(crate) fn model(
    spec: &EncoderSpec,
    source: &dyn WeightSource,
    token_embeddings: TokenEmbeddings,
    isa: Isa,
) -> Model {
    let is_int8 = isa.precision() == Precision::Int8;
    let maxima = is_int8.then(|| maxima(spec, source, Arc::clone(&token_embeddings)));
    let inputs = inputs(spec, source, token_embeddings);
    Model::new(isa, ModelInputs { activation_maxima: maxima.as_ref(), ..inputs }).unwrap()
}

/// An encoder with synthetic weights and `helpers` helper threads.
pub(crate) fn encoder(spec: &EncoderSpec, isa: Isa, helpers: usize) -> Encoder {
    let weights = SyntheticWeights(spec.clone());
    let model = model(spec, &weights, weights.token_embeddings(), isa);
    Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(helpers).unwrap()))
}

/// Synthetic sequences of token ids, of these lengths.
pub(crate) fn sequences(spec: &EncoderSpec, lengths: &[usize]) -> Vec<Vec<u32>> {
    let id = |index: usize, salt: usize| ((index * 31 + salt * 17) % spec.vocabulary) as u32;
    let sequence = |(salt, &length)| (0..length).map(|index| id(index, salt)).collect();
    lengths.iter().enumerate().map(sequence).collect()
}

/// Hidden states of each sequence, computed in one batch.
pub(crate) fn hidden_states(encoder: &mut Encoder, sequences: &[Vec<u32>], helpers: usize) -> Vec<Vec<f32>> {
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let hidden = encoder.encode(&sequences.concat(), &lengths, &mut || helpers).unwrap();
    let mut token = 0;
    lengths
        .iter()
        .map(|&length| {
            token += length;
            (token - length..token).flat_map(|token| hidden.row(token)).copied().collect()
        })
        .collect()
}

/// Hidden states of a sequence by the reference network.
pub(crate) fn expected(spec: &EncoderSpec, ids: &[u32]) -> Vec<Vec<f64>> {
    let weights = SyntheticWeights(spec.clone());
    reference::forward(spec, &weights, &weights.token_embeddings(), ids).unwrap()
}

/// Checks that a sequence's hidden states in a batch on `helpers` helper threads are those that it has alone, bit by
/// bit.
#[track_caller]
pub(crate) fn check_independence_of_batch(spec: &EncoderSpec, isa: Isa, lengths: &[usize], helpers: usize) {
    let sequences = sequences(spec, lengths);
    let mut encoder = encoder(spec, isa, helpers);
    let together = hidden_states(&mut encoder, &sequences, helpers);
    for (ids, together) in sequences.iter().zip(&together) {
        let alone = hidden_states(&mut encoder, std::slice::from_ref(ids), 0);
        assert!(alone[0] == *together, "not bit-identical");
    }
}

/// Changes sizes of a network; queries stay grouped if they were, `group` to a key head.
pub(crate) fn resize(spec: &mut EncoderSpec, [kv_heads, group, head_dim, intermediate, layers]: [usize; 5]) {
    let is_grouped = spec.attention.kv_heads < spec.attention.heads;
    spec.attention.kv_heads = kv_heads;
    spec.attention.heads = if is_grouped { kv_heads * group } else { kv_heads };
    spec.attention.head_dim = head_dim.next_multiple_of(2);
    spec.attention.scale = 1.0 / (spec.attention.head_dim as f32).sqrt();
    spec.feed_forward.intermediate = intermediate;
    spec.layers = spec.layers.iter().copied().cycle().take(layers).collect();
}
