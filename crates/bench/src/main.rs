//! Marigraph beside its peers: the same data, whole processes, CPU-seconds, RSS and bytes, and a verdict
//! for each goal.
//!
//! Build first: `cargo build --release -p marigraph -p bench` and `cargo xtask peers`; `make bench` does
//! that and runs everything.

#![allow(clippy::print_stdout)] // a program whose output is its result

mod agents;
mod data;
mod disk;
mod fleet;
mod hubquery;
mod process;
mod queries;
mod recording;
mod report;
mod scrape;
mod sender;
mod shapes;
mod simulator;
mod system;
mod tunnel;
mod write;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use report::Verdicts;

#[derive(Debug, Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Everything, in sizes that take about twenty minutes
    All,
    /// Scrape and store, all systems at once
    Scrape(ScrapeArgs),
    /// Remote write of new and known series, then kill -9 and the time to ready
    Write(WriteArgs),
    /// Bytes a sample on disk: back-dated rows by remote write, then flush and merge
    Disk(DiskArgs),
    /// The query list on six hours of samples, and the time to ready with them on disk
    Queries(QueriesArgs),
    /// Scrape and send home: our agent and hub beside vmagent and VictoriaMetrics; then a backlog
    Agents(AgentsArgs),
    /// Many agents at one hub, and how long until they are back when it restarts
    Fleet {
        #[arg(long, default_value_t = 1000)]
        agents: usize,
    },
    /// Queries of a hub over agents that keep their data, beside Prometheus with all of it and over others
    Hubquery {
        #[arg(long, default_value_t = 8)]
        agents: usize,
        /// Targets in each cluster
        #[arg(long, default_value_t = 3)]
        targets: usize,
        /// Rows of a series, 15 s apart
        #[arg(long, default_value_t = 240)]
        rows: usize,
        /// Measured rounds of a query
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Milliseconds that each byte takes between hub and cluster
        #[arg(long, default_value_t = 0)]
        delay: u64,
    },
    /// Scrapes through hub, tunnel and agent beside direct ones: what is added, and how many a core
    Tunnel {
        #[arg(long, default_value_t = 64)]
        targets: usize,
        /// Seconds of each part
        #[arg(long, default_value_t = 8)]
        seconds: u64,
    },
    /// What rows of targets are not: a huge target, times of their own, single series, long intervals
    Shapes(ShapesArgs),
}

