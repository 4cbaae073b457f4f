//! The steps of a forward pass through some layers, and the tasks that each step is split into.
//!
//! Steps follow each other; the tasks of one step are independent. On one thread a step is one task. On several it is
//! more tasks than threads, so that a thread that loses its core delays the others for less.

use std::ops::Range;

use encoder_spec::{EncoderSpec, LayerNormId, NormId};

/// Tasks of a step for each thread, if there are several threads.
const TASKS_PER_THREAD: usize = 4;
/// Minimum rows of a task in steps that are cheap for each row (embeddings, norms).
const MIN_ROWS_PER_TASK: usize = 8;

/// A step of the pass; the number is the layer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sum of the embeddings, and its norm.
    Embed,
    /// Projection of factorized embeddings to the hidden width.
    ProjectEmbeddings,
    /// The input of the first layer, from projected embeddings or by its norm.
    InputNorm,
    /// Query, key and value projections of all heads.
    Qkv(usize),
    /// Norm and rotary position embedding of each head's queries and keys.
    QueryKey(usize),
    /// Scaled dot-product attention, head by head.
    Attention(usize),
    /// Rounding of the result of attention to the format of the next product, if the format is not f32.
    RoundContext(usize),
    /// Output projection of attention, added to the residual stream or stored for a norm.
    AttentionOutput(usize),
    /// The norms between attention and the feed-forward network.
    AttentionNorm(usize),
    /// First layer of the feed-forward network, the gate, and the activation.
    FfnUp(usize),
    /// Rounding of the activations of the feed-forward network, as in [`Step::RoundContext`].
    RoundFfnHidden(usize),
    /// Second layer of the feed-forward network, added to the residual stream or stored for a norm.
    FfnDown(usize),
    /// The norms between the feed-forward network and the next layer.
    FfnNorm(usize),
}

/// Returns true if the pass has the step [`Step::InputNorm`].
pub(crate) fn has_input_norm(spec: &EncoderSpec) -> bool {
    spec.embeddings.has_projection || spec.has_norm(NormId::Layer(0, LayerNormId::AttentionInput))
}

/// Steps of some layers, in order. Layer 0 includes the steps before the layers.
fn steps(spec: &EncoderSpec, layers: Range<usize>, has_rounding: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if layers.start == 0 {
        steps.push(Step::Embed);
        if spec.embeddings.has_projection {
            steps.push(Step::ProjectEmbeddings);
        }
        if has_input_norm(spec) {
            steps.push(Step::InputNorm);
        }
    }
    for layer in layers {
        steps.push(Step::Qkv(layer));
        if spec.attention.has_query_key_norm || spec.layers[layer].rope.is_some() {
            steps.push(Step::QueryKey(layer));
        }
        steps.push(Step::Attention(layer));
        if has_rounding {
            steps.push(Step::RoundContext(layer));
        }
        steps.extend([Step::AttentionOutput(layer), Step::AttentionNorm(layer), Step::FfnUp(layer)]);
        if has_rounding {
            steps.push(Step::RoundFfnHidden(layer));
        }
        steps.extend([Step::FfnDown(layer), Step::FfnNorm(layer)]);
    }
    steps
}

/// Task `index` of the `count` tasks of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) step: Step,
    pub(crate) index: usize,
    pub(crate) count: usize,
    /// Number of tasks that must be done before this one may start: all tasks of the steps before.
    pub(crate) ready_after: usize,
}

impl Task {
    /// This task's range of `len` items. The ranges of a step's tasks are disjoint, in order, and cover all items.
    pub(crate) fn range_of(&self, len: usize) -> Range<usize> {
        len * self.index / self.count..len * (self.index + 1) / self.count
    }
}

/// The tasks of some layers, numbered in the order in which they may start.
#[derive(Debug, Clone)]
pub(crate) struct TaskPlan {
    steps: Vec<Step>,
    /// Number of the first task of each step; then the number of all tasks.
    starts: Vec<usize>,
}

