//! The protobuf format, against messages that `prost` encodes.

use model::histogram::{CUSTOM_BUCKETS_SCHEMA, CounterResetHint};
use model::{Labels, MetricType};
use prost::Message;

mod oracle;
mod properties;

use super::super::*;
use oracle::metric_family::Type;
use oracle::{Bucket, BucketSpan, LabelPair, Metric, MetricFamily};

const PROTO: Protocol = Protocol::PrometheusProto;

fn body(families: &[MetricFamily]) -> Vec<u8> {
    families.iter().flat_map(|family| family.encode_length_delimited_to_vec()).collect()
}

fn family(name: &str, kind: Type, metric: Vec<Metric>) -> MetricFamily {
    MetricFamily { name: name.into(), kind: kind as i32, metric, ..MetricFamily::default() }
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    pairs.iter().map(|(name, value)| LabelPair { name: (*name).into(), value: (*value).into() }).collect()
}

fn value(value: f64) -> Option<oracle::Value> {
    Some(oracle::Value { value, ..oracle::Value::default() })
}

fn time(ms: i64) -> Option<oracle::Timestamp> {
    Some(oracle::Timestamp { seconds: ms / 1000, nanos: (ms % 1000) as i32 * 1_000_000 })
}

fn exemplar(trace: &str, value: f64, ms: Option<i64>) -> oracle::Exemplar {
    oracle::Exemplar { label: labels(&[("trace", trace)]), value, timestamp: ms.and_then(time) }
}

fn gauge(pairs: &[(&str, &str)], number: f64) -> Metric {
    Metric { label: labels(pairs), gauge: value(number), ..Metric::default() }
}

/// A reader that knows the labels of its columns.
#[derive(Default)]
struct Target {
    memory: RowMemory,
    row: ScrapedRow,
    columns: std::collections::BTreeMap<u32, Labels>,
}

impl Target {
    fn new(options: RowOptions) -> Target {
        Target { memory: RowMemory::with_options(options), ..Target::default() }
    }

    fn read(&mut self, protocol: Protocol, body: &[u8]) -> Result<(), String> {
        self.memory.read(body, protocol, &mut self.row).map_err(|e| e.to_string())?;
        for column in &self.row.retired_columns {
            self.columns.remove(column);
        }
        self.columns.extend(self.row.new_columns.iter().cloned());
        Ok(())
    }

