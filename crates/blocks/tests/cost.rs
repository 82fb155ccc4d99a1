//! What a sample costs on its way into a block and out of it. A measurement, not a test of speed:
//!
//! `cargo test --release -p blocks --test cost -- --ignored --nocapture`

use std::path::{Path, PathBuf};
use std::time::Instant;

use blocks::chunk::Encoder;
use blocks::segments::Window;
use blocks::{Block, BlockSpec, BlockWriter, Samples};
use model::Labels;
use stdx::disk::RealDisk;
use ulid::Ulid;

/// Series of the recording, and how often it is written under another instance.
const SERIES: usize = 1307;
const TARGETS: usize = 20;
/// Two hours, 15 s apart.
const ROWS: usize = 480;

/// The recorded values, a column each; `None` where they are not beside the workspace.
fn recorded() -> Option<Vec<Vec<f64>>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    let path: PathBuf = workspace.parent()?.join("shared/data/recorded/values-15s.f64.zst");
    let bytes = zstd::decode_all(std::fs::File::open(path).ok()?).ok()?;
    let values: Vec<f64> = bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    let rows: Vec<&[f64]> = values.chunks(SERIES).collect();
    Some((0..SERIES).map(|column| (0..ROWS).map(|row| rows[row % rows.len()][column]).collect()).collect())
}

fn report(what: &str, samples: usize, begin: Instant) {
    eprintln!("{what}: {:.1} ns a sample", begin.elapsed().as_nanos() as f64 / samples as f64);
}

#[test]
#[ignore = "a measurement: needs --release, and the recording beside the workspace"]
fn cost_of_a_sample() {
    let Some(columns) = recorded() else {
        eprintln!("SKIPPED: the recording is not there");
        return;
    };
    for (what, jitter_ms) in [("aligned", 0i64), ("0-5 ms jitter", 6)] {
        let time = |row: usize| {
            let jitter = (row as i64 * 7919) % jitter_ms.max(1);
            1_700_006_400_000 + row as i64 * 15_000 + jitter
        };
        let times: Vec<i64> = (0..ROWS).map(time).collect();
        let samples = SERIES * TARGETS * ROWS;
        let mut encoder = Encoder::default();
        let (mut bytes, begin) = (0, Instant::now());
        for _ in 0..TARGETS {
            for values in &columns {
                let encoded = encoder.encode(&times, values, &[], |chunk| {
                    bytes += chunk.data.len();
                    Ok::<(), ()>(())
                });
                assert_eq!(encoded, Ok(()));
            }
        }
        report(&format!("{what}: encode into chunks"), samples, begin);
        eprintln!("{what}: {:.3} bytes a sample in chunks", bytes as f64 / samples as f64);

        let parent = tempfile::tempdir().expect("a directory");
        let begin = Instant::now();
        let spec = BlockSpec::new(Ulid::from_parts(1, jitter_ms as u128));
        let mut writer = BlockWriter::create(&RealDisk, parent.path(), spec).expect("created");
        for (at, values) in columns.iter().enumerate() {
            for target in 0..TARGETS {
                let labels = Labels::from_pairs([
                    ("__name__", format!("metric_{at:04}")),
                    ("instance", format!("10.0.0.{target:03}:9100")),
                    ("job", "node".to_owned()),
                ]);
                writer.add(&labels, &times, values, &[]).expect("added");
            }
        }
        writer.finish().expect("finished").expect("a block");
        report(&format!("{what}: write a block"), samples, begin);

        let dir = parent.path().join(Ulid::from_parts(1, jitter_ms as u128).to_string());
        let block = Block::open(&RealDisk, &dir).expect("opened");
        let (mut read, mut window, mut found) = (Samples::default(), Window::default(), 0);
        let begin = Instant::now();
        for series in block.series() {
            let series = series.expect("sound");
            block.samples(&series, i64::MIN..=i64::MAX, &mut window, &mut read, |error| panic!("{error}"));
            found += read.len();
        }
        assert_eq!(found, samples);
        report(&format!("{what}: read a block"), samples, begin);
    }
}
