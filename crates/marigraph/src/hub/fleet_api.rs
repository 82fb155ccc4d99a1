//! `/api/v1/fleet/{clusters,agents,targets}`: the fleet as its agents tell of it and as the ledger counts.
//!
//! What is here is told at once; what agents know is asked of them, all at once and each with little time, and
//! those that do not answer are named in `warnings`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ::ledger::{Ask, By, Ledger};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use jiff::Timestamp;
use parking_lot::Mutex;
use proxy::Fleet as _;
use serde::Deserialize;
use serde_json::{Value, json};
use stdx::clock::Clock;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunnel::{AgentKey, AgentState, To};
use web::{Caller, Role};

use super::fleet::Fleet;
use crate::agent::reach::{STATUS_PATH, TARGETS_PATH, TargetLine};

/// The time each agent has.
const PATIENCE: Duration = Duration::from_secs(3);
/// Agents that are asked at once.
const AT_ONCE: usize = 64;
/// Targets that are shown unless asked for more, and at most.
const TARGETS: (usize, usize) = (1000, 100_000);
/// The time that completeness is about, unless asked for another.
const SINCE: Duration = Duration::from_secs(3600);

/// How long an answer of an agent does for others who ask the same.
const FRESH: Duration = Duration::from_secs(5);

/// What an agent answered, or why there is no answer.
pub(super) type Answer = Result<Arc<Value>, String>;

/// Answers and when they came, by agent and path.
type Recent = HashMap<(AgentKey, &'static str), (Instant, Answer)>;

/// What the endpoints work with.
#[derive(Clone)]
pub(super) struct FleetApi {
    fleet: Fleet,
    pub(super) ledger: Arc<Ledger>,
    pub(super) clock: Arc<dyn Clock>,
    /// Answers of a moment ago: many may look at one dashboard.
    recent: Arc<Mutex<Recent>>,
}

impl FleetApi {
    /// Over `fleet`'s tunnels and the account of `ledger`.
    pub(super) fn new(fleet: Fleet, ledger: Arc<Ledger>, clock: Arc<dyn Clock>) -> FleetApi {
        FleetApi { fleet, ledger, clock, recent: Arc::default() }
    }

    /// The endpoints; they stand where callers are known.
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/api/v1/fleet/clusters", get(clusters))
            .route("/api/v1/fleet/agents", get(agents))
            .route("/api/v1/fleet/targets", get(targets))
            .with_state(self)
    }

    /// The agents that a caller may see, connected or not, by cluster and name.
    pub(super) fn seen(&self, caller: &Caller, cluster: Option<&str>) -> Vec<Seen> {
        let is_asked = |tenant: &str, name: &str| {
            tenant == caller.tenant.as_str()
                && caller.sees_cluster(name)
                && cluster.is_none_or(|asked| asked == name)
        };
        let mut seen: BTreeMap<(String, String), Seen> = BTreeMap::new();
        let registry = self.fleet.registry();
        for record in registry.agents().into_iter().filter(|one| is_asked(&one.tenant, &one.cluster)) {
            let revoked = registry.is_revoked(&record.agent_id, &record.serial);
            let one = seen.entry((record.cluster.clone(), record.agent_id.clone())).or_default();
            (one.cluster, one.agent) = (record.cluster, record.agent_id);
            (one.enrolled_ms, one.not_after_ms) = (Some(record.enrolled_ms), Some(record.not_after_ms));
            (one.revoked, one.elsewhere) = (revoked, record.elsewhere);
        }
        let connected = self.fleet.agents().list().into_iter();
        for state in connected.filter(|one| is_asked(&one.key.tenant, &one.key.cluster)) {
            let key = (state.key.cluster.to_string(), state.key.agent.to_string());
            let one = seen.entry(key.clone()).or_default();
            (one.cluster, one.agent) = key;
            one.not_after_ms = state.certificate_not_after_ms.or(one.not_after_ms);
            one.state = Some(state);
        }
        seen.into_values().collect()
    }

    /// Asks one agent for the JSON at `path`.
    pub(super) async fn get(&self, agent: AgentKey, path: &str) -> Result<Value, String> {
        let body = match tokio::time::timeout(PATIENCE, self.fleet.get(&To::Agent(agent), path)).await {
            Ok(answer) => answer.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("no answer in {} s", PATIENCE.as_secs())),
        };
        serde_json::from_slice(&body).map_err(|error| format!("its answer is no JSON: {error}"))
    }

    /// As [`FleetApi::get`], or what it answered a moment ago.
    async fn recent(&self, agent: AgentKey, path: &'static str) -> Answer {
        let key = (agent, path);
        if let Some((at, answer)) = self.recent.lock().get(&key)
            && at.elapsed() < FRESH
        {
            return answer.clone();
        }
        let answer = self.get(key.0.clone(), path).await.map(Arc::new);
        let mut recent = self.recent.lock();
        recent.retain(|_, (at, _)| at.elapsed() < FRESH);
        recent.insert(key, (Instant::now(), answer.clone()));
        answer
    }

    /// Asks all connected of `agents` at once for the JSON at `path`; in the order of `agents`.
    pub(super) async fn ask(&self, agents: &[Seen], path: &'static str) -> Vec<Option<Answer>> {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut asked = JoinSet::new();
        for (place, agent) in agents.iter().enumerate() {
            let Some(state) = agent.state.as_ref().filter(|state| state.connections > 0) else { continue };
            let (api, key, room) = (self.clone(), state.key.clone(), Arc::clone(&room));
            asked.spawn(async move {
                let _room = room.acquire().await;
                (place, api.recent(key, path).await)
            });
        }
        let mut answers: Vec<Option<Answer>> = agents.iter().map(|_| None).collect();
        while let Some(done) = asked.join_next().await {
            let Ok((place, answer)) = done else { continue };
            answers[place] = Some(answer);
        }
        answers
    }
}

