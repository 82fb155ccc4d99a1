//! The way of a row into its lanes.
//!
//! The steady row, which has the shape of the row before and is newer than everything in its lane,
//! is stored by position. Every other row goes sample by sample:
//!
//! | the sample's time | what happens |
//! |---|---|
//! | after the lane's newest row | opens a row |
//! | that of an open row | fills the cell; a value that stands there: repeat or conflict |
//! | between rows, but after its series' newest | the series moves to another lane |
//! | not after its series' newest | late: refused, or kept apart from the lanes |
//!
//! A row whose samples are all known to be late goes to the run of its columns as it is
//! ([`super::late`]).
//!
//! Each step is noted until the log has the batch; if it refuses, the notes are undone.

use std::sync::Arc;

use model::{Exemplar, Histogram};
use smallvec::SmallVec;
use storage::{Appended, Conflict, Late, Policy, RejectReason, Rejection, SeriesRef};

use super::index::slot_of;
use super::side::Point;
use super::{Lanes, NOWHERE};
use crate::wal::record::{BatchEncoder, HistogramToLog, LATE_LANES, LATE_LOOSE, LaneLog, NO_LANE, RowToLog};

/// Stands for the run of late rows that is not known yet.
const LATE: u32 = LATE_LOOSE - 1;

/// How to take back what was done.
#[derive(Debug)]
enum Undo {
    Pop { lane: u32, last_ms: i64 },
    Close { lane: u32 },
    Cell { lane: u32, row: usize, column: u32, before: Option<u64> },
    Side { slot: u32, timestamp_ms: i64, replace: bool, before: Option<Point> },
    Late { run: u32 },
}

/// One batch on its way.
#[derive(Debug)]
pub(crate) struct Appending<'a> {
    pub(crate) policy: Policy,
    /// Where the log stands: all rows of the batch are after it.
    pub(crate) position: u64,
    /// The segment that will take the record.
    pub(crate) segment: u64,
    /// Samples before this are refused.
    pub(crate) oldest_ms: i64,
    /// Set while the log is read at start: nothing is refused, nothing is logged.
    pub(crate) replay: bool,
    pub(crate) encoder: &'a mut BatchEncoder,
    pub(crate) done: Appended,
    pub(crate) late: usize,
    /// Start timestamps (series, from when, start), in effect once the log has the batch.
    pub(crate) starts: Vec<(SeriesRef, i64, i64)>,
    /// Exemplars, kept once the log has the batch.
    pub(crate) exemplars: Vec<(SeriesRef, Exemplar)>,
    undo: Vec<Undo>,
    /// Lanes whose differences in the log are only good if the record gets there.
    logged: SmallVec<[u32; 4]>,
    /// Runs of late rows that have become longer.
    runs: SmallVec<[u32; 4]>,
}

impl<'a> Appending<'a> {
    pub(crate) fn new(
        policy: Policy,
        position: u64,
        segment: u64,
        encoder: &'a mut BatchEncoder,
    ) -> Appending<'a> {
        Appending {
            policy,
            position,
            segment,
            oldest_ms: i64::MIN,
            replay: false,
            encoder,
            done: Appended::default(),
            late: 0,
            starts: Vec::new(),
            exemplars: Vec::new(),
            undo: Vec::new(),
            logged: SmallVec::new(),
            runs: SmallVec::new(),
        }
    }

    fn reject(&mut self, row: usize, series: SeriesRef, reason: RejectReason) {
        self.done.rejected.push(Rejection { row, series, reason });
    }

    fn replaces(&self) -> bool {
        self.policy.conflict == Conflict::Replace
    }
}

/// A row of floats of one source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FloatRow<'a> {
    /// Its index in the batch.
    pub(crate) number: usize,
    /// As the head numbers it.
    pub(crate) source: u32,
    pub(crate) timestamp_ms: i64,
    pub(crate) series: &'a [SeriesRef],
    pub(crate) values: &'a [f64],
}

/// What a slow row has accepted, for the log: by lane, and what is beside the lanes.
#[derive(Debug, Default)]
struct Accepted {
    lanes: Vec<AcceptedInLane>,
}

#[derive(Debug, Default)]
struct AcceptedInLane {
    lane: u32,
    replace: bool,
    series: Vec<SeriesRef>,
    values: Vec<f64>,
    columns: Vec<u32>,
}

