//! The network in bf16 on AMX: matrix products of bf16 with f32 accumulators; residual stream and norms in f32.
//!
//! ```text
//!  hidden f32 ──norm──▶ normed ──qkv──▶ qkv ──attention──▶ context ──attention output──▶ hidden +=
//!     ▲                 tiles           column blocks      tiles
//!     └─norm── hidden += ◀──ffn down── ffn_hidden ◀──ffn up, activation── normed ◀──norm── hidden
//!                                      tiles                              tiles
//! ```
//!
//! Each step writes its result in the layout in which the next product reads it (`layout`), so no step only rearranges
//! values. A norm leaves the bias of the next product that adds to the residual stream in it, so that the product only
//! adds. Widths are padded with zeros to multiples of 32, also that of a head; zeros stay zeros through every step.
//! Rows are padded to whole tiles with unspecified values: a row of a product depends on the same row of A only, so
//! they affect no result.
//!
//! No kernel changes MXCSR. Denormal numbers, which would be slow in vector code, are rare: the powers of a softmax end
//! at 2⁻¹²⁶, and the tile instructions and the rounding to bf16 flush theirs to zero.

mod attention;
mod gemm;
mod layout;
mod norm;
mod pack;
mod softmax;
mod tile;
mod vector;

use std::{arch::x86_64::_mm512_add_ps, ops::Range};

use attention::AmxAttention;
use encoder_spec::Activation;
use gemm::{AmxGemm, KC, MC, split_evenly};
use layout::{CacheLine, QkvBlocks, TiledMatrix};
use norm::AmxLayerNorm;
use pack::AmxPackedB;
pub(crate) use tile::Amx;
use tile::{K_BLOCK, NR, TILE, Tiles};
use vector::{Floats, activate, load, round, store_line};

use crate::{
    EncoderConfig, HiddenStates, ModelError,
    batch::RaggedBatch,
    buffer::ScratchBuffer,
    layer::{Layer, Linear, NormParams, PackedWeights, WeightInputs},
    matrix::Matrix,
    network::{Activations, Network},
    plan::{Step, Task},
};

/// A model's weights in bf16.
pub(crate) struct AmxBf16Network {
    amx: Amx,
    weights: PackedWeights<AmxPackedB>,
    /// Zeros: the bias that the last norm adds to the residual stream.
    no_bias: Vec<f32>,
}

/// Rows of a batch, and widths in blocks of 32 columns.
#[derive(Clone, Copy)]
struct PaddedDims {
    rows: usize,
    /// One head.
    head_blocks: usize,
    hidden: usize,
    /// All heads.
    heads: usize,
    intermediate: usize,
}

/// The activations of one batch, each checked to lie in its buffer.
struct AmxViews<'b> {
    batch: &'b RaggedBatch,
    dims: PaddedDims,
    /// `[rows, hidden]` in f32: the residual stream, including the bias of the next product that adds to it.
    hidden: Matrix,
    /// The residual stream in bf16, without that bias.
    normed: TiledMatrix,
    qkv: QkvBlocks,
    /// The result of attention.
    context: TiledMatrix,
    /// The activations of the feed-forward network.
    ffn_hidden: TiledMatrix,
}

/// Index of [`AmxViews::hidden`] in the buffers of the activations.
const HIDDEN: usize = 0;

impl AmxBf16Network {
    /// # Errors
    /// The first weight that cannot be read or has the wrong size.
    pub(crate) fn new(amx: Amx, inputs: WeightInputs<'_>) -> Result<Self, ModelError> {
        let no_bias = vec![0.0; inputs.config.spec().hidden.next_multiple_of(K_BLOCK)];
        Ok(Self { amx, weights: PackedWeights::read(inputs, K_BLOCK, AmxPackedB::pack)?, no_bias })
    }

    fn dims(&self, rows: usize) -> PaddedDims {
        let (spec, head_blocks) = (self.weights.spec(), self.weights.head_layout.padded() / K_BLOCK);
        PaddedDims {
            rows,
            head_blocks,
            hidden: spec.hidden.div_ceil(K_BLOCK),
            heads: spec.attention.heads * head_blocks,
            intermediate: spec.feed_forward.intermediate.div_ceil(K_BLOCK),
        }
    }

