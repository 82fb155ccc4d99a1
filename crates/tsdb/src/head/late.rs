//! The late lane: floats that are older than their series' newest sample, of one tenant.
//!
//! A backlog comes sorted by source, and its rows share their times like any others. So late rows are
//! kept as *runs*: rows of the same columns of a source, in the order in which they came. When a run has
//! some rows it is closed: sorted by time, repeats joined, and encoded column by column like a tile. A row
//! of few columns, or one of a source that sends ever new sets of columns, goes beside the lanes sample by
//! sample ([`super::side`]); so does every replacement, as those need an order among themselves. From there
//! they come here in compact form when there are many ([`loose`]).
//!
//! Between flushes, and when the budget for late samples runs low, a *spill* takes all of it at once and
//! writes it to late parts, while new late rows start a new [`Late`]. Spills are numbered like flushes, so
//! that a query sees each sample once ([`crate::version`]).

pub(crate) mod loose;
mod run;

use smallvec::SmallVec;
use std::collections::BTreeMap;
use storage::SeriesRef;

pub(crate) use self::loose::Loose;
pub(crate) use self::run::{Block, PinnedRun, Run};
use super::FastMap;
use super::index::slot_of;
use crate::codec::CodecError;
use crate::merge::{Piece, TimeConcatCache};

/// A row of fewer late samples is kept sample by sample.
pub(crate) const RUN_COLUMNS_MIN: usize = 4;
/// A source may have this many runs before it has to show rows for more of them.
const RUNS_FREE: u32 = 16;
/// Rows that a further run of a source needs in those before, for each.
const ROWS_A_RUN: u64 = 8;
/// Most runs of a tenant between two spills: their numbers are lanes in the log.
const RUNS_MAX: usize = 1 << 30;
/// What a run costs besides its columns and rows, bytes, about.
const RUN_BYTES: usize = 320;
/// What a column of a run costs, bytes, about: its name, its place by slot, the log's last value.
const COLUMN_BYTES: usize = 72;

/// So many pieces of single samples, of about the same size, become one.
const LOOSE_MERGED: usize = 8;

/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 24 * 3600 * 1000;

/// The late floats of one tenant since the last spill.
#[derive(Debug, Clone, Default)]
pub(crate) struct Late {
    pub(crate) runs: Vec<Run>,
    /// The latest run by source and [`shape_of`] its columns.
    by_shape: FastMap<(u32, u64), u32>,
    /// Runs and rows of each source.
    by_source: FastMap<u32, (u32, u64)>,
    /// Where the columns of a series are: (run, column).
    by_slot: FastMap<u32, SmallVec<[(u32, u32); 1]>>,
    /// Samples that came beside the lanes.
    pub(crate) loose: Vec<Loose>,
    bytes: usize,
    /// Closed blocks to encode: run, block.
    to_seal: Vec<(u32, u32)>,
}

