//! `/api/v1/fleet/alarms`: what nobody needs a rule for: silent agents and targets, and clusters that live twice.

use std::collections::BTreeMap;

use ::ledger::SilentSource;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use web::Caller;

use super::{FleetApi, Form, may_ask, shown, success};
use crate::hub::incarnations;

/// Silent targets that are named in an alarm.
const NAMED_MAX: usize = 10;
/// Silent targets that are looked at.
const SILENT_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    cluster: Option<String>,
}

/// Told at once: nobody is asked.
pub(super) async fn alarms(State(api): State<FleetApi>, caller: Caller, asked: Form<Asked>) -> Response {
    let asked = match may_ask(&caller, asked) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let is_asked = |cluster: &str| {
        caller.sees_cluster(cluster) && asked.cluster.as_deref().is_none_or(|asked| asked == cluster)
    };
    let now_ms = api.clock.now_ms();
    let pauses = api.ledger.pauses(&caller.tenant, now_ms);
    let retired = api.ledger.retired(&caller.tenant);
    let is_excused = |cluster: &str| {
        pauses.iter().any(|pause| pause.cluster == cluster) || retired.iter().any(|name| name == cluster)
    };
    let mut alarms: Vec<Value> = Vec::new();
    for (cluster, several) in api.fleet.incarnations().alarms(caller.tenant.as_str()) {
        if is_asked(&cluster) {
            let what = format!(
                "two incarnations live at once: {}: two clusters have one name, or agents that belong together share \
                 neither leases nor --incarnation",
                incarnations::shown(&several.agents)
            );
            alarms.push(alarm(&cluster, "incarnations", Some(several.since_ms), &what, json!({})));
        }
    }
    let mut away: BTreeMap<String, bool> = BTreeMap::new();
    for agent in api.ledger.agents(&caller.tenant).into_iter().filter(|agent| is_asked(&agent.cluster)) {
        *away.entry(agent.cluster.clone()).or_insert(true) &= agent.silent;
        if agent.silent && !is_excused(&agent.cluster) {
            let what = match agent.seen_ms {
                Some(_) => format!("agent {} gives no sign of life", agent.agent),
                None => format!("agent {} has not come since this hub started", agent.agent),
            };
            let more = json!({ "agent": agent.agent });
            alarms.push(alarm(&agent.cluster, "agent_silent", agent.seen_ms, &what, more));
        }
    }
    // Where nobody is there, that says it all.
    let asked_for_targets = |cluster: &str| is_asked(cluster) && away.get(cluster) != Some(&true);
    let (silent, left_off) = api.ledger.silent(&caller.tenant, asked_for_targets, SILENT_MAX);
    let mut by_cluster: BTreeMap<&str, Vec<&SilentSource>> = BTreeMap::new();
    silent.iter().for_each(|source| by_cluster.entry(&source.cluster).or_default().push(source));
    for (cluster, sources) in by_cluster {
        let named = sources.iter().take(NAMED_MAX).map(|source| {
            let instance = source.labels.get("instance").unwrap_or_default();
            json!({ "job": source.job, "instance": instance, "since": shown(Some(source.since_ms)) })
        });
        let more = json!({ "count": sources.len(), "targets": named.collect::<Vec<_>>() });
        let word = if sources.len() == 1 { "target has" } else { "targets have" };
        let what = format!("{} {word} not been heard of for two intervals", sources.len());
        let since_ms = sources.first().map(|source| source.since_ms);
        alarms.push(alarm(cluster, "targets_silent", since_ms, &what, more));
    }
    let warnings = (left_off > 0).then(|| format!("{left_off} more silent targets are not counted here"));
    success(&alarms.into(), warnings.as_slice())
}

fn alarm(cluster: &str, name: &str, since_ms: Option<i64>, what: &str, more: Value) -> Value {
    let mut alarm = json!({ "cluster": cluster, "alarm": name, "since": shown(since_ms), "what": what });
    if let (Some(alarm), Value::Object(more)) = (alarm.as_object_mut(), more) {
        alarm.extend(more);
    }
    alarm
}
