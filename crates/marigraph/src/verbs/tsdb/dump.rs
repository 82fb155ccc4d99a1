//! `tsdb dump` and `tsdb dump-openmetrics`: samples as text, series by series in order of labels.

use std::io::{self, Write};
use std::iter::Peekable;

use anyhow::Result;
use blocks::segments::Window;
use blocks::{Block, Samples, Series};
use model::histogram::Buckets;
use model::number::{append_general, format_general};
use model::{Histogram, Labels};
use storage::Column;

use super::source::{Selected, Source, column_of, is_selected, open};
use super::{Damage, DumpArgs};
use crate::verbs::terminal::Progress;

/// How a sample is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As `promtool tsdb dump` does.
    Prometheus,
    /// As `promtool tsdb dump-openmetrics` does.
    OpenMetrics,
}

/// Series decoded at a time.
const BATCH: usize = 256;

/// Dumps to `out`.
pub(super) fn run(args: &DumpArgs, form: Form, out: &mut dyn Write) -> Result<()> {
    let mut progress = Progress::of_samples("dump");
    let mut damage = Damage::default();
    match open(&args.dir, &mut damage, &mut progress)? {
        Source::Store(db) => {
            let window = (args.min_time, args.max_time);
            let selected = Selected::new(&db, &args.tenant, &args.matches, window)?;
            let mut columns = Vec::new();
            for first in (0..selected.len()).step_by(BATCH) {
                let range = first..selected.len().min(first + BATCH);
                selected.load(range.clone(), &mut columns, &mut damage, &mut progress);
                for (at, column) in range.zip(&columns) {
                    print(selected.labels(at), column, form, out)?;
                }
            }
            selected.tell_warnings(&mut damage, &mut progress);
        }
        Source::Blocks(blocks) => dump_blocks(&blocks, args, form, out, &mut damage, &mut progress)?,
    }
    if form == Form::OpenMetrics {
        writeln!(out, "# EOF")?;
    }
    out.flush()?;
    damage.outcome()
}

/// The series of all blocks in order of labels, the samples of each joined.
fn dump_blocks(
    blocks: &[Block],
    args: &DumpArgs,
    form: Form,
    out: &mut dyn Write,
    damage: &mut Damage,
    progress: &mut Progress,
) -> Result<()> {
    let wanted =
        |block: &&Block| block.meta().min_time <= args.max_time && block.meta().max_time > args.min_time;
    let blocks: Vec<&Block> = blocks.iter().filter(wanted).collect();
    let mut iters: Vec<Peekable<_>> = blocks.iter().map(|block| block.series().peekable()).collect();
    let mut windows: Vec<Window> = blocks.iter().map(|_| Window::default()).collect();
    let (mut of_block, mut all) = (Samples::default(), Samples::default());
    loop {
        let mut next: Option<Labels> = None;
        for iter in &mut iters {
            while let Some(Err(error)) = iter.next_if(Result::is_err) {
                damage.tell(progress, error);
            }
            if let Some(Ok(Series { labels, .. })) = iter.peek()
                && next.as_ref().is_none_or(|next| labels < next)
            {
                next = Some(labels.clone());
            }
        }
        let Some(labels) = next else { return Ok(()) };
        let selected = is_selected(&labels, &args.matches);
        all.clear();
        for ((iter, window), block) in iters.iter_mut().zip(&mut windows).zip(&blocks) {
            let is_next = |series: &Result<Series, _>| series.as_ref().is_ok_and(|s| s.labels == labels);
            let Some(Ok(series)) = iter.next_if(is_next) else { continue };
            if selected {
                let range_ms = args.min_time..=args.max_time;
                block.samples(&series, range_ms, window, &mut of_block, |error| {
                    damage.tell(progress, format!("{error}; samples of {labels} are left out"));
                });
                all.times.append(&mut of_block.times);
                all.values.append(&mut of_block.values);
                all.histograms.append(&mut of_block.histograms);
            }
        }
        all.sort();
        print(&labels, &column_of(&mut all), form, out)?;
    }
}

