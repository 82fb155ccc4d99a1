//! Scrape pools and loops: from target groups to rows.
//!
//! ```text
//! target groups ─► Pool: labels, relabelling ─► a task for each target:
//!                     tick ─► Slot: fetch ─► RowMemory: read ─► Columns: row ─► Appender
//! ```
//!
//! [`Manager`] holds a pool for each job. A target's task waits for its ticks on an absolute grid of
//! time, fetches within the timeout, compares the exposition with the one before, and appends one
//! row. In a steady scrape only values are parsed, and nothing is hashed, resolved or relabelled.
//!
//! Where targets come from and where rows go is not known here: groups are handed in
//! ([`Manager::update_targets`]), a [`storage::Appender`] takes the rows, and a
//! [`client::Connector`] leads to the targets.

mod accounts;
pub mod client;
mod columns;
pub mod config;
mod failures;
mod manager;
mod metrics;
mod pool;
mod relay;
mod schedule;
mod scraper;
mod shared;
mod target;
mod turns;

pub use manager::{ApplyError, Clusters, Manager, ManagerParts};
pub use pool::Trouble;
pub use relay::RelayError;
pub use turns::{Alone, Turn, Turns};

#[cfg(test)]
mod tests;
