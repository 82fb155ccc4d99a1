//! Records from bytes, but for their definitions.

use std::collections::HashMap;
use std::sync::Arc;

use model::histogram::Histogram;
use model::{Exemplar, Metadata, MetricType};
use stdx::bytes::{Cursor, Malformed};
use storage::{BlockKey, SeriesRef};

use super::definitions::{read_labels, read_series};
use super::{
    BatchRecord, DeleteRecord, KIND_BATCH, KIND_CHECKPOINT, KIND_DELETE, LATE_LANES, LoggedHistogram,
    LoggedRow, NO_LANE, ROW_FULL, ROW_REPLACE, Record, RecordError, SECTION_EXEMPLARS, SECTION_HISTOGRAMS,
    SECTION_KEY, SECTION_METADATA, SECTION_OPTIONAL, SECTION_ROWS, SECTION_SERIES, SECTION_SERIES_ZSTD,
    SECTION_SOURCES, SECTION_STARTS, TakenBlocks, UNIT_MILLISECONDS, read_kind, read_matchers,
};
use crate::part::histograms::decode_histogram;
use crate::wal::values::decode_changes;

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
                        let labels = read_labels(section.bytes()?)?.to_labels();
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
