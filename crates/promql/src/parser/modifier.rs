//! What stands behind an expression: `[range]`, `[range:step]`, `offset`, `@`, `anchored`, `smoothed`.
//! They bind more strongly than any operator and may follow one another.

use super::{Parsed, Parser, Tree};
use crate::ast::{
    At, DurationExpr, DurationKind, Expr, ExprKind, MatrixSelector, RangeMode, Shift, Span, Subquery,
    VectorSelector,
};
use crate::lexer::{Keyword, Kind, Preprocessor, Token};

const RANGE_WANTED: &str = "number, duration, step(), or range()";

impl Parser<'_> {
    /// `operand` with all modifiers that follow it.
    pub(super) fn modified(&mut self, mut operand: Tree) -> Parsed<Tree> {
        loop {
            match self.peek()?.kind {
                Kind::LeftBracket => operand = self.range(operand)?,
                Kind::Keyword(Keyword::Offset) => {
                    self.next()?;
                    let offset = self.within("offset", RANGE_WANTED, Parser::offset_duration)?;
                    self.set_offset(&mut operand.expr, offset)?;
                }
                Kind::At => {
                    self.next()?;
                    self.within("@", "timestamp", |p| p.at(&mut operand.expr))?;
                }
                Kind::Keyword(keyword @ (Keyword::Anchored | Keyword::Smoothed)) => {
                    self.next()?;
                    self.set_mode(&mut operand.expr, keyword)?;
                }
                _ => return Ok(operand),
            }
        }
    }

    fn range(&mut self, operand: Tree) -> Parsed<Tree> {
        let open = self.next()?;
        let range = self.within("subquery or range selector", RANGE_WANTED, Parser::positive_duration)?;
        let colon = self.within("subquery or range", "\":\" or \"]\"", |p| {
            let colon = p.accept(Kind::Colon)?;
            if colon.is_none() {
                p.expect(Kind::RightBracket)?;
            }
            Ok(colon.is_some())
        })?;
        if !colon {
            return self.range_selector(operand, range, open);
        }
        let mut step = None;
        if self.accept(Kind::RightBracket)?.is_none() {
            let wanted = "number, duration, step(), range(), or \"]\"";
            step = Some(self.within("subquery selector", wanted, Parser::positive_duration)?);
            self.within("subquery selector", "\"]\"", |p| p.expect(Kind::RightBracket))?;
        }
        let span = self.span_from(operand.expr.span.start);
        let subquery = Subquery { expr: operand.expr, range, step, shift: Shift::default() };
        self.tree(span, ExprKind::Subquery(subquery), operand.height)
    }

    fn range_selector(&mut self, operand: Tree, range: DurationExpr, open: Token) -> Parsed<Tree> {
        let brackets = self.span_from(open.span.start);
        let Expr { span: selector_span, kind } = *operand.expr;
        let ExprKind::Vector(selector) = kind else {
            return Err(self.error(brackets, "ranges only allowed for vector selectors"));
        };
        if is_set(selector.shift.offset.as_ref()) {
            return Err(self.error(brackets, "no offset modifiers allowed before range"));
        }
        if selector.shift.at.is_some() {
            return Err(self.error(brackets, "no @ modifiers allowed before range"));
        }
        let matrix = MatrixSelector { selector, selector_span, range };
        self.tree(self.span_from(selector_span.start), ExprKind::Matrix(matrix), operand.height)
    }

    fn set_offset(&mut self, expr: &mut Expr, offset: DurationExpr) -> Parsed<()> {
        let end = offset.span.end;
        let Some(shift) = shift(&mut expr.kind) else {
            let message = "offset modifier must be preceded by an instant vector selector or range vector selector \
                           or a subquery";
            return Err(self.error(expr.span, message));
        };
        if is_set(shift.offset.as_ref()) {
            return Err(self.error(expr.span, "offset may not be set multiple times"));
        }
        shift.offset = Some(offset);
        expr.span.end = end;
        Ok(())
    }

    /// The argument of `@`.
    fn at(&mut self, expr: &mut Expr) -> Parsed<()> {
        let at = match self.preprocessor(&[Preprocessor::Start, Preprocessor::End])? {
            Some((_, word)) => {
                self.expect(Kind::RightParen)?;
                if word == Preprocessor::Start { At::Start } else { At::End }
            }
            None => {
                let seconds = self.signed_number()?;
                // The same comparison upstream makes: both bounds, as floats, are out.
                if seconds.is_nan() || seconds.abs() >= i64::MAX as f64 {
                    let message = format!("timestamp out of bounds for @ modifier: {}", fixed(seconds));
                    return Err(self.error(expr.span, message));
                }
                At::Timestamp((seconds * 1000.0).round() as i64)
            }
        };
        let span = expr.span;
        let Some(shift) = shift(&mut expr.kind) else {
            let message = "@ modifier must be preceded by an instant vector selector or range vector selector or a \
                           subquery";
            return Err(self.error(span, message));
        };
        if shift.at.is_some() {
            return Err(self.error(span, "@ <timestamp> may not be set multiple times"));
        }
        shift.at = Some(at);
        expr.span = self.span_from(span.start);
        Ok(())
    }

    fn set_mode(&mut self, expr: &mut Expr, keyword: Keyword) -> Parsed<()> {
        let (word, mode) = match keyword {
            Keyword::Anchored => ("anchored", RangeMode::Anchored),
            _ => ("smoothed", RangeMode::Smoothed),
        };
        let span: Span = expr.span;
        if !self.options.extended_ranges {
            return Err(self.error(span, format!("{word} modifier is experimental and not enabled")));
        }
        let selector: &mut VectorSelector = match &mut expr.kind {
            ExprKind::Vector(selector) => selector,
            ExprKind::Matrix(matrix) => &mut matrix.selector,
            ExprKind::Subquery(_) => {
                return Err(self.error(span, format!("{word} modifier is not supported for subqueries")));
            }
            _ => return Err(self.error(span, format!("{word} modifier not implemented"))),
        };
        if selector.mode != RangeMode::Plain && selector.mode != mode {
            return Err(self.error(span, "anchored and smoothed modifiers cannot be used together"));
        }
        selector.mode = mode;
        expr.span = self.span_from(span.start);
        Ok(())
    }
}

/// `offset` and `@` of what can have them.
fn shift(kind: &mut ExprKind) -> Option<&mut Shift> {
    match kind {
        ExprKind::Vector(selector) => Some(&mut selector.shift),
        ExprKind::Matrix(matrix) => Some(&mut matrix.selector.shift),
        ExprKind::Subquery(subquery) => Some(&mut subquery.shift),
        _ => None,
    }
}

/// `offset 0s` counts as no offset.
fn is_set(offset: Option<&DurationExpr>) -> bool {
    offset.is_some_and(|offset| match &offset.kind {
        DurationKind::Literal(number) => (number.value * 1e9).round() != 0.0,
        _ => true,
    })
}

/// As Go's `%f` writes it.
fn fixed(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        format!("{value:.6}")
    }
}
