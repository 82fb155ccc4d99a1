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
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stdx::clock::Clock;
use web::Caller;

use super::admin::{Administrator, Failure, changed, wrong};

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

/// What is said of a cluster.
#[derive(Debug, Clone, Copy)]
enum Word {
    /// Nothing is expected for a while.
    Pause,
    /// Rows are expected again.
    Resume,
    /// Nothing is expected any more.
    Retire,
}

/// The endpoints; they stand where callers are known.
pub(super) fn router(ledger: Arc<Ledger>, clock: Arc<dyn Clock>) -> Router {
    let door = |word: Word| post(move |State(hub): State<Lifecycle>, who, form| hub.say(word, who, form));
    Router::new()
        .route("/api/v1/admin/clusters/pause", door(Word::Pause))
        .route("/api/v1/admin/clusters/resume", door(Word::Resume))
        .route("/api/v1/admin/clusters/retire", door(Word::Retire))
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
    /// Writes down what an administrator says of a cluster.
    async fn say(
        self,
        word: Word,
        Administrator(caller): Administrator,
        Form(asked): Form<Asked>,
    ) -> Result<Response, Failure> {
        self.check(&caller, &asked)?;
        let now_ms = self.clock.now_ms();
        let until_ms = match word {
            Word::Pause => end_of_pause(&asked.until, now_ms)?,
            Word::Resume | Word::Retire => now_ms,
        };
        changed(move || {
            let (ledger, tenant, cluster) = (&self.ledger, &caller.tenant, &asked.cluster);
            let said = match word {
                Word::Pause => ledger.pause(tenant, cluster, now_ms, until_ms),
                Word::Resume => {
                    if !ledger.pauses(tenant, now_ms).iter().any(|pause| pause.cluster == *cluster) {
                        let what = format!("cluster {cluster:?} is not paused");
                        return Err(Failure(StatusCode::CONFLICT, what));
                    }
                    ledger.resume(tenant, cluster, now_ms)
                }
                Word::Retire => ledger.retire(tenant, cluster, now_ms),
            };
            said.map_err(|error| {
                Failure(StatusCode::SERVICE_UNAVAILABLE, format!("write it to the ledger: {error}"))
            })?;
            let (by, reason, until) = (&*caller.name, &asked.reason, shown(until_ms));
            Ok(match word {
                Word::Pause => {
                    tracing::info!(cluster, until, by, reason, "a cluster was paused");
                    json!({ "cluster": cluster, "until": until })
                }
                Word::Resume => {
                    tracing::info!(cluster, by, "a cluster was resumed");
                    json!({ "cluster": cluster })
                }
                Word::Retire => {
                    tracing::info!(cluster, by, reason, "a cluster was retired");
                    json!({ "cluster": cluster })
                }
            })
        })
        .await
    }

    /// Checks that the cluster is there for the caller.
    fn check(&self, caller: &Caller, asked: &Asked) -> Result<(), Failure> {
        if asked.reason.len() > REASON_BYTES_MAX {
            return Err(wrong(format!("a reason has at most {REASON_BYTES_MAX} bytes")));
        }
        let mut known = self.ledger.clusters(&caller.tenant);
        known.retain(|cluster| caller.sees_cluster(cluster));
        if known.contains(&asked.cluster) {
            return Ok(());
        }
        known.retain(|cluster| !cluster.is_empty());
        let shown = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        Err(Failure(
            StatusCode::NOT_FOUND,
            format!("there is no cluster {:?}; there is {shown}", asked.cluster),
        ))
    }
}

/// When a pause ends, if it may be that long.
fn end_of_pause(until: &str, now_ms: i64) -> Result<i64, Failure> {
    let until_ms = parse_time(until)?;
    if until_ms <= now_ms {
        return Err(wrong(format!("{} has passed", shown(until_ms))));
    }
    if until_ms - now_ms > PAUSE_MS_MAX {
        return Err(wrong("a pause lasts 31 days at most; `retire` is for clusters that do not come back"));
    }
    Ok(until_ms)
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
