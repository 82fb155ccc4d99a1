//! Whole segments, there and back.

use std::collections::BTreeMap;

use model::{Exemplar, Histogram, Labels, Metadata, MetricType, SourceId, stale_nan};
use proptest::prelude::*;
use storage::{Account, EndReason, Failure, Outcome, Policy, Schedule, SourceRef};

use super::bases::Run;
use super::symbols::Symbols;
use super::writer::{BlockWriter, RowColumns, RowParts, SourceWriter};
use super::*;

mod golden;

/// What a decoder said, as text.
#[derive(Debug, Default)]
struct Heard(Vec<String>);

impl Definitions for Heard {
    fn source(&mut self, source: u32, id: SourceId, labels: &Labels) -> Result<(), BlockError> {
        self.0.push(format!("source {source} {} {labels}", id.0));
        Ok(())
    }
    fn column(&mut self, source: u32, column: u32, labels: Labels) -> Result<(), BlockError> {
        self.0.push(format!("column {source}/{column} {labels}"));
        Ok(())
    }
}

impl Visit for Heard {
    fn batch(&mut self, number: u64, policy: Policy) {
        self.0.push(format!("batch {number} {policy:?}"));
    }
    fn row(&mut self, row: &DecodedRow<'_>) {
        let columns: Vec<u32> = row.columns().flatten().collect();
        let values: Vec<u64> = row.values.iter().map(|value| value.to_bits()).collect();
        assert_eq!(columns.len(), values.len());
        self.0.push(format!(
            "row {} at {}: {columns:?} {values:x?} {:?} {:?} {:?}",
            row.source, row.timestamp_ms, row.histograms, row.starts, row.exemplars
        ));
    }
    fn metadata(&mut self, source: u32, metric: &str, metadata: Metadata) {
        self.0.push(format!("metadata {source} {metric} {metadata:?}"));
    }
    fn account(&mut self, account: Account) {
        self.0.push(format!("{account:?}"));
    }
}

/// A source to write, and what the reader should hear of it.
struct Source {
    writer: SourceWriter,
    rows: u32,
    clear_every: u32,
}

struct Segment {
    symbols: Symbols,
    writer: BlockWriter,
    sources: Vec<Source>,
    wanted: Vec<String>,
    blocks: Vec<Vec<u8>>,
    /// What is wanted of each block's rows.
    wanted_of_blocks: Vec<Vec<String>>,
    batches: u64,
    /// Sources in the order of their numbers in the segment.
    order: Vec<usize>,
}

const COLUMNS: u32 = 12;

impl Segment {
    fn new(sources: u32) -> Segment {
        let mut symbols = Symbols::default();
        let source = |at: u32, symbols: &mut Symbols| {
            let labels = Labels::from_pairs([("instance", format!("i{at}")), ("job", "node".into())]);
            let mut writer = SourceWriter::new(SourceId(u128::from(at)), &labels, symbols);
            for column in 0..COLUMNS {
                writer.add_column(column, &labels_of(at, column), symbols);
            }
            Source { writer, rows: 0, clear_every: 1 + at * 3 }
        };
        let sources = (0..sources).map(|at| source(at, &mut symbols)).collect();
        Segment {
            symbols,
            writer: BlockWriter::new("harbour"),
            sources,
            wanted: Vec::new(),
            blocks: Vec::new(),
            wanted_of_blocks: Vec::new(),
            batches: 0,
            order: Vec::new(),
        }
    }

