//! Dictionary logs: what the blocks of a segment added to its dictionary, on disk, so that a hub that has been
//! started again reads on at a floor. Bytes: `docs/formats/block.md`, "Dictionary logs".
//!
//! A log is a convenience, never the truth: one that is missing, torn or damaged makes the hub ask for
//! blocks from further back.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use queue::Intervals;
use stdx::bytes::{Cursor, put_varint};
use stdx::disk::{AppendFile, Disk};

use super::AgentKey;
use crate::ship::SegmentKey;

const MAGIC: [u8; 8] = *b"MGRADICT";
const VERSION: [u8; 2] = [1, 0];
const HEADER_LEN: usize = 8 + 2 + 16 + 16 + 8 + 4;
const DICTIONARY: u8 = 1;
const STORED: u8 = 2;
/// Longest frame of a log.
const FRAME_BYTES_MAX: u32 = 32 << 20;

/// A record of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Block `index` of the segment added this, and presumes the additions of the blocks before `needs`.
    Dictionary { index: u32, needs: u32, packed: Vec<u8> },
    /// These blocks are stored durably.
    Stored(Vec<(u64, u64)>),
}

/// All logs of a hub.
#[derive(Debug)]
pub(super) struct Logs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    state: Mutex<State>,
    /// Held while logs are synced, so that nobody returns before what he wrote is durable.
    syncing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    dirty: HashMap<PathBuf, Box<dyn AppendFile>>,
    /// Directories with new names in them.
    new_names: Vec<PathBuf>,
    used_ms: HashMap<PathBuf, i64>,
}

impl Logs {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Logs {
        Logs { disk, dir, state: Mutex::default(), syncing: Mutex::default() }
    }

    /// Adds what a block added to the dictionary. Durable with the next [`Logs::sync`].
    pub(super) fn append_dictionary(
        &self,
        agent: &AgentKey,
        key: &SegmentKey,
        (index, needs): (u32, u32),
        packed: &[u8],
    ) -> io::Result<()> {
        let mut payload = vec![DICTIONARY];
        put_varint(&mut payload, u64::from(index));
        put_varint(&mut payload, u64::from(index - needs));
        payload.extend_from_slice(packed);
        let path = self.path(agent, key);
        let state = &mut *self.state.lock();
        if !state.dirty.contains_key(&path) {
            let file = self.open(&path, key, state)?;
            state.dirty.insert(path.clone(), file);
        }
        let Some(file) = state.dirty.get_mut(&path) else { return Ok(()) };
        let done = file.write_all(&frame(&payload));
        if done.is_err() {
            // What follows half a frame cannot be read: the log is of no more use.
            state.dirty.remove(&path);
            _ = self.disk.remove_file(&path);
        }
        done
    }

    /// Notes blocks that are stored durably; when that is lost, they are sent once more.
    pub(super) fn append_stored(&self, agent: &AgentKey, key: &SegmentKey, blocks: &Intervals) {
        let mut payload = vec![STORED];
        put_varint(&mut payload, blocks.len() as u64);
        for (first, last) in blocks.iter() {
            put_varint(&mut payload, first);
            put_varint(&mut payload, last - first);
        }
        let path = self.path(agent, key);
        let state = &mut *self.state.lock();
        let done = match state.dirty.get_mut(&path) {
            Some(file) => file.write_all(&frame(&payload)),
            None => self.open(&path, key, state).and_then(|mut file| file.write_all(&frame(&payload))),
        };
        if let Err(error) = done {
            state.dirty.remove(&path);
            _ = self.disk.remove_file(&path);
            tracing::warn!(log = %path.display(), %error, "a dictionary log could not be written");
        }
    }

    fn open(&self, path: &Path, key: &SegmentKey, state: &mut State) -> io::Result<Box<dyn AppendFile>> {
        if self.disk.exists(path) {
            return self.disk.open_append(path);
        }
        let dir = path.parent().unwrap_or(&self.dir);
        self.disk.create_dir_all(dir)?;
        let mut file = self.disk.create(path)?;
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION);
        header.extend_from_slice(&key.queue_id.to_le_bytes());
        header.extend_from_slice(&key.incarnation.to_le_bytes());
        header.extend_from_slice(&key.first.to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        file.write_all(&header)?;
        for dir in dir.ancestors().take(3) {
            state.new_names.push(dir.to_owned());
        }
        Ok(file)
    }

