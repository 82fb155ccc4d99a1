//! The columns of one target: from cells of an exposition to series of the store.
//!
//! Labels are looked at only when a column is new: metric relabelling, conflicts with the target's
//! labels, limits and resolving happen then. In a steady scrape the columns are those of the scrape
//! before, and the series of the row stand ready: nothing is hashed, looked up or allocated.
//!
//! Several columns may mean one series, so what has vanished is judged by series: each has a *local*
//! number within the target, and the series of a scrape are a set of bits over these numbers.

mod histograms;
mod packed;

use std::collections::HashMap;
use std::ops::Range;

use model::{Exemplar, Histogram, Labels, LabelsBuilder};
use stdx::intern::{Interned, List};
use storage::SeriesRef;
use wire::exposition::{ScrapedExemplar, ScrapedRow};

use self::packed::PackedSeries;
use crate::config::ScrapeConfig;

/// A column that metric relabelling has dropped, or that the store refused.
const DROPPED: u32 = u32::MAX;
/// How far ahead of the scrape a sample's own timestamp may be.
///
/// Source: Prometheus `scrape.maxAheadTime`.
const AHEAD_MS_MAX: i64 = 10 * 60 * 1000;
/// Locals that may be out of use before the numbering is made anew.
const UNUSED_LOCALS_MIN: usize = 64;

/// The state of one target's columns.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    /// By column: the local number, or [`DROPPED`].
    local_of: List<u32>,
    /// By local number; empty while `resting`.
    series: Vec<SeriesRef>,
    /// How many local numbers there are while they are those of the row's cells: then `plan.series` has them.
    resting: Option<usize>,
    /// The series of the row while it rests; then `plan.series` is empty.
    packed: Option<PackedSeries>,
    /// Series of the last scrape that get a staleness marker when they vanish.
    tracked: Bits,
    /// All series of the last successful scrape.
    known: Bits,
    /// Exemplars of the last scrape: column and fingerprint, sorted. A target repeats its exemplars
    /// from scrape to scrape, and the store is told of each once.
    exemplars: Vec<(u32, u64)>,
    plan: Plan,
}

/// How the cells of the last scrape became its row; holds for the next while the cells are the same.
#[derive(Debug, Default)]
struct Plan {
    valid: bool,
    /// How many cells are stored.
    count: usize,
    /// Which, ascending; empty when none is left out.
    cells: Vec<u32>,
    /// Their series, the report's behind them.
    series: Vec<SeriesRef>,
    /// Whether no cell is left out.
    whole: bool,
    /// Cells that relabelling kept and the row could not take: a second one of a series, or one too far in
    /// the future.
    left_out: usize,
    /// The histograms that are stored, by their place among the scrape's, with their series.
    histograms: Vec<(u32, SeriesRef)>,
}

/// A scrape that has been read, and what it takes to make a row of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) config: &'a ScrapeConfig,
    pub(crate) scraped: &'a ScrapedRow,
    pub(crate) timestamp_ms: i64,
    /// The series of the report, which end the row.
    pub(crate) report: &'a [SeriesRef],
}

impl Reading<'_> {
    /// Whether samples go to rows of their own, by the timestamps the target states.
    fn has_lanes(&self) -> bool {
        let histograms = &self.scraped.histograms;
        self.config.honor_timestamps
            && (!self.scraped.timestamps.is_empty() || histograms.iter().any(|h| h.timestamp_ms.is_some()))
    }
}

