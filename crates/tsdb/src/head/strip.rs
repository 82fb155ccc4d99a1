//! Strips: the rows of one column with times of its own, as one run of bytes.
//!
//! A series that is pushed by itself shares its times with no other, so a tile would keep sixteen bytes a
//! sample of it and lists around them. A strip keeps each row as the difference to the row before: how much
//! the step in time has changed, and the value as in the log ([`crate::wal::values`]); two to ten bytes.
//! Whoever wants a row in the middle reads from the front, at most [`ROWS_MAX`](super::tile::ROWS_MAX) of them.

use std::sync::Arc;

use stdx::bytes::{Cursor, Malformed, put_zigzag};

use super::tile::{Tile, rows_of};
use crate::wal::values::{put_change, read_change};

/// Up to [`ROWS_MAX`](super::tile::ROWS_MAX) rows of a column.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strip {
    bytes: Vec<u8>,
    last: Row,
    /// Rows with a sample.
    present: u32,
    rows: u8,
}

/// What the next row is a difference to.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    time_ms: i64,
    /// From the row before.
    step_ms: i64,
    bits: u64,
}

impl Strip {
    pub(crate) fn rows(&self) -> usize {
        usize::from(self.rows)
    }

    /// Appends a row, newer than all others.
    pub(crate) fn push(&mut self, time_ms: i64, bits: Option<u64>) {
        if self.bytes.capacity() - self.bytes.len() < 12 {
            self.bytes.reserve_exact(24); // there may be very many strips
        }
        let Row { time_ms: before_ms, step_ms: step_before_ms, bits: before } = self.last;
        let step_ms = time_ms.wrapping_sub(before_ms);
        put_zigzag(&mut self.bytes, step_ms.wrapping_sub(step_before_ms));
        // A row without a sample says what the row before says.
        put_change(before, bits.unwrap_or(before), &mut self.bytes);
        self.last = Row { time_ms, step_ms, bits: bits.unwrap_or(before) };
        self.present |= u32::from(bits.is_some()) << self.rows;
        self.rows += 1;
    }

    /// Removes the last row.
    pub(crate) fn pop(&mut self) {
        let Some(rows) = self.rows.checked_sub(1) else { return };
        let mut read = self.read_rows();
        read.by_ref().take(usize::from(rows)).for_each(drop);
        let (last, left) = (read.last, read.cursor.rest().len());
        self.last = last;
        self.bytes.truncate(self.bytes.len() - left);
        self.present &= !(1 << rows);
        self.rows = rows;
    }

    fn read_rows(&self) -> Rows<'_> {
        Rows { cursor: Cursor::new(&self.bytes), last: Row::default() }
    }

    /// The rows in which there are samples, as bits.
    pub(crate) fn presence(&self) -> u32 {
        self.present
    }

    pub(crate) fn first_ms(&self) -> Option<i64> {
        self.read_rows().next().map(|row| row.time_ms)
    }

    pub(crate) fn last_ms(&self) -> Option<i64> {
        (self.rows > 0).then_some(self.last.time_ms)
    }

    /// The time of the newest sample.
    pub(crate) fn newest(&self) -> Option<i64> {
        let row = self.present.checked_ilog2()? as usize;
        if row + 1 == self.rows() {
            return self.last_ms();
        }
        self.read_rows().nth(row).map(|row| row.time_ms)
    }

    /// The row at a time.
    pub(crate) fn row_at(&self, time_ms: i64) -> Option<usize> {
        if self.last_ms()? <= time_ms {
            return (self.last.time_ms == time_ms).then(|| self.rows() - 1);
        }
        self.read_rows().position(|row| row.time_ms == time_ms)
    }

    /// The sample of a row, as bits.
    pub(crate) fn get(&self, row: usize) -> Option<u64> {
        if self.present >> row & 1 == 0 {
            return None;
        }
        self.read_rows().nth(row).map(|row| row.bits)
    }

    /// Sets the sample of a row.
    pub(crate) fn set(&mut self, row: usize, bits: u64) {
        if row + 1 == self.rows() {
            let time_ms = self.last.time_ms;
            self.pop();
            self.push(time_ms, Some(bits));
            return;
        }
        let mut rebuilt = Strip::default();
        for (number, read) in self.read_rows().enumerate() {
            let here = self.present >> number & 1 == 1;
            rebuilt.push(read.time_ms, if number == row { Some(bits) } else { here.then_some(read.bits) });
        }
        *self = rebuilt;
    }

    /// Removes the sample of a row.
    pub(crate) fn clear(&mut self, row: usize) {
        self.present &= !(1 << row);
    }

    pub(crate) fn times(&self) -> Arc<[i64]> {
        self.read_rows().map(|row| row.time_ms).collect()
    }

    /// Appends the samples to `values`, rows ascending.
    pub(crate) fn read(&self, values: &mut Vec<f64>) {
        let rows = self.read_rows().enumerate().filter(|(row, _)| self.present >> row & 1 == 1);
        values.extend(rows.map(|(_, row)| f64::from_bits(row.bits)));
    }

    /// The rows as a tile of one column.
    pub(crate) fn to_tile(&self) -> Tile {
        let mut tile = Tile::default();
        tile.add_column();
        for (number, row) in self.read_rows().enumerate() {
            if self.present >> number & 1 == 1 {
                tile.push_full(&[f64::from_bits(row.bits)]);
            } else {
                tile.push_absent();
            }
        }
        tile
    }

    /// Gives back the room for further rows.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Estimated memory beside the strip itself, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Samples in all.
    pub(crate) fn samples(&self) -> usize {
        rows_of(self.present).count()
    }
}

