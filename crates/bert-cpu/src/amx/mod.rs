//! The network in bf16 on AMX: matrix products of bf16 with f32 accumulators; residual stream and norms in f32.
//!
//! ```text
//!  hidden f32 ──norms──▶ normed ──qkv──▶ qkv ──attention──▶ context ──attention output──▶ hidden +=
//!     ▲                 tiles           column blocks      tiles
//!     └─norms── hidden += ◀──ffn down── ffn_hidden ◀──ffn up, activation── normed ◀──norms── hidden
//!                                       tiles                              tiles
//! ```
//!
//! Each step writes its result in the layout in which the next product reads it (`layout`), so no step only rearranges
//! values. A norm leaves the bias of the next product that adds to the residual stream in it, so that the product only
//! adds. Queries and keys that are normalized or rotated stay in f32 until then. Widths are padded with zeros to
//! multiples of 32, also that of a head; zeros stay zeros through every step. Rows are padded to whole tiles with
//! unspecified values: a row of a product depends on the same row of A only, so they affect no result.
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

use std::{arch::x86_64::*, ops::Range};

use attention::AmxAttention;
use encoder_spec::{EncoderSpec, NormPlacement};
use gemm::{AmxGemm, KC, MC, split_evenly};
use layout::{CacheLine, QkvBlocks, TiledMatrix};
use norm::AmxNorm;
use pack::AmxPackedB;
pub(crate) use tile::Amx;
use tile::{K_BLOCK, NR, TILE, Tiles};
use vector::{Floats, activate, load, round, store, store_half_line, store_line};

use crate::{
    EncoderConfig, HiddenStates, ModelError,
    batch::RaggedBatch,
    buffer::ScratchBuffer,
    fp32::query_key::QueryKey,
    layer::{Linear, ModelInputs, NormParams, NormSequence, PackedWeights},
    matrix::Matrix,
    network::{Activations, Network},
    plan::{Step, Task, has_input_norm},
    positions::BiasAxis,
    simd::{Avx512, Simd},
};

/// A model's weights in bf16.
pub(crate) struct AmxBf16Network {
    amx: Amx,
    avx512: Avx512,
    weights: PackedWeights<AmxPackedB>,
    /// Zeros: the bias of no product.
    no_bias: Vec<f32>,
}

/// Rows of a batch, and widths in blocks of 32 columns.
#[derive(Clone, Copy)]
struct PaddedDims {
    rows: usize,
    /// One head.
    head_blocks: usize,
    hidden: usize,
    /// All query heads.
    heads: usize,
    /// All key heads.
    kv_heads: usize,
    intermediate: usize,
    /// Factorized embeddings.
    embeddings: usize,
}

/// The activations of one batch, each checked to lie in its buffer.
struct AmxViews<'b> {
    batch: &'b RaggedBatch,
    dims: PaddedDims,
    /// `[rows, hidden]` in f32: the residual stream, including the bias of the next product that adds to it.
    hidden: Matrix,
    /// The input of the next linear layer in bf16: the residual stream without that bias, or a norm of it.
    normed: TiledMatrix,
    qkv: QkvBlocks,
    /// The result of attention.
    context: TiledMatrix,
    /// The activations of the feed-forward network.
    ffn_hidden: TiledMatrix,
    /// `[rows, hidden]` in f32: the output of a linear layer that is normalized before it is added.
    branch: Option<Matrix>,
    /// `[rows, (heads + kv_heads) · head]` in f32: queries and keys before their norm and rotation.
    query_key: Option<Matrix>,
}

impl AmxViews<'_> {
    /// The matrix that the output of attention and of the feed-forward network is added to.
    fn sum(&self) -> Matrix {
        self.branch.unwrap_or(self.hidden)
    }
}

/// Index of [`AmxViews::hidden`] in the buffers of the activations.
const HIDDEN: usize = 0;
/// Index of [`AmxViews::ffn_hidden`], which also holds factorized embeddings.
const FFN_HIDDEN: usize = 4;

/// Returns true if queries and keys are normalized or rotated.
fn has_query_key_step(spec: &EncoderSpec) -> bool {
    spec.attention.has_query_key_norm || spec.layers.iter().any(|layer| layer.rope.is_some())
}

impl AmxBf16Network {
    /// # Errors
    /// The first weight that cannot be read or has the wrong size.
    pub(crate) fn new(amx: Amx, avx512: Avx512, inputs: ModelInputs<'_>) -> Result<Self, ModelError> {
        let no_bias = vec![0.0; inputs.config.spec().hidden.next_multiple_of(K_BLOCK)];
        let weights = PackedWeights::read(inputs, NR, BiasAxis::Queries, AmxPackedB::pack)?;
        Ok(Self { amx, avx512, weights, no_bias })
    }

