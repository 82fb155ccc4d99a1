//! What a log record says, to bytes and back. The bytes are drawn in `docs/formats/wal.md`.

use std::collections::HashMap;
use std::sync::Arc;

use model::histogram::Histogram;
use model::{Exemplar, Labels, MatchOp, Matcher, Metadata, MetricType};
use smallvec::SmallVec;
use stdx::bytes::{Cursor, Malformed, put_bytes, put_varint, put_zigzag};
use storage::{BlockKey, SeriesRef};

use super::values::{decode_changes, encode_changes};
use crate::part::histograms::{decode_histogram, encode_histogram};

pub(crate) const KIND_BATCH: u8 = 1;
pub(crate) const KIND_CHECKPOINT: u8 = 2;
pub(crate) const KIND_DELETE: u8 = 3;
/// The version of all record kinds.
pub(crate) const VERSION: u8 = 1;

const SECTION_KEY: u8 = 1;
const SECTION_SOURCES: u8 = 2;
const SECTION_SERIES: u8 = 3;
const SECTION_SERIES_ZSTD: u8 = 4;
const SECTION_ROWS: u8 = 5;
const SECTION_HISTOGRAMS: u8 = 6;
const SECTION_STARTS: u8 = 7;
const SECTION_EXEMPLARS: u8 = 8;
const SECTION_METADATA: u8 = 9;
/// Sections from here on may be skipped by a reader that does not know them.
const SECTION_OPTIONAL: u8 = 128;

const UNIT_MILLISECONDS: u8 = 0;
const COLUMN_FLOAT: u8 = 0;

const ROW_FULL: u8 = 1;
const ROW_REPLACE: u8 = 2;

/// Lanes from here on are of late rows (but for the last number, which is no lane at all): what the store
/// keeps apart from the others, and may write to parts sooner.
pub const LATE_LANES: u32 = 1 << 31;
/// The lane number of late rows that nothing is a difference to.
pub const LATE_LOOSE: u32 = u32::MAX - 1;
/// The lane number of other rows that nothing is a difference to.
pub const NO_LANE: u32 = u32::MAX;

/// Definitions longer than this are compressed, bytes.
const COMPRESS_FROM: usize = 1024;
/// Definitions of one record unpack to no more than this, bytes.
const DEFINITIONS_BYTES_MAX: usize = 256 << 20;

/// A record that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are whole (their checksum holds) but make no sense.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    /// A kind, version or required section that this program does not know.
    #[error("{what} {number} is not known to this version")]
    Unknown {
        /// What is unknown.
        what: &'static str,
        /// Its number.
        number: u8,
    },
}

impl From<Malformed> for RecordError {
    fn from(Malformed(reason): Malformed) -> Self {
        RecordError::Malformed(reason)
    }
}

/// What the log keeps of the row before, for one lane of a source: where differences start.
#[derive(Debug, Clone, Default)]
pub struct LaneLog {
    /// The segment in which the columns were last stated; 0 for none.
    pub segment: u64,
    /// Rows since then.
    pub rows: u32,
    /// Bit patterns of the last row.
    pub previous: SmallVec<[u64; 2]>,
}

/// A full row is repeated after this many differences, so that damage does not cost a whole segment.
const FULL_ROW_EVERY: u32 = 256;

/// Builds the record of one batch.
#[derive(Debug, Default)]
pub struct BatchEncoder {
    tenant: String,
    key: Option<BlockKey>,
    sources: (usize, Vec<u8>),
    series: SeriesDefs,
    rows: (usize, Vec<u8>),
    base_ms: i64,
    histograms: (usize, Vec<u8>),
    starts: (usize, Vec<u8>),
    exemplars: (usize, Vec<u8>),
    metadata: (usize, Vec<u8>),
    changed: Vec<u32>,
}

#[derive(Debug, Default)]
struct SeriesDefs {
    count: usize,
    last: u64,
    bytes: Vec<u8>,
}

