//! The log segments and the manifests of versions 1.0 and 1.1 read as they were written. The files stay as
//! they are for as long as these versions are read; a new version gets files of its own.

use std::path::{Path, PathBuf};

use model::histogram::{Buckets, CounterResetHint, Histogram, Span};
use model::{Exemplar, Labels, Matcher, Metadata, MetricType};
use stdx::disk::RealDisk;
use storage::{BlockKey, SeriesRef};
use tsdb::manifest::{self, State};
use tsdb::tombstone::Tombstone;
use tsdb::wal::record::{
    BatchEncoder, Decoder, HistogramToLog, LATE_LANES, LATE_LOOSE, LaneLog, Record, RowToLog, TakenBlocks,
    encode_checkpoint, encode_delete, read_definitions,
};
use tsdb::wal::segment::{self, Found, Header, put_frame};
use ulid::Ulid;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn histogram(count: u64) -> Histogram {
    Histogram {
        counter_reset_hint: CounterResetHint::Unknown,
        schema: 3,
        zero_threshold: 0.001,
        sum: 12.5,
        positive_spans: vec![Span { offset: -2, length: 2 }],
        negative_spans: Vec::new(),
        custom_values: Vec::new(),
        buckets: Buckets::Int { count, zero_count: 1, positive: vec![1, 2], negative: Vec::new() },
    }
}

const ROWS: [(i64, [f64; 4]); 3] = [
    (1_700_000_000_000, [1.0, 0.25, -3.0, f64::INFINITY]),
    (1_700_000_015_000, [2.0, 0.25, -3.0, 1e300]),
    (1_700_000_030_001, [2.0, 0.5, -4.0, -0.0]),
];

/// Rows of late lanes, since 1.1.
const LATE_ROWS: [(i64, u32); 2] = [(1_600_000_000_000, LATE_LANES + 7), (1_600_000_000_001, LATE_LOOSE)];

/// A segment of version 1.`minor`.
fn segment_bytes(minor: u8) -> Vec<u8> {
    let mut bytes = Header { number: 42, first_position: 12_345 }.encode().to_vec();
    bytes[10] = minor;
    let crc = crc32c::crc32c(&bytes[..36]);
    bytes[36..].copy_from_slice(&crc.to_le_bytes());
    let mut frame = |payload: &[u8]| put_frame(payload, &mut bytes);
    let mut payload = Vec::new();
    let blocks = vec![(0, 7), (9, 9)];
    encode_checkpoint(
        &[TakenBlocks { tenant: "default".into(), queue_id: 1, incarnation: 2, blocks }],
        &mut payload,
    );
    frame(&payload);
    let series: Vec<SeriesRef> = (1..5u64).map(|n| SeriesRef(n << 32 | (n + 10))).collect();
    let mut encoder = BatchEncoder::default();
    encoder.begin("default", Some(BlockKey { queue_id: 1, incarnation: 2, block: 8 }));
    encoder.source(5, 0xabcd, &Labels::from_pairs([("job", "node")]));
    for reference in &series {
        encoder
            .series(reference.0, &Labels::from_pairs([("__name__", "up"), ("n", &reference.0.to_string())]));
    }
    let mut log = LaneLog::default();
    for (timestamp_ms, values) in &ROWS {
        let row = RowToLog {
            source: 5,
            lane: 0,
            timestamp_ms: *timestamp_ms,
            replace: false,
            series: &series,
            values,
        };
        encoder.row(&row, true, 42, &mut log);
    }
    let (first, second) = (histogram(5), histogram(6));
    for (timestamp_ms, histogram, previous) in [(1, &first, None), (2, &second, Some(&first))] {
        let sample =
            HistogramToLog { source: 5, series: series[0].0, timestamp_ms, replace: false, histogram };
        encoder.histogram(&sample, previous);
    }
    if minor > 0 {
        for (timestamp_ms, lane) in LATE_ROWS {
            let values = &[0.5, 1.5, 2.5, 3.5];
            let row = RowToLog {
                source: 5,
                lane,
                timestamp_ms,
                replace: lane == LATE_LOOSE,
                series: &series,
                values,
            };
            encoder.row(&row, false, 42, &mut LaneLog::default());
        }
    }
    encoder.start(series[1].0, 1_700_000_000_000, 1_699_999_000_000);
    let labels = Labels::from_pairs([("trace_id", "7f")]);
    encoder.exemplar(series[2].0, &Exemplar { labels, value: 0.125, timestamp_ms: 3 });
    encoder.metadata("up", &metadata());
    payload.clear();
    encoder.finish(&mut payload);
    frame(&payload);
    payload.clear();
    encode_delete("default", &[Matcher::equal("n", "1")], -5, 99, &mut payload);
    frame(&payload);
    bytes
}

