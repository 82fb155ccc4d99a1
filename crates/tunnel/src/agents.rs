//! The hub's side: who is connected, and a way to ask them.
//!
//! [`Agents::accept`] answers an agent's request for a tunnel; from then on the hub is the HTTP/2 client
//! on that connection. An agent may have several connections (the old one while its certificate is
//! renewed, one for large answers); the newest is asked.
//!
//! # How one request cannot hurt another
//!
//! - On each connection at most [`SCRAPES_MAX`](crate::protocol::SCRAPES_MAX) requests are answered at
//!   once, beside a few of the hub's own. Who comes later waits in line, first come, first served. A
//!   request whose target keeps silent makes room after a second, and waits on the side.
//! - The connection's window holds the windows of all streams: a body nobody reads stops only itself.
//! - A body has a deadline, also while nobody reads it; then its stream is reset. Dropping it does that
//!   at once, and the agent stops fetching.

mod answer;
mod link;
mod metrics;
mod slots;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE as UPGRADE_HEADER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use stdx::clock::Clock;
use tokio::sync::watch;
use tokio::time::Instant;

pub use answer::TunnelBody;
pub use link::Measured;
pub use slots::Lane;

use crate::identity::{PeerIdentity, PeerKind, Standing};
use crate::protocol::{
    BULK_PATH, INCARNATION, KIND, Kind, STARTED_MS, TIME_MS, Timings, UPGRADE, VERSION, number, text,
};
use link::{Asked, Link};
use metrics::AgentsMetrics;

/// Connections of one agent and kind; when one more comes, the oldest goes.
const LINKS_PER_AGENT_MAX: usize = 4;
/// Connections at all; then agents are told to come later.
const LINKS_MAX: usize = 40_000;
/// Agents that are remembered after they have gone.
const GONE_MAX: usize = 10_000;
/// How long a request for bulk waits for the agent to make that connection.
const BULK_PATIENCE: Duration = Duration::from_secs(5);
/// How often deadlines of bodies that nobody reads are looked at.
const REAP_EVERY: Duration = Duration::from_secs(1);
/// The longest version, and the longest name of an incarnation, that is kept.
const VERSION_CHARS_MAX: usize = 64;

/// Which agent: names come from its certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentKey {
    /// The tenant whose data it sends.
    pub tenant: Arc<str>,
    /// The cluster it stands in.
    pub cluster: Arc<str>,
    /// Its own name; a cluster may have several agents.
    pub agent: Arc<str>,
}

impl From<&PeerIdentity> for AgentKey {
    fn from(peer: &PeerIdentity) -> AgentKey {
        let (cluster, agent) = (peer.cluster.as_str().into(), peer.agent_id.as_str().into());
        AgentKey { tenant: peer.tenant.as_str().into(), cluster, agent }
    }
}

impl fmt::Display for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.cluster, self.agent)
    }
}

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// This agent.
    Agent(AgentKey),
    /// Any agent of a tenant's cluster: the one with the least to do.
    Cluster {
        /// The tenant.
        tenant: Arc<str>,
        /// The cluster.
        cluster: Arc<str>,
    },
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            To::Agent(key) => write!(f, "agent {key}"),
            To::Cluster { tenant, cluster } => write!(f, "cluster {tenant}/{cluster}"),
        }
    }
}

/// How to ask.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The time for all of it: waiting in line, the answer's head, its body.
    pub deadline: Duration,
    /// Beside which other requests it runs.
    pub lane: Lane,
}

impl Ask {
    /// A scrape, or what a person waits for.
    pub fn scrape(deadline: Duration) -> Ask {
        Ask { deadline, lane: Lane::Scrape }
    }

    /// The hub's own: small answers that must not wait behind scrapes.
    pub fn control(deadline: Duration) -> Ask {
        Ask { deadline, lane: Lane::Control }
    }

