use std::fmt::Write as _;

use expect_test::expect;
use model::histogram::CounterResetHint;

use super::*;

#[test]
fn the_best_format_is_taken() {
    let check = |accept: &str, expected: &str| {
        assert_eq!(Format::negotiate(accept).content_type(), expected, "{accept}")
    };
    let usual = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    for accept in
        ["", "*/*", "text/html", "text/plain", "text/plain;version=0.0.3", "a;q=x", "text/plain;q=0"]
    {
        check(accept, usual);
    }
    check(
        "text/plain;version=1.0.0;escaping=allow-utf-8",
        "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
    );
    check(
        "text/plain; version=\"0.0.4\"; escaping=dots",
        "text/plain; version=0.0.4; charset=utf-8; escaping=dots",
    );
    check("text/plain;escaping=nonsense", usual);
    check(
        "application/openmetrics-text;version=1.0.0;q=0.4,application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,*/*;q=0.1",
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; escaping=underscores",
    );
    check("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text", usual);
    check(
        "text/plain;q=0.5,application/openmetrics-text;version=1.0.0;escaping=values;q=0.5,application/openmetrics-text;version=0.0.1;q=0.75",
        "application/openmetrics-text; version=0.0.1; charset=utf-8; escaping=underscores",
    );
}

#[test]
fn names_are_spelled_as_asked() {
    for (name, underscores, dots, values) in [
        ("up", "up", "up", "up"),
        ("a_b:c", "a_b:c", "a__b:c", "a_b:c"),
        ("http.status", "http_status", "http_dot_status", "U__http_2e_status"),
        ("1st", "_st", "__st", "U___31_st"),
        ("tide_\u{1f600}", "tide__", "tide____", "U__tide___1f600_"),
        ("", "", "", ""),
    ] {
        assert_eq!(escape_name(name, EscapingScheme::AllowUtf8), name);
        assert_eq!(escape_name(name, EscapingScheme::Underscores), underscores, "{name}");
        assert_eq!(escape_name(name, EscapingScheme::Dots), dots, "{name}");
        assert_eq!(escape_name(name, EscapingScheme::Values), values, "{name}");
    }
}

fn custom() -> Histogram {
    Histogram {
        schema: CUSTOM_BUCKETS_SCHEMA,
        sum: 7.5,
        positive_spans: vec![Span { offset: 0, length: 1 }, Span { offset: 1, length: 2 }],
        custom_values: vec![0.5, 1.0, 2.5],
        buckets: Buckets::Int { count: 6, zero_count: 0, positive: vec![1, 1, 1], negative: vec![] },
        ..Histogram::stale()
    }
}

fn native() -> Histogram {
    Histogram {
        counter_reset_hint: CounterResetHint::Gauge,
        schema: -2,
        zero_threshold: 0.25,
        sum: 3.0,
        negative_spans: vec![Span { offset: -3, length: 1 }],
        positive_spans: vec![Span { offset: 2, length: 2 }],
        buckets: Buckets::Int { count: 9, zero_count: 1, positive: vec![3, -1], negative: vec![3] },
        ..Histogram::stale()
    }
}

fn written(protocol: Protocol, escaping: EscapingScheme) -> Vec<u8> {
    let mut writer = FederationWriter::new(Format { protocol, escaping });
    let (custom, native) = (custom(), native());
    writer.sample(
        "http.requests",
        &[("job", "a\"b"), ("zone.id", "x"), ("instance", "")],
        -1_500,
        Latest::Float(2.5),
    );
    writer.sample("http.requests", &[("job", "c")], 1_000, Latest::Float(f64::NAN));
    writer.sample("seconds", &[("job", "a")], 2_000, Latest::Histogram(&custom));
    writer.sample("seconds", &[("job", "a")], 2_000, Latest::Histogram(&native));
    writer.sample("seconds", &[("job", "b")], 2_000, Latest::Float(1.0));
    writer.finish()
}

