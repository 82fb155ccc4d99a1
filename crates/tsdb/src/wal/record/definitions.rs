//! Definitions of sources and series, which a reader takes before the rows.

use model::{Labels, LabelsRef};
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
    pub(crate) tenant: String,
    sources: Vec<u8>,
    /// Without compression, one section each.
    series: Vec<Vec<u8>>,
}

impl PackedDefinitions {
    /// The sources: reference, identity, labels.
    pub(crate) fn sources(&self) -> Result<Vec<(u64, u128, Labels)>, RecordError> {
        let mut sources = Vec::new();
        let mut cursor = Cursor::new(&self.sources);
        while !cursor.is_empty() {
            let (reference, id) = (cursor.varint()?, cursor.u128_le()?);
            sources.push((reference, id, read_labels(cursor.bytes()?)?.to_labels()));
        }
        Ok(sources)
    }

    /// The series: references and labels. Nothing after an error means anything.
    pub(crate) fn series(&self) -> impl Iterator<Item = Result<(u64, LabelsRef<'_>), RecordError>> {
        self.series.iter().flat_map(|bytes| SeriesDefinitions { cursor: Cursor::new(bytes), last: 0 })
    }
}

/// The series of a section.
struct SeriesDefinitions<'a> {
    cursor: Cursor<'a>,
    last: u64,
}

impl<'a> Iterator for SeriesDefinitions<'a> {
    type Item = Result<(u64, LabelsRef<'a>), RecordError>;
    fn next(&mut self) -> Option<Self::Item> {
        (!self.cursor.is_empty()).then(|| self.read())
    }
}

impl<'a> SeriesDefinitions<'a> {
    fn read(&mut self) -> Result<(u64, LabelsRef<'a>), RecordError> {
        let series = read_series(&mut self.cursor, &mut self.last)?;
        let kind = self.cursor.byte()?;
        if kind != COLUMN_FLOAT {
            return Err(RecordError::Unknown { what: "column kind", number: kind });
        }
        Ok((series, read_labels(self.cursor.bytes()?)?))
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
    let Some(packed) = unpack_definitions(payload)? else { return Ok(None) };
    let own =
        |series: Result<(u64, LabelsRef<'_>), _>| series.map(|(series, labels)| (series, labels.to_labels()));
    let (sources, series) = (packed.sources()?, packed.series().map(own).collect::<Result<_, _>>()?);
    Ok(Some(Definitions { tenant: packed.tenant, sources, series }))
}

pub(super) fn read_labels(bytes: &[u8]) -> Result<LabelsRef<'_>, Malformed> {
    LabelsRef::from_bytes(bytes).ok_or(Malformed("labels are not sorted or not UTF-8"))
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
