//! What the tests of all networks share: made weights, made texts, and what the reference says about them.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{borrow::Cow, sync::Arc};

#[cfg(target_arch = "aarch64")]
use crate::lanes::Neon;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::{
    Activation, BertConfig, Encoder, Isa, LinearId, Model, Positions, TensorId, ThreadPool, TokenEmbeddings,
    WeightSource,
    lanes::{Kernel, Lanes},
    reference,
};

/// Runs a kernel on every instruction set of this processor; what is lacking is said, not hidden.
pub(crate) fn on_every_isa<K: Kernel>(kernel: impl Fn() -> K) {
    #[cfg(target_arch = "x86_64")]
    {
        on(Isa::Avx2, Avx2::detect(), kernel());
        on(Isa::Avx512, Avx512::detect(), kernel());
    }
    #[cfg(target_arch = "aarch64")]
    on(Isa::Neon, Neon::detect(), kernel());
}

fn on(isa: Isa, lanes: Option<impl Lanes>, kernel: impl Kernel) {
    match lanes {
        Some(lanes) => lanes.run(kernel),
        None => println!("NOT RUN IN PART: no {isa} here"),
    }
}

/// Weights that are different for every tensor and every place in it, of the size of trained ones.
#[derive(Clone, Copy)]
pub(crate) struct Made(pub(crate) BertConfig);

impl Made {
    /// From −½ to ½.
    pub(crate) fn value(salt: u64, index: usize) -> f32 {
        // SplitMix64's finaliser (Steele, Lea and Flood 2014): any bit of the input moves every bit of the output.
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

impl WeightSource for Made {
    fn read(&self, part: TensorId) -> Result<Cow<'_, [f32]>, Box<dyn std::error::Error + Send + Sync>> {
        let mut salt = 7u64;
        for byte in part.to_string().bytes() {
            salt = salt.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
        let (scale, shift) = match part {
            TensorId::Weight(_, LinearId::FfnDown) => (2.0 / (self.0.intermediate as f32).sqrt(), 0.0),
            TensorId::Weight(..) => (4.0 / (self.0.hidden as f32).sqrt(), 0.0),
            TensorId::Scale(_) => (0.5, 1.0),
            _ => (0.2, 0.0),
        };
        let values =
            (0..part.len(&self.0)).map(|index| Self::value(salt & 0xffff_ffff, index) * scale + shift);
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

/// A made model, and `helpers` threads to help.
pub(crate) fn encoder(config: BertConfig, isa: Isa, helpers: usize) -> Encoder {
    let made = Made(config);
    let model = Model::new(config, &made, made.token_embeddings(), isa, 2).unwrap();
    Encoder::new(Arc::new(model), Arc::new(ThreadPool::new(helpers).unwrap()))
}

/// Ids of one sequence.
pub(crate) fn sequence(config: &BertConfig, length: usize, salt: usize) -> Vec<u32> {
    (0..length).map(|index| ((index * 31 + salt * 17) % config.vocabulary) as u32).collect()
}

/// Every state of a block, by sequence.
pub(crate) fn states(encoder: &mut Encoder, sequences: &[Vec<u32>], helpers: usize) -> Vec<Vec<f32>> {
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

/// One sequence for each length.
pub(crate) fn sequences(config: &BertConfig, lengths: &[usize]) -> Vec<Vec<u32>> {
    lengths.iter().enumerate().map(|(salt, &length)| sequence(config, length, salt)).collect()
}

/// The reference's states of a sequence.
pub(crate) fn expected(config: BertConfig, ids: &[u32]) -> Vec<Vec<f64>> {
    let made = Made(config);
    reference::forward(&config, &made, &made.token_embeddings(), ids).unwrap()
}
