//! Agents: scraping and shipping beside vmagent, and how fast a hub takes a backlog.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use testkit::http as client;
use testkit::peers::{self, Peer};

use crate::data::{Series, Timeline};
use crate::process::{self, Usage};
use crate::report::{Spread, Verdicts};
use crate::sender;
use crate::simulator::{Content, Simulator};
use crate::system::{Running, System};

/// How often memory is looked at.
const RESIDENT_EVERY: Duration = Duration::from_secs(5);
/// Longest a backlog may take to come home.
const DRAIN_DEADLINE: Duration = Duration::from_secs(300);
const CLUSTER: &str = "bench";

/// Sizes of the workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) targets: usize,
    pub(crate) interval_seconds: u64,
    pub(crate) warm_up_seconds: u64,
    pub(crate) measured_seconds: u64,
    /// Series and rows of the backlog; no rows leave it out.
    pub(crate) backlog_series: usize,
    pub(crate) backlog_rows: usize,
}

/// A hub that an agent may enrol at.
struct Hub {
    running: Running,
    /// Its address stays over restarts, and so do its data.
    directory: PathBuf,
    addr: SocketAddr,
}

impl Hub {
    async fn start(directory: &Path) -> Result<Hub> {
        let addr = peers::free_addr()?;
        let directory = directory.join("hub");
        let running = System::Marigraph.start_at(&directory, "global: {}\n", addr).await?;
        Ok(Hub { running, directory, addr })
    }

    /// Starts it again after [`Hub::kill`].
    async fn again(killed: (PathBuf, SocketAddr)) -> Result<Hub> {
        let (directory, addr) = killed;
        let running = System::Marigraph.start_at(&directory, "global: {}\n", addr).await?;
        Ok(Hub { running, directory, addr })
    }

    /// SIGKILL.
    fn kill(self) -> (PathBuf, SocketAddr) {
        (self.directory, self.addr)
    }
}

/// A token for agents, made by the hub at `addr`.
pub(crate) fn token(addr: SocketAddr, uses: usize) -> Result<String> {
    token_of(addr, CLUSTER, uses)
}

/// A token for agents of `cluster`, made by the hub at `addr`.
pub(crate) fn token_of(addr: SocketAddr, cluster: &str, uses: usize) -> Result<String> {
    let program = System::Marigraph.program()?;
    let (hub, uses) = (format!("http://{addr}"), uses.to_string());
    let words = ["token", "create", "--cluster", cluster, "--uses", &uses, "--hub", &hub];
    let made = Command::new(program).args(words).output().context("start marigraph token create")?;
    ensure!(made.status.success(), "token create: {}", String::from_utf8_lossy(&made.stderr));
    Ok(String::from_utf8(made.stdout)?.trim().to_owned())
}

