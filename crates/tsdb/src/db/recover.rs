//! What the log brings back at start.
//!
//! The log is read twice. Definitions come first, of all segments: a flush writes those of living series
//! again while rows go on, so that a segment may have rows whose definitions follow. Then rows, in order.
//!
//! Both times one thread reads, checks and unpacks, and another puts what it gets into indexes and heads.
//! Postings are made of all series at once, beside the rows, which need none.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use model::{Labels, TenantId};
use storage::{BlockKey, Conflict, Late, Policy, SeriesRef};

use super::open::OpenError;
use super::refused::LogFile;
use super::{Inner, Tenant};
use crate::filenames;
use crate::head::Lanes;
use crate::head::index::{generation_of, slot_of};
use crate::head::rows::{Appending, FloatRow, HistogramSample};
use crate::manifest::ManifestError;
use crate::tombstone::Tombstone;
use crate::wal::record::{
    BatchEncoder, BatchRecord, Decoder, DeleteRecord, PackedDefinitions, Record, RecordError,
    unpack_definitions,
};
use crate::wal::segment::{self, Found, Segment, SegmentError};

/// Records on their way from the thread that reads to the one that restores: definitions, which are up to
/// some MiB each...
const DEFINITIONS_AHEAD: usize = 4;
/// ...and stretches of other records, which mostly are small, of about so many samples.
const STRETCHES_AHEAD: usize = 4;
const STRETCH_SAMPLES: usize = 1 << 14;

/// So many bytes of log are kept from the first reading to the second.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Column sets known to be whole; more are forgotten.
const WHOLE_MAX: usize = 1 << 16;

/// What the definitions in the log say.
#[derive(Default)]
struct Replay {
    /// References of the log that the head knows under another one.
    aliases: HashMap<u64, SeriesRef, foldhash::fast::RandomState>,
    /// Series that the log does not know under their present reference.
    undefined: Vec<(TenantId, SeriesRef, Labels)>,
    /// Columns of rows, by address, that have been found in the head under these very references.
    whole: HashMap<usize, Arc<[SeriesRef]>, foldhash::fast::RandomState>,
    rows_lost: usize,
    samples_unknown: usize,
}

impl Replay {
    /// Whether the head has all of these columns, under the references that the log gives them.
    fn is_whole(&mut self, series: &Arc<[SeriesRef]>, lanes: &Lanes) -> bool {
        if !self.aliases.is_empty() {
            return false;
        }
        // Rows of a lane share their columns, and what is remembered here keeps its address.
        let address = series.as_ptr() as usize;
        if self.whole.contains_key(&address) {
            return true;
        }
        let whole = series.iter().all(|series| lanes.home(*series).is_some());
        if whole {
            if self.whole.len() >= WHOLE_MAX {
                self.whole.clear();
            }
            self.whole.insert(address, series.clone());
        }
        whole
    }
}

/// Definitions of a record, and where it stands.
struct FoundDefinitions<'a> {
    file: &'a LogFile,
    at: usize,
    packed: PackedDefinitions,
}

/// A record as decoded, and where it stands.
struct FoundRecord<'a> {
    file: &'a LogFile,
    position: u64,
    end_position: u64,
    record: Record,
}

/// What the first reading of the log leaves to the second, and to the log of this run.
struct FirstReading<'a> {
    /// Behind all positions that are used.
    end: u64,
    /// Bytes of segments that stay.
    retained: u64,
    /// Segments that need not be read again.
    kept: HashMap<&'a Path, Segment>,
}

impl Inner {
    /// Brings back what the log has, and starts the log of this run.
    pub(super) fn recover(&self) -> Result<(), OpenError> {
        let dir = filenames::wal_dir(&self.config.dir);
        let attempt = format!("list {}", dir.display());
        let files = self.log_files().map_err(|source| OpenError::Io { attempt, source })?;
        let mut replay = Replay::default();
        let read = self.restore_definitions(&files, &mut replay)?;
        std::thread::scope(|scope| {
            scope.spawn(|| self.all_tenants().iter().for_each(|tenant| tenant.index.write().complete()));
            self.restore_rows(&files, read.kept, &mut replay)
        })?;
        self.summarise(&replay);
        if self.health.reason().is_none()
            && let Err(error) = self.sync_old_segments(&files)
        {
            self.health.fail(format!("sync the log in {}: {error}", dir.display()), &self.metrics);
        }
        let newest = files.last().map_or(0, |file| file.number);
        self.start_log(newest + 1, read.end, read.retained, &replay);
        Ok(())
    }

