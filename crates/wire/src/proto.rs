//! Protobuf, as far as the formats here need it: fields pulled one by one from a message, and written.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

/// A message that is not protobuf, or has another type in a field than its schema says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends within a field.
    #[error("{message} ends within a field")]
    Truncated {
        /// The name of the message.
        message: &'static str,
    },
    /// A varint longer than ten bytes, a field number of 0, a group.
    #[error("{message} has a malformed field")]
    Malformed {
        /// The name of the message.
        message: &'static str,
    },
    /// A field is not of the type the schema gives it.
    #[error("{message} has a field of another type than its schema gives it")]
    WrongType {
        /// The name of the message.
        message: &'static str,
    },
    /// More of something than can be taken.
    #[error("{message} has more than {max} {what}")]
    TooMany {
        /// The name of the message.
        message: &'static str,
        /// What there is too much of.
        what: &'static str,
        /// How many may be.
        max: usize,
    },
}

/// The value of a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a message, in the order they stand.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(bytes: &'a [u8], message: &'static str) -> Fields<'a> {
        Fields { rest: bytes, message }
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next field's number and value.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let Some(field) = u32::try_from(tag >> 3).ok().filter(|field| *field > 0) else {
            return Err(DecodeError::Malformed { message: self.message });
        };
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| self.truncated())?;
                self.rest = rest;
                Value::Fixed64(u64::from_le_bytes(*bytes))
            }
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| self.truncated())?;
                let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.truncated())?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            5 => {
                self.rest = self.rest.get(4..).ok_or_else(|| self.truncated())?;
                Value::Fixed32
            }
            _ => return Err(DecodeError::Malformed { message: self.message }),
        };
        Ok(Some((field, value)))
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        match self.rest.first() {
            Some(&byte) if byte < 0x80 => {
                self.rest = &self.rest[1..];
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (i, &byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                if i == 9 && byte > 1 {
                    break;
                }
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        if self.rest.len() < 10 {
            return Err(self.truncated());
        }
        Err(DecodeError::Malformed { message: self.message })
    }

    fn truncated(&self) -> DecodeError {
        DecodeError::Truncated { message: self.message }
    }

    fn wrong_type(&self) -> DecodeError {
        DecodeError::WrongType { message: self.message }
    }
}

impl<'a> Value<'a> {
    #[inline]
    pub(crate) fn bytes(self, of: &Fields<'_>) -> Result<&'a [u8], DecodeError> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(of.wrong_type()),
        }
    }

    #[inline]
    pub(crate) fn double(self, of: &Fields<'_>) -> Result<f64, DecodeError> {
        match self {
            Value::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(of.wrong_type()),
        }
    }

    #[inline]
    pub(crate) fn uint64(self, of: &Fields<'_>) -> Result<u64, DecodeError> {
        match self {
            Value::Varint(value) => Ok(value),
            _ => Err(of.wrong_type()),
        }
    }

    #[inline]
    pub(crate) fn int64(self, of: &Fields<'_>) -> Result<i64, DecodeError> {
        self.uint64(of).map(|value| value as i64)
    }

    /// As protobuf does, the low 32 bits.
    pub(crate) fn uint32(self, of: &Fields<'_>) -> Result<u32, DecodeError> {
        self.uint64(of).map(|value| value as u32)
    }

    pub(crate) fn sint32(self, of: &Fields<'_>) -> Result<i32, DecodeError> {
        self.uint64(of).map(|value| zigzag(u64::from(value as u32)) as i32)
    }

    /// One number of a repeated field, or many packed ones; `each` gets every one.
    pub(crate) fn repeated_varint(
        self,
        of: &Fields<'_>,
        mut each: impl FnMut(u64) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        match self {
            Value::Varint(value) => each(value),
            Value::Bytes(bytes) => {
                let mut packed = Fields::of(bytes, of.message);
                while !packed.rest.is_empty() {
                    each(packed.varint()?)?;
                }
                Ok(())
            }
            _ => Err(of.wrong_type()),
        }
    }

    /// As [`Value::repeated_varint`], for doubles.
    pub(crate) fn repeated_double(
        self,
        of: &Fields<'_>,
        mut each: impl FnMut(f64) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        match self {
            Value::Fixed64(bits) => each(f64::from_bits(bits)),
            Value::Bytes(bytes) => {
                let (chunks, odd) = bytes.as_chunks::<8>();
                if !odd.is_empty() {
                    return Err(of.truncated());
                }
                chunks.iter().try_for_each(|chunk| each(f64::from_le_bytes(*chunk)))
            }
            _ => Err(of.wrong_type()),
        }
    }
}

pub(crate) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Writes fields. Fields with the default value are left out, as proto3 does.
#[derive(Debug, Default, Clone)]
pub(crate) struct Writer {
    pub(crate) out: Vec<u8>,
}

impl Writer {
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn tag(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    pub(crate) fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.uint_always(field, value);
        }
    }

    /// For members of a `oneof`, whose presence counts.
    pub(crate) fn uint_always(&mut self, field: u32, value: u64) {
        self.tag(field, 0);
        self.varint(value);
    }

    pub(crate) fn int(&mut self, field: u32, value: i64) {
        self.uint(field, value as u64);
    }

    pub(crate) fn sint(&mut self, field: u32, value: i64) {
        self.uint(field, unzigzag(value));
    }

    pub(crate) fn double(&mut self, field: u32, value: f64) {
        if value.to_bits() != 0 {
            self.double_always(field, value);
        }
    }

    pub(crate) fn double_always(&mut self, field: u32, value: f64) {
        self.tag(field, 1);
        self.out.extend_from_slice(&value.to_bits().to_le_bytes());
    }

    /// A string or bytes, left out when empty.
    pub(crate) fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.bytes_always(field, text.as_bytes());
        }
    }

    pub(crate) fn bytes_always(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// A message written by `write`. Written in place: its length is put before it afterwards, and only
    /// a message of 128 bytes or more has to move for that.
    pub(crate) fn message(&mut self, field: u32, write: impl FnOnce(&mut Writer)) {
        self.tag(field, 2);
        let at = self.out.len();
        self.out.push(0);
        write(self);
        let len = self.out.len() - at - 1;
        if len < 0x80 {
            self.out[at] = len as u8;
            return;
        }
        let more = len.ilog2() as usize / 7; // bytes of the length behind its first
        self.out.extend_from_slice(&[0; 10][..more]);
        self.out.copy_within(at + 1..at + 1 + len, at + 1 + more);
        for i in 0..=more {
            let bits = (len >> (7 * i)) as u8 & 0x7f;
            self.out[at + i] = if i < more { bits | 0x80 } else { bits };
        }
    }

    /// The head of a message of `len` bytes, which the caller writes behind it.
    pub(crate) fn message_head(&mut self, field: u32, len: u64) {
        self.tag(field, 2);
        self.varint(len);
    }

    pub(crate) fn packed(&mut self, field: u32, values: impl ExactSizeIterator<Item = u64>) {
        if values.len() > 0 {
            self.message(field, |inner| values.for_each(|value| inner.varint(value)));
        }
    }

    pub(crate) fn packed_doubles(&mut self, field: u32, values: &[f64]) {
        if !values.is_empty() {
            self.message(field, |inner| {
                values.iter().for_each(|value| inner.out.extend_from_slice(&value.to_bits().to_le_bytes()));
            });
        }
    }
}

pub(crate) fn unzigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}
