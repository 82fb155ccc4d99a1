//! `tsdb import`: each block becomes parts of at most a day, past log and head.
//!
//! A part wants its series by metric, so a first pass over the index notes which series each metric has;
//! then metric after metric is read, a batch of series at a time. What the store has already of a series
//! is read, too, and left out: what an interrupted import has taken stays, and a repeated one adds
//! nothing. In memory: eight bytes for each series of a block, the labels of one metric, the samples of
//! one batch. Series of one target have the same times; a part stores these once.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use blocks::segments::Window;
use blocks::{Block, Samples, Series, find_blocks};
use model::{Histogram, Labels, LabelsBuilder, Matcher, TenantId};
use stdx::disk::RealDisk;
use storage::Column;
use tsdb::part::part_order;
use tsdb::{Config, Db, Import};

use super::source::{Selected, column_of, open_blocks};
use super::{Damage, ExternalLabels, ImportArgs, Selector, explain};
use crate::verbs::terminal::Progress;

const DAY_MS: i64 = 24 * 3600 * 1000;
/// Series decoded at a time: a day of each is at most some megabytes.
const BATCH: usize = 128;
/// Most labels of a series. Source: the store's own limit.
const LABELS_MAX: usize = 4096;

/// Imports; a line on `out` for each block.
pub(super) fn run(args: &ImportArgs, out: &mut dyn Write) -> Result<()> {
    let mut progress = Progress::of_samples("import");
    let mut damage = Damage::default();
    let mut dirs = Vec::new();
    for dir in &args.blocks {
        let found = find_blocks(&RealDisk, dir)?;
        ensure!(!found.is_empty(), "{} is no block and has none", dir.display());
        dirs.extend(found);
    }
    let blocks = open_blocks(&dirs, &mut damage, &mut progress);
    for block in &blocks {
        check_external_labels(block, args.external_labels)?;
    }
    let config = Config { background: false, retention: None, ..Config::new(&args.data) };
    let db = Db::open(config).map_err(|error| explain(error, true))?;
    db.problems().into_iter().for_each(|problem| damage.tell(&mut progress, problem));
    db.readiness()
        .map_err(|not| anyhow::anyhow!("{} takes no samples: {}", args.data.display(), not.reason))?;

    let mut total = Counts::default();
    for (number, block) in blocks.iter().enumerate() {
        let mut job = Job {
            db: &db,
            tenant: &args.tenant,
            block,
            external: external_labels(block, args.external_labels),
            counts: Counts::default(),
            share: (number as f64 / blocks.len() as f64, 1.0 / blocks.len() as f64),
            samples_before: total.seen(),
            damage: &mut damage,
            progress: &mut progress,
        };
        job.run().with_context(|| format!("import {}", block.dir().display()))?;
        let counts = job.counts;
        writeln!(out, "{} {counts}", block.meta().ulid)?;
        total.add(counts);
    }
    db.close()?;
    progress.line(&format!("{} blocks: {total}", blocks.len()));
    if total.added > 0 {
        progress.line(
            "a hub drops samples older than its --retention.time (15d if not set): mind it before it starts",
        );
    }
    damage.outcome()
}

fn check_external_labels(block: &Block, wanted: Option<ExternalLabels>) -> Result<()> {
    let labels: Vec<String> = block.meta().external_labels().map(|(n, v)| format!("{n}={v:?}")).collect();
    if !labels.is_empty() && wanted.is_none() {
        bail!(
            "block {} has external labels {}; --external-labels add gives them to its series, \
             --external-labels ignore forgets them",
            block.dir().display(),
            labels.join(", ")
        );
    }
    Ok(())
}

fn external_labels(block: &Block, wanted: Option<ExternalLabels>) -> Vec<(String, String)> {
    match wanted {
        Some(ExternalLabels::Add) => {
            block.meta().external_labels().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
        }
        _ => Vec::new(),
    }
}

/// What has become of samples.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    added: u64,
    /// In the store already, bit for bit.
    present: u64,
    /// The store has another value at that time, and keeps it.
    conflicts: u64,
    series: u64,
}

impl Counts {
    fn seen(&self) -> u64 {
        self.added + self.present + self.conflicts
    }

    fn add(&mut self, other: Counts) {
        self.added += other.added;
        self.present += other.present;
        self.conflicts += other.conflicts;
        self.series += other.series;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { added, present, conflicts, series } = self;
        write!(f, "{added} samples added, {present} there already")?;
        if *conflicts > 0 {
            write!(f, ", {conflicts} differ from what is there and are left out")?;
        }
        write!(f, "; {series} series")
    }
}

/// The import of one block.
struct Job<'a> {
    db: &'a Db,
    tenant: &'a TenantId,
    block: &'a Block,
    external: Vec<(String, String)>,
    counts: Counts,
    /// Where this block begins among all, and how much of all it is.
    share: (f64, f64),
    samples_before: u64,
    damage: &'a mut Damage,
    progress: &'a mut Progress,
}

