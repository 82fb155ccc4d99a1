//! A cluster's own view of its series: without the labels that tell clusters apart.

use std::ops::Range;
use std::sync::Arc;

use model::{Labels, Matcher, TenantId};
use storage::{
    Column, Listed, ListedExemplars, ListedLabels, ListedMetadata, Missing, QueryError, Queryable, Request,
    Select, SeriesSet, exemplars_by_series,
};

use crate::merge::woven;

/// What stands before the name of a target's own label where enrolment stamps one of that name.
///
/// Source: Prometheus `scrape/target.go`, `honor_labels: false`.
const EXPORTED: &str = "exported_";

/// A store of one cluster's series, seen as a Prometheus in that cluster has them: what enrolment stamped
/// (`cluster`, `region`) is not there, and the label that had to give way to it (`exported_cluster`) has its
/// own name.
pub struct OfCluster {
    store: Arc<dyn Queryable>,
    stamped: Arc<Labels>,
}

impl OfCluster {
    /// Takes the labels `stamped` off the series of `store`, which has those of the cluster only.
    pub fn new(store: Arc<dyn Queryable>, stamped: Labels) -> OfCluster {
        OfCluster { store, stamped: Arc::new(stamped) }
    }

    /// What `select` means at the store; `None` when no series can match.
    pub fn at_store(&self, select: &Select) -> Option<Select> {
        let matchers = self.matchers(&select.matchers)?;
        Some(Select { matchers, ..select.clone() })
    }

    fn matchers(&self, asked: &[Matcher]) -> Option<Vec<Matcher>> {
        let mut matchers = Vec::with_capacity(asked.len());
        for matcher in asked {
            if self.stamped.get(&matcher.name).is_some() {
                let name = format!("{EXPORTED}{}", matcher.name);
                matchers.push(Matcher::new(matcher.op, name, matcher.value.clone()).ok()?);
            } else if !self.is_displaced(&matcher.name) {
                matchers.push(matcher.clone());
            } else if !matcher.matches("") {
                return None;
            }
        }
        Some(matchers)
    }

    /// Whether this is the name that a label got because its own is stamped.
    fn is_displaced(&self, name: &str) -> bool {
        name.strip_prefix(EXPORTED).is_some_and(|own| self.stamped.get(own).is_some())
    }

    fn shown(&self, labels: &Labels) -> Labels {
        let taken_off = |name: &str, value: &str| self.stamped.get(name) == Some(value);
        let pairs = labels.iter().filter(|(name, value)| !taken_off(name, value)).map(|(name, value)| {
            let own = name.strip_prefix(EXPORTED);
            let back = own.filter(|own| labels.get(own).is_some_and(|value| taken_off(own, value)));
            (back.unwrap_or(name), value)
        });
        Labels::from_pairs(pairs)
    }

    fn set(
        &self,
        select: &Select,
        find: impl FnOnce(&Select) -> Result<Box<dyn SeriesSet>, QueryError>,
    ) -> Result<Box<dyn SeriesSet>, QueryError> {
        let Some(select) = self.at_store(select) else {
            return Ok(Box::new(Nothing { labels: Labels::empty() }));
        };
        Ok(Box::new(Unstamped::new(find(&select)?, |labels| self.shown(labels))))
    }
}

impl Queryable for OfCluster {
    /// There are no parts of a Prometheus: who does not answer makes it an error.
    fn for_request(&self, request: &Request) -> Option<Arc<dyn Queryable>> {
        let mut request = request.clone();
        if request.missing == Missing::Warn {
            request.missing = Missing::FailUnanswered;
        }
        let store = self.store.for_request(&request)?;
        Some(Arc::new(OfCluster { store, stamped: Arc::clone(&self.stamped) }))
    }

    fn asks_others(&self, tenant: &TenantId) -> bool {
        self.store.asks_others(tenant)
    }

