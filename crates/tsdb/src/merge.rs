//! Merging parts into larger ones, and joining columns of one series.
//!
//! A merge walks the series of all inputs in part order, joins the columns of equal series, takes
//! deleted and outlived samples away, and writes what is left, cut at the boundaries asked for. It
//! holds a batch of series of every input at a time.

use std::path::Path;
use std::sync::Arc;

use model::Labels;
use stdx::disk::Disk;
use storage::Column;
use ulid::Ulid;

use crate::part::{Part, PartError, PartInfo, PartSpec, PartWriter, part_order};
use crate::tombstone::{Deleted, Tombstone, clip};

mod combine;
#[cfg(test)]
mod tests;

pub use combine::{Piece, Rank, TimeConcatCache, combine};

/// How to merge.
#[derive(Debug, Clone, Copy)]
pub struct MergeOptions<'a> {
    /// Level of the outputs.
    pub level: u8,
    /// Outputs are cut at these times (ascending, milliseconds); a sample at a boundary goes to the
    /// later one. May be empty.
    pub cuts_ms: &'a [i64],
    /// Samples before this are dropped (retention); `i64::MIN` keeps all.
    pub keep_from_ms: i64,
    /// Deletions made true.
    pub tombstones: &'a [Tombstone],
}

impl Default for MergeOptions<'_> {
    fn default() -> Self {
        MergeOptions { level: 1, cuts_ms: &[], keep_from_ms: i64::MIN, tombstones: &[] }
    }
}

/// Samples decoded at a time, over all inputs.
const BATCH_SAMPLES: u64 = 4 << 20;
/// Series decoded at a time from one input.
const BATCH_SERIES_MAX: u64 = 2048;
/// Bytes of joined time columns kept to be shared.
const TIMES_BYTES_MAX: usize = 64 << 20;

/// Merges `parts` of one tenant, which may overlap in time, into one part in `dir` for each range
/// between the cuts that has samples, in order of time; `next_id` names them. The outputs carry the log
/// range of all inputs.
///
/// # Errors
/// Any damage in an input fails the merge, so that nothing readable is lost by it. No output is left
/// behind then, except after a crash.
pub fn merge(
    disk: &dyn Disk,
    dir: &Path,
    parts: &[Arc<Part>],
    options: &MergeOptions<'_>,
    next_id: &mut dyn FnMut() -> Ulid,
) -> Result<Vec<PartInfo>, PartError> {
    let Some(spec) = output_spec(parts, options.level)? else { return Ok(Vec::new()) };
    let mut outputs = Outputs { disk, dir, spec, cuts_ms: options.cuts_ms, writers: Vec::new(), next_id };
    let mut sources = Vec::with_capacity(parts.len());
    for part in parts {
        sources.push(Source::open(part, parts.len() as u64, options)?);
    }
    let mut times = TimeConcatCache::default();
    let mut pieces = Vec::with_capacity(parts.len());
    while let Some(labels) = take_next(&mut sources, &mut times, &mut pieces)? {
        let column = combine(&mut pieces, &mut times);
        outputs.add(&labels, column, &mut times)?;
        if times.bytes() > TIMES_BYTES_MAX {
            times.clear();
        }
    }
    for part in parts {
        for (metric, statements) in part.metadata()? {
            for (_, writer) in &mut outputs.writers {
                statements.iter().for_each(|statement| writer.add_metadata(&metric, statement));
            }
        }
    }
    outputs.finish()
}

/// What the outputs have in common; `None` without inputs.
fn output_spec(parts: &[Arc<Part>], level: u8) -> Result<Option<PartSpec>, PartError> {
    let Some(first) = parts.first() else { return Ok(None) };
    let mut spec = PartSpec { level, late: false, ..first.info().spec.clone() };
    for part in parts {
        let other = &part.info().spec;
        if other.tenant != spec.tenant {
            let reason = format!("is of tenant {}, not of tenant {}", other.tenant, spec.tenant);
            return Err(PartError::Invalid { path: part.path().to_owned(), reason });
        }
        spec.wal_first = spec.wal_first.min(other.wal_first);
        spec.wal_last = spec.wal_last.max(other.wal_last);
        spec.replace |= other.replace;
    }
    Ok(Some(spec))
}

/// One input, at its next series.
struct Source<'a> {
    part: &'a Part,
    rank: Rank,
    keep_from_ms: i64,
    deleted: std::iter::Peekable<std::vec::IntoIter<(u32, Deleted)>>,
    batch: u32,
    /// Number of the series after the batch.
    next: u32,
    /// Series of the batch not yet taken, the last one first.
    waiting: Vec<(u32, Labels, Column)>,
}