/// One scrape, ready to be appended. Reused from scrape to scrape, between targets.
#[derive(Debug, Default)]
pub(crate) struct Assembled {
    /// The values of [`Columns::row_series`], without the report's.
    pub(crate) values: Vec<f64>,
    /// Cells with timestamps of their own, by timestamp, ascending.
    pub(crate) lanes: Vec<Lane>,
    /// The series of all lanes.
    pub(crate) lane_series: Vec<SeriesRef>,
    /// Their values.
    pub(crate) lane_values: Vec<f64>,
    /// The histograms of all lanes.
    pub(crate) lane_histograms: Vec<(SeriesRef, Histogram)>,
    /// The exemplars of all lanes.
    pub(crate) lane_exemplars: Vec<(SeriesRef, Exemplar)>,
    /// Histograms of the row.
    pub(crate) histograms: Vec<(SeriesRef, Histogram)>,
    /// Exemplars of the row.
    pub(crate) exemplars: Vec<(SeriesRef, Exemplar)>,
    /// Start timestamps of columns of the row.
    pub(crate) start_timestamps: Vec<(SeriesRef, i64)>,
    /// The series of the row, where the columns have them packed.
    series: Vec<SeriesRef>,
    /// Series that have vanished since the last scrape.
    pub(crate) stale: Vec<SeriesRef>,
    /// Samples after relabelling.
    pub(crate) kept: usize,
    /// Series the last successful scrape did not have.
    pub(crate) added: usize,
    /// Samples left out: a second one of a series, or too far in the future.
    pub(crate) left_out: usize,
    /// Whether the cells were looked at one by one; otherwise they are those of the scrape before.
    planned: bool,
    seen: Bits,
    row: Bits,
    track: Bits,
    /// Own timestamp, local number, cell.
    laned: Vec<(i64, u32, u32)>,
    /// The same of histograms.
    laned_histograms: Vec<(i64, u32, u32)>,
    /// Where the histograms of the row, and then those of the lanes, stand in the scrape, with their
    /// series.
    histogram_cells: Vec<(u32, SeriesRef)>,
    /// How many of them belong to the row.
    row_histograms: usize,
    /// Column and fingerprint of every exemplar, those left out because they are known included.
    exemplar_marks: Vec<(u32, u64)>,
}

/// Samples of one own timestamp: ranges of what belongs to all lanes.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) timestamp_ms: i64,
    pub(crate) samples: Range<usize>,
    pub(crate) histograms: Range<usize>,
    pub(crate) exemplars: Range<usize>,
}

impl Columns {
    /// Starts with series that a scraper before this one has left alive.
    pub(crate) fn inheriting(live: &[SeriesRef]) -> Columns {
        let mut columns = Columns { series: live.to_vec(), ..Columns::default() };
        for local in 0..live.len() {
            columns.tracked.set(local as u32);
            columns.known.set(local as u32);
        }
        columns
    }

    /// Notes which series new columns mean; `None` for those that are not stored.
    pub(crate) fn learn(&mut self, found: impl Iterator<Item = (u32, Option<SeriesRef>)>) {
        self.wake();
        let local_of = self.local_of.to_mut();
        let mut known: HashMap<SeriesRef, u32> = self.series.iter().copied().zip(0..).collect();
        for (column, series) in found {
            let local = match series {
                None => DROPPED,
                Some(series) => *known.entry(series).or_insert_with(|| {
                    self.series.push(series);
                    (self.series.len() - 1) as u32
                }),
            };
            let column = column as usize;
            if local_of.len() <= column {
                local_of.resize(column + 1, DROPPED);
            }
            local_of[column] = local;
        }
        shrink(local_of);
        shrink(&mut self.series);
        self.plan.valid = false;
    }

    /// Forgets columns whose numbers may be given to others.
    pub(crate) fn retire(&mut self, columns: &[u32]) {
        if columns.is_empty() {
            return;
        }
        let local_of = self.local_of.to_mut();
        for &column in columns {
            if let Some(local) = local_of.get_mut(column as usize) {
                *local = DROPPED;
            }
        }
        self.plan.valid = false;
    }

    /// Forgets what all columns mean, but not which series are alive.
    pub(crate) fn forget_columns(&mut self) {
        self.wake();
        self.local_of = List::default();
        self.exemplars.clear();
        self.plan = Plan::default();
    }

    /// The series that get a staleness marker when the target ends or fails.
    pub(crate) fn live(&self) -> Vec<SeriesRef> {
        self.tracked.iter().filter_map(|local| self.series(local)).collect()
    }

