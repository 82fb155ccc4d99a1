//! The fleet's other hubs: what one of them learns of tokens, agents and revocations, all know soon after.
//!
//! A hub holds a link to every other hub whose address it knows: it asks for changes, waiting for them when there
//! are none, and tells its own. So one direction that can be dialled is enough for two hubs. What comes is merged
//! ([`tenancy::Registry::merge`]), whoever sent it and however often. A token is redeemed at the hub that made it as
//! long as that can be asked (`docs/design/hubs.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Metrics;
use serde::{Deserialize, Serialize};
use tenancy::{Claim, HubRecord, Merged, Overdrawn, Place, Redeemer, TokenKind};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tunnel::identity::{
    ADMIT_PATH, Admission, AdmitRequest, Alpn, CLAIM_PATH, Claimed, Denied, ExchangeError, LocalKey,
    PAGE_BYTES, PULL_PATH, PUSH_PATH, PullRequest, Pulled, PushRequest, Pushed, ask_hub, requested_key_hash,
};
use tunnel::{Connector, Proxies};

use super::{Client, Identity, Peer, answer, refuse};

/// Longest a hub waits for a change before it answers that there is none.
const WAIT: Duration = Duration::from_secs(20);
/// Shortest and longest pause after a hub could not be asked.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How often the list of hubs is looked at, if nothing changes before.
const LOOK: Duration = Duration::from_secs(5);
/// How long the hub that has made a token has to answer before it counts as out of reach.
const CLAIM_PATIENCE: Duration = Duration::from_secs(5);
/// Claims under way at once: whoever can connect may send tokens that nobody knows.
const CLAIMS_MAX: usize = 16;

/// A hub, as `marigraph hub list` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FleetHub {
    /// Its id; empty as long as it has not answered.
    pub(crate) hub_id: String,
    /// Where it is reached; empty when nobody knows.
    pub(crate) address: String,
    /// `this one`, `revoked`, `linked`, `out of reach`, or `dials us`.
    pub(crate) state: String,
    /// When it last answered or told something, milliseconds since the epoch.
    pub(crate) heard_ms: Option<i64>,
    /// Why it cannot be asked.
    pub(crate) error: String,
    /// The roots it trusts, the one that its certificate leads to first.
    pub(crate) roots: Vec<String>,
}

/// What is known of the fleet's other hubs.
pub(super) struct Fellows {
    /// Addresses of the configuration.
    configured: Vec<String>,
    /// By address.
    links: Mutex<BTreeMap<String, Link>>,
    /// When hubs have asked or told something here, by id.
    heard: Mutex<BTreeMap<String, i64>>,
    claims: Semaphore,
    stopping: CancellationToken,
    figures: Figures,
}

/// How a link fares.
#[derive(Debug, Clone, Default)]
struct Link {
    hub_id: String,
    heard_ms: Option<i64>,
    /// Why it is down.
    error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Address {
    hub: String,
}

#[derive(Debug, Default)]
struct Figures {
    linked: Family<Address, Gauge>,
    records: Counter,
    overdrawn: Gauge,
}

impl Fellows {
    pub(super) fn new(configured: Vec<String>) -> Fellows {
        Fellows {
            configured,
            links: Mutex::default(),
            heard: Mutex::default(),
            claims: Semaphore::new(CLAIMS_MAX),
            stopping: CancellationToken::new(),
            figures: Figures::default(),
        }
    }

