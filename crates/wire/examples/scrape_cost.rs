//! What reading a scrape costs: the recorded targets, scrape after scrape, against the row memory.
//!
//! `cargo run --release -p wire --example scrape_cost [-- DIR]`, where `DIR` holds
//! `exposition.hdr` (the text with `@N` for the values) and `values-15s.f64.zst`.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use wire::exposition::{CreatedLines, Protocol, RowMemory, ScrapedRow, write_float};

const ROUNDS: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "../shared/data/recorded".into()));
    let bodies = bodies(&dir)?;
    let mut memory = RowMemory::new(CreatedLines::default());
    let mut row = ScrapedRow::default();
    let first = timed(|| memory.read(bodies[0].as_bytes(), Protocol::PrometheusText0_0_4, &mut row))?;
    let samples = row.values.len();
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let mut round = Duration::ZERO;
        for body in &bodies {
            round += timed(|| memory.read(body.as_bytes(), Protocol::PrometheusText0_0_4, &mut row))?;
        }
        best = best.min(round);
    }
    let per_sample = |spent: Duration, samples: usize| spent.as_nanos() as f64 / samples as f64;
    println!("{} scrapes of {samples} samples, {} bytes each", bodies.len(), bodies[0].len());
    println!("first scrape: {:.0} ns a sample", per_sample(first, samples));
    println!("steady: {:.1} ns a sample (best of {ROUNDS} rounds)", per_sample(best, samples * bodies.len()));
    println!("memory: {:.1} bytes a series, of {} of text", memory.heap_bytes() as f64 / samples as f64, {
        bodies[0].len() / samples
    });
    Ok(())
}

fn timed<E: Error + 'static>(read: impl FnOnce() -> Result<(), E>) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    read()?;
    Ok(start.elapsed())
}

/// The recorded expositions, one for each row of values.
fn bodies(dir: &std::path::Path) -> Result<Vec<String>, Box<dyn Error>> {
    let header = std::fs::read_to_string(dir.join("exposition.hdr"))?;
    let values = zstd::decode_all(std::fs::File::open(dir.join("values-15s.f64.zst"))?)?;
    let (values, _) = values.as_chunks::<8>();
    let columns = header.lines().filter(|line| !line.starts_with('#')).count();
    let exposition = |row: &[[u8; 8]]| {
        let mut body = String::with_capacity(header.len() * 2);
        for line in header.lines() {
            let value = line
                .rsplit_once(" @")
                .and_then(|(series, at)| Some((series, row.get(at.parse::<usize>().ok()?)?)));
            match value {
                Some((series, value)) => {
                    body.push_str(series);
                    body.push(' ');
                    write_float(&mut body, f64::from_le_bytes(*value));
                }
                None => body.push_str(line),
            }
            body.push('\n');
        }
        body
    };
    Ok(values.chunks_exact(columns).map(exposition).collect())
}
