//! The network in bf16 on AMX: products of bf16 with sums in f32, the residual stream and the norms in f32.
//!
//! ```text
//!  state f32 ──norm──▶ narrow ──mix──▶ strips of q, k, v ──attend──▶ attended ──project──▶ state +=
//!     ▲                tiles           lines                         tiles
//!     └─norm── state += ◀──down── wide ◀──up, activation── narrow ◀──norm── state
//!                                 tiles                    tiles
//! ```
//!
//! Whoever finishes a value writes it in the layout in which the next product reads it (`layout`), so nothing is
//! rearranged in between. A norm leaves the next product's bias in the state, so that the product only adds.
//! Widths are padded with zeros to multiples of 32, a head's too; zeros stay zeros through every step. Rows are
//! padded to whole tiles with whatever is there: a row of a product depends on that row of its left factor alone,
//! so what stands in the others cannot be seen.
//!
//! No kernel touches MXCSR. Denormal numbers, which would be slow in vector code, do not arise in number: the powers
//! of a softmax end at 2⁻¹²⁶, and the tile instructions and the rounding to bf16 flush their own.

mod attention;
mod layout;
mod norm;
mod pack;
mod product;
mod softmax;
mod tile;
mod vector;

use std::{
    arch::x86_64::_mm512_add_ps,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use attention::{Attention, Scratch};
use layout::{Line, Strips, Tiled};
use norm::LayerNorm;
use pack::Panels;
use product::{DEPTH, GROUP, Product, Sums, shares};
pub(crate) use tile::Amx;
use tile::{TILE, Tiles, UNIT};
use vector::{Floats, activate, load, round, store_line};

use crate::{
    Activation, BertConfig, ModelError, NormId, TensorId, TokenEmbeddings, WeightSource,
    buffer::Buffer,
    encoder::Block,
    layer::{Affine, Layer, Map, Unpacked, read_layers},
    matrix::Matrix,
    model::{HiddenStates, Network},
    plan::{Step, Task},
    weights::read,
};

/// A model's weights in bf16.
pub(crate) struct Bf16 {
    amx: Amx,
    config: BertConfig,
    token_embeddings: TokenEmbeddings,
    positions: Vec<f32>,
    embeddings: Affine,
    layers: Vec<Layer<Panels>>,
    /// Zeros: what the last norm adds to the state.
    nothing: Vec<f32>,
}

impl Bf16 {
    /// Reads and packs the weights; the layers are shared out over `threads` threads.
    ///
    /// # Errors
    /// The first weight that cannot be read or has the wrong size.
    pub(crate) fn new(
        amx: Amx,
        config: BertConfig,
        source: &dyn WeightSource,
        token_embeddings: TokenEmbeddings,
        threads: usize,
    ) -> Result<Self, ModelError> {
        let head = config.head_dim().next_multiple_of(UNIT);
        let pack = |Unpacked { inputs, columns, column }: Unpacked<'_>| Panels::pack(inputs, columns, column);
        let layers = read_layers(&config, source, head, threads, pack)?;
        Ok(Self {
            amx,
            token_embeddings,
            positions: read(source, TensorId::Positions, &config)?.into_owned(),
            embeddings: Affine::read(&config, source, NormId::Embeddings)?,
            layers,
            nothing: vec![0.0; config.hidden.next_multiple_of(UNIT)],
            config,
        })
    }

    fn sizes(&self, rows: usize) -> Sizes {
        let parts = self.config.head_dim().div_ceil(UNIT);
        let depth = |width: usize| width.div_ceil(UNIT);
        let (hidden, wide) = (depth(self.config.hidden), depth(self.config.intermediate));
        Sizes { rows, parts, hidden, heads: self.config.heads * parts, wide }
    }

    /// Writes word + position into the state's rows, and normalises them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn embed(&self, views: &Views<'_>, rows: Range<usize>) {
        let (hidden, block) = (self.config.hidden, views.block);
        let state = views.state.rows_from(rows.start, rows.len());
        for (index, token) in rows.clone().enumerate() {
            // SAFETY: this task's rows.
            let (row, padding) = unsafe { state.row_mut(index) }.split_at_mut(hidden);
            (self.token_embeddings)(block.ids()[token], row);
            padding.fill(0.0);
            let position = block.position_rows()[token] * hidden;
            let position = &self.positions[position..position + hidden];
            row.iter_mut().zip(position).for_each(|(value, position)| *value += position);
        }
        let bias = self.layers.first().map_or(&self.nothing, |layer| &layer.project.bias);
        self.norm(views, rows, &self.embeddings, bias);
    }

    /// Normalises rows of the state, and adds the bias of the next product that is added to them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn norm(&self, views: &Views<'_>, rows: Range<usize>, Affine { scale, shift }: &Affine, bias: &[f32]) {
        let BertConfig { hidden: width, epsilon, .. } = self.config;
        let norm = LayerNorm { width, scale, shift, epsilon, bias };
        for index in rows {
            // SAFETY: this task's rows.
            unsafe { norm.run(views.state.row_mut(index), views.narrow, index) };
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    fn attend(&self, tiles: &Tiles, views: &Views<'_>, heads: Range<usize>, scratch: &mut Scratch) {
        let (lengths, parts) = (views.block.lengths(), views.sizes.parts);
        let attention = Attention { lengths, heads, parts, strips: views.strips, out: views.attended };
        // SAFETY: nobody writes strips in this step, and the heads' columns are this task's.
        unsafe { attention.run(tiles, scratch) };
    }

    /// Runs one task.
    ///
    /// # Safety
    /// As [`Network::run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn task<'m>(&'m self, task: Task, block: &Block, states: &States) {
        let rows = block.rows();
        let views = states.views(block, self.sizes(rows));
        let mut memory = states.memory();
        let tiles = || Tiles::configure(self.amx);
        let product = |left: Tiled, right: &'m Panels| -> Product<'m> {
            let (inputs, panels) = (0..right.depth(), task.share(right.panels()));
            Product { left, rows, right, inputs, panels }
        };
        // The tasks of a step share panels, heads or rows out, and write only what belongs to theirs; what they
        // read, earlier steps wrote.
        match task.step {
            Step::Embed => self.embed(&views, task.share(rows)),
            Step::Mix(layer) => {
                let Map { weight, bias } = &self.layers[layer].mix;
                assert_eq!(weight.panels(), 3 * views.sizes.heads);
                // SAFETY: this step only reads `narrow`; the panels' strips are this task's.
                unsafe {
                    product(views.narrow, weight).each(&tiles(), &mut memory.sums, |panel, row, values| {
                        let [low, high] = biased(values, bias, panel);
                        store_line(views.strips.line(panel, row), round(low, high));
                    });
                }
            }
            Step::Attend(_) => {
                self.attend(&tiles(), &views, task.share(self.config.heads), &mut memory.attention);
            }
            Step::Project(layer) => {
                let product = product(views.attended, &self.layers[layer].project.weight);
                // SAFETY: this step only reads `attended`; the panels' columns of the state are this task's.
                unsafe { product.add(&tiles(), views.state) };
            }
            Step::NormAttention(layer) => {
                let layer = &self.layers[layer];
                self.norm(&views, task.share(rows), &layer.attention, &layer.down.bias);
            }
            // The plan cuts both steps into the same number of tasks.
            // SAFETY: both steps are this task's alone.
            Step::Up(layer) if task.parts == 1 => unsafe {
                self.feed(&tiles(), &views, &self.layers[layer], &mut memory.sums);
            },
            Step::Down(_) if task.parts == 1 => {}
            Step::Up(layer) => {
                let Map { weight, bias } = &self.layers[layer].up;
                assert_eq!(weight.panels(), views.wide.depth());
                // SAFETY: this step only reads `narrow`; the panels' lines of `wide` are this task's.
                unsafe {
                    let activated = activated(self.config.activation, bias, views.wide, 0);
                    product(views.narrow, weight).each(&tiles(), &mut memory.sums, activated);
                }
            }
            Step::Down(layer) => {
                let product = product(views.wide, &self.layers[layer].down.weight);
                // SAFETY: this step only reads `wide`; the panels' columns of the state are this task's.
                unsafe { product.add(&tiles(), views.state) };
            }
            Step::NormOutput(layer) => {
                let bias = self.layers.get(layer + 1).map_or(&self.nothing, |next| &next.project.bias);
                self.norm(&views, task.share(rows), &self.layers[layer].output, bias);
            }
        }
        states.keep(memory);
    }

    /// The whole feed-forward part on one thread: some rows, and some of the wide state, at a time, so that the
    /// wide state never leaves the nearer caches. The sums are the same as in two steps, in the same order.
    ///
    /// # Safety
    /// Nobody else may access the views.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
    unsafe fn feed(&self, tiles: &Tiles, views: &Views<'_>, layer: &Layer<Panels>, sums: &mut Sums) {
        let Sizes { rows: all, hidden, .. } = views.sizes;
        let Layer { up, down, .. } = layer;
        for first in (0..all).step_by(GROUP * TILE) {
            let rows = (GROUP * TILE).min(all - first);
            let left = views.narrow.rows_from(first, rows);
            let state = views.state.rows_from(first, rows);
            for panels in shares(0..up.weight.panels(), DEPTH) {
                let wide = views.wide.recut(rows, panels.len());
                let (inputs, outputs) = (panels.clone(), 0..down.weight.panels());
                let into = Product { left, rows, right: &up.weight, inputs: 0..hidden, panels };
                let out_of = Product { left: wide, rows, right: &down.weight, inputs, panels: outputs };
                // SAFETY: by the caller's promise.
                unsafe {
                    let first = into.panels.start;
                    into.each(tiles, sums, activated(self.config.activation, &up.bias, wide, first));
                    out_of.add(tiles, state);
                }
            }
        }
    }
}