    /// Large answers, on a connection of their own.
    pub fn bulk(deadline: Duration) -> Ask {
        Ask { deadline, lane: Lane::Bulk }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such agent is connected (any more).
    #[error("{0} is not connected")]
    NotConnected(To),
    /// Too many requests wait for this agent already.
    #[error("{to}: {waiting} requests wait already")]
    Busy {
        /// Who was asked.
        to: To,
        /// How many wait.
        waiting: usize,
    },
    /// The time is over.
    #[error("{to}: no answer in {after:?} ({phase})")]
    Deadline {
        /// Who was asked.
        to: To,
        /// How long was waited.
        after: Duration,
        /// What was waited for.
        phase: &'static str,
    },
    /// The connection broke before an answer came; whether the agent saw the request is not known.
    #[error("{to}: {what}")]
    Lost {
        /// Who was asked.
        to: To,
        /// How it broke.
        what: String,
    },
}

/// An agent, for people and for the fleet API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentState {
    /// Which.
    pub key: AgentKey,
    /// Further labels that it puts on everything, from the certificate it last connected with.
    pub labels: BTreeMap<String, String>,
    /// Since when it is connected, milliseconds since the epoch: of its oldest connection.
    pub connected_since_ms: Option<i64>,
    /// When and how its last connection ended (milliseconds since the epoch).
    pub last_end: Option<(i64, String)>,
    /// From where its newest connection comes.
    pub remote: Option<SocketAddr>,
    /// What it says its version is.
    pub version: Option<String>,
    /// When it says its process started, milliseconds since the epoch.
    pub started_ms: Option<i64>,
    /// Which building of its cluster it says it belongs to.
    pub incarnation: Option<String>,
    /// When the certificate of its newest connection runs out, milliseconds since the epoch.
    pub certificate_not_after_ms: Option<i64>,
    /// Round trip and clock at the last measurement.
    pub measured: Option<Measured>,
    /// Connections it has now.
    pub connections: usize,
    /// Requests under way.
    pub in_flight: usize,
    /// Requests that wait in line.
    pub waiting: usize,
}

/// The agents of a hub. Cheap to clone.
#[derive(Clone)]
pub struct Agents(Arc<Shared>);

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agents({})", self.0.table.read().agents.len())
    }
}

struct Shared {
    table: RwLock<Table>,
    changed: watch::Sender<u64>,
    numbers: AtomicU64,
    timings: Timings,
    clock: Arc<dyn Clock>,
    metrics: AgentsMetrics,
    kept_out: OnceLock<KeptOut>,
}

/// Whether a peer may have no tunnel.
type KeptOut = Box<dyn Fn(&PeerIdentity) -> bool + Send + Sync>;

#[derive(Default)]
struct Table {
    agents: BTreeMap<AgentKey, Agent>,
    links: usize,
    /// Connections that take no requests any more; answers may still be under way on them.
    leaving: Vec<Weak<Link>>,
}

/// What is known of an agent.
#[derive(Default)]
struct Agent {
    /// Oldest first.
    links: Vec<Arc<Link>>,
    labels: BTreeMap<String, String>,
    last_end: Option<(i64, String)>,
    version: Option<String>,
    started_ms: Option<i64>,
    incarnation: Option<String>,
}

impl Agents {
    /// Nobody yet; figures go into `registry` as `marigraph_tunnel_*`.
    ///
    /// Must be called on a runtime: a task looks after deadlines as long as a clone lives.
    pub fn new(timings: Timings, clock: Arc<dyn Clock>, registry: &mut Registry) -> Agents {
        let shared = Arc::new(Shared {
            table: RwLock::default(),
            changed: watch::Sender::new(0),
            numbers: AtomicU64::new(0),
            timings,
            clock,
            metrics: AgentsMetrics::register(registry),
            kept_out: OnceLock::new(),
        });
        tokio::spawn(reap(Arc::downgrade(&shared)));
        Agents(shared)
    }

    /// Tunnels of those for whom `revoked` holds end as soon as they have begun: they were revoked after they had
    /// asked, and [`Agents::close`] did not see them yet. The first to say so is heard.
    pub fn keep_out(&self, revoked: impl Fn(&PeerIdentity) -> bool + Send + Sync + 'static) {
        let _ = self.0.kept_out.set(Box::new(revoked));
    }

