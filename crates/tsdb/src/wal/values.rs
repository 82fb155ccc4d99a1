//! A row's values as differences to the values of the row before.
//!
//! Most columns do not change from row to row, and most that do are counters that move by a small
//! integer. So: which columns changed (nothing, a bitmap, or a list of gaps, whichever is shortest), then
//! one code for each change:
//!
//! - both values are integers below 2^53: the zigzag difference, doubled, as a varint (even);
//! - otherwise the exclusive-or of the bit patterns, without its zero bytes at either end, after a byte
//!   `1 | trailing << 1 | (len - 1) << 4` (odd).

use stdx::bytes::{CUT_SHORT, Cursor, Malformed, put_varint, unzigzag, zigzag};

const MASK_NONE: u8 = 0;
const MASK_BITMAP: u8 = 1;
const MASK_GAPS: u8 = 2;
const MASK_ALL: u8 = 3;

/// Appends `values` to `out` as changes to `previous` (bit patterns, same length), which then holds
/// `values`. `changed` is room to work in.
///
/// # Panics
/// When the lengths differ, which is a mistake of the caller.
pub fn encode_changes(values: &[f64], previous: &mut [u64], changed: &mut Vec<u32>, out: &mut Vec<u8>) {
    assert_eq!(values.len(), previous.len(), "a row and its predecessor have the same columns");
    changed.clear();
    for (at, (value, before)) in values.iter().zip(previous.iter()).enumerate() {
        if value.to_bits() != *before {
            changed.push(at as u32);
        }
    }
    put_mask(values.len(), changed, out);
    for &at in changed.iter() {
        let at = at as usize;
        let bits = values[at].to_bits();
        put_change(previous[at], bits, out);
        previous[at] = bits;
    }
}

fn put_mask(columns: usize, changed: &[u32], out: &mut Vec<u8>) {
    if changed.is_empty() {
        out.push(MASK_NONE);
    } else if changed.len() == columns {
        out.push(MASK_ALL);
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
        let start = out.len();
        out.resize(start + columns.div_ceil(8), 0);
        for &at in changed {
            out[start + at as usize / 8] |= 1 << (at % 8);
        }
    }
}

/// `bits` as an integer that survives the way through `i64` and back, small enough for differences.
fn small_integer(bits: u64) -> Option<i64> {
    let value = f64::from_bits(bits);
    if value.abs() < 9_007_199_254_740_992.0 {
        let integer = value as i64;
        if (integer as f64).to_bits() == bits {
            return Some(integer);
        }
    }
    None
}

/// Appends the change from one bit pattern to another.
pub(crate) fn put_change(before: u64, now: u64, out: &mut Vec<u8>) {
    if let (Some(a), Some(b)) = (small_integer(before), small_integer(now)) {
        put_varint(out, zigzag(b - a) << 1);
        return;
    }
    let xor = before ^ now;
    let trailing = (xor.trailing_zeros() / 8).min(7);
    let rest = xor >> (trailing * 8);
    let len = (8 - rest.leading_zeros() / 8).max(1);
    out.push((1 | trailing << 1 | (len - 1) << 4) as u8);
    out.extend_from_slice(&rest.to_le_bytes()[..len as usize]);
}

const NO_COLUMN: Malformed = Malformed("a change is of a column that is not there");
const NO_INTEGER: Malformed = Malformed("a difference has no integer before it, or leaves their range");

