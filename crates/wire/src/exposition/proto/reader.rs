//! Fields of a message that stands somewhere in a body; errors name the byte.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use std::ops::Range;

use super::super::line::Problem;

/// The value of a field.
#[derive(Debug, Clone)]
pub(in super::super) enum Value {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    /// A message, a text or packed numbers: where in the body.
    Bytes(Range<usize>),
}

/// The fields of a message, in the order they stand.
#[derive(Debug, Clone)]
pub(in super::super) struct Fields<'a> {
    body: &'a [u8],
    pos: usize,
    end: usize,
    message: &'static str,
}

impl<'a> Fields<'a> {
    /// The message called `message` at `range`, which lies within the body.
    pub(in super::super) fn of(body: &'a [u8], range: Range<usize>, message: &'static str) -> Fields<'a> {
        Fields { body, pos: range.start, end: range.end.min(body.len()), message }
    }

    /// Where the next field begins.
    pub(in super::super) fn pos(&self) -> usize {
        self.pos
    }

    pub(in super::super) fn is_at_end(&self) -> bool {
        self.pos >= self.end
    }

    /// The next field's number and value.
    #[inline]
    pub(in super::super) fn next(&mut self) -> Result<Option<(u32, Value)>, Problem> {
        if self.pos >= self.end {
            return Ok(None);
        }
        let start = self.pos;
        let tag = self.varint()?;
        let Some(field) = u32::try_from(tag >> 3).ok().filter(|field| *field > 0) else {
            return Err(self.problem_at(start, "has a field without a valid number"));
        };
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.take::<8>()?)),
            2 => Value::Bytes(self.delimited()?),
            5 => {
                self.take::<4>()?;
                Value::Fixed32
            }
            kind => return Err(self.problem_at(start, &format!("has a field of wire type {kind}"))),
        };
        Ok(Some((field, value)))
    }

    /// The range of what a length stands before.
    #[inline]
    pub(in super::super) fn delimited(&mut self) -> Result<Range<usize>, Problem> {
        let at = self.pos;
        let len = self.varint()?;
        let end = usize::try_from(len).ok().and_then(|len| self.pos.checked_add(len));
        match end.filter(|end| *end <= self.end) {
            Some(end) => {
                let range = self.pos..end;
                self.pos = end;
                Ok(range)
            }
            None => {
                let rest = self.end - self.pos;
                Err(self.problem_at(at, &format!("states a length of {len} bytes where {rest} are left")))
            }
        }
    }

    #[inline]
    pub(in super::super) fn varint(&mut self) -> Result<u64, Problem> {
        match self.body[..self.end].get(self.pos) {
            Some(&byte) if byte < 0x80 => {
                self.pos += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Problem> {
        let mut value = 0u64;
        for (i, &byte) in self.body[self.pos.min(self.end)..self.end].iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                if i == 9 && byte > 1 {
                    break;
                }
                self.pos += i + 1;
                return Ok(value);
            }
        }
        let what = if self.end - self.pos < 10 {
            "ends within a number"
        } else {
            "has a number of more than 64 bits"
        };
        Err(self.problem_at(self.pos, what))
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        match self.body[..self.end].get(self.pos..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(bytes) => {
                self.pos += N;
                Ok(*bytes)
            }
            None => Err(self.problem_at(self.pos, "ends within a number")),
        }
    }

    /// `<message> <what>`, at byte `at`.
    pub(in super::super) fn problem_at(&self, at: usize, what: &str) -> Problem {
        Problem::new(at, format!("{} {what}", self.message))
    }

    fn wrong_type(&self) -> Problem {
        self.problem_at(self.pos, "has a field of another type than its schema gives it")
    }
}

impl Value {
    #[inline]
    pub(in super::super) fn bytes(self, of: &Fields<'_>) -> Result<Range<usize>, Problem> {
        match self {
            Value::Bytes(range) => Ok(range),
            _ => Err(of.wrong_type()),
        }
    }

    #[inline]
    pub(in super::super) fn double(self, of: &Fields<'_>) -> Result<f64, Problem> {
        match self {
            Value::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(of.wrong_type()),
        }
    }

    #[inline]
    pub(in super::super) fn uint64(self, of: &Fields<'_>) -> Result<u64, Problem> {
        match self {
            Value::Varint(value) => Ok(value),
            _ => Err(of.wrong_type()),
        }
    }

    pub(in super::super) fn int64(self, of: &Fields<'_>) -> Result<i64, Problem> {
        self.uint64(of).map(|value| value as i64)
    }

    /// As protobuf does, the low 32 bits.
    pub(in super::super) fn int32(self, of: &Fields<'_>) -> Result<i32, Problem> {
        self.uint64(of).map(|value| value as i32)
    }

    pub(in super::super) fn sint32(self, of: &Fields<'_>) -> Result<i32, Problem> {
        self.uint64(of).map(|value| zigzag(u64::from(value as u32)) as i32)
    }

    /// One number of a repeated field, or many packed ones; `each` gets every one.
    pub(in super::super) fn sint64s(
        self,
        of: &Fields<'_>,
        mut each: impl FnMut(i64) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        match self {
            Value::Varint(value) => each(zigzag(value)),
            Value::Bytes(range) => {
                let mut packed = Fields::of(of.body, range, of.message);
                while !packed.is_at_end() {
                    each(zigzag(packed.varint()?))?;
                }
                Ok(())
            }
            _ => Err(of.wrong_type()),
        }
    }

    /// As [`Value::sint64s`], for doubles.
    pub(in super::super) fn doubles(
        self,
        of: &Fields<'_>,
        mut each: impl FnMut(f64) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        match self {
            Value::Fixed64(bits) => each(f64::from_bits(bits)),
            Value::Bytes(range) => {
                let mut packed = Fields::of(of.body, range, of.message);
                while !packed.is_at_end() {
                    each(f64::from_bits(u64::from_le_bytes(packed.take::<8>()?)))?;
                }
                Ok(())
            }
            _ => Err(of.wrong_type()),
        }
    }
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
