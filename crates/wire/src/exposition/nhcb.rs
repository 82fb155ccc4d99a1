//! Classic histograms as native ones with custom buckets.
//!
//! Source: Prometheus `util/convertnhcb`.

use model::Histogram;
use model::histogram::{Buckets, CUSTOM_BUCKETS_SCHEMA, Span};

/// Integers up to this are exact in a double; larger counts stay floats.
const EXACT_MAX: f64 = (1u64 << 53) as f64;
/// Most buckets a histogram is converted with.
const BUCKETS_MAX: usize = 1 << 16;

/// What a series of a classic histogram tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ClassicPart {
    /// `_bucket`: observations up to `le`.
    Bucket,
    /// `_sum`.
    Sum,
    /// `_count`.
    Count,
}

/// The family a series named `name` is a part of, if it is one of a classic histogram.
pub(super) fn classic_part(name: &str) -> Option<(&str, ClassicPart)> {
    [("_bucket", ClassicPart::Bucket), ("_sum", ClassicPart::Sum), ("_count", ClassicPart::Count)]
        .into_iter()
        .find_map(|(suffix, part)| Some((name.strip_suffix(suffix)?, part)))
}

/// The parts of one classic histogram.
#[derive(Debug, Default)]
pub(super) struct ClassicHistogram {
    /// Bound and cumulative count, ascending by bound.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
    problem: Option<String>,
}

impl ClassicHistogram {
    /// Empties it and keeps its memory.
    pub(super) fn clear(&mut self) {
        self.buckets.clear();
        (self.count, self.sum, self.problem) = (None, 0.0, None);
    }

    /// Takes the count of observations up to `bound`; the first word on a bound counts.
    pub(super) fn set_bucket(&mut self, bound: f64, count: f64) {
        if self.problem.is_some() {
            return;
        }
        if bound.is_nan() {
            return self.fail("a bucket's bound is not a number".to_owned());
        }
        if count < 0.0 {
            return self.fail(format!("the bucket up to {bound} has a negative count, {count}"));
        }
        if self.buckets.len() == BUCKETS_MAX {
            return self.fail(format!("it has more than {BUCKETS_MAX} buckets"));
        }
        let at = self.buckets.partition_point(|(before, _)| *before < bound);
        if self.buckets.get(at).is_some_and(|(same, _)| *same == bound) {
            return;
        }
        let below = at.checked_sub(1).map(|at| self.buckets[at].1);
        let above = self.buckets.get(at).map(|(_, above)| *above);
        if below.is_some_and(|below| count < below) || above.is_some_and(|above| count > above) {
            return self.fail(format!("the count up to {bound}, {count}, is not cumulative"));
        }
        self.buckets.insert(at, (bound, count));
    }

    pub(super) fn set_count(&mut self, count: f64) {
        if count < 0.0 {
            return self.fail(format!("it has a negative count, {count}"));
        }
        self.count = Some(count);
    }

    pub(super) fn set_sum(&mut self, sum: f64) {
        self.sum = sum;
    }

    fn fail(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// The native histogram: with integers where all counts are whole.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn convert(&mut self) -> Result<Histogram, String> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        let last = self.buckets.last().copied();
        let count = self.count.or(last.map(|(_, count)| count)).unwrap_or(0.0);
        if last.is_none_or(|(bound, _)| bound != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        let all = self.buckets.last().map_or(0.0, |(_, all)| *all);
        if all != count {
            return Err(format!("its count is {count}, but the bucket up to +Inf has {all}"));
        }
        let whole = |count: f64| count.fract() == 0.0 && count.abs() <= EXACT_MAX;
        let is_whole = self.buckets.iter().all(|(_, count)| whole(*count));
        let mut histogram = Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            sum: self.sum,
            positive_spans: vec![Span { offset: 0, length: self.buckets.len() as u32 }],
            custom_values: self
                .buckets
                .iter()
                .map(|(bound, _)| *bound)
                .filter(|b| *b < f64::INFINITY)
                .collect(),
            buckets: if is_whole { self.whole_buckets(count) } else { self.float_buckets(count) },
            ..Histogram::stale()
        };
        histogram.compact(if is_whole { 2 } else { 0 }).map_err(|e| e.to_string())?;
        if histogram.is_well_formed() {
            Ok(histogram)
        } else {
            Err("its bounds are not ascending numbers".into())
        }
    }

