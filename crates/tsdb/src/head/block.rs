//! Blocks: rows that take no more, with their times.

use std::sync::Arc;

use super::strip::Strip;
use super::tile::{SealedTile, Tile, rows_of};
use crate::codec::CodecError;

/// Rows that take no more.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// The log position behind the last of its rows.
    pub(crate) position: u64,
    /// Which flush writes it; see [`crate::version`].
    pub(crate) flush: u64,
    pub(crate) body: Body,
    /// Rows that have been deleted since, by column.
    deleted: Option<Arc<[u32]>>,
}

/// The samples of a [`Block`], and their times; the tiles of a lane share those.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// Not encoded yet (or never: the open tile as a query pinned it).
    Open(Arc<[i64]>, Arc<Tile>),
    /// Encoded.
    Sealed(Arc<[i64]>, Arc<SealedTile>),
    /// Of one column.
    Strip(Arc<Strip>),
}

impl Block {
    pub(crate) fn new(times: Arc<[i64]>, position: u64, flush: u64, open: Arc<Tile>) -> Block {
        Block { position, flush, body: Body::Open(times, open), deleted: None }
    }

    pub(crate) fn of_strip(strip: Arc<Strip>, position: u64, flush: u64) -> Block {
        Block { position, flush, body: Body::Strip(strip), deleted: None }
    }

    /// Times and rows, if they are not encoded yet.
    pub(crate) fn into_open(self) -> Option<(Arc<[i64]>, Arc<Tile>)> {
        match self.body {
            Body::Open(times, open) => Some((times, open)),
            Body::Strip(strip) => Some((strip.times(), Arc::new(strip.to_tile()))),
            Body::Sealed(..) => None,
        }
    }

    /// The times of the rows.
    pub(crate) fn times(&self) -> Arc<[i64]> {
        match &self.body {
            Body::Open(times, _) | Body::Sealed(times, _) => times.clone(),
            Body::Strip(strip) => strip.times(),
        }
    }

    /// How many rows.
    pub(crate) fn rows(&self) -> usize {
        match &self.body {
            Body::Open(times, _) | Body::Sealed(times, _) => times.len(),
            Body::Strip(strip) => strip.rows(),
        }
    }

    /// The times of the first and the last row.
    pub(crate) fn time_range(&self) -> Option<(i64, i64)> {
        match &self.body {
            Body::Open(times, _) | Body::Sealed(times, _) => Some((*times.first()?, *times.last()?)),
            Body::Strip(strip) => strip.first_ms().zip(strip.last_ms()),
        }
    }

    fn columns(&self) -> usize {
        match &self.body {
            Body::Open(_, tile) => tile.columns(),
            Body::Sealed(_, tile) => tile.columns(),
            Body::Strip(_) => 1,
        }
    }

    fn stored(&self, column: usize) -> u32 {
        match &self.body {
            _ if column >= self.columns() => 0,
            Body::Open(_, tile) => tile.presence(column),
            Body::Sealed(_, tile) => tile.presence(column),
            Body::Strip(strip) => strip.presence(),
        }
    }

    /// The rows in which `column` has samples.
    pub(crate) fn presence(&self, column: usize) -> u32 {
        let deleted = self.deleted.as_ref().and_then(|rows| rows.get(column)).copied().unwrap_or(0);
        self.stored(column) & !deleted
    }

    /// Whether `column` has a sample in every row.
    pub(crate) fn is_complete(&self, column: usize) -> bool {
        self.presence(column).count_ones() as usize == self.rows()
    }

    /// The time of the newest sample of `column`.
    pub(crate) fn newest(&self, column: usize) -> Option<i64> {
        let row = self.presence(column).checked_ilog2()? as usize;
        self.times().get(row).copied()
    }

    /// The sample of `column` at a time, as bits.
    pub(crate) fn value_at(&self, column: usize, timestamp_ms: i64) -> Option<u64> {
        let row = self.times().binary_search(&timestamp_ms).ok()?;
        let present = self.presence(column);
        if present >> row & 1 == 0 {
            return None;
        }
        let mut values = Vec::with_capacity(self.rows());
        self.read(column, &mut values).ok()?;
        let before = (present & ((1u64 << row) - 1) as u32).count_ones() as usize;
        values.get(before).map(|value| value.to_bits())
    }

    /// Appends the samples of `column`, rows ascending.
    pub(crate) fn read(&self, column: usize, values: &mut Vec<f64>) -> Result<(), CodecError> {
        let from = values.len();
        match &self.body {
            Body::Open(_, tile) => tile.read(column, values),
            Body::Sealed(_, tile) => tile.read(column, values)?,
            Body::Strip(strip) => strip.read(values),
        }
        let (stored, present) = (self.stored(column), self.presence(column));
        if stored != present {
            let mut rows = rows_of(stored);
            let mut at = 0;
            values.retain(|_| {
                at += 1;
                at <= from || rows.next().is_some_and(|row| present >> row & 1 == 1)
            });
        }
        Ok(())
    }

    /// Removes the samples of `column` from `start_ms` to `end_ms`, both inclusive.
    pub(crate) fn delete(&mut self, column: usize, start_ms: i64, end_ms: i64) {
        let times = self.times();
        let rows = times.iter().enumerate().filter(|(_, time)| (start_ms..=end_ms).contains(*time));
        let rows = rows.fold(0u32, |rows, (row, _)| rows | 1 << row);
        if self.presence(column) & rows != 0 {
            let mut deleted =
                self.deleted.as_ref().map_or_else(|| vec![0; self.columns()], |rows| rows.to_vec());
            deleted[column] |= rows;
            self.deleted = Some(deleted.into());
        }
    }

    /// Estimated memory, bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Block>()
            + match &self.body {
                Body::Open(_, tile) => tile.bytes(),
                Body::Sealed(_, tile) => tile.bytes(),
                Body::Strip(strip) => size_of::<Strip>() + strip.bytes(),
            }
    }

    /// Samples in all.
    pub(crate) fn samples(&self) -> usize {
        match &self.body {
            Body::Open(_, tile) => tile.samples(),
            Body::Sealed(_, tile) => tile.samples(),
            Body::Strip(strip) => strip.samples(),
        }
    }
}
