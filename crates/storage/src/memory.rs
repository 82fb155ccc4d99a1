//! A plain store in memory: the contract in its simplest honest form.
//!
//! Tests of writers use it in place of `tsdb`, and the conformance suite uses it as the model that
//! other stores are compared with. Everything stands in ordered maps, a selection copies what it
//! selects, and nothing survives the process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use model::{Exemplar, Histogram, Labels, Matcher, Metadata, SourceId, TenantId};
use parking_lot::RwLock;

use crate::{
    Appended, Appender, Batch, BlockKey, Column, CommitPosition, Conflict, Late, Listed, ListedExemplars,
    ListedLabels, ListedMetadata, MetadataEntry, Policy, QueryError, Queryable, RejectReason, Rejection, Row,
    Select, SeriesRef, SeriesSet, SourceDesc, SourceRef, StoreError, exemplars_by_series,
};

/// Most characters that an exemplar's labels may have together. Source: OpenMetrics 1.0, Exemplars.
const EXEMPLAR_CHARS_MAX: usize = 128;

/// A store in memory.
///
/// Its limits can be set, and failures provoked, so that writers can be tested against them.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sources: Vec<SourceDesc>,
    source_by_id: HashMap<(TenantId, SourceId), SourceRef>,
    /// Indexed by `SeriesRef`; `None` where the series was forgotten.
    series: Vec<Option<Series>>,
    tenants: HashMap<TenantId, Tenant>,
    keys: BTreeSet<BlockKey>,
    position: u64,
    series_max: Option<usize>,
    oldest_ms: Option<i64>,
    read_only: Option<String>,
}

#[derive(Debug, Default)]
struct Tenant {
    /// Sorted as selections are.
    by_labels: BTreeMap<Labels, SeriesRef>,
    /// The last statement of each source, in order of the sources' first statements.
    metadata: BTreeMap<String, Vec<(SourceRef, Metadata)>>,
}

#[derive(Debug)]
struct Series {
    tenant: TenantId,
    samples: BTreeMap<i64, Stored>,
    exemplars: Vec<Exemplar>,
}

#[derive(Debug, Clone)]
struct Stored {
    value: Value,
    /// 0 where unknown.
    start_ms: i64,
}

#[derive(Debug, Clone)]
enum Value {
    Float(f64),
    Histogram(Arc<Histogram>),
}

impl Value {
    /// Whether both are the same sample, bit for bit.
    fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
            (Value::Histogram(a), Value::Histogram(b)) => {
                a.sum.to_bits() == b.sum.to_bits()
                    && (a.counter_reset_hint, a.schema, &a.positive_spans, &a.negative_spans)
                        == (b.counter_reset_hint, b.schema, &b.positive_spans, &b.negative_spans)
                    && (a.zero_threshold, &a.custom_values, &a.buckets)
                        == (b.zero_threshold, &b.custom_values, &b.buckets)
            }
            _ => false,
        }
    }
}

impl MemoryStore {
    /// An empty store without limits.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Refuses new series beyond `series_max` in all, from now on.
    pub fn set_series_max(&self, series_max: usize) {
        self.inner.write().series_max = Some(series_max);
    }

    /// Refuses samples before `oldest_ms` as [`RejectReason::TooOld`], from now on.
    pub fn set_oldest_ms(&self, oldest_ms: i64) {
        self.inner.write().oldest_ms = Some(oldest_ms);
    }

    /// Refuses every write from now on, as after a failed sync.
    pub fn set_read_only(&self, reason: &str) {
        self.inner.write().read_only = Some(reason.to_owned());
    }

    /// Lets go of a series, so that its reference is stale and its samples are gone.
    pub fn forget(&self, series: SeriesRef) {
        let inner = &mut *self.inner.write();
        if let Some(gone) = inner.series.get_mut(series.0 as usize).and_then(Option::take)
            && let Some(tenant) = inner.tenants.get_mut(&gone.tenant)
        {
            tenant.by_labels.retain(|_, at| *at != series);
        }
    }

