//! The write-ahead log: one for all tenants, in segments.
//!
//! A batch is one record, and a record is with the operating system before the batch is
//! acknowledged; one `fdatasync` for all tenants follows within the commit interval. The bytes are drawn
//! in `docs/formats/wal.md`.
//!
//! - [`record`]: what a record says, to bytes and back;
//! - [`values`]: rows as differences to the row before;
//! - [`segment`]: segments and frames, and how a damaged one is read;
//! - [`writer`]: the open log, its commit thread's work and its failures.
//!
//! **Recovery.** The last segment may end in the middle of a record: it is cut there. Damage elsewhere
//! costs the records it hit, and rows that are differences to those; reading goes on at the next whole
//! record, and what was lost is reported with file and offset.

pub mod record;
pub mod segment;
pub mod values;
pub(crate) mod writer;
