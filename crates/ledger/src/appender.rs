//! The ledger on the way to the store: every batch passes through, and what it states is written down
//! once the store has taken it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use model::{Labels, SourceId, TenantId, is_stale};
use parking_lot::RwLock;
use storage::{
    Account, Appended, Appender, Batch, CommitPosition, Outcome, RejectReason, SeriesRef, SourceDesc,
    SourceRef, StoreError,
};

use crate::fact::{Fact, Loss};
use crate::ledger::Ledger;
use crate::opened::{OpenSources, Pushing};
use crate::pushed::Sums;
use crate::source::Said;
use crate::tenant::{Telling, Tenant};

/// A row may begin this much before its tick.
const EARLY_MS: i64 = 2;
/// How far behind its tick a row is looked for, milliseconds.
const LATE_MS_MAX: i64 = 3_600_000;

/// Passes batches on to a store and keeps account of them.
pub struct LedgerAppender {
    store: Arc<dyn Appender>,
    ledger: Arc<Ledger>,
    sources: RwLock<OpenSources>,
}

impl fmt::Debug for LedgerAppender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerAppender").field("sources", &self.sources.read().len()).finish_non_exhaustive()
    }
}

impl LedgerAppender {
    /// Keeps account in `ledger` of what goes to `store`.
    pub fn new(store: Arc<dyn Appender>, ledger: Arc<Ledger>) -> LedgerAppender {
        LedgerAppender { store, ledger, sources: RwLock::default() }
    }

    /// [`Ledger::maintain`] with this appender's store.
    ///
    /// # Errors
    /// See there.
    pub fn maintain(&self) -> Result<(), StoreError> {
        self.ledger.maintain(&*self.store)
    }

    /// Makes everything told so far durable; for the end of the program.
    ///
    /// # Errors
    /// The store or the ledger could not be synced.
    pub fn commit(&self) -> Result<(), StoreError> {
        self.ledger.write_pushed(0);
        self.ledger.commit(&*self.store)
    }

    /// The accounts that a source's rows belong to, and whose those are.
    fn accounts(&self, source: SourceRef) -> Option<(TenantId, Arc<Tenant>)> {
        let tenant = self.sources.read().tenant(source)?.clone();
        match self.ledger.tenant(&tenant) {
            Ok(accounts) => Some((tenant, accounts)),
            Err(error) => {
                tracing::error!(%tenant, "open the tenant's ledger: {error}");
                None
            }
        }
    }

    /// Writes down what a batch states; the store has taken it.
    fn keep(&self, batch: &Batch<'_>, appended: &Appended) {
        let Some(first) = batch.accounts.first() else { return };
        // All sources of a batch belong to one tenant.
        let Some((tenant, accounts)) = self.accounts(first.source()) else { return };
        let mut sources: HashMap<SourceRef, (SourceId, Labels)> = HashMap::new();
        {
            let open = self.sources.read();
            for account in batch.accounts {
                if let Entry::Vacant(free) = sources.entry(account.source())
                    && let Some(source) = open.with_accounts(account.source())
                {
                    free.insert(source);
                }
            }
        }
        let lost = cells_lost(batch, appended);
        let now_ms = self.ledger.clock.now_ms();
        let mut late = Vec::new();
        accounts.tell(appended.position.0, now_ms, |telling| {
            let mut rows = Rows { batch, next: 0 };
            for account in batch.accounts {
                let Some((id, labels)) = sources.get(&account.source()) else { continue };
                let id = *id;
                match *account {
                    Account::Begin { at_ms, schedule, .. } => {
                        let interval = schedule.interval_ms.clamp(1, 1 << 40);
                        let said = Said::Begin(interval, schedule.offset_ms.rem_euclid(interval));
                        telling.said(id, labels, at_ms, said);
                    }
                    Account::End { at_ms, reason, .. } => telling.said(id, labels, at_ms, Said::End(reason)),
                    Account::Tick { source, tick_ms, outcome } => {
                        if telling.is_counted(id, tick_ms) {
                            late.push(id);
                        }
                        let refused = lost.get(&(source, tick_ms)).copied();
                        let fact = fact(outcome, refused);
                        if appended.repeated {
                            telling.tick_if_unknown(id, labels, tick_ms, fact);
                        } else {
                            telling.tick(id, labels, tick_ms, fact, rows.lateness(source, tick_ms));
                        }
                    }
                }
            }
        });
        for id in late {
            self.ledger.count_late(id, &tenant, &accounts);
        }
    }

