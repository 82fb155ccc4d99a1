//! Whether a counter started anew between two histograms.

use model::histogram::CounterResetHint;

use super::FloatHistogram;
use super::arithmetic::{above_zero, common_bounds, custom_target, reduced};

impl FloatHistogram {
    /// Fills in an unknown hint from the histogram before: not reset when the counter went on with the
    /// same layout; reset only if `tell_resets`.
    pub(crate) fn learn_from(&mut self, previous: &FloatHistogram, tell_resets: bool) {
        let unknown = self.counter_reset_hint == CounterResetHint::Unknown;
        if !unknown || previous.counter_reset_hint == CounterResetHint::Gauge {
            return;
        }
        let same_layout = self.schema == previous.schema && self.zero_threshold == previous.zero_threshold;
        if self.is_reset_after(previous) {
            if tell_resets {
                self.counter_reset_hint = CounterResetHint::Reset;
            }
        } else if same_layout || tell_resets {
            self.counter_reset_hint = CounterResetHint::NotReset;
        }
    }

    /// Whether anything but the sum is smaller than in `previous`, or the layout changed in a way that
    /// only a restart explains. A hint decides at once.
    pub(crate) fn is_reset_after(&self, previous: &FloatHistogram) -> bool {
        match self.counter_reset_hint {
            CounterResetHint::Reset => return true,
            CounterResetHint::NotReset => return false,
            CounterResetHint::Unknown | CounterResetHint::Gauge => {}
        }
        if self.count < previous.count {
            return true;
        }
        if self.uses_custom_buckets() && previous.uses_custom_buckets() {
            return self.custom_buckets_fell(previous);
        }
        if self.uses_custom_buckets()
            || self.schema > previous.schema
            || self.zero_threshold < previous.zero_threshold
        {
            return true;
        }
        let (zero_count, threshold, _) = previous.zero_count_within(self.zero_threshold, None);
        if threshold != self.zero_threshold || self.zero_count < zero_count {
            return true;
        }
        let (schema, threshold) = (self.schema, self.zero_threshold);
        let fell = |now: &[(i32, f64)], before: &[(i32, f64)]| {
            let before = reduced(before, previous.schema, schema);
            any_fell(above_zero(now, schema, threshold), above_zero(&before, schema, threshold))
        };
        fell(&self.positive, &previous.positive) || fell(&self.negative, &previous.negative)
    }

    fn custom_buckets_fell(&self, previous: &FloatHistogram) -> bool {
        if self.custom_values == previous.custom_values {
            return any_fell(&self.positive, &previous.positive);
        }
        let bounds = common_bounds(&self.custom_values, &previous.custom_values);
        let sums = |h: &FloatHistogram| {
            let mut sums = vec![0.0; bounds.len() + 1];
            for (index, count) in &h.positive {
                sums[custom_target(*index, &h.custom_values, &bounds)] += count;
            }
            sums
        };
        sums(self).iter().zip(sums(previous)).any(|(now, before)| *now < before)
    }
}

/// Whether a bucket of `before` has gone or shrunk.
fn any_fell(now: &[(i32, f64)], before: &[(i32, f64)]) -> bool {
    let mut at = 0;
    for (index, count) in before {
        at += now[at..].iter().take_while(|b| b.0 < *index).count();
        match now.get(at).filter(|b| b.0 == *index) {
            Some((_, now)) if now < count => return true,
            None if *count != 0.0 => return true,
            _ => {}
        }
    }
    false
}
