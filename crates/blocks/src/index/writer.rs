//! Writing an index: series come with their labels; what comes first in the file is known last.
//!
//! Texts and pairs are numbered as they come; the series wait in a spool (in memory, or in a file when
//! they are many) until the numbers of the sorted symbols are known. In memory: every distinct text, 12
//! bytes for every distinct pair, 4 bytes for every label of every series.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::Labels;
use stdx::bytes::{Cursor, Malformed, put_text, put_varint, put_zigzag};
use stdx::disk::{AppendFile, Disk, ReadFile};

use super::{ChunkMeta, HEADER_LEN, MAGIC, TOC_LEN, VERSION};

/// Bytes of the spool kept in memory.
const SPOOL_MEMORY_MAX: usize = 32 << 20;
/// Bytes written and read at a time.
const BUFFER: usize = 1 << 20;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// An index in the making.
#[derive(Debug)]
pub(crate) struct IndexWriter<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
    texts: Map<Box<str>, u32>,
    pairs: Map<(u32, u32), u32>,
    /// How many series have each pair.
    pair_counts: Vec<u32>,
    series: u32,
    spool: Spool<'d>,
    scratch: Vec<u8>,
}

impl<'d> IndexWriter<'d> {
    pub(crate) fn new(disk: &'d dyn Disk, path: PathBuf) -> IndexWriter<'d> {
        let spool = Spool { disk, path: path.with_extension("spool"), memory: Vec::new(), file: None };
        IndexWriter {
            disk,
            path,
            texts: Map::default(),
            pairs: Map::default(),
            pair_counts: Vec::new(),
            series: 0,
            spool,
            scratch: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds the next series; whoever calls has checked that it comes after the last.
    pub(crate) fn add(&mut self, labels: &Labels, chunks: &[ChunkMeta]) -> io::Result<()> {
        self.scratch.clear();
        put_varint(&mut self.scratch, labels.len() as u64);
        for (name, value) in labels {
            let pair = (number(&mut self.texts, name)?, number(&mut self.texts, value)?);
            let next = self.pairs.len() as u32;
            let pair = *self.pairs.entry(pair).or_insert(next);
            if pair == next {
                self.pair_counts.push(0);
            }
            self.pair_counts[pair as usize] += 1;
            put_varint(&mut self.scratch, u64::from(pair));
        }
        let mut of_chunks = Vec::new();
        put_chunks(chunks, &mut of_chunks);
        put_varint(&mut self.scratch, of_chunks.len() as u64);
        self.scratch.extend_from_slice(&of_chunks);
        self.series = self.series.checked_add(1).ok_or_else(|| too_large("series"))?;
        self.spool.write(&self.scratch)
    }

    /// Writes the file. Gives its length.
    pub(crate) fn finish(self) -> io::Result<u64> {
        let IndexWriter { disk, path, texts, pairs, pair_counts, series, spool, .. } = self;
        let sorted = Sorted::new(&texts, &pairs)?;
        let mut out = Out::create(disk, &path)?;
        let mut toc = [0u64; 6];
        toc[0] = out.position();
        write_symbols(&sorted, &mut out)?;
        toc[1] = out.position();
        let mut postings = Postings::new(&sorted, &pair_counts, series);
        write_series(&sorted, series, spool.read()?, &mut postings, &mut out)?;
        toc[2] = out.position();
        let label_offsets = write_label_indices(&sorted, &mut out)?;
        toc[4] = out.position();
        let posting_offsets = postings.write(&sorted, &mut out)?;
        toc[3] = out.position();
        let table = |(name, offset): &(u32, u64)| (vec![sorted.texts[*name as usize]], *offset);
        write_offset_table(&label_offsets.iter().map(table).collect::<Vec<_>>(), &mut out)?;
        toc[5] = out.position();
        write_offset_table(&posting_offsets, &mut out)?;
        let mut bytes = Vec::with_capacity(TOC_LEN);
        toc.iter().for_each(|offset| bytes.extend_from_slice(&offset.to_be_bytes()));
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        out.write(&bytes)?;
        out.finish()
    }
}

fn write_series(
    sorted: &Sorted<'_>,
    series: u32,
    mut spooled: Spooled<'_>,
    postings: &mut Postings,
    out: &mut Out,
) -> io::Result<()> {
    let mut entry = Vec::new();
    for _ in 0..series {
        out.pad(16)?;
        let id = u32::try_from(out.position() / 16).map_err(|_| too_large("64 GiB of series"))?;
        postings.begin(id);
        entry.clear();
        let labels = spooled.varint()?;
        put_varint(&mut entry, labels);
        for _ in 0..labels {
            let pair = sorted.rank_of_pair[spooled.varint()? as usize];
            let (name, value) = sorted.pairs[pair as usize];
            put_varint(&mut entry, u64::from(name));
            put_varint(&mut entry, u64::from(value));
            postings.add(pair, id);
        }
        let chunks = spooled.varint()? as usize;
        spooled.take(chunks, &mut entry)?;
        let mut len = Vec::new();
        put_varint(&mut len, entry.len() as u64);
        out.write(&len)?;
        out.write(&entry)?;
        out.write(&crc32c::crc32c(&entry).to_be_bytes())?;
    }
    Ok(())
}

fn too_large(what: &str) -> io::Error {
    io::Error::other(format!("the index cannot hold more: {what}"))
}

fn number(texts: &mut Map<Box<str>, u32>, text: &str) -> io::Result<u32> {
    if let Some(number) = texts.get(text) {
        return Ok(*number);
    }
    let number = u32::try_from(texts.len()).map_err(|_| too_large("symbols"))?;
    texts.insert(text.into(), number);
    Ok(number)
}

fn put_chunks(chunks: &[ChunkMeta], out: &mut Vec<u8>) {
    put_varint(out, chunks.len() as u64);
    let Some((first, rest)) = chunks.split_first() else { return };
    put_zigzag(out, first.min_ms);
    put_varint(out, first.max_ms.wrapping_sub(first.min_ms) as u64);
    put_varint(out, first.reference);
    let mut last = first;
    for chunk in rest {
        put_varint(out, chunk.min_ms.wrapping_sub(last.max_ms) as u64);
        put_varint(out, chunk.max_ms.wrapping_sub(chunk.min_ms) as u64);
        put_zigzag(out, chunk.reference.wrapping_sub(last.reference) as i64);
        last = chunk;
    }
}

/// Texts and pairs in the order that the file has.
struct Sorted<'t> {
    texts: Vec<&'t str>,
    /// By rank: numbers of sorted texts.
    pairs: Vec<(u32, u32)>,
    rank_of_pair: Vec<u32>,
}

impl<'t> Sorted<'t> {
    fn new(texts: &'t Map<Box<str>, u32>, pairs: &Map<(u32, u32), u32>) -> io::Result<Sorted<'t>> {
        let mut in_order: Vec<(&str, u32)> = texts.iter().map(|(text, number)| (&**text, *number)).collect();
        in_order.sort_unstable();
        let mut rank_of_text = vec![0u32; in_order.len()];
        for (rank, (_, number)) in in_order.iter().enumerate() {
            rank_of_text[*number as usize] = rank as u32;
        }
        let rank = |number: u32| rank_of_text[number as usize];
        let mut ranked: Vec<((u32, u32), u32)> =
            pairs.iter().map(|((name, value), pair)| ((rank(*name), rank(*value)), *pair)).collect();
        ranked.sort_unstable();
        u32::try_from(ranked.len()).map_err(|_| too_large("pairs of labels"))?;
        let mut rank_of_pair = vec![0u32; ranked.len()];
        for (rank, (_, pair)) in ranked.iter().enumerate() {
            rank_of_pair[*pair as usize] = rank as u32;
        }
        Ok(Sorted {
            texts: in_order.into_iter().map(|(text, _)| text).collect(),
            pairs: ranked.into_iter().map(|(pair, _)| pair).collect(),
            rank_of_pair,
        })
    }
}

/// The series of every pair, in one array.
struct Postings {
    all: Vec<u32>,
    /// Where the list of each pair ends so far; its start is the final end of the pair before.
    ends: Vec<usize>,
    lists: Vec<u32>,
}

impl Postings {
    fn new(sorted: &Sorted<'_>, counts: &[u32], series: u32) -> Postings {
        let mut by_rank = vec![0usize; sorted.pairs.len()];
        for (pair, count) in counts.iter().enumerate() {
            by_rank[sorted.rank_of_pair[pair] as usize] = *count as usize;
        }
        let mut total = 0;
        let start = |count: usize| {
            total += count;
            total - count
        };
        let ends = by_rank.into_iter().map(start).collect();
        Postings { all: Vec::with_capacity(series as usize), ends, lists: vec![0; total] }
    }

    fn begin(&mut self, series: u32) {
        self.all.push(series);
    }

    fn add(&mut self, pair: u32, series: u32) {
        let end = &mut self.ends[pair as usize];
        self.lists[*end] = series;
        *end += 1;
    }

    /// Writes the lists; the entries of their table.
    fn write<'t>(&self, sorted: &Sorted<'t>, out: &mut Out) -> io::Result<Vec<(Vec<&'t str>, u64)>> {
        let mut offsets = Vec::with_capacity(sorted.pairs.len() + 1);
        offsets.push((vec!["", ""], write_list(&[], &self.all, out)?));
        let mut start = 0;
        for ((name, value), end) in sorted.pairs.iter().zip(&self.ends) {
            let offset = write_list(&[], &self.lists[start..*end], out)?;
            offsets.push((vec![sorted.texts[*name as usize], sorted.texts[*value as usize]], offset));
            start = *end;
        }
        Ok(offsets)
    }
}

/// Writes `len │ head │ count │ numbers │ CRC` at a multiple of 4; its offset.
fn write_list(head: &[u32], numbers: &[u32], out: &mut Out) -> io::Result<u64> {
    out.pad(4)?;
    let offset = out.position();
    let mut body = Vec::with_capacity(numbers.len() * 4 + 8);
    let count = u32::try_from(numbers.len()).map_err(|_| too_large("a list"))?;
    for number in head.iter().chain([&count]).chain(numbers) {
        body.extend_from_slice(&number.to_be_bytes());
    }
    write_framed(&body, out)?;
    Ok(offset)
}

fn write_framed(body: &[u8], out: &mut Out) -> io::Result<()> {
    let len = u32::try_from(body.len()).map_err(|_| too_large("4 GiB of a section"))?;
    out.write(&len.to_be_bytes())?;
    out.write(body)?;
    out.write(&crc32c::crc32c(body).to_be_bytes())
}

fn write_symbols(sorted: &Sorted<'_>, out: &mut Out) -> io::Result<()> {
    let texts = || sorted.texts.iter();
    let len_of = |text: &&str| {
        let mut head = Vec::new();
        put_varint(&mut head, text.len() as u64);
        head.len() as u64 + text.len() as u64
    };
    let len = 4 + texts().map(len_of).sum::<u64>();
    let len = u32::try_from(len).map_err(|_| too_large("4 GiB of symbols"))?;
    out.write(&len.to_be_bytes())?;
    // Piece by piece: the texts are in memory once already.
    let mut piece = (sorted.texts.len() as u32).to_be_bytes().to_vec();
    let mut crc = 0;
    for text in texts() {
        put_text(&mut piece, text);
        if piece.len() > BUFFER {
            crc = crc32c::crc32c_append(crc, &piece);
            out.write(&piece)?;
            piece.clear();
        }
    }
    crc = crc32c::crc32c_append(crc, &piece);
    out.write(&piece)?;
    out.write(&crc.to_be_bytes())
}

/// The values of every name; the offset of each list.
fn write_label_indices(sorted: &Sorted<'_>, out: &mut Out) -> io::Result<Vec<(u32, u64)>> {
    let mut offsets = Vec::new();
    for of_name in sorted.pairs.chunk_by(|a, b| a.0 == b.0) {
        let values: Vec<u32> = of_name.iter().map(|(_, value)| *value).collect();
        offsets.push((of_name[0].0, write_list(&[1], &values, out)?));
    }
    Ok(offsets)
}

fn write_offset_table(entries: &[(Vec<&str>, u64)], out: &mut Out) -> io::Result<()> {
    let count = u32::try_from(entries.len()).map_err(|_| too_large("entries of a table"))?;
    let mut body = count.to_be_bytes().to_vec();
    for (texts, offset) in entries {
        put_varint(&mut body, texts.len() as u64);
        texts.iter().for_each(|text| put_text(&mut body, text));
        put_varint(&mut body, *offset);
    }
    write_framed(&body, out)
}

/// The file, appended to.
struct Out {
    file: Box<dyn AppendFile>,
    buffer: Vec<u8>,
    written: u64,
}

impl Out {
    fn create(disk: &dyn Disk, path: &Path) -> io::Result<Out> {
        let mut buffer = Vec::with_capacity(BUFFER * 2);
        buffer.extend_from_slice(&MAGIC.to_be_bytes());
        buffer.push(VERSION);
        debug_assert_eq!(buffer.len(), HEADER_LEN);
        Ok(Out { file: disk.create(path)?, buffer, written: 0 })
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        let missing = self.position().next_multiple_of(to) - self.position();
        self.write(&[0; 16][..missing as usize])
    }

    fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        self.file.sync_data()?;
        Ok(self.written)
    }
}

/// Series that wait. The file goes with whoever holds it last.
#[derive(Debug)]
struct Spool<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
    memory: Vec<u8>,
    file: Option<(Box<dyn AppendFile>, Remove<'d>)>,
}

/// Removes a file when dropped.
#[derive(Debug)]
struct Remove<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
}

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        // Best effort: an unfinished block is removed as a whole, too.
        let _ = self.disk.remove_file(&self.path);
    }
}

