//! Native histograms as bytes, bit for bit, each as its difference to the one before.
//!
//! ```text
//! histogram: head u8 │ [layout] │ sum varint (bits xor those before) │ counts
//! head:      bit 0 same layout as before │ bit 1 float counts │ bits 2-3 counter reset hint
//! layout:    schema zigzag │ zero threshold u64 │ spans + │ spans - │ n varint, n × custom bound u64
//! spans:     n varint, n × (offset zigzag, length varint)
//! counts:    count, zero count │ n varint, n × bucket + │ n varint, n × bucket -
//! ```
//!
//! A count is the difference to the same count of the histogram before (integers: zigzag of the
//! wrapping difference, floats: xor of the bits), which is 0 where there is none.

use model::Histogram;
use model::histogram::{Buckets, CounterResetHint, Span};
use stdx::bytes::{Cursor, put_varint, put_zigzag};

use crate::codec::CodecError;

const SAME_LAYOUT: u8 = 1;
const FLOAT: u8 = 2;

/// Appends `histogram` to `out`, as the difference to `previous`.
pub(crate) fn encode_histogram(histogram: &Histogram, previous: Option<&Histogram>, out: &mut Vec<u8>) {
    let same = previous.is_some_and(|p| same_layout(p, histogram));
    let float = matches!(histogram.buckets, Buckets::Float { .. });
    let hint = hint_code(histogram.counter_reset_hint);
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
    put_varint(out, histogram.sum.to_bits() ^ previous.map_or(0, |p| p.sum.to_bits()));
    match &histogram.buckets {
        Buckets::Int { count, zero_count, positive, negative } => {
            let (before_count, before_zero, before_positive, before_negative): (u64, u64, &[i64], &[i64]) =
                match previous.map(|p| &p.buckets) {
                    Some(Buckets::Int { count, zero_count, positive, negative }) => {
                        (*count, *zero_count, positive, negative)
                    }
                    _ => (0, 0, &[], &[]),
                };
            put_zigzag(out, count.wrapping_sub(before_count) as i64);
            put_zigzag(out, zero_count.wrapping_sub(before_zero) as i64);
            for (side, before) in [(positive, before_positive), (negative, before_negative)] {
                put_varint(out, side.len() as u64);
                for (at, bucket) in side.iter().enumerate() {
                    put_zigzag(out, bucket.wrapping_sub(before.get(at).copied().unwrap_or(0)));
                }
            }
        }
        Buckets::Float { count, zero_count, positive, negative } => {
            let (before_count, before_zero, before_positive, before_negative) = floats_of(previous);
            put_varint(out, count.to_bits() ^ before_count.to_bits());
            put_varint(out, zero_count.to_bits() ^ before_zero.to_bits());
            for (side, before) in [(positive, before_positive), (negative, before_negative)] {
                put_varint(out, side.len() as u64);
                for (at, bucket) in side.iter().enumerate() {
                    put_varint(out, bucket.to_bits() ^ before.get(at).map_or(0, |b| b.to_bits()));
                }
            }
        }
    }
}

/// A counter reset hint as two bits.
pub(super) fn hint_code(hint: CounterResetHint) -> u8 {
    match hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::Reset => 1,
        CounterResetHint::NotReset => 2,
        CounterResetHint::Gauge => 3,
    }
}

/// The counter reset hint that [`hint_code`] made two bits of.
pub(super) fn hint_of(code: u8) -> Result<CounterResetHint, CodecError> {
    match code {
        0 => Ok(CounterResetHint::Unknown),
        1 => Ok(CounterResetHint::Reset),
        2 => Ok(CounterResetHint::NotReset),
        3 => Ok(CounterResetHint::Gauge),
        _ => Err(CodecError::Malformed("a histogram has an unknown head")),
    }
}

fn floats_of(previous: Option<&Histogram>) -> (f64, f64, &[f64], &[f64]) {
    match previous.map(|p| &p.buckets) {
        Some(Buckets::Float { count, zero_count, positive, negative }) => {
            (*count, *zero_count, positive, negative)
        }
        _ => (0.0, 0.0, &[], &[]),
    }
}

fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && a.custom_values.iter().map(|v| v.to_bits()).eq(b.custom_values.iter().map(|v| v.to_bits()))
}

pub(super) fn put_spans(spans: &[Span], out: &mut Vec<u8>) {
    put_varint(out, spans.len() as u64);
    for span in spans {
        put_zigzag(out, i64::from(span.offset));
        put_varint(out, u64::from(span.length));
    }
}

