//! The network in f32, for every instruction set of `simd`.
//!
//! Widths are padded with zeros: a head to whole panels of two vectors, other activations to [`WIDTH_MULTIPLE`]. Zeros
//! stay zeros through every step, so no kernel needs a mask for columns.

mod attention;
mod gemm;
mod math;
mod norm;
mod pack;
pub(crate) mod query_key;
mod tiles;

use std::ops::Range;

use attention::Attention;
use encoder_spec::NormPlacement;
use gemm::{Epilogue, Gemm};
use norm::Norm;
use pack::PackedB;
use query_key::QueryKey;

use crate::{
    EncoderConfig, HiddenStates, ModelError,
    batch::RaggedBatch,
    layer::{Linear, NormParams, NormSequence, PackedWeights, UnpackedB, WIDTH_MULTIPLE, WeightInputs},
    matrix::Matrix,
    network::{Activations, Network},
    plan::{Step, Task},
    positions::BiasAxis,
    simd::Simd,
};

/// A model's weights, packed for the instruction set `S`.
pub(crate) struct Fp32Network<S> {
    simd: S,
    weights: PackedWeights<PackedB>,
    widths: BufferWidths,
}

/// Padded widths of the buffers of activations, each with a row for each token. A width is 0 if the network does not
/// need the buffer.
#[derive(Clone, Copy)]
struct BufferWidths {
    hidden: usize,
    /// The factorized embeddings, then the normalized input of a layer or its output before a norm.
    branch: usize,
    qkv: usize,
    context: usize,
    ffn_hidden: usize,
    gated_sums: usize,
}

impl BufferWidths {
    fn of(weights: &PackedWeights<PackedB>) -> Self {
        let spec = weights.spec();
        let [hidden, embeddings, intermediate] =
            [spec.hidden, spec.embeddings.width, spec.feed_forward.intermediate]
                .map(|width| width.next_multiple_of(WIDTH_MULTIPLE));
        let (heads, kv_heads) = (spec.attention.heads, spec.attention.kv_heads);
        let uses_branch = spec.norm_placement != NormPlacement::Post;
        let branch = if uses_branch { hidden } else { 0 };
        Self {
            hidden,
            branch: if spec.embeddings.has_projection { branch.max(embeddings) } else { branch },
            qkv: (heads + 2 * kv_heads) * weights.head_layout.padded(),
            context: heads * weights.head_layout.padded(),
            ffn_hidden: intermediate,
            gated_sums: if spec.feed_forward.is_gated { 2 * intermediate } else { 0 },
        }
    }

    fn all(&self) -> [usize; 6] {
        [self.hidden, self.branch, self.qkv, self.context, self.ffn_hidden, self.gated_sums]
    }
}

/// The activations of one batch, a row for each token.
struct Views {
    /// `[rows, hidden]`: the residual stream.
    hidden: Matrix,
    /// `[rows, hidden]`: the normalized input of a layer, or its output before a norm.
    branch: Matrix,
    /// `[rows, (heads + 2 · kv_heads) · head]`: queries, keys, values.
    qkv: Matrix,
    /// `[rows, heads · head]`: the result of attention.
    context: Matrix,
    /// `[rows, intermediate]`.
    ffn_hidden: Matrix,
    /// `[rows, 2 · intermediate]`: sums of a gated layer between two blocks of K.
    gated_sums: Matrix,
}

/// Index of [`Views::hidden`] in the buffers of the activations.
const HIDDEN: usize = 0;
/// Index of [`Views::branch`].
const BRANCH: usize = 1;

impl<S: Simd> Fp32Network<S> {
    /// # Errors
    /// The first weight that cannot be read or has the wrong size.
    pub(crate) fn new(simd: S, inputs: WeightInputs<'_>) -> Result<Self, ModelError> {
        let pack = |unpacked: UnpackedB<'_>| PackedB::pack(2 * S::WIDTH, unpacked);
        let weights = PackedWeights::read(inputs, 2 * S::WIDTH, BiasAxis::Keys, pack)?;
        Ok(Self { simd, widths: BufferWidths::of(&weights), weights })
    }

