//! Agents behind an HTTP proxy: rows and tunnel go through `CONNECT`, also where it asks for credentials, and where it cuts
//! connections that are idle.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use marigraph::agent::Agent;
use marigraph::cli::AgentArgs;
use marigraph::hub::Hub;
use testkit::http;
use testkit::target::FakeTarget;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{PATIENCE, eventually, fleet, start_hub_at, value};

/// `user:secret`.
const CREDENTIALS: &str = "proxy-authorization: basic dxnlcjpzzwnyzxq=";

/// A proxy that knows `CONNECT` only.
struct HttpProxy {
    addr: SocketAddr,
    passed: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    cut: Arc<AtomicUsize>,
}

impl HttpProxy {
    /// Asks for credentials, and cuts connections on which nothing has passed for `idle`.
    async fn start(idle: Option<Duration>) -> Result<HttpProxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let counts = || Arc::<AtomicUsize>::default();
        let proxy =
            HttpProxy { addr: listener.local_addr()?, passed: counts(), refused: counts(), cut: counts() };
        let (passed, refused, cut) =
            (Arc::clone(&proxy.passed), Arc::clone(&proxy.refused), Arc::clone(&proxy.cut));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (passed, refused, cut) = (Arc::clone(&passed), Arc::clone(&refused), Arc::clone(&cut));
                tokio::spawn(async move {
                    match carry(stream, idle, &passed).await {
                        Ok(Ended::Refused) => _ = refused.fetch_add(1, Ordering::SeqCst),
                        Ok(Ended::Idle) => _ = cut.fetch_add(1, Ordering::SeqCst),
                        Ok(Ended::Closed) | Err(_) => {}
                    }
                });
            }
        });
        Ok(proxy)
    }

    fn url(&self, user: &str) -> String {
        format!("--proxy=http://{user}{}", self.addr)
    }
}

enum Ended {
    Refused,
    Idle,
    Closed,
}

async fn carry(mut near: TcpStream, idle: Option<Duration>, passed: &AtomicUsize) -> Result<Ended> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < 16 << 10, "a long head");
        head.push(near.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    if !head.to_ascii_lowercase().contains(CREDENTIALS) {
        let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"sea\"\r\n\
                      Content-Length: 0\r\n\r\n";
        near.write_all(answer.as_bytes()).await?;
        return Ok(Ended::Refused);
    }
    let to = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).context("not CONNECT")?;
    let mut far = TcpStream::connect(to).await?;
    near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    passed.fetch_add(1, Ordering::SeqCst);
    let (mut here, mut there) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let patience = tokio::time::sleep(idle.unwrap_or(Duration::from_secs(3600)));
        tokio::select! {
            read = near.read(&mut here) => match read? {
                0 => return Ok(Ended::Closed),
                length => far.write_all(&here[..length]).await?,
            },
            read = far.read(&mut there) => match read? {
                0 => return Ok(Ended::Closed),
                length => near.write_all(&there[..length]).await?,
            },
            () = patience => return Ok(Ended::Idle),
        }
    }
}

async fn start(root: &Path, hub: &Hub, further: &[String]) -> Result<Agent> {
    let mut words = vec![
        format!("--hub=https://{}", hub.addr()),
        format!("--data={}", root.join("agent").display()),
        "--listen=127.0.0.1:0".to_owned(),
        format!("--config={}", root.join("agent.yml").display()),
    ];
    words.extend(further.iter().cloned());
    Agent::start(AgentArgs::parse(words)?).await
}

fn config(root: &Path, target: &FakeTarget, interval: &str) -> Result<()> {
    let text = format!(
        "global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\nscrape_configs:\n- job_name: buoys\n  \
         static_configs: [{{targets: ['{}']}}]\n",
        target.addr
    );
    Ok(std::fs::write(root.join("agent.yml"), text)?)
}

