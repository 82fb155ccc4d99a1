//! `node_load*`, `node_boot_time_seconds` and its kin from `/proc/stat`, `node_uname_info`,
//! `node_vmstat_*`.

use procfs::{Current, CurrentSI, KernelStats, LoadAverage};

use crate::{CollectError, Family, read_text};

pub(crate) fn load() -> Result<Vec<Family>, CollectError> {
    let load = LoadAverage::current()?;
    // The kernel prints two decimals; the library's f32 would show as 0.5099999904632568.
    let two_decimals = |value: f32| (f64::from(value) * 100.0).round() / 100.0;
    Ok(vec![
        Family::gauge("node_load1", "1m load average.").with(two_decimals(load.one)),
        Family::gauge("node_load15", "15m load average.").with(two_decimals(load.fifteen)),
        Family::gauge("node_load5", "5m load average.").with(two_decimals(load.five)),
    ])
}

pub(crate) fn stat() -> Result<Vec<Family>, CollectError> {
    let stats = KernelStats::current()?;
    let mut families = vec![
        Family::gauge("node_boot_time_seconds", "Node boot time, in unixtime.").with(stats.btime as f64),
        Family::counter("node_context_switches_total", "Total number of context switches.")
            .with(stats.ctxt as f64),
        Family::counter("node_forks_total", "Total number of forks.").with(stats.processes as f64),
    ];
    if let Some(interrupts) = interrupts()? {
        families.push(
            Family::counter("node_intr_total", "Total number of interrupts serviced.").with(interrupts),
        );
    }
    if let Some(blocked) = stats.procs_blocked {
        let help = "Number of processes blocked waiting for I/O to complete.";
        families.push(Family::gauge("node_procs_blocked", help).with(f64::from(blocked)));
    }
    if let Some(running) = stats.procs_running {
        let help = "Number of processes in runnable state.";
        families.push(Family::gauge("node_procs_running", help).with(f64::from(running)));
    }
    Ok(families)
}

/// The first number of `intr` in `/proc/stat`, which the library leaves out.
fn interrupts() -> Result<Option<f64>, CollectError> {
    let stat = read_text("/proc/stat")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("intr "));
    Ok(line.and_then(|numbers| numbers.split(' ').next()?.parse().ok()))
}

pub(crate) fn uname() -> Result<Vec<Family>, CollectError> {
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let mut info =
        Family::gauge("node_uname_info", "Labeled system information as provided by the uname system call.");
    let labels = [
        ("sysname", text(name.sysname())),
        ("release", text(name.release())),
        ("version", text(name.version())),
        ("machine", text(name.machine())),
        ("nodename", text(name.nodename())),
        ("domainname", text(name.domainname())),
    ];
    info.push(&labels.each_ref().map(|(name, value)| (*name, value.as_str())), 1.0);
    Ok(vec![info])
}

/// The counters of `/proc/vmstat` that node_exporter shows by default: `^(oom_kill|pgpg|pswp|pg.*fault).*`.
pub(crate) fn vmstat() -> Result<Vec<Family>, CollectError> {
    let mut counters: Vec<(String, i64)> =
        procfs::vmstat()?.into_iter().filter(|(name, _)| shown(name)).collect();
    counters.sort();
    let family = |(name, value): (String, i64)| {
        let help = format!("/proc/vmstat information field {name}.");
        Family::untyped(&format!("node_vmstat_{name}"), &help).with(value as f64)
    };
    Ok(counters.into_iter().map(family).collect())
}

fn shown(name: &str) -> bool {
    ["oom_kill", "pgpg", "pswp"].iter().any(|prefix| name.starts_with(prefix))
        || (name.starts_with("pg") && name.contains("fault"))
}