    fn views(&self, rows: usize, activations: &Activations) -> Views {
        let BufferWidths { hidden, branch, qkv, context, ffn_hidden, gated_sums } = self.widths;
        let view = |index, width| Matrix::of(activations.buffer(index), 0, [rows, width], width);
        Views {
            hidden: view(HIDDEN, hidden),
            branch: view(BRANCH, branch.min(hidden)),
            qkv: view(2, qkv),
            context: view(3, context),
            ffn_hidden: view(4, ffn_hidden),
            gated_sums: view(5, gated_sums),
        }
    }

    /// The embeddings before their projection, if they are projected; otherwise the residual stream.
    fn embeddings(&self, rows: usize, views: &Views, activations: &Activations) -> Matrix {
        if self.weights.embeddings_projection.is_none() {
            return views.hidden;
        }
        let width = self.weights.spec().embeddings.width.next_multiple_of(WIDTH_MULTIPLE);
        Matrix::of(activations.buffer(BRANCH), 0, [rows, width], width)
    }

    /// Writes the sum of the embeddings, and normalizes it.
    fn embed(&self, batch: &RaggedBatch, embeddings: Matrix, rows: Range<usize>) {
        let own = embeddings.rows_from(rows.start, rows.len());
        for (index, token) in rows.enumerate() {
            // SAFETY: these rows are this task's.
            let row = unsafe { own.row_mut(index) };
            self.weights.embed(batch.ids()[token], batch.position_id(token), row);
        }
        if let Some(params) = &self.weights.embeddings_norm {
            self.norm(own, own, false, params);
        }
    }

    fn norm(&self, input: Matrix, output: Matrix, is_added: bool, params: &NormParams) {
        self.simd.run(Norm { input, output, is_added, params, spec: self.weights.spec().norm });
    }

    fn norms(&self, views: &Views, rows: Range<usize>, norms: NormSequence<'_>) {
        let own = |matrix: Matrix| matrix.rows_from(rows.start, rows.len());
        let (hidden, branch) = (own(views.hidden), own(views.branch));
        if let Some(params) = norms.branch {
            self.norm(branch, hidden, true, params);
        }
        if let Some(params) = norms.hidden {
            self.norm(hidden, hidden, false, params);
        }
        if let Some(params) = norms.input {
            self.norm(hidden, branch, false, params);
        }
    }

    fn normalize_and_rotate(&self, layer: usize, batch: &RaggedBatch, qkv: Matrix, rows: Range<usize>) {
        let (spec, rope) = (self.weights.spec(), self.weights.rope(layer));
        let layer = &self.weights.layers[layer];
        let (heads, padded) = (spec.attention.heads, self.weights.head_layout.padded());
        let width = (heads + spec.attention.kv_heads) * padded;
        let norm = layer.query_key_norm.as_ref().map(|[query, key]| ([query, key], spec.norm.epsilon));
        self.simd.run(QueryKey {
            rows: qkv.rows_from(rows.start, rows.len()).columns_from(0, width),
            positions: &batch.positions()[rows],
            heads,
            padded,
            norm,
            rope,
        });
    }

    fn attention(
        &self,
        batch: &RaggedBatch,
        views: &Views,
        activations: &Activations,
        (layer, heads): (usize, Range<usize>),
    ) {
        let (spec, head_dim) = (self.weights.spec(), self.weights.head_layout.padded());
        let attention = &spec.attention;
        let span = spec.layers[layer].span;
        let bias = self.weights.position_bias.as_ref();
        let mut scratch = activations.take_scratch();
        let mut start = 0;
        for &tokens in batch.lengths() {
            let rows = |matrix: Matrix| matrix.rows_from(start, tokens);
            let mut packed = None;
            for head in heads.clone() {
                let kv_head = attention.kv_head(head);
                let qkv = |head: usize| rows(views.qkv).columns_from(head * head_dim, head_dim);
                self.simd.run(Attention {
                    queries: qkv(head),
                    keys: qkv(attention.heads + kv_head),
                    values: qkv(attention.heads + attention.kv_heads + kv_head),
                    out: rows(views.context).columns_from(head * head_dim, head_dim),
                    span,
                    bias: bias.map(|bias| (bias, head)),
                    has_packed_keys: packed == Some(kv_head),
                    scratch: &mut scratch,
                });
                packed = Some(kv_head);
            }
            start += tokens;
        }
        activations.return_scratch(scratch);
    }
}

