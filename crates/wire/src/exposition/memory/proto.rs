//! The protobuf format: the encoded labels of a target's previous scrape, and the reading of the next
//! one against them.
//!
//! **Layout.** An *entry* is one family (its encoded name, help, type and unit) or one metric (its
//! encoded labels, and for summaries and classic histograms the bounds of its series). The bytes of
//! all entries stand in one arena, bounds and columns in two more; there is no string and no hash a
//! series.
//!
//! **Steady scrape.** The cursor walks the order of the last scrape. When the labels at the cursor are
//! those of the next metric (one memcmp), its numbers are read and put out under the entry's columns.
//!
//! **Disturbed scrape.** When the comparison fails, the metric is looked up in a hash table of all
//! entries, built at that moment and dropped after the first scrape that did not need it; only then
//! it is a new entry with new columns. A metric whose buckets change is another entry.
//!
//! **Bounds.** As in the text formats: entries not seen in the last scrape stay until they outnumber
//! the living; a refused scrape leaves nothing behind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashTable;
use model::labels::{BUCKET_LABEL, METRIC_NAME, QUANTILE_LABEL};
use model::{Labels, Metadata};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::super::line::Problem;
use super::super::nhcb::ClassicHistogram;
use super::super::proto::{Family, FamilyType, Fields, Metric, Point, decode_exemplar, decode_label};
use super::super::row::{HistogramCell, ScrapedExemplar, ScrapedRow};
use super::super::value::open_metrics_float;
use super::{ColumnNumbers, DEAD_ENTRIES_MIN, RowOptions};

/// The family of entries that are families.
const NO_FAMILY: u32 = u32::MAX;
/// No entry.
const NOWHERE: u32 = u32::MAX;
/// The most bytes before a family that its length may take.
const LENGTH_BYTES_MAX: usize = 5;

/// What an entry is, and which series a metric gives, in the order of its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Family,
    /// One number.
    Single,
    /// Count, sum, quantiles.
    Summary,
    /// Count, sum, buckets.
    Classic,
    /// A native histogram.
    Native,
    /// A native histogram, count, sum, buckets.
    NativeAndClassic,
    /// A native histogram made of a classic one.
    Custom,
    /// That, and count, sum, buckets.
    CustomAndClassic,
}

impl Kind {
    fn has_histogram(self) -> bool {
        !matches!(self, Kind::Family | Kind::Single | Kind::Summary | Kind::Classic)
    }

    /// Whether the points of the metric have series.
    fn has_points(self) -> bool {
        matches!(self, Kind::Summary | Kind::Classic | Kind::NativeAndClassic | Kind::CustomAndClassic)
    }

    fn columns(self, points: usize) -> usize {
        match self {
            Kind::Family => 0,
            Kind::Single | Kind::Native | Kind::Custom => 1,
            Kind::Summary | Kind::Classic => 2 + points,
            Kind::NativeAndClassic | Kind::CustomAndClassic => 3 + points,
        }
    }
}

/// A piece of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: u32,
    len: u32,
}

impl Run {
    fn range(self) -> Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: Kind,
    /// The entry of the metric's family.
    family: u32,
    text: Run,
    bounds: Run,
    columns: Run,
}

/// What a target's last scrape in protobuf looked like.
#[derive(Debug, Default)]
pub(super) struct ProtoMemory {
    options: RowOptions,
    text: Vec<u8>,
    bounds: Vec<f64>,
    columns: Vec<u32>,
    entries: Vec<Entry>,
    /// The scrape that last had each entry.
    seen: Vec<u8>,
    /// Entries in the order of the last scrape that was taken.
    order: Vec<u32>,
    /// All entries by what they are, while scrapes are disturbed.
    table: Option<HashTable<u32>>,
    /// The running scrape, 1 to 255; 0 marks "long ago".
    scrape: u8,
    /// The last scrape that was taken.
    taken: u8,
    /// Whether the last row had every entry once.
    plain: bool,
    metric: Metric,
    /// Points of the metric that were left out because the one before has the same bound.
    repeated: usize,
    classic: ClassicHistogram,
    about: Vec<Range<usize>>,
    metrics: Vec<Range<usize>>,
}

