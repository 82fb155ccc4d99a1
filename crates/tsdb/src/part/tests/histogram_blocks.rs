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

/// Rows 15 s apart of a histogram of 40 buckets with so many observations a second, from a bell of
/// durations around 0.1 s.
fn observed(a_second: f64) -> Vec<Histogram> {
    let mut dice = 7u64;
    let mut uniform = move || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut buckets: BTreeMap<i32, u64> = (-35..5).map(|index| (index, 0)).collect();
    let (mut sum, mut due) = (0.0f64, 0.0);
    (0..960)
        .map(|_| {
            due += a_second * 15.0;
            while due >= 1.0 {
                due -= 1.0;
                let bell = (0..6).map(|_| uniform()).sum::<f64>() - 3.0;
                let duration = 0.1 * (bell * 1.6).exp2();
                // Nanoseconds, as clients count.
                sum += (duration * 1e9).floor() / 1e9;
                let index = (duration.log2() * 8.0).ceil() as i32;
                *buckets.entry(index.clamp(-45, 4).max(-35)).or_default() += 1;
            }
            let mut row = of_buckets(3, &buckets, false);
            row.sum = sum;
            row
        })
        .collect()
}

/// The figures of `docs/formats/part.md`: `cargo test --release -p tsdb --lib histogram_figures --
/// --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
#[expect(clippy::print_stdout, reason = "figures are for people")]
fn histogram_figures() {
    use std::time::Instant;
    println!("obs/s | form | B/histogram | encode ns | decode ns");
    for a_second in [1.0, 20.0, 500.0] {
        let rows = observed(a_second);
        let of_blocks = |rows_of_block: usize,
                         encode: &dyn Fn(&[&Histogram], &mut Vec<u8>),
                         read: &dyn Fn(&[u8], usize) -> usize| {
            let (mut bytes, mut encoding, mut decoding) = (0, u128::MAX, u128::MAX);
            for _ in 0..5 {
                let started = Instant::now();
                let blocks: Vec<(Vec<u8>, usize)> = rows
                    .chunks(rows_of_block)
                    .map(|rows| {
                        let mut block = Vec::new();
                        encode(&rows.iter().collect::<Vec<_>>(), &mut block);
                        (block, rows.len())
                    })
                    .collect();
                encoding = encoding.min(started.elapsed().as_nanos());
                bytes = blocks.iter().map(|(block, _)| block.len()).sum();
                let started = Instant::now();
                assert_eq!(blocks.iter().map(|(block, rows)| read(block, *rows)).sum::<usize>(), rows.len());
                decoding = decoding.min(started.elapsed().as_nanos());
            }
            let count = rows.len();
            (bytes as f64 / count as f64, encoding / count as u128, decoding / count as u128)
        };
        let in_rows = of_blocks(
            120,
            &|rows, out| {
                let mut previous = None;
                for row in rows {
                    histograms::encode_histogram(row, previous, out);
                    previous = Some(*row);
                }
            },
            &|block, rows| {
                let mut found = 0;
                let mut reader = stdx::bytes::Cursor::new(block);
                super::super::histogram_columns::decode_rows(&mut reader, rows, 0..rows, |_, _| found += 1)
                    .unwrap();
                found
            },
        );
        let in_columns = of_blocks(240, &encode_block, &|block, rows| {
            let mut found = 0;
            decode_block(block, rows, 0..rows, |_, _| found += 1).unwrap();
            found
        });
        let mut sums = Vec::new();
        for rows in rows.chunks(240) {
            let of_block: Vec<f64> = rows.iter().map(|row| row.sum).collect();
            crate::codec::encode_values(&of_block, &mut sums);
        }
        println!("{a_second} | sums | {:.1} | |", sums.len() as f64 / rows.len() as f64);
        for (form, (bytes, encode, decode)) in [("rows", in_rows), ("columns", in_columns)] {
            println!("{a_second} | {form} | {bytes:.1} | {encode} | {decode}");
        }
    }
}