impl Accepted {
    fn add(&mut self, lane: u32, replace: bool, series: SeriesRef, value: f64, column: u32) {
        let at = match self.lanes.iter().rposition(|entry| entry.lane == lane && entry.replace == replace) {
            Some(at) => at,
            None => {
                self.lanes.push(AcceptedInLane { lane, replace, ..AcceptedInLane::default() });
                self.lanes.len() - 1
            }
        };
        let entry = &mut self.lanes[at];
        entry.series.push(series);
        entry.values.push(value);
        entry.columns.push(column);
    }
}

impl Lanes {
    /// Appends the floats of a row.
    pub(crate) fn append_floats(&mut self, row: &FloatRow<'_>, at: &mut Appending<'_>) {
        if row.series.is_empty() {
            return;
        }
        if row.timestamp_ms < at.oldest_ms {
            row.series.iter().for_each(|series| at.reject(row.number, *series, RejectReason::TooOld));
            return;
        }
        if !self.append_steady(row, at) && !self.append_to_run(row, at) {
            self.append_any(row, at);
        }
    }

    /// The fast way; false when the row is not steady.
    fn append_steady(&mut self, row: &FloatRow<'_>, at: &mut Appending<'_>) -> bool {
        let source = &self.sources[row.source as usize];
        let steady = |lane: u32| {
            let lane = &self.lanes[lane as usize];
            row.timestamp_ms > lane.last_ms && !lane.mixed && !lane.retired && lane.has_shape(row.series)
        };
        let number = source.last_lane;
        // A source whose series are scraped elsewhere has a lane for each of those targets.
        let home = row.series.first().and_then(|series| self.home(*series)).map_or(NOWHERE, |home| home.lane);
        let own = |lane: u32| lane != NOWHERE && self.lanes[lane as usize].source == row.source;
        let number = if number != NOWHERE && steady(number) {
            number
        } else if own(home) && steady(home) {
            home
        } else if let Some(other) = source.lanes.iter().copied().take(16).find(|lane| steady(*lane)) {
            other
        } else {
            return false;
        };
        self.sources[row.source as usize].last_lane = number;
        if self.lanes[number as usize].is_full() {
            at.undo.push(Undo::Close { lane: number });
            self.close(number);
            if !self.lanes[number as usize].has_shape(row.series) {
                return false; // it has been split
            }
        }
        let lane = &mut self.lanes[number as usize];
        if !at.replay {
            self.sources[row.source as usize].log_once(at);
            let to_log = RowToLog {
                source: self.sources[row.source as usize].reference,
                lane: number,
                timestamp_ms: row.timestamp_ms,
                replace: false,
                series: row.series,
                values: row.values,
            };
            at.encoder.row(&to_log, true, at.segment, &mut lane.log);
            at.logged.push(number);
        }
        at.undo.push(Undo::Pop { lane: number, last_ms: lane.last_ms });
        lane.push(row.timestamp_ms, row.values);
        lane.position = at.position;
        at.done.samples += row.series.len();
        true
    }

    /// The way for every row: sample by sample, series with a home first, so that new ones join them.
    fn append_any(&mut self, row: &FloatRow<'_>, at: &mut Appending<'_>) {
        let mut accepted = Accepted::default();
        let mut homeless: SmallVec<[usize; 16]> = SmallVec::new();
        // The lane that new series join, and the lane of series that moved.
        let (mut joined, mut moved) = (NOWHERE, NOWHERE);
        for (number, series) in row.series.iter().enumerate() {
            match self.home(*series) {
                None => at.reject(row.number, *series, RejectReason::UnknownSeries),
                Some(home) if home.lane == NOWHERE => homeless.push(number),
                Some(home) => {
                    let own = self.lanes[home.lane as usize].source == row.source;
                    if self.append_sample(row, number, &mut moved, at, &mut accepted)
                        && own
                        && joined == NOWHERE
                    {
                        joined = self.home(*series).map_or(NOWHERE, |home| home.lane);
                    }
                }
            }
        }
        for number in homeless {
            let series = row.series[number];
            let fits = |lane: u32| {
                lane != NOWHERE && self.lanes[lane as usize].open_last_ms() == Some(row.timestamp_ms)
            };
            if !fits(joined) {
                joined = self.new_lane(row.source);
                self.sources[row.source as usize].last_lane = joined;
            }
            if self.home(series).is_some_and(|home| home.lane == NOWHERE) {
                self.move_to(series, joined);
            }
            self.append_sample(row, number, &mut moved, at, &mut accepted);
        }
        self.place_late(row, &mut accepted, at);
        self.remember_shape(row, &accepted);
        if !at.replay {
            self.log_accepted(row, &accepted, at);
        }
    }

