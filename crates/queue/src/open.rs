//! Opening a queue: what is there, what of it is sound.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stdx::clock::Clock;
use stdx::disk::Disk;

use crate::bytes::{get_u16, get_u32, get_u128};
use crate::cursor::ReaderState;
use crate::error::QueueError;
use crate::queue::{Options, Queue, ReaderEntry, Shared, State, check_name};
use crate::segment::{Found, MAJOR, MINOR, START_LEN, Segment, load, number_of};
use crate::writer::Writer;

const ID_MAGIC: &[u8; 8] = b"MGRAFQID";
const ID_LEN: usize = 36;

/// A queue that has been opened.
#[derive(Debug)]
pub struct Opened {
    /// What all share.
    pub queue: Queue,
    /// The one writer.
    pub writer: Writer,
    /// What was not as it should be, for the log.
    pub findings: Vec<Finding>,
}

/// Something that was not as it should be when the queue was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A segment that was not ended has bytes behind its last whole block. They were never synced, or the
    /// disk has lost them.
    #[error("{} ends with {bytes} bytes of an unfinished block behind block {last:?}", path.display())]
    TornTail {
        /// The segment's file.
        path: PathBuf,
        /// The last whole block, if there is one.
        last: Option<u64>,
        /// How many bytes were cut off.
        bytes: u64,
    },
    /// A segment of which nothing can be read; the file is kept under this name.
    #[error("{} has neither a sound header nor a sound footer", .0.display())]
    Unreadable(PathBuf),
    /// A segment of another queue: it is left alone.
    #[error("{} belongs to another queue", .0.display())]
    Foreign(PathBuf),
    /// The file of a reader's cursor is damaged: the reader begins at the oldest block again.
    #[error("the cursor of reader {0} is damaged")]
    Cursor(String),
    /// The file with the queue's id was missing or damaged, and the id was taken from a segment.
    #[error("{} was damaged and has been written anew", .0.display())]
    Id(PathBuf),
}

/// Opens the queue in `dir`, which is made if it is not there, and begins a new incarnation. Only one process
/// may have it open; the caller sees to that.
///
/// # Errors
/// When files cannot be read or are of a later version, or the directory cannot be written. A full disk does
/// not keep an existing queue from opening.
pub fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    clock: Arc<dyn Clock>,
    options: Options,
) -> Result<Opened, QueueError> {
    let mut findings = Vec::new();
    let (segments_dir, readers_dir) = (dir.join("segments"), dir.join("readers"));
    for path in [&segments_dir, &readers_dir] {
        disk.create_dir_all(path).map_err(QueueError::io("create", path))?;
    }
    for path in dir.parent().into_iter().chain([dir]) {
        disk.sync_dir(path).map_err(QueueError::io("sync", path))?;
    }
    let mut opening = Opening { disk: disk.as_ref(), findings: &mut findings, next_segment: 1 };
    let found = opening.find_segments(&segments_dir)?;
    let id = opening.take_id(dir, found.first().map(|found| found.queue_id), &options)?;
    let segments = opening.take_segments(found, id)?;
    let readers = opening.take_readers(&readers_dir, &segments)?;
    disk.sync_dir(&segments_dir).map_err(QueueError::io("sync", &segments_dir))?;
    let state = State {
        segments,
        readers,
        next_segment: opening.next_segment,
        next_block: 0,
        read_only: None,
        rotation_wanted: false,
        unsynced: Vec::new(),
        names_unsynced: false,
        removed_unsynced: false,
    };
    for finding in &findings {
        tracing::warn!(queue = %dir.display(), "{finding}");
    }
    let incarnation = (options.ids.0)();
    let shared = Shared::new(disk, clock, dir.to_owned(), options, (id, incarnation), state);
    let queue = Queue(Arc::new(shared));
    Ok(Opened { writer: Writer::new(queue.clone()), queue, findings })
}

struct Opening<'a> {
    disk: &'a dyn Disk,
    findings: &'a mut Vec<Finding>,
    next_segment: u64,
}