/// Waits until the ledger has every row of the `seconds` before now but the last two.
async fn complete(hub: &Hub, seconds: u64, least: u64) -> Result<()> {
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let path = format!("/api/v1/completeness?cluster=alpha&start={}&end={}", now_s - seconds, now_s - 2);
    let begin = Instant::now();
    loop {
        let total = http::get(hub.addr(), &path).await?.json()?["data"]["total"].take();
        let stored = total["stored"].as_u64().unwrap_or(0);
        if stored >= least && total["stored"] == total["expected"] {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "{total}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_and_tunnel_go_through_a_proxy_that_asks_for_credentials() -> Result<()> {
    let root = tempfile::tempdir()?;
    let root = root.path();
    let target = FakeTarget::start("tide_metres 3.5\n").await?;
    config(root, &target, "500ms")?;
    let hub = start_hub_at(root, None, "127.0.0.1:0").await?;
    let proxy = HttpProxy::start(None).await?;
    let token = format!("--token={}", fleet::token(&hub, "alpha").await?);

    // Without credentials nobody enrols.
    let without = [proxy.url(""), token.clone()];
    let refused = start(root, &hub, &without);
    ensure!(tokio::time::timeout(Duration::from_secs(2), refused).await.is_err(), "it has enrolled");
    ensure!(proxy.refused.load(Ordering::SeqCst) > 0 && proxy.passed.load(Ordering::SeqCst) == 0);

    let agent = start(root, &hub, &[proxy.url("user:secret@"), token]).await?;
    eventually(hub.addr(), "count_over_time(up{cluster=\"alpha\"}[1m]) > 3", |found| !found.is_empty())
        .await?;
    let tunnel = "marigraph_tunnel_connections{kind=\"control\"";
    let begin = Instant::now();
    while !http::get(hub.addr(), "/metrics")
        .await?
        .text()
        .lines()
        .any(|l| l.starts_with(tunnel) && l.ends_with(" 1"))
    {
        ensure!(begin.elapsed() < PATIENCE, "no tunnel");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The exchange of certificates, the tunnel and the rows.
    ensure!(proxy.passed.load(Ordering::SeqCst) >= 3, "{:?}", proxy.passed);
    agent.stop().await?;

    // The proxy's credentials have changed: rows wait, and come when they are right again.
    let passed = proxy.passed.load(Ordering::SeqCst);
    let agent = start(root, &hub, &[proxy.url("user:wrong@")]).await?;
    let rows =
        eventually(hub.addr(), "count_over_time(up{cluster=\"alpha\"}[5m])", |found| !found.is_empty())
            .await?;
    let before = value(&rows[0])?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(proxy.passed.load(Ordering::SeqCst) == passed, "the proxy let something pass");
    agent.stop().await?;
    let agent = start(root, &hub, &[proxy.url("user:secret@")]).await?;
    // Of the three seconds, too: two rows a second.
    let enough = format!("count_over_time(up{{cluster=\"alpha\"}}[5m]) >= {}", before + 5.0);
    eventually(hub.addr(), &enough, |found| !found.is_empty()).await?;
    agent.stop().await?;
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_proxy_that_cuts_idle_connections_costs_no_row() -> Result<()> {
    let root = tempfile::tempdir()?;
    let root = root.path();
    let target = FakeTarget::start("tide_metres 3.5\n").await?;
    // Longer than connections may be idle.
    config(root, &target, "2s")?;
    let hub = start_hub_at(root, None, "127.0.0.1:0").await?;
    let proxy = HttpProxy::start(Some(Duration::from_millis(900))).await?;
    let token = format!("--token={}", fleet::token(&hub, "alpha").await?);
    let agent = start(root, &hub, &[proxy.url("user:secret@"), token]).await?;
    eventually(hub.addr(), "count_over_time(up{cluster=\"alpha\"}[1m]) >= 4", |found| !found.is_empty())
        .await?;
    ensure!(proxy.cut.load(Ordering::SeqCst) >= 3, "{:?} idle connections were cut", proxy.cut);
    complete(&hub, 6, 2).await?;
    agent.stop().await?;
    hub.stop().await
}
