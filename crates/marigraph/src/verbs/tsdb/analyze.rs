//! `tsdb analyze`: what makes a part or a block large, with the lists of `promtool tsdb analyze`.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::{self, Write};

use anyhow::{Context, Result, anyhow};
use blocks::Block;
use model::Labels;
use tsdb::Db;
use tsdb::part::Part;

use super::source::{Source, is_selected, open};
use super::{AnalyzeArgs, Damage, shown_time};
use crate::verbs::terminal::{self, Progress};

/// Series decoded at a time.
const BATCH: u32 = 512;

/// Analyses one part or block.
pub(super) fn run(args: &AnalyzeArgs, out: &mut dyn Write) -> Result<()> {
    let mut progress = Progress::of_samples("analyze");
    let mut damage = Damage::default();
    match open(&args.dir, &mut damage, &mut progress)? {
        Source::Store(db) => of_store(&db, args, &mut damage, &mut progress, out)?,
        Source::Blocks(blocks) => {
            let block = match &args.id {
                Some(id) => blocks.iter().find(|block| block.meta().ulid.to_string() == *id),
                None => blocks.iter().max_by_key(|block| block.meta().max_time),
            };
            let block = block.ok_or_else(|| missing(args, "block"))?;
            of_block(block, args, &mut damage, &mut progress, out)?;
        }
    }
    damage.outcome()
}

fn missing(args: &AnalyzeArgs, what: &str) -> anyhow::Error {
    let dir = args.dir.display();
    match &args.id {
        Some(id) => anyhow!("{dir} has no readable {what} {id}; `marigraph tsdb list {dir}` names them"),
        None => anyhow!("{dir} has no {what} that can be read"),
    }
}

fn of_store(
    db: &Db,
    args: &AnalyzeArgs,
    damage: &mut Damage,
    progress: &mut Progress,
    out: &mut dyn Write,
) -> Result<()> {
    let parts = db.parts(&args.tenant);
    let part = match &args.id {
        Some(id) => parts.iter().find(|part| part.info().spec.id.to_string() == *id),
        None => parts.iter().max_by_key(|part| part.info().max_ms),
    };
    let part = part.ok_or_else(|| missing(args, "part"))?;
    let (bytes, samples) = parts.iter().map(|part| part.info()).fold((0, 0), |(bytes, samples), info| {
        (bytes + info.bytes, samples + info.samples + info.histograms)
    });
    writeln!(
        out,
        "All parts: {}, {} in {samples} samples: {:.3} bytes a sample",
        parts.len(),
        terminal::bytes(bytes),
        bytes as f64 / samples.max(1) as f64
    )?;
    let info = part.info();
    let samples = info.samples + info.histograms;
    writeln!(out, "Part ID: {}", info.spec.id)?;
    print_times(info.min_ms, info.max_ms, out)?;
    writeln!(out, "Samples: {samples}")?;
    writeln!(
        out,
        "Bytes: {}, {:.3} a sample",
        terminal::bytes(info.bytes),
        info.bytes as f64 / samples.max(1) as f64
    )?;
    writeln!(out, "\nSections (bytes, bytes a sample, what):")?;
    for (name, bytes) in part.section_bytes() {
        let share = bytes as f64 / samples.max(1) as f64;
        writeln!(out, "{bytes} {share:.4} {name} {}", section_words(name))?;
    }
    let mut analysis = Analysis::new(info.max_ms.saturating_sub(info.min_ms));
    scan_part(part, args, &mut analysis, damage, progress);
    analysis.print(args.limit, out)
}

fn section_words(name: &str) -> &'static str {
    match name {
        "SYM" => "(label values)",
        "LBL" => "(labels of the series)",
        "PST" => "(postings)",
        "TSC" => "(time columns)",
        "DIR" => "(where each series is)",
        "VAL" => "(values)",
        "HST" => "(histograms)",
        "STC" => "(start times)",
        "MDT" => "(metadata)",
        _ => "",
    }
}

