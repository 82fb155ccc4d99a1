//! From the frames of an answer to series with their samples.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use blocks::chunk::{Encoding, Samples, decode};
use model::histogram::Buckets;
use model::{Histogram, Labels, LabelsBuilder};
use storage::{Column, QueryError, SeriesSet};
use wire::remote_read::{ChunkFrame, read_starts};

use crate::far::Far;
use crate::merge::woven;

/// Longest chunk that is taken, bytes; usual ones have a thousandth of it.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// About what a histogram takes beside its buckets, bytes.
const HISTOGRAM_BYTES: usize = size_of::<Histogram>() + 32;

/// What one request may still take, for all its far stores.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: AtomicUsize,
    bytes_max: usize,
    samples: AtomicU64,
    samples_max: u64,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize, samples_max: u64) -> Arc<Budget> {
        let (bytes, samples) = (AtomicUsize::new(bytes_max), AtomicU64::new(samples_max));
        Arc::new(Budget { bytes, bytes_max, samples, samples_max })
    }
}

/// What somebody holds of a budget; given back when this is dropped.
#[derive(Debug)]
struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
    samples: u64,
}

impl Charge {
    /// Takes `bytes` more.
    fn add(&mut self, bytes: usize) -> Result<(), Trouble> {
        let less = |left: usize| left.checked_sub(bytes);
        match self.budget.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(Trouble::TooMuch(self.budget.bytes_max)),
        }
    }

    /// Takes `samples` more.
    fn count(&mut self, samples: u64) -> Result<(), Trouble> {
        let less = |left: u64| left.checked_sub(samples);
        match self.budget.samples.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => {
                self.samples += samples;
                Ok(())
            }
            Err(_) => Err(Trouble::TooManySamples(self.budget.samples_max)),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.bytes.fetch_add(self.bytes, Ordering::Relaxed);
        self.budget.samples.fetch_add(self.samples, Ordering::Relaxed);
    }
}

/// Why the answer of a store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// All stores together sent more than a request may take.
    #[error("the stores of the clusters answered with more than {} MiB", .0 >> 20)]
    TooMuch(usize),
    /// As [`TooMuch`](Self::TooMuch), in samples.
    #[error("the stores of the clusters answered with more than the {0} samples that a query may hold")]
    TooManySamples(u64),
    /// It did not come, or cannot be read.
    #[error("{0}")]
    Answer(String),
}

/// One store's series, sorted by labels, samples and all; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct FarSet(Arc<Fetched>);

#[derive(Debug)]
struct Fetched {
    series: Vec<(Labels, Column)>,
    warnings: Vec<String>,
    _charge: Charge,
}

/// A series whose frames are coming in.
#[derive(Debug)]
struct Open {
    labels: Labels,
    samples: Samples,
    /// (time, start) of floats and of histograms, as far as the store told starts.
    starts: [Vec<(i64, i64)>; 2],
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
    open: Option<Open>,
    /// Times of the series before: neighbours are often scraped together.
    last_times: Arc<[i64]>,
    /// The most bytes of an unfinished frame so far.
    buffered: usize,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(budget: &Arc<Budget>, window: (i64, i64), far: &'a dyn Far) -> Collector<'a> {
        Collector {
            charge: Charge { budget: Arc::clone(budget), bytes: 0, samples: 0 },
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
        if self.open.as_ref().is_none_or(|open| open.labels != frame.labels) {
            self.close()?;
            let (samples, starts) = (Samples::default(), Default::default());
            self.open = Some(Open { labels: frame.labels, samples, starts });
        }
        let Some(Open { labels, samples, starts }) = &mut self.open else { return Ok(()) };
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
            let new = (samples.times.len() - floats, samples.histograms.len() - histograms);
            self.charge.count((new.0 + new.1) as u64)?;
            self.charge.add(new.0 * 16 + of_histograms)?;
            if chunk.starts.is_empty() {
                continue;
            }
            self.charge.add((new.0 + new.1) * size_of::<(i64, i64)>())?;
            let told = read_starts(&chunk.starts, new.0 + new.1)
                .ok_or_else(|| Trouble::Answer(format!("series {labels}: malformed start timestamps")))?;
            let of_histograms = samples.histograms[histograms..].iter().map(|(time, _)| *time);
            let times = samples.times[floats..].iter().copied().chain(of_histograms);
            starts[usize::from(encoding != Encoding::Xor)].extend(times.zip(told));
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Trouble> {
        let Some(Open { labels, mut samples, starts }) = self.open.take() else { return Ok(()) };
        let Some(labels) = self.own(labels) else { return Ok(()) };
        samples.sort();
        let (start, end) = self.window;
        samples.retain(|time| (start..=end).contains(&time));
        if *self.last_times != *samples.times {
            self.last_times = samples.times.into();
        }
        self.charge.add(labels.as_bytes().len() + size_of::<(Labels, Column)>())?;
        let [of_floats, of_histograms] = starts;
        let column = Column {
            start_times: starts_at(of_floats, self.last_times.iter().copied()),
            histogram_starts: starts_at(of_histograms, samples.histograms.iter().map(|(time, _)| *time)),
            times: Arc::clone(&self.last_times),
            values: samples.values,
            histograms: samples.histograms,
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
        Ok(FarSet(Arc::new(Fetched { series, warnings, _charge: self.charge })))
    }
}

/// The starts of the samples at `times`, of those that were told: 0 where none was; none at all when all are 0.
fn starts_at(mut told: Vec<(i64, i64)>, times: impl Iterator<Item = i64>) -> Option<Arc<[i64]>> {
    if told.iter().all(|(_, start)| *start == 0) {
        return None;
    }
    told.sort_by_key(|(time, _)| *time);
    let start = |time: i64| told.binary_search_by_key(&time, |(time, _)| *time).map_or(0, |at| told[at].1);
    Some(times.map(start).collect())
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
        self.0.series.len()
    }

    fn labels(&self, at: usize) -> &Labels {
        &self.0.series[at].0
    }

    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError> {
        out.extend(self.0.series[range].iter().map(|(_, column)| column.clone()));
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        self.0.warnings.clone()
    }
}
