//! One writer, several stores: the first decides, the others get what it took.
//!
//! [`FanOut`] hands out the references of its first appender, and keeps for each *branch* what they are
//! called there. A branch that fails or refuses costs only itself: the first appender's word is what the
//! writer hears, and [`Branch::lost`] counts the rest. A branch may be off, and switched on later: then writers
//! hear [`RejectReason::UnknownSeries`] once, and resolve their series again. Between the two appends lies no sync: a process that
//! dies just there has a batch in the first store that a branch never got.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{Exemplar, Histogram, Labels, TenantId};
use parking_lot::Mutex;

use crate::{
    Account, Appended, Appender, Batch, CommitPosition, MetadataEntry, RejectReason, Rejection, Row,
    SeriesRef, SourceDesc, SourceRef, StoreError,
};

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
    sources: HashMap<SourceRef, Source>,
    /// Grows with each [`Branch::forget_idle`].
    epoch: u32,
}

struct Source {
    desc: SourceDesc,
    /// What the branch calls it, once it has been opened there.
    theirs: Option<SourceRef>,
    series: HashMap<SeriesRef, Known>,
    /// The columns of the last row, and what the branch calls them: a steady scrape has the same again.
    last: Option<Columns>,
    epoch: u32,
}

struct Known {
    labels: Labels,
    /// What the branch calls it; `None` while it has no place there.
    theirs: Option<SeriesRef>,
    epoch: u32,
}

#[derive(Clone)]
struct Columns {
    ours: Arc<[SeriesRef]>,
    theirs: Arc<[SeriesRef]>,
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
        let state = &mut *self.state.lock();
        state.appender = appender;
        for source in state.sources.values_mut() {
            (source.theirs, source.series, source.last) = (None, HashMap::new(), None);
        }
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
        let is_idle = |epoch: u32| epoch + 2 <= state.epoch;
        for source in state.sources.values_mut() {
            if is_idle(source.epoch) {
                (source.series, source.last) = (HashMap::new(), None);
                continue;
            }
            if let Some(last) = &source.last {
                for series in last.ours.iter() {
                    source.series.entry(*series).and_modify(|known| known.epoch = source.epoch);
                }
            }
            source.series.retain(|_, known| !is_idle(known.epoch));
        }
    }

    fn wants(&self, tenant: &TenantId) -> bool {
        self.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
    }

    fn open(&self, source: SourceRef, desc: &SourceDesc) {
        if self.wants(&desc.tenant) {
            let state = &mut *self.state.lock();
            let epoch = state.epoch;
            let source = state.sources.entry(source).or_insert_with(|| Source {
                desc: desc.clone(),
                theirs: None,
                series: HashMap::new(),
                last: None,
                epoch,
            });
            if let Some(appender) = &state.appender {
                source.theirs = source.theirs.or_else(|| appender.open_source(desc).ok());
            }
        }
    }

    fn resolved(&self, source: SourceRef, labels: &[Labels], ours: &[Option<SeriesRef>]) {
        let state = &mut *self.state.lock();
        let epoch = state.epoch;
        let Some(appender) = state.appender.clone() else { return };
        let Some(source) = state.sources.get_mut(&source) else { return };
        source.last = None;
        source.epoch = epoch;
        for (labels, ours) in labels.iter().zip(ours) {
            if let Some(ours) = ours {
                let known = Known { labels: labels.clone(), theirs: None, epoch };
                source.series.entry(*ours).or_insert(known);
            }
        }
        let wanted: Vec<SeriesRef> = ours.iter().flatten().copied().collect();
        source.resolve(appender.as_ref(), &wanted);
    }

    /// Appends what was taken of a batch. Series that the branch no longer remembers come back as rejections.
    fn append(&self, batch: &Batch<'_>, taken: &Appended, forgotten: &mut Vec<Rejection>) {
        let state = &mut *self.state.lock();
        let Some(appender) = state.appender.clone() else { return };
        // Twice, when the branch has forgotten a series that it is then told of again.
        let mut rows = state.translate(appender.as_ref(), batch, &taken.rejected, forgotten);
        for attempt in 0..2 {
            let points = rows.iter().map(Translated::points).sum::<usize>() as u64;
            let views: Vec<Row<'_>> = rows.iter().map(Translated::row).collect();
            let (metadata, accounts) = state.statements(batch);
            let theirs = Batch { rows: &views, metadata: &metadata, accounts: &accounts, ..*batch };
            if views.is_empty() && metadata.is_empty() && accounts.is_empty() {
                return;
            }
            let appended = match appender.append(&theirs) {
                Ok(appended) => appended,
                Err(_) => {
                    self.lost.fetch_add(points, Ordering::Relaxed);
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
                if let Some(source) = rows.get(rejection.row).and_then(|row| state.sources.get_mut(&row.ours))
                {
                    source.forget_theirs(rejection.series);
                }
            }
            // What was taken the first time is taken again as an exact repeat.
            rows = state.translate(appender.as_ref(), batch, &taken.rejected, forgotten);
        }
    }
}

