//! Reads the blocks of one segment.

use model::{Exemplar, Histogram, Labels, Metadata, SourceId, stale_nan};
use stdx::bytes::Cursor;
use storage::{Account, Policy};

use super::bases::{Bases, Run};
use super::dictionary::{COLUMNS_MAX, Dictionary, Limits};
use super::readings::{Readings, SourceReader, Widths};
use super::rows::{
    ACCOUNT_BYTES_MIN, CLEAR, EXEMPLARS, HISTOGRAMS, MARKERS, RESERVED, SHAPE_BITS, SHAPE_EXPECTED,
    SHAPE_KNOWN, SHAPE_NEW, STARTS, policy_of, read_account, read_exemplars, read_histograms, read_metadata,
    read_runs, read_starts, skip_histograms, skip_runs, skip_starts,
};
use super::values::{read_change, read_mask, skip_change, skip_mask};
use super::{Block, BlockError, Header, Packed, ROWS_MAX, SAMPLES_MAX, unpack};

/// Most bytes of symbols in the dictionary of a segment.
const SYMBOL_BYTES_MAX: usize = 256 << 20;
/// Most sources in a segment.
const SOURCES_MAX: usize = 1 << 20;
/// Most columns in a segment, free places of its sources included.
pub(super) const SEGMENT_COLUMNS_MAX: usize = 16 << 20;

/// Hears what a segment's dictionary says.
pub trait Definitions {
    /// The next source: its number in the segment (they count from 0), its identity and labels.
    ///
    /// # Errors
    /// Whatever makes reading the segment pointless.
    fn source(&mut self, source: u32, id: SourceId, labels: &Labels) -> Result<(), BlockError>;

    /// A column of a source, and all labels of its series.
    ///
    /// # Errors
    /// Whatever makes reading the segment pointless.
    fn column(&mut self, source: u32, column: u32, labels: Labels) -> Result<(), BlockError>;
}

/// Hears what a block says, in order.
pub trait Visit: Definitions {
    /// A batch begins. `number` is its number within the incarnation of the queue.
    fn batch(&mut self, number: u64, policy: Policy);

    /// A row of the present batch.
    fn row(&mut self, row: &DecodedRow<'_>);

    /// Metadata of the present batch.
    fn metadata(&mut self, source: u32, metric: &str, metadata: Metadata);

    /// An account of the present batch; its source is the number in the segment.
    fn account(&mut self, account: Account);
}

/// A row as it stands in a block.
#[derive(Debug)]
pub struct DecodedRow<'a> {
    /// Number of the source in the segment.
    pub source: u32,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    runs: &'a [Run],
    /// One value for each of [`DecodedRow::columns`].
    pub values: &'a [f64],
    /// Histograms with their columns.
    pub histograms: &'a [(u32, Histogram)],
    /// Start timestamps, milliseconds, with their columns.
    pub starts: &'a [(u32, i64)],
    /// Exemplars with their columns.
    pub exemplars: &'a [(u32, Exemplar)],
}

impl DecodedRow<'_> {
    /// The columns of `values`: ranges, in order.
    pub fn columns(&self) -> impl Iterator<Item = std::ops::Range<u32>> {
        self.runs.iter().map(|run| run.first..run.first + run.len)
    }
}

/// Reads the blocks of one segment, in order.
///
/// It may begin at the first block; or, knowing the dictionary of the blocks before
/// ([`Decoder::learn_packed`]), at the floor of the block wanted ([`Decoder::read_context`]). Copies of a queue
/// read at their own places, each beside the others.
#[derive(Debug, Default)]
pub struct Decoder {
    dictionary: Dictionary,
    widths: Widths,
    /// Blocks whose additions to the dictionary are known: those before this one.
    learned: u32,
    readings: Readings,
    /// Set by an error in the middle of a block: nothing more can be read.
    broken: Option<BlockError>,
    room: Room,
}

/// Memory used again from row to row.
#[derive(Debug, Default)]
struct Room {
    unpacked: Vec<u8>,
    changed: Vec<u32>,
    runs: Vec<Run>,
    values: Vec<f64>,
    histograms: Vec<(u32, Histogram)>,
    exemplars: Vec<(u32, Exemplar)>,
}

