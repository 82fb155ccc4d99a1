//! Batches into log and head.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::histogram::Buckets;
use model::{Histogram, Labels};
use storage::{
    Appended, Appender, Batch, CommitPosition, RejectReason, Rejection, Row, SeriesRef, SourceDesc,
    SourceRef, StoreError,
};

use super::{Db, Inner, Tenant};
use crate::config::SyncPolicy;
use crate::head::Source;
use crate::head::budget::Room;
use crate::head::index::{LABELS_MAX, slot_of};
use crate::head::rows::{Appending, FloatRow, HistogramSample};
use crate::manifest::ManifestError;

/// Definitions longer than this get a record of their own, bytes.
const DEFINITIONS_RECORD_BYTES: usize = 4 << 20;
/// Longest labels of an exemplar, characters in all. Source: OpenMetrics 1.0, "Exemplars".
const EXEMPLAR_CHARS_MAX: usize = 128;
/// Most buckets of a histogram.
const BUCKETS_MAX: usize = 1 << 16;

impl From<ManifestError> for StoreError {
    fn from(error: ManifestError) -> StoreError {
        let attempt = "open the tenant".to_owned();
        StoreError::Io { attempt, source: std::io::Error::other(error.to_string()) }
    }
}

impl Appender for Db {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        self.inner.health.check()?;
        let tenant = self.inner.tenant(&source.tenant)?;
        self.inner.open_source(&tenant, source)
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        let (tenant, number) = self.inner.source(source)?;
        self.inner.resolve(&tenant, number, labels)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        self.inner.append(batch)
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        if self.inner.wal.durable() >= position.0 {
            return Ok(());
        }
        if self.inner.config.background && self.inner.config.sync != SyncPolicy::Off {
            self.inner.wal.wait_durable(position.0)
        } else {
            self.inner.wal.sync()
        }
    }
}

impl Inner {
    fn source(&self, source: SourceRef) -> Result<(Arc<Tenant>, u32), StoreError> {
        let sources = self.sources.read();
        let (tenant, number) = sources.get(source.0).ok_or(StoreError::UnknownSource(source.0))?;
        Ok((Arc::clone(tenant), number))
    }

    fn open_source(&self, tenant: &Arc<Tenant>, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        let mut lanes = tenant.lanes.write();
        if let Some(number) = lanes.source_by_id(source.id) {
            return Ok(SourceRef(lanes.sources[number as usize].reference));
        }
        let mut sources = self.sources.write();
        let reference = sources.next;
        sources.next += 1;
        let number = lanes.add_source(Source::new(reference, source.id, source.labels.clone()));
        sources.insert(reference, tenant, number);
        Ok(SourceRef(reference))
    }

    /// Puts a source of the log back.
    pub(super) fn restore_source(&self, tenant: &Arc<Tenant>, reference: u64, id: u128, labels: Labels) {
        let mut lanes = tenant.lanes.write();
        let mut sources = self.sources.write();
        sources.next = sources.next.max(reference + 1);
        if sources.get(reference).is_some() {
            return;
        }
        let id = model::SourceId(id);
        let number = lanes.source_by_id(id);
        let number = number.unwrap_or_else(|| lanes.add_source(Source::new(reference, id, labels)));
        sources.insert(reference, tenant, number);
    }

