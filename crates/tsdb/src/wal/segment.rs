//! Segments of the log and the frames in them, and how a damaged one is read.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use stdx::disk::Disk;

use super::record::{KIND_BATCH, KIND_CHECKPOINT, KIND_DELETE, VERSION};

/// First bytes of every segment.
pub const MAGIC: [u8; 8] = *b"MGRAFWAL";
/// A reader refuses segments with a larger major version.
pub const MAJOR: u16 = 1;
/// Minor versions only add what may be skipped.
pub const MINOR: u16 = 1;
/// Length of the segment header, bytes.
pub const HEADER_LEN: usize = 40;
/// Length of a frame's length and checksum, bytes.
pub const FRAME_LEN: usize = 8;
/// No record is longer than this, bytes.
pub const RECORD_BYTES_MAX: usize = 256 << 20;
/// At most this many bytes are read to find the next whole record after damage.
const RESYNC_BYTES_MAX: usize = 1 << 30;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its number, as in its name.
    pub number: u64,
    /// The log position of its first byte.
    pub first_position: u64,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&MAJOR.to_le_bytes());
        bytes[10..12].copy_from_slice(&MINOR.to_le_bytes());
        // 12..16: flags, none yet
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_position.to_le_bytes());
        // 32..36: reserved
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Err(HeaderError::Torn) };
        let crc = u32::from_le_bytes([header[36], header[37], header[38], header[39]]);
        if header[..8] != MAGIC || !crate::checksum::is_intact(&header[..36], crc) {
            return Err(HeaderError::Damaged);
        }
        let major = u16::from_le_bytes([header[8], header[9]]);
        if major > MAJOR {
            return Err(HeaderError::Newer(major));
        }
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
        // Positions behind the first have to exist.
        if number(24).checked_add(bytes.len() as u64).is_none() {
            return Err(HeaderError::Damaged);
        }
        Ok(Header { number: number(16), first_position: number(24) })
    }
}

enum HeaderError {
    Torn,
    Damaged,
    Newer(u16),
}

/// Appends `payload` to `out` as a frame: length, CRC-32C of length and payload, payload.
pub fn put_frame(payload: &[u8], out: &mut Vec<u8>) {
    let len = (payload.len() as u32).to_le_bytes();
    out.extend_from_slice(&len);
    out.extend_from_slice(&frame_crc(len, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

fn frame_crc(len: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len), payload)
}

/// A piece of a segment that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// First unreadable byte.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Whether it is the unfinished end of the log, as a crash leaves it.
    pub torn_tail: bool,
    /// What was found.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, path, offset, len) =
            (if self.torn_tail { "torn tail" } else { "damage" }, self.path.display(), self.offset, self.len);
        write!(f, "{what} in log segment {path}: {} at byte {offset}, {len} bytes lost", self.reason)
    }
}

/// Something found in a segment, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A whole record: its payload's bytes, and the log position behind it.
    Record {
        /// Where in [`Segment::bytes`].
        payload: Range<usize>,
        /// The log position after the record.
        end_position: u64,
    },
    /// Bytes that are no record.
    Gap,
}

/// A segment as read.
#[derive(Debug)]
pub struct Segment {
    /// Its header.
    pub header: Header,
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// What is in it.
    pub found: Vec<Found>,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// Length without a torn tail, bytes.
    pub good_len: u64,
}

/// A segment that cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The disk refused.
    #[error("read log segment {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The header is incomplete or damaged.
    #[error("{0}")]
    Header(Damage),
    /// The segment was written by a newer version.
    #[error("log segment {path} has format {major}, this version reads up to {MAJOR}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its major version.
        major: u16,
    },
}

/// What segment `path` says of itself, if that can be read.
pub(crate) fn read_header(disk: &dyn Disk, path: &Path) -> Option<Header> {
    let mut bytes = [0; HEADER_LEN];
    disk.open_read(path).ok()?.read_exact_at(&mut bytes, 0).ok()?;
    Header::decode(&bytes).ok()
}

/// Reads segment `path`. `last` says that it is the end of the log, which may be torn.
///
/// # Errors
/// See [`SegmentError`].
pub fn read(disk: &dyn Disk, path: &Path, last: bool) -> Result<Segment, SegmentError> {
    let bytes = disk.read(path).map_err(|source| SegmentError::Io { path: path.to_owned(), source })?;
    let header = Header::decode(&bytes).map_err(|error| {
        let damage = |torn_tail, reason: &str| {
            let (path, len) = (path.to_owned(), bytes.len() as u64);
            SegmentError::Header(Damage { path, offset: 0, len, torn_tail, reason: reason.to_owned() })
        };
        match error {
            HeaderError::Torn => damage(last, "incomplete segment header"),
            // A power cut can leave the length of a file without its bytes.
            HeaderError::Damaged if last && bytes.iter().all(|b| *b == 0) => {
                damage(true, "empty segment header")
            }
            HeaderError::Damaged => damage(false, "checksum mismatch in the segment header"),
            HeaderError::Newer(major) => SegmentError::Newer { path: path.to_owned(), major },
        }
    })?;
    let mut segment =
        Segment { header, found: Vec::new(), damage: Vec::new(), good_len: bytes.len() as u64, bytes };
    segment.scan(path, last);
    Ok(segment)
}

