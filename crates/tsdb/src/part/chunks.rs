//! Sections made of compressed chunks with a sparse index: symbols, labels, postings lists' places,
//! directories, metadata.
//!
//! ```text
//! section: [data of its own] │ chunk … │ index
//! index:   start of the first chunk varint │ n varint │ n × (first key delta, stored length, raw length) │ extra
//! ```
//!
//! A chunk is a zstd frame, or plain where the two lengths are equal.

use std::sync::Arc;

use stdx::bytes::{Cursor, put_varint};

use super::PartError;
use super::cache::Kind;
use super::file::PartFile;
use super::layout::SectionId;
use crate::codec::CodecError;

/// Chunks are closed once they have this many bytes before compression.
pub(super) const CHUNK_BYTES: usize = 16 * 1024;
/// No chunk is larger than this before compression; bounds what a reader allocates.
pub(super) const CHUNK_BYTES_MAX: usize = 64 << 20;
const ZSTD_LEVEL: i32 = 3;

/// Collects chunks.
#[derive(Debug, Default)]
pub(super) struct ChunkWriter {
    /// The finished chunks.
    pub(super) bytes: Vec<u8>,
    entries: Vec<(u32, u32, u32)>,
    last_key: u32,
    too_large: bool,
}

impl ChunkWriter {
    /// Adds `raw` as a chunk whose first key is `key`, not below those before.
    pub(super) fn add(&mut self, key: u32, raw: &[u8]) {
        self.too_large |= raw.len() > CHUNK_BYTES_MAX;
        let packed = zstd::bulk::compress(raw, ZSTD_LEVEL).ok().filter(|packed| packed.len() < raw.len());
        let stored = packed.as_deref().unwrap_or(raw);
        self.bytes.extend_from_slice(stored);
        self.entries.push((key - self.last_key, stored.len() as u32, raw.len() as u32));
        self.last_key = key;
    }

    /// Whether some chunk was larger than a reader takes.
    pub(super) fn is_too_large(&self) -> bool {
        self.too_large
    }

    /// The index of chunks that start `base` bytes into the section.
    pub(super) fn index(&self, base: u64, extra: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.entries.len() * 5 + extra.len());
        put_varint(&mut out, base);
        put_varint(&mut out, self.entries.len() as u64);
        for &(key, stored, raw) in &self.entries {
            put_varint(&mut out, u64::from(key));
            put_varint(&mut out, u64::from(stored));
            put_varint(&mut out, u64::from(raw));
        }
        out.extend_from_slice(extra);
        out
    }
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    /// Its first key.
    pub(super) first: u32,
    /// Bytes into the section.
    pub(super) offset: u64,
    stored: u32,
    pub(super) raw: u32,
}

/// The index of a section.
#[derive(Debug)]
pub(super) struct ChunkIndex {
    section: SectionId,
    chunks: Vec<Chunk>,
}

impl ChunkIndex {
    /// Reads the index of `section`; `extra` reads what stands behind it.
    pub(super) fn read<T>(
        file: &PartFile,
        section: SectionId,
        extra: impl FnOnce(&mut Cursor<'_>) -> Result<T, CodecError>,
    ) -> Result<(ChunkIndex, T), PartError> {
        let Some(place) = file.section(section) else {
            return Err(file.corrupt(section, 0, "the section is missing"));
        };
        let at = place.len - place.index_len;
        let len = usize::try_from(place.index_len).unwrap_or(usize::MAX);
        let bytes = file.read(section, at, len)?;
        let mut reader = Cursor::new(&bytes);
        let index = ChunkIndex::decode(&mut reader, section).map_err(file.undecodable(section, at))?;
        let extra = extra(&mut reader).map_err(file.undecodable(section, at))?;
        Ok((index, extra))
    }

    fn decode(reader: &mut Cursor<'_>, section: SectionId) -> Result<ChunkIndex, CodecError> {
        let mut offset = reader.varint()?;
        let count = reader.at_most(reader.remaining() / 3)?;
        let mut chunks = Vec::with_capacity(count);
        let mut first = 0u32;
        for _ in 0..count {
            let key = u32::try_from(reader.varint()?).ok().and_then(|delta| first.checked_add(delta));
            first = key.ok_or(CodecError::Malformed("a chunk's key is too large"))?;
            let stored = reader.at_most(CHUNK_BYTES_MAX)? as u32;
            let raw = reader.at_most(CHUNK_BYTES_MAX)? as u32;
            chunks.push(Chunk { first, offset, stored, raw });
            offset = offset.saturating_add(u64::from(stored));
        }
        Ok(ChunkIndex { section, chunks })
    }

    /// The chunks in order.
    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The number of the chunk that holds `key`: the last that starts at or before it.
    pub(super) fn find(&self, key: u32) -> Option<usize> {
        self.chunks.partition_point(|c| c.first <= key).checked_sub(1)
    }

    /// Reads and unpacks chunk `at`.
    pub(super) fn load(&self, file: &PartFile, at: usize) -> Result<Vec<u8>, PartError> {
        let Some(&chunk) = self.chunks.get(at) else {
            return Err(file.corrupt(self.section, 0, "a chunk is missing"));
        };
        let stored = file.read(self.section, chunk.offset, chunk.stored as usize)?;
        if chunk.stored == chunk.raw {
            return Ok(stored.to_vec());
        }
        match zstd::bulk::decompress(&stored, chunk.raw as usize) {
            Ok(raw) if raw.len() == chunk.raw as usize => Ok(raw),
            Ok(_) => Err(file.corrupt(self.section, chunk.offset, "a chunk has another length")),
            Err(error) => {
                Err(file.corrupt(self.section, chunk.offset, format!("a chunk does not unpack: {error}")))
            }
        }
    }

    /// Chunk `at`, from the cache if it is there.
    pub(super) fn cached(&self, file: &PartFile, at: usize) -> Result<Arc<Vec<u8>>, PartError> {
        file.cached(Kind::Chunk, self.section as u64, at as u64, || {
            let raw = self.load(file, at)?;
            let len = raw.len();
            Ok((raw, len))
        })
    }
}