impl Network for Bf16 {
    type States = States;

    fn config(&self) -> &BertConfig {
        &self.config
    }

    fn states(&self, rows: usize) -> States {
        States::new(self.sizes(rows))
    }

    unsafe fn run(&self, task: Task, block: &Block, states: &States) {
        // SAFETY: `amx` proves that the instructions are there; the rest is the caller's promise.
        unsafe { self.task(task, block, states) }
    }

    fn hidden<'s>(&self, block: &Block, states: &'s States) -> HiddenStates<'s> {
        let stride = self.sizes(0).hidden * UNIT;
        // SAFETY: asked when no task runs.
        let values = unsafe { states.state.as_slice() };
        HiddenStates::new(&values[..block.rows() * stride], stride, self.config.hidden)
    }
}

/// A row of a panel of a product, with the bias added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
fn biased([low, high]: [Floats; 2], bias: &[f32], panel: usize) -> [Floats; 2] {
    let bias = bias[panel * UNIT..][..UNIT].as_chunks::<TILE>().0;
    [_mm512_add_ps(low, load(&bias[0])), _mm512_add_ps(high, load(&bias[1]))]
}

/// What becomes of rows on their way into the feed-forward part: bias, activation, and their place in `out`, whose
/// first columns are panel `first`.
///
/// # Safety
/// Whoever calls the result does so with a row of `out` and a panel whose columns are in it, and nobody else
/// accesses those.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bf16")]
unsafe fn activated(
    activation: Activation,
    bias: &[f32],
    out: Tiled,
    first: usize,
) -> impl FnMut(usize, usize, [Floats; 2]) {
    move |panel, row, values| {
        let [low, high] = biased(values, bias, panel);
        let line = round(activate(activation, low), activate(activation, high));
        // SAFETY: by the caller's promise.
        unsafe { store_line(out.line(row, panel - first), line) };
    }
}

