//! `marigraph fleet`: what a hub's ledger says, as tables: clusters, and gaps with their reasons.

mod lifecycle;
pub mod listing;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;

use crate::verbs::client::{ClientArgs, Server};
use crate::verbs::query::times::Time;
use crate::verbs::terminal::table;
use lifecycle::{PauseArgs, Which};
use listing::{ListArgs, TargetsArgs};

/// A gap of the same reason that begins or ends so much apart is shown on one line with its like.
const TOGETHER_MS: i64 = 60_000;

/// Flags of `marigraph fleet`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
        marigraph fleet                                     clusters, and how complete the last hour is\n  \
        marigraph fleet --by job --since 24h                the same for each job, over a day\n  \
        marigraph fleet gaps --cluster eu1 --since 6h       what is missing, and why\n  \
        marigraph fleet agents                              who is connected, since when, and how they do\n  \
        marigraph fleet targets --down                      targets of all clusters that fail, and why\n  \
        marigraph fleet gaps --check || page-somebody       exit status 1 when anything is missing\n  \
        marigraph fleet pause eu1 --for 2h --reason moving  nothing is expected of it meanwhile\n\n\
        Rows are ticks at which a row was due. `missing` has a reason, `unknown` has none (yet): nobody has told\n\
        what became of them. Failed scrapes (target_...) are in the data, too: up is 0.")]
pub struct FleetArgs {
    /// What to show; clusters without it
    #[command(subcommand)]
    pub verb: Option<FleetVerb>,
    /// What to ask of which hub.
    #[command(flatten)]
    pub asked: Asked,
    /// A line for each cluster, job or source
    #[arg(long, value_name = "cluster|job|source", default_value = "cluster")]
    pub by: By,
    /// Exit with status 1 unless everything that was due is stored
    #[arg(long)]
    pub check: bool,
}

/// How finely sums are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// A line for each cluster
    Cluster,
    /// A line for each job
    Job,
    /// A line for each source
    Source,
}

/// The verbs of `marigraph fleet`.
#[derive(Debug, Subcommand)]
pub enum FleetVerb {
    /// List what is missing: when, where, why
    Gaps {
        /// What to ask of which hub.
        #[command(flatten)]
        asked: Asked,
        /// A line for each source, instead of gaps that sources have together
        #[arg(long)]
        each: bool,
        /// Exit with status 1 when there is any
        #[arg(long)]
        check: bool,
    },
    /// List agents: state, version, queue, clock, certificate
    Agents(ListArgs),
    /// List the targets of all clusters
    Targets(TargetsArgs),
    /// Expect nothing of a cluster for a while
    Pause(PauseArgs),
    /// Expect rows of a paused cluster again
    Resume(Which),
    /// Expect nothing more of a cluster, until its sources begin anew
    Retire {
        /// Which cluster.
        #[command(flatten)]
        which: Which,
        /// Why, for the hub's log
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
}

/// What to ask of which hub.
#[derive(Debug, Clone, Args)]
pub struct Asked {
    /// The hub
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9190", env = "MARIGRAPH_URL")]
    pub url: String,
    /// Only this cluster ("" for what the hub scrapes itself)
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Only this job
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
    /// From this time on (RFC 3339, or seconds since the epoch)
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    pub start: Option<Time>,
    /// Up to this time; now otherwise
    #[arg(long, value_name = "TIME")]
    pub end: Option<Time>,
    /// From so long before the end on
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = crate::cli::parse_duration)]
    pub since: Duration,
    /// How to reach the hub.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// A time of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct When(Timestamp);

impl TryFrom<String> for When {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<When, jiff::Error> {
        text.parse().map(When)
    }
}

/// The answer of `/api/v1/completeness`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) total: Tally,
    groups: Vec<Group>,
    gaps: Vec<Gap>,
    gaps_left_off: u64,
    detail_lost: Vec<Span>,
    pushed: Vec<Pushed>,
    agents: Vec<Agent>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tally {
    sources: u64,
    pub(crate) expected: u64,
    pub(crate) stored: u64,
    missing: u64,
    unknown: u64,
    partial: u64,
    percent: Option<f64>,
    worst_interval: Option<Worst>,
    newest: Option<When>,
}

#[derive(Debug, Deserialize)]
struct Worst {
    seconds: f64,
    configured: f64,
}

#[derive(Debug, Deserialize)]
struct Group {
    cluster: String,
    #[serde(default)]
    job: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(flatten)]
    tally: Tally,
}

