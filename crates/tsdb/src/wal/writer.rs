//! The open end of the log.
//!
//! Appending takes two steps. [`Wal::submit`] queues a record and gives its position; [`Wal::commit`]
//! returns when the queue up to there has been written. Whoever comes first writes for all that wait
//! behind: under contention many batches share one `write`.
//!
//! **Segments.** A record that holds differences is only good in the segment it was made for, so the
//! encoder holds a [`SegmentGuard`] from the moment it learns the segment's number until it has
//! submitted; a new segment waits for that.
//!
//! **Failures.** A write that fails is taken back by cutting the file; then the store is sound and its
//! batches are refused with the cause. If the cut fails too, or any sync fails, nothing more is written
//! until restart.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use stdx::disk::{AppendFile, Disk};
use storage::StoreError;

use super::segment::{HEADER_LEN, Header, RECORD_BYTES_MAX, put_frame};
use crate::filenames;
use crate::metrics::Metrics;

/// Failed writes remembered for those who wait for their records.
const FAILURES_MAX: usize = 1024;

/// Whether the store still writes.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Option<String>>);

impl Health {
    /// Declares the data directory read-only until restart.
    pub(crate) fn fail(&self, reason: String, metrics: &Metrics) {
        let mut failed = self.0.lock();
        if failed.is_none() {
            tracing::error!(reason, "the data directory is read-only until restart");
            metrics.read_only.set(1);
            *failed = Some(reason);
        }
    }

    /// Lets nothing be written: that was asked for.
    pub(crate) fn open_for_reading(&self) {
        self.0.lock().get_or_insert_with(|| "it was opened for reading only".to_owned());
    }

    /// Why nothing is written, if so.
    pub(crate) fn reason(&self) -> Option<String> {
        self.0.lock().clone()
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(StoreError::ReadOnly { reason }),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    /// Held for reading while a record is made for a segment, for writing to end the segment.
    segment: RwLock<u64>,
    queue: Mutex<Queue>,
    file: Mutex<Option<OpenSegment>>,
    /// Held by whoever syncs.
    syncing: Mutex<()>,
    durable: Mutex<u64>,
    durable_moved: Condvar,
    work: Mutex<SyncWork>,
    work_arrived: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The position behind the last record queued.
    end: u64,
    /// What earlier failures took: records that end behind the first position and not behind the
    /// second are gone. The latest of them: those who wait for a record hear of it soon.
    failed: VecDeque<(u64, u64, Arc<io::Error>)>,
}

impl Queue {
    /// Why the record that ends at `position` was not written, if so.
    fn failure(&self, position: u64) -> Option<&io::Error> {
        let failed = self.failed.iter().find(|(from, to, _)| *from < position && position <= *to);
        failed.map(|(_, _, error)| &**error)
    }
}

#[derive(Debug)]
struct OpenSegment {
    path: PathBuf,
    writer: Box<dyn AppendFile>,
    /// A second handle, so that a sync does not hold up writes.
    syncer: Syncer,
    /// Whether a write failed: nothing more goes into this file.
    broken: bool,
    /// Length of the file, bytes.
    len: u64,
    /// The position behind the last record written.
    written: u64,
    /// Bytes of ended segments that still exist.
    retained: u64,
}

type Syncer = Arc<Mutex<Box<dyn AppendFile>>>;

#[derive(Debug, Default)]
struct SyncWork {
    dirty: bool,
    stop: bool,
}

/// Keeps the current segment current.
pub(crate) struct SegmentGuard<'a>(RwLockReadGuard<'a, u64>);

impl SegmentGuard<'_> {
    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        *self.0
    }
}

