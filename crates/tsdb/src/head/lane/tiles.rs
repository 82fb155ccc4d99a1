//! The rows of a lane of several columns: their times once, and tiles.

use std::collections::HashMap;
use std::sync::Arc;

use super::Shape;
use super::single::Single;
use crate::head::block::Block;
use crate::head::tile::{COLUMNS_MAX, Tile};

/// Up to 256 neighbouring columns: the open rows and those before.
#[derive(Debug)]
pub(super) struct LaneTile {
    pub(super) open: Arc<Tile>,
    /// Closed rows, oldest first.
    pub(super) history: Vec<Block>,
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
        let in_history = self.history.iter().rev().find_map(|block| block.newest(column));
        in_history.unwrap_or_else(|| self.floor_of(column))
    }
}

/// Where in the tiles a column is.
fn place(column: usize) -> (usize, usize) {
    (column / COLUMNS_MAX, column % COLUMNS_MAX)
}

/// Rows of several columns.
#[derive(Debug, Default)]
pub(super) struct Tiles {
    /// Times of the open rows, ascending.
    pub(super) times: Vec<i64>,
    pub(super) tiles: Vec<LaneTile>,
}

impl Tiles {
    /// The rows of a lane that has had one column.
    pub(super) fn of_single(single: Single) -> Tiles {
        let Single { open, history, floor } = single;
        let times = open.times().to_vec();
        let tile = LaneTile { open: Arc::new(open.to_tile()), history, floor, floors: Vec::new() };
        Tiles { times, tiles: vec![tile] }
    }

    /// Adds the column behind `column` others.
    pub(super) fn add_column(&mut self, column: usize, newest_ms: i64) {
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
    }

    /// Closes the open rows.
    pub(super) fn close(&mut self, position: u64, flush: u64) {
        let times: Arc<[i64]> = self.times.as_slice().into();
        self.times.clear();
        for tile in &mut self.tiles {
            let mut fresh = Tile::default();
            (0..tile.open.columns()).for_each(|_| fresh.add_column());
            let open = std::mem::replace(&mut tile.open, Arc::new(fresh));
            tile.history.push(Block::new(times.clone(), position, flush, open));
        }
    }

    /// Appends a row of the remembered shape, newer than all others.
    pub(super) fn push(&mut self, timestamp_ms: i64, shape: Option<&Shape>, values: &[f64]) {
        self.push_time(timestamp_ms);
        let Some(shape) = shape else {
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
    pub(super) fn push_absent(&mut self, timestamp_ms: i64) {
        self.push_time(timestamp_ms);
        for tile in &mut self.tiles {
            Arc::make_mut(&mut tile.open).push_absent();
        }
    }

    fn push_time(&mut self, timestamp_ms: i64) {
        if self.times.capacity() == self.times.len() {
            self.times.reserve_exact(4); // there may be many lanes of few columns
        }
        self.times.push(timestamp_ms);
    }

    /// Removes the newest row again.
    pub(super) fn pop(&mut self) {
        self.times.pop();
        for tile in &mut self.tiles {
            Arc::make_mut(&mut tile.open).pop();
        }
    }

    /// Makes the rows closed last the open ones again, if there are none since.
    pub(super) fn reopen(&mut self) {
        if !self.times.is_empty() {
            return;
        }
        for tile in &mut self.tiles {
            if let Some((times, open)) = tile.history.pop().and_then(Block::into_open) {
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

    /// The sample of an open row.
    pub(super) fn get(&self, row: usize, column: u32) -> Option<u64> {
        let (tile, within) = place(column as usize);
        self.tiles[tile].open.get(row, within)
    }

    /// Sets a sample of an open row.
    pub(super) fn set(&mut self, row: usize, column: u32, bits: u64) {
        let (tile, within) = place(column as usize);
        Arc::make_mut(&mut self.tiles[tile].open).set(row, within, bits);
    }

    /// Removes a sample of an open row.
    pub(super) fn clear(&mut self, row: usize, column: u32) {
        let (tile, within) = place(column as usize);
        Arc::make_mut(&mut self.tiles[tile].open).clear(row, within);
    }

    /// Removes the samples of a column from `start_ms` to `end_ms`, both inclusive.
    pub(super) fn delete(&mut self, column: u32, start_ms: i64, end_ms: i64) {
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

    /// The newest sample's time of a column, `i64::MIN` for none.
    pub(super) fn newest(&self, column: u32) -> i64 {
        let (tile, within) = place(column as usize);
        self.tiles[tile].newest(within, &self.times)
    }

    /// The sample of a column at a time, if it is still in the head.
    pub(super) fn value_at(&self, column: u32, timestamp_ms: i64) -> Option<u64> {
        if let Ok(row) = self.times.binary_search(&timestamp_ms) {
            return self.get(row, column);
        }
        let (tile, within) = place(column as usize);
        self.tiles[tile].history.iter().rev().find_map(|block| block.value_at(within, timestamp_ms))
    }

    /// Removes the blocks that belong to flushes up to `flush`.
    pub(super) fn prune(&mut self, flush: u64) {
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

    /// If fewer than half of the cells of the last closed rows have samples: the columns by which rows
    /// they have.
    pub(super) fn badly_filled(&self) -> Option<Vec<Vec<u32>>> {
        let mut patterns: HashMap<u32, Vec<u32>> = HashMap::new();
        let (mut cells, mut samples) = (0usize, 0usize);
        for (number, tile) in self.tiles.iter().enumerate() {
            let block = tile.history.last()?;
            for within in 0..tile.open.columns() {
                let present = block.presence(within);
                cells += block.rows();
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

    /// Estimated memory, bytes.
    pub(super) fn bytes(&self) -> usize {
        let tile = |tile: &LaneTile| {
            size_of::<LaneTile>()
                + tile.open.bytes()
                + tile.floors.len() * 16
                + tile.history.iter().map(Block::bytes).sum::<usize>()
        };
        size_of::<Tiles>() + self.tiles.iter().map(tile).sum::<usize>()
    }
}
