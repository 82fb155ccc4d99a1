//! The built-in collector for the machine it runs on.
//!
//! Gives the families that people's dashboards expect of node_exporter, under its names, labels and
//! units: cpu, memory, load, filesystem, disk, network, uname, time, boot, pressure, vmstat. What a
//! machine does not have (pressure stall information, a disk) is left out, and a collector that
//! fails says so in `node_scrape_collector_success` and takes no other down.
//!
//! Source: node_exporter 1.5, `collector/*_linux.go`, for names, labels and defaults.

mod cpu;
mod disk;
mod family;
mod filesystem;
mod kernel;
mod memory;
mod network;
mod pressure;
mod time;

use std::time::Instant;

pub use family::{Family, FamilySample};

/// Why a collector gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// `/proc` or `/sys` could not be read or understood.
    #[error("{0}")]
    Proc(#[from] procfs::ProcError),
    /// A file could not be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// This machine has nothing of the kind.
    #[error("not available on this machine")]
    Unavailable,
}

type Collect = fn() -> Result<Vec<Family>, CollectError>;

/// Name and function of every collector, in the order of their families' names.
const COLLECTORS: &[(&str, Collect)] = &[
    ("cpu", cpu::collect),
    ("diskstats", disk::collect),
    ("filesystem", filesystem::collect),
    ("loadavg", kernel::load),
    ("meminfo", memory::collect),
    ("netdev", network::devices),
    ("netclass", network::classes),
    ("pressure", pressure::collect),
    ("stat", kernel::stat),
    ("time", time::collect),
    ("uname", kernel::uname),
    ("vmstat", kernel::vmstat),
];

/// Reads the machine once: all families, those of a failing collector left out.
///
/// Blocking: reads some twenty files under `/proc` and `/sys`, a few milliseconds.
pub fn collect() -> Vec<Family> {
    let mut duration = Family::gauge(
        "node_scrape_collector_duration_seconds",
        "node_exporter: Duration of a collector scrape.",
    );
    let mut success =
        Family::gauge("node_scrape_collector_success", "node_exporter: Whether a collector succeeded.");
    let mut families = Vec::with_capacity(256);
    for (name, collect) in COLLECTORS {
        let begin = Instant::now();
        let outcome = collect();
        duration.push(&[("collector", name)], begin.elapsed().as_secs_f64());
        success.push(&[("collector", name)], f64::from(u8::from(outcome.is_ok())));
        families.extend(outcome.unwrap_or_default());
    }
    families.extend([duration, success]);
    families.retain(|family| !family.samples.is_empty());
    families
}

/// Reads a file of `/proc` or `/sys` as text.
fn read_text(path: &str) -> Result<String, CollectError> {
    std::fs::read_to_string(path).map_err(|source| CollectError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
