//! A row's values as differences to the values the columns had before.
//!
//! Most columns do not change from row to row, and most that do are counters that move by a small
//! step, or decimals with few places. So: which columns changed (nothing, all, a bitmap, or a list of
//! gaps, whichever is shortest), then one code for each change:
//!
//! - even varint: twice the zigzag difference of `k`, where a value is `k / 10^e` exactly and `e` is the
//!   column's exponent, 0 at first (a value before that has no such `k` counts as 0);
//! - byte `0x81 | e << 1`: the column's exponent is `e` from here on; the zigzag difference follows;
//! - byte `1 | trailing << 1 | (len - 1) << 4`: exclusive-or of the bits, without `trailing` zero bytes
//!   below and the zero bytes above, in `len` bytes.

use stdx::bytes::{Cursor, put_varint, unzigzag, zigzag};

use super::BlockError;

pub(crate) const MASK_NONE: u8 = 0;
pub(crate) const MASK_BITMAP: u8 = 1;
pub(crate) const MASK_GAPS: u8 = 2;
pub(crate) const MASK_ALL: u8 = 3;

/// Largest exponent of a decimal column.
const EXPONENT_MAX: u8 = 15;
/// In the encoder's memory of exponents: a value of the column was no decimal, do not look again.
const ROUGH: u8 = 0x10;
/// Integers from here on are not exact decimals of a column with an exponent.
const DECIMAL_MAX: f64 = 2_251_799_813_685_248.0;
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

const POWERS: [f64; 16] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// `k` when `bits` are exactly those of `k / 10^exponent`.
#[inline]
fn decimal(bits: u64, exponent: u8) -> Option<i64> {
    let value = f64::from_bits(bits);
    if exponent == 0 {
        if value.abs() < INTEGER_MAX {
            let integer = value as i64;
            if (integer as f64).to_bits() == bits {
                return Some(integer);
            }
        }
        return None;
    }
    let power = POWERS[usize::from(exponent & 15)];
    let scaled = value * power;
    if scaled.abs() < DECIMAL_MAX {
        let integer = (scaled + 0.5f64.copysign(scaled)) as i64;
        if (integer as f64 / power).to_bits() == bits {
            return Some(integer);
        }
    }
    None
}

/// Appends the code that turns `before` into `now`.
#[inline]
pub(crate) fn put_change(before: u64, exponent: &mut u8, now: u64, out: &mut Vec<u8>) {
    let current = *exponent & EXPONENT_MAX;
    if let Some(k) = decimal(now, current) {
        let base = decimal(before, current).unwrap_or(0);
        put_varint(out, zigzag(k - base) << 1);
        return;
    }
    put_rough_change(before, exponent, now, out);
}

fn put_rough_change(before: u64, exponent: &mut u8, now: u64, out: &mut Vec<u8>) {
    let current = *exponent & EXPONENT_MAX;
    if *exponent & ROUGH == 0 && f64::from_bits(now).is_finite() {
        for larger in current + 1..=EXPONENT_MAX {
            if let Some(k) = decimal(now, larger) {
                *exponent = larger;
                out.push(0x81 | larger << 1);
                put_varint(out, zigzag(k - decimal(before, larger).unwrap_or(0)));
                return;
            }
        }
        *exponent |= ROUGH;
    }
    let xor = before ^ now;
    let trailing = (xor.trailing_zeros() / 8).min(7);
    let rest = xor >> (trailing * 8);
    let len = (8 - rest.leading_zeros() / 8).max(1);
    out.push((1 | trailing << 1 | (len - 1) << 4) as u8);
    out.extend_from_slice(&rest.to_le_bytes()[..len as usize]);
}

