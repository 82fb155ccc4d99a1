//! One source of an encoder: which columns its series are, which rows it takes.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use model::{Exemplar, Histogram, Labels, STALE_NAN_BITS};
use stdx::intern::{Interned, List};
use storage::{
    Account, Appended, Conflict, Late, Policy, RejectReason, Rejection, Row, Schedule, SeriesRef, SourceDesc,
};

use super::metrics::EncoderMetrics;
use crate::block::{Alike, BlockWriter, RowColumns, RowParts, Run, SourceWriter, Symbols};

/// Sources have numbers below this, columns too (24 bits each in a [`SeriesRef`]).
pub(super) const SOURCES_MAX: u32 = 1 << 24;
/// Most columns of a source, free places included.
const COLUMNS_MAX: usize = 1 << 22;
/// Most labels of a series.
const LABELS_MAX: usize = 4096;
/// Longest labels of an exemplar, characters in all. Source: OpenMetrics 1.0, "Exemplars".
const EXEMPLAR_CHARS_MAX: usize = 128;
/// A source is cleared at least once in so many ticks.
const CLEAR_TICKS: u32 = 20;
/// A source is cleared when it has been cleared so many blocks ago, so that a floor is not far.
const CLEAR_BLOCKS: u32 = 400;
/// The index of labels is let go of when nothing has been resolved for this long, milliseconds.
const INDEX_IDLE_MS: i64 = 30_000;

/// What sources have in common.
#[derive(Debug, Default)]
pub(super) struct Common {
    columns: Alike,
    generations: Interned<[u16]>,
}

/// A source.
#[derive(Debug)]
pub(super) struct Source {
    number: u32,
    pub(super) writer: SourceWriter,
    /// Told apart by this, series that were in the same place at different times.
    generations: List<u16>,
    /// Bit set: the column had a row, or was resolved, since the last sweep.
    seen: Vec<u64>,
    free: Vec<u32>,
    /// Columns by the hash of their labels, while something is being resolved.
    index: Option<HashTable<u32>>,
    resolved_ms: i64,
    /// Of the rows that came under [`Late::Reject`].
    newest_rejecting_ms: i64,
    /// Of all rows, for counting ticks.
    newest_ms: i64,
    ticks: u32,
    /// The next clear comes after this many ticks.
    clear_after: u32,
    rows_since_clear: u32,
    had_rows: bool,
    /// Since when rows are due and on which schedule, and the segment that says so.
    expected: Option<(i64, Schedule, u64)>,
}

/// Where a row goes.
pub(super) struct To<'a> {
    pub(super) block: &'a mut BlockWriter,
    pub(super) symbols: &'a mut Symbols,
    pub(super) room: &'a mut Room,
    pub(super) done: &'a mut Appended,
    pub(super) metrics: &'a EncoderMetrics,
}

/// Memory used again from row to row.
#[derive(Debug, Default)]
pub(super) struct Room {
    runs: Vec<Run>,
    columns: Vec<u32>,
    values: Vec<f64>,
    starts: Vec<(u32, i64)>,
    sorted: Vec<u32>,
}

/// Which columns a row has.
enum Found {
    Shape(usize),
    /// In the room; with the values, where some were left out.
    Runs {
        some_left_out: bool,
    },
}

impl Source {
    pub(super) fn new(number: u32, desc: &SourceDesc, symbols: &mut Symbols) -> Source {
        Source {
            number,
            writer: SourceWriter::new(desc.id, &desc.labels, symbols),
            generations: List::default(),
            seen: Vec::new(),
            free: Vec::new(),
            index: None,
            resolved_ms: 0,
            newest_rejecting_ms: i64::MIN,
            newest_ms: i64::MIN,
            ticks: 0,
            // Not all sources at once.
            clear_after: 1 + number.wrapping_mul(7919) % CLEAR_TICKS,
            rows_since_clear: 0,
            had_rows: false,
            expected: None,
        }
    }

    /// Appends a statement. Every segment that speaks of a source's ticks says since when they are due: segments
    /// before it may be dropped, or come after it, and what was in them is expected all the same.
    pub(super) fn account(&mut self, account: &Account, block: &mut BlockWriter, symbols: &mut Symbols) {
        let segment = block.segment();
        match *account {
            Account::Begin { at_ms, schedule, .. } => self.expected = Some((at_ms, schedule, segment)),
            Account::End { .. } => self.expected = None,
            Account::Tick { source, .. } => {
                if let Some((at_ms, schedule, stated)) = &mut self.expected
                    && *stated != segment
                {
                    *stated = segment;
                    let begin = Account::Begin { source, at_ms: *at_ms, schedule: *schedule };
                    block.account(&mut self.writer, symbols, &begin);
                }
            }
        }
        block.account(&mut self.writer, symbols, account);
    }

