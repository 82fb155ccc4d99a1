//! What is told of one target: its steps, which one failed, and what usually lies behind that.

use ::ledger::{KnownSource, LastWord, Loss, Verdict};
use serde_json::{Value, json};

use super::Found;
use crate::hub::fleet_api::shown;

/// A refusal of rows is told of for so long, milliseconds.
const REFUSED_FOR_MS: i64 = 10 * 60 * 1000;

/// What is known of a target's rows.
pub(super) struct Rows {
    pub(super) word: Option<LastWord>,
    /// Until when its cluster is paused, milliseconds since the epoch.
    pub(super) paused_until_ms: Option<i64>,
    pub(super) now_ms: i64,
}

/// A target that is scraped, or tried to be.
pub(super) fn scraped(place: &Found, target: &Value, rows: &Rows) -> Value {
    let (pool, health) = (text(target, "scrapePool"), text(target, "health"));
    let mut steps = vec![
        step("discovered", true, format!("by job {pool}")),
        step("relabelled", true, format!("to {}", labels(&target["labels"]))),
    ];
    let error = text(target, "lastError");
    steps.push(match health {
        "up" => {
            let (at, took) = (text(target, "lastScrape"), target["lastScrapeDuration"].as_f64());
            step("scraped", true, format!("last at {at}, in {:.3} s", took.unwrap_or_default()))
        }
        "down" => step("scraped", false, format!("{error}{}", hint(error))),
        _ => step("scraped", false, "not yet: its first scrape is due within one interval".to_owned()),
    });
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
    let interval_ms = model::duration::parse(text(target, "scrapeInterval")).unwrap_or(60_000);
    let is_in_time = late_ms <= 3 * interval_ms + 10_000;
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
pub(super) fn dropped(place: &Found, target: &Value, rule: Option<&(usize, Value)>) -> Value {
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
pub(super) fn troubled(place: &Found, trouble: &Value) -> Value {
    let (pool, what) = (text(trouble, "pool"), text(trouble, "what"));
    let steps =
        vec![step("discovered", true, format!("by job {pool}")), step("relabelled", false, what.to_owned())];
    let target = json!({ "scrapePool": pool, "scrapeUrl": trouble["target"] });
    found(place, &target, "not a target of its own", steps)
}

/// A target that nobody who answers has discovered (any more), and whose rows have come here.
pub(super) fn remembered(source: &KnownSource) -> Value {
    let until = match source.word.stored_ms {
        Some(at_ms) => step("stored", true, format!("until {}", text_of(&shown(Some(at_ms))))),
        None => step("stored", false, "never".to_owned()),
    };
    let steps = vec![step("discovered", false, "by nobody who answers now".to_owned()), until];
    let target = json!({ "scrapePool": source.job, "scrapeUrl": source.labels.get("instance") });
    let place = Found { cluster: source.cluster.clone(), agent: String::new() };
    found(&place, &target, "rows of it came here once, and nobody who answers has discovered it", steps)
}

pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

pub(super) fn text_of(value: &Value) -> &str {
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
