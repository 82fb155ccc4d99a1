//! Rows: a series and a cell for each step.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use model::Labels;

use super::{Evaluator, Steps, absent, is_absent};
use crate::answer::EvalError;
use crate::histogram::FloatHistogram;

/// A map by labels, or by other bytes of a store's data.
pub(crate) type LabelMap<K, V> = HashMap<K, V, RandomState>;

/// A series over all steps.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) labels: Labels,
    /// The name goes at the end of the query (only with delayed name removal).
    pub(crate) drop_name: bool,
    /// A float for each step, or [`absent`].
    pub(crate) floats: Vec<f64>,
    /// A histogram for each step without a float; none at all for most series.
    pub(crate) histograms: Option<Vec<Option<Arc<FloatHistogram>>>>,
    /// What an aggregation has made of several rows, to be finished with others.
    pub(crate) partial: bool,
}

/// What a row has at one step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cell<'a> {
    Absent,
    Float(f64),
    Histogram(&'a Arc<FloatHistogram>),
}

impl Row {
    pub(crate) fn of_floats(labels: Labels, floats: Vec<f64>) -> Row {
        Row { labels, drop_name: false, floats, histograms: None, partial: false }
    }

    pub(crate) fn empty(labels: Labels, steps: usize) -> Row {
        Row::of_floats(labels, vec![absent(); steps])
    }

    #[inline]
    pub(crate) fn cell(&self, step: usize) -> Cell<'_> {
        let float = self.floats[step];
        if !is_absent(float) {
            return Cell::Float(float);
        }
        match self.histogram(step) {
            Some(histogram) => Cell::Histogram(histogram),
            None => Cell::Absent,
        }
    }

    pub(crate) fn histogram(&self, step: usize) -> Option<&Arc<FloatHistogram>> {
        self.histograms.as_ref().and_then(|all| all[step].as_ref())
    }

    #[inline]
    pub(crate) fn has(&self, step: usize) -> bool {
        !is_absent(self.floats[step]) || self.histogram(step).is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.floats.iter().all(|v| is_absent(*v))
            && self.histograms.as_ref().is_none_or(|all| all.iter().all(Option::is_none))
    }

    pub(crate) fn set(&mut self, step: usize, cell: Cell<'_>) {
        match cell {
            Cell::Absent => self.clear(step),
            Cell::Float(v) => {
                self.clear(step);
                self.floats[step] = v;
            }
            Cell::Histogram(h) => self.set_histogram(step, h.clone()),
        }
    }

    pub(crate) fn set_histogram(&mut self, step: usize, histogram: Arc<FloatHistogram>) {
        self.floats[step] = absent();
        let steps = self.floats.len();
        self.histograms.get_or_insert_with(|| vec![None; steps])[step] = Some(histogram);
    }

    pub(crate) fn clear(&mut self, step: usize) {
        self.floats[step] = absent();
        if let Some(all) = &mut self.histograms {
            all[step] = None;
        }
    }

    /// The first step's cell at each of `steps`.
    pub(crate) fn repeated(mut self, steps: usize) -> Row {
        self.floats = vec![self.floats[0]; steps];
        self.histograms = self.histograms.map(|all| vec![all[0].clone(); steps]);
        self
    }

    /// Replaces each float, leaves out histograms.
    pub(crate) fn map_floats(mut self, mut f: impl FnMut(usize, f64) -> f64) -> Row {
        for (step, v) in self.floats.iter_mut().enumerate() {
            if !is_absent(*v) {
                *v = f(step, *v);
            }
        }
        self.histograms = None;
        self
    }
}

/// What a row of floats counts for: a cell costs half of what Prometheus' samples do.
pub(crate) fn row_weight(steps: Steps) -> u64 {
    steps.count as u64 / 2 + 1
}

/// Labels up to this size, in bytes, count for nothing: those of stored series are shared with the store.
const LIGHT_LABELS_BYTES: usize = 1024;

