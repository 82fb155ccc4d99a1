//! Who may ask on a connection now, and who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::protocol::{BULK_MAX, CONTROL_MAX, Kind, SCRAPES_MAX, SLOW_MAX};

/// Requests that wait for one connection; more are turned away.
const WAITING_MAX: usize = 4096;

/// Beside which other requests one runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Scrapes, and what people ask for.
    Scrape,
    /// The hub's own.
    Control,
    /// Large answers.
    Bulk,
}

impl Lane {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Lane::Scrape => "scrape",
            Lane::Control => "control",
            Lane::Bulk => "bulk",
        }
    }
}

/// The places on one connection.
pub(super) struct Slots {
    scrapes: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    control: Arc<Semaphore>,
    used: Arc<AtomicUsize>,
    waiting: AtomicUsize,
}

/// A place, kept until the answer's body has ended.
pub(super) struct Slot {
    permit: OwnedSemaphorePermit,
    slow: Option<Arc<Semaphore>>,
    used: Arc<AtomicUsize>,
}

impl Slots {
    pub(super) fn new(kind: Kind) -> Slots {
        let (scrapes, slow) = match kind {
            Kind::Control => (SCRAPES_MAX, SLOW_MAX),
            Kind::Bulk => (BULK_MAX, 0),
        };
        Slots {
            scrapes: Arc::new(Semaphore::new(scrapes)),
            slow: Arc::new(Semaphore::new(slow)),
            control: Arc::new(Semaphore::new(CONTROL_MAX)),
            used: Arc::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Requests that have a place.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Requests that wait for one.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits in line for a place; the number of those who wait already when they are too many.
    pub(super) async fn take(&self, lane: Lane) -> Result<Slot, usize> {
        let from = if lane == Lane::Control { &self.control } else { &self.scrapes };
        let permit = match Arc::clone(from).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let waiting = Waiting::new(&self.waiting);
                if waiting.before >= WAITING_MAX {
                    return Err(waiting.before);
                }
                Arc::clone(from).acquire_owned().await.map_err(|_closed| 0usize)?
            }
        };
        self.used.fetch_add(1, Ordering::Relaxed);
        let slow = (lane == Lane::Scrape).then(|| Arc::clone(&self.slow));
        Ok(Slot { permit, slow, used: Arc::clone(&self.used) })
    }
}

impl Slot {
    /// Steps aside, so that somebody else can be asked meanwhile. Stays where it is when too many have.
    pub(super) fn step_aside(&mut self) {
        if let Some(permit) = self.slow.take().and_then(|slow| slow.try_acquire_owned().ok()) {
            self.permit = permit;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one that waits.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl Waiting<'_> {
    fn new(count: &AtomicUsize) -> Waiting<'_> {
        Waiting { before: count.fetch_add(1, Ordering::Relaxed), count }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
