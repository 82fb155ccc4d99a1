//! One tenant's files: a log of frames, and snapshots that take the place of logs. Drawn in
//! `docs/formats/ledger.md`.
//!
//! `00000007.snapshot` holds everything told of before log `00000007.log` was begun. A snapshot is
//! written once, under a name that is not counted, and gets its own when it is whole; then older files go.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use stdx::bytes::{CUT_SHORT, Cursor, Malformed, put_bytes, put_varint, put_zigzag};
use stdx::disk::{AppendFile, Disk};

use crate::entry::{Entry, in_range};

const LOG_MAGIC: &[u8; 8] = b"MGLLOG\0\x01";
const SNAPSHOT_MAGIC: &[u8; 8] = b"MGLSNP\0\x01";
const LOG: &str = "log";
const SNAPSHOT: &str = "snapshot";
const UNFINISHED: &str = "tmp";
/// Length and checksum in front of a frame.
const FRAME_HEAD: usize = 8;
/// A frame is no longer than this.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// How far behind a damaged place a sound frame is looked for.
const RESYNC_BYTES_MAX: usize = 64 << 20;

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    writer: Box<dyn AppendFile>,
    /// A second handle, so that a sync does not hold up writes.
    pub(crate) syncer: Arc<Mutex<Box<dyn AppendFile>>>,
    pub(crate) number: u64,
    pub(crate) len: u64,
}

impl Log {
    /// Begins log `number`; its name and its head are durable when this returns, so that a head which cannot be
    /// read is damage and not what a power cut has left. `boot` names this start of the machine.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, number: u64, boot: &str) -> io::Result<Log> {
        let path = file(dir, number, LOG);
        if disk.exists(&path) {
            // Left by a start that ended before it wrote anything of worth.
            disk.remove_file(&path)?;
        }
        let writer = disk.create(&path)?;
        let syncer = Arc::new(Mutex::new(disk.open_append(&path)?));
        let mut log = Log { writer, syncer, number, len: 0 };
        log.write(&head(boot))?;
        log.syncer.lock().sync_data()?;
        disk.sync_dir(dir)?;
        Ok(log)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Writes a frame of entries that are certain once the store has `position` for good.
    pub(crate) fn append(&mut self, frame: &Frame) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(frame.entries.len() + FRAME_HEAD + 24);
        let mut payload = Vec::with_capacity(frame.entries.len() + 24);
        put_varint(&mut payload, frame.position);
        put_zigzag(&mut payload, frame.base_ms);
        payload.extend_from_slice(&frame.entries);
        put_frame(&mut bytes, &payload);
        self.write(&bytes)
    }
}

/// Entries that are written together.
#[derive(Debug, Default, Clone)]
pub(crate) struct Frame {
    /// The store's position that covers them; 0 for what does not depend on the store.
    pub(crate) position: u64,
    /// What times are relative to; about now.
    pub(crate) base_ms: i64,
    /// Encoded.
    pub(crate) entries: Vec<u8>,
}

/// What was found on the disk.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In order; those of the snapshot first.
    pub(crate) entries: Vec<Entry>,
    /// The number the next log gets.
    pub(crate) next: u64,
    /// Why detail was lost, one message for each place.
    pub(crate) damage: Vec<String>,
    /// Times whose detail is lost.
    pub(crate) lost: Vec<(i64, i64)>,
}

/// Reads a tenant's files. `boot` names this start of the machine: what an earlier one had not synced
/// counts only as far as it is known to be in the store, too.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path, boot: &str, now_ms: i64) -> io::Result<Found> {
    let mut found = Found { next: 1, ..Found::default() };
    let mut logs = Vec::new();
    let mut snapshots = Vec::new();
    for path in disk.read_dir(dir)? {
        match numbered(&path) {
            Some((number, LOG)) => logs.push(number),
            Some((number, SNAPSHOT)) => snapshots.push(number),
            _ => continue,
        }
    }
    found.next = logs.iter().chain(&snapshots).max().map_or(1, |newest| newest + 1);
    let mut from = 0;
    if let Some(newest) = snapshots.last() {
        let path = file(dir, *newest, SNAPSHOT);
        from = *newest;
        match read_snapshot(&disk.read(&path)?) {
            Ok(entries) => found.entries = entries,
            Err(Malformed(reason)) => {
                let path = path.display();
                found.damage.push(format!("{path} is damaged ({reason}): what it held is unknown"));
                found.lost.push((i64::MIN / 4, now_ms));
            }
        }
    }
    let mut frames = Vec::new();
    for number in logs.into_iter().filter(|number| *number >= from) {
        let path = file(dir, number, LOG);
        frames.extend(read_log(&disk.read(&path)?, boot, now_ms, &path, &mut found));
    }
    // Positions are those of one run of the program: every start makes a snapshot first.
    let certain = certain_position(&frames);
    for frame in frames {
        // Sources and begins are kept all the same: at worst more is expected.
        let sure = frame.same_boot || frame.position <= certain;
        found.entries.extend(frame.entries.into_iter().filter(|entry| sure || !claims_rows(entry)));
    }
    Ok(found)
}

