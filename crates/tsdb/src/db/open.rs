//! Opening a data directory: its lock, its version, and what the log brings back.
//!
//! The log is read twice. Definitions come first, of all segments: a flush writes those of living series
//! again while rows go on, so that a segment may have rows whose definitions follow. Then rows, in order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use model::{Labels, TenantId};
use parking_lot::{Condvar, Mutex, RwLock};
use stdx::disk::Disk;
use storage::{BlockKey, Conflict, Late, Policy, SeriesRef};

use super::problems::Problems;
use super::refused::LogFile;
use super::{Inner, Sources, Tenant};
use crate::config::Config;
use crate::filenames;
use crate::head::Lanes;
use crate::head::index::{generation_of, slot_of};
use crate::head::rows::{Appending, FloatRow, HistogramSample};
use crate::manifest::ManifestError;
use crate::metrics::Metrics;
use crate::tombstone::Tombstone;
use crate::wal::record::{BatchEncoder, BatchRecord, Decoder, DeleteRecord, Record, read_definitions};
use crate::wal::segment::{self, Found, Segment, SegmentError};
use crate::wal::writer::{Health, Wal};

/// The layout of the data directory that this version writes, and the newest it reads.
pub(crate) const FORMAT: (u32, u32) = (1, 0);

/// A data directory that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("data directory {dir} is in use by process {pid}", dir = dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// What its `LOCK` file says.
        pid: String,
    },
    /// A newer version wrote it.
    #[error(
        "data directory {dir} has format {found}, this version reads up to {known}; start the version that \
         wrote it, or put a backup from before into a new directory: `marigraph restore BACKUP --data NEW`",
        dir = dir.display()
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// What its `FORMAT` file says.
        found: String,
        /// What this version knows.
        known: String,
    },
    /// A newer version wrote a file in it.
    #[error(
        "{path} was written by a newer version of marigraph ({reason}); start that version, or put a backup \
         from before into a new directory: `marigraph restore BACKUP --data NEW`",
        path = path.display()
    )]
    NewerFile {
        /// The file.
        path: PathBuf,
        /// What this version does not understand.
        reason: String,
    },
    /// `FORMAT` makes no sense.
    #[error("{path} does not name a format: {text:?}", path = path.display())]
    BadFormat {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// The disk refused.
    #[error("{attempt}: {source}")]
    Io {
        /// What was attempted.
        attempt: String,
        /// The cause.
        source: io::Error,
    },
    /// A tenant's manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A log segment was written by a newer version, or cannot be read at all.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

pub(super) fn open(config: Config) -> Result<Inner, OpenError> {
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::default());
    let mut lock = None;
    if config.read_only {
        lock = share_lock(&config)?;
        health.open_for_reading();
    } else if let Err(error) = prepare(&config, &mut lock) {
        match error {
            // A disk that cannot be written may still be read.
            OpenError::Io { attempt, source } if config.disk.exists(&config.dir.join(filenames::FORMAT)) => {
                health.fail(format!("{attempt}: {source}"), &metrics);
            }
            other => return Err(other),
        }
    }
    check_format(&*config.disk, &config.dir)?;
    crate::closed::check_versions(&*config.disk, &config.dir)?;
    let inner = Inner {
        wal: Wal::new(config.disk.clone(), config.dir.clone(), health.clone(), metrics.clone()),
        config,
        health,
        problems: Arc::new(Problems::new(metrics.clone())),
        metrics,
        tenants: RwLock::default(),
        refused: RwLock::default(),
        replayed_waiting: Mutex::default(),
        sources: RwLock::new(Sources::default()),
        next_generation: AtomicU32::new(1),
        taken: Mutex::default(),
        limits: RwLock::default(),
        random: Mutex::new(super::Random::seeded()),
        work: Mutex::default(),
        merging: Mutex::default(),
        merge_due: AtomicBool::new(false),
        late_bytes: AtomicUsize::new(0),
        spill_wanted: AtomicBool::new(false),
        stop: Mutex::new(false),
        stopped: Condvar::new(),
        _lock: lock,
    };
    if inner.health.reason().is_none() {
        inner.remove_unfinished_snapshots();
    }
    inner.open_tenants()?;
    inner.recover()?;
    Ok(inner)
}

