//! The head into parts, and the log cut behind it.
//!
//! 1. The log starts a new segment. Everything before it is in heads by now or will not be.
//! 2. Each tenant closes its open rows and pins what is closed. A tenant with little has its rows
//!    written to the new segment again; the others get parts: one for each two hours, and one for
//!    everything older than two days.
//! 3. The manifest names the parts; the version shows them and hides the tiles; the tiles go.
//! 4. Series without a sample since the last flush go. Definitions of those that stay, and metadata, are
//!    written to the log again.
//! 5. Segments before the new one are removed, unless some tenant's flush has failed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::histogram::Buckets;
use roaring::RoaringBitmap;
use storage::{Column, SeriesRef, StoreError};
use ulid::Ulid;

use super::{Db, Inner, Tenant};
use crate::filenames;
use crate::head::snapshot::{FlushSnapshot, read_pieces};
use crate::manifest::{Edit, ManifestError};
use crate::merge::{Piece, TimeConcatCache, combine};
use crate::part::{Part, PartError, PartInfo, PartSpec, PartWriter, file_name};
use crate::tombstone::clip;
use crate::version::PartEntry;
use crate::wal::record::{BatchEncoder, HistogramToLog, LaneLog, RowToLog};

/// A part of a flush holds samples of one such span, milliseconds.
pub(super) const SPAN_MS: i64 = 2 * 3600 * 1000;
/// A flush of recent samples makes no more parts than this; what is beyond goes to the late part.
const SPANS_MAX: usize = 32;
/// A record of rows written again is about this long, bytes.
const RELOG_BYTES: usize = 1 << 20;

/// Start timestamps in a record when they are written again.
const STARTS_A_RECORD: usize = 1 << 16;

/// Bytes of joined time columns kept to be shared.
const TIMES_BYTES_MAX: usize = 64 << 20;

/// A flush that failed; the samples stay in the head and in the log, and the next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// The log could not be continued.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part could not be written.
    #[error("flush tenant {tenant}: {source}")]
    Part {
        /// Whose.
        tenant: String,
        /// The cause.
        source: PartError,
    },
    /// The manifest could not be written.
    #[error("flush tenant {tenant}: {source}")]
    Manifest {
        /// Whose.
        tenant: String,
        /// The cause.
        source: ManifestError,
    },
    /// The tenant's directory could not be made, or old log segments not removed.
    #[error("{attempt}: {source}")]
    Io {
        /// What was attempted.
        attempt: String,
        /// The cause.
        source: std::io::Error,
    },
}

impl Db {
    /// Writes the heads of all tenants to parts (of small ones to the log again) and cuts the log.
    ///
    /// # Errors
    /// The first failure; other tenants are flushed all the same.
    pub fn flush(&self) -> Result<(), FlushError> {
        self.inner.flush(self.inner.config.small_tenant_samples)
    }
}

impl Inner {
    pub(super) fn flush_and_log(&self) {
        if self.health.reason().is_some() {
            return;
        }
        if let Err(error) = self.flush(self.config.small_tenant_samples) {
            tracing::error!(%error, "flushing; it will be tried again");
        }
    }

