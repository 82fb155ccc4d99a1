//! Between the stored form (spans, maybe integer deltas) and the computed one.

use std::sync::Arc;

use model::Histogram;
use model::histogram::{Buckets, Span};

use super::FloatHistogram;

/// Schemas above 8 are read as 8.
const SCHEMA_MAX: i32 = 8;

impl From<&Histogram> for FloatHistogram {
    fn from(stored: &Histogram) -> FloatHistogram {
        let (count, zero_count, positive, negative) = match &stored.buckets {
            Buckets::Int { count, zero_count, positive, negative } => (
                *count as f64,
                *zero_count as f64,
                indexed(&stored.positive_spans, running(positive)),
                indexed(&stored.negative_spans, running(negative)),
            ),
            Buckets::Float { count, zero_count, positive, negative } => (
                *count,
                *zero_count,
                indexed(&stored.positive_spans, positive.iter().copied()),
                indexed(&stored.negative_spans, negative.iter().copied()),
            ),
        };
        let mut histogram = FloatHistogram {
            counter_reset_hint: stored.counter_reset_hint,
            schema: stored.schema,
            zero_threshold: stored.zero_threshold,
            zero_count,
            count,
            sum: stored.sum,
            positive,
            negative,
            custom_values: Arc::from(stored.custom_values.as_slice()),
        };
        if histogram.schema > SCHEMA_MAX {
            histogram.reduce_to(SCHEMA_MAX);
        }
        histogram
    }
}

/// Counts from deltas.
fn running(deltas: &[i64]) -> impl Iterator<Item = f64> + '_ {
    deltas.iter().scan(0i64, |count, delta| {
        *count = count.wrapping_add(*delta);
        Some(*count as f64)
    })
}

fn indexed(spans: &[Span], counts: impl Iterator<Item = f64>) -> Vec<(i32, f64)> {
    let mut next = 0i32;
    let indexes = spans.iter().flat_map(move |span| {
        let first = next.wrapping_add(span.offset);
        next = first.wrapping_add(span.length as i32);
        (0..span.length).map(move |i| first.wrapping_add(i as i32))
    });
    indexes.zip(counts).collect()
}

impl From<&FloatHistogram> for Histogram {
    /// The stored form with float counts.
    fn from(computed: &FloatHistogram) -> Histogram {
        Histogram {
            counter_reset_hint: computed.counter_reset_hint,
            schema: computed.schema,
            zero_threshold: computed.zero_threshold,
            sum: computed.sum,
            positive_spans: spans(&computed.positive),
            negative_spans: spans(&computed.negative),
            custom_values: computed.custom_values.to_vec(),
            buckets: Buckets::Float {
                count: computed.count,
                zero_count: computed.zero_count,
                positive: computed.positive.iter().map(|b| b.1).collect(),
                negative: computed.negative.iter().map(|b| b.1).collect(),
            },
        }
    }
}

fn spans(buckets: &[(i32, f64)]) -> Vec<Span> {
    let mut out: Vec<Span> = Vec::new();
    let mut next = 0;
    for (index, _) in buckets {
        match out.last_mut() {
            Some(span) if *index == next => span.length += 1,
            _ => out.push(Span { offset: index - next, length: 1 }),
        }
        next = index + 1;
    }
    out
}