/// The state of one reading.
struct Scan<'a> {
    body: &'a [u8],
    numbers: &'a mut ColumnNumbers,
    row: &'a mut ScrapedRow,
    /// Where in `order` the next entry is expected.
    cursor: usize,
    /// The order of this scrape, once it differs from `order`.
    disturbed: Option<Vec<u32>>,
    /// Where each entry stands in `order`; made when first needed.
    positions: Vec<u32>,
    needed_table: bool,
    /// Families that the last scrape did not have.
    changed: Vec<u32>,
}

/// What to return to when a scrape is refused.
struct Mark {
    entries: usize,
    text: usize,
    bounds: usize,
    columns: usize,
    numbers: u32,
}

/// What an entry is looked up by.
struct Key<'a> {
    kind: Kind,
    family: u32,
    text: &'a [u8],
    points: &'a [Point],
}

impl ProtoMemory {
    pub(super) fn new(options: RowOptions) -> ProtoMemory {
        ProtoMemory { options, ..ProtoMemory::default() }
    }

    /// Reads one exposition into `row`, which is empty, and remembers it. When it fails, the memory
    /// stands as before and the row is of no use.
    pub(super) fn read(
        &mut self,
        body: &[u8],
        numbers: &mut ColumnNumbers,
        row: &mut ScrapedRow,
    ) -> Result<(), Problem> {
        self.begin_scrape();
        let mark = Mark {
            entries: self.entries.len(),
            text: self.text.len(),
            bounds: self.bounds.len(),
            columns: self.columns.len(),
            numbers: numbers.bound(),
        };
        let mut scan = Scan {
            body,
            numbers,
            row,
            cursor: 0,
            disturbed: None,
            positions: Vec::new(),
            needed_table: false,
            changed: Vec::new(),
        };
        match self.read_families(&mut scan) {
            Ok(()) => {
                self.end_scrape(scan);
                Ok(())
            }
            Err(problem) => {
                self.roll_back(&mark, scan.numbers);
                Err(problem)
            }
        }
    }

    fn begin_scrape(&mut self) {
        if self.scrape == u8::MAX {
            // Forget when each entry was seen, but for the last scrape that was taken.
            let taken = self.taken;
            self.seen.iter_mut().for_each(|seen| *seen = u8::from(*seen == taken));
            self.taken = 1;
            self.scrape = 1;
        }
        self.scrape += 1;
    }

    fn read_families(&mut self, scan: &mut Scan<'_>) -> Result<(), Problem> {
        let mut fields = Fields::of(scan.body, 0..scan.body.len(), "the exposition");
        while !fields.is_at_end() {
            let at = fields.pos();
            let range = fields.delimited()?;
            if range.start - at > LENGTH_BYTES_MAX {
                return Err(fields.problem_at(at, "states the length of a family in more than five bytes"));
            }
            let (mut about, mut metrics) =
                (std::mem::take(&mut self.about), std::mem::take(&mut self.metrics));
            let read = Family::read(scan.body, range, &mut about, &mut metrics)
                .and_then(|family| self.read_family(&family, &about, &metrics, scan));
            (self.about, self.metrics) = (about, metrics);
            read?;
        }
        Ok(())
    }

    fn read_family(
        &mut self,
        family: &Family,
        about: &[Range<usize>],
        metrics: &[Range<usize>],
        scan: &mut Scan<'_>,
    ) -> Result<(), Problem> {
        if metrics.is_empty() {
            return Ok(());
        }
        let body = scan.body;
        let text = joined(body, about);
        let id = match self.order.get(scan.cursor).copied() {
            Some(id)
                if self.entries[id as usize].kind == Kind::Family
                    && self.text[self.entries[id as usize].text.range()] == *text =>
            {
                scan.cursor += 1;
                id
            }
            _ => {
                let key = Key { kind: Kind::Family, family: NO_FAMILY, text: &text, points: &[] };
                match self.find(scan, &key) {
                    Some(id) => id,
                    None => {
                        check_family(body, family)?;
                        self.remember(&key, metrics[0].start, scan.numbers)?
                    }
                }
            }
        };
        if let Some(order) = &mut scan.disturbed {
            order.push(id);
        }
        let seen = std::mem::replace(&mut self.seen[id as usize], self.scrape);
        if seen != self.scrape && (seen == 0 || seen != self.taken) {
            scan.changed.push(id);
        }
        for metric in metrics {
            self.read_metric(metric.clone(), id, family, scan)?;
        }
        Ok(())
    }

