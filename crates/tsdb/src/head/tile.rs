//! Tiles: up to 256 columns by 32 rows of one lane, the unit in which the head grows and is sealed.
//!
//! Most columns do not change for many rows. A column is therefore *materialised*, given cells of its
//! own, only at the row where it first changes; before that its value is its *base*. Rows are stored
//! one behind the other and get longer as columns are materialised:
//!
//! ```text
//! base    c0 c1 c2 c3 c4 ...          8 bytes a column
//! cells   c3 | c3 c1 | c3 c1 | ...    8 bytes a changing column and row: c3 changed in row 1, c1 in row 2
//! ```
//!
//! Which cells are there is a bitmap of rows, kept for all columns together until one is missing. A
//! missing cell is never a NaN: a pusher may send any NaN, and it comes back bit for bit.
//!
//! A query takes a tile by its `Arc`; a writer that meets a shared tile copies it first. So a query
//! never copies more than it touches, and what it has pinned does not change.

use smallvec::SmallVec;

use crate::codec::{CodecError, decode_values, encode_values};

/// Most columns of a tile.
pub(crate) const COLUMNS_MAX: usize = 256;
/// Most rows of a tile.
pub(crate) const ROWS_MAX: usize = 32;

const NOT_MATERIALISED: u16 = u16::MAX;

/// An open tile. Row times belong to the lane.
///
/// Lists by column are inline for a column or two: a series that is pushed alone has a tile of its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tile {
    /// Bit patterns; without meaning for a column without samples.
    base: SmallVec<[u64; 2]>,
    /// Where a column's cell is in its row.
    index: SmallVec<[u16; 4]>,
    /// Columns materialised so far.
    materialised: u16,
    cells: Vec<u64>,
    /// Where each row's cells end.
    row_ends: Vec<u16>,
    /// Rows in which every column has a sample.
    full: u32,
    /// Further rows, by column; empty while `full` says it all.
    present: SmallVec<[u32; 4]>,
}

impl Tile {
    pub(crate) fn columns(&self) -> usize {
        self.base.len()
    }

    pub(crate) fn rows(&self) -> usize {
        self.row_ends.len()
    }

    /// Adds a column, without samples so far.
    pub(crate) fn add_column(&mut self) {
        if self.full != 0 {
            self.spell_out();
        }
        self.base.push(0);
        self.index.push(NOT_MATERIALISED);
        if !self.present.is_empty() || self.rows() > 0 {
            self.present.resize(self.base.len(), 0);
        }
    }

    /// Moves what `full` says to `present`.
    fn spell_out(&mut self) {
        self.present.resize(self.base.len(), 0);
        for rows in &mut self.present {
            *rows |= self.full;
        }
        self.full = 0;
    }

    /// The rows in which `column` has samples, as bits.
    pub(crate) fn presence(&self, column: usize) -> u32 {
        self.full | self.present.get(column).copied().unwrap_or(0)
    }

    /// Whether a column has a sample in some row, so that its base means something.
    fn is_seen(&self, column: usize) -> bool {
        self.presence(column) != 0
    }

    /// Appends a row in which every column has a sample.
    pub(crate) fn push_full(&mut self, values: &[f64]) {
        debug_assert_eq!(values.len(), self.columns());
        let row = self.rows();
        if row == 0 || !self.all_seen() {
            self.push_absent();
            for (column, value) in values.iter().enumerate() {
                self.set_last(column, value.to_bits());
            }
            for rows in &mut self.present {
                *rows &= !(1 << row);
            }
        } else {
            let start = self.make_row();
            let columns = self.index.iter_mut().zip(&self.base);
            for ((index, base), value) in columns.zip(values) {
                let bits = value.to_bits();
                match *index {
                    NOT_MATERIALISED if bits == *base => {}
                    NOT_MATERIALISED => {
                        *index = self.materialised;
                        self.materialised += 1;
                        self.cells.push(bits);
                    }
                    at => self.cells[start + usize::from(at)] = bits,
                }
            }
            self.row_ends[row] = self.cells.len() as u16;
        }
        self.full |= 1 << row;
    }