/// An agent as this hub knows it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) cluster: String,
    pub(super) agent: String,
    enrolled_ms: Option<i64>,
    not_after_ms: Option<i64>,
    revoked: bool,
    elsewhere: bool,
    pub(super) state: Option<AgentState>,
}

impl Seen {
    /// When its last connection ended, milliseconds since the epoch, where that is known.
    pub(super) fn gone_ms(&self) -> Option<i64> {
        self.state.as_ref()?.last_end.as_ref().map(|(at_ms, _)| *at_ms)
    }

    /// In one word.
    pub(super) fn standing(&self) -> &'static str {
        match &self.state {
            _ if self.revoked => "revoked",
            Some(state) if state.connections > 0 => "connected",
            _ if self.elsewhere => "elsewhere",
            _ => "away",
        }
    }
}

/// The parameters of a request, if they can be read.
pub(super) type Form<T> = Result<Query<T>, QueryRejection>;

/// What is asked, if the caller may read and it can be read.
pub(super) fn may_ask<T>(caller: &Caller, asked: Form<T>) -> Result<T, Box<Response>> {
    if !caller.role.allows(Role::Read) {
        let why = "the credential does not have the role this needs";
        return Err(Box::new(refused(StatusCode::FORBIDDEN, "forbidden", why)));
    }
    let wrong = |why: QueryRejection| refused(StatusCode::BAD_REQUEST, "bad_data", &why.body_text());
    asked.map(|Query(asked)| asked).map_err(|why| Box::new(wrong(why)))
}

pub(super) fn refused(status: StatusCode, kind: &str, why: &str) -> Response {
    (status, Json(json!({ "status": "error", "errorType": kind, "error": why }))).into_response()
}

/// The envelope of an answer.
pub(super) fn success(data: &Value, warnings: &[String]) -> Response {
    if warnings.is_empty() {
        return Json(json!({ "status": "success", "data": data })).into_response();
    }
    Json(json!({ "status": "success", "data": data, "warnings": warnings })).into_response()
}