/// What the first pass finds.
struct Outline {
    /// Numbers of series by metric name.
    metrics: BTreeMap<String, Vec<u64>>,
    min_ms: i64,
    max_ms: i64,
    series: u64,
}

impl Job<'_> {
    fn run(&mut self) -> Result<()> {
        let outline = self.outline();
        self.counts.series = outline.series;
        if outline.min_ms > outline.max_ms {
            return Ok(());
        }
        let held = self.db.time_ranges(self.tenant);
        let (first, last) = (outline.min_ms.div_euclid(DAY_MS), outline.max_ms.div_euclid(DAY_MS));
        let days = (last - first + 1) as f64;
        for day in first..=last {
            let window = (day.saturating_mul(DAY_MS), day.saturating_mul(DAY_MS).saturating_add(DAY_MS - 1));
            // Without samples of ours in the window there is nothing to compare with.
            let compare = held.iter().any(|(first, last)| *first <= window.1 && *last >= window.0);
            let mut import = self.db.import(self.tenant)?;
            let mut done = 0;
            for (metric, ids) in &outline.metrics {
                self.metric(metric, ids, window, compare, &mut import)?;
                done += ids.len();
                let of_block = ((day - first) as f64 + done as f64 / outline.series as f64) / days;
                let samples = self.samples_before + self.counts.seen();
                self.progress.set(self.share.0 + self.share.1 * of_block, samples);
            }
            import.finish()?;
        }
        let stated = self.block.meta().stats.num_samples;
        if self.block.tombstones().is_empty() && stated > 0 && stated != self.counts.seen() {
            let found = self.counts.seen();
            let dir = self.block.dir().display();
            self.damage.tell(self.progress, format!("{dir} says {stated} samples and has {found}"));
        }
        Ok(())
    }

    fn outline(&mut self) -> Outline {
        let mut outline = Outline { metrics: BTreeMap::new(), min_ms: i64::MAX, max_ms: i64::MIN, series: 0 };
        for series in self.block.series() {
            let Series { id, labels, chunks } = match series {
                Ok(series) => series,
                Err(error) => {
                    self.damage.tell(self.progress, error);
                    continue;
                }
            };
            outline.series += 1;
            outline.min_ms =
                chunks.iter().map(|chunk| chunk.min_ms).min().unwrap_or(i64::MAX).min(outline.min_ms);
            outline.max_ms =
                chunks.iter().map(|chunk| chunk.max_ms).max().unwrap_or(i64::MIN).max(outline.max_ms);
            match outline.metrics.get_mut(labels.metric_name()) {
                Some(ids) => ids.push(id),
                None => {
                    outline.metrics.insert(labels.metric_name().to_owned(), vec![id]);
                }
            }
        }
        outline
    }

    /// Imports the series of one metric within a window.
    fn metric(
        &mut self,
        metric: &str,
        ids: &[u64],
        window: (i64, i64),
        compare: bool,
        import: &mut Import<'_>,
    ) -> Result<()> {
        let existing = match compare {
            true => {
                let of_metric = [Selector(vec![Matcher::equal(model::labels::METRIC_NAME, metric)])];
                Some(Selected::new(self.db, self.tenant, &of_metric, window)?)
            }
            false => None,
        };
        let mut chunk_window = Window::default();
        for batch in self.in_part_order(ids).chunks(BATCH) {
            let mut read: Vec<(Labels, Samples)> = Vec::with_capacity(batch.len());
            for id in batch {
                let Some(series) = self.series(*id) else { continue };
                let mut samples = Samples::default();
                let (damage, progress) = (&mut *self.damage, &mut *self.progress);
                self.block.samples(&series, window.0..=window.1, &mut chunk_window, &mut samples, |error| {
                    damage.tell(progress, format!("{error}; samples of {} are left out", series.labels));
                });
                samples.histograms.retain(|(time, histogram)| {
                    let good = histogram.is_well_formed() || histogram.is_stale();
                    if !good {
                        damage
                            .tell(progress, format!("a malformed histogram of {} at {time}", series.labels));
                    }
                    good
                });
                if !samples.is_empty() {
                    read.push((series.labels, samples));
                }
            }
            if let Some(existing) = &existing {
                self.leave_out(existing, &mut read);
            }
            for (labels, samples) in &mut read {
                self.counts.added += samples.len() as u64;
                import.add(labels, &column_of(samples))?;
            }
        }
        if let Some(existing) = &existing {
            existing.tell_warnings(self.damage, self.progress);
        }
        Ok(())
    }

    /// Reads a series again, with its external labels.
    fn series(&mut self, id: u64) -> Option<Series> {
        let mut series = match self.block.index().series_at(id) {
            Ok(series) => series,
            Err(error) => {
                self.damage.tell(self.progress, error);
                return None;
            }
        };
        if series.labels.len() > LABELS_MAX {
            let message =
                format!("a series has more than {LABELS_MAX} labels and is left out: {}", series.labels);
            self.damage.tell(self.progress, message);
            return None;
        }
        if !self.external.is_empty() {
            let mut builder = LabelsBuilder::from_labels(&series.labels);
            for (name, value) in &self.external {
                if builder.get(name).is_some_and(|own| own != value) {
                    let message =
                        format!("series {} has its own label {name} and is left out", series.labels);
                    self.damage.tell(self.progress, message);
                    return None;
                }
                builder.set(name, value);
            }
            series.labels = builder.build();
        }
        Some(series)
    }

    /// The series of one metric in the order that a part wants. Blocks have nearly the same order; it
    /// differs where label names sort before `__name__`.
    fn in_part_order(&mut self, ids: &[u64]) -> Vec<u64> {
        let mut sorted = true;
        let mut last: Option<Labels> = None;
        for id in ids {
            let Some(Series { labels, .. }) = self.series(*id) else { continue };
            sorted &= last.as_ref().is_none_or(|last| part_order(last, &labels).is_lt());
            last = Some(labels);
        }
        if sorted {
            return ids.to_vec();
        }
        let mut list: Vec<(Labels, u64)> =
            ids.iter().filter_map(|id| Some((self.series(*id)?.labels, *id))).collect();
        list.sort_by(|a, b| part_order(&a.0, &b.0));
        // External labels may make two series one; the first stays.
        list.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                self.damage
                    .tell(self.progress, format!("series {} is there twice; one is left out", first.0));
            }
            same
        });
        list.into_iter().map(|(_, id)| id).collect()
    }

    /// Takes away what the store has at the same times.
    fn leave_out(&mut self, existing: &Selected, read: &mut Vec<(Labels, Samples)>) {
        let find = |labels: &Labels| {
            let (mut from, mut to) = (0, existing.len());
            while from < to {
                let middle = (from + to) / 2;
                match existing.labels(middle).cmp(labels) {
                    std::cmp::Ordering::Equal => return Some(middle),
                    std::cmp::Ordering::Less => from = middle + 1,
                    std::cmp::Ordering::Greater => to = middle,
                }
            }
            None
        };
        let places: Vec<(usize, usize)> =
            read.iter().enumerate().filter_map(|(at, (labels, _))| Some((at, find(labels)?))).collect();
        let mut columns = Vec::new();
        for run in places.chunk_by(|a, b| a.1 + 1 == b.1) {
            let range = run[0].1..run[0].1 + run.len();
            existing.load(range, &mut columns, self.damage, self.progress);
            for ((at, _), column) in run.iter().zip(&columns) {
                compare(&mut read[*at].1, column, &mut self.counts);
            }
        }
        read.retain(|(_, samples)| !samples.is_empty());
    }
}

