//! Label matchers: `=`, `!=`, `=~`, `!~`.

use std::fmt;

use crate::labels::write_quoted;

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, anchored at both ends
    Regex,
    /// `!~`, anchored at both ends
    NotRegex,
}

impl fmt::Display for MatchOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        })
    }
}

/// A condition on one label. A label that a series lacks counts as the empty string.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// The label's name.
    pub name: String,
    /// How it compares.
    pub op: MatchOp,
    /// The value or pattern as written.
    pub value: String,
    regex: Option<re2::Regex>,
}

impl Matcher {
    /// A matcher.
    ///
    /// # Errors
    /// The pattern of a regular-expression matcher does not parse or is too large.
    pub fn new(
        op: MatchOp,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Matcher, re2::Error> {
        let value = value.into();
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(re2::Regex::anchored(&value)?),
        };
        Ok(Matcher { name: name.into(), op, value, regex })
    }

    /// `name = value`.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Matcher {
        Matcher { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
    }

    /// Whether `value` (empty for an absent label) satisfies the condition.
    pub fn matches(&self, value: &str) -> bool {
        match (&self.regex, self.op) {
            (Some(regex), MatchOp::Regex) => regex.is_match(value),
            (Some(regex), _) => !regex.is_match(value),
            (None, MatchOp::NotEqual) => self.value != value,
            (None, _) => self.value == value,
        }
    }

    /// Whether a series without the label satisfies the condition.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The compiled pattern of `=~` and `!~`, whose `literals` and `prefix` narrow a lookup.
    pub fn regex(&self) -> Option<&re2::Regex> {
        self.regex.as_ref()
    }
}

/// Two matchers are equal when they are written alike.
impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.op == other.op && self.value == other.value
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if crate::labels::is_legacy_label_name(&self.name) {
            f.write_str(&self.name)?;
        } else {
            write_quoted(f, &self.name)?;
        }
        write!(f, "{}", self.op)?;
        write_quoted(f, &self.value)
    }
}
