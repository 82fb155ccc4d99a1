//! The bytes of remembered lines. Targets that run the same exporter say nearly the same, up to the values:
//! what they have in common is kept once.
//!
//! New lines gather in a tail of their own. When that is long enough it is cut into *chunks*, which are
//! looked up among those of all targets ([`SharedText`]). Cuts depend on what is written, not on how much came
//! before, so that a line more or less in one target changes the chunk it is in and no other.
//!
//! An address is 32 bits: chunk number and place within it, or, with the highest bit set, a place in the
//! tail.

use std::ops::Range;
use std::sync::Arc;

use stdx::intern::Interned;
use xxhash_rust::xxh3::xxh3_64;

use super::entry::Entry;

#[cfg(test)]
mod tests;

/// A chunk has at most `1 << SLOT_BITS` bytes, unless a single line is longer; that one takes several slots.
const SLOT_BITS: u32 = 12;
const SLOT_BYTES: usize = 1 << SLOT_BITS;
/// Set in addresses within the tail.
const TAIL: u32 = 1 << 31;
/// Of so many lines of metadata one begins a chunk, on average.
const CUT_ONE_IN: u64 = 4;
/// A chunk that ends at such a line has so many bytes: addresses are not to run out because of tiny chunks.
const CHUNK_MIN: usize = SLOT_BYTES / 4;
/// Slots that addresses can name.
const SLOTS_MAX: usize = (TAIL >> SLOT_BITS) as usize;

/// What the memories of many targets share. Clones share the same.
#[derive(Debug, Default, Clone)]
pub struct SharedText {
    chunks: Interned<[u8]>,
    /// Entries and their order, of targets that have had the same lines for a while.
    pub(super) entries: Interned<[Entry]>,
    pub(super) orders: Interned<[u32]>,
}

/// The bytes of one target's lines.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// Chunks by the upper bits of addresses.
    slots: Vec<Arc<[u8]>>,
    tail: Vec<u8>,
    shared: SharedText,
}

/// A line to be moved into chunks.
pub(super) struct Line<'a> {
    /// Its address in the tail; becomes the one in its chunk.
    pub(super) start: &'a mut u32,
    /// Bytes.
    pub(super) len: usize,
    /// Whether it is HELP, TYPE or UNIT: chunks begin with such lines.
    pub(super) is_meta: bool,
}

impl Arena {
    pub(super) fn new(shared: SharedText) -> Arena {
        Arena { shared, ..Arena::default() }
    }

    /// Whom it shares with.
    pub(super) fn shared(&self) -> &SharedText {
        &self.shared
    }

    /// An empty one that shares with the same others.
    pub(super) fn empty_again(&self) -> Arena {
        Arena::new(self.shared.clone())
    }

    /// The `len` bytes at an address.
    #[inline]
    pub(super) fn get(&self, start: u32, len: usize) -> &[u8] {
        if start & TAIL == 0 {
            let at = start as usize & (SLOT_BYTES - 1);
            &self.slots[(start >> SLOT_BITS) as usize][at..at + len]
        } else {
            let at = (start & !TAIL) as usize;
            &self.tail[at..at + len]
        }
    }

    /// Whether so many more bytes can be pushed before addresses run out: 512 MiB in all.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        // Two neighbouring chunks have CHUNK_MIN bytes a slot, for where one is smaller the next line is long.
        let slots_to_come = (self.tail.len() + bytes) / CHUNK_MIN + 2;
        self.slots.len() + slots_to_come <= SLOTS_MAX
    }

    /// Adds a line, and says its address; there must be [room](Arena::has_room).
    pub(super) fn push(&mut self, line: &[u8]) -> u32 {
        let start = self.tail.len() as u32 | TAIL;
        self.tail.extend_from_slice(line);
        start
    }

    /// Whether an address is in the tail.
    pub(super) fn is_tail(start: u32) -> bool {
        start & TAIL != 0
    }

    /// The tail's length, bytes; for [`Arena::truncate`].
    pub(super) fn tail_len(&self) -> usize {
        self.tail.len()
    }

    /// Takes back what was pushed since the tail had this length.
    pub(super) fn truncate(&mut self, tail_len: usize) {
        self.tail.truncate(tail_len);
    }

    /// Whether the tail is worth sharing.
    pub(super) fn is_full(&self) -> bool {
        self.tail.len() >= SLOT_BYTES
    }

    /// Moves all lines of the tail, in order, into shared chunks.
    pub(super) fn seal<'a>(&mut self, lines: impl Iterator<Item = Line<'a>>) {
        let tail = std::mem::take(&mut self.tail);
        let mut chunk = 0..0;
        for Line { start, len, is_meta } in lines {
            let at = (*start & !TAIL) as usize;
            let is_cut = is_meta
                && chunk.len() >= CHUNK_MIN
                && xxh3_64(&tail[at..at + len]).is_multiple_of(CUT_ONE_IN);
            if is_cut || at + len - chunk.start > SLOT_BYTES {
                self.add_chunk(&tail, chunk);
                chunk = at..at;
            }
            *start = ((self.slots.len() << SLOT_BITS) + (at - chunk.start)) as u32;
            chunk.end = at + len;
        }
        self.add_chunk(&tail, chunk);
        self.slots.shrink_to_fit();
    }

    fn add_chunk(&mut self, tail: &[u8], range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let slots = range.len().div_ceil(SLOT_BYTES);
        let chunk = self.shared.chunks.share(&tail[range]);
        self.slots.extend(std::iter::repeat_n(chunk, slots));
    }

    pub(super) fn shrink(&mut self) {
        self.tail.shrink_to(self.tail.len() + self.tail.len() / 8);
    }

    /// Memory held, bytes: of a shared chunk its part.
    pub(super) fn heap_bytes(&self) -> usize {
        // One holder is the table.
        let part = |chunk: &Arc<[u8]>| chunk.len() / Arc::strong_count(chunk).saturating_sub(1).max(1);
        self.tail.capacity()
            + self.slots.capacity() * size_of::<Arc<[u8]>>()
            + self.slots.iter().map(part).sum::<usize>()
    }
}
