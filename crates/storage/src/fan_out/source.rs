//! One source as a branch knows it: what its series are called there, and which of them go there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use model::{Exemplar, Histogram, Labels, is_stale};

use super::Selection;
use super::due::{Due, Selected};
use crate::account::is_report;
use crate::{Appender, Row, SeriesRef, SourceDesc, SourceRef};

/// What follows the name of a family in the names of its series.
const SUFFIXES: [&str; 8] = ["_total", "_bucket", "_sum", "_count", "_info", "_created", "_gsum", "_gcount"];

pub(super) struct Source {
    desc: SourceDesc,
    /// What the branch calls it, once it has been opened there.
    pub(super) theirs: Option<SourceRef>,
    pub(super) series: HashMap<SeriesRef, Known>,
    /// Those that are not selected, and when they were used: nobody asks for more.
    others: HashMap<SeriesRef, u32>,
    /// The columns of the last row, and what the branch calls them: a steady scrape has the same again.
    last: Option<Columns>,
    /// What the receiver of a selection is to expect.
    pub(super) due: Due,
    pub(super) epoch: u32,
}

pub(super) struct Known {
    labels: Labels,
    /// Of a scrape's report.
    is_report: bool,
    /// What the branch calls it; `None` while it has no place there.
    pub(super) theirs: Option<SeriesRef>,
    epoch: u32,
}

#[derive(Clone)]
struct Columns {
    ours: Arc<[SeriesRef]>,
    theirs: Arc<[SeriesRef]>,
    /// Which of `ours` they are; all where missing.
    picks: Option<Arc<[u32]>>,
    /// How many of them are not of a report.
    cells: u32,
}

/// Where a series is at the branch.
enum Place {
    At(SeriesRef),
    /// It does not go there.
    NotSelected,
    /// It has no place, or nobody knows it.
    Missing,
}

impl Source {
    pub(super) fn new(desc: &SourceDesc, epoch: u32) -> Source {
        Source {
            desc: desc.clone(),
            theirs: None,
            series: HashMap::new(),
            others: HashMap::new(),
            last: None,
            due: Due::default(),
            epoch,
        }
    }

    /// The branch has another receiver, or another selection.
    pub(super) fn start_over(&mut self) {
        self.theirs = None;
        self.forget_series();
        self.due.start_over();
    }

    pub(super) fn open(&mut self, appender: &dyn Appender) {
        if self.theirs.is_none() {
            self.theirs = appender.open_source(&self.desc).ok();
        }
    }

    pub(super) fn forget_idle(&mut self, now: u32) {
        let is_idle = |epoch: u32| epoch + 2 <= now;
        if is_idle(self.epoch) {
            return self.forget_series();
        }
        if let Some(last) = &self.last {
            for series in last.ours.iter() {
                match self.series.get_mut(series) {
                    Some(known) => known.epoch = self.epoch,
                    None => _ = self.others.entry(*series).and_modify(|epoch| *epoch = self.epoch),
                }
            }
        }
        self.series.retain(|_, known| !is_idle(known.epoch));
        self.others.retain(|_, epoch| !is_idle(*epoch));
    }

    fn forget_series(&mut self) {
        (self.series, self.others, self.last) = (HashMap::new(), HashMap::new(), None);
    }

    /// Whether it remembers a series, selected or not.
    pub(super) fn knows(&self, series: SeriesRef) -> bool {
        self.series.contains_key(&series) || self.others.contains_key(&series)
    }

    /// The first appender has told what it calls these.
    pub(super) fn resolved(
        &mut self,
        appender: &dyn Appender,
        selection: Option<&Selection>,
        labels: &[Labels],
        ours: &[Option<SeriesRef>],
        epoch: u32,
    ) {
        self.last = None;
        self.epoch = epoch;
        for (labels, ours) in labels.iter().zip(ours) {
            let is_selected = selection.is_none_or(|selection| (selection.wants)(labels));
            match ours {
                Some(ours) if is_selected => {
                    let is_report = selection.is_some() && is_report(labels, &self.desc.labels);
                    let known = Known { labels: labels.clone(), is_report, theirs: None, epoch };
                    self.series.entry(*ours).or_insert(known);
                }
                Some(ours) => _ = self.others.insert(*ours, epoch),
                None if is_selected && selection.is_some() => self.due.refused(labels),
                None => {}
            }
        }
        let wanted: Vec<SeriesRef> = ours.iter().flatten().copied().collect();
        self.resolve(appender, &wanted);
    }

    /// The names of the series that are selected.
    pub(super) fn selected_names(&self) -> HashSet<&str> {
        self.series.values().map(|known| known.labels.metric_name()).collect()
    }

    /// Finds places for selected series that have none.
    fn resolve(&mut self, appender: &dyn Appender, wanted: &[SeriesRef]) {
        let missing = wanted.iter().filter_map(|ours| {
            self.series
                .get(ours)
                .filter(|known| known.theirs.is_none())
                .map(|known| (*ours, known.labels.clone()))
        });
        let (ours, labels): (Vec<SeriesRef>, Vec<Labels>) = missing.unzip();
        if ours.is_empty() {
            return;
        }
        self.open(appender);
        let Some(source) = self.theirs else { return };
        if let Ok(theirs) = appender.resolve(source, &labels) {
            for (ours, theirs) in ours.iter().zip(theirs) {
                self.series.entry(*ours).and_modify(|known| known.theirs = theirs);
            }
        }
    }

    pub(super) fn forget_theirs(&mut self, theirs: SeriesRef) {
        self.last = None;
        for known in self.series.values_mut().filter(|known| known.theirs == Some(theirs)) {
            known.theirs = None;
        }
    }