    /// Reads one metric of the family that is entry `family_id`.
    #[inline]
    fn read_metric(
        &mut self,
        range: Range<usize>,
        family_id: u32,
        family: &Family,
        scan: &mut Scan<'_>,
    ) -> Result<(), Problem> {
        if let Some(&id) = self.order.get(scan.cursor) {
            let entry = self.entries[id as usize];
            let text = &self.text[entry.text.range()];
            let after = range.start + text.len();
            if entry.family == family_id
                && after <= range.end
                && scan.body[range.start..after] == *text
                && (after == range.end || !Metric::is_label(scan.body, after))
            {
                self.metric.read(scan.body, after..range.end, family.family_type)?;
                let kind = self.settle(family.family_type);
                if kind == entry.kind && self.metric.late_labels.is_empty() && self.has_bounds_of(entry) {
                    scan.cursor += 1;
                    return self.take(id, range.start, family.family_type, scan);
                }
            }
        }
        self.read_unexpected(range, family_id, family, scan)
    }

    /// Reads a metric that does not stand at the cursor.
    #[cold]
    fn read_unexpected(
        &mut self,
        range: Range<usize>,
        family_id: u32,
        family: &Family,
        scan: &mut Scan<'_>,
    ) -> Result<(), Problem> {
        let body = scan.body;
        let after = Metric::labels_end(body, range.clone())?;
        self.metric.read(body, after..range.end, family.family_type)?;
        let kind = self.settle(family.family_type);
        let late = self.metric.late_labels.iter().cloned();
        let pieces: Vec<Range<usize>> = std::iter::once(range.start..after).chain(late).collect();
        let text = joined(body, &pieces);
        let points = if kind.has_points() { std::mem::take(&mut self.metric.points) } else { Vec::new() };
        let key = Key { kind, family: family_id, text: &text, points: &points };
        let found = match self.find(scan, &key) {
            Some(id) => Ok(id),
            None => self.remember(&key, range.start, scan.numbers).and_then(|id| {
                self.labels_of(id, range.start, |column, labels| {
                    scan.row.new_columns.push((column, labels));
                })?;
                Ok(id)
            }),
        };
        if kind.has_points() {
            self.metric.points = points;
        }
        self.take(found?, range.start, family.family_type, scan)
    }

    /// Decides what the metric is, and completes the buckets of a classic histogram: what stands behind
    /// the one up to +Inf is left out, and it is added where it is missing.
    fn settle(&mut self, family_type: FamilyType) -> Kind {
        let metric = &mut self.metric;
        self.repeated = 0;
        let kind = match family_type {
            FamilyType::Counter | FamilyType::Gauge | FamilyType::Untyped => return Kind::Single,
            FamilyType::Summary => Kind::Summary,
            FamilyType::Histogram | FamilyType::GaugeHistogram => {
                match (self.options.native_histograms && metric.is_native(), self.options.keep_classic) {
                    (true, true) if !metric.points.is_empty() => Kind::NativeAndClassic,
                    (true, _) => Kind::Native,
                    (false, _) if !self.options.convert_classic => Kind::Classic,
                    (false, true) => Kind::CustomAndClassic,
                    (false, false) => Kind::Custom,
                }
            }
        };
        if kind.has_points() {
            let before = metric.points.len();
            metric.points.dedup_by_key(|point| point.bound.to_bits());
            self.repeated = before - metric.points.len();
        }
        if kind.has_points() && kind != Kind::Summary {
            match metric.points.iter().position(|point| point.bound == f64::INFINITY) {
                Some(last) => metric.points.truncate(last + 1),
                None => {
                    let value = metric.count();
                    metric.points.push(Point { bound: f64::INFINITY, value, exemplar: None });
                }
            }
        }
        kind
    }

    fn has_bounds_of(&self, entry: Entry) -> bool {
        !entry.kind.has_points() || same_bounds(&self.bounds[entry.bounds.range()], &self.metric.points)
    }