    /// The exemplars of a tenant, by series in the order of their labels.
    pub fn exemplars(&self, tenant: &TenantId) -> Vec<(Labels, Vec<Exemplar>)> {
        let inner = self.inner.read();
        inner
            .matching(tenant, &[])
            .filter(|(_, series)| !series.exemplars.is_empty())
            .map(|(labels, series)| (labels.clone(), series.exemplars.clone()))
            .collect()
    }
}

impl Inner {
    fn check_writable(&self) -> Result<(), StoreError> {
        match &self.read_only {
            Some(reason) => Err(StoreError::ReadOnly { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    fn source(&self, source: SourceRef) -> Result<&SourceDesc, StoreError> {
        self.sources.get(source.0 as usize).ok_or(StoreError::UnknownSource(source.0))
    }

    fn open_source(&mut self, desc: &SourceDesc) -> SourceRef {
        let next = SourceRef(self.sources.len() as u64);
        let key = (desc.tenant.clone(), desc.id);
        let source = *self.source_by_id.entry(key).or_insert(next);
        if source == next {
            self.sources.push(desc.clone());
        }
        source
    }

    fn resolve(&mut self, tenant_id: &TenantId, labels: &Labels) -> Option<SeriesRef> {
        let tenant = self.tenants.entry(tenant_id.clone()).or_default();
        if let Some(known) = tenant.by_labels.get(labels) {
            return Some(*known);
        }
        if self.series_max.is_some_and(|max| self.series.iter().flatten().count() >= max) {
            return None;
        }
        let series = SeriesRef(self.series.len() as u64);
        tenant.by_labels.insert(labels.clone(), series);
        let samples = BTreeMap::new();
        self.series.push(Some(Series { tenant: tenant_id.clone(), samples, exemplars: Vec::new() }));
        Some(series)
    }

    /// The series of the row's tenant that `series` names.
    fn writable(&mut self, row: &Row<'_>, series: SeriesRef) -> Result<&mut Series, RejectReason> {
        let owner = &self.sources[row.source.0 as usize].tenant;
        match self.series.get_mut(series.0 as usize) {
            Some(Some(found)) if found.tenant == *owner => Ok(found),
            _ => Err(RejectReason::UnknownSeries),
        }
    }

    /// The samples of a batch whose series have no name here.
    fn unknown(&mut self, batch: &Batch<'_>) -> Vec<Rejection> {
        let mut unknown = Vec::new();
        for (at, row) in batch.rows.iter().enumerate() {
            for series in row.series.iter().chain(row.histograms.iter().map(|(series, _)| series)) {
                if let Err(reason) = self.writable(row, *series) {
                    unknown.push(Rejection { row: at, series: *series, reason });
                }
            }
        }
        unknown
    }

    fn append_sample(
        &mut self,
        row: &Row<'_>,
        series: SeriesRef,
        value: Value,
        policy: Policy,
    ) -> Result<(), RejectReason> {
        let oldest_ms = self.oldest_ms;
        let stored = self.writable(row, series)?;
        if matches!(&value, Value::Histogram(histogram) if !histogram.is_well_formed()) {
            return Err(RejectReason::Invalid);
        }
        if oldest_ms.is_some_and(|oldest| row.timestamp_ms < oldest) {
            return Err(RejectReason::TooOld);
        }
        let start_ms =
            row.start_timestamps.iter().find(|(of, _)| *of == series).map_or(0, |(_, start)| *start);
        stored.put(row.timestamp_ms, Stored { value, start_ms }, policy)
    }

    fn append_row(&mut self, at: usize, row: &Row<'_>, policy: Policy, appended: &mut Appended) {
        assert_eq!(row.series.len(), row.values.len(), "row {at}: as many values as series");
        for (series, value) in row.series.iter().zip(row.values) {
            match self.append_sample(row, *series, Value::Float(*value), policy) {
                Ok(()) => appended.samples += 1,
                Err(reason) => appended.rejected.push(Rejection { row: at, series: *series, reason }),
            }
        }
        for (series, histogram) in row.histograms {
            match self.append_sample(row, *series, Value::Histogram(Arc::new(histogram.clone())), policy) {
                Ok(()) => appended.histograms += 1,
                Err(reason) => appended.rejected.push(Rejection { row: at, series: *series, reason }),
            }
        }
        for (series, exemplar) in row.exemplars {
            let chars: usize =
                exemplar.labels.iter().map(|(n, v)| n.chars().count() + v.chars().count()).sum();
            let fits = if chars <= EXEMPLAR_CHARS_MAX { Ok(()) } else { Err(RejectReason::Invalid) };
            match fits.and_then(|()| self.writable(row, *series)) {
                Ok(stored) => {
                    stored.exemplars.push(exemplar.clone());
                    appended.exemplars += 1;
                }
                Err(reason) => appended.rejected.push(Rejection { row: at, series: *series, reason }),
            }
        }
    }

    fn append_metadata(&mut self, entry: &MetadataEntry<'_>) {
        let tenant_id = self.sources[entry.source.0 as usize].tenant.clone();
        let tenant = self.tenants.entry(tenant_id).or_default();
        let statements = tenant.metadata.entry(entry.metric.to_owned()).or_default();
        match statements.iter_mut().find(|(source, _)| *source == entry.source) {
            Some((_, metadata)) => metadata.clone_from(entry.metadata),
            None => statements.push((entry.source, entry.metadata.clone())),
        }
    }

    /// The tenant's series that satisfy all `matchers`, sorted by labels.
    fn matching<'a>(
        &'a self,
        tenant: &TenantId,
        matchers: &'a [Matcher],
    ) -> impl Iterator<Item = (&'a Labels, &'a Series)> {
        self.tenants
            .get(tenant)
            .into_iter()
            .flat_map(|tenant| &tenant.by_labels)
            .filter(move |(labels, _)| {
                matchers.iter().all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or_default()))
            })
            .filter_map(|(labels, series)| Some((labels, self.series.get(series.0 as usize)?.as_ref()?)))
    }

    /// The series of a selection that have samples in its time, sorted by labels.
    fn selected<'a>(&'a self, select: &'a Select) -> impl Iterator<Item = (&'a Labels, &'a Series)> {
        self.matching(&select.tenant, &select.matchers)
            .filter(|(_, series)| series.between(select.start_ms, select.end_ms).next().is_some())
    }
}

