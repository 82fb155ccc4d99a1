//! Native histograms of a request, the same message in both versions.

use model::Histogram;
use model::histogram::{Buckets, CUSTOM_BUCKETS_SCHEMA, CounterResetHint, Span};

use super::proto::{DecodeError, Fields, Value, Writer, unzigzag, zigzag};

/// Most buckets, spans or custom bounds a histogram may have on a side.
const BUCKETS_MAX: usize = 1 << 16;

/// A histogram sample.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSample {
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The histogram.
    pub histogram: Histogram,
    /// Start timestamp, milliseconds since the Unix epoch; 0 when there is none. 2.0 only.
    pub start_timestamp_ms: i64,
}

/// A histogram that makes no sense. Only this sample is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// The message is not protobuf.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Not a schema we store.
    #[error("histogram schema {0} is neither in -4 to 8 nor -53")]
    Schema(i32),
    /// The spans tell of another number of buckets than there are.
    #[error("histogram has {buckets} buckets on the {side} side, but its spans need {spanned}")]
    SpanMismatch {
        /// `positive` or `negative`.
        side: &'static str,
        /// Buckets there are.
        buckets: usize,
        /// Buckets the spans need.
        spanned: u64,
    },
    /// A span other than the first goes backwards.
    #[error("histogram has a negative offset in span {span} on the {side} side")]
    NegativeOffset {
        /// `positive` or `negative`.
        side: &'static str,
        /// Number of the span, from 1.
        span: usize,
    },
    /// A bucket holds less than nothing.
    #[error("histogram has a negative count in bucket {bucket} on the {side} side")]
    NegativeCount {
        /// `positive` or `negative`.
        side: &'static str,
        /// Number of the bucket, from 1.
        bucket: usize,
    },
    /// The buckets hold more (or, for sums that are numbers, other) than the count says.
    #[error("histogram has {counted} observations in its buckets, but its count is {count}")]
    CountMismatch {
        /// In the buckets.
        counted: String,
        /// As stated.
        count: String,
    },
    /// Custom buckets whose bounds are not ascending, not numbers, or do not reach as far as the spans.
    #[error("histogram has custom bounds that are not ascending finite numbers, or too few of them")]
    CustomBounds,
    /// Custom buckets know no zero bucket and no negative side; other schemas no custom bounds.
    #[error("histogram mixes custom and exponential buckets")]
    Mixed,
}

/// A histogram that has not been decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct HistogramMessage<'a>(pub(super) &'a [u8]);

#[derive(Default)]
struct Side {
    spans: Vec<Span>,
    deltas: Vec<i64>,
    counts: Vec<f64>,
}

impl HistogramMessage<'_> {
    /// Decodes it and checks that it makes sense ([`validate_histogram`]).
    ///
    /// # Errors
    /// [`HistogramError`]; memory grows with the message, not with what it claims.
    pub fn decode(&self) -> Result<HistogramSample, HistogramError> {
        let sample = self.decode_unchecked()?;
        validate_histogram(&sample.histogram)?;
        Ok(sample)
    }

    fn decode_unchecked(&self) -> Result<HistogramSample, DecodeError> {
        let (mut positive, mut negative) = (Side::default(), Side::default());
        let mut histogram = Histogram { sum: 0.0, ..Histogram::stale() };
        let (mut count, mut zero_count) = (0, 0);
        let (mut count_float, mut zero_count_float) = (None, None);
        let (mut timestamp_ms, mut start_timestamp_ms) = (0, 0);
        let mut fields = Fields::of(self.0, "Histogram");
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => (count, count_float) = (value.uint64(&fields)?, None),
                2 => count_float = Some(value.double(&fields)?),
                3 => histogram.sum = value.double(&fields)?,
                4 => histogram.schema = value.sint32(&fields)?,
                5 => histogram.zero_threshold = value.double(&fields)?,
                6 => (zero_count, zero_count_float) = (value.uint64(&fields)?, None),
                7 => zero_count_float = Some(value.double(&fields)?),
                8 | 11 => {
                    let side = if field == 8 { &mut negative } else { &mut positive };
                    push(&mut side.spans, decode_span(value.bytes(&fields)?)?)?;
                }
                9 => value.repeated_varint(&fields, |delta| push(&mut negative.deltas, zigzag(delta)))?,
                10 => value.repeated_double(&fields, |count| push(&mut negative.counts, count))?,
                12 => value.repeated_varint(&fields, |delta| push(&mut positive.deltas, zigzag(delta)))?,
                13 => value.repeated_double(&fields, |count| push(&mut positive.counts, count))?,
                14 => histogram.counter_reset_hint = reset_hint(value.uint64(&fields)?),
                15 => timestamp_ms = value.int64(&fields)?,
                16 => value.repeated_double(&fields, |bound| push(&mut histogram.custom_values, bound))?,
                17 => start_timestamp_ms = value.int64(&fields)?,
                _ => {}
            }
        }
        // What the count is decides what the histogram is (Prometheus `IsFloatHistogram`).
        histogram.buckets = match count_float {
            Some(count) => Buckets::Float {
                count,
                zero_count: zero_count_float.unwrap_or_default(),
                positive: positive.counts,
                negative: negative.counts,
            },
            None => Buckets::Int { count, zero_count, positive: positive.deltas, negative: negative.deltas },
        };
        histogram.positive_spans = positive.spans;
        histogram.negative_spans = negative.spans;
        Ok(HistogramSample { timestamp_ms, histogram, start_timestamp_ms })
    }
}

