//! Head and parts as one.
//!
//! A selection pins the head first and the version second ([`crate::version`] says why), and lists
//! the series of both by labels. Samples are read when asked for: the pieces of a series, from each part
//! and from the head, joined by rank.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use model::{Exemplar, Labels, Matcher, TenantId};
use parking_lot::Mutex;
use storage::{
    Column, Listed, ListedExemplars, ListedLabels, ListedMetadata, QueryError, Queryable, Select, SeriesRef,
    SeriesSet, exemplars_by_series,
};

use super::problems::Problems;
use super::{Db, Inner, Tenant};
use crate::head::index::reference;
use crate::head::snapshot::HeadSnapshot;
use crate::merge::{Piece, TimeConcatCache, combine};
use crate::part::{Clips, PartError};
use crate::tombstone::clip;
use crate::version::{DeletedSeries, PartEntry, Version};

/// An exemplar with the labels of its series.
#[derive(Debug, Clone)]
pub struct StoredExemplar {
    /// The series.
    pub series: Labels,
    /// Its exemplar.
    pub exemplar: Exemplar,
}

impl Queryable for Db {
    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.inner.selection(select, Wanted::Samples)
    }

    fn series(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.inner.selection(select, Wanted::Labels)
    }

    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError> {
        self.inner.list(
            select,
            |index, selected, out| index.label_names(selected, out),
            |entry| entry.part.label_names(&select.matchers),
        )
    }

    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError> {
        self.inner.list(
            select,
            |index, selected, out| index.label_values(name, selected, out),
            |entry| entry.part.label_values(name, &select.matchers),
        )
    }

    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<ListedMetadata, QueryError> {
        let Some(tenant) = self.inner.tenant_with_data(tenant)? else { return Ok(Listed::default()) };
        let mut warnings = Vec::new();
        let mut known = tenant.lanes.read().metadata.clone();
        for entry in tenant.version.load().parts.iter().rev() {
            let metadata = match entry.part.metadata() {
                Ok(metadata) => metadata,
                Err(error) => {
                    self.inner.problems.met(&error);
                    warnings.push(error.to_string());
                    continue;
                }
            };
            for (metric, statements) in metadata {
                let of_metric = known.entry(metric).or_default();
                // Those of the head are later: they stay last.
                for statement in statements.into_iter().rev() {
                    if !of_metric.contains(&statement) {
                        of_metric.insert(0, statement);
                    }
                }
            }
        }
        let wanted = known.into_iter().filter(|(name, _)| metric.is_none_or(|metric| metric == name));
        Ok(Listed { values: wanted.collect(), warnings })
    }

    fn exemplars_of(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Vec<Matcher>],
    ) -> Result<ListedExemplars, QueryError> {
        self.inner.check_refused(tenant)?;
        let found = self.exemplars(tenant, matchers, start_ms, end_ms);
        Ok(exemplars_by_series(found.into_iter().map(|stored| (stored.series, stored.exemplar))).into())
    }
}

impl Db {
    /// The exemplars in memory of series that satisfy all of one of the lists of matchers, oldest
    /// arrival first, from `start_ms` to `end_ms`, both inclusive.
    pub fn exemplars(
        &self,
        tenant: &TenantId,
        matchers: &[Vec<Matcher>],
        start_ms: i64,
        end_ms: i64,
    ) -> Vec<StoredExemplar> {
        let Some(tenant) = self.inner.tenants.read().get(tenant).cloned() else { return Vec::new() };
        let index = tenant.index.read();
        let mut selected = roaring::RoaringBitmap::new();
        matchers.iter().for_each(|matchers| selected |= index.select(matchers));
        let lanes = tenant.lanes.read();
        let wanted = lanes.exemplars.iter().filter(|(series, exemplar)| {
            let slot = crate::head::index::slot_of(*series);
            selected.contains(slot)
                && lanes.home(*series).is_some()
                && (start_ms..=end_ms).contains(&exemplar.timestamp_ms)
        });
        let stored = |(series, exemplar): &(SeriesRef, Exemplar)| StoredExemplar {
            series: index.labels(crate::head::index::slot_of(*series)),
            exemplar: exemplar.clone(),
        };
        wanted.map(stored).collect()
    }
}

