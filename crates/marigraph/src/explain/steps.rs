//! What is told of one target: its steps, which one failed, and what usually lies behind that.

use ::ledger::{KnownSource, LastWord, Loss, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Found;
use crate::replies::shown;

/// A refusal of rows is told of for so long, milliseconds.
const REFUSED_FOR_MS: i64 = 10 * 60 * 1000;

/// What is known of a target's rows.
pub(crate) struct Rows {
    pub(crate) word: Option<LastWord>,
    /// Until when its cluster is paused, milliseconds since the epoch.
    pub(crate) paused_until_ms: Option<i64>,
    pub(crate) now_ms: i64,
}

/// What becomes of the rows at the agent that scrapes.
pub(crate) struct Outgoing {
    /// How long its own store keeps them, for people; `None` without a store.
    pub(crate) kept: Option<String>,
    /// What waits in its queue.
    pub(crate) waiting: Vec<Waiting>,
    /// Whether it shares its targets with others.
    pub(crate) is_paired: bool,
    pub(crate) now_ms: i64,
}

/// What waits for a hub (`hub-…`) or a receiver, as an agent's status has it.
#[derive(Debug, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) name: String,
    pub(crate) rows: u64,
    pub(crate) oldest_ms: Option<i64>,
}

/// A target that is scraped, or tried to be.
pub(crate) fn scraped(place: &Found, target: &Value, rows: &Rows) -> Value {
    let health = text(target, "health");
    let mut steps = until_scraped(target, false);
    let (stored, is_stored) = stored(rows, target, health);
    steps.push(stored);
    steps.extend(expected(rows));
    let verdict = match (health, rows.word.and_then(|word| word.stored_ms)) {
        ("up", Some(_)) if is_stored => "scraped and stored",
        ("up", _) if refusal(rows).is_some() => "scraped, and the store refuses its rows",
        ("up", Some(_)) => "scraped, and its rows are late",
        ("up", None) => "scraped, and no row has come here",
        ("down", _) => "its scrapes fail",
        _ => "not scraped yet",
    };
    found(place, target, verdict, steps)
}

/// A target that this agent scrapes, or tries to.
pub(crate) fn sent(place: &Found, target: &Value, outgoing: &Outgoing) -> Value {
    let health = text(target, "health");
    let mut steps = until_scraped(target, outgoing.is_paired);
    let kept = outgoing.kept.as_ref();
    steps.extend(
        kept.map(|retention| step("stored", true, format!("in the agent's own store ({retention})"))),
    );
    let patience_ms = patience_ms(target);
    let is_late = |waiting: &&Waiting| {
        waiting.oldest_ms.is_some_and(|oldest_ms| outgoing.now_ms.saturating_sub(oldest_ms) > patience_ms)
    };
    let late = outgoing.waiting.iter().any(|waiting| is_late(&waiting));
    for waiting in &outgoing.waiting {
        let name = &waiting.name;
        let what = match waiting.oldest_ms.filter(|_| waiting.rows > 0) {
            None => format!("to {name}: nothing waits in the queue"),
            Some(oldest_ms) => {
                let seconds = outgoing.now_ms.saturating_sub(oldest_ms) as f64 / 1000.0;
                format!(
                    "to {name}: {} rows (of all targets) wait, the oldest for {seconds:.1} s",
                    waiting.rows
                )
            }
        };
        steps.push(step("sent", !is_late(&waiting), what));
    }
    let verdict = match health {
        "up" if late => "scraped, and its rows wait in the queue",
        "up" if outgoing.waiting.is_empty() => "scraped and stored",
        "up" => "scraped and sent",
        "down" => "its scrapes fail",
        _ => "not scraped yet",
    };
    found(place, target, verdict, steps)
}

/// A target that another of its pair scrapes.
pub(crate) fn shared(place: &Found, target: &Value) -> Value {
    let member = text(target, "scrapedBy");
    let mut steps = until_relabelled(target);
    let what = format!("not here: it is in the share of {member}, another member of the pair");
    steps.push(step("scraped", true, what));
    found(place, target, "another of its pair scrapes it", steps)
}

/// Discovered, relabelled, scraped: the steps of whoever scrapes.
fn until_scraped(target: &Value, is_paired: bool) -> Vec<Value> {
    let error = text(target, "lastError");
    let mut steps = until_relabelled(target);
    steps.push(match text(target, "health") {
        "up" => {
            let (at, took) = (text(target, "lastScrape"), target["lastScrapeDuration"].as_f64());
            step("scraped", true, format!("last at {at}, in {:.3} s", took.unwrap_or_default()))
        }
        "down" => step("scraped", false, format!("{error}{}", hint(error))),
        _ if is_paired => {
            let what = "not yet: its first scrape is due within one interval from when the members of the pair agree \
                        whose it is";
            step("scraped", false, what.to_owned())
        }
        _ => step("scraped", false, "not yet: its first scrape is due within one interval".to_owned()),
    });
    steps
}

fn until_relabelled(target: &Value) -> Vec<Value> {
    vec![
        step("discovered", true, format!("by job {}", text(target, "scrapePool"))),
        step("relabelled", true, format!("to {}", labels(&target["labels"]))),
    ]
}

/// How old the newest row may be, milliseconds.
fn patience_ms(target: &Value) -> i64 {
    3 * model::duration::parse(text(target, "scrapeInterval")).unwrap_or(60_000) + 10_000
}