/// Applies the code at the front of `cursor` to `value`.
#[inline]
pub(crate) fn read_change(
    cursor: &mut Cursor<'_>,
    value: &mut u64,
    exponent: &mut u8,
) -> Result<(), BlockError> {
    let first = *cursor.rest().first().ok_or(BlockError::Malformed("a row's values end early"))?;
    if first & 1 == 0 {
        let code = cursor.varint()?;
        return apply(unzigzag(code >> 1), value, *exponent);
    }
    cursor.byte()?;
    if first & 0x80 != 0 {
        if first & 0x60 != 0 {
            return Err(BlockError::Malformed("an unknown code of a value"));
        }
        *exponent = first >> 1 & EXPONENT_MAX;
        return apply(cursor.zigzag()?, value, *exponent);
    }
    let (trailing, len) = (u32::from(first >> 1 & 7), usize::from(first >> 4 & 7) + 1);
    let mut rest = [0; 8];
    rest[..len].copy_from_slice(cursor.take(len)?);
    *value ^= u64::from_le_bytes(rest) << (trailing * 8);
    Ok(())
}

#[inline]
fn apply(difference: i64, value: &mut u64, exponent: u8) -> Result<(), BlockError> {
    let base = decimal(*value, exponent).unwrap_or(0);
    let k = base.checked_add(difference).ok_or(BlockError::Malformed("a value overflows"))?;
    let power = POWERS[usize::from(exponent & 15)];
    *value = if exponent == 0 { (k as f64).to_bits() } else { (k as f64 / power).to_bits() };
    Ok(())
}

/// Says which of `columns` columns changed, given the positions of those that did.
pub(crate) fn put_mask(columns: usize, changed: &[u32], out: &mut Vec<u8>) {
    if changed.is_empty() {
        out.push(MASK_NONE);
    } else if changed.len() == columns {
        out.push(MASK_ALL);
        put_varint(out, columns as u64);
    } else if changed.len() < columns / 8 {
        out.push(MASK_GAPS);
        put_varint(out, changed.len() as u64);
        let mut next = 0;
        for &at in changed {
            put_varint(out, u64::from(at - next));
            next = at + 1;
        }
    } else {
        out.push(MASK_BITMAP);
        let bytes = changed.last().map_or(0, |last| *last as usize / 8 + 1);
        put_varint(out, bytes as u64);
        let start = out.len();
        out.resize(start + bytes, 0);
        for &at in changed {
            out[start + at as usize / 8] |= 1 << (at % 8);
        }
    }
}

/// Reads what [`put_mask`] wrote: ascending positions below `columns`, into `changed`.
pub(crate) fn read_mask(
    cursor: &mut Cursor<'_>,
    columns: usize,
    changed: &mut Vec<u32>,
) -> Result<(), BlockError> {
    changed.clear();
    match cursor.byte()? {
        MASK_NONE => {}
        MASK_ALL => {
            let count = cursor.varint()?;
            if count > columns as u64 {
                return Err(BlockError::Malformed("a row changes a column that it does not have"));
            }
            changed.extend(0..count as u32);
        }
        MASK_GAPS => {
            let mut next = 0u64;
            for _ in 0..cursor.count(1)? {
                let at = next.saturating_add(cursor.varint()?);
                if at >= columns as u64 {
                    return Err(BlockError::Malformed("a row changes a column that it does not have"));
                }
                changed.push(at as u32);
                next = at + 1;
            }
        }
        MASK_BITMAP => {
            let mask = cursor.bytes()?;
            for (byte, &bits) in mask.iter().enumerate() {
                let mut bits = bits;
                while bits != 0 {
                    let at = byte * 8 + bits.trailing_zeros() as usize;
                    if at >= columns {
                        return Err(BlockError::Malformed("a row changes a column that it does not have"));
                    }
                    changed.push(at as u32);
                    bits &= bits - 1;
                }
            }
        }
        _ => return Err(BlockError::Malformed("an unknown kind of mask")),
    }
    Ok(())
}

/// Passes over what [`put_mask`] wrote, of a row whose columns are not known; how many changed.
pub(crate) fn skip_mask(cursor: &mut Cursor<'_>) -> Result<u64, BlockError> {
    match cursor.byte()? {
        MASK_NONE => Ok(0),
        MASK_ALL => Ok(cursor.varint()?),
        MASK_GAPS => {
            let count = cursor.count(1)?;
            (0..count).try_for_each(|_| cursor.varint().map(|_| ()))?;
            Ok(count as u64)
        }
        MASK_BITMAP => Ok(cursor.bytes()?.iter().map(|byte| u64::from(byte.count_ones())).sum()),
        _ => Err(BlockError::Malformed("an unknown kind of mask")),
    }
}

