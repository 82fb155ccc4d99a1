//! Limits for agents, kept at this hub and brought to them: `/api/v1/admin/limits…`.
//!
//! A cluster's limits have revisions; the highest is what its agents are to have, and each may be gone back to.
//! Agents that are connected get it at once, others when they come; what each answered is shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stdx::clock::Clock;
use stdx::disk::{RealDisk, replace_private};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tunnel::{AgentKey, Agents, Ask, To};
use web::Caller;

use super::admin::{Administrator, Failure, administrator, changed, wrong};
use super::fleet::Fleet;
use super::known;
use crate::limits::{LIMITS_PATH, LimitSet, LimitsDocument};

/// The file, in the fleet's directory.
pub(super) const FILE: &str = "limits.json";
/// Revisions of a cluster that can be gone back to.
const HISTORY_MAX: usize = 50;
/// Clusters that may have limits.
const CLUSTERS_MAX: usize = 10_000;
/// The time an agent has for its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// When an agent that did not take its limits is asked again.
const AGAIN: Duration = Duration::from_secs(30);
/// Longest answer and reason, bytes.
const TEXT_BYTES_MAX: usize = 500;

/// Revisions by tenant and cluster (`tenant/cluster`), oldest first.
type Revisions = BTreeMap<String, Vec<LimitsDocument>>;

/// What an agent has answered.
#[derive(Debug, Clone, Serialize)]
struct Answer {
    agent: String,
    revision: u64,
    /// Why it has not taken that revision; empty when it has.
    refused: String,
    /// Whether it is asked again.
    #[serde(skip)]
    is_open: bool,
}

/// The limits of all clusters.
pub(super) struct AgentLimits {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    agents: Agents,
    registry: Arc<tenancy::Registry>,
    revisions: Mutex<Revisions>,
    answers: Mutex<BTreeMap<AgentKey, Answer>>,
    news: Notify,
}

impl AgentLimits {
    /// Opens those in the fleet's directory.
    ///
    /// # Errors
    /// The file cannot be read or is none of ours.
    pub(super) fn open(directory: &Path, fleet: &Fleet, clock: Arc<dyn Clock>) -> Result<Arc<AgentLimits>> {
        let path = directory.join(FILE);
        let revisions = match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Revisions::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let (revisions, answers, news) = (Mutex::new(revisions), Mutex::default(), Notify::new());
        let (agents, registry) = (fleet.agents().clone(), fleet.registry());
        Ok(Arc::new(AgentLimits { path, clock, agents, registry, revisions, answers, news }))
    }

    /// The endpoints; they stand where callers are known.
    pub(super) fn router(self: &Arc<AgentLimits>) -> Router {
        Router::new()
            .route("/api/v1/admin/limits", get(show).post(set))
            .route("/api/v1/admin/limits/rollback", post(roll_back))
            .with_state(Arc::clone(self))
    }