#[derive(Debug, Args)]
struct ShapesArgs {
    /// Series in each shape
    #[arg(long, default_value_t = 100_000)]
    series: usize,
    /// Seconds before measuring what is scraped
    #[arg(long, default_value_t = 40)]
    warm_up: u64,
    /// Seconds measured of what is scraped
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only shapes with these in their names; the first one that runs is the yardstick
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Debug, Args)]
struct ScrapeArgs {
    #[arg(long, default_value_t = 200)]
    targets: usize,
    /// Seconds between scrapes
    #[arg(long, default_value_t = 10)]
    interval: u64,
    /// Seconds before measuring
    #[arg(long, default_value_t = 60)]
    warm_up: u64,
    /// Seconds measured
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

#[derive(Debug, Args)]
struct WriteArgs {
    #[arg(long, default_value_t = 100_639)]
    series: usize,
    /// Labels of every series, at least; those of its target are made up
    #[arg(long, default_value_t = 0)]
    labels: usize,
    /// Rows after the first
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Times that all systems take their turn
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

#[derive(Debug, Args)]
struct DiskArgs {
    #[arg(long, default_value_t = 20)]
    targets: usize,
    /// Rows of a series; more than the recording's 250 repeat it, and what repeats packs better than life
    #[arg(long, default_value_t = 240)]
    rows: usize,
    /// Most milliseconds that a row comes late; 0 aligns all
    #[arg(long, default_value_t = 5)]
    jitter: i64,
    /// A directory of scrapes 15 s apart (`MILLISECONDS.gz`) in place of the recording
    #[arg(long)]
    recording: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct QueriesArgs {
    /// 154 make 145 M samples with 720 rows
    #[arg(long, default_value_t = 40)]
    targets: usize,
    /// Rows of a series, 30 s apart
    #[arg(long, default_value_t = 720)]
    rows: usize,
    /// Measured rounds of a query
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the data stay, to be used by the next run
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Only these queries (`i1,r10`)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Debug, Args)]
struct AgentsArgs {
    #[command(flatten)]
    scrape: ScrapeArgs,
    /// Series of the backlog
    #[arg(long, default_value_t = 100_639)]
    backlog_series: usize,
    /// Rows of the backlog, 15 s apart; 0 leaves it out
    #[arg(long, default_value_t = 100)]
    backlog_rows: usize,
}

impl From<AgentsArgs> for agents::Workload {
    fn from(args: AgentsArgs) -> Self {
        let AgentsArgs { scrape, backlog_series, backlog_rows } = args;
        agents::Workload {
            targets: scrape.targets,
            interval_seconds: scrape.interval,
            warm_up_seconds: scrape.warm_up,
            measured_seconds: scrape.seconds,
            backlog_series,
            backlog_rows,
        }
    }
}

impl From<ScrapeArgs> for scrape::Workload {
    fn from(args: ScrapeArgs) -> Self {
        scrape::Workload {
            targets: args.targets,
            interval_seconds: args.interval,
            warm_up_seconds: args.warm_up,
            measured_seconds: args.seconds,
        }
    }
}

impl From<ShapesArgs> for shapes::Workload {
    fn from(args: ShapesArgs) -> Self {
        let ShapesArgs { series, warm_up, seconds, only } = args;
        shapes::Workload { series, warm_up_seconds: warm_up, measured_seconds: seconds, only }
    }
}

impl From<QueriesArgs> for queries::Workload {
    fn from(args: QueriesArgs) -> Self {
        let QueriesArgs { targets, rows, rounds, keep, only } = args;
        queries::Workload { targets, rows, rounds, keep, only }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut verdicts = Verdicts::default();
    match Cli::parse().what {
        What::All => all(&mut verdicts).await?,
        What::Scrape(args) => scrape::run(args.into(), &mut verdicts).await?,
        What::Write(WriteArgs { series, labels, rounds, runs }) => {
            write::run(write::Workload { series, labels, rounds, runs }, &mut verdicts).await?;
        }
        What::Disk(DiskArgs { targets, rows, jitter, recording }) => {
            let workload = disk::Workload { targets, rows, jitter_ms: jitter, recording };
            disk::run(workload, &mut verdicts).await?;
        }
        What::Queries(args) => queries::run(&args.into(), &mut verdicts).await?,
        What::Agents(args) => agents::run(args.into(), &mut verdicts).await?,
        What::Fleet { agents } => fleet::run(fleet::Workload { agents }, &mut verdicts).await?,
        What::Hubquery { agents, targets, rows, rounds, delay } => {
            let delay = std::time::Duration::from_millis(delay);
            hubquery::run(&hubquery::Workload { agents, targets, rows, rounds, delay }, &mut verdicts)
                .await?;
        }
        What::Tunnel { targets, seconds } => {
            tunnel::run(tunnel::Workload { targets, seconds }, &mut verdicts).await?;
        }
        What::Shapes(args) => shapes::run(&args.into(), &mut verdicts).await?,
    }
    println!("\n{verdicts}");
    Ok(())
}

/// Every workload once or a few times over.
async fn all(verdicts: &mut Verdicts) -> anyhow::Result<()> {
    let scrape =
        scrape::Workload { targets: 200, interval_seconds: 10, warm_up_seconds: 60, measured_seconds: 120 };
    scrape::run(scrape, verdicts).await?;
    write::run(write::Workload { series: 100_639, labels: 0, rounds: 20, runs: 2 }, verdicts).await?;
    for jitter_ms in [5, 0] {
        disk::run(disk::Workload { targets: 20, rows: 240, jitter_ms, recording: None }, verdicts).await?;
    }
    tunnel::run(tunnel::Workload { targets: 64, seconds: 8 }, verdicts).await?;
    let queries = queries::Workload { targets: 40, rows: 720, rounds: 5, keep: None, only: Vec::new() };
    queries::run(&queries, verdicts).await?;
    let shapes =
        shapes::Workload { series: 100_000, warm_up_seconds: 40, measured_seconds: 60, only: Vec::new() };
    shapes::run(&shapes, verdicts).await
}
