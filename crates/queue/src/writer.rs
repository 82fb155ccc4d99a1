//! The writing end: one for each queue.

use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;
use stdx::disk::AppendFile;

use crate::block::{BlockKey, BlockMeta, HEADER_LEN, Header, salt};
use crate::error::QueueError;
use crate::queue::{Queue, Shared};
use crate::segment::{Segment, Start, file_name};
use crate::sync::SyncHandle;

/// Writes blocks. How an encoder uses it stands in the crate's documentation.
#[derive(Debug)]
pub struct Writer {
    queue: Queue,
    open: Option<OpenFile>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct OpenFile {
    number: u64,
    first: u64,
    created_ms: i64,
    /// Where the next block begins.
    end: u64,
    file: Box<dyn AppendFile>,
}

impl Writer {
    pub(crate) fn new(queue: Queue) -> Writer {
        Writer { queue, open: None, buffer: Vec::new() }
    }

    /// The queue that it writes to.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Whether the encoder should rotate before the next block: the segment is old or large enough, or
    /// somebody asked for it.
    pub fn due(&self) -> bool {
        let shared = &*self.queue.0;
        let Some(open) = &self.open else { return false };
        let options = &shared.options;
        let age_ms = shared.clock.now_ms().saturating_sub(open.created_ms);
        // A clock that was set back makes it due as well: its age is unknown then.
        open.end >= options.segment_bytes_max.min(shared.bounds().0 / 4)
            || u128::from(age_ms.unsigned_abs()) >= options.segment_age_max.as_millis()
            || shared.state().rotation_wanted
    }

    /// Whether the next block is the first one of a segment, so that it must not refer to any before it.
    pub fn fresh(&self) -> bool {
        self.open.is_none()
    }

    /// The number that the next block gets.
    pub fn next_block(&self) -> u64 {
        self.queue.next_block()
    }

    /// The first block of the segment that the next block goes to.
    pub fn segment_first(&self) -> u64 {
        self.open.as_ref().map_or_else(|| self.next_block(), |open| open.first)
    }

    /// Ends the segment; the next block begins another one. Nothing when it is fresh already.
    pub fn rotate(&mut self) {
        self.queue.0.state().rotation_wanted = false;
        if let Some(mut open) = self.open.take() {
            self.queue.0.end_segment(&mut open, false);
        }
    }

    /// Writes a block. When it returns, the block survives the death of the process, not yet a power cut.
    ///
    /// # Errors
    /// Nothing of the block is in the queue, its number is not used, and the segment is over
    /// ([`Writer::fresh`]), except for [`QueueError::TooLarge`] and [`QueueError::Floor`], which change nothing.
    pub fn write(&mut self, meta: &BlockMeta, payload: &[u8]) -> Result<BlockKey, QueueError> {
        let shared = Arc::clone(&self.queue.0);
        shared.check_writable()?;
        let bytes_max = shared.options.block_bytes_max;
        if payload.len() > bytes_max {
            return Err(QueueError::TooLarge { bytes: payload.len(), bytes_max });
        }
        let block = self.next_block();
        let first = self.segment_first();
        if !(first..=block).contains(&meta.floor) {
            return Err(QueueError::Floor { block, floor: meta.floor, first });
        }
        shared.make_room((HEADER_LEN + payload.len()) as u64);
        let header = Header {
            block,
            meta: *meta,
            payload_len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            payload_crc: crc32c::crc32c(payload),
        };
        self.buffer.clear();
        header.encode(salt(shared.incarnation), &mut self.buffer);
        self.buffer.extend_from_slice(payload);
        let mut open = match self.open.take() {
            Some(open) => open,
            None => shared.begin_segment(block)?,
        };
        if let Err(error) = open.file.write_all(&self.buffer) {
            let path = shared.segment_path(open.number);
            shared.end_segment(&mut open, true);
            return Err(QueueError::io("write", path)(error));
        }
        shared.publish(&mut open, &header);
        self.open = Some(open);
        shared.tell_of_write();
        Ok(BlockKey { queue_id: shared.id, incarnation: shared.incarnation, block })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.rotate();
    }
}

impl Shared {
    fn begin_segment(&self, first: u64) -> Result<OpenFile, QueueError> {
        let number = {
            let mut state = self.state();
            state.next_segment += 1;
            state.next_segment - 1
        };
        let path = self.segments_dir().join(file_name(number));
        let start = Start {
            queue_id: self.id,
            incarnation: self.incarnation,
            number,
            first,
            created_ms: self.clock.now_ms(),
        };
        let mut file = self.disk.create(&path).map_err(QueueError::io("create", &path))?;
        let ready = file
            .write_all(&start.encode())
            .map_err(QueueError::io("write", &path))
            .and_then(|()| self.disk.open_append(&path).map_err(QueueError::io("open", &path)));
        let handle = match ready {
            Ok(handle) => handle,
            Err(error) => {
                // What stays when this fails too has no sound header, and the next open removes it.
                let _ = self.disk.remove_file(&path);
                return Err(error);
            }
        };
        let segment = Segment::begin(&start, path);
        let open = OpenFile { number, first, created_ms: start.created_ms, end: segment.end, file };
        let mut state = self.state();
        state.segments.insert(number, segment);
        state.unsynced.push(SyncHandle { segment: number, ended: false, file: Arc::new(Mutex::new(handle)) });
        state.names_unsynced = true;
        state.rotation_wanted = false;
        Ok(open)
    }

    fn publish(&self, open: &mut OpenFile, header: &Header) {
        let now_ms = self.clock.now_ms();
        let mut state = self.state();
        if let Some(segment) = state.segments.get_mut(&open.number) {
            segment.push(header, open.end);
            segment.written_ms = now_ms;
        }
        open.end += header.total_len();
        state.next_block = header.block + 1;
    }

    /// Writes the footer, if it can, and closes the segment. After a write that `failed` its rest is cut off.
    fn end_segment(&self, open: &mut OpenFile, failed: bool) {
        let path = self.segment_path(open.number);
        let sound = !failed || self.disk.truncate(&path, open.end).is_ok();
        let footer = self
            .state()
            .segments
            .get(&open.number)
            .map(|segment| segment.footer(self.id))
            .unwrap_or_default();
        // Without a footer the segment is read through at the next open: nothing is lost.
        let written = sound && open.file.write_all(&footer).is_ok();
        let mut state = self.state();
        if let Some(segment) = state.segments.get_mut(&open.number) {
            segment.ended = true;
            if written {
                segment.bytes = open.end + footer.len() as u64;
            }
        }
        if let Some(handle) = state.unsynced.iter_mut().find(|handle| handle.segment == open.number) {
            handle.ended = true;
        }
    }
}
