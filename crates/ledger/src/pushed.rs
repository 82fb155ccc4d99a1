//! Rows that were pushed: nobody can say how many were due, only what came and what is stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use model::TenantId;
use parking_lot::Mutex;

/// Pairs of cluster and job that are told apart; further ones are summed up as one.
const KEYS_MAX: usize = 10_000;

/// What one job of one cluster has pushed since the start of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Of which cluster.
    pub cluster: String,
    /// Of which job.
    pub job: String,
    /// Rows that came.
    pub received: u64,
    /// Rows of which at least one cell is stored.
    pub stored: u64,
    /// Cells that the store refused.
    pub cells_refused: u64,
    /// When the last one came, milliseconds: it is silent since.
    pub last_ms: i64,
}

/// The sums of one job.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    received: AtomicU64,
    stored: AtomicU64,
    refused: AtomicU64,
    last_ms: AtomicI64,
}

impl Sums {
    pub(crate) fn received(&self, rows: u64, now_ms: i64) {
        self.received.fetch_add(rows, Ordering::Relaxed);
        self.stored.fetch_add(rows, Ordering::Relaxed);
        self.last_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// Some of the cells of a row were refused, perhaps all.
    pub(crate) fn refused(&self, cells: u64, whole_row: bool) {
        self.refused.fetch_add(cells, Ordering::Relaxed);
        self.stored.fetch_sub(u64::from(whole_row), Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub(crate) struct PushedRows(Mutex<BTreeMap<(TenantId, String, String), Arc<Sums>>>);

impl PushedRows {
    pub(crate) fn of(&self, tenant: &TenantId, cluster: &str, job: &str) -> Arc<Sums> {
        let mut known = self.0.lock();
        let mut key = (tenant.clone(), cluster.to_owned(), job.to_owned());
        if known.len() >= KEYS_MAX && !known.contains_key(&key) {
            key = (tenant.clone(), String::new(), String::new());
        }
        Arc::clone(known.entry(key).or_default())
    }

    pub(crate) fn list(&self, tenant: &TenantId) -> Vec<Pushed> {
        let known = self.0.lock();
        let own = known.iter().filter(|((owner, ..), _)| owner == tenant);
        own.map(|((_, cluster, job), sums)| Pushed {
            cluster: cluster.clone(),
            job: job.clone(),
            received: sums.received.load(Ordering::Relaxed),
            stored: sums.stored.load(Ordering::Relaxed),
            cells_refused: sums.refused.load(Ordering::Relaxed),
            last_ms: sums.last_ms.load(Ordering::Relaxed),
        })
        .filter(|pushed| pushed.received > 0)
        .collect()
    }
}
