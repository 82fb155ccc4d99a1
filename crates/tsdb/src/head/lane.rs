//! Lanes: sets of columns of one source that share timestamps.
//!
//! A steady scrape is one lane, and its row goes straight into the lane's tiles by position. Columns
//! that turn out to have other times move to lanes of their own; a lane whose columns fit badly is
//! split by who shares rows with whom when its tiles are full. A lane of one column has no tiles: it is
//! a strip ([`super::strip`]) until another column comes.

mod single;
mod tiles;

use std::sync::Arc;

use smallvec::SmallVec;
use storage::SeriesRef;

use self::single::Single;
use self::tiles::Tiles;
use super::block::{Block, Body};
use super::tile::{COLUMNS_MAX, ROWS_MAX, SealedTile, Tile};
use crate::wal::record::LaneLog;

/// A set of columns that share timestamps.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// The source, as its tenant's head numbers it.
    pub(crate) source: u32,
    /// All columns it ever had; a column that moved away stays, dead, until the lane is gone.
    pub(crate) columns: SmallVec<[SeriesRef; 2]>,
    /// Columns that moved away or were removed.
    pub(crate) dead: u32,
    rows: Rows,
    /// The newest row ever.
    pub(crate) last_ms: i64,
    /// The log position of the last row.
    pub(crate) position: u64,
    /// The row shape seen last, where it is not simply all columns in turn.
    pub(crate) shape: Option<Box<Shape>>,
    /// Where the log's differences start.
    pub(crate) log: LaneLog,
    /// Whether some column also has histograms, so that rows have to be checked against those.
    pub(crate) mixed: bool,
    /// Takes no more rows; gone when its history is.
    pub(crate) retired: bool,
}

/// Which columns a row names, in which order.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) series: Vec<SeriesRef>,
    pub(crate) columns: Vec<u32>,
}

/// The rows of a lane.
#[derive(Debug)]
enum Rows {
    Single(Single),
    Tiles(Box<Tiles>),
}

impl Default for Rows {
    fn default() -> Self {
        Rows::Single(Single::default())
    }
}

impl Lane {
    pub(crate) fn new(source: u32) -> Lane {
        Lane { source, last_ms: i64::MIN, ..Lane::default() }
    }

    /// Adds a column whose newest sample so far is at `newest_ms` (`i64::MIN` for none).
    pub(crate) fn add_column(&mut self, series: SeriesRef, newest_ms: i64) -> u32 {
        let column = self.columns.len();
        if let Rows::Single(single) = &mut self.rows {
            if column == 0 {
                single.floor = newest_ms;
            } else {
                self.rows = Rows::Tiles(Box::new(Tiles::of_single(std::mem::take(single))));
            }
        }
        if let Rows::Tiles(tiles) = &mut self.rows {
            tiles.add_column(column, newest_ms);
        }
        self.columns.push(series);
        // A row of "all columns" is another one from now on.
        self.log.segment = 0;
        column as u32
    }

    /// A column has moved away, or its series is gone.
    pub(crate) fn drop_column(&mut self) {
        self.dead += 1;
        self.shape = None;
        self.log.segment = 0;
    }

    /// Whether a row of `series` has the remembered shape.
    pub(crate) fn has_shape(&self, series: &[SeriesRef]) -> bool {
        match &self.shape {
            Some(shape) => are_same(&shape.series, series),
            None => self.dead == 0 && are_same(&self.columns, series),
        }
    }

    /// Remembers the shape of a row that went to this lane alone.
    pub(crate) fn remember(&mut self, series: &[SeriesRef], columns: Vec<u32>) {
        self.log.segment = 0;
        let all = self.dead == 0 && are_same(&self.columns, series);
        self.shape = (!all).then(|| Box::new(Shape { series: series.to_vec(), columns }));
    }

    /// Whether rows come in another shape than the lane's own, so that a fresh lane would be cheaper.
    pub(crate) fn is_awkward(&self) -> bool {
        self.dead > 0 || self.shape.is_some()
    }

    /// Closes the open rows. Gives whether there were any.
    pub(crate) fn close(&mut self, flush: u64) -> bool {
        if self.open_rows() == 0 {
            return false;
        }
        match &mut self.rows {
            Rows::Single(single) => single.close(self.position, flush),
            Rows::Tiles(tiles) => tiles.close(self.position, flush),
        }
        true
    }

    /// What has just been closed and is to be encoded: tile, rows.
    pub(crate) fn to_seal(&self) -> impl Iterator<Item = (u32, Arc<Tile>)> {
        let tiles = match &self.rows {
            Rows::Single(_) => &[][..],
            Rows::Tiles(tiles) => &tiles.tiles,
        };
        (0u32..).zip(tiles).filter_map(|(number, tile)| match &tile.history.last()?.body {
            Body::Open(_, open) => Some((number, open.clone())),
            _ => None,
        })
    }

    fn open_rows(&self) -> usize {
        match &self.rows {
            Rows::Single(single) => single.open.rows(),
            Rows::Tiles(tiles) => tiles.times.len(),
        }
    }

