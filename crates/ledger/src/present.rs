//! What is so now: sources of which nothing is heard though rows are due, and the last word about a source.

use std::collections::BTreeMap;

use model::Labels;

use crate::fact::{Fact, Verdict};
use crate::report::{overlays, place};
use crate::source::{Overlay, Said, Source};
use crate::tenant::Inner;

/// What a row may take from its scrape's begin to the ledger, beside an interval, milliseconds: rows travel once a second.
const LIVE_MS: i64 = 2_500;

/// A source of which nothing is heard though rows are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentSource {
    /// Of which cluster.
    pub cluster: String,
    /// Of which job.
    pub job: String,
    /// Its labels.
    pub labels: Labels,
    /// The first tick of which nothing is known, milliseconds.
    pub since_ms: i64,
}

/// The last word about a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastWord {
    /// The newest stored tick, milliseconds.
    pub stored_ms: Option<i64>,
    /// The newest tick that is known of, and what became of it.
    pub told: Option<(i64, Verdict)>,
    /// When a row, or cells of one, were last refused for a limit, its age or what stands there already, among its last
    /// rows, and why.
    pub refused: Option<(i64, Verdict)>,
    /// Its cluster is paused or retired: nothing is expected of it.
    pub excused: bool,
}

/// A source, and the last word about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownSource {
    /// Of which cluster.
    pub cluster: String,
    /// Of which job.
    pub job: String,
    /// Its labels.
    pub labels: Labels,
    /// What was last heard of it.
    pub word: LastWord,
}

impl Source {
    /// The first tick that is due and of which nothing is heard, milliseconds; `None` while it is in time, and where
    /// nothing is expected. `opened_ms`: since when anything could be heard.
    pub(crate) fn silent_since(&self, now_ms: i64, overlays: &[Overlay], opened_ms: i64) -> Option<i64> {
        if !self.is_expected(now_ms) || self.is_excused(now_ms, overlays) {
            return None;
        }
        let interval = self.schedule_at(now_ms)?.interval_ms;
        let newest = self.newest_ms();
        // One that times out is told of when its time is over.
        let told = self.runs.as_slice().last().map(|run| Verdict::from(run.fact));
        let slow = if told == Some(Verdict::Failed(storage::Failure::Timeout)) { interval } else { 0 };
        let patience = (2 * interval).max(interval + LIVE_MS) + slow;
        (now_ms >= newest.max(opened_ms).saturating_add(patience)).then(|| newest.saturating_add(interval))
    }

    /// Whether its cluster is paused or retired.
    fn is_excused(&self, now_ms: i64, overlays: &[Overlay]) -> bool {
        let begun = self.begun_ms();
        overlays.iter().any(|overlay| match overlay {
            Overlay::Pause { from_ms, until_ms, .. } => (*from_ms..*until_ms).contains(&now_ms),
            Overlay::Retire { at_ms, .. } => (begun..=now_ms).contains(at_ms),
            Overlay::Loss(_) => false,
        })
    }

    /// When it last began.
    fn begun_ms(&self) -> i64 {
        let begun = self.events.iter().rev().find(|(_, said)| matches!(said, Said::Begin(..)));
        begun.map_or_else(|| self.oldest_ms(), |(at, _)| *at)
    }

    /// The last word about it.
    fn last_word(&self, now_ms: i64, overlays: &[Overlay]) -> LastWord {
        /// Runs that are looked at for refusals.
        const BACK: usize = 8;
        let runs = self.runs.as_slice();
        let newest = |is: fn(Fact) -> bool, within: usize| {
            let run = runs.iter().rev().take(within).find(|run| is(run.fact))?;
            Some((run.last(), Verdict::from(run.fact)))
        };
        LastWord {
            stored_ms: newest(|fact| Verdict::from(fact).is_stored(), runs.len()).map(|(at, _)| at),
            told: newest(|_| true, 1),
            refused: newest(|fact| matches!(fact, Fact::Refused(_) | Fact::Partial { .. }), BACK),
            excused: self.is_excused(now_ms, overlays),
        }
    }
}

/// Clusters that were retired, and of whose sources none has begun anew since.
pub(crate) fn retired(inner: &Inner, cluster_label: &str) -> Vec<String> {
    let retired_ms = |overlay: &Overlay| match overlay {
        Overlay::Retire { at_ms, .. } => Some(*at_ms),
        _ => None,
    };
    let mut clusters: BTreeMap<&str, i64> = BTreeMap::new();
    for (cluster, overlays) in &inner.overlays {
        if let Some(at_ms) = overlays.iter().filter_map(retired_ms).max() {
            clusters.insert(cluster, at_ms);
        }
    }
    if !clusters.is_empty() {
        for source in inner.live() {
            let (cluster, _) = place(source, cluster_label);
            if clusters.get(cluster).is_some_and(|at_ms| source.begun_ms() > *at_ms) {
                clusters.remove(cluster);
            }
        }
    }
    clusters.into_keys().map(str::to_owned).collect()
}

/// The silent sources of clusters that `is_asked`; the `max` longest silent of them, and how many more there are.
pub(crate) fn silent(
    inner: &Inner,
    cluster_label: &str,
    (now_ms, opened_ms): (i64, i64),
    is_asked: impl Fn(&str) -> bool,
    max: usize,
) -> (Vec<SilentSource>, usize) {
    let mut found: Vec<(i64, &Source)> = Vec::new();
    for source in inner.live() {
        let (cluster, _) = place(source, cluster_label);
        if is_asked(cluster)
            && let Some(since_ms) = source.silent_since(now_ms, overlays(inner, cluster), opened_ms)
        {
            found.push((since_ms, source));
        }
    }
    found.sort_by(|(a, one), (b, other)| (a, &one.labels).cmp(&(b, &other.labels)));
    let more = found.len().saturating_sub(max);
    let shown = found.into_iter().take(max).map(|(since_ms, source)| {
        let (cluster, job) = place(source, cluster_label);
        SilentSource {
            cluster: cluster.to_owned(),
            job: job.to_owned(),
            labels: source.labels.clone(),
            since_ms,
        }
    });
    (shown.collect(), more)
}

/// The sources that `is_asked` (cluster, labels), `max` at most, with the last word about each.
pub(crate) fn sources(
    inner: &Inner,
    cluster_label: &str,
    now_ms: i64,
    is_asked: impl Fn(&str, &Labels) -> bool,
    max: usize,
) -> Vec<KnownSource> {
    let asked = inner.live().filter(|source| is_asked(place(source, cluster_label).0, &source.labels));
    let known = asked.take(max).map(|source| {
        let (cluster, job) = place(source, cluster_label);
        KnownSource {
            cluster: cluster.to_owned(),
            job: job.to_owned(),
            labels: source.labels.clone(),
            word: source.last_word(now_ms, overlays(inner, cluster)),
        }
    });
    known.collect()
}