    fn flush(&self, small: usize) -> Result<(), FlushError> {
        let _work = self.work.lock();
        let started = std::time::Instant::now();
        let (segment, _) = self.roll()?;
        let mut first_failure = None;
        for tenant in self.all_tenants() {
            let flushed = self.flush_tenant(&tenant, small);
            tenant.flush_failing.store(flushed.is_err(), Ordering::Relaxed);
            self.metrics.flushes.inc();
            if let Err(error) = flushed {
                tracing::error!(tenant = %tenant.id, %error, "flushing");
                self.metrics.flush_failures.inc();
                first_failure.get_or_insert(error);
            }
        }
        if let Some(error) = first_failure {
            return Err(error);
        }
        // What was written again has to be as durable as what goes.
        self.wal.sync()?;
        self.keep_of_refused()?;
        let attempt = "remove flushed log segments".to_owned();
        self.wal.remove_below(segment).map_err(|source| FlushError::Io { attempt, source })?;
        self.metrics.flush_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    fn flush_tenant(&self, tenant: &Tenant, small: usize) -> Result<(), FlushError> {
        let (pinned, mark) = {
            let mut lanes = tenant.lanes.write();
            let pinned = lanes.pin_for_flush();
            (pinned, self.wal.position())
        };
        tenant.seal_closed();
        let (places, active) = pinned.places();
        let samples = pinned.samples();
        if samples > small {
            self.write_parts(tenant, &pinned, &places, mark)?;
            let newest_ms = tenant.version.load().newest_ms();
            let mut lanes = tenant.lanes.write();
            lanes.prune(pinned.flush);
            lanes.forget_starts(&pinned);
            lanes.flushed_max_ms = lanes.flushed_max_ms.max(newest_ms);
        } else if samples > 0 {
            self.log_again(tenant, &pinned, &places)?;
            // The rows are in the head still, to be written by a later flush.
            tenant.lanes.write().flush_later(pinned.flush);
        }
        self.remove_idle(tenant, &active);
        self.define_again(tenant)
    }

    fn write_parts(
        &self,
        tenant: &Tenant,
        pinned: &FlushSnapshot,
        places: &[(u32, u32, u16)],
        mark: u64,
    ) -> Result<(), FlushError> {
        let in_part = |source| FlushError::Part { tenant: tenant.id.to_string(), source };
        let dir = tenant.parts_dir();
        let made = self.config.disk.create_dir_all(&dir);
        let made = made.and_then(|()| self.config.disk.sync_dir(&filenames::tenants_dir(&self.config.dir)));
        made.and_then(|()| self.config.disk.sync_dir(&tenant.dir))
            .map_err(|source| FlushError::Io { attempt: format!("create {}", dir.display()), source })?;
        let mut writers = Writers::new(self, tenant, pinned, mark);
        let written = self.write_series(tenant, pinned, places, &mut writers).and_then(|()| writers.finish());
        let infos = written.map_err(in_part)?;
        let mut entries = Vec::with_capacity(infos.len());
        for info in &infos {
            let path = filenames::part(&tenant.dir, &file_name(info.spec.id));
            let part = Part::open(&*self.config.disk, &path).map_err(in_part)?;
            entries.push(Arc::new(PartEntry::new(Arc::new(part), mark)));
        }
        let mut manifest = tenant.manifest.lock();
        let add = infos.iter().map(|info| (info.spec.id, mark)).collect();
        manifest
            .edit(Edit::Parts { add, drop: Vec::new(), flushed: Some(mark) })
            .map_err(|source| FlushError::Manifest { tenant: tenant.id.to_string(), source })?;
        let before = tenant.version.load();
        let mut version = before.with_parts(before.parts.iter().cloned().chain(entries).collect());
        version.pruned = pinned.flush;
        tenant.version.store(version);
        Ok(())
    }

    fn write_series(
        &self,
        tenant: &Tenant,
        pinned: &FlushSnapshot,
        places: &[(u32, u32, u16)],
        writers: &mut Writers<'_>,
    ) -> Result<(), PartError> {
        let mut slots: Vec<u32> = places.iter().map(|(slot, _, _)| *slot).collect();
        slots.extend(pinned.sides.iter().flat_map(|side| side.slots()));
        slots.sort_unstable();
        slots.dedup();
        tenant.index.read().sort_in_part_order(&mut slots);
        let mut cache = TimeConcatCache::default();
        for chunk in slots.chunks(1024) {
            // Labels in batches: a long flush does not hold the index.
            let labels: Vec<_> = {
                let index = tenant.index.read();
                chunk.iter().map(|slot| index.labels(*slot)).collect()
            };
            for (slot, labels) in chunk.iter().zip(labels) {
                let mut pieces = Vec::new();
                read_pieces(&pinned.tiles, &pinned.pinned(*slot, places), 0, &mut cache, &mut pieces)
                    .map_err(|error| PartError::Invalid {
                        path: tenant.parts_dir(),
                        reason: format!("a sealed tile of series {labels} cannot be read: {error}"),
                    })?;
                let (mut replaced, mut plain): (Vec<Piece>, Vec<Piece>) =
                    pieces.into_iter().partition(|piece| piece.rank.replace);
                if cache.bytes() > TIMES_BYTES_MAX {
                    cache.clear();
                }
                for (replace, pieces) in [(false, &mut plain), (true, &mut replaced)] {
                    let column = combine(pieces, &mut cache);
                    writers.add(replace, &labels, column, &mut cache)?;
                }
            }
        }
        for (metric, statements) in &tenant.lanes.read().metadata {
            writers.metadata(metric, statements);
        }
        Ok(())
    }

    /// Writes the rows of a tenant that has few to the log again, where they survive the segments
    /// that go.
    fn log_again(
        &self,
        tenant: &Tenant,
        pinned: &FlushSnapshot,
        places: &[(u32, u32, u16)],
    ) -> Result<(), FlushError> {
        let mut rows = Relogged::default();
        let (mut cache, index) = (TimeConcatCache::default(), tenant.index.read());
        // Until these rows are in the log, nothing that comes later may get there.
        let lanes = tenant.lanes.read();
        let mut slots: Vec<u32> = places.iter().map(|(slot, _, _)| *slot).collect();
        slots.extend(pinned.sides.iter().flat_map(|side| side.slots()));
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            let series = crate::head::index::reference(slot, index.generation(slot));
            let mut pieces = Vec::new();
            let series_pinned = pinned.pinned(slot, places);
            let read = read_pieces(&pinned.tiles, &series_pinned, 0, &mut cache, &mut pieces);
            read.map_err(|error| FlushError::Io {
                attempt: format!("read a sealed tile of tenant {}", tenant.id),
                source: std::io::Error::other(error.to_string()),
            })?;
            // A replacement that came meanwhile is in the log already, and has to stay the last.
            let newer = lanes.side.points(slot, true);
            let replaced = |time| newer.is_some_and(|points| points.get(time).is_some());
            for piece in pieces {
                rows.add(series, piece.rank.replace, &piece.column, replaced);
            }
        }
        // Which source the rows are of does not matter to what comes back, only how well it packs.
        let Some(source) = lanes.sources.first() else { return Ok(()) };
        self.log_rows(tenant, source, &rows)
    }

