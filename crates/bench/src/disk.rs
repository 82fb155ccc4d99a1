//! Bytes a sample on disk: back-dated rows by remote write, then flush and merge.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use testkit::http as client;

use crate::data::{Series, Timeline};
use crate::process::{self, directory_bytes};
use crate::report::Verdicts;
use crate::sender;
use crate::system::{Running, System};

/// Samples of one series in a body.
const ROWS_A_BODY: usize = 20;
const START_MS: i64 = 1_700_000_000_000;
const INTERVAL_MS: i64 = 15_000;
/// How long VictoriaMetrics is given for what was forced.
const SETTLE: Duration = Duration::from_secs(15);

/// Sizes of the workload.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) targets: usize,
    /// At most as many as the recording has, where one is given.
    pub(crate) rows: usize,
    pub(crate) jitter_ms: i64,
    /// A directory of scrapes to be used in place of the recording.
    pub(crate) recording: Option<PathBuf>,
}

/// Loads each system in turn, and prints what remains on disk.
pub(crate) async fn run(workload: Workload, verdicts: &mut Verdicts) -> Result<()> {
    let Workload { targets, mut rows, jitter_ms, recording } = workload;
    let data = match recording {
        None => Series::new(targets * testkit::recorded::SERIES, "bench")?,
        Some(directory) => {
            let recorded = crate::recording::read(&directory)?;
            rows = rows.min(recorded.rows.len());
            Series::of_targets(recorded, targets, "bench")
        }
    };
    let samples = (data.len() * rows) as f64;
    let timeline = Timeline { start_ms: START_MS, interval_ms: INTERVAL_MS, phases: false, jitter_ms };
    let width = data.len() / targets;
    println!("disk: {targets} targets x {width} series x {rows} rows at 15 s, 0-{jitter_ms} ms of jitter");
    println!("{:<18} {:>10} {:>14} {:>12}", "system", "MiB", "B/sample", "CPU s per M");
    let mut bytes = Vec::new();
    for system in System::ALL {
        let directory = tempfile::tempdir()?;
        let running = system.start(directory.path(), "global: {}\n").await?;
        sender::load(running.peer.addr, &data, 0..rows, ROWS_A_BODY, &timeline).await?;
        let cpu = process::usage(running.peer.id())?.cpu_seconds;
        let settled = settled_bytes(system, running).await? as f64;
        println!(
            "{:<18} {:>10.1} {:>14.3} {:>12.2}",
            system.name(),
            settled / 1048576.0,
            settled / samples,
            cpu / (samples / 1e6)
        );
        bytes.push(settled);
    }
    let what = if jitter_ms > 0 { format!("0-{jitter_ms} ms of jitter") } else { "aligned".to_owned() };
    let goal = if jitter_ms > 0 { 0.6 } else { 0.9 };
    verdicts.at_most(format!("disk, {what}: bytes / victoria-metrics"), bytes[0] / bytes[2], goal);
    verdicts.at_most(format!("disk, {what}: bytes / prometheus"), bytes[0] / bytes[1], 0.25);
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
            process::settle(running.peer.id()).await?;
            Ok(directory_bytes(&running.data.join("data")) + directory_bytes(&running.data.join("indexdb")))
        }
        System::Marigraph => {
            let Running { peer, data } = running;
            peer.terminate()?;
            flush_and_merge(&data)?;
            Ok(directory_bytes(&data))
        }
    }
}

/// What the half-hourly flush and the merges of a running hub would do to its directory in time: there
/// is no request for it, so the process must have ended.
pub(crate) fn flush_and_merge(data: &Path) -> Result<()> {
    let config = tsdb::Config { retention: None, background: false, ..tsdb::Config::new(data) };
    let store = tsdb::Db::open(config)?;
    store.flush().map_err(|error| anyhow::anyhow!("flush: {error}"))?;
    store.compact().map_err(|error| anyhow::anyhow!("merge: {error}"))?;
    store.close()?;
    Ok(())
}
