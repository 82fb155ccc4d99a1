//! What a process costs: CPU-seconds, memory, bytes written, from `/proc`.

use anyhow::{Context, Result};

/// Clock ticks a second; fixed on Linux for every architecture we run on.
const TICKS: f64 = 100.0;

/// A process's totals at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system CPU, seconds.
    pub(crate) cpu_seconds: f64,
    /// Resident memory now, MiB.
    pub(crate) rss_mib: f64,
    /// Resident memory at its highest, MiB.
    pub(crate) peak_mib: f64,
    /// Bytes handed to the block layer, MiB.
    pub(crate) written_mib: f64,
}

/// Reads the totals of process `id`.
pub(crate) fn usage(id: u32) -> Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{id}/{file}");
        std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    let stat = read("stat")?;
    // The name in parentheses may hold spaces; the fields behind it do not.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
    let status = read("status")?;
    let kib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key));
        line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or_default()
    };
    let io = read("io").unwrap_or_default();
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse::<f64>().ok());
    Ok(Usage {
        cpu_seconds: (ticks(11) + ticks(12)) / TICKS,
        rss_mib: kib("VmRSS:") / 1024.0,
        peak_mib: kib("VmHWM:") / 1024.0,
        written_mib: written.unwrap_or_default() / 1048576.0,
    })
}

/// Bytes of all files below `directory`.
pub(crate) fn directory_bytes(directory: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => directory_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Starts the process's peak of resident memory anew.
pub(crate) fn forget_peak(id: u32) -> Result<()> {
    let path = format!("/proc/{id}/clear_refs");
    std::fs::write(&path, "5").with_context(|| format!("write {path}"))
}

/// Waits until the process has nothing to do: a second with less than 3 % of a CPU; at most two
/// minutes.
pub(crate) async fn settle(id: u32) -> Result<()> {
    let mut before = usage(id)?.cpu_seconds;
    for _ in 0..120 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let now = usage(id)?.cpu_seconds;
        if now - before < 0.03 {
            break;
        }
        before = now;
    }
    Ok(())
}
