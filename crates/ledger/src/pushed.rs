//! Rows that were pushed: nobody can say how many were due, only what came and what is stored.
//!
//! What a job has pushed is added up in memory and written down every few seconds, so that "silent since" survives a
//! restart; a kill costs the counts of these seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use model::TenantId;
use parking_lot::Mutex;

/// Pairs of cluster and job that are told apart; further ones are summed up as one.
pub(crate) const KEYS_MAX: usize = 10_000;

/// What one job of one cluster has pushed, as long as it is remembered.
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

/// [`Pushed`], without whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) received: u64,
    pub(crate) stored: u64,
    pub(crate) cells_refused: u64,
    pub(crate) last_ms: i64,
}

/// The sums of one job.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    received: AtomicU64,
    stored: AtomicU64,
    refused: AtomicU64,
    last_ms: AtomicI64,
    /// The store's position behind the newest rows.
    position: AtomicU64,
}

impl Sums {
    fn of(totals: &Totals) -> Sums {
        Sums {
            received: totals.received.into(),
            stored: totals.stored.into(),
            refused: totals.cells_refused.into(),
            last_ms: totals.last_ms.into(),
            position: AtomicU64::default(),
        }
    }

    pub(crate) fn received(&self, rows: u64, now_ms: i64, position: u64) {
        self.received.fetch_add(rows, Ordering::Relaxed);
        self.stored.fetch_add(rows, Ordering::Relaxed);
        self.last_ms.fetch_max(now_ms, Ordering::Relaxed);
        self.position.fetch_max(position, Ordering::Relaxed);
    }

    /// Some of the cells of a row were refused, perhaps all.
    pub(crate) fn refused(&self, cells: u64, whole_row: bool) {
        self.refused.fetch_add(cells, Ordering::Relaxed);
        self.stored.fetch_sub(u64::from(whole_row), Ordering::Relaxed);
    }

    fn totals(&self) -> Totals {
        Totals {
            received: self.received.load(Ordering::Relaxed),
            stored: self.stored.load(Ordering::Relaxed),
            cells_refused: self.refused.load(Ordering::Relaxed),
            last_ms: self.last_ms.load(Ordering::Relaxed),
        }
    }
}

type Key = (TenantId, String, String);

#[derive(Debug, Default)]
pub(crate) struct PushedRows(Mutex<BTreeMap<Key, Arc<Sums>>>);

impl PushedRows {
    pub(crate) fn of(&self, tenant: &TenantId, cluster: &str, job: &str) -> Arc<Sums> {
        let mut known = self.0.lock();
        let mut key = (tenant.clone(), cluster.to_owned(), job.to_owned());
        if known.len() >= KEYS_MAX && !known.contains_key(&key) {
            key = (tenant.clone(), String::new(), String::new());
        }
        Arc::clone(known.entry(key).or_default())
    }

    /// Tenants that have pushed.
    pub(crate) fn tenants(&self) -> Vec<TenantId> {
        let mut tenants: Vec<TenantId> = self.0.lock().keys().map(|(tenant, ..)| tenant.clone()).collect();
        tenants.dedup();
        tenants
    }

    /// Goes on from what was written down.
    pub(crate) fn restore(&self, tenant: &TenantId, written: &BTreeMap<(String, String), Totals>) {
        let mut known = self.0.lock();
        for ((cluster, job), totals) in written {
            let key = (tenant.clone(), cluster.clone(), job.clone());
            known.entry(key).or_insert_with(|| Arc::new(Sums::of(totals)));
        }
    }

    /// Forgets what has been silent since before `oldest_ms`, if nobody has it in hand.
    pub(crate) fn forget_before(&self, oldest_ms: i64) {
        self.0.lock().retain(|_, sums| {
            Arc::strong_count(sums) > 1 || sums.last_ms.load(Ordering::Relaxed) >= oldest_ms
        });
    }

    /// The totals of a tenant, and the store's position behind the newest of their rows.
    pub(crate) fn totals(&self, tenant: &TenantId) -> (BTreeMap<(String, String), Totals>, u64) {
        let known = self.0.lock();
        let mut position = 0;
        let own = known.iter().filter(|((owner, ..), _)| owner == tenant);
        let totals = own.map(|((_, cluster, job), sums)| {
            position = position.max(sums.position.load(Ordering::Relaxed));
            ((cluster.clone(), job.clone()), sums.totals())
        });
        let totals = totals.filter(|(_, totals)| totals.received > 0).collect();
        (totals, position)
    }

    pub(crate) fn list(&self, tenant: &TenantId) -> Vec<Pushed> {
        let (totals, _) = self.totals(tenant);
        let pushed = totals.into_iter().map(|((cluster, job), totals)| Pushed {
            cluster,
            job,
            received: totals.received,
            stored: totals.stored,
            cells_refused: totals.cells_refused,
            last_ms: totals.last_ms,
        });
        pushed.collect()
    }
}
