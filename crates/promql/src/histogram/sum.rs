//! Compensated sums and means of histograms.

use super::arithmetic::{Buckets, CustomSums, above_zero, common_bounds, reduced_kahan};
use super::{FloatHistogram, Incompatible, Reconciled};
use crate::functions::kahan;

/// A running sum, or mean, of histograms, each number of which is compensated.
#[derive(Debug, Clone)]
pub(crate) struct HistogramSum {
    /// The sum, or once `incremental` the mean.
    value: FloatHistogram,
    /// As `value`, bucket by bucket; absent until the first addition.
    c: Option<FloatHistogram>,
    count: f64,
    incremental: bool,
}

impl HistogramSum {
    pub(crate) fn new(first: &FloatHistogram) -> HistogramSum {
        HistogramSum { value: first.clone(), c: None, count: 1.0, incremental: false }
    }

    /// Adds to the sum.
    pub(crate) fn add(&mut self, other: &FloatHistogram) -> Result<Reconciled, Incompatible> {
        self.count += 1.0;
        kahan_add(&mut self.value, &mut self.c, other)
    }

    /// Adds to the sum for a mean, which becomes incremental when the sum overflows.
    pub(crate) fn add_for_mean(&mut self, other: &FloatHistogram) -> Result<Reconciled, Incompatible> {
        self.count += 1.0;
        if !self.incremental {
            let (mut value, mut c) = (self.value.clone(), self.c.clone());
            let reconciled = kahan_add(&mut value, &mut c, other)?;
            if !value.has_overflow() {
                (self.value, self.c) = (value, c);
                return Ok(reconciled);
            }
            self.incremental = true;
            self.value.divide(self.count - 1.0);
            if let Some(c) = &mut self.c {
                c.divide(self.count - 1.0);
            }
        }
        let q = (self.count - 1.0) / self.count;
        self.value.multiply(q);
        if let Some(c) = &mut self.c {
            c.multiply(q);
        }
        let mut share = other.clone();
        share.divide(self.count);
        kahan_add(&mut self.value, &mut self.c, &share)
    }

    /// The sum; its buckets are not compacted.
    pub(crate) fn sum(mut self) -> FloatHistogram {
        if let Some(c) = &self.c {
            // Same layout by construction.
            let _ = self.value.add(c);
        }
        self.value
    }

    /// The mean; its buckets are not compacted.
    pub(crate) fn mean(mut self) -> FloatHistogram {
        if !self.incremental {
            self.value.divide(self.count);
            if let Some(c) = &mut self.c {
                c.divide(self.count);
            }
        }
        self.sum()
    }
}

fn kahan_add(
    h: &mut FloatHistogram,
    c: &mut Option<FloatHistogram>,
    other: &FloatHistogram,
) -> Result<Reconciled, Incompatible> {
    h.check_compatible(other)?;
    let mut reconciled = Reconciled { reset_collision: h.adjust_hint(other), custom_bounds: false };
    let c = c.get_or_insert_with(|| zeroed(h));
    c.counter_reset_hint = h.counter_reset_hint;
    if !h.uses_custom_buckets() {
        let (zero, zero_c) = h.reconcile_zero(other, Some(c));
        (h.zero_count, c.zero_count) = kahan::inc(zero, h.zero_count, c.zero_count);
        (h.zero_count, c.zero_count) = kahan::inc(zero_c, h.zero_count, c.zero_count);
    }
    (h.count, c.count) = kahan::inc(other.count, h.count, c.count);
    (h.sum, c.sum) = kahan::inc(other.sum, h.sum, c.sum);
    if h.uses_custom_buckets() {
        if h.custom_values == other.custom_values {
            add_both(&mut h.positive, &mut c.positive, &other.positive, None);
        } else {
            reconciled.custom_bounds = true;
            let bounds = common_bounds(&h.custom_values, &other.custom_values);
            let mut target = CustomSums::new(&bounds);
            target.add(&h.positive, Some(&c.positive), &h.custom_values, 1.0);
            target.add(&other.positive, None, &other.custom_values, 1.0);
            (h.positive, c.positive) = target.finish();
            h.custom_values = bounds.clone();
            c.custom_values = bounds;
        }
        return Ok(reconciled);
    }
    if other.schema < h.schema {
        (h.positive, c.positive) = reduced_kahan(&h.positive, &c.positive, h.schema, other.schema);
        (h.negative, c.negative) = reduced_kahan(&h.negative, &c.negative, h.schema, other.schema);
        h.schema = other.schema;
    }
    let (schema, threshold) = (h.schema, h.zero_threshold);
    for (mine, mine_c, theirs) in [
        (&mut h.positive, &mut c.positive, &other.positive),
        (&mut h.negative, &mut c.negative, &other.negative),
    ] {
        if other.schema > schema {
            let zeros: Buckets = theirs.iter().map(|b| (b.0, 0.0)).collect();
            let (theirs, theirs_c) = reduced_kahan(theirs, &zeros, other.schema, schema);
            let kept = above_zero(&theirs, schema, threshold);
            add_both(mine, mine_c, kept, Some(&theirs_c[theirs.len() - kept.len()..]));
        } else {
            add_both(mine, mine_c, above_zero(theirs, schema, threshold), None);
        }
    }
    c.schema = schema;
    c.zero_threshold = threshold;
    Ok(reconciled)
}

/// The compensations of a histogram that has none yet.
fn zeroed(h: &FloatHistogram) -> FloatHistogram {
    let zeros = |side: &[(i32, f64)]| side.iter().map(|b| (b.0, 0.0)).collect();
    FloatHistogram {
        zero_count: 0.0,
        count: 0.0,
        sum: 0.0,
        positive: zeros(&h.positive),
        negative: zeros(&h.negative),
        ..h.clone()
    }
}

/// Adds buckets, with their compensations if any, to buckets and their compensations.
fn add_both(into: &mut Buckets, into_c: &mut Buckets, other: &[(i32, f64)], other_c: Option<&[(i32, f64)]>) {
    let mut at = 0;
    for (i, (index, count)) in other.iter().enumerate() {
        at += into[at..].partition_point(|b| b.0 < *index);
        let c = other_c.map_or(0.0, |c| c[i].1);
        if into.get(at).is_some_and(|b| b.0 == *index) {
            (into[at].1, into_c[at].1) = kahan::inc(*count, into[at].1, into_c[at].1);
            if c != 0.0 {
                (into[at].1, into_c[at].1) = kahan::inc(c, into[at].1, into_c[at].1);
            }
        } else {
            into.insert(at, (*index, *count));
            into_c.insert(at, (*index, c));
        }
    }
}
