//! What a door remembers of a tenant, and how a request's rows go to the store.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicI64;

use foldhash::fast::FixedState;
use model::{Labels, Metadata, SourceId, TenantId};
use parking_lot::Mutex;
use storage::{
    Appender, Batch, CommitPosition, MetadataEntry, Policy, RejectReason, Row, SeriesRef, SourceDesc,
    SourceRef, StoreError,
};
use wire::remote_write::{decode_labels, write_label_bytes};

use crate::admission::Admission;
use crate::intake::{Intake, Slot, SlotState, metadata_hash};
use crate::known::{KnownSeries, Place};
use crate::rows::RowTable;
use crate::tally::Refusal;

/// Names the door among the doors of a source's identity.
const DOOR: &str = "remote-write";
/// Most labels of a series: more is a mistake of the sender, and costs the index dearly.
const LABELS_MAX: usize = 4096;
/// Families whose metadata is remembered; with more, all are forgotten (and told to the store again).
const FAMILIES_MAX: usize = 100_000;

/// One tenant's side of the door.
#[derive(Debug)]
pub(crate) struct TenantDoor {
    tenant: TenantId,
    pub(crate) known: Mutex<KnownSeries>,
    /// How many of them the gauge has counted.
    pub(crate) published: AtomicI64,
    /// Hashes of the metadata of families (1.0) last passed on.
    families: Mutex<HashMap<String, u64>>,
}

/// What the store took of a request.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) samples: usize,
    pub(crate) histograms: usize,
    pub(crate) exemplars: usize,
    pub(crate) position: CommitPosition,
}

impl TenantDoor {
    pub(crate) fn new(tenant: TenantId) -> TenantDoor {
        TenantDoor {
            tenant,
            known: Mutex::default(),
            published: AtomicI64::new(0),
            families: Mutex::default(),
        }
    }

    /// Resolves the series not known yet and appends everything but what
    /// `admission` refuses.
    pub(crate) fn store(
        &self,
        appender: &dyn Appender,
        intake: &mut Intake<'_>,
        mut admission: Admission,
    ) -> Result<Taken, StoreError> {
        self.resolve_new(appender, intake)?;
        let mut taken = Taken::default();
        let rows = build_rows(intake, &mut admission, |_| true);
        let stale = self.append(appender, intake, rows, true, &mut taken)?;
        if stale.is_empty() {
            return Ok(taken);
        }
        // The store let go of series that were idle for long; resolve their labels once more.
        self.known.lock().forget(&stale);
        let mut again = vec![false; intake.slots.len()];
        for (slot, again) in intake.slots.iter_mut().zip(&mut again) {
            if matches!(slot.state, SlotState::Placed(place) if stale.contains(&place)) {
                slot.state = SlotState::New;
                *again = true;
            }
        }
        self.resolve_new(appender, intake)?;
        let rows = build_rows(intake, &mut admission, |slot| again[slot as usize]);
        self.append(appender, intake, rows, false, &mut taken)?;
        Ok(taken)
    }

    /// Gives every new slot its place: decodes labels, opens sources, resolves series.
    fn resolve_new(&self, appender: &dyn Appender, intake: &mut Intake<'_>) -> Result<(), StoreError> {
        let mut by_source: HashMap<Labels, Vec<(usize, Labels)>> = HashMap::new();
        for at in 0..intake.slots.len() {
            let slot = &intake.slots[at];
            if slot.state != SlotState::New {
                continue;
            }
            match decode_labels(&intake.label_bytes(slot)) {
                Ok(_) if !slot.has_points => {}
                Ok(labels) if labels.len() > LABELS_MAX => {
                    intake.slots[at].state = SlotState::Refused;
                    let words = || format!("the series has {} labels, more than {LABELS_MAX}", labels.len());
                    intake.tally.refuse(Refusal::SeriesLimit, 1, words);
                }
                Ok(labels) => {
                    let source = labels.only(|name| name == "job" || name == "instance");
                    by_source.entry(source).or_default().push((at, labels));
                }
                Err(error) => {
                    intake.slots[at].state = SlotState::Refused;
                    intake.tally.refuse(Refusal::InvalidLabels, 1, || error.to_string());
                }
            }
        }
        for (source_labels, new) in by_source {
            let source = self.source(appender, &source_labels)?;
            let labels: Vec<Labels> = new.iter().map(|(_, labels)| labels.clone()).collect();
            let resolved = appender.resolve(source, &labels)?;
            let mut known = self.known.lock();
            for ((at, labels), series) in new.into_iter().zip(resolved) {
                let slot = &mut intake.slots[at];
                let Some(series) = series else {
                    slot.state = SlotState::Refused;
                    intake.tally.refuse(Refusal::SeriesLimit, 1, || {
                        format!("series limit exceeded for series {labels}")
                    });
                    continue;
                };
                let place = Place { source, series };
                slot.state = SlotState::Placed(place);
                let slot = &intake.slots[at];
                let label_bytes = intake.label_bytes(slot);
                let unusual = is_unusual(&label_bytes, &labels);
                known.insert(slot.hash, label_bytes.len(), unusual, place, slot.metadata_hash);
            }
        }
        Ok(())
    }