    /// The first reading.
    fn restore_definitions<'a>(
        &self,
        files: &'a [LogFile],
        replay: &mut Replay,
    ) -> Result<FirstReading<'a>, OpenError> {
        let known = self.known_position();
        std::thread::scope(|scope| {
            let (out, found) = sync_channel(DEFINITIONS_AHEAD);
            let reader = scope.spawn(move || self.read_definitions(files, known, &out));
            for FoundDefinitions { file, at, packed } in found {
                if file.concerns(&packed.tenant)
                    && let Err(error) = self.restore(&packed, replay)
                {
                    self.report_record(file, at, &error);
                }
            }
            reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn read_definitions<'a>(
        &self,
        files: &'a [LogFile],
        known: u64,
        out: &SyncSender<FoundDefinitions<'a>>,
    ) -> Result<FirstReading<'a>, OpenError> {
        let mut read = FirstReading { end: known, retained: 0, kept: HashMap::new() };
        let mut kept_bytes = 0;
        let last = last_of(files);
        for file in files {
            let is_last = Some(file.number) == last;
            let Some(segment) = self.read_segment(&file.path, is_last, true)? else { continue };
            if segment.good_len < segment.bytes.len() as u64 {
                self.cut_tail(&file.path, segment.good_len);
            }
            read.end = read.end.max(segment.header.first_position + segment.bytes.len() as u64);
            if file.only.is_none() {
                read.retained += segment.good_len;
            }
            for found in &segment.found {
                let Found::Record { payload, .. } = found else { continue };
                let at = payload.start;
                match unpack_definitions(&segment.bytes[payload.clone()]) {
                    // The scope passes on why nobody listens any more.
                    Ok(Some(packed)) => _ = out.send(FoundDefinitions { file, at, packed }),
                    Ok(None) => {}
                    Err(error) => self.report_record(file, at, &error),
                }
            }
            if kept_bytes + segment.bytes.len() <= KEPT_BYTES_MAX {
                kept_bytes += segment.bytes.len();
                read.kept.insert(file.path.as_path(), segment);
            }
        }
        Ok(read)
    }

    /// The second reading.
    fn restore_rows(
        &self,
        files: &[LogFile],
        kept: HashMap<&Path, Segment>,
        replay: &mut Replay,
    ) -> Result<(), OpenError> {
        std::thread::scope(|scope| {
            let (out, found) = sync_channel(STRETCHES_AHEAD);
            let (done, used) = channel();
            let reader = scope.spawn(move || self.read_rows(files, kept, out, &used));
            for stretch in found {
                stretch.iter().for_each(|record| self.replay(record, replay));
                _ = done.send(stretch);
            }
            drop(done);
            reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn read_rows<'a>(
        &self,
        files: &'a [LogFile],
        mut kept: HashMap<&Path, Segment>,
        out: SyncSender<Vec<FoundRecord<'a>>>,
        used: &Receiver<Vec<FoundRecord<'a>>>,
    ) -> Result<(), OpenError> {
        let last = last_of(files);
        let (mut stretch, mut samples) = (Vec::new(), 0);
        for file in files {
            let segment = match kept.remove(file.path.as_path()) {
                Some(segment) => segment,
                None => match self.read_segment(&file.path, Some(file.number) == last, false)? {
                    Some(segment) => segment,
                    None => continue,
                },
            };
            let mut decoder = Decoder::default();
            for found in &segment.found {
                let Found::Record { payload, end_position } = found else {
                    decoder.forget();
                    continue;
                };
                let (position, end_position) = (end_position - payload.len() as u64, *end_position);
                match decoder.read(&segment.bytes[payload.clone()]) {
                    Ok(record) => {
                        samples += record.weight();
                        stretch.push(FoundRecord { file, position, end_position, record });
                        if samples > STRETCH_SAMPLES {
                            samples = 0;
                            // The scope passes on why nobody listens any more.
                            _ = out.send(std::mem::take(&mut stretch));
                            // They are freed by the thread whose heap they are of, or each waits for the other.
                            used.try_iter().for_each(drop);
                        }
                    }
                    Err(error) => {
                        self.report_record(file, payload.start, &error);
                        decoder.forget();
                    }
                }
            }
        }
        _ = out.send(stretch);
        drop(out);
        used.iter().for_each(drop);
        Ok(())
    }

    fn report_record(&self, file: &LogFile, at: usize, error: &RecordError) {
        self.report(format!("log segment {}, byte {at}: {error}", file.path.display()));
    }

    /// A log position behind everything that manifests and parts know of.
    fn known_position(&self) -> u64 {
        let of_tenant = |tenant: Arc<Tenant>| {
            let version = tenant.version.load();
            let parts = version.parts.iter().map(|entry| entry.part.info().spec.wal_last);
            let tombstones = version.tombstones.iter().map(|tombstone| tombstone.position);
            let flushed = tenant.manifest.lock().state().flushed;
            let spilled = tenant.manifest.lock().state().spilled;
            parts.chain(tombstones).chain([flushed, spilled]).max().unwrap_or(0)
        };
        self.all_tenants().into_iter().map(of_tenant).max().unwrap_or(0) + 1
    }

    /// Reads a segment; `None` when it has no readable header.
    fn read_segment(&self, path: &Path, last: bool, report: bool) -> Result<Option<Segment>, OpenError> {
        match segment::read(&*self.config.disk, path, last) {
            Ok(segment) => {
                if report {
                    for damage in &segment.damage {
                        self.metrics.wal_damage.inc();
                        self.report(damage.to_string());
                    }
                }
                Ok(Some(segment))
            }
            Err(SegmentError::Header(damage)) => {
                if report {
                    self.metrics.wal_damage.inc();
                    self.report(damage.to_string());
                    if damage.torn_tail
                        && self.health.reason().is_none()
                        && let Err(error) = self.config.disk.remove_file(path)
                    {
                        tracing::warn!(path = %path.display(), %error, "removing an empty log segment");
                    }
                }
                Ok(None)
            }
            // The first pass has removed a segment without a header.
            Err(SegmentError::Io { source, .. }) if !report && source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(SegmentError::Newer { path, major }) => {
                let reason = format!("log format {major}, this version reads up to {}", segment::MAJOR);
                Err(OpenError::NewerFile { path, reason })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn cut_tail(&self, path: &Path, len: u64) {
        if self.health.reason().is_some() {
            return; // Without the lock, the tail may be another process's record on its way.
        }
        if let Err(error) = self.config.disk.truncate(path, len) {
            tracing::warn!(path = %path.display(), %error, "cutting the torn tail of the log");
        }
    }

    fn restore(&self, packed: &PackedDefinitions, replay: &mut Replay) -> Result<(), RecordError> {
        let sources = packed.sources()?;
        let Some(tenant) = self.replayed_tenant(&packed.tenant) else {
            let series = packed.series().map(|series| series.map(|(reference, _)| reference));
            let series = series.collect::<Result<Vec<_>, _>>()?;
            self.reserve(sources.iter().map(|source| source.0), series.into_iter());
            return Ok(());
        };
        for (reference, id, labels) in sources {
            self.restore_source(&tenant, reference, id, labels);
        }
        let mut index = tenant.index.write();
        let mut lanes = tenant.lanes.write();
        let mut restorer = index.restorer();
        let mut next_generation = 0;
        let restored = packed.series().try_for_each(|found| {
            let (wanted, labels) = found?;
            let wanted = SeriesRef(wanted);
            next_generation = next_generation.max(generation_of(wanted).wrapping_add(1));
            let (series, is_new) = restorer.restore(labels, wanted);
            if series != wanted {
                replay.aliases.insert(wanted.0, series);
            }
            if is_new {
                if series != wanted {
                    replay.undefined.push((tenant.id.clone(), series, labels.to_labels()));
                }
                lanes.admit(series);
            }
            Ok(())
        });
        self.next_generation.fetch_max(next_generation, Ordering::Relaxed);
        restored
    }

    /// The tenant of a record; `None` for one that is refused.
    fn replayed_tenant(&self, name: &str) -> Option<Arc<Tenant>> {
        let id = TenantId::new(name).ok()?;
        match self.tenant(&id) {
            Ok(tenant) => Some(tenant),
            Err(ManifestError::Refused { .. }) => None,
            Err(error) => {
                self.report(error.to_string());
                None
            }
        }
    }

    fn replay(&self, found: &FoundRecord<'_>, replay: &mut Replay) {
        let FoundRecord { file, position, end_position, ref record } = *found;
        match record {
            Record::Batch(batch) if file.concerns(&batch.tenant) => {
                if let Some(tenant) = self.replayed(file, &batch.tenant, batch.key.as_ref()) {
                    self.replay_batch(&tenant, batch, position, end_position, replay);
                } else {
                    let series = batch.rows.iter().flat_map(|row| row.series.iter()).map(|series| series.0);
                    let sources = batch.rows.iter().map(|row| row.source);
                    self.reserve(
                        sources.chain(batch.histograms.iter().map(|sample| sample.source)),
                        series.chain(batch.histograms.iter().map(|sample| sample.series)),
                    );
                }
            }
            Record::Checkpoint(taken) => {
                for entry in taken.iter().filter(|entry| file.concerns(&entry.tenant)) {
                    if let Ok(tenant) = TenantId::new(&entry.tenant) {
                        self.taken.lock().extend(&tenant, entry);
                    }
                }
            }
            Record::Delete(delete) if file.concerns(&delete.tenant) => {
                if let Some(tenant) = self.replayed(file, &delete.tenant, None) {
                    // What is to be deleted is looked for by its labels.
                    tenant.index.write().complete();
                    self.replay_delete(&tenant, delete, position);
                }
            }
            Record::Batch(_) | Record::Delete(_) => {}
        }
    }

    /// The tenant of a record, whose block is taken; `None` for one that is refused.
    fn replayed(&self, file: &LogFile, tenant: &str, key: Option<&BlockKey>) -> Option<Arc<Tenant>> {
        let id = TenantId::new(tenant).ok()?;
        if let Some(key) = key {
            self.taken.lock().insert(&id, key);
        }
        self.note_refused(file, &id);
        self.replayed_tenant(tenant)
    }

    fn replay_batch(
        &self,
        tenant: &Tenant,
        batch: &BatchRecord,
        position: u64,
        end_position: u64,
        replay: &mut Replay,
    ) {
        replay.rows_lost += batch.rows_lost;
        let mut lanes = tenant.lanes.write();
        for (metric, metadata) in &batch.metadata {
            lanes.keep_metadata(metric, metadata, self.config.metadata_statements_max);
        }
        let known = |series: u64| {
            let series = replay.aliases.get(&series).copied().unwrap_or(SeriesRef(series));
            if lanes.home(series).is_none() {
                self.never_use(series);
                return None;
            }
            Some(series)
        };
        let starts: Vec<_> =
            batch.starts.iter().filter_map(|(s, at, start)| Some((known(*s)?, *at, *start))).collect();
        let exemplars: Vec<_> =
            batch.exemplars.iter().filter_map(|(s, e)| Some((known(*s)?, e.clone()))).collect();
        starts.into_iter().for_each(|(series, at, start)| lanes.keep_start(slot_of(series), at, start));
        for (series, exemplar) in exemplars {
            lanes.keep_exemplar(series, exemplar, self.config.exemplars_max);
        }
        // Rows that a flush or a spill has written are in parts, and deletions may have been made true there.
        let (flushed, spilled) = {
            let manifest = tenant.manifest.lock();
            (manifest.state().flushed, manifest.state().spilled)
        };
        if end_position <= flushed {
            return;
        }
        let mut unused = BatchEncoder::default();
        let (mut series, mut values) = (Vec::new(), Vec::new());
        for row in batch.rows.iter().filter(|row| !row.late || end_position > spilled) {
            let Some(source) = self.replayed_source(row.source) else {
                replay.samples_unknown += row.series.len();
                row.series.iter().for_each(|series| self.never_use(*series));
                continue;
            };
            let (mut of_row, mut values_of_row) = (&*row.series, &*row.values);
            if !replay.is_whole(&row.series, &lanes) {
                series.clear();
                values.clear();
                for (number, value) in row.series.iter().zip(&row.values) {
                    let number = replay.aliases.get(&number.0).copied().unwrap_or(*number);
                    if lanes.home(number).is_some() {
                        series.push(number);
                        values.push(*value);
                    } else {
                        self.never_use(number);
                        replay.samples_unknown += 1;
                    }
                }
                (of_row, values_of_row) = (&series, &values);
            }
            let mut at = replaying(row.replace, position, &mut unused);
            let (timestamp_ms, number) = (row.timestamp_ms, 0);
            let row_at = FloatRow { number, source, timestamp_ms, series: of_row, values: values_of_row };
            if row.late {
                lanes.replay_late(&row_at, &mut at);
            } else {
                lanes.append_floats(&row_at, &mut at);
            }
            lanes.keep(at);
        }
        for sample in &batch.histograms {
            let series = replay.aliases.get(&sample.series).copied().unwrap_or(SeriesRef(sample.series));
            let source = self.replayed_source(sample.source).filter(|_| lanes.home(series).is_some());
            let Some(source) = source else {
                self.never_use(series);
                replay.samples_unknown += 1;
                continue;
            };
            let mut at = replaying(sample.replace, position, &mut unused);
            let (timestamp_ms, histogram) = (sample.timestamp_ms, &*sample.histogram);
            lanes.append_histogram(
                &HistogramSample { row: 0, source, timestamp_ms, series, histogram },
                &mut at,
            );
            lanes.keep(at);
        }
        let sealable = lanes.to_seal.len() > 256 || lanes.late.has_to_seal();
        self.count_late(&mut lanes);
        drop(lanes);
        if sealable {
            tenant.seal_closed();
        }
        self.spill_replayed(tenant, end_position);
    }

    fn replayed_source(&self, reference: u64) -> Option<u32> {
        let known = self.sources.read().get(reference).map(|(_, number)| number);
        if known.is_none() {
            let mut sources = self.sources.write();
            sources.next = sources.next.max(reference.saturating_add(1));
        }
        known
    }

    /// The log has samples under a reference whose definition is lost. A new series under it would be
    /// given them at the next start.
    fn never_use(&self, series: SeriesRef) {
        self.next_generation.fetch_max(generation_of(series).wrapping_add(1), Ordering::Relaxed);
    }

    fn replay_delete(&self, tenant: &Tenant, delete: &DeleteRecord, position: u64) {
        let DeleteRecord { ref matchers, start_ms, end_ms, .. } = *delete;
        let tombstone = Tombstone { matchers: matchers.clone(), start_ms, end_ms, position };
        if let Err(error) = tenant.replay_tombstone(tombstone) {
            self.report(error.to_string());
        }
    }

    fn summarise(&self, replay: &Replay) {
        self.all_tenants().iter().for_each(|tenant| tenant.seal_closed());
        if replay.rows_lost > 0 {
            self.report(format!(
                "the log lost {} rows that were differences to damaged ones",
                replay.rows_lost
            ));
        }
        if replay.samples_unknown > 0 {
            self.report(format!(
                "the log has {} samples of series whose definitions are lost",
                replay.samples_unknown
            ));
        }
    }

    /// Forces what an earlier process has written to the device: "durable up to here" covers it too.
    fn sync_old_segments(&self, files: &[LogFile]) -> io::Result<()> {
        for file in files.iter().filter(|file| file.only.is_none()) {
            if self.config.disk.exists(&file.path) {
                self.config.disk.open_append(&file.path)?.sync_data()?;
            }
        }
        self.config.disk.sync_dir(&filenames::wal_dir(&self.config.dir))
    }

    /// Starts the segment of this run. A disk that refuses makes the store read-only.
    fn start_log(&self, number: u64, position: u64, retained: u64, replay: &Replay) {
        if self.health.reason().is_some() {
            return;
        }
        if let Err(error) = self.wal.open_first(number, position, retained, &self.checkpoint(&|_| false)) {
            let path = filenames::segment(&self.config.dir, number);
            self.health.fail(format!("start log segment {}: {error}", path.display()), &self.metrics);
            return;
        }
        for (tenant, series, labels) in &replay.undefined {
            let logged = self.tenant(tenant).map_err(storage::StoreError::from);
            if let Err(error) = logged.and_then(|tenant| self.log_definitions(&tenant, &[(*series, labels)]))
            {
                self.report(format!("define series {labels} again: {error}"));
            }
        }
    }
}

/// The number of the segment that the log ended with.
fn last_of(files: &[LogFile]) -> Option<u64> {
    files.iter().filter(|file| file.only.is_none()).map(|file| file.number).max()
}

/// A row from the log: taken before, so nothing is refused.
fn replaying(replace: bool, position: u64, unused: &mut BatchEncoder) -> Appending<'_> {
    let conflict = if replace { Conflict::Replace } else { Conflict::Refuse };
    let mut at = Appending::new(Policy { late: Late::Accept, conflict }, position, 0, unused);
    at.replay = true;
    at
}
