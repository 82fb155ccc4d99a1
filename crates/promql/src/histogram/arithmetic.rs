//! Sums, differences, multiples.

use std::sync::Arc;

use model::histogram::CounterResetHint;

use super::{FloatHistogram, Incompatible, exponential_bound};
use crate::functions::kahan;

/// What two histograms needed to come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reconciled {
    /// One said "reset", the other "not reset".
    pub(crate) reset_collision: bool,
    /// Custom bounds differed and were reduced to the common ones.
    pub(crate) custom_bounds: bool,
}

/// Indexes and populations, ascending by index.
pub(super) type Buckets = Vec<(i32, f64)>;

/// The index in the coarser schema `to` of the bucket `index` of `from`.
fn coarser(index: i32, from: i32, to: i32) -> i32 {
    ((index - 1) >> (from - to)) + 1
}

/// Buckets in a coarser schema.
pub(super) fn reduced(buckets: &[(i32, f64)], from: i32, to: i32) -> Buckets {
    let mut out: Buckets = Vec::with_capacity(buckets.len());
    for (index, count) in buckets {
        let index = coarser(*index, from, to);
        match out.last_mut() {
            Some(last) if last.0 == index => last.1 += count,
            _ => out.push((index, *count)),
        }
    }
    out
}

/// Buckets in a coarser schema, with compensations.
pub(super) fn reduced_kahan(
    buckets: &[(i32, f64)],
    compensations: &[(i32, f64)],
    from: i32,
    to: i32,
) -> (Buckets, Buckets) {
    let mut out: Buckets = Vec::with_capacity(buckets.len());
    let mut comp: Buckets = Vec::with_capacity(buckets.len());
    for ((index, count), (_, c)) in buckets.iter().zip(compensations) {
        let index = coarser(*index, from, to);
        match (out.last_mut(), comp.last_mut()) {
            (Some(last), Some(last_c)) if last.0 == index => {
                (last.1, last_c.1) = kahan::inc(*count, last.1, last_c.1);
                (last.1, last_c.1) = kahan::inc(*c, last.1, last_c.1);
            }
            _ => {
                out.push((index, *count));
                comp.push((index, *c));
            }
        }
    }
    (out, comp)
}

/// Adds `sign` times `other` to `into`.
fn add_buckets(into: &mut Buckets, other: &[(i32, f64)], sign: f64) {
    if into.len() == other.len() && into.iter().zip(other).all(|(a, b)| a.0 == b.0) {
        for (a, b) in into.iter_mut().zip(other) {
            a.1 += sign * b.1;
        }
        return;
    }
    let mut out = Vec::with_capacity(into.len() + other.len());
    let (mut a, mut b) = (into.iter().peekable(), other.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x.0 == y.0 => {
                out.push((x.0, x.1 + sign * y.1));
                a.next();
                b.next();
            }
            (Some(x), Some(y)) if x.0 > y.0 => {
                out.push((y.0, sign * y.1));
                b.next();
            }
            (Some(x), _) => {
                out.push(**x);
                a.next();
            }
            (None, Some(y)) => {
                out.push((y.0, sign * y.1));
                b.next();
            }
            (None, None) => break,
        }
    }
    *into = out;
}

/// The buckets of an exponential schema that reach above the zero bucket.
pub(super) fn above_zero(buckets: &[(i32, f64)], schema: i32, threshold: f64) -> &[(i32, f64)] {
    let skip = buckets.iter().take_while(|b| exponential_bound(b.0, schema) <= threshold).count();
    &buckets[skip..]
}

/// The bounds that both have.
pub(super) fn common_bounds(a: &[f64], b: &[f64]) -> Arc<[f64]> {
    a.iter().copied().filter(|x| b.binary_search_by(|y| y.total_cmp(x)).is_ok()).collect()
}

/// For custom buckets: which bucket of `bounds` takes the bucket `index` of `from`.
pub(super) fn custom_target(index: i32, from: &[f64], bounds: &[f64]) -> usize {
    match usize::try_from(index).ok().and_then(|at| from.get(at)) {
        Some(upper) => bounds.partition_point(|b| b < upper),
        None => bounds.len(),
    }
}

impl FloatHistogram {
    /// Multiplies everything.
    pub(crate) fn multiply(&mut self, factor: f64) {
        for v in self.parts_mut() {
            *v *= factor;
        }
        if factor < 0.0 {
            self.counter_reset_hint = CounterResetHint::Gauge;
        }
    }

