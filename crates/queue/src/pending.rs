//! What a reader has still to do, in figures.

use crate::cursor::ReaderState;
use crate::segment::Segment;

/// What a reader has still to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// Blocks that are neither acknowledged nor lost.
    pub blocks: u64,
    /// About how many bytes they have (in proportion to their segments).
    pub bytes: u64,
    /// About how many rows.
    pub rows: u64,
    /// About when its oldest row began, milliseconds since the epoch: as if the rows of a segment were spread evenly
    /// over its blocks.
    pub oldest_ms: Option<i64>,
}

impl Pending {
    /// What of `segments` is not done.
    pub(crate) fn of<'a>(
        segments: impl Iterator<Item = &'a Segment>,
        reader: Option<&ReaderState>,
    ) -> Pending {
        let mut all = Pending::default();
        for segment in segments.filter(|segment| segment.next > segment.first) {
            let done = reader.and_then(|reader| reader.done.get(&segment.incarnation));
            let (first, last, blocks) = (segment.first, segment.next - 1, segment.next - segment.first);
            let left = blocks - done.map_or(0, |done| done.count_within(first, last));
            if left == 0 {
                continue;
            }
            let part = |whole: u64| (u128::from(whole) * u128::from(left) / u128::from(blocks)) as u64;
            all.blocks += left;
            all.bytes += part(segment.end);
            all.rows += part(segment.sums.rows);
            if segment.sums.rows > 0 {
                let before = done.and_then(|done| done.around(first)).map_or(0, |(_, to)| to + 1 - first);
                let span_ms = i128::from(segment.sums.newest_ms) - i128::from(segment.sums.oldest_ms);
                let passed_ms = span_ms * i128::from(before) / i128::from(blocks);
                let oldest_ms = segment.sums.oldest_ms.saturating_add(passed_ms as i64);
                all.oldest_ms = Some(all.oldest_ms.map_or(oldest_ms, |other| other.min(oldest_ms)));
            }
        }
        all
    }
}
