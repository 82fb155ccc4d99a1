//! Blocks of samples as bytes: exact decimals as integers, patched bit packing, lossless to the bit.
//!
//! The values of a block become integers that lose nothing (`decimal`), those become small residuals
//! (`ints`), and those are bit-packed in chunks of 128 with the few that stick out patched
//! (`pfor`). Blocks carry neither their length nor their count: the directory that points at them
//! does. The bytes are drawn in `docs/formats/codec.md`; the first byte of a value block is its codec:
//!
//! | id | codec | for |
//! | --- | --- | --- |
//! | 1 | const | one bit pattern throughout |
//! | 2 | decimal | `k / 10^e`, NaN and other oddities patched |
//! | 3 | decimal and ulp | float sums: `k / 10^e` and a few units in the last place |
//! | 4 | ordered bits | other floats, as integers in the order of the floats |
//! | 5 | XOR | noise |
//! | 6, 7 | reserved | decimal with pco residuals; difference to the next lower bucket |

mod bitpack;
mod decimal;
mod ints;
mod pfor;
#[cfg(test)]
mod tests;
mod xor;

use stdx::bytes::{CUT_SHORT, Cursor, Malformed, put_varint, unzigzag, zigzag};

/// The most samples of one block. Bounds what a decoder can be talked into.
pub const BLOCK_SAMPLES_MAX: usize = 65_536;

const CONST: u8 = 1;
const DECIMAL: u8 = 2;
const DECIMAL_ULP: u8 = 3;
const ORDERED: u8 = 4;
const XOR: u8 = 5;

/// In a decimal block's second byte: patches follow.
const HAS_PATCHES: u8 = 0x10;

/// Bytes that are not a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the block does.
    #[error("the block ends early")]
    Truncated,
    /// A codec this version does not know.
    #[error("unknown codec {0}")]
    UnknownCodec(u8),
    /// The bytes contradict themselves.
    #[error("{0}")]
    Malformed(&'static str),
    /// More samples are asked for than a block holds.
    #[error("{0} samples are more than a block holds")]
    TooMany(usize),
}

impl From<Malformed> for CodecError {
    fn from(malformed: Malformed) -> CodecError {
        match malformed {
            CUT_SHORT => CodecError::Truncated,
            Malformed(reason) => CodecError::Malformed(reason),
        }
    }
}

/// Appends a block, or nothing where it does not suit.
type Encode = fn(&[f64], &mut Vec<u8>);

/// Whether all `values` have the same bits.
pub fn is_const(values: &[f64]) -> bool {
    values.first().is_none_or(|first| values.iter().all(|v| v.to_bits() == first.to_bits()))
}

/// Appends `values` (at most [`BLOCK_SAMPLES_MAX`]) as one block to `out`. None gives no bytes.
///
/// Every bit comes back: NaN payloads, -0, infinities.
pub fn encode_values(values: &[f64], out: &mut Vec<u8>) {
    assert!(values.len() <= BLOCK_SAMPLES_MAX, "a block of {} samples", values.len());
    let Some(first) = values.first() else { return };
    if is_const(values) {
        out.push(CONST);
        out.extend_from_slice(&first.to_bits().to_le_bytes());
        return;
    }
    if encode_decimal(values, out) {
        return;
    }
    // What is no decimal is rare enough to try what is left and keep the smallest.
    let start = out.len();
    encode_ordered(values, out);
    let mut best = out.len() - start;
    let noisy = best > values.len() * 6;
    let others: [Encode; 2] = [encode_decimal_ulp, encode_xor];
    for other in &others[..if noisy { 2 } else { 1 }] {
        let at = out.len();
        other(values, out);
        let len = out.len() - at;
        if len > 0 && len < best {
            out.copy_within(at.., start);
            best = len;
        }
        out.truncate(start + best);
    }
}

/// Appends a decimal block, or nothing (`false`) when too many values are no decimals.
fn encode_decimal(values: &[f64], out: &mut Vec<u8>) -> bool {
    let Some(exponent) = decimal::choose_exponent(values) else { return false };
    let mut patched = Vec::new();
    let integers = decimal::integers(values, exponent, &mut patched);
    let patches = patch_runs(values, &patched);
    if patches.len() > decimal::exceptions_max(values.len()) {
        return false;
    }
    out.extend_from_slice(&[DECIMAL, exponent as u8 | if patches.is_empty() { 0 } else { HAS_PATCHES }]);
    put_patches(&patches, out);
    ints::encode(&integers, out);
    true
}

