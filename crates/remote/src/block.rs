//! Blocks: rows of many sources as bytes, each row a difference to the row before of its source.
//!
//! `docs/formats/block.md` has every byte. In short:
//!
//! - Blocks belong to a *segment*, and are read in its order. What a source and a column are called stands
//!   in the segment's *dictionary*, once; each block carries the additions it needs.
//! - A column's value is a difference to the value the column had before in the segment. Now and then
//!   a row *clears* its source: all that follows is a difference to nothing, so that reading can begin there.
//! - A block's *floor* is the block from which one who has the dictionary but has read no rows must read
//!   to know the bases of all rows of this block.
//! - A block holds whole batches. A batch of rows has a number within the incarnation of its queue,
//!   which is what makes it stored exactly once.
//!
//! `BlockWriter` makes blocks (the `Encoder` drives it), [`Decoder`] reads them.

use stdx::bytes::{CUT_SHORT, Cursor, Malformed, put_varint, put_zigzag};

mod bases;
mod decoder;
mod dictionary;
mod histograms;
mod readings;
mod rows;
mod symbols;
#[cfg(test)]
mod tests;
mod values;
mod writer;

pub(crate) use bases::Run;
pub use decoder::{DecodedRow, Decoder, Definitions, Visit};
pub(crate) use symbols::Symbols;
pub(crate) use writer::{Alike, BlockWriter, RowColumns, RowParts, SourceWriter};

/// What every block begins with.
const MAGIC: [u8; 4] = *b"MGRB";
/// A reader refuses blocks of a larger major version.
const MAJOR: u8 = 1;
const MINOR: u8 = 0;
/// Tag of the header's field for the cluster.
const CLUSTER: u8 = 1;
/// Most bytes of a block as it travels.
pub const BLOCK_BYTES_MAX: usize = 16 << 20;
/// Most bytes of a dictionary's additions or a body, unpacked.
pub const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// Most samples in a block.
pub const SAMPLES_MAX: usize = 4 << 20;
/// Most rows in a block.
pub const ROWS_MAX: usize = 1 << 20;

/// Bytes that are no block, or a block that cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The bytes do not say what they should; what comes after them in the segment cannot be read either.
    #[error("malformed block: {0}")]
    Malformed(&'static str),
    /// Written by a newer version.
    #[error("block of version {major}.{minor}, and this program reads up to {MAJOR}.x")]
    Version {
        /// The block's major version.
        major: u8,
        /// The block's minor version.
        minor: u8,
    },
    /// More than the reader is ready to keep.
    #[error("a segment has more than {max} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// Blocks before this one are missing: read on from block `from` of the segment.
    #[error("blocks from number {from} of the segment are needed first")]
    NeedsContext {
        /// Number within the segment, see [`Header::index`].
        from: u32,
    },
}

impl From<Malformed> for BlockError {
    fn from(Malformed(reason): Malformed) -> BlockError {
        BlockError::Malformed(reason)
    }
}

/// What is known of a block without unpacking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Number of the block within its segment, from 0.
    pub index: u32,
    /// How many blocks before this one the floor is; 0 when the block can be read by itself.
    pub back: u32,
    /// The additions to the dictionary in blocks before this one, by number within the segment, have to be
    /// known; those from there on up to this block have none.
    pub dictionary: u32,
    /// Number of the first batch, within the incarnation of the queue.
    pub first_batch: u64,
    /// How many batches; they have consecutive numbers.
    pub batches: u32,
    /// Rows in all.
    pub rows: u32,
    /// Float values and histograms in all.
    pub samples: u32,
    /// Time of the oldest row, milliseconds; 0 without rows.
    pub oldest_ms: i64,
    /// Time of the newest row, milliseconds; 0 without rows.
    pub newest_ms: i64,
}

impl Header {
    /// Number within the segment of the first block that has to be read for this one.
    pub fn floor(&self) -> u32 {
        self.index.saturating_sub(self.back)
    }
}