impl TaskPlan {
    /// Plans these layers for a batch of `rows` tokens on `threads` threads. With `has_rounding`, the inputs of
    /// products are rounded in steps of their own where no norm comes before.
    pub(crate) fn new(
        spec: &EncoderSpec,
        rows: usize,
        layers: Range<usize>,
        threads: usize,
        has_rounding: bool,
    ) -> Self {
        let count = |step: &Step| {
            let max = if threads > 1 { threads * TASKS_PER_THREAD } else { 1 };
            match step {
                Step::Embed
                | Step::InputNorm
                | Step::QueryKey(_)
                | Step::RoundContext(_)
                | Step::RoundFfnHidden(_)
                | Step::AttentionNorm(_)
                | Step::FfnNorm(_) => rows.div_ceil(MIN_ROWS_PER_TASK).clamp(1, threads.max(1)),
                Step::Attention(_) => max.min(spec.attention.heads),
                Step::ProjectEmbeddings
                | Step::Qkv(_)
                | Step::AttentionOutput(_)
                | Step::FfnUp(_)
                | Step::FfnDown(_) => max,
            }
        };
        let steps = steps(spec, layers, has_rounding);
        let mut starts = vec![0];
        let mut next = 0;
        for step in &steps {
            next += count(step);
            starts.push(next);
        }
        Self { steps, starts }
    }

    pub(crate) fn tasks(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Returns the task with this number, or `None` after the last.
    pub(crate) fn task(&self, number: usize) -> Option<Task> {
        if number >= self.tasks() {
            return None;
        }
        let step = self.starts.partition_point(|&start| start <= number) - 1;
        let (start, end) = (self.starts[step], self.starts[step + 1]);
        let (index, count) = (number - start, end - start);
        Some(Task { step: self.steps[step], index, count, ready_after: start })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{bert, gemma};

    fn spec(heads: usize, layers: usize) -> EncoderSpec {
        bert(|shape| {
            (shape.heads, shape.hidden, shape.layers) = (heads, heads * 8, layers);
        })
    }

    #[test]
    fn one_thread_runs_one_task_a_step_in_order() {
        let steps = |spec: &EncoderSpec, layers| -> Vec<_> {
            let plan = TaskPlan::new(spec, 100, layers, 1, false);
            (0..).map_while(|number| plan.task(number)).map(|task| task.step).collect()
        };
        let spec = spec(4, 3);
        let layer = |number| {
            [
                Step::Qkv,
                Step::Attention,
                Step::AttentionOutput,
                Step::AttentionNorm,
                Step::FfnUp,
                Step::FfnDown,
                Step::FfnNorm,
            ]
            .map(|step| step(number))
        };
        assert_eq!(steps(&spec, 0..1), [&[Step::Embed][..], &layer(0)].concat());
        assert_eq!(steps(&spec, 1..3), [layer(1), layer(2)].concat());
        let first = [Step::Embed, Step::InputNorm, Step::Qkv(0), Step::QueryKey(0), Step::Attention(0)];
        assert_eq!(steps(&gemma(), 0..1)[..5], first);

        let rounded = TaskPlan::new(&spec, 100, 2..3, 1, true);
        let rounded: Vec<_> = (0..).map_while(|number| rounded.task(number)).map(|task| task.step).collect();
        let mut expected = layer(2).to_vec();
        expected.insert(2, Step::RoundContext(2));
        expected.insert(6, Step::RoundFfnHidden(2));
        assert_eq!(rounded, expected);
    }

    proptest! {
        #[test]
        fn tasks_cover_every_step_once_and_in_order(
            heads in 1usize..20, start in 0usize..3, layers in 1usize..5, rows in 1usize..700, threads in 1usize..70,
            len in 1usize..3000, has_rounding: bool,
        ) {
            let end = start + layers;
            let spec = spec(heads, end);
            let plan = TaskPlan::new(&spec, rows, start..end, threads, has_rounding);
            let tasks: Vec<_> = (0..plan.tasks()).map(|number| plan.task(number).unwrap()).collect();
            prop_assert!(plan.task(plan.tasks()).is_none());
            let mut number = 0;
            for step in steps(&spec, start..end, has_rounding) {
                let ready_after = number;
                let mut covered = 0;
                for index in 0..tasks[number].count {
                    let task = tasks[number];
                    prop_assert_eq!((task.step, task.index, task.ready_after), (step, index, ready_after));
                    let range = task.range_of(len);
                    prop_assert_eq!(range.start, covered);
                    covered = range.end;
                    number += 1;
                }
                prop_assert_eq!(covered, len);
            }
            prop_assert_eq!(number, tasks.len());
        }
    }
}
