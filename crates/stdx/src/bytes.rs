//! Numbers and texts as bytes, and back with every bound checked: LEB128 with zigzag for signed numbers,
//! fixed width where a format says so, texts behind their lengths.
//!
//! The formats that use it say in `docs/formats` what stands where.

/// Bytes that do not say what they should: what is wrong with them, for an error message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// The bytes end before what they announce does.
pub const CUT_SHORT: Malformed = Malformed("the bytes end too early");

const TOO_WIDE: Malformed = Malformed("a number has more than 64 bits");

/// Appends `value`, seven bits a byte, low bits first.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed `value`, zigzag.
#[inline]
pub fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, zigzag(value));
}

/// Appends `bytes` behind their number.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a text behind its length in bytes.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Small magnitudes of either sign to small numbers.
#[inline]
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Reads from the front of a slice. After an error it stands somewhere within what it could not read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Cursor<'a> {
    /// At the first of `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes, len: bytes.len() }
    }

    /// What has not been read.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// How many bytes have not been read.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// How many bytes have been read.
    #[inline]
    pub fn position(&self) -> usize {
        self.len - self.rest.len()
    }

    /// Whether everything has been read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// # Errors
    /// [`CUT_SHORT`], as of all that reads.
    #[inline]
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(first)
    }

    /// # Errors
    /// There are fewer than `len` bytes.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    /// # Errors
    /// There are fewer than `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// # Errors
    /// The number ends early, or has more than 64 bits.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        if let Some((&first, rest)) = self.rest.split_first()
            && first < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(TOO_WIDE)
    }

    /// # Errors
    /// As of [`Cursor::varint`].
    #[inline]
    pub fn zigzag(&mut self) -> Result<i64, Malformed> {
        Ok(unzigzag(self.varint()?))
    }

    /// A varint that fits 32 bits.
    ///
    /// # Errors
    /// It does not, or as of [`Cursor::varint`].
    #[inline]
    pub fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.varint()?).map_err(|_| Malformed("a number has more than 32 bits"))
    }

    /// A number of things that take at least `least` bytes each: never more than there can follow, so that a
    /// forged count cannot ask for memory.
    ///
    /// # Errors
    /// There cannot follow so many, or as of [`Cursor::varint`].
    #[inline]
    pub fn count(&mut self, least: usize) -> Result<usize, Malformed> {
        let count = self.varint()?;
        if count > (self.rest.len() / least.max(1)) as u64 {
            return Err(Malformed("a count is past the end"));
        }
        Ok(count as usize)
    }

    /// A number of at most `max`, for what need not take a byte each.
    ///
    /// # Errors
    /// It is larger, or as of [`Cursor::varint`].
    #[inline]
    pub fn at_most(&mut self, max: usize) -> Result<usize, Malformed> {
        let value = self.varint()?;
        usize::try_from(value).ok().filter(|value| *value <= max).ok_or(Malformed("a count is too large"))
    }

    /// Bytes behind their number.
    ///
    /// # Errors
    /// There are not so many.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.count(1)?;
        self.take(len)
    }

    /// A text behind its length.
    ///
    /// # Errors
    /// It ends early, or is not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// Four bytes, the lowest first.
    ///
    /// # Errors
    /// There are fewer.
    #[inline]
    pub fn u32_le(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, the lowest first.
    ///
    /// # Errors
    /// There are fewer.
    #[inline]
    pub fn u64_le(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Sixteen bytes, the lowest first.
    ///
    /// # Errors
    /// There are fewer.
    #[inline]
    pub fn u128_le(&mut self) -> Result<u128, Malformed> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// Four bytes, the highest first.
    ///
    /// # Errors
    /// There are fewer.
    #[inline]
    pub fn u32_be(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes, the highest first.
    ///
    /// # Errors
    /// There are fewer.
    #[inline]
    pub fn u64_be(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_no_byte_less_will_do() {
        for value in [0, 1, -1, 63, -64, 64, 300, 1 << 40, i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_zigzag(&mut bytes, value);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(cursor.zigzag(), Ok(value));
            assert_eq!((cursor.position(), cursor.remaining()), (bytes.len(), 0));
            let cut = &bytes[..bytes.len() - 1];
            assert_eq!(Cursor::new(cut).zigzag(), Err(CUT_SHORT), "{value}");
        }
    }

    #[test]
    fn texts_come_back() {
        let mut bytes = Vec::new();
        put_text(&mut bytes, "grün");
        put_bytes(&mut bytes, &[0xff]);
        let mut cursor = Cursor::new(&bytes);
        assert_eq!(cursor.text(), Ok("grün"));
        assert_eq!(cursor.text(), Err(Malformed("a text is not UTF-8")));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let wide = [0xff; 10];
        assert_eq!(Cursor::new(&wide).varint(), Err(TOO_WIDE));
        // 2^64 - 1 is the widest.
        let widest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(Cursor::new(&widest).varint(), Ok(u64::MAX));
        assert_eq!(Cursor::new(&widest).small(), Err(Malformed("a number has more than 32 bits")));
        // Three things of two bytes do not fit five.
        let counted = [3, 0, 0, 0, 0, 0];
        assert_eq!(Cursor::new(&counted).count(2), Err(Malformed("a count is past the end")));
        assert_eq!(Cursor::new(&counted).count(1), Ok(3));
        assert_eq!(Cursor::new(&counted).at_most(2), Err(Malformed("a count is too large")));
        assert_eq!(Cursor::new(&counted).take(7), Err(CUT_SHORT));
    }
}