#[test]
fn text() {
    let text =
        String::from_utf8(written(Protocol::PrometheusText0_0_4, EscapingScheme::Underscores)).expect("text");
    expect![[r#"
        # TYPE http_requests untyped
        http_requests{job="a\"b",zone_id="x",instance=""} 2.5 -1500
        http_requests{job="c"} NaN 1000
        # TYPE seconds histogram
        seconds_bucket{job="a",le="0.5"} 1 2000
        seconds_bucket{job="a",le="1"} 1 2000
        seconds_bucket{job="a",le="2.5"} 3 2000
        seconds_bucket{job="a",le="+Inf"} 6 2000
        seconds_sum{job="a"} 7.5 2000
        seconds_count{job="a"} 6 2000
        # TYPE seconds untyped
        seconds{job="b"} 1 2000
    "#]]
    .assert_eq(&text);
}

#[test]
fn open_metrics() {
    let text =
        String::from_utf8(written(Protocol::OpenMetricsText1_0_0, EscapingScheme::AllowUtf8)).expect("text");
    expect![[r#"
        # TYPE "http.requests" unknown
        {"http.requests",job="a\"b","zone.id"="x",instance=""} 2.5 -1.500
        {"http.requests",job="c"} NaN 1.000
        # TYPE seconds histogram
        seconds_bucket{job="a",le="0.5"} 1 2.000
        seconds_bucket{job="a",le="1"} 1 2.000
        seconds_bucket{job="a",le="2.5"} 3 2.000
        seconds_bucket{job="a",le="+Inf"} 6 2.000
        seconds_sum{job="a"} 7.5 2.000
        seconds_count{job="a"} 6 2.000
        # TYPE seconds unknown
        seconds{job="b"} 1 2.000
        # EOF
    "#]]
    .assert_eq(&text);
}

/// As client_model's `metrics.proto` has them, as far as they are written here.
mod schema {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MetricFamily {
        #[prost(string, optional, tag = "1")]
        pub(super) name: Option<String>,
        #[prost(int32, optional, tag = "3")]
        pub(super) kind: Option<i32>,
        #[prost(message, repeated, tag = "4")]
        pub(super) metric: Vec<Metric>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Metric {
        #[prost(message, repeated, tag = "1")]
        pub(super) label: Vec<Label>,
        #[prost(message, optional, tag = "5")]
        pub(super) untyped: Option<Untyped>,
        #[prost(int64, optional, tag = "6")]
        pub(super) timestamp_ms: Option<i64>,
        #[prost(message, optional, tag = "7")]
        pub(super) histogram: Option<Histogram>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Label {
        #[prost(string, optional, tag = "1")]
        pub(super) name: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub(super) value: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Untyped {
        #[prost(double, optional, tag = "1")]
        pub(super) value: Option<f64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Histogram {
        #[prost(double, optional, tag = "2")]
        pub(super) sample_sum: Option<f64>,
        #[prost(message, repeated, tag = "3")]
        pub(super) bucket: Vec<Bucket>,
        #[prost(double, optional, tag = "4")]
        pub(super) sample_count_float: Option<f64>,
        #[prost(sint32, optional, tag = "5")]
        pub(super) schema: Option<i32>,
        #[prost(double, optional, tag = "6")]
        pub(super) zero_threshold: Option<f64>,
        #[prost(double, optional, tag = "8")]
        pub(super) zero_count_float: Option<f64>,
        #[prost(message, repeated, tag = "9")]
        pub(super) negative_span: Vec<BucketSpan>,
        #[prost(double, repeated, packed = "false", tag = "11")]
        pub(super) negative_count: Vec<f64>,
        #[prost(message, repeated, tag = "12")]
        pub(super) positive_span: Vec<BucketSpan>,
        #[prost(double, repeated, packed = "false", tag = "14")]
        pub(super) positive_count: Vec<f64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct BucketSpan {
        #[prost(sint32, optional, tag = "1")]
        pub(super) offset: Option<i32>,
        #[prost(uint32, optional, tag = "2")]
        pub(super) length: Option<u32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Bucket {
        #[prost(double, optional, tag = "2")]
        pub(super) upper_bound: Option<f64>,
        #[prost(double, optional, tag = "4")]
        pub(super) cumulative_count_float: Option<f64>,
    }
}

#[test]
fn protobuf() {
    use prost::Message as _;
    let bytes = written(Protocol::PrometheusProto, EscapingScheme::Dots);
    let (mut rest, mut shown) = (&bytes[..], String::new());
    while !rest.is_empty() {
        let family = schema::MetricFamily::decode_length_delimited(&mut rest).expect("a family");
        writeln!(shown, "{:?} {:?}", family.name.unwrap(), family.kind.unwrap()).unwrap();
        for metric in family.metric {
            let labels: Vec<String> = metric
                .label
                .into_iter()
                .map(|l| format!("{}={}", l.name.unwrap(), l.value.unwrap()))
                .collect();
            write!(shown, "  {} @{}", labels.join(" "), metric.timestamp_ms.unwrap()).unwrap();
            if let Some(untyped) = metric.untyped {
                write!(shown, " {:?}", untyped.value.unwrap()).unwrap();
            }
            if let Some(h) = metric.histogram {
                let spans = |spans: &[schema::BucketSpan]| -> Vec<(i32, u32)> {
                    spans.iter().map(|s| (s.offset.unwrap(), s.length.unwrap())).collect()
                };
                let buckets: Vec<(f64, f64)> = h
                    .bucket
                    .iter()
                    .map(|b| (b.upper_bound.unwrap(), b.cumulative_count_float.unwrap()))
                    .collect();
                write!(
                    shown,
                    " sum {:?} count {:?} schema {:?} zero {:?} {:?} -{:?} {:?} +{:?} {:?} {buckets:?}",
                    h.sample_sum.unwrap(),
                    h.sample_count_float.unwrap(),
                    h.schema,
                    h.zero_threshold,
                    h.zero_count_float,
                    spans(&h.negative_span),
                    h.negative_count,
                    spans(&h.positive_span),
                    h.positive_count,
                )
                .unwrap();
            }
            shown.push('\n');
        }
    }
    expect![[r#"
        "http_dot_requests" 3
          job=a"b zone_dot_id=x instance= @-1500 2.5
          job=c @1000 NaN
        "seconds" 4
          job=a @2000 sum 7.5 count 6.0 schema None zero None None -[] [] +[] [] [(0.5, 1.0), (1.0, 1.0), (2.5, 3.0)]
        "seconds" 5
          job=a @2000 sum 3.0 count 9.0 schema Some(-2) zero Some(0.25) Some(1.0) -[(-3, 1)] [3.0] +[(2, 2)] [3.0, 2.0] []
        "seconds" 3
          job=b @2000 1.0
    "#]]
    .assert_eq(&shown);
}
