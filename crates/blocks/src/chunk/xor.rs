//! Chunks of floats: differences of differences of times, differences of bits of values.

use stdx::bytes::{CUT_SHORT, Malformed, unzigzag, zigzag};

use crate::bits::{BitReader, BitWriter, XorFloat, get_time, put_time};

/// Encodes at least one and at most 65,535 samples.
pub(super) fn encode<'o>(times: &[i64], values: &[f64], out: &'o mut BitWriter) -> &'o [u8] {
    out.restart(2);
    let mut value = XorFloat::new(values[0]);
    out.put_uvarint(zigzag(times[0]));
    out.put(value.bits, 64);
    let (mut last, mut delta) = (times[0], 0i64);
    for (at, (&time, &next)) in times.iter().zip(values).enumerate().skip(1) {
        let step = time.wrapping_sub(last);
        if at == 1 {
            out.put_uvarint(step as u64);
        } else {
            put_time(out, step.wrapping_sub(delta));
        }
        value.put(next, out);
        (last, delta) = (time, step);
    }
    out.finish(&(times.len() as u16).to_be_bytes())
}

pub(super) fn decode(data: &[u8], times: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), Malformed> {
    let (head, body) = data.split_at_checked(2).ok_or(CUT_SHORT)?;
    let count = usize::from(u16::from_be_bytes([head[0], head[1]]));
    if count == 0 {
        return Ok(());
    }
    times.reserve(count);
    values.reserve(count);
    let mut bits = BitReader::new(body);
    let mut time = unzigzag(bits.uvarint()?);
    let mut value = XorFloat::new(f64::from_bits(bits.get(64)?));
    let mut delta = 0i64;
    times.push(time);
    values.push(value.value());
    for at in 1..count {
        delta = match at {
            1 => bits.uvarint()? as i64,
            _ => delta.wrapping_add(get_time(&mut bits)?),
        };
        time = time.wrapping_add(delta);
        let next = value.get(&mut bits)?;
        times.push(time);
        values.push(next);
    }
    Ok(())
}
