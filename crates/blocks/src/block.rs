//! Reading a block.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use stdx::disk::Disk;
use ulid::Ulid;

use crate::chunk::{Samples, decode};
use crate::error::BlockError;
use crate::filenames;
use crate::index::{Index, Series, SeriesIter};
use crate::meta::BlockMeta;
use crate::segments::{Segments, Window};
use crate::tombstones::Tombstones;

/// An open block.
#[derive(Debug)]
pub struct Block {
    dir: PathBuf,
    meta: BlockMeta,
    index: Index,
    segments: Segments,
    tombstones: Tombstones,
}

impl Block {
    /// Opens the block in `dir`: description, symbols, deletions, headers of segment files.
    ///
    /// # Errors
    /// One of these is missing or damaged.
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<Block, BlockError> {
        Ok(Block {
            dir: dir.to_owned(),
            meta: BlockMeta::read(disk, dir)?,
            index: Index::open(disk, &dir.join(filenames::INDEX))?,
            segments: Segments::open(disk, &dir.join(filenames::CHUNKS))?,
            tombstones: Tombstones::read(disk, dir)?,
        })
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it says of itself.
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Its index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Its deletions.
    pub fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    /// Bytes of index and segment files.
    pub fn bytes(&self) -> (u64, u64) {
        (self.index.bytes(), self.segments.bytes())
    }

    /// Its series, in order of labels. See [`Index::series`].
    pub fn series(&self) -> SeriesIter<'_> {
        self.index.series()
    }

    /// Reads the samples of `series` within `range_ms`, less what is deleted, in order of time, into `out`
    /// (which is cleared). What cannot be read is left out and told to
    /// `damaged`. `window` may serve for one series after the other of the same block.
    pub fn samples(
        &self,
        series: &Series,
        range_ms: RangeInclusive<i64>,
        window: &mut Window,
        out: &mut Samples,
        mut damaged: impl FnMut(BlockError),
    ) {
        out.clear();
        let mut chunk_samples = Samples::default();
        for chunk in &series.chunks {
            if chunk.max_ms < *range_ms.start() || chunk.min_ms > *range_ms.end() {
                continue;
            }
            chunk_samples.clear();
            match self.read_chunk(chunk.reference, window, &mut chunk_samples) {
                Ok(()) => {
                    out.times.append(&mut chunk_samples.times);
                    out.values.append(&mut chunk_samples.values);
                    out.histograms.append(&mut chunk_samples.histograms);
                }
                Err(error) => damaged(error),
            }
        }
        out.sort();
        let deleted = self.tombstones.of(series.id);
        out.retain(|time| {
            range_ms.contains(&time) && !deleted.iter().any(|(first, last)| (*first..=*last).contains(&time))
        });
    }

    fn read_chunk(&self, reference: u64, window: &mut Window, out: &mut Samples) -> Result<(), BlockError> {
        let decoded = {
            let (encoding, data) = self.segments.read(reference, self.index.path(), window)?;
            decode(encoding, data, out)
        };
        decoded.map_err(|error| {
            let (path, offset) = self.segments.place(reference).unwrap_or((&self.dir, 0));
            BlockError::corrupt(path, offset, error.0)
        })
    }
}

/// The blocks in `dir`, by name: directories named by a ULID that have a description. `dir` may be a
/// block itself.
///
/// # Errors
/// The directory cannot be listed.
pub fn find_blocks(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, BlockError> {
    if disk.exists(&dir.join(filenames::META)) {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = disk.read_dir(dir).map_err(BlockError::io("list", dir))?;
    let is_block = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| Ulid::from_string(name).is_ok()) && disk.exists(&path.join(filenames::META))
    };
    Ok(entries.into_iter().filter(is_block).collect())
}
