//! Remote write out: the rows of a queue to any receiver of remote write 1.0 or 2.0.
//!
//! One [`WriteOut`] is one receiver with one cursor. Rows are sent strictly in the order of the queue,
//! oldest first; the cursor moves on when everything before it has been taken, so that whatever dies,
//! nothing is passed over, and at most what was under way is sent twice.
//!
//! ```text
//! queue ─ blocks ─► catalog + collector ─► group ─► sender ─► Post (the wiring's HTTP client)
//!                   relabelled once        in order,  state: retries, bisection,
//!                   for each series        batches    how many requests at a time
//! ```
//!
//! - [`group`]: what makes a retry byte-identical, also after a restart.
//! - [`sender`]: which request is next, and what an answer means for it.
//!
//! Source: remote write 1.0 and 2.0; Prometheus `storage/remote/queue_manager.go` for what configuration
//! keys mean.

mod answer;
mod catalog;
mod config;
mod feed;
mod group;
mod intake;
mod metrics;
mod request;
mod run;
mod sender;

pub use answer::{Answer, Written};
pub use config::{MetadataConfig, Protocol, QueueConfig, WriteOutConfig};
pub use metrics::WriteOutMetrics;
pub use run::{Post, Posting, WriteOut};

#[cfg(test)]
mod tests;