fn encode_ordered(values: &[f64], out: &mut Vec<u8>) {
    out.push(ORDERED);
    let integers: Vec<i64> = values.iter().map(|&v| decimal::ordered(v)).collect();
    ints::encode(&integers, out);
}

/// Appends a block of decimals that are a few units in the last place off, or nothing.
fn encode_decimal_ulp(values: &[f64], out: &mut Vec<u8>) {
    let exponent = decimal::choose_ulp_exponent(values);
    let power = decimal::POWERS[exponent];
    let (mut integers, mut ulps) = (Vec::with_capacity(values.len()), Vec::with_capacity(values.len()));
    let mut patched = Vec::new();
    for (at, &value) in values.iter().enumerate() {
        let (k, ulp) = decimal::near(value, power).unwrap_or_else(|| {
            patched.push(at);
            (integers.last().copied().unwrap_or(0), 0)
        });
        integers.push(k);
        ulps.push(zigzag(ulp));
    }
    let patches = patch_runs(values, &patched);
    if patches.len() > decimal::exceptions_max(values.len()) {
        return;
    }
    out.extend_from_slice(&[DECIMAL_ULP, exponent as u8 | if patches.is_empty() { 0 } else { HAS_PATCHES }]);
    put_patches(&patches, out);
    ints::encode(&integers, out);
    pfor::encode(&ulps, out);
}

fn encode_xor(values: &[f64], out: &mut Vec<u8>) {
    out.push(XOR);
    xor::encode(values, out);
}

/// Rows `at..at + len` all hold `bits`.
#[derive(Debug, Clone, Copy)]
struct Patch {
    at: usize,
    len: usize,
    bits: u64,
}

fn patch_runs(values: &[f64], patched: &[usize]) -> Vec<Patch> {
    let mut runs: Vec<Patch> = Vec::new();
    for &at in patched {
        let bits = values[at].to_bits();
        match runs.last_mut() {
            Some(run) if run.at + run.len == at && run.bits == bits => run.len += 1,
            _ => runs.push(Patch { at, len: 1, bits }),
        }
    }
    runs
}

fn put_patches(patches: &[Patch], out: &mut Vec<u8>) {
    if patches.is_empty() {
        return;
    }
    put_varint(out, patches.len() as u64);
    let mut end = 0;
    for patch in patches {
        put_varint(out, (patch.at - end) as u64);
        put_varint(out, patch.len as u64);
        out.extend_from_slice(&patch.bits.to_le_bytes());
        end = patch.at + patch.len;
    }
}

fn read_patches(reader: &mut Cursor<'_>, count: usize) -> Result<Vec<Patch>, CodecError> {
    let runs = reader.at_most(count)?;
    let mut patches = Vec::with_capacity(runs.min(reader.remaining() / 10));
    let mut end = 0;
    for _ in 0..runs {
        let at = end + reader.at_most(count - end)?;
        let len = reader.at_most(count - at)?;
        patches.push(Patch { at, len, bits: reader.u64_le()? });
        end = at + len;
    }
    Ok(patches)
}

