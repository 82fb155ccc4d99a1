//! What a hub may ask through the tunnel: the targets, one target's page, the agent's own API.
//!
//! | path | what |
//! |---|---|
//! | `GET /tunnel/v1/targets` | what is scraped here, as JSON |
//! | `GET /tunnel/v1/scrape/<id>` | one target's page, passed on |
//! | `GET /tunnel/v1/status` | how the agent does |
//! | `/api/v1/*`, `/federate` | the agent's own API, for readers |
//!
//! Everything else is refused, and so is every other method than GET but where the API reads by POST.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use model::SourceId;
use model::status::ActiveTarget;
use scrape::client::FetchError;
use scrape::{Manager, RelayError};
use serde::{Deserialize, Serialize};

/// Where a hub asks for the targets.
pub(crate) const TARGETS_PATH: &str = "/tunnel/v1/targets";
/// Where a hub asks for one target's page.
pub(crate) const SCRAPE_PATH: &str = "/tunnel/v1/scrape/";
/// Where a hub asks how the agent does.
pub(crate) const STATUS_PATH: &str = "/tunnel/v1/status";

/// The header in which Prometheus announces its patience.
const PATIENCE: &str = "x-prometheus-scrape-timeout-seconds";
/// The patience of those who announce none.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(30);

/// Headers of a target's answer that are passed on.
const PASSED_ON: [header::HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::LAST_MODIFIED, header::ETAG];

/// A target as the hub hears of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TargetLine {
    /// Its name in requests: the identity of its rows, 32 hexadecimal digits.
    pub(crate) id: String,
    /// The job.
    pub(crate) pool: String,
    /// Labels before relabelling.
    pub(crate) discovered: Vec<(String, String)>,
    /// Labels after it.
    pub(crate) labels: Vec<(String, String)>,
    /// The URL, without credentials.
    pub(crate) url: String,
    /// `up`, `down` or `unknown`.
    pub(crate) health: String,
    /// The error of the last scrape; empty when it succeeded.
    pub(crate) last_error: String,
    /// When the last scrape began, milliseconds since the epoch; 0 for none yet.
    pub(crate) last_scrape_ms: i64,
    /// How long it took.
    pub(crate) last_scrape_seconds: f64,
    /// Milliseconds from scrape to scrape.
    pub(crate) interval_ms: i64,
    /// Milliseconds a scrape may take.
    pub(crate) timeout_ms: i64,
}

impl From<ActiveTarget> for TargetLine {
    fn from(target: ActiveTarget) -> TargetLine {
        let pairs = |labels: &model::Labels| {
            labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        TargetLine {
            id: target.id.to_string(),
            pool: target.scrape_pool,
            discovered: pairs(&target.discovered_labels),
            labels: pairs(&target.labels),
            url: target.scrape_url,
            health: target.health.as_str().to_owned(),
            last_error: target.last_error,
            last_scrape_ms: target.last_scrape_ms,
            last_scrape_seconds: target.last_scrape_duration_seconds,
            interval_ms: target.scrape_interval_ms,
            timeout_ms: target.scrape_timeout_ms,
        }
    }
}

/// What a hub's requests work on.
#[derive(Clone)]
pub(super) struct Reachable {
    /// Has the targets.
    pub(super) scraper: Arc<Manager>,
    /// Tells how the agent does.
    pub(super) status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

/// The routes of a tunnel; `api` answers what is the agent's own API.
pub(super) fn router(reachable: Reachable, api: Router) -> Router {
    let own = Router::new()
        .route(TARGETS_PATH, get(targets))
        .route(&format!("{SCRAPE_PATH}{{id}}"), get(scrape))
        .route(STATUS_PATH, get(|State(on): State<Reachable>| async move { Json((on.status)()) }))
        .with_state(reachable);
    own.merge(api).fallback(refused).method_not_allowed_fallback(refused)
}

async fn targets(State(on): State<Reachable>) -> Json<Vec<TargetLine>> {
    Json(on.scraper.active_targets().into_iter().map(TargetLine::from).collect())
}

async fn scrape(State(on): State<Reachable>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let Some(id) = parse_id(&id) else {
        let why = format!("{id:?} is no target's id: 32 hexadecimal digits\n");
        return (StatusCode::BAD_REQUEST, why).into_response();
    };
    let announced = headers.get(PATIENCE).and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
    let patience = announced.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match on.scraper.relay(id, &headers, patience.unwrap_or(DEFAULT_PATIENCE)).await {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let mut response = Response::new(Body::new(body));
            *response.status_mut() = head.status;
            for name in PASSED_ON {
                if let Some(value) = head.headers.get(&name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            response
        }
        Err(error) => {
            tracing::debug!(target_id = %id, %error, "a hub's request to a target failed");
            (status_of(&error), format!("{error}\n")).into_response()
        }
    }
}

fn status_of(error: &RelayError) -> StatusCode {
    match error {
        RelayError::UnknownTarget(_) => StatusCode::NOT_FOUND,
        RelayError::Fetch { source: FetchError::Deadline(_), .. } => StatusCode::GATEWAY_TIMEOUT,
        RelayError::Fetch { .. } => StatusCode::BAD_GATEWAY,
    }
}

fn parse_id(text: &str) -> Option<SourceId> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(SourceId)).flatten()
}

async fn refused(request: http::Request<Body>) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    tracing::warn!(%method, path, "refused what a hub asked for: it is not among what may be reached");
    let why = format!("{method} {path} is not among what may be reached through this tunnel\n");
    (StatusCode::FORBIDDEN, why).into_response()
}