/// Takes the samples out of `samples` at whose times `column` has one, and counts them.
fn compare(samples: &mut Samples, column: &Column, counts: &mut Counts) {
    if column.is_empty() {
        return;
    }
    let float_at = |time: i64| column.times.binary_search(&time).ok().map(|at| column.values[at].to_bits());
    let histogram_at = |time: i64| {
        let at = column.histograms.binary_search_by_key(&time, |(time, _)| *time).ok()?;
        Some(&*column.histograms[at].1)
    };
    let mut count = |same: bool| match same {
        true => counts.present += 1,
        false => counts.conflicts += 1,
    };
    let floats = samples.times.iter().zip(&samples.values);
    let mut taken = Vec::new();
    for (time, value) in floats {
        if let Some(bits) = float_at(*time) {
            count(bits == value.to_bits());
            taken.push(*time);
        } else if histogram_at(*time).is_some() {
            count(false);
            taken.push(*time);
        }
    }
    for (time, histogram) in &samples.histograms {
        if let Some(other) = histogram_at(*time) {
            count(same(histogram, other));
            taken.push(*time);
        } else if float_at(*time).is_some() {
            count(false);
            taken.push(*time);
        }
    }
    taken.sort_unstable();
    samples.retain(|time| taken.binary_search(&time).is_err());
}

/// Whether two histograms say the same of the observations. What they know of counter resets differs
/// from one place of a chunk to another.
fn same(a: &Histogram, b: &Histogram) -> bool {
    let plain = |histogram: &Histogram| Histogram {
        counter_reset_hint: Default::default(),
        sum: 0.0,
        ..histogram.clone()
    };
    a.sum.to_bits() == b.sum.to_bits() && (a.is_stale() || plain(a) == plain(b))
}
