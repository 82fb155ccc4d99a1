//! Series as test scripts and rule tests write them: labels, and values with repetitions.
//!
//! ```text
//! metric{label="value"} 1 2+3x2 _ _x3 stale {{schema:1 sum:3 count:22 buckets:[5 10 7]}}x5
//! metric{label="value"}@st -30s-1mx2 _
//! ```
//!
//! `a+bxn` is n+1 values, each b more than the one before; `axn` is n+1 times a; `_` is no value and
//! `_xn` n times none. The second line gives start timestamps, relative to the samples'.
//!
//! Source: Prometheus `docs/configuration/unit_testing_rules.md` (series), `promql/promqltest/test.go`
//! (start timestamps).

use std::sync::Arc;

use model::Labels;
use model::histogram::CounterResetHint;
use model::labels::METRIC_NAME;

use crate::histogram::FloatHistogram;
use crate::lexer::{Kind, Lexer};
use crate::parser::ParseError;
use crate::parser::literal;
use crate::parser::quote::quote;

/// Most values that one description may stand for.
pub const VALUES_MAX: usize = 1_000_000;

/// A series and its values.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesDescription {
    /// The series; may be empty.
    pub labels: Labels,
    /// The values, one for each step of time.
    pub values: Vec<SequenceValue>,
}

/// The value of one step.
#[derive(Debug, Clone, PartialEq)]
pub enum SequenceValue {
    /// There is none.
    Omitted,
    /// A number; the staleness marker for `stale`.
    Float(f64),
    /// A native histogram.
    Histogram {
        /// The histogram.
        histogram: Arc<FloatHistogram>,
        /// Whether `counter_reset_hint` was written: only then is it part of an expectation.
        hint_given: bool,
    },
}

/// Reads `metric{...} values`.
///
/// # Errors
/// A message that names the word at fault.
pub fn parse_series(line: &str) -> Result<SeriesDescription, String> {
    let (labels, values) = split_labels(line)?;
    let mut reader = Reader { rest: values };
    let mut out = Vec::new();
    loop {
        let had_blank = reader.skip_blanks();
        if reader.rest.is_empty() {
            return Ok(SeriesDescription { labels, values: out });
        }
        if !had_blank {
            return Err(format!("unexpected {} in series values", quote(reader.word())));
        }
        reader.item(&mut out)?;
        if out.len() > VALUES_MAX {
            return Err(format!("more than {VALUES_MAX} values in a series"));
        }
    }
}

/// The start timestamps of a series' samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartTimestamps {
    /// The series.
    pub labels: Labels,
    /// Milliseconds to add to each sample's time; `None` where it has no start timestamp.
    pub offsets_ms: Vec<Option<i64>>,
}

/// Reads `metric{...}@st offsets`. Says `None` for a line that is no such line.
///
/// # Errors
/// A message that names the word at fault.
pub fn parse_start_timestamps(line: &str) -> Result<Option<StartTimestamps>, String> {
    let Some((series, offsets)) = line.split_once([' ', '\t']) else { return Ok(None) };
    let Some(series) = series.strip_suffix("@st") else { return Ok(None) };
    let (labels, _) = split_labels(series)?;
    let mut offsets_ms = Vec::new();
    for item in offsets.split_whitespace() {
        start_item(item, &mut offsets_ms)
            .map_err(|reason| format!("start timestamp {}: {reason}", quote(item)))?;
        if offsets_ms.len() > VALUES_MAX {
            return Err(format!("more than {VALUES_MAX} values in a series"));
        }
    }
    Ok(Some(StartTimestamps { labels, offsets_ms }))
}

fn start_item(item: &str, out: &mut Vec<Option<i64>>) -> Result<(), String> {
    let (item, times) = match item.split_once('x') {
        Some((item, times)) => (item, Some(repetitions(times)?)),
        None => (item, None),
    };
    if item == "_" {
        out.extend(std::iter::repeat_n(None, times.unwrap_or(1)));
        return Ok(());
    }
    let sign_at = item.char_indices().skip(1).find(|(_, c)| matches!(c, '+' | '-')).map(|(at, _)| at);
    let (base, step) = item.split_at(sign_at.unwrap_or(item.len()));
    let base_ms = signed_duration(base)?;
    let step_ms = if step.is_empty() { 0 } else { signed_duration(step)? };
    let count = times.map_or(1, |times| times + 1);
    out.extend((0..count as i64).map(|at| Some(base_ms.saturating_add(step_ms.saturating_mul(at)))));
    Ok(())
}

