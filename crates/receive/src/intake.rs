//! What a request holds: its series found among the known ones, its points beside them.

use std::borrow::Cow;
use std::ops::Range;

use model::{Exemplar, Metadata};
use wire::remote_write::v1::FamilyMetadata;
use wire::remote_write::{
    DecodeError, HistogramError, HistogramSample, LabelsError, Sample, decode_labels, v1, v2,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::known::{Found, KnownSeries, Place};
use crate::tally::{Refusal, Tally};

/// Most characters of an exemplar's labels together. Source: OpenMetrics 1.0, Exemplars.
const EXEMPLAR_CHARS_MAX: usize = 128;

/// A series of the request.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Its label bytes, in [`Intake::text`].
    pub(crate) labels: Range<usize>,
    pub(crate) state: SlotState,
    /// Whether there is anything to store of it.
    pub(crate) has_points: bool,
    /// Its newest sample's time, once it has samples.
    pub(crate) newest_ms: Option<i64>,
    /// Hash of the metadata that came with it; 0 for none.
    pub(crate) metadata_hash: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SlotState {
    /// Known, or resolved by now.
    Placed(Place),
    /// Not known; the hash of its label bytes.
    New(u128),
    /// The labels name no series, or the store has no room for it.
    Refused,
}

/// A float of a series of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Float {
    pub(crate) slot: u32,
    pub(crate) sample: Sample,
}

/// A request, decoded.
#[derive(Debug)]
pub(crate) struct Intake<'a> {
    /// Where the slots' label bytes stand: the body (1.0) or spelled out (2.0).
    pub(crate) text: Cow<'a, [u8]>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) floats: Vec<Float>,
    pub(crate) histograms: Vec<(u32, HistogramSample)>,
    pub(crate) exemplars: Vec<(u32, Exemplar)>,
    /// Metadata that came with series and has changed (2.0).
    pub(crate) series_metadata: Vec<(u32, Metadata)>,
    /// Metadata of families (1.0).
    pub(crate) families: Vec<FamilyMetadata>,
    /// Whether a series may be in the request twice.
    pub(crate) repeats: bool,
    pub(crate) tally: Tally,
    /// Series found by guess, by table, and not found.
    pub(crate) found: [u64; 3],
}

/// A request that cannot be read. Nothing of it is taken.
#[derive(Debug)]
pub(crate) enum GatherError {
    Malformed(DecodeError),
    /// Labels stand behind points: put the request in order first.
    LateLabels,
    /// It takes more memory than a request may.
    TooLarge(String),
}

/// How much a request may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Series, points and metadata entries.
    pub(crate) entries_max: usize,
    /// Label bytes of all series, spelled out.
    pub(crate) text_bytes_max: usize,
}

impl Bounds {
    fn take(&mut self) -> Result<(), GatherError> {
        match self.entries_max.checked_sub(1) {
            Some(left) => self.entries_max = left,
            None => {
                return Err(GatherError::TooLarge("the request has too many series and samples".to_owned()));
            }
        }
        Ok(())
    }
}

impl From<DecodeError> for GatherError {
    fn from(error: DecodeError) -> GatherError {
        GatherError::Malformed(error)
    }
}

