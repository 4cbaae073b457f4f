//! Synthetic weights and texts, reference results, and the tests' choice of instruction sets.
#![allow(clippy::unwrap_used)]

use std::{borrow::Cow, sync::Arc};

#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::{
    Activation, BertConfig, Encoder, Isa, LinearId, Model, Positions, TensorId, ThreadPool, TokenEmbeddings,
    WeightSource, reference,
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
#[derive(Clone, Copy)]
pub(crate) struct SyntheticWeights(pub(crate) BertConfig);

impl SyntheticWeights {
    /// A pseudo-random value from −½ to ½.
    pub(crate) fn value(salt: u64, index: usize) -> f32 {
        // SplitMix64's finalizer (Steele, Lea and Flood 2014): any bit of the input changes every bit of the output.
        let mut z = (salt << 32).wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 40) as f32 / (1u64 << 24) as f32) - 0.5
    }

    pub(crate) fn token_embeddings(self) -> TokenEmbeddings {
        Arc::new(move |id, out: &mut [f32]| {
            for (index, value) in out.iter_mut().enumerate() {
                *value = Self::value(1, id as usize * self.0.hidden + index);
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
        let (scale, shift) = match tensor {
            TensorId::Weight(_, LinearId::FfnDown) => (2.0 / (self.0.intermediate as f32).sqrt(), 0.0),
            TensorId::Weight(..) => (4.0 / (self.0.hidden as f32).sqrt(), 0.0),
            TensorId::Scale(_) => (0.5, 1.0),
            _ => (0.2, 0.0),
        };
        let values =
            (0..tensor.len(&self.0)).map(|index| Self::value(salt & 0xffff_ffff, index) * scale + shift);
        Ok(values.collect())
    }
}

pub(crate) const SMALL: BertConfig = BertConfig {
    hidden: 48,
    heads: 4,
    layers: 2,
    intermediate: 96,
    vocabulary: 100,
    position_rows: 80,
    positions: Positions::FromZero,
    activation: Activation::Gelu,
    epsilon: 1e-12,
};

/// An encoder with synthetic weights and `helpers` helper threads.
pub(crate) fn encoder(config: BertConfig, isa: Isa, helpers: usize) -> Encoder {
    let weights = SyntheticWeights(config);
    let model = Model::new(config, &weights, weights.token_embeddings(), isa, 2).unwrap();
    Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(helpers).unwrap()))
}

/// Synthetic sequences of token ids, of these lengths.
pub(crate) fn sequences(config: &BertConfig, lengths: &[usize]) -> Vec<Vec<u32>> {
    let id = |index: usize, salt: usize| ((index * 31 + salt * 17) % config.vocabulary) as u32;
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
pub(crate) fn expected(config: BertConfig, ids: &[u32]) -> Vec<Vec<f64>> {
    let weights = SyntheticWeights(config);
    reference::forward(&config, &weights, &weights.token_embeddings(), ids).unwrap()
}

/// Checks that a sequence's hidden states in a batch on `helpers` helper threads are those that it has alone, bit by
/// bit.
#[track_caller]
pub(crate) fn check_independence_of_batch(isa: Isa, lengths: &[usize], helpers: usize) {
    let sequences = sequences(&SMALL, lengths);
    let mut encoder = encoder(SMALL, isa, helpers);
    let together = hidden_states(&mut encoder, &sequences, helpers);
    for (ids, together) in sequences.iter().zip(&together) {
        let alone = hidden_states(&mut encoder, std::slice::from_ref(ids), 0);
        assert!(alone[0] == *together, "not bit-identical");
    }
}
