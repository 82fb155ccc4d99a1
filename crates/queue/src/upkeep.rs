//! What has to be done from time to time: cursors to disk, segments away.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cursor::{Lost, LostReason, ReaderState};
use crate::error::QueueError;
use crate::intervals::Intervals;
use crate::queue::{Queue, ReaderEntry, Shared};
use crate::segment::{START_LEN, Segment, Sums, Walk, file_name};

/// What [`Queue::upkeep`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upkeep {
    /// Segments that every reader had done with.
    pub freed_segments: usize,
    /// Bytes of those.
    pub freed_bytes: u64,
    /// Segments dropped at a bound; what each reader lost by it stands in [`Reader::lost`](crate::Reader::lost).
    pub dropped_segments: usize,
    /// Bytes of those.
    pub dropped_bytes: u64,
}

impl Queue {
    /// Writes the cursors that have moved, removes segments that every reader has done with, and drops the
    /// oldest ones past the bounds of age and bytes. To be called every second or so. Without any reader
    /// nothing is done with.
    ///
    /// # Errors
    /// When a cursor cannot be written (it will be tried again) or a file cannot be removed. What could be
    /// done has been done.
    pub fn upkeep(&self) -> Result<Upkeep, QueueError> {
        let shared = &*self.0;
        let mut result = shared.write_cursors();
        let mut upkeep = Upkeep::default();
        for (number, bytes) in shared.done_with() {
            match shared.remove(number) {
                Ok(()) => {
                    upkeep.freed_segments += 1;
                    upkeep.freed_bytes += bytes;
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        for (reason, number, bytes) in shared.past_bounds() {
            match shared.drop_segment(number, reason) {
                Ok(()) => {
                    upkeep.dropped_segments += 1;
                    upkeep.dropped_bytes += bytes;
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        result = result.and(shared.forget_removed()).and(shared.write_cursors());
        result.map(|()| upkeep)
    }
}

impl Shared {
    pub(crate) fn segments_dir(&self) -> PathBuf {
        self.dir.join("segments")
    }

    pub(crate) fn readers_dir(&self) -> PathBuf {
        self.dir.join("readers")
    }

    pub(crate) fn segment_path(&self, number: u64) -> PathBuf {
        self.segments_dir().join(file_name(number))
    }

    pub(crate) fn cursor_path(&self, name: &str) -> PathBuf {
        self.readers_dir().join(format!("{name}.cursor"))
    }

    fn write_cursors(&self) -> Result<(), QueueError> {
        let dirty: Vec<String> = {
            let state = self.state();
            state.readers.iter().filter(|(_, entry)| entry.dirty).map(|(name, _)| name.clone()).collect()
        };
        let mut result = Ok(());
        for name in &dirty {
            result = result.and(self.write_cursor(name));
        }
        result
    }

    pub(crate) fn write_cursor(&self, name: &str) -> Result<(), QueueError> {
        let _files = self.cursor_files.lock();
        let bytes = {
            let mut state = self.state();
            match state.readers.get_mut(name) {
                Some(entry) if entry.dirty => {
                    entry.dirty = false;
                    entry.state.encode()
                }
                _ => return Ok(()),
            }
        };
        let result = self.replace(&self.cursor_path(name), &bytes);
        if result.is_err()
            && let Some(entry) = self.state().readers.get_mut(name)
        {
            entry.dirty = true;
        }
        result
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), QueueError> {
        let temporary = path.with_extension("tmp");
        if self.disk.exists(&temporary) {
            self.disk.remove_file(&temporary).map_err(QueueError::io("remove", &temporary))?;
        }
        let mut file = self.disk.create(&temporary).map_err(QueueError::io("create", &temporary))?;
        file.write_all(bytes).map_err(QueueError::io("write", &temporary))?;
        file.sync_data().map_err(QueueError::io("sync", &temporary))?;
        self.disk.rename(&temporary, path).map_err(QueueError::io("rename", &temporary))?;
        let dir = self.readers_dir();
        self.disk.sync_dir(&dir).map_err(QueueError::io("sync", dir))
    }

    /// Ended segments that every reader has done with, and their bytes.
    fn done_with(&self) -> Vec<(u64, u64)> {
        let state = self.state();
        if state.readers.is_empty() {
            return Vec::new();
        }
        let done = |segment: &Segment| {
            let covered =
                |entry: &ReaderEntry| entry.state.covers(segment.incarnation, segment.first, segment.next);
            segment.ended && state.readers.values().all(covered)
        };
        state.segments.values().filter(|segment| done(segment)).map(|s| (s.number, s.bytes)).collect()
    }

    /// Ended segments that are too old, or too many, oldest first.
    fn past_bounds(&self) -> Vec<(LostReason, u64, u64)> {
        let now_ms = self.clock.now_ms();
        let (bytes_max, age_max) = self.bounds();
        let age_max_ms = i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX);
        let state = self.state();
        let mut bytes = state.bytes();
        let mut past = Vec::new();
        for segment in state.segments.values().filter(|segment| segment.ended) {
            let reason = if now_ms.saturating_sub(segment.written_ms) > age_max_ms {
                LostReason::Age
            } else if bytes > bytes_max {
                LostReason::Bytes
            } else {
                continue;
            };
            bytes -= segment.bytes;
            past.push((reason, segment.number, segment.bytes));
        }
        past
    }

    /// Drops the oldest segments until a block of `bytes` fits.
    pub(crate) fn make_room(&self, bytes: u64) {
        let (bytes_max, _) = self.bounds();
        loop {
            let oldest = {
                let state = self.state();
                if state.bytes() + bytes <= bytes_max {
                    return;
                }
                state.segments.values().find(|segment| segment.ended).map(|segment| segment.number)
            };
            let Some(oldest) = oldest else { return };
            let done = self.done_with().iter().any(|(number, _)| *number == oldest);
            let result =
                if done { self.remove(oldest) } else { self.drop_segment(oldest, LostReason::Bytes) };
            if let Err(error) = result {
                tracing::error!(queue = %self.dir.display(), %error, "cannot drop the oldest segment");
                return;
            }
        }
    }

    /// Books the segment's blocks as lost for each reader that has not done with them, and removes it.
    fn drop_segment(&self, number: u64, reason: LostReason) -> Result<(), QueueError> {
        let Some(segment) = self.state().segments.get(&number).cloned() else { return Ok(()) };
        let headers = self.headers(&segment);
        {
            let mut state = self.state();
            for (name, entry) in &mut state.readers {
                let losses = losses(&segment, &headers, &entry.state, reason);
                if losses.is_empty() {
                    continue;
                }
                let blocks: u64 = losses.iter().map(|lost| lost.blocks).sum();
                let rows: u64 = losses.iter().map(|lost| lost.rows).sum();
                tracing::warn!(
                    queue = %self.dir.display(), reader = name, reason = reason.as_str(), blocks, rows,
                    "dropped unread blocks"
                );
                losses.into_iter().for_each(|lost| entry.state.lose(lost));
                entry.dirty = true;
            }
        }
        // The record comes first. On a full disk it may have to wait for the room that this makes.
        let written = self.write_cursors();
        self.remove(number)?;
        written.or_else(|_| self.write_cursors())
    }

    /// Number, rows, samples and times of each block whose header is sound.
    fn headers(&self, segment: &Segment) -> Vec<(u64, Sums)> {
        let mut headers = Vec::new();
        let Ok(file) = self.disk.open_read(&segment.path) else { return headers };
        let mut walk = Walk::new(file, segment.incarnation, (segment.first, START_LEN as u64), segment.end);
        while let Ok(Some(step)) = walk.next() {
            let mut sums = Sums::NONE;
            sums.add(&step.header);
            headers.push((step.header.block, sums));
        }
        headers
    }

    /// Takes a segment out, file and all.
    fn remove(&self, number: u64) -> Result<(), QueueError> {
        let Some(path) = self.state().segments.get(&number).map(|segment| segment.path.clone()) else {
            return Ok(());
        };
        if self.disk.exists(&path) {
            self.disk.remove_file(&path).map_err(QueueError::io("remove", &path))?;
        }
        let mut state = self.state();
        state.segments.remove(&number);
        state.unsynced.retain(|handle| handle.segment != number);
        state.removed_unsynced = true;
        Ok(())
    }

    /// Once it is durable that segments are gone, cursors need not know their incarnations any more. Before
    /// that they must: a power cut may bring the files back.
    pub(crate) fn forget_removed(&self) -> Result<(), QueueError> {
        if !std::mem::take(&mut self.state().removed_unsynced) {
            return Ok(());
        }
        let dir = self.segments_dir();
        if let Err(error) = self.disk.sync_dir(&dir) {
            self.state().removed_unsynced = true;
            return Err(QueueError::io("sync", dir)(error));
        }
        let mut state = self.state();
        let living: BTreeSet<u128> = state.segments.values().map(|segment| segment.incarnation).collect();
        // Another segment may have gone meanwhile, and not durably.
        if state.removed_unsynced {
            return Ok(());
        }
        for entry in state.readers.values_mut() {
            let before = entry.state.done.len();
            let needed =
                |incarnation: &u128| *incarnation == self.incarnation || living.contains(incarnation);
            entry.state.done.retain(|incarnation, _| needed(incarnation));
            entry.dirty |= entry.state.done.len() != before;
        }
        Ok(())
    }
}

/// What a reader loses with a segment: a record for each run of blocks that it has not done with.
fn losses(segment: &Segment, headers: &[(u64, Sums)], reader: &ReaderState, reason: LostReason) -> Vec<Lost> {
    let mut missing = Intervals::new();
    if segment.next > segment.first {
        missing.insert(segment.first, segment.next - 1);
    }
    if let Some(done) = reader.done.get(&segment.incarnation) {
        done.iter().for_each(|(first, last)| missing.remove(first, last));
    }
    missing
        .iter()
        .map(|(first, last)| {
            let from = headers.partition_point(|(block, _)| *block < first);
            let to = headers.partition_point(|(block, _)| *block <= last);
            let (mut sums, blocks) = (Sums::NONE, last - first + 1);
            for (_, block) in &headers[from..to] {
                sums.rows += block.rows;
                sums.samples += block.samples;
                sums.oldest_ms = sums.oldest_ms.min(block.oldest_ms);
                sums.newest_ms = sums.newest_ms.max(block.newest_ms);
            }
            Lost {
                incarnation: segment.incarnation,
                first,
                last,
                blocks,
                rows: sums.rows,
                samples: sums.samples,
                oldest_ms: sums.oldest_ms,
                newest_ms: sums.newest_ms,
                unreadable: blocks - (to - from) as u64,
                reason,
            }
        })
        .collect()
}
