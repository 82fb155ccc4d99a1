//! Prometheus' TSDB blocks: what is in a directory named by a ULID.
//!
//! ```text
//! 01HF.../
//! ├── meta.json      who, when, how many                          [`meta`]
//! ├── index          symbols, series with their chunks, postings  [`index`]
//! ├── chunks/000001  the samples, 512 MiB a file                  [`segments`], [`chunk`]
//! └── tombstones     what has been deleted                        [`tombstones`]
//! ```
//!
//! [`BlockWriter`] writes one, series by series; [`Block`] reads one, series by series. Both hold what
//! the labels need in memory, never the samples. Whoever reads must expect anything: each decoder has
//! bounds, names file and byte of what it refuses, and leaves the rest readable.
//!
//! Source: Prometheus `tsdb/docs/format`; index version 2, chunks version 1, meta version 1.

mod bits;
pub mod block;
pub mod chunk;
pub mod error;
pub mod index;
pub mod meta;
pub mod segments;
pub mod tombstones;
pub mod writer;

pub use block::{Block, find_blocks};
pub use chunk::{Encoding, Samples};
pub use error::BlockError;
pub use index::{ChunkMeta, Series};
pub use meta::BlockMeta;
pub use writer::{BlockSpec, BlockWriter};

/// Names of what is in a block.
pub mod filenames {
    /// The description.
    pub const META: &str = "meta.json";
    /// The index.
    pub const INDEX: &str = "index";
    /// The directory of segment files.
    pub const CHUNKS: &str = "chunks";
    /// Deletions.
    pub const TOMBSTONES: &str = "tombstones";
    /// What follows the name of a block that is being written: Prometheus removes such directories.
    pub const UNFINISHED: &str = ".tmp-for-creation";
}