    fn row(&mut self, source: usize, timestamp_ms: i64, row: &AnyRow) {
        let at = &mut self.sources[source];
        let runs: Vec<Run> = row.runs();
        let columns: Vec<u32> = runs.iter().flat_map(|run| run.first..run.first + run.len).collect();
        let clear = at.writer.cleared_in(&self.writer).is_none() || at.rows >= at.clear_every;
        let all_stale = row.markers && !columns.is_empty();
        let values: Vec<f64> = columns
            .iter()
            .map(|at| if all_stale { stale_nan() } else { f64::from_bits(row.values[*at as usize]) })
            .collect();
        let histograms: Vec<(u32, Histogram)> =
            row.histogram.iter().map(|(at, count)| (*at, histogram(*count))).collect();
        let starts: Vec<(u32, i64)> = row.starts.clone();
        let exemplars: Vec<(u32, Exemplar)> = row.exemplar.iter().map(|at| (*at, exemplar(*at))).collect();
        let known = at.writer.bases.shapes.iter().position(|shape| *shape.runs == *runs);
        let parts = RowParts {
            timestamp_ms,
            columns: match known.filter(|_| !clear) {
                _ if all_stale => RowColumns::Markers(&runs),
                Some(shape) => RowColumns::Shape(shape),
                None => RowColumns::Runs(&runs),
            },
            values: if all_stale { &[] } else { &values },
            histograms: &histograms.iter().map(|(at, histogram)| (*at, histogram)).collect::<Vec<_>>(),
            starts: &starts,
            exemplars: &exemplars.iter().map(|(at, exemplar)| (*at, exemplar)).collect::<Vec<_>>(),
        };
        at.rows = if clear { 1 } else { at.rows + 1 };
        self.writer.row(&mut at.writer, &mut self.symbols, &parts, clear);
        let bits: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
        if !self.order.contains(&source) {
            self.order.push(source);
        }
        let number = self.order.iter().position(|other| *other == source).expect("just added");
        self.wanted.push(format!(
            "row {number} at {timestamp_ms}: {columns:?} {bits:x?} {histograms:?} {starts:?} {exemplars:?}"
        ));
    }

    fn finish(&mut self) {
        if self.writer.is_empty() {
            return;
        }
        let (header, block) = self.writer.finish(self.batches).expect("packed");
        self.batches += u64::from(header.batches);
        assert_eq!(header.index as usize, self.blocks.len());
        self.blocks.push(block);
        self.wanted_of_blocks.push(std::mem::take(&mut self.wanted));
    }
}

fn labels_of(source: u32, column: u32) -> Labels {
    let instance = if column == 3 { "elsewhere".to_owned() } else { format!("i{source}") };
    let job = if column == 4 { "" } else { "node" };
    Labels::from_pairs([
        ("__name__", format!("m{}", column / 3)),
        ("instance", instance),
        ("job", job.to_owned()),
        ("z", column.to_string()),
    ])
}

fn histogram(count: u64) -> Histogram {
    let mut histogram = Histogram { sum: count as f64, ..Histogram::stale() };
    histogram.buckets = model::histogram::Buckets::Int {
        count,
        zero_count: 1,
        positive: vec![count as i64, 2],
        negative: Vec::new(),
    };
    histogram
}

fn exemplar(at: u32) -> Exemplar {
    Exemplar { labels: Labels::from_pairs([("trace", at.to_string())]), value: 0.5, timestamp_ms: 7 }
}

#[derive(Debug, Clone)]
struct AnyRow {
    mask: u16,
    values: Vec<u64>,
    markers: bool,
    histogram: Option<(u32, u64)>,
    starts: Vec<(u32, i64)>,
    exemplar: Option<u32>,
}

impl AnyRow {
    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for at in (0..COLUMNS).filter(|at| self.mask >> at & 1 == 1) {
            match runs.last_mut() {
                Some(run) if run.first + run.len == at => run.len += 1,
                _ => runs.push(Run { first: at, len: 1 }),
            }
        }
        // Not in the order of their numbers, now and then.
        if self.values[0].is_multiple_of(3) {
            runs.reverse();
        }
        runs
    }
}

fn any_row() -> impl Strategy<Value = AnyRow> {
    let mask = prop_oneof![Just(0x0fff), Just(0x0fff), Just(0x00f3), 0u16..0x1000];
    let value = prop_oneof![
        any::<u64>(),
        (0i64..5).prop_map(|value| (value as f64).to_bits()),
        (0i64..500).prop_map(|value| (value as f64 / 100.0).to_bits()),
        Just(0),
        Just(model::STALE_NAN_BITS),
    ];
    let values = proptest::collection::vec(value, COLUMNS as usize);
    let histogram = proptest::option::weighted(0.3, (0..COLUMNS, 0u64..1000));
    let starts = prop_oneof![Just(Vec::new()), Just(vec![(1, 5), (3, 9)]), Just(vec![(2, -5)])];
    let exemplar = proptest::option::weighted(0.2, 0..COLUMNS);
    (mask, values, any::<bool>(), histogram, starts, exemplar).prop_map(
        |(mask, values, markers, histogram, starts, exemplar)| AnyRow {
            mask,
            values,
            markers,
            histogram,
            starts,
            exemplar,
        },
    )
}

/// What an encoder may be asked to do.
#[derive(Debug, Clone)]
enum Step {
    Row { source: usize, late_by: i64, policy: Policy, row: AnyRow },
    Finish,
}

