//! The rules, one by one.

use std::slice::from_ref;

use model::histogram::{Buckets, Span};
use model::{Exemplar, Histogram, Labels, MatchOp, Matcher, Metadata, MetricType, TenantId, stale_nan};

use super::{Bench, Store, bits, points, reasons, source_desc};
use crate::{
    Batch, BlockKey, CommitPosition, MetadataEntry, Policy, RejectReason, Rejection, Row, SeriesRef,
    SourceRef, StoreError,
};

type Case = (&'static str, fn(&dyn Store));

pub(super) const ALL: &[Case] = &[
    ("samples come back in order", samples_come_back_in_order),
    ("series come back sorted by labels", series_are_sorted),
    ("select cuts at both ends", select_cuts_at_both_ends),
    ("parts of a selection load alone", parts_load_alone),
    ("a selection is a snapshot", a_selection_is_a_snapshot),
    ("sources open once", sources_open_once),
    ("references come in the order asked", references_come_in_order),
    ("rows may have holes and new columns", rows_may_have_holes),
    ("values keep their bits", values_keep_their_bits),
    ("any time is taken", any_time_is_taken),
    ("an exact repeat is taken once", exact_repeats),
    ("a conflict is refused", conflicts_are_refused),
    ("a conflict replaces", conflicts_replace),
    ("a late sample is refused", late_samples_are_refused),
    ("a late sample is taken", late_samples_are_taken),
    ("lateness is of the series, not of the source", lateness_is_of_the_series),
    ("back-dated staleness markers are harmless", back_dated_markers_are_harmless),
    ("unknown references are named", unknown_references),
    ("histograms and floats mix", histograms_and_floats_mix),
    ("a malformed histogram is refused", malformed_histograms),
    ("start timestamps stay with their samples", start_timestamps),
    ("start timestamps stay with their histograms", start_timestamps_of_histograms),
    ("start timestamps change within a batch", start_timestamps_within_a_batch),
    ("exemplars are counted", exemplars_are_counted),
    ("exemplars come back by series and time", exemplars_come_back),
    ("a block is stored once", blocks_are_stored_once),
    ("a batch may span sources", batches_span_sources),
    ("durable positions grow", positions_grow),
    ("matchers select", matchers_select),
    ("label names and values are listed", labels_are_listed),
    ("metadata is kept by metric", metadata_is_kept),
    ("tenants do not see each other", tenants_are_apart),
];

const A: &[(&str, &str)] = &[("__name__", "a")];

fn samples_come_back_in_order(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    let samples: Vec<(i64, f64)> = (0..500).map(|i| (i * 15_000, i as f64 * 0.5)).collect();
    for (at, value) in &samples {
        let appended = bench.put(Policy::SCRAPE, *at, &[(a, *value)]);
        assert_eq!((appended.samples, appended.histograms, appended.exemplars), (1, 0, 0));
        assert_eq!(reasons(&appended), []);
    }
    assert_eq!(bench.only(&[]), bits(&samples));
}

fn series_are_sorted(store: &dyn Store) {
    let bench = Bench::new(store);
    let sets: [&[(&str, &str)]; 5] = [
        &[("__name__", "b")],
        &[("__name__", "a"), ("z", "1")],
        &[("__name__", "a")],
        &[("__name__", "a"), ("b", "2")],
        &[("c", "1")],
    ];
    for pairs in sets {
        let series = bench.series(pairs);
        bench.put(Policy::SCRAPE, 1000, &[(series, 1.0)]);
    }
    let mut want: Vec<Labels> = sets.iter().map(|pairs| Labels::from_pairs(pairs.iter().copied())).collect();
    want.sort();
    let got: Vec<Labels> = bench.read(0, 2000, &[]).into_iter().map(|(labels, _)| labels).collect();
    assert_eq!(got, want);
}

fn select_cuts_at_both_ends(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    for at in [10, 20, 30, 40] {
        bench.put(Policy::SCRAPE, at, &[(a, at as f64)]);
    }
    for (start, end, want) in [
        (20, 30, &[(20, 20.0), (30, 30.0)][..]),
        (21, 39, &[(30, 30.0)]),
        (40, 40, &[(40, 40.0)]),
        (41, 100, &[]),
        (0, 9, &[]),
        (30, 20, &[]),
    ] {
        let got = bench.floats(start, end, &[]).pop().map(|(_, points)| points).unwrap_or_default();
        assert_eq!(got, bits(want), "{start}..={end}");
    }
}

fn parts_load_alone(store: &dyn Store) {
    let bench = Bench::new(store);
    let mut row = Vec::new();
    for name in ["a", "b", "c", "d"] {
        row.push((bench.series(&[("__name__", name)]), f64::from(name.as_bytes()[0])));
    }
    bench.put(Policy::SCRAPE, 5, &row);
    let set = store.select(&bench.select(0, 10, &[])).expect("select");
    assert_eq!(set.len(), 4);
    assert!(!set.is_empty());
    let mut columns = Vec::new();
    set.load(2..3, &mut columns).expect("load");
    set.load(0..2, &mut columns).expect("load");
    set.load(4..4, &mut columns).expect("load");
    let values: Vec<f64> = columns.iter().map(|column| column.values[0]).collect();
    assert_eq!(values, [99.0, 97.0, 98.0], "appended to what was there, in order");
    assert_eq!(set.labels(3).metric_name(), "d");
}

fn a_selection_is_a_snapshot(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    bench.put(Policy::SCRAPE, 10, &[(a, 1.0)]);
    let set = store.select(&bench.select(0, 100, &[])).expect("select");
    bench.put(Policy::SCRAPE, 20, &[(a, 2.0)]);
    let mut columns = Vec::new();
    set.load(0..1, &mut columns).expect("load");
    assert_eq!(points(&columns[0]), bits(&[(10, 1.0)]));
    assert_eq!(bench.only(&[]), bits(&[(10, 1.0), (20, 2.0)]));
}

fn sources_open_once(store: &dyn Store) {
    let tenant = TenantId::default();
    let first = store.open_source(&source_desc(&tenant, "one")).expect("open");
    let second = store.open_source(&source_desc(&tenant, "two")).expect("open");
    assert_ne!(first, second);
    assert_eq!(store.open_source(&source_desc(&tenant, "one")).expect("open"), first);
}

fn references_come_in_order(store: &dyn Store) {
    let bench = Bench::new(store);
    let labels = |name: &str| Labels::from_pairs([("__name__", name)]);
    let sets = [labels("b"), labels("a"), labels("b")];
    let refs = store.resolve(bench.source, &sets).expect("resolve");
    assert_eq!(refs.len(), 3);
    assert_eq!(refs[0], refs[2], "one series, one reference");
    assert_ne!(refs[0], refs[1]);
    assert_eq!(store.resolve(bench.source, &sets).expect("resolve"), refs, "references stay");
    let (b, a) = (refs[0].expect("a series"), refs[1].expect("a series"));
    bench.put(Policy::SCRAPE, 1, &[(a, 1.0), (b, 2.0)]);
    assert_eq!(bench.only(&[Matcher::equal("__name__", "b")]), bits(&[(1, 2.0)]));
    assert_eq!(store.resolve(bench.source, &[]).expect("resolve"), []);
}

fn rows_may_have_holes(store: &dyn Store) {
    let bench = Bench::new(store);
    let (a, b, c) = (bench.series(A), bench.series(&[("__name__", "b")]), bench.series(&[("__name__", "c")]));
    bench.put(Policy::SCRAPE, 10, &[(a, 1.0), (b, 1.0)]);
    bench.put(Policy::SCRAPE, 20, &[(b, 2.0)]);
    bench.put(Policy::SCRAPE, 30, &[(c, 3.0), (a, 3.0)]);
    bench.put(Policy::SCRAPE, 40, &[]);
    let want = vec![
        (r#"{__name__="a"}"#.to_owned(), bits(&[(10, 1.0), (30, 3.0)])),
        (r#"{__name__="b"}"#.to_owned(), bits(&[(10, 1.0), (20, 2.0)])),
        (r#"{__name__="c"}"#.to_owned(), bits(&[(30, 3.0)])),
    ];
    assert_eq!(bench.floats(0, 100, &[]), want);
}

fn values_keep_their_bits(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    let values = [
        0.0,
        -0.0,
        1.5,
        f64::MAX,
        f64::MIN_POSITIVE / 4.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        -f64::NAN,
        stale_nan(),
        f64::from_bits(0x7ff0_dead_beef_0001),
        f64::from_bits(0xffff_ffff_ffff_ffff),
        9_007_199_254_740_993.0,
        1e-300,
    ];
    let samples: Vec<(i64, f64)> =
        values.iter().enumerate().map(|(i, value)| (i as i64 * 1000, *value)).collect();
    for (at, value) in &samples {
        assert_eq!(bench.put(Policy::SCRAPE, *at, &[(a, *value)]).samples, 1);
    }
    assert_eq!(bench.only(&[]), bits(&samples));
}

fn any_time_is_taken(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    let samples = [
        (-86_400_000_000, 1.0),
        (-1, 2.0),
        (0, 3.0),
        (1, 4.0),
        (1_700_000_000_000, 5.0),
        (4_102_444_800_000, 6.0),
    ];
    for (at, value) in samples {
        assert_eq!(bench.put(Policy::SCRAPE, at, &[(a, value)]).samples, 1, "at {at}");
    }
    assert_eq!(bench.only(&[]), bits(&samples));
    let epoch = bench.floats(0, 0, &[]);
    assert_eq!(epoch[0].1, bits(&[(0, 3.0)]));
    let before = bench.floats(i64::MIN, -1, &[]);
    assert_eq!(before[0].1, bits(&samples[..2]));
}

fn exact_repeats(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    for policy in [Policy::SCRAPE, Policy::REMOTE_WRITE, Policy::LINE_PROTOCOL] {
        for value in [1.0, 1.0] {
            let appended = bench.put(policy, 10, &[(a, value)]);
            assert_eq!((appended.samples, reasons(&appended)), (1, vec![]), "a repeat counts as taken");
        }
    }
    bench.put(Policy::SCRAPE, 20, &[(a, f64::NAN)]);
    assert_eq!(bench.put(Policy::SCRAPE, 20, &[(a, f64::NAN)]).samples, 1, "bits are compared");
    assert_eq!(bench.put(Policy::REMOTE_WRITE, 10, &[(a, 1.0)]).samples, 1, "late, and the same");
    assert_eq!(bench.only(&[]), bits(&[(10, 1.0), (20, f64::NAN)]));
}

fn conflicts_are_refused(store: &dyn Store) {
    let bench = Bench::new(store);
    let (a, b) = (bench.series(A), bench.series(&[("__name__", "b")]));
    bench.put(Policy::SCRAPE, 10, &[(a, 1.0)]);
    for policy in [Policy::SCRAPE, Policy::REMOTE_WRITE] {
        for other in [2.0, -1.0, stale_nan()] {
            let appended = bench.put(policy, 10, &[(a, other), (b, 7.0)]);
            assert_eq!(reasons(&appended), [(0, a, RejectReason::Duplicate)]);
            assert_eq!(appended.samples, 1, "the rest of the row is taken");
        }
    }
    assert_eq!(bench.only(&[Matcher::equal("__name__", "a")]), bits(&[(10, 1.0)]));
    assert_eq!(bench.only(&[Matcher::equal("__name__", "b")]), bits(&[(10, 7.0)]));
}

fn conflicts_replace(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    for (at, value) in [(10, 1.0), (20, 2.0), (30, 3.0), (30, 4.0), (10, 0.5), (20, 9.0), (20, 2.5)] {
        let appended = bench.put(Policy::LINE_PROTOCOL, at, &[(a, value)]);
        assert_eq!((appended.samples, reasons(&appended)), (1, vec![]));
    }
    assert_eq!(bench.only(&[]), bits(&[(10, 0.5), (20, 2.5), (30, 4.0)]));
}

fn late_samples_are_refused(store: &dyn Store) {
    let bench = Bench::new(store);
    let (a, b) = (bench.series(A), bench.series(&[("__name__", "b")]));
    bench.put(Policy::SCRAPE, 100, &[(a, 1.0)]);
    let appended = bench.put(Policy::SCRAPE, 99, &[(a, 2.0), (b, 2.0)]);
    assert_eq!(reasons(&appended), [(0, a, RejectReason::OutOfOrder)]);
    assert_eq!(appended.samples, 1);

    let rows = [
        Row::floats(bench.source, 200, from_ref(&a), &[2.0]),
        Row::floats(bench.source, 150, from_ref(&a), &[3.0]),
        Row::floats(bench.source, 300, from_ref(&a), &[4.0]),
    ];
    let appended = store.append(&Batch::rows(&rows, Policy::SCRAPE)).expect("append");
    assert_eq!(reasons(&appended), [(1, a, RejectReason::OutOfOrder)], "within one batch too");
    let want = bits(&[(100, 1.0), (200, 2.0), (300, 4.0)]);
    assert_eq!(bench.only(&[Matcher::equal("__name__", "a")]), want);
}

fn late_samples_are_taken(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    let day = 86_400_000;
    for at in [100 * day, 50 * day, 99 * day, 1, 100 * day - 1, 50 * day + 1, 0] {
        assert_eq!(bench.put(Policy::REMOTE_WRITE, at, &[(a, at as f64)]).samples, 1);
    }
    let mut times = [100 * day, 50 * day, 99 * day, 1, 100 * day - 1, 50 * day + 1, 0];
    times.sort_unstable();
    let want: Vec<(i64, f64)> = times.iter().map(|at| (*at, *at as f64)).collect();
    assert_eq!(bench.only(&[]), bits(&want));
    let appended = bench.put(Policy::SCRAPE, 99 * day, &[(a, 5.0)]);
    assert_eq!(reasons(&appended), [(0, a, RejectReason::OutOfOrder)], "late ones do not move the newest");
}

fn lateness_is_of_the_series(store: &dyn Store) {
    let bench = Bench::new(store);
    let (a, b) = (bench.series(A), bench.series(&[("__name__", "b")]));
    bench.put(Policy::SCRAPE, 1000, &[(a, 1.0)]);
    assert_eq!(bench.put(Policy::SCRAPE, 500, &[(b, 1.0)]).samples, 1);
    let other = Bench::of(store, "default", "two");
    let same = other.series(A);
    let appended = other.put(Policy::SCRAPE, 500, &[(same, 2.0)]);
    assert_eq!(reasons(&appended), [(0, same, RejectReason::OutOfOrder)], "whoever brings it");
}

fn back_dated_markers_are_harmless(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    bench.put(Policy::SCRAPE, 10, &[(a, 1.0)]);
    bench.put(Policy::SCRAPE, 20, &[(a, 2.0)]);
    let late = bench.put(Policy::SCRAPE, 15, &[(a, stale_nan())]);
    assert_eq!(reasons(&late), [(0, a, RejectReason::OutOfOrder)]);
    let same_time = bench.put(Policy::SCRAPE, 20, &[(a, stale_nan())]);
    assert_eq!(reasons(&same_time), [(0, a, RejectReason::Duplicate)]);
    assert_eq!(bench.put(Policy::SCRAPE, 30, &[(a, stale_nan())]).samples, 1);
    assert_eq!(bench.put(Policy::SCRAPE, 40, &[(a, 4.0)]).samples, 1, "a series may come back");
    assert_eq!(bench.only(&[]), bits(&[(10, 1.0), (20, 2.0), (30, stale_nan()), (40, 4.0)]));
}

fn unknown_references(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    let nobody = SeriesRef(u64::MAX - 5);
    let appended = bench.put(Policy::SCRAPE, 10, &[(nobody, 1.0), (a, 2.0)]);
    assert_eq!(reasons(&appended), [(0, nobody, RejectReason::UnknownSeries)]);
    assert_eq!(appended.samples, 1);
    assert_eq!(bench.only(&[]), bits(&[(10, 2.0)]));

    let nowhere = SourceRef(u64::MAX - 5);
    assert!(matches!(store.resolve(nowhere, &[]), Err(StoreError::UnknownSource(_))));
    let rows =
        [Row::floats(bench.source, 20, from_ref(&a), &[3.0]), Row::floats(nowhere, 20, from_ref(&a), &[3.0])];
    let refused = store.append(&Batch::rows(&rows, Policy::SCRAPE));
    assert!(matches!(refused, Err(StoreError::UnknownSource(_))));
    assert_eq!(bench.only(&[]), bits(&[(10, 2.0)]), "nothing of a refused batch is taken");
}

/// An integer histogram with `count` observations in each of two neighbouring buckets.
pub(super) fn histogram(count: u64, sum: f64) -> Histogram {
    let positive = vec![count as i64, 0];
    Histogram {
        schema: 3,
        sum,
        positive_spans: vec![Span { offset: -2, length: 1 }, Span { offset: 3, length: 1 }],
        buckets: Buckets::Int { count: count * 2, zero_count: 0, positive, negative: Vec::new() },
        zero_threshold: 1e-128,
        ..Histogram::stale()
    }
}

fn histograms_and_floats_mix(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    bench.put(Policy::SCRAPE, 10, &[(a, 1.0)]);
    let appended = bench.put_histogram(20, a, &histogram(3, 7.5));
    assert_eq!((appended.samples, appended.histograms, reasons(&appended)), (0, 1, vec![]));
    bench.put(Policy::SCRAPE, 30, &[(a, 3.0)]);
    let float_counts = Histogram {
        buckets: Buckets::Float {
            count: 1.5,
            zero_count: 0.5,
            positive: vec![0.25, 0.75],
            negative: Vec::new(),
        },
        ..histogram(1, -2.0)
    };
    bench.put_histogram(40, a, &float_counts);
    bench.put_histogram(50, a, &Histogram::stale());

    assert_eq!(bench.put_histogram(50, a, &Histogram::stale()).histograms, 1, "an exact repeat");
    let late = bench.put_histogram(40, a, &histogram(9, 9.0));
    assert_eq!(reasons(&late), [(0, a, RejectReason::OutOfOrder)]);
    let conflict = bench.put(Policy::REMOTE_WRITE, 50, &[(a, 5.0)]);
    assert_eq!(reasons(&conflict), [(0, a, RejectReason::Duplicate)], "a float over a histogram");

    let read = bench.read(0, 100, &[]);
    let column = &read[0].1;
    assert_eq!(points(column), bits(&[(10, 1.0), (30, 3.0)]));
    let times: Vec<i64> = column.histograms.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [20, 40, 50]);
    assert_eq!(*column.histograms[0].1, histogram(3, 7.5));
    assert_eq!(*column.histograms[1].1, float_counts);
    assert!(column.histograms[2].1.is_stale());
    let cut = bench.read(20, 30, &[]);
    assert_eq!((cut[0].1.histograms.len(), cut[0].1.times.len()), (1, 1));
}

fn malformed_histograms(store: &dyn Store) {
    let bench = Bench::new(store);
    let (a, b) = (bench.series(A), bench.series(&[("__name__", "b")]));
    let short = Histogram { positive_spans: vec![Span { offset: 0, length: 3 }], ..histogram(1, 1.0) };
    let unknown = Histogram { schema: 77, ..histogram(1, 1.0) };
    for malformed in [short, unknown] {
        let histograms = [(a, malformed), (b, histogram(1, 1.0))];
        let row = Row { histograms: &histograms, ..Row::floats(bench.source, 10, &[], &[]) };
        let appended = bench.append(Policy::SCRAPE, &row);
        assert_eq!(reasons(&appended), [(0, a, RejectReason::Invalid)]);
        assert_eq!(appended.histograms, 1);
    }
}

fn start_timestamps(store: &dyn Store) {
    let bench = Bench::new(store);
    let (a, b) = (bench.series(A), bench.series(&[("__name__", "b")]));
    let both = [a, b];
    for (at, start) in [(1000, 0), (2000, 500), (3000, 500), (4000, 3500), (5000, 0)] {
        let starts = [(a, start)];
        let start_timestamps = if start == 0 { &[][..] } else { &starts[..] };
        let row = Row { start_timestamps, ..Row::floats(bench.source, at, &both, &[1.0, 1.0]) };
        assert_eq!(bench.append(Policy::SCRAPE, &row).samples, 2);
    }
    let read = bench.read(0, 10_000, &[]);
    assert_eq!(read[0].1.start_times.as_deref(), Some(&[0, 500, 500, 3500, 0][..]));
    assert_eq!(read[1].1.start_times, None, "none is known of the other series");
    let cut = bench.read(3000, 4000, &[]);
    assert_eq!(cut[0].1.start_times.as_deref(), Some(&[500, 3500][..]));
}

fn start_timestamps_within_a_batch(store: &dyn Store) {
    let bench = Bench::new(store);
    let series = [bench.series(A)];
    let starts: Vec<[(SeriesRef, i64); 1]> =
        [5, 0, 5, 7, 5, 0].iter().map(|start| [(series[0], *start)]).collect();
    let rows: Vec<Row<'_>> = (0..)
        .zip(&starts)
        .map(|(at, starts)| {
            let start_timestamps = if starts[0].1 == 0 { &[][..] } else { &starts[..] };
            Row { start_timestamps, ..Row::floats(bench.source, 10 + at, &series, &[1.0]) }
        })
        .collect();
    store.append(&Batch::rows(&rows, Policy::SCRAPE)).expect("append");
    let read = bench.read(0, 10_000, &[]);
    assert_eq!(read[0].1.start_times.as_deref(), Some(&[5, 0, 5, 7, 5, 0][..]));
}

fn start_timestamps_of_histograms(store: &dyn Store) {
    let bench = Bench::new(store);
    let (a, b) = (bench.series(A), bench.series(&[("__name__", "b")]));
    for (at, start) in [(1000, 0), (2000, 500), (4000, 500), (5000, 4500)] {
        let starts = [(a, start)];
        let start_timestamps = if start == 0 { &[][..] } else { &starts[..] };
        let histograms = [(a, histogram(at as u64, 1.0)), (b, histogram(1, 1.0))];
        let row =
            Row { start_timestamps, histograms: &histograms, ..Row::floats(bench.source, at, &[], &[]) };
        assert_eq!(bench.append(Policy::SCRAPE, &row).histograms, 2);
    }
    // A float between them has its own.
    let (series, starts) = ([a], [(a, 500)]);
    let row = Row { start_timestamps: &starts, ..Row::floats(bench.source, 6000, &series, &[1.0]) };
    bench.append(Policy::SCRAPE, &row);
    let read = bench.read(0, 10_000, &[]);
    assert_eq!(read[0].1.histogram_starts.as_deref(), Some(&[0, 500, 500, 4500][..]));
    assert_eq!(read[0].1.start_times.as_deref(), Some(&[500][..]));
    assert_eq!(read[1].1.histogram_starts, None, "none is known of the other series");
    let cut = bench.read(4000, 5000, &[]);
    assert_eq!(cut[0].1.histogram_starts.as_deref(), Some(&[500, 4500][..]));
    assert_eq!(cut[0].1.start_times, None);
}

fn exemplars_are_counted(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    let exemplar = Exemplar { labels: Labels::from_pairs([("trace_id", "7")]), value: 0.25, timestamp_ms: 9 };
    let exemplars = [(a, exemplar)];
    let row = Row { exemplars: &exemplars, ..Row::floats(bench.source, 10, from_ref(&a), &[1.0]) };
    let appended = bench.append(Policy::SCRAPE, &row);
    assert_eq!((appended.samples, appended.exemplars, reasons(&appended)), (1, 1, vec![]));
}

fn exemplars_come_back(store: &dyn Store) {
    let (bench, elsewhere) = (Bench::new(store), Bench::of(store, "other", "one"));
    let b: &[(&str, &str)] = &[("__name__", "b")];
    let exemplar = |trace: &str, value, timestamp_ms| Exemplar {
        labels: Labels::from_pairs([("trace_id", trace)]),
        value,
        timestamp_ms,
    };
    let put = |bench: &Bench<'_>, pairs: &[(&str, &str)], exemplar: &Exemplar| {
        let series = bench.series(pairs);
        let exemplars = [(series, exemplar.clone())];
        let row = Row {
            exemplars: &exemplars,
            ..Row::floats(bench.source, exemplar.timestamp_ms, from_ref(&series), &[1.0])
        };
        assert_eq!(bench.append(Policy::REMOTE_WRITE, &row).exemplars, 1);
    };
    for (pairs, exemplar) in [
        (b, exemplar("4", 4.0, 10)),
        (A, exemplar("3", 0.5, 30)),
        (A, exemplar("1", 0.25, 10)),
        (A, exemplar("1", 0.25, 10)),
        (A, exemplar("2", f64::NAN, 20)),
    ] {
        put(&bench, pairs, &exemplar);
    }
    put(&elsewhere, A, &exemplar("9", 9.0, 10));
    let check = |start_ms, end_ms, names: &[&str], expected: &[(&str, &[&str])]| {
        let matchers: Vec<Vec<Matcher>> =
            names.iter().map(|name| vec![matcher(MatchOp::Equal, "__name__", name)]).collect();
        let found = store.exemplars_of(&bench.tenant, start_ms, end_ms, &matchers).expect("exemplars").values;
        let found: Vec<(String, Vec<String>)> = found
            .iter()
            .map(|of| {
                let traces =
                    of.exemplars.iter().map(|e| e.labels.get("trace_id").unwrap_or_default().to_owned());
                (of.series.get("__name__").unwrap_or_default().to_owned(), traces.collect())
            })
            .collect();
        let expected: Vec<(String, Vec<String>)> = expected
            .iter()
            .map(|(name, traces)| ((*name).to_owned(), traces.iter().map(|t| (*t).to_owned()).collect()))
            .collect();
        assert_eq!(found, expected, "{start_ms}..={end_ms} of {names:?}");
    };
    check(i64::MIN, i64::MAX, &["b", "a", "a"], &[("a", &["1", "2", "3"]), ("b", &["4"])]);
    check(11, 30, &["a", "b"], &[("a", &["2", "3"])]);
    check(10, 20, &["a"], &[("a", &["1", "2"])]);
    check(31, 40, &["a"], &[]);
    check(0, 40, &["none"], &[]);
    check(0, 40, &[], &[]);
}

fn blocks_are_stored_once(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    let put = |block, timestamp_ms, value| {
        let key = Some(BlockKey { queue_id: 1, incarnation: 2, block });
        let rows = [Row::floats(bench.source, timestamp_ms, from_ref(&a), from_ref(&value))];
        let batch = Batch { key, ..Batch::rows(&rows, Policy::REMOTE_WRITE) };
        store.append(&batch).expect("append");
    };
    // One that names a series nobody knows is not taken, and its key stays free.
    let stranger = SeriesRef(u64::MAX);
    let key = Some(BlockKey { queue_id: 1, incarnation: 2, block: 5 });
    let (series, values) = ([a, stranger], [8.0, 9.0]);
    let rows = [Row::floats(bench.source, 5, &series, &values)];
    let batch = Batch { key, ..Batch::rows(&rows, Policy::REMOTE_WRITE) };
    let untaken = store.append(&batch).expect("append");
    let unknown = Rejection { row: 0, series: stranger, reason: RejectReason::UnknownSeries };
    assert_eq!((untaken.untaken, untaken.repeated, untaken.samples), (true, false, 0));
    assert_eq!(untaken.rejected, [unknown]);
    put(5, 10, 1.0);
    assert!(store.append(&batch).expect("append").repeated, "the key counts before the series");
    put(5, 20, 2.0);
    put(3, 30, 3.0);
    put(3, 40, 4.0);
    put(4, 50, 5.0);
    assert_eq!(bench.only(&[]), bits(&[(10, 1.0), (30, 3.0), (50, 5.0)]));
}

fn batches_span_sources(store: &dyn Store) {
    let (one, two) = (Bench::new(store), Bench::of(store, "default", "two"));
    let (a, b) = (one.series(A), two.series(&[("__name__", "b")]));
    let rows = [
        Row::floats(one.source, 10, from_ref(&a), &[1.0]),
        Row::floats(two.source, 12, from_ref(&b), &[2.0]),
        Row::floats(one.source, 20, from_ref(&a), &[3.0]),
    ];
    assert_eq!(store.append(&Batch::rows(&rows, Policy::SCRAPE)).expect("append").samples, 3);
    assert_eq!(one.only(&[Matcher::equal("__name__", "a")]), bits(&[(10, 1.0), (20, 3.0)]));
    assert_eq!(one.only(&[Matcher::equal("__name__", "b")]), bits(&[(12, 2.0)]));
    assert_eq!(store.append(&Batch::rows(&[], Policy::SCRAPE)).expect("append").samples, 0);
}

fn positions_grow(store: &dyn Store) {
    let bench = Bench::new(store);
    let a = bench.series(A);
    let mut last = CommitPosition::default();
    for at in 1..20 {
        let position = bench.put(Policy::SCRAPE, at, &[(a, 1.0)]).position;
        assert!(position > last, "{position:?} after {last:?}");
        last = position;
    }
    store.wait_durable(last).expect("durable");
    store.wait_durable(CommitPosition::default()).expect("durable since long");
}

fn matcher(op: MatchOp, name: &str, value: &str) -> Matcher {
    Matcher::new(op, name, value).expect("a pattern")
}

fn matchers_select(store: &dyn Store) {
    use MatchOp::{Equal, NotEqual, NotRegex, Regex};
    let bench = Bench::new(store);
    for (name, env) in [("up", "prod"), ("up", "dev"), ("up", ""), ("down", "prod"), ("über", "a.b")] {
        let series = bench.series(&[("__name__", name), ("env", env)]);
        bench.put(Policy::SCRAPE, 10, &[(series, 1.0)]);
    }
    let check = |matchers: &[Matcher], want: &[&str]| {
        let got: Vec<String> = bench
            .read(0, 100, matchers)
            .iter()
            .map(|(labels, _)| format!("{}/{}", labels.metric_name(), labels.get("env").unwrap_or("-")))
            .collect();
        assert_eq!(got, want, "{matchers:?}");
    };
    check(&[], &["down/prod", "up/-", "up/dev", "up/prod", "über/a.b"]);
    check(&[matcher(Equal, "__name__", "up")], &["up/-", "up/dev", "up/prod"]);
    check(&[matcher(NotEqual, "__name__", "up")], &["down/prod", "über/a.b"]);
    check(&[matcher(Equal, "__name__", "up"), matcher(Equal, "env", "")], &["up/-"]);
    check(&[matcher(NotEqual, "env", "")], &["down/prod", "up/dev", "up/prod", "über/a.b"]);
    check(&[matcher(NotEqual, "env", "prod")], &["up/-", "up/dev", "über/a.b"]);
    check(&[matcher(Regex, "env", "prod|dev")], &["down/prod", "up/dev", "up/prod"]);
    check(&[matcher(Regex, "env", "p.*"), matcher(Regex, "__name__", "u.+")], &["up/prod"]);
    check(&[matcher(Regex, "env", ".*")], &["down/prod", "up/-", "up/dev", "up/prod", "über/a.b"]);
    check(&[matcher(Regex, "env", ".+")], &["down/prod", "up/dev", "up/prod", "über/a.b"]);
    check(&[matcher(Regex, "env", "")], &["up/-"]);
    check(&[matcher(Regex, "env", "dev|")], &["up/-", "up/dev"]);
    check(&[matcher(NotRegex, "env", "dev|prod")], &["up/-", "über/a.b"]);
    check(&[matcher(NotRegex, "env", "dev|")], &["down/prod", "up/prod", "über/a.b"]);
    check(&[matcher(NotRegex, "env", ".*")], &[]);
    check(&[matcher(NotRegex, "env", ".+")], &["up/-"]);
    check(&[matcher(Regex, "env", "a\\.b"), matcher(NotEqual, "__name__", "x")], &["über/a.b"]);
    check(&[matcher(Regex, "env", "ro")], &[]);
    check(&[matcher(Equal, "nothing", "")], &["down/prod", "up/-", "up/dev", "up/prod", "über/a.b"]);
    check(&[matcher(Equal, "nothing", "x")], &[]);
    check(&[matcher(Equal, "env", "prod"), matcher(NotEqual, "env", "prod")], &[]);
}

fn labels_are_listed(store: &dyn Store) {
    let bench = Bench::new(store);
    for (name, label, value) in [
        ("b", "env", "prod"),
        ("b", "env", "dev"),
        ("a", "zone", "1"),
        ("c", "größe", "1"),
        ("c", "zone", "2"),
    ] {
        let series = bench.series(&[("__name__", name), (label, value)]);
        bench.put(Policy::SCRAPE, 10, &[(series, 1.0)]);
    }
    let names = |matchers: &[Matcher]| {
        store.label_names(&bench.select(0, 100, matchers)).expect("label names").values
    };
    let values = |name: &str, matchers: &[Matcher]| {
        store.label_values(name, &bench.select(0, 100, matchers)).expect("label values").values
    };
    assert_eq!(names(&[]), ["__name__", "env", "größe", "zone"]);
    assert_eq!(names(&[Matcher::equal("__name__", "b")]), ["__name__", "env"]);
    assert_eq!(names(&[matcher(MatchOp::NotEqual, "zone", "")]), ["__name__", "zone"]);
    assert_eq!(names(&[Matcher::equal("__name__", "x")]), [""; 0]);
    assert_eq!(values("__name__", &[]), ["a", "b", "c"]);
    assert_eq!(values("env", &[]), ["dev", "prod"]);
    assert_eq!(values("zone", &[matcher(MatchOp::Regex, "__name__", "a|b")]), ["1"]);
    assert_eq!(values("zone", &[Matcher::equal("zone", "")]), [""; 0]);
    assert_eq!(values("__name__", &[Matcher::equal("env", "")]), ["a", "c"]);
    assert_eq!(values("nothing", &[]), [""; 0]);
}

fn metadata_is_kept(store: &dyn Store) {
    let (one, two) = (Bench::new(store), Bench::of(store, "default", "two"));
    let statement =
        |metric_type, help: &str| Metadata { metric_type, unit: String::new(), help: help.to_owned() };
    let state = |bench: &Bench<'_>, metric: &str, metadata: &Metadata| {
        let entries = [MetadataEntry { source: bench.source, metric, metadata }];
        let batch = Batch { metadata: &entries, ..Batch::rows(&[], Policy::SCRAPE) };
        store.append(&batch).expect("append");
    };
    let counter = statement(MetricType::Counter, "Requests.");
    let gauge = statement(MetricType::Gauge, "Requests?");
    state(&one, "requests", &counter);
    state(&two, "requests", &counter);
    state(&one, "alpha", &gauge);
    let tenant = TenantId::default();
    let all = store.metadata(&tenant, None).expect("metadata").values;
    let want =
        vec![("alpha".to_owned(), vec![gauge.clone()]), ("requests".to_owned(), vec![counter.clone()])];
    assert_eq!(all, want, "sorted by name, each distinct statement once");

    state(&two, "requests", &gauge);
    let found = store.metadata(&tenant, Some("requests")).expect("metadata").values;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1.len(), 2);
    assert!(found[0].1.contains(&counter) && found[0].1.contains(&gauge));
    assert_eq!(store.metadata(&tenant, Some("nothing")).expect("metadata").values, []);
}

