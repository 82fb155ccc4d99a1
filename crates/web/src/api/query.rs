//! Queries: evaluate, format, and exemplars.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use http::Method;
use http::request::Parts;
use model::number;
use promql::answer::{Answer, EvalError, Stats, StepStats, Timings};
use promql::engine::QueryOptions;
use storage::{Missing, Queryable, Request, SeriesExemplars};

use super::{ApiError, ApiResult, Reply, language, no_content, tree};
use crate::App;
use crate::auth::Caller;
use crate::completeness::{self, IncompleteTime, Noting};
use crate::form::{Form, TIME_MAX_MS, TIME_MIN_MS, go_quoted};
use crate::json;
use crate::query_log::{ClientAddress, Logged};
use crate::state::WebState;
use crate::work::{self, Patience};

/// Most steps of a range query: a week by the minute, or a year by the hour.
const STEPS_MAX: i64 = 11_000;
const NS_PER_MS: i64 = 1_000_000;

/// Where a query comes from, for the query log.
pub(super) struct Origin {
    client: Option<IpAddr>,
    method: Method,
    path: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Origin, Infallible> {
        let client = parts.extensions.get::<ClientAddress>().map(|client| client.0);
        Ok(Origin { client, method: parts.method.clone(), path: parts.uri.path().to_owned() })
    }
}

/// `/query`
pub(super) async fn instant(State(app): State<App>, caller: Caller, origin: Origin, form: Form) -> ApiResult {
    let limit = form.limit()?;
    let at_ms = form.time_or("time", app.state.clock.now_ms())?;
    let asked = Asked::read(&form, limit, Span { start_ms: at_ms, end_ms: at_ms, step_ms: 0 }, origin)?;
    let (engine, tenant) = (app.state.engine.clone(), caller.tenant.clone());
    let evaluate = move |store: &dyn Queryable, query: &str, options: &QueryOptions| {
        engine.instant(store, &tenant, query, at_ms, options)
    };
    asked.answer(&app, caller, evaluate).await
}

