use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use expect_test::{Expect, expect};
use http::{Request, Response};
use http_body_util::BodyExt;
use model::histogram::{Buckets, Span};
use model::{Exemplar, Histogram, Labels, Metadata, MetricType, TenantId};
use stdx::clock::FakeClock;
use storage::{
    Appended, Appender, Batch, CommitPosition, MemoryStore, Queryable, Select, SeriesRef, SourceDesc,
    SourceRef, StoreError,
};
use tower::ServiceExt;
use wire::remote_write::{EncoderV1, EncoderV2, HistogramSample, Sample, SeriesToWrite, snappy_encode};

use super::*;

const NOW_MS: i64 = 1_700_000_000_000;
const V1: &str = "application/x-protobuf";
const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

/// The memory store, which notes whether anybody waited for durability.
#[derive(Debug, Default)]
struct Store {
    store: MemoryStore,
    waits: AtomicUsize,
}

impl Appender for Store {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        self.store.open_source(source)
    }
    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        self.store.resolve(source, labels)
    }
    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        for row in batch.rows {
            let mut series = row.series.to_vec();
            series.extend(row.histograms.iter().map(|(series, _)| *series));
            series.sort_unstable();
            assert!(series.windows(2).all(|two| two[0] != two[1]), "a column twice in a row");
        }
        self.store.append(batch)
    }
    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        self.store.wait_durable(position)
    }
}

/// Labels and samples of a series.
type Pushed<'a> = (&'a [(&'a str, &'a str)], &'a [Sample]);

struct Bench {
    store: Arc<Store>,
    metrics: ReceiveMetrics,
    router: Router,
}

fn bench(config: ReceiveConfig) -> Bench {
    let store = Arc::new(Store::default());
    let metrics = ReceiveMetrics::default();
    let state = ReceiveState {
        appender: store.clone(),
        clock: FakeClock::at(NOW_MS),
        config,
        metrics: metrics.clone(),
    };
    Bench { store, metrics, router: router(state) }
}