    /// A row that went to one lane as a new row is the shape to expect next.
    fn remember_shape(&mut self, row: &FloatRow<'_>, accepted: &Accepted) {
        if let [AcceptedInLane { lane, replace: false, series, columns, .. }] = accepted.lanes.as_slice()
            && *lane < LATE_LANES
            && series.len() == row.series.len()
            && self.lanes[*lane as usize].source == row.source
        {
            self.sources[row.source as usize].last_lane = *lane;
            let lane = &mut self.lanes[*lane as usize];
            if !lane.has_shape(series) {
                lane.remember(series, columns.clone());
            }
        }
    }

    fn log_accepted(&mut self, row: &FloatRow<'_>, accepted: &Accepted, at: &mut Appending<'_>) {
        if !accepted.lanes.is_empty() {
            self.sources[row.source as usize].log_once(at);
        }
        let source = self.sources[row.source as usize].reference;
        for AcceptedInLane { lane: number, replace, series, values, .. } in &accepted.lanes {
            let mut to_log = RowToLog {
                source,
                lane: *number,
                timestamp_ms: row.timestamp_ms,
                replace: *replace,
                series,
                values,
            };
            if (LATE_LANES..LATE).contains(number) {
                let run = &mut self.late.runs[(number - LATE_LANES) as usize];
                at.encoder.row(&to_log, true, at.segment, &mut run.log);
                continue;
            }
            let shaped = *number < LATE_LANES
                && !replace
                && self.lanes[*number as usize].source == row.source
                && self.lanes[*number as usize].has_shape(series);
            if shaped {
                at.encoder.row(&to_log, true, at.segment, &mut self.lanes[*number as usize].log);
                at.logged.push(*number);
            } else {
                to_log.lane = if *number == LATE_LOOSE { LATE_LOOSE } else { NO_LANE };
                at.encoder.row(&to_log, false, at.segment, &mut LaneLog::default());
            }
        }
    }

    /// Appends one sample of a series that has a home; whether it went to its lane.
    fn append_sample(
        &mut self,
        row: &FloatRow<'_>,
        number: usize,
        moved: &mut u32,
        at: &mut Appending<'_>,
        accepted: &mut Accepted,
    ) -> bool {
        let (series, value, time) = (row.series[number], row.values[number], row.timestamp_ms);
        let Some(home) = self.home(series) else { return false };
        let slot = slot_of(series);
        let lane = &self.lanes[home.lane as usize];
        let beside = if lane.mixed { self.newest_beside(slot) } else { i64::MIN };
        let newest = lane.newest(home.column).max(beside);
        // What is in parts is only known to the head by its end; a replacement must hold against it.
        let may_be_in_parts = at.replaces() && time <= self.flushed_max_ms;
        if time > newest && !may_be_in_parts {
            let opens = time > lane.last_ms && !lane.retired;
            let row_there = lane.row_at(time);
            let (lane_number, column) = if opens || row_there.is_some() {
                (home.lane, home.column)
            } else {
                self.move_to_another(row, series, moved)
            };
            self.store_in_lane(lane_number, column, time, value, at);
            accepted.add(lane_number, false, series, value, column);
            at.done.samples += 1;
            return true;
        }
        let point = Point::Float(value.to_bits());
        if !self.judge_old(&Old { row: row.number, series, time, newest, point: &point }, at) {
            return false;
        }
        at.late += usize::from(time < newest);
        at.done.samples += 1;
        let replace = at.replaces();
        if !replace && let Some(open) = self.lanes[home.lane as usize].row_at(time) {
            // Late for its series, but its row is open.
            self.set_cell(home.lane, open, home.column, value.to_bits(), at);
            accepted.add(NO_LANE, replace, series, value, 0);
        } else if replace || self.lanes[home.lane as usize].mixed {
            self.set_beside(slot, time, Some(point), at);
            accepted.add(LATE_LOOSE, replace, series, value, 0);
        } else {
            accepted.add(LATE, replace, series, value, 0);
        }
        false
    }