fn tenants_are_apart(store: &dyn Store) {
    let (one, two) = (Bench::of(store, "one", "job"), Bench::of(store, "two", "job"));
    assert_ne!(one.source, two.source);
    let (mine, theirs) = (one.series(A), two.series(A));
    two.series(&[("__name__", "secret")]);
    one.put(Policy::SCRAPE, 10, &[(mine, 1.0)]);
    two.put(Policy::SCRAPE, 5, &[(theirs, 2.0)]);
    assert_eq!(one.only(&[]), bits(&[(10, 1.0)]));
    assert_eq!(two.only(&[]), bits(&[(5, 2.0)]), "another tenant's newest sample does not make it late");

    let hidden = two.series(&[("__name__", "secret")]);
    two.put(Policy::SCRAPE, 5, &[(hidden, 3.0)]);
    let select = one.select(i64::MIN, i64::MAX, &[]);
    assert_eq!(store.label_values("__name__", &select).expect("label values").values, ["a"]);
    let metadata = Metadata { help: "Secret.".to_owned(), ..Metadata::default() };
    let entries = [MetadataEntry { source: two.source, metric: "secret", metadata: &metadata }];
    store.append(&Batch { metadata: &entries, ..Batch::rows(&[], Policy::SCRAPE) }).expect("append");
    assert_eq!(store.metadata(&one.tenant, None).expect("metadata").values, []);

    let nobody = Bench::of(store, "three", "job");
    assert_eq!(nobody.floats(i64::MIN, i64::MAX, &[]), []);
}
