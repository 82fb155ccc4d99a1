//! Character classes: `[a-z]`, `[[:alpha:]]`, `\d`.

use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

use super::{before, error, escape, unicode};
use crate::Error;

/// Reads the class in brackets that `start` begins with, and gives what follows it.
pub(super) fn bracketed(start: &str, fold_case: bool) -> Result<(ClassUnicode, &str), Error> {
    let mut rest = &start[1..];
    let negated = rest.starts_with('^');
    if negated {
        rest = &rest[1..];
    }
    let mut class = ClassUnicode::empty();
    let mut first = true;
    while first || !rest.starts_with(']') {
        first = false;
        let (part, after) = match named(rest, fold_case)? {
            Some(found) => found,
            None => match unicode::class(rest, fold_case)? {
                Some(found) => found,
                None => match perl(rest, fold_case) {
                    Some(class) => (class, &rest[2..]),
                    None => range(rest, start, fold_case)?,
                },
            },
        };
        class.union(&part);
        rest = after;
    }
    if negated {
        class.negate();
    }
    Ok((class, &rest[1..]))
}

/// A character, or a range of them.
fn range<'p>(text: &'p str, whole: &'p str, fold_case: bool) -> Result<(ClassUnicode, &'p str), Error> {
    let (low, mut rest) = character(text, whole)?;
    let mut high = low;
    if rest.len() >= 2 && rest.starts_with('-') && !rest[1..].starts_with(']') {
        (high, rest) = character(&rest[1..], whole)?;
        if high < low {
            return Err(error("invalid character class range", before(text, rest)));
        }
    }
    let mut class = ClassUnicode::empty();
    // Code points between the surrogates' ends exist in a pattern, but in no text.
    let low = char::from_u32(low).unwrap_or('\u{e000}');
    let high = char::from_u32(high).unwrap_or('\u{d7ff}');
    if low <= high {
        class.push(ClassUnicodeRange::new(low, high));
    }
    if fold_case {
        class.case_fold_simple();
    }
    Ok((class, rest))
}

/// One code point; a surrogate is given as 0xd800, whichever it is.
fn character<'p>(text: &'p str, whole: &'p str) -> Result<(u32, &'p str), Error> {
    match text.chars().next() {
        None => Err(error("missing closing ]", whole)),
        Some('\\') => {
            let (c, rest) = escape::character(text)?;
            Ok((c.map_or(0xd800, u32::from), rest))
        }
        Some(c) => Ok((u32::from(c), &text[c.len_utf8()..])),
    }
}

/// `[:alpha:]` and `[:^alpha:]`; `None` when `text` does not begin like one.
fn named(text: &str, fold_case: bool) -> Result<Option<(ClassUnicode, &str)>, Error> {
    if text.len() <= 2 || !text.starts_with("[:") {
        return Ok(None);
    }
    let Some(end) = text[2..].find(":]").map(|at| at + 4) else { return Ok(None) };
    let (whole, rest) = text.split_at(end);
    let name = &whole[2..end - 2];
    let (negated, name) = match name.strip_prefix('^') {
        Some(name) => (true, name),
        None => (false, name),
    };
    let ranges: &[(char, char)] = match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => DIGITS,
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => WORD,
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return Err(error("invalid character class range", whole)),
    };
    Ok(Some((group(ranges, negated, fold_case), rest)))
}

const DIGITS: &[(char, char)] = &[('0', '9')];
const SPACE: &[(char, char)] = &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

/// `\d \D \s \S \w \W`, all ASCII; two bytes long. `None` when `text` begins otherwise.
pub(super) fn perl(text: &str, fold_case: bool) -> Option<ClassUnicode> {
    let (ranges, negated) = match text.as_bytes() {
        [b'\\', b'd', ..] => (DIGITS, false),
        [b'\\', b'D', ..] => (DIGITS, true),
        [b'\\', b's', ..] => (SPACE, false),
        [b'\\', b'S', ..] => (SPACE, true),
        [b'\\', b'w', ..] => (WORD, false),
        [b'\\', b'W', ..] => (WORD, true),
        _ => return None,
    };
    Some(group(ranges, negated, fold_case))
}

/// Case is folded before the group is negated, as Go does it: `(?i)[^\W]` has the Kelvin sign.
fn group(ranges: &[(char, char)], negated: bool, fold_case: bool) -> ClassUnicode {
    let mut class = ClassUnicode::new(ranges.iter().map(|(low, high)| ClassUnicodeRange::new(*low, *high)));
    if fold_case {
        class.case_fold_simple();
    }
    if negated {
        class.negate();
    }
    class
}
