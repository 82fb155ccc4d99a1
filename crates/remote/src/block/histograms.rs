//! Native histograms as bytes, bit for bit, each as its difference to the one before of its column.

use model::Histogram;
use model::histogram::{Buckets, CounterResetHint, Span};
use stdx::bytes::{Cursor, put_varint, put_zigzag};

use super::BlockError;

const SAME_LAYOUT: u8 = 1;
const FLOAT: u8 = 2;

/// Appends `histogram`, as the difference to `before`.
pub(crate) fn put_histogram(histogram: &Histogram, before: Option<&Histogram>, out: &mut Vec<u8>) {
    let same = before.is_some_and(|before| same_layout(before, histogram));
    let float = matches!(histogram.buckets, Buckets::Float { .. });
    let hint = match histogram.counter_reset_hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::Reset => 1,
        CounterResetHint::NotReset => 2,
        CounterResetHint::Gauge => 3,
    };
    out.push(if same { SAME_LAYOUT } else { 0 } | if float { FLOAT } else { 0 } | hint << 2);
    if !same {
        put_zigzag(out, i64::from(histogram.schema));
        out.extend_from_slice(&histogram.zero_threshold.to_bits().to_le_bytes());
        put_spans(&histogram.positive_spans, out);
        put_spans(&histogram.negative_spans, out);
        put_varint(out, histogram.custom_values.len() as u64);
        for bound in &histogram.custom_values {
            out.extend_from_slice(&bound.to_bits().to_le_bytes());
        }
    }
    put_float(histogram.sum, before.map_or(0.0, |before| before.sum), out);
    match &histogram.buckets {
        Buckets::Int { count, zero_count, positive, negative } => {
            let (old_count, old_zero, old_positive, old_negative) = ints_of(before);
            put_zigzag(out, count.wrapping_sub(old_count) as i64);
            put_zigzag(out, zero_count.wrapping_sub(old_zero) as i64);
            for (side, old) in [(positive, old_positive), (negative, old_negative)] {
                put_varint(out, side.len() as u64);
                for (at, bucket) in side.iter().enumerate() {
                    put_zigzag(out, bucket.wrapping_sub(old.get(at).copied().unwrap_or(0)));
                }
            }
        }
        Buckets::Float { count, zero_count, positive, negative } => {
            let (old_count, old_zero, old_positive, old_negative) = floats_of(before);
            put_float(*count, old_count, out);
            put_float(*zero_count, old_zero, out);
            for (side, old) in [(positive, old_positive), (negative, old_negative)] {
                put_varint(out, side.len() as u64);
                for (at, bucket) in side.iter().enumerate() {
                    put_float(*bucket, old.get(at).copied().unwrap_or(0.0), out);
                }
            }
        }
    }
}

/// Reads what [`put_histogram`] wrote after `before`.
pub(crate) fn read_histogram(
    cursor: &mut Cursor<'_>,
    before: Option<&Histogram>,
) -> Result<Histogram, BlockError> {
    let head = cursor.byte()?;
    let counter_reset_hint = match head >> 2 {
        0 => CounterResetHint::Unknown,
        1 => CounterResetHint::Reset,
        2 => CounterResetHint::NotReset,
        3 => CounterResetHint::Gauge,
        _ => return Err(BlockError::Malformed("a histogram has an unknown head")),
    };
    let mut histogram = if head & SAME_LAYOUT != 0 {
        let before = before.ok_or(BlockError::Malformed("a histogram refers to none before"))?;
        Histogram {
            schema: before.schema,
            zero_threshold: before.zero_threshold,
            positive_spans: before.positive_spans.clone(),
            negative_spans: before.negative_spans.clone(),
            custom_values: before.custom_values.clone(),
            ..Histogram::stale()
        }
    } else {
        read_layout(cursor)?
    };
    histogram.counter_reset_hint = counter_reset_hint;
    histogram.sum = read_float(cursor, before.map_or(0.0, |before| before.sum))?;
    histogram.buckets =
        if head & FLOAT != 0 { read_floats(cursor, before)? } else { read_ints(cursor, before)? };
    Ok(histogram)
}

