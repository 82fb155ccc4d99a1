//! Joining the columns of one series that come from several places.
//!
//! The thousands of series of one source have their rows at the same times, and in every part their
//! columns share one `Arc` of times. How the rows of several parts interleave therefore depends on
//! the sequence of those `Arc`s alone: it is worked out once, kept in a [`TimeConcatCache`], and every
//! further series only copies runs of values. The joined times are shared in turn.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use model::Histogram;
use smallvec::SmallVec;
use storage::Column;

use crate::part::histograms::encode_histogram;

/// Where samples stand when another place has a sample of the same series and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rank {
    /// Whether the samples came under the policy `Replace`.
    pub replace: bool,
    /// The last log position among them.
    pub position: u64,
}

/// The samples of one series from one place (a part, the head).
#[derive(Debug, Clone)]
pub struct Piece {
    /// What its samples are worth in a conflict.
    pub rank: Rank,
    /// The samples.
    pub column: Column,
}

/// Joined and cut time columns, by the columns they were made of.
///
/// Make one for each query or merge and use it for all series: columns of equal origin then share
/// their times again. It keeps what it has seen alive until dropped or cleared.
#[derive(Debug, Default)]
pub struct TimeConcatCache {
    plans: Map<SmallVec<[ArcKey; 4]>, Arc<Plan>>,
    /// By column and kept rows: the column, held so that its address stays its own, and the rows.
    cuts: Map<(ArcKey, RowRanges), (Times, Times)>,
    /// Timestamps held, about.
    held: usize,
}

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
type Times = Arc<[i64]>;
type RowRanges = SmallVec<[(usize, usize); 2]>;

/// Identity of a shared slice; valid while the cache holds the slice.
type ArcKey = (usize, usize);

fn key_of(times: &Arc<[i64]>) -> ArcKey {
    (Arc::as_ptr(times).cast::<i64>() as usize, times.len())
}

impl TimeConcatCache {
    /// Forgets everything. Sharing starts anew.
    pub fn clear(&mut self) {
        *self = TimeConcatCache::default();
    }

    /// Bytes kept alive, about.
    pub fn bytes(&self) -> usize {
        self.held * size_of::<i64>()
    }

    /// The rows `keep` (ascending, apart) of `times`; equal requests give the same `Arc`, and a
    /// request for all rows gives `times` itself.
    pub fn cut(&mut self, times: &Arc<[i64]>, keep: &[Range<usize>]) -> Arc<[i64]> {
        match keep {
            [all] if *all == (0..times.len()) => return times.clone(),
            _ => {}
        }
        let key = (key_of(times), keep.iter().map(|r| (r.start, r.end)).collect());
        let held = &mut self.held;
        let entry = self.cuts.entry(key).or_insert_with(|| {
            let mut rows = Vec::with_capacity(keep.iter().map(|r| r.len()).sum());
            for range in keep {
                rows.extend_from_slice(&times[range.clone()]);
            }
            *held += times.len() + rows.len();
            (times.clone(), rows.into())
        });
        entry.1.clone()
    }

    fn plan(&mut self, pieces: &[Piece]) -> Arc<Plan> {
        let key: SmallVec<[ArcKey; 4]> = pieces.iter().map(|p| key_of(&p.column.times)).collect();
        let held = &mut self.held;
        let plan = self.plans.entry(key).or_insert_with(|| {
            let plan = Plan::of(pieces);
            *held += plan.times.len() * 2 + plan.steps.len() * 4;
            Arc::new(plan)
        });
        plan.clone()
    }
}

/// How the rows of several time columns interleave.
#[derive(Debug)]
struct Plan {
    times: Arc<[i64]>,
    steps: Vec<Step>,
    /// (piece, row) of the rows that share a time, referenced by [`Step::Conflict`].
    conflicts: Vec<(usize, usize)>,
    /// The columns this was made of: while they live, their addresses name nothing else.
    _keep: Vec<Arc<[i64]>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Run { piece: usize, rows: Range<usize> },
    Conflict(Range<usize>),
}

