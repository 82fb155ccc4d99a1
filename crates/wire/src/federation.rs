//! What `/federate` says: the latest sample of many series, in the format that the reader likes best.
//!
//! Names are spelled as the reader asks ([`EscapingScheme`]); one that does not say gets underscores.
//! Native histograms with exponential buckets have no place in the text formats; those with custom
//! buckets become classic ones in every format.
//!
//! Source: Prometheus `web/federate.go`; `common/expfmt/expfmt.go`, `encode.go`;
//! `common/model/metric.go`, `EscapeName`; client_model `io/prometheus/client/metrics.proto`.

use std::borrow::Cow;

use model::histogram::{Buckets, CUSTOM_BUCKETS_SCHEMA, Span};
use model::labels::is_legacy_metric_name;
use model::{Histogram, MetricType};

use crate::exposition::{EscapingScheme, Protocol, TextWriter, write_float};
use crate::proto::Writer;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The format.
    pub protocol: Protocol,
    /// The spelling of names that are not legacy names.
    pub escaping: EscapingScheme,
}

impl Format {
    /// The format that `accept`, an `Accept` header, likes best; text 0.0.4 where it names none.
    pub fn negotiate(accept: &str) -> Format {
        let mut wanted: Vec<(f64, Format)> = accept.split(',').filter_map(Format::of_clause).collect();
        // stable: of equals the first
        wanted.sort_by(|a, b| b.0.total_cmp(&a.0));
        let usual = Format { protocol: Protocol::PrometheusText0_0_4, escaping: EscapingScheme::Underscores };
        wanted.first().map_or(usual, |(_, format)| *format)
    }

    fn of_clause(clause: &str) -> Option<(f64, Format)> {
        let mut parts = clause.split(';').map(str::trim);
        let essence = parts.next()?.to_ascii_lowercase();
        let (mut weight, mut version, mut message, mut encoding) = (1.0, "", "", "");
        let mut escaping = EscapingScheme::Underscores;
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim() {
                "q" => weight = value.parse().ok().filter(|q: &f64| (0.0..=1.0).contains(q))?,
                "version" => version = value,
                "proto" => message = value,
                "encoding" => encoding = value,
                "escaping" => escaping = scheme_of(value).unwrap_or(escaping),
                _ => {}
            }
        }
        let protocol = match (essence.as_str(), version) {
            ("application/vnd.google.protobuf", _)
                if message == "io.prometheus.client.MetricFamily" && encoding == "delimited" =>
            {
                Protocol::PrometheusProto
            }
            ("application/openmetrics-text", "1.0.0") => Protocol::OpenMetricsText1_0_0,
            ("application/openmetrics-text", "0.0.1" | "") => Protocol::OpenMetricsText0_0_1,
            ("text/plain", "1.0.0") => Protocol::PrometheusText1_0_0,
            ("text/plain", "0.0.4" | "") => Protocol::PrometheusText0_0_4,
            _ => return None,
        };
        (weight > 0.0).then_some((weight, Format { protocol, escaping }))
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> String {
        let kind = match self.protocol {
            Protocol::PrometheusProto => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
            Protocol::OpenMetricsText1_0_0 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Protocol::OpenMetricsText0_0_1 => "application/openmetrics-text; version=0.0.1; charset=utf-8",
            Protocol::PrometheusText1_0_0 => "text/plain; version=1.0.0; charset=utf-8",
            Protocol::PrometheusText0_0_4 => "text/plain; version=0.0.4; charset=utf-8",
        };
        format!("{kind}; escaping={}", self.escaping.as_str())
    }
}

fn scheme_of(name: &str) -> Option<EscapingScheme> {
    [EscapingScheme::AllowUtf8, EscapingScheme::Underscores, EscapingScheme::Dots, EscapingScheme::Values]
        .into_iter()
        .find(|scheme| scheme.as_str() == name)
}

/// `name` as `scheme` spells it.
pub fn escape_name(name: &str, scheme: EscapingScheme) -> Cow<'_, str> {
    let is_legal = |at: usize, c: char| {
        c.is_ascii_alphabetic() || c == '_' || c == ':' || (c.is_ascii_digit() && at > 0)
    };
    // dots are told from underscores by doubling these, so legacy names change, too
    let stays = match scheme {
        EscapingScheme::AllowUtf8 => true,
        EscapingScheme::Underscores | EscapingScheme::Values => is_legacy_metric_name(name),
        EscapingScheme::Dots => false,
    };
    if stays || name.is_empty() {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len() + 8);
    if scheme == EscapingScheme::Values {
        out.push_str("U__");
    }
    for (at, c) in name.char_indices() {
        match (scheme, c) {
            (EscapingScheme::Dots | EscapingScheme::Values, '_') => out.push_str("__"),
            (EscapingScheme::Dots, '.') => out.push_str("_dot_"),
            _ if is_legal(at, c) => out.push(c),
            (EscapingScheme::Dots, _) => out.push_str("__"),
            (EscapingScheme::Values, _) => out.push_str(&format!("_{:x}_", u32::from(c))),
            _ => out.push('_'),
        }
    }
    Cow::Owned(out)
}

