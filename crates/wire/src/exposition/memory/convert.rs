//! The text formats' classic histograms as native ones with custom buckets, after a row was read.
//!
//! The series of a histogram stand together in an exposition. Which column is which part of which
//! histogram is worked out when the column is new; from then on a row is walked through once, and
//! where the histogram changes, the parts collected so far are converted. A histogram that makes no
//! sense gives nothing, and its series are left out all the same.
//!
//! Source: Prometheus `model/textparse/nhcbparse.go`.

use std::collections::HashMap;

use model::labels::{BUCKET_LABEL, METRIC_NAME};
use model::{Labels, LabelsBuilder};

use super::super::nhcb::{ClassicHistogram, ClassicPart, classic_part};
use super::super::row::{HistogramCell, ScrapedExemplar, ScrapedRow};
use super::super::value::parse_float;
use super::ColumnNumbers;

/// No histogram.
const NONE: u32 = u32::MAX;

/// What the columns of a text exposition are to its histograms.
#[derive(Debug, Default)]
pub(super) struct Conversion {
    keep_classic: bool,
    /// By column.
    parts: Vec<Part>,
    /// By number; the labels are those of the native histogram.
    histograms: Vec<Converted>,
    by_labels: HashMap<Labels, u32>,
    /// Numbers of histograms no longer there.
    free: Vec<u32>,
    /// The columns of the last row's histograms.
    last: Vec<u32>,
    collected: ClassicHistogram,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    histogram: u32,
    part: ClassicPart,
    /// Buckets only.
    bound: f64,
}

#[derive(Debug)]
struct Converted {
    labels: Labels,
    column: u32,
    /// Columns that are parts of it.
    parts: u32,
}

/// What has been collected of the histogram at hand.
#[derive(Debug, Default)]
struct Collecting {
    histogram: Option<u32>,
    timestamp_ms: Option<i64>,
    start_ms: Option<i64>,
    exemplars: Vec<ScrapedExemplar>,
}

impl Conversion {
    pub(super) fn new(keep_classic: bool) -> Conversion {
        Conversion { keep_classic, ..Conversion::default() }
    }

    /// Converts the histograms of `row`, which has been read. `new_parts` are those of its new columns
    /// that are parts of histograms.
    pub(super) fn convert(&mut self, new_parts: &[u32], numbers: &mut ColumnNumbers, row: &mut ScrapedRow) {
        self.forget(numbers, row);
        self.learn(new_parts, numbers, row);
        self.collect(row);
        if !self.keep_classic {
            self.leave_parts_out(row);
        }
        let same = row.histograms.iter().map(|cell| cell.column).eq(self.last.iter().copied());
        row.same_columns &= same;
        if !same {
            self.last = row.histograms.iter().map(|cell| cell.column).collect();
        }
    }

    /// Whether `column` of the exposition is a series of its own.
    pub(super) fn is_shown(&self, column: u32) -> bool {
        self.keep_classic || self.part_of(column).is_none()
    }

    pub(super) fn each_series(&self, mut each: impl FnMut(u32, Labels)) {
        for histogram in self.histograms.iter().filter(|histogram| histogram.parts > 0) {
            each(histogram.column, histogram.labels.clone());
        }
    }

    pub(super) fn all_columns(&self) -> impl Iterator<Item = u32> {
        self.histograms.iter().filter(|histogram| histogram.parts > 0).map(|histogram| histogram.column)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let labels: usize = self.histograms.iter().map(|histogram| histogram.labels.as_bytes().len()).sum();
        self.parts.capacity() * size_of::<Part>()
            + self.histograms.capacity() * size_of::<Converted>()
            + self.by_labels.capacity() * size_of::<(Labels, u32)>()
            + 2 * labels
    }

    fn part_of(&self, column: u32) -> Option<Part> {
        self.parts.get(column as usize).copied().filter(|part| part.histogram != NONE)
    }

    /// Forgets retired columns, and histograms without any.
    fn forget(&mut self, numbers: &mut ColumnNumbers, row: &mut ScrapedRow) {
        for i in 0..row.retired_columns.len() {
            let column = row.retired_columns[i];
            let Some(part) = self.part_of(column) else { continue };
            self.parts[column as usize].histogram = NONE;
            let histogram = &mut self.histograms[part.histogram as usize];
            histogram.parts -= 1;
            if histogram.parts == 0 {
                self.by_labels.remove(&histogram.labels);
                histogram.labels = Labels::empty();
                self.free.push(part.histogram);
                row.retired_columns.push(histogram.column);
                numbers.give(histogram.column);
            }
        }
    }

    fn learn(&mut self, new_parts: &[u32], numbers: &mut ColumnNumbers, row: &mut ScrapedRow) {
        if new_parts.is_empty() {
            return;
        }
        let mut added = Vec::new();
        let mut new_parts = new_parts.iter().peekable();
        // Both lists are in the order of the exposition.
        row.new_columns.retain(|(column, labels)| {
            if new_parts.next_if_eq(&column).is_none() {
                return true;
            }
            let Some((part, base)) = part_and_base(labels) else { return true };
            let histogram = match self.by_labels.get(&base) {
                Some(known) => *known,
                None => {
                    let known = self.add(base.clone(), numbers.take());
                    added.push((self.histograms[known as usize].column, base));
                    known
                }
            };
            self.histograms[histogram as usize].parts += 1;
            let at = *column as usize;
            if self.parts.len() <= at {
                let none = Part { histogram: NONE, part: ClassicPart::Sum, bound: 0.0 };
                self.parts.resize(at + 1, none);
            }
            self.parts[at] = Part { histogram, ..part };
            self.keep_classic
        });
        row.new_columns.extend(added);
    }