    fn dims(&self, rows: usize) -> PaddedDims {
        let (spec, head_blocks) = (self.weights.spec(), self.weights.head_layout.padded() / K_BLOCK);
        PaddedDims {
            rows,
            head_blocks,
            hidden: spec.hidden.div_ceil(K_BLOCK),
            heads: spec.attention.heads * head_blocks,
            kv_heads: spec.attention.kv_heads * head_blocks,
            intermediate: spec.feed_forward.intermediate.div_ceil(K_BLOCK),
            embeddings: spec.embeddings.width.div_ceil(K_BLOCK),
        }
    }

    fn views<'b>(&self, batch: &'b RaggedBatch, activations: &Activations) -> AmxViews<'b> {
        let (spec, dims) = (self.weights.spec(), self.dims(batch.rows()));
        let PaddedDims { rows, hidden, heads, kv_heads, intermediate, .. } = dims;
        let buffer = |index| activations.buffer(index);
        let matrix = |index, blocks: usize| {
            let width = blocks * K_BLOCK;
            Matrix::of(buffer(index), 0, [rows, width], width)
        };
        AmxViews {
            batch,
            dims,
            hidden: matrix(HIDDEN, hidden),
            normed: TiledMatrix::of(buffer(1), rows, hidden),
            qkv: QkvBlocks::of(buffer(2), heads + 2 * kv_heads, rows),
            context: TiledMatrix::of(buffer(3), rows, heads),
            ffn_hidden: TiledMatrix::of(buffer(FFN_HIDDEN), rows, intermediate),
            branch: (spec.norm_placement == NormPlacement::PreAndPost).then(|| matrix(5, hidden)),
            query_key: has_query_key_step(spec).then(|| matrix(6, heads + kv_heads)),
        }
    }

    /// The bias of the output projection of a layer's attention; zeros after the last layer.
    fn attention_output_bias(&self, layer: usize) -> &[f32] {
        self.weights.layers.get(layer).map_or(&self.no_bias, |layer| &layer.attention_output.bias)
    }

    /// Factorized embeddings as A.
    fn embeddings(&self, rows: usize, activations: &Activations) -> TiledMatrix {
        TiledMatrix::of(activations.buffer(FFN_HIDDEN), rows, self.dims(rows).embeddings)
    }

    /// Writes the sum of the embeddings, and normalizes it.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn embed(
        &self,
        views: &AmxViews<'_>,
        activations: &Activations,
        rows: Range<usize>,
        scratch: &mut ScratchBuffer,
    ) {
        let batch = views.batch;
        let embed = |token: usize, row: &mut [f32]| {
            self.weights.embed(batch.ids()[token], batch.table_row(token), row);
        };
        let norm = self.weights.embeddings_norm.as_ref();
        if let Some(projection) = &self.weights.embeddings_projection {
            let embeddings = self.embeddings(batch.rows(), activations);
            let width = embeddings.k_blocks() * K_BLOCK;
            let row = Matrix::of(scratch.reserve(width), 0, [1, width], width);
            for token in rows {
                // SAFETY: the scratch memory and these rows are this task's.
                unsafe {
                    embed(token, row.row_mut(0));
                    normalize(row.row_mut(0), embeddings, token, norm.map(|params| self.norm(params)), None);
                    views.hidden.row_mut(token).copy_from_slice(&projection.bias);
                }
            }
            return;
        }
        for token in rows.clone() {
            // SAFETY: these rows are this task's.
            embed(token, unsafe { views.hidden.row_mut(token) });
        }
        if norm.is_some() || !has_input_norm(self.weights.spec()) {
            let bias = if has_input_norm(self.weights.spec()) {
                &self.no_bias
            } else {
                self.attention_output_bias(0)
            };
            self.norms(views, rows, NormSequence { hidden: norm, ..NormSequence::default() }, bias);
        }
    }

    fn norm<'n>(&self, params: &'n NormParams) -> AmxNorm<'n> {
        AmxNorm { params, spec: self.weights.spec().norm }
    }

    /// Computes some norms of rows. Writes the input of the next product, and adds the bias of the next product that
    /// adds to the residual stream; if its result is normalized before, the branch becomes the bias.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn norms(&self, views: &AmxViews<'_>, rows: Range<usize>, norms: NormSequence<'_>, bias: &[f32]) {
        let bias_of_hidden = views.branch.is_none().then_some(bias);
        for index in rows {
            // SAFETY: these rows are this task's, here and below.
            let hidden = unsafe { views.hidden.row_mut(index) };
            if let (Some(params), Some(branch)) = (norms.branch, views.branch) {
                let (hidden, _) = hidden.as_chunks_mut::<16>();
                let add = |k: usize, _: &mut [[f32; 16]; 2], values: [Floats; 2]| {
                    for (half, value) in values.into_iter().enumerate() {
                        let hidden = &mut hidden[2 * k + half];
                        store(hidden, _mm512_add_ps(load(hidden), value));
                    }
                };
                // SAFETY: as above.
                self.norm(params).run(unsafe { branch.row_mut(index) }, add);
            }
            match norms.input {
                Some(params) => {
                    let write = |k: usize, row: &mut [[f32; 16]; 2], values: [Floats; 2]| {
                        let [low, high] = values;
                        // SAFETY: the row is this task's, and has these blocks.
                        unsafe { store_line(views.normed.line(index, k), round(low, high)) };
                        let before = [load(&row[0]), load(&row[1])];
                        write_with_bias(k, row, before, bias_of_hidden);
                    };
                    self.norm(params).run(hidden, write);
                }
                // SAFETY: the row is this task's.
                None => unsafe {
                    let norm = norms.hidden.map(|params| self.norm(params));
                    normalize(hidden, views.normed, index, norm, bias_of_hidden);
                },
            }
            if let Some(branch) = views.branch {
                // SAFETY: as above.
                unsafe { branch.row_mut(index) }.copy_from_slice(bias);
            }
        }
    }

    /// Normalizes and rotates queries and keys, and rounds them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn query_key(&self, layer: usize, views: &AmxViews<'_>, query_key: Matrix, rows: Range<usize>) {
        let (spec, rope) = (self.weights.spec(), self.weights.rope(layer));
        let layer = &self.weights.layers[layer];
        let own = query_key.rows_from(rows.start, rows.len());
        self.avx512.run(QueryKey {
            rows: own,
            positions: &views.batch.positions()[rows.clone()],
            heads: spec.attention.heads,
            padded: self.weights.head_layout.padded(),
            norm: layer.query_key_norm.as_ref().map(|[query, key]| ([query, key], spec.norm.epsilon)),
            rope,
        });
        for (index, row) in rows.enumerate() {
            // SAFETY: the rows are this task's.
            for_each_pair(unsafe { own.row_mut(index) }, |block, _, [low, high]| {
                // SAFETY: as above; queries and keys are the first blocks.
                unsafe { store_line(views.qkv.line(block, row), round(low, high)) };
            });
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn attention(
        &self,
        tiles: &Tiles,
        views: &AmxViews<'_>,
        (layer, heads): (usize, Range<usize>),
        scratch: &mut ScratchBuffer,
    ) {
        let (spec, attention) = (self.weights.spec(), &self.weights.spec().attention);
        let attention = AmxAttention {
            lengths: views.batch.lengths(),
            heads,
            head_blocks: views.dims.head_blocks,
            group: attention.heads / attention.kv_heads,
            kv_heads: attention.kv_heads,
            span: spec.layers[layer].span,
            bias: self.weights.position_bias.as_ref(),
            qkv: views.qkv,
            out: views.context,
        };
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
        let weights = &self.weights;
        // The tasks of a step divide panels, heads or rows among them and write only to their own; they read what
        // earlier steps wrote.
        match task.step {
            Step::Embed => self.embed(&views, activations, task.range_of(rows), partial_sums),
            Step::ProjectEmbeddings => {
                if let Some(projection) = &weights.embeddings_projection {
                    let gemm = gemm(self.embeddings(rows, activations), &projection.weight);
                    // SAFETY: this step only reads the embeddings; the panels' columns of `hidden` are this task's.
                    unsafe { gemm.accumulate(&tiles(), views.hidden) };
                }
            }
            Step::InputNorm => {
                let bias = self.attention_output_bias(0);
                self.norms(&views, task.range_of(rows), weights.norms_before_layers(), bias);
            }
            Step::Qkv(layer) => {
                let Linear { weight, bias } = &weights.layers[layer].qkv;
                let PaddedDims { heads, kv_heads, .. } = views.dims;
                assert_eq!(weight.panels(), heads + 2 * kv_heads);
                // Blocks that are normalized or rotated before they are rounded.
                let query_key = views.query_key.map(|matrix| (matrix, heads + kv_heads));
                let epilogue = |panel: usize, row: usize, values: [Floats; 2]| {
                    let [low, high] = biased(values, bias, panel);
                    match query_key {
                        Some((matrix, blocks)) if panel < blocks => {
                            let out = matrix.row(row).wrapping_add(panel * NR);
                            // SAFETY: the row and the panel's columns exist, and are this task's.
                            unsafe {
                                _mm512_storeu_ps(out, low);
                                _mm512_storeu_ps(out.add(TILE), high);
                            }
                        }
                        // SAFETY: the panels' column blocks are this task's.
                        _ => unsafe { store_line(views.qkv.line(panel, row), round(low, high)) },
                    }
                };
                // SAFETY: this step only reads `normed`.
                unsafe { gemm(views.normed, weight).with_epilogue(&tiles(), partial_sums, epilogue) };
            }
            Step::QueryKey(layer) => {
                if let Some(query_key) = views.query_key {
                    self.query_key(layer, &views, query_key, task.range_of(rows));
                }
            }
            Step::Attention(layer) => {
                let heads = task.range_of(weights.spec().attention.heads);
                self.attention(&tiles(), &views, (layer, heads), attention);
            }
            // Every step of this network rounds what it writes.
            Step::RoundContext(_) | Step::RoundFfnHidden(_) => {}
            Step::AttentionOutput(layer) => {
                let gemm = gemm(views.context, &weights.layers[layer].attention_output.weight);
                // SAFETY: this step only reads `context`; the panels' columns of the sum are this task's.
                unsafe { gemm.accumulate(&tiles(), views.sum()) };
            }
            Step::AttentionNorm(layer) => {
                let bias = &weights.layers[layer].ffn_down.bias;
                self.norms(&views, task.range_of(rows), weights.norms_after_attention(layer), bias);
            }
            // The plan splits both steps into the same number of tasks.
            // SAFETY: both steps are this task's alone.
            Step::FfnUp(layer) if task.count == 1 => unsafe {
                self.feed_forward(&tiles(), &views, layer, partial_sums);
            },
            Step::FfnDown(_) if task.count == 1 => {}
            Step::FfnUp(layer) => {
                let Linear { weight, bias } = &weights.layers[layer].ffn_up;
                assert_eq!(weight.panels(), views.ffn_hidden.k_blocks() * self.panels_per_block());
                // SAFETY: this step only reads `normed`; the panels' columns of `ffn_hidden` are this task's.
                unsafe {
                    let epilogue = self.ffn_epilogue(bias, views.ffn_hidden, 0);
                    gemm(views.normed, weight).with_epilogue(&tiles(), partial_sums, epilogue);
                }
            }
            Step::FfnDown(layer) => {
                let gemm = gemm(views.ffn_hidden, &weights.layers[layer].ffn_down.weight);
                // SAFETY: this step only reads `ffn_hidden`; the panels' columns of the sum are this task's.
                unsafe { gemm.accumulate(&tiles(), views.sum()) };
            }
            Step::FfnNorm(layer) => {
                let bias = self.attention_output_bias(layer + 1);
                self.norms(&views, task.range_of(rows), weights.norms_after_ffn(layer), bias);
            }
        }
        activations.return_scratch(scratch);
    }

    /// Panels of the first feed-forward layer for each block of its activations: half of a panel is the gate.
    fn panels_per_block(&self) -> usize {
        if self.weights.spec().feed_forward.is_gated { 2 } else { 1 }
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
        layer: usize,
        scratch: &mut ScratchBuffer,
    ) {
        let PaddedDims { rows: all, hidden: hidden_blocks, intermediate, .. } = views.dims;
        let (ffn_up, ffn_down) = (&self.weights.layers[layer].ffn_up, &self.weights.layers[layer].ffn_down);
        for first in (0..all).step_by(MC * TILE) {
            let rows = (MC * TILE).min(all - first);
            let a = views.normed.rows_from(first, rows);
            let sum = views.sum().rows_from(first, rows);
            for k in split_evenly(0..intermediate, KC) {
                let ffn_hidden = views.ffn_hidden.reshape(rows, k.len());
                let panels = k.start * self.panels_per_block()..k.end * self.panels_per_block();
                let (first, down_panels) = (panels.start, 0..ffn_down.weight.panels());
                let up = AmxGemm { a, rows, b: &ffn_up.weight, k: 0..hidden_blocks, panels };
                let down = AmxGemm { a: ffn_hidden, rows, b: &ffn_down.weight, k, panels: down_panels };
                // SAFETY: by the caller's contract.
                unsafe {
                    let epilogue = self.ffn_epilogue(&ffn_up.bias, ffn_hidden, first);
                    up.with_epilogue(tiles, scratch, epilogue);
                    down.accumulate(tiles, sum);
                }
            }
        }
    }

    /// The epilogue of the first feed-forward layer: bias, activation, gate, and rounding into `out`, whose first
    /// columns belong to panel `first`.
    ///
    /// # Safety
    /// The caller of the result must pass a row of `out` and a panel whose columns are in it, and no other code may
    /// access those.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn ffn_epilogue(
        &self,
        bias: &[f32],
        out: TiledMatrix,
        first: usize,
    ) -> impl FnMut(usize, usize, [Floats; 2]) {
        let feed_forward = self.weights.spec().feed_forward;
        let activation = feed_forward.activation;
        move |panel, row, values| {
            let [low, high] = biased(values, bias, panel);
            let index = panel - first;
            if feed_forward.is_gated {
                let product = _mm512_mul_ps(activate(activation, low), high);
                // SAFETY: by the caller's contract; a panel has half of a line.
                unsafe { store_half_line(out.line(row, index / 2), index % 2, product) };
            } else {
                let line = round(activate(activation, low), activate(activation, high));
                // SAFETY: by the caller's contract.
                unsafe { store_line(out.line(row, index), line) };
            }
        }
    }
}

