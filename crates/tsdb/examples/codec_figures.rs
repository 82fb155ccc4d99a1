//! Prints what the codec makes of recorded data: bytes, encode and decode nanoseconds a sample.
//!
//! `cargo run --release -p tsdb --example codec_figures [DIR]`, where `DIR` holds `exposition.hdr` and
//! `values-15s.f64.zst` (an exposition with `@N` for value N, and rows of all values). The figures of
//! `docs/formats/codec.md` come from here.

use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use tsdb::codec::{decode_values, encode_values, is_const};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = match std::env::args_os().nth(1) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/recorded"),
    };
    let columns = read_columns(&dir)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<24} {:>6} {:>9} {:>9} {:>9} {:>6}",
        "data", "block", "B/sample", "enc ns", "dec ns", "const"
    )?;
    for (name, target) in [("node", true), ("prometheus", false)] {
        let target: Vec<&Vec<f64>> = columns.iter().filter(|(n, _)| *n == target).map(|(_, c)| c).collect();
        for block in [120, 240] {
            figures(&mut out, name, block, &target, |_| true)?;
            figures(&mut out, &format!("{name}, not const"), block, &target, |b| !is_const(b))?;
            for (codec, id) in [("decimal", 2), ("decimal+ulp", 3), ("ordered bits", 4), ("XOR", 5)] {
                figures(&mut out, &format!("  {codec}"), block, &target, |b| codec_of(b) == id)?;
            }
        }
    }
    Ok(())
}

fn codec_of(values: &[f64]) -> u8 {
    let mut bytes = Vec::new();
    encode_values(values, &mut bytes);
    bytes[0]
}

/// Whether a column is of the node target, and its values.
type Columns = Vec<(bool, Vec<f64>)>;

fn read_columns(dir: &std::path::Path) -> Result<Columns, Box<dyn Error>> {
    let exposition = std::fs::read_to_string(dir.join("exposition.hdr"))?;
    let packed = std::fs::read(dir.join("values-15s.f64.zst"))?;
    let bytes = zstd::stream::decode_all(&packed[..])?;
    let mut columns = Vec::new();
    // The node exporter's own go_, process_ and promhttp_ metrics precede the Prometheus server's.
    let mut node = true;
    let names: Vec<&str> = exposition.lines().filter(|l| !l.starts_with('#')).collect();
    let width = names.len();
    let mut last_node = 0;
    for (at, name) in names.iter().enumerate() {
        if name.starts_with("node_") {
            last_node = at;
        }
    }
    for (at, name) in names.iter().enumerate() {
        node &= at <= last_node || name.starts_with("process_") || name.starts_with("promhttp_");
        let values = bytes.chunks_exact(8).skip(at).step_by(width);
        let values = values
            .map(|b| Ok(f64::from_le_bytes(b.try_into()?)))
            .collect::<Result<Vec<f64>, Box<dyn Error>>>()?;
        columns.push((node, values));
    }
    Ok(columns)
}

fn figures(
    out: &mut dyn Write,
    name: &str,
    block: usize,
    columns: &[&Vec<f64>],
    wanted: impl Fn(&[f64]) -> bool,
) -> Result<(), Box<dyn Error>> {
    let all: Vec<&[f64]> = columns.iter().flat_map(|c| c.chunks_exact(block)).collect();
    let blocks: Vec<&[f64]> = all.iter().copied().filter(|b| wanted(b)).collect();
    let samples: usize = blocks.iter().map(|b| b.len()).sum();
    if samples == 0 {
        return Ok(());
    }
    let constant = blocks.iter().filter(|b| is_const(b)).count();
    let mut encoded = Vec::new();
    let (mut encode_ns, mut decode_ns) = (f64::MAX, f64::MAX);
    for _ in 0..20 {
        encoded.clear();
        let start = Instant::now();
        for values in &blocks {
            encode_values(black_box(values), &mut encoded);
        }
        encode_ns = encode_ns.min(start.elapsed().as_nanos() as f64 / samples as f64);
    }
    let mut values = Vec::new();
    for _ in 0..20 {
        let mut at = 0;
        let start = Instant::now();
        for block in &blocks {
            values.clear();
            at += decode_values(black_box(&encoded[at..]), block.len(), &mut values)?;
            black_box(&values);
        }
        decode_ns = decode_ns.min(start.elapsed().as_nanos() as f64 / samples as f64);
    }
    writeln!(
        out,
        "{name:<24} {block:>6} {:>7} {:>9.3} {encode_ns:>9.2} {decode_ns:>9.2} {:>5.0}%",
        blocks.len(),
        encoded.len() as f64 / samples as f64,
        100.0 * constant as f64 / blocks.len() as f64,
    )?;
    Ok(())
}
