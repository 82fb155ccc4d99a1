//! Samples of a request, sorted into rows by (source, timestamp).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;
use model::{Exemplar, Histogram};
use storage::{Row, SeriesRef, SourceRef};

use crate::known::Place;

/// Rows under construction.
///
/// Most senders send what was scraped together one behind the other, so the row of a sample is
/// mostly the row of the sample before; others are looked up.
#[derive(Debug, Default)]
pub(crate) struct RowTable {
    keys: Vec<(SourceRef, i64)>,
    index: HashMap<(SourceRef, i64), u32, FixedState>,
    last: u32,
    floats: Vec<(u32, SeriesRef, f64)>,
    histograms: Vec<(u32, SeriesRef, Histogram)>,
    starts: Vec<(u32, SeriesRef, i64)>,
    exemplars: Vec<(u32, SeriesRef, Exemplar)>,
}

/// Rows as flat columns, each row a range of them.
#[derive(Debug)]
pub(crate) struct FlatRows {
    keys: Vec<(SourceRef, i64)>,
    series: Vec<SeriesRef>,
    values: Vec<f64>,
    histograms: Vec<(SeriesRef, Histogram)>,
    starts: Vec<(SeriesRef, i64)>,
    exemplars: Vec<(SeriesRef, Exemplar)>,
    /// Where each row's floats, histograms, starts and exemplars end.
    ends: Vec<[usize; 4]>,
}

impl RowTable {
    #[inline]
    fn row(&mut self, source: SourceRef, timestamp_ms: i64) -> u32 {
        let key = (source, timestamp_ms);
        if self.keys.get(self.last as usize) == Some(&key) {
            return self.last;
        }
        let next = self.keys.len() as u32;
        self.last = *self.index.entry(key).or_insert(next);
        if self.last == next {
            self.keys.push(key);
        }
        self.last
    }

    #[inline]
    pub(crate) fn float(&mut self, place: Place, timestamp_ms: i64, value: f64) {
        let row = self.row(place.source, timestamp_ms);
        self.floats.push((row, place.series, value));
    }

    pub(crate) fn histogram(&mut self, place: Place, timestamp_ms: i64, histogram: Histogram) {
        let row = self.row(place.source, timestamp_ms);
        self.histograms.push((row, place.series, histogram));
    }

    pub(crate) fn start(&mut self, place: Place, timestamp_ms: i64, start_ms: i64) {
        let row = self.row(place.source, timestamp_ms);
        self.starts.push((row, place.series, start_ms));
    }

    pub(crate) fn exemplar(&mut self, place: Place, timestamp_ms: i64, exemplar: Exemplar) {
        let row = self.row(place.source, timestamp_ms);
        self.exemplars.push((row, place.series, exemplar));
    }

    /// Leaves of several samples of a series in one row only the first, and gives how many exact
    /// repeats it left out. `clash` is told the timestamp and series of those left out that were
    /// not the same as the first.
    pub(crate) fn drop_repeats(&mut self, mut clash: impl FnMut(i64, SeriesRef)) -> usize {
        let keys = &self.keys;
        let mut exact = 0;
        let mut floats: HashMap<(u32, SeriesRef), u64, FixedState> = HashMap::default();
        self.floats.retain(|&(row, series, value)| match floats.entry((row, series)) {
            Entry::Vacant(slot) => {
                slot.insert(value.to_bits());
                true
            }
            Entry::Occupied(first) if *first.get() == value.to_bits() => {
                exact += 1;
                false
            }
            Entry::Occupied(_) => {
                clash(keys[row as usize].1, series);
                false
            }
        });
        let mut kept: Vec<(u32, SeriesRef, Histogram)> = Vec::with_capacity(self.histograms.len());
        let mut histograms: HashMap<(u32, SeriesRef), usize, FixedState> = HashMap::default();
        for cell in std::mem::take(&mut self.histograms) {
            let key = (cell.0, cell.1);
            let at = *histograms.entry(key).or_insert(kept.len());
            if floats.contains_key(&key) || (at < kept.len() && kept[at].2 != cell.2) {
                clash(keys[cell.0 as usize].1, cell.1);
            } else if at == kept.len() {
                kept.push(cell);
            }
        }
        self.histograms = kept;
        let mut starts: HashSet<(u32, SeriesRef), FixedState> = HashSet::default();
        self.starts.retain(|&(row, series, _)| starts.insert((row, series)));
        exact
    }

    /// Samples in the rows: floats, histograms.
    pub(crate) fn samples(&self) -> usize {
        self.floats.len() + self.histograms.len()
    }

    /// The rows; samples of a row stay in the order they came.
    pub(crate) fn flatten(mut self) -> FlatRows {
        // Stable, and free when the sender sends row by row.
        self.floats.sort_by_key(|cell| cell.0);
        self.histograms.sort_by_key(|cell| cell.0);
        self.starts.sort_by_key(|cell| cell.0);
        self.exemplars.sort_by_key(|cell| cell.0);
        let mut at = [0; 4];
        let mut ends = Vec::with_capacity(self.keys.len());
        for row in 0..self.keys.len() as u32 {
            at[0] += self.floats[at[0]..].iter().take_while(|cell| cell.0 == row).count();
            at[1] += self.histograms[at[1]..].iter().take_while(|cell| cell.0 == row).count();
            at[2] += self.starts[at[2]..].iter().take_while(|cell| cell.0 == row).count();
            at[3] += self.exemplars[at[3]..].iter().take_while(|cell| cell.0 == row).count();
            ends.push(at);
        }
        FlatRows {
            keys: self.keys,
            series: self.floats.iter().map(|cell| cell.1).collect(),
            values: self.floats.iter().map(|cell| cell.2).collect(),
            histograms: self
                .histograms
                .into_iter()
                .map(|(_, series, histogram)| (series, histogram))
                .collect(),
            starts: self.starts.into_iter().map(|(_, series, start)| (series, start)).collect(),
            exemplars: self.exemplars.into_iter().map(|(_, series, exemplar)| (series, exemplar)).collect(),
            ends,
        }
    }
}

impl FlatRows {
    /// The rows as the store wants them.
    pub(crate) fn rows(&self) -> Vec<Row<'_>> {
        let mut from = [0; 4];
        let row = |(&(source, timestamp_ms), &to): (&(SourceRef, i64), &[usize; 4])| {
            let row = Row {
                source,
                timestamp_ms,
                series: &self.series[from[0]..to[0]],
                values: &self.values[from[0]..to[0]],
                histograms: &self.histograms[from[1]..to[1]],
                start_timestamps: &self.starts[from[2]..to[2]],
                exemplars: &self.exemplars[from[3]..to[3]],
            };
            from = to;
            row
        };
        let is_empty =
            |row: &Row<'_>| row.series.is_empty() && row.histograms.is_empty() && row.exemplars.is_empty();
        self.keys.iter().zip(&self.ends).map(row).filter(|row| !is_empty(row)).collect()
    }
}