    /// Puts out what the metric that was read says, as entry `id`.
    fn take(
        &mut self,
        id: u32,
        at: usize,
        family_type: FamilyType,
        scan: &mut Scan<'_>,
    ) -> Result<(), Problem> {
        let Scan { body, row, .. } = scan;
        let body = *body;
        let entry = self.entries[id as usize];
        let seen = std::mem::replace(&mut self.seen[id as usize], self.scrape);
        if let Some(order) = &mut scan.disturbed {
            order.push(id);
        }
        row.duplicates += self.repeated;
        let columns = &self.columns[entry.columns.range()];
        let timestamp_ms = Some(self.metric.timestamp_ms).filter(|ms| *ms != 0);
        if seen == self.scrape {
            if timestamp_ms.is_none() {
                row.duplicates += columns.len();
                return Ok(());
            }
            row.has_repeats = true;
        }
        if self.metric.start_ms != 0 {
            row.start_timestamps.extend(columns.iter().map(|column| (*column, self.metric.start_ms)));
        }
        let (histogram, columns) = columns.split_at(usize::from(entry.kind.has_histogram()));
        if let [column] = *histogram {
            let is_gauge = family_type == FamilyType::GaugeHistogram;
            let histogram = if matches!(entry.kind, Kind::Native | Kind::NativeAndClassic) {
                self.metric.native(is_gauge, at)?
            } else {
                converted(&mut self.classic, &self.metric, is_gauge, at)?
            };
            let exemplars = histogram_exemplars(body, &self.metric)?;
            row.histograms.push(HistogramCell { column, timestamp_ms, histogram, exemplars });
        }
        let mut put = |column: u32, value: f64, exemplar: Option<&Range<usize>>| -> Result<(), Problem> {
            let cell = row.values.len() as u32;
            row.columns.push(column);
            row.values.push(value);
            row.timestamps.extend(timestamp_ms.map(|ms| (cell, ms)));
            if let Some(exemplar) = exemplar {
                row.exemplars.push((cell, decode_exemplar(body, exemplar.clone())?));
            }
            Ok(())
        };
        match *columns {
            [] => Ok(()),
            [only] => put(only, self.metric.value, self.metric.exemplars.first()),
            [count, sum, ref points @ ..] => {
                put(count, self.metric.count(), None)?;
                put(sum, self.metric.sum, None)?;
                points
                    .iter()
                    .zip(&self.metric.points)
                    .try_for_each(|(column, point)| put(*column, point.value, point.exemplar.as_ref()))
            }
        }
    }

    /// Finds an entry among all, and moves the cursor behind it.
    fn find(&mut self, scan: &mut Scan<'_>, key: &Key<'_>) -> Option<u32> {
        scan.disturbed.get_or_insert_with(|| self.order[..scan.cursor].to_vec());
        scan.needed_table = true;
        if self.table.is_none() {
            let mut table = HashTable::with_capacity(self.entries.len() + 1);
            for id in 0..self.entries.len() as u32 {
                table.insert_unique(self.hash_of(id), id, |id| self.hash_of(*id));
            }
            self.table = Some(table);
        }
        let is_it = |id: &u32| {
            let entry = self.entries[*id as usize];
            entry.kind == key.kind
                && entry.family == key.family
                && self.text[entry.text.range()] == *key.text
                && same_bounds(&self.bounds[entry.bounds.range()], key.points)
        };
        let bounds = key.points.iter().map(|point| point.bound);
        let id = *self.table.as_ref()?.find(hash(key.kind, key.family, key.text, bounds), is_it)?;
        if scan.positions.is_empty() {
            scan.positions = vec![NOWHERE; self.entries.len()];
            for (position, &id) in self.order.iter().enumerate() {
                scan.positions[id as usize] = position as u32;
            }
        }
        if let Some(&position) = scan.positions.get(id as usize).filter(|position| **position != NOWHERE) {
            scan.cursor = position as usize + 1;
        }
        Some(id)
    }

    fn hash_of(&self, id: u32) -> u64 {
        let entry = self.entries[id as usize];
        let bounds = self.bounds[entry.bounds.range()].iter().copied();
        hash(entry.kind, entry.family, &self.text[entry.text.range()], bounds)
    }

