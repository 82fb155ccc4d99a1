//! Durations with arithmetic: inside brackets and behind `offset`.

use super::{Parsed, Parser, binding_power, power};
use crate::ast::{BinaryOp, DurationExpr, DurationKind, Span};
use crate::depth::LEVELS_MAX;
use crate::lexer::{Kind, Preprocessor, Token};

/// A finished duration and its levels.
pub(super) struct Duration {
    pub(super) expr: DurationExpr,
    height: usize,
}

/// Whether nanoseconds in 64 bits cannot hold so many seconds.
fn out_of_range(seconds: f64) -> bool {
    let limit = 9_223_372_036.854_776;
    seconds.is_nan() || seconds > limit || seconds < -limit
}

impl Parser<'_> {
    /// A duration inside brackets; a plain number must be positive.
    pub(super) fn positive_duration(&mut self) -> Parsed<DurationExpr> {
        let duration = self.duration(power::LOWEST)?;
        if let DurationKind::Literal(number) = &duration.expr.kind
            && number.value <= 0.0
        {
            return Err(self.error(duration.expr.span, "duration must be greater than 0"));
        }
        Ok(duration.expr)
    }

    /// What may stand behind `offset`. An operator behind a plain number, a call or a signed
    /// parenthesis belongs to the expression around (`m offset 5m * 2` doubles samples); behind a
    /// parenthesis without sign it belongs to the duration.
    pub(super) fn offset_duration(&mut self) -> Parsed<DurationExpr> {
        let first = self.peek()?;
        let duration = match first.kind {
            Kind::LeftParen => self.duration(power::LOWEST)?,
            Kind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) => {
                self.next()?;
                let second = self.peek()?.kind;
                let operand = match second {
                    Kind::Operator(BinaryOp::Add | BinaryOp::Sub) => self.duration(power::POW)?,
                    _ => self.duration_operand()?,
                };
                let signed = self.signed_duration(first, op, operand)?;
                match second {
                    Kind::Operator(_) => self.duration_tail(signed, power::LOWEST)?,
                    _ => signed,
                }
            }
            _ => self.duration_operand()?,
        };
        self.peek()?; // what cannot be read behind is reported first
        Ok(duration.expr)
    }

    fn duration(&mut self, weakest: u8) -> Parsed<Duration> {
        self.nested(|p| p.duration_here(weakest))
    }

    fn duration_here(&mut self, weakest: u8) -> Parsed<Duration> {
        let first = self.peek()?;
        let left = match first.kind {
            Kind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) => {
                self.next()?;
                let operand = self.duration(power::POW)?;
                self.signed_duration(first, op, operand)?
            }
            _ => self.duration_operand()?,
        };
        self.duration_tail(left, weakest)
    }

    /// The operators behind `left` that bind at least as strongly as `weakest`.
    fn duration_tail(&mut self, mut left: Duration, weakest: u8) -> Parsed<Duration> {
        use BinaryOp::{Add, Div, Mod, Mul, Pow, Sub};
        loop {
            let operator = self.peek()?;
            let Kind::Operator(op @ (Add | Sub | Mul | Div | Mod | Pow)) = operator.kind else {
                return Ok(left);
            };
            let power = binding_power(op);
            if power < weakest {
                return Ok(left);
            }
            self.next()?;
            let weakest_right = if op == Pow { power } else { power + 1 };
            let right = self.duration(weakest_right)?;
            self.peek()?;
            if let (Div | Mod, DurationKind::Literal(number)) = (op, &right.expr.kind)
                && number.value == 0.0
            {
                let what = if op == Div { "division by zero" } else { "modulo by zero" };
                return Err(self.error(operator.span, what));
            }
            let span = Span { start: left.expr.span.start, end: right.expr.span.end };
            let below = left.height.max(right.height);
            let kind = DurationKind::Binary { op, left: Box::new(left.expr), right: Box::new(right.expr) };
            left = self.duration_node(span, kind, below)?;
        }
    }

    fn duration_node(&self, span: Span, kind: DurationKind, below: usize) -> Parsed<Duration> {
        if below >= LEVELS_MAX {
            return Err(self.too_deep(span));
        }
        Ok(Duration { expr: DurationExpr { span, kind }, height: below + 1 })
    }

    /// A sign before a plain number becomes part of it; a plus before anything else is dropped.
    fn signed_duration(&self, sign: Token, op: BinaryOp, mut operand: Duration) -> Parsed<Duration> {
        let negative = op == BinaryOp::Sub;
        let span = Span { start: sign.span.start, end: operand.expr.span.end };
        if let DurationKind::Literal(number) = &mut operand.expr.kind {
            if negative {
                number.value = -number.value;
            }
            operand.expr.span = span;
            return Ok(operand);
        }
        if !negative {
            return Ok(operand);
        }
        let below = operand.height;
        self.duration_node(span, DurationKind::Unary { negative, operand: Box::new(operand.expr) }, below)
    }

    fn duration_operand(&mut self) -> Parsed<Duration> {
        let first = self.peek()?;
        let start = first.span.start;
        match first.kind {
            Kind::Number | Kind::Duration => {
                let number = self.number_literal()?;
                if out_of_range(number.value) {
                    return Err(self.error(first.span, "duration out of range"));
                }
                self.duration_node(first.span, DurationKind::Literal(number), 0)
            }
            Kind::LeftParen => {
                self.next()?;
                let inner = self.duration(power::LOWEST)?;
                self.expect(Kind::RightParen)?;
                let paren = DurationKind::Paren(Box::new(inner.expr));
                self.duration_node(self.span_from(start), paren, inner.height)
            }
            _ => self.duration_call(start),
        }
    }

    /// `step()`, `range()`, `min_of(a, b)`, `max_of(a, b)`
    fn duration_call(&mut self, start: u32) -> Parsed<Duration> {
        use Preprocessor::{MaxOf, MinOf, Range, Step};
        let Some((_, word)) = self.preprocessor(&[Step, Range, MinOf, MaxOf])? else {
            return Err(self.unexpected());
        };
        let (kind, below) = match word {
            Step => (DurationKind::Step, 0),
            Range => (DurationKind::Range, 0),
            _ => {
                let left = self.duration(power::LOWEST)?;
                self.expect(Kind::Comma)?;
                let right = self.duration(power::LOWEST)?;
                let below = left.height.max(right.height);
                let (left, right) = (Box::new(left.expr), Box::new(right.expr));
                let of = if word == MinOf { DurationKind::MinOf } else { DurationKind::MaxOf };
                (of(left, right), below)
            }
        };
        self.expect(Kind::RightParen)?;
        self.duration_node(self.span_from(start), kind, below)
    }
}