/// Runs the workload and prints a row for each system.
pub(crate) async fn run(workload: Workload, verdicts: &mut Verdicts) -> Result<()> {
    let simulator = Simulator::start(Content::Recorded, workload.targets).await?;
    // Whoever sends home says which cluster it is.
    let config = simulator
        .config(workload.targets, &format!("{}s", workload.interval_seconds))
        .replace(", cluster: ", ", zone: ");
    let directory = tempfile::tempdir()?;
    let hub = Hub::start(directory.path()).await?;
    let victoria = System::VictoriaMetrics.start(directory.path(), "global: {}\n").await?;
    let ours = agent(directory.path(), hub.addr, &config).await?;
    let theirs = vmagent(directory.path(), &victoria, &config).await?;
    let ids = [ours.id(), theirs.id(), hub.running.peer.id(), victoria.peer.id()];
    tokio::time::sleep(Duration::from_secs(workload.warm_up_seconds)).await;
    let (before, served_before) = (usages(ids)?, simulator.served());
    let sent_before = [sent(&ours).await?, sent(&theirs).await?];
    let mut resident: [Spread; 4] = Default::default();
    let end = Instant::now() + Duration::from_secs(workload.measured_seconds);
    while Instant::now() < end {
        tokio::time::sleep(RESIDENT_EVERY).await;
        for (spread, usage) in resident.iter_mut().zip(usages(ids)?) {
            spread.add(usage.rss_mib);
        }
    }
    let (after, served) = (usages(ids)?, simulator.served() - served_before);
    let sent_after = [sent(&ours).await?, sent(&theirs).await?];
    let samples = served as f64 / 2.0 * testkit::recorded::SERIES as f64;
    println!(
        "agents: {} targets x {} series every {} s, gzip, scraped and sent home; {:.1} M samples each in {} s",
        workload.targets,
        testkit::recorded::SERIES,
        workload.interval_seconds,
        samples / 1e6,
        workload.measured_seconds
    );
    println!(
        "{:<18} {:>14} {:>18} {:>10} {:>16} {:>16} {:>12}",
        "system", "CPU s per M", "RSS MiB", "peak MiB", "B written/sample", "B sent/sample", "series home"
    );
    let names = ["marigraph agent", "vmagent", "marigraph hub", "victoria-metrics"];
    let homes = [series_home(hub.addr).await?, series_home(victoria.peer.addr).await?];
    for at in 0..names.len() {
        let cpu = after[at].cpu_seconds - before[at].cpu_seconds;
        let written = (after[at].written_mib - before[at].written_mib) * 1048576.0;
        let wire = sent_after.get(at).zip(sent_before.get(at)).map(|(after, before)| after - before);
        println!(
            "{:<18} {:>14.2} {:>18} {:>10.0} {:>16.2} {:>16} {:>12}",
            names[at],
            cpu / (samples / 1e6),
            format!("{:.0}", resident[at]),
            after[at].peak_mib,
            written / samples,
            wire.map_or_else(String::new, |bytes| format!("{:.2}", bytes / samples)),
            homes[at % 2],
        );
    }
    let cpu = |at: usize| after[at].cpu_seconds - before[at].cpu_seconds;
    verdicts.at_most("agent: CPU / vmagent", cpu(0) / cpu(1), 0.4);
    verdicts.at_most("agent: RSS / vmagent", resident[0].median() / resident[1].median(), 0.5);
    verdicts.at_most("agent: bytes sent a sample", (sent_after[0] - sent_before[0]) / samples, 1.5);
    if workload.backlog_rows > 0 {
        drop((theirs, victoria, ours));
        backlog(workload, hub, directory.path(), verdicts).await?;
    }
    Ok(())
}

