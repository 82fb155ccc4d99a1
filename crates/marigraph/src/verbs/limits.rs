//! `marigraph limits`: limits that a hub gives to the agents of a cluster.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;

use crate::limits::LimitsDocument;
use crate::verbs::membership::{HubConnection, ask};
use crate::verbs::terminal::table;

const PATH: &str = "/api/v1/admin/limits";

/// The verbs of `marigraph limits`.
#[derive(Debug, Subcommand)]
pub enum LimitsVerb {
    /// Give limits to the agents of a cluster, in place of those it has
    #[command(after_long_help = "Examples:\n  \
        marigraph limits set eu1 sample_limit=50000 label_limit=40\n  \
        marigraph limits set eu1 --file limits.yml             as they stand in a file\n  \
        marigraph limits set eu1                               none any more\n\n\
        Names are those of a scrape configuration: body_size_limit (bytes), label_limit, label_name_length_limit,\n\
        label_value_length_limit, sample_limit, target_limit; and of the agent: queue_size_limit (bytes), queue_age_limit\n\
        (2h), concurrent_scrapes_limit, concurrent_tunnel_requests_limit. They count where they are narrower than what the\n\
        agent's own configuration says, never where they are wider.")]
    Set {
        /// The cluster
        #[arg(value_name = "CLUSTER")]
        cluster: String,
        /// The limits
        #[arg(value_name = "NAME=VALUE")]
        limits: Vec<String>,
        /// A file of limits, a `name: value` or `name=value` on each line; - is the standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// Also for a cluster that the hub knows nothing of: no agent of it has come, no token for one is out
        #[arg(long)]
        force: bool,
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
    /// Show the limits of clusters, and which agents have taken them
    Show {
        /// Only this cluster
        #[arg(value_name = "CLUSTER")]
        cluster: Option<String>,
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
    /// List the revisions of a cluster's limits
    History {
        /// The cluster
        #[arg(value_name = "CLUSTER")]
        cluster: String,
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
    /// Go back to the limits before, or to those of a revision
    Rollback {
        /// The cluster
        #[arg(value_name = "CLUSTER")]
        cluster: String,
        /// The revision, as `limits history` shows it
        #[arg(long, value_name = "REVISION")]
        to: Option<u64>,
        /// The hub.
        #[command(flatten)]
        hub: HubConnection,
    },
}

#[derive(Debug, Deserialize)]
struct OfCluster {
    cluster: String,
    revisions: Vec<LimitsDocument>,
    agents: Vec<Answer>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    agent: String,
    revision: u64,
    refused: String,
}

/// Carries out a verb.
///
/// # Errors
/// The hub cannot be asked or refuses.
pub fn run(verb: &LimitsVerb) -> Result<()> {
    let out = &mut io::stdout().lock();
    match verb {
        LimitsVerb::Set { cluster, limits, file, reason, force, hub } => {
            let mut words = file.as_deref().map(in_file).transpose()?.unwrap_or_default();
            words.extend(limits.iter().cloned());
            let form = [
                ("cluster", cluster.clone()),
                ("limits", words.join(" ")),
                ("reason", reason.clone()),
                ("force", force.to_string()),
            ];
            let document: LimitsDocument = ask(hub, Method::POST, PATH, &form)?;
            told(cluster, &document, out)
        }
        LimitsVerb::Rollback { cluster, to, hub } => {
            let mut form = vec![("cluster", cluster.clone())];
            form.extend(to.iter().map(|to| ("to", to.to_string())));
            let document: LimitsDocument = ask(hub, Method::POST, &format!("{PATH}/rollback"), &form)?;
            told(cluster, &document, out)
        }
        LimitsVerb::Show { cluster, hub } => {
            let form: Vec<_> = cluster.iter().map(|cluster| ("cluster", cluster.clone())).collect();
            let clusters: Vec<OfCluster> = ask(hub, Method::GET, PATH, &form)?;
            show(&clusters, out)
        }
        LimitsVerb::History { cluster, hub } => {
            let clusters: Vec<OfCluster> = ask(hub, Method::GET, PATH, &[("cluster", cluster.clone())])?;
            history(&clusters, out)
        }
    }
}

/// The `name=value` words of a file.
fn in_file(path: &Path) -> Result<Vec<String>> {
    let shown = path.display();
    let text = match path.to_str() {
        Some("-") => io::read_to_string(io::stdin()),
        _ => std::fs::read_to_string(path),
    };
    words_of(&text.with_context(|| format!("read {shown}"))?)
        .map_err(|error| anyhow::anyhow!("{shown}: {error}"))
}

/// `name: value` or `name=value` on each line, what follows a `#` left out.
fn words_of(text: &str) -> Result<Vec<String>, String> {
    let lines = text
        .lines()
        .zip(1..)
        .map(|(line, number)| (line.split('#').next().unwrap_or_default().trim(), number));
    let lines = lines.filter(|(line, _)| !line.is_empty() && *line != "---");
    let word = |(line, number): (&str, usize)| {
        let (name, value) =
            line.split_once([':', '=']).map(|(name, value)| (name.trim(), value.trim())).unwrap_or_default();
        let is_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
        if is_word(name) && is_word(value) {
            return Ok(format!("{name}={value}"));
        }
        Err(format!("line {number}: {line:?} is no `name: value`"))
    };
    lines.map(word).collect()
}

fn told(cluster: &str, document: &LimitsDocument, out: &mut dyn Write) -> Result<()> {
    let limits = shown(document);
    writeln!(out, "revision {} for {cluster}: {limits}", document.revision)?;
    writeln!(out, "agents get it now, or when they come; `marigraph limits show {cluster}` tells")?;
    Ok(())
}

fn shown(document: &LimitsDocument) -> String {
    let words = document.limits.words();
    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
}

fn show(clusters: &[OfCluster], out: &mut dyn Write) -> Result<()> {
    let mut rows = vec![["CLUSTER", "REVISION", "LIMITS", "BY", "AGENTS"].map(str::to_owned).to_vec()];
    for one in clusters {
        let Some(newest) = one.revisions.last() else { continue };
        let has = |answer: &&Answer| answer.revision == newest.revision && answer.refused.is_empty();
        let taken = one.agents.iter().filter(has).count();
        let mut agents = format!("{taken} have it");
        for answer in one.agents.iter().filter(|answer| !has(answer)) {
            agents.push_str(&format!("; {}: {}", answer.agent, answer.refused));
        }
        rows.push(vec![
            one.cluster.clone(),
            newest.revision.to_string(),
            shown(newest),
            newest.author.clone(),
            agents,
        ]);
    }
    if rows.len() == 1 {
        writeln!(out, "no limits are given to any cluster")?;
        return Ok(());
    }
    out.write_all(table(&rows).as_bytes())?;
    Ok(())
}

fn history(clusters: &[OfCluster], out: &mut dyn Write) -> Result<()> {
    let mut rows = vec![["REVISION", "WHEN", "BY", "LIMITS", "REASON"].map(str::to_owned).to_vec()];
    for document in clusters.iter().flat_map(|one| &one.revisions) {
        let when = Timestamp::from_millisecond(document.set_ms).map(|time| time.to_string());
        rows.push(vec![
            document.revision.to_string(),
            when.unwrap_or_default(),
            document.author.clone(),
            shown(document),
            document.reason.clone(),
        ]);
    }
    out.write_all(table(&rows).as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_stand_in_a_file_line_by_line() {
        let check = |text: &str, words: Result<&[&str], &str>| {
            let words = words.map(|words| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
            assert_eq!(words_of(text), words.map_err(str::to_owned), "{text:?}");
        };
        check("", Ok(&[]));
        check(
            "---\n# why\nsample_limit: 50000 # exploding\n\nlabel_limit=40\n",
            Ok(&["sample_limit=50000", "label_limit=40"]),
        );
        check("sample_limit: 5\nlabel_limit\n", Err("line 2: \"label_limit\" is no `name: value`"));
        check("sample_limit: 5 6", Err("line 1: \"sample_limit: 5 6\" is no `name: value`"));
    }
}
