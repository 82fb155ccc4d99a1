//! A hub and an agent in one process: enrolment, rows home through outages, targets through the tunnel.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use marigraph::agent::Agent;
use marigraph::cli::AgentArgs;
use marigraph::hub::Hub;
use serde_json::Value;
use testkit::http;

use crate::{eventually, start_hub_at, value};

/// A token for `cluster`, made as its administrator would.
pub(crate) async fn token(hub: &Hub, cluster: &str) -> Result<String> {
    let form = format!("kind=enrol&clusters={cluster}&labels={}", http::escape("{\"region\":\"north\"}"));
    let answer =
        http::post(hub.addr(), "/api/v1/admin/tokens", "application/x-www-form-urlencoded", form).await?;
    anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    let made = answer.json()?;
    let token = made["data"]["token"].as_str().or_else(|| made["token"].as_str());
    Ok(token.with_context(|| format!("no token in {made}"))?.to_owned())
}

pub(crate) async fn start_agent(directory: &Path, hub: &Hub, token: Option<&str>) -> Result<Agent> {
    let config = "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\nmachine: {}\nscrape_configs:\n\
                  - job_name: node\n  metrics_path: /metrics/machine\n  honor_labels: true\n  static_configs:\n";
    let data = directory.join("agent");
    std::fs::create_dir_all(&data)?;
    // The agent scrapes itself; its port has to be known before.
    let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let file = directory.join("agent.yml");
    std::fs::write(&file, format!("{config}  - targets: [\"{listen}\"]\n"))?;
    let mut words = vec![
        format!("--hub=https://{}", hub.addr()),
        format!("--data={}", data.display()),
        format!("--listen={listen}"),
        format!("--config={}", file.display()),
    ];
    words.extend(token.map(|token| format!("--token={token}")));
    Agent::start(AgentArgs::parse(words)?).await
}

const ROWS: &str = "count_over_time(up{cluster=\"alpha\",region=\"north\",job=\"node\"}[10m])";

fn count(result: &[Value]) -> f64 {
    result.first().and_then(|sample| value(sample).ok()).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_come_home_also_those_of_an_outage() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub_at(directory.path(), None, "127.0.0.1:0").await?;
    let addr = hub.addr();
    let token = token(&hub, "alpha").await?;
    let agent = start_agent(directory.path(), &hub, Some(&token)).await?;
    let before = count(&eventually(addr, ROWS, |result| count(result) >= 3.0).await?);

    // The hub is away for a while; the agent goes on, and restarts without the token in between.
    hub.stop().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    agent.stop().await?;
    let hub = start_hub_at(directory.path(), None, &addr.to_string()).await?;
    let agent = start_agent(directory.path(), &hub, None).await?;
    // Every scrape of the outage is there: five a second.
    let enough = before + 5.0;
    eventually(addr, ROWS, |result| count(result) >= enough).await?;

    // Each row once: no series has more samples than time allows, and none stands twice.
    let twice = "count(count by (job, instance) (up{cluster=\"alpha\"})) by () > 2";
    assert!(crate::query(addr, twice).await?.is_empty());

    // The targets of the cluster, with addresses that lead through the hub.
    let found = loop {
        let list = http::get(addr, "/sd/v1/targets?cluster=alpha").await?.json()?;
        if let Some(target) = list.as_array().and_then(|list| list.first()) {
            break target.clone();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(found["labels"]["job"], "node");
    assert_eq!(found["labels"]["cluster"], "alpha");
    let target = found["targets"][0].as_str().context("an address")?;
    let page = http::get(addr, &format!("http://{target}/metrics/machine")).await?;
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(page.text().contains("node_cpu_seconds_total"), "{}", page.text());

    agent.stop().await?;
    hub.stop().await
}
