//! `index`, version 2: symbols, series with their chunks, and postings.
//!
//! ```text
//! magic baaad700 │ version 2 │ symbols │ series │ label indices │ postings │ label offset table
//! │ postings offset table │ table of contents
//! ```
//!
//! - symbols: `len u32 │ count u32 │ count × text │ CRC`, sorted; others name them by number;
//! - series, each at a multiple of 16 bytes: `len uvarint │ labels uvarint │ (name, value) uvarint each │
//!   chunks uvarint │ chunks │ CRC`; the series' number is its offset / 16;
//! - postings, a list for each pair of name and value: `len u32 │ count u32 │ series u32 each │ CRC`;
//! - postings offset table: `len u32 │ count u32 │ (2 │ name text │ value text │ offset uvarint) each │
//!   CRC`, sorted; the list of all series stands first, under an empty name and value;
//! - label indices and their table are not read any more by anybody this side of Prometheus 2.20; they
//!   are written for those before;
//! - table of contents: six offsets u64 and a CRC, the last 52 bytes.
//!
//! All CRCs are CRC-32C over what lies between `len` and themselves.

use model::Labels;

mod reader;
mod writer;

pub use reader::{Index, SeriesIter};
pub(crate) use writer::IndexWriter;

const MAGIC: u32 = 0xbaaa_d700;
const VERSION: u8 = 2;
const HEADER_LEN: usize = 5;
const TOC_LEN: usize = 52;

/// Where a chunk is, and what times it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkMeta {
    /// Time of the first sample, milliseconds.
    pub min_ms: i64,
    /// Time of the last sample.
    pub max_ms: i64,
    /// See [`crate::segments`].
    pub reference: u64,
}

/// A series of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Its number: offset in the index / 16.
    pub id: u64,
    /// Its labels.
    pub labels: Labels,
    /// Its chunks, as the index has them (by time).
    pub chunks: Vec<ChunkMeta>,
}
