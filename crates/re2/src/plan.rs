//! What can be said of an expression without running it.
//!
//! The plan of an anchored expression is a set of words, or a few pieces of text with gaps around
//! them (`foo.*`, `.*bar`, `.+baz.*`), or else the engine's work with a known beginning and end.

use std::collections::BTreeSet;

use regex_syntax::hir::{Class, Hir, HirKind, Look};

use crate::parse::is_any_char;

/// Most words of a set.
const WORDS_MAX: usize = 256;
/// Most bytes of a set's words together.
const WORD_BYTES_MAX: usize = 64 << 10;
/// Most alternatives with gaps; beyond it the engine is faster than trying each.
const PIECES_MAX: usize = 8;

/// How an expression is answered.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Exactly these, sorted.
    Words(Vec<String>),
    /// Whatever one of these matches. `prefix` is what all have in common at the beginning.
    Pieces { pieces: Vec<Piece>, prefix: String },
    /// The engine decides about texts that begin and end like this (the two may overlap).
    Engine { prefix: String, suffix: String },
}

/// A text with gaps before and after it.
#[derive(Debug)]
pub(crate) struct Piece {
    before: Gap,
    text: String,
    after: Gap,
}

/// What may stand beside a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// Nothing.
    None,
    /// Anything: `.*`.
    Any,
    /// At least one character: `.+`.
    Some,
}

/// What a plan knows of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
    AskEngine,
}

impl Plan {
    /// The plan of `hir`, which is anchored when it begins with `\A` and ends with `\z`.
    pub(crate) fn of(hir: &Hir) -> Plan {
        let Some(parts) = anchored(hir) else {
            return Plan::Engine { prefix: String::new(), suffix: String::new() };
        };
        let mut words = Words(BTreeSet::from([String::new()]));
        if words.append_all(parts) {
            return Plan::Words(words.0.into_iter().collect());
        }
        if let Some(pieces) = pieces(parts) {
            let texts =
                pieces.iter().map(|piece| if piece.before == Gap::None { &piece.text[..] } else { "" });
            let prefix = texts.reduce(shared_prefix).unwrap_or_default().to_owned();
            return Plan::Pieces { pieces, prefix };
        }
        let prefix = edge(parts.iter(), Side::Start);
        let suffix = edge(parts.iter().rev(), Side::End);
        Plan::Engine { prefix: prefix.text, suffix: suffix.text }
    }

    /// Whether [`Plan::answer`] never needs the engine.
    pub(crate) fn answers_alone(&self) -> bool {
        !matches!(self, Plan::Engine { .. })
    }

    /// Whether `text` matches.
    pub(crate) fn answer(&self, text: &str) -> Answer {
        let sure = match self {
            Plan::Words(words) if words.len() <= 8 => words.iter().any(|word| word == text),
            Plan::Words(words) => words.binary_search_by(|word| word.as_str().cmp(text)).is_ok(),
            Plan::Pieces { pieces, .. } => pieces.iter().any(|piece| piece.matches(text)),
            Plan::Engine { prefix, suffix } => {
                if text.starts_with(prefix.as_str()) && text.ends_with(suffix.as_str()) {
                    return Answer::AskEngine;
                }
                false
            }
        };
        if sure { Answer::Yes } else { Answer::No }
    }

    pub(crate) fn literals(&self) -> Option<&[String]> {
        match self {
            Plan::Words(words) => Some(words),
            _ => None,
        }
    }

    pub(crate) fn prefix(&self) -> &str {
        match self {
            Plan::Words(words) => match (words.first(), words.last()) {
                // Sorted: what the first and the last share, all share.
                (Some(first), Some(last)) => shared_prefix(first, last),
                _ => "",
            },
            Plan::Pieces { prefix, .. } | Plan::Engine { prefix, .. } => prefix,
        }
    }
}

