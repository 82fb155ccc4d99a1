//! Scrapes through hub, tunnel and agent beside the same scrapes without them, in the same run: what the way adds, and
//! how many a core carries.
//!
//! Hub and agent are the program, the hub with its real listener; targets and scraper are this process. First at an
//! even rate, direct and through by turns, for latency; then as fast as it goes, for CPU. The agent itself scrapes
//! so rarely that it does not count.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use testkit::http as client;
use testkit::peers;
use testkit::target::FakeTarget;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::agents;
use crate::process;
use crate::report::Verdicts;
use crate::system::System;

/// About what node_exporter's page has, packed.
const BODY_BYTES: usize = 11 << 10;
/// Scrapes a second of each kind while latency is measured.
const RATE: u32 = 100;
/// Scrapes at once while CPU is measured.
const IN_FLIGHT: usize = 16;
/// Longest until the hub lists all targets.
const DEADLINE: Duration = Duration::from_secs(30);

/// Sizes of the workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) targets: usize,
    /// Of each part.
    pub(crate) seconds: u64,
}

/// Runs the workload.
pub(crate) async fn run(workload: Workload, verdicts: &mut Verdicts) -> Result<()> {
    let line = "depth_meters{basin=\"harbour\",gauge=\"north\"} 17.25\n";
    let body = Bytes::from(line.repeat(BODY_BYTES / line.len()));
    let mut targets = Vec::new();
    for _ in 0..workload.targets {
        targets.push(FakeTarget::start(body.clone()).await?);
    }
    let list: Vec<String> = targets.iter().map(|target| format!("'{}'", target.addr)).collect();
    let config = format!(
        "scrape_configs:\n- job_name: bench\n  scrape_interval: 1d\n  static_configs: [{{targets: [{}]}}]\n",
        list.join(", ")
    );
    let directory = tempfile::tempdir()?;
    let hub = peers::free_addr()?;
    let running = System::Marigraph.start_at(&directory.path().join("hub"), "global: {}\n", hub).await?;
    let agent = agents::agent(directory.path(), hub, &config).await?;
    let ways: Vec<Way> = through(hub, workload.targets).await?;

    let mut direct = Vec::new();
    let mut added = Vec::new();
    let mut whole = Vec::new();
    let mut scrapers = Vec::new();
    for way in &ways {
        scrapers.push((Scraper::direct(way).await?, Scraper::through(hub, way).await?));
    }
    // Connections are open and pages warm before anything counts.
    for (straight, round) in &mut scrapers {
        ensure!(straight.scrape().await? == round.scrape().await?, "another page comes through the tunnel");
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    for at in 0..workload.seconds as usize * RATE as usize {
        ticks.tick().await;
        let (straight, round) = &mut scrapers[at % ways.len()];
        let begin = Instant::now();
        straight.scrape().await?;
        let without = begin.elapsed();
        let begin = Instant::now();
        round.scrape().await?;
        let with = begin.elapsed();
        direct.push(without);
        whole.push(with);
        added.push(with.saturating_sub(without));
    }
    let [direct, whole, added] = [direct, whole, added].map(|mut all| {
        all.sort();
        move |part: f64| all[((all.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0
    });
    println!(
        "tunnel: {RATE} scrapes of {BODY_BYTES} bytes a second; ms at 50 and 99 %: direct {:.2} {:.2}, through {:.2} \
         {:.2}, added {:.2} {:.2}",
        direct(0.5),
        direct(0.99),
        whole(0.5),
        whole(0.99),
        added(0.5),
        added(0.99)
    );
    verdicts.at_most("tunnel: ms added at 99 %", whole(0.99) - direct(0.99), 5.0);

    let ids = [running.peer.id(), agent.id()];
    let usages = || ids.map(|id| process::usage(id).map(|usage| usage.cpu_seconds));
    let before = usages();
    let begin = Instant::now();
    let count = fast(scrapers, begin + Duration::from_secs(workload.seconds)).await? as f64;
    let seconds = begin.elapsed().as_secs_f64();
    let [hub_cpu, agent_cpu] = [0, 1].map(|at| match (&usages()[at], &before[at]) {
        (Ok(after), Ok(before)) => after - before,
        _ => f64::NAN,
    });
    println!(
        "tunnel: {IN_FLIGHT} at once: {:.0} scrapes a second; a CPU second of the hub carries {:.0}, of the agent {:.0}, \
         of both together {:.0}",
        count / seconds,
        count / hub_cpu,
        count / agent_cpu,
        count / (hub_cpu + agent_cpu)
    );
    verdicts.at_least("tunnel: scrapes per CPU s of hub and agent", count / (hub_cpu + agent_cpu), 2000.0);
    Ok(())
}

/// A target: where it is, and what the hub calls it.
struct Way {
    direct: SocketAddr,
    name: String,
}

/// The targets, once the hub lists all of them.
async fn through(hub: SocketAddr, count: usize) -> Result<Vec<Way>> {
    let begin = Instant::now();
    loop {
        let list = client::get(hub, "/sd/v1/targets").await?;
        let list = if list.status == 200 { list.json()? } else { client::Json::Null };
        let groups = list.as_array().map(Vec::as_slice).unwrap_or_default();
        if groups.len() == count {
            let way = |group: &client::Json| {
                let name = group["targets"][0].as_str().context("an address")?.to_owned();
                let direct = group["labels"]["instance"].as_str().context("an instance")?.parse()?;
                Ok(Way { direct, name })
            };
            return groups.iter().map(way).collect();
        }
        ensure!(begin.elapsed() < DEADLINE, "the hub lists {} of {count} targets", groups.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One connection, open from scrape to scrape.
struct Scraper {
    sender: SendRequest<Empty<Bytes>>,
    uri: String,
    host: String,
}

impl Scraper {
    async fn direct(way: &Way) -> Result<Scraper> {
        Scraper::open(way.direct, "/metrics".to_owned(), way.direct.to_string()).await
    }

    /// As Prometheus asks a proxy.
    async fn through(hub: SocketAddr, way: &Way) -> Result<Scraper> {
        Scraper::open(hub, format!("http://{}/metrics", way.name), way.name.clone()).await
    }

    async fn open(to: SocketAddr, uri: String, host: String) -> Result<Scraper> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Scraper { sender, uri, host })
    }

    /// The length of the page.
    async fn scrape(&mut self) -> Result<usize> {
        self.sender.ready().await?;
        let request = Request::get(&self.uri)
            .header("host", &self.host)
            .header("x-prometheus-scrape-timeout-seconds", "10")
            .body(Empty::new())?;
        let answer = self.sender.send_request(request).await?;
        ensure!(answer.status() == 200, "{}: {}", self.uri, answer.status());
        Ok(answer.into_body().collect().await?.to_bytes().len())
    }
}

/// Scrapes through the hub, without a pause, until `end`; how many.
async fn fast(scrapers: Vec<(Scraper, Scraper)>, end: Instant) -> Result<usize> {
    let mut shares: Vec<Vec<Scraper>> = (0..IN_FLIGHT).map(|_| Vec::new()).collect();
    for (at, (_, round)) in scrapers.into_iter().enumerate() {
        shares[at % IN_FLIGHT].push(round);
    }
    let mut workers = JoinSet::new();
    for mut share in shares.into_iter().filter(|share| !share.is_empty()) {
        workers.spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                for scraper in &mut share {
                    scraper.scrape().await?;
                    count += 1;
                }
            }
            Ok::<usize, anyhow::Error>(count)
        });
    }
    let mut count = 0;
    while let Some(done) = workers.join_next().await {
        count += done??;
    }
    Ok(count)
}