/// A block whose checksum and header have been looked at.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    header: Header,
    cluster: Option<&'a str>,
    dictionary: Packed<'a>,
    body: Packed<'a>,
}

#[derive(Debug, Clone, Copy)]
struct Packed<'a> {
    bytes: &'a [u8],
    unpacked: usize,
}

impl<'a> Block<'a> {
    /// Looks at a block's checksum and header.
    ///
    /// # Errors
    /// [`BlockError::Malformed`] and [`BlockError::Version`].
    pub fn parse(bytes: &'a [u8]) -> Result<Block<'a>, BlockError> {
        if bytes.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::Malformed("it is too long"));
        }
        let (content, checksum) = bytes.split_last_chunk::<4>().ok_or(CUT_SHORT)?;
        let mut cursor = Cursor::new(content);
        if cursor.array::<4>()? != MAGIC {
            return Err(BlockError::Malformed("it does not begin like a block"));
        }
        let (major, minor) = (cursor.byte()?, cursor.byte()?);
        if major > MAJOR || major == 0 {
            return Err(BlockError::Version { major, minor });
        }
        // A fuzzer does not get past checksums.
        if !cfg!(fuzzing) && crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
            return Err(BlockError::Malformed("its checksum is wrong"));
        }
        let mut fields = Cursor::new(cursor.bytes()?);
        let header = read_header(&mut fields)?;
        let (dictionary, body) = (fields.varint()?, fields.varint()?);
        let (dictionary_unpacked, body_unpacked) = (fields.varint()?, fields.varint()?);
        let cluster = read_options(&mut fields)?;
        let mut packed = |len: u64, unpacked: u64| {
            if unpacked > UNPACKED_BYTES_MAX as u64 {
                return Err(BlockError::Malformed("it unpacks to too much"));
            }
            let len = usize::try_from(len).map_err(|_| BlockError::Malformed("a length is past the end"))?;
            Ok(Packed { bytes: cursor.take(len)?, unpacked: unpacked as usize })
        };
        let dictionary = packed(dictionary, dictionary_unpacked)?;
        let body = packed(body, body_unpacked)?;
        if !cursor.is_empty() {
            return Err(BlockError::Malformed("bytes follow its end"));
        }
        Ok(Block { header, cluster, dictionary, body })
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The cluster under whose name the rows were queued, where the block says so.
    pub fn cluster(&self) -> Option<&'a str> {
        self.cluster
    }

    /// Additions to the dictionary and body, unpacked: for tools that look at the bytes.
    ///
    /// # Errors
    /// [`BlockError::Malformed`]
    pub fn unpack(&self) -> Result<(Vec<u8>, Vec<u8>), BlockError> {
        let (mut dictionary, mut body) = (Vec::new(), Vec::new());
        unpack(self.dictionary, &mut dictionary)?;
        unpack(self.body, &mut body)?;
        Ok((dictionary, body))
    }

    /// The additions to the dictionary, still packed; empty when there are none. Together with
    /// [`Decoder::learn_packed`] this is what a reader keeps to resume without the whole segment.
    pub fn packed_dictionary(&self) -> &'a [u8] {
        self.dictionary.bytes
    }
}

fn read_header(fields: &mut Cursor<'_>) -> Result<Header, BlockError> {
    let (index, back, since) = (fields.small()?, fields.small()?, fields.small()?);
    let (first_batch, batches) = (fields.varint()?, fields.small()?);
    let (rows, samples) = (fields.small()?, fields.small()?);
    let oldest_ms = fields.zigzag()?;
    let newest_ms = oldest_ms.wrapping_add(fields.varint()? as i64);
    let Some(dictionary) = index.checked_sub(since).filter(|_| back <= index) else {
        return Err(BlockError::Malformed("its floor is before the segment"));
    };
    if rows as usize > ROWS_MAX || samples as usize > SAMPLES_MAX {
        return Err(BlockError::Malformed("it has too many rows or samples"));
    }
    if first_batch.checked_add(u64::from(batches)).is_none() {
        return Err(BlockError::Malformed("its batches have numbers past all bounds"));
    }
    Ok(Header { index, back, dictionary, first_batch, batches, rows, samples, oldest_ms, newest_ms })
}

