//! The query list on hours of samples, all systems in turn for each query.
//!
//! The newest quarter of an hour stands in Marigraph's log and head, the rest in merged parts: what
//! a hub looks like that flushes every half hour.

pub(crate) mod answer;
mod list;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::http::escape;
use testkit::recorded::SERIES;

use self::answer::Answer;
use self::list::{QUERIES, Query, Time};
use crate::data::{Series, Timeline};
use crate::process;
use crate::report::{Spread, Verdicts};
use crate::sender::{self, Sender};
use crate::system::{Running, System};

/// Rows of a series in a body while loading.
const ROWS_A_BODY: usize = 20;
/// Milliseconds between rows.
const INTERVAL_MS: i64 = 30_000;
/// Ranges begin this long after the first row: Prometheus 2 and 3 extrapolate differently where a counter
/// begins within a window.
const START_UP_MS: i64 = 600_000;
/// Rows that stay in Marigraph's head.
const HEAD_ROWS: usize = 30;
/// Repetitions of a query are as many as fit in this, so that a CPU clock of 10 ms can tell.
const MEASURED: Duration = Duration::from_millis(150);
const REPETITIONS_MAX: u32 = 60;
/// The file that says what a directory holds, and with a system's name behind it, that it holds it.
const MARK: &str = "loaded";

/// Sizes of the workload.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) targets: usize,
    pub(crate) rows: usize,
    pub(crate) rounds: usize,
    /// Where data are kept, to be used again; a temporary directory otherwise.
    pub(crate) keep: Option<PathBuf>,
    /// Only queries of these names; all without.
    pub(crate) only: Vec<String>,
}

/// What one query cost one system.
#[derive(Debug, Default, Clone)]
struct Cost {
    cpu_ms: Spread,
    wall_ms: Spread,
}

/// Runs the list and prints a row for each query.
pub(crate) async fn run(workload: &Workload, verdicts: &mut Verdicts) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let directory = workload.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let timeline = load(workload, directory).await?;
    let mut running = Vec::new();
    for system in System::ALL {
        running.push((system, restart(system, directory).await?));
    }
    ready_verdict(&running, verdicts);
    let running: Vec<(System, Running)> = running.into_iter().map(|(s, r)| (s, r.running)).collect();
    for (_, system) in &running {
        process::settle(system.peer.id()).await?;
        process::forget_peak(system.peer.id())?;
    }
    println!(
        "{:<5} {:>7} | {:>30} | {:>30} | {:>30} | answers",
        "query", "series", "marigraph CPU ms, wall ms", "prometheus", "victoria-metrics"
    );
    let end_ms = timeline.start_ms + workload.rows as i64 * INTERVAL_MS;
    let span_ms = workload.rows as i64 * INTERVAL_MS;
    let mut totals: [f64; 3] = [0.0; 3];
    let mut slower = Vec::new();
    for query in
        QUERIES.iter().filter(|q| workload.only.is_empty() || workload.only.iter().any(|o| o == q.name))
    {
        let path = path(query, end_ms - span_ms + START_UP_MS, end_ms);
        let (costs, found, said) = measure(&running, query, &path, workload.rounds).await?;
        print!("{:<5} {found:>7}", query.name);
        for cost in &costs {
            print!(
                " | {:>14} {:>15}",
                format!("{:.2}", cost.cpu_ms.median()),
                format!("{:.2}", cost.wall_ms)
            );
        }
        println!(" | {said}");
        totals.iter_mut().zip(&costs).for_each(|(total, cost)| *total += cost.cpu_ms.median());
        let best = costs[1].wall_ms.median().min(costs[2].wall_ms.median());
        if costs[0].wall_ms.median() > best {
            slower.push(format!("{} ({:.2}x)", query.name, costs[0].wall_ms.median() / best));
        }
    }
    let peaks: Vec<f64> =
        running.iter().map(|(_, r)| Ok(process::usage(r.peer.id())?.peak_mib)).collect::<Result<_>>()?;
    println!(
        "CPU ms in all: {:.0}, {:.0}, {:.0}; peak MiB: {:.0}, {:.0}, {:.0}",
        totals[0], totals[1], totals[2], peaks[0], peaks[1], peaks[2]
    );
    println!(
        "slower than the better peer: {}",
        if slower.is_empty() { "none".into() } else { slower.join(", ") }
    );
    verdicts.at_most("queries: CPU in all / victoria-metrics", totals[0] / totals[2], 0.5);
    verdicts.at_most("queries: CPU in all / prometheus", totals[0] / totals[1], 0.13);
    verdicts.at_most("queries slower than the better peer (wall)", slower.len() as f64, 0.0);
    verdicts.at_most("queries: peak RSS / victoria-metrics", peaks[0] / peaks[2], 0.8);
    Ok(())
}