    /// Makes everything durable that was appended before the call.
    ///
    /// # Errors
    /// Logs that could not be synced are removed: they are written anew from context.
    pub(super) fn sync(&self) -> io::Result<()> {
        let _syncing = self.syncing.lock();
        let (dirty, mut names) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.dirty), std::mem::take(&mut state.new_names))
        };
        let mut result = Ok(());
        for (path, mut file) in dirty {
            if let Err(error) = file.sync_data() {
                _ = self.disk.remove_file(&path);
                result = Err(error);
            }
        }
        names.sort();
        names.dedup();
        for dir in names {
            if let Err(error) = self.disk.sync_dir(&dir) {
                self.state.lock().new_names.push(dir);
                result = Err(error);
            }
        }
        result
    }

    /// The records of a log, up to where it is damaged; it is cut there. None when there is no log.
    pub(super) fn read(&self, agent: &AgentKey, key: &SegmentKey, now_ms: i64) -> io::Result<Vec<Frame>> {
        let path = self.path(agent, key);
        self.state.lock().used_ms.insert(path.clone(), now_ms);
        if !self.disk.exists(&path) {
            return Ok(Vec::new());
        }
        let bytes = self.disk.read(&path)?;
        match read_frames(&bytes, Some(key)) {
            Some((frames, end)) => {
                if end < bytes.len() {
                    self.disk.truncate(&path, end as u64)?;
                }
                Ok(frames)
            }
            None => {
                self.disk.remove_file(&path)?;
                Ok(Vec::new())
            }
        }
    }

    /// Removes a log that lacks what was to be in it.
    pub(super) fn forget(&self, agent: &AgentKey, key: &SegmentKey) {
        self.remove(&self.path(agent, key));
    }

    /// Blocks of an incarnation that logs say are stored.
    pub(super) fn stored(&self, agent: &AgentKey, incarnation: u128) -> io::Result<Intervals> {
        let mut stored = Intervals::new();
        for path in self.disk.read_dir(&self.dir_of(agent))? {
            if name_of(&path).is_none_or(|(of, _)| of != incarnation) {
                continue;
            }
            let Some((frames, _)) = read_frames(&self.disk.read(&path)?, None) else { continue };
            for frame in frames {
                let Frame::Stored(blocks) = frame else { continue };
                blocks.into_iter().for_each(|(first, last)| stored.insert(first, last));
            }
        }
        Ok(stored)
    }

    /// Removes the logs of a queue but for those of `held` segments (incarnation and first block).
    pub(super) fn retain(&self, agent: &AgentKey, held: &[(u128, u64)]) {
        for path in self.disk.read_dir(&self.dir_of(agent)).unwrap_or_default() {
            if name_of(&path).is_some_and(|name| !held.contains(&name)) {
                self.remove(&path);
            }
        }
    }

    /// Removes logs that have not been read or written for `idle_ms`.
    pub(super) fn remove_unused(&self, now_ms: i64, idle_ms: i64) {
        for dir in self.disk.read_dir(&self.dir).unwrap_or_default() {
            let logs = self.disk.read_dir(&dir).unwrap_or_default();
            let mut left = logs.len();
            for path in logs {
                // One that was not used since the start counts from the first time it is seen.
                let used_ms = *self.state.lock().used_ms.entry(path.clone()).or_insert(now_ms);
                if now_ms.saturating_sub(used_ms) > idle_ms {
                    self.remove(&path);
                    left -= 1;
                }
            }
            if left == 0 {
                _ = self.disk.remove_dir(&dir);
            }
        }
    }

    /// Notes that a log is of use.
    pub(super) fn touch(&self, agent: &AgentKey, key: &SegmentKey, now_ms: i64) {
        self.state.lock().used_ms.insert(self.path(agent, key), now_ms);
    }

    fn remove(&self, path: &Path) {
        let mut state = self.state.lock();
        state.dirty.remove(path);
        state.used_ms.remove(path);
        if let Err(error) = self.disk.remove_file(path) {
            tracing::warn!(log = %path.display(), %error, "a dictionary log could not be removed");
        }
    }

    fn dir_of(&self, agent: &AgentKey) -> PathBuf {
        let peer = [agent.peer.tenant.as_str(), &agent.peer.cluster].join("\0");
        let peer = xxhash_rust::xxh3::xxh3_128(peer.as_bytes());
        self.dir.join(format!("{peer:032x}-{:032x}", agent.queue_id))
    }

    fn path(&self, agent: &AgentKey, key: &SegmentKey) -> PathBuf {
        self.dir_of(agent).join(format!("{:032x}-{:020}.dict", key.incarnation, key.first))
    }
}

