//! A real Prometheus that scrapes our federation, and one that reads through us.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use marigraph::cli::HubArgs;
use marigraph::hub::Hub;
use model::histogram::{Buckets, Span};
use model::{Histogram, Labels};
use serde_json::Value;
use testkit::http;
use testkit::peers::{self, Peer};
use testkit::push::{CONTENT_TYPE, Push};
use wire::remote_write::{EncoderV1, HistogramSample, SeriesToWrite, snappy_encode};

use crate::{compare, instant, queries, range, write};

/// Longest a test waits for a scrape.
const PATIENCE: Duration = Duration::from_secs(30);

async fn start_hub(directory: &Path, config: &str) -> Result<Hub> {
    let file = directory.join("marigraph.yml");
    std::fs::write(&file, config)?;
    let data = directory.join("marigraph");
    let words = [
        "--data",
        &data.to_string_lossy(),
        "--config",
        &file.to_string_lossy(),
        "--listen",
        "127.0.0.1:0",
        "--retention.time",
        "0",
    ];
    Hub::start(HubArgs::parse(words)?).await
}

async fn start_prometheus(program: &Path, directory: &Path, config: &str, features: &str) -> Result<Peer> {
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, config)?;
    let addr = peers::free_addr()?;
    let args = [
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", directory.join("data").display()),
        format!("--web.listen-address={addr}"),
        format!("--enable-feature={features}"),
        "--log.level=warn".to_owned(),
    ];
    Peer::start(program, &args, addr, "/-/ready").await
}

fn now_ms() -> Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_millis())?)
}

/// Three floats and a native histogram, of this moment.
async fn push_present(hub: &Hub) -> Result<()> {
    let now = now_ms()?;
    let mut push = Push::default();
    for labels in [
        Labels::from_pairs([("__name__", "tide"), ("buoy", "a\"b\\c"), ("instance", "here"), ("job", "sea")]),
        Labels::from_pairs([("__name__", "tide"), ("zone", "own")]),
        Labels::from_pairs([("__name__", "tide_total"), ("job", "sea")]),
    ] {
        push.floats(&labels, &[(now, 1.5)]);
    }
    let answer = push.send(hub.addr()).await?;
    anyhow::ensure!(answer.status == 204, "{}", answer.text());

    let labels = Labels::from_pairs([("__name__", "tide_seconds"), ("job", "sea")]);
    let histogram = Histogram {
        sum: 18.4,
        zero_threshold: 0.001,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        buckets: Buckets::Int { count: 7, zero_count: 1, positive: vec![2, 2], negative: vec![] },
        ..Histogram::stale()
    };
    let samples = [HistogramSample { timestamp_ms: now, histogram, start_timestamp_ms: 0 }];
    let mut encoder = EncoderV1::default();
    encoder.series(&SeriesToWrite { histograms: &samples, ..SeriesToWrite::floats(&labels, &[]) });
    let body = snappy_encode(&encoder.finish())?;
    let answer = http::post(hub.addr(), "/api/v1/write", CONTENT_TYPE, body).await?;
    anyhow::ensure!(answer.status == 204, "{}", answer.text());
    Ok(())
}

/// The labels and values of an instant query, sorted; once there are `count`.
async fn vector(addr: std::net::SocketAddr, query: &str, count: usize) -> Result<Vec<String>> {
    let begin = Instant::now();
    loop {
        let answer =
            http::get(addr, &format!("/api/v1/query?query={}", http::escape(query))).await?.json()?;
        let result = answer["data"]["result"].as_array().with_context(|| answer.to_string())?;
        if result.len() == count {
            let shown = |sample: &Value| format!("{} {}", sample["metric"], sample["value"][1]);
            let mut shown: Vec<String> = result.iter().map(shown).collect();
            shown.sort();
            return Ok(shown);
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "{query}: still {result:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_federates_from_us() -> Result<()> {
    let Some(program) = peers::program("prometheus") else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), "global: {external_labels: {zone: north}}\n").await?;
    push_present(&hub).await?;
    // with native histograms it asks for protobuf, without for OpenMetrics
    for features in ["expand-external-labels", "native-histograms"] {
        let own = directory.path().join(features);
        std::fs::create_dir_all(&own)?;
        let config = format!(
            "scrape_configs: [{{job_name: federate, honor_labels: true, metrics_path: /federate, \
             scrape_interval: 1s, scrape_timeout: 1s, params: {{'match[]': ['{{__name__=~\"tide.*\"}}']}}, \
             static_configs: [{{targets: ['{}']}}]}}]\n",
            hub.addr()
        );
        let prometheus = start_prometheus(&program, &own, &config, features).await?;
        let expected = [
            r#"{"__name__":"tide","buoy":"a\"b\\c","instance":"here","job":"sea","zone":"north"} "1.5""#,
            r#"{"__name__":"tide","job":"federate","zone":"own"} "1.5""#,
            r#"{"__name__":"tide_total","job":"sea","zone":"north"} "1.5""#,
        ];
        assert_eq!(
            vector(prometheus.addr, r#"{__name__=~"tide|tide_total"}"#, 3).await?,
            expected,
            "{features}"
        );
        if features == "native-histograms" {
            let count = vector(prometheus.addr, "histogram_count(tide_seconds)", 1).await?;
            assert_eq!(count, [r#"{"job":"sea","zone":"north"} "7""#]);
            let sum = vector(prometheus.addr, "histogram_sum(tide_seconds)", 1).await?;
            assert_eq!(sum, [r#"{"job":"sea","zone":"north"} "18.4""#]);
        }
    }
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_through_us() -> Result<()> {
    let Some(program) = peers::program("prometheus") else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), "global: {}\n").await?;
    write(hub.addr()).await?;
    let config = format!("remote_read: [{{url: 'http://{}/api/v1/read', read_recent: true}}]\n", hub.addr());
    let prometheus = start_prometheus(&program, directory.path(), &config, "expand-external-labels").await?;
    let mut differences = Vec::new();
    let mut compared = 0;
    // every query reads anew: a part of the list is enough here
    for query in queries::all().iter().step_by(23) {
        for path in [instant(query), range(query)] {
            compared += 1;
            if let Err(difference) = compare(prometheus.addr, hub.addr(), &path).await {
                differences.push(format!("{query}\n    {path}\n    {difference:#}"));
            }
        }
    }
    hub.stop().await?;
    assert!(compared > 10, "{compared} answers");
    assert!(differences.is_empty(), "{} differ:\n\n{}", differences.len(), differences.join("\n\n"));
    Ok(())
}
