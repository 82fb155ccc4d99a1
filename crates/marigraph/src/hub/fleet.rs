//! The fleet at this hub: agents' tunnels, the door for their rows, and the way through the tunnels for
//! whoever asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use model::status::{ActiveTarget, TargetHealth};
use model::{Labels, SourceId, TenantId};
use prometheus_client::registry::Registry;
use proxy::{BoxFuture, ClusterState, FetchRequest, FleetError, FleetTarget};
use remote::ship::message::queue_id;
use remote::ship::{Door, DoorError, Peer};
use remote::{IntakeConfig, IntakeMetrics, OnLost, StoreIntake};
use stdx::clock::Clock;
use stdx::disk::RealDisk;
use storage::Appender;
use tokio::time::Instant;
use tunnel::identity::{PeerIdentity, PeerKind, Standing};
use tunnel::{AGENT_SAYS, AgentKey, Agents, Ask, RequestError, TUNNEL_PATH, Timings, To};

use tunnel::policy::SCRAPE_PATH;

use super::incarnations::Incarnations;
use super::pair_words::PairWords;
use super::presence::HeardAgents;
use crate::agent::reach::{TARGETS_PATH, TargetLine};

/// Where agents begin to send rows.
const HELLO_PATH: &str = "/fleet/v1/rows/hello";
/// Where agents send rows.
const BLOCKS_PATH: &str = "/fleet/v1/rows/blocks";
/// Where agents that share targets hear of each other while their leases are away.
const PAIR_PATH: &str = "/fleet/v1/pair";
/// Dictionaries of agents' segments, within the data directory.
const DICTIONARIES: &str = "fleet/dictionaries";
/// Whose agents' queues are, below the data directory.
const QUEUES: &str = "fleet/queues";
/// What says which cluster a series comes from.
pub(super) const CLUSTER_LABEL: &str = "cluster";
/// How often the intake lets go of what nobody uses.
const UPKEEP_EVERY: Duration = Duration::from_secs(60);
/// How long an agent has to list its targets.
const LIST_PATIENCE: Duration = Duration::from_secs(10);
/// The largest list of targets.
const LIST_BYTES_MAX: usize = 256 << 20;

/// The fleet of a hub. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fleet {
    agents: Agents,
    door: Arc<Door<StoreIntake>>,
    clock: Arc<dyn Clock>,
    registry: Arc<tenancy::Registry>,
    heard: Arc<HeardAgents>,
    incarnations: Arc<Incarnations>,
    pair_words: Arc<PairWords>,
}

/// What the door does with a message.
type Serve = fn(&Door<StoreIntake>, &Peer, &[u8]) -> Result<Vec<u8>, DoorError>;

/// What a fleet works with.
pub(super) struct FleetParts<'a> {
    /// Knows which agents are enrolled.
    pub(super) registry: Arc<tenancy::Registry>,
    /// Takes agents' rows.
    pub(super) appender: Arc<dyn Appender>,
    /// The hub's data directory.
    pub(super) data: &'a Path,
    /// How long samples are kept.
    pub(super) retention: Option<Duration>,
    /// Hears of rows that never come.
    pub(super) on_lost: Option<OnLost>,
    /// Wall time.
    pub(super) clock: Arc<dyn Clock>,
}

impl Fleet {
    /// Nobody is connected yet. To be called on a runtime.
    pub(super) fn new(parts: FleetParts<'_>, registry: &mut Registry) -> Fleet {
        let agents = Agents::new(Timings::default(), Arc::clone(&parts.clock), registry);
        let revocations = Arc::clone(&parts.registry);
        agents.keep_out(move |peer| revocations.is_revoked(&peer.agent_id, &peer.serial));
        let metrics = IntakeMetrics::default();
        metrics.register(registry);
        let config = IntakeConfig {
            dir: parts.data.join(DICTIONARIES),
            names_dir: parts.data.join(QUEUES),
            cluster_label: CLUSTER_LABEL.to_owned(),
            retention_ms: parts.retention.and_then(|kept| i64::try_from(kept.as_millis()).ok()),
            on_lost: parts.on_lost,
        };
        let clock = Arc::clone(&parts.clock);
        let intake = StoreIntake::new(parts.appender, RealDisk::shared(), parts.clock, config, metrics);
        let door = Arc::new(Door::new(intake));
        tokio::spawn(keep_up(Arc::downgrade(&door)));
        let incarnations = Arc::<Incarnations>::default();
        incarnations.register_metrics(registry);
        let (heard, pair_words) = (Arc::default(), Arc::default());
        Fleet { agents, door, clock, registry: parts.registry, heard, incarnations, pair_words }
    }

