//! The series of the rows that go out: what they are called at the receiver, worked out once.

use std::collections::HashMap;
use std::sync::Arc;

use model::labels::METRIC_NAME;
use model::relabel::{self, Rule};
use model::{Labels, LabelsBuilder, Metadata, SourceId};
use parking_lot::Mutex;
use wire::remote_write::KnownSeries;

/// Ends of the names of a family's series.
const SUFFIXES: [&str; 5] = ["_bucket", "_count", "_sum", "_total", "_created"];
/// Slots that may stay unused before they are worth a clean-up.
const IDLE_SLOTS_MAX: usize = 16 << 10;

/// A series as the receiver knows it.
#[derive(Debug)]
pub(super) struct Series {
    /// Whose rows it comes from.
    pub(super) source: SourceId,
    /// The labels that go out.
    pub(super) labels: Labels,
    /// What its family says of itself.
    pub(super) metadata: Option<Arc<Metadata>>,
    /// Its texts as the writer of requests of 2.0 knows them.
    pub(super) known: Mutex<Option<KnownSeries>>,
}

impl Series {
    fn new(source: SourceId, labels: Labels, metadata: Option<Arc<Metadata>>) -> Arc<Series> {
        Arc::new(Series { source, labels, metadata, known: Mutex::new(None) })
    }
}

/// What becomes of labels on the way out.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    /// Set on each series that has no label of that name.
    pub(super) external_labels: Labels,
    /// Run after that.
    pub(super) rules: Vec<Rule>,
}

/// A series by number; holds until [`Catalog::clean`].
pub(super) type Slot = u32;

/// What is known of sources and their columns. Columns are named by the numbers of one segment at a time;
/// what was worked out for them outlives it.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    shape: Shape,
    slots: Vec<Arc<Series>>,
    sources: Vec<Source>,
    by_id: HashMap<SourceId, u32>,
    /// Sources of the segment at hand, by their numbers there.
    numbered: Vec<Numbered>,
}

#[derive(Debug, Default)]
struct Source {
    id: SourceId0,
    /// By the labels that the rows give.
    series: HashMap<Labels, Option<Slot>>,
    /// The slots in the order of the labels that go out.
    sorted: Vec<Slot>,
    is_sorted: bool,
    metadata: HashMap<String, Arc<Metadata>>,
    /// Whether the segment at hand names it.
    current: bool,
}

/// [`SourceId`] with a default.
#[derive(Debug, Clone, Copy)]
struct SourceId0(SourceId);

impl Default for SourceId0 {
    fn default() -> Self {
        SourceId0(SourceId(0))
    }
}

#[derive(Debug)]
struct Numbered {
    source: u32,
    columns: Vec<Place>,
}

/// What a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nobody has named it.
    Unknown,
    /// Relabelling drops the series.
    Dropped,
    /// A series.
    Slot(Slot),
}

impl Catalog {
    pub(super) fn new(shape: Shape) -> Catalog {
        Catalog { shape, ..Catalog::default() }
    }

    /// The numbers of sources and columns begin anew.
    pub(super) fn begin_segment(&mut self) {
        self.numbered.clear();
        self.sources.iter_mut().for_each(|source| source.current = false);
    }

    /// The next source of the segment.
    pub(super) fn add_source(&mut self, id: SourceId) {
        let source = *self.by_id.entry(id).or_insert_with(|| {
            self.sources.push(Source { id: SourceId0(id), is_sorted: true, ..Source::default() });
            self.sources.len() as u32 - 1
        });
        self.sources[source as usize].current = true;
        self.numbered.push(Numbered { source, columns: Vec::new() });
    }

    /// A column of a source, which may take the place of an older one. A source that was not added is passed
    /// over.
    pub(super) fn add_column(&mut self, source: u32, column: u32, labels: Labels) {
        let Some(numbered) = self.numbered.get_mut(source as usize) else { return };
        let source = &mut self.sources[numbered.source as usize];
        let slots = &mut self.slots;
        let shape = &self.shape;
        let known = source.series.entry(labels);
        let known = known.or_insert_with_key(|labels| {
            let labels = shape.apply(labels)?;
            let metadata = family(&source.metadata, labels.metric_name()).cloned();
            slots.push(Series::new(source.id.0, labels, metadata));
            let slot = slots.len() as Slot - 1;
            source.sorted.push(slot);
            source.is_sorted = false;
            Some(slot)
        });
        let at = column as usize;
        if at >= numbered.columns.len() {
            numbered.columns.resize(at + 1, Place::Unknown);
        }
        numbered.columns[at] = known.map_or(Place::Dropped, Place::Slot);
    }

