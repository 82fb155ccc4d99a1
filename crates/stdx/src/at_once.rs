//! How many of something may be under way at once, as far as there is a bound.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound that may come, change and go at any time; without one nothing is counted.
#[derive(Debug, Default)]
pub struct AtOnce(Mutex<Option<Bound>>);

#[derive(Debug)]
struct Bound {
    max: usize,
    places: Arc<Semaphore>,
}

/// A place among those under way, until it is dropped; `None` inside where there is no bound.
#[derive(Debug)]
pub struct Place(#[allow(dead_code, reason = "held")] Option<OwnedSemaphorePermit>);

impl Place {
    /// One that is not counted.
    pub fn beside() -> Place {
        Place(None)
    }
}

impl AtOnce {
    /// From now on at most `max` may be under way, at least one. What is under way goes on and is not counted
    /// after a change.
    pub fn set(&self, max: Option<usize>) {
        let mut bound = self.0.lock();
        if bound.as_ref().map(|bound| bound.max) == max {
            return;
        }
        let places = |max: usize| Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)));
        let before = std::mem::replace(&mut *bound, max.map(|max| Bound { max, places: places(max) }));
        // Whoever waits looks again.
        before.iter().for_each(|before| before.places.close());
    }

    /// The bound in force.
    pub fn max(&self) -> Option<usize> {
        self.0.lock().as_ref().map(|bound| bound.max)
    }

    /// A place, as soon as there is one; in the order of asking.
    pub async fn place(&self) -> Place {
        loop {
            let places = self.0.lock().as_ref().map(|bound| Arc::clone(&bound.places));
            let Some(places) = places else { return Place(None) };
            if let Ok(permit) = places.acquire_owned().await {
                return Place(Some(permit));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Whether there is a place now.
    fn place(at_once: &AtOnce) -> Option<Place> {
        let mut place = std::pin::pin!(at_once.place());
        match place.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    #[test]
    fn there_are_as_many_places_as_the_bound_says() {
        let at_once = AtOnce::default();
        let check = |max: Option<usize>, wanted: usize, given: usize| {
            at_once.set(max);
            let held: Vec<Place> = (0..wanted).map_while(|_| place(&at_once)).collect();
            assert_eq!(held.len(), given, "{max:?}");
            assert_eq!(at_once.max(), max);
            // What is dropped makes room.
            drop(held);
            assert!(place(&at_once).is_some());
        };
        check(None, 9, 9);
        check(Some(3), 9, 3);
        check(Some(1), 9, 1);
        check(Some(1), 9, 1);
        check(Some(usize::MAX), 9, 9);
        check(None, 9, 9);
    }

    #[test]
    fn who_waits_goes_by_a_new_bound() {
        let at_once = AtOnce::default();
        at_once.set(Some(1));
        let first = place(&at_once).expect("a place");
        let mut second = std::pin::pin!(at_once.place());
        let mut context = Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut context).is_pending());
        at_once.set(Some(2));
        assert!(second.as_mut().poll(&mut context).is_ready());
        drop(first);
    }
}