impl Inner {
    fn selection(&self, select: &Select, wanted: Wanted) -> Result<Box<dyn SeriesSet>, QueryError> {
        let Some(tenant) = self.tenant_with_data(&select.tenant)? else {
            return Ok(Box::new(Selection::default()));
        };
        let start_ms = select.start_ms.max(self.retention_start_ms());
        let select = Select { start_ms, ..select.clone() };
        Ok(Box::new(Selection::new(&tenant, self.problems.clone(), &select, wanted)?))
    }

    fn list(
        &self,
        select: &Select,
        of_head: impl FnOnce(&crate::head::index::Index, Option<&roaring::RoaringBitmap>, &mut Vec<String>),
        of_part: impl Fn(&PartEntry) -> Result<Vec<String>, PartError>,
    ) -> Result<ListedLabels, QueryError> {
        let mut listed = ListedLabels::default();
        let Some(tenant) = self.tenant_with_data(&select.tenant)? else { return Ok(listed) };
        {
            let index = tenant.index.read();
            let selected = (!select.matchers.is_empty()).then(|| index.select(&select.matchers));
            of_head(&index, selected.as_ref(), &mut listed.values);
        }
        let start_ms = select.start_ms.max(self.retention_start_ms());
        let version = tenant.version.load();
        listed.warnings.extend(version.unreadable.iter().cloned());
        for entry in &version.parts {
            if entry.part.info().overlaps(start_ms, select.end_ms) {
                match of_part(entry) {
                    Ok(values) => listed.values.extend(values),
                    Err(error) => listed.warnings.push(self.problems.met(&error)),
                }
            }
        }
        listed.values.sort_unstable();
        listed.values.dedup();
        listed.warnings.dedup();
        Ok(listed)
    }
}

/// What a selection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Samples,
    /// Nothing of the head's rows is pinned: whoever appends next need not copy it.
    Labels,
}

/// A series of a selection. Which parts have it is kept with the parts: most series are in few of many.
#[derive(Debug)]
struct Selected {
    labels: Labels,
    /// Its number in the head's snapshot, or [`NOWHERE`].
    head: u32,
}

/// No number in the head's snapshot.
const NOWHERE: u32 = u32::MAX;

/// A part in the selected time.
#[derive(Debug)]
struct SelectedPart {
    entry: Arc<PartEntry>,
    deleted: DeletedSeries,
    /// (series of the selection, series in the part), by the former.
    members: Vec<(u32, u32)>,
}

#[derive(Debug, Default)]
struct Selection {
    /// By labels.
    series: Vec<Selected>,
    head: HeadSnapshot,
    version: Arc<Version>,
    parts: Vec<SelectedPart>,
    start_ms: i64,
    end_ms: i64,
    /// Parts that could not be read at all.
    warnings: Vec<String>,
    /// Damage met so far while samples were loaded.
    met: Mutex<BTreeSet<String>>,
    problems: Option<Arc<Problems>>,
    /// What loads that are not running have left for the next.
    rooms: Mutex<Vec<Room>>,
}

/// What a load works out and the next one can use: neighbours by labels are of many sources, and the
/// series of one source are spread over all loads. Columns thus share their times from load to load.
#[derive(Debug, Default)]
struct Room {
    times: TimeConcatCache,
    /// For each part of the selection.
    clips: Vec<Clips>,
}

/// Bytes of times that a room keeps.
const ROOM_BYTES_MAX: usize = 16 << 20;
/// Clips of a part that a room keeps.
const ROOM_CLIPS_MAX: usize = 16 << 10;

/// Damaged places that an answer names; more are only counted.
const PLACES_NAMED_MAX: usize = 100;

/// Series of a part listed at a time: labels of the others are not held meanwhile.
const LISTED_AT_ONCE: usize = 4096;