fn push<T>(values: &mut Vec<T>, value: T) -> Result<(), DecodeError> {
    if values.len() == BUCKETS_MAX {
        return Err(DecodeError::TooMany {
            message: "Histogram",
            what: "buckets, spans or bounds",
            max: BUCKETS_MAX,
        });
    }
    values.push(value);
    Ok(())
}

fn decode_span(message: &[u8]) -> Result<Span, DecodeError> {
    let mut span = Span { offset: 0, length: 0 };
    let mut fields = Fields::of(message, "BucketSpan");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => span.offset = Value::sint32(value, &fields)?,
            2 => span.length = value.uint32(&fields)?,
            _ => {}
        }
    }
    Ok(span)
}

fn reset_hint(number: u64) -> CounterResetHint {
    match number {
        1 => CounterResetHint::Reset,
        2 => CounterResetHint::NotReset,
        3 => CounterResetHint::Gauge,
        _ => CounterResetHint::Unknown,
    }
}

/// Whether a histogram makes sense: schema, spans against buckets, counts, custom bounds.
///
/// # Errors
/// [`HistogramError`], the first thing found.
///
/// Source: Prometheus `model/histogram`, `Validate`.
pub fn validate_histogram(histogram: &Histogram) -> Result<(), HistogramError> {
    let is_custom = histogram.schema == CUSTOM_BUCKETS_SCHEMA;
    if !is_custom && !(-4..=8).contains(&histogram.schema) {
        return Err(HistogramError::Schema(histogram.schema));
    }
    let (positive, negative) = match &histogram.buckets {
        Buckets::Int { positive, negative, .. } => (positive.len(), negative.len()),
        Buckets::Float { positive, negative, .. } => (positive.len(), negative.len()),
    };
    check_spans("positive", &histogram.positive_spans, positive)?;
    check_spans("negative", &histogram.negative_spans, negative)?;
    if is_custom {
        check_custom(histogram, negative)?;
    } else if !histogram.custom_values.is_empty() {
        return Err(HistogramError::Mixed);
    }
    check_counts(histogram)
}

fn check_spans(side: &'static str, spans: &[Span], buckets: usize) -> Result<(), HistogramError> {
    if let Some(at) = spans.iter().skip(1).position(|span| span.offset < 0) {
        return Err(HistogramError::NegativeOffset { side, span: at + 2 });
    }
    let spanned = spans.iter().map(|span| u64::from(span.length)).sum();
    if spanned != buckets as u64 {
        return Err(HistogramError::SpanMismatch { side, buckets, spanned });
    }
    Ok(())
}

