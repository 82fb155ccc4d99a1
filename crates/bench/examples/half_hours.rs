//! Half hours of a scrape of many targets squeezed into seconds: what the store holds in memory before and
//! after each flush and merge; then what it takes to open the directory again with a quarter of an hour in
//! the log, and to select everything.
//!
//! The samples are the recording's, 200 targets × 1,307 series at 10 s; it needs `shared/data` beside the
//! workspace. CPU is that of all threads, the store's own included.
//!
//! `cargo run --release -p bench --example half_hours [-- TARGETS HALF_HOURS DIR]` (DIR stays)
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, MatchOp, Matcher, SourceId, TenantId};
use stdx::clock::FakeClock;
use storage::{Appender, Batch, Policy, Queryable, Row, Select, SeriesRef, SourceDesc, SourceRef};
use testkit::recorded::Recorded;
use tsdb::{Config, Db};

type Outcome<T> = Result<T, Box<dyn Error>>;

const START_MS: i64 = 1_700_006_400_000;
const STEP_MS: i64 = 10_000;
const HALF_HOUR_ROWS: usize = 180;
/// Rows of the recording between neighbouring targets.
const STRIDE: usize = 131;

fn main() -> Outcome<()> {
    stdx::memory::keep_little(); // as the program does
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, dir, now_ms] = arguments.as_slice()
        && verb == "reopen"
    {
        return reopen(Path::new(dir), now_ms.parse()?);
    }
    let number = |at: usize, or: usize| arguments.get(at).map_or(Ok(or), |text| text.parse());
    let (targets, half_hours) = (number(0, 200)?, number(1, 5)?);
    let Some(recorded) = testkit::recorded::load()? else { return Err("the recording is not there".into()) };
    let kept = arguments.get(2).map(PathBuf::from);
    let temporary = std::env::temp_dir().join(format!("half-hours-{}", std::process::id()));
    let dir = kept.clone().unwrap_or(temporary);
    let clock = FakeClock::at(START_MS);
    let store = Store { db: Db::open(config(&dir, &clock))?, recorded, clock };
    let sources = store.open(targets)?;
    for half_hour in 0..half_hours {
        let cpu = cpu_time()?;
        store.append(&sources, half_hour * HALF_HOUR_ROWS..(half_hour + 1) * HALF_HOUR_ROWS)?;
        let appended = (cpu_time()? - cpu, resident_mib());
        let cpu = cpu_time()?;
        store.work("flush", |db| db.flush().map_err(|error| error.to_string()))?;
        let flushed = (cpu_time()? - cpu, resident_mib());
        let cpu = cpu_time()?;
        store.work("merge", |db| db.compact().map_err(|error| error.to_string()))?;
        println!(
            "half hour {half_hour}: {:.0} MiB after appending ({:.2} CPU s), {:.0} after the flush ({:.2}), {:.0} after the merge ({:.2})",
            appended.1,
            appended.0.as_secs_f64(),
            flushed.1,
            flushed.0.as_secs_f64(),
            resident_mib(),
            (cpu_time()? - cpu).as_secs_f64(),
        );
    }
    let rows = half_hours * HALF_HOUR_ROWS;
    store.append(&sources, rows..rows + HALF_HOUR_ROWS / 6)?;
    println!("highest: {:.0} MiB", status("VmHWM:"));
    let now_ms = START_MS + (rows + HALF_HOUR_ROWS / 6) as i64 * STEP_MS;
    drop(store);
    for _ in 0..3 {
        let again = std::process::Command::new(std::env::current_exe()?)
            .args(["reopen".as_ref(), dir.as_os_str(), now_ms.to_string().as_ref()])
            .status()?;
        if !again.success() {
            return Err("opening again failed".into());
        }
    }
    match kept {
        Some(dir) => println!("kept for: half_hours reopen {} {now_ms}", dir.display()),
        None => std::fs::remove_dir_all(&dir)?,
    }
    Ok(())
}

fn config(dir: &Path, clock: &Arc<FakeClock>) -> Config {
    Config { background: false, retention: None, clock: clock.clone(), ..Config::new(dir) }
}