impl Selection {
    fn new(
        tenant: &Tenant,
        problems: Arc<Problems>,
        select: &Select,
        wanted: Wanted,
    ) -> Result<Selection, QueryError> {
        let Select { start_ms, end_ms, ref matchers, .. } = *select;
        // Labels first, then tiles, then the version: what a flush moves meanwhile shows in the latter.
        let (series, references) = {
            let index = tenant.index.read();
            let slots = index.select(matchers);
            let mut series = Vec::with_capacity(slots.len() as usize);
            let mut references = Vec::with_capacity(slots.len() as usize);
            for (number, (slot, labels)) in (0u32..).zip(index.labelled(&slots)) {
                let head = if wanted == Wanted::Samples { number } else { NOWHERE };
                series.push(Selected { labels, head });
                references.push(reference(slot, index.generation(slot)));
            }
            (series, references)
        };
        let head = match wanted {
            Wanted::Samples => tenant.lanes.read().pin(&references, start_ms, end_ms),
            Wanted::Labels => HeadSnapshot::default(),
        };
        let version = tenant.version.load();
        let warnings = version.unreadable.to_vec();
        let mut selection =
            Selection { series, head, version, start_ms, end_ms, warnings, ..Selection::default() };
        selection.sort();
        for entry in
            selection.version.clone().parts.iter().filter(|e| e.part.info().overlaps(start_ms, end_ms))
        {
            // One damaged part does not take the others away.
            if let Err(error) = selection.add_part(entry, matchers, wanted) {
                selection.warnings.push(problems.met(&error));
            }
        }
        selection.problems = Some(problems);
        Ok(selection)
    }

    /// Adds the series of a part. After an error all is as before.
    fn add_part(
        &mut self,
        entry: &Arc<PartEntry>,
        matchers: &[Matcher],
        wanted: Wanted,
    ) -> Result<(), PartError> {
        let numbers: Vec<u32> = entry.part.select(matchers)?.iter().collect();
        let deleted = entry.deleted(&self.version.tombstones)?;
        let mut members = Vec::with_capacity(numbers.len());
        let (known, mut fresh) = (self.series.len(), Vec::new());
        let (mut cursor, mut labels) = (0, Vec::with_capacity(numbers.len().min(LISTED_AT_ONCE)));
        for numbers in numbers.chunks(LISTED_AT_ONCE) {
            labels.clear();
            entry.part.labels_of(numbers, &mut labels)?;
            for (number, labels) in numbers.iter().zip(labels.drain(..)) {
                let at = match find_from(&self.series, &labels, &mut cursor) {
                    Some(at) => at,
                    None => {
                        fresh.push(Selected { labels, head: NOWHERE });
                        known + fresh.len() - 1
                    }
                };
                members.push((at as u32, *number));
            }
        }
        if wanted == Wanted::Samples {
            // A part's order is not quite that of labels.
            members.sort_unstable();
            self.parts.push(SelectedPart { entry: entry.clone(), deleted, members });
        }
        if !fresh.is_empty() {
            self.series.reserve_exact(fresh.len());
            self.series.append(&mut fresh);
            self.sort();
        }
        Ok(())
    }

    /// Puts the series in the order of their labels, and members in that of the series.
    fn sort(&mut self) {
        if self.series.is_sorted_by(|a, b| a.labels <= b.labels) {
            return;
        }
        let mut order: Vec<u32> = (0..self.series.len() as u32).collect();
        // Stable, as that finds the runs that are in order already.
        order.sort_by(|a, b| self.series[*a as usize].labels.cmp(&self.series[*b as usize].labels));
        let mut places = vec![0; order.len()];
        for (place, at) in (0u32..).zip(&order) {
            places[*at as usize] = place;
        }
        for part in &mut self.parts {
            part.members.iter_mut().for_each(|(at, _)| *at = places[*at as usize]);
            part.members.sort_unstable();
        }
        let moved = |at: &u32| {
            let Selected { labels, head } = &self.series[*at as usize];
            Selected { labels: labels.clone(), head: *head }
        };
        self.series = order.iter().map(moved).collect();
    }