impl<'a> Intake<'a> {
    fn new(text: Cow<'a, [u8]>) -> Intake<'a> {
        Intake {
            text,
            slots: Vec::new(),
            floats: Vec::new(),
            histograms: Vec::new(),
            exemplars: Vec::new(),
            series_metadata: Vec::new(),
            families: Vec::new(),
            repeats: false,
            tally: Tally::default(),
            found: [0; 3],
        }
    }

    /// Reads a request of version 1.0.
    pub(crate) fn gather_v1(
        body: &'a [u8],
        known: &mut KnownSeries,
        now_ms: i64,
        mut bounds: Bounds,
    ) -> Result<Intake<'a>, GatherError> {
        let mut intake = Intake::new(Cow::Borrowed(body));
        let mut walk = known.begin(now_ms);
        for entry in v1::entries(body) {
            bounds.take()?;
            let series = match entry? {
                v1::Entry::Series(series) => series,
                v1::Entry::Metadata(family) => {
                    intake.families.push(family);
                    continue;
                }
            };
            let expected = known.expected_len(&walk).and_then(|len| series.label_bytes_if(len));
            let guessed = expected.and_then(|bytes| Some((bytes, known.guess(&mut walk, bytes)?)));
            let (label_bytes, found) = match guessed {
                Some(guessed) => guessed,
                None => {
                    let label_bytes = series.label_bytes()?;
                    (label_bytes, known.find(&mut walk, label_bytes))
                }
            };
            let start = label_bytes.as_ptr().addr() - body.as_ptr().addr();
            let (slot, _) = intake.open_slot(start..start + label_bytes.len(), found);
            for point in series.points(label_bytes.len()) {
                bounds.take()?;
                match point? {
                    v1::Point::Sample(sample) => {
                        intake.float(slot, Sample { start_timestamp_ms: 0, ..sample })
                    }
                    v1::Point::Histogram(message) => intake.histogram(slot, message.decode(), label_bytes),
                    v1::Point::Exemplar(message) => intake.exemplar(slot, message.decode()),
                    v1::Point::LateLabel => return Err(GatherError::LateLabels),
                }
            }
        }
        Ok(intake)
    }

