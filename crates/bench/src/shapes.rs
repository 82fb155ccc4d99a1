//! Worst shapes: what rows of targets are not. Each beside the scrape of ordinary targets with as many
//! series, and beside the peers.

pub(crate) mod bodies;

use std::time::Duration;

use anyhow::Result;
use model::Labels;
use testkit::push::Push;
use testkit::recorded::SERIES;

use self::bodies::{CONTAINER_SERIES, Huge, OwnTimes, mixed};
use crate::process::{self, Usage};
use crate::report::Verdicts;
use crate::sender::{Sender, WRITE_PATH};
use crate::simulator::{Content, Simulator};
use crate::system::System;

/// Sizes of the workload.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    /// Series in each shape.
    pub(crate) series: usize,
    pub(crate) warm_up_seconds: u64,
    pub(crate) measured_seconds: u64,
    /// Only shapes of these names; all without.
    pub(crate) only: Vec<String>,
}

/// One in so many pods of the huge target is replaced at every scrape.
const CHURN: usize = 50;
const SCRAPE_SECONDS: u64 = 10;
/// Rows pushed of every series, the first of which makes it.
const PUSHED_ROWS: usize = 20;
const PUSHED_START_MS: i64 = 1_700_000_000_000;
/// CPU of a pushed shape is counted until this long after the last acknowledgement.
const SETTLE: Duration = Duration::from_secs(15);
const BODY_SAMPLES: usize = 2000;

/// What a shape cost the systems, in the order of [`System::ALL`].
struct Costs {
    cpu_s_per_m: [f64; 3],
    rss_per_series: [f64; 3],
}

/// Runs every shape and prints a row for each.
pub(crate) async fn run(workload: &Workload, verdicts: &mut Verdicts) -> Result<()> {
    println!("worst shapes: {} series each; CPU s per M samples, RSS bytes a series", workload.series);
    println!("{:<26} {:>22} {:>22} {:>22}", "shape", "marigraph", "prometheus", "victoria-metrics");
    let ordinary = (workload.series / SERIES).max(1);
    let huge = Huge { series: workload.series, churn: CHURN };
    let own = OwnTimes { containers: 50 };
    let shapes: [(&str, Shape); 5] = [
        ("ordinary targets", Shape::Scraped(Content::Recorded, ordinary, SERIES)),
        ("one huge target, churning", Shape::Scraped(Content::Huge(huge), 1, workload.series)),
        (
            "times of their own",
            Shape::Scraped(
                Content::OwnTimes(own),
                workload.series / own.containers / CONTAINER_SERIES,
                own.containers * CONTAINER_SERIES,
            ),
        ),
        ("single series", Shape::Pushed { interval_ms: 15_000, single: true }),
        ("every ten minutes", Shape::Pushed { interval_ms: 600_000, single: false }),
    ];
    let mut plain = None;
    for (name, shape) in shapes {
        if !workload.only.is_empty() && !workload.only.iter().any(|only| name.contains(only.as_str())) {
            continue;
        }
        let costs = match shape {
            Shape::Scraped(content, targets, width) => scraped(workload, content, targets, width).await?,
            Shape::Pushed { interval_ms, single } => pushed(workload.series, interval_ms, single).await?,
        };
        print!("{name:<26}");
        for at in 0..3 {
            print!(" {:>22}", format!("{:.2}, {:.0}", costs.cpu_s_per_m[at], costs.rss_per_series[at]));
        }
        println!();
        let cpu = costs.cpu_s_per_m;
        if let Some(plain) = plain {
            verdicts.at_most(format!("{name}: CPU a sample / ordinary targets"), cpu[0] / plain, 5.0);
            verdicts.at_most(format!("{name}: CPU a sample / victoria-metrics"), cpu[0] / cpu[2], 1.0);
            verdicts.at_most(format!("{name}: RSS bytes a series"), costs.rss_per_series[0], 1229.0);
            let rss = costs.rss_per_series[0] / costs.rss_per_series[2];
            verdicts.at_most(format!("{name}: RSS / victoria-metrics"), rss, 1.0);
        }
        plain = plain.or(Some(cpu[0]));
    }
    Ok(())
}