/// Opens the directory, and selects all of its series.
fn reopen(dir: &Path, now_ms: i64) -> Outcome<()> {
    let begin = std::time::Instant::now();
    let db = Db::open(config(dir, &FakeClock::at(now_ms)))?;
    let (cpu, wall, resident) = (cpu_time()?, begin.elapsed(), resident_mib());
    let all = Select {
        tenant: TenantId::default(),
        start_ms: START_MS,
        end_ms: now_ms,
        matchers: vec![Matcher::new(MatchOp::Regex, "__name__", ".+")?],
    };
    let mut costs = Vec::new();
    let mut count = 0;
    for _ in 0..2 {
        std::fs::write("/proc/self/clear_refs", "5")?;
        let (before, spent) = (resident_mib(), cpu_time()?);
        let selected = db.select(&all)?;
        count = selected.len();
        costs.push((cpu_time()? - spent, status("VmHWM:") - before, resident_mib() - before));
    }
    println!(
        "open: {:.2} CPU s, {:.2} s, {resident:.0} MiB; selecting all {count} series: {}",
        cpu.as_secs_f64(),
        wall.as_secs_f64(),
        costs
            .iter()
            .map(|(cpu, peak, held)| format!(
                "{:.0} ms of CPU, {peak:.0} MiB at most, {held:.0} held",
                cpu.as_secs_f64() * 1e3
            ))
            .collect::<Vec<_>>()
            .join("; again: "),
    );
    db.close()?;
    Ok(())
}

struct Store {
    db: Db,
    recorded: Recorded,
    clock: Arc<FakeClock>,
}

impl Store {
    fn open(&self, targets: usize) -> Outcome<Vec<(SourceRef, Vec<SeriesRef>)>> {
        let lines = self.recorded.exposition.lines().filter(|line| !line.starts_with('#'));
        let names: Vec<&str> = lines.filter_map(|line| Some(line.rsplit_once(" @")?.0)).collect();
        let mut sources = Vec::with_capacity(targets);
        for target in 0..targets {
            let instance = format!("10.0.{}.{}:9100", target / 250, target % 250);
            let of_target = [("instance", instance.as_str()), ("job", "node")];
            let id = SourceId(target as u128);
            let labels = Labels::from_pairs(of_target);
            let source = self.db.open_source(&SourceDesc { tenant: TenantId::default(), id, labels })?;
            let labels: Vec<Labels> = names.iter().map(|name| labels_of(name, of_target)).collect();
            let series = self.db.resolve(source, &labels)?;
            sources.push((source, series.into_iter().flatten().collect()));
        }
        Ok(sources)
    }

    /// Appends rows from two threads, a target's row in a batch, as scrapes do.
    fn append(&self, sources: &[(SourceRef, Vec<SeriesRef>)], rows: std::ops::Range<usize>) -> Outcome<()> {
        for row in rows {
            let at_ms = START_MS + row as i64 * STEP_MS;
            self.clock.set_ms(at_ms);
            let halves = sources.len().div_ceil(2);
            std::thread::scope(|scope| {
                let handles: Vec<_> = sources
                    .chunks(halves)
                    .enumerate()
                    .map(|(half, sources)| {
                        scope.spawn(move || self.append_some(sources, half * halves, row, at_ms))
                    })
                    .collect();
                handles.into_iter().try_for_each(|handle| handle.join().map_err(|_| "a thread panicked")?)
            })?;
        }
        Ok(())
    }

    fn append_some(
        &self,
        sources: &[(SourceRef, Vec<SeriesRef>)],
        first: usize,
        row: usize,
        at_ms: i64,
    ) -> Result<(), String> {
        for (target, (source, series)) in (first..).zip(sources) {
            let recorded = &self.recorded.rows;
            let values = &recorded[(row + target * STRIDE) % recorded.len()];
            let phase_ms = (target * 37 % STEP_MS as usize) as i64;
            let rows = [Row::floats(*source, at_ms + phase_ms, series, values)];
            let done = self.db.append(&Batch::rows(&rows, Policy::SCRAPE)).map_err(|e| e.to_string())?;
            if !done.rejected.is_empty() {
                return Err(format!("{} samples were refused", done.rejected.len()));
            }
        }
        Ok(())
    }

    /// What the store's own threads do, on a thread of its own as there.
    fn work(&self, name: &str, run: impl FnOnce(&Db) -> Result<(), String> + Send) -> Outcome<()> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            let handle = thread.spawn_scoped(scope, || run(&self.db))?;
            handle.join().map_err(|_| "a thread panicked")?.map_err(Into::into)
        })
    }
}

/// The labels of an exposition's series on a target.
fn labels_of(series: &str, of_target: [(&str, &str); 2]) -> Labels {
    let (name, pairs) = series.split_once('{').unwrap_or((series, ""));
    let mut all = vec![("__name__", name)];
    all.extend(of_target);
    let mut rest = pairs;
    while let Some((name, after)) = rest.split_once("=\"") {
        let Some((value, after)) = after.split_once('"') else { break };
        all.push((name.trim_start_matches(','), value));
        rest = after;
    }
    Labels::from_pairs(all)
}

/// Time on a processor of all threads so far, those that have ended included.
fn cpu_time() -> Outcome<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

fn resident_mib() -> f64 {
    status("VmRSS:")
}

/// A line of the process' status, MiB.
fn status(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}
