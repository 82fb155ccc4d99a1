//! One source: when its rows were expected, what is known of its ticks, and how each is judged.

use model::{Labels, SourceId};
use storage::{EndReason, Schedule};

use crate::fact::{Fact, Loss, Verdict};
use crate::runs::{Run, Runs};

/// Statements about one source's schedule that are kept; older ones go first.
const EVENTS_MAX: usize = 1024;
/// A row may be this late before its absence counts, beside one interval.
const GRACE_MS_MAX: i64 = 10_000;

/// What was said of a source's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Said {
    /// First, so that an end and a begin at one time are a begin.
    End(EndReason),
    /// Interval and offset, milliseconds.
    Begin(i64, i64),
}

/// A source's account.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) id: SourceId,
    pub(crate) labels: Labels,
    /// Sorted, each once.
    pub(crate) events: Vec<(i64, Said)>,
    pub(crate) runs: Runs,
    /// When the ledger last heard of it, by the ledger's clock; not kept on disk.
    pub(crate) heard_ms: i64,
    /// Up to where its ticks are in the counters; not kept on disk.
    pub(crate) counted_ms: i64,
}

/// What counts for a whole cluster, or one source of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Overlay {
    /// Nothing is expected from a time up to another; of no length, it ends those in force at that time.
    Pause { cluster: String, from_ms: i64, until_ms: i64 },
    /// Nothing is expected from a time on, unless it begins anew.
    Retire { cluster: String, at_ms: i64 },
    /// Rows were lost.
    Loss(LossReport),
}

/// A time in which nothing is expected of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// The cluster.
    pub cluster: String,
    /// First millisecond.
    pub from_ms: i64,
    /// The first one after it.
    pub until_ms: i64,
}

/// Rows that were lost, as their loser reports it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LossReport {
    /// Of which cluster (empty: the hub's own).
    pub cluster: String,
    /// Of which source; all of the cluster where it is not known.
    pub source: Option<SourceId>,
    /// The first tick that may be among them, milliseconds.
    pub from_ms: i64,
    /// The last one, included.
    pub to_ms: i64,
    /// How many rows; 0 where it is not known.
    pub rows: u64,
    /// Why.
    pub reason: Loss,
}

/// Ticks that are judged alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First tick.
    pub(crate) from: i64,
    /// Last tick.
    pub(crate) last: i64,
    pub(crate) count: u64,
    /// Between two of them, or the schedule's interval; 0 where nobody knows.
    pub(crate) interval: i64,
    pub(crate) verdict: Verdict,
    pub(crate) cells_stored: u64,
    pub(crate) cells_lost: u64,
    pub(crate) late_ms: u32,
}

/// What bounds a judgement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window<'a> {
    /// The first tick that counts, milliseconds.
    pub(crate) start: i64,
    /// Behind the last one.
    pub(crate) end: i64,
    pub(crate) now: i64,
    /// Those of the source's cluster.
    pub(crate) overlays: &'a [Overlay],
    /// Times whose detail the ledger has lost, both ends included.
    pub(crate) lost: &'a [(i64, i64)],
}

impl Source {
    pub(crate) fn new(id: SourceId, labels: Labels) -> Source {
        Source {
            id,
            labels,
            events: Vec::new(),
            runs: Runs::default(),
            heard_ms: i64::MIN,
            counted_ms: i64::MIN,
        }
    }

    /// Takes a statement about the schedule in. False when it is known.
    pub(crate) fn say(&mut self, at_ms: i64, said: Said) -> bool {
        let Err(place) = self.events.binary_search(&(at_ms, said)) else { return false };
        self.events.insert(place, (at_ms, said));
        if self.events.len() > EVENTS_MAX {
            self.events.remove(0);
        }
        true
    }

    /// The schedule in force at `at_ms`, if one was ever stated.
    pub(crate) fn schedule_at(&self, at_ms: i64) -> Option<Schedule> {
        let behind = self.events.partition_point(|(at, _)| *at <= at_ms);
        let said = self.events[..behind].iter().rev().chain(&self.events[behind..]);
        said.filter_map(|(_, said)| schedule(*said)).next()
    }

    /// Takes in what is known of a tick. False when it says nothing new.
    pub(crate) fn tick(&mut self, tick_ms: i64, fact: Fact, late_ms: u32) -> bool {
        let interval = self.schedule_at(tick_ms).map(|schedule| schedule.interval_ms);
        self.runs.insert(tick_ms, interval, fact, late_ms)
    }

    /// The newest thing known of, milliseconds; `i64::MIN` for nothing.
    pub(crate) fn newest_ms(&self) -> i64 {
        let run = self.runs.as_slice().last().map_or(i64::MIN, Run::last);
        self.events.last().map_or(run, |(at, _)| run.max(*at))
    }

    /// The oldest thing known of, milliseconds; `i64::MAX` for nothing.
    pub(crate) fn oldest_ms(&self) -> i64 {
        let run = self.runs.as_slice().first().map_or(i64::MAX, |run| run.start);
        self.events.first().map_or(run, |(at, _)| run.min(*at))
    }

