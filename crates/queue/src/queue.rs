//! The queue as all its users share it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use stdx::clock::Clock;
use stdx::disk::Disk;

use crate::cursor::ReaderState;
use crate::error::QueueError;
use crate::intervals::Intervals;
use crate::pending::Pending;
use crate::reader::Reader;
use crate::segment::Segment;
use crate::sync::{SyncHandle, SyncState};

/// Where random ids come from; a simulation hands in its own.
#[derive(Clone)]
pub struct Ids(pub Arc<dyn Fn() -> u128 + Send + Sync>);

impl Default for Ids {
    fn default() -> Ids {
        Ids(Arc::new(rand::random))
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}

/// The bounds of a queue.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of all segments together; past it the oldest are dropped.
    pub bytes_max: u64,
    /// Segments last written longer ago than this are dropped.
    pub age_max: Duration,
    /// A segment is due for rotation at this size (or at a quarter of `bytes_max`, if that is less).
    pub segment_bytes_max: u64,
    /// A segment is due for rotation at this age.
    pub segment_age_max: Duration,
    /// Payloads are at most this long.
    pub block_bytes_max: usize,
    /// The source of ids.
    pub ids: Ids,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            bytes_max: 8 << 30,
            age_max: Duration::from_secs(7 * 24 * 3600),
            segment_bytes_max: 64 << 20,
            segment_age_max: Duration::from_secs(30 * 60),
            block_bytes_max: 16 << 20,
            ids: Ids::default(),
        }
    }
}

/// Where a reader that is new to the queue begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest block there is.
    Oldest,
    /// With the next block that will be written.
    Now,
}

/// A segment, as others may know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Number of its file; grows with age, also over incarnations.
    pub segment: u64,
    /// Whose blocks.
    pub incarnation: u128,
    /// Its first block.
    pub first: u64,
    /// One past its last block.
    pub next: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// Samples in it.
    pub samples: u64,
    /// Timestamp of the oldest row, milliseconds since the epoch; `i64::MAX` without rows.
    pub oldest_ms: i64,
    /// Timestamp of the newest row; `i64::MIN` without rows.
    pub newest_ms: i64,
    /// Whether it has been ended: nothing is added to it any more.
    pub ended: bool,
}

/// The queue in figures, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes of all segments.
    pub bytes: u64,
    /// Number of segments.
    pub segments: usize,
    /// Blocks written since the queue was opened.
    pub blocks_written: u64,
    /// Whether a sync has failed, so that nothing more is written.
    pub read_only: bool,
}

/// A queue on disk. Clones share it.
#[derive(Debug, Clone)]
pub struct Queue(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    /// The bounds in force: those of the options, or narrower ones.
    bounds: Mutex<(u64, Duration)>,
    pub(crate) id: u128,
    pub(crate) incarnation: u128,
    state: Mutex<State>,
    /// Held while cursor files are written, so that an older state never replaces a newer one.
    pub(crate) cursor_files: Mutex<()>,
    pub(crate) syncing: Mutex<SyncState>,
    pub(crate) synced: Condvar,
    hooks: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// By number.
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) readers: BTreeMap<String, ReaderEntry>,
    /// The number that the next segment gets.
    pub(crate) next_segment: u64,
    /// The number that the next block gets.
    pub(crate) next_block: u64,
    pub(crate) read_only: Option<String>,
    pub(crate) rotation_wanted: bool,
    /// What the next sync has to sync, and whether names are among it.
    pub(crate) unsynced: Vec<SyncHandle>,
    pub(crate) names_unsynced: bool,
    /// Segments have been removed, and a power cut may bring them back.
    pub(crate) removed_unsynced: bool,
}

