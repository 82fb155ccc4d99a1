//! `kill -9` of a real process while it appends, flushes, merges and makes snapshots on a real disk.
//!
//! The test starts itself again as the victim. `TSDB_KILLS=100 cargo test -p tsdb --test kill` is the long
//! run.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use model::{Labels, Matcher, SourceId, TenantId};
use rand::RngExt;
use stdx::clock::FakeClock;
use storage::{Appender, Batch, Policy, Queryable, RejectReason, Rejection, Row, Select, SourceDesc};
use tsdb::{Config, Db, SyncPolicy};

const KILLS: usize = 8;
const SERIES: usize = 12;
const FIRST_MS: i64 = 1_699_920_000_000;
/// Time between rows: 120 to a span, so that merges come due.
const STEP_MS: i64 = 60_000;
/// Tells the victim where its store is, and which row is next.
const DIRECTORY: &str = "TSDB_VICTIM_DIRECTORY";
const NEXT_ROW: &str = "TSDB_VICTIM_NEXT_ROW";

fn value(series: usize, row: i64) -> f64 {
    if series == 0 { 1.0 } else { (row * 13 + series as i64) as f64 / 4.0 }
}

fn open(dir: &Path, clock: &Arc<FakeClock>, background: bool) -> Db {
    let mut config = Config::new(dir);
    config.clock = clock.clone();
    config.background = background;
    config.sync = SyncPolicy::Every(Duration::from_millis(5));
    config.retention = None;
    config.segment_bytes_max = 32 << 10;
    config.small_tenant_samples = 0;
    Db::open(config).expect("open")
}

/// Works until it is killed, and says which rows are acknowledged.
#[test]
#[ignore = "the victim of the other test, which starts it"]
fn the_victim() {
    let (Ok(directory), Ok(next)) = (std::env::var(DIRECTORY), std::env::var(NEXT_ROW)) else { return };
    let next: i64 = next.parse().expect("a row");
    let clock = FakeClock::at(FIRST_MS + next * STEP_MS);
    let db = Arc::new(open(Path::new(&directory), &clock, true));
    let (keeper, snapshots) = (db.clone(), db.snapshots_dir());
    std::thread::spawn(move || {
        for number in next.. {
            keeper.flush().expect("flush");
            keeper.compact().expect("compact");
            keeper.snapshot(&snapshots.join(number.to_string()), false, &mut |_| ()).expect("snapshot");
        }
    });
    let desc = SourceDesc { tenant: TenantId::default(), id: SourceId(5), labels: Labels::empty() };
    let labels: Vec<Labels> =
        (0..SERIES).map(|n| Labels::from_pairs([("__name__", "m"), ("n", &n.to_string())])).collect();
    let mut out = std::io::stdout().lock();
    for row in next.. {
        clock.advance_ms(STEP_MS);
        let values: Vec<f64> = (0..SERIES).map(|series| value(series, row)).collect();
        // A flush removes series without new samples; a sender that is told so looks them up again.
        while !taken(&db, &desc, &labels, FIRST_MS + row * STEP_MS, &values) {}
        writeln!(out, "row {row}").and_then(|()| out.flush()).expect("say it");
        std::thread::park_timeout(Duration::from_micros(200));
    }
}

/// Appends a row; `false` when series of it have gone since they were looked up.
fn taken(db: &Db, desc: &SourceDesc, labels: &[Labels], timestamp_ms: i64, values: &[f64]) -> bool {
    let source = db.open_source(desc).expect("a source");
    let series = db.resolve(source, labels).expect("series");
    let series: Vec<_> = series.into_iter().map(|series| series.expect("no limit")).collect();
    let rows = [Row::floats(source, timestamp_ms, &series, values)];
    let rejected = db.append(&Batch::rows(&rows, Policy::REMOTE_WRITE)).expect("append").rejected;
    let gone = |rejection: &Rejection| rejection.reason == RejectReason::UnknownSeries;
    assert!(rejected.iter().all(gone), "{rejected:?}");
    rejected.is_empty()
}

/// How many rows there are: each with its value, none missing before the last.
fn rows(db: &Db) -> i64 {
    // A write that the kill interrupted was not acknowledged; its beginning is cut off, and said.
    let other: Vec<String> = db
        .problems()
        .into_iter()
        .filter(|problem| !problem.starts_with("torn tail in log segment"))
        .collect();
    assert_eq!(other, Vec::<String>::new());
    let matchers = vec![Matcher::equal("__name__", "m")];
    let select = Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers };
    let set = db.select(&select).expect("select");
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("load");
    let mut counts = Vec::new();
    for (at, column) in columns.iter().enumerate() {
        let series: usize = set.labels(at).get("n").and_then(|n| n.parse().ok()).expect("a number");
        for (row, (time, found)) in (0..).zip(column.times.iter().zip(&column.values)) {
            assert_eq!(*time, FIRST_MS + row * STEP_MS, "series {series}: a row is missing");
            assert_eq!(*found, value(series, row), "series {series}, row {row}");
        }
        counts.push(column.times.len() as i64);
    }
    counts.dedup();
    assert!(counts.len() <= 1, "rows are whole: {counts:?}");
    counts.first().copied().unwrap_or(0)
}

/// Lets a victim live for a while; how many rows it said were acknowledged.
fn live(dir: &Path, next: i64, life: Duration) -> i64 {
    let mut victim = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_victim", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, dir)
        .env(NEXT_ROW, next.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let said = BufReader::new(victim.stdout.take().expect("a pipe"));
    let (sender, receiver) = channel();
    let reader = std::thread::spawn(move || {
        for line in said.lines().map_while(Result::ok) {
            if let Some(row) = line.strip_prefix("row ").and_then(|row| row.parse::<i64>().ok()) {
                sender.send(row + 1).expect("the test waits");
            }
        }
    });
    let (mut acknowledged, end) = (next, Instant::now() + life);
    loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(rows) => acknowledged = rows,
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => panic!("the victim died by itself"),
        }
        if Instant::now() >= end {
            break;
        }
    }
    victim.kill().expect("kill");
    victim.wait().expect("wait");
    acknowledged = receiver.iter().last().unwrap_or(acknowledged);
    reader.join().expect("read");
    acknowledged
}

#[test]
fn a_killed_process_loses_nothing_in_the_middle_of_anything() {
    let kills = std::env::var("TSDB_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let mut next = 0;
    let (mut snapshots, mut parts) = (0, 0);
    for kill in 0..kills {
        let life = Duration::from_millis(rand::rng().random_range(30..400));
        let acknowledged = live(&data, next, life);
        let clock = FakeClock::at(FIRST_MS + acknowledged * STEP_MS);
        let db = open(&data, &clock, false);
        next = rows(&db);
        // One row may have been on its way, or taken and not yet told.
        assert!(
            (acknowledged..=acknowledged + 1).contains(&next),
            "kill {kill}: {next}, {acknowledged} told"
        );
        parts += db.stats(&TenantId::default(), 1).parts.parts;
        drop(db);
        for entry in std::fs::read_dir(data.join("snapshots")).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            assert!(path.extension().is_none(), "{} is unfinished", path.display());
            let found = rows(&open(&path, &clock, false));
            assert!(found <= next, "kill {kill}: {found} rows in {}, {next} in all", path.display());
            snapshots += 1;
            std::fs::remove_dir_all(&path).expect("remove");
        }
    }
    eprintln!("{kills} kills, {next} rows, {parts} parts and {snapshots} snapshots looked at");
    assert!(next > 0 && parts > 0 && snapshots > 0, "{next} rows, {parts} parts, {snapshots} snapshots");
}
