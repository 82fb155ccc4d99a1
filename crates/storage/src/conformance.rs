//! What every store must do: cases that any [`Appender`] with a [`Queryable`] runs in its tests.
//!
//! ```ignore
//! #[test]
//! fn conforms() {
//!     storage::conformance::run(|| Tsdb::open(test_options()));
//!     storage::conformance::random(|| Tsdb::open(test_options()), 7, 1000);
//! }
//! ```
//!
//! [`run`] holds the rules one by one. [`random`] does the same random things to the store and to a
//! [`MemoryStore`] and compares every answer. Both panic where the store differs. What the contract
//! leaves open (sharing of time columns, listing of series without samples in the time asked for,
//! conflicts in rows that are no longer open) is not asked.

use model::{Histogram, Labels, Matcher, SourceId, TenantId};

use crate::{
    Appended, Appender, Batch, Column, Policy, Queryable, RejectReason, Row, Select, SeriesRef, SourceDesc,
    SourceRef,
};

mod cases;
mod random;

pub use random::random;

#[cfg(doc)]
use crate::MemoryStore;

/// A store that takes and answers.
pub trait Store: Appender + Queryable {}

impl<S: Appender + Queryable> Store for S {}

/// Runs every case, each against a store of its own.
///
/// `make` opens an empty store without limits, which keeps samples of all times.
///
/// # Panics
/// Where the store breaks a rule; the case's name is written to stderr.
pub fn run<S: Appender + Queryable>(make: impl Fn() -> S) {
    for (name, case) in cases::ALL {
        eprintln!("conformance: {name}");
        case(&make());
    }
}

/// A store with one source open, and short ways to write and read.
struct Bench<'a> {
    store: &'a dyn Store,
    tenant: TenantId,
    source: SourceRef,
}

/// What a selection gave: labels as text with samples as (time, bits of the value).
type Floats = Vec<(String, Vec<(i64, u64)>)>;

impl<'a> Bench<'a> {
    fn new(store: &'a dyn Store) -> Bench<'a> {
        Bench::of(store, "default", "one")
    }

    fn of(store: &'a dyn Store, tenant: &str, source: &str) -> Bench<'a> {
        let tenant = TenantId::new(tenant).expect("a tenant's name");
        let source = store.open_source(&source_desc(&tenant, source)).expect("open source");
        Bench { store, tenant, source }
    }

    fn series(&self, pairs: &[(&str, &str)]) -> SeriesRef {
        let labels = Labels::from_pairs(pairs.iter().copied());
        self.store.resolve(self.source, &[labels]).expect("resolve")[0].expect("a series")
    }

    fn put(&self, policy: Policy, timestamp_ms: i64, samples: &[(SeriesRef, f64)]) -> Appended {
        let (series, values): (Vec<_>, Vec<_>) = samples.iter().copied().unzip();
        self.append(policy, &Row::floats(self.source, timestamp_ms, &series, &values))
    }

    fn put_histogram(&self, timestamp_ms: i64, series: SeriesRef, histogram: &Histogram) -> Appended {
        let histograms = [(series, histogram.clone())];
        let row = Row { histograms: &histograms, ..Row::floats(self.source, timestamp_ms, &[], &[]) };
        self.append(Policy::SCRAPE, &row)
    }

    fn append(&self, policy: Policy, row: &Row<'_>) -> Appended {
        self.store.append(&Batch::rows(&[*row], policy)).expect("append")
    }

    fn select(&self, start_ms: i64, end_ms: i64, matchers: &[Matcher]) -> Select {
        Select { tenant: self.tenant.clone(), start_ms, end_ms, matchers: matchers.to_vec() }
    }

    /// Everything that matches and has samples in the time, sorted as the store sorted it.
    fn read(&self, start_ms: i64, end_ms: i64, matchers: &[Matcher]) -> Vec<(Labels, Column)> {
        let set = self.store.select(&self.select(start_ms, end_ms, matchers)).expect("select");
        let mut columns = Vec::new();
        set.load(0..set.len(), &mut columns).expect("load");
        assert_eq!(columns.len(), set.len(), "a column for each series");
        let mut out = Vec::new();
        for (at, column) in columns.into_iter().enumerate() {
            check_column(set.labels(at), &column, start_ms, end_ms);
            if !column.is_empty() {
                out.push((set.labels(at).clone(), column));
            }
        }
        assert!(out.is_sorted_by(|(a, _), (b, _)| a < b), "series are sorted by labels, each once");
        out
    }

    fn floats(&self, start_ms: i64, end_ms: i64, matchers: &[Matcher]) -> Floats {
        let columns = self.read(start_ms, end_ms, matchers);
        columns.iter().map(|(labels, column)| (labels.to_string(), points(column))).collect()
    }

    /// The samples of all time of the only series that matches `matchers`; none when none matches.
    fn only(&self, matchers: &[Matcher]) -> Vec<(i64, u64)> {
        let mut all = self.floats(i64::MIN, i64::MAX, matchers);
        assert!(all.len() <= 1, "one series: {all:?}");
        all.pop().map(|(_, points)| points).unwrap_or_default()
    }
}

fn source_desc(tenant: &TenantId, name: &str) -> SourceDesc {
    let labels = Labels::from_pairs([("job", name)]);
    let id = SourceId::of(tenant, "", "conformance", &labels, "");
    SourceDesc { tenant: tenant.clone(), id, labels }
}

/// What holds for every column.
fn check_column(labels: &Labels, column: &Column, start_ms: i64, end_ms: i64) {
    assert_eq!(column.times.len(), column.values.len(), "{labels}: as many times as values");
    assert!(column.times.is_sorted_by(|a, b| a < b), "{labels}: times ascend");
    assert!(column.histograms.is_sorted_by(|a, b| a.0 < b.0), "{labels}: histogram times ascend");
    for at in column.times.iter().chain(column.histograms.iter().map(|(at, _)| at)) {
        assert!((start_ms..=end_ms).contains(at), "{labels}: {at} is outside {start_ms}..={end_ms}");
    }
    for (at, _) in &column.histograms {
        assert!(column.times.binary_search(at).is_err(), "{labels}: a float and a histogram at {at}");
    }
    if let Some(starts) = &column.start_times {
        assert_eq!(starts.len(), column.times.len(), "{labels}: as many start times as times");
        assert!(starts.iter().any(|start| *start != 0), "{labels}: some start time is known");
    }
}

fn points(column: &Column) -> Vec<(i64, u64)> {
    column.times.iter().copied().zip(column.values.iter().map(|value| value.to_bits())).collect()
}

/// Samples as [`points`] gives them.
fn bits(samples: &[(i64, f64)]) -> Vec<(i64, u64)> {
    samples.iter().map(|(at, value)| (*at, value.to_bits())).collect()
}

fn reasons(appended: &Appended) -> Vec<(usize, SeriesRef, RejectReason)> {
    appended.rejected.iter().map(|rejection| (rejection.row, rejection.series, rejection.reason)).collect()
}
