//! `/api/v1/explain/target`: which step kept a target from being scraped, or that it is scraped and how it goes.
//!
//! Every agent of the clusters meant, and this hub's own scraping, is asked for its targets, for those that
//! relabelling dropped, and for what went wrong before that; what is found is told step by step, with the rule at fault.
//! What became of the rows the ledger knows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ::ledger::{KnownSource, LastWord};
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use serde_json::Value;
use tokio::task::JoinSet;
use web::Caller;

use super::fleet_api::{Answer, FleetApi, Seen, unanswered};
use crate::agent::reach::STATUS_PATH;
use crate::explain::steps::{self, Rows, text, text_of};
use crate::explain::{
    Asked, Case, EXPLAIN_PATH, FOUND_MAX, Found, Own, POOLS, Place, TARGETS, answer, is_name, rule_at_fault,
    rules_path,
};
use crate::pull::Pull;
use crate::replies::{Form, shown, success};

/// Sources of the ledger that are looked at for one question.
const SOURCES_MAX: usize = 10_000;

/// What the endpoint works with.
#[derive(Clone)]
pub(super) struct Explain {
    pub(super) api: FleetApi,
    /// This hub's own API, for readers.
    pub(super) own: Own,
    /// What it scrapes itself.
    pub(super) pull: Arc<Pull>,
}

/// A place, and the agent it is where it is not this hub.
struct Looked<'a> {
    agent: Option<&'a Seen>,
    place: Place<'a>,
}

impl Explain {
    /// The endpoint; it stands where callers are known.
    pub(super) fn router(self) -> Router {
        Router::new().route(EXPLAIN_PATH, get(explain)).with_state(self)
    }

    /// The rule of relabelling that drops a target, and which one it is, as far as `agent` (or this hub) tells.
    async fn rule(self, agent: Option<tunnel::AgentKey>, target: Value) -> Option<(usize, Value)> {
        let path = rules_path(&target);
        let answer = match agent {
            Some(agent) => self.api.get(agent, &path).await.ok()?,
            None => self.own.get(&path).await?,
        };
        rule_at_fault(&answer)
    }