    fn views<'b>(&self, batch: &'b RaggedBatch, activations: &Activations) -> AmxViews<'b> {
        let dims = self.dims(batch.rows());
        let PaddedDims { rows, hidden, heads, intermediate, .. } = dims;
        let width = hidden * K_BLOCK;
        let buffer = |index| activations.buffer(index);
        AmxViews {
            batch,
            dims,
            hidden: Matrix::of(buffer(HIDDEN), 0, [rows, width], width),
            normed: TiledMatrix::of(buffer(1), rows, hidden),
            qkv: QkvBlocks::of(buffer(2), 3 * heads, rows),
            context: TiledMatrix::of(buffer(3), rows, heads),
            ffn_hidden: TiledMatrix::of(buffer(4), rows, intermediate),
        }
    }

    /// Writes the sum of token and position embeddings, and normalizes it.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn embed(&self, views: &AmxViews<'_>, rows: Range<usize>) {
        let hidden = views.hidden.rows_from(rows.start, rows.len());
        for (index, token) in rows.clone().enumerate() {
            // SAFETY: these rows are this task's.
            let row = unsafe { hidden.row_mut(index) };
            self.weights.embed(views.batch.ids()[token], views.batch.position_id(token), row);
        }
        let bias = self.weights.layers.first().map_or(&self.no_bias, |layer| &layer.attention_output.bias);
        self.norm(views, rows, self.weights.embeddings_norm.as_ref(), bias);
    }

    /// Normalizes rows of the residual stream, and adds the bias of the next product that adds to them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn norm(&self, views: &AmxViews<'_>, rows: Range<usize>, params: Option<&NormParams>, bias: &[f32]) {
        let Some(NormParams { width, scale, shift }) = params else {
            unreachable!("`unsupported` requires a norm after each sum");
        };
        let norm =
            AmxLayerNorm { width: *width, scale, shift, epsilon: self.weights.spec().norm.epsilon, bias };
        for index in rows {
            // SAFETY: these rows are this task's.
            unsafe { norm.run(views.hidden.row_mut(index), views.normed, index) };
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn attention(
        &self,
        tiles: &Tiles,
        views: &AmxViews<'_>,
        heads: Range<usize>,
        scratch: &mut ScratchBuffer,
    ) {
        let (lengths, head_blocks) = (views.batch.lengths(), views.dims.head_blocks);
        let attention = AmxAttention { lengths, heads, head_blocks, qkv: views.qkv, out: views.context };
        // SAFETY: no task writes `qkv` in this step, and the heads' columns are this task's.
        unsafe { attention.run(tiles, scratch) };
    }

    /// Runs one task.
    ///
    /// # Safety
    /// As [`Network::run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn run_task<'m>(&'m self, task: Task, batch: &RaggedBatch, activations: &Activations) {
        let rows = batch.rows();
        let views = self.views(batch, activations);
        let mut scratch = activations.take_scratch();
        let [partial_sums, attention] = &mut scratch;
        let tiles = || Tiles::configure(self.amx);
        let gemm = |a: TiledMatrix, b: &'m AmxPackedB| -> AmxGemm<'m> {
            let (k, panels) = (0..b.k_blocks(), task.range_of(b.panels()));
            AmxGemm { a, rows, b, k, panels }
        };
        // The tasks of a step divide panels, heads or rows among them and write only to their own; they read what
        // earlier steps wrote.
        match task.step {
            Step::ProjectEmbeddings | Step::InputNorm | Step::QueryKey(_) => {
                unreachable!("`unsupported` refuses networks with this step")
            }
            Step::Embed => self.embed(&views, task.range_of(rows)),
            Step::Qkv(layer) => {
                let Linear { weight, bias } = &self.weights.layers[layer].qkv;
                assert_eq!(weight.panels(), 3 * views.dims.heads);
                // SAFETY: this step only reads `normed`; the panels' column blocks are this task's.
                unsafe {
                    gemm(views.normed, weight).with_epilogue(&tiles(), partial_sums, |panel, row, values| {
                        let [low, high] = biased(values, bias, panel);
                        store_line(views.qkv.line(panel, row), round(low, high));
                    });
                }
            }
            Step::Attention(_) => {
                self.attention(
                    &tiles(),
                    &views,
                    task.range_of(self.weights.spec().attention.heads),
                    attention,
                );
            }
            Step::AttentionOutput(layer) => {
                let gemm = gemm(views.context, &self.weights.layers[layer].attention_output.weight);
                // SAFETY: this step only reads `context`; the panels' columns of `hidden` are this task's.
                unsafe { gemm.accumulate(&tiles(), views.hidden) };
            }
            Step::AttentionNorm(layer) => {
                let norm = self.weights.norms_after_attention(layer).hidden;
                let bias = &self.weights.layers[layer].ffn_down.bias;
                self.norm(&views, task.range_of(rows), norm, bias);
            }
            // The plan splits both steps into the same number of tasks.
            // SAFETY: both steps are this task's alone.
            Step::FfnUp(layer) if task.count == 1 => unsafe {
                self.feed_forward(&tiles(), &views, &self.weights.layers[layer], partial_sums);
            },
            Step::FfnDown(_) if task.count == 1 => {}
            Step::FfnUp(layer) => {
                let Linear { weight, bias } = &self.weights.layers[layer].ffn_up;
                assert_eq!(weight.panels(), views.ffn_hidden.k_blocks());
                // SAFETY: this step only reads `normed`; the panels' lines of `ffn_hidden` are this task's.
                unsafe {
                    let epilogue = activation_epilogue(
                        self.weights.spec().feed_forward.activation,
                        bias,
                        views.ffn_hidden,
                        0,
                    );
                    gemm(views.normed, weight).with_epilogue(&tiles(), partial_sums, epilogue);
                }
            }
            Step::FfnDown(layer) => {
                let gemm = gemm(views.ffn_hidden, &self.weights.layers[layer].ffn_down.weight);
                // SAFETY: this step only reads `ffn_hidden`; the panels' columns of `hidden` are this task's.
                unsafe { gemm.accumulate(&tiles(), views.hidden) };
            }
            Step::FfnNorm(layer) => {
                let next = self.weights.layers.get(layer + 1);
                let bias = next.map_or(&self.no_bias, |next| &next.attention_output.bias);
                let norm = self.weights.norms_after_ffn(layer).hidden;
                self.norm(&views, task.range_of(rows), norm, bias);
            }
        }
        activations.return_scratch(scratch);
    }

    /// The feed-forward network on one thread, for some rows and some columns of its activations at a time, so that the
    /// activations stay in the L2 cache. The sums are the same as in two steps, in the same order.
    ///
    /// # Safety
    /// No other code may access the views.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn feed_forward(
        &self,
        tiles: &Tiles,
        views: &AmxViews<'_>,
        layer: &Layer<AmxPackedB>,
        scratch: &mut ScratchBuffer,
    ) {
        let PaddedDims { rows: all, hidden: hidden_blocks, .. } = views.dims;
        let Layer { ffn_up, ffn_down, .. } = layer;
        for first in (0..all).step_by(MC * TILE) {
            let rows = (MC * TILE).min(all - first);
            let a = views.normed.rows_from(first, rows);
            let hidden = views.hidden.rows_from(first, rows);
            for panels in split_evenly(0..ffn_up.weight.panels(), KC) {
                let ffn_hidden = views.ffn_hidden.reshape(rows, panels.len());
                let (k, down_panels) = (panels.clone(), 0..ffn_down.weight.panels());
                let up = AmxGemm { a, rows, b: &ffn_up.weight, k: 0..hidden_blocks, panels };
                let down = AmxGemm { a: ffn_hidden, rows, b: &ffn_down.weight, k, panels: down_panels };
                let (activation, first) = (self.weights.spec().feed_forward.activation, up.panels.start);
                // SAFETY: by the caller's contract.
                unsafe {
                    let epilogue = activation_epilogue(activation, &ffn_up.bias, ffn_hidden, first);
                    up.with_epilogue(tiles, scratch, epilogue);
                    down.accumulate(tiles, hidden);
                }
            }
        }
    }
}

