//! Data that stay in the cluster: an agent with a store of its own, with and without a hub.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use marigraph::agent::Agent;
use marigraph::cli::AgentArgs;
use model::Labels;
use testkit::http;
use testkit::push::Push;

use crate::fleet::token;
use crate::{PATIENCE, eventually, query, start_hub_at, value};

/// An agent that scrapes itself, with `sections` in its configuration beside that.
async fn start_agent(directory: &Path, sections: &str, words: &[String]) -> Result<Agent> {
    std::fs::create_dir_all(directory)?;
    let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nmachine: {{}}\n{sections}scrape_configs:\n\
         - job_name: node\n  metrics_path: /metrics/machine\n  static_configs: [{{targets: ['{listen}']}}]\n"
    );
    let file = directory.join("agent.yml");
    std::fs::write(&file, config)?;
    let mut all = vec![
        format!("--data={}", directory.join("agent").display()),
        format!("--listen={listen}"),
        format!("--config={}", file.display()),
    ];
    all.extend(words.iter().cloned());
    Agent::start(AgentArgs::parse(all)?).await
}

const STORE: &str = "storage: {local: {}}\n";

fn now_ms() -> Result<i64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64)
}

/// Pushes one sample of `depth`.
async fn push(addr: SocketAddr, at_ms: i64, depth: f64) -> Result<()> {
    let mut request = Push::default();
    request.floats(&Labels::from_pairs([("__name__", "depth"), ("job", "sea")]), &[(at_ms, depth)]);
    let answer = request.send(addr).await?;
    anyhow::ensure!(answer.status == 204, "{}", answer.text());
    Ok(())
}

/// How many rows of the job there are.
async fn rows(addr: SocketAddr) -> Result<f64> {
    let found = query(addr, "count_over_time(up{job=\"node\"}[10m])").await?;
    found.first().map_or(Ok(0.0), value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_hub_an_agent_answers_from_its_own_store() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let words = ["--cluster=west".to_owned()];
    let agent = start_agent(directory.path(), STORE, &words).await?;
    let up = "up{job=\"node\",cluster=\"west\"}";
    eventually(agent.addr(), up, |found| found.len() == 1).await?;
    push(agent.addr(), now_ms()?, 4.5).await?;
    let depth = query(agent.addr(), "depth").await?;
    assert_eq!(depth[0]["metric"]["cluster"], "west", "{depth:?}");
    assert_eq!(value(&depth[0])?, 4.5);

    // What else a Prometheus answers.
    let form = "application/x-www-form-urlencoded";
    let body = format!("query={}&time={}", http::escape("depth * 2"), now_ms()? / 1000 + 1);
    let posted = http::post(agent.addr(), "/api/v1/query", form, body).await?;
    assert!(posted.text().contains("\"9\""), "{}", posted.text());
    let series = http::get(agent.addr(), "/api/v1/series?match[]=depth").await?.json()?;
    assert_eq!(series["data"][0]["job"], "sea", "{series}");
    let federated = http::get(agent.addr(), "/federate?match[]=depth").await?.text();
    assert!(federated.contains("depth{cluster=\"west\""), "{federated}");

    // Why a target is (not) scraped is told here, too.
    let path = "/api/v1/explain/target?target=node/127.0.0.1";
    let answer = http::get(agent.addr(), path).await?.json()?;
    let found = &answer["data"]["found"][0];
    assert_eq!(
        (&found["cluster"], &found["verdict"]),
        (&"west".into(), &"scraped and stored".into()),
        "{answer}"
    );
    assert_eq!(found["steps"][3]["what"], "in the agent's own store (1d or 8192MiB)", "{answer}");

    let before = rows(agent.addr()).await?;
    agent.stop().await?;
    let agent = start_agent(directory.path(), STORE, &words).await?;
    assert!(rows(agent.addr()).await? >= before, "a restart keeps what was there");
    let flags = http::get(agent.addr(), "/api/v1/status/flags").await?.json()?;
    assert_eq!(flags["data"]["cluster"], "west");
    let info = http::get(agent.addr(), "/api/v1/status/runtimeinfo").await?.json()?;
    assert_eq!(info["data"]["storageRetention"], "1d or 8192MiB");
    agent.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_a_hub_what_an_agent_keeps_does_not_travel() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub_at(directory.path(), Some("global: {}\n"), "127.0.0.1:0").await?;
    let enrol = token(&hub, "alpha").await?;
    let words = [format!("--hub=https://{}", hub.addr()), format!("--token={enrol}")];
    let agent = start_agent(directory.path(), STORE, &words).await?;
    let up = "up{job=\"node\",cluster=\"alpha\",region=\"north\"}";
    eventually(agent.addr(), up, |found| found.len() == 1).await?;
    push(agent.addr(), now_ms()?, 1.0).await?;
    // It is there, and connected.
    let connected = "/sd/v1/targets?cluster=alpha";
    while http::get(hub.addr(), connected).await?.json()?.as_array().is_none_or(Vec::is_empty) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    agent.stop().await?;
    // Its last words have been said; nothing of its rows, and no row is missing.
    let none = query(hub.addr(), "{job=~\"node|sea\"}").await?;
    assert!(none.is_empty(), "{none:?}");
    let account = http::get(hub.addr(), "/api/v1/completeness?cluster=alpha").await?.json()?;
    assert_eq!(account["data"]["total"]["expected"], 0, "{account}");
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_would_keep_nothing_does_not_start() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let started = start_agent(directory.path(), "", &[]).await;
    let told = started.err().map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(told.contains("agent.yml: nothing would keep the rows: give a hub (--hub)"), "{told}");

    // Nor does a reload leave it so: what is in force stays.
    let remote = "remote_write: [{url: 'http://127.0.0.1:9/'}]\n";
    let agent = start_agent(directory.path(), remote, &[]).await?;
    let file = directory.path().join("agent.yml");
    let without = std::fs::read_to_string(&file)?.replace(remote, "");
    std::fs::write(&file, without)?;
    let answer = http::post(agent.addr(), "/-/reload", "text/plain", String::new()).await?;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("nothing would keep the rows"), "{}", answer.text());
    let answer = http::get(agent.addr(), "/api/v1/query?query=up").await?;
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("this agent keeps no data of its own"), "{}", answer.text());
    agent.stop().await
}

