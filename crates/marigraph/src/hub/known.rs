//! Names that administrators give: whether one means something here, and which was perhaps meant.
//!
//! A slip of the pen must not look as if something had been done. What only another hub knows, or what is still to
//! come, takes a `force`.

use std::collections::BTreeSet;

use http::StatusCode;
use tenancy::{AgentRecord, Registry, TokenKind};
use tunnel::Agents;
use web::Caller;

use super::admin::Failure;
use crate::config::nearest;

/// Agents that are named in a message.
const NAMED_MAX: usize = 5;

/// The clusters of a caller's tenant that agents have come from, or may with a token.
pub(super) fn clusters(
    registry: &Registry,
    agents: &Agents,
    caller: &Caller,
    now_ms: i64,
) -> BTreeSet<String> {
    let tenant = caller.tenant.as_str();
    let enrolled = registry.agents().into_iter().filter(|one| one.tenant == tenant).map(|one| one.cluster);
    let connected = agents.list().into_iter().filter(|one| *one.key.tenant == *tenant);
    let connected = connected.map(|one| one.key.cluster.to_string());
    let is_out = |one: &tenancy::TokenRecord| {
        let is_over = one.revoked_ms.is_some() || one.expires_ms.is_some_and(|end_ms| end_ms <= now_ms);
        one.kind == TokenKind::Enrol && one.tenant == tenant && !is_over
    };
    let to_come = registry.tokens().into_iter().filter(is_out).flat_map(|one| one.clusters);
    let all = enrolled.chain(connected).chain(to_come);
    all.filter(|cluster| caller.sees_cluster(cluster)).collect()
}

/// The refusal for a cluster that is none of `clusters`.
pub(super) fn no_cluster(cluster: &str, clusters: &BTreeSet<String>) -> Failure {
    let near = meant(cluster, clusters.iter().map(String::as_str));
    let what = format!(
        "no cluster {cluster:?} is known here: no agent of it has come, and no token for one is out{near}; with force \
         (--force) it is done all the same, for when it comes"
    );
    Failure(StatusCode::NOT_FOUND, what)
}

/// The refusal for an agent that is none of `agents`, all that the caller sees.
pub(super) fn no_agent(name: &str, agents: &[AgentRecord]) -> Failure {
    let of_cluster: Vec<&str> =
        agents.iter().filter(|one| one.cluster == name).map(|one| one.agent_id.as_str()).collect();
    let near = match of_cluster.as_slice() {
        [] => {
            let names = agents.iter().flat_map(|one| [one.agent_id.as_str(), one.brought.as_str()]);
            meant(name, names)
        }
        ids => {
            let more = if ids.len() > NAMED_MAX { ", …" } else { "" };
            format!(
                "; it is a cluster, whose agents are {}{more}",
                ids[..ids.len().min(NAMED_MAX)].join(", ")
            )
        }
    };
    let what = format!(
        "no agent {name:?} is known here{near} (`marigraph agents list` shows all); with force (--force) an id is \
         revoked that only another hub has heard of"
    );
    Failure(StatusCode::NOT_FOUND, what)
}

fn meant<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names = names.filter(|name| !name.is_empty());
    nearest(word, names).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_perhaps_meant() {
        let record = |id: &str, cluster: &str, brought: &str| -> AgentRecord {
            let empty = serde_json::json!({
                "agent_id": id, "cluster": cluster, "brought": brought, "tenant": "default", "labels": {}, "serial": "",
                "enrolled_ms": 0, "renewed_ms": 0, "not_after_ms": 0, "token": "", "elsewhere": false,
            });
            serde_json::from_value(empty).expect("a record")
        };
        let agents = [record("64f2554c6f4934dc", "eu-1", ""), record("own-1", "us-1", "a1.us-1.corp")];
        let clusters = BTreeSet::from(["eu-1".to_owned(), "us-1".to_owned()]);
        let check = |Failure(status, said): Failure, part: &str, is_there: bool| {
            assert_eq!(status, StatusCode::NOT_FOUND);
            assert_eq!(said.contains(part), is_there, "{said}");
        };
        check(no_agent("64f2554c6f4934dd", &agents), "did you mean \"64f2554c6f4934dc\"?", true);
        check(no_agent("a1.us-1.cor", &agents), "did you mean \"a1.us-1.corp\"?", true);
        check(no_agent("eu-1", &agents), "it is a cluster, whose agents are 64f2554c6f4934dc (", true);
        check(no_agent("feedfeedfeedfeed", &agents), "did you mean", false);
        check(no_cluster("eu1", &clusters), "did you mean \"eu-1\"?", true);
        check(no_cluster("atlantis", &clusters), "did you mean", false);
    }
}
