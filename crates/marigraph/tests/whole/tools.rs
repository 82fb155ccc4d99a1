//! The tools people have, on us: promtool, a real node_exporter, what Grafana's data source asks.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::peers::Peer;
use testkit::target::FakeTarget;
use testkit::{http, peers};

use crate::{eventually, query, start_hub};

fn config(addr: std::net::SocketAddr) -> String {
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: node, static_configs: [{{targets: ['{addr}'], labels: {{instance: here}}}}]}}]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_queries_work() -> Result<()> {
    let Some(promtool) = peers::program("promtool") else { return Ok(()) };
    let target = FakeTarget::start("tide{buoy=\"a\"} 1.5\ntide{buoy=\"b\"} 2\n").await?;
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(&config(target.addr))).await?;
    eventually(hub.addr(), "tide", |r| r.len() == 2).await?;
    let server = format!("http://{}", hub.addr());
    let run = |args: &[&str]| -> Result<String> {
        let output = Command::new(&promtool).args(["query", args[0], &server]).args(&args[1..]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "{args:?}: {} {text}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    };
    let instant = run(&["instant", "sum(tide)"])?;
    assert!(instant.starts_with("{} => 3.5 @["), "{instant}");
    let range = run(&["range", "--step=1s", "tide{buoy=\"a\"}"])?;
    assert!(range.contains("1.5 @["), "{range}");
    let series = run(&["series", "--match=tide"])?;
    assert!(series.contains("buoy=\"b\""), "{series}");
    let labels = run(&["labels", "buoy"])?;
    assert_eq!(labels.split_whitespace().collect::<Vec<_>>(), ["a", "b"]);
    hub.stop().await
}

/// Name and labels of every series of the node job, as one string each; quantiles as Prometheus 3
/// writes them (`1.0`, where 2.42 leaves `1`).
async fn series_of_node(addr: std::net::SocketAddr) -> Result<BTreeSet<String>> {
    let answer = http::get(addr, "/api/v1/series?match[]=%7Bjob=%22node%22%7D").await?.json()?;
    let list = answer["data"].as_array().context("a list of series")?;
    let normal = |series: &Value| {
        let mut series = series.clone();
        if let Some(quantile) =
            series.get_mut("quantile").filter(|q| q.as_str().is_some_and(|q| !q.contains('.')))
        {
            *quantile = format!("{}.0", quantile.as_str().unwrap_or_default()).into();
        }
        series.to_string()
    };
    Ok(list.iter().map(normal).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_node_exporter_gives_the_series_it_gives_prometheus() -> Result<()> {
    let (Some(exporter), Some(prometheus)) =
        (peers::program("prometheus-node-exporter"), peers::program("prometheus"))
    else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let exporter = Peer::node_exporter(&exporter).await?;
    let config = config(exporter.addr);
    let prometheus_directory = directory.path().join("prometheus");
    std::fs::create_dir_all(&prometheus_directory)?;
    let prometheus = Peer::prometheus(&prometheus, &prometheus_directory, &config).await?;
    let hub = start_hub(directory.path(), Some(&config)).await?;
    for addr in [prometheus.addr, hub.addr()] {
        // Three scrapes, so that series which come and go have had their chance on both sides.
        eventually(addr, "count_over_time(up{job=\"node\"}[1m]) > 2", |r| !r.is_empty()).await?;
    }
    let (theirs, ours) = (series_of_node(prometheus.addr).await?, series_of_node(hub.addr()).await?);
    assert!(theirs.len() > 100, "{} series", theirs.len());
    let differ: Vec<&String> = theirs.symmetric_difference(&ours).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_collector_speaks_as_node_exporter_does() -> Result<()> {
    let Some(exporter) = peers::program("prometheus-node-exporter") else { return Ok(()) };
    let exporter = Peer::node_exporter(&exporter).await?;
    let theirs = http::get(exporter.addr, "/metrics").await?.text();
    let types = |text: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(str::to_owned).collect()
    };
    let theirs = types(&theirs);
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), None).await?;
    let ours = types(&http::get(hub.addr(), "/metrics/machine").await?.text());
    let areas = [
        "node_cpu_",
        "node_memory_",
        "node_load",
        "node_filesystem_",
        "node_disk_",
        "node_uname_",
        "node_pressure_",
        "node_boot_",
        "node_vmstat_",
    ];
    for line in theirs.iter().filter(|line| areas.iter().any(|area| line.starts_with(area))) {
        // What a virtual machine's kernel does not tell us in the same way on every host.
        let elsewhere = [
            "node_cpu_scaling",
            "node_cpu_frequency",
            "node_cpu_core_throttles",
            "node_cpu_package_throttles",
        ];
        if !elsewhere.iter().any(|name| line.starts_with(name)) {
            assert!(ours.contains(line), "node_exporter has {line:?}");
        }
    }
    for line in ours.iter().filter(|line| line.starts_with("node_network_")) {
        assert!(theirs.contains(line), "node_exporter does not have {line:?}");
    }
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grafana_asks_is_answered() -> Result<()> {
    let target = FakeTarget::start("# HELP tide Level.\n# TYPE tide gauge\ntide{buoy=\"a\"} 1.5\n").await?;
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(&config(target.addr))).await?;
    eventually(hub.addr(), "tide", |r| r.len() == 1).await?;
    let form = "application/x-www-form-urlencoded";
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let posts = [
        ("/api/v1/query", "query=1%2B1&time=4".to_owned()),
        ("/api/v1/query_range", format!("query=tide&start={}&end={now}&step=15", now - 300)),
        ("/api/v1/labels", format!("match[]=tide&start={}&end={now}", now - 300)),
        ("/api/v1/series", format!("match[]=tide&start={}&end={now}", now - 300)),
    ];
    for (path, body) in posts {
        let answer = http::post(hub.addr(), path, form, body).await?;
        assert_eq!(answer.json()?["status"], "success", "{path}: {}", answer.text());
    }
    let gets = [
        "/api/v1/status/buildinfo",
        "/api/v1/metadata?limit=10",
        "/api/v1/label/buoy/values",
        "/api/v1/rules",
        "/api/v1/alerts",
        "/api/v1/targets/metadata",
        "/api/v1/query_exemplars?query=tide&start=0&end=1",
    ];
    for path in gets {
        let answer = http::get(hub.addr(), path).await?;
        assert_eq!(answer.json()?["status"], "success", "{path}: {}", answer.text());
    }
    let metadata = http::get(hub.addr(), "/api/v1/metadata?metric=tide").await?.json()?;
    assert_eq!(metadata["data"]["tide"][0]["help"], "Level.", "{metadata}");
    assert_eq!(query(hub.addr(), "tide").await?.len(), 1);
    hub.stop().await
}