/// Reads what [`encode_histogram`] wrote after `previous`.
pub(crate) fn decode_histogram(
    reader: &mut Cursor<'_>,
    previous: Option<&Histogram>,
) -> Result<Histogram, CodecError> {
    let head = reader.byte()?;
    let counter_reset_hint = hint_of(head >> 2)?;
    let mut histogram = if head & SAME_LAYOUT != 0 {
        let before = previous.ok_or(CodecError::Malformed("the first histogram refers to one before"))?;
        Histogram {
            positive_spans: before.positive_spans.clone(),
            negative_spans: before.negative_spans.clone(),
            custom_values: before.custom_values.clone(),
            ..empty(before.schema, before.zero_threshold)
        }
    } else {
        read_layout(reader)?
    };
    histogram.counter_reset_hint = counter_reset_hint;
    histogram.sum = f64::from_bits(reader.varint()? ^ previous.map_or(0, |p| p.sum.to_bits()));
    histogram.buckets =
        if head & FLOAT != 0 { read_floats(reader, previous)? } else { read_ints(reader, previous)? };
    Ok(histogram)
}

fn empty(schema: i32, zero_threshold: f64) -> Histogram {
    Histogram { schema, zero_threshold, ..Histogram::stale() }
}

fn read_layout(reader: &mut Cursor<'_>) -> Result<Histogram, CodecError> {
    let schema = i32::try_from(reader.zigzag()?)
        .map_err(|_| CodecError::Malformed("a schema has more than 32 bits"))?;
    let zero_threshold = f64::from_bits(reader.u64_le()?);
    let mut histogram = empty(schema, zero_threshold);
    histogram.positive_spans = read_spans(reader)?;
    histogram.negative_spans = read_spans(reader)?;
    histogram.custom_values = read_bounds(reader)?;
    Ok(histogram)
}

pub(super) fn read_bounds(reader: &mut Cursor<'_>) -> Result<Vec<f64>, CodecError> {
    let bounds = reader.at_most(reader.remaining() / 8)?;
    (0..bounds).map(|_| Ok(f64::from_bits(reader.u64_le()?))).collect()
}

pub(super) fn read_spans(reader: &mut Cursor<'_>) -> Result<Vec<Span>, CodecError> {
    const WIDE: CodecError = CodecError::Malformed("a span has more than 32 bits");
    let count = reader.at_most(reader.remaining() / 2)?;
    let span = |reader: &mut Cursor<'_>| {
        let offset = i32::try_from(reader.zigzag()?).map_err(|_| WIDE)?;
        let length = u32::try_from(reader.varint()?).map_err(|_| WIDE)?;
        Ok(Span { offset, length })
    };
    (0..count).map(|_| span(reader)).collect()
}

fn read_ints(reader: &mut Cursor<'_>, previous: Option<&Histogram>) -> Result<Buckets, CodecError> {
    let (before_count, before_zero, before_positive, before_negative): (u64, u64, &[i64], &[i64]) =
        match previous.map(|p| &p.buckets) {
            Some(Buckets::Int { count, zero_count, positive, negative }) => {
                (*count, *zero_count, positive, negative)
            }
            _ => (0, 0, &[], &[]),
        };
    let count = before_count.wrapping_add(reader.zigzag()? as u64);
    let zero_count = before_zero.wrapping_add(reader.zigzag()? as u64);
    let side = |reader: &mut Cursor<'_>, before: &[i64]| {
        let len = reader.at_most(reader.remaining())?;
        let bucket = |at: usize| before.get(at).copied().unwrap_or(0);
        (0..len)
            .map(|at| Ok(bucket(at).wrapping_add(reader.zigzag()?)))
            .collect::<Result<Vec<_>, CodecError>>()
    };
    Ok(Buckets::Int {
        count,
        zero_count,
        positive: side(reader, before_positive)?,
        negative: side(reader, before_negative)?,
    })
}

fn read_floats(reader: &mut Cursor<'_>, previous: Option<&Histogram>) -> Result<Buckets, CodecError> {
    let (before_count, before_zero, before_positive, before_negative) = floats_of(previous);
    let count = f64::from_bits(reader.varint()? ^ before_count.to_bits());
    let zero_count = f64::from_bits(reader.varint()? ^ before_zero.to_bits());
    let side = |reader: &mut Cursor<'_>, before: &[f64]| {
        let len = reader.at_most(reader.remaining())?;
        let bits = |at: usize| before.get(at).map_or(0, |b| b.to_bits());
        (0..len)
            .map(|at| Ok(f64::from_bits(reader.varint()? ^ bits(at))))
            .collect::<Result<Vec<_>, CodecError>>()
    };
    Ok(Buckets::Float {
        count,
        zero_count,
        positive: side(reader, before_positive)?,
        negative: side(reader, before_negative)?,
    })
}
