//! Writing a part.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Histogram, Labels, Metadata};
use smallvec::SmallVec;
use stdx::bytes::{put_text, put_varint};
use stdx::disk::Disk;
use storage::Column;

use super::chunks::{CHUNK_BYTES, ChunkWriter};
use super::columns::ColumnsWriter;
use super::directory::{BLOCK_ROWS, Block, Entry, Floats, HISTOGRAM_ROWS, Histograms, State, block_bounds};
use super::histogram_columns::encode_block;
use super::labels::LabelsWriter;
use super::layout::{
    DIRECTORY_WITH_HISTOGRAM_STARTS, FIRST_VERSION, HISTOGRAMS_IN_COLUMNS, SectionId, encode_footer,
    encode_header, encode_toc,
};
use super::sections::{SectionsWriter, Spool};
use super::{PartError, PartInfo, PartSpec, file_name, part_order};
use crate::codec::{encode_values, is_const};

/// Stored blocks remembered to store equal ones once.
const REMEMBERED_BLOCKS: usize = 1 << 19;
/// Metadata in a chunk.
const METADATA_CHUNK: usize = 64 * 1024;

/// Writes a part, series by series, in part order. Values go to the disk as they come; the directory,
/// labels and distinct time columns stay in memory (compressed, or in a spool file) until the end.
///
/// Dropped before [`PartWriter::finish`] it removes its temporary files; after a crash they may remain,
/// named `*.tmp`, which nothing takes for a part.
#[derive(Debug)]
pub struct PartWriter<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    info: PartInfo,
    out: Option<SectionsWriter>,
    last: Option<Labels>,
    labels: LabelsWriter,
    times: Option<ColumnsWriter<'a>>,
    starts: Option<ColumnsWriter<'a>>,
    histograms: Option<Spool<'a>>,
    directory: DirectoryWriter,
    values: ValuesWriter,
    metadata: BTreeMap<String, Vec<Metadata>>,
    scratch: Vec<u8>,
}

/// Directory entries, in chunks.
#[derive(Debug, Default)]
struct DirectoryWriter {
    chunks: ChunkWriter,
    raw: Vec<u8>,
    first: u32,
    state: State,
    has_histogram_starts: bool,
}

/// The end of VAL, and what is there.
#[derive(Debug, Default)]
struct ValuesWriter {
    len: u64,
    seen: HashMap<u128, (u64, u32), foldhash::fast::RandomState>,
    bits: Vec<u8>,
    block: Vec<u8>,
}

const SPOOLS: [&str; 3] = ["tsc", "stc", "hst"];

