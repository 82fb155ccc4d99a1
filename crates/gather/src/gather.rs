//! One store made of a local one and those of the clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use model::{Exemplar, Labels, Matcher, Metadata, MetricType, TenantId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use storage::{
    Column, ListedLabels, QueryError, Queryable, Select, SeriesExemplars, SeriesSet, exemplars_by_series,
};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use wire::remote_read::{FrameReader, LABELS_ONLY, ReadHints, ReadQuery, ReadRequest};
use wire::remote_write::snappy_encode;

use crate::far::{Far, FarError, Fleet, may_have};
use crate::merge::Merged;
use crate::metrics::Metrics;
use crate::samples::{Budget, Collector, FarSet, Trouble};

/// Most bytes of an answer to a look-up of names, values and the like.
const LOOKUP_BYTES_MAX: usize = 64 << 20;
/// What `ReadRequest::accepted` calls chunks in frames.
const STREAMED_XOR_CHUNKS: u64 = 1;

/// Bounds of a selection.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long one far store may take for its whole answer.
    pub patience: Duration,
    /// Bytes that the answers of all far stores to one selection may take in memory.
    pub bytes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { patience: Duration::from_secs(10), bytes_max: 512 << 20 }
    }
}

/// A store made of a local one and those of the clusters. Its methods block; they are called on threads
/// that may, not on the runtime's.
#[derive(Clone)]
pub struct Gather {
    local: Arc<dyn Queryable>,
    fleet: Arc<dyn Fleet>,
    runtime: Handle,
    options: Options,
    metrics: Metrics,
    /// An error instead of a warning for a store that does not answer.
    complete: bool,
}

/// What a far store said, or why it said nothing, for people.
type Answer<T> = Result<T, String>;

impl Gather {
    /// Joins `local` and the stores of `fleet`, which are asked on `runtime`.
    pub fn new(
        local: Arc<dyn Queryable>,
        fleet: Arc<dyn Fleet>,
        runtime: Handle,
        options: Options,
        metrics: Metrics,
    ) -> Gather {
        Gather { local, fleet, runtime, options, metrics, complete: false }
    }

    /// The same stores, for callers who want an error where a cluster's part is missing.
    pub fn complete(&self) -> Gather {
        Gather { complete: true, ..self.clone() }
    }

    /// The far stores that may have something for `select`, and what is to be said of their reach.
    fn asked(&self, select: &Select) -> (Vec<Arc<dyn Far>>, Vec<String>) {
        let mut stores = self.fleet.stores(&select.tenant);
        stores.retain(|far| may_have(far.labels(), &select.matchers));
        let mut warnings = Vec::new();
        for far in &stores {
            // Look-ups without a window begin long before anybody kept anything.
            let reaches = far.oldest_ms().is_none_or(|oldest| oldest <= select.start_ms);
            if !reaches && select.start_ms > 0 {
                let oldest = far.oldest_ms().unwrap_or_default();
                warnings.push(format!(
                    "cluster {:?} keeps nothing older than {}; the answer lacks its part before that",
                    far.cluster(),
                    shown_time(oldest)
                ));
            }
        }
        (stores, warnings)
    }