fn step() -> impl Strategy<Value = Step> {
    let policy = prop_oneof![Just(Policy::SCRAPE), Just(Policy::SCRAPE), Just(Policy::LINE_PROTOCOL)];
    prop_oneof![
        4 => (0usize..4, -20i64..20, policy, any_row())
            .prop_map(|(source, late_by, policy, row)| Step::Row { source, late_by, policy, row }),
        1 => Just(Step::Finish),
    ]
}

fn written(steps: &[Step]) -> Segment {
    let mut segment = Segment::new(4);
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Row { source, late_by, policy, row } => {
                segment.writer.begin_batch(*policy);
                segment.row(*source, at as i64 * 15_000 - late_by, row);
            }
            Step::Finish => segment.finish(),
        }
    }
    segment.finish();
    segment
}

fn rows_of(heard: Heard) -> Vec<String> {
    heard.0.into_iter().filter(|line| line.starts_with("row")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn segments_come_back(steps in proptest::collection::vec(step(), 1..60)) {
        let segment = written(&steps);
        let mut decoder = Decoder::new();
        for (block, wanted) in segment.blocks.iter().zip(&segment.wanted_of_blocks) {
            let mut heard = Heard::default();
            decoder.read(&Block::parse(block).unwrap(), &mut heard).unwrap();
            prop_assert_eq!(&rows_of(heard), wanted);
        }
    }

    #[test]
    fn reading_can_begin_at_any_floor(steps in proptest::collection::vec(step(), 1..60)) {
        let segment = written(&steps);
        for (at, wanted) in segment.wanted_of_blocks.iter().enumerate() {
            // Another reader knew the dictionary, as a hub that has been started again does.
            let mut decoder = Decoder::new();
            let parsed: Vec<Block<'_>> = segment.blocks.iter().map(|b| Block::parse(b).unwrap()).collect();
            for block in &parsed[..at] {
                if !block.packed_dictionary().is_empty() {
                    decoder.learn_packed(block.header().index, block.packed_dictionary(), &mut Heard::default()).unwrap();
                }
            }
            let floor = parsed[at].header().floor() as usize;
            if floor < at {
                prop_assert_eq!(
                    decoder.check_ready(parsed[at].header()),
                    Err(BlockError::NeedsContext { from: floor as u32 })
                );
            }
            for block in &parsed[floor..at] {
                decoder.read_context(block, &mut Heard::default()).unwrap();
            }
            let mut heard = Heard::default();
            decoder.read(&parsed[at], &mut heard).unwrap();
            prop_assert_eq!(&rows_of(heard), wanted);
        }
    }

    #[test]
    fn damage_is_noticed_and_nonsense_never_panics(
        steps in proptest::collection::vec(step(), 1..20),
        at: proptest::sample::Index,
        bit in 0..8u8,
    ) {
        let segment = written(&steps);
        let Some(block) = segment.blocks.first() else { return Ok(()) };
        let mut bent = block.clone();
        let at = at.index(bent.len());
        bent[at] ^= 1 << bit;
        prop_assert!(Block::parse(&bent).is_err());
        // The checksum put right: whatever the rest says, it is read or refused.
        let end = bent.len() - 4;
        let checksum = crc32c::crc32c(&bent[..end]);
        bent[end..].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(block) = Block::parse(&bent) {
            _ = Decoder::new().read(&block, &mut Heard::default());
        }
    }

    #[test]
    fn foreign_bodies_are_read_or_refused(dictionary: Vec<u8>, body: Vec<u8>, batches in 0u32..3, rows in 0u32..5) {
        let header = Header { batches, rows, samples: 5, ..Header::default() };
        let packed = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
        let block = seal(&header, "", (&packed(&dictionary), dictionary.len()), (&packed(&body), body.len()));
        _ = Decoder::new().read(&Block::parse(&block).unwrap(), &mut Heard::default());
    }
}

#[test]
fn dictionary_and_statements_come_back() {
    let mut segment = Segment::new(2);
    segment.writer.begin_batch(Policy::SCRAPE);
    let metadata =
        Metadata { metric_type: MetricType::Counter, unit: "s".to_owned(), help: "seconds".to_owned() };
    let source = SourceRef(77);
    let accounts = [
        Account::Begin { source, at_ms: 5, schedule: Schedule { interval_ms: 15_000, offset_ms: 3 } },
        Account::Tick { source, tick_ms: 15_003, outcome: Outcome::Scraped { samples: 10, exposed: 12 } },
        Account::Tick { source, tick_ms: 30_003, outcome: Outcome::Failed(Failure::Timeout) },
        Account::Tick { source, tick_ms: 45_003, outcome: Outcome::Skipped },
        Account::End { source, at_ms: 60_000, reason: EndReason::HandedOver },
    ];
    let Segment { writer, sources, symbols, .. } = &mut segment;
    writer.metadata(&mut sources[1].writer, symbols, "m0", &metadata);
    accounts.iter().for_each(|account| writer.account(&mut sources[1].writer, symbols, account));
    segment.finish();
    let mut heard = Heard::default();
    Decoder::new().read(&Block::parse(&segment.blocks[0]).unwrap(), &mut heard).unwrap();
    // The only source that was used is number 0.
    let of_segment = |account: &Account| format!("{account:?}").replace("77", "0");
    let mut wanted =
        vec![format!("source 0 1 {}", Labels::from_pairs([("instance", "i1"), ("job", "node")]))];
    wanted.extend((0..COLUMNS).map(|column| format!("column 0/{column} {}", labels_of(1, column))));
    wanted.push(format!("batch 0 {:?}", Policy::SCRAPE));
    wanted.push(format!("metadata 0 m0 {metadata:?}"));
    wanted.extend(accounts.iter().map(of_segment));
    assert_eq!(heard.0, wanted);
}

/// Blocks of a row each, all of one source whose first row is in the first.
fn a_row_a_block(blocks: u64) -> Segment {
    let steps: Vec<Step> = (0..blocks)
        .flat_map(|at| {
            let row = AnyRow {
                mask: 0x0fff,
                values: vec![at; COLUMNS as usize],
                markers: false,
                histogram: None,
                starts: Vec::new(),
                exemplar: None,
            };
            [Step::Row { source: 3, late_by: 0, policy: Policy::SCRAPE, row }, Step::Finish]
        })
        .collect();
    written(&steps)
}

#[test]
fn copies_of_a_queue_are_read_at_their_own_places() {
    let segment = a_row_a_block(12);
    let parsed: Vec<Block<'_>> = segment.blocks.iter().map(|block| Block::parse(block).unwrap()).collect();
    let mut decoder = Decoder::new();
    parsed[..6].iter().for_each(|block| decoder.read_context(block, &mut Heard::default()).unwrap());
    // Two copies at places of their own, and requests that come twice.
    for (ahead, behind) in (6..11).zip(0..) {
        let mut heard = Heard::default();
        decoder.read(&parsed[ahead], &mut heard).unwrap();
        assert_eq!(rows_of(heard), segment.wanted_of_blocks[ahead]);
        decoder.read_context(&parsed[behind], &mut Heard::default()).unwrap();
        decoder.read_context(&parsed[0], &mut Heard::default()).unwrap();
        assert_eq!(decoder.check_ready(parsed[ahead + 1].header()), Ok(()));
        assert_eq!(decoder.check_ready(parsed[behind + 1].header()), Ok(()));
    }
    // A block behind all of them asks for its floor.
    assert_eq!(decoder.check_ready(parsed[2].header()), Err(BlockError::NeedsContext { from: 0 }));
}

#[test]
fn a_gap_asks_for_what_is_missing() {
    let segment = a_row_a_block(6);
    let parsed: Vec<Block<'_>> = segment.blocks.iter().map(|block| Block::parse(block).unwrap()).collect();
    let mut decoder = Decoder::new();
    assert_eq!(
        decoder.read(&parsed[1], &mut Heard::default()),
        Err(BlockError::NeedsContext { from: 0 }),
        "the dictionary is missing"
    );
    decoder.read(&parsed[0], &mut Heard::default()).unwrap();
    assert_eq!(
        decoder.read(&parsed[2], &mut Heard::default()),
        Err(BlockError::NeedsContext { from: 0 }),
        "the rows of block 1 are missing"
    );
    decoder.read_context(&parsed[0], &mut Heard::default()).unwrap();
    decoder.read(&parsed[1], &mut Heard::default()).unwrap();
    decoder.read(&parsed[2], &mut Heard::default()).unwrap();
    let by_floor: BTreeMap<u32, u32> =
        parsed.iter().map(|block| (block.header().index, block.header().floor())).collect();
    assert_eq!(by_floor.into_iter().collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]);
}
