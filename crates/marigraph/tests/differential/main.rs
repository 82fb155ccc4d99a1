//! The same samples and the same queries, by HTTP, to the real Prometheus and to ours: values,
//! errors and label sets must agree.
//!
//! Debian's Prometheus is 2.42; `docs/guide/http-api.md` lists where Prometheus 3 means something
//! else. The data keep clear of those places (no sample on the edge of a window).

mod data;
mod exchange;
mod queries;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use data::{INTERVAL_MS, ROWS, START_MS};
use marigraph::cli::HubArgs;
use marigraph::hub::Hub;
use serde_json::Value;
use testkit::peers::Peer;
use testkit::push::Push;
use testkit::{http, peers};

/// Two values that differ by less than this share count as equal: Prometheus 2.42 sums without
/// compensation.
const TOLERANCE: f64 = 1e-9;

#[tokio::test(flavor = "multi_thread")]
async fn answers_agree_with_prometheus() -> Result<()> {
    let Some(program) = peers::program("prometheus") else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let prometheus = Peer::prometheus(&program, directory.path(), "global: {}\n").await?;
    let data = directory.path().join("marigraph");
    let config = directory.path().join("marigraph.yml");
    std::fs::write(&config, "global: {}\n")?;
    let words = [
        "--data",
        &data.to_string_lossy(),
        "--config",
        &config.to_string_lossy(),
        "--listen",
        "127.0.0.1:0",
        "--retention.time",
        "0",
    ];
    let hub = Hub::start(HubArgs::parse(words)?).await?;
    for addr in [prometheus.addr, hub.addr()] {
        write(addr).await.with_context(|| format!("write to {addr}"))?;
    }

    let mut differences = Vec::new();
    let mut compared = 0;
    for query in queries::all() {
        for path in [instant(&query), range(&query)] {
            compared += 1;
            if let Err(difference) = compare(prometheus.addr, hub.addr(), &path).await {
                differences.push(format!("{query}\n    {path}\n    {difference:#}"));
            }
        }
    }
    for query in queries::FAILING {
        compared += 1;
        if let Err(difference) = compare_failure(prometheus.addr, hub.addr(), &instant(query)).await {
            differences.push(format!("{query}\n    {difference:#}"));
        }
    }
    for path in METADATA_PATHS {
        compared += 1;
        if let Err(difference) = compare(prometheus.addr, hub.addr(), path).await {
            differences.push(format!("{path}\n    {difference:#}"));
        }
    }
    hub.stop().await?;
    eprintln!("{compared} answers compared");
    assert!(
        differences.is_empty(),
        "{} of {compared} answers differ:\n\n{}",
        differences.len(),
        differences.join("\n\n")
    );
    Ok(())
}

/// Series and label requests whose whole `data` must agree.
const METADATA_PATHS: &[&str] = &[
    "/api/v1/labels?start=1700000000&end=1700004000",
    "/api/v1/labels?match[]=demo_num_cpus&start=1700000000&end=1700004000",
    "/api/v1/label/instance/values?start=1700000000&end=1700004000",
    "/api/v1/label/__name__/values?match[]={mode!=%22%22}&start=1700000000&end=1700004000",
    "/api/v1/series?match[]={__name__=~%22demo_num.*%22}&start=1700000000&end=1700004000",
    "/api/v1/series?match[]=demo_memory_usage_bytes{type=%22free%22}&match[]=demo_num_cpus&start=1700000000&end=1700004000",
    "/api/v1/series?match[]=demo_none&start=1700000000&end=1700004000",
];

fn instant(query: &str) -> String {
    let time = (START_MS + 200 * INTERVAL_MS) / 1000 + 3;
    format!("/api/v1/query?query={}&time={time}", http::escape(query))
}

fn range(query: &str) -> String {
    let (start, end) = (START_MS / 1000 - 17, (START_MS + ROWS * INTERVAL_MS) / 1000 + 400);
    format!("/api/v1/query_range?query={}&start={start}&end={end}&step=30", http::escape(query))
}

