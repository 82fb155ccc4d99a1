//! Clusters of which nothing is expected, rows that are taken away on purpose, limits that a hub gives.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use marigraph::agent::Agent;
use marigraph::cli::{AgentArgs, HubArgs};
use marigraph::hub::Hub;
use serde_json::Value;
use testkit::http;

use crate::fleet::token;
use crate::{eventually, query, start_hub_at};

const FORM: &str = "application/x-www-form-urlencoded";

async fn start_agent(directory: &Path, hub: &Hub) -> Result<Agent> {
    let enrol = token(hub, "alpha").await?;
    let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let file = directory.join("agent.yml");
    let config = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nmachine: {{}}\nscrape_configs:\n\
         - job_name: node\n  metrics_path: /metrics/machine\n  static_configs: [{{targets: ['{listen}']}}]\n"
    );
    std::fs::write(&file, config)?;
    let words = [
        format!("--data={}", directory.join("agent").display()),
        format!("--listen={listen}"),
        format!("--config={}", file.display()),
        format!("--hub=https://{}", hub.addr()),
        format!("--token={enrol}"),
    ];
    Agent::start(AgentArgs::parse(words)?).await
}

async fn account(hub: &Hub) -> Result<Value> {
    Ok(http::get(hub.addr(), "/api/v1/completeness?cluster=alpha").await?.json()?["data"].take())
}

