//! The frame of a part file: header, table of contents, footer. Drawn in `docs/formats/part.md`.

use model::TenantId;
use stdx::bytes::{Cursor, Malformed, put_text, put_varint, put_zigzag};
use ulid::Ulid;

use super::{PartInfo, PartSpec};
use crate::codec::CodecError;

/// Opens and closes every part.
pub(super) const MAGIC: [u8; 8] = *b"mgpart\r\n";
/// Raised when older readers can no longer read; this reader takes its own and lower ones.
pub(super) const MAJOR: u16 = 1;
/// Raised for additions that older readers may skip.
pub(super) const MINOR: u16 = 1;
pub(super) const HEADER_LEN: usize = 64;
pub(super) const FOOTER_LEN: usize = 32;
/// Every so many bytes of a section have a CRC of their own.
pub(super) const PAGE: usize = 64 * 1024;

/// The sections of this version. Ids are never used again for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum SectionId {
    /// Label values, sorted within their names.
    Symbols = 1,
    /// Labels of the series, a column a name.
    Labels = 2,
    /// Series of a label value.
    Postings = 3,
    /// Distinct time columns.
    Times = 4,
    /// Where each series has its samples.
    Directory = 5,
    /// Value blocks.
    Values = 6,
    /// Histogram blocks.
    Histograms = 7,
    /// Distinct columns of start times.
    Starts = 8,
    /// Type, unit, help.
    Metadata = 9,
}

/// Ids 10 (exemplars), 11 (downsampled columns) and 12 (tombstones) are reserved.
pub(super) const SECTIONS: [SectionId; 9] = [
    SectionId::Symbols,
    SectionId::Labels,
    SectionId::Postings,
    SectionId::Times,
    SectionId::Directory,
    SectionId::Values,
    SectionId::Histograms,
    SectionId::Starts,
    SectionId::Metadata,
];

impl SectionId {
    /// The short name, for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            SectionId::Symbols => "SYM",
            SectionId::Labels => "LBL",
            SectionId::Postings => "PST",
            SectionId::Times => "TSC",
            SectionId::Directory => "DIR",
            SectionId::Values => "VAL",
            SectionId::Histograms => "HST",
            SectionId::Starts => "STC",
            SectionId::Metadata => "MDT",
        }
    }

    /// The newest version of the section that is read.
    fn newest_version(self) -> u8 {
        match self {
            SectionId::Directory => DIRECTORY_WITH_HISTOGRAM_STARTS,
            SectionId::Histograms => HISTOGRAMS_IN_COLUMNS,
            _ => FIRST_VERSION,
        }
    }

    fn is_required(self) -> bool {
        self != SectionId::Metadata
    }

    fn of(id: u8) -> Option<SectionId> {
        SECTIONS.into_iter().find(|s| *s as u8 == id)
    }
}

/// The version that sections have unless they need more.
pub(super) const FIRST_VERSION: u8 = 1;
/// The version of a directory in which histograms have start times.
pub(super) const DIRECTORY_WITH_HISTOGRAM_STARTS: u8 = 2;
/// The version of histogram blocks that have a column for each bucket.
pub(super) const HISTOGRAMS_IN_COLUMNS: u8 = 2;
/// A reader that does not know the section must refuse the part.
const REQUIRED: u8 = 1;

const LATE: u8 = 1;
const REPLACE: u8 = 2;

/// A section as the table of contents has it.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) id: SectionId,
    pub(super) version: u8,
    /// Where it starts in the file.
    pub(super) offset: u64,
    /// Bytes, the index at its end included.
    pub(super) len: u64,
    /// Bytes of the index at its end.
    pub(super) index_len: u64,
    /// CRC-32C of each page.
    pub(super) crcs: Vec<u32>,
}

/// Why a frame was not understood.
#[derive(Debug)]
pub(super) enum FrameError {
    /// Damaged; the text says how.
    Corrupt(String),
    /// Made by a newer version.
    Unsupported(String),
}

impl From<CodecError> for FrameError {
    fn from(error: CodecError) -> FrameError {
        FrameError::Corrupt(error.to_string())
    }
}

impl From<Malformed> for FrameError {
    fn from(Malformed(reason): Malformed) -> FrameError {
        FrameError::Corrupt(reason.to_owned())
    }
}

/// The first [`HEADER_LEN`] bytes.
pub(super) fn encode_header(spec: &PartSpec) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&MAJOR.to_le_bytes());
    header[10..12].copy_from_slice(&MINOR.to_le_bytes());
    header[12..28].copy_from_slice(&spec.id.to_bytes());
    header[28] = spec.level;
    header[29] = flags_of(spec);
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn flags_of(spec: &PartSpec) -> u8 {
    (if spec.late { LATE } else { 0 }) | (if spec.replace { REPLACE } else { 0 })
}

/// Checks the header and gives the part's id.
pub(super) fn check_header(header: &[u8; HEADER_LEN]) -> Result<Ulid, FrameError> {
    let mut reader = Cursor::new(header);
    if reader.take(8)? != MAGIC {
        return Err(FrameError::Corrupt("not a part: the magic is missing".into()));
    }
    let major = u16::from_le_bytes([header[8], header[9]]);
    let crc = u32::from_le_bytes([header[60], header[61], header[62], header[63]]);
    if !crate::checksum::is_intact(&header[..60], crc) {
        return Err(FrameError::Corrupt("the header fails its checksum".into()));
    }
    if major > MAJOR {
        return Err(FrameError::Unsupported(format!("format {major} is newer than this program's {MAJOR}")));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&header[12..28]);
    Ok(Ulid::from_bytes(id))
}

