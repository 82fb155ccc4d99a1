//! What a request holds: its series found among the known ones, its points beside them.

use std::borrow::Cow;
use std::ops::Range;

use model::{Exemplar, Metadata};
use wire::remote_write::v1::FamilyMetadata;
use wire::remote_write::{
    DecodeError, HistogramError, HistogramSample, LabelsError, Sample, decode_labels, v1, v2,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::known::{Found, KnownSeries, NO_SYMBOLS, Place, fold_symbol};
use crate::tally::{Refusal, Tally};

/// Most characters of an exemplar's labels together. Source: OpenMetrics 1.0, Exemplars.
const EXEMPLAR_CHARS_MAX: usize = 128;

/// A series of the request.
#[derive(Debug)]
pub(crate) struct Slot {
    labels: LabelsAt,
    /// The hash it goes by among the known series.
    pub(crate) hash: u128,
    pub(crate) state: SlotState,
    /// Whether there is anything to store of it.
    pub(crate) has_points: bool,
    /// Its newest sample's time, once it has samples.
    pub(crate) newest_ms: Option<i64>,
    /// Hash of the metadata that came with it; 0 for none.
    pub(crate) metadata_hash: u32,
}

/// Where the labels of a series are.
#[derive(Debug, Clone)]
enum LabelsAt {
    /// Label bytes in the body (1.0).
    Body(Range<usize>),
    /// Label bytes in [`Intake::spelled`] (2.0, series not known).
    Spelled(Range<usize>),
    /// The series' message in the body, to be spelled out when somebody asks (2.0, known series).
    Message(Range<usize>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SlotState {
    /// Known, or resolved by now.
    Placed(Place),
    /// Not known.
    New,
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
    body: &'a [u8],
    /// The request that holds the symbols (2.0).
    request: Option<v2::Request<'a>>,
    /// Label bytes of series not known (2.0).
    spelled: Vec<u8>,
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
    fn new(body: &'a [u8]) -> Intake<'a> {
        Intake {
            body,
            request: None,
            spelled: Vec::new(),
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
        let mut intake = Intake::new(body);
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
            let guessed = expected.and_then(|bytes| {
                let hash = known.hash(bytes);
                Some((bytes, hash, known.guess(&mut walk, hash)?))
            });
            let (label_bytes, hash, found) = match guessed {
                Some(guessed) => guessed,
                None => {
                    let label_bytes = series.label_bytes()?;
                    let hash = known.hash(label_bytes);
                    (label_bytes, hash, known.find(&mut walk, hash))
                }
            };
            let start = label_bytes.as_ptr().addr() - body.as_ptr().addr();
            let labels = LabelsAt::Body(start..start + label_bytes.len());
            let (slot, _) = intake.open_slot(labels, hash, found);
            for point in series.points(label_bytes.len()) {
                bounds.take()?;
                match point? {
                    v1::Point::Sample(sample) => {
                        intake.float(slot, Sample { start_timestamp_ms: 0, ..sample })
                    }
                    v1::Point::Histogram(message) => intake.histogram(slot, message.decode()),
                    v1::Point::Exemplar(message) => intake.exemplar(slot, message.decode()),
                    v1::Point::LateLabel => return Err(GatherError::LateLabels),
                }
            }
        }
        Ok(intake)
    }

    /// Reads a request of version 2.0.
    pub(crate) fn gather_v2(
        body: &'a [u8],
        known: &mut KnownSeries,
        now_ms: i64,
        mut bounds: Bounds,
    ) -> Result<Intake<'a>, GatherError> {
        let mut intake = Intake::new(body);
        // Twice: one to read from, one to spell labels out later.
        let request = v2::Request::parse(body)?;
        intake.request = Some(request.clone());
        let symbols = known.hash_symbols(request.symbols());
        let mut walk = known.begin(now_ms);
        for series in request.series() {
            bounds.take()?;
            let mut hash = NO_SYMBOLS;
            let mut is_whole = true;
            series.label_references(|reference| {
                let symbol = usize::try_from(reference).ok().and_then(|at| symbols.get(at));
                is_whole &= symbol.is_some();
                hash = fold_symbol(hash, symbol.copied().unwrap_or_default());
            })?;
            let mut found = Found::Unknown;
            if is_whole {
                found = known.guess(&mut walk, hash).unwrap_or_else(|| known.find(&mut walk, hash));
            }
            let labels = match found {
                Found::Known { .. } => LabelsAt::Message(series.range()),
                Found::Unknown => match intake.spell(&series, bounds.text_bytes_max)? {
                    Some(spelled) => LabelsAt::Spelled(spelled),
                    None => continue,
                },
            };
            let (slot, id) = intake.open_slot(labels, hash, found);
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
                    v2::Point::Histogram(message) => intake.histogram(slot, message.decode()),
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
                let labels = intake.labels_for_words(slot);
                let words = || format!("the series has neither samples nor histograms: {labels}");
                intake.tally.refuse(Refusal::NoSamples, 1, words);
            }
        }
        Ok(intake)
    }

    /// The label bytes of a slot.
    pub(crate) fn label_bytes(&self, slot: &Slot) -> Cow<'_, [u8]> {
        match &slot.labels {
            LabelsAt::Body(range) => Cow::Borrowed(&self.body[range.clone()]),
            LabelsAt::Spelled(range) => Cow::Borrowed(&self.spelled[range.clone()]),
            LabelsAt::Message(range) => {
                let mut out = Vec::new();
                if let Some(request) = &self.request {
                    // It was found by these very labels, which then were in order.
                    let _ = request.series_at(range.clone()).write_label_bytes(&mut out, usize::MAX);
                }
                Cow::Owned(out)
            }
        }
    }

    /// The labels of a slot, in words.
    pub(crate) fn shown_labels(&self, slot: &Slot) -> String {
        match decode_labels(&self.label_bytes(slot)) {
            Ok(labels) => labels.to_string(),
            Err(error) => format!("({error})"),
        }
    }

    /// As [`Intake::shown_labels`], while anybody is going to read it.
    fn labels_for_words(&self, slot: u32) -> String {
        if self.tally.wants_words() { self.shown_labels(&self.slots[slot as usize]) } else { String::new() }
    }

    /// Spells out the labels of a series not known; `None` when they name no series.
    fn spell(&mut self, series: &v2::Series<'_>, max: usize) -> Result<Option<Range<usize>>, GatherError> {
        let start = self.spelled.len();
        match series.write_label_bytes(&mut self.spelled, max) {
            Ok(()) => Ok(Some(start..self.spelled.len())),
            Err(error @ LabelsError::TooLong { .. }) => Err(GatherError::TooLarge(error.to_string())),
            Err(error) => {
                self.spelled.truncate(start);
                self.tally.refuse(Refusal::InvalidLabels, 1, || error.to_string());
                Ok(None)
            }
        }
    }

    fn open_slot(&mut self, labels: LabelsAt, hash: u128, found: Found) -> (u32, Option<u32>) {
        let (state, id) = match found {
            Found::Known { id, place, guessed, repeats } => {
                self.found[usize::from(!guessed)] += 1;
                self.repeats |= repeats;
                (SlotState::Placed(place), Some(id))
            }
            Found::Unknown => {
                self.found[2] += 1;
                self.repeats = true; // nobody knows yet whether it is there twice
                (SlotState::New, None)
            }
        };
        self.slots.push(Slot { labels, hash, state, has_points: false, newest_ms: None, metadata_hash: 0 });
        (self.slots.len() as u32 - 1, id)
    }

    #[inline]
    fn float(&mut self, slot: u32, sample: Sample) {
        self.note_time(slot, sample.timestamp_ms);
        self.floats.push(Float { slot, sample });
    }

    fn histogram(&mut self, slot: u32, decoded: Result<HistogramSample, HistogramError>) {
        match decoded {
            Ok(sample) => {
                self.note_time(slot, sample.timestamp_ms);
                self.histograms.push((slot, sample));
            }
            Err(error) => {
                let labels = self.labels_for_words(slot);
                self.tally.refuse(Refusal::Invalid, 1, || format!("{error} for series {labels}"));
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