/// Sizes of a block's matrices, all but the rows in units of 32 columns.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    /// One head.
    parts: usize,
    hidden: usize,
    /// All heads.
    heads: usize,
    wide: usize,
}

/// What the steps of one pass hand on.
pub(crate) struct States {
    state: Buffer,
    narrow: Buffer,
    strips: Buffer,
    attended: Buffer,
    wide: Buffer,
    /// Memory of each thread that ever ran a task at the same time as others.
    memory: Mutex<Vec<Memory>>,
}

/// Memory of one thread.
#[derive(Default)]
struct Memory {
    sums: Sums,
    attention: Scratch,
}

/// The states of one block, each checked to lie in its buffer.
struct Views<'b> {
    block: &'b Block,
    sizes: Sizes,
    /// `[rows, hidden]` in f32: the residual stream, with the next product's bias.
    state: Matrix,
    /// The same in bf16, without the bias.
    narrow: Tiled,
    /// Queries, keys and values, each head by head.
    strips: Strips,
    /// Attention's result.
    attended: Tiled,
    /// The feed-forward part's.
    wide: Tiled,
}

impl States {
    fn new(Sizes { rows, hidden, heads, wide, .. }: Sizes) -> Self {
        let lines = |count: usize| Buffer::zeroed(count * Line::VALUES);
        Self {
            state: Buffer::zeroed(rows * hidden * UNIT),
            narrow: lines(Tiled::lines(rows, hidden)),
            strips: lines(Strips::lines(3 * heads, rows)),
            attended: lines(Tiled::lines(rows, heads)),
            wide: lines(Tiled::lines(rows, wide)),
            memory: Mutex::default(),
        }
    }

    fn views<'b>(&self, block: &'b Block, sizes: Sizes) -> Views<'b> {
        let Sizes { rows, hidden, heads, wide, .. } = sizes;
        let width = hidden * UNIT;
        Views {
            block,
            sizes,
            state: Matrix::of(&self.state, 0, [rows, width], width),
            narrow: Tiled::of(&self.narrow, rows, hidden),
            strips: Strips::of(&self.strips, 3 * heads, rows),
            attended: Tiled::of(&self.attended, rows, heads),
            wide: Tiled::of(&self.wide, rows, wide),
        }
    }

    fn memory(&self) -> Memory {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn keep(&self, memory: Memory) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod tests;
