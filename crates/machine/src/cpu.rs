//! `node_cpu_*`: seconds by mode, guest seconds, and what the processor is.

use procfs::{CpuInfo, Current, CurrentSI, KernelStats};

use crate::{CollectError, Family};

pub(crate) fn collect() -> Result<Vec<Family>, CollectError> {
    let stats = KernelStats::current()?;
    let per_second = procfs::ticks_per_second() as f64;
    let mut seconds = Family::counter("node_cpu_seconds_total", "Seconds the CPUs spent in each mode.");
    let mut guest = Family::counter(
        "node_cpu_guest_seconds_total",
        "Seconds the CPUs spent in guests (VMs) for each mode.",
    );
    for (cpu, time) in stats.cpu_time.iter().enumerate() {
        let cpu = cpu.to_string();
        let modes = [
            ("user", Some(time.user)),
            ("nice", Some(time.nice)),
            ("system", Some(time.system)),
            ("idle", Some(time.idle)),
            ("iowait", time.iowait),
            ("irq", time.irq),
            ("softirq", time.softirq),
            ("steal", time.steal),
        ];
        for (mode, ticks) in modes {
            seconds.push(&[("cpu", &cpu), ("mode", mode)], ticks.unwrap_or(0) as f64 / per_second);
        }
        for (mode, ticks) in [("user", time.guest), ("nice", time.guest_nice)] {
            guest.push(&[("cpu", &cpu), ("mode", mode)], ticks.unwrap_or(0) as f64 / per_second);
        }
    }
    Ok(vec![seconds, guest, info()?])
}

fn info() -> Result<Family, CollectError> {
    let cpus = CpuInfo::current()?;
    let mut info = Family::gauge("node_cpu_info", "CPU information from /proc/cpuinfo.");
    for cpu in 0..cpus.num_cores() {
        let number = cpu.to_string();
        let field = |name| cpus.get_field(cpu, name).unwrap_or_default();
        let labels = [
            ("package", field("physical id")),
            ("core", field("core id")),
            ("cpu", &number),
            ("vendor", field("vendor_id")),
            ("family", field("cpu family")),
            ("model", field("model")),
            ("model_name", field("model name")),
            ("microcode", field("microcode")),
            ("stepping", field("stepping")),
            ("cachesize", field("cache size")),
        ];
        info.push(&labels, 1.0);
    }
    Ok(info)
}
