//! Which sequences run together: a pure function, so that its promises can be tested as properties.

/// What a batch may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Tokens, counted as the encoder spends them: with padding if it pads.
    pub(crate) tokens: usize,
    /// Sequences.
    pub(crate) inputs: usize,
    /// Whether every sequence costs as much as the longest.
    pub(crate) pads: bool,
}

/// A batch is not cut below so many tokens in order to share work out: smaller ones use a core badly.
pub(crate) const LEAST_SHARE: usize = 32;
/// How many times what fits a padded batch the planner chooses from.
const LOOKAHEAD: usize = 8;

impl Budget {
    /// This budget where `waiting` tokens are to be shared by `workers` that are free: none of them takes so much
    /// that another one finds nothing. For an encoder that pads it stays as it is; its batches are too dear to cut.
    pub(crate) fn share(self, waiting: usize, workers: usize) -> Self {
        if self.pads {
            return self;
        }
        let share = waiting.div_ceil(workers.max(1)).max(LEAST_SHARE);
        Self { tokens: share.min(self.tokens), ..self }
    }

    /// Whether `count` candidates with `sum` tokens in all, of which the first has `anchor`, are choice enough for
    /// [`plan`].
    pub(crate) fn has_choice(self, count: usize, sum: usize, anchor: usize) -> bool {
        if self.pads {
            let fitting = (self.tokens / anchor.max(1)).clamp(1, self.inputs);
            count >= LOOKAHEAD.saturating_mul(fitting)
        } else {
            // Whatever comes next fits, so a second helping makes up for those that do not.
            sum >= self.tokens.saturating_mul(2) || count >= self.inputs.saturating_mul(2)
        }
    }
}

/// A shorter sequence joins a padded batch if at least half of its padded length is its own …
const LEAST_FILL: usize = 2;
/// … or if no more than this many tokens are padding: a run of its own would cost more.
const SMALL_PADDING: usize = 16;

/// Chooses from `lengths` (tokens of the candidates, in the order of their turns) what to run next, and
/// returns indices into it, ascending.
///
/// * The first candidate is always chosen, even alone over the budget, so nobody starves.
/// * Otherwise the budget is never exceeded.
/// * For an encoder that pads, sequences of like length are put together; one that would be mostly padding
///   is left for a later batch.
pub(crate) fn plan(lengths: &[usize], budget: Budget) -> Vec<usize> {
    let Some(&anchor) = lengths.first() else { return Vec::new() };
    let mut order: Vec<usize> = (1..lengths.len()).collect();
    if budget.pads {
        // Stable: among equals the earlier turn wins.
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
        let tokens = if budget.pads { high * (chosen.len() + 1) } else { sum + length };
        let alike = !budget.pads || low * LEAST_FILL >= high || high - low <= SMALL_PADDING;
        if tokens <= budget.tokens && alike {
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

    fn budget(tokens: usize, pads: bool) -> Budget {
        Budget { tokens, inputs: 32, pads }
    }

    #[test]
    fn padded_batches_hold_texts_of_like_length() {
        assert_eq!(plan(&[10, 200, 12, 190, 11], budget(256, true)), [0, 2, 4]);
        assert_eq!(plan(&[200, 10, 12, 190, 11], budget(512, true)), [0, 3]);
        // A few tokens of padding cost less than a run of their own.
        assert_eq!(plan(&[18, 3], budget(256, true)), [0, 1]);
    }

    #[test]
    fn ragged_batches_take_turns_in_order() {
        assert_eq!(plan(&[100, 100, 3, 200, 1], budget(204, false)), [0, 1, 2, 4]);
    }

    #[test]
    fn the_first_runs_even_over_the_budget() {
        assert_eq!(plan(&[300, 1], budget(256, true)), [0]);
        assert!(plan(&[], budget(256, true)).is_empty());
    }

    #[test]
    fn the_last_block_is_shared_out() {
        let share = |waiting, workers| budget(256, false).share(waiting, workers).tokens;
        assert_eq!([share(4096, 4), share(400, 4), share(100, 4), share(20, 4)], [256, 100, 32, 32]);
        assert_eq!(budget(16, false).share(400, 4).tokens, 16, "never more than the budget");
        assert_eq!(budget(256, true).share(100, 4).tokens, 256);
    }

    proptest! {
        /// However many are free, each finds a share: what all but one take leaves something for the last, unless
        /// there is too little for so many.
        #[test]
        fn shares_leave_no_worker_without(
            lengths in prop::collection::vec(1usize..40, 1..300),
            workers in 1usize..32,
            tokens in 1usize..1024,
        ) {
            let whole = Budget { tokens, inputs: usize::MAX, pads: false };
            let mut left = lengths;
            let enough = left.iter().sum::<usize>() >= workers * (LEAST_SHARE + 40);
            for free in (1..=workers).rev() {
                prop_assert!(!enough || !left.is_empty());
                let share = whole.share(left.iter().sum(), free);
                prop_assert!(share.tokens <= tokens);
                for index in plan(&left, share).into_iter().rev() {
                    left.remove(index);
                }
            }
        }

        #[test]
        fn never_over_budget_never_empty_never_twice(
            lengths in prop::collection::vec(1usize..600, 1..200),
            tokens in 1usize..4096,
            inputs in 1usize..64,
            pads: bool,
        ) {
            let chosen = plan(&lengths, Budget { tokens, inputs, pads });
            prop_assert_eq!(chosen[0], 0);
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(chosen.len() <= inputs);
            let longest = chosen.iter().map(|&index| lengths[index]).max().unwrap();
            let cost = if pads {
                longest * chosen.len()
            } else {
                chosen.iter().map(|&index| lengths[index]).sum()
            };
            prop_assert!(cost <= tokens || chosen.len() == 1);
        }

        #[test]
        fn repeated_planning_empties_the_queue(
            mut lengths in prop::collection::vec(1usize..600, 1..100),
            pads: bool,
        ) {
            let budget = Budget { tokens: 512, inputs: 8, pads };
            let mut rounds = 0;
            while !lengths.is_empty() {
                for index in plan(&lengths, budget).into_iter().rev() {
                    lengths.remove(index);
                }
                rounds += 1;
                prop_assert!(rounds <= 100);
            }
        }
    }
}