impl Decoder {
    /// A decoder that knows nothing of its segment.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// The additions of blocks before this one, by number in the segment, are known.
    pub fn learned(&self) -> u32 {
        self.learned
    }

    /// The rows of the blocks from the first up to before the second have been read, without a gap, and
    /// lately; `None` when reading has not begun.
    pub fn position(&self) -> Option<(u32, u32)> {
        self.readings.latest()
    }

    /// Takes in the additions of block `index`, as [`Block::packed_dictionary`] gave them: the next
    /// one, or a later one if those between have none.
    ///
    /// # Errors
    /// [`BlockError`]; nothing more can be read then.
    pub fn learn_packed(
        &mut self,
        index: u32,
        packed: &[u8],
        definitions: &mut dyn Definitions,
    ) -> Result<(), BlockError> {
        self.check()?;
        if index < self.learned {
            return Ok(());
        }
        let unpacked = match zstd::zstd_safe::get_frame_content_size(packed) {
            Ok(Some(size)) if size <= super::UNPACKED_BYTES_MAX as u64 => size as usize,
            _ => return Err(self.break_with(BlockError::Malformed("a dictionary cannot be unpacked"))),
        };
        self.learn(index, Packed { bytes: packed, unpacked }, definitions)
    }

    fn learn(
        &mut self,
        index: u32,
        packed: Packed<'_>,
        definitions: &mut dyn Definitions,
    ) -> Result<(), BlockError> {
        if !packed.bytes.is_empty() {
            let mut bytes = std::mem::take(&mut self.room.unpacked);
            let mut learner = Learner { widths: &mut self.widths, inner: definitions };
            let limits = Limits { symbol_bytes: SYMBOL_BYTES_MAX, sources: SOURCES_MAX };
            let done =
                unpack(packed, &mut bytes).and_then(|()| self.dictionary.learn(&bytes, limits, &mut learner));
            self.room.unpacked = bytes;
            done.map_err(|error| self.break_with(error))?;
        }
        self.learned = index + 1;
        Ok(())
    }

    /// Whether reading has not begun, or goes on at a block with this header.
    pub fn follows(&self, header: &Header) -> bool {
        self.position().is_none() || self.readings.go_on_at(header.index).is_some()
    }

    /// Whether [`Decoder::read`] can read a block with this header now.
    ///
    /// # Errors
    /// [`BlockError::NeedsContext`] says where to begin, if it cannot.
    pub fn check_ready(&self, header: &Header) -> Result<(), BlockError> {
        self.check()?;
        if header.dictionary > self.learned {
            return Err(BlockError::NeedsContext { from: self.learned });
        }
        if header.back == 0 || self.readings.go_on_at(header.index).is_some_and(|from| from <= header.floor())
        {
            return Ok(());
        }
        Err(BlockError::NeedsContext { from: header.floor() })
    }

    /// Reads a block: what it adds to the dictionary, if that is new, and everything else.
    ///
    /// # Errors
    /// [`BlockError::NeedsContext`]: nothing has happened. Others: nothing more can be read.
    pub fn read(&mut self, block: &Block<'_>, visit: &mut dyn Visit) -> Result<(), BlockError> {
        self.check_ready(&block.header)?;
        if block.header.index >= self.learned {
            self.learn(block.header.index, block.dictionary, visit)?;
        }
        self.read_body(block, Some(visit))
    }

    /// Reads a block for the bases only. Rows of sources that have not been cleared since reading
    /// began are passed over.
    ///
    /// # Errors
    /// As [`Decoder::read`]; [`BlockError::NeedsContext`] only where the dictionary lacks blocks before.
    pub fn read_context(
        &mut self,
        block: &Block<'_>,
        definitions: &mut dyn Definitions,
    ) -> Result<(), BlockError> {
        self.check()?;
        if block.header.dictionary > self.learned {
            return Err(BlockError::NeedsContext { from: self.learned });
        }
        if block.header.index >= self.learned {
            self.learn(block.header.index, block.dictionary, definitions)?;
        }
        self.read_body(block, None)
    }

    fn check(&self) -> Result<(), BlockError> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    fn break_with(&mut self, error: BlockError) -> BlockError {
        self.broken = Some(error.clone());
        error
    }

