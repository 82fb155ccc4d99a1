//! Lanes: sets of columns of one source that share timestamps.
//!
//! A steady scrape is one lane, and its row goes straight into the lane's tiles by position. Columns
//! that turn out to have other times move to lanes of their own; a lane whose columns fit badly is
//! split by who shares rows with whom when its tiles are full.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;
use storage::SeriesRef;

use super::tile::{Block, Body, COLUMNS_MAX, ROWS_MAX, Tile};
use crate::wal::record::LaneLog;

/// A set of columns that share timestamps.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// The source, as its tenant's head numbers it.
    pub(crate) source: u32,
    /// All columns it ever had; a column that moved away stays, dead, until the lane is gone.
    pub(crate) columns: SmallVec<[SeriesRef; 2]>,
    /// Columns that moved away or were removed.
    pub(crate) dead: usize,
    pub(crate) tiles: SmallVec<[LaneTile; 1]>,
    /// Times of the open rows, ascending.
    pub(crate) times: Vec<i64>,
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

/// Up to 256 neighbouring columns: the open rows and those before.
#[derive(Debug)]
pub(crate) struct LaneTile {
    pub(crate) open: Arc<Tile>,
    /// Closed rows, oldest first.
    pub(crate) history: Vec<Block>,
    /// The newest time of each column before `history`, unless listed in `floors`.
    floor: i64,
    floors: Vec<(u16, i64)>,
}

impl Default for LaneTile {
    fn default() -> Self {
        LaneTile { open: Arc::default(), history: Vec::new(), floor: i64::MIN, floors: Vec::new() }
    }
}

impl LaneTile {
    fn floor_of(&self, column: usize) -> i64 {
        self.floors.iter().find(|(c, _)| usize::from(*c) == column).map_or(self.floor, |(_, floor)| *floor)
    }

    fn set_floor(&mut self, column: usize, floor: i64) {
        self.floors.retain(|(c, _)| usize::from(*c) != column);
        if floor != self.floor {
            self.floors.push((column as u16, floor));
        }
    }

    fn newest(&self, column: usize, times: &[i64]) -> i64 {
        let open = self.open.presence(column);
        if open != 0 {
            return times[31 - open.leading_zeros() as usize];
        }
        let in_history = self.history.iter().rev().find_map(|block| {
            let present = block.presence(column);
            (present != 0).then(|| block.times[31 - present.leading_zeros() as usize])
        });
        in_history.unwrap_or_else(|| self.floor_of(column))
    }
}

/// Where in the lanes' tiles a column is.
fn place(column: usize) -> (usize, usize) {
    (column / COLUMNS_MAX, column % COLUMNS_MAX)
}

impl Lane {
    pub(crate) fn new(source: u32) -> Lane {
        Lane { source, last_ms: i64::MIN, ..Lane::default() }
    }