fn signed_duration(text: &str) -> Result<i64, String> {
    let text = text.strip_prefix('+').unwrap_or(text);
    model::duration::parse_signed(text).map_err(|error| error.to_string())
}

fn repetitions(text: &str) -> Result<usize, String> {
    let times: usize = text.parse().map_err(|_| format!("invalid repetition {}", quote(text)))?;
    if times >= VALUES_MAX { Err(format!("more than {VALUES_MAX} values in a series")) } else { Ok(times) }
}

/// The labels at the start of a line, and what follows them.
fn split_labels(line: &str) -> Result<(Labels, &str), String> {
    let message = |error: ParseError| error.to_string();
    let name_end = line.find([' ', '\t', '{']).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_end);
    let mut pairs = Vec::new();
    if !name.is_empty() {
        if !model::labels::is_legacy_metric_name(name) {
            return Err(format!("unexpected {} where a series was expected", quote(name)));
        }
        pairs.push((METRIC_NAME.to_owned(), name.to_owned()));
    }
    if !rest.starts_with('{') || rest.starts_with("{{") {
        return Ok((Labels::from_pairs(pairs), rest));
    }
    let mut lexer = Lexer::new(rest);
    let mut next = || lexer.next().map_err(message);
    let text = |token: crate::lexer::Token| &rest[token.span.start as usize..token.span.end as usize];
    next()?;
    loop {
        let mut token = next()?;
        if token.kind == Kind::RightBrace {
            return Ok((Labels::from_pairs(pairs), &rest[token.span.end as usize..]));
        }
        let label = match token.kind {
            Kind::Identifier => text(token).to_owned(),
            Kind::String => literal::unquote(text(token))?,
            _ => return Err(format!("unexpected {} in label set", token.describe(rest))),
        };
        let quoted = token.kind == Kind::String;
        token = next()?;
        if token.kind == Kind::Equal {
            let value = next()?;
            if value.kind != Kind::String {
                return Err(format!("unexpected {} in label set, expected string", value.describe(rest)));
            }
            pairs.push((label, literal::unquote(text(value))?));
            token = next()?;
        } else if quoted {
            pairs.push((METRIC_NAME.to_owned(), label));
        } else {
            return Err(format!("unexpected {} in label set, expected \"=\"", token.describe(rest)));
        }
        match token.kind {
            Kind::Comma => {}
            Kind::RightBrace => return Ok((Labels::from_pairs(pairs), &rest[token.span.end as usize..])),
            _ => {
                return Err(format!(
                    "unexpected {} in label set, expected \",\" or \"}}\"",
                    token.describe(rest)
                ));
            }
        }
    }
}

