//! A tenant's manifest: which parts are its data, what has been deleted, up to where its rows have left
//! the log.
//!
//! An append-only file of checksummed edits, rewritten when it has grown long. What it does not name is
//! not there: part files without an edit are removed at start. The bytes are drawn in
//! `docs/formats/manifest.md`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::Matcher;
use stdx::bytes::{Cursor, Malformed, put_varint, put_zigzag};
use stdx::disk::{AppendFile, Disk};
use ulid::Ulid;

use crate::filenames;
use crate::tombstone::Tombstone;
use crate::wal::record::{put_matchers, read_matchers};

/// First bytes of every manifest.
pub const MAGIC: [u8; 8] = *b"MGRAFMAN";
/// A reader refuses manifests with a larger major version.
pub const MAJOR: u16 = 1;
/// Minor versions only add what may be skipped.
pub const MINOR: u16 = 1;
const HEADER_LEN: usize = 16;

const EDIT_PARTS: u8 = 1;
const EDIT_TOMBSTONE: u8 = 2;
const EDIT_CLEANED: u8 = 3;
/// Edits from here on may be skipped by a reader that does not know them.
const EDIT_OPTIONAL: u8 = 128;

/// A manifest longer than this and four times as long as needed is rewritten, bytes.
const REWRITE_FROM: u64 = 64 << 10;

/// A change of what a tenant has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Parts come and go together.
    Parts {
        /// New parts, each with the log position up to which tombstones are true in it.
        add: Vec<(Ulid, u64)>,
        /// Parts that are no more.
        drop: Vec<Ulid>,
        /// All rows up to this log position are in parts.
        flushed: Option<u64>,
        /// All rows of late lanes up to this log position are in parts.
        spilled: Option<u64>,
    },
    /// A deletion.
    Tombstone(Tombstone),
    /// Deletions up to a log position are true in all parts.
    Cleaned(u64),
}

/// What a manifest says, all edits applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Parts, each with the log position up to which tombstones are true in it.
    pub parts: BTreeMap<Ulid, u64>,
    /// Deletions, by log position.
    pub tombstones: Vec<Tombstone>,
    /// All rows up to this log position are in parts.
    pub flushed: u64,
    /// All rows of late lanes up to this log position are in parts.
    pub spilled: u64,
}

impl State {
    fn apply(&mut self, edit: Edit) {
        match edit {
            Edit::Parts { add, drop, flushed, spilled } => {
                for id in drop {
                    self.parts.remove(&id);
                }
                self.parts.extend(add);
                self.flushed = self.flushed.max(flushed.unwrap_or(0));
                self.spilled = self.spilled.max(spilled.unwrap_or(0));
            }
            Edit::Tombstone(tombstone) => {
                if !self.tombstones.contains(&tombstone) {
                    self.tombstones.push(tombstone);
                    self.tombstones.sort_by_key(|t| t.position);
                }
            }
            Edit::Cleaned(position) => self.tombstones.retain(|t| t.position > position),
        }
    }

    fn edits(&self) -> Vec<Edit> {
        let add = self.parts.iter().map(|(id, cleaned)| (*id, *cleaned)).collect();
        let spilled = (self.spilled > 0).then_some(self.spilled);
        let parts = Edit::Parts { add, drop: Vec::new(), flushed: Some(self.flushed), spilled };
        let tombstones = self.tombstones.iter().cloned().map(Edit::Tombstone);
        std::iter::once(parts).chain(tombstones).collect()
    }
}

/// A manifest that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The disk refused.
    #[error("{attempt} manifest {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Bytes are not what was written.
    #[error("manifest {path}, byte {offset}: {reason}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// It could not be read when the store was opened, and its tenant is refused until it is opened again.
    #[error("tenant {tenant} is refused: {reason}")]
    Refused {
        /// Whose.
        tenant: String,
        /// What was wrong, with file and place.
        reason: String,
    },
}

/// An open manifest.
#[derive(Debug)]
pub struct Manifest {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Closed after a failed write: the next edit then writes a new file.
    file: Option<Box<dyn AppendFile>>,
    len: u64,
    state: State,
    /// Whether edits are not written.
    in_memory: bool,
}

