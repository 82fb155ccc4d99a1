use std::sync::Arc;

use model::Histogram;
use model::histogram::{CUSTOM_BUCKETS_SCHEMA, CounterResetHint};

use super::FloatHistogram;

fn exponential(schema: i32, positive: &[(i32, f64)]) -> FloatHistogram {
    let count: f64 = positive.iter().map(|b| b.1).sum();
    FloatHistogram {
        counter_reset_hint: CounterResetHint::Unknown,
        schema,
        zero_threshold: 0.001,
        zero_count: 0.0,
        count,
        sum: count,
        positive: positive.to_vec(),
        negative: Vec::new(),
        custom_values: Arc::from([]),
    }
}

fn custom(bounds: &[f64], positive: &[(i32, f64)]) -> FloatHistogram {
    FloatHistogram {
        zero_threshold: 0.0,
        custom_values: Arc::from(bounds),
        ..exponential(CUSTOM_BUCKETS_SCHEMA, positive)
    }
}

#[test]
fn survives_the_stored_form() {
    let h = exponential(1, &[(-3, 1.0), (-2, 2.0), (0, 4.0), (7, 1.0)]);
    assert_eq!(FloatHistogram::from(&Histogram::from(&h)), h);
}

#[test]
fn sums_meet_in_the_coarser_schema() {
    let mut fine = exponential(1, &[(1, 1.0), (2, 1.0), (3, 1.0)]);
    let coarse = exponential(0, &[(1, 10.0), (2, 10.0)]);
    fine.add(&coarse).expect("both exponential");
    assert_eq!(fine.schema, 0);
    assert_eq!(fine.positive, [(1, 12.0), (2, 11.0)]);
    assert_eq!(fine.count, 23.0);
}

#[test]
fn custom_bounds_meet_in_the_common_ones() {
    let mut a = custom(&[1.0, 2.0, 4.0], &[(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]);
    let b = custom(&[2.0, 4.0, 8.0], &[(0, 10.0), (1, 10.0), (2, 10.0)]);
    let reconciled = a.add(&b).expect("both custom");
    assert!(reconciled.custom_bounds);
    assert_eq!(&*a.custom_values, &[2.0, 4.0]);
    assert_eq!(a.positive, [(0, 12.0), (1, 11.0), (2, 11.0)]);
    assert!(a.add(&exponential(0, &[(0, 1.0)])).is_err());
}

#[test]
fn a_wider_zero_bucket_swallows_its_neighbours() {
    let mut a = exponential(0, &[(0, 3.0), (2, 5.0)]);
    let mut b = exponential(0, &[(3, 1.0)]);
    b.zero_threshold = 0.75;
    b.zero_count = 2.0;
    a.add(&b).expect("both exponential");
    // 0.75 lies inside the bucket (0.5, 1], so the zero bucket grows to 1.
    assert_eq!((a.zero_threshold, a.zero_count), (1.0, 5.0));
    assert_eq!(a.positive, [(2, 5.0), (3, 1.0)]);
}

#[test]
fn resets_are_seen_in_any_bucket() {
    let before = exponential(1, &[(1, 2.0), (3, 2.0)]);
    let cases = [
        (exponential(1, &[(1, 2.0), (3, 2.0)]), false),
        (exponential(1, &[(1, 1.0), (3, 5.0)]), true),
        (exponential(1, &[(1, 9.0)]), true),
        (exponential(0, &[(1, 2.0), (2, 2.0)]), false),
        (exponential(2, &[(2, 2.0), (6, 2.0)]), true),
        (FloatHistogram { counter_reset_hint: CounterResetHint::Reset, ..before.clone() }, true),
    ];
    for (now, expected) in cases {
        assert_eq!(now.is_reset_after(&before), expected, "{now}");
    }
}

#[test]
fn quantiles_interpolate_by_the_kind_of_bucket() {
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    close(exponential(0, &[(1, 4.0)]).quantile(0.5).0, std::f64::consts::SQRT_2);
    close(custom(&[5.0, 10.0], &[(1, 4.0)]).quantile(0.5).0, 7.5);
    close(custom(&[5.0, 10.0], &[(2, 4.0)]).quantile(0.5).0, 10.0);
    close(exponential(0, &[(1, 4.0)]).fraction(1.0, std::f64::consts::SQRT_2).0, 0.5);
    assert_eq!(exponential(0, &[(1, 4.0)]).quantile(-1.0).0, f64::NEG_INFINITY);
}

#[test]
fn prints_as_upstream() {
    let mut h = exponential(0, &[(0, 1.0), (1, 0.0), (2, 2.5)]);
    h.zero_count = 3.0;
    assert_eq!(h.to_string(), "{count:3.5, sum:3.5, [-0.001,0.001]:3, (0.5,1]:1, (2,4]:2.5}");
}