    /// How many series it has.
    pub(super) fn series(&self) -> usize {
        self.generations.len() - self.free.len()
    }

    /// Finds or makes the column of a series; `None` when there are `series_max` already.
    pub(super) fn resolve(
        &mut self,
        labels: &Labels,
        series_max: usize,
        symbols: &mut Symbols,
        now_ms: i64,
    ) -> Option<SeriesRef> {
        if labels.len() > LABELS_MAX {
            return None;
        }
        self.resolved_ms = now_ms;
        let mut entry = Vec::with_capacity(32);
        self.writer.entry_of(labels, symbols, &mut entry);
        let hash = FixedState::default().hash_one(&entry);
        if self.index.is_none() {
            self.index = Some(self.make_index());
        }
        let writer = &self.writer;
        let index = self.index.as_ref()?;
        if let Some(column) = index.find(hash, |column| writer.entry(*column) == Some(&entry)) {
            let column = *column;
            self.mark_seen(column);
            return Some(self.reference(column));
        }
        if self.series() >= series_max || self.series() >= COLUMNS_MAX {
            return None;
        }
        let column = self.free.pop().unwrap_or(self.generations.len() as u32);
        self.writer.add_column(column, labels, symbols);
        if column as usize == self.generations.len() {
            self.generations.to_mut().push(0);
        }
        let writer = &self.writer;
        let hash_of =
            |column: &u32| FixedState::default().hash_one(writer.entry(*column).unwrap_or_default());
        self.index.as_mut()?.insert_unique(hash, column, hash_of);
        self.mark_seen(column);
        Some(self.reference(column))
    }

    /// Lets go of what only resolving needs, when nothing has been resolved for a while.
    pub(super) fn rest(&mut self, common: &Common, now_ms: i64) {
        if self.index.is_some() && now_ms.saturating_sub(self.resolved_ms) > INDEX_IDLE_MS {
            self.settle(common);
        }
    }

    fn settle(&mut self, common: &Common) {
        self.index = None;
        self.writer.rest(&common.columns);
        self.generations.rest(&common.generations);
    }

    /// Forgets series without a row since the last time; how many. Only between segments.
    pub(super) fn sweep(&mut self, common: &Common) -> usize {
        self.see_shapes();
        let before = self.series();
        let seen = std::mem::take(&mut self.seen);
        let is_seen =
            |column: u32| seen.get(column as usize / 64).is_some_and(|w| w >> (column % 64) & 1 == 1);
        let was_free: Vec<bool> =
            (0..self.generations.len() as u32).map(|column| self.writer.entry(column).is_none()).collect();
        self.free = self.writer.retain_columns(is_seen);
        for column in &self.free {
            if !was_free[*column as usize] {
                let generation = &mut self.generations.to_mut()[*column as usize];
                *generation = generation.wrapping_add(1);
            }
        }
        self.settle(common);
        if !std::mem::take(&mut self.had_rows) {
            self.writer.let_go_of_bases();
        }
        before - self.series()
    }

