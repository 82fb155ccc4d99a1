//! `/api/v1/explain/target`: which step kept a target from being scraped, or that it is scraped and how it goes.
//!
//! Every agent of the clusters meant, and this hub's own scraping, is asked for its targets, for those that
//! relabelling dropped, and for what went wrong before that; what is found is told step by step, with the rule at fault.
//! What became of the rows the ledger knows.

mod steps;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ::ledger::{KnownSource, LastWord};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt;
use url::form_urlencoded::byte_serialize;
use web::Caller;

use super::fleet_api::{Answer, FleetApi, Form, Seen, may_ask, refused, shown, success, unanswered};
use crate::agent::reach::STATUS_PATH;
use crate::pull::Pull;
use steps::{Rows, text, text_of};

/// Where a Prometheus tells of its targets.
const TARGETS: &str = "/api/v1/targets";
/// Where it tells of its jobs.
const POOLS: &str = "/api/v1/scrape_pools";
/// Largest answer of this hub about its own targets, bytes.
const OWN_BYTES_MAX: usize = 256 << 20;
/// Targets that are told of.
const FOUND_MAX: usize = 50;
/// Sources of the ledger that are looked at for one question.
const SOURCES_MAX: usize = 10_000;
/// Shortest word that is looked for.
const WORD_BYTES_MIN: usize = 2;

/// What the endpoint works with.
#[derive(Clone)]
pub(super) struct Explain {
    pub(super) api: FleetApi,
    /// This hub's own API, for readers.
    pub(super) own: Router,
    /// What it scrapes itself.
    pub(super) pull: Arc<Pull>,
}

#[derive(Debug, Deserialize)]
struct Asked {
    target: Option<String>,
    cluster: Option<String>,
}

/// Who was asked, and what was answered.
struct Place<'a> {
    /// None for this hub.
    agent: Option<&'a Seen>,
    targets: &'a Value,
    pools: Value,
    /// What went wrong before a target could be scraped: `pool`, `target` (empty: the pool as a whole), `what`.
    troubles: Vec<Value>,
}

/// What became of a target.
enum Case {
    Scraped(Value),
    Dropped(Value),
    Troubled(Value),
}

/// Where it was found.
#[derive(Debug, Clone)]
struct Found {
    cluster: String,
    agent: String,
}

impl Place<'_> {
    fn name(&self) -> Found {
        let (cluster, agent) = self.agent.map_or(("", ""), |agent| (&agent.cluster, &agent.agent));
        Found { cluster: cluster.to_owned(), agent: agent.to_owned() }
    }

    fn list(&self, name: &str) -> &[Value] {
        self.targets["data"][name].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The targets that `word` means.
    fn cases<'a>(&'a self, word: &'a str) -> impl Iterator<Item = Case> + 'a {
        let active = self.list("activeTargets").iter();
        let active = active.filter(move |target| is_meant(target, word) && is_its_own(target));
        let dropped = self.list("droppedTargets").iter().filter(move |target| is_meant(target, word));
        let troubled = self.troubles.iter();
        let troubled = troubled.filter(move |one| is_name(word, text(one, "pool"), text(one, "target")));
        active
            .map(|target| Case::Scraped(target.clone()))
            .chain(dropped.map(|target| Case::Dropped(target.clone())))
            .chain(troubled.map(|trouble| Case::Troubled(trouble.clone())))
    }

    /// That it was looked at, and what there is in all.
    fn looked(&self) -> Value {
        let Found { cluster, agent } = self.name();
        let of_pools = self.troubles.iter().filter(|trouble| text(trouble, "target").is_empty());
        let problems: Vec<String> = of_pools
            .map(|trouble| format!("job {}: {}", text(trouble, "pool"), text(trouble, "what")))
            .collect();
        json!({
            "cluster": cluster,
            "agent": agent,
            "jobs": self.pools,
            "targets": self.list("activeTargets").len(),
            "dropped": self.list("droppedTargets").len(),
            "problems": problems,
        })
    }
}

impl Explain {
    /// The endpoint; it stands where callers are known.
    pub(super) fn router(self) -> Router {
        Router::new().route("/api/v1/explain/target", get(explain)).with_state(self)
    }

    /// What this hub itself answers.
    async fn own(&self, path: &str) -> Option<Value> {
        let request = Request::get(path).header("host", "hub").body(Body::empty()).ok()?;
        let answer = self.own.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let body = Limited::new(answer.into_body(), OWN_BYTES_MAX).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    }

    /// The rule of relabelling that drops a target, and which one it is, as far as `agent` (or this hub) tells.
    async fn rule(self, agent: Option<tunnel::AgentKey>, target: Value) -> Option<(usize, Value)> {
        let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let labels = target["discoveredLabels"].to_string();
        let path = format!(
            "/api/v1/targets/relabel_steps?scrapePool={}&labels={}",
            encode(text(&target, "scrapePool")),
            encode(&labels)
        );
        let answer = match agent {
            Some(agent) => self.api.get(agent, &path).await.ok()?,
            None => self.own(&path).await?,
        };
        let rules = answer["data"]["steps"].as_array()?;
        let at = rules.iter().position(|rule| rule["keep"] == false)?;
        Some((at, rules[at]["rule"].clone()))
    }

