//! The text formats: the lines of a target's previous scrape, and the reading of the next one
//! against them.
//!
//! **Layout.** An *entry* is one remembered line: for a sample, the bytes up to its value; for
//! HELP, TYPE and UNIT, the whole line. The bytes of all entries stand in an [`Arena`] in the order
//! they were first seen, shared with targets that say the same; an entry is 12 bytes beside them, its
//! place in the order of the last scrape 4, and a mark of the last scrape that had it 1. There is no
//! string and no hash a series. After a few steady scrapes the memory *rests*: entries and order are one
//! with those of targets that have the same lines, and marks are not needed.
//!
//! **Steady scrape.** The cursor walks the order of the last scrape. The line at the cursor is
//! compared with the body (one memcmp); when it is the same, the value behind it is parsed and the
//! entry's column is put out.
//!
//! **Disturbed scrape.** When the comparison fails, the next few entries are tried (series have
//! gone), then the line is parsed in full and its bytes are looked up in a hash table of all
//! entries, built at that moment (lines have moved, or come back), and only then it is a new entry
//! with a new column. The table is dropped after the first scrape that did not need it.
//!
//! **Bounds.** Entries not seen in the last scrape stay, so that a series that comes and goes
//! keeps its column, until they outnumber the living; then they are dropped and their columns
//! given back ([`ScrapedRow::retired_columns`]). A refused scrape leaves nothing behind.

use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashTable;
use model::labels::{BUCKET_LABEL, QUANTILE_LABEL};
use model::{Labels, Metadata, MetricType};
use stdx::intern::List;
use xxhash_rust::xxh3::xxh3_64;

use super::super::line::{
    Dialect, LineReader, MetaKind, MetaLine, Problem, RawSeries, make_labels, metric_type, normalised,
    unescaped,
};
use super::super::nhcb::classic_part;
use super::super::row::{ScrapedExemplar, ScrapedRow};
use super::arena::{Arena, Line, SharedText};
use super::entry::{ENTRY_BYTES_MAX, Entry, EntryKind, InForce, family_of};
use super::{ColumnNumbers, CreatedLines, DEAD_ENTRIES_MIN, RowOptions};

/// How many entries behind the cursor are tried before a line is parsed in full.
const LOOK_AHEAD: usize = 8;
/// Steady scrapes after which a memory rests.
const STEADY_MIN: u8 = 4;
/// The suffix of OpenMetrics' start timestamps.
const CREATED_SUFFIX: &str = "_created";

/// What a target's last scrape in a text format looked like.
#[derive(Debug, Default)]
pub(super) struct TextMemory {
    /// The bytes of all entries.
    text: Arena,
    entries: List<Entry>,
    /// The scrape that last had each entry; [`RowMemory::scrape`] counts. Empty while the memory rests: all
    /// entries in `order` were in the last scrape that was taken.
    seen: Vec<u8>,
    /// Entries in the order of the last scrape that was taken.
    order: List<u32>,
    /// Scrapes that were the same as the one before, up to [`STEADY_MIN`]; then the memory rests.
    steady: u8,
    /// All entries by their bytes, while scrapes are disturbed.
    table: Option<HashTable<u32>>,
    /// The running scrape, 1 to 255; 0 marks "long ago".
    scrape: u8,
    /// The last scrape that was taken.
    taken: u8,
    /// Whether the last row had every entry once.
    plain: bool,
    dialect: Dialect,
    options: RowOptions,
    raw: RawSeries,
    /// Columns the last scrape added that are parts of classic histograms; kept only where these
    /// are converted.
    pub(super) new_parts: Vec<u32>,
}

/// The state of one reading.
struct Scan<'a> {
    body: &'a [u8],
    pos: usize,
    dialect: Dialect,
    /// Where in `order` the next line is expected.
    cursor: usize,
    /// What the last TYPE line said.
    in_force: InForce<'a>,
    /// The order of this scrape, once it differs from `order`.
    disturbed: Option<Vec<u32>>,
    /// The order's length when it was last touched off the steady path.
    disturbed_at: usize,
    /// Where each entry stands in `order`; made when first needed.
    positions: Vec<u32>,
    needed_table: bool,
    /// Metadata entries that the last scrape did not have.
    changed: Vec<u32>,
}

