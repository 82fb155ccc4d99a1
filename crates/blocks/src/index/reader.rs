//! Reading an index: the symbols at once, the series as they are asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Labels, LabelsBuilder};
use stdx::bytes::{Cursor, Malformed};
use stdx::disk::{Disk, ReadFile};

use super::{ChunkMeta, HEADER_LEN, MAGIC, Series, TOC_LEN, VERSION};
use crate::error::BlockError;

/// Longest entry of a series, bytes: some hundred thousand chunks.
const ENTRY_BYTES_MAX: u64 = 16 << 20;
/// Bytes read at a time.
const WINDOW: u64 = 1 << 20;

/// An open index.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    file: Arc<dyn ReadFile>,
    len: u64,
    symbols: Symbols,
    /// Where the series are.
    series: (u64, u64),
    /// Where the postings offset table is; 0 for none.
    postings: u64,
}

/// Texts by number.
#[derive(Debug, Default)]
struct Symbols {
    bytes: Vec<u8>,
    /// Where each text starts and ends.
    places: Vec<(u32, u32)>,
}

impl Symbols {
    fn get(&self, number: u64) -> Result<&str, Malformed> {
        let place = usize::try_from(number).ok().and_then(|number| self.places.get(number));
        let (start, end) = place.ok_or(Malformed("a series names a symbol that is not there"))?;
        std::str::from_utf8(&self.bytes[*start as usize..*end as usize])
            .map_err(|_| Malformed("a series names a symbol that is not UTF-8"))
    }
}

