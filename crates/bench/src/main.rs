//! Marigraph beside its peers: the same data, whole processes, CPU-seconds, RSS and bytes.
//!
//! Build first: `cargo build --release -p marigraph -p bench` and `cargo xtask peers`.

#![allow(clippy::print_stdout)] // a program whose output is its result

mod process;
mod scrape;
mod simulator;
mod system;
mod write;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Scrape and store, all systems at once
    Scrape {
        #[arg(long, default_value_t = 200)]
        targets: usize,
        #[arg(long, default_value_t = 10)]
        interval: u64,
        #[arg(long, default_value_t = 60)]
        warm_up: u64,
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
    /// Remote write of known series, then kill -9 and the time to ready, one system after the other
    Write {
        #[arg(long, default_value_t = 100_639)]
        series: usize,
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// Bytes a sample on disk: back-dated rows by remote write, then flush and merge
    Disk {
        #[arg(long, default_value_t = 20)]
        targets: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().what {
        What::Scrape { targets, interval, warm_up, seconds } => {
            let workload = scrape::Workload {
                targets,
                interval_seconds: interval,
                warm_up_seconds: warm_up,
                measured_seconds: seconds,
            };
            scrape::run(workload).await
        }
        What::Write { series, rounds } => write::ingest(series, rounds).await,
        What::Disk { targets } => write::disk(targets).await,
    }
}
