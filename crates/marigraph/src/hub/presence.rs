//! Who is there: signs of life of agents, for the ledger, which says who is silent.
//!
//! Rows are the sign that costs nothing. A connected agent without rows is asked how it does, where two intervals of its
//! cluster are less than what the tunnel's own pings need to tell: a process that hangs holds its connections.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ::ledger::Ledger;
use model::TenantId;
use parking_lot::Mutex;
use stdx::clock::Clock;
use tunnel::{AgentKey, AgentState, To};

use super::fleet::Fleet;
use super::settle::Settling;
use crate::agent::reach::STATUS_PATH;

/// How often signs of life are collected.
const ROUND: Duration = Duration::from_secs(1);
/// Agents that come at once are looked at together.
const PAUSE: Duration = Duration::from_millis(100);
/// Rounds between two looks at who is enrolled.
const ENROLLED_ROUNDS: u64 = 5;
/// From this interval on a connection is sign enough, milliseconds: pings tell of its end in ten seconds, the ledger
/// waits for fifteen more.
const CONNECTION_DOES_MS: i64 = 12_500;
/// How long an agent may be without rows before it is asked, less than two intervals by what it takes to answer and to
/// tell; at least and at most, milliseconds.
const ASKED_EARLIER_MS: i64 = 4_000;
const ASKED_AFTER_MS: (i64, i64) = (1_000, 11_000);
/// The time it has for the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What was last heard of agents.
#[derive(Debug, Default)]
pub(super) struct HeardAgents(Mutex<HashMap<AgentKey, Heard>>);

/// What was last heard of an agent, milliseconds since the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Heard {
    /// The last sign of life.
    pub(super) sign_ms: i64,
    /// When its newest row began that this hub has taken since it started.
    pub(super) newest_ms: Option<i64>,
}

impl HeardAgents {
    /// It said something.
    pub(super) fn sign(&self, agent: &AgentKey, at_ms: i64) {
        let mut heard = self.0.lock();
        let sign_ms = &mut heard.entry(agent.clone()).or_default().sign_ms;
        *sign_ms = at_ms.max(*sign_ms);
    }

    /// Rows of it were taken; the newest one so far.
    pub(super) fn rows(&self, agent: &AgentKey, newest_ms: Option<i64>) {
        let mut heard = self.0.lock();
        let newest = &mut heard.entry(agent.clone()).or_default().newest_ms;
        *newest = (*newest).max(newest_ms);
    }

    pub(super) fn of(&self, agent: &AgentKey) -> Heard {
        self.0.lock().get(agent).copied().unwrap_or_default()
    }

    /// Keeps what is known of agents that are still remembered.
    fn keep(&self, known: &[AgentState]) {
        let mut heard = self.0.lock();
        if heard.len() > known.len() {
            let known: HashSet<&AgentKey> = known.iter().map(|agent| &agent.key).collect();
            heard.retain(|agent, _| known.contains(agent));
        }
    }
}

/// Collects signs of life.
pub(super) struct Presence {
    pub(super) ledger: Arc<Ledger>,
    pub(super) fleet: Fleet,
    pub(super) clock: Arc<dyn Clock>,
}

impl Presence {
    /// Tells the ledger which agents have leave to send and which are there, until it is aborted.
    pub(super) async fn keep(self) {
        let mut changes = self.fleet.agents().changes();
        let mut settling = Settling::default();
        let asking = Arc::<Mutex<HashSet<AgentKey>>>::default();
        for round in 0u64.. {
            let list = self.fleet.agents().list();
            let now_ms = self.clock.now_ms();
            let changed = changes.has_changed().unwrap_or(true);
            changes.mark_unchanged();
            if changed || round % ENROLLED_ROUNDS == 0 {
                self.enrolled();
                self.fleet.heard().keep(&list);
            }
            for agent in list.iter().filter(|agent| agent.connections > 0) {
                self.look(agent, now_ms, &asking);
            }
            self.fleet.incarnations().look(&list, now_ms);
            if round % ENROLLED_ROUNDS == 0 {
                settling.look(&self.ledger, &self.fleet.registry(), &list, now_ms);
            }
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                () = tokio::time::sleep(ROUND - PAUSE) => {}
                changed = changes.changed() => match changed {
                    Ok(()) => changes.mark_changed(),
                    Err(_) => return,
                },
            }
        }
    }

    /// Tells the ledger who has leave to send.
    fn enrolled(&self) {
        let registry = self.fleet.registry();
        for agent in registry.agents() {
            let Ok(tenant) = TenantId::new(&agent.tenant) else { continue };
            if agent.elsewhere || registry.is_revoked(&agent.agent_id, &agent.serial) {
                self.ledger.agent_gone(&tenant, &agent.cluster, &agent.agent_id);
            } else {
                self.ledger.agent_enrolled(&tenant, &agent.cluster, &agent.agent_id, agent.enrolled_ms);
            }
        }
    }

    /// Looks for a sign of life of a connected agent.
    fn look(&self, agent: &AgentState, now_ms: i64, asking: &Arc<Mutex<HashSet<AgentKey>>>) {
        let key = &agent.key;
        let Ok(tenant) = TenantId::new(&key.tenant) else { return };
        let mut sign_ms = now_ms;
        let interval_ms = self.ledger.shortest_interval_ms(&tenant, &key.cluster);
        if let Some(interval_ms) = interval_ms.filter(|interval_ms| *interval_ms < CONNECTION_DOES_MS) {
            let heard_ms = self.fleet.heard().of(key).sign_ms;
            sign_ms = heard_ms.max(agent.connected_since_ms.unwrap_or(now_ms)).min(now_ms);
            let (least, most) = ASKED_AFTER_MS;
            let asked_after_ms = (2 * interval_ms - ASKED_EARLIER_MS).clamp(least, most);
            if now_ms - sign_ms > asked_after_ms && asking.lock().insert(key.clone()) {
                tokio::spawn(ask(
                    self.fleet.clone(),
                    key.clone(),
                    Arc::clone(&self.clock),
                    Arc::clone(asking),
                ));
            }
        }
        self.ledger.agent_seen(&tenant, &key.cluster, &key.agent, sign_ms);
        if let Err(error) = self.fleet.registry().seen_here(&key.agent) {
            tracing::error!(%error, agent = &*key.agent, "write down that an agent was seen");
        }
    }
}

/// Asks an agent how it does; any answer is a sign of life.
async fn ask(fleet: Fleet, agent: AgentKey, clock: Arc<dyn Clock>, asking: Arc<Mutex<HashSet<AgentKey>>>) {
    let answer = tokio::time::timeout(PATIENCE, fleet.get(&To::Agent(agent.clone()), STATUS_PATH)).await;
    if matches!(answer, Ok(Ok(_))) {
        fleet.heard().sign(&agent, clock.now_ms());
    }
    asking.lock().remove(&agent);
}
