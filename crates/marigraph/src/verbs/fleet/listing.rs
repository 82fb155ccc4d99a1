//! `marigraph fleet agents`, `fleet targets` and `explain target`: who is there, what they scrape, and why not.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::verbs::client::{ClientArgs, Server};
use crate::verbs::terminal::table;

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
    /// Where the page before said that this one begins (nextPageToken of --json)
    #[arg(long, value_name = "TOKEN")]
    pub page_token: Option<String>,
}

/// What can be explained.
#[derive(Debug, Subcommand)]
pub enum ExplainVerb {
    /// Say which step keeps a target from being scraped, or how its scrapes go
    #[command(after_long_help = "Examples:\n  \
        marigraph explain target 10.0.0.5:9100\n  \
        marigraph explain target node-7 --cluster eu1\n  \
        marigraph explain target node-7 --url http://127.0.0.1:9191    an agent's own view, also without a hub\n\n\
        A hub looks at all clusters, and at what it scrapes itself: found are targets with the word in their address,\n\
        instance or URL, also those that relabelling drops, that are duplicates, or none. Ends with 1 when none is found.")]
    Target {
        /// Address, instance, job/instance, or part of a URL
        #[arg(value_name = "WORD")]
        word: String,
        /// Of which hub.
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(Debug, Deserialize)]
struct Envelope<T> {
    data: T,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default, rename = "nextPageToken")]
    next: Option<String>,
}

