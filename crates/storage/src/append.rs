//! The writing half of the contract: batches of rows in, partial acceptance out.
//!
//! A writer opens its source once, resolves the labels of its columns once, and then appends rows
//! that name columns by [`SeriesRef`]. A row whose `series` slice equals the one before it (the
//! steady scrape) costs no look-up at all.

use std::fmt;

use model::{Exemplar, Histogram, Labels, Metadata, SourceId, TenantId};

use crate::{Account, StoreError};

/// An open source. Valid as long as the store is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceRef(pub u64);

/// A series of one tenant, as the store names it. May go stale when the series has been idle for
/// long: a row that names it then gets [`RejectReason::UnknownSeries`], and the writer resolves again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesRef(pub u64);

/// What a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDesc {
    /// Who owns the rows.
    pub tenant: TenantId,
    /// The logical identity.
    pub id: SourceId,
    /// Labels that all its series share (for a scrape: the target's). May be empty.
    pub labels: Labels,
}

/// A row: one source at one time.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Whose row.
    pub source: SourceRef,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Float columns; each at most once in the row.
    pub series: &'a [SeriesRef],
    /// The values of `series`, same length.
    pub values: &'a [f64],
    /// Histogram columns.
    pub histograms: &'a [(SeriesRef, Histogram)],
    /// Start (created) timestamps, milliseconds, of columns that have one.
    pub start_timestamps: &'a [(SeriesRef, i64)],
    /// Exemplars of columns of this row.
    pub exemplars: &'a [(SeriesRef, Exemplar)],
}

impl<'a> Row<'a> {
    /// A row of floats only.
    pub fn floats(
        source: SourceRef,
        timestamp_ms: i64,
        series: &'a [SeriesRef],
        values: &'a [f64],
    ) -> Row<'a> {
        Row { source, timestamp_ms, series, values, histograms: &[], start_timestamps: &[], exemplars: &[] }
    }
}

/// Whether samples older than their series' newest one are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Late {
    /// Taken (pushes).
    Accept,
    /// Refused as [`RejectReason::OutOfOrder`] (scrapes without own timestamps, rule results,
    /// staleness markers). Judged by the series' newest sample.
    Reject,
}

/// What happens to a second value at a timestamp that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conflict {
    /// Refused as [`RejectReason::Duplicate`] where the conflict shows in open rows.
    Refuse,
    /// The later arrival wins.
    Replace,
}

/// How a batch treats the unusual (`docs/design/rows.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Late samples.
    pub late: Late,
    /// Conflicting samples.
    pub conflict: Conflict,
}

impl Policy {
    /// Scrapes, rule results, staleness markers.
    pub const SCRAPE: Policy = Policy { late: Late::Reject, conflict: Conflict::Refuse };
    /// Remote write.
    pub const REMOTE_WRITE: Policy = Policy { late: Late::Accept, conflict: Conflict::Refuse };
    /// Line protocol.
    pub const LINE_PROTOCOL: Policy = Policy { late: Late::Accept, conflict: Conflict::Replace };
}

/// The exactly-once key of a batch that came through a queue (`docs/design/shipping.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey {
    /// Random, one for each queue directory.
    pub queue_id: u128,
    /// Random, one for each start of the sending process.
    pub incarnation: u128,
    /// Number of the block within the incarnation.
    pub block: u64,
}

/// Metadata of one metric family as a source states it.
#[derive(Debug, Clone, Copy)]
pub struct MetadataEntry<'a> {
    /// Whose statement.
    pub source: SourceRef,
    /// The family's name.
    pub metric: &'a str,
    /// Type, unit, help.
    pub metadata: &'a Metadata,
}

/// Rows to append together: one log record, visible together. All sources belong to one tenant.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The rows.
    pub rows: &'a [Row<'a>],
    /// Metadata that is new or has changed; writers send it only then.
    pub metadata: &'a [MetadataEntry<'a>],
    /// The treatment of late and conflicting samples.
    pub policy: Policy,
    /// What the writer states about the rows that were due. Only a ledger looks at it.
    pub accounts: &'a [Account],
    /// Set for batches from a queue: a key seen before is acknowledged and not stored again. Such a batch is
    /// taken with all of its series known, or not at all ([`Appended::untaken`]): what would be repeated later
    /// without its key could be lost in between.
    pub key: Option<BlockKey>,
}

impl<'a> Batch<'a> {
    /// A batch of rows and nothing else.
    pub fn rows(rows: &'a [Row<'a>], policy: Policy) -> Batch<'a> {
        Batch { rows, metadata: &[], policy, accounts: &[], key: None }
    }
}

/// Why a sample was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectReason {
    /// Older than retention allows.
    TooOld,
    /// Older than the series' newest sample, and the policy rejects late ones.
    OutOfOrder,
    /// Another value stands at this timestamp, and the policy refuses conflicts.
    Duplicate,
    /// The reference is stale or was never given: resolve the labels again.
    UnknownSeries,
    /// The tenant or source is at its limit of series.
    SeriesLimit,
    /// The part is malformed (histogram layout, exemplar size).
    Invalid,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RejectReason::TooOld => "too old sample",
            RejectReason::OutOfOrder => "out of order sample",
            RejectReason::Duplicate => "duplicate sample for timestamp",
            RejectReason::UnknownSeries => "unknown series",
            RejectReason::SeriesLimit => "series limit exceeded",
            RejectReason::Invalid => "invalid sample",
        })
    }
}

/// One sample that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// Index of the row in the batch.
    pub row: usize,
    /// The column.
    pub series: SeriesRef,
    /// Why.
    pub reason: RejectReason,
}

/// How far the log has been written; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct CommitPosition(pub u64);

/// What became of a batch. The part that was taken stays, whatever happened to the rest.
#[derive(Debug, Clone, Default)]
pub struct Appended {
    /// Float samples taken (exact repeats of what stands there count as taken).
    pub samples: usize,
    /// Histogram samples taken.
    pub histograms: usize,
    /// Exemplars taken.
    pub exemplars: usize,
    /// Every sample that was not taken.
    pub rejected: Vec<Rejection>,
    /// Whether the batch's key had been seen before: nothing was stored, and the counts say what the batch
    /// holds, not what was taken of it the first time.
    pub repeated: bool,
    /// Nothing was taken, nor the key remembered: the batch has a key and names series that the store does not
    /// know, which are all that `rejected` says. Resolve them and append the batch again.
    pub untaken: bool,
    /// Where the log stood after the batch; for [`Appender::wait_durable`].
    pub position: CommitPosition,
}

/// A store that takes rows. Calls may block for the length of a `write`, never for an `fsync`
/// (except [`Appender::wait_durable`]).
pub trait Appender: Send + Sync {
    /// Opens a source, or finds it when it is open. Cheap enough for once a scrape loop, not once a row.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] when the store no longer writes.
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError>;

    /// Finds or creates the series of `labels` (whole sets, metric name included) as columns of
    /// `source`, in order. `None` stands for a series refused at a limit.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] when the store no longer writes; [`StoreError::UnknownSource`].
    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError>;

    /// Appends a batch. When it returns, the batch survives the death of this process.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] and [`StoreError::Io`]: nothing of the batch was taken.
    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError>;

    /// Blocks until everything up to `position` survives a power cut.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] when the sync failed: the batch may be lost.
    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError>;
}
