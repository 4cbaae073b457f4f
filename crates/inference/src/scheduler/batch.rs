//! The batch planner: which sequences run together. It is a pure function, so property tests cover its guarantees.

/// Limits of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchBudget {
    /// Maximum number of tokens, padding included.
    pub(crate) tokens: usize,
    /// Maximum number of sequences.
    pub(crate) inputs: usize,
    /// The encoder pads every sequence to the longest.
    pub(crate) needs_padding: bool,
}

/// Minimum number of tokens of a batch that is split between idle workers. Smaller batches do not use a core well.
pub(super) const MIN_BATCH_TOKENS: usize = 32;
/// The planner chooses a padded batch from this many times as many candidates as fit.
const CANDIDATE_FACTOR: usize = 8;

impl BatchBudget {
    /// Splits `waiting` tokens between `workers` idle workers, so that each of them gets a batch. The batches of an
    /// encoder that pads are not split, since their fixed cost is too high.
    pub(super) fn split_for(self, waiting: usize, workers: usize) -> Self {
        if self.needs_padding {
            return self;
        }
        let share = waiting.div_ceil(workers.max(1)).max(MIN_BATCH_TOKENS);
        Self { tokens: share.min(self.tokens), ..self }
    }

    /// Returns true if [`plan`] can fill a batch from `count` candidates with `tokens` tokens, `anchor` of them in
    /// the first.
    pub(super) fn has_enough_candidates(self, count: usize, tokens: usize, anchor: usize) -> bool {
        if self.needs_padding {
            let fitting = (self.tokens / anchor.max(1)).clamp(1, self.inputs);
            count >= CANDIDATE_FACTOR.saturating_mul(fitting)
        } else {
            // Any order fills a ragged batch, so twice the budget makes up for candidates that do not fit.
            tokens >= self.tokens.saturating_mul(2) || count >= self.inputs.saturating_mul(2)
        }
    }
}

/// A sequence joins a padded batch if its padded length is at most this many times its own length …
const MAX_PADDING_RATIO: usize = 2;
/// … or if at most this many tokens are padding, which costs less than a batch of its own.
const SMALL_PADDING: usize = 16;

/// Chooses a batch from candidates with these token counts, in scheduling order. Returns their indices, ascending.
///
/// * The first candidate is always chosen, even if it exceeds the budget alone, so no job starves.
/// * Otherwise the budget is never exceeded.
/// * For an encoder that pads, sequences of similar length are grouped. A sequence that would be mostly padding is left
///   for a later batch.
pub(super) fn plan(lengths: &[usize], budget: BatchBudget) -> Vec<usize> {
    let Some(&anchor) = lengths.first() else { return Vec::new() };
    let mut order: Vec<usize> = (1..lengths.len()).collect();
    if budget.needs_padding {
        // The sort is stable: of equal lengths the earlier candidate comes first.
        order.sort_by_key(|&index| lengths[index].abs_diff(anchor));
    }
    let mut chosen = vec![0];
    let (mut shortest, mut longest, mut sum) = (anchor, anchor, anchor);
    for index in order {
        if chosen.len() >= budget.inputs {
            break;
        }
        let length = lengths[index];
        let (low, high) = (shortest.min(length), longest.max(length));
        let tokens = if budget.needs_padding { high * (chosen.len() + 1) } else { sum + length };
        let is_similar =
            !budget.needs_padding || low * MAX_PADDING_RATIO >= high || high - low <= SMALL_PADDING;
        if tokens <= budget.tokens && is_similar {
            chosen.push(index);
            (shortest, longest, sum) = (low, high, sum + length);
        }
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget(tokens: usize, needs_padding: bool) -> BatchBudget {
        BatchBudget { tokens, inputs: 32, needs_padding }
    }

    #[test]
    fn padded_batches_group_similar_lengths() {
        assert_eq!(plan(&[10, 200, 12, 190, 11], budget(256, true)), [0, 2, 4]);
        assert_eq!(plan(&[200, 10, 12, 190, 11], budget(512, true)), [0, 3]);
        // A few tokens of padding cost less than a batch of their own.
        assert_eq!(plan(&[18, 3], budget(256, true)), [0, 1]);
    }

    #[test]
    fn ragged_batches_take_candidates_in_order() {
        assert_eq!(plan(&[100, 100, 3, 200, 1], budget(204, false)), [0, 1, 2, 4]);
    }

    #[test]
    fn the_first_candidate_runs_even_over_the_budget() {
        assert_eq!(plan(&[300, 1], budget(256, true)), [0]);
        assert!(plan(&[], budget(256, true)).is_empty());
    }

    #[test]
    fn the_last_tokens_are_split_between_idle_workers() {
        let split = |waiting, workers| budget(256, false).split_for(waiting, workers).tokens;
        assert_eq!([split(4096, 4), split(400, 4), split(100, 4), split(20, 4)], [256, 100, 32, 32]);
        assert_eq!(budget(16, false).split_for(400, 4).tokens, 16, "at most the budget");
        assert_eq!(budget(256, true).split_for(100, 4).tokens, 256);
    }

    proptest! {
        /// Each idle worker gets a batch, for any number of workers, unless there are too few tokens for all.
        #[test]
        fn splitting_leaves_a_batch_for_each_idle_worker(
            lengths in prop::collection::vec(1usize..40, 1..300),
            workers in 1usize..32,
            tokens in 1usize..1024,
        ) {
            let budget = BatchBudget { tokens, inputs: usize::MAX, needs_padding: false };
            let mut left = lengths;
            let enough = left.iter().sum::<usize>() >= workers * (MIN_BATCH_TOKENS + 40);
            for idle in (1..=workers).rev() {
                prop_assert!(!enough || !left.is_empty());
                let share = budget.split_for(left.iter().sum(), idle);
                prop_assert!(share.tokens <= tokens);
                for index in plan(&left, share).into_iter().rev() {
                    left.remove(index);
                }
            }
        }

        #[test]
        fn a_batch_is_within_its_budget_not_empty_and_without_repetitions(
            lengths in prop::collection::vec(1usize..600, 1..200),
            tokens in 1usize..4096,
            inputs in 1usize..64,
            needs_padding: bool,
        ) {
            let chosen = plan(&lengths, BatchBudget { tokens, inputs, needs_padding });
            prop_assert_eq!(chosen[0], 0);
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(chosen.len() <= inputs);
            let longest = chosen.iter().map(|&index| lengths[index]).max().unwrap();
            let cost = if needs_padding {
                longest * chosen.len()
            } else {
                chosen.iter().map(|&index| lengths[index]).sum()
            };
            prop_assert!(cost <= tokens || chosen.len() == 1);
        }

        #[test]
        fn repeated_planning_empties_the_queue(
            mut lengths in prop::collection::vec(1usize..600, 1..100),
            needs_padding: bool,
        ) {
            let budget = BatchBudget { tokens: 512, inputs: 8, needs_padding };
            let mut batches = 0;
            while !lengths.is_empty() {
                for index in plan(&lengths, budget).into_iter().rev() {
                    lengths.remove(index);
                }
                batches += 1;
                prop_assert!(batches <= 100);
            }
        }
    }
}