    fn all_seen(&self) -> bool {
        self.full != 0 || (0..self.columns()).all(|column| self.is_seen(column))
    }

    /// Appends a row without samples.
    pub(crate) fn push_absent(&mut self) {
        self.make_row();
        if self.present.is_empty() {
            self.present.resize(self.columns(), 0);
        }
    }

    fn make_row(&mut self) -> usize {
        let (start, width) = (self.cells.len(), usize::from(self.materialised));
        // Room for a few more rows, not for twice as many as there are.
        let rows = (ROWS_MAX - self.rows()).min(if self.columns() > 8 { 8 } else { 4 });
        if self.cells.capacity() - start < width {
            self.cells.reserve_exact((width + 8).min(self.columns()) * rows);
        }
        if self.row_ends.capacity() == self.row_ends.len() {
            self.row_ends.reserve_exact(rows);
        }
        self.cells.resize(start + width, 0);
        self.row_ends.push(self.cells.len() as u16);
        start
    }

    /// Removes the last row.
    pub(crate) fn pop(&mut self) {
        if self.row_ends.pop().is_some() {
            let row = self.rows();
            self.cells.truncate(self.row_ends.last().map_or(0, |end| *end as usize));
            self.full &= !(1 << row);
            for rows in &mut self.present {
                *rows &= !(1 << row);
            }
            // A column that was materialised in this row has no cells in the rows before, and
            // nothing relies on the next row being shorter.
        }
    }

    /// Sets a cell of the last row.
    pub(crate) fn set_last(&mut self, column: usize, bits: u64) {
        let row = self.rows() - 1;
        if self.store_last(row, column, bits) {
            self.mark(row, column);
        }
    }

    fn mark(&mut self, row: usize, column: usize) {
        if self.full >> row & 1 == 0 {
            self.present.resize(self.columns(), 0);
            self.present[column] |= 1 << row;
        }
    }

    fn store_last(&mut self, row: usize, column: usize, bits: u64) -> bool {
        if !self.is_seen(column) {
            self.base[column] = bits;
        }
        let start = if row == 0 { 0 } else { self.row_ends[row - 1] as usize };
        match self.index[column] {
            NOT_MATERIALISED if self.base[column] == bits => {}
            NOT_MATERIALISED => {
                self.index[column] = self.materialised;
                self.materialised += 1;
                self.widen_last(start, usize::from(self.materialised));
                self.cells[start + usize::from(self.materialised) - 1] = bits;
            }
            at => {
                self.widen_last(start, usize::from(at) + 1);
                self.cells[start + usize::from(at)] = bits;
            }
        }
        true
    }

    fn widen_last(&mut self, start: usize, width: usize) {
        if self.cells.len() < start + width {
            // Cells between are of columns that have no sample in this row, or their base.
            let columns: Vec<(usize, u64)> = (0..self.columns())
                .filter(|c| self.index[*c] != NOT_MATERIALISED)
                .map(|c| (usize::from(self.index[c]), self.base[c]))
                .collect();
            let before = self.cells.len();
            self.cells.resize(start + width, 0);
            for (at, base) in columns {
                if start + at >= before && at < width {
                    self.cells[start + at] = base;
                }
            }
            if let Some(end) = self.row_ends.last_mut() {
                *end = self.cells.len() as u16;
            }
        }
    }

    /// The bits at a cell; without meaning where there is no sample.
    fn bits(&self, row: usize, column: usize) -> u64 {
        let start = if row == 0 { 0 } else { self.row_ends[row - 1] as usize };
        let width = self.row_ends[row] as usize - start;
        match usize::from(self.index[column]) {
            at if at < width => self.cells[start + at],
            _ => self.base[column],
        }
    }

    /// The sample at a cell, as bits.
    pub(crate) fn get(&self, row: usize, column: usize) -> Option<u64> {
        (self.presence(column) >> row & 1 == 1).then(|| self.bits(row, column))
    }