/// `/query_range`
pub(super) async fn range(State(app): State<App>, caller: Caller, origin: Origin, form: Form) -> ApiResult {
    let limit = form.limit()?;
    let start_ms = form.time("start")?;
    let end_ms = form.time("end")?;
    if end_ms < start_ms {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let step_ms = step_ms(&form, end_ms.saturating_sub(start_ms))?;
    let asked = Asked::read(&form, limit, Span { start_ms, end_ms, step_ms }, origin)?;
    let (engine, tenant) = (app.state.engine.clone(), caller.tenant.clone());
    let evaluate = move |store: &dyn Queryable, query: &str, options: &QueryOptions| {
        engine.range(store, &tenant, query, start_ms, end_ms, step_ms, options)
    };
    asked.answer(&app, caller, evaluate).await
}

/// The step of a range of `span_ms`, milliseconds, at least 1.
fn step_ms(form: &Form, span_ms: i64) -> Result<i64, ApiError> {
    let step_ns = form.duration_ns("step")?;
    if step_ns <= 0 {
        let why = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(ApiError::parameter("step", why));
    }
    if span_ms.saturating_mul(NS_PER_MS) / step_ns > STEPS_MAX {
        let why = "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
        return Err(ApiError::bad_data(why));
    }
    Ok((step_ns / NS_PER_MS).max(1))
}

/// The times of a query, milliseconds; the step of an instant query is 0.
struct Span {
    start_ms: i64,
    end_ms: i64,
    step_ms: i64,
}

/// What a query asks for.
struct Asked {
    query: String,
    span: Span,
    origin: Origin,
    limit: usize,
    timeout: Option<Duration>,
    lookback_ms: Option<i64>,
    missing: Missing,
    /// `stats`, as written.
    stats: String,
}

impl Asked {
    fn read(form: &Form, limit: usize, span: Span, origin: Origin) -> Result<Asked, ApiError> {
        let timeout = form.timeout()?;
        let lookback_ms = match form.get("lookback_delta") {
            "" => None,
            text => {
                let ns = crate::form::parse_duration_ns(text).map_err(|why| {
                    ApiError::bad_data(format_args!("error parsing lookback delta duration: {why}"))
                })?;
                // what is not positive stands for the default, as in Prometheus
                Some(ns / NS_PER_MS).filter(|ms| *ms > 0)
            }
        };
        let (query, stats) = (form.get("query").to_owned(), form.get("stats").to_owned());
        let missing = form.missing()?;
        Ok(Asked { query, span, origin, limit, timeout, lookback_ms, missing, stats })
    }

    /// Evaluates and writes the answer, on a thread of its own.
    async fn answer(
        self,
        app: &App,
        caller: Caller,
        evaluate: impl FnOnce(&dyn Queryable, &str, &QueryOptions) -> Result<Answer, EvalError> + Send + 'static,
    ) -> ApiResult {
        let state = app.state.clone();
        let timeout_max = app.state.engine.options().timeout;
        let timeout = self.timeout.map_or(timeout_max, |asked| asked.min(timeout_max));
        let run = move |left, cancel| {
            let options = QueryOptions {
                lookback_ms: self.lookback_ms,
                timeout: Some(left),
                cancel,
                per_step_stats: self.stats == "all",
                limit: self.limit,
            };
            let active = state.active_queries.begin(&self.query, state.clock.now_ms());
            let gone = Some(work::gone(&options.cancel));
            let samples_max = Some(state.engine.options().max_samples);
            let request = Request { missing: self.missing, time_left: Some(left), gone, samples_max };
            let view = caller.view_for(&state.store, &request);
            let evaluate = |store: &dyn Queryable| evaluate(store, &self.query, &options);
            let (outcome, touched) = noting(&state, &caller, &*view, evaluate);
            drop(active);
            let queued = timeout.saturating_sub(left);
            self.log(&state, &outcome, queued);
            let mut answer = outcome?;
            answer.warnings.extend(stats_warning(&self.stats));
            let (infos, header) = completeness::marks(&touched);
            answer.infos.extend(infos);
            Ok(reply(answer, !self.stats.is_empty(), queued).incomplete(header))
        };
        app.work.query(timeout, run).await
    }

    /// Writes a line of the query log; not of what was refused before it was evaluated.
    fn log(&self, state: &WebState, outcome: &Result<Answer, EvalError>, queued: Duration) {
        if !state.query_log.is_on() || matches!(outcome, Err(EvalError::Parse(_) | EvalError::BadRequest(_)))
        {
            return;
        }
        let Span { start_ms, end_ms, step_ms } = self.span;
        state.query_log.write(&Logged {
            now_ms: state.clock.now_ms(),
            query: &self.query,
            start_ms,
            end_ms,
            step_ms,
            error: outcome.as_ref().err().map(ToString::to_string),
            stats: outcome.as_ref().map_or(&Stats::default(), |answer| &answer.stats),
            queued,
            client: self.origin.client,
            method: self.origin.method.as_str(),
            path: &self.origin.path,
        });
    }
}

/// Evaluates what the caller may see, and finds the gaps that the selected data touches. Costs nothing
/// while there are none.
fn noting(
    state: &WebState,
    caller: &Caller,
    view: &dyn Queryable,
    evaluate: impl FnOnce(&dyn Queryable) -> Result<Answer, EvalError>,
) -> (Result<Answer, EvalError>, Vec<IncompleteTime>) {
    let tenant = &caller.tenant;
    let Some(completeness) = state.completeness.as_ref().filter(|known| known.has_gaps(tenant)) else {
        return (evaluate(view), Vec::new());
    };
    let store = Noting::new(view);
    let outcome = evaluate(&store);
    let mut touched = match outcome {
        Ok(_) => completeness.touched(tenant, &store.selected()),
        Err(_) => Vec::new(),
    };
    touched.retain(|one| caller.sees_cluster(&one.cluster));
    (outcome, touched)
}

/// Source: Prometheus `web/api/v1/api.go`, `statsParamWarning`.
fn stats_warning(stats: &str) -> Option<String> {
    match stats {
        "" | "true" | "all" => None,
        other => Some(format!(
            "value {} for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or \"all\"",
            go_quoted(other)
        )),
    }
}

fn reply(answer: Answer, with_stats: bool, queued: Duration) -> Reply {
    let reply = Reply::new(|out| {
        out.push(b'{');
        json::value::result(out, &answer.value);
        if with_stats {
            out.extend_from_slice(b",\"stats\":");
            write_stats(out, &answer.stats, queued);
        }
        out.push(b'}');
    });
    reply.annotated(answer.warnings, answer.infos)
}

/// Source: Prometheus `util/stats/query_stats.go`, `BuiltinStats`.
pub(crate) fn write_stats(out: &mut Vec<u8>, stats: &Stats, queued: Duration) {
    let Timings { parse: _, prepare, inner_eval, result_sort, total } = stats.timings;
    let mut all = json::Object::new(out);
    let mut timings = json::Object::new(all.field("timings"));
    timings.number("evalTotalTime", (prepare + inner_eval + result_sort).as_secs_f64());
    timings.number("resultSortTime", result_sort.as_secs_f64());
    timings.number("queryPreparationTime", prepare.as_secs_f64());
    timings.number("innerEvalTime", inner_eval.as_secs_f64());
    timings.number("execQueueTime", queued.as_secs_f64());
    timings.number("execTotalTime", (total + queued).as_secs_f64());
    timings.end();
    let mut samples = json::Object::new(all.field("samples"));
    let per_step = |samples: &mut json::Object<'_>, name: &str, count: fn(&StepStats) -> u64| {
        if !stats.per_step.is_empty() {
            samples.array(name, &stats.per_step, |out, step| write_step(out, step.t_ms, count(step)));
        }
    };
    per_step(&mut samples, "totalQueryableSamplesPerStep", |step| step.queryable_samples);
    samples.integer("totalQueryableSamples", stats.total_queryable_samples);
    per_step(&mut samples, "samplesReadPerStep", |step| step.samples_read);
    samples.integer("samplesRead", stats.samples_read);
    samples.integer("peakSamples", stats.peak_samples);
    samples.end();
    all.end();
}