impl<'a> PartWriter<'a> {
    /// Starts a part in `dir`, which must exist, under a temporary name.
    ///
    /// # Errors
    /// [`PartError::Io`]: the disk refuses; a file of the same id exists.
    pub fn create(disk: &'a dyn Disk, dir: &Path, spec: PartSpec) -> Result<PartWriter<'a>, PartError> {
        let spool = |name: &str| dir.join(format!("{}.{name}.tmp", spec.id));
        let temporary = dir.join(format!("{}.tmp", spec.id));
        let io = |source| PartError::Io {
            attempt: "create part",
            path: temporary.clone(),
            source: Arc::new(source),
        };
        let file = disk.create(&temporary).map_err(io)?;
        let mut out = SectionsWriter::new(file, &encode_header(&spec)).map_err(|source| {
            Spool::discard(disk, &temporary);
            io(source)
        })?;
        out.begin(SectionId::Values);
        Ok(PartWriter {
            disk,
            dir: dir.to_owned(),
            out: Some(out),
            last: None,
            labels: LabelsWriter::default(),
            times: Some(ColumnsWriter::new(SectionId::Times, disk, spool(SPOOLS[0]))),
            starts: Some(ColumnsWriter::new(SectionId::Starts, disk, spool(SPOOLS[1]))),
            histograms: Some(Spool::new(disk, spool(SPOOLS[2]))),
            directory: DirectoryWriter::default(),
            values: ValuesWriter::default(),
            metadata: BTreeMap::new(),
            scratch: Vec::new(),
            info: PartInfo {
                spec,
                min_ms: i64::MAX,
                max_ms: i64::MIN,
                series: 0,
                samples: 0,
                histograms: 0,
                bytes: 0,
            },
        })
    }

    /// Series added so far.
    pub fn series(&self) -> u32 {
        self.info.series
    }

    /// Adds the next series. A column without samples adds nothing.
    ///
    /// # Errors
    /// [`PartError::Invalid`] for a series that does not come after the last one in [`part_order`], and for
    /// columns of unequal length; [`PartError::Io`] when the disk refuses. The part is of no use then.
    pub fn add_series(&mut self, labels: &Labels, column: &Column) -> Result<(), PartError> {
        if column.is_empty() {
            return Ok(());
        }
        if self.last.as_ref().is_some_and(|last| part_order(last, labels).is_ge()) {
            return Err(self.invalid(format!("series {labels} out of order")));
        }
        let rows = column.times.len();
        let fit = |starts: &Option<Arc<[i64]>>, rows| starts.as_ref().is_none_or(|s| s.len() == rows);
        let starts_fit =
            fit(&column.start_times, rows) && fit(&column.histogram_starts, column.histograms.len());
        if column.values.len() != rows || !starts_fit || u32::try_from(rows).is_err() {
            return Err(self.invalid(format!("columns of series {labels} differ in length")));
        }
        if self.info.series == u32::MAX {
            return Err(self.invalid("more series than a part holds".into()));
        }
        let state = State::at(self.values.len, self.histograms.as_ref().map_or(0, Spool::len));
        let entry = self.store(column).map_err(|source| self.io("write part", source))?;
        self.directory.add(self.info.series, state, &entry);
        self.labels.add(labels);
        self.last = Some(labels.clone());
        self.count(column);
        Ok(())
    }

    fn count(&mut self, column: &Column) {
        self.info.series += 1;
        self.info.samples += column.times.len() as u64;
        self.info.histograms += column.histograms.len() as u64;
        let ends = [column.times.first(), column.times.last()];
        let histogram_ends =
            [column.histograms.first(), column.histograms.last()].map(|h| h.map(|(time, _)| time));
        for &time in ends.into_iter().chain(histogram_ends).flatten() {
            self.info.min_ms = self.info.min_ms.min(time);
            self.info.max_ms = self.info.max_ms.max(time);
        }
    }

    fn store(&mut self, column: &Column) -> io::Result<Entry> {
        let (Some(times), Some(starts), Some(histograms), Some(out)) =
            (&mut self.times, &mut self.starts, &mut self.histograms, &mut self.out)
        else {
            return Err(io::Error::other("the part is finished"));
        };
        let mut entry = Entry::default();
        if !column.times.is_empty() {
            let bounds = block_bounds(column.times.len(), BLOCK_ROWS);
            entry.floats = Some(Floats {
                times: times.add(&column.times)?,
                rows: column.times.len() as u32,
                blocks: bounds
                    .map(|rows| self.values.add(&column.values[rows], out))
                    .collect::<io::Result<_>>()?,
                starts: column.start_times.as_ref().map(|column| starts.add(column)).transpose()?,
            });
        }
        if !column.histograms.is_empty() {
            let rows: Arc<[i64]> = column.histograms.iter().map(|(time, _)| *time).collect();
            let mut blocks = SmallVec::new();
            for rows in block_bounds(rows.len(), HISTOGRAM_ROWS) {
                self.scratch.clear();
                let block: Vec<&Histogram> =
                    column.histograms[rows].iter().map(|(_, histogram)| &**histogram).collect();
                encode_block(&block, &mut self.scratch);
                blocks.push((histograms.len(), self.scratch.len() as u32));
                histograms.write(&self.scratch)?;
            }
            let of_histograms =
                column.histogram_starts.as_ref().map(|column| starts.add(column)).transpose()?;
            let (times, rows) = (times.add(&rows)?, rows.len() as u32);
            entry.histograms =
                Some(Histograms { times, rows, blocks, block_rows: HISTOGRAM_ROWS, starts: of_histograms });
        }
        Ok(entry)
    }

    /// Adds what a metric family says of itself; repeats add nothing.
    pub fn add_metadata(&mut self, metric: &str, metadata: &Metadata) {
        let statements = self.metadata.entry(metric.to_owned()).or_default();
        if !statements.contains(metadata) {
            statements.push(metadata.clone());
        }
    }

    /// Writes the rest, syncs the file, gives it its name and syncs the directory. A part without series
    /// is still a part.
    ///
    /// # Errors
    /// [`PartError::Io`]: nothing durable was made; write a new part. [`PartError::Invalid`]: labels too
    /// large to be stored.
    pub fn finish(mut self) -> Result<PartInfo, PartError> {
        let finished = self.write_rest().map_err(|source| self.io("finish part", source))?;
        let too_large = match finished {
            Ok(bytes) => {
                self.info.bytes = bytes;
                None
            }
            Err(reason) => Some(reason),
        };
        if let Some(reason) = too_large {
            return Err(self.invalid(reason));
        }
        let (from, to) = (self.temporary(), self.dir.join(file_name(self.info.spec.id)));
        self.disk.rename(&from, &to).map_err(|source| self.io("name part", source))?;
        self.disk.sync_dir(&self.dir).map_err(|source| {
            Spool::discard(self.disk, &to);
            self.io("sync directory of part", source)
        })?;
        Ok(self.info.clone())
    }

    fn write_rest(&mut self) -> io::Result<Result<u64, String>> {
        let (Some(times), Some(starts), Some(histograms), Some(mut out)) =
            (self.times.take(), self.starts.take(), self.histograms.take(), self.out.take())
        else {
            return Err(io::Error::other("the part is finished"));
        };
        out.end(&[])?;
        times.finish(&mut out)?;
        starts.finish(&mut out)?;
        out.begin_as(SectionId::Histograms, HISTOGRAMS_IN_COLUMNS);
        histograms.copy_to(&mut out)?;
        out.end(&[])?;
        self.directory.close();
        if self.info.series > 0 {
            out.begin_as(SectionId::Directory, self.directory.version());
            out.write(&self.directory.chunks.bytes)?;
            out.end(&self.directory.chunks.index(0, &[]))?;
            if let Some(reason) = std::mem::take(&mut self.labels).finish(&mut out)? {
                return Ok(Err(reason));
            }
        }
        write_metadata(&self.metadata, &mut out)?;
        let info = &self.info;
        let bytes = out.finish(|offset, sections| {
            let mut frame = encode_toc(info, sections);
            let footer = encode_footer(offset, &frame);
            frame.extend_from_slice(&footer);
            frame
        })?;
        Ok(Ok(bytes))
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join(format!("{}.tmp", self.info.spec.id))
    }

    fn io(&self, attempt: &'static str, source: io::Error) -> PartError {
        PartError::Io { attempt, path: self.temporary(), source: Arc::new(source) }
    }

    fn invalid(&self, reason: String) -> PartError {
        PartError::Invalid { path: self.temporary(), reason }
    }
}

impl Drop for PartWriter<'_> {
    fn drop(&mut self) {
        Spool::discard(self.disk, &self.temporary());
        for name in SPOOLS {
            Spool::discard(self.disk, &self.dir.join(format!("{}.{name}.tmp", self.info.spec.id)));
        }
    }
}