/// Makes the directory, takes the lock and writes the format.
fn prepare(config: &Config, lock: &mut Option<File>) -> Result<(), OpenError> {
    let (disk, dir) = (&config.disk, &config.dir);
    let io = |attempt: String| move |source| OpenError::Io { attempt, source };
    let fresh = !disk.exists(dir);
    disk.create_dir_all(dir).map_err(io(format!("create data directory {}", dir.display())))?;
    if fresh && let Some(parent) = dir.parent() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        disk.sync_dir(parent).map_err(io(format!("sync {}", parent.display())))?;
    }
    if config.lock {
        *lock = Some(take_lock(dir)?);
    }
    let wal = filenames::wal_dir(dir);
    disk.create_dir_all(&wal).map_err(io(format!("create {}", wal.display())))?;
    let tenants = filenames::tenants_dir(dir);
    disk.create_dir_all(&tenants).map_err(io(format!("create {}", tenants.display())))?;
    // Whoever made these may not have lived to make their names durable.
    disk.sync_dir(dir).map_err(io(format!("sync {}", dir.display())))?;
    let format = dir.join(filenames::FORMAT);
    if !disk.exists(&format) {
        let write = || -> io::Result<()> {
            let fresh = dir.join("FORMAT.new");
            if disk.exists(&fresh) {
                disk.remove_file(&fresh)?;
            }
            let mut file = disk.create(&fresh)?;
            file.write_all(format!("{}.{}\n", FORMAT.0, FORMAT.1).as_bytes())?;
            file.sync_data()?;
            disk.rename(&fresh, &format)?;
            disk.sync_dir(dir)
        };
        write().map_err(io(format!("write {}", format.display())))?;
    }
    Ok(())
}

/// Keeps others from writing while the directory is read. A directory without a lock (a snapshot, a
/// backup) has no writer either.
fn share_lock(config: &Config) -> Result<Option<File>, OpenError> {
    let path = config.dir.join(filenames::LOCK);
    let io = |source| OpenError::Io { attempt: format!("lock {}", path.display()), source };
    let file = match File::open(&path) {
        Ok(file) if config.lock => file,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(source)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            Err(OpenError::Locked { dir: config.dir.clone(), pid })
        }
        Err(std::fs::TryLockError::Error(source)) => Err(io(source)),
    }
}

pub(crate) fn take_lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(filenames::LOCK);
    let io = |source| OpenError::Io { attempt: format!("lock {}", path.display()), source };
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(OpenError::Locked { dir: dir.to_owned(), pid });
        }
        Err(std::fs::TryLockError::Error(source)) => return Err(io(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

/// The format of the data directory `dir`, if this version reads it.
pub(crate) fn check_format(disk: &dyn Disk, dir: &Path) -> Result<(u32, u32), OpenError> {
    let path = dir.join(filenames::FORMAT);
    let attempt = format!("read {}", path.display());
    let bytes = disk.read(&path).map_err(|source| OpenError::Io { attempt, source })?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    let numbers = text.split_once('.');
    match numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?))) {
        None => Err(OpenError::BadFormat { path, text }),
        Some((major, _)) if major > FORMAT.0 => {
            let known = format!("{}.{}", FORMAT.0, FORMAT.1);
            Err(OpenError::Newer { dir: dir.to_owned(), found: text, known })
        }
        Some(format) => Ok(format),
    }
}

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

