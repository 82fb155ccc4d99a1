//! From the frames of an answer to series with their samples.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blocks::chunk::{Encoding, Samples, decode};
use model::histogram::Buckets;
use model::{Histogram, Labels, LabelsBuilder};
use storage::{Column, QueryError, SeriesSet};
use wire::remote_read::ChunkFrame;

use crate::far::Far;
use crate::merge::woven;

/// Longest chunk that is taken, bytes; usual ones have a thousandth of it.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// About what a histogram takes beside its buckets, bytes.
const HISTOGRAM_BYTES: usize = size_of::<Histogram>() + 32;

/// Bytes that one request may still take, for all its far stores.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Budget> {
        Arc::new(Budget { left: AtomicUsize::new(max), max })
    }
}

/// What somebody holds of a budget; given back when this is dropped.
#[derive(Debug)]
struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Takes `bytes` more.
    fn add(&mut self, bytes: usize) -> Result<(), Trouble> {
        let less = |left: usize| left.checked_sub(bytes);
        match self.budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(Trouble::TooMuch(self.budget.max)),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Why the answer of a store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// All stores together sent more than a request may take.
    #[error("the stores of the clusters answered with more than {} MiB", .0 >> 20)]
    TooMuch(usize),
    /// It did not come, or cannot be read.
    #[error("{0}")]
    Answer(String),
}

/// One store's series, sorted by labels, samples and all.
#[derive(Debug)]
pub(crate) struct FarSet {
    series: Vec<(Labels, Column)>,
    warnings: Vec<String>,
    _charge: Charge,
}

/// Collects the frames of one answer.
#[derive(Debug)]
pub(crate) struct Collector<'a> {
    charge: Charge,
    /// The window that was asked for: chunks may reach beyond it.
    window: (i64, i64),
    /// Whose answer it is.
    cluster: &'a str,
    /// What every series of this store carries.
    stamped: &'a Labels,
    series: Vec<(Labels, Column)>,
    /// Series that claim to be another cluster's, and one of them.
    foreign: Option<(usize, Labels)>,
    /// The series that the last frames were of; the next may go on with it.
    open: Option<(Labels, Samples)>,
    /// Times of the series before: neighbours are often scraped together.
    last_times: Arc<[i64]>,
    /// The most bytes of an unfinished frame so far.
    buffered: usize,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(budget: &Arc<Budget>, window: (i64, i64), far: &'a dyn Far) -> Collector<'a> {
        Collector {
            charge: Charge { budget: Arc::clone(budget), bytes: 0 },
            window,
            cluster: far.cluster(),
            stamped: far.labels(),
            series: Vec::new(),
            foreign: None,
            open: None,
            last_times: Arc::from([]),
            buffered: 0,
        }
    }

    /// Accounts for the bytes that wait to become a frame.
    pub(crate) fn holds(&mut self, buffered: usize) -> Result<(), Trouble> {
        let more = buffered.saturating_sub(self.buffered);
        self.buffered += more;
        self.charge.add(more)
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
            if chunk.data.len() > CHUNK_BYTES_MAX {
                let len = chunk.data.len();
                return Err(Trouble::Answer(format!("series {labels}: a chunk of {len} bytes")));
            }
            let (floats, histograms) = (samples.times.len(), samples.histograms.len());
            decode(encoding, &chunk.data, samples)
                .map_err(|_| Trouble::Answer(format!("series {labels}: a chunk is malformed")))?;
            let of_histograms: usize =
                samples.histograms[histograms..].iter().map(|(_, h)| bytes_of(h)).sum();
            self.charge.add((samples.times.len() - floats) * 16 + of_histograms)?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Trouble> {
        let Some((labels, mut samples)) = self.open.take() else { return Ok(()) };
        let Some(labels) = self.own(labels) else { return Ok(()) };
        samples.sort();
        let (start, end) = self.window;
        samples.retain(|time| (start..=end).contains(&time));
        if *self.last_times != *samples.times {
            self.last_times = samples.times.into();
        }
        self.charge.add(labels.as_bytes().len() + size_of::<(Labels, Column)>())?;
        let column = Column {
            times: Arc::clone(&self.last_times),
            values: samples.values,
            histograms: samples.histograms,
            ..Column::default()
        };
        self.series.push((labels, column));
        Ok(())
    }

    /// `labels` with what is stamped on all of this store; none when they claim to be somebody else's.
    fn own(&mut self, labels: Labels) -> Option<Labels> {
        let carried = self.stamped.iter().map(|(name, value)| (labels.get(name), value));
        let (mut whole, mut foreign) = (true, false);
        for (said, value) in carried {
            whole &= said.is_some();
            foreign |= said.is_some_and(|said| said != value);
        }
        if foreign {
            self.foreign.get_or_insert((0, labels)).0 += 1;
            return None;
        }
        if whole {
            return Some(labels);
        }
        // From before the agent had them.
        let mut stamped = LabelsBuilder::from_labels(&labels);
        for (name, value) in self.stamped.iter() {
            stamped.set(name, value);
        }
        Some(stamped.build())
    }

    /// The whole answer, in order whatever order it came in; `said` is what the store tells of it.
    pub(crate) fn finish(mut self, said: Vec<String>) -> Result<FarSet, Trouble> {
        self.close()?;
        let mut series = self.series;
        if !series.is_sorted_by(|a, b| a.0 < b.0) {
            series.sort_by(|a, b| a.0.cmp(&b.0));
            series.dedup_by(|again, first| {
                let same = again.0 == first.0;
                if same {
                    first.1 = woven(std::mem::take(&mut first.1), std::mem::take(&mut again.1));
                }
                same
            });
        }
        let cluster = self.cluster;
        let warning = |(count, one): (usize, Labels)| {
            format!("cluster {cluster:?}: {count} series left out that carry labels of others, such as {one}")
        };
        let said = said.into_iter().map(|said| format!("cluster {cluster:?}: {said}"));
        let warnings = self.foreign.map(warning).into_iter().chain(said).collect();
        Ok(FarSet { series, warnings, _charge: self.charge })
    }
}

/// About what a histogram takes.
fn bytes_of(histogram: &Histogram) -> usize {
    let buckets = match &histogram.buckets {
        Buckets::Int { positive, negative, .. } => positive.len() + negative.len(),
        Buckets::Float { positive, negative, .. } => positive.len() + negative.len(),
    };
    let spans = histogram.positive_spans.len() + histogram.negative_spans.len();
    HISTOGRAM_BYTES + (buckets + spans + histogram.custom_values.len()) * 8
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
    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}
