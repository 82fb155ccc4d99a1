//! Go's syntax, read into regex-syntax's representation.
//!
//! A stack machine like Go's own, because what is and is not an error, and which part of the
//! pattern an error names, follow from its working: items are pushed as they are read, a repetition
//! operator wraps the item on top, and a bar or a closing parenthesis collapses what lies above the
//! last opening one.
//!
//! Source: Go `regexp/syntax`, flags `Perl | DotNL`.

use regex_syntax::hir::{Capture, ClassUnicode, ClassUnicodeRange, Dot, Hir, HirKind, Look, Repetition};

use crate::Error;

mod class;
mod escape;
mod unicode;

/// Deepest nesting of groups and operators. Source: Go `maxHeight`.
const HEIGHT_MAX: usize = 1000;
/// Largest repeat count, also of the product of nested ones.
const REPEAT_MAX: usize = 1000;

/// A pattern that follows the syntax.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// What it means; capture groups are numbered from 1 and have no names.
    pub(crate) hir: Hir,
    /// The groups' names, by number; Go lets several groups share one.
    pub(crate) names: Vec<Option<Box<str>>>,
    /// Levels of nesting.
    pub(crate) height: usize,
}

/// Parses `pattern`; with `dot_matches_newline` as if within `(?s:...)`.
pub(crate) fn parse(pattern: &str, dot_matches_newline: bool) -> Result<Parsed, Error> {
    let flags = Flags { dot_matches_newline, ..Flags::default() };
    let names = vec![None];
    let mut parser =
        Parser { whole: pattern, rest: pattern, flags, stack: Vec::new(), names, last_repeat: "" };
    while !parser.rest.is_empty() {
        let repeat = parser.step()?;
        parser.last_repeat = repeat;
    }
    parser.finish()
}

#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    fold_case: bool,
    multi_line: bool,
    dot_matches_newline: bool,
    swap_greedy: bool,
}

enum Item {
    Part(Part),
    /// `capture` is the number of a capturing group; `flags` hold again behind the group.
    LeftParen {
        capture: Option<u32>,
        flags: Flags,
    },
    Bar,
}

struct Part {
    hir: Hir,
    /// Levels of nesting; a leaf has one.
    height: usize,
    /// The product of nested counted repetitions, by the deepest path.
    repeats: usize,
}

impl Part {
    fn leaf(hir: Hir) -> Part {
        Part { hir, height: 1, repeats: 1 }
    }
}

struct Parser<'p> {
    whole: &'p str,
    /// What has not been read yet: always a tail of `whole`.
    rest: &'p str,
    flags: Flags,
    stack: Vec<Item>,
    /// Names of the groups so far; the whole match is number 0.
    names: Vec<Option<Box<str>>>,
    /// The repetition operator just before `rest`, with everything after it; empty when there is none.
    last_repeat: &'p str,
}

/// Makes an error of Go's words.
fn error(message: &str, fragment: &str) -> Error {
    Error { message: message.to_owned(), fragment: fragment.to_owned() }
}

/// The part of `from` that precedes `rest`, its tail.
fn before<'p>(from: &'p str, rest: &str) -> &'p str {
    &from[..from.len() - rest.len()]
}