impl DirectoryWriter {
    /// Adds the entry of `series`; `state` is where VAL and HST ended before its blocks.
    fn add(&mut self, series: u32, state: State, entry: &Entry) {
        if self.raw.is_empty() {
            self.first = series;
            self.state = state;
            state.put(&mut self.raw);
        }
        self.has_histogram_starts |= entry.histograms.as_ref().is_some_and(|h| h.starts.is_some());
        self.state.put_entry(entry, &mut self.raw);
        if self.raw.len() >= CHUNK_BYTES {
            self.close();
        }
    }

    /// The version of the section: older readers can do with what they know.
    fn version(&self) -> u8 {
        if self.has_histogram_starts { DIRECTORY_WITH_HISTOGRAM_STARTS } else { FIRST_VERSION }
    }

    fn close(&mut self) {
        if !self.raw.is_empty() {
            self.chunks.add(self.first, &self.raw);
            self.raw.clear();
        }
    }
}

impl ValuesWriter {
    /// Stores a block of values, unless it is constant or an equal one is stored.
    fn add(&mut self, values: &[f64], out: &mut SectionsWriter) -> io::Result<Block> {
        if is_const(values) {
            return Ok(Block::Const(values[0]));
        }
        self.bits.clear();
        for value in values {
            self.bits.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        let hash = xxhash_rust::xxh3::xxh3_128(&self.bits);
        if let Some(&(offset, len)) = self.seen.get(&hash) {
            return Ok(Block::Stored { offset, len });
        }
        self.block.clear();
        encode_values(values, &mut self.block);
        out.write(&self.block)?;
        let (offset, len) = (self.len, self.block.len() as u32);
        self.len += u64::from(len);
        if self.seen.len() >= REMEMBERED_BLOCKS {
            self.seen.clear();
        }
        self.seen.insert(hash, (offset, len));
        Ok(Block::Stored { offset, len })
    }
}

/// MDT: chunks of families, by their number.
///
/// ```text
/// chunk:  n × (name │ statements varint │ statements × (type u8 │ unit │ help)), texts length-prefixed
/// ```
fn write_metadata(metadata: &BTreeMap<String, Vec<Metadata>>, out: &mut SectionsWriter) -> io::Result<()> {
    if metadata.is_empty() {
        return Ok(());
    }
    let mut chunks = ChunkWriter::default();
    let (mut raw, mut first) = (Vec::new(), 0);
    for (number, (metric, statements)) in (1u32..).zip(metadata) {
        put_text(&mut raw, metric);
        put_varint(&mut raw, statements.len() as u64);
        for statement in statements {
            raw.push(super::type_code(statement.metric_type));
            put_text(&mut raw, &statement.unit);
            put_text(&mut raw, &statement.help);
        }
        if raw.len() >= METADATA_CHUNK || number as usize == metadata.len() {
            chunks.add(first, &raw);
            raw.clear();
            first = number;
        }
    }
    out.begin(SectionId::Metadata);
    out.write(&chunks.bytes)?;
    out.end(&chunks.index(0, &[]))
}
