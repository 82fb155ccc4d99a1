//! `/api/v1/fleet/{clusters,agents,targets,alarms}`: the fleet as its agents tell of it and as the ledger counts.
//!
//! What is here is told at once; what agents know is asked of them, all at once and each with little time, and
//! those that do not answer are named in `warnings`.

mod alarms;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ::ledger::{Ask, By, Ledger};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use parking_lot::Mutex;
use proxy::Fleet as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stdx::clock::Clock;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunnel::{AgentKey, AgentState, To};
use web::Caller;

use super::fleet::Fleet;
use super::page::{Behind, token};
use crate::agent::home::CURSOR_PREFIX;
use crate::agent::reach::{STATUS_PATH, TARGETS_PATH, TargetLine};
use crate::replies::{Form, may_ask, refused, shown, success};

/// The time each agent has.
const PATIENCE: Duration = Duration::from_secs(3);
/// Agents that are asked at once.
const AT_ONCE: usize = 64;
/// Agents or targets on a page unless asked for another number, and at most.
const PAGE: (usize, usize) = (1000, 10_000);
/// The time that completeness is about, unless asked for another.
const SINCE: Duration = Duration::from_secs(3600);

/// How long an answer of an agent does for others who ask the same.
const FRESH: Duration = Duration::from_secs(2);

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
            .route("/api/v1/fleet/alarms", get(alarms::alarms))
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

    /// Cluster and name of the agents that give no sign of life.
    fn silent_agents(&self, caller: &Caller) -> BTreeSet<(String, String)> {
        let agents = self.ledger.agents(&caller.tenant).into_iter();
        agents.filter(|agent| agent.silent).map(|agent| (agent.cluster, agent.agent)).collect()
    }

    /// An agent, and what it answered.
    fn agent(&self, agent: &Seen, answer: Option<&Answer>, is_silent: bool, now_ms: i64) -> Value {
        let state = agent.state.as_ref();
        let measured = state.and_then(|state| state.measured);
        let end = state.and_then(|state| state.last_end.as_ref());
        let started_ms = state.and_then(|state| state.started_ms);
        let heard = state.map(|state| self.fleet.heard().of(&state.key)).unwrap_or_default();
        let status = Status::of(answer);
        // Before its first row since the hub's start: what waits in its queue, or that nothing does.
        let lag = heard.newest_ms.or_else(|| status.queue.as_ref()?.behind_ms(now_ms));
        json!({
            "cluster": agent.cluster,
            "agent": agent.agent,
            "state": agent.standing(),
            "silent": is_silent,
            "version": state.and_then(|state| state.version.clone()),
            "started": shown(started_ms),
            "uptimeSeconds": started_ms
                .filter(|_| agent.standing() == "connected")
                .map(|started_ms| seconds_since(started_ms, now_ms)),
            "incarnation": agent.incarnation(),
            "enrolled": shown(agent.enrolled_ms),
            "certificateNotAfter": shown(agent.not_after_ms),
            "connectedSince": shown(state.and_then(|state| state.connected_since_ms)),
            "connections": state.map_or(0, |state| state.connections),
            "remote": state.and_then(|state| state.remote).map(|remote| remote.to_string()),
            "lastSeen": shown(end.map(|(at_ms, _)| *at_ms)),
            "lastEnd": end.map(|(_, why)| why.clone()),
            "clockAheadSeconds": measured.map(|measured| measured.clock_ahead_ms as f64 / 1000.0),
            "roundTripSeconds": measured.map(|measured| measured.round_trip.as_secs_f64()),
            "newestRow": shown(heard.newest_ms),
            "lagSeconds": lag.map(|newest_ms| seconds_since(newest_ms, now_ms)),
            "queue": status.queue.map(|queue| queue.shown(now_ms)),
            "targets": status.targets,
            "status": answer.and_then(|answer| answer.as_deref().ok()),
        })
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

    /// Which building of its cluster it last said it belongs to.
    fn incarnation(&self) -> Option<&str> {
        self.state.as_ref()?.incarnation.as_deref()
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

/// The envelope of a page of a list.
fn page(data: &Value, next: Option<String>, warnings: &[String]) -> Response {
    let mut answer = json!({ "status": "success", "data": data });
    if let Some(next) = next {
        answer["nextPageToken"] = next.into();
    }
    if !warnings.is_empty() {
        answer["warnings"] = warnings.into();
    }
    Json(answer).into_response()
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
    page_token: Option<String>,
    /// Seconds.
    since: Option<u64>,
}

impl Asked {
    /// How many are on a page, and where it begins.
    fn page(&self) -> Result<(usize, Behind), Box<Response>> {
        let limit = self.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1);
        let behind = Behind::parse(self.page_token.as_deref());
        let wrong = |why: String| Box::new(refused(StatusCode::BAD_REQUEST, "bad_data", &why));
        Ok((limit, behind.map_err(wrong)?))
    }
}

/// What an agent says of itself (`docs/formats/tunnel.md`), as far as it is summed up here.
#[derive(Debug, Default, Deserialize)]
struct Status {
    queue: Option<QueueStatus>,
    targets: Option<TargetCounts>,
}

#[derive(Debug, Default, Deserialize)]
struct QueueStatus {
    bytes: u64,
    #[serde(default)]
    readers: Vec<Waiting>,
}

/// What waits for a hub or a receiver.
#[derive(Debug, Default, Deserialize)]
struct Waiting {
    name: String,
    rows: u64,
    bytes: u64,
    oldest_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
struct TargetCounts {
    up: u64,
    down: u64,
    unknown: u64,
}

impl Status {
    fn of(answer: Option<&Answer>) -> Status {
        let answer = answer.and_then(|answer| answer.as_deref().ok());
        answer.and_then(|answer| Status::deserialize(answer).ok()).unwrap_or_default()
    }
}

impl QueueStatus {
    /// When the oldest row began that waits for the hub that is farthest behind; now, where none waits. `None` where
    /// there is no hub's cursor.
    fn behind_ms(&self, now_ms: i64) -> Option<i64> {
        let mut hubs = self.readers.iter().filter(|reader| reader.name.starts_with(CURSOR_PREFIX)).peekable();
        hubs.peek()?;
        Some(hubs.filter_map(|hub| hub.oldest_ms).min().unwrap_or(now_ms))
    }

    /// The queue on disk, and what waits in it for the hub that is farthest behind.
    fn shown(&self, now_ms: i64) -> Value {
        let hubs = self.readers.iter().filter(|reader| reader.name.starts_with(CURSOR_PREFIX));
        let rows = hubs.clone().map(|hub| hub.rows).max();
        let bytes = hubs.clone().map(|hub| hub.bytes).max();
        let oldest_ms = hubs.filter_map(|hub| hub.oldest_ms).min();
        json!({
            "bytes": self.bytes,
            "waitingRows": rows,
            "waitingBytes": bytes,
            "oldest": shown(oldest_ms),
            "oldestAgeSeconds": oldest_ms.map(|oldest_ms| seconds_since(oldest_ms, now_ms)),
        })
    }
}

fn seconds_since(at_ms: i64, now_ms: i64) -> f64 {
    now_ms.saturating_sub(at_ms).max(0) as f64 / 1000.0
}

async fn clusters(State(api): State<FleetApi>, caller: Caller, asked: Form<Asked>) -> Response {
    let asked = match may_ask(&caller, asked) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let agents = api.seen(&caller, asked.cluster.as_deref());
    let answers = api.ask(&agents, STATUS_PATH).await;
    let statuses: Vec<Status> = answers.iter().map(|answer| Status::of(answer.as_ref())).collect();
    let silent = api.silent_agents(&caller);
    let now_ms = api.clock.now_ms();
    let since = asked.since.map_or(SINCE, Duration::from_secs);
    let start_ms = now_ms.saturating_sub(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    let account = Ask { start_ms, end_ms: now_ms, by: By::Cluster, ..Ask::default() };
    let account = api.ledger.report(&caller.tenant, &account);
    let pauses = api.ledger.pauses(&caller.tenant, now_ms);
    let alarms = api.fleet.incarnations().alarms(caller.tenant.as_str());
    let mut known = api.fleet.clusters(&caller.tenant);
    known.retain(|one| {
        caller.sees_cluster(&one.name) && asked.cluster.as_ref().is_none_or(|asked| *asked == one.name)
    });
    known.sort_by(|a, b| a.name.cmp(&b.name));
    let shown: Vec<Value> = known
        .iter()
        .map(|cluster| {
            let (mut enrolled, mut connected, mut silent_agents, mut up, mut down) = (0, 0, 0, 0, 0);
            let mut incarnations: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
            for (agent, status) in agents.iter().zip(&statuses).filter(|(one, _)| one.cluster == cluster.name)
            {
                let is_connected = agent.standing() == "connected";
                enrolled += usize::from(!agent.revoked);
                connected += usize::from(is_connected);
                silent_agents += usize::from(silent.contains(&(agent.cluster.clone(), agent.agent.clone())));
                let targets = status.targets.unwrap_or_default();
                (up, down) = (up + targets.up, down + targets.down);
                if let Some(incarnation) = agent.incarnation() {
                    let known = incarnations.entry(incarnation).or_default();
                    *known = (known.0 + 1, known.1 || is_connected);
                }
            }
            let group = account.groups.iter().find(|group| group.cluster.as_deref() == Some(&*cluster.name));
            let tally = group.map(|group| &group.tally);
            let newest_ms = tally.and_then(|tally| tally.newest_ms);
            let pause = pauses.iter().find(|pause| pause.cluster == cluster.name);
            let incarnations: Vec<Value> = incarnations
                .into_iter()
                .map(|(name, (agents, live))| json!({ "incarnation": name, "agents": agents, "live": live }))
                .collect();
            json!({
                "cluster": cluster.name,
                "up": cluster.connected,
                "agents": { "enrolled": enrolled, "connected": connected },
                "silentAgents": silent_agents,
                "targets": { "up": up, "down": down },
                "silentTargets": tally.map_or(0, |tally| tally.silent_sources),
                "incarnations": incarnations,
                "incarnationAlarm": alarms.iter().any(|(name, _)| *name == cluster.name),
                "percent": tally.and_then(::ledger::Tally::percent),
                "expected": tally.map_or(0, |tally| tally.expected),
                "stored": tally.map_or(0, |tally| tally.stored),
                "newest": self::shown(newest_ms),
                "lagSeconds": newest_ms.map(|newest_ms| seconds_since(newest_ms, now_ms)),
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
    let (limit, behind) = match asked.page() {
        Ok(page) => page,
        Err(response) => return *response,
    };
    let mut agents = api.seen(&caller, asked.cluster.as_deref());
    agents.retain(|agent| behind.is_before(&[&agent.cluster, &agent.agent]));
    let next = next_page(&mut agents, limit, |agent| token(&[&agent.cluster, &agent.agent]));
    let answers = api.ask(&agents, STATUS_PATH).await;
    let silent = api.silent_agents(&caller);
    let now_ms = api.clock.now_ms();
    let lists: Vec<Value> = agents
        .iter()
        .zip(&answers)
        .map(|(agent, answer)| {
            let is_silent = silent.contains(&(agent.cluster.clone(), agent.agent.clone()));
            api.agent(agent, answer.as_ref(), is_silent, now_ms)
        })
        .collect();
    page(&lists.into(), next, &unanswered(&agents, &answers))
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
    let (limit, behind) = match asked.page() {
        Ok(page) => page,
        Err(response) => return *response,
    };
    let mut agents = api.seen(&caller, asked.cluster.as_deref());
    agents.retain(|agent| behind.may_be_before(&[&agent.cluster, &agent.agent]));
    let answers = api.ask(&agents, TARGETS_PATH).await;
    let mut warnings = unanswered(&agents, &answers);
    let mut found: Vec<(&Seen, TargetLine)> = Vec::new();
    for (agent, answer) in agents.iter().zip(answers) {
        let Some(Ok(list)) = answer else { continue };
        let mut lines: Vec<TargetLine> = match Vec::deserialize(&*list) {
            Ok(lines) => lines,
            Err(error) => {
                warnings.push(format!("agent {} of cluster {}: {error}", agent.agent, agent.cluster));
                continue;
            }
        };
        lines.retain(|line| {
            // Agents in pairs list each other's targets, too.
            line.scraped_by.is_none()
                && asked.job.as_ref().is_none_or(|job| *job == line.pool)
                && asked.health.as_ref().is_none_or(|health| *health == line.health)
                && behind.is_before(&[&agent.cluster, &agent.agent, &line.pool, &line.id])
        });
        lines.sort_by(|a, b| (&a.pool, &a.id).cmp(&(&b.pool, &b.id)));
        found.extend(lines.into_iter().map(|line| (agent, line)));
    }
    let count = found.len();
    let next = next_page(&mut found, limit, |(agent, line)| {
        token(&[&agent.cluster, &agent.agent, &line.pool, &line.id])
    });
    let shown: Vec<Value> = found.into_iter().map(|(agent, line)| target(agent, line)).collect();
    success(&json!({ "targets": shown, "count": count, "nextPageToken": next }), &warnings)
}

/// Cuts a list to the length of a page; the token of the next one, where there is more.
fn next_page<T>(list: &mut Vec<T>, limit: usize, token_of: impl Fn(&T) -> String) -> Option<String> {
    if list.len() <= limit {
        return None;
    }
    list.truncate(limit);
    list.last().map(token_of)
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
