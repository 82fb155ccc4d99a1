//! One writer, several stores: the first decides, the others get what it took.
//!
//! [`FanOut`] hands out the references of its first appender, and keeps for each *branch* what they are
//! called there. A branch that fails or refuses costs only itself: the first appender's word is what the
//! writer hears, and [`Branch::lost`] counts the rest. A branch may be off, and switched on later: then writers
//! hear [`RejectReason::UnknownSeries`] once, and resolve their series again. Between the two appends lies no sync: a process that
//! dies just there has a batch in the first store that a branch never got.
//!
//! A branch may get a [`Selection`] of series. What is selected is decided once for each column. Statements about
//! rows that are due ([`Account`]) then speak of the selection: see the module `due`.

mod due;
mod source;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{Labels, TenantId};
use parking_lot::Mutex;
use source::{Source, Translated};

use crate::{
    Account, Appended, Appender, Batch, CommitPosition, MetadataEntry, RejectReason, Rejection, Row,
    SeriesRef, SourceDesc, SourceRef, StoreError,
};

/// Which series a branch gets.
#[derive(Clone)]
pub struct Selection {
    /// Whether it gets the series of these labels, name included.
    pub wants: Arc<dyn Fn(&Labels) -> bool + Send + Sync>,
    /// The receiver may expect rows of sources that are not selected (any more), from before this process: it
    /// is told the end of those that are scraped before this time, milliseconds since the epoch. `i64::MIN`: of
    /// none.
    pub ends_others_until_ms: i64,
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection")
            .field("ends_others_until_ms", &self.ends_others_until_ms)
            .finish_non_exhaustive()
    }
}

/// Appends to a first appender and to branches.
pub struct FanOut {
    first: Arc<dyn Appender>,
    branches: Vec<Arc<Branch>>,
}

/// A further receiver of a [`FanOut`]'s rows.
pub struct Branch {
    /// Whose rows it gets; all where missing.
    tenant: Option<TenantId>,
    state: Mutex<State>,
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Missing while the branch is off.
    appender: Option<Arc<dyn Appender>>,
    /// Everything where missing.
    selection: Option<Selection>,
    sources: Sources,
    /// Grows with each [`Branch::forget_idle`].
    epoch: u32,
}

/// The sources of a branch. Of most of them a branch that is off never has to know more than who they are.
#[derive(Default)]
struct Sources {
    named: HashMap<SourceRef, SourceDesc>,
    known: HashMap<SourceRef, Box<Source>>,
}

impl Sources {
    /// One that there is something to know of.
    fn get(&self, source: SourceRef) -> Option<&Source> {
        self.known.get(&source).map(Box::as_ref)
    }

    /// One, whatever is known of it so far.
    fn get_mut(&mut self, source: SourceRef, epoch: u32) -> Option<&mut Source> {
        match self.known.entry(source) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(free) => {
                let desc = self.named.remove(&source)?;
                Some(free.insert(Box::new(Source::new(&desc, epoch))))
            }
        }
    }

    fn name(&mut self, source: SourceRef, desc: &SourceDesc) {
        if !self.known.contains_key(&source) {
            self.named.entry(source).or_insert_with(|| desc.clone());
        }
    }

    fn known_mut(&mut self) -> impl Iterator<Item = &mut Source> {
        self.known.values_mut().map(Box::as_mut)
    }
}

impl FanOut {
    /// Appends to `first`, and what it took to `branches`.
    pub fn new(first: Arc<dyn Appender>, branches: Vec<Arc<Branch>>) -> FanOut {
        FanOut { first, branches }
    }
}

impl fmt::Debug for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FanOut({} branches)", self.branches.len())
    }
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Branch({} lost)", self.lost())
    }
}

impl Branch {
    /// A branch that gets the rows of one tenant, or of all, once it is switched on.
    pub fn new(tenant: Option<TenantId>) -> Arc<Branch> {
        Arc::new(Branch { tenant, state: Mutex::default(), lost: AtomicU64::new(0) })
    }

    /// From now on rows go to `appender`, or nowhere.
    pub fn switch(&self, appender: Option<Arc<dyn Appender>>) {
        self.state.lock().switch(appender, None);
    }

    /// From now on what `selection` wants goes to `appender`.
    pub fn switch_to(&self, appender: Arc<dyn Appender>, selection: Selection) {
        self.state.lock().switch(Some(appender), Some(selection));
    }

