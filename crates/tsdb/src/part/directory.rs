//! Where each series has its samples (DIR).
//!
//! ```text
//! chunk:   end of VAL varint │ end of HST varint, before its first series │ entry of each series
//! entry:   head u8 (bit 0 floats, bit 1 histograms, bit 2 start times, bit 3 those of histograms)
//!          [floats: rows of │ count varint │ block …] [starts: rows of] [histograms: rows of │ count │ length …]
//!          [their starts: rows of]
//! rows of: column zigzag, against the one before in the chunk │ first row varint
//! block:   0 │ k zigzag              all rows are the integer k
//!          1 │ bits u64              all rows have these bits
//!          2 │ length varint         in VAL, right behind what came last
//!          3 │ offset zigzag, length in VAL, somewhere else
//! ```
//!
//! A series of n rows has ⌈n / 480⌉ blocks as even as can be: block i ends before row n·(i+1)/blocks.
//! Its histogram blocks likewise, of 240 each (120 in the first version of HST).

use std::ops::Range;

use smallvec::SmallVec;
use stdx::bytes::{Cursor, put_varint, put_zigzag};

use super::columns::RowsOf;
use crate::codec::CodecError;

/// Rows of a value block at most.
pub(super) const BLOCK_ROWS: usize = 480;
/// Histograms of a block at most.
pub(super) const HISTOGRAM_ROWS: usize = 240;
/// Histograms of a block at most in the first version of HST.
pub(super) const HISTOGRAM_ROWS_V1: usize = 120;

const FLOATS: u8 = 1;
const HISTOGRAMS: u8 = 2;
const STARTS: u8 = 4;
const HISTOGRAM_STARTS: u8 = 8;

/// The rows of the blocks of a series of `rows` rows: starts, and the end.
pub(super) fn block_bounds(rows: usize, block_rows: usize) -> impl Iterator<Item = Range<usize>> {
    let blocks = rows.div_ceil(block_rows);
    (0..blocks).map(move |i| rows * i / blocks..rows * (i + 1) / blocks)
}

/// A block of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Block {
    /// All rows the same.
    Const(f64),
    /// In VAL.
    Stored { offset: u64, len: u32 },
}

/// The floats of a series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Floats {
    pub(super) times: RowsOf,
    pub(super) rows: u32,
    pub(super) blocks: SmallVec<[Block; 4]>,
    pub(super) starts: Option<RowsOf>,
}

/// The histograms of a series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histograms {
    pub(super) times: RowsOf,
    pub(super) rows: u32,
    /// Offset and length in HST.
    pub(super) blocks: SmallVec<[(u64, u32); 2]>,
    /// Histograms of a block at most.
    pub(super) block_rows: usize,
    pub(super) starts: Option<RowsOf>,
}

impl Histograms {
    /// The blocks that have some of `rows`: where they are, and which rows they have.
    pub(super) fn wanted(&self, rows: &Range<usize>) -> impl Iterator<Item = ((u64, u32), Range<usize>)> {
        let (from, to) = (rows.start, rows.end);
        let blocks = self.blocks.iter().copied().zip(block_bounds(self.rows as usize, self.block_rows));
        blocks.filter(move |(_, rows)| rows.start < to && rows.end > from)
    }
}

/// One series.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Entry {
    pub(super) floats: Option<Floats>,
    pub(super) histograms: Option<Histograms>,
}

/// What entries are written against; starts anew with every chunk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    column: u32,
    starts: u32,
    /// End of what has been referenced in VAL.
    values: u64,
    /// End of HST so far.
    histograms: u64,
    /// Histograms of a block at most.
    block_rows: usize,
}

impl State {
    /// The state a chunk starts with when so much is in VAL and HST.
    pub(super) fn at(values: u64, histograms: u64) -> State {
        State { column: 0, starts: 0, values, histograms, block_rows: HISTOGRAM_ROWS }
    }

