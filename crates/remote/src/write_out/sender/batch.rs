//! A batch of a group and what is left of it.

use model::{Labels, SourceId};

use crate::write_out::group::{Group, Piece, take_first};
use crate::write_out::request::Body;

/// Where a series stands in a group's order.
pub(super) type Place = (SourceId, Labels);

/// Where a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting,
    /// Until the monotonic clock shows this.
    Backoff(u64),
    InFlight,
    Done,
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) phase: Phase,
    /// The last is the next. Empty once the batch is done.
    pub(super) parts: Vec<Part>,
    /// The next part, written.
    pub(super) body: Option<Body>,
    /// How often `body` was sent.
    pub(super) attempts: u32,
    /// Whether it goes after the batch before it in the group: both hold points of one series.
    pub(super) follows: bool,
    /// Its first and last series.
    pub(super) first: Place,
    pub(super) last: Place,
}

/// Some of a batch's points, for one request.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) pieces: Vec<Piece>,
    pub(super) exemplars: bool,
}

impl Batch {
    /// The batches of a group, which loses its pieces.
    pub(super) fn of(group: &mut Group, exemplars: bool) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::with_capacity(group.batches.len());
        let mut last_series = None;
        for pieces in std::mem::take(&mut group.batches) {
            let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { continue };
            let place = |piece: &Piece| {
                let series = &group.series[piece.series as usize];
                (series.source, series.labels.clone())
            };
            let follows = last_series == Some(first.series);
            last_series = Some(last.series);
            batches.push(Batch {
                phase: Phase::Waiting,
                follows,
                first: place(first),
                last: place(last),
                parts: vec![Part { pieces, exemplars }],
                body: None,
                attempts: 0,
            });
        }
        batches
    }

    /// Samples and histograms that are not done with.
    pub(super) fn points(&self) -> usize {
        self.parts.iter().map(Part::points).sum()
    }

    /// Done with the next part.
    pub(super) fn next_part(&mut self) -> Option<Part> {
        self.body = None;
        self.attempts = 0;
        self.parts.pop()
    }

    /// Makes two of the next part: the earlier half goes first. `false` for a single point.
    pub(super) fn split(&mut self) -> bool {
        let Some(mut part) = self.next_part() else { return false };
        let points = part.points();
        if points <= 1 {
            self.parts.push(part);
            return false;
        }
        let exemplars = part.exemplars;
        let pieces = part.take_first(points / 2);
        self.parts.push(part);
        self.parts.push(Part { pieces, exemplars });
        true
    }
}

impl Part {
    pub(super) fn points(&self) -> usize {
        self.pieces.iter().map(Piece::points).sum()
    }

    /// Leaves out points before `oldest_ms`; says how many that were.
    pub(super) fn trim(&mut self, group: &Group, oldest_ms: i64) -> usize {
        let before = self.points();
        for piece in &mut self.pieces {
            // Points stand in the order of time.
            let samples = &group.samples[piece.samples.start as usize..piece.samples.end as usize];
            piece.samples.start += samples.partition_point(|sample| sample.timestamp_ms < oldest_ms) as u32;
            let histograms =
                &group.histograms[piece.histograms.start as usize..piece.histograms.end as usize];
            piece.histograms.start +=
                histograms.partition_point(|sample| sample.timestamp_ms < oldest_ms) as u32;
        }
        self.forget_empty();
        before - self.points()
    }

    /// Leaves out histograms; says how many that were.
    pub(super) fn trim_histograms(&mut self) -> usize {
        let before = self.points();
        self.pieces.iter_mut().for_each(|piece| piece.histograms.start = piece.histograms.end);
        self.forget_empty();
        before - self.points()
    }

    /// The series and time of its first point.
    pub(super) fn first_point<'g>(&self, group: &'g Group) -> Option<(&'g Labels, i64)> {
        let piece = self.pieces.first()?;
        let labels = &group.series[piece.series as usize].labels;
        let sample = || group.samples.get(piece.samples.start as usize).map(|s| s.timestamp_ms);
        let histogram = || group.histograms.get(piece.histograms.start as usize).map(|h| h.timestamp_ms);
        let timestamp_ms = if piece.samples.is_empty() { histogram() } else { sample() }?;
        Some((labels, timestamp_ms))
    }

    fn forget_empty(&mut self) {
        self.pieces.retain(|piece| piece.points() > 0);
    }

    /// Splits the first `points` points off.
    fn take_first(&mut self, points: usize) -> Vec<Piece> {
        let mut first = Vec::new();
        let mut left = points;
        let whole = self
            .pieces
            .iter()
            .take_while(|piece| {
                let fits = piece.points() <= left;
                left -= if fits { piece.points() } else { 0 };
                fits
            })
            .count();
        first.extend(self.pieces.drain(..whole));
        if left > 0
            && let Some(piece) = self.pieces.first_mut()
        {
            first.push(take_first(piece, left));
        }
        first
    }
}