    fn log_rows(
        &self,
        tenant: &Tenant,
        source: &crate::head::Source,
        rows: &Relogged,
    ) -> Result<(), FlushError> {
        let (reference, id) = (source.reference, source.id);
        let mut encoder = BatchEncoder::default();
        let mut payload = Vec::new();
        let begin = |encoder: &mut BatchEncoder| {
            encoder.begin(tenant.id.as_str(), None);
            encoder.source(reference, id.0, &source.labels);
        };
        begin(&mut encoder);
        let mut bytes = 0;
        for ((timestamp_ms, replace), (series, values)) in &rows.floats {
            let row = RowToLog {
                source: reference,
                lane: u32::MAX,
                timestamp_ms: *timestamp_ms,
                replace: *replace,
                series,
                values,
            };
            encoder.row(&row, false, 0, &mut LaneLog::default());
            bytes += series.len() * 12;
            if bytes > RELOG_BYTES {
                payload.clear();
                encoder.finish(&mut payload);
                self.log(&payload)?;
                begin(&mut encoder);
                bytes = 0;
            }
        }
        for (series, timestamp_ms, replace, histogram) in &rows.histograms {
            let sample = HistogramToLog {
                source: reference,
                series: series.0,
                timestamp_ms: *timestamp_ms,
                replace: *replace,
                histogram,
            };
            encoder.histogram(&sample, None);
            bytes += weight(histogram);
            if bytes > RELOG_BYTES {
                payload.clear();
                encoder.finish(&mut payload);
                self.log(&payload)?;
                begin(&mut encoder);
                bytes = 0;
            }
        }
        payload.clear();
        encoder.finish(&mut payload);
        self.log(&payload)?;
        Ok(())
    }

