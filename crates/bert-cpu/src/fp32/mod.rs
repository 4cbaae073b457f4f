//! The network in f32, for every instruction set of `simd`.
//!
//! Widths are padded with zeros: a head to whole panels of two vectors, other activations to [`WIDTH_MULTIPLE`]. Zeros
//! stay zeros through every step, so no kernel needs a mask.

mod attention;
mod gemm;
mod math;
mod norm;
mod pack;
mod tiles;

use std::ops::Range;

use attention::Attention;
use gemm::{Epilogue, Gemm};
use norm::LayerNorm;
use pack::PackedB;

use crate::{
    BertConfig, HiddenStates, ModelError,
    batch::RaggedBatch,
    layer::{LayerNormParams, Linear, PackedWeights, UnpackedB, WIDTH_MULTIPLE, WeightInputs},
    matrix::Matrix,
    network::{Activations, Network},
    plan::{Step, Task},
    simd::Simd,
};

/// A model's weights, packed for the instruction set `S`.
pub(crate) struct Fp32Network<S> {
    simd: S,
    weights: PackedWeights<PackedB>,
}

/// The activations of one batch, a row for each token.
struct Views {
    /// `[rows, hidden]`: the residual stream.
    hidden: Matrix,
    /// `[rows, 3 · heads · head_dim]`: queries, keys, values.
    qkv: Matrix,
    /// `[rows, heads · head_dim]`: the result of attention.
    context: Matrix,
    /// `[rows, intermediate]`.
    ffn_hidden: Matrix,
}

/// Index of [`Views::hidden`] in the buffers of the activations.
const HIDDEN: usize = 0;

/// A head's width, padded to whole panels.
fn padded_head_dim<S: Simd>(config: &BertConfig) -> usize {
    config.head_dim().next_multiple_of(2 * S::WIDTH)
}

impl<S: Simd> Fp32Network<S> {
    /// # Errors
    /// The first weight that cannot be read or has the wrong size.
    pub(crate) fn new(simd: S, inputs: WeightInputs<'_>) -> Result<Self, ModelError> {
        let head_dim = padded_head_dim::<S>(&inputs.config);
        let pack = |unpacked: UnpackedB<'_>| PackedB::pack(2 * S::WIDTH, unpacked);
        Ok(Self { simd, weights: PackedWeights::read(inputs, head_dim, pack)? })
    }

    /// Padded widths of the matrices in [`Views`], in their order.
    fn widths(&self) -> [usize; 4] {
        let heads = self.weights.config.heads * padded_head_dim::<S>(&self.weights.config);
        let widths = [self.weights.config.hidden, 3 * heads, heads, self.weights.config.intermediate];
        widths.map(|width| width.next_multiple_of(WIDTH_MULTIPLE))
    }

    fn views(&self, rows: usize, activations: &Activations) -> Views {
        let widths = self.widths();
        let view = |index| {
            let width = widths[index];
            Matrix::of(activations.buffer(index), 0, [rows, width], width)
        };
        Views { hidden: view(HIDDEN), qkv: view(1), context: view(2), ffn_hidden: view(3) }
    }

    /// Writes the sum of token and position embeddings, and normalizes it.
    fn embed(&self, batch: &RaggedBatch, views: &Views, rows: Range<usize>) {
        let hidden = views.hidden.rows_from(rows.start, rows.len());
        for (index, token) in rows.enumerate() {
            // SAFETY: these rows are this task's.
            let row = unsafe { hidden.row_mut(index) };
            self.weights.embed(batch.ids()[token], batch.position_ids()[token], row);
        }
        self.norm(hidden, &self.weights.embeddings_norm);
    }

    fn norm(&self, rows: Matrix, LayerNormParams { scale, shift }: &LayerNormParams) {
        let BertConfig { hidden: width, epsilon, .. } = self.weights.config;
        self.simd.run(LayerNorm { rows, width, scale, shift, epsilon });
    }

    fn attention(&self, batch: &RaggedBatch, views: &Views, activations: &Activations, heads: Range<usize>) {
        let head_dim = padded_head_dim::<S>(&self.weights.config);
        let width = self.weights.config.heads * head_dim;
        let mut scratch = activations.take_scratch();
        let mut start = 0;
        for &tokens in batch.lengths() {
            let rows = |matrix: Matrix| matrix.rows_from(start, tokens);
            for head in heads.clone() {
                let column = head * head_dim;
                let qkv = |index: usize| rows(views.qkv).columns_from(index * width + column, head_dim);
                self.simd.run(Attention {
                    queries: qkv(0),
                    keys: qkv(1),
                    values: qkv(2),
                    out: rows(views.context).columns_from(column, head_dim),
                    scratch: &mut scratch,
                });
            }
            start += tokens;
        }
        activations.return_scratch(scratch);
    }
}

impl<S: Simd> Network for Fp32Network<S> {
    fn config(&self) -> &BertConfig {
        &self.weights.config
    }

    fn allocate(&self, rows: usize) -> Activations {
        Activations::zeroed(rows, &self.widths().map(|width| rows * width))
    }

    unsafe fn run(&self, task: Task, batch: &RaggedBatch, activations: &Activations) {
        let rows = batch.rows();
        let views = self.views(rows, activations);
        let Views { hidden, qkv, context, ffn_hidden } = views;
        let own_rows = || {
            let range = task.range_of(rows);
            hidden.rows_from(range.start, range.len())
        };
        // This task's panels of `c`.
        let gemm = |a, Linear { weight: b, bias }: &Linear<PackedB>, c, epilogue| {
            let panels = task.range_of(b.columns() / b.panel_width());
            self.simd.run(Gemm { a, b, panels, bias, c, epilogue });
        };
        match task.step {
            Step::Embed => self.embed(batch, &views, task.range_of(rows)),
            Step::Qkv(layer) => gemm(hidden, &self.weights.layers[layer].qkv, qkv, Epilogue::Store),
            Step::Attention(_) => {
                self.attention(batch, &views, activations, task.range_of(self.weights.config.heads));
            }
            Step::AttentionOutput(layer) => {
                gemm(context, &self.weights.layers[layer].attention_output, hidden, Epilogue::Add);
            }
            Step::AttentionNorm(layer) => self.norm(own_rows(), &self.weights.layers[layer].attention_norm),
            Step::FfnUp(layer) => {
                let epilogue = Epilogue::Activate(self.weights.config.activation);
                gemm(hidden, &self.weights.layers[layer].ffn_up, ffn_hidden, epilogue);
            }
            Step::FfnDown(layer) => {
                gemm(ffn_hidden, &self.weights.layers[layer].ffn_down, hidden, Epilogue::Add);
            }
            Step::FfnNorm(layer) => self.norm(own_rows(), &self.weights.layers[layer].ffn_norm),
        }
    }

    unsafe fn hidden_states<'a>(&self, rows: usize, activations: &'a Activations) -> HiddenStates<'a> {
        let stride = self.widths()[HIDDEN];
        // SAFETY: by the caller's contract.
        let values = unsafe { activations.buffer(HIDDEN).as_slice() };
        HiddenStates::new(&values[..rows * stride], stride, self.weights.config.hidden)
    }
}

#[cfg(test)]
mod tests;
