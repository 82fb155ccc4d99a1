//! Ten thousand targets in one process: what they cost, and how evenly they are scraped.
//!
//! `cargo build --release -p marigraph && cargo run --release -p marigraph --example many_targets -- \
//!  target/release/marigraph [TARGETS [SERIES [INTERVAL_S [MEASURE_S]]]]`
//!
//! The simulator is this process, the hub a child with a store of its own; both are on loopback. After
//! three intervals of warm-up CPU, memory and descriptors of the child are taken over `MEASURE_S`
//! seconds, and then the store is asked for every timestamp of `up`: successive ones should be an
//! interval apart, and those of all targets spread evenly over it.
#![allow(clippy::print_stdout)]
#![allow(clippy::disallowed_methods)] // a measurement waits for another process

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use testkit::http::{Json, get};
use tokio::net::TcpListener;

/// What is asked for on the command line.
#[derive(Debug, Clone, Copy)]
struct Size {
    targets: usize,
    series: usize,
    interval_s: u64,
    measure_s: u64,
}

/// A child that does not outlive this process.
struct Hub(Child);

impl Drop for Hub {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy)]
struct Usage {
    cpu_s: f64,
    rss_mib: f64,
    descriptors: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((program, numbers)) = args.split_first() else {
        bail!("usage: many_targets MARIGRAPH [NUMBERS]")
    };
    let number = |at: usize, usual: u64| numbers.get(at).map_or(Ok(usual), |text| text.parse::<u64>());
    let size = Size {
        targets: usize::try_from(number(0, 10_000)?)?,
        series: usize::try_from(number(1, 50)?)?,
        interval_s: number(2, 15)?,
        measure_s: number(3, 120)?,
    };
    let scrapes = Arc::new(AtomicU64::new(0));
    let simulator = simulate(size.series, Arc::clone(&scrapes)).await?;
    let dir = tempfile::tempdir()?;
    let hub = start(Path::new(program), dir.path(), simulator, size)?;
    let addr = listening(dir.path())?;
    println!("{size:?}, hub at {addr}");
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(3 * size.interval_s)).await;
    println!("{} scrapes in the first {:?}", scrapes.load(Ordering::Relaxed), begun.elapsed());
    let (before, first) = (usage(hub.0.id())?, scrapes.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(size.measure_s)).await;
    let (after, last) = (usage(hub.0.id())?, scrapes.load(Ordering::Relaxed));
    let (cpu_s, scraped) = (after.cpu_s - before.cpu_s, last - first);
    let samples = scraped as f64 * (size.series + 5) as f64;
    println!(
        "{scraped} scrapes: CPU {:.1} % of a core, {:.2} s per M samples, {:.0} us a scrape",
        100.0 * cpu_s / size.measure_s as f64,
        cpu_s / samples * 1e6,
        cpu_s / scraped as f64 * 1e6
    );
    println!("RSS {:.0} MiB, {} descriptors", after.rss_mib, after.descriptors);
    evenness(addr, size).await?;
    for name in ["ticks_skipped_total", "failures_total", "lateness_seconds_bucket"] {
        let metrics = get(addr, "/metrics").await?.text();
        let begin = format!("marigraph_scrape_{name}");
        metrics.lines().filter(|line| line.starts_with(&begin)).for_each(|line| println!("{line}"));
    }
    Ok(())
}