/// Applies the changes at the front of `cursor` to `values` (bit patterns of the row before).
pub(crate) fn decode_changes(cursor: &mut Cursor<'_>, values: &mut [u64]) -> Result<(), Malformed> {
    match cursor.byte()? {
        MASK_NONE => Ok(()),
        MASK_ALL => values.iter_mut().try_for_each(|value| read_change(cursor, value)),
        MASK_GAPS => {
            let mut mask = *cursor;
            let count = mask.count(1)?;
            let mut places = Vec::with_capacity(count);
            let mut next = 0u64;
            for _ in 0..count {
                let at = next.checked_add(mask.varint()?).ok_or(NO_COLUMN)?;
                places.push(usize::try_from(at).map_err(|_| NO_COLUMN)?);
                next = at.checked_add(1).ok_or(NO_COLUMN)?;
            }
            *cursor = mask;
            for at in places {
                read_change(cursor, values.get_mut(at).ok_or(NO_COLUMN)?)?;
            }
            Ok(())
        }
        MASK_BITMAP => {
            let mask = cursor.take(values.len().div_ceil(8))?;
            for (at, value) in values.iter_mut().enumerate() {
                if mask[at / 8] >> (at % 8) & 1 == 1 {
                    read_change(cursor, value)?;
                }
            }
            Ok(())
        }
        _ => Err(Malformed("an unknown mask of changes")),
    }
}

/// Applies the change at the front of `cursor`.
pub(crate) fn read_change(cursor: &mut Cursor<'_>, value: &mut u64) -> Result<(), Malformed> {
    let first = *cursor.rest().first().ok_or(CUT_SHORT)?;
    if first & 1 == 0 {
        let difference = unzigzag(cursor.varint()? >> 1);
        let before = small_integer(*value).ok_or(NO_INTEGER)?;
        *value = (before.checked_add(difference).ok_or(NO_INTEGER)? as f64).to_bits();
        return Ok(());
    }
    cursor.byte()?;
    let (trailing, len) = (u32::from(first >> 1 & 7), usize::from(first >> 4 & 7) + 1);
    if first & 0x80 != 0 {
        return Err(Malformed("an unknown kind of change"));
    }
    let mut rest = [0; 8];
    rest[..len].copy_from_slice(cursor.take(len)?);
    *value ^= u64::from_le_bytes(rest) << (trailing * 8);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            (-1000i64..1000).prop_map(|i| i as f64),
            (-1000i64..1000).prop_map(|i| i as f64 / 100.0),
            Just(0.0),
            Just(-0.0),
            Just(model::stale_nan()),
            Just(9_007_199_254_740_991.0),
            Just(-9_007_199_254_740_992.0),
        ]
    }

    proptest! {
        #[test]
        fn rows_survive_bit_for_bit(
            rows in (0usize..80).prop_flat_map(|n| proptest::collection::vec(proptest::collection::vec(value(), n), 1..6)),
        ) {
            let mut out = Vec::new();
            let mut previous = vec![0; rows[0].len()];
            let mut changed = Vec::new();
            for row in &rows {
                encode_changes(row, &mut previous, &mut changed, &mut out);
            }
            let mut cursor = Cursor::new(&out);
            let mut decoded = vec![0; rows[0].len()];
            for row in &rows {
                decode_changes(&mut cursor, &mut decoded).unwrap();
                let bits: Vec<u64> = row.iter().map(|v| v.to_bits()).collect();
                prop_assert_eq!(&decoded, &bits);
            }
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn nonsense_is_refused_or_read_but_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut values = vec![0; 20];
            let mut cursor = Cursor::new(&bytes);
            while !cursor.is_empty() && decode_changes(&mut cursor, &mut values).is_ok() {}
        }
    }

    #[test]
    fn steady_rows_are_small() {
        let mut previous = vec![0; 500];
        let (mut changed, mut out) = (Vec::new(), Vec::new());
        let row: Vec<f64> = (0..500).map(f64::from).collect();
        encode_changes(&row, &mut previous, &mut changed, &mut out);
        out.clear();
        let next: Vec<f64> =
            row.iter().map(|v| if (*v as u64).is_multiple_of(3) { v + 1.0 } else { *v }).collect();
        encode_changes(&next, &mut previous, &mut changed, &mut out);
        assert_eq!(out.len(), 1 + 63 + 167, "a bitmap and one byte for each change");
        out.clear();
        encode_changes(&next, &mut previous, &mut changed, &mut out);
        assert_eq!(out, [MASK_NONE]);
    }
}
