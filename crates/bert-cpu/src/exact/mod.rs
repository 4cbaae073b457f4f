//! The network in f32, for any instruction set that `lanes` knows.
//!
//! Widths are padded with zeros to whole panels: a head to two vectors, a state to [`UNIT`]. Zeros stay zeros
//! through every step, so no kernel needs a mask.

mod attention;
mod math;
mod norm;
mod panels;
mod product;

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use attention::{Attention, Scratch};
use norm::LayerNorm;
use panels::Panels;
use product::{Product, Then};

use crate::{
    Linear, ModelError, Norm, Part, Shape, WeightSource, Words,
    encoder::Block,
    lanes::Lanes,
    matrix::Matrix,
    memory::Buffer,
    model::{Hidden, Network},
    plan::{Step, Task},
    weights::read,
};

/// Columns of a state come in multiples of this: the widest panel.
const UNIT: usize = 32;

/// A model's weights, packed for the instruction set `L`.
pub(crate) struct Exact<L> {
    lanes: L,
    shape: Shape,
    words: Words,
    positions: Vec<f32>,
    embeddings: Affine,
    layers: Vec<Layer>,
}

struct Layer {
    mix: Map,
    project: Map,
    attention: Affine,
    up: Map,
    down: Map,
    output: Affine,
}

/// A weight and its bias.
struct Map {
    weight: Panels,
    bias: Vec<f32>,
}

/// A norm's scale and shift, padded.
struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// A head's width, padded to whole panels.
fn head<L: Lanes>(shape: &Shape) -> usize {
    shape.head().next_multiple_of(2 * L::WIDTH)
}

fn pad(mut values: Vec<f32>) -> Vec<f32> {
    values.resize(values.len().next_multiple_of(UNIT), 0.0);
    values
}