impl<'d> Spool<'d> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.memory.extend_from_slice(bytes);
        if self.memory.len() > SPOOL_MEMORY_MAX {
            if self.file.is_none() {
                let file = self.disk.create(&self.path)?;
                self.file = Some((file, Remove { disk: self.disk, path: self.path.clone() }));
            }
            if let Some((file, _)) = &mut self.file {
                file.write_all(&self.memory)?;
                self.memory.clear();
            }
        }
        Ok(())
    }

    fn read(self) -> io::Result<Spooled<'d>> {
        let Some((mut written, remove)) = self.file else {
            return Ok(Spooled { file: None, buffer: self.memory, at: 0, read: 0, len: 0 });
        };
        written.write_all(&self.memory)?;
        written.flush()?;
        let file = self.disk.open_read(&self.path)?;
        let len = file.len()?;
        Ok(Spooled { file: Some((file, remove)), buffer: Vec::new(), at: 0, read: 0, len })
    }
}

/// A spool that is read.
struct Spooled<'d> {
    file: Option<(Arc<dyn ReadFile>, Remove<'d>)>,
    buffer: Vec<u8>,
    at: usize,
    read: u64,
    len: u64,
}

impl Spooled<'_> {
    /// Reads on until `want` bytes are there, as far as there are any.
    fn fill(&mut self, want: usize) -> io::Result<()> {
        let Some((file, _)) = &self.file else { return Ok(()) };
        if self.buffer.len() - self.at >= want || self.read == self.len {
            return Ok(());
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        let before = self.buffer.len();
        let more = (self.len - self.read).min(want.max(BUFFER) as u64) as usize;
        self.buffer.resize(before + more, 0);
        file.read_exact_at(&mut self.buffer[before..], self.read)?;
        self.read += more as u64;
        Ok(())
    }

    fn varint(&mut self) -> io::Result<u64> {
        self.fill(10)?;
        let mut reader = Cursor::new(&self.buffer[self.at..]);
        let value = reader.varint().map_err(|Malformed(reason)| io::Error::other(reason))?;
        self.at += reader.position();
        Ok(value)
    }

    fn take(&mut self, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        self.fill(len)?;
        let taken = self.buffer.get(self.at..self.at + len);
        out.extend_from_slice(taken.ok_or_else(|| io::Error::other("the spool is cut short"))?);
        self.at += len;
        Ok(())
    }
}
