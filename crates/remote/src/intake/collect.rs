//! The batches of a block, in terms of the store.

use std::collections::HashMap;
use std::ops::Range;

use model::{Exemplar, Histogram, Labels, Metadata, SourceId};
use storage::{Account, Batch, BlockKey, MetadataEntry, Outcome, Policy, Row, SeriesRef, SourceRef};

use crate::block::{BlockError, DecodedRow, Definitions, Visit};

/// A row may begin this much before its tick, milliseconds.
const EARLY_MS: i64 = 2;
/// Stands for a series that the store has refused.
pub(super) const REFUSED: SeriesRef = SeriesRef(u64::MAX);

/// A source of a segment, and its series at the store.
#[derive(Debug)]
pub(super) struct SourceMap {
    pub(super) id: SourceId,
    pub(super) labels: Labels,
    pub(super) reference: Option<SourceRef>,
    /// By column; [`REFUSED`] also where there is no column.
    pub(super) series: Vec<SeriesRef>,
    /// Some column has been refused.
    pub(super) has_refused: bool,
}

/// What was in a block.
#[derive(Debug, Default)]
pub(super) struct Collected {
    batches: Vec<Collection>,
    rows: Vec<CollectedRow>,
    series: Vec<SeriesRef>,
    values: Vec<f64>,
    histograms: Vec<(SeriesRef, Histogram)>,
    starts: Vec<(SeriesRef, i64)>,
    exemplars: Vec<(SeriesRef, Exemplar)>,
    metadata: Vec<(SourceRef, String, Metadata)>,
    accounts: Vec<Account>,
    /// Samples of series that the store had refused.
    pub(super) refused: u64,
    /// Rows that lack some for it, and how many.
    cut: Vec<(SourceRef, i64, u32)>,
}

#[derive(Debug)]
struct Collection {
    number: u64,
    policy: Policy,
    rows: Range<usize>,
    metadata: Range<usize>,
    accounts: Range<usize>,
}

#[derive(Debug)]
struct CollectedRow {
    source: SourceRef,
    timestamp_ms: i64,
    floats: Range<usize>,
    histograms: Range<usize>,
    starts: Range<usize>,
    exemplars: Range<usize>,
}

impl Collected {
    /// How many batches there are.
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Gives batch `at` to `append`; its key is `key` with the batch's number.
    pub(super) fn with_batch<T>(&self, at: usize, key: BlockKey, append: impl FnOnce(&Batch<'_>) -> T) -> T {
        let batch = &self.batches[at];
        let rows: Vec<Row<'_>> = self.rows[batch.rows.clone()].iter().map(|row| self.row(row)).collect();
        let metadata: Vec<MetadataEntry<'_>> = self.metadata[batch.metadata.clone()]
            .iter()
            .map(|(source, metric, metadata)| MetadataEntry { source: *source, metric, metadata })
            .collect();
        append(&Batch {
            metadata: &metadata,
            accounts: &self.accounts[batch.accounts.clone()],
            key: Some(BlockKey { block: batch.number, ..key }),
            ..Batch::rows(&rows, batch.policy)
        })
    }

    /// Says of ticks whose rows lack samples that they do.
    pub(super) fn account_for_refused(&mut self) {
        for (row_source, timestamp_ms, refused) in std::mem::take(&mut self.cut) {
            let until_ms = timestamp_ms.saturating_add(EARLY_MS);
            let ticks = self.accounts.iter_mut().filter_map(|account| match account {
                Account::Tick { source, tick_ms, outcome: Outcome::Scraped { samples, .. } }
                    if *source == row_source && *tick_ms <= until_ms =>
                {
                    Some((*tick_ms, samples))
                }
                _ => None,
            });
            if let Some((_, samples)) = ticks.max_by_key(|(tick_ms, _)| *tick_ms) {
                *samples = samples.saturating_sub(refused);
            }
        }
    }

    /// Puts other names of series in place; what is [`REFUSED`] now is left out.
    pub(super) fn rename(&mut self, renamed: &HashMap<SeriesRef, SeriesRef>) {
        fn put<T>(renamed: &HashMap<SeriesRef, SeriesRef>, list: &mut [(SeriesRef, T)]) {
            for (series, _) in list {
                *series = renamed.get(series).copied().unwrap_or(*series);
            }
        }
        for series in &mut self.series {
            *series = renamed.get(series).copied().unwrap_or(*series);
        }
        put(renamed, &mut self.histograms);
        put(renamed, &mut self.starts);
        put(renamed, &mut self.exemplars);
        if !renamed.values().any(|series| *series == REFUSED) {
            return;
        }
        let refused = |series: &&SeriesRef| **series == REFUSED;
        self.refused += self.series.iter().filter(refused).count() as u64;
        self.refused += self.histograms.iter().map(|(series, _)| series).filter(refused).count() as u64;
        let (series, values) = (std::mem::take(&mut self.series), std::mem::take(&mut self.values));
        for row in &mut self.rows {
            let begin = self.series.len();
            for (series, value) in series[row.floats.clone()].iter().zip(&values[row.floats.clone()]) {
                if *series != REFUSED {
                    self.series.push(*series);
                    self.values.push(*value);
                }
            }
            row.floats = begin..self.series.len();
        }
        for row in &mut self.rows {
            leave_out(&mut self.histograms, &mut row.histograms);
            leave_out(&mut self.starts, &mut row.starts);
            leave_out(&mut self.exemplars, &mut row.exemplars);
        }
    }

    /// Gives rows of batch `at` to `append` once more, without a key.
    pub(super) fn with_rows_again<T>(
        &self,
        at: usize,
        rows: &[usize],
        append: impl FnOnce(&Batch<'_>) -> T,
    ) -> T {
        let first = self.batches[at].rows.start;
        let rows: Vec<Row<'_>> = rows.iter().map(|row| self.row(&self.rows[first + row])).collect();
        append(&Batch::rows(&rows, self.batches[at].policy))
    }

    /// Rows in batch `at`.
    pub(super) fn rows(&self, at: usize) -> usize {
        self.batches[at].rows.len()
    }

    fn row<'a>(&'a self, row: &CollectedRow) -> Row<'a> {
        Row {
            source: row.source,
            timestamp_ms: row.timestamp_ms,
            series: &self.series[row.floats.clone()],
            values: &self.values[row.floats.clone()],
            histograms: &self.histograms[row.histograms.clone()],
            start_timestamps: &self.starts[row.starts.clone()],
            exemplars: &self.exemplars[row.exemplars.clone()],
        }
    }
}