impl<'p> Parser<'p> {
    /// Reads one item. Gives the text from it on if it was a repetition operator, else nothing.
    fn step(&mut self) -> Result<&'p str, Error> {
        let start = self.rest;
        let Some(c) = start.chars().next() else { return Ok("") };
        let after = &start[c.len_utf8()..];
        match c {
            '(' if after.starts_with('?') => self.perl_group()?,
            '(' => self.capture(None, after),
            ')' => self.right_paren(after)?,
            '|' => {
                self.concat()?;
                self.stack.push(Item::Bar);
                self.rest = after;
            }
            '^' => self.look(if self.flags.multi_line { Look::StartLF } else { Look::Start }, after),
            '$' => self.look(if self.flags.multi_line { Look::EndLF } else { Look::End }, after),
            '.' => {
                let all = self.flags.dot_matches_newline;
                self.push(Hir::dot(if all { Dot::AnyChar } else { Dot::AnyCharExceptLF }));
                self.rest = after;
            }
            '[' => {
                let (class, rest) = class::bracketed(start, self.flags.fold_case)?;
                self.push_class(class);
                self.rest = rest;
            }
            '*' => return self.repeat(0, None, start, after),
            '+' => return self.repeat(1, None, start, after),
            '?' => return self.repeat(0, Some(1), start, after),
            '{' => match counted(start) {
                Some((Some((min, max)), after)) => return self.repeat(min, max, start, after),
                Some((None, after)) => return Err(error("invalid repeat count", before(start, after))),
                None => self.literal(c, after),
            },
            '\\' => self.escape()?,
            _ => self.literal(c, after),
        }
        Ok("")
    }

    fn push(&mut self, hir: Hir) {
        self.stack.push(Item::Part(Part::leaf(hir)));
    }

    fn push_class(&mut self, class: ClassUnicode) {
        self.push(Hir::class(regex_syntax::hir::Class::Unicode(class)));
    }

    fn look(&mut self, look: Look, rest: &'p str) {
        self.push(Hir::look(look));
        self.rest = rest;
    }

    fn literal(&mut self, c: char, rest: &'p str) {
        self.rest = rest;
        if self.flags.fold_case {
            let mut class = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
            class.case_fold_simple();
            self.push_class(class);
        } else {
            let mut utf8 = [0; 4];
            self.push(Hir::literal(c.encode_utf8(&mut utf8).as_bytes()));
        }
    }

    /// Everything that a backslash begins.
    fn escape(&mut self) -> Result<(), Error> {
        let start = self.rest;
        let after = start.get(2..);
        match start.as_bytes().get(1) {
            Some(b'A') => self.look(Look::Start, &start[2..]),
            Some(b'z') => self.look(Look::End, &start[2..]),
            Some(b'b') => self.look(Look::WordAscii, &start[2..]),
            Some(b'B') => self.look(Look::WordAsciiNegate, &start[2..]),
            Some(b'C') => return Err(error("invalid escape sequence", &start[..2])),
            Some(b'Q') => {
                let quoted = &start[2..];
                let (text, rest) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                for c in text.chars() {
                    self.literal(c, rest);
                }
                self.rest = rest;
            }
            _ => {
                let class = match unicode::class(start, self.flags.fold_case)? {
                    Some(found) => Some(found),
                    None => class::perl(start, self.flags.fold_case).zip(after),
                };
                if let Some((class, rest)) = class {
                    self.push_class(class);
                    self.rest = rest;
                } else {
                    let (c, rest) = escape::character(start)?;
                    match c {
                        Some(c) => self.literal(c, rest),
                        None => self.push(Hir::fail()),
                    }
                    self.rest = rest;
                }
            }
        }
        Ok(())
    }

    /// Wraps the item on top. `start` begins at the operator, `after` behind it.
    fn repeat(
        &mut self,
        min: usize,
        max: Option<usize>,
        start: &'p str,
        after: &'p str,
    ) -> Result<&'p str, Error> {
        let lazy = after.starts_with('?');
        let after = if lazy { &after[1..] } else { after };
        if !self.last_repeat.is_empty() {
            return Err(error("invalid nested repetition operator", before(self.last_repeat, after)));
        }
        let Some(Item::Part(_)) = self.stack.last() else {
            return Err(error("missing argument to repetition operator", before(start, after)));
        };
        let Some(Item::Part(part)) = self.stack.pop() else { return Ok("") };
        let repeats = match start.starts_with('{').then(|| max.unwrap_or(min)) {
            Some(0) => 1,
            Some(count) => count.saturating_mul(part.repeats),
            None => part.repeats,
        };
        let counts = min >= 2 || max.is_some_and(|max| max >= 2);
        if counts && repeats > REPEAT_MAX {
            return Err(error("invalid repeat count", before(start, after)));
        }
        let repetition = Repetition {
            min: min as u32,
            max: max.map(|max| max as u32),
            greedy: lazy == self.flags.swap_greedy,
            sub: Box::new(part.hir),
        };
        self.push_part(Part { hir: Hir::repetition(repetition), height: part.height + 1, repeats })?;
        self.rest = after;
        Ok(start)
    }

    fn push_part(&mut self, part: Part) -> Result<(), Error> {
        if part.height > HEIGHT_MAX {
            return Err(error("expression nests too deeply", self.whole));
        }
        self.stack.push(Item::Part(part));
        Ok(())
    }

    /// Makes one item of those above the last bar or opening parenthesis.
    fn concat(&mut self) -> Result<(), Error> {
        let start = self.stack.iter().rposition(|item| !matches!(item, Item::Part(_))).map_or(0, |at| at + 1);
        let joined = join(self.stack.drain(start..), Hir::concat);
        self.push_part(joined)
    }

    /// Makes one item of the alternatives above the last opening parenthesis.
    fn alternate(&mut self) -> Result<(), Error> {
        self.concat()?;
        let start =
            self.stack.iter().rposition(|item| matches!(item, Item::LeftParen { .. })).map_or(0, |at| at + 1);
        let joined = join(self.stack.drain(start..), Hir::alternation);
        self.push_part(joined)
    }

    fn right_paren(&mut self, after: &'p str) -> Result<(), Error> {
        self.alternate()?;
        let inner = self.stack.pop();
        let (Some(Item::Part(inner)), Some(Item::LeftParen { capture, flags })) = (inner, self.stack.pop())
        else {
            return Err(error("unexpected )", self.whole));
        };
        self.flags = flags;
        self.rest = after;
        match capture {
            None => self.push_part(inner),
            Some(index) => {
                let hir = Hir::capture(Capture { index, name: None, sub: Box::new(inner.hir) });
                self.push_part(Part { hir, height: inner.height + 1, repeats: inner.repeats })
            }
        }
    }

    /// `(?P<name>`, `(?<name>`, `(?flags:` and `(?flags)`.
    fn perl_group(&mut self) -> Result<(), Error> {
        let start = self.rest;
        let name_at = if start.len() > 4 && start[2..].starts_with("P<") {
            Some(4)
        } else if start.len() > 3 && start[2..].starts_with('<') {
            Some(3)
        } else {
            None
        };
        let Some(name_at) = name_at else { return self.flag_group() };
        let Some(end) = start.find('>') else { return Err(error("invalid named capture", start)) };
        let name = &start[name_at..end];
        let valid = !name.is_empty() && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
        if !valid {
            return Err(error("invalid named capture", &start[..=end]));
        }
        self.capture(Some(name.into()), &start[end + 1..]);
        Ok(())
    }

    fn capture(&mut self, name: Option<Box<str>>, rest: &'p str) {
        let capture = Some(self.names.len() as u32);
        self.names.push(name);
        self.stack.push(Item::LeftParen { capture, flags: self.flags });
        self.rest = rest;
    }

    fn flag_group(&mut self) -> Result<(), Error> {
        let start = self.rest;
        let mut flags = self.flags;
        let mut on = true;
        let mut dangling_minus = false;
        let mut rest = &start[2..];
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            dangling_minus = match c {
                'i' => {
                    flags.fold_case = on;
                    false
                }
                'm' => {
                    flags.multi_line = on;
                    false
                }
                's' => {
                    flags.dot_matches_newline = on;
                    false
                }
                'U' => {
                    flags.swap_greedy = on;
                    false
                }
                '-' if on => {
                    on = false;
                    true
                }
                ':' | ')' if !dangling_minus => {
                    if c == ':' {
                        self.stack.push(Item::LeftParen { capture: None, flags: self.flags });
                    }
                    self.flags = flags;
                    self.rest = rest;
                    return Ok(());
                }
                _ => return Err(error("invalid or unsupported Perl syntax", before(start, rest))),
            };
        }
        Err(error("invalid or unsupported Perl syntax", start))
    }

    fn finish(mut self) -> Result<Parsed, Error> {
        self.alternate()?;
        let top = self.stack.pop();
        match top {
            Some(Item::Part(part)) if self.stack.is_empty() => {
                Ok(Parsed { hir: part.hir, names: self.names, height: part.height })
            }
            _ => Err(error("missing closing )", self.whole)),
        }
    }
}