/// What a hub answered.
struct Told<T> {
    data: T,
    /// Where the next page begins.
    next: Option<String>,
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
    #[serde(default)]
    silent: bool,
    #[serde(default)]
    uptime_seconds: Option<f64>,
    #[serde(default)]
    lag_seconds: Option<f64>,
    queue: Option<Queue>,
    targets: Option<Counts>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Queue {
    waiting_rows: Option<u64>,
    waiting_bytes: Option<u64>,
    oldest_age_seconds: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Counts {
    up: u64,
    down: u64,
    unknown: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Targets {
    targets: Vec<Target>,
    count: usize,
    next_page_token: Option<String>,
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
    #[serde(default, rename = "foundMore")]
    more: usize,
    looked: Vec<Looked>,
}

#[derive(Debug, Deserialize)]
struct Found {
    cluster: String,
    #[serde(default)]
    agent: String,
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
    #[serde(default)]
    agent: String,
    jobs: Option<Vec<String>>,
    targets: usize,
    dropped: usize,
    #[serde(default)]
    problems: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Alarm {
    cluster: String,
    since: Option<String>,
    what: String,
}

/// Lists agents, all of them.
///
/// # Errors
/// The hub cannot be asked or refuses.
pub(super) fn agents(args: &ListArgs, out: &mut dyn Write) -> Result<()> {
    let title = [
        "CLUSTER",
        "AGENT",
        "STATE",
        "SINCE",
        "VERSION",
        "UPTIME",
        "LAG",
        "WAITING",
        "OLDEST",
        "TARGETS",
        "CLOCK",
        "CERTIFICATE UNTIL",
    ];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    let mut form = Vec::new();
    loop {
        let Some(told) = ask::<Vec<Agent>>(args, "/api/v1/fleet/agents", &form, out)? else { return Ok(()) };
        rows.extend(told.data.into_iter().map(agent_row));
        match told.next {
            Some(next) => form = vec![("page_token", next)],
            None => break,
        }
    }
    out.write_all(table(&rows).as_bytes())?;
    Ok(())
}

fn agent_row(agent: Agent) -> Vec<String> {
    let is_connected = agent.state == "connected";
    let since = if is_connected { agent.connected_since } else { agent.last_seen };
    let age = |seconds: Option<f64>| seconds.map_or_else(String::new, for_people);
    let queue = agent.queue.as_ref();
    let waiting = queue.and_then(|queue| queue.waiting_rows.zip(queue.waiting_bytes));
    let waiting = waiting.map(|(rows, bytes)| format!("{rows} rows, {:.1} MiB", bytes as f64 / 1_048_576.0));
    let targets = agent.targets.map(|targets| {
        let of = |count: u64, word: &str| (count > 0).then(|| format!("{count} {word}"));
        let parts = [of(targets.up, "up"), of(targets.down, "DOWN"), of(targets.unknown, "unknown")];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    });
    vec![
        agent.cluster,
        agent.agent,
        // Connected, and hanging.
        if is_connected && agent.silent { "SILENT".to_owned() } else { agent.state },
        to_the_second(since),
        agent.version.unwrap_or_default(),
        age(agent.uptime_seconds),
        age(agent.lag_seconds),
        waiting.unwrap_or_default(),
        age(queue.and_then(|queue| queue.oldest_age_seconds)),
        targets.unwrap_or_default(),
        agent.clock_ahead_seconds.map_or_else(String::new, |ahead| format!("{ahead:+.3} s")),
        to_the_second(agent.certificate_not_after),
    ]
}

/// Lists targets of all clusters, page by page.
///
/// # Errors
/// The hub cannot be asked or refuses.
pub(super) fn targets(args: &TargetsArgs, out: &mut dyn Write) -> Result<()> {
    let title = ["CLUSTER", "JOB", "INSTANCE", "HEALTH", "LAST SCRAPE", "URL", "LAST ERROR"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    let (mut next, mut left) = (args.page_token.clone(), 0);
    while rows.len() <= args.limit {
        let mut form = vec![("limit", (args.limit + 1 - rows.len()).to_string())];
        form.extend(args.job.iter().map(|job| ("job", job.clone())));
        form.extend(args.down.then(|| ("health", "down".to_owned())));
        form.extend(next.iter().map(|next| ("page_token", next.clone())));
        let Some(told) = ask::<Targets>(&args.list, "/api/v1/fleet/targets", &form, out)? else {
            return Ok(());
        };
        let found = told.data;
        left = found.count.saturating_sub(found.targets.len());
        rows.extend(found.targets.into_iter().map(target_row));
        next = found.next_page_token;
        if next.is_none() {
            break;
        }
    }
    out.write_all(table(&rows).as_bytes())?;
    if let Some(next) = next {
        writeln!(out, "{left} more targets; --limit shows more, --page-token {next} the next ones")?;
    }
    Ok(())
}

fn target_row(target: Target) -> Vec<String> {
    vec![
        target.cluster,
        target.scrape_pool,
        target.labels.get("instance").cloned().unwrap_or_default(),
        target.health,
        to_the_second(target.last_scrape),
        target.scrape_url,
        target.last_error,
    ]
}

/// Lists what the hub has noticed by itself; nothing when there is nothing, or when the hub does not know of alarms.
///
/// # Errors
/// The hub cannot be asked.
pub(super) fn alarms(
    url: &str,
    cluster: Option<&str>,
    client: &ClientArgs,
    out: &mut dyn Write,
) -> Result<()> {
    let form: Vec<_> = cluster.iter().map(|cluster| ("cluster", (*cluster).to_owned())).collect();
    let answer = Server::new(url, client)?.ask_blocking(Method::GET, "/api/v1/fleet/alarms", &form)?;
    let Ok(Envelope { data: alarms, .. }) = serde_json::from_slice::<Envelope<Vec<Alarm>>>(&answer.body)
    else {
        return Ok(());
    };
    if alarms.is_empty() {
        return Ok(());
    }
    let mut rows = vec![["ALARM", "SINCE", "WHAT"].map(str::to_owned).to_vec()];
    rows.extend(
        alarms
            .into_iter()
            .map(|alarm| vec![super::cluster_name(&alarm.cluster), to_the_second(alarm.since), alarm.what]),
    );
    writeln!(out)?;
    out.write_all(table(&rows).as_bytes())?;
    Ok(())
}

/// Carries out `marigraph explain`.
///
/// # Errors
/// The hub or agent cannot be asked or refuses; nothing is found, which is told before.
pub fn explain(verb: &ExplainVerb, out: &mut dyn Write) -> Result<()> {
    let ExplainVerb::Target { word, list } = verb;
    let form = [("target", word.clone())];
    let told = tell::<Explained>(list, "/api/v1/explain/target", &form, out)?.data;
    if !list.json {
        print_explained(word, &told, out)?;
    }
    ensure!(
        !told.found.is_empty(),
        "no target with {word:?} in its address, instance or URL has been discovered"
    );
    Ok(())
}

fn print_explained(word: &str, told: &Explained, out: &mut dyn Write) -> Result<()> {
    for found in &told.found {
        let place = place(&found.cluster, &found.agent);
        writeln!(out, "{} ({place}, job {}): {}", found.target, found.job, found.verdict)?;
        for step in &found.steps {
            writeln!(out, "  {} {:<11} {}", if step.ok { "ok  " } else { "FAIL" }, step.step, step.what)?;
        }
    }
    if told.more > 0 {
        writeln!(out, "and {} more targets with {word:?}; say more of its name, or --cluster", told.more)?;
    }
    if !told.found.is_empty() {
        return Ok(());
    }
    writeln!(out, "looked through:")?;
    for looked in &told.looked {
        let jobs = looked.jobs.as_ref().filter(|jobs| !jobs.is_empty());
        let jobs = jobs.map_or_else(|| "no jobs".to_owned(), |jobs| format!("jobs {}", jobs.join(", ")));
        let place = place(&looked.cluster, &looked.agent);
        let (targets, dropped) = (looked.targets, looked.dropped);
        writeln!(
            out,
            "  {place}: {jobs} found {targets} targets, {dropped} more were dropped by relabelling"
        )?;
        for problem in &looked.problems {
            writeln!(out, "    {problem}")?;
        }
    }
    Ok(())
}

/// The cluster; without one, the agent or the hub.
fn place(cluster: &str, agent: &str) -> String {
    match (cluster, agent) {
        ("", "") => "the hub".to_owned(),
        ("", agent) => format!("agent {agent}"),
        (cluster, _) => format!("cluster {cluster}"),
    }
}

/// Asks; `None` when the answer was printed as it came.
fn ask<T: DeserializeOwned>(
    args: &ListArgs,
    path: &str,
    form: &[(&str, String)],
    out: &mut dyn Write,
) -> Result<Option<Told<T>>> {
    let told = tell(args, path, form, out)?;
    Ok(if args.json { None } else { Some(told) })
}

/// Asks, and prints the answer as it came, or else its warnings.
fn tell<T: DeserializeOwned>(
    args: &ListArgs,
    path: &str,
    form: &[(&str, String)],
    out: &mut dyn Write,
) -> Result<Told<T>> {
    let mut form = form.to_vec();
    form.extend(args.cluster.iter().map(|cluster| ("cluster", cluster.clone())));
    let server = Server::new(&args.url, &args.client)?;
    let answer = server.ask_blocking(Method::GET, path, &form)?;
    let envelope: Envelope<T> = server.understood(path, &answer)?;
    if args.json {
        writeln!(out, "{}", String::from_utf8_lossy(&answer.body))?;
        return Ok(Told { data: envelope.data, next: envelope.next });
    }
    for warning in envelope.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(Told { data: envelope.data, next: envelope.next })
}

/// `0s`, `1.5s`, `2d3h`: seconds rounded to what matters.
fn for_people(seconds: f64) -> String {
    let ms = (seconds.max(0.0) * 1000.0) as i64;
    model::duration::format(match ms {
        ..10_000 => ms / 100 * 100,
        10_000..7_200_000 => ms / 1000 * 1000,
        _ => ms / 60_000 * 60_000,
    })
}

/// Without the fraction of its seconds.
fn to_the_second(time: Option<String>) -> String {
    let time = time.unwrap_or_default();
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time,
    }
}