async fn write(addr: SocketAddr) -> Result<()> {
    let series = data::series();
    for rows in 0..ROWS.div_euclid(20) {
        let from = START_MS + rows * 20 * INTERVAL_MS;
        let within = from..from + 20 * INTERVAL_MS;
        let mut request = Push::default();
        for series in &series {
            let samples: Vec<(i64, f64)> =
                series.samples.iter().copied().filter(|(time, _)| within.contains(time)).collect();
            if !samples.is_empty() {
                request.floats(&series.labels, &samples);
            }
        }
        let answer = request.send(addr).await?;
        anyhow::ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
    }
    Ok(())
}

async fn compare(theirs: SocketAddr, ours: SocketAddr, path: &str) -> Result<()> {
    let (theirs, ours) = (http::get(theirs, path).await?, http::get(ours, path).await?);
    anyhow::ensure!(
        theirs.status == ours.status,
        "status {} became {}: {}",
        theirs.status,
        ours.status,
        ours.text()
    );
    let (theirs, ours) = (theirs.json()?, ours.json()?);
    anyhow::ensure!(theirs["status"] == ours["status"], "{theirs} became {ours}");
    same(&normal(&theirs["data"]), &normal(&ours["data"])).with_context(|| {
        let show = |value: &Value| value.to_string().chars().take(600).collect::<String>();
        format!("theirs {}\n    ours   {}", show(&theirs["data"]), show(&ours["data"]))
    })
}

async fn compare_failure(theirs: SocketAddr, ours: SocketAddr, path: &str) -> Result<()> {
    let (theirs, ours) = (http::get(theirs, path).await?, http::get(ours, path).await?);
    let (status, our_status) = (theirs.status, ours.status);
    let (theirs, ours) = (theirs.json()?, ours.json()?);
    anyhow::ensure!(
        status == our_status && theirs["errorType"] == ours["errorType"],
        "theirs {status} {theirs}\n    ours   {our_status} {ours}"
    );
    Ok(())
}

/// Results in an order that does not depend on the server: by labels, except where a query sorts.
fn normal(data: &Value) -> Value {
    let mut data = data.clone();
    if let Some(result) = data.get_mut("result").and_then(Value::as_array_mut) {
        let labels = |entry: &Value| -> BTreeMap<String, String> {
            serde_json::from_value(entry["metric"].clone()).unwrap_or_default()
        };
        if result.iter().all(|entry| entry.get("metric").is_some()) {
            result.sort_by_cached_key(labels);
        }
    }
    data
}

/// Equal, numbers (as text, too) within [`TOLERANCE`].
fn same(theirs: &Value, ours: &Value) -> Result<()> {
    match (theirs, ours) {
        (Value::Array(a), Value::Array(b)) => {
            anyhow::ensure!(a.len() == b.len(), "{} entries became {}", a.len(), b.len());
            a.iter()
                .zip(b)
                .enumerate()
                .try_for_each(|(at, (a, b))| same(a, b).with_context(|| format!("[{at}]")))
        }
        (Value::Object(a), Value::Object(b)) => {
            anyhow::ensure!(a.keys().eq(b.keys()), "keys {:?} became {:?}", a.keys(), b.keys());
            a.iter().try_for_each(|(key, value)| same(value, &b[key]).with_context(|| key.clone()))
        }
        (Value::String(a), Value::String(b)) if a != b => {
            let (x, y): (f64, f64) = (a.parse().context(a.clone())?, b.parse().context(b.clone())?);
            let close = (x - y).abs() <= TOLERANCE * x.abs().max(y.abs());
            anyhow::ensure!(close, "{a} became {b}");
            Ok(())
        }
        (a, b) => {
            anyhow::ensure!(a == b, "{a} became {b}");
            Ok(())
        }
    }
}