    /// Reads what the parts have of `range`: (series within the range, piece), by series.
    fn load_parts(&self, range: &Range<usize>, room: &mut Room) -> Vec<(usize, Piece)> {
        let mut pieces = Vec::new();
        let Room { times: cache, clips } = room;
        clips.resize_with(self.parts.len(), Clips::default);
        for (part, clips) in self.parts.iter().zip(clips) {
            let until = |end: usize| part.members.partition_point(|(at, _)| (*at as usize) < end);
            let members = &part.members[until(range.start)..until(range.end)];
            if members.is_empty() {
                continue;
            }
            if clips.len() > ROOM_CLIPS_MAX {
                clips.clear();
            }
            let mut wanted: Vec<(u32, usize)> =
                members.iter().map(|(at, number)| (*number, *at as usize - range.start)).collect();
            wanted.sort_unstable();
            let numbers: Vec<u32> = wanted.iter().map(|(number, _)| *number).collect();
            let mut columns = Vec::with_capacity(numbers.len());
            let range = self.start_ms..=self.end_ms;
            let SelectedPart { entry, deleted, .. } = part;
            if entry.part.load_with(clips, &numbers, range.clone(), &mut columns).is_err() {
                let mut damage = Vec::new();
                entry.part.load_readable(&numbers, range, cache, &mut columns, &mut damage);
                self.note(&damage);
            }
            let rank = entry.part.info().rank();
            for ((number, within), mut column) in wanted.into_iter().zip(columns) {
                if let Ok(at) = deleted.binary_search_by_key(&number, |(series, _)| *series) {
                    deleted[at].1.apply(&mut column, cache);
                }
                pieces.push((within, Piece { rank, column }));
            }
        }
        pieces.sort_by_key(|(within, _)| *within);
        pieces
    }

    /// Keeps damage to be told as warnings.
    fn note(&self, damage: &[PartError]) {
        let Some(problems) = &self.problems else { return };
        let mut met = self.met.lock();
        for error in damage {
            let warning = problems.met(error);
            if met.len() < PLACES_NAMED_MAX {
                met.insert(warning);
            } else if !met.contains(&warning) {
                met.insert(format!("there is more damage than these {PLACES_NAMED_MAX} places"));
            }
        }
    }

    fn load_head(
        &self,
        series: &Selected,
        cache: &mut TimeConcatCache,
        out: &mut Vec<Piece>,
    ) -> Result<(), QueryError> {
        if series.head == NOWHERE {
            return Ok(());
        }
        self.head.read(series.head, &self.version, cache, out).map_err(|error| {
            QueryError::Corrupt(format!("a sealed tile of series {}: {error}", series.labels))
        })
    }
}

/// Where `series` (by labels) has `labels`. `cursor` is where the labels before were or would be: those
/// asked for mostly come in order.
fn find_from(series: &[Selected], labels: &Labels, cursor: &mut usize) -> Option<usize> {
    let (mut from, mut step) = (*cursor, 1);
    if from > 0 && series[from - 1].labels >= *labels {
        from = 0;
    }
    let mut end = from;
    while let Some(selected) = series.get(end) {
        match selected.labels.cmp(labels) {
            std::cmp::Ordering::Less => {
                from = end + 1;
                end += step;
                step *= 2;
            }
            std::cmp::Ordering::Equal => {
                *cursor = end + 1;
                return Some(end);
            }
            std::cmp::Ordering::Greater => break,
        }
    }
    let rest = &series[from..end.min(series.len())];
    let found = rest.binary_search_by(|selected| selected.labels.cmp(labels));
    *cursor = from + found.map_or_else(|at| at, |at| at + 1);
    found.ok().map(|at| from + at)
}

impl SeriesSet for Selection {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, at: usize) -> &Labels {
        &self.series[at].labels
    }

    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError> {
        let mut room = self.rooms.lock().pop().unwrap_or_default();
        let mut of_parts = self.load_parts(&range, &mut room).into_iter().peekable();
        let cache = &mut room.times;
        let mut pieces = Vec::with_capacity(self.parts.len() + 2);
        for (within, series) in self.series[range].iter().enumerate() {
            pieces.extend(std::iter::from_fn(|| of_parts.next_if(|(of, _)| *of == within)).map(|(_, p)| p));
            self.load_head(series, cache, &mut pieces)?;
            let mut column = combine(&mut pieces, cache);
            clip(&mut column, self.start_ms, self.end_ms, cache);
            for starts in [&mut column.start_times, &mut column.histogram_starts] {
                starts.take_if(|starts| starts.iter().all(|start| *start == 0));
            }
            out.push(column);
        }
        if room.times.bytes() > ROOM_BYTES_MAX {
            room.times.clear();
        }
        self.rooms.lock().push(room);
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.iter().cloned().chain(self.met.lock().iter().cloned()).collect()
    }
}
