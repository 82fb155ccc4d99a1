//! Reading label names and values (SYM). The writer's side is in `labels.rs`.

use std::ops::Range;
use std::sync::Arc;

use stdx::bytes::{Cursor, Malformed};

use super::cache::Kind;
use super::chunks::ChunkIndex;
use super::file::PartFile;
use super::layout::SectionId;
use super::{Lazy, PartError};
use crate::codec::CodecError;

/// A label name and the numbers of its (name, value) pairs.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) name: Box<str>,
    pub(super) pairs: Range<u32>,
}

#[derive(Debug)]
pub(super) struct Index {
    chunks: ChunkIndex,
    /// The first value of each chunk.
    firsts: Vec<Box<str>>,
    names: Vec<Name>,
}

/// The symbols of a part.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    index: Lazy<Index>,
}

/// A decoded chunk of values.
#[derive(Debug)]
pub(super) struct Page {
    first: u32,
    text: String,
    ends: Vec<u32>,
}

impl Page {
    fn decode(first: u32, raw: &[u8]) -> Result<Page, CodecError> {
        let mut page = Page { first, text: String::with_capacity(raw.len() * 2), ends: Vec::new() };
        let mut reader = Cursor::new(raw);
        let mut start = 0;
        while reader.remaining() > 0 {
            let shared = reader.at_most(page.text.len() - start)?;
            let end = start + shared;
            if !page.text.is_char_boundary(end) || page.text.len() > super::chunks::CHUNK_BYTES_MAX {
                return Err(CodecError::Malformed("a symbol does not continue the one before"));
            }
            let rest = reader.text()?;
            let next = page.text.len();
            page.text.extend_from_within(start..end);
            page.text.push_str(rest);
            if page.text.len() == next {
                return Err(CodecError::Malformed("a label value is empty"));
            }
            page.ends.push(page.text.len() as u32);
            start = next;
        }
        page.text.shrink_to_fit();
        page.ends.shrink_to_fit();
        Ok(page)
    }

    fn get(&self, pair: u32) -> Option<&str> {
        let at = pair.checked_sub(self.first)? as usize;
        let start = if at == 0 { 0 } else { *self.ends.get(at - 1)? as usize };
        self.text.get(start..*self.ends.get(at)? as usize)
    }
}

impl Symbols {
    fn index(&self, file: &PartFile) -> Result<&Index, PartError> {
        self.index.get_or(|| {
            let (chunks, extra) = ChunkIndex::read(file, SectionId::Symbols, |reader| {
                Ok(reader.take(reader.remaining())?.to_vec())
            })?;
            let read = || -> Result<(Vec<Box<str>>, Vec<Name>), CodecError> {
                let mut reader = Cursor::new(&extra);
                let firsts = chunks
                    .chunks()
                    .iter()
                    .map(|_| Ok(reader.text()?.into()))
                    .collect::<Result<_, Malformed>>()?;
                let count = reader.at_most(reader.remaining() / 2)?;
                let mut names = Vec::with_capacity(count);
                let mut pair = 0u32;
                // A value takes a byte at least; what claims more of them would be gone through one by one.
                let most = chunks.chunks().iter().map(|chunk| u64::from(chunk.raw)).sum::<u64>();
                for _ in 0..count {
                    let name: Box<str> = reader.text()?.into();
                    if names.last().is_some_and(|before: &Name| *before.name >= *name) {
                        return Err(CodecError::Malformed("label names are not in order"));
                    }
                    let end = pair.checked_add(reader.at_most(u32::MAX as usize)? as u32);
                    let end = end.filter(|end| u64::from(*end) <= most);
                    let end = end.ok_or(CodecError::Malformed("too many label values"))?;
                    names.push(Name { name, pairs: pair..end });
                    pair = end;
                }
                Ok((firsts, names))
            };
            let (firsts, names) = read().map_err(file.undecodable(SectionId::Symbols, 0))?;
            Ok(Index { chunks, firsts, names })
        })
    }

    /// All names, sorted, with their pairs.
    pub(super) fn names(&self, file: &PartFile) -> Result<&[Name], PartError> {
        Ok(&self.index(file)?.names)
    }

    /// The pairs of label `name`; empty when no series has it.
    pub(super) fn pairs_of(&self, file: &PartFile, name: &str) -> Result<Range<u32>, PartError> {
        let names = self.names(file)?;
        let found = names.binary_search_by(|n| (*n.name).cmp(name));
        Ok(found.map_or(0..0, |at| names[at].pairs.clone()))
    }

    fn page(&self, file: &PartFile, chunk: usize) -> Result<Arc<Page>, PartError> {
        let index = self.index(file)?;
        file.cached(Kind::Symbols, chunk as u64, 0, || {
            let raw = index.chunks.load(file, chunk)?;
            let place = index.chunks.chunks()[chunk];
            let page = Page::decode(place.first, &raw)
                .map_err(file.undecodable(SectionId::Symbols, place.offset))?;
            let bytes = page.text.len() + page.ends.len() * 4;
            Ok((page, bytes))
        })
    }

    fn missing(file: &PartFile, pair: u32) -> PartError {
        file.corrupt(SectionId::Symbols, 0, format!("label value {pair} is missing"))
    }

