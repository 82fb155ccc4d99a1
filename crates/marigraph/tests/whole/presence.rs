//! What goes silent shows within two intervals, and a cluster that lives twice is an alarm: without anybody's rule.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use marigraph::hub::Hub;
use serde_json::Value;
use testkit::http;
use testkit::target::FakeTarget;

use crate::{eventually, fleet, start_hub_at};

/// Of the agents' targets.
const INTERVAL: Duration = Duration::from_secs(2);
/// What it takes to ask, on a busy machine.
const ASKING: Duration = Duration::from_millis(700);

/// A running agent; killed when dropped.
struct Running(Child);

impl Running {
    /// One of cluster alpha that scrapes `target`.
    async fn start(
        root: &Path,
        hub: &Hub,
        name: &str,
        target: &FakeTarget,
        flags: &[String],
    ) -> Result<Running> {
        let directory: PathBuf = root.join(name);
        std::fs::create_dir_all(&directory)?;
        let interval = INTERVAL.as_secs();
        let config = format!(
            "global: {{scrape_interval: {interval}s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: {name}\n  \
             static_configs: [{{targets: ['{}']}}]\n",
            target.addr
        );
        std::fs::write(directory.join("agent.yml"), config)?;
        let token = fleet::token(hub, "alpha").await?;
        let child = Command::new(env!("CARGO_BIN_EXE_marigraph"))
            .arg("agent")
            .args([
                format!("--hub=https://{}", hub.addr()),
                format!("--data={}", directory.join("data").display()),
                "--listen=127.0.0.1:0".to_owned(),
                format!("--config={}", directory.join("agent.yml").display()),
                format!("--token={token}"),
                "--log.level=warn".to_owned(),
            ])
            .args(flags)
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Running(child))
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let done = Command::new("kill").args([signal, &self.0.id().to_string()]).status()?;
        ensure!(done.success(), "kill {signal}: {done}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn data(hub: &Hub, path: &str) -> Result<Value> {
    let mut answer = http::get(hub.addr(), path).await?.json()?;
    ensure!(answer["status"] == "success", "{path}: {answer}");
    Ok(answer["data"].take())
}

async fn alarms(hub: &Hub) -> Result<Vec<String>> {
    let alarms = data(hub, "/api/v1/fleet/alarms").await?;
    let names = alarms.as_array().context("a list")?.iter();
    Ok(names.map(|alarm| format!("{} {}", alarm["cluster"], alarm["alarm"]).replace('"', "")).collect())
}

async fn metric(hub: &Hub, name: &str) -> Result<Option<f64>> {
    let page = http::get(hub.addr(), "/metrics").await?.text();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name}{{cluster=\"alpha\"}} ")));
    Ok(line.map(str::parse).transpose()?)
}

