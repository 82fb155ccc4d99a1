//! A disk-backed queue of opaque blocks: written once, read by several readers, each with a durable cursor.
//!
//! ```text
//! encoder ─► Writer ─► segments/000000000001.mgq ─► Reader "hub-a"  live lane │ backlog lane
//!                      segments/000000000002.mgq ─► Reader "hub-b"
//!                      readers/hub-a.cursor
//! ```
//!
//! # Identity
//! A directory has a random 128-bit *queue id*. Each [`open`] begins a random *incarnation*, and blocks are
//! numbered within it from 0: ([`BlockKey`]) queue id, incarnation and number name a block for ever, also when
//! the volume has been copied and both copies live on.
//!
//! # Writing
//! There is one [`Writer`]. A *segment* is what the encoder's dictionary and deltas are scoped to; it lasts
//! some 30 minutes or 64 MiB, and the encoder drives its rotation:
//!
//! ```text
//! if writer.due()   { writer.rotate() }          // old enough, large enough, or somebody asked for it
//! if writer.fresh() { forget dictionary and bases }  // the next block is the first one of a segment
//! writer.write(&meta, &payload)?                 // with the operating system when it returns
//! ```
//!
//! After an error of `write` the segment is over and nothing of the block is in the queue: `fresh()` is true,
//! the number has not been used, and the encoder begins anew with full rows. A full disk is
//! [`QueueError::Full`] and the writer goes on when there is space again.
//! [`Queue::sync`] makes everything durable that was written before it was called; concurrent callers share
//! one `fdatasync`. When that fails, the queue is read-only until it is opened anew.
//!
//! # Reading
//! A [`Reader`] hands out the blocks that it has neither acknowledged nor handed out before, oldest first, in
//! two lanes: segments before [`Reader::split_at`] are [`Lane::Backlog`], that one and later ones
//! [`Lane::Live`]. Without a split everything is live, hence oldest first. After an outage: ask for a rotation
//! ([`Queue::request_rotation`]) and split at [`Queue::next_segment`]. [`Reader::acknowledge`] takes intervals; a
//! segment goes away once every reader has acknowledged all of it ([`Queue::upkeep`]).
//! [`Reader::read`] gives any block that is still there, also an acknowledged one, for a receiver that needs
//! the context from [`BlockMeta::floor`] on.
//!
//! # Bounds and losses
//! Past [`Options::bytes_max`] or [`Options::age_max`], or narrower bounds given since, the oldest segments are dropped. Each reader gets a durable
//! record ([`Lost`]) of the blocks that it had not acknowledged, with their rows, samples and times, until it
//! is told that they have been booked ([`Reader::booked`]). A damaged block costs itself, and a record as well.
//!
//! # Recovery
//! Segments that have been ended carry a footer and are not read at open. Others are read from front to
//! back: what is behind the last whole block is a torn tail and forgotten. Files: `docs/formats/queue.md`.

mod block;
mod bytes;
mod cursor;
mod error;
mod intervals;
mod open;
mod pending;
mod queue;
mod reader;
mod segment;
mod sync;
mod upkeep;
mod writer;

pub use block::{Block, BlockKey, BlockMeta};
pub use cursor::{Lost, LostReason};
pub use error::QueueError;
pub use intervals::Intervals;
pub use open::{Finding, Opened, open};
pub use pending::Pending;
pub use queue::{Ids, Options, Queue, SegmentInfo, Start, Stats};
pub use reader::{Lane, Reader};
pub use upkeep::Upkeep;
pub use writer::Writer;
