//! Blocks on their way to a hub: what both ends say to each other, without any input or output, so that the
//! simulation and real HTTP run the same code.
//!
//! ```text
//! agent                                        hub
//! Sender ── hello: queue, segments held ─────► Door ─► Intake
//!        ◄─ what is stored of them ───────────
//!        ── batch: blocks of one segment ────►        takes each, then one sync
//!        ◄─ a verdict for each, all durable ──
//!  queue::Reader::acknowledge
//! ```
//!
//! - [`message`] has the four messages as bytes (`docs/formats/ship.md`);
//! - [`Sender`] is the agent's end, one for each hub: it polls a [`queue::Reader`], live lane first;
//! - [`Door`] is the hub's end, in front of an [`Intake`].
//!
//! A verdict of *stored* or *known* is sent only after the sync that covers it, and nothing else frees a
//! block at the agent. Answers may get lost, come twice or late: the sender repeats, the hub knows what
//! it has. Each lane has at most one batch on its way, so that blocks of a segment arrive in order; a
//! hub that lost its decoder's memory asks for *context*, and the sender goes back.

pub mod message;

mod door;
mod sender;

pub use door::{Door, DoorError, Intake, IntakeError, Peer};
pub use message::{MessageError, Refusal, SegmentKey, SentBlock, Verdict};
pub use sender::{Outgoing, Request, Sender, SenderOptions, SenderStats};
