//! Streams of bits, most significant first, and the numbers of varying width in them.
//!
//! Source: Prometheus `tsdb/docs/bstream.md`, `tsdb/chunkenc/varbit.go`, `xor.go`.

use stdx::bytes::{CUT_SHORT, Malformed};

/// Appends bits to bytes.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    /// The bits that are not in `bytes` yet, at the upper end.
    open: u64,
    /// How many; below 64.
    used: u32,
}

impl BitWriter {
    /// Starts anew behind `head` bytes of 0, keeping the memory.
    pub(crate) fn restart(&mut self, head: usize) {
        self.bytes.clear();
        self.bytes.resize(head, 0);
        (self.open, self.used) = (0, 0);
    }

    /// Appends the lowest `count` bits (1 to 64) of `value`.
    #[inline]
    pub(crate) fn put(&mut self, value: u64, count: u32) {
        let value = value & (u64::MAX >> (64 - count));
        let end = self.used + count;
        if end < 64 {
            self.open |= value << (64 - end);
            self.used = end;
            return;
        }
        let rest = end - 64;
        self.open |= value >> rest;
        self.bytes.extend_from_slice(&self.open.to_be_bytes());
        self.open = if rest == 0 { 0 } else { value << (64 - rest) };
        self.used = rest;
    }

    /// Appends a varint of whole bytes, as Go's `binary.PutUvarint` makes it.
    pub(crate) fn put_uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.put(value, 8);
    }

    /// The bytes, the last one filled up with 0; `head` is written over their beginning.
    pub(crate) fn finish(&mut self, head: &[u8]) -> &[u8] {
        let open = self.open.to_be_bytes();
        self.bytes.extend_from_slice(&open[..self.used.div_ceil(8) as usize]);
        (self.open, self.used) = (0, 0);
        self.bytes[..head.len()].copy_from_slice(head);
        &self.bytes
    }
}

/// Reads bits from bytes.
#[derive(Debug, Clone)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { bytes, at: 0 }
    }

    /// The next `count` bits (0 to 64).
    #[inline]
    pub(crate) fn get(&mut self, count: u32) -> Result<u64, Malformed> {
        if count > 56 {
            let high = self.get(count - 32)?;
            return Ok(high << 32 | self.get(32)?);
        }
        let first = self.at / 8;
        let skip = (self.at % 8) as u32;
        let mut word = [0; 8];
        if let Some(bytes) = self.bytes.get(first..first + 8) {
            word.copy_from_slice(bytes);
        } else {
            if self.at + count as usize > self.bytes.len() * 8 {
                return Err(CUT_SHORT);
            }
            let rest = &self.bytes[first..];
            word[..rest.len()].copy_from_slice(rest);
        }
        self.at += count as usize;
        let word = u64::from_be_bytes(word) << skip;
        Ok(if count == 0 { 0 } else { word >> (64 - count) })
    }

    pub(crate) fn bit(&mut self) -> Result<bool, Malformed> {
        Ok(self.get(1)? == 1)
    }

    /// A varint of whole bytes.
    pub(crate) fn uvarint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..).step_by(7) {
            let byte = self.get(8)?;
            if shift == 63 && byte > 1 {
                return Err(Malformed("a varint has more than 64 bits"));
            }
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    /// How many of the next bits are 1, at most `max`; the 0 after fewer is read too.
    fn ones(&mut self, max: usize) -> Result<usize, Malformed> {
        let mut ones = 0;
        while ones < max && self.bit()? {
            ones += 1;
        }
        Ok(ones)
    }
}

/// Whether `value` fits into `bits` bits the way the format counts: one more above than below.
fn fits(value: i64, bits: u32) -> bool {
    let half = 1i64 << (bits - 1);
    -(half - 1) <= value && value <= half
}

/// The other way: `bits` bits as a signed number.
fn widen(raw: u64, bits: u32) -> i64 {
    match bits {
        1..64 if raw > 1 << (bits - 1) => raw.wrapping_sub(1 << bits) as i64,
        _ => raw as i64,
    }
}

/// Widths by the number of leading ones: each class but the last also ends its prefix with a 0.
const TIME_WIDTHS: [u32; 5] = [0, 14, 17, 20, 64];
const NUMBER_WIDTHS: [u32; 9] = [0, 3, 6, 9, 12, 18, 25, 56, 64];

#[inline]
fn put_class(out: &mut BitWriter, class: usize, last: usize, value: u64, width: u32) {
    if class < last {
        out.put((1 << (class + 1)) - 2, class as u32 + 1);
    } else {
        out.put((1 << class) - 1, class as u32);
    }
    if width > 0 {
        out.put(value, width);
    }
}

/// Appends a difference of differences of times, as XOR chunks have it.
#[inline]
pub(crate) fn put_time(out: &mut BitWriter, value: i64) {
    if value == 0 {
        return out.put(0, 1);
    }
    let class = (1..4).find(|class| fits(value, TIME_WIDTHS[*class])).unwrap_or(4);
    put_class(out, class, 4, value as u64, TIME_WIDTHS[class]);
}

pub(crate) fn get_time(bits: &mut BitReader<'_>) -> Result<i64, Malformed> {
    let width = TIME_WIDTHS[bits.ones(4)?];
    Ok(widen(bits.get(width)?, width))
}

