//! Native histograms, exactly as they arrived: integer or float counts, exponential or custom
//! buckets.
//!
//! Source: Prometheus `model/histogram`; remote write 1.0/2.0 `Histogram`.

mod layout;

pub use layout::LayoutError;

/// Schema number of histograms with custom (explicit) bucket bounds.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// What is known about a counter reset between the previous histogram and this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CounterResetHint {
    /// Nothing is known; compare the buckets.
    #[default]
    Unknown,
    /// This histogram starts anew.
    Reset,
    /// No reset happened.
    NotReset,
    /// A gauge histogram: resets have no meaning.
    Gauge,
}

/// A run of consecutive buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// Gap to the previous span's end (for the first span: the first bucket's index).
    pub offset: i32,
    /// How many buckets.
    pub length: u32,
}

/// Bucket populations.
#[derive(Debug, Clone, PartialEq)]
pub enum Buckets {
    /// Integer counts; a bucket is the difference to the bucket before it on the same side.
    Int {
        /// Observations in all.
        count: u64,
        /// Observations in the zero bucket.
        zero_count: u64,
        /// Deltas of the positive side, one for each bucket of the spans.
        positive: Vec<i64>,
        /// Deltas of the negative side.
        negative: Vec<i64>,
    },
    /// Float counts, absolute.
    Float {
        /// Observations in all.
        count: f64,
        /// Observations in the zero bucket.
        zero_count: f64,
        /// Counts of the positive side, one for each bucket of the spans.
        positive: Vec<f64>,
        /// Counts of the negative side.
        negative: Vec<f64>,
    },
}

/// A native histogram sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// What is known of counter resets.
    pub counter_reset_hint: CounterResetHint,
    /// -4..=8 for exponential buckets, [`CUSTOM_BUCKETS_SCHEMA`] for custom ones.
    pub schema: i32,
    /// Half width of the zero bucket.
    pub zero_threshold: f64,
    /// Sum of the observations; a staleness marker here ends the series.
    pub sum: f64,
    /// Runs of populated buckets, positive side (the only side of custom buckets).
    pub positive_spans: Vec<Span>,
    /// Runs of populated buckets, negative side.
    pub negative_spans: Vec<Span>,
    /// Upper bounds of custom buckets, ascending, without +Inf; empty for other schemas.
    pub custom_values: Vec<f64>,
    /// The populations.
    pub buckets: Buckets,
}

impl Histogram {
    /// A float histogram whose sum is the staleness marker.
    pub fn stale() -> Histogram {
        Histogram {
            counter_reset_hint: CounterResetHint::Unknown,
            schema: 0,
            zero_threshold: 0.0,
            sum: crate::stale_nan(),
            positive_spans: Vec::new(),
            negative_spans: Vec::new(),
            custom_values: Vec::new(),
            buckets: Buckets::Float {
                count: 0.0,
                zero_count: 0.0,
                positive: Vec::new(),
                negative: Vec::new(),
            },
        }
    }

    /// Whether this sample ends its series.
    pub fn is_stale(&self) -> bool {
        crate::is_stale(self.sum)
    }

    /// Observations in all, as a float.
    pub fn count(&self) -> f64 {
        match &self.buckets {
            Buckets::Int { count, .. } => *count as f64,
            Buckets::Float { count, .. } => *count,
        }
    }

    /// Whether the parts fit together: a schema that exists, one population for each bucket of the
    /// spans, spans in order, no negative population, custom bounds ascending and only where they belong.
    ///
    /// Source: Prometheus `model/histogram/histogram.go`, `Validate`, less its comparison of sums.
    pub fn is_well_formed(&self) -> bool {
        let (positive_fits, negative_fits) = match &self.buckets {
            Buckets::Int { positive, negative, .. } => (
                spans_fit(&self.positive_spans, positive.len()) && deltas_stay_positive(positive),
                spans_fit(&self.negative_spans, negative.len()) && deltas_stay_positive(negative),
            ),
            Buckets::Float { positive, negative, .. } => (
                spans_fit(&self.positive_spans, positive.len()) && !positive.iter().any(|count| *count < 0.0),
                spans_fit(&self.negative_spans, negative.len()) && !negative.iter().any(|count| *count < 0.0),
            ),
        };
        positive_fits && negative_fits && self.schema_fits()
    }

