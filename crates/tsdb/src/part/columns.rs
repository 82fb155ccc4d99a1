//! Distinct columns of integers: the times (TSC) and start times (STC) of a part, each stored once.
//!
//! ```text
//! section: blocks of at most 4,096 rows each, column after column │ chunks of 1,024 directory entries │ index
//! entry:   rows varint │ first zigzag, against the column before │ last - first zigzag │ length varint
//! ```
//!
//! Keys of the chunks are column numbers; a chunk starts with the offset of its first column, varint.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use smallvec::SmallVec;
use stdx::bytes::{Cursor, put_varint, put_zigzag};
use stdx::disk::Disk;

use super::cache::Kind;
use super::chunks::{ChunkIndex, ChunkWriter};
use super::file::PartFile;
use super::layout::SectionId;
use super::sections::{SectionsWriter, Spool};
use super::{Lazy, PartError};
use crate::codec::{CodecError, decode_ints, encode_ints};

const BLOCK_ROWS: usize = 4096;
const ENTRIES_PER_CHUNK: u32 = 1024;
/// Rows of columns kept in memory to be recognised again by address or as part of another.
const KEPT_ROWS_MAX: usize = 4 << 20;
/// Columns looked at for one that contains a new one.
const CANDIDATES_MAX: usize = 8;

type Address = (usize, usize);
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Rows of a stored column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowsOf {
    pub(super) column: u32,
    pub(super) first: u32,
}

/// Stores each distinct column once.
#[derive(Debug)]
pub(super) struct ColumnsWriter<'a> {
    section: SectionId,
    blocks: Spool<'a>,
    chunks: ChunkWriter,
    entries: Vec<u8>,
    count: u32,
    last_first: i64,
    by_hash: Map<u128, u32>,
    kept: Kept,
    scratch: Vec<u8>,
}

/// Columns still in memory.
#[derive(Debug, Default)]
struct Kept {
    /// By address and length: the column, held so that its address stays its own, and its place.
    by_address: Map<Address, (Arc<[i64]>, RowsOf)>,
    columns: Vec<(Arc<[i64]>, u32)>,
    /// Positions in `columns` by first and by last row.
    by_end: Map<i64, SmallVec<[u32; 2]>>,
    last: usize,
    rows: usize,
}

impl<'a> ColumnsWriter<'a> {
    pub(super) fn new(section: SectionId, disk: &'a dyn Disk, spool: PathBuf) -> ColumnsWriter<'a> {
        ColumnsWriter {
            section,
            blocks: Spool::new(disk, spool),
            chunks: ChunkWriter::default(),
            entries: Vec::new(),
            count: 0,
            last_first: 0,
            by_hash: HashMap::default(),
            kept: Kept::default(),
            scratch: Vec::new(),
        }
    }

    /// Where `rows` (not empty) are stored, storing them if they are not.
    pub(super) fn add(&mut self, rows: &Arc<[i64]>) -> io::Result<RowsOf> {
        let address = (Arc::as_ptr(rows).cast::<i64>() as usize, rows.len());
        if let Some((_, place)) = self.kept.by_address.get(&address) {
            return Ok(*place);
        }
        let place = self.place(rows)?;
        self.kept.by_address.insert(address, (rows.clone(), place));
        self.kept.rows += rows.len();
        Ok(place)
    }

    fn place(&mut self, rows: &Arc<[i64]>) -> io::Result<RowsOf> {
        if self.kept.rows > KEPT_ROWS_MAX {
            self.kept = Kept::default();
        }
        self.scratch.clear();
        for row in rows.iter() {
            self.scratch.extend_from_slice(&row.to_le_bytes());
        }
        let hash = xxhash_rust::xxh3::xxh3_128(&self.scratch);
        if let Some(&column) = self.by_hash.get(&hash) {
            return Ok(RowsOf { column, first: 0 });
        }
        if let Some(place) = self.kept.find_within(rows) {
            return Ok(place);
        }
        let column = self.count;
        self.store(rows)?;
        self.by_hash.insert(hash, column);
        self.kept.keep(rows, column);
        Ok(RowsOf { column, first: 0 })
    }

    fn store(&mut self, rows: &[i64]) -> io::Result<()> {
        if self.entries.is_empty() {
            put_varint(&mut self.entries, self.blocks.len());
            self.last_first = 0;
        }
        self.scratch.clear();
        for block in rows.chunks(BLOCK_ROWS) {
            encode_ints(block, &mut self.scratch);
        }
        self.blocks.write(&self.scratch)?;
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        put_varint(&mut self.entries, rows.len() as u64);
        put_zigzag(&mut self.entries, first.wrapping_sub(self.last_first));
        put_zigzag(&mut self.entries, last.wrapping_sub(first));
        put_varint(&mut self.entries, self.scratch.len() as u64);
        self.last_first = first;
        self.count += 1;
        if self.count.is_multiple_of(ENTRIES_PER_CHUNK) {
            self.close_chunk();
        }
        Ok(())
    }

    fn close_chunk(&mut self) {
        if !self.entries.is_empty() {
            let first = (self.count - 1) / ENTRIES_PER_CHUNK * ENTRIES_PER_CHUNK;
            self.chunks.add(first, &self.entries);
            self.entries.clear();
        }
    }

    /// Writes the section; none when there are no columns.
    pub(super) fn finish(mut self, out: &mut SectionsWriter) -> io::Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        self.close_chunk();
        out.begin(self.section);
        let base = self.blocks.len();
        self.blocks.copy_to(out)?;
        out.write(&self.chunks.bytes)?;
        out.end(&self.chunks.index(base, &[]))
    }
}

