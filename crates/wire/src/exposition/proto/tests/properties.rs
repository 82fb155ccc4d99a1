//! What any messages mean, and what damaged ones do.

use model::histogram::Buckets;
use proptest::prelude::*;

use super::super::super::*;
use super::oracle::{self, Bucket, BucketSpan, LabelPair, Metric, MetricFamily};
use super::{FLOATS, NATIVE, PROTO, Target, body, exemplar, time, value};

fn any_exemplar() -> impl Strategy<Value = Option<oracle::Exemplar>> {
    prop::option::weighted(0.2, ("[a-z]{0,3}", -2.0..2.0f64, prop::option::of(0..9_000_000i64)))
        .prop_map(|e| e.map(|(trace, value, ms)| exemplar(&trace, value, ms)))
}

fn any_side() -> impl Strategy<Value = (Vec<BucketSpan>, Vec<u64>)> {
    prop::collection::vec((0..5i32, prop::collection::vec(0..4u64, 0..4)), 0..4).prop_map(|runs| {
        let span =
            |(offset, counts): &(i32, Vec<u64>)| BucketSpan { offset: *offset, length: counts.len() as u32 };
        (runs.iter().map(span).collect(), runs.into_iter().flat_map(|(_, counts)| counts).collect())
    })
}

fn deltas(counts: &[u64]) -> Vec<i64> {
    let before = std::iter::once(0).chain(counts.iter().copied());
    counts.iter().zip(before).map(|(count, before)| *count as i64 - before as i64).collect()
}

fn any_histogram() -> impl Strategy<Value = oracle::Histogram> {
    let classic = prop::collection::btree_map(0..6u8, 0..9u64, 0..4);
    (any_side(), any_side(), classic, any_exemplar(), -4..=8i32, 0..3u64, any::<bool>()).prop_map(
        |((positive_span, positive), (negative_span, negative), classic, exemplar, schema, zero, float)| {
            let mut histogram = oracle::Histogram {
                sum: 1.25,
                schema,
                positive_span,
                negative_span,
                exemplars: exemplar.into_iter().collect(),
                start: time(schema.unsigned_abs().into()),
                ..oracle::Histogram::default()
            };
            let count = positive.iter().chain(&negative).sum::<u64>() + zero;
            let mut cumulative = 0;
            histogram.bucket = classic
                .into_iter()
                .map(|(bound, count)| {
                    cumulative += count;
                    Bucket { bound: bound.into(), count: cumulative, ..Bucket::default() }
                })
                .collect();
            if float && count > 0 {
                histogram.count_float = count as f64;
                histogram.zero_count_float = zero as f64;
                histogram.positive_count = positive.iter().map(|count| *count as f64).collect();
                histogram.negative_count = negative.iter().map(|count| *count as f64).collect();
            } else {
                histogram.count = count;
                histogram.zero_count = zero;
                histogram.positive_delta = deltas(&positive);
                histogram.negative_delta = deltas(&negative);
            }
            histogram
        },
    )
}

fn any_metric() -> impl Strategy<Value = Metric> {
    let pairs = prop::collection::btree_map("[a-c]", "[x-z]{0,2}", 0..3);
    (pairs, any::<f64>(), any_exemplar(), any_histogram(), 0..3i64).prop_map(
        |(pairs, number, exemplar, histogram, timestamp_ms)| {
            let number = number + 0.0; // an encoder may leave out -0 as it leaves out 0
            let one = oracle::Value { value: number, exemplar, start: None };
            let quantile = vec![oracle::Quantile { quantile: 0.5, value: number }];
            Metric {
                label: pairs.into_iter().map(|(name, value)| LabelPair { name, value }).collect(),
                gauge: value(number),
                counter: Some(one),
                untyped: value(number),
                summary: Some(oracle::Summary { count: 3, sum: number, quantile, start: None }),
                timestamp_ms,
                histogram: Some(histogram),
            }
        },
    )
}

fn any_family() -> impl Strategy<Value = MetricFamily> {
    ("[f-h]", 0..6i32, prop::collection::vec(any_metric(), 0..4))
        .prop_map(|(name, kind, metric)| MetricFamily { name, kind, metric, ..MetricFamily::default() })
}

/// What a native histogram holds, whatever its layout: index and count of every populated bucket.
fn populated(spans: &[(i32, u32)], counts: &[f64]) -> Vec<(i32, f64)> {
    let (mut index, mut counts) = (0, counts.iter());
    let mut out = Vec::new();
    for (offset, length) in spans {
        index += offset;
        for _ in 0..*length {
            out.extend(counts.next().map(|count| (index, *count)));
            index += 1;
        }
    }
    out.retain(|(_, count)| *count != 0.0);
    out
}