/// Reads rows from the front.
struct Rows<'a> {
    cursor: Cursor<'a>,
    last: Row,
}

impl Rows<'_> {
    fn read(&mut self) -> Result<Row, Malformed> {
        let step_ms = self.last.step_ms.wrapping_add(self.cursor.zigzag()?);
        let mut bits = self.last.bits;
        read_change(&mut self.cursor, &mut bits)?;
        Ok(Row { time_ms: self.last.time_ms.wrapping_add(step_ms), step_ms, bits })
    }
}

impl Iterator for Rows<'_> {
    type Item = Row;
    fn next(&mut self) -> Option<Row> {
        // Only `push` writes these bytes: they end with a row.
        self.last = self.read().ok()?;
        Some(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tile::ROWS_MAX;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Act {
        Push(i64, Option<u64>),
        Set(usize, u64),
        Clear(usize),
        Pop,
    }

    fn bits() -> impl Strategy<Value = u64> {
        prop_oneof![
            4 => (-300i64..300).prop_map(|value| (value as f64).to_bits()),
            2 => (-300i64..300).prop_map(|value| (value as f64 / 10.0).to_bits()),
            1 => any::<u64>(),
        ]
    }

    fn act() -> impl Strategy<Value = Act> {
        let step = prop_oneof![4 => Just(15_000i64), 2 => 1i64..20_000, 1 => 1i64..1 << 60];
        prop_oneof![
            6 => (step, proptest::option::weighted(0.9, bits())).prop_map(|(step, bits)| Act::Push(step, bits)),
            2 => (0..ROWS_MAX, bits()).prop_map(|(row, bits)| Act::Set(row, bits)),
            1 => (0..ROWS_MAX).prop_map(Act::Clear),
            1 => Just(Act::Pop),
        ]
    }

    proptest! {
        #[test]
        fn a_strip_is_a_list(acts in proptest::collection::vec(act(), 0..60)) {
            let (mut strip, mut model): (Strip, Vec<(i64, Option<u64>)>) = Default::default();
            for act in acts {
                match act {
                    Act::Push(step, bits) if strip.rows() < ROWS_MAX => {
                        let before = model.last().map_or(1_700_000_000_000, |row| row.0);
                        let Some(time) = before.checked_add(step) else { continue };
                        strip.push(time, bits);
                        model.push((time, bits));
                    }
                    Act::Set(row, bits) if row < model.len() => {
                        strip.set(row, bits);
                        model[row].1 = Some(bits);
                    }
                    Act::Clear(row) if row < model.len() => {
                        strip.clear(row);
                        model[row].1 = None;
                    }
                    Act::Pop => {
                        strip.pop();
                        model.pop();
                    }
                    _ => {}
                }
                prop_assert_eq!(strip.rows(), model.len());
                let times: Vec<i64> = model.iter().map(|row| row.0).collect();
                prop_assert_eq!(&*strip.times(), &times[..]);
                prop_assert_eq!(strip.first_ms(), times.first().copied());
                prop_assert_eq!(strip.last_ms(), times.last().copied());
                let newest = model.iter().rev().find(|row| row.1.is_some());
                prop_assert_eq!(strip.newest(), newest.map(|row| row.0));
                let tile = strip.to_tile();
                for (row, (time, bits)) in model.iter().enumerate() {
                    prop_assert_eq!(strip.row_at(*time), Some(row));
                    prop_assert_eq!(strip.row_at(time - 1), times.binary_search(&(time - 1)).ok());
                    prop_assert_eq!((strip.get(row), tile.get(row, 0)), (*bits, *bits));
                }
                let mut values = Vec::new();
                strip.read(&mut values);
                let wanted: Vec<u64> = model.iter().filter_map(|row| row.1).collect();
                prop_assert_eq!(values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), wanted);
                prop_assert_eq!(strip.samples(), values.len());
            }
        }
    }

    #[test]
    fn a_regular_counter_takes_two_bytes_a_row() {
        let mut strip = Strip::default();
        for row in 0..ROWS_MAX as i64 {
            strip.push(1_700_000_000_000 + row * 15_000, Some((row as f64 * 20.0).to_bits()));
        }
        assert!(strip.bytes.len() < 3 * ROWS_MAX, "{} bytes", strip.bytes.len());
    }
}