/// What the hub's ledger says of the cluster.
async fn account(hub: SocketAddr) -> Result<serde_json::Value> {
    let mut answer = http::get(hub, "/api/v1/completeness?cluster=alpha&by=job").await?.json()?;
    Ok(answer["data"].take())
}

/// As [`account`], once `enough` likes it.
async fn account_when(
    hub: SocketAddr,
    enough: impl Fn(&serde_json::Value) -> bool,
) -> Result<serde_json::Value> {
    let begin = Instant::now();
    loop {
        let told = account(hub).await?;
        if enough(&told) {
            return Ok(told);
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "still {told}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many pushed rows of the job `sea` the hub has stored.
fn pushed(told: &serde_json::Value) -> u64 {
    let jobs = told["pushed"].as_array().into_iter().flatten();
    jobs.filter(|job| job["job"] == "sea").filter_map(|job| job["stored"].as_u64()).sum()
}

fn shipping(selectors: &str) -> String {
    format!("storage: {{local: {{ship: [{selectors}]}}}}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_selectors_name_goes_home_and_nothing_else_is_missed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub_at(directory.path(), Some("global: {}\n"), "127.0.0.1:0").await?;
    let enrol = token(&hub, "alpha").await?;
    let words = [format!("--hub=https://{}", hub.addr()), format!("--token={enrol}")];
    let section = shipping("up, '{job=\"sea\"}', 'node_load1'");
    let agent = start_agent(directory.path(), &section, &words).await?;
    push(agent.addr(), now_ms()?, 2.5).await?;
    // Of rows with what was selected, each has one cell beside its report.
    let told =
        account_when(hub.addr(), |told| told["total"]["stored"].as_u64() >= Some(4) && pushed(told) == 1)
            .await?;
    let total = &told["total"];
    assert_eq!((&total["missing"], &total["cellsLost"]), (&0.into(), &0.into()), "{told}");
    assert_eq!(total["cellsStored"], total["stored"], "{told}");

    // Another selection by a reload: the job is no longer expected, pushes still come.
    let file = directory.path().join("agent.yml");
    let config = std::fs::read_to_string(&file)?.replace(&section, &shipping("depth"));
    std::fs::write(&file, config)?;
    agent.reload().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let expected = account(hub.addr()).await?["total"]["expected"].clone();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    push(agent.addr(), now_ms()?, 3.5).await?;
    let told = account_when(hub.addr(), |told| pushed(told) == 2).await?;
    assert_eq!((&told["total"]["expected"], &told["total"]["stored"]), (&expected, &expected), "{told}");
    assert!(rows(agent.addr()).await? > expected.as_f64().unwrap_or(f64::MAX), "it goes on here");

    // What the hub itself has, once it cannot ask the agent.
    agent.stop().await?;
    let own = "count by (name) (label_replace(last_over_time({cluster=\"alpha\"}[10m]), \"name\", \"$1\", \"__name__\", \"(.*)\"))";
    let found = query(hub.addr(), own).await?;
    let mut names_found: Vec<&str> = found.iter().filter_map(|one| one["metric"]["name"].as_str()).collect();
    names_found.sort_unstable();
    assert_eq!(names_found, ["depth", "node_load1", "up"], "{found:?}");
    assert_eq!(rows(hub.addr()).await?, expected.as_f64().unwrap_or_default());
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_that_begins_to_keep_its_data_is_not_missed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub_at(directory.path(), Some("global: {}\n"), "127.0.0.1:0").await?;
    let enrol = token(&hub, "alpha").await?;
    let words = [format!("--hub=https://{}", hub.addr()), format!("--token={enrol}")];
    let agent = start_agent(directory.path(), "", &words).await?;
    eventually(hub.addr(), "up{job=\"node\"}", |found| found.len() == 1).await?;
    let listen = agent.addr().to_string();
    agent.stop().await?;

    // The same targets, so that they are the same sources.
    let file = directory.path().join("agent.yml");
    let config = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("{STORE}{config}"))?;
    let data = format!("--data={}", directory.path().join("agent").display());
    let config = format!("--config={}", file.display());
    let words = [data, config, format!("--listen={listen}"), format!("--hub=https://{}", hub.addr())];
    let agent = Agent::start(AgentArgs::parse(words)?).await?;
    eventually(agent.addr(), "count_over_time(up{job=\"node\"}[10m])", |found| {
        found.first().is_some_and(|count| value(count).is_ok_and(|rows| rows >= 5.0))
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let expected = account(hub.addr()).await?["total"]["expected"].clone();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let told = account(hub.addr()).await?;
    assert_eq!(told["total"]["expected"], expected, "nothing more has become due: {told}");
    agent.stop().await?;
    hub.stop().await
}