    /// Reads a request of version 2.0.
    pub(crate) fn gather_v2(
        body: &[u8],
        known: &mut KnownSeries,
        now_ms: i64,
        mut bounds: Bounds,
    ) -> Result<Intake<'a>, GatherError> {
        let request = v2::Request::parse(body)?;
        let mut intake = Intake::new(Cow::Owned(Vec::new()));
        let mut text = Vec::with_capacity(body.len().saturating_mul(2).min(bounds.text_bytes_max));
        let mut walk = known.begin(now_ms);
        for series in request.series() {
            bounds.take()?;
            let start = text.len();
            match series.write_label_bytes(&mut text, bounds.text_bytes_max) {
                Ok(()) => {}
                Err(error @ LabelsError::TooLong { .. }) => {
                    return Err(GatherError::TooLarge(error.to_string()));
                }
                Err(error) => {
                    text.truncate(start);
                    intake.tally.refuse(Refusal::InvalidLabels, 1, || error.to_string());
                    continue;
                }
            }
            let label_bytes = &text[start..];
            let found =
                known.guess(&mut walk, label_bytes).unwrap_or_else(|| known.find(&mut walk, label_bytes));
            let (slot, id) = intake.open_slot(start..text.len(), found);
            let first = intake.floats.len();
            let first_histogram = intake.histograms.len();
            let mut series_start = 0;
            let mut has_samples = false;
            for point in series.points() {
                bounds.take()?;
                let point = point?;
                has_samples |= matches!(point, v2::Point::Sample(_) | v2::Point::Histogram(_));
                match point {
                    v2::Point::Sample(sample) => intake.float(slot, sample),
                    v2::Point::Histogram(message) => intake.histogram(slot, message.decode(), label_bytes),
                    v2::Point::Exemplar(message) => intake.exemplar(slot, message.decode()),
                    v2::Point::SeriesStart(start_ms) => series_start = start_ms,
                    v2::Point::Metadata(message) if message.is_empty() => {}
                    v2::Point::Metadata(message) => match message.decode() {
                        Ok(metadata) => intake.metadata(slot, id, metadata, known),
                        Err(error) => intake.tally.refuse(Refusal::Invalid, 1, || error.to_string()),
                    },
                }
            }
            for float in &mut intake.floats[first..] {
                fall_back(&mut float.sample.start_timestamp_ms, series_start);
            }
            for (_, sample) in &mut intake.histograms[first_histogram..] {
                fall_back(&mut sample.start_timestamp_ms, series_start);
            }
            if !has_samples {
                let words =
                    || format!("the series has neither samples nor histograms: {}", shown(label_bytes));
                intake.tally.refuse(Refusal::NoSamples, 1, words);
            }
        }
        intake.text = Cow::Owned(text);
        Ok(intake)
    }

    fn open_slot(&mut self, labels: Range<usize>, found: Found) -> (u32, Option<u32>) {
        let (state, id) = match found {
            Found::Known { id, place, guessed, repeats } => {
                self.found[usize::from(!guessed)] += 1;
                self.repeats |= repeats;
                (SlotState::Placed(place), Some(id))
            }
            Found::Unknown { hash } => {
                self.found[2] += 1;
                self.repeats = true; // nobody knows yet whether it is there twice
                (SlotState::New(hash), None)
            }
        };
        self.slots.push(Slot { labels, state, has_points: false, newest_ms: None, metadata_hash: 0 });
        (self.slots.len() as u32 - 1, id)
    }

    #[inline]
    fn float(&mut self, slot: u32, sample: Sample) {
        self.note_time(slot, sample.timestamp_ms);
        self.floats.push(Float { slot, sample });
    }

    fn histogram(&mut self, slot: u32, decoded: Result<HistogramSample, HistogramError>, label_bytes: &[u8]) {
        match decoded {
            Ok(sample) => {
                self.note_time(slot, sample.timestamp_ms);
                self.histograms.push((slot, sample));
            }
            Err(error) => {
                self.tally
                    .refuse(Refusal::Invalid, 1, || format!("{error} for series {}", shown(label_bytes)));
            }
        }
    }

    fn exemplar(&mut self, slot: u32, decoded: Result<Exemplar, LabelsError>) {
        let chars = |text: &str| text.chars().count();
        match decoded {
            Ok(exemplar) => {
                let length: usize =
                    exemplar.labels.iter().map(|(name, value)| chars(name) + chars(value)).sum();
                if length <= EXEMPLAR_CHARS_MAX {
                    self.slots[slot as usize].has_points = true;
                    self.exemplars.push((slot, exemplar));
                } else {
                    let words = || {
                        format!("exemplar labels have {length} characters, more than {EXEMPLAR_CHARS_MAX}")
                    };
                    self.tally.refuse(Refusal::Exemplar, 1, words);
                }
            }
            Err(error) => self.tally.refuse(Refusal::Exemplar, 1, || format!("exemplar: {error}")),
        }
    }

    fn metadata(&mut self, slot: u32, id: Option<u32>, metadata: Metadata, known: &mut KnownSeries) {
        if metadata == Metadata::default() {
            return;
        }
        let hash = metadata_hash(&metadata) as u32;
        self.slots[slot as usize].metadata_hash = hash;
        if id.is_none_or(|id| known.metadata_changed(id, hash)) {
            self.series_metadata.push((slot, metadata));
        }
    }

    /// Samples of a series come sorted by time; those that do not may be there twice.
    #[inline]
    fn note_time(&mut self, slot: u32, timestamp_ms: i64) {
        let slot = &mut self.slots[slot as usize];
        slot.has_points = true;
        let newest_ms = &mut slot.newest_ms;
        self.repeats |= newest_ms.is_some_and(|newest| timestamp_ms <= newest);
        *newest_ms = Some(newest_ms.map_or(timestamp_ms, |newest| newest.max(timestamp_ms)));
    }
}

/// A hash of metadata, for telling changes.
pub(crate) fn metadata_hash(metadata: &Metadata) -> u64 {
    let kind = metadata.metric_type.as_str();
    xxh3_64([kind, "\0", &metadata.unit, "\0", &metadata.help].concat().as_bytes())
}

fn fall_back(start_ms: &mut i64, series_start_ms: i64) {
    if *start_ms == 0 {
        *start_ms = series_start_ms;
    }
}

fn shown(label_bytes: &[u8]) -> String {
    match decode_labels(label_bytes) {
        Ok(labels) => labels.to_string(),
        Err(error) => format!("({error})"),
    }
}