impl<L: Lanes> Exact<L> {
    /// Reads and packs the weights; the layers are shared out over `threads` threads.
    ///
    /// # Errors
    /// The first weight that cannot be read or has the wrong size.
    pub(crate) fn new(
        lanes: L,
        shape: Shape,
        source: &dyn WeightSource,
        words: Words,
        threads: usize,
    ) -> Result<Self, ModelError> {
        let share = shape.layers.div_ceil(threads.max(1)).max(1);
        let layers = std::thread::scope(|scope| {
            let starts = (0..shape.layers).step_by(share);
            let handles: Vec<_> = starts
                .map(|start| {
                    let range = start..shape.layers.min(start + share);
                    scope.spawn(move || range.map(|layer| Layer::read::<L>(&shape, source, layer)).collect())
                })
                .collect();
            let results = handles.into_iter().map(|handle| match handle.join() {
                Ok(layers) => layers,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.collect::<Result<Vec<Vec<Layer>>, ModelError>>()
        })?;
        Ok(Self {
            lanes,
            shape,
            words,
            positions: read(source, Part::Positions, &shape)?.into_owned(),
            embeddings: Affine::read(&shape, source, Norm::Embeddings)?,
            layers: layers.into_iter().flatten().collect(),
        })
    }

    /// Writes word + position into the state's rows, and normalises them.
    fn embed(&self, block: &Block, states: &States, rows: Range<usize>) {
        let hidden = self.shape.hidden;
        let state = states.state.rows_from(rows.start, rows.len());
        for (index, token) in rows.enumerate() {
            // SAFETY: this task's rows.
            let row = unsafe { state.columns_from(0, hidden).row_mut(index) };
            (self.words)(block.ids()[token], row);
            let position = block.position_rows()[token] * hidden;
            let position = &self.positions[position..position + hidden];
            row.iter_mut().zip(position).for_each(|(value, position)| *value += position);
        }
        self.norm(state, &self.embeddings);
    }

    fn norm(&self, rows: Matrix, Affine { scale, shift }: &Affine) {
        let Shape { hidden: width, epsilon, .. } = self.shape;
        self.lanes.run(LayerNorm { rows, width, scale, shift, epsilon });
    }

    fn attend(&self, block: &Block, states: &States, heads: Range<usize>) {
        let head = head::<L>(&self.shape);
        let width = self.shape.heads * head;
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

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn states(&self, rows: usize) -> States {
        let heads = self.shape.heads * head::<L>(&self.shape);
        States::new(rows, [&self.shape.hidden, &(3 * heads), &heads, &self.shape.intermediate])
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
        let product = |left: Matrix, Map { weight: right, bias }: &Map, out: Matrix, then: Then| {
            let panels = task.share(right.columns() / right.width());
            self.lanes.run(Product { left, right, panels, bias, out, then });
        };
        match task.step {
            Step::Embed => self.embed(block, states, task.share(rows)),
            Step::Mix(layer) => {
                product(state, &self.layers[layer].mix, all(states.mixed), Then::Store);
            }
            Step::Attend(_) => self.attend(block, states, task.share(self.shape.heads)),
            Step::Project(layer) => {
                product(attended, &self.layers[layer].project, state, Then::Add);
            }
            Step::NormAttention(layer) => self.norm(share(), &self.layers[layer].attention),
            Step::Up(layer) => {
                let then = Then::Activate(self.shape.activation);
                product(state, &self.layers[layer].up, wide, then);
            }
            Step::Down(layer) => product(wide, &self.layers[layer].down, state, Then::Add),
            Step::NormOutput(layer) => self.norm(share(), &self.layers[layer].output),
        }
    }

    fn hidden<'s>(&self, block: &Block, states: &'s States) -> Hidden<'s> {
        // SAFETY: asked when no task runs.
        let values = unsafe { states.buffers[0].as_slice() };
        Hidden::new(&values[..block.rows() * states.state.stride()], states.state.stride(), self.shape.hidden)
    }
}

impl Layer {
    fn read<L: Lanes>(shape: &Shape, source: &dyn WeightSource, layer: usize) -> Result<Self, ModelError> {
        let Shape { hidden, heads, intermediate, .. } = *shape;
        let (width, padded) = (shape.head(), head::<L>(shape));
        let weight = |linear| read(source, Part::Weight(layer, linear), shape);
        let bias = |linear| read(source, Part::Bias(layer, linear), shape);
        // Where column or input `index` of the padded heads comes from.
        let place = |index: usize| (index % padded < width).then(|| index / padded * width + index % padded);
        let every = |count: usize| (0..count).map(Some).collect::<Vec<_>>();
        let panel = 2 * L::WIDTH;

        // softmax₂ takes powers of two, and the scores divided by the root of a head's width.
        let scale = std::f32::consts::LOG2_E / (width as f32).sqrt();
        let linears = [(Linear::Query, scale), (Linear::Key, 1.0), (Linear::Value, 1.0)];
        let weights = linears.map(|(linear, factor)| weight(linear).map(|weight| (weight, factor)));
        let [query, key, value] = weights;
        let weights = [query?, key?, value?];
        let across = heads * padded;
        let mix = Panels::pack(panel, &every(hidden), 3 * across, |column| {
            let (weight, factor) = &weights[column / across];
            place(column % across).map(|row| (&weight[row * hidden..][..hidden], *factor))
        });
        let mut mix_bias = vec![0.0; 3 * across];
        for (which, (linear, factor)) in linears.into_iter().enumerate() {
            let bias = bias(linear)?;
            for (column, out) in mix_bias[which * across..][..across].iter_mut().enumerate() {
                *out = place(column).map_or(0.0, |row| bias[row] * factor);
            }
        }

        let map = |linear, inputs: &[Option<usize>], outputs: usize| -> Result<Map, ModelError> {
            let (weight, length) = (weight(linear)?, Part::Weight(layer, linear).len(shape) / outputs);
            let packed = Panels::pack(panel, inputs, outputs.next_multiple_of(UNIT), |column| {
                (column < outputs).then(|| (&weight[column * length..][..length], 1.0))
            });
            Ok(Map { weight: packed, bias: pad(bias(linear)?.into_owned()) })
        };
        let inputs: Vec<_> = (0..across).map(place).collect();
        Ok(Self {
            mix: Map { weight: mix, bias: mix_bias },
            project: map(Linear::Projection, &inputs, hidden)?,
            attention: Affine::read(shape, source, Norm::Attention(layer))?,
            up: map(Linear::Up, &every(hidden), intermediate)?,
            down: map(Linear::Down, &every(intermediate), hidden)?,
            output: Affine::read(shape, source, Norm::Output(layer))?,
        })
    }
}

impl Affine {
    fn read(shape: &Shape, source: &dyn WeightSource, norm: Norm) -> Result<Self, ModelError> {
        let scale = pad(read(source, Part::Scale(norm), shape)?.into_owned());
        Ok(Self { scale, shift: pad(read(source, Part::Shift(norm), shape)?.into_owned()) })
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

#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) mod tests;
