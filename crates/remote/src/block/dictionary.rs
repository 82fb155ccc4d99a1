//! What sources and columns of a segment are called: read from the additions of its blocks.

use model::{Labels, SourceId};
use stdx::bytes::Cursor;

use super::BlockError;
use super::decoder::Definitions;

/// Most labels of a source or series.
const LABELS_MAX: usize = 4096;
/// Most columns of a source.
pub(crate) const COLUMNS_MAX: usize = 1 << 22;
/// Kind of columns whose values are written as floats and histograms.
pub(crate) const KIND_FLOAT: u64 = 0;

/// The dictionary so far.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    text: String,
    /// Where in `text` the symbols end.
    ends: Vec<u32>,
    sources: Vec<Labels>,
}

/// Most of everything in one segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) symbol_bytes: usize,
    pub(crate) sources: usize,
}

type Pairs<'a> = Vec<(&'a str, &'a str)>;

impl Dictionary {
    /// Takes in additions; `definitions` hears of each source and column, sources first.
    pub(crate) fn learn(
        &mut self,
        bytes: &[u8],
        limits: Limits,
        definitions: &mut dyn Definitions,
    ) -> Result<(), BlockError> {
        let mut cursor = Cursor::new(bytes);
        for _ in 0..cursor.count(1)? {
            self.add_symbol(cursor.text()?, limits)?;
        }
        for _ in 0..cursor.count(17)? {
            self.add_source(&mut cursor, limits, definitions)?;
        }
        for _ in 0..cursor.count(4)? {
            self.add_columns(&mut cursor, definitions)?;
        }
        if cursor.is_empty() { Ok(()) } else { Err(BlockError::Malformed("bytes follow the dictionary")) }
    }

    fn add_symbol(&mut self, text: &str, limits: Limits) -> Result<(), BlockError> {
        if self.text.len() + text.len() + self.ends.len() * 4 > limits.symbol_bytes {
            return Err(BlockError::Limit { what: "bytes of symbols", max: limits.symbol_bytes });
        }
        self.text.push_str(text);
        self.ends.push(self.text.len() as u32);
        Ok(())
    }

    fn symbol(&self, cursor: &mut Cursor<'_>) -> Result<&str, BlockError> {
        let id = cursor.varint()? as usize;
        let end = *self.ends.get(id).ok_or(BlockError::Malformed("a label names no symbol"))? as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        Ok(&self.text[start..end])
    }

    fn pairs(&self, cursor: &mut Cursor<'_>, count: usize) -> Result<Pairs<'_>, BlockError> {
        if count > LABELS_MAX || count > cursor.rest().len() {
            return Err(BlockError::Malformed("a set has too many labels"));
        }
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            let (name, value) = (self.symbol(cursor)?, self.symbol(cursor)?);
            if name.is_empty() || value.is_empty() || pairs.last().is_some_and(|(last, _)| *last >= name) {
                return Err(BlockError::Malformed("labels are empty or out of order"));
            }
            pairs.push((name, value));
        }
        Ok(pairs)
    }

    fn add_source(
        &mut self,
        cursor: &mut Cursor<'_>,
        limits: Limits,
        definitions: &mut dyn Definitions,
    ) -> Result<(), BlockError> {
        if self.sources.len() >= limits.sources {
            return Err(BlockError::Limit { what: "sources", max: limits.sources });
        }
        let id = SourceId(u128::from_le_bytes(cursor.array()?));
        let count = cursor.varint()?;
        let pairs = self.pairs(cursor, usize::try_from(count).unwrap_or(usize::MAX))?;
        let labels = Labels::from_sorted(pairs.into_iter());
        definitions.source(self.sources.len() as u32, id, &labels)?;
        self.sources.push(labels);
        Ok(())
    }

    fn add_columns(
        &mut self,
        cursor: &mut Cursor<'_>,
        definitions: &mut dyn Definitions,
    ) -> Result<(), BlockError> {
        let source = cursor.small()?;
        let labels = self
            .sources
            .get(source as usize)
            .ok_or(BlockError::Malformed("a column belongs to no source"))?;
        let shared: Vec<(&str, &str)> = labels.iter().collect();
        let first = cursor.small()?;
        let count = cursor.count(1)?;
        if first as usize + count > COLUMNS_MAX {
            return Err(BlockError::Limit { what: "columns in a source", max: COLUMNS_MAX });
        }
        let mut room = Vec::with_capacity(256);
        for column in first..first + count as u32 {
            let head = cursor.varint()?;
            if head & 7 != KIND_FLOAT {
                return Err(BlockError::Malformed("a column is of an unknown kind"));
            }
            let own = self.pairs(cursor, usize::try_from(head >> 4).unwrap_or(usize::MAX))?;
            let dropped = if head & 8 != 0 { self.names(cursor)? } else { Vec::new() };
            let labels = Labels::from_sorted_in(&mut room, merge(&shared, &own, &dropped).into_iter());
            definitions.column(source, column, labels)?;
        }
        Ok(())
    }

    fn names(&self, cursor: &mut Cursor<'_>) -> Result<Vec<&str>, BlockError> {
        let count = cursor.count(1)?;
        if count > LABELS_MAX {
            return Err(BlockError::Malformed("a set lacks too many labels"));
        }
        (0..count).map(|_| self.symbol(cursor)).collect()
    }
}

/// The labels of a series: its own, and those of its source that it neither has itself nor lacks.
fn merge<'a>(shared: &[(&'a str, &'a str)], own: &[(&'a str, &'a str)], dropped: &[&str]) -> Pairs<'a> {
    let mut out = Vec::with_capacity(shared.len() + own.len());
    let mut own = own.iter().peekable();
    for pair in shared {
        while let Some(mine) = own.next_if(|mine| mine.0 < pair.0) {
            out.push(*mine);
        }
        let overridden = own.peek().is_some_and(|mine| mine.0 == pair.0);
        if !overridden && !dropped.contains(&pair.0) {
            out.push(*pair);
        }
    }
    out.extend(own);
    out
}