    /// The source of a `job` and `instance`; asked for with new series alone, so the store's own list of them
    /// is enough.
    fn source(&self, appender: &dyn Appender, labels: &Labels) -> Result<SourceRef, StoreError> {
        let id = SourceId::of(&self.tenant, "", DOOR, labels, "");
        appender.open_source(&SourceDesc { tenant: self.tenant.clone(), id, labels: labels.clone() })
    }

    /// Appends the rows and counts what was refused. Gives the places the store no longer knows,
    /// which are not counted yet, when it `may_retry`.
    fn append(
        &self,
        appender: &dyn Appender,
        intake: &mut Intake<'_>,
        mut table: RowTable,
        may_retry: bool,
        taken: &mut Taken,
    ) -> Result<HashSet<Place>, StoreError> {
        if intake.repeats {
            let mut clashes = Vec::new();
            taken.samples += table.drop_repeats(|timestamp_ms, series| clashes.push((timestamp_ms, series)));
            for (timestamp_ms, series) in clashes {
                refuse(intake, RejectReason::Duplicate, series, timestamp_ms);
            }
        }
        let offered = table.samples();
        let flat = table.flatten();
        let rows = flat.rows();
        let metadata = if may_retry { self.changed_metadata(appender, intake)? } else { Vec::new() };
        if rows.is_empty() && metadata.is_empty() {
            return Ok(HashSet::new());
        }
        let entries: Vec<MetadataEntry<'_>> = metadata
            .iter()
            .map(|(source, metric, metadata)| MetadataEntry { source: *source, metric, metadata })
            .collect();
        let batch = Batch { metadata: &entries, ..Batch::rows(&rows, Policy::REMOTE_WRITE) };
        let appended = appender.append(&batch)?;
        taken.samples += appended.samples;
        taken.histograms += appended.histograms;
        taken.exemplars += appended.exemplars;
        taken.position = taken.position.max(appended.position);
        let only_exemplars = appended.samples + appended.histograms == offered;
        let mut stale = HashSet::new();
        for rejection in &appended.rejected {
            let Some(Row { source, timestamp_ms, .. }) = rows.get(rejection.row) else { continue };
            if rejection.reason == RejectReason::UnknownSeries && may_retry {
                stale.insert(Place { source: *source, series: rejection.series });
            } else if only_exemplars {
                intake.tally.refuse(Refusal::Exemplar, 1, || format!("exemplar: {}", rejection.reason));
            } else {
                refuse(intake, rejection.reason, rejection.series, *timestamp_ms);
            }
        }
        Ok(stale)
    }

    /// The metadata of the request that is news to the store.
    fn changed_metadata(
        &self,
        appender: &dyn Appender,
        intake: &mut Intake<'_>,
    ) -> Result<Vec<(SourceRef, String, Metadata)>, StoreError> {
        let mut changed = Vec::new();
        let mut said: HashSet<(SourceRef, String), FixedState> = HashSet::default();
        for (slot, metadata) in std::mem::take(&mut intake.series_metadata) {
            let slot = &intake.slots[slot as usize];
            let SlotState::Placed(place) = slot.state else { continue };
            let Ok(labels) = decode_labels(&intake.label_bytes(slot)) else { continue };
            let family = family_name(labels.metric_name(), &metadata).to_owned();
            if said.insert((place.source, family.clone())) {
                changed.push((place.source, family, metadata));
            }
        }
        for family in std::mem::take(&mut intake.families) {
            let hash = metadata_hash(&family.metadata);
            let mut families = self.families.lock();
            if families.len() >= FAMILIES_MAX {
                families.clear();
            }
            if family.family.is_empty() || families.insert(family.family.clone(), hash) == Some(hash) {
                continue;
            }
            drop(families);
            changed.push((self.source(appender, &Labels::empty())?, family.family, family.metadata));
        }
        Ok(changed)
    }
}