impl Segment {
    fn scan(&mut self, path: &Path, last: bool) {
        let mut at = HEADER_LEN;
        let mut budget = RESYNC_BYTES_MAX;
        while at < self.bytes.len() {
            let reason = match frame_at(&self.bytes, at) {
                Ok(payload) => {
                    at = payload.end;
                    let end_position = self.header.first_position + at as u64;
                    self.found.push(Found::Record { payload, end_position });
                    continue;
                }
                Err(reason) => reason,
            };
            let next = resync(&self.bytes, at + 1, &mut budget);
            let torn_tail = last && next.is_none();
            let end = next.unwrap_or(self.bytes.len());
            self.damage.push(Damage {
                path: path.to_owned(),
                offset: at as u64,
                len: (end - at) as u64,
                torn_tail,
                reason: reason.to_owned(),
            });
            self.found.push(Found::Gap);
            if torn_tail {
                self.good_len = at as u64;
            }
            at = end;
        }
    }
}

/// The payload of the frame that starts at `at`, or why there is none.
pub(crate) fn frame_at(bytes: &[u8], at: usize) -> Result<Range<usize>, &'static str> {
    let head = bytes[at..].first_chunk::<FRAME_LEN>().ok_or("incomplete record header")?;
    let len_bytes = [head[0], head[1], head[2], head[3]];
    let len = u32::from_le_bytes(len_bytes) as usize;
    if !(2..=RECORD_BYTES_MAX).contains(&len) {
        return Err("impossible record length");
    }
    let start = at + FRAME_LEN;
    let payload = bytes.get(start..start + len).ok_or("incomplete record")?;
    let stored = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if !crate::checksum::agree(stored, frame_crc(len_bytes, payload)) {
        return Err("checksum mismatch");
    }
    Ok(start..start + len)
}

/// The next place from `from` on where a whole record starts.
fn resync(bytes: &[u8], from: usize, budget: &mut usize) -> Option<usize> {
    (from..bytes.len().saturating_sub(FRAME_LEN + 1)).find(|&at| {
        let plausible = matches!(bytes[at + FRAME_LEN], KIND_BATCH | KIND_CHECKPOINT | KIND_DELETE)
            && bytes[at + FRAME_LEN + 1] == VERSION;
        if !plausible {
            return false;
        }
        let len = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        if len > bytes.len() - at || len > *budget {
            return false;
        }
        *budget -= len;
        frame_at(bytes, at).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Vec<u8>), last: bool) -> (Vec<Vec<u8>>, Vec<String>) {
        let mut bytes = Header { number: 7, first_position: 1000 }.encode().to_vec();
        for fill in 0..3u8 {
            let mut payload = vec![KIND_BATCH, VERSION];
            payload.resize(20, fill);
            put_frame(&payload, &mut bytes);
        }
        change(&mut bytes);
        let mut segment = Segment {
            header: Header { number: 7, first_position: 1000 },
            found: Vec::new(),
            damage: Vec::new(),
            good_len: bytes.len() as u64,
            bytes,
        };
        segment.scan(Path::new("7.wal"), last);
        let records = segment.found.iter().filter_map(|found| match found {
            Found::Record { payload, .. } => Some(segment.bytes[payload.start + 2..payload.end].to_vec()),
            Found::Gap => None,
        });
        (records.collect(), segment.damage.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn damage_is_named_and_reading_goes_on() {
        let whole = |fills: &[u8]| fills.iter().map(|f| vec![*f; 18]).collect::<Vec<_>>();
        assert_eq!(check(|_| {}, true), (whole(&[0, 1, 2]), vec![]));
        assert_eq!(
            check(|bytes| bytes.truncate(bytes.len() - 3), true),
            (
                whole(&[0, 1]),
                vec!["torn tail in log segment 7.wal: incomplete record at byte 96, 25 bytes lost".into()]
            )
        );
        assert_eq!(
            check(|bytes| bytes[80] ^= 1, true),
            (
                whole(&[0, 2]),
                vec!["damage in log segment 7.wal: checksum mismatch at byte 68, 28 bytes lost".into()]
            )
        );
        assert_eq!(
            check(|bytes| bytes[110] ^= 1, false),
            (
                whole(&[0, 1]),
                vec!["damage in log segment 7.wal: checksum mismatch at byte 96, 28 bytes lost".into()]
            )
        );
        assert_eq!(
            check(|bytes| bytes.resize(bytes.len() + 50, 0), true),
            (
                whole(&[0, 1, 2]),
                vec![
                    "torn tail in log segment 7.wal: impossible record length at byte 124, 50 bytes lost"
                        .into()
                ]
            )
        );
    }

    #[test]
    fn headers_go_both_ways() {
        let header = Header { number: 3, first_position: 99 };
        assert!(matches!(Header::decode(&header.encode()), Ok(found) if found == header));
        let mut newer = header.encode();
        newer[8] = 9;
        let crc = crc32c::crc32c(&newer[..36]);
        newer[36..].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(Header::decode(&newer), Err(HeaderError::Newer(9))));
    }
}
