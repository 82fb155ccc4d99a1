//! Several scrapers of one cluster share its targets, and each tick of a target has one of them.
//!
//! Each member keeps a lease in a place they all see ([`Leases`]). In it stands what the member *claims*: from
//! which tick on it shares the targets with whom ([`View`]). Rendezvous hashing makes the share of a view, so
//! a change of members moves only what has to move.
//!
//! **The rule.** A member scrapes a target's tick when
//! 1. every view that it has written down, or is writing down, gives it the target at that tick;
//! 2. it has read the others' leases *after* its own was written, and none of them claims that tick;
//! 3. its own last renewal began less than three quarters of the lease's duration ago, by its own monotonic
//!    clock, and the tick lies before that renewal's time plus the duration.
//!
//! Of two members that claim one tick at least one reads the other's claim (each writes first and reads then), and
//! refrains: no tick is scraped twice, whatever the clocks say and however slow the leases' place is. What
//! a member gives up it gives up from a tick on that it has not begun (`from_ms`), and the one that gains the target
//! reads that tick in its lease: a planned change of hands loses no tick.
//!
//! A member whose lease did not change for its duration, as the *reader's* monotonic clock has it, is gone; by
//! point 3 it has stopped by then. What it may still have scraped ends at its last renewal's time plus the
//! duration: nobody claims an earlier tick of it.
//!
//! A member that cannot read the leases may go on with the share it has ([`Settings::keep`]) as long as all others say, on
//! another way ([`Words`]), that they have heard of it: to them it is as if it had renewed its lease.
//!
//! [`Member`] is all of this without any input or output; [`Pair`] runs it.

mod file;
mod lease;
mod member;
mod metrics;
mod pair;
mod share;
mod view;
mod word;

pub use file::{FileLeases, decode};
pub use lease::{BoxFuture, Held, Lease, LeaseError, Leases, MEMBER_LENGTH_MAX, Standing, Version};
pub use member::{Member, Now, Settings, Write, is_member_name};
pub use metrics::Metrics;
pub use pair::{MemberState, Pair, PairConfig};
pub use share::{Share, Turn};
pub use view::{View, at, owner};
pub use word::{Heard, WORD_BYTES_MAX, Word, Words};
