//! `marigraph ledger audit` and `marigraph drill drop`: whether what the ledger says is true.
//!
//! The audit counts rows itself, in the store's files: a scrape leaves one sample of `up` for each row, 1
//! where the target answered. It compares the counts with what the ledger says of each source.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use ledger::{Ask, By, Ledger, LedgerConfig};
use model::labels::METRIC_NAME;
use model::{Labels, Matcher, SourceId, TenantId, is_stale};
use stdx::clock::SystemClock;
use stdx::disk::RealDisk;
use storage::{Column, Queryable, Select};
use tsdb::Db;

use crate::hub::LEDGER_DIRECTORY;
use crate::verbs::client::{ClientArgs, Server};
use crate::verbs::terminal::table;
use crate::verbs::tsdb::{Selector, explain, parse_selector, parse_tenant, parse_time, shown_time};

const HOUR_MS: i64 = 3_600_000;
/// Hours that are named for one source, at most.
const HOURS_SHOWN: usize = 6;

/// The verbs of `marigraph ledger`.
#[derive(Debug, Subcommand)]
pub enum LedgerVerb {
    /// Count the rows in a store's files and compare with what its ledger says; status 1 when rows are gone
    Audit(AuditArgs),
}

/// Flags of `ledger audit`.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// The data directory; no hub may have it open (a snapshot or a backup put back will do)
    #[arg(value_name = "DIR", default_value = "./data", env = "MARIGRAPH_DATA")]
    pub dir: PathBuf,
    /// First time: RFC 3339, or seconds since the epoch; otherwise that of the store's oldest row
    #[arg(long = "start", value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub start: Option<i64>,
    /// Up to this time
    #[arg(long = "end", value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub end: Option<i64>,
    /// Whose rows
    #[arg(long = "tenant", value_name = "TENANT", default_value = "default", value_parser = parse_tenant)]
    pub tenant: TenantId,
    /// List sources that agree, too
    #[arg(long)]
    pub all: bool,
}

/// The verbs of `marigraph drill`.
#[derive(Debug, Subcommand)]
pub enum DrillVerb {
    /// Take rows of a source out of a store on purpose: an audit has to find it
    Drop(DropArgs),
}

/// Flags of `drill drop`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "Examples:\n  \
        marigraph drill drop --data copy --match '{job=\"node\",instance=\"a:9100\"}' --start 1700000000 --end 1700000600 --yes\n  \
        marigraph ledger audit copy\n\n\
        A running hub needs --web.enable-admin-api. What is dropped is gone.")]
