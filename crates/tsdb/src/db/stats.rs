//! Figures for the status page.

use model::TenantId;

use super::{Db, Inner};
use crate::head::budget::{SeriesLimits, SeriesUsage};
use crate::part::PartInfo;

/// A label (or pair, or metric name) and a figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelCount {
    /// A name, or `name=value`.
    pub name: String,
    /// How many, or bytes.
    pub value: u64,
}

/// The head of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadStats {
    /// Series.
    pub series: u64,
    /// Distinct pairs of label name and value.
    pub label_pairs: u64,
    /// Tiles, open and sealed.
    pub tiles: u64,
    /// Oldest timestamp, milliseconds; above `max_ms` without samples.
    pub min_ms: i64,
    /// Newest timestamp, milliseconds.
    pub max_ms: i64,
    /// Estimated memory of the samples, bytes.
    pub bytes: u64,
}

/// The parts of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartStats {
    /// Files.
    pub parts: u64,
    /// Their length, bytes.
    pub bytes: u64,
    /// Their samples.
    pub samples: u64,
}

/// What `/api/v1/status/tsdb` tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// The head.
    pub head: HeadStats,
    /// The parts.
    pub parts: PartStats,
    /// Metric names with most series, most first.
    pub series_count_by_metric_name: Vec<LabelCount>,
    /// Label names with most values.
    pub label_value_count_by_label_name: Vec<LabelCount>,
    /// Label names whose values take most bytes.
    pub memory_in_bytes_by_label_name: Vec<LabelCount>,
    /// Pairs `name=value` with most series.
    pub series_count_by_label_value_pair: Vec<LabelCount>,
}

impl Db {
    /// Figures of a tenant; lists are cut at `top` entries.
    pub fn stats(&self, tenant: &TenantId, top: usize) -> Stats {
        self.inner.stats(tenant, top).unwrap_or_default()
    }

    /// What each part of a tenant holds, the oldest samples first.
    pub fn part_infos(&self, tenant: &TenantId) -> Vec<PartInfo> {
        let Some(tenant) = self.inner.tenants.read().get(tenant).cloned() else { return Vec::new() };
        let mut parts: Vec<PartInfo> =
            tenant.version.load().parts.iter().map(|entry| entry.part.info().clone()).collect();
        parts.sort_by_key(|part| (part.min_ms, part.spec.id));
        parts
    }

    /// The oldest and the newest timestamp of a tenant, milliseconds; `None` without samples. Late samples
    /// that are in memory only do not count.
    pub fn time_bounds(&self, tenant: &TenantId) -> Option<(i64, i64)> {
        let tenant = self.inner.tenants.read().get(tenant).cloned()?;
        let version = tenant.version.load();
        let parts = version.parts.iter().map(|entry| entry.part.info());
        let mut ranges: Vec<(i64, i64)> = parts.map(|info| (info.min_ms, info.max_ms)).collect();
        let lanes = tenant.lanes.read();
        for lane in &lanes.lanes {
            ranges.extend(lane.time_ranges());
        }
        ranges.extend(lanes.side.time_range());
        let ranges = ranges.into_iter().filter(|(first, last)| first <= last);
        ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Sets what sources and jobs may have from now on. Series above a limit that are there stay.
    pub fn set_series_limits(&self, limits: SeriesLimits) {
        *self.inner.limits.write() = limits;
    }

    /// Who makes how many series of a tenant; lists are cut at `top` entries.
    pub fn series_usage(&self, tenant: &TenantId, top: usize) -> SeriesUsage {
        let limits = *self.inner.limits.read();
        let usage = match self.inner.tenants.read().get(tenant) {
            Some(tenant) => SeriesUsage::of(&tenant.index.read(), &tenant.lanes.read(), top),
            None => SeriesUsage::default(),
        };
        SeriesUsage { limits, series_max: self.inner.config.series_max as u64, ..usage }
    }
}

impl Inner {
    fn stats(&self, tenant: &TenantId, top: usize) -> Option<Stats> {
        let tenant = self.tenants.read().get(tenant).cloned()?;
        let index = tenant.index.read();
        let figures = index.figures();
        let head = HeadStats {
            series: index.len() as u64,
            label_pairs: figures.pair_count,
            min_ms: i64::MAX,
            max_ms: i64::MIN,
            ..HeadStats::default()
        };
        let mut stats = Stats { head, ..Stats::default() };
        drop(index);
        {
            let lanes = tenant.lanes.read();
            let head = &mut stats.head;
            head.bytes = (lanes.bytes() + lanes.late_bytes()) as u64;
            for lane in &lanes.lanes {
                head.tiles += lane.tile_count() as u64;
                for (first, last) in lane.time_ranges() {
                    head.min_ms = head.min_ms.min(first);
                    head.max_ms = head.max_ms.max(last);
                }
            }
        }
        for entry in &tenant.version.load().parts {
            let info = entry.part.info();
            stats.parts.parts += 1;
            stats.parts.bytes += info.bytes;
            stats.parts.samples += info.samples + info.histograms;
        }
        let largest = |list: &mut dyn Iterator<Item = (String, u64)>| {
            let mut list: Vec<LabelCount> = list.map(|(name, value)| LabelCount { name, value }).collect();
            list.sort_by(|a, b| b.value.cmp(&a.value).then_with(|| a.name.cmp(&b.name)));
            list.truncate(top);
            list
        };
        let (names, pairs) = (&figures.names, &figures.pairs);
        let metrics = pairs.iter().filter(|(name, ..)| name == model::labels::METRIC_NAME);
        stats.series_count_by_metric_name = largest(&mut metrics.map(|(_, value, n)| (value.clone(), *n)));
        stats.label_value_count_by_label_name =
            largest(&mut names.iter().map(|(name, n, _)| (name.clone(), *n)));
        stats.memory_in_bytes_by_label_name =
            largest(&mut names.iter().map(|(name, _, b)| (name.clone(), *b)));
        stats.series_count_by_label_value_pair =
            largest(&mut pairs.iter().map(|(name, value, n)| (format!("{name}={value}"), *n)));
        Some(stats)
    }
}
