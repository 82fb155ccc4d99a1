//! Hubs and agents as processes in network namespaces of their own, and what networks do to them.

mod lines;
mod prometheus;
mod pushprox;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::http;
use testkit::net::{Net, Site};
use testkit::peers::Peer;
use testkit::target::FakeTarget;

/// What the hub wants to see of everybody.
const SECRET: &str = "harbour-secret";
/// Where the hub listens at its site, and every agent at its own.
const HUB_PORT: u16 = 9190;
const AGENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9191);
/// Longest a test waits for something that takes no more than moments.
const PATIENCE: Duration = Duration::from_secs(45);

/// A hub at a site of its own.
struct HubAt {
    addr: SocketAddr,
    _process: Peer,
}

impl HubAt {
    /// Starts one; its certificate also names `names`.
    async fn start(directory: &Path, site: &Site, names: &[IpAddr]) -> Result<HubAt> {
        HubAt::start_with(directory, site, names, "").await
    }

    /// As [`HubAt::start`], with further sections of the configuration.
    async fn start_with(directory: &Path, site: &Site, names: &[IpAddr], further: &str) -> Result<HubAt> {
        let addr = SocketAddr::new(site.addr(), HUB_PORT);
        let config = directory.join("hub.yml");
        std::fs::write(&config, format!("web: {{auth: {{bearer_tokens: [{SECRET}]}}}}\n{further}"))?;
        let mut args = vec![
            "hub".to_owned(),
            format!("--config={}", config.display()),
            format!("--data={}", directory.join("hub").display()),
            format!("--listen={addr}"),
            format!("--advertise=https://{addr}"),
            "--tls.plaintext=everywhere".to_owned(),
            "--retention.time=0".to_owned(),
            "--log.level=error".to_owned(),
        ];
        args.extend(names.iter().map(|name| format!("--tls.name={name}")));
        let process = start(site, args, addr).await?;
        Ok(HubAt { addr, _process: process })
    }

    async fn get(&self, path: &str) -> Result<http::Answer> {
        http::get_as(self.addr, SECRET, path).await
    }

    async fn json(&self, path: &str) -> Result<Value> {
        let answer = self.get(path).await?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        answer.json()
    }

    /// The `result` of an instant query.
    async fn query(&self, query: &str, at: Option<u64>) -> Result<Vec<Value>> {
        let at = at.map(|at| format!("&time={at}")).unwrap_or_default();
        let mut json = self.json(&format!("/api/v1/query?query={}{at}", http::escape(query))).await?;
        match json["data"]["result"].take() {
            Value::Array(result) => Ok(result),
            other => anyhow::bail!("{query}: result is {other}"),
        }
    }

    /// A token with which an agent of `cluster` enrols.
    async fn token(&self, cluster: &str) -> Result<String> {
        let request = ::http::Request::post("/api/v1/admin/tokens")
            .header("host", self.addr.to_string())
            .header("authorization", format!("Bearer {SECRET}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(http_body_util::Full::from(format!("kind=enrol&clusters={cluster}")))?;
        let answer = http::send(self.addr, request).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        let made = answer.json()?;
        let token = made["data"]["token"].as_str().or_else(|| made["token"].as_str());
        Ok(token.with_context(|| format!("no token in {made}"))?.to_owned())
    }

    /// Own metrics whose line begins with `series`; their sum.
    async fn own(&self, series: &str) -> Result<f64> {
        Ok(sum_of(&self.get("/metrics").await?.text(), series))
    }
}

/// A cluster at a site of its own: targets, and an agent that scrapes them.
struct Cluster {
    name: String,
    site: Site,
    agent: Peer,
    _targets: Vec<FakeTarget>,
}

/// How a cluster is to be.
struct Plan<'a> {
    name: &'a str,
    /// How many targets, at the same addresses in each cluster.
    targets: u8,
    interval: &'a str,
    /// Further lines of the job, as they stand in the file.
    job: &'a str,
    /// What target `number` answers.
    body: fn(&str, u8) -> String,
    /// The hub, as the agent reaches it.
    hub: SocketAddr,
}

impl Plan<'_> {
    /// What scrapes the targets in place; `label` stands on them beside what tells them apart.
    fn config(&self, label: &str) -> String {
        let Plan { interval, job, .. } = self;
        let mut out = format!(
            "global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\nscrape_configs:\n\
             - job_name: piers\n{job}  static_configs:\n"
        );
        for number in 1..=self.targets {
            let (target, quay) = (address(number), number % 7);
            out += &format!("  - {{targets: ['{target}'], labels: {{quay: q{quay}{label}}}}}\n");
        }
        out
    }
}

impl Cluster {
    async fn start(directory: &Path, plan: &Plan<'_>, site: Site, token: &str) -> Result<Cluster> {
        site.add_network("10.96.0.0/24")?;
        let bodies: Vec<_> =
            (1..=plan.targets).map(|number| (address(number), (plan.body)(plan.name, number))).collect();
        let targets = site.run(async move {
            let mut targets = Vec::with_capacity(bodies.len());
            for (addr, body) in bodies {
                targets.push(FakeTarget::start_at(addr, body).await?);
            }
            Ok(targets)
        });
        let targets = targets.await?;
        let config = directory.join(format!("{}.yml", plan.name));
        std::fs::write(&config, plan.config(""))?;
        let args = vec![
            "agent".to_owned(),
            format!("--hub=https://{}", plan.hub),
            format!("--token={token}"),
            format!("--config={}", config.display()),
            format!("--data={}", directory.join(plan.name).display()),
            format!("--listen={AGENT}"),
            "--log.level=error".to_owned(),
        ];
        let agent = start(&site, args, AGENT).await?;
        Ok(Cluster { name: plan.name.to_owned(), site, agent, _targets: targets })
    }

    /// The agent's own metrics whose line begins with `series`; their sum.
    async fn own(&self, series: &str) -> Result<f64> {
        let page = self.site.run(async { Ok(http::get(AGENT, "/metrics").await?.text()) }).await?;
        Ok(sum_of(&page, series))
    }
}

/// Where target `number` stands, in every cluster.
fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, number], 9100))
}

/// Starts the program at `site`; back when it is ready.
async fn start(site: &Site, args: Vec<String>, addr: SocketAddr) -> Result<Peer> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_marigraph"));
    site.run(async move { Peer::start(&program, &args, addr, "/-/ready").await }).await
}

fn sum_of(metrics: &str, series: &str) -> f64 {
    let values = metrics.lines().filter(|line| line.starts_with(series));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Asks again and again until it is so; how long that took.
async fn until(what: &str, patience: Duration, so: impl AsyncFn() -> Result<bool>) -> Result<Duration> {
    let begin = Instant::now();
    while !so().await.with_context(|| what.to_owned())? {
        ensure!(begin.elapsed() < patience, "{what}: not after {patience:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(begin.elapsed())
}

/// Seconds since the epoch.
fn now_s() -> Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

/// The sites of a test; the hub's is the first.
fn sites(net: &mut Net, count: usize) -> Result<Vec<Site>> {
    (0..count).map(|_| net.site()).collect()
}
