//! Reading a part: ranges of sections, every page checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stdx::disk::{Disk, ReadFile};

use super::cache::{Kind, PageCache};
use super::layout::{self, FOOTER_LEN, FrameError, HEADER_LEN, PAGE, Section, SectionId};
use super::{PartError, PartInfo};
use crate::codec::CodecError;

/// An open part file and its table of contents.
#[derive(Debug)]
pub(super) struct PartFile {
    pub(super) path: PathBuf,
    file: Arc<dyn ReadFile>,
    sections: Vec<Section>,
    /// Names this opening in the cache.
    number: u64,
}

/// Names openings, never the same twice in a process.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

impl PartFile {
    /// Opens `path` and reads its frame.
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<(PartFile, PartInfo), PartError> {
        let io = |attempt| {
            move |source: std::io::Error| PartError::Io {
                attempt,
                path: path.to_owned(),
                source: Arc::new(source),
            }
        };
        let file = disk.open_read(path).map_err(io("open part"))?;
        let bytes = file.len().map_err(io("measure part"))?;
        let bad = |section, offset| {
            move |error: FrameError| match error {
                FrameError::Corrupt(reason) => {
                    PartError::Corrupt { path: path.to_owned(), section, offset, reason }
                }
                FrameError::Unsupported(reason) => PartError::Unsupported { path: path.to_owned(), reason },
            }
        };
        if bytes < (HEADER_LEN + FOOTER_LEN) as u64 {
            return Err(bad("header", 0)(FrameError::Corrupt(format!("{bytes} bytes are no part"))));
        }
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0).map_err(io("read header of part"))?;
        let id = layout::check_header(&header).map_err(bad("header", 0))?;
        let footer_at = bytes - FOOTER_LEN as u64;
        let mut footer = [0; FOOTER_LEN];
        file.read_exact_at(&mut footer, footer_at).map_err(io("read footer of part"))?;
        let (toc_at, toc_len, crc) =
            layout::decode_footer(&footer, bytes).map_err(bad("footer", footer_at))?;
        let mut toc = vec![0; toc_len];
        file.read_exact_at(&mut toc, toc_at).map_err(io("read table of contents of part"))?;
        if !crate::checksum::is_intact(&toc, crc) {
            let reason = "the table of contents fails its checksum".into();
            return Err(bad("contents", toc_at)(FrameError::Corrupt(reason)));
        }
        let (info, sections) = layout::decode_toc(&toc, id, bytes).map_err(bad("contents", toc_at))?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Ok((PartFile { path: path.to_owned(), file, sections, number }, info))
    }

    pub(super) fn section(&self, id: SectionId) -> Option<&Section> {
        self.sections.iter().find(|s| s.id == id)
    }

    pub(super) fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Damage in section `id`, `offset` bytes into it.
    pub(super) fn corrupt(&self, id: SectionId, offset: u64, reason: impl Into<String>) -> PartError {
        let start = self.section(id).map_or(0, |s| s.offset);
        PartError::Corrupt {
            path: self.path.clone(),
            section: id.name(),
            offset: start.saturating_add(offset),
            reason: reason.into(),
        }
    }

    /// Damage that a decoder met.
    pub(super) fn undecodable(&self, id: SectionId, offset: u64) -> impl Fn(CodecError) -> PartError + '_ {
        move |error| self.corrupt(id, offset, error.to_string())
    }

    /// Reads `len` bytes of section `id` from `offset`, checking every page they lie in.
    pub(super) fn read(&self, id: SectionId, offset: u64, len: usize) -> Result<Bytes, PartError> {
        let section = self.section(id).ok_or_else(|| self.corrupt(id, 0, "the section is missing"))?;
        let end = offset.checked_add(len as u64).filter(|&end| end <= section.len);
        let end = end.ok_or_else(|| self.corrupt(id, offset, "a reference leads out of the section"))?;
        if len == 0 {
            return Ok(Bytes { pages: Vec::new(), from: 0, len });
        }
        let first = offset / PAGE as u64;
        let last = (end - 1) / PAGE as u64;
        let start = first * PAGE as u64;
        let stop = ((last + 1) * PAGE as u64).min(section.len);
        let mut pages = vec![0; (stop - start) as usize];
        self.file.read_exact_at(&mut pages, section.offset + start).map_err(|source| PartError::Io {
            attempt: "read part",
            path: self.path.clone(),
            source: Arc::new(source),
        })?;
        for (page, bytes) in (first..).zip(pages.chunks(PAGE)) {
            let crc = section.crcs.get(page as usize);
            if !crc.is_some_and(|crc| crate::checksum::is_intact(bytes, *crc)) {
                return Err(self.corrupt(id, page * PAGE as u64, "the page fails its checksum"));
            }
        }
        Ok(Bytes { pages, from: (offset - start) as usize, len })
    }

    /// What is cached of this part under `kind`, `a`, `b`, or what `make` makes.
    pub(super) fn cached<T: Send + Sync + 'static>(
        &self,
        kind: Kind,
        a: u64,
        b: u64,
        make: impl FnOnce() -> Result<(T, usize), PartError>,
    ) -> Result<Arc<T>, PartError> {
        PageCache::shared().get_or((self.number, kind, a, b), make)
    }
}

/// Bytes read, with the rest of their pages around them.
#[derive(Debug)]
pub(super) struct Bytes {
    pages: Vec<u8>,
    from: usize,
    len: usize,
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.pages[self.from..self.from + self.len]
    }
}

/// A wanted stretch of a section: offset, length.
pub(super) type Stretch = (u64, u32);

/// Bytes read at once at most, when stretches are joined.
const WINDOW_MAX: u64 = 4 << 20;
/// Bytes between stretches that are read along rather than skipped.
const GAP_MAX: u64 = 32 * 1024;

impl PartFile {
    /// Reads `stretches` in as few reads as make sense and hands each to `visit` with its index.
    pub(super) fn read_all(
        &self,
        id: SectionId,
        stretches: &[Stretch],
        mut visit: impl FnMut(usize, &[u8]) -> Result<(), PartError>,
    ) -> Result<(), PartError> {
        let mut order: Vec<usize> = (0..stretches.len()).collect();
        if !stretches.is_sorted_by_key(|s| s.0) {
            order.sort_by_key(|&at| stretches[at].0);
        }
        let mut rest = &order[..];
        while let Some(&first) = rest.first() {
            let start = stretches[first].0;
            let mut end = start;
            let mut taken = 0;
            for &at in rest {
                let (offset, len) = stretches[at];
                let stop = offset.saturating_add(u64::from(len)).max(end);
                if taken > 0 && (offset > end.saturating_add(GAP_MAX) || stop - start > WINDOW_MAX) {
                    break;
                }
                (end, taken) = (stop, taken + 1);
            }
            let window = self.read(id, start, (end - start) as usize)?;
            for &at in &rest[..taken] {
                let (offset, len) = stretches[at];
                let from = (offset - start) as usize;
                visit(at, &window[from..from + len as usize])?;
            }
            rest = &rest[taken..];
        }
        Ok(())
    }
}
