//! What agents send: blocks of rows.

use model::{Labels, Metadata, SourceId};
use remote::block::{Block, BlockError, DecodedRow, Decoder, Definitions, Header, Visit, pack};
use storage::{Account, Policy};

/// Counts, and holds a decoder to what it promises.
#[derive(Default)]
struct Listener {
    samples: usize,
}

impl Definitions for Listener {
    fn source(&mut self, _: u32, _: SourceId, labels: &Labels) -> Result<(), BlockError> {
        check_labels(labels);
        Ok(())
    }

    fn column(&mut self, _: u32, _: u32, labels: Labels) -> Result<(), BlockError> {
        check_labels(&labels);
        Ok(())
    }
}

impl Visit for Listener {
    fn batch(&mut self, _: u64, _: Policy) {}

    fn row(&mut self, row: &DecodedRow<'_>) {
        let columns: usize = row.columns().map(|columns| columns.len()).sum();
        assert_eq!(columns, row.values.len(), "a value for each column");
        self.samples += columns;
        assert!(self.samples <= remote::block::SAMPLES_MAX);
    }

    fn metadata(&mut self, _: u32, _: &str, _: Metadata) {}

    fn account(&mut self, _: Account) {}
}

fn check_labels(labels: &Labels) {
    let pairs: Vec<(&str, &str)> = labels.iter().collect();
    assert!(pairs.is_sorted_by(|a, b| a.0 < b.0), "labels are sorted, each once: {labels}");
    assert!(pairs.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()));
}

/// A segment of two blocks from their unpacked parts, and the second one by itself after the first one's
/// dictionary; and the bytes as a packed block.
pub(crate) fn block(bytes: &[u8]) {
    if let Ok(block) = Block::parse(bytes) {
        _ = Decoder::new().read(&block, &mut Listener::default());
    }
    let mut rest = bytes;
    let mut decoder = Decoder::new();
    let mut parts = Vec::new();
    while let Some((head, behind)) = rest.split_first_chunk::<6>() {
        let len = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let (dictionary, behind) = behind.split_at(len(2).min(behind.len()));
        let (body, behind) = behind.split_at(len(4).min(behind.len()));
        let header = Header {
            index: parts.len() as u32,
            batches: u32::from(head[0]),
            rows: u32::from(head[1]),
            samples: 1,
            ..Header::default()
        };
        let Ok(packed) = pack(&header, "harbour", dictionary, body) else { return };
        parts.push(packed);
        rest = behind;
    }
    let blocks: Vec<Block<'_>> = parts.iter().filter_map(|bytes| Block::parse(bytes).ok()).collect();
    for block in &blocks {
        _ = decoder.read(block, &mut Listener::default());
    }
    let mut late = Decoder::new();
    for block in &blocks {
        _ = late.learn_packed(block.header().index, block.packed_dictionary(), &mut Listener::default());
    }
    for block in &blocks {
        _ = late.read_context(block, &mut Listener::default());
    }
}

pub(crate) fn block_seeds() -> Vec<Vec<u8>> {
    let golden = include_bytes!("../../remote/testdata/block-1.0.mgrb");
    let block = Block::parse(golden).expect("the golden block is one");
    let (dictionary, body) = block.unpack().expect("it unpacks");
    let header = block.header();
    let mut parts = vec![header.batches as u8, header.rows as u8];
    parts.extend_from_slice(&(dictionary.len() as u16).to_le_bytes());
    parts.extend_from_slice(&(body.len() as u16).to_le_bytes());
    parts.extend_from_slice(&dictionary);
    parts.extend_from_slice(&body);
    vec![parts, golden.to_vec()]
}
