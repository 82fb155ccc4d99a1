//! `/federate`: the latest sample of every selected series, for another Prometheus to scrape.
//!
//! Source: Prometheus `web/federate.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use model::labels::METRIC_NAME;
use model::{Histogram, Labels, TenantId, is_stale};
use storage::{Column, Queryable, Select};
use wire::federation::{FederationWriter, Format, Latest};

use crate::App;
use crate::api::selector;
use crate::auth::Caller;
use crate::form::Form;
use crate::reply::ApiError;
use crate::work::Patience;

/// Series whose samples are read at once.
const BATCH: usize = 512;
/// The label that is set to nothing where a series has none, so that the reader's own, the address of
/// this program, does not take its place.
const INSTANCE: &str = "instance";

/// The latest sample of a series.
struct Sample {
    labels: Labels,
    timestamp_ms: i64,
    value: Value,
}

enum Value {
    Float(f64),
    Histogram(Arc<Histogram>),
}

/// `/federate`
pub(crate) async fn federate(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    form: Form,
) -> Response {
    let accept: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Format::negotiate(&accept.join(","));
    let end_ms = app.state.clock.now_ms();
    let start_ms = end_ms.saturating_sub(app.state.engine.options().lookback_ms);
    let missing = match form.missing() {
        Ok(missing) => missing,
        Err(error) => return error.into_plain_response(),
    };
    let (store, external) = (Arc::clone(&app.state.store), app.state.external_labels.clone());
    let run = move |patience: &Patience| {
        let store = caller.view_for(&store, &patience.request(missing));
        let samples = latest(&*store, &caller.tenant, start_ms..=end_ms, &form, patience)?;
        Ok(written(&samples, &external, format))
    };
    match app.work.search(run).await {
        Ok(body) => ([(header::CONTENT_TYPE, format.content_type())], body).into_response(),
        Err(error) => error.into_plain_response(),
    }
}

/// By metric name, then by labels; each series once.
fn latest(
    store: &dyn Queryable,
    tenant: &TenantId,
    time: std::ops::RangeInclusive<i64>,
    form: &Form,
    patience: &Patience,
) -> Result<Vec<Sample>, ApiError> {
    let mut samples = Vec::new();
    let mut selectors = 0;
    for text in form.strict()?.all("match[]") {
        patience.check()?;
        selectors += 1;
        let matchers = selector(text).map_err(ApiError::bad_data)?;
        let (start_ms, end_ms) = (*time.start(), *time.end());
        let set = store.select(&Select { tenant: tenant.clone(), start_ms, end_ms, matchers })?;
        let mut columns = Vec::with_capacity(BATCH.min(set.len()));
        for from in (0..set.len()).step_by(BATCH) {
            patience.check()?;
            columns.clear();
            set.load(from..set.len().min(from + BATCH), &mut columns)?;
            for (at, column) in columns.iter().enumerate() {
                samples.extend(last_of(set.labels(from + at), column));
            }
        }
        // The formats have no place for it.
        for warning in set.warnings() {
            tracing::info!(warning, "federate");
        }
    }
    let key = |sample: &Sample| (sample.labels.metric_name().to_owned(), sample.labels.clone());
    if selectors > 1 {
        samples.sort_by_cached_key(key);
        samples.dedup_by(|a, b| a.labels == b.labels);
    } else {
        // the store's order is by labels already
        samples.sort_by(|a, b| a.labels.metric_name().cmp(b.labels.metric_name()));
    }
    Ok(samples)
}

/// The newest sample; none when it is the end of the series: the formats have no word for that.
fn last_of(labels: &Labels, column: &Column) -> Option<Sample> {
    let float = column.times.last().copied();
    let histogram = column.histograms.last();
    let (timestamp_ms, value) = match (float, histogram) {
        (Some(at), Some((other, value))) if *other > at => (*other, Value::Histogram(Arc::clone(value))),
        (Some(at), _) => (at, Value::Float(*column.values.last()?)),
        (None, Some((at, value))) => (*at, Value::Histogram(Arc::clone(value))),
        (None, None) => return None,
    };
    let stale = match &value {
        Value::Float(value) => is_stale(*value),
        Value::Histogram(histogram) => histogram.is_stale(),
    };
    (!stale).then(|| Sample { labels: labels.clone(), timestamp_ms, value })
}

fn written(samples: &[Sample], external: &Labels, format: Format) -> Vec<u8> {
    let mut added: BTreeMap<&str, &str> = external.iter().collect();
    added.entry(INSTANCE).or_default();
    let mut writer = FederationWriter::new(format);
    let mut pairs = Vec::new();
    for sample in samples {
        let name = sample.labels.metric_name();
        if name.is_empty() {
            tracing::debug!(labels = %sample.labels, "a series without a name is not federated");
            continue;
        }
        pairs.clear();
        pairs.extend(sample.labels.iter().filter(|(name, _)| *name != METRIC_NAME));
        let missing = added.iter().filter(|(name, _)| sample.labels.get(name).is_none());
        pairs.extend(missing.map(|(name, value)| (*name, *value)));
        let value = match &sample.value {
            Value::Float(value) => Latest::Float(*value),
            Value::Histogram(histogram) => Latest::Histogram(histogram),
        };
        writer.sample(name, &pairs, sample.timestamp_ms, value);
    }
    writer.finish()
}
