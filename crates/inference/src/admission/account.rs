//! Tokens held by jobs, with a quota for each caller.

use std::collections::HashMap;

use super::CallerId;

/// The reserve is one part in this many of an account. Only callers that hold at most half of the reserve may use it.
const RESERVED_FRACTION: usize = 4;

/// Tokens held by jobs, in total and by caller.
#[derive(Debug, Default)]
pub(super) struct TokenAccount {
    tokens: usize,
    /// Tokens of callers that hold any. Jobs without a caller have no quota, so their tokens are not listed.
    tokens_by_caller: HashMap<CallerId, usize>,
}

impl TokenAccount {
    /// Tokens held by all jobs.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Returns true if `caller` may hold `tokens` more in an account of `limit` tokens.
    pub(super) fn has_room(&self, caller: Option<CallerId>, tokens: usize, limit: usize) -> bool {
        let reserve = limit / RESERVED_FRACTION;
        let may_use_reserve = caller.is_none_or(|caller| {
            let held = self.tokens_by_caller.get(&caller).copied().unwrap_or(0);
            held + tokens <= reserve / 2
        });
        let limit = if may_use_reserve { limit } else { limit - reserve };
        // A job may always fill an account that is otherwise empty.
        tokens == 0 || self.tokens == 0 || self.tokens.saturating_add(tokens) <= limit
    }

    pub(super) fn add(&mut self, caller: Option<CallerId>, tokens: usize) {
        self.tokens += tokens;
        if let Some(caller) = caller
            && tokens > 0
        {
            *self.tokens_by_caller.entry(caller).or_default() += tokens;
        }
    }

    pub(super) fn remove(&mut self, caller: Option<CallerId>, tokens: usize) {
        self.tokens -= tokens;
        if let Some(caller) = caller
            && let Some(held) = self.tokens_by_caller.get_mut(&caller)
        {
            *held -= tokens;
            if *held == 0 {
                self.tokens_by_caller.remove(&caller);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn callers(&self) -> usize {
        self.tokens_by_caller.len()
    }
}
