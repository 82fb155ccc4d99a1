//! The verbs: what `marigraph` does besides being a hub or an agent. Most ask a running hub over HTTP, as anybody may
//! who has the credential; some read or write a data directory that nobody has open.

pub mod backup;
pub mod check;
pub mod client;
pub mod fleet;
pub mod ledger;
pub mod limits;
pub mod membership;
pub mod promql;
pub mod push;
pub mod query;
mod terminal;
pub mod tsdb;
