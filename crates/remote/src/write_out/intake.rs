//! Reading the queue: blocks, decoded, to groups. Blocks (the disk may), so it runs beside the runtime.

use std::ops::Range;
use std::sync::Arc;

use model::{Labels, Metadata, SourceId};
use queue::{Block as QueueBlock, Lane, QueueError, Reader};
use storage::{Account, Policy};

use super::feed::{Blocks, Feed, Position};
use super::group::{Group, RowIn};
use super::metrics::{DropReason, RemoteMetrics};
use crate::block::{Block, BlockError, DecodedRow, Decoder, Definitions, Visit};

/// What reading gave.
pub(super) enum Read {
    /// A group, and the blocks that it is made of.
    Group(Group, Blocks),
    /// Nothing yet; with blocks at hand, they become a group at this time, milliseconds since the epoch.
    Nothing(Option<i64>),
}

/// See the module.
pub(super) struct Intake {
    reader: Arc<Reader>,
    feed: Feed,
    segment: Option<Segment>,
    /// Read already, and the first of the next group.
    ahead: Option<QueueBlock>,
    /// Metadata since it was last asked for.
    metadata: Vec<(String, Metadata)>,
    metrics: RemoteMetrics,
    remote: String,
}

/// The segment at hand.
struct Segment {
    incarnation: u128,
    first: u64,
    decoder: Decoder,
    /// Why no more of it can be read.
    broken: Option<BlockError>,
}

impl Intake {
    pub(super) fn new(reader: Arc<Reader>, feed: Feed, metrics: RemoteMetrics, remote: &str) -> Intake {
        let (segment, ahead, metadata) = (None, None, Vec::new());
        Intake { reader, feed, segment, ahead, metadata, metrics, remote: remote.to_owned() }
    }

    /// The metadata that came since the last call.
    pub(super) fn take_metadata(&mut self) -> Vec<(String, Metadata)> {
        std::mem::take(&mut self.metadata)
    }

    /// Reads on, up to the end of a group or of the queue. `now_ms` is wall time.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub(super) fn read(&mut self, points_max: usize, now_ms: i64) -> Result<Read, QueueError> {
        loop {
            let next = match self.ahead.take() {
                Some(block) => Some(block),
                None => self.reader.next(Lane::Live)?,
            };
            let Some(block) = next else {
                let due_ms = self.feed.due_ms();
                if due_ms.is_none_or(|due_ms| due_ms > now_ms) {
                    return Ok(Read::Nothing(due_ms));
                }
                let (group, blocks) = self.feed.close(points_max);
                return Ok(Read::Group(group, blocks));
            };
            if self.feed.ends_before(block.meta.newest_ms) {
                self.ahead = Some(block);
                let (group, blocks) = self.feed.close(points_max);
                return Ok(Read::Group(group, blocks));
            }
            let at = Position { incarnation: block.key.incarnation, block: block.key.block };
            self.feed.begin(at, block.meta.newest_ms);
            self.decode(&block)?;
        }
    }

    /// Decodes a block; one that cannot be decoded is booked.
    fn decode(&mut self, block: &QueueBlock) -> Result<(), QueueError> {
        let same = |segment: &&mut Segment| {
            (segment.incarnation, segment.first) == (block.key.incarnation, block.segment_first)
        };
        if self.segment.as_mut().filter(same).is_none() {
            self.feed.catalog.begin_segment();
            let (incarnation, first) = (block.key.incarnation, block.segment_first);
            self.segment = Some(Segment { incarnation, first, decoder: Decoder::new(), broken: None });
        }
        let Some(mut segment) = self.segment.take() else { return Ok(()) };
        let read = self.decode_in(&mut segment, block);
        let outcome = match read {
            Ok(()) => Ok(()),
            Err(Failed::Queue(error)) => Err(error),
            Err(Failed::Block(error)) => {
                if segment.broken.is_none() {
                    tracing::error!(
                        remote = self.remote, segment = block.segment, block = block.key.block, %error,
                        "rows of the queue cannot be read, from here to the end of the segment"
                    );
                }
                self.metrics.dropped(DropReason::Lost("queue_unreadable"), u64::from(block.meta.samples));
                segment.broken = Some(error);
                Ok(())
            }
        };
        self.segment = Some(segment);
        outcome
    }

    fn decode_in(&mut self, segment: &mut Segment, block: &QueueBlock) -> Result<(), Failed> {
        if let Some(broken) = &segment.broken {
            return Err(Failed::Block(broken.clone()));
        }
        let parsed = Block::parse(&block.payload)?;
        // After a start, or behind blocks that are done with: what they told is needed all the same.
        if let Err(BlockError::NeedsContext { .. }) = segment.decoder.check_ready(parsed.header()) {
            let (floor, index) = (parsed.header().floor(), parsed.header().index);
            let dictionary_from = segment.decoder.learned();
            for number in dictionary_from.min(floor)..index {
                let before = self.reader.read(segment.incarnation, segment.first + u64::from(number))?;
                let missing = BlockError::NeedsContext { from: number };
                let before = before.ok_or(Failed::Block(missing))?;
                let before = Block::parse(&before.payload)?;
                if number >= floor {
                    segment.decoder.read_context(&before, &mut Names(&mut self.feed))?;
                } else if !before.packed_dictionary().is_empty() {
                    let packed = before.packed_dictionary();
                    segment.decoder.learn_packed(number, packed, &mut Names(&mut self.feed))?;
                }
            }
        }
        let mut rows = Rows { feed: &mut self.feed, metadata: &mut self.metadata, columns: Vec::new() };
        Ok(segment.decoder.read(&parsed, &mut rows)?)
    }
}