    /// Makes a new entry, with columns.
    fn remember(&mut self, key: &Key<'_>, at: usize, numbers: &mut ColumnNumbers) -> Result<u32, Problem> {
        let columns = key.kind.columns(key.points.len());
        let full = |len: usize, more: usize| len + more > u32::MAX as usize;
        if full(self.text.len(), key.text.len())
            || full(self.bounds.len(), key.points.len())
            || full(self.columns.len(), columns)
        {
            return Err(Problem::new(at, "the target's series take more than 4 GiB"));
        }
        let text = Run { start: self.text.len() as u32, len: key.text.len() as u32 };
        self.text.extend_from_slice(key.text);
        // Metrics of one family mostly have the same bounds.
        let bounds = match self.entries.last() {
            Some(last) if same_bounds(&self.bounds[last.bounds.range()], key.points) => last.bounds,
            _ => {
                let run = Run { start: self.bounds.len() as u32, len: key.points.len() as u32 };
                self.bounds.extend(key.points.iter().map(|point| point.bound));
                run
            }
        };
        let run = Run { start: self.columns.len() as u32, len: columns as u32 };
        self.columns.extend((0..columns).map(|_| numbers.take()));
        let id = self.entries.len() as u32;
        self.entries.push(Entry { kind: key.kind, family: key.family, text, bounds, columns: run });
        self.seen.push(0);
        if let Some(mut table) = self.table.take() {
            table.insert_unique(self.hash_of(id), id, |id| self.hash_of(*id));
            self.table = Some(table);
        }
        Ok(id)
    }

    /// Gives the labels of each column of entry `id`; `at` is where its metric stands.
    fn labels_of(&self, id: u32, at: usize, mut each: impl FnMut(u32, Labels)) -> Result<(), Problem> {
        let entry = self.entries[id as usize];
        let family = self.about(entry.family);
        let name = family.as_ref().map_or("", |(name, _)| name.as_str());
        let text = &self.text[entry.text.range()];
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        let mut fields = Fields::of(text, 0..text.len(), "Metric");
        // The ranges are those of the entry, so a problem is placed at the metric.
        let placed = |problem: Problem| problem.moved_to(at);
        while let Some((_, value)) = fields.next().map_err(placed)? {
            pairs.push(decode_label(text, value.bytes(&fields).map_err(placed)?).map_err(placed)?);
        }
        let point_label = match entry.kind {
            Kind::Summary => QUANTILE_LABEL,
            kind if kind.has_points() => BUCKET_LABEL,
            _ => METRIC_NAME,
        };
        pairs.sort_unstable();
        let repeated = pairs.windows(2).find(|two| two[0].0 == two[1].0).map(|two| two[0].0);
        let own = pairs.iter().map(|(name, _)| *name).find(|name| [METRIC_NAME, point_label].contains(name));
        if let Some(twice) = repeated.or(own) {
            return Err(Problem::new(at, format!("label {twice:?} is given twice")));
        }
        pairs.retain(|(_, value)| !value.is_empty());
        let series = |suffix: &str, point: Option<f64>| {
            let name = format!("{name}{suffix}");
            let point = point.map(open_metrics_float);
            let mut all = pairs.clone();
            all.push((METRIC_NAME, &name));
            all.extend(point.as_deref().map(|point| (point_label, point)));
            all.sort_unstable();
            Labels::from_sorted(all.into_iter())
        };
        let columns = &self.columns[entry.columns.range()];
        let (histogram, columns) = columns.split_at(usize::from(entry.kind.has_histogram()));
        histogram.iter().for_each(|column| each(*column, series("", None)));
        match *columns {
            [] => {}
            [only] => each(only, series("", None)),
            [count, sum, ref points @ ..] => {
                each(count, series("_count", None));
                each(sum, series("_sum", None));
                let suffix = if entry.kind == Kind::Summary { "" } else { "_bucket" };
                for (column, bound) in points.iter().zip(&self.bounds[entry.bounds.range()]) {
                    each(*column, series(suffix, Some(*bound)));
                }
            }
        }
        Ok(())
    }