    /// Series and values of the row, floats before histograms, one line each.
    fn shown(&self) -> String {
        let mut lines = Vec::new();
        for (cell, (column, value)) in (0u32..).zip(self.row.columns.iter().zip(&self.row.values)) {
            let mut line = format!("{} {value}", self.columns[column]);
            for (_, ms) in self.row.timestamps.iter().filter(|(at, _)| *at == cell) {
                line += &format!(" @{ms}");
            }
            for (_, e) in self.row.exemplars.iter().filter(|(at, _)| *at == cell) {
                line += &format!(" exemplar {} {} {:?}", e.labels, e.value, e.timestamp_ms);
            }
            for (_, ms) in self.row.start_timestamps.iter().filter(|(of, _)| of == column) {
                line += &format!(" since {ms}");
            }
            lines.push(line);
        }
        for cell in &self.row.histograms {
            let h = &cell.histogram;
            let spans = |spans: &[model::histogram::Span]| {
                spans
                    .iter()
                    .map(|span| format!("{}+{}", span.offset, span.length))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            let mut line = format!(
                "{} schema {} zero {} sum {} {:?} [{}] [{}] {:?} {:?}",
                self.columns[&cell.column],
                h.schema,
                h.zero_threshold,
                h.sum,
                h.counter_reset_hint,
                spans(&h.positive_spans),
                spans(&h.negative_spans),
                h.buckets,
                h.custom_values,
            );
            if let Some(ms) = cell.timestamp_ms {
                line += &format!(" @{ms}");
            }
            for e in &cell.exemplars {
                line += &format!(" exemplar {} {} {:?}", e.labels, e.value, e.timestamp_ms);
            }
            for (_, ms) in self.row.start_timestamps.iter().filter(|(of, _)| *of == cell.column) {
                line += &format!(" since {ms}");
            }
            lines.push(line);
        }
        if self.row.duplicates > 0 {
            lines.push(format!("duplicates {}", self.row.duplicates));
        }
        lines.join("\n") + "\n"
    }
}

fn check(options: RowOptions, families: &[MetricFamily], expected: expect_test::Expect) {
    let mut target = Target::new(options);
    target.read(PROTO, &body(families)).unwrap();
    expected.assert_eq(&target.shown());
    // What is remembered gives the same, and nothing new.
    let (before, columns) = (target.shown(), target.row.columns.clone());
    for _ in 0..2 {
        target.read(PROTO, &body(families)).unwrap();
        assert_eq!((target.shown(), &target.row.columns), (before.clone(), &columns));
        assert!(target.row.new_columns.is_empty() && target.row.metadata.is_empty());
    }
    assert_eq!(target.row.same_columns, target.row.duplicates == 0);
    let mut series = Vec::new();
    target.memory.each_series(|column, labels| series.push((column, labels)));
    series.sort_by_key(|(column, _)| *column);
    assert_eq!(series, target.columns.into_iter().collect::<Vec<_>>());
}

const FLOATS: RowOptions = RowOptions {
    created: CreatedLines::StartTimestamps,
    native_histograms: false,
    keep_classic: false,
    convert_classic: false,
};
const NATIVE: RowOptions = RowOptions { native_histograms: true, ..FLOATS };

#[test]
fn numbers_are_read() {
    let counter = oracle::Value { value: 7.0, exemplar: Some(exemplar("a", 1.5, None)), start: time(1_500) };
    check(
        FLOATS,
        &[
            family(
                "requests_total",
                Type::Counter,
                vec![Metric {
                    label: labels(&[("z", "1"), ("a", "é\"\n"), ("empty", "")]),
                    counter: Some(counter),
                    ..Metric::default()
                }],
            ),
            family("empty", Type::Gauge, vec![]),
            family("up.now", Type::Gauge, vec![gauge(&[], f64::NEG_INFINITY), gauge(&[("a", "b")], 0.0)]),
            family(
                "odd",
                Type::Untyped,
                vec![
                    Metric { untyped: value(2.5), timestamp_ms: -5, ..Metric::default() },
                    gauge(&[("x", "y")], 1.0),
                ],
            ),
        ],
        expect_test::expect![[r#"
            {__name__="requests_total", a="é\"\n", z="1"} 7 exemplar {trace="a"} 1.5 None since 1500
            {__name__="up.now"} -inf
            {__name__="up.now", a="b"} 0
            {__name__="odd"} 2.5 @-5
            {__name__="odd", x="y"} 0
        "#]],
    );
}

#[test]
fn summaries_and_classic_histograms_are_read() {
    let quantile = |quantile, value| oracle::Quantile { quantile, value };
    let summary = oracle::Summary {
        count: 3,
        sum: 4.5,
        quantile: vec![quantile(0.5, 1.0), quantile(1.0, f64::NAN)],
        start: time(2_000),
    };
    let bucket = |bound, count| Bucket { bound, count, ..Bucket::default() };
    let histogram = oracle::Histogram {
        count: 9,
        sum: 2.0,
        bucket: vec![
            Bucket { exemplar: Some(exemplar("b", 0.3, Some(12_345))), ..bucket(0.5, 2) },
            bucket(1.0, 4),
        ],
        ..oracle::Histogram::default()
    };
    let floats = oracle::Histogram {
        count_float: 2.5,
        bucket: vec![
            Bucket { bound: 1.0, count_float: 1.5, ..Bucket::default() },
            bucket(1.0, 9),
            bucket(f64::INFINITY, 2),
            bucket(3.0, 9),
        ],
        ..oracle::Histogram::default()
    };
    check(
        NATIVE,
        &[
            family(
                "s",
                Type::Summary,
                vec![
                    Metric { label: labels(&[("a", "b")]), summary: Some(summary), ..Metric::default() },
                    Metric::default(),
                ],
            ),
            family(
                "h",
                Type::Histogram,
                vec![
                    Metric { histogram: Some(histogram), timestamp_ms: 77, ..Metric::default() },
                    Metric { label: labels(&[("f", "1")]), histogram: Some(floats), ..Metric::default() },
                ],
            ),
        ],
        expect_test::expect![[r#"
            {__name__="s_count", a="b"} 3 since 2000
            {__name__="s_sum", a="b"} 4.5 since 2000
            {__name__="s", a="b", quantile="0.5"} 1 since 2000
            {__name__="s", a="b", quantile="1.0"} NaN since 2000
            {__name__="s_count"} 0
            {__name__="s_sum"} 0
            {__name__="h_count"} 9 @77
            {__name__="h_sum"} 2 @77
            {__name__="h_bucket", le="0.5"} 2 @77 exemplar {trace="b"} 0.3 Some(12345)
            {__name__="h_bucket", le="1.0"} 4 @77
            {__name__="h_bucket", le="+Inf"} 9 @77
            {__name__="h_count", f="1"} 2.5
            {__name__="h_sum", f="1"} 0
            {__name__="h_bucket", f="1", le="1.0"} 1.5
            {__name__="h_bucket", f="1", le="+Inf"} 2
            duplicates 1
        "#]],
    );
}

/// A native histogram that is a classic one besides.
fn both() -> MetricFamily {
    let histogram = oracle::Histogram {
        count: 10,
        sum: -1.0,
        bucket: vec![
            Bucket { bound: 1.0, count: 6, exemplar: Some(exemplar("c", 0.9, Some(5))), ..Bucket::default() },
            Bucket { bound: 2.0, count: 8, exemplar: Some(exemplar("d", 0.9, None)), ..Bucket::default() },
        ],
        schema: 3,
        zero_threshold: 0.25,
        zero_count: 2,
        negative_span: vec![BucketSpan { offset: -3, length: 1 }],
        negative_delta: vec![1],
        positive_span: vec![BucketSpan { offset: 2, length: 3 }, BucketSpan { offset: 1, length: 1 }],
        positive_delta: vec![3, -3, 2, 0],
        start: time(3_000),
        ..oracle::Histogram::default()
    };
    let metric = Metric { label: labels(&[("a", "b")]), histogram: Some(histogram), ..Metric::default() };
    family("h", Type::Histogram, vec![metric])
}

#[test]
fn native_histograms_are_read() {
    check(
        NATIVE,
        &[both()],
        expect_test::expect![[r#"
            {__name__="h", a="b"} schema 3 zero 0.25 sum -1 Unknown [2+1 1+1 1+1] [-3+1] Int { count: 10, zero_count: 2, positive: [3, -1, 0], negative: [1] } [] exemplar {trace="c"} 0.9 Some(5) since 3000
        "#]],
    );
    check(
        RowOptions { keep_classic: true, ..NATIVE },
        &[both()],
        expect_test::expect![[r#"
            {__name__="h_count", a="b"} 10 since 3000
            {__name__="h_sum", a="b"} -1 since 3000
            {__name__="h_bucket", a="b", le="1.0"} 6 exemplar {trace="c"} 0.9 Some(5) since 3000
            {__name__="h_bucket", a="b", le="2.0"} 8 exemplar {trace="d"} 0.9 None since 3000
            {__name__="h_bucket", a="b", le="+Inf"} 10 since 3000
            {__name__="h", a="b"} schema 3 zero 0.25 sum -1 Unknown [2+1 1+1 1+1] [-3+1] Int { count: 10, zero_count: 2, positive: [3, -1, 0], negative: [1] } [] exemplar {trace="c"} 0.9 Some(5) since 3000
        "#]],
    );
    let float = oracle::Histogram {
        count_float: 2.5,
        schema: -2,
        zero_count_float: 0.5,
        positive_span: vec![BucketSpan { offset: 0, length: 2 }],
        positive_count: vec![1.5, 0.5],
        exemplars: vec![exemplar("x", 1.0, None), exemplar("y", 2.0, Some(9_000))],
        ..oracle::Histogram::default()
    };
    let empty = oracle::Histogram {
        positive_span: vec![BucketSpan { offset: 0, length: 0 }],
        ..oracle::Histogram::default()
    };
    let fine = oracle::Histogram {
        count: 3,
        schema: 10,
        positive_span: vec![BucketSpan { offset: 1, length: 3 }],
        positive_delta: vec![1, 0, 0],
        ..oracle::Histogram::default()
    };
    let metric = |histogram| Metric { histogram: Some(histogram), timestamp_ms: 4, ..Metric::default() };
    check(
        NATIVE,
        &[
            family("g", Type::GaugeHistogram, vec![metric(float)]),
            family("e", Type::Histogram, vec![metric(empty)]),
            family("f", Type::Histogram, vec![metric(fine)]),
        ],
        expect_test::expect![[r#"
            {__name__="g"} schema -2 zero 0 sum 0 Gauge [0+2] [] Float { count: 2.5, zero_count: 0.5, positive: [1.5, 0.5], negative: [] } [] @4 exemplar {trace="y"} 2 Some(9000)
            {__name__="e"} schema 0 zero 0 sum 0 Unknown [] [] Int { count: 0, zero_count: 0, positive: [], negative: [] } [] @4
            {__name__="f"} schema 8 zero 0 sum 0 Unknown [1+1] [] Int { count: 3, zero_count: 0, positive: [3], negative: [] } [] @4
        "#]],
    );
}

#[test]
fn classic_histograms_are_converted() {
    let custom = RowOptions { convert_classic: true, ..FLOATS };
    check(
        custom,
        &[both()],
        expect_test::expect![[r#"
            {__name__="h", a="b"} schema -53 zero 0 sum -1 Unknown [0+3] [] Int { count: 10, zero_count: 0, positive: [6, -4, 0], negative: [] } [1.0, 2.0] exemplar {trace="c"} 0.9 Some(5) since 3000
        "#]],
    );
    let mut gauge = both();
    gauge.kind = Type::GaugeHistogram as i32;
    check(
        RowOptions { keep_classic: true, ..custom },
        &[gauge],
        expect_test::expect![[r#"
            {__name__="h_count", a="b"} 10 since 3000
            {__name__="h_sum", a="b"} -1 since 3000
            {__name__="h_bucket", a="b", le="1.0"} 6 exemplar {trace="c"} 0.9 Some(5) since 3000
            {__name__="h_bucket", a="b", le="2.0"} 8 exemplar {trace="d"} 0.9 None since 3000
            {__name__="h_bucket", a="b", le="+Inf"} 10 since 3000
            {__name__="h", a="b"} schema -53 zero 0 sum -1 Gauge [0+3] [] Int { count: 10, zero_count: 0, positive: [6, -4, 0], negative: [] } [1.0, 2.0] exemplar {trace="c"} 0.9 Some(5) since 3000
        "#]],
    );
    // A native histogram stays one.
    let mut target = Target::new(RowOptions { convert_classic: true, ..NATIVE });
    target.read(PROTO, &body(&[both()])).unwrap();
    assert_eq!(target.row.histograms[0].histogram.schema, 3);
}

#[test]
fn metadata_is_told_once() {
    let mut target = Target::default();
    let mut families = [family("a_bytes", Type::Counter, vec![Metric::default()]), both()];
    families[0].help = "About a.".into();
    families[0].unit = "bytes".into();
    target.read(PROTO, &body(&families)).unwrap();
    let about = |row: &ScrapedRow| -> Vec<(String, MetricType, String, String)> {
        let all = row.metadata.iter().cloned();
        all.map(|(name, m)| (name, m.metric_type, m.unit, m.help)).collect()
    };
    let a = ("a_bytes".to_owned(), MetricType::Counter, "bytes".to_owned(), "About a.".to_owned());
    let h = ("h".to_owned(), MetricType::Histogram, String::new(), String::new());
    assert_eq!(about(&target.row), [a.clone(), h.clone()]);
    target.read(PROTO, &body(&families)).unwrap();
    assert_eq!(about(&target.row), []);
    families[0].help = "Other.".into();
    target.read(PROTO, &body(&families)).unwrap();
    let changed = ("a_bytes".to_owned(), MetricType::Counter, "bytes".to_owned(), "Other.".to_owned());
    assert_eq!(about(&target.row), [changed]);
    // The family is another entry now: its metric has another column, but the labels of before.
    assert_eq!(target.row.new_columns.len(), 1);
    assert_eq!(target.memory.metadata().len(), 2);
}

#[test]
fn what_is_wrong_is_said() {
    let refusal = |bytes: &[u8]| {
        let mut target = Target::new(NATIVE);
        let good = body(&[family("good", Type::Gauge, vec![gauge(&[], 1.0)])]);
        target.read(PROTO, &good).unwrap();
        let problem = target.read(PROTO, bytes).unwrap_err();
        assert!(target.row.columns.is_empty() && target.row.new_columns.is_empty(), "{problem}");
        target.read(PROTO, &good).unwrap();
        assert_eq!((target.row.columns.as_slice(), target.row.new_columns.len()), (&[0][..], 0));
        assert!(target.row.same_columns);
        problem
    };
    let check = |bytes: &[u8], problem: &str| assert_eq!(refusal(bytes), problem);
    check(&[0x80], "byte 0: the exposition ends within a number");
    check(&[5, 1], "byte 0: the exposition states a length of 5 bytes where 1 are left");
    check(&[0xff; 11], "byte 0: the exposition has a number of more than 64 bits");
    check(
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0],
        "byte 0: the exposition states the length of a family in more than five bytes",
    );
    check(&[2, 0x0b, 0x00], "byte 1: MetricFamily has a field of wire type 3");
    check(&[2, 0x00, 0x00], "byte 1: MetricFamily has a field without a valid number");
    check(&[2, 0x08, 0x00], "byte 3: MetricFamily has a field of another type than its schema gives it");
    check(&[4, 0x22, 0, 0x18, 9], "byte 5: MetricFamily has an unknown type, 9");
    check(&[2, 0x22, 0], "byte 0: a metric family has no name");
    check(&[5, 0x0a, 1, 0xff, 0x22, 0], "byte 3: the name of a metric family is not valid UTF-8");
    let nameless = family("a", Type::Gauge, vec![gauge(&[("", "x")], 1.0)]);
    check(&body(&[nameless]), "byte 8: LabelPair has no name");
    for pairs in [&[("x", "1"), ("x", "1")][..], &[("__name__", "1")]] {
        let twice = refusal(&body(&[family("a", Type::Gauge, vec![gauge(pairs, 1.0)])]));
        assert!(twice.ends_with("is given twice"), "{twice}");
    }
    let mut le = both();
    le.metric[0].label = labels(&[("le", "1")]);
    le.metric[0].histogram.as_mut().unwrap().zero_count = 0;
    le.metric[0].histogram.as_mut().unwrap().zero_threshold = 0.0;
    le.metric[0].histogram.as_mut().unwrap().positive_span.clear();
    le.metric[0].histogram.as_mut().unwrap().negative_span.clear();
    assert!(refusal(&body(&[le])).ends_with(": label \"le\" is given twice"));
    type Change = fn(&mut oracle::Histogram);
    let changes: [(Change, &str); 5] = [
        (|h| h.positive_delta.truncate(3), "the spans of a histogram do not fit its buckets"),
        (|h| h.positive_span[1].offset = -1, "the spans of a histogram do not fit its buckets"),
        (|h| h.schema = -9, "histogram schema -9 is neither in -4 to 8 nor -53"),
        (|h| h.count = 11, "histogram has 10 observations in its buckets, but its count is 11"),
        (|h| h.positive_delta[1] = -4, "histogram has a negative count in bucket 2 on the positive side"),
    ];
    for (change, problem) in changes {
        let mut bad = both();
        change(bad.metric[0].histogram.as_mut().unwrap());
        let (place, refused) =
            refusal(&body(&[bad])).split_once(": ").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert!(place.starts_with("byte "), "{place}");
        assert_eq!(refused, format!("a native histogram makes no sense: {problem}"));
    }
    let mut target = Target::new(RowOptions { convert_classic: true, ..FLOATS });
    let mut bad = both();
    bad.metric[0].histogram.as_mut().unwrap().bucket[1].count = 5;
    let problem = target.read(PROTO, &body(&[bad])).unwrap_err();
    let wanted = "a classic histogram cannot be converted: the count up to 2, 5, is not cumulative";
    assert!(problem.ends_with(wanted), "{problem}");
}

#[test]
fn a_changing_target_keeps_its_columns() {
    let mut target = Target::default();
    let metrics = |names: &[&str]| {
        let metrics = names.iter().map(|name| gauge(&[("n", name)], 1.0)).collect();
        body(&[family("a", Type::Gauge, metrics), family("b", Type::Gauge, vec![gauge(&[], 2.0)])])
    };
    let mut columns = |names: &[&str]| {
        target.read(PROTO, &metrics(names)).unwrap();
        target.row.columns.clone()
    };
    assert_eq!(columns(&["1", "2", "3"]), [0, 1, 2, 3]);
    assert_eq!(columns(&["1", "3"]), [0, 2, 3]);
    assert_eq!(columns(&["3", "1", "2"]), [2, 0, 1, 3]);
    assert_eq!(columns(&["4", "3", "1", "2"]), [4, 2, 0, 1, 3]);
    assert_eq!(columns(&["4", "3", "3", "1", "2"]), [4, 2, 0, 1, 3]);
    target.read(PROTO, &metrics(&["1"])).unwrap();
    assert!(!target.row.same_columns);
    target.read(PROTO, &metrics(&["1"])).unwrap();
    assert!(target.row.same_columns);
}

#[test]
fn the_dead_are_dropped_and_their_columns_given_again() {
    let mut target = Target::default();
    for round in 0..50 {
        let metrics = (0..20).map(|i| gauge(&[("n", &format!("{round} {i}"))], 1.0)).collect();
        target.read(PROTO, &body(&[family("a", Type::Gauge, metrics)])).unwrap();
        assert_eq!(target.row.columns.len(), 20);
        assert!(target.row.columns.iter().all(|column| target.columns.contains_key(column)));
    }
    assert!(target.memory.column_bound() < 150, "{}", target.memory.column_bound());
}

#[test]
fn formats_may_change_from_scrape_to_scrape() {
    let mut target = Target::new(RowOptions { convert_classic: true, ..NATIVE });
    let text = "# TYPE h histogram\nh_bucket{a=\"b\",le=\"1\"} 6\nh_bucket{a=\"b\",le=\"+Inf\"} 10\nh_sum{a=\"b\"} 2\nh_count{a=\"b\"} 10\nx 1\n";
    for _ in 0..2 {
        target.read(Protocol::PrometheusText0_0_4, text.as_bytes()).unwrap();
        assert_eq!((target.columns.len(), target.row.columns.len(), target.row.histograms.len()), (2, 1, 1));
        target.read(PROTO, &body(&[both()])).unwrap();
        assert_eq!((target.columns.len(), target.row.columns.len(), target.row.histograms.len()), (1, 0, 1));
    }
    let standing = target.memory.column_bound();
    target.read(Protocol::PrometheusText0_0_4, b"h_bucket{").unwrap_err();
    assert_eq!(target.memory.column_bound(), standing);
    target.read(PROTO, &body(&[both()])).unwrap();
    assert!(target.row.same_columns && target.row.new_columns.is_empty());
}

#[test]
fn text_histograms_are_converted() {
    let check = |keep_classic: bool, protocol: Protocol, text: &str, expected: expect_test::Expect| {
        let options = RowOptions { convert_classic: true, keep_classic, ..FLOATS };
        let mut target = Target::new(options);
        target.read(protocol, text.as_bytes()).unwrap();
        expected.assert_eq(&target.shown());
        let before = target.shown();
        for _ in 0..2 {
            target.read(protocol, text.as_bytes()).unwrap();
            assert_eq!(target.shown(), before);
            assert!(target.row.new_columns.is_empty() && target.row.same_columns);
        }
        let mut series = 0;
        target.memory.each_series(|column, labels| {
            assert_eq!(target.columns.get(&column), Some(&labels));
            series += 1;
        });
        assert_eq!(series, target.columns.len());
    };
    let text = "# TYPE h histogram\nh_bucket{a=\"1\",le=\"1\"} 2\nh_bucket{a=\"1\",le=\"+Inf\"} 3\nh_sum{a=\"1\"} 5\nh_count{a=\"1\"} 3\nh_bucket{a=\"2\",le=\"+Inf\"} 1.5 777\nh_count{a=\"2\"} 1.5 777\n# TYPE g gauge\ng_count 4\n# TYPE other histogram\nh_count{a=\"3\"} 4\n";
    let prometheus = Protocol::PrometheusText0_0_4;
    check(
        false,
        prometheus,
        text,
        expect_test::expect![[r#"
            {__name__="g_count"} 4
            {__name__="h_count", a="3"} 4
            {__name__="h", a="1"} schema -53 zero 0 sum 5 Unknown [0+2] [] Int { count: 3, zero_count: 0, positive: [2, -1], negative: [] } [1.0]
            {__name__="h", a="2"} schema -53 zero 0 sum 0 Unknown [0+1] [] Float { count: 1.5, zero_count: 0.0, positive: [1.5], negative: [] } [] @777
        "#]],
    );
    check(
        true,
        prometheus,
        "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_count 3\nx 1\n",
        expect_test::expect![[r#"
            {__name__="h_bucket", le="1.0"} 2
            {__name__="h_count"} 3
            {__name__="x"} 1
            {__name__="h"} schema -53 zero 0 sum 0 Unknown [0+2] [] Int { count: 3, zero_count: 0, positive: [2, -1], negative: [] } [1.0]
        "#]],
    );
    check(
        false,
        Protocol::OpenMetricsText1_0_0,
        "# TYPE h histogram\nh_bucket{le=\"1.0\"} 2 # {t=\"x\"} 0.5 1.5\nh_bucket{le=\"+Inf\"} 3 # {t=\"y\"} 7\nh_count 3\nh_sum 2\nh_created 12.5\n# EOF\n",
        expect_test::expect![[r#"
            {__name__="h"} schema -53 zero 0 sum 2 Unknown [0+2] [] Int { count: 3, zero_count: 0, positive: [2, -1], negative: [] } [1.0] exemplar {t="x"} 0.5 Some(1500) since 12500
        "#]],
    );
    // One that makes no sense gives nothing, and its neighbours all the same.
    check(
        false,
        prometheus,
        "# TYPE h histogram\nh_bucket{a=\"1\",le=\"1\"} 2\nh_bucket{a=\"1\",le=\"2\"} 1\nh_count{a=\"2\"} 1\n",
        expect_test::expect![[r#"
            {__name__="h", a="2"} schema -53 zero 0 sum 0 Unknown [0+1] [] Int { count: 1, zero_count: 0, positive: [1], negative: [] } []
        "#]],
    );
}

#[test]
fn converted_histograms_come_and_go() {
    let mut target = Target::new(RowOptions { convert_classic: true, ..FLOATS });
    for round in 0..60 {
        let mut text = "# TYPE h histogram\n".to_owned();
        for i in 0..5 {
            text += &format!("h_bucket{{n=\"{round} {i}\",le=\"1\"}} 1\nh_count{{n=\"{round} {i}\"}} 1\n");
        }
        target.read(Protocol::PrometheusText0_0_4, text.as_bytes()).unwrap();
        assert_eq!((target.row.histograms.len(), target.row.columns.len()), (5, 0));
        for cell in &target.row.histograms {
            let labels = &target.columns[&cell.column];
            assert!(labels.get("n").is_some_and(|n| n.starts_with(&format!("{round} "))), "{labels}");
        }
    }
    assert!(target.memory.column_bound() < 250, "{}", target.memory.column_bound());
}

#[test]
fn a_gauge_histogram_and_custom_schema_are_told_apart() {
    let mut family = both();
    family.kind = Type::GaugeHistogram as i32;
    let mut target = Target::new(NATIVE);
    target.read(PROTO, &body(&[family])).unwrap();
    let cell = &target.row.histograms[0];
    assert_eq!(cell.histogram.counter_reset_hint, CounterResetHint::Gauge);
    assert_ne!(cell.histogram.schema, CUSTOM_BUCKETS_SCHEMA);
}
