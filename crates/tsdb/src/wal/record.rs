//! What a log record says, to bytes and back. The bytes are drawn in `docs/formats/wal.md`.

mod decode;
mod definitions;
mod encode;

use std::sync::Arc;

use model::histogram::Histogram;
use model::{Exemplar, MatchOp, Matcher, Metadata};
use stdx::bytes::{Cursor, Malformed, put_bytes, put_varint};
use storage::{BlockKey, SeriesRef};

pub use self::decode::Decoder;
pub use self::definitions::{Definitions, read_definitions};
pub(crate) use self::definitions::{PackedDefinitions, unpack_definitions};
pub use self::encode::{BatchEncoder, HistogramToLog, LaneLog, RowToLog, encode_checkpoint, encode_delete};

pub(crate) const KIND_BATCH: u8 = 1;
pub(crate) const KIND_CHECKPOINT: u8 = 2;
pub(crate) const KIND_DELETE: u8 = 3;
/// The version of all record kinds.
pub(crate) const VERSION: u8 = 1;

const SECTION_KEY: u8 = 1;
const SECTION_SOURCES: u8 = 2;
const SECTION_SERIES: u8 = 3;
const SECTION_SERIES_ZSTD: u8 = 4;
const SECTION_ROWS: u8 = 5;
const SECTION_HISTOGRAMS: u8 = 6;
const SECTION_STARTS: u8 = 7;
const SECTION_EXEMPLARS: u8 = 8;
const SECTION_METADATA: u8 = 9;
/// Sections from here on may be skipped by a reader that does not know them.
const SECTION_OPTIONAL: u8 = 128;

const UNIT_MILLISECONDS: u8 = 0;
const COLUMN_FLOAT: u8 = 0;

const ROW_FULL: u8 = 1;
const ROW_REPLACE: u8 = 2;

/// Lanes from here on are of late rows (but for the last number, which is no lane at all): what the store
/// keeps apart from the others, and may write to parts sooner.
pub const LATE_LANES: u32 = 1 << 31;
/// The lane number of late rows that nothing is a difference to.
pub const LATE_LOOSE: u32 = u32::MAX - 1;
/// The lane number of other rows that nothing is a difference to.
pub const NO_LANE: u32 = u32::MAX;

/// A record that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are whole (their checksum holds) but make no sense.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    /// A kind, version or required section that this program does not know.
    #[error("{what} {number} is not known to this version")]
    Unknown {
        /// What is unknown.
        what: &'static str,
        /// Its number.
        number: u8,
    },
}

impl From<Malformed> for RecordError {
    fn from(Malformed(reason): Malformed) -> Self {
        RecordError::Malformed(reason)
    }
}

/// A record.
#[derive(Debug)]
pub enum Record {
    /// Rows and what belongs to them.
    Batch(BatchRecord),
    /// What is known at the head of a segment.
    Checkpoint(Vec<TakenBlocks>),
    /// A deletion.
    Delete(DeleteRecord),
}

impl Record {
    /// About how many samples it has, anything else counted with them.
    pub(crate) fn weight(&self) -> usize {
        let Record::Batch(batch) = self else { return 1 };
        let rows: usize = batch.rows.iter().map(|row| row.values.len()).sum();
        1 + rows
            + batch.histograms.len() * HISTOGRAM_WEIGHT
            + batch.starts.len()
            + batch.exemplars.len()
            + batch.metadata.len()
    }
}

/// As many samples as a histogram is counted for.
const HISTOGRAM_WEIGHT: usize = 32;

/// A deletion.
#[derive(Debug)]
pub struct DeleteRecord {
    /// Whose data.
    pub tenant: String,
    /// Which series.
    pub matchers: Vec<Matcher>,
    /// First deleted timestamp.
    pub start_ms: i64,
    /// Last deleted timestamp.
    pub end_ms: i64,
}

/// A batch without its definitions, which are read beforehand ([`read_definitions`]).
#[derive(Debug, Default)]
pub struct BatchRecord {
    /// Whose rows.
    pub tenant: String,
    /// The exactly-once key.
    pub key: Option<BlockKey>,
    /// Floats.
    pub rows: Vec<LoggedRow>,
    /// Rows left out because the row they are a difference to was lost.
    pub rows_lost: usize,
    /// Histograms.
    pub histograms: Vec<LoggedHistogram>,
    /// (series, from when, start timestamp).
    pub starts: Vec<(u64, i64, i64)>,
    /// (series, exemplar).
    pub exemplars: Vec<(u64, Exemplar)>,
    /// (metric, metadata).
    pub metadata: Vec<(String, Metadata)>,
}

/// A row of floats from the log.
#[derive(Debug, Clone)]
pub struct LoggedRow {
    /// The source.
    pub source: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Whether the values replace others.
    pub replace: bool,
    /// Whether it is of a late lane ([`LATE_LANES`]).
    pub late: bool,
    /// The columns; rows of a lane share them.
    pub series: Arc<[SeriesRef]>,
    /// Their values.
    pub values: Vec<f64>,
}

/// A histogram from the log.
#[derive(Debug, Clone)]
pub struct LoggedHistogram {
    /// The source.
    pub source: u64,
    /// The column.
    pub series: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Whether it replaces another sample.
    pub replace: bool,
    /// The sample.
    pub histogram: Arc<Histogram>,
}

/// The blocks of one queue that have been taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenBlocks {
    /// Whose.
    pub tenant: String,
    /// The queue's random name.
    pub queue_id: u128,
    /// The sending process' random name.
    pub incarnation: u128,
    /// Inclusive ranges of block numbers, ascending, apart.
    pub blocks: Vec<(u64, u64)>,
}

fn read_kind(cursor: &mut Cursor<'_>) -> Result<u8, RecordError> {
    let (kind, version) = (cursor.byte()?, cursor.byte()?);
    if version != VERSION {
        return Err(RecordError::Unknown { what: "record version", number: version });
    }
    Ok(kind)
}

/// Appends matchers: count, then operator, name and value of each.
pub(crate) fn put_matchers(matchers: &[Matcher], out: &mut Vec<u8>) {
    put_varint(out, matchers.len() as u64);
    for matcher in matchers {
        out.push(match matcher.op {
            MatchOp::Equal => 0,
            MatchOp::NotEqual => 1,
            MatchOp::Regex => 2,
            MatchOp::NotRegex => 3,
        });
        put_bytes(out, matcher.name.as_bytes());
        put_bytes(out, matcher.value.as_bytes());
    }
}

pub(crate) fn read_matchers(cursor: &mut Cursor<'_>) -> Result<Vec<Matcher>, Malformed> {
    let count = cursor.count(1)?;
    let mut matchers = Vec::with_capacity(count);
    for _ in 0..count {
        let op = match cursor.byte()? {
            0 => MatchOp::Equal,
            1 => MatchOp::NotEqual,
            2 => MatchOp::Regex,
            3 => MatchOp::NotRegex,
            _ => return Err(Malformed("an unknown kind of matcher")),
        };
        let (name, value) = (cursor.text()?, cursor.text()?);
        matchers.push(
            Matcher::new(op, name, value)
                .map_err(|_| Malformed("a matcher's regular expression is wrong"))?,
        );
    }
    Ok(matchers)
}