impl State {
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
            let Some(source) = self.sources.get_mut(&row.source) else { continue };
            source.epoch = epoch;
            let is_out = |series: SeriesRef| {
                rejected.iter().any(|rejection| rejection.row == at && rejection.series == series)
            };
            let any_out = rejected.iter().any(|rejection| rejection.row == at);
            let is_taken = |series: SeriesRef| !any_out || !is_out(series);
            let mut translated = source.row(appender, row, is_taken, epoch);
            let lost = translated.forgotten.drain(..);
            forgotten.extend(lost.map(|series| Rejection {
                row: at,
                series,
                reason: RejectReason::UnknownSeries,
            }));
            if translated.points() > 0 {
                rows.push(translated);
            }
        }
        rows
    }

    fn statements<'b>(&self, batch: &Batch<'b>) -> (Vec<MetadataEntry<'b>>, Vec<Account>) {
        let theirs = |source: SourceRef| self.sources.get(&source).and_then(|source| source.theirs);
        let metadata = batch
            .metadata
            .iter()
            .filter_map(|entry| theirs(entry.source).map(|source| MetadataEntry { source, ..*entry }));
        let accounts = batch.accounts.iter().filter_map(|account| {
            let theirs = theirs(account.source())?;
            Some(match *account {
                Account::Begin { at_ms, schedule, .. } => Account::Begin { source: theirs, at_ms, schedule },
                Account::Tick { tick_ms, outcome, .. } => Account::Tick { source: theirs, tick_ms, outcome },
                Account::End { at_ms, reason, .. } => Account::End { source: theirs, at_ms, reason },
            })
        });
        (metadata.collect(), accounts.collect())
    }
}

impl Source {
    /// Finds places for series that have none.
    fn resolve(&mut self, appender: &dyn Appender, wanted: &[SeriesRef]) {
        if self.theirs.is_none() {
            self.theirs = appender.open_source(&self.desc).ok();
        }
        let Some(source) = self.theirs else { return };
        let missing = wanted.iter().filter_map(|ours| {
            self.series
                .get(ours)
                .filter(|known| known.theirs.is_none())
                .map(|known| (*ours, known.labels.clone()))
        });
        let (ours, labels): (Vec<SeriesRef>, Vec<Labels>) = missing.unzip();
        if ours.is_empty() {
            return;
        }
        if let Ok(theirs) = appender.resolve(source, &labels) {
            for (ours, theirs) in ours.iter().zip(theirs) {
                self.series.entry(*ours).and_modify(|known| known.theirs = theirs);
            }
        }
    }

    fn forget_theirs(&mut self, theirs: SeriesRef) {
        self.last = None;
        for known in self.series.values_mut().filter(|known| known.theirs == Some(theirs)) {
            known.theirs = None;
        }
    }

    fn row(
        &mut self,
        appender: &dyn Appender,
        row: &Row<'_>,
        is_taken: impl Fn(SeriesRef) -> bool,
        epoch: u32,
    ) -> Translated {
        let mut out = Translated {
            ours: row.source,
            source: SourceRef(0),
            timestamp_ms: row.timestamp_ms,
            series: Arc::default(),
            values: Vec::new(),
            histograms: Vec::new(),
            starts: Vec::new(),
            exemplars: Vec::new(),
            forgotten: Vec::new(),
        };
        let all = || row.series.iter().copied().chain(row.histograms.iter().map(|(series, _)| *series));
        let is_whole = all().all(&is_taken);
        let steady = self.last.as_ref().filter(|last| is_whole && *last.ours == *row.series);
        if let Some(last) = steady {
            out.series = Arc::clone(&last.theirs);
            out.values.extend_from_slice(row.values);
        } else {
            let known = all().filter(|series| is_taken(*series));
            let wanted: Vec<SeriesRef> =
                known.filter(|series| self.place(*series, epoch).is_none()).collect();
            self.resolve(appender, &wanted);
            out.forgotten.extend(wanted.into_iter().filter(|series| !self.series.contains_key(series)));
            let mut theirs = Vec::with_capacity(row.series.len());
            for (series, value) in row.series.iter().zip(row.values).filter(|(series, _)| is_taken(**series))
            {
                if let Some(place) = self.place(*series, epoch) {
                    theirs.push(place);
                    out.values.push(*value);
                }
            }
            out.series = theirs.into();
            if out.series.len() == row.series.len() {
                self.last = Some(Columns { ours: row.series.into(), theirs: Arc::clone(&out.series) });
            }
        }
        for (series, histogram) in row.histograms.iter().filter(|(series, _)| is_taken(*series)) {
            out.histograms.extend(self.place(*series, epoch).map(|place| (place, histogram.clone())));
        }
        for (series, start_ms) in row.start_timestamps {
            out.starts.extend(self.place(*series, epoch).map(|place| (place, *start_ms)));
        }
        for (series, exemplar) in row.exemplars {
            out.exemplars.extend(self.place(*series, epoch).map(|place| (place, exemplar.clone())));
        }
        out.source = self.theirs.unwrap_or(SourceRef(0));
        if self.theirs.is_none() {
            (out.series, out.values, out.histograms) = (Arc::default(), Vec::new(), Vec::new());
        }
        out
    }

    fn place(&mut self, series: SeriesRef, epoch: u32) -> Option<SeriesRef> {
        let known = self.series.get_mut(&series)?;
        known.epoch = epoch;
        known.theirs
    }
}

/// A row as a branch names it.
struct Translated {
    /// What we call the source.
    ours: SourceRef,
    source: SourceRef,
    timestamp_ms: i64,
    series: Arc<[SeriesRef]>,
    values: Vec<f64>,
    histograms: Vec<(SeriesRef, Histogram)>,
    starts: Vec<(SeriesRef, i64)>,
    exemplars: Vec<(SeriesRef, Exemplar)>,
    /// Series that nobody remembers.
    forgotten: Vec<SeriesRef>,
}

impl Translated {
    fn points(&self) -> usize {
        self.values.len() + self.histograms.len()
    }

    fn row(&self) -> Row<'_> {
        Row {
            source: self.source,
            timestamp_ms: self.timestamp_ms,
            series: &self.series,
            values: &self.values,
            histograms: &self.histograms,
            start_timestamps: &self.starts,
            exemplars: &self.exemplars,
        }
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
mod tests;
