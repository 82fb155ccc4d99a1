//! The parts that a flush or a spill is writing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use storage::Column;

use super::flush::SPAN_MS;
use super::{Inner, Tenant};
use crate::head::late::DAY_MS;
use crate::merge::TimeConcatCache;
use crate::part::{PartError, PartInfo, PartSpec, PartWriter};
use crate::tombstone::{keep_histograms, keep_rows};

/// A flush of recent samples makes no more parts than this; what is beyond goes to the late part.
const SPANS_MAX: usize = 32;

/// Which samples share a part.
#[derive(Debug)]
pub(super) enum Spans {
    /// Those of two hours each, from the first on; those before are late, and share one.
    Recent {
        /// Where the first span starts, milliseconds.
        first_ms: i64,
    },
    /// Those of each of these days, by their number since the epoch; all others share one. All are late.
    Days(BTreeSet<i64>),
}

impl Spans {
    /// Two hours each, of samples that are not before `late_before_ms`.
    pub(super) fn recent(late_before_ms: i64) -> Spans {
        let first = late_before_ms.saturating_add(SPAN_MS - 1).div_euclid(SPAN_MS);
        Spans::Recent { first_ms: first.saturating_mul(SPAN_MS) }
    }

    /// The span of a time; `None` is that of what is left.
    fn of(&self, time: i64) -> Option<i64> {
        match self {
            Spans::Recent { first_ms } => {
                let last_ms = first_ms.saturating_add(SPANS_MAX as i64 * SPAN_MS);
                let start = time.div_euclid(SPAN_MS).saturating_mul(SPAN_MS);
                // What is beyond all spans (a clock that is wrong) shares the last one.
                (time >= *first_ms).then(|| start.min(last_ms))
            }
            Spans::Days(days) => {
                let day = time.div_euclid(DAY_MS);
                days.contains(&day).then_some(day)
            }
        }
    }

    fn are_late(&self) -> bool {
        matches!(self, Spans::Days(_))
    }
}

/// The rows of a time column, by span.
type Rows = Vec<(Option<i64>, Vec<Range<usize>>)>;

/// Parts being written, by span and whether their samples replace.
pub(super) struct Writers<'a> {
    inner: &'a Inner,
    tenant: &'a Tenant,
    open: BTreeMap<(bool, Option<i64>), PartWriter<'a>>,
    spans: Spans,
    /// First and last log position.
    positions: (u64, u64),
    /// How the times of the last series are spread.
    last: Option<(Arc<[i64]>, Arc<Rows>)>,
}

impl<'a> Writers<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        tenant: &'a Tenant,
        spans: Spans,
        positions: (u64, u64),
    ) -> Writers<'a> {
        Writers { inner, tenant, open: BTreeMap::new(), spans, positions, last: None }
    }

    /// Adds the samples of the next series, in part order.
    pub(super) fn add(
        &mut self,
        replace: bool,
        labels: &model::Labels,
        column: Column,
        cache: &mut TimeConcatCache,
    ) -> Result<(), PartError> {
        if column.is_empty() {
            return Ok(());
        }
        let rows = self.rows_of(&column.times);
        let mut spans: Vec<Option<i64>> = rows.iter().map(|(span, _)| *span).collect();
        spans.extend(column.histograms.iter().map(|(time, _)| self.spans.of(*time)));
        spans.sort_unstable();
        spans.dedup();
        if let [span] = spans[..] {
            return self.writer(replace, span)?.add_series(labels, &column);
        }
        for span in spans {
            let mut own = column.clone();
            keep_histograms(&mut own, |time| self.spans.of(time) == span);
            let ranges = rows.iter().find(|(of, _)| *of == span).map_or(&[][..], |(_, ranges)| ranges);
            keep_rows(&mut own, ranges, cache);
            self.writer(replace, span)?.add_series(labels, &own)?;
        }
        Ok(())
    }

    /// Series of one source share their times: these are spread once.
    fn rows_of(&mut self, times: &Arc<[i64]>) -> Arc<Rows> {
        if let Some((known, rows)) = &self.last
            && Arc::ptr_eq(known, times)
        {
            return rows.clone();
        }
        let mut by_span: BTreeMap<Option<i64>, Vec<Range<usize>>> = BTreeMap::new();
        let mut from = 0;
        while from < times.len() {
            let span = self.spans.of(times[from]);
            let len = times[from..].iter().take_while(|time| self.spans.of(**time) == span).count();
            by_span.entry(span).or_default().push(from..from + len);
            from += len;
        }
        let rows: Arc<Rows> = Arc::new(by_span.into_iter().collect());
        self.last = Some((times.clone(), rows.clone()));
        rows
    }

    fn writer(&mut self, replace: bool, span: Option<i64>) -> Result<&mut PartWriter<'a>, PartError> {
        match self.open.entry((replace, span)) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let spec = PartSpec {
                    id: self.inner.new_id(),
                    tenant: self.tenant.id.clone(),
                    level: 0,
                    wal_first: self.positions.0,
                    wal_last: self.positions.1,
                    late: replace || span.is_none() || self.spans.are_late(),
                    replace,
                };
                let writer = PartWriter::create(&*self.inner.config.disk, &self.tenant.parts_dir(), spec)?;
                Ok(entry.insert(writer))
            }
        }
    }

    pub(super) fn metadata(&mut self, metric: &str, statements: &[model::Metadata]) {
        for writer in self.open.values_mut() {
            statements.iter().for_each(|statement| writer.add_metadata(metric, statement));
        }
    }

    pub(super) fn finish(self) -> Result<Vec<PartInfo>, PartError> {
        self.open.into_values().map(PartWriter::finish).collect()
    }
}
