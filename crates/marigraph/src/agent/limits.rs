//! Limits that hubs give this agent: checked, written down, in force until a higher revision comes, also
//! without a hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use axum::{Json, Router};
use http::StatusCode;
use parking_lot::Mutex;
use queue::Queue;
use serde_json::{Value, json};
use stdx::disk::{RealDisk, replace_private};
use tunnel::policy::Policy;

use crate::limits::{DOCUMENT_BYTES_MAX, LIMITS_PATH, LimitSet, LimitsDocument};
use crate::pull::Pull;

/// The document, within the data directory.
const FILE: &str = "limits.json";

/// What of an agent is limited.
pub(super) struct Limited {
    pub(super) pull: Arc<Pull>,
    /// What hubs may ask for.
    pub(super) policy: Policy,
    /// Of rows for hubs, where there is one.
    pub(super) queue: Option<Queue>,
}

impl Limited {
    /// Puts `limits` in force; what is not among them is as configured.
    fn apply(&self, limits: &LimitSet) -> Result<()> {
        self.pull.limit(limits.clone())?;
        self.policy.limit_at_once(limits.tunnel_requests_at_once());
        if let Some(queue) = &self.queue {
            queue.narrow(limits.queue_bytes(), limits.queue_age());
        }
        Ok(())
    }
}

/// The limits in force.
pub(super) struct CentralLimits {
    path: PathBuf,
    limited: Limited,
    held: Mutex<Option<LimitsDocument>>,
    /// Why the last document was not taken; empty when it was.
    refused: Mutex<String>,
}

impl CentralLimits {
    /// Opens what was in force when the agent last ran, and puts it in force again. A file that cannot be
    /// used is passed over: scraping without a hub's limits is better than not scraping, and hubs bring them
    /// again.
    pub(super) fn open(data: &Path, limited: Limited) -> Arc<CentralLimits> {
        let path = data.join(FILE);
        let mut refused = String::new();
        let held = read(&path).and_then(|held| {
            limited.apply(&held.as_ref().map(|held| held.limits.clone()).unwrap_or_default())?;
            Ok(held)
        });
        let held = held.unwrap_or_else(|error| {
            refused = format!("{}: {error:#}", path.display());
            tracing::error!("limits given by a hub cannot be put in force again: {refused}");
            None
        });
        if let Some(held) = &held {
            in_force(held);
        }
        Arc::new(CentralLimits { path, limited, held: Mutex::new(held), refused: Mutex::new(refused) })
    }

    /// Where hubs bring them.
    pub(super) fn door(self: &Arc<CentralLimits>) -> Router {
        let door = put(take).layer(DefaultBodyLimit::max(DOCUMENT_BYTES_MAX));
        Router::new().route(LIMITS_PATH, door).with_state(Arc::clone(self))
    }

    /// For the agent's status.
    pub(super) fn status(&self) -> Value {
        let refused = self.refused.lock().clone();
        match &*self.held.lock() {
            Some(held) => json!({ "in_force": held, "refused": refused }),
            None => json!({ "in_force": null, "refused": refused }),
        }
    }

    /// Takes a document; the error says why not.
    fn take(&self, bytes: &[u8]) -> Result<u64, (StatusCode, String)> {
        let wrong = |what: String| (StatusCode::BAD_REQUEST, what);
        let document: LimitsDocument = serde_json::from_slice(bytes)
            .map_err(|error| wrong(format!("no document of limits: {error}")))?;
        let limits: LimitSet = document.limits.clone().checked().map_err(wrong)?;
        let revision = document.revision;
        let mut held = self.held.lock();
        match &*held {
            // Sent again.
            Some(held) if *held == document => return Ok(revision),
            Some(held) if held.revision >= revision => {
                let what = format!("revision {} by {} is in force", held.revision, held.author);
                return Err((StatusCode::CONFLICT, what));
            }
            _ => {}
        }
        let failed = |what: String| (StatusCode::SERVICE_UNAVAILABLE, what);
        let bytes = serde_json::to_vec(&document).map_err(|error| failed(error.to_string()))?;
        self.limited.apply(&limits).map_err(|error| failed(format!("{error:#}")))?;
        if let Err(error) = replace_private(&RealDisk, &self.path, &bytes) {
            // What would not outlive a restart is not taken.
            let before = held.as_ref().map(|held| held.limits.clone()).unwrap_or_default();
            self.limited.apply(&before).map_err(|error| failed(format!("{error:#}")))?;
            return Err(failed(format!("write {}: {error}", self.path.display())));
        }
        in_force(&document);
        *held = Some(document);
        Ok(revision)
    }
}

fn read(path: &Path) -> Result<Option<LimitsDocument>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let held: LimitsDocument = serde_json::from_slice(&bytes)?;
    held.limits.clone().checked().map_err(anyhow::Error::msg)?;
    Ok(Some(held))
}

fn in_force(document: &LimitsDocument) {
    tracing::info!(
        revision = document.revision,
        author = document.author,
        limits = document.limits.words().join(" "),
        "limits given by a hub are in force"
    );
}

async fn take(State(limits): State<Arc<CentralLimits>>, body: Bytes) -> Response {
    let taken = tokio::task::block_in_place(|| limits.take(&body));
    match taken {
        Ok(revision) => {
            limits.refused.lock().clear();
            Json(json!({ "revision": revision })).into_response()
        }
        Err((status, what)) => {
            if status != StatusCode::CONFLICT {
                tracing::warn!(%status, "limits of a hub were not taken, those in force stay: {what}");
                limits.refused.lock().clone_from(&what);
            }
            (status, what).into_response()
        }
    }
}
