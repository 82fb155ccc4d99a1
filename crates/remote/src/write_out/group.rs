//! Groups: rows between two positions of the queue, put in order and cut into batches.
//!
//! A group ends where the *blocks* say so (see [`Cut`]), its series stand in the order of (source, labels),
//! and batches are cut from that sequence by number of points alone. So the batches are a function of
//! positions in the queue: whoever starts again at the beginning of a group makes the same batches, byte
//! for byte, however many requests were under way.
//!
//! All points of a series within a group are in one batch (unless they alone are too many for one), so
//! batches of a group do not depend on each other.

use std::ops::Range;
use std::sync::Arc;

use model::{Exemplar, Histogram};
use wire::remote_write::{HistogramSample, Sample};

use super::catalog::{Catalog, Place, Series, Slot};

/// Some points of one series of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which series of the group.
    pub(super) series: u32,
    pub(super) samples: Range<u32>,
    pub(super) histograms: Range<u32>,
    pub(super) exemplars: Range<u32>,
}

impl Piece {
    /// Samples and histograms.
    pub(super) fn points(&self) -> usize {
        self.samples.len() + self.histograms.len()
    }
}

/// A group, ready to be sent.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// In the order of (source, labels).
    pub(super) series: Vec<Arc<Series>>,
    pub(super) samples: Vec<Sample>,
    pub(super) histograms: Vec<HistogramSample>,
    pub(super) exemplars: Vec<Exemplar>,
    /// Each batch as pieces, in the order of `series`.
    pub(super) batches: Vec<Vec<Piece>>,
    /// Timestamp of the newest point, milliseconds; `i64::MIN` when there is none.
    pub(super) newest_ms: i64,
    /// Points that relabelling dropped.
    pub(super) dropped: u64,
}

/// Collects the points of a group.
#[derive(Debug, Default)]
pub(super) struct Collector {
    samples: Vec<(Slot, Sample)>,
    histograms: Vec<(Slot, HistogramSample)>,
    exemplars: Vec<(Slot, Exemplar)>,
    /// Our sources with points, each once.
    touched: Vec<u32>,
    is_touched: Vec<bool>,
    /// For each slot: how many samples, then where the next one goes.
    counts: Vec<u32>,
    dropped: u64,
}

/// A row as a block gives it, columns by number.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowIn<'a> {
    pub(super) source: u32,
    pub(super) timestamp_ms: i64,
    /// The columns of `values`, in order.
    pub(super) columns: &'a [Range<u32>],
    pub(super) values: &'a [f64],
    pub(super) histograms: &'a [(u32, Histogram)],
    pub(super) start_timestamps: &'a [(u32, i64)],
    pub(super) exemplars: &'a [(u32, Exemplar)],
}

impl Collector {
    /// Takes a row in. Columns that no dictionary has named are passed over.
    pub(super) fn row(&mut self, catalog: &Catalog, row: &RowIn<'_>) {
        let Some(source) = catalog.source(row.source) else { return };
        self.touch(source);
        let columns = catalog.columns(row.source);
        let place = |column: u32| columns.get(column as usize).copied().unwrap_or(Place::Unknown);
        let start_of = |column: u32| {
            let mut starts = row.start_timestamps.iter();
            starts.find(|(named, _)| *named == column).map_or(0, |(_, start_ms)| *start_ms)
        };
        // Start timestamps mostly stand in the order of the columns.
        let mut starts = row.start_timestamps.iter().peekable();
        let timestamp_ms = row.timestamp_ms;
        for (column, &value) in row.columns.iter().cloned().flatten().zip(row.values) {
            let start_timestamp_ms = match starts.next_if(|(named, _)| *named == column) {
                Some((_, start_ms)) => *start_ms,
                None if starts.peek().is_none() => 0,
                None => start_of(column),
            };
            match place(column) {
                Place::Slot(slot) => {
                    self.samples.push((slot, Sample { timestamp_ms, value, start_timestamp_ms }));
                }
                Place::Dropped => self.dropped += 1,
                Place::Unknown => {}
            }
        }
        for (column, histogram) in row.histograms {
            let start_timestamp_ms = start_of(*column);
            match place(*column) {
                Place::Slot(slot) => {
                    let histogram = histogram.clone();
                    self.histograms
                        .push((slot, HistogramSample { timestamp_ms, histogram, start_timestamp_ms }));
                }
                Place::Dropped => self.dropped += 1,
                Place::Unknown => {}
            }
        }
        for (column, exemplar) in row.exemplars {
            if let Place::Slot(slot) = place(*column) {
                self.exemplars.push((slot, exemplar.clone()));
            }
        }
    }

    /// Samples and histograms so far, those that were dropped included.
    pub(super) fn points(&self) -> usize {
        self.samples.len() + self.histograms.len() + self.dropped as usize
    }

