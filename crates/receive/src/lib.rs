//! Push doors: remote write 1.0 and 2.0.
//!
//! `POST /api/v1/write` is unpacked, its series are found among those the door knows, its samples
//! are put into rows by (source, timestamp), and the rows go to the store as one batch. What the
//! store does not take is answered, what it takes stays taken.
//!
//! **Finding a series.** A sender repeats itself: the series behind a series is mostly the one that
//! stood there last time. So a known series remembers its successor, and a repeated request costs
//! one hash for each series, and neither a decoding of labels nor a look-up in a table (module `known`).
//! Only series never seen get their labels decoded.
//!
//! **Sources.** Samples of the same `job` and `instance` belong to one source, as if scraped
//! together; one request holds few (source, timestamp) pairs and many samples of each.
//!
//! Source: <https://prometheus.io/docs/specs/prw/remote_write_spec/>;
//! <https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/>; Prometheus
//! `storage/remote/write_handler.go`.

mod admission;
mod config;
mod door;
mod intake;
mod known;
mod metrics;
mod rows;
mod tally;
mod tenant;

pub use config::{ReceiveConfig, SyncPolicy};
pub use door::{ReceiveState, router};
pub use metrics::ReceiveMetrics;

#[cfg(test)]
mod tests;
