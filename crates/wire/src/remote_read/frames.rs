//! The reader's end of an answer of chunks: bytes as they come, frames when they are whole.
//!
//! Source: Prometheus `storage/remote/chunked.go` (`ChunkedReader`).

use model::Labels;

use super::{ChunkRead, START_TIMES, WARNINGS, push, utf8};
use crate::proto::{DecodeError, Fields};
use crate::remote_read::ReadError;

/// Longest frame that is taken. Source: Prometheus `DefaultChunkedReadLimit`.
const FRAME_BYTES_MAX: usize = 50_000_000;
/// A length takes at most so many bytes.
const LENGTH_BYTES_MAX: usize = 10;
const CHECKSUM_BYTES: usize = 4;
const WARNINGS_FIELD: u32 = WARNINGS as u32;
const START_TIMES_FIELD: u32 = START_TIMES as u32;
/// Most labels of a series, series of a frame and chunks of a series.
const ITEMS_MAX: usize = 1 << 20;
/// Most warnings that are kept, and the most characters of one.
const WARNINGS_MAX: usize = 20;
const WARNING_CHARS_MAX: usize = 1000;

/// One series of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkFrame {
    /// Index of the query in the request.
    pub query: u64,
    /// The whole set.
    pub labels: Labels,
    /// Its chunks in this frame; the next frames may hold more of it.
    pub chunks: Vec<ChunkRead>,
}

/// An answer that cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length of a frame is not a number that frames have.
    #[error("a frame of {0} bytes is longer than the {FRAME_BYTES_MAX} that are taken")]
    TooLong(u64),
    /// The length of a frame is no varint.
    #[error("a frame begins with a malformed length")]
    Length,
    /// The bytes are not those that were sent.
    #[error("the checksum of a frame does not match")]
    Checksum,
    /// What is in the frame.
    #[error(transparent)]
    Malformed(#[from] ReadError),
    /// The answer ends within a frame.
    #[error("the answer ends within a frame")]
    Truncated,
}

impl From<DecodeError> for FrameError {
    fn from(error: DecodeError) -> FrameError {
        FrameError::Malformed(error.into())
    }
}

/// Puts frames together from pieces of a stream. Holds at most one frame and one piece.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// What of the buffer has been read.
    read: usize,
    /// What the frames so far say the answer lacks; the first of it.
    pub warnings: Vec<String>,
}

impl FrameReader {
    /// Takes the next piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(piece);
    }

    /// Bytes held that are not frames yet.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.read
    }

    /// The series of the next whole frame, appended to `out`; false when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]; nothing more can be read then.
    pub fn next(&mut self, out: &mut Vec<ChunkFrame>) -> Result<bool, FrameError> {
        let rest = &self.buffer[self.read..];
        let Some((len, head)) = length(rest)? else { return Ok(false) };
        let Some(message) = rest.get(head + CHECKSUM_BYTES..head + CHECKSUM_BYTES + len) else {
            return Ok(false);
        };
        if crc32c::crc32c(message).to_be_bytes() != rest[head..head + CHECKSUM_BYTES] {
            return Err(FrameError::Checksum);
        }
        decode(message, out, &mut self.warnings)?;
        self.read += head + CHECKSUM_BYTES + len;
        Ok(true)
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when it did so within a frame.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.read == self.buffer.len() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

/// The length of a frame and the bytes it takes; `None` when it is not whole yet.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut len = 0u64;
    for (at, byte) in bytes.iter().take(LENGTH_BYTES_MAX).enumerate() {
        len |= u64::from(byte & 0x7f).checked_shl(7 * at as u32).ok_or(FrameError::Length)?;
        if byte & 0x80 == 0 {
            let fits = usize::try_from(len).ok().filter(|len| *len <= FRAME_BYTES_MAX);
            return fits.map(|len| Some((len, at + 1))).ok_or(FrameError::TooLong(len));
        }
    }
    if bytes.len() >= LENGTH_BYTES_MAX { Err(FrameError::Length) } else { Ok(None) }
}

fn decode(message: &[u8], out: &mut Vec<ChunkFrame>, warnings: &mut Vec<String>) -> Result<(), FrameError> {
    let (first, mut query) = (out.len(), 0);
    let mut fields = Fields::of(message, "ChunkedReadResponse");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => {
                let series = decode_series(value.bytes(&fields)?)?;
                push(out, series, "series", first + ITEMS_MAX)?;
            }
            2 => query = value.uint64(&fields)?,
            WARNINGS_FIELD if warnings.len() < WARNINGS_MAX => {
                let warning = String::from_utf8_lossy(value.bytes(&fields)?);
                warnings.push(warning.chars().take(WARNING_CHARS_MAX).collect());
            }
            _ => {}
        }
    }
    out[first..].iter_mut().for_each(|series| series.query = query);
    Ok(())
}

