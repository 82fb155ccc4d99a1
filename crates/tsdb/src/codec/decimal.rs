//! Floats as decimal numbers: `value = k / 10^e`, exactly.
//!
//! What programs expose are decimals: counts, sizes, seconds to so many places. Their doubles are the
//! ones nearest to `k / 10^e`, and a correctly rounded division gives just those back, so the integers
//! `k` lose nothing as long as they are exact in a double themselves.

/// Largest exponent tried; 10^15 is exact in a double.
pub(super) const EXPONENT_MAX: usize = 15;

/// The powers of ten.
pub(super) const POWERS: [f64; EXPONENT_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Magnitude below which adding and taking away [`ROUNDER`] rounds to an integer.
const ROUNDED_MAX: f64 = 2_251_799_813_685_248.0; // 2^51
/// 1.5 × 2^52: sums with it have no fraction bits. Vectorises, where a call to `round` does not.
const ROUNDER: f64 = 6_755_399_441_055_744.0;

/// Rounds `x` to the nearest integer; exact for |x| < 2^51, anything beyond.
fn round(x: f64) -> f64 {
    (x + ROUNDER) - ROUNDER
}

/// Whether `value` is exactly `k / power` for some `k`.
fn fits(value: f64, power: f64) -> bool {
    let scaled = value * power;
    let k = round(scaled);
    (scaled.abs() < ROUNDED_MAX) & ((k / power).to_bits() == value.to_bits())
}

/// Whether `value` is an integer that an `i64` holds (and not -0).
fn fits_integer(value: f64) -> bool {
    (value as i64 as f64).to_bits() == value.to_bits()
}

/// How many of `values` are not `k / 10^exponent`.
fn misfits(values: &[f64], exponent: usize) -> usize {
    if exponent == 0 {
        return values.iter().map(|&v| usize::from(!fits_integer(v))).sum();
    }
    let power = POWERS[exponent];
    values.iter().map(|&v| u64::from(!fits(v, power))).sum::<u64>() as usize
}

/// The smallest exponent, from `from` on, that fits `value`.
fn exponent_of(value: f64, from: usize) -> Option<usize> {
    (from..=EXPONENT_MAX).find(|&e| if e == 0 { fits_integer(value) } else { fits(value, POWERS[e]) })
}

/// The exponent under which few enough of `values` are exceptions, if there is one.
///
/// Starts from a sample of the values. When some do not fit, it goes up to the exponent they need if
/// that costs less than patching them.
pub(super) fn choose_exponent(values: &[f64]) -> Option<usize> {
    let mut exponent = 0;
    let probes = values.len().min(8);
    let mut fitting = 0;
    for i in 0..probes {
        let value = values[i * values.len() / probes];
        if let Some(needed) = exponent_of(value, exponent) {
            exponent = needed;
            fitting += 1;
        }
    }
    // NaN-rich columns pass with few hits; a column without any decimal does not.
    if fitting == 0 {
        return None;
    }
    let mut exceptions = misfits(values, exponent);
    while exceptions > 0 {
        let raised = values.iter().filter_map(|&v| match exponent_of(v, exponent) {
            Some(needed) if needed > exponent => Some(needed),
            _ => None,
        });
        let Some(needed) = raised.take(32).max() else { break };
        // Some 10/3 bits a value and step, against nine bytes an exception.
        let too_many = exceptions > exceptions_max(values.len());
        if !too_many && (needed - exponent) * values.len() * 10 / 3 >= exceptions * 72 {
            break;
        }
        let left = misfits(values, needed);
        if left >= exceptions {
            break;
        }
        (exponent, exceptions) = (needed, left);
    }
    Some(exponent)
}

/// How many runs of exceptions a block of `count` values may have.
pub(super) fn exceptions_max(count: usize) -> usize {
    (count / 16).max(1)
}

/// The `k` of `values` under `exponent`, and the positions that have none and must be patched (there
/// `k` repeats the one before).
pub(super) fn integers(values: &[f64], exponent: usize, patched: &mut Vec<usize>) -> Vec<i64> {
    let power = POWERS[exponent];
    let mut out = Vec::with_capacity(values.len());
    if exponent == 0 {
        out.extend(values.iter().map(|&v| v as i64));
        patched.extend((0..values.len()).filter(|&i| !fits_integer(values[i])));
    } else {
        out.extend(
            values.iter().map(|&v| (v * power + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i64),
        );
        patched.extend((0..values.len()).filter(|&i| !fits(values[i], power)));
    }
    fill(&mut out, patched);
    out
}

/// Gives patched positions the integer of the nearest good one before (or after).
fn fill(integers: &mut [i64], patched: &[usize]) {
    let Some(&first) = patched.first() else { return };
    let mut before = match first {
        0 => (0..integers.len()).find(|i| patched.binary_search(i).is_err()).map_or(0, |i| integers[i]),
        at => integers[at - 1],
    };
    let mut next = 0;
    for (at, integer) in integers.iter_mut().enumerate().skip(first) {
        if patched.get(next) == Some(&at) {
            *integer = before;
            next += 1;
        }
        before = *integer;
    }
}

/// The float of `k` under `power`, a power of ten above 1.
pub(super) fn to_float(k: i64, power: f64) -> f64 {
    // The inverse of the rounding above: exact below 2^51, and it vectorises.
    let k = f64::from_bits((k as u64).wrapping_add(ROUNDER.to_bits())) - ROUNDER;
    k / power
}

/// Bits of a float as an integer in the order of the floats.
pub(super) fn ordered(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// The inverse of [`ordered`].
pub(super) fn unordered(bits: i64) -> f64 {
    f64::from_bits((bits ^ (((bits >> 63) as u64) >> 1) as i64) as u64)
}

/// The exponent that leaves the fewest bits in `k` and in the distance to `k / 10^e`, counted in units
/// in the last place; judged by up to 16 neighbours.
pub(super) fn choose_ulp_exponent(values: &[f64]) -> usize {
    let sample = &values[..values.len().min(16)];
    let bits = |exponent: usize| -> u32 {
        let power = POWERS[exponent];
        let mut before = None;
        sample
            .iter()
            .map(|&v| {
                let Some((k, ulp)) = near(v, power) else { return 80 };
                let step = k.wrapping_sub(before.unwrap_or(k));
                before = Some(k);
                (64 - step.unsigned_abs().leading_zeros()) + (64 - ulp.unsigned_abs().leading_zeros())
            })
            .sum()
    };
    (0..=EXPONENT_MAX).min_by_key(|&e| bits(e)).unwrap_or(0)
}

/// The `k` nearest to `value`, and how far off `k / power` is in units in the last place; `None` when
/// that is no use.
pub(super) fn near(value: f64, power: f64) -> Option<(i64, i64)> {
    let scaled = value * power;
    let k = round(scaled);
    let ulp = ordered(value).wrapping_sub(ordered(k as i64 as f64 / power));
    (scaled.abs() < ROUNDED_MAX && ulp.unsigned_abs() < 1 << 32).then_some((k as i64, ulp))
}
