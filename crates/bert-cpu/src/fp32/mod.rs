//! The network for every instruction set of `simd`: all steps in f32, but for products of linear layers in another
//! [`Format`].
//!
//! ```text
//!  hidden ──norms──▶ branch or hidden ──qkv──▶ qkv ──attention──▶ context ──attention output──▶ hidden +=
//!            └─round─▶ rounded                                      └─round─▶ rounded
//! ```
//!
//! A format other than f32 rounds the rows of a product's input before it, at the end of the step of the norms or in a
//! step of its own: tasks of a product divide columns among them, so each needs all rows. One buffer of rounded rows
//! serves all inputs, since none is read after the next product.
//!
//! Widths are padded with zeros: a head to whole panels of two vectors, other activations to [`WIDTH_MULTIPLE`]. Zeros
//! stay zeros through every step, so no kernel needs a mask for columns.

pub(crate) mod attention;
pub(crate) mod format;
pub(crate) mod gemm;
mod math;
mod norm;
pub(crate) mod output;
mod pack;
pub(crate) mod prefetch;
pub(crate) mod query_key;
pub(crate) mod tiles;

use std::ops::Range;

use attention::Attention;
use encoder_spec::NormPlacement;
use format::{Format, Operand};
use norm::Norm;
use output::{Epilogue, Output};
use query_key::QueryKey;

use crate::{
    ActivationMaxima, EncoderConfig, HiddenStates, ModelError,
    batch::RaggedBatch,
    layer::{ModelInputs, NormParams, NormSequence, PackedWeights, UnpackedB, WIDTH_MULTIPLE},
    linear_input::LinearInput,
    matrix::Matrix,
    network::{Activations, Network},
    plan::{Step, Task, has_input_norm},
    positions::BiasAxis,
    simd::Simd,
};

/// A model's weights, packed in the format `F`.
pub(crate) struct VectorNetwork<F: Format> {
    format: F,
    weights: PackedWeights<F::B>,
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
    rounded: usize,
}

impl BufferWidths {
    fn of<F: Format>(weights: &PackedWeights<F::B>) -> Self {
        let spec = weights.spec();
        let [hidden, embeddings, intermediate] =
            [spec.hidden, spec.embeddings.width, spec.feed_forward.intermediate]
                .map(|width| width.next_multiple_of(WIDTH_MULTIPLE));
        let (heads, kv_heads) = (spec.attention.heads, spec.attention.kv_heads);
        let uses_branch = spec.norm_placement != NormPlacement::Post;
        let branch = if uses_branch { hidden } else { 0 };
        let context = heads * weights.head_layout.padded();
        let widest = [hidden, embeddings, intermediate, context].into_iter().max();
        Self {
            hidden,
            branch: if spec.embeddings.has_projection { branch.max(embeddings) } else { branch },
            qkv: (heads + 2 * kv_heads) * weights.head_layout.padded(),
            context,
            ffn_hidden: intermediate,
            gated_sums: if spec.feed_forward.is_gated { 2 * intermediate } else { 0 },
            rounded: widest.map_or(0, F::rounded_width),
        }
    }

    fn all(&self) -> [usize; 7] {
        let Self { hidden, branch, qkv, context, ffn_hidden, gated_sums, rounded } = *self;
        [hidden, branch, qkv, context, ffn_hidden, gated_sums, rounded]
    }
}

/// Values from a row of activations to the next. A tile reads a value of up to 14 rows at a time. If rows were a
/// multiple of 2 KiB apart, as with a width of 1,024, these values would lie in one or two sets of an L1d cache, of 8
/// lines each; one cache line more spreads them. On a Zen 4 this makes bge-m3 a quarter faster.
fn stride(width: usize) -> usize {
    const LINE: usize = 64 / size_of::<f32>();
    if width > 0 && (width * size_of::<f32>()).is_multiple_of(2048) { width + LINE } else { width }
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
    /// `[rows, rounded]`: the input of the next product in its format.
    rounded: Matrix,
}

/// Index of [`Views::hidden`] in the buffers of the activations.
const HIDDEN: usize = 0;
/// Index of [`Views::branch`].
const BRANCH: usize = 1;