/// The float cells and native histograms that the messages mean, in order.
fn expected(families: &[MetricFamily]) -> (Vec<u64>, Vec<Vec<(i32, f64)>>) {
    let (mut floats, mut histograms) = (Vec::new(), Vec::new());
    for family in families {
        for metric in &family.metric {
            match family.kind {
                0 => floats.push(metric.counter.as_ref().unwrap().value),
                1 => floats.push(metric.gauge.as_ref().unwrap().value),
                2 => {
                    let summary = metric.summary.as_ref().unwrap();
                    floats.extend([summary.count as f64, summary.sum, summary.quantile[0].value]);
                }
                3 => floats.push(metric.untyped.as_ref().unwrap().value),
                _ => {
                    let h = metric.histogram.as_ref().unwrap();
                    let count = if h.count_float == 0.0 { h.count as f64 } else { h.count_float };
                    if h.positive_span.is_empty() && h.negative_span.is_empty() && h.zero_count == 0 {
                        floats.extend([count, h.sum]);
                        floats.extend(h.bucket.iter().map(|bucket| bucket.count as f64));
                        floats.push(count);
                        continue;
                    }
                    let counts = |deltas: &[i64], counts: &[f64]| -> Vec<f64> {
                        if !counts.is_empty() {
                            return counts.to_vec();
                        }
                        let mut count = 0;
                        deltas
                            .iter()
                            .map(|delta| {
                                count += delta;
                                count as f64
                            })
                            .collect()
                    };
                    let spans = |spans: &[BucketSpan]| -> Vec<(i32, u32)> {
                        spans.iter().map(|span| (span.offset, span.length)).collect()
                    };
                    let mut all =
                        populated(&spans(&h.positive_span), &counts(&h.positive_delta, &h.positive_count));
                    all.extend(populated(
                        &spans(&h.negative_span),
                        &counts(&h.negative_delta, &h.negative_count),
                    ));
                    histograms.push(all);
                }
            }
        }
    }
    (floats.into_iter().map(f64::to_bits).collect(), histograms)
}

fn held(cell: &HistogramCell) -> Vec<(i32, f64)> {
    let h = &cell.histogram;
    let counts = |deltas: &[i64]| -> Vec<f64> {
        let mut count = 0;
        deltas
            .iter()
            .map(|delta| {
                count += delta;
                count as f64
            })
            .collect()
    };
    let (positive, negative) = match &h.buckets {
        Buckets::Int { positive, negative, .. } => (counts(positive), counts(negative)),
        Buckets::Float { positive, negative, .. } => (positive.clone(), negative.clone()),
    };
    let spans = |spans: &[model::histogram::Span]| -> Vec<(i32, u32)> {
        spans.iter().map(|span| (span.offset, span.length)).collect()
    };
    let mut all = populated(&spans(&h.positive_spans), &positive);
    all.extend(populated(&spans(&h.negative_spans), &negative));
    all
}

proptest! {
    /// One memory reads scrape after scrape as a fresh one reads each of them.
    #[test]
    fn rows_are_what_was_encoded(scrapes in prop::collection::vec(prop::collection::vec(any_family(), 0..4), 1..5)) {
        let mut target = Target::new(NATIVE);
        for families in &scrapes {
            let bytes = body(families);
            target.read(PROTO, &bytes).unwrap();
            let mut fresh = Target::new(NATIVE);
            fresh.read(PROTO, &bytes).unwrap();
            prop_assert_eq!(target.shown(), fresh.shown());
            if target.row.duplicates == 0 {
                let (floats, histograms) = expected(families);
                let read: Vec<u64> = target.row.values.iter().map(|value| value.to_bits()).collect();
                prop_assert_eq!(read, floats);
                prop_assert_eq!(target.row.histograms.iter().map(held).collect::<Vec<_>>(), histograms);
            }
        }
    }

    /// Damaged bytes are read or refused, and leave the memory in order.
    #[test]
    fn damage_does_no_harm(
        families in prop::collection::vec(any_family(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep_classic in any::<bool>(),
        convert_classic in any::<bool>(),
    ) {
        let options = RowOptions { keep_classic, convert_classic, ..NATIVE };
        let mut target = Target::new(options);
        let good = body(&families);
        let taken = target.read(PROTO, &good).is_ok();
        let before = target.shown();
        let mut bad = good.clone();
        for (at, byte) in damage {
            if !bad.is_empty() {
                let at = at.index(bad.len());
                bad[at] = byte;
            }
        }
        let _either = target.read(PROTO, &bad);
        prop_assert_eq!(target.read(PROTO, &good).is_ok(), taken);
        if taken {
            prop_assert_eq!(target.shown(), before);
        }
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), native in any::<bool>()) {
        let mut target = Target::new(RowOptions { native_histograms: native, ..FLOATS });
        if target.read(PROTO, &bytes).is_ok() {
            prop_assert_eq!(target.row.columns.len(), target.row.values.len());
        }
    }
}
