//! Late samples into parts, apart from the flush of the head.
//!
//! All tenants share one budget for the late samples that are not in parts yet
//! ([`crate::Config::late_bytes_max`]). Long before it is used up the maintenance thread *spills* those who
//! have most: it sets their late samples aside, which takes a moment, and writes them to late parts while
//! appends go on. Only when spills cannot keep up are batches that have late samples refused, for their
//! senders to try again; nobody else notices.
//!
//! The manifest names, with the parts, the log position up to which late rows are in parts: at the next start
//! those rows are skipped, while the other rows of the same records are not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use storage::{Batch, Late, StoreError};

use super::flush::FlushError;
use super::outputs::Spans;
use super::{Db, Inner, Tenant};
use crate::head::Lanes;

/// A day with fewer late samples gets no part of its own.
const SAMPLES_A_DAY_MIN: u64 = 1000;
/// A spill writes at most this many days apart: each costs memory while it is written.
const DAYS_MAX: usize = 8;
/// A flush spills more late samples than this first, so that they come apart by day.
const FLUSHED_ALONE: usize = 200_000;

impl Db {
    /// Writes the late samples of all tenants to parts.
    ///
    /// # Errors
    /// The first failure; the samples stay in memory and in the log, and other tenants are served all the
    /// same.
    pub fn spill(&self) -> Result<(), FlushError> {
        self.inner.spill()
    }
}

impl Inner {
    /// Brings the total of late samples up to date with a tenant's.
    pub(super) fn count_late(&self, lanes: &mut Lanes) {
        let (now, before) = (lanes.late_bytes(), lanes.late_counted);
        lanes.late_counted = now;
        if now >= before {
            self.late_bytes.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.late_bytes.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Refuses a batch for which late samples would take too much memory.
    pub(super) fn refuse_late(
        &self,
        tenant: &Tenant,
        lanes: &Lanes,
        batch: &Batch<'_>,
    ) -> Result<(), StoreError> {
        let (max, all, own) =
            (self.config.late_bytes_max, self.late_bytes.load(Ordering::Relaxed), lanes.late_counted);
        if batch.policy.late == Late::Reject || (all < max && own < max / 2) {
            return Ok(());
        }
        if !batch.rows.iter().any(|row| lanes.has_late(row.timestamp_ms, row.series)) {
            return Ok(());
        }
        self.metrics.late_refused.inc();
        self.want_spill();
        let limit = format!(
            "late samples hold {own} bytes, those of all tenants {all} of at most {max}, and are being \
             written to parts"
        );
        Err(StoreError::Limit { tenant: tenant.id.to_string(), limit })
    }

    /// Wakes the maintenance thread if a tenant has late samples enough.
    pub(super) fn spill_if_due(&self, late_bytes: usize) {
        if late_bytes >= self.config.late_bytes_max / 4
            || self.late_bytes.load(Ordering::Relaxed) >= self.config.late_bytes_max / 2
        {
            self.want_spill();
        }
    }

    fn want_spill(&self) {
        if !self.spill_wanted.swap(true, Ordering::Relaxed) {
            // Whoever has just looked is waiting by the time this lock is free.
            drop(self.stop.lock());
            self.stopped.notify_all();
        }
    }

    /// Spills what has grown beyond its share. Gives whether all went well.
    pub(super) fn spill_and_log(&self) -> bool {
        self.spill_wanted.store(false, Ordering::Relaxed);
        if self.health.reason().is_some() {
            return true;
        }
        let max = self.config.late_bytes_max;
        let with_bytes = |tenant: Arc<Tenant>| {
            let bytes = tenant.lanes.read().late_counted;
            (bytes, tenant)
        };
        let mut large: Vec<(usize, Arc<Tenant>)> = self.all_tenants().into_iter().map(with_bytes).collect();
        large.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let much = self.late_bytes.load(Ordering::Relaxed) >= max / 2;
        let mut well = true;
        for (bytes, tenant) in large.into_iter().filter(|(bytes, _)| *bytes > 0) {
            let of_all = much && self.late_bytes.load(Ordering::Relaxed) >= max / 4;
            if bytes < max / 4 && !of_all {
                break;
            }
            let _work = self.work.lock();
            if let Err(error) = self.spill_tenant(&tenant, None) {
                well = false;
                tracing::error!(tenant = %tenant.id, %error, "writing late samples; it will be tried again");
            }
        }
        well
    }

    fn spill(&self) -> Result<(), FlushError> {
        let _work = self.work.lock();
        self.health.check()?;
        let mut first_failure = None;
        for tenant in self.all_tenants() {
            if let Err(error) = self.spill_tenant(&tenant, None) {
                first_failure.get_or_insert(error);
            }
        }
        first_failure.map_or(Ok(()), Err)
    }

    /// Spills a tenant's late samples before its flush, if they are many.
    pub(super) fn spill_much(&self, tenant: &Tenant) -> Result<(), FlushError> {
        let much = {
            let lanes = tenant.lanes.read();
            lanes.late.samples() + lanes.side.floats() > FLUSHED_ALONE
        };
        if much { self.spill_tenant(tenant, None) } else { Ok(()) }
    }

    /// Spills a tenant whose late rows of the log have become many, up to `position`, while the log is
    /// read at start.
    pub(super) fn spill_replayed(&self, tenant: &Tenant, position: u64) {
        if self.health.reason().is_some() || tenant.lanes.read().late_counted < self.config.late_bytes_max / 4
        {
            return;
        }
        if let Err(error) = self.spill_tenant(tenant, Some(position)) {
            tracing::error!(tenant = %tenant.id, %error, "writing late samples of the log to parts");
        }
    }

    /// Writes all late samples of a tenant to parts. Those of records up to `mark` are there then; by
    /// default, all.
    fn spill_tenant(&self, tenant: &Tenant, mark: Option<u64>) -> Result<(), FlushError> {
        let started = std::time::Instant::now();
        let (pinned, mark) = {
            let mut lanes = tenant.lanes.write();
            (lanes.pin_for_spill(), mark.unwrap_or_else(|| self.wal.position()))
        };
        if pinned.lates.is_empty() {
            return Ok(());
        }
        self.metrics.spills.inc();
        let mut days = BTreeMap::new();
        pinned.lates.iter().for_each(|late| late.days(&mut days));
        let mut days: Vec<(i64, u64)> =
            days.into_iter().filter(|(_, samples)| *samples >= SAMPLES_A_DAY_MIN).collect();
        days.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
        let days = days.into_iter().take(DAYS_MAX).map(|(day, _)| day).collect();
        if let Err(error) = self.write_parts(tenant, &pinned, &[], mark, Spans::Days(days)) {
            self.metrics.spill_failures.inc();
            return Err(error);
        }
        let newest_ms = tenant.version.load().newest_ms();
        let mut lanes = tenant.lanes.write();
        lanes.prune_late(pinned.spill);
        lanes.flushed_max_ms = lanes.flushed_max_ms.max(newest_ms);
        self.count_late(&mut lanes);
        self.metrics.spill_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }
}