    /// Sets a cell of any row.
    pub(crate) fn set(&mut self, row: usize, column: usize, bits: u64) {
        if row + 1 == self.rows() {
            self.set_last(column, bits);
            return;
        }
        let mut rows = self.dense();
        rows[row][column] = Some(bits);
        self.rebuild(&rows);
    }

    /// Removes a sample.
    pub(crate) fn clear(&mut self, row: usize, column: usize) {
        if self.full >> row & 1 == 1 {
            self.spell_out();
        }
        if let Some(rows) = self.present.get_mut(column) {
            *rows &= !(1 << row);
        }
    }

    fn dense(&self) -> Vec<Vec<Option<u64>>> {
        (0..self.rows())
            .map(|row| (0..self.columns()).map(|column| self.get(row, column)).collect())
            .collect()
    }

    fn rebuild(&mut self, rows: &[Vec<Option<u64>>]) {
        let mut rebuilt = Tile::default();
        for _ in 0..self.columns() {
            rebuilt.add_column();
        }
        for row in rows {
            rebuilt.push_absent();
            for (column, bits) in row.iter().enumerate() {
                if let Some(bits) = bits {
                    rebuilt.set_last(column, *bits);
                }
            }
        }
        *self = rebuilt;
    }

    /// Appends the samples of `column` to `values`, rows ascending; [`presence`](Self::presence) says which.
    pub(crate) fn read(&self, column: usize, values: &mut Vec<f64>) {
        let present = self.presence(column);
        if self.index[column] == NOT_MATERIALISED {
            let len = values.len() + present.count_ones() as usize;
            values.resize(len, f64::from_bits(self.base[column]));
            return;
        }
        values.extend(rows_of(present).map(|row| f64::from_bits(self.bits(row, column))));
    }

    /// Samples in all.
    pub(crate) fn samples(&self) -> usize {
        (0..self.columns()).map(|column| self.presence(column).count_ones() as usize).sum()
    }

    /// Estimated memory, bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Tile>()
            + self.columns() * 10
            + self.present.len() * 4
            + self.cells.capacity() * 8
            + self.rows() * 2
    }

    /// The tile in its small, unchangeable form.
    pub(crate) fn seal(&self) -> SealedTile {
        let (mut offsets, mut bytes, mut values) =
            (Vec::with_capacity(self.columns()), Vec::new(), Vec::new());
        for column in 0..self.columns() {
            offsets.push(bytes.len() as u32);
            values.clear();
            self.read(column, &mut values);
            encode_values(&values, &mut bytes);
        }
        let rows = self.rows();
        let all = if rows == 32 { u32::MAX } else { (1u32 << rows) - 1 };
        let complete = (0..self.columns()).all(|column| self.presence(column) == all);
        let present =
            if complete { Box::default() } else { (0..self.columns()).map(|c| self.presence(c)).collect() };
        SealedTile { rows: all, present, offsets: offsets.into(), bytes: bytes.into() }
    }
}

/// The set bits of a row bitmap, ascending.
pub(crate) fn rows_of(mut present: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let row = present.trailing_zeros();
        (row < 32).then(|| {
            present &= present - 1;
            row as usize
        })
    })
}

/// A tile that takes no more rows, its columns encoded.
#[derive(Debug)]
pub(crate) struct SealedTile {
    rows: u32,
    /// Rows with samples, by column; empty when every column has all rows.
    present: Box<[u32]>,
    offsets: Box<[u32]>,
    bytes: Box<[u8]>,
}

impl SealedTile {
    pub(super) fn columns(&self) -> usize {
        self.offsets.len()
    }

    /// Samples in all.
    pub(super) fn samples(&self) -> usize {
        match &*self.present {
            [] => self.columns() * self.rows.count_ones() as usize,
            present => present.iter().map(|rows| rows.count_ones() as usize).sum(),
        }
    }

    pub(super) fn presence(&self, column: usize) -> u32 {
        if self.present.is_empty() { self.rows } else { self.present.get(column).copied().unwrap_or(0) }
    }

