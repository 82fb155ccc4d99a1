//! `/api/v1/admin/clusters/…` and `/api/v1/fleet/pauses`: of which clusters nothing is expected, by whose word.
//!
//! Forms in, JSON out; an error is `{error}`. What the ledger keeps is the cluster and the times; who said so, and
//! why, stands in the log.

use std::sync::Arc;

use ::ledger::Ledger;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stdx::clock::Clock;
use web::Caller;

use super::enrol::admin::{Failure, administrator, blocking, own_page, wrong};

/// Longest a cluster may be paused at once: a pause that is forgotten hides what breaks.
const PAUSE_MS_MAX: i64 = 31 * 24 * 3_600_000;
/// Longest reason, bytes.
const REASON_BYTES_MAX: usize = 500;

/// What the endpoints work with.
#[derive(Clone)]
struct Lifecycle {
    ledger: Arc<Ledger>,
    clock: Arc<dyn Clock>,
}

/// The endpoints; they stand where callers are known.
pub(super) fn router(ledger: Arc<Ledger>, clock: Arc<dyn Clock>) -> Router {
    Router::new()
        .route("/api/v1/admin/clusters/pause", post(pause))
        .route("/api/v1/admin/clusters/resume", post(resume))
        .route("/api/v1/admin/clusters/retire", post(retire))
        .route("/api/v1/fleet/pauses", get(pauses))
        .with_state(Lifecycle { ledger, clock })
}

/// What is to become of which cluster.
#[derive(Debug, Deserialize)]
struct Asked {
    cluster: String,
    /// End of a pause: RFC 3339, or seconds since the epoch.
    #[serde(default)]
    until: String,
    #[serde(default)]
    reason: String,
}

/// A pause, as `marigraph fleet` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    cluster: String,
    from: String,
    until: String,
}

impl Lifecycle {
    /// Checks that the caller may, and that the cluster is there.
    fn check(&self, caller: &Caller, headers: &HeaderMap, asked: &Asked) -> Result<(), Failure> {
        own_page(headers)?;
        administrator(caller)?;
        if asked.reason.len() > REASON_BYTES_MAX {
            return Err(wrong(format!("a reason has at most {REASON_BYTES_MAX} bytes")));
        }
        let mut known = self.ledger.clusters(&caller.tenant);
        known.retain(|cluster| caller.sees_cluster(cluster));
        if known.contains(&asked.cluster) {
            return Ok(());
        }
        let shown = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Failure(
            StatusCode::NOT_FOUND,
            format!("there is no cluster {:?}; there is {shown}", asked.cluster),
        ))
    }
}

async fn pause(
    State(hub): State<Lifecycle>,
    caller: Caller,
    headers: HeaderMap,
    Form(asked): Form<Asked>,
) -> Result<Response, Failure> {
    hub.check(&caller, &headers, &asked)?;
    let now_ms = hub.clock.now_ms();
    let until_ms = parse_time(&asked.until)?;
    if until_ms <= now_ms {
        return Err(wrong(format!("{} has passed", shown(until_ms))));
    }
    if until_ms - now_ms > PAUSE_MS_MAX {
        return Err(wrong("a pause lasts 31 days at most; `retire` is for clusters that do not come back"));
    }
    let done = blocking(move || {
        hub.ledger.pause(&caller.tenant, &asked.cluster, now_ms, until_ms).map_err(unwritten)?;
        let (cluster, until) = (asked.cluster, shown(until_ms));
        tracing::info!(cluster, until, by = &*caller.name, reason = asked.reason, "a cluster was paused");
        Ok(json!({ "cluster": cluster, "until": until }))
    });
    Ok(Json(done.await?).into_response())
}

async fn resume(
    State(hub): State<Lifecycle>,
    caller: Caller,
    headers: HeaderMap,
    Form(asked): Form<Asked>,
) -> Result<Response, Failure> {
    hub.check(&caller, &headers, &asked)?;
    let now_ms = hub.clock.now_ms();
    let done = blocking(move || {
        if !hub.ledger.pauses(&caller.tenant, now_ms).iter().any(|pause| pause.cluster == asked.cluster) {
            let what = format!("cluster {:?} is not paused", asked.cluster);
            return Err(Failure(StatusCode::CONFLICT, what));
        }
        hub.ledger.resume(&caller.tenant, &asked.cluster, now_ms).map_err(unwritten)?;
        tracing::info!(cluster = asked.cluster, by = &*caller.name, "a cluster was resumed");
        Ok(json!({ "cluster": asked.cluster }))
    });
    Ok(Json(done.await?).into_response())
}

async fn retire(
    State(hub): State<Lifecycle>,
    caller: Caller,
    headers: HeaderMap,
    Form(asked): Form<Asked>,
) -> Result<Response, Failure> {
    hub.check(&caller, &headers, &asked)?;
    let now_ms = hub.clock.now_ms();
    let done = blocking(move || {
        hub.ledger.retire(&caller.tenant, &asked.cluster, now_ms).map_err(unwritten)?;
        let cluster = asked.cluster;
        tracing::info!(cluster, by = &*caller.name, reason = asked.reason, "a cluster was retired");
        Ok(json!({ "cluster": cluster }))
    });
    Ok(Json(done.await?).into_response())
}

async fn pauses(State(hub): State<Lifecycle>, caller: Caller) -> Response {
    let mut pauses = hub.ledger.pauses(&caller.tenant, hub.clock.now_ms());
    pauses.retain(|pause| caller.sees_cluster(&pause.cluster));
    let shown: Vec<Shown> = pauses
        .into_iter()
        .map(|pause| Shown {
            cluster: pause.cluster,
            from: shown(pause.from_ms),
            until: shown(pause.until_ms),
        })
        .collect();
    Json(json!({ "status": "success", "data": shown })).into_response()
}

fn unwritten(error: std::io::Error) -> Failure {
    Failure(StatusCode::SERVICE_UNAVAILABLE, format!("write it to the ledger: {error}"))
}

fn parse_time(text: &str) -> Result<i64, Failure> {
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        return Ok((seconds * 1000.0) as i64);
    }
    let time: Timestamp = text
        .parse()
        .map_err(|_| wrong(format!("until: {text:?} is no time (RFC 3339, or seconds since the epoch)")))?;
    Ok(time.as_millisecond())
}

fn shown(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |time| time.to_string())
}
