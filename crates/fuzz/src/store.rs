//! What stands on disk. With `--cfg fuzzing` checksums are taken for right, or no mutation would get
//! past them.

use std::io::Write;
use std::path::{Path, PathBuf};

use model::{Labels, TenantId};
use stdx::disk::{Disk, FakeDisk};
use storage::{Column, SeriesRef};
use tsdb::codec::{encode_ints, encode_values};
use tsdb::manifest::{self, State};
use tsdb::part::{Part, PartSpec, PartWriter};
use tsdb::wal::record::{BatchEncoder, Decoder, LaneLog, RowToLog, encode_delete, read_definitions};
use tsdb::wal::segment::{self, Header};
use ulid::Ulid;

const DIR: &str = "/data";

/// A disk that holds one file, and its path.
pub(crate) fn disk_with(bytes: &[u8]) -> (FakeDisk, PathBuf) {
    let disk = FakeDisk::new(Path::new(DIR));
    let path = Path::new(DIR).join("file");
    let written = disk.create(&path).and_then(|mut file| file.write_all(bytes));
    written.expect("the simulated disk takes writes");
    (disk, path)
}

pub(crate) fn codec_seeds() -> Vec<Vec<u8>> {
    let columns: [Vec<f64>; 5] = [
        vec![1.0; 32],
        (0..32).map(|i| f64::from(i * 3)).collect(),
        (0..120).map(|i| f64::from(i % 7) * 0.1).collect(),
        (0..32).map(|i| (f64::from(i)).sqrt()).collect(),
        vec![f64::NAN, 1.0, model::stale_nan(), f64::INFINITY, -0.0],
    ];
    let mut seeds = Vec::new();
    for column in &columns {
        let mut bytes = (column.len() as u16).to_le_bytes().to_vec();
        encode_values(column, &mut bytes);
        seeds.push(bytes);
    }
    let mut bytes = 60_u16.to_le_bytes().to_vec();
    let times: Vec<i64> = (0..60).map(|i| 1_700_000_000_000 + i * 15_000 + i % 5).collect();
    encode_ints(&times, &mut bytes);
    seeds.push(bytes);
    seeds
}

/// Records of the log, one after the other, each with two bytes of length before it.
pub(crate) fn record(bytes: &[u8]) {
    let mut decoder = Decoder::default();
    let mut rest = bytes;
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let (payload, behind) = behind.split_at(usize::from(u16::from_le_bytes(*len)).min(behind.len()));
        let _ = (decoder.read(payload), read_definitions(payload));
        rest = behind;
    }
}

fn payloads() -> Vec<Vec<u8>> {
    let labels = Labels::from_pairs([("__name__", "a"), ("instance", "h")]);
    let (mut encoder, mut lane) = (BatchEncoder::default(), LaneLog::default());
    let mut payloads = Vec::new();
    for at in 0..3_i64 {
        encoder.begin("default", None);
        encoder.source(0, 7, &labels);
        encoder.series(1 << 32, &labels);
        encoder.metadata("a", &model::Metadata::default());
        let row = RowToLog {
            source: 0,
            lane: 0,
            timestamp_ms: 1_700_000_000_000 + at * 15_000,
            replace: false,
            series: &[SeriesRef(1 << 32)],
            values: &[at as f64],
        };
        encoder.row(&row, at > 0, 1, &mut lane);
        encoder.start(1 << 32, row.timestamp_ms, 1_600_000_000_000);
        let mut payload = Vec::new();
        encoder.finish(&mut payload);
        payloads.push(payload);
    }
    let mut delete = Vec::new();
    encode_delete("default", &[model::Matcher::equal("job", "x")], 0, i64::MAX, &mut delete);
    payloads.push(delete);
    payloads
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let mut seed = Vec::new();
    for payload in payloads() {
        seed.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        seed.extend_from_slice(&payload);
    }
    vec![seed]
}

