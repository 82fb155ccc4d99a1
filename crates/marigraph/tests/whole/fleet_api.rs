//! What the hub tells of its fleet: clusters, agents, targets, and why one is not scraped.

use std::net::SocketAddr;
use std::time::Duration;

use ::http::Request;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use marigraph::agent::Agent;
use marigraph::cli::AgentArgs;
use marigraph::hub::Hub;
use serde_json::Value;
use testkit::http;
use testkit::peers::free_addr;
use testkit::target::FakeTarget;

use crate::fleet::token;
use crate::{eventually, start_hub_at};

async fn get(hub: &Hub, path: &str, credential: Option<&str>) -> Result<(u16, Value)> {
    let mut request = Request::builder().uri(path).header("host", "hub");
    if let Some(credential) = credential {
        request = request.header("authorization", format!("Bearer {credential}"));
    }
    let answer = http::send(hub.addr(), request.body(Full::<Bytes>::default())?).await?;
    Ok((answer.status.as_u16(), answer.json()?))
}

/// The answer's data, once `enough` likes it.
async fn told(hub: &Hub, path: &str, enough: impl Fn(&Value) -> bool) -> Result<Value> {
    told_at(hub.addr(), path, enough).await
}

async fn told_at(addr: SocketAddr, path: &str, enough: impl Fn(&Value) -> bool) -> Result<Value> {
    let begin = std::time::Instant::now();
    loop {
        let answer = http::get(addr, path).await?;
        let (status, answer) = (answer.status.as_u16(), answer.json()?);
        anyhow::ensure!(status == 200, "{path}: {status} {answer}");
        if enough(&answer["data"]) {
            return Ok(answer);
        }
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(30), "{path}: still {answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn verdicts(answer: &Value) -> Vec<&str> {
    let found = answer["data"]["found"].as_array().map(Vec::as_slice).unwrap_or_default();
    found.iter().filter_map(|one| one["verdict"].as_str()).collect()
}

/// The step at fault of the one target found.
fn fault(answer: &Value) -> (&str, &str) {
    let steps = answer["data"]["found"][0]["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let step = steps.iter().find(|step| step["ok"] == false);
    step.map_or(("", ""), |step| {
        (step["step"].as_str().unwrap_or_default(), step["what"].as_str().unwrap_or_default())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_tells_of_its_fleet_and_explains_targets() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub_at(directory.path(), Some("global: {}\n"), "127.0.0.1:0").await?;
    let good = FakeTarget::start("depth 4\n").await?;
    let (dead, dropped) = (free_addr()?, free_addr()?);
    let config = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n- job_name: sea\n  \
         static_configs: [{{targets: ['{}', '{dead}', '{dropped}']}}]\n  relabel_configs:\n  \
         - {{source_labels: [job], regex: sea, action: keep}}\n  \
         - {{source_labels: [__address__], regex: '{dropped}', action: drop}}\n",
        good.addr
    );
    let file = directory.path().join("agent.yml");
    std::fs::write(&file, config)?;
    let words = [
        format!("--data={}", directory.path().join("agent").display()),
        "--listen=127.0.0.1:0".to_owned(),
        format!("--config={}", file.display()),
        format!("--hub=https://{}", hub.addr()),
        format!("--token={}", token(&hub, "alpha").await?),
    ];
    let agent = Agent::start(AgentArgs::parse(words)?).await?;
    eventually(hub.addr(), "depth{cluster=\"alpha\"}", |found| found.len() == 1).await?;

    let clusters = told(&hub, "/api/v1/fleet/clusters", |data| {
        data[0]["targets"] == serde_json::json!({ "up": 1, "down": 1 })
            && data[0]["stored"].as_u64() > Some(0)
    });
    let clusters = clusters.await?;
    let alpha = &clusters["data"][0];
    assert_eq!((&alpha["cluster"], &alpha["up"]), (&"alpha".into(), &true.into()), "{alpha}");
    assert_eq!(alpha["agents"], serde_json::json!({ "enrolled": 1, "connected": 1 }), "{alpha}");
    assert!(alpha["stored"].as_u64() > Some(0) && alpha["newest"].is_string(), "{alpha}");

    let agents =
        told(&hub, "/api/v1/fleet/agents?cluster=alpha", |data| data[0]["status"].is_object()).await?;
    let one = &agents["data"][0];
    assert_eq!((&one["state"], &one["version"]), (&"connected".into(), &env!("CARGO_PKG_VERSION").into()));
    assert!(one["certificateNotAfter"].is_string() && one["status"]["queue"]["bytes"].is_u64(), "{one}");

    let agent_of =
        |data: &Value| data[0]["targets"] == serde_json::json!({ "up": 1, "down": 1, "unknown": 0 });
    let agents =
        told(&hub, "/api/v1/fleet/agents", |data| agent_of(data) && data[0]["newestRow"].is_string());
    let agents = agents.await?;
    let one = &agents["data"][0];
    assert!(one["lagSeconds"].is_number() && one["lagSeconds"].as_f64() < Some(10.0), "{one}");
    assert!(one["queue"]["waitingRows"].is_u64() && one["uptimeSeconds"].is_number(), "{one}");
    assert_eq!(
        (&one["silent"], one["status"]["queue"]["readers"][0]["blocks"].is_u64()),
        (&false.into(), true),
        "{one}"
    );
    let incarnation = one["incarnation"].as_str().context("an incarnation")?;
    assert_eq!(alpha["incarnations"][0]["incarnation"], incarnation, "{alpha}");
    assert_eq!(alpha["incarnationAlarm"], false, "{alpha}");
    assert!(alpha["lagSeconds"].as_f64() < Some(10.0), "{alpha}");

    // Page by page.
    let (_, all) = get(&hub, "/api/v1/fleet/targets", None).await?;
    assert_eq!((&all["data"]["count"], &all["data"]["nextPageToken"]), (&2.into(), &Value::Null), "{all}");
    let (_, first) = get(&hub, "/api/v1/fleet/targets?limit=1", None).await?;
    let next = first["data"]["nextPageToken"].as_str().with_context(|| first.to_string())?;
    let (_, second) = get(&hub, &format!("/api/v1/fleet/targets?limit=1&page_token={next}"), None).await?;
    assert_eq!((&second["data"]["count"], &second["data"]["nextPageToken"]), (&1.into(), &Value::Null));
    let ids = [&first, &second].map(|page| page["data"]["targets"][0]["id"].clone());
    assert_eq!(ids, [0, 1].map(|at: usize| all["data"]["targets"][at]["id"].clone()), "{first} {second}");
    assert_eq!(get(&hub, "/api/v1/fleet/targets?page_token=7", None).await?.0, 400);

    let down = told(&hub, "/api/v1/fleet/targets?health=down", |data| data["count"] == 1).await?;
    let target = &down["data"]["targets"][0];
    assert_eq!(target["labels"]["instance"], dead.to_string(), "{target}");
    assert!(target["lastError"].as_str().is_some_and(|error| error.contains("refused")), "{target}");
    let (status, wrong) = get(&hub, "/api/v1/fleet/targets?health=ill", None).await?;
    assert_eq!((status, wrong["errorType"].as_str()), (400, Some("bad_data")), "{wrong}");

    let (status, wrong) = get(&hub, "/api/v1/fleet/targets?limit=many", None).await?;
    assert_eq!((status, wrong["errorType"].as_str()), (400, Some("bad_data")), "{wrong}");

    // Step by step.
    let explain = |word: String| format!("/api/v1/explain/target?target={word}");
    let stored = |data: &Value| data["found"][0]["verdict"] == "scraped and stored";
    told(&hub, &explain(good.addr.to_string()), stored).await?;
    let answer = told(&hub, &explain(dead.to_string()), |data| data["found"][0].is_object()).await?;
    assert_eq!(verdicts(&answer), ["its scrapes fail"], "{answer}");
    let (step, what) = fault(&answer);
    assert!(step == "scraped" && what.contains("nothing listens there"), "{step}: {what}");
    let answer = told(&hub, &explain(dropped.to_string()), |data| data["found"][0].is_object()).await?;
    assert_eq!(verdicts(&answer), ["dropped by relabelling"], "{answer}");
    let (step, what) = fault(&answer);
    assert!(step == "relabelled" && what.contains("rule 2") && what.contains("drop"), "{step}: {what}");
    let (_, answer) = get(&hub, &explain("10.9.8.7".to_owned()), None).await?;
    assert_eq!(verdicts(&answer), Vec::<&str>::new(), "{answer}");
    let looked = answer["data"]["looked"].as_array().context("a list")?;
    assert!(looked.iter().any(|one| one["cluster"] == "alpha" && one["jobs"][0] == "sea"), "{answer}");
    assert_eq!(get(&hub, "/api/v1/explain/target", None).await?.0, 400);

    // The agent's own view, in the same words.
    for (word, verdict) in [(dead, "its scrapes fail"), (dropped, "dropped by relabelling")] {
        let path = explain(word.to_string());
        let (here, there) = (told_at(agent.addr(), &path, |_| true).await?, get(&hub, &path, None).await?.1);
        assert_eq!(verdicts(&here), [verdict], "{here}");
        let step = |answer: &Value| {
            Some(
                answer["data"]["found"][0]["steps"]
                    .as_array()?
                    .iter()
                    .find(|step| step["ok"] == false)?
                    .clone(),
            )
        };
        assert!(step(&here).is_some(), "{here}");
        assert_eq!(step(&here), step(&there));
        let keys = |answer: &Value| {
            answer["data"]["found"][0].as_object().map(|one| one.keys().cloned().collect::<Vec<_>>())
        };
        assert_eq!((keys(&here), &here["data"]["looked"][0]), (keys(&there), &there["data"]["looked"][1]));
    }
    let sent = |data: &Value| data["found"][0]["verdict"] == "scraped and sent";
    let answer = told_at(agent.addr(), &explain(good.addr.to_string()), sent).await?;
    assert!(answer["data"]["found"][0]["steps"].to_string().contains("to hub-127.0.0.1"), "{answer}");
    let answer = told_at(agent.addr(), &explain("10.9.8.7".to_owned()), |_| true).await?;
    assert_eq!((verdicts(&answer), &answer["data"]["looked"][0]["dropped"]), (vec![], &1.into()), "{answer}");
    assert_eq!(http::get(agent.addr(), "/api/v1/explain/target?target=a").await?.status, 400);
    let path = format!("{}&cluster=beta", explain(good.addr.to_string()));
    let answer = told_at(agent.addr(), &path, |_| true).await?;
    assert!(
        answer["warnings"][0].as_str().is_some_and(|told| told.contains("of cluster \"alpha\"")),
        "{answer}"
    );

    // Who may see another cluster only sees nothing of this one.
    let form = "kind=api&role=read&clusters=beta".to_owned();
    let made = http::post(hub.addr(), "/api/v1/admin/tokens", "application/x-www-form-urlencoded", form);
    let made = made.await?.json()?;
    let beta = made["token"].as_str().with_context(|| made.to_string())?;
    for path in
        ["clusters", "agents", "targets", "pauses", "alarms"].map(|list| format!("/api/v1/fleet/{list}"))
    {
        let (status, answer) = get(&hub, &path, Some(beta)).await?;
        assert_eq!(status, 200, "{path}: {answer}");
        assert!(!answer.to_string().contains("alpha"), "{path}: {answer}");
    }
    let (_, answer) = get(&hub, &explain(good.addr.to_string()), Some(beta)).await?;
    assert!(!answer.to_string().contains("alpha"), "{answer}");

    agent.stop().await?;
    let away = told(&hub, "/api/v1/fleet/agents", |data| data[0]["state"] == "away").await?;
    assert!(away["data"][0]["lastSeen"].is_string(), "{away}");
    let (_, answer) = get(&hub, &explain(good.addr.to_string()), None).await?;
    let once = "rows of it came here once, and nobody who answers has discovered it";
    assert_eq!(verdicts(&answer), [once], "{answer}");
    let warned = answer["warnings"][0].as_str().unwrap_or_default();
    assert!(warned.contains("of cluster alpha is not connected since 20"), "{answer}");
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_keeps_a_target_away_before_and_behind_its_scrapes_is_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub_at(directory.path(), Some("limits: {series_per_source: 9}\n"), "127.0.0.1:0").await?;
    let good = FakeTarget::start("depth 4\n").await?;
    let wide: String = (0..20).map(|n| format!("depth_{n} 4\n")).collect();
    let wide = FakeTarget::start(wide).await?;
    let (twice, dead) = (good.addr, free_addr()?);
    let config = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n- job_name: sea\n  \
         static_configs: [{{targets: ['{twice}', '{twice}']}}]\n- job_name: wide\n  static_configs: [{{targets: ['{}']}}]\n\
         - job_name: lost\n  http_sd_configs: [{{url: 'http://{dead}/targets'}}]\n",
        wide.addr
    );
    let file = directory.path().join("agent.yml");
    std::fs::write(&file, config)?;
    let words = [
        format!("--data={}", directory.path().join("agent").display()),
        "--listen=127.0.0.1:0".to_owned(),
        format!("--config={}", file.display()),
        format!("--hub=https://{}", hub.addr()),
        format!("--token={}", token(&hub, "alpha").await?),
    ];
    let agent = Agent::start(AgentArgs::parse(words)?).await?;
    eventually(hub.addr(), "up{cluster=\"alpha\"} == 1", |found| found.len() == 2).await?;

    // By job and instance; the second one is the first one again.
    let explain = |word: &str| format!("/api/v1/explain/target?target={word}");
    let stored = |data: &Value| data["found"][0]["verdict"] == "scraped and stored";
    let answer = told(&hub, &explain(&format!("sea/{twice}")), stored).await?;
    assert_eq!(verdicts(&answer), ["scraped and stored", "not a target of its own"], "{answer}");
    let duplicate = answer["data"]["found"][1]["steps"][1]["what"].as_str().unwrap_or_default();
    assert!(duplicate.starts_with("a duplicate: http://"), "{answer}");
    let (_, other) = get(&hub, &explain(&format!("wide/{twice}")), None).await?;
    assert_eq!(verdicts(&other), Vec::<&str>::new(), "{other}");

    let refused = |data: &Value| data["found"][0]["verdict"] == "scraped, and the store refuses its rows";
    let answer = told(&hub, &explain(&wide.addr.to_string()), refused).await?;
    let (step, what) = fault(&answer);
    assert!(step == "stored" && what.contains("series past a budget"), "{step}: {what}");

    let failing = |data: &Value| data["looked"].to_string().contains("job lost: http discovery fails");
    told(&hub, &explain("10.9.8.7"), failing).await?;

    let found = |data: &Value| data["looked"].to_string().contains("job lost: http discovery fails");
    let answer = told_at(agent.addr(), &explain(&format!("sea/{twice}")), found).await?;
    assert_eq!(verdicts(&answer)[1], "not a target of its own", "{answer}");

    let until = jiff::Timestamp::now().as_second() + 3600;
    let form = format!("cluster=alpha&until={until}");
    let path = "/api/v1/admin/clusters/pause";
    let paused = http::post(hub.addr(), path, "application/x-www-form-urlencoded", form).await?;
    assert_eq!(paused.status, 200, "{}", paused.text());
    let excused =
        |data: &Value| data["found"][0]["steps"].to_string().contains("its cluster is paused until");
    told(&hub, &explain(&twice.to_string()), excused).await?;
    agent.stop().await?;
    hub.stop().await
}