fn print(labels: &Labels, column: &Column, form: Form, out: &mut dyn Write) -> io::Result<()> {
    let mut line = match form {
        Form::Prometheus => format!("{labels} "),
        Form::OpenMetrics => {
            let name = labels.metric_name();
            let others = labels.without(|name| name == model::labels::METRIC_NAME);
            format!("{name}{others} ")
        }
    };
    let head = line.len();
    let mut histograms = column.histograms.iter().peekable();
    for (time, value) in column.times.iter().zip(&column.values) {
        while let Some((at, histogram)) = histograms.next_if(|(at, _)| at < time && form == Form::Prometheus)
        {
            writeln!(out, "{labels} {} {at}", shown(histogram))?;
        }
        line.truncate(head);
        match form {
            Form::Prometheus => {
                append_general(&mut line, *value);
                line += &format!(" {time}\n");
            }
            Form::OpenMetrics if model::is_stale(*value) => continue,
            Form::OpenMetrics => {
                append_general(&mut line, *value);
                line += &format!(" {}.{:03}\n", time.div_euclid(1000), time.rem_euclid(1000));
            }
        }
        out.write_all(line.as_bytes())?;
    }
    if form == Form::Prometheus {
        for (at, histogram) in histograms {
            writeln!(out, "{labels} {} {at}", shown(histogram))?;
        }
    }
    Ok(())
}

/// A histogram as Prometheus prints it: count, sum, and the buckets that are not empty with their bounds.
fn shown(histogram: &Histogram) -> String {
    let mut text =
        format!("{{count:{}, sum:{}", format_general(histogram.count()), format_general(histogram.sum));
    let zero = match &histogram.buckets {
        Buckets::Int { zero_count, .. } => *zero_count as f64,
        Buckets::Float { zero_count, .. } => *zero_count,
    };
    let (positive, negative) = match &histogram.buckets {
        Buckets::Int { positive, negative, .. } => (counts(positive), counts(negative)),
        Buckets::Float { positive, negative, .. } => (positive.clone(), negative.clone()),
    };
    let number = format_general;
    let negative: Vec<String> = buckets(histogram, false, &negative)
        .map(|(lower, upper, count)| format!(", [{},{}):{}", number(-upper), number(-lower), number(count)))
        .collect();
    negative.iter().rev().for_each(|bucket| text += bucket);
    if zero != 0.0 {
        let threshold = number(histogram.zero_threshold);
        text += &format!(", [-{threshold},{threshold}]:{}", number(zero));
    }
    for (lower, upper, count) in buckets(histogram, true, &positive) {
        text += &format!(", ({},{}]:{}", number(lower), number(upper), number(count));
    }
    text + "}"
}

fn counts(deltas: &[i64]) -> Vec<f64> {
    let sum = |count: &mut i64, delta: &i64| {
        *count = count.wrapping_add(*delta);
        Some(*count as f64)
    };
    deltas.iter().scan(0i64, sum).collect()
}

/// Bounds and counts of the buckets of a side that are not empty.
fn buckets<'h>(
    histogram: &'h Histogram,
    positive: bool,
    counts: &'h [f64],
) -> impl Iterator<Item = (f64, f64, f64)> + 'h {
    let spans = if positive { &histogram.positive_spans } else { &histogram.negative_spans };
    let mut next = 0i64;
    let indexes = spans.iter().flat_map(move |span| {
        let first = next + i64::from(span.offset);
        next = first + i64::from(span.length);
        first..next
    });
    let bound = |index: i64| match histogram.schema {
        model::histogram::CUSTOM_BUCKETS_SCHEMA if index < 0 => f64::NEG_INFINITY,
        model::histogram::CUSTOM_BUCKETS_SCHEMA => {
            histogram.custom_values.get(index as usize).copied().unwrap_or(f64::INFINITY)
        }
        // 2^(index · 2^-schema)
        schema => (index as f64 * f64::from(-schema).exp2()).exp2(),
    };
    let placed = indexes.zip(counts).map(move |(index, count)| (bound(index - 1), bound(index), *count));
    placed.filter(|(_, _, count)| *count != 0.0)
}
