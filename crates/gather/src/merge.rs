//! Several sorted sets as one.

use std::ops::Range;
use std::sync::Arc;

use model::Labels;
use storage::{Column, QueryError, SeriesSet};

/// Sets merged by full label set. Where several have a sample at one time, the first set's counts.
#[derive(Debug)]
pub(crate) struct Merged {
    sets: Vec<Box<dyn SeriesSet>>,
    /// For each series of the union: the sets that have it, as indexes into `places`.
    series: Vec<Range<u32>>,
    /// (set, series in it), grouped by series of the union.
    places: Vec<(u32, u32)>,
    warnings: Vec<String>,
}

impl Merged {
    /// Merges `sets`; `warnings` join theirs.
    pub(crate) fn new(sets: Vec<Box<dyn SeriesSet>>, warnings: Vec<String>) -> Merged {
        let total: usize = sets.iter().map(|set| set.len()).sum();
        let mut merged =
            Merged { sets, series: Vec::with_capacity(total), places: Vec::with_capacity(total), warnings };
        let mut next = vec![0usize; merged.sets.len()];
        loop {
            let heads = merged.sets.iter().zip(&next).enumerate();
            let heads = heads.filter(|(_, (set, at))| **at < set.len());
            let Some(least) = heads.map(|(_, (set, at))| set.labels(*at)).min() else { break };
            let from = merged.places.len() as u32;
            for (number, (set, at)) in merged.sets.iter().zip(&mut next).enumerate() {
                if *at < set.len() && set.labels(*at) == least {
                    merged.places.push((number as u32, *at as u32));
                    *at += 1;
                }
            }
            merged.series.push(from..merged.places.len() as u32);
        }
        merged
    }

    fn places(&self, at: usize) -> &[(u32, u32)] {
        let range = &self.series[at];
        &self.places[range.start as usize..range.end as usize]
    }
}

impl SeriesSet for Merged {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, at: usize) -> &Labels {
        let (set, inner) = self.places(at)[0];
        self.sets[set as usize].labels(inner as usize)
    }

    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError> {
        // All sets are sorted alike, so a range of the union is a range of each of them.
        let mut wanted: Vec<Option<Range<usize>>> = vec![None; self.sets.len()];
        for at in range.clone() {
            for &(set, inner) in self.places(at) {
                let inner = inner as usize;
                let of_set = wanted[set as usize].get_or_insert(inner..inner);
                of_set.end = inner + 1;
            }
        }
        let mut loaded: Vec<(usize, Vec<Column>)> = Vec::with_capacity(self.sets.len());
        for (set, wanted) in self.sets.iter().zip(wanted) {
            let mut columns = Vec::new();
            let from = wanted.as_ref().map_or(0, |wanted| wanted.start);
            if let Some(wanted) = wanted {
                set.load(wanted, &mut columns)?;
            }
            loaded.push((from, columns));
        }
        for at in range {
            let mut column: Option<Column> = None;
            for &(set, inner) in self.places(at) {
                let (from, columns) = &mut loaded[set as usize];
                let part = std::mem::take(&mut columns[inner as usize - *from]);
                column = Some(match column {
                    Some(first) => woven(first, part),
                    None => part,
                });
            }
            out.extend(column);
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        self.sets.iter().flat_map(|set| set.warnings()).chain(self.warnings.iter().cloned()).collect()
    }
}

/// A set, and what is to be said of the selection.
#[derive(Debug)]
pub(crate) struct Warned {
    pub(crate) set: Box<dyn SeriesSet>,
    pub(crate) warnings: Vec<String>,
}

impl SeriesSet for Warned {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn labels(&self, at: usize) -> &Labels {
        self.set.labels(at)
    }

    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError> {
        self.set.load(range, out)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.set.warnings();
        warnings.extend(self.warnings.iter().cloned());
        warnings
    }
}

/// The samples of two columns of one series.
pub(crate) fn woven(first: Column, second: Column) -> Column {
    if second.is_empty() {
        return first;
    }
    if first.is_empty() {
        return second;
    }
    let (floats, times) = woven_floats(&first, &second);
    let histograms = woven_histograms(&first, &second, &times);
    let (values, starts): (Vec<f64>, Vec<i64>) = floats.into_iter().unzip();
    let (histograms, histogram_starts): (Vec<_>, Vec<i64>) = histograms.into_iter().unzip();
    let known = |starts: Vec<i64>| starts.iter().any(|start| *start != 0).then(|| starts.into());
    Column {
        times: times.into(),
        values,
        histograms,
        start_times: known(starts),
        histogram_starts: known(histogram_starts),
    }
}

/// Value and start of each float, and the times; a time at which `first` has a histogram is its own.
fn woven_floats(first: &Column, second: &Column) -> (Vec<(f64, i64)>, Vec<i64>) {
    let of = |column: &Column, at: usize| {
        (column.values[at], column.start_times.as_ref().map_or(0, |starts| starts[at]))
    };
    let taken = |time: i64| first.histograms.binary_search_by_key(&time, |(time, _)| *time).is_ok();
    let (mut floats, mut times) = (Vec::new(), Vec::new());
    let (mut a, mut b) = (0, 0);
    loop {
        let (x, y) = (first.times.get(a), second.times.get(b));
        let (time, float) = match (x, y) {
            (None, None) => break,
            (Some(x), y) if y.is_none_or(|y| x <= y) => {
                b += usize::from(y == Some(x));
                a += 1;
                (*x, of(first, a - 1))
            }
            (_, Some(y)) => {
                b += 1;
                if taken(*y) {
                    continue;
                }
                (*y, of(second, b - 1))
            }
            (Some(_), None) => break,
        };
        times.push(time);
        floats.push(float);
    }
    (floats, times)
}

type Histograms = Vec<((i64, Arc<model::Histogram>), i64)>;

fn woven_histograms(first: &Column, second: &Column, float_times: &[i64]) -> Histograms {
    let of = |column: &Column| -> Histograms {
        let starts = column.histogram_starts.clone();
        let start = |at: usize| starts.as_ref().map_or(0, |starts| starts[at]);
        column.histograms.iter().cloned().enumerate().map(|(at, sample)| (sample, start(at))).collect()
    };
    let mut all = of(first);
    all.extend(of(second));
    // Stable: at equal times the first column's comes first, and stays.
    all.sort_by_key(|((time, _), _)| *time);
    all.dedup_by_key(|((time, _), _)| *time);
    all.retain(|((time, _), _)| float_times.binary_search(time).is_err());
    all
}
