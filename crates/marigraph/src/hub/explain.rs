//! `/api/v1/explain/target`: which step kept a target from being scraped, or that it is scraped and how it goes.
//!
//! Every agent of the clusters meant, and this hub's own scraping, is asked for its targets and for those that
//! relabelling dropped; what is found is told step by step, with the rule at fault.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt;
use url::form_urlencoded::byte_serialize;
use web::Caller;

use super::fleet_api::{FleetApi, Form, Seen, may_ask, refused, shown, success, unanswered};
use ::ledger::{Ask, By};

/// Where a Prometheus tells of its targets.
const TARGETS: &str = "/api/v1/targets";
/// Where it tells of its jobs.
const POOLS: &str = "/api/v1/scrape_pools";
/// Largest answer of this hub about its own targets, bytes.
const OWN_BYTES_MAX: usize = 256 << 20;
/// How far back rows of a target are looked for, milliseconds.
const REMEMBERED_MS: i64 = 24 * 3_600_000;
/// Targets that are told of.
const FOUND_MAX: usize = 50;
/// Shortest word that is looked for.
const WORD_BYTES_MIN: usize = 2;

/// What the endpoint works with.
#[derive(Clone)]
pub(super) struct Explain {
    pub(super) api: FleetApi,
    /// This hub's own API, for readers.
    pub(super) own: Router,
}

#[derive(Debug, Deserialize)]
struct Asked {
    target: Option<String>,
    cluster: Option<String>,
}