    fn schema_fits(&self) -> bool {
        if self.schema != CUSTOM_BUCKETS_SCHEMA {
            return (-4..=8).contains(&self.schema) && self.custom_values.is_empty();
        }
        let last = self
            .positive_spans
            .iter()
            .map(|span| i64::from(span.offset) + i64::from(span.length))
            .sum::<i64>();
        self.custom_values.is_sorted_by(|a, b| a < b)
            && self.custom_values.iter().all(|bound| bound.is_finite())
            && self.negative_spans.is_empty()
            && self.positive_spans.first().is_none_or(|span| span.offset >= 0)
            && last <= self.custom_values.len() as i64 + 1
    }
}

fn spans_fit(spans: &[Span], buckets: usize) -> bool {
    let in_order = spans.iter().skip(1).all(|span| span.offset >= 0);
    in_order && spans.iter().map(|span| u64::from(span.length)).sum::<u64>() == buckets as u64
}

fn deltas_stay_positive(deltas: &[i64]) -> bool {
    let mut count = 0i64;
    deltas.iter().all(|delta| match count.checked_add(*delta) {
        Some(next) => {
            count = next;
            next >= 0
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(list: &[(i32, u32)]) -> Vec<Span> {
        list.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect()
    }

    fn int(positive_spans: &[(i32, u32)], positive: &[i64]) -> Histogram {
        let (positive, negative) = (positive.to_vec(), Vec::new());
        let buckets = Buckets::Int { count: 0, zero_count: 0, positive, negative };
        Histogram { positive_spans: spans(positive_spans), buckets, ..Histogram::stale() }
    }

    fn float(negative_spans: &[(i32, u32)], negative: &[f64]) -> Histogram {
        let (positive, negative) = (Vec::new(), negative.to_vec());
        let buckets = Buckets::Float { count: 0.0, zero_count: 0.0, positive, negative };
        Histogram { negative_spans: spans(negative_spans), buckets, ..Histogram::stale() }
    }

    fn custom(positive_spans: &[(i32, u32)], positive: &[i64], bounds: &[f64]) -> Histogram {
        let schema = CUSTOM_BUCKETS_SCHEMA;
        Histogram { schema, custom_values: bounds.to_vec(), ..int(positive_spans, positive) }
    }

    #[test]
    fn parts_must_fit_together() {
        for (histogram, want) in [
            (Histogram::stale(), true),
            (int(&[(-3, 2), (1, 1)], &[5, -5, 1]), true),
            (int(&[(-3, 2)], &[5]), false),
            (int(&[], &[5]), false),
            (int(&[(0, 1), (-1, 1)], &[1, 1]), false),
            (int(&[(0, 2)], &[1, -2]), false),
            (int(&[(0, 2)], &[i64::MAX, 1]), false),
            (float(&[(0, 2)], &[0.5, 0.0]), true),
            (float(&[(0, 2)], &[0.5, -0.1]), false),
            (float(&[(0, u32::MAX), (0, u32::MAX)], &[0.5]), false),
            (Histogram { schema: 8, ..Histogram::stale() }, true),
            (Histogram { schema: 9, ..Histogram::stale() }, false),
            (Histogram { schema: -5, ..Histogram::stale() }, false),
            (Histogram { custom_values: vec![1.0], ..Histogram::stale() }, false),
            (custom(&[(0, 1), (1, 1)], &[1, 1], &[1.0, 2.0]), true),
            (custom(&[(0, 4)], &[1, 1, 1, 1], &[1.0, 2.0]), false),
            (custom(&[(-1, 1)], &[1], &[1.0, 2.0]), false),
            (custom(&[(0, 1)], &[1], &[2.0, 2.0]), false),
            (custom(&[(0, 1)], &[1], &[1.0, f64::INFINITY]), false),
            (Histogram { negative_spans: spans(&[(0, 0)]), ..custom(&[(0, 1)], &[1], &[1.0]) }, false),
        ] {
            assert_eq!(histogram.is_well_formed(), want, "{histogram:?}");
        }
    }
}
