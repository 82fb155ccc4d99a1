//! What can still be read of a part with damage.
//!
//! [`Part::load`] reads many series at once and fails as a whole. This goes series by series and block by
//! block, and leaves out what is damaged: of a page of values the blocks in it, of a page of the directory
//! or of times the series that need it. It is slower, and only used once the other way has failed.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::slice;

use storage::Column;

use super::PartError;
use super::directory::{Entry, Floats, Histograms};
use super::reader::{Clip, Part, plan_blocks};
use crate::merge::TimeConcatCache;
use crate::tombstone::keep_rows;

impl Part {
    /// As [`Part::load`], without what cannot be read: that is told in `damage`, the same place possibly
    /// many times. Columns that lose the same rows share their times through `cache`.
    pub fn load_readable(
        &self,
        series: &[u32],
        range: RangeInclusive<i64>,
        cache: &mut TimeConcatCache,
        out: &mut Vec<Column>,
        damage: &mut Vec<PartError>,
    ) {
        for &number in series {
            // Most are sound; and a disk may have changed its mind.
            if self.load(&[number], *range.start(), *range.end(), out).is_err() {
                out.push(self.readable(number, &range, cache, damage));
            }
        }
    }

    fn readable(
        &self,
        series: u32,
        range: &RangeInclusive<i64>,
        cache: &mut TimeConcatCache,
        damage: &mut Vec<PartError>,
    ) -> Column {
        let mut column = Column::default();
        let mut found = Entry::default();
        let read = self.entries(&[series], |entry| {
            found = entry;
            Ok(())
        });
        if let Err(error) = read {
            damage.push(error);
            return column;
        }
        let mut clips = HashMap::default();
        if let Some(floats) = &found.floats {
            match self.clip(floats.times, floats.rows, range, &mut clips) {
                Ok(clip) => self.readable_floats(floats, &clip, &mut column, cache, damage),
                Err(error) => damage.push(error),
            }
        }
        if let Some(stored) = &found.histograms {
            match self.clip(stored.times, stored.rows, range, &mut clips) {
                Ok(clip) => self.readable_histograms(stored, &clip, &mut column, damage),
                Err(error) => damage.push(error),
            }
        }
        column
    }

    fn readable_floats(
        &self,
        floats: &Floats,
        clip: &Clip,
        column: &mut Column,
        cache: &mut TimeConcatCache,
        damage: &mut Vec<PartError>,
    ) {
        if clip.rows.is_empty() {
            return;
        }
        column.times = clip.times.clone();
        column.values = vec![0.0; clip.rows.len()];
        match self.starts_of(floats.starts, clip) {
            Ok(starts) => column.start_times = starts,
            Err(error) => damage.push(error),
        }
        let (mut stretches, mut wanted) = (Vec::new(), Vec::new());
        plan_blocks(floats, clip, 0, &mut column.values, &mut stretches, &mut wanted);
        let mut keep: Vec<Range<usize>> = Vec::new();
        let mut from = 0;
        for (stretch, wanted) in stretches.iter().zip(&wanted) {
            let (stretch, block) = (slice::from_ref(stretch), slice::from_ref(wanted));
            if let Err(error) = self.fetch_values(stretch, block, slice::from_mut(column)) {
                damage.push(error);
                let lost = wanted.fills();
                keep.push(from..lost.start);
                from = lost.end;
            }
        }
        keep.push(from..column.times.len());
        keep.retain(|rows| !rows.is_empty());
        keep_rows(column, &keep, cache);
    }

    fn readable_histograms(
        &self,
        stored: &Histograms,
        clip: &Clip,
        column: &mut Column,
        damage: &mut Vec<PartError>,
    ) {
        let starts = match self.starts_of(stored.starts, clip) {
            Ok(starts) if !clip.rows.is_empty() => starts,
            Ok(_) => None,
            Err(error) => {
                damage.push(error);
                None
            }
        };
        let mut kept: Vec<i64> = Vec::new();
        for (stretch, rows) in stored.wanted(&clip.rows) {
            let before = column.histograms.len();
            let fills = rows.start.max(clip.rows.start)..rows.end.min(clip.rows.end);
            match self.fetch_histograms(&[(stretch, rows)], clip, &mut column.histograms) {
                Ok(()) => {
                    let fills = fills.start - clip.rows.start..fills.end - clip.rows.start;
                    kept.extend(starts.iter().flat_map(|starts| &starts[fills.clone()]));
                }
                Err(error) => {
                    damage.push(error);
                    column.histograms.truncate(before);
                }
            }
        }
        column.histogram_starts = (!kept.is_empty()).then(|| kept.into());
    }
}
