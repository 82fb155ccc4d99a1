//! Remote write: known series, restart after `kill -9`, bytes on disk.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use model::Labels;
use testkit::http as client;
use testkit::push::Push;
use testkit::recorded::Recorded;
use tokio::net::TcpStream;

use crate::process::{self, directory_bytes};
use crate::system::{Running, System};

const START_MS: i64 = 1_700_000_000_000;
const INTERVAL_MS: i64 = 15_000;
/// Samples in a body.
const BODY_SAMPLES: usize = 2000;
/// Samples of one series in a body of back-dated rows.
const ROWS_A_BODY: usize = 20;
/// CPU is counted until this long after the last acknowledgement, so that merges are in.
const SETTLE: Duration = Duration::from_secs(15);

/// A connection that stays open.
struct Sender {
    addr: SocketAddr,
    connection: SendRequest<Full<Bytes>>,
}

impl Sender {
    async fn connect(addr: SocketAddr) -> Result<Sender> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(Sender { addr, connection })
    }

    async fn write(&mut self, path: &str, body: Bytes) -> Result<()> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, self.addr.to_string())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::CONTENT_ENCODING, "snappy")
            .header("x-prometheus-remote-write-version", "0.1.0")
            .body(Full::new(body))?;
        self.connection.ready().await?;
        let response = self.connection.send_request(request).await?;
        let status = response.status();
        let text = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&text));
        Ok(())
    }
}

/// The labels of `count` series: the recording's, once for each of as many targets as it takes.
fn labels(recorded: &Recorded, count: usize) -> Vec<Labels> {
    let series: Vec<(&str, &str)> = recorded
        .exposition
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.rsplit_once(" @")?.0))
        .map(|series| {
            series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest.trim_end_matches('}')))
        })
        .collect();
    (0..count)
        .map(|at| {
            let target = at / series.len();
            let (name, pairs) = series[at % series.len()];
            let mut all = vec![
                ("__name__".to_owned(), name.to_owned()),
                ("cluster".to_owned(), format!("c{}", target % 4)),
                ("instance".to_owned(), format!("10.0.{}.{}:9100", target / 250, target % 250)),
                ("job".to_owned(), "bench".to_owned()),
            ];
            all.extend(split_pairs(pairs));
            Labels::from_pairs(all)
        })
        .collect()
}

/// `a="1",b="2"`; the recording has no escapes that matter here.
fn split_pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let Some((value, after)) = after.split_once('"') else { break };
        pairs.push((name.trim_start_matches(',').to_owned(), value.to_owned()));
        rest = after;
    }
    pairs
}

fn value(recorded: &Recorded, series: usize, row: usize) -> f64 {
    let width = testkit::recorded::SERIES;
    recorded.rows[(row + series / width * 131) % recorded.rows.len()][series % width]
}

/// Known series, two connections, one sample of a series in a body; then `kill -9` and restart.
pub(crate) async fn ingest(series: usize, rounds: usize) -> Result<()> {
    let recorded = testkit::recorded::load()?.context("the recording is not there")?;
    let labels = labels(&recorded, series);
    let body = |first: usize, round: usize| -> Result<Bytes> {
        let mut request = Push::default();
        let time_ms = START_MS + round as i64 * INTERVAL_MS;
        for (at, labels) in labels.iter().enumerate().skip(first).take(BODY_SAMPLES) {
            request.floats(labels, &[(time_ms, value(&recorded, at, round))]);
        }
        request.body()
    };
    println!(
        "remote write: {series} series, 1 + {rounds} rounds, {BODY_SAMPLES} samples a body, 2 connections"
    );
    println!(
        "{:<18} {:>16} {:>20} {:>10} {:>10} {:>14} {:>12} {:>8} {:>6}",
        "system",
        "new series/CPU s",
        "known samples/CPU s",
        "RSS MiB",
        "B/series",
        "ready after s",
        "CPU s ready",
        "missing",
        "lost"
    );
    for system in System::ALL {
        let directory = tempfile::tempdir()?;
        let running = system.start(directory.path(), "global: {}\n").await?;
        let mut senders =
            [Sender::connect(running.peer.addr).await?, Sender::connect(running.peer.addr).await?];
        let cpu = || Ok::<_, anyhow::Error>(process::usage(running.peer.id())?.cpu_seconds);
        let idle = cpu()?;
        let mut after_new = idle;
        for round in 0..=rounds {
            let [left, right] = &mut senders;
            let half = series / BODY_SAMPLES / 2 * BODY_SAMPLES;
            let send = |sender, range| send_all(sender, system.write_path(), range, round, &body);
            tokio::try_join!(send(left, 0..half), send(right, half..series))?;
            if round == 0 {
                after_new = cpu()?;
            }
        }
        tokio::time::sleep(SETTLE).await;
        let usage = process::usage(running.peer.id())?;
        let known = (series * rounds) as f64 / (usage.cpu_seconds - after_new);
        // VictoriaMetrics does not store NaN, so that some are missing before the kill.
        let missing_before = missing(running.peer.addr, series, rounds).await?;
        drop((senders, running)); // kill -9
        let begin = Instant::now();
        let running = system.start(directory.path(), "global: {}\n").await?;
        let ready = begin.elapsed().as_secs_f64();
        let ready_cpu = process::usage(running.peer.id())?.cpu_seconds;
        let lost = missing(running.peer.addr, series, rounds).await? - missing_before;
        println!(
            "{:<18} {:>16.0} {:>20.0} {:>10.0} {:>10.0} {:>14.2} {:>12.2} {missing_before:>8} {:>6}",
            system.name(),
            series as f64 / (after_new - idle),
            known,
            usage.rss_mib,
            usage.rss_mib * 1048576.0 / series as f64,
            ready,
            ready_cpu,
            lost
        );
    }
    Ok(())
}

