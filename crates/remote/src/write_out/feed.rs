//! From blocks to groups.

use super::catalog::{Catalog, Shape};
use super::group::{Collector, Cut, Group};

/// Where a block stands in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) incarnation: u128,
    pub(super) block: u64,
}

/// The blocks that a group is made of, as runs of consecutive numbers: (incarnation, first, last).
pub(super) type Blocks = Vec<(u128, u64, u64)>;

/// Collects blocks and makes groups of them.
#[derive(Debug)]
pub(super) struct Feed {
    /// The series.
    pub(super) catalog: Catalog,
    /// The points since the last group.
    pub(super) collector: Collector,
    cut: Cut,
    blocks: Blocks,
    /// Timestamp of the newest row since the last group.
    newest_ms: i64,
}

impl Feed {
    pub(super) fn new(shape: Shape, cut: Cut) -> Feed {
        let (catalog, collector) = (Catalog::new(shape), Collector::default());
        Feed { catalog, collector, cut, blocks: Blocks::new(), newest_ms: i64::MIN }
    }

    /// Whether a block whose newest row is of `newest_ms` begins another group: then [`Feed::close`] comes
    /// before [`Feed::begin`].
    pub(super) fn ends_before(&self, newest_ms: i64) -> bool {
        !self.blocks.is_empty() && self.cut.before(self.collector.points(), self.newest_ms, newest_ms)
    }

    /// Rows of this block follow, the newest of `newest_ms`.
    pub(super) fn begin(&mut self, at: Position, newest_ms: i64) {
        self.newest_ms = self.newest_ms.max(newest_ms);
        match self.blocks.last_mut() {
            Some((incarnation, _, last)) if *incarnation == at.incarnation && *last + 1 == at.block => {
                *last = at.block;
            }
            _ => self.blocks.push((at.incarnation, at.block, at.block)),
        }
    }

    /// When the blocks so far should go out although no other followed, wall time; `None` without any.
    pub(super) fn due_ms(&self) -> Option<i64> {
        if self.blocks.is_empty() {
            return None;
        }
        if self.collector.points() >= self.cut.points_max {
            return Some(i64::MIN);
        }
        Some(self.cut.slice_end_ms(self.newest_ms))
    }

    /// The blocks so far as a group.
    pub(super) fn close(&mut self, points_max: usize) -> (Group, Blocks) {
        let group = self.collector.close(&mut self.catalog, points_max);
        self.newest_ms = i64::MIN;
        self.catalog.clean();
        (group, std::mem::take(&mut self.blocks))
    }
}