    /// Appends the head of a chunk.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.values);
        put_varint(out, self.histograms);
    }

    /// Reads the head of a chunk, in a part whose histogram blocks have at most `block_rows` rows.
    pub(super) fn read(reader: &mut Cursor<'_>, block_rows: usize) -> Result<State, CodecError> {
        Ok(State { block_rows, ..State::at(reader.varint()?, reader.varint()?) })
    }

    /// Appends `entry`.
    pub(super) fn put_entry(&mut self, entry: &Entry, out: &mut Vec<u8>) {
        let floats = entry.floats.as_ref();
        let head = floats.map_or(0, |f| FLOATS | f.starts.map_or(0, |_| STARTS))
            | entry.histograms.as_ref().map_or(0, |h| HISTOGRAMS | h.starts.map_or(0, |_| HISTOGRAM_STARTS));
        out.push(head);
        if let Some(floats) = floats {
            put_rows(&mut self.column, floats.times, out);
            put_varint(out, u64::from(floats.rows));
            for block in &floats.blocks {
                self.put_block(*block, out);
            }
            if let Some(starts) = floats.starts {
                put_rows(&mut self.starts, starts, out);
            }
        }
        if let Some(histograms) = &entry.histograms {
            put_rows(&mut self.column, histograms.times, out);
            put_varint(out, u64::from(histograms.rows));
            for &(offset, len) in &histograms.blocks {
                debug_assert_eq!(offset, self.histograms, "histogram blocks follow each other");
                put_varint(out, u64::from(len));
                self.histograms = offset + u64::from(len);
            }
            if let Some(starts) = histograms.starts {
                put_rows(&mut self.starts, starts, out);
            }
        }
    }

    fn put_block(&mut self, block: Block, out: &mut Vec<u8>) {
        match block {
            Block::Const(value) if (value as i64 as f64).to_bits() == value.to_bits() => {
                out.push(0);
                put_zigzag(out, value as i64);
            }
            Block::Const(value) => {
                out.push(1);
                out.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            Block::Stored { offset, len } => {
                if offset == self.values {
                    out.push(2);
                } else {
                    out.push(3);
                    put_zigzag(out, offset.wrapping_sub(self.values) as i64);
                }
                put_varint(out, u64::from(len));
                self.values = self.values.max(offset + u64::from(len));
            }
        }
    }

    /// Reads the next entry.
    pub(super) fn read_entry(&mut self, reader: &mut Cursor<'_>) -> Result<Entry, CodecError> {
        let head = reader.byte()?;
        if head & !(FLOATS | HISTOGRAMS | STARTS | HISTOGRAM_STARTS) != 0 {
            return Err(CodecError::Malformed("a directory entry has an unknown head"));
        }
        let mut entry = Entry::default();
        if head & FLOATS != 0 {
            let times = read_rows(&mut self.column, reader)?;
            let rows = reader.at_most(u32::MAX as usize)?;
            let blocks = block_count(rows, BLOCK_ROWS, reader)?;
            let blocks = (0..blocks).map(|_| self.read_block(reader)).collect::<Result<_, _>>()?;
            let starts = if head & STARTS != 0 { Some(read_rows(&mut self.starts, reader)?) } else { None };
            entry.floats = Some(Floats { times, rows: rows as u32, blocks, starts });
        }
        if head & HISTOGRAMS != 0 {
            let times = read_rows(&mut self.column, reader)?;
            let rows = reader.at_most(u32::MAX as usize)?;
            let count = block_count(rows, self.block_rows, reader)?;
            let mut blocks = SmallVec::new();
            for _ in 0..count {
                let len = reader.at_most(u32::MAX as usize)? as u32;
                blocks.push((self.histograms, len));
                self.histograms = self.histograms.saturating_add(u64::from(len));
            }
            let with_starts = head & HISTOGRAM_STARTS != 0;
            let starts = if with_starts { Some(read_rows(&mut self.starts, reader)?) } else { None };
            entry.histograms =
                Some(Histograms { times, rows: rows as u32, blocks, block_rows: self.block_rows, starts });
        }
        Ok(entry)
    }

    fn read_block(&mut self, reader: &mut Cursor<'_>) -> Result<Block, CodecError> {
        let kind = reader.byte()?;
        let offset = match kind {
            0 => return Ok(Block::Const(reader.zigzag()? as f64)),
            1 => return Ok(Block::Const(f64::from_bits(reader.u64_le()?))),
            2 => self.values,
            3 => self.values.wrapping_add(reader.zigzag()? as u64),
            _ => return Err(CodecError::Malformed("a directory entry has an unknown block")),
        };
        let len = reader.at_most(u32::MAX as usize)? as u32;
        self.values = self.values.max(offset.saturating_add(u64::from(len)));
        Ok(Block::Stored { offset, len })
    }
}

fn block_count(rows: usize, block_rows: usize, reader: &Cursor<'_>) -> Result<usize, CodecError> {
    let blocks = rows.div_ceil(block_rows);
    if blocks > reader.remaining() { Err(CodecError::Truncated) } else { Ok(blocks) }
}

fn put_rows(column: &mut u32, rows: RowsOf, out: &mut Vec<u8>) {
    put_zigzag(out, i64::from(rows.column) - i64::from(*column));
    put_varint(out, u64::from(rows.first));
    *column = rows.column;
}

fn read_rows(column: &mut u32, reader: &mut Cursor<'_>) -> Result<RowsOf, CodecError> {
    let number = i64::from(*column).checked_add(reader.zigzag()?).and_then(|c| u32::try_from(c).ok());
    *column = number.ok_or(CodecError::Malformed("a directory entry names no column"))?;
    Ok(RowsOf { column: *column, first: reader.at_most(u32::MAX as usize)? as u32 })
}
