//! The ticks of one source that something is known of, run-length encoded.
//!
//! A run is an arithmetic progression of ticks with the same fact. Runs are sorted and their ranges do not
//! overlap. How ticks are cut into runs depends on the order in which they came; what is known of each
//! tick does not.

use crate::entry::RUN_TICKS_MAX;
use crate::fact::Fact;

const DAY_MS: i64 = 24 * 3600 * 1000;
/// Ticks farther apart than this make no run while the schedule is not known.
const GUESSED_INTERVAL_MS_MAX: i64 = 3600 * 1000;

/// Ticks of a run that no ledger has written which are looked at.
const ODD_RUN_TICKS_MAX: u32 = 1 << 13;

/// Ticks with the same fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first tick, milliseconds.
    pub(crate) start: i64,
    /// Between two ticks, milliseconds; 0 while there is only one.
    pub(crate) interval: u32,
    /// How many ticks, at least 1.
    pub(crate) count: u32,
    /// What all of them are. Of complete rows with differing numbers of cells, `cells` counts.
    pub(crate) fact: Fact,
    /// How much later than its tick a row's timestamp was at most, milliseconds.
    pub(crate) late_ms: u32,
    /// Cells stored, all ticks together.
    pub(crate) cells: u64,
}

impl Run {
    fn single(tick: i64, fact: Fact, late_ms: u32) -> Run {
        Run { start: tick, interval: 0, count: 1, fact, late_ms, cells: cells(fact) }
    }

    /// The last tick.
    pub(crate) fn last(&self) -> i64 {
        self.at(self.count - 1)
    }

    /// Tick `n`, from 0.
    pub(crate) fn at(&self, n: u32) -> i64 {
        self.start + i64::from(self.interval) * i64::from(n)
    }

    /// The number of the first tick at or after `at_ms`; `count` when there is none.
    pub(crate) fn index_from(&self, at_ms: i64) -> u32 {
        if at_ms <= self.start {
            return 0;
        }
        if at_ms > self.last() {
            return self.count;
        }
        let steps = (at_ms - self.start + i64::from(self.interval) - 1) / i64::from(self.interval.max(1));
        u32::try_from(steps).unwrap_or(u32::MAX).min(self.count)
    }

    /// Ticks `from..to` of it. Cells are shared out evenly.
    pub(crate) fn part(&self, from: u32, to: u32) -> Run {
        let share = |n: u32| u128::from(self.cells) * u128::from(n) / u128::from(self.count.max(1));
        let count = to - from;
        let cells = u64::try_from(share(to) - share(from)).unwrap_or(u64::MAX);
        let interval = if count > 1 { self.interval } else { 0 };
        Run { start: self.at(from), interval, count, cells, ..*self }
    }

    /// Whether `tick` is one of its ticks, and which.
    fn find(&self, tick: i64) -> Option<u32> {
        let index = self.index_from(tick);
        (index < self.count && self.at(index) == tick).then_some(index)
    }

    /// Every row of it had as many cells as `cells` each.
    fn is_uniform(&self, cells: u32) -> bool {
        self.cells == u64::from(self.count) * u64::from(cells)
    }

    /// Whether a run that begins right behind this one may become part of it.
    fn goes_on_with(&self, next: &Run, interval_ms: Option<i64>) -> bool {
        let step = next.start - self.last();
        let due = match interval_ms {
            Some(due) => step == due,
            None => step > 0 && step <= GUESSED_INTERVAL_MS_MAX,
        };
        let fits = |run: &Run| run.count == 1 || i64::from(run.interval) == step;
        let counted = self.count.checked_add(next.count).is_some_and(|count| count < RUN_TICKS_MAX);
        if !due || !fits(self) || !fits(next) || !counted || u32::try_from(step).is_err() {
            return false;
        }
        match (self.fact, next.fact) {
            (Fact::Complete { cells }, Fact::Complete { cells: more }) => {
                let even = cells == more && self.is_uniform(cells) && next.is_uniform(cells);
                even || self.start.div_euclid(DAY_MS) == next.last().div_euclid(DAY_MS)
            }
            (one, other) => one == other,
        }
    }

