use super::*;

fn matcher(op: MatchOp, name: &str, value: &str) -> Matcher {
    Matcher::new(op, name, value).expect("a matcher")
}

/// What a matcher, being no `PartialEq`, prints.
fn shown(request: &ReadRequest) -> String {
    format!("{request:?}")
}

#[test]
fn requests_go_both_ways() {
    let hints = ReadHints {
        step_ms: 15_000,
        func: "rate".into(),
        start_ms: -5,
        end_ms: 7,
        grouping: vec!["job".into(), "instance".into()],
        by: true,
        range_ms: 300_000,
    };
    let query = ReadQuery {
        start_ms: -1_000,
        end_ms: i64::MAX,
        matchers: vec![
            matcher(MatchOp::Equal, "__name__", "up"),
            matcher(MatchOp::NotEqual, "job", ""),
            matcher(MatchOp::Regex, "instance", "a.*"),
            matcher(MatchOp::NotRegex, "http.status", "5.."),
        ],
        hints: Some(hints),
    };
    let request = ReadRequest { queries: vec![query, ReadQuery::default()], accepted: vec![1, 0] };
    let decoded = ReadRequest::decode(&request.encode()).expect("a request");
    assert_eq!(shown(&decoded), shown(&request));
    assert_eq!(shown(&ReadRequest::decode(b"").expect("nothing")), shown(&ReadRequest::default()));
}

#[test]
fn the_first_known_form_of_an_answer_is_taken() {
    for (accepted, expected) in [
        (vec![], Some(ResponseType::Samples)),
        (vec![0], Some(ResponseType::Samples)),
        (vec![1, 0], Some(ResponseType::StreamedXorChunks)),
        (vec![7, 1], Some(ResponseType::StreamedXorChunks)),
        (vec![7], None),
    ] {
        let request = ReadRequest { accepted: accepted.clone(), ..ReadRequest::default() };
        assert_eq!(request.response_type().ok(), expected, "{accepted:?}");
    }
}

#[test]
fn what_is_no_request_is_refused_with_a_reason() {
    let query = |inner: &[u8]| [&[0x0a, inner.len() as u8][..], inner].concat();
    let matcher = |inner: &[u8]| query(&[&[0x1a, inner.len() as u8][..], inner].concat());
    for (name, bytes, expected) in [
        ("a cut message", vec![0x0a, 5, 1], "ReadRequest ends within a field"),
        (
            "a number for a query",
            vec![0x08, 1],
            "ReadRequest has a field of another type than its schema gives it",
        ),
        ("a matcher of kind 4", matcher(&[0x08, 4]), "invalid matcher type"),
        ("a name that is not UTF-8", matcher(&[0x12, 1, 0xff]), "a label name is not valid UTF-8"),
        ("a value that is not UTF-8", matcher(&[0x1a, 1, 0xff]), "a label value is not valid UTF-8"),
        (
            "a pattern that is none",
            matcher(&[0x08, 2, 0x12, 1, b'a', 0x1a, 1, b'(']),
            "error parsing regexp: missing closing ): `(`",
        ),
        ("too many queries", query(b"").repeat(1001), "ReadRequest has more than 1000 queries"),
        ("too many forms", [0x10, 1].repeat(1001), "ReadRequest has more than 1000 response types"),
    ] {
        let error = ReadRequest::decode(&bytes).expect_err(name);
        assert_eq!(error.to_string(), expected, "{name}");
    }
}

/// As `prompb/types.proto` and `remote.proto` have them, less what is not looked at.
mod schema {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ReadResponse {
        #[prost(message, repeated, tag = "1")]
        pub(super) results: Vec<QueryResult>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct QueryResult {
        #[prost(message, repeated, tag = "1")]
        pub(super) timeseries: Vec<TimeSeries>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub(super) labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub(super) samples: Vec<Sample>,
        #[prost(message, repeated, tag = "4")]
        pub(super) histograms: Vec<Histogram>,
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
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Histogram {
        #[prost(double, tag = "2")]
        pub(super) count_float: f64,
        #[prost(int64, tag = "15")]
        pub(super) timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ChunkedReadResponse {
        #[prost(message, repeated, tag = "1")]
        pub(super) chunked_series: Vec<ChunkedSeries>,
        #[prost(int64, tag = "2")]
        pub(super) query_index: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ChunkedSeries {
        #[prost(message, repeated, tag = "1")]
        pub(super) labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub(super) chunks: Vec<Chunk>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Chunk {
        #[prost(int64, tag = "1")]
        pub(super) min_time_ms: i64,
        #[prost(int64, tag = "2")]
        pub(super) max_time_ms: i64,
        #[prost(int32, tag = "3")]
        pub(super) encoding: i32,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) data: Vec<u8>,
    }
}

use prost::Message as _;

fn labels() -> Labels {
    Labels::from_pairs([("__name__", "up"), ("job", "a")])
}

fn label_messages() -> Vec<schema::Label> {
    [("__name__", "up"), ("job", "a")]
        .map(|(name, value)| schema::Label { name: name.into(), value: value.into() })
        .to_vec()
}

#[test]
fn samples_are_what_the_schema_reads() {
    let labels = labels();
    let times = [i64::MIN, -1, 0, 1, 127, 128, 1_700_000_000_000, i64::MAX];
    let values = [0.0, -0.0, 1.5, f64::INFINITY, 1e-300, -2.0, 3.0, 0.0];
    let mut encoder = SamplesEncoder::default();
    encoder.series(&SeriesRead { labels: &labels, times: &times, values: &values, histograms: &[] });
    let histograms = [(9, Arc::new(Histogram::stale()))];
    encoder.series(&SeriesRead { labels: &labels, times: &[], values: &[], histograms: &histograms });
    encoder.end_query();
    encoder.end_query();
    let response = schema::ReadResponse::decode(&encoder.finish()[..]).expect("a response");
    assert_eq!(response.results.len(), 2);
    assert!(response.results[1].timeseries.is_empty());
    let [floats, histogram] = &response.results[0].timeseries[..] else { panic!("two series") };
    assert_eq!(floats.labels, label_messages());
    let read: Vec<(i64, u64)> = floats.samples.iter().map(|s| (s.timestamp, s.value.to_bits())).collect();
    let expected: Vec<(i64, u64)> =
        times.iter().zip(values).map(|(time, value)| (*time, value.to_bits())).collect();
    assert_eq!(read, expected);
    assert_eq!(histogram.histograms, [schema::Histogram { count_float: 0.0, timestamp: 9 }]);
}

#[test]
fn frames_have_length_checksum_and_message() {
    let chunk = ChunkRead { min_ms: 5, max_ms: 9, encoding: 2, data: vec![7; 200], starts: vec![] };
    let mut out = vec![0xaa];
    write_chunk_frame(&mut out, 3, &labels(), &[chunk.clone(), ChunkRead { encoding: 1, ..chunk }]);
    assert_eq!(out[0], 0xaa, "what was there stays");
    let len = usize::from(out[1] & 0x7f) | usize::from(out[2]) << 7;
    let (sum, message) = out[3..].split_at(4);
    assert_eq!(message.len(), len);
    assert_eq!(sum, crc32c::crc32c(message).to_be_bytes());
    let read = schema::ChunkedReadResponse::decode(message).expect("a message");
    assert_eq!(read.query_index, 3);
    assert_eq!(read.chunked_series[0].labels, label_messages());
    let chunk = |encoding| schema::Chunk { min_time_ms: 5, max_time_ms: 9, encoding, data: vec![7; 200] };
    assert_eq!(read.chunked_series[0].chunks, [chunk(2), chunk(1)]);
}