    /// Removes series that had no sample since the last flush.
    fn remove_idle(&self, tenant: &Tenant, active: &RoaringBitmap) {
        let idle = tenant.index.read().live() - active;
        if idle.is_empty() {
            return;
        }
        let mut index = tenant.index.write();
        let mut lanes = tenant.lanes.write();
        // Some may have come back to life meanwhile.
        let idle: RoaringBitmap =
            idle.iter().filter(|slot| !lanes.active.contains(*slot) && !lanes.has_samples(*slot)).collect();
        lanes.remove(&idle);
        index.remove(&idle);
        self.metrics.series_removed.inc_by(idle.len());
    }

    /// Writes definitions and metadata to the log again: the segments that have them are about to go.
    fn define_again(&self, tenant: &Tenant) -> Result<(), FlushError> {
        let slots: Vec<u32> = tenant.index.read().live().iter().collect();
        for chunk in slots.chunks(4096) {
            let series: Vec<(SeriesRef, model::Labels)> = {
                let index = tenant.index.read();
                let live = chunk.iter().filter(|slot| index.live().contains(**slot));
                live.map(|slot| {
                    (crate::head::index::reference(*slot, index.generation(*slot)), index.labels(*slot))
                })
                .collect()
            };
            let series: Vec<(SeriesRef, &model::Labels)> =
                series.iter().map(|(s, labels)| (*s, labels)).collect();
            self.log_definitions(tenant, &series)?;
        }
        self.log_starts(tenant)?;
        let (metadata, exemplars) = {
            let lanes = tenant.lanes.read();
            (lanes.metadata.clone(), lanes.exemplars.clone())
        };
        if metadata.is_empty() && exemplars.is_empty() {
            return Ok(());
        }
        let mut encoder = BatchEncoder::default();
        encoder.begin(tenant.id.as_str(), None);
        for (metric, statements) in &metadata {
            statements.iter().for_each(|statement| encoder.metadata(metric, statement));
        }
        exemplars.iter().for_each(|(series, exemplar)| encoder.exemplar(series.0, exemplar));
        let mut payload = Vec::new();
        encoder.finish(&mut payload);
        self.log(&payload)?;
        Ok(())
    }

    /// Writes start timestamps to the log again: a row names its start only where that changes.
    fn log_starts(&self, tenant: &Tenant) -> Result<(), FlushError> {
        let starts: Vec<(SeriesRef, i64, i64)> = {
            let lanes = tenant.lanes.read();
            let of_slot = |(slot, starts): (&u32, &Vec<(i64, i64)>)| {
                let generation = lanes.homes.get(*slot as usize).map_or(0, |home| home.generation);
                let series = crate::head::index::reference(*slot, generation);
                starts.iter().map(|(from, start)| (series, *from, *start)).collect::<Vec<_>>()
            };
            lanes.starts.iter().flat_map(of_slot).collect()
        };
        for chunk in starts.chunks(STARTS_A_RECORD) {
            let mut encoder = BatchEncoder::default();
            encoder.begin(tenant.id.as_str(), None);
            chunk.iter().for_each(|(series, from, start)| encoder.start(series.0, *from, *start));
            let mut payload = Vec::new();
            encoder.finish(&mut payload);
            self.log(&payload)?;
        }
        Ok(())
    }
}

/// About as long as a histogram is in the log, bytes.
fn weight(histogram: &model::Histogram) -> usize {
    let buckets = match &histogram.buckets {
        Buckets::Int { positive, negative, .. } => positive.len() + negative.len(),
        Buckets::Float { positive, negative, .. } => positive.len() + negative.len(),
    };
    64 + (buckets + histogram.custom_values.len()) * 8
}

/// Rows to write to the log again.
#[derive(Default)]
struct Relogged {
    /// By time, and whether they replace.
    floats: BTreeMap<(i64, bool), (Vec<SeriesRef>, Vec<f64>)>,
    histograms: Vec<(SeriesRef, i64, bool, Arc<model::Histogram>)>,
}

impl Relogged {
    /// Adds a column but for the times that `skip` names.
    fn add(&mut self, series: SeriesRef, replace: bool, column: &Column, skip: impl Fn(i64) -> bool) {
        for (time, value) in column.times.iter().zip(&column.values).filter(|(time, _)| !skip(**time)) {
            let row = self.floats.entry((*time, replace)).or_default();
            row.0.push(series);
            row.1.push(*value);
        }
        let histograms = column.histograms.iter().filter(|(time, _)| !skip(*time));
        self.histograms
            .extend(histograms.map(|(time, histogram)| (series, *time, replace, histogram.clone())));
    }
}

