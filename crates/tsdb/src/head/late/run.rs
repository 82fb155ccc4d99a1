//! Rows of the same columns of a source: as they come, and closed.

use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;
use storage::{Column, SeriesRef};

use crate::codec::{CodecError, decode_values, encode_values};
use crate::merge::{Piece, Rank, TimeConcatCache};
use crate::tombstone::Deleted;
use crate::wal::record::LaneLog;

/// A run's open rows hold about this many samples before they are closed...
const OPEN_SAMPLES: usize = 512;
/// ...but at least and at most so many rows.
const OPEN_ROWS: (usize, usize) = (32, 128);
/// Blocks in which a sample of the same time is looked for, the latest ones.
const SEARCHED_BLOCKS: usize = 8;
/// Open rows among which repeats are looked for.
const SEARCHED_ROWS: usize = 4096;

/// Late rows of the same columns of a source.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// As the head numbers it.
    pub(crate) source: u32,
    pub(crate) columns: Arc<[SeriesRef]>,
    /// Rows before this are late for every column, and nothing in the lanes has their time.
    pub(crate) before_ms: i64,
    /// Where the log's differences start.
    pub(crate) log: LaneLog,
    /// As they came.
    open: Arc<OpenRows>,
    pub(crate) blocks: Vec<Block>,
}

#[derive(Debug, Clone, Default)]
struct OpenRows {
    times: Vec<i64>,
    /// Bit patterns, row by row.
    bits: Vec<u64>,
    /// The newest of the times, if there are any.
    newest_ms: i64,
    /// Whether each row is newer than the one before.
    ascending: bool,
    /// The log position of the last row.
    position: u64,
}

impl Run {
    pub(crate) fn new(source: u32, columns: &[SeriesRef]) -> Run {
        Run {
            source,
            columns: columns.into(),
            before_ms: i64::MIN,
            log: LaneLog::default(),
            open: Arc::default(),
            blocks: Vec::new(),
        }
    }

    /// Samples, repeats included.
    pub(crate) fn samples(&self) -> usize {
        self.times().count() * self.columns.len()
    }

    /// The times of all rows.
    pub(crate) fn times(&self) -> impl Iterator<Item = i64> {
        self.blocks.iter().flat_map(|block| block.times.iter()).chain(&self.open.times).copied()
    }

    pub(crate) fn push(&mut self, timestamp_ms: i64, values: &[f64], position: u64) {
        let open = Arc::make_mut(&mut self.open);
        let newer = open.times.is_empty() || timestamp_ms > open.newest_ms;
        open.ascending = newer && (open.ascending || open.times.is_empty());
        open.newest_ms = if newer { timestamp_ms } else { open.newest_ms };
        open.times.push(timestamp_ms);
        open.bits.extend(values.iter().map(|value| value.to_bits()));
        open.position = position;
    }

    /// Removes the row that came last.
    pub(crate) fn pop(&mut self) {
        let columns = self.columns.len();
        let open = Arc::make_mut(&mut self.open);
        open.times.pop();
        open.bits.truncate(open.times.len() * columns);
        open.newest_ms = open.times.iter().copied().max().unwrap_or(i64::MIN);
        open.ascending = open.times.is_sorted_by(|a, b| a < b);
        self.log.segment = 0;
    }

    pub(crate) fn is_full(&self) -> bool {
        let rows = (OPEN_SAMPLES / self.columns.len().max(1)).clamp(OPEN_ROWS.0, OPEN_ROWS.1);
        self.open.times.len() >= rows
    }

    /// Whether an open row may have this time.
    pub(crate) fn may_repeat(&self, timestamp_ms: i64) -> bool {
        let open = &self.open;
        !open.times.is_empty()
            && timestamp_ms <= open.newest_ms
            && open.times.len() <= SEARCHED_ROWS
            && open.times.contains(&timestamp_ms)
    }

    /// Makes a block of the open rows. Gives whether there were any.
    pub(crate) fn close(&mut self) -> bool {
        if self.open.times.is_empty() {
            return false;
        }
        let open = std::mem::take(&mut self.open);
        self.blocks.push(open.block(self.columns.len()));
        true
    }