    /// Puts the late samples of a row into a run, or beside the lanes when they are few.
    fn place_late(&mut self, row: &FloatRow<'_>, accepted: &mut Accepted, at: &mut Appending<'_>) {
        let Some(late) = accepted.lanes.iter_mut().find(|entry| entry.lane == LATE) else { return };
        let run = self.late.find(row.source, &late.series);
        let Some(run) = run.or_else(|| self.late.start_run(row.source, &late.series)) else {
            late.lane = LATE_LOOSE;
            for (series, value) in late.series.iter().zip(&late.values) {
                self.set_beside(slot_of(*series), row.timestamp_ms, Some(Point::Float(value.to_bits())), at);
            }
            return;
        };
        late.lane = LATE_LANES + run;
        if self.late.runs[run as usize].before_ms == i64::MIN && !at.replay {
            let before_ms = late.series.iter().map(|series| self.all_after_ms(*series)).min();
            self.late.runs[run as usize].before_ms = before_ms.unwrap_or(i64::MIN);
        }
        self.push_late(run, row.timestamp_ms, &late.values, at);
    }

    fn push_late(&mut self, run: u32, timestamp_ms: i64, values: &[f64], at: &mut Appending<'_>) {
        self.late.push(run, timestamp_ms, values, at.position);
        at.undo.push(Undo::Late { run });
        if at.runs.last() != Some(&run) {
            at.runs.push(run);
        }
    }

    /// Samples before this are late for a series, and nothing in the lanes has their time.
    fn all_after_ms(&self, series: SeriesRef) -> i64 {
        let Some(home) = self.home(series).filter(|home| home.lane != NOWHERE) else { return i64::MIN };
        let lane = &self.lanes[home.lane as usize];
        if lane.mixed {
            return i64::MIN;
        }
        let former = self.former.get(&slot_of(series)).into_iter().flatten();
        let first = former.map(|(lane, _)| self.lanes[*lane as usize].first_ms()).min();
        lane.newest(home.column).saturating_add(1).min(lane.first_ms()).min(first.unwrap_or(i64::MAX))
    }

    /// The fast way of late rows; false when it is not known that all of the row is late and new.
    fn append_to_run(&mut self, row: &FloatRow<'_>, at: &mut Appending<'_>) -> bool {
        if at.policy.late == Late::Reject || at.replaces() || at.replay {
            return false;
        }
        let Some(number) = self.late.find(row.source, row.series) else { return false };
        let run = &mut self.late.runs[number as usize];
        if row.timestamp_ms >= run.before_ms || run.may_repeat(row.timestamp_ms) {
            return false;
        }
        self.sources[row.source as usize].log_once(at);
        let to_log = RowToLog {
            source: self.sources[row.source as usize].reference,
            lane: LATE_LANES + number,
            timestamp_ms: row.timestamp_ms,
            replace: false,
            series: row.series,
            values: row.values,
        };
        at.encoder.row(&to_log, true, at.segment, &mut run.log);
        self.push_late(number, row.timestamp_ms, row.values, at);
        at.done.samples += row.series.len();
        at.late += row.series.len();
        true
    }

    /// Puts a late row of the log back.
    pub(crate) fn replay_late(&mut self, row: &FloatRow<'_>, at: &mut Appending<'_>) {
        let mut accepted = Accepted::default();
        for (series, value) in row.series.iter().zip(row.values) {
            if at.replaces() {
                self.set_beside(slot_of(*series), row.timestamp_ms, Some(Point::Float(value.to_bits())), at);
            } else {
                accepted.add(LATE, false, *series, *value, 0);
            }
        }
        self.place_late(row, &mut accepted, at);
        at.done.samples += row.series.len();
    }

    /// Whether some of a row's samples would be late.
    pub(crate) fn has_late(&self, timestamp_ms: i64, series: &[SeriesRef]) -> bool {
        series.iter().any(|series| {
            let home = self.home(*series).filter(|home| home.lane != NOWHERE);
            home.is_some_and(|home| self.lanes[home.lane as usize].newest(home.column) >= timestamp_ms)
        })
    }

    /// Moves a series whose sample lies between the rows of its lane to a lane of this row.
    fn move_to_another(&mut self, row: &FloatRow<'_>, series: SeriesRef, moved: &mut u32) -> (u32, u32) {
        let free = |lane: u32| self.lanes[lane as usize].open_last_ms() == Some(row.timestamp_ms);
        if *moved == NOWHERE || !free(*moved) {
            *moved = self.new_lane(row.source);
        }
        (*moved, self.move_to(series, *moved))
    }