impl Index {
    /// Opens the index at `path`: reads table of contents and symbols.
    ///
    /// # Errors
    /// It is not an index of version 2, or one of these is damaged.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Index, BlockError> {
        let file = disk.open_read(path).map_err(BlockError::io("open", path))?;
        let len = file.len().map_err(BlockError::io("measure", path))?;
        let bad = |offset, reason: &str| BlockError::corrupt(path, offset, reason);
        if len < (HEADER_LEN + TOC_LEN) as u64 {
            return Err(bad(len, "the file is cut short"));
        }
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0).map_err(BlockError::io("read", path))?;
        if header[..4] != MAGIC.to_be_bytes() {
            return Err(bad(0, "the magic number of an index is missing"));
        }
        if header[4] != VERSION {
            let reason = format!("version {} of an index is not known, only version 2", header[4]);
            return Err(BlockError::Unsupported { path: path.to_owned(), reason });
        }
        let toc_at = len - TOC_LEN as u64;
        let mut toc = [0; TOC_LEN];
        file.read_exact_at(&mut toc, toc_at).map_err(BlockError::io("read", path))?;
        if crc32c::crc32c(&toc[..48]).to_be_bytes() != toc[48..] {
            return Err(bad(toc_at, "the table of contents fails its checksum"));
        }
        let mut offsets = [0u64; 6];
        let mut reader = Cursor::new(&toc);
        for offset in &mut offsets {
            *offset = reader.u64_be().map_err(|error| bad(toc_at, error.0))?;
            if *offset > toc_at {
                return Err(bad(toc_at, "the table of contents leads out of the file"));
            }
        }
        let after = |start: u64| offsets.iter().copied().filter(|o| *o > start).min().unwrap_or(toc_at);
        let series = match offsets[1] {
            0 => (0, 0),
            start => (start, after(start)),
        };
        let mut index = Index {
            path: path.to_owned(),
            file,
            len: toc_at,
            symbols: Symbols::default(),
            series,
            postings: offsets[5],
        };
        if offsets[0] > 0 {
            index.symbols = index.read_symbols(offsets[0])?;
        }
        Ok(index)
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.len + TOC_LEN as u64
    }

    fn bad(&self, offset: u64, reason: impl Into<String>) -> BlockError {
        BlockError::corrupt(&self.path, offset, reason)
    }

    fn read_at(&self, offset: u64, len: u64) -> Result<Vec<u8>, BlockError> {
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(BlockError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// Reads `len u32 │ body │ CRC` at `offset`; the body.
    fn section(&self, offset: u64) -> Result<Vec<u8>, BlockError> {
        if offset.saturating_add(8) > self.len {
            return Err(self.bad(offset, "a section leads out of the file"));
        }
        let head = self.read_at(offset, 4)?;
        let len = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        if offset + 8 + len > self.len {
            return Err(self.bad(offset, "a section is longer than the file"));
        }
        let mut body = self.read_at(offset + 4, len + 4)?;
        let crc = body.split_off(len as usize);
        if crc32c::crc32c(&body).to_be_bytes() != *crc {
            return Err(self.bad(offset, "the section fails its checksum"));
        }
        Ok(body)
    }

    fn read_symbols(&self, offset: u64) -> Result<Symbols, BlockError> {
        let body = self.section(offset)?;
        let mut reader = Cursor::new(&body);
        let mut read = || {
            let count = reader.u32_be()? as usize;
            if count > reader.remaining() {
                return Err(Malformed("there are fewer symbols than announced"));
            }
            let mut places = Vec::with_capacity(count);
            let mut last: &[u8] = &[];
            for number in 0..count {
                let len = reader.count(1)?;
                let start = reader.position();
                let text = reader.take(len)?;
                if number > 0 && text <= last {
                    return Err(Malformed("the symbols are not sorted"));
                }
                last = text;
                places.push((start as u32, reader.position() as u32));
            }
            Ok(places)
        };
        let places = read();
        let at = offset + 4 + reader.position() as u64;
        let places = places.map_err(|Malformed(reason)| self.bad(at, reason))?;
        Ok(Symbols { bytes: body, places })
    }

    /// How many symbols.
    pub fn symbols(&self) -> usize {
        self.symbols.places.len()
    }

    /// The series, in order. Damage shows as an error, after which the next readable series follows.
    pub fn series(&self) -> SeriesIter<'_> {
        SeriesIter { index: self, at: self.series.0, window: (0, Vec::new()), last: None, lost: false }
    }

    /// The series of number `id`, which [`Index::series`] has given.
    ///
    /// # Errors
    /// It is damaged.
    pub fn series_at(&self, id: u64) -> Result<Series, BlockError> {
        let mut iter = self.series();
        iter.at = id.saturating_mul(16);
        let (entry, _) = iter.entry(iter.at)?;
        self.decode(id, &entry).map_err(|error| self.bad(id.saturating_mul(16), error.0))
    }

    fn decode(&self, id: u64, entry: &[u8]) -> Result<Series, Malformed> {
        let mut reader = Cursor::new(entry);
        let labels = self.decode_labels(&mut reader)?;
        // A chunk takes three bytes at least.
        let count = reader.count(3)?;
        let mut chunks: Vec<ChunkMeta> = Vec::with_capacity(count);
        for _ in 0..count {
            let chunk = match chunks.last() {
                None => {
                    let min_ms = reader.zigzag()?;
                    let max_ms = min_ms.checked_add_unsigned(reader.varint()?);
                    (min_ms, max_ms, reader.varint()?)
                }
                Some(last) => {
                    // Chunks of late samples may begin before the last one ends: then this wraps around.
                    let min_ms = last.max_ms.wrapping_add(reader.varint()? as i64);
                    let max_ms = min_ms.checked_add_unsigned(reader.varint()?);
                    (min_ms, max_ms, last.reference.wrapping_add(reader.zigzag()? as u64))
                }
            };
            let max_ms = chunk.1.ok_or(Malformed("the times of a chunk are out of range"))?;
            chunks.push(ChunkMeta { min_ms: chunk.0, max_ms, reference: chunk.2 });
        }
        if reader.remaining() > 0 {
            return Err(Malformed("a series is longer than its chunks"));
        }
        Ok(Series { id, labels, chunks })
    }

    fn decode_labels(&self, reader: &mut Cursor<'_>) -> Result<Labels, Malformed> {
        let count = reader.count(2)?;
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            let name = self.symbols.get(reader.varint()?)?;
            pairs.push((name, self.symbols.get(reader.varint()?)?));
        }
        if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Malformed("the labels of a series are not sorted, or one is there twice"));
        }
        if pairs.iter().any(|(_, value)| value.is_empty()) {
            let mut builder = LabelsBuilder::default();
            pairs.iter().for_each(|(name, value)| {
                builder.set(name, value);
            });
            return Ok(builder.build());
        }
        Ok(Labels::from_sorted(pairs.into_iter()))
    }

    /// Hands every postings list to `visit`: name, value, series; the one of all series under an empty
    /// name first. For checks and figures; the series say the same.
    ///
    /// # Errors
    /// The table or a list is damaged.
    pub fn postings(&self, mut visit: impl FnMut(&str, &str, &[u64])) -> Result<(), BlockError> {
        if self.postings == 0 {
            return Ok(());
        }
        let table = self.section(self.postings)?;
        let mut reader = Cursor::new(&table);
        let count = reader.u32_be().map_err(|error| self.bad(self.postings, error.0))?;
        for _ in 0..count {
            let at = self.postings + 4 + reader.position() as u64;
            let mut entry = || match reader.byte()? {
                2 => Ok((reader.text()?, reader.text()?, reader.varint()?)),
                _ => Err(Malformed("an entry of the postings table is not a pair")),
            };
            let (name, value, offset) = entry().map_err(|error| self.bad(at, error.0))?;
            let list = self.section(offset)?;
            let mut numbers = Cursor::new(&list);
            let count = numbers.u32_be().map_err(|error| self.bad(offset, error.0))?;
            if numbers.remaining() as u64 != u64::from(count) * 4 {
                return Err(self.bad(offset, "a postings list is not as long as it says"));
            }
            let series: Vec<u64> = list[4..]
                .as_chunks::<4>()
                .0
                .iter()
                .map(|number| u64::from(u32::from_be_bytes(*number)))
                .collect();
            if !series.is_sorted_by(|a, b| a < b) {
                return Err(self.bad(offset, "a postings list is not sorted"));
            }
            visit(name, value, &series);
        }
        Ok(())
    }
}