    /// Makes a group of what has been collected, with at most `points_max` points in a batch.
    pub(super) fn close(&mut self, catalog: &mut Catalog, points_max: usize) -> Group {
        let mut group = Group { dropped: std::mem::take(&mut self.dropped), ..Group::default() };
        group.newest_ms = self.newest_ms();
        self.counts.clear();
        self.counts.resize(catalog.len(), 0);
        self.samples.iter().for_each(|(slot, _)| self.counts[*slot as usize] += 1);
        // Histograms and exemplars are few: each finds its slot by search.
        self.histograms.sort_by_key(|(slot, _)| *slot);
        self.exemplars.sort_by_key(|(slot, _)| *slot);
        let mut slots = Vec::new();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = 0u32;
        catalog.in_order(&mut self.touched, |slot| {
            let samples = at..at + self.counts[slot as usize];
            let histograms = run_of(&self.histograms, slot);
            let exemplars = run_of(&self.exemplars, slot);
            if samples.is_empty() && histograms.is_empty() {
                return;
            }
            self.counts[slot as usize] = at;
            at = samples.end;
            let (histograms_at, exemplars_at) = (group.histograms.len() as u32, group.exemplars.len() as u32);
            group.histograms.extend(self.histograms[histograms].iter().map(|(_, sample)| sample.clone()));
            group.exemplars.extend(self.exemplars[exemplars].iter().map(|(_, exemplar)| exemplar.clone()));
            let (histograms_end, exemplars_end) =
                (group.histograms.len() as u32, group.exemplars.len() as u32);
            let (histograms, exemplars) = (histograms_at..histograms_end, exemplars_at..exemplars_end);
            pieces.push(Piece { series: slots.len() as u32, samples, histograms, exemplars });
            slots.push(slot);
        });
        group.samples.resize(self.samples.len(), Sample::default());
        for (slot, sample) in self.samples.drain(..) {
            let place = &mut self.counts[slot as usize];
            group.samples[*place as usize] = sample;
            *place += 1;
        }
        group.series = slots.into_iter().map(|slot| Arc::clone(catalog.series(slot))).collect();
        self.histograms.clear();
        self.exemplars.clear();
        for source in self.touched.drain(..) {
            self.is_touched[source as usize] = false;
        }
        for piece in &pieces {
            let range = |range: &Range<u32>| range.start as usize..range.end as usize;
            sort_by_time(&mut group.samples[range(&piece.samples)], |sample| sample.timestamp_ms);
            sort_by_time(&mut group.histograms[range(&piece.histograms)], |sample| sample.timestamp_ms);
        }
        group.batches = cut(pieces, points_max.max(1));
        group
    }

    fn newest_ms(&self) -> i64 {
        let floats = self.samples.iter().map(|(_, sample)| sample.timestamp_ms);
        floats.chain(self.histograms.iter().map(|(_, sample)| sample.timestamp_ms)).max().unwrap_or(i64::MIN)
    }

    fn touch(&mut self, source: u32) {
        let at = source as usize;
        if at >= self.is_touched.len() {
            self.is_touched.resize(at + 1, false);
        }
        if !std::mem::replace(&mut self.is_touched[at], true) {
            self.touched.push(source);
        }
    }
}

/// Where `slot` stands in what is sorted by slot.
fn run_of<T>(sorted: &[(Slot, T)], slot: Slot) -> Range<usize> {
    if sorted.is_empty() {
        return 0..0;
    }
    let start = sorted.partition_point(|(other, _)| *other < slot);
    let len = sorted[start..].iter().take_while(|(other, _)| *other == slot).count();
    start..start + len
}

fn sort_by_time<T>(points: &mut [T], time: impl Fn(&T) -> i64) {
    if !points.is_sorted_by_key(&time) {
        points.sort_by_key(time);
    }
}

/// Batches of at most `points_max` points each.
fn cut(pieces: Vec<Piece>, points_max: usize) -> Vec<Vec<Piece>> {
    let mut batches: Vec<Vec<Piece>> = Vec::new();
    let mut open: Vec<Piece> = Vec::new();
    let mut points = 0;
    for mut piece in pieces {
        if points + piece.points() > points_max && !open.is_empty() {
            batches.push(std::mem::take(&mut open));
            points = 0;
        }
        while piece.points() > points_max {
            batches.push(vec![take_first(&mut piece, points_max)]);
        }
        points += piece.points();
        open.push(piece);
    }
    if !open.is_empty() {
        batches.push(open);
    }
    batches
}

/// Splits the first `points` points off; exemplars stay with the rest.
pub(super) fn take_first(piece: &mut Piece, points: usize) -> Piece {
    let samples = points.min(piece.samples.len()) as u32;
    let histograms = (points - samples as usize).min(piece.histograms.len()) as u32;
    let first = Piece {
        series: piece.series,
        samples: piece.samples.start..piece.samples.start + samples,
        histograms: piece.histograms.start..piece.histograms.start + histograms,
        exemplars: piece.exemplars.start..piece.exemplars.start,
    };
    piece.samples.start += samples;
    piece.histograms.start += histograms;
    first
}

/// Where groups end: at most so many points, and all blocks whose newest rows lie in the same slice of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// A group that has this many points takes no more blocks.
    pub(super) points_max: usize,
    /// Length of a slice of time, milliseconds, at least 1.
    pub(super) slice_ms: i64,
}

impl Cut {
    /// Whether a block whose newest row is of `newest_ms` begins a new group, when the one before it has
    /// `points` points, the newest of `group_newest_ms`.
    pub(super) fn before(&self, points: usize, group_newest_ms: i64, newest_ms: i64) -> bool {
        points >= self.points_max || self.slice(newest_ms) > self.slice(group_newest_ms)
    }

    /// When the slice of `newest_ms` is over.
    pub(super) fn slice_end_ms(&self, newest_ms: i64) -> i64 {
        self.slice(newest_ms).saturating_add(1).saturating_mul(self.slice_ms)
    }

    fn slice(&self, at_ms: i64) -> i64 {
        at_ms.div_euclid(self.slice_ms)
    }
}
