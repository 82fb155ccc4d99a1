//! The last resort: each value as the changed bits against the one before.
//!
//! Source: Pelkonen et al., "Gorilla: a fast, scalable, in-memory time series database", 4.1.3.
//!
//! ```text
//! first value, 64 bits; then a value each, most significant bit first:
//!   0                                   the same as before
//!   10  bits                            changed bits within the window of the last "11"
//!   11  leading 5, length-1 6, bits     a new window
//! ```

use stdx::bytes::Cursor;

use super::CodecError;

/// Appends `values`, padded to a whole byte.
pub(super) fn encode(values: &[f64], out: &mut Vec<u8>) {
    let Some((first, rest)) = values.split_first() else { return };
    out.extend_from_slice(&first.to_bits().to_be_bytes());
    let mut bits = BitWriter { out, word: 0, free: 64 };
    let (mut before, mut leading, mut trailing) = (first.to_bits(), 65u32, 0u32);
    for value in rest {
        let xor = value.to_bits() ^ before;
        before = value.to_bits();
        if xor == 0 {
            bits.put(0, 1);
            continue;
        }
        let (new_leading, new_trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        let old_len = 64u32.saturating_sub(leading + trailing);
        let new_len = 64 - new_leading - new_trailing;
        if leading <= new_leading && trailing <= new_trailing && old_len <= new_len + 11 {
            bits.put(0b10, 2);
            bits.put(xor >> trailing, old_len);
        } else {
            (leading, trailing) = (new_leading, new_trailing);
            bits.put(0b11 << 11 | u64::from(leading) << 6 | u64::from(new_len - 1), 13);
            bits.put(xor >> trailing, new_len);
        }
    }
    bits.finish();
}

/// Reads `count` values and hands them to `sink`.
pub(super) fn decode(
    reader: &mut Cursor<'_>,
    count: usize,
    mut sink: impl FnMut(f64),
) -> Result<(), CodecError> {
    if count == 0 {
        return Ok(());
    }
    let mut before = u64::from_be_bytes(reader.u64_le()?.to_le_bytes());
    sink(f64::from_bits(before));
    let mut bits = BitReader { reader, byte: 0, left: 0 };
    let mut window = None;
    for _ in 1..count {
        if bits.take(1)? == 1 {
            if bits.take(1)? == 1 {
                let leading = bits.take(5)? as u32;
                let len = bits.take(6)? as u32 + 1;
                let trailing = 64u32.checked_sub(leading + len);
                window =
                    Some((len, trailing.ok_or(CodecError::Malformed("a window is wider than a value"))?));
            }
            let (len, trailing) = window.ok_or(CodecError::Malformed("a window is used before it is set"))?;
            before ^= bits.take(len)? << trailing;
        }
        sink(f64::from_bits(before));
    }
    Ok(())
}

struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    word: u64,
    free: u32,
}

impl BitWriter<'_> {
    /// Appends the low `len` (1..=64) bits of `bits`.
    fn put(&mut self, bits: u64, len: u32) {
        let bits = if len == 64 { bits } else { bits & ((1 << len) - 1) };
        if len < self.free {
            self.free -= len;
            self.word |= bits << self.free;
            return;
        }
        let over = len - self.free;
        self.word |= if over == 64 { 0 } else { bits >> over };
        self.out.extend_from_slice(&self.word.to_be_bytes());
        self.free = 64 - over;
        self.word = if over == 0 { 0 } else { bits << self.free };
    }

    fn finish(self) {
        let used = (64 - self.free).div_ceil(8) as usize;
        self.out.extend_from_slice(&self.word.to_be_bytes()[..used]);
    }
}

struct BitReader<'a, 'b> {
    reader: &'a mut Cursor<'b>,
    byte: u8,
    left: u32,
}

impl BitReader<'_, '_> {
    /// Takes `len` (1..=64) bits.
    fn take(&mut self, len: u32) -> Result<u64, CodecError> {
        let mut bits = 0;
        let mut wanted = len;
        while wanted > 0 {
            if self.left == 0 {
                self.byte = self.reader.byte()?;
                self.left = 8;
            }
            let now = wanted.min(self.left);
            let chunk = (u16::from(self.byte) >> (self.left - now)) & ((1 << now) - 1);
            bits = bits << now | u64::from(chunk);
            self.left -= now;
            wanted -= now;
        }
        Ok(bits)
    }
}
