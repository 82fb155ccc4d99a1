//! Writing expositions: our own figures, the machine's, and federation.

use std::fmt::Write;

use model::labels::{METRIC_NAME, is_legacy_label_name, is_legacy_metric_name};
use model::{Exemplar, MetricType};

use super::protocol::Protocol;
use super::value::write_float;

/// Writes one exposition, family by family.
///
/// The writer does not reorder: samples belong to the family before them, each family comes once.
/// Names that are not legacy names are written quoted (text 1.0.0 and OpenMetrics 1.0.0 readers
/// know that form).
#[derive(Debug)]
pub struct TextWriter {
    out: String,
    open_metrics: bool,
}

impl TextWriter {
    /// An empty exposition; `PrometheusProto` is written as text 0.0.4.
    pub fn new(protocol: Protocol) -> TextWriter {
        TextWriter { out: String::with_capacity(16 << 10), open_metrics: protocol.is_open_metrics() }
    }

    /// Opens a family: HELP (left out when empty) and TYPE.
    ///
    /// In OpenMetrics the family of a counter `x_total` is `x`, and a counter without that suffix
    /// is of unknown type; in the older format the types it lacks become `gauge` or `untyped`.
    pub fn family(&mut self, name: &str, metric_type: MetricType, help: &str) {
        self.family_with_unit(name, metric_type, "", help);
    }

    /// As [`TextWriter::family`], with a unit, which only OpenMetrics writes, and only where the
    /// family's name ends with it.
    pub fn family_with_unit(&mut self, name: &str, metric_type: MetricType, unit: &str, help: &str) {
        let (family, stated) = self.stated(name, metric_type);
        if !help.is_empty() {
            self.meta_name("HELP", family);
            escape_into(&mut self.out, help, self.open_metrics);
            self.out.push('\n');
        }
        self.meta_name("TYPE", family);
        self.out.push_str(stated);
        self.out.push('\n');
        let is_suffix = family.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_'));
        if self.open_metrics && !unit.is_empty() && is_suffix {
            self.meta_name("UNIT", family);
            self.out.push_str(unit);
            self.out.push('\n');
        }
    }

    /// Writes a sample. A label `__name__` is left out, the name is `name`; `timestamp_ms` is
    /// milliseconds since the Unix epoch and rarely wanted.
    pub fn sample<'a>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: f64,
        timestamp_ms: Option<i64>,
    ) {
        self.sample_start(name, labels, value, timestamp_ms);
        self.out.push('\n');
    }

    /// Writes a sample with an exemplar, which only OpenMetrics has.
    pub fn sample_with_exemplar<'a>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: f64,
        exemplar: &Exemplar,
    ) {
        self.sample_start(name, labels, value, None);
        if self.open_metrics {
            self.out.push_str(" # {");
            write_labels(&mut self.out, exemplar.labels.iter(), true);
            self.out.push_str("} ");
            write_float(&mut self.out, exemplar.value);
            self.timestamp(exemplar.timestamp_ms);
        }
        self.out.push('\n');
    }

    /// The exposition, with `# EOF` in OpenMetrics.
    pub fn finish(mut self) -> String {
        if self.open_metrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn sample_start<'a>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: f64,
        timestamp_ms: Option<i64>,
    ) {
        let labels = labels.into_iter().filter(|(label, _)| *label != METRIC_NAME);
        let before = self.out.len();
        if is_legacy_metric_name(name) {
            self.out.push_str(name);
            self.out.push('{');
            let open = self.out.len();
            write_labels(&mut self.out, labels, true);
            if self.out.len() == open {
                self.out.truncate(before + name.len());
            } else {
                self.out.push('}');
            }
        } else {
            self.out.push('{');
            write_quoted(&mut self.out, name);
            write_labels(&mut self.out, labels, false);
            self.out.push('}');
        }
        self.out.push(' ');
        write_float(&mut self.out, value);
        if let Some(timestamp_ms) = timestamp_ms {
            self.timestamp(timestamp_ms);
        }
    }

    fn timestamp(&mut self, timestamp_ms: i64) {
        // Writing to a string cannot fail.
        let _ = if self.open_metrics {
            let sign = if timestamp_ms < 0 { "-" } else { "" };
            let (seconds, millis) = (timestamp_ms.unsigned_abs() / 1000, timestamp_ms.unsigned_abs() % 1000);
            write!(self.out, " {sign}{seconds}.{millis:03}")
        } else {
            write!(self.out, " {timestamp_ms}")
        };
    }

    /// The family's name and the type's name in this format.
    fn stated<'n>(&self, name: &'n str, metric_type: MetricType) -> (&'n str, &'static str) {
        match (self.open_metrics, metric_type) {
            (true, MetricType::Counter) => match name.strip_suffix("_total") {
                Some(family) => (family, "counter"),
                None => (name, "unknown"),
            },
            (true, MetricType::Info) => (name.strip_suffix("_info").unwrap_or(name), "info"),
            (true, other) => (name, other.as_str()),
            (false, MetricType::Info | MetricType::StateSet) => (name, "gauge"),
            (false, MetricType::Unknown | MetricType::GaugeHistogram) => (name, "untyped"),
            (false, other) => (name, other.as_str()),
        }
    }

    fn meta_name(&mut self, keyword: &str, family: &str) {
        self.out.push_str("# ");
        self.out.push_str(keyword);
        self.out.push(' ');
        if is_legacy_metric_name(family) {
            self.out.push_str(family);
        } else {
            write_quoted(&mut self.out, family);
        }
        self.out.push(' ');
    }
}

fn write_labels<'a>(out: &mut String, labels: impl Iterator<Item = (&'a str, &'a str)>, mut first: bool) {
    for (name, value) in labels {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        if is_legacy_label_name(name) {
            out.push_str(name);
        } else {
            write_quoted(out, name);
        }
        out.push('=');
        write_quoted(out, value);
    }
}

fn write_quoted(out: &mut String, text: &str) {
    out.push('"');
    escape_into(out, text, true);
    out.push('"');
}

fn escape_into(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}