    /// Adds a column whose newest sample so far is at `newest_ms` (`i64::MIN` for none).
    pub(crate) fn add_column(&mut self, series: SeriesRef, newest_ms: i64) -> u32 {
        let column = self.columns.len();
        let (tile, within) = place(column);
        if tile == self.tiles.len() {
            self.tiles.push(LaneTile::default());
            let fresh = &mut self.tiles[tile];
            let open = Arc::make_mut(&mut fresh.open);
            self.times.iter().for_each(|_| open.push_absent());
        }
        let tile = &mut self.tiles[tile];
        Arc::make_mut(&mut tile.open).add_column();
        tile.set_floor(within, newest_ms);
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
            Some(shape) => shape.series == series,
            None => self.dead == 0 && *self.columns == *series,
        }
    }

    /// Remembers the shape of a row that went to this lane alone.
    pub(crate) fn remember(&mut self, series: &[SeriesRef], columns: Vec<u32>) {
        self.log.segment = 0;
        let all = self.dead == 0 && *self.columns == *series;
        self.shape = (!all).then(|| Box::new(Shape { series: series.to_vec(), columns }));
    }

    /// Whether rows come in another shape than the lane's own, so that a fresh lane would be cheaper.
    pub(crate) fn is_awkward(&self) -> bool {
        self.dead > 0 || self.shape.is_some()
    }

    /// Closes the open rows. Gives whether there were any.
    pub(crate) fn close(&mut self, flush: u64) -> bool {
        if self.times.is_empty() {
            return false;
        }
        let times: Arc<[i64]> = self.times.as_slice().into();
        self.times.clear();
        for tile in &mut self.tiles {
            let mut fresh = Tile::default();
            (0..tile.open.columns()).for_each(|_| fresh.add_column());
            let open = std::mem::replace(&mut tile.open, Arc::new(fresh));
            tile.history.push(Block::new(times.clone(), self.position, flush, open));
        }
        true
    }

    /// Appends a row of the remembered shape, newer than all others.
    pub(crate) fn push(&mut self, timestamp_ms: i64, values: &[f64]) {
        self.push_time(timestamp_ms);
        let Some(shape) = &self.shape else {
            for (tile, values) in self.tiles.iter_mut().zip(values.chunks(COLUMNS_MAX)) {
                Arc::make_mut(&mut tile.open).push_full(values);
            }
            return;
        };
        for tile in &mut self.tiles {
            Arc::make_mut(&mut tile.open).push_absent();
        }
        let last = self.times.len() - 1;
        for (column, value) in shape.columns.iter().zip(values) {
            let (tile, within) = place(*column as usize);
            // Shared tiles were copied by `push_absent`.
            if let Some(open) = Arc::get_mut(&mut self.tiles[tile].open) {
                open.set(last, within, value.to_bits());
            }
        }
    }

    /// Appends a row without samples, newer than all others.
    pub(crate) fn push_absent(&mut self, timestamp_ms: i64) {
        self.push_time(timestamp_ms);
        for tile in &mut self.tiles {
            Arc::make_mut(&mut tile.open).push_absent();
        }
    }

    fn push_time(&mut self, timestamp_ms: i64) {
        if self.times.capacity() == self.times.len() {
            self.times.reserve_exact(4); // most lanes may have one column
        }
        self.times.push(timestamp_ms);
        self.last_ms = timestamp_ms;
    }

    /// Removes the newest row again; `last_ms` is what it was before.
    pub(crate) fn pop(&mut self, last_ms: i64) {
        self.times.pop();
        self.last_ms = last_ms;
        for tile in &mut self.tiles {
            Arc::make_mut(&mut tile.open).pop();
        }
    }

    /// Makes the rows closed last the open ones again, if there are none since.
    pub(crate) fn reopen(&mut self) {
        if !self.times.is_empty() {
            return;
        }
        for tile in &mut self.tiles {
            if let Some(Block { times, body: Body::Open(open), .. }) = tile.history.pop() {
                self.times = times.to_vec();
                let columns = tile.open.columns();
                tile.open = open;
                // Columns that have come since stay, without samples.
                if tile.open.columns() < columns {
                    let open = Arc::make_mut(&mut tile.open);
                    (open.columns()..columns).for_each(|_| open.add_column());
                }
            }
        }
        for tile in &mut self.tiles {
            if tile.open.rows() < self.times.len() {
                // A tile that has come since.
                let open = Arc::make_mut(&mut tile.open);
                (open.rows()..self.times.len()).for_each(|_| open.push_absent());
            }
        }
    }

    /// Whether the open rows are as many as a tile holds.
    pub(crate) fn is_full(&self) -> bool {
        self.times.len() >= ROWS_MAX
    }

    /// The open row at a time.
    pub(crate) fn row_at(&self, timestamp_ms: i64) -> Option<usize> {
        self.times.binary_search(&timestamp_ms).ok()
    }

    /// The sample of an open row.
    pub(crate) fn get(&self, row: usize, column: u32) -> Option<u64> {
        let (tile, within) = place(column as usize);
        self.tiles[tile].open.get(row, within)
    }

    /// Sets a sample of an open row.
    pub(crate) fn set(&mut self, row: usize, column: u32, bits: u64) {
        let (tile, within) = place(column as usize);
        Arc::make_mut(&mut self.tiles[tile].open).set(row, within, bits);
    }

    /// Removes a sample of an open row.
    pub(crate) fn clear(&mut self, row: usize, column: u32) {
        let (tile, within) = place(column as usize);
        Arc::make_mut(&mut self.tiles[tile].open).clear(row, within);
    }

    /// Removes the samples of a column from `start_ms` to `end_ms`, both inclusive.
    pub(crate) fn delete(&mut self, column: u32, start_ms: i64, end_ms: i64) {
        for row in 0..self.times.len() {
            if (start_ms..=end_ms).contains(&self.times[row]) && self.get(row, column).is_some() {
                self.clear(row, column);
            }
        }
        let (tile, within) = place(column as usize);
        for block in &mut self.tiles[tile].history {
            block.delete(within, start_ms, end_ms);
        }
    }

    /// The time of the first row that is here, `i64::MAX` for none.
    pub(crate) fn first_ms(&self) -> i64 {
        let closed = self.tiles.first().and_then(|tile| tile.history.first());
        let first = closed.and_then(|block| block.times.first()).or(self.times.first());
        first.copied().unwrap_or(i64::MAX)
    }

    /// The newest sample's time of a column, `i64::MIN` for none.
    pub(crate) fn newest(&self, column: u32) -> i64 {
        let (tile, within) = place(column as usize);
        self.tiles[tile].newest(within, &self.times)
    }

    /// The sample of a column at a time, if it is still in the head.
    pub(crate) fn value_at(&self, column: u32, timestamp_ms: i64) -> Option<u64> {
        if let Some(row) = self.row_at(timestamp_ms) {
            return self.get(row, column);
        }
        let (tile, within) = place(column as usize);
        self.tiles[tile].history.iter().rev().find_map(|block| {
            let row = block.times.binary_search(&timestamp_ms).ok()?;
            let present = block.presence(within);
            if present >> row & 1 == 0 {
                return None;
            }
            let mut values = Vec::with_capacity(ROWS_MAX);
            block.read(within, &mut values).ok()?;
            let before = (present & ((1u64 << row) - 1) as u32).count_ones() as usize;
            values.get(before).map(|value| value.to_bits())
        })
    }

    /// Removes the blocks that belong to flushes up to `flush`.
    pub(crate) fn prune(&mut self, flush: u64) {
        let times = &self.times;
        for tile in &mut self.tiles {
            if tile.history.first().is_none_or(|block| block.flush > flush) {
                continue;
            }
            let newest: Vec<i64> =
                (0..tile.open.columns()).map(|column| tile.newest(column, times)).collect();
            tile.history.retain(|block| block.flush > flush);
            tile.history.shrink_to_fit();
            tile.floor = newest.iter().copied().max().unwrap_or(i64::MIN);
            tile.floors = newest
                .iter()
                .enumerate()
                .filter(|(_, newest)| **newest != tile.floor)
                .map(|(column, newest)| (column as u16, *newest))
                .collect();
        }
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_drained(&self) -> bool {
        self.times.is_empty() && self.tiles.iter().all(|tile| tile.history.is_empty())
    }

    /// If fewer than half of the cells of the last closed rows have samples: the columns by which rows
    /// they have.
    pub(crate) fn badly_filled(&self) -> Option<Vec<Vec<u32>>> {
        if self.columns.len() < 2 {
            return None;
        }
        let mut patterns: HashMap<u32, Vec<u32>> = HashMap::new();
        let (mut cells, mut samples) = (0usize, 0usize);
        for (number, tile) in self.tiles.iter().enumerate() {
            let block = tile.history.last()?;
            for within in 0..tile.open.columns() {
                let present = block.presence(within);
                cells += block.times.len();
                samples += present.count_ones() as usize;
                patterns.entry(present).or_default().push((number * COLUMNS_MAX + within) as u32);
            }
        }
        let worth_it = samples * 2 < cells && patterns.len() > 1;
        worth_it.then(|| {
            let mut groups: Vec<Vec<u32>> = patterns.into_values().collect();
            groups.sort();
            groups
        })
    }

    /// Estimated memory of samples and columns, bytes.
    pub(crate) fn bytes(&self) -> usize {
        let tiles = self.tiles.iter().map(|tile| {
            size_of::<LaneTile>()
                + tile.open.bytes()
                + tile.floors.len() * 16
                + tile.history.iter().map(Block::bytes).sum::<usize>()
        });
        size_of::<Lane>()
            + self.columns.len() * 8
            + self.log.previous.len() * 8
            + self.shape.as_ref().map_or(0, |shape| shape.series.len() * 12)
            + tiles.sum::<usize>()
    }
}
