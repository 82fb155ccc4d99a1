//! Reading a part.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;

use model::{Histogram, Labels, Matcher, Metadata};
use roaring::RoaringBitmap;
use stdx::bytes::Cursor;
use stdx::disk::Disk;
use storage::Column;

use super::cache::Kind;
use super::chunks::ChunkIndex;
use super::columns::{Columns, RowsOf};
use super::directory::{
    BLOCK_ROWS, Block, Entry, Floats, HISTOGRAM_ROWS, HISTOGRAM_ROWS_V1, State, block_bounds,
};
use super::file::{PartFile, Stretch};
use super::histogram_columns::{decode_block, decode_rows};
use super::layout::{HISTOGRAMS_IN_COLUMNS, SectionId};
use super::postings::Postings;
use super::rows::LabelRows;
use super::symbols::Symbols;
use super::{Lazy, PartError, PartInfo};
use crate::codec::{CodecError, decode_values};
use crate::tombstone::{Deleted, Tombstone};

/// An open part: one file handle and what its small indexes say. Share it behind an `Arc`.
///
/// Everything beyond the table of contents is read when first asked for. Damage shows as
/// [`PartError::Corrupt`] from the call that needs the damaged page, and from no other.
#[derive(Debug)]
pub struct Part {
    file: PartFile,
    info: PartInfo,
    symbols: Symbols,
    rows: LabelRows,
    postings: Postings,
    directory: Lazy<ChunkIndex>,
    times: Columns,
    starts: Columns,
}

/// A value block to fetch.
pub(super) struct Wanted {
    /// Position in the output.
    column: usize,
    /// First value of the output that it fills.
    to: usize,
    /// Rows in the block.
    count: usize,
    /// Rows of the block that are wanted.
    rows: Range<usize>,
}

impl Wanted {
    /// The rows of the output that it fills.
    pub(super) fn fills(&self) -> Range<usize> {
        self.to..self.to + self.rows.len()
    }
}

/// The rows of a series within the asked time.
#[derive(Debug, Clone)]
pub(crate) struct Clip {
    /// Rows, counted from the series' first.
    pub(super) rows: Range<usize>,
    pub(super) times: Arc<[i64]>,
}

/// The clipped rows of series that had the same ones, for one part and one range of time: by column of
/// times, first row and number of rows.
pub(crate) type Clips = HashMap<(u32, u32, u32), Clip, foldhash::fast::RandomState>;

/// Entries of a directory chunk from one mark to the next.
const MARK_ENTRIES: usize = 64;

/// A chunk of the directory, and where to start reading for entries in its middle.
struct MarkedChunk {
    raw: Vec<u8>,
    /// Before every [`MARK_ENTRIES`]th entry: bytes gone by, and the state.
    marks: Vec<(usize, State)>,
}

impl MarkedChunk {
    /// Marks `raw`, whose histogram blocks have `block_rows` rows, up to its end, or to where it cannot be
    /// read any further.
    fn new(raw: Vec<u8>, block_rows: usize) -> MarkedChunk {
        let mut marks = Vec::new();
        let mut reader = Cursor::new(&raw);
        if let Ok(mut state) = State::read(&mut reader, block_rows) {
            marks.push((reader.position(), state));
            let mut entries = 0;
            while reader.remaining() > 0 && state.read_entry(&mut reader).is_ok() {
                entries += 1;
                if entries % MARK_ENTRIES == 0 {
                    marks.push((reader.position(), state));
                }
            }
        }
        marks.shrink_to_fit();
        MarkedChunk { raw, marks }
    }

    fn bytes(&self) -> usize {
        self.raw.len() + self.marks.len() * size_of::<(usize, State)>()
    }

    /// What reads on at or before entry `entry`, and the number of the entry that comes next.
    fn from(&self, entry: usize) -> Result<(State, Cursor<'_>, u32), CodecError> {
        let mark = (entry / MARK_ENTRIES).min(self.marks.len().saturating_sub(1));
        let (at, state) = self.marks.get(mark).ok_or(CodecError::Truncated)?;
        Ok((*state, Cursor::new(&self.raw[*at..]), (mark * MARK_ENTRIES) as u32))
    }
}