    /// The sample of a column at a time; the latest where there are several.
    pub(crate) fn value_at(&self, column: u32, timestamp_ms: i64) -> Option<u64> {
        if !self.open.times.is_empty()
            && timestamp_ms <= self.open.newest_ms
            && let Some(row) = self.open.times.iter().rposition(|time| *time == timestamp_ms)
        {
            return self.open.bits.get(row * self.columns.len() + column as usize).copied();
        }
        let latest = self.blocks.iter().rev().take(SEARCHED_BLOCKS);
        latest.into_iter().find_map(|block| block.value_at(column, timestamp_ms))
    }

    /// Appends the samples of a column, a piece for each block.
    pub(crate) fn pieces(
        &self,
        column: u32,
        cache: &mut TimeConcatCache,
        out: &mut Vec<Piece>,
    ) -> Result<(), CodecError> {
        let open = (!self.open.times.is_empty()).then(|| self.open.block(self.columns.len()));
        for block in self.blocks.iter().chain(&open) {
            out.push(block.piece(column, cache)?);
        }
        Ok(())
    }

    /// The rows as they stand, as far as they have times from `start_ms` to `end_ms`.
    pub(crate) fn pin(&self, start_ms: i64, end_ms: i64) -> PinnedRun {
        let blocks = self.blocks.iter().filter(|block| block.overlaps(start_ms, end_ms)).cloned().collect();
        let open = (!self.open.times.is_empty()).then(|| self.open.clone());
        PinnedRun { columns: self.columns.len(), blocks, open, closed: OnceLock::new() }
    }
}

impl OpenRows {
    /// The rows by time; of those at the same time, what [`combine`](crate::merge::combine) would leave.
    fn block(&self, columns: usize) -> Block {
        if self.ascending {
            let body = Body::Raw { columns, bits: self.bits.clone() };
            return Block::new(self.times.as_slice().into(), self.position, body);
        }
        let mut order: Vec<u32> = (0..self.times.len() as u32).collect();
        order.sort_by_key(|row| self.times[*row as usize]);
        let mut times: Vec<i64> = Vec::with_capacity(order.len());
        let mut bits: Vec<u64> = Vec::with_capacity(self.bits.len());
        for row in order {
            let time = self.times[row as usize];
            let row = &self.bits[row as usize * columns..][..columns];
            if times.last() != Some(&time) {
                times.push(time);
                bits.extend_from_slice(row);
                continue;
            }
            let at = bits.len() - columns;
            for (standing, bits) in bits[at..].iter_mut().zip(row) {
                let strength = |bits: u64| (!model::is_stale(f64::from_bits(bits)), bits);
                if strength(*bits) > strength(*standing) {
                    *standing = *bits;
                }
            }
        }
        Block::new(times.into(), self.position, Body::Raw { columns, bits })
    }
}

/// A run as a query or a spill has pinned it.
#[derive(Debug)]
pub(crate) struct PinnedRun {
    columns: usize,
    blocks: Vec<Block>,
    open: Option<Arc<OpenRows>>,
    /// `open` as a block, made when first needed.
    closed: OnceLock<Block>,
}

impl PinnedRun {
    /// Appends the samples of a column, a piece for each block.
    pub(crate) fn pieces(
        &self,
        column: u32,
        cache: &mut TimeConcatCache,
        out: &mut Vec<Piece>,
    ) -> Result<(), CodecError> {
        let closed = self.open.as_ref().map(|open| self.closed.get_or_init(|| open.block(self.columns)));
        for block in self.blocks.iter().chain(closed) {
            out.push(block.piece(column, cache)?);
        }
        Ok(())
    }
}

/// Closed rows: ascending by time, each time once.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    times: Arc<[i64]>,
    /// The log position of the last of its rows.
    position: u64,
    body: Arc<Body>,
    /// What has been deleted since: column, first and last time.
    deleted: SmallVec<[(u32, i64, i64); 0]>,
}

#[derive(Debug)]
enum Body {
    /// Bit patterns, row by row.
    Raw { columns: usize, bits: Vec<u64> },
    /// Value blocks, column by column, and where each ends.
    Sealed { bytes: Box<[u8]>, ends: Box<[u32]> },
}

impl Block {
    fn new(times: Arc<[i64]>, position: u64, body: Body) -> Block {
        Block { times, position, body: Arc::new(body), deleted: SmallVec::new() }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.times.first().is_some_and(|first| *first <= end_ms)
            && self.times.last().is_some_and(|last| *last >= start_ms)
    }