    /// Appends a row, unless it is late or repeats the one before.
    pub(super) fn append(&mut self, at: usize, row: &Row<'_>, policy: Policy, to: &mut To<'_>) {
        if row.series.len() != row.values.len() {
            return reject_all(at, row, RejectReason::Invalid, to.done);
        }
        if policy.late == Late::Reject {
            if row.timestamp_ms < self.newest_rejecting_ms {
                return reject_all(at, row, RejectReason::OutOfOrder, to.done);
            }
            if !row.series.is_empty() || !row.histograms.is_empty() {
                self.newest_rejecting_ms = row.timestamp_ms;
            }
        }
        let found = self.columns_of(at, row, to.room, to.done);
        let histograms = self.histograms_of(at, row, to.done);
        let exemplars = self.exemplars_of(at, row, to.done);
        to.room.starts.clear();
        let starts = row.start_timestamps.iter();
        to.room.starts.extend(starts.filter_map(|(series, ms)| Some((self.column(*series)?, *ms))));
        let is_plain = histograms.is_empty() && exemplars.is_empty();
        let (values, taken) = match &found {
            Found::Runs { some_left_out: true } => (&to.room.values[..], to.room.values.len()),
            _ => (row.values, row.values.len()),
        };
        to.done.samples += taken;
        to.done.histograms += histograms.len();
        to.done.exemplars += exemplars.len();
        if taken == 0 && is_plain {
            return;
        }
        if let Found::Shape(shape) = found
            && is_plain
            && policy.conflict == Conflict::Refuse
            && to.room.starts.is_empty()
            && self.is_repeat(shape, row)
        {
            to.metrics.repeated_rows.inc();
            return;
        }
        let clear = self.is_clear_due(row.timestamp_ms, to.block);
        let shapes = &self.writer.bases.shapes;
        let of_shape: Box<[Run]>;
        let all_stale = taken > 0 && values.iter().all(|value| value.to_bits() == STALE_NAN_BITS);
        let columns = match found {
            Found::Shape(shape) if !clear && !all_stale => RowColumns::Shape(shape),
            Found::Shape(shape) => {
                of_shape = shapes[shape].runs.clone();
                if all_stale { RowColumns::Markers(&of_shape) } else { RowColumns::Runs(&of_shape) }
            }
            Found::Runs { .. } if all_stale => RowColumns::Markers(&to.room.runs),
            Found::Runs { .. } => RowColumns::Runs(&to.room.runs),
        };
        if clear {
            self.see_shapes();
        }
        let parts = RowParts {
            timestamp_ms: row.timestamp_ms,
            columns,
            values: if all_stale { &[] } else { values },
            histograms: &histograms,
            starts: &to.room.starts,
            exemplars: &exemplars,
        };
        self.had_rows = true;
        to.block.row(&mut self.writer, to.symbols, &parts, clear);
    }

    fn reference(&self, column: u32) -> SeriesRef {
        let generation = self.generations[column as usize];
        SeriesRef(u64::from(self.number) << 40 | u64::from(column) << 16 | u64::from(generation))
    }

    /// The column that `series` names, if it is still the same series.
    fn column(&self, series: SeriesRef) -> Option<u32> {
        let column = (series.0 >> 16) as u32 & (SOURCES_MAX - 1);
        let is_ours = series.0 >> 40 == u64::from(self.number);
        let generation = self.generations.get(column as usize)?;
        (is_ours && u64::from(*generation) == series.0 & 0xffff && self.writer.has_column(column))
            .then_some(column)
    }

    fn make_index(&self) -> HashTable<u32> {
        let mut index = HashTable::with_capacity(self.series());
        let hash_of =
            |column: &u32| FixedState::default().hash_one(self.writer.entry(*column).unwrap_or_default());
        for column in 0..self.generations.len() as u32 {
            if self.writer.has_column(column) {
                index.insert_unique(hash_of(&column), column, hash_of);
            }
        }
        index
    }

    fn mark_seen(&mut self, column: u32) {
        let word = column as usize / 64;
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= 1 << (column % 64);
    }

    /// Notes which columns had rows since the last clear.
    fn see_shapes(&mut self) {
        let bases = std::mem::take(&mut self.writer.bases);
        for column in bases.shapes.iter().flat_map(|shape| shape.runs.iter()).flat_map(Run::range) {
            self.mark_seen(column as u32);
        }
        for column in bases.histograms.keys() {
            self.mark_seen(*column);
        }
        self.writer.bases = bases;
    }

    /// Whether the row has exactly the columns of this shape.
    fn has_shape(&self, shape: usize, row: &Row<'_>) -> bool {
        let Some(shape) = self.writer.bases.shapes.get(shape) else { return false };
        if shape.columns != row.series.len() {
            return false;
        }
        let mut at = 0;
        shape.runs.iter().all(|run| {
            let series = &row.series[at..at + run.len as usize];
            at += run.len as usize;
            let first = u64::from(self.number) << 40 | u64::from(run.first) << 16;
            let wanted = self.generations[run.range()].iter().enumerate();
            let wanted = wanted.map(|(i, generation)| (first + ((i as u64) << 16)) | u64::from(*generation));
            series.iter().map(|series| series.0).eq(wanted)
        })
    }