    fn resolve(
        &self,
        tenant: &Tenant,
        source: u32,
        labels: &[Labels],
    ) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        self.health.check()?;
        {
            let index = tenant.index.read();
            let found: Vec<Option<SeriesRef>> = labels.iter().map(|labels| index.find(labels)).collect();
            if found.iter().all(Option::is_some) {
                return Ok(found);
            }
        }
        self.mend()?;
        let mut index = tenant.index.write();
        let limits = *self.limits.read();
        let mut room = Room::of(limits, self.config.series_max, &index, &tenant.lanes.read(), source);
        let (mut created, mut refused) = (Vec::new(), Vec::new());
        let mut find_or_make = |labels| {
            if let Some(series) = index.find(labels) {
                return Some(series);
            }
            if labels.len() > LABELS_MAX {
                return None;
            }
            if let Err(over) = room.take(labels, &index) {
                refused.push((over, labels));
                return None;
            }
            let series = index.insert(labels, self.new_generation());
            created.push((series, labels));
            Some(series)
        };
        let found: Vec<Option<SeriesRef>> = labels.iter().map(&mut find_or_make).collect();
        if let Err(error) = self.log_definitions(tenant, &created) {
            index.remove(&created.iter().map(|(series, _)| slot_of(*series)).collect());
            return Err(error);
        }
        let mut lanes = tenant.lanes.write();
        for (series, _) in &created {
            lanes.admit(*series);
            lanes.own(slot_of(*series), source);
        }
        for (over, labels) in refused {
            lanes.count_refused(source, labels);
            self.metrics.count_refused_series(over);
        }
        self.metrics.series_created.inc_by(created.len() as u64);
        Ok(found)
    }

    /// The generation of a new series: never 0, and no other series of the log has it.
    pub(super) fn new_generation(&self) -> u32 {
        loop {
            let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
            if generation != 0 {
                return generation;
            }
        }
    }

    /// Writes series definitions to the log.
    pub(super) fn log_definitions(
        &self,
        tenant: &Tenant,
        series: &[(SeriesRef, &Labels)],
    ) -> Result<(), StoreError> {
        let mut encoder = crate::wal::record::BatchEncoder::default();
        let mut rest = series.iter().peekable();
        while rest.peek().is_some() {
            encoder.begin(tenant.id.as_str(), None);
            for (series, labels) in rest.by_ref() {
                encoder.series(series.0, labels);
                if encoder.definition_bytes() > DEFINITIONS_RECORD_BYTES {
                    break;
                }
            }
            let mut payload = Vec::new();
            encoder.finish(&mut payload);
            self.log(&payload)?;
        }
        Ok(())
    }

    /// Writes a record that is good in any segment; the position behind it.
    pub(super) fn log(&self, payload: &[u8]) -> Result<u64, StoreError> {
        let position = {
            let segment = self.wal.segment();
            self.wal.submit(&segment, payload)?
        };
        self.wal.commit(position)?;
        Ok(position)
    }

    /// Starts a new segment if a write to the current one has failed.
    pub(super) fn mend(&self) -> Result<(), StoreError> {
        if self.wal.is_broken() { self.roll().map(|_| ()) } else { Ok(()) }
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        self.health.check()?;
        let sources: Vec<(Arc<Tenant>, u32)> =
            batch.rows.iter().map(|row| self.source(row.source)).collect::<Result<_, _>>()?;
        let of_metadata = batch.metadata.first().map(|entry| self.source(entry.source)).transpose()?;
        let Some(tenant) = sources.first().or(of_metadata.as_ref()).map(|(tenant, _)| tenant.clone()) else {
            return Ok(Appended { position: CommitPosition(self.wal.position()), ..Appended::default() });
        };
        if let Some(at) = sources.iter().position(|(other, _)| !Arc::ptr_eq(other, &tenant)) {
            return Err(StoreError::UnknownSource(batch.rows[at].source.0));
        }
        self.refuse_when_full(&tenant)?;
        self.mend()?;
        let numbers: Vec<u32> = sources.iter().map(|(_, number)| *number).collect();
        let (done, sealable) = self.append_to(&tenant, batch, &numbers)?;
        if sealable {
            tenant.seal_closed();
        }
        if self.wal.segment_bytes() > self.config.segment_bytes_max {
            // The batch is in the log; a segment that cannot be started is the next batch's trouble.
            if let Err(error) = self.roll() {
                tracing::error!(%error, "starting a log segment");
            }
        }
        Ok(done)
    }

    /// A log that has grown to its limit refuses tenants whose flush is failing; beyond that, everybody.
    fn refuse_when_full(&self, tenant: &Tenant) -> Result<(), StoreError> {
        let (bytes, max) = (self.wal.bytes(), self.config.wal_bytes_max);
        let failing = tenant.flush_failing.load(Ordering::Relaxed);
        if bytes > max || (failing && bytes > max / 2) {
            let limit =
                format!("the log has {bytes} bytes of at most {max}, because flushing to parts is failing");
            return Err(StoreError::Limit { tenant: tenant.id.to_string(), limit });
        }
        Ok(())
    }

    fn append_to(
        &self,
        tenant: &Tenant,
        batch: &Batch<'_>,
        sources: &[u32],
    ) -> Result<(Appended, bool), StoreError> {
        let mut lanes = tenant.lanes.write();
        self.refuse_late(tenant, &lanes, batch)?;
        let mut encoder = tenant.encoder.lock();
        let segment = self.wal.segment();
        if let Some(key) = &batch.key
            && !self.taken.lock().begin(&tenant.id, key, self.config.clock.now_ms())
        {
            return Ok((self.taken_before(batch), false));
        }
        if let Some(key) = &batch.key {
            let rejected = unknown_series(batch, &lanes);
            if !rejected.is_empty() {
                self.taken.lock().remove(&tenant.id, key);
                let position = CommitPosition(self.wal.position());
                return Ok((Appended { rejected, untaken: true, position, ..Appended::default() }, false));
            }
        }
        encoder.begin(tenant.id.as_str(), batch.key);
        let mut at = Appending::new(batch.policy, self.wal.position() + 1, segment.number(), &mut encoder);
        at.oldest_ms = self.retention_start_ms();
        let mut stated = Stated::default();
        for (number, (row, source)) in batch.rows.iter().zip(sources).enumerate() {
            if row.series.len() == row.values.len() {
                let (timestamp_ms, series, values) = (row.timestamp_ms, row.series, row.values);
                lanes.append_floats(
                    &FloatRow { number, source: *source, timestamp_ms, series, values },
                    &mut at,
                );
            } else {
                let invalid = |series: &SeriesRef| Rejection {
                    row: number,
                    series: *series,
                    reason: RejectReason::Invalid,
                };
                at.done.rejected.extend(row.series.iter().map(invalid));
            }
            for (series, histogram) in row.histograms {
                if is_acceptable(histogram) {
                    let sample = HistogramSample {
                        row: number,
                        source: *source,
                        timestamp_ms: row.timestamp_ms,
                        series: *series,
                        histogram,
                    };
                    lanes.append_histogram(&sample, &mut at);
                } else {
                    at.done.rejected.push(Rejection {
                        row: number,
                        series: *series,
                        reason: RejectReason::Invalid,
                    });
                }
            }
            collect_extras(row, number, &lanes, &mut stated, &mut at);
        }
        for entry in batch.metadata {
            if lanes.is_news(entry.metric, entry.metadata) {
                at.encoder.metadata(entry.metric, entry.metadata);
            }
        }
        self.commit(tenant, batch, lanes, segment, at)
    }

    fn commit(
        &self,
        tenant: &Tenant,
        batch: &Batch<'_>,
        mut lanes: parking_lot::RwLockWriteGuard<'_, crate::head::Lanes>,
        segment: crate::wal::writer::SegmentGuard<'_>,
        mut at: Appending<'_>,
    ) -> Result<(Appended, bool), StoreError> {
        let mut position = self.wal.position();
        if !at.encoder.is_empty() {
            let mut payload = Vec::new();
            at.encoder.finish(&mut payload);
            let submitted = self.wal.submit(&segment, &payload);
            if let (Some(key), Ok(end)) = (&batch.key, &submitted) {
                // Whoever starts the next segment has to know whether this record went into the last.
                self.taken.lock().submitted(&tenant.id, key, *end);
            }
            drop(segment);
            let written = submitted.and_then(|position| self.wal.commit(position).map(|()| position));
            match written {
                Ok(end) => {
                    position = end;
                    if let Some(key) = &batch.key {
                        self.taken.lock().settle(&tenant.id, key);
                    }
                }
                Err(error) => {
                    lanes.take_back(at);
                    if let Some(key) = &batch.key {
                        self.taken.lock().remove(&tenant.id, key);
                    }
                    return Err(error);
                }
            }
        }
        for (series, timestamp_ms, start_ms) in std::mem::take(&mut at.starts) {
            lanes.keep_start(slot_of(series), timestamp_ms, start_ms);
        }
        for (series, exemplar) in std::mem::take(&mut at.exemplars) {
            lanes.keep_exemplar(series, exemplar, self.config.exemplars_max);
        }
        for entry in batch.metadata {
            lanes.keep_metadata(entry.metric, entry.metadata, self.config.metadata_statements_max);
        }
        at.done.position = CommitPosition(position);
        self.metrics.samples.inc_by((at.done.samples + at.done.histograms) as u64);
        self.metrics.late_samples.inc_by(at.late as u64);
        self.metrics.rejected.inc_by(at.done.rejected.len() as u64);
        let done = lanes.keep(at);
        if lanes.late_bytes() != lanes.late_counted {
            self.count_late(&mut lanes);
            self.spill_if_due(lanes.late_counted);
        }
        Ok((done, !lanes.to_seal.is_empty() || lanes.late.has_to_seal()))
    }

    /// The answer to a block that was taken before: as if it had been taken now.
    fn taken_before(&self, batch: &Batch<'_>) -> Appended {
        Appended {
            samples: batch.rows.iter().map(|row| row.series.len()).sum(),
            histograms: batch.rows.iter().map(|row| row.histograms.len()).sum(),
            exemplars: batch.rows.iter().map(|row| row.exemplars.len()).sum(),
            repeated: true,
            position: CommitPosition(self.wal.position()),
            ..Appended::default()
        }
    }
}