impl Opening<'_> {
    /// All segments of which something can be read, oldest first.
    fn find_segments(&mut self, dir: &Path) -> Result<Vec<Found>, QueueError> {
        let mut all = Vec::new();
        for path in self.disk.read_dir(dir).map_err(QueueError::io("list", dir))? {
            let Some(number) = number_of(&path) else { continue };
            self.next_segment = self.next_segment.max(number + 1);
            match load(self.disk, &path, number)? {
                Some(found) => all.push(found),
                None => self.set_aside(&path)?,
            }
        }
        Ok(all)
    }

    /// A file without a sound header: one that had just been made goes, any other is kept for a look.
    fn set_aside(&mut self, path: &Path) -> Result<(), QueueError> {
        let bytes = self.disk.read(path).map_err(QueueError::io("read", path))?;
        if bytes.len() <= START_LEN || bytes.iter().take(START_LEN).all(|byte| *byte == 0) {
            return self.disk.remove_file(path).map_err(QueueError::io("remove", path));
        }
        let kept = path.with_extension("damaged");
        self.disk.rename(path, &kept).map_err(QueueError::io("rename", path))?;
        self.findings.push(Finding::Unreadable(kept));
        Ok(())
    }

    fn take_id(
        &mut self,
        dir: &Path,
        in_segments: Option<u128>,
        options: &Options,
    ) -> Result<u128, QueueError> {
        let path = dir.join("id");
        let found = match self.disk.exists(&path) {
            true => Some(self.disk.read(&path).map_err(QueueError::io("read", &path))?),
            false => None,
        };
        if let Some(id) = found.as_deref().map(|bytes| decode_id(bytes, &path)).transpose()?.flatten() {
            return Ok(id);
        }
        if found.is_some() || in_segments.is_some() {
            self.findings.push(Finding::Id(path.clone()));
        }
        let id = in_segments.unwrap_or_else(|| (options.ids.0)());
        let temporary = dir.join("id.tmp");
        if self.disk.exists(&temporary) {
            self.disk.remove_file(&temporary).map_err(QueueError::io("remove", &temporary))?;
        }
        let mut file = self.disk.create(&temporary).map_err(QueueError::io("create", &temporary))?;
        file.write_all(&encode_id(id)).map_err(QueueError::io("write", &temporary))?;
        file.sync_data().map_err(QueueError::io("sync", &temporary))?;
        self.disk.rename(&temporary, &path).map_err(QueueError::io("rename", &temporary))?;
        self.disk.sync_dir(dir).map_err(QueueError::io("sync", dir))?;
        Ok(id)
    }

    fn take_segments(&mut self, found: Vec<Found>, id: u128) -> Result<BTreeMap<u64, Segment>, QueueError> {
        let mut segments = BTreeMap::new();
        for mut found in found {
            let path = found.segment.path.clone();
            if found.queue_id != id {
                self.findings.push(Finding::Foreign(path));
                continue;
            }
            let segment = &found.segment;
            if found.torn > 0 {
                let last = segment.next.checked_sub(1).filter(|last| *last >= segment.first);
                self.findings.push(Finding::TornTail { path: path.clone(), last, bytes: found.torn });
            }
            if segment.next == segment.first {
                self.disk.remove_file(&path).map_err(QueueError::io("remove", &path))?;
                continue;
            }
            if found.segment.ended {
                let mut file = self.disk.open_append(&path).map_err(QueueError::io("open", &path))?;
                file.sync_data().map_err(QueueError::io("sync", &path))?;
            } else {
                self.end(&mut found.segment, id)?;
            }
            segments.insert(found.segment.number, found.segment);
        }
        Ok(segments)
    }

    /// Cuts the torn tail off and writes the footer that a dying process could not write.
    fn end(&mut self, segment: &mut Segment, id: u128) -> Result<(), QueueError> {
        let path = &segment.path;
        if segment.bytes > segment.end {
            self.disk.truncate(path, segment.end).map_err(QueueError::io("cut", path))?;
        }
        let footer = segment.footer(id);
        let mut file = self.disk.open_append(path).map_err(QueueError::io("open", path))?;
        segment.bytes = match file.write_all(&footer) {
            Ok(()) => segment.end + footer.len() as u64,
            // Without a footer it is read through again the next time.
            Err(_) => segment.end,
        };
        segment.ended = true;
        file.sync_data().map_err(QueueError::io("sync", path))
    }

    fn take_readers(
        &mut self,
        dir: &Path,
        segments: &BTreeMap<u64, Segment>,
    ) -> Result<BTreeMap<String, ReaderEntry>, QueueError> {
        let living: BTreeSet<u128> = segments.values().map(|segment| segment.incarnation).collect();
        let mut readers = BTreeMap::new();
        for path in self.disk.read_dir(dir).map_err(QueueError::io("list", dir))? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".cursor")) else {
                continue;
            };
            if check_name(name).is_err() {
                continue;
            }
            let bytes = self.disk.read(&path).map_err(QueueError::io("read", &path))?;
            let found = ReaderState::decode(&bytes, &path)?;
            let dirty = found.is_none();
            if dirty {
                self.findings.push(Finding::Cursor(name.to_owned()));
            }
            let mut state = found.unwrap_or_default();
            state.done.retain(|incarnation, _| living.contains(incarnation));
            readers.insert(name.to_owned(), ReaderEntry { state, open: false, dirty });
        }
        Ok(readers)
    }
}

fn encode_id(id: u128) -> Vec<u8> {
    let mut out = Vec::with_capacity(ID_LEN);
    out.extend_from_slice(ID_MAGIC);
    out.extend_from_slice(&MAJOR.to_le_bytes());
    out.extend_from_slice(&MINOR.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

/// `Ok(None)` when the bytes are damaged, an error for a later version.
fn decode_id(bytes: &[u8], path: &Path) -> Result<Option<u128>, QueueError> {
    if bytes.len() != ID_LEN
        || !bytes.starts_with(ID_MAGIC)
        || crc32c::crc32c(&bytes[..32]) != get_u32(bytes, 32)
    {
        return Ok(None);
    }
    match get_u16(bytes, 8) {
        major if major > MAJOR => Err(QueueError::Version { path: path.to_owned(), major, known: MAJOR }),
        _ => Ok(Some(get_u128(bytes, 16))),
    }
}
