//! Sources of clusters that nobody scrapes any more, because the agent that did has started anew without them.
//!
//! An agent states an end for what it stops scraping, but not for what it forgot while it was down. Once every agent of
//! a cluster is there, and has been for long enough to have begun all it knows (live rows come first), what has not been
//! heard of since the last start is over. As long as one is missing, its sources may be its own: nothing ends.

use std::collections::{BTreeMap, HashMap};

use ledger::Ledger;
use model::TenantId;
use tenancy::Registry;
use tunnel::AgentState;

/// How long an agent has for beginning everything it knows, milliseconds; slower sources have two of their intervals.
const SETTLE_MS: i64 = 5 * 60 * 1000;

/// Up to which start the clusters are settled.
#[derive(Debug, Default)]
pub(super) struct Settling(HashMap<(String, String), i64>);

impl Settling {
    /// Tells the ledger of clusters whose agents have settled after a start.
    pub(super) fn look(&mut self, ledger: &Ledger, registry: &Registry, agents: &[AgentState], now_ms: i64) {
        for ((tenant, cluster), since_ms) in settled(registry, agents, now_ms) {
            let Ok(id) = TenantId::new(&tenant) else { continue };
            let before = self.0.insert((tenant, cluster.clone()), since_ms);
            if before == Some(since_ms) && now_ms - since_ms > FOLLOWED_MS {
                continue;
            }
            if let Err(error) = ledger.settled(&id, &cluster, since_ms) {
                tracing::error!(cluster, %error, "write down which sources are over");
            }
        }
    }
}

/// Sources with an interval of up to half of it may still come; then a start is settled for good.
const FOLLOWED_MS: i64 = 2 * 24 * 3600 * 1000;

/// Clusters all of whose agents are there and have settled, and the last start among them.
fn settled(registry: &Registry, agents: &[AgentState], now_ms: i64) -> BTreeMap<(String, String), i64> {
    let there = |id: &str| agents.iter().find(|agent| *agent.key.agent == *id && agent.connections > 0);
    let mut clusters: BTreeMap<(String, String), Option<i64>> = BTreeMap::new();
    for agent in registry.agents() {
        if agent.elsewhere || registry.is_revoked(&agent.agent_id, &agent.serial) {
            continue;
        }
        let state = there(&agent.agent_id);
        let started = state.and_then(|state| {
            let since = state.started_ms?.max(0).min(now_ms);
            let steady = now_ms - since >= SETTLE_MS && now_ms - state.connected_since_ms? >= SETTLE_MS;
            steady.then_some(since)
        });
        let known = clusters.entry((agent.tenant, agent.cluster)).or_insert(Some(i64::MIN));
        *known = known.zip(started).map(|(a, b)| a.max(b));
    }
    clusters.into_iter().filter_map(|(cluster, since)| Some((cluster, since?))).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use stdx::clock::FakeClock;
    use stdx::disk::FakeDisk;
    use tenancy::AgentRecord;
    use tunnel::AgentKey;

    use super::*;

    const NOW_MS: i64 = 1_790_000_000_000;

    fn record(id: &str, cluster: &str) -> AgentRecord {
        AgentRecord {
            agent_id: id.to_owned(),
            tenant: "default".to_owned(),
            cluster: cluster.to_owned(),
            labels: BTreeMap::new(),
            serial: "01".to_owned(),
            not_after_ms: NOW_MS,
            enrolled_ms: 0,
            renewed_ms: 0,
            token: String::new(),
            roots: Vec::new(),
            brought: String::new(),
            elsewhere: false,
        }
    }

    /// An agent that started, and connected, so many minutes ago.
    fn state(id: &str, cluster: &str, started: i64, connected: i64, connections: usize) -> AgentState {
        AgentState {
            key: AgentKey { tenant: "default".into(), cluster: cluster.into(), agent: id.into() },
            labels: BTreeMap::new(),
            connected_since_ms: Some(NOW_MS - connected * 60_000),
            last_end: None,
            remote: None,
            version: None,
            started_ms: Some(NOW_MS - started * 60_000),
            incarnation: None,
            certificate_not_after_ms: None,
            measured: None,
            connections,
            in_flight: 0,
            waiting: 0,
        }
    }

    #[test]
    fn a_cluster_settles_when_all_its_agents_have() {
        let disk = FakeDisk::new(Path::new("/d"));
        let clock = FakeClock::at(NOW_MS);
        let registry = Registry::open(disk.shared(), Path::new("/d/fleet"), clock).expect("opened");
        let registry = Arc::new(registry);
        for (id, cluster) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("gone", "b")] {
            registry.remember_agent(record(id, cluster)).expect("remembered");
        }
        registry.revoke_agent("gone", None, "ann").expect("revoked");
        let check = |agents: &[AgentState], expected: &[(&str, i64)]| {
            let found = settled(&registry, agents, NOW_MS);
            let found: Vec<(&str, i64)> = found
                .iter()
                .map(|((_, cluster), since)| (cluster.as_str(), (NOW_MS - since) / 60_000))
                .collect();
            assert_eq!(found, expected, "{agents:?}");
        };
        check(&[], &[]);
        check(&[state("b1", "b", 60, 60, 1)], &[("b", 60)]);
        check(&[state("b1", "b", 4, 4, 1)], &[]);
        check(&[state("b1", "b", 60, 4, 1)], &[]);
        check(&[state("b1", "b", 60, 60, 0)], &[]);
        check(&[state("a1", "a", 60, 60, 1)], &[]);
        check(&[state("a1", "a", 60, 60, 1), state("a2", "a", 9, 9, 2)], &[("a", 9)]);
        check(&[state("a1", "a", 60, 60, 1), state("a2", "a", 9, 9, 0)], &[]);
    }
}