impl BatchEncoder {
    /// Empties the encoder for a batch of `tenant`.
    pub fn begin(&mut self, tenant: &str, key: Option<BlockKey>) {
        self.tenant.clear();
        self.tenant.push_str(tenant);
        self.key = key;
        for (count, bytes) in [
            &mut self.sources,
            &mut self.rows,
            &mut self.histograms,
            &mut self.starts,
            &mut self.exemplars,
            &mut self.metadata,
        ] {
            *count = 0;
            bytes.clear();
        }
        self.series.count = 0;
        self.series.last = 0;
        self.series.bytes.clear();
    }

    /// Whether nothing has been added, not even a key.
    pub fn is_empty(&self) -> bool {
        self.key.is_none()
            && self.series.count == 0
            && [&self.sources, &self.rows, &self.histograms, &self.starts, &self.exemplars, &self.metadata]
                .iter()
                .all(|(count, _)| *count == 0)
    }

    /// Defines a source.
    pub fn source(&mut self, source: u64, id: u128, labels: &Labels) {
        self.sources.0 += 1;
        let out = &mut self.sources.1;
        put_varint(out, source);
        out.extend_from_slice(&id.to_le_bytes());
        put_bytes(out, labels.as_bytes());
    }

    /// Defines a series.
    pub fn series(&mut self, series: u64, labels: &Labels) {
        self.series.count += 1;
        put_series(&mut self.series.bytes, &mut self.series.last, series);
        self.series.bytes.push(COLUMN_FLOAT);
        put_bytes(&mut self.series.bytes, labels.as_bytes());
    }

    /// Bytes of series definitions so far, before compression.
    pub fn definition_bytes(&self) -> usize {
        self.series.bytes.len()
    }

    /// Adds a row of `lane`, as a difference to `log` when that is from this `segment` and
    /// `same_columns` says that `series` is what it was then.
    pub fn row(&mut self, row: &RowToLog<'_>, same_columns: bool, segment: u64, log: &mut LaneLog) {
        let (count, out) = (&mut self.rows.0, &mut self.rows.1);
        if *count == 0 {
            self.base_ms = row.timestamp_ms;
            out.push(UNIT_MILLISECONDS);
            put_zigzag(out, row.timestamp_ms);
        }
        *count += 1;
        let full = !same_columns
            || log.segment != segment
            || log.previous.len() != row.values.len()
            || log.rows >= FULL_ROW_EVERY;
        put_varint(out, row.source);
        put_varint(out, u64::from(row.lane));
        put_zigzag(out, row.timestamp_ms.wrapping_sub(self.base_ms));
        out.push(if full { ROW_FULL } else { 0 } | if row.replace { ROW_REPLACE } else { 0 });
        if full {
            put_varint(out, row.series.len() as u64);
            let mut last = 0;
            for series in row.series {
                put_series(out, &mut last, series.0);
            }
            log.segment = segment;
            log.rows = 0;
            log.previous.clear();
            log.previous.reserve_exact(row.values.len());
            log.previous.resize(row.values.len(), 0);
        }
        log.rows += 1;
        encode_changes(row.values, &mut log.previous, &mut self.changed, out);
    }

    /// Adds a histogram, as a difference to `previous` (of the same series and segment).
    pub fn histogram(&mut self, sample: &HistogramToLog<'_>, previous: Option<&Histogram>) {
        self.histograms.0 += 1;
        let out = &mut self.histograms.1;
        put_varint(out, sample.source);
        put_varint(out, sample.series);
        put_zigzag(out, sample.timestamp_ms);
        out.push(
            if previous.is_none() { ROW_FULL } else { 0 } | if sample.replace { ROW_REPLACE } else { 0 },
        );
        let mut bytes = Vec::new();
        encode_histogram(sample.histogram, previous, &mut bytes);
        put_bytes(out, &bytes);
    }

    /// Adds a start timestamp that holds from `timestamp_ms` on.
    pub fn start(&mut self, series: u64, timestamp_ms: i64, start_ms: i64) {
        self.starts.0 += 1;
        put_varint(&mut self.starts.1, series);
        put_zigzag(&mut self.starts.1, timestamp_ms);
        put_zigzag(&mut self.starts.1, start_ms);
    }

