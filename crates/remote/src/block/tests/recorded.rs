//! Bytes and time for a sample, on real data.

use std::time::{Duration, Instant};

use super::*;

const TARGETS: usize = 200;
const INTERVAL_MS: usize = 15_000;
/// A segment is half an hour.
const ROWS: usize = 120;

/// The series of the recording, by column.
fn series(exposition: &str) -> Vec<Vec<(String, String)>> {
    let mut out = vec![Vec::new(); testkit::recorded::SERIES];
    for line in exposition.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, column)) = line.rsplit_once(" @") else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut pairs = vec![("__name__".to_owned(), name.to_owned())];
        let mut rest = labels.trim_end_matches('}');
        while let Some((label, after)) = rest.split_once("=\"") {
            let mut value = String::new();
            let mut chars = after.chars();
            while let Some(c) = chars.next() {
                match c {
                    '"' => break,
                    '\\' => value.extend(chars.next()),
                    c => value.push(c),
                }
            }
            pairs.push((label.to_owned(), value));
            rest = chars.as_str().trim_start_matches(',');
        }
        out[column.parse::<usize>().expect("a number")] = pairs;
    }
    out
}

#[derive(Debug, Default)]
struct Counting {
    samples: usize,
    sum: u64,
}

impl Definitions for Counting {
    fn source(&mut self, _: u32, _: SourceId, _: &Labels) -> Result<(), BlockError> {
        Ok(())
    }
    fn column(&mut self, _: u32, _: u32, _: Labels) -> Result<(), BlockError> {
        Ok(())
    }
}

impl Visit for Counting {
    fn batch(&mut self, _: u64, _: Policy) {}
    fn row(&mut self, row: &DecodedRow<'_>) {
        self.samples += row.values.len();
        for value in row.values {
            self.sum = self.sum.wrapping_add(value.to_bits());
        }
    }
    fn metadata(&mut self, _: u32, _: &str, _: Metadata) {}
    fn account(&mut self, _: Account) {}
}

/// Writes and reads half an hour of 200 targets; prints what it took.
#[test]
#[ignore = "a measurement: cargo test --release -p remote recorded -- --ignored --nocapture"]
fn figures_on_recorded_data() -> anyhow::Result<()> {
    let Some(recorded) = testkit::recorded::load()? else { return Ok(()) };
    let series = series(&recorded.exposition);
    for block_ms in [1_000, 5_000] {
        let mut symbols = Symbols::default();
        let mut sources: Vec<SourceWriter> = (0..TARGETS)
            .map(|target| {
                let shared = [
                    ("cluster", "harbour-1".to_owned()),
                    ("instance", format!("10.0.{}.{}:9100", target / 250, target % 250)),
                    ("job", "node".to_owned()),
                ];
                let source = Labels::from_pairs(shared.clone());
                let mut writer = SourceWriter::new(SourceId(target as u128), &source, &mut symbols);
                for (column, own) in series.iter().enumerate() {
                    let shared = shared.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
                    writer.add_column(
                        column as u32,
                        &Labels::from_pairs(own.iter().cloned().chain(shared)),
                        &mut symbols,
                    );
                }
                writer
            })
            .collect();
        let mut writer = BlockWriter::new("harbour");
        let (mut encoding, mut sealing, mut bytes, mut raw, mut samples) =
            (Duration::ZERO, Duration::ZERO, 0, 0, 0);
        let mut dictionary = 0;
        let mut blocks = Vec::new();
        let all = Run { first: 0, len: series.len() as u32 };
        for row in 0..ROWS {
            for (target, source) in sources.iter_mut().enumerate() {
                let offset_ms = target * INTERVAL_MS / TARGETS;
                let timestamp_ms = (row * INTERVAL_MS + offset_ms + target * 7919 % 5) as i64;
                let values = &recorded.rows[(row + target * 37) % recorded.rows.len()];
                let clear = row == 0 || (row + target) % 20 == 0;
                let runs = [all];
                let parts = RowParts {
                    timestamp_ms,
                    columns: if clear { RowColumns::Runs(&runs) } else { RowColumns::Shape(0) },
                    values,
                    histograms: &[],
                    starts: &[],
                    exemplars: &[],
                };
                let start = Instant::now();
                writer.begin_batch(Policy::SCRAPE);
                writer.row(source, &mut symbols, &parts, clear);
                encoding += start.elapsed();
                samples += values.len();
                let next_ms = row * INTERVAL_MS + (target + 1) * INTERVAL_MS / TARGETS;
                if next_ms / block_ms != (row * INTERVAL_MS + offset_ms) / block_ms {
                    raw += writer.bytes();
                    let start = Instant::now();
                    let (_, block) = writer.finish(0)?;
                    sealing += start.elapsed();
                    bytes += block.len();
                    dictionary += Block::parse(&block)?.packed_dictionary().len();
                    blocks.push(block);
                }
            }
        }
        let mut decoder = Decoder::new();
        let mut counting = Counting::default();
        let start = Instant::now();
        for block in &blocks {
            decoder.read(&Block::parse(block)?, &mut counting)?;
        }
        let decoding = start.elapsed();
        assert_eq!(counting.samples, samples);
        let each = |time: Duration| time.as_nanos() as f64 / samples as f64;
        eprintln!(
            "blocks of {block_ms} ms: {:.3} B/sample packed ({:.3} before; dictionary {:.3}), row {:.1} ns, seal {:.1} ns, read {:.1} ns a sample",
            bytes as f64 / samples as f64,
            raw as f64 / samples as f64,
            dictionary as f64 / samples as f64,
            each(encoding),
            each(sealing),
            each(decoding),
        );
    }
    Ok(())
}
