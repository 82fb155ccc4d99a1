//! What late samples cost: CPU and memory a sample, beside live rows of the same shape.
//!
//! CPU time of all threads, the store's own included. "held" is the memory of the process above what it
//! was when the samples began to come, at its largest.
//!
//! `cargo run --release -p tsdb --example late_cost [-- SHAPE...]`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{Labels, SourceId, TenantId};
use storage::{Appender, Batch, Policy, Row, SeriesRef, SourceDesc, SourceRef, StoreError};
use tsdb::{Config, Db};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Sources, series of each, rows of each, and rows of one source in a batch.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    sources: usize,
    series: usize,
    rows: i64,
    rows_a_batch: i64,
}

const SHAPES: [Shape; 4] = [
    Shape { name: "rows", sources: 200, series: 500, rows: 240, rows_a_batch: 1 },
    Shape { name: "history", sources: 200, series: 500, rows: 240, rows_a_batch: 60 },
    Shape { name: "narrow", sources: 5_000, series: 5, rows: 960, rows_a_batch: 1 },
    Shape { name: "single", sources: 20_000, series: 1, rows: 480, rows_a_batch: 20 },
];

const STEP_MS: i64 = 15_000;
const DAY_MS: i64 = 86_400_000;

fn main() -> Outcome<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for shape in SHAPES.iter().filter(|shape| wanted.is_empty() || wanted.iter().any(|w| w == shape.name)) {
        for kind in ["live", "first back-fill", "late"] {
            // A process of its own for each, so that memory starts anew.
            if std::env::var_os("LATE_COST_KIND").is_none() {
                let child = std::process::Command::new(std::env::current_exe()?)
                    .arg(shape.name)
                    .env("LATE_COST_KIND", kind)
                    .status()?;
                if !child.success() {
                    return Err(format!("{} {kind} failed", shape.name).into());
                }
            } else if std::env::var("LATE_COST_KIND")? == kind {
                measure(*shape, kind)?;
            }
        }
    }
    Ok(())
}

fn measure(shape: Shape, kind: &str) -> Outcome<()> {
    let dir = std::env::temp_dir().join(format!("late-cost-{}", std::process::id()));
    let db = Db::open(Config { retention: None, ..Config::new(&dir) })?;
    let mut targets = Vec::with_capacity(shape.sources);
    for number in 0..shape.sources {
        let labels = Labels::from_pairs([("job", "late"), ("instance", &number.to_string())]);
        let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(number as u128), labels };
        let source = db.open_source(&desc)?;
        let names: Vec<Labels> = (0..shape.series).map(|series| labels_of(number, series)).collect();
        let found = db.resolve(source, &names)?;
        targets.push((source, found.into_iter().flatten().collect::<Vec<_>>()));
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let start_ms = if kind == "live" { now_ms } else { now_ms - 5 * DAY_MS };
    if kind == "late" {
        append(&db, &targets, shape, now_ms, 0..1)?;
    }
    let (before, cpu) = (resident_bytes(), cpu_time()?);
    let mut held = 0;
    let mut row = 0;
    while row < shape.rows {
        let to = (row + shape.rows_a_batch).min(shape.rows);
        append(&db, &targets, shape, start_ms, row..to)?;
        held = held.max(resident_bytes().saturating_sub(before));
        row = to;
    }
    let spent = cpu_time()? - cpu;
    let samples = (shape.sources * shape.series) as f64 * shape.rows as f64;
    let head = db.stats(&TenantId::default(), 1).head.bytes;
    let cpu = cpu_time()?;
    db.flush()?;
    let flush = cpu_time()? - cpu;
    println!(
        "{:8} {kind:15}: {:6.1} ns a sample, held {:6.2} B a sample ({:.0} MB), in memory at the end {:.1} MB, last flush {:.1} ns a sample",
        shape.name,
        spent.as_nanos() as f64 / samples,
        held as f64 / samples,
        held as f64 / 1e6,
        head as f64 / 1e6,
        flush.as_nanos() as f64 / samples,
    );
    drop(db);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Rows `rows` of every target, from `start_ms` on.
fn append(
    db: &Db,
    targets: &[(SourceRef, Vec<SeriesRef>)],
    shape: Shape,
    start_ms: i64,
    rows: std::ops::Range<i64>,
) -> Outcome<()> {
    for (source, series) in targets {
        let value =
            |n: usize, row: i64| if n.is_multiple_of(3) { row as f64 * (1 + n % 7) as f64 } else { n as f64 };
        let values: Vec<Vec<f64>> =
            rows.clone().map(|row| (0..shape.series).map(|n| value(n, row)).collect()).collect();
        let rows: Vec<Row<'_>> = rows
            .clone()
            .zip(&values)
            .map(|(row, values)| Row::floats(*source, start_ms + row * STEP_MS, series, values))
            .collect();
        loop {
            match db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE)) {
                Ok(done) if done.rejected.is_empty() => break,
                Ok(done) => return Err(format!("{} samples were refused", done.rejected.len()).into()),
                Err(StoreError::Limit { .. }) => std::thread::park_timeout(Duration::from_millis(50)),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn labels_of(target: usize, series: usize) -> Labels {
    Labels::from_pairs([
        ("__name__", format!("container_metric_{series}_total").as_str()),
        ("job", "late"),
        ("instance", &target.to_string()),
        ("namespace", &format!("team-{}", target % 17)),
        ("pod", &format!("checkout-backend-7f9c6d5b4-{target:05}")),
    ])
}

/// Time on a processor of all threads so far.
fn cpu_time() -> Outcome<Duration> {
    let mut spent = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task")? {
        let schedstat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let on_cpu = schedstat.split(' ').next().ok_or("schedstat is empty")?;
        spent += Duration::from_nanos(on_cpu.parse()?);
    }
    Ok(spent)
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}