    fn expect(&self, selections: &dyn Fn() -> Vec<Select>) {
        self.store.expect(&|| selections().iter().filter_map(|select| self.at_store(select)).collect());
    }

    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.set(select, |select| self.store.select(select))
    }

    fn series(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.set(select, |select| self.store.series(select))
    }

    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError> {
        let Some(select) = self.at_store(select) else { return Ok(ListedLabels::default()) };
        let mut listed = self.store.label_names(&select)?;
        listed.values.retain(|name| self.stamped.get(name).is_none());
        for name in &mut listed.values {
            if self.is_displaced(name) {
                name.drain(..EXPORTED.len());
            }
        }
        listed.values.sort_unstable();
        Ok(listed)
    }

    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError> {
        let Some(select) = self.at_store(select) else { return Ok(ListedLabels::default()) };
        if self.stamped.get(name).is_some() {
            return self.store.label_values(&format!("{EXPORTED}{name}"), &select);
        }
        if self.is_displaced(name) {
            return Ok(ListedLabels::default());
        }
        self.store.label_values(name, &select)
    }

    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<ListedMetadata, QueryError> {
        self.store.metadata(tenant, metric)
    }

    fn exemplars_of(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Vec<Matcher>],
    ) -> Result<ListedExemplars, QueryError> {
        let matchers: Vec<Vec<Matcher>> = matchers.iter().filter_map(|list| self.matchers(list)).collect();
        if matchers.is_empty() {
            return Ok(Listed::default());
        }
        let Listed { values: found, warnings } =
            self.store.exemplars_of(tenant, start_ms, end_ms, &matchers)?;
        let shown = exemplars_by_series(found.into_iter().flat_map(|of| {
            let series = self.shown(&of.series);
            of.exemplars.into_iter().map(move |exemplar| (series.clone(), exemplar))
        }));
        Ok(Listed { values: shown, warnings })
    }
}

/// No series.
#[derive(Debug)]
struct Nothing {
    labels: Labels,
}

impl SeriesSet for Nothing {
    fn len(&self) -> usize {
        0
    }

    fn labels(&self, _at: usize) -> &Labels {
        &self.labels
    }

    fn load(&self, _range: Range<usize>, _out: &mut Vec<Column>) -> Result<(), QueryError> {
        Ok(())
    }
}

/// A set under other labels: sorted by these, and series that have become one are one.
#[derive(Debug)]
struct Unstamped {
    set: Box<dyn SeriesSet>,
    /// Labels, and where in `places` the series of the set begin that have them now.
    series: Vec<(Labels, u32)>,
    /// Series of the set.
    places: Vec<u32>,
}

impl Unstamped {
    fn new(set: Box<dyn SeriesSet>, shown: impl Fn(&Labels) -> Labels) -> Unstamped {
        let mut all: Vec<(Labels, u32)> =
            (0..set.len()).map(|at| (shown(set.labels(at)), at as u32)).collect();
        all.sort_unstable();
        let places = all.iter().map(|(_, place)| *place).collect();
        let mut series: Vec<(Labels, u32)> = Vec::with_capacity(all.len());
        for (from, (labels, _)) in all.into_iter().enumerate() {
            if series.last().is_none_or(|(last, _)| *last != labels) {
                series.push((labels, from as u32));
            }
        }
        Unstamped { set, series, places }
    }

    fn places(&self, range: Range<usize>) -> &[u32] {
        let at =
            |series: usize| self.series.get(series).map_or(self.places.len(), |(_, from)| *from as usize);
        &self.places[at(range.start)..at(range.end)]
    }
}

impl SeriesSet for Unstamped {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, at: usize) -> &Labels {
        &self.series[at].0
    }

    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError> {
        let mut wanted = self.places(range.clone()).to_vec();
        wanted.sort_unstable();
        let mut columns = Vec::with_capacity(wanted.len());
        for run in wanted.chunk_by(|a, b| a + 1 == *b) {
            let from = run[0] as usize;
            self.set.load(from..from + run.len(), &mut columns)?;
        }
        for at in range {
            let parts = self.places(at..at + 1).iter().filter_map(|place| {
                let at = wanted.binary_search(place).ok()?;
                columns.get_mut(at).map(std::mem::take)
            });
            out.push(parts.reduce(woven).unwrap_or_default());
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        self.set.warnings()
    }
}

#[cfg(test)]
mod tests {
    use model::{MatchOp, SourceId};
    use storage::{Appender, Batch, MemoryStore, Policy, Row, SourceDesc};

    use super::*;