    fn store_in_lane(&mut self, number: u32, column: u32, time: i64, value: f64, at: &mut Appending<'_>) {
        if time > self.lanes[number as usize].last_ms {
            if self.lanes[number as usize].is_full() {
                at.undo.push(Undo::Close { lane: number });
                self.close(number);
            }
            let lane = &mut self.lanes[number as usize];
            at.undo.push(Undo::Pop { lane: number, last_ms: lane.last_ms });
            lane.push_absent(time);
        }
        let lane = &mut self.lanes[number as usize];
        lane.position = at.position;
        if let Some(open) = lane.row_at(time) {
            self.set_cell(number, open, column, value.to_bits(), at);
        }
    }

    fn set_cell(&mut self, lane: u32, row: usize, column: u32, bits: u64, at: &mut Appending<'_>) {
        let target = &mut self.lanes[lane as usize];
        at.undo.push(Undo::Cell { lane, row, column, before: target.get(row, column) });
        target.set(row, column, bits);
    }

    fn set_beside(&mut self, slot: u32, timestamp_ms: i64, point: Option<Point>, at: &mut Appending<'_>) {
        let replace = at.replaces();
        let before = self.side.set(slot, timestamp_ms, replace, at.position, point);
        at.undo.push(Undo::Side { slot, timestamp_ms, replace, before });
        self.active.insert(slot);
    }

    /// Judges a sample that is not after its series' newest: whether it is to be kept. Repeats count
    /// as taken, and are not kept again.
    fn judge_old(&self, old: &Old<'_>, at: &mut Appending<'_>) -> bool {
        let Old { row, series, time, newest, point } = *old;
        let standing = if at.replaces() && time <= self.flushed_max_ms {
            // Something else may stand in parts, and win there unless this is kept as a replacement.
            self.replacement(slot_of(series), time)
        } else {
            self.standing(series, time)
        };
        if standing.as_ref().is_some_and(|standing| standing.same(point))
            && (time == newest || at.policy.late == Late::Accept || at.replay)
        {
            match point {
                Point::Float(_) => at.done.samples += 1,
                Point::Histogram(_) => at.done.histograms += 1,
            }
            return false;
        }
        if at.replay {
            return true;
        }
        let reason = match at.policy {
            Policy { late: Late::Reject, .. } if time < newest => RejectReason::OutOfOrder,
            Policy { conflict: Conflict::Refuse, .. } if standing.is_some() => RejectReason::Duplicate,
            // What stands there has been flushed; for a writer that accepts nothing late it is a repeat
            // of a time, and cannot be compared.
            Policy { late: Late::Reject, conflict: Conflict::Refuse } => RejectReason::Duplicate,
            _ => return true,
        };
        at.reject(row, series, reason);
        false
    }

    /// The sample that the head has of a series at a time.
    fn standing(&self, series: SeriesRef, time: i64) -> Option<Point> {
        let slot = slot_of(series);
        let replaced = self.replacement(slot, time).or_else(|| self.side.get(slot, time).cloned());
        if replaced.is_some() {
            return replaced;
        }
        let lates = [&self.late].into_iter().chain(self.frozen_late.iter().map(|(_, late)| &**late));
        if let Some(bits) = lates.into_iter().find_map(|late| late.in_runs(slot, time)) {
            return Some(Point::Float(bits));
        }
        if let Some(point) = self.frozen.iter().rev().find_map(|(_, side)| side.get(slot, time)) {
            return Some(point.clone());
        }
        let home = self.home(series).filter(|home| home.lane != NOWHERE);
        let here = home.and_then(|home| self.lanes[home.lane as usize].value_at(home.column, time));
        let bits = here.or_else(|| {
            let former = self.former.get(&slot)?;
            former.iter().rev().find_map(|(lane, column)| self.lanes[*lane as usize].value_at(*column, time))
        });
        bits.map(Point::Float)
    }

    /// The latest replacement that the head has of a series at a time.
    fn replacement(&self, slot: u32, time: i64) -> Option<Point> {
        let beside = self.side.points(slot, true).and_then(|points| points.get(time)).cloned();
        let late = || {
            let frozen = self.frozen_late.iter().rev().map(|(_, late)| &**late);
            [&self.late].into_iter().chain(frozen).find_map(|late| late.replacement(slot, time))
        };
        beside.or_else(|| late().map(Point::Float))
    }

    /// Whether a replacement of a series at a time has come since the last flush or spill began.
    pub(crate) fn has_replacement(&self, slot: u32, time: i64) -> bool {
        self.side.points(slot, true).is_some_and(|points| points.get(time).is_some())
            || self.late.replacement(slot, time).is_some()
    }