impl Network for AmxBf16Network {
    fn config(&self) -> &EncoderConfig {
        &self.weights.config
    }

    fn allocate(&self, rows: usize) -> Activations {
        let spec = self.weights.spec();
        let PaddedDims { rows, hidden, heads, kv_heads, intermediate, embeddings, .. } = self.dims(rows);
        let ffn_hidden =
            if spec.embeddings.has_projection { intermediate.max(embeddings) } else { intermediate };
        let has_branch = spec.norm_placement == NormPlacement::PreAndPost;
        let lengths = [
            rows * hidden * K_BLOCK,
            TiledMatrix::lines(rows, hidden) * CacheLine::VALUES,
            QkvBlocks::lines(heads + 2 * kv_heads, rows) * CacheLine::VALUES,
            TiledMatrix::lines(rows, heads) * CacheLine::VALUES,
            TiledMatrix::lines(rows, ffn_hidden) * CacheLine::VALUES,
            if has_branch { rows * hidden * K_BLOCK } else { 0 },
            if has_query_key_step(spec) { rows * (heads + kv_heads) * K_BLOCK } else { 0 },
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

/// Passes a row to `write`, 32 values at a time, as [`AmxNorm::run`] does.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn for_each_pair(row: &mut [f32], mut write: impl FnMut(usize, &mut [[f32; 16]; 2], [Floats; 2])) {
    for (k, pair) in row.as_chunks_mut::<16>().0.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let values = [load(&pair[0]), load(&pair[1])];
        write(k, pair, values);
    }
}

/// Normalizes a row, rounds it to row `index` of `out`, and adds `bias` to it. Without a norm the row is rounded as it
/// is.
///
/// # Safety
/// No other code may access that row of `out`.
///
/// # Panics
/// If a size does not fit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
unsafe fn normalize(
    row: &mut [f32],
    out: TiledMatrix,
    index: usize,
    norm: Option<AmxNorm<'_>>,
    bias: Option<&[f32]>,
) {
    assert!(index < out.rows() && row.len() == out.k_blocks() * K_BLOCK);
    let write = |k: usize, row: &mut [[f32; 16]; 2], values: [Floats; 2]| {
        // SAFETY: the line exists, as was checked, and is the caller's.
        unsafe { store_line(out.line(index, k), round(values[0], values[1])) };
        write_with_bias(k, row, values, bias);
    };
    match norm {
        Some(norm) => norm.run(row, write),
        None => for_each_pair(row, write),
    }
}

/// Stores 32 values of a row, with their bias added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn write_with_bias(k: usize, row: &mut [[f32; 16]; 2], values: [Floats; 2], bias: Option<&[f32]>) {
    for (half, (row, value)) in row.iter_mut().zip(values).enumerate() {
        let bias = bias.map_or(_mm512_setzero_ps(), |bias| load(&bias.as_chunks::<16>().0[2 * k + half]));
        store(row, _mm512_add_ps(value, bias));
    }
}

/// A row of a panel of a product, with the bias added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn biased([low, high]: [Floats; 2], bias: &[f32], panel: usize) -> [Floats; 2] {
    let bias = bias[panel * NR..][..NR].as_chunks::<TILE>().0;
    [_mm512_add_ps(low, load(&bias[0])), _mm512_add_ps(high, load(&bias[1]))]
}

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod tests;
