//! Blocks of integers: first value, greatest common divisor of the differences, order 0, 1 or 2,
//! residuals in patched frames.
//!
//! ```text
//! block: head u8 (bits 0-1 order, bit 2 has divisor, bit 3 one-sided)
//!        │ first zigzag │ [divisor varint] │ centre zigzag │ chunks
//! ```
//!
//! With `q = (k - first) / divisor`, the residual of row i ≥ 1 is, for order 0, `q[i] - centre`; for order
//! 1, `q[i] - q[i-1] - centre`; for order 2, the change of the difference, where the difference before row
//! 1 is `centre`. Residuals are zigzag; in one-sided blocks (orders 0 and 1), where `centre` is a least
//! value, they are plain 64-bit numbers, and the odd one below the centre wraps around and is patched.
//! That saves a bit a row on everything that only counts up.

use stdx::bytes::{Cursor, put_varint, put_zigzag, unzigzag, zigzag};

use super::CodecError;
use super::pfor::{self, CHUNK, Widths};

const HAS_DIVISOR: u8 = 4;
const ONE_SIDED: u8 = 8;
/// Rows looked at, at the start and in the middle, to choose an order.
const PROBE: usize = 40;

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
    let shape = Shape::choose(&q);
    out.push(shape.head | if divisor > 1 { HAS_DIVISOR } else { 0 });
    put_zigzag(out, first);
    if divisor > 1 {
        put_varint(out, divisor);
    }
    put_zigzag(out, shape.centre);
    pfor::encode(&shape.residuals(&q), out);
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

/// How residuals are taken.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Order, and [`ONE_SIDED`].
    head: u8,
    centre: i64,
}

impl Shape {
    /// The shape that promises the fewest bits, judged by two stretches of rows.
    fn choose(q: &[i64]) -> Shape {
        let stretches: [&[i64]; 2] = if q.len() <= 2 * PROBE {
            [q, &[]]
        } else {
            let middle = q.len() / 2;
            [&q[..PROBE], &q[middle..middle + PROBE]]
        };
        let delta = |at: usize| q[at].wrapping_sub(if at == 0 { 0 } else { q[at - 1] });
        let middle = [median(q, |at| q[at]), median(q, delta)];
        let least = [least(q, |at| q[at]), least(q, delta)];
        let shapes = [
            Shape { head: 1 | ONE_SIDED, centre: least[1] },
            Shape { head: 1, centre: middle[1] },
            Shape { head: ONE_SIDED, centre: least[0] },
            Shape { head: 0, centre: middle[0] },
            Shape { head: 2, centre: middle[1] },
        ];
        let mut widths = shapes.map(|_| Widths::new());
        for stretch in stretches {
            let Some(&first) = stretch.first() else { continue };
            let (mut before, mut delta_before) = (first, middle[1]);
            for &q in stretch {
                let delta = q.wrapping_sub(before);
                widths[0].add(delta.wrapping_sub(least[1]) as u64);
                widths[1].add(zigzag(delta.wrapping_sub(middle[1])));
                widths[2].add(q.wrapping_sub(least[0]) as u64);
                widths[3].add(zigzag(q.wrapping_sub(middle[0])));
                widths[4].add(zigzag(delta.wrapping_sub(delta_before)));
                (before, delta_before) = (q, delta);
            }
        }
        // On a tie the first wins: differences survive what the stretches did not show best.
        let costs = widths.map(|w| w.best().1);
        let best = (0..shapes.len()).min_by_key(|&at| costs[at]).unwrap_or(0);
        shapes[best]
    }

    fn residuals(self, q: &[i64]) -> Vec<u64> {
        let centre = self.centre;
        let mut out = Vec::with_capacity(q.len());
        let mut before = 0i64;
        let deltas = q.iter().map(|&q| q.wrapping_sub(std::mem::replace(&mut before, q)));
        match self.head {
            0 => out.extend(q.iter().map(|&q| zigzag(q.wrapping_sub(centre)))),
            ONE_SIDED => out.extend(q.iter().map(|&q| q.wrapping_sub(centre) as u64)),
            1 => out.extend(deltas.map(|delta| zigzag(delta.wrapping_sub(centre)))),
            2 => {
                let mut delta_before = centre;
                out.extend(
                    deltas
                        .map(|delta| zigzag(delta.wrapping_sub(std::mem::replace(&mut delta_before, delta)))),
                );
            }
            _ => out.extend(deltas.map(|delta| delta.wrapping_sub(centre) as u64)),
        }
        out
    }
}

/// The least item; the second least where only one is negative, as after the reset of a counter.
fn least(q: &[i64], item: impl Fn(usize) -> i64) -> i64 {
    let (mut least, mut second) = (i64::MAX, i64::MAX);
    for at in 0..q.len() {
        let item = item(at);
        second = second.min(item.max(least));
        least = least.min(item);
    }
    if q.is_empty() {
        0
    } else if least < 0 && (0..i64::MAX).contains(&second) {
        second
    } else {
        least
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
    reader: &mut Cursor<'_>,
    count: usize,
    mut sink: impl FnMut(&[i64]),
) -> Result<(), CodecError> {
    if count == 0 {
        return Ok(());
    }
    let head = reader.byte()?;
    let order = head & 3;
    if order == 3 || head & !(3 | HAS_DIVISOR | ONE_SIDED) != 0 || head & (2 | ONE_SIDED) == 2 | ONE_SIDED {
        return Err(CodecError::Malformed("an integer block has an unknown order"));
    }
    let first = reader.zigzag()?;
    let divisor = if head & HAS_DIVISOR != 0 { reader.varint()? as i64 } else { 1 };
    let centre = reader.zigzag()?;
    sink(&[first]);
    let mut residuals = [0u64; CHUNK];
    let mut rows = [0i64; CHUNK];
    let (mut q, mut delta) = (0i64, centre);
    let mut left = count - 1;
    while left > 0 {
        let len = left.min(CHUNK);
        let (residuals, rows) = (&mut residuals[..len], &mut rows[..len]);
        pfor::decode_chunk(reader, residuals)?;
        let pairs = rows.iter_mut().zip(&*residuals);
        match head & !HAS_DIVISOR {
            0 => pairs.for_each(|(row, &z)| *row = unzigzag(z).wrapping_add(centre)),
            ONE_SIDED => pairs.for_each(|(row, &r)| *row = (r as i64).wrapping_add(centre)),
            1 => pairs.for_each(|(row, &z)| {
                q = q.wrapping_add(unzigzag(z).wrapping_add(centre));
                *row = q;
            }),
            2 => pairs.for_each(|(row, &z)| {
                delta = delta.wrapping_add(unzigzag(z));
                q = q.wrapping_add(delta);
                *row = q;
            }),
            _ => pairs.for_each(|(row, &r)| {
                q = q.wrapping_add((r as i64).wrapping_add(centre));
                *row = q;
            }),
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