/// What to return to when a scrape is refused.
struct Mark {
    entries: usize,
    text: usize,
    columns: u32,
}

impl TextMemory {
    pub(super) fn new(dialect: Dialect, options: RowOptions, shared: SharedText) -> TextMemory {
        TextMemory { dialect, options, text: Arena::new(shared), ..TextMemory::default() }
    }

    /// Reads one exposition into `row`, which is empty, and remembers its lines. When it fails, the
    /// memory stands as before and the row is of no use.
    pub(super) fn read(
        &mut self,
        body: &[u8],
        numbers: &mut ColumnNumbers,
        row: &mut ScrapedRow,
    ) -> Result<(), Problem> {
        self.begin_scrape();
        self.new_parts.clear();
        let mark = Mark { entries: self.entries.len(), text: self.text.tail_len(), columns: numbers.bound() };
        let mut scan = Scan {
            body,
            pos: 0,
            dialect: self.dialect,
            cursor: 0,
            in_force: InForce::default(),
            disturbed: None,
            disturbed_at: 0,
            positions: Vec::new(),
            needed_table: false,
            changed: Vec::new(),
        };
        match self.read_lines(&mut scan, numbers, row) {
            Ok(()) => {
                self.end_scrape(scan, numbers, row);
                Ok(())
            }
            Err(problem) => {
                self.roll_back(&mark, numbers);
                Err(problem)
            }
        }
    }

    /// Type, unit and help of every family of the last scrape, by name.
    pub(super) fn metadata(&self) -> Vec<(String, Metadata)> {
        self.families(|_| true)
    }

    /// Calls `each` with every column of the last scrape and its labels as the exposition gives
    /// them. For when series have to be resolved again; parses every line.
    pub(super) fn each_series(&self, mut each: impl FnMut(u32, Labels)) {
        let mut raw = RawSeries::default();
        for entry in self.order.iter().map(|&id| self.entries[id as usize]) {
            if entry.kind().is_sample()
                && let Some(labels) = self.labels_of_entry(entry, &mut raw)
            {
                each(entry.column, labels);
            }
        }
    }