impl Network for AmxBf16Network {
    fn config(&self) -> &EncoderConfig {
        &self.weights.config
    }

    fn allocate(&self, rows: usize) -> Activations {
        let PaddedDims { rows, hidden, heads, intermediate, .. } = self.dims(rows);
        let lengths = [
            rows * hidden * K_BLOCK,
            TiledMatrix::lines(rows, hidden) * CacheLine::VALUES,
            QkvBlocks::lines(3 * heads, rows) * CacheLine::VALUES,
            TiledMatrix::lines(rows, heads) * CacheLine::VALUES,
            TiledMatrix::lines(rows, intermediate) * CacheLine::VALUES,
        ];
        Activations::zeroed(rows, &lengths)
    }

    unsafe fn run(&self, task: Task, batch: &RaggedBatch, activations: &Activations) {
        // SAFETY: `amx` proves that the instructions exist; otherwise by the caller's contract.
        unsafe { self.run_task(task, batch, activations) }
    }

    unsafe fn hidden_states<'a>(&self, rows: usize, activations: &'a Activations) -> HiddenStates<'a> {
        let stride = self.dims(rows).hidden * K_BLOCK;
        // SAFETY: by the caller's contract.
        let values = unsafe { activations.buffer(HIDDEN).as_slice() };
        HiddenStates::new(&values[..rows * stride], stride, self.weights.spec().hidden)
    }
}

/// A row of a panel of a product, with the bias added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn biased([low, high]: [Floats; 2], bias: &[f32], panel: usize) -> [Floats; 2] {
    let bias = bias[panel * NR..][..NR].as_chunks::<TILE>().0;
    [_mm512_add_ps(low, load(&bias[0])), _mm512_add_ps(high, load(&bias[1]))]
}

/// The epilogue of the first feed-forward layer: bias, activation, and rounding into `out`, whose first columns belong
/// to panel `first`.
///
/// # Safety
/// The caller of the result must pass a row of `out` and a panel whose columns are in it, and no other code may access
/// those.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
unsafe fn activation_epilogue(
    activation: Activation,
    bias: &[f32],
    out: TiledMatrix,
    first: usize,
) -> impl FnMut(usize, usize, [Floats; 2]) {
    move |panel, row, values| {
        let [low, high] = biased(values, bias, panel);
        let line = round(activate(activation, low), activate(activation, high));
        // SAFETY: by the caller's contract.
        unsafe { store_line(out.line(row, panel - first), line) };
    }
}

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod tests;