impl Series {
    /// Judges lateness first, then what already stands at that time.
    fn put(&mut self, timestamp_ms: i64, new: Stored, policy: Policy) -> Result<(), RejectReason> {
        let newest_ms = self.samples.last_key_value().map(|(at, _)| *at);
        if policy.late == Late::Reject && newest_ms.is_some_and(|newest| timestamp_ms < newest) {
            return Err(RejectReason::OutOfOrder);
        }
        if let Some(standing) = self.samples.get_mut(&timestamp_ms) {
            if standing.value.same(&new.value) {
                if standing.start_ms == 0 {
                    standing.start_ms = new.start_ms;
                }
                return Ok(());
            }
            if policy.conflict == Conflict::Refuse {
                return Err(RejectReason::Duplicate);
            }
        }
        self.samples.insert(timestamp_ms, new);
        Ok(())
    }

    fn between(&self, start_ms: i64, end_ms: i64) -> impl Iterator<Item = (i64, &Stored)> {
        let range = (start_ms <= end_ms).then(|| self.samples.range(start_ms..=end_ms));
        range.into_iter().flatten().map(|(at, stored)| (*at, stored))
    }

    fn column(&self, start_ms: i64, end_ms: i64) -> Column {
        let mut times = Vec::new();
        let mut values = Vec::new();
        let mut start_times = Vec::new();
        let (mut histograms, mut histogram_starts) = (Vec::new(), Vec::new());
        for (at, stored) in self.between(start_ms, end_ms) {
            match &stored.value {
                Value::Float(value) => {
                    times.push(at);
                    values.push(*value);
                    start_times.push(stored.start_ms);
                }
                Value::Histogram(histogram) => {
                    histograms.push((at, Arc::clone(histogram)));
                    histogram_starts.push(stored.start_ms);
                }
            }
        }
        let known = |starts: Vec<i64>| starts.iter().any(|start| *start != 0).then(|| starts.into());
        let (start_times, histogram_starts) = (known(start_times), known(histogram_starts));
        Column { times: times.into(), values, histograms, start_times, histogram_starts }
    }
}