    /// Samples and histograms that the first appender took and the branch did not.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Forgets what has not been used since the call before the last. To be called now and then, some
    /// minutes apart. A writer that comes back to what was forgotten is told [`RejectReason::UnknownSeries`].
    pub fn forget_idle(&self) {
        let state = &mut *self.state.lock();
        state.epoch += 1;
        let epoch = state.epoch;
        state.sources.known_mut().for_each(|source| source.forget_idle(epoch));
    }

    fn wants(&self, tenant: &TenantId) -> bool {
        self.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
    }

    fn open(&self, source: SourceRef, desc: &SourceDesc) {
        if self.wants(&desc.tenant) {
            let state = &mut *self.state.lock();
            state.sources.name(source, desc);
            // With a selection it is opened when something of it is selected.
            if let (Some(appender), None) = (&state.appender, &state.selection)
                && let Some(source) = state.sources.get_mut(source, state.epoch)
            {
                source.open(appender.as_ref());
            }
        }
    }

    fn resolved(&self, source: SourceRef, labels: &[Labels], ours: &[Option<SeriesRef>]) {
        let state = &mut *self.state.lock();
        let Some(appender) = state.appender.clone() else { return };
        let Some(source) = state.sources.get_mut(source, state.epoch) else { return };
        source.resolved(appender.as_ref(), state.selection.as_ref(), labels, ours, state.epoch);
    }

    /// Appends what was taken of a batch. Series that the branch no longer remembers come back as rejections.
    fn append(&self, batch: &Batch<'_>, taken: &Appended, forgotten: &mut Vec<Rejection>) {
        let state = &mut *self.state.lock();
        let Some(appender) = state.appender.clone() else { return state.overhear(batch) };
        let mut rows = state.translate(appender.as_ref(), batch, &taken.rejected, forgotten);
        rows.iter().for_each(|row| state.count(row));
        rows.retain(|row| row.points() > 0);
        let accounts = state.accounts(appender.as_ref(), batch, forgotten);
        let metadata = state.metadata(batch);
        // Twice, when the branch has forgotten a series that it is then told of again.
        for attempt in 0..2 {
            let points = rows.iter().map(Translated::points).sum::<usize>() as u64;
            let views: Vec<Row<'_>> = rows.iter().map(Translated::row).collect();
            let theirs = Batch { rows: &views, metadata: &metadata, accounts: &accounts, ..*batch };
            if views.is_empty() && metadata.is_empty() && accounts.is_empty() {
                return;
            }
            let appended = match appender.append(&theirs) {
                Ok(appended) => appended,
                Err(_) => {
                    self.lost.fetch_add(points, Ordering::Relaxed);
                    state.not_told(batch);
                    return;
                }
            };
            let unknown: Vec<Rejection> = appended
                .rejected
                .iter()
                .filter(|rejection| rejection.reason == RejectReason::UnknownSeries)
                .copied()
                .collect();
            let refused = appended.rejected.len() - unknown.len();
            self.lost.fetch_add(refused as u64, Ordering::Relaxed);
            if unknown.is_empty() {
                return;
            }
            if attempt == 1 {
                self.lost.fetch_add(unknown.len() as u64, Ordering::Relaxed);
                return;
            }
            for rejection in &unknown {
                if let Some(source) =
                    rows.get(rejection.row).and_then(|row| state.sources.get_mut(row.ours, state.epoch))
                {
                    source.forget_theirs(rejection.series);
                }
            }
            // What was taken the first time is taken again as an exact repeat.
            rows = state.translate(appender.as_ref(), batch, &taken.rejected, forgotten);
            rows.retain(|row| row.points() > 0);
        }
    }
}

impl State {
    fn switch(&mut self, appender: Option<Arc<dyn Appender>>, selection: Option<Selection>) {
        (self.appender, self.selection) = (appender, selection);
        self.sources.known_mut().for_each(Source::start_over);
    }

