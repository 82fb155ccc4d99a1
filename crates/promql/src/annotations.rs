//! What the user should know about a query that has an answer: warnings and infos.
//!
//! Equal texts are one annotation, wherever in the query they arose; it shows the last place. Some
//! gather figures while they are merged. Batches of series collect their own [`Annotations`], which
//! are merged in the order of the batches, so that the outcome does not depend on threads.
//!
//! Source: Prometheus `util/annotations/annotations.go` (texts, merging).

use std::collections::BTreeMap;
use std::fmt;

use model::number::{append_exponent, format_general};

use crate::ast::Span;

/// One kind of annotation with what it names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Note<'a> {
    /// A ratio outside -1..1, and what it was capped to.
    InvalidRatio(f64, f64),
    /// A quantile outside 0..1.
    InvalidQuantile(f64),
    /// An `le` that is no number, and the metric's name.
    BadBucketLabel(&'a str, &'a str),
    /// Floats and histograms in one range, of this metric.
    MixedFloatsHistograms(&'a str),
    /// Floats and histograms in one aggregation.
    MixedFloatsHistogramsAggregation,
    /// Classic and native histograms with the same labels.
    MixedClassicNative(&'a str),
    /// A gauge histogram where a counter is expected.
    HistogramNotCounter(&'a str),
    /// A counter histogram where a gauge is expected.
    HistogramNotGauge(&'a str),
    /// Exponential and custom buckets together.
    MixedExponentialCustom(&'a str),
    /// Exponential and custom buckets on the sides of an operator.
    IncompatibleBucketLayout(&'a str),
    /// `sort` and its kin in a range query.
    SortInRangeQuery,
    /// One histogram says "reset", another "not reset".
    CounterResetCollision(Operation),
    /// A sample starts before the sample before it ends.
    StartTimeOverlap(&'a str),
    /// A name that is unusual for a counter.
    PossibleNonCounter(&'a str),
    /// A `__type__` that is none of a counter: the metric's name, the type.
    PossibleNonCounterLabel(&'a str, &'a str),
    /// Classic buckets that were not monotonic: the metric's name, and where and how much.
    ForcedMonotonicity(&'a str, Forced),
    /// Operands of these types have no result: left, operator, right.
    IncompatibleTypes(&'a str, &'a str, &'a str),
    /// Histograms left out of this aggregation.
    HistogramIgnoredInAggregation(&'a str),
    /// Histograms left out of a range of this metric.
    HistogramIgnoredInRange(&'a str),
    /// A quantile beyond all buckets because of NaN observations.
    QuantileNan(&'a str),
    /// A quantile that NaN observations push up.
    QuantileNanSkew(&'a str),
    /// A fraction that leaves NaN observations out.
    FractionNan(&'a str),
    /// Custom buckets reduced to their common bounds.
    MismatchedCustomBuckets(Operation),
}

/// What was done to histograms when an annotation arose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// `+`
    Addition,
    /// `-`
    Subtraction,
    /// `sum`, `avg` and the like
    Aggregation,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Addition => "addition",
            Operation::Subtraction => "subtraction",
            Operation::Aggregation => "aggregation",
        })
    }
}

/// Where classic buckets had to be made monotonic, gathered over samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forced {
    /// Smallest upper bound touched.
    pub(crate) min_bucket: f64,
    /// Largest upper bound touched.
    pub(crate) max_bucket: f64,
    /// Largest decrease taken away.
    pub(crate) max_diff: f64,
    /// First evaluation time concerned, milliseconds.
    pub(crate) min_t_ms: i64,
    /// Last evaluation time concerned, milliseconds.
    pub(crate) max_t_ms: i64,
    /// How many samples.
    pub(crate) count: u64,
}

impl Forced {
    fn merge(&mut self, other: Forced) {
        self.min_bucket = self.min_bucket.min(other.min_bucket);
        self.max_bucket = self.max_bucket.max(other.max_bucket);
        self.max_diff = self.max_diff.max(other.max_diff);
        self.min_t_ms = self.min_t_ms.min(other.min_t_ms);
        self.max_t_ms = self.max_t_ms.max(other.max_t_ms);
        self.count += other.count;
    }
}

impl Note<'_> {
    fn is_info(&self) -> bool {
        matches!(
            self,
            Note::PossibleNonCounter(_)
                | Note::PossibleNonCounterLabel(..)
                | Note::ForcedMonotonicity(..)
                | Note::IncompatibleTypes(..)
                | Note::HistogramIgnoredInAggregation(_)
                | Note::HistogramIgnoredInRange(_)
                | Note::QuantileNan(_)
                | Note::QuantileNanSkew(_)
                | Note::FractionNan(_)
                | Note::MismatchedCustomBuckets(_)
        )
    }
}

/// The text without its prefix and place.
impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::InvalidRatio(got, to) => write!(
                f,
                "ratio value should be between -1 and 1, got {}, capping to {}",
                format_general(*got),
                format_general(*to)
            ),
            Note::InvalidQuantile(got) => {
                write!(f, "quantile value should be between 0 and 1, got {}", format_general(*got))
            }
            Note::BadBucketLabel(le, name) => {
                write!(f, "bucket label \"le\" is missing or has a malformed value of {le:?}")?;
                write_metric_name(f, name)
            }
            Note::MixedFloatsHistograms(name) => {
                write!(f, "encountered a mix of histograms and floats for metric name {name:?}")
            }
            Note::MixedFloatsHistogramsAggregation => {
                f.write_str("encountered a mix of histograms and floats for aggregation")
            }
            Note::MixedClassicNative(name) => {
                f.write_str("vector contains a mix of classic and native histograms")?;
                write_metric_name(f, name)
            }
            Note::HistogramNotCounter(name) => {
                write!(f, "this native histogram metric is not a counter: {name:?}")
            }
            Note::HistogramNotGauge(name) => {
                write!(f, "this native histogram metric is not a gauge: {name:?}")
            }
            Note::MixedExponentialCustom(name) => write!(
                f,
                "vector contains a mix of histograms with exponential and custom buckets schemas for metric name {name:?}"
            ),
            Note::IncompatibleBucketLayout(op) => {
                write!(f, "incompatible bucket layout encountered for binary operator {op}")
            }
            Note::SortInRangeQuery => f.write_str(
                "sort is ineffective for range queries since results are always ordered by labels",
            ),
            Note::CounterResetCollision(operation) => {
                write!(f, "conflicting counter resets during histogram {operation}")
            }
            Note::StartTimeOverlap(name) => write!(
                f,
                "sample has start time that overlaps with previous sample timestamp for metric {name:?}"
            ),
            Note::PossibleNonCounter(name) => write!(
                f,
                "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {name:?}"
            ),
            Note::PossibleNonCounterLabel(name, kind) => write!(
                f,
                "metric might not be a counter, __type__ label is not set to \"counter\" or \"histogram\", got {kind:?}: {name:?}"
            ),
            Note::ForcedMonotonicity(name, _) => {
                f.write_str(
                    "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)",
                )?;
                write_metric_name(f, name)
            }
            Note::IncompatibleTypes(left, op, right) => write!(
                f,
                "incompatible sample types encountered for binary operator {op:?}: {left} {op} {right}"
            ),
            Note::HistogramIgnoredInAggregation(op) => write!(f, "ignored histogram in {op} aggregation"),
            Note::HistogramIgnoredInRange(name) => write!(
                f,
                "ignored histograms in a range containing both floats and histograms for metric name {name:?}"
            ),
            Note::QuantileNan(name) => {
                f.write_str("input to histogram_quantile has NaN observations, result is NaN")?;
                write_metric_name(f, name)
            }
            Note::QuantileNanSkew(name) => {
                f.write_str("input to histogram_quantile has NaN observations, result is skewed higher")?;
                write_metric_name(f, name)
            }
            Note::FractionNan(name) => {
                f.write_str(
                    "input to histogram_fraction has NaN observations, which are excluded from all fractions",
                )?;
                write_metric_name(f, name)
            }
            Note::MismatchedCustomBuckets(operation) => {
                write!(f, "mismatched custom buckets were reconciled during {operation}")
            }
        }
    }
}

fn write_metric_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    if name.is_empty() { Ok(()) } else { write!(f, " for metric name {name:?}") }
}

/// The annotations of a query, or of a part of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Annotations {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    info: bool,
    /// Absent for what the store had to say.
    span: Option<Span>,
    figures: Figures,
}

#[derive(Debug, Clone, Copy)]
enum Figures {
    None,
    Forced(Forced),
    Occurrences(u64),
}

impl Annotations {
    /// Adds a note about the expression at `span`.
    pub(crate) fn add(&mut self, span: Span, note: &Note<'_>) {
        let figures = match note {
            Note::ForcedMonotonicity(_, forced) => Figures::Forced(*forced),
            Note::StartTimeOverlap(_) => Figures::Occurrences(1),
            _ => Figures::None,
        };
        self.put(note.to_string(), Entry { info: note.is_info(), span: Some(span), figures });
    }

    /// Adds a warning of the store.
    pub(crate) fn add_store_warning(&mut self, text: String) {
        self.put(text, Entry { info: false, span: None, figures: Figures::None });
    }

    fn put(&mut self, text: String, mut entry: Entry) {
        if let Some(before) = self.entries.get(&text) {
            match (&mut entry.figures, before.figures) {
                (Figures::Forced(now), Figures::Forced(before)) => now.merge(before),
                (Figures::Occurrences(now), Figures::Occurrences(before)) => *now += before,
                _ => {}
            }
        }
        self.entries.insert(text, entry);
    }

    /// Takes over what `other` has.
    pub(crate) fn merge(&mut self, other: Annotations) {
        for (text, entry) in other.entries {
            self.put(text, entry);
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The warnings and the infos, in full text with the place in `query`, sorted.
    pub(crate) fn texts(&self, query: &str) -> (Vec<String>, Vec<String>) {
        let mut warnings = Vec::new();
        let mut infos = Vec::new();
        let lines = LineStarts::of(query);
        for (text, entry) in &self.entries {
            let Some(span) = entry.span else {
                warnings.push(text.clone());
                continue;
            };
            let prefix = if entry.info { "PromQL info" } else { "PromQL warning" };
            let figures = match entry.figures {
                Figures::Forced(forced) => describe_forced(&forced),
                Figures::Occurrences(n) if n > 1 => format!(" ({n} occurrences)"),
                _ => String::new(),
            };
            let (line, column) = lines.line_and_column(span.start);
            let full = format!("{prefix}: {text}{figures} ({line}:{column})");
            if entry.info { infos.push(full) } else { warnings.push(full) }
        }
        (warnings, infos)
    }
}

/// Where the lines of a text begin. There may be an annotation for each metric of a store.
struct LineStarts(Vec<u32>);

impl LineStarts {
    fn of(text: &str) -> LineStarts {
        let newlines = text.bytes().zip(1..).filter(|(byte, _)| *byte == b'\n').map(|(_, next)| next);
        LineStarts(std::iter::once(0).chain(newlines).collect())
    }

    /// Both from 1, the column in bytes.
    fn line_and_column(&self, at: u32) -> (u32, u32) {
        let line = self.0.partition_point(|start| *start <= at);
        (line as u32, at - self.0[line - 1] + 1)
    }
}

fn describe_forced(forced: &Forced) -> String {
    format!(
        ", from buckets {} to {}, with a max diff of {}, over {} samples from {} to {}",
        format_general(forced.min_bucket),
        format_general(forced.max_bucket),
        two_digits(forced.max_diff),
        forced.count,
        rfc3339(forced.min_t_ms),
        rfc3339(forced.max_t_ms),
    )
}

/// `value` with two significant digits, as Go's `%.2g`.
fn two_digits(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        return format_general(value);
    }
    let rounded: f64 = format!("{value:.1e}").parse().unwrap_or(value);
    let exponent = rounded.abs().log10().floor();
    if (-4.0..2.0).contains(&exponent) {
        return format_general(rounded);
    }
    let mut text = String::new();
    append_exponent(&mut text, rounded);
    text
}

/// `2006-01-02T15:04:05Z`, whole seconds.
fn rfc3339(t_ms: i64) -> String {
    let t = crate::functions::datetime::Civil::from_seconds(t_ms.div_euclid(1000));
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", t.year, t.month, t.day, t.hour, t.minute, t.second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_carry_their_place() {
        let mut notes = Annotations::default();
        notes.add(Span { start: 0, end: 1 }, &Note::PossibleNonCounter("x"));
        notes.add(Span { start: 5, end: 6 }, &Note::PossibleNonCounter("x"));
        notes.add(Span { start: 9, end: 10 }, &Note::InvalidQuantile(1.5));
        let (warnings, infos) = notes.texts("rate(x[5\nm])");
        assert_eq!(
            infos,
            [
                "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"x\" (1:6)"
            ]
        );
        assert_eq!(warnings, ["PromQL warning: quantile value should be between 0 and 1, got 1.5 (2:1)"]);
    }

    #[test]
    fn forced_monotonicity_gathers_its_figures() {
        let forced = |t, diff| Forced {
            min_bucket: 1.0,
            max_bucket: 5.0,
            max_diff: diff,
            min_t_ms: t,
            max_t_ms: t,
            count: 1,
        };
        let mut notes = Annotations::default();
        notes.add(Span::default(), &Note::ForcedMonotonicity("", forced(60_000, 2.0)));
        let mut more = Annotations::default();
        more.add(Span::default(), &Note::ForcedMonotonicity("", forced(0, 35_000.0)));
        notes.merge(more);
        let (_, infos) = notes.texts("q");
        assert_eq!(infos.len(), 1);
        assert!(
            infos[0].ends_with(
                ", from buckets 1 to 5, with a max diff of 3.5e+04, over 2 samples from 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z (1:1)"
            ),
            "{}",
            infos[0]
        );
    }

    #[test]
    fn two_significant_digits() {
        for (value, text) in
            [(2.0, "2"), (10.0, "10"), (99.9, "1e+02"), (0.123, "0.12"), (1e-7, "1e-07"), (12.0, "12")]
        {
            assert_eq!(two_digits(value), text, "{value}");
        }
    }
}
