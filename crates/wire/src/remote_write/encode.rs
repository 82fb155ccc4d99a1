//! Writing requests of both versions.
//!
//! An encoder is used for many requests: [`EncoderV1::clear`] and [`EncoderV2::clear`] keep its memory,
//! so that a sender in its stride allocates nothing. What a series says of itself is worth preparing
//! once: as label bytes for 1.0 ([`super::write_label_bytes`]), as [`KnownSeries`] for 2.0.

use model::{Exemplar, Labels, Metadata, MetricType};

use super::Sample;
use super::histogram::{HistogramSample, write_histogram};
use super::labels::write_label;
use super::proto::Writer;
use super::texts::Texts;
use super::v1::metric_type_number;

/// A series to put into a request.
#[derive(Debug, Clone, Copy)]
pub struct SeriesToWrite<'a> {
    /// The whole set, metric name included.
    pub labels: &'a Labels,
    /// Sorted by time.
    pub samples: &'a [Sample],
    /// Sorted by time.
    pub histograms: &'a [HistogramSample],
    /// Exemplars of these samples.
    pub exemplars: &'a [Exemplar],
    /// Metadata of the family, which only 2.0 has in line.
    pub metadata: Option<&'a Metadata>,
}

impl<'a> SeriesToWrite<'a> {
    /// A series of floats and nothing else.
    pub fn floats(labels: &'a Labels, samples: &'a [Sample]) -> SeriesToWrite<'a> {
        SeriesToWrite { labels, samples, histograms: &[], exemplars: &[], metadata: None }
    }

    /// What it holds beside its name.
    pub fn points(&self) -> PointsToWrite<'a> {
        PointsToWrite { samples: self.samples, histograms: self.histograms, exemplars: self.exemplars }
    }
}

/// The points of a series.
#[derive(Debug, Clone, Copy, Default)]
pub struct PointsToWrite<'a> {
    /// Sorted by time.
    pub samples: &'a [Sample],
    /// Sorted by time.
    pub histograms: &'a [HistogramSample],
    /// Exemplars of these samples.
    pub exemplars: &'a [Exemplar],
}

/// Builds requests of version 1.0. Start timestamps have no place there and are left out.
#[derive(Debug, Default)]
pub struct EncoderV1 {
    writer: Writer,
}

impl EncoderV1 {
    /// Appends a series.
    pub fn series(&mut self, series: &SeriesToWrite<'_>) {
        self.writer.message(1, |out| {
            write_labels(out, series.labels);
            write_points_v1(out, &series.points());
        });
    }

    /// Appends a series by its label bytes ([`super::write_label_bytes`]).
    pub fn prepared_series(&mut self, label_bytes: &[u8], points: &PointsToWrite<'_>) {
        self.writer.message(1, |out| {
            out.out.extend_from_slice(label_bytes);
            write_points_v1(out, points);
        });
    }

    /// Appends metadata of a family.
    pub fn metadata(&mut self, family: &str, metadata: &Metadata) {
        self.writer.message(3, |out| {
            out.uint(1, metric_type_number(metadata.metric_type));
            out.text(2, family);
            out.text(4, &metadata.help);
            out.text(5, &metadata.unit);
        });
    }

    /// Bytes so far, not packed.
    pub fn size(&self) -> usize {
        self.writer.out.len()
    }

    /// The request so far, not packed.
    pub fn bytes(&self) -> &[u8] {
        &self.writer.out
    }

    /// Starts a new request.
    pub fn clear(&mut self) {
        self.writer.out.clear();
    }

    /// The request, not packed.
    pub fn finish(self) -> Vec<u8> {
        self.writer.out
    }
}

/// A series whose texts an [`EncoderV2`] knows.
#[derive(Debug, Clone)]
pub struct KnownSeries {
    /// Names and values in turn.
    labels: Box<[u32]>,
    /// Type, help and unit.
    metadata: Option<(MetricType, u32, u32)>,
    /// Which memory of the encoder its numbers belong to.
    memory: u32,
}

/// Builds requests of version 2.0.
#[derive(Debug)]
pub struct EncoderV2 {
    texts: Texts,
    /// Counts what [`EncoderV2::forget`] threw away.
    memory: u32,
    /// Number of the request, from 1.
    request: u64,
    /// How many symbols the request has.
    symbols: u32,
    /// The request's symbol records, in the order of their numbers.
    table: Writer,
    series: Writer,
    /// References of the series in hand.
    references: Vec<u32>,
    whole: Vec<u8>,
}

impl Default for EncoderV2 {
    fn default() -> EncoderV2 {
        let mut encoder = EncoderV2 {
            texts: Texts::default(),
            memory: 0,
            request: 0,
            symbols: 0,
            table: Writer::default(),
            series: Writer::default(),
            references: Vec::new(),
            whole: Vec::new(),
        };
        encoder.clear();
        encoder
    }
}

impl EncoderV2 {
    /// Appends a series.
    pub fn series(&mut self, series: &SeriesToWrite<'_>) {
        let known = self.know(series.labels, series.metadata);
        let fresh = self.known_series(&known, &series.points());
        debug_assert!(fresh, "known a moment ago");
    }