impl Late {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.loose.is_empty()
    }

    /// Estimated memory, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Samples in all, repeats included.
    pub(crate) fn samples(&self) -> usize {
        self.runs.iter().map(Run::samples).sum::<usize>()
            + self.loose.iter().map(Loose::samples).sum::<usize>()
    }

    /// The slots that have samples; some come several times.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.by_slot.keys().copied().chain(self.loose.iter().flat_map(|loose| loose.slots().iter().copied()))
    }

    /// Whether a slot has samples.
    pub(crate) fn has(&self, slot: u32) -> bool {
        self.by_slot.contains_key(&slot) || self.loose.iter().any(|loose| loose.has(slot))
    }

    /// The run that rows of `series` of a source go to.
    pub(crate) fn find(&self, source: u32, series: &[SeriesRef]) -> Option<u32> {
        let run = *self.by_shape.get(&(source, shape_of(series)))?;
        (*self.runs[run as usize].columns == *series).then_some(run)
    }

    /// Starts a run, unless its source has many already with little in them.
    pub(crate) fn start_run(&mut self, source: u32, series: &[SeriesRef]) -> Option<u32> {
        let (runs, rows) = self.by_source.entry(source).or_default();
        let few = *runs < RUNS_FREE || *rows >= u64::from(*runs) * ROWS_A_RUN;
        if series.len() < RUN_COLUMNS_MIN || !few || self.runs.len() >= RUNS_MAX {
            return None;
        }
        *runs += 1;
        let number = self.runs.len() as u32;
        for (column, series) in (0u32..).zip(series) {
            self.by_slot.entry(slot_of(*series)).or_default().push((number, column));
        }
        self.by_shape.insert((source, shape_of(series)), number);
        self.runs.push(Run::new(source, series));
        self.bytes += RUN_BYTES + series.len() * COLUMN_BYTES;
        Some(number)
    }

    /// Appends a row to a run.
    pub(crate) fn push(&mut self, run: u32, timestamp_ms: i64, values: &[f64], position: u64) {
        let run = &mut self.runs[run as usize];
        run.push(timestamp_ms, values, position);
        self.bytes += (values.len() + 1) * 8;
        if let Some((_, rows)) = self.by_source.get_mut(&run.source) {
            *rows += 1;
        }
    }

    /// Removes the row that came last to a run again.
    pub(crate) fn pop(&mut self, run: u32) {
        let run = &mut self.runs[run as usize];
        run.pop();
        self.bytes = self.bytes.saturating_sub((run.columns.len() + 1) * 8);
        if let Some((_, rows)) = self.by_source.get_mut(&run.source) {
            *rows = rows.saturating_sub(1);
        }
    }

    /// Closes a run's rows if they are many.
    pub(crate) fn close_if_full(&mut self, run: u32) {
        if self.runs[run as usize].is_full() {
            self.close(run);
        }
    }

    fn close(&mut self, run: u32) {
        let closing = &mut self.runs[run as usize];
        if closing.close() {
            self.to_seal.push((run, closing.blocks.len() as u32 - 1));
        }
    }

    /// Takes in samples that came beside the lanes.
    pub(crate) fn add_loose(&mut self, loose: Loose) {
        self.bytes += loose.bytes();
        self.loose.push(loose);
    }

    /// Everything as it stands, for a spill; starts anew.
    pub(crate) fn take(&mut self) -> Late {
        for run in 0..self.runs.len() as u32 {
            self.close(run);
        }
        self.to_seal = Vec::new();
        std::mem::take(self)
    }

    /// Takes back what was taken and has not been spilled after all.
    pub(crate) fn absorb(&mut self, other: &Late) {
        let first = self.runs.len() as u32;
        self.runs.extend(other.runs.iter().cloned());
        for (number, run) in (first..).zip(&other.runs) {
            let raw = run.blocks.iter().enumerate().filter(|(_, block)| block.is_raw());
            self.to_seal.extend(raw.map(|(at, _)| (number, at as u32)));
        }
        for (slot, places) in &other.by_slot {
            let moved = places.iter().map(|(run, column)| (run + first, *column));
            self.by_slot.entry(*slot).or_default().extend(moved);
        }
        for (source, (runs, rows)) in &other.by_source {
            let of_source = self.by_source.entry(*source).or_default();
            of_source.0 += runs;
            of_source.1 += rows;
        }
        self.loose.splice(0..0, other.loose.iter().cloned());
        self.bytes += other.bytes;
    }

    /// Up to `max` closed blocks to encode.
    pub(crate) fn take_to_seal(&mut self, max: usize) -> Vec<(u32, u32, Block)> {
        let from = self.to_seal.len().saturating_sub(max);
        let places = self.to_seal.drain(from..).collect::<Vec<_>>();
        let block = |(run, at): (u32, u32)| {
            let block = self.runs.get(run as usize)?.blocks.get(at as usize)?;
            Some((run, at, block.clone()))
        };
        places.into_iter().filter_map(block).collect()
    }

    /// Whether something can be made smaller, outside the lock that appends need.
    pub(crate) fn has_to_seal(&self) -> bool {
        !self.to_seal.is_empty() || self.loose_to_merge().is_some()
    }

    /// Puts an encoded block in the place of its rows, if they are still there.
    pub(crate) fn put_sealed(&mut self, run: u32, at: u32, raw: &Block, sealed: Block) {
        let block = self.runs.get_mut(run as usize).and_then(|run| run.blocks.get_mut(at as usize));
        if let Some(block) = block.filter(|block| block.is_same(raw)) {
            self.bytes = (self.bytes + sealed.bytes()).saturating_sub(raw.bytes());
            block.replace_body(sealed);
        }
    }

    /// Neighbouring pieces of single samples that should be one, if there are any.
    pub(crate) fn loose_to_merge(&self) -> Option<&[Loose]> {
        let tier = |loose: &Loose| (loose.replace, loose.samples().max(1).ilog2() / LOOSE_MERGED.ilog2());
        if self.loose.len() < LOOSE_MERGED {
            return None;
        }
        let mut groups = self.loose.chunk_by(|a, b| tier(a) == tier(b));
        groups.find(|group| group.len() >= LOOSE_MERGED)
    }

    /// Puts one piece in the place of others, if these are still there.
    pub(crate) fn put_merged(&mut self, merged: &[Loose], loose: Loose) {
        let Some(first) = merged.first() else { return };
        let Some(at) = self.loose.iter().position(|other| other.is_same(first)) else { return };
        let there = self.loose[at..].iter().zip(merged).filter(|(a, b)| a.is_same(b)).count();
        if there == merged.len() {
            let before: usize = merged.iter().map(Loose::bytes).sum();
            self.bytes = (self.bytes + loose.bytes()).saturating_sub(before);
            self.loose.splice(at..at + there, [loose]);
        }
    }

    /// The sample that a run has of a slot at a time; the latest where there are several.
    pub(crate) fn in_runs(&self, slot: u32, timestamp_ms: i64) -> Option<u64> {
        let places = self.by_slot.get(&slot)?;
        places.iter().rev().find_map(|(run, column)| self.runs[*run as usize].value_at(*column, timestamp_ms))
    }

    /// The replacement of a slot at a time, the latest where there are several.
    pub(crate) fn replacement(&self, slot: u32, timestamp_ms: i64) -> Option<u64> {
        let replaced = self.loose.iter().rev().filter(|loose| loose.replace);
        replaced.into_iter().find_map(|loose| loose.value_at(slot, timestamp_ms))
    }

    /// Appends all samples of a slot, a piece for each block.
    pub(crate) fn pieces(
        &self,
        slot: u32,
        cache: &mut TimeConcatCache,
        out: &mut Vec<Piece>,
    ) -> Result<(), CodecError> {
        for (run, column) in self.places(slot) {
            self.runs[*run as usize].pieces(*column, cache, out)?;
        }
        self.loose.iter().try_for_each(|loose| loose.pieces(slot, cache, out))
    }

    /// Where the columns of a slot are: (run, column).
    pub(crate) fn places(&self, slot: u32) -> &[(u32, u32)] {
        self.by_slot.get(&slot).map_or(&[], |places| places)
    }

    /// Removes the samples of a slot from `start_ms` to `end_ms`, both inclusive.
    pub(crate) fn delete(&mut self, slot: u32, start_ms: i64, end_ms: i64) {
        for (run, column) in self.by_slot.get(&slot).cloned().unwrap_or_default() {
            // What comes later must stay.
            self.close(run);
            for block in &mut self.runs[run as usize].blocks {
                block.delete(column, start_ms, end_ms);
            }
        }
        self.loose.iter_mut().for_each(|loose| loose.delete(slot, start_ms, end_ms));
    }

    /// What is known of which rows are late does not hold any more.
    pub(crate) fn judge_anew(&mut self) {
        self.runs.iter_mut().for_each(|run| run.before_ms = i64::MIN);
    }

    /// Samples of each day, by its number since the epoch.
    pub(crate) fn days(&self, out: &mut BTreeMap<i64, u64>) {
        for run in &self.runs {
            for time in run.times() {
                *out.entry(time.div_euclid(DAY_MS)).or_default() += run.columns.len() as u64;
            }
        }
        for (day, samples) in self.loose.iter().flat_map(|loose| loose.days()) {
            *out.entry(*day).or_default() += samples;
        }
    }

    /// The least log position of its blocks.
    pub(crate) fn first_position(&self) -> Option<u64> {
        let blocks = self.runs.iter().flat_map(|run| &run.blocks).map(Block::position);
        blocks.chain(self.loose.iter().map(|loose| loose.position)).min()
    }
}

