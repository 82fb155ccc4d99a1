//! What is encoded comes back.

use model::histogram::{Buckets, CounterResetHint, Span};
use proptest::prelude::*;

use super::*;

fn round_trip(times: &[i64], values: &[f64], histograms: &[(i64, Arc<Histogram>)]) -> (Samples, Vec<usize>) {
    let (mut got, mut lens) = (Samples::default(), Vec::new());
    let mut last_ms = i64::MIN;
    let mut encoder = Encoder::default();
    let encoded = encoder.encode(times, values, histograms, |chunk| {
        assert!(chunk.min_ms > last_ms && chunk.max_ms >= chunk.min_ms, "chunks ascend");
        last_ms = chunk.max_ms;
        let before = got.len();
        decode(chunk.encoding, chunk.data, &mut got)?;
        lens.push(got.len() - before);
        Ok::<(), Malformed>(())
    });
    assert_eq!(encoded, Ok(()));
    (got, lens)
}

fn int(count: u64, deltas: &[i64]) -> Histogram {
    Histogram {
        schema: 3,
        zero_threshold: 2f64.powi(-128),
        sum: count as f64 * 1.5,
        positive_spans: vec![Span { offset: -2, length: deltas.len() as u32 }],
        buckets: Buckets::Int { count, zero_count: 1, positive: deltas.to_vec(), negative: Vec::new() },
        ..Histogram::stale()
    }
}

#[test]
fn floats_are_cut_after_120_samples() {
    let times: Vec<i64> = (0..250).map(|at| at * 15_000).collect();
    let values: Vec<f64> = (0..250).map(|at| f64::from(at) * 0.1).collect();
    let (got, lens) = round_trip(&times, &values, &[]);
    assert_eq!((got.times, got.values, lens), (times, values, vec![120, 120, 10]));
}

#[test]
fn the_bytes_of_floats_are_those_of_prometheus() {
    let mut encoder = Encoder::default();
    let mut bytes = Vec::new();
    let encoded = encoder.encode(&[1000, 2000, 3001], &[1.0, 1.0, 2.0], &[], |chunk| {
        bytes = chunk.data.to_vec();
        Ok::<(), ()>(())
    });
    assert_eq!(encoded, Ok(()));
    // 3 samples; varint 1000; 1.0; uvarint 1000; 0: the same; 10 and 14 bits: 1 more; 1 1, 1 leading
    // zero, 11 bits: 0x3ff0.. ^ 0x4000.. = 0x7ff0..
    let want = "0003 d00f 3ff0000000000000 e807";
    let want: String = want.split(' ').collect();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(hex.starts_with(&want), "{hex}");
    let bits: String = bytes[14..].iter().map(|byte| format!("{byte:08b}")).collect();
    assert_eq!(
        bits,
        format!("{}{}{}{}{}{}{}", "0", "10", "00000000000001", "11", "00001001011", "11111111111", "0000000")
    );
}

#[test]
fn histograms_and_floats_of_one_series_take_turns() {
    let times = [10, 20, 50];
    let histograms = [(30, Arc::new(int(5, &[1, 2]))), (40, Arc::new(int(9, &[2, 3])))];
    let (got, lens) = round_trip(&times, &[1.0, 2.0, 5.0], &histograms);
    assert_eq!(got.times, times);
    assert_eq!(got.histograms.iter().map(|(time, _)| *time).collect::<Vec<_>>(), [30, 40]);
    assert_eq!(lens, [2, 2, 1]);
}

#[test]
fn a_chunk_of_histograms_ends_where_something_else_begins() {
    let gauge = |histogram: Histogram| Histogram { counter_reset_hint: CounterResetHint::Gauge, ..histogram };
    let float = |count: f64| Histogram {
        buckets: Buckets::Float { count, zero_count: 0.5, positive: vec![count], negative: Vec::new() },
        positive_spans: vec![Span { offset: 1, length: 1 }],
        sum: f64::NAN,
        ..int(0, &[])
    };
    let list = [
        (int(5, &[1, 2]), "0 Unknown"),
        (int(9, &[2, 2]), "0 NotReset"),
        // A bucket has less.
        (int(10, &[1, 3]), "1 Reset"),
        // Another layout.
        (int(11, &[1, 3, 0]), "2 Unknown"),
        (Histogram { counter_reset_hint: CounterResetHint::Reset, ..int(12, &[1, 3, 0]) }, "3 Reset"),
        (Histogram::stale(), "3 Unknown"),
        (int(13, &[1, 3, 0]), "4 Unknown"),
        (gauge(int(13, &[5, 3, 0])), "5 Gauge"),
        (gauge(int(1, &[1, 3, 0])), "5 Gauge"),
        (float(2.5), "6 Unknown"),
        (float(3.5), "6 NotReset"),
        (float(0.5), "7 Reset"),
        (Histogram::stale(), "7 Unknown"),
        (Histogram::stale(), "8 Unknown"),
    ];
    let histograms: Vec<(i64, Arc<Histogram>)> = list
        .iter()
        .zip(1..)
        .map(|((histogram, _), time)| (time * 1000, Arc::new(histogram.clone())))
        .collect();
    let (got, lens) = round_trip(&[], &[], &histograms);
    let chunks = lens.iter().enumerate().flat_map(|(chunk, len)| std::iter::repeat_n(chunk, *len));
    let got: Vec<((i64, Arc<Histogram>), usize)> = got.histograms.into_iter().zip(chunks).collect();
    assert_eq!(got.len(), list.len());
    for (((time, got), chunk), ((want_time, want), (_, place))) in
        got.iter().zip(histograms.iter().zip(&list))
    {
        assert_eq!(format!("{chunk} {:?}", got.counter_reset_hint), *place, "at {time}");
        let plain = |h: &Histogram| Histogram {
            counter_reset_hint: CounterResetHint::Unknown,
            sum: 0.0,
            ..h.clone()
        };
        assert_eq!((time, plain(got), got.sum.to_bits()), (want_time, plain(want), want.sum.to_bits()));
    }
}

