//! `</` and `>/`: the part of a histogram below or above a number.
//!
//! Source: Prometheus `model/histogram/float_histogram.go`, `TrimBuckets`.

use super::{Bucket, FloatHistogram};

/// Which part is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Keep {
    Below(f64),
    Above(f64),
}

impl FloatHistogram {
    /// Keeps the observations below `limit` (`</`).
    pub(crate) fn trim_upper(&mut self, limit: f64) {
        self.trim(Keep::Below(limit));
    }

    /// Keeps the observations above `limit` (`>/`).
    pub(crate) fn trim_lower(&mut self, limit: f64) {
        self.trim(Keep::Above(limit));
    }

    fn trim(&mut self, keep: Keep) {
        let linear = self.uses_custom_buckets();
        let (mut count, mut sum, mut trimmed) = (0.0, 0.0, false);
        let mut populated = [false, false];
        for (side, populated) in [true, false].into_iter().zip(&mut populated) {
            let mut buckets = std::mem::take(if side { &mut self.positive } else { &mut self.negative });
            for entry in buckets.iter_mut().filter(|b| b.1 != 0.0) {
                *populated = true;
                let bucket = if side { self.positive_bucket(*entry) } else { self.negative_bucket(*entry) };
                let (kept, middle) = kept_of(&bucket, keep, side, linear);
                count += kept;
                sum += middle * kept;
                trimmed |= kept != entry.1;
                entry.1 = kept;
            }
            *(if side { &mut self.positive } else { &mut self.negative }) = buckets;
        }
        if self.zero_count > 0.0 {
            let mut zero = self.zero_bucket();
            match populated {
                [false, true] => zero.upper = 0.0,
                [true, false] => zero.lower = 0.0,
                _ => {}
            }
            let (kept, middle) = kept_of_zero(&zero, keep);
            count += kept;
            sum += middle * kept;
            trimmed |= kept != self.zero_count;
            self.zero_count = kept;
        }
        if trimmed {
            self.count = count;
            self.sum = sum;
            self.compact();
        }
    }
}

/// How much of a bucket stays, and the value that stands for it.
fn kept_of(b: &Bucket, keep: Keep, positive: bool, linear: bool) -> (f64, f64) {
    let (whole, none, limit) = match keep {
        Keep::Below(limit) => (b.upper <= limit, b.lower >= limit, limit),
        Keep::Above(limit) => (b.lower >= limit, b.upper <= limit, limit),
    };
    if whole {
        return (b.count, middle(b.lower, b.upper, positive, linear));
    }
    if none || limit.is_nan() {
        return (0.0, 0.0);
    }
    if b.lower == f64::NEG_INFINITY || b.upper == f64::INFINITY {
        return kept_of_unbounded(b, keep);
    }
    let below = b.count * b.fraction_below(limit, linear);
    match keep {
        Keep::Below(_) => (below, middle(b.lower, limit, positive, linear)),
        Keep::Above(_) => (b.count - below, middle(limit, b.upper, positive, linear)),
    }
}

/// Nothing is known of the distribution in an unbounded bucket; one that ends above zero is taken to
/// start there.
fn kept_of_unbounded(b: &Bucket, keep: Keep) -> (f64, f64) {
    let starts_at_zero = b.lower == f64::NEG_INFINITY && b.upper > 0.0 && b.upper.is_finite();
    match keep {
        Keep::Below(limit) if b.lower == f64::NEG_INFINITY => {
            if limit > 0.0 && starts_at_zero {
                (b.count * limit / b.upper, limit / 2.0)
            } else if b.upper <= 0.0 {
                (b.count, limit)
            } else {
                (0.0, 0.0)
            }
        }
        Keep::Above(limit) if b.lower == f64::NEG_INFINITY => {
            if limit >= 0.0 && starts_at_zero {
                (b.count * (1.0 - limit / b.upper), (limit + b.upper) / 2.0)
            } else {
                (0.0, 0.0)
            }
        }
        Keep::Below(_) => (0.0, 0.0),
        Keep::Above(limit) => (b.count, limit),
    }
}

fn kept_of_zero(zero: &Bucket, keep: Keep) -> (f64, f64) {
    let (lower, upper) = (zero.lower, zero.upper);
    let whole = (zero.count, (lower + upper) / 2.0);
    match keep {
        Keep::Below(limit) if limit <= lower => (0.0, 0.0),
        Keep::Below(limit) if limit >= upper => whole,
        Keep::Below(limit) => (zero.count * ((limit - lower) / (upper - lower)), (lower + limit) / 2.0),
        Keep::Above(limit) if limit <= lower => whole,
        Keep::Above(limit) if limit >= upper => (0.0, 0.0),
        Keep::Above(limit) => (zero.count * ((upper - limit) / (upper - lower)), (limit + upper) / 2.0),
    }
}

fn middle(lower: f64, upper: f64, positive: bool, linear: bool) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        _ if linear => (lower + upper) / 2.0,
        _ => {
            let mean = (lower * upper).abs().sqrt();
            if positive { mean } else { -mean }
        }
    }
}