    /// Prepares a series; holds until [`EncoderV2::forget`].
    pub fn know(&mut self, labels: &Labels, metadata: Option<&Metadata>) -> KnownSeries {
        let labels = labels.iter().flat_map(|(name, value)| [name, value]);
        KnownSeries {
            labels: labels.map(|text| self.texts.number(text)).collect(),
            metadata: metadata.map(|metadata| {
                let (help, unit) = (self.texts.number(&metadata.help), self.texts.number(&metadata.unit));
                (metadata.metric_type, help, unit)
            }),
            memory: self.memory,
        }
    }

    /// Appends a series that [`EncoderV2::know`] prepared. `false`, and nothing is appended, when it was
    /// before the last [`EncoderV2::forget`].
    #[must_use]
    pub fn known_series(&mut self, known: &KnownSeries, points: &PointsToWrite<'_>) -> bool {
        if known.memory != self.memory {
            return false;
        }
        let metadata =
            known.metadata.map(|(metric_type, help, unit)| (metric_type, self.said(help), self.said(unit)));
        let mut references = std::mem::take(&mut self.references);
        references.clear();
        references.extend(known.labels.iter().map(|&text| self.said(text)));
        // References of each exemplar behind those of the series.
        for exemplar in points.exemplars {
            for (name, value) in &exemplar.labels {
                let name = self.texts.number(name);
                // A trace's id does not come again: it is not worth remembering.
                references.extend([self.said(name), self.symbol(value.as_bytes())]);
            }
        }
        let (labels, mut rest) = references.split_at(known.labels.len());
        self.series.message(5, |out| {
            write_references(out, labels);
            for sample in points.samples {
                out.message(2, |out| write_sample(out, sample));
            }
            for histogram in points.histograms {
                let HistogramSample { histogram, timestamp_ms, start_timestamp_ms } = histogram;
                out.message(3, |out| write_histogram(out, histogram, *timestamp_ms, *start_timestamp_ms));
            }
            for exemplar in points.exemplars {
                let (labels, behind) = rest.split_at(exemplar.labels.len() * 2);
                rest = behind;
                out.message(4, |out| {
                    write_references(out, labels);
                    out.double(2, exemplar.value);
                    out.int(3, exemplar.timestamp_ms);
                });
            }
            if let Some((metric_type, help, unit)) = metadata {
                out.message(5, |out| {
                    out.uint(1, metric_type_number(metric_type));
                    out.uint(3, u64::from(help));
                    out.uint(4, u64::from(unit));
                });
            }
        });
        self.references = references;
        true
    }

    /// Bytes so far, not packed.
    pub fn size(&self) -> usize {
        self.table.out.len() + self.series.out.len()
    }

    /// The request so far, not packed.
    pub fn bytes(&mut self) -> &[u8] {
        self.whole.clear();
        self.whole.extend_from_slice(&self.table.out);
        self.whole.extend_from_slice(&self.series.out);
        &self.whole
    }

    /// Starts a new request.
    pub fn clear(&mut self) {
        self.request += 1;
        self.series.out.clear();
        self.table.out.clear();
        self.symbols = 0;
        // Symbol 0 is the empty text, says the specification.
        let empty = self.texts.number("");
        self.said(empty);
    }

    /// Memory that the texts of known series take, bytes, about.
    pub fn memory_bytes(&self) -> usize {
        self.texts.size()
    }

    /// Forgets all known series and starts a new request.
    pub fn forget(&mut self) {
        self.texts.forget();
        self.memory += 1;
        self.clear();
    }

    /// The request, not packed.
    pub fn finish(self) -> Vec<u8> {
        let mut out = self.table.out;
        out.extend_from_slice(&self.series.out);
        out
    }

    /// The symbol of a text that we know.
    #[inline]
    fn said(&mut self, text: u32) -> u32 {
        let (symbol, new) = self.texts.symbol(text, self.request, self.symbols);
        if let Some(bytes) = new {
            self.table.bytes_always(4, bytes);
            self.symbols += 1;
        }
        symbol
    }

    /// A new symbol.
    fn symbol(&mut self, text: &[u8]) -> u32 {
        self.table.bytes_always(4, text);
        self.symbols += 1;
        self.symbols - 1
    }
}

fn write_labels(out: &mut Writer, labels: &Labels) {
    for (name, value) in labels {
        write_label(&mut out.out, name.as_bytes(), value.as_bytes());
    }
}

fn write_points_v1(out: &mut Writer, points: &PointsToWrite<'_>) {
    for sample in points.samples {
        out.message(2, |out| write_sample(out, &Sample { start_timestamp_ms: 0, ..*sample }));
    }
    for exemplar in points.exemplars {
        out.message(3, |out| {
            write_labels(out, &exemplar.labels);
            out.double(2, exemplar.value);
            out.int(3, exemplar.timestamp_ms);
        });
    }
    for histogram in points.histograms {
        out.message(4, |out| write_histogram(out, &histogram.histogram, histogram.timestamp_ms, 0));
    }
}

fn write_references(out: &mut Writer, references: &[u32]) {
    out.packed(1, references.iter().map(|reference| u64::from(*reference)));
}

fn write_sample(out: &mut Writer, sample: &Sample) {
    out.double(1, sample.value);
    out.int(2, sample.timestamp_ms);
    out.int(3, sample.start_timestamp_ms);
}