impl Plan {
    fn of(pieces: &[Piece]) -> Plan {
        let columns: Vec<&[i64]> = pieces.iter().map(|p| &*p.column.times).collect();
        let mut at = vec![0usize; columns.len()];
        let mut plan = Plan {
            times: Arc::from([]),
            steps: Vec::new(),
            conflicts: Vec::new(),
            _keep: pieces.iter().map(|p| p.column.times.clone()).collect(),
        };
        let mut times = Vec::with_capacity(columns.iter().map(|c| c.len()).sum());
        loop {
            // The least next time, the next after it among the other pieces, and who has the least.
            let (mut least, mut second, mut owner, mut owners) = (i64::MAX, i64::MAX, None, 0);
            for (piece, column) in columns.iter().enumerate() {
                let Some(&time) = column.get(at[piece]) else { continue };
                match owner {
                    Some(_) if time == least => owners += 1,
                    Some(_) if time > least => second = second.min(time),
                    _ => {
                        second = if owner.is_some() { least } else { second };
                        (least, owner, owners) = (time, Some(piece), 1);
                    }
                }
            }
            let Some(piece) = owner else { break };
            if owners == 1 {
                let column = columns[piece];
                let from = at[piece];
                let others_done = (0..columns.len()).all(|p| p == piece || at[p] >= columns[p].len());
                let to = if others_done {
                    column.len()
                } else {
                    from + column[from..].partition_point(|&t| t < second)
                };
                times.extend_from_slice(&column[from..to]);
                plan.steps.push(Step::Run { piece, rows: from..to });
                at[piece] = to;
            } else {
                let first = plan.conflicts.len();
                for (piece, column) in columns.iter().enumerate() {
                    if column.get(at[piece]) == Some(&least) {
                        plan.conflicts.push((piece, at[piece]));
                        at[piece] += 1;
                    }
                }
                times.push(least);
                plan.steps.push(Step::Conflict(first..plan.conflicts.len()));
            }
        }
        plan.times = times.into();
        plan
    }

    /// Walks the rows of the joined column: runs of one piece, or one row that `pick` chooses.
    fn walk(
        &self,
        mut pick: impl FnMut(&[(usize, usize)]) -> (usize, usize),
        mut copy: impl FnMut(usize, Range<usize>),
    ) {
        for step in &self.steps {
            match step {
                Step::Run { piece, rows } => copy(*piece, rows.clone()),
                Step::Conflict(at) => {
                    let (piece, row) = pick(&self.conflicts[at.clone()]);
                    copy(piece, row..row + 1);
                }
            }
        }
    }
}

/// Joins the columns of one series, emptying `pieces`.
///
/// Of several samples at one time one survives, whatever the order of the pieces: if any of them came
/// under `Replace`, the one of them with the highest log position; otherwise a real value rather than a
/// staleness marker, then a histogram rather than a float, then the larger bit pattern, then the later
/// start. A column that
/// is alone keeps its `times`; joined times are shared through `cache`.
pub fn combine(pieces: &mut Vec<Piece>, cache: &mut TimeConcatCache) -> Column {
    pieces.retain(|p| !p.column.is_empty());
    if pieces.len() <= 1 {
        return pieces.pop().map(|p| p.column).unwrap_or_default();
    }
    pieces.sort_by_key(|p| p.column.times.first().copied().unwrap_or(i64::MAX));
    if pieces.iter().any(|p| !p.column.histograms.is_empty()) {
        return combine_mixed(std::mem::take(pieces));
    }
    let plan = cache.plan(pieces);
    let mut values = Vec::with_capacity(plan.times.len());
    plan.walk(
        |rows| pick_float(pieces, rows),
        |piece, rows| values.extend_from_slice(&pieces[piece].column.values[rows]),
    );
    let start_times = pieces.iter().any(|p| p.column.start_times.is_some()).then(|| {
        let mut starts: Vec<i64> = Vec::with_capacity(plan.times.len());
        plan.walk(
            |rows| pick_float(pieces, rows),
            |piece, rows| match &pieces[piece].column.start_times {
                Some(column) => starts.extend_from_slice(&column[rows]),
                None => starts.resize(starts.len() + rows.len(), 0),
            },
        );
        starts.into()
    });
    pieces.clear();
    Column { times: plan.times.clone(), values, start_times, ..Column::default() }
}