/// What labels count for that a query may have made as long as it likes: 16 bytes as much as a sample.
pub(crate) fn label_weight(labels: &Labels) -> u64 {
    (labels.as_bytes().len().saturating_sub(LIGHT_LABELS_BYTES) / 16) as u64
}

/// What rows count for.
pub(crate) fn weight(rows: &[Row], steps: Steps) -> u64 {
    let labels: u64 = rows.iter().map(|row| label_weight(&row.labels)).sum();
    let histograms: u64 = rows
        .iter()
        .filter_map(|r| r.histograms.as_ref())
        .map(|all| all.iter().flatten().map(|h| h.weight()).sum::<u64>())
        .sum();
    rows.len() as u64 * row_weight(steps) + histograms + labels
}

/// Whether a label goes wherever the metric's name goes.
pub(crate) fn is_metadata(label: &str) -> bool {
    matches!(label, "__name__" | "__type__" | "__unit__")
}

/// Whether there are a type or a unit, which go wherever the name goes.
pub(crate) fn has_type_or_unit(labels: &Labels) -> bool {
    let mut first = labels.iter().map(|(name, _)| name).take_while(|name| *name <= "__unit__");
    first.any(|name| name != "__name__" && is_metadata(name))
}

/// The labels without the metric's name, type and unit.
pub(crate) fn without_metadata(labels: &Labels) -> Labels {
    if labels.iter().any(|(name, _)| is_metadata(name)) {
        labels.without(is_metadata)
    } else {
        labels.clone()
    }
}

pub(crate) fn same_labelset() -> EvalError {
    EvalError::Exec("vector cannot contain metrics with the same labelset".into())
}

impl Evaluator<'_> {
    /// The result is no longer the metric it was: its name goes, now or at the end.
    pub(crate) fn drop_name(&self, row: &mut Row) {
        if self.delayed_names {
            row.drop_name = true;
        } else {
            row.labels = without_metadata(&row.labels);
        }
    }

    /// Joins rows with the same labels; with delayed names an instant query leaves that to the end.
    pub(crate) fn settle(&self, rows: Vec<Row>, steps: Steps) -> Result<Vec<Row>, EvalError> {
        if self.delayed_names && steps.count == 1 { Ok(rows) } else { merged(rows) }
    }
}

/// Joins rows with the same labels.
///
/// # Errors
/// [`EvalError::Exec`] when two of them have a sample at the same step.
pub(crate) fn merged(rows: Vec<Row>) -> Result<Vec<Row>, EvalError> {
    let mut place: LabelMap<Labels, usize> =
        LabelMap::with_capacity_and_hasher(rows.len(), RandomState::default());
    let mut out: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        match place.entry(row.labels.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(out.len());
                out.push(row);
            }
            Entry::Occupied(found) => merge_into(&mut out[*found.get()], &row)?,
        }
    }
    Ok(out)
}

pub(crate) fn merge_into(into: &mut Row, from: &Row) -> Result<(), EvalError> {
    for step in 0..from.floats.len() {
        let cell = from.cell(step);
        if matches!(cell, Cell::Absent) {
            continue;
        }
        if into.has(step) {
            return Err(same_labelset());
        }
        into.set(step, cell);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, floats: &[f64]) -> Row {
        Row::of_floats(Labels::from_pairs([("a", name)]), floats.to_vec())
    }

    #[test]
    fn rows_with_the_same_labels_join_unless_they_overlap() {
        let joined =
            merged(vec![row("x", &[1.0, absent()]), row("y", &[5.0, 5.0]), row("x", &[absent(), 2.0])]);
        let joined = joined.expect("no overlap");
        assert_eq!(joined.len(), 2);
        assert_eq!(joined[0].floats, [1.0, 2.0]);
        assert!(merged(vec![row("x", &[1.0]), row("x", &[2.0])]).is_err());
    }
}
