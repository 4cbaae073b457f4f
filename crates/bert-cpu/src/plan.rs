//! The steps of some layers and the tasks that each is cut into: pure, so that its promises can be tested.
//!
//! Steps follow each other; the tasks of one step are independent. On one thread there is one task a step. On several,
//! there are more tasks than threads, so that one that was interrupted holds the others up for less.

use std::ops::Range;

use crate::BertConfig;

/// Tasks of a step for each thread, where there are several threads.
const TASKS_PER_THREAD: usize = 4;
/// Fewest rows that are worth a task of their own where rows are cheap (norms, embeddings).
const ROWS_PER_TASK: usize = 8;

/// A step of the pass. The number is the layer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Word and position, normalised.
    Embed,
    /// Queries, keys and values of all heads.
    Mix(usize),
    /// Attention, head by head.
    Attend(usize),
    /// Attention's output projected and added to the state.
    Project(usize),
    /// The norm after it.
    NormAttention(usize),
    /// Into the feed-forward part, activation included.
    Up(usize),
    /// Out of it, added to the state.
    Down(usize),
    /// The norm after it.
    NormOutput(usize),
}

/// Steps of each layer.
const LAYER: [fn(usize) -> Step; 7] =
    [Step::Mix, Step::Attend, Step::Project, Step::NormAttention, Step::Up, Step::Down, Step::NormOutput];

/// One task: which step, and which of how many parts of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) step: Step,
    pub(crate) part: usize,
    pub(crate) parts: usize,
    /// Number of tasks that must be done before this one may start: those of all steps before.
    pub(crate) after: usize,
}

impl Task {
    /// This task's share of `count` things; the parts' shares are disjoint, in order, and cover all.
    pub(crate) fn share(&self, count: usize) -> Range<usize> {
        count * self.part / self.parts..count * (self.part + 1) / self.parts
    }
}

/// The tasks of some layers.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The first step.
    first: usize,
    /// For each step, its first task's number; then the number of all tasks.
    starts: Vec<usize>,
}

impl Plan {
    /// These layers for a block of `rows` tokens on `threads` threads; the embeddings come with the first layer.
    pub(crate) fn new(config: &BertConfig, rows: usize, layers: Range<usize>, threads: usize) -> Self {
        let parts = |step: Step| {
            let most = if threads > 1 { threads * TASKS_PER_THREAD } else { 1 };
            match step {
                Step::Embed | Step::NormAttention(_) | Step::NormOutput(_) => {
                    rows.div_ceil(ROWS_PER_TASK).clamp(1, threads.max(1))
                }
                Step::Attend(_) => most.min(config.heads),
                Step::Mix(_) | Step::Project(_) | Step::Up(_) | Step::Down(_) => most,
            }
        };
        let first = if layers.start == 0 { 0 } else { 1 + layers.start * LAYER.len() };
        let mut starts = vec![0];
        let mut next = 0;
        for step in first..1 + layers.end * LAYER.len() {
            next += parts(Self::step(step));
            starts.push(next);
        }
        Self { first, starts }
    }

    fn step(index: usize) -> Step {
        match index.checked_sub(1) {
            None => Step::Embed,
            Some(index) => LAYER[index % LAYER.len()](index / LAYER.len()),
        }
    }

    /// Number of tasks.
    pub(crate) fn tasks(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Task number `number`; `None` when there are fewer.
    pub(crate) fn task(&self, number: usize) -> Option<Task> {
        if number >= self.tasks() {
            return None;
        }
        let step = self.starts.partition_point(|&start| start <= number) - 1;
        let (start, end) = (self.starts[step], self.starts[step + 1]);
        let (step, part, parts) = (Self::step(self.first + step), number - start, end - start);
        Some(Task { step, part, parts, after: start })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Activation, Positions};

    fn config(heads: usize, layers: usize) -> BertConfig {
        BertConfig {
            hidden: heads * 8,
            heads,
            layers,
            intermediate: 64,
            vocabulary: 10,
            position_rows: 64,
            positions: Positions::FromZero,
            activation: Activation::Relu,
            epsilon: 1e-5,
        }
    }

    #[test]
    fn one_thread_has_one_task_a_step_in_order() {
        let steps = |layers| -> Vec<_> {
            let plan = Plan::new(&config(4, 3), 100, layers, 1);
            (0..).map_while(|number| plan.task(number)).map(|task| task.step).collect()
        };
        let layer = |number| LAYER.iter().map(move |step| step(number));
        assert_eq!(steps(0..1), std::iter::once(Step::Embed).chain(layer(0)).collect::<Vec<_>>());
        assert_eq!(steps(1..3), layer(1).chain(layer(2)).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn every_part_of_every_step_once(
            heads in 1usize..20, start in 0usize..3, layers in 1usize..5, rows in 1usize..700, threads in 1usize..70,
            count in 1usize..3000,
        ) {
            let end = start + layers;
            let plan = Plan::new(&config(heads, end), rows, start..end, threads);
            let tasks: Vec<_> = (0..plan.tasks()).map(|number| plan.task(number).unwrap()).collect();
            prop_assert!(plan.task(plan.tasks()).is_none());
            let mut number = 0;
            let first = if start == 0 { 0 } else { 1 + start * LAYER.len() };
            for step in first..1 + end * LAYER.len() {
                let after = number;
                let parts = tasks[number].parts;
                let mut covered = 0;
                for part in 0..parts {
                    let task = tasks[number];
                    prop_assert_eq!((task.step, task.part, task.after), (Plan::step(step), part, after));
                    let share = task.share(count);
                    prop_assert_eq!(share.start, covered);
                    covered = share.end;
                    number += 1;
                }
                prop_assert_eq!(covered, count);
            }
            prop_assert_eq!(number, tasks.len());
        }
    }
}
