//! Remote read, as another system does it.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use blocks::{Encoding, Samples};
use http::Request;
use model::{Labels, MatchOp, Matcher, SourceId, TenantId};
use prost::Message;
use storage::{Appender, Batch, MemoryStore, Policy, Row, SourceDesc};
use wire::remote_read::{FrameReader, ReadHints, ReadQuery, ReadRequest, START_TIMES, read_starts};
use wire::remote_write::{snappy_decode, snappy_encode};

use super::fixture::{Fixture, Setup};

/// Prometheus' `prompb/remote.proto` and `types.proto`, as far as they are read here.
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

const ROWS: i64 = 300;

/// Labels and samples.
type Shown = (String, Vec<(i64, f64)>);

/// `tide{buoy="a"}` and `tide{buoy="b"}`, 300 samples each, a second apart.
fn store() -> MemoryStore {
    let store = MemoryStore::new();
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(1), labels: Labels::empty() };
    let source = store.open_source(&desc).expect("open");
    let labels = ["a", "b"].map(|buoy| Labels::from_pairs([("__name__", "tide"), ("buoy", buoy)]));
    let series: Vec<_> = store.resolve(source, &labels).expect("resolve").into_iter().flatten().collect();
    for at in 0..ROWS {
        let values = [at as f64 / 4.0, -1.0];
        let row = Row::floats(source, at * 1000, &series, &values);
        store.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append");
    }
    store
}

fn query(start_ms: i64, end_ms: i64, conditions: &[(&str, &str)]) -> ReadQuery {
    let matcher =
        |(name, value): &(&str, &str)| Matcher::new(MatchOp::Equal, *name, *value).expect("a matcher");
    let hints = Some(ReadHints { func: "rate".into(), ..ReadHints::default() });
    ReadQuery { start_ms, end_ms, matchers: conditions.iter().map(matcher).collect(), hints }
}

/// Sends a body; status, content type and body of the answer.
async fn send(fixture: &Fixture, body: Vec<u8>) -> (u16, String, Vec<u8>) {
    let request = Request::post("/api/v1/read")
        .header("accept-encoding", "gzip")
        .header("content-encoding", "snappy")
        .body(Body::from(body));
    let response = fixture.response(request.expect("a request")).await;
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().expect("text").to_owned());
    let encoding = response.headers().get("content-encoding").map(|e| e.to_str().expect("text").to_owned());
    assert_ne!(encoding.as_deref(), Some("gzip"), "what is packed is not packed again");
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body").to_vec();
    (status, kind.unwrap_or_default(), body)
}

fn packed(request: &ReadRequest) -> Vec<u8> {
    snappy_encode(&request.encode()).expect("small")
}