impl Manifest {
    /// Opens the manifest in `dir`, or starts one there. Gives also a torn end that has been cut, as a
    /// message.
    ///
    /// # Errors
    /// See [`ManifestError`]; damage before the end is an error, as it may hide anything.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<(Manifest, Option<String>), ManifestError> {
        let path = dir.join(filenames::MANIFEST);
        let mut manifest = Manifest {
            disk,
            dir: dir.to_owned(),
            file: None,
            len: 0,
            state: State::default(),
            in_memory: false,
        };
        if !manifest.disk.exists(&path) {
            return Ok((manifest, None));
        }
        let bytes = manifest.disk.read(&path).map_err(|source| manifest.io("read", source))?;
        let (state, good_len, torn) = read(&bytes).map_err(|(offset, reason)| ManifestError::Corrupt {
            path: path.clone(),
            offset,
            reason,
        })?;
        manifest.state = state;
        manifest.len = good_len;
        if let Some(reason) = &torn {
            // The next edit writes a new file rather than continuing this one.
            let message = format!(
                "torn tail in manifest {}: {reason} at byte {good_len}, {} bytes cut",
                path.display(),
                bytes.len() as u64 - good_len
            );
            return Ok((manifest, Some(message)));
        }
        manifest.file = manifest.disk.open_append(&path).ok();
        Ok((manifest, None))
    }

    /// Forces what an earlier process has written to the device: its last sync may have failed, or not
    /// have come, and from now on others rely on what the manifest says.
    ///
    /// # Errors
    /// [`ManifestError::Io`].
    pub fn sync(&self) -> Result<(), ManifestError> {
        let path = self.dir.join(filenames::MANIFEST);
        if !self.disk.exists(&path) {
            return Ok(());
        }
        let sync = || {
            self.disk.open_append(&path)?.sync_data()?;
            self.disk.sync_dir(&self.dir)?;
            self.dir.parent().map_or(Ok(()), |parent| self.disk.sync_dir(parent))
        };
        sync().map_err(|source| self.io("sync", source))
    }

    /// From now on edits take effect here and are not written: the directory is only read.
    pub fn keep_in_memory(&mut self) {
        self.in_memory = true;
    }

    /// What it says.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Applies an edit and makes it durable.
    ///
    /// # Errors
    /// [`ManifestError::Io`]: whether the edit will be there after a restart is not known, and the next
    /// edit writes a new file without it.
    pub fn edit(&mut self, edit: Edit) -> Result<(), ManifestError> {
        let mut next = self.state.clone();
        next.apply(edit.clone());
        if self.in_memory {
            self.state = next;
            return Ok(());
        }
        if let Some(mut file) = self.file.take() {
            let mut bytes = Vec::new();
            put_edit(&edit, &mut bytes);
            io::Write::write_all(&mut file, &bytes)
                .and_then(|()| file.sync_data())
                .map_err(|source| self.io("append to", source))?;
            self.len += bytes.len() as u64;
            self.file = Some(file);
            let needed: u64 = (HEADER_LEN + next.parts.len() * 28 + next.tombstones.len() * 64) as u64;
            if self.len > REWRITE_FROM && self.len / 4 > needed {
                self.rewrite(&next)?;
            }
        } else {
            self.rewrite(&next)?;
        }
        self.state = next;
        Ok(())
    }

    fn rewrite(&mut self, state: &State) -> Result<(), ManifestError> {
        let (fresh, path) = (self.dir.join(filenames::MANIFEST_NEW), self.dir.join(filenames::MANIFEST));
        let bytes = encode(state);
        let write = || -> io::Result<Box<dyn AppendFile>> {
            self.disk.create_dir_all(&self.dir)?;
            if let Some(parent) = self.dir.parent() {
                self.disk.sync_dir(parent)?;
            }
            if self.disk.exists(&fresh) {
                self.disk.remove_file(&fresh)?;
            }
            let mut file = self.disk.create(&fresh)?;
            io::Write::write_all(&mut file, &bytes)?;
            file.sync_data()?;
            self.disk.rename(&fresh, &path)?;
            self.disk.sync_dir(&self.dir)?;
            self.disk.open_append(&path)
        };
        let file = write().map_err(|source| self.io("rewrite", source))?;
        self.file = Some(file);
        self.len = bytes.len() as u64;
        Ok(())
    }

    fn io(&self, attempt: &'static str, source: io::Error) -> ManifestError {
        ManifestError::Io { attempt, path: self.dir.join(filenames::MANIFEST), source }
    }
}

/// A whole manifest that says `state`.
pub fn encode(state: &State) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&MAJOR.to_le_bytes());
    bytes.extend_from_slice(&MINOR.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    debug_assert_eq!(bytes.len(), HEADER_LEN);
    for edit in state.edits() {
        put_edit(&edit, &mut bytes);
    }
    bytes
}

fn put_edit(edit: &Edit, out: &mut Vec<u8>) {
    let mut payload = Vec::new();
    match edit {
        Edit::Parts { add, drop, flushed, spilled } => {
            payload.push(EDIT_PARTS);
            put_varint(&mut payload, flushed.map_or(0, |position| position + 1));
            put_varint(&mut payload, add.len() as u64);
            for (id, cleaned) in add {
                payload.extend_from_slice(&id.to_bytes());
                put_varint(&mut payload, *cleaned);
            }
            put_varint(&mut payload, drop.len() as u64);
            drop.iter().for_each(|id| payload.extend_from_slice(&id.to_bytes()));
            if let Some(position) = spilled {
                put_varint(&mut payload, *position);
            }
        }
        Edit::Tombstone(tombstone) => {
            payload.push(EDIT_TOMBSTONE);
            put_varint(&mut payload, tombstone.position);
            put_zigzag(&mut payload, tombstone.start_ms);
            put_zigzag(&mut payload, tombstone.end_ms);
            put_matchers(&tombstone.matchers, &mut payload);
        }
        Edit::Cleaned(position) => {
            payload.push(EDIT_CLEANED);
            put_varint(&mut payload, *position);
        }
    }
    crate::wal::segment::put_frame(&payload, out);
}

