//! Escapes that stand for one character.

use super::{before, error};
use crate::Error;

/// Reads the escape that `start` begins with. The character is `None` when it is a surrogate, which
/// no text contains. Also gives what follows.
pub(super) fn character(start: &str) -> Result<(Option<char>, &str), Error> {
    let mut chars = start[1..].chars();
    let Some(c) = chars.next() else {
        return Err(error("trailing backslash at end of expression", ""));
    };
    let rest = chars.as_str();
    let simple = match c {
        '0'..='7' => return octal(start, c, rest),
        'x' => return hexadecimal(start, rest),
        'a' => '\x07',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
        _ => return Err(invalid(start, rest)),
    };
    Ok((Some(simple), rest))
}

fn invalid(start: &str, rest: &str) -> Error {
    error("invalid escape sequence", before(start, rest))
}

/// `\0`, `\07`, `\123`; a single digit other than zero would be a back-reference.
fn octal<'p>(start: &'p str, first: char, rest: &'p str) -> Result<(Option<char>, &'p str), Error> {
    let is_octal = |b: &u8| (b'0'..=b'7').contains(b);
    let more = rest.bytes().take(2).take_while(is_octal).count();
    if first != '0' && more == 0 {
        return Err(invalid(start, rest));
    }
    let digits = &start[1..2 + more];
    let value = u32::from_str_radix(digits, 8).unwrap_or(0);
    Ok((char::from_u32(value), &rest[more..]))
}

/// `\x7f` and `\x{10FFFF}`.
fn hexadecimal<'p>(start: &'p str, rest: &'p str) -> Result<(Option<char>, &'p str), Error> {
    let mut chars = rest.chars();
    if rest.starts_with('{') {
        chars.next();
        let mut value = 0u32;
        let mut digits = 0;
        while let Some(c) = chars.next() {
            match c.to_digit(16) {
                None if c == '}' && digits > 0 => return Ok((char::from_u32(value), chars.as_str())),
                Some(digit) if value * 16 + digit <= u32::from(char::MAX) => value = value * 16 + digit,
                _ => break,
            }
            digits += 1;
        }
        return Err(invalid(start, chars.as_str()));
    }
    let value = match (chars.next(), chars.next()) {
        (Some(high), Some(low)) => high.to_digit(16).zip(low.to_digit(16)),
        _ => None,
    };
    match value {
        Some((high, low)) => Ok((char::from_u32(high * 16 + low), chars.as_str())),
        None => Err(invalid(start, chars.as_str())),
    }
}