    fn join(&mut self, next: &Run) {
        self.interval = u32::try_from(next.start - self.last()).unwrap_or(u32::MAX);
        self.count += next.count;
        self.cells += next.cells;
        self.late_ms = self.late_ms.max(next.late_ms);
    }
}

/// Cells that one tick has stored.
fn cells(fact: Fact) -> u64 {
    match fact {
        Fact::Complete { cells } => u64::from(cells),
        Fact::Partial { stored, .. } => u64::from(stored),
        Fact::Refused(_) | Fact::Failed(_) | Fact::Skipped => 0,
    }
}

/// What is known of the ticks of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runs(Vec<Run>);

impl Runs {
    pub(crate) fn as_slice(&self) -> &[Run] {
        &self.0
    }

    /// Takes in what is known of `tick`. `interval_ms` is the schedule's, if that is known. False when
    /// this says nothing new.
    pub(crate) fn insert(&mut self, tick: i64, interval_ms: Option<i64>, fact: Fact, late_ms: u32) -> bool {
        let new = Run::single(tick, fact, late_ms);
        let after = self.0.partition_point(|run| run.start <= tick);
        let Some(at) = after.checked_sub(1).filter(|at| self.0[*at].last() >= tick) else {
            self.put(after, new, interval_ms);
            return true;
        };
        let run = self.0[at];
        let (left, right) = match run.find(tick) {
            Some(_) if !fact.better_than(run.fact) => return self.note_late(at, fact, late_ms),
            Some(index) => (index, index + 1),
            None => (run.index_from(tick), run.index_from(tick)),
        };
        self.0.remove(at);
        let mut place = at;
        if left > 0 {
            self.0.insert(place, run.part(0, left));
            place += 1;
        }
        if right < run.count {
            self.0.insert(place, run.part(right, run.count));
        }
        self.put(place, new, interval_ms);
        true
    }

    /// Takes in a run of a snapshot: behind all others, or tick by tick.
    pub(crate) fn push_or_insert(&mut self, run: Run) {
        if self.0.last().is_none_or(|last| last.last() < run.start) {
            return self.0.push(run);
        }
        for n in 0..run.count.min(ODD_RUN_TICKS_MAX) {
            let interval = Some(i64::from(run.interval)).filter(|interval| *interval > 0);
            self.insert(run.at(n), interval, run.fact, run.late_ms);
        }
    }

    /// Whether something is known of `tick`.
    pub(crate) fn contains(&self, tick: i64) -> bool {
        let after = self.0.partition_point(|run| run.start <= tick);
        after > 0 && self.0[after - 1].find(tick).is_some()
    }

    /// The same again tells at most of more lateness.
    fn note_late(&mut self, at: usize, fact: Fact, late_ms: u32) -> bool {
        let run = &mut self.0[at];
        let more = !run.fact.better_than(fact) && late_ms > run.late_ms;
        if more {
            run.late_ms = late_ms;
        }
        more
    }

    /// Puts a tick between run `place - 1` and run `place`, joining where that can be.
    fn put(&mut self, place: usize, new: Run, interval_ms: Option<i64>) {
        let mut new = new;
        let mut place = place;
        if place > 0 && self.0[place - 1].goes_on_with(&new, interval_ms) {
            place -= 1;
            let mut before = self.0.remove(place);
            before.join(&new);
            new = before;
        }
        if let Some(next) = self.0.get(place).copied()
            && new.goes_on_with(&next, interval_ms)
        {
            new.join(&next);
            self.0[place] = new;
        } else {
            self.0.insert(place, new);
        }
    }

    /// Lets go of whole runs that end before `at_ms`.
    pub(crate) fn forget_before(&mut self, at_ms: i64) {
        let gone = self.0.partition_point(|run| run.last() < at_ms);
        self.0.drain(..gone);
        if let Some(first) = self.0.first_mut()
            && first.start < at_ms
        {
            *first = first.part(first.index_from(at_ms), first.count);
        }
    }
}