    /// The rows as the branch names them, without what `rejected` holds.
    fn translate(
        &mut self,
        appender: &dyn Appender,
        batch: &Batch<'_>,
        rejected: &[Rejection],
        forgotten: &mut Vec<Rejection>,
    ) -> Vec<Translated> {
        let epoch = self.epoch;
        let mut rows = Vec::with_capacity(batch.rows.len());
        for (at, row) in batch.rows.iter().enumerate() {
            let Some(source) = self.sources.get_mut(row.source, epoch) else { continue };
            source.epoch = epoch;
            let is_out = |series: SeriesRef| {
                rejected.iter().any(|rejection| rejection.row == at && rejection.series == series)
            };
            let any_out = rejected.iter().any(|rejection| rejection.row == at);
            let is_taken = |series: SeriesRef| !any_out || !is_out(series);
            let mut translated = source.row(appender, row, is_taken);
            let lost = translated.forgotten.drain(..);
            forgotten.extend(lost.map(|series| Rejection {
                row: at,
                series,
                reason: RejectReason::UnknownSeries,
            }));
            rows.push(translated);
        }
        rows
    }

    /// While the branch is off: since when rows are due is said only once.
    fn overhear(&mut self, batch: &Batch<'_>) {
        for account in batch.accounts.iter().filter(|account| !matches!(account, Account::Tick { .. })) {
            if let Some(source) = self.sources.get_mut(account.source(), self.epoch) {
                source.due.overhear(account);
            }
        }
    }

    fn count(&mut self, row: &Translated) {
        if self.selection.is_some()
            && let Some(source) = self.sources.get_mut(row.ours, self.epoch)
        {
            source.due.count(row.selected);
        }
    }

    /// What the branch's receiver hears of rows that are due.
    fn accounts(
        &mut self,
        appender: &dyn Appender,
        batch: &Batch<'_>,
        forgotten: &[Rejection],
    ) -> Vec<Account> {
        let Some(selection) = &self.selection else {
            let theirs = |source: SourceRef| self.sources.get(source).and_then(|source| source.theirs);
            let told = batch.accounts.iter();
            return told.filter_map(|account| Some(account.of(theirs(account.source())?))).collect();
        };
        // The writer comes again with what is forgotten, and says everything once more.
        let unsure: HashSet<SourceRef> =
            forgotten.iter().filter_map(|one| batch.rows.get(one.row)).map(|row| row.source).collect();
        let mut told = Vec::new();
        for account in batch.accounts {
            let Some(source) = self.sources.get_mut(account.source(), self.epoch) else { continue };
            if unsure.contains(&account.source()) {
                source.due.overhear(account);
                continue;
            }
            for said in source.due.say(account, selection.ends_others_until_ms).into_iter().flatten() {
                source.open(appender);
                told.extend(source.theirs.map(|theirs| said.of(theirs)));
            }
        }
        told
    }

    /// A batch did not reach the receiver.
    fn not_told(&mut self, batch: &Batch<'_>) {
        for account in batch.accounts {
            if let Some(source) = self.sources.get_mut(account.source(), self.epoch) {
                source.due.not_told();
            }
        }
    }

    fn metadata<'b>(&self, batch: &Batch<'b>) -> Vec<MetadataEntry<'b>> {
        let mut names: HashMap<SourceRef, HashSet<&str>> = HashMap::new();
        let entries = batch.metadata.iter().filter_map(|entry| {
            let source = self.sources.get(entry.source)?;
            if self.selection.is_some() {
                let names = names.entry(entry.source).or_insert_with(|| source.selected_names());
                if !source::has_family(names, entry.metric) {
                    return None;
                }
            }
            source.theirs.map(|source| MetadataEntry { source, ..*entry })
        });
        entries.collect()
    }
}

impl Appender for FanOut {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        let opened = self.first.open_source(source)?;
        self.branches.iter().for_each(|branch| branch.open(opened, source));
        Ok(opened)
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        let ours = self.first.resolve(source, labels)?;
        self.branches.iter().for_each(|branch| branch.resolved(source, labels, &ours));
        Ok(ours)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        let mut appended = self.first.append(batch)?;
        if appended.untaken {
            return Ok(appended);
        }
        let mut forgotten = Vec::new();
        for branch in &self.branches {
            branch.append(batch, &appended, &mut forgotten);
        }
        // The writer resolves these again, and repeats what the first appender has already.
        forgotten.sort_unstable_by_key(|rejection| (rejection.row, rejection.series));
        forgotten.dedup();
        appended.rejected.extend(forgotten);
        Ok(appended)
    }

    /// Durable in the first appender. Branches see to that themselves.
    fn wait_durable(&self, position: CommitPosition) -> Result<(), StoreError> {
        self.first.wait_durable(position)
    }
}

#[cfg(test)]
mod selection_tests;
#[cfg(test)]
mod tests;