    /// The first pair of `pairs` (sorted by value, those of one name) whose value is not `below`;
    /// the end when all are.
    pub(super) fn partition(
        &self,
        file: &PartFile,
        pairs: Range<u32>,
        below: impl Fn(&str) -> bool,
    ) -> Result<u32, PartError> {
        if pairs.is_empty() {
            return Ok(pairs.end);
        }
        let index = self.index(file)?;
        let chunks = index.chunks.chunks();
        // Chunks that start within the pairs, and how many of those start below.
        let inner = chunks.partition_point(|c| c.first <= pairs.start);
        let outer = chunks.partition_point(|c| c.first < pairs.end);
        let at = inner + index.firsts[inner..outer.max(inner)].partition_point(|first| below(first));
        let chunk = at.checked_sub(1).ok_or_else(|| Symbols::missing(file, pairs.start))?;
        let page = self.page(file, chunk)?;
        let (mut low, mut high) =
            (pairs.start.max(chunks[chunk].first), if at < outer { chunks[at].first } else { pairs.end });
        while low < high {
            let middle = low + (high - low) / 2;
            if below(page.get(middle).ok_or_else(|| Symbols::missing(file, middle))?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The pair with exactly `value` among `pairs`.
    pub(super) fn find(
        &self,
        file: &PartFile,
        pairs: Range<u32>,
        value: &str,
    ) -> Result<Option<u32>, PartError> {
        let end = pairs.end;
        let at = self.partition(file, pairs, |v| v < value)?;
        if at >= end {
            return Ok(None);
        }
        let mut found = None;
        self.visit(file, at..at + 1, |pair, v| found = (v == value).then_some(pair))?;
        Ok(found)
    }

    /// The pairs among `pairs` whose values start with `prefix`.
    pub(super) fn with_prefix(
        &self,
        file: &PartFile,
        pairs: Range<u32>,
        prefix: &str,
    ) -> Result<Range<u32>, PartError> {
        if prefix.is_empty() {
            return Ok(pairs);
        }
        let start = self.partition(file, pairs.clone(), |v| v < prefix)?;
        let end = self.partition(file, start..pairs.end, |v| v < prefix || v.starts_with(prefix))?;
        Ok(start..end)
    }

    /// Hands the values of `pairs` to `visit`, in order.
    pub(super) fn visit(
        &self,
        file: &PartFile,
        pairs: Range<u32>,
        mut visit: impl FnMut(u32, &str),
    ) -> Result<(), PartError> {
        let index = self.index(file)?;
        let mut pair = pairs.start;
        while pair < pairs.end {
            let chunk = index.chunks.find(pair).ok_or_else(|| Symbols::missing(file, pair))?;
            let page = self.page(file, chunk)?;
            let end =
                index.chunks.chunks().get(chunk + 1).map_or(pairs.end, |next| next.first.min(pairs.end));
            for pair in pair..end {
                visit(pair, page.get(pair).ok_or_else(|| Symbols::missing(file, pair))?);
            }
            pair = end.max(pair + 1);
        }
        Ok(())
    }

    /// Decodes every chunk; `bad` hears of every damage.
    pub(super) fn verify(&self, file: &PartFile, mut bad: impl FnMut(PartError)) {
        match self.index(file) {
            Ok(index) => {
                for chunk in 0..index.chunks.chunks().len() {
                    if let Err(error) = self.page(file, chunk) {
                        bad(error);
                    }
                }
            }
            Err(error) => bad(error),
        }
    }
}

/// Looks values up by pair, holding on to the pages it has seen.
#[derive(Debug)]
pub(super) struct Resolver<'a> {
    symbols: &'a Symbols,
    file: &'a PartFile,
    index: &'a Index,
    /// By number of the chunk.
    pages: Vec<Option<Arc<Page>>>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(symbols: &'a Symbols, file: &'a PartFile) -> Result<Resolver<'a>, PartError> {
        let index = symbols.index(file)?;
        Ok(Resolver { symbols, file, index, pages: vec![None; index.chunks.chunks().len()] })
    }

    /// Makes sure that [`Resolver::get`] finds `pair`, and leaves the number of its page in `chunk`,
    /// where the last one (any, at first) stands as a guess.
    pub(super) fn ensure(&mut self, pair: u32, chunk: &mut usize) -> Result<(), PartError> {
        let missing = || Symbols::missing(self.file, pair);
        let chunks = self.index.chunks.chunks();
        let first_after = |at: usize| chunks.get(at).is_none_or(|next| pair < next.first);
        if chunks.get(*chunk).is_none_or(|guess| pair < guess.first) || !first_after(*chunk + 1) {
            *chunk = self.index.chunks.find(pair).ok_or_else(missing)?;
        }
        let page = match &mut self.pages[*chunk] {
            Some(page) => page,
            none => none.insert(self.symbols.page(self.file, *chunk)?),
        };
        page.get(pair).map(|_| ()).ok_or_else(missing)
    }

    /// The value of `pair` on page `chunk`, both from [`Resolver::ensure`].
    pub(super) fn get(&self, chunk: usize, pair: u32) -> &str {
        self.pages.get(chunk).and_then(Option::as_ref).and_then(|page| page.get(pair)).unwrap_or_default()
    }
}