    /// Answers an agent's request for a tunnel. `peer` is from its certificate; that it is not revoked was
    /// checked when it connected.
    ///
    /// The answer is 101, and the connection becomes a tunnel once it is sent; or a refusal with the
    /// reason as text. The server must serve its connections with upgrades.
    pub fn accept<B>(
        &self,
        request: &mut Request<B>,
        peer: &PeerIdentity,
        remote: SocketAddr,
    ) -> Response<String> {
        let refuse = |status, why: &'static str| {
            self.0.metrics.refused(why);
            tracing::warn!(agent = peer.uri(), %remote, why, "tunnel refused");
            let mut response = Response::new(why.to_owned());
            *response.status_mut() = status;
            response
        };
        if request.method() != Method::GET {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "a tunnel is asked for with GET");
        }
        if peer.kind != PeerKind::Agent {
            return refuse(StatusCode::FORBIDDEN, "only agents have tunnels");
        }
        if peer.standing(self.0.clock.now_ms()) != Standing::Current {
            return refuse(StatusCode::FORBIDDEN, "the certificate has expired and is good for renewal only");
        }
        let headers = request.headers();
        let wanted = headers.get(UPGRADE_HEADER).is_some_and(|to| to.as_bytes() == UPGRADE.as_bytes());
        if !wanted {
            return refuse(StatusCode::UPGRADE_REQUIRED, "the request has no `Upgrade: marigraph-tunnel`");
        }
        let Some(kind) = Kind::of(headers) else {
            return refuse(StatusCode::BAD_REQUEST, "the kind of tunnel is neither control nor bulk");
        };
        if self.0.table.read().links >= LINKS_MAX {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the hub has as many tunnels as it takes");
        }
        let hello = link::Hello {
            kind,
            remote,
            peer: peer.clone(),
            version: text(headers, &VERSION, VERSION_CHARS_MAX),
            started_ms: number(headers, &STARTED_MS),
            incarnation: text(headers, &INCARNATION, VERSION_CHARS_MAX),
        };
        let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
            return refuse(StatusCode::BAD_REQUEST, "this connection cannot be turned into a tunnel");
        };
        tokio::spawn(Arc::clone(&self.0).attach(AgentKey::from(peer), hello, upgrade));
        let mut response = Response::new(String::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE_HEADER, HeaderValue::from_static(UPGRADE));
        headers.insert(KIND, HeaderValue::from_static(kind.as_str()));
        headers.insert(TIME_MS, HeaderValue::from(self.0.clock.now_ms()));
        response
    }

    /// Asks an agent and gives the head of its answer; the body streams.
    ///
    /// `request` needs only a method, a path and headers; its body is sent whole. A GET whose connection
    /// goes away before the agent can have seen it is sent again on another connection.
    ///
    /// Dropping the future or the body ends the request at the agent, too.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(
        &self,
        to: &To,
        request: Request<Bytes>,
        ask: Ask,
    ) -> Result<Response<TunnelBody>, RequestError> {
        let began = Instant::now();
        let answer = self.0.ask(to, request, ask, began + ask.deadline).await;
        self.0.metrics.asked(ask.lane, began.elapsed(), &answer);
        answer
    }

    /// Closes the connections for whose certificate `which` holds, now; gives how many there were.
    pub fn close(&self, reason: &str, which: impl Fn(&PeerIdentity) -> bool) -> usize {
        let table = self.0.table.read();
        let links = table.agents.values().flat_map(|agent| &agent.links);
        links.filter(|link| which(&link.peer)).map(|link| link.close(reason)).count()
    }

    /// Every agent that is connected, or was since the start (the last [`GONE_MAX`] of those), by key.
    pub fn list(&self) -> Vec<AgentState> {
        self.0.table.read().agents.iter().map(|(key, agent)| agent.state(key)).collect()
    }

    /// One agent.
    pub fn get(&self, key: &AgentKey) -> Option<AgentState> {
        self.0.table.read().agents.get(key).map(|agent| agent.state(key))
    }

    /// The agents of a cluster that are connected now.
    pub fn of_cluster(&self, tenant: &str, cluster: &str) -> Vec<AgentKey> {
        let table = self.0.table.read();
        let connected = table.of_cluster(tenant, cluster).filter(|(_, agent)| agent.is_connected());
        connected.map(|(key, _)| key.clone()).collect()
    }

    /// Changes with every agent that comes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

