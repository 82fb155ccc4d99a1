use proptest::prelude::*;

use super::*;

/// Encodes, decodes with trailing bytes behind, and compares bit for bit; gives the block's length.
fn check(values: &[f64]) -> usize {
    let mut bytes = vec![0xaa];
    encode_values(values, &mut bytes);
    let len = bytes.len() - 1;
    bytes.extend_from_slice(&[0x55; 3]);
    let mut back = vec![7.0];
    assert_eq!(decode_values(&bytes[1..], values.len(), &mut back), Ok(len), "{values:?}");
    let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&back[1..]), bits(values));
    assert_eq!(back[0], 7.0);
    for cut in 0..len {
        assert!(decode_values(&bytes[1..1 + cut], values.len(), &mut back).is_err(), "cut at {cut} of {len}");
        assert_eq!(back.len(), values.len() + 1);
    }
    len
}

fn codec_of(values: &[f64]) -> u8 {
    let mut bytes = Vec::new();
    encode_values(values, &mut bytes);
    bytes.first().copied().unwrap_or(0)
}

#[test]
fn odd_values_come_back_bit_for_bit() {
    let nan = f64::from_bits(0x7ff8_dead_beef_0001);
    for values in [
        vec![],
        vec![0.0],
        vec![-0.0],
        vec![nan],
        vec![0.0, -0.0, 0.0],
        vec![1.0, model::stale_nan()],
        vec![f64::INFINITY, f64::NEG_INFINITY, nan, 1.5, -0.0],
        vec![f64::MIN_POSITIVE, f64::MAX, f64::MIN, 5e-324, -5e-324],
        vec![9_223_372_036_854_775_807.0, -9_223_372_036_854_775_808.0, 1.0],
        vec![18_446_744_073_709_551_616.0, 0.1, 0.2],
        (0..480).map(|i| if i % 40 == 7 { nan } else { f64::from(i) * 0.25 }).collect(),
        (0..480).map(|i| if i > 200 { nan } else { f64::from(i) }).collect(),
        (0..480).map(|i| if i % 2 == 0 { nan } else { f64::from(i) }).collect(),
    ] {
        check(&values);
    }
}

#[test]
fn each_kind_of_data_finds_its_codec() {
    let sums: Vec<f64> = (0..240)
        .scan(0.0, |sum, i| {
            *sum += f64::from(i % 7) * 0.1 + 0.3;
            Some(*sum)
        })
        .collect();
    let noise: Vec<f64> =
        (0..240u64).map(|i| f64::from_bits(xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()) >> 2)).collect();
    let near: Vec<f64> = (0..240u32).map(|i| f64::from_bits(1.0f64.to_bits() + u64::from(i * i))).collect();
    for (name, values, codec, bytes_max) in [
        ("const", vec![1.5; 240], CONST, 9),
        ("counter", (0..240).map(|i| f64::from(1000 + 15 * i)).collect(), DECIMAL, 12),
        ("pages", (0..240).map(|i| f64::from((i * 7919) % 251) * 4096.0).collect(), DECIMAL, 300),
        ("cents", (0..240).map(|i| f64::from((i * 7919) % 251) / 100.0).collect(), DECIMAL, 300),
        (
            "late cents",
            (0..240).map(|i| if i < 9 { 1.0 } else { f64::from(i) / 100.0 }).collect(),
            DECIMAL,
            60,
        ),
        (
            "one reset",
            (0..240).map(|i| if i == 100 { 0.0 } else { f64::from(5000 + i) }).collect(),
            DECIMAL,
            24,
        ),
        ("sums", sums, DECIMAL_ULP, 700),
        ("bits", near, ORDERED, 110),
        ("noise", noise, ORDERED, 2000),
    ] {
        let len = check(&values);
        assert_eq!((codec_of(&values), len <= bytes_max), (codec, true), "{name}: {len} bytes");
    }
}

#[test]
fn xor_takes_what_has_few_bits() {
    let values: Vec<f64> = (0..240u64)
        .map(|i| f64::from_bits((1 << 62) ^ ((xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()) & 0xffff) << 40)))
        .map(|v| v * 1e-200)
        .collect();
    check(&values);
    let mut bytes = Vec::new();
    encode_xor(&values, &mut bytes);
    let mut back = Vec::new();
    assert_eq!(decode_values(&bytes, values.len(), &mut back), Ok(bytes.len()));
    assert_eq!(back, values);
}

