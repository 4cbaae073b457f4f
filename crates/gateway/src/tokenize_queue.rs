//! The queue of large requests to `/tokenize`. They use a thread outside the engine, so their number is limited here.

use std::time::{Duration, Instant};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout_at,
};

use crate::error::{ApiError, Code};

/// Maximum number of large requests that wait.
const MAX_WAITING: usize = 16;

/// `retry-after` when too many large requests wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The large requests, which run one at a time.
pub(crate) struct TokenizeQueue {
    places: Semaphore,
    turn: Semaphore,
}

impl Default for TokenizeQueue {
    fn default() -> Self {
        Self { places: Semaphore::new(MAX_WAITING + 1), turn: Semaphore::new(1) }
    }
}

impl TokenizeQueue {
    /// Waits for the turn of a large request, which lasts until the returned permits are dropped.
    ///
    /// # Errors
    /// 503 if too many others wait, or the turn does not come before `deadline`.
    pub(crate) async fn turn(
        &self,
        deadline: Instant,
    ) -> Result<(SemaphorePermit<'_>, SemaphorePermit<'_>), ApiError> {
        let full = |_| ApiError::unavailable(Code::QueueFull, RETRY_AFTER);
        let late = |_| ApiError::unavailable(Code::Deadline, RETRY_AFTER);
        let place = self.places.try_acquire().map_err(full)?;
        let turn = timeout_at(deadline.into(), self.turn.acquire()).await.map_err(late)?;
        Ok((place, turn.map_err(ApiError::internal)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn one_request_runs_and_a_limited_number_waits() {
        let queue = TokenizeQueue::default();
        let soon = || Instant::now() + Duration::from_millis(1);
        let first = queue.turn(soon()).await.unwrap();
        assert_eq!(queue.turn(soon()).await.err().unwrap().code(), Code::Deadline);
        let places = queue.places.acquire_many(MAX_WAITING as u32).await.unwrap();
        assert_eq!(queue.turn(soon()).await.err().unwrap().code(), Code::QueueFull);
        drop(places);
        drop(first);
        assert!(queue.turn(soon()).await.is_ok());
    }
}