impl Kept {
    fn keep(&mut self, rows: &Arc<[i64]>, column: u32) {
        let at = self.columns.len() as u32;
        self.columns.push((rows.clone(), column));
        self.last = at as usize;
        for end in [rows[0], rows[rows.len() - 1]] {
            let places = self.by_end.entry(end).or_default();
            if places.len() < CANDIDATES_MAX {
                places.push(at);
            }
        }
    }

    /// A kept column that contains `rows` as a run: a series that came later or went earlier than the
    /// others of its target, mostly.
    fn find_within(&mut self, rows: &[i64]) -> Option<RowsOf> {
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        let ends = [first, last].into_iter().filter_map(|end| self.by_end.get(&end)).flatten();
        let candidates = [self.last as u32].into_iter().chain(ends.copied());
        for at in candidates {
            let Some((column, number)) = self.columns.get(at as usize) else { continue };
            // Ascending only for times; for start times this just finds less.
            let from = column.partition_point(|&t| t < first);
            if column.get(from..from + rows.len()) == Some(rows) {
                self.last = at as usize;
                return Some(RowsOf { column: *number, first: from as u32 });
            }
        }
        None
    }
}

/// A column as the directory has it.
#[derive(Debug, Clone, Copy)]
struct Place {
    rows: u32,
    first: i64,
    last: i64,
    offset: u64,
    len: u32,
}

/// Reads columns.
#[derive(Debug)]
pub(super) struct Columns {
    section: SectionId,
    index: Lazy<ChunkIndex>,
}

/// A decoded column, as the cache holds it.
struct Cached(Arc<[i64]>);

impl Columns {
    pub(super) fn new(section: SectionId) -> Columns {
        Columns { section, index: Lazy::default() }
    }

    fn index(&self, file: &PartFile) -> Result<&ChunkIndex, PartError> {
        self.index.get_or(|| Ok(ChunkIndex::read(file, self.section, |_| Ok(()))?.0))
    }

    /// First and last row of `column`, without reading it.
    pub(super) fn ends(&self, file: &PartFile, column: u32) -> Result<(i64, i64), PartError> {
        self.place(file, column).map(|place| (place.first, place.last))
    }