/// A number by which rows of other columns mostly differ: of how many there are, and some of them. Two
/// sets of columns that share it by chance start runs in turn, until these are too many.
fn shape_of(series: &[SeriesRef]) -> u64 {
    let step = series.len().div_ceil(8).max(1);
    let mix = |hash: u64, value: u64| (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let last = series.last().map_or(0, |last| last.0);
    series.iter().step_by(step).fold(mix(series.len() as u64, last), |hash, series| mix(hash, series.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn series(slots: &[u32]) -> Vec<SeriesRef> {
        slots.iter().map(|slot| super::super::index::reference(*slot, 1)).collect()
    }

    /// All samples of a slot, by time.
    fn read(late: &Late, slot: u32) -> BTreeMap<i64, u64> {
        let mut found = BTreeMap::new();
        let mut cache = TimeConcatCache::default();
        let mut pieces = Vec::new();
        for (run, column) in late.places(slot) {
            let pinned = late.runs[*run as usize].pin(i64::MIN, i64::MAX);
            pinned.pieces(*column, &mut cache, &mut pieces).expect("readable");
        }
        for loose in &late.loose {
            loose.pieces(slot, &mut cache, &mut pieces).expect("readable");
        }
        let column = crate::merge::combine(&mut pieces, &mut cache);
        found.extend(column.times.iter().copied().zip(column.values.iter().map(|value| value.to_bits())));
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_come_back_in_order(
            rows in proptest::collection::vec((0i64..60, 0u8..3, any::<bool>(), -1i32..3), 1..200),
            deleted in proptest::option::of((0i64..60, 0i64..20)),
        ) {
            let shapes = [series(&[1, 2, 3, 4]), series(&[3, 4, 5, 6, 7]), series(&[1, 7, 8, 9])];
            let mut late = Late::default();
            let mut model: BTreeMap<(u32, i64), u64> = BTreeMap::new();
            let half = rows.len() / 2;
            for (number, (time, shape, seal, fill)) in rows.iter().enumerate() {
                let columns = &shapes[usize::from(*shape)];
                let value = |slot: u32| match fill {
                    -1 => model::stale_nan(),
                    2 => f64::from(slot) * 0.1 + *time as f64,
                    other => f64::from(*other),
                };
                let values: Vec<f64> = columns.iter().map(|s| value(slot_of(*s))).collect();
                let run = late.find(7, columns).or_else(|| late.start_run(7, columns)).expect("few shapes");
                late.push(run, *time, &values, number as u64);
                if *fill == 0 {
                    late.pop(run);
                } else {
                    for (series, value) in columns.iter().zip(&values) {
                        let cell = model.entry((slot_of(*series), *time)).or_insert(value.to_bits());
                        let key = |bits: u64| (!model::is_stale(f64::from_bits(bits)), bits);
                        *cell = if key(*cell) > key(value.to_bits()) { *cell } else { value.to_bits() };
                    }
                }
                if *seal {
                    late.close(run);
                    for (run, at, raw) in late.take_to_seal(4) {
                        late.put_sealed(run, at, &raw, raw.seal());
                    }
                }
                if number == half && let Some((start, len)) = deleted {
                    late.delete(3, start, start + len);
                    model.retain(|(slot, time), _| *slot != 3 || !(start..=start + len).contains(time));
                }
            }
            for (slot, _) in model.keys() {
                prop_assert!(late.has(*slot));
            }
            let taken = late.take();
            prop_assert!(late.is_empty() && late.bytes() == 0);
            for slot in 1..10 {
                let wanted: BTreeMap<i64, u64> =
                    model.iter().filter(|((s, _), _)| *s == slot).map(|((_, t), bits)| (*t, *bits)).collect();
                prop_assert_eq!(read(&taken, slot), wanted.clone());
                let mut again = Late::default();
                again.absorb(&taken);
                prop_assert_eq!(read(&again, slot), wanted);
            }
        }
    }

    #[test]
    fn a_source_of_ever_new_shapes_gets_no_more_runs() {
        let mut late = Late::default();
        let started = (0..1000).filter(|n| late.start_run(1, &series(&[*n, n + 1, n + 2, n + 3])).is_some());
        assert_eq!(started.count(), RUNS_FREE as usize);
        let columns = series(&[1, 2, 3, 4]);
        assert!(late.start_run(2, &columns).is_some(), "other sources may");
        let run = late.find(2, &columns).expect("just started");
        (0..10_000).for_each(|row| late.push(run, row, &[1.0; 4], 1));
        assert!((0..1000).all(|n| late.start_run(2, &series(&[n, n + 1, n + 2, n + 3])).is_some()));
    }

    #[test]
    fn sealed_rows_are_small() {
        let columns: Vec<SeriesRef> = series(&(0..100).collect::<Vec<_>>());
        let mut late = Late::default();
        let run = late.start_run(1, &columns).expect("a run");
        let empty = late.bytes();
        let rows = 32 * 40;
        for row in 0..rows {
            let values: Vec<f64> =
                (0..100).map(|n| if n % 3 == 0 { (row * n) as f64 } else { n as f64 }).collect();
            late.push(run, row * 15_000, &values, 1);
            late.close_if_full(run);
        }
        let unsealed = late.bytes() - empty;
        assert!(unsealed <= 10 * 100 * rows as usize, "{unsealed}");
        for (run, at, raw) in late.take_to_seal(usize::MAX) {
            late.put_sealed(run, at, &raw, raw.seal());
        }
        assert_eq!(late.in_runs(3, (rows - 1) * 15_000), Some(((rows - 1) as f64 * 3.0).to_bits()));
        assert_eq!((late.in_runs(3, -1), late.in_runs(100, 0)), (None, None));
        let sealed = late.bytes() - empty;
        assert!(sealed < 3 * 100 * rows as usize, "{sealed}");
    }
}
