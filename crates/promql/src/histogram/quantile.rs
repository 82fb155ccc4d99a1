//! Quantiles and fractions of native histograms.
//!
//! Source: Prometheus `promql/quantile.go` (`HistogramQuantile`, `HistogramFraction`).

use super::{Bucket, FloatHistogram};

/// What NaN observations did to a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NanNote {
    /// The quantile is NaN.
    Result,
    /// The quantile is higher than without them.
    Skew,
}

impl FloatHistogram {
    /// The quantile `q`, interpolated on a logarithmic scale in exponential buckets, on a straight one
    /// in custom buckets and the zero bucket.
    pub(crate) fn quantile(&self, q: f64) -> (f64, Option<NanNote>) {
        if q < 0.0 {
            return (f64::NEG_INFINITY, None);
        }
        if q > 1.0 {
            return (f64::INFINITY, None);
        }
        if self.count == 0.0 || q.is_nan() {
            return (f64::NAN, None);
        }
        let upwards = self.sum.is_nan() || q < 0.5;
        let rank = if upwards { q * self.count } else { (1.0 - q) * self.count };
        let mut buckets: Box<dyn Iterator<Item = Bucket> + '_> =
            if upwards { Box::new(self.buckets()) } else { Box::new(self.buckets().rev()) };
        let mut count = 0.0;
        let mut bucket =
            Bucket { lower: 0.0, upper: 0.0, lower_inclusive: false, upper_inclusive: false, count: 0.0 };
        for next in buckets.by_ref() {
            bucket = next;
            if bucket.count == 0.0 {
                continue;
            }
            count += bucket.count;
            if count >= rank {
                break;
            }
        }
        if self.uses_custom_buckets() {
            if bucket.lower == f64::NEG_INFINITY {
                if bucket.upper <= 0.0 {
                    return (bucket.upper, None);
                }
                bucket.lower = 0.0;
            } else if bucket.upper == f64::INFINITY {
                return (bucket.lower, None);
            }
        } else if bucket.lower < 0.0 && bucket.upper > 0.0 {
            self.narrow_zero(&mut bucket);
        }
        count = if count > self.count { self.count } else { count };
        if count < rank {
            return if self.sum.is_nan() { (f64::NAN, Some(NanNote::Result)) } else { (bucket.upper, None) };
        }
        let into = if upwards { rank - (count - bucket.count) } else { count - rank };
        let mut note = None;
        let found = bucket;
        if self.sum.is_nan() {
            count += buckets.map(|b| b.count).sum::<f64>();
            note = (count < self.count).then_some(NanNote::Skew);
        }
        let fraction = into / found.count;
        if self.uses_custom_buckets() || (found.lower <= 0.0 && found.upper >= 0.0) {
            return (found.lower + (found.upper - found.lower) * fraction, note);
        }
        let (lower, upper) = (found.lower.abs().log2(), found.upper.abs().log2());
        let value = if found.lower > 0.0 {
            (lower + (upper - lower) * fraction).exp2()
        } else {
            -(upper + (lower - upper) * (1.0 - fraction)).exp2()
        };
        (value, note)
    }

    /// A histogram with buckets on one side only is taken to end at zero.
    fn narrow_zero(&self, bucket: &mut Bucket) {
        if self.negative.is_empty() && !self.positive.is_empty() {
            bucket.lower = 0.0;
        } else if self.positive.is_empty() && !self.negative.is_empty() {
            bucket.upper = 0.0;
        }
    }

    /// The share of observations between `lower` and `upper`, and whether NaN observations, which are
    /// in no share, exist.
    pub(crate) fn fraction(&self, lower: f64, upper: f64) -> (f64, bool) {
        if self.count == 0.0 || lower.is_nan() || upper.is_nan() {
            return (f64::NAN, false);
        }
        if lower >= upper {
            return (0.0, false);
        }
        let mut rank = 0.0;
        let (mut lower_rank, mut upper_rank) = (None, None);
        for mut b in self.buckets() {
            let around_zero = b.lower <= 0.0 && b.upper >= 0.0;
            if around_zero {
                self.narrow_zero(&mut b);
            }
            let linear = self.uses_custom_buckets() || around_zero;
            let rank_of = |v: f64| {
                if b.lower >= v {
                    Some(rank)
                } else if b.upper > v {
                    Some(if linear && b.lower == f64::NEG_INFINITY {
                        b.count
                    } else {
                        rank + b.count * b.fraction_below(v, linear)
                    })
                } else {
                    None
                }
            };
            lower_rank = lower_rank.or_else(|| rank_of(lower));
            upper_rank = upper_rank.or_else(|| rank_of(upper));
            if lower_rank.is_some() && upper_rank.is_some() {
                break;
            }
            rank += b.count;
        }
        let mut count = self.count;
        let mut has_nan = false;
        if self.sum.is_nan() {
            count = self.buckets().map(|b| b.count).sum();
            has_nan = count < self.count;
        }
        let capped = |rank: Option<f64>| rank.filter(|r| *r <= count).unwrap_or(count);
        ((capped(upper_rank) - capped(lower_rank)) / self.count, has_nan)
    }
}
