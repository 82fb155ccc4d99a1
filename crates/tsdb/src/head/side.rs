//! What does not fit the rows of lanes, sample by sample: late samples, replacements, histograms. Late rows
//! of many columns, and late samples that have become many, are in the late lane ([`super::late`]).
//!
//! A late sample is older than its series' newest one and has no open row to go to. A replacement came
//! under the policy that the later arrival wins; it is kept apart because that has to hold against
//! whatever stands in parts.

use std::collections::HashMap;
use std::sync::Arc;

use model::Histogram;
use storage::Column;

use super::late::loose::Samples;
use crate::merge::{Piece, Rank};

/// A sample outside the lanes.
#[derive(Debug, Clone)]
pub(crate) enum Point {
    /// A float's bits.
    Float(u64),
    /// A histogram.
    Histogram(Arc<Histogram>),
}

impl Point {
    /// Whether both say the same, bit for bit.
    pub(crate) fn same(&self, other: &Point) -> bool {
        match (self, other) {
            (Point::Float(a), Point::Float(b)) => a == b,
            (Point::Histogram(a), Point::Histogram(b)) => same_histogram(a, b),
            _ => false,
        }
    }
}

/// Whether two histograms are the same, where a NaN (as in a staleness marker) equals itself.
fn same_histogram(a: &Histogram, b: &Histogram) -> bool {
    if a.sum.to_bits() != b.sum.to_bits() {
        return false;
    }
    if !a.sum.is_nan() {
        return a == b;
    }
    let (mut a, mut b) = (a.clone(), b.clone());
    (a.sum, b.sum) = (0.0, 0.0);
    a == b
}

/// The points of one series, ascending by time, with the log position of the newest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Points {
    pub(crate) points: Vec<(i64, Point)>,
    pub(crate) position: u64,
    /// Whether some of them are histograms.
    pub(crate) histograms: bool,
}

impl Points {
    pub(crate) fn get(&self, timestamp_ms: i64) -> Option<&Point> {
        let at = self.points.binary_search_by_key(&timestamp_ms, |(time, _)| *time).ok()?;
        Some(&self.points[at].1)
    }

    /// Sets a point; gives the one that stood there.
    fn set(&mut self, timestamp_ms: i64, point: Option<Point>) -> Option<Point> {
        self.histograms |= matches!(point, Some(Point::Histogram(_)));
        match (self.points.binary_search_by_key(&timestamp_ms, |(time, _)| *time), point) {
            (Ok(at), Some(point)) => Some(std::mem::replace(&mut self.points[at].1, point)),
            (Ok(at), None) => Some(self.points.remove(at).1),
            (Err(at), Some(point)) => {
                self.points.insert(at, (timestamp_ms, point));
                None
            }
            (Err(_), None) => None,
        }
    }

    /// The points as a column.
    pub(crate) fn piece(&self, replace: bool) -> Piece {
        let (mut times, mut values, mut histograms) = (Vec::new(), Vec::new(), Vec::new());
        for (time, point) in &self.points {
            match point {
                Point::Float(bits) => {
                    times.push(*time);
                    values.push(f64::from_bits(*bits));
                }
                Point::Histogram(histogram) => histograms.push((*time, histogram.clone())),
            }
        }
        let column = Column { times: times.into(), values, histograms, ..Column::default() };
        Piece { rank: Rank { replace, position: self.position }, column }
    }
}

/// The points of all series of a tenant, by slot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Side {
    /// Late samples and histograms.
    plain: HashMap<u32, Points, foldhash::fast::RandomState>,
    /// Replacements.
    replaced: HashMap<u32, Points, foldhash::fast::RandomState>,
    points: usize,
    /// Those of them that are floats.
    floats: usize,
    /// The histogram that the log's next one of a series is a difference to, and its segment.
    logged: HashMap<u32, (u64, Arc<Histogram>), foldhash::fast::RandomState>,
}

impl Side {
    pub(crate) fn is_empty(&self) -> bool {
        self.points == 0
    }

    /// Points in all.
    pub(crate) fn len(&self) -> usize {
        self.points
    }