    /// Counts rows that nobody has a schedule for.
    fn count_pushed(&self, batch: &Batch<'_>, appended: &Appended) {
        let now_ms = self.ledger.clock.now_ms();
        let rows = batch.rows;
        let mut at = 0;
        while at < rows.len() {
            // Rows of one source mostly stand together.
            let source = rows[at].source;
            let same = rows[at..].iter().take_while(|row| row.source == source).count();
            self.with_sums(source, |sums| sums.received(same as u64, now_ms, appended.position.0));
            at += same;
        }
        let mut refused: BTreeMap<usize, u64> = BTreeMap::new();
        for rejection in &appended.rejected {
            *refused.entry(rejection.row).or_default() += 1;
        }
        for (row, cells) in refused {
            let Some(row) = batch.rows.get(row) else { continue };
            let all = (row.series.len() + row.histograms.len()) as u64;
            self.with_sums(row.source, |sums| sums.refused(cells, cells >= all));
        }
    }

    /// Counts in the sums of a source, unless it is one with accounts.
    fn with_sums(&self, source: SourceRef, count: impl Fn(&Sums)) {
        let is_new = match self.sources.read().pushing(source) {
            Pushing::Counted(sums) => return count(sums),
            Pushing::New => true,
            Pushing::No => false,
        };
        if !is_new {
            return;
        }
        self.sources.write().count_in(source, |tenant, labels| {
            let label = |name: &str| labels.get(name).unwrap_or_default();
            self.ledger.pushed.of(tenant, label(self.ledger.cluster_label()), label("job"))
        });
        if let Pushing::Counted(sums) = self.sources.read().pushing(source) {
            count(sums);
        }
    }
}

impl Appender for LedgerAppender {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        let reference = self.store.open_source(source)?;
        let known = self.sources.read().contains(reference);
        if !known {
            self.sources.write().insert(reference, source);
        }
        Ok(reference)
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        self.store.resolve(source, labels)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        let appended = self.store.append(batch)?;
        if appended.untaken {
            // The same batch comes again.
            return Ok(appended);
        }
        if batch.accounts.is_empty() {
            self.count_pushed(batch, &appended);
        } else {
            self.keep(batch, &appended);
        }
        Ok(appended)
    }

    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.store.wait_durable(position)?;
        self.ledger.sync(position)
    }
}

/// Cells that the store refused, by source and tick, with the reason of the last one.
fn cells_lost(batch: &Batch<'_>, appended: &Appended) -> HashMap<(SourceRef, i64), (u32, RejectReason)> {
    let mut lost = HashMap::new();
    let cells: usize = batch.rows.iter().map(|row| row.series.len() + row.histograms.len()).sum();
    // What was rejected beside cells are exemplars.
    if appended.rejected.is_empty() || appended.samples + appended.histograms >= cells {
        return lost;
    }
    let mut ticks: BTreeMap<(SourceRef, i64), ()> = BTreeMap::new();
    for account in batch.accounts {
        if let Account::Tick { source, tick_ms, .. } = account {
            ticks.insert((*source, *tick_ms), ());
        }
    }
    for rejection in &appended.rejected {
        let Some(row) = batch.rows.get(rejection.row) else { continue };
        let place = row.series.iter().position(|series| *series == rejection.series);
        // An end that comes too late to be taken is no loss.
        if place.and_then(|at| row.values.get(at)).is_some_and(|value| is_stale(*value)) {
            continue;
        }
        let until = (row.source, row.timestamp_ms.saturating_add(EARLY_MS));
        let tick = ticks.range((row.source, i64::MIN)..=until).next_back();
        if let Some((tick, ())) = tick {
            let entry = lost.entry(*tick).or_insert((0, rejection.reason));
            entry.0 += 1;
        }
    }
    lost
}

fn fact(outcome: Outcome, refused: Option<(u32, RejectReason)>) -> Fact {
    match outcome {
        Outcome::Scraped { samples, exposed } => {
            let (refused, loss) = refused.map_or((0, Loss::Limit), |(cells, why)| (cells, Loss::of(why)));
            Fact::scraped(samples, exposed, refused, loss)
        }
        Outcome::Failed(failure) => Fact::Failed(failure),
        Outcome::Skipped => Fact::Skipped,
    }
}

/// The rows of a batch, which stand in the order of its accounts.
struct Rows<'a> {
    batch: &'a Batch<'a>,
    next: usize,
}

impl Rows<'_> {
    /// How much later than its tick the row begins; 0 where no row is near.
    fn lateness(&mut self, source: SourceRef, tick_ms: i64) -> u32 {
        const AHEAD: usize = 8;
        let rows = self.batch.rows.iter().enumerate().skip(self.next).take(AHEAD);
        let near = |late: i64| (-EARLY_MS..LATE_MS_MAX).contains(&late);
        let mut found = rows.filter(|(_, row)| row.source == source && near(row.timestamp_ms - tick_ms));
        let Some((at, row)) = found.next() else { return 0 };
        self.next = at;
        u32::try_from(row.timestamp_ms - tick_ms).unwrap_or(0)
    }
}

impl Telling<'_> {
    /// Whether the counters have gone on over the tick without knowing of it.
    fn is_counted(&self, id: SourceId, tick_ms: i64) -> bool {
        let source = self.inner().by_id(id);
        source.is_some_and(|source| tick_ms < source.counted_ms && !source.runs.contains(tick_ms))
    }
}
