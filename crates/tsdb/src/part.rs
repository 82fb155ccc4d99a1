//! Parts: immutable files of series and samples, one file each.
//!
//! A part holds the series of one tenant over some time, in part order ([`part_order`]), numbered from
//! 0. [`PartWriter`] streams them into a temporary file that is renamed when it is whole; [`Part`] reads
//! the table of contents at once and everything else when asked, by `pread`, a 64 KiB page at a time,
//! each checked against its CRC. A damaged page takes only its own data away.
//!
//! The bytes are drawn in `docs/formats/part.md`.

use std::cmp::Ordering;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use model::{Labels, MetricType, TenantId};
use storage::QueryError;
use ulid::Ulid;

use crate::merge::Rank;

mod cache;
mod chunks;
mod columns;
mod directory;
mod file;
mod histogram_columns;
pub(crate) mod histograms;
mod labels;
mod layout;
mod postings;
mod readable;
mod reader;
mod rows;
mod sections;
mod symbols;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

pub(crate) use reader::Clips;
pub use reader::Part;
pub use writer::PartWriter;

/// The order of series in a part: by metric name, then by the remaining labels in turn.
///
/// A query for one metric then reads neighbouring bytes.
pub fn part_order(a: &Labels, b: &Labels) -> Ordering {
    a.metric_name().cmp(b.metric_name()).then_with(|| others(a).cmp(others(b)))
}

fn others(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().filter(|(name, _)| *name != model::labels::METRIC_NAME)
}

/// What a new part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSpec {
    /// Names the file, `<ulid>.mgp`; unique in its directory.
    pub id: Ulid,
    /// Whose series.
    pub tenant: TenantId,
    /// How often its samples have been merged: 0 for a flush.
    pub level: u8,
    /// First log position of its samples.
    pub wal_first: u64,
    /// Last log position of its samples.
    pub wal_last: u64,
    /// Whether it may overlap other parts of its level in time.
    pub late: bool,
    /// Whether its samples came under the policy `Replace`.
    pub replace: bool,
}

/// What a finished part holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInfo {
    /// What it is.
    pub spec: PartSpec,
    /// First timestamp, inclusive, milliseconds; above `max_ms` when there are no samples.
    pub min_ms: i64,
    /// Last timestamp, inclusive, milliseconds.
    pub max_ms: i64,
    /// Series.
    pub series: u32,
    /// Float samples.
    pub samples: u64,
    /// Histogram samples.
    pub histograms: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

impl PartInfo {
    /// What its samples are worth in a conflict with those of another part.
    pub fn rank(&self) -> Rank {
        Rank { replace: self.spec.replace, position: self.spec.wal_last }
    }

    /// Whether it may have samples from `start_ms` to `end_ms`, both inclusive.
    pub fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.min_ms <= end_ms && self.max_ms >= start_ms
    }

    /// The name of its file: `<ulid>.mgp`.
    pub fn file_name(&self) -> String {
        file_name(self.spec.id)
    }
}

/// The name of the file of part `id`.
pub fn file_name(id: Ulid) -> String {
    format!("{id}.mgp")
}

/// A part that could not be written or read. The message names the file and the place.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PartError {
    /// The disk refused; trying again with a new file makes sense.
    #[error("{attempt} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// Bytes are not what was written. Other pages of the part may still be readable.
    #[error("part {path}, section {section}, byte {offset}: {reason}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The section's name.
        section: &'static str,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The part needs a newer version of this program.
    #[error("part {path}: {reason}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not understood.
        reason: String,
    },
    /// The caller broke the rules of the writer (order of series, lengths of columns).
    #[error("part {path}: {reason}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Which rule.
        reason: String,
    },
}

impl PartError {
    /// The file that could not be written or read.
    pub fn path(&self) -> &std::path::Path {
        match self {
            PartError::Io { path, .. }
            | PartError::Corrupt { path, .. }
            | PartError::Unsupported { path, .. }
            | PartError::Invalid { path, .. } => path,
        }
    }
}

impl From<PartError> for QueryError {
    fn from(error: PartError) -> QueryError {
        QueryError::Corrupt(error.to_string())
    }
}

/// The byte of a metric type. Never change one: unknown bytes read as unknown.
fn type_code(metric_type: MetricType) -> u8 {
    match metric_type {
        MetricType::Unknown => 0,
        MetricType::Counter => 1,
        MetricType::Gauge => 2,
        MetricType::Histogram => 3,
        MetricType::GaugeHistogram => 4,
        MetricType::Summary => 5,
        MetricType::Info => 6,
        MetricType::StateSet => 7,
    }
}

fn type_of(code: u8) -> MetricType {
    match code {
        1 => MetricType::Counter,
        2 => MetricType::Gauge,
        3 => MetricType::Histogram,
        4 => MetricType::GaugeHistogram,
        5 => MetricType::Summary,
        6 => MetricType::Info,
        7 => MetricType::StateSet,
        _ => MetricType::Unknown,
    }
}

/// Something read once, when first needed; a failed read is tried again.
#[derive(Debug)]
struct Lazy<T>(OnceLock<T>);

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Lazy(OnceLock::new())
    }
}

impl<T> Lazy<T> {
    fn get_or<E>(&self, read: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        match self.0.get() {
            Some(value) => Ok(value),
            None => {
                let value = read()?;
                Ok(self.0.get_or_init(|| value))
            }
        }
    }
}
