//! `/api/v1/completeness`: what was expected, what is stored, what is missing and why. Ours; Prometheus has
//! no such endpoint.

use axum::extract::State;

use crate::App;
use crate::auth::Caller;
use crate::completeness::{CompletenessAsk, CompletenessBy, CompletenessReport, RowTally};
use crate::form::Form;
use crate::json;
use crate::reply::{ApiError, ApiResult, ErrorKind, Reply};

const HOUR_MS: i64 = 3_600_000;
/// Gaps that are listed when nothing is said of it, and at most.
const GAPS_DEFAULT: usize = 100;
const GAPS_MAX: usize = 10_000;

/// `/completeness`
pub(super) async fn completeness(State(app): State<App>, caller: Caller, form: Form) -> ApiResult {
    let mut ask = read(&form, app.state.clock.now_ms())?;
    ask.clusters = caller.clusters.to_vec();
    let Some(completeness) = app.state.completeness.clone() else {
        return Err(ApiError::new(ErrorKind::NotFound, "this program keeps no account of expected rows"));
    };
    let run = move || {
        let report = completeness.report(&caller.tenant, &ask);
        Ok(Reply::new(|out| write(out, &ask, &report)))
    };
    app.work.lookup(run).await
}

fn read(form: &Form, now_ms: i64) -> Result<CompletenessAsk, ApiError> {
    let end_ms = form.time_or("end", now_ms)?;
    let start_ms = form.time_or("start", end_ms.saturating_sub(HOUR_MS))?;
    if end_ms < start_ms {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    // An empty cluster is the hub's own; so whether it is there counts.
    let given = |name: &str| form.all(name).next().map(str::to_owned);
    let source = match form.get("source") {
        "" => None,
        text => Some(u128::from_str_radix(text, 16).map_err(|_| {
            ApiError::parameter("source", "an identity has 32 hexadecimal digits, as the answers show it")
        })?),
    };
    let by = match form.get("by") {
        "" | "cluster" => CompletenessBy::Cluster,
        "job" => CompletenessBy::Job,
        "source" => CompletenessBy::Source,
        other => {
            return Err(ApiError::parameter("by", format_args!("{other:?} is not cluster, job or source")));
        }
    };
    let gaps_max = super::optional_count(form, "limit")?.unwrap_or(GAPS_DEFAULT).min(GAPS_MAX);
    let (cluster, job) = (given("cluster"), given("job"));
    Ok(CompletenessAsk { cluster, clusters: Vec::new(), job, source, start_ms, end_ms, by, gaps_max })
}

fn write(out: &mut Vec<u8>, ask: &CompletenessAsk, report: &CompletenessReport) {
    let mut data = json::Object::new(out);
    data.time("start", Some(ask.start_ms));
    data.time("end", Some(ask.end_ms));
    let mut total = json::Object::new(data.field("total"));
    tally(&mut total, &report.total);
    total.end();
    data.array("groups", &report.groups, |out, group| {
        let mut entry = json::Object::new(out);
        entry.text("cluster", &group.cluster);
        if let Some(job) = &group.job {
            entry.text("job", job);
        }
        if let Some((source, labels)) = &group.source {
            entry.text("source", &format!("{source:032x}"));
            entry.labels("labels", labels);
        }
        tally(&mut entry, &group.tally);
        entry.end();
    });
    data.array("gaps", &report.gaps, |out, gap| {
        let mut entry = json::Object::new(out);
        entry.text("cluster", &gap.cluster);
        entry.text("job", &gap.job);
        entry.text("source", &format!("{:032x}", gap.source));
        entry.labels("labels", &gap.labels);
        entry.time("from", Some(gap.from_ms));
        entry.time("to", Some(gap.to_ms));
        entry.integer("rows", gap.rows);
        entry.text("reason", gap.reason);
        entry.end();
    });
    data.integer("gapsLeftOff", report.gaps_left_off);
    data.array("detailLost", &report.detail_lost, |out, (from_ms, to_ms)| {
        let mut entry = json::Object::new(out);
        entry.time("from", Some(*from_ms));
        entry.time("to", Some(*to_ms));
        entry.end();
    });
    data.array("pushed", &report.pushed, |out, pushed| {
        let mut entry = json::Object::new(out);
        entry.text("cluster", &pushed.cluster);
        entry.text("job", &pushed.job);
        entry.integer("received", pushed.received);
        entry.integer("stored", pushed.stored);
        entry.integer("cellsRefused", pushed.cells_refused);
        entry.time("silentSince", Some(pushed.silent_since_ms));
        entry.end();
    });
    data.array("agents", &report.agents, |out, agent| {
        let mut entry = json::Object::new(out);
        entry.text("cluster", &agent.cluster);
        entry.text("agent", &agent.agent);
        entry.boolean("silent", agent.silent);
        optional_time(&mut entry, "enrolled", agent.enrolled_ms);
        optional_time(&mut entry, "lastSeen", agent.seen_ms);
        entry.end();
    });
    data.end();
}

fn tally(entry: &mut json::Object<'_>, tally: &RowTally) {
    let sum = |list: &[(&str, u64)]| list.iter().map(|(_, rows)| rows).sum::<u64>();
    entry.integer("sources", tally.sources);
    entry.integer("silentSources", tally.silent_sources);
    entry.integer("expected", tally.expected);
    entry.integer("stored", tally.stored);
    entry.integer("partial", tally.partial);
    entry.integer("missing", sum(&tally.missing));
    entry.integer("unknown", sum(&tally.unknown));
    let mut reasons = json::Object::new(entry.field("reasons"));
    for (reason, rows) in tally.missing.iter().chain(&tally.unknown) {
        reasons.integer(reason, *rows);
    }
    reasons.end();
    entry.integer("cellsStored", tally.cells_stored);
    entry.integer("cellsLost", tally.cells_lost);
    match tally.percent {
        Some(percent) => entry.number("percent", percent),
        None => entry.null("percent"),
    }
    if let Some((between_ms, interval_ms, from_ms)) = tally.worst {
        let mut worst = json::Object::new(entry.field("worstInterval"));
        worst.number("seconds", between_ms as f64 / 1000.0);
        worst.number("configured", interval_ms as f64 / 1000.0);
        worst.time("from", Some(from_ms));
        worst.end();
    }
    optional_time(entry, "newest", tally.newest_ms);
}

fn optional_time(entry: &mut json::Object<'_>, name: &str, ms: Option<i64>) {
    match ms {
        Some(_) => entry.time(name, ms),
        None => entry.null(name),
    }
}
