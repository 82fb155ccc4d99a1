//! The account of what was due and what is stored, for each source.
//!
//! ```text
//! scraper ─► Batch { rows, accounts } ─► LedgerAppender ─► store
//!                                            │  taken: Begin, Tick, End
//!                                            ▼
//!                                          Ledger ─► completeness, gaps, metrics
//! ```
//!
//! A scraper states beside its rows what was due: when a source begins and ends, and what became of each
//! tick. [`LedgerAppender`] stands before the hub's store and writes down, once the store has taken a
//! batch, what of it is stored. [`Ledger`] answers with *stored, missing (why), unknown*: the sum of the
//! three is what was expected, and what nobody has told of is never stored.
//!
//! What is known is a set of facts, one for each tick and source; of two about one tick the better one
//! holds. So it does not matter how often, in which order and by which of two agents a tick is told, and
//! nothing is ever taken back. Facts are kept as runs ("complete from t1 to t2 at this interval"), so a
//! source without gaps costs some bytes, however long.
//!
//! **Never more than the store holds.** After a kill both have what was written. After a power cut the
//! ledger takes only what it has marked as being in the store for good; the rest is told again by the
//! agent, or is unknown. A damaged file costs its tenant's detail, which then is unknown.
//!
//! Why it is as it is: `docs/design/ledger.md`; the bytes: `docs/formats/ledger.md`.

mod appender;
mod entry;
mod fact;
mod fleet;
mod ledger;
mod log;
mod metrics;
mod opened;
mod present;
mod pushed;
mod report;
mod runs;
mod source;
mod tenant;

pub use appender::LedgerAppender;
pub use fact::{Fact, Loss, Verdict};
pub use fleet::AgentStatus;
pub use ledger::{Ledger, LedgerConfig, OpenError};
pub use log::entries_in;
pub use present::{KnownSource, LastWord, SilentSource};
pub use pushed::Pushed;
pub use report::{Ask, By, Gap, Group, Incomplete, Report, Tally, Unevenness};
pub use source::{LossReport, Pause};

#[cfg(test)]
mod tests;
