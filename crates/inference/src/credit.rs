//! Credit for tokenizing jobs that the queue may refuse: an account for each caller, so that the refusals of one caller
//! take no credit from the others.
//!
//! Each caller starts with the full credit. A refusal after tokenizing spends it, and computed tokens pay it back, in
//! equal parts to all callers that have spent some. So the tokens that pay are the same however many callers there are.

use std::collections::HashMap;

use crate::CallerId;

/// Tokens that have to be computed for each token of footprint that is tokenized and then refused. A footprint of one
/// token is tokenized in the time of one token on the fastest encoder, so at most an eighth of the work is wasted.
pub(crate) const CREDIT_PER_FOOTPRINT: usize = 8;

/// The credit of all callers of one engine.
#[derive(Debug)]
pub(crate) struct Credits {
    /// Maximum credit of a caller.
    limit: usize,
    /// Credit that each caller has spent and not got back, at most `limit`. Callers with the full credit have no entry.
    spent: HashMap<Option<CallerId>, usize>,
    /// Computed tokens that are not paid out yet.
    earned: usize,
}

impl Credits {
    /// For each caller enough to tokenize a full account of `tokens` and refuse it. More credit would only prolong the
    /// wasted work under overload.
    pub(crate) fn new(tokens: usize) -> Self {
        Self { limit: cost(tokens), spent: HashMap::new(), earned: 0 }
    }

    /// Returns true if the refusal of a job with this footprint would not exceed the credit of `caller`.
    pub(crate) fn covers(&self, caller: Option<CallerId>, footprint: usize) -> bool {
        let spent = self.spent.get(&caller).copied().unwrap_or(0);
        cost(footprint) <= self.limit - spent
    }

    /// Takes the cost of a refused job from the credit of `caller`, or what is left of it.
    pub(crate) fn spend(&mut self, caller: Option<CallerId>, footprint: usize) {
        let spent = self.spent.entry(caller).or_default();
        *spent = spent.saturating_add(cost(footprint)).min(self.limit);
    }

    /// Pays `tokens` that were computed to the callers that have spent credit.
    pub(crate) fn earn(&mut self, tokens: usize) {
        self.earned += tokens;
        let part = self.earned / self.spent.len().max(1);
        self.spent.retain(|_, spent| {
            let paid = part.min(*spent);
            self.earned -= paid;
            *spent -= paid;
            *spent > 0
        });
        if self.spent.is_empty() {
            self.earned = 0;
        }
    }
}

/// Credit that the refusal of a job with this footprint spends.
fn cost(footprint: usize) -> usize {
    footprint.saturating_mul(CREDIT_PER_FOOTPRINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u64) -> Option<CallerId> {
        Some(CallerId(number))
    }

    /// Footprints of one token that can be refused for `caller`, until its credit is spent.
    fn spend_all(credits: &mut Credits, caller: Option<CallerId>) -> usize {
        let mut refusals = 0;
        while credits.covers(caller, 1) {
            credits.spend(caller, 1);
            refusals += 1;
        }
        refusals
    }

    #[test]
    fn computed_tokens_pay_all_callers_together_an_eighth() {
        let mut credits = Credits::new(100);
        assert_eq!([1, 2, 3].map(|number| spend_all(&mut credits, caller(number))), [100; 3]);
        // Batches of fewer tokens than there are callers.
        for _ in 0..240 {
            credits.earn(2);
        }
        assert_eq!([1, 2, 3].map(|number| spend_all(&mut credits, caller(number))), [20; 3]);
    }

    #[test]
    fn a_caller_that_got_its_credit_back_takes_no_memory_and_no_further_part() {
        let mut credits = Credits::new(100);
        credits.spend(caller(1), 100);
        credits.spend(caller(2), 1);
        credits.earn(80);
        assert_eq!(credits.spent, HashMap::from([(caller(1), 760)]));
        // With what the other caller did not need.
        credits.earn(80);
        assert_eq!(credits.spent, HashMap::from([(caller(1), 648)]));
        credits.earn(10_000);
        assert!(credits.spent.is_empty() && credits.earned == 0);
        // The full credit does not grow.
        credits.earn(10_000);
        assert_eq!(spend_all(&mut credits, caller(1)), 100);
        credits.spend(caller(1), usize::MAX);
        assert_eq!(credits.spent, HashMap::from([(caller(1), 800)]));
    }
}
