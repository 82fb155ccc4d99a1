//! One store made of a local one and those of the clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::{Matcher, Metadata, TenantId};
use serde::de::DeserializeOwned;
use storage::{
    Listed, ListedExemplars, ListedLabels, ListedMetadata, QueryError, Queryable, Request, Select, SeriesSet,
    exemplars_by_series,
};
use tokio::runtime::Handle;
use wire::remote_read::LABELS_ONLY;

use crate::far::{BoxFuture, Far, Fleet};
use crate::merge::{Merged, Warned};
use crate::metrics::Metrics;
use crate::places::all_places;
use crate::pulse::Pulses;
use crate::request::{Answer, Asked, Asking, Shared, Sign, heard};
use crate::text::{Envelope, FarExemplars, FarMetadata, escaped_name, query_string, selector};

/// Most bytes of an answer to a look-up of names, values and the like.
const LOOKUP_BYTES_MAX: usize = 64 << 20;
/// Longest path that is sent: what a request's head may have.
const PATH_BYTES_MAX: usize = 12 << 10;

/// Bounds of a request.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long one far store may take for its whole answer.
    pub patience: Duration,
    /// Bytes that the answers of all far stores to one request may take in memory.
    pub bytes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { patience: Duration::from_secs(10), bytes_max: 512 << 20 }
    }
}

/// A store made of a local one and those of the clusters. Its methods block; they are called on threads
/// that may, not on the runtime's.
///
/// [`Queryable::for_request`] makes one for the selections of one request together; asked directly, each
/// selection is a request.
#[derive(Clone)]
pub struct Gather(Arc<Shared>);

impl Gather {
    /// Joins `local` and the stores of `fleet`, which are asked on `runtime`.
    pub fn new(
        local: Arc<dyn Queryable>,
        fleet: Arc<dyn Fleet>,
        runtime: Handle,
        options: Options,
        metrics: Metrics,
    ) -> Gather {
        let pulses = Pulses::default();
        Gather(Arc::new(Shared { local, fleet, runtime, options, metrics, pulses, places: all_places() }))
    }

    fn asking(&self) -> Asking {
        Asking::new(&self.0, Request::default())
    }
}

impl Queryable for Gather {
    fn asks_others(&self, tenant: &TenantId) -> bool {
        !self.0.fleet.stores(tenant).is_empty()
    }

    fn for_request(&self, request: &Request) -> Option<Arc<dyn Queryable>> {
        Some(Arc::new(Asking::new(&self.0, request.clone())))
    }

    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.asking().select(select)
    }

    fn series(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.asking().series(select)
    }

    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError> {
        self.asking().label_names(select)
    }

    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError> {
        self.asking().label_values(name, select)
    }

    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<ListedMetadata, QueryError> {
        self.asking().metadata(tenant, metric)
    }

    fn exemplars_of(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Vec<Matcher>],
    ) -> Result<ListedExemplars, QueryError> {
        self.asking().exemplars_of(tenant, start_ms, end_ms, matchers)
    }
}

/// A far store, and its answer to a look-up.
type Said<T> = (Arc<dyn Far>, Envelope<T>);

/// What the local store found, what others found, and what is to be said of both.
type Told<L, T> = (Vec<L>, Vec<(Arc<dyn Far>, T)>, Vec<String>);

/// Puts together what all said of their answers.
fn told<L, T>(asked: Asked<Listed<L>, Said<T>>) -> Told<L, T> {
    let Asked { local, far, warnings: mut said } = asked;
    said.extend(local.warnings);
    let mut found = Vec::with_capacity(far.len());
    for (store, envelope) in far {
        let of_store = envelope.warnings.into_iter();
        said.extend(of_store.map(|warning| format!("cluster {:?}: {warning}", store.cluster())));
        found.extend(envelope.data.map(|data| (store, data)));
    }
    (local.values, found, said)
}

impl Asking {
    fn select_with(
        &self,
        select: &Select,
        func: &'static str,
        local: impl FnOnce() -> Result<Box<dyn SeriesSet>, QueryError>,
    ) -> Result<Box<dyn SeriesSet>, QueryError> {
        let Asked { local, far, warnings } = self.read(select, func, local)?;
        let far = far.into_iter().filter(|set| !set.is_empty() || !set.warnings().is_empty());
        let mut sets = vec![local];
        sets.extend(far.map(|set| Box::new(set) as Box<dyn SeriesSet>));
        if sets.len() == 1 {
            let only = sets.remove(0);
            return Ok(if warnings.is_empty() { only } else { Box::new(Warned { set: only, warnings }) });
        }
        Ok(Box::new(Merged::new(sets, warnings)))
    }

