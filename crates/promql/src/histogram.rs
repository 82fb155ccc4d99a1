//! Native histograms as the evaluator computes with them: float counts, absolute, each bucket with
//! its index. Runs of buckets (spans) are how histograms are stored and sent; sums and comparisons
//! are simpler on a sorted list of (index, count).
//!
//! Source: Prometheus `model/histogram/float_histogram.go`.

mod arithmetic;
mod convert;
mod quantile;
mod reset;
mod sum;
mod trim;

use std::fmt;
use std::sync::Arc;

use model::histogram::{CUSTOM_BUCKETS_SCHEMA, CounterResetHint};
use model::number::format_general;

pub(crate) use arithmetic::Reconciled;
pub(crate) use quantile::NanNote;
pub(crate) use sum::HistogramSum;

/// A native histogram with float counts.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatHistogram {
    /// What is known of counter resets.
    pub counter_reset_hint: CounterResetHint,
    /// -4..=8 for exponential buckets, [`CUSTOM_BUCKETS_SCHEMA`] for custom ones.
    pub schema: i32,
    /// Half width of the zero bucket.
    pub zero_threshold: f64,
    /// Population of the zero bucket.
    pub zero_count: f64,
    /// Observations in all.
    pub count: f64,
    /// Sum of the observations.
    pub sum: f64,
    /// Index and population of the buckets of the positive side, ascending by index.
    pub positive: Vec<(i32, f64)>,
    /// Index and population of the buckets of the negative side, ascending by index (that is, away
    /// from zero).
    pub negative: Vec<(i32, f64)>,
    /// Upper bounds of custom buckets, ascending, without +Inf; shared, since bounds rarely change.
    pub custom_values: Arc<[f64]>,
}

/// Exponential and custom buckets have no common form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incompatible;

/// A bucket with its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Whether an observation equal to the lower bound is inside.
    pub lower_inclusive: bool,
    /// Whether an observation equal to the upper bound is inside.
    pub upper_inclusive: bool,
    /// Population.
    pub count: f64,
}

impl Bucket {
    /// The number that stands for the kinds of bounds in the HTTP API: 0 = open left, 1 = open
    /// right, 2 = open both, 3 = closed both.
    pub fn boundary_rule(&self) -> u8 {
        match (self.lower_inclusive, self.upper_inclusive) {
            (false, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (true, true) => 3,
        }
    }

    /// The share of the bucket at or below `v`, which lies inside its finite bounds; on a straight or
    /// a logarithmic scale.
    fn fraction_below(&self, v: f64, linear: bool) -> f64 {
        if linear {
            return (v - self.lower) / (self.upper - self.lower);
        }
        let (lower, upper, at) = (self.lower.abs().log2(), self.upper.abs().log2(), v.abs().log2());
        if v > 0.0 { (at - lower) / (upper - lower) } else { 1.0 - (at - upper) / (lower - upper) }
    }
}

/// `[-0.5,0.5]:3`, as Prometheus writes it.
impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) =
            (if self.lower_inclusive { '[' } else { '(' }, if self.upper_inclusive { ']' } else { ')' });
        let [lower, upper, count] = [self.lower, self.upper, self.count].map(format_general);
        write!(f, "{open}{lower},{upper}{close}:{count}")
    }
}

/// The upper bound of the positive bucket `index` of an exponential schema.
pub(crate) fn exponential_bound(index: i32, schema: i32) -> f64 {
    let exponent = f64::from(index) / f64::from(schema).exp2();
    // The last bucket of regular numbers ends at the largest of them; the one above takes infinities.
    if exponent == 1024.0 { f64::MAX } else { exponent.exp2() }
}

impl FloatHistogram {
    /// Whether the buckets have explicit bounds.
    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// An empty histogram with the layout of `like`.
    pub(crate) fn empty_like(like: &FloatHistogram) -> FloatHistogram {
        FloatHistogram {
            counter_reset_hint: CounterResetHint::Unknown,
            schema: like.schema,
            zero_threshold: 0.0,
            zero_count: 0.0,
            count: 0.0,
            sum: 0.0,
            positive: Vec::new(),
            negative: Vec::new(),
            custom_values: like.custom_values.clone(),
        }
    }

    /// The upper bound of the positive bucket `index`.
    fn bound(&self, index: i32) -> f64 {
        if !self.uses_custom_buckets() {
            return exponential_bound(index, self.schema);
        }
        match usize::try_from(index) {
            Err(_) => f64::NEG_INFINITY,
            Ok(at) => self.custom_values.get(at).copied().unwrap_or(f64::INFINITY),
        }
    }