/// Appends a signed number, as histogram chunks have it.
pub(crate) fn put_int(out: &mut BitWriter, value: i64) {
    let class = match value {
        0 => 0,
        _ => (1..8).find(|class| fits(value, NUMBER_WIDTHS[*class])).unwrap_or(8),
    };
    put_class(out, class, 8, value as u64, NUMBER_WIDTHS[class]);
}

pub(crate) fn get_int(bits: &mut BitReader<'_>) -> Result<i64, Malformed> {
    let width = NUMBER_WIDTHS[bits.ones(8)?];
    Ok(widen(bits.get(width)?, width))
}

/// Appends an unsigned number, as histogram chunks have it.
pub(crate) fn put_uint(out: &mut BitWriter, value: u64) {
    let class = match value {
        0 => 0,
        _ => (1..8).find(|class| value >> NUMBER_WIDTHS[*class] == 0).unwrap_or(8),
    };
    put_class(out, class, 8, value, NUMBER_WIDTHS[class]);
}

pub(crate) fn get_uint(bits: &mut BitReader<'_>) -> Result<u64, Malformed> {
    let width = NUMBER_WIDTHS[bits.ones(8)?];
    bits.get(width)
}

/// A float among its predecessors: the window of bits that the last difference had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct XorFloat {
    pub(crate) bits: u64,
    /// Above 64: no window yet.
    leading: u32,
    trailing: u32,
}

impl XorFloat {
    /// The first value.
    pub(crate) fn new(value: f64) -> XorFloat {
        XorFloat { bits: value.to_bits(), leading: u32::MAX, trailing: 0 }
    }

    pub(crate) fn value(&self) -> f64 {
        f64::from_bits(self.bits)
    }

    /// Appends `value` as the difference to the last one.
    #[inline]
    pub(crate) fn put(&mut self, value: f64, out: &mut BitWriter) {
        let difference = value.to_bits() ^ self.bits;
        self.bits = value.to_bits();
        if difference == 0 {
            return out.put(0, 1);
        }
        let leading = difference.leading_zeros().min(31);
        let trailing = difference.trailing_zeros();
        if self.leading <= leading && self.trailing <= trailing {
            out.put(0b10, 2);
            out.put(difference >> self.trailing, 64 - self.leading - self.trailing);
            return;
        }
        (self.leading, self.trailing) = (leading, trailing);
        let width = 64 - leading - trailing;
        // 64 does not fit into its six bits and is written as 0.
        out.put(0b11 << 11 | u64::from(leading) << 6 | u64::from(width & 63), 13);
        out.put(difference >> trailing, width);
    }

    /// Reads the next value.
    #[inline]
    pub(crate) fn get(&mut self, bits: &mut BitReader<'_>) -> Result<f64, Malformed> {
        if bits.bit()? {
            if bits.bit()? {
                self.leading = bits.get(5)? as u32;
                let width = match bits.get(6)? as u32 {
                    0 => 64,
                    width => width,
                };
                self.trailing = (64u32.checked_sub(self.leading + width))
                    .ok_or(Malformed("the bits of a value are more than 64"))?;
            } else if self.leading > 64 {
                return Err(Malformed("a value repeats a window of bits that none has had"));
            }
            self.bits ^= bits.get(64 - self.leading - self.trailing)? << self.trailing;
        }
        Ok(self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_go_both_ways_at_every_offset() {
        for lead in 1..=64 {
            let mut out = BitWriter::default();
            out.restart(0);
            out.put(1, lead);
            out.put(u64::MAX, 64);
            out.put(0, 1);
            out.put(0x1234_5678_9abc_def0, 61);
            let bytes = out.finish(&[]).to_vec();
            let mut bits = BitReader::new(&bytes);
            assert_eq!(bits.get(lead), Ok(1));
            assert_eq!(bits.get(64), Ok(u64::MAX));
            assert_eq!(bits.get(1), Ok(0));
            assert_eq!(bits.get(61), Ok(0x1234_5678_9abc_def0));
            let used = lead + 64 + 1 + 61;
            let rest = bytes.len() as u32 * 8 - used;
            assert!(rest < 8 && bits.get(rest) == Ok(0) && bits.get(1) == Err(CUT_SHORT));
        }
    }

    #[test]
    fn numbers_at_the_edges_of_their_classes_come_back() {
        let mut numbers = vec![0, i64::MIN, i64::MAX];
        for bits in [3, 6, 9, 12, 14, 17, 18, 20, 25, 56] {
            let half = 1i64 << (bits - 1);
            numbers.extend([half - 1, half, half + 1, 1 - half, -half, -half - 1]);
        }
        for number in numbers {
            let mut out = BitWriter::default();
            put_time(&mut out, number);
            put_int(&mut out, number);
            put_uint(&mut out, number as u64);
            out.put_uvarint(number as u64);
            let bytes = out.finish(&[]).to_vec();
            let mut bits = BitReader::new(&bytes);
            assert_eq!(get_time(&mut bits), Ok(number));
            assert_eq!(get_int(&mut bits), Ok(number));
            assert_eq!(get_uint(&mut bits), Ok(number as u64));
            assert_eq!(bits.uvarint(), Ok(number as u64));
        }
    }
}