/// Reads values from the front of a text.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_blanks(&mut self) -> bool {
        let trimmed = self.rest.trim_start_matches([' ', '\t']);
        let any = trimmed.len() < self.rest.len();
        self.rest = trimmed;
        any
    }

    /// What stands up to the next blank, for messages.
    fn word(&self) -> &'a str {
        self.rest.split([' ', '\t']).next().unwrap_or_default()
    }

    fn accept(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        if self.accept(text) {
            Ok(())
        } else {
            Err(format!("unexpected {}, expected {text}", quote(self.word())))
        }
    }

    fn take_while(&mut self, accepted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !accepted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// One blank-separated item.
    fn item(&mut self, out: &mut Vec<SequenceValue>) -> Result<(), String> {
        if self.rest.starts_with("{{") {
            return self.histogram_item(out);
        }
        if self.accept("_") {
            let times = self.times()?.unwrap_or(1);
            out.extend(std::iter::repeat_n(SequenceValue::Omitted, times));
            return Ok(());
        }
        let mut value = if self.accept("stale") { model::stale_nan() } else { self.signed_number()? };
        let step = if self.rest.starts_with(['+', '-']) { self.signed_number()? } else { 0.0 };
        let stepped = step != 0.0;
        let Some(times) = self.times()? else {
            if stepped {
                return Err(format!(
                    "unexpected {}, expected x and a number of repetitions",
                    quote(self.word())
                ));
            }
            out.push(SequenceValue::Float(value));
            return Ok(());
        };
        for _ in 0..=times {
            out.push(SequenceValue::Float(value));
            // Adding even a zero step would spoil the bits of a staleness marker.
            if stepped {
                value += step;
            }
        }
        Ok(())
    }

    /// `x5`
    fn times(&mut self) -> Result<Option<usize>, String> {
        if !self.accept("x") {
            return Ok(None);
        }
        repetitions(self.take_while(|c| c.is_ascii_digit())).map(Some)
    }

    fn signed_number(&mut self) -> Result<f64, String> {
        let negative = self.accept("-");
        if !negative {
            self.accept("+");
        }
        let start = self.rest;
        let word = start.get(..3).unwrap_or_default();
        if word.eq_ignore_ascii_case("inf") || word.eq_ignore_ascii_case("nan") {
            self.rest = &start[3..];
        } else if !self.take_while(|c| c.is_ascii_digit() || matches!(c, '.' | '_')).is_empty()
            && self.rest.starts_with(['e', 'E'])
        {
            self.rest = &self.rest[1..];
            if self.rest.starts_with(['+', '-']) {
                self.rest = &self.rest[1..];
            }
            self.take_while(|c| c.is_ascii_digit());
        }
        let text = &start[..start.len() - self.rest.len()];
        if text.is_empty() {
            return Err(format!("unexpected {}, expected number or \"stale\"", quote(self.word())));
        }
        let value = literal::number(text)?;
        Ok(if negative { -value } else { value })
    }

    fn histogram_item(&mut self, out: &mut Vec<SequenceValue>) -> Result<(), String> {
        let (mut current, mut hint_given) = self.histogram()?;
        let mut step = None;
        if self.rest.starts_with(['+', '-']) {
            let falls = self.rest.starts_with('-');
            self.rest = &self.rest[1..];
            let (other, given) = self.histogram()?;
            hint_given = given;
            step = Some((other, falls));
        }
        let mut push = |histogram: &FloatHistogram| {
            out.push(SequenceValue::Histogram { histogram: Arc::new(histogram.clone()), hint_given });
        };
        push(&current);
        let times = self.times()?;
        match (&step, times) {
            (Some(_), None) => Err(format!("unexpected {}, expected x and a number", quote(self.word()))),
            (None, times) => {
                (0..times.unwrap_or(0)).for_each(|_| push(&current));
                Ok(())
            }
            (Some((other, falls)), Some(times)) => {
                for _ in 0..times {
                    if current.schema > other.schema {
                        return Err(format!(
                            "cannot merge from schema {} to {}",
                            other.schema, current.schema
                        ));
                    }
                    let done = if *falls { current.subtract(other) } else { current.add(other) };
                    done.map_err(|_| "cannot combine exponential and custom buckets")?;
                    push(&current);
                }
                Ok(())
            }
        }
    }

    /// `{{schema:1 sum:3 ...}}`, and whether a hint was given.
    fn histogram(&mut self) -> Result<(FloatHistogram, bool), String> {
        self.expect("{{")?;
        let mut parts = HistogramParts::default();
        loop {
            self.skip_blanks();
            if self.accept("}}") {
                return Ok(parts.build());
            }
            let key = self.take_while(|c| c == '_' || c.is_ascii_alphabetic()).to_ascii_lowercase();
            if parts.seen.contains(&key) {
                return Err(format!("duplicate key {} in histogram", quote(&key)));
            }
            self.expect(":")?;
            self.histogram_part(&key, &mut parts)?;
            parts.seen.push(key);
        }
    }

    fn histogram_part(&mut self, key: &str, parts: &mut HistogramParts) -> Result<(), String> {
        match key {
            "schema" => parts.schema = self.integer()?,
            "offset" => parts.offset = self.integer()?,
            "n_offset" => parts.negative_offset = self.integer()?,
            "sum" => parts.sum = self.signed_number()?,
            "count" => parts.count = self.signed_number()?,
            "z_bucket" => parts.zero_count = self.signed_number()?,
            "z_bucket_w" => parts.zero_threshold = self.signed_number()?,
            "buckets" => parts.positive = self.numbers()?,
            "n_buckets" => parts.negative = self.numbers()?,
            "custom_values" => parts.custom_values = self.numbers()?,
            "counter_reset_hint" => {
                parts.hint = Some(match self.take_while(|c| c == '_' || c.is_ascii_alphabetic()) {
                    "unknown" => CounterResetHint::Unknown,
                    "reset" => CounterResetHint::Reset,
                    "not_reset" => CounterResetHint::NotReset,
                    "gauge" => CounterResetHint::Gauge,
                    other => return Err(format!("unknown counter_reset_hint {}", quote(other))),
                });
            }
            other => return Err(format!("bad histogram descriptor found: {}", quote(other))),
        }
        Ok(())
    }

    fn integer(&mut self) -> Result<i32, String> {
        let word = self.take_while(|c| c == '-' || c.is_ascii_digit());
        word.parse().map_err(|_| format!("{} is not a whole number", quote(word)))
    }

    /// `[5 10 7]`
    fn numbers(&mut self) -> Result<Vec<f64>, String> {
        self.expect("[")?;
        let mut out = Vec::new();
        loop {
            self.skip_blanks();
            if self.accept("]") {
                return Ok(out);
            }
            out.push(self.signed_number()?);
        }
    }
}

