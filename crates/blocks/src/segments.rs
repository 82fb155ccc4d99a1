//! `chunks/000001` and so on: chunks one after the other, each framed and checksummed.
//!
//! ```text
//! file:   magic 85bd40dd │ version 1 │ 3 × 0 │ chunks
//! chunk:  length uvarint │ encoding u8 │ data, length bytes │ CRC-32C of encoding and data, u32 BE
//! ```
//!
//! A reference is the number of the file (from 0, in order of names) in its upper half and the offset in
//! the lower.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stdx::bytes::{Cursor, put_varint};
use stdx::disk::{AppendFile, Disk, ReadFile};

use crate::chunk::Encoding;
use crate::error::BlockError;

const MAGIC: u32 = 0x85bd_40dd;
const VERSION: u8 = 1;
const HEADER_LEN: usize = 8;
/// A file is ended before it becomes longer than this, bytes.
pub const SEGMENT_BYTES_MAX: u64 = 512 << 20;
/// Longest chunk that is read, bytes: far beyond 65,535 floats.
const CHUNK_BYTES_MAX: u64 = 16 << 20;
/// Bytes written at a time.
const BUFFER: usize = 1 << 20;
/// Bytes read at a time, when chunks are neighbours.
const WINDOW: u64 = 256 << 10;

/// Writes the segment files of one block.
#[derive(Debug)]
pub(crate) struct SegmentsWriter<'d> {
    disk: &'d dyn Disk,
    dir: PathBuf,
    file: Option<Box<dyn AppendFile>>,
    /// Files begun.
    files: u32,
    /// Length of the open file, what is buffered included.
    len: u64,
    buffer: Vec<u8>,
    bytes: u64,
    segment_bytes_max: u64,
}

impl<'d> SegmentsWriter<'d> {
    pub(crate) fn new(disk: &'d dyn Disk, dir: PathBuf, segment_bytes_max: u64) -> SegmentsWriter<'d> {
        let buffer = Vec::with_capacity(BUFFER);
        SegmentsWriter { disk, dir, file: None, files: 0, len: 0, buffer, bytes: 0, segment_bytes_max }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format!("{:06}", self.files))
    }

    /// Appends a chunk; its reference.
    pub(crate) fn add(&mut self, encoding: Encoding, data: &[u8]) -> Result<u64, BlockError> {
        let framed = data.len() as u64 + 15;
        if self.file.is_none() || self.len + framed > self.segment_bytes_max {
            self.roll()?;
        }
        let reference = u64::from(self.files - 1) << 32 | self.len;
        let before = self.buffer.len();
        put_varint(&mut self.buffer, data.len() as u64);
        let start = self.buffer.len();
        self.buffer.push(encoding as u8);
        self.buffer.extend_from_slice(data);
        let crc = crc32c::crc32c(&self.buffer[start..]);
        self.buffer.extend_from_slice(&crc.to_be_bytes());
        self.len += (self.buffer.len() - before) as u64;
        if self.buffer.len() > BUFFER - (16 << 10) {
            self.flush()?;
        }
        Ok(reference)
    }

    fn roll(&mut self) -> Result<(), BlockError> {
        self.end()?;
        self.files += 1;
        let path = self.path();
        self.file = Some(self.disk.create(&path).map_err(BlockError::io("create", &path))?);
        self.buffer.extend_from_slice(&MAGIC.to_be_bytes());
        self.buffer.extend_from_slice(&[VERSION, 0, 0, 0]);
        self.len = HEADER_LEN as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        if let Some(file) = &mut self.file {
            self.bytes += self.buffer.len() as u64;
            let written = file.write_all(&self.buffer);
            written.map_err(BlockError::io("write", &self.path()))?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BlockError> {
        self.flush()?;
        let path = self.path();
        match self.file.take() {
            Some(mut file) => file.sync_data().map_err(BlockError::io("sync", &path)),
            None => Ok(()),
        }
    }

    /// Ends the last file. Gives the bytes of all.
    pub(crate) fn finish(mut self) -> Result<u64, BlockError> {
        self.end()?;
        self.disk.sync_dir(&self.dir).map_err(BlockError::io("sync", &self.dir))?;
        Ok(self.bytes)
    }
}

/// Reads the segment files of one block.
#[derive(Debug)]
pub struct Segments {
    files: Vec<Segment>,
}

/// What one reader of segments has read last: chunks of a series are neighbours.
#[derive(Debug, Default)]
pub struct Window {
    /// The file's number; none at first.
    file: Option<usize>,
    start: u64,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: Arc<dyn ReadFile>,
    len: u64,
}

impl Segments {
    /// Opens the files in `dir`.
    ///
    /// # Errors
    /// A file cannot be opened, or its header is not that of a segment.
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<Segments, BlockError> {
        let paths = disk.read_dir(dir).map_err(BlockError::io("list", dir))?;
        let mut files = Vec::new();
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let file = disk.open_read(&path).map_err(BlockError::io("open", &path))?;
            let len = file.len().map_err(BlockError::io("measure", &path))?;
            if len < HEADER_LEN as u64 {
                return Err(BlockError::corrupt(&path, len, format!("{len} bytes are no segment")));
            }
            let mut header = [0; HEADER_LEN];
            file.read_exact_at(&mut header, 0).map_err(BlockError::io("read", &path))?;
            if header[..4] != MAGIC.to_be_bytes() {
                return Err(BlockError::corrupt(&path, 0, "the magic number of a segment is missing"));
            }
            if header[4] != VERSION {
                let reason = format!("version {} of a segment is not known, only version 1", header[4]);
                return Err(BlockError::Unsupported { path, reason });
            }
            files.push(Segment { path, file, len });
        }
        Ok(Segments { files })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|segment| segment.len).sum()
    }

