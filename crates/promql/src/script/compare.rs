//! Whether an answer is what a script expects.
//!
//! Source: Prometheus `promql/promqltest/test.go`, `compareResult`; `util/almost`.

use std::collections::HashMap;

use model::Labels;

use super::{Eval, Expected, Steps, Text, When};
use crate::answer::{MatrixSeries, SampleValue, Value, VectorSample};
use crate::histogram::FloatHistogram;
use crate::series::SequenceValue;

/// Relative error allowed for numbers.
const EPSILON: f64 = 0.000_001;

/// Whether two numbers are the same but for rounding: a millionth of their size. NaNs are equal, and
/// the staleness marker equals only itself.
pub fn almost_equal(a: f64, b: f64) -> bool {
    if model::is_stale(a) || model::is_stale(b) {
        return model::is_stale(a) && model::is_stale(b);
    }
    if (a.is_nan() && b.is_nan()) || a == b {
        return true;
    }
    let (size, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || size < f64::MIN_POSITIVE {
        return difference < EPSILON * f64::MIN_POSITIVE;
    }
    difference / size.min(f64::MAX) < EPSILON
}

/// Compares annotations with what is expected of them.
///
/// # Errors
/// The difference, in words.
pub fn annotations(expected: &Expected, warnings: &[String], infos: &[String]) -> Result<(), String> {
    kind_of_annotations("warning", &expected.warnings, expected.no_warnings, warnings)?;
    kind_of_annotations("info", &expected.infos, expected.no_infos, infos)
}

fn kind_of_annotations(kind: &str, expected: &[Text], none: bool, found: &[String]) -> Result<(), String> {
    if none && !found.is_empty() {
        return Err(format!("unexpected {kind}s {found:?}"));
    }
    if expected.is_empty() {
        return Ok(());
    }
    if let Some(missing) = expected.iter().find(|text| !found.iter().any(|f| text.matches_annotation(f))) {
        return Err(format!("expected {kind} {missing:?} not among {found:?}"));
    }
    match found.iter().find(|f| !expected.iter().any(|text| text.matches_annotation(f))) {
        Some(other) => Err(format!("unexpected {kind} {other:?}")),
        None => Ok(()),
    }
}

/// Compares a value with what is expected.
///
/// # Errors
/// The first difference, in words.
pub fn value(eval: &Eval, value: &Value) -> Result<(), String> {
    let expected = &eval.expected;
    match value {
        Value::String { text, .. } => match &expected.string {
            Some(wanted) if wanted == text => Ok(()),
            wanted => Err(format!("expected string {wanted:?}, got {text:?}")),
        },
        Value::Scalar { value, .. } => match expected.scalar {
            Some(wanted) if almost_equal(wanted, *value) => Ok(()),
            Some(wanted) => Err(format!("expected scalar {wanted}, got {value}")),
            None => Err(format!("expected series, got scalar {value}")),
        },
        Value::Vector(samples) => vector(expected, samples),
        Value::Matrix(series) => {
            let steps = match (eval.when, expected.range_vector) {
                (_, Some(steps)) | (When::Range(steps), None) => steps,
                (When::Instant { at_ms }, None) => Steps { start_ms: at_ms, end_ms: at_ms, step_ms: 0 },
            };
            matrix(expected, steps, series)
        }
    }
}

fn by_labels(expected: &Expected) -> HashMap<&Labels, (usize, &[SequenceValue])> {
    expected.series.iter().enumerate().map(|(at, (labels, values))| (labels, (at, &values[..]))).collect()
}

fn vector(expected: &Expected, samples: &[VectorSample]) -> Result<(), String> {
    if let Some(scalar) = expected.scalar {
        return Err(format!("expected scalar {scalar}, got a vector of {}", samples.len()));
    }
    let mut missing = by_labels(expected);
    for (position, sample) in samples.iter().enumerate() {
        let Some((wanted_position, wanted)) = missing.remove(&sample.labels) else {
            return Err(format!("unexpected series {} with {:?}", sample.labels, sample.value));
        };
        if expected.ordered && wanted_position != position {
            return Err(format!(
                "series {} at position {position} instead of {wanted_position}",
                sample.labels
            ));
        }
        if !same_sample(&wanted[0], &sample.value) {
            return Err(format!("expected {:?} for {}, got {:?}", wanted[0], sample.labels, sample.value));
        }
    }
    not_found(&missing)
}

fn not_found(missing: &HashMap<&Labels, (usize, &[SequenceValue])>) -> Result<(), String> {
    match missing.iter().next() {
        Some((labels, (_, values))) => {
            Err(format!("expected series {labels} with {:?} not found", values.first()))
        }
        None => Ok(()),
    }
}

fn same_sample(wanted: &SequenceValue, found: &SampleValue) -> bool {
    match (wanted, found) {
        (SequenceValue::Float(wanted), SampleValue::Float(found)) => almost_equal(*wanted, *found),
        (SequenceValue::Omitted, SampleValue::Float(found)) => *found == 0.0, // as upstream has it
        (SequenceValue::Histogram { histogram, hint_given }, SampleValue::Histogram(found)) => {
            same_histogram(histogram, found, *hint_given)
        }
        _ => false,
    }
}

/// The samples of the expectation and of the answer, at one time.
fn matrix(expected: &Expected, steps: Steps, series: &[MatrixSeries]) -> Result<(), String> {
    if expected.ordered || expected.scalar.is_some() {
        return Err("expected an ordered or scalar result, got a matrix".to_owned());
    }
    sorted(series)?;
    let mut missing = by_labels(expected);
    for one in series {
        let Some((_, wanted)) = missing.remove(&one.labels) else {
            return Err(format!(
                "unexpected series {} with {:?} {:?}",
                one.labels, one.floats, one.histograms
            ));
        };
        let mut floats = one.floats.iter();
        let mut histograms = one.histograms.iter();
        for (at, wanted) in wanted.iter().enumerate() {
            let t_ms = steps.start_ms.saturating_add(steps.step_ms.saturating_mul(at as i64));
            if t_ms > steps.end_ms {
                return Err(format!("more values expected for {} than the range has steps", one.labels));
            }
            let same = match wanted {
                SequenceValue::Omitted => true,
                SequenceValue::Float(value) => floats
                    .next()
                    .is_some_and(|(found_ms, found)| *found_ms == t_ms && almost_equal(*value, *found)),
                SequenceValue::Histogram { histogram, hint_given } => {
                    histograms.next().is_some_and(|(found_ms, found)| {
                        *found_ms == t_ms && same_histogram(histogram, found, *hint_given)
                    })
                }
            };
            if !same {
                let (labels, floats, histograms) = (&one.labels, &one.floats, &one.histograms);
                return Err(format!(
                    "expected {wanted:?} at {t_ms} for {labels}, got {floats:?} {histograms:?}"
                ));
            }
        }
        if floats.len() + histograms.len() > 0 {
            return Err(format!("more values than expected for {}: {:?}", one.labels, one.floats));
        }
    }
    not_found(&missing)
}

/// Whether a matrix is in the order of its labels.
///
/// # Errors
/// The first pair that is not.
pub fn sorted(series: &[MatrixSeries]) -> Result<(), String> {
    match series.windows(2).find(|pair| pair[0].labels > pair[1].labels) {
        Some(pair) => Err(format!("series {} stands before {}", pair[0].labels, pair[1].labels)),
        None => Ok(()),
    }
}

fn same_histogram(wanted: &FloatHistogram, found: &FloatHistogram, hint: bool) -> bool {
    let same_bounds = || {
        wanted.custom_values.len() == found.custom_values.len()
            && wanted.custom_values.iter().zip(found.custom_values.iter()).all(|(a, b)| a == b)
    };
    wanted.schema == found.schema
        && almost_equal(wanted.count, found.count)
        && almost_equal(wanted.sum, found.sum)
        && (!wanted.uses_custom_buckets() || same_bounds())
        && wanted.zero_threshold == found.zero_threshold
        && almost_equal(wanted.zero_count, found.zero_count)
        && same_buckets(&wanted.positive, &found.positive)
        && same_buckets(&wanted.negative, &found.negative)
        && (!hint || wanted.counter_reset_hint == found.counter_reset_hint)
}

/// Empty buckets do not count.
fn same_buckets(wanted: &[(i32, f64)], found: &[(i32, f64)]) -> bool {
    let mut found = found.iter().filter(|(_, count)| *count != 0.0);
    let mut wanted = wanted.iter().filter(|(_, count)| *count != 0.0);
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some((i, a)), Some((j, b))) if i == j && almost_equal(*a, *b) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_equal_within_a_millionth() {
        for (a, b, equal) in [
            (1.0, 1.000_001, true),
            (1.0, 1.000_01, false),
            (f64::NAN, f64::NAN, true),
            (f64::NAN, model::stale_nan(), false),
            (model::stale_nan(), model::stale_nan(), true),
            (f64::INFINITY, f64::INFINITY, true),
            (f64::INFINITY, f64::MAX, false),
            (0.0, 1e-300, false),
            (0.0, -0.0, true),
            (-1.0, 1.0, false),
        ] {
            assert_eq!(almost_equal(a, b), equal, "{a} and {b}");
        }
    }

    #[test]
    fn annotations_match_with_and_without_position() {
        let found = ["PromQL info: fixed (see x) for \"m\", from buckets 1 to 2 (1:25)".to_owned()];
        let check = |text: &str| {
            let infos = vec![Text::Exact(text.to_owned())];
            annotations(&Expected { infos, ..Expected::default() }, &[], &found)
        };
        assert_eq!(check(&found[0]), Ok(()));
        assert_eq!(check("PromQL info: fixed (see x) for \"m\""), Ok(()));
        assert!(check("PromQL info: fixed").is_err());
        let none = Expected { no_infos: true, ..Expected::default() };
        assert!(annotations(&none, &[], &found).is_err());
        assert_eq!(annotations(&none, &found, &[]), Ok(()));
    }

    #[test]
    fn empty_buckets_do_not_count() {
        assert!(same_buckets(&[(0, 1.0), (1, 0.0), (3, 2.0)], &[(0, 1.0), (3, 2.0)]));
        assert!(!same_buckets(&[(0, 1.0)], &[(1, 1.0)]));
        assert!(!same_buckets(&[(0, 1.0)], &[(0, 1.0), (1, 1.0)]));
    }
}
