//! What a hub may ask through the tunnel: the targets, one target's page, the agent's own API.
//!
//! | path | what |
//! |---|---|
//! | `GET /tunnel/v1/targets` | what is scraped here, as JSON |
//! | `GET /tunnel/v1/scrape/<id>` | one target's page, passed on |
//! | `GET /tunnel/v1/status` | how the agent does |
//! | `PUT /tunnel/v1/limits` | limits that hubs give it ([`super::limits`]) |
//! | `/api/v1/*`, `/federate` | the agent's own API, for readers |
//!
//! The gate before it ([`tunnel::policy`]) refuses everything else.

use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use model::SourceId;
use model::status::{ActiveTarget, TargetHealth};
use scrape::client::FetchError;
use scrape::{Manager, RelayError};
use serde::{Deserialize, Serialize};
use tunnel::policy::{ReachError, Reaching, Targets};

/// Where a hub asks for the targets.
pub(crate) const TARGETS_PATH: &str = "/tunnel/v1/targets";
/// Where a hub asks how the agent does.
pub(crate) const STATUS_PATH: &str = "/tunnel/v1/status";

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
    /// The agent that scrapes it where it is another one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scraped_by: Option<String>,
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
            scraped_by: target.scraped_by,
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

/// The way to what is scraped here.
pub(super) struct Scraped(pub(super) Arc<Manager>);

impl Targets for Scraped {
    fn scrape<'a>(&'a self, id: &'a str, headers: &'a HeaderMap, timeout: Duration) -> Reaching<'a> {
        Box::pin(async move {
            let id = parse_id(id).ok_or(ReachError::Unknown)?;
            let answer = self.0.relay(id, headers, timeout).await.map_err(|error| {
                tracing::debug!(target_id = %id, %error, "a hub's request to a target failed");
                reach_error(&error)
            })?;
            let (head, body) = answer.into_parts();
            let mut response = http::Response::new(body.map_err(Into::into).boxed_unsync());
            *response.status_mut() = head.status;
            for name in PASSED_ON {
                if let Some(value) = head.headers.get(&name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            Ok(response)
        })
    }
}

fn reach_error(error: &RelayError) -> ReachError {
    match error {
        RelayError::UnknownTarget(_) => ReachError::Unknown,
        RelayError::Fetch { source: FetchError::Deadline(patience), .. } => ReachError::Late(*patience),
        RelayError::Fetch { source: FetchError::Status { .. }, .. } => {
            ReachError::Forbidden(error.to_string())
        }
        RelayError::Fetch { .. } => ReachError::Failed(error.to_string()),
    }
}

/// Tells how the agent does.
pub(super) type Status = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// The agent's own pages for hubs; `api` answers what is its API.
pub(super) fn pages(scraper: Arc<Manager>, status: Status, api: Router) -> Router {
    let list = move || {
        let targets: Vec<TargetLine> = scraper.active_targets().into_iter().map(TargetLine::from).collect();
        std::future::ready(Json(targets))
    };
    let tell = move || std::future::ready(Json(status()));
    Router::new().route(TARGETS_PATH, get(list)).route(STATUS_PATH, get(tell)).merge(api)
}

/// How many targets it scrapes itself, by health.
pub(super) fn target_counts(scraper: &Manager) -> serde_json::Value {
    let (mut up, mut down, mut unknown) = (0u64, 0u64, 0u64);
    for target in scraper.active_targets().iter().filter(|target| target.scraped_by.is_none()) {
        match target.health {
            TargetHealth::Up => up += 1,
            TargetHealth::Down => down += 1,
            TargetHealth::Unknown => unknown += 1,
        }
    }
    serde_json::json!({ "up": up, "down": down, "unknown": unknown })
}

fn parse_id(text: &str) -> Option<SourceId> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(SourceId)).flatten()
}
