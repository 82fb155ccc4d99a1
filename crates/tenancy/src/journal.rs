//! Lines on disk: each is the CRC-32C of its text (8 hexadecimal digits), a space, JSON, a line feed.
//!
//! Lines are appended and synced before anybody acts on them. A last line that is broken was cut by a
//! crash and is dropped; a broken line before that is damage, and the file is not used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stdx::disk::{AppendFile, Disk, replace_private};

/// Longest journal that is read, bytes.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk.
    #[error("{verb} {}: {source}", path.display())]
    Disk {
        /// `read`, `append to`, ...
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// A line is broken, and not the last one.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A write failed before; what the file holds is not known until it is opened again.
    #[error("a write to {} failed; nothing more is recorded until a restart", path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
    },
}

/// The open journal.
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// `None` after a failure.
    file: Option<Box<dyn AppendFile>>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Journal({})", self.path.display())
    }
}

impl Journal {
    /// Opens or makes the journal, and gives its records in order.
    pub(crate) fn open<T: DeserializeOwned>(
        disk: Arc<dyn Disk>,
        path: &Path,
    ) -> Result<(Journal, Vec<T>), JournalError> {
        let failed = |verb| move |source| JournalError::Disk { verb, path: path.to_owned(), source };
        let directory = path.parent().unwrap_or(Path::new("."));
        if !disk.exists(path) {
            disk.create_dir_all(directory).map_err(failed("make the directory of"))?;
            let above = directory.parent().filter(|above| !above.as_os_str().is_empty());
            disk.sync_dir(above.unwrap_or(Path::new("."))).map_err(failed("sync the directory of"))?;
            replace_private(disk.as_ref(), path, b"").map_err(failed("make"))?;
        }
        let size = disk.open_read(path).and_then(|file| file.len()).map_err(failed("read"))?;
        if size > JOURNAL_BYTES_MAX {
            let source = io::Error::other("larger than 256 MiB");
            return Err(failed("read")(source));
        }
        let bytes = disk.read(path).map_err(failed("read"))?;
        let (records, good) = read_lines(path, &bytes)?;
        if good < bytes.len() {
            disk.truncate(path, good as u64).map_err(failed("cut the last line of"))?;
        }
        let file = Some(disk.open_append(path).map_err(failed("append to"))?);
        Ok((Journal { disk, path: path.to_owned(), file }, records))
    }

    /// Appends a record, durably.
    pub(crate) fn append(&mut self, record: &impl Serialize) -> Result<(), JournalError> {
        let line = line(record);
        let broken = || JournalError::Broken { path: self.path.clone() };
        let file = self.file.as_mut().ok_or_else(broken)?;
        let outcome = file.write_all(&line).and_then(|()| file.sync_data());
        outcome.map_err(|source| {
            // Half a line may be there; the next start cuts it off.
            self.file = None;
            JournalError::Disk { verb: "append to", path: self.path.clone(), source }
        })
    }

    /// Puts these records in place of all.
    pub(crate) fn rewrite<T: Serialize>(&mut self, records: &[T]) -> Result<(), JournalError> {
        let failed = |verb| {
            let path = self.path.clone();
            move |source| JournalError::Disk { verb, path, source }
        };
        let bytes: Vec<u8> = records.iter().flat_map(line).collect();
        replace_private(self.disk.as_ref(), &self.path, &bytes).map_err(failed("rewrite"))?;
        self.file = None;
        self.file = Some(self.disk.open_append(&self.path).map_err(failed("append to"))?);
        Ok(())
    }
}

fn line(record: &impl Serialize) -> Vec<u8> {
    // Our records have string keys and finite numbers: this cannot fail.
    let json = serde_json::to_string(record).unwrap_or_default();
    format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes())).into_bytes()
}

/// The records, and how many bytes of the file they are.
fn read_lines<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<(Vec<T>, usize), JournalError> {
    let mut records = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes[at..].iter().position(|byte| *byte == b'\n').map(|length| at + length + 1);
        match read_line(&bytes[at..end.unwrap_or(bytes.len())]) {
            Ok(record) => records.push(record),
            // Of the last append no more than this may be there, in whatever state.
            Err(_) if end.is_none_or(|end| end == bytes.len()) => break,
            Err(reason) => {
                let line = records.len() + 1;
                return Err(JournalError::Line { path: path.to_owned(), line, reason });
            }
        }
        at = end.unwrap_or(bytes.len());
    }
    Ok((records, at))
}

fn read_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    let line = line.strip_suffix(b"\n").ok_or("the line has no end")?;
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    let (checksum, json) = text.split_once(' ').ok_or("no checksum")?;
    let expected = u32::from_str_radix(checksum, 16).map_err(|_| "no checksum")?;
    if expected != crc32c::crc32c(json.as_bytes()) {
        return Err("checksum mismatch".into());
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}