    /// The hub behind an address has answered, or not.
    fn outcome(&self, address: &str, now_ms: i64, outcome: Result<String, String>) {
        let mut links = self.links.lock();
        let link = links.entry(address.to_owned()).or_default();
        self.figures.linked.get_or_create(&Address { hub: address.to_owned() }).set(outcome.is_ok().into());
        match outcome {
            Ok(hub_id) => {
                if link.error.take().is_some() || link.heard_ms.is_none() {
                    tracing::info!(hub = hub_id, address, "linked with a hub of the fleet");
                }
                link.hub_id = hub_id;
                link.heard_ms = Some(now_ms);
            }
            Err(error) => {
                if link.error.as_ref() != Some(&error) {
                    tracing::warn!(hub = link.hub_id, address, error, "a hub of the fleet cannot be asked");
                }
                link.error = Some(error);
            }
        }
    }
}

/// The doors of other hubs; they guard themselves.
pub(super) fn doors() -> Router<Arc<Identity>> {
    Router::new()
        .route(PULL_PATH, post(pull))
        .route(PUSH_PATH, post(push))
        .route(CLAIM_PATH, post(claim))
        .route(ADMIT_PATH, post(admit))
}

impl Identity {
    /// Puts its figures into `registry` as `marigraph_hubs_*`.
    pub(crate) fn register_metrics(&self, registry: &mut Metrics) {
        let figures = &self.fellows.figures;
        let registry = registry.sub_registry_with_prefix("marigraph_hubs");
        registry.register("linked", "Whether a hub of the fleet answers, by address", figures.linked.clone());
        registry.register("records", "Records learned from other hubs", figures.records.clone());
        registry.register(
            "overdrawn_tokens",
            "Tokens that were redeemed more often than they may be, while hubs did not reach each other",
            figures.overdrawn.clone(),
        );
        self.count_overdrawn();
    }

    /// Ends waits of other hubs, so that a stop need not.
    pub(crate) fn stop(&self) {
        self.fellows.stopping.cancel();
    }

    /// Keeps links with all other hubs, until dropped.
    pub(crate) async fn keep_fellows(self: &Arc<Self>) {
        let mut changes = self.registry().changes();
        let mut links = JoinSet::new();
        let mut linked: BTreeMap<String, tokio::task::AbortHandle> = BTreeMap::new();
        loop {
            let wanted = self.addresses();
            linked.retain(|address, task| {
                let stays = wanted.contains(address);
                if !stays {
                    task.abort();
                    self.fellows.links.lock().remove(address);
                    self.fellows.figures.linked.remove(&Address { hub: address.clone() });
                }
                stays
            });
            for address in wanted {
                let identity = Arc::clone(self);
                linked
                    .entry(address.clone())
                    .or_insert_with(|| links.spawn(async move { identity.keep_link(&address).await }));
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
                Some(_) = links.join_next() => {}
            }
        }
    }

    /// Where other hubs are reached.
    fn addresses(&self) -> BTreeSet<String> {
        let own = self.desk.authority.hub_id();
        let known = self.registry().hubs().into_iter();
        known
            .filter(|hub| hub.hub_id != own && !self.registry().is_revoked(&hub.hub_id, ""))
            .map(|hub| hub.address)
            .chain(self.fellows.configured.iter().cloned())
            .map(|address| address.trim_end_matches('/').to_owned())
            .filter(|address| !address.is_empty() && *address != self.address.trim_end_matches('/'))
            .collect()
    }

    async fn keep_link(self: &Arc<Self>, address: &str) {
        tokio::join!(self.keep_pulling(address), self.keep_pushing(address));
    }