/// Moves what is refused in a range of `list` to the range's end, and cuts the range there.
fn leave_out<T>(list: &mut [(SeriesRef, T)], range: &mut Range<usize>) {
    let part = &mut list[range.clone()];
    part.sort_by_key(|(series, _)| *series == REFUSED);
    let left = part.iter().filter(|(series, _)| *series != REFUSED).count();
    range.end = range.start + left;
}

/// Collects what a decoder says.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    pub(super) sources: &'a [SourceMap],
    pub(super) out: &'a mut Collected,
}

impl Collector<'_> {
    fn source_ref(&self, source: u32) -> SourceRef {
        let known = self.sources.get(source as usize).and_then(|source| source.reference);
        known.unwrap_or(SourceRef(u64::MAX))
    }

    fn floats(&mut self, row: &DecodedRow<'_>, source: &SourceMap) {
        if !source.has_refused {
            for columns in row.columns() {
                let columns = columns.start as usize..columns.end as usize;
                self.out.series.extend_from_slice(&source.series[columns]);
            }
            self.out.values.extend_from_slice(row.values);
            return;
        }
        for (column, value) in row.columns().flatten().zip(row.values) {
            match source.series[column as usize] {
                REFUSED => self.out.refused += 1,
                series => {
                    self.out.series.push(series);
                    self.out.values.push(*value);
                }
            }
        }
    }
}

/// Says what each of `list` is called at the store, without what the store has refused.
fn named<'a, T: Clone>(
    source: &'a SourceMap,
    list: &'a [(u32, T)],
) -> impl Iterator<Item = (SeriesRef, T)> + 'a {
    list.iter().filter_map(|(column, what)| {
        let series = *source.series.get(*column as usize)?;
        (series != REFUSED).then(|| (series, what.clone()))
    })
}

impl Definitions for Collector<'_> {
    fn source(&mut self, _: u32, _: SourceId, _: &Labels) -> Result<(), BlockError> {
        Err(BlockError::Malformed("its dictionary comes twice"))
    }

    fn column(&mut self, _: u32, _: u32, _: Labels) -> Result<(), BlockError> {
        Err(BlockError::Malformed("its dictionary comes twice"))
    }
}

impl Visit for Collector<'_> {
    fn batch(&mut self, number: u64, policy: Policy) {
        let out = &mut *self.out;
        out.batches.push(Collection {
            number,
            policy,
            rows: out.rows.len()..out.rows.len(),
            metadata: out.metadata.len()..out.metadata.len(),
            accounts: out.accounts.len()..out.accounts.len(),
        });
    }

    fn row(&mut self, row: &DecodedRow<'_>) {
        let sources = self.sources;
        let Some(source) = sources.get(row.source as usize) else { return };
        let out = &*self.out;
        let before = out.refused;
        let starts_at = (out.series.len(), out.histograms.len(), out.starts.len(), out.exemplars.len());
        self.floats(row, source);
        let source_ref = self.source_ref(row.source);
        let out = &mut *self.out;
        out.histograms.extend(named(source, row.histograms));
        let histograms_left = row.histograms.len() - (out.histograms.len() - starts_at.1);
        let refused = (out.refused - before) + histograms_left as u64;
        if refused > 0 {
            out.cut.push((source_ref, row.timestamp_ms, u32::try_from(refused).unwrap_or(u32::MAX)));
        }
        out.starts.extend(named(source, row.starts));
        out.exemplars.extend(named(source, row.exemplars));
        out.rows.push(CollectedRow {
            source: source_ref,
            timestamp_ms: row.timestamp_ms,
            floats: starts_at.0..out.series.len(),
            histograms: starts_at.1..out.histograms.len(),
            starts: starts_at.2..out.starts.len(),
            exemplars: starts_at.3..out.exemplars.len(),
        });
        if let Some(batch) = out.batches.last_mut() {
            batch.rows.end = out.rows.len();
        }
    }

    fn metadata(&mut self, source: u32, metric: &str, metadata: Metadata) {
        let source = self.source_ref(source);
        self.out.metadata.push((source, metric.to_owned(), metadata));
        if let Some(batch) = self.out.batches.last_mut() {
            batch.metadata.end = self.out.metadata.len();
        }
    }

    fn account(&mut self, account: Account) {
        let new = self.source_ref(u32::try_from(account.source().0).unwrap_or(u32::MAX));
        let account = match account {
            Account::Begin { at_ms, schedule, .. } => Account::Begin { source: new, at_ms, schedule },
            Account::Tick { tick_ms, outcome, .. } => Account::Tick { source: new, tick_ms, outcome },
            Account::End { at_ms, reason, .. } => Account::End { source: new, at_ms, reason },
        };
        self.out.accounts.push(account);
        if let Some(batch) = self.out.batches.last_mut() {
            batch.accounts.end = self.out.accounts.len();
        }
    }
}
