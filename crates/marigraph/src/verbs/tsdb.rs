//! `marigraph tsdb`: look into stores and Prometheus' blocks, and take samples from one to the other.
//!
//! Nothing here changes a store, except `import`. Damage is told, file and place, and the rest is done;
//! the exit status then says that something is missing.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use model::{Matcher, TenantId};
use promql::parser;

use crate::verbs::terminal::Progress;

mod analyze;
mod dump;
mod export;
mod import;
mod list;
mod source;

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum TsdbVerb {
    /// Write what a data directory holds as Prometheus blocks
    Export(ExportArgs),
    /// Take the samples of Prometheus blocks into a data directory; what is there already stays
    Import(ImportArgs),
    /// List parts, or blocks: times, samples, series, bytes
    List(ListArgs),
    /// Say what makes a part, or a block, large: label pairs, churn, sections
    Analyze(AnalyzeArgs),
    /// Print samples: `{labels} value timestamp`, milliseconds
    Dump(DumpArgs),
    /// Print float samples in OpenMetrics' form, seconds, without staleness markers
    DumpOpenmetrics(DumpArgs),
}

/// Flags of `tsdb export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The data directory; no hub may have it open
    #[arg(long = "data", value_name = "DIR", default_value = "./data", env = "MARIGRAPH_DATA")]
    pub data: PathBuf,
    /// Where the blocks go; made when it is not there
    #[arg(long = "out", value_name = "DIR")]
    pub out: PathBuf,
    /// Only series that one of these selects
    #[arg(long = "match", value_name = "SELECTOR", value_parser = parse_selector)]
    pub matches: Vec<Selector>,
    /// First time, inclusive: RFC 3339, or seconds since the epoch
    #[arg(long = "start", value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub start: Option<i64>,
    /// Last time, inclusive
    #[arg(long = "end", value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub end: Option<i64>,
    /// Whose samples
    #[arg(long = "tenant", value_name = "TENANT", default_value = "default", value_parser = parse_tenant)]
    pub tenant: TenantId,
    /// A label that Thanos or Mimir are to attach to every series
    #[arg(long = "external-label", value_name = "NAME=VALUE", value_parser = parse_label)]
    pub external_labels: Vec<(String, String)>,
    /// How much time a block covers; blocks begin at multiples of it
    #[arg(long = "block-duration", value_name = "DURATION", default_value = "2h", value_parser = parse_span)]
    pub block_duration: i64,
}

/// Flags of `tsdb import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// The data directory; made when it is not there; no hub may have it open
    #[arg(long = "data", value_name = "DIR", default_value = "./data", env = "MARIGRAPH_DATA")]
    pub data: PathBuf,
    /// Whose samples they will be
    #[arg(long = "tenant", value_name = "TENANT", default_value = "default", value_parser = parse_tenant)]
    pub tenant: TenantId,
    /// What becomes of labels that Thanos or Mimir attach to a block: add them to its series, or ignore
    /// them; without this flag such blocks are refused
    #[arg(long = "external-labels", value_name = "add|ignore")]
    pub external_labels: Option<ExternalLabels>,
    /// Blocks, or directories of blocks (Prometheus' data directory, a snapshot)
    #[arg(value_name = "BLOCK_OR_DIR", required = true)]
    pub blocks: Vec<PathBuf>,
}

/// What becomes of external labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExternalLabels {
    /// Every series gets them
    Add,
    /// They are forgotten
    Ignore,
}

/// Flags of `tsdb list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// A data directory, Prometheus' data directory, or a block
    #[arg(value_name = "DIR", default_value = "./data", env = "MARIGRAPH_DATA")]
    pub dir: PathBuf,
    /// Print times and bytes for people
    #[arg(short = 'r', long = "human-readable")]
    pub human: bool,
}

/// Flags of `tsdb analyze`.
#[derive(Debug, Clone, Args)]
pub struct AnalyzeArgs {
    /// A data directory, Prometheus' data directory, or a block
    #[arg(value_name = "DIR", default_value = "./data", env = "MARIGRAPH_DATA")]
    pub dir: PathBuf,
    /// The part or block; without it the one with the newest samples
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Whose parts
    #[arg(long = "tenant", value_name = "TENANT", default_value = "default", value_parser = parse_tenant)]
    pub tenant: TenantId,
    /// Longest any of the lists
    #[arg(long = "limit", value_name = "COUNT", default_value_t = 20)]
    pub limit: usize,
    /// Only series that this selects
    #[arg(long = "match", value_name = "SELECTOR", value_parser = parse_selector)]
    pub matches: Vec<Selector>,
}