/// The incarnation and first block that a log's name says.
fn name_of(path: &Path) -> Option<(u128, u64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".dict")?;
    let (incarnation, first) = name.split_once('-')?;
    Some((u128::from_str_radix(incarnation, 16).ok()?, first.parse().ok()?))
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 8);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// The sound records at the front of a log, and where they end. `None` when its header is not sound, or
/// not `key`'s.
fn read_frames(bytes: &[u8], key: Option<&SegmentKey>) -> Option<(Vec<Frame>, usize)> {
    let (header, mut rest) = bytes.split_at_checked(HEADER_LEN)?;
    let (content, checksum) = header.split_last_chunk::<4>()?;
    if !content.starts_with(&MAGIC)
        || content[8] != VERSION[0]
        || crc32c::crc32c(content) != u32::from_le_bytes(*checksum)
    {
        return None;
    }
    if let Some(key) = key
        && (content[10..26] != key.queue_id.to_le_bytes()
            || content[26..42] != key.incarnation.to_le_bytes()
            || content[42..50] != key.first.to_le_bytes())
    {
        return None;
    }
    let mut frames = Vec::new();
    while let Some((frame, after)) = read_frame(rest) {
        frames.push(frame);
        rest = after;
    }
    Some((frames, bytes.len() - rest.len()))
}

fn read_frame(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len);
    if len > FRAME_BYTES_MAX {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(len as usize)?;
    if crc32c::crc32c(payload) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let mut cursor = Cursor::new(payload);
    let frame = match cursor.byte().ok()? {
        DICTIONARY => {
            let index = cursor.small().ok()?;
            let needs = index.checked_sub(cursor.small().ok()?)?;
            Frame::Dictionary { index, needs, packed: cursor.rest().to_vec() }
        }
        STORED => {
            let mut blocks = Vec::new();
            for _ in 0..cursor.count(2).ok()? {
                let first = cursor.varint().ok()?;
                blocks.push((first, first.checked_add(cursor.varint().ok()?)?));
            }
            Frame::Stored(blocks)
        }
        _ => return None,
    };
    Some((frame, rest))
}

#[cfg(test)]
mod tests {
    use model::TenantId;
    use stdx::disk::{FakeDisk, Survivors};

    use super::*;
    use crate::ship::Peer;

    #[test]
    fn a_log_comes_back_up_to_where_it_is_sound() {
        let disk = FakeDisk::new(Path::new("/hub"));
        let logs = Logs::new(disk.shared(), "/hub/fleet".into());
        let peer = Peer { tenant: TenantId::default(), cluster: "harbour".to_owned() };
        let agent = AgentKey { peer, queue_id: 7 };
        let key = SegmentKey { queue_id: 7, incarnation: 8, first: 100 };
        logs.append_dictionary(&agent, &key, (0, 0), b"first").expect("written");
        logs.sync().expect("synced");
        let mut blocks = Intervals::new();
        blocks.insert(100, 102);
        logs.append_stored(&agent, &key, &blocks);
        logs.append_dictionary(&agent, &key, (3, 1), b"second").expect("written");
        let dictionary =
            |index, needs, packed: &[u8]| Frame::Dictionary { index, needs, packed: packed.into() };
        let first = dictionary(0, 0, b"first");
        let frames = logs.read(&agent, &key, 0).expect("read");
        let all = [first, Frame::Stored(vec![(100, 102)]), dictionary(3, 1, b"second")];
        assert_eq!(frames, all);
        assert_eq!(logs.stored(&agent, 8).expect("read").iter().collect::<Vec<_>>(), [(100, 102)]);
        assert_eq!(logs.stored(&agent, 9).expect("read").len(), 0);

        let cut = disk.after_power_cut(Survivors::Nothing);
        let after = Logs::new(cut.shared(), "/hub/fleet".into());
        assert_eq!(after.read(&agent, &key, 0).expect("read"), all[..1]);
        let (path, len) = cut.files().pop().expect("the log");
        assert!(cut.flip_byte(&path, len - 1));
        assert_eq!(after.read(&agent, &key, 0).expect("read"), []);
        after.append_dictionary(&agent, &key, (0, 0), b"again").expect("written");
        assert_eq!(after.read(&agent, &key, 0).expect("read"), [dictionary(0, 0, b"again")]);
        after.sync().expect("synced");
        after.remove_unused(1000, 1000);
        assert_eq!(cut.files().len(), 1);
        after.remove_unused(1001, 1000);
        assert_eq!(cut.files(), []);

        logs.retain(&agent, &[(8, 100)]);
        assert_eq!(disk.files().len(), 1);
        logs.retain(&agent, &[(8, 101)]);
        assert_eq!(disk.files(), []);
    }
}