impl Shared {
    /// Waits for the connection, and drives it until it ends.
    async fn attach(self: Arc<Self>, key: AgentKey, hello: link::Hello, upgrade: OnUpgrade) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let upgraded = match tokio::time::timeout(self.timings.connect_timeout, upgrade).await {
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(error)) => {
                return tracing::debug!(agent = %key, %error, "the agent left before its tunnel began");
            }
            Err(_) => return tracing::warn!(agent = %key, "the agent does not begin its tunnel"),
        };
        let (kind, remote) = (hello.kind, hello.remote);
        let now_ms = self.clock.now_ms();
        let (version, started_ms) = (hello.version.clone(), hello.started_ms);
        let (labels, incarnation) = (hello.peer.labels.clone(), hello.incarnation.clone());
        let begun = Link::over(upgraded, number, hello, now_ms, self.timings);
        let (link, driving) = match tokio::time::timeout(self.timings.connect_timeout, begun).await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return tracing::warn!(agent = %key, %error, "begin a tunnel"),
            Err(_) => return tracing::warn!(agent = %key, "the tunnel takes nothing"),
        };
        {
            let mut table = self.table.write();
            table.links += 1;
            let agent = table.agents.entry(key.clone()).or_default();
            (agent.version, agent.started_ms, agent.labels) = (version, started_ms, labels);
            agent.incarnation = incarnation;
            agent.links.push(Arc::clone(&link));
            let same: Vec<&Arc<Link>> = agent.links.iter().filter(|link| link.kind == kind).collect();
            if same.len() > LINKS_PER_AGENT_MAX {
                same[0].close("replaced by newer connections");
            }
        }
        self.metrics.connected(kind);
        // It is in the table now: whoever is revoked from here on is found there.
        if self.kept_out.get().is_some_and(|revoked| revoked(&link.peer)) {
            link.close("revoked");
        }
        self.notify();
        tracing::info!(agent = %key, %remote, kind = kind.as_str(), "tunnel connected");
        let what = driving.run(&link, &*self.clock).await;
        self.detach(&key, &link, &what);
        tracing::info!(agent = %key, %remote, kind = kind.as_str(), "tunnel ended: {what}");
    }

    fn detach(&self, key: &AgentKey, link: &Arc<Link>, what: &str) {
        {
            let mut table = self.table.write();
            table.links -= 1;
            table.leaving.push(Arc::downgrade(link));
            if let Some(agent) = table.agents.get_mut(key) {
                agent.links.retain(|other| other.number != link.number);
                if link.kind == Kind::Control {
                    agent.last_end = Some((self.clock.now_ms(), what.to_owned()));
                }
            }
            table.forget_gone();
        }
        self.metrics.ended(link.kind, what);
        self.notify();
    }

    fn notify(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    async fn ask(
        &self,
        to: &To,
        mut request: Request<Bytes>,
        ask: Ask,
        end: Instant,
    ) -> Result<Response<TunnelBody>, RequestError> {
        let mut tried = Vec::new();
        loop {
            let link = self.link_for(to, ask.lane, &tried, end).await?;
            tried.push(link.number);
            let spare = (request.method() == Method::GET).then(|| request.clone());
            match link.ask(request, ask, end, &self.metrics).await {
                Asked::Answered(answer) => return Ok(answer),
                Asked::Unsent(unsent) => request = unsent,
                Asked::Refused(what) => match spare {
                    Some(spare) => request = spare,
                    None => return Err(RequestError::Lost { to: to.clone(), what }),
                },
                Asked::Lost(what) => return Err(RequestError::Lost { to: to.clone(), what }),
                Asked::Busy(waiting) => return Err(RequestError::Busy { to: to.clone(), waiting }),
                Asked::Late(phase) => {
                    return Err(RequestError::Deadline { to: to.clone(), after: ask.deadline, phase });
                }
            }
        }
    }

    /// A connection to ask on, other than `tried`.
    async fn link_for(
        &self,
        to: &To,
        lane: Lane,
        tried: &[u64],
        end: Instant,
    ) -> Result<Arc<Link>, RequestError> {
        let link = self.find(to, Kind::Control, tried);
        if lane != Lane::Bulk {
            return link.ok_or_else(|| RequestError::NotConnected(to.clone()));
        }
        if let Some(link) = self.find(to, Kind::Bulk, tried) {
            return Ok(link);
        }
        let control = link.ok_or_else(|| RequestError::NotConnected(to.clone()))?;
        let mut changes = self.changed.subscribe();
        let patience = end.min(Instant::now() + BULK_PATIENCE);
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(BULK_PATH);
        let asked = Ask::control(BULK_PATIENCE);
        drop(control.ask(request, asked, patience, &self.metrics).await);
        while tokio::time::timeout_at(patience, changes.changed()).await.is_ok_and(|seen| seen.is_ok()) {
            if let Some(link) = self.find(to, Kind::Bulk, tried) {
                return Ok(link);
            }
        }
        tracing::debug!(%to, "no connection for large answers: the usual one is used");
        Ok(control)
    }

    /// The newest connection of an agent; of a cluster's agents, that of the one with the least to do.
    fn find(&self, to: &To, kind: Kind, tried: &[u64]) -> Option<Arc<Link>> {
        let table = self.table.read();
        match to {
            To::Agent(key) => table.agents.get(key)?.newest(kind, tried).cloned(),
            To::Cluster { tenant, cluster } => {
                let links =
                    table.of_cluster(tenant, cluster).filter_map(|(_, agent)| agent.newest(kind, tried));
                links.min_by_key(|link| link.load()).cloned()
            }
        }
    }
}