impl Appender for MemoryStore {
    fn open_source(&self, source: &SourceDesc) -> Result<SourceRef, StoreError> {
        let mut inner = self.inner.write();
        inner.check_writable()?;
        Ok(inner.open_source(source))
    }

    fn resolve(&self, source: SourceRef, labels: &[Labels]) -> Result<Vec<Option<SeriesRef>>, StoreError> {
        let mut inner = self.inner.write();
        inner.check_writable()?;
        let tenant = inner.source(source)?.tenant.clone();
        Ok(labels.iter().map(|labels| inner.resolve(&tenant, labels)).collect())
    }

    fn append(&self, batch: &Batch<'_>) -> Result<Appended, StoreError> {
        let mut inner = self.inner.write();
        inner.check_writable()?;
        let sources = batch.rows.iter().map(|row| row.source);
        for source in sources.chain(batch.metadata.iter().map(|entry| entry.source)) {
            inner.source(source)?;
        }
        let mut appended = Appended::default();
        if batch.key.is_some_and(|key| !inner.keys.contains(&key)) {
            appended.rejected = inner.unknown(batch);
            appended.untaken = !appended.rejected.is_empty();
        }
        if appended.untaken {
            appended.position = CommitPosition(inner.position);
            return Ok(appended);
        }
        if batch.key.is_none_or(|key| inner.keys.insert(key)) {
            for (at, row) in batch.rows.iter().enumerate() {
                inner.append_row(at, row, batch.policy, &mut appended);
            }
            for entry in batch.metadata {
                inner.append_metadata(entry);
            }
            inner.position += 1;
        } else {
            // Taken before: answered as if it had been taken now.
            appended.repeated = true;
            appended.samples = batch.rows.iter().map(|row| row.series.len()).sum();
            appended.histograms = batch.rows.iter().map(|row| row.histograms.len()).sum();
            appended.exemplars = batch.rows.iter().map(|row| row.exemplars.len()).sum();
        }
        appended.position = CommitPosition(inner.position);
        Ok(appended)
    }

    /// Returns at once: nothing here survives a power cut, however long one waits.
    fn wait_durable(&self, _position: CommitPosition) -> Result<(), StoreError> {
        self.inner.read().check_writable()
    }
}

/// A copy of what was selected.
#[derive(Debug)]
struct Copied(Vec<(Labels, Column)>);

impl SeriesSet for Copied {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn labels(&self, at: usize) -> &Labels {
        &self.0[at].0
    }

    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError> {
        out.extend(self.0[range].iter().map(|(_, column)| column.clone()));
        Ok(())
    }
}

impl Queryable for MemoryStore {
    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        let inner = self.inner.read();
        let copy = |(labels, series): (&Labels, &Series)| {
            (labels.clone(), series.column(select.start_ms, select.end_ms))
        };
        Ok(Box::new(Copied(inner.selected(select).map(copy).collect())))
    }

    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError> {
        let inner = self.inner.read();
        let names: BTreeSet<&str> =
            inner.selected(select).flat_map(|(labels, _)| labels.iter().map(|(name, _)| name)).collect();
        Ok(listed(names))
    }

    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError> {
        let inner = self.inner.read();
        let values: BTreeSet<&str> =
            inner.selected(select).filter_map(|(labels, _)| labels.get(name)).collect();
        Ok(listed(values))
    }

    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<ListedMetadata, QueryError> {
        let inner = self.inner.read();
        let Some(tenant) = inner.tenants.get(tenant) else { return Ok(Listed::default()) };
        let wanted = tenant.metadata.iter().filter(|(name, _)| metric.is_none_or(|metric| metric == *name));
        let stated = wanted.map(|(name, statements)| (name.clone(), distinct(statements)));
        Ok(stated.collect::<Vec<_>>().into())
    }

    fn exemplars_of(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Vec<Matcher>],
    ) -> Result<ListedExemplars, QueryError> {
        let inner = self.inner.read();
        let matching = matchers.iter().flat_map(|matchers| inner.matching(tenant, matchers));
        let of_series = |(labels, series): (&'_ Labels, &'_ Series)| {
            let exemplars = series.exemplars.iter();
            let wanted = exemplars.filter(|e| (start_ms..=end_ms).contains(&e.timestamp_ms));
            wanted.map(|exemplar| (labels.clone(), exemplar.clone())).collect::<Vec<_>>()
        };
        Ok(exemplars_by_series(matching.flat_map(of_series)).into())
    }
}