/// A server that is as many targets as there are paths.
async fn simulate(series: usize, scrapes: Arc<AtomicU64>) -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let scrapes = Arc::clone(&scrapes);
            let service = service_fn(move |_: Request<Incoming>| {
                let body = exposition(series, scrapes.fetch_add(1, Ordering::Relaxed));
                async move {
                    let response = Response::builder().header("content-type", testkit::target::TEXT);
                    Ok::<_, Infallible>(response.body(Full::new(Bytes::from(body))).unwrap_or_default())
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    Ok(addr)
}

fn exposition(series: usize, round: u64) -> String {
    let mut body = String::with_capacity(series * 64);
    body.push_str("# TYPE requests_total counter\n");
    for i in 0..series {
        let value = round.wrapping_mul(i as u64 + 1) % 1_000_003;
        // Writing to a string cannot fail.
        _ = writeln!(body, "requests_total{{code=\"200\",handler=\"/api/v1/{i}\"}} {value}");
    }
    body
}

/// Starts the hub on targets that differ in their path.
fn start(program: &Path, dir: &Path, simulator: std::net::SocketAddr, size: Size) -> Result<Hub> {
    let groups: Vec<Json> = (0..size.targets)
        .map(|i| {
            let labels =
                BTreeMap::from([("instance", format!("t{i}")), ("__metrics_path__", format!("/{i}"))]);
            serde_json::json!({ "targets": [simulator.to_string()], "labels": labels })
        })
        .collect();
    std::fs::write(dir.join("targets.json"), serde_json::to_vec(&groups)?)?;
    let config = format!(
        "global: {{scrape_interval: {0}s, scrape_timeout: {0}s}}\nscrape_configs:\n  - job_name: many\n    \
         file_sd_configs: [{{files: [targets.json]}}]\n",
        size.interval_s
    );
    std::fs::write(dir.join("hub.yml"), config)?;
    let log = std::fs::File::create(dir.join("hub.log"))?;
    let child = Command::new(program)
        .args(["hub", "--listen", "127.0.0.1:0", "--data"])
        .arg(dir.join("data"))
        .arg("--config")
        .arg(dir.join("hub.yml"))
        .stdout(log.try_clone()?)
        .stderr(Stdio::from(log))
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    Ok(Hub(child))
}

/// Where the hub says that it listens.
fn listening(dir: &Path) -> Result<std::net::SocketAddr> {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        let log = std::fs::read_to_string(dir.join("hub.log"))?;
        let found = log
            .split("127.0.0.1:")
            .nth(1)
            .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        if let Some(port) = found.filter(|port| !port.is_empty() && port != "0") {
            return Ok(([127, 0, 0, 1], port.parse()?).into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("the hub does not listen: {}", std::fs::read_to_string(dir.join("hub.log"))?)
}

fn usage(pid: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("a process has a name")?;
    let ticks: Vec<f64> = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    let kib: f64 = rss.trim().trim_end_matches(" kB").parse()?;
    Ok(Usage {
        cpu_s: ticks.iter().sum::<f64>() / 100.0, // USER_HZ is 100 on every Linux of today
        rss_mib: kib / 1024.0,
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
    })
}

/// How far successive scrapes are from an interval apart, and how targets spread over the interval.
async fn evenness(addr: std::net::SocketAddr, size: Size) -> Result<()> {
    let path = format!("/api/v1/query?query=up%5B{}s%5D", size.measure_s);
    let answer = get(addr, &path).await?.json()?;
    let series = answer["data"]["result"].as_array().context("the query has an answer")?;
    let interval_ms = size.interval_s as f64 * 1000.0;
    let (mut off, mut slots, mut down) = (Vec::new(), vec![0usize; usize::try_from(size.interval_s)?], 0);
    for one in series {
        let samples = one["values"].as_array().map(Vec::as_slice).unwrap_or_default();
        let times: Vec<f64> =
            samples.iter().filter_map(|sample| sample[0].as_f64()).map(|s| s * 1000.0).collect();
        down += samples.iter().filter(|sample| sample[1] != "1").count();
        off.extend(times.windows(2).map(|two| (two[1] - two[0] - interval_ms).abs()));
        if let Some(first) = times.first() {
            slots[(first.rem_euclid(interval_ms) / 1000.0) as usize] += 1;
        }
    }
    off.sort_by(f64::total_cmp);
    let at =
        |share: f64| off.get((off.len() as f64 * share) as usize).or(off.last()).copied().unwrap_or(f64::NAN);
    println!(
        "{} targets, {} steps, {down} failed: off the schedule by 0 ms in {:.2} %, p99 {:.1} ms, worst {:.1} ms",
        series.len(),
        off.len(),
        100.0 * off.iter().filter(|ms| **ms < 0.5).count() as f64 / off.len().max(1) as f64,
        at(0.99),
        at(1.0)
    );
    let (least, most) = (slots.iter().min(), slots.iter().max());
    println!("targets in each second of the interval: {least:?} to {most:?}");
    Ok(())
}
