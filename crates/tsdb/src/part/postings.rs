//! Reading which series have a label value (PST), and selecting by matchers. The writer's side is in
//! `labels.rs`.

use std::ops::Range;

use model::{MatchOp, Matcher};
use roaring::RoaringBitmap;
use stdx::bytes::Cursor;

use super::cache::Kind;
use super::chunks::ChunkIndex;
use super::file::{PartFile, Stretch};
use super::labels::{PAIRS_PER_CHUNK, POSTINGS_BLOCK};
use super::layout::SectionId;
use super::reader::DAMAGE_NAMED_MAX;
use super::symbols::Symbols;
use super::{Lazy, PartError};
use crate::codec::{CodecError, decode_ints};

/// The posting lists of a part.
#[derive(Debug, Default)]
pub(super) struct Postings {
    index: Lazy<ChunkIndex>,
}

/// The values of a label that a matcher is about.
#[derive(Debug, Default)]
struct Pairs(RoaringBitmap);

impl Postings {
    fn index(&self, file: &PartFile) -> Result<&ChunkIndex, PartError> {
        self.index.get_or(|| Ok(ChunkIndex::read(file, SectionId::Postings, |_| Ok(()))?.0))
    }

    /// The series (of `count` in the part) that have any of `pairs`.
    pub(super) fn union(
        &self,
        file: &PartFile,
        pairs: &RoaringBitmap,
        count: u32,
    ) -> Result<RoaringBitmap, PartError> {
        let mut stretches: Vec<Stretch> = Vec::with_capacity(pairs.len() as usize);
        let mut kinds = Vec::with_capacity(pairs.len() as usize);
        let mut pairs = pairs.iter().peekable();
        while let Some(&pair) = pairs.peek() {
            let index = self.index(file)?;
            let missing =
                || file.corrupt(SectionId::Postings, 0, format!("the list of label value {pair} is missing"));
            let at = index.find(pair).ok_or_else(missing)?;
            let (first, offset) = (index.chunks()[at].first, index.chunks()[at].offset);
            if pair - first >= PAIRS_PER_CHUNK {
                return Err(missing());
            }
            let chunk = index.cached(file, at)?;
            let mut wanted = std::iter::from_fn(|| pairs.next_if(|&p| p - first < PAIRS_PER_CHUNK));
            let mut read = || -> Result<(), CodecError> {
                let mut reader = Cursor::new(&chunk);
                let mut offset = reader.varint()?;
                let mut next = first;
                for pair in wanted.by_ref() {
                    loop {
                        let series = reader.at_most(count as usize)? as u32;
                        let (len, kind) = reader.varint().map(|v| (v >> 1, v & 1))?;
                        let len =
                            u32::try_from(len).map_err(|_| CodecError::Malformed("a list is too long"))?;
                        let here = offset;
                        offset = offset.saturating_add(u64::from(len));
                        next += 1;
                        if next > pair {
                            stretches.push((here, len));
                            kinds.push((kind, series));
                            break;
                        }
                    }
                }
                Ok(())
            };
            read().map_err(file.undecodable(SectionId::Postings, offset))?;
        }
        let mut set = RoaringBitmap::new();
        file.read_all(SectionId::Postings, &stretches, |at, bytes| {
            let (kind, series) = kinds[at];
            decode_list(bytes, kind, series, count, &mut set)
                .map_err(file.undecodable(SectionId::Postings, stretches[at].0))
        })?;
        Ok(set)
    }

    /// The series (of `count`) that satisfy all `matchers`.
    ///
    /// A matcher that an absent label satisfies takes the series away that have a value it refuses;
    /// any other keeps those that have a value it accepts.
    pub(super) fn select(
        &self,
        file: &PartFile,
        symbols: &Symbols,
        matchers: &[Matcher],
        count: u32,
    ) -> Result<RoaringBitmap, PartError> {
        let mut order: Vec<(&Matcher, bool)> = matchers.iter().map(|m| (m, m.matches_empty())).collect();
        order.sort_by_key(|(m, matches_empty)| (*matches_empty, m.op != MatchOp::Equal));
        let mut set: Option<RoaringBitmap> = None;
        for (matcher, matches_empty) in order {
            if set.as_ref().is_some_and(RoaringBitmap::is_empty) {
                break;
            }
            let about = self.about(file, symbols, matcher, matches_empty, count)?;
            set = Some(match (set, matches_empty) {
                (Some(set), false) => set & &*about,
                (None, false) => (*about).clone(),
                (set, true) => set.unwrap_or_else(|| everything(count)) - &*about,
            });
        }
        Ok(set.unwrap_or_else(|| everything(count)))
    }

