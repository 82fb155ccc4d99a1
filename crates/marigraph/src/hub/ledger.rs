//! The account of rows, wired: it stands before the store, and answers the HTTP side.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ledger::{Ask, By, Ledger, LedgerAppender, LedgerConfig, Loss, LossReport, Tally};
use model::{SourceId, TenantId};
use queue::LostReason;
use remote::Reason;
use remote::ship::Refusal;
use stdx::clock::Clock;
use stdx::disk::RealDisk;
use storage::Select;
use tokio::task::JoinHandle;
use web::{
    Completeness, CompletenessAsk, CompletenessBy, CompletenessReport, FleetAgent, IncompleteTime,
    PushedTally, RowGap, RowTally, TallyOf,
};

/// The ledger's directory in the data directory.
pub(crate) const DIRECTORY: &str = "ledger";
/// Time between two rounds of upkeep: what a power cut may cost of what the hub scraped itself.
const UPKEEP: Duration = Duration::from_secs(1);
/// Rounds of upkeep between two looks for sources that nobody scrapes any more.
const SETTLE_ROUNDS: u64 = 300;

/// Opens the ledger of a data directory whose store is open. Reads and writes files.
///
/// # Errors
/// Its directory, or the store's log, cannot be read or written.
pub(crate) fn open(data: &Path, retention: Option<Duration>, clock: Arc<dyn Clock>) -> Result<Ledger> {
    // After a kill the ledger trusts that the store has what was written. So that this holds when the
    // power goes next, the log has to be on the disk first.
    sync_files(&data.join(tsdb::filenames::WAL_DIR)).context("sync the store's log")?;
    let config = LedgerConfig { retention, ..LedgerConfig::new(&data.join(DIRECTORY)) };
    Ok(Ledger::open(config, RealDisk::shared(), clock)?)
}

fn sync_files(directory: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        match std::fs::File::open(&path).and_then(|file| file.sync_all()) {
            Ok(()) => {}
            // The store may have cut its log in between.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Keeps a ledger going until it is aborted.
pub(crate) fn keep_up(appender: Arc<LedgerAppender>, ledger: Arc<Ledger>, start_ms: i64) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut rounds = tokio::time::interval(UPKEEP);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        for round in 0u64.. {
            rounds.tick().await;
            let (appender, ledger) = (Arc::clone(&appender), Arc::clone(&ledger));
            let upkeep = move || {
                appender.maintain()?;
                if round % SETTLE_ROUNDS == SETTLE_ROUNDS - 1 {
                    ledger.settled(&TenantId::default(), "", start_ms).map_err(|source| {
                        storage::StoreError::Io { attempt: "write the ledger".to_owned(), source }
                    })?;
                }
                Ok::<(), storage::StoreError>(())
            };
            match tokio::task::spawn_blocking(upkeep).await {
                Ok(Ok(())) => failing = false,
                // The store has told of its own failure; one line for each time it begins.
                Ok(Err(error)) if !std::mem::replace(&mut failing, true) => {
                    tracing::error!("keep the ledger: {error}");
                }
                Ok(Err(_)) => {}
                Err(error) => tracing::error!("keep the ledger: {error}"),
            }
        }
    })
}

/// Books rows that will never come: agents have dropped them, or this hub has refused them.
pub(crate) fn book_losses(ledger: Arc<Ledger>) -> remote::OnLost {
    Arc::new(move |peer, queue_id, never| {
        let reason = match never.reason {
            Reason::Dropped(LostReason::Bytes) => Loss::QueueFull,
            Reason::Dropped(LostReason::Age) | Reason::Refused(Refusal::TooOld) => Loss::TooOld,
            Reason::Refused(Refusal::IdentityChanged) => Loss::IdentityChanged,
            Reason::Refused(Refusal::Limit) => Loss::Limit,
            Reason::Dropped(LostReason::Damaged)
            | Reason::Refused(Refusal::Malformed | Refusal::Version | Refusal::ContextLost) => Loss::Damaged,
        };
        let (cluster, rows) = (never.cluster, never.rows);
        tracing::warn!(
            cluster,
            rows,
            queue_id = format!("{queue_id:032x}"),
            reason = reason.as_str(),
            "rows are lost"
        );
        if never.from_ms > never.to_ms {
            return true; // nothing of them could be read
        }
        let report = LossReport {
            cluster: cluster.to_owned(),
            source: None,
            from_ms: never.from_ms,
            to_ms: never.to_ms,
            rows,
            reason,
        };
        let written = ledger.lost(&peer.tenant, report);
        if let Err(error) = &written {
            tracing::error!(cluster, %error, "write down that rows are lost");
        }
        written.is_ok()
    })
}

