//! A real Prometheus finds its targets by our discovery and scrapes them through us.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use proxy::{FleetError, Options};
use serde_json::Value;
use testkit::http;
use testkit::peers::{self, Peer};

use crate::fixture::{Setup, page, setup, target};

/// Longest to wait for something to become true.
const PATIENCE: Duration = Duration::from_secs(30);

async fn query(addr: SocketAddr, query: &str) -> Result<Vec<Value>> {
    let answer = http::get(addr, &format!("/api/v1/query?query={}", http::escape(query))).await?;
    Ok(answer.json()?["data"]["result"].as_array().cloned().unwrap_or_default())
}

async fn eventually(addr: SocketAddr, text: &str, enough: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    let begin = Instant::now();
    loop {
        let found = query(addr, text).await?;
        if enough(&found) {
            return Ok(found);
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "{text}: still {found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn value(sample: &Value) -> &str {
    sample["value"][1].as_str().unwrap_or_default()
}

fn fleet() -> Setup {
    let setup = setup(Options::default());
    let mut state = Vec::new();
    for number in 0..20 {
        let instance = format!("10.0.0.{number}:9100");
        let mut target = target(
            &format!("{number:032x}"),
            &format!("https://{instance}/metrics"),
            &[("job", "node"), ("instance", &instance), ("site", "harbour")],
        );
        target.state.scrape_interval_ms = 1000;
        target.state.scrape_timeout_ms = 900;
        state.push(target);
    }
    setup.fleet.set("default", "north", true, state.clone());
    setup.fleet.set("default", "South.1", true, state.clone());
    setup.fleet.fetch_by(|request| {
        let text = format!("served{{by=\"{}\"}} 7\n", request.cluster);
        let broken = request.target.ends_with("13");
        std::future::ready(if broken {
            Err(FleetError::Failed("no route to host".into()))
        } else {
            Ok(page(text))
        })
    });
    setup
}

fn config(hub: SocketAddr) -> String {
    format!(
        "scrape_configs:\n\
         - job_name: fleet\n  \
           proxy_url: http://prometheus:t-all@{hub}\n  \
           http_sd_configs:\n  \
           - url: http://{hub}/sd/v1/targets?job=node\n    \
             refresh_interval: 1s\n    \
             authorization: {{type: Bearer, credentials: t-all}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_two_clusters_through_the_proxy() -> Result<()> {
    let Some(program) = peers::program("prometheus") else { return Ok(()) };
    let setup = fleet();
    let server = setup.serve().await?;
    let directory = tempfile::tempdir()?;
    let prometheus = Peer::prometheus(&program, directory.path(), &config(server.addr)).await?;

    let up = eventually(prometheus.addr, "up", |found| {
        found.len() == 40 && found.iter().filter(|sample| value(sample) == "1").count() == 38
    });
    let up = up.await?;
    let labels: BTreeMap<String, String> = serde_json::from_value(up[0]["metric"].clone())?;
    let names: Vec<&str> = labels.keys().map(String::as_str).collect();
    assert_eq!(names, ["__name__", "cluster", "instance", "job", "site"], "{labels:?}");
    assert_eq!((labels["job"].as_str(), labels["site"].as_str()), ("node", "harbour"));
    let served = query(prometheus.addr, "count by (cluster, by) (served == 7)").await?;
    let counted: Vec<String> =
        served.iter().map(|sample| format!("{} {}", sample["metric"], value(sample))).collect();
    assert_eq!(counted.len(), 2, "{counted:?}");
    for cluster in ["north", "South.1"] {
        let expected = format!("{} 19", serde_json::json!({"by": cluster, "cluster": cluster}));
        assert!(counted.contains(&expected), "{counted:?}");
    }

    // What our status line says is what its page shows.
    let targets = http::get(prometheus.addr, "/api/v1/targets").await?.json()?;
    let targets = targets["data"]["activeTargets"].as_array().context("targets")?;
    let down = targets.iter().find(|target| target["health"] == "down").context("a target that is down")?;
    let error = down["lastError"].as_str().unwrap_or_default();
    assert!(error.contains("no route to host"), "{error}");

    // Its cluster gone, a target is down, not forgotten; back, it is up.
    let state = setup.fleet.clusters.lock().clone();
    setup.fleet.set("default", "north", false, vec![]);
    let gone = r#"count(up{cluster="north"} == 0)"#;
    eventually(prometheus.addr, gone, |found| found.first().is_some_and(|sample| value(sample) == "20"))
        .await?;
    *setup.fleet.clusters.lock() = state;
    let back = r#"count(up{cluster="north"} == 1)"#;
    eventually(prometheus.addr, back, |found| found.first().is_some_and(|sample| value(sample) == "19"))
        .await?;
    Ok(())
}