    /// The rules for all cases that are dropped, asked for at once; by place in `cases`.
    async fn rules(&self, cases: &[(&Looked<'_>, Case)]) -> HashMap<usize, (usize, Value)> {
        let mut asked = JoinSet::new();
        for (at, (looked, case)) in cases.iter().enumerate() {
            let Case::Dropped(target) = case else { continue };
            let agent = looked.agent.and_then(|agent| agent.state.as_ref()).map(|state| state.key.clone());
            let rule = self.clone().rule(agent, target.clone());
            asked.spawn(async move { (at, rule.await) });
        }
        let mut rules = HashMap::new();
        while let Some(done) = asked.join_next().await {
            if let Ok((at, Some(rule))) = done {
                rules.insert(at, rule);
            }
        }
        rules
    }

    /// The steps of each of `cases`, which the ledger knows as `sources`.
    async fn told(
        &self,
        caller: &Caller,
        cases: &[(&Looked<'_>, Case)],
        sources: &[KnownSource],
    ) -> Vec<Value> {
        let rules = self.rules(cases).await;
        let now_ms = self.api.clock.now_ms();
        let pauses = self.api.ledger.pauses(&caller.tenant, now_ms);
        let tell = |(at, (looked, case)): (usize, &(&Looked<'_>, Case))| {
            let found = &looked.place.name;
            match case {
                Case::Scraped(target) => {
                    let paused = pauses.iter().find(|pause| pause.cluster == found.cluster);
                    let rows = Rows {
                        word: newest(sources, &name_of(&found.cluster, &target["labels"])),
                        paused_until_ms: paused.map(|pause| pause.until_ms),
                        now_ms,
                    };
                    steps::scraped(found, target, &rows)
                }
                Case::Shared(target) => steps::shared(found, target),
                Case::Dropped(target) => steps::dropped(found, target, rules.get(&at)),
                Case::Troubled(trouble) => steps::troubled(found, trouble),
            }
        };
        cases.iter().enumerate().map(tell).collect()
    }

    /// What the ledger knows of `cases` and of sources that `word` means.
    fn sources(&self, caller: &Caller, asked: &Asked, cases: &[(&Looked<'_>, Case)]) -> Vec<KnownSource> {
        let word = asked.word();
        let names: HashSet<(String, String, String)> = cases
            .iter()
            .filter_map(|(looked, case)| match case {
                Case::Scraped(target) => Some(name_of(&looked.place.name.cluster, &target["labels"])),
                _ => None,
            })
            .collect();
        let is_asked = |cluster: &str, labels: &model::Labels| {
            if !caller.sees_cluster(cluster) || asked.cluster().is_some_and(|asked| asked != cluster) {
                return false;
            }
            let label = |name: &str| labels.get(name).unwrap_or_default();
            let (job, instance) = (label("job"), label("instance"));
            names.contains(&(cluster.to_owned(), job.to_owned(), instance.to_owned()))
                || is_name(word, job, instance)
        };
        self.api.ledger.sources(&caller.tenant, is_asked, SOURCES_MAX)
    }
}

async fn explain(State(it): State<Explain>, caller: Caller, asked: Form<Asked>) -> Response {
    let asked = match Asked::read(&caller, asked) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let agents = it.api.seen(&caller, asked.cluster());
    // All at once: agents that do not answer cost their time once, however many they are.
    let (answers, pools, statuses) = tokio::join!(
        it.api.ask(&agents, TARGETS),
        it.api.ask(&agents, POOLS),
        it.api.ask(&agents, STATUS_PATH)
    );
    let mut warnings = unanswered(&agents, &answers);
    warnings.extend(away(&agents));
    let mut own = None;
    if caller.sees_program() && asked.cluster().is_none_or(str::is_empty) {
        own = it.own.targets().await;
    }
    let mut looked: Vec<Looked<'_>> = Vec::new();
    if let Some((targets, pools)) = &own {
        let (name, pools, troubles) = (Found::default(), pools.clone(), it.pull.troubles());
        looked.push(Looked { agent: None, place: Place { name, targets, pools, troubles } });
    }
    for (at, agent) in agents.iter().enumerate() {
        let Some(targets) = told(&answers[at]) else { continue };
        let name = Found { cluster: agent.cluster.clone(), agent: agent.agent.clone() };
        let pools = told(&pools[at]).map_or(Value::Null, |pools| pools["data"]["scrapePools"].clone());
        let troubles = told(&statuses[at]).and_then(|status| status["troubles"].as_array().cloned());
        let place = Place { name, targets, pools, troubles: troubles.unwrap_or_default() };
        looked.push(Looked { agent: Some(agent), place });
    }
    let cases = looked.iter().flat_map(|at| at.place.cases(asked.word()).map(move |case| (at, case)));
    let mut cases = once_each(cases.collect());
    let mut more = cases.len().saturating_sub(FOUND_MAX);
    cases.truncate(FOUND_MAX);
    let sources = it.sources(&caller, &asked, &cases);
    let mut found = it.told(&caller, &cases, &sources).await;
    if found.is_empty() {
        let meant = |source: &&KnownSource| {
            is_name(asked.word(), &source.job, source.labels.get("instance").unwrap_or_default())
        };
        let remembered: Vec<&KnownSource> = sources.iter().filter(meant).collect();
        more = remembered.len().saturating_sub(FOUND_MAX);
        found = remembered.into_iter().take(FOUND_MAX).map(steps::remembered).collect();
    }
    let looked = looked.iter().map(|looked| looked.place.looked()).collect();
    success(&answer(found, more, looked), &warnings)
}

/// A line for each agent that cannot be asked because it is not there.
fn away(agents: &[Seen]) -> impl Iterator<Item = String> + '_ {
    agents.iter().filter(|agent| agent.standing() == "away").map(|agent| {
        let since = agent.gone_ms().map(|at_ms| format!(" since {}", text_of(&shown(Some(at_ms)))));
        let (name, cluster, since) = (&agent.agent, &agent.cluster, since.unwrap_or_default());
        format!("agent {name} of cluster {cluster} is not connected{since}, so what it sees is not known")
    })
}

/// All that is found, but a target of a pair once: where its scraper tells of it; else where another says who that is.
fn once_each<'a>(cases: Vec<(&'a Looked<'a>, Case)>) -> Vec<(&'a Looked<'a>, Case)> {
    let name = |looked: &Looked<'_>, target: &Value| {
        let pool = text(target, "scrapePool").to_owned();
        (looked.place.name.cluster.clone(), pool, text(target, "scrapeUrl").to_owned())
    };
    let mut told: HashSet<_> = cases
        .iter()
        .filter_map(|(looked, case)| match case {
            Case::Scraped(target) => Some(name(looked, target)),
            _ => None,
        })
        .collect();
    let is_new = |(looked, case): &(&Looked<'_>, Case)| match case {
        Case::Shared(target) => told.insert(name(looked, target)),
        _ => true,
    };
    cases.into_iter().filter(is_new).collect()
}

/// What an agent answered.
fn told(answer: &Option<Answer>) -> Option<&Value> {
    answer.as_ref()?.as_deref().ok()
}

/// Cluster, job and instance of a target's labels.
fn name_of(cluster: &str, labels: &Value) -> (String, String, String) {
    (cluster.to_owned(), text(labels, "job").to_owned(), text(labels, "instance").to_owned())
}

/// The last word about a target: of the source that was told of last, where several have had its name.
fn newest(sources: &[KnownSource], (cluster, job, instance): &(String, String, String)) -> Option<LastWord> {
    let is_it = |source: &&KnownSource| {
        source.cluster == *cluster
            && source.job == *job
            && source.labels.get("instance").unwrap_or_default() == instance
    };
    let words = sources.iter().filter(is_it).map(|source| source.word);
    words.max_by_key(|word| word.told.map(|(at_ms, _)| at_ms))
}