    /// Adds an exemplar.
    pub fn exemplar(&mut self, series: u64, exemplar: &Exemplar) {
        self.exemplars.0 += 1;
        let out = &mut self.exemplars.1;
        put_varint(out, series);
        put_bytes(out, exemplar.labels.as_bytes());
        out.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
        put_zigzag(out, exemplar.timestamp_ms);
    }

    /// Adds a metadata statement.
    pub fn metadata(&mut self, metric: &str, metadata: &Metadata) {
        self.metadata.0 += 1;
        let out = &mut self.metadata.1;
        for text in [metric, metadata.metric_type.as_str(), &metadata.unit, &metadata.help] {
            put_bytes(out, text.as_bytes());
        }
    }

    /// The record.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[KIND_BATCH, VERSION]);
        put_bytes(out, self.tenant.as_bytes());
        if let Some(key) = self.key {
            let mut bytes = Vec::with_capacity(42);
            bytes.extend_from_slice(&key.queue_id.to_le_bytes());
            bytes.extend_from_slice(&key.incarnation.to_le_bytes());
            put_varint(&mut bytes, key.block);
            out.push(SECTION_KEY);
            put_bytes(out, &bytes);
        }
        put_section(out, SECTION_SOURCES, self.sources.0, &self.sources.1);
        self.finish_series(out);
        for (tag, (count, bytes)) in [
            (SECTION_ROWS, &self.rows),
            (SECTION_HISTOGRAMS, &self.histograms),
            (SECTION_STARTS, &self.starts),
            (SECTION_EXEMPLARS, &self.exemplars),
            (SECTION_METADATA, &self.metadata),
        ] {
            put_section(out, tag, *count, bytes);
        }
    }

    fn finish_series(&self, out: &mut Vec<u8>) {
        if self.series.bytes.len() >= COMPRESS_FROM
            && let Ok(packed) = zstd::bulk::compress(&self.series.bytes, 1)
        {
            let mut bytes = Vec::with_capacity(packed.len() + 5);
            put_varint(&mut bytes, self.series.bytes.len() as u64);
            bytes.extend_from_slice(&packed);
            put_section(out, SECTION_SERIES_ZSTD, self.series.count, &bytes);
        } else {
            put_section(out, SECTION_SERIES, self.series.count, &self.series.bytes);
        }
    }
}

fn put_section(out: &mut Vec<u8>, tag: u8, count: usize, bytes: &[u8]) {
    if count > 0 {
        out.push(tag);
        put_bytes(out, bytes);
    }
}

/// Series references are two counters side by side: each as the difference to the one before.
fn put_series(out: &mut Vec<u8>, last: &mut u64, series: u64) {
    let halves = |v: u64| ((v >> 32) as i64, (v & 0xffff_ffff) as i64);
    let ((slot, generation), (last_slot, last_generation)) = (halves(series), halves(*last));
    put_zigzag(out, slot - last_slot);
    put_zigzag(out, generation - last_generation);
    *last = series;
}

/// A reference of a series that is out of range.
const NO_SERIES: Malformed = Malformed("a series is out of range");

fn read_series(cursor: &mut Cursor<'_>, last: &mut u64) -> Result<u64, Malformed> {
    let mut half = |last: u64| {
        let value = (last as i64).checked_add(cursor.zigzag()?).ok_or(NO_SERIES)?;
        u32::try_from(value).map_err(|_| NO_SERIES)
    };
    let slot = half(*last >> 32)?;
    let generation = half(*last & 0xffff_ffff)?;
    *last = u64::from(slot) << 32 | u64::from(generation);
    Ok(*last)
}

/// A row of floats on its way into the log.
#[derive(Debug, Clone, Copy)]
pub struct RowToLog<'a> {
    /// The source.
    pub source: u64,
    /// Which of its lanes.
    pub lane: u32,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Whether the values replace others at this time.
    pub replace: bool,
    /// The columns.
    pub series: &'a [SeriesRef],
    /// Their values.
    pub values: &'a [f64],
}

