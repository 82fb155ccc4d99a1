//! The embedded store: head, log, parts, merges.

pub mod codec;
pub mod merge;
pub mod part;
pub mod tombstone;