fn decode_series(message: &[u8]) -> Result<ChunkFrame, ReadError> {
    let (mut labels, mut chunks) = (Vec::new(), Vec::new());
    let mut fields = Fields::of(message, "ChunkedSeries");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => push(&mut labels, decode_label(value.bytes(&fields)?)?, "labels", ITEMS_MAX)?,
            2 => push(&mut chunks, decode_chunk(value.bytes(&fields)?)?, "chunks", ITEMS_MAX)?,
            _ => {}
        }
    }
    Ok(ChunkFrame { query: 0, labels: Labels::from_pairs(labels), chunks })
}

fn decode_label(message: &[u8]) -> Result<(&str, &str), ReadError> {
    let mut label = ("", "");
    let mut fields = Fields::of(message, "Label");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => label.0 = utf8(value.bytes(&fields)?, "a label name")?,
            2 => label.1 = utf8(value.bytes(&fields)?, "a label value")?,
            _ => {}
        }
    }
    Ok(label)
}

fn decode_chunk(message: &[u8]) -> Result<ChunkRead, ReadError> {
    let mut chunk = ChunkRead { min_ms: 0, max_ms: 0, encoding: 0, data: Vec::new(), starts: Vec::new() };
    let mut fields = Fields::of(message, "Chunk");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => chunk.min_ms = value.int64(&fields)?,
            2 => chunk.max_ms = value.int64(&fields)?,
            // An encoding that no byte can name is none that is known.
            3 => chunk.encoding = u8::try_from(value.uint64(&fields)?).unwrap_or(0),
            4 => chunk.data = value.bytes(&fields)?.to_vec(),
            START_TIMES_FIELD => chunk.starts = value.bytes(&fields)?.to_vec(),
            _ => {}
        }
    }
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{write_chunk_frame, write_warnings_frame};
    use super::*;

    fn series(number: u64) -> ChunkFrame {
        let chunk = |n: u64| ChunkRead {
            min_ms: -(n as i64),
            max_ms: n as i64 * 1000,
            encoding: (n % 3) as u8 + 1,
            data: vec![n as u8; n as usize * 7],
            starts: vec![7; n as usize % 3],
        };
        ChunkFrame {
            query: number % 2,
            labels: Labels::from_pairs([("__name__", "up"), ("instance", &number.to_string())]),
            chunks: (0..number % 4).map(chunk).collect(),
        }
    }

    proptest! {
        #[test]
        fn frames_come_back_however_the_stream_is_cut(cuts in prop::collection::vec(1usize..60, 1..40)) {
            let sent: Vec<ChunkFrame> = (0..20).map(series).collect();
            let mut bytes = Vec::new();
            for one in &sent {
                write_chunk_frame(&mut bytes, one.query as usize, &one.labels, &one.chunks);
                write_warnings_frame(&mut bytes, &[format!("page {} is damaged", one.labels)]);
            }
            let (mut reader, mut got, mut rest) = (FrameReader::default(), Vec::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                reader.push(piece);
                while reader.next(&mut got).expect("frames") {}
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(reader.end(), Ok(()));
            prop_assert_eq!(got, sent);
            prop_assert_eq!(reader.warnings.len(), WARNINGS_MAX);
            prop_assert!(reader.warnings[1].ends_with("instance=\"1\"} is damaged"), "{:?}", reader.warnings);
        }

        #[test]
        fn foreign_bytes_are_refused_or_wait(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut reader, mut got) = (FrameReader::default(), Vec::new());
            reader.push(&bytes);
            while let Ok(true) = reader.next(&mut got) {}
        }
    }

    #[test]
    fn what_is_no_answer_is_told() {
        let mut whole = Vec::new();
        write_chunk_frame(&mut whole, 0, &series(3).labels, &series(3).chunks);
        let mut flipped = whole.clone();
        *flipped.last_mut().expect("bytes") ^= 1;
        for (name, bytes, expected) in [
            ("a flipped bit", flipped, "the checksum of a frame does not match"),
            ("a cut frame", whole[..whole.len() - 1].to_vec(), "the answer ends within a frame"),
            ("a length without end", vec![0xff; 10], "a frame begins with a malformed length"),
            (
                "a long frame",
                vec![0xff, 0xff, 0xff, 0xff, 0x0f],
                "a frame of 4294967295 bytes is longer than the 50000000 that are taken",
            ),
        ] {
            let (mut reader, mut got) = (FrameReader::default(), Vec::new());
            reader.push(&bytes);
            let outcome = loop {
                match reader.next(&mut got) {
                    Ok(true) => {}
                    Ok(false) => break reader.end(),
                    Err(error) => break Err(error),
                }
            };
            assert_eq!(outcome.expect_err(name).to_string(), expected, "{name}");
        }
    }
}