/// A histogram on its way into the log.
#[derive(Debug, Clone, Copy)]
pub struct HistogramToLog<'a> {
    /// The source.
    pub source: u64,
    /// The column.
    pub series: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Whether it replaces another sample at this time.
    pub replace: bool,
    /// The sample.
    pub histogram: &'a Histogram,
}

/// The blocks of one queue that have been taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenBlocks {
    /// Whose.
    pub tenant: String,
    /// The queue's random name.
    pub queue_id: u128,
    /// The sending process' random name.
    pub incarnation: u128,
    /// Inclusive ranges of block numbers, ascending, apart.
    pub blocks: Vec<(u64, u64)>,
}

/// Appends a checkpoint record to `out`.
pub fn encode_checkpoint(taken: &[TakenBlocks], out: &mut Vec<u8>) {
    out.extend_from_slice(&[KIND_CHECKPOINT, VERSION]);
    put_varint(out, taken.len() as u64);
    for entry in taken {
        put_bytes(out, entry.tenant.as_bytes());
        out.extend_from_slice(&entry.queue_id.to_le_bytes());
        out.extend_from_slice(&entry.incarnation.to_le_bytes());
        put_varint(out, entry.blocks.len() as u64);
        for (first, last) in &entry.blocks {
            put_varint(out, *first);
            put_varint(out, last - first);
        }
    }
}

/// Appends a deletion to `out`.
pub fn encode_delete(tenant: &str, matchers: &[Matcher], start_ms: i64, end_ms: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[KIND_DELETE, VERSION]);
    put_bytes(out, tenant.as_bytes());
    put_zigzag(out, start_ms);
    put_zigzag(out, end_ms);
    put_matchers(matchers, out);
}

/// Appends matchers: count, then operator, name and value of each.
pub(crate) fn put_matchers(matchers: &[Matcher], out: &mut Vec<u8>) {
    put_varint(out, matchers.len() as u64);
    for matcher in matchers {
        out.push(match matcher.op {
            MatchOp::Equal => 0,
            MatchOp::NotEqual => 1,
            MatchOp::Regex => 2,
            MatchOp::NotRegex => 3,
        });
        put_bytes(out, matcher.name.as_bytes());
        put_bytes(out, matcher.value.as_bytes());
    }
}

pub(crate) fn read_matchers(cursor: &mut Cursor<'_>) -> Result<Vec<Matcher>, Malformed> {
    let count = cursor.count(1)?;
    let mut matchers = Vec::with_capacity(count);
    for _ in 0..count {
        let op = match cursor.byte()? {
            0 => MatchOp::Equal,
            1 => MatchOp::NotEqual,
            2 => MatchOp::Regex,
            3 => MatchOp::NotRegex,
            _ => return Err(Malformed("an unknown kind of matcher")),
        };
        let (name, value) = (cursor.text()?, cursor.text()?);
        matchers.push(
            Matcher::new(op, name, value)
                .map_err(|_| Malformed("a matcher's regular expression is wrong"))?,
        );
    }
    Ok(matchers)
}

/// A record.
#[derive(Debug)]
pub enum Record {
    /// Rows and what belongs to them.
    Batch(BatchRecord),
    /// What is known at the head of a segment.
    Checkpoint(Vec<TakenBlocks>),
    /// A deletion.
    Delete(DeleteRecord),
}

/// A deletion.
#[derive(Debug)]
pub struct DeleteRecord {
    /// Whose data.
    pub tenant: String,
    /// Which series.
    pub matchers: Vec<Matcher>,
    /// First deleted timestamp.
    pub start_ms: i64,
    /// Last deleted timestamp.
    pub end_ms: i64,
}

/// A batch without its definitions, which are read beforehand ([`read_definitions`]).
#[derive(Debug, Default)]
pub struct BatchRecord {
    /// Whose rows.
    pub tenant: String,
    /// The exactly-once key.
    pub key: Option<BlockKey>,
    /// Floats.
    pub rows: Vec<LoggedRow>,
    /// Rows left out because the row they are a difference to was lost.
    pub rows_lost: usize,
    /// Histograms.
    pub histograms: Vec<LoggedHistogram>,
    /// (series, from when, start timestamp).
    pub starts: Vec<(u64, i64, i64)>,
    /// (series, exemplar).
    pub exemplars: Vec<(u64, Exemplar)>,
    /// (metric, metadata).
    pub metadata: Vec<(String, Metadata)>,
}

