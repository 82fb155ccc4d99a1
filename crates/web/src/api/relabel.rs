//! How a pool's relabelling treats a target, rule by rule; and the pool's configuration.
//!
//! Source: Prometheus `web/api/v1/api.go`, `targetRelabelSteps`, `scrapePoolConfig`.

use std::collections::BTreeMap;

use axum::extract::State;
use model::relabel::{self, Rule};
use model::{Labels, LabelsBuilder};

use super::{ApiError, ApiResult, Reply};
use crate::App;
use crate::auth::Caller;
use crate::form::{Form, go_quoted};
use crate::json;
use crate::state::PoolConfig;

/// `/scrape_pools/config`
pub(super) async fn config(State(app): State<App>, caller: Caller, form: Form) -> ApiResult {
    let pool = required(&form, "scrapePool")?.to_owned();
    let shared = app.clone();
    let run = move || {
        let config = find(&shared, &caller, &pool)?;
        Ok(Reply::new(|out| {
            let mut data = json::Object::new(out);
            data.text("yaml", &config.yaml);
            data.end();
        }))
    };
    app.work.lookup(run).await
}

/// `/targets/relabel_steps`: `labels`, an object of JSON, as `scrapePool` would relabel them.
pub(super) async fn steps(State(app): State<App>, caller: Caller, form: Form) -> ApiResult {
    let pool = required(&form, "scrapePool")?.to_owned();
    let labels: BTreeMap<String, String> = serde_json::from_str(required(&form, "labels")?)
        .map_err(|why| ApiError::bad_data(format_args!("error parsing labels: {why}")))?;
    let shared = app.clone();
    let run = move || {
        let config = find(&shared, &caller, &pool)?;
        let steps = run_through(&config.relabel, &Labels::from_pairs(&labels));
        Ok(Reply::new(|out| {
            let mut data = json::Object::new(out);
            data.array("steps", config.relabel.iter().zip(&steps), |out, (rule, step)| {
                let mut entry = json::Object::new(out);
                write_rule(entry.field("rule"), rule);
                entry.labels("output", step.as_ref().unwrap_or(&Labels::empty()));
                entry.boolean("keep", step.is_some());
                entry.end();
            });
            data.end();
        }))
    };
    app.work.lookup(run).await
}

fn required<'f>(form: &'f Form, name: &str) -> Result<&'f str, ApiError> {
    match form.get(name) {
        "" => Err(ApiError::bad_data(format_args!("no {name} parameter provided"))),
        text => Ok(text),
    }
}

fn find(app: &App, caller: &Caller, pool: &str) -> Result<PoolConfig, ApiError> {
    app.state.targets.pool_config(&caller.tenant, pool).ok_or_else(|| {
        let why = format!("error retrieving scrape config: scrape pool {} not found", go_quoted(pool));
        ApiError::bad_data(why)
    })
}

/// The labels after each rule; none from the one on that drops the target.
fn run_through(rules: &[Rule], labels: &Labels) -> Vec<Option<Labels>> {
    let mut builder = LabelsBuilder::from_labels(labels);
    let mut keep = true;
    let step = |rule| {
        keep = keep && relabel::apply(std::slice::from_ref(rule), &mut builder);
        keep.then(|| builder.build())
    };
    rules.iter().map(step).collect()
}

fn write_rule(out: &mut Vec<u8>, rule: &Rule) {
    let spec = rule.spec();
    let mut entry = json::Object::new(out);
    if !spec.source_labels.is_empty() {
        json::texts(entry.field("source_labels"), &spec.source_labels);
    }
    entry.text("separator", &spec.separator);
    entry.text("regex", spec.regex.as_deref().unwrap_or("(.*)"));
    if spec.modulus != 0 {
        entry.integer("modulus", spec.modulus);
    }
    if !spec.target_label.is_empty() {
        entry.text("target_label", &spec.target_label);
    }
    entry.text("replacement", &spec.replacement);
    entry.text("action", spec.action.as_str());
    entry.end();
}
