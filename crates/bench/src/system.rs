//! The systems under comparison, started alike.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use testkit::peers::{self, Peer};

/// A system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// Ours: the program beside this one, or `target/release/marigraph`.
    Marigraph,
    /// Debian's Prometheus.
    Prometheus,
    /// Debian's VictoriaMetrics.
    VictoriaMetrics,
}

/// A system that runs, and where it keeps its data.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) peer: Peer,
    pub(crate) data: PathBuf,
}

impl System {
    pub(crate) const ALL: [System; 3] = [System::Marigraph, System::Prometheus, System::VictoriaMetrics];

    pub(crate) fn name(self) -> &'static str {
        match self {
            System::Marigraph => "marigraph",
            System::Prometheus => "prometheus",
            System::VictoriaMetrics => "victoria-metrics",
        }
    }

    /// Its program.
    pub(crate) fn program(self) -> Result<PathBuf> {
        match self {
            System::Marigraph => {
                let workspace =
                    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("workspace")?;
                let beside =
                    std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("marigraph")));
                let beside = beside.filter(|path| path.exists());
                Ok(beside.unwrap_or_else(|| workspace.join("target/release/marigraph")))
            }
            peer => peers::program(peer.name()).with_context(|| format!("{} is not there", peer.name())),
        }
    }

    /// Starts the system in `directory` (its data survive a restart there) with a scrape configuration.
    pub(crate) async fn start(self, directory: &Path, config: &str) -> Result<Running> {
        self.start_at(&directory.join(self.name()), config, peers::free_addr()?).await
    }

    /// Starts the system in a directory of its own, listening at `addr` (Prometheus: anywhere).
    pub(crate) async fn start_at(self, directory: &Path, config: &str, addr: SocketAddr) -> Result<Running> {
        let data = directory.join("data");
        std::fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
        let program = self.program()?;
        let file = directory.join("config.yml");
        std::fs::write(&file, config)?;
        let (config, store) = (file.display(), data.display());
        let peer = match self {
            System::Prometheus => {
                Peer::prometheus(&program, directory, &std::fs::read_to_string(&file)?).await?
            }
            System::Marigraph => {
                let args = [
                    "hub".to_owned(),
                    format!("--config={config}"),
                    format!("--data={store}"),
                    format!("--listen={addr}"),
                    "--retention.time=0".to_owned(),
                    "--log.level=warn".to_owned(),
                ];
                Peer::start(&program, &args, addr, "/-/ready").await?
            }
            System::VictoriaMetrics => {
                let args = [
                    format!("-promscrape.config={config}"),
                    format!("-storageDataPath={store}"),
                    format!("-httpListenAddr={addr}"),
                    "-retentionPeriod=100y".to_owned(),
                    "-loggerLevel=ERROR".to_owned(),
                    "-search.latencyOffset=0s".to_owned(),
                ];
                Peer::start(&program, &args, addr, "/health").await?
            }
        };
        Ok(Running { peer, data })
    }
}
