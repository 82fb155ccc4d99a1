//! Remote write in, answers out; what it refuses.

use anyhow::Result;
use model::Labels;
use testkit::http;
use testkit::push::Push;

use crate::{query, start_hub};

const NO_SCRAPES: &str = "global: {}\n";

#[tokio::test(flavor = "multi_thread")]
async fn samples_at_any_time_are_kept_and_found() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(NO_SCRAPES)).await?;
    // The epoch, 1987, and 2023, newest first: late samples are welcome at this door.
    for (time_ms, number) in [(1_700_000_000_000, 3.0), (536_457_600_000, 2.0), (1_000, 1.0)] {
        let mut request = Push::default();
        request.floats(&Labels::from_pairs([("__name__", "tide"), ("job", "harbour")]), &[(time_ms, number)]);
        let answer = request.send(hub.addr()).await?;
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
    for (time_s, number) in [(1, "1"), (536_457_600, "2"), (1_700_000_000, "3")] {
        let answer =
            http::get(hub.addr(), &format!("/api/v1/query?query=tide&time={time_s}")).await?.json()?;
        assert_eq!(answer["data"]["result"][0]["value"][1], number, "{answer}");
    }
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_there_after_a_clean_restart() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(NO_SCRAPES)).await?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    let mut request = Push::default();
    request.floats(&Labels::from_pairs([("__name__", "tide")]), &[(now - 1000, 7.5)]);
    let answer = request.send(hub.addr()).await?;
    assert_eq!(answer.status, 204, "{}", answer.text());
    hub.stop().await?;
    let hub = start_hub(directory.path(), Some(NO_SCRAPES)).await?;
    let result = query(hub.addr(), "tide").await?;
    assert_eq!(result[0]["value"][1], "7.5");
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused_with_a_reason() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(NO_SCRAPES)).await?;
    let cases: &[(&str, &[u8], u16)] = &[
        ("application/x-protobuf", b"not snappy", 400),
        ("text/plain", b"", 415),
        ("application/x-protobuf;proto=io.prometheus.write.v3.Request", b"", 415),
        ("application/x-protobuf", b"\xff\xff\xff\xff\x0f", 413),
    ];
    for (content_type, body, status) in cases {
        let answer = http::post(hub.addr(), "/api/v1/write", content_type, body.to_vec()).await?;
        assert_eq!(answer.status, *status, "{content_type}: {}", answer.text());
        assert!(!answer.text().is_empty(), "{content_type}: a refusal says why");
    }
    assert_eq!(http::get(hub.addr(), "/-/ready").await?.status, 200);
    hub.stop().await
}
