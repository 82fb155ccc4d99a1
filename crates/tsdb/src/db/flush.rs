//! The head into parts, and the log cut behind it.
//!
//! 1. The log starts a new segment. Everything before it is in heads by now or will not be.
//! 2. Each tenant closes its open rows and pins what is closed. A tenant with little has its rows
//!    written to the new segment again; the others get parts: one for each two hours, and one for
//!    everything older than two days. Many late samples are spilled first (`spill`).
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

use super::outputs::{Spans, Writers};
use super::{Db, Inner, Tenant};
use crate::filenames;
use crate::head::snapshot::FlushSnapshot;
use crate::manifest::{Edit, ManifestError};
use crate::merge::{Piece, TimeConcatCache, combine};
use crate::part::{Part, PartError, file_name};
use crate::version::PartEntry;
use crate::wal::record::{BatchEncoder, HistogramToLog, LATE_LOOSE, LaneLog, NO_LANE, RowToLog};

/// A part of a flush holds samples of one such span, milliseconds.
pub(super) const SPAN_MS: i64 = 2 * 3600 * 1000;
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
        // Sealed tiles of half an hour have gone, from between what stays.
        stdx::memory::give_back();
        Ok(())
    }

    fn flush_tenant(&self, tenant: &Tenant, small: usize) -> Result<(), FlushError> {
        self.spill_much(tenant)?;
        let (pinned, mark) = {
            let mut lanes = tenant.lanes.write();
            let pinned = lanes.pin_for_flush();
            (pinned, self.wal.position())
        };
        tenant.seal_closed();
        let (places, active) = pinned.places();
        let samples = pinned.samples();
        if samples > small {
            let late_after = i64::try_from(self.config.late_after.as_millis()).unwrap_or(i64::MAX);
            let late_before_ms = self.config.clock.now_ms().saturating_sub(late_after);
            self.write_parts(tenant, &pinned, &places, mark, Spans::recent(late_before_ms))?;
            let newest_ms = tenant.version.load().newest_ms();
            let mut lanes = tenant.lanes.write();
            lanes.prune(pinned.flush.unwrap_or(0));
            lanes.prune_late(pinned.spill);
            lanes.forget_starts(&pinned);
            lanes.flushed_max_ms = lanes.flushed_max_ms.max(newest_ms);
            self.count_late(&mut lanes);
        } else if samples > 0 {
            self.log_again(tenant, &pinned, &places)?;
            // The rows are in the head still, to be written by a later flush.
            tenant.lanes.write().flush_later(pinned.flush.unwrap_or(0));
        }
        self.remove_idle(tenant, &active);
        self.define_again(tenant)
    }

    /// Writes what a flush or a spill has pinned, of records up to `mark`, and shows it in its place.
    pub(super) fn write_parts(
        &self,
        tenant: &Tenant,
        pinned: &FlushSnapshot,
        places: &[(u32, u32, u16)],
        mark: u64,
        spans: Spans,
    ) -> Result<(), FlushError> {
        let in_part = |source| FlushError::Part { tenant: tenant.id.to_string(), source };
        let dir = tenant.parts_dir();
        let made = self.config.disk.create_dir_all(&dir);
        let made = made.and_then(|()| self.config.disk.sync_dir(&filenames::tenants_dir(&self.config.dir)));
        made.and_then(|()| self.config.disk.sync_dir(&tenant.dir))
            .map_err(|source| FlushError::Io { attempt: format!("create {}", dir.display()), source })?;
        let first = pinned.first_position().unwrap_or(mark).min(mark);
        let mut writers = Writers::new(self, tenant, spans, (first, mark));
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
            .edit(Edit::Parts {
                add,
                drop: Vec::new(),
                flushed: pinned.flush.map(|_| mark),
                spilled: Some(mark),
            })
            .map_err(|source| FlushError::Manifest { tenant: tenant.id.to_string(), source })?;
        let before = tenant.version.load();
        let mut version = before.with_parts(before.parts.iter().cloned().chain(entries).collect());
        version.pruned = version.pruned.max(pinned.flush.unwrap_or(0));
        version.spilled = pinned.spill;
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
        let mut slots = pinned.slots(places);
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
                pinned
                    .read_lanes(*slot, places, &mut cache, &mut pieces)
                    .and_then(|()| pinned.read_late(*slot, &mut cache, &mut pieces))
                    .map_err(|error| PartError::Invalid {
                        path: tenant.parts_dir(),
                        reason: format!("sealed samples of series {labels} cannot be read: {error}"),
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
        for slot in pinned.slots(places) {
            let series = crate::head::index::reference(slot, index.generation(slot));
            let (mut pieces, mut late) = (Vec::new(), Vec::new());
            let read = pinned.read_lanes(slot, places, &mut cache, &mut pieces);
            read.and_then(|()| pinned.read_late(slot, &mut cache, &mut late)).map_err(|error| {
                FlushError::Io {
                    attempt: format!("read sealed samples of tenant {}", tenant.id),
                    source: std::io::Error::other(error.to_string()),
                }
            })?;
            // A replacement that came meanwhile is in the log already, and has to stay the last.
            let replaced = |time| lanes.has_replacement(slot, time);
            for piece in pieces {
                let kind = LoggedAgain { late: false, replace: piece.rank.replace };
                rows.add(series, kind, &piece.column, replaced);
            }
            // Of several replacements at a time, the last of all is the one that stands.
            let (mut late, mut plain): (Vec<Piece>, Vec<Piece>) =
                late.into_iter().partition(|piece| piece.rank.replace);
            for (replace, pieces) in [(false, &mut plain), (true, &mut late)] {
                let column = combine(pieces, &mut cache);
                rows.add(series, LoggedAgain { late: true, replace }, &column, replaced);
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
        for ((timestamp_ms, kind), (series, values)) in &rows.floats {
            let row = RowToLog {
                source: reference,
                lane: if kind.late { LATE_LOOSE } else { NO_LANE },
                timestamp_ms: *timestamp_ms,
                replace: kind.replace,
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

/// What rows are that are written to the log again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LoggedAgain {
    /// Of the late lane.
    late: bool,
    /// Whether they replace others.
    replace: bool,
}

/// Rows to write to the log again.
#[derive(Default)]
struct Relogged {
    /// By time and kind.
    floats: BTreeMap<(i64, LoggedAgain), (Vec<SeriesRef>, Vec<f64>)>,
    histograms: Vec<(SeriesRef, i64, bool, Arc<model::Histogram>)>,
}

impl Relogged {
    /// Adds a column but for the times that `skip` names.
    fn add(&mut self, series: SeriesRef, kind: LoggedAgain, column: &Column, skip: impl Fn(i64) -> bool) {
        for (time, value) in column.times.iter().zip(&column.values).filter(|(time, _)| !skip(**time)) {
            let row = self.floats.entry((*time, kind)).or_default();
            row.0.push(series);
            row.1.push(*value);
        }
        let histograms = column.histograms.iter().filter(|(time, _)| !skip(*time));
        self.histograms
            .extend(histograms.map(|(time, histogram)| (series, *time, kind.replace, histogram.clone())));
    }
}

impl Inner {
    /// A name for a new part.
    pub(super) fn new_id(&self) -> Ulid {
        let now_ms = u64::try_from(self.config.clock.now_ms()).unwrap_or(0);
        Ulid::from_parts(now_ms, self.random.lock().next())
    }
}