    /// Turns a scrape into a row.
    pub(crate) fn assemble(&mut self, reading: &Reading<'_>, out: &mut Assembled) {
        out.clear();
        let scraped = reading.scraped;
        if reading.has_lanes() || !scraped.same_columns || !self.plan.valid {
            self.plan_row(reading, out);
        } else {
            out.kept = self.plan.count + self.plan.histograms.len();
        }
        if self.plan.whole {
            out.values.extend_from_slice(&scraped.values);
        } else {
            out.values.extend(self.plan.cells.iter().map(|&cell| scraped.values[cell as usize]));
        }
        out.left_out = self.plan.left_out;
        self.place_histograms(out);
        if let Some(packed) = &self.packed {
            packed.unpack(&mut out.series);
        }
        self.add_extras(reading, out);
    }

    /// The series of the row that was assembled last, as `out`, the report's at the end.
    pub(crate) fn row_series<'a>(&'a self, out: &'a Assembled) -> &'a [SeriesRef] {
        if self.packed.is_some() { &out.series } else { &self.plan.series }
    }

    /// The scrape that was assembled last is taken. What is the same for many targets, they have in `places`.
    pub(crate) fn taken(&mut self, out: &mut Assembled, places: &Interned<[u32]>) {
        if out.planned {
            std::mem::swap(&mut self.known, &mut out.seen);
            std::mem::swap(&mut self.tracked, &mut out.track);
        }
        out.exemplar_marks.sort_unstable();
        std::mem::swap(&mut self.exemplars, &mut out.exemplar_marks);
        self.renumber();
        if !out.planned {
            self.rest(places);
        }
    }

    /// The series of a local number.
    fn series(&self, local: u32) -> Option<SeriesRef> {
        let at = local as usize;
        match (&self.packed, self.resting) {
            (_, None) => self.series.get(at).copied(),
            (_, Some(locals)) if at >= locals => None,
            (Some(packed), _) => packed.get(at),
            (None, _) => self.plan.series.get(at).copied(),
        }
    }

    /// Lets go of what it has twice, or others have, too, and packs the rest: the scrape was like the one before.
    fn rest(&mut self, places: &Interned<[u32]>) {
        self.local_of.rest(places);
        if self.resting.is_none() && self.plan.series.starts_with(&self.series) {
            self.resting = Some(self.series.len());
            self.series = Vec::new();
            self.packed = PackedSeries::of(&self.plan.series);
            if self.packed.is_some() {
                self.plan.series = Vec::new();
            }
        }
    }

    /// Undoes [`Columns::rest`]; comes before every change.
    fn wake(&mut self) {
        if let Some(packed) = self.packed.take() {
            packed.unpack(&mut self.plan.series);
        }
        if let Some(locals) = self.resting.take() {
            self.series = self.plan.series[..locals].to_vec();
        }
    }

    /// The row could not be appended; what was alive before still is.
    pub(crate) fn not_taken(&mut self) {
        self.plan.valid = false;
    }

    /// How many of `columns` are stored.
    pub(crate) fn count_stored(&self, columns: impl Iterator<Item = u32>) -> usize {
        let stored =
            |column: &u32| self.local_of.get(*column as usize).is_some_and(|local| *local != DROPPED);
        columns.filter(stored).count()
    }

    /// The scrape failed: everything alive ends. Gives the series that do.
    pub(crate) fn failed(&mut self) -> Vec<SeriesRef> {
        let ended = self.live();
        self.tracked.clear();
        self.plan.valid = false;
        ended
    }