/// A system started on data that were there.
struct Restarted {
    running: Running,
    ready: f64,
}

async fn restart(system: System, directory: &Path) -> Result<Restarted> {
    let begin = Instant::now();
    let running = system.start(directory, "global: {}\n").await?;
    let ready = begin.elapsed().as_secs_f64();
    let cpu = process::usage(running.peer.id())?.cpu_seconds;
    println!("{}: ready after {ready:.2} s, {cpu:.2} CPU s", system.name());
    Ok(Restarted { running, ready })
}

fn ready_verdict(running: &[(System, Restarted)], verdicts: &mut Verdicts) {
    let of = |wanted| running.iter().find(|(system, _)| *system == wanted).map_or(f64::NAN, |(_, r)| r.ready);
    verdicts.at_most(
        "restart on the queries' data: time to ready / victoria-metrics",
        of(System::Marigraph) / of(System::VictoriaMetrics),
        1.5,
    );
}

/// Loads what `directory` does not hold yet.
async fn load(workload: &Workload, directory: &Path) -> Result<Timeline> {
    let size = format!("{} targets, {} rows", workload.targets, workload.rows);
    let samples = (workload.targets * SERIES * workload.rows) as f64 / 1e6;
    println!("queries: {size} at 30 s: {} series, {samples:.1} M samples", workload.targets * SERIES);
    let mark = directory.join(MARK);
    let start_ms = match std::fs::read_to_string(&mark) {
        Ok(text) => {
            let start = text.strip_prefix(&format!("{size}, ")).and_then(|start| start.trim().parse().ok());
            start.with_context(|| format!("{} is of other data: {text}", mark.display()))?
        }
        Err(_) => {
            let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
            let end_ms = (now_ms as i64 - 60_000) / 60_000 * 60_000;
            let start_ms = end_ms - workload.rows as i64 * INTERVAL_MS;
            std::fs::write(&mark, format!("{size}, {start_ms}"))?;
            start_ms
        }
    };
    let timeline = Timeline { start_ms, interval_ms: INTERVAL_MS, phases: true, jitter_ms: 0 };
    let mut data = None;
    for system in System::ALL {
        let loaded = directory.join(format!("{MARK}-{}", system.name()));
        if loaded.exists() {
            continue;
        }
        let data = match &mut data {
            Some(data) => data,
            none => none.insert(Series::new(workload.targets * SERIES, "node")?),
        };
        load_one(system, data, workload.rows, directory, &timeline).await?;
        std::fs::write(&loaded, "")?;
    }
    Ok(timeline)
}

async fn load_one(
    system: System,
    data: &Series,
    rows: usize,
    directory: &Path,
    timeline: &Timeline,
) -> Result<()> {
    let begin = Instant::now();
    let mut running = system.start(directory, "global: {}\n").await?;
    let in_head = if system == System::Marigraph { HEAD_ROWS.min(rows) } else { 0 };
    let early = rows - in_head;
    sender::load(running.peer.addr, data, 0..early, ROWS_A_BODY, timeline).await?;
    process::settle(running.peer.id()).await?;
    let mut cpu = process::usage(running.peer.id())?.cpu_seconds;
    if in_head > 0 {
        running.merged(system)?;
        running = system.start(directory, "global: {}\n").await?;
        sender::load(running.peer.addr, data, early..rows, ROWS_A_BODY, timeline).await?;
        cpu += process::usage(running.peer.id())?.cpu_seconds;
    }
    running.peer.terminate()?;
    println!("{}: loaded in {:.0} s, {cpu:.1} CPU s", system.name(), begin.elapsed().as_secs_f64());
    Ok(())
}

