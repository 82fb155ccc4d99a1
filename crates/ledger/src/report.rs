//! Answers: sums by cluster, job and source, the list of gaps, and how even the record is.

use std::collections::BTreeMap;

use model::{Labels, Matcher, SourceId};

use crate::fact::Verdict;
use crate::source::{Overlay, Piece, Source, Window};
use crate::tenant::Inner;

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Only this cluster (empty: the hub's own sources).
    pub cluster: Option<String>,
    /// Only these clusters; all when empty.
    pub clusters: Vec<String>,
    /// Only this job.
    pub job: Option<String>,
    /// Only this source.
    pub source: Option<SourceId>,
    /// Only sources whose labels match.
    pub matchers: Vec<Matcher>,
    /// The first tick that counts, milliseconds since the epoch.
    pub start_ms: i64,
    /// Behind the last one.
    pub end_ms: i64,
    /// How finely sums are given.
    pub by: By,
    /// Gaps listed, at most; the rest is counted.
    pub gaps_max: usize,
}

/// How finely sums are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum By {
    /// One sum for everything.
    #[default]
    All,
    /// One for each cluster.
    Cluster,
    /// One for each job of each cluster.
    Job,
    /// One for each source.
    Source,
}

/// Sums. `expected = stored + missing + unknown`, in rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sources summed up.
    pub sources: u64,
    /// Ticks at which a row was due.
    pub expected: u64,
    /// Rows stored.
    pub stored: u64,
    /// Rows stored with cells lost; among the stored ones.
    pub partial: u64,
    /// Rows not stored, by reason.
    pub missing: BTreeMap<Verdict, u64>,
    /// Ticks of which nobody can say what became of them, by kind.
    pub unknown: BTreeMap<Verdict, u64>,
    /// Cells (samples) stored. Exact for whole runs of rows with equally many; otherwise shared out evenly.
    pub cells_stored: u64,
    /// Cells lost of rows that are stored.
    pub cells_lost: u64,
    /// The longest time between two rows of a source, against its interval.
    pub worst: Option<Unevenness>,
    /// The newest stored tick, milliseconds.
    pub newest_ms: Option<i64>,
    /// Sources of which nothing has been heard for two intervals although rows are due.
    pub silent_sources: u64,
}

/// The longest time between two rows that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unevenness {
    /// Between the rows, milliseconds.
    pub between_ms: i64,
    /// What the configuration says it should be, milliseconds.
    pub interval_ms: i64,
    /// When the time began.
    pub from_ms: i64,
}

/// One sum of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Of which cluster; none when summed over all.
    pub cluster: Option<String>,
    /// Of which job; none when summed over all.
    pub job: Option<String>,
    /// Of which source; none when summed over several.
    pub source: Option<(SourceId, Labels)>,
    /// The sum.
    pub tally: Tally,
}

/// Ticks of one source, one behind the other, that are not stored whole for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Of which cluster.
    pub cluster: String,
    /// Of which job.
    pub job: String,
    /// Of which source.
    pub source: SourceId,
    /// Its labels.
    pub labels: Labels,
    /// The first tick, milliseconds.
    pub from_ms: i64,
    /// The last one.
    pub to_ms: i64,
    /// How many.
    pub rows: u64,
    /// Why.
    pub verdict: Verdict,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything.
    pub total: Tally,
    /// Sums, as fine as asked, sorted by cluster, job, labels.
    pub groups: Vec<Group>,
    /// By time.
    pub gaps: Vec<Gap>,
    /// Gaps that are not listed.
    pub gaps_left_off: u64,
    /// Times, both ends included, of which the ledger itself has lost detail: sources may be missing in
    /// the sums.
    pub detail_lost: Vec<(i64, i64)>,
}

/// A time in which the record of a job has gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// Of which cluster.
    pub cluster: String,
    /// Of which job.
    pub job: String,
    /// First tick concerned, milliseconds.
    pub from_ms: i64,
    /// Last one.
    pub to_ms: i64,
    /// Rows concerned.
    pub rows: u64,
    /// The reason of most of them.
    pub verdict: Verdict,
}

impl Tally {
    /// Stored against expected, in percent; none when nothing was expected. It is 100 only when not a
    /// single cell is missing.
    pub fn percent(&self) -> Option<f64> {
        (self.expected > 0).then(|| {
            let percent = 100.0 * self.stored as f64 / self.expected as f64;
            let whole = self.stored == self.expected && self.cells_lost == 0;
            if whole { 100.0 } else { percent.min(99.999) }
        })
    }

    /// Rows that are known not to be stored.
    pub fn missing_rows(&self) -> u64 {
        self.missing.values().sum()
    }

    /// Rows of which nobody knows.
    pub fn unknown_rows(&self) -> u64 {
        self.unknown.values().sum()
    }