fn check_custom(histogram: &Histogram, negative: usize) -> Result<(), HistogramError> {
    let has_zero = match &histogram.buckets {
        Buckets::Int { zero_count, .. } => *zero_count != 0,
        Buckets::Float { zero_count, .. } => *zero_count != 0.0,
    };
    let has_negative = negative > 0 || !histogram.negative_spans.is_empty();
    if has_zero || has_negative || histogram.zero_threshold != 0.0 {
        return Err(HistogramError::Mixed);
    }
    let bounds = &histogram.custom_values;
    let ascending =
        bounds.windows(2).all(|two| two[0] < two[1]) && bounds.iter().all(|bound| bound.is_finite());
    let end: i64 =
        histogram.positive_spans.iter().map(|span| i64::from(span.offset) + i64::from(span.length)).sum();
    let starts_below = histogram.positive_spans.first().is_some_and(|span| span.offset < 0);
    // The bucket behind the last bound is the one up to +Inf.
    if !ascending || starts_below || end > bounds.len() as i64 + 1 {
        return Err(HistogramError::CustomBounds);
    }
    Ok(())
}

fn check_counts(histogram: &Histogram) -> Result<(), HistogramError> {
    match &histogram.buckets {
        Buckets::Int { count, zero_count, positive, negative } => {
            let counted = u128::from(*zero_count)
                + counted_of("positive", positive)?
                + counted_of("negative", negative)?;
            // Observations of NaN are in no bucket.
            let agrees = if histogram.sum.is_nan() {
                counted <= u128::from(*count)
            } else {
                counted == u128::from(*count)
            };
            if agrees {
                return Ok(());
            }
            Err(HistogramError::CountMismatch { counted: counted.to_string(), count: count.to_string() })
        }
        Buckets::Float { count, zero_count, positive, negative } => {
            for (side, counts) in [("positive", positive), ("negative", negative)] {
                if let Some(at) = counts.iter().position(|count| *count < 0.0) {
                    return Err(HistogramError::NegativeCount { side, bucket: at + 1 });
                }
            }
            let bad = |value: f64| value < 0.0;
            if bad(*count) || bad(*zero_count) {
                return Err(HistogramError::CountMismatch {
                    counted: zero_count.to_string(),
                    count: count.to_string(),
                });
            }
            Ok(())
        }
    }
}

/// Observations on a side with these deltas.
fn counted_of(side: &'static str, deltas: &[i64]) -> Result<u128, HistogramError> {
    let (mut sum, mut current) = (0u128, 0i128);
    for (at, delta) in deltas.iter().enumerate() {
        current += i128::from(*delta);
        let count =
            u128::try_from(current).map_err(|_| HistogramError::NegativeCount { side, bucket: at + 1 })?;
        sum += count;
    }
    Ok(sum)
}

/// Writes the fields of a histogram message; times are milliseconds, the start 0 where there is none.
pub(crate) fn write_histogram(
    out: &mut Writer,
    histogram: &Histogram,
    timestamp_ms: i64,
    start_timestamp_ms: i64,
) {
    match &histogram.buckets {
        Buckets::Int { count, .. } => out.uint_always(1, *count),
        Buckets::Float { count, .. } => out.double_always(2, *count),
    }
    out.double(3, histogram.sum);
    out.sint(4, i64::from(histogram.schema));
    out.double(5, histogram.zero_threshold);
    match &histogram.buckets {
        Buckets::Int { zero_count, .. } => out.uint_always(6, *zero_count),
        Buckets::Float { zero_count, .. } => out.double_always(7, *zero_count),
    }
    let spans = |out: &mut Writer, field: u32, spans: &[Span]| {
        for span in spans {
            out.message(field, |out| {
                out.sint(1, i64::from(span.offset));
                out.uint(2, u64::from(span.length));
            });
        }
    };
    spans(out, 8, &histogram.negative_spans);
    match &histogram.buckets {
        Buckets::Int { negative, .. } => out.packed(9, negative.iter().map(|delta| unzigzag(*delta))),
        Buckets::Float { negative, .. } => out.packed_doubles(10, negative),
    }
    spans(out, 11, &histogram.positive_spans);
    match &histogram.buckets {
        Buckets::Int { positive, .. } => out.packed(12, positive.iter().map(|delta| unzigzag(*delta))),
        Buckets::Float { positive, .. } => out.packed_doubles(13, positive),
    }
    let hint = match histogram.counter_reset_hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::Reset => 1,
        CounterResetHint::NotReset => 2,
        CounterResetHint::Gauge => 3,
    };
    out.uint(14, hint);
    out.int(15, timestamp_ms);
    out.packed_doubles(16, &histogram.custom_values);
    out.int(17, start_timestamp_ms);
}