pub struct DropArgs {
    /// The data directory; no hub may have it open
    #[arg(long = "data", value_name = "DIR", required_unless_present = "url", conflicts_with = "url")]
    pub data: Option<PathBuf>,
    /// A running hub, instead
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The source: a selector of its target labels
    #[arg(long = "match", value_name = "SELECTOR", value_parser = parse_selector)]
    pub source: Selector,
    /// First time: RFC 3339, or seconds since the epoch
    #[arg(long = "start", value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub start: i64,
    /// Last time, included
    #[arg(long = "end", value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    pub end: i64,
    /// Whose rows, in a data directory
    #[arg(long = "tenant", value_name = "TENANT", default_value = "default", value_parser = parse_tenant)]
    pub tenant: TenantId,
    /// Yes, take them out
    #[arg(long)]
    pub yes: bool,
    /// How to reach the hub.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Carries out a verb of `marigraph ledger`.
///
/// # Errors
/// The directory cannot be read; rows that the ledger has as stored are not there.
pub fn run(verb: &LedgerVerb) -> Result<()> {
    match verb {
        LedgerVerb::Audit(args) => audit(args, &mut io::stdout().lock()),
    }
}

/// Carries out a verb of `marigraph drill`.
///
/// # Errors
/// Nothing could be dropped.
pub fn drill(verb: &DrillVerb) -> Result<()> {
    match verb {
        DrillVerb::Drop(args) => drop_rows(args, &mut io::stdout().lock()),
    }
}

/// One source as ledger and store have it.
struct Compared {
    cluster: String,
    job: String,
    labels: Labels,
    ledger: u64,
    store: u64,
    /// Hours in which the store has fewer rows: begin, rows in the ledger, rows in the store.
    hours: Vec<(i64, u64, u64)>,
}

/// Compares the ledger of a closed data directory with its store, and prints the outcome.
///
/// # Errors
/// The directory cannot be read; rows that the ledger has as stored are not there.
pub fn audit(args: &AuditArgs, out: &mut dyn Write) -> Result<()> {
    let db = open_store(&args.dir)?;
    let ledger = open_ledger(&args.dir)?;
    let mut stored = recount(&db, &args.tenant)?;
    let oldest = stored.values().filter_map(|times| times.first().copied()).min();
    let end_ms = args.end.unwrap_or(i64::MAX / 4);
    let window = |start_ms: i64, end_ms: i64, source: Option<SourceId>| {
        let ask = Ask { source, start_ms, end_ms, by: By::Source, ..Ask::default() };
        ledger.report(&args.tenant, &ask)
    };
    // A row begins a little later than its tick; only where retention has cut the store does it matter
    // where the comparison begins: well behind the cut.
    let far_ms = i64::MIN / 4;
    let cut = oldest.filter(|oldest| window(far_ms, oldest - HOUR_MS, None).total.stored > 0);
    let start_ms = args.start.or(cut.map(|oldest| oldest + HOUR_MS)).unwrap_or(far_ms);
    let report = window(start_ms, end_ms, None);
    let mut compared = Vec::new();
    for group in report.groups {
        let Some((id, labels)) = group.source else { continue };
        let mut times = stored.remove(&labels).unwrap_or_default();
        times.retain(|at| (start_ms..end_ms).contains(at));
        let (said, counted) = (group.tally.stored, times.len() as u64);
        let mut hours = Vec::new();
        if counted < said {
            let newest = group.tally.newest_ms.unwrap_or(start_ms);
            let first = start_ms.max(oldest.unwrap_or(newest) - HOUR_MS);
            let mut hour = first - first.rem_euclid(HOUR_MS);
            while hour <= newest {
                let said = window(hour.max(start_ms), (hour + HOUR_MS).min(end_ms), Some(id)).total.stored;
                let counted = times.iter().filter(|at| (hour..hour + HOUR_MS).contains(*at)).count() as u64;
                if counted < said {
                    hours.push((hour, said, counted));
                }
                hour += HOUR_MS;
            }
        }
        compared.push(Compared {
            cluster: group.cluster.unwrap_or_default(),
            job: group.job.unwrap_or_default(),
            labels,
            ledger: said,
            store: counted,
            hours,
        });
    }
    for (from_ms, to_ms) in &report.detail_lost {
        let (from, to) = (shown_time((*from_ms).max(0)), shown_time(*to_ms));
        writeln!(out, "the ledger's files were damaged: it does not know all of {from} to {to}")?;
    }
    print(&compared, args.all, out)
}

fn print(compared: &[Compared], all: bool, out: &mut dyn Write) -> Result<()> {
    let title = ["CLUSTER", "JOB", "SOURCE", "LEDGER", "STORE", "DIFFERENCE", "WHERE"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for one in compared.iter().filter(|one| all || one.ledger != one.store) {
        let mut hours: Vec<String> = one
            .hours
            .iter()
            .take(HOURS_SHOWN)
            .map(|(hour, said, counted)| format!("{} ({counted} of {said})", shown_time(*hour)))
            .collect();
        if one.hours.len() > HOURS_SHOWN {
            hours.push(format!("{} more hours", one.hours.len() - HOURS_SHOWN));
        }
        rows.push(vec![
            if one.cluster.is_empty() { "(hub)".to_owned() } else { one.cluster.clone() },
            one.job.clone(),
            one.labels.get("instance").map_or_else(|| one.labels.to_string(), str::to_owned),
            one.ledger.to_string(),
            one.store.to_string(),
            format!("{:+}", one.store as i128 - one.ledger as i128),
            hours.join(", "),
        ]);
    }
    if rows.len() > 1 {
        out.write_all(table(&rows).as_bytes())?;
    }
    let sum = |of: fn(&Compared) -> u64| compared.iter().map(of).sum::<u64>();
    let gone = sum(|one| one.ledger.saturating_sub(one.store));
    let untold = sum(|one| one.store.saturating_sub(one.ledger));
    let (sources, said) = (compared.len(), sum(|one| one.ledger));
    if untold > 0 {
        writeln!(
            out,
            "{untold} rows in the store are not in the ledger: it never says more than it was told"
        )?;
    }
    if gone > 0 {
        bail!(
            "{gone} rows that the ledger has as stored are not in the store ({said} rows of {sources} sources)"
        );
    }
    writeln!(out, "{said} rows of {sources} sources: the store has all that the ledger says")?;
    Ok(())
}

/// The times of stored rows by target labels, as the samples of `up` tell.
fn recount(db: &Db, tenant: &TenantId) -> Result<BTreeMap<Labels, Vec<i64>>> {
    let matchers = vec![Matcher::equal(METRIC_NAME, "up")];
    let select = Select { tenant: tenant.clone(), start_ms: i64::MIN / 4, end_ms: i64::MAX / 4, matchers };
    let set = db.select(&select).context("read the store")?;
    let mut rows: BTreeMap<Labels, Vec<i64>> = BTreeMap::new();
    let mut columns: Vec<Column> = Vec::new();
    for at in 0..set.len() {
        columns.clear();
        set.load(at..at + 1, &mut columns).context("read the store")?;
        let Some(column) = columns.first() else { continue };
        let labels = set.labels(at).without(|name| name == METRIC_NAME);
        let times = column.times.iter().zip(&column.values);
        let answered = times.filter(|(_, value)| !is_stale(**value) && **value != 0.0).map(|(at, _)| *at);
        rows.entry(labels).or_default().extend(answered);
    }
    if let Some(warning) = set.warnings().first() {
        bail!("the store is damaged, so its rows cannot be counted: {warning}");
    }
    Ok(rows)
}

fn open_store(dir: &Path) -> Result<Db> {
    if !dir.join(tsdb::filenames::FORMAT).exists() {
        bail!("{} is no data directory: it has no {}", dir.display(), tsdb::filenames::FORMAT);
    }
    let config =
        tsdb::Config { read_only: true, background: false, retention: None, ..tsdb::Config::new(dir) };
    Db::open(config).map_err(|error| explain(error, false))
}

fn open_ledger(dir: &Path) -> Result<Ledger> {
    let directory = dir.join(LEDGER_DIRECTORY);
    if !directory.exists() {
        bail!("{} has no ledger", dir.display());
    }
    let config = LedgerConfig { read_only: true, ..LedgerConfig::new(&directory) };
    Ok(Ledger::open(config, RealDisk::shared(), SystemClock::shared())?)
}

fn drop_rows(args: &DropArgs, out: &mut dyn Write) -> Result<()> {
    if args.end < args.start {
        bail!("the end is before the start");
    }
    let span = format!("{} to {}", shown_time(args.start), shown_time(args.end));
    if !args.yes {
        bail!("this takes rows out of a store for good ({span}); say --yes");
    }
    match (&args.url, &args.data) {
        (Some(url), _) => {
            let server = Server::new(url, &args.client)?;
            let seconds = |ms: i64| (ms as f64 / 1000.0).to_string();
            let form = [
                ("match[]", selector_text(&args.source)),
                ("start", seconds(args.start)),
                ("end", seconds(args.end)),
            ];
            const PATH: &str = "/api/v1/admin/tsdb/delete_series";
            let answer = server.ask_blocking(Method::POST, PATH, &form)?;
            if answer.status != StatusCode::NO_CONTENT {
                return Err(server.refusal(PATH, &answer));
            }
            writeln!(out, "dropped {span}; `marigraph ledger audit` of a snapshot or backup has to find it")?;
        }
        (None, Some(data)) => {
            let config = tsdb::Config { background: false, retention: None, ..tsdb::Config::new(data) };
            let db = Arc::new(Db::open(config).map_err(|error| explain(error, true))?);
            let rows: usize = recount(&db, &args.tenant)?
                .iter()
                .filter(|(labels, _)| {
                    args.source
                        .0
                        .iter()
                        .all(|m| m.name == METRIC_NAME || m.matches(labels.get(&m.name).unwrap_or_default()))
                })
                .map(|(_, times)| times.iter().filter(|at| (args.start..=args.end).contains(*at)).count())
                .sum();
            db.delete_series(&args.tenant, &args.source.0, args.start, args.end)?;
            db.close().map_err(|error| anyhow!("close the store: {error}"))?;
            writeln!(out, "dropped {rows} rows, {span}; now `marigraph ledger audit {}`", data.display())?;
        }
        (None, None) => bail!("say which store: --data or --url"),
    }
    Ok(())
}

/// A selector as the API takes it.
fn selector_text(selector: &Selector) -> String {
    let matchers: Vec<String> = selector.0.iter().map(ToString::to_string).collect();
    format!("{{{}}}", matchers.join(","))
}