/// The series of an index, in order.
#[derive(Debug)]
pub struct SeriesIter<'i> {
    index: &'i Index,
    at: u64,
    window: (u64, Vec<u8>),
    last: Option<Labels>,
    /// Whether an entry could not be read, so that where the next one is has to be found out.
    lost: bool,
}

impl SeriesIter<'_> {
    /// How much of the series has been passed, 0 to 1.
    pub fn progress(&self) -> f64 {
        let (start, end) = self.index.series;
        (self.at - start) as f64 / (end - start).max(1) as f64
    }

    fn fill(&mut self, offset: u64, want: u64) -> Result<(), BlockError> {
        let end = offset.saturating_add(want).min(self.index.series.1);
        let (start, bytes) = &self.window;
        if *start <= offset && end <= start + bytes.len() as u64 {
            return Ok(());
        }
        let end = offset.saturating_add(want.max(WINDOW)).min(self.index.series.1);
        self.window = (offset, self.index.read_at(offset, end.saturating_sub(offset))?);
        Ok(())
    }

    /// The entry at `offset` and where it ends, checked.
    fn entry(&mut self, offset: u64) -> Result<(Vec<u8>, u64), BlockError> {
        let bad = |reason| BlockError::corrupt(&self.index.path, offset, reason);
        let end = self.index.series.1;
        if offset < self.index.series.0 || offset >= end {
            return Err(bad("a series leads out of the series"));
        }
        self.fill(offset, 16)?;
        let window = &self.window.1[(offset - self.window.0) as usize..];
        let mut reader = Cursor::new(window);
        let len = reader.varint().map_err(|error| bad(error.0))?;
        let head = reader.position() as u64;
        let whole = head.saturating_add(len).saturating_add(4);
        if !(2..=ENTRY_BYTES_MAX).contains(&len) || offset.saturating_add(whole) > end {
            return Err(bad("the length of a series makes no sense"));
        }
        self.fill(offset, whole)?;
        let from = (offset - self.window.0) as usize;
        let framed = &self.window.1[from + head as usize..from + whole as usize];
        let (entry, crc) = framed.split_at(len as usize);
        if crc32c::crc32c(entry).to_be_bytes() != *crc {
            return Err(bad("the series fails its checksum"));
        }
        Ok((entry.to_vec(), offset + whole))
    }
}

impl Iterator for SeriesIter<'_> {
    type Item = Result<Series, BlockError>;

    fn next(&mut self) -> Option<Result<Series, BlockError>> {
        loop {
            // The rest of the last 16 bytes may be padding only.
            self.at = self.at.next_multiple_of(16);
            if self.at.saturating_add(6) > self.index.series.1 {
                return None;
            }
            let at = self.at;
            let read = self.entry(at).and_then(|(entry, end)| {
                let series = self.index.decode(at / 16, &entry);
                self.at = end;
                series.map_err(|error| BlockError::corrupt(&self.index.path, at, error.0))
            });
            match read {
                Ok(series) => {
                    self.lost = false;
                    if self.last.as_ref().is_some_and(|last| *last >= series.labels) {
                        let reason = format!("series {} is there twice, or out of order", series.labels);
                        return Some(Err(BlockError::corrupt(&self.index.path, at, reason)));
                    }
                    self.last = Some(series.labels.clone());
                    return Some(Ok(series));
                }
                Err(error @ BlockError::Io { .. }) => {
                    self.at = self.index.series.1;
                    return Some(Err(error));
                }
                Err(error) => {
                    self.at = self.at.max(at + 16);
                    // One message for one stretch of damage.
                    if !std::mem::replace(&mut self.lost, true) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}