#[derive(Debug, Clone, Deserialize)]
struct Gap {
    cluster: String,
    job: String,
    labels: BTreeMap<String, String>,
    from: When,
    to: When,
    rows: u64,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Span {
    from: When,
    to: When,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pushed {
    cluster: String,
    job: String,
    received: u64,
    stored: u64,
    silent_since: When,
}

#[derive(Debug, Deserialize)]
struct Agent {
    cluster: String,
    agent: String,
    silent: bool,
}

#[derive(Debug, Deserialize)]
struct Envelope {
    data: Report,
}

/// Shows what is asked for.
///
/// # Errors
/// The hub cannot be asked or refuses; with `--check`, something is missing.
pub fn run(args: &FleetArgs) -> Result<()> {
    let out = &mut io::stdout().lock();
    match &args.verb {
        None => {
            let by = format!("{:?}", args.by).to_lowercase();
            let report = ask(&args.asked, &by)?;
            clusters(&report, args.by, Timestamp::now(), out)?;
            let asked = &args.asked;
            listing::alarms(&asked.url, asked.cluster.as_deref(), &asked.client, out)?;
            lifecycle::list(&asked.url, &asked.client, out)?;
            if args.check && !is_whole(&report) {
                bail!("{} of {} rows are stored", report.total.stored, report.total.expected);
            }
        }
        Some(FleetVerb::Gaps { asked, each, check }) => {
            let report = ask(asked, "cluster")?;
            gaps(&report, *each, out)?;
            if *check && !is_whole(&report) {
                bail!("there are gaps");
            }
        }
        Some(FleetVerb::Agents(args)) => listing::agents(args, out)?,
        Some(FleetVerb::Targets(args)) => listing::targets(args, out)?,
        Some(FleetVerb::Pause(args)) => lifecycle::pause(args, out)?,
        Some(FleetVerb::Resume(which)) => lifecycle::resume(which, out)?,
        Some(FleetVerb::Retire { which, reason }) => lifecycle::retire(which, reason, out)?,
    }
    Ok(())
}

fn is_whole(report: &Report) -> bool {
    report.gaps.is_empty() && report.detail_lost.is_empty() && report.agents.iter().all(|agent| !agent.silent)
}

fn ask(asked: &Asked, by: &str) -> Result<Report> {
    let end = asked.end.unwrap_or_else(Time::now);
    let start = asked.start.unwrap_or_else(|| end.minus(asked.since));
    let mut form = vec![
        ("start", start.api()),
        ("end", end.api()),
        ("by", by.to_owned()),
        ("limit", "10000".to_owned()),
    ];
    form.extend(asked.cluster.iter().map(|cluster| ("cluster", cluster.clone())));
    form.extend(asked.job.iter().map(|job| ("job", job.clone())));
    let server = Server::new(&asked.url, &asked.client)?;
    let envelope: Envelope = server.json_blocking(Method::GET, "/api/v1/completeness", &form)?;
    Ok(envelope.data)
}

fn header(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// `(hub)` for what the hub scrapes itself.
fn cluster_name(cluster: &str) -> String {
    if cluster.is_empty() { "(hub)".to_owned() } else { cluster.to_owned() }
}

fn clusters(report: &Report, by: By, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let mut titles = vec!["CLUSTER"];
    titles.extend(match by {
        By::Cluster => &["UP", "AGENTS", "TARGETS"][..],
        By::Job => &["JOB", "TARGETS"],
        By::Source => &["JOB", "SOURCE"],
    });
    titles.extend(["COMPLETE", "EXPECTED", "STORED", "MISSING", "UNKNOWN", "WORST INTERVAL", "LAST ROW"]);
    let mut rows = vec![header(&titles)];
    for group in &report.groups {
        rows.push(line(report, group, by, now));
    }
    // Clusters whose agents have never sent a row.
    let told: Vec<&str> = report.groups.iter().map(|group| group.cluster.as_str()).collect();
    let mut untold: Vec<&str> = report.agents.iter().map(|agent| agent.cluster.as_str()).collect();
    untold.sort_unstable();
    untold.dedup();
    for cluster in untold.into_iter().filter(|cluster| by == By::Cluster && !told.contains(cluster)) {
        let (up, agents) = liveness(report, cluster);
        let mut row = vec![cluster_name(cluster), up, agents, "0".to_owned()];
        row.resize(titles.len(), "-".to_owned());
        rows.push(row);
    }
    out.write_all(table(&rows).as_bytes())?;
    let silent: Vec<&Agent> = report.agents.iter().filter(|agent| agent.silent).collect();
    if !silent.is_empty() {
        writeln!(out, "\nenrolled and silent:")?;
        for agent in silent {
            writeln!(out, "  {} of cluster {}", agent.agent, cluster_name(&agent.cluster))?;
        }
    }
    if !report.pushed.is_empty() {
        writeln!(out)?;
        let mut rows = vec![header(&["PUSHED BY", "JOB", "RECEIVED", "STORED", "SILENT FOR"])];
        rows.extend(report.pushed.iter().map(|pushed| {
            vec![
                cluster_name(&pushed.cluster),
                pushed.job.clone(),
                pushed.received.to_string(),
                pushed.stored.to_string(),
                ago(now, pushed.silent_since),
            ]
        }));
        out.write_all(table(&rows).as_bytes())?;
    }
    lost_detail(report, out)
}

fn line(report: &Report, group: &Group, by: By, now: Timestamp) -> Vec<String> {
    let tally = &group.tally;
    let mut row = vec![cluster_name(&group.cluster)];
    match by {
        By::Cluster => {
            let (up, agents) = liveness(report, &group.cluster);
            row.extend([up, agents, tally.sources.to_string()]);
        }
        By::Job => row.extend([group.job.clone().unwrap_or_default(), tally.sources.to_string()]),
        By::Source => row.extend([group.job.clone().unwrap_or_default(), source_name(&group.labels)]),
    }
    let partial = if tally.partial > 0 { format!(" ({} partial)", tally.partial) } else { String::new() };
    let worst = tally.worst_interval.as_ref();
    row.extend([
        tally.percent.map_or("-".to_owned(), shown_percent),
        tally.expected.to_string(),
        format!("{}{partial}", tally.stored),
        tally.missing.to_string(),
        tally.unknown.to_string(),
        worst.map_or("-".to_owned(), |worst| format!("{:.1}s of {}s", worst.seconds, worst.configured)),
        tally.newest.map_or("-".to_owned(), |newest| format!("{} ago", ago(now, newest))),
    ]);
    row
}

/// Never rounded up to 100 %.
fn shown_percent(percent: f64) -> String {
    if percent >= 100.0 {
        "100 %".to_owned()
    } else {
        format!("{:.3} %", (percent * 1000.0).floor() / 1000.0)
    }
}

/// Whether a cluster's agents are there, and how many are, of how many.
fn liveness(report: &Report, cluster: &str) -> (String, String) {
    let agents = || report.agents.iter().filter(|agent| agent.cluster == cluster);
    let (all, there) = (agents().count(), agents().filter(|agent| !agent.silent).count());
    match all {
        0 => ("-".to_owned(), "-".to_owned()),
        _ => (if there > 0 { "yes" } else { "NO" }.to_owned(), format!("{there}/{all}")),
    }
}

fn source_name(labels: &BTreeMap<String, String>) -> String {
    labels.get("instance").cloned().unwrap_or_else(|| {
        let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("{{{}}}", pairs.join(","))
    })
}

fn ago(now: Timestamp, then: When) -> String {
    let ms = now.as_millisecond().saturating_sub(then.0.as_millisecond()).max(0);
    model::duration::format(if ms >= 10_000 { ms / 1000 * 1000 } else { ms })
}

fn gaps(report: &Report, each: bool, out: &mut dyn Write) -> io::Result<()> {
    if report.gaps.is_empty() {
        match report.total.expected {
            0 => writeln!(out, "nothing was expected")?,
            rows => writeln!(out, "no gaps: all {rows} rows are stored")?,
        }
        return lost_detail(report, out);
    }
    let mut rows = vec![header(&["FROM", "TO", "CLUSTER", "JOB", "SOURCE", "ROWS", "REASON"])];
    let shown: Vec<(Gap, usize)> =
        if each { report.gaps.iter().map(|gap| (gap.clone(), 1)).collect() } else { together(&report.gaps) };
    for (gap, sources) in &shown {
        rows.push(vec![
            shown_time(gap.from),
            shown_time(gap.to),
            cluster_name(&gap.cluster),
            gap.job.clone(),
            if *sources == 1 { source_name(&gap.labels) } else { format!("{sources} sources") },
            gap.rows.to_string(),
            gap.reason.clone(),
        ]);
    }
    out.write_all(table(&rows).as_bytes())?;
    if report.gaps_left_off > 0 {
        writeln!(out, "and {} more; narrow it down with --cluster, --start, --end", report.gaps_left_off)?;
    }
    lost_detail(report, out)
}

/// Gaps that sources of a job have at about the same time for the same reason, with how many sources.
fn together(gaps: &[Gap]) -> Vec<(Gap, usize)> {
    let near = |a: When, b: When| (a.0.as_millisecond() - b.0.as_millisecond()).abs() <= TOGETHER_MS;
    let mut joined: Vec<(Gap, usize)> = Vec::new();
    for gap in gaps {
        let alike = |(open, _): &&mut (Gap, usize)| {
            (&open.cluster, &open.job, &open.reason) == (&gap.cluster, &gap.job, &gap.reason)
                && open.labels != gap.labels
                && near(open.from, gap.from)
                && near(open.to, gap.to)
        };
        match joined.iter_mut().rev().take(64).find(alike) {
            Some((open, sources)) => {
                open.from = open.from.min(gap.from);
                open.to = open.to.max(gap.to);
                open.rows += gap.rows;
                *sources += 1;
            }
            None => joined.push((gap.clone(), 1)),
        }
    }
    joined
}

fn shown_time(When(time): When) -> String {
    time.round(jiff::Unit::Second).unwrap_or(time).to_string()
}

fn lost_detail(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for span in &report.detail_lost {
        let (from, to) = (shown_time(span.from), shown_time(span.to));
        writeln!(out, "the ledger's files were damaged: what is known of {from} to {to} may not be all")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const ANSWER: &str = r#"{"status":"success","data":{"start":"2026-11-22T10:00:00Z","end":"2026-11-22T11:00:00Z",
        "total":{"sources":3,"expected":720,"stored":700,"partial":1,"missing":15,"unknown":5,"reasons":{},
            "cellsStored":1,"cellsLost":0,"percent":97.2,"newest":"2026-11-22T10:59:50Z"},
        "groups":[
          {"cluster":"","sources":1,"expected":240,"stored":240,"partial":0,"missing":0,"unknown":0,"reasons":{},
            "cellsStored":1,"cellsLost":0,"percent":100,"newest":"2026-11-22T10:59:50Z",
            "worstInterval":{"seconds":15.002,"configured":15,"from":"2026-11-22T10:00:00Z"}},
          {"cluster":"eu1","sources":2,"expected":480,"stored":460,"partial":1,"missing":15,"unknown":5,"reasons":{},
            "cellsStored":1,"cellsLost":0,"percent":95.8339,"newest":"2026-11-22T10:55:00Z",
            "worstInterval":{"seconds":75,"configured":15,"from":"2026-11-22T10:00:00Z"}}],
        "gaps":[
          {"cluster":"eu1","job":"node","source":"1","labels":{"job":"node","instance":"a:9100"},"rows":7,
            "from":"2026-11-22T10:20:00Z","to":"2026-11-22T10:21:30Z","reason":"agent_down"},
          {"cluster":"eu1","job":"node","source":"2","labels":{"job":"node","instance":"b:9100"},"rows":8,
            "from":"2026-11-22T10:20:07.5Z","to":"2026-11-22T10:21:37.5Z","reason":"agent_down"},
          {"cluster":"eu1","job":"node","source":"2","labels":{"job":"node","instance":"b:9100"},"rows":5,
            "from":"2026-11-22T10:58:00Z","to":"2026-11-22T10:59:00Z","reason":"silent"}],
        "gapsLeftOff":3,"detailLost":[],
        "pushed":[{"cluster":"eu1","job":"telegraf","received":10,"stored":9,"cellsRefused":4,
            "silentSince":"2026-11-22T10:58:00Z"}],
        "agents":[{"cluster":"eu1","agent":"one","silent":false,"enrolled":null,"lastSeen":null},
                  {"cluster":"us1","agent":"two","silent":true,"enrolled":null,"lastSeen":null}]}}"#;

    fn shown(show: impl FnOnce(&Report, &mut dyn Write) -> io::Result<()>) -> String {
        let envelope: Envelope = serde_json::from_str(ANSWER).unwrap();
        let mut out = Vec::new();
        show(&envelope.data, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn clusters_stand_in_a_table() {
        let now = "2026-11-22T11:00:00Z".parse().unwrap();
        expect![[r#"
            CLUSTER  UP   AGENTS  TARGETS  COMPLETE  EXPECTED  STORED           MISSING  UNKNOWN  WORST INTERVAL  LAST ROW
            (hub)    -    -       1        100 %     240       240              0        0        15.0s of 15s    10s ago
            eu1      yes  1/1     2        95.833 %  480       460 (1 partial)  15       5        75.0s of 15s    5m ago
            us1      NO   0/1     0        -         -         -                -        -        -               -

            enrolled and silent:
              two of cluster us1

            PUSHED BY  JOB       RECEIVED  STORED  SILENT FOR
            eu1        telegraf  10        9       2m
        "#]].assert_eq(&shown(|report, out| clusters(report, By::Cluster, now, out)));
    }

    #[test]
    fn gaps_of_many_sources_are_one() {
        expect![[r#"
            FROM                  TO                    CLUSTER  JOB   SOURCE     ROWS  REASON
            2026-11-22T10:20:00Z  2026-11-22T10:21:38Z  eu1      node  2 sources  15    agent_down
            2026-11-22T10:58:00Z  2026-11-22T10:59:00Z  eu1      node  b:9100     5     silent
            and 3 more; narrow it down with --cluster, --start, --end
        "#]]
        .assert_eq(&shown(|report, out| gaps(report, false, out)));
    }
}
