//! What metrics say of themselves: by name, and by target.

use std::sync::Arc;

use axum::extract::State;
use model::{Labels, Metadata};

use super::{ApiError, ApiResult, Reply, language, optional_count};
use crate::App;
use crate::auth::Caller;
use crate::form::Form;
use crate::json;
use crate::work::Patience;

/// `/metadata`
pub(super) async fn by_metric(State(app): State<App>, caller: Caller, form: Form) -> ApiResult {
    let limit = optional_count(&form, "limit")?.unwrap_or(usize::MAX);
    let per_metric =
        optional_count(&form, "limit_per_metric")?.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let metric = Some(form.get("metric").to_owned()).filter(|metric| !metric.is_empty());
    let (store, missing) = (Arc::clone(&app.state.store), form.missing()?);
    let run = move |patience: &Patience| {
        let store = caller.view_for(&store, &patience.request(missing));
        let found = store.metadata(&caller.tenant, metric.as_deref())?;
        Ok(Reply::new(|out| {
            let mut metrics = json::Object::new(out);
            for (name, statements) in found.values.iter().take(limit) {
                metrics.array(name, statements.iter().take(per_metric), |out, metadata| {
                    let mut entry = json::Object::new(out);
                    entry.text("type", metadata.metric_type.as_str());
                    entry.text("unit", &metadata.unit);
                    entry.text("help", &metadata.help);
                    entry.end();
                });
            }
            metrics.end();
        })
        .annotated(found.warnings, Vec::new()))
    };
    app.work.search(run).await
}

/// `/targets/metadata`
pub(super) async fn by_target(State(app): State<App>, caller: Caller, form: Form) -> ApiResult {
    let limit = optional_count(&form, "limit")?.unwrap_or(usize::MAX);
    let metric = Some(form.get("metric").to_owned()).filter(|metric| !metric.is_empty());
    let targets = app.state.targets.clone();
    let run = move || {
        let matchers = match form.get("match_target") {
            "" => Vec::new(),
            selector => {
                language::selector(selector).map_err(|why| ApiError::parameter("match_target", why))?
            }
        };
        let mut found = targets.metadata(&caller.tenant, metric.as_deref());
        found.retain(|entry| {
            matchers.iter().all(|m| m.matches(entry.target.get(&m.name).unwrap_or_default()))
        });
        // a target begun within the limit is told to its end
        let mut target: Option<&Labels> = None;
        let mut kept = 0;
        for entry in &found {
            if target != Some(&entry.target) && kept >= limit {
                break;
            }
            target = Some(&entry.target);
            kept += 1;
        }
        let name_needed = metric.is_none();
        Ok(Reply::new(|out| {
            json::array(out, &found[..kept], |out, entry| {
                write_entry(
                    out,
                    &entry.target,
                    name_needed.then_some(entry.metric.as_str()),
                    &entry.metadata,
                );
            });
        }))
    };
    app.work.lookup(run).await
}

fn write_entry(out: &mut Vec<u8>, target: &Labels, metric: Option<&str>, metadata: &Metadata) {
    let mut entry = json::Object::new(out);
    entry.labels("target", target);
    if let Some(metric) = metric {
        entry.text("metric", metric);
    }
    entry.text("type", metadata.metric_type.as_str());
    entry.text("help", &metadata.help);
    entry.text("unit", &metadata.unit);
    entry.end();
}