#[derive(Debug, Default)]
pub(crate) struct ReaderEntry {
    pub(crate) state: ReaderState,
    /// There is a handle.
    pub(crate) open: bool,
    /// The file is behind.
    pub(crate) dirty: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("dir", &self.dir)
            .field("id", &self.id)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dir: PathBuf,
        options: Options,
        (id, incarnation): (u128, u128),
        state: State,
    ) -> Shared {
        let bounds = Mutex::new((options.bytes_max, options.age_max));
        Shared {
            disk,
            clock,
            dir,
            bounds,
            options,
            id,
            incarnation,
            state: Mutex::new(state),
            cursor_files: Mutex::default(),
            syncing: Mutex::default(),
            synced: Condvar::new(),
            hooks: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Bytes of all segments together, and the age of a segment.
    pub(crate) fn bounds(&self) -> (u64, Duration) {
        *self.bounds.lock()
    }

    pub(crate) fn check_writable(&self) -> Result<(), QueueError> {
        match &self.state().read_only {
            Some(reason) => Err(QueueError::ReadOnly { path: self.dir.clone(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn tell_of_write(&self) {
        for hook in self.hooks.lock().iter() {
            hook();
        }
    }
}

impl State {
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// The segment of `incarnation` that `block` lies in.
    pub(crate) fn segment_of(&self, incarnation: u128, block: u64) -> Option<&Segment> {
        let is_in = |segment: &&Segment| {
            segment.incarnation == incarnation && (segment.first..segment.next).contains(&block)
        };
        self.segments.values().rev().find(is_in)
    }
}

impl Queue {
    /// The random id of the directory.
    pub fn id(&self) -> u128 {
        self.0.id
    }

    /// The random id of this opening.
    pub fn incarnation(&self) -> u128 {
        self.0.incarnation
    }

    /// The queue's directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The number that the next block gets.
    pub fn next_block(&self) -> u64 {
        self.0.state().next_block
    }

    /// The number that the next segment gets: all that exist have lower ones. For [`Reader::split_at`].
    pub fn next_segment(&self) -> u64 {
        self.0.state().next_segment
    }

    /// From now on the narrower of these and of the options bound the queue; what is past them goes with the next upkeep.
    /// `None` leaves the options'.
    pub fn narrow(&self, bytes_max: Option<u64>, age_max: Option<Duration>) {
        let options = &self.0.options;
        let bytes = bytes_max.map_or(options.bytes_max, |max| max.min(options.bytes_max));
        let age = age_max.map_or(options.age_max, |max| max.min(options.age_max));
        *self.0.bounds.lock() = (bytes, age);
    }

    /// Asks the encoder to rotate before its next block.
    pub fn request_rotation(&self) {
        self.0.state().rotation_wanted = true;
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.0.state().segments.values().map(Segment::info).collect()
    }

    /// The queue in figures.
    pub fn stats(&self) -> Stats {
        let state = self.0.state();
        Stats {
            bytes: state.bytes(),
            segments: state.segments.len(),
            blocks_written: state.next_block,
            read_only: state.read_only.is_some(),
        }
    }

    /// Calls `hook` after each block that is written, on the writer's thread: it should do no more than wake
    /// somebody.
    pub fn on_write(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.0.hooks.lock().push(Box::new(hook));
    }

    /// Opens the reader of this name; one that the queue does not know yet begins at `start`.
    ///
    /// # Errors
    /// [`QueueError::Name`]; [`QueueError::Open`] while there is another handle of it; and when its file cannot
    /// be written.
    pub fn reader(&self, name: &str, start: Start) -> Result<Reader, QueueError> {
        check_name(name)?;
        if !self.0.state().readers.contains_key(name) {
            // A power cut may not bring back what went before its start.
            self.0.forget_removed()?;
        }
        let new = {
            let mut state = self.0.state();
            match state.readers.get_mut(name) {
                Some(entry) if entry.open => return Err(QueueError::Open(name.to_owned())),
                Some(entry) => {
                    entry.open = true;
                    false
                }
                None => {
                    let mut entry = ReaderEntry { open: true, dirty: true, ..ReaderEntry::default() };
                    if start == Start::Now {
                        entry.state.done = everything(&state);
                    }
                    state.readers.insert(name.to_owned(), entry);
                    true
                }
            }
        };
        let reader = Reader::new(self.clone(), name.to_owned());
        if new && let Err(error) = reader.persist() {
            drop(reader);
            self.0.state().readers.remove(name);
            return Err(error);
        }
        Ok(reader)
    }

    /// The names of all readers, open or not, sorted.
    pub fn readers(&self) -> Vec<String> {
        self.0.state().readers.keys().cloned().collect()
    }

    /// What each reader has still to do, by name, open or not.
    pub fn pending(&self) -> Vec<(String, Pending)> {
        let state = self.0.state();
        let of = |entry: &ReaderEntry| Pending::of(state.segments.values(), Some(&entry.state));
        state.readers.iter().map(|(name, entry)| (name.clone(), of(entry))).collect()
    }

    /// Forgets a reader, so that no block waits for it any more. Whether there was one.
    ///
    /// # Errors
    /// [`QueueError::Open`] while there is a handle of it, and when its file cannot be removed.
    pub fn remove_reader(&self, name: &str) -> Result<bool, QueueError> {
        let _files = self.0.cursor_files.lock();
        match self.0.state().readers.get(name) {
            None => return Ok(false),
            Some(entry) if entry.open => return Err(QueueError::Open(name.to_owned())),
            Some(_) => {}
        }
        let path = self.0.cursor_path(name);
        if self.0.disk.exists(&path) {
            self.0.disk.remove_file(&path).map_err(QueueError::io("remove", &path))?;
            let dir = self.0.readers_dir();
            self.0.disk.sync_dir(&dir).map_err(QueueError::io("sync", &dir))?;
        }
        self.0.state().readers.remove(name);
        Ok(true)
    }
}

/// All blocks that there are.
fn everything(state: &State) -> BTreeMap<u128, Intervals> {
    let mut done: BTreeMap<u128, Intervals> = BTreeMap::new();
    for segment in state.segments.values().filter(|segment| segment.next > segment.first) {
        done.entry(segment.incarnation).or_default().insert(segment.first, segment.next - 1);
    }
    done
}

pub(crate) fn check_name(name: &str) -> Result<(), QueueError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let starts_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if starts_well && name.len() <= 64 && name.bytes().all(fits) {
        return Ok(());
    }
    Err(QueueError::Name(name.to_owned()))
}

impl Segment {
    pub(crate) fn info(&self) -> SegmentInfo {
        SegmentInfo {
            segment: self.number,
            incarnation: self.incarnation,
            first: self.first,
            next: self.next,
            bytes: self.bytes,
            rows: self.sums.rows,
            samples: self.sums.samples,
            oldest_ms: self.sums.oldest_ms,
            newest_ms: self.sums.newest_ms,
            ended: self.ended,
        }
    }
}