#[derive(Default)]
struct HistogramParts {
    seen: Vec<String>,
    schema: i32,
    sum: f64,
    count: f64,
    zero_count: f64,
    zero_threshold: f64,
    offset: i32,
    negative_offset: i32,
    positive: Vec<f64>,
    negative: Vec<f64>,
    custom_values: Vec<f64>,
    hint: Option<CounterResetHint>,
}

impl HistogramParts {
    fn build(self) -> (FloatHistogram, bool) {
        let indexed = |offset: i32, counts: Vec<f64>| (offset..).zip(counts).collect();
        let histogram = FloatHistogram {
            counter_reset_hint: self.hint.unwrap_or_default(),
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count,
            count: self.count,
            sum: self.sum,
            positive: indexed(self.offset, self.positive),
            negative: indexed(self.negative_offset, self.negative),
            custom_values: self.custom_values.into(),
        };
        (histogram, self.hint.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, labels: &str, expected: &[f64]) {
        let series = parse_series(line).expect(line);
        assert_eq!(series.labels.to_string(), labels, "labels of {line}");
        let floats: Vec<f64> = series
            .values
            .iter()
            .map(|value| match value {
                SequenceValue::Float(value) => *value,
                SequenceValue::Omitted => -999.0,
                SequenceValue::Histogram { histogram, .. } => histogram.sum,
            })
            .collect();
        assert_eq!(floats, expected, "values of {line}");
    }

    #[test]
    fn repetitions_and_steps_are_unrolled() {
        check("m 1 2 3", r#"{__name__="m"}"#, &[1.0, 2.0, 3.0]);
        check(
            r#"m{a="b",} 1+2x2 _ _x2"#,
            r#"{__name__="m", a="b"}"#,
            &[1.0, 3.0, 5.0, -999.0, -999.0, -999.0],
        );
        check(
            r#"{"my.m", "x y"='z'} -1-1x1 4x1 1.5e3"#,
            r#"{__name__="my.m", "x y"="z"}"#,
            &[-1.0, -2.0, 4.0, 4.0, 1500.0],
        );
        check("{} {{sum:1 count:1}}+{{sum:2 count:1}}x2", "{}", &[1.0, 3.0, 5.0]);
        check("{} +Inf -inf", "{}", &[f64::INFINITY, f64::NEG_INFINITY]);
    }

    #[test]
    fn stale_is_the_staleness_marker() {
        let series = parse_series("m stale").expect("stale");
        assert!(matches!(series.values[..], [SequenceValue::Float(value)] if model::is_stale(value)));
    }

    #[test]
    fn histograms_carry_all_their_parts() {
        let line =
            "m {{schema:-53 sum:-1 count:6 custom_values:[5 10] buckets:[1 2 3] counter_reset_hint:gauge }}";
        let series = parse_series(line).expect(line);
        let [SequenceValue::Histogram { histogram, hint_given: true }] = &series.values[..] else {
            panic!("{series:?}");
        };
        assert_eq!(histogram.positive, [(0, 1.0), (1, 2.0), (2, 3.0)]);
        assert_eq!(&*histogram.custom_values, [5.0, 10.0]);
        assert_eq!(histogram.counter_reset_hint, CounterResetHint::Gauge);
    }

    #[test]
    fn start_timestamps_are_offsets() {
        let line = r#"m{a="b"}@st _ -30s-1mx2 1ms _x2"#;
        let starts = parse_start_timestamps(line).expect(line).expect("is such a line");
        assert_eq!(starts.labels.to_string(), r#"{__name__="m", a="b"}"#);
        assert_eq!(
            starts.offsets_ms,
            [None, Some(-30_000), Some(-90_000), Some(-150_000), Some(1), None, None]
        );
        assert_eq!(parse_start_timestamps("m 1 2"), Ok(None));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("m 1 x", r#"unexpected "x", expected number or "stale""#),
            ("m 1x9999999999", "more than 1000000 values in a series"),
            ("m{a} 1", r#"unexpected "}" in label set, expected "=""#),
            ("m {{sums:1}}", r#"bad histogram descriptor found: "sums""#),
            ("m {{sum:1 sum:2}}", r#"duplicate key "sum" in histogram"#),
            ("m 1+2", r#"unexpected "", expected x and a number of repetitions"#),
        ] {
            assert_eq!(parse_series(line).expect_err(line), expected, "for {line}");
        }
    }
}
