//! What could not be read, told once for each place.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::metrics::Metrics;
use crate::part::PartError;

/// Problems kept to be shown.
const LISTED_MAX: usize = 1000;
/// Damaged places remembered, so that each is told once.
const PLACES_MAX: usize = 100_000;

/// The problems of a store.
#[derive(Debug)]
pub(crate) struct Problems {
    metrics: Arc<Metrics>,
    listed: Mutex<Vec<String>>,
    places: Mutex<HashSet<String>>,
}

impl Problems {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Problems {
        Problems { metrics, listed: Mutex::default(), places: Mutex::default() }
    }

    /// Logs a problem, and keeps it to be shown.
    pub(crate) fn report(&self, problem: String) {
        tracing::warn!("{problem}");
        let mut listed = self.listed.lock();
        if listed.len() < LISTED_MAX {
            listed.push(problem);
        }
    }

    /// A query has met damage in a part: counts it, and reports the place if it is a new one. Gives the
    /// warning for the answer.
    pub(crate) fn met(&self, damage: &PartError) -> String {
        let warning = damage.to_string();
        self.metrics.part_damage_reads.inc();
        let is_new = {
            let mut places = self.places.lock();
            places.len() < PLACES_MAX && places.insert(warning.clone())
        };
        if is_new {
            self.metrics.part_damage.inc();
            self.report(format!("{warning}; queries are answered without what is there"));
        }
        warning
    }

    /// What was reported, oldest first.
    pub(crate) fn listed(&self) -> Vec<String> {
        self.listed.lock().clone()
    }
}
