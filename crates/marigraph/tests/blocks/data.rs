//! Samples with what makes blocks hard: gaps, staleness, NaNs, jitter, counters that begin anew,
//! histograms, labels that sort before the metric's name.

use std::path::Path;

use anyhow::{Result, ensure};
use model::histogram::{Buckets, Span};
use model::{Histogram, Labels, SourceId, TenantId, stale_nan};
use storage::{Appender, Batch, Policy, Row, SeriesRef, SourceDesc};
use tsdb::{Config, Db};

/// Not at the edge of a block.
pub(crate) const START_MS: i64 = 1_700_000_000_000;
pub(crate) const END_MS: i64 = START_MS + 5 * 3_600_000;
const STEP_MS: i64 = 30_000;
const HISTOGRAMS: i64 = 400;

/// The float series, each with its samples.
pub(crate) fn series() -> Vec<(Labels, Vec<(i64, f64)>)> {
    let mut all = Vec::new();
    for instance in 0..6i64 {
        let at = format!("i{instance}");
        let job = if instance % 2 == 0 { "even" } else { "odd" };
        let labels = |name: &str, zone: &str| {
            Labels::from_pairs([("__name__", name), ("instance", &at), ("job", job), ("Zone", zone)])
        };
        let times = || (START_MS + 1..END_MS).step_by(STEP_MS as usize).map(|time| time + instance * 17);
        let gauge = times().enumerate().filter_map(|(at, time)| match (at, instance) {
            // An absence, with its marker.
            (100, 1) => Some((time, stale_nan())),
            (101..140, 1) => None,
            (_, 2) if at % 50 == 0 => Some((time, f64::NAN)),
            (_, 4) => Some((time + (at as i64 * 7919) % 5, 0.1 * at as f64)),
            _ => Some((time, (at as f64 / 10.0).sin() * 1e3)),
        });
        all.push((labels("demo_gauge", ""), gauge.collect()));
        let total = times().enumerate().map(|(at, time)| (time, ((at % 300) * 7) as f64));
        all.push((labels("demo_requests_total", if instance < 3 { "a" } else { "b" }), total.collect()));
    }
    all
}

/// Counts that grow, a reset in the middle, a marker at the end.
fn histogram(at: i64) -> Histogram {
    let count = at % 150 + 1;
    let buckets = Buckets::Int {
        count: (3 * count + 2) as u64,
        zero_count: 2,
        positive: vec![count, count],
        negative: Vec::new(),
    };
    let positive_spans = vec![Span { offset: -1, length: 2 }];
    Histogram {
        schema: 0,
        zero_threshold: 0.001,
        sum: count as f64 * 1.25,
        positive_spans,
        buckets,
        ..Histogram::stale()
    }
}

pub(crate) fn float_samples() -> usize {
    series().iter().map(|(_, samples)| samples.len()).sum()
}

pub(crate) fn histogram_samples() -> usize {
    HISTOGRAMS as usize
}

/// Makes a store of it: an early part, and the rest in the log, with late samples.
pub(crate) fn fill(store: &Path) -> Result<()> {
    let config = Config { background: false, retention: None, small_tenant_samples: 0, ..Config::new(store) };
    let db = Db::open(config)?;
    let tenant = TenantId::default();
    let desc = SourceDesc { tenant, id: SourceId(1), labels: Labels::empty() };
    let source = db.open_source(&desc)?;
    let list = series();
    let labels: Vec<Labels> = list.iter().map(|(labels, _)| labels.clone()).collect();
    let refs: Vec<SeriesRef> = db.resolve(source, &labels)?.into_iter().flatten().collect();
    ensure!(refs.len() == list.len(), "series were refused");
    let of_histogram =
        Labels::from_pairs([("__name__", "demo_histogram"), ("instance", "i0"), ("job", "even")]);
    let of_histogram = db.resolve(source, &[of_histogram])?[0].expect("within limits");
    let append = |series: SeriesRef, time: i64, value: f64| -> Result<()> {
        let row = [Row::floats(source, time, std::slice::from_ref(&series), std::slice::from_ref(&value))];
        let done = db.append(&Batch::rows(&row, Policy::REMOTE_WRITE))?;
        ensure!(done.rejected.is_empty(), "{:?}", done.rejected);
        Ok(())
    };
    let middle = START_MS + 2 * 3_600_000;
    for late in [false, true] {
        for (series, (_, samples)) in refs.iter().zip(&list) {
            for (at, (time, value)) in samples.iter().enumerate() {
                // Every hundredth of the early ones comes late.
                let first = *time < middle && at % 100 != 50;
                if first != late {
                    append(*series, *time, *value)?;
                }
            }
        }
        if !late {
            db.flush()?;
        }
    }
    for at in 0..HISTOGRAMS {
        let sample = if at == HISTOGRAMS - 1 { Histogram::stale() } else { histogram(at) };
        let histograms = [(of_histogram, sample)];
        let timestamp_ms = START_MS + 5 + at * STEP_MS;
        let row = Row { histograms: &histograms, ..Row::floats(source, timestamp_ms, &[], &[]) };
        let done = db.append(&Batch::rows(&[row], Policy::REMOTE_WRITE))?;
        ensure!(done.histograms == 1, "{:?}", done.rejected);
    }
    db.close()?;
    Ok(())
}