    /// The file and the offset that a reference means, for messages.
    pub(crate) fn place(&self, reference: u64) -> Option<(&Path, u64)> {
        let segment = self.files.get((reference >> 32) as usize)?;
        Some((&segment.path, reference & 0xffff_ffff))
    }

    /// Reads the chunk at `reference`: encoding byte and data, checked.
    ///
    /// # Errors
    /// The reference leads nowhere (then `named` names whoever has it), or the chunk is damaged.
    pub fn read<'w>(
        &self,
        reference: u64,
        named: &Path,
        window: &'w mut Window,
    ) -> Result<(Encoding, &'w [u8]), BlockError> {
        let (at, offset) = ((reference >> 32) as usize, reference & 0xffff_ffff);
        let Some(segment) = self.files.get(at) else {
            let reason = format!("a chunk in segment file {} of {}", at + 1, self.files.len());
            return Err(BlockError::corrupt(named, 0, reason));
        };
        let (path, len) = (segment.path.clone(), segment.len);
        let bad = |offset, reason: &str| BlockError::corrupt(&path, offset, reason);
        if offset < HEADER_LEN as u64 || offset >= len {
            return Err(bad(offset, "a reference leads out of the segment"));
        }
        self.fill(at, offset, 16, window)?;
        let mut reader = Cursor::new(window.from(offset));
        let data_len = reader.varint().map_err(|error| bad(offset, error.0))?;
        let head = reader.position() as u64;
        // Encoding and checksum around the data.
        let whole = head.saturating_add(data_len).saturating_add(5);
        if data_len > CHUNK_BYTES_MAX || offset.saturating_add(whole) > len {
            return Err(bad(offset, "a chunk is longer than its file or 16 MiB"));
        }
        self.fill(at, offset, whole, window)?;
        let framed = &window.from(offset)[head as usize..whole as usize];
        let (data, crc) = framed.split_at(framed.len() - 4);
        if crc32c::crc32c(data).to_be_bytes() != *crc {
            return Err(bad(offset, "the chunk fails its checksum"));
        }
        let encoding =
            Encoding::of(data[0]).ok_or_else(|| bad(offset, &format!("unknown encoding {}", data[0])))?;
        Ok((encoding, &data[1..]))
    }

    /// Makes the window hold `want` bytes from `offset`, as far as the file has them.
    fn fill(&self, at: usize, offset: u64, want: u64, window: &mut Window) -> Result<(), BlockError> {
        let segment = &self.files[at];
        let end = offset.saturating_add(want).min(segment.len);
        let held = window.start + window.bytes.len() as u64;
        if window.file == Some(at) && window.start <= offset && end <= held {
            return Ok(());
        }
        let end = offset.saturating_add(want.max(WINDOW)).min(segment.len);
        window.file = None;
        window.bytes.resize((end - offset) as usize, 0);
        let read = segment.file.read_exact_at(&mut window.bytes, offset);
        read.map_err(BlockError::io("read", &segment.path))?;
        (window.file, window.start) = (Some(at), offset);
        Ok(())
    }
}

impl Window {
    fn from(&self, offset: u64) -> &[u8] {
        &self.bytes[(offset - self.start) as usize..]
    }
}
