use expect_test::{Expect, expect};
use model::histogram::{Buckets, CUSTOM_BUCKETS_SCHEMA, CounterResetHint, Span};
use model::{Exemplar, Histogram, Labels, Metadata, MetricType};
use proptest::prelude::*;
use prost::Message;

use super::*;

/// The messages as `prost` knows them: the yardstick for decoders and encoders written by hand.
mod oracle {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub(super) timeseries: Vec<TimeSeries>,
        #[prost(message, repeated, tag = "3")]
        pub(super) metadata: Vec<MetricMetadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub(super) labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub(super) samples: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub(super) exemplars: Vec<Exemplar>,
        #[prost(message, repeated, tag = "4")]
        pub(super) histograms: Vec<Histogram>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MetricMetadata {
        #[prost(int32, tag = "1")]
        pub(super) metric_type: i32,
        #[prost(string, tag = "2")]
        pub(super) family: String,
        #[prost(string, tag = "4")]
        pub(super) help: String,
        #[prost(string, tag = "5")]
        pub(super) unit: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Label {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) value: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Sample {
        #[prost(double, tag = "1")]
        pub(super) value: f64,
        #[prost(int64, tag = "2")]
        pub(super) timestamp: i64,
        #[prost(int64, tag = "3")]
        pub(super) start_timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Exemplar {
        #[prost(message, repeated, tag = "1")]
        pub(super) labels: Vec<Label>,
        #[prost(double, tag = "2")]
        pub(super) value: f64,
        #[prost(int64, tag = "3")]
        pub(super) timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(sint32, tag = "1")]
        pub(super) offset: i32,
        #[prost(uint32, tag = "2")]
        pub(super) length: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Histogram {
        #[prost(uint64, optional, tag = "1")]
        pub(super) count_int: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub(super) count_float: Option<f64>,
        #[prost(double, tag = "3")]
        pub(super) sum: f64,
        #[prost(sint32, tag = "4")]
        pub(super) schema: i32,
        #[prost(double, tag = "5")]
        pub(super) zero_threshold: f64,
        #[prost(uint64, optional, tag = "6")]
        pub(super) zero_count_int: Option<u64>,
        #[prost(double, optional, tag = "7")]
        pub(super) zero_count_float: Option<f64>,
        #[prost(message, repeated, tag = "8")]
        pub(super) negative_spans: Vec<Span>,
        #[prost(sint64, repeated, tag = "9")]
        pub(super) negative_deltas: Vec<i64>,
        #[prost(double, repeated, tag = "10")]
        pub(super) negative_counts: Vec<f64>,
        #[prost(message, repeated, tag = "11")]
        pub(super) positive_spans: Vec<Span>,
        #[prost(sint64, repeated, tag = "12")]
        pub(super) positive_deltas: Vec<i64>,
        #[prost(double, repeated, tag = "13")]
        pub(super) positive_counts: Vec<f64>,
        #[prost(int32, tag = "14")]
        pub(super) reset_hint: i32,
        #[prost(int64, tag = "15")]
        pub(super) timestamp: i64,
        #[prost(double, repeated, tag = "16")]
        pub(super) custom_values: Vec<f64>,
        #[prost(int64, tag = "17")]
        pub(super) start_timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Request {
        #[prost(string, repeated, tag = "4")]
        pub(super) symbols: Vec<String>,
        #[prost(message, repeated, tag = "5")]
        pub(super) timeseries: Vec<TimeSeriesV2>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TimeSeriesV2 {
        #[prost(uint32, repeated, tag = "1")]
        pub(super) labels_refs: Vec<u32>,
        #[prost(message, repeated, tag = "2")]
        pub(super) samples: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub(super) histograms: Vec<Histogram>,
        #[prost(message, repeated, tag = "4")]
        pub(super) exemplars: Vec<ExemplarV2>,
        #[prost(message, optional, tag = "5")]
        pub(super) metadata: Option<MetadataV2>,
        #[prost(int64, tag = "6")]
        pub(super) created_timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ExemplarV2 {
        #[prost(uint32, repeated, tag = "1")]
        pub(super) labels_refs: Vec<u32>,
        #[prost(double, tag = "2")]
        pub(super) value: f64,
        #[prost(int64, tag = "3")]
        pub(super) timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MetadataV2 {
        #[prost(int32, tag = "1")]
        pub(super) metric_type: i32,
        #[prost(uint32, tag = "3")]
        pub(super) help_ref: u32,
        #[prost(uint32, tag = "4")]
        pub(super) unit_ref: u32,
    }
}

fn int_histogram() -> HistogramSample {
    HistogramSample {
        timestamp_ms: 1_700_000_000_000,
        start_timestamp_ms: 0,
        histogram: Histogram {
            counter_reset_hint: CounterResetHint::NotReset,
            schema: -2,
            zero_threshold: 1e-128,
            sum: 12.5,
            positive_spans: vec![Span { offset: -3, length: 2 }, Span { offset: 4, length: 1 }],
            negative_spans: vec![Span { offset: 0, length: 1 }],
            custom_values: vec![],
            buckets: Buckets::Int { count: 11, zero_count: 1, positive: vec![3, -1, 2], negative: vec![1] },
        },
    }
}

fn custom_histogram() -> HistogramSample {
    HistogramSample {
        timestamp_ms: -5,
        start_timestamp_ms: 0,
        histogram: Histogram {
            counter_reset_hint: CounterResetHint::Gauge,
            schema: CUSTOM_BUCKETS_SCHEMA,
            zero_threshold: 0.0,
            sum: f64::NAN,
            positive_spans: vec![Span { offset: 1, length: 2 }],
            negative_spans: vec![],
            custom_values: vec![0.5, 1.0],
            buckets: Buckets::Float {
                count: 7.5,
                zero_count: 0.0,
                positive: vec![1.5, 6.0],
                negative: vec![],
            },
        },
    }
}

/// All of a 1.0 request as text.
fn shown_v1(body: &[u8]) -> Result<String, DecodeError> {
    let mut out = String::new();
    let body = &v1::in_order(body)?;
    for entry in v1::entries(body) {
        match entry? {
            v1::Entry::Metadata(m) => out += &format!("{} {:?}\n", m.family, m.metadata),
            v1::Entry::Series(series) => {
                let label_bytes = series.label_bytes()?;
                assert_eq!(series.label_bytes_if(label_bytes.len()), Some(label_bytes));
                match decode_labels(label_bytes) {
                    Ok(labels) => out += &format!("{labels}\n"),
                    Err(error) => out += &format!("{error}\n"),
                }
                for point in series.points(label_bytes.len()) {
                    match point? {
                        v1::Point::Sample(s) => out += &format!("  {:?}\n", s),
                        v1::Point::Histogram(h) => out += &format!("  {:?}\n", h.decode()),
                        v1::Point::Exemplar(e) => out += &format!("  {:?}\n", e.decode()),
                        v1::Point::LateLabel => panic!("labels were put in order"),
                    }
                }
            }
        }
    }
    Ok(out)
}

/// All of a 2.0 request as text.
fn shown_v2(body: &[u8]) -> Result<String, DecodeError> {
    let mut out = String::new();
    let request = v2::Request::parse(body)?;
    for series in request.series() {
        let mut label_bytes = Vec::new();
        match series.write_label_bytes(&mut label_bytes, 1 << 20).and_then(|()| decode_labels(&label_bytes)) {
            Ok(labels) => out += &format!("{labels}\n"),
            Err(error) => out += &format!("{error}\n"),
        }
        for point in series.points() {
            match point? {
                v2::Point::Sample(s) => out += &format!("  {s:?}\n"),
                v2::Point::Histogram(h) => out += &format!("  {:?}\n", h.decode()),
                v2::Point::Exemplar(e) => out += &format!("  {:?}\n", e.decode()),
                v2::Point::Metadata(m) => out += &format!("  {:?}\n", m.decode()),
                v2::Point::SeriesStart(ms) => out += &format!("  start {ms}\n"),
            }
        }
    }
    Ok(out)
}

#[test]
fn a_request_of_version_1_is_read() {
    let labels = Labels::from_pairs([("__name__", "up"), ("job", "a")]);
    let histograms = [int_histogram(), custom_histogram()];
    let samples = [Sample { timestamp_ms: 1000, value: 1.5, start_timestamp_ms: 7 }];
    let exemplar =
        Exemplar { labels: Labels::from_pairs([("trace_id", "x")]), value: 2.0, timestamp_ms: 999 };
    let series = SeriesToWrite {
        labels: &labels,
        samples: &samples,
        histograms: &histograms,
        exemplars: std::slice::from_ref(&exemplar),
        metadata: None,
    };
    let metadata = Metadata { metric_type: MetricType::Counter, unit: "s".into(), help: "Help".into() };
    let mut encoder = EncoderV1::default();
    encoder.series(&series);
    encoder.metadata("up", &metadata);
    let body = encoder.finish();
    assert_eq!(oracle::WriteRequest::decode(&*body).unwrap().encode_to_vec(), body, "encoded as prost does");
    expect![[r#"
        {__name__="up", job="a"}
          Sample { timestamp_ms: 1000, value: 1.5, start_timestamp_ms: 0 }
          Ok(Exemplar { labels: {trace_id="x"}, value: 2.0, timestamp_ms: 999 })
          Ok(HistogramSample { timestamp_ms: 1700000000000, histogram: Histogram { counter_reset_hint: NotReset, schema: -2, zero_threshold: 1e-128, sum: 12.5, positive_spans: [Span { offset: -3, length: 2 }, Span { offset: 4, length: 1 }], negative_spans: [Span { offset: 0, length: 1 }], custom_values: [], buckets: Int { count: 11, zero_count: 1, positive: [3, -1, 2], negative: [1] } }, start_timestamp_ms: 0 })
          Ok(HistogramSample { timestamp_ms: -5, histogram: Histogram { counter_reset_hint: Gauge, schema: -53, zero_threshold: 0.0, sum: NaN, positive_spans: [Span { offset: 1, length: 2 }], negative_spans: [], custom_values: [0.5, 1.0], buckets: Float { count: 7.5, zero_count: 0.0, positive: [1.5, 6.0], negative: [] } }, start_timestamp_ms: 0 })
        up Metadata { metric_type: Counter, unit: "s", help: "Help" }
    "#]].assert_eq(&shown_v1(&body).unwrap());

    let mut encoder = EncoderV2::default();
    encoder.series(&SeriesToWrite { metadata: Some(&metadata), ..series });
    let body = encoder.finish();
    assert_eq!(oracle::Request::decode(&*body).unwrap().encode_to_vec(), body, "encoded as prost does");
    expect![[r#"
        {__name__="up", job="a"}
          Sample { timestamp_ms: 1000, value: 1.5, start_timestamp_ms: 7 }
          Ok(HistogramSample { timestamp_ms: 1700000000000, histogram: Histogram { counter_reset_hint: NotReset, schema: -2, zero_threshold: 1e-128, sum: 12.5, positive_spans: [Span { offset: -3, length: 2 }, Span { offset: 4, length: 1 }], negative_spans: [Span { offset: 0, length: 1 }], custom_values: [], buckets: Int { count: 11, zero_count: 1, positive: [3, -1, 2], negative: [1] } }, start_timestamp_ms: 0 })
          Ok(HistogramSample { timestamp_ms: -5, histogram: Histogram { counter_reset_hint: Gauge, schema: -53, zero_threshold: 0.0, sum: NaN, positive_spans: [Span { offset: 1, length: 2 }], negative_spans: [], custom_values: [0.5, 1.0], buckets: Float { count: 7.5, zero_count: 0.0, positive: [1.5, 6.0], negative: [] } }, start_timestamp_ms: 0 })
          Ok(Exemplar { labels: {trace_id="x"}, value: 2.0, timestamp_ms: 999 })
          Ok(Metadata { metric_type: Counter, unit: "s", help: "Help" })
    "#]].assert_eq(&shown_v2(&body).unwrap());
}

#[test]
fn labels_that_name_no_series_are_told() {
    let check = |pairs: &[(&str, &str)], expected: &str| {
        let label =
            |(name, value): &(&str, &str)| oracle::Label { name: name.to_string(), value: value.to_string() };
        let series = oracle::TimeSeries { labels: pairs.iter().map(label).collect(), ..Default::default() };
        let body = oracle::WriteRequest { timeseries: vec![series], ..Default::default() }.encode_to_vec();
        assert_eq!(shown_v1(&body).unwrap().trim_end(), expected);
    };
    check(&[("a", "1"), ("__name__", "x")], r#"{__name__="x", a="1"}"#);
    check(&[("__name__", "x"), ("a", "")], r#"{__name__="x"}"#);
    check(&[("a", "1")], r#"the series has no metric name, got {a="1"}"#);
    check(&[("__name__", "")], "the series has no metric name, got {}");
    check(&[], "the series has no metric name, got {}");
    check(&[("__name__", "x"), ("", "1")], "the series has a label without name");
    check(&[("__name__", "x"), ("a", "1"), ("a", "1")], "the series has label \"a\" twice");
    let broken = b"\x0a\x10\x0a\x0e\x0a\x08__name__\x12\x02\xff\xfe";
    assert_eq!(shown_v1(broken).unwrap().trim_end(), "the series has a label that is not valid UTF-8");
}

#[test]
fn references_that_lead_nowhere_are_told() {
    let check = |refs: &[u32], expected: &str| {
        let symbols = ["", "__name__", "up"].map(str::to_owned).to_vec();
        let series =
            oracle::TimeSeriesV2 { labels_refs: refs.to_vec(), created_timestamp: 5, ..Default::default() };
        let body = oracle::Request { symbols, timeseries: vec![series] }.encode_to_vec();
        assert_eq!(shown_v2(&body).unwrap(), format!("{expected}\n  start 5\n"));
    };
    check(&[1, 2], r#"{__name__="up"}"#);
    check(&[1, 2, 3, 1], "the series refers to symbol 3, but there are 3");
    check(&[1, 2, 1], "the series has 3 label references, which is not a multiple of two");
    check(&[1, 0], "the series has no metric name, got {}");
}

#[test]
fn few_references_to_long_symbols_take_no_memory() {
    let symbols = vec![String::new(), "n".repeat(1000)];
    let series = oracle::TimeSeriesV2 { labels_refs: vec![1; 10_000], ..Default::default() };
    let body = oracle::Request { symbols, timeseries: vec![series] }.encode_to_vec();
    let request = v2::Request::parse(&body).unwrap();
    let mut out = Vec::new();
    let result = request.series().next().unwrap().write_label_bytes(&mut out, 5000);
    assert_eq!(result, Err(LabelsError::TooLong { max: 5000 }));
    assert!(out.len() <= 5000);
}

#[test]
fn labels_behind_points_are_put_in_order() {
    // A sample record, then a label record.
    let series = b"\x12\x09\x09\0\0\0\0\0\0\xf0\x3f\x0a\x0d\x0a\x08__name__\x12\x01x";
    let mut body = vec![0x0a, series.len() as u8];
    body.extend_from_slice(series);
    expect![[r#"
        {__name__="x"}
          Sample { timestamp_ms: 0, value: 1.0, start_timestamp_ms: 0 }
    "#]]
    .assert_eq(&shown_v1(&body).unwrap());
    let Some(Ok(v1::Entry::Series(series))) = v1::entries(&body).next() else { panic!("a series") };
    assert!(series.points(0).any(|point| matches!(point, Ok(v1::Point::LateLabel))));
}

#[test]
fn a_guess_must_be_the_whole_of_the_labels() {
    let request = |pairs: &[(&str, &str)]| {
        let labels = Labels::from_pairs(pairs.iter().copied());
        let mut encoder = EncoderV1::default();
        encoder.series(&SeriesToWrite::floats(&labels, &[Sample::default()]));
        encoder.finish()
    };
    let (short, long) = (request(&[("__name__", "x")]), request(&[("__name__", "x"), ("a", "1")]));
    let series = |body| match v1::entries(body).next() {
        Some(Ok(v1::Entry::Series(series))) => series,
        other => panic!("{other:?}"),
    };
    let guess = series(&short).label_bytes().unwrap();
    assert_eq!(series(&short).label_bytes_if(guess.len()), Some(guess));
    assert_eq!(series(&long).label_bytes_if(guess.len()), None, "x is not x with another label");
    let longer = series(&long).label_bytes().unwrap();
    assert_ne!(series(&short).label_bytes_if(longer.len()), Some(longer));
}

#[test]
fn histograms_that_make_no_sense_are_refused() {
    let check = |change: fn(&mut Histogram), expected: Expect| {
        let mut histogram = int_histogram().histogram;
        change(&mut histogram);
        expected.assert_eq(&match validate_histogram(&histogram) {
            Ok(()) => "fine".to_owned(),
            Err(error) => error.to_string(),
        });
    };
    check(|_| {}, expect!["fine"]);
    check(|h| h.schema = 9, expect!["histogram schema 9 is neither in -4 to 8 nor -53"]);
    check(
        |h| h.positive_spans[0].length = 3,
        expect!["histogram has 3 buckets on the positive side, but its spans need 4"],
    );
    check(
        |h| h.positive_spans[0].length = u32::MAX,
        expect!["histogram has 3 buckets on the positive side, but its spans need 4294967296"],
    );
    check(
        |h| h.negative_spans.clear(),
        expect!["histogram has 1 buckets on the negative side, but its spans need 0"],
    );
    check(
        |h| h.positive_spans[1].offset = -1,
        expect!["histogram has a negative offset in span 2 on the positive side"],
    );
    check(|h| h.custom_values = vec![1.0], expect!["histogram mixes custom and exponential buckets"]);
    check(
        |h| {
            h.buckets = Buckets::Int { count: 12, zero_count: 1, positive: vec![3, -1, 2], negative: vec![1] }
        },
        expect!["histogram has 11 observations in its buckets, but its count is 12"],
    );
    check(
        |h| {
            h.buckets = Buckets::Int { count: 12, zero_count: 1, positive: vec![3, -4, 2], negative: vec![1] }
        },
        expect!["histogram has a negative count in bucket 2 on the positive side"],
    );
    check(
        |h| {
            h.buckets = Buckets::Float {
                count: 9.0,
                zero_count: 1.0,
                positive: vec![3.0, -1.0, 2.0],
                negative: vec![1.0],
            }
        },
        expect!["histogram has a negative count in bucket 2 on the positive side"],
    );
    check(|h| *h = custom_histogram().histogram, expect!["fine"]);
    check(
        |h| {
            *h = custom_histogram().histogram;
            h.custom_values[0] = 2.0
        },
        expect!["histogram has custom bounds that are not ascending finite numbers, or too few of them"],
    );
    check(
        |h| {
            *h = custom_histogram().histogram;
            h.positive_spans[0].offset = 2
        },
        expect!["histogram has custom bounds that are not ascending finite numbers, or too few of them"],
    );
    check(
        |h| {
            *h = custom_histogram().histogram;
            h.zero_threshold = 1.0
        },
        expect!["histogram mixes custom and exponential buckets"],
    );
}

#[test]
fn snappy_is_bounded_before_memory_is_taken() {
    let check = |body: &[u8], expected: Expect| {
        let mut out = vec![1, 2, 3];
        let result = snappy_decode(body, 1000, &mut out).map(|()| format!("{} bytes", out.len()));
        expected.assert_eq(&result.unwrap_or_else(|error| error.to_string()));
        assert!(out.capacity() <= 1000);
    };
    check(&snappy_encode(&[7; 1000]).unwrap(), expect!["1000 bytes"]);
    check(&snappy_encode(&[]).unwrap(), expect!["0 bytes"]);
    check(&snappy_encode(&[7; 1001]).unwrap(), expect!["the body unpacks to 1001 bytes, more than 1000"]);
    check(b"", expect!["the body is not snappy (block format): snappy: corrupt input (empty)"]);
    check(b"\xff\xff\xff\xff\x0f", expect!["the body unpacks to 4294967295 bytes, more than 1000"]);
    check(
        b"\xe8\x07abc",
        expect!["the body is not snappy (block format): 5 bytes cannot hold the declared 1000"],
    );
    check(
        b"\x05hello",
        expect![
            "the body is not snappy (block format): snappy: corrupt input (expected literal read of length 27; remaining src: 4; remaining dst: 5)"
        ],
    );
}

fn any_labels() -> impl Strategy<Value = Labels> {
    prop::collection::vec(("[a-z_]{1,6}", "\\PC{0,140}"), 0..6).prop_map(Labels::from_pairs)
}

fn any_sample() -> impl Strategy<Value = Sample> {
    (any::<i64>(), any::<u64>(), any::<i64>()).prop_map(|(timestamp_ms, bits, start_timestamp_ms)| Sample {
        timestamp_ms,
        value: f64::from_bits(bits),
        start_timestamp_ms,
    })
}

fn any_exemplar() -> impl Strategy<Value = Exemplar> {
    (any_labels(), any::<u64>().prop_map(f64::from_bits), any::<i64>())
        .prop_map(|(labels, value, timestamp_ms)| Exemplar { labels, value, timestamp_ms })
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    (
        prop::sample::select(vec![MetricType::Unknown, MetricType::Counter, MetricType::StateSet]),
        "[a-z]{0,3}",
        "\\PC{0,200}",
    )
        .prop_map(|(metric_type, unit, help)| Metadata { metric_type, unit, help })
}

/// A series with everything it may have.
type Everything = (Labels, Vec<Sample>, Vec<bool>, Vec<Exemplar>, Option<Metadata>);

fn any_series() -> impl Strategy<Value = Everything> {
    (
        any_labels(),
        prop::collection::vec(any_sample(), 0..4),
        prop::collection::vec(any::<bool>(), 0..3),
        prop::collection::vec(any_exemplar(), 0..3),
        prop::option::of(any_metadata()),
    )
}

/// A clear and known series take the memory of requests before; they leave no trace in the bytes.
fn check_reuse(requests: &[Vec<Everything>], forget_at: usize) {
    let (mut first, mut second) = (EncoderV1::default(), EncoderV2::default());
    let mut known = std::collections::HashMap::new();
    for (at, request) in requests.iter().enumerate() {
        let (mut fresh_first, mut fresh_second) = (EncoderV1::default(), EncoderV2::default());
        first.clear();
        second.clear();
        if at == forget_at {
            second.forget();
        }
        for (labels, samples, histograms, exemplars, metadata) in request {
            let histograms: Vec<_> = histograms
                .iter()
                .map(|int| if *int { int_histogram() } else { custom_histogram() })
                .collect();
            let series = SeriesToWrite {
                labels,
                samples,
                histograms: &histograms,
                exemplars,
                metadata: metadata.as_ref(),
            };
            fresh_first.series(&series);
            fresh_second.series(&series);
            let mut label_bytes = Vec::new();
            write_label_bytes(labels, &mut label_bytes);
            first.prepared_series(&label_bytes, &series.points());
            let key = (labels.clone(), metadata.clone());
            let prepared = known.entry(key).or_insert_with(|| second.know(labels, metadata.as_ref()));
            if !second.known_series(prepared, &series.points()) {
                assert!(at >= forget_at, "known since before it was forgotten");
                *prepared = second.know(labels, metadata.as_ref());
                assert!(second.known_series(prepared, &series.points()));
            }
        }
        assert_eq!(first.size(), first.bytes().len());
        assert_eq!(first.bytes(), fresh_first.finish());
        let (again, fresh) = (second.bytes().to_vec(), fresh_second.finish());
        assert_eq!(again, fresh);
        assert_eq!(oracle::Request::decode(&*again).unwrap().encode_to_vec(), again, "as prost does");
        assert_eq!(oracle::WriteRequest::decode(first.bytes()).unwrap().encode_to_vec(), first.bytes());
        let mut packed = vec![1];
        snappy_encode_into(&again, &mut packed).unwrap();
        assert_eq!(packed, snappy_encode(&again).unwrap());
        check_read(request, first.bytes(), &again);
    }
}

/// Whether both requests say what `series` say.
fn check_read(series: &[Everything], first: &[u8], second: &[u8]) {
    let mut said = (String::new(), String::new());
    for (labels, samples, histograms, exemplars, metadata) in series {
        let name = match labels.get("__name__") {
            Some(_) => labels.to_string(),
            None => format!("the series has no metric name, got {labels}"),
        };
        let mut one = [format!("{name}\n"), format!("{name}\n")];
        for sample in samples {
            one[0] += &format!("  {:?}\n", Sample { start_timestamp_ms: 0, ..*sample });
            one[1] += &format!("  {sample:?}\n");
        }
        let exemplars: String = exemplars.iter().map(|e| format!("  {:?}\n", Ok::<_, ()>(e))).collect();
        let histograms: String = histograms
            .iter()
            .map(|int| if *int { int_histogram() } else { custom_histogram() })
            .map(|h| format!("  {:?}\n", Ok::<_, ()>(h)))
            .collect();
        one[0] += &format!("{exemplars}{histograms}");
        one[1] += &format!("{histograms}{exemplars}");
        if let Some(metadata) = metadata {
            one[1] += &format!("  {:?}\n", Ok::<_, ()>(metadata));
        }
        said.0 += &one[0];
        said.1 += &one[1];
    }
    assert_eq!((shown_v1(first).unwrap(), shown_v2(second).unwrap()), said);
}

proptest! {
    #[test]
    fn memory_of_requests_before_leaves_no_trace(
        requests in prop::collection::vec(prop::collection::vec(any_series(), 0..4), 0..4),
        forget_at in 0usize..4,
    ) {
        check_reuse(&requests, forget_at);
    }

    #[test]
    fn nothing_panics_on_anything(mut bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), byte in any::<u8>()) {
        let _ = shown_v1(&bytes);
        let _ = shown_v2(&bytes);
        let _ = HistogramMessage(&bytes).decode();
        let _ = snappy_decode(&bytes, 1 << 16, &mut Vec::new());
        // Nearly right messages reach deeper.
        let labels = Labels::from_pairs([("__name__", "x")]);
        let mut encoder = EncoderV1::default();
        encoder.series(&SeriesToWrite { histograms: &[int_histogram()], ..SeriesToWrite::floats(&labels, &[]) });
        bytes = encoder.finish();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = shown_v1(&bytes);
        let mut encoder = EncoderV2::default();
        encoder.series(&SeriesToWrite { histograms: &[custom_histogram()], ..SeriesToWrite::floats(&labels, &[]) });
        bytes = encoder.finish();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = shown_v2(&bytes);
    }

    #[test]
    fn what_is_written_is_read(series in prop::collection::vec((any_labels(), prop::collection::vec(any_sample(), 0..4)), 0..5)) {
        let (mut first, mut second) = (EncoderV1::default(), EncoderV2::default());
        for (labels, samples) in &series {
            first.series(&SeriesToWrite::floats(labels, samples));
            second.series(&SeriesToWrite::floats(labels, samples));
        }
        let (first, second) = (first.finish(), second.finish());
        let prost_first = oracle::WriteRequest::decode(&*first).unwrap();
        let prost_second = oracle::Request::decode(&*second).unwrap();
        prop_assert_eq!(&prost_second.encode_to_vec(), &second);
        let mut read = Vec::new();
        for entry in v1::entries(&first) {
            let v1::Entry::Series(series) = entry.unwrap() else { panic!("no metadata was written") };
            let label_bytes = series.label_bytes().unwrap();
            let samples: Vec<_> = series.points(label_bytes.len()).map(|point| match point.unwrap() {
                v1::Point::Sample(sample) => (sample.timestamp_ms, sample.value.to_bits(), 0),
                other => panic!("{other:?}"),
            }).collect();
            read.push((labels::decode_any_labels(label_bytes).unwrap(), samples));
        }
        for ((labels, samples), read) in series.iter().zip(&read) {
            prop_assert_eq!(labels, &read.0);
            let expected: Vec<_> = samples.iter().map(|s| (s.timestamp_ms, s.value.to_bits(), 0)).collect();
            prop_assert_eq!(&expected, &read.1);
        }
        prop_assert_eq!(prost_first.timeseries.len(), read.len());
        let request = v2::Request::parse(&second).unwrap();
        for ((labels, samples), read) in series.iter().zip(request.series()) {
            let mut label_bytes = Vec::new();
            read.write_label_bytes(&mut label_bytes, 1 << 20).unwrap();
            prop_assert_eq!(labels, &labels::decode_any_labels(&label_bytes).unwrap());
            let points: Vec<_> = read.points().map(|point| match point.unwrap() {
                v2::Point::Sample(s) => (s.timestamp_ms, s.value.to_bits(), s.start_timestamp_ms),
                other => panic!("{other:?}"),
            }).collect();
            let expected: Vec<_> = samples.iter().map(|s| (s.timestamp_ms, s.value.to_bits(), s.start_timestamp_ms)).collect();
            prop_assert_eq!(&expected, &points);
        }
    }
}