enum Failed {
    Queue(QueueError),
    Block(BlockError),
}

impl From<QueueError> for Failed {
    fn from(error: QueueError) -> Failed {
        Failed::Queue(error)
    }
}

impl From<BlockError> for Failed {
    fn from(error: BlockError) -> Failed {
        Failed::Block(error)
    }
}

/// Takes a dictionary in.
struct Names<'a>(&'a mut Feed);

impl Definitions for Names<'_> {
    fn source(&mut self, _: u32, id: SourceId, _: &Labels) -> Result<(), BlockError> {
        self.0.catalog.add_source(id);
        Ok(())
    }

    fn column(&mut self, source: u32, column: u32, labels: Labels) -> Result<(), BlockError> {
        self.0.catalog.add_column(source, column, labels);
        Ok(())
    }
}

/// Takes rows in.
struct Rows<'a> {
    feed: &'a mut Feed,
    metadata: &'a mut Vec<(String, Metadata)>,
    /// Used again from row to row.
    columns: Vec<Range<u32>>,
}

impl Definitions for Rows<'_> {
    fn source(&mut self, source: u32, id: SourceId, labels: &Labels) -> Result<(), BlockError> {
        Names(self.feed).source(source, id, labels)
    }

    fn column(&mut self, source: u32, column: u32, labels: Labels) -> Result<(), BlockError> {
        Names(self.feed).column(source, column, labels)
    }
}

impl Visit for Rows<'_> {
    fn batch(&mut self, _: u64, _: Policy) {}

    fn row(&mut self, row: &DecodedRow<'_>) {
        self.columns.clear();
        self.columns.extend(row.columns());
        let row = RowIn {
            source: row.source,
            timestamp_ms: row.timestamp_ms,
            columns: &self.columns,
            values: row.values,
            histograms: row.histograms,
            start_timestamps: row.starts,
            exemplars: row.exemplars,
        };
        self.feed.collector.row(&self.feed.catalog, &row);
    }

    fn metadata(&mut self, source: u32, metric: &str, metadata: Metadata) {
        self.feed.catalog.set_metadata(source, metric, &metadata);
        self.metadata.push((metric.to_owned(), metadata));
    }

    fn account(&mut self, _: Account) {}
}
