//! A budget of bytes that many reservations share, with two gauges.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::metrics::{BufferMetrics, gauge};

/// A budget of bytes. Clones share it.
#[derive(Clone)]
pub(crate) struct ByteBudget(Arc<BudgetState>);

struct BudgetState {
    limit: usize,
    reserved: AtomicUsize,
    metrics: BufferMetrics,
}

/// Reserved bytes of a [`ByteBudget`]. Dropping the reservation releases them.
pub(crate) struct ReservedBytes {
    budget: ByteBudget,
    bytes: usize,
}

impl ByteBudget {
    /// Creates a budget of `limit` bytes.
    pub(crate) fn new(limit: usize, metrics: BufferMetrics) -> Self {
        metrics.limit.set(gauge(limit));
        Self(Arc::new(BudgetState { limit, reserved: AtomicUsize::new(0), metrics }))
    }

    /// Capacity in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.0.limit
    }

    /// A reservation of 0 bytes, which can grow.
    pub(crate) fn empty_reservation(&self) -> ReservedBytes {
        ReservedBytes { budget: self.clone(), bytes: 0 }
    }

    /// Reserves `bytes`, or returns `None` if fewer are free.
    pub(crate) fn try_reserve(&self, bytes: usize) -> Option<ReservedBytes> {
        let mut reservation = self.empty_reservation();
        reservation.grow_to(bytes).then_some(reservation)
    }
}

impl ReservedBytes {
    /// Grows to `bytes` bytes. Returns false, and changes nothing, if too few are free.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let BudgetState { limit, reserved, metrics } = &*self.budget.0;
        let missing = bytes.saturating_sub(self.bytes);
        let take = |held: usize| held.checked_add(missing).filter(|held| held <= limit);
        let taken = reserved.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok();
        if taken {
            metrics.bytes.add(gauge(missing));
            self.bytes += missing;
        }
        taken
    }
}

impl Drop for ReservedBytes {
    fn drop(&mut self) {
        self.budget.0.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.0.metrics.bytes.sub(gauge(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn reservations_share_the_limit_and_release_their_bytes() {
        let budget = ByteBudget::new(10, Metrics::new([]).responses());
        let (first, second) = (budget.try_reserve(6).unwrap(), budget.try_reserve(4).unwrap());
        assert!(budget.try_reserve(1).is_none() && budget.try_reserve(usize::MAX).is_none());
        assert_eq!(budget.0.metrics.bytes.get(), 10);
        drop(first);
        assert!(budget.try_reserve(7).is_none());
        let third = budget.try_reserve(6).unwrap();
        drop((second, third));
        assert_eq!((budget.0.metrics.bytes.get(), budget.0.metrics.limit.get()), (0, 10));
        let mut growing = budget.empty_reservation();
        assert!(growing.grow_to(4) && growing.grow_to(9) && growing.grow_to(3) && !growing.grow_to(11));
        assert_eq!(budget.0.metrics.bytes.get(), 9);
    }
}