/// A row of floats from the log.
#[derive(Debug, Clone)]
pub struct LoggedRow {
    /// The source.
    pub source: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Whether the values replace others.
    pub replace: bool,
    /// Whether it is of a late lane ([`LATE_LANES`]).
    pub late: bool,
    /// The columns; rows of a lane share them.
    pub series: Arc<[SeriesRef]>,
    /// Their values.
    pub values: Vec<f64>,
}

/// A histogram from the log.
#[derive(Debug, Clone)]
pub struct LoggedHistogram {
    /// The source.
    pub source: u64,
    /// The column.
    pub series: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Whether it replaces another sample.
    pub replace: bool,
    /// The sample.
    pub histogram: Arc<Histogram>,
}

/// Definitions found in a record.
#[derive(Debug, Default)]
pub struct Definitions {
    /// Whose.
    pub tenant: String,
    /// (reference, identity, labels).
    pub sources: Vec<(u64, u128, Labels)>,
    /// (reference, labels).
    pub series: Vec<(u64, Labels)>,
}

/// Definitions of a record, not taken apart yet.
#[derive(Debug, Default)]
pub(crate) struct PackedDefinitions {
    tenant: String,
    sources: Vec<u8>,
    /// Without compression, one section each.
    series: Vec<Vec<u8>>,
}

impl PackedDefinitions {
    /// What they say.
    pub(crate) fn read(&self) -> Result<Definitions, RecordError> {
        let mut found = Definitions { tenant: self.tenant.clone(), ..Definitions::default() };
        read_sources(&self.sources, &mut found.sources)?;
        self.series.iter().try_for_each(|section| read_series_definitions(section, &mut found.series))?;
        Ok(found)
    }
}

/// Finds and unpacks the definitions of a record; `None` when it has none.
pub(crate) fn unpack_definitions(payload: &[u8]) -> Result<Option<PackedDefinitions>, RecordError> {
    let mut cursor = Cursor::new(payload);
    if read_kind(&mut cursor)? != KIND_BATCH {
        return Ok(None);
    }
    let mut found = PackedDefinitions { tenant: cursor.text()?.to_owned(), ..PackedDefinitions::default() };
    while !cursor.is_empty() {
        let (tag, section) = (cursor.byte()?, cursor.bytes()?);
        match tag {
            SECTION_SOURCES => found.sources.extend_from_slice(section),
            SECTION_SERIES => found.series.push(section.to_vec()),
            SECTION_SERIES_ZSTD => {
                let mut packed = Cursor::new(section);
                let len = packed.at_most(DEFINITIONS_BYTES_MAX)?;
                let bytes = zstd::bulk::decompress(packed.rest(), len)
                    .map_err(|_| Malformed("definitions cannot be decompressed"))?;
                found.series.push(bytes);
            }
            _ => {}
        }
    }
    Ok((!found.sources.is_empty() || !found.series.is_empty()).then_some(found))
}

/// Reads only the definitions of a record; `None` when it has none.
///
/// # Errors
/// See [`RecordError`].
pub fn read_definitions(payload: &[u8]) -> Result<Option<Definitions>, RecordError> {
    unpack_definitions(payload)?.map(|packed| packed.read()).transpose()
}

fn read_kind(cursor: &mut Cursor<'_>) -> Result<u8, RecordError> {
    let (kind, version) = (cursor.byte()?, cursor.byte()?);
    if version != VERSION {
        return Err(RecordError::Unknown { what: "record version", number: version });
    }
    Ok(kind)
}