/// Appends the `count` values of the block at the start of `bytes` to `out`, and says how long the
/// block is. On an error `out` is as before.
///
/// # Errors
/// [`CodecError`] for bytes that [`encode_values`] did not make, as far as that shows.
pub fn decode_values(bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Result<usize, CodecError> {
    let start = out.len();
    let mut reader = Cursor::new(bytes);
    match read_values(&mut reader, count, out) {
        Ok(()) => Ok(reader.position()),
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

fn read_values(reader: &mut Cursor<'_>, count: usize, out: &mut Vec<f64>) -> Result<(), CodecError> {
    if count > BLOCK_SAMPLES_MAX {
        return Err(CodecError::TooMany(count));
    }
    if count == 0 {
        return Ok(());
    }
    let start = out.len();
    match reader.byte()? {
        CONST => {
            let value = f64::from_bits(reader.u64_le()?);
            out.resize(start + count, value);
        }
        DECIMAL => {
            let (exponent, patches) = read_decimal_head(reader, count)?;
            if exponent == 0 {
                ints::decode(reader, count, |ks| out.extend(ks.iter().map(|&k| k as f64)))?;
            } else {
                let power = decimal::POWERS[exponent];
                ints::decode(reader, count, |ks| {
                    out.extend(ks.iter().map(|&k| decimal::to_float(k, power)))
                })?;
            }
            apply_patches(&patches, &mut out[start..]);
        }
        DECIMAL_ULP => {
            let (exponent, patches) = read_decimal_head(reader, count)?;
            let power = decimal::POWERS[exponent];
            ints::decode(reader, count, |ks| out.extend(ks.iter().map(|&k| k as f64 / power)))?;
            let mut ulps = [0u64; pfor::CHUNK];
            for values in out[start..].chunks_mut(pfor::CHUNK) {
                let ulps = &mut ulps[..values.len()];
                pfor::decode_chunk(reader, ulps)?;
                for (value, &ulp) in values.iter_mut().zip(&*ulps) {
                    *value = decimal::unordered(decimal::ordered(*value).wrapping_add(unzigzag(ulp)));
                }
            }
            apply_patches(&patches, &mut out[start..]);
        }
        ORDERED => ints::decode(reader, count, |ks| out.extend(ks.iter().map(|&k| decimal::unordered(k))))?,
        XOR => xor::decode(reader, count, |value| out.push(value))?,
        other => return Err(CodecError::UnknownCodec(other)),
    }
    Ok(())
}

fn read_decimal_head(reader: &mut Cursor<'_>, count: usize) -> Result<(usize, Vec<Patch>), CodecError> {
    let head = reader.byte()?;
    let exponent = usize::from(head & !HAS_PATCHES);
    if exponent > decimal::EXPONENT_MAX {
        return Err(CodecError::Malformed("a decimal block has an unknown exponent"));
    }
    let patches = if head & HAS_PATCHES != 0 { read_patches(reader, count)? } else { Vec::new() };
    Ok((exponent, patches))
}

fn apply_patches(patches: &[Patch], values: &mut [f64]) {
    for patch in patches {
        values[patch.at..patch.at + patch.len].fill(f64::from_bits(patch.bits));
    }
}

/// Appends `values` (at most [`BLOCK_SAMPLES_MAX`]), such as times, as one block to `out`. None gives
/// no bytes.
pub fn encode_ints(values: &[i64], out: &mut Vec<u8>) {
    assert!(values.len() <= BLOCK_SAMPLES_MAX, "a block of {} integers", values.len());
    ints::encode(values, out);
}

/// Appends the `count` integers of the block at the start of `bytes` to `out`, and says how long the
/// block is. On an error `out` is as before.
///
/// # Errors
/// [`CodecError`] for bytes that [`encode_ints`] did not make, as far as that shows.
pub fn decode_ints(bytes: &[u8], count: usize, out: &mut Vec<i64>) -> Result<usize, CodecError> {
    if count > BLOCK_SAMPLES_MAX {
        return Err(CodecError::TooMany(count));
    }
    let start = out.len();
    let mut reader = Cursor::new(bytes);
    match ints::decode(&mut reader, count, |run| out.extend_from_slice(run)) {
        Ok(()) => Ok(reader.position()),
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Feeds arbitrary bytes to both decoders, for a fuzzer: they must neither panic nor allocate beyond
/// the block. The first two bytes choose the count.
pub fn fuzz_decoders(bytes: &[u8]) {
    let Some((count, block)) = bytes.split_first_chunk::<2>() else { return };
    let count = usize::from(u16::from_le_bytes(*count));
    let (mut values, mut integers) = (Vec::new(), Vec::new());
    let decoded = decode_values(block, count, &mut values);
    assert_eq!(values.len(), if decoded.is_ok() { count } else { 0 });
    let decoded = decode_ints(block, count, &mut integers);
    assert_eq!(integers.len(), if decoded.is_ok() { count } else { 0 });
}
