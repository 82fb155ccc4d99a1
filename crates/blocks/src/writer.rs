//! Writing a block, series by series.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{Histogram, Labels};
use stdx::disk::Disk;
use ulid::Ulid;

use crate::chunk::Encoder;
use crate::error::BlockError;
use crate::filenames;
use crate::index::{ChunkMeta, IndexWriter};
use crate::meta::{BlockMeta, BlockStats, Compaction, Thanos};
use crate::segments::{SEGMENT_BYTES_MAX, SegmentsWriter};
use crate::tombstones::Tombstones;

/// What a new block is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpec {
    /// Its name.
    pub ulid: Ulid,
    /// Labels that Thanos and Mimir attach to every series; none for Prometheus alone.
    pub external_labels: Vec<(String, String)>,
    /// A file of chunks is ended before it becomes longer than this, bytes.
    pub segment_bytes_max: u64,
}

impl BlockSpec {
    /// A block without external labels.
    pub fn new(ulid: Ulid) -> BlockSpec {
        BlockSpec { ulid, external_labels: Vec::new(), segment_bytes_max: SEGMENT_BYTES_MAX }
    }
}

/// Writes a block. Samples go to the disk as they come; what labels need stays in memory until the end.
///
/// The directory has a name that Prometheus removes at start until it is whole. Dropped before
/// [`BlockWriter::finish`] the writer removes it.
#[derive(Debug)]
pub struct BlockWriter<'d> {
    disk: &'d dyn Disk,
    dir: PathBuf,
    unfinished: PathBuf,
    spec: BlockSpec,
    segments: Option<SegmentsWriter<'d>>,
    index: Option<IndexWriter<'d>>,
    encoder: Encoder,
    last: Option<Labels>,
    stats: BlockStats,
    min_ms: i64,
    max_ms: i64,
}

