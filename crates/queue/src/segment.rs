//! A segment: a file of blocks of one incarnation, immutable once it has been ended.
//!
//! It starts with a header that names its queue and incarnation, then blocks follow one another, and a
//! footer ends it: sums and a sparse index, so that opening a queue does not read its blocks. A segment
//! without a sound footer (the process died, the disk was full) is read from front to back once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stdx::disk::{Disk, ReadFile};

use crate::block::{HEADER_LEN, Header, salt};
use crate::bytes::{Cursor, get_i64, get_u16, get_u32, get_u64, get_u128};
use crate::error::QueueError;

/// Major version of all files of a queue.
pub(crate) const MAJOR: u16 = 1;
/// Minor version; readers of the same major take any.
pub(crate) const MINOR: u16 = 0;
const MAGIC: &[u8; 8] = b"MGRAFQSG";
const FOOTER_MAGIC: &[u8; 4] = b"MGqf";
const END_MAGIC: &[u8; 4] = b"MGqe";
/// Length of a segment's header.
pub(crate) const START_LEN: usize = 80;
/// Checksum, length and magic that end the footer.
const END_LEN: usize = 12;
/// A place in the index at least every so many bytes.
const INDEX_STEP: u64 = 256 << 10;
/// How much is searched at a time for the next sound block.
const SEARCH_LEN: usize = 1 << 20;

/// A segment as it is known in memory.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) incarnation: u128,
    pub(crate) first: u64,
    /// One past its last block.
    pub(crate) next: u64,
    /// Where its blocks end.
    pub(crate) end: u64,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    pub(crate) created_ms: i64,
    pub(crate) written_ms: i64,
    pub(crate) sums: Sums,
    /// Number and offset of some blocks, in order, the first one among them.
    pub(crate) index: Vec<(u64, u64)>,
    pub(crate) ended: bool,
}

/// What some blocks hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) rows: u64,
    pub(crate) samples: u64,
    pub(crate) oldest_ms: i64,
    pub(crate) newest_ms: i64,
}

impl Sums {
    pub(crate) const NONE: Sums = Sums { rows: 0, samples: 0, oldest_ms: i64::MAX, newest_ms: i64::MIN };

    pub(crate) fn add(&mut self, header: &Header) {
        self.rows += u64::from(header.meta.rows);
        self.samples += u64::from(header.meta.samples);
        self.oldest_ms = self.oldest_ms.min(header.meta.oldest_ms);
        self.newest_ms = self.newest_ms.max(header.meta.newest_ms);
    }
}

/// The name of a segment's file.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:012}.mgq")
}

/// The number in a segment's file name.
pub(crate) fn number_of(path: &Path) -> Option<u64> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".mgq")?;
    (stem.len() == 12 && stem.bytes().all(|b| b.is_ascii_digit())).then(|| stem.parse().ok())?
}

/// What stands at the start of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) queue_id: u128,
    pub(crate) incarnation: u128,
    pub(crate) number: u64,
    pub(crate) first: u64,
    pub(crate) created_ms: i64,
}

impl Start {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(START_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&MAJOR.to_le_bytes());
        out.extend_from_slice(&MINOR.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.queue_id.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// `Ok(None)` when there is no sound header, an error for a later version.
    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Option<Start>, QueueError> {
        let Some(bytes) = bytes.get(..START_LEN) else { return Ok(None) };
        if !bytes.starts_with(MAGIC) || crc32c::crc32c(&bytes[..76]) != get_u32(bytes, 76) {
            return Ok(None);
        }
        let major = get_u16(bytes, 8);
        if major > MAJOR {
            return Err(QueueError::Version { path: path.to_owned(), major, known: MAJOR });
        }
        Ok(Some(Start {
            queue_id: get_u128(bytes, 16),
            incarnation: get_u128(bytes, 32),
            number: get_u64(bytes, 48),
            first: get_u64(bytes, 56),
            created_ms: get_i64(bytes, 64),
        }))
    }
}

impl Segment {
    /// A segment without blocks, its header just written.
    pub(crate) fn begin(start: &Start, path: PathBuf) -> Segment {
        Segment {
            number: start.number,
            path,
            incarnation: start.incarnation,
            first: start.first,
            next: start.first,
            end: START_LEN as u64,
            bytes: START_LEN as u64,
            created_ms: start.created_ms,
            written_ms: start.created_ms,
            sums: Sums::NONE,
            index: Vec::new(),
            ended: false,
        }
    }