    /// Divides everything; by zero, nothing is left of the buckets.
    pub(crate) fn divide(&mut self, divisor: f64) {
        if divisor == 0.0 {
            self.positive.clear();
            self.negative.clear();
        }
        for v in self.parts_mut() {
            *v /= divisor;
        }
        if divisor < 0.0 {
            self.counter_reset_hint = CounterResetHint::Gauge;
        }
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut f64> {
        [&mut self.zero_count, &mut self.count, &mut self.sum]
            .into_iter()
            .chain(self.positive.iter_mut().map(|b| &mut b.1))
            .chain(self.negative.iter_mut().map(|b| &mut b.1))
    }

    /// Lowers the resolution.
    pub(crate) fn reduce_to(&mut self, schema: i32) {
        self.positive = reduced(&self.positive, self.schema, schema);
        self.negative = reduced(&self.negative, self.schema, schema);
        self.schema = schema;
    }

    /// Adds `other`.
    pub(crate) fn add(&mut self, other: &FloatHistogram) -> Result<Reconciled, Incompatible> {
        self.combine(other, 1.0)
    }

    /// Subtracts `other`.
    pub(crate) fn subtract(&mut self, other: &FloatHistogram) -> Result<Reconciled, Incompatible> {
        self.combine(other, -1.0)
    }

    fn combine(&mut self, other: &FloatHistogram, sign: f64) -> Result<Reconciled, Incompatible> {
        self.check_compatible(other)?;
        let mut reconciled = Reconciled { reset_collision: self.adjust_hint(other), custom_bounds: false };
        if !self.uses_custom_buckets() {
            self.zero_count += sign * self.reconcile_zero(other, None).0;
        }
        self.count += sign * other.count;
        self.sum += sign * other.sum;
        if self.uses_custom_buckets() {
            if self.custom_values == other.custom_values {
                add_buckets(&mut self.positive, &other.positive, sign);
            } else {
                reconciled.custom_bounds = true;
                let bounds = common_bounds(&self.custom_values, &other.custom_values);
                let mut target = CustomSums::new(&bounds);
                target.add(&self.positive, None, &self.custom_values, 1.0);
                target.add(&other.positive, None, &other.custom_values, sign);
                self.positive = target.finish().0;
                self.custom_values = bounds;
            }
            return Ok(reconciled);
        }
        if other.schema < self.schema {
            self.reduce_to(other.schema);
        }
        let coarse = (other.schema > self.schema).then(|| {
            let mut coarse = other.clone();
            coarse.reduce_to(self.schema);
            coarse
        });
        let other = coarse.as_ref().unwrap_or(other);
        let (schema, threshold) = (self.schema, self.zero_threshold);
        add_buckets(&mut self.positive, above_zero(&other.positive, schema, threshold), sign);
        add_buckets(&mut self.negative, above_zero(&other.negative, schema, threshold), sign);
        Ok(reconciled)
    }

    pub(super) fn check_compatible(&self, other: &FloatHistogram) -> Result<(), Incompatible> {
        if self.uses_custom_buckets() == other.uses_custom_buckets() { Ok(()) } else { Err(Incompatible) }
    }

    /// The hint of a sum; whether the hints contradict each other.
    pub(super) fn adjust_hint(&mut self, other: &FloatHistogram) -> bool {
        use CounterResetHint::{Gauge, NotReset, Reset, Unknown};
        let (mine, theirs) = (self.counter_reset_hint, other.counter_reset_hint);
        self.counter_reset_hint = match (mine, theirs) {
            (a, b) if a == b => a,
            (Gauge, _) | (_, Gauge) => Gauge,
            _ => Unknown,
        };
        matches!((mine, theirs), (Reset, NotReset) | (NotReset, Reset))
    }

    /// Widens the zero bucket until it takes in both; gives the other's zero count then, with its
    /// compensation. `c` are the compensations of `self`.
    pub(super) fn reconcile_zero(
        &mut self,
        other: &FloatHistogram,
        mut c: Option<&mut FloatHistogram>,
    ) -> (f64, f64) {
        let (mut count, mut threshold, mut count_c) = (other.zero_count, other.zero_threshold, 0.0);
        while threshold != self.zero_threshold {
            if self.zero_threshold > threshold {
                (count, threshold, count_c) = other.zero_count_within(self.zero_threshold, None);
            }
            if threshold > self.zero_threshold {
                let (zero, wider, zero_c) = self.zero_count_within(threshold, c.as_deref());
                self.zero_count = zero;
                self.zero_threshold = wider;
                if let Some(c) = c.as_deref_mut() {
                    c.zero_count = zero_c;
                }
                self.drop_inside_zero(c.as_deref_mut());
            }
        }
        (count, count_c)
    }

    /// The zero count with a wider zero bucket; a threshold inside a populated bucket grows to that
    /// bucket's end. Gives count, threshold, compensation.
    pub(super) fn zero_count_within(&self, threshold: f64, c: Option<&FloatHistogram>) -> (f64, f64, f64) {
        let mut threshold = threshold;
        if threshold <= self.zero_threshold {
            return (self.zero_count, self.zero_threshold, c.map_or(0.0, |c| c.zero_count));
        }
        'wider: loop {
            let (mut count, mut comp) = (self.zero_count, c.map_or(0.0, |c| c.zero_count));
            for (side, side_c) in
                [(&self.positive, c.map(|c| &c.positive)), (&self.negative, c.map(|c| &c.negative))]
            {
                let is_negative = std::ptr::eq(side, &self.negative);
                for (at, (index, population)) in side.iter().enumerate() {
                    let (near, far) =
                        (exponential_bound(index - 1, self.schema), exponential_bound(*index, self.schema));
                    if near >= threshold {
                        break;
                    }
                    (count, comp) = kahan::inc(*population, count, comp);
                    if let Some(side_c) = side_c {
                        (count, comp) = kahan::inc(side_c[at].1, count, comp);
                    }
                    if far > threshold {
                        if *population != 0.0 {
                            threshold = far;
                            // What was found on the positive side no longer holds.
                            if is_negative {
                                continue 'wider;
                            }
                        }
                        break;
                    }
                }
            }
            return (count, threshold, comp);
        }
    }

