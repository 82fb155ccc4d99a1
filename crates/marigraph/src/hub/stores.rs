//! Agents that keep data of their own: who they are, what times they have, and the way to ask them.
//!
//! An agent says in its status whether it has a store. It is asked when it (re)starts, and every
//! [`LOOK`] while it has one; who has none is not asked again. Who has a store is written down, so that a
//! hub that has just started knows whose part its answers lack.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use gather::{BoxFuture, Far, FarError, Pieces, Reach};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use model::{Labels, TenantId};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use stdx::clock::Clock;
use stdx::disk::{Disk, RealDisk, replace_private};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunnel::{AgentKey, AgentState, Agents, Ask, RequestError, To, TunnelBody};

use super::fleet::stamped;
use crate::agent::reach::STATUS_PATH;

/// Who has a store, within the fleet's directory.
pub(super) const FILE: &str = "stores.json";
/// Between two looks at what times a store has.
const LOOK: Duration = Duration::from_secs(15);
/// How much longer than its asker's patience a request lives at most.
const GRACE: Duration = Duration::from_secs(1);
/// Between two looks that are due to agents coming and going.
const PAUSE: Duration = Duration::from_millis(250);
/// How long an agent may take to tell its status.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// The largest status.
const STATUS_BYTES_MAX: usize = 1 << 20;
/// Agents asked for their status at once.
const STATUS_AT_ONCE: usize = 64;
/// A store whose newest sample is so much older than its status gets none at present.
const STILL_MS: i64 = 5 * 60 * 1000;
/// Between two writes of the file, when only times have changed.
const WRITE_EVERY_MS: i64 = 10 * 60 * 1000;
/// Pieces of an answer that wait to be read.
const PIECES_WAITING: usize = 4;
/// Bytes of a refusal that are told on.
const REFUSAL_BYTES: usize = 512;
/// Most stores that are remembered.
const STORES_MAX: usize = 10_000;

/// The stores of agents. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Stores(Arc<Shared>);

struct Shared {
    agents: Agents,
    registry: Arc<tenancy::Registry>,
    clock: Arc<dyn Clock>,
    /// For one store's whole answer.
    patience: Duration,
    file: PathBuf,
    table: RwLock<BTreeMap<AgentKey, Arc<Store>>>,
}

/// One agent's store.
struct Store {
    key: AgentKey,
    labels: Labels,
    agents: Agents,
    clock: Arc<dyn Clock>,
    patience: Duration,
    known: Mutex<Known>,
}

/// What an agent last said of its store; milliseconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Known {
    oldest_ms: Option<i64>,
    newest_ms: Option<i64>,
    /// How long it keeps samples; for ever when absent.
    retention_ms: Option<i64>,
    #[serde(default)]
    seen_ms: i64,
}

/// A store, as the file has it (`docs/formats/data-directory.md`).
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    tenant: String,
    cluster: String,
    agent: String,
    labels: BTreeMap<String, String>,
    #[serde(flatten)]
    known: Known,
}

/// An agent's status, as far as it matters here (`docs/formats/tunnel.md`).
#[derive(Debug, Default, Deserialize)]
struct Status {
    store: Option<Known>,
}

impl Stores {
    /// Reads who had a store when the program last ran, and follows who has one. To be called on a runtime.
    pub(crate) fn follow(
        agents: Agents,
        registry: Arc<tenancy::Registry>,
        clock: Arc<dyn Clock>,
        patience: Duration,
        file: PathBuf,
    ) -> Stores {
        let shared = Shared { agents, registry, clock, patience, file, table: RwLock::default() };
        let stores = Stores(Arc::new(shared));
        stores.0.read_file();
        tokio::spawn(follow(Arc::downgrade(&stores.0), stores.0.agents.changes()));
        stores
    }
}

impl gather::Fleet for Stores {
    fn stores(&self, tenant: &TenantId) -> Vec<Arc<dyn Far>> {
        let table = self.0.table.read();
        let of_tenant = table.values().filter(|store| *store.key.tenant == *tenant.as_str());
        of_tenant.map(|store| Arc::clone(store) as Arc<dyn Far>).collect()
    }
}

/// What a round of questions has to know of the rounds before.
#[derive(Default)]
struct Rounds {
    heard: HashMap<AgentKey, Heard>,
    written_ms: i64,
}

/// When an agent was last heard, and as what.
struct Heard {
    /// Its process: only another one can begin to have a store.
    started_ms: Option<i64>,
    connected_since_ms: Option<i64>,
    has_store: bool,
    at: Instant,
}

impl Heard {
    /// Whether there is nothing to ask `agent` now.
    fn is_enough(&self, agent: &AgentState, now: Instant) -> bool {
        let fresh = self.connected_since_ms == agent.connected_since_ms && now.duration_since(self.at) < LOOK;
        self.started_ms == agent.started_ms && (!self.has_store || fresh)
    }
}