    /// Decides for every cell where it goes.
    fn plan_row(&mut self, reading: &Reading<'_>, out: &mut Assembled) {
        let Reading { config, scraped, timestamp_ms, report } = *reading;
        let lanes = reading.has_lanes();
        out.planned = true;
        self.wake();
        self.plan.cells.clear();
        self.plan.series.clear();
        self.plan.left_out = 0;
        let reported: Vec<u32> = (0..)
            .zip(&self.series)
            .filter(|(_, series)| report.contains(series))
            .map(|(local, _)| local)
            .collect();
        let mut own_times = scraped.timestamps.iter().peekable();
        for (cell, &column) in (0u32..).zip(&scraped.columns) {
            let own_time = own_times.next_if(|(at, _)| *at == cell).map(|(_, ms)| *ms).filter(|_| lanes);
            let local = self.local_of.get(column as usize).copied().unwrap_or(DROPPED);
            if local == DROPPED {
                continue;
            }
            out.kept += 1;
            if reported.contains(&local) {
                continue; // the report's own word counts
            }
            out.seen.set(local);
            match own_time {
                Some(ms) if ms > timestamp_ms.saturating_add(AHEAD_MS_MAX) => self.plan.left_out += 1,
                Some(ms) => {
                    out.laned.push((ms, local, cell));
                    if config.track_timestamps_staleness {
                        out.track.set(local);
                    }
                }
                None => {
                    if out.row.set(local) {
                        self.plan.cells.push(cell);
                        self.plan.series.push(self.series[local as usize]);
                    } else {
                        self.plan.left_out += 1;
                    }
                    out.track.set(local);
                }
            }
        }
        self.plan.count = self.plan.cells.len();
        self.plan.whole = self.plan.count == scraped.columns.len();
        if self.plan.whole {
            self.plan.cells = Vec::new();
        }
        self.plan_histograms(reading, &reported, out);
        self.plan.series.extend_from_slice(report);
        shrink(&mut self.plan.cells);
        shrink(&mut self.plan.series);
        self.plan.valid = !lanes;
        out.stale.extend(self.tracked.minus(&out.track).map(|local| self.series[local as usize]));
        out.added = out.seen.minus(&self.known).count();
        self.fill_lanes(scraped, out);
    }

    fn fill_lanes(&self, scraped: &ScrapedRow, out: &mut Assembled) {
        out.laned.sort_unstable();
        out.laned.dedup_by_key(|(ms, local, _)| (*ms, *local));
        out.laned_histograms.sort_unstable();
        out.laned_histograms.dedup_by_key(|(ms, local, _)| (*ms, *local));
        let mut histograms = out.laned_histograms.iter().peekable();
        let mut samples = out.laned.iter().peekable();
        let mut count = 0;
        loop {
            let next = [samples.peek().map(|(ms, ..)| *ms), histograms.peek().map(|(ms, ..)| *ms)];
            let Some(ms) = next.into_iter().flatten().min() else { return };
            let (first, first_histogram) = (out.lane_series.len(), count);
            while let Some((_, local, cell)) = samples.next_if(|(at, ..)| *at == ms) {
                out.lane_series.push(self.series[*local as usize]);
                out.lane_values.push(scraped.values[*cell as usize]);
            }
            while histograms.next_if(|(at, ..)| *at == ms).is_some() {
                count += 1;
            }
            out.lanes.push(Lane {
                timestamp_ms: ms,
                samples: first..out.lane_series.len(),
                histograms: first_histogram..count,
                exemplars: 0..0,
            });
        }
    }

