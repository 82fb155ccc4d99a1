//! The rows of a lane of one column.

use std::sync::Arc;

use crate::head::block::{Block, Body};
use crate::head::strip::Strip;

/// Rows of one column.
#[derive(Debug)]
pub(super) struct Single {
    pub(super) open: Strip,
    /// Closed rows, oldest first.
    pub(super) history: Vec<Block>,
    /// The newest time before `history`.
    pub(super) floor: i64,
}

impl Default for Single {
    fn default() -> Self {
        Single { open: Strip::default(), history: Vec::new(), floor: i64::MIN }
    }
}

impl Single {
    /// Closes the open rows.
    pub(super) fn close(&mut self, position: u64, flush: u64) {
        let mut closed = std::mem::take(&mut self.open);
        closed.shrink();
        self.history.reserve_exact(1);
        self.history.push(Block::of_strip(Arc::new(closed), position, flush));
    }

    /// Makes the rows closed last the open ones again, if there are none since.
    pub(super) fn reopen(&mut self) {
        if self.open.rows() == 0
            && let Some(Block { body: Body::Strip(strip), .. }) = self.history.pop()
        {
            self.open = Arc::unwrap_or_clone(strip);
        }
    }

    /// Removes the samples from `start_ms` to `end_ms`, both inclusive.
    pub(super) fn delete(&mut self, start_ms: i64, end_ms: i64) {
        for (row, time) in self.open.times().iter().enumerate() {
            if (start_ms..=end_ms).contains(time) {
                self.open.clear(row);
            }
        }
        self.history.iter_mut().for_each(|block| block.delete(0, start_ms, end_ms));
    }

    /// The newest sample's time, `i64::MIN` for none.
    pub(super) fn newest(&self) -> i64 {
        let in_history = || self.history.iter().rev().find_map(|block| block.newest(0));
        self.open.newest().or_else(in_history).unwrap_or(self.floor)
    }

    /// The sample at a time, if it is still in the head.
    pub(super) fn value_at(&self, timestamp_ms: i64) -> Option<u64> {
        match self.open.row_at(timestamp_ms) {
            Some(row) => self.open.get(row),
            None => self.history.iter().rev().find_map(|block| block.value_at(0, timestamp_ms)),
        }
    }

    /// Removes the blocks that belong to flushes up to `flush`.
    pub(super) fn prune(&mut self, flush: u64) {
        if self.history.first().is_some_and(|block| block.flush <= flush) {
            self.floor = self.newest();
            self.history.retain(|block| block.flush > flush);
            self.history.shrink_to_fit();
        }
    }

    /// Estimated memory beside the lane itself, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.open.bytes() + self.history.iter().map(Block::bytes).sum::<usize>()
    }
}