fn names(labels: &[schema::Label]) -> String {
    labels.iter().map(|label| format!("{}={}", label.name, label.value)).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn samples_come_in_one_message() {
    let external_labels = Labels::from_pairs([("buoy", "none"), ("zone", "north")]);
    let fixture = Fixture::over(Arc::new(store()), Setup { external_labels, ..Setup::default() });
    let asked = vec![
        query(1_000, 3_000, &[("__name__", "tide"), ("zone", "north")]),
        query(0, 9_000, &[("__name__", "tide"), ("zone", "south")]),
        query(0, 500, &[("buoy", "b")]),
    ];
    for accepted in [vec![], vec![0], vec![5, 0, 1]] {
        let request = ReadRequest { queries: asked.clone(), accepted };
        let (status, kind, body) = send(&fixture, packed(&request)).await;
        assert_eq!((status, kind.as_str()), (200, "application/x-protobuf"));
        let mut message = Vec::new();
        snappy_decode(&body, usize::MAX, &mut message).expect("snappy");
        let response = schema::ReadResponse::decode(&message[..]).expect("a response");
        let shown: Vec<Vec<Shown>> = response
            .results
            .iter()
            .map(|result| {
                let series = result.timeseries.iter().map(|series| {
                    (names(&series.labels), series.samples.iter().map(|s| (s.timestamp, s.value)).collect())
                });
                series.collect()
            })
            .collect();
        let of = |buoy: &str, samples: &[(i64, f64)]| {
            (format!("__name__=tide,buoy={buoy},zone=north"), samples.to_vec())
        };
        let expected = vec![
            vec![
                of("a", &[(1_000, 0.25), (2_000, 0.5), (3_000, 0.75)]),
                of("b", &[(1_000, -1.0), (2_000, -1.0), (3_000, -1.0)]),
            ],
            vec![],
            vec![of("b", &[(0, -1.0)])],
        ];
        assert_eq!(shown, expected);
    }
}

/// The messages of a stream, checksums checked.
fn frames(mut body: &[u8]) -> Vec<schema::ChunkedReadResponse> {
    let mut frames = Vec::new();
    while !body.is_empty() {
        let len = prost::decode_length_delimiter(body).expect("a length");
        body = &body[prost::length_delimiter_len(len)..];
        let (sum, rest) = body.split_at(4);
        let (message, rest) = rest.split_at(len);
        assert_eq!(sum, crc32c::crc32c(message).to_be_bytes());
        frames.push(schema::ChunkedReadResponse::decode(message).expect("a message"));
        body = rest;
    }
    frames
}

#[tokio::test]
async fn chunks_come_in_frames_of_one_series() {
    let fixture = Fixture::over(Arc::new(store()), Setup::default());
    let queries = vec![query(0, 400_000, &[("buoy", "a")]), query(5_000, 6_000, &[("__name__", "tide")])];
    let request = ReadRequest { queries, accepted: vec![1, 0] };
    let (status, kind, body) = send(&fixture, packed(&request)).await;
    let expected = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
    assert_eq!((status, kind.as_str()), (200, expected));
    let mut shown = Vec::new();
    for frame in frames(&body) {
        let [series] = &frame.chunked_series[..] else { panic!("one series a frame") };
        let mut samples = Samples::default();
        for chunk in &series.chunks {
            assert_eq!(chunk.encoding, Encoding::Xor as i32);
            blocks::chunk::decode(Encoding::Xor, &chunk.data, &mut samples).expect("a chunk");
            assert_eq!(samples.times.last(), Some(&chunk.max_time_ms));
            assert!(chunk.data.len() < 1100 && chunk.min_time_ms <= chunk.max_time_ms);
        }
        shown.push((frame.query_index, names(&series.labels), samples));
    }
    // 300 samples are three chunks, of which no two fit into 64 bytes
    assert!(shown.len() > 3, "{} frames", shown.len());
    let of_query = |number: i64| shown.iter().filter(move |frame| frame.0 == number);
    let times: Vec<i64> = of_query(0).flat_map(|frame| frame.2.times.clone()).collect();
    let values: Vec<f64> = of_query(0).flat_map(|frame| frame.2.values.clone()).collect();
    assert_eq!(times, (0..ROWS).map(|at| at * 1000).collect::<Vec<_>>());
    assert_eq!(values, (0..ROWS).map(|at| at as f64 / 4.0).collect::<Vec<_>>());
    let second: Vec<(&str, Vec<f64>)> =
        of_query(1).map(|frame| (frame.1.as_str(), frame.2.values.clone())).collect();
    assert_eq!(
        second,
        [("__name__=tide,buoy=a", vec![1.25, 1.5]), ("__name__=tide,buoy=b", vec![-1.0, -1.0])]
    );
}

#[tokio::test]
async fn no_series_is_an_empty_stream() {
    let fixture = Fixture::over(Arc::new(store()), Setup::default());
    let request = ReadRequest { queries: vec![query(0, 1, &[("buoy", "none")])], accepted: vec![1] };
    assert_eq!(send(&fixture, packed(&request)).await.2, b"");
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_in_text() {
    let fixture = Fixture::over(Arc::new(store()), Setup { read_sample_limit: 5, ..Setup::default() });
    let everything = query(0, 400_000, &[("__name__", "tide")]);
    let with = |queries: Vec<ReadQuery>, accepted: Vec<u64>| packed(&ReadRequest { queries, accepted });
    let declared = [&[0xff, 0xff, 0xff, 0x7f][..], &[0; 64]].concat();
    for (name, body, expected) in [
        ("no snappy", b"\xff\xff\xff\xff\xff".to_vec(), "the body is not snappy (block format): "),
        ("a bomb", declared, "the body unpacks to 268435455 bytes, more than 33554432"),
        ("no protobuf", snappy_encode(b"\x0a\x05").expect("small"), "ReadRequest ends within a field"),
        (
            "no known form",
            with(vec![], vec![9]),
            "server does not support any of the requested response types: [9]",
        ),
        ("too many samples", with(vec![everything.clone()], vec![0]), "exceeded sample limit (5)"),
        (
            "too many samples in all",
            with(vec![query(0, 2_000, &[("buoy", "a")]), query(0, 2_000, &[("buoy", "b")])], vec![]),
            "exceeded sample limit (5)",
        ),
    ] {
        let (status, _, body) = send(&fixture, body).await;
        let text = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(status, 400, "{name}: {text}");
        assert!(text.starts_with(expected) && text.ends_with('\n'), "{name}: {text}");
    }
    let (status, ..) = send(&fixture, with(vec![everything], vec![1])).await;
    assert_eq!(status, 200, "a stream has no limit");
    let (status, _, body) = send(&fixture, vec![0; (32 << 20) + 1]).await;
    assert_eq!((status, body), (400, b"error reading the request: http: request body too large\n".to_vec()));
}

#[tokio::test]
async fn start_timestamps_are_for_those_who_ask() {
    let store = MemoryStore::new();
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(1), labels: Labels::empty() };
    let source = store.open_source(&desc).expect("open");
    let labels = Labels::from_pairs([("__name__", "waves_total")]);
    let series = store.resolve(source, &[labels]).expect("resolve")[0].expect("a series");
    for at in 1..=ROWS {
        // It began again in the middle.
        let starts = [(series, if at <= 150 { 500 } else { 149_500 })];
        let (of_row, values) = ([series], [at as f64]);
        let row = Row { start_timestamps: &starts, ..Row::floats(source, at * 1000, &of_row, &values) };
        store.append(&Batch::rows(&[row], Policy::SCRAPE)).expect("append");
    }
    let fixture = Fixture::over(Arc::new(store), Setup::default());
    for (accepted, told) in [(vec![1], false), (vec![1, START_TIMES], true)] {
        let queries = vec![query(0, 1_000_000, &[("__name__", "waves_total")])];
        let (status, _, body) = send(&fixture, packed(&ReadRequest { queries, accepted })).await;
        assert_eq!(status, 200);
        let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
        reader.push(&body);
        while reader.next(&mut frames).expect("frames") {}
        let chunks = frames.iter().flat_map(|frame| &frame.chunks);
        let starts: Vec<Option<Vec<i64>>> = chunks
            .map(|chunk| {
                let samples = u16::from_be_bytes([chunk.data[0], chunk.data[1]]);
                read_starts(&chunk.starts, samples.into())
            })
            .collect();
        let expected: Vec<i64> = [[500; 150], [149_500; 150]].concat();
        let got = starts.iter().flatten().flatten().copied().collect::<Vec<i64>>();
        assert_eq!(got, if told { expected } else { Vec::new() }, "{starts:?}");
    }
}