/// Reads a manifest: what it says, how long its good part is, and why the rest is not.
///
/// # Errors
/// Offset and reason of damage that is not just an unfinished end.
pub fn read(bytes: &[u8]) -> Result<(State, u64, Option<String>), (u64, String)> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Err((0, "incomplete header".into()));
    };
    let crc = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    if header[..8] != MAGIC || !crate::checksum::is_intact(&header[..12], crc) {
        return Err((0, "checksum mismatch in the header".into()));
    }
    let major = u16::from_le_bytes([header[8], header[9]]);
    if major > MAJOR {
        return Err((
            8,
            format!("format {major} was written by a newer version, this one reads up to {MAJOR}"),
        ));
    }
    let mut state = State::default();
    let mut at = HEADER_LEN;
    while at < bytes.len() {
        let payload = match crate::wal::segment::frame_at(bytes, at) {
            Ok(payload) => payload,
            // An edit is synced before the next is written, so only the last can be unfinished.
            Err(reason) if is_last(bytes, at) => return Ok((state, at as u64, Some(reason.to_owned()))),
            Err(reason) => return Err((at as u64, reason.to_owned())),
        };
        match read_edit(&bytes[payload.clone()]) {
            Ok(Some(edit)) => state.apply(edit),
            Ok(None) => {}
            Err(Malformed(reason)) => return Err((at as u64, format!("malformed edit: {reason}"))),
        }
        at = payload.end;
    }
    Ok((state, at as u64, None))
}

/// Whether a manifest was written by a newer version, which this one cannot read.
pub(crate) fn is_newer(bytes: &[u8]) -> bool {
    let header = bytes.first_chunk::<HEADER_LEN>();
    let sound = |h: &&[u8; HEADER_LEN]| h[..8] == MAGIC && crc32c::crc32c(&h[..12]).to_le_bytes() == h[12..];
    header.filter(sound).is_some_and(|header| u16::from_le_bytes([header[8], header[9]]) > MAJOR)
}

/// Whether no whole edit follows behind the broken one at `at`.
fn is_last(bytes: &[u8], at: usize) -> bool {
    (at + 1..bytes.len()).all(|next| crate::wal::segment::frame_at(bytes, next).is_err())
}

fn read_edit(payload: &[u8]) -> Result<Option<Edit>, Malformed> {
    let mut cursor = Cursor::new(payload);
    Ok(Some(match cursor.byte()? {
        EDIT_PARTS => {
            let flushed = cursor.varint()?.checked_sub(1);
            let count = cursor.count(1)?;
            let mut add = Vec::with_capacity(count);
            for _ in 0..count {
                add.push((Ulid::from_bytes(cursor.array()?), cursor.varint()?));
            }
            let count = cursor.count(1)?;
            let drop: Result<Vec<Ulid>, Malformed> =
                (0..count).map(|_| Ok(Ulid::from_bytes(cursor.array()?))).collect();
            let drop = drop?;
            // Since 1.1; a reader of 1.0 ignores it, and brings back what is in parts as well.
            let spilled = if cursor.is_empty() { None } else { Some(cursor.varint()?) };
            Edit::Parts { add, drop, flushed, spilled }
        }
        EDIT_TOMBSTONE => {
            let position = cursor.varint()?;
            let (start_ms, end_ms) = (cursor.zigzag()?, cursor.zigzag()?);
            let matchers: Vec<Matcher> = read_matchers(&mut cursor)?;
            Edit::Tombstone(Tombstone { matchers, start_ms, end_ms, position })
        }
        EDIT_CLEANED => Edit::Cleaned(cursor.varint()?),
        EDIT_OPTIONAL.. => return Ok(None),
        _ => return Err(Malformed("an unknown kind of edit")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State { flushed: 900, spilled: 950, ..State::default() };
        state.parts.insert(Ulid::from_bytes([7; 16]), 0);
        state.parts.insert(Ulid::from_bytes([9; 16]), 55);
        state.tombstones.push(Tombstone {
            matchers: vec![Matcher::equal("job", "node")],
            start_ms: -5,
            end_ms: i64::MAX,
            position: 77,
        });
        state
    }

    #[test]
    fn a_manifest_goes_both_ways() {
        let bytes = encode(&state());
        assert_eq!(read(&bytes), Ok((state(), bytes.len() as u64, None)));
    }

    #[test]
    fn an_unfinished_end_is_cut_and_damage_refused() {
        let whole = encode(&state());
        let mut longer = whole.clone();
        put_edit(&Edit::Cleaned(77), &mut longer);
        for cut in whole.len() + 1..longer.len() {
            let (found, good, torn) = read(&longer[..cut]).expect("a torn end is no error");
            assert_eq!((found, good), (state(), whole.len() as u64));
            assert!(torn.is_some());
        }
        longer[HEADER_LEN + 10] ^= 1;
        assert_eq!(read(&longer), Err((HEADER_LEN as u64, "checksum mismatch".into())));
    }
}
