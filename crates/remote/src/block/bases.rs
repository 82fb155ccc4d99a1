//! What a row of a source is a difference to. Writer and reader keep the same.

use std::collections::HashMap;

use model::Histogram;

/// Most sets of columns remembered since a source was cleared; rows with further ones spell theirs out.
pub(crate) const SHAPES_MAX: usize = 512;

/// Columns `first`, `first + 1`, ... of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u32,
    pub(crate) len: u32,
}

impl Run {
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.first as usize..self.first as usize + self.len as usize
    }
}

/// A list of columns that rows had, and when.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) runs: Box<[Run]>,
    /// How many columns the runs have together.
    pub(crate) columns: usize,
    pub(crate) last_ms: i64,
    /// From the row before to the last one.
    pub(crate) step_ms: i64,
}

/// The bases of one source, all of them 0 or none after it was cleared.
#[derive(Debug, Default)]
pub(crate) struct Bases {
    /// Bits of the last value of each column.
    pub(crate) values: Vec<u64>,
    /// The decimal exponent of each column, with the writer's mark of columns that are no decimals.
    pub(crate) exponents: Vec<u8>,
    pub(crate) shapes: Vec<Shape>,
    /// The shape that the next row has if the rows of a scrape come in the order they came before.
    pub(crate) next_shape: usize,
    /// Of the last row; none after a clear.
    pub(crate) last_ms: Option<i64>,
    pub(crate) histograms: HashMap<u32, Histogram>,
    /// The last list of start timestamps.
    pub(crate) starts: Vec<(u32, i64)>,
}

impl Bases {
    /// Forgets everything but how many columns there are.
    pub(crate) fn clear(&mut self) {
        self.values.fill(0);
        self.exponents.fill(0);
        self.shapes.clear();
        self.next_shape = 0;
        self.last_ms = None;
        self.histograms.clear();
        self.starts.clear();
    }

    /// Makes room for columns below `columns`.
    pub(crate) fn grow(&mut self, columns: usize) {
        if columns > self.values.len() {
            self.values.resize(columns, 0);
            self.exponents.resize(columns, 0);
        }
    }

    /// The time a row with this shape is expected at; `base_ms` is the block's.
    pub(crate) fn expected_ms(&self, shape: Option<usize>, base_ms: i64) -> i64 {
        match shape.and_then(|at| self.shapes.get(at)) {
            Some(shape) => shape.last_ms.wrapping_add(shape.step_ms),
            None => self.last_ms.unwrap_or(base_ms),
        }
    }

    /// Remembers a new shape if there is room; the next one expected is the first.
    pub(crate) fn add_shape(&mut self, runs: &[Run], timestamp_ms: i64) {
        if self.shapes.len() < SHAPES_MAX {
            let columns = runs.iter().map(|run| run.len as usize).sum();
            self.shapes.push(Shape { runs: runs.into(), columns, last_ms: timestamp_ms, step_ms: 0 });
        }
        self.next_shape = 0;
    }

    /// A row with a known shape has come.
    pub(crate) fn use_shape(&mut self, at: usize, timestamp_ms: i64) {
        let count = self.shapes.len();
        if let Some(shape) = self.shapes.get_mut(at) {
            shape.step_ms = timestamp_ms.wrapping_sub(shape.last_ms);
            shape.last_ms = timestamp_ms;
            self.next_shape = if at + 1 < count { at + 1 } else { 0 };
        }
    }
}