impl<S: Simd> Network for Fp32Network<S> {
    fn config(&self) -> &EncoderConfig {
        &self.weights.config
    }

    fn allocate(&self, rows: usize) -> Activations {
        Activations::zeroed(rows, &self.widths.all().map(|width| rows * width))
    }

    unsafe fn run(&self, task: Task, batch: &RaggedBatch, activations: &Activations) {
        let rows = batch.rows();
        let views = self.views(rows, activations);
        let Views { hidden, branch, qkv, context, ffn_hidden, gated_sums } = views;
        let weights = &self.weights;
        // This task's panels of `c`.
        let gemm = |a, Linear { weight: b, bias }: &Linear<PackedB>, c, epilogue| {
            let panels = task.range_of(b.columns() / b.panel_width());
            self.simd.run(Gemm { a, b, panels, bias, c, epilogue });
        };
        let input = |is_normalized: bool| if is_normalized { branch } else { hidden };
        // Adds to the residual stream, unless a norm must be applied before.
        let add = |a, linear, norms: NormSequence<'_>| match norms.branch {
            Some(_) => gemm(a, linear, branch, Epilogue::Store),
            None => gemm(a, linear, hidden, Epilogue::Add),
        };
        match task.step {
            Step::Embed => {
                self.embed(batch, self.embeddings(rows, &views, activations), task.range_of(rows));
            }
            Step::ProjectEmbeddings => {
                if let Some(projection) = &weights.embeddings_projection {
                    gemm(self.embeddings(rows, &views, activations), projection, hidden, Epilogue::Store);
                }
            }
            Step::InputNorm => self.norms(&views, task.range_of(rows), weights.norms_before_layers()),
            Step::Qkv(layer) => {
                let input = input(weights.has_attention_input_norm(layer));
                gemm(input, &weights.layers[layer].qkv, qkv, Epilogue::Store);
            }
            Step::QueryKey(layer) => self.normalize_and_rotate(layer, batch, qkv, task.range_of(rows)),
            Step::Attention(layer) => {
                let heads = task.range_of(weights.spec().attention.heads);
                self.attention(batch, &views, activations, (layer, heads));
            }
            Step::AttentionOutput(layer) => {
                let norms = weights.norms_after_attention(layer);
                add(context, &weights.layers[layer].attention_output, norms);
            }
            Step::AttentionNorm(layer) => {
                self.norms(&views, task.range_of(rows), weights.norms_after_attention(layer));
            }
            Step::FfnUp(layer) => {
                let feed_forward = weights.spec().feed_forward;
                let (input, up) = (input(weights.has_ffn_input_norm(layer)), &weights.layers[layer].ffn_up);
                if feed_forward.is_gated {
                    gemm(input, up, gated_sums, Epilogue::Gate(feed_forward.activation, ffn_hidden));
                } else {
                    gemm(input, up, ffn_hidden, Epilogue::Activate(feed_forward.activation));
                }
            }
            Step::FfnDown(layer) => {
                add(ffn_hidden, &weights.layers[layer].ffn_down, weights.norms_after_ffn(layer));
            }
            Step::FfnNorm(layer) => {
                self.norms(&views, task.range_of(rows), weights.norms_after_ffn(layer));
            }
        }
    }

    unsafe fn hidden_states<'a>(&self, rows: usize, activations: &'a Activations) -> HiddenStates<'a> {
        let stride = self.widths.hidden;
        // SAFETY: by the caller's contract.
        let values = unsafe { activations.buffer(HIDDEN).as_slice() };
        HiddenStates::new(&values[..rows * stride], stride, self.weights.spec().hidden)
    }
}

#[cfg(test)]
mod tests;
