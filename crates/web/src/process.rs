//! This process as the kernel sees it, under the names every Prometheus client uses.
//!
//! Source: proc(5); Prometheus client libraries' `process_*` metrics.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Ticks of `/proc/<pid>/stat` in a second: fixed by the kernel's ABI on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Shows `process_*`; reads `/proc/self` at every scrape. What cannot be read is left out.
#[derive(Debug)]
pub(crate) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| match value {
            Some(value) => write(&mut encoder, name, help, MetricType::Gauge, &ConstGauge::new(value)),
            None => Ok(()),
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |key: &str| status_number(&status, key).map(|kib| kib * 1024.0);
        gauge("process_resident_memory_bytes", "Resident memory size in bytes.", bytes("VmRSS:"))?;
        gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", bytes("VmSize:"))?;
        gauge("process_threads", "Number of threads.", status_number(&status, "Threads:"))?;
        // the directory we read is one of them
        let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64);
        gauge("process_open_fds", "Number of open file descriptors.", open)?;
        gauge("process_max_fds", "Maximum number of open file descriptors.", max_fds())?;
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        gauge(
            "process_start_time_seconds",
            "Start time since the Unix epoch in seconds.",
            start_seconds(&stat),
        )?;
        match cpu_seconds(&stat) {
            Some(seconds) => write(
                &mut encoder,
                "process_cpu_seconds",
                "Total user and system CPU time spent in seconds.",
                MetricType::Counter,
                &ConstCounter::new(seconds),
            ),
            None => Ok(()),
        }
    }
}

fn write(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    kind: MetricType,
    metric: &impl EncodeMetric,
) -> Result<(), std::fmt::Error> {
    let encoder: MetricEncoder = encoder.encode_descriptor(name, help, None, kind)?;
    metric.encode(encoder)
}

/// The first number behind `key` in `/proc/self/status`.
fn status_number(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Field `number` (from 1, as in proc(5), at least 3) of `/proc/self/stat`: the name of the program in
/// field 2 may hold blanks.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_seconds(stat: &str) -> Option<f64> {
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = status_number(&system, "btime ")?;
    Some(boot + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    status_number(&limits, "Max open files")
}

/// How many threads this process has; 0 where that is unknown.
pub(crate) fn threads() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status_number(&status, "Threads:").map_or(0, |threads| threads as u64)
}

/// The name of this machine; empty where it is unknown.
pub(crate) fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_count_from_behind_the_name() {
        let stat = "42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 12345 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(stat_field(stat, 22), Some(12345.0));
        assert_eq!(cpu_seconds(""), None);
    }

    #[test]
    fn numbers_stand_behind_their_keys() {
        let status = "Name:\tx\nVmRSS:\t   2048 kB\nThreads:\t7\n";
        assert_eq!(status_number(status, "VmRSS:"), Some(2048.0));
        assert_eq!(status_number(status, "VmSize:"), None);
        assert_eq!(
            status_number("Max open files            1024                 4096  files\n", "Max open files"),
            Some(1024.0)
        );
    }
}