/// The samples of a batch whose series the head does not know.
fn unknown_series(batch: &Batch<'_>, lanes: &crate::head::Lanes) -> Vec<Rejection> {
    let mut unknown = Vec::new();
    for (number, row) in batch.rows.iter().enumerate() {
        for series in row.series.iter().chain(row.histograms.iter().map(|(series, _)| series)) {
            if lanes.home(*series).is_none() {
                let reason = RejectReason::UnknownSeries;
                unknown.push(Rejection { row: number, series: *series, reason });
            }
        }
    }
    unknown
}

/// The latest start timestamps of rows of a batch that the lanes do not know yet.
type Stated = HashMap<SeriesRef, i64, foldhash::fast::RandomState>;

/// Puts what belongs to a row, besides its samples, into the record, to take effect once the log has it.
fn collect_extras(
    row: &Row<'_>,
    number: usize,
    lanes: &crate::head::Lanes,
    stated: &mut Stated,
    at: &mut Appending<'_>,
) {
    for (series, start_ms) in row.start_timestamps {
        let known = lanes.home(*series).is_some();
        let before = stated.get(series).copied();
        let before = before.or_else(|| lanes.start_at(slot_of(*series), row.timestamp_ms));
        if known && before != Some(*start_ms) {
            at.encoder.start(series.0, row.timestamp_ms, *start_ms);
            at.starts.push((*series, row.timestamp_ms, *start_ms));
            stated.insert(*series, *start_ms);
        }
    }
    collect_ended_starts(row, lanes, stated, at);
    for (series, exemplar) in row.exemplars {
        let chars = exemplar.labels.iter().map(|(name, value)| name.chars().count() + value.chars().count());
        let reason = if lanes.home(*series).is_none() {
            RejectReason::UnknownSeries
        } else if chars.sum::<usize>() > EXEMPLAR_CHARS_MAX {
            RejectReason::Invalid
        } else {
            at.encoder.exemplar(series.0, exemplar);
            at.done.exemplars += 1;
            at.exemplars.push((*series, exemplar.clone()));
            continue;
        };
        at.done.rejected.push(Rejection { row: number, series: *series, reason });
    }
}