    fn whole_buckets(&self, count: f64) -> Buckets {
        let (mut below, mut before) = (0i64, 0i64);
        let deltas = self.buckets.iter().map(|(_, cumulative)| {
            let own = *cumulative as i64 - below;
            let delta = own - before;
            (below, before) = (*cumulative as i64, own);
            delta
        });
        Buckets::Int { positive: deltas.collect(), count: count as u64, zero_count: 0, negative: Vec::new() }
    }

    fn float_buckets(&self, count: f64) -> Buckets {
        let mut below = 0.0;
        let counts = self.buckets.iter().map(|(_, cumulative)| {
            let own = *cumulative - below;
            below = *cumulative;
            own
        });
        Buckets::Float { positive: counts.collect(), count, zero_count: 0.0, negative: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(parts: &[(f64, f64)], count: Option<f64>, sum: f64) -> Result<Histogram, String> {
        let mut classic = ClassicHistogram::default();
        parts.iter().for_each(|(bound, count)| classic.set_bucket(*bound, *count));
        count.into_iter().for_each(|count| classic.set_count(count));
        classic.set_sum(sum);
        classic.convert()
    }

    const INF: f64 = f64::INFINITY;

    #[test]
    fn histograms_are_converted() {
        let check = |parts: &[(f64, f64)], count, bounds: &[f64], spans: &[(i32, u32)], buckets: Buckets| {
            let histogram = converted(parts, count, 7.5).unwrap();
            assert_eq!(histogram.custom_values, bounds, "{parts:?}");
            let got: Vec<_> =
                histogram.positive_spans.iter().map(|span| (span.offset, span.length)).collect();
            assert_eq!(got, spans, "{parts:?}");
            assert_eq!(histogram.buckets, buckets, "{parts:?}");
            assert_eq!((histogram.schema, histogram.sum), (CUSTOM_BUCKETS_SCHEMA, 7.5));
        };
        let int = |count, deltas: &[i64]| Buckets::Int {
            count,
            zero_count: 0,
            positive: deltas.to_vec(),
            negative: Vec::new(),
        };
        let float = |count, counts: &[f64]| Buckets::Float {
            count,
            zero_count: 0.0,
            positive: counts.to_vec(),
            negative: Vec::new(),
        };
        check(&[(1.0, 2.0), (2.0, 5.0), (INF, 6.0)], Some(6.0), &[1.0, 2.0], &[(0, 3)], int(6, &[2, 1, -2]));
        check(&[(2.0, 5.0), (1.0, 2.0), (1.0, 9.0)], Some(6.0), &[1.0, 2.0], &[(0, 3)], int(6, &[2, 1, -2]));
        check(&[(1.0, 2.0), (2.0, 5.0)], None, &[1.0, 2.0], &[(0, 2)], int(5, &[2, 1]));
        check(&[], Some(3.0), &[], &[(0, 1)], int(3, &[3]));
        check(
            &[(1.0, 0.5), (2.0, 0.5), (INF, 2.0)],
            None,
            &[1.0, 2.0],
            &[(0, 1), (1, 1)],
            float(2.0, &[0.5, 1.5]),
        );
        check(
            &[(1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 1.0), (5.0, 2.0)],
            Some(2.0),
            &[1.0, 2.0, 3.0, 4.0, 5.0],
            &[(0, 1), (3, 1)],
            int(2, &[1, 0]),
        );
    }

    #[test]
    fn contradictions_are_refused() {
        for (parts, count, problem) in [
            (&[(f64::NAN, 1.0)][..], None, "a bucket's bound is not a number"),
            (&[(1.0, -1.0)], None, "the bucket up to 1 has a negative count, -1"),
            (&[(1.0, 2.0), (2.0, 1.0)], None, "the count up to 2, 1, is not cumulative"),
            (&[(2.0, 1.0), (1.0, 2.0)], None, "the count up to 1, 2, is not cumulative"),
            (&[(INF, 2.0)], Some(3.0), "its count is 3, but the bucket up to +Inf has 2"),
            (&[(1.0, 2.0)], Some(-3.0), "it has a negative count, -3"),
            (&[(1.0, 2.0)], Some(f64::NAN), "its count is NaN, but the bucket up to +Inf has NaN"),
            (&[(f64::NEG_INFINITY, 0.0), (1.0, 2.0)], None, "its bounds are not ascending numbers"),
        ] {
            assert_eq!(converted(parts, count, 0.0), Err(problem.to_owned()), "{parts:?}");
        }
    }
}
