//! Deletion, clean-up, snapshots; switched on by a flag.

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::{ApiError, ErrorKind, Reply, language, no_content};
use crate::App;
use crate::auth::Caller;
use crate::form::{Form, TIME_MAX_MS, TIME_MIN_MS, go_quoted};
use crate::json::Object;

fn check_enabled(app: &App) -> Result<(), ApiError> {
    if app.state.options.enable_admin_api {
        return Ok(());
    }
    Err(ApiError::new(ErrorKind::Unavailable, "admin APIs disabled"))
}

/// `/admin/tsdb/delete_series`. All selectors are read before anything is deleted.
pub(super) async fn delete_series(
    State(app): State<App>,
    caller: Caller,
    form: Form,
) -> Result<Response, ApiError> {
    check_enabled(&app)?;
    let texts: Vec<&str> = form.strict()?.all("match[]").collect();
    if texts.is_empty() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let start_ms = form.time_or("start", TIME_MIN_MS)?;
    let end_ms = form.time_or("end", TIME_MAX_MS)?;
    let mut sets = Vec::with_capacity(texts.len());
    for text in texts {
        sets.push(language::selector(text).map_err(|why| ApiError::parameter("match[]", why))?);
    }
    let admin = app.state.admin.clone();
    let run = move || {
        for matchers in sets {
            admin.delete_series(&caller.tenant, start_ms, end_ms, &matchers)?;
        }
        Ok(())
    };
    app.work.lookup(run).await?;
    Ok(no_content())
}

/// `/admin/tsdb/clean_tombstones`
pub(super) async fn clean_tombstones(State(app): State<App>, caller: Caller) -> Result<Response, ApiError> {
    check_enabled(&app)?;
    let admin = app.state.admin.clone();
    app.work.lookup(move || Ok(admin.clean_tombstones(&caller.tenant)?)).await?;
    Ok(no_content())
}

/// `/admin/tsdb/snapshot`. A snapshot that has been begun is finished, whether or not the client waits.
pub(super) async fn snapshot(
    State(app): State<App>,
    caller: Caller,
    form: Form,
) -> Result<Response, ApiError> {
    check_enabled(&app)?;
    let form = form.strict()?;
    let text = form.get("skip_head");
    let skip_head = parse_bool(text).ok_or_else(|| {
        let why = format!(
            "unable to parse boolean 'skip_head' argument: strconv.ParseBool: parsing {}: invalid syntax",
            go_quoted(text)
        );
        ApiError::parameter("skip_head", why)
    })?;
    let admin = app.state.admin.clone();
    let name = app.work.lookup(move || Ok(admin.snapshot(&caller.tenant, skip_head)?)).await?;
    let write = |out: &mut Vec<u8>| {
        let mut data = Object::new(out);
        data.text("name", &name);
        data.end();
    };
    Ok(Reply::new(write).into_response())
}

/// Source: Go `strconv.ParseBool`; nothing is false.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