    pub(super) fn read(&self, column: usize, values: &mut Vec<f64>) -> Result<(), CodecError> {
        let count = self.presence(column).count_ones() as usize;
        let bytes =
            self.offsets.get(column).and_then(|at| self.bytes.get(*at as usize..)).unwrap_or_default();
        decode_values(bytes, count, values).map(|_| ())
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<SealedTile>() + self.present.len() * 4 + self.offsets.len() * 4 + self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::head::block::{Block, Body};

    #[derive(Debug, Clone)]
    enum Act {
        Full(Vec<f64>),
        Sparse(Vec<Option<f64>>),
        Set(usize, usize, f64),
        Clear(usize, usize),
        AddColumn,
        Pop,
    }

    const WIDE: usize = 6;

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![4 => Just(1.0), 2 => Just(2.0), 1 => Just(f64::NAN), 1 => any::<u64>().prop_map(f64::from_bits)]
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => proptest::collection::vec(value(), WIDE).prop_map(Act::Full),
            2 => proptest::collection::vec(proptest::option::of(value()), WIDE).prop_map(Act::Sparse),
            2 => (0..ROWS_MAX, 0..WIDE, value()).prop_map(|(r, c, v)| Act::Set(r, c, v)),
            1 => (0..ROWS_MAX, 0..WIDE).prop_map(|(r, c)| Act::Clear(r, c)),
            1 => Just(Act::AddColumn),
            1 => Just(Act::Pop),
        ]
    }

    proptest! {
        #[test]
        fn a_tile_is_a_table(acts in proptest::collection::vec(act(), 0..50), start in 0..=WIDE) {
            let mut tile = Tile::default();
            (0..start).for_each(|_| tile.add_column());
            let mut model: Vec<Vec<Option<u64>>> = Vec::new();
            for act in acts {
                let columns = tile.columns();
                match act {
                    Act::Full(values) if model.len() < ROWS_MAX => {
                        tile.push_full(&values[..columns]);
                        model.push(values[..columns].iter().map(|v| Some(v.to_bits())).collect());
                    }
                    Act::Sparse(values) if model.len() < ROWS_MAX => {
                        tile.push_absent();
                        for (column, value) in values[..columns].iter().enumerate() {
                            if let Some(value) = value {
                                tile.set_last(column, value.to_bits());
                            }
                        }
                        model.push(values[..columns].iter().map(|v| v.map(f64::to_bits)).collect());
                    }
                    Act::Set(row, column, value) if row < model.len() && column < columns => {
                        tile.set(row, column, value.to_bits());
                        model[row][column] = Some(value.to_bits());
                    }
                    Act::Clear(row, column) if row < model.len() && column < columns => {
                        tile.clear(row, column);
                        model[row][column] = None;
                    }
                    Act::AddColumn if columns < WIDE => {
                        tile.add_column();
                        model.iter_mut().for_each(|row| row.push(None));
                    }
                    Act::Pop => {
                        tile.pop();
                        model.pop();
                    }
                    _ => {}
                }
                prop_assert_eq!(&tile.dense(), &model);
            }
            let times: Arc<[i64]> = (0..model.len() as i64).collect();
            let open = Block::new(times.clone(), 0, 0, Arc::new(tile.clone()));
            let mut sealed = open.clone();
            sealed.body = Body::Sealed(times, Arc::new(tile.seal()));
            for block in [sealed, open] {
                for column in 0..tile.columns() {
                    let mut values = Vec::new();
                    block.read(column, &mut values).unwrap();
                    let bits: Vec<u64> = values.iter().map(|v| v.to_bits()).collect();
                    let wanted: Vec<u64> = model.iter().filter_map(|row| row[column]).collect();
                    prop_assert_eq!(bits, wanted);
                }
            }
        }
    }

    #[test]
    fn constant_columns_cost_no_cells() {
        let mut tile = Tile::default();
        (0..256).for_each(|_| tile.add_column());
        let mut values = vec![1.0; 256];
        for row in 0..32 {
            values[7] = f64::from(row);
            tile.push_full(&values);
        }
        assert_eq!(tile.cells.len(), 31);
        assert_eq!(tile.samples(), 256 * 32);
    }
}