/// What stays the same for a second: what the account expects of the cluster.
async fn settled(hub: &Hub) -> Result<u64> {
    let mut before = None;
    for _ in 0..30 {
        let expected = account(hub).await?["total"]["expected"].as_u64().context("a number")?;
        if before == Some(expected) {
            return Ok(expected);
        }
        before = Some(expected);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    anyhow::bail!("the account goes on growing")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_is_paused_resumed_and_retired() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub_at(directory.path(), Some("global: {}\n"), "127.0.0.1:0").await?;
    let agent = start_agent(directory.path(), &hub).await?;
    eventually(hub.addr(), "up{cluster=\"alpha\"}", |found| found.len() == 1).await?;
    let post = async |verb: &str, form: &str| {
        http::post(hub.addr(), &format!("/api/v1/admin/clusters/{verb}"), FORM, form.to_owned()).await
    };

    // What cannot be.
    for (verb, form, status, told) in [
        ("pause", "cluster=beta&until=4000000000", 404, "there is no cluster \"beta\"; there is alpha"),
        ("pause", "cluster=alpha&until=soon", 400, "until: \"soon\" is no time"),
        ("pause", "cluster=alpha&until=1000", 400, "1970-01-01T00:16:40Z has passed"),
        ("pause", "cluster=alpha&until=4000000000", 400, "a pause lasts 31 days at most"),
        ("resume", "cluster=alpha", 409, "cluster \"alpha\" is not paused"),
    ] {
        let answer = post(verb, form).await?;
        assert_eq!(answer.status, status, "{verb} {form}: {}", answer.text());
        assert!(answer.text().contains(&told.replace('"', "\\\"")), "{verb} {form}: {}", answer.text());
    }

    agent.stop().await?;
    let until = jiff::Timestamp::now().as_second() + 3600;
    let paused = post("pause", &format!("cluster=alpha&until={until}&reason=moving")).await?;
    assert_eq!(paused.status, 200, "{}", paused.text());
    let pauses = http::get(hub.addr(), "/api/v1/fleet/pauses").await?.json()?;
    assert_eq!(pauses["data"][0]["cluster"], "alpha", "{pauses}");
    let expected = settled(&hub).await?;
    assert!(expected > 0);

    assert_eq!(post("resume", "cluster=alpha").await?.status, 200);
    let pauses = http::get(hub.addr(), "/api/v1/fleet/pauses").await?.json()?;
    assert_eq!(pauses["data"], serde_json::json!([]), "{pauses}");
    // Rows are due again, and nobody brings them.
    let begin = std::time::Instant::now();
    while account(&hub).await?["total"]["expected"].as_u64().context("a number")? < expected + 5 {
        anyhow::ensure!(
            begin.elapsed() < Duration::from_secs(30),
            "nothing is expected: {}",
            account(&hub).await?
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(post("retire", "cluster=alpha&reason=sold").await?.status, 200);
    settled(&hub).await?;
    hub.stop().await
}

/// Rows taken out of a store are not noticed by the ledger, which is about what came: the audit finds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drill_is_found_by_the_audit() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let start = || {
        let words = [
            format!("--data={}", data.display()),
            "--listen=127.0.0.1:0".to_owned(),
            format!("--config={}", directory.path().join("hub.yml").display()),
        ];
        Ok::<HubArgs, anyhow::Error>(HubArgs::parse(words)?)
    };
    std::fs::write(directory.path().join("hub.yml"), "global: {}\n")?;
    let hub = Hub::start(start()?).await?;
    let agent = start_agent(directory.path(), &hub).await?;
    eventually(hub.addr(), "count_over_time(up{cluster=\"alpha\"}[5m]) > 20", |found| found.len() == 1)
        .await?;
    agent.stop().await?;
    let rows = query(hub.addr(), "timestamp(up{cluster=\"alpha\"})").await?;
    let newest: f64 = rows[0]["value"][1].as_str().context("a time")?.parse()?;
    hub.stop().await?;

    let marigraph = |words: &[&str]| -> Result<(bool, String)> {
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_marigraph")).args(words).output()?;
        let said = [run.stdout, run.stderr].concat();
        Ok((run.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    let data = data.display().to_string();
    let (whole, said) = marigraph(&["ledger", "audit", &data])?;
    assert!(whole && said.contains("the store has all that the ledger says"), "{said}");
    let (from, to) = (format!("{}", newest - 2.1), format!("{}", newest - 1.0));
    let selector = "{cluster=\"alpha\",job=\"node\"}";
    let drop = ["drill", "drop", "--data", &data, "--match", selector, "--start", &from, "--end", &to];
    let (done, said) = marigraph(&drop)?;
    assert!(!done && said.contains("say --yes"), "{said}");
    let (done, said) = marigraph(&[&drop[..], &["--yes"]].concat())?;
    assert!(done, "{said}");
    let dropped: u64 = said
        .strip_prefix("dropped ")
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .with_context(|| said.clone())?;
    assert!((3..=8).contains(&dropped), "{said}");
    let (whole, said) = marigraph(&["ledger", "audit", &data])?;
    assert!(!whole, "{said}");
    assert!(
        said.contains(&format!("{dropped} rows that the ledger has as stored are not in the store")),
        "{said}"
    );
    assert!(said.contains("alpha") && said.contains(&format!("-{dropped}")), "{said}");
    Ok(())
}

/// Waits until the agent's one target is as `enough` says; its health and last error.
async fn target(agent: &Agent, enough: impl Fn(&str, &str) -> bool) -> Result<()> {
    let begin = std::time::Instant::now();
    loop {
        let targets = http::get(agent.addr(), "/api/v1/targets").await?.json()?;
        let target = &targets["data"]["activeTargets"][0];
        let (health, error) = (&target["health"], &target["lastError"]);
        if enough(health.as_str().unwrap_or_default(), error.as_str().unwrap_or_default()) {
            return Ok(());
        }
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(30), "still {health} {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn limits_of_a_hub_narrow_and_go_back() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub_at(directory.path(), Some("global: {}\n"), "127.0.0.1:0").await?;
    let agent = start_agent(directory.path(), &hub).await?;
    target(&agent, |health, _| health == "up").await?;
    let post = async |path: &str, form: &str| {
        http::post(hub.addr(), &format!("/api/v1/admin/limits{path}"), FORM, form.to_owned()).await
    };
    for (form, told) in [
        ("cluster=alpha&limits=bearer_token_file=1", "there is no limit"),
        ("cluster=alpha&limits=sample_limit=none", "is no number"),
        ("cluster=&limits=sample_limit=3", "cluster"),
    ] {
        let answer = post("", form).await?;
        assert_eq!(answer.status, 400, "{form}: {}", answer.text());
        assert!(answer.text().contains(told), "{form}: {}", answer.text());
    }
    assert_eq!(post("/rollback", "cluster=alpha").await?.status, 404);
    let slip = post("", "cluster=alhpa&limits=sample_limit=3").await?;
    assert!(slip.status == 404 && slip.text().contains("did you mean \\\"alpha\\\"?"), "{}", slip.text());
    assert_eq!(http::get(hub.addr(), "/api/v1/admin/limits").await?.json()?, serde_json::json!([]));
    let ahead = post("", "cluster=zeta&limits=sample_limit=3&force=true").await?;
    assert_eq!(ahead.status, 200, "{}", ahead.text());

    // Wide ones change nothing; narrow ones do.
    assert_eq!(post("", "cluster=alpha&limits=sample_limit=1000000").await?.status, 200);
    assert_eq!(post("", "cluster=alpha&limits=sample_limit=3&reason=test").await?.status, 200);
    target(&agent, |health, error| health == "down" && error.contains("sample limit exceeded")).await?;
    // A reason of its own.
    let begin = std::time::Instant::now();
    while account(&hub).await?["total"]["reasons"]["sample_limit"].as_u64() < Some(1) {
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(30), "{}", account(&hub).await?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let shown = http::get(hub.addr(), "/api/v1/admin/limits").await?.json()?;
    assert_eq!(shown[0]["cluster"], "alpha", "{shown}");
    let newest = &shown[0]["revisions"][1];
    assert_eq!(
        (&newest["limits"]["sample_limit"], &newest["reason"]),
        (&3.into(), &"test".into()),
        "{shown}"
    );
    assert_eq!(newest["author"], "configuration", "{shown}");
    let answer = &shown[0]["agents"][0];
    assert_eq!((&answer["revision"], &answer["refused"]), (&newest["revision"], &"".into()), "{shown}");

    // They outlive the agent, and need no hub.
    let (addr, listen) = (hub.addr(), agent.addr());
    agent.stop().await?;
    hub.stop().await?;
    let words = [
        format!("--data={}", directory.path().join("agent").display()),
        format!("--listen={listen}"),
        format!("--config={}", directory.path().join("agent.yml").display()),
        format!("--hub=https://{addr}"),
    ];
    let agent = Agent::start(AgentArgs::parse(words.clone())?).await?;
    target(&agent, |health, error| health == "down" && error.contains("sample limit exceeded")).await?;

    let hub = start_hub_at(directory.path(), Some("global: {}\n"), &addr.to_string()).await?;
    let back =
        http::post(hub.addr(), "/api/v1/admin/limits/rollback", FORM, "cluster=alpha".to_owned()).await?;
    assert_eq!(back.status, 200, "{}", back.text());
    assert!(back.text().contains("back to revision"), "{}", back.text());
    target(&agent, |health, _| health == "up").await?;
    agent.stop().await?;
    // A file that cannot be read keeps nobody from scraping.
    std::fs::write(directory.path().join("agent/limits.json"), "{")?;
    let agent = Agent::start(AgentArgs::parse(words)?).await?;
    target(&agent, |health, _| health == "up").await?;
    agent.stop().await?;
    hub.stop().await
}

/// A target that takes its time, and counts how many are at it.
async fn slow_target() -> Result<(std::net::SocketAddr, Arc<AtomicUsize>, Arc<AtomicUsize>)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let counts = (Arc::clone(&now), Arc::clone(&most));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (now, most) = counts.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 2048]).await;
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Who gives up is not at it any more.
                let gone = tokio::time::timeout(Duration::from_millis(600), stream.read(&mut [0; 1])).await;
                now.fetch_sub(1, Ordering::SeqCst);
                if gone.is_ok() {
                    return;
                }
                let _ = stream
                    .write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\ntide 1\n",
                    )
                    .await;
            });
        }
    });
    Ok((addr, now, most))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn limits_of_the_agent_itself_hold_at_once() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub_at(directory.path(), Some("global: {}\n"), "127.0.0.1:0").await?;
    let (addr, _, most) = slow_target().await?;
    let group = |n: usize| format!("  - {{targets: ['{addr}'], labels: {{buoy: '{n}'}}}}\n");
    let groups: String = (0..8).map(group).collect();
    let global = "global: {scrape_interval: 1s, scrape_timeout: 1s}";
    let file = directory.path().join("agent.yml");
    std::fs::write(
        &file,
        format!("{global}\nscrape_configs:\n- job_name: buoys\n  static_configs:\n{groups}"),
    )?;
    let words = [
        format!("--data={}", directory.path().join("agent").display()),
        "--listen=127.0.0.1:0".to_owned(),
        format!("--config={}", file.display()),
        format!("--hub=https://{}", hub.addr()),
        format!("--token={}", token(&hub, "alpha").await?),
    ];
    let agent = Agent::start(AgentArgs::parse(words)?).await?;
    let set = async |limits: &str| {
        let form = format!("cluster=alpha&limits={}", http::escape(limits));
        http::post(hub.addr(), "/api/v1/admin/limits", FORM, form).await
    };
    let taken = async |revisions: usize| -> Result<()> {
        let begin = std::time::Instant::now();
        loop {
            let shown = http::get(hub.addr(), "/api/v1/admin/limits").await?.json()?;
            let newest = &shown[0]["revisions"][revisions - 1]["revision"];
            let answer = &shown[0]["agents"][0];
            if newest.is_u64() && answer["revision"] == *newest && answer["refused"] == "" {
                return Ok(());
            }
            anyhow::ensure!(begin.elapsed() < Duration::from_secs(30), "{shown}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    for (limits, told) in [
        ("queue_size_limit=1000", "too little to work with"),
        ("queue_age_limit=soon", "queue_age_limit"),
        ("concurrent_scrapes_limit=0", "leave it out"),
    ] {
        let answer = set(limits).await?;
        assert!(answer.status == 400 && answer.text().contains(told), "{limits}: {}", answer.text());
    }
    let all = "count(up{cluster=\"alpha\"} == 1) == 8";
    eventually(hub.addr(), all, |found| found.len() == 1).await?;
    let before = std::time::Instant::now();
    while most.load(Ordering::SeqCst) < 4 {
        anyhow::ensure!(
            before.elapsed() < Duration::from_secs(30),
            "eight targets of one job are scraped one by one"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // One at a time: one or two of eight can have their turn in a second.
    let form = "concurrent_scrapes_limit=1 queue_age_limit=2h queue_size_limit=100000000";
    assert_eq!(set(form).await?.status, 200);
    taken(1).await?;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    most.store(0, Ordering::SeqCst);
    eventually(hub.addr(), "count(up{cluster=\"alpha\"} == 0) >= 2", |found| found.len() == 1).await?;
    // One that is given up may not have been seen to go when the next one comes.
    assert!(most.load(Ordering::SeqCst) <= 2, "{most:?}");
    let targets = http::get(agent.addr(), "/api/v1/targets").await?.text();
    assert!(targets.contains("not asked: 1 scrapes at once are allowed"), "{targets}");

    // And as many as are due again.
    assert_eq!(set("concurrent_tunnel_requests_limit=3").await?.status, 200);
    taken(2).await?;
    eventually(hub.addr(), all, |found| found.len() == 1).await?;
    agent.stop().await?;
    hub.stop().await
}