    /// Who is connected.
    pub(super) fn agents(&self) -> &Agents {
        &self.agents
    }

    /// What was last heard of each agent.
    pub(super) fn heard(&self) -> &HeardAgents {
        &self.heard
    }

    /// Clusters that live twice.
    pub(super) fn incarnations(&self) -> &Incarnations {
        &self.incarnations
    }

    /// Who is enrolled.
    pub(super) fn registry(&self) -> Arc<tenancy::Registry> {
        Arc::clone(&self.registry)
    }

    /// The doors of agents. They know their callers by certificate; nobody else gets in.
    pub(super) fn doors(&self) -> Router {
        let rows = Router::new()
            .route(HELLO_PATH, post(hello))
            .route(BLOCKS_PATH, post(blocks))
            .layer(DefaultBodyLimit::max(remote::ship::message::BATCH_BYTES_MAX));
        let pairs = Router::new()
            .route(PAIR_PATH, post(pair_word))
            .layer(DefaultBodyLimit::max(pairs::WORD_BYTES_MAX));
        Router::new().route(TUNNEL_PATH, get(tunnel)).merge(rows).merge(pairs).with_state(self.clone())
    }

    /// The agent that calls, if its certificate is good for more than a renewal.
    fn agent(&self, peer: Option<Extension<PeerIdentity>>) -> Result<PeerIdentity, Box<Response>> {
        let refused =
            |why: &'static str| Box::new((StatusCode::FORBIDDEN, format!("{why}\n")).into_response());
        let Some(Extension(peer)) = peer else {
            return Err(refused("this door is for agents, which show their certificate"));
        };
        if peer.kind != PeerKind::Agent {
            return Err(refused("this door is for agents"));
        }
        if peer.standing(self.clock.now_ms()) != Standing::Current {
            return Err(refused("the certificate has expired and is good for renewal only"));
        }
        // Its connection may be older than the revocation, and not closed yet.
        if self.registry.is_revoked(&peer.agent_id, &peer.serial) {
            return Err(refused("the agent is revoked"));
        }
        Ok(peer)
    }