    /// Asks all of `stores` at once, runs `meanwhile`, and gives both. Stores that failed are in the
    /// warnings, or the error.
    fn ask<T: Send + 'static, L>(
        &self,
        stores: Vec<Arc<dyn Far>>,
        mut warnings: Vec<String>,
        each: impl Fn(Arc<dyn Far>) -> crate::far::BoxFuture<'static, Answer<T>>,
        meanwhile: impl FnOnce() -> Result<L, QueryError>,
    ) -> Result<(L, Vec<T>, Vec<String>), QueryError> {
        let mut asking = JoinSet::new();
        for (number, far) in stores.into_iter().enumerate() {
            let (cluster, metrics) = (far.cluster().to_owned(), self.metrics.clone());
            metrics.requests.get_or_create(&Metrics::of(&cluster)).inc();
            let (answer, patience) = (each(far), self.options.patience);
            let work = async move {
                let in_time = tokio::time::timeout(patience, answer).await;
                let answer = in_time.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")));
                if answer.is_err() {
                    metrics.failures.get_or_create(&Metrics::of(&cluster)).inc();
                }
                (number, answer.map_err(|why| format!("cluster {cluster:?} did not answer: {why}")))
            };
            asking.spawn_on(work, &self.runtime);
        }
        // Dropped on an error: what is under way ends then.
        let local = meanwhile()?;
        let mut answers = BTreeMap::new();
        self.runtime.block_on(async {
            while let Some(done) = asking.join_next().await {
                match done {
                    Ok((number, Ok(answer))) => {
                        answers.insert(number, answer);
                    }
                    Ok((_, Err(why))) => warnings.push(why),
                    Err(error) => warnings.push(format!("a cluster's answer could not be read: {error}")),
                }
            }
        });
        warnings.sort();
        if self.complete && !warnings.is_empty() {
            return Err(QueryError::Incomplete(warnings.join("; ")));
        }
        Ok((local, answers.into_values().collect(), warnings))
    }

    fn select_with(
        &self,
        select: &Select,
        func: &'static str,
        local: impl FnOnce() -> Result<Box<dyn SeriesSet>, QueryError>,
    ) -> Result<Box<dyn SeriesSet>, QueryError> {
        let (stores, warnings) = self.asked(select);
        if stores.is_empty() {
            return local();
        }
        let budget = Arc::new(Budget::new(self.options.bytes_max));
        let request = request(select, func)?;
        let each = |far: Arc<dyn Far>| -> crate::far::BoxFuture<'static, Answer<Answered>> {
            let (request, budget, metrics) = (request.clone(), Arc::clone(&budget), self.metrics.clone());
            let window = (select.start_ms, select.end_ms);
            Box::pin(async move {
                match read(&*far, request, &budget, window, &metrics).await {
                    Ok(set) => Ok(Answered::Set(set)),
                    // Too much is the query's fault, not the store's.
                    Err(trouble @ Trouble::TooMuch(_)) => Ok(Answered::TooMuch(trouble.to_string())),
                    Err(Trouble::Answer(why)) => Err(why),
                }
            })
        };
        let (local, answers, warnings) = self.ask(stores, warnings, each, local)?;
        let mut sets = vec![local];
        for answer in answers {
            match answer {
                Answered::Set(set) if set.is_empty() => {}
                Answered::Set(set) => sets.push(Box::new(set)),
                Answered::TooMuch(why) => return Err(QueryError::Limit(why)),
            }
        }
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
        path: String,
        local: impl FnOnce() -> Result<L, QueryError>,
    ) -> Result<(L, Vec<T>, Vec<String>), QueryError> {
        let (stores, warnings) = self.asked(select);
        let each = |far: Arc<dyn Far>| -> crate::far::BoxFuture<'static, Answer<T>> {
            let path = path.clone();
            Box::pin(async move {
                let body = far.get(path, LOOKUP_BYTES_MAX).await.map_err(|error| error.to_string())?;
                let envelope: Envelope<T> = serde_json::from_slice(&body)
                    .map_err(|error| format!("its answer is not JSON: {error}"))?;
                envelope.data.ok_or_else(|| envelope.error.unwrap_or_else(|| "an answer without data".into()))
            })
        };
        self.ask(stores, warnings, each, local)
    }

    fn list(
        &self,
        select: &Select,
        path: &str,
        local: impl FnOnce() -> Result<ListedLabels, QueryError>,
    ) -> Result<ListedLabels, QueryError> {
        let path = format!("{path}?{}", query_string(select));
        let (mut local, far, warnings) = self.look_up::<Vec<String>, _>(select, path, local)?;
        local.warnings.extend(warnings);
        if far.iter().any(|values| !values.is_empty()) {
            let all: BTreeSet<String> = local.values.into_iter().chain(far.into_iter().flatten()).collect();
            local.values = all.into_iter().collect();
        }
        Ok(local)
    }
}

/// A far store's answer to a selection.
enum Answered {
    Set(FarSet),
    TooMuch(String),
}

