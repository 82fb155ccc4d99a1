//! What numbers and strings stand for. Durations are `model::duration`'s.
//!
//! Source: Go `strconv.ParseInt` with base 0 and `strconv.ParseFloat`; Prometheus
//! `util/strutil/quote.go`.

use super::quote::quote;

/// The value of a number as written: decimal, octal with a leading 0, `0x` hexadecimal, float, `Inf`,
/// `NaN`; underscores may stand between digits.
///
/// # Errors
/// A message for text that is no number or overflows.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    let refused = |reason: &str| {
        Err(format!("error parsing number: strconv.ParseFloat: parsing {}: {reason}", quote(text)))
    };
    let plain = if text.contains('_') {
        if !underscores_between_digits(text) {
            return refused("invalid syntax");
        }
        text.replace('_', "")
    } else {
        text.to_owned()
    };
    if let Some(value) = integer(&plain) {
        return Ok(value as f64);
    }
    model::number::parse_float(&plain).or_else(|error| refused(&error.to_string()))
}

fn integer(plain: &str) -> Option<i64> {
    let (digits, radix) = match plain.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&plain[2..], 16),
        [b'0', _, ..] => (&plain[1..], 8),
        _ => (plain, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(digits, radix).ok()
}

/// Whether every underscore has a digit (or the `0x`) before it and a digit behind it.
fn underscores_between_digits(text: &str) -> bool {
    let (hexadecimal, number) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(number) => (true, number),
        None => (false, text),
    };
    let digit = |b: &u8| b.is_ascii_digit() || (hexadecimal && b.is_ascii_hexdigit());
    let bytes = number.as_bytes();
    bytes.iter().enumerate().filter(|(_, b)| **b == b'_').all(|(at, _)| {
        let before = if at == 0 { hexadecimal } else { digit(&bytes[at - 1]) };
        before && bytes.get(at + 1).is_some_and(digit)
    })
}

/// The text that a string token stands for: between back-quotes as it is, between other quotes with
/// Go's escapes undone. The lexer has checked that escapes are whole.
///
/// # Errors
/// A message when `\x..` and octal escapes, which stand for bytes, do not make UTF-8.
pub(crate) fn unquote(token: &str) -> Result<String, String> {
    let refused = |reason: &str| format!("error unquoting string {}: {reason}", quote(token));
    let inner = token.get(1..token.len().wrapping_sub(1)).ok_or_else(|| refused("invalid syntax"))?;
    if token.starts_with('`') || !inner.contains('\\') {
        return Ok(inner.to_owned());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        let decoded = if c == '\\' { escape(&mut rest) } else { Some(Decoded::Char(c)) };
        match decoded.ok_or_else(|| refused("invalid syntax"))? {
            Decoded::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Decoded::Byte(b) => bytes.push(b),
        }
    }
    String::from_utf8(bytes).map_err(|_| refused("invalid UTF-8"))
}

enum Decoded {
    Char(char),
    Byte(u8),
}

/// The escape behind a backslash.
fn escape(rest: &mut std::str::Chars<'_>) -> Option<Decoded> {
    let octal = rest.clone();
    Some(match rest.next()? {
        'x' => Decoded::Byte(u8::try_from(digits(rest, 2, 16)?).ok()?),
        'u' => Decoded::Char(char::from_u32(digits(rest, 4, 16)?)?),
        'U' => Decoded::Char(char::from_u32(digits(rest, 8, 16)?)?),
        '0'..='7' => {
            *rest = octal;
            Decoded::Byte(u8::try_from(digits(rest, 3, 8)?).ok()?)
        }
        'a' => Decoded::Char('\x07'),
        'b' => Decoded::Char('\x08'),
        'f' => Decoded::Char('\x0c'),
        'n' => Decoded::Char('\n'),
        'r' => Decoded::Char('\r'),
        't' => Decoded::Char('\t'),
        'v' => Decoded::Char('\x0b'),
        c @ ('\\' | '"' | '\'') => Decoded::Char(c),
        _ => return None,
    })
}

fn digits(rest: &mut std::str::Chars<'_>, count: usize, radix: u32) -> Option<u32> {
    (0..count).try_fold(0u32, |value, _| {
        Some(value.wrapping_mul(radix).wrapping_add(rest.next()?.to_digit(radix)?))
    })
}