fn pick_float(pieces: &[Piece], rows: &[(usize, usize)]) -> (usize, usize) {
    let key = |(piece, row): (usize, usize)| {
        let column = &pieces[piece].column;
        (float_key(column.values[row]), column.start_times.as_ref().map_or(0, |starts| starts[row]))
    };
    let winner = rows
        .iter()
        .copied()
        .max_by(|&a, &b| stronger(pieces[a.0].rank, pieces[b.0].rank).unwrap_or_else(|| key(a).cmp(&key(b))));
    winner.unwrap_or_default()
}

/// Decides by rank where a `Replace` is involved; `None` leaves it to the values.
fn stronger(a: Rank, b: Rank) -> Option<Ordering> {
    match a.cmp(&b) {
        Ordering::Equal => None,
        order if a.replace || b.replace => Some(order),
        _ => None,
    }
}

fn float_key(value: f64) -> (bool, u64) {
    (!model::is_stale(value), value.to_bits())
}

/// A sample of any kind, for the general way.
#[derive(Debug, Clone)]
enum Any {
    Float(f64, i64),
    Histogram(Arc<Histogram>, i64),
}

impl Any {
    fn is_stale(&self) -> bool {
        match self {
            Any::Float(value, _) => model::is_stale(*value),
            Any::Histogram(histogram, _) => histogram.is_stale(),
        }
    }

    fn cmp_value(&self, other: &Any) -> Ordering {
        other.is_stale().cmp(&self.is_stale()).then_with(|| match (self, other) {
            (Any::Float(a, a_start), Any::Float(b, b_start)) => {
                (a.to_bits(), a_start).cmp(&(b.to_bits(), b_start))
            }
            (Any::Float(..), Any::Histogram(..)) => Ordering::Less,
            (Any::Histogram(..), Any::Float(..)) => Ordering::Greater,
            (Any::Histogram(a, a_start), Any::Histogram(b, b_start)) => {
                (histogram_bytes(a), a_start).cmp(&(histogram_bytes(b), b_start))
            }
        })
    }
}

fn histogram_bytes(histogram: &Histogram) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_histogram(histogram, None, &mut bytes);
    bytes
}

/// The general way, sample by sample, for series that have histograms.
fn combine_mixed(pieces: Vec<Piece>) -> Column {
    let mut samples: Vec<(i64, Rank, Any)> = Vec::new();
    let mut with_floats = pieces.iter().filter(|p| !p.column.times.is_empty());
    let only_times = match (with_floats.next(), with_floats.next()) {
        (Some(piece), None) => Some(piece.column.times.clone()),
        _ => None,
    };
    let has_starts = pieces.iter().any(|p| p.column.start_times.is_some());
    let has_histogram_starts = pieces.iter().any(|p| p.column.histogram_starts.is_some());
    for Piece { rank, column } in pieces {
        for (row, (&time, &value)) in column.times.iter().zip(&column.values).enumerate() {
            let start = column.start_times.as_ref().map_or(0, |starts| starts[row]);
            samples.push((time, rank, Any::Float(value, start)));
        }
        for (row, (time, histogram)) in column.histograms.into_iter().enumerate() {
            let start = column.histogram_starts.as_ref().map_or(0, |starts| starts[row]);
            samples.push((time, rank, Any::Histogram(histogram, start)));
        }
    }
    samples.sort_by(|(t, r, v), (u, s, w)| {
        t.cmp(u).then_with(|| stronger(*s, *r).unwrap_or_else(|| w.cmp_value(v)))
    });
    samples.dedup_by_key(|(time, _, _)| *time);
    let (mut times, mut starts, mut histogram_starts) = (Vec::new(), Vec::new(), Vec::new());
    let mut out = Column::default();
    for (time, _, sample) in samples {
        match sample {
            Any::Float(value, start) => {
                times.push(time);
                out.values.push(value);
                starts.push(start);
            }
            Any::Histogram(histogram, start) => {
                out.histograms.push((time, histogram));
                histogram_starts.push(start);
            }
        }
    }
    out.times = match only_times {
        Some(shared) if *shared == times[..] => shared,
        _ => times.into(),
    };
    out.start_times = (has_starts && !starts.is_empty()).then(|| starts.into());
    out.histogram_starts =
        (has_histogram_starts && !histogram_starts.is_empty()).then(|| histogram_starts.into());
    out
}
