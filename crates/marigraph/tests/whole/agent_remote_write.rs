//! Remote write of agents to a real Prometheus, which is away for long: with a hub and without, with a store of
//! their own and without. The agent is killed in between, and everything that was acknowledged is there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use testkit::http;
use testkit::peers::{Peer, free_addr};

use crate::fleet::token;
use crate::remote_write::{Receiver, SERIES, push};
use crate::{PATIENCE, query, start_hub_at, value};

/// An agent as a process of its own, to be killed and started again where it was.
struct Sender {
    args: Vec<String>,
    addr: SocketAddr,
}

impl Sender {
    fn new(directory: &Path, receiver: &Receiver, sections: &str, further: &[String]) -> Result<Sender> {
        let addr = free_addr()?;
        let config = format!(
            "global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}\nmachine: {{}}\n{sections}\
             remote_write:\n  - name: far\n    url: http://{}/api/v1/write\n    \
             queue_config: {{batch_send_deadline: 200ms, max_samples_per_send: 200, max_backoff: 1s}}\n    \
             write_relabel_configs: [{{source_labels: [__name__], regex: 'tide|up', action: keep}}]\n\
             scrape_configs:\n  - job_name: node\n    metrics_path: /metrics/machine\n    \
             static_configs: [{{targets: ['{addr}']}}]\n",
            receiver.addr
        );
        let file = directory.join("agent.yml");
        std::fs::write(&file, config)?;
        let mut args = vec![
            "agent".to_owned(),
            format!("--data={}", directory.join("agent").display()),
            format!("--config={}", file.display()),
            format!("--listen={addr}"),
            "--log.level=error".to_owned(),
        ];
        args.extend(further.iter().cloned());
        Ok(Sender { args, addr })
    }

    async fn start(&self) -> Result<Peer> {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_marigraph"));
        Peer::start(&program, &self.args, self.addr, "/-/ready").await
    }
}

/// Waits until each series of `tide` has `rows` samples at `addr`.
async fn has(addr: SocketAddr, rows: usize) -> Result<()> {
    let begin = Instant::now();
    loop {
        let counts = query(addr, "count_over_time(tide{cluster=\"west\"}[1h])").await?;
        let right = counts.iter().filter(|count| value(count).is_ok_and(|found| found == rows as f64));
        if right.count() == SERIES {
            return Ok(());
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "{addr}: {rows} rows are due, found {counts:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The times of the rows of `up` in `[from, to]`, seconds.
async fn scrapes(addr: SocketAddr, from: u64, to: u64) -> Result<f64> {
    if to <= from {
        return Ok(0.0); // a quick machine
    }
    let text = format!("sum(count_over_time(up{{job=\"node\"}}[{}s] @ {to}))", to - from);
    let found = query(addr, &text).await?;
    found.first().map_or(Ok(0.0), value)
}

fn seconds() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// The story, told `with_hub` and `with_store`.
async fn check(with_hub: bool, with_store: bool) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let directory = directory.path();
    let Some(mut receiver) = Receiver::prometheus(directory)? else { return Ok(()) };
    receiver.start().await?;
    let hub = match with_hub {
        true => Some(start_hub_at(directory, Some("global: {}\n"), "127.0.0.1:0").await?),
        false => None,
    };
    let mut words = Vec::new();
    match &hub {
        Some(hub) => {
            words.push(format!("--hub=https://{}", hub.addr()));
            words.push(format!("--token={}", token(hub, "west").await?));
        }
        None => words.push("--cluster=west".to_owned()),
    }
    let sections = if with_store { "storage: {local: {ship: [tide]}}\n" } else { "" };
    let mut sender = Sender::new(directory, &receiver, sections, &words)?;
    let first_ms = i64::try_from(seconds()? * 1000)? - 900_000;

    let agent = sender.start().await?;
    let began = seconds()? + 1;
    push(sender.addr, first_ms, 0, 20).await?;
    receiver.has(20).await?;
    // It goes away for many rows, and the agent dies in mid-stream, twice.
    receiver.stop()?;
    push(sender.addr, first_ms, 20, 60).await?;
    drop(agent); // SIGKILL
    // Enrolled once: the certificate is in its directory.
    sender.args.retain(|word| !word.starts_with("--token"));
    let agent = sender.start().await?;
    push(sender.addr, first_ms, 60, 100).await?;
    drop(agent); // SIGKILL
    let agent = sender.start().await?;
    push(sender.addr, first_ms, 100, 120).await?;
    receiver.start().await?;
    push(sender.addr, first_ms, 120, 140).await?;
    drop(agent); // SIGKILL, with requests under way
    let agent = sender.start().await?;
    receiver.has(140).await?;
    let last = query(receiver.addr, "last_over_time(tide{buoy=\"3\"}[1h])").await?;
    anyhow::ensure!(value(&last[0])? == (139 * 7 + 3) as f64, "{last:?}");
    if with_store {
        has(sender.addr, 140).await?;
        // Three kills may each cost the receiver the scrape of that moment, no more.
        let begin = Instant::now();
        while scrapes(sender.addr, began, seconds()?).await? < 10.0 {
            anyhow::ensure!(begin.elapsed() < PATIENCE, "the agent does not scrape");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let until = seconds()?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (kept, sent) =
            (scrapes(sender.addr, began, until).await?, scrapes(receiver.addr, began, until).await?);
        anyhow::ensure!((kept - 3.0..=kept).contains(&sent), "{kept} scrapes, {sent} sent");
    }
    let metrics = http::get(sender.addr, "/metrics").await?.text();
    let shards = "marigraph_remote_write_shards{remote_name=\"far\"} ";
    anyhow::ensure!(metrics.contains(shards), "no {shards} in the metrics");
    let dropped = "marigraph_remote_write_samples_dropped_total{remote_name=\"far\",reason=\"queue";
    anyhow::ensure!(!metrics.contains(dropped), "{metrics}");
    agent.terminate()?;
    let Some(hub) = hub else { return Ok(()) };
    // By itself: an agent with a store would be asked.
    has(hub.addr(), 140).await?;
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_alone() -> Result<()> {
    check(false, false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_alone_with_a_store() -> Result<()> {
    check(false, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_with_a_hub() -> Result<()> {
    check(true, false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_with_a_hub_and_a_store() -> Result<()> {
    check(true, true).await
}
