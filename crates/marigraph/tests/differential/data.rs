//! The data of the differential test: an hour of rows at 15 s, made up, the same in every run.

use model::{Labels, stale_nan};

/// First timestamp, milliseconds. Seven seconds past the minute, so that no sample falls on the edge
/// of a query's window: ranges are left-open since Prometheus 3 and were closed before.
pub(crate) const START_MS: i64 = 1_700_000_047_000;
/// Between rows, milliseconds.
pub(crate) const INTERVAL_MS: i64 = 15_000;
/// Rows.
pub(crate) const ROWS: i64 = 240;

/// A series and its samples, ascending by time.
#[derive(Debug)]
pub(crate) struct DataSeries {
    pub(crate) labels: Labels,
    pub(crate) samples: Vec<(i64, f64)>,
}

/// A small generator with a known sequence (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    /// Uniform in 0..1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Every series.
pub(crate) fn series() -> Vec<DataSeries> {
    let mut random = Random(42);
    let mut out = Vec::new();
    for instance in ["a:1", "b:2", "c:3"] {
        let mut add = |name: &str, extra: &[(&str, &str)], value: &mut dyn FnMut(i64) -> Option<f64>| {
            let base = [("__name__", name), ("instance", instance), ("job", "demo")];
            let labels = Labels::from_pairs(base.iter().chain(extra).copied());
            let at = |row| START_MS + row * INTERVAL_MS;
            let samples = (0..ROWS).filter_map(|row| Some((at(row), value(row)?))).collect();
            out.push(DataSeries { labels, samples });
        };
        for mode in ["idle", "user", "system"] {
            let mut total = random.next() * 1000.0;
            add("demo_cpu_usage_seconds_total", &[("mode", mode)], &mut |row| {
                // A restart half way: the counter begins anew.
                total = if row == 120 && mode == "user" { 0.0 } else { total + random.next() * 15.0 };
                Some(total)
            });
        }
        for kind in ["buffers", "cached", "free"] {
            add("demo_memory_usage_bytes", &[("type", kind)], &mut |_| Some((random.next() * 3e9).floor()));
        }
        add("demo_num_cpus", &[], &mut |_| Some(4.0));
        add("demo_temperature_celsius", &[], &mut |row| Some(20.0 + 5.0 * (row as f64 / 20.0).sin()));
        let mut used = 1e9;
        add("demo_disk_usage_bytes", &[], &mut |_| {
            used += (random.next() * 1e6).floor();
            Some(used)
        });
        add("demo_intermittent_metric", &[], &mut |row| (row % 40 < 25).then(|| random.next() * 10.0));
        add("demo_ended_metric", &[], &mut |row| match row {
            0..100 => Some(row as f64),
            100 => Some(stale_nan()),
            _ => None,
        });
        for path in ["/api/foo", "/api/bar"] {
            // Far from zero, as a histogram that has run for long.
            let mut cumulative = [1e5, 2e5, 3e5, 4e5, 5e5, 6e5];
            let bounds = ["0.01", "0.05", "0.1", "0.5", "1", "+Inf"];
            let rows: Vec<[f64; 6]> = (0..ROWS)
                .map(|_| {
                    let mut sum = 0.0;
                    for total in &mut cumulative {
                        sum += (random.next() * 20.0).floor();
                        *total += sum;
                    }
                    cumulative
                })
                .collect();
            for (at, bound) in bounds.iter().enumerate() {
                let extra = [("path", path), ("le", *bound)];
                add("demo_api_request_duration_seconds_bucket", &extra, &mut |row| {
                    Some(rows[row as usize][at])
                });
            }
        }
    }
    out
}
