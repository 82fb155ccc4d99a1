//! What tools ask of a store that no hub has open: its parts, its times, and taking in samples that come
//! sorted: they go to a part of their own, past log and head.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Labels, TenantId};
use storage::{Column, StoreError};

use super::flush::FlushError;
use super::{Db, Tenant};
use crate::filenames;
use crate::head::late::DAY_MS;
use crate::manifest::Edit;
use crate::part::{Part, PartInfo, PartSpec, PartWriter, file_name};
use crate::version::PartEntry;

impl Db {
    /// The parts of a tenant that can be opened, by first timestamp.
    pub fn parts(&self, tenant: &TenantId) -> Vec<Arc<Part>> {
        let Some(tenant) = self.inner.tenants.read().get(tenant).cloned() else { return Vec::new() };
        let version = tenant.version.load();
        version.parts.iter().map(|entry| entry.part.clone()).collect()
    }

    /// When a tenant has samples: the ranges of its parts and its head, both ends inclusive,
    /// milliseconds, sorted and apart from each other. Within a range there may be gaps; of late samples
    /// in the head only the days are known.
    pub fn time_ranges(&self, tenant: &TenantId) -> Vec<(i64, i64)> {
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        if let Some(tenant) = self.inner.tenants.read().get(tenant).cloned() {
            let version = tenant.version.load();
            let infos = version.parts.iter().map(|entry| entry.part.info());
            ranges.extend(infos.map(|info| (info.min_ms, info.max_ms)));
            let lanes = tenant.lanes.read();
            for lane in &lanes.lanes {
                ranges.extend(lane.time_ranges());
            }
            ranges.extend(lanes.side.time_range());
            let mut days = BTreeMap::new();
            let frozen = lanes.frozen_late.iter().map(|(_, late)| &**late);
            frozen.chain([&lanes.late]).for_each(|late| late.days(&mut days));
            let ends = |day: i64| {
                (day.saturating_mul(DAY_MS), day.saturating_mul(DAY_MS).saturating_add(DAY_MS - 1))
            };
            ranges.extend(days.into_keys().map(ends));
        }
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let touches = next.0 <= kept.1.saturating_add(1);
            if touches {
                kept.1 = kept.1.max(next.1);
            }
            touches
        });
        ranges
    }

    /// Starts a part of samples from elsewhere. They conflict with what is there like any late
    /// samples: a real value beats a staleness marker, then the larger bit pattern wins.
    ///
    /// # Errors
    /// [`FlushError`]: the store is read-only, or the disk refuses.
    pub fn import(&self, tenant: &TenantId) -> Result<Import<'_>, FlushError> {
        self.inner.health.check()?;
        let tenant = self.inner.tenant(tenant)?;
        let dir = tenant.parts_dir();
        let disk = &*self.inner.config.disk;
        let made = disk.create_dir_all(&dir);
        let made = made.and_then(|()| disk.sync_dir(&filenames::tenants_dir(&self.inner.config.dir)));
        made.and_then(|()| disk.sync_dir(&tenant.dir))
            .map_err(|source| FlushError::Io { attempt: format!("create {}", dir.display()), source })?;
        // Deletions up to here do not concern what comes now.
        let position = self.inner.wal.position();
        let spec = PartSpec {
            id: self.inner.new_id(),
            tenant: tenant.id.clone(),
            level: 0,
            wal_first: position,
            wal_last: position,
            late: true,
            replace: false,
        };
        let writer = PartWriter::create(disk, &dir, spec).map_err(|source| in_part(&tenant, source))?;
        Ok(Import { db: self, tenant, position, writer })
    }
}

fn in_part(tenant: &Tenant, source: crate::part::PartError) -> FlushError {
    FlushError::Part { tenant: tenant.id.to_string(), source }
}

/// A part of samples from elsewhere, in the making. Dropped before [`Import::finish`] it leaves nothing.
#[derive(Debug)]
pub struct Import<'d> {
    db: &'d Db,
    tenant: Arc<Tenant>,
    position: u64,
    writer: PartWriter<'d>,
}

impl Import<'_> {
    /// Adds the next series, in part order ([`crate::part::part_order`]). A column without samples adds
    /// nothing.
    ///
    /// # Errors
    /// [`FlushError::Part`]: the disk refuses, or the order is not kept; the part cannot be finished then.
    pub fn add(&mut self, labels: &Labels, column: &Column) -> Result<(), FlushError> {
        self.writer.add_series(labels, column).map_err(|source| in_part(&self.tenant, source))
    }

    /// Makes the part durable and visible. `None` without series.
    ///
    /// # Errors
    /// [`FlushError`]: nothing of the part is there then.
    pub fn finish(self) -> Result<Option<PartInfo>, FlushError> {
        let Import { db, tenant, position, writer } = self;
        if writer.series() == 0 {
            return Ok(None);
        }
        let info = writer.finish().map_err(|source| in_part(&tenant, source))?;
        let path = filenames::part(&tenant.dir, &file_name(info.spec.id));
        let opened = Part::open(&*db.inner.config.disk, &path).map_err(|source| in_part(&tenant, source))?;
        let mut manifest = tenant.manifest.lock();
        manifest
            .edit(Edit::Parts {
                add: vec![(info.spec.id, position)],
                drop: Vec::new(),
                flushed: None,
                spilled: None,
            })
            .map_err(|source| FlushError::Manifest { tenant: tenant.id.to_string(), source })?;
        let before = tenant.version.load();
        let entry = Arc::new(PartEntry::new(Arc::new(opened), position));
        tenant.version.store(before.with_parts(before.parts.iter().cloned().chain([entry]).collect()));
        Ok(Some(info))
    }
}

impl From<crate::manifest::ManifestError> for FlushError {
    fn from(error: crate::manifest::ManifestError) -> FlushError {
        FlushError::Store(StoreError::from(error))
    }
}