/// Flags of `tsdb dump`.
#[derive(Debug, Clone, Args)]
pub struct DumpArgs {
    /// A data directory, Prometheus' data directory, or a block
    #[arg(value_name = "DIR", default_value = "./data", env = "MARIGRAPH_DATA")]
    pub dir: PathBuf,
    /// First time, inclusive, milliseconds since the epoch
    #[arg(long = "min-time", value_name = "MS", default_value_t = i64::MIN, hide_default_value = true, allow_hyphen_values = true)]
    pub min_time: i64,
    /// Last time, inclusive, milliseconds since the epoch
    #[arg(long = "max-time", value_name = "MS", default_value_t = i64::MAX, hide_default_value = true, allow_hyphen_values = true)]
    pub max_time: i64,
    /// Only series that one of these selects
    #[arg(long = "match", value_name = "SELECTOR", value_parser = parse_selector)]
    pub matches: Vec<Selector>,
    /// Whose samples
    #[arg(long = "tenant", value_name = "TENANT", default_value = "default", value_parser = parse_tenant)]
    pub tenant: TenantId,
}

/// The conditions of one selector.
#[derive(Debug, Clone)]
pub struct Selector(pub Vec<Matcher>);

/// Does what a verb asks for; answers go to standard output, everything else to standard error.
///
/// # Errors
/// What could not be done, or that something was damaged (named before) and is missing in the answer.
pub fn run(verb: &TsdbVerb) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = match verb {
        TsdbVerb::Export(args) => export::run(args, &mut out),
        TsdbVerb::Import(args) => import::run(args, &mut out),
        TsdbVerb::List(args) => list::run(args, &mut out),
        TsdbVerb::Analyze(args) => analyze::run(args, &mut out),
        TsdbVerb::Dump(args) => dump::run(args, dump::Form::Prometheus, &mut out),
        TsdbVerb::DumpOpenmetrics(args) => dump::run(args, dump::Form::OpenMetrics, &mut out),
    };
    let done = done.and_then(|()| Ok(out.flush()?));
    match done {
        // `| head` has what it wants.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        done => done,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What could not be read: each told once, and the count kept.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    told: HashSet<String>,
}

/// Most different messages.
const MESSAGES_MAX: usize = 10_000;

impl Damage {
    /// Tells what is damaged and what that costs.
    pub(crate) fn tell(&mut self, progress: &mut Progress, message: impl Display) {
        let message = message.to_string();
        if self.told.len() < MESSAGES_MAX && !self.told.contains(&message) {
            progress.line(&format!("damaged: {message}"));
            self.told.insert(message);
        }
    }

    /// An error if there was any damage.
    pub(crate) fn outcome(&self) -> Result<()> {
        match self.told.len() {
            0 => Ok(()),
            1 => bail!("what is named above could not be read; everything else is done"),
            count => bail!("{count} things named above could not be read; everything else is done"),
        }
    }
}

pub(crate) fn parse_selector(text: &str) -> Result<Selector, String> {
    parser::parse_matchers(text).map(Selector).map_err(|error| error.to_string())
}

pub(crate) fn parse_tenant(text: &str) -> Result<TenantId, String> {
    TenantId::new(text).map_err(|error| error.to_string())
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("write NAME=VALUE, such as cluster=eu-1".to_owned()),
    }
}

fn parse_span(text: &str) -> Result<i64, String> {
    match model::duration::parse(text) {
        Ok(ms) if ms >= 60_000 => Ok(ms),
        Ok(_) => Err("a block covers a minute at least".to_owned()),
        Err(error) => Err(format!("{error}; write it as 2h or 1d")),
    }
}

/// RFC 3339, or seconds since the epoch with a fraction; in milliseconds.
pub(crate) fn parse_time(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.abs() < 9e15
    {
        return Ok((seconds * 1000.0).round() as i64);
    }
    let time = text.parse::<jiff::Timestamp>();
    time.map(jiff::Timestamp::as_millisecond)
        .map_err(|_| "write a time as 2024-05-01T00:00:00Z or as seconds since the epoch".to_owned())
}

/// A time for people: `2024-05-01T00:00:00Z`.
pub(crate) fn shown_time(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{ms} ms"),
    }
}

/// An error of a hub that has the directory, with the way around it.
pub(crate) fn explain(error: tsdb::OpenError, writing: bool) -> anyhow::Error {
    match error {
        locked @ tsdb::OpenError::Locked { .. } if writing => {
            anyhow!("{locked}; stop the hub first: an import writes into its store")
        }
        locked @ tsdb::OpenError::Locked { .. } => anyhow!(
            "{locked}; stop the hub, or read a copy: POST /api/v1/admin/tsdb/snapshot makes one in the data \
             directory (with --web.enable-admin-api), `marigraph backup` and `marigraph restore` make one elsewhere"
        ),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_rfc_3339() {
        let check = |text: &str, want: Option<i64>| assert_eq!(parse_time(text).ok(), want, "{text}");
        check("1700000000", Some(1_700_000_000_000));
        check("1700000000.5", Some(1_700_000_000_500));
        check("-1", Some(-1000));
        check("2023-11-14T22:13:20Z", Some(1_700_000_000_000));
        check("2023-11-14T23:13:20+01:00", Some(1_700_000_000_000));
        check("yesterday", None);
        check("NaN", None);
    }
}
