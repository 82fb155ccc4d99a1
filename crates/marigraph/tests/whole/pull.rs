//! Scraping: the default configuration, targets that come, go and lie, reload.

use std::time::Duration;

use anyhow::Result;
use testkit::http;
use testkit::target::FakeTarget;
use testkit::token::FakeTokenServer;

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

/// Protobuf of a native histogram `fish_kilograms` of schema 0: 2 observations up to 1, 4 up to 2.
fn protobuf() -> Vec<u8> {
    let message = |field: u8, content: &[u8]| [&[field << 3 | 2, content.len() as u8], content].concat();
    let spans = message(12, &[2 << 3, 2]);
    let histogram = [vec![1 << 3, 6], spans, message(13, &[4, 4])].concat();
    let metric = message(4, &message(7, &histogram));
    let family = [message(1, b"fish_kilograms"), vec![3 << 3, 4], metric].concat();
    [&[family.len() as u8], family.as_slice()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn native_histograms_come_with_one_token_for_all_targets() -> Result<()> {
    // `Basic` of me:hush.
    let tokens = FakeTokenServer::start("Basic bWU6aHVzaA==", "t0ken").await?;
    let target = FakeTarget::start("").await?;
    target.set_protobuf(protobuf());
    target.require("Bearer t0ken");
    let directory = tempfile::tempdir()?;
    let job = |name: &str, secret: &str| {
        format!(
            "  - job_name: {name}\n    scrape_native_histograms: true\n    oauth2: {{client_id: me, client_secret: \
             {secret}, token_url: 'http://{}/token'}}\n    relabel_configs: [{{source_labels: [path], \
             target_label: __metrics_path__}}]\n    static_configs:\n{}",
            tokens.addr,
            ["/1", "/2", "/3"]
                .map(|path| format!("      - {{targets: ['{}'], labels: {{path: '{path}'}}}}\n", target.addr))
                .concat()
        )
    };
    let known = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n".to_owned()
        + &job("known", "hush");
    let hub = start_hub(directory.path(), Some(&known)).await?;
    let counts = eventually(hub.addr(), "histogram_count(fish_kilograms)", |r| r.len() == 3).await?;
    for count in &counts {
        assert_eq!((value(count)?, &count["metric"]["job"]), (6.0, &serde_json::json!("known")));
    }
    let median = query(hub.addr(), "histogram_quantile(1, fish_kilograms{path=\"/1\"})").await?;
    assert_eq!(value(&median[0])?, 2.0);
    assert_eq!(tokens.asked(), 1);
    std::fs::write(directory.path().join("prometheus.yml"), known + &job("other", "wrong"))?;
    assert_eq!(http::post(hub.addr(), "/-/reload", "text/plain", "").await?.status, 200);
    eventually(hub.addr(), "up{job=\"other\"} == 0", |r| r.len() == 3).await?;
    let targets = http::get(hub.addr(), "/api/v1/targets").await?.json()?;
    let refused = targets["data"]["activeTargets"]
        .as_array()
        .and_then(|all| all.iter().find(|target| target["scrapePool"] == "other"))
        .and_then(|target| target["lastError"].as_str())
        .unwrap_or_default();
    let told = format!("oauth2: no token from http://{}/token: server returned HTTP status 401", tokens.addr);
    assert!(refused.contains(&told), "{refused}");

    target.set_status(500);
    eventually(hub.addr(), "fish_kilograms", |r| r.is_empty()).await?;
    hub.stop().await
}
