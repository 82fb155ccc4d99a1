//! `/-/`: probes, reload, end; and `/version`.
//!
//! Source: Prometheus `web/web.go`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::App;
use crate::api::write_build;
use crate::auth::{Caller, Role, is_cross_site};
use crate::state::Readiness;
use crate::table::Table;

pub(crate) fn table() -> Table {
    const ANY: [&str; 3] = ["GET", "POST", "PUT"];
    Table::new()
        .get("/-/healthy", async || "Marigraph is Healthy.\n")
        .get("/-/ready", ready)
        .with("/-/reload", &ANY, get(post_only).post(reload).put(reload))
        .with("/-/quit", &ANY, get(post_only).post(quit).put(quit))
        .get("/version", version)
}

async fn ready(State(app): State<App>) -> Response {
    match app.state.lifecycle.readiness() {
        Readiness::Ready => ready_but(app.state.lifecycle.refused_tenants()).into_response(),
        not_ready => unavailable(&not_ready),
    }
}

/// Everybody may ask: who is refused is for the log, the metrics and the tenants themselves.
fn ready_but(refused: usize) -> String {
    let but = match refused {
        0 => String::new(),
        1 => "1 tenant is refused as its data cannot be read: see the log and /metrics.\n".to_owned(),
        many => {
            format!("{many} tenants are refused as their data cannot be read: see the log and /metrics.\n")
        }
    };
    format!("Marigraph is Ready.\n{but}")
}

/// 503 with the reason.
pub(crate) fn unavailable(readiness: &Readiness) -> Response {
    let why = match readiness {
        Readiness::Ready => String::new(),
        Readiness::Starting(doing) => format!(": starting: {doing}"),
        Readiness::ReadOnly(why) => format!(": the store is read-only: {why}"),
        Readiness::Stopping => ": stopping".into(),
    };
    let stopping = if *readiness == Readiness::Stopping { "true" } else { "false" };
    let body = format!("Service Unavailable{why}\n");
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    response.headers_mut().insert("x-prometheus-stopping", HeaderValue::from_static(stopping));
    response
}

async fn post_only() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "Only POST or PUT requests allowed")
}

/// The answer to somebody who may not end or reload the program.
fn refused(app: &App, caller: &Caller, headers: &HeaderMap) -> Option<Response> {
    if is_cross_site(headers) {
        return Some((StatusCode::FORBIDDEN, "not for pages of other sites").into_response());
    }
    if !app.state.options.enable_lifecycle {
        return Some((StatusCode::FORBIDDEN, "Lifecycle API is not enabled.").into_response());
    }
    let allowed = caller.require(Role::Admin).and_then(|()| caller.require_sight("/-/"));
    allowed.err().map(|error| (StatusCode::FORBIDDEN, error.message).into_response())
}

async fn reload(State(app): State<App>, caller: Caller, headers: HeaderMap) -> Response {
    if let Some(refusal) = refused(&app, &caller, &headers) {
        return refusal;
    }
    let lifecycle = app.state.lifecycle.clone();
    match app.work.lookup(move || Ok(lifecycle.reload())).await {
        Ok(Ok(())) => StatusCode::OK.into_response(),
        Ok(Err(why)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {why}\n")).into_response()
        }
        Err(error) => error.into_response(),
    }
}

async fn quit(State(app): State<App>, caller: Caller, headers: HeaderMap) -> Response {
    if let Some(refusal) = refused(&app, &caller, &headers) {
        return refusal;
    }
    app.state.lifecycle.quit();
    "Requesting termination... Goodbye!".into_response()
}

async fn version(State(app): State<App>) -> Response {
    let mut body = Vec::new();
    write_build(&mut body, &app.state.options.build);
    body.push(b'\n');
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