/// Floats go as the exclusive-or of their bits, turned round: what differs is in the upper bytes, mostly.
fn put_float(value: f64, before: f64, out: &mut Vec<u8>) {
    put_varint(out, (value.to_bits() ^ before.to_bits()).swap_bytes());
}

fn read_float(cursor: &mut Cursor<'_>, before: f64) -> Result<f64, BlockError> {
    Ok(f64::from_bits(cursor.varint()?.swap_bytes() ^ before.to_bits()))
}

fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && a.custom_values.iter().map(|v| v.to_bits()).eq(b.custom_values.iter().map(|v| v.to_bits()))
}

fn ints_of(histogram: Option<&Histogram>) -> (u64, u64, &[i64], &[i64]) {
    match histogram.map(|histogram| &histogram.buckets) {
        Some(Buckets::Int { count, zero_count, positive, negative }) => {
            (*count, *zero_count, positive, negative)
        }
        _ => (0, 0, &[], &[]),
    }
}

fn floats_of(histogram: Option<&Histogram>) -> (f64, f64, &[f64], &[f64]) {
    match histogram.map(|histogram| &histogram.buckets) {
        Some(Buckets::Float { count, zero_count, positive, negative }) => {
            (*count, *zero_count, positive, negative)
        }
        _ => (0.0, 0.0, &[], &[]),
    }
}

fn put_spans(spans: &[Span], out: &mut Vec<u8>) {
    put_varint(out, spans.len() as u64);
    for span in spans {
        put_zigzag(out, i64::from(span.offset));
        put_varint(out, u64::from(span.length));
    }
}

fn read_layout(cursor: &mut Cursor<'_>) -> Result<Histogram, BlockError> {
    let schema = i32::try_from(cursor.zigzag()?)
        .map_err(|_| BlockError::Malformed("a histogram's schema has more than 32 bits"))?;
    let zero_threshold = f64::from_bits(cursor.u64_le()?);
    let positive_spans = read_spans(cursor)?;
    let negative_spans = read_spans(cursor)?;
    let bounds = cursor.count(8)?;
    let custom_values = (0..bounds).map(|_| cursor.u64_le().map(f64::from_bits)).collect::<Result<_, _>>()?;
    Ok(Histogram {
        schema,
        zero_threshold,
        positive_spans,
        negative_spans,
        custom_values,
        ..Histogram::stale()
    })
}

fn read_spans(cursor: &mut Cursor<'_>) -> Result<Vec<Span>, BlockError> {
    let spans = cursor.count(2)?;
    let span = |cursor: &mut Cursor<'_>| {
        let offset = i32::try_from(cursor.zigzag()?)
            .map_err(|_| BlockError::Malformed("a histogram's span has more than 32 bits"))?;
        Ok(Span { offset, length: cursor.small()? })
    };
    (0..spans).map(|_| span(cursor)).collect()
}

fn read_ints(cursor: &mut Cursor<'_>, before: Option<&Histogram>) -> Result<Buckets, BlockError> {
    let (old_count, old_zero, old_positive, old_negative) = ints_of(before);
    let count = old_count.wrapping_add(cursor.zigzag()? as u64);
    let zero_count = old_zero.wrapping_add(cursor.zigzag()? as u64);
    let side = |cursor: &mut Cursor<'_>, old: &[i64]| {
        let buckets = cursor.count(1)?;
        (0..buckets)
            .map(|at| Ok(old.get(at).copied().unwrap_or(0).wrapping_add(cursor.zigzag()?)))
            .collect::<Result<Vec<_>, BlockError>>()
    };
    let positive = side(cursor, old_positive)?;
    Ok(Buckets::Int { count, zero_count, positive, negative: side(cursor, old_negative)? })
}

