//! Blocks of integers: first value, greatest common divisor of the differences, order 0, 1 or 2,
//! residuals in patched frames.
//!
//! ```text
//! block: head u8 (bits 0-1 order, bit 2 has divisor) │ first zigzag │ [divisor varint] │ centre zigzag │ chunks
//! ```
//!
//! With `q = (k - first) / divisor`, the residual of row i ≥ 1 is, zigzag,
//! order 0: `q[i] - centre`; order 1: `q[i] - q[i-1] - centre`; order 2: the change of the difference,
//! where the difference before row 1 is `centre`.

use super::CodecError;
use super::pfor::{self, CHUNK, Widths};
use super::varint::{Reader, put, put_signed, unzigzag, zigzag};

const HAS_DIVISOR: u8 = 4;
/// Rows looked at, at the start and in the middle, to choose an order.
const PROBE: usize = 64;

/// Appends a block of `values`; none gives no bytes.
pub(super) fn encode(values: &[i64], out: &mut Vec<u8>) {
    let Some((&first, rest)) = values.split_first() else { return };
    let divisor = divisor(values);
    // `q` without row 0, whose q is 0.
    let mut q: Vec<i64> = Vec::with_capacity(rest.len());
    if divisor > 1 {
        // `divisor` found the whole range to fit, so no difference wraps.
        let by = divisor as i64;
        q.extend(rest.iter().map(|&k| k.wrapping_sub(first) / by));
    } else {
        q.extend(rest.iter().map(|&k| k.wrapping_sub(first)));
    }
    let (order, centre) = choose_order(&q);
    out.push(order | if divisor > 1 { HAS_DIVISOR } else { 0 });
    put_signed(out, first);
    if divisor > 1 {
        put(out, divisor);
    }
    put_signed(out, centre);
    pfor::encode(&residuals(&q, order, centre), out);
}

fn residuals(q: &[i64], order: u8, centre: i64) -> Vec<u64> {
    let mut out = Vec::with_capacity(q.len());
    match order {
        0 => out.extend(q.iter().map(|&q| zigzag(q.wrapping_sub(centre)))),
        1 => {
            let mut before = 0i64;
            out.extend(q.iter().map(|&q| {
                let delta = q.wrapping_sub(before);
                before = q;
                zigzag(delta.wrapping_sub(centre))
            }));
        }
        _ => {
            let (mut before, mut delta_before) = (0i64, centre);
            out.extend(q.iter().map(|&q| {
                let delta = q.wrapping_sub(before);
                let change = delta.wrapping_sub(delta_before);
                (before, delta_before) = (q, delta);
                zigzag(change)
            }));
        }
    }
    out
}

/// The greatest common divisor of all differences, 1 when the values span more than an `i64` holds.
fn divisor(values: &[i64]) -> u64 {
    let (mut gcd, mut least, mut greatest) = (0u64, values[0], values[0]);
    for pair in values.windows(2) {
        let Some(delta) = pair[1].checked_sub(pair[0]) else { return 1 };
        if delta == 0 {
            continue;
        }
        least = least.min(pair[1]);
        greatest = greatest.max(pair[1]);
        let delta = delta.unsigned_abs();
        if gcd == 0 {
            gcd = delta;
        } else if delta != gcd {
            gcd = greatest_common_divisor(gcd, delta);
        }
        if gcd == 1 {
            return 1;
        }
    }
    if greatest.checked_sub(least).is_none() || gcd > i64::MAX as u64 { 1 } else { gcd.max(1) }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The order and centre that promise the fewest bits, judged by two stretches of rows.
fn choose_order(q: &[i64]) -> (u8, i64) {
    let stretches: [&[i64]; 2] = if q.len() <= 2 * PROBE {
        [q, &[]]
    } else {
        let middle = q.len() / 2;
        [&q[..PROBE], &q[middle..middle + PROBE]]
    };
    let centres =
        [median(q, |at| q[at]), median(q, |at| q[at].wrapping_sub(if at == 0 { 0 } else { q[at - 1] }))];
    let mut widths = [Widths::new(), Widths::new(), Widths::new()];
    for stretch in stretches {
        let Some(&first) = stretch.first() else { continue };
        let (mut before, mut delta_before) = (first, centres[1]);
        for &q in stretch {
            let delta = q.wrapping_sub(before);
            widths[0].add(zigzag(q.wrapping_sub(centres[0])));
            widths[1].add(zigzag(delta.wrapping_sub(centres[1])));
            widths[2].add(zigzag(delta.wrapping_sub(delta_before)));
            (before, delta_before) = (q, delta);
        }
    }
    let costs = widths.map(|w| w.best().1);
    // On a tie the lower order 1 wins: it is the cheapest to decode after 0, and the most robust.
    if costs[1] <= costs[0] && costs[1] <= costs[2] {
        (1, centres[1])
    } else if costs[0] <= costs[2] {
        (0, centres[0])
    } else {
        (2, centres[1])
    }
}

/// The median of up to nine evenly spread items: what most of them are near, whatever the outliers.
fn median(q: &[i64], item: impl Fn(usize) -> i64) -> i64 {
    let count = q.len().min(9);
    let mut picked = [0i64; 9];
    for (i, pick) in picked[..count].iter_mut().enumerate() {
        *pick = item(i * q.len() / count);
    }
    let picked = &mut picked[..count];
    picked.sort_unstable();
    picked.get(count / 2).copied().unwrap_or(0)
}

/// Reads a block of `count` integers and hands them to `sink` in runs of at most [`CHUNK`].
pub(super) fn decode(
    reader: &mut Reader<'_>,
    count: usize,
    mut sink: impl FnMut(&[i64]),
) -> Result<(), CodecError> {
    if count == 0 {
        return Ok(());
    }
    let head = reader.byte()?;
    let order = head & 3;
    if order == 3 || head & !(3 | HAS_DIVISOR) != 0 {
        return Err(CodecError::Malformed("an integer block has an unknown order"));
    }
    let first = reader.signed()?;
    let divisor = if head & HAS_DIVISOR != 0 { reader.varint()? as i64 } else { 1 };
    let centre = reader.signed()?;
    sink(&[first]);
    let mut zigzags = [0u64; CHUNK];
    let mut rows = [0i64; CHUNK];
    let (mut q, mut delta) = (0i64, centre);
    let mut left = count - 1;
    while left > 0 {
        let len = left.min(CHUNK);
        let (zigzags, rows) = (&mut zigzags[..len], &mut rows[..len]);
        pfor::decode_chunk(reader, zigzags)?;
        match order {
            0 => {
                for (row, &z) in rows.iter_mut().zip(&*zigzags) {
                    *row = unzigzag(z).wrapping_add(centre);
                }
            }
            1 => {
                for (row, &z) in rows.iter_mut().zip(&*zigzags) {
                    q = q.wrapping_add(unzigzag(z).wrapping_add(centre));
                    *row = q;
                }
            }
            _ => {
                for (row, &z) in rows.iter_mut().zip(&*zigzags) {
                    delta = delta.wrapping_add(unzigzag(z));
                    q = q.wrapping_add(delta);
                    *row = q;
                }
            }
        }
        if divisor == 1 {
            rows.iter_mut().for_each(|row| *row = first.wrapping_add(*row));
        } else {
            rows.iter_mut().for_each(|row| *row = first.wrapping_add(row.wrapping_mul(divisor)));
        }
        sink(rows);
        left -= len;
    }
    Ok(())
}