/// Writes the snapshot that goes with log `number`, and removes what it takes the place of.
pub(crate) fn write_snapshot(
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
    base_ms: i64,
    entries: &[u8],
) -> io::Result<()> {
    let unfinished = file(dir, number, UNFINISHED);
    if disk.exists(&unfinished) {
        disk.remove_file(&unfinished)?;
    }
    let mut bytes = SNAPSHOT_MAGIC.to_vec();
    put_zigzag(&mut bytes, base_ms);
    bytes.extend_from_slice(entries);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    let mut out = disk.create(&unfinished)?;
    out.write_all(&bytes)?;
    out.sync_data()?;
    disk.rename(&unfinished, &file(dir, number, SNAPSHOT))?;
    disk.sync_dir(dir)?;
    for path in disk.read_dir(dir)? {
        match numbered(&path) {
            Some((old, LOG | SNAPSHOT | UNFINISHED)) if old < number => disk.remove_file(&path)?,
            _ => {}
        }
    }
    disk.sync_dir(dir)
}

/// The entries of a snapshot.
pub(crate) fn read_snapshot(bytes: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let (sealed, crc) = bytes.split_last_chunk::<4>().ok_or(CUT_SHORT)?;
    if !is_intact(sealed, u32::from_le_bytes(*crc)) {
        return Err(Malformed("its checksum does not match"));
    }
    let mut from =
        Cursor::new(sealed.strip_prefix(SNAPSHOT_MAGIC).ok_or(Malformed("it is no snapshot of a ledger"))?);
    let base_ms = in_range(Some(from.zigzag()?))?;
    let mut entries = Vec::new();
    while !from.is_empty() {
        entries.push(Entry::decode(base_ms, &mut from)?);
    }
    Ok(entries)
}

/// How many entries a log or snapshot holds; none when it is neither. Entries are also applied, as
/// opening a ledger does.
pub fn entries_in(bytes: &[u8]) -> Option<usize> {
    let entries = if bytes.starts_with(LOG_MAGIC) {
        let frames = read_log(bytes, "", 0, Path::new("log"), &mut Found::default());
        frames.into_iter().flat_map(|frame| frame.entries).collect()
    } else {
        read_snapshot(bytes).ok()?
    };
    let count = entries.len();
    let mut inner = crate::tenant::Inner::default();
    entries.into_iter().for_each(|entry| inner.apply(entry));
    // As a question for everything does.
    crate::report::incomplete(&inner, 0, "cluster");
    Some(count)
}

/// A frame as it was read.
pub(crate) struct ReadFrame {
    /// Whether the machine has not been started anew since.
    same_boot: bool,
    position: u64,
    base_ms: i64,
    entries: Vec<Entry>,
}

