//! `marigraph fleet pause|resume|retire`: of which clusters nothing is expected.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use http::Method;
use serde::Deserialize;

use crate::verbs::client::{ClientArgs, Server};
use crate::verbs::query::times::Time;
use crate::verbs::terminal::table;

/// Which cluster, at which hub.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The cluster
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
    /// The hub; each hub has an account of its own
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9190", env = "MARIGRAPH_URL")]
    pub url: String,
    /// How to reach the hub.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `fleet pause`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "Examples:\n  \
        marigraph fleet pause eu1 --for 2h --reason 'new switches'\n  \
        marigraph fleet pause eu1 --until 2026-12-01T06:00:00Z\n\n\
        What comes all the same is stored. Without --until or --for it lasts an hour.")]
pub struct PauseArgs {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Until then (RFC 3339, or seconds since the epoch)
    #[arg(long, value_name = "TIME", conflicts_with = "lasting")]
    pub until: Option<Time>,
    /// For so long
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = crate::cli::parse_duration)]
    pub lasting: Duration,
    /// Why, for the hub's log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

#[derive(Debug, Deserialize)]
struct Done {
    #[serde(default)]
    until: String,
}

#[derive(Debug, Deserialize)]
struct Pauses {
    data: Vec<Pause>,
}

#[derive(Debug, Deserialize)]
struct Pause {
    cluster: String,
    from: String,
    until: String,
}

/// Nothing is expected of a cluster for a while.
///
/// # Errors
/// The hub cannot be asked or refuses.
pub(super) fn pause(args: &PauseArgs, out: &mut dyn Write) -> Result<()> {
    let until = args.until.unwrap_or_else(|| Time::now().plus(args.lasting));
    let done = post(&args.which, "pause", &[("until", until.api()), ("reason", args.reason.clone())])?;
    writeln!(out, "nothing is expected of {} until {}", args.which.cluster, done.until)?;
    Ok(())
}

/// A pause is over.
///
/// # Errors
/// The hub cannot be asked or refuses.
pub(super) fn resume(which: &Which, out: &mut dyn Write) -> Result<()> {
    post(which, "resume", &[])?;
    writeln!(out, "rows of {} are expected again", which.cluster)?;
    Ok(())
}

/// A cluster does not come back.
///
/// # Errors
/// The hub cannot be asked or refuses.
pub(super) fn retire(which: &Which, reason: &str, out: &mut dyn Write) -> Result<()> {
    post(which, "retire", &[("reason", reason.to_owned())])?;
    writeln!(
        out,
        "nothing more is expected of {}; its agents may still come: `marigraph agents revoke` ends that",
        which.cluster
    )?;
    Ok(())
}

/// Lists the pauses in force; nothing when there are none, or when the hub does not know them.
///
/// # Errors
/// The hub cannot be asked.
pub(super) fn list(url: &str, client: &ClientArgs, out: &mut dyn Write) -> Result<()> {
    let answer = Server::new(url, client)?.ask_blocking(Method::GET, "/api/v1/fleet/pauses", &[])?;
    let Ok(pauses) = serde_json::from_slice::<Pauses>(&answer.body) else { return Ok(()) };
    if pauses.data.is_empty() {
        return Ok(());
    }
    let mut rows = vec![["PAUSED", "SINCE", "UNTIL"].map(str::to_owned).to_vec()];
    rows.extend(pauses.data.into_iter().map(|pause| vec![pause.cluster, pause.from, pause.until]));
    writeln!(out)?;
    out.write_all(table(&rows).as_bytes())?;
    Ok(())
}

fn post(which: &Which, verb: &str, further: &[(&str, String)]) -> Result<Done> {
    let server = Server::new(&which.url, &which.client)?;
    let mut form = vec![("cluster", which.cluster.clone())];
    form.extend(further.iter().cloned());
    server.json_blocking(Method::POST, &format!("/api/v1/admin/clusters/{verb}"), &form)
}