/// Who was asked.
struct Place<'a> {
    /// Empty for this hub.
    cluster: &'a str,
    agent: &'a str,
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

    /// What an agent answers, or this hub where there is none.
    async fn get(&self, agent: Option<&Seen>, path: &str) -> Option<Value> {
        let Some(agent) = agent else { return self.own(path).await };
        self.api.get(agent.state.as_ref()?.key.clone(), path).await.ok()
    }

    /// A target that is scraped, or tried to be.
    fn active(&self, caller: &Caller, place: &Place<'_>, target: &Value) -> Value {
        let (pool, health) = (text(target, "scrapePool"), text(target, "health"));
        let mut steps = vec![
            step("discovered", true, format!("by job {pool}")),
            step("relabelled", true, format!("to {}", labels(&target["labels"]))),
        ];
        let error = text(target, "lastError");
        let scraped = match health {
            "up" => {
                let (at, took) = (text(target, "lastScrape"), target["lastScrapeDuration"].as_f64());
                step("scraped", true, format!("last at {at}, in {:.3} s", took.unwrap_or_default()))
            }
            "down" => step("scraped", false, format!("{error}{}", hint(error))),
            _ => step("scraped", false, "not yet: its first scrape is due within one interval".to_owned()),
        };
        steps.push(scraped);
        let newest_ms = self.newest_row(caller, place.cluster, target);
        steps.push(match newest_ms {
            Some(at_ms) => {
                let late_ms = self.api.clock.now_ms().saturating_sub(at_ms);
                let interval_ms = interval_ms(text(target, "scrapeInterval"));
                let what = format!("the newest row here is {:.1} s old", late_ms as f64 / 1000.0);
                let in_time = late_ms <= 3 * interval_ms + 10_000;
                let queued = " (they wait in the agent's queue: see `marigraph fleet agents`)";
                step("stored", in_time, if in_time { what } else { format!("{what}{queued}") })
            }
            None => {
                let what = match health {
                    "up" => {
                        "no row of it has come here: it may be kept in the cluster (`storage: local`), or wait in the \
                         agent's queue"
                    }
                    _ => "no row of it has come here",
                };
                step("stored", false, what.to_owned())
            }
        });
        let is_stored = steps.last().is_some_and(|step| step["ok"] == true);
        let verdict = match (health, newest_ms) {
            ("up", Some(_)) if is_stored => "scraped and stored",
            ("up", Some(_)) => "scraped, and its rows are late",
            ("up", None) => "scraped, and no row has come here",
            ("down", _) => "its scrapes fail",
            _ => "not scraped yet",
        };
        found(place, target, verdict, steps)
    }

    /// A target that relabelling dropped: with the rule that did.
    async fn dropped(&self, agent: Option<&Seen>, place: &Place<'_>, target: &Value) -> Value {
        let pool = text(target, "scrapePool");
        let discovered = &target["discoveredLabels"];
        let mut steps = vec![step("discovered", true, format!("by job {pool}, as {}", labels(discovered)))];
        let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let path = format!(
            "/api/v1/targets/relabel_steps?scrapePool={}&labels={}",
            encode(pool),
            encode(&discovered.to_string())
        );
        let answer = self.get(agent, &path).await;
        let rules = answer.as_ref().and_then(|answer| answer["data"]["steps"].as_array());
        let at = rules.and_then(|rules| rules.iter().position(|rule| rule["keep"] == false));
        let why = match rules.zip(at) {
            Some((rules, at)) => {
                format!("dropped by rule {} of its relabel_configs: {}", at + 1, rules[at]["rule"])
            }
            None => "dropped by relabelling".to_owned(),
        };
        steps.push(step("relabelled", false, why));
        found(place, target, "dropped by relabelling", steps)
    }

    /// Targets that nobody who answers has discovered (any more), and whose rows have come here.
    fn remembered(&self, caller: &Caller, cluster: Option<&str>, word: &str) -> Vec<Value> {
        let now_ms = self.api.clock.now_ms();
        let ask = Ask {
            cluster: cluster.map(str::to_owned),
            clusters: caller.clusters.to_vec(),
            start_ms: now_ms - REMEMBERED_MS,
            end_ms: now_ms,
            by: By::Source,
            ..Ask::default()
        };
        let report = self.api.ledger.report(&caller.tenant, &ask);
        let known = report.groups.iter().filter_map(|group| {
            let (_, labels) = group.source.as_ref()?;
            let instance = labels.get("instance").filter(|instance| instance.contains(word))?;
            let job = labels.get("job").unwrap_or_default();
            let cluster = group.cluster.as_deref().unwrap_or_default();
            let newest = text_of(&shown(group.tally.newest_ms)).to_owned();
            let steps = vec![
                step("discovered", false, "by nobody who answers now".to_owned()),
                step("stored", true, format!("until {newest}")),
            ];
            let target = json!({ "scrapePool": job, "scrapeUrl": instance });
            let place = Place { cluster, agent: "" };
            Some(found(
                &place,
                &target,
                "rows of it came here once, and nobody who answers has discovered it",
                steps,
            ))
        });
        known.take(FOUND_MAX).collect()
    }

    /// When the newest row of a target began that the ledger knows of.
    fn newest_row(&self, caller: &Caller, cluster: &str, target: &Value) -> Option<i64> {
        let label = |name: &str| target["labels"][name].as_str().unwrap_or_default();
        let now_ms = self.api.clock.now_ms();
        let ask = Ask {
            cluster: Some(cluster.to_owned()),
            job: Some(label("job").to_owned()),
            start_ms: now_ms - REMEMBERED_MS,
            end_ms: now_ms,
            by: By::Source,
            ..Ask::default()
        };
        let report = self.api.ledger.report(&caller.tenant, &ask);
        let of_target = report.groups.into_iter().find(|group| {
            group.source.as_ref().is_some_and(|(_, labels)| labels.get("instance") == Some(label("instance")))
        });
        of_target.and_then(|group| group.tally.newest_ms)
    }
}