    /// The closed rows of a tile.
    fn history(&self, tile: u32) -> &[Block] {
        match &self.rows {
            Rows::Single(single) if tile == 0 => &single.history,
            Rows::Single(_) => &[],
            Rows::Tiles(tiles) => tiles.tiles.get(tile as usize).map_or(&[], |tile| &tile.history),
        }
    }

    /// The closed rows of all tiles.
    pub(crate) fn closed_mut(&mut self) -> impl Iterator<Item = &mut Block> {
        let (single, tiles) = match &mut self.rows {
            Rows::Single(single) => (&mut single.history[..], &mut [][..]),
            Rows::Tiles(tiles) => (&mut [][..], &mut tiles.tiles[..]),
        };
        single.iter_mut().chain(tiles.iter_mut().flat_map(|tile| &mut tile.history))
    }

    /// Columns and closed rows of each tile that has any.
    pub(crate) fn closed(&self) -> impl Iterator<Item = (&[SeriesRef], &[Block])> {
        let tiles = (0u32..).zip(self.columns.chunks(COLUMNS_MAX));
        tiles.map(|(tile, columns)| (columns, self.history(tile))).filter(|(_, history)| !history.is_empty())
    }

    /// The times of the first and last row of each piece.
    pub(crate) fn time_ranges(&self) -> impl Iterator<Item = (i64, i64)> {
        let open = match &self.rows {
            Rows::Single(single) => single.open.first_ms().zip(single.open.last_ms()),
            Rows::Tiles(tiles) => tiles.times.first().copied().zip(tiles.times.last().copied()),
        };
        self.history(0).iter().filter_map(Block::time_range).chain(open)
    }

    /// How many tiles it has, open and closed.
    pub(crate) fn tile_count(&self) -> usize {
        match &self.rows {
            Rows::Single(single) => 1 + single.history.len(),
            Rows::Tiles(tiles) => tiles.tiles.iter().map(|tile| 1 + tile.history.len()).sum(),
        }
    }

    /// The rows of a tile from `start_ms` to `end_ms` as they are now, the open ones as of `flush`. `times`
    /// keeps those of the open rows, for the other tiles of the lane.
    pub(crate) fn pin(
        &self,
        tile: u32,
        flush: u64,
        (start_ms, end_ms): (i64, i64),
        times: &mut Option<Arc<[i64]>>,
    ) -> Vec<Block> {
        let overlaps = |block: &Block| {
            block.time_range().is_some_and(|(first, last)| first <= end_ms && last >= start_ms)
        };
        let open = match &self.rows {
            Rows::Single(single) => Block::of_strip(Arc::new(single.open.clone()), self.position, flush),
            Rows::Tiles(tiles) => {
                let times = times.get_or_insert_with(|| tiles.times.as_slice().into());
                let open = tiles.tiles[tile as usize].open.clone();
                Block::new(times.clone(), self.position, flush, open)
            }
        };
        let history = self.history(tile).iter().filter(|block| overlaps(block));
        history.cloned().chain(overlaps(&open).then_some(open)).collect()
    }

    /// Puts encoded rows in the place of `open`, if they are still there.
    pub(crate) fn put_sealed(&mut self, tile: u32, open: &Arc<Tile>, sealed: Arc<SealedTile>) {
        let Rows::Tiles(tiles) = &mut self.rows else { return };
        let Some(tile) = tiles.tiles.get_mut(tile as usize) else { return };
        let is_it = |body: &Body| matches!(body, Body::Open(_, other) if Arc::ptr_eq(other, open));
        if let Some(block) = tile.history.iter_mut().rev().find(|block| is_it(&block.body)) {
            block.body = Body::Sealed(block.times(), sealed);
        }
    }

    /// Appends a row of the remembered shape, newer than all others.
    pub(crate) fn push(&mut self, timestamp_ms: i64, values: &[f64]) {
        self.last_ms = timestamp_ms;
        match &mut self.rows {
            Rows::Single(single) => single.open.push(timestamp_ms, values.first().map(|v| v.to_bits())),
            Rows::Tiles(tiles) => tiles.push(timestamp_ms, self.shape.as_deref(), values),
        }
    }

    /// Appends a row without samples, newer than all others.
    pub(crate) fn push_absent(&mut self, timestamp_ms: i64) {
        self.last_ms = timestamp_ms;
        match &mut self.rows {
            Rows::Single(single) => single.open.push(timestamp_ms, None),
            Rows::Tiles(tiles) => tiles.push_absent(timestamp_ms),
        }
    }

    /// Removes the newest row again; `last_ms` is what it was before.
    pub(crate) fn pop(&mut self, last_ms: i64) {
        self.last_ms = last_ms;
        match &mut self.rows {
            Rows::Single(single) => single.open.pop(),
            Rows::Tiles(tiles) => tiles.pop(),
        }
    }

    /// Makes the rows closed last the open ones again, if there are none since.
    pub(crate) fn reopen(&mut self) {
        match &mut self.rows {
            Rows::Single(single) => single.reopen(),
            Rows::Tiles(tiles) => tiles.reopen(),
        }
    }

