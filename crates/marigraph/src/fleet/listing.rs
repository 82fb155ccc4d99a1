//! `marigraph fleet agents`, `fleet targets` and `explain target`: who is there, what they scrape, and why not.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::{ClientArgs, Server};
use crate::tsdb_verbs::print_table;

/// Which clusters, of which hub.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// The hub
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9190", env = "MARIGRAPH_URL")]
    pub url: String,
    /// Only this cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Print the hub's JSON
    #[arg(long)]
    pub json: bool,
    /// How to reach the hub.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `fleet targets`.
#[derive(Debug, Clone, Args)]
pub struct TargetsArgs {
    /// Of which hub.
    #[command(flatten)]
    pub list: ListArgs,
    /// Only this job
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
    /// Only those that fail
    #[arg(long)]
    pub down: bool,
    /// Most lines
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub limit: usize,
}

/// What can be explained.
#[derive(Debug, Subcommand)]
pub enum ExplainVerb {
    /// Say which step keeps a target from being scraped, or how its scrapes go
    #[command(after_long_help = "Examples:\n  \
        marigraph explain target 10.0.0.5:9100\n  \
        marigraph explain target node-7 --cluster eu1\n\n\
        All clusters are looked at, and what the hub scrapes itself: found are targets with the word in their\n\
        address, instance or URL, also those that relabelling drops.")]
    Target {
        /// Address, instance, or part of a URL
        #[arg(value_name = "WORD")]
        word: String,
        /// Of which hub.
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(Debug, Deserialize)]
struct Envelope<T> {
    data: Option<T>,
    #[serde(default)]
    error: String,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Agent {
    cluster: String,
    agent: String,
    state: String,
    version: Option<String>,
    connected_since: Option<String>,
    last_seen: Option<String>,
    certificate_not_after: Option<String>,
    clock_ahead_seconds: Option<f64>,
    status: Option<Status>,
}

#[derive(Debug, Deserialize)]
struct Status {
    queue: Option<Queue>,
}

#[derive(Debug, Deserialize)]
struct Queue {
    bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Targets {
    targets: Vec<Target>,
    count: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    cluster: String,
    scrape_pool: String,
    scrape_url: String,
    labels: BTreeMap<String, String>,
    health: String,
    last_error: String,
    last_scrape: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Explained {
    found: Vec<Found>,
    looked: Vec<Looked>,
}

#[derive(Debug, Deserialize)]
struct Found {
    cluster: String,
    job: String,
    target: String,
    verdict: String,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    step: String,
    ok: bool,
    what: String,
}

#[derive(Debug, Deserialize)]
struct Looked {
    cluster: String,
    jobs: Option<Vec<String>>,
    targets: usize,
    dropped: usize,
}

/// Lists agents.
///
/// # Errors
/// The hub cannot be asked or refuses.
pub(super) fn agents(args: &ListArgs, out: &mut dyn Write) -> Result<()> {
    let Some(agents) = ask::<Vec<Agent>>(args, "/api/v1/fleet/agents", &[], out)? else { return Ok(()) };
    let title = ["CLUSTER", "AGENT", "STATE", "SINCE", "VERSION", "QUEUE", "CLOCK", "CERTIFICATE UNTIL"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for agent in agents {
        let since = if agent.state == "connected" { agent.connected_since } else { agent.last_seen };
        let queue = agent.status.and_then(|status| status.queue).map(|queue| queue.bytes);
        rows.push(vec![
            agent.cluster,
            agent.agent,
            agent.state,
            to_the_second(since),
            agent.version.unwrap_or_default(),
            queue.map_or_else(String::new, |bytes| format!("{:.1} MiB", bytes as f64 / 1_048_576.0)),
            agent.clock_ahead_seconds.map_or_else(String::new, |ahead| format!("{ahead:+.3} s")),
            to_the_second(agent.certificate_not_after),
        ]);
    }
    print_table(&rows, out)?;
    Ok(())
}

/// Lists targets of all clusters.
///
/// # Errors
/// The hub cannot be asked or refuses.
pub(super) fn targets(args: &TargetsArgs, out: &mut dyn Write) -> Result<()> {
    let mut form = vec![("limit", args.limit.to_string())];
    form.extend(args.job.iter().map(|job| ("job", job.clone())));
    form.extend(args.down.then(|| ("health", "down".to_owned())));
    let Some(found) = ask::<Targets>(&args.list, "/api/v1/fleet/targets", &form, out)? else { return Ok(()) };
    let title = ["CLUSTER", "JOB", "INSTANCE", "HEALTH", "LAST SCRAPE", "URL", "LAST ERROR"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    let shown = found.targets.len();
    for target in found.targets {
        rows.push(vec![
            target.cluster,
            target.scrape_pool,
            target.labels.get("instance").cloned().unwrap_or_default(),
            target.health,
            to_the_second(target.last_scrape),
            target.scrape_url,
            target.last_error,
        ]);
    }
    print_table(&rows, out)?;
    if shown < found.count {
        writeln!(out, "{shown} of {} targets; --limit shows more", found.count)?;
    }
    Ok(())
}

/// Carries out `marigraph explain`.
///
/// # Errors
/// The hub cannot be asked or refuses.
pub fn explain(verb: &ExplainVerb, out: &mut dyn Write) -> Result<()> {
    let ExplainVerb::Target { word, list } = verb;
    let form = [("target", word.clone())];
    let Some(told) = ask::<Explained>(list, "/api/v1/explain/target", &form, out)? else { return Ok(()) };
    for found in &told.found {
        let cluster = super::cluster_name(&found.cluster);
        writeln!(out, "{} (cluster {cluster}, job {}): {}", found.target, found.job, found.verdict)?;
        for step in &found.steps {
            writeln!(out, "  {} {:<11} {}", if step.ok { "ok  " } else { "FAIL" }, step.step, step.what)?;
        }
    }
    if told.found.is_empty() {
        writeln!(out, "no target with {word:?} in its address, instance or URL has been discovered:")?;
        for looked in &told.looked {
            let jobs = looked.jobs.as_ref().filter(|jobs| !jobs.is_empty());
            let jobs = jobs.map_or_else(|| "no jobs".to_owned(), |jobs| format!("jobs {}", jobs.join(", ")));
            let cluster = super::cluster_name(&looked.cluster);
            writeln!(
                out,
                "  {cluster}: {jobs} found {} targets, {} more were dropped by relabelling",
                looked.targets, looked.dropped
            )?;
        }
    }
    Ok(())
}

/// Asks; `None` when the answer was printed as it came.
fn ask<T: DeserializeOwned>(
    args: &ListArgs,
    path: &str,
    form: &[(&str, String)],
    out: &mut dyn Write,
) -> Result<Option<T>> {
    let mut form = form.to_vec();
    form.extend(args.cluster.iter().map(|cluster| ("cluster", cluster.clone())));
    let server = Server::new(&args.url, &args.client)?;
    let answer = server.ask_blocking(Method::GET, path, &form)?;
    let shown = server.shown();
    let envelope: Envelope<T> = serde_json::from_slice(&answer.body)
        .with_context(|| format!("{shown} answered {}, which is nothing about a fleet", answer.status))?;
    let Some(data) = envelope.data else { bail!("{shown}: {}", envelope.error) };
    if args.json {
        writeln!(out, "{}", String::from_utf8_lossy(&answer.body))?;
        return Ok(None);
    }
    for warning in envelope.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(Some(data))
}

/// Without the fraction of its seconds.
fn to_the_second(time: Option<String>) -> String {
    let time = time.unwrap_or_default();
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time,
    }
}
