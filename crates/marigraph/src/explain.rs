//! Which step kept a target from being scraped: what hubs and agents have in common to tell it.
//!
//! A place (an agent, or a hub's own scraping) is looked at for its targets, for those that relabelling dropped, and
//! for what went wrong before that; what is found is told step by step, with the rule at fault.

pub(crate) mod steps;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt;
use url::form_urlencoded::byte_serialize;
use web::Caller;

use crate::replies::{Form, may_ask, refused};
use steps::text;

/// Where it is asked.
pub(crate) const EXPLAIN_PATH: &str = "/api/v1/explain/target";
/// Where a Prometheus tells of its targets.
pub(crate) const TARGETS: &str = "/api/v1/targets";
/// Where it tells of its jobs.
pub(crate) const POOLS: &str = "/api/v1/scrape_pools";
/// Targets that are told of.
pub(crate) const FOUND_MAX: usize = 50;
/// Largest answer of this program about its own targets, bytes.
const OWN_BYTES_MAX: usize = 256 << 20;
/// Shortest word that is looked for.
const WORD_BYTES_MIN: usize = 2;

/// What is asked: a word of at least two bytes, and perhaps of which cluster.
#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    target: Option<String>,
    cluster: Option<String>,
}

impl Asked {
    /// Reads what `caller` asks.
    ///
    /// # Errors
    /// The answer for one who may not ask, or asks nothing that can be looked for.
    pub(crate) fn read(caller: &Caller, asked: Form<Asked>) -> Result<Asked, Box<axum::response::Response>> {
        let asked = may_ask(caller, asked)?;
        if asked.word().len() < WORD_BYTES_MIN {
            let why = "target: an address, an instance, job/instance or part of a URL is needed";
            return Err(Box::new(refused(StatusCode::BAD_REQUEST, "bad_data", why)));
        }
        Ok(asked)
    }

    pub(crate) fn word(&self) -> &str {
        self.target.as_deref().unwrap_or_default()
    }

    /// The one cluster that is meant; none, or an empty name, for all.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }
}

/// Where something was found; both empty for a hub.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) cluster: String,
    pub(crate) agent: String,
}

/// A place that was asked, and what was answered.
pub(crate) struct Place<'a> {
    pub(crate) name: Found,
    /// The answer of [`TARGETS`].
    pub(crate) targets: &'a Value,
    /// The names of its jobs.
    pub(crate) pools: Value,
    /// What went wrong before a target could be scraped: `pool`, `target` (empty: the pool as a whole), `what`.
    pub(crate) troubles: Vec<Value>,
}

/// What became of a target.
pub(crate) enum Case {
    /// Whoever lists it scrapes it.
    Scraped(Value),
    /// Another of its pair scrapes it.
    Shared(Value),
    /// Relabelling dropped it.
    Dropped(Value),
    /// It is no target, or another one again.
    Troubled(Value),
}

impl Place<'_> {
    fn list(&self, name: &str) -> &[Value] {
        self.targets["data"][name].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The targets that `word` means.
    pub(crate) fn cases<'a>(&'a self, word: &'a str) -> impl Iterator<Item = Case> + 'a {
        let active = self.list("activeTargets").iter().filter(move |target| is_meant(target, word));
        let dropped = self.list("droppedTargets").iter().filter(move |target| is_meant(target, word));
        let troubled = self.troubles.iter();
        let troubled = troubled.filter(move |one| is_name(word, text(one, "pool"), text(one, "target")));
        active
            .map(|target| match &target["scrapedBy"] {
                Value::Null => Case::Scraped(target.clone()),
                _ => Case::Shared(target.clone()),
            })
            .chain(dropped.map(|target| Case::Dropped(target.clone())))
            .chain(troubled.map(|trouble| Case::Troubled(trouble.clone())))
    }

    /// That it was looked at, and what there is in all.
    pub(crate) fn looked(&self) -> Value {
        let of_pools = self.troubles.iter().filter(|trouble| text(trouble, "target").is_empty());
        let problems: Vec<String> = of_pools
            .map(|trouble| format!("job {}: {}", text(trouble, "pool"), text(trouble, "what")))
            .collect();
        json!({
            "cluster": self.name.cluster,
            "agent": self.name.agent,
            "jobs": self.pools,
            "targets": self.list("activeTargets").len(),
            "dropped": self.list("droppedTargets").len(),
            "problems": problems,
        })
    }
}

/// This program's own API, for one who may read everything of it.
#[derive(Clone)]
pub(crate) struct Own(pub(crate) Router);

impl Own {
    /// What it answers.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let request = Request::get(path).header("host", "localhost").body(Body::empty()).ok()?;
        let answer = self.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let body = Limited::new(answer.into_body(), OWN_BYTES_MAX).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    }

    /// What it answers to [`TARGETS`] and [`POOLS`], the latter without its envelope.
    pub(crate) async fn targets(&self) -> Option<(Value, Value)> {
        let (targets, mut pools) = self.get(TARGETS).await.zip(self.get(POOLS).await)?;
        Some((targets, pools["data"]["scrapePools"].take()))
    }
}

/// Where the program that dropped `target` tells which rule did.
pub(crate) fn rules_path(target: &Value) -> String {
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    format!(
        "/api/v1/targets/relabel_steps?scrapePool={}&labels={}",
        encode(text(target, "scrapePool")),
        encode(&target["discoveredLabels"].to_string())
    )
}

/// The rule that drops, counted from 0, of an answer to [`rules_path`].
pub(crate) fn rule_at_fault(answer: &Value) -> Option<(usize, Value)> {
    let rules = answer["data"]["steps"].as_array()?;
    let at = rules.iter().position(|rule| rule["keep"] == false)?;
    Some((at, rules[at]["rule"].clone()))
}

/// The data of an answer.
pub(crate) fn answer(found: Vec<Value>, more: usize, looked: Vec<Value>) -> Value {
    json!({ "found": found, "foundMore": more, "looked": looked })
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
pub(crate) fn is_name(word: &str, job: &str, instance: &str) -> bool {
    instance.contains(word) || (word.contains('/') && format!("{job}/{instance}").contains(word))
}
