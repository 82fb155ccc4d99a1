//! `node_time_*`: the machine's clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{CollectError, Family, read_text};

pub(crate) fn collect() -> Result<Vec<Family>, CollectError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| CollectError::Unavailable)?;
    let mut families = vec![
        Family::gauge("node_time_seconds", "System time in seconds since epoch (1970).")
            .with(now.as_secs_f64()),
    ];
    families.extend(clock_sources());
    Ok(families)
}

fn clock_sources() -> Vec<Family> {
    let root = "/sys/devices/system/clocksource/clocksource0";
    let mut available = Family::gauge(
        "node_time_clocksource_available_info",
        "Available clocksources read from '/sys/devices/system/clocksource'.",
    );
    let mut current = Family::gauge(
        "node_time_clocksource_current_info",
        "Current clocksource read from '/sys/devices/system/clocksource'.",
    );
    for (family, file) in [(&mut available, "available_clocksource"), (&mut current, "current_clocksource")] {
        // Containers often hide these; then the families stay empty and are left out.
        for source in read_text(&format!("{root}/{file}")).unwrap_or_default().split_ascii_whitespace() {
            family.push(&[("clocksource", source), ("device", "0")], 1.0);
        }
    }
    vec![available, current]
}
