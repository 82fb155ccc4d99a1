//! `tombstones`: intervals of time that have been deleted from series.
//!
//! ```text
//! magic 0130ba30 │ version 1 │ stones × (series uvarint │ first varint │ last varint) │ CRC-32C of the stones
//! ```

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use stdx::bytes::{Cursor, put_varint, put_zigzag};
use stdx::disk::Disk;

use crate::error::BlockError;
use crate::filenames;

const MAGIC: u32 = 0x0130_ba30;
const VERSION: u8 = 1;
const HEADER_LEN: usize = 5;
/// Longest file that is read, bytes.
const BYTES_MAX: u64 = 1 << 30;

/// The deletions of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tombstones {
    /// By series: intervals, both ends inclusive, milliseconds.
    stones: HashMap<u64, Vec<(i64, i64)>, foldhash::fast::RandomState>,
}

impl Tombstones {
    /// Deletes from `first_ms` to `last_ms`, both inclusive, of a series.
    pub fn add(&mut self, series: u64, first_ms: i64, last_ms: i64) {
        self.stones.entry(series).or_default().push((first_ms, last_ms));
    }

    /// How many intervals.
    pub fn len(&self) -> usize {
        self.stones.values().map(Vec::len).sum()
    }

    /// Whether nothing is deleted.
    pub fn is_empty(&self) -> bool {
        self.stones.is_empty()
    }

    /// What is deleted of a series.
    pub fn of(&self, series: u64) -> &[(i64, i64)] {
        self.stones.get(&series).map_or(&[], Vec::as_slice)
    }

    /// Reads the file of the block in `dir`; none is one without deletions.
    ///
    /// # Errors
    /// The file cannot be read or is damaged: what has been deleted is not known then.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Tombstones, BlockError> {
        let path = dir.join(filenames::TOMBSTONES);
        if !disk.exists(&path) {
            return Ok(Tombstones::default());
        }
        let file = disk.open_read(&path).map_err(BlockError::io("open", &path))?;
        let len = file.len().map_err(BlockError::io("measure", &path))?;
        if len > BYTES_MAX {
            return Err(BlockError::corrupt(&path, BYTES_MAX, "the file is longer than 1 GiB"));
        }
        let bytes = disk.read(&path).map_err(BlockError::io("read", &path))?;
        let bad = |offset: usize, reason: &str| BlockError::corrupt(&path, offset as u64, reason);
        if bytes.len() < HEADER_LEN + 4 {
            return Err(bad(bytes.len(), "the file is cut short"));
        }
        if bytes[..4] != MAGIC.to_be_bytes() {
            return Err(bad(0, "the magic number of tombstones is missing"));
        }
        if bytes[4] != VERSION {
            let reason = format!("version {} of tombstones is not known, only version 1", bytes[4]);
            return Err(BlockError::Unsupported { path, reason });
        }
        let (stones, crc) = bytes[HEADER_LEN..].split_at(bytes.len() - HEADER_LEN - 4);
        if crc32c::crc32c(stones).to_be_bytes() != *crc {
            return Err(bad(HEADER_LEN, "the tombstones fail their checksum"));
        }
        let mut reader = Cursor::new(stones);
        let mut found = Tombstones::default();
        while reader.remaining() > 0 {
            let at = HEADER_LEN + reader.position();
            let mut stone = || Ok((reader.varint()?, reader.zigzag()?, reader.zigzag()?));
            let (series, first, last) = stone().map_err(|error: stdx::bytes::Malformed| bad(at, error.0))?;
            found.add(series, first, last);
        }
        Ok(found)
    }

    /// Writes the file into `dir`, durably.
    ///
    /// # Errors
    /// The disk refuses, or there is one already.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), BlockError> {
        let path = dir.join(filenames::TOMBSTONES);
        let mut stones = Vec::new();
        let mut series: Vec<&u64> = self.stones.keys().collect();
        series.sort_unstable();
        for series in series {
            for (first, last) in self.of(*series) {
                put_varint(&mut stones, *series);
                put_zigzag(&mut stones, *first);
                put_zigzag(&mut stones, *last);
            }
        }
        let mut bytes = MAGIC.to_be_bytes().to_vec();
        bytes.push(VERSION);
        bytes.extend_from_slice(&stones);
        bytes.extend_from_slice(&crc32c::crc32c(&stones).to_be_bytes());
        let write = || {
            let mut file = disk.create(&path)?;
            file.write_all(&bytes)?;
            file.sync_data()
        };
        write().map_err(BlockError::io("write", &path))
    }
}