/// RFC 3339; `null` for none.
pub(super) fn shown(at_ms: Option<i64>) -> Value {
    let time = at_ms.and_then(|at_ms| Timestamp::from_millisecond(at_ms).ok());
    time.map_or(Value::Null, |time| time.to_string().into())
}

/// `cluster/agent: why`, of those that did not answer.
pub(super) fn unanswered(agents: &[Seen], answers: &[Option<Answer>]) -> Vec<String> {
    let failed = agents.iter().zip(answers).filter_map(|(agent, answer)| {
        let why = answer.as_ref()?.as_ref().err()?;
        Some(format!("agent {} of cluster {}: {why}", agent.agent, agent.cluster))
    });
    failed.collect()
}

#[derive(Debug, Deserialize)]
struct Asked {
    cluster: Option<String>,
    job: Option<String>,
    health: Option<String>,
    limit: Option<usize>,
    /// Seconds.
    since: Option<u64>,
}

async fn clusters(State(api): State<FleetApi>, caller: Caller, asked: Form<Asked>) -> Response {
    let asked = match may_ask(&caller, asked) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let agents = api.seen(&caller, asked.cluster.as_deref());
    let answers = api.ask(&agents, TARGETS_PATH).await;
    let now_ms = api.clock.now_ms();
    let since = asked.since.map_or(SINCE, Duration::from_secs);
    let start_ms = now_ms.saturating_sub(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    let account = Ask { start_ms, end_ms: now_ms, by: By::Cluster, ..Ask::default() };
    let account = api.ledger.report(&caller.tenant, &account);
    let pauses = api.ledger.pauses(&caller.tenant, now_ms);
    let mut known = api.fleet.clusters(&caller.tenant);
    known.retain(|one| {
        caller.sees_cluster(&one.name) && asked.cluster.as_ref().is_none_or(|asked| *asked == one.name)
    });
    known.sort_by(|a, b| a.name.cmp(&b.name));
    let shown: Vec<Value> = known
        .iter()
        .map(|cluster| {
            let (mut enrolled, mut connected, mut up, mut down) = (0, 0, 0, 0);
            for (agent, answer) in agents.iter().zip(&answers).filter(|(one, _)| one.cluster == cluster.name)
            {
                enrolled += usize::from(!agent.revoked);
                connected += usize::from(agent.standing() == "connected");
                let targets = answer.iter().filter_map(|answer| answer.as_ref().ok()?.as_array()).flatten();
                for target in targets.filter(|target| target["scraped_by"].is_null()) {
                    match target["health"].as_str() {
                        Some("up") => up += 1,
                        Some("down") => down += 1,
                        _ => {}
                    }
                }
            }
            let group = account.groups.iter().find(|group| group.cluster.as_deref() == Some(&*cluster.name));
            let tally = group.map(|group| &group.tally);
            let pause = pauses.iter().find(|pause| pause.cluster == cluster.name);
            json!({
                "cluster": cluster.name,
                "up": cluster.connected,
                "agents": { "enrolled": enrolled, "connected": connected },
                "targets": { "up": up, "down": down },
                "percent": tally.and_then(::ledger::Tally::percent),
                "expected": tally.map_or(0, |tally| tally.expected),
                "stored": tally.map_or(0, |tally| tally.stored),
                "newest": self::shown(tally.and_then(|tally| tally.newest_ms)),
                "pausedUntil": self::shown(pause.map(|pause| pause.until_ms)),
            })
        })
        .collect();
    success(&shown.into(), &unanswered(&agents, &answers))
}

async fn agents(State(api): State<FleetApi>, caller: Caller, asked: Form<Asked>) -> Response {
    let asked = match may_ask(&caller, asked) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let agents = api.seen(&caller, asked.cluster.as_deref());
    let statuses = api.ask(&agents, STATUS_PATH).await;
    let lists: Vec<Value> = agents
        .iter()
        .zip(&statuses)
        .map(|(agent, status)| {
            let status = status.as_ref().and_then(|status| status.as_deref().ok());
            let state = agent.state.as_ref();
            let measured = state.and_then(|state| state.measured);
            let end = state.and_then(|state| state.last_end.as_ref());
            json!({
                "cluster": agent.cluster,
                "agent": agent.agent,
                "state": agent.standing(),
                "version": state.and_then(|state| state.version.clone()),
                "started": shown(state.and_then(|state| state.started_ms)),
                "enrolled": shown(agent.enrolled_ms),
                "certificateNotAfter": shown(agent.not_after_ms),
                "connectedSince": shown(state.and_then(|state| state.connected_since_ms)),
                "connections": state.map_or(0, |state| state.connections),
                "remote": state.and_then(|state| state.remote).map(|remote| remote.to_string()),
                "lastSeen": shown(end.map(|(at_ms, _)| *at_ms)),
                "lastEnd": end.map(|(_, why)| why.clone()),
                "clockAheadSeconds": measured.map(|measured| measured.clock_ahead_ms as f64 / 1000.0),
                "roundTripSeconds": measured.map(|measured| measured.round_trip.as_secs_f64()),
                "status": status,
            })
        })
        .collect();
    success(&lists.into(), &unanswered(&agents, &statuses))
}

async fn targets(State(api): State<FleetApi>, caller: Caller, asked: Form<Asked>) -> Response {
    let asked = match may_ask(&caller, asked) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    if let Some(health) = asked.health.as_deref().filter(|health| !["up", "down", "unknown"].contains(health))
    {
        let why = format!("health: {health:?} is none of up, down, unknown");
        return refused(StatusCode::BAD_REQUEST, "bad_data", &why);
    }
    let limit = asked.limit.unwrap_or(TARGETS.0).min(TARGETS.1);
    let agents = api.seen(&caller, asked.cluster.as_deref());
    let answers = api.ask(&agents, TARGETS_PATH).await;
    let mut warnings = unanswered(&agents, &answers);
    let (mut shown, mut count) = (Vec::new(), 0usize);
    for (agent, answer) in agents.iter().zip(answers) {
        let Some(Ok(list)) = answer else { continue };
        let lines: Vec<TargetLine> = match Vec::deserialize(&*list) {
            Ok(lines) => lines,
            Err(error) => {
                warnings.push(format!("agent {} of cluster {}: {error}", agent.agent, agent.cluster));
                continue;
            }
        };
        // Agents in pairs list each other's targets, too.
        for line in lines.into_iter().filter(|line| line.scraped_by.is_none()) {
            let other_job = asked.job.as_ref().is_some_and(|job| *job != line.pool);
            let other_health = asked.health.as_ref().is_some_and(|health| *health != line.health);
            if other_job || other_health {
                continue;
            }
            count += 1;
            if shown.len() < limit {
                shown.push(target(agent, line));
            }
        }
    }
    success(&json!({ "targets": shown, "count": count }), &warnings)
}

/// A target as `/api/v1/targets` shows it, and whose it is.
fn target(agent: &Seen, line: TargetLine) -> Value {
    let object = |pairs: Vec<(String, String)>| pairs.into_iter().collect::<BTreeMap<_, _>>();
    json!({
        "cluster": agent.cluster,
        "agent": agent.agent,
        "id": line.id,
        "scrapePool": line.pool,
        "scrapeUrl": line.url,
        "labels": object(line.labels),
        "discoveredLabels": object(line.discovered),
        "health": line.health,
        "lastError": line.last_error,
        "lastScrape": shown(Some(line.last_scrape_ms).filter(|at_ms| *at_ms > 0)),
        "lastScrapeDuration": line.last_scrape_seconds,
        "scrapeInterval": line.interval_ms as f64 / 1000.0,
    })
}