    fn add_piece(&mut self, piece: &Piece) {
        self.expected += piece.count;
        self.cells_stored += piece.cells_stored;
        self.cells_lost += piece.cells_lost;
        if piece.verdict.is_stored() {
            self.newest_ms = self.newest_ms.max(Some(piece.last));
        }
        match piece.verdict {
            Verdict::Stored => self.stored += piece.count,
            Verdict::Partial => {
                self.stored += piece.count;
                self.partial += piece.count;
            }
            verdict if verdict.is_unknown() => *self.unknown.entry(verdict).or_default() += piece.count,
            verdict => *self.missing.entry(verdict).or_default() += piece.count,
        }
    }

    /// Adds another sum to this one.
    pub fn add(&mut self, other: &Tally) {
        self.sources += other.sources;
        self.silent_sources += other.silent_sources;
        self.expected += other.expected;
        self.stored += other.stored;
        self.partial += other.partial;
        self.cells_stored += other.cells_stored;
        self.cells_lost += other.cells_lost;
        for (verdict, rows) in &other.missing {
            *self.missing.entry(*verdict).or_default() += rows;
        }
        for (verdict, rows) in &other.unknown {
            *self.unknown.entry(*verdict).or_default() += rows;
        }
        self.worst = worse(self.worst, other.worst);
        self.newest_ms = self.newest_ms.max(other.newest_ms);
    }
}

/// The one that is farther from its interval.
fn worse(one: Option<Unevenness>, other: Option<Unevenness>) -> Option<Unevenness> {
    let ratio = |u: &Unevenness| i128::from(u.between_ms) * 1000 / i128::from(u.interval_ms.max(1));
    match (one, other) {
        (Some(a), Some(b)) if ratio(&b) > ratio(&a) => Some(b),
        (Some(a), _) => Some(a),
        (None, b) => b,
    }
}

/// What the reading of one source's pieces has given so far.
#[derive(Debug, Default)]
struct Reading {
    tally: Tally,
    /// The last stored tick.
    stored_ms: Option<i64>,
    gap: Option<Piece>,
}

impl Reading {
    fn piece(&mut self, piece: Piece, gap: &mut impl FnMut(Piece)) {
        self.tally.add_piece(&piece);
        self.even(&piece);
        if piece.verdict == Verdict::Stored {
            self.gap.take().into_iter().for_each(gap);
            return;
        }
        match &mut self.gap {
            Some(open) if open.verdict == piece.verdict && piece.from - open.last <= piece.interval => {
                open.last = piece.last;
                open.count += piece.count;
            }
            open => open.replace(piece).into_iter().for_each(gap),
        }
    }

    fn even(&mut self, piece: &Piece) {
        let mut note = |from_ms: i64, to_ms: i64| {
            let found = Unevenness { between_ms: to_ms - from_ms, interval_ms: piece.interval, from_ms };
            if piece.interval > 0 {
                self.tally.worst = worse(self.tally.worst, Some(found));
            }
        };
        let late = i64::from(piece.late_ms);
        if !piece.verdict.is_stored() {
            // Whatever comes, comes after this.
            if let Some(before) = self.stored_ms {
                note(before, piece.last + piece.interval);
            }
            return;
        }
        if let Some(before) = self.stored_ms {
            note(before, piece.from + late);
        }
        if piece.count > 1 {
            note(piece.from, piece.from + piece.interval + late);
        }
        self.stored_ms = Some(piece.last);
    }
}

/// Answers for one tenant. `opened_ms`: since when anything could be heard.
pub(crate) fn report(
    inner: &Inner,
    ask: &Ask,
    (now_ms, opened_ms): (i64, i64),
    cluster_label: &str,
) -> Report {
    let mut report = Report::default();
    let mut groups: BTreeMap<(String, String, Labels), Group> = BTreeMap::new();
    let mut gaps = Vec::new();
    for source in inner.live().filter(|source| is_asked(source, ask, cluster_label)) {
        let (cluster, job) = place(source, cluster_label);
        let window = Window {
            start: ask.start_ms,
            end: ask.end_ms,
            now: now_ms,
            overlays: overlays(inner, cluster),
            lost: &inner.lost,
        };
        let mut reading = Reading::default();
        let mut gap = |piece: Piece| {
            if gaps.len() as u64 >= ask.gaps_max as u64 {
                report.gaps_left_off += 1;
                return;
            }
            gaps.push(Gap {
                cluster: cluster.to_owned(),
                job: job.to_owned(),
                source: source.id,
                labels: source.labels.clone(),
                from_ms: piece.from,
                to_ms: piece.last,
                rows: piece.count,
                verdict: piece.verdict,
            });
        };
        source.judge(&window, |piece| reading.piece(piece, &mut gap));
        reading.gap.take().into_iter().for_each(&mut gap);
        if reading.tally.expected == 0 {
            continue;
        }
        reading.tally.sources = 1;
        let silent_since = source.silent_since(now_ms, window.overlays, opened_ms);
        reading.tally.silent_sources = u64::from(silent_since.is_some_and(|since| since < ask.end_ms));
        report.total.add(&reading.tally);
        let (cluster, job) = (cluster.to_owned(), job.to_owned());
        let (key, group) = match ask.by {
            By::All => continue,
            By::Cluster => ((cluster.clone(), String::new(), Labels::empty()), (Some(cluster), None, None)),
            By::Job => ((cluster.clone(), job.clone(), Labels::empty()), (Some(cluster), Some(job), None)),
            By::Source => {
                let labels = source.labels.clone();
                let key = (cluster.clone(), job.clone(), labels.clone());
                (key, (Some(cluster), Some(job), Some((source.id, labels))))
            }
        };
        let (cluster, job, source) = group;
        let empty = Group { cluster, job, source, tally: Tally::default() };
        groups.entry(key).or_insert(empty).tally.add(&reading.tally);
    }
    gaps.sort_by(|a, b| (a.from_ms, &a.cluster, &a.labels).cmp(&(b.from_ms, &b.cluster, &b.labels)));
    report.gaps = gaps;
    report.groups = groups.into_values().collect();
    let touches = |span: &&(i64, i64)| span.0 < ask.end_ms && span.1 >= ask.start_ms;
    report.detail_lost = inner.lost.iter().filter(touches).copied().collect();
    report
}