/// The request of a query.
fn path(query: &Query, start_ms: i64, end_ms: i64) -> String {
    let (start, end) = (start_ms as f64 / 1000.0, end_ms as f64 / 1000.0);
    let text = escape(query.text);
    match query.time {
        Time::Instant => format!("/api/v1/query?query={text}&time={end}&nocache=1"),
        Time::Range => format!("/api/v1/query_range?query={text}&start={start}&end={end}&step=60&nocache=1"),
        Time::LastHour => {
            format!("/api/v1/query_range?query={text}&start={}&end={end}&step=60&nocache=1", end - 3600.0)
        }
        Time::List => {
            let (list, parameters) = query.text.split_once('?').unwrap_or((query.text, ""));
            let selector = parameters.trim_end_matches('&').split_once('=');
            let selector =
                selector.map_or(String::new(), |(name, text)| format!("{}={}&", escape(name), escape(text)));
            format!("/api/v1/{list}?{selector}start={start}&end={end}")
        }
    }
}

/// Asks every system in turn, some times over; how many series the answer has, and whether all agree.
async fn measure(
    running: &[(System, Running)],
    query: &Query,
    path: &str,
    rounds: usize,
) -> Result<(Vec<Cost>, usize, String)> {
    let (mut answers, mut repetitions, mut senders) = (Vec::new(), Vec::new(), Vec::new());
    for (system, running) in running {
        let mut sender = Sender::connect(running.peer.addr).await?;
        let body =
            sender.get(path).await.with_context(|| format!("{} asked {}", system.name(), query.name))?;
        answers.push(Answer::read(&body)?);
        let begin = Instant::now();
        sender.get(path).await?;
        let once = begin.elapsed().max(Duration::from_micros(50));
        repetitions
            .push((MEASURED.as_micros() / once.as_micros()).clamp(1, u128::from(REPETITIONS_MAX)) as u32);
        senders.push(sender);
    }
    let mut costs = vec![Cost::default(); running.len()];
    for _ in 0..rounds {
        for (at, (_, running)) in running.iter().enumerate() {
            let before = process::usage(running.peer.id())?.cpu_seconds;
            let begin = Instant::now();
            for _ in 0..repetitions[at] {
                senders[at].get(path).await?;
            }
            let wall = begin.elapsed().as_secs_f64() / f64::from(repetitions[at]);
            let cpu = process::usage(running.peer.id())?.cpu_seconds - before;
            costs[at].wall_ms.add(wall * 1000.0);
            costs[at].cpu_ms.add(cpu / f64::from(repetitions[at]) * 1000.0);
        }
    }
    Ok((costs, answers[0].len(), compared(query, &answers)))
}

/// Marigraph and Prometheus mean the same; VictoriaMetrics has as many series where it does, too.
fn compared(query: &Query, answers: &[Answer]) -> String {
    let [ours, prometheus, victoria] = answers else { return "not compared".into() };
    let mut said = match ours.difference(prometheus) {
        None => "as prometheus".to_owned(),
        Some(difference) => format!("DIFFERENT: {difference}"),
    };
    if ours.len() != victoria.len() {
        let note = if query.same_in_all { "DIFFERENT: " } else { "" };
        said.push_str(&format!("; {note}victoria-metrics has {}", victoria.len()));
    }
    said
}

impl Running {
    /// Ends Marigraph and does to its directory what its half-hourly flush and its merges would: there
    /// is no request for it.
    fn merged(self, system: System) -> Result<()> {
        ensure!(system == System::Marigraph, "only our own store can be opened here");
        let Running { peer, data } = self;
        peer.terminate()?;
        crate::disk::flush_and_merge(&data)
    }
}