impl Piece {
    fn matches(&self, text: &str) -> bool {
        let piece = self.text.as_str();
        match (self.before, self.after) {
            (Gap::None, Gap::None) => text == piece,
            (Gap::None, after) => {
                text.strip_prefix(piece).is_some_and(|rest| after == Gap::Any || !rest.is_empty())
            }
            (before, Gap::None) => {
                text.strip_suffix(piece).is_some_and(|rest| before == Gap::Any || !rest.is_empty())
            }
            (before, after) => {
                let mut chars = text.chars();
                let room = (before == Gap::Any || chars.next().is_some())
                    && (after == Gap::Any || chars.next_back().is_some());
                room && chars.as_str().contains(piece)
            }
        }
    }
}

/// The parts of an anchored expression between its anchors, outer groups opened.
fn anchored(hir: &Hir) -> Option<&[Hir]> {
    let HirKind::Concat(parts) = hir.kind() else { return None };
    let is_look =
        |hir: Option<&Hir>, look: Look| matches!(hir.map(Hir::kind), Some(HirKind::Look(l)) if *l == look);
    if !is_look(parts.first(), Look::Start) || !is_look(parts.last(), Look::End) {
        return None;
    }
    let mut parts = &parts[1..parts.len() - 1];
    loop {
        // `^foo$` is often written where the anchors are implied.
        while is_look(parts.first(), Look::Start) {
            parts = &parts[1..];
        }
        while is_look(parts.last(), Look::End) {
            parts = &parts[..parts.len() - 1];
        }
        parts = match parts {
            [only] => match only.kind() {
                HirKind::Capture(capture) => std::slice::from_ref(&*capture.sub),
                HirKind::Concat(inner) => inner,
                _ => return Some(parts),
            },
            _ => return Some(parts),
        };
    }
}

/// A growing set of words; within the limits at all times.
#[derive(Clone)]
struct Words(BTreeSet<String>);

impl Words {
    /// Appends what `parts` match in turn. `false` when that is no small set: then what is here is
    /// of no use.
    fn append_all(&mut self, parts: &[Hir]) -> bool {
        parts.iter().all(|part| self.append(part))
    }

    fn append(&mut self, hir: &Hir) -> bool {
        match hir.kind() {
            HirKind::Empty => true,
            HirKind::Look(_) => false,
            HirKind::Literal(literal) => {
                let Ok(text) = std::str::from_utf8(&literal.0) else { return false };
                self.cross(&[text])
            }
            HirKind::Class(Class::Bytes(class)) => {
                // Only the class that matches nothing is written in bytes.
                self.0.clear();
                class.ranges().is_empty()
            }
            HirKind::Class(Class::Unicode(class)) => {
                let chars: usize = class.iter().map(|range| range.len()).sum();
                if chars > WORDS_MAX {
                    return false;
                }
                let chars: Vec<String> =
                    class.iter().flat_map(|range| range.start()..=range.end()).map(String::from).collect();
                self.cross(&chars)
            }
            HirKind::Capture(capture) => self.append(&capture.sub),
            HirKind::Concat(parts) => self.append_all(parts),
            HirKind::Alternation(choices) => {
                let start = std::mem::take(&mut self.0);
                for choice in choices {
                    let mut words = Words(start.clone());
                    if !words.append(choice) {
                        return false;
                    }
                    self.0.append(&mut words.0);
                    if !self.fits() {
                        return false;
                    }
                }
                true
            }
            HirKind::Repetition(repetition) => {
                let Some(max) = repetition.max.filter(|max| *max as usize <= WORDS_MAX) else { return false };
                let mut all = Words(BTreeSet::new());
                for count in 0..=max {
                    if count >= repetition.min {
                        all.0.extend(self.0.iter().cloned());
                    }
                    if !all.fits() || (count < max && !self.append(&repetition.sub)) {
                        return false;
                    }
                }
                *self = all;
                true
            }
        }
    }

    fn cross<T: AsRef<str>>(&mut self, tails: &[T]) -> bool {
        if self.0.len() * tails.len() > WORDS_MAX {
            return false;
        }
        let heads = std::mem::take(&mut self.0);
        self.0 = match tails {
            // Most often: grows the words in place.
            [tail] => heads.into_iter().map(|head| head + tail.as_ref()).collect(),
            _ => heads
                .iter()
                .flat_map(|head| tails.iter().map(move |tail| head.clone() + tail.as_ref()))
                .collect(),
        };
        self.fits()
    }

