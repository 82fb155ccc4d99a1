//! The embedded store: head, log, parts, merges.
//!
//! A batch of rows goes through [`Db`] into the log ([`wal`]) and the head; every half hour a flush
//! writes the head to immutable parts ([`part`]) and cuts the log; merges ([`merge`]) turn parts into
//! larger ones. A query joins head and parts. What the files look like is drawn in `docs/formats/`.
//!
//! - [`db`]: the store as its users see it;
//! - `head`: tiles, lanes, late samples, the index of series in memory;
//! - [`wal`]: records, segments, recovery;
//! - [`part`], [`codec`], [`merge`], [`tombstone`]: what is on disk for good;
//! - [`closed`]: a data directory that nobody has open: what is in it, and whether it is sound;
//! - [`manifest`]: which parts are there;
//! - [`version`]: what a query pins.

mod checksum;
pub mod closed;
pub mod codec;
pub mod config;
pub mod db;
pub mod filenames;
pub(crate) mod head;
pub mod manifest;
pub mod merge;
pub mod metrics;
pub mod part;
pub mod tombstone;
pub mod version;
pub mod wal;

pub use config::{Config, SyncPolicy};
pub use db::{
    CompactError, Db, FlushError, HeadStats, Import, LabelCount, NotReady, OpenError, PartStats,
    SnapshotError, SnapshotInfo, Stats, StoredExemplar,
};
pub use head::budget::{JobUsage, SeriesLimits, SeriesUsage, SourceUsage};
