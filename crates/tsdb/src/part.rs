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
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Labels, Matcher, Metadata, TenantId};
use roaring::RoaringBitmap;
use stdx::disk::Disk;
use storage::{Column, QueryError};
use ulid::Ulid;

use crate::merge::Rank;
use crate::tombstone::{Deleted, Tombstone};

pub(crate) mod histograms;

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

impl From<PartError> for QueryError {
    fn from(error: PartError) -> QueryError {
        QueryError::Corrupt(error.to_string())
    }
}

/// Writes a part. Dropped before [`PartWriter::finish`], it leaves a `<ulid>.tmp` behind, which is
/// never mistaken for a part.
#[derive(Debug)]
pub struct PartWriter<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    spec: PartSpec,
}

impl<'a> PartWriter<'a> {
    /// Starts `<ulid>.tmp` in `dir`.
    pub fn create(disk: &'a dyn Disk, dir: &Path, spec: PartSpec) -> Result<PartWriter<'a>, PartError> {
        Ok(PartWriter { disk, path: dir.join(file_name(spec.id)), spec })
    }

    /// Adds a series, in strict part order. A column without samples is left out.
    pub fn add_series(&mut self, labels: &Labels, column: &Column) -> Result<(), PartError> {
        let _ = (labels, column, self.disk);
        Err(self.unfinished())
    }

    /// Adds what a metric family says of itself; repeats are left out.
    pub fn add_metadata(&mut self, metric: &str, metadata: &Metadata) {
        let _ = (metric, metadata);
    }

    /// Writes the rest, syncs, renames to `<ulid>.mgp` and syncs the directory.
    pub fn finish(self) -> Result<PartInfo, PartError> {
        Err(self.unfinished())
    }

    fn unfinished(&self) -> PartError {
        PartError::Unsupported {
            path: self.path.clone(),
            reason: format!("{:?} is being built", self.spec.id),
        }
    }
}

/// An open part. Cheap to share between threads behind an `Arc`.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    info: PartInfo,
}

impl Part {
    /// Opens a part: reads header, footer and table of contents.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Part, PartError> {
        let _ = disk;
        Err(PartError::Unsupported { path: path.to_owned(), reason: "being built".into() })
    }

    /// What it holds.
    pub fn info(&self) -> &PartInfo {
        &self.info
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The series that satisfy all `matchers`, numbers ascending (which is part order).
    pub fn select(&self, matchers: &[Matcher]) -> Result<RoaringBitmap, PartError> {
        let _ = matchers;
        Err(self.unfinished())
    }

    /// The labels of one series.
    pub fn labels(&self, series: u32) -> Result<Labels, PartError> {
        let _ = series;
        Err(self.unfinished())
    }

    /// Appends the labels of many series (ascending numbers).
    pub fn labels_of(&self, series: &[u32], out: &mut Vec<Labels>) -> Result<(), PartError> {
        let _ = (series, out);
        Err(self.unfinished())
    }

    /// The label names of all series, or of those that satisfy `matchers`; sorted.
    pub fn label_names(&self, matchers: &[Matcher]) -> Result<Vec<String>, PartError> {
        let _ = matchers;
        Err(self.unfinished())
    }

    /// The values of label `name` of all series, or of those that satisfy `matchers`; sorted.
    pub fn label_values(&self, name: &str, matchers: &[Matcher]) -> Result<Vec<String>, PartError> {
        let _ = (name, matchers);
        Err(self.unfinished())
    }

    /// Appends a column for each of `series` (ascending numbers), samples from `start_ms` to `end_ms`
    /// inclusive; times of one source are one `Arc`.
    pub fn load(
        &self,
        series: &[u32],
        start_ms: i64,
        end_ms: i64,
        out: &mut Vec<Column>,
    ) -> Result<(), PartError> {
        let _ = (series, start_ms, end_ms, out);
        Err(self.unfinished())
    }

    /// Metadata by metric name, sorted.
    pub fn metadata(&self) -> Result<Vec<(String, Vec<Metadata>)>, PartError> {
        Err(self.unfinished())
    }

    /// What `tombstones` delete here, by series, ascending.
    pub fn resolve(&self, tombstones: &[Tombstone]) -> Result<Vec<(u32, Deleted)>, PartError> {
        let _ = tombstones;
        Err(self.unfinished())
    }

    /// Reads and decodes everything; gives every damage found.
    pub fn verify(&self) -> Vec<PartError> {
        vec![self.unfinished()]
    }

    fn unfinished(&self) -> PartError {
        PartError::Unsupported { path: self.path.clone(), reason: "being built".into() }
    }
}
