//! Queries over clusters that keep their data: a hub over as many agents, beside one Prometheus that has
//! everything and one that reads from a Prometheus in each cluster (`remote_read`), with the way between hub
//! and clusters as long as asked for.
//!
//! CPU is that of all processes of a system together.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use testkit::http::{self as client, escape};
use testkit::peers::Peer;
use testkit::relay::Relay;

use crate::agents;
use crate::data::{Series, Timeline};
use crate::process;
use crate::queries::answer::Answer;
use crate::report::{Spread, Verdicts};
use crate::sender::{self, Sender};
use crate::system::System;

/// Milliseconds between rows.
const INTERVAL_MS: i64 = 15_000;
/// Rows of a series in a body while loading.
const ROWS_A_BODY: usize = 20;
/// Ranges begin this long after the first row, so that no counter begins within a window: Prometheus 2
/// extrapolates differently there.
const START_UP_MS: i64 = 600_000;
/// Longest the hub may take to know of all stores.
const DEADLINE: Duration = Duration::from_secs(120);
/// Repetitions of a query are as many as fit in this.
const MEASURED: Duration = Duration::from_millis(300);
const REPETITIONS_MAX: u32 = 40;

/// Sizes of the workload.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) agents: usize,
    /// Targets in each cluster.
    pub(crate) targets: usize,
    /// Rows of a series.
    pub(crate) rows: usize,
    /// Measured rounds of a query.
    pub(crate) rounds: usize,
    /// How much later each byte arrives between hub and cluster.
    pub(crate) delay: Duration,
}

/// Over which time a query runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    Instant,
    /// At 60 s.
    Range,
    /// A list: not for a Prometheus over others, whose remote read has no lists.
    List,
}