impl Wal {
    /// A log below the data directory `dir`, without a segment yet.
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, health: Arc<Health>, metrics: Arc<Metrics>) -> Wal {
        Wal {
            disk,
            dir,
            health,
            metrics,
            segment: RwLock::new(0),
            queue: Mutex::default(),
            file: Mutex::new(None),
            syncing: Mutex::default(),
            durable: Mutex::new(0),
            durable_moved: Condvar::new(),
            work: Mutex::default(),
            work_arrived: Condvar::new(),
        }
    }

    /// Starts the first segment of this run, `number`, at `position`, with `checkpoint` as its first
    /// record. `retained` is the length of all earlier segments together, bytes.
    pub(crate) fn open_first(
        &self,
        number: u64,
        position: u64,
        retained: u64,
        checkpoint: &[u8],
    ) -> io::Result<()> {
        let mut segment = self.segment.write();
        let mut file = self.file.lock();
        let mut opened = self.create(number, position, checkpoint)?;
        opened.retained = retained;
        self.queue.lock().end = opened.written;
        *self.durable.lock() = position;
        *file = Some(opened);
        *segment = number;
        self.mark_dirty();
        Ok(())
    }

    fn create(&self, number: u64, first_position: u64, checkpoint: &[u8]) -> io::Result<OpenSegment> {
        let path = filenames::segment(&self.dir, number);
        let mut writer = self.disk.create(&path)?;
        let mut bytes = Header { number, first_position }.encode().to_vec();
        debug_assert_eq!(bytes.len(), HEADER_LEN);
        put_frame(checkpoint, &mut bytes);
        writer.write_all(&bytes)?;
        self.disk.sync_dir(&filenames::wal_dir(&self.dir))?;
        let syncer = Arc::new(Mutex::new(self.disk.open_append(&path)?));
        let len = bytes.len() as u64;
        let written = first_position + len;
        Ok(OpenSegment { path, writer, syncer, broken: false, len, written, retained: 0 })
    }

    /// The current segment, which stays current while the guard lives.
    pub(crate) fn segment(&self) -> SegmentGuard<'_> {
        SegmentGuard(self.segment.read())
    }

    /// The position behind everything submitted so far.
    pub(crate) fn position(&self) -> u64 {
        self.queue.lock().end
    }

    /// Bytes of the log on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.file.lock().as_ref().map_or(0, |open| open.retained + open.len)
    }

    /// Length of the current segment, bytes.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.file.lock().as_ref().map_or(0, |open| open.len)
    }

    /// Queues a record made for the guarded segment; the position behind it.
    pub(crate) fn submit(&self, _segment: &SegmentGuard<'_>, payload: &[u8]) -> Result<u64, StoreError> {
        self.health.check()?;
        if payload.len() > RECORD_BYTES_MAX {
            let source =
                io::Error::new(io::ErrorKind::InvalidInput, "the batch is too large for one log record");
            return Err(StoreError::Io { attempt: "append to the log".into(), source });
        }
        let mut queue = self.queue.lock();
        let before = queue.bytes.len();
        put_frame(payload, &mut queue.bytes);
        queue.end += (queue.bytes.len() - before) as u64;
        Ok(queue.end)
    }

    /// Returns when the record that ends at `position` has been written, writing it (and all others
    /// that wait) if nobody else has.
    pub(crate) fn commit(&self, position: u64) -> Result<(), StoreError> {
        let mut file = self.file.lock();
        let Some(open) = file.as_mut() else {
            return Err(StoreError::ReadOnly { reason: "the log is closed".into() });
        };
        self.outcome(open, position).unwrap_or_else(|| {
            self.write_queue(open);
            self.outcome(open, position).unwrap_or_else(|| self.health.check())
        })
    }

    /// What became of the record at `position`; `None` when it still waits.
    fn outcome(&self, open: &OpenSegment, position: u64) -> Option<Result<(), StoreError>> {
        let queue = self.queue.lock();
        if let Some(error) = queue.failure(position) {
            let source = io::Error::new(error.kind(), error.to_string());
            let attempt = format!("write log segment {}", open.path.display());
            return Some(Err(StoreError::Io { attempt, source }));
        }
        (open.written >= position).then_some(Ok(()))
    }

    fn write_queue(&self, open: &mut OpenSegment) {
        if open.broken || self.health.reason().is_some() {
            let error = io::Error::other("an earlier write to this log segment failed");
            self.refuse_queue(open, error);
            return;
        }
        let (bytes, end) = {
            let mut queue = self.queue.lock();
            (std::mem::take(&mut queue.bytes), queue.end)
        };
        if bytes.is_empty() {
            return;
        }
        if let Err(error) = open.writer.write_all(&bytes) {
            self.take_back(open, error);
            return;
        }
        open.len += bytes.len() as u64;
        open.written = end;
        self.metrics.wal_bytes_written.inc_by(bytes.len() as u64);
        self.metrics.wal_writes.inc();
        let mut queue = self.queue.lock();
        if queue.bytes.is_empty() {
            // Give the buffer back, so that a steady load allocates nothing.
            queue.bytes = bytes;
            queue.bytes.clear();
        }
        drop(queue);
        self.mark_dirty();
    }

    /// Removes what a failed write left. The positions of the failed records stay used, so this segment
    /// takes no more: in a segment, a position is the first one plus the offset.
    fn take_back(&self, open: &mut OpenSegment, error: io::Error) {
        self.metrics.wal_write_failures.inc();
        tracing::error!(path = %open.path.display(), %error, "write to the log failed");
        if let Err(cut) = self.disk.truncate(&open.path, open.len) {
            let reason = format!("write log segment {}: {error}; cut it back: {cut}", open.path.display());
            self.health.fail(reason, &self.metrics);
        }
        self.refuse_queue(open, error);
    }

    fn refuse_queue(&self, open: &mut OpenSegment, error: io::Error) {
        let mut queue = self.queue.lock();
        queue.bytes.clear();
        if queue.failed.len() == FAILURES_MAX {
            queue.failed.pop_front();
        }
        let end = queue.end;
        queue.failed.push_back((open.written, end, Arc::new(error)));
        open.broken = true;
    }

    /// Whether a write has failed, so that a new segment is needed before the next.
    pub(crate) fn is_broken(&self) -> bool {
        self.file.lock().as_ref().is_some_and(|open| open.broken)
    }

    /// Ends the current segment and starts the next, which begins with the record that `checkpoint`
    /// makes; it is told which positions are those of records that failed. The new segment's number
    /// and first position.
    ///
    /// What a checkpoint says of earlier records has to be true after a power cut, too, and no device writes files in
    /// order: so everything before it is synced first.
    pub(crate) fn roll(
        &self,
        checkpoint: impl FnOnce(&dyn Fn(u64) -> bool) -> Vec<u8>,
    ) -> Result<(u64, u64), StoreError> {
        // Most of it without holding up others.
        self.sync()?;
        let _turn = self.syncing.lock();
        let mut segment = self.segment.write();
        let mut file = self.file.lock();
        let Some(open) = file.as_mut() else {
            return Err(StoreError::ReadOnly { reason: "the log is closed".into() });
        };
        if !open.broken {
            self.write_queue(open);
        }
        self.sync_file(&open.syncer, &open.path, open.written)?;
        let (number, position) = (*segment + 1, self.queue.lock().end);
        let checkpoint = checkpoint(&|position| self.queue.lock().failure(position).is_some());
        let mut next = self.create(number, position, &checkpoint).map_err(|source| {
            // The name is not used again, even if what there is of the file cannot be removed.
            *segment += 1;
            let path = filenames::segment(&self.dir, number);
            if let Err(error) = self.disk.remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "removing a log segment that could not be started");
            }
            let attempt = format!("start log segment {}", path.display());
            StoreError::Io { attempt, source }
        })?;
        self.queue.lock().end = next.written;
        next.retained = open.retained + open.len;
        *file = Some(next);
        *segment = number;
        drop(file);
        self.mark_dirty();
        Ok((number, position))
    }

    /// Removes the segments numbered below `number`.
    pub(crate) fn remove_below(&self, number: u64) -> io::Result<()> {
        let dir = filenames::wal_dir(&self.dir);
        let mut removed = 0;
        for path in self.disk.read_dir(&dir)? {
            if filenames::segment_number(&path).is_some_and(|n| n < number) {
                let len = self.disk.open_read(&path).and_then(|file| file.len()).unwrap_or(0);
                self.disk.remove_file(&path)?;
                removed += len;
            }
        }
        if let Some(open) = self.file.lock().as_mut() {
            open.retained = open.retained.saturating_sub(removed);
        }
        self.disk.sync_dir(&dir)
    }

    /// Forces everything written so far to the device.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let _turn = self.syncing.lock();
        self.health.check()?;
        let (syncer, path, written) = {
            let file = self.file.lock();
            let Some(open) = file.as_ref() else { return Ok(()) };
            (open.syncer.clone(), open.path.clone(), open.written)
        };
        self.sync_file(&syncer, &path, written)
    }

    /// Forces a segment to the device, which has all up to `written`; those before it have been.
    fn sync_file(&self, syncer: &Syncer, path: &Path, written: u64) -> Result<(), StoreError> {
        if *self.durable.lock() >= written {
            return Ok(());
        }
        let started = std::time::Instant::now();
        if let Err(error) = syncer.lock().sync_data() {
            self.metrics.wal_sync_failures.inc();
            self.health.fail(format!("sync log segment {}: {error}", path.display()), &self.metrics);
            self.durable_moved.notify_all();
            return self.health.check();
        }
        self.metrics.wal_sync_seconds.observe(started.elapsed().as_secs_f64());
        let mut durable = self.durable.lock();
        *durable = (*durable).max(written);
        self.durable_moved.notify_all();
        Ok(())
    }

    /// Waits for the commit thread to make `position` durable.
    pub(crate) fn wait_durable(&self, position: u64) -> Result<(), StoreError> {
        let mut durable = self.durable.lock();
        while *durable < position {
            self.health.check()?;
            self.durable_moved.wait_for(&mut durable, Duration::from_millis(500));
        }
        Ok(())
    }

    /// How far the log survives a power cut.
    pub(crate) fn durable(&self) -> u64 {
        *self.durable.lock()
    }

    fn mark_dirty(&self) {
        let mut work = self.work.lock();
        if !work.dirty {
            work.dirty = true;
            self.work_arrived.notify_one();
        }
    }

    /// The commit thread: syncs once an interval while there is something to sync.
    pub(crate) fn run_commits(&self, interval: Duration) {
        loop {
            {
                let mut work = self.work.lock();
                while !work.dirty && !work.stop {
                    self.work_arrived.wait(&mut work);
                }
                if work.stop {
                    return;
                }
                if !interval.is_zero() {
                    // Only a stop ends this wait early: `dirty` is set already.
                    self.work_arrived.wait_for(&mut work, interval);
                }
                work.dirty = false;
            }
            if self.sync().is_err() {
                return;
            }
        }
    }

    /// Ends [`run_commits`](Self::run_commits).
    pub(crate) fn stop_commits(&self) {
        self.work.lock().stop = true;
        self.work_arrived.notify_all();
    }

    /// Closes the log; appends are refused from now on.
    pub(crate) fn close(&self) {
        *self.file.lock() = None;
    }
}