async fn explain(State(it): State<Explain>, caller: Caller, asked: Form<Asked>) -> Response {
    let asked = match may_ask(&caller, asked) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let word = asked.target.unwrap_or_default();
    if word.len() < WORD_BYTES_MIN {
        let why = "target: an address, an instance or part of a URL is needed";
        return refused(StatusCode::BAD_REQUEST, "bad_data", why);
    }
    let agents = it.api.seen(&caller, asked.cluster.as_deref());
    // Both at once: agents that do not answer cost their time once, however many they are.
    let (answers, pools) = tokio::join!(it.api.ask(&agents, TARGETS), it.api.ask(&agents, POOLS));
    let mut warnings = unanswered(&agents, &answers);
    let away = agents.iter().filter(|agent| agent.standing() == "away");
    warnings.extend(away.map(|agent| {
        let since = agent.gone_ms().map(|at_ms| format!(" since {}", text_of(&shown(Some(at_ms)))));
        let (name, cluster, since) = (&agent.agent, &agent.cluster, since.unwrap_or_default());
        format!("agent {name} of cluster {cluster} is not connected{since}, so what it sees is not known")
    }));
    let (mut explained, mut looked, mut more) = (Vec::new(), Vec::new(), 0usize);
    let (own, own_pools) = if caller.sees_program() && asked.cluster.as_deref().is_none_or(str::is_empty) {
        (it.own(TARGETS).await, it.own(POOLS).await)
    } else {
        (None, None)
    };
    let here = own.iter().map(|answer| (None, answer, own_pools.as_ref()));
    let there = agents.iter().zip(&answers).zip(&pools).filter_map(|((agent, answer), pools)| {
        let pools = pools.as_ref().and_then(|pools| pools.as_deref().ok());
        Some((Some(agent), answer.as_ref()?.as_deref().ok()?, pools))
    });
    for (agent, answer, pools) in here.chain(there) {
        let place = Place {
            cluster: agent.map_or("", |agent| &agent.cluster),
            agent: agent.map_or("", |agent| &agent.agent),
        };
        let list = |name: &str| answer["data"][name].as_array().map(Vec::as_slice).unwrap_or_default();
        for target in
            list("activeTargets").iter().filter(|target| is_meant(target, &word) && is_its_own(target))
        {
            if explained.len() < FOUND_MAX {
                explained.push(it.active(&caller, &place, target));
            } else {
                more += 1;
            }
        }
        for target in list("droppedTargets").iter().filter(|target| is_meant(target, &word)) {
            if explained.len() < FOUND_MAX {
                explained.push(it.dropped(agent, &place, target).await);
            } else {
                more += 1;
            }
        }
        looked.push(json!({
            "cluster": place.cluster,
            "agent": place.agent,
            "jobs": pools.map_or(Value::Null, |pools| pools["data"]["scrapePools"].clone()),
            "targets": list("activeTargets").len(),
            "dropped": list("droppedTargets").len(),
        }));
    }
    if explained.is_empty() {
        explained = it.remembered(&caller, asked.cluster.as_deref(), &word);
    }
    success(&json!({ "found": explained, "foundMore": more, "looked": looked }), &warnings)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether the one who lists it scrapes it, and not another of its pair.
fn is_its_own(target: &Value) -> bool {
    target["scrapedBy"].is_null()
}

/// Whether the word is in the address, the instance or the URL.
fn is_meant(target: &Value, word: &str) -> bool {
    let places = [
        &target["scrapeUrl"],
        &target["labels"]["instance"],
        &target["discoveredLabels"]["__address__"],
        &target["discoveredLabels"]["instance"],
    ];
    places.iter().filter_map(|place| place.as_str()).any(|place| place.contains(word))
}

fn step(name: &str, ok: bool, what: String) -> Value {
    json!({ "step": name, "ok": ok, "what": what })
}

fn found(place: &Place<'_>, target: &Value, verdict: &str, steps: Vec<Value>) -> Value {
    let shown = match text(target, "scrapeUrl") {
        "" => text(&target["discoveredLabels"], "__address__"),
        url => url,
    };
    json!({
        "cluster": place.cluster,
        "agent": place.agent,
        "job": text(target, "scrapePool"),
        "target": shown,
        "verdict": verdict,
        "steps": steps,
    })
}

/// `{a="1", b="2"}`.
fn labels(object: &Value) -> String {
    let pairs = object.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(name, value)| format!("{name}={:?}", value.as_str().unwrap_or_default())).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// What usually lies behind an error.
fn hint(error: &str) -> &'static str {
    const HINTS: [(&str, &str); 9] = [
        ("refused", " (nothing listens there, or a firewall answers)"),
        ("deadline", " (slower than scrape_timeout; does the port answer at all?)"),
        ("timed out", " (slower than scrape_timeout; does the port answer at all?)"),
        ("401", " (the job's credential is missing or wrong)"),
        ("403", " (the job's credential may not read this)"),
        ("404", " (metrics_path?)"),
        ("certificate", " (tls_config: ca_file, server_name)"),
        ("limit exceeded", " (a limit of the job, or one that a hub gave: `marigraph limits show`)"),
        ("resolve", " (the name is not known to the agent's DNS)"),
    ];
    HINTS.iter().find(|(word, _)| error.contains(word)).map_or("", |(_, hint)| hint)
}

/// `1m`, `15s`, `200ms` as milliseconds.
fn interval_ms(text: &str) -> i64 {
    model::duration::parse(text).unwrap_or(60_000)
}
