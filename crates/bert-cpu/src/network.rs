//! The interface between the kernels and the code that runs them.

use std::sync::{Mutex, PoisonError};

use crate::{
    EncoderConfig,
    batch::RaggedBatch,
    buffer::{Buffer, ScratchBuffer},
    maxima::MaximaRecorder,
    plan::Task,
};

/// A network's weights and kernels.
pub(crate) trait Network: Send + Sync {
    fn config(&self) -> &EncoderConfig;

    /// Allocates activations for batches of up to `rows` tokens.
    fn allocate(&self, rows: usize) -> Activations;

    /// Returns true if its plans need the steps that round the inputs of products.
    fn rounds_inputs(&self) -> bool {
        false
    }

    /// Runs one task of a forward pass.
    ///
    /// # Safety
    /// All tasks before `task.ready_after` must be done, and no other call may run the same task of this pass.
    /// In an implementation the tasks of one step write disjoint values and read only what earlier steps wrote.
    unsafe fn run(&self, task: Task, batch: &RaggedBatch, activations: &Activations);

    /// Hidden states after the last layer, of the `rows` tokens of the batch.
    ///
    /// # Safety
    /// No task that writes these activations may run while the result lives.
    unsafe fn hidden_states<'a>(&self, rows: usize, activations: &'a Activations) -> HiddenStates<'a>;
}

/// Memory that the tasks of a forward pass share, reused by later passes.
pub(crate) struct Activations {
    rows: usize,
    buffers: Vec<Buffer>,
    /// One for each thread that ran a task at the same time as others.
    scratch: Mutex<Vec<ThreadScratch>>,
    /// Records the inputs of linear layers, where a plan rounds them.
    pub(crate) recorder: Option<MaximaRecorder>,
}

/// Memory of one thread during a task.
pub(crate) type ThreadScratch = [ScratchBuffer; 2];

impl Activations {
    /// Buffers of zeros of these lengths, for batches of up to `rows` tokens.
    pub(crate) fn zeroed(rows: usize, lengths: &[usize]) -> Self {
        let buffers = lengths.iter().copied().map(Buffer::zeroed).collect();
        Self { rows, buffers, scratch: Mutex::default(), recorder: None }
    }

    /// Maximum number of tokens in a batch.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn buffer(&self, index: usize) -> &Buffer {
        &self.buffers[index]
    }

    pub(crate) fn take_scratch(&self) -> ThreadScratch {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(crate) fn return_scratch(&self, scratch: ThreadScratch) {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }
}

/// Hidden states of a batch's tokens after the last layer, in order.
#[derive(Debug, Clone, Copy)]
pub struct HiddenStates<'a> {
    values: &'a [f32],
    stride: usize,
    width: usize,
}

impl<'a> HiddenStates<'a> {
    pub(crate) fn new(values: &'a [f32], stride: usize, width: usize) -> Self {
        Self { values, stride, width }
    }

    /// Row-major values: the row of token `t` begins at `t · stride`.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Distance between the beginnings of two rows; at least `width`.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Number of values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Hidden state of one token, `[width]`.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn row(&self, token: usize) -> &'a [f32] {
        &self.values[token * self.stride..][..self.width]
    }
}
