//! A block: its key, its header, and both as bytes (`docs/formats/queue.md`).

use crate::bytes::{get_i64, get_u32, get_u64};

/// Length of a block's header on disk.
pub(crate) const HEADER_LEN: usize = 80;
const MAGIC: [u8; 4] = *b"MGqb";

/// The exactly-once key of a block (`docs/design/shipping.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey {
    /// Random, one for each queue directory (and its copies).
    pub queue_id: u128,
    /// Random, one for each time the queue was opened.
    pub incarnation: u128,
    /// Number of the block within the incarnation, from 0 without holes.
    pub block: u64,
}

/// What the encoder says about a block. The queue looks at `floor` and at the sums, the rest is opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockMeta {
    /// The block at which a reader without memory begins to decode so that it knows every delta base of
    /// this one: at least the first block of the segment, at most this block itself.
    pub floor: u64,
    /// Timestamp of the oldest row, milliseconds since the epoch.
    pub oldest_ms: i64,
    /// Timestamp of the newest row, milliseconds since the epoch.
    pub newest_ms: i64,
    /// How many rows.
    pub rows: u32,
    /// How many samples they have.
    pub samples: u32,
    /// Who took the rows in first; 0 is the owner of this queue.
    pub origin: u64,
    /// Whose they are; 0 is the one tenant of the owner of this queue.
    pub tenant: u64,
    /// For the encoder's use.
    pub flags: u32,
}

/// A block as a reader gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its exactly-once key.
    pub key: BlockKey,
    /// Number of the first block of its segment: with the incarnation, the segment's name.
    pub segment_first: u64,
    /// Number of the segment's file; grows with age, also over incarnations.
    pub segment: u64,
    /// What the encoder said.
    pub meta: BlockMeta,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// A header as it stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) block: u64,
    pub(crate) meta: BlockMeta,
    pub(crate) payload_len: u32,
    pub(crate) payload_crc: u32,
}

impl Header {
    /// Bytes of header and payload.
    pub(crate) fn total_len(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.payload_len)
    }

    pub(crate) fn encode(&self, salt: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let meta = &self.meta;
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.payload_len.to_le_bytes());
        for word in [self.block, meta.floor] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for time in [meta.oldest_ms, meta.newest_ms] {
            out.extend_from_slice(&time.to_le_bytes());
        }
        for count in [meta.rows, meta.samples] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        for word in [meta.origin, meta.tenant] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for word in [meta.flags, 0, self.payload_crc] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(salt, &out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(out.len() - start, HEADER_LEN);
    }

    /// The header at the start of `bytes`, if there is a sound one.
    pub(crate) fn decode(bytes: &[u8], salt: u32) -> Option<Header> {
        let bytes = bytes.get(..HEADER_LEN)?;
        if !bytes.starts_with(&MAGIC) || crc32c::crc32c_append(salt, &bytes[..76]) != get_u32(bytes, 76) {
            return None;
        }
        let meta = BlockMeta {
            floor: get_u64(bytes, 16),
            oldest_ms: get_i64(bytes, 24),
            newest_ms: get_i64(bytes, 32),
            rows: get_u32(bytes, 40),
            samples: get_u32(bytes, 44),
            origin: get_u64(bytes, 48),
            tenant: get_u64(bytes, 56),
            flags: get_u32(bytes, 64),
        };
        Some(Header {
            block: get_u64(bytes, 8),
            meta,
            payload_len: get_u32(bytes, 4),
            payload_crc: get_u32(bytes, 72),
        })
    }

    /// Offset of the first sound header in `bytes` with a block number of at least `block_min`.
    pub(crate) fn find(bytes: &[u8], salt: u32, block_min: u64) -> Option<(usize, Header)> {
        let candidates = bytes.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC);
        candidates
            .filter_map(|(at, _)| Header::decode(&bytes[at..], salt).map(|header| (at, header)))
            .find(|(_, header)| header.block >= block_min)
    }
}

/// What the checksums of an incarnation's headers start from, so that the bytes of a payload, which a
/// stranger may have chosen, are never taken for a header.
pub(crate) fn salt(incarnation: u128) -> u32 {
    crc32c::crc32c(&incarnation.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_any_changed_byte_shows() {
        let meta = BlockMeta {
            floor: 3,
            oldest_ms: -5,
            newest_ms: i64::MAX,
            rows: 7,
            samples: u32::MAX,
            origin: 9,
            tenant: 10,
            flags: 11,
        };
        let header = Header { block: 12, meta, payload_len: 13, payload_crc: 14 };
        let mut bytes = vec![1, 2, 3];
        header.encode(77, &mut bytes);
        assert_eq!(Header::decode(&bytes[3..], 77), Some(header));
        assert_eq!(Header::decode(&bytes[3..], 78), None, "another incarnation's");
        assert_eq!(Header::find(&bytes, 77, 12), Some((3, header)));
        assert_eq!(Header::find(&bytes, 77, 13), None, "too low a number");
        for at in 3..bytes.len() {
            bytes[at] ^= 1;
            assert_eq!(Header::decode(&bytes[3..], 77), None, "byte {at}");
            bytes[at] ^= 1;
        }
    }
}