    fn read_body(&mut self, block: &Block<'_>, visit: Option<&mut dyn Visit>) -> Result<(), BlockError> {
        let sources = self.readings.turn_to(block.header.index, &self.widths);
        let mut room = std::mem::take(&mut self.room);
        let mut bytes = std::mem::take(&mut room.unpacked);
        let done = unpack(block.body, &mut bytes).and_then(|()| {
            let mut body = Body {
                header: block.header,
                streams: Streams::default(),
                samples: 0,
                source: 0,
                is_heard: visit.is_some(),
            };
            body.read(&bytes, sources, &mut room, visit)
        });
        room.unpacked = bytes;
        // A large block leaves no large memory behind.
        if room.unpacked.capacity() > 1 << 20 {
            room.unpacked = Vec::new();
        }
        self.room = room;
        done.map_err(|error| self.break_with(error))?;
        self.readings.has_read(block.header.index);
        Ok(())
    }
}

/// Notes how many columns the dictionary defines, on the way to who wants to hear of it.
struct Learner<'a> {
    widths: &'a mut Widths,
    inner: &'a mut dyn Definitions,
}

impl Definitions for Learner<'_> {
    fn source(&mut self, source: u32, id: SourceId, labels: &Labels) -> Result<(), BlockError> {
        self.widths.of_sources.push(0);
        self.inner.source(source, id, labels)
    }

    fn column(&mut self, source: u32, column: u32, labels: Labels) -> Result<(), BlockError> {
        let Widths { of_sources, columns } = &mut *self.widths;
        let width = &mut of_sources[source as usize];
        let wanted = column as usize + 1;
        if wanted > COLUMNS_MAX {
            return Err(BlockError::Limit { what: "columns in a source", max: COLUMNS_MAX });
        }
        if wanted > *width as usize {
            *columns += wanted - *width as usize;
            if *columns > SEGMENT_COLUMNS_MAX {
                return Err(BlockError::Limit { what: "columns", max: SEGMENT_COLUMNS_MAX });
            }
            *width = wanted as u32;
        }
        self.inner.column(source, column, labels)
    }
}

#[derive(Debug, Default)]
struct Streams<'a> {
    heads: Cursor<'a>,
    masks: Cursor<'a>,
    values: Cursor<'a>,
    extras: Cursor<'a>,
    metadata: Cursor<'a>,
    accounts: Cursor<'a>,
}

struct Body<'a> {
    header: Header,
    streams: Streams<'a>,
    samples: usize,
    /// The source of the row before.
    source: i64,
    /// Somebody wants to hear the rows.
    is_heard: bool,
}

/// A row's head, read.
struct Head {
    source: usize,
    bits: u8,
    time: i64,
}

impl<'a> Body<'a> {
    fn read(
        &mut self,
        bytes: &'a [u8],
        sources: &mut [SourceReader],
        room: &mut Room,
        mut visit: Option<&mut dyn Visit>,
    ) -> Result<(), BlockError> {
        let mut cursor = Cursor::new(bytes);
        let base_ms = cursor.zigzag()?;
        if self.header.batches as usize > cursor.rest().len() / 4 {
            return Err(BlockError::Malformed("it has too many batches"));
        }
        let mut batches = Vec::with_capacity(self.header.batches as usize);
        for _ in 0..self.header.batches {
            let policy = policy_of(cursor.byte()?)?;
            batches.push((policy, cursor.varint()?, cursor.varint()?, cursor.varint()?));
        }
        self.streams = Streams::read(&mut cursor)?;
        let rows: u64 = batches.iter().fold(0, |sum, batch| batch.1.saturating_add(sum));
        if rows != u64::from(self.header.rows) || rows > ROWS_MAX as u64 {
            return Err(BlockError::Malformed("its rows are not as many as it says"));
        }
        for (number, (policy, rows, metadata, accounts)) in (self.header.first_batch..).zip(batches) {
            if let Some(visit) = &mut visit {
                visit.batch(number, policy);
            }
            for _ in 0..rows {
                self.row(base_ms, sources, room, &mut visit)?;
            }
            // The statements of a context block have been heard.
            let Some(visit) = &mut visit else { continue };
            self.statements(base_ms, metadata, accounts, sources.len(), *visit)?;
        }
        if visit.is_some() && !self.streams.are_empty() {
            return Err(BlockError::Malformed("bytes follow its rows"));
        }
        Ok(())
    }

