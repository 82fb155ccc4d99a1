//! Go's regular expressions (RE2 syntax and meaning) on the regex-automata engine.
//!
//! The syntax is parsed here, because Rust's differs from Go's in a third of the corner cases
//! (`\d` is ASCII, `\Q..\E`, octal escapes, `[[]`, ...); the engine is linear-time as RE2 is.
//!
//! Most patterns in practice are lists of words or a word with `.*` beside it. A [`plan`] finds
//! those, answers them without the engine, and tells a store's index what to look up.

use std::sync::{Arc, OnceLock};

use regex_automata::meta;
use regex_syntax::hir::{Hir, Look};

use crate::parse::Parsed;
use crate::plan::{Answer, Plan};

mod expand;
mod parse;
mod plan;
#[cfg(test)]
mod tests;

/// Most bytes of the compiled program. Beyond it a pattern is `expression too large`.
const PROGRAM_BYTES_MAX: usize = 10 << 20;
/// Patterns that nest deeper are compiled on a thread with [`DEEP_STACK_BYTES`] of stack, because
/// the engine's compiler recurses.
const DEEP_HEIGHT: usize = 50;
const DEEP_STACK_BYTES: usize = 64 << 20;

/// A pattern that cannot be used, in the words of Go's `regexp/syntax`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {message}: `{fragment}`")]
pub struct Error {
    /// What is wrong: `missing closing )`, `invalid repeat count`, ...
    pub message: String,
    /// The part of the pattern at fault.
    pub fragment: String,
}

/// A compiled expression. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Regex(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    hir: Hir,
    /// Names of the capture groups by number; 0 is the whole match.
    names: Vec<Option<Box<str>>>,
    plan: Plan,
    /// Present from the start, unless the plan answers alone: then made for the first expansion.
    engine: OnceLock<Option<meta::Regex>>,
}

impl Regex {
    /// Compiles a pattern that must match all of a text, as matchers use them. The dot matches
    /// newlines.
    ///
    /// # Errors
    /// [`Error`] for a pattern that Go's `regexp` refuses, and for one that compiles too large.
    ///
    /// Source: Prometheus `model/labels/regexp.go`, `NewFastRegexMatcher`.
    pub fn anchored(pattern: &str) -> Result<Regex, Error> {
        build(pattern, pattern, true, |hir| {
            Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)])
        })
    }

    /// Compiles `^(?s:pattern)$` as written, the way of relabelling and `label_replace`: like
    /// [`Regex::anchored`], but an error may name the whole with its wrapping, as in Prometheus.
    ///
    /// # Errors
    /// As [`Regex::anchored`].
    pub fn wrapped(pattern: &str) -> Result<Regex, Error> {
        build(pattern, &format!("^(?s:{pattern})$"), false, |hir| hir)
    }

    /// Compiles a pattern that may match any part of a text, as templates use them. The dot does not
    /// match newlines.
    ///
    /// # Errors
    /// As [`Regex::anchored`].
    pub fn unanchored(pattern: &str) -> Result<Regex, Error> {
        build(pattern, pattern, false, |hir| hir)
    }

    /// Whether `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        match self.0.plan.answer(text) {
            Answer::Yes => true,
            Answer::No => false,
            Answer::AskEngine => self.engine().is_some_and(|engine| engine.is_match(text)),
        }
    }

    /// The finite set of strings this matches, sorted, when it is small (`a|b|c`, `x[12]`);
    /// `None` when it is not a finite, small set. Always `None` for unanchored expressions.
    pub fn literals(&self) -> Option<&[String]> {
        self.0.plan.literals()
    }

    /// A literal prefix that every match has; may be empty. Always empty for unanchored expressions.
    pub fn prefix(&self) -> &str {
        self.0.plan.prefix()
    }

    /// Expands `template` (`$1`, `${name}`, `$$`) with the groups of the first match in `text`; `None`
    /// when `text` does not match. Groups that do not exist or took no part are empty.
    ///
    /// Source: Go `regexp.Regexp.ExpandString`.
    pub fn expand(&self, text: &str, template: &str) -> Option<String> {
        if matches!(self.0.plan.answer(text), Answer::No) {
            return None;
        }
        let engine = self.engine()?;
        let mut captures = engine.create_captures();
        engine.captures(text, &mut captures);
        captures.get_match()?;
        let mut out = String::with_capacity(text.len().max(template.len()));
        expand::expand(&mut out, template, &self.group(text, &captures));
        Some(out)
    }

    /// Bytes of memory that the compiled program takes; 0 while none was needed.
    pub fn program_bytes(&self) -> usize {
        self.0.engine.get().and_then(Option::as_ref).map_or(0, meta::Regex::memory_usage)
    }

    /// `text` with every match replaced by the expansion of `template`.
    ///
    /// Source: Go `regexp.Regexp.ReplaceAllString`.
    pub fn replace_all(&self, text: &str, template: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut copied = 0;
        for captures in self.engine().into_iter().flat_map(|engine| engine.captures_iter(text)) {
            let Some(found) = captures.get_match() else { continue };
            out.push_str(&text[copied..found.start()]);
            expand::expand(&mut out, template, &self.group(text, &captures));
            copied = found.end();
        }
        out.push_str(&text[copied..]);
        out
    }

    /// Looks up groups of a match for [`expand::expand`].
    fn group<'t>(
        &self,
        text: &'t str,
        captures: &regex_automata::util::captures::Captures,
    ) -> impl Fn(expand::Group<'_>) -> &'t str {
        move |group| {
            let span = match group {
                expand::Group::Number(number) => captures.get_group(number),
                expand::Group::Name(name) => self
                    .0
                    .names
                    .iter()
                    .enumerate()
                    .filter(|(_, known)| known.as_deref() == Some(name))
                    .find_map(|(number, _)| captures.get_group(number)),
            };
            span.map_or("", |span| &text[span.range()])
        }
    }

    /// The engine. It can be missing only if a short list of words compiled too large.
    fn engine(&self) -> Option<&meta::Regex> {
        self.0.engine.get_or_init(|| compile(&self.0.hir).ok()).as_ref()
    }
}

/// Parses `source` and compiles it within `anchors`; `pattern` is what the user wrote.
fn build(
    pattern: &str,
    source: &str,
    dot_matches_newline: bool,
    anchors: fn(Hir) -> Hir,
) -> Result<Regex, Error> {
    let Parsed { hir, names, height } = parse::parse(source, dot_matches_newline)?;
    let finish = || {
        let hir = anchors(hir);
        let plan = Plan::of(&hir);
        let engine = OnceLock::new();
        if !plan.answers_alone() || height > DEEP_HEIGHT {
            let _ = engine.set(Some(compile(&hir)?));
        }
        Ok(Regex(Arc::new(Compiled { hir, names, plan, engine })))
    };
    let too_large = || Error { message: "expression too large".to_owned(), fragment: pattern.to_owned() };
    if height <= DEEP_HEIGHT {
        return finish().map_err(|_: Box<meta::BuildError>| too_large());
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(DEEP_STACK_BYTES).spawn_scoped(scope, finish);
        match thread.map(|thread| thread.join()) {
            Ok(Ok(Ok(regex))) => Ok(regex),
            _ => Err(too_large()),
        }
    })
}

fn compile(hir: &Hir) -> Result<meta::Regex, Box<meta::BuildError>> {
    let config = meta::Config::new().nfa_size_limit(Some(PROGRAM_BYTES_MAX));
    meta::Builder::new().configure(config).build_from_hir(hir).map_err(Box::new)
}
