//! Where two stages meet: what a store takes ([`Appender`]) and what it gives ([`Queryable`]).
//!
//! The contract does not know its implementers. A scrape is one [`Row`]; a push is as many rows as
//! it has (source, timestamp) pairs. Nothing between discovery and disk takes single samples.

pub mod account;
pub mod append;
pub mod conformance;
pub mod error;
pub mod fan_out;
pub mod memory;
pub mod query;

pub use account::{Account, EndReason, Failure, Outcome, Schedule};
pub use append::{
    Appended, Appender, Batch, BlockKey, CommitPosition, Conflict, Late, MetadataEntry, Policy, RejectReason,
    Rejection, Row, SeriesRef, SourceDesc, SourceRef,
};
pub use error::{QueryError, StoreError};
pub use fan_out::{Branch, FanOut, Selection};
pub use memory::MemoryStore;
pub use query::{
    Column, Listed, ListedExemplars, ListedLabels, ListedMetadata, Missing, Queryable, Request, Select,
    SeriesExemplars, SeriesSet, exemplars_by_series,
};
