//! `marigraph check`: what would go wrong, without starting anything.

mod metrics;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use http::Method;
use scrape::client::{HttpClient, TcpConnector, TlsConfigs};

pub use self::metrics::{Lint, MetricsArgs, run as metrics};
use crate::config::{Config, Discovery};
use crate::verbs::client::{ClientArgs, Server};
use crate::{credentials, hub};

/// Flags of `marigraph check healthy` and `check ready`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9190")]
    pub url: String,
    /// How to reach it.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Asks a server's probe at `path`.
///
/// # Errors
/// It cannot be reached, or answers something else than success.
pub fn probe(args: &ProbeArgs, path: &str) -> Result<()> {
    let server = Server::new(&args.url, &args.client)?;
    let answer = server.ask_blocking(Method::GET, path, &[])?;
    let said: String = String::from_utf8_lossy(&answer.body).trim().chars().take(500).collect();
    if !answer.status.is_success() {
        bail!("{}{path} answers {}: {said}", server.shown(), answer.status);
    }
    eprintln!("{}: {said}", server.shown());
    Ok(())
}

/// Reads a configuration as `hub --config` would, and the files without which that would not start,
/// and tells what it holds.
///
/// # Errors
/// What is wrong with it, with file, line and column; or which of the files is missing.
pub fn config(file: &Path) -> Result<()> {
    let config = Config::load(file)?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    needed_files(&config).with_context(|| file.display().to_string())?;
    let jobs = config.jobs.len();
    eprintln!("{}: good; {jobs} scrape job{}", file.display(), if jobs == 1 { "" } else { "s" });
    Ok(())
}

/// Reads the certificates, keys, and credentials of the hub's own doors.
fn needed_files(config: &Config) -> Result<()> {
    let tls = Arc::new(TlsConfigs::default());
    for job in &config.jobs {
        let discovery = job.discovery.iter().filter_map(|discovery| match discovery {
            Discovery::Http { client, .. } => Some(client.as_ref()),
            _ => None,
        });
        for client in std::iter::once(&job.scrape.http).chain(discovery) {
            HttpClient::new(client, Arc::new(TcpConnector), Arc::clone(&tls))
                .map_err(|problem| anyhow!("job {}: {problem}", job.scrape.job_name))?;
        }
    }
    hub::pushprox_doors(&config.proxy)?;
    for remote in &config.remote_writes {
        HttpClient::new(&remote.client, Arc::new(TcpConnector), Arc::clone(&tls))
            .map_err(|problem| anyhow!("remote_write {}: {problem}", remote.send.name))?;
    }
    hub::check_fleet_files(&config.fleet)?;
    credentials::auth(&config.web_auth).map(drop)
}
