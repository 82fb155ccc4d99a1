//! From the frames of an answer to series with their samples.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blocks::chunk::{Encoding, Samples, decode};
use model::Labels;
use storage::{Column, QueryError, SeriesSet};
use wire::remote_read::ChunkFrame;

/// Bytes that one selection may still take, for all its far stores.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Budget {
        Budget { left: AtomicUsize::new(max), max }
    }

    /// Takes `bytes` from it.
    fn take(&self, bytes: usize) -> Result<(), Trouble> {
        let less = |left: usize| left.checked_sub(bytes);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(()),
            Err(_) => Err(Trouble::TooMuch(self.max)),
        }
    }
}

/// Why the answer of a store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// All stores together sent more than a selection may take.
    #[error("the stores of the clusters answered with more than {} MiB for one selector", .0 >> 20)]
    TooMuch(usize),
    /// It did not come, or cannot be read.
    #[error("{0}")]
    Answer(String),
}

/// One store's series, sorted by labels, samples and all.
#[derive(Debug, Default)]
pub(crate) struct FarSet {
    series: Vec<(Labels, Column)>,
}

/// Collects the frames of one answer.
#[derive(Debug)]
pub(crate) struct Collector<'a> {
    budget: &'a Budget,
    /// The window that was asked for: chunks may reach beyond it.
    window: (i64, i64),
    set: FarSet,
    /// The series that the last frames were of; the next may go on with it.
    open: Option<(Labels, Samples)>,
    /// Times of the series before: neighbours are often scraped together.
    last_times: Arc<[i64]>,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(budget: &'a Budget, start_ms: i64, end_ms: i64) -> Collector<'a> {
        Collector {
            budget,
            window: (start_ms, end_ms),
            set: FarSet::default(),
            open: None,
            last_times: Arc::from([]),
        }
    }

    pub(crate) fn take(&mut self, frame: ChunkFrame) -> Result<(), Trouble> {
        if self.open.as_ref().is_none_or(|(labels, _)| *labels != frame.labels) {
            self.close()?;
            self.open = Some((frame.labels, Samples::default()));
        }
        let Some((labels, samples)) = &mut self.open else { return Ok(()) };
        for chunk in &frame.chunks {
            let encoding = match chunk.encoding {
                1 => Encoding::Xor,
                2 => Encoding::Histogram,
                3 => Encoding::FloatHistogram,
                other => {
                    return Err(Trouble::Answer(format!("series {labels}: unknown chunk encoding {other}")));
                }
            };
            let before = samples.len();
            decode(encoding, &chunk.data, samples)
                .map_err(|_| Trouble::Answer(format!("series {labels}: a chunk is malformed")))?;
            self.budget.take((samples.len() - before) * 16)?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Trouble> {
        let Some((labels, mut samples)) = self.open.take() else { return Ok(()) };
        samples.sort();
        let (start, end) = self.window;
        samples.retain(|time| (start..=end).contains(&time));
        if *self.last_times != *samples.times {
            self.last_times = samples.times.into();
        }
        self.budget.take(labels.as_bytes().len() + size_of::<(Labels, Column)>())?;
        let column = Column {
            times: Arc::clone(&self.last_times),
            values: samples.values,
            histograms: samples.histograms,
            ..Column::default()
        };
        self.set.series.push((labels, column));
        Ok(())
    }

    /// The whole answer, in order whatever order it came in.
    pub(crate) fn finish(mut self) -> Result<FarSet, Trouble> {
        self.close()?;
        let series = &mut self.set.series;
        if !series.is_sorted_by(|a, b| a.0 < b.0) {
            series.sort_by(|a, b| a.0.cmp(&b.0));
            if series.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return Err(Trouble::Answer("a series comes twice".to_owned()));
            }
        }
        Ok(self.set)
    }
}

impl SeriesSet for FarSet {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, at: usize) -> &Labels {
        &self.series[at].0
    }

    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError> {
        out.extend(self.series[range].iter().map(|(_, column)| column.clone()));
        Ok(())
    }
}
