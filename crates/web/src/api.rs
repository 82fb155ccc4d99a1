//! `/api/v1`: Prometheus' HTTP API, byte for byte.
//!
//! Every handler reads its [`Form`], works on a thread that may block, and writes its answer straight
//! into the body of a [`Reply`].
//!
//! Source: Prometheus `web/api/v1/api.go`.

mod admin;
mod completeness;
mod features;
mod labels;
mod language;
mod metadata;
mod notices;
mod openapi;
mod query;
mod relabel;
mod rules;
mod self_metrics;
mod series_usage;
mod status;
mod targets;
mod tree;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

pub(crate) use language::selector;
pub(crate) use query::write_stats;
pub(crate) use status::write_build;

use crate::App;
use crate::auth::{Caller, Role, is_cross_site};
use crate::form::Form;
use crate::reply::{ApiError, ApiResult, ErrorKind, Reply};
use crate::state::Readiness;
use crate::table::Table;

/// The warning of answers that `limit` cut.
const TRUNCATED: &str = "results truncated due to limit";

/// The routes below `/api/v1`.
pub(crate) fn table(app: &App) -> Table {
    let read = Table::new()
        .form("/api/v1/query", query::instant)
        .form("/api/v1/query_range", query::range)
        .form("/api/v1/query_exemplars", query::exemplars)
        .form("/api/v1/format_query", query::format)
        .form("/api/v1/parse_query", query::parse)
        .form("/api/v1/labels", labels::names)
        .get("/api/v1/label/{name}/values", labels::values)
        .form("/api/v1/series", labels::series)
        .get("/api/v1/metadata", metadata::by_metric)
        .get("/api/v1/targets", targets::targets)
        .get("/api/v1/targets/metadata", metadata::by_target)
        .get("/api/v1/targets/relabel_steps", relabel::steps)
        .get("/api/v1/completeness", completeness::completeness)
        .get("/api/v1/scrape_pools", targets::scrape_pools)
        .get("/api/v1/scrape_pools/config", relabel::config)
        .get("/api/v1/rules", rules::rules)
        .get("/api/v1/alerts", rules::alerts)
        .get("/api/v1/alertmanagers", rules::alertmanagers)
        .get("/api/v1/notifications", notices::list)
        .get("/api/v1/notifications/live", notices::live)
        .get("/api/v1/features", features::features)
        .get("/api/v1/openapi.yaml", openapi::document)
        .get("/api/v1/status/config", status::config)
        .get("/api/v1/status/flags", status::flags)
        .get("/api/v1/status/buildinfo", status::build)
        .get("/api/v1/status/runtimeinfo", status::runtime)
        .get("/api/v1/status/self_metrics", self_metrics::self_metrics)
        .get("/api/v1/status/tsdb", status::tsdb)
        .get("/api/v1/status/tsdb/blocks", status::blocks)
        .get("/api/v1/status/series", series_usage::series)
        .get("/api/v1/status/walreplay", status::wal_replay)
        .around(|routes| for_readers(app, routes));
    let admin = Table::new()
        .change("/api/v1/admin/tsdb/delete_series", admin::delete_series)
        .change("/api/v1/admin/tsdb/clean_tombstones", admin::clean_tombstones)
        .change("/api/v1/admin/tsdb/snapshot", admin::snapshot)
        .around(|routes| routes.route_layer(middleware::from_fn_with_state(app.clone(), admins_when_ready)));
    read.merge(admin).around(in_json)
}

/// Lets those in who may read, once there is something to read.
pub(crate) fn for_readers(app: &App, routes: Router<App>) -> Router<App> {
    routes.route_layer(middleware::from_fn_with_state(app.clone(), readers_when_ready))
}

/// What all of the API has in common: wrong methods are told in JSON, and pages from elsewhere may read.
pub(crate) fn in_json(routes: Router<App>) -> Router<App> {
    routes.method_not_allowed_fallback(method_not_allowed).layer(middleware::from_fn(cors))
}

async fn readers_when_ready(
    State(app): State<App>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    when_ready(app, &caller, Role::Read, request, next).await
}

async fn admins_when_ready(State(app): State<App>, caller: Caller, request: Request, next: Next) -> Response {
    if is_cross_site(request.headers()) {
        return ApiError::new(ErrorKind::Forbidden, "not for pages of other sites").into_response();
    }
    when_ready(app, &caller, Role::Admin, request, next).await
}

async fn when_ready(app: App, caller: &Caller, needed: Role, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or(request.uri().path(), MatchedPath::as_str);
    let mut allowed = caller.require(needed);
    if needed == Role::Read {
        allowed = allowed.and_then(|()| caller.require_sight(path));
    }
    if let Err(error) = allowed {
        return error.into_response();
    }
    match app.state.lifecycle.readiness() {
        // a store that no longer writes still answers
        Readiness::Ready | Readiness::ReadOnly(_) => next.run(request).await,
        not_ready => crate::health::unavailable(&not_ready),
    }
}

/// Lets pages from elsewhere read answers, as Prometheus does by default (`--web.cors.origin=.*`).
///
/// Source: Prometheus `util/httputil/cors.go`.
async fn cors(request: Request, next: Next) -> Response {
    const HEADERS: [(HeaderName, &str); 4] = [
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Authorization, Content-Type, Origin"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    let from_elsewhere = request.headers().contains_key(header::ORIGIN);
    // a browser asks first whether it may send what is not a plain form
    let mut response =
        if request.method() == Method::OPTIONS { no_content() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if from_elsewhere {
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

async fn method_not_allowed(request: Request) -> ApiError {
    let message = format!("{} is not allowed for {}", request.method(), request.uri().path());
    ApiError::new(ErrorKind::MethodNotAllowed, message)
}

/// What answers below `/api/` where there is no endpoint.
pub(crate) async fn not_found(request: Request) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("no such endpoint: {}", request.uri().path()))
}

/// Cuts `items` to `limit` (0 for none), and says so in `warnings`.
fn truncate<T>(items: &mut Vec<T>, limit: usize, warnings: &mut Vec<String>) {
    if limit > 0 && items.len() > limit {
        items.truncate(limit);
        warnings.push(TRUNCATED.into());
    }
}

/// A whole-number parameter that may be absent, with the words Prometheus has for metadata limits.
fn optional_count(form: &Form, name: &str) -> Result<Option<usize>, ApiError> {
    match form.get(name) {
        "" => Ok(None),
        text => match crate::form::parse_integer(text) {
            Ok(number) => Ok(usize::try_from(number).ok()),
            Err(_) => Err(ApiError::bad_data(format_args!("{name} must be a number"))),
        },
    }
}

/// `limit` of the lists of a status page: 1 to `max`.
fn entry_limit(form: &Form, default: usize, max: usize) -> Result<usize, ApiError> {
    match form.get("limit") {
        "" => Ok(default),
        text => match crate::form::parse_integer(text).ok().and_then(|limit| usize::try_from(limit).ok()) {
            None | Some(0) => Err(ApiError::bad_data("limit must be a positive number")),
            Some(limit) if limit > max => {
                Err(ApiError::bad_data(format_args!("limit must not exceed {max}")))
            }
            Some(limit) => Ok(limit),
        },
    }
}

/// No content: what Prometheus answers where there is no data at all.
fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