    fn add(&mut self, labels: Labels, column: u32) -> u32 {
        let converted = Converted { labels: labels.clone(), column, parts: 0 };
        let number = match self.free.pop() {
            Some(free) => {
                self.histograms[free as usize] = converted;
                free
            }
            None => {
                self.histograms.push(converted);
                (self.histograms.len() - 1) as u32
            }
        };
        self.by_labels.insert(labels, number);
        number
    }

    /// Walks through the cells and converts what stands together.
    fn collect(&mut self, row: &mut ScrapedRow) {
        let mut collecting = Collecting::default();
        let mut timestamps = row.timestamps.iter().peekable();
        let mut exemplars = row.exemplars.iter().peekable();
        let mut starts = row.start_timestamps.iter().peekable();
        let (mut histograms, mut start_timestamps) = (Vec::new(), Vec::new());
        for (cell, (column, value)) in (0u32..).zip(row.columns.iter().zip(&row.values)) {
            let timestamp = timestamps.next_if(|(at, _)| *at == cell).map(|(_, ms)| *ms);
            let start = starts.next_if(|(of, _)| of == column).map(|(_, ms)| *ms);
            let part = self.part_of(*column);
            if part.map(|part| part.histogram) != collecting.histogram {
                self.finish(&mut collecting, &mut histograms, &mut start_timestamps);
                collecting.histogram = part.map(|part| part.histogram);
            }
            let Some(part) = part else { continue };
            match part.part {
                ClassicPart::Bucket => self.collected.set_bucket(part.bound, *value),
                ClassicPart::Sum => self.collected.set_sum(*value),
                ClassicPart::Count => self.collected.set_count(*value),
            }
            collecting.timestamp_ms = timestamp.or(collecting.timestamp_ms);
            collecting.start_ms = start.or(collecting.start_ms);
            while exemplars.next_if(|(at, _)| *at < cell).is_some() {}
            while let Some((_, exemplar)) = exemplars.next_if(|(at, _)| *at == cell) {
                if exemplar.timestamp_ms.is_some() {
                    collecting.exemplars.push(exemplar.clone());
                }
            }
        }
        self.finish(&mut collecting, &mut histograms, &mut start_timestamps);
        row.histograms = histograms;
        row.start_timestamps.extend(start_timestamps);
    }

    fn finish(
        &mut self,
        collecting: &mut Collecting,
        histograms: &mut Vec<HistogramCell>,
        start_timestamps: &mut Vec<(u32, i64)>,
    ) {
        let Collecting { histogram, timestamp_ms, start_ms, exemplars } = std::mem::take(collecting);
        let Some(number) = histogram else { return };
        if let Ok(histogram) = self.collected.convert() {
            let column = self.histograms[number as usize].column;
            start_timestamps.extend(start_ms.map(|ms| (column, ms)));
            histograms.push(HistogramCell { column, timestamp_ms, histogram, exemplars });
        }
        self.collected.clear();
    }

    /// Takes the cells that are parts of histograms out of the row.
    fn leave_parts_out(&self, row: &mut ScrapedRow) {
        let is_part = |column: &u32| self.part_of(*column).is_some();
        if !row.columns.iter().any(is_part) {
            return;
        }
        let mut moved = Vec::with_capacity(row.columns.len());
        let mut kept = 0;
        for cell in 0..row.columns.len() {
            if is_part(&row.columns[cell]) {
                moved.push(NONE);
                continue;
            }
            moved.push(kept as u32);
            (row.columns[kept], row.values[kept]) = (row.columns[cell], row.values[cell]);
            kept += 1;
        }
        row.columns.truncate(kept);
        row.values.truncate(kept);
        let renumber = |cell: &mut u32| {
            *cell = moved[*cell as usize];
            *cell != NONE
        };
        row.timestamps.retain_mut(|(cell, _)| renumber(cell));
        row.exemplars.retain_mut(|(cell, _)| renumber(cell));
        row.start_timestamps.retain(|(column, _)| !is_part(column));
    }
}

/// What the series with these labels is a part of, and the labels of the histogram.
fn part_and_base(labels: &Labels) -> Option<(Part, Labels)> {
    let (family, part) = classic_part(labels.metric_name())?;
    let bound = match part {
        ClassicPart::Bucket => parse_float(labels.get(BUCKET_LABEL)?.as_bytes()).filter(|le| !le.is_nan())?,
        ClassicPart::Sum | ClassicPart::Count => 0.0,
    };
    let mut base = LabelsBuilder::from_labels(labels);
    base.set(METRIC_NAME, family).remove(BUCKET_LABEL);
    Some((Part { histogram: NONE, part, bound }, base.build()))
}