impl Inner {
    fn open_tenants(&self) -> Result<(), OpenError> {
        let dir = filenames::tenants_dir(&self.config.dir);
        let attempt = format!("list {}", dir.display());
        let paths = self.config.disk.read_dir(&dir).map_err(|source| OpenError::Io { attempt, source })?;
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(id) = TenantId::new(name) else {
                self.report(format!("{} is no tenant's directory and is left alone", path.display()));
                continue;
            };
            let mut problems = Vec::new();
            let opened = Tenant::open(&self.config, &id, self.health.reason().is_none(), &mut problems);
            let tenant = match opened {
                Ok(tenant) => tenant,
                Err(error) => {
                    self.refuse(&id, &error);
                    continue;
                }
            };
            problems.into_iter().for_each(|problem| self.report(problem));
            if self.health.reason().is_none()
                && let Err(error) = tenant.manifest.lock().sync()
            {
                self.health.fail(error.to_string(), &self.metrics);
            }
            self.tenants.write().insert(id, Arc::new(tenant));
        }
        Ok(())
    }

    fn recover(&self) -> Result<(), OpenError> {
        let dir = filenames::wal_dir(&self.config.dir);
        let attempt = format!("list {}", dir.display());
        let files = self.log_files().map_err(|source| OpenError::Io { attempt, source })?;
        let mut replay = Replay::default();
        let (mut end, mut retained) = (self.known_position(), 0);
        let (mut kept, mut kept_bytes) = (HashMap::new(), 0);
        let last = files.iter().filter(|file| file.only.is_none()).map(|file| file.number).max();
        for file in &files {
            let is_last = Some(file.number) == last;
            let Some(segment) = self.read_segment(&file.path, is_last, true)? else { continue };
            if segment.good_len < segment.bytes.len() as u64 {
                self.cut_tail(&file.path, segment.good_len);
            }
            end = end.max(segment.header.first_position + segment.bytes.len() as u64);
            if file.only.is_none() {
                retained += segment.good_len;
            }
            self.restore_definitions(&segment, file, &mut replay);
            if kept_bytes + segment.bytes.len() <= KEPT_BYTES_MAX {
                kept_bytes += segment.bytes.len();
                kept.insert(file.path.as_path(), segment);
            }
        }
        for file in &files {
            let segment = match kept.remove(file.path.as_path()) {
                Some(segment) => Some(segment),
                None => self.read_segment(&file.path, Some(file.number) == last, false)?,
            };
            if let Some(segment) = segment {
                self.replay(&segment, file, &mut replay);
            }
        }
        self.summarise(&replay);
        if self.health.reason().is_none()
            && let Err(error) = self.sync_old_segments(&files)
        {
            self.health.fail(format!("sync the log in {}: {error}", dir.display()), &self.metrics);
        }
        let newest = files.last().map_or(0, |file| file.number);
        self.start_log(newest + 1, end, retained, &replay);
        Ok(())
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

    fn restore_definitions(&self, segment: &Segment, file: &LogFile, replay: &mut Replay) {
        let path = &file.path;
        for found in &segment.found {
            let Found::Record { payload, .. } = found else { continue };
            let definitions = match read_definitions(&segment.bytes[payload.clone()]) {
                Ok(Some(definitions)) => definitions,
                Ok(None) => continue,
                Err(error) => {
                    self.report(format!("log segment {}, byte {}: {error}", path.display(), payload.start));
                    continue;
                }
            };
            if !file.concerns(&definitions.tenant) {
                continue;
            }
            let Some(tenant) = self.replayed_tenant(&definitions.tenant) else {
                let (sources, series) = (definitions.sources.iter(), definitions.series.iter());
                self.reserve(sources.map(|source| source.0), series.map(|series| series.0));
                continue;
            };
            for (reference, id, labels) in definitions.sources {
                self.restore_source(&tenant, reference, id, labels);
            }
            let mut index = tenant.index.write();
            let mut lanes = tenant.lanes.write();
            for (wanted, labels) in definitions.series {
                let wanted = SeriesRef(wanted);
                self.next_generation.fetch_max(generation_of(wanted).wrapping_add(1), Ordering::Relaxed);
                if let Some(known) = index.find(&labels) {
                    if known != wanted {
                        replay.aliases.insert(wanted.0, known);
                    }
                    continue;
                }
                let series = index.restore(&labels, wanted);
                if series != wanted {
                    replay.aliases.insert(wanted.0, series);
                    replay.undefined.push((tenant.id.clone(), series, labels));
                }
                lanes.admit(series);
            }
        }
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

    fn replay(&self, segment: &Segment, file: &LogFile, replay: &mut Replay) {
        let path = &file.path;
        let mut decoder = Decoder::default();
        for found in &segment.found {
            let Found::Record { payload, end_position } = found else {
                decoder.forget();
                continue;
            };
            let position = end_position - payload.len() as u64;
            match decoder.read(&segment.bytes[payload.clone()]) {
                Ok(Record::Batch(batch)) if file.concerns(&batch.tenant) => {
                    if let Some(tenant) = self.replayed(file, &batch.tenant, batch.key.as_ref()) {
                        self.replay_batch(&tenant, &batch, position, *end_position, replay);
                    } else {
                        let series =
                            batch.rows.iter().flat_map(|row| row.series.iter()).map(|series| series.0);
                        let sources = batch.rows.iter().map(|row| row.source);
                        self.reserve(
                            sources.chain(batch.histograms.iter().map(|sample| sample.source)),
                            series.chain(batch.histograms.iter().map(|sample| sample.series)),
                        );
                    }
                }
                Ok(Record::Checkpoint(taken)) => {
                    for entry in taken.iter().filter(|entry| file.concerns(&entry.tenant)) {
                        if let Ok(tenant) = TenantId::new(&entry.tenant) {
                            self.taken.lock().extend(&tenant, entry);
                        }
                    }
                }
                Ok(Record::Delete(delete)) if file.concerns(&delete.tenant) => {
                    if let Some(tenant) = self.replayed(file, &delete.tenant, None) {
                        self.replay_delete(&tenant, delete, position);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    self.report(format!("log segment {}, byte {}: {error}", path.display(), payload.start));
                    decoder.forget();
                }
            }
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
        let known = self.sources.read().by_reference.get(&reference).map(|(_, number)| *number);
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

    fn replay_delete(&self, tenant: &Tenant, delete: DeleteRecord, position: u64) {
        let DeleteRecord { matchers, start_ms, end_ms, .. } = delete;
        let tombstone = Tombstone { matchers, start_ms, end_ms, position };
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

/// A row from the log: taken before, so nothing is refused.
fn replaying(replace: bool, position: u64, unused: &mut BatchEncoder) -> Appending<'_> {
    let conflict = if replace { Conflict::Replace } else { Conflict::Refuse };
    let mut at = Appending::new(Policy { late: Late::Accept, conflict }, position, 0, unused);
    at.replay = true;
    at
}
