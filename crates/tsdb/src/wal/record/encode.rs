//! Records to bytes.

use model::histogram::Histogram;
use model::{Exemplar, Labels, Matcher, Metadata};
use smallvec::SmallVec;
use stdx::bytes::{put_bytes, put_varint, put_zigzag};
use storage::{BlockKey, SeriesRef};

use super::definitions::put_series;
use super::{
    COLUMN_FLOAT, KIND_BATCH, KIND_CHECKPOINT, KIND_DELETE, ROW_FULL, ROW_REPLACE, SECTION_EXEMPLARS,
    SECTION_HISTOGRAMS, SECTION_KEY, SECTION_METADATA, SECTION_ROWS, SECTION_SERIES, SECTION_SERIES_ZSTD,
    SECTION_SOURCES, SECTION_STARTS, TakenBlocks, UNIT_MILLISECONDS, VERSION, put_matchers,
};
use crate::part::histograms::encode_histogram;
use crate::wal::values::encode_changes;

/// Definitions longer than this are compressed, bytes.
const COMPRESS_FROM: usize = 1024;

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