const QUERIES: [(&str, Time, &str); 9] = [
    ("one", Time::Instant, r#"count by (cluster) ({job="node"})"#),
    ("newest", Time::Instant, "sum by (cluster) (node_load1)"),
    (
        "join",
        Time::Instant,
        "(1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes) \
         * on (cluster, instance) group_left (release) node_uname_info",
    ),
    ("rate", Time::Range, "sum by (cluster, mode) (rate(node_cpu_seconds_total[5m]))"),
    (
        "six",
        Time::Range,
        "sum(rate(node_network_receive_bytes_total[5m])) + sum(rate(node_network_transmit_bytes_total[5m])) \
         + sum(rate(node_disk_read_bytes_total[5m])) + sum(rate(node_disk_written_bytes_total[5m])) \
         - sum(rate(node_cpu_seconds_total{mode=\"idle\"}[5m])) * sum(node_load1)",
    ),
    ("cluster", Time::Range, r#"sum by (mode) (rate(node_cpu_seconds_total{cluster="c3"}[5m]))"#),
    ("maximum", Time::Range, "max by (cluster) (max_over_time(node_load1[30m]))"),
    ("values", Time::List, "label/instance/values?"),
    ("series", Time::List, "series?match[]=node_uname_info&"),
];

/// A system: whom to ask, and all its processes.
struct Asked {
    name: &'static str,
    addr: SocketAddr,
    processes: Vec<Peer>,
    has_lists: bool,
    _lines: Vec<Relay>,
}

impl Asked {
    fn cpu_seconds(&self) -> Result<f64> {
        let each = self.processes.iter().map(|peer| Ok(process::usage(peer.id())?.cpu_seconds));
        each.sum()
    }

    async fn settle(&self) -> Result<()> {
        for peer in &self.processes {
            process::settle(peer.id()).await?;
        }
        Ok(())
    }
}

/// The data of every cluster, and when they are.
struct Data {
    clusters: Vec<Series>,
    rows: usize,
    timeline: Timeline,
}

impl Data {
    fn new(workload: &Workload) -> Result<Data> {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        let start_ms = (now_ms / 60_000 - 1) * 60_000 - workload.rows as i64 * INTERVAL_MS;
        let timeline = Timeline { start_ms, interval_ms: INTERVAL_MS, phases: true, jitter_ms: 0 };
        let cluster = |number| {
            let recorded = testkit::recorded::load()?.context("the recording is not there")?;
            Ok(Series::of_targets(recorded, workload.targets, "node").of_cluster(number))
        };
        let clusters = (0..workload.agents).map(cluster).collect::<Result<_>>()?;
        Ok(Data { clusters, rows: workload.rows, timeline })
    }

    /// Sends a cluster's part, with the label `cluster` or without.
    async fn load(&self, number: usize, to: SocketAddr, labelled: bool) -> Result<()> {
        let series = &self.clusters[number];
        match labelled {
            true => {
                let name = cluster(number);
                let labelled = series.with_label("cluster", Some(&name));
                sender::load(to, &labelled, 0..self.rows, ROWS_A_BODY, &self.timeline).await
            }
            false => sender::load(to, series, 0..self.rows, ROWS_A_BODY, &self.timeline).await,
        }
    }

    fn samples(&self) -> usize {
        self.clusters.iter().map(Series::len).sum::<usize>() * self.rows
    }

    fn path(&self, time: Time, text: &str) -> String {
        let end_ms = self.timeline.start_ms + self.rows as i64 * INTERVAL_MS;
        let (start, end) =
            ((self.timeline.start_ms + START_UP_MS) as f64 / 1000.0, end_ms as f64 / 1000.0 - 30.0);
        match time {
            Time::Instant => format!("/api/v1/query?query={}&time={end}", escape(text)),
            Time::Range => {
                format!("/api/v1/query_range?query={}&start={start}&end={end}&step=60", escape(text))
            }
            Time::List => format!("/api/v1/{text}start={start}&end={end}"),
        }
    }
}

fn cluster(number: usize) -> String {
    format!("c{number}")
}

/// Runs the workload and prints a row for each query.
pub(crate) async fn run(workload: &Workload, verdicts: &mut Verdicts) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = Data::new(workload)?;
    println!(
        "hubquery: {} clusters of {} targets, {:.1} M samples, {} ms between hub and cluster",
        workload.agents,
        workload.targets,
        data.samples() as f64 / 1e6,
        workload.delay.as_millis()
    );
    let systems = [
        ours(workload, &data, directory.path()).await?,
        one_prometheus(&data, directory.path()).await?,
        prometheus_over_others(workload, &data, directory.path()).await?,
    ];
    for system in &systems {
        system.settle().await?;
    }
    print!("{:<8} {:>7}", "query", "series");
    systems.iter().for_each(|system| print!(" | {:>36}", format!("{} CPU ms, wall ms", system.name)));
    println!(" | answers");
    let (mut cpu, mut slower, mut different) = ([0.0; 3], 0.0, 0.0);
    for (name, time, text) in QUERIES {
        let asked: Vec<&Asked> =
            systems.iter().filter(|system| time != Time::List || system.has_lists).collect();
        let measured = measure(&asked, &data.path(time, text), workload.rounds)
            .await
            .with_context(|| format!("query {name}"))?;
        print!("{name:<8} {:>7}", measured.series);
        for (cpu_ms, wall_ms) in &measured.costs {
            print!(" | {:>10} {:>25}", format!("{:.2}", cpu_ms.median()), format!("{wall_ms:.2}"));
        }
        println!(" | {}", measured.difference.as_deref().unwrap_or("the same"));
        different += f64::from(u8::from(measured.difference.is_some()));
        if let [ours, _, others] = &measured.costs[..] {
            for (total, (cpu_ms, _)) in cpu.iter_mut().zip(&measured.costs) {
                *total += cpu_ms.median();
            }
            slower += f64::from(u8::from(ours.1.median() > others.1.median()));
        }
    }
    println!("CPU ms in all: {:.1}, {:.1}, {:.1}", cpu[0], cpu[1], cpu[2]);
    verdicts.at_most("hubquery: answers that differ", different, 0.0);
    verdicts.at_most("hubquery: CPU / prometheus over prometheus (remote read)", cpu[0] / cpu[2], 0.5);
    verdicts.at_most("hubquery: queries slower than prometheus over prometheus", slower, 0.0);
    Ok(())
}

/// A hub and its agents, which keep their data.
async fn ours(workload: &Workload, data: &Data, directory: &Path) -> Result<Asked> {
    let hub = System::Marigraph.start(directory, "global: {}\n").await?;
    let (mut processes, mut lines) = (Vec::new(), Vec::new());
    for number in 0..workload.agents {
        let line = Relay::start("127.0.0.1:0".parse()?, hub.peer.addr, workload.delay).await?;
        let name = cluster(number);
        let token = agents::token_of(hub.peer.addr, &name, 1)?;
        let home = directory.join(format!("agent-{name}"));
        let config = "storage: {local: {retention: {time: 30d}}}\n";
        let agent = agents::agent_with(&home, line.addr, config, &token).await?;
        data.load(number, agent.addr, false).await?;
        processes.push(agent);
        lines.push(line);
    }
    let addr = hub.peer.addr;
    processes.push(hub.peer);
    until_all_answer(addr, workload.agents, data).await?;
    Ok(Asked { name: "hub over agents", addr, processes, has_lists: true, _lines: lines })
}

/// Waits until the hub knows of all stores.
async fn until_all_answer(hub: SocketAddr, agents: usize, data: &Data) -> Result<()> {
    let path = data.path(Time::Range, "count(count by (cluster) (node_load1))");
    let begin = Instant::now();
    loop {
        let answer = client::get(hub, &path).await?.json()?;
        let count = answer["data"]["result"][0]["values"][0][1].as_str().unwrap_or_default();
        // That the stores are younger than their samples is a warning, and no trouble here.
        if count == agents.to_string() {
            return Ok(());
        }
        ensure!(begin.elapsed() < DEADLINE, "after {DEADLINE:?} the hub still answers {answer}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn one_prometheus(data: &Data, directory: &Path) -> Result<Asked> {
    let prometheus = System::Prometheus.start(&directory.join("one"), "global: {}\n").await?;
    for number in 0..data.clusters.len() {
        data.load(number, prometheus.peer.addr, true).await?;
    }
    let addr = prometheus.peer.addr;
    let processes = vec![prometheus.peer];
    Ok(Asked { name: "one prometheus", addr, processes, has_lists: true, _lines: Vec::new() })
}

/// A Prometheus in each cluster, and one that reads from them all.
async fn prometheus_over_others(workload: &Workload, data: &Data, directory: &Path) -> Result<Asked> {
    let (mut processes, mut lines) = (Vec::new(), Vec::new());
    let mut config = "remote_read:\n".to_owned();
    for number in 0..workload.agents {
        let name = cluster(number);
        let own = format!("global: {{external_labels: {{cluster: {name}}}}}\n");
        let prometheus = System::Prometheus.start(&directory.join(format!("over-{name}")), &own).await?;
        data.load(number, prometheus.peer.addr, false).await?;
        let line = Relay::start("127.0.0.1:0".parse()?, prometheus.peer.addr, workload.delay).await?;
        config.push_str(&format!("  - {{url: 'http://{}/api/v1/read', read_recent: true}}\n", line.addr));
        processes.push(prometheus.peer);
        lines.push(line);
    }
    let front = System::Prometheus.start(&directory.join("over"), &config).await?;
    let addr = front.peer.addr;
    processes.push(front.peer);
    Ok(Asked { name: "prometheus over others", addr, processes, has_lists: false, _lines: lines })
}

/// What a query cost each system, and what came of it.
struct Measured {
    series: usize,
    /// CPU and wall, milliseconds.
    costs: Vec<(Spread, Spread)>,
    /// Between the first answer and another.
    difference: Option<String>,
}

async fn measure(systems: &[&Asked], path: &str, rounds: usize) -> Result<Measured> {
    let (mut senders, mut answers, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    for system in systems {
        let mut sender = Sender::connect(system.addr).await?;
        answers.push(Answer::read(&sender.get(path).await.with_context(|| system.name.to_owned())?)?);
        let begin = Instant::now();
        sender.get(path).await?;
        let once = begin.elapsed().max(Duration::from_micros(50)).as_micros();
        repetitions.push((MEASURED.as_micros() / once).clamp(1, u128::from(REPETITIONS_MAX)) as u32);
        senders.push(sender);
    }
    let mut costs = vec![(Spread::default(), Spread::default()); systems.len()];
    for _ in 0..rounds {
        for (at, system) in systems.iter().enumerate() {
            let before = system.cpu_seconds()?;
            let begin = Instant::now();
            for _ in 0..repetitions[at] {
                senders[at].get(path).await?;
            }
            let each = 1000.0 / f64::from(repetitions[at]);
            costs[at].1.add(begin.elapsed().as_secs_f64() * each);
            costs[at].0.add((system.cpu_seconds()? - before) * each);
        }
    }
    let others = systems.iter().zip(&answers).skip(1);
    let difference = others
        .filter_map(|(system, answer)| {
            answers[0].difference(answer).map(|what| format!("DIFFERENT from {}: {what}", system.name))
        })
        .next();
    Ok(Measured { series: answers[0].len(), costs, difference })
}