/// A newest sample that says nothing of its start, after one that did, has no known start.
fn collect_ended_starts(
    row: &Row<'_>,
    lanes: &crate::head::Lanes,
    stated: &mut Stated,
    at: &mut Appending<'_>,
) {
    if lanes.starts.is_empty() && stated.is_empty() {
        return;
    }
    // Starts come in the order of the row, mostly; those that do not are looked up.
    let mut in_order = row.start_timestamps.iter().map(|(series, _)| *series).peekable();
    let mut all: Option<HashSet<SeriesRef, foldhash::fast::RandomState>> = None;
    for series in row.series.iter().chain(row.histograms.iter().map(|(series, _)| series)) {
        let is_started =
            || stated.get(series).map_or_else(|| lanes.is_started(slot_of(*series)), |start| *start != 0);
        if in_order.next_if_eq(series).is_some() || !is_started() {
            continue;
        }
        let all = all.get_or_insert_with(|| row.start_timestamps.iter().map(|(s, _)| *s).collect());
        let is_newest = || lanes.home(*series).is_some() && lanes.newest(*series) == row.timestamp_ms;
        if !all.contains(series) && is_newest() {
            at.encoder.start(series.0, row.timestamp_ms, 0);
            at.starts.push((*series, row.timestamp_ms, 0));
            stated.insert(*series, 0);
        }
    }
}

/// Whether a histogram makes sense, and is not larger than anyone needs.
fn is_acceptable(histogram: &Histogram) -> bool {
    let (positive, negative) = match &histogram.buckets {
        Buckets::Int { positive, negative, .. } => (positive.len(), negative.len()),
        Buckets::Float { positive, negative, .. } => (positive.len(), negative.len()),
    };
    let largest = positive.max(negative).max(histogram.custom_values.len());
    largest <= BUCKETS_MAX && histogram.is_well_formed()
}