fn metadata() -> Metadata {
    Metadata { metric_type: MetricType::Gauge, unit: "seconds".into(), help: "Whether it is up".into() }
}

fn manifest_state(minor: u8) -> State {
    let spilled = if minor > 0 { 12_200 } else { 0 };
    let mut state = State { flushed: 12_000, spilled, ..State::default() };
    state.parts.insert(Ulid::from_bytes([1; 16]), 0);
    state.parts.insert(Ulid::from_bytes([2; 16]), 11_000);
    let matchers = vec![Matcher::equal("job", "node")];
    state.tombstones.push(Tombstone { matchers, start_ms: 0, end_ms: i64::MAX, position: 11_500 });
    state
}

#[test]
#[ignore = "writes testdata"]
fn write_the_golden_files() {
    std::fs::write(testdata("wal-1.1.wal"), segment_bytes(1)).expect("write");
    std::fs::write(testdata("manifest-1.1"), manifest::encode(&manifest_state(1))).expect("write");
}

#[test]
fn the_golden_segments_read_as_they_were_written() {
    (0..=1).for_each(check_segment);
}

fn check_segment(minor: u8) {
    let path = testdata(&format!("wal-1.{minor}.wal"));
    let segment = segment::read(&RealDisk, &path, false).expect("readable");
    assert_eq!(segment.header, Header { number: 42, first_position: 12_345 });
    assert_eq!(segment.damage, []);
    assert_eq!(segment.bytes, segment_bytes(minor), "what is written today is the same");
    let payloads: Vec<&[u8]> = segment
        .found
        .iter()
        .map(|found| match found {
            Found::Record { payload, .. } => &segment.bytes[payload.clone()],
            Found::Gap => panic!("no gaps"),
        })
        .collect();
    let definitions = read_definitions(payloads[1]).expect("readable").expect("definitions");
    assert_eq!(definitions.sources, [(5, 0xabcd, Labels::from_pairs([("job", "node")]))]);
    assert_eq!(definitions.series.len(), 4);
    assert_eq!(definitions.series[0].0, 1 << 32 | 11);

    let mut decoder = Decoder::default();
    let Record::Checkpoint(taken) = decoder.read(payloads[0]).expect("readable") else {
        panic!("a checkpoint")
    };
    assert_eq!(taken[0].blocks, [(0, 7), (9, 9)]);
    let Record::Batch(batch) = decoder.read(payloads[1]).expect("readable") else { panic!("a batch") };
    assert_eq!(batch.key, Some(BlockKey { queue_id: 1, incarnation: 2, block: 8 }));
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let rows: Vec<_> = batch.rows.iter().map(|row| (row.timestamp_ms, bits(&row.values))).collect();
    assert_eq!(rows[..3], ROWS.map(|(time, values)| (time, bits(&values))));
    let late: Vec<_> = batch.rows[3..].iter().map(|row| (row.timestamp_ms, row.replace)).collect();
    let wanted = LATE_ROWS.map(|(time, lane)| (time, lane == LATE_LOOSE));
    assert_eq!(late, wanted[..usize::from(minor) * 2]);
    assert!(batch.rows.iter().enumerate().all(|(number, row)| row.late == (number >= 3)));
    assert_eq!((batch.rows[0].source, batch.rows[0].series.len(), batch.rows[0].replace), (5, 4, false));
    let histograms: Vec<_> =
        batch.histograms.iter().map(|h| (h.timestamp_ms, (*h.histogram).clone())).collect();
    assert_eq!(histograms, [(1, histogram(5)), (2, histogram(6))]);
    assert_eq!(batch.starts, [(2 << 32 | 12, 1_700_000_000_000, 1_699_999_000_000)]);
    assert_eq!((batch.exemplars[0].0, batch.exemplars[0].1.value), (3 << 32 | 13, 0.125));
    assert_eq!(batch.metadata, [("up".to_owned(), metadata())]);
    let Record::Delete(delete) = decoder.read(payloads[2]).expect("readable") else { panic!("a deletion") };
    assert_eq!((delete.start_ms, delete.end_ms, delete.matchers), (-5, 99, vec![Matcher::equal("n", "1")]));
}

#[test]
fn the_golden_manifests_read_as_they_were_written() {
    for minor in 0..=1 {
        let bytes = std::fs::read(testdata(&format!("manifest-1.{minor}"))).expect("readable");
        assert_eq!(manifest::read(&bytes), Ok((manifest_state(minor), bytes.len() as u64, None)));
        let today = manifest::encode(&manifest_state(minor));
        assert_eq!(bytes[16..], today[16..], "what is written today is the same");
        assert_eq!((bytes[10], today[10]), (minor, 1), "but for the version");
    }
}