/// The envelope of Prometheus' API.
#[derive(Deserialize)]
struct Envelope<T> {
    data: Option<T>,
    error: Option<String>,
}

fn request(select: &Select, func: &str) -> Result<Vec<u8>, QueryError> {
    let hints = ReadHints {
        func: func.to_owned(),
        start_ms: select.start_ms,
        end_ms: select.end_ms,
        ..ReadHints::default()
    };
    let query = ReadQuery {
        start_ms: select.start_ms,
        end_ms: select.end_ms,
        matchers: select.matchers.clone(),
        hints: Some(hints),
    };
    let request = ReadRequest { queries: vec![query], accepted: vec![STREAMED_XOR_CHUNKS] };
    snappy_encode(&request.encode()).map_err(|error| QueryError::Limit(error.to_string()))
}

async fn read(
    far: &dyn Far,
    request: Vec<u8>,
    budget: &Budget,
    window: (i64, i64),
    metrics: &Metrics,
) -> Result<FarSet, Trouble> {
    let of_far = |error: FarError| Trouble::Answer(error.to_string());
    let mut pieces = far.read(request).await.map_err(of_far)?;
    let bytes = metrics.bytes.get_or_create(&Metrics::of(far.cluster())).clone();
    let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
    let mut collector = Collector::new(budget, window.0, window.1);
    let malformed = |error: wire::remote_read::FrameError| Trouble::Answer(error.to_string());
    while let Some(piece) = pieces.recv().await {
        let piece = piece.map_err(of_far)?;
        bytes.inc_by(piece.len() as u64);
        reader.push(&piece);
        while reader.next(&mut frames).map_err(malformed)? {
            for frame in frames.drain(..) {
                collector.take(frame)?;
            }
        }
    }
    reader.end().map_err(malformed)?;
    collector.finish()
}

/// `match[]`, `start` and `end` for look-ups.
fn query_string(select: &Select) -> String {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    if !select.matchers.is_empty() {
        pairs.append_pair("match[]", &selector(&select.matchers));
    }
    // Windows without an end are those that name none.
    let seconds = |ms: i64| format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000));
    if select.start_ms > 0 {
        pairs.append_pair("start", &seconds(select.start_ms));
    }
    if select.end_ms < i64::MAX / 1000 {
        pairs.append_pair("end", &seconds(select.end_ms));
    }
    pairs.finish()
}

/// A selector of PromQL that means `matchers`.
fn selector(matchers: &[Matcher]) -> String {
    let mut text = String::from("{");
    for (at, matcher) in matchers.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        // Quoted names may be any; writing to a string cannot fail.
        _ = text.write_str(comma);
        _ = model::labels::write_quoted(&mut text, &matcher.name);
        _ = text.write_str(&matcher.op.to_string());
        _ = model::labels::write_quoted(&mut text, &matcher.value);
    }
    text.push('}');
    text
}