    /// Exemplars and start timestamps.
    fn add_extras(&self, reading: &Reading<'_>, out: &mut Assembled) {
        let Reading { scraped, timestamp_ms, .. } = *reading;
        let lanes = reading.has_lanes();
        let mut laned: Vec<(i64, SeriesRef, Exemplar)> = Vec::new();
        let floats = scraped.exemplars.iter().filter_map(|(cell, given)| {
            let own_time = scraped.timestamps.binary_search_by_key(cell, |(at, _)| *at).ok();
            let column = *scraped.columns.get(*cell as usize)?;
            Some((column, own_time.map(|at| scraped.timestamps[at].1), given))
        });
        let histograms = scraped
            .histograms
            .iter()
            .flat_map(|cell| cell.exemplars.iter().map(|given| (cell.column, cell.timestamp_ms, given)));
        for (column, own_time, given) in floats.chain(histograms) {
            let Some(series) = self.series_of(column) else { continue };
            let mark = (column, fingerprint(given));
            out.exemplar_marks.push(mark);
            if self.exemplars.binary_search(&mark).is_ok() {
                continue;
            }
            let own_time = own_time.filter(|_| lanes);
            let exemplar = Exemplar {
                labels: given.labels.clone(),
                value: given.value,
                timestamp_ms: given.timestamp_ms.or(own_time).unwrap_or(timestamp_ms),
            };
            match own_time {
                None => out.exemplars.push((series, exemplar)),
                Some(ms) => laned.push((ms, series, exemplar)),
            }
        }
        laned.sort_by_key(|(ms, ..)| *ms);
        for (ms, series, exemplar) in laned {
            let Ok(lane) = out.lanes.binary_search_by_key(&ms, |lane| lane.timestamp_ms) else { continue };
            let (lane, at) = (&mut out.lanes[lane], out.lane_exemplars.len());
            if lane.exemplars.is_empty() {
                lane.exemplars = at..at;
            }
            lane.exemplars.end = at + 1;
            out.lane_exemplars.push((series, exemplar));
        }
        if !lanes {
            let starts = scraped.start_timestamps.iter();
            out.start_timestamps
                .extend(starts.filter_map(|(column, ms)| Some((self.series_of(*column)?, *ms))));
        }
    }

    fn series_of(&self, column: u32) -> Option<SeriesRef> {
        let local = *self.local_of.get(column as usize)?;
        self.series(local)
    }

    /// Makes the numbering anew when most numbers are out of use.
    fn renumber(&mut self) {
        let used = self.local_of.iter().filter(|local| **local != DROPPED).count() + self.tracked.count();
        if self.resting.unwrap_or(self.series.len()) <= 2 * used + UNUSED_LOCALS_MIN {
            return;
        }
        self.wake();
        let mut new_of: HashMap<u32, u32> = HashMap::new();
        let mut series = Vec::new();
        let old = std::mem::take(&mut self.series);
        let mut renamed = |local: u32| {
            *new_of.entry(local).or_insert_with(|| {
                series.push(old[local as usize]);
                (series.len() - 1) as u32
            })
        };
        for local in self.local_of.to_mut().iter_mut().filter(|local| **local != DROPPED) {
            *local = renamed(*local);
        }
        let (mut tracked, mut known) = (Bits::default(), Bits::default());
        self.tracked.iter().for_each(|local| _ = tracked.set(renamed(local)));
        self.known.iter().for_each(|local| _ = known.set(renamed(local)));
        (self.series, self.tracked, self.known) = (series, tracked, known);
    }
}

impl Assembled {
    fn clear(&mut self) {
        self.values.clear();
        self.series.clear();
        self.lanes.clear();
        self.lane_series.clear();
        self.lane_values.clear();
        self.lane_histograms.clear();
        self.lane_exemplars.clear();
        self.laned.clear();
        self.laned_histograms.clear();
        self.histograms.clear();
        self.histogram_cells.clear();
        self.row_histograms = 0;
        self.exemplar_marks.clear();
        self.planned = false;
        self.exemplars.clear();
        self.start_timestamps.clear();
        self.stale.clear();
        (self.kept, self.added, self.left_out) = (0, 0, 0);
        self.seen.clear();
        self.row.clear();
        self.track.clear();
    }
}

/// Gives back what growing by doubling took too much: there is one for each of thousands of targets.
fn shrink<T>(all: &mut Vec<T>) {
    all.shrink_to(all.len() + all.len() / 8);
}

/// A hash of what an exemplar says.
fn fingerprint(exemplar: &ScrapedExemplar) -> u64 {
    let seed =
        exemplar.value.to_bits() ^ exemplar.timestamp_ms.unwrap_or_default().unsigned_abs().rotate_left(32);
    xxhash_rust::xxh3::xxh3_64_with_seed(exemplar.labels.as_bytes(), seed)
}

