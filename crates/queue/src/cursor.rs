//! What a reader has done with the blocks, and its file (`docs/formats/queue.md`).

use std::collections::BTreeMap;
use std::path::Path;

use crate::bytes::{Cursor, get_u16, get_u32};
use crate::error::QueueError;
use crate::intervals::Intervals;
use crate::segment::{MAJOR, MINOR};

const MAGIC: &[u8; 8] = b"MGRAFQRD";
/// So many records of lost blocks are kept apart; beyond that neighbours are joined.
const LOST_MAX: usize = 1024;

/// Why a reader never got some blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LostReason {
    /// They were dropped, the oldest first, because the queue was at its bound of bytes.
    Bytes,
    /// They were dropped because they had waited for longer than the queue keeps.
    Age,
    /// The disk gave back other bytes than were written.
    Damaged,
}

impl LostReason {
    /// As it stands in metrics and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            LostReason::Bytes => "queue_full",
            LostReason::Age => "queue_age",
            LostReason::Damaged => "queue_damaged",
        }
    }

    fn code(self) -> u8 {
        match self {
            LostReason::Bytes => 1,
            LostReason::Age => 2,
            LostReason::Damaged => 3,
        }
    }

    fn from_code(code: u8) -> Option<LostReason> {
        [LostReason::Bytes, LostReason::Age, LostReason::Damaged].into_iter().find(|r| r.code() == code)
    }
}

/// Blocks that a reader had not acknowledged and will not get any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Of which incarnation.
    pub incarnation: u128,
    /// The first one.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// How many between those, both included; fewer than all when the record was joined with others.
    pub blocks: u64,
    /// Rows in those whose header could be read.
    pub rows: u64,
    /// Samples in those whose header could be read.
    pub samples: u64,
    /// Oldest timestamp in those whose header could be read; `i64::MAX` when there is none.
    pub oldest_ms: i64,
    /// Newest timestamp in those; `i64::MIN` when there is none.
    pub newest_ms: i64,
    /// Blocks whose header could not be read, so that their rows are not counted above.
    pub unreadable: u64,
    /// Why.
    pub reason: LostReason,
}

impl Lost {
    fn join(&mut self, other: &Lost) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.blocks += other.blocks;
        self.rows += other.rows;
        self.samples += other.samples;
        self.oldest_ms = self.oldest_ms.min(other.oldest_ms);
        self.newest_ms = self.newest_ms.max(other.newest_ms);
        self.unreadable += other.unreadable;
    }
}

/// The durable state of a reader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReaderState {
    /// What it needs no more, for each incarnation: acknowledged, lost, or before its start.
    pub(crate) done: BTreeMap<u128, Intervals>,
    /// Lost blocks that the owner of the reader has not booked yet, oldest record first.
    pub(crate) lost: Vec<Lost>,
}

impl ReaderState {
    pub(crate) fn covers(&self, incarnation: u128, first: u64, next: u64) -> bool {
        next <= first || self.done.get(&incarnation).is_some_and(|done| done.covers(first, next - 1))
    }

    /// Books blocks as lost; they are done with.
    pub(crate) fn lose(&mut self, lost: Lost) {
        self.done.entry(lost.incarnation).or_default().insert(lost.first, lost.last);
        let alike = |last: &&mut Lost| last.incarnation == lost.incarnation && last.reason == lost.reason;
        match self.lost.last_mut().filter(alike) {
            Some(last) if last.last.checked_add(1) == Some(lost.first) => last.join(&lost),
            _ => self.lost.push(lost),
        }
        if self.lost.len() > LOST_MAX {
            self.join_neighbours();
        }
    }

