//! `metric{label="value"}`.

use model::labels::METRIC_NAME;
use model::{MatchOp, Matcher};

use super::{PATTERN_BYTES_MAX, PATTERNS_MAX, Parsed, Parser, Tree};
use crate::ast::{BinaryOp, ExprKind, RangeMode, Shift, Span, VectorSelector};
use crate::lexer::{Kind, Token};

const OR_CLOSED: &str = "identifier or \"}\"";

impl Parser<'_> {
    /// A selector whose `name`, if it has one before the braces, has been taken.
    pub(super) fn selector(&mut self, name: Option<Token>) -> Parsed<Tree> {
        let start = match name {
            Some(name) => name.span.start,
            None => self.peek()?.span.start,
        };
        let name = name.map(|token| self.slice(token.span).to_owned());
        let mut matchers = Vec::new();
        if let Some(name) = &name {
            matchers.push(Matcher::equal(METRIC_NAME, name.clone()));
        }
        if self.peek()?.kind == Kind::LeftBrace {
            self.label_matchers(&mut matchers)?;
        }
        let vector = VectorSelector { name, matchers, shift: Shift::default(), mode: RangeMode::Plain };
        self.tree(self.span_from(start), ExprKind::Vector(vector), 0)
    }

    fn label_matchers(&mut self, matchers: &mut Vec<Matcher>) -> Parsed<()> {
        self.next()?;
        if self.accept(Kind::RightBrace)?.is_some() {
            return Ok(());
        }
        loop {
            matchers.push(self.label_matcher()?);
            let comma = self.within("label matching", "\",\" or \"}\"", |p| {
                let comma = p.accept(Kind::Comma)?;
                if comma.is_none() {
                    p.expect(Kind::RightBrace)?;
                }
                Ok(comma.is_some())
            })?;
            if !comma || self.accept(Kind::RightBrace)?.is_some() {
                return Ok(());
            }
        }
    }

    fn label_matcher(&mut self) -> Parsed<Matcher> {
        let name = self.peek()?;
        let label = match name.kind {
            Kind::String => self.string_literal()?,
            Kind::Identifier => self.take_word()?,
            _ => return self.within("label matching", OR_CLOSED, |p| Err(p.unexpected())),
        };
        let op = match self.peek()?.kind {
            Kind::Equal => MatchOp::Equal,
            Kind::Operator(BinaryOp::Neq) => MatchOp::NotEqual,
            Kind::EqualRegex => MatchOp::Regex,
            Kind::NotRegex => MatchOp::NotRegex,
            // A quoted string alone names the metric.
            _ if name.kind == Kind::String => return Ok(Matcher::equal(METRIC_NAME, label)),
            _ => return self.within("label matching", "label matching operator", |p| Err(p.unexpected())),
        };
        self.next()?;
        let value = self.within("label matching", "string", Parser::string_literal)?;
        let span = Span { start: name.span.start, end: self.taken_end };
        if matches!(op, MatchOp::Regex | MatchOp::NotRegex) {
            self.patterns += 1;
            if self.patterns > PATTERNS_MAX {
                return Err(self.error(span, format!("more than {PATTERNS_MAX} regular expressions")));
            }
        }
        let matcher = Matcher::new(op, label, value).map_err(|error| self.error(span, error.to_string()))?;
        self.pattern_bytes += matcher.regex().map_or(0, re2::Regex::program_bytes);
        if self.pattern_bytes > PATTERN_BYTES_MAX {
            let message = format!("regular expressions take more than {PATTERN_BYTES_MAX} bytes together");
            return Err(self.error(span, message));
        }
        Ok(matcher)
    }
}