    /// What a source says of a family from here on.
    pub(super) fn set_metadata(&mut self, source: u32, metric: &str, metadata: &Metadata) {
        let Some(numbered) = self.numbered.get(source as usize) else { return };
        let source = &mut self.sources[numbered.source as usize];
        let metadata = Arc::new(metadata.clone());
        source.metadata.insert(metric.to_owned(), metadata);
        for &slot in &source.sorted {
            let series = &self.slots[slot as usize];
            let now = family(&source.metadata, series.labels.metric_name());
            if now != series.metadata.as_ref() {
                let (labels, metadata) = (series.labels.clone(), now.cloned());
                self.slots[slot as usize] = Series::new(series.source, labels, metadata);
            }
        }
    }

    /// The columns of a source, by number.
    #[inline]
    pub(super) fn columns(&self, source: u32) -> &[Place] {
        self.numbered.get(source as usize).map_or(&[], |numbered| &numbered.columns)
    }

    pub(super) fn series(&self, slot: Slot) -> &Arc<Series> {
        &self.slots[slot as usize]
    }

    /// How many slots there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Which of our sources a source of the segment is.
    #[inline]
    pub(super) fn source(&self, source: u32) -> Option<u32> {
        self.numbered.get(source as usize).map(|numbered| numbered.source)
    }

    /// The slots of our sources `touched` (which it puts in order), by source and by the labels that go out:
    /// an order that depends on neither history nor numbers.
    pub(super) fn in_order(&mut self, touched: &mut [u32], mut each: impl FnMut(Slot)) {
        touched.sort_unstable_by_key(|source| self.sources[*source as usize].id.0);
        for source in touched {
            let source = &mut self.sources[*source as usize];
            if !source.is_sorted {
                source
                    .sorted
                    .sort_by(|a, b| self.slots[*a as usize].labels.cmp(&self.slots[*b as usize].labels));
                source.is_sorted = true;
            }
            source.sorted.iter().for_each(|slot| each(*slot));
        }
    }

    /// Forgets sources that the segment at hand does not name, when that is worth it. `true` when slots
    /// have changed: none may be in use.
    pub(super) fn clean(&mut self) -> bool {
        let idle: usize = self.sources.iter().filter(|s| !s.current).map(|s| s.sorted.len() + 1).sum();
        let current = self.slots.len().saturating_sub(idle);
        if idle <= IDLE_SLOTS_MAX.max(current) {
            return false;
        }
        let old_slots = std::mem::take(&mut self.slots);
        let mut places: Vec<Option<Slot>> = vec![None; old_slots.len()];
        let mut new_sources = vec![0; self.sources.len()];
        let mut kept = Vec::new();
        for (at, mut source) in std::mem::take(&mut self.sources).into_iter().enumerate() {
            if !source.current {
                self.by_id.remove(&source.id.0);
                continue;
            }
            for slot in &mut source.sorted {
                self.slots.push(Arc::clone(&old_slots[*slot as usize]));
                let place = self.slots.len() as Slot - 1;
                places[*slot as usize] = Some(place);
                *slot = place;
            }
            source
                .series
                .values_mut()
                .flatten()
                .for_each(|slot| *slot = places[*slot as usize].unwrap_or(*slot));
            new_sources[at] = kept.len() as u32;
            self.by_id.insert(source.id.0, kept.len() as u32);
            kept.push(source);
        }
        self.sources = kept;
        for numbered in &mut self.numbered {
            numbered.source = new_sources[numbered.source as usize];
            for column in &mut numbered.columns {
                if let Place::Slot(slot) = column {
                    *column = places[*slot as usize].map_or(Place::Unknown, Place::Slot);
                }
            }
        }
        true
    }
}

impl Shape {
    /// The labels that go out, `None` where a rule drops the series.
    ///
    /// Source: Prometheus `storage/remote/queue_manager.go`: external labels first, those of the series
    /// win, then `write_relabel_configs`.
    fn apply(&self, labels: &Labels) -> Option<Labels> {
        if self.external_labels.is_empty() && self.rules.is_empty() {
            return Some(labels.clone());
        }
        let mut builder = LabelsBuilder::from_labels(labels);
        for (name, value) in &self.external_labels {
            if builder.get(name).is_none() {
                builder.set(name, value);
            }
        }
        let kept = relabel::apply(&self.rules, &mut builder);
        (kept && builder.get(METRIC_NAME).is_some()).then(|| builder.build())
    }
}

/// What is said of the family that series `name` belongs to.
fn family<'a>(metadata: &'a HashMap<String, Arc<Metadata>>, name: &str) -> Option<&'a Arc<Metadata>> {
    let whole = metadata.get(name);
    whole.or_else(|| SUFFIXES.iter().find_map(|suffix| metadata.get(name.strip_suffix(suffix)?)))
}