async fn send_all(
    sender: &mut Sender,
    path: &str,
    range: std::ops::Range<usize>,
    round: usize,
    body: &impl Fn(usize, usize) -> Result<Bytes>,
) -> Result<()> {
    for first in range.step_by(BODY_SAMPLES) {
        sender.write(path, body(first, round)?).await?;
    }
    Ok(())
}

/// How many of the samples sent are not found, by query, metric by metric: names vanish in
/// `count_over_time`, and two series must not become one.
async fn missing(addr: SocketAddr, series: usize, rounds: usize) -> Result<i64> {
    let (start_s, end_s) = (START_MS / 1000 - 1, START_MS / 1000 + rounds as i64 * INTERVAL_MS / 1000 + 1);
    let path = format!("/api/v1/label/__name__/values?start={start_s}&end={end_s}");
    let names = client::get(addr, &path).await?.json()?;
    let mut found = 0.0;
    for name in names["data"].as_array().context("a list of names")? {
        let name = name.as_str().context("a name")?;
        let query = format!("sum(count_over_time({name}{{job=\"bench\"}}[{}s]))", end_s - start_s);
        let path = format!("/api/v1/query?query={}&time={end_s}&nocache=1", client::escape(&query));
        let answer = client::get(addr, &path).await?.json()?;
        let count =
            answer["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse::<f64>().ok());
        found += count.unwrap_or_default();
    }
    Ok((series * (rounds + 1)) as i64 - found as i64)
}

/// Back-dated rows, 0-5 ms of jitter a row of a target, then flush and merge.
pub(crate) async fn disk(targets: usize) -> Result<()> {
    let recorded = testkit::recorded::load()?.context("the recording is not there")?;
    let width = testkit::recorded::SERIES;
    let labels = labels(&recorded, targets * width);
    let rows = recorded.rows.len() / ROWS_A_BODY * ROWS_A_BODY;
    let samples = (labels.len() * rows) as f64;
    println!("disk: {targets} targets x {width} series x {rows} rows at 15 s with 0-5 ms of jitter");
    println!("{:<18} {:>10} {:>14} {:>12}", "system", "MiB", "B/sample", "CPU s per M");
    for system in System::ALL {
        let directory = tempfile::tempdir()?;
        let running = system.start(directory.path(), "global: {}\n").await?;
        let mut sender = Sender::connect(running.peer.addr).await?;
        for first_row in (0..rows).step_by(ROWS_A_BODY) {
            for first in (0..labels.len()).step_by(BODY_SAMPLES / ROWS_A_BODY) {
                let mut request = Push::default();
                for (at, labels) in labels.iter().enumerate().skip(first).take(BODY_SAMPLES / ROWS_A_BODY) {
                    let row = |row: usize| {
                        let jitter = (at / width * 7919 + row * 104_729) % 6;
                        let time_ms = START_MS + row as i64 * INTERVAL_MS + jitter as i64;
                        (time_ms, value(&recorded, at, row))
                    };
                    let samples: Vec<(i64, f64)> = (first_row..first_row + ROWS_A_BODY).map(row).collect();
                    request.floats(labels, &samples);
                }
                sender.write(system.write_path(), request.body()?).await?;
            }
        }
        let cpu = process::usage(running.peer.id())?.cpu_seconds;
        let bytes = settled_bytes(system, running).await?;
        println!(
            "{:<18} {:>10.1} {:>14.3} {:>12.2}",
            system.name(),
            bytes as f64 / 1048576.0,
            bytes as f64 / samples,
            cpu / (samples / 1e6)
        );
    }
    Ok(())
}

/// Flushes and merges as each system does it on demand; the bytes that remain.
async fn settled_bytes(system: System, running: Running) -> Result<u64> {
    let addr = running.peer.addr;
    match system {
        System::Prometheus => {
            let answer = client::post(addr, "/api/v1/admin/tsdb/snapshot", "text/plain", "").await?;
            let name = answer.json()?["data"]["name"].as_str().context("a snapshot's name")?.to_owned();
            Ok(directory_bytes(&running.data.join("snapshots").join(name)))
        }
        System::VictoriaMetrics => {
            client::get(addr, "/internal/force_flush").await?;
            client::get(addr, "/internal/force_merge").await?;
            tokio::time::sleep(SETTLE).await;
            Ok(directory_bytes(&running.data.join("data")) + directory_bytes(&running.data.join("indexdb")))
        }
        System::Marigraph => {
            // There is no request for it yet: end the process, then flush and merge its directory here.
            let Running { peer, data } = running;
            peer.terminate()?;
            let config = tsdb::Config { retention: None, background: false, ..tsdb::Config::new(&data) };
            let store = tsdb::Db::open(config)?;
            store.flush().map_err(|error| anyhow::anyhow!("flush: {error}"))?;
            store.compact().map_err(|error| anyhow::anyhow!("merge: {error}"))?;
            store.close()?;
            Ok(directory_bytes(&data))
        }
    }
}