/// Whether its rows are here.
fn stored(rows: &Rows, target: &Value, health: &str) -> (Value, bool) {
    if let Some((at_ms, why)) = refusal(rows) {
        let what = format!("rows are refused, last at {}: {why}", text_of(&shown(Some(at_ms))));
        return (step("stored", false, what), false);
    }
    let Some(newest_ms) = rows.word.and_then(|word| word.stored_ms) else {
        // That a scrape has failed is told like a row.
        if let Some((at_ms, verdict)) = rows.word.and_then(|word| word.told) {
            let (at, why) = (shown(Some(at_ms)), verdict.as_str());
            let what = format!("no whole row yet; that of {} is accounted for: {why}", text_of(&at));
            return (step("stored", health != "up", what), false);
        }
        let what = match health {
            "up" => {
                "no row of it has come here: it may be kept in the cluster (`storage: local`), or wait in the agent's \
                 queue"
            }
            _ => "no row of it has come here",
        };
        return (step("stored", false, what.to_owned()), false);
    };
    let late_ms = rows.now_ms.saturating_sub(newest_ms);
    let is_in_time = late_ms <= patience_ms(target);
    let mut what = format!("the newest row here is {:.1} s old", late_ms as f64 / 1000.0);
    if !is_in_time {
        what.push_str(" (they wait in the agent's queue: see `marigraph fleet agents`)");
    }
    (step("stored", is_in_time, what), is_in_time)
}

/// When, and why, the store last refused rows of it, or cells of them, where that is not long ago.
fn refusal(rows: &Rows) -> Option<(i64, &'static str)> {
    let (at_ms, verdict) = rows.word?.refused?;
    if rows.now_ms.saturating_sub(at_ms) > REFUSED_FOR_MS {
        return None;
    }
    let why = match verdict {
        Verdict::Lost(Loss::Limit) => {
            "new series past a budget (`limits:` of the hub; /api/v1/status/series names who makes most)"
        }
        Verdict::Lost(Loss::TooOld) => "older than what is kept",
        Verdict::Lost(Loss::Conflict) => {
            "out of order, or others stand there already at that time: is it scraped twice under the same labels?"
        }
        Verdict::Partial => {
            "some cells only: series past a budget (/api/v1/status/series), or samples that stand there already \
             otherwise (scraped twice under the same labels?)"
        }
        verdict => verdict.as_str(),
    };
    Some((at_ms, why))
}

/// That nothing is expected of it, where that is so.
fn expected(rows: &Rows) -> Option<Value> {
    let until = rows
        .paused_until_ms
        .map(|until_ms| format!("its cluster is paused until {}", text_of(&shown(Some(until_ms)))));
    let retired = || rows.word.filter(|word| word.excused).map(|_| "its cluster is retired".to_owned());
    let why = until.or_else(retired)?;
    Some(step("expected", true, format!("nothing: {why}, so its rows may be missing without being counted")))
}

/// A target that relabelling dropped; `rule` is the one that did, counted from 0.
pub(crate) fn dropped(place: &Found, target: &Value, rule: Option<&(usize, Value)>) -> Value {
    let pool = text(target, "scrapePool");
    let discovered = format!("by job {pool}, as {}", labels(&target["discoveredLabels"]));
    let why = match rule {
        Some((at, rule)) => format!("dropped by rule {} of its relabel_configs: {rule}", at + 1),
        None => "dropped by relabelling".to_owned(),
    };
    let steps = vec![step("discovered", true, discovered), step("relabelled", false, why)];
    found(place, target, "dropped by relabelling", steps)
}

/// A target that was discovered and cannot be scraped, or is there already.
pub(crate) fn troubled(place: &Found, trouble: &Value) -> Value {
    let (pool, what) = (text(trouble, "pool"), text(trouble, "what"));
    let steps =
        vec![step("discovered", true, format!("by job {pool}")), step("relabelled", false, what.to_owned())];
    let target = json!({ "scrapePool": pool, "scrapeUrl": trouble["target"] });
    found(place, &target, "not a target of its own", steps)
}

/// A target that nobody who answers has discovered (any more), and whose rows have come here.
pub(crate) fn remembered(source: &KnownSource) -> Value {
    let until = match source.word.stored_ms {
        Some(at_ms) => step("stored", true, format!("until {}", text_of(&shown(Some(at_ms))))),
        None => step("stored", false, "never".to_owned()),
    };
    let steps = vec![step("discovered", false, "by nobody who answers now".to_owned()), until];
    let target = json!({ "scrapePool": source.job, "scrapeUrl": source.labels.get("instance") });
    let place = Found { cluster: source.cluster.clone(), agent: String::new() };
    found(&place, &target, "rows of it came here once, and nobody who answers has discovered it", steps)
}

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

pub(crate) fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn step(name: &str, ok: bool, what: String) -> Value {
    json!({ "step": name, "ok": ok, "what": what })
}

fn found(place: &Found, target: &Value, verdict: &str, steps: Vec<Value>) -> Value {
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
    const HINTS: [(&str, &str); 11] = [
        ("the agent's policy", " (`tunnel:` in the agent's configuration decides: allow_urls, scrape)"),
        (
            "target_limit exceeded",
            " (of the job, or one that a hub gave: `marigraph limits show`; none of its targets is scraped)",
        ),
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