/// The parts that a flush is writing, by span (`None` for late samples) and whether they replace.
struct Writers<'a> {
    inner: &'a Inner,
    tenant: &'a Tenant,
    open: BTreeMap<(bool, Option<i64>), PartWriter<'a>>,
    late_before_ms: i64,
    first: u64,
    last: u64,
}

impl<'a> Writers<'a> {
    fn new(inner: &'a Inner, tenant: &'a Tenant, pinned: &FlushSnapshot, mark: u64) -> Writers<'a> {
        let late_after = i64::try_from(inner.config.late_after.as_millis()).unwrap_or(i64::MAX);
        let late_before_ms = inner.config.clock.now_ms().saturating_sub(late_after);
        let positions = pinned.tiles.iter().flat_map(|tile| &tile.blocks).map(|block| block.position);
        let first = positions.min().unwrap_or(mark).min(mark);
        Writers { inner, tenant, open: BTreeMap::new(), late_before_ms, first, last: mark }
    }

    fn add(
        &mut self,
        replace: bool,
        labels: &model::Labels,
        column: Column,
        cache: &mut TimeConcatCache,
    ) -> Result<(), PartError> {
        if column.is_empty() {
            return Ok(());
        }
        let times = || column.times.iter().copied().chain(column.histograms.iter().map(|(time, _)| *time));
        let mut spans: Vec<Option<i64>> = times().map(|time| self.span(time)).collect();
        spans.sort_unstable();
        spans.dedup();
        if let [span] = spans[..] {
            return self.writer(replace, span)?.add_series(labels, &column);
        }
        // A late part begins at the beginning of time and ends where the spans do.
        for span in spans {
            let mut own = column.clone();
            match span {
                Some(start) if start == self.last_span() => clip(&mut own, start, i64::MAX, cache),
                Some(start) => clip(&mut own, start, start + SPAN_MS - 1, cache),
                None => clip(&mut own, i64::MIN, self.first_span() - 1, cache),
            }
            self.writer(replace, span)?.add_series(labels, &own)?;
        }
        Ok(())
    }

    fn first_span(&self) -> i64 {
        self.late_before_ms.saturating_add(SPAN_MS - 1).div_euclid(SPAN_MS).saturating_mul(SPAN_MS)
    }

    fn last_span(&self) -> i64 {
        self.first_span().saturating_add(SPANS_MAX as i64 * SPAN_MS)
    }

    fn span(&self, time: i64) -> Option<i64> {
        let start = time.div_euclid(SPAN_MS).saturating_mul(SPAN_MS);
        // What is beyond all spans (a clock that is wrong) shares the last one.
        (time >= self.first_span()).then(|| start.min(self.last_span()))
    }

    fn writer(&mut self, replace: bool, span: Option<i64>) -> Result<&mut PartWriter<'a>, PartError> {
        match self.open.entry((replace, span)) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let spec = PartSpec {
                    id: self.inner.new_id(),
                    tenant: self.tenant.id.clone(),
                    level: 0,
                    wal_first: self.first,
                    wal_last: self.last,
                    late: replace || span.is_none(),
                    replace,
                };
                let writer = PartWriter::create(&*self.inner.config.disk, &self.tenant.parts_dir(), spec)?;
                Ok(entry.insert(writer))
            }
        }
    }

    fn metadata(&mut self, metric: &str, statements: &[model::Metadata]) {
        for writer in self.open.values_mut() {
            statements.iter().for_each(|statement| writer.add_metadata(metric, statement));
        }
    }

    fn finish(self) -> Result<Vec<PartInfo>, PartError> {
        self.open.into_values().map(PartWriter::finish).collect()
    }
}

impl Inner {
    /// A name for a new part.
    pub(super) fn new_id(&self) -> Ulid {
        let now_ms = u64::try_from(self.config.clock.now_ms()).unwrap_or(0);
        Ulid::from_parts(now_ms, self.random.lock().next())
    }
}