async fn follow(shared: Weak<Shared>, mut changes: tokio::sync::watch::Receiver<u64>) {
    let mut rounds = Rounds::default();
    loop {
        changes.mark_unchanged();
        {
            let Some(shared) = shared.upgrade() else { return };
            shared.round(&mut rounds).await;
        }
        tokio::time::sleep(PAUSE).await;
        let next = tokio::time::timeout(LOOK, changes.changed());
        if next.await.is_ok_and(|changed| changed.is_err()) {
            return;
        }
    }
}

impl Shared {
    /// Asks those who have a store, and those of whom that is not known.
    async fn round(self: &Arc<Self>, rounds: &mut Rounds) {
        let now_ms = self.clock.now_ms();
        let mut changed = self.forget(now_ms);
        let mut due: Vec<AgentState> = self.agents.list();
        due.retain(|agent| agent.connections > 0);
        if rounds.heard.len() > 2 * due.len() + STORES_MAX {
            rounds.heard.clear();
        }
        let now = Instant::now();
        due.retain(|agent| !rounds.heard.get(&agent.key).is_some_and(|heard| heard.is_enough(agent, now)));
        let (mut due, mut asking) = (due.into_iter(), JoinSet::new());
        loop {
            while asking.len() < STATUS_AT_ONCE
                && let Some(agent) = due.next()
            {
                let agents = self.agents.clone();
                asking.spawn(async move {
                    let status = status(&agents, &agent.key).await;
                    (agent, status)
                });
            }
            let Some(done) = asking.join_next().await else { break };
            let Ok((agent, status)) = done else { continue };
            if let Ok(status) = &status {
                let (started_ms, connected_since_ms) = (agent.started_ms, agent.connected_since_ms);
                let (has_store, at) = (status.store.is_some(), Instant::now());
                let heard = Heard { started_ms, connected_since_ms, has_store, at };
                rounds.heard.insert(agent.key.clone(), heard);
            }
            match status {
                Ok(Status { store: Some(known) }) => {
                    let known = Known { seen_ms: self.clock.now_ms(), ..known };
                    changed |= self.remember(agent, known);
                }
                Ok(Status { store: None }) => {
                    changed |= self.table.write().remove(&agent.key).is_some();
                }
                Err(why) => tracing::debug!(agent = %agent.key, why, "an agent does not tell its status"),
            }
        }
        if changed || (now_ms - rounds.written_ms > WRITE_EVERY_MS && !self.table.read().is_empty()) {
            rounds.written_ms = now_ms;
            self.write_file().await;
        }
    }

    /// Takes in what an agent says of its store; true when the store is new.
    fn remember(&self, agent: AgentState, known: Known) -> bool {
        let labels = stamped(&agent.key.cluster, &agent.labels);
        let mut table = self.table.write();
        if let Some(store) = table.get(&agent.key).filter(|store| store.labels == labels) {
            *store.known.lock() = known;
            return false;
        }
        if table.len() >= STORES_MAX {
            tracing::warn!(agent = %agent.key, "more than {STORES_MAX} agents keep data; queries leave this one out");
            return false;
        }
        tracing::info!(agent = %agent.key, "the agent keeps data of its own; queries ask it");
        let store = self.store(agent.key.clone(), labels, known);
        table.insert(agent.key, store);
        true
    }

    fn store(&self, key: AgentKey, labels: Labels, known: Known) -> Arc<Store> {
        let (agents, clock, patience) = (self.agents.clone(), Arc::clone(&self.clock), self.patience);
        Arc::new(Store { key, labels, agents, clock, patience, known: Mutex::new(known) })
    }

    /// Forgets stores of agents that are revoked, and those that have outlived everything they had.
    fn forget(&self, now_ms: i64) -> bool {
        let revoked: HashMap<String, bool> = self
            .registry
            .agents()
            .into_iter()
            .map(|agent| {
                let revoked = self.registry.is_revoked(&agent.agent_id, &agent.serial);
                (agent.agent_id, revoked)
            })
            .collect();
        let mut table = self.table.write();
        let before = table.len();
        table.retain(|key, store| {
            let known = *store.known.lock();
            let is_over = known.retention_ms.is_some_and(|kept| known.seen_ms.saturating_add(kept) < now_ms);
            !is_over && !revoked.get(&*key.agent).copied().unwrap_or(false)
        });
        table.len() != before
    }

    fn read_file(&self) {
        let bytes = match RealDisk.read(&self.file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                return tracing::warn!(%error, "read {}: who keeps data is asked again", self.file.display());
            }
        };
        let written: Vec<Written> = match serde_json::from_slice(&bytes) {
            Ok(written) => written,
            Err(error) => {
                return tracing::warn!(%error, "read {}: who keeps data is asked again", self.file.display());
            }
        };
        let mut table = self.table.write();
        for Written { tenant, cluster, agent, labels, known } in written.into_iter().take(STORES_MAX) {
            let labels = stamped(&cluster, &labels);
            let key = AgentKey { tenant: tenant.into(), cluster: cluster.into(), agent: agent.into() };
            table.insert(key.clone(), self.store(key, labels, known));
        }
    }

    async fn write_file(self: &Arc<Self>) {
        let written: Vec<Written> = self.table.read().values().map(|store| store.written()).collect();
        let path = self.file.clone();
        let write = move || {
            let bytes = serde_json::to_vec_pretty(&written)?;
            replace_private(&RealDisk, &path, &bytes)
        };
        let shown = self.file.display();
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "write {shown}"),
            Err(panic) => tracing::error!(%panic, "write {shown}"),
        }
    }
}

