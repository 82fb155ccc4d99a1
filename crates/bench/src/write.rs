//! Remote write of known and new series, then `kill -9` and restart.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use testkit::http as client;

use crate::data::{BODY_SAMPLES, Series, Timeline};
use crate::process;
use crate::report::{Spread, Verdicts};
use crate::sender;
use crate::system::System;

const TIMELINE: Timeline =
    Timeline { start_ms: 1_700_000_000_000, interval_ms: 15_000, phases: false, jitter_ms: 0 };
/// CPU is counted until this long after the last acknowledgement, so that merges are in.
const SETTLE: Duration = Duration::from_secs(15);

/// Sizes of the workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) series: usize,
    /// Labels of every series, at least.
    pub(crate) labels: usize,
    /// Rows sent after the first, which makes the series.
    pub(crate) rounds: usize,
    /// How often everything is done.
    pub(crate) runs: usize,
}

/// What one run of one system cost.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    new_per_cpu_s: f64,
    known_per_cpu_s: f64,
    rss_bytes: f64,
    ready_s: f64,
    ready_cpu_s: f64,
}

/// Loads each system in turn, kills it and starts it again.
pub(crate) async fn run(workload: Workload, verdicts: &mut Verdicts) -> Result<()> {
    let Workload { series, labels, rounds, runs } = workload;
    let data = Series::new(series, "bench")?.padded(labels);
    let mean = data.labels.iter().map(|labels| labels.len()).sum::<usize>() as f64 / series as f64;
    println!(
        "remote write: {series} series of {mean:.1} labels, 1 + {rounds} rounds, {BODY_SAMPLES} samples a body, 2 connections"
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
    let mut ratios: [Spread; 4] = Default::default();
    let mut per_series = Spread::default();
    for _ in 0..runs {
        let mut outcomes = Vec::new();
        for system in System::ALL {
            outcomes.push(ingest(system, &data, rounds).await?);
        }
        let [ours, prometheus, victoria] = outcomes[..] else { anyhow::bail!("three systems") };
        ratios[0].add(ours.known_per_cpu_s / victoria.known_per_cpu_s);
        ratios[1].add(ours.new_per_cpu_s / prometheus.new_per_cpu_s);
        ratios[2].add(ours.ready_cpu_s / prometheus.ready_cpu_s);
        ratios[3].add(ours.ready_s / prometheus.ready_s);
        per_series.add(ours.rss_bytes / series as f64);
    }
    let [known, new, ready_cpu, ready] = ratios;
    verdicts.at_least(
        format!("remote write, {series} known series: per CPU s / victoria-metrics"),
        known,
        3.0,
    );
    verdicts.at_least(format!("remote write, {series} new series: per CPU s / prometheus"), new, 2.0);
    verdicts.at_most("restart after kill -9: CPU s / prometheus", ready_cpu, 0.25);
    verdicts.at_most("restart after kill -9: time to ready / prometheus", ready, 1.0);
    verdicts.at_most(format!("{series} active series: RSS bytes a series"), per_series, 700.0);
    Ok(())
}

async fn ingest(system: System, data: &Series, rounds: usize) -> Result<Outcome> {
    let series = data.len();
    let directory = tempfile::tempdir()?;
    let running = system.start(directory.path(), "global: {}\n").await?;
    let addr = running.peer.addr;
    let cpu = || Ok::<_, anyhow::Error>(process::usage(running.peer.id())?.cpu_seconds);
    let idle = cpu()?;
    sender::load(addr, data, 0..1, 1, &TIMELINE).await?;
    let after_new = cpu()?;
    sender::load(addr, data, 1..rounds + 1, 1, &TIMELINE).await?;
    tokio::time::sleep(SETTLE).await;
    let usage = process::usage(running.peer.id())?;
    // VictoriaMetrics does not store NaN, so that some are missing before the kill.
    let missing_before = missing(addr, series, rounds).await?;
    drop(running); // kill -9
    let begin = Instant::now();
    let running = system.start(directory.path(), "global: {}\n").await?;
    let ready_s = begin.elapsed().as_secs_f64();
    let ready_cpu_s = process::usage(running.peer.id())?.cpu_seconds;
    let lost = missing(running.peer.addr, series, rounds).await? - missing_before;
    let outcome = Outcome {
        new_per_cpu_s: series as f64 / (after_new - idle),
        known_per_cpu_s: (series * rounds) as f64 / (usage.cpu_seconds - after_new),
        rss_bytes: usage.rss_mib * 1048576.0,
        ready_s,
        ready_cpu_s,
    };
    println!(
        "{:<18} {:>16.0} {:>20.0} {:>10.0} {:>10.0} {:>14.2} {:>12.2} {missing_before:>8} {lost:>6}",
        system.name(),
        outcome.new_per_cpu_s,
        outcome.known_per_cpu_s,
        usage.rss_mib,
        outcome.rss_bytes / series as f64,
        ready_s,
        ready_cpu_s,
    );
    Ok(outcome)
}

/// How many of the samples sent are not found, by query, metric by metric: names vanish in
/// `count_over_time`, and two series must not become one.
async fn missing(addr: SocketAddr, series: usize, rounds: usize) -> Result<i64> {
    let (start_s, end_s) = (
        TIMELINE.start_ms / 1000 - 1,
        TIMELINE.start_ms / 1000 + rounds as i64 * TIMELINE.interval_ms / 1000 + 1,
    );
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