impl<F: Format> VectorNetwork<F> {
    /// The network, with the maxima of activations if the format needs them.
    ///
    /// # Errors
    /// The first weight that cannot be read or has the wrong size.
    pub(crate) fn new(
        format: F,
        inputs: ModelInputs<'_>,
        maxima: Option<&ActivationMaxima>,
    ) -> Result<Self, ModelError> {
        let pack = |unpacked: UnpackedB<'_>| {
            let maxima = maxima.and_then(|maxima| maxima.of(unpacked.input));
            format.pack(unpacked, maxima)
        };
        let weights = PackedWeights::read(inputs, 2 * F::Simd::WIDTH, BiasAxis::Keys, pack)?;
        Ok(Self { format, widths: BufferWidths::of::<F>(&weights), weights })
    }

    fn simd(&self) -> F::Simd {
        self.format.simd()
    }

    fn views(&self, rows: usize, activations: &Activations) -> Views {
        let BufferWidths { hidden, branch, qkv, context, ffn_hidden, gated_sums, rounded } = self.widths;
        let view = |index, width| Matrix::of(activations.buffer(index), 0, [rows, width], stride(width));
        Views {
            hidden: view(HIDDEN, hidden),
            branch: view(BRANCH, branch.min(hidden)),
            qkv: view(2, qkv),
            context: view(3, context),
            ffn_hidden: view(4, ffn_hidden),
            gated_sums: view(5, gated_sums),
            rounded: view(6, rounded),
        }
    }

    /// The embeddings before their projection, if they are projected; otherwise the residual stream.
    fn embeddings(&self, rows: usize, views: &Views, activations: &Activations) -> Matrix {
        if self.weights.embeddings_projection.is_none() {
            return views.hidden;
        }
        let width = self.weights.spec().embeddings.width.next_multiple_of(WIDTH_MULTIPLE);
        Matrix::of(activations.buffer(BRANCH), 0, [rows, width], stride(width))
    }

    /// Writes the sum of the embeddings, and normalizes it.
    fn embed(&self, batch: &RaggedBatch, embeddings: Matrix, rows: Range<usize>) {
        let own = embeddings.rows_from(rows.start, rows.len());
        for (index, token) in rows.enumerate() {
            // SAFETY: these rows are this task's.
            let row = unsafe { own.row_mut(index) };
            self.weights.embed(batch.ids()[token], batch.table_row(token), row);
        }
        if let Some(params) = &self.weights.embeddings_norm {
            self.norm(own, own, false, params);
        }
    }

    fn norm(&self, input: Matrix, output: Matrix, is_added: bool, params: &NormParams) {
        self.simd().run(Norm { input, output, is_added, params, spec: self.weights.spec().norm });
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

    /// Rounds rows of the input of a linear layer, and records them for a calibration.
    fn round(
        &self,
        activations: &Activations,
        views: &Views,
        (input, from): (LinearInput, Matrix),
        rows: Range<usize>,
    ) {
        let Some(linear) = self.weights.linear(input) else { return };
        let own = |matrix: Matrix| matrix.rows_from(rows.start, rows.len());
        let from = own(from);
        if let Some(recorder) = &activations.recorder {
            let mut magnitudes = vec![0.0f32; input.width(self.weights.spec())];
            for row in 0..from.rows() {
                // SAFETY: no other task accesses these rows.
                let row = unsafe { from.row_mut(row) };
                for (column, value) in row.iter().enumerate() {
                    if let Some(channel) = self.weights.channel(input, column) {
                        magnitudes[channel] = magnitudes[channel].max(value.abs());
                    }
                }
            }
            recorder.include(input, &magnitudes);
        }
        if views.rounded.columns() > 0 {
            self.format.round(from, own(views.rounded), &linear.weight);
        }
    }

    fn normalize_and_rotate(&self, layer: usize, batch: &RaggedBatch, qkv: Matrix, rows: Range<usize>) {
        let (spec, rope) = (self.weights.spec(), self.weights.rope(layer));
        let layer = &self.weights.layers[layer];
        let (heads, padded) = (spec.attention.heads, self.weights.head_layout.padded());
        let width = (heads + spec.attention.kv_heads) * padded;
        let norm = layer.query_key_norm.as_ref().map(|[query, key]| ([query, key], spec.norm.epsilon));
        self.simd().run(QueryKey {
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
                self.format.attention(Attention {
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

impl<F: Format> Network for VectorNetwork<F> {
    fn config(&self) -> &EncoderConfig {
        &self.weights.config
    }

    fn rounds_inputs(&self) -> bool {
        self.widths.rounded > 0
    }

    fn allocate(&self, rows: usize) -> Activations {
        Activations::zeroed(rows, &self.widths.all().map(|width| rows * stride(width)))
    }

    unsafe fn run(&self, task: Task, batch: &RaggedBatch, activations: &Activations) {
        let rows = batch.rows();
        let views = self.views(rows, activations);
        let Views { hidden, branch, qkv, context, ffn_hidden, gated_sums, rounded } = views;
        let weights = &self.weights;
        // This task's panels of `c`.
        let gemm = |values, input, c, epilogue| {
            let Some(linear) = weights.linear(input) else { return };
            let panels = task.range_of(F::columns(&linear.weight) / (2 * F::Simd::WIDTH));
            let output = Output { bias: &linear.bias, c, epilogue };
            self.format.multiply(Operand { values, rounded }, &linear.weight, panels, output);
        };
        let normed = |is_normalized: bool| if is_normalized { branch } else { hidden };
        let qkv_input = |layer| (LinearInput::Qkv(layer), normed(weights.has_attention_input_norm(layer)));
        let ffn_input = |layer| (LinearInput::FfnUp(layer), normed(weights.has_ffn_input_norm(layer)));
        // Adds to the residual stream, unless a norm must be applied before.
        let add = |a, input, norms: NormSequence<'_>| match norms.branch {
            Some(_) => gemm(a, input, branch, Epilogue::Store),
            None => gemm(a, input, hidden, Epilogue::Add),
        };
        let round = |input| self.round(activations, &views, input, task.range_of(rows));
        match task.step {
            Step::Embed => {
                let embeddings = self.embeddings(rows, &views, activations);
                self.embed(batch, embeddings, task.range_of(rows));
                if weights.embeddings_projection.is_some() {
                    round((LinearInput::EmbeddingProjection, embeddings));
                } else if !has_input_norm(weights.spec()) {
                    round(qkv_input(0));
                }
            }
            Step::ProjectEmbeddings => {
                let embeddings = self.embeddings(rows, &views, activations);
                gemm(embeddings, LinearInput::EmbeddingProjection, hidden, Epilogue::Store);
            }
            Step::InputNorm => {
                self.norms(&views, task.range_of(rows), weights.norms_before_layers());
                round(qkv_input(0));
            }
            Step::Qkv(layer) => {
                let (input, a) = qkv_input(layer);
                gemm(a, input, qkv, Epilogue::Store);
            }
            Step::QueryKey(layer) => self.normalize_and_rotate(layer, batch, qkv, task.range_of(rows)),
            Step::Attention(layer) => {
                let heads = task.range_of(weights.spec().attention.heads);
                self.attention(batch, &views, activations, (layer, heads));
            }
            Step::RoundContext(layer) => round((LinearInput::AttentionOutput(layer), context)),
            Step::AttentionOutput(layer) => {
                add(context, LinearInput::AttentionOutput(layer), weights.norms_after_attention(layer));
            }
            Step::AttentionNorm(layer) => {
                self.norms(&views, task.range_of(rows), weights.norms_after_attention(layer));
                round(ffn_input(layer));
            }
            Step::FfnUp(layer) => {
                let feed_forward = weights.spec().feed_forward;
                let (input, a) = ffn_input(layer);
                if feed_forward.is_gated {
                    gemm(a, input, gated_sums, Epilogue::Gate(feed_forward.activation, ffn_hidden));
                } else {
                    gemm(a, input, ffn_hidden, Epilogue::Activate(feed_forward.activation));
                }
            }
            Step::RoundFfnHidden(layer) => round((LinearInput::FfnDown(layer), ffn_hidden)),
            Step::FfnDown(layer) => {
                add(ffn_hidden, LinearInput::FfnDown(layer), weights.norms_after_ffn(layer));
            }
            Step::FfnNorm(layer) => {
                self.norms(&views, task.range_of(rows), weights.norms_after_ffn(layer));
                if layer + 1 < weights.layers.len() {
                    round(qkv_input(layer + 1));
                }
            }
        }
    }

    unsafe fn hidden_states<'a>(&self, rows: usize, activations: &'a Activations) -> HiddenStates<'a> {
        let stride = stride(self.widths.hidden);
        // SAFETY: by the caller's contract.
        let values = unsafe { activations.buffer(HIDDEN).as_slice() };
        HiddenStates::new(&values[..rows * stride], stride, self.weights.spec().hidden)
    }
}

#[cfg(test)]
mod tests;
