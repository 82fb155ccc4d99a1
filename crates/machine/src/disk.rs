//! `node_disk_*`: what the kernel counts for each block device.

use procfs::DiskStat;

use crate::{CollectError, Family};

/// Sectors of `/proc/diskstats` are always this long, whatever the device's own are.
const SECTOR_BYTES: f64 = 512.0;

/// One column of `/proc/diskstats`: name, help, and how to read it; `None` where the kernel is too old.
struct Figure {
    name: &'static str,
    help: &'static str,
    gauge: bool,
    read: fn(&DiskStat) -> Option<f64>,
}

const fn counter(name: &'static str, help: &'static str, read: fn(&DiskStat) -> Option<f64>) -> Figure {
    Figure { name, help, gauge: false, read }
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

const FIGURES: &[Figure] = &[
    counter("node_disk_reads_completed_total", "The total number of reads completed successfully.", |d| {
        Some(d.reads as f64)
    }),
    counter("node_disk_reads_merged_total", "The total number of reads merged.", |d| Some(d.merged as f64)),
    counter("node_disk_read_bytes_total", "The total number of bytes read successfully.", |d| {
        Some(d.sectors_read as f64 * SECTOR_BYTES)
    }),
    counter("node_disk_read_time_seconds_total", "The total number of seconds spent by all reads.", |d| {
        Some(seconds(d.time_reading))
    }),
    counter("node_disk_writes_completed_total", "The total number of writes completed successfully.", |d| {
        Some(d.writes as f64)
    }),
    counter("node_disk_writes_merged_total", "The number of writes merged.", |d| {
        Some(d.writes_merged as f64)
    }),
    counter("node_disk_written_bytes_total", "The total number of bytes written successfully.", |d| {
        Some(d.sectors_written as f64 * SECTOR_BYTES)
    }),
    counter(
        "node_disk_write_time_seconds_total",
        "This is the total number of seconds spent by all writes.",
        |d| Some(seconds(d.time_writing)),
    ),
    Figure {
        name: "node_disk_io_now",
        help: "The number of I/Os currently in progress.",
        gauge: true,
        read: |d| Some(d.in_progress as f64),
    },
    counter("node_disk_io_time_seconds_total", "Total seconds spent doing I/Os.", |d| {
        Some(seconds(d.time_in_progress))
    }),
    counter("node_disk_io_time_weighted_seconds_total", "The weighted # of seconds spent doing I/Os.", |d| {
        Some(seconds(d.weighted_time_in_progress))
    }),
    counter(
        "node_disk_discards_completed_total",
        "The total number of discards completed successfully.",
        |d| d.discards.map(|n| n as f64),
    ),
    counter("node_disk_discards_merged_total", "The total number of discards merged.", |d| {
        d.discards_merged.map(|n| n as f64)
    }),
    counter(
        "node_disk_discarded_sectors_total",
        "The total number of sectors discarded successfully.",
        |d| d.sectors_discarded.map(|n| n as f64),
    ),
    counter(
        "node_disk_discard_time_seconds_total",
        "This is the total number of seconds spent by all discards.",
        |d| d.time_discarding.map(seconds),
    ),
    counter(
        "node_disk_flush_requests_total",
        "The total number of flush requests completed successfully",
        |d| d.flushes.map(|n| n as f64),
    ),
    counter(
        "node_disk_flush_requests_time_seconds_total",
        "This is the total number of seconds spent by all flush requests.",
        |d| d.time_flushing.map(seconds),
    ),
];

pub(crate) fn collect() -> Result<Vec<Family>, CollectError> {
    let disks: Vec<DiskStat> = procfs::diskstats()?.into_iter().filter(|d| !ignored(&d.name)).collect();
    let mut families = Vec::with_capacity(FIGURES.len() + 1);
    let mut info = Family::gauge("node_disk_info", "Info of /sys/block/<block_device>.");
    for disk in &disks {
        let (major, minor) = (disk.major.to_string(), disk.minor.to_string());
        info.push(&[("device", &disk.name), ("major", &major), ("minor", &minor)], 1.0);
    }
    families.push(info);
    for figure in FIGURES {
        let mut family = if figure.gauge {
            Family::gauge(figure.name, figure.help)
        } else {
            Family::counter(figure.name, figure.help)
        };
        for disk in &disks {
            if let Some(value) = (figure.read)(disk) {
                family.push(&[("device", &disk.name)], value);
            }
        }
        families.push(family);
    }
    Ok(families)
}

/// Memory disks, floppies and partitions, as node_exporter leaves them out by default:
/// `^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$`.
fn ignored(device: &str) -> bool {
    let stem = device.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.len() == device.len() {
        return false;
    }
    let disk_partition = ["hd", "sd", "vd", "xvd"]
        .iter()
        .any(|kind| stem.strip_prefix(kind).is_some_and(|unit| unit.len() == 1));
    let nvme_partition = stem.starts_with("nvme") && stem.ends_with('p');
    matches!(stem, "ram" | "zram" | "loop" | "fd") || disk_partition || nvme_partition
}

#[cfg(test)]
mod tests {
    use super::ignored;

    #[test]
    fn partitions_and_memory_disks_are_left_out() {
        for name in ["loop0", "ram15", "zram0", "fd0", "sda1", "vdb12", "xvda1", "nvme0n1p3"] {
            assert!(ignored(name), "{name}");
        }
        for name in ["sda", "vda", "nvme0n1", "dm-0", "md127", "sr0"] {
            assert!(!ignored(name), "{name}");
        }
    }
}
