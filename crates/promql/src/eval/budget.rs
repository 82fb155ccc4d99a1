//! What a query may still use: samples, time, and its caller's patience.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::answer::EvalError;
use crate::engine::CancelFlag;

/// The limits of one query. Only the thread of the query takes and gives, in an order that depends on
/// nothing but the query and its data, so that the verdict and the peak do not either; others ask.
#[derive(Debug)]
pub(crate) struct Budget {
    samples_max: u64,
    held: AtomicU64,
    peak: AtomicU64,
    deadline: Option<Instant>,
    cancel: CancelFlag,
}

impl Budget {
    pub(crate) fn new(samples_max: u64, deadline: Option<Instant>, cancel: CancelFlag) -> Budget {
        Budget { samples_max, held: AtomicU64::new(0), peak: AtomicU64::new(0), deadline, cancel }
    }

    /// Whether the query may go on.
    pub(crate) fn check(&self) -> Result<(), EvalError> {
        if self.cancel.is_cancelled() {
            return Err(EvalError::Cancelled);
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(EvalError::Timeout);
        }
        Ok(())
    }

    /// Counts `samples` as held.
    pub(crate) fn take(&self, samples: u64) -> Result<(), EvalError> {
        let held = self.held.fetch_add(samples, Ordering::Relaxed).saturating_add(samples);
        self.peak.fetch_max(held, Ordering::Relaxed);
        if held > self.samples_max { Err(EvalError::TooManySamples) } else { Ok(()) }
    }

    /// Whether `samples` would be too many by themselves. Counts nothing: threads may ask at any time and
    /// always get the same answer.
    pub(crate) fn fits(&self, samples: u64) -> Result<(), EvalError> {
        if samples > self.samples_max { Err(EvalError::TooManySamples) } else { Ok(()) }
    }

    /// Whether `samples` could be taken now.
    pub(crate) fn fits_beside(&self, samples: u64) -> Result<(), EvalError> {
        self.fits(self.held.load(Ordering::Relaxed).saturating_add(samples))
    }

    /// Gives `samples` back.
    pub(crate) fn give(&self, samples: u64) {
        self.held.fetch_sub(samples, Ordering::Relaxed);
    }

    /// What is held before a node is evaluated; see [`Budget::settle`].
    pub(crate) fn mark(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// A node is done: of all it took since `mark` only its result of `samples` is left. Nodes are
    /// evaluated one after another, so nobody else takes or gives in between.
    pub(crate) fn settle(&self, mark: u64, samples: u64) -> Result<(), EvalError> {
        self.held.store(mark, Ordering::Relaxed);
        self.take(samples)
    }

    /// The most that was held at once.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_past_its_limits() {
        let cancel = CancelFlag::default();
        let budget = Budget::new(10, None, cancel.clone());
        let mark = budget.mark();
        assert!(budget.take(8).is_ok());
        assert!(matches!(budget.take(3), Err(EvalError::TooManySamples)));
        assert!(budget.settle(mark, 4).is_ok());
        assert_eq!((budget.mark(), budget.peak()), (4, 11));
        assert!(budget.check().is_ok());
        cancel.cancel();
        assert!(matches!(budget.check(), Err(EvalError::Cancelled)));
        let late = Budget::new(10, Some(Instant::now()), CancelFlag::default());
        assert!(matches!(late.check(), Err(EvalError::Timeout)));
    }
}