enum Shape {
    /// What targets serve, how many there are, series of each.
    Scraped(Content, usize, usize),
    /// Remote write.
    Pushed { interval_ms: i64, single: bool },
}

async fn scraped(workload: &Workload, content: Content, targets: usize, width: usize) -> Result<Costs> {
    let simulator = Simulator::start(content, targets).await?;
    let config = simulator.config(targets, &format!("{SCRAPE_SECONDS}s"));
    let directory = tempfile::tempdir()?;
    let mut running = Vec::new();
    for system in System::ALL {
        running.push(system.start(directory.path(), &config).await?);
    }
    let usages = || running.iter().map(|r| process::usage(r.peer.id())).collect::<Result<Vec<Usage>>>();
    tokio::time::sleep(Duration::from_secs(workload.warm_up_seconds)).await;
    let (before, served) = (usages()?, simulator.served());
    tokio::time::sleep(Duration::from_secs(workload.measured_seconds)).await;
    let after = usages()?;
    let samples = (simulator.served() - served) as f64 / running.len() as f64 * width as f64;
    let cost = |at: usize| (after[at].cpu_seconds - before[at].cpu_seconds) / (samples / 1e6);
    let rss = |at: usize| after[at].rss_mib * 1048576.0 / (targets * width) as f64;
    Ok(Costs { cpu_s_per_m: [0, 1, 2].map(cost), rss_per_series: [0, 1, 2].map(rss) })
}

async fn pushed(series: usize, interval_ms: i64, single: bool) -> Result<Costs> {
    let labels: Vec<Labels> = if single {
        (0..series).map(single_series).collect()
    } else {
        crate::data::Series::new(series, "bench")?.labels
    };
    let mut costs = Costs { cpu_s_per_m: [f64::NAN; 3], rss_per_series: [f64::NAN; 3] };
    for (at, system) in System::ALL.into_iter().enumerate() {
        let directory = tempfile::tempdir()?;
        let running = system.start(directory.path(), "global: {}\n").await?;
        let mut sender = Sender::connect(running.peer.addr).await?;
        let mut after_new = 0.0;
        for row in 0..PUSHED_ROWS as i64 {
            for (number, labels) in labels.chunks(BODY_SAMPLES).enumerate() {
                let mut request = Push::default();
                for (within, labels) in labels.iter().enumerate() {
                    let n = (number * BODY_SAMPLES + within) as u64;
                    let phase_ms = if single { mixed(n) as i64 % interval_ms } else { 0 };
                    let value = (row as u64 * (mixed(n) % 50)) as f64;
                    request.floats(labels, &[(PUSHED_START_MS + row * interval_ms + phase_ms.abs(), value)]);
                }
                sender.write(WRITE_PATH, request.body()?).await?;
            }
            if row == 0 {
                after_new = process::usage(running.peer.id())?.cpu_seconds;
            }
        }
        tokio::time::sleep(SETTLE).await;
        let usage = process::usage(running.peer.id())?;
        let samples = (series * (PUSHED_ROWS - 1)) as f64;
        costs.cpu_s_per_m[at] = (usage.cpu_seconds - after_new) / (samples / 1e6);
        costs.rss_per_series[at] = usage.rss_mib * 1048576.0 / series as f64;
    }
    Ok(costs)
}

/// A series that shares job and instance with no other, as from functions that push for themselves.
fn single_series(n: usize) -> Labels {
    Labels::from_pairs([
        ("__name__", "job_duration_seconds"),
        ("job", "batch"),
        ("instance", &format!("run-{:08x}", mixed(n as u64) as u32 ^ n as u32)),
        ("number", &n.to_string()),
        ("region", &format!("r{}", n % 5)),
        ("step", &format!("s{}", n % 11)),
    ])
}