    /// Whether the open rows are as many as a tile holds.
    pub(crate) fn is_full(&self) -> bool {
        self.open_rows() >= ROWS_MAX
    }

    /// The time of the newest open row.
    pub(crate) fn open_last_ms(&self) -> Option<i64> {
        match &self.rows {
            Rows::Single(single) => single.open.last_ms(),
            Rows::Tiles(tiles) => tiles.times.last().copied(),
        }
    }

    /// The open row at a time.
    pub(crate) fn row_at(&self, timestamp_ms: i64) -> Option<usize> {
        match &self.rows {
            Rows::Single(single) => single.open.row_at(timestamp_ms),
            Rows::Tiles(tiles) => tiles.times.binary_search(&timestamp_ms).ok(),
        }
    }

    /// The sample of an open row.
    pub(crate) fn get(&self, row: usize, column: u32) -> Option<u64> {
        match &self.rows {
            Rows::Single(single) => single.open.get(row),
            Rows::Tiles(tiles) => tiles.get(row, column),
        }
    }

    /// Sets a sample of an open row.
    pub(crate) fn set(&mut self, row: usize, column: u32, bits: u64) {
        match &mut self.rows {
            Rows::Single(single) => single.open.set(row, bits),
            Rows::Tiles(tiles) => tiles.set(row, column, bits),
        }
    }

    /// Removes a sample of an open row.
    pub(crate) fn clear(&mut self, row: usize, column: u32) {
        match &mut self.rows {
            Rows::Single(single) => single.open.clear(row),
            Rows::Tiles(tiles) => tiles.clear(row, column),
        }
    }

    /// Removes the samples of a column from `start_ms` to `end_ms`, both inclusive.
    pub(crate) fn delete(&mut self, column: u32, start_ms: i64, end_ms: i64) {
        match &mut self.rows {
            Rows::Single(single) => single.delete(start_ms, end_ms),
            Rows::Tiles(tiles) => tiles.delete(column, start_ms, end_ms),
        }
    }

    /// The time of the first row that is here, `i64::MAX` for none.
    pub(crate) fn first_ms(&self) -> i64 {
        self.time_ranges().next().map_or(i64::MAX, |(first, _)| first)
    }

    /// The newest sample's time of a column, `i64::MIN` for none.
    pub(crate) fn newest(&self, column: u32) -> i64 {
        match &self.rows {
            Rows::Single(single) => single.newest(),
            Rows::Tiles(tiles) => tiles.newest(column),
        }
    }

    /// The sample of a column at a time, if it is still in the head.
    pub(crate) fn value_at(&self, column: u32, timestamp_ms: i64) -> Option<u64> {
        match &self.rows {
            Rows::Single(single) => single.value_at(timestamp_ms),
            Rows::Tiles(tiles) => tiles.value_at(column, timestamp_ms),
        }
    }

    /// Whether a column has samples that are in no part yet.
    pub(crate) fn has_samples(&self, column: u32) -> bool {
        let within = column as usize % COLUMNS_MAX;
        let open = match &self.rows {
            Rows::Single(single) => single.open.presence(),
            Rows::Tiles(tiles) => tiles.tiles[column as usize / COLUMNS_MAX].open.presence(within),
        };
        let history = self.history(column / COLUMNS_MAX as u32);
        open != 0 || history.iter().any(|block| block.presence(within) != 0)
    }

    /// Removes the blocks that belong to flushes up to `flush`.
    pub(crate) fn prune(&mut self, flush: u64) {
        match &mut self.rows {
            Rows::Single(single) => single.prune(flush),
            Rows::Tiles(tiles) => tiles.prune(flush),
        }
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_drained(&self) -> bool {
        self.open_rows() == 0 && self.closed().next().is_none()
    }

    /// If fewer than half of the cells of the last closed rows have samples: the columns by which rows
    /// they have.
    pub(crate) fn badly_filled(&self) -> Option<Vec<Vec<u32>>> {
        match &self.rows {
            Rows::Single(_) => None,
            Rows::Tiles(tiles) => tiles.badly_filled(),
        }
    }

    /// Estimated memory of samples and columns, bytes.
    pub(crate) fn bytes(&self) -> usize {
        let rows = match &self.rows {
            Rows::Single(single) => single.bytes(),
            Rows::Tiles(tiles) => tiles.bytes(),
        };
        size_of::<Lane>()
            + self.columns.len() * 8
            + self.log.previous.len() * 8
            + self.shape.as_ref().map_or(0, |shape| shape.series.len() * 12)
            + rows
    }
}

/// Whether the columns are the same: asked for each row of a thousand of them, and mostly true.
fn are_same(a: &[SeriesRef], b: &[SeriesRef]) -> bool {
    // In stretches without a way out, many at a time.
    let same =
        |(a, b): (&[SeriesRef], &[SeriesRef])| a.iter().zip(b).fold(0, |all, (a, b)| all | (a.0 ^ b.0)) == 0;
    a.len() == b.len() && a.chunks(64).zip(b.chunks(64)).all(same)
}