/// A segment of the log: whatever stands in it, its records and its damage lie within it.
pub(crate) fn segment(bytes: &[u8]) {
    let (disk, path) = disk_with(bytes);
    for last in [false, true] {
        let Ok(segment) = segment::read(&disk, &path, last) else { continue };
        assert!(segment.good_len <= bytes.len() as u64);
        let mut decoder = Decoder::default();
        for found in &segment.found {
            match found {
                segment::Found::Record { payload, .. } => {
                    let _ = decoder.read(&segment.bytes[payload.clone()]);
                }
                _ => decoder.forget(),
            }
        }
        for damage in &segment.damage {
            assert!(damage.offset + damage.len <= bytes.len() as u64, "{damage}");
        }
    }
}

pub(crate) fn segment_seeds() -> Vec<Vec<u8>> {
    let mut bytes = Header { number: 1, first_position: 0 }.encode().to_vec();
    for payload in payloads() {
        segment::put_frame(&payload, &mut bytes);
    }
    vec![bytes]
}

/// A manifest: what was read is written as something that reads the same.
pub(crate) fn manifest(bytes: &[u8]) {
    if let Ok((state, good, _)) = manifest::read(bytes) {
        assert!(good <= bytes.len() as u64);
        let again = manifest::read(&manifest::encode(&state)).expect("what we write reads");
        assert_eq!(again.0, state);
    }
}

pub(crate) fn manifest_seeds() -> Vec<Vec<u8>> {
    let mut state = State { flushed: 900, ..State::default() };
    state.parts.insert(Ulid::from_bytes([7; 16]), 0);
    state.parts.insert(Ulid::from_bytes([9; 16]), 55);
    state.tombstones.push(tsdb::tombstone::Tombstone {
        matchers: vec![model::Matcher::equal("job", "node")],
        start_ms: -5,
        end_ms: i64::MAX,
        position: 77,
    });
    vec![manifest::encode(&state)]
}

/// A part: everything that can be asked of it.
pub(crate) fn part(bytes: &[u8]) {
    let (disk, path) = disk_with(bytes);
    let Ok(part) = Part::open(&disk, &path) else { return };
    let _ = (part.verify(), part.metadata(), part.label_names(&[]));
    let matchers = [model::Matcher::equal("__name__", "a")];
    let _ = (part.select(&matchers), part.label_values("instance", &matchers));
    // A header may claim any number of series.
    let series: Vec<u32> = (0..part.info().series.min(200)).collect();
    let _ = part.labels_of(&series, &mut Vec::new());
    let _ = part.load(&series, i64::MIN, i64::MAX, &mut Vec::new());
    let _ = part.load(&series, 1_700_000_100_000, 1_700_000_200_000, &mut Vec::new());
}

pub(crate) fn part_seeds() -> Vec<Vec<u8>> {
    let disk = FakeDisk::new(Path::new(DIR));
    let spec = PartSpec {
        id: Ulid::from_bytes([7; 16]),
        tenant: TenantId::default(),
        level: 0,
        wal_first: 1,
        wal_last: 9,
        late: false,
        replace: false,
    };
    let write = || -> Result<Vec<u8>, tsdb::part::PartError> {
        let mut writer = PartWriter::create(&disk, Path::new(DIR), spec)?;
        let times: std::sync::Arc<[i64]> = (0..50).map(|i| 1_700_000_000_000 + i * 15_000 + i % 5).collect();
        for name in ["a", "b"] {
            for instance in ["one", "two"] {
                let labels = Labels::from_pairs([("__name__", name), ("instance", instance)]);
                let values = (0..50).map(|i| if name == "a" { 1.0 } else { f64::from(i) * 0.25 }).collect();
                let start_times = (name == "b").then(|| vec![1_600_000_000_000; 50].into());
                let column = Column { times: times.clone(), values, start_times, ..Column::default() };
                writer.add_series(&labels, &column)?;
            }
        }
        writer.add_metadata("a", &model::Metadata::default());
        let info = writer.finish()?;
        let path = Path::new(DIR).join(info.file_name());
        Ok(disk.read(&path).expect("the part was written"))
    };
    vec![write().expect("the simulated disk takes parts")]
}