    /// Runs what syncs disks off the runtime's threads.
    async fn at_the_door(self, peer: PeerIdentity, body: Bytes, serve: Serve) -> Response {
        let agent = AgentKey::from(&peer);
        self.heard.sign(&agent, self.clock.now_ms());
        let sender = Peer { tenant: peer.tenant, cluster: peer.cluster };
        let done = tokio::task::spawn_blocking(move || {
            let answer = serve(&self.door, &sender, &body)?;
            if let Some(queue_id) = queue_id(&body) {
                self.heard.rows(&agent, self.door.intake().newest_ms(&sender, queue_id));
            }
            Ok(answer)
        });
        let done = done.await;
        match done {
            Ok(Ok(answer)) => ([(header::CONTENT_TYPE, "application/octet-stream")], answer).into_response(),
            Ok(Err(error @ DoorError::Message(_))) => {
                tracing::warn!(agent = peer.agent_id, %error, "an agent's message cannot be read");
                (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
            }
            Ok(Err(error)) => {
                tracing::warn!(agent = peer.agent_id, %error, "an agent's rows cannot be taken now");
                (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
            }
            Err(panic) => {
                tracing::error!(agent = peer.agent_id, %panic, "an agent's message caused a panic");
                (StatusCode::INTERNAL_SERVER_ERROR, "the hub's log has more\n").into_response()
            }
        }
    }

    /// What the series of a cluster carry, as far as all its agents agree.
    pub(super) fn stamped(&self, tenant: &TenantId, cluster: &str) -> Labels {
        let mut agreed: Option<BTreeMap<String, String>> = None;
        let mut agree = |labels: BTreeMap<String, String>| match &mut agreed {
            None => agreed = Some(labels),
            Some(agreed) => agreed.retain(|name, value| labels.get(name) == Some(value)),
        };
        let is_meant = |of: &str, name: &str| of == tenant.as_str() && name == cluster;
        let enrolled = self.registry.agents().into_iter();
        let good = enrolled.filter(|agent| !self.registry.is_revoked(&agent.agent_id, &agent.serial));
        good.filter(|agent| is_meant(&agent.tenant, &agent.cluster)).for_each(|agent| agree(agent.labels));
        let connected = self.agents.list().into_iter().filter(|agent| agent.connections > 0);
        let connected = connected.filter(|agent| is_meant(&agent.key.tenant, &agent.key.cluster));
        connected.for_each(|agent| agree(agent.labels));
        stamped(cluster, &agreed.unwrap_or_default())
    }

    /// When the last agent of a cluster went, milliseconds since the epoch, where that is known.
    pub(super) fn last_seen_ms(&self, tenant: &TenantId, cluster: &str) -> Option<i64> {
        let agents = self.agents.list().into_iter();
        let of_cluster =
            agents.filter(|agent| *agent.key.tenant == *tenant.as_str() && *agent.key.cluster == *cluster);
        of_cluster.filter_map(|agent| agent.last_end).map(|(at_ms, _)| at_ms).max()
    }

    pub(super) fn cluster(tenant: &TenantId, cluster: &str) -> To {
        To::Cluster { tenant: tenant.as_str().into(), cluster: cluster.into() }
    }

    /// Whether an agent of the cluster is connected.
    pub(super) fn is_connected(&self, tenant: &TenantId, cluster: &str) -> bool {
        let agents = self.agents.of_cluster(tenant.as_str(), cluster);
        agents.iter().any(|key| self.agents.get(key).is_some_and(|agent| agent.connections > 0))
    }

    /// Has any agent of a cluster get a page of a target for us, at `path` of the tunnel; within `patience` its
    /// body, too.
    pub(super) async fn page(
        &self,
        (tenant, cluster): (&TenantId, &str),
        path: &str,
        headers: HeaderMap,
        patience: Duration,
    ) -> Result<http::Response<proxy::Body>, FleetError> {
        let asked = scrape_request(path, headers)?;
        let to = Fleet::cluster(tenant, cluster);
        let answer = self.agents.request(&to, asked, Ask::scrape(patience)).await.map_err(told)?;
        if answer.headers().contains_key(AGENT_SAYS) {
            return Err(refusal_of(answer).await);
        }
        Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
    }

    /// Asks one agent, or any of a cluster, and reads the whole answer.
    pub(super) async fn get(&self, to: &To, path: &str) -> Result<Bytes, FleetError> {
        let request = http::Request::builder().method(Method::GET).uri(path).body(Bytes::new());
        let request = request.map_err(|error| FleetError::Failed(error.to_string()))?;
        let answer = self.agents.request(to, request, Ask::control(LIST_PATIENCE)).await.map_err(told)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LIST_BYTES_MAX).collect().await;
        let body = body.map_err(|error| FleetError::Failed(error.to_string()))?.to_bytes();
        if !status.is_success() {
            let said = String::from_utf8_lossy(&body[..body.len().min(300)]).trim().to_owned();
            return Err(FleetError::Failed(format!("the agent answers {status}: {said}")));
        }
        Ok(body)
    }
}

/// What every series of an agent carries, from its cluster and the further labels of its certificate.
pub(super) fn stamped(cluster: &str, further: &BTreeMap<String, String>) -> Labels {
    let further = further.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Labels::from_pairs(further.chain([(CLUSTER_LABEL, cluster)]))
}

async fn keep_up(door: std::sync::Weak<Door<StoreIntake>>) {
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        let Some(door) = door.upgrade() else { return };
        if let Err(panic) = tokio::task::spawn_blocking(move || door.intake().upkeep()).await {
            tracing::error!(%panic, "the intake's upkeep panicked");
        }
    }
}

async fn tunnel(
    State(fleet): State<Fleet>,
    peer: Option<Extension<PeerIdentity>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    mut request: Request,
) -> Response {
    match fleet.agent(peer) {
        Ok(peer) => fleet.agents.accept(&mut request, &peer, remote).map(Body::from),
        Err(refusal) => *refusal,
    }
}

async fn hello(State(fleet): State<Fleet>, peer: Option<Extension<PeerIdentity>>, body: Bytes) -> Response {
    match fleet.agent(peer) {
        Ok(peer) => fleet.at_the_door(peer, body, Door::hello).await,
        Err(refusal) => *refusal,
    }
}

async fn blocks(State(fleet): State<Fleet>, peer: Option<Extension<PeerIdentity>>, body: Bytes) -> Response {
    match fleet.agent(peer) {
        Ok(peer) => fleet.at_the_door(peer, body, Door::blocks).await,
        Err(refusal) => *refusal,
    }
}