/// `2026-11-22T10:00:00Z`, for people.
fn shown_time(ms: i64) -> String {
    jiff::Timestamp::from_second(ms.div_euclid(1000)).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

/// A set, and what is to be said of the selection.
#[derive(Debug)]
struct Warned {
    set: Box<dyn SeriesSet>,
    warnings: Vec<String>,
}

impl SeriesSet for Warned {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn labels(&self, at: usize) -> &Labels {
        self.set.labels(at)
    }

    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError> {
        self.set.load(range, out)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.set.warnings();
        warnings.extend(self.warnings.iter().cloned());
        warnings
    }
}

impl Queryable for Gather {
    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.select_with(select, "", || self.local.select(select))
    }

    fn series(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.select_with(select, LABELS_ONLY, || self.local.series(select))
    }

    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError> {
        self.list(select, "/api/v1/labels", || self.local.label_names(select))
    }

    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError> {
        let path = format!("/api/v1/label/{}/values", escaped_name(name));
        self.list(select, &path, || self.local.label_values(name, select))
    }

    fn metadata(
        &self,
        tenant: &TenantId,
        metric: Option<&str>,
    ) -> Result<Vec<(String, Vec<Metadata>)>, QueryError> {
        #[derive(Deserialize)]
        struct Entry {
            r#type: String,
            unit: String,
            help: String,
        }
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        if let Some(metric) = metric {
            pairs.append_pair("metric", metric);
        }
        let path = format!("/api/v1/metadata?{}", pairs.finish());
        let everything = everything(tenant);
        let (local, far, warnings) =
            self.look_up::<BTreeMap<String, Vec<Entry>>, _>(&everything, path, || {
                self.local.metadata(tenant, metric)
            })?;
        for warning in warnings {
            tracing::warn!(warning, "metadata without a cluster's part");
        }
        let mut all: BTreeMap<String, Vec<Metadata>> = local.into_iter().collect();
        for (name, entries) in far.into_iter().flatten() {
            let known = all.entry(name).or_default();
            for Entry { r#type, unit, help } in entries {
                let stated =
                    Metadata { metric_type: MetricType::parse(&r#type).unwrap_or_default(), unit, help };
                if !known.contains(&stated) {
                    known.push(stated);
                }
            }
        }
        Ok(all.into_iter().collect())
    }

    fn exemplars_of(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Vec<Matcher>],
    ) -> Result<Vec<SeriesExemplars>, QueryError> {
        let local = || self.local.exemplars_of(tenant, start_ms, end_ms, matchers);
        let mut select = Select { start_ms, end_ms, ..everything(tenant) };
        let selectors: Vec<String> = matchers.iter().map(|one| selector(one)).collect();
        if let [only] = matchers {
            select.matchers.clone_from(only);
        }
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        pairs.append_pair("query", &selectors.join(" or "));
        let bounds = query_string(&Select { matchers: Vec::new(), ..select.clone() });
        let path = format!("/api/v1/query_exemplars?{}&{bounds}", pairs.finish());
        let (local, far, warnings) = self.look_up::<Vec<FarExemplars>, _>(&select, path, local)?;
        for warning in warnings {
            tracing::warn!(warning, "exemplars without a cluster's part");
        }
        if far.iter().all(Vec::is_empty) {
            return Ok(local);
        }
        let own = local.into_iter().flat_map(|of| {
            let series = of.series;
            of.exemplars.into_iter().map(move |exemplar| (series.clone(), exemplar))
        });
        let others = far.into_iter().flatten().flat_map(FarExemplars::into_pairs);
        Ok(exemplars_by_series(own.chain(others)))
    }
}

fn everything(tenant: &TenantId) -> Select {
    Select { tenant: tenant.clone(), start_ms: i64::MIN, end_ms: i64::MAX, matchers: Vec::new() }
}

/// A label name in a path: what is no plain name is escaped as the API has it (`U__`).
///
/// Source: Prometheus `common/model`, `EscapeName` with `ValueEncodingEscaping`.
fn escaped_name(name: &str) -> String {
    if model::labels::is_legacy_label_name(name) {
        return name.to_owned();
    }
    let mut escaped = String::from("U__");
    for character in name.chars() {
        match character {
            '_' => escaped.push_str("__"),
            plain if plain.is_ascii_alphanumeric() => escaped.push(plain),
            other => _ = write!(escaped, "_{:x}_", u32::from(other)),
        }
    }
    escaped
}

/// As `/api/v1/query_exemplars` has them.
#[derive(Deserialize)]
struct FarExemplars {
    #[serde(rename = "seriesLabels")]
    series: BTreeMap<String, String>,
    exemplars: Vec<FarExemplar>,
}

#[derive(Deserialize)]
struct FarExemplar {
    labels: BTreeMap<String, String>,
    value: String,
    timestamp: f64,
}

impl FarExemplars {
    fn into_pairs(self) -> impl Iterator<Item = (Labels, Exemplar)> {
        let series = Labels::from_pairs(&self.series);
        self.exemplars.into_iter().filter_map(move |exemplar| {
            let value = model::number::parse_float(&exemplar.value).ok()?;
            let timestamp_ms = (exemplar.timestamp * 1000.0).round() as i64;
            let labels = Labels::from_pairs(&exemplar.labels);
            Some((series.clone(), Exemplar { labels, value, timestamp_ms }))
        })
    }
}

#[cfg(test)]
mod tests;