    /// Takes in a block that stands at the end.
    pub(crate) fn push(&mut self, header: &Header, offset: u64) {
        if self.index.last().is_none_or(|(_, at)| offset - at >= INDEX_STEP) {
            self.index.push((header.block, offset));
        }
        self.sums.add(header);
        self.next = header.block + 1;
        self.end = offset + header.total_len();
        self.bytes = self.bytes.max(self.end);
    }

    /// A place to start walking from that is at or before `block`: number and offset.
    pub(crate) fn place_before(&self, block: u64) -> (u64, u64) {
        let after = self.index.partition_point(|(number, _)| *number <= block);
        match after.checked_sub(1) {
            Some(at) => self.index[at],
            None => (self.first, START_LEN as u64),
        }
    }

    /// The footer that ends it. It repeats the header, so that no single place holds what all depends on.
    pub(crate) fn footer(&self, queue_id: u128) -> Vec<u8> {
        let start = Start {
            queue_id,
            incarnation: self.incarnation,
            number: self.number,
            first: self.first,
            created_ms: self.created_ms,
        };
        let mut out = Vec::with_capacity(160 + self.index.len() * 16);
        out.extend_from_slice(FOOTER_MAGIC);
        out.extend_from_slice(&start.encode());
        for word in [self.next, self.end, self.sums.rows, self.sums.samples] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for time in [self.sums.oldest_ms, self.sums.newest_ms, self.written_ms] {
            out.extend_from_slice(&time.to_le_bytes());
        }
        out.extend_from_slice(&u32::try_from(self.index.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (block, offset) in &self.index {
            out.extend_from_slice(&block.to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(salt(self.incarnation), &out);
        let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(END_MAGIC);
        out
    }

    fn take_footer(&mut self, body: &[u8], body_at: u64) -> Option<()> {
        let mut cursor = Cursor(body);
        cursor.take(FOOTER_MAGIC.len() + START_LEN)?;
        let (next, end, rows, samples) = (cursor.u64()?, cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let (oldest_ms, newest_ms, written_ms) = (cursor.i64()?, cursor.i64()?, cursor.i64()?);
        let count = get_u32(cursor.take(4)?, 0) as usize;
        if cursor.0.len() != count.checked_mul(16)? || end != body_at || next < self.first {
            return None;
        }
        let mut index = Vec::with_capacity(count);
        for _ in 0..count {
            index.push((cursor.u64()?, cursor.u64()?));
        }
        let ordered = index.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        let within = index.iter().all(|(block, at)| (self.first..next).contains(block) && *at < end);
        if !ordered || !within {
            return None;
        }
        self.sums = Sums { rows, samples, oldest_ms, newest_ms };
        (self.next, self.end, self.written_ms, self.index) = (next, end, written_ms, index);
        Some(())
    }
}

/// A segment as it was found on disk.
pub(crate) struct Found {
    pub(crate) segment: Segment,
    /// Bytes behind the last whole block, of a segment that had not been ended.
    pub(crate) torn: u64,
    pub(crate) queue_id: u128,
}

/// Opens the segment at `path`: by its footer, or else by reading it through. `None` when neither its footer
/// nor its header is sound: then no block of it can be read.
pub(crate) fn load(disk: &dyn Disk, path: &Path, number: u64) -> Result<Option<Found>, QueueError> {
    let at = |what| QueueError::io(what, path);
    let file = disk.open_read(path).map_err(at("open"))?;
    let len = file.len().map_err(at("measure"))?;
    if len < START_LEN as u64 {
        return Ok(None);
    }
    if let Some((start, body, body_at)) = read_footer(file.as_ref(), len, path)? {
        let mut segment = Segment::begin(&Start { number, ..start }, path.to_owned());
        if segment.take_footer(&body, body_at).is_some() {
            (segment.bytes, segment.ended) = (len, true);
            return Ok(Some(Found { segment, torn: 0, queue_id: start.queue_id }));
        }
    }
    let mut start = [0; START_LEN];
    file.read_exact_at(&mut start, 0).map_err(at("read"))?;
    let Some(start) = Start::decode(&start, path)? else { return Ok(None) };
    let mut segment = Segment::begin(&Start { number, ..start }, path.to_owned());
    let mut walk = Walk::new(file, segment.incarnation, (segment.first, START_LEN as u64), len);
    let mut pending = Vec::new();
    while let Some(step) = walk.next().map_err(at("read"))? {
        pending.push(step);
        if walk.payload(&step).map_err(at("read"))?.is_none() {
            continue;
        }
        // A block with a damaged payload counts only when a sound one follows; else it is a torn tail.
        for step in pending.drain(..) {
            segment.push(&step.header, step.offset);
        }
    }
    segment.bytes = len;
    let torn = len - segment.end;
    Ok(Some(Found { segment, torn, queue_id: start.queue_id }))
}

/// The header as the footer repeats it, the footer, and where that starts; `None` without a sound footer.
fn read_footer(
    file: &dyn ReadFile,
    len: u64,
    path: &Path,
) -> Result<Option<(Start, Vec<u8>, u64)>, QueueError> {
    let at = |what| QueueError::io(what, path);
    let mut end = [0; END_LEN];
    let end_at = len - END_LEN as u64;
    file.read_exact_at(&mut end, end_at).map_err(at("read"))?;
    let body_at = end_at.checked_sub(u64::from(get_u32(&end, 4))).filter(|at| *at >= START_LEN as u64);
    let Some(body_at) = body_at.filter(|_| end.ends_with(END_MAGIC)) else { return Ok(None) };
    let mut body = vec![0; usize::try_from(end_at - body_at).unwrap_or(0)];
    file.read_exact_at(&mut body, body_at).map_err(at("read"))?;
    let Some(start) = body.strip_prefix(FOOTER_MAGIC) else { return Ok(None) };
    let Some(start) = Start::decode(start, path)? else { return Ok(None) };
    let sound = crc32c::crc32c_append(salt(start.incarnation), &body) == get_u32(&end, 0);
    Ok(sound.then_some((start, body, body_at)))
}

/// Walks over the blocks of a segment, past what is damaged.
#[derive(Debug)]
pub(crate) struct Walk {
    file: Arc<dyn ReadFile>,
    salt: u32,
    /// Number and offset of the block that comes next if nothing is damaged.
    pub(crate) at: (u64, u64),
    /// Where blocks end.
    pub(crate) end: u64,
}

/// A sound header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) header: Header,
    pub(crate) offset: u64,
}

impl Walk {
    pub(crate) fn new(file: Arc<dyn ReadFile>, incarnation: u128, at: (u64, u64), end: u64) -> Walk {
        Walk { file, salt: salt(incarnation), at, end }
    }

    /// The next block with a sound header.
    pub(crate) fn next(&mut self) -> io::Result<Option<Step>> {
        let (expected, offset) = self.at;
        if offset + HEADER_LEN as u64 > self.end {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_LEN];
        self.file.read_exact_at(&mut bytes, offset)?;
        let here = Header::decode(&bytes, self.salt).map(|header| (offset, header));
        let found = match here.filter(|found| self.fits(expected, found)) {
            Some(found) => Some(found),
            None => self.search(expected, offset + 1)?,
        };
        Ok(found.map(|(offset, header)| {
            self.at = (header.block + 1, offset + header.total_len());
            Step { header, offset }
        }))
    }

    fn fits(&self, expected: u64, (offset, header): &(u64, Header)) -> bool {
        (expected..u64::MAX).contains(&header.block) && offset + header.total_len() <= self.end
    }

    fn search(&self, expected: u64, from: u64) -> io::Result<Option<(u64, Header)>> {
        let mut from = from;
        while from + HEADER_LEN as u64 <= self.end {
            let len = usize::try_from(self.end - from).unwrap_or(SEARCH_LEN).min(SEARCH_LEN);
            let mut window = vec![0; len];
            self.file.read_exact_at(&mut window, from)?;
            match Header::find(&window, self.salt, expected) {
                Some((at, header)) => {
                    let found = (from + at as u64, header);
                    if self.fits(expected, &found) {
                        return Ok(Some(found));
                    }
                    from = found.0 + 1;
                }
                None => from += (len - HEADER_LEN) as u64 + 1,
            }
        }
        Ok(None)
    }

    /// The payload of a block; `None` when it is damaged.
    pub(crate) fn payload(&self, step: &Step) -> io::Result<Option<Vec<u8>>> {
        let mut payload = vec![0; step.header.payload_len as usize];
        self.file.read_exact_at(&mut payload, step.offset + HEADER_LEN as u64)?;
        Ok((crc32c::crc32c(&payload) == step.header.payload_crc).then_some(payload))
    }
}