/// Whether a sender may spell these labels in another way, too: not sorted, or with empty values.
fn is_unusual(label_bytes: &[u8], labels: &Labels) -> bool {
    let mut usual = Vec::with_capacity(label_bytes.len());
    write_label_bytes(labels, &mut usual);
    usual != label_bytes
}

/// The rows of the placed slots that `wanted` accepts.
fn build_rows(intake: &mut Intake<'_>, admission: &mut Admission, wanted: impl Fn(u32) -> bool) -> RowTable {
    let mut table = RowTable::default();
    // Apart from the rest, which its words are made of.
    let mut tally = std::mem::take(&mut intake.tally);
    let place_of = |slot: u32| match intake.slots[slot as usize].state {
        SlotState::Placed(place) if wanted(slot) => Some(place),
        _ => None,
    };
    let told = |words: String, slot: u32, timestamp_ms: i64| {
        let labels = intake.shown_labels(&intake.slots[slot as usize]);
        format!("{words} for series {labels} at {timestamp_ms}")
    };
    for float in &intake.floats {
        let Some(place) = place_of(float.slot) else { continue };
        let timestamp_ms = float.sample.timestamp_ms;
        if let Some(refusal) = admission.refusal(timestamp_ms) {
            tally.refuse(refusal, 1, || told(admission.words(refusal), float.slot, timestamp_ms));
            continue;
        }
        table.float(place, timestamp_ms, float.sample.value);
        if float.sample.start_timestamp_ms != 0 {
            table.start(place, timestamp_ms, float.sample.start_timestamp_ms);
        }
    }
    for (slot, sample) in &intake.histograms {
        let Some(place) = place_of(*slot) else { continue };
        if let Some(refusal) = admission.refusal(sample.timestamp_ms) {
            tally.refuse(refusal, 1, || told(admission.words(refusal), *slot, sample.timestamp_ms));
            continue;
        }
        table.histogram(place, sample.timestamp_ms, sample.histogram.clone());
        if sample.start_timestamp_ms != 0 {
            table.start(place, sample.timestamp_ms, sample.start_timestamp_ms);
        }
    }
    for (slot, exemplar) in &intake.exemplars {
        let Some(place) = place_of(*slot) else { continue };
        let row_ms = intake.slots[*slot as usize].newest_ms.unwrap_or(exemplar.timestamp_ms);
        if let Some(refusal) = admission.refusal(row_ms).or_else(|| admission.refusal(exemplar.timestamp_ms))
        {
            let words = admission.words(refusal);
            tally.refuse(Refusal::Exemplar, 1, || told(words, *slot, exemplar.timestamp_ms));
            continue;
        }
        table.exemplar(place, row_ms, exemplar.clone());
    }
    intake.tally = tally;
    table
}

fn refuse(intake: &mut Intake<'_>, reason: RejectReason, series: SeriesRef, timestamp_ms: i64) {
    let mut tally = std::mem::take(&mut intake.tally);
    let is_it = |slot: &&Slot| matches!(slot.state, SlotState::Placed(place) if place.series == series);
    tally.refuse(Refusal::of(reason), 1, || {
        let labels =
            intake.slots.iter().find(is_it).map(|slot| intake.shown_labels(slot)).unwrap_or_default();
        format!("{reason} for series {labels} at {timestamp_ms}")
    });
    intake.tally = tally;
}

/// The family of a metric: its name without the suffix that its type's series have.
fn family_name<'a>(metric: &'a str, metadata: &Metadata) -> &'a str {
    use model::MetricType::{GaugeHistogram, Histogram, Summary};
    let suffixes: &[&str] = match metadata.metric_type {
        Histogram => &["_bucket", "_count", "_sum"],
        GaugeHistogram => &["_bucket", "_gcount", "_gsum"],
        Summary => &["_count", "_sum"],
        _ => &[],
    };
    suffixes.iter().find_map(|suffix| metric.strip_suffix(suffix)).unwrap_or(metric)
}