impl Bench {
    async fn send(&self, request: Request<Body>) -> String {
        let response: Response<Body> = self.router.clone().oneshot(request).await.expect("an answer");
        let mut out = response.status().as_u16().to_string();
        let mut headers: Vec<_> = response
            .headers()
            .iter()
            .filter(|(name, _)| !["content-type", "content-length", "allow"].contains(&name.as_str()))
            .collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        for (name, value) in headers {
            let name = name.as_str().trim_start_matches("x-prometheus-remote-write-");
            out += &format!(" {name}={}", value.to_str().unwrap());
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        if !text.is_empty() { format!("{out}: {}", text.trim_end()) } else { out }
    }

    async fn push(&self, content_type: &str, body: Vec<u8>) -> String {
        self.send(request(content_type, snappy_encode(&body).unwrap())).await
    }

    /// Everything stored for a tenant, one line a series.
    fn stored(&self, tenant: &TenantId) -> String {
        let select =
            Select { tenant: tenant.clone(), start_ms: i64::MIN, end_ms: i64::MAX, matchers: Vec::new() };
        let set = self.store.store.select(&select).unwrap();
        let mut columns = Vec::new();
        set.load(0..set.len(), &mut columns).unwrap();
        let mut out = String::new();
        for (at, column) in columns.iter().enumerate() {
            out += &set.labels(at).to_string();
            for (time, value) in column.times.iter().zip(&column.values) {
                out += &format!(" {value}@{}", time - NOW_MS);
            }
            for (time, histogram) in &column.histograms {
                out += &format!(" histogram of {}@{}", histogram.count(), time - NOW_MS);
            }
            if let Some(starts) = &column.start_times {
                out += &format!(" since {:?}", starts.iter().map(|start| start - NOW_MS).collect::<Vec<_>>());
            }
            out.push('\n');
        }
        out
    }
}

fn request(content_type: &str, body: Vec<u8>) -> Request<Body> {
    let request = Request::post("/api/v1/write").header("content-encoding", "snappy");
    request.header("content-type", content_type).body(Body::from(body)).unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

fn at(offset_ms: i64, value: f64) -> Sample {
    Sample { timestamp_ms: NOW_MS + offset_ms, value, start_timestamp_ms: 0 }
}

/// A request of both versions with these floats.
fn floats(series: &[Pushed<'_>]) -> [Vec<u8>; 2] {
    let (mut v1, mut v2) = (EncoderV1::default(), EncoderV2::default());
    for (pairs, samples) in series {
        let labels = labels(pairs);
        v1.series(&SeriesToWrite::floats(&labels, samples));
        v2.series(&SeriesToWrite::floats(&labels, samples));
    }
    [v1.finish(), v2.finish()]
}

async fn check_both(bench: &Bench, bodies: [Vec<u8>; 2], expected_v1: Expect, expected_v2: Expect) {
    let [v1, v2] = bodies;
    expected_v1.assert_eq(&bench.push(V1, v1).await);
    expected_v2.assert_eq(&bench.push(V2, v2).await);
}

#[tokio::test]
async fn samples_become_rows() {
    let bench = bench(ReceiveConfig::default());
    let bodies = floats(&[
        (&[("__name__", "up"), ("job", "a"), ("instance", "1")], &[at(0, 1.0), at(1000, 0.0)]),
        (&[("__name__", "up"), ("job", "b"), ("instance", "2")], &[at(0, f64::INFINITY)]),
        (&[("__name__", "other"), ("job", "a"), ("instance", "1"), ("empty", "")], &[at(0, 3.5)]),
    ]);
    check_both(
        &bench,
        bodies,
        expect!["204"],
        expect!["204 exemplars-written=0 histograms-written=0 samples-written=4"],
    )
    .await;
    expect![[r#"
        {__name__="other", instance="1", job="a"} 3.5@0
        {__name__="up", instance="1", job="a"} 1@0 0@1000
        {__name__="up", instance="2", job="b"} inf@0
    "#]]
    .assert_eq(&bench.stored(&TenantId::default()));
    assert_eq!(bench.metrics.samples.get(), 8);
}

#[tokio::test]
async fn everything_a_request_can_hold_is_taken() {
    let bench = bench(ReceiveConfig::default());
    let (counter, native) =
        (labels(&[("__name__", "c_total"), ("job", "a")]), labels(&[("__name__", "h"), ("job", "a")]));
    let metadata = Metadata { metric_type: MetricType::Counter, unit: "s".into(), help: "Help".into() };
    let exemplar = Exemplar { labels: labels(&[("trace_id", "x")]), value: 1.0, timestamp_ms: NOW_MS - 5 };
    let histogram = Histogram {
        positive_spans: vec![Span { offset: 0, length: 1 }],
        sum: 1.0,
        buckets: Buckets::Int { count: 2, zero_count: 0, positive: vec![2], negative: vec![] },
        ..Histogram::stale()
    };
    let histogram = HistogramSample { timestamp_ms: NOW_MS, histogram, start_timestamp_ms: NOW_MS - 7 };
    let mut encoder = EncoderV2::default();
    encoder.series(&SeriesToWrite {
        labels: &counter,
        samples: &[Sample { start_timestamp_ms: NOW_MS - 9, ..at(0, 4.0) }],
        histograms: &[],
        exemplars: std::slice::from_ref(&exemplar),
        metadata: Some(&metadata),
    });
    let histograms = [histogram];
    let native = SeriesToWrite { histograms: &histograms, ..SeriesToWrite::floats(&native, &[]) };
    encoder.series(&native);
    let body = encoder.finish();
    for _ in 0..2 {
        let answer = bench.push(V2, body.clone()).await;
        assert_eq!(answer, "204 exemplars-written=1 histograms-written=1 samples-written=1");
    }
    expect![[r#"
        {__name__="c_total", job="a"} 4@0 since [-9]
        {__name__="h", job="a"} histogram of 2@0
    "#]]
    .assert_eq(&bench.stored(&TenantId::default()));
    let stored = bench.store.store.metadata(&TenantId::default(), None).unwrap().values;
    assert_eq!(stored, [("c_total".to_owned(), vec![metadata.clone()])]);
    assert_eq!(bench.store.store.exemplars(&TenantId::default())[0].1[0].value, 1.0);

    let mut encoder = EncoderV1::default();
    encoder.metadata("family", &metadata);
    assert_eq!(bench.push(V1, encoder.finish()).await, "204");
    assert!(bench.store.store.metadata(&TenantId::default(), Some("family")).unwrap().values.len() == 1);
}

#[tokio::test]
async fn requests_that_cannot_be_read_are_refused() {
    let config = ReceiveConfig { body_bytes_max: 1000, decoded_bytes_max: 5000, ..ReceiveConfig::default() };
    let bench = bench(config);
    let [v1, v2] = floats(&[(&[("__name__", "x")], &[at(0, 1.0)])]);
    let packed = |body: &[u8]| Body::from(snappy_encode(body).unwrap());
    let post = || Request::post("/api/v1/write");
    let check =
        async |request: Request<Body>, expected: Expect| expected.assert_eq(&bench.send(request).await);
    check(Request::get("/api/v1/write").body(Body::empty()).unwrap(), expect!["405"]).await;
    check(
        post().header("content-type", "application/json").body(Body::from("{}")).unwrap(),
        expect![[
            r#"415: content type "application/json" is not accepted, only "application/x-protobuf" is"#
        ]],
    )
    .await;
    check(post().header("content-type", "application/x-protobuf;proto=x.Y").body(packed(&v1)).unwrap(), expect![[r#"415: protobuf message "x.Y" is not accepted, only "prometheus.WriteRequest" and "io.prometheus.write.v2.Request" are"#]]).await;
    check(
        post().header("content-type", "application/x-protobuf;proto").body(packed(&v1)).unwrap(),
        expect![[r#"415: content type "application/x-protobuf;proto" has a parameter without value"#]],
    )
    .await;
    check(
        post().header("content-encoding", "gzip").header("content-type", V1).body(packed(&v1)).unwrap(),
        expect![[r#"415: content encoding "gzip" is not accepted, only "snappy" is"#]],
    )
    .await;
    check(post().body(packed(&v1)).unwrap(), expect!["204"]).await;
    let spaced = "Application/X-Protobuf; proto=\"io.prometheus.write.v2.Request\"";
    check(
        post().header("content-type", spaced).body(packed(&v2)).unwrap(),
        expect!["204 exemplars-written=0 histograms-written=0 samples-written=1"],
    )
    .await;
    check(request(V1, v1.clone()), expect!["400: the body is not snappy (block format): snappy: corrupt input (expected valid offset but got offset 266; dst position: 0)"]).await;
    check(
        request(V1, b"".to_vec()),
        expect!["400: the body is not snappy (block format): snappy: corrupt input (empty)"],
    )
    .await;
    check(request(V1, vec![0; 1001]), expect!["413: the body is longer than 1000 bytes"]).await;
    check(
        request(V1, snappy_encode(&[0; 5001]).unwrap()),
        expect!["413: the body unpacks to 5001 bytes, more than 5000"],
    )
    .await;
    check(request(V2, snappy_encode(&[0; 5001]).unwrap()), expect!["413 exemplars-written=0 histograms-written=0 samples-written=0: the body unpacks to 5001 bytes, more than 5000"]).await;
    check(
        request(V1, snappy_encode(&v1[..v1.len() - 1]).unwrap()),
        expect!["400: decode the request: WriteRequest ends within a field"],
    )
    .await;
    check(request(V2, snappy_encode(&v2[..v2.len() - 1]).unwrap()), expect!["400 exemplars-written=0 histograms-written=0 samples-written=0: decode the request: Request ends within a field"]).await;
    check(
        request(V1, snappy_encode(b"\x0a\x02\x10\x01").unwrap()),
        expect!["400: decode the request: TimeSeries has a field of another type than its schema gives it"],
    )
    .await;
}

#[tokio::test]
async fn small_requests_that_would_become_large_are_refused() {
    let config = ReceiveConfig { entries_max: 3, decoded_bytes_max: 5000, ..ReceiveConfig::default() };
    let bench = bench(config);
    let many = floats(&[(&[("__name__", "x")], &[at(0, 1.0), at(1, 1.0), at(2, 1.0)])]);
    check_both(&bench, many, expect!["413: the request has too many series and samples"], expect!["413 exemplars-written=0 histograms-written=0 samples-written=0: the request has too many series and samples"]).await;
    // Nine series of 30 bytes, each with a value of 4,500.
    let long = "v".repeat(4500);
    let mut encoder = EncoderV2::default();
    for i in 0..9 {
        let labels = labels(&[("__name__", &format!("x{i}")), ("l", &long)]);
        encoder.series(&SeriesToWrite::floats(&labels, &[at(0, 1.0)]));
    }
    let bench = self::bench(ReceiveConfig { decoded_bytes_max: 5000, ..ReceiveConfig::default() });
    expect!["413 exemplars-written=0 histograms-written=0 samples-written=0: the labels are longer than 40000 bytes when spelled out"].assert_eq(&bench.push(V2, encoder.finish()).await);
    assert_eq!(bench.stored(&TenantId::default()), "");
}

#[tokio::test]
async fn a_request_has_samples_of_so_many_days_and_no_more() {
    let bench = bench(ReceiveConfig { days_max: 2, ..ReceiveConfig::default() });
    let day = -86_400_000;
    let old = [
        at(3 * day, 3.0),
        at(2 * day, 2.0),
        at(2 * day + 1, 2.5),
        at(day, 1.0),
        at(day + 1, 1.5),
        at(3 * day + 1, 3.5),
    ];
    check_both(&bench, floats(&[(&[("__name__", "old")], &old)]), expect![[r#"400: the request has samples of more than 2 days for series {__name__="old"} at 1699913600000; not taken: 2 of too many days"#]], expect![[r#"400 exemplars-written=0 histograms-written=0 samples-written=4: the request has samples of more than 2 days for series {__name__="old"} at 1699913600000; not taken: 2 of too many days"#]]).await;
    // The next request has its own days.
    check_both(
        &bench,
        floats(&[(&[("__name__", "old")], &[at(day, 1.0)])]),
        expect!["204"],
        expect!["204 exemplars-written=0 histograms-written=0 samples-written=1"],
    )
    .await;
}

#[tokio::test]
async fn what_is_wrong_is_told_and_the_rest_is_kept() {
    let bench = bench(ReceiveConfig::default());
    let good: Pushed<'_> = (&[("__name__", "good")], &[at(0, 1.0)]);
    let check = async |series: &[Pushed<'_>], v1: Expect, v2: Expect| {
        check_both(&bench, floats(series), v1, v2).await;
    };
    // No metric name: 1.0 passes over it in silence, 2.0 tells.
    check(&[(&[("job", "a")], &[at(0, 1.0)]), good], expect!["204"], expect![[r#"400 exemplars-written=0 histograms-written=0 samples-written=1: the series has no metric name, got {job="a"}; not taken: 1 series with invalid labels"#]]).await;
    // Too far ahead.
    check(&[(&[("__name__", "ahead")], &[at(600_001, 1.0), at(600_000, 1.0)]), good], expect![[r#"400: timestamp is too far in the future for series {__name__="ahead"} at 1700000600001; not taken: 1 too far in the future"#]], expect![[r#"400 exemplars-written=0 histograms-written=0 samples-written=2: timestamp is too far in the future for series {__name__="ahead"} at 1700000600001; not taken: 1 too far in the future"#]]).await;
    // Another value at the same time, in the store and in one request.
    check(&[(&[("__name__", "good")], &[at(0, 2.0), at(1, 1.0)])], expect![[r#"400: duplicate sample for timestamp for series {__name__="good"} at 1700000000000; not taken: 1 duplicate"#]], expect![[r#"400 exemplars-written=0 histograms-written=0 samples-written=1: duplicate sample for timestamp for series {__name__="good"} at 1700000000000; not taken: 1 duplicate"#]]).await;
    check(&[(&[("__name__", "twice")], &[at(0, 2.0), at(0, 2.0), at(0, 3.0)])], expect![[r#"400: duplicate sample for timestamp for series {__name__="twice"} at 1700000000000; not taken: 1 duplicate"#]], expect![[r#"400 exemplars-written=0 histograms-written=0 samples-written=2: duplicate sample for timestamp for series {__name__="twice"} at 1700000000000; not taken: 1 duplicate"#]]).await;
    // The same series twice.
    check(
        &[(&[("__name__", "parts")], &[at(0, 2.0)]), (&[("__name__", "parts")], &[at(1, 3.0)])],
        expect!["204"],
        expect!["204 exemplars-written=0 histograms-written=0 samples-written=2"],
    )
    .await;
    // No sample at all.
    check(&[(&[("__name__", "none")], &[])], expect!["204"], expect![[r#"400 exemplars-written=0 histograms-written=0 samples-written=0: the series has neither samples nor histograms: {__name__="none"}; not taken: 1 series without samples"#]]).await;
    // Late ones are taken, too old ones are not.
    bench.store.store.set_oldest_ms(NOW_MS - 1000);
    check(&[(&[("__name__", "good")], &[at(-1000, 7.0), at(-1001, 7.0)])], expect![[r#"400: too old sample for series {__name__="good"} at 1699999998999; not taken: 1 too old"#]], expect![[r#"400 exemplars-written=0 histograms-written=0 samples-written=1: too old sample for series {__name__="good"} at 1699999998999; not taken: 1 too old"#]]).await;
    bench.store.store.set_series_max(3);
    check(&[(&[("__name__", "limit")], &[at(0, 1.0)]), good], expect![[r#"400: series limit exceeded for series {__name__="limit"}; not taken: 1 over the series limit"#]], expect![[r#"400 exemplars-written=0 histograms-written=0 samples-written=1: series limit exceeded for series {__name__="limit"}; not taken: 1 over the series limit"#]]).await;
    expect![[r#"
        {__name__="ahead"} 1@600000
        {__name__="good"} 7@-1000 1@0 1@1
        {__name__="parts"} 2@0 3@1
        {__name__="twice"} 2@0
    "#]]
    .assert_eq(&bench.stored(&TenantId::default()));
}

#[tokio::test]
async fn labels_that_only_a_wrong_sender_spells() {
    let bench = bench(ReceiveConfig::default());
    let series = |label_records: &[u8]| {
        let mut series = label_records.to_vec();
        series.extend_from_slice(b"\x12\x10\x09\0\0\0\0\0\0\xf0\x3f\x10");
        let mut time = NOW_MS as u64;
        while time >= 0x80 {
            series.push(time as u8 | 0x80);
            time >>= 7;
        }
        series.push(time as u8);
        let mut body = vec![0x0a, series.len() as u8];
        body.append(&mut series);
        body
    };
    let name = b"\x0a\x0d\x0a\x08__name__\x12\x01x";
    let record = |pairs: &[&[u8]]| {
        series(&[name.as_slice()].iter().chain(pairs).copied().collect::<Vec<_>>().concat())
    };
    let check = async |body: Vec<u8>, expected: Expect| expected.assert_eq(&bench.push(V1, body).await);
    check(record(&[b"\x0a\x06\x0a\x01a\x12\x01b", b"\x0a\x06\x0a\x01a\x12\x01b"]), expect!["204"]).await;
    check(record(&[b"\x0a\x03\x12\x01b"]), expect!["204"]).await;
    check(record(&[b"\x0a\x06\x0a\x01a\x12\x01\xff"]), expect!["204"]).await;
    assert_eq!(bench.stored(&TenantId::default()), "", "no such series is kept");
    // Unsorted labels are put in order; both spellings are one series.
    let pair: &[u8] = b"\x0a\x06\x0a\x01a\x12\x01b";
    let both = [series(&[pair, name].concat()), record(&[pair])].concat();
    check(both.clone(), expect!["204"]).await;
    check(both, expect!["204"]).await;
    // Labels behind samples.
    let mut late = series(pair);
    late.extend_from_slice(name);
    late[1] += name.len() as u8;
    check(late, expect!["204"]).await;
    expect![[r#"
        {__name__="x", a="b"} 1@0
    "#]]
    .assert_eq(&bench.stored(&TenantId::default()));
}

#[tokio::test]
async fn a_store_that_writes_no_more_is_said_to_be_busy() {
    let bench = bench(ReceiveConfig::default());
    let bodies = || floats(&[(&[("__name__", "x")], &[at(0, 1.0)])]);
    check_both(
        &bench,
        bodies(),
        expect!["204"],
        expect!["204 exemplars-written=0 histograms-written=0 samples-written=1"],
    )
    .await;
    bench.store.store.set_read_only("sync of 00000001.wal failed");
    check_both(&bench, bodies(), expect!["503 retry-after=30: the store is read-only: sync of 00000001.wal failed"], expect!["503 retry-after=30 exemplars-written=0 histograms-written=0 samples-written=0: the store is read-only: sync of 00000001.wal failed"]).await;
}

#[tokio::test]
async fn series_the_store_forgot_are_resolved_again() {
    let bench = bench(ReceiveConfig::default());
    let bodies = |offset| {
        floats(&[(&[("__name__", "a")], &[at(offset, 1.0)]), (&[("__name__", "b")], &[at(offset, 2.0)])])
    };
    let [first, _] = bodies(0);
    assert_eq!(bench.push(V1, first).await, "204");
    bench.store.store.forget(SeriesRef(0));
    let [_, second] = bodies(1);
    expect!["204 exemplars-written=0 histograms-written=0 samples-written=2"]
        .assert_eq(&bench.push(V2, second).await);
    expect![[r#"
        {__name__="a"} 1@1
        {__name__="b"} 2@0 2@1
    "#]]
    .assert_eq(&bench.stored(&TenantId::default()));
}

#[tokio::test]
async fn tenants_see_nothing_of_each_other() {
    let bench = bench(ReceiveConfig { sync: SyncPolicy::Always, ..ReceiveConfig::default() });
    let other = TenantId::new("other").unwrap();
    let [body, _] = floats(&[(&[("__name__", "x")], &[at(0, 1.0)])]);
    let mut request = request(V1, snappy_encode(&body).unwrap());
    request.extensions_mut().insert(other.clone());
    assert_eq!(bench.send(request).await, "204");
    assert_eq!(bench.store.waits.load(Ordering::SeqCst), 1, "the answer waited for the disk");
    assert_eq!(bench.stored(&TenantId::default()), "");
    assert_eq!(bench.stored(&other), "{__name__=\"x\"} 1@0\n");
}

#[tokio::test]
async fn a_sender_who_repeats_himself_is_found_by_guessing() {
    let bench = bench(ReceiveConfig::default());
    let names: Vec<String> = (0..50).map(|i| format!("metric_{i}")).collect();
    for round in 0..4 {
        let (mut v1, mut v2) = (EncoderV1::default(), EncoderV2::default());
        for name in &names {
            let labels = labels(&[("__name__", name), ("job", "a")]);
            v1.series(&SeriesToWrite::floats(&labels, &[at(round, 1.0)]));
            v2.series(&SeriesToWrite::floats(&labels, &[at(round, 1.0)]));
        }
        assert_eq!(bench.push(V1, v1.finish()).await, "204");
        assert!(bench.push(V2, v2.finish()).await.starts_with("204"));
    }
    let found = |by| bench.metrics.series_found.get_or_create(&metrics::FoundBy { by }).get();
    // Each version: new, then by table to learn the order, then one by table and the rest guessed.
    let each = (50, 50 + 2, 2 * 49);
    assert_eq!((found("labels"), found("table"), found("guess")), (2 * each.0, 2 * each.1, 2 * each.2));
    assert_eq!(bench.metrics.known_series.get(), 100);
}

/// A sample of a random request: which of a few series, when, what.
fn any_sample() -> impl proptest::strategy::Strategy<Value = (usize, i64, i8)> {
    (0..9_usize, 0..4_i64, 0..3_i8)
}

proptest::proptest! {
    /// Whatever the order, the version and the grouping: the first value of a time stands.
    #[test]
    fn the_store_holds_what_was_sent_first(
        requests in proptest::collection::vec(
            (proptest::bool::ANY, proptest::collection::vec(proptest::collection::vec(any_sample(), 0..5), 0..8)),
            0..6,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bench = bench(ReceiveConfig::default());
        let series: Vec<Labels> = (0..9)
            .map(|i| labels(&[("__name__", "m"), ("i", &i.to_string()), ("job", ["a", "b", "c"][i % 3])]))
            .collect();
        let mut model: BTreeMap<(usize, i64), f64> = BTreeMap::new();
        for (is_v1, groups) in requests {
            let (mut v1, mut v2) = (EncoderV1::default(), EncoderV2::default());
            let mut clashes = 0;
            for group in groups.iter().filter(|group| !group.is_empty()) {
                // All samples of a group go to the series of its first.
                let which = group[0].0;
                let samples: Vec<Sample> = group.iter().map(|(_, offset, value)| at(*offset, f64::from(*value))).collect();
                for sample in &samples {
                    let first = *model.entry((which, sample.timestamp_ms)).or_insert(sample.value);
                    clashes += usize::from(first != sample.value);
                }
                v1.series(&SeriesToWrite::floats(&series[which], &samples));
                v2.series(&SeriesToWrite::floats(&series[which], &samples));
            }
            let body = if is_v1 { v1.finish() } else { v2.finish() };
            let answer = runtime.block_on(bench.push(if is_v1 { V1 } else { V2 }, body));
            let expected = if clashes == 0 { "204" } else { "400" };
            proptest::prop_assert!(answer.starts_with(expected), "{} clashes: {}", clashes, answer);
        }
        let mut expected: BTreeMap<String, String> = BTreeMap::new();
        for ((which, time), value) in &model {
            *expected.entry(series[*which].to_string()).or_default() += &format!(" {value}@{}", time - NOW_MS);
        }
        let expected: String = expected.iter().map(|(labels, samples)| format!("{labels}{samples}\n")).collect();
        proptest::prop_assert_eq!(bench.stored(&TenantId::default()), expected);
    }
}

#[tokio::test]
async fn bodies_that_do_not_end_hold_a_bounded_amount_of_memory() {
    let bench = bench(ReceiveConfig { arriving_bytes_max: 1024, ..ReceiveConfig::default() });
    let good = snappy_encode(&floats(&[(&[("__name__", "up")], &[at(0, 1.0)])])[0]).unwrap();
    let trailers = std::future::pending::<Option<Result<http::HeaderMap, std::convert::Infallible>>>();
    let endless = http_body_util::Full::from(good.clone()).with_trailers(trailers);
    let endless = request(V1, Vec::new()).map(|_| Body::new(endless));
    let first = tokio::spawn(bench.router.clone().oneshot(endless));
    tokio::task::yield_now().await;
    let second = tokio::spawn(bench.router.clone().oneshot(request(V1, good)));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished(), "it waits for the first");
    first.abort();
    assert_eq!(second.await.expect("no panic").expect("an answer").status(), 204);
}