async fn pair_word(
    State(fleet): State<Fleet>,
    peer: Option<Extension<PeerIdentity>>,
    body: Bytes,
) -> Response {
    let peer = match fleet.agent(peer) {
        Ok(peer) => peer,
        Err(refusal) => return *refusal,
    };
    match fleet.pair_words.exchange(&peer, &body) {
        Ok(words) => ([(header::CONTENT_TYPE, "application/json")], words).into_response(),
        Err(why) => {
            tracing::warn!(agent = peer.agent_id, "a word between agents of a pair cannot be read: {why}");
            (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response()
        }
    }
}

fn told(error: RequestError) -> FleetError {
    match error {
        RequestError::NotConnected(_) => FleetError::NotConnected,
        RequestError::Busy { .. } => FleetError::Busy(error.to_string()),
        RequestError::Deadline { .. } => FleetError::Timeout,
        RequestError::Lost { .. } => FleetError::Failed(error.to_string()),
    }
}

impl proxy::Fleet for Fleet {
    fn clusters(&self, tenant: &TenantId) -> Vec<ClusterState> {
        let mut clusters: BTreeMap<String, bool> = BTreeMap::new();
        for agent in self.registry.agents() {
            let here = agent.tenant == tenant.as_str() && !agent.elsewhere;
            if here && !self.registry.is_revoked(&agent.agent_id, &agent.serial) {
                clusters.insert(agent.cluster, false);
            }
        }
        for agent in self.agents.list() {
            if *agent.key.tenant == *tenant.as_str() && agent.connections > 0 {
                clusters.insert(agent.key.cluster.to_string(), true);
            }
        }
        clusters.into_iter().map(|(name, connected)| ClusterState { name, connected }).collect()
    }

    fn targets<'a>(
        &'a self,
        tenant: &'a TenantId,
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<Vec<FleetTarget>, FleetError>> {
        Box::pin(async move {
            let body = self.get(&Fleet::cluster(tenant, cluster), TARGETS_PATH).await?;
            let lines: Vec<TargetLine> = serde_json::from_slice(&body)
                .map_err(|error| FleetError::Failed(format!("the agent's list of targets: {error}")))?;
            Ok(lines.into_iter().map(fleet_target).collect())
        })
    }

    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<http::Response<proxy::Body>, FleetError>> {
        Box::pin(async move {
            let path = format!("{SCRAPE_PATH}{}", request.target);
            let patience = request.deadline.saturating_duration_since(Instant::now());
            self.page((&request.tenant, &request.cluster), &path, request.headers, patience).await
        })
    }
}

fn scrape_request(path: &str, headers: HeaderMap) -> Result<http::Request<Bytes>, FleetError> {
    let request = http::Request::builder().method(Method::GET).uri(path);
    let mut request = request.body(Bytes::new()).map_err(|_| FleetError::UnknownTarget)?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// What the agent itself says, as against the target.
async fn refusal_of<B>(answer: http::Response<B>) -> FleetError
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let status = answer.status();
    let body = Limited::new(answer.into_body(), 4096).collect().await.map(|body| body.to_bytes());
    let said = body.map(|body| String::from_utf8_lossy(&body).trim().to_owned()).unwrap_or_default();
    match status {
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => FleetError::UnknownTarget,
        StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => FleetError::Refused(said),
        StatusCode::GATEWAY_TIMEOUT => FleetError::Timeout,
        _ => FleetError::Failed(said),
    }
}

fn fleet_target(line: TargetLine) -> FleetTarget {
    let health = match line.health.as_str() {
        "up" => TargetHealth::Up,
        "down" => TargetHealth::Down,
        _ => TargetHealth::Unknown,
    };
    let id = u128::from_str_radix(&line.id, 16).map(SourceId).unwrap_or_default();
    let state = ActiveTarget {
        id,
        scrape_pool: line.pool,
        scraped_by: line.scraped_by,
        discovered_labels: Labels::from_pairs(line.discovered),
        labels: Labels::from_pairs(line.labels),
        scrape_url: line.url,
        last_error: line.last_error,
        last_scrape_ms: line.last_scrape_ms,
        last_scrape_duration_seconds: line.last_scrape_seconds,
        health,
        scrape_interval_ms: line.interval_ms,
        scrape_timeout_ms: line.timeout_ms,
    };
    FleetTarget { id: line.id, state }
}