impl<'d> BlockWriter<'d> {
    /// Starts the block `spec` in `parent`, which must exist.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn create(disk: &'d dyn Disk, parent: &Path, spec: BlockSpec) -> Result<BlockWriter<'d>, BlockError> {
        let dir = parent.join(spec.ulid.to_string());
        let unfinished = parent.join(format!("{}{}", spec.ulid, filenames::UNFINISHED));
        let chunks = unfinished.join(filenames::CHUNKS);
        disk.create_dir_all(&chunks).map_err(BlockError::io("create", &chunks))?;
        Ok(BlockWriter {
            disk,
            segments: Some(SegmentsWriter::new(disk, chunks, spec.segment_bytes_max)),
            index: Some(IndexWriter::new(disk, unfinished.join(filenames::INDEX))),
            dir,
            unfinished,
            spec,
            encoder: Encoder::default(),
            last: None,
            stats: BlockStats::default(),
            min_ms: i64::MAX,
            max_ms: i64::MIN,
        })
    }

    fn invalid(&self, reason: String) -> BlockError {
        BlockError::Invalid { path: self.dir.clone(), reason }
    }

    /// What has been added.
    pub fn stats(&self) -> &BlockStats {
        &self.stats
    }

    /// Adds the next series, in order of labels: floats (`times` and `values` equally long) and
    /// histograms, both ascending in time, no time twice. A series without samples adds nothing.
    ///
    /// # Errors
    /// [`BlockError::Invalid`] when the order is not kept (then nothing is added), [`BlockError::Io`].
    pub fn add(
        &mut self,
        labels: &Labels,
        times: &[i64],
        values: &[f64],
        histograms: &[(i64, Arc<Histogram>)],
    ) -> Result<(), BlockError> {
        if times.is_empty() && histograms.is_empty() {
            return Ok(());
        }
        self.check(labels, times, values, histograms)?;
        let (Some(segments), Some(index)) = (&mut self.segments, &mut self.index) else { return Ok(()) };
        let mut chunks = Vec::with_capacity((times.len() + histograms.len()).div_ceil(120));
        self.encoder.encode(times, values, histograms, |chunk| {
            let reference = segments.add(chunk.encoding, chunk.data)?;
            chunks.push(ChunkMeta { min_ms: chunk.min_ms, max_ms: chunk.max_ms, reference });
            Ok::<(), BlockError>(())
        })?;
        index.add(labels, &chunks).map_err(BlockError::io("write", index.path()))?;
        self.min_ms = self.min_ms.min(chunks[0].min_ms);
        self.max_ms = self.max_ms.max(chunks[chunks.len() - 1].max_ms);
        self.stats.num_samples += (times.len() + histograms.len()) as u64;
        self.stats.num_float_samples += times.len() as u64;
        self.stats.num_histogram_samples += histograms.len() as u64;
        self.stats.num_chunks += chunks.len() as u64;
        self.stats.num_series += 1;
        self.last = Some(labels.clone());
        Ok(())
    }

    fn check(
        &self,
        labels: &Labels,
        times: &[i64],
        values: &[f64],
        histograms: &[(i64, Arc<Histogram>)],
    ) -> Result<(), BlockError> {
        if self.last.as_ref().is_some_and(|last| last >= labels) {
            return Err(self.invalid(format!("series {labels} is there already, or out of order")));
        }
        if times.len() != values.len() {
            return Err(self.invalid(format!(
                "series {labels} has {} times for {} values",
                times.len(),
                values.len()
            )));
        }
        let ascends = times.is_sorted_by(|a, b| a < b) && histograms.is_sorted_by(|a, b| a.0 < b.0);
        let shared =
            !times.is_empty() && histograms.iter().any(|(time, _)| times.binary_search(time).is_ok());
        if !ascends || shared {
            return Err(self.invalid(format!("the times of series {labels} do not ascend")));
        }
        Ok(())
    }

    /// Writes the rest, makes it durable and gives the block its name. Without series there is no block.
    ///
    /// # Errors
    /// The disk refuses, or the index is too large; nothing is left then.
    pub fn finish(mut self) -> Result<Option<BlockMeta>, BlockError> {
        let (Some(segments), Some(index)) = (self.segments.take(), self.index.take()) else {
            return Ok(None);
        };
        if self.stats.num_series == 0 {
            return Ok(None);
        }
        segments.finish()?;
        let path = index.path().to_owned();
        index.finish().map_err(BlockError::io("write", &path))?;
        Tombstones::default().write(self.disk, &self.unfinished)?;
        let ulid = self.spec.ulid;
        let labels: std::collections::BTreeMap<_, _> = self.spec.external_labels.iter().cloned().collect();
        let meta = BlockMeta {
            ulid,
            min_time: self.min_ms,
            max_time: self.max_ms.saturating_add(1),
            stats: self.stats,
            compaction: Compaction { level: 1, sources: vec![ulid], hints: Vec::new() },
            version: 1,
            thanos: (!labels.is_empty()).then(|| Thanos {
                labels,
                source: "marigraph".to_owned(),
                ..Thanos::default()
            }),
        };
        meta.write(self.disk, &self.unfinished)?;
        let (disk, dir) = (self.disk, self.dir.clone());
        disk.sync_dir(&self.unfinished).map_err(BlockError::io("sync", &self.unfinished))?;
        disk.rename(&self.unfinished, &dir).map_err(BlockError::io("name", &dir))?;
        let parent = dir.parent().unwrap_or(Path::new("."));
        disk.sync_dir(parent).map_err(BlockError::io("sync", parent))?;
        Ok(Some(meta))
    }
}

impl Drop for BlockWriter<'_> {
    fn drop(&mut self) {
        // Files that are open keep nobody from removing them. Best effort: Prometheus removes the
        // directory at its next start, and so does whoever exports again.
        (self.segments, self.index) = (None, None);
        for dir in [self.unfinished.join(filenames::CHUNKS), self.unfinished.clone()] {
            for path in self.disk.read_dir(&dir).unwrap_or_default() {
                let _ = self.disk.remove_file(&path);
            }
            let _ = self.disk.remove_dir(&dir);
        }
    }
}