    fn place(&self, file: &PartFile, column: u32) -> Result<Place, PartError> {
        let index = self.index(file)?;
        let missing = || file.corrupt(self.section, 0, format!("column {column} is missing"));
        let at = index.find(column).ok_or_else(missing)?;
        let chunk = index.chunks()[at];
        let places = file.cached(Kind::Places, self.section as u64, at as u64, || {
            let places = read_places(&index.load(file, at)?);
            let places = places.map_err(file.undecodable(self.section, chunk.offset))?;
            let bytes = places.len() * size_of::<Place>();
            Ok((places, bytes))
        })?;
        places.get((column - chunk.first) as usize).copied().ok_or_else(missing)
    }

    /// All rows of `column`; the same `Arc` while it is cached.
    pub(super) fn whole(&self, file: &PartFile, column: u32) -> Result<Arc<[i64]>, PartError> {
        let cached = file.cached(Kind::Column, self.section as u64, u64::from(column), || {
            let rows: Arc<[i64]> = self.decode(file, column)?.into();
            let bytes = rows.len() * 8;
            Ok((Cached(rows), bytes))
        })?;
        Ok(cached.0.clone())
    }

    fn decode(&self, file: &PartFile, column: u32) -> Result<Vec<i64>, PartError> {
        let place = self.place(file, column)?;
        let bytes = file.read(self.section, place.offset, place.len as usize)?;
        let mut rows = Vec::with_capacity((place.rows as usize).min(bytes.len().saturating_mul(1024)));
        let mut at = 0;
        while rows.len() < place.rows as usize {
            let count = (place.rows as usize - rows.len()).min(BLOCK_ROWS);
            at += decode_ints(&bytes[at..], count, &mut rows)
                .map_err(file.undecodable(self.section, place.offset))?;
        }
        Ok(rows)
    }

    /// Rows `range` of `column`; the same `Arc` for the same rows while they are cached.
    pub(super) fn rows(
        &self,
        file: &PartFile,
        column: u32,
        range: Range<usize>,
    ) -> Result<Arc<[i64]>, PartError> {
        let whole = self.whole(file, column)?;
        if range == (0..whole.len()) {
            return Ok(whole);
        }
        let a = (self.section as u64) << 32 | u64::from(column);
        let b = (range.start as u64) << 32 | range.end as u64;
        let cached = file.cached(Kind::Rows, a, b, || {
            let rows = whole.get(range.clone());
            let rows =
                rows.ok_or_else(|| file.corrupt(self.section, 0, format!("column {column} is too short")))?;
            Ok((Cached(rows.into()), rows.len() * 8))
        })?;
        Ok(cached.0.clone())
    }

    /// Decodes every column; `bad` hears of every damage.
    pub(super) fn verify(&self, file: &PartFile, mut bad: impl FnMut(PartError)) {
        if file.section(self.section).is_none() {
            return;
        }
        let index = match self.index(file) {
            Ok(index) => index,
            Err(error) => return bad(error),
        };
        for (at, chunk) in index.chunks().iter().enumerate() {
            if let Err(error) = index.load(file, at) {
                bad(error);
                continue;
            }
            // Past the last column of the last chunk, `place` fails.
            for column in (chunk.first..).take(ENTRIES_PER_CHUNK as usize) {
                if self.place(file, column).is_err() {
                    break;
                }
                if let Err(error) = self.decode(file, column) {
                    bad(error);
                }
            }
        }
    }
}

/// The entries of a directory chunk.
fn read_places(chunk: &[u8]) -> Result<Vec<Place>, CodecError> {
    let mut reader = Cursor::new(chunk);
    let (mut offset, mut first) = (reader.varint()?, 0i64);
    let mut places = Vec::new();
    while reader.remaining() > 0 {
        let rows = reader.at_most(u32::MAX as usize)? as u32;
        first = first.wrapping_add(reader.zigzag()?);
        let last = first.wrapping_add(reader.zigzag()?);
        let len = reader.at_most(u32::MAX as usize)? as u32;
        places.push(Place { rows, first, last, offset, len });
        offset = offset.saturating_add(u64::from(len));
    }
    // It stays in the cache, and most sections have few columns.
    places.shrink_to_fit();
    Ok(places)
}
