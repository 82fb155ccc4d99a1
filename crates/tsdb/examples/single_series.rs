//! What the store holds of series that are each a source of their own, with times of their own, as pushes
//! of functions and batch jobs are: bytes of resident memory a series before their first row, and later.
//!
//! `cargo run --release -p tsdb --example single_series [-- SERIES ROWS]`
#![allow(clippy::print_stdout)]

use std::error::Error;

use model::{Labels, SourceId, TenantId};
use storage::{Appender, Batch, Policy, Row, SeriesRef, SourceDesc, SourceRef};
use tsdb::{Config, Db};

const START_MS: i64 = 1_700_000_000_000;
const STEP_MS: i64 = 15_000;
/// Rows in a batch.
const BATCH: usize = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    stdx::memory::keep_little(); // as the program does
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: usize| arguments.get(at).map_or(Ok(or), |text| text.parse());
    let (count, rows) = (number(0, 100_000)?, number(1, 120)?);
    let dir = std::env::temp_dir().join(format!("single-series-{}", std::process::id()));
    let db = Db::open(Config { background: false, retention: None, ..Config::new(&dir) })?;
    let empty = resident_bytes();
    let held =
        |what: &str| println!("{what}: {:.0} bytes a series", (resident_bytes() - empty) / count as f64);
    let series: Vec<(SourceRef, SeriesRef)> = (0..count).map(|n| open(&db, n)).collect::<Result<_, _>>()?;
    held("before the first row");
    for row in 0..rows {
        for (batch, series) in series.chunks(BATCH).enumerate() {
            append(&db, row, batch * BATCH, series)?;
        }
        if [1, 20, 32, 33, 60, rows].contains(&(row + 1)) {
            held(&format!("{} rows", row + 1));
        }
    }
    db.close()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn open(db: &Db, n: usize) -> Result<(SourceRef, SeriesRef), Box<dyn Error>> {
    let instance = format!("run-{:08x}", scattered(n));
    let of_source = [("instance", instance.as_str()), ("job", "batch")];
    let (tenant, id, labels) =
        (TenantId::default(), SourceId(scattered(n).into()), Labels::from_pairs(of_source));
    let source = db.open_source(&SourceDesc { tenant, id, labels })?;
    let (number, region, step) = (n.to_string(), format!("r{}", n % 5), format!("s{}", n % 11));
    let rest =
        [("__name__", "job_duration_seconds"), ("number", &number), ("region", &region), ("step", &step)];
    let labels = Labels::from_pairs(of_source.into_iter().chain(rest));
    let series = db.resolve(source, &[labels])?.first().copied().flatten().ok_or("the series was refused")?;
    Ok((source, series))
}

fn append(
    db: &Db,
    row: usize,
    first: usize,
    series: &[(SourceRef, SeriesRef)],
) -> Result<(), Box<dyn Error>> {
    let values: Vec<f64> =
        (first..first + series.len()).map(|n| (row as u32 * (scattered(n) % 50)) as f64).collect();
    let time_of = |at: usize| START_MS + row as i64 * STEP_MS + i64::from(scattered(first + at)) % STEP_MS;
    let rows: Vec<Row<'_>> = (0..)
        .zip(series)
        .map(|(at, (source, series))| {
            Row::floats(*source, time_of(at), std::slice::from_ref(series), &values[at..=at])
        })
        .collect();
    let done = db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE))?;
    if done.samples != rows.len() {
        return Err(format!("{} of {} samples were taken", done.samples, rows.len()).into());
    }
    Ok(())
}

/// A number that looks like no other's neighbour, the same for `n` every time.
fn scattered(n: usize) -> u32 {
    (n as u32).wrapping_mul(0x9e37_79b1).rotate_left(11) ^ 0x5bd1_e995
}

fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.unwrap_or_default() * 4096.0
}