fn listed(values: BTreeSet<&str>) -> ListedLabels {
    ListedLabels { values: values.into_iter().map(str::to_owned).collect(), warnings: Vec::new() }
}

fn distinct(statements: &[(SourceRef, Metadata)]) -> Vec<Metadata> {
    let mut out: Vec<Metadata> = Vec::new();
    for (_, metadata) in statements {
        if !out.contains(metadata) {
            out.push(metadata.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn conforms() {
        conformance::run(MemoryStore::new);
        conformance::random(MemoryStore::new, 7, 300);
    }

    fn one_series(store: &MemoryStore) -> (SourceRef, SeriesRef) {
        let tenant = TenantId::default();
        let id = SourceId::of(&tenant, "", "test", &Labels::empty(), "");
        let source = store.open_source(&SourceDesc { tenant, id, labels: Labels::empty() }).unwrap();
        let series = store.resolve(source, &[Labels::from_pairs([("__name__", "a")])]).unwrap();
        (source, series[0].unwrap())
    }

    #[test]
    fn limits_and_failures_can_be_provoked() {
        let store = MemoryStore::new();
        let (source, series) = one_series(&store);
        let rejected = |timestamp_ms| {
            let row = Row::floats(source, timestamp_ms, std::slice::from_ref(&series), &[1.0]);
            store.append(&Batch::rows(&[row], Policy::SCRAPE)).unwrap().rejected
        };
        store.set_oldest_ms(1000);
        assert_eq!(rejected(999), [Rejection { row: 0, series, reason: RejectReason::TooOld }]);
        assert_eq!(rejected(1000), []);

        store.set_series_max(1);
        let more = [Labels::from_pairs([("__name__", "b")]), Labels::from_pairs([("__name__", "a")])];
        assert_eq!(store.resolve(source, &more).unwrap(), [None, Some(series)]);

        store.forget(series);
        assert_eq!(rejected(1001), [Rejection { row: 0, series, reason: RejectReason::UnknownSeries }]);

        store.set_read_only("sync failed");
        let error = store.append(&Batch::rows(&[], Policy::SCRAPE)).unwrap_err();
        assert_eq!(error.to_string(), "the store is read-only: sync failed");
        assert!(store.wait_durable(CommitPosition(0)).is_err());
    }

    #[test]
    fn exemplars_stay_within_128_characters() {
        let store = MemoryStore::new();
        let (source, series) = one_series(&store);
        let exemplar = |len| Exemplar {
            labels: Labels::from_pairs([("trace", "x".repeat(len))]),
            value: 1.0,
            timestamp_ms: 5,
        };
        let exemplars = [(series, exemplar(123)), (series, exemplar(124))];
        let row =
            Row { exemplars: &exemplars, ..Row::floats(source, 5, std::slice::from_ref(&series), &[1.0]) };
        let appended = store.append(&Batch::rows(&[row], Policy::SCRAPE)).unwrap();
        assert_eq!((appended.samples, appended.exemplars), (1, 1));
        assert_eq!(appended.rejected, [Rejection { row: 0, series, reason: RejectReason::Invalid }]);
        assert_eq!(store.exemplars(&TenantId::default())[0].1.len(), 1);
    }
}
