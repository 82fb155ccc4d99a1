//! Samples counted for the statistics of a query.
//!
//! Source: Prometheus `util/stats/query_stats.go` (`QuerySamples`).

use super::Steps;
use super::window::Bounds;

/// What was looked at and what was read, in all and, where somebody asked, at each step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// A window's samples count again at every step.
    pub(crate) looked_at: u64,
    /// Samples that came from the store.
    pub(crate) read: u64,
    by_step: Vec<StepTally>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StepTally {
    pub(crate) looked_at: u64,
    pub(crate) read: u64,
}

impl Tally {
    /// Counts at each of `steps` too, if `by_step`.
    pub(crate) fn new(steps: Steps, by_step: bool) -> Tally {
        let by_step = if by_step { vec![StepTally::default(); steps.count] } else { Vec::new() };
        Tally { by_step, ..Tally::default() }
    }

    /// What was counted at each step; empty when nobody asked.
    pub(crate) fn by_step(&self) -> &[StepTally] {
        &self.by_step
    }

    /// `samples` were looked at for a step.
    pub(crate) fn look(&mut self, step: usize, samples: u64) {
        self.looked_at += samples;
        if let Some(at) = self.by_step.get_mut(step) {
            at.looked_at += samples;
        }
    }

    /// `samples` were read and looked at for a step.
    pub(crate) fn see(&mut self, step: usize, samples: u64) {
        self.look(step, samples);
        self.read += samples;
        self.reach(step, samples);
    }

    /// A step is the first that `samples` already counted as read were read for.
    pub(crate) fn reach(&mut self, step: usize, samples: u64) {
        if let Some(at) = self.by_step.get_mut(step) {
            at.read += samples;
        }
    }

    /// All windows of a series were looked at. Those of a `stored` one were read, each sample for the
    /// first window that has it.
    pub(crate) fn look_through(&mut self, windows: &Bounds, stored: bool) {
        self.looked_at += windows.samples();
        let mut reached = 0;
        for (step, at) in self.by_step.iter_mut().enumerate() {
            let (lo, hi) = windows.at(step);
            at.looked_at += (hi - lo) as u64;
            if stored {
                at.read += (hi - reached.max(lo)) as u64;
                reached = hi;
            }
        }
    }

    /// Adds what was counted at `theirs`, each at the first of `ours` that is not before it. What a
    /// subquery looks at does not count, the windows over its result do.
    pub(crate) fn add(&mut self, ours: Steps, theirs: Steps, other: &Tally, in_subquery: bool) {
        self.read += other.read;
        if !in_subquery {
            self.looked_at += other.looked_at;
        }
        let Some(last) = self.by_step.len().checked_sub(1) else { return };
        for (step, counted) in other.by_step.iter().enumerate() {
            let after_ms = (theirs.at(step) - ours.start_ms).max(0);
            let at =
                &mut self.by_step[(after_ms as u64).div_ceil(ours.step_ms as u64).min(last as u64) as usize];
            at.read += counted.read;
            if !in_subquery {
                at.looked_at += counted.looked_at;
            }
        }
    }
}
