//! Remote write to real receivers: a Prometheus, a VictoriaMetrics, a hub of ours that is sent 2.0. They
//! stop for a while, our process is killed in between, and everything that was acknowledged is there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use model::Labels;
use testkit::http;
use testkit::peers::{Peer, free_addr, program};
use testkit::push::Push;

use crate::{PATIENCE, query, start_hub, value};

pub(crate) const SERIES: usize = 20;

/// A receiver that can be stopped and started again where it was.
pub(crate) struct Receiver {
    pub(crate) name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    pub(crate) addr: SocketAddr,
    ready: &'static str,
    running: Option<Peer>,
}

impl Receiver {
    pub(crate) fn prometheus(directory: &Path) -> Result<Option<Receiver>> {
        let Some(program) = program("prometheus") else { return Ok(None) };
        let addr = free_addr()?;
        let file = directory.join("receiver.yml");
        std::fs::write(&file, "global: {}\n")?;
        let args = vec![
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", directory.join("prometheus").display()),
            format!("--web.listen-address={addr}"),
            "--web.enable-remote-write-receiver".to_owned(),
            "--log.level=error".to_owned(),
        ];
        let ready = "/-/ready";
        Ok(Some(Receiver { name: "prometheus", program, args, addr, ready, running: None }))
    }

    fn victoria_metrics(directory: &Path) -> Result<Option<Receiver>> {
        let Some(program) = program("victoria-metrics") else { return Ok(None) };
        let addr = free_addr()?;
        let args = vec![
            format!("-storageDataPath={}", directory.join("victoria").display()),
            format!("-httpListenAddr={addr}"),
            "-loggerLevel=ERROR".to_owned(),
            "-search.latencyOffset=0s".to_owned(),
            "-retentionPeriod=1y".to_owned(),
            // It keeps a sample as often as it comes, and what was under way at a kill comes again.
            "-dedup.minScrapeInterval=1ms".to_owned(),
        ];
        let ready = "/health";
        Ok(Some(Receiver { name: "victoria-metrics", program, args, addr, ready, running: None }))
    }

    fn ours(directory: &Path) -> Result<Receiver> {
        let addr = free_addr()?;
        let file = directory.join("ours.yml");
        std::fs::write(&file, "global: {}\n")?;
        let args = vec![
            "hub".to_owned(),
            format!("--data={}", directory.join("ours").display()),
            format!("--config={}", file.display()),
            format!("--listen={addr}"),
            "--log.level=error".to_owned(),
        ];
        let program = PathBuf::from(env!("CARGO_BIN_EXE_marigraph"));
        Ok(Receiver { name: "marigraph", program, args, addr, ready: "/-/ready", running: None })
    }

    pub(crate) async fn start(&mut self) -> Result<()> {
        self.running = Some(Peer::start(&self.program, &self.args, self.addr, self.ready).await?);
        Ok(())
    }

