//! `marigraph check`: what would go wrong, without starting anything.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use scrape::client::{HttpClient, TcpConnector, TlsConfigs};

use crate::config::{Config, Discovery};
use crate::{credentials, hub};

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
