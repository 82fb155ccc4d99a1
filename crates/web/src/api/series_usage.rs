//! `/api/v1/status/series`: who makes how many series, against what each may make. Ours; Prometheus
//! has no such endpoint.

use axum::extract::State;

use crate::App;
use crate::auth::Caller;
use crate::form::Form;
use crate::json;
use crate::reply::{ApiResult, Reply};
use crate::state::{SeriesMaker, SeriesUsage};

const LIMIT_DEFAULT: usize = 10;
const LIMIT_MAX: usize = 10_000;

/// `/status/series`
pub(super) async fn series(State(app): State<App>, caller: Caller, form: Form) -> ApiResult {
    let limit = super::entry_limit(&form, LIMIT_DEFAULT, LIMIT_MAX)?;
    let admin = app.state.admin.clone();
    let run = move || {
        let usage = admin.series_usage(&caller.tenant, limit);
        Ok(Reply::new(|out| write(out, &usage)))
    };
    app.work.lookup(run).await
}

fn write(out: &mut Vec<u8>, usage: &SeriesUsage) {
    let mut data = json::Object::new(out);
    data.integer("series", usage.series);
    let mut limits = json::Object::new(data.field("limits"));
    limits.integer("tenant", usage.tenant_max);
    // As in the configuration: 0 is no limit.
    limits.integer("source", usage.source_max.unwrap_or(0));
    limits.integer("job", usage.job_max.unwrap_or(0));
    limits.end();
    for (name, makers) in [("sources", &usage.sources), ("jobs", &usage.jobs)] {
        data.array(name, makers, |out, SeriesMaker { labels, series, refused }| {
            let mut entry = json::Object::new(out);
            entry.labels("labels", labels);
            entry.integer("series", *series);
            entry.integer("refused", *refused);
            entry.end();
        });
    }
    data.end();
}
