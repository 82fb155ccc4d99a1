//! Scrape and store: all systems at once against one simulator, for as long.

use std::time::{Duration, Instant};

use anyhow::Result;
use testkit::http as client;

use crate::process::{self, Usage};
use crate::report::{Spread, Verdicts};
use crate::simulator::{Content, Simulator};
use crate::system::System;

/// How often resident memory is looked at: what a flush or a merge takes comes and goes.
const RESIDENT_EVERY: Duration = Duration::from_secs(5);

/// Sizes of the workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) targets: usize,
    pub(crate) interval_seconds: u64,
    pub(crate) warm_up_seconds: u64,
    pub(crate) measured_seconds: u64,
}

/// Runs the workload and prints a row for each system.
pub(crate) async fn run(workload: Workload, verdicts: &mut Verdicts) -> Result<()> {
    let simulator = Simulator::start(Content::Recorded, workload.targets).await?;
    let config = simulator.config(workload.targets, &format!("{}s", workload.interval_seconds));
    let directory = tempfile::tempdir()?;
    let mut running = Vec::new();
    for system in System::ALL {
        running.push((system, system.start(directory.path(), &config).await?));
    }
    tokio::time::sleep(Duration::from_secs(workload.warm_up_seconds)).await;
    let before: Vec<Usage> = usages(&running)?;
    let served_before = simulator.served();
    let mut resident = vec![Spread::default(); running.len()];
    let end = Instant::now() + Duration::from_secs(workload.measured_seconds);
    while Instant::now() < end {
        tokio::time::sleep(RESIDENT_EVERY).await;
        for (spread, usage) in resident.iter_mut().zip(usages(&running)?) {
            spread.add(usage.rss_mib);
        }
    }
    let after: Vec<Usage> = usages(&running)?;
    let rows = (simulator.served() - served_before) as f64 / running.len() as f64;
    let samples = rows * testkit::recorded::SERIES as f64;
    println!(
        "scrape: {} targets x {} series every {} s, gzip; {:.1} M samples each in {} s",
        workload.targets,
        testkit::recorded::SERIES,
        workload.interval_seconds,
        samples / 1e6,
        workload.measured_seconds
    );
    println!(
        "{:<18} {:>14} {:>18} {:>10} {:>16} {:>12}",
        "system", "CPU s per M", "RSS MiB", "peak MiB", "B written/sample", "series found"
    );
    let cost = |at: usize| {
        let cpu = after[at].cpu_seconds - before[at].cpu_seconds;
        (cpu, (after[at].written_mib - before[at].written_mib) * 1048576.0)
    };
    for (at, (system, _)) in running.iter().enumerate() {
        let (cpu, written) = cost(at);
        let series = series_now(running[at].1.peer.addr).await?;
        println!(
            "{:<18} {:>14.2} {:>18} {:>10.0} {:>16.2} {series:>12}",
            system.name(),
            cpu / (samples / 1e6),
            format!("{:.0}", resident[at]),
            after[at].peak_mib,
            written / samples
        );
    }
    // In the order of `System::ALL`.
    let (ours, prometheus) = (cost(0), cost(1));
    verdicts.at_most("scrape: CPU / prometheus", ours.0 / prometheus.0, 0.4);
    verdicts.at_most(
        "scrape: steady RSS / victoria-metrics",
        resident[0].median() / resident[2].median(),
        0.7,
    );
    verdicts.at_most("scrape: peak RSS / victoria-metrics", after[0].peak_mib / after[2].peak_mib, 0.5);
    verdicts.at_most("scrape: bytes written / prometheus", ours.1 / prometheus.1, 0.5);
    Ok(())
}

/// Series that have a sample now: each target's own, and those each system adds (`up`, ...).
async fn series_now(addr: std::net::SocketAddr) -> Result<String> {
    let path = format!("/api/v1/query?query={}", client::escape("count({job=\"bench\"})"));
    let answer = client::get(addr, &path).await?.json()?;
    Ok(answer["data"]["result"][0]["value"][1].as_str().unwrap_or("none").to_owned())
}

fn usages(running: &[(System, crate::system::Running)]) -> Result<Vec<Usage>> {
    running.iter().map(|(_, r)| process::usage(r.peer.id())).collect()
}