/// `[seconds,count]`
fn write_step(out: &mut Vec<u8>, t_ms: i64, count: u64) {
    out.push(b'[');
    number::append_json(out, t_ms as f64 / 1000.0);
    out.push(b',');
    json::integer(out, count);
    out.push(b']');
}

/// `/format_query`
pub(super) async fn format(State(app): State<App>, form: Form) -> ApiResult {
    let shared = app.clone();
    let run = move || {
        let expr = language::expression(&shared, form.get("query"))
            .map_err(|why| ApiError::parameter("query", why))?;
        Ok(Reply::new(|out| json::text(out, &promql::printer::pretty(&expr))))
    };
    app.work.lookup(run).await
}

/// `/parse_query`
pub(super) async fn parse(State(app): State<App>, form: Form) -> ApiResult {
    let shared = app.clone();
    let run = move || {
        let expr = language::expression(&shared, form.get("query"))
            .map_err(|why| ApiError::parameter("query", why))?;
        Ok(Reply::new(|out| tree::write(out, &expr)))
    };
    app.work.lookup(run).await
}

/// `/query_exemplars`: of every series that the expression selects, whatever it does with them.
pub(super) async fn exemplars(
    State(app): State<App>,
    caller: Caller,
    form: Form,
) -> Result<Response, ApiError> {
    let start_ms = form.time_or("start", TIME_MIN_MS)?;
    let end_ms = form.time_or("end", TIME_MAX_MS)?;
    if end_ms < start_ms {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let (shared, missing) = (app.clone(), form.missing()?);
    let run = move |patience: &Patience| {
        let expr = language::expression(&shared, form.get("query")).map_err(ApiError::bad_data)?;
        let selectors = language::selectors_of(&expr);
        if selectors.is_empty() {
            return Ok(None);
        }
        let store = caller.view_for(&shared.state.store, &patience.request(missing));
        let found = store.exemplars_of(&caller.tenant, start_ms, end_ms, &selectors)?;
        let reply = Reply::new(|out| json::array(out, &found.values, write_exemplars));
        Ok(Some(reply.annotated(found.warnings, Vec::new())))
    };
    Ok(app.work.search(run).await?.map_or_else(no_content, Reply::into_response))
}

/// Source: Prometheus `model/exemplar/exemplar.go`, `QueryResult`; `web/api/v1/json_codec.go`.
fn write_exemplars(out: &mut Vec<u8>, of: &SeriesExemplars) {
    let mut entry = json::Object::new(out);
    entry.labels("seriesLabels", &of.series);
    entry.array("exemplars", &of.exemplars, |out, exemplar| {
        let mut entry = json::Object::new(out);
        entry.labels("labels", &exemplar.labels);
        json::value::quoted_float(entry.field("value"), exemplar.value);
        number::append_timestamp(entry.field("timestamp"), exemplar.timestamp_ms);
        entry.end();
    });
    entry.end();
}
