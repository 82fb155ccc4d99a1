//! The real peers, unpacked below `target/peers` by `cargo xtask peers`.
//!
//! Where they are not there a test that needs one is skipped loudly; with `REQUIRE_PEERS=1` it
//! fails instead.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http;

/// Longest a peer may take to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// The path of a peer's program; `None` (said loudly) where it cannot be had.
///
/// # Panics
/// It is not there and `REQUIRE_PEERS=1`.
pub fn program(name: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    let path = workspace.join("target/peers/usr/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var_os("REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "REQUIRE_PEERS=1 and {} is not there; run `cargo xtask peers`", path.display());
    eprintln!("SKIPPED: {name} is not there; `cargo xtask peers` fetches it");
    None
}

/// A loopback address with a port that was free a moment ago.
///
/// # Errors
/// No port could be had.
pub fn free_addr() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A running peer. Killed when dropped.
#[derive(Debug)]
pub struct Peer {
    /// Where it listens.
    pub addr: SocketAddr,
    child: Child,
}

impl Peer {
    /// Starts Prometheus in `directory` with `config`, its remote-write door open; waits until it
    /// is ready.
    ///
    /// # Errors
    /// It does not start or does not become ready in a minute.
    pub async fn prometheus(program: &Path, directory: &Path, config: &str) -> Result<Peer> {
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
        let addr = free_addr()?;
        let args = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", directory.join("data").display()),
            format!("--web.listen-address={addr}"),
            "--web.enable-remote-write-receiver".to_owned(),
            "--web.enable-admin-api".to_owned(),
            "--storage.tsdb.retention.time=100y".to_owned(),
            "--log.level=warn".to_owned(),
        ];
        Peer::start(program, &args, addr, "/-/ready").await
    }

    /// Starts node_exporter; waits until it answers.
    ///
    /// # Errors
    /// It does not start or does not answer in a minute.
    pub async fn node_exporter(program: &Path) -> Result<Peer> {
        let addr = free_addr()?;
        let args = [
            format!("--web.listen-address={addr}"),
            "--log.level=error".to_owned(),
            // What a container does not have and an installed exporter finds.
            "--no-collector.systemd".to_owned(),
            "--no-collector.textfile".to_owned(),
        ];
        Peer::start(program, &args, addr, "/").await
    }

    /// Starts `program` and waits until `GET ready` at `addr` answers 200.
    ///
    /// # Errors
    /// It does not start, ends, or does not become ready in a minute.
    pub async fn start(program: &Path, args: &[String], addr: SocketAddr, ready: &str) -> Result<Peer> {
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let mut peer = Peer { addr, child };
        let begin = Instant::now();
        while begin.elapsed() < READY_DEADLINE {
            if let Some(status) = peer.child.try_wait()? {
                bail!("{} ended: {status}", program.display());
            }
            if http::get(addr, ready).await.is_ok_and(|answer| answer.status == 200) {
                return Ok(peer);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{} is not ready after {READY_DEADLINE:?}", program.display())
    }

    /// Asks the process to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// The signal could not be sent, or the process ended with a failure.
    pub fn terminate(mut self) -> Result<()> {
        let sent =
            Command::new("kill").args(["-TERM", &self.id().to_string()]).status().context("start kill")?;
        anyhow::ensure!(sent.success(), "kill -TERM {}: {sent}", self.id());
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "process {} ended: {status}", self.id());
        Ok(())
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Ours, by its handle; an error means that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