/// The table of contents.
pub(super) fn encode_toc(info: &PartInfo, sections: &[Section]) -> Vec<u8> {
    let spec = &info.spec;
    let mut out = Vec::with_capacity(256);
    put_text(&mut out, spec.tenant.as_str());
    out.extend_from_slice(&[spec.level, flags_of(spec)]);
    put_varint(&mut out, spec.wal_first);
    put_varint(&mut out, spec.wal_last);
    put_zigzag(&mut out, info.min_ms);
    put_zigzag(&mut out, info.max_ms);
    put_varint(&mut out, u64::from(info.series));
    put_varint(&mut out, info.samples);
    put_varint(&mut out, info.histograms);
    put_varint(&mut out, sections.len() as u64);
    for section in sections {
        let flags = if section.id.is_required() { REQUIRED } else { 0 };
        out.extend_from_slice(&[section.id as u8, section.version, flags]);
        put_varint(&mut out, section.offset);
        put_varint(&mut out, section.len);
        put_varint(&mut out, section.index_len);
        for crc in &section.crcs {
            out.extend_from_slice(&crc.to_le_bytes());
        }
    }
    out
}

/// Reads the table of contents of part `id` in a file of `bytes` bytes.
pub(super) fn decode_toc(toc: &[u8], id: Ulid, bytes: u64) -> Result<(PartInfo, Vec<Section>), FrameError> {
    let mut reader = Cursor::new(toc);
    let tenant = TenantId::new(reader.text()?).map_err(|e| FrameError::Corrupt(e.to_string()))?;
    let (level, flags) = (reader.byte()?, reader.byte()?);
    let (wal_first, wal_last) = (reader.varint()?, reader.varint()?);
    let (late, replace) = (flags & LATE != 0, flags & REPLACE != 0);
    let spec = PartSpec { id, tenant, level, wal_first, wal_last, late, replace };
    let (min_ms, max_ms) = (reader.zigzag()?, reader.zigzag()?);
    let series =
        u32::try_from(reader.varint()?).map_err(|_| FrameError::Corrupt("too many series".into()))?;
    let (samples, histograms) = (reader.varint()?, reader.varint()?);
    let info = PartInfo { spec, min_ms, max_ms, series, samples, histograms, bytes };
    let count = reader.at_most(255)?;
    let mut sections = Vec::new();
    for _ in 0..count {
        sections.extend(decode_section(&mut reader, bytes)?);
    }
    Ok((info, sections))
}

/// Reads one entry; `None` is one that this version may skip.
fn decode_section(reader: &mut Cursor<'_>, bytes: u64) -> Result<Option<Section>, FrameError> {
    let (id, version, flags) = (reader.byte()?, reader.byte()?, reader.byte()?);
    let (offset, len, index_len) = (reader.varint()?, reader.varint()?, reader.varint()?);
    if offset.checked_add(len).is_none_or(|end| end > bytes) || index_len > len {
        return Err(FrameError::Corrupt(format!("section {id} lies outside the file")));
    }
    let pages = usize::try_from(len.div_ceil(PAGE as u64)).unwrap_or(usize::MAX);
    let crcs = reader.take(pages.saturating_mul(4))?;
    let crcs = crcs.as_chunks::<4>().0.iter().map(|crc| u32::from_le_bytes(*crc)).collect();
    match SectionId::of(id) {
        Some(known) if version <= known.newest_version() => {
            Ok(Some(Section { id: known, version, offset, len, index_len, crcs }))
        }
        _ if flags & REQUIRED == 0 => Ok(None),
        _ => Err(FrameError::Unsupported(format!(
            "section {id} version {version} is required and not known to this program"
        ))),
    }
}

/// The last [`FOOTER_LEN`] bytes.
pub(super) fn encode_footer(toc_offset: u64, toc: &[u8]) -> [u8; FOOTER_LEN] {
    let mut footer = [0; FOOTER_LEN];
    footer[..8].copy_from_slice(&toc_offset.to_le_bytes());
    footer[8..16].copy_from_slice(&(toc.len() as u64).to_le_bytes());
    footer[16..20].copy_from_slice(&crc32c::crc32c(toc).to_le_bytes());
    let crc = crc32c::crc32c(&footer[..20]);
    footer[20..24].copy_from_slice(&crc.to_le_bytes());
    footer[24..].copy_from_slice(&MAGIC);
    footer
}

/// Offset, length and CRC of the table of contents of a file of `bytes` bytes.
pub(super) fn decode_footer(footer: &[u8; FOOTER_LEN], bytes: u64) -> Result<(u64, usize, u32), FrameError> {
    let mut reader = Cursor::new(footer);
    let (offset, len, crc) = (reader.u64_le()?, reader.u64_le()?, reader.u32_le()?);
    if footer[24..] != MAGIC {
        return Err(FrameError::Corrupt("the file is cut short: no magic at its end".into()));
    }
    if !crate::checksum::is_intact(&footer[..20], reader.u32_le()?) {
        return Err(FrameError::Corrupt("the footer fails its checksum".into()));
    }
    let fits = offset.checked_add(len).and_then(|end| end.checked_add(FOOTER_LEN as u64)) == Some(bytes);
    match usize::try_from(len) {
        Ok(len) if fits => Ok((offset, len, crc)),
        _ => Err(FrameError::Corrupt("the table of contents does not lie before the footer".into())),
    }
}