/// The labels under which a scraped series is stored; `None` when metric relabelling drops it.
///
/// # Errors
/// Labels no series can have; the scrape fails.
///
/// Source: Prometheus `scrape.mutateSampleLabels`, `scrapeLoop.append`, `verifyLabelLimits`.
pub(crate) fn stored_labels(
    config: &ScrapeConfig,
    target: &Labels,
    stamped: &Labels,
    scraped: &Labels,
) -> Result<Option<Labels>, String> {
    let mut labels = LabelsBuilder::from_labels(scraped);
    if config.honor_labels {
        for (name, value) in target {
            if labels.get(name).is_none() {
                labels.set(name, value);
            }
        }
    } else {
        let mut conflicts: Vec<(&str, &str)> = Vec::new();
        for (name, value) in target {
            if let Some(exposed) = scraped.get(name) {
                conflicts.push((name, exposed));
            }
            labels.set(name, value);
        }
        conflicts.sort_by_key(|(name, _)| name.len());
        for (name, exposed) in conflicts {
            let mut renamed = name.to_owned();
            while labels.get(&renamed).is_some() {
                renamed.insert_str(0, "exported_");
            }
            labels.set(&renamed, exposed);
        }
    }
    if !model::relabel::apply(&config.metric_relabel, &mut labels) {
        return Ok(None);
    }
    if labels.iter().next().is_none() {
        return Ok(None);
    }
    labels.stamp(stamped);
    let labels = labels.build();
    let name = labels.metric_name();
    if name.is_empty() {
        return Err("missing metric name (__name__ label)".to_owned());
    }
    let label_names =
        || labels.iter().map(|(name, _)| name).filter(|name| *name != model::labels::METRIC_NAME);
    if !config.names.is_valid_metric_name(name) || !label_names().all(|n| config.names.is_valid_label_name(n))
    {
        return Err(format!("invalid metric name or label names: {labels}"));
    }
    check_limits(config, &labels)?;
    Ok(Some(labels))
}

fn check_limits(config: &ScrapeConfig, labels: &Labels) -> Result<(), String> {
    let limits = &config.limits;
    let metric = first_letters(labels.metric_name());
    let count = labels.len() as u64;
    if limits.labels > 0 && count > limits.labels {
        return Err(format!(
            "label_limit exceeded (metric: {metric}, number of labels: {count}, limit: {})",
            limits.labels
        ));
    }
    if limits.label_name_bytes == 0 && limits.label_value_bytes == 0 {
        return Ok(());
    }
    for (name, value) in labels {
        let (name_bytes, value_bytes) = (name.len() as u64, value.len() as u64);
        if limits.label_name_bytes > 0 && name_bytes > limits.label_name_bytes {
            return Err(format!(
                "label_name_length_limit exceeded (metric: {metric}, label name: {}, length: {name_bytes}, limit: {})",
                first_letters(name),
                limits.label_name_bytes
            ));
        }
        if limits.label_value_bytes > 0 && value_bytes > limits.label_value_bytes {
            return Err(format!(
                "label_value_length_limit exceeded (metric: {metric}, label name: {}, value: {:?}, length: \
                 {value_bytes}, limit: {})",
                first_letters(name),
                first_letters(value),
                limits.label_value_bytes
            ));
        }
    }
    Ok(())
}

fn first_letters(text: &str) -> &str {
    text.char_indices().nth(50).map_or(text, |(end, _)| &text[..end])
}

/// A set of small numbers.
#[derive(Debug, Default, Clone)]
struct Bits(Vec<u64>);

impl Bits {
    /// Adds `bit`; whether it is new.
    fn set(&mut self, bit: u32) -> bool {
        let (word, mask) = ((bit / 64) as usize, 1u64 << (bit % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & mask == 0;
        self.0[word] |= mask;
        new
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.minus(&EMPTY)
    }

    /// The numbers in this set and not in `other`, ascending.
    fn minus<'a>(&'a self, other: &'a Bits) -> impl Iterator<Item = u32> + 'a {
        self.0.iter().enumerate().flat_map(move |(at, word)| {
            let mut rest = word & !other.0.get(at).copied().unwrap_or(0);
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(at as u32 * 64 + bit)
            })
        })
    }
}

static EMPTY: Bits = Bits(Vec::new());