    /// Removes the buckets that the zero bucket has swallowed, and empty ones.
    fn drop_inside_zero(&mut self, c: Option<&mut FloatHistogram>) {
        let (schema, threshold) = (self.schema, self.zero_threshold);
        let outside = |index: i32| exponential_bound(index - 1, schema) >= threshold;
        match c {
            None => {
                self.positive.retain(|b| outside(b.0) && b.1 != 0.0);
                self.negative.retain(|b| outside(b.0) && b.1 != 0.0);
            }
            Some(c) => {
                retain_both(&mut self.positive, &mut c.positive, outside);
                retain_both(&mut self.negative, &mut c.negative, outside);
            }
        }
    }
}

fn retain_both(buckets: &mut Buckets, c: &mut Buckets, outside: impl Fn(i32) -> bool) {
    let keep: Vec<bool> =
        buckets.iter().zip(c.iter()).map(|(b, c)| outside(b.0) && (b.1 != 0.0 || c.1 != 0.0)).collect();
    for side in [buckets, c] {
        let mut at = keep.iter();
        side.retain(|_| at.next().copied().unwrap_or_default());
    }
}

/// Sums by custom bucket, compensated.
pub(super) struct CustomSums<'b> {
    bounds: &'b [f64],
    sums: Vec<(f64, f64)>,
}

impl<'b> CustomSums<'b> {
    pub(super) fn new(bounds: &'b [f64]) -> CustomSums<'b> {
        CustomSums { bounds, sums: vec![(0.0, 0.0); bounds.len() + 1] }
    }

    pub(super) fn add(&mut self, buckets: &[(i32, f64)], c: Option<&[(i32, f64)]>, from: &[f64], sign: f64) {
        for (at, (index, count)) in buckets.iter().enumerate() {
            let sum = &mut self.sums[custom_target(*index, from, self.bounds)];
            *sum = kahan::inc(sign * count, sum.0, sum.1);
            if let Some(c) = c {
                *sum = kahan::inc(c[at].1, sum.0, sum.1);
            }
        }
    }

    /// Populated buckets and their compensations.
    pub(super) fn finish(self) -> (Buckets, Buckets) {
        let kept = self.sums.iter().enumerate().filter(|(_, s)| s.0 != 0.0 || s.1 != 0.0);
        kept.map(|(at, s)| ((at as i32, s.0), (at as i32, s.1))).unzip()
    }
}