    fn join_neighbours(&mut self) {
        let mut joined: Vec<Lost> = Vec::with_capacity(self.lost.len() / 2);
        let target = LOST_MAX / 2;
        let mut excess = self.lost.len().saturating_sub(target);
        for lost in self.lost.drain(..) {
            match joined.last_mut() {
                Some(last)
                    if excess > 0 && last.incarnation == lost.incarnation && last.reason == lost.reason =>
                {
                    last.join(&lost);
                    excess -= 1;
                }
                _ => joined.push(lost),
            }
        }
        self.lost = joined;
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&MAJOR.to_le_bytes());
        out.extend_from_slice(&MINOR.to_le_bytes());
        let put = |out: &mut Vec<u8>, word: u64| out.extend_from_slice(&word.to_le_bytes());
        put(&mut out, self.done.len() as u64);
        for (incarnation, done) in &self.done {
            out.extend_from_slice(&incarnation.to_le_bytes());
            put(&mut out, done.len() as u64);
            for (first, last) in done.iter() {
                put(&mut out, first);
                put(&mut out, last);
            }
        }
        put(&mut out, self.lost.len() as u64);
        for lost in &self.lost {
            out.extend_from_slice(&lost.incarnation.to_le_bytes());
            for word in [lost.first, lost.last, lost.blocks, lost.rows, lost.samples, lost.unreadable] {
                put(&mut out, word);
            }
            out.extend_from_slice(&lost.oldest_ms.to_le_bytes());
            out.extend_from_slice(&lost.newest_ms.to_le_bytes());
            out.push(lost.reason.code());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// `Ok(None)` when the bytes are damaged, an error for a later version.
    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Option<ReaderState>, QueueError> {
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else { return Ok(None) };
        if !body.starts_with(MAGIC) || crc32c::crc32c(body) != get_u32(crc, 0) || body.len() < 12 {
            return Ok(None);
        }
        let major = get_u16(body, 8);
        if major > MAJOR {
            return Err(QueueError::Version { path: path.to_owned(), major, known: MAJOR });
        }
        Ok(Self::decode_body(Cursor(&body[12..])))
    }

    fn decode_body(mut cursor: Cursor<'_>) -> Option<ReaderState> {
        let mut state = ReaderState::default();
        for _ in 0..cursor.u64()? {
            let incarnation = cursor.u128()?;
            let done = state.done.entry(incarnation).or_default();
            for _ in 0..cursor.u64()? {
                done.insert(cursor.u64()?, cursor.u64()?);
            }
        }
        for _ in 0..cursor.u64()? {
            state.lost.push(Lost {
                incarnation: cursor.u128()?,
                first: cursor.u64()?,
                last: cursor.u64()?,
                blocks: cursor.u64()?,
                rows: cursor.u64()?,
                samples: cursor.u64()?,
                unreadable: cursor.u64()?,
                oldest_ms: cursor.i64()?,
                newest_ms: cursor.i64()?,
                reason: LostReason::from_code(cursor.u8()?)?,
            });
        }
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(first: u64, last: u64, reason: LostReason) -> Lost {
        Lost {
            incarnation: 1,
            first,
            last,
            blocks: last - first + 1,
            rows: 2,
            samples: 3,
            oldest_ms: first as i64,
            newest_ms: last as i64,
            unreadable: 0,
            reason,
        }
    }

    #[test]
    fn it_comes_back_and_damage_shows() {
        let mut state = ReaderState::default();
        state.done.entry(7).or_default().insert(3, 9);
        state.lose(lost(20, 22, LostReason::Bytes));
        state.lose(lost(23, 23, LostReason::Bytes));
        state.lose(lost(24, 24, LostReason::Damaged));
        assert_eq!(state.lost.len(), 2, "neighbours for one reason are one record");
        assert_eq!((state.lost[0].blocks, state.lost[0].rows), (4, 4));
        let bytes = state.encode();
        let path = Path::new("x");
        assert_eq!(ReaderState::decode(&bytes, path).unwrap(), Some(state));
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            assert_eq!(ReaderState::decode(&bytes, path).unwrap(), None, "byte {at}");
            assert_eq!(ReaderState::decode(&bytes[..at], path).unwrap(), None, "{at} bytes");
        }
    }

    #[test]
    fn records_of_losses_are_bounded_and_their_sums_stay() {
        let mut state = ReaderState::default();
        for block in 0..5_000 {
            state.lose(lost(block * 2, block * 2, LostReason::Age));
        }
        assert!(state.lost.len() <= LOST_MAX, "{}", state.lost.len());
        assert_eq!(state.lost.iter().map(|lost| lost.blocks).sum::<u64>(), 5_000);
        assert_eq!(state.lost.iter().map(|lost| lost.rows).sum::<u64>(), 10_000);
    }
}