/// Every time in which the record of some job has gaps, merged over its sources, by cluster, job, time.
/// Gaps that the data tells of itself (a target that does not answer) are left out.
pub(crate) fn incomplete(inner: &Inner, now_ms: i64, cluster_label: &str) -> Vec<Incomplete> {
    let mut all = Vec::new();
    for source in inner.live() {
        let (cluster, job) = place(source, cluster_label);
        let window = Window {
            start: i64::MIN / 4,
            end: i64::MAX / 4,
            now: now_ms,
            overlays: overlays(inner, cluster),
            lost: &inner.lost,
        };
        // Joined as they come: a source that is odd at every other tick has pieces without number.
        let mut own: Vec<Stretch> = Vec::new();
        source.judge(&window, |piece| {
            let verdict = piece.verdict;
            if verdict.is_gap_in_record() {
                let next = Stretch {
                    from_ms: piece.from,
                    to_ms: piece.last,
                    rows: piece.count,
                    verdict,
                    most: piece.count,
                };
                join(&mut own, next);
            }
        });
        all.extend(own.into_iter().map(|stretch| (cluster, job, stretch)));
    }
    all.sort_by_key(|(cluster, job, stretch)| (*cluster, *job, stretch.from_ms));
    let mut incomplete = Vec::new();
    for of_job in all.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let mut merged = Vec::new();
        of_job.iter().for_each(|(.., stretch)| join(&mut merged, *stretch));
        let (cluster, job) = (of_job[0].0, of_job[0].1);
        incomplete.extend(merged.into_iter().map(|Stretch { from_ms, to_ms, rows, verdict, .. }| {
            Incomplete { cluster: cluster.to_owned(), job: job.to_owned(), from_ms, to_ms, rows, verdict }
        }));
    }
    incomplete
}

/// A time with gaps in it.
#[derive(Clone, Copy)]
struct Stretch {
    from_ms: i64,
    to_ms: i64,
    rows: u64,
    /// Of the piece with the most rows.
    verdict: Verdict,
    most: u64,
}

/// Puts a stretch behind others that begin no later, as one with the last of them when they overlap or nearly do.
fn join(stretches: &mut Vec<Stretch>, next: Stretch) {
    const NEAR_MS: i64 = 60_000;
    match stretches.last_mut() {
        Some(open) if next.from_ms <= open.to_ms.saturating_add(NEAR_MS) => {
            open.to_ms = open.to_ms.max(next.to_ms);
            open.rows += next.rows;
            if next.most > open.most {
                (open.most, open.verdict) = (next.most, next.verdict);
            }
        }
        _ => stretches.push(next),
    }
}

pub(crate) fn overlays<'a>(inner: &'a Inner, cluster: &str) -> &'a [Overlay] {
    inner.overlays.get(cluster).map_or(&[], Vec::as_slice)
}

/// Cluster and job of a source.
pub(crate) fn place<'a>(source: &'a Source, cluster_label: &str) -> (&'a str, &'a str) {
    let label = |name: &str| source.labels.get(name).unwrap_or_default();
    (label(cluster_label), label("job"))
}

fn is_asked(source: &Source, ask: &Ask, cluster_label: &str) -> bool {
    let (cluster, job) = place(source, cluster_label);
    ask.cluster.as_deref().is_none_or(|asked| asked == cluster)
        && (ask.clusters.is_empty() || ask.clusters.iter().any(|seen| seen == cluster))
        && ask.job.as_deref().is_none_or(|asked| asked == job)
        && ask.source.is_none_or(|asked| asked == source.id)
        && ask
            .matchers
            .iter()
            .all(|matcher| matcher.matches(source.labels.get(&matcher.name).unwrap_or_default()))
}