/// The latest sample of a series.
#[derive(Debug, Clone, Copy)]
pub enum Latest<'a> {
    /// A number.
    Float(f64),
    /// A native histogram.
    Histogram(&'a Histogram),
}

impl Latest<'_> {
    /// The type of the family it stands in.
    fn kind(self) -> Kind {
        match self {
            Latest::Float(_) => Kind::Untyped,
            Latest::Histogram(histogram)
                if histogram.counter_reset_hint == model::histogram::CounterResetHint::Gauge =>
            {
                Kind::GaugeHistogram
            }
            Latest::Histogram(_) => Kind::Histogram,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Untyped = 3,
    Histogram = 4,
    GaugeHistogram = 5,
}

/// Writes an answer, sample by sample; those of one name have to stand together. A name with samples of
/// several types becomes several families of that name, which Prometheus' parsers allow.
#[derive(Debug)]
pub struct FederationWriter {
    format: Format,
    /// The name and kind of the present family.
    family: Option<(String, Kind)>,
    text: TextWriter,
    proto: Writer,
    /// The metrics of the present family, in protobuf.
    metrics: Writer,
}

impl FederationWriter {
    /// An empty answer.
    pub fn new(format: Format) -> FederationWriter {
        let (proto, metrics) = (Writer::default(), Writer::default());
        FederationWriter { format, family: None, text: TextWriter::new(format.protocol), proto, metrics }
    }

    /// Whether this format has a place for such a sample.
    pub fn takes(&self, latest: Latest<'_>) -> bool {
        match latest {
            Latest::Float(_) => true,
            Latest::Histogram(histogram) => histogram.schema == CUSTOM_BUCKETS_SCHEMA || self.is_proto(),
        }
    }

    /// Appends a sample of the series `name` with `labels` (without the name), at `timestamp_ms`,
    /// milliseconds. One that has no place in the format is left out.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], timestamp_ms: i64, latest: Latest<'_>) {
        if !self.takes(latest) {
            return;
        }
        let kind = latest.kind();
        if self.family.as_ref().is_none_or(|family| family.0 != name || family.1 != kind) {
            self.begin_family(name, kind);
        }
        let escaping = self.format.escaping;
        let labels: Vec<(Cow<'_, str>, &str)> =
            labels.iter().map(|(name, value)| (escape_name(name, escaping), *value)).collect();
        if self.is_proto() {
            self.metrics.message(4, |out| write_metric(out, &labels, timestamp_ms, latest));
            return;
        }
        let name = escape_name(name, escaping);
        match latest {
            Latest::Float(value) => {
                self.text.sample(&name, borrowed(&labels), value, Some(timestamp_ms));
            }
            Latest::Histogram(histogram) => self.classic(&name, &labels, timestamp_ms, histogram),
        }
    }

    /// The answer.
    pub fn finish(mut self) -> Vec<u8> {
        if self.is_proto() {
            self.end_family();
            return self.proto.out;
        }
        self.text.finish().into_bytes()
    }

    fn is_proto(&self) -> bool {
        self.format.protocol == Protocol::PrometheusProto
    }

    fn begin_family(&mut self, name: &str, kind: Kind) {
        self.end_family();
        self.family = Some((name.to_owned(), kind));
        let name = escape_name(name, self.format.escaping);
        if self.is_proto() {
            self.metrics.bytes_always(1, name.as_bytes());
            self.metrics.uint_always(3, kind as u64);
            return;
        }
        let stated = if kind == Kind::Untyped { MetricType::Unknown } else { MetricType::Histogram };
        self.text.family(&name, stated, "");
    }

    /// Puts a finished family behind its length.
    fn end_family(&mut self) {
        if self.is_proto() && self.family.take().is_some() {
            self.proto.varint(self.metrics.out.len() as u64);
            self.proto.out.append(&mut self.metrics.out);
        }
    }

    /// Custom buckets as the samples of a classic histogram.
    fn classic(&mut self, name: &str, labels: &[(Cow<'_, str>, &str)], time: i64, histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let (count, cumulative) = (histogram.count(), cumulative(histogram));
        let bounds = histogram.custom_values.iter().copied().zip(cumulative);
        for (bound, count) in bounds.chain([(f64::INFINITY, count)]) {
            let mut le = String::new();
            write_float(&mut le, bound);
            let labels = borrowed(labels).chain([("le", le.as_str())]);
            self.text.sample(&bucket, labels, count, Some(time));
        }
        self.text.sample(&format!("{name}_sum"), borrowed(labels), histogram.sum, Some(time));
        self.text.sample(&format!("{name}_count"), borrowed(labels), count, Some(time));
    }
}

fn borrowed<'a>(labels: &'a [(Cow<'_, str>, &'a str)]) -> impl Iterator<Item = (&'a str, &'a str)> {
    labels.iter().map(|(name, value)| (&**name, *value))
}

fn write_metric(out: &mut Writer, labels: &[(Cow<'_, str>, &str)], timestamp_ms: i64, latest: Latest<'_>) {
    for (name, value) in labels {
        out.message(1, |out| {
            out.bytes_always(1, name.as_bytes());
            out.bytes_always(2, value.as_bytes());
        });
    }
    match latest {
        Latest::Float(value) => out.message(5, |out| out.double_always(1, value)),
        Latest::Histogram(histogram) if histogram.schema == CUSTOM_BUCKETS_SCHEMA => {
            out.message(7, |out| write_classic(out, histogram));
        }
        Latest::Histogram(histogram) => out.message(7, |out| write_native(out, histogram)),
    }
    out.uint_always(6, timestamp_ms as u64);
}

fn write_native(out: &mut Writer, histogram: &Histogram) {
    let zero_count = match &histogram.buckets {
        Buckets::Int { zero_count, .. } => *zero_count as f64,
        Buckets::Float { zero_count, .. } => *zero_count,
    };
    out.double_always(2, histogram.sum);
    out.double_always(4, histogram.count());
    out.uint_always(5, crate::proto::unzigzag(i64::from(histogram.schema)));
    out.double_always(6, histogram.zero_threshold);
    out.double_always(8, zero_count);
    let (negative, positive) = populations(&histogram.buckets);
    for (spans, counts, span_field, count_field) in
        [(&histogram.negative_spans, negative, 9, 11), (&histogram.positive_spans, positive, 12, 14)]
    {
        for Span { offset, length } in spans {
            out.message(span_field, |out| {
                out.uint_always(1, crate::proto::unzigzag(i64::from(*offset)));
                out.uint_always(2, u64::from(*length));
            });
        }
        counts.iter().for_each(|count| out.double_always(count_field, *count));
    }
}

fn write_classic(out: &mut Writer, histogram: &Histogram) {
    out.double_always(2, histogram.sum);
    for (bound, count) in histogram.custom_values.iter().zip(cumulative(histogram)) {
        out.message(3, |out| {
            out.double_always(2, *bound);
            out.double_always(4, count);
        });
    }
    out.double_always(4, histogram.count());
}

/// Absolute counts of the negative and the positive side.
fn populations(buckets: &Buckets) -> (Vec<f64>, Vec<f64>) {
    let absolute = |deltas: &[i64]| {
        let mut count = 0i64;
        let running = deltas.iter().map(|delta| {
            count = count.wrapping_add(*delta);
            count as f64
        });
        running.collect()
    };
    match buckets {
        Buckets::Int { positive, negative, .. } => (absolute(negative), absolute(positive)),
        Buckets::Float { positive, negative, .. } => (negative.clone(), positive.clone()),
    }
}

/// Observations up to each custom bound, that bound included.
fn cumulative(histogram: &Histogram) -> Vec<f64> {
    let mut counts = vec![0.0; histogram.custom_values.len()];
    let (_, positive) = populations(&histogram.buckets);
    let mut at = 0i64;
    let mut populations = positive.into_iter();
    for Span { offset, length } in &histogram.positive_spans {
        at += i64::from(*offset);
        for population in populations.by_ref().take(*length as usize) {
            if let Some(count) = usize::try_from(at).ok().and_then(|at| counts.get_mut(at)) {
                *count = population;
            }
            at += 1;
        }
    }
    let mut sum = 0.0;
    for count in &mut counts {
        sum += *count;
        *count = sum;
    }
    counts
}

#[cfg(test)]
mod tests;