impl<'a> Source<'a> {
    fn open(part: &'a Part, parts: u64, options: &MergeOptions<'_>) -> Result<Source<'a>, PartError> {
        let info = part.info();
        let per_series = (info.samples + info.histograms * 16) / u64::from(info.series).max(1) + 1;
        let batch = (BATCH_SAMPLES / parts / per_series).clamp(1, BATCH_SERIES_MAX) as u32;
        let mut source = Source {
            part,
            rank: info.rank(),
            keep_from_ms: options.keep_from_ms,
            deleted: part.resolve(options.tombstones)?.into_iter().peekable(),
            batch,
            next: 0,
            waiting: Vec::new(),
        };
        source.fill()?;
        Ok(source)
    }

    /// Reads the next batch once the last one is used up.
    fn fill(&mut self) -> Result<(), PartError> {
        if !self.waiting.is_empty() {
            return Ok(());
        }
        let end = self.part.info().series.min(self.next.saturating_add(self.batch));
        let numbers: Vec<u32> = (self.next..end).collect();
        let (mut labels, mut columns) = (Vec::new(), Vec::new());
        self.part.labels_of(&numbers, &mut labels)?;
        self.part.load(&numbers, self.keep_from_ms, i64::MAX, &mut columns)?;
        let rows = numbers.into_iter().zip(labels).zip(columns);
        self.waiting.extend(rows.map(|((number, labels), column)| (number, labels, column)));
        self.waiting.reverse();
        self.next = end;
        Ok(())
    }

    fn labels(&self) -> Option<&Labels> {
        self.waiting.last().map(|(_, labels, _)| labels)
    }

    /// Takes the next series, without its deleted samples.
    fn take(&mut self, times: &mut TimeConcatCache) -> Result<Option<Piece>, PartError> {
        let Some((number, _, mut column)) = self.waiting.pop() else { return Ok(None) };
        if let Some((_, deleted)) = self.deleted.next_if(|(series, _)| *series == number) {
            deleted.apply(&mut column, times);
        }
        self.fill()?;
        Ok(Some(Piece { rank: self.rank, column }))
    }
}

/// Takes the columns of the first series of all `sources`; `None` at the end.
fn take_next(
    sources: &mut [Source<'_>],
    times: &mut TimeConcatCache,
    pieces: &mut Vec<Piece>,
) -> Result<Option<Labels>, PartError> {
    let mut first: Option<&Labels> = None;
    for labels in sources.iter().filter_map(Source::labels) {
        // Equal sets are the common case, and cheap to see.
        if first.is_none_or(|first| labels != first && part_order(labels, first).is_lt()) {
            first = Some(labels);
        }
    }
    let Some(first) = first.cloned() else { return Ok(None) };
    for source in sources {
        if source.labels() == Some(&first) {
            pieces.extend(source.take(times)?);
        }
    }
    Ok(Some(first))
}

/// The parts being written, by the range between cuts they are for.
struct Outputs<'a, 'i> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    spec: PartSpec,
    cuts_ms: &'a [i64],
    /// Ascending by range.
    writers: Vec<(usize, PartWriter<'a>)>,
    next_id: &'i mut dyn FnMut() -> Ulid,
}

impl<'a> Outputs<'a, '_> {
    fn add(&mut self, labels: &Labels, column: Column, times: &mut TimeConcatCache) -> Result<(), PartError> {
        let Some((first_ms, last_ms)) = ends(&column) else { return Ok(()) };
        let from = self.cuts_ms.partition_point(|&cut| cut <= first_ms);
        let to = self.cuts_ms.partition_point(|&cut| cut <= last_ms);
        if from == to {
            return self.writer(from)?.add_series(labels, &column);
        }
        for range in from..=to {
            let start_ms = if range == 0 { i64::MIN } else { self.cuts_ms[range - 1] };
            let end_ms = self.cuts_ms.get(range).map_or(i64::MAX, |cut| cut - 1);
            let mut cut = column.clone();
            clip(&mut cut, start_ms, end_ms, times);
            if !cut.is_empty() {
                self.writer(range)?.add_series(labels, &cut)?;
            }
        }
        Ok(())
    }

    fn writer(&mut self, range: usize) -> Result<&mut PartWriter<'a>, PartError> {
        let at = match self.writers.binary_search_by_key(&range, |w| w.0) {
            Ok(at) => at,
            Err(at) => {
                let spec = PartSpec { id: (self.next_id)(), ..self.spec.clone() };
                self.writers.insert(at, (range, PartWriter::create(self.disk, self.dir, spec)?));
                at
            }
        };
        Ok(&mut self.writers[at].1)
    }

    fn finish(self) -> Result<Vec<PartInfo>, PartError> {
        let mut infos: Vec<PartInfo> = Vec::with_capacity(self.writers.len());
        for (_, writer) in self.writers {
            match writer.finish() {
                Ok(info) => infos.push(info),
                Err(error) => {
                    for info in infos {
                        // Best effort: a part that no manifest names goes at the next start.
                        let _ = self.disk.remove_file(&self.dir.join(info.file_name()));
                    }
                    return Err(error);
                }
            }
        }
        Ok(infos)
    }
}

/// First and last timestamp.
fn ends(column: &Column) -> Option<(i64, i64)> {
    let floats = column.times.first().zip(column.times.last()).map(|(a, b)| (*a, *b));
    let histograms = column.histograms.first().zip(column.histograms.last()).map(|(a, b)| (a.0, b.0));
    match (floats, histograms) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    }
}