    pub(super) fn row(
        &mut self,
        appender: &dyn Appender,
        row: &Row<'_>,
        is_taken: impl Fn(SeriesRef) -> bool,
    ) -> Translated {
        let mut out = Translated {
            ours: row.source,
            source: SourceRef(0),
            timestamp_ms: row.timestamp_ms,
            series: Arc::default(),
            values: Vec::new(),
            histograms: Vec::new(),
            starts: Vec::new(),
            exemplars: Vec::new(),
            forgotten: Vec::new(),
            selected: Selected::default(),
        };
        let all = || row.series.iter().copied().chain(row.histograms.iter().map(|(series, _)| *series));
        let is_whole = all().all(&is_taken);
        match self.last.as_ref().filter(|last| is_whole && *last.ours == *row.series) {
            Some(last) => {
                out.series = Arc::clone(&last.theirs);
                match &last.picks {
                    None => out.values.extend_from_slice(row.values),
                    Some(picks) => out.values.extend(picks.iter().map(|pick| row.values[*pick as usize])),
                }
                out.selected.add(last.theirs.len(), last.cells);
            }
            None => self.pick(appender, row, &is_taken, is_whole, &mut out),
        }
        for (series, histogram) in row.histograms.iter().filter(|(series, _)| is_taken(*series)) {
            if let Place::At(place) = self.place(*series) {
                out.histograms.push((place, histogram.clone()));
                out.selected.add(1, 1);
            }
        }
        for (series, start_ms) in row.start_timestamps {
            if let Place::At(place) = self.place(*series) {
                out.starts.push((place, *start_ms));
            }
        }
        for (series, exemplar) in row.exemplars {
            if let Place::At(place) = self.place(*series) {
                out.exemplars.push((place, exemplar.clone()));
            }
        }
        out.source = self.theirs.unwrap_or(SourceRef(0));
        if self.theirs.is_none() {
            (out.series, out.values, out.histograms) = (Arc::default(), Vec::new(), Vec::new());
        }
        // The end of series is no cell of a scrape.
        if row.values.first().is_some_and(|value| is_stale(*value)) && row.values.iter().all(|v| is_stale(*v))
        {
            out.selected = Selected::default();
        }
        out
    }

    /// The columns and values of a row that is not like the last one.
    fn pick(
        &mut self,
        appender: &dyn Appender,
        row: &Row<'_>,
        is_taken: &impl Fn(SeriesRef) -> bool,
        is_whole: bool,
        out: &mut Translated,
    ) {
        let all = row.series.iter().copied().chain(row.histograms.iter().map(|(series, _)| *series));
        let known = all.filter(|series| is_taken(*series));
        let missing: Vec<SeriesRef> =
            known.filter(|series| matches!(self.place(*series), Place::Missing)).collect();
        self.resolve(appender, &missing);
        out.forgotten.extend(missing.into_iter().filter(|series| !self.knows(*series)));
        let mut theirs = Vec::with_capacity(row.series.len());
        let (mut picks, mut cells, mut selected) = (Vec::new(), 0, 0);
        for (at, (series, value)) in row.series.iter().zip(row.values).enumerate() {
            let Some(known) = self.series.get(series) else { continue };
            if !is_taken(*series) {
                out.selected.lose(u32::from(!known.is_report));
                continue;
            }
            selected += 1;
            if let Some(place) = known.theirs {
                theirs.push(place);
                picks.push(at as u32);
                cells += u32::from(!known.is_report);
                out.values.push(*value);
            }
        }
        let lost_histograms = row.histograms.iter().filter(|(series, _)| !is_taken(*series));
        let lost_histograms = lost_histograms.filter(|(series, _)| self.series.contains_key(series));
        out.selected.lose(lost_histograms.count() as u32);
        out.series = theirs.into();
        out.selected.add(out.series.len(), cells);
        if is_whole && out.forgotten.is_empty() && out.series.len() == selected {
            let picks = (picks.len() < row.series.len()).then(|| picks.into());
            let theirs = Arc::clone(&out.series);
            self.last = Some(Columns { ours: row.series.into(), theirs, picks, cells });
        }
    }

    fn place(&mut self, series: SeriesRef) -> Place {
        if let Some(known) = self.series.get_mut(&series) {
            known.epoch = self.epoch;
            return known.theirs.map_or(Place::Missing, Place::At);
        }
        match self.others.get_mut(&series) {
            Some(epoch) => {
                *epoch = self.epoch;
                Place::NotSelected
            }
            None => Place::Missing,
        }
    }
}

/// Whether one of the series `names` belongs to the family.
pub(super) fn has_family(names: &HashSet<&str>, family: &str) -> bool {
    names.contains(family)
        || SUFFIXES.iter().any(|suffix| names.contains(format!("{family}{suffix}").as_str()))
}

/// A row as a branch names it.
pub(super) struct Translated {
    /// What we call the source.
    pub(super) ours: SourceRef,
    source: SourceRef,
    timestamp_ms: i64,
    series: Arc<[SeriesRef]>,
    values: Vec<f64>,
    histograms: Vec<(SeriesRef, Histogram)>,
    starts: Vec<(SeriesRef, i64)>,
    exemplars: Vec<(SeriesRef, Exemplar)>,
    /// Series that nobody remembers.
    pub(super) forgotten: Vec<SeriesRef>,
    /// What of it the receiver of a selection may count.
    pub(super) selected: Selected,
}

impl Translated {
    pub(super) fn points(&self) -> usize {
        self.values.len() + self.histograms.len()
    }

    pub(super) fn row(&self) -> Row<'_> {
        Row {
            source: self.source,
            timestamp_ms: self.timestamp_ms,
            series: &self.series,
            values: &self.values,
            histograms: &self.histograms,
            start_timestamps: &self.starts,
            exemplars: &self.exemplars,
        }
    }
}