async fn status(agents: &Agents, key: &AgentKey) -> Result<Status, String> {
    let request = Request::get(STATUS_PATH).body(Bytes::new()).map_err(|error| error.to_string())?;
    let answer = agents.request(&To::Agent(key.clone()), request, Ask::control(STATUS_PATIENCE)).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if !answer.status().is_success() {
        return Err(format!("it answers {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), STATUS_BYTES_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

impl Store {
    fn written(&self) -> Written {
        let further = self.labels.iter().filter(|(name, _)| *name != super::fleet::CLUSTER_LABEL);
        Written {
            tenant: self.key.tenant.to_string(),
            cluster: self.key.cluster.to_string(),
            agent: self.key.agent.to_string(),
            labels: further.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            known: *self.known.lock(),
        }
    }

    /// Asks the agent's API; a refusal is an error with the agent's words.
    async fn ask(&self, request: Request<Bytes>) -> Result<Response<TunnelBody>, FarError> {
        let to = To::Agent(self.key.clone());
        // Who asks loses patience first, and tells silence from slowness.
        let answer = self.agents.request(&to, request, Ask::bulk(self.patience + GRACE)).await;
        let answer = answer.map_err(|error| match error {
            RequestError::NotConnected(_) => FarError(self.away()),
            RequestError::Busy { waiting, .. } => FarError(format!("{waiting} requests wait for it already")),
            RequestError::Deadline { after, phase, .. } => {
                FarError(format!("no answer within {after:?} ({phase})"))
            }
            RequestError::Lost { what, .. } => FarError(format!("the connection broke: {what}")),
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = Limited::new(answer.into_body(), REFUSAL_BYTES).collect().await;
        let said = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
        Err(FarError(format!("it answers {status}: {}", said.unwrap_or_default())))
    }

    fn away(&self) -> String {
        let state = self.agents.get(&self.key);
        away(state.and_then(|state| state.last_end).map(|(at_ms, _)| at_ms).or_else(|| {
            let seen_ms = self.known.lock().seen_ms;
            (seen_ms > 0).then_some(seen_ms)
        }))
    }
}

/// Since when an agent is away, for people.
pub(super) fn away(since_ms: Option<i64>) -> String {
    match since_ms.and_then(|ms| Timestamp::from_second(ms.div_euclid(1000)).ok()) {
        Some(since) => format!("its agent is not connected since {since}"),
        None => "its agent is not connected".to_owned(),
    }
}

impl Far for Store {
    fn cluster(&self) -> &str {
        &self.key.cluster
    }

    fn name(&self) -> &str {
        &self.key.agent
    }

    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn reach(&self) -> Reach {
        let known = *self.known.lock();
        // What it got since it was last asked is not known, unless it got nothing for long.
        let is_still = |newest: &i64| known.seen_ms - newest > STILL_MS;
        let end_ms = known.newest_ms.filter(is_still);
        let connected = end_ms.is_some() && self.agents.get(&self.key).is_some_and(|it| it.connections > 0);
        let first_ms = known.retention_ms.map(|kept| self.clock.now_ms().saturating_sub(kept));
        Reach { oldest_ms: known.oldest_ms, first_ms, end_ms: end_ms.filter(|_| connected) }
    }

    fn read(&self, request: Vec<u8>) -> BoxFuture<'_, Result<Pieces, FarError>> {
        Box::pin(async move {
            let request = Request::post("/api/v1/read")
                .header(header::CONTENT_TYPE, "application/x-protobuf")
                .header(header::CONTENT_ENCODING, "snappy")
                .body(Bytes::from(request))
                .map_err(|error| FarError(error.to_string()))?;
            let mut body = self.ask(request).await?.into_body();
            let (sender, pieces) = mpsc::channel(PIECES_WAITING);
            tokio::spawn(async move {
                loop {
                    let frame = tokio::select! {
                        () = sender.closed() => return,
                        frame = body.frame() => frame,
                    };
                    let piece = match frame {
                        None => return,
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => Ok(data.into()),
                            Err(_trailers) => continue,
                        },
                        Some(Err(error)) => Err(FarError(error.to_string())),
                    };
                    if sender.send(piece).await.is_err() {
                        return;
                    }
                }
            });
            Ok(pieces)
        })
    }

    fn get(&self, path_and_query: String, bytes_max: usize) -> BoxFuture<'_, Result<Vec<u8>, FarError>> {
        Box::pin(async move {
            let request = Request::get(path_and_query).body(Bytes::new());
            let answer = self.ask(request.map_err(|error| FarError(error.to_string()))?).await?;
            let body = Limited::new(answer.into_body(), bytes_max).collect().await;
            Ok(body.map_err(|error| FarError(error.to_string()))?.to_bytes().into())
        })
    }
}