    /// Name and metadata of the family that is entry `id`.
    fn about(&self, id: u32) -> Option<(String, Metadata)> {
        let text = &self.text[self.entries.get(id as usize)?.text.range()];
        let family = Family::read(text, 0..text.len(), &mut Vec::new(), &mut Vec::new()).ok()?;
        let shown = |range: &Range<usize>| String::from_utf8_lossy(&text[range.clone()]).into_owned();
        let metadata = Metadata {
            metric_type: family.family_type.metric_type(),
            unit: shown(&family.unit),
            help: shown(&family.help),
        };
        Some((shown(&family.name), metadata))
    }

    /// Takes a scrape that was read to its end.
    fn end_scrape(&mut self, scan: Scan<'_>) {
        let Scan { numbers, row, .. } = scan;
        let whole = scan.cursor == self.order.len() && scan.disturbed.is_none();
        if !whole {
            self.order = scan.disturbed.unwrap_or_else(|| self.order[..scan.cursor].to_vec());
        }
        let plain = row.duplicates == 0 && !row.has_repeats;
        row.same_columns = whole && plain && self.plain;
        self.plain = plain;
        self.taken = self.scrape;
        if !scan.needed_table {
            self.table = None;
        }
        if !scan.changed.is_empty() {
            row.metadata = self.families(scan.changed.iter().copied());
        }
        if !whole {
            self.drop_dead(numbers, row);
        }
    }

    fn roll_back(&mut self, mark: &Mark, numbers: &mut ColumnNumbers) {
        if self.entries.len() > mark.entries {
            self.table = None;
        }
        numbers.undo(mark.numbers, self.columns.drain(mark.columns..).rev());
        self.entries.truncate(mark.entries);
        self.seen.truncate(mark.entries);
        self.text.truncate(mark.text);
        self.bounds.truncate(mark.bounds);
    }

    /// Drops the entries this scrape did not have, once they outnumber the others.
    fn drop_dead(&mut self, numbers: &mut ColumnNumbers, row: &mut ScrapedRow) {
        let alive = self.seen.iter().filter(|seen| **seen == self.scrape).count();
        if self.entries.len() - alive <= alive.max(DEAD_ENTRIES_MIN) {
            return;
        }
        let old = ProtoMemory {
            text: std::mem::take(&mut self.text),
            bounds: std::mem::take(&mut self.bounds),
            columns: std::mem::take(&mut self.columns),
            entries: std::mem::take(&mut self.entries),
            ..ProtoMemory::default()
        };
        let mut moved = vec![NOWHERE; old.entries.len()];
        let mut shared: Option<(Run, Run)> = None;
        for id in &mut self.order {
            let to = &mut moved[*id as usize];
            if *to == NOWHERE {
                *to = self.entries.len() as u32;
                let entry = old.entries[*id as usize];
                let bounds = match shared {
                    Some((before, now)) if before == entry.bounds => now,
                    _ => Run { start: self.bounds.len() as u32, len: entry.bounds.len },
                };
                if bounds.start as usize == self.bounds.len() {
                    self.bounds.extend_from_slice(&old.bounds[entry.bounds.range()]);
                }
                shared = Some((entry.bounds, bounds));
                let text = Run { start: self.text.len() as u32, len: entry.text.len };
                self.text.extend_from_slice(&old.text[entry.text.range()]);
                let columns = Run { start: self.columns.len() as u32, len: entry.columns.len };
                self.columns.extend_from_slice(&old.columns[entry.columns.range()]);
                self.entries.push(Entry { text, bounds, columns, ..entry });
            }
            *id = *to;
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.kind != Kind::Family) {
            // A metric is only there behind its family.
            entry.family = moved[entry.family as usize];
        }
        for (entry, _) in old.entries.iter().zip(&moved).filter(|(_, to)| **to == NOWHERE) {
            for column in &old.columns[entry.columns.range()] {
                row.retired_columns.push(*column);
                numbers.give(*column);
            }
        }
        self.seen = vec![self.scrape; self.entries.len()];
        self.table = None;
    }

    /// The metadata of families, by name.
    fn families(&self, ids: impl Iterator<Item = u32>) -> Vec<(String, Metadata)> {
        let families: BTreeMap<String, Metadata> = ids.filter_map(|id| self.about(id)).collect();
        families.into_iter().collect()
    }