/// Reads the optional fields, and gives the cluster. Later minor versions may add others: those with a tag from
/// 128 on may be skipped.
fn read_options<'a>(fields: &mut Cursor<'a>) -> Result<Option<&'a str>, BlockError> {
    let mut cluster = None;
    while !fields.is_empty() {
        match fields.byte()? {
            CLUSTER => cluster = Some(fields.text()?),
            tag => {
                fields.bytes()?;
                if tag < 128 {
                    return Err(BlockError::Malformed("its header has a field that is not known here"));
                }
            }
        }
    }
    Ok(cluster)
}

/// A block of parts that nobody has looked at, for tests of readers.
///
/// # Errors
/// What zstd says.
pub fn pack(header: &Header, cluster: &str, dictionary: &[u8], body: &[u8]) -> std::io::Result<Vec<u8>> {
    let packed = if dictionary.is_empty() { Vec::new() } else { zstd::bulk::compress(dictionary, 1)? };
    let packed_body = zstd::bulk::compress(body, 1)?;
    Ok(seal(header, cluster, (&packed, dictionary.len()), (&packed_body, body.len())))
}

/// Puts a block together from its packed parts.
fn seal(header: &Header, cluster: &str, dictionary: (&[u8], usize), body: (&[u8], usize)) -> Vec<u8> {
    let mut fields = Vec::with_capacity(64);
    for number in [header.index, header.back, header.index.saturating_sub(header.dictionary)] {
        put_varint(&mut fields, u64::from(number));
    }
    put_varint(&mut fields, header.first_batch);
    for number in [header.batches, header.rows, header.samples] {
        put_varint(&mut fields, u64::from(number));
    }
    put_zigzag(&mut fields, header.oldest_ms);
    put_varint(&mut fields, header.newest_ms.wrapping_sub(header.oldest_ms) as u64);
    for number in [dictionary.0.len(), body.0.len(), dictionary.1, body.1] {
        put_varint(&mut fields, number as u64);
    }
    if !cluster.is_empty() {
        fields.push(CLUSTER);
        stdx::bytes::put_text(&mut fields, cluster);
    }
    let mut out = Vec::with_capacity(16 + fields.len() + dictionary.0.len() + body.0.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[MAJOR, MINOR]);
    put_varint(&mut out, fields.len() as u64);
    out.extend_from_slice(&fields);
    out.extend_from_slice(dictionary.0);
    out.extend_from_slice(body.0);
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Unpacks a zstd frame to at most `max` bytes, into `out`.
fn unpack(packed: Packed<'_>, out: &mut Vec<u8>) -> Result<(), BlockError> {
    out.clear();
    if packed.bytes.is_empty() {
        return if packed.unpacked == 0 { Ok(()) } else { Err(BlockError::Malformed("a part is missing")) };
    }
    // A forged length may not ask for memory that the frame cannot fill: zstd packs 1 to at most some 50,000.
    if packed.unpacked / (1 << 16) > packed.bytes.len() {
        return Err(BlockError::Malformed("it unpacks to too much"));
    }
    out.reserve(packed.unpacked);
    let unpacked = zstd::bulk::Decompressor::new()
        .and_then(|mut decompressor| {
            let mut room = std::mem::take(out);
            room.truncate(0);
            let done = decompressor.decompress_to_buffer(packed.bytes, &mut room);
            *out = room;
            done
        })
        .map_err(|_| BlockError::Malformed("it cannot be unpacked"))?;
    if unpacked == packed.unpacked { Ok(()) } else { Err(BlockError::Malformed("a part's length is wrong")) }
}
