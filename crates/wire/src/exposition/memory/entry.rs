//! Remembered lines: what they are, in 12 bytes each, and when they mean the same again.

use std::str;

use model::MetricType;

use super::super::line::{Dialect, LineReader, MetaLine, RawSeries};
use super::super::nhcb::classic_part;
use super::arena::Arena;

/// Longest line that is remembered; a longer one refuses the scrape.
pub(super) const ENTRY_BYTES_MAX: usize = (1 << 26) - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Sample,
    /// A sample whose labels or meaning hang on the type in force: `le="1"`, `x_created`.
    TypedSample,
    /// A part of the classic histogram whose TYPE line is in force, where those are converted.
    Part,
    /// Named like such a part, but not of the family in force.
    NoPart,
    Created,
    Help,
    Type,
    Unit,
}

impl EntryKind {
    const ALL: [EntryKind; 8] = [
        EntryKind::Sample,
        EntryKind::TypedSample,
        EntryKind::Part,
        EntryKind::NoPart,
        EntryKind::Created,
        EntryKind::Help,
        EntryKind::Type,
        EntryKind::Unit,
    ];

    pub(super) fn is_sample(self) -> bool {
        matches!(self, EntryKind::Sample | EntryKind::TypedSample | EntryKind::Part | EntryKind::NoPart)
    }

    pub(super) fn is_meta(self) -> bool {
        matches!(self, EntryKind::Help | EntryKind::Type | EntryKind::Unit)
    }
}

const METRIC_TYPES: [MetricType; 8] = [
    MetricType::Unknown,
    MetricType::Counter,
    MetricType::Gauge,
    MetricType::Histogram,
    MetricType::GaugeHistogram,
    MetricType::Summary,
    MetricType::Info,
    MetricType::StateSet,
];

/// A remembered line. Length, kind and type share a word: 26, 3 and 3 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    /// Where its bytes are in the arena.
    pub(super) start: u32,
    packed: u32,
    /// Samples: the column. Created lines: how many lines before them they speak for.
    pub(super) column: u32,
}

impl Entry {
    pub(super) fn new(
        start: u32,
        len: usize,
        kind: EntryKind,
        metric_type: MetricType,
        column: u32,
    ) -> Entry {
        let packed = len as u32 | (kind as u32) << 26 | (metric_type as u32) << 29;
        Entry { start, packed, column }
    }

    /// The same line whose bytes have moved to `start`.
    pub(super) fn at(self, start: u32) -> Entry {
        Entry { start, ..self }
    }

    pub(super) fn len(self) -> usize {
        (self.packed & ENTRY_BYTES_MAX as u32) as usize
    }

    pub(super) fn text(self, text: &Arena) -> &[u8] {
        text.get(self.start, self.len())
    }

    pub(super) fn kind(self) -> EntryKind {
        EntryKind::ALL[(self.packed >> 26 & 7) as usize]
    }

    /// For samples the type in force when they were parsed; for TYPE lines the type they state.
    pub(super) fn metric_type(self) -> MetricType {
        METRIC_TYPES[(self.packed >> 29) as usize]
    }

    /// Whether the line, `text`, means the same where `in_force` holds as it did when it was remembered.
    #[inline]
    pub(super) fn fits(self, text: &[u8], in_force: &InForce<'_>) -> bool {
        let kind = self.kind();
        match kind {
            EntryKind::TypedSample | EntryKind::Created => self.metric_type() == in_force.metric_type,
            EntryKind::Part | EntryKind::NoPart => {
                self.metric_type() == in_force.metric_type
                    && (kind == EntryKind::Part) == in_force.has_part(name_of(text))
            }
            _ => true,
        }
    }
}

/// What the last TYPE line says of the lines that follow it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InForce<'a> {
    pub(super) metric_type: MetricType,
    /// As it is written there; told only where classic histograms are converted.
    pub(super) family: &'a [u8],
}

impl InForce<'_> {
    /// Whether a series of this name is a part of this family, a classic histogram.
    pub(super) fn has_part(&self, name: &[u8]) -> bool {
        self.metric_type == MetricType::Histogram
            && str::from_utf8(name)
                .ok()
                .and_then(classic_part)
                .is_some_and(|(family, _)| family.as_bytes() == self.family)
    }
}

/// The family that a TYPE line, which begins `text`, tells of.
pub(super) fn family_of(text: &[u8], dialect: Dialect) -> &[u8] {
    match LineReader::at(text, 0, dialect).meta() {
        Ok(MetaLine::Meta { family, .. }) => &text[family],
        _ => b"",
    }
}

/// The name in a remembered sample's line, as it is written there.
fn name_of(line: &[u8]) -> &[u8] {
    if line.first() != Some(&b'{') {
        let end = line.iter().position(|byte| matches!(byte, b'{' | b' ' | b'\t'));
        return &line[..end.unwrap_or(line.len())];
    }
    // A value stands in for the one that is not remembered.
    let whole = [line, b"0"].concat();
    let mut raw = RawSeries::default();
    match LineReader::at(&whole, 0, Dialect::Prometheus).series(&mut raw) {
        Ok(()) => &line[raw.name],
        Err(_) => &[],
    }
}