#[test]
fn times_cost_next_to_nothing() {
    let len = |times: &[i64]| {
        let mut bytes = Vec::new();
        encode_ints(times, &mut bytes);
        let mut back = Vec::new();
        assert_eq!(decode_ints(&bytes, times.len(), &mut back), Ok(bytes.len()));
        assert_eq!(back, times);
        bytes.len()
    };
    let aligned: Vec<i64> = (0..240).map(|i| 1_700_000_000_000 + i * 15_000).collect();
    let jitter: Vec<i64> = aligned.iter().enumerate().map(|(i, t)| t + (i as i64 * 7919) % 6).collect();
    assert_eq!(len(&aligned), 12);
    assert!(len(&jitter) < 150, "{}", len(&jitter));
    assert_eq!(len(&[]), 0);
    len(&[i64::MIN, i64::MAX, 0, i64::MIN, -1]);
    len(&[i64::MIN, i64::MIN, i64::MAX]);
    len(&[0, i64::MIN, 0]);
}

#[test]
fn too_many_samples_are_refused() {
    let mut out = Vec::new();
    assert_eq!(decode_values(&[1; 9], BLOCK_SAMPLES_MAX + 1, &mut out), Err(CodecError::TooMany(65_537)));
    assert_eq!(decode_values(&[6; 9], 2, &mut out), Err(CodecError::UnknownCodec(6)));
}

fn values() -> impl Strategy<Value = Vec<f64>> {
    let decimal = (any::<i32>(), 0..10i32).prop_map(|(k, e)| f64::from(k) / 10f64.powi(e));
    let one = prop_oneof![
        8 => decimal,
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => any::<f64>(),
        1 => Just(model::stale_nan()),
    ];
    let walk =
        (any::<i32>(), 0..7i32, prop::collection::vec(-100..100i64, 1..300)).prop_map(|(start, e, steps)| {
            let mut k = i64::from(start);
            let walk = steps.iter().map(|step| {
                k += step;
                k as f64 / 10f64.powi(e)
            });
            walk.collect::<Vec<_>>()
        });
    let sum = prop::collection::vec(0..1000u32, 1..200).prop_map(|steps| {
        steps
            .iter()
            .scan(0.0, |sum, &s| {
                *sum += f64::from(s) * 0.001;
                Some(*sum)
            })
            .collect::<Vec<f64>>()
    });
    let mixed = (walk.clone(), prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..6));
    prop_oneof![
        prop::collection::vec(one, 0..200),
        walk,
        sum,
        mixed.prop_map(|(mut walk, odd)| {
            for (at, bits) in odd {
                let at = at.index(walk.len());
                walk[at] = f64::from_bits(bits);
            }
            walk
        }),
        prop::collection::vec(any::<u64>().prop_map(f64::from_bits), 0..200),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn all_values_come_back(values in values()) {
        check(&values);
        let mut bytes = Vec::new();
        for encode in [encode_ordered, encode_xor, encode_decimal_ulp] {
            bytes.clear();
            encode(&values, &mut bytes);
            if bytes.is_empty() || values.is_empty() {
                continue;
            }
            let mut back = Vec::new();
            prop_assert_eq!(decode_values(&bytes, values.len(), &mut back), Ok(bytes.len()));
            let same = back.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits());
            prop_assert!(same && back.len() == values.len());
        }
    }

    #[test]
    fn all_integers_come_back(values in prop_oneof![
        prop::collection::vec(any::<i64>(), 0..300),
        (any::<i64>(), 1..100_000i64, prop::collection::vec(-9..9i64, 0..300)).prop_map(|(start, by, steps)| {
            steps.iter().scan(start, |k, s| { *k = k.wrapping_add(s * by); Some(*k) }).collect()
        }),
    ]) {
        let mut bytes = Vec::new();
        encode_ints(&values, &mut bytes);
        let mut back = Vec::new();
        prop_assert_eq!(decode_ints(&bytes, values.len(), &mut back), Ok(bytes.len()));
        prop_assert_eq!(back, values);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz_decoders(&bytes);
    }

    #[test]
    fn damaged_blocks_do_no_harm(values in values(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = (values.len() as u16).to_le_bytes().to_vec();
        encode_values(&values, &mut bytes);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fuzz_decoders(&bytes);
    }
}