    /// The columns of a row; those that are not there, or there twice, are left out.
    fn columns_of(&self, at: usize, row: &Row<'_>, room: &mut Room, done: &mut Appended) -> Found {
        let expected = self.writer.bases.next_shape;
        if self.has_shape(expected, row) {
            return Found::Shape(expected);
        }
        room.columns.clear();
        room.values.clear();
        for (series, value) in row.series.iter().zip(row.values) {
            match self.column(*series) {
                Some(column) => {
                    room.columns.push(column);
                    room.values.push(*value);
                }
                None => {
                    done.rejected.push(Rejection {
                        row: at,
                        series: *series,
                        reason: RejectReason::UnknownSeries,
                    });
                }
            }
        }
        drop_repeated(room);
        room.runs.clear();
        for column in &room.columns {
            match room.runs.last_mut() {
                Some(run) if run.first + run.len == *column => run.len += 1,
                _ => room.runs.push(Run { first: *column, len: 1 }),
            }
        }
        if room.columns.len() == row.series.len()
            && let Some(shape) = self.writer.bases.shapes.iter().position(|shape| *shape.runs == room.runs)
        {
            return Found::Shape(shape);
        }
        Found::Runs { some_left_out: room.columns.len() != row.series.len() }
    }

    fn histograms_of<'a>(&self, at: usize, row: &Row<'a>, done: &mut Appended) -> Vec<(u32, &'a Histogram)> {
        let mut out = Vec::new();
        for (series, histogram) in row.histograms {
            let reason = match self.column(*series) {
                Some(column) if histogram.is_well_formed() => {
                    out.push((column, histogram));
                    continue;
                }
                Some(_) => RejectReason::Invalid,
                None => RejectReason::UnknownSeries,
            };
            done.rejected.push(Rejection { row: at, series: *series, reason });
        }
        out
    }

    fn exemplars_of<'a>(&self, at: usize, row: &Row<'a>, done: &mut Appended) -> Vec<(u32, &'a Exemplar)> {
        let mut out = Vec::new();
        for (series, exemplar) in row.exemplars {
            let chars =
                exemplar.labels.iter().map(|(name, value)| name.chars().count() + value.chars().count());
            let fits = chars.sum::<usize>() <= EXEMPLAR_CHARS_MAX;
            let reason = match self.column(*series) {
                Some(column) if fits => {
                    out.push((column, exemplar));
                    continue;
                }
                Some(_) => RejectReason::Invalid,
                None => RejectReason::UnknownSeries,
            };
            done.rejected.push(Rejection { row: at, series: *series, reason });
        }
        out
    }

    /// Whether the last row of this shape was the same, at the same time.
    fn is_repeat(&self, shape: usize, row: &Row<'_>) -> bool {
        let bases = &self.writer.bases;
        let shape = &bases.shapes[shape];
        let bits = shape.runs.iter().flat_map(|run| &bases.values[run.range()]);
        shape.last_ms == row.timestamp_ms && row.values.iter().map(|value| value.to_bits()).eq(bits.copied())
    }

    /// Whether the row has to clear the source; counts it as one that follows the clear.
    fn is_clear_due(&mut self, timestamp_ms: i64, block: &BlockWriter) -> bool {
        let is_tick = timestamp_ms > self.newest_ms;
        self.newest_ms = self.newest_ms.max(timestamp_ms);
        let Some(cleared_in) = self.writer.cleared_in(block) else {
            self.ticks = 0;
            self.rows_since_clear = 0;
            return true;
        };
        self.ticks += u32::from(is_tick);
        self.rows_since_clear += 1;
        let shapes = self.writer.bases.shapes.len() as u32;
        let due = self.ticks >= self.clear_after
            || self.rows_since_clear >= CLEAR_TICKS * (shapes + 1)
            || block.index() - cleared_in >= CLEAR_BLOCKS;
        if due {
            self.ticks = 0;
            self.rows_since_clear = 0;
            self.clear_after = CLEAR_TICKS;
        }
        due
    }
}

/// Leaves out columns that came before in the row.
fn drop_repeated(room: &mut Room) {
    if room.columns.is_sorted_by(|a, b| a < b) {
        return;
    }
    room.sorted.clone_from(&room.columns);
    room.sorted.sort_unstable();
    if room.sorted.windows(2).all(|pair| pair[0] != pair[1]) {
        return;
    }
    let mut known = std::collections::HashSet::new();
    let keep: Vec<bool> = room.columns.iter().map(|column| known.insert(*column)).collect();
    let mut at = keep.iter();
    room.columns.retain(|_| *at.next().unwrap_or(&true));
    let mut at = keep.iter();
    room.values.retain(|_| *at.next().unwrap_or(&true));
}

fn reject_all(at: usize, row: &Row<'_>, reason: RejectReason, done: &mut Appended) {
    let histograms = row.histograms.iter().map(|(series, _)| series);
    let all = row.series.iter().chain(histograms);
    done.rejected.extend(all.map(|series| Rejection { row: at, series: *series, reason }));
}