/// Waits until metric, completeness and alarms all say that the agent is (not) silent; how long that took.
async fn until(hub: &Hub, silent: bool) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        let up = metric(hub, "marigraph_cluster_up").await?;
        let account = data(hub, "/api/v1/completeness?cluster=alpha").await?;
        let told = [
            up == Some(if silent { 0.0 } else { 1.0 }),
            account["agents"][0]["silent"] == silent,
            alarms(hub).await?.contains(&"alpha agent_silent".to_owned()) == silent,
        ];
        if told == [true; 3] {
            break;
        }
        ensure!(begin.elapsed() < crate::PATIENCE, "{told:?}, up {up:?}: {account}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = begin.elapsed();
    // This asks the agent itself, which takes its time where that hangs.
    let agents = data(hub, "/api/v1/fleet/agents").await?;
    assert_eq!(agents[0]["silent"], silent, "{agents}");
    Ok(took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_that_dies_or_hangs_shows_within_two_intervals() -> Result<()> {
    let root = tempfile::tempdir()?;
    let target = FakeTarget::start("depth 4\n").await?;
    let hub = start_hub_at(root.path(), Some("global: {}\n"), "127.0.0.1:0").await?;
    let agent = Running::start(root.path(), &hub, "one", &target, &[]).await?;
    eventually(hub.addr(), "up{cluster=\"alpha\"}", |found| found.len() == 1).await?;
    until(&hub, false).await?;
    // Its connections stay as they are.
    agent.signal("-STOP")?;
    let took = until(&hub, true).await?;
    ensure!(took <= 2 * INTERVAL + ASKING, "a hanging agent showed after {took:?}");
    agent.signal("-CONT")?;
    until(&hub, false).await?;
    agent.signal("-KILL")?;
    let took = until(&hub, true).await?;
    ensure!(took <= 2 * INTERVAL + ASKING, "a dead agent showed after {took:?}");
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_target_that_dies_or_is_not_told_of_shows_within_two_intervals() -> Result<()> {
    let root = tempfile::tempdir()?;
    let (dies, other) = (FakeTarget::start("depth 4\n").await?, FakeTarget::start("depth 5\n").await?);
    let hub = start_hub_at(root.path(), Some("global: {}\n"), "127.0.0.1:0").await?;
    let flags = ["--incarnation=blue".to_owned()];
    let agent = Running::start(root.path(), &hub, "one", &dies, &flags).await?;
    let frozen = Running::start(root.path(), &hub, "two", &other, &flags).await?;
    eventually(hub.addr(), "up{cluster=\"alpha\"} == 1", |found| found.len() == 2).await?;

    drop(dies);
    let begin = Instant::now();
    loop {
        let down = data(&hub, "/api/v1/fleet/targets?health=down").await?;
        let account = data(&hub, "/api/v1/completeness?cluster=alpha&job=one").await?;
        if down["count"] == 1 && account["total"]["reasons"]["target_unreachable"].as_u64() >= Some(1) {
            break;
        }
        // What an agent has answered is told to others for some seconds.
        let patience = 2 * INTERVAL + ASKING + Duration::from_secs(3);
        ensure!(begin.elapsed() < patience, "{down} {account}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Its agent hangs, another one of the cluster is there: the target is what is silent.
    frozen.signal("-STOP")?;
    let begin = Instant::now();
    loop {
        let account = data(&hub, "/api/v1/completeness?cluster=alpha&by=job").await?;
        let silent = metric(&hub, "marigraph_cluster_silent_targets").await?;
        let is_told = alarms(&hub).await?.contains(&"alpha targets_silent".to_owned());
        if account["groups"][1]["silentSources"] == 1 && silent == Some(1.0) && is_told {
            assert_eq!(account["groups"][0]["silentSources"], 0, "{account}");
            break;
        }
        // By a second: the metric is set so often.
        let patience = 2 * INTERVAL + ASKING + Duration::from_secs(1);
        ensure!(begin.elapsed() < patience, "{silent:?} {is_told} {account}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop((agent, frozen));
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_clusters_of_one_name_are_an_alarm_and_a_pair_is_none() -> Result<()> {
    let root = tempfile::tempdir()?;
    let target = FakeTarget::start("depth 4\n").await?;
    let hub = start_hub_at(root.path(), Some("global: {}\n"), "127.0.0.1:0").await?;
    std::fs::create_dir(root.path().join("leases"))?;
    let leases = format!("--pair.leases={}", root.path().join("leases").display());
    let pair = ["one", "two"].map(|name| (name, [leases.clone(), format!("--pair.name={name}")]));
    let mut running = Vec::new();
    for (name, flags) in &pair {
        running.push(Running::start(root.path(), &hub, name, &target, flags).await?);
    }
    let shown = async |incarnations: usize, agents: u64, alarm: f64| -> Result<()> {
        let begin = Instant::now();
        loop {
            let cluster = data(&hub, "/api/v1/fleet/clusters").await?.get(0).cloned().unwrap_or_default();
            let (list, connected) = (&cluster["incarnations"], &cluster["agents"]["connected"]);
            let count = metric(&hub, "marigraph_cluster_incarnations").await?;
            let is_there = list.as_array().is_some_and(|list| list.len() == incarnations);
            if is_there && *connected == agents && count == Some(alarm) {
                let is_alarm = alarms(&hub).await?.contains(&"alpha incarnations".to_owned());
                assert_eq!((is_alarm, &cluster["incarnationAlarm"]), (alarm > 1.0, &(alarm > 1.0).into()));
                return Ok(());
            }
            ensure!(begin.elapsed() < crate::PATIENCE, "{count:?} {cluster}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    shown(1, 2, 1.0).await?;
    // The cluster is built anew, and its agents of before are still there.
    running.push(Running::start(root.path(), &hub, "new", &target, &[]).await?);
    shown(2, 3, 2.0).await?;
    running.drain(..2);
    shown(2, 1, 1.0).await?;
    hub.stop().await
}