    /// The slots that have points.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.plain.keys().chain(self.replaced.keys()).copied()
    }

    /// Whether a slot has points.
    pub(crate) fn has(&self, slot: u32) -> bool {
        self.plain.contains_key(&slot) || self.replaced.contains_key(&slot)
    }

    /// The times of the oldest and the newest point.
    pub(crate) fn time_range(&self) -> Option<(i64, i64)> {
        let points = || self.plain.values().chain(self.replaced.values()).map(|points| &points.points);
        let first = points().filter_map(|points| points.first()).map(|(time, _)| *time).min()?;
        let last = points().filter_map(|points| points.last()).map(|(time, _)| *time).max()?;
        Some((first, last))
    }

    pub(crate) fn points(&self, slot: u32, replace: bool) -> Option<&Points> {
        if replace { self.replaced.get(&slot) } else { self.plain.get(&slot) }
    }

    pub(crate) fn has_histograms(&self, slot: u32) -> bool {
        [&self.plain, &self.replaced].iter().any(|map| map.get(&slot).is_some_and(|points| points.histograms))
    }

    /// The point that stands for a series at a time.
    pub(crate) fn get(&self, slot: u32, timestamp_ms: i64) -> Option<&Point> {
        let replaced = self.replaced.get(&slot).and_then(|points| points.get(timestamp_ms));
        replaced.or_else(|| self.plain.get(&slot).and_then(|points| points.get(timestamp_ms)))
    }

    /// The newest point's time, `i64::MIN` for none.
    pub(crate) fn newest(&self, slot: u32) -> i64 {
        let newest = |map: &HashMap<u32, Points, _>| {
            map.get(&slot).and_then(|p| p.points.last()).map(|(time, _)| *time)
        };
        newest(&self.plain).max(newest(&self.replaced)).unwrap_or(i64::MIN)
    }

    /// Sets (or with `None` removes) a point; gives the one that stood there.
    pub(crate) fn set(
        &mut self,
        slot: u32,
        timestamp_ms: i64,
        replace: bool,
        position: u64,
        point: Option<Point>,
    ) -> Option<Point> {
        let map = if replace { &mut self.replaced } else { &mut self.plain };
        let entry = map.entry(slot).or_default();
        entry.position = entry.position.max(position);
        let (added, is_float) = (point.is_some(), matches!(point, Some(Point::Float(_))));
        let before = entry.set(timestamp_ms, point);
        if entry.points.is_empty() {
            map.remove(&slot);
        }
        match (before.is_some(), added) {
            (false, true) => self.points += 1,
            (true, false) => self.points -= 1,
            _ => {}
        }
        self.floats += usize::from(is_float);
        self.floats -= usize::from(matches!(before, Some(Point::Float(_))));
        before
    }

    /// How many points are floats.
    pub(crate) fn floats(&self) -> usize {
        self.floats
    }

    /// Takes all floats away, by slot, with the log position of the newest; histograms stay.
    pub(crate) fn take_floats(&mut self, replace: bool) -> (Vec<(u32, Samples)>, u64) {
        let map = if replace { &mut self.replaced } else { &mut self.plain };
        let (mut taken, mut position) = (Vec::new(), 0);
        map.retain(|slot, entry| {
            let float = |(time, point): &(i64, Point)| match point {
                Point::Float(bits) => Some((*time, *bits)),
                Point::Histogram(_) => None,
            };
            let floats: Samples = entry.points.iter().filter_map(float).collect();
            if !floats.is_empty() {
                self.points -= floats.len();
                self.floats -= floats.len();
                position = position.max(entry.position);
                taken.push((*slot, floats));
                entry.points.retain(|(_, point)| matches!(point, Point::Histogram(_)));
            }
            !entry.points.is_empty()
        });
        (taken, position)
    }

    /// Removes the points of a series within a time range, inclusive.
    pub(crate) fn delete(&mut self, slot: u32, start_ms: i64, end_ms: i64) {
        for map in [&mut self.plain, &mut self.replaced] {
            if let Some(entry) = map.get_mut(&slot) {
                entry.points.retain(|(time, point)| {
                    let stays = !(start_ms..=end_ms).contains(time);
                    self.points -= usize::from(!stays);
                    self.floats -= usize::from(!stays && matches!(point, Point::Float(_)));
                    stays
                });
                if entry.points.is_empty() {
                    map.remove(&slot);
                }
            }
        }
    }

    /// The last histogram of a series that the log has in `segment`.
    pub(crate) fn logged_histogram(&self, slot: u32, segment: u64) -> Option<Arc<Histogram>> {
        self.logged
            .get(&slot)
            .filter(|(logged, _)| *logged == segment)
            .map(|(_, histogram)| histogram.clone())
    }

    pub(crate) fn remember_logged(&mut self, slot: u32, segment: u64, histogram: Arc<Histogram>) {
        self.logged.insert(slot, (segment, histogram));
    }

    pub(crate) fn forget_logged(&mut self) {
        self.logged.clear();
    }

    /// Appends the pieces of a series.
    pub(crate) fn pieces(&self, slot: u32, out: &mut Vec<Piece>) {
        for replace in [false, true] {
            out.extend(self.points(slot, replace).map(|points| points.piece(replace)));
        }
    }

    /// Estimated memory, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.points * 32 + (self.plain.len() + self.replaced.len()) * 96
    }
}
