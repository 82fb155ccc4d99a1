//! Patched frames: chunks of 128 unsigned integers, each with its own width, and the few that do not
//! fit it patched.
//!
//! ```text
//! chunk:     width u8 (bit 7: has exceptions) │ [exceptions u8] │ packed low bits │ exceptions
//! exception: position u8 │ high bits varint
//! ```

use stdx::bytes::{Cursor, put_varint};

use super::CodecError;
use super::bitpack::{pack, packed_len, unpack};

/// Integers in a full chunk.
pub(super) const CHUNK: usize = 128;

const HAS_EXCEPTIONS: u8 = 0x80;

/// How many integers have each length in bits.
#[derive(Debug, Clone)]
pub(super) struct Widths([u32; 65]);

impl Widths {
    pub(super) fn new() -> Widths {
        Widths([0; 65])
    }

    pub(super) fn add(&mut self, value: u64) {
        self.0[64 - value.leading_zeros() as usize] += 1;
    }

    /// The cheapest width and what the chunk then costs, in bits, about.
    pub(super) fn best(&self) -> (usize, u64) {
        let count: u64 = self.0.iter().map(|&n| u64::from(n)).sum();
        let widest = self.0.iter().rposition(|&n| n > 0).unwrap_or(0);
        let (mut best, mut best_cost) = (widest, u64::MAX);
        let (mut exceptions, mut exception_bits) = (0u64, 0u64);
        for width in (0..=widest).rev() {
            // An exception costs its position, and a varint of the bits above the width.
            let high_bits = exception_bits - exceptions * width as u64;
            let cost = count * width as u64 + exceptions * 12 + high_bits * 8 / 7;
            if cost <= best_cost && exceptions < CHUNK as u64 {
                (best, best_cost) = (width, cost);
            }
            exceptions += u64::from(self.0[width]);
            exception_bits += u64::from(self.0[width]) * width as u64;
        }
        (best, best_cost)
    }
}

/// Appends `values` in chunks.
pub(super) fn encode(values: &[u64], out: &mut Vec<u8>) {
    for chunk in values.chunks(CHUNK) {
        let mut widths = Widths::new();
        let mut any = 0;
        for &value in chunk {
            widths.add(value);
            any |= value;
        }
        let width = if any == 0 { 0 } else { widths.best().0 };
        let exceptions: u32 = widths.0[width + 1..].iter().sum();
        if exceptions == 0 {
            out.push(width as u8);
            pack(chunk, width, out);
            continue;
        }
        out.extend_from_slice(&[width as u8 | HAS_EXCEPTIONS, exceptions as u8]);
        pack(chunk, width, out);
        for (at, &value) in chunk.iter().enumerate() {
            // Width 64 has no exceptions, so the shift is below 64.
            if value >> width != 0 {
                out.push(at as u8);
                put_varint(out, value >> width);
            }
        }
    }
}

/// Reads one chunk of `out.len()` (at most [`CHUNK`]) integers.
pub(super) fn decode_chunk(reader: &mut Cursor<'_>, out: &mut [u64]) -> Result<(), CodecError> {
    let head = reader.byte()?;
    let width = usize::from(head & !HAS_EXCEPTIONS);
    if width > 64 {
        return Err(CodecError::Malformed("a chunk is wider than 64 bits"));
    }
    let exceptions = if head & HAS_EXCEPTIONS != 0 { reader.byte()? } else { 0 };
    unpack(reader.take(packed_len(out.len(), width))?, width, out);
    for _ in 0..exceptions {
        let at = usize::from(reader.byte()?);
        let high = reader.varint()?;
        let value = out.get_mut(at).ok_or(CodecError::Malformed("an exception lies outside its chunk"))?;
        *value |=
            high.checked_shl(width as u32).ok_or(CodecError::Malformed("a 64-bit chunk has exceptions"))?;
    }
    Ok(())
}
