//! Definitions of sources and series, which a reader takes before the rows.

use model::Labels;
use stdx::bytes::{Cursor, Malformed, put_zigzag};

use super::{
    COLUMN_FLOAT, KIND_BATCH, RecordError, SECTION_SERIES, SECTION_SERIES_ZSTD, SECTION_SOURCES, read_kind,
};

/// Definitions of one record unpack to no more than this, bytes.
const DEFINITIONS_BYTES_MAX: usize = 256 << 20;

/// Definitions found in a record.
#[derive(Debug, Default)]
pub struct Definitions {
    /// Whose.
    pub tenant: String,
    /// (reference, identity, labels).
    pub sources: Vec<(u64, u128, Labels)>,
    /// (reference, labels).
    pub series: Vec<(u64, Labels)>,
}

/// Definitions of a record, not taken apart yet.
#[derive(Debug, Default)]
pub(crate) struct PackedDefinitions {
    tenant: String,
    sources: Vec<u8>,
    /// Without compression, one section each.
    series: Vec<Vec<u8>>,
}

impl PackedDefinitions {
    /// What they say.
    pub(crate) fn read(&self) -> Result<Definitions, RecordError> {
        let mut found = Definitions { tenant: self.tenant.clone(), ..Definitions::default() };
        read_sources(&self.sources, &mut found.sources)?;
        self.series.iter().try_for_each(|section| read_series_definitions(section, &mut found.series))?;
        Ok(found)
    }
}

/// Finds and unpacks the definitions of a record; `None` when it has none.
pub(crate) fn unpack_definitions(payload: &[u8]) -> Result<Option<PackedDefinitions>, RecordError> {
    let mut cursor = Cursor::new(payload);
    if read_kind(&mut cursor)? != KIND_BATCH {
        return Ok(None);
    }
    let mut found = PackedDefinitions { tenant: cursor.text()?.to_owned(), ..PackedDefinitions::default() };
    while !cursor.is_empty() {
        let (tag, section) = (cursor.byte()?, cursor.bytes()?);
        match tag {
            SECTION_SOURCES => found.sources.extend_from_slice(section),
            SECTION_SERIES => found.series.push(section.to_vec()),
            SECTION_SERIES_ZSTD => {
                let mut packed = Cursor::new(section);
                let len = packed.at_most(DEFINITIONS_BYTES_MAX)?;
                let bytes = zstd::bulk::decompress(packed.rest(), len)
                    .map_err(|_| Malformed("definitions cannot be decompressed"))?;
                found.series.push(bytes);
            }
            _ => {}
        }
    }
    Ok((!found.sources.is_empty() || !found.series.is_empty()).then_some(found))
}

/// Reads only the definitions of a record; `None` when it has none.
///
/// # Errors
/// See [`RecordError`].
pub fn read_definitions(payload: &[u8]) -> Result<Option<Definitions>, RecordError> {
    unpack_definitions(payload)?.map(|packed| packed.read()).transpose()
}

fn read_sources(section: &[u8], out: &mut Vec<(u64, u128, Labels)>) -> Result<(), RecordError> {
    let mut cursor = Cursor::new(section);
    while !cursor.is_empty() {
        out.push((cursor.varint()?, cursor.u128_le()?, read_labels(cursor.bytes()?)?));
    }
    Ok(())
}

fn read_series_definitions(section: &[u8], out: &mut Vec<(u64, Labels)>) -> Result<(), RecordError> {
    let mut cursor = Cursor::new(section);
    let mut last = 0;
    while !cursor.is_empty() {
        let series = read_series(&mut cursor, &mut last)?;
        let kind = cursor.byte()?;
        if kind != COLUMN_FLOAT {
            return Err(RecordError::Unknown { what: "column kind", number: kind });
        }
        out.push((series, read_labels(cursor.bytes()?)?));
    }
    Ok(())
}

pub(super) fn read_labels(bytes: &[u8]) -> Result<Labels, Malformed> {
    Labels::from_bytes(bytes).ok_or(Malformed("labels are not sorted or not UTF-8"))
}

/// Series references are two counters side by side: each as the difference to the one before.
pub(super) fn put_series(out: &mut Vec<u8>, last: &mut u64, series: u64) {
    let halves = |v: u64| ((v >> 32) as i64, (v & 0xffff_ffff) as i64);
    let ((slot, generation), (last_slot, last_generation)) = (halves(series), halves(*last));
    put_zigzag(out, slot - last_slot);
    put_zigzag(out, generation - last_generation);
    *last = series;
}

/// A reference of a series that is out of range.
const NO_SERIES: Malformed = Malformed("a series is out of range");

pub(super) fn read_series(cursor: &mut Cursor<'_>, last: &mut u64) -> Result<u64, Malformed> {
    let mut half = |last: u64| {
        let value = (last as i64).checked_add(cursor.zigzag()?).ok_or(NO_SERIES)?;
        u32::try_from(value).map_err(|_| NO_SERIES)
    };
    let slot = half(*last >> 32)?;
    let generation = half(*last & 0xffff_ffff)?;
    *last = u64::from(slot) << 32 | u64::from(generation);
    Ok(*last)
}
