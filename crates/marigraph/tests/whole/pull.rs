//! Scraping: the default configuration, targets that come, go and lie, reload.

use std::time::Duration;

use anyhow::Result;
use testkit::http;
use testkit::target::FakeTarget;

use crate::{eventually, query, start_hub, value};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_it_scrapes_itself_and_this_machine() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), None).await?;
    let up = eventually(hub.addr(), "sum by (job) (up)", |jobs| jobs.len() == 2).await?;
    for job in &up {
        assert_eq!(value(job)?, 1.0, "{job}");
    }
    let cpu = eventually(hub.addr(), "sum(rate(node_cpu_seconds_total[1m]))", |r| !r.is_empty()).await?;
    let cpus = std::thread::available_parallelism()?.get() as f64;
    let busy_and_idle = value(&cpu[0])?;
    assert!(
        busy_and_idle > 0.1 * cpus && busy_and_idle < 64.0 * cpus,
        "{busy_and_idle} cpu seconds a second"
    );
    assert_eq!(query(hub.addr(), "count(marigraph_build_info)").await?.len(), 1);
    hub.stop().await
}

fn config(jobs: &[(&str, std::net::SocketAddr)]) -> String {
    let mut out = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n".to_owned();
    for (job, addr) in jobs {
        out.push_str(&format!("  - job_name: {job}\n    static_configs: [{{targets: ['{addr}']}}]\n"));
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_come_and_series_that_vanish_go_stale() -> Result<()> {
    let target = FakeTarget::start("# TYPE fish gauge\nfish{kind=\"cod\"} 3\nfish{kind=\"eel\"} 4\n").await?;
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(&config(&[("sea", target.addr)]))).await?;
    let fish = eventually(hub.addr(), "fish", |r| r.len() == 2).await?;
    assert_eq!(fish[0]["metric"]["job"], "sea");
    assert_eq!(fish[0]["metric"]["instance"], target.addr.to_string());

    target.set_body("fish{kind=\"cod\"} 5\n");
    let fish = eventually(hub.addr(), "fish", |r| r.len() == 1).await?;
    assert_eq!(fish[0]["metric"]["kind"], "cod");

    target.set_status(500);
    eventually(hub.addr(), "up == 0", |r| r.len() == 1).await?;
    eventually(hub.addr(), "fish", |r| r.is_empty()).await?;
    let targets = http::get(hub.addr(), "/api/v1/targets").await?.json()?;
    let target = &targets["data"]["activeTargets"][0];
    assert_eq!(target["health"], "down");
    assert_eq!(target["lastError"], "server returned HTTP status 500 Internal Server Error");
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_exposition_fails_its_scrape_and_nothing_else() -> Result<()> {
    let good = FakeTarget::start("good 1\n").await?;
    let bad = FakeTarget::start("good 1\nbad{ 2\n").await?;
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(&config(&[("good", good.addr), ("bad", bad.addr)]))).await?;
    eventually(hub.addr(), "up{job=\"bad\"} == 0", |r| r.len() == 1).await?;
    eventually(hub.addr(), "good", |r| r.len() == 1).await?;
    assert_eq!(query(hub.addr(), "good{job=\"bad\"}").await?.len(), 0);
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_is_all_or_nothing() -> Result<()> {
    let first = FakeTarget::start("first 1\n").await?;
    let second = FakeTarget::start("second 1\n").await?;
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(&config(&[("first", first.addr)]))).await?;
    eventually(hub.addr(), "first", |r| r.len() == 1).await?;
    let file = directory.path().join("prometheus.yml");

    std::fs::write(&file, config(&[("second", second.addr)]) + "nonsense: 1\n")?;
    let answer = http::post(hub.addr(), "/-/reload", "text/plain", "").await?;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("prometheus.yml"), "{}", answer.text());
    assert!(answer.text().contains("nonsense"), "{}", answer.text());
    let before = first.scrapes();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(first.scrapes() > before, "the last good configuration stays in force");
    assert_eq!(second.scrapes(), 0);

    std::fs::write(&file, config(&[("second", second.addr)]))?;
    assert_eq!(http::post(hub.addr(), "/-/reload", "text/plain", "").await?.status, 200);
    eventually(hub.addr(), "second", |r| r.len() == 1).await?;
    eventually(hub.addr(), "first", |r| r.is_empty()).await?;
    hub.stop().await
}