    /// The rules for all cases that are dropped, asked for at once; by place in `cases`.
    async fn rules(&self, cases: &[(&Place<'_>, Case)]) -> HashMap<usize, (usize, Value)> {
        let mut asked = JoinSet::new();
        for (at, (place, case)) in cases.iter().enumerate() {
            let Case::Dropped(target) = case else { continue };
            let agent = place.agent.and_then(|agent| agent.state.as_ref()).map(|state| state.key.clone());
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

    /// What the ledger knows of `cases` and of sources that `word` means.
    fn sources(
        &self,
        caller: &Caller,
        asked: &Asked,
        cases: &[(&Place<'_>, Case)],
        word: &str,
    ) -> Vec<KnownSource> {
        let names: HashSet<(String, String, String)> = cases
            .iter()
            .filter_map(|(place, case)| match case {
                Case::Scraped(target) => Some(name_of(&place.name().cluster, &target["labels"])),
                _ => None,
            })
            .collect();
        let is_asked = |cluster: &str, labels: &model::Labels| {
            if !caller.sees_cluster(cluster) || asked.cluster.as_deref().is_some_and(|asked| asked != cluster)
            {
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
    let asked = match may_ask(&caller, asked) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let word = asked.target.clone().unwrap_or_default();
    if word.len() < WORD_BYTES_MIN {
        let why = "target: an address, an instance, job/instance or part of a URL is needed";
        return refused(StatusCode::BAD_REQUEST, "bad_data", why);
    }
    let agents = it.api.seen(&caller, asked.cluster.as_deref());
    // All at once: agents that do not answer cost their time once, however many they are.
    let (answers, pools, statuses) = tokio::join!(
        it.api.ask(&agents, TARGETS),
        it.api.ask(&agents, POOLS),
        it.api.ask(&agents, STATUS_PATH)
    );
    let mut warnings = unanswered(&agents, &answers);
    let away = agents.iter().filter(|agent| agent.standing() == "away");
    warnings.extend(away.map(|agent| {
        let since = agent.gone_ms().map(|at_ms| format!(" since {}", text_of(&shown(Some(at_ms)))));
        let (name, cluster, since) = (&agent.agent, &agent.cluster, since.unwrap_or_default());
        format!("agent {name} of cluster {cluster} is not connected{since}, so what it sees is not known")
    }));
    let mut own = None;
    if caller.sees_program() && asked.cluster.as_deref().is_none_or(str::is_empty) {
        own = it.own(TARGETS).await.zip(it.own(POOLS).await);
    }
    let mut places: Vec<Place<'_>> = Vec::new();
    if let Some((targets, pools)) = &own {
        let pools = pools["data"]["scrapePools"].clone();
        places.push(Place { agent: None, targets, pools, troubles: it.pull.troubles() });
    }
    for (at, agent) in agents.iter().enumerate() {
        let Some(targets) = told(&answers[at]) else { continue };
        let pools = told(&pools[at]).map_or(Value::Null, |pools| pools["data"]["scrapePools"].clone());
        let troubles = told(&statuses[at]).and_then(|status| status["troubles"].as_array().cloned());
        places.push(Place { agent: Some(agent), targets, pools, troubles: troubles.unwrap_or_default() });
    }
    let mut cases: Vec<(&Place<'_>, Case)> =
        places.iter().flat_map(|place| place.cases(&word).map(move |case| (place, case))).collect();
    let mut more = cases.len().saturating_sub(FOUND_MAX);
    cases.truncate(FOUND_MAX);
    let rules = it.rules(&cases).await;
    let sources = it.sources(&caller, &asked, &cases, &word);
    let now_ms = it.api.clock.now_ms();
    let pauses = it.api.ledger.pauses(&caller.tenant, now_ms);
    let mut explained: Vec<Value> = Vec::with_capacity(cases.len());
    for (at, (place, case)) in cases.iter().enumerate() {
        let found = place.name();
        explained.push(match case {
            Case::Scraped(target) => {
                let paused = pauses.iter().find(|pause| pause.cluster == found.cluster);
                let rows = Rows {
                    word: newest(&sources, &name_of(&found.cluster, &target["labels"])),
                    paused_until_ms: paused.map(|pause| pause.until_ms),
                    now_ms,
                };
                steps::scraped(&found, target, &rows)
            }
            Case::Dropped(target) => steps::dropped(&found, target, rules.get(&at)),
            Case::Troubled(trouble) => steps::troubled(&found, trouble),
        });
    }
    if explained.is_empty() {
        let meant = |source: &&KnownSource| {
            is_name(&word, &source.job, source.labels.get("instance").unwrap_or_default())
        };
        let remembered: Vec<&KnownSource> = sources.iter().filter(meant).collect();
        more = remembered.len().saturating_sub(FOUND_MAX);
        explained = remembered.into_iter().take(FOUND_MAX).map(steps::remembered).collect();
    }
    let looked: Vec<Value> = places.iter().map(Place::looked).collect();
    success(&json!({ "found": explained, "foundMore": more, "looked": looked }), &warnings)
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

/// Whether the one who lists it scrapes it, and not another of its pair.
fn is_its_own(target: &Value) -> bool {
    target["scrapedBy"].is_null()
}

/// Whether the word is in the address, the instance, job/instance or the URL.
fn is_meant(target: &Value, word: &str) -> bool {
    let (labels, discovered) = (&target["labels"], &target["discoveredLabels"]);
    let places = [&target["scrapeUrl"], &discovered["__address__"], &discovered["instance"]];
    places.iter().filter_map(|place| place.as_str()).any(|place| place.contains(word))
        || is_name(word, text(labels, "job"), text(labels, "instance"))
        || is_name(word, text(target, "scrapePool"), text(discovered, "__address__"))
}

/// Whether the word is in the instance, or in job/instance where it has a job.
fn is_name(word: &str, job: &str, instance: &str) -> bool {
    instance.contains(word) || (word.contains('/') && format!("{job}/{instance}").contains(word))
}
