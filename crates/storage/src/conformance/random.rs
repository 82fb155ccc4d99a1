//! Random batches, given to a store and to a [`MemoryStore`], must lead to the same answers.

use model::{Labels, MatchOp, Matcher, stale_nan};

use super::{Bench, cases, points};
use crate::{
    Appended, Appender, Batch, BlockKey, Column, Conflict, Late, MemoryStore, Policy, Queryable,
    RejectReason, Row, Select, SeriesRef,
};

const SERIES: usize = 24;
const SOURCES: usize = 3;

/// Does `steps` random things, determined by `seed`, to a store and to a model of it, and compares
/// what both say. `make` as for [`super::run`].
///
/// # Panics
/// Where the two differ; the message has the seed and the step.
pub fn random<S: Appender + Queryable>(make: impl Fn() -> S, seed: u64, steps: usize) {
    let store = make();
    let model = MemoryStore::new();
    let mut dice = Dice(seed);
    let names: Vec<String> = (0..SOURCES).map(|at| format!("source-{at}")).collect();
    let real: Vec<Bench<'_>> = names.iter().map(|name| Bench::of(&store, "default", name)).collect();
    let ideal: Vec<Bench<'_>> = names.iter().map(|name| Bench::of(&model, "default", name)).collect();
    let real_series: Vec<Vec<SeriesRef>> = real.iter().map(resolve).collect();
    let ideal_series: Vec<Vec<SeriesRef>> = ideal.iter().map(resolve).collect();
    let mut now_ms = 1_000_000;
    for step in 0..steps {
        let place = format!("seed {seed}, step {step}");
        now_ms += dice.below(30_000) as i64;
        let planned = plan(&mut dice, now_ms, &model, &ideal[0]);
        let a = planned.append(&store, &real, &real_series);
        let b = planned.append(&model, &ideal, &ideal_series);
        assert_eq!((a.samples, a.histograms), (b.samples, b.histograms), "{place}: {planned:?}");
        let (refused, want) = (planned.rejections(&a, &real_series), planned.rejections(&b, &ideal_series));
        assert_eq!(refused, want, "{place}: {planned:?}");
        if step % 10 == 9 || step + 1 == steps {
            compare(&mut dice, now_ms, &real[0], &ideal[0], &place);
        }
    }
}

/// SplitMix64: small, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn value(&mut self) -> f64 {
        match self.below(8) {
            0 => f64::from_bits(self.next()),
            1 => stale_nan(),
            2 | 3 => self.below(1000) as f64 / 8.0,
            _ => self.below(10) as f64,
        }
    }
}

fn labels(at: usize) -> Labels {
    let shard = if at.is_multiple_of(5) { String::new() } else { (at % 3).to_string() };
    Labels::from_pairs([("__name__", format!("m{}", at % 4)), ("at", at.to_string()), ("shard", shard)])
}

/// Whether every source has this series; its values follow from the time, so that sources agree.
fn shared(at: usize) -> bool {
    at.is_multiple_of(8)
}

fn resolve(bench: &Bench<'_>) -> Vec<SeriesRef> {
    let sets: Vec<Labels> = (0..SERIES).map(labels).collect();
    let refs = bench.store.resolve(bench.source, &sets).expect("resolve");
    refs.into_iter().map(|series| series.expect("a series")).collect()
}

/// A batch in terms of series numbers, which both stores translate to their references.
#[derive(Debug)]
struct Planned {
    policy: Policy,
    key: Option<BlockKey>,
    rows: Vec<PlannedRow>,
}

#[derive(Debug)]
struct PlannedRow {
    source: usize,
    timestamp_ms: i64,
    floats: Vec<(usize, f64)>,
    histogram: Option<(usize, u64)>,
}