    /// Whether anything is expected of it at `at_ms`, as far as it has said.
    pub(crate) fn is_expected(&self, at_ms: i64) -> bool {
        let behind = self.events.partition_point(|(at, _)| *at <= at_ms);
        match self.events[..behind].last() {
            Some((_, said)) => !matches!(said, Said::End(EndReason::Gone | EndReason::Reconfigured)),
            None => self.runs.as_slice().iter().any(|run| run.count > 1 && run.start <= at_ms),
        }
    }

    /// Lets go of what lies before `at_ms`, but not of the schedule in force then.
    pub(crate) fn forget_before(&mut self, at_ms: i64) {
        self.runs.forget_before(at_ms);
        let behind = self.events.partition_point(|(at, _)| *at <= at_ms);
        self.events.drain(..behind.saturating_sub(1));
    }

    /// Whether there is nothing left to say of it.
    pub(crate) fn is_over(&self, at_ms: i64) -> bool {
        self.runs.as_slice().is_empty() && self.newest_ms() < at_ms && !self.is_expected(at_ms)
    }

    /// Judges every tick of the window that was due or is known of, in order of time.
    pub(crate) fn judge(&self, window: &Window<'_>, mut give: impl FnMut(Piece)) {
        if window.start >= window.end {
            return;
        }
        let spans = self.spans();
        let runs = self.runs.as_slice();
        let first = runs.partition_point(|run| run.last() < window.start);
        let mut before = first.checked_sub(1).map_or(i64::MIN, |at| runs[at].last());
        for run in &runs[first..] {
            if run.start >= window.end {
                self.hole(&spans, Between { before, behind: run.start }, window, &mut give);
                return;
            }
            self.hole(&spans, Between { before, behind: run.start }, window, &mut give);
            if skips_ticks(run, &spans) {
                // Put together before the schedule was known.
                for n in 0..run.count {
                    let tick = run.part(n, n + 1);
                    self.run(&tick, window, &mut give);
                    if n + 1 < run.count {
                        let between = Between { before: tick.start, behind: run.at(n + 1) };
                        self.hole(&spans, between, window, &mut give);
                    }
                }
            } else {
                self.run(run, window, &mut give);
            }
            before = run.last();
        }
        self.hole(&spans, Between { before, behind: i64::MAX }, window, &mut give);
    }

    fn run(&self, run: &Run, window: &Window<'_>, give: &mut impl FnMut(Piece)) {
        let part = run.part(run.index_from(window.start), run.index_from(window.end));
        if part.count == 0 {
            return;
        }
        let lost = match part.fact {
            Fact::Partial { stored, exposed } => u64::from(exposed - stored.min(exposed)),
            _ => 0,
        };
        let interval = match run.count {
            1 => self.schedule_at(run.start).map_or(0, |schedule| schedule.interval_ms),
            _ => i64::from(run.interval),
        };
        give(Piece {
            from: part.start,
            last: part.last(),
            count: u64::from(part.count),
            interval,
            verdict: part.fact.into(),
            cells_stored: part.cells,
            cells_lost: lost * u64::from(part.count),
            late_ms: part.late_ms,
        });
    }