    async fn keep_pulling(self: &Arc<Self>, address: &str) {
        let mut asked = PullRequest::default();
        let mut pause = RETRY.0;
        loop {
            let pulled: Result<Pulled, _> = self.ask(address, PULL_PATH, &asked).await;
            let outcome = match pulled {
                Ok(pulled) => self.take(address, pulled, &mut asked).await,
                Err(error) => Err(error.to_string()),
            };
            let failed = outcome.is_err();
            self.fellows.outcome(address, self.clock.now_ms(), outcome);
            if failed {
                asked.wait_ms = 0;
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.7..1.3))).await;
                pause = pause.saturating_mul(2).min(RETRY.1);
            } else {
                pause = RETRY.0;
            }
        }
    }

    /// Merges a page, follows a rotation, and says what to ask next; gives the id of the hub.
    async fn take(
        self: &Arc<Self>,
        address: &str,
        pulled: Pulled,
        asked: &mut PullRequest,
    ) -> Result<String, String> {
        let Pulled { hub_id, roots, page } = pulled;
        if hub_id == self.desk.authority.hub_id() {
            // Our own address, by another name: nothing is to be learned, and nothing fails.
            tokio::time::sleep(WAIT).await;
            return Ok(hub_id);
        }
        let (epoch, revision, more) = (page.epoch, page.revision, page.more);
        let identity = Arc::clone(self);
        let merge = move || {
            let merged = identity.registry().merge(page.records).map_err(|error| error.to_string())?;
            identity.tell_of(&merged);
            Ok::<(), String>(())
        };
        tokio::task::spawn_blocking(merge).await.map_err(|error| error.to_string())??;
        *asked = PullRequest { epoch, revision, wait_ms: if more { 0 } else { millis(WAIT) } };
        if self.desk.authority.is_behind(&roots) {
            self.follow(address).await.map_err(|error| format!("follow its roots: {error:#}"))?;
        }
        Ok(hub_id)
    }

    /// Gets an intermediate under the root that signs now, and the roots.
    async fn follow(self: &Arc<Self>, address: &str) -> anyhow::Result<()> {
        let key = LocalKey::generate()?;
        let asked = AdmitRequest { request: key.request()? };
        let admission: Admission = self.ask(address, ADMIT_PATH, &asked).await?;
        let identity = Arc::clone(self);
        let follow = move || {
            identity.desk.authority.join(&key, admission)?;
            identity.show()
        };
        tokio::task::spawn_blocking(follow).await??;
        tracing::warn!(at = address, "the fleet's roots were changed; this hub follows");
        Ok(())
    }

    async fn keep_pushing(self: &Arc<Self>, address: &str) {
        let mut changes = self.registry().changes();
        // The epoch of their registry, and up to where they know ours.
        let (mut theirs, mut told) = (None, (0, 0));
        let mut pause = RETRY.0;
        loop {
            changes.mark_unchanged();
            let page = self.registry().since(told.0, told.1, PAGE_BYTES);
            let next = (page.epoch, page.revision);
            let pushed = self.ask(address, PUSH_PATH, &PushRequest { records: page.records }).await;
            let Ok(Pushed { epoch, .. }) = pushed else {
                // The pulls tell the log.
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.7..1.3))).await;
                pause = pause.saturating_mul(2).min(RETRY.1);
                continue;
            };
            pause = RETRY.0;
            // They may have come back with less than they knew: restored, or on another disk.
            let forgot = theirs.replace(epoch).is_some_and(|before| before != epoch);
            told = if forgot { (0, 0) } else { next };
            if page.more || forgot {
                continue;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(WAIT) => {}
            }
        }
    }

    async fn ask<A: serde::de::DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        message: &(impl Serialize + Sync),
    ) -> Result<A, ExchangeError> {
        let tls = self.desk.authority.client_tls()?.client_config(Alpn::Http1);
        let reach = Connector::new(Proxies::from_environment());
        ask_hub(&reach, address, tls, path, message).await
    }

    /// Says what a merge brought.
    fn tell_of(&self, merged: &Merged) {
        self.fellows.figures.records.inc_by(merged.news as u64);
        for Overdrawn { id, uses_max, agents } in &merged.overdrawn {
            let agents = agents.join(" ");
            tracing::error!(
                token = id,
                uses_max,
                agents,
                "a token was redeemed more often than it may be, at hubs that did not reach each other; revoke the \
                 agent that is not yours"
            );
        }
        if merged.news > 0 {
            self.count_overdrawn();
        }
    }

    fn count_overdrawn(&self) {
        let overdrawn = self.registry().overdrawn().len();
        self.fellows.figures.overdrawn.set(i64::try_from(overdrawn).unwrap_or(i64::MAX));
    }

    /// Tells the fleet where this hub is reached and which roots it trusts.
    pub(super) fn tell_of_self(&self) -> anyhow::Result<()> {
        let hub_id = self.desk.authority.hub_id();
        let known = self.registry().hubs().into_iter().find(|hub| hub.hub_id == hub_id);
        let roots: Vec<String> = self.desk.authority.pins()?.iter().map(ToString::to_string).collect();
        let same = |known: &HubRecord| {
            (self.address.is_empty() || known.address == self.address) && known.roots == roots
        };
        if known.as_ref().is_some_and(same) {
            return Ok(());
        }
        // Newer than what is known, whatever the clock has done.
        let at_ms = known.map_or(0, |known| known.at_ms.saturating_add(1)).max(self.clock.now_ms());
        let hub = HubRecord { hub_id, address: self.address.clone(), roots, at_ms };
        self.registry().remember_hub(hub).context("write down which roots this hub trusts")
    }

    /// The fleet's hubs, this one among them.
    pub(super) fn hubs(&self) -> Vec<FleetHub> {
        let own = self.desk.authority.hub_id();
        let links = self.fellows.links.lock().clone();
        let heard = self.fellows.heard.lock().clone();
        let shown = |hub: HubRecord| {
            let link = links.get(hub.address.trim_end_matches('/')).cloned().unwrap_or_default();
            let heard_ms = link.heard_ms.max(heard.get(&hub.hub_id).copied());
            let state = match &link.error {
                _ if hub.hub_id == own => "this one",
                _ if self.registry().is_revoked(&hub.hub_id, "") => "revoked",
                None if link.heard_ms.is_some() => "linked",
                _ if heard.get(&hub.hub_id).is_some_and(|at| self.clock.now_ms() - at < 60_000) => "dials us",
                _ => "out of reach",
            };
            FleetHub {
                hub_id: hub.hub_id,
                address: hub.address,
                state: state.to_owned(),
                heard_ms,
                error: link.error.unwrap_or_default(),
                roots: hub.roots,
            }
        };
        let mut hubs: Vec<FleetHub> = self.registry().hubs().into_iter().map(shown).collect();
        let silent = links.iter().filter(|(address, _)| !hubs.iter().any(|hub| hub.address == **address));
        let others: Vec<FleetHub> = silent
            .map(|(address, link)| FleetHub {
                hub_id: link.hub_id.clone(),
                address: address.clone(),
                state: if link.error.is_none() { "linked" } else { "out of reach" }.to_owned(),
                heard_ms: link.heard_ms,
                error: link.error.clone().unwrap_or_default(),
                roots: Vec::new(),
            })
            .collect();
        hubs.extend(others);
        hubs
    }

    /// Has a token of another hub redeemed there, so that it can be redeemed here. Where that hub cannot be
    /// asked, nothing is done: the use is counted here, and told later.
    pub(super) async fn claim(
        self: &Arc<Self>,
        token: &str,
        kind: TokenKind,
        request: &str,
    ) -> Result<(), Denied> {
        // What is wrong with either is said by the desk.
        let Ok(key) = requested_key_hash(request) else { return Ok(()) };
        let Ok(place) = self.registry().place(token, Redeemer { kind, key: &key }) else { return Ok(()) };
        let (homes, claim, known) = match place {
            Place::Here => return Ok(()),
            Place::Home(home, claim) => (self.addresses_of(&home), claim, true),
            Place::Unknown(claim) => (self.addresses().into_iter().collect(), claim, false),
        };
        let later = |what: String| Err(Denied { status: 503, message: what });
        let Ok(_permit) = self.fellows.claims.try_acquire() else {
            return later("too many tokens are being looked up; try again".into());
        };
        let mut asked = JoinSet::new();
        for address in homes {
            let (identity, claim) = (Arc::clone(self), claim.clone());
            asked.spawn(async move {
                let claimed = identity.ask::<Claimed>(&address, CLAIM_PATH, &claim);
                let outcome = tokio::time::timeout(CLAIM_PATIENCE, claimed).await;
                (address, outcome)
            });
        }
        let mut silent = Vec::new();
        while let Some(outcome) = asked.join_next().await {
            let Ok((address, outcome)) = outcome else { continue };
            match outcome {
                Ok(Ok(Claimed { records })) => return self.merge_claimed(records).await,
                Ok(Err(ExchangeError::Refused { what, .. })) if known => {
                    return Err(Denied { status: 403, message: what });
                }
                // It is none of that hub's.
                Ok(Err(ExchangeError::Refused { .. })) => {}
                Ok(Err(error)) => {
                    tracing::warn!(token = claim.id, address, %error, "ask a hub for a token");
                    silent.push(address);
                }
                Err(_) => silent.push(address),
            }
        }
        if known {
            tracing::warn!(
                token = claim.id,
                "the hub that made the token is out of reach; its use is counted here"
            );
            return Ok(());
        }
        match silent.is_empty() {
            true => Ok(()),
            false => later(format!(
                "the token is not known at this hub, and {} that may know it cannot be asked now",
                silent.join(", ")
            )),
        }
    }

    async fn merge_claimed(self: &Arc<Self>, records: Vec<tenancy::Record>) -> Result<(), Denied> {
        let identity = Arc::clone(self);
        let merge = move || identity.registry().merge(records).map(|merged| identity.tell_of(&merged));
        let failed = |error: &dyn std::fmt::Display| Denied { status: 503, message: error.to_string() };
        match tokio::task::spawn_blocking(merge).await {
            Ok(merged) => merged.map_err(|error| failed(&error)),
            Err(panic) => Err(failed(&panic)),
        }
    }

    fn addresses_of(&self, hub_id: &str) -> Vec<String> {
        let known = self.registry().hubs().into_iter().filter(|hub| hub.hub_id == hub_id);
        let mut addresses: Vec<String> =
            known.map(|hub| hub.address.trim_end_matches('/').to_owned()).collect();
        let links = self.fellows.links.lock();
        addresses.extend(links.iter().filter(|(_, link)| link.hub_id == hub_id).map(|(at, _)| at.clone()));
        addresses.retain(|address| !address.is_empty());
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// The hub that calls; what it hears of is its business.
    fn fellow(&self, peer: &Peer) -> Result<tunnel::identity::PeerIdentity, Denied> {
        let hub = self.desk.hub(peer.as_ref().map(|Extension(peer)| peer))?;
        let mut heard = self.fellows.heard.lock();
        heard.insert(hub.agent_id.clone(), self.clock.now_ms());
        Ok(hub.clone())
    }
}