    fn statements(
        &mut self,
        base_ms: i64,
        metadata: u64,
        accounts: u64,
        sources: usize,
        visit: &mut dyn Visit,
    ) -> Result<(), BlockError> {
        const FOREIGN: BlockError = BlockError::Malformed("a statement is about no source");
        for _ in 0..metadata {
            let (source, metric, metadata) = read_metadata(&mut self.streams.metadata)?;
            if source as usize >= sources {
                return Err(FOREIGN);
            }
            visit.metadata(source, metric, metadata);
        }
        if accounts > (self.streams.accounts.rest().len() / ACCOUNT_BYTES_MIN) as u64 {
            return Err(BlockError::Malformed("a count is past the end"));
        }
        for _ in 0..accounts {
            let account = read_account(&mut self.streams.accounts, base_ms)?;
            if account.source().0 >= sources as u64 {
                return Err(FOREIGN);
            }
            visit.account(account);
        }
        Ok(())
    }

    fn row(
        &mut self,
        base_ms: i64,
        sources: &mut [SourceReader],
        room: &mut Room,
        visit: &mut Option<&mut dyn Visit>,
    ) -> Result<(), BlockError> {
        let head = self.head(sources.len())?;
        let source = &mut sources[head.source];
        if head.bits & CLEAR != 0 {
            source.bases.clear();
            source.is_known = true;
        }
        if !source.is_known {
            return match visit {
                Some(_) => Err(BlockError::Malformed("its floor is too high")),
                None => self.skip_row(&head),
            };
        }
        let bases = &mut source.bases;
        let known = match head.bits & SHAPE_BITS {
            _ if head.bits & MARKERS != 0 => None,
            SHAPE_EXPECTED => Some(bases.next_shape),
            SHAPE_KNOWN => Some(self.streams.heads.varint()? as usize),
            SHAPE_NEW => None,
            _ => return Err(BlockError::Malformed("a row's head is unknown")),
        };
        let expected_ms = bases.expected_ms(known, base_ms);
        let timestamp_ms = expected_ms.wrapping_add(head.time);
        self.samples += self.columns_and_values(&head, known, bases, room, timestamp_ms)?;
        bases.last_ms = Some(timestamp_ms);
        self.extras(&head, bases, room, timestamp_ms)?;
        self.samples += room.histograms.len();
        if self.samples > SAMPLES_MAX {
            return Err(BlockError::Malformed("it has too many samples"));
        }
        if let Some(visit) = visit {
            let runs = known.and_then(|at| bases.shapes.get(at)).map_or(&room.runs[..], |shape| &shape.runs);
            visit.row(&DecodedRow {
                source: head.source as u32,
                timestamp_ms,
                runs,
                values: &room.values,
                histograms: &room.histograms,
                starts: if head.bits & STARTS != 0 { &bases.starts } else { &[] },
                exemplars: &room.exemplars,
            });
        }
        Ok(())
    }

    fn head(&mut self, sources: usize) -> Result<Head, BlockError> {
        let heads = &mut self.streams.heads;
        self.source = self.source.wrapping_add(heads.zigzag()?);
        let source = usize::try_from(self.source).ok().filter(|at| *at < sources);
        let source = source.ok_or(BlockError::Malformed("a row belongs to no source"))?;
        let bits = heads.byte()?;
        if bits & RESERVED != 0 || (bits & MARKERS != 0 && bits & SHAPE_BITS != 0) {
            return Err(BlockError::Malformed("a row's head is unknown"));
        }
        Ok(Head { source, bits, time: heads.zigzag()? })
    }

