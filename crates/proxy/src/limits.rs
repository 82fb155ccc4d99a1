//! How much one caller may have under way.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Callers that are remembered; beyond it those with nothing under way are forgotten.
const CALLERS_MAX: usize = 4096;

/// Places for each caller.
#[derive(Debug)]
pub(crate) struct Places {
    each: usize,
    callers: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

impl Places {
    pub(crate) fn new(each: usize) -> Places {
        Places { each: each.clamp(1, Semaphore::MAX_PERMITS), callers: Mutex::default() }
    }

    /// A place for `caller`, held until it is dropped; `None` when none is free by `deadline`.
    pub(crate) async fn take(&self, caller: &Arc<str>, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let places = self.of(caller);
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => timeout_at(deadline, places.acquire_owned()).await.ok()?.ok(),
        }
    }

    /// How many each has.
    pub(crate) fn each(&self) -> usize {
        self.each
    }

    fn of(&self, caller: &Arc<str>) -> Arc<Semaphore> {
        let mut callers = self.callers.lock();
        if let Some(places) = callers.get(caller) {
            return Arc::clone(places);
        }
        if callers.len() >= CALLERS_MAX {
            callers.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let places = Arc::new(Semaphore::new(self.each));
        callers.insert(Arc::clone(caller), Arc::clone(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_caller_does_not_take_the_places_of_another() {
        let places = Places::new(2);
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        let soon = || Instant::now() + Duration::from_secs(1);
        let first = places.take(&ann, soon()).await;
        let second = places.take(&ann, soon()).await;
        assert!(first.is_some() && second.is_some());
        assert!(places.take(&ann, soon()).await.is_none());
        assert!(places.take(&bob, soon()).await.is_some());
        drop(first);
        assert!(places.take(&ann, soon()).await.is_some());
    }

    #[tokio::test]
    async fn idle_callers_are_forgotten_and_busy_ones_are_not() {
        let places = Places::new(1);
        let busy: Arc<str> = "busy".into();
        let held = places.take(&busy, Instant::now()).await;
        for number in 0..2 * CALLERS_MAX {
            assert!(places.take(&number.to_string().into(), Instant::now()).await.is_some());
        }
        assert!(places.callers.lock().len() <= CALLERS_MAX + 1);
        assert!(held.is_some() && places.take(&busy, Instant::now()).await.is_none());
    }
}