    fn with_inclusion(&self, index: i32, lower: f64, upper: f64, count: f64) -> Bucket {
        let custom = self.uses_custom_buckets();
        Bucket {
            lower,
            upper,
            lower_inclusive: if custom { index == 0 } else { lower < 0.0 },
            upper_inclusive: custom || upper > 0.0,
            count,
        }
    }

    fn positive_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        self.with_inclusion(index, self.bound(index - 1), self.bound(index), count)
    }

    fn negative_bucket(&self, (index, count): (i32, f64)) -> Bucket {
        self.with_inclusion(index, -self.bound(index), -self.bound(index - 1), count)
    }

    fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        }
    }

    /// All buckets, ascending, the zero bucket only where it is populated; the neighbours of the zero
    /// bucket end at its bounds. Empty buckets are kept.
    pub fn buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> + '_ {
        let threshold = self.zero_threshold;
        let negative = self.negative.iter().rev().map(move |b| {
            let mut bucket = self.negative_bucket(*b);
            if bucket.upper < 0.0 && bucket.upper > -threshold {
                bucket.upper = -threshold;
            }
            bucket
        });
        let positive = self.positive.iter().map(move |b| {
            let mut bucket = self.positive_bucket(*b);
            if bucket.lower > 0.0 && bucket.lower < threshold {
                bucket.lower = threshold;
            }
            bucket
        });
        let zero = (self.zero_count > 0.0).then(|| self.zero_bucket());
        negative.chain(zero).chain(positive)
    }

    /// Leaves out empty buckets.
    pub fn compact(&mut self) {
        self.positive.retain(|(_, count)| *count != 0.0);
        self.negative.retain(|(_, count)| *count != 0.0);
    }

    /// Whether data and layout are equal, floats by their bits; hints do not count.
    pub fn same_data(&self, other: &FloatHistogram) -> bool {
        let bits = |a: f64, b: f64| a.to_bits() == b.to_bits();
        let same = |a: &[(i32, f64)], b: &[(i32, f64)]| {
            a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.0 == y.0 && bits(x.1, y.1))
        };
        self.schema == other.schema
            && bits(self.count, other.count)
            && bits(self.sum, other.sum)
            && self.custom_values == other.custom_values
            && self.zero_threshold == other.zero_threshold
            && bits(self.zero_count, other.zero_count)
            && same(&self.negative, &other.negative)
            && same(&self.positive, &other.positive)
    }

    /// How many float samples it counts for.
    pub(crate) fn weight(&self) -> u64 {
        let floats = self.positive.len() + self.negative.len() + self.custom_values.len();
        (168 + 8 * floats as u64 + 8 + 8) / 16
    }

    /// Whether anything in it is infinite.
    pub(crate) fn has_overflow(&self) -> bool {
        [self.zero_count, self.count, self.sum].iter().any(|v| v.is_infinite())
            || self.positive.iter().chain(&self.negative).any(|(_, v)| v.is_infinite())
    }

    /// The variance estimated from bucket midpoints.
    pub(crate) fn variance(&self) -> f64 {
        let mean = self.sum / self.count;
        let (mut total, mut c) = (0.0, 0.0);
        for bucket in self.buckets().filter(|b| b.count != 0.0) {
            let middle = if self.uses_custom_buckets() {
                (bucket.upper + bucket.lower) / 2.0
            } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
                0.0
            } else {
                (bucket.upper * bucket.lower).sqrt() * bucket.upper.signum()
            };
            let delta = middle - mean;
            (total, c) = crate::functions::kahan::inc(bucket.count * delta * delta, total, c);
        }
        (total + c) / self.count
    }
}

/// `{count:4, sum:2.5, [-0.5,0.5]:3, (0.5,1]:1}`, as Prometheus writes it.
impl fmt::Display for FloatHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", format_general(self.count), format_general(self.sum))?;
        for b in self.negative.iter().rev().filter(|b| b.1 != 0.0) {
            write!(f, ", {}", self.negative_bucket(*b))?;
        }
        if self.zero_count != 0.0 {
            write!(f, ", {}", self.zero_bucket())?;
        }
        for b in self.positive.iter().filter(|b| b.1 != 0.0) {
            write!(f, ", {}", self.positive_bucket(*b))?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests;
