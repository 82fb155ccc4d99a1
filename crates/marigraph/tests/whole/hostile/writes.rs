//! The write door.

use ::http::{Method, Request};
use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use testkit::http;
use wire::remote_write::snappy_encode;

use super::{NO_SCRAPES, Table, others_are_served, start};

const V1: &str = "application/x-protobuf";
const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

/// Name, content type, content encoding, body, and the status and text expected.
type Case<'a> = (&'a str, &'a str, &'a str, Vec<u8>, u16, &'a str);

/// A field of protobuf that holds bytes.
fn field(number: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut out = vec![number << 3 | 2];
    out.extend(varint(body.len() as u64));
    out.extend(body);
    out
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

fn label(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    field(1, [field(1, name), field(2, value)].concat())
}

fn sample(time_ms: u64, value: f64) -> Vec<u8> {
    field(2, [&[0x09][..], &value.to_le_bytes(), &[0x10], &varint(time_ms)].concat())
}

/// A series of version 1.0: whole labels, then samples.
fn series(parts: &[Vec<u8>]) -> Vec<u8> {
    field(1, parts.concat())
}

/// A series that nothing is wrong with, at `time_ms`.
fn good(name: &str, time_ms: u64) -> Vec<u8> {
    series(&[label("__name__", name), sample(time_ms, 1.0)])
}

async fn post(addr: std::net::SocketAddr, kind: &str, encoding: &str, body: Vec<u8>) -> Result<http::Answer> {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/write")
        .header("host", "hub")
        .header("content-type", kind)
        .header("content-encoding", encoding)
        .body(Full::new(Bytes::from(body)))?;
    http::send(addr, request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_whole() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(directory.path(), NO_SCRAPES, &[]).await?;
    let addr = hub.addr();
    let whole = good("tide", 1000);
    let cut = |bytes: &[u8], at: usize| snappy_encode(&bytes[..at]);
    let cases: Vec<Case<'_>> = vec![
        (
            "4 GiB declared",
            V1,
            "snappy",
            b"\xff\xff\xff\xff\x0f".to_vec(),
            413,
            "the body unpacks to 4294967295 bytes, more than 33554432",
        ),
        (
            "30 MB declared, nothing there",
            V1,
            "snappy",
            [varint(30 << 20), vec![0, 0]].concat(),
            400,
            "the body is not snappy (block format): 6 bytes cannot hold the declared 31457280",
        ),
        (
            "a bomb",
            V1,
            "snappy",
            snappy_encode(&vec![0; (32 << 20) + 1])?,
            413,
            "the body unpacks to 33554433 bytes, more than 33554432",
        ),
        (
            "a bomb that just fits",
            V1,
            "snappy",
            snappy_encode(&vec![0; 32 << 20])?,
            400,
            "decode the request: WriteRequest has a malformed field",
        ),
        (
            "32 MiB as sent",
            V1,
            "snappy",
            vec![0; (32 << 20) + 1],
            413,
            "the body is longer than 33554432 bytes",
        ),
        (
            "gzip",
            V1,
            "gzip",
            b"\x1f\x8b".to_vec(),
            415,
            "content encoding \"gzip\" is not accepted, only \"snappy\" is",
        ),
        (
            "nothing",
            V1,
            "snappy",
            Vec::new(),
            400,
            "the body is not snappy (block format): snappy: corrupt input (empty)",
        ),
        (
            "cut in a label",
            V1,
            "snappy",
            cut(&whole, 9)?,
            400,
            "decode the request: WriteRequest ends within a field",
        ),
        (
            "cut in a sample",
            V1,
            "snappy",
            cut(&whole, whole.len() - 1)?,
            400,
            "decode the request: WriteRequest ends within a field",
        ),
        (
            "a length beyond everything",
            V1,
            "snappy",
            snappy_encode(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")?,
            400,
            "decode the request: WriteRequest ends within a field",
        ),
        ("1.0 as 2.0: fields that 2.0 does not know", V2, "snappy", snappy_encode(&whole)?, 204, ""),
    ];
    let mut table = Table::default();
    for (name, kind, encoding, body, status, text) in cases {
        let answer = post(addr, kind, encoding, body).await?;
        table.check(name, &answer, status, text);
        others_are_served(addr).await?;
    }
    assert_eq!(crate::query(addr, "tide").await?.len(), 0);
    table.finish();
    hub.stop().await
}

/// A series of version 2.0: the numbers of its labels' symbols, and one sample.
fn series_v2(labels: &[u8], time_ms: u64) -> Vec<u8> {
    field(5, [field(1, labels), sample(time_ms, 1.0)].concat())
}

fn symbols(all: &[&[u8]]) -> Vec<u8> {
    all.iter().flat_map(|symbol| field(4, symbol)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_good_part_of_a_bad_request_is_kept() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(directory.path(), NO_SCRAPES, &[]).await?;
    let addr = hub.addr();
    const AT_MS: u64 = 1_700_000_000_000;
    let named = |rest: &[Vec<u8>]| [&[label("__name__", "bad")], rest].concat();
    let far_ms = 4_000_000_000_000u64;
    let mut many = Vec::new();
    for at in 0..200_000 {
        many.extend(b"\x0a\x0d\x0a\x08l0000000\x12\x01v");
        let digits = many.len() - 10..many.len() - 3;
        many[digits].copy_from_slice(format!("{at:07}").as_bytes());
    }
    let long = "v".repeat(4 << 20);
    // Version 1.0 says nothing of series whose labels cannot be, as Prometheus does not.
    let cases: Vec<(&str, &str, Vec<u8>, u16, &str)> = vec![
        (
            "labels that are not UTF-8",
            V1,
            series(&named(&[label("a", b"\xff"), sample(AT_MS, 2.0)])),
            204,
            "",
        ),
        (
            "a label twice",
            V1,
            series(&named(&[label("a", "1"), label("a", "2"), sample(AT_MS, 2.0)])),
            204,
            "",
        ),
        ("no name", V1, series(&[label("a", "1"), sample(AT_MS, 2.0)]), 204, ""),
        (
            "two values of one time",
            V1,
            series(&named(&[sample(AT_MS, 2.0), sample(AT_MS, 3.0)])),
            400,
            "duplicate sample for timestamp for series {__name__=\"bad\"} at 1700000000000; not taken: 1 duplicate",
        ),
        (
            "far ahead",
            V1,
            series(&named(&[sample(far_ms, 2.0)])),
            400,
            "timestamp is too far in the future for series {__name__=\"bad\"} at 4000000000000; not taken: 1 too far in \
             the future",
        ),
        (
            "two hundred thousand labels",
            V1,
            series(&named(&[many.clone(), sample(AT_MS, 2.0)])),
            400,
            "the series has 200001 labels, more than 4096; not taken: 1 over the series limit",
        ),
        ("a value of 4 MiB", V1, series(&named(&[label("a", &long), sample(AT_MS, 2.0)])), 204, ""),
        (
            "a symbol that is not UTF-8",
            V2,
            series_v2(&[1, 5, 3, 4], AT_MS),
            400,
            "the series has a label that is not valid UTF-8; not taken: 1 series with invalid labels",
        ),
        (
            "a label twice, 2.0",
            V2,
            series_v2(&[1, 5, 3, 3, 3, 2], AT_MS),
            400,
            "the series has label \"a\" twice; not taken: 1 series with invalid labels",
        ),
        (
            "a symbol that is not there",
            V2,
            series_v2(&[1, 9], AT_MS),
            400,
            "the series refers to symbol 9, but there are 6; not taken: 1 series with invalid labels",
        ),
    ];
    let mut table = Table::default();
    for (at, (name, kind, bad, status, text)) in cases.into_iter().enumerate() {
        let kept = format!("kept{at}");
        let mut body = bad;
        if kind == V1 {
            body.extend(good(&kept, AT_MS));
        } else {
            body = [symbols(&[b"", b"__name__", kept.as_bytes(), b"a", b"\xff", b"bad"]), body].concat();
            body.extend(series_v2(&[1, 2], AT_MS));
        }
        let answer = post(addr, kind, "snappy", snappy_encode(&body)?).await?;
        table.check(name, &answer, status, text);
        assert!(answer.body.len() < 4096, "{name}: an answer of {} bytes", answer.body.len());
        others_are_served(addr).await?;
        let found = crate::query(addr, &format!("{kept} @ 1700000000")).await?;
        assert_eq!(found.len(), 1, "{name}: the good series is kept");
    }
    const COUNTS: [(&str, &str); 3] =
        [("{__name__=~\"kept.*\"}", "10"), ("bad", "2"), ("bad{a=~\"v{16}.*\"}", "1")];
    for (selector, count) in COUNTS {
        let found = crate::query(addr, &format!("count({selector} @ 1700000000)")).await?;
        assert_eq!(found[0]["value"][1], count, "{selector}");
    }
    table.finish();
    hub.stop().await?;

    let hub = start(directory.path(), NO_SCRAPES, &[]).await?;
    for (selector, count) in COUNTS {
        let found = crate::query(hub.addr(), &format!("count({selector} @ 1700000000)")).await?;
        assert_eq!(found[0]["value"][1], count, "{selector} after a restart");
    }
    hub.stop().await
}