    fn newest_beside(&self, slot: u32) -> i64 {
        let frozen = self.frozen.iter().map(|(_, side)| side.newest(slot)).max();
        let flushed = self.histogram_floors.get(&slot).copied().unwrap_or(i64::MIN);
        self.side.newest(slot).max(frozen.unwrap_or(i64::MIN)).max(flushed)
    }

    /// The time of a series' newest sample in the head, `i64::MIN` for none.
    pub(crate) fn newest(&self, series: SeriesRef) -> i64 {
        let home = self.home(series).filter(|home| home.lane != NOWHERE);
        let in_lane = home.map_or(i64::MIN, |home| self.lanes[home.lane as usize].newest(home.column));
        in_lane.max(self.newest_beside(slot_of(series)))
    }

    /// Appends a histogram.
    pub(crate) fn append_histogram(&mut self, sample: &HistogramSample<'_>, at: &mut Appending<'_>) {
        let HistogramSample { row, source, timestamp_ms: time, series, histogram } = *sample;
        let Some(home) = self.home(series) else {
            at.reject(row, series, RejectReason::UnknownSeries);
            return;
        };
        if time < at.oldest_ms {
            at.reject(row, series, RejectReason::TooOld);
            return;
        }
        let slot = slot_of(series);
        let histogram = Arc::new(histogram.clone());
        let point = Point::Histogram(histogram.clone());
        let newest = self.newest(series);
        if time <= newest && !self.judge_old(&Old { row, series, time, newest, point: &point }, at) {
            return;
        }
        at.late += usize::from(time < newest);
        at.done.histograms += 1;
        self.own(slot, source);
        if home.lane != NOWHERE {
            self.lanes[home.lane as usize].mixed = true;
        }
        self.set_beside(slot, time, Some(point), at);
        if !at.replay {
            self.sources[source as usize].log_once(at);
            let reference = self.sources[source as usize].reference;
            let replace = at.replaces();
            let to_log = HistogramToLog {
                source: reference,
                series: series.0,
                timestamp_ms: time,
                replace,
                histogram: &histogram,
            };
            let previous = self.side.logged_histogram(slot, at.segment);
            at.encoder.histogram(&to_log, previous.as_deref());
            self.side.remember_logged(slot, at.segment, histogram);
        }
    }

    /// The log has the batch: it stays.
    pub(crate) fn keep(&mut self, at: Appending<'_>) -> storage::Appended {
        at.runs.iter().for_each(|run| self.late.close_if_full(*run));
        if self.side.floats() > self.loose_max {
            self.seal_loose();
        }
        at.done
    }

    /// The log has refused the batch: takes everything back.
    pub(crate) fn take_back(&mut self, at: Appending<'_>) {
        for undo in at.undo.into_iter().rev() {
            match undo {
                Undo::Pop { lane, last_ms } => self.lanes[lane as usize].pop(last_ms),
                Undo::Close { lane } => self.lanes[lane as usize].reopen(),
                Undo::Cell { lane, row, column, before } => match before {
                    Some(bits) => self.lanes[lane as usize].set(row, column, bits),
                    None => self.lanes[lane as usize].clear(row, column),
                },
                Undo::Late { run } => self.late.pop(run),
                Undo::Side { slot, timestamp_ms, replace, before } => {
                    self.side.set(slot, timestamp_ms, replace, 0, before);
                }
            }
        }
        for lane in at.logged {
            self.lanes[lane as usize].log.segment = 0;
        }
        self.side.forget_logged();
        self.late.judge_anew();
        for source in &mut self.sources {
            if source.logged == at.segment {
                source.logged = 0;
            }
        }
    }
}

/// A sample that is not after its series' newest.
#[derive(Debug, Clone, Copy)]
struct Old<'a> {
    /// Index of its row in the batch.
    row: usize,
    series: SeriesRef,
    time: i64,
    newest: i64,
    point: &'a Point,
}

/// A histogram of one series.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistogramSample<'a> {
    /// Index of its row in the batch.
    pub(crate) row: usize,
    /// As the head numbers it.
    pub(crate) source: u32,
    pub(crate) timestamp_ms: i64,
    pub(crate) series: SeriesRef,
    pub(crate) histogram: &'a Histogram,
}

impl super::Source {
    /// Puts the definition into the record if the segment does not have it.
    fn log_once(&mut self, at: &mut Appending<'_>) {
        if self.logged != at.segment {
            self.logged = at.segment;
            at.encoder.source(self.reference, self.id.0, &self.labels);
        }
    }
}
