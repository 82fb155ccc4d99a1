use std::collections::HashSet;

use model::MetricType;

use crate::collect;

#[test]
fn the_families_a_dashboard_needs_are_there() {
    let families = collect();
    let names: HashSet<&str> = families.iter().map(|f| f.name.as_str()).collect();
    for name in [
        "node_cpu_seconds_total",
        "node_memory_MemTotal_bytes",
        "node_memory_MemAvailable_bytes",
        "node_load1",
        "node_network_receive_bytes_total",
        "node_uname_info",
        "node_time_seconds",
        "node_boot_time_seconds",
        "node_vmstat_pgfault",
    ] {
        assert!(names.contains(name), "{name} is missing");
    }
}

#[test]
fn names_and_label_sets_are_unique() {
    let families = collect();
    let mut names = HashSet::new();
    for family in &families {
        assert!(names.insert(&family.name), "{} stands twice", family.name);
        let mut seen = HashSet::new();
        for sample in &family.samples {
            assert!(seen.insert(&sample.labels), "{} repeats {:?}", family.name, sample.labels);
        }
    }
}

#[test]
fn counters_are_named_total_and_not_negative() {
    for family in collect().iter().filter(|f| f.metric_type == MetricType::Counter) {
        assert!(family.name.ends_with("_total"), "{}", family.name);
        for sample in &family.samples {
            assert!(sample.value >= 0.0, "{} {:?}", family.name, sample.labels);
        }
    }
}

#[test]
fn cpu_time_is_in_seconds() {
    let uptime = std::fs::read_to_string("/proc/uptime").expect("uptime");
    let uptime: f64 = uptime.split(' ').next().expect("a number").parse().expect("a number");
    let families = collect();
    let cpu = families.iter().find(|f| f.name == "node_cpu_seconds_total").expect("cpu seconds");
    let idle_of_first = cpu.samples.iter().find(|s| s.labels.iter().any(|(_, v)| v == "idle")).expect("idle");
    // Ticks would be a hundred times too many, milliseconds a thousand times.
    assert!(
        idle_of_first.value > 0.0 && idle_of_first.value < uptime * 2.0,
        "{} s idle",
        idle_of_first.value
    );
}