fn read_sources(section: &[u8], out: &mut Vec<(u64, u128, Labels)>) -> Result<(), RecordError> {
    let mut cursor = Cursor::new(section);
    while !cursor.is_empty() {
        out.push((cursor.varint()?, cursor.u128_le()?, read_labels(cursor.bytes()?)?));
    }
    Ok(())
}

fn read_series_definitions(section: &[u8], out: &mut Vec<(u64, Labels)>) -> Result<(), RecordError> {
    let mut cursor = Cursor::new(section);
    let mut last = 0;
    while !cursor.is_empty() {
        let series = read_series(&mut cursor, &mut last)?;
        let kind = cursor.byte()?;
        if kind != COLUMN_FLOAT {
            return Err(RecordError::Unknown { what: "column kind", number: kind });
        }
        out.push((series, read_labels(cursor.bytes()?)?));
    }
    Ok(())
}

fn read_labels(bytes: &[u8]) -> Result<Labels, Malformed> {
    Labels::from_bytes(bytes).ok_or(Malformed("labels are not sorted or not UTF-8"))
}

/// Reads the records of one segment in turn, remembering what rows are differences to.
#[derive(Debug, Default)]
pub struct Decoder {
    lanes: HashMap<(u64, u64), DecodedLane, foldhash::fast::RandomState>,
    histograms: HashMap<u64, Arc<Histogram>, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct DecodedLane {
    series: Arc<[SeriesRef]>,
    values: Vec<u64>,
}

impl Decoder {
    /// Forgets all rows: after a gap, differences mean nothing.
    pub fn forget(&mut self) {
        self.lanes.clear();
        self.histograms.clear();
    }

    /// Reads a record.
    ///
    /// # Errors
    /// See [`RecordError`]; the decoder then has to [`forget`](Self::forget).
    pub fn read(&mut self, payload: &[u8]) -> Result<Record, RecordError> {
        let mut cursor = Cursor::new(payload);
        match read_kind(&mut cursor)? {
            KIND_BATCH => Ok(Record::Batch(self.read_batch(&mut cursor)?)),
            KIND_CHECKPOINT => Ok(Record::Checkpoint(read_checkpoint(&mut cursor)?)),
            KIND_DELETE => Ok(Record::Delete(DeleteRecord {
                tenant: cursor.text()?.to_owned(),
                start_ms: cursor.zigzag()?,
                end_ms: cursor.zigzag()?,
                matchers: read_matchers(&mut cursor)?,
            })),
            number => Err(RecordError::Unknown { what: "record kind", number }),
        }
    }

    fn read_batch(&mut self, cursor: &mut Cursor<'_>) -> Result<BatchRecord, RecordError> {
        let mut batch = BatchRecord { tenant: cursor.text()?.to_owned(), ..BatchRecord::default() };
        while !cursor.is_empty() {
            let (tag, bytes) = (cursor.byte()?, cursor.bytes()?);
            let mut section = Cursor::new(bytes);
            match tag {
                SECTION_KEY => {
                    batch.key = Some(BlockKey {
                        queue_id: section.u128_le()?,
                        incarnation: section.u128_le()?,
                        block: section.varint()?,
                    });
                }
                SECTION_SOURCES | SECTION_SERIES | SECTION_SERIES_ZSTD => {}
                SECTION_ROWS => self.read_rows(&mut section, &mut batch)?,
                SECTION_HISTOGRAMS => self.read_histograms(&mut section, &mut batch)?,
                SECTION_STARTS => {
                    while !section.is_empty() {
                        batch.starts.push((section.varint()?, section.zigzag()?, section.zigzag()?));
                    }
                }
                SECTION_EXEMPLARS => {
                    while !section.is_empty() {
                        let series = section.varint()?;
                        let labels = read_labels(section.bytes()?)?;
                        let value = f64::from_bits(section.u64_le()?);
                        let timestamp_ms = section.zigzag()?;
                        batch.exemplars.push((series, Exemplar { labels, value, timestamp_ms }));
                    }
                }
                SECTION_METADATA => read_metadata(&mut section, &mut batch.metadata)?,
                SECTION_OPTIONAL.. => {}
                number => return Err(RecordError::Unknown { what: "record section", number }),
            }
        }
        Ok(batch)
    }