    /// Brings agents their limits, until it is aborted.
    pub(super) async fn keep_brought(self: Arc<AgentLimits>) {
        let mut changes = self.agents.changes();
        loop {
            // All at once: one that hangs holds up nobody.
            let mut bringing = JoinSet::new();
            for (key, document) in self.due() {
                let limits = Arc::clone(&self);
                bringing.spawn(async move {
                    let answer = limits.bring(&key, &document).await;
                    limits.answers.lock().insert(key, answer);
                });
            }
            while bringing.join_next().await.is_some() {}
            let connected = self.agents.list();
            let is_there = |key: &AgentKey| connected.iter().any(|a| a.key == *key && a.connections > 0);
            self.answers.lock().retain(|key, _| is_there(key));
            tokio::select! {
                () = self.news.notified() => {}
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN) => self.answers.lock().retain(|_, a| !a.is_open),
            }
        }
    }

    /// Connected agents that have not been told of their newest limits.
    fn due(&self) -> Vec<(AgentKey, LimitsDocument)> {
        let (revisions, answers) = (self.revisions.lock(), self.answers.lock());
        let connected = self.agents.list().into_iter().filter(|agent| agent.connections > 0);
        connected
            .filter_map(|agent| {
                let newest = revisions.get(&name(&agent.key.tenant, &agent.key.cluster))?.last()?;
                let told = answers.get(&agent.key).is_some_and(|answer| answer.revision == newest.revision);
                (!told).then(|| (agent.key, newest.clone()))
            })
            .collect()
    }

    /// Brings an agent its limits, and says what it answered.
    async fn bring(&self, key: &AgentKey, document: &LimitsDocument) -> Answer {
        let put = self.put(key, document).await;
        let status = put.as_ref().ok().map(|(status, _)| *status);
        let refused = match put {
            Ok((status, _)) if status.is_success() => String::new(),
            Ok((status, said)) => format!("{status}: {said}"),
            Err(error) => error,
        };
        if !refused.is_empty() {
            let (agent, revision) = (key.to_string(), document.revision);
            tracing::warn!(agent, revision, "an agent did not take its limits: {refused}");
        }
        // One that has a later revision, of another hub, will not change its mind.
        let is_open = !refused.is_empty() && status != Some(StatusCode::CONFLICT);
        Answer { agent: key.agent.to_string(), revision: document.revision, refused, is_open }
    }

    async fn put(&self, key: &AgentKey, document: &LimitsDocument) -> Result<(StatusCode, String), String> {
        let body = serde_json::to_vec(document).map_err(|error| error.to_string())?;
        let request = http::Request::builder().method(Method::PUT).uri(LIMITS_PATH).body(Bytes::from(body));
        let request = request.map_err(|error| error.to_string())?;
        let answer = self.agents.request(&To::Agent(key.clone()), request, Ask::control(PATIENCE)).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), TEXT_BYTES_MAX).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
    }

    /// Adds a revision for a cluster.
    fn add(
        &self,
        name: String,
        author: &str,
        reason: String,
        limits: LimitSet,
    ) -> Result<LimitsDocument, Failure> {
        let mut revisions = self.revisions.lock();
        let mut next = revisions.clone();
        if !next.contains_key(&name) && next.len() >= CLUSTERS_MAX {
            return Err(wrong(format!("{CLUSTERS_MAX} clusters have limits; there is no room for more")));
        }
        let of_cluster = next.entry(name).or_default();
        let document = LimitsDocument {
            limits,
            // Another hub may have given some: the later one wins.
            revision: of_cluster
                .last()
                .map_or(0, |last| last.revision + 1)
                .max(self.clock.now_ms().max(0).unsigned_abs()),
            author: author.to_owned(),
            set_ms: self.clock.now_ms(),
            reason,
        };
        of_cluster.push(document.clone());
        let excess = of_cluster.len().saturating_sub(HISTORY_MAX);
        of_cluster.drain(..excess);
        let unwritten = |what: String| Failure(StatusCode::SERVICE_UNAVAILABLE, what);
        let bytes = serde_json::to_vec_pretty(&next).map_err(|error| unwritten(error.to_string()))?;
        replace_private(&RealDisk, &self.path, &bytes)
            .map_err(|error| unwritten(format!("write {}: {error}", self.path.display())))?;
        *revisions = next;
        self.news.notify_one();
        Ok(document)
    }
}

fn name(tenant: &str, cluster: &str) -> String {
    format!("{tenant}/{cluster}")
}