    /// Whether both hold the same rows in the same form.
    pub(crate) fn is_same(&self, other: &Block) -> bool {
        Arc::ptr_eq(&self.body, &other.body)
    }

    /// Whether it has not been encoded.
    pub(crate) fn is_raw(&self) -> bool {
        matches!(&*self.body, Body::Raw { .. })
    }

    /// Takes the form of another block of the same rows; deletions stay.
    pub(crate) fn replace_body(&mut self, other: Block) {
        self.body = other.body;
    }

    /// The same, encoded.
    pub(crate) fn seal(&self) -> Block {
        let Body::Raw { columns, bits } = &*self.body else { return self.clone() };
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(*columns));
        let mut values: Vec<f64> = Vec::with_capacity(self.times.len());
        for column in 0..*columns {
            for rows in self.chunks() {
                values.clear();
                values.extend(rows.map(|row| f64::from_bits(bits[row * columns + column])));
                encode_values(&values, &mut bytes);
            }
            ends.push(bytes.len() as u32);
        }
        let body = Body::Sealed { bytes: bytes.into(), ends: ends.into() };
        Block {
            times: self.times.clone(),
            position: self.position,
            body: Arc::new(body),
            deleted: self.deleted.clone(),
        }
    }

    /// The rows, as many at a time as the codec takes.
    fn chunks(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (rows, step) = (self.times.len(), crate::codec::BLOCK_SAMPLES_MAX);
        (0..rows).step_by(step).map(move |from| from..(from + step).min(rows))
    }

    /// The values of a column, deleted ones included.
    fn values(&self, column: usize) -> Result<Vec<f64>, CodecError> {
        match &*self.body {
            Body::Raw { columns, bits } => Ok(bits
                .iter()
                .skip(column)
                .step_by((*columns).max(1))
                .map(|bits| f64::from_bits(*bits))
                .collect()),
            Body::Sealed { bytes, ends } => {
                let from = column.checked_sub(1).map_or(0, |before| ends[before] as usize);
                let mut rest = &bytes[from..ends[column] as usize];
                let mut values = Vec::with_capacity(self.times.len());
                for rows in self.chunks() {
                    let used = decode_values(rest, rows.len(), &mut values)?;
                    rest = &rest[used..];
                }
                Ok(values)
            }
        }
    }

    fn piece(&self, column: u32, cache: &mut TimeConcatCache) -> Result<Piece, CodecError> {
        let values = self.values(column as usize)?;
        let times = self.times.clone();
        let mut joined = Column { times, values, ..Column::default() };
        self.deleted_of(column).apply(&mut joined, cache);
        Ok(Piece { rank: Rank { replace: false, position: self.position }, column: joined })
    }

    fn deleted_of(&self, column: u32) -> Deleted {
        let mut deleted = Deleted::default();
        let own = self.deleted.iter().filter(|(of, _, _)| *of == column);
        own.for_each(|(_, start_ms, end_ms)| deleted.add(*start_ms, *end_ms));
        deleted
    }

    fn value_at(&self, column: u32, timestamp_ms: i64) -> Option<u64> {
        let row = self.times.binary_search(&timestamp_ms).ok()?;
        let gone = |(of, start_ms, end_ms): &(u32, i64, i64)| {
            *of == column && (*start_ms..=*end_ms).contains(&timestamp_ms)
        };
        if self.deleted.iter().any(gone) {
            return None;
        }
        self.values(column as usize).ok()?.get(row).map(|value| value.to_bits())
    }

    /// Removes the samples of a column from `start_ms` to `end_ms`, both inclusive.
    pub(crate) fn delete(&mut self, column: u32, start_ms: i64, end_ms: i64) {
        if self.overlaps(start_ms, end_ms) {
            self.deleted.push((column, start_ms, end_ms));
        }
    }

    /// Estimated memory, bytes: of rows that have just been closed, what [`super::Late::push`] counted.
    pub(crate) fn bytes(&self) -> usize {
        match &*self.body {
            Body::Raw { bits, .. } => bits.len() * 8 + self.times.len() * 8,
            Body::Sealed { bytes, ends } => {
                size_of::<Block>() + 96 + bytes.len() + ends.len() * 4 + self.times.len() * 8
            }
        }
    }
}