    fn fits(&self) -> bool {
        self.0.len() <= WORDS_MAX && self.0.iter().map(String::len).sum::<usize>() <= WORD_BYTES_MAX
    }
}

/// The expression as alternatives of one text with gaps, if it is that.
fn pieces(parts: &[Hir]) -> Option<Vec<Piece>> {
    if let [only] = parts {
        match only.kind() {
            HirKind::Alternation(choices) if choices.len() <= PIECES_MAX => {
                return choices.iter().map(|choice| piece(std::slice::from_ref(choice))).collect();
            }
            HirKind::Alternation(_) => return None,
            _ => {}
        }
    }
    Some(vec![piece(parts)?])
}

fn piece(parts: &[Hir]) -> Option<Piece> {
    let mut piece = Piece { before: Gap::None, text: String::new(), after: Gap::None };
    let mut seen_text = false;
    let mut pending: Vec<&Hir> = parts.iter().rev().collect();
    while let Some(part) = pending.pop() {
        match part.kind() {
            HirKind::Empty => {}
            HirKind::Capture(capture) => pending.push(&capture.sub),
            HirKind::Concat(inner) => pending.extend(inner.iter().rev()),
            HirKind::Literal(literal) if piece.after == Gap::None => {
                piece.text.push_str(std::str::from_utf8(&literal.0).ok()?);
                seen_text = true;
            }
            _ => {
                let gap = gap(part)?;
                let place = if seen_text { &mut piece.after } else { &mut piece.before };
                if *place != Gap::None {
                    return None;
                }
                *place = gap;
            }
        }
    }
    Some(piece)
}

fn gap(hir: &Hir) -> Option<Gap> {
    let HirKind::Repetition(repetition) = hir.kind() else { return None };
    match (repetition.min, repetition.max) {
        (0, None) if is_any_char(&repetition.sub) => Some(Gap::Any),
        (1, None) if is_any_char(&repetition.sub) => Some(Gap::Some),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Start,
    End,
}

/// The literal text at one side of an expression.
#[derive(Debug, Default)]
struct Edge {
    text: String,
    /// Whether the text is all there is: what follows it may lengthen it.
    whole: bool,
}

/// The edge of a sequence, whose parts come beginning from that side.
fn edge<'h>(parts: impl Iterator<Item = &'h Hir>, side: Side) -> Edge {
    let mut all = Edge { text: String::new(), whole: true };
    for part in parts {
        let next = edge_of(part, side);
        match side {
            Side::Start => all.text.push_str(&next.text),
            Side::End => all.text.insert_str(0, &next.text),
        }
        if !next.whole {
            all.whole = false;
            break;
        }
    }
    all
}

fn edge_of(hir: &Hir, side: Side) -> Edge {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Edge { text: String::new(), whole: true },
        HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
            Ok(text) => Edge { text: text.to_owned(), whole: true },
            Err(_) => Edge::default(),
        },
        HirKind::Class(_) => Edge::default(),
        HirKind::Capture(capture) => edge_of(&capture.sub, side),
        HirKind::Concat(parts) if side == Side::Start => edge(parts.iter(), side),
        HirKind::Concat(parts) => edge(parts.iter().rev(), side),
        HirKind::Repetition(repetition) if repetition.min > 0 => {
            Edge { whole: false, ..edge_of(&repetition.sub, side) }
        }
        HirKind::Repetition(_) => Edge::default(),
        HirKind::Alternation(choices) => {
            let mut edges = choices.iter().map(|choice| edge_of(choice, side).text);
            let first = edges.next().unwrap_or_default();
            let text = edges.fold(first, |shared, next| match side {
                Side::Start => shared_prefix(&shared, &next).to_owned(),
                Side::End => shared_suffix(&shared, &next).to_owned(),
            });
            Edge { text, whole: false }
        }
    }
}

fn shared_prefix<'a>(a: &'a str, b: &str) -> &'a str {
    let len = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum();
    &a[..len]
}

fn shared_suffix<'a>(a: &'a str, b: &str) -> &'a str {
    let backwards = a.chars().rev().zip(b.chars().rev());
    let len: usize = backwards.take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum();
    &a[a.len() - len..]
}
