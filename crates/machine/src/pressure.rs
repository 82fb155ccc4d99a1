//! `node_pressure_*`: pressure stall information.

use procfs::{CpuPressure, Current, IoPressure, MemoryPressure};

use crate::{CollectError, Family};

pub(crate) fn collect() -> Result<Vec<Family>, CollectError> {
    if !std::path::Path::new("/proc/pressure").exists() {
        return Err(CollectError::Unavailable);
    }
    let (cpu, io, memory) = (CpuPressure::current()?, IoPressure::current()?, MemoryPressure::current()?);
    let counter = |name: &str, help: &str, microseconds: u64| {
        Family::counter(&format!("node_pressure_{name}_seconds_total"), help).with(microseconds as f64 / 1e6)
    };
    Ok(vec![
        counter(
            "cpu_waiting",
            "Total time in seconds that processes have waited for CPU time",
            cpu.some.total,
        ),
        counter(
            "io_stalled",
            "Total time in seconds no process could make progress due to IO congestion",
            io.full.total,
        ),
        counter(
            "io_waiting",
            "Total time in seconds that processes have waited due to IO congestion",
            io.some.total,
        ),
        counter(
            "memory_stalled",
            "Total time in seconds no process could make progress due to memory congestion",
            memory.full.total,
        ),
        counter(
            "memory_waiting",
            "Total time in seconds that processes have waited for memory",
            memory.some.total,
        ),
    ])
}
