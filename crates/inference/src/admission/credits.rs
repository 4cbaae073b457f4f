//! A budget for tokenizing jobs that the queue may reject, like the retry budgets of Finagle and Envoy: completed work
//! earns it, wasted work spends it. Each caller has its own, so rejections of one caller do not spend that of others.
//!
//! Each caller starts with the full credit. A rejection after tokenizing spends it, and computed tokens pay it back, in
//! equal parts to all callers that have spent some. So the wasted share is the same for any number of callers.

use std::collections::HashMap;

use super::CallerId;

/// Computed tokens that pay for one token of footprint that is tokenized and then rejected. Tokenizing a footprint of
/// one token takes as long as one token on the fastest encoder, so at most an eighth of the work is wasted.
pub(super) const CREDIT_PER_FOOTPRINT: usize = 8;

/// The credit of all callers of one engine.
#[derive(Debug)]
pub(super) struct Credits {
    /// Maximum credit of a caller.
    limit: usize,
    /// Credit that each caller has spent and not earned back, at most `limit`. Callers with the full credit have no
    /// entry.
    spent: HashMap<Option<CallerId>, usize>,
    /// Computed tokens that are not distributed yet.
    earned: usize,
}

impl Credits {
    /// Credit for each caller to have a full account of `tokens` tokenized and rejected. More credit would only prolong
    /// the wasted work under overload.
    pub(super) fn new(tokens: usize) -> Self {
        Self { limit: cost(tokens), spent: HashMap::new(), earned: 0 }
    }

    /// Returns true if `caller` has the credit for the rejection of a job with this footprint.
    pub(super) fn covers(&self, caller: Option<CallerId>, footprint: usize) -> bool {
        let spent = self.spent.get(&caller).copied().unwrap_or(0);
        cost(footprint) <= self.limit - spent
    }

    /// Subtracts the cost of a rejected job from the credit of `caller`, down to zero.
    pub(super) fn spend(&mut self, caller: Option<CallerId>, footprint: usize) {
        let spent = self.spent.entry(caller).or_default();
        *spent = spent.saturating_add(cost(footprint)).min(self.limit);
    }

    /// Distributes `tokens` that were computed to the callers that have spent credit.
    pub(super) fn earn(&mut self, tokens: usize) {
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

/// Credit that the rejection of a job with this footprint spends.
fn cost(footprint: usize) -> usize {
    footprint.saturating_mul(CREDIT_PER_FOOTPRINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u64) -> Option<CallerId> {
        Some(CallerId(number))
    }

    /// Spends the credit of `caller` in footprints of one token, and returns their number.
    fn spend_all(credits: &mut Credits, caller: Option<CallerId>) -> usize {
        let mut rejections = 0;
        while credits.covers(caller, 1) {
            credits.spend(caller, 1);
            rejections += 1;
        }
        rejections
    }

    #[test]
    fn computed_tokens_pay_an_eighth_to_all_callers_together() {
        let mut credits = Credits::new(100);
        assert_eq!([1, 2, 3].map(|number| spend_all(&mut credits, caller(number))), [100; 3]);
        // Batches with fewer tokens than callers.
        for _ in 0..240 {
            credits.earn(2);
        }
        assert_eq!([1, 2, 3].map(|number| spend_all(&mut credits, caller(number))), [20; 3]);
    }

    #[test]
    fn a_caller_with_the_full_credit_has_no_entry_and_gets_no_part() {
        let mut credits = Credits::new(100);
        credits.spend(caller(1), 100);
        credits.spend(caller(2), 1);
        credits.earn(80);
        assert_eq!(credits.spent, HashMap::from([(caller(1), 760)]));
        // Including the part that the other caller did not need.
        credits.earn(80);
        assert_eq!(credits.spent, HashMap::from([(caller(1), 648)]));
        credits.earn(10_000);
        assert!(credits.spent.is_empty() && credits.earned == 0);
        // The credit does not exceed its maximum.
        credits.earn(10_000);
        assert_eq!(spend_all(&mut credits, caller(1)), 100);
        credits.spend(caller(1), usize::MAX);
        assert_eq!(credits.spent, HashMap::from([(caller(1), 800)]));
    }
}