/// An agent gathers rows for a hub that is away; what they cost the hub when it is back.
async fn backlog(workload: Workload, hub: Hub, directory: &Path, verdicts: &mut Verdicts) -> Result<()> {
    let Workload { backlog_series: series, backlog_rows: rows, .. } = workload;
    let data = Series::new(series, "backlog")?;
    let interval_ms = 15_000;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let start_ms = now_ms - rows as i64 * interval_ms;
    let timeline = Timeline { start_ms, interval_ms, phases: false, jitter_ms: 0 };
    let agent = agent(directory, hub.addr, "global: {}\n").await?;
    let killed = hub.kill();
    sender::load(agent.addr, &data, 0..rows, 1, &timeline).await?;
    let queued = process::directory_bytes(&directory.join("agent/data/queue"));
    let hub = Hub::again(killed).await?;
    let begin = Instant::now();
    let id = hub.running.peer.id();
    let before = process::usage(id)?;
    let total = (series * rows) as f64;
    let query =
        format!("sum(count_over_time({{job=\"backlog\"}}[{}s]))", rows as i64 * interval_ms / 1000 + 600);
    // The hub is let alone until nothing waits: a query would cost more than rows do.
    while pending(&agent).await? > 0.0 || begin.elapsed() < Duration::from_secs(5) {
        ensure!(begin.elapsed() < DRAIN_DEADLINE, "the backlog is not home after {DRAIN_DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let after = process::usage(id)?;
    let mut found = 0.0;
    for metric in names(hub.addr).await? {
        let query = query.replace("{job", &format!("{metric}{{job"));
        let path = format!("/api/v1/query?query={}", client::escape(&query));
        let answer = client::get(hub.addr, &path).await?.json()?;
        let count = answer["data"]["result"][0]["value"][1].as_str();
        found += count.and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    }
    let cpu = after.cpu_seconds - before.cpu_seconds;
    println!(
        "backlog: {:.1} M samples of {series} series in {:.2} bytes each home in {seconds:.1} s: {:.2} M a CPU second \
         of the hub, RSS {:.0} MiB (peak {:.0}), missing {}",
        total / 1e6,
        queued as f64 / total,
        total / cpu / 1e6,
        after.rss_mib,
        after.peak_mib,
        total - found
    );
    verdicts.at_least("backlog: M samples per CPU s of the hub", total / cpu / 1e6, 2.0);
    verdicts.at_most("backlog: samples missing", total - found, 0.0);
    Ok(())
}

async fn names(addr: SocketAddr) -> Result<Vec<String>> {
    let path = format!("/api/v1/label/__name__/values?match[]={}", client::escape("{job=\"backlog\"}"));
    let answer = client::get(addr, &path).await?.json()?;
    let names = answer["data"].as_array().context("a list of names")?;
    Ok(names.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect())
}

/// Starts an agent that enrols at `hub`; back when it is ready.
pub(crate) async fn agent(directory: &Path, hub: SocketAddr, config: &str) -> Result<Peer> {
    agent_with(&directory.join("agent"), hub, config, &token(hub, 1)?).await
}

/// As [`agent`], with everything in `directory`, and a token of some cluster.
pub(crate) async fn agent_with(directory: &Path, hub: SocketAddr, config: &str, token: &str) -> Result<Peer> {
    let data = directory.join("data");
    std::fs::create_dir_all(&data)?;
    let file = directory.join("config.yml");
    std::fs::write(&file, config)?;
    let addr = peers::free_addr()?;
    let mut args = vec![
        "agent".to_owned(),
        format!("--hub=https://{hub}"),
        format!("--config={}", file.display()),
        format!("--data={}", data.display()),
        format!("--listen={addr}"),
        "--log.level=error".to_owned(),
    ];
    args.push(format!("--token={token}"));
    Peer::start(&System::Marigraph.program()?, &args, addr, "/-/ready").await
}

async fn vmagent(directory: &Path, home: &Running, config: &str) -> Result<Peer> {
    let program = peers::program("vmagent").context("vmagent is not there")?;
    let directory = directory.join("vmagent");
    let queue = directory.join("queue");
    std::fs::create_dir_all(&queue)?;
    let file = directory.join("config.yml");
    std::fs::write(&file, config)?;
    let addr = peers::free_addr()?;
    let args = [
        format!("-promscrape.config={}", file.display()),
        format!("-remoteWrite.url=http://{}/api/v1/write", home.peer.addr),
        format!("-remoteWrite.tmpDataPath={}", queue.display()),
        format!("-httpListenAddr={addr}"),
        "-loggerLevel=ERROR".to_owned(),
    ];
    Peer::start(&program, &args, addr, "/health").await
}

fn usages(ids: [u32; 4]) -> Result<[Usage; 4]> {
    let mut all = [Usage::default(); 4];
    for (usage, id) in all.iter_mut().zip(ids) {
        *usage = process::usage(id)?;
    }
    Ok(all)
}

/// Bytes sent home so far, by the agent's own count: bodies for ours, what the connection carried for
/// vmagent.
async fn sent(agent: &Peer) -> Result<f64> {
    let ours = metric(agent, "marigraph_agent_hub_sent_bytes_total").await?;
    Ok(ours + metric(agent, "vmagent_remotewrite_conn_bytes_written_total").await?)
}

/// Blocks that the hub has not acknowledged yet.
async fn pending(agent: &Peer) -> Result<f64> {
    metric(agent, "marigraph_agent_hub_pending_blocks").await
}

/// The sum of a metric's series on the agent's page; zero when it has none.
async fn metric(agent: &Peer, name: &str) -> Result<f64> {
    let page = client::get(agent.addr, "/metrics").await?.text();
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    let of_metric = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    Ok(page.lines().filter(of_metric).filter_map(value).sum())
}

async fn series_home(addr: SocketAddr) -> Result<String> {
    let path = format!("/api/v1/query?query={}", client::escape("count({job=\"bench\"})"));
    let answer = client::get(addr, &path).await?.json()?;
    Ok(answer["data"]["result"][0]["value"][1].as_str().unwrap_or("none").to_owned())
}