impl Part {
    /// Opens the part at `path`: reads header, footer and table of contents.
    ///
    /// # Errors
    /// [`PartError::Unsupported`] for parts of newer versions, [`PartError::Corrupt`] when the frame is
    /// damaged, [`PartError::Io`].
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Part, PartError> {
        let (file, info) = PartFile::open(disk, path)?;
        Ok(Part {
            file,
            info,
            symbols: Symbols::default(),
            rows: LabelRows::default(),
            postings: Postings::default(),
            directory: Lazy::default(),
            times: Columns::new(SectionId::Times),
            starts: Columns::new(SectionId::Starts),
        })
    }

    /// What it holds.
    pub fn info(&self) -> &PartInfo {
        &self.info
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Bytes of each section, by the names of `docs/formats/part.md`.
    pub fn section_bytes(&self) -> Vec<(&'static str, u64)> {
        self.file.sections().iter().map(|s| (s.id.name(), s.len)).collect()
    }

    /// The series that satisfy all `matchers`, by number, which is part order; all without matchers.
    ///
    /// # Errors
    /// See [`Part`].
    pub fn select(&self, matchers: &[Matcher]) -> Result<RoaringBitmap, PartError> {
        if self.info.series == 0 {
            return Ok(RoaringBitmap::new());
        }
        self.postings.select(&self.file, &self.symbols, matchers, self.info.series)
    }

    /// The labels of one series.
    ///
    /// # Errors
    /// See [`Part`].
    pub fn labels(&self, series: u32) -> Result<Labels, PartError> {
        let mut out = Vec::with_capacity(1);
        self.labels_of(&[series], &mut out)?;
        Ok(out.pop().unwrap_or_default())
    }

    /// Appends the labels of `series` (numbers ascending).
    ///
    /// # Errors
    /// See [`Part`]; then `out` is as before.
    pub fn labels_of(&self, series: &[u32], out: &mut Vec<Labels>) -> Result<(), PartError> {
        if series.is_empty() {
            return Ok(());
        }
        let before = out.len();
        let read = self.rows.read(&self.file, &self.symbols, series, out);
        if read.is_err() {
            out.truncate(before);
        }
        read
    }

    /// The label names of the series that satisfy `matchers` (of all, without), sorted.
    ///
    /// # Errors
    /// See [`Part`].
    pub fn label_names(&self, matchers: &[Matcher]) -> Result<Vec<String>, PartError> {
        if self.info.series == 0 {
            return Ok(Vec::new());
        }
        let names = self.symbols.names(&self.file)?;
        if matchers.is_empty() {
            return Ok(names.iter().map(|n| n.name.to_string()).collect());
        }
        let set = self.select(matchers)?;
        let pairs = self.rows.pairs_of(&self.file, &self.symbols, &set, None)?;
        let used = names.iter().filter(|n| pairs.range_cardinality(n.pairs.clone()) > 0);
        Ok(used.map(|n| n.name.to_string()).collect())
    }

    /// The values of label `name` in the series that satisfy `matchers` (in all, without), sorted.
    ///
    /// # Errors
    /// See [`Part`].
    pub fn label_values(&self, name: &str, matchers: &[Matcher]) -> Result<Vec<String>, PartError> {
        let mut values = Vec::new();
        if self.info.series == 0 {
            return Ok(values);
        }
        let names = self.symbols.names(&self.file)?;
        let Ok(number) = names.binary_search_by(|n| (*n.name).cmp(name)) else { return Ok(values) };
        let all = names[number].pairs.clone();
        if matchers.is_empty() {
            self.symbols.visit(&self.file, all, |_, value| values.push(value.to_owned()))?;
            return Ok(values);
        }
        let set = self.select(matchers)?;
        let pairs = self.rows.pairs_of(&self.file, &self.symbols, &set, Some(number))?;
        for pair in pairs {
            self.symbols.visit(&self.file, pair..pair + 1, |_, value| values.push(value.to_owned()))?;
        }
        Ok(values)
    }

    /// Appends a column for each of `series` (numbers ascending), with the samples from `start_ms` to
    /// `end_ms`, both inclusive; empty for a series that has none there.
    ///
    /// Series of one source get the same `Arc` of times, also from one call to the next as long as it is
    /// cached.
    ///
    /// # Errors
    /// See [`Part`]; then `out` is as before.
    pub fn load(
        &self,
        series: &[u32],
        start_ms: i64,
        end_ms: i64,
        out: &mut Vec<Column>,
    ) -> Result<(), PartError> {
        self.load_with(&mut Clips::default(), series, start_ms..=end_ms, out)
    }

    /// As [`Part::load`], with what an earlier load of the same range has worked out.
    ///
    /// # Errors
    /// See [`Part`]; then `out` is as before.
    pub(crate) fn load_with(
        &self,
        clips: &mut Clips,
        series: &[u32],
        range: RangeInclusive<i64>,
        out: &mut Vec<Column>,
    ) -> Result<(), PartError> {
        let before = out.len();
        let loaded = self.load_into(clips, series, range, out);
        if loaded.is_err() {
            out.truncate(before);
        }
        loaded
    }

    fn load_into(
        &self,
        clips: &mut Clips,
        series: &[u32],
        range: RangeInclusive<i64>,
        out: &mut Vec<Column>,
    ) -> Result<(), PartError> {
        let (mut stretches, mut wanted) = (Vec::new(), Vec::new());
        let mut histograms = Vec::new();
        out.reserve(series.len());
        self.entries(series, |entry| {
            let mut column = Column::default();
            if let Some(floats) = &entry.floats {
                let clip = self.clip(floats.times, floats.rows, &range, clips)?;
                if !clip.rows.is_empty() {
                    column.times = clip.times.clone();
                    column.values = vec![0.0; clip.rows.len()];
                    plan_blocks(floats, &clip, out.len(), &mut column.values, &mut stretches, &mut wanted);
                    column.start_times = self.starts_of(floats.starts, &clip)?;
                }
            }
            if let Some(stored) = entry.histograms {
                let clip = self.clip(stored.times, stored.rows, &range, clips)?;
                if !clip.rows.is_empty() {
                    histograms.push((out.len(), stored, clip));
                }
            }
            out.push(column);
            Ok(())
        })?;
        self.fetch_values(&stretches, &wanted, out)?;
        for (at, stored, clip) in histograms {
            let wanted: Vec<_> = stored.wanted(&clip.rows).collect();
            self.fetch_histograms(&wanted, &clip, &mut out[at].histograms)?;
            out[at].histogram_starts = self.starts_of(stored.starts, &clip)?;
        }
        Ok(())
    }

    /// The start times of the clipped rows of a series.
    pub(super) fn starts_of(
        &self,
        starts: Option<RowsOf>,
        clip: &Clip,
    ) -> Result<Option<Arc<[i64]>>, PartError> {
        let Some(starts) = starts else { return Ok(None) };
        let first = starts.first as usize;
        let rows = first + clip.rows.start..first + clip.rows.end;
        self.starts.rows(&self.file, starts.column, rows).map(Some)
    }

    /// Hands the directory entry of each of `series` (ascending) to `visit`.
    pub(super) fn entries(
        &self,
        series: &[u32],
        mut visit: impl FnMut(Entry) -> Result<(), PartError>,
    ) -> Result<(), PartError> {
        let Some(&last) = series.last() else { return Ok(()) };
        let missing =
            |series| self.file.corrupt(SectionId::Directory, 0, format!("series {series} is missing"));
        if last >= self.info.series {
            return Err(missing(last));
        }
        let index = self.directory()?;
        let mut rest = series;
        while let Some(&first) = rest.first() {
            let at = index.find(first).ok_or_else(|| missing(first))?;
            let place = index.chunks()[at];
            let end = index.chunks().get(at + 1).map_or(u32::MAX, |next| next.first);
            let (here, later) = rest.split_at(rest.partition_point(|&s| s < end));
            rest = later;
            let chunk = self.file.cached(Kind::Directory, at as u64, 0, || {
                let block_rows =
                    if self.has_histogram_columns() { HISTOGRAM_ROWS } else { HISTOGRAM_ROWS_V1 };
                let chunk = MarkedChunk::new(index.load(&self.file, at)?, block_rows);
                let bytes = chunk.bytes();
                Ok((chunk, bytes))
            })?;
            let bad = self.file.undecodable(SectionId::Directory, place.offset);
            let (mut state, mut reader, mut next) =
                chunk.from((first - place.first) as usize).map_err(&bad)?;
            for &wanted in here {
                loop {
                    let entry = state.read_entry(&mut reader).map_err(&bad)?;
                    next += 1;
                    if next > wanted - place.first {
                        visit(entry)?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn directory(&self) -> Result<&ChunkIndex, PartError> {
        self.directory.get_or(|| Ok(ChunkIndex::read(&self.file, SectionId::Directory, |_| Ok(()))?.0))
    }

    /// The rows of a series within `range`; worked out once for all series of the same rows.
    pub(super) fn clip(
        &self,
        rows: RowsOf,
        count: u32,
        range: &RangeInclusive<i64>,
        clips: &mut Clips,
    ) -> Result<Clip, PartError> {
        let key = (rows.column, rows.first, count);
        if let Some(clip) = clips.get(&key) {
            return Ok(clip.clone());
        }
        let (first_ms, last_ms) = self.times.ends(&self.file, rows.column)?;
        let clip = if first_ms > *range.end() || last_ms < *range.start() {
            Clip { rows: 0..0, times: Arc::from([]) }
        } else {
            let whole = self.times.whole(&self.file, rows.column)?;
            let first = rows.first as usize;
            let own = whole.get(first..first + count as usize).ok_or_else(|| {
                self.file.corrupt(SectionId::Times, 0, format!("column {} is too short", rows.column))
            })?;
            let from = own.partition_point(|t| t < range.start());
            let to = own.partition_point(|t| t <= range.end()).max(from);
            let times = match to - from {
                0 => Arc::from([]),
                _ => self.times.rows(&self.file, rows.column, first + from..first + to)?,
            };
            Clip { rows: from..to, times }
        };
        clips.insert(key, clip.clone());
        Ok(clip)
    }

    pub(super) fn fetch_values(
        &self,
        stretches: &[Stretch],
        wanted: &[Wanted],
        out: &mut [Column],
    ) -> Result<(), PartError> {
        let mut values: Vec<f64> = Vec::with_capacity(BLOCK_ROWS);
        // Equal blocks are stored once and come one after the other here: decode them once.
        let mut decoded = (u64::MAX, 0, 0);
        self.file.read_all(SectionId::Values, stretches, |at, bytes| {
            let Wanted { column, to, count, rows } = &wanted[at];
            let (offset, len) = stretches[at];
            if decoded != (offset, len, *count) {
                values.clear();
                let bad = self.file.undecodable(SectionId::Values, offset);
                let used = decode_values(bytes, *count, &mut values).map_err(&bad)?;
                if used != bytes.len() {
                    return Err(bad(CodecError::Malformed("a block is shorter than the directory says")));
                }
                decoded = (offset, len, *count);
            }
            let values = &values[rows.clone()];
            out[*column].values[*to..*to + values.len()].copy_from_slice(values);
            Ok(())
        })
    }

    /// Appends the clipped histograms of blocks, each with the rows it has.
    pub(super) fn fetch_histograms(
        &self,
        blocks: &[(Stretch, Range<usize>)],
        clip: &Clip,
        out: &mut Vec<(i64, Arc<Histogram>)>,
    ) -> Result<(), PartError> {
        let (stretches, rows): (Vec<Stretch>, Vec<Range<usize>>) = blocks.iter().cloned().unzip();
        let in_columns = self.has_histogram_columns();
        self.file.read_all(SectionId::Histograms, &stretches, |at, bytes| {
            let rows = &rows[at];
            let from = clip.rows.start.max(rows.start);
            let wanted = from - rows.start..clip.rows.end.min(rows.end).max(from) - rows.start;
            let take = |row: usize, histogram| {
                out.push((clip.times[rows.start + row - clip.rows.start], Arc::new(histogram)));
            };
            let decoded = if in_columns {
                decode_block(bytes, rows.len(), wanted, take)
            } else {
                decode_rows(&mut Cursor::new(bytes), rows.len(), wanted, take)
            };
            decoded.map_err(self.file.undecodable(SectionId::Histograms, stretches[at].0))
        })
    }

    /// Whether histogram blocks have a column for each bucket, as they have since version 2 of HST.
    fn has_histogram_columns(&self) -> bool {
        let section = self.file.section(SectionId::Histograms);
        section.is_none_or(|section| section.version >= HISTOGRAMS_IN_COLUMNS)
    }

    /// What metric families say of themselves, by name, sorted; each with every distinct statement.
    ///
    /// # Errors
    /// See [`Part`].
    pub fn metadata(&self) -> Result<Vec<(String, Vec<Metadata>)>, PartError> {
        let mut out = Vec::new();
        if self.file.section(SectionId::Metadata).is_none() {
            return Ok(out);
        }
        let (index, ()) = ChunkIndex::read(&self.file, SectionId::Metadata, |_| Ok(()))?;
        for (at, chunk) in index.chunks().iter().enumerate() {
            let raw = index.load(&self.file, at)?;
            read_metadata(&raw, &mut out)
                .map_err(self.file.undecodable(SectionId::Metadata, chunk.offset))?;
        }
        Ok(out)
    }

    /// What `tombstones` delete here: series that lose something, by number, ascending.
    ///
    /// # Errors
    /// See [`Part`].
    pub fn resolve(&self, tombstones: &[Tombstone]) -> Result<Vec<(u32, Deleted)>, PartError> {
        let mut by_series: std::collections::BTreeMap<u32, Deleted> = Default::default();
        for tombstone in tombstones {
            let applies = self.info.spec.wal_first <= tombstone.position;
            if applies && self.info.overlaps(tombstone.start_ms, tombstone.end_ms) {
                for series in self.select(&tombstone.matchers)? {
                    by_series.entry(series).or_default().add(tombstone.start_ms, tombstone.end_ms);
                }
            }
        }
        Ok(by_series.into_iter().collect())
    }

    /// Reads, checks and decodes everything, and gives the damage found, the first thousand places of
    /// series at most; none for a sound part.
    pub fn verify(&self) -> Vec<PartError> {
        let mut found = Vec::new();
        for section in self.file.sections() {
            let mut at = 0;
            while at < section.len {
                let len = (section.len - at).min(super::layout::PAGE as u64);
                found.extend(self.file.read(section.id, at, len as usize).err());
                at += len;
            }
        }
        if self.info.series == 0 {
            return found;
        }
        self.symbols.verify(&self.file, |error| found.push(error));
        let pairs = self.symbols.names(&self.file).map(|names| names.last().map_or(0..0, |n| 0..n.pairs.end));
        if let Ok(pairs) = pairs {
            self.postings.verify(&self.file, pairs, self.info.series, |error| found.push(error));
        }
        self.times.verify(&self.file, |error| found.push(error));
        self.starts.verify(&self.file, |error| found.push(error));
        found.extend(self.metadata().err());
        let (mut labels, mut columns) = (Vec::new(), Vec::new());
        for first in (0..self.info.series).step_by(256) {
            // A damaged count of series may be any number.
            if found.len() >= DAMAGE_NAMED_MAX {
                break;
            }
            let series: Vec<u32> = (first..self.info.series.min(first.saturating_add(256))).collect();
            labels.clear();
            columns.clear();
            found.extend(self.labels_of(&series, &mut labels).err());
            if self.load(&series, i64::MIN, i64::MAX, &mut columns).is_err() {
                // One by one, to name them all.
                let one = |&series: &u32| self.load(&[series], i64::MIN, i64::MAX, &mut columns).err();
                found.extend(series.iter().filter_map(one));
            }
        }
        found
    }
}

/// [`Part::verify`] goes on to the next series until it has found so much.
pub(super) const DAMAGE_NAMED_MAX: usize = 1000;

/// Fills `values` with the constant blocks of the clipped rows and notes the stored ones.
pub(super) fn plan_blocks(
    floats: &Floats,
    clip: &Clip,
    column: usize,
    values: &mut [f64],
    stretches: &mut Vec<Stretch>,
    wanted: &mut Vec<Wanted>,
) {
    for (block, rows) in floats.blocks.iter().zip(block_bounds(floats.rows as usize, BLOCK_ROWS)) {
        let from = rows.start.max(clip.rows.start);
        let to = rows.end.min(clip.rows.end);
        if from >= to {
            continue;
        }
        let at = from - clip.rows.start;
        match *block {
            Block::Const(value) => values[at..at + (to - from)].fill(value),
            Block::Stored { offset, len } => {
                stretches.push((offset, len));
                wanted.push(Wanted {
                    column,
                    to: at,
                    count: rows.len(),
                    rows: from - rows.start..to - rows.start,
                });
            }
        }
    }
}

fn read_metadata(raw: &[u8], out: &mut Vec<(String, Vec<Metadata>)>) -> Result<(), CodecError> {
    let mut reader = Cursor::new(raw);
    while reader.remaining() > 0 {
        let metric = reader.text()?.to_owned();
        let count = reader.at_most(reader.remaining() / 3)?;
        let mut statements = Vec::with_capacity(count);
        for _ in 0..count {
            let metric_type = super::type_of(reader.byte()?);
            let (unit, help) = (reader.text()?.to_owned(), reader.text()?.to_owned());
            statements.push(Metadata { metric_type, unit, help });
        }
        out.push((metric, statements));
    }
    Ok(())
}