fn scan_part(
    part: &Part,
    args: &AnalyzeArgs,
    analysis: &mut Analysis,
    damage: &mut Damage,
    progress: &mut Progress,
) {
    let series = part.info().series;
    let (mut labels, mut columns) = (Vec::new(), Vec::new());
    let mut samples = 0;
    for first in (0..series).step_by(BATCH as usize) {
        let numbers: Vec<u32> = (first..series.min(first.saturating_add(BATCH))).collect();
        labels.clear();
        columns.clear();
        if let Err(error) = part.labels_of(&numbers, &mut labels) {
            damage.tell(progress, format!("{error}; {} series are left out", numbers.len()));
            continue;
        }
        if let Err(error) = part.load(&numbers, i64::MIN, i64::MAX, &mut columns) {
            // Their labels still count, as if they lived all the time.
            damage.tell(progress, format!("{error}; the churn of {} series is not known", numbers.len()));
            columns.resize(numbers.len(), storage::Column::default());
        }
        for (labels, column) in labels.iter().zip(&columns) {
            if !is_selected(labels, &args.matches) {
                continue;
            }
            let firsts =
                column.times.first().into_iter().chain(column.histograms.first().map(|(time, _)| time));
            let lasts = column.times.last().into_iter().chain(column.histograms.last().map(|(time, _)| time));
            let lived =
                firsts.min().zip(lasts.max()).map_or(analysis.duration_ms, |(first, last)| last - first);
            samples += (column.times.len() + column.histograms.len()) as u64;
            analysis.add(labels, lived);
        }
        progress.set(f64::from(first) / f64::from(series), samples);
    }
}

fn of_block(
    block: &Block,
    args: &AnalyzeArgs,
    damage: &mut Damage,
    progress: &mut Progress,
    out: &mut dyn Write,
) -> Result<()> {
    let meta = block.meta();
    let (index, chunks) = block.bytes();
    let samples = meta.stats.num_samples.max(1) as f64;
    writeln!(out, "Block ID: {}", meta.ulid)?;
    print_times(meta.min_time, meta.max_time, out)?;
    writeln!(out, "Samples: {}", meta.stats.num_samples)?;
    writeln!(
        out,
        "Bytes: {}, {:.3} a sample (index {:.3}, chunks {:.3})",
        terminal::bytes(index + chunks),
        (index + chunks) as f64 / samples,
        index as f64 / samples,
        chunks as f64 / samples
    )?;
    if !block.tombstones().is_empty() {
        writeln!(out, "Deletions: {} intervals", block.tombstones().len())?;
    }
    let mut analysis = Analysis::new(meta.max_time.saturating_sub(meta.min_time));
    let mut series = block.series();
    while let Some(next) = series.next() {
        match next {
            Ok(series) if is_selected(&series.labels, &args.matches) => {
                let first = series.chunks.iter().map(|chunk| chunk.min_ms).min();
                let last = series.chunks.iter().map(|chunk| chunk.max_ms).max();
                let lived = first.zip(last).map_or(0, |(first, last)| last.saturating_sub(first));
                analysis.add(&series.labels, lived);
            }
            Ok(_) => {}
            Err(error) => damage.tell(progress, error),
        }
        progress.set(series.progress(), 0);
    }
    analysis.print(args.limit, out)
}

fn print_times(min_ms: i64, max_ms: i64, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "Times: {} to {} ({min_ms} to {max_ms})\nDuration: {}",
        shown_time(min_ms),
        shown_time(max_ms),
        model::duration::format(max_ms.saturating_sub(min_ms).max(0))
    )
}

/// Counts over the labels of all series. Texts are numbered, so that a pair is eight bytes.
#[derive(Debug)]
struct Analysis {
    duration_ms: i64,
    series: u64,
    entries: u64,
    numbers: HashMap<Box<str>, u32>,
    /// By pair: series, and the sum of the shares of time that they did not live.
    pairs: HashMap<(u32, u32), (u64, f64)>,
    /// By name: the same shares.
    names: HashMap<u32, f64>,
}