    /// Times with a schedule, in order: from, up to, schedule, how what is not told of is judged.
    fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let implied = self.implied();
        let mut in_force: Option<Schedule> = None;
        let earlier = implied.map_or(0, |(from, _)| self.events.partition_point(|(at, _)| *at < from));
        for (at, said) in implied.into_iter().chain(self.events[earlier..].iter().copied()) {
            if let Some(last) = spans.last_mut().filter(|span| span.to == i64::MAX) {
                last.to = at;
                last.then = Some(said);
            }
            let stopped = match said {
                Said::Begin(..) => false,
                Said::End(EndReason::Shutdown) => true,
                // Another one goes on.
                Said::End(EndReason::HandedOver) => false,
                Said::End(EndReason::Gone | EndReason::Reconfigured) => {
                    in_force = None;
                    continue;
                }
            };
            in_force = schedule(said).or(in_force);
            if let Some(schedule) = in_force {
                spans.push(Span { from: at, to: i64::MAX, schedule, stopped, then: None });
            }
        }
        spans.retain(|span| span.from < span.to);
        spans
    }

    /// The schedule that ticks tell of when nobody has stated one: its statement was lost.
    fn implied(&self) -> Option<(i64, Said)> {
        let stated = self.events.iter().any(|(_, said)| matches!(said, Said::Begin(..)));
        let run = self.runs.as_slice().iter().find(|run| run.count > 2 && !stated)?;
        let interval = i64::from(run.interval);
        Some((run.start, Said::Begin(interval, run.start.rem_euclid(interval))))
    }

    /// Judges the ticks between two that are known of, or behind the last one.
    fn hole(&self, spans: &[Span], between: Between, window: &Window<'_>, give: &mut impl FnMut(Piece)) {
        let Between { before, behind } = between;
        let told_later = behind < i64::MAX;
        for span in spans {
            let schedule = span.schedule;
            let due = window.now - schedule.interval_ms - schedule.interval_ms.min(GRACE_MS_MAX);
            let from = span.from.max(before.saturating_add(1)).max(window.start);
            let to = span.to.min(behind).min(window.end).min(due);
            if from >= to {
                continue;
            }
            let verdict = match span.then {
                _ if span.stopped => Verdict::AgentDown,
                // The scraper began anew and says nothing of the time before.
                Some(Said::Begin(..)) if behind >= span.to => Verdict::AgentDown,
                Some(_) => Verdict::Undelivered,
                None if told_later => Verdict::Undelivered,
                None => Verdict::Silent,
            };
            self.cut(Hole { from, to, schedule, verdict, begun: span.from }, window, give);
        }
    }

    /// Cuts a hole where pauses, losses and the like begin and end.
    fn cut(&self, hole: Hole, window: &Window<'_>, give: &mut impl FnMut(Piece)) {
        let mut edges = vec![hole.from, hole.to];
        let mut edge = |at: i64| {
            if hole.from < at && at < hole.to {
                edges.push(at);
            }
        };
        for overlay in window.overlays {
            match overlay {
                Overlay::Pause { from_ms, until_ms, .. } => {
                    [*from_ms, *until_ms].into_iter().for_each(&mut edge)
                }
                Overlay::Retire { at_ms, .. } => edge(*at_ms),
                Overlay::Loss(loss) => {
                    [loss.from_ms, loss.to_ms.saturating_add(1)].into_iter().for_each(&mut edge);
                }
            }
        }
        for (from, to) in window.lost {
            [*from, to.saturating_add(1)].into_iter().for_each(&mut edge);
        }
        edges.sort_unstable();
        edges.dedup();
        for pair in edges.windows(2) {
            if let Some(verdict) = self.verdict_at(&hole, pair[0], window) {
                let piece = ticks(pair[0], pair[1], hole.schedule, verdict);
                piece.into_iter().for_each(&mut *give);
            }
        }
    }

    /// How a time within a hole is judged; `None` where nothing is expected.
    fn verdict_at(&self, hole: &Hole, at_ms: i64, window: &Window<'_>) -> Option<Verdict> {
        let mut verdict = hole.verdict;
        if window.lost.iter().any(|(from, to)| (*from..=*to).contains(&at_ms)) {
            verdict = Verdict::DetailLost;
        }
        for overlay in window.overlays {
            match overlay {
                Overlay::Pause { from_ms, until_ms, .. } if (*from_ms..*until_ms).contains(&at_ms) => {
                    return None;
                }
                Overlay::Retire { at_ms: retired, .. } if hole.begun <= *retired && *retired <= at_ms => {
                    return None;
                }
                Overlay::Loss(loss)
                    if (loss.from_ms..=loss.to_ms).contains(&at_ms)
                        && loss.source.is_none_or(|source| source == self.id) =>
                {
                    verdict = Verdict::Lost(loss.reason);
                }
                _ => {}
            }
        }
        Some(verdict)
    }
}

/// Whether ticks were due between those of `run`.
fn skips_ticks(run: &Run, spans: &[Span]) -> bool {
    let over = |span: &&Span| span.from <= run.last() && span.to > run.start;
    run.count > 1 && spans.iter().filter(over).any(|span| span.schedule.interval_ms < i64::from(run.interval))
}

/// A time with one schedule.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: i64,
    to: i64,
    schedule: Schedule,
    /// The scraper has said that it stops.
    stopped: bool,
    /// What ended it.
    then: Option<Said>,
}

/// The ticks on both sides of a hole; `i64::MIN` and `i64::MAX` where there is none.
#[derive(Debug, Clone, Copy)]
struct Between {
    before: i64,
    behind: i64,
}

#[derive(Debug, Clone, Copy)]
struct Hole {
    from: i64,
    to: i64,
    schedule: Schedule,
    verdict: Verdict,
    /// When the schedule began.
    begun: i64,
}

fn schedule(said: Said) -> Option<Schedule> {
    match said {
        Said::Begin(interval_ms, offset_ms) => Some(Schedule { interval_ms, offset_ms }),
        Said::End(_) => None,
    }
}

/// The ticks of a schedule from `from` up to `to`, which is left out.
fn ticks(from: i64, to: i64, schedule: Schedule, verdict: Verdict) -> Option<Piece> {
    let Schedule { interval_ms, offset_ms } = schedule;
    let first = from + (offset_ms - from).rem_euclid(interval_ms);
    if first >= to {
        return None;
    }
    let more = (to - 1 - first) / interval_ms;
    Some(Piece {
        from: first,
        last: first + more * interval_ms,
        count: more.unsigned_abs() + 1,
        interval: interval_ms,
        verdict,
        cells_stored: 0,
        cells_lost: 0,
        late_ms: 0,
    })
}
