//! A hub that scrapes a cluster's targets itself, through the agent's tunnel.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use marigraph::agent::Agent;
use marigraph::cli::AgentArgs;
use marigraph::hub::Hub;
use testkit::http;
use testkit::target::FakeTarget;

use crate::{PATIENCE, eventually, fleet, query, start_hub_at, value};

fn hub_config(listed: SocketAddr, stranger: SocketAddr) -> String {
    let far = |job: &str, addr: SocketAddr| {
        format!("- job_name: {job}\n  cluster: alpha\n  static_configs: [{{targets: ['{addr}']}}]\n")
    };
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: central\n  cluster: alpha\n  \
         metric_relabel_configs: [{{source_labels: [__name__], regex: secret, action: drop}}]\n{}{}",
        far("listed", listed),
        far("stranger", stranger)
    )
}

async fn start_agent(directory: &Path, hub: &Hub, own: SocketAddr, listed: SocketAddr) -> Result<Agent> {
    let file = directory.join("agent.yml");
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: fishery\n  metrics_path: \
         /catch\n  params: {{of: [today]}}\n  authorization: {{credentials: hush}}\n  static_configs: [{{targets: \
         ['{own}'], labels: {{sea: north}}}}]\ntunnel: {{allow_urls: ['http://{listed}/metrics']}}\n"
    );
    std::fs::write(&file, config)?;
    let words = [
        format!("--hub=https://{}", hub.addr()),
        format!("--data={}", directory.join("agent").display()),
        "--listen=127.0.0.1:0".to_owned(),
        format!("--config={}", file.display()),
        format!("--token={}", fleet::token(hub, "alpha").await?),
    ];
    Agent::start(AgentArgs::parse(words)?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_scrapes_what_an_agent_lets_it_reach() -> Result<()> {
    // The agent's own job knows the credential; the hub's does not.
    let own = FakeTarget::start("fish{cluster=\"painted\"} 3\nsecret 1\n").await?;
    own.require("Bearer hush");
    let listed = FakeTarget::start("whales 1\n").await?;
    let stranger = FakeTarget::start("never 1\n").await?;
    let directory = tempfile::tempdir()?;
    let config = hub_config(listed.addr, stranger.addr);
    let hub = start_hub_at(directory.path(), Some(&config), "127.0.0.1:0").await?;
    let addr = hub.addr();
    let agent = start_agent(directory.path(), &hub, own.addr, listed.addr).await?;

    let fish = eventually(addr, "fish{job=\"central\"}", |fish| fish.len() == 1).await?;
    let labels = &fish[0]["metric"];
    assert_eq!(value(&fish[0])?, 3.0);
    for (name, expected) in [
        ("cluster", "alpha"),
        ("exported_cluster", "painted"),
        ("region", "north"),
        ("sea", "north"),
        ("instance", own.addr.to_string().as_str()),
    ] {
        assert_eq!(labels[name], expected, "{labels}");
    }
    eventually(addr, "whales{job=\"listed\",cluster=\"alpha\"}", |whales| whales.len() == 1).await?;
    eventually(addr, "up{job=\"stranger\"} == 0", |up| up.len() == 1).await?;
    // The agent's own job goes home as before, and a series of the hub's job is another one.
    eventually(addr, "fish{job=\"fishery\",cluster=\"alpha\"}", |fish| fish.len() == 1).await?;
    assert!(query(addr, "{__name__=\"secret\",job=\"central\"}").await?.is_empty());
    assert_eq!(stranger.scrapes(), 0);
    let why = last_error(addr, "stranger").await?;
    assert!(why.contains("403 cluster alpha") && why.contains("is not on the allow list"), "{why}");
    let (_, url) = state(addr, "central").await?;
    assert_eq!(url, format!("http://{}/catch?of=today", own.addr));

    // Without the agent the targets are down, and it is said why.
    agent.stop().await?;
    eventually(addr, "up{job=\"central\"} == 0", |up| up.len() == 1).await?;
    let away = "no agent of cluster alpha is connected to this hub";
    let begin = Instant::now();
    loop {
        let why = last_error(addr, "central").await?;
        if why.ends_with(away) {
            break;
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "{why}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // What was due and did not come stands in the ledger, under the cluster.
    let begin = Instant::now();
    loop {
        let path = "/api/v1/completeness?cluster=alpha&job=central";
        let total = http::get(addr, path).await?.json()?["data"]["total"].take();
        if total["reasons"]["target_unreachable"].as_u64().is_some_and(|missing| missing > 0) {
            assert!(total["stored"].as_u64().is_some_and(|stored| stored > 0), "{total}");
            break;
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "{total}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    hub.stop().await
}

async fn last_error(addr: SocketAddr, job: &str) -> Result<String> {
    Ok(state(addr, job).await?.0)
}

/// Last error and URL of the one target of `job`.
async fn state(addr: SocketAddr, job: &str) -> Result<(String, String)> {
    let targets = http::get(addr, "/api/v1/targets").await?.json()?;
    let targets = targets["data"]["activeTargets"].as_array().context("targets")?.clone();
    let target = targets.iter().find(|target| target["scrapePool"] == job).context("the job's target")?;
    let text = |field: &str| target[field].as_str().unwrap_or_default().to_owned();
    Ok((text("lastError"), text("scrapeUrl")))
}
