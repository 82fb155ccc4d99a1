//! Writing requests of both versions.

use std::collections::HashMap;

use model::{Exemplar, Labels, Metadata};

use super::Sample;
use super::histogram::{HistogramSample, write_histogram};
use super::labels::write_label;
use super::proto::Writer;
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
}

/// Builds a request of version 1.0. Start timestamps have no place there and are left out.
#[derive(Debug, Default)]
pub struct EncoderV1 {
    writer: Writer,
}

impl EncoderV1 {
    /// Appends a series.
    pub fn series(&mut self, series: &SeriesToWrite<'_>) {
        self.writer.message(1, |out| {
            for (name, value) in series.labels {
                write_label(&mut out.out, name.as_bytes(), value.as_bytes());
            }
            for sample in series.samples {
                out.message(2, |out| write_sample(out, &Sample { start_timestamp_ms: 0, ..*sample }));
            }
            for exemplar in series.exemplars {
                out.message(3, |out| {
                    for (name, value) in &exemplar.labels {
                        write_label(&mut out.out, name.as_bytes(), value.as_bytes());
                    }
                    out.double(2, exemplar.value);
                    out.int(3, exemplar.timestamp_ms);
                });
            }
            for histogram in series.histograms {
                out.message(4, |out| {
                    write_histogram(out, &histogram.histogram, histogram.timestamp_ms, 0);
                });
            }
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

    /// The request, not packed.
    pub fn finish(self) -> Vec<u8> {
        self.writer.out
    }
}

/// Builds a request of version 2.0.
#[derive(Debug)]
pub struct EncoderV2 {
    symbols: HashMap<String, u32>,
    /// The request's symbol records, in the order of their numbers.
    table: Writer,
    series: Writer,
}

impl Default for EncoderV2 {
    fn default() -> EncoderV2 {
        let mut encoder =
            EncoderV2 { symbols: HashMap::new(), table: Writer::default(), series: Writer::default() };
        encoder.symbol(""); // symbol 0 is the empty string, says the specification
        encoder
    }
}

impl EncoderV2 {
    /// Appends a series.
    pub fn series(&mut self, series: &SeriesToWrite<'_>) {
        let labels = self.references(series.labels);
        let exemplars: Vec<Vec<u64>> = series.exemplars.iter().map(|e| self.references(&e.labels)).collect();
        let metadata = series.metadata.map(|m| (m.metric_type, self.symbol(&m.help), self.symbol(&m.unit)));
        self.series.message(5, |out| {
            out.packed(1, labels.into_iter());
            for sample in series.samples {
                out.message(2, |out| write_sample(out, sample));
            }
            for histogram in series.histograms {
                out.message(3, |out| {
                    write_histogram(
                        out,
                        &histogram.histogram,
                        histogram.timestamp_ms,
                        histogram.start_timestamp_ms,
                    );
                });
            }
            for (exemplar, labels) in series.exemplars.iter().zip(exemplars) {
                out.message(4, |out| {
                    out.packed(1, labels.into_iter());
                    out.double(2, exemplar.value);
                    out.int(3, exemplar.timestamp_ms);
                });
            }
            if let Some((metric_type, help, unit)) = metadata {
                out.message(5, |out| {
                    out.uint(1, metric_type_number(metric_type));
                    out.uint(3, help);
                    out.uint(4, unit);
                });
            }
        });
    }

    /// Bytes so far, not packed.
    pub fn size(&self) -> usize {
        self.table.out.len() + self.series.out.len()
    }

    /// The request, not packed.
    pub fn finish(self) -> Vec<u8> {
        let mut out = self.table.out;
        out.extend_from_slice(&self.series.out);
        out
    }

    fn references(&mut self, labels: &Labels) -> Vec<u64> {
        labels.iter().flat_map(|(name, value)| [name, value]).map(|text| self.symbol(text)).collect()
    }

    fn symbol(&mut self, text: &str) -> u64 {
        if let Some(&known) = self.symbols.get(text) {
            return u64::from(known);
        }
        let number = self.symbols.len() as u32;
        self.symbols.insert(text.to_owned(), number);
        self.table.bytes_always(4, text.as_bytes());
        u64::from(number)
    }
}

fn write_sample(out: &mut Writer, sample: &Sample) {
    out.double(1, sample.value);
    out.int(2, sample.timestamp_ms);
    out.int(3, sample.start_timestamp_ms);
}