    /// Asks all stores for the `data` of `path`, an array or object of the Prometheus API.
    fn look_up<T: DeserializeOwned + Send + 'static, L>(
        &self,
        select: &Select,
        path: &str,
        local: impl FnOnce() -> Result<L, QueryError>,
    ) -> Result<Asked<L, Said<T>>, QueryError> {
        let each = |far: Arc<dyn Far>, sign: Sign| -> BoxFuture<'static, Answer<Said<T>>> {
            let path = path.to_owned();
            Box::pin(async move {
                if path.len() > PATH_BYTES_MAX {
                    return Err(format!("the question has {} bytes, more than it takes", path.len()));
                }
                let answered = far.get(path, LOOKUP_BYTES_MAX).await;
                heard(&sign);
                let body = answered.map_err(|error| error.to_string())?;
                let envelope: Envelope<T> = serde_json::from_slice(&body)
                    .map_err(|error| format!("its answer cannot be read: {error}"))?;
                match &envelope.data {
                    Some(_) => Ok((far, envelope)),
                    None => Err(envelope.error.unwrap_or_else(|| "an answer without data".into())),
                }
            })
        };
        self.ask(select, each, local)
    }

    /// The union of what all have for `path`; of each far value those that `keep` likes.
    fn list(
        &self,
        select: &Select,
        path: &str,
        keep: impl Fn(&dyn Far, &str) -> bool,
        local: impl FnOnce() -> Result<ListedLabels, QueryError>,
    ) -> Result<ListedLabels, QueryError> {
        let path = format!("{path}?{}", query_string(select));
        let (mut values, far, warnings) = told(self.look_up::<Vec<String>, _>(select, &path, local)?);
        let mut all: BTreeSet<String> = BTreeSet::new();
        for (store, data) in far {
            all.extend(data.into_iter().filter(|value| keep(&*store, value)));
        }
        if !all.is_empty() {
            all.extend(values);
            values = all.into_iter().collect();
        }
        Ok(Listed { values, warnings })
    }
}

impl Queryable for Asking {
    fn asks_others(&self, tenant: &TenantId) -> bool {
        !self.shared.fleet.stores(tenant).is_empty()
    }

    fn expect(&self, selections: &dyn Fn() -> Vec<Select>) {
        self.ask_ahead(selections);
    }

    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.select_with(select, "", || self.shared.local.select(select))
    }

    fn series(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.select_with(select, LABELS_ONLY, || self.shared.local.series(select))
    }

    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError> {
        self.list(select, "/api/v1/labels", |_, _| true, || self.shared.local.label_names(select))
    }

    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError> {
        let path = format!("/api/v1/label/{}/values", escaped_name(name));
        // Nobody has values of a stamped label but the one that is stamped.
        let keep = |far: &dyn Far, value: &str| far.labels().get(name).is_none_or(|stamped| stamped == value);
        self.list(select, &path, keep, || self.shared.local.label_values(name, select))
    }

    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<ListedMetadata, QueryError> {
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        if let Some(metric) = metric {
            pairs.append_pair("metric", metric);
        }
        let path = format!("/api/v1/metadata?{}", pairs.finish());
        let local = || self.shared.local.metadata(tenant, metric);
        let select = everything(tenant);
        let asked = self.look_up::<BTreeMap<String, Vec<FarMetadata>>, _>(&select, &path, local)?;
        let (local, far, said) = told(asked);
        let mut all: BTreeMap<String, Vec<Metadata>> = local.into_iter().collect();
        for (name, entries) in far.into_iter().flat_map(|(_, data)| data) {
            let known = all.entry(name).or_default();
            for stated in entries.into_iter().map(FarMetadata::into_metadata) {
                if !known.contains(&stated) {
                    known.push(stated);
                }
            }
        }
        Ok(Listed { values: all.into_iter().collect(), warnings: said })
    }

    fn exemplars_of(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Vec<Matcher>],
    ) -> Result<ListedExemplars, QueryError> {
        let local = || self.shared.local.exemplars_of(tenant, start_ms, end_ms, matchers);
        let mut select = Select { start_ms, end_ms, ..everything(tenant) };
        let selectors: Vec<String> = matchers.iter().map(|one| selector(one)).collect();
        // Conditions that all selectors share tell whom to ask.
        if let Some((first, rest)) = matchers.split_first() {
            let shared = |one: &&Matcher| rest.iter().all(|list| list.contains(one));
            select.matchers = first.iter().filter(shared).cloned().collect();
        }
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        pairs.append_pair("query", &selectors.join(" or "));
        let bounds = query_string(&Select { matchers: Vec::new(), ..select.clone() });
        let path = format!("/api/v1/query_exemplars?{}&{bounds}", pairs.finish());
        let (local, far, warnings) = told(self.look_up::<Vec<FarExemplars>, _>(&select, &path, local)?);
        if far.is_empty() {
            return Ok(Listed { values: local, warnings });
        }
        let own = local.into_iter().flat_map(|of| {
            let series = of.series;
            of.exemplars.into_iter().map(move |exemplar| (series.clone(), exemplar))
        });
        let others = far.into_iter().flat_map(|(store, data)| {
            let found = data.into_iter().flat_map(FarExemplars::into_pairs);
            found.filter(move |(series, _)| carries(series, &*store))
        });
        Ok(Listed { values: exemplars_by_series(own.chain(others)), warnings })
    }
}

/// Whether these are labels of a series of `far`.
fn carries(series: &model::Labels, far: &dyn Far) -> bool {
    far.labels().iter().all(|(name, value)| series.get(name) == Some(value))
}

fn everything(tenant: &TenantId) -> Select {
    Select { tenant: tenant.clone(), start_ms: i64::MIN, end_ms: i64::MAX, matchers: Vec::new() }
}

#[cfg(test)]
mod tests;