    /// In order, so that it has written down what it answered for.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Peer::terminate)
    }

    /// Waits until each series of `tide` has `rows` samples, as each of them should have.
    pub(crate) async fn has(&self, rows: usize) -> Result<()> {
        let begin = Instant::now();
        loop {
            let counts = query(self.addr, "count_over_time(tide{cluster=\"west\"}[1h])").await?;
            let right = counts.iter().filter(|count| value(count).is_ok_and(|found| found == rows as f64));
            if right.count() == SERIES {
                return Ok(());
            }
            anyhow::ensure!(
                begin.elapsed() < PATIENCE,
                "{}: {rows} rows are due, found {counts:?}",
                self.name
            );
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
}

/// The process that writes.
async fn sender(directory: &Path, receivers: &[Receiver]) -> Result<Peer> {
    let addr = free_addr()?;
    let mut config = "global:\n  external_labels: {cluster: west}\nremote_write:\n".to_owned();
    for receiver in receivers {
        let message = if receiver.name == "marigraph" { "io.prometheus.write.v2.Request" } else { "" };
        config += &format!(
            "  - name: {}\n    url: http://{}/api/v1/write\n    protobuf_message: '{message}'\n    \
             queue_config: {{batch_send_deadline: 200ms, max_samples_per_send: 50, max_backoff: 1s}}\n    \
             write_relabel_configs: [{{source_labels: [__name__], regex: secret, action: drop}}]\n",
            receiver.name, receiver.addr,
        );
    }
    let file = directory.join("sender.yml");
    std::fs::write(&file, config)?;
    let args = [
        "hub".to_owned(),
        format!("--data={}", directory.join("sender").display()),
        format!("--config={}", file.display()),
        format!("--listen={addr}"),
        "--log.level=error".to_owned(),
    ];
    Peer::start(Path::new(env!("CARGO_BIN_EXE_marigraph")), &args, addr, "/-/ready").await
}

/// Pushes rows `from..to`, a second apart, each in a request that is acknowledged.
pub(crate) async fn push(addr: SocketAddr, first_ms: i64, from: usize, to: usize) -> Result<()> {
    for row in from..to {
        let at_ms = first_ms + row as i64 * 1000;
        let mut request = Push::default();
        for series in 0..SERIES {
            let labels =
                Labels::from_pairs([("__name__", "tide"), ("buoy", &series.to_string()), ("job", "sea")]);
            request.floats(&labels, &[(at_ms, (row * 7 + series) as f64)]);
        }
        request.floats(&Labels::from_pairs([("__name__", "secret"), ("job", "sea")]), &[(at_ms, 1.0)]);
        let answer = request.send(addr).await?;
        anyhow::ensure!(answer.status == 204, "{}", answer.text());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_have_everything_whoever_stops_or_dies() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let directory = directory.path();
    let mut receivers = vec![Receiver::ours(directory)?];
    receivers.extend(Receiver::prometheus(directory)?);
    receivers.extend(Receiver::victoria_metrics(directory)?);
    for receiver in &mut receivers {
        receiver.start().await?;
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let first_ms = now_ms - 600_000;

    let ours = sender(directory, &receivers).await?;
    push(ours.addr, first_ms, 0, 20).await?;
    for receiver in &receivers {
        receiver.has(20).await?;
    }
    // All are away, and we die in mid-stream.
    for receiver in &mut receivers {
        receiver.stop()?;
    }
    push(ours.addr, first_ms, 20, 45).await?;
    drop(ours); // SIGKILL
    let ours = sender(directory, &receivers).await?;
    push(ours.addr, first_ms, 45, 60).await?;
    for receiver in &mut receivers {
        receiver.start().await?;
    }
    push(ours.addr, first_ms, 60, 80).await?;
    drop(ours); // SIGKILL, with requests under way
    let ours = sender(directory, &receivers).await?;
    for receiver in &receivers {
        receiver.has(80).await?;
        let last = query(receiver.addr, "last_over_time(tide{buoy=\"3\"}[1h])").await?;
        anyhow::ensure!(value(&last[0])? == (79 * 7 + 3) as f64, "{}: {last:?}", receiver.name);
        let dropped = query(receiver.addr, "count_over_time(secret[1h])").await?;
        anyhow::ensure!(dropped.is_empty(), "{}: a rule drops this: {dropped:?}", receiver.name);
    }
    let metrics = http::get(ours.addr, "/metrics").await?.text();
    for receiver in &receivers {
        let name = receiver.name;
        let shards = format!("marigraph_remote_write_shards{{remote_name=\"{name}\"}} ");
        anyhow::ensure!(metrics.contains(&shards), "no {shards} in the metrics");
    }
    ours.terminate()
}

/// A receiver that was added by a reload gets what comes from then on; one that is gone gets no more.
#[tokio::test(flavor = "multi_thread")]
async fn receivers_come_and_go_with_the_configuration() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut receiver = Receiver::ours(directory.path())?;
    receiver.start().await?;
    let section = format!(
        "remote_write:\n  - url: http://{}/api/v1/write\n    queue_config: {{batch_send_deadline: 100ms}}\n",
        receiver.addr
    );
    let first_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64 - 600_000;
    let global = "global:\n  external_labels: {cluster: west}\n";
    let hub = start_hub(directory.path(), Some(global)).await?;
    push(hub.addr(), first_ms, 0, 3).await?;

    let file = directory.path().join("prometheus.yml");
    std::fs::write(&file, format!("{global}{section}"))?;
    hub.reload().await;
    push(hub.addr(), first_ms, 3, 8).await?;
    receiver.has(5).await?;

    std::fs::write(&file, global)?;
    hub.reload().await;
    push(hub.addr(), first_ms, 8, 11).await?;
    let status = http::get(hub.addr(), "/metrics").await.context("metrics")?;
    assert_eq!(status.status, 200);

    std::fs::write(&file, format!("{global}{section}"))?;
    hub.reload().await;
    push(hub.addr(), first_ms, 11, 13).await?;
    receiver.has(7).await?;
    hub.stop().await
}
