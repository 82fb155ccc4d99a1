//! How far the rows of a segment have been read, and their bases: once for each who sends it.
//!
//! As a rule that is one. Copies of a volume send the same segment, each from where it stands; read in turns at one
//! place, each would break what the other builds on.

use super::bases::Bases;
use super::decoder::SEGMENT_COLUMNS_MAX;

/// Most readings of a segment, and fewer where all together would have more columns than a segment may; the one unused
/// for longest makes room.
const READINGS_MAX: usize = 4;
/// A reading is let go when so many blocks have been read beside it.
const IDLE_BLOCKS: u64 = 1024;

/// How many columns the dictionary has defined.
#[derive(Debug, Default)]
pub(super) struct Widths {
    pub(super) of_sources: Vec<u32>,
    /// Of all sources together.
    pub(super) columns: usize,
}

/// A source on its way through the blocks.
#[derive(Debug, Default)]
pub(super) struct SourceReader {
    pub(super) bases: Bases,
    /// A clear has been read since reading began.
    pub(super) is_known: bool,
}

#[derive(Debug, Default)]
pub(super) struct Readings {
    /// The latest last.
    all: Vec<Reading>,
    blocks: u64,
}

#[derive(Debug, Default)]
struct Reading {
    sources: Vec<SourceReader>,
    /// Columns that there is room for.
    columns: usize,
    /// Blocks that have been read without a gap: from, and up to before.
    read: (u32, u32),
    /// How many blocks had been read when this one last was.
    used: u64,
}

impl Readings {
    /// What has been read last: from, and up to before.
    pub(super) fn latest(&self) -> Option<(u32, u32)> {
        self.all.iter().rev().map(|reading| reading.read).find(|(from, next)| from < next)
    }

    /// From where on blocks have been read up to `block`, if they have.
    pub(super) fn go_on_at(&self, block: u32) -> Option<u32> {
        self.at(block).map(|at| self.all[at].read.0)
    }

    /// The longest reading that goes on at `block`.
    fn at(&self, block: u32) -> Option<usize> {
        let goes_on = |at: &usize| {
            let (from, next) = self.all[*at].read;
            from < next && next == block
        };
        (0..self.all.len()).filter(goes_on).min_by_key(|at| self.all[*at].read.0)
    }

    /// The sources as they stand before `block`, or as new where nothing goes on there.
    pub(super) fn turn_to(&mut self, block: u32, widths: &Widths) -> &mut [SourceReader] {
        let mut reading = self.at(block).map_or_else(|| Reading::at(block), |at| self.all.remove(at));
        let others_max = (SEGMENT_COLUMNS_MAX / widths.columns.max(1)).clamp(1, READINGS_MAX) - 1;
        self.all.drain(..self.all.len().saturating_sub(others_max));
        reading.fit(widths);
        self.all.push_mut(reading).sources.as_mut_slice()
    }

    /// The latest reading has gone past `block`.
    pub(super) fn has_read(&mut self, block: u32) {
        self.blocks += 1;
        if let Some(reading) = self.all.last_mut() {
            reading.read.1 = block + 1;
            reading.used = self.blocks;
        }
        if self.all.len() > 1 {
            let blocks = self.blocks;
            self.all.retain(|reading| blocks - reading.used < IDLE_BLOCKS);
        }
    }
}

impl Reading {
    fn at(block: u32) -> Reading {
        Reading { read: (block, block), ..Reading::default() }
    }

    /// Makes room for what the dictionary has defined since.
    fn fit(&mut self, widths: &Widths) {
        if self.columns == widths.columns && self.sources.len() == widths.of_sources.len() {
            return;
        }
        self.sources.resize_with(widths.of_sources.len(), SourceReader::default);
        for (source, width) in self.sources.iter_mut().zip(&widths.of_sources) {
            source.bases.grow(*width as usize);
        }
        self.columns = widths.columns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_together_have_no_more_columns_than_a_segment() {
        let mut readings = Readings::default();
        for (columns, expected) in
            [(10, READINGS_MAX), (SEGMENT_COLUMNS_MAX / 2, 2), (SEGMENT_COLUMNS_MAX, 1)]
        {
            let widths = Widths { of_sources: Vec::new(), columns };
            for block in (0..100).step_by(10) {
                readings.turn_to(block, &widths);
                readings.has_read(block);
            }
            assert_eq!(readings.all.len(), expected, "{columns} columns");
            assert_eq!((readings.latest(), readings.go_on_at(91)), (Some((90, 91)), Some(90)));
        }
    }
}