    /// Memory held, bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.text.heap_bytes()
            + self.entries.heap_bytes()
            + self.seen.capacity()
            + self.order.heap_bytes()
            + self.table.as_ref().map_or(0, |table| table.allocation_size())
    }

    pub(super) fn all_columns(&self) -> Vec<u32> {
        self.entries.iter().filter(|entry| entry.kind().is_sample()).map(|entry| entry.column).collect()
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

    fn read_lines(
        &mut self,
        scan: &mut Scan<'_>,
        numbers: &mut ColumnNumbers,
        row: &mut ScrapedRow,
    ) -> Result<(), Problem> {
        while scan.pos < scan.body.len() {
            if let Some(&id) = self.order.get(scan.cursor)
                && let Some(after) = self.matches(id, scan, scan.pos)
            {
                scan.cursor += 1;
                self.take(id, after, scan, row)?;
            } else if self.read_unexpected(scan, numbers, row)? {
                return Ok(());
            }
        }
        match scan.dialect {
            Dialect::Prometheus => Ok(()),
            Dialect::OpenMetrics => {
                Err(Problem::new(scan.body.len(), "expected \"# EOF\", got the end of the data"))
            }
        }
    }

    /// Where the entry's line goes on, if the body has it at `pos`.
    #[inline]
    fn matches(&self, id: u32, scan: &Scan<'_>, pos: usize) -> Option<usize> {
        let entry = self.entries[id as usize];
        let text = entry.text(&self.text);
        let after = pos + text.len();
        if scan.body.get(pos..after)? != text {
            return None;
        }
        if entry.kind().is_meta() {
            matches!(scan.body.get(after), None | Some(b'\n')).then_some(after)
        } else {
            // Blanks that were not there before belong to the name's end, and labels may follow them: only a whole
            // reading knows it.
            let goes_on = matches!(scan.body.get(after), Some(b' ' | b'\t' | b'{'));
            (!goes_on && entry.fits(text, &scan.in_force)).then_some(after)
        }
    }

    /// Takes the line of a known entry; `after` is where the value starts (the line break, for metadata).
    #[inline]
    fn take(
        &mut self,
        id: u32,
        after: usize,
        scan: &mut Scan<'_>,
        row: &mut ScrapedRow,
    ) -> Result<(), Problem> {
        let entry = self.entries[id as usize];
        let seen = match self.seen.get_mut(id as usize) {
            Some(seen) => std::mem::replace(seen, self.scrape),
            None => self.taken, // the memory rests
        };
        if let Some(order) = &mut scan.disturbed {
            order.push(id);
        }
        match entry.kind() {
            kind if kind.is_sample() => {
                let tail = LineReader::at(scan.body, after, scan.dialect).tail()?;
                scan.pos = tail.next;
                if seen == self.scrape {
                    if tail.timestamp.is_none() {
                        row.duplicates += 1;
                        return Ok(());
                    }
                    row.has_repeats = true;
                }
                let cell = row.values.len() as u32;
                row.columns.push(entry.column);
                row.values.push(tail.value);
                if let Some(timestamp) = tail.timestamp {
                    row.timestamps.push((cell, timestamp));
                }
                if let Some(exemplar) = tail.exemplar {
                    let (labels, value) = (exemplar.labels, exemplar.value);
                    row.exemplars
                        .push((cell, ScrapedExemplar { labels, value, timestamp_ms: exemplar.timestamp }));
                }
            }
            EntryKind::Created => {
                let tail = LineReader::at(scan.body, after, scan.dialect).tail()?;
                scan.pos = tail.next;
                self.take_created(id, tail.value, scan, row);
            }
            kind => {
                scan.pos = after + 1;
                if kind == EntryKind::Type {
                    scan.in_force = InForce { metric_type: entry.metric_type(), family: b"" };
                    if self.options.convert_classic {
                        scan.in_force.family = family_of(&scan.body[after - entry.len()..], scan.dialect);
                    }
                }
                if seen != self.scrape && (seen == 0 || seen != self.taken) {
                    scan.changed.push(id);
                }
            }
        }
        Ok(())
    }

    /// Reads a line that does not stand at the cursor. True at `# EOF`.
    #[cold]
    fn read_unexpected(
        &mut self,
        scan: &mut Scan<'_>,
        numbers: &mut ColumnNumbers,
        row: &mut ScrapedRow,
    ) -> Result<bool, Problem> {
        let mut reader = LineReader::at(scan.body, scan.pos, scan.dialect);
        reader.skip_blanks();
        let start = reader.pos;
        match scan.body.get(start) {
            None => {
                scan.pos = start;
                return Ok(false);
            }
            Some(b'\n') if scan.dialect == Dialect::Prometheus => {
                scan.pos = start + 1;
                return Ok(false);
            }
            _ => {}
        }
        for ahead in 0..=LOOK_AHEAD {
            let Some(&id) = self.order.get(scan.cursor + ahead) else { break };
            if let Some(after) = self.matches(id, scan, start) {
                if ahead > 0 {
                    self.disturb(scan);
                }
                scan.cursor += ahead + 1;
                self.take(id, after, scan, row)?;
                return Ok(false);
            }
        }
        if scan.body[start] == b'#' {
            return self.read_meta(reader, scan, row);
        }
        reader.series(&mut self.raw)?;
        let after = reader.pos;
        let metric_type = scan.in_force.metric_type;
        let kind = self.kind_of_series(scan);
        let id = match self.find(scan, start..after) {
            Some(id) => id,
            None => {
                let labels =
                    make_labels(scan.body, start, Some(&self.raw.name), &self.raw.labels, metric_type)?;
                let mut column = 0;
                if kind.is_sample() {
                    column = numbers.take();
                    if kind == EntryKind::Part {
                        self.new_parts.push(column);
                    }
                    row.new_columns.push((column, labels));
                }
                self.remember(scan, start..after, kind, metric_type, column)?
            }
        };
        self.take(id, after, scan, row)?;
        Ok(false)
    }

    /// Reads a line that begins with `#`. True at `# EOF`.
    fn read_meta(
        &mut self,
        mut reader: LineReader<'_>,
        scan: &mut Scan<'_>,
        row: &mut ScrapedRow,
    ) -> Result<bool, Problem> {
        let start = reader.pos;
        let (kind, text) = match reader.meta()? {
            MetaLine::Comment => {
                scan.pos = (reader.pos + 1).min(scan.body.len());
                return Ok(false);
            }
            MetaLine::Eof => {
                scan.pos = (reader.pos + 1).min(scan.body.len());
                if scan.pos < scan.body.len() {
                    return Err(Problem::new(scan.pos, "unexpected data after # EOF"));
                }
                return Ok(true);
            }
            MetaLine::Meta { kind, text, .. } => (kind, text),
        };
        let line = start..reader.pos;
        let (kind, stated) = match kind {
            MetaKind::Help => (EntryKind::Help, MetricType::Unknown),
            MetaKind::Unit => (EntryKind::Unit, MetricType::Unknown),
            MetaKind::Type => {
                let stated =
                    metric_type(&unescaped(scan.body, text, false), scan.dialect).unwrap_or_default();
                (EntryKind::Type, stated)
            }
        };
        let id = match self.find(scan, line.clone()) {
            Some(id) => id,
            None => self.remember(scan, line.clone(), kind, stated, 0)?,
        };
        self.take(id, line.end, scan, row)?;
        Ok(false)
    }

    /// Finds a line among all entries, and moves the cursor behind it.
    fn find(&mut self, scan: &mut Scan<'_>, line: Range<usize>) -> Option<u32> {
        self.disturb(scan);
        scan.needed_table = true;
        let (entries, text) = (&self.entries, &self.text);
        let bytes = &scan.body[line];
        let hash_of = |id: &u32| xxh3_64(entries[*id as usize].text(text));
        let table = self.table.get_or_insert_with(|| {
            let mut table = HashTable::with_capacity(entries.len() + 1);
            for id in 0..entries.len() as u32 {
                table.insert_unique(hash_of(&id), id, hash_of);
            }
            table
        });
        let is_it = |id: &u32| {
            let entry = entries[*id as usize];
            entry.text(text) == bytes && (entry.kind().is_meta() || entry.fits(bytes, &scan.in_force))
        };
        let id = *table.find(xxh3_64(bytes), is_it)?;
        if scan.positions.is_empty() {
            scan.positions = vec![u32::MAX; self.entries.len()];
            for (position, &id) in self.order.iter().enumerate() {
                scan.positions[id as usize] = position as u32;
            }
        }
        if let Some(&position) = scan.positions.get(id as usize).filter(|position| **position != u32::MAX) {
            scan.cursor = position as usize + 1;
        }
        Some(id)
    }

    /// Makes a new entry.
    fn remember(
        &mut self,
        scan: &Scan<'_>,
        line: Range<usize>,
        kind: EntryKind,
        metric_type: MetricType,
        column: u32,
    ) -> Result<u32, Problem> {
        if line.len() > ENTRY_BYTES_MAX {
            return Err(Problem::new(line.start, "the line is longer than 64 MiB"));
        }
        if !self.text.has_room(line.len()) {
            return Err(Problem::new(
                line.start,
                "the target's lines take more than 512 MiB without their values",
            ));
        }
        let start = self.text.push(&scan.body[line.clone()]);
        let id = self.entries.len() as u32;
        let entry = Entry::new(start, line.len(), kind, metric_type, column);
        self.entries.to_mut().push(entry);
        self.seen.push(0);
        let (entries, text) = (&self.entries, &self.text);
        let hash_of = |id: &u32| xxh3_64(entries[*id as usize].text(text));
        if let Some(table) = &mut self.table {
            table.insert_unique(hash_of(&id), id, hash_of);
        }
        Ok(id)
    }

    /// From here on this scrape keeps its own order.
    fn disturb(&mut self, scan: &mut Scan<'_>) {
        self.wake(scan.cursor);
        let order = scan.disturbed.get_or_insert_with(|| self.order[..scan.cursor].to_vec());
        scan.disturbed_at = order.len();
    }

    /// Ends its rest: marks entries again, the first `cursor` of the order as seen in this scrape.
    fn wake(&mut self, cursor: usize) {
        if self.steady < STEADY_MIN {
            return;
        }
        self.steady = 0;
        self.seen = vec![0; self.entries.len()];
        for (place, &id) in self.order.iter().enumerate() {
            self.seen[id as usize] = if place < cursor { self.scrape } else { self.taken };
        }
    }

    /// The scrape was the same as the one before.
    fn grow_steady(&mut self) {
        if self.steady == STEADY_MIN {
            return;
        }
        self.steady += 1;
        if self.steady == STEADY_MIN {
            let shared = self.text.shared();
            self.entries.rest(&shared.entries);
            self.order.rest(&shared.orders);
            self.seen = Vec::new();
        }
    }

    /// What the series in `raw` is: the start timestamp of its metric, or a sample.
    fn kind_of_series(&self, scan: &Scan<'_>) -> EntryKind {
        if scan.dialect == Dialect::OpenMetrics
            && self.options.created == CreatedLines::StartTimestamps
            && scan.body[self.raw.name.clone()].ends_with(CREATED_SUFFIX.as_bytes())
        {
            return match scan.in_force.metric_type {
                MetricType::Counter | MetricType::Histogram | MetricType::Summary => EntryKind::Created,
                _ => EntryKind::TypedSample,
            };
        }
        let hangs_on_type = |(name, value): &(Range<usize>, Range<usize>)| {
            let name = &scan.body[name.clone()];
            (name == BUCKET_LABEL.as_bytes() || name == QUANTILE_LABEL.as_bytes())
                && normalised(&scan.body[value.clone()]).is_some()
        };
        if self.options.convert_classic && self.is_named_like_part(scan) {
            let is_part = scan.in_force.has_part(&scan.body[self.raw.name.clone()]);
            if is_part { EntryKind::Part } else { EntryKind::NoPart }
        } else if self.raw.labels.iter().any(hangs_on_type) {
            EntryKind::TypedSample
        } else {
            EntryKind::Sample
        }
    }

    fn is_named_like_part(&self, scan: &Scan<'_>) -> bool {
        std::str::from_utf8(&scan.body[self.raw.name.clone()]).ok().and_then(classic_part).is_some()
    }

    /// Gives the start timestamp to the lines of the same metric just before this one.
    fn take_created(&mut self, id: u32, seconds: f64, scan: &Scan<'_>, row: &mut ScrapedRow) {
        let order = match &scan.disturbed {
            Some(order) => &order[..order.len() - 1],
            None => &self.order[..scan.cursor - 1],
        };
        let known = self.entries[id as usize].column as usize;
        let is_steady = known > 0
            && known <= order.len()
            && (scan.disturbed.is_none() || scan.disturbed_at < order.len() - known);
        let lines = if is_steady { known } else { self.lines_of_metric(id, order) };
        if seconds.is_finite() {
            let timestamp_ms = (seconds * 1000.0) as i64;
            for &line in &order[order.len() - lines..] {
                row.start_timestamps.push((self.entries[line as usize].column, timestamp_ms));
            }
        }
        if lines != known {
            self.entries.to_mut()[id as usize].column = lines as u32;
        }
    }

    /// How many lines at the end of `order` are samples of the metric whose `_created` line is `id`.
    fn lines_of_metric(&self, id: u32, order: &[u32]) -> usize {
        let mut raw = RawSeries::default();
        let created = self.entries[id as usize];
        let metric_type = created.metric_type();
        let Some(created) = self.metric_of(created, metric_type, &mut raw) else { return 0 };
        let of_metric = |line: &&u32| {
            let entry = self.entries[**line as usize];
            entry.kind().is_sample() && self.metric_of(entry, metric_type, &mut raw) == Some(created.clone())
        };
        order.iter().rev().take_while(of_metric).count()
    }

    /// The metric (name without suffix, labels without `le` and `quantile`) a line belongs to.
    fn metric_of(
        &self,
        entry: Entry,
        metric_type: MetricType,
        raw: &mut RawSeries,
    ) -> Option<(String, Labels)> {
        let labels = self.labels_of_entry(entry, raw)?;
        let suffixes: &[&str] = match metric_type {
            MetricType::Counter => &[CREATED_SUFFIX, "_total"],
            MetricType::Histogram => &[CREATED_SUFFIX, "_bucket", "_count", "_sum"],
            _ => &[CREATED_SUFFIX, "_count", "_sum"],
        };
        let name = labels.metric_name();
        let base = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned();
        let of_point = match metric_type {
            MetricType::Histogram => BUCKET_LABEL,
            MetricType::Summary => QUANTILE_LABEL,
            _ => "",
        };
        Some((base, labels.without(|name| name == model::labels::METRIC_NAME || name == of_point)))
    }

    fn labels_of_entry(&self, entry: Entry, raw: &mut RawSeries) -> Option<Labels> {
        // A value stands in for the one that is not remembered. What is a series in OpenMetrics is
        // the same series in the Prometheus format.
        let mut line = entry.text(&self.text).to_vec();
        line.push(b'0');
        LineReader::at(&line, 0, Dialect::Prometheus).series(raw).ok()?;
        make_labels(&line, 0, Some(&raw.name), &raw.labels, entry.metric_type()).ok()
    }

    /// Takes a scrape that was read to its end.
    fn end_scrape(&mut self, scan: Scan<'_>, numbers: &mut ColumnNumbers, row: &mut ScrapedRow) {
        let whole = scan.cursor == self.order.len() && scan.disturbed.is_none();
        if !whole {
            self.wake(scan.cursor);
            let order = scan.disturbed.unwrap_or_else(|| self.order[..scan.cursor].to_vec());
            self.order = order.into();
        }
        let plain = row.duplicates == 0 && !row.has_repeats;
        row.same_columns = whole && plain && self.plain;
        self.plain = plain;
        self.taken = self.scrape;
        if !scan.needed_table {
            self.table = None;
        }
        if !scan.changed.is_empty() {
            row.metadata = self.changed_families(&scan.changed);
        }
        if !whole {
            self.steady = 0;
            self.drop_dead(numbers, row);
            self.share_text();
            self.shrink();
        } else if row.same_columns {
            self.grow_steady();
        }
    }

    /// Moves new lines to where other targets have theirs, once there are enough of them.
    fn share_text(&mut self) {
        if !self.text.is_full() {
            return;
        }
        let sealed = self.entries.partition_point(|entry| !Arena::is_tail(entry.start));
        let entries = &mut self.entries.to_mut()[sealed..];
        self.text.seal(entries.iter_mut().map(|entry| {
            let (len, is_meta) = (entry.len(), entry.kind().is_meta());
            Line { start: &mut entry.start, len, is_meta }
        }));
    }

    /// Gives back what growing by doubling took too much.
    fn shrink(&mut self) {
        let entries = self.entries.len() + self.entries.len() / 8;
        self.text.shrink();
        self.entries.to_mut().shrink_to(entries);
        self.seen.shrink_to(entries);
        self.order.to_mut().shrink_to(entries);
    }

    fn roll_back(&mut self, mark: &Mark, numbers: &mut ColumnNumbers) {
        let added = self.entries[mark.entries..].iter().rev();
        numbers.undo(mark.columns, added.filter(|entry| entry.kind().is_sample()).map(|entry| entry.column));
        if self.entries.len() > mark.entries {
            self.table = None;
            self.entries.to_mut().truncate(mark.entries);
        }
        self.seen.truncate(mark.entries);
        self.text.truncate(mark.text);
    }

    /// Drops the entries this scrape did not have, once they outnumber the others.
    fn drop_dead(&mut self, numbers: &mut ColumnNumbers, row: &mut ScrapedRow) {
        let alive = self.seen.iter().filter(|seen| **seen == self.scrape).count();
        if self.entries.len() - alive <= alive.max(DEAD_ENTRIES_MIN) {
            return;
        }
        let living = self.entries.iter().zip(&self.seen).filter(|(_, seen)| **seen == self.scrape);
        let mut text = self.text.empty_again();
        if !text.has_room(living.map(|(entry, _)| entry.len()).sum()) {
            return;
        }
        let mut moved = vec![u32::MAX; self.entries.len()];
        let mut entries: Vec<Entry> = Vec::with_capacity(alive);
        for id in self.order.to_mut() {
            let to = &mut moved[*id as usize];
            if *to == u32::MAX {
                *to = entries.len() as u32;
                let entry = self.entries[*id as usize];
                let start = text.push(entry.text(&self.text));
                entries.push(entry.at(start));
            }
            *id = *to;
        }
        for (entry, _) in self.entries.iter().zip(&moved).filter(|(_, to)| **to == u32::MAX) {
            if entry.kind().is_sample() {
                row.retired_columns.push(entry.column);
                numbers.give(entry.column);
            }
        }
        self.seen = vec![self.scrape; entries.len()];
        self.entries = entries.into();
        self.text = text;
        self.table = None;
    }

    fn changed_families(&self, changed: &[u32]) -> Vec<(String, Metadata)> {
        let mut names: Vec<String> =
            changed.iter().filter_map(|&id| self.family_of(self.entries[id as usize])).collect();
        names.sort_unstable();
        names.dedup();
        self.families(|family| names.binary_search_by(|name| name.as_str().cmp(family)).is_ok())
    }

    fn family_of(&self, entry: Entry) -> Option<String> {
        self.meta_of(entry).map(|(_, family, _)| family)
    }

    fn meta_of(&self, entry: Entry) -> Option<(MetaKind, String, String)> {
        let mut line = entry.text(&self.text).to_vec();
        line.push(b'\n');
        let dialect = self.dialect;
        match LineReader::at(&line, 0, dialect).meta().ok()? {
            MetaLine::Meta { kind, family, text } => {
                let quotes = dialect == Dialect::OpenMetrics;
                Some((
                    kind,
                    unescaped(&line, family, true).into_owned(),
                    unescaped(&line, text, quotes).into_owned(),
                ))
            }
            MetaLine::Comment | MetaLine::Eof => None,
        }
    }

    /// The metadata of the last scrape's families that `wanted` accepts, by name.
    fn families(&self, wanted: impl Fn(&str) -> bool) -> Vec<(String, Metadata)> {
        let mut families: BTreeMap<String, Metadata> = BTreeMap::new();
        for entry in self.order.iter().map(|&id| self.entries[id as usize]) {
            if !entry.kind().is_meta() {
                continue;
            }
            let Some((kind, family, text)) = self.meta_of(entry).filter(|(_, family, _)| wanted(family))
            else {
                continue;
            };
            let metadata = families.entry(family).or_default();
            match kind {
                MetaKind::Help => metadata.help = text,
                MetaKind::Unit => metadata.unit = text,
                MetaKind::Type => metadata.metric_type = entry.metric_type(),
            }
        }
        families.into_iter().collect()
    }
}
