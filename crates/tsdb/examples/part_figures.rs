//! Prints what parts make of recorded data: bytes a sample by section, write, load and merge times.
//!
//! `cargo run --release -p tsdb --example part_figures [DIR [ROWS]]`; for `DIR` see `codec_figures`. Two
//! parts of so many rows (240) are made and merged. Every target starts at another row, has its own `instance`, and 0-5 ms of jitter. The figures of
//! `docs/formats/part.md` come from here.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use model::{Labels, TenantId};
use stdx::disk::RealDisk;
use storage::Column;
use tsdb::merge::{MergeOptions, merge};
use tsdb::part::{Part, PartSpec, PartWriter, part_order};
use ulid::Ulid;

/// Labels without instance, and values.
type Recorded = Vec<(Vec<(String, String)>, Vec<f64>)>;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = match std::env::args_os().nth(1) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/recorded"),
    };
    let rows = match std::env::args().nth(2) {
        Some(text) => text.parse()?,
        None => 240,
    };
    let recorded = read_recorded(&dir)?;
    let prometheus = |labels: &[(String, String)]| {
        labels
            .iter()
            .any(|(n, v)| n == "__name__" && ["prometheus_", "net_", "go_"].iter().any(|p| v.starts_with(p)))
    };
    let mut out = std::io::stdout().lock();
    for (name, targets, wanted) in [("node", 20, false), ("prometheus", 20, true)] {
        let recorded = recorded.iter().filter(|(labels, _)| prometheus(labels) == wanted).cloned().collect();
        figures(&mut out, name, &recorded, targets, rows)?;
    }
    Ok(())
}

fn read_recorded(dir: &Path) -> Result<Recorded, Box<dyn Error>> {
    let exposition = std::fs::read_to_string(dir.join("exposition.hdr"))?;
    let bytes = zstd::stream::decode_all(&std::fs::read(dir.join("values-15s.f64.zst"))?[..])?;
    let lines: Vec<&str> = exposition.lines().filter(|l| !l.starts_with('#')).collect();
    let mut recorded = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let series = line.rsplit_once(' ').map_or(*line, |(series, _)| series);
        let (metric, labels) = series.split_once('{').unwrap_or((series, ""));
        let mut pairs = vec![("__name__".to_owned(), metric.to_owned())];
        // Good enough for these expositions: no comma stands within a value before a quote.
        for pair in labels.trim_end_matches('}').split("\",").filter(|p| !p.is_empty()) {
            if let Some((name, value)) = pair.split_once("=\"") {
                pairs.push((name.to_owned(), value.trim_end_matches('"').to_owned()));
            }
        }
        let values = bytes.chunks_exact(8).skip(at).step_by(lines.len());
        let values = values.map(|b| Ok(f64::from_le_bytes(b.try_into()?)));
        recorded.push((pairs, values.collect::<Result<_, Box<dyn Error>>>()?));
    }
    Ok(recorded)
}

fn figures(
    out: &mut dyn Write,
    name: &str,
    recorded: &Recorded,
    targets: usize,
    rows_of_part: usize,
) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    // Two parts, one after the other, and the merge of both.
    let mut parts = Vec::new();
    for part in 0..2usize {
        let mut series = Vec::new();
        for target in 0..targets {
            let jitter = |i: usize| {
                xxhash_rust::xxh3::xxh3_64(&(i * 1000 + target).to_le_bytes()) as i64 & 0x7fff_ffff
            };
            let rows = part * rows_of_part..(part + 1) * rows_of_part;
            let times: Arc<[i64]> =
                rows.clone().map(|i| 1_700_000_000_000 + i as i64 * 15_000 + jitter(i) % 6).collect();
            for (pairs, values) in recorded {
                let instance = ("instance".to_owned(), format!("10.0.0.{target}:9100"));
                let labels =
                    Labels::from_pairs(pairs.iter().cloned().chain([instance, ("job".into(), name.into())]));
                let values = rows.clone().map(|i| values[(i + target * 11) % values.len()]).collect();
                series.push((labels, Column { times: times.clone(), values, ..Column::default() }));
            }
        }
        series.sort_by(|a, b| part_order(&a.0, &b.0));
        let spec = PartSpec {
            id: Ulid::from_parts(1, part as u128),
            tenant: TenantId::default(),
            level: 0,
            wal_first: 0,
            wal_last: part as u64,
            late: false,
            replace: false,
        };
        let start = Instant::now();
        let mut writer = PartWriter::create(&RealDisk, dir.path(), spec)?;
        for (labels, column) in &series {
            writer.add_series(labels, column)?;
        }
        let info = writer.finish()?;
        let ns = start.elapsed().as_nanos() as f64 / info.samples as f64;
        let opened = Part::open(&RealDisk, &dir.path().join(info.file_name()))?;
        if part == 0 {
            report(out, &format!("{name}, {targets} targets, {rows_of_part} rows"), &opened, ns)?;
        }
        parts.push(Arc::new(opened));
    }
    let mut next = 10;
    let mut next_id = || {
        next += 1;
        Ulid::from_parts(2, next)
    };
    let start = Instant::now();
    let merged = merge(&RealDisk, dir.path(), &parts, &MergeOptions::default(), &mut next_id)?;
    let ns = start.elapsed().as_nanos() as f64 / merged[0].samples as f64;
    let merged = Part::open(&RealDisk, &dir.path().join(merged[0].file_name()))?;
    report(out, &format!("{name}, two such parts merged"), &merged, ns)
}

fn report(out: &mut dyn Write, name: &str, part: &Part, write_ns: f64) -> Result<(), Box<dyn Error>> {
    let info = part.info();
    let samples = info.samples as f64;
    writeln!(out, "{name}: {} series, {:.3} B/sample", info.series, info.bytes as f64 / samples)?;
    for (section, bytes) in part.section_bytes() {
        let per_series = bytes as f64 / f64::from(info.series);
        writeln!(
            out,
            "  {section} {:>9} B {:>8.4} B/sample {per_series:>8.2} B/series",
            bytes,
            bytes as f64 / samples
        )?;
    }
    let all: Vec<u32> = (0..info.series).collect();
    let (mut load_ns, mut label_ns) = (f64::MAX, f64::MAX);
    for _ in 0..5 {
        let (mut columns, mut labels) = (Vec::new(), Vec::new());
        let start = Instant::now();
        part.load(&all, i64::MIN, i64::MAX, &mut columns)?;
        load_ns = load_ns.min(start.elapsed().as_nanos() as f64 / samples);
        let start = Instant::now();
        part.labels_of(&all, &mut labels)?;
        label_ns = label_ns.min(start.elapsed().as_nanos() as f64 / f64::from(info.series));
    }
    writeln!(
        out,
        "  made in {write_ns:.1} ns/sample, loaded in {load_ns:.2} ns/sample, labels in {label_ns:.0} ns/series"
    )?;
    Ok(())
}