impl Table {
    fn of_cluster<'a>(
        &'a self,
        tenant: &'a str,
        cluster: &'a str,
    ) -> impl Iterator<Item = (&'a AgentKey, &'a Agent)> {
        let first = AgentKey { tenant: tenant.into(), cluster: cluster.into(), agent: "".into() };
        let agents = self.agents.range(first..);
        agents.take_while(move |(key, _)| *key.tenant == *tenant && *key.cluster == *cluster)
    }

    /// Of those that have gone, the longest gone are forgotten when there are too many.
    fn forget_gone(&mut self) {
        let gone = |agent: &Agent| !agent.is_connected();
        if self.agents.len() <= GONE_MAX
            || self.agents.values().filter(|agent| gone(agent)).count() <= GONE_MAX
        {
            return;
        }
        let ended = |agent: &Agent| agent.last_end.as_ref().map(|(at_ms, _)| *at_ms);
        let oldest =
            self.agents.iter().filter(|(_, agent)| gone(agent)).min_by_key(|(_, agent)| ended(agent));
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.agents.remove(&key);
        }
    }
}

impl Agent {
    fn is_connected(&self) -> bool {
        !self.links.is_empty()
    }

    fn newest(&self, kind: Kind, tried: &[u64]) -> Option<&Arc<Link>> {
        let usable =
            |link: &&Arc<Link>| link.kind == kind && !tried.contains(&link.number) && !link.is_closed();
        self.links.iter().rev().find(usable)
    }

    fn state(&self, key: &AgentKey) -> AgentState {
        let newest = self.newest(Kind::Control, &[]);
        AgentState {
            key: key.clone(),
            labels: self.labels.clone(),
            connected_since_ms: self.links.first().map(|link| link.since_ms),
            last_end: self.last_end.clone(),
            remote: newest.map(|link| link.remote),
            version: self.version.clone(),
            started_ms: self.started_ms,
            incarnation: self.incarnation.clone(),
            certificate_not_after_ms: newest.map(|link| link.peer.not_after_ms),
            measured: newest.and_then(|link| link.measured()),
            connections: self.links.len(),
            in_flight: self.links.iter().map(|link| link.load()).sum(),
            waiting: self.links.iter().map(|link| link.waiting()).sum(),
        }
    }
}

/// Ends answers whose time is over and that nobody reads.
async fn reap(shared: Weak<Shared>) {
    let mut links = Vec::new();
    loop {
        tokio::time::sleep(REAP_EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        {
            let mut table = shared.table.write();
            table.leaving.retain(|link| link.strong_count() > 0);
            links.extend(table.leaving.iter().filter_map(Weak::upgrade));
            links.extend(table.agents.values().flat_map(|agent| agent.links.iter().cloned()));
        }
        let now = Instant::now();
        for link in links.drain(..) {
            link.reap(now);
        }
    }
}
