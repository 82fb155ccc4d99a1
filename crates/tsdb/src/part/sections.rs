//! Writing a part: one file appended to, section after section, a CRC for every page.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use stdx::disk::{AppendFile, Disk};

use super::layout::{FIRST_VERSION, PAGE, Section, SectionId};

/// The file under construction.
#[derive(Debug)]
pub(super) struct SectionsWriter {
    file: Box<dyn AppendFile>,
    position: u64,
    page: Vec<u8>,
    open: Option<Section>,
    done: Vec<Section>,
}

impl SectionsWriter {
    /// Starts `file` with `header`.
    pub(super) fn new(mut file: Box<dyn AppendFile>, header: &[u8]) -> io::Result<SectionsWriter> {
        file.write_all(header)?;
        let position = header.len() as u64;
        Ok(SectionsWriter { file, position, page: Vec::with_capacity(PAGE), open: None, done: Vec::new() })
    }

    /// Starts section `id`; what is written until [`SectionsWriter::end`] belongs to it.
    pub(super) fn begin(&mut self, id: SectionId) {
        self.begin_as(id, FIRST_VERSION);
    }

    /// Starts section `id` in `version`.
    pub(super) fn begin_as(&mut self, id: SectionId, version: u8) {
        debug_assert!(self.open.is_none(), "section within a section");
        let (offset, crcs) = (self.position, Vec::new());
        self.open = Some(Section { id, version, offset, len: 0, index_len: 0, crcs });
    }

    /// Appends to the open section.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE - self.page.len()));
            self.page.extend_from_slice(now);
            bytes = rest;
            if self.page.len() == PAGE {
                self.flush_page()?;
            }
        }
        Ok(())
    }

    fn flush_page(&mut self) -> io::Result<()> {
        let Some(section) = &mut self.open else { return Ok(()) };
        self.file.write_all(&self.page)?;
        section.crcs.push(crc32c::crc32c(&self.page));
        section.len += self.page.len() as u64;
        self.position += self.page.len() as u64;
        self.page.clear();
        Ok(())
    }

    /// Ends the open section with `index`. An empty section leaves no trace.
    pub(super) fn end(&mut self, index: &[u8]) -> io::Result<()> {
        self.write(index)?;
        if !self.page.is_empty() {
            self.flush_page()?;
        }
        if let Some(mut section) = self.open.take() {
            section.index_len = index.len() as u64;
            self.done.extend((section.len > 0).then_some(section));
        }
        Ok(())
    }

    /// Ends the file with the table of contents and footer made of the sections, and syncs it.
    /// Gives the length of the file.
    pub(super) fn finish(mut self, frame: impl FnOnce(u64, &[Section]) -> Vec<u8>) -> io::Result<u64> {
        let tail = frame(self.position, &self.done);
        self.file.write_all(&tail)?;
        self.file.flush()?;
        self.file.sync_data()?;
        Ok(self.position + tail.len() as u64)
    }
}

/// Bytes of a section that is written later: in memory while few, in a file of their own when many.
#[derive(Debug)]
pub(super) struct Spool<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    memory: Vec<u8>,
    file: Option<Box<dyn AppendFile>>,
    len: u64,
}

/// Bytes kept in memory.
const SPOOL_MEMORY_MAX: usize = 4 << 20;

impl<'a> Spool<'a> {
    pub(super) fn new(disk: &'a dyn Disk, path: PathBuf) -> Spool<'a> {
        Spool { disk, path, memory: Vec::new(), file: None, len: 0 }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.memory.extend_from_slice(bytes);
        self.len += bytes.len() as u64;
        if self.memory.len() > SPOOL_MEMORY_MAX {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(self.disk.create(&self.path)?),
            };
            file.write_all(&self.memory)?;
            self.memory.clear();
        }
        Ok(())
    }

    /// Copies all bytes to `out` and removes the file.
    pub(super) fn copy_to(mut self, out: &mut SectionsWriter) -> io::Result<()> {
        if let Some(mut file) = self.file.take() {
            file.flush()?;
            drop(file);
            let spooled = self.disk.open_read(&self.path)?;
            let len = spooled.len()?;
            let mut buffer = vec![0; 1 << 20];
            let mut at = 0;
            while at < len {
                let now = (len - at).min(buffer.len() as u64) as usize;
                spooled.read_exact_at(&mut buffer[..now], at)?;
                out.write(&buffer[..now])?;
                at += now as u64;
            }
            self.disk.remove_file(&self.path)?;
        }
        out.write(&self.memory)
    }

    /// Removes what an abandoned spool left behind.
    pub(super) fn discard(disk: &dyn Disk, path: &Path) {
        if disk.exists(path) {
            // Best effort: a stray file is also removed at the next start.
            let _ = disk.remove_file(path);
        }
    }
}