    /// The series with a value that `matcher` accepts; with `refused`, with one that it refuses.
    fn about(
        &self,
        file: &PartFile,
        symbols: &Symbols,
        matcher: &Matcher,
        refused: bool,
        count: u32,
    ) -> Result<std::sync::Arc<RoaringBitmap>, PartError> {
        let hash = xxhash_rust::xxh3::xxh3_128(matcher.to_string().as_bytes());
        file.cached(Kind::Matcher, hash as u64, (hash >> 64) as u64, || {
            let pairs = pairs_of(file, symbols, matcher, refused)?;
            let set = self.union(file, &pairs.0, count)?;
            let bytes = set.serialized_size();
            Ok((set, bytes))
        })
    }

    /// Decodes the lists of all pairs; `bad` hears of every damage.
    pub(super) fn verify(
        &self,
        file: &PartFile,
        pairs: Range<u32>,
        count: u32,
        mut bad: impl FnMut(PartError),
    ) {
        let mut start = pairs.start;
        let mut named = 0;
        while start < pairs.end && named < DAMAGE_NAMED_MAX {
            let end = start.saturating_add(PAIRS_PER_CHUNK).min(pairs.end);
            let mut pairs = RoaringBitmap::new();
            pairs.insert_range(start..end);
            if let Err(error) = self.union(file, &pairs, count) {
                bad(error);
                named += 1;
            }
            start = end;
        }
    }
}

fn everything(count: u32) -> RoaringBitmap {
    let mut all = RoaringBitmap::new();
    all.insert_range(0..count);
    all
}

/// The pairs whose values `matcher` accepts (refuses, with `refused`).
fn pairs_of(
    file: &PartFile,
    symbols: &Symbols,
    matcher: &Matcher,
    refused: bool,
) -> Result<Pairs, PartError> {
    let all = symbols.pairs_of(file, &matcher.name)?;
    let mut pairs = Pairs::default();
    if all.is_empty() {
        return Ok(pairs);
    }
    let negative = matches!(matcher.op, MatchOp::NotEqual | MatchOp::NotRegex);
    // The values that the text or pattern itself matches, or those it does not.
    let of_pattern = negative == refused;
    let literals = match (matcher.regex(), of_pattern) {
        (None, _) => Some(std::slice::from_ref(&matcher.value)),
        (Some(regex), _) => regex.literals(),
    };
    match (literals, of_pattern) {
        (Some(literals), true) => {
            for literal in literals.iter().filter(|l| !l.is_empty()) {
                pairs.0.extend(symbols.find(file, all.clone(), literal)?);
            }
        }
        (Some(literals), false) => {
            pairs.0.insert_range(all.clone());
            for literal in literals.iter().filter(|l| !l.is_empty()) {
                if let Some(pair) = symbols.find(file, all.clone(), literal)? {
                    pairs.0.remove(pair);
                }
            }
        }
        (None, _) if matches!(&*matcher.value, ".*" | ".+") => {
            // No value is empty, so both match every one.
            if of_pattern {
                pairs.0.insert_range(all);
            }
        }
        (None, _) => {
            let prefix = matcher.regex().map_or("", |regex| regex.prefix());
            let within = symbols.with_prefix(file, all.clone(), prefix)?;
            if !of_pattern {
                // Values without the prefix do not match the pattern.
                pairs.0.insert_range(all.start..within.start);
                pairs.0.insert_range(within.end..all.end);
            }
            symbols.visit(file, within, |pair, value| {
                if matcher.matches(value) != refused {
                    pairs.0.insert(pair);
                }
            })?;
        }
    }
    Ok(pairs)
}

fn decode_list(
    bytes: &[u8],
    kind: u64,
    series: u32,
    count: u32,
    set: &mut RoaringBitmap,
) -> Result<(), CodecError> {
    const BAD: CodecError = CodecError::Malformed("a posting list names series that are not there");
    if kind == 0 {
        let mut reader = Cursor::new(bytes);
        let mut end = 0usize;
        while reader.remaining() > 0 {
            let first = end + reader.at_most(count as usize - end)?;
            end = first + 1 + reader.at_most((count as usize).checked_sub(first + 1).ok_or(BAD)?)?;
            set.insert_range(first as u32..end as u32);
        }
        return Ok(());
    }
    let (mut at, mut left) = (0, series as usize);
    let mut numbers = Vec::with_capacity(left.min(POSTINGS_BLOCK));
    while left > 0 {
        numbers.clear();
        at += decode_ints(&bytes[at..], left.min(POSTINGS_BLOCK), &mut numbers)?;
        if numbers.iter().any(|&n| n < 0 || n >= i64::from(count)) {
            return Err(BAD);
        }
        set.extend(numbers.iter().map(|&n| n as u32));
        left -= numbers.len();
    }
    Ok(())
}