impl Planned {
    fn append(&self, store: &dyn Appender, benches: &[Bench<'_>], series: &[Vec<SeriesRef>]) -> Appended {
        let parts: Vec<_> = self.rows.iter().map(|row| row.parts(&series[row.source])).collect();
        let mut rows = Vec::new();
        for (row, (refs, values, histograms)) in self.rows.iter().zip(&parts) {
            let floats = Row::floats(benches[row.source].source, row.timestamp_ms, refs, values);
            rows.push(Row { histograms, ..floats });
        }
        store.append(&Batch { key: self.key, ..Batch::rows(&rows, self.policy) }).expect("append")
    }

    /// What was refused, as (row, number of the series, reason), sorted.
    fn rejections(
        &self,
        appended: &Appended,
        series: &[Vec<SeriesRef>],
    ) -> Vec<(usize, Option<usize>, RejectReason)> {
        let number = |row: usize, of| series[self.rows[row].source].iter().position(|known| *known == of);
        let mut out: Vec<_> =
            appended.rejected.iter().map(|r| (r.row, number(r.row, r.series), r.reason)).collect();
        out.sort();
        out
    }
}

impl PlannedRow {
    fn parts(&self, series: &[SeriesRef]) -> (Vec<SeriesRef>, Vec<f64>, Vec<(SeriesRef, model::Histogram)>) {
        let refs = self.floats.iter().map(|(at, _)| series[*at]).collect();
        let values = self.floats.iter().map(|(_, value)| *value).collect();
        let histograms =
            self.histogram.map(|(at, count)| (series[at], cases::histogram(count, count as f64 / 2.0)));
        (refs, values, histograms.into_iter().collect())
    }
}

/// A batch whose outcome the contract settles: of samples that are late, only new times are used
/// unless conflicts replace (a store may refuse a conflict or not, once the row is no longer open).
fn plan(dice: &mut Dice, now_ms: i64, model: &MemoryStore, bench: &Bench<'_>) -> Planned {
    let policy = match dice.below(4) {
        0 => Policy::LINE_PROTOCOL,
        1 => Policy::REMOTE_WRITE,
        _ => Policy::SCRAPE,
    };
    let block = dice.below(40);
    let key = dice.one_in(6).then_some(BlockKey { queue_id: 1, incarnation: 1, block });
    let mut rows: Vec<PlannedRow> = Vec::new();
    for _ in 0..=dice.below(3) {
        let timestamp_ms = match dice.below(6) {
            0 => dice.below(now_ms as u64) as i64,
            1 => now_ms - dice.below(60_000) as i64,
            2 => -(dice.below(1_000_000) as i64),
            _ => now_ms,
        };
        let source = dice.below(SOURCES as u64) as usize;
        let mut row = PlannedRow { source, timestamp_ms, floats: Vec::new(), histogram: None };
        for at in 0..SERIES {
            if shared(at) {
                row.floats.push((at, timestamp_ms as f64));
            } else if at % SOURCES != source || dice.one_in(3) {
                continue;
            } else if row.histogram.is_none() && dice.one_in(12) {
                row.histogram = Some((at, dice.below(50)));
            } else {
                row.floats.push((at, dice.value()));
            }
        }
        rows.push(row);
    }
    let unsettled = policy.late == Late::Accept && policy.conflict == Conflict::Refuse;
    if unsettled {
        let taken = times(model, bench);
        rows.retain(|row| !taken.contains(&row.timestamp_ms));
        rows.sort_by_key(|row| row.timestamp_ms);
        rows.dedup_by_key(|row| row.timestamp_ms);
    }
    Planned { policy, key, rows }
}

/// Every time at which the model has a sample.
fn times(model: &MemoryStore, bench: &Bench<'_>) -> std::collections::HashSet<i64> {
    let set = model.select(&bench.select(i64::MIN, i64::MAX, &[])).expect("select");
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("load");
    let floats = columns.iter().flat_map(|column| column.times.iter().copied());
    floats.chain(columns.iter().flat_map(|column| column.histograms.iter().map(|(at, _)| *at))).collect()
}

fn compare(dice: &mut Dice, now_ms: i64, real: &Bench<'_>, ideal: &Bench<'_>, place: &str) {
    let start_ms = if dice.one_in(2) { i64::MIN } else { dice.below(now_ms as u64) as i64 };
    let end_ms = if dice.one_in(2) { i64::MAX } else { start_ms.saturating_add(dice.below(500_000) as i64) };
    let matchers = match dice.below(4) {
        0 => vec![Matcher::equal("__name__", "m2")],
        1 => vec![Matcher::new(MatchOp::NotRegex, "shard", "1|2").expect("a pattern")],
        2 => vec![Matcher::new(MatchOp::Regex, "at", "1.*").expect("a pattern"), Matcher::equal("shard", "")],
        _ => Vec::new(),
    };
    let got = flat(real.read(start_ms, end_ms, &matchers));
    let want = flat(ideal.read(start_ms, end_ms, &matchers));
    assert_eq!(got, want, "{place}: {start_ms}..={end_ms} {matchers:?}");
    let everything: Select = real.select(i64::MIN, i64::MAX, &[]);
    let values =
        |bench: &Bench<'_>| bench.store.label_values("at", &everything).expect("label values").values;
    assert_eq!(values(real), values(ideal), "{place}: values of `at`");
}

type Flat = Vec<(String, Vec<(i64, u64)>, Vec<(i64, model::Histogram)>)>;

fn flat(read: Vec<(Labels, Column)>) -> Flat {
    let histograms = |column: &Column| {
        column.histograms.iter().map(|(at, histogram)| (*at, (**histogram).clone())).collect()
    };
    read.iter().map(|(labels, column)| (labels.to_string(), points(column), histograms(column))).collect()
}