/// Checks that the caller may give limits to a cluster.
fn check(caller: &Caller, cluster: &str, reason: &str) -> Result<(), Failure> {
    tunnel::identity::check_cluster(cluster).map_err(wrong)?;
    if !caller.sees_cluster(cluster) {
        return Err(Failure(StatusCode::FORBIDDEN, format!("this token is not for cluster {cluster:?}")));
    }
    if reason.len() > TEXT_BYTES_MAX {
        return Err(wrong(format!("a reason has at most {TEXT_BYTES_MAX} bytes")));
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Which {
    cluster: Option<String>,
}

async fn show(
    State(hub): State<Arc<AgentLimits>>,
    caller: Caller,
    Query(which): Query<Which>,
) -> Result<Response, Failure> {
    administrator(&caller)?;
    let prefix = name(caller.tenant.as_str(), "");
    let revisions = hub.revisions.lock().clone();
    let answers = hub.answers.lock().clone();
    let mut shown = Vec::new();
    for (name, revisions) in &revisions {
        let Some(cluster) = name.strip_prefix(&prefix).filter(|cluster| caller.sees_cluster(cluster)) else {
            continue;
        };
        if which.cluster.as_deref().is_some_and(|asked| asked != cluster) {
            continue;
        }
        let theirs = |key: &AgentKey| &*key.tenant == caller.tenant.as_str() && &*key.cluster == cluster;
        let agents: Vec<&Answer> =
            answers.iter().filter(|(key, _)| theirs(key)).map(|(_, answer)| answer).collect();
        shown.push(json!({ "cluster": cluster, "revisions": revisions, "agents": agents }));
    }
    Ok(Json(shown).into_response())
}

#[derive(Debug, Deserialize)]
struct Set {
    cluster: String,
    /// `name=value` words with blanks between.
    #[serde(default)]
    limits: String,
    #[serde(default)]
    reason: String,
    /// Also for a cluster that nothing is known of.
    #[serde(default)]
    force: bool,
}

async fn set(
    State(hub): State<Arc<AgentLimits>>,
    Administrator(caller): Administrator,
    Form(form): Form<Set>,
) -> Result<Response, Failure> {
    check(&caller, &form.cluster, &form.reason)?;
    let limits = LimitSet::parse(form.limits.split_whitespace()).map_err(wrong)?;
    changed(move || {
        let name = name(caller.tenant.as_str(), &form.cluster);
        if !form.force && !hub.revisions.lock().contains_key(&name) {
            let clusters = known::clusters(&hub.registry, &hub.agents, &caller, hub.clock.now_ms());
            if !clusters.contains(&form.cluster) {
                return Err(known::no_cluster(&form.cluster, &clusters));
            }
        }
        let document = hub.add(name, &caller.name, form.reason, limits)?;
        tell(&form.cluster, &document);
        Ok(document)
    })
    .await
}

#[derive(Debug, Deserialize)]
struct RollBack {
    cluster: String,
    /// The revision to go back to; the one before the newest otherwise.
    to: Option<u64>,
}

async fn roll_back(
    State(hub): State<Arc<AgentLimits>>,
    Administrator(caller): Administrator,
    Form(form): Form<RollBack>,
) -> Result<Response, Failure> {
    check(&caller, &form.cluster, "")?;
    changed(move || {
        let name = name(caller.tenant.as_str(), &form.cluster);
        let missing = |what: String| Failure(StatusCode::NOT_FOUND, what);
        let (limits, reason) = {
            let revisions = hub.revisions.lock();
            let of_cluster = revisions.get(&name).map(Vec::as_slice).unwrap_or_default();
            let found = match form.to {
                Some(to) => of_cluster.iter().find(|one| one.revision == to),
                None => of_cluster.iter().rev().nth(1),
            };
            match (found, form.to) {
                (Some(found), _) => (found.limits.clone(), format!("back to revision {}", found.revision)),
                // Before the first there were none.
                (None, None) if !of_cluster.is_empty() => (LimitSet::default(), "back to none".to_owned()),
                (None, None) => {
                    return Err(missing(format!("cluster {:?} has never had limits", form.cluster)));
                }
                (None, Some(to)) => {
                    let what = format!("cluster {:?} has no revision {to} of limits", form.cluster);
                    return Err(missing(what));
                }
            }
        };
        let document = hub.add(name, &caller.name, reason, limits)?;
        tell(&form.cluster, &document);
        Ok(document)
    })
    .await
}

fn tell(cluster: &str, document: &LimitsDocument) {
    tracing::info!(
        cluster,
        revision = document.revision,
        by = document.author,
        reason = document.reason,
        limits = document.limits.words().join(" "),
        "limits were given to a cluster"
    );
}