/// The ledger as the HTTP side asks it.
pub(crate) struct Accounts(pub(crate) Arc<Ledger>);

impl Completeness for Accounts {
    fn report(&self, tenant: &TenantId, ask: &CompletenessAsk) -> CompletenessReport {
        let by = match ask.by {
            CompletenessBy::Cluster => By::Cluster,
            CompletenessBy::Job => By::Job,
            CompletenessBy::Source => By::Source,
        };
        let asked = Ask {
            cluster: ask.cluster.clone(),
            clusters: ask.clusters.clone(),
            job: ask.job.clone(),
            source: ask.source.map(SourceId),
            matchers: Vec::new(),
            start_ms: ask.start_ms,
            end_ms: ask.end_ms,
            by,
            gaps_max: ask.gaps_max,
        };
        let report = self.0.report(tenant, &asked);
        let here = |cluster: &str| {
            (ask.clusters.is_empty() || ask.clusters.iter().any(|seen| seen == cluster))
                && ask.cluster.as_deref().is_none_or(|asked| asked == cluster)
        };
        let groups = report.groups.into_iter().map(|group| TallyOf {
            cluster: group.cluster.unwrap_or_default(),
            job: group.job,
            source: group.source.map(|(id, labels)| (id.0, labels)),
            tally: tally(&group.tally),
        });
        let gaps = report.gaps.into_iter().map(|gap| RowGap {
            cluster: gap.cluster,
            job: gap.job,
            source: gap.source.0,
            labels: gap.labels,
            from_ms: gap.from_ms,
            to_ms: gap.to_ms,
            rows: gap.rows,
            reason: gap.verdict.as_str(),
        });
        let pushed = self.0.pushed(tenant).into_iter().filter(|pushed| here(&pushed.cluster));
        let agents = self.0.agents(tenant).into_iter().filter(|agent| here(&agent.cluster));
        CompletenessReport {
            total: tally(&report.total),
            groups: groups.collect(),
            gaps: gaps.collect(),
            gaps_left_off: report.gaps_left_off,
            detail_lost: report.detail_lost,
            pushed: pushed
                .filter(|pushed| ask.job.as_ref().is_none_or(|job| *job == pushed.job))
                .map(|pushed| PushedTally {
                    cluster: pushed.cluster,
                    job: pushed.job,
                    received: pushed.received,
                    stored: pushed.stored,
                    cells_refused: pushed.cells_refused,
                    silent_since_ms: pushed.last_ms,
                })
                .collect(),
            agents: agents
                .map(|agent| FleetAgent {
                    cluster: agent.cluster,
                    agent: agent.agent,
                    silent: agent.silent,
                    enrolled_ms: agent.enrolled_ms,
                    seen_ms: agent.seen_ms,
                })
                .collect(),
        }
    }

    fn has_gaps(&self, tenant: &TenantId) -> bool {
        self.0.has_gaps(tenant)
    }

    fn touched(&self, tenant: &TenantId, selections: &[Select]) -> Vec<IncompleteTime> {
        let selections: Vec<_> = selections
            .iter()
            .map(|select| (select.matchers.as_slice(), select.start_ms, select.end_ms))
            .collect();
        let touched = self.0.incomplete(tenant, &selections).into_iter();
        touched
            .map(|one| IncompleteTime {
                cluster: one.cluster,
                job: one.job,
                from_ms: one.from_ms,
                to_ms: one.to_ms,
                rows: one.rows,
                reason: one.verdict.as_str(),
            })
            .collect()
    }
}

fn tally(tally: &Tally) -> RowTally {
    let list = |reasons: &std::collections::BTreeMap<ledger::Verdict, u64>| {
        reasons.iter().map(|(verdict, rows)| (verdict.as_str(), *rows)).collect()
    };
    RowTally {
        sources: tally.sources,
        expected: tally.expected,
        stored: tally.stored,
        partial: tally.partial,
        missing: list(&tally.missing),
        unknown: list(&tally.unknown),
        cells_stored: tally.cells_stored,
        cells_lost: tally.cells_lost,
        percent: tally.percent(),
        worst: tally.worst.map(|worst| (worst.between_ms, worst.interval_ms, worst.from_ms)),
        newest_ms: tally.newest_ms,
        silent_sources: tally.silent_sources,
    }
}