    /// Reads the columns into `room.runs`, unless the shape is known, and the values, if somebody hears
    /// them; how many columns.
    fn columns_and_values(
        &mut self,
        head: &Head,
        known: Option<usize>,
        bases: &mut Bases,
        room: &mut Room,
        timestamp_ms: i64,
    ) -> Result<usize, BlockError> {
        room.values.clear();
        room.changed.clear();
        let columns = match known {
            Some(at) => {
                let shape = bases.shapes.get(at);
                shape.ok_or(BlockError::Malformed("a row has a shape that was not"))?.columns
            }
            None => read_runs(&mut self.streams.heads, bases.values.len(), &mut room.runs)?,
        };
        if self.samples + columns > SAMPLES_MAX {
            return Err(BlockError::Malformed("it has too many samples"));
        }
        if head.bits & MARKERS != 0 {
            room.values.resize(columns, stale_nan());
            return Ok(columns);
        }
        read_mask(&mut self.streams.masks, columns, &mut room.changed)?;
        let runs = known.map_or(&room.runs[..], |at| &bases.shapes[at].runs);
        let (values, exponents) = (&mut bases.values, &mut bases.exponents);
        let mut changed = room.changed.iter().map(|at| *at as usize).peekable();
        let mut start = 0;
        for run in runs {
            let end = start + run.len as usize;
            let first = run.first as usize;
            while let Some(at) = changed.next_if(|at| *at < end) {
                let column = first + at - start;
                read_change(&mut self.streams.values, &mut values[column], &mut exponents[column])?;
            }
            if self.is_heard {
                room.values.extend(values[run.range()].iter().map(|bits| f64::from_bits(*bits)));
            }
            start = end;
        }
        match known {
            Some(at) => bases.use_shape(at, timestamp_ms),
            None => bases.add_shape(&room.runs, timestamp_ms),
        }
        Ok(columns)
    }

    fn extras(
        &mut self,
        head: &Head,
        bases: &mut Bases,
        room: &mut Room,
        timestamp_ms: i64,
    ) -> Result<(), BlockError> {
        room.histograms.clear();
        room.exemplars.clear();
        let columns = bases.values.len();
        let extras = &mut self.streams.extras;
        if head.bits & HISTOGRAMS != 0 {
            read_histograms(extras, bases, columns, &mut room.histograms)?;
        }
        if head.bits & STARTS != 0 {
            read_starts(extras, bases, columns, timestamp_ms)?;
        }
        if head.bits & EXEMPLARS != 0 {
            read_exemplars(extras, columns, timestamp_ms, &mut room.exemplars)?;
        }
        Ok(())
    }

    /// Passes over the rest of a row whose bases are not known.
    fn skip_row(&mut self, head: &Head) -> Result<(), BlockError> {
        let streams = &mut self.streams;
        if head.bits & MARKERS != 0 || head.bits & SHAPE_BITS == SHAPE_NEW {
            skip_runs(&mut streams.heads)?;
        } else if head.bits & SHAPE_BITS == SHAPE_KNOWN {
            streams.heads.varint()?;
        }
        if head.bits & MARKERS == 0 {
            let changes = skip_mask(&mut streams.masks)?;
            for _ in 0..changes {
                skip_change(&mut streams.values)?;
            }
        }
        if head.bits & HISTOGRAMS != 0 {
            skip_histograms(&mut streams.extras)?;
        }
        if head.bits & STARTS != 0 {
            skip_starts(&mut streams.extras)?;
        }
        if head.bits & EXEMPLARS != 0 {
            read_exemplars(&mut streams.extras, COLUMNS_MAX, 0, &mut Vec::new())?;
        }
        Ok(())
    }
}

impl<'a> Streams<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Streams<'a>, BlockError> {
        let mut lengths = [0usize; 6];
        for length in &mut lengths {
            *length = cursor.count(1)?;
        }
        let mut stream = |at: usize| cursor.take(lengths[at]).map(Cursor::new);
        let streams = Streams {
            heads: stream(0)?,
            masks: stream(1)?,
            values: stream(2)?,
            extras: stream(3)?,
            metadata: stream(4)?,
            accounts: stream(5)?,
        };
        if cursor.is_empty() { Ok(streams) } else { Err(BlockError::Malformed("bytes follow its streams")) }
    }

    fn are_empty(&self) -> bool {
        let all = [&self.heads, &self.masks, &self.values, &self.extras, &self.metadata, &self.accounts];
        all.iter().all(|stream| stream.is_empty())
    }
}
