//! Reading the labels of series (LBL). The writer's side is in `labels.rs`.

use std::sync::Arc;

use model::Labels;
use roaring::RoaringBitmap;
use stdx::bytes::{Cursor, unzigzag};

use super::cache::Kind;
use super::chunks::ChunkIndex;
use super::file::PartFile;
use super::labels::PAGE_SERIES;
use super::layout::SectionId;
use super::symbols::{Name, Resolver, Symbols};
use super::{Lazy, PartError};
use crate::codec::CodecError;

/// The labels of the series of a part.
#[derive(Debug, Default)]
pub(super) struct LabelRows {
    index: Lazy<ChunkIndex>,
}

/// A page of [`PAGE_SERIES`] series: a column for each label name that occurs.
#[derive(Debug)]
pub(super) struct Page {
    first: u32,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    /// Number of the name.
    name: usize,
    /// First series of each run, and its pair, [`ABSENT`] where the label is.
    runs: Vec<(u32, u32)>,
    /// Series past the last run.
    end: u32,
}

/// Stands for a pair: no part has so many.
const ABSENT: u32 = u32::MAX;

/// Where a column is while series go by.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    run: usize,
    pair: Option<u32>,
    /// The page of symbols of `pair`.
    chunk: usize,
}

impl Page {
    fn decode(first: u32, raw: &[u8], names: &[Name]) -> Result<Page, CodecError> {
        const BAD: CodecError = CodecError::Malformed("a page of labels names what is not there");
        let mut reader = Cursor::new(raw);
        let count = reader.at_most(names.len())?;
        let mut columns = Vec::with_capacity(count);
        for _ in 0..count {
            let name = reader.at_most(names.len().saturating_sub(1))?;
            if columns.last().is_some_and(|before: &Column| before.name >= name) {
                return Err(BAD);
            }
            let pairs = &names.get(name).ok_or(BAD)?.pairs;
            let runs_count = reader.at_most(reader.remaining() / 2)?;
            let mut runs = Vec::with_capacity(runs_count);
            let (mut at, mut before) = (first, 0i64);
            for _ in 0..runs_count {
                let len = reader.at_most(PAGE_SERIES as usize)? as u32;
                let pair = match reader.varint()? {
                    0 => ABSENT,
                    code => {
                        before = before.wrapping_add(unzigzag(code - 1));
                        let pair =
                            i64::from(pairs.start).checked_add(before).and_then(|p| u32::try_from(p).ok());
                        pair.filter(|pair| pairs.contains(pair) && *pair != ABSENT).ok_or(BAD)?
                    }
                };
                runs.push((at, pair));
                at = at.checked_add(len).ok_or(BAD)?;
            }
            columns.push(Column { name, runs, end: at });
        }
        Ok(Page { first, columns })
    }

    fn bytes(&self) -> usize {
        self.columns.iter().map(|c| 64 + c.runs.len() * size_of::<(u32, u32)>()).sum()
    }
}

impl Column {
    /// The pair of `series`, searching on from run `cursor`.
    fn pair(&self, series: u32, cursor: &mut usize) -> Option<u32> {
        while self.runs.get(*cursor + 1).is_some_and(|run| run.0 <= series) {
            *cursor += 1;
        }
        let run = self.runs.get(*cursor).filter(|run| run.0 <= series && series < self.end)?;
        (run.1 != ABSENT).then_some(run.1)
    }

    /// The pairs with the series of their runs.
    fn spans(&self) -> impl Iterator<Item = (u32, std::ops::Range<u32>)> {
        self.runs.iter().enumerate().filter_map(|(at, &(first, pair))| {
            let end = self.runs.get(at + 1).map_or(self.end, |next| next.0);
            (pair != ABSENT).then_some((pair, first..end))
        })
    }
}

impl LabelRows {
    fn index(&self, file: &PartFile) -> Result<&ChunkIndex, PartError> {
        self.index.get_or(|| Ok(ChunkIndex::read(file, SectionId::Labels, |_| Ok(()))?.0))
    }

    fn page(&self, file: &PartFile, symbols: &Symbols, at: usize) -> Result<Arc<Page>, PartError> {
        let (index, names) = (self.index(file)?, symbols.names(file)?);
        file.cached(Kind::Labels, at as u64, 0, || {
            let raw = index.load(file, at)?;
            let place = index.chunks()[at];
            let page = Page::decode(place.first, &raw, names)
                .map_err(file.undecodable(SectionId::Labels, place.offset))?;
            let bytes = page.bytes();
            Ok((page, bytes))
        })
    }

    /// Appends the labels of `series` (ascending).
    pub(super) fn read(
        &self,
        file: &PartFile,
        symbols: &Symbols,
        series: &[u32],
        out: &mut Vec<Labels>,
    ) -> Result<(), PartError> {
        let names = symbols.names(file)?;
        let mut resolver = Resolver::new(symbols, file)?;
        out.reserve(series.len());
        let mut room = Vec::with_capacity(256);
        for run in series.chunk_by(|a, b| a / PAGE_SERIES == b / PAGE_SERIES) {
            let page = self.page(file, symbols, (run[0] / PAGE_SERIES) as usize)?;
            let mut cursors = vec![Standing::default(); page.columns.len()];
            for &number in run {
                for (column, cursor) in page.columns.iter().zip(&mut cursors) {
                    let pair = column.pair(number, &mut cursor.run);
                    // Most labels are those of the series before.
                    if pair != cursor.pair {
                        cursor.pair = pair;
                        if let Some(pair) = pair {
                            resolver.ensure(pair, &mut cursor.chunk)?;
                        }
                    }
                }
                let pairs = page.columns.iter().zip(&cursors);
                let pairs = pairs.filter_map(|(column, cursor)| {
                    cursor.pair.map(|pair| (&*names[column.name].name, resolver.get(cursor.chunk, pair)))
                });
                out.push(Labels::from_sorted_in(&mut room, pairs));
            }
        }
        Ok(())
    }

    /// The pairs of label name number `name` (of all names for `None`) that series of `set` have.
    pub(super) fn pairs_of(
        &self,
        file: &PartFile,
        symbols: &Symbols,
        set: &RoaringBitmap,
        name: Option<usize>,
    ) -> Result<RoaringBitmap, PartError> {
        let mut found = RoaringBitmap::new();
        for at in 0..self.index(file)?.chunks().len() {
            let first = self.index(file)?.chunks()[at].first;
            if set.range_cardinality(first..first.saturating_add(PAGE_SERIES)) == 0 {
                continue;
            }
            let page = self.page(file, symbols, at)?;
            debug_assert_eq!(page.first, first);
            for column in page.columns.iter().filter(|c| name.is_none_or(|name| c.name == name)) {
                for (pair, series) in column.spans() {
                    if !found.contains(pair) && set.range_cardinality(series) > 0 {
                        found.insert(pair);
                    }
                }
            }
        }
        Ok(found)
    }
}
