//! The network in f32, for any instruction set that `lanes` knows.
//!
//! Widths are padded with zeros to whole panels: a head to two vectors, a state to [`UNIT`]. Zeros stay zeros
//! through every step, so no kernel needs a mask.

mod attention;
mod math;
mod norm;
mod panels;
mod product;
mod tiles;

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use attention::{Attention, Scratch};
use norm::LayerNorm;
use panels::Panels;
use product::{Product, Then};

use crate::{
    BertConfig, ModelError, NormId, TensorId, TokenEmbeddings, WeightSource,
    buffer::Buffer,
    encoder::Block,
    lanes::Lanes,
    layer::{Affine, Layer, Map, UNIT, Unpacked, read_layers},
    matrix::Matrix,
    model::{HiddenStates, Network},
    plan::{Step, Task},
    weights::read,
};

/// A model's weights, packed for the instruction set `L`.
pub(crate) struct Exact<L> {
    lanes: L,
    config: BertConfig,
    token_embeddings: TokenEmbeddings,
    positions: Vec<f32>,
    embeddings: Affine,
    layers: Vec<Layer<Panels>>,
}

/// A head's width, padded to whole panels.
fn head<L: Lanes>(config: &BertConfig) -> usize {
    config.head_dim().next_multiple_of(2 * L::WIDTH)
}

impl<L: Lanes> Exact<L> {
    /// Reads and packs the weights; the layers are shared out over `threads` threads.
    ///
    /// # Errors
    /// The first weight that cannot be read or has the wrong size.
    pub(crate) fn new(
        lanes: L,
        config: BertConfig,
        source: &dyn WeightSource,
        token_embeddings: TokenEmbeddings,
        threads: usize,
    ) -> Result<Self, ModelError> {
        let panel = 2 * L::WIDTH;
        let pack =
            |Unpacked { inputs, columns, column }: Unpacked<'_>| Panels::pack(panel, inputs, columns, column);
        let layers = read_layers(&config, source, head::<L>(&config), threads, pack)?;
        Ok(Self {
            lanes,
            config,
            token_embeddings,
            positions: read(source, TensorId::Positions, &config)?.into_owned(),
            embeddings: Affine::read(&config, source, NormId::Embeddings)?,
            layers,
        })
    }

    /// Writes word + position into the state's rows, and normalises them.
    fn embed(&self, block: &Block, states: &States, rows: Range<usize>) {
        let hidden = self.config.hidden;
        let state = states.state.rows_from(rows.start, rows.len());
        for (index, token) in rows.enumerate() {
            // SAFETY: this task's rows.
            let (row, padding) = unsafe { state.row_mut(index) }.split_at_mut(hidden);
            (self.token_embeddings)(block.ids()[token], row);
            // A row that was not finite before would spoil this one.
            padding.fill(0.0);
            let position = block.position_rows()[token] * hidden;
            let position = &self.positions[position..position + hidden];
            row.iter_mut().zip(position).for_each(|(value, position)| *value += position);
        }
        self.norm(state, &self.embeddings);
    }

    fn norm(&self, rows: Matrix, Affine { scale, shift }: &Affine) {
        let BertConfig { hidden: width, epsilon, .. } = self.config;
        self.lanes.run(LayerNorm { rows, width, scale, shift, epsilon });
    }

    fn attend(&self, block: &Block, states: &States, heads: Range<usize>) {
        let head = head::<L>(&self.config);
        let width = self.config.heads * head;
        let mut scratch = states.scratch();
        let mut start = 0;
        for &tokens in block.lengths() {
            let rows = |matrix: Matrix| matrix.rows_from(start, tokens);
            for index in heads.clone() {
                let column = index * head;
                let part = |which: usize| rows(states.mixed).columns_from(which * width + column, head);
                self.lanes.run(Attention {
                    queries: part(0),
                    keys: part(1),
                    values: part(2),
                    out: rows(states.attended).columns_from(column, head),
                    scratch: &mut scratch,
                });
            }
            start += tokens;
        }
        states.keep(scratch);
    }
}

impl<L: Lanes> Network for Exact<L> {
    type States = States;

    fn config(&self) -> &BertConfig {
        &self.config
    }

    fn states(&self, rows: usize) -> States {
        let heads = self.config.heads * head::<L>(&self.config);
        States::new(rows, [&self.config.hidden, &(3 * heads), &heads, &self.config.intermediate])
    }

    unsafe fn run(&self, task: Task, block: &Block, states: &States) {
        let rows = block.rows();
        let all = |matrix: Matrix| matrix.rows_from(0, rows);
        let (state, attended, wide) = (all(states.state), all(states.attended), all(states.wide));
        let share = || {
            let range = task.share(rows);
            state.rows_from(range.start, range.len())
        };
        // `out` = or += `left` · map, this task's columns.
        let product = |left: Matrix, Map { weight: right, bias }: &Map<Panels>, out: Matrix, then: Then| {
            let panels = task.share(right.columns() / right.width());
            self.lanes.run(Product { left, right, panels, bias, out, then });
        };
        match task.step {
            Step::Embed => self.embed(block, states, task.share(rows)),
            Step::Mix(layer) => {
                product(state, &self.layers[layer].mix, all(states.mixed), Then::Store);
            }
            Step::Attend(_) => self.attend(block, states, task.share(self.config.heads)),
            Step::Project(layer) => {
                product(attended, &self.layers[layer].project, state, Then::Add);
            }
            Step::NormAttention(layer) => self.norm(share(), &self.layers[layer].attention),
            Step::Up(layer) => {
                let then = Then::Activate(self.config.activation);
                product(state, &self.layers[layer].up, wide, then);
            }
            Step::Down(layer) => product(wide, &self.layers[layer].down, state, Then::Add),
            Step::NormOutput(layer) => self.norm(share(), &self.layers[layer].output),
        }
    }

    fn hidden<'s>(&self, block: &Block, states: &'s States) -> HiddenStates<'s> {
        // SAFETY: asked when no task runs.
        let values = unsafe { states.buffers[0].as_slice() };
        HiddenStates::new(
            &values[..block.rows() * states.state.stride()],
            states.state.stride(),
            self.config.hidden,
        )
    }
}

/// What the steps of one pass hand on, one row a token.
pub(crate) struct States {
    /// The memory of the four matrices.
    buffers: [Buffer; 4],
    /// `[rows, hidden]`: the state between steps.
    state: Matrix,
    /// `[rows, 3 · heads · head]`: queries, keys, values.
    mixed: Matrix,
    /// `[rows, heads · head]`: attention's result.
    attended: Matrix,
    /// `[rows, intermediate]`.
    wide: Matrix,
    /// Attention's memory, one for each thread that ever was in it at the same time.
    scratch: Mutex<Vec<Scratch>>,
}

// SAFETY: the matrices point into the buffers that lie beside them; who writes where is `Network::run`'s contract.
unsafe impl Send for States {}
// SAFETY: as above.
unsafe impl Sync for States {}

impl States {
    fn new(rows: usize, widths: [&usize; 4]) -> Self {
        let widths = widths.map(|width| width.next_multiple_of(UNIT));
        let buffers = widths.map(|width| Buffer::zeroed(rows * width));
        let matrix = |index: usize| Matrix::of(&buffers[index], 0, [rows, widths[index]], widths[index]);
        let [state, mixed, attended, wide] = [matrix(0), matrix(1), matrix(2), matrix(3)];
        Self { state, mixed, attended, wide, buffers, scratch: Mutex::default() }
    }

    fn scratch(&self) -> Scratch {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn keep(&self, scratch: Scratch) {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }
}

#[cfg(test)]
mod tests;