/// Reads a log; what is damaged goes to `found`. An unfinished end is what a kill or a power cut leaves; a damaged place with
/// sound frames behind it is damage.
pub(crate) fn read_log(
    bytes: &[u8],
    boot: &str,
    now_ms: i64,
    path: &Path,
    found: &mut Found,
) -> Vec<ReadFrame> {
    let mut at = LOG_MAGIC.len();
    let first = bytes.strip_prefix(LOG_MAGIC).and_then(frame_at);
    let written_in = first.and_then(|payload| Cursor::new(payload).text().ok());
    at += first.map_or(0, |payload| payload.len() + FRAME_HEAD);
    let mut damaged = written_in.is_none();
    let mut frames: Vec<ReadFrame> = Vec::new();
    while at < bytes.len() {
        match frame_at(&bytes[at..]).and_then(|payload| Some((payload.len(), read_frame(payload).ok()?))) {
            Some((len, frame)) => {
                if std::mem::take(&mut damaged) {
                    let from = frames.last().map_or(frame.base_ms, |before| before.base_ms);
                    found.damage.push(format!("{} is damaged before byte {at}", path.display()));
                    found.lost.push((from.min(frame.base_ms), frame.base_ms.max(from)));
                }
                at += len + FRAME_HEAD;
                frames.push(frame);
            }
            None => {
                damaged = true;
                let Some(next) = resync(bytes, at + 1) else { break };
                at = next;
            }
        }
    }
    // A head is synced before a frame follows it: one without anything behind it is of a log that was not begun.
    if written_in.is_none() && frames.is_empty() && bytes.len() > head(boot).len() + FRAME_HEAD {
        found.damage.push(format!("{} is damaged", path.display()));
        found.lost.push((i64::MIN / 4, now_ms));
    }
    if written_in == Some(boot) {
        frames.iter_mut().for_each(|frame| frame.same_boot = true);
    }
    frames
}

/// Whether an entry would say more than is true if its batch were not in the store.
fn claims_rows(entry: &Entry) -> bool {
    use crate::source::Said;
    matches!(
        entry,
        Entry::Tick { .. }
            | Entry::Run { .. }
            | Entry::Pushed { .. }
            | Entry::Said { said: Said::End(_), .. }
    )
}

fn certain_position(frames: &[ReadFrame]) -> u64 {
    let marks = frames.iter().flat_map(|frame| &frame.entries).filter_map(|entry| match entry {
        Entry::Durable { position } => Some(*position),
        _ => None,
    });
    marks.max().unwrap_or(0)
}

/// How a log begins that is written in `boot`.
fn head(boot: &str) -> Vec<u8> {
    let (mut head, mut payload) = (LOG_MAGIC.to_vec(), Vec::new());
    put_bytes(&mut payload, boot.as_bytes());
    put_frame(&mut head, &payload);
    head
}

fn put_frame(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The payload of the frame at the front, if there is a whole one.
fn frame_at(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    if len == 0 || len > FRAME_BYTES_MAX {
        return None;
    }
    let payload = rest.get(..len)?;
    is_intact(payload, u32::from_le_bytes(*crc)).then_some(payload)
}

fn read_frame(payload: &[u8]) -> Result<ReadFrame, Malformed> {
    let mut from = Cursor::new(payload);
    let position = from.varint()?;
    let base_ms = in_range(Some(from.zigzag()?))?;
    let mut entries = Vec::new();
    while !from.is_empty() {
        entries.push(Entry::decode(base_ms, &mut from)?);
    }
    Ok(ReadFrame { same_boot: false, position, base_ms, entries })
}

/// Where the next sound frame begins. Checksums of at most so many bytes are computed in the search.
fn resync(bytes: &[u8], from: usize) -> Option<usize> {
    let mut budget = RESYNC_BYTES_MAX;
    (from..bytes.len().saturating_sub(FRAME_HEAD)).find(|at| {
        let rest = &bytes[*at..];
        let len = rest.first_chunk::<4>().map_or(0, |len| u32::from_le_bytes(*len) as usize);
        if len == 0 || len > rest.len() - FRAME_HEAD || len > budget {
            return false;
        }
        budget -= len;
        frame_at(rest).is_some_and(|payload| read_frame(payload).is_ok())
    })
}

/// A fuzzer's build takes bytes for intact, or no mutation would get behind the checksums.
fn is_intact(bytes: &[u8], crc: u32) -> bool {
    cfg!(fuzzing) || crc32c::crc32c(bytes) == crc
}

fn file(dir: &Path, number: u64, extension: &str) -> PathBuf {
    dir.join(format!("{number:08}.{extension}"))
}

fn numbered(path: &Path) -> Option<(u64, &str)> {
    let extension = path.extension()?.to_str()?;
    let stem = path.file_stem()?.to_str()?;
    (stem.len() >= 8 && stem.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
    Some((stem.parse().ok()?, extension))
}
