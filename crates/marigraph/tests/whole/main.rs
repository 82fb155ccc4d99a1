//! The program as a whole, in-process and as a real process, on port 0.

mod access;
mod agent_remote_write;
mod backup;
mod central;
mod crash;
mod damage;
mod fleet;
mod fleet_api;
mod hostile;
mod http_proxy;
mod hubs;
mod identity;
mod lifecycle;
mod local;
mod namespaces;
mod own_ca;
mod pairs;
mod presence;
mod proxy;
mod pull;
mod push;
mod reach;
mod remote_write;
mod sight;
mod soak;
mod terminal;
mod tools;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use marigraph::cli::HubArgs;
use marigraph::hub::Hub;
use serde_json::Value;
use testkit::http;

/// Longest a test waits for something to become true.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a hub with its data in `directory`, on a free port; with `config` written to a file there,
/// or with the embedded one.
async fn start_hub(directory: &Path, config: Option<&str>) -> Result<Hub> {
    start_hub_at(directory, config, "127.0.0.1:0").await
}

async fn start_hub_at(directory: &Path, config: Option<&str>, listen: &str) -> Result<Hub> {
    let data = directory.join("data");
    let mut words = vec![
        format!("--data={}", data.display()),
        format!("--listen={listen}"),
        "--retention.time=0".to_owned(),
    ];
    if let Some(config) = config {
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, config)?;
        words.push(format!("--config={}", file.display()));
    }
    Hub::start(HubArgs::parse(words)?).await
}

/// The `result` of an instant query.
async fn query(addr: std::net::SocketAddr, query: &str) -> Result<Vec<Value>> {
    let answer = http::get(addr, &format!("/api/v1/query?query={}", http::escape(query))).await?;
    anyhow::ensure!(answer.status == 200, "{query}: {} {}", answer.status, answer.text());
    let mut json = answer.json()?;
    match json["data"]["result"].take() {
        Value::Array(result) => Ok(result),
        other => anyhow::bail!("{query}: result is {other}"),
    }
}

/// Asks `query` until `enough` likes the result; the last result otherwise.
async fn eventually(
    addr: std::net::SocketAddr,
    text: &str,
    enough: impl Fn(&[Value]) -> bool,
) -> Result<Vec<Value>> {
    let begin = Instant::now();
    loop {
        let result = query(addr, text).await?;
        if enough(&result) {
            return Ok(result);
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "{text}: still {result:?} after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The value of an instant sample.
fn value(sample: &Value) -> Result<f64> {
    let text = sample["value"][1].as_str().with_context(|| format!("no value in {sample}"))?;
    text.parse().with_context(|| text.to_owned())
}