    /// The metadata of the last scrape's families, by name.
    pub(super) fn metadata(&self) -> Vec<(String, Metadata)> {
        let is_family = |id: &u32| self.entries[*id as usize].kind == Kind::Family;
        self.families(self.order.iter().copied().filter(is_family))
    }

    pub(super) fn each_series(&self, mut each: impl FnMut(u32, Labels)) {
        let mut ids: Vec<u32> = self.order.clone();
        ids.sort_unstable();
        ids.dedup();
        for id in ids.into_iter().filter(|id| self.entries[*id as usize].kind != Kind::Family) {
            // They could be decoded when they were new.
            drop(self.labels_of(id, 0, &mut each));
        }
    }

    pub(super) fn all_columns(&self) -> Vec<u32> {
        self.columns.clone()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.text.capacity()
            + self.bounds.capacity() * size_of::<f64>()
            + (self.columns.capacity() + self.order.capacity()) * size_of::<u32>()
            + self.entries.capacity() * size_of::<Entry>()
            + self.seen.capacity()
            + self.table.as_ref().map_or(0, |table| table.allocation_size())
    }
}

/// The pieces of the body, one behind the other.
fn joined<'a>(body: &'a [u8], pieces: &[Range<usize>]) -> Cow<'a, [u8]> {
    match pieces {
        [] => Cow::Borrowed(&[]),
        [one] => Cow::Borrowed(&body[one.clone()]),
        many => Cow::Owned(many.iter().flat_map(|piece| &body[piece.clone()]).copied().collect()),
    }
}

fn same_bounds(bounds: &[f64], points: &[Point]) -> bool {
    bounds.len() == points.len()
        && bounds.iter().zip(points).all(|(bound, point)| bound.to_bits() == point.bound.to_bits())
}

fn hash(kind: Kind, family: u32, text: &[u8], bounds: impl Iterator<Item = f64>) -> u64 {
    let seed = u64::from(family) << 8 | kind as u64;
    let mix =
        |hash: u64, bound: f64| (hash ^ bound.to_bits()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    bounds.fold(xxh3_64_with_seed(text, seed), mix)
}

/// Refuses names and texts that no family can have.
fn check_family(body: &[u8], family: &Family) -> Result<(), Problem> {
    let valid = |range: &Range<usize>| std::str::from_utf8(&body[range.clone()]).is_ok();
    let at = family.name.start;
    if family.name.is_empty() {
        return Err(Problem::new(at, "a metric family has no name"));
    }
    for (what, range) in [("name", &family.name), ("help", &family.help), ("unit", &family.unit)] {
        if !valid(range) {
            return Err(Problem::new(
                range.start,
                format!("the {what} of a metric family is not valid UTF-8"),
            ));
        }
    }
    Ok(())
}

/// The classic histogram that `metric` is, as one with custom buckets.
fn converted(
    classic: &mut ClassicHistogram,
    metric: &Metric,
    is_gauge: bool,
    at: usize,
) -> Result<model::Histogram, Problem> {
    classic.clear();
    classic.set_count(metric.count());
    classic.set_sum(metric.sum);
    metric.points.iter().for_each(|point| classic.set_bucket(point.bound, point.value));
    let converted = classic.convert();
    let mut histogram =
        converted.map_err(|e| Problem::new(at, format!("a classic histogram cannot be converted: {e}")))?;
    if is_gauge {
        histogram.counter_reset_hint = model::histogram::CounterResetHint::Gauge;
    }
    Ok(histogram)
}

/// The exemplars of a native histogram: its own, or those of its buckets, and only with timestamps.
fn histogram_exemplars(body: &[u8], metric: &Metric) -> Result<Vec<ScrapedExemplar>, Problem> {
    let own = metric.exemplars.iter();
    let of_buckets = metric.points.iter().filter_map(|point| point.exemplar.as_ref());
    let of_buckets = of_buckets.take(if metric.exemplars.is_empty() { usize::MAX } else { 0 });
    let mut exemplars = Vec::new();
    for range in own.chain(of_buckets) {
        let exemplar = decode_exemplar(body, range.clone())?;
        if exemplar.timestamp_ms.is_some() {
            exemplars.push(exemplar);
        }
    }
    Ok(exemplars)
}
