//! What all histograms of a chunk have in common: resolution, zero bucket, spans, custom bounds.

use model::Histogram;
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, Span};
use stdx::bytes::Malformed;

use crate::bits::{BitReader, BitWriter, get_int, get_uint, put_int, put_uint};

/// Most spans, buckets and custom bounds of a side. Far beyond what Prometheus writes.
const BUCKETS_MAX: u64 = 1 << 16;

/// Largest custom bound, times 1000, that is written as a number.
const SHORT_BOUND_MAX: f64 = 33_554_430.0;

/// The common part.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Layout {
    pub(super) schema: i32,
    pub(super) zero_threshold: f64,
    pub(super) positive_spans: Vec<Span>,
    pub(super) negative_spans: Vec<Span>,
    pub(super) custom_values: Vec<f64>,
}

/// Whether two histograms have the same layout, bit for bit.
pub(super) fn equal(a: &Histogram, b: &Histogram) -> bool {
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && (a.custom_values.is_empty() && b.custom_values.is_empty()
            || bits(&a.custom_values) == bits(&b.custom_values))
}

pub(super) fn put(histogram: &Histogram, out: &mut BitWriter) {
    put_zero_threshold(histogram.zero_threshold, out);
    put_int(out, i64::from(histogram.schema));
    for spans in [&histogram.positive_spans, &histogram.negative_spans] {
        put_uint(out, spans.len() as u64);
        for span in spans {
            put_uint(out, u64::from(span.length));
            put_int(out, i64::from(span.offset));
        }
    }
    if histogram.schema == CUSTOM_BUCKETS_SCHEMA {
        put_uint(out, histogram.custom_values.len() as u64);
        histogram.custom_values.iter().for_each(|bound| put_bound(*bound, out));
    }
}

pub(super) fn get(bits: &mut BitReader<'_>) -> Result<Layout, Malformed> {
    let zero_threshold = get_zero_threshold(bits)?;
    let schema = i32::try_from(get_int(bits)?).map_err(|_| Malformed("a schema is out of range"))?;
    let (positive_spans, negative_spans) = (get_spans(bits)?, get_spans(bits)?);
    let mut custom_values = Vec::new();
    if schema == CUSTOM_BUCKETS_SCHEMA {
        let count = get_uint(bits)?;
        if count > BUCKETS_MAX {
            return Err(Malformed("a histogram has more than 65536 bounds"));
        }
        for _ in 0..count {
            custom_values.push(get_bound(bits)?);
        }
    }
    Ok(Layout { schema, zero_threshold, positive_spans, negative_spans, custom_values })
}

fn get_spans(bits: &mut BitReader<'_>) -> Result<Vec<Span>, Malformed> {
    let count = get_uint(bits)?;
    if count > BUCKETS_MAX {
        return Err(Malformed("a histogram has more than 65536 spans"));
    }
    let (mut spans, mut buckets) = (Vec::new(), 0u64);
    for _ in 0..count {
        let length = get_uint(bits)?;
        buckets = buckets.saturating_add(length);
        if buckets > BUCKETS_MAX {
            return Err(Malformed("a histogram has more than 65536 buckets"));
        }
        let offset = i32::try_from(get_int(bits)?).map_err(|_| Malformed("a span is out of range"))?;
        spans.push(Span { offset, length: length as u32 });
    }
    Ok(spans)
}

/// How many buckets `spans` have.
pub(super) fn buckets(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.length as usize).sum()
}

/// 0 is a byte 0; a power of two from 2^-243 to 2^10 its exponent plus 244; others follow a byte 255.
fn put_zero_threshold(value: f64, out: &mut BitWriter) {
    let bits = value.to_bits();
    // A power of two: no mantissa, no sign.
    let exponent = (bits >> 52) as i64 - 1023;
    if value == 0.0 && value.is_sign_positive() {
        out.put(0, 8);
    } else if bits << 12 == 0 && (-243..=10).contains(&exponent) {
        out.put((exponent + 244) as u64, 8);
    } else {
        out.put(255, 8);
        out.put(bits, 64);
    }
}

fn get_zero_threshold(bits: &mut BitReader<'_>) -> Result<f64, Malformed> {
    Ok(match bits.get(8)? {
        0 => 0.0,
        255 => f64::from_bits(bits.get(64)?),
        byte => f64::from_bits((byte + 1023 - 244) << 52),
    })
}

/// A bound that is a small whole number of thousandths is written as that number plus 1, others as a
/// bit 0 and all of theirs.
fn put_bound(bound: f64, out: &mut BitWriter) {
    let thousandths = bound * 1000.0;
    let short = thousandths.is_sign_positive()
        && (0.0..=SHORT_BOUND_MAX).contains(&thousandths)
        && thousandths.trunc() == thousandths
        // The division that the reader does has to give the very same bits.
        && (thousandths / 1000.0).to_bits() == bound.to_bits();
    if short {
        put_uint(out, thousandths as u64 + 1);
    } else {
        out.put(0, 1);
        out.put(bound.to_bits(), 64);
    }
}

fn get_bound(bits: &mut BitReader<'_>) -> Result<f64, Malformed> {
    match get_uint(bits)? {
        0 => Ok(f64::from_bits(bits.get(64)?)),
        thousandths => Ok((thousandths - 1) as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_thresholds_and_bounds_come_back_bit_for_bit() {
        let powers = (-250..=12).map(|exponent| 2f64.powi(exponent));
        let others = [0.0, -0.0, 0.001, 0.1, 2.9e-39, -1.0, f64::NAN, 33554.43, 33554.431, 0.0005, 1e300];
        for value in powers.chain(others) {
            let mut out = BitWriter::default();
            put_zero_threshold(value, &mut out);
            put_bound(value, &mut out);
            let bytes = out.finish(&[]).to_vec();
            let mut bits = BitReader::new(&bytes);
            assert_eq!(get_zero_threshold(&mut bits).map(f64::to_bits), Ok(value.to_bits()), "{value}");
            assert_eq!(get_bound(&mut bits).map(f64::to_bits), Ok(value.to_bits()), "{value}");
        }
        let mut out = BitWriter::default();
        // The usual one, 2^-128, is 116 (0.5 * 2^-127, exponent plus 243).
        put_zero_threshold(2f64.powi(-128), &mut out);
        assert_eq!(out.finish(&[]), [116]);
    }
}