    /// Appends one sample of each series, at its place in the list.
    fn store(series: &[&[(&str, &str)]]) -> Arc<MemoryStore> {
        let store = Arc::new(MemoryStore::new());
        for (at, pairs) in series.iter().enumerate() {
            let labels = Labels::from_pairs(pairs.iter().copied());
            let tenant = TenantId::default();
            let source = SourceDesc { tenant, id: SourceId(labels.hash128()), labels: labels.clone() };
            let source = store.open_source(&source).expect("a source");
            let found = store.resolve(source, &[labels]).expect("series")[0].expect("a series");
            let (found, values) = ([found], [at as f64]);
            let row = Row::floats(source, at as i64 + 1, &found, &values);
            store.append(&Batch::rows(&[row], Policy::REMOTE_WRITE)).expect("an append");
        }
        store
    }

    fn select(matchers: Vec<Matcher>) -> Select {
        Select { tenant: TenantId::default(), start_ms: 0, end_ms: 100, matchers }
    }

    fn shown(set: &dyn SeriesSet, step: usize) -> Vec<String> {
        let mut columns = Vec::new();
        for from in (0..set.len()).step_by(step) {
            set.load(from..set.len().min(from + step), &mut columns).expect("columns");
        }
        columns
            .iter()
            .enumerate()
            .map(|(at, column)| format!("{} {:?}", set.labels(at), column.times))
            .collect()
    }

    fn view() -> OfCluster {
        let store = store(&[
            &[("__name__", "m"), ("cluster", "a"), ("region", "n")],
            &[("__name__", "m"), ("b", "1"), ("cluster", "a"), ("region", "n")],
            &[("__name__", "m"), ("b", "1"), ("cluster", "a"), ("exported_cluster", "own"), ("region", "n")],
            // From before the agent got a region.
            &[("__name__", "m"), ("cluster", "a"), ("z", "1")],
            &[("__name__", "m"), ("cluster", "a"), ("region", "n"), ("z", "1")],
            // From when it had another.
            &[("__name__", "m"), ("cluster", "a"), ("region", "s")],
        ]);
        OfCluster::new(store, Labels::from_pairs([("cluster", "a"), ("region", "n")]))
    }

    #[test]
    fn series_are_those_of_the_clusters_own_prometheus() {
        let view = view();
        for step in 1..5 {
            let set = view.select(&select(Vec::new())).expect("a selection");
            assert_eq!(
                shown(&*set, step),
                [
                    r#"{__name__="m"} [1]"#,
                    r#"{__name__="m", b="1"} [2]"#,
                    r#"{__name__="m", b="1", cluster="own"} [3]"#,
                    r#"{__name__="m", region="s"} [6]"#,
                    r#"{__name__="m", z="1"} [4, 5]"#,
                ]
            );
        }
        let everything = select(Vec::new());
        assert_eq!(view.label_names(&everything).expect("names").values, ["__name__", "b", "cluster", "z"]);
        assert_eq!(view.label_values("cluster", &everything).expect("values").values, ["own"]);
        assert!(view.label_values("exported_cluster", &everything).expect("values").values.is_empty());
    }

    #[test]
    fn matchers_mean_what_they_mean_there() {
        let view = view();
        let check = |op: MatchOp, name: &str, value: &str, times: &[i64]| {
            let matcher = Matcher::new(op, name, value).expect("a matcher");
            let set = view.select(&select(vec![matcher])).expect("a selection");
            let mut columns = Vec::new();
            set.load(0..set.len(), &mut columns).expect("columns");
            let mut got: Vec<i64> = columns.iter().flat_map(|column| column.times.iter().copied()).collect();
            got.sort_unstable();
            assert_eq!(got, times, "{name}{op}{value:?}");
        };
        check(MatchOp::Equal, "cluster", "own", &[3]);
        check(MatchOp::Equal, "cluster", "a", &[]);
        check(MatchOp::Equal, "cluster", "", &[1, 2, 4, 5, 6]);
        check(MatchOp::Regex, "cluster", ".+", &[3]);
        check(MatchOp::Equal, "exported_cluster", "own", &[]);
        check(MatchOp::NotEqual, "exported_cluster", "own", &[1, 2, 3, 4, 5, 6]);
        check(MatchOp::Equal, "b", "1", &[2, 3]);
    }
}