impl Analysis {
    fn new(duration_ms: i64) -> Analysis {
        Analysis {
            duration_ms,
            series: 0,
            entries: 0,
            numbers: HashMap::new(),
            pairs: HashMap::new(),
            names: HashMap::new(),
        }
    }

    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(text.into(), number);
        number
    }

    /// Counts a series that has lived for so long.
    fn add(&mut self, labels: &Labels, lived_ms: i64) {
        self.series += 1;
        let absent = 1.0 - (lived_ms as f64 / self.duration_ms.max(1) as f64).clamp(0.0, 1.0);
        for (name, value) in labels {
            self.entries += 1;
            let pair = (self.number(name), self.number(value));
            let of_pair = self.pairs.entry(pair).or_default();
            *of_pair = (of_pair.0 + 1, of_pair.1 + absent);
            *self.names.entry(pair.0).or_default() += absent;
        }
    }

    fn print(&self, limit: usize, out: &mut dyn Write) -> Result<()> {
        let mut texts = vec![""; self.numbers.len()];
        for (text, number) in &self.numbers {
            texts[*number as usize] = text;
        }
        let text = |number: u32| texts[number as usize];
        let pair = |(name, value): (u32, u32)| format!("{}={}", text(name), text(value));
        writeln!(out, "Total Series: {}", self.series)?;
        writeln!(out, "Label names: {}", self.names.len())?;
        writeln!(out, "Postings (unique label pairs): {}", self.pairs.len())?;
        writeln!(out, "Postings entries (total label pairs): {}", self.entries)?;

        let churn = self.pairs.iter().map(|(key, (_, absent))| (pair(*key), absent.round() as u64));
        print_list("Label pairs most involved in churning", churn, limit, out)?;
        let churn = self.names.iter().map(|(name, absent)| (text(*name).to_owned(), absent.round() as u64));
        print_list("Label names most involved in churning", churn, limit, out)?;
        let common = self.pairs.iter().map(|(key, (series, _))| (pair(*key), *series));
        print_list("Most common label pairs", common, limit, out)?;
        let lengths = sums(self.pairs.keys().map(|(name, value)| (*name, text(*value).len() as u64)));
        let lengths = lengths.into_iter().map(|(name, bytes)| (text(name).to_owned(), bytes));
        print_list("Label names with highest cumulative label value length", lengths, limit, out)?;
        let values = sums(self.pairs.keys().map(|(name, _)| (*name, 1)));
        let values = values.into_iter().map(|(name, count)| (text(name).to_owned(), count));
        print_list("Highest cardinality labels", values, limit, out)?;
        let metric = self.numbers.get(model::labels::METRIC_NAME);
        let metrics = self.pairs.iter().filter(|((name, _), _)| Some(name) == metric);
        let metrics = metrics.map(|((_, value), (series, _))| (text(*value).to_owned(), *series));
        print_list("Highest cardinality metric names", metrics, limit, out)
    }
}

fn sums<K: Eq + Hash>(counts: impl Iterator<Item = (K, u64)>) -> HashMap<K, u64> {
    counts.fold(HashMap::new(), |mut sums, (key, count)| {
        *sums.entry(key).or_default() += count;
        sums
    })
}

/// Prints the largest of `list`, at most `limit`, and none that is 0.
fn print_list(
    title: &str,
    list: impl Iterator<Item = (String, u64)>,
    limit: usize,
    out: &mut dyn Write,
) -> Result<()> {
    writeln!(out, "\n{title}:").context("write")?;
    let mut list: Vec<(String, u64)> = list.filter(|(_, count)| *count > 0).collect();
    let order = |a: &(String, u64), b: &(String, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0));
    if list.len() > limit && limit > 0 {
        list.select_nth_unstable_by(limit - 1, order);
    }
    list.truncate(limit);
    list.sort_by(order);
    for (name, count) in list {
        writeln!(out, "{count} {name}")?;
    }
    Ok(())
}
