//! Many agents at one hub: what each costs it, and how long they take to come back when it restarts.
//!
//! The hub is the program; the agents are this process's own: identity, enrolment and tunnel of real
//! ones, without anything to scrape.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http_body_util::{BodyExt, Full};
use stdx::clock::{Clock, SystemClock};
use stdx::disk::RealDisk;
use testkit::http as client;
use testkit::peers;
use tunnel::identity::{AgentIdentity, Alpn, Reach, Reaching};
use tunnel::{Connector, DialConfig, Handler, HubUrl, Proxies, Tunnels};

use crate::agents::token;
use crate::process;
use crate::report::Verdicts;
use crate::system::System;

/// Longest all agents may take to come, the first time and again.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long the hub stays away.
const AWAY: Duration = Duration::from_secs(5);

/// Sizes of the workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) agents: usize,
}

/// The way to the hub.
struct Way(Connector);

impl Reach for Way {
    fn reach<'a>(&'a self, hub: &'a str, tls: Arc<rustls::ClientConfig>) -> Reaching<'a> {
        Box::pin(async move {
            let url = HubUrl::parse(hub).map_err(|error| error.to_string())?;
            let stream = self.0.connect(&url, tls).await.map_err(|error| error.to_string())?;
            Ok(Box::new(stream) as _)
        })
    }
}

/// Connects them all, kills the hub, and counts the seconds until all are back.
pub(crate) async fn run(workload: Workload, verdicts: &mut Verdicts) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let addr = peers::free_addr()?;
    let home = directory.path().join("hub");
    let hub = System::Marigraph.start_at(&home, "global: {}\n", addr).await?;
    let before = process::usage(hub.peer.id())?;
    let begin = Instant::now();
    let mut agents = Vec::with_capacity(workload.agents);
    let token = token(addr, workload.agents)?;
    for number in 0..workload.agents {
        agents.push(agent(&directory.path().join(format!("agent-{number}")), addr, &token).await?);
    }
    wait_for(addr, workload.agents).await?;
    let connected = process::usage(hub.peer.id())?;
    println!(
        "fleet: {} agents enrolled and connected in {:.1} s; {:.2} CPU ms and {:.1} KiB each at the hub",
        workload.agents,
        begin.elapsed().as_secs_f64(),
        (connected.cpu_seconds - before.cpu_seconds) * 1000.0 / workload.agents as f64,
        (connected.rss_mib - before.rss_mib) * 1024.0 / workload.agents as f64,
    );
    drop(hub); // kill -9
    tokio::time::sleep(AWAY).await;
    let hub = System::Marigraph.start_at(&home, "global: {}\n", addr).await?;
    let begin = Instant::now();
    wait_for(addr, workload.agents).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let usage = process::usage(hub.peer.id())?;
    println!(
        "fleet: all back {seconds:.1} s after the hub was ready again, at {:.2} CPU ms each; RSS {:.0} MiB",
        usage.cpu_seconds * 1000.0 / workload.agents as f64,
        usage.rss_mib
    );
    verdicts.at_most(
        format!("restart of a hub: seconds until {} agents are back", workload.agents),
        seconds,
        30.0,
    );
    drop(agents);
    Ok(())
}

async fn agent(
    directory: &std::path::Path,
    hub: SocketAddr,
    token: &str,
) -> Result<(Tunnels, Arc<AgentIdentity>)> {
    std::fs::create_dir_all(directory)?;
    let clock: Arc<dyn Clock> = SystemClock::shared();
    let hub = format!("https://{hub}");
    let identity = AgentIdentity::open(RealDisk::shared(), directory, None, Arc::clone(&clock))?;
    let connector = Connector::new(Proxies::none());
    identity.enrol(&Way(connector.clone()), &hub, token).await?;
    let (_, tls) = tokio::sync::watch::channel(identity.tls().client_config(Alpn::Http1));
    let mut config = DialConfig::new(vec![HubUrl::parse(&hub)?], tls);
    config.connector = connector;
    let nothing = Handler::from_fn(|_| async {
        http::Response::new(Full::default().map_err(|never| match never {}).boxed_unsync())
    });
    Ok((Tunnels::start(config, &nothing, &clock), Arc::new(identity)))
}

/// Waits until the hub counts `agents` tunnels.
async fn wait_for(hub: SocketAddr, agents: usize) -> Result<()> {
    let begin = Instant::now();
    loop {
        let page = client::get(hub, "/metrics").await?.text();
        let line =
            page.lines().find(|line| line.starts_with("marigraph_tunnel_connections{kind=\"control\"}"));
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).unwrap_or_default();
        if count >= agents {
            return Ok(());
        }
        ensure!(begin.elapsed() < DEADLINE, "{count} of {agents} agents after {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
