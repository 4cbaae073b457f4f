//! The steps of a forward pass through some layers, and the tasks that each step is split into.
//!
//! Steps follow each other; the tasks of one step are independent. On one thread a step is one task. On several it is
//! more tasks than threads, so that a thread that loses its core delays the others for less.

use std::ops::Range;

use crate::BertConfig;

/// Tasks of a step for each thread, if there are several threads.
const TASKS_PER_THREAD: usize = 4;
/// Minimum rows of a task in steps that are cheap for each row (embeddings, norms).
const MIN_ROWS_PER_TASK: usize = 8;

/// A step of the pass; the number is the layer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sum of token and position embeddings, and its norm.
    Embed,
    /// Query, key and value projections of all heads.
    Qkv(usize),
    /// Scaled dot-product attention, head by head.
    Attention(usize),
    /// Output projection of attention, added to the residual stream.
    AttentionOutput(usize),
    /// The norm after attention.
    AttentionNorm(usize),
    /// First layer of the feed-forward network, and the activation.
    FfnUp(usize),
    /// Second layer of the feed-forward network, added to the residual stream.
    FfnDown(usize),
    /// The norm after the feed-forward network.
    FfnNorm(usize),
}

/// Steps of each layer.
const LAYER_STEPS: [fn(usize) -> Step; 7] = [
    Step::Qkv,
    Step::Attention,
    Step::AttentionOutput,
    Step::AttentionNorm,
    Step::FfnUp,
    Step::FfnDown,
    Step::FfnNorm,
];

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
    /// Index of the first step.
    first_step: usize,
    /// Number of the first task of each step; then the number of all tasks.
    starts: Vec<usize>,
}

impl TaskPlan {
    /// Plans these layers for a batch of `rows` tokens on `threads` threads. Layer 0 includes the embeddings.
    pub(crate) fn new(config: &BertConfig, rows: usize, layers: Range<usize>, threads: usize) -> Self {
        let count = |step: Step| {
            let max = if threads > 1 { threads * TASKS_PER_THREAD } else { 1 };
            match step {
                Step::Embed | Step::AttentionNorm(_) | Step::FfnNorm(_) => {
                    rows.div_ceil(MIN_ROWS_PER_TASK).clamp(1, threads.max(1))
                }
                Step::Attention(_) => max.min(config.heads),
                Step::Qkv(_) | Step::AttentionOutput(_) | Step::FfnUp(_) | Step::FfnDown(_) => max,
            }
        };
        let first_step = if layers.start == 0 { 0 } else { 1 + layers.start * LAYER_STEPS.len() };
        let mut starts = vec![0];
        let mut next = 0;
        for index in first_step..1 + layers.end * LAYER_STEPS.len() {
            next += count(Self::step(index));
            starts.push(next);
        }
        Self { first_step, starts }
    }

    fn step(index: usize) -> Step {
        match index.checked_sub(1) {
            None => Step::Embed,
            Some(index) => LAYER_STEPS[index % LAYER_STEPS.len()](index / LAYER_STEPS.len()),
        }
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
        Some(Task { step: Self::step(self.first_step + step), index, count, ready_after: start })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::SMALL;

    fn config(heads: usize, layers: usize) -> BertConfig {
        BertConfig { hidden: heads * 8, heads, layers, ..SMALL }
    }

    #[test]
    fn one_thread_runs_one_task_a_step_in_order() {
        let steps = |layers| -> Vec<_> {
            let plan = TaskPlan::new(&config(4, 3), 100, layers, 1);
            (0..).map_while(|number| plan.task(number)).map(|task| task.step).collect()
        };
        let layer = |number| LAYER_STEPS.iter().map(move |step| step(number));
        assert_eq!(steps(0..1), std::iter::once(Step::Embed).chain(layer(0)).collect::<Vec<_>>());
        assert_eq!(steps(1..3), layer(1).chain(layer(2)).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn tasks_cover_every_step_once_and_in_order(
            heads in 1usize..20, start in 0usize..3, layers in 1usize..5, rows in 1usize..700, threads in 1usize..70,
            len in 1usize..3000,
        ) {
            let end = start + layers;
            let plan = TaskPlan::new(&config(heads, end), rows, start..end, threads);
            let tasks: Vec<_> = (0..plan.tasks()).map(|number| plan.task(number).unwrap()).collect();
            prop_assert!(plan.task(plan.tasks()).is_none());
            let mut number = 0;
            let first = if start == 0 { 0 } else { 1 + start * LAYER_STEPS.len() };
            for step in first..1 + end * LAYER_STEPS.len() {
                let ready_after = number;
                let mut covered = 0;
                for index in 0..tasks[number].count {
                    let task = tasks[number];
                    let expected = (TaskPlan::step(step), index, ready_after);
                    prop_assert_eq!((task.step, task.index, task.ready_after), expected);
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