async fn pull(
    State(hub): State<Arc<Identity>>,
    peer: Peer,
    client: Client,
    Json(asked): Json<PullRequest>,
) -> Response {
    let mut changes = hub.registry().changes();
    changes.mark_unchanged();
    let wait = Duration::from_millis(asked.wait_ms).min(WAIT);
    let fellow = match hub.fellow(&peer) {
        Ok(fellow) => fellow,
        Err(denied) => return refuse("tell a hub of changes", client, denied),
    };
    let known = asked.epoch == hub.registry().epoch();
    if known && hub.registry().since(asked.epoch, asked.revision, 0).records.is_empty() {
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(wait) => {}
            () = hub.fellows.stopping.cancelled() => {}
        }
    }
    answer(hub, "tell a hub of changes", client, move |hub| {
        hub.desk.hub(Some(&fellow))?;
        Ok(hub.desk.pulled(&asked))
    })
    .await
}

async fn push(
    State(hub): State<Arc<Identity>>,
    peer: Peer,
    client: Client,
    Json(told): Json<PushRequest>,
) -> Response {
    answer(hub, "hear a hub", client, move |hub| {
        hub.fellow(&peer)?;
        let (pushed, merged) = hub.desk.told(told)?;
        hub.tell_of(&merged);
        Ok(pushed)
    })
    .await
}

async fn claim(
    State(hub): State<Arc<Identity>>,
    peer: Peer,
    client: Client,
    Json(claim): Json<Claim>,
) -> Response {
    answer(hub, "redeem a token for a hub", client, move |hub| {
        let fellow = hub.fellow(&peer)?;
        let claimed = hub.desk.claimed(&claim)?;
        tracing::info!(token = claim.id, at = fellow.agent_id, "a token is redeemed at another hub");
        Ok(claimed)
    })
    .await
}

async fn admit(
    State(hub): State<Arc<Identity>>,
    peer: Peer,
    client: Client,
    Json(asked): Json<AdmitRequest>,
) -> Response {
    answer(hub, "admit a hub again", client, move |hub| {
        let fellow = hub.fellow(&peer)?;
        let admission = hub.desk.admitted(&fellow, &asked)?;
        tracing::info!(hub = fellow.agent_id, "a hub follows the fleet's roots");
        Ok(admission)
    })
    .await
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
