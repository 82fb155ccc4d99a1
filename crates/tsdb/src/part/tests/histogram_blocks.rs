//! Blocks of histograms, in both forms.

use model::histogram::{Buckets, CounterResetHint};

use super::super::histogram_columns::{decode_block, encode_block};
use super::*;

fn exact(histogram: &Histogram) -> Vec<u8> {
    let mut bytes = Vec::new();
    histograms::encode_histogram(histogram, None, &mut bytes);
    bytes
}

/// What a block gives back of rows `wanted`, as bytes, and how long it is.
fn check(rows: &[Histogram], wanted: std::ops::Range<usize>) -> usize {
    let mut block = Vec::new();
    encode_block(&rows.iter().collect::<Vec<_>>(), &mut block);
    let mut found = Vec::new();
    decode_block(&block, rows.len(), wanted.clone(), |row, histogram| found.push((row, exact(&histogram))))
        .unwrap();
    let truth: Vec<_> = wanted.map(|row| (row, exact(&rows[row]))).collect();
    assert!(found == truth, "{rows:?}");
    block.len()
}

/// A well-formed histogram whose buckets have these indexes and counts.
fn of_buckets(schema: i32, buckets: &BTreeMap<i32, u64>, float: bool) -> Histogram {
    let (mut spans, mut counts): (Vec<Span>, Vec<u64>) = (Vec::new(), Vec::new());
    let mut next = 0;
    for (index, count) in buckets {
        match spans.last_mut() {
            Some(span) if *index == next => span.length += 1,
            _ => spans.push(Span { offset: index - next, length: 1 }),
        }
        next = index + 1;
        counts.push(*count);
    }
    let count = counts.iter().sum::<u64>() + 3;
    let mut before = 0;
    let mut delta = |count: &u64| *count as i64 - std::mem::replace(&mut before, *count as i64);
    let buckets = if float {
        let positive = counts.iter().map(|count| *count as f64 / 2.0).collect();
        Buckets::Float { count: count as f64 / 2.0, zero_count: 1.5, positive, negative: Vec::new() }
    } else {
        let positive = counts.iter().map(&mut delta).collect();
        Buckets::Int { count, zero_count: 3, positive, negative: Vec::new() }
    };
    Histogram {
        counter_reset_hint: CounterResetHint::Unknown,
        schema,
        zero_threshold: 1e-128,
        sum: count as f64 * 0.173,
        positive_spans: spans,
        negative_spans: Vec::new(),
        custom_values: Vec::new(),
        buckets,
    }
}

/// Rows of a counter that grows, finds new buckets, starts anew, changes its schema, its kind or its hint,
/// and goes stale.
fn rows() -> impl Strategy<Value = Vec<Histogram>> {
    let step = (0..100u8, -20..20i32, 0..5u64, any::<bool>());
    prop::collection::vec(step, 1..240).prop_map(|steps| {
        let (mut schema, mut buckets, mut float) = (3, BTreeMap::from([(0, 1u64), (1, 2)]), false);
        let mut hint = CounterResetHint::Unknown;
        let mut rows = Vec::new();
        for (kind, index, more, mirrored) in steps {
            match kind {
                0 => buckets = BTreeMap::from([(index, more)]),
                1 => schema = index.clamp(-4, 8),
                2 => float = !float,
                3..10 => hint = [CounterResetHint::Unknown, CounterResetHint::Gauge][usize::from(mirrored)],
                10..12 => {
                    rows.push(Histogram::stale());
                    continue;
                }
                12..20 => drop(buckets.insert(index, more)),
                _ => buckets.values_mut().for_each(|count| *count += more),
            }
            let mut histogram = of_buckets(schema, &buckets, float);
            histogram.counter_reset_hint = hint;
            if mirrored {
                histogram.negative_spans = histogram.positive_spans.clone();
                match &mut histogram.buckets {
                    Buckets::Int { positive, negative, .. } => negative.clone_from(positive),
                    Buckets::Float { positive, negative, .. } => negative.clone_from(positive),
                }
            }
            rows.push(histogram);
        }
        rows
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn histograms_that_make_sense_come_back_bit_for_bit(rows in rows(), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
        check(&rows, 0..rows.len());
        let (a, b) = (a.index(rows.len()), b.index(rows.len()));
        check(&rows, a.min(b)..a.max(b));
    }

    #[test]
    fn histograms_that_make_no_sense_come_back_bit_for_bit(rows in prop::collection::vec(histogram(), 1..12), repeat in 1..4usize) {
        let rows: Vec<Histogram> = rows.into_iter().flat_map(|row| std::iter::repeat_n(row, repeat)).collect();
        check(&rows, 0..rows.len());
    }

    #[test]
    fn a_changed_block_is_an_error_or_something_else(rows in rows(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut block = Vec::new();
        encode_block(&rows.iter().collect::<Vec<_>>(), &mut block);
        let at = at.index(block.len());
        block[at] ^= 1 << bit;
        // The checksum of the page around it tells which; here nothing may panic or grow without bound.
        let mut found = 0;
        let _ = decode_block(&block, rows.len(), 0..rows.len(), |_, _| found += 1);
        prop_assert!(found <= rows.len());
    }
}

#[test]
fn buckets_that_come_later_share_the_columns() {
    let mut buckets = BTreeMap::from([(0, 0u64), (5, 0)]);
    let mut grow = |row: i32, finds: bool| {
        buckets.values_mut().for_each(|count| *count += 1);
        if finds && row % 30 == 0 {
            buckets.insert(row / 10, 0);
        }
        of_buckets(3, &buckets, false)
    };
    let growing: Vec<Histogram> = (1..=240).map(|row| grow(row, true)).collect();
    let steady: Vec<Histogram> = (241..=480).map(|row| grow(row, false)).collect();
    let (growing, steady) = (check(&growing, 0..240), check(&steady, 0..240));
    assert!(growing < steady + 400, "{growing} bytes while new buckets come, {steady} without");
}

#[test]
fn a_column_for_each_bucket_takes_few_bytes() {
    // A gauge in the form of the exposition formats would be differences; a steady counter is bits.
    let mut buckets: BTreeMap<i32, u64> = (0..40).map(|index| (index, 1000)).collect();
    let mut dice = 1u64;
    let rows: Vec<Histogram> = (0..240)
        .map(|_| {
            for count in buckets.values_mut() {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *count += dice >> 62;
            }
            of_buckets(3, &buckets, false)
        })
        .collect();
    let in_rows: usize = {
        let mut bytes = Vec::new();
        for pair in rows.windows(2) {
            histograms::encode_histogram(&pair[1], Some(&pair[0]), &mut bytes);
        }
        bytes.len()
    };
    let in_columns = check(&rows, 0..240);
    assert!(in_columns * 3 < in_rows, "{in_columns} bytes in columns, {in_rows} in rows");
}