#[test]
fn chunks_that_promise_too_much_are_refused() {
    let check = |encoding, data: &[u8], want: &str| {
        let got = decode(encoding, data, &mut Samples::default());
        assert_eq!(got, Err(Malformed(Box::leak(want.to_owned().into_boxed_str()))), "{data:?}");
    };
    check(Encoding::Xor, &[0], "the bytes end too early");
    check(Encoding::Xor, &[0xff, 0xff, 0], "the bytes end too early");
    // A window of bits that none has had: second value "1 0".
    check(
        Encoding::Xor,
        &[0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0],
        "a value repeats a window of bits that none has had",
    );
    // 65,536 and more spans: nine ones and 64 bits.
    let mut many = vec![0, 1, 0, 0, 0b0111_1111, 0b1000_0000];
    many.extend([0xff; 12]);
    check(Encoding::Histogram, &many, "a histogram has more than 65536 spans");
}

fn any_float() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-100i32..100).prop_map(f64::from),
        2 => any::<u64>().prop_map(f64::from_bits),
        1 => Just(model::stale_nan()),
    ]
}

fn any_time_steps(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<i64>> {
    let step = prop_oneof![6 => Just(15_000i64), 3 => 1i64..40_000, 1 => 1i64..1 << 40];
    (-(1i64 << 40)..1 << 40, proptest::collection::vec(step, len)).prop_map(|(start, steps)| {
        let next = |time: &mut i64, step: i64| {
            *time += step;
            Some(*time)
        };
        steps.into_iter().scan(start, next).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn floats_come_back_bit_for_bit(times in any_time_steps(1..300), seed in proptest::collection::vec(any_float(), 300)) {
        let values = &seed[..times.len()];
        let (got, _) = round_trip(&times, values, &[]);
        prop_assert_eq!(&got.times, &times);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&got.values), bits(values));
    }

    #[test]
    fn histograms_come_back(
        times in any_time_steps(1..150),
        counts in proptest::collection::vec((any::<u64>(), -5i64..50, any_float(), 1usize..4), 150),
        is_float in any::<bool>(),
    ) {
        let histograms: Vec<(i64, Arc<Histogram>)> = times.iter().zip(&counts).map(|(time, (count, delta, sum, len))| {
            let mut histogram = int(*count, &vec![*delta; *len]);
            if is_float {
                histogram.buckets = Buckets::Float {
                    count: *sum, zero_count: *count as f64, positive: vec![*delta as f64; *len], negative: Vec::new(),
                };
            }
            histogram.sum = *sum;
            (*time, Arc::new(histogram))
        }).collect();
        let (got, _) = round_trip(&[], &[], &histograms);
        prop_assert_eq!(got.histograms.len(), histograms.len());
        for ((got_time, got), (time, want)) in got.histograms.iter().zip(&histograms) {
            prop_assert_eq!(got_time, time);
            prop_assert_eq!(got.sum.to_bits(), want.sum.to_bits());
            if !want.is_stale() {
                prop_assert_eq!(format!("{:?}", got.buckets), format!("{:?}", want.buckets));
                prop_assert_eq!(&got.positive_spans, &want.positive_spans);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        for encoding in [Encoding::Xor, Encoding::Histogram, Encoding::FloatHistogram] {
            let mut out = Samples::default();
            if decode(encoding, &data, &mut out).is_ok() && data.len() > 1 {
                prop_assert_eq!(out.len(), usize::from(u16::from_be_bytes([data[0], data[1]])));
            }
        }
    }
}