/// Joins parts (bars between them are left out) into one.
fn join(items: impl Iterator<Item = Item>, with: fn(Vec<Hir>) -> Hir) -> Part {
    let mut parts: Vec<Part> = items
        .filter_map(|item| match item {
            Item::Part(part) => Some(part),
            Item::Bar | Item::LeftParen { .. } => None,
        })
        .collect();
    match parts.len() {
        0 => Part::leaf(Hir::empty()),
        1 => parts.remove(0),
        _ => Part {
            height: 1 + parts.iter().map(|part| part.height).max().unwrap_or(0),
            repeats: parts.iter().map(|part| part.repeats).max().unwrap_or(1),
            hir: with(parts.into_iter().map(|part| part.hir).collect()),
        },
    }
}

type Counts = (usize, Option<usize>);

/// Reads `{min}`, `{min,}` or `{min,max}`, and gives what follows it; the counts are `None` when
/// they are out of range. `None` when the brace is just a brace.
fn counted(text: &str) -> Option<(Option<Counts>, &str)> {
    let (min, rest) = integer(text.strip_prefix('{')?)?;
    let (max, rest) = match rest.strip_prefix(',') {
        None => (Some(min), rest),
        Some(rest) if rest.starts_with('}') => (None, rest),
        Some(rest) => {
            let (max, rest) = integer(rest)?;
            (Some(max), rest)
        }
    };
    let rest = rest.strip_prefix('}')?;
    let valid = min <= REPEAT_MAX && max.is_none_or(|max| max <= REPEAT_MAX && min <= max);
    Some((valid.then_some((min, max)), rest))
}

/// A decimal number without leading zeros; too large ones are cut.
fn integer(text: &str) -> Option<(usize, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || (digits > 1 && text.starts_with('0')) {
        return None;
    }
    Some((text[..digits].parse().unwrap_or(usize::MAX), &text[digits..]))
}

/// Whether `hir` is any one character, newline included.
pub(crate) fn is_any_char(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
            matches!(class.ranges(), [all] if all.start() == '\0' && all.end() == char::MAX)
        }
        _ => false,
    }
}