fn read_floats(cursor: &mut Cursor<'_>, before: Option<&Histogram>) -> Result<Buckets, BlockError> {
    let (old_count, old_zero, old_positive, old_negative) = floats_of(before);
    let count = read_float(cursor, old_count)?;
    let zero_count = read_float(cursor, old_zero)?;
    let side = |cursor: &mut Cursor<'_>, old: &[f64]| {
        let buckets = cursor.count(1)?;
        (0..buckets)
            .map(|at| read_float(cursor, old.get(at).copied().unwrap_or(0.0)))
            .collect::<Result<Vec<_>, BlockError>>()
    };
    let positive = side(cursor, old_positive)?;
    Ok(Buckets::Float { count, zero_count, positive, negative: side(cursor, old_negative)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn float() -> impl Strategy<Value = f64> {
        prop_oneof![any::<u64>().prop_map(f64::from_bits), (0i64..1000).prop_map(|count| count as f64)]
    }

    fn spans() -> impl Strategy<Value = Vec<Span>> {
        proptest::collection::vec(
            (any::<i32>(), any::<u32>()).prop_map(|(offset, length)| Span { offset, length }),
            0..3,
        )
    }

    fn buckets() -> impl Strategy<Value = Buckets> {
        let side = || proptest::collection::vec(any::<i64>(), 0..5);
        let floats = || proptest::collection::vec(float(), 0..5);
        prop_oneof![
            (any::<u64>(), any::<u64>(), side(), side()).prop_map(
                |(count, zero_count, positive, negative)| Buckets::Int {
                    count,
                    zero_count,
                    positive,
                    negative
                }
            ),
            (float(), float(), floats(), floats()).prop_map(|(count, zero_count, positive, negative)| {
                Buckets::Float { count, zero_count, positive, negative }
            }),
        ]
    }

    fn histogram() -> impl Strategy<Value = Histogram> {
        let hints = [
            CounterResetHint::Unknown,
            CounterResetHint::Reset,
            CounterResetHint::NotReset,
            CounterResetHint::Gauge,
        ];
        (
            proptest::sample::select(hints.to_vec()),
            -60i32..10,
            float(),
            float(),
            spans(),
            spans(),
            proptest::collection::vec(float(), 0..3),
            buckets(),
        )
            .prop_map(
                |(
                    counter_reset_hint,
                    schema,
                    zero_threshold,
                    sum,
                    positive_spans,
                    negative_spans,
                    custom_values,
                    buckets,
                )| {
                    Histogram {
                        counter_reset_hint,
                        schema,
                        zero_threshold,
                        sum,
                        positive_spans,
                        negative_spans,
                        custom_values,
                        buckets,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn histograms_survive_bit_for_bit(mut all in proptest::collection::vec(histogram(), 1..6), same: bool) {
            if same {
                for at in 1..all.len() {
                    let first = all[0].clone();
                    all[at] = Histogram { sum: all[at].sum, buckets: all[at].buckets.clone(), ..first };
                }
            }
            let mut out = Vec::new();
            let mut before = None;
            for histogram in &all {
                put_histogram(histogram, before, &mut out);
                before = Some(histogram);
            }
            let mut cursor = Cursor::new(&out);
            let mut before: Option<Histogram> = None;
            for histogram in &all {
                let back = read_histogram(&mut cursor, before.as_ref()).unwrap();
                // NaN differs from itself: compare what is printed of the bits.
                let mut again = Vec::new();
                put_histogram(&back, None, &mut again);
                let mut wanted = Vec::new();
                put_histogram(histogram, None, &mut wanted);
                prop_assert_eq!(again, wanted);
                before = Some(back);
            }
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn nonsense_is_refused_or_read_but_never_panics(bytes: Vec<u8>) {
            _ = read_histogram(&mut Cursor::new(&bytes), None);
        }
    }
}
