//! What another Prometheus is told.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use model::histogram::{Buckets, CUSTOM_BUCKETS_SCHEMA, Span};
use model::{Histogram, Labels, SourceId, TenantId, stale_nan};
use storage::{Appender, Batch, MemoryStore, Policy, Row, SourceDesc};

use super::fixture::{FIRST_MS, Fixture, INTERVAL_MS, SCRAPES, Setup};

const NOW_MS: i64 = FIRST_MS + (SCRAPES - 1) * INTERVAL_MS;

fn native() -> Histogram {
    Histogram {
        sum: 3.5,
        zero_threshold: 0.25,
        positive_spans: vec![Span { offset: 1, length: 2 }],
        buckets: Buckets::Int { count: 6, zero_count: 1, positive: vec![2, 1], negative: vec![] },
        ..Histogram::stale()
    }
}

fn custom() -> Histogram {
    Histogram {
        schema: CUSTOM_BUCKETS_SCHEMA,
        sum: 3.5,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        custom_values: vec![0.5],
        buckets: Buckets::Int { count: 5, zero_count: 0, positive: vec![2, 1], negative: vec![] },
        ..Histogram::stale()
    }
}

fn store() -> MemoryStore {
    let store = MemoryStore::new();
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(1), labels: Labels::empty() };
    let source = store.open_source(&desc).expect("open");
    let series = |pairs: &[(&str, &str)]| {
        store.resolve(source, &[Labels::from_pairs(pairs.iter().copied())]).expect("resolve")[0]
            .expect("a series")
    };
    let float = |pairs: &[(&str, &str)], at: i64, value: f64| {
        let series = series(pairs);
        let row = Row::floats(source, at, std::slice::from_ref(&series), std::slice::from_ref(&value));
        store.append(&Batch::rows(&[row], Policy::REMOTE_WRITE)).expect("append");
    };
    float(&[("__name__", "up"), ("A", "1"), ("job", "a\"b")], NOW_MS - 20_000, 0.0);
    float(&[("__name__", "up"), ("A", "1"), ("job", "a\"b")], NOW_MS - 5_000, 1.0);
    float(&[("__name__", "up"), ("instance", "x"), ("zone", "own")], NOW_MS, 0.5);
    float(&[("__name__", "gone")], NOW_MS - 10, 1.0);
    float(&[("__name__", "gone")], NOW_MS - 5, stale_nan());
    float(&[("__name__", "old")], NOW_MS - 300_001, 1.0);
    float(&[("__name__", "ahead")], NOW_MS + 1, 1.0);
    float(&[("__name__", "http.requests"), ("path.name", "/")], NOW_MS - 1, 7.0);
    float(&[("job", "nameless")], NOW_MS, 1.0);
    for (name, histogram) in [("native_seconds", native()), ("custom_seconds", custom())] {
        let histograms = [(series(&[("__name__", name)]), histogram)];
        let row = Row { histograms: &histograms, ..Row::floats(source, NOW_MS, &[], &[]) };
        store.append(&Batch::rows(&[row], Policy::REMOTE_WRITE)).expect("append");
    }
    store
}

async fn federate(fixture: &Fixture, query: &str, accept: &str) -> (String, Vec<u8>) {
    let request = Request::get(format!("/federate?{query}")).header("accept", accept);
    let response = fixture.response(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(response.status().as_u16(), 200, "{query}");
    let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
    (kind, axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body").to_vec())
}

const EVERYTHING: &str = "match[]=%7B__name__%3D~%22.*%22%7D";

#[tokio::test]
async fn the_latest_samples_stand_by_name() {
    let fixture = Fixture::over(Arc::new(store()), Setup::default());
    let (kind, body) = federate(&fixture, EVERYTHING, "").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
    expect_test::expect![[r#"
        # TYPE custom_seconds histogram
        custom_seconds_bucket{instance="",le="0.5"} 2 1060000
        custom_seconds_bucket{instance="",le="+Inf"} 5 1060000
        custom_seconds_sum{instance=""} 3.5 1060000
        custom_seconds_count{instance=""} 5 1060000
        # TYPE http_requests untyped
        http_requests{path_name="/",instance=""} 7 1059999
        # TYPE up untyped
        up{A="1",job="a\"b",instance=""} 1 1055000
        up{instance="x",zone="own"} 0.5 1060000
    "#]]
    .assert_eq(&String::from_utf8(body).expect("text"));
}

#[tokio::test]
async fn external_labels_stand_where_a_series_has_none() {
    let external_labels = Labels::from_pairs([("zone", "north"), ("instance", "hub")]);
    let fixture = Fixture::over(Arc::new(store()), Setup { external_labels, ..Setup::default() });
    let accept = "text/plain;version=1.0.0;escaping=allow-utf-8";
    let selectors = "match[]=up&match[]=%7Bzone%3D%22own%22%7D&match[]=%7B%22http.requests%22%7D";
    let (kind, body) = federate(&fixture, selectors, accept).await;
    assert_eq!(kind, "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8");
    expect_test::expect![[r#"
        # TYPE "http.requests" untyped
        {"http.requests","path.name"="/",instance="hub",zone="north"} 7 1059999
        # TYPE up untyped
        up{A="1",job="a\"b",instance="hub",zone="north"} 1 1055000
        up{instance="x",zone="own"} 0.5 1060000
    "#]]
    .assert_eq(&String::from_utf8(body).expect("text"));
}

#[tokio::test]
async fn native_histograms_come_in_protobuf() {
    let fixture = Fixture::over(Arc::new(store()), Setup::default());
    let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;q=0.5";
    let (kind, body) = federate(&fixture, "match[]=native_seconds", accept).await;
    assert!(kind.starts_with("application/vnd.google.protobuf; "), "{kind}");
    // the name of the family behind the two lengths
    assert_eq!(&body[1..17], b"\x0a\x0enative_seconds");
    let (_, body) = federate(&fixture, "match[]=native_seconds", "text/plain").await;
    assert_eq!(body, b"", "the text formats have no place for it");
    let (_, body) = federate(&fixture, "", accept).await;
    assert_eq!(body, b"", "nothing was asked for");
}