    fn read_rows(&mut self, cursor: &mut Cursor<'_>, batch: &mut BatchRecord) -> Result<(), RecordError> {
        let unit = cursor.byte()?;
        if unit != UNIT_MILLISECONDS {
            return Err(RecordError::Unknown { what: "time unit", number: unit });
        }
        let base_ms = cursor.zigzag()?;
        while !cursor.is_empty() {
            let (source, lane) = (cursor.varint()?, cursor.varint()?);
            let timestamp_ms = base_ms.wrapping_add(cursor.zigzag()?);
            let flags = cursor.byte()?;
            if flags & ROW_FULL != 0 {
                let count = cursor.count(1)?;
                let mut last = 0;
                let series: Result<Arc<[SeriesRef]>, Malformed> =
                    (0..count).map(|_| read_series(cursor, &mut last).map(SeriesRef)).collect();
                self.lanes.insert((source, lane), DecodedLane { series: series?, values: vec![0; count] });
            }
            let late = (u64::from(LATE_LANES)..u64::from(NO_LANE)).contains(&lane);
            let Some(lane) = self.lanes.get_mut(&(source, lane)) else {
                // How long the row is only its lost predecessor knew: the rest of the section is lost too,
                // and with it what later rows of any lane may be a difference to.
                batch.rows_lost += 1;
                self.lanes.clear();
                return Ok(());
            };
            decode_changes(cursor, &mut lane.values)?;
            batch.rows.push(LoggedRow {
                source,
                timestamp_ms,
                replace: flags & ROW_REPLACE != 0,
                late,
                series: lane.series.clone(),
                values: lane.values.iter().map(|bits| f64::from_bits(*bits)).collect(),
            });
        }
        Ok(())
    }

    fn read_histograms(
        &mut self,
        cursor: &mut Cursor<'_>,
        batch: &mut BatchRecord,
    ) -> Result<(), RecordError> {
        while !cursor.is_empty() {
            let (source, series) = (cursor.varint()?, cursor.varint()?);
            let timestamp_ms = cursor.zigzag()?;
            let flags = cursor.byte()?;
            let bytes = cursor.bytes()?;
            let previous = if flags & ROW_FULL != 0 {
                None
            } else if let Some(previous) = self.histograms.get(&series) {
                Some(previous.clone())
            } else {
                batch.rows_lost += 1;
                continue;
            };
            let mut reader = Cursor::new(bytes);
            let histogram = decode_histogram(&mut reader, previous.as_deref())
                .map_err(|_| Malformed("a histogram contradicts itself"))?;
            let histogram = Arc::new(histogram);
            self.histograms.insert(series, histogram.clone());
            let replace = flags & ROW_REPLACE != 0;
            batch.histograms.push(LoggedHistogram { source, series, timestamp_ms, replace, histogram });
        }
        Ok(())
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, out: &mut Vec<(String, Metadata)>) -> Result<(), RecordError> {
    while !cursor.is_empty() {
        let metric = cursor.text()?.to_owned();
        let metric_type =
            MetricType::parse(cursor.text()?).ok_or(Malformed("metadata has an unknown type"))?;
        let (unit, help) = (cursor.text()?.to_owned(), cursor.text()?.to_owned());
        out.push((metric, Metadata { metric_type, unit, help }));
    }
    Ok(())
}

fn read_checkpoint(cursor: &mut Cursor<'_>) -> Result<Vec<TakenBlocks>, RecordError> {
    let count = cursor.count(1)?;
    let mut taken = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let (tenant, queue_id, incarnation) =
            (cursor.text()?.to_owned(), cursor.u128_le()?, cursor.u128_le()?);
        let count = cursor.count(1)?;
        let mut blocks = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            let first = cursor.varint()?;
            blocks.push((
                first,
                first.checked_add(cursor.varint()?).ok_or(Malformed("blocks end past all numbers"))?,
            ));
        }
        taken.push(TakenBlocks { tenant, queue_id, incarnation, blocks });
    }
    Ok(taken)
}