/// Passes over what [`put_change`] wrote.
pub(crate) fn skip_change(cursor: &mut Cursor<'_>) -> Result<(), BlockError> {
    let first = *cursor.rest().first().ok_or(BlockError::Malformed("a row's values end early"))?;
    if first & 1 == 0 {
        cursor.varint()?;
        return Ok(());
    }
    cursor.byte()?;
    if first & 0x80 != 0 {
        cursor.varint()?;
    } else {
        cursor.take(usize::from(first >> 4 & 7) + 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            (-1000i64..1000).prop_map(|i| (i as f64).to_bits()),
            (-1000i64..1000, 0usize..16).prop_map(|(i, e)| (i as f64 / POWERS[e]).to_bits()),
            any::<i64>().prop_map(|i| (i as f64).to_bits()),
            Just((-0.0f64).to_bits()),
            Just(model::STALE_NAN_BITS),
            Just(9_007_199_254_740_991.0f64.to_bits()),
            Just(f64::INFINITY.to_bits()),
        ]
    }

    proptest! {
        #[test]
        fn values_survive_bit_for_bit(values in proptest::collection::vec(value(), 1..40)) {
            let mut out = Vec::new();
            let (mut before, mut exponent) = (0, 0);
            for now in &values {
                put_change(before, &mut exponent, *now, &mut out);
                before = *now;
            }
            let mut cursor = Cursor::new(&out);
            values.iter().try_for_each(|_| skip_change(&mut cursor)).unwrap();
            prop_assert!(cursor.is_empty());
            let mut cursor = Cursor::new(&out);
            let (mut value, mut exponent) = (0, 0);
            for now in &values {
                read_change(&mut cursor, &mut value, &mut exponent).unwrap();
                prop_assert_eq!(value, *now);
            }
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn masks_survive(columns in 0usize..100, seed: Vec<u32>) {
            let mut changed: Vec<u32> = seed.iter().map(|at| at % 100).filter(|at| (*at as usize) < columns).collect();
            changed.sort_unstable();
            changed.dedup();
            let (mut out, mut back) = (Vec::new(), Vec::new());
            put_mask(columns, &changed, &mut out);
            let mut cursor = Cursor::new(&out);
            read_mask(&mut cursor, columns, &mut back).unwrap();
            prop_assert!(cursor.is_empty());
            prop_assert_eq!(skip_mask(&mut Cursor::new(&out)), Ok(changed.len() as u64));
            prop_assert_eq!(back, changed);
        }

        #[test]
        fn nonsense_is_refused_or_read_but_never_panics(bytes: Vec<u8>) {
            let mut cursor = Cursor::new(&bytes);
            let (mut value, mut exponent) = (0, 0);
            while !cursor.is_empty() && read_change(&mut cursor, &mut value, &mut exponent).is_ok() {}
            _ = read_mask(&mut Cursor::new(&bytes), 20, &mut Vec::new());
        }
    }

    #[test]
    fn steps_of_decimals_are_small() {
        let check = |before: f64, now: f64, first: usize, second: usize| {
            let (mut out, mut exponent) = (Vec::new(), 0);
            put_change(0, &mut exponent, before.to_bits(), &mut out);
            assert_eq!(out.len(), first, "{before} from nothing");
            out.clear();
            put_change(before.to_bits(), &mut exponent, now.to_bits(), &mut out);
            assert_eq!(out.len(), second, "{before} to {now}");
        };
        check(5.0, 20.0, 1, 1);
        check(1234.56, 1234.71, 4, 1);
        // What was no decimal once is not looked at again until the next clear.
        check(0.1 + 0.2, 0.1, 9, 8);
    }
}
