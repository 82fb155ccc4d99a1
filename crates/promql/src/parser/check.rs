//! The checks that need a whole tree: types of arguments and operands, vector matching, selectors
//! that would select everything.
//!
//! Source: Prometheus `promql/parser/parse.go`, `checkAST`, whose order of checks decides which of
//! several errors is reported.

use std::collections::BTreeSet;

use model::labels::METRIC_NAME;

use super::ParseError;
use super::quote::quote;
use crate::ast::{
    Aggregate, AggregateOp, Call, Cardinality, Chain, Expr, ExprKind, Link, Span, ValueType, VectorSelector,
};
use crate::depth::deeper;

/// Checks `expr` and all below it, drops vector matching where a side is not a vector, and gives the type.
pub(super) fn check(expr: &mut Expr, text: &str) -> Result<ValueType, ParseError> {
    Checker { text }.expr(expr)
}

struct Checker<'a> {
    text: &'a str,
}

type Checked = Result<ValueType, ParseError>;

impl Checker<'_> {
    fn error(&self, span: Span, message: impl Into<String>) -> ParseError {
        ParseError::new(self.text, span, message)
    }

    fn expr(&self, expr: &mut Expr) -> Checked {
        deeper(|| self.expr_here(expr))
    }

    fn expr_here(&self, expr: &mut Expr) -> Checked {
        let span = expr.span;
        match &mut expr.kind {
            ExprKind::Number(_) => Ok(ValueType::Scalar),
            ExprKind::String(_) => Ok(ValueType::String),
            ExprKind::Vector(selector) => {
                self.selector(selector, span)?;
                Ok(ValueType::Vector)
            }
            ExprKind::Matrix(matrix) => {
                self.selector(&matrix.selector, matrix.selector_span)?;
                Ok(ValueType::Matrix)
            }
            ExprKind::Subquery(subquery) => match self.expr(&mut subquery.expr)? {
                ValueType::Vector => Ok(ValueType::Matrix),
                other => {
                    let message =
                        format!("subquery is only allowed on instant vector, got {} instead", other.api());
                    Err(self.error(span, message))
                }
            },
            ExprKind::Call(call) => self.call(call, span),
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate),
            ExprKind::Chain(chain) => self.chain(chain),
            ExprKind::Unary(unary) => match self.expr(&mut unary.operand)? {
                found @ (ValueType::Scalar | ValueType::Vector) => Ok(found),
                other => {
                    let message = format!(
                        "unary expression only allowed on expressions of type scalar or instant vector, got {}",
                        quote(other.documented())
                    );
                    // The innermost sign is the one at fault.
                    let start = unary.signs.last().map_or(span.start, |sign| sign.at);
                    Err(self.error(Span { start, end: span.end }, message))
                }
            },
            ExprKind::Paren(inner) => self.expr(inner),
        }
    }

    fn selector(&self, selector: &VectorSelector, span: Span) -> Result<(), ParseError> {
        if let Some(name) = &selector.name {
            // The first matcher stands for the name itself.
            return match selector.matchers.iter().skip(1).find(|m| m.name == METRIC_NAME) {
                Some(other) => {
                    let names = format!("{} or {}", quote(name), quote(&other.value));
                    Err(self.error(span, format!("metric name must not be set twice: {names}")))
                }
                None => Ok(()),
            };
        }
        if selector.matchers.iter().all(|m| m.matches_empty()) {
            return Err(self.error(span, "vector selector must contain at least one non-empty matcher"));
        }
        Ok(())
    }

    fn expect(&self, expr: &mut Expr, wanted: ValueType, place: &str) -> Result<(), ParseError> {
        let found = self.expr(expr)?;
        self.compare(expr.span, found, wanted, place)
    }

    fn compare(
        &self,
        span: Span,
        found: ValueType,
        wanted: ValueType,
        place: &str,
    ) -> Result<(), ParseError> {
        if found == wanted {
            return Ok(());
        }
        let (wanted, found) = (wanted.documented(), found.documented());
        Err(self.error(span, format!("expected type {wanted} in {place}, got {found}")))
    }

    fn aggregate(&self, aggregate: &mut Aggregate) -> Checked {
        self.expect(&mut aggregate.expr, ValueType::Vector, "aggregation expression")?;
        if let Some(param) = &mut aggregate.param {
            let wanted =
                if aggregate.op == AggregateOp::CountValues { ValueType::String } else { ValueType::Scalar };
            self.expect(param, wanted, "aggregation parameter")?;
        }
        Ok(ValueType::Vector)
    }

    fn call(&self, call: &mut Call, span: Span) -> Checked {
        let function = call.function;
        let name = quote(function.name);
        let (wanted, found) = (function.args.len(), call.args.len());
        if function.variadic == 0 {
            if wanted != found {
                let message = format!("expected {wanted} argument(s) in call to {name}, got {found}");
                return Err(self.error(span, message));
            }
        } else {
            let least = wanted - 1;
            let most = least + usize::try_from(function.variadic).unwrap_or(usize::MAX - least);
            if found < least {
                let message = format!("expected at least {least} argument(s) in call to {name}, got {found}");
                return Err(self.error(span, message));
            }
            if found > most {
                let message = format!("expected at most {most} argument(s) in call to {name}, got {found}");
                return Err(self.error(span, message));
            }
        }
        let place = format!("call to function {name}");
        let of_info = function.name == "info";
        if of_info && let Some(labels) = call.args.get(1) {
            self.info_labels(labels, span, &place)?;
        }
        for (at, arg) in call.args.iter_mut().enumerate() {
            if of_info && at == 1 {
                continue;
            }
            let Some(wanted) = function.arg_type(at) else { break };
            self.expect(arg, wanted, &place)?;
        }
        Ok(function.returns)
    }

    /// The second argument of `info` looks like a selector but only lists label conditions: it has no
    /// name, and may accept the empty string.
    fn info_labels(&self, labels: &Expr, call: Span, place: &str) -> Result<(), ParseError> {
        self.compare(call, labels.value_type(), ValueType::Vector, place)?;
        match &labels.kind {
            ExprKind::Vector(VectorSelector { name: None, .. }) => Ok(()),
            ExprKind::Vector(_) => {
                Err(self.error(labels.span, "expected label selectors only, got vector selector instead"))
            }
            _ => Err(self.error(labels.span, "expected label selectors only")),
        }
    }

    fn chain(&self, chain: &mut Chain) -> Checked {
        if chain.groups_from_right() {
            return self.chain_from_right(chain);
        }
        let mut left = Side { value_type: self.expr(&mut chain.first)?, span: chain.first.span };
        for link in &mut chain.links {
            let right = Side { value_type: self.expr(&mut link.operand)?, span: link.operand.span };
            left = self.operator(link, left, right)?;
        }
        Ok(left.value_type)
    }

    fn chain_from_right(&self, chain: &mut Chain) -> Checked {
        let mut lefts = vec![Side { value_type: self.expr(&mut chain.first)?, span: chain.first.span }];
        for link in &mut chain.links {
            lefts.push(Side { value_type: self.expr(&mut link.operand)?, span: link.operand.span });
        }
        let Some(mut right) = lefts.pop() else { return Ok(chain.value_type) };
        for (link, left) in chain.links.iter_mut().zip(lefts).rev() {
            right = self.operator(link, left, right)?;
        }
        Ok(right.value_type)
    }

    /// Checks the operator of `link` between two sides and gives what it makes of them.
    fn operator(&self, link: &mut Link, left: Side, right: Side) -> Result<Side, ParseError> {
        use ValueType::{Scalar, Vector};
        let span = Span { start: left.span.start, end: right.span.end };
        let scalars = left.value_type == Scalar && right.value_type == Scalar;
        if link.return_bool && !link.op.is_comparison() {
            let message = "bool modifier can only be used on comparison operators";
            return Err(self.error(self.operator_span(left, right), message));
        }
        if link.op.is_comparison() && !link.return_bool && scalars {
            let message = "comparisons between scalars must use BOOL modifier";
            return Err(self.error(self.operator_span(left, right), message));
        }
        if let Some(matching) = &link.matching
            && matching.on
            && !matching.include.is_empty()
        {
            let included: BTreeSet<&String> = matching.include.iter().collect();
            if let Some(twice) = matching.labels.iter().find(|label| included.contains(label)) {
                let message = format!("label {} must not occur in ON and GROUP clause at once", quote(twice));
                return Err(self.error(self.operator_span(left, right), message));
            }
        }
        for side in [left, right] {
            if side.value_type != Scalar && side.value_type != Vector {
                let message = "binary expression must contain only scalar and instant vector types";
                return Err(self.error(side.span, message));
            }
        }
        let between_vectors = left.value_type == Vector && right.value_type == Vector;
        self.matching(link, between_vectors, span)?;
        if !between_vectors {
            link.matching = None;
        }
        if (left.value_type == Scalar || right.value_type == Scalar) && link.op.is_set() {
            let message =
                format!("set operator {} not allowed in binary scalar expression", quote(link.op.as_str()));
            return Err(self.error(span, message));
        }
        Ok(Side { value_type: if scalars { Scalar } else { Vector }, span })
    }

    fn matching(&self, link: &Link, between_vectors: bool, span: Span) -> Result<(), ParseError> {
        let Some(matching) = &link.matching else { return Ok(()) };
        let fills = matching.fill_left.is_some() || matching.fill_right.is_some();
        if !between_vectors {
            if !matching.labels.is_empty() {
                return Err(self.error(span, "vector matching only allowed between instant vectors"));
            }
            if fills {
                return Err(
                    self.error(span, "filling in missing series only allowed between instant vectors")
                );
            }
        } else if link.op.is_set() {
            if matching.card != Cardinality::ManyToMany {
                let message = format!("no grouping allowed for {} operation", quote(link.op.as_str()));
                return Err(self.error(span, message));
            }
            if fills {
                return Err(self.error(span, "filling in missing series not allowed for set operators"));
            }
        }
        Ok(())
    }

    /// From the operator to the right side, without the spaces around.
    fn operator_span(&self, left: Side, right: Side) -> Span {
        let bytes = self.text.as_bytes();
        let blank = |at: u32| bytes.get(at as usize).is_some_and(u8::is_ascii_whitespace);
        let (mut start, mut end) = (left.span.end, right.span.start);
        while start < end && blank(start) {
            start += 1;
        }
        while end > start && blank(end - 1) {
            end -= 1;
        }
        Span { start, end }
    }
}

/// A side of an operator.
#[derive(Debug, Clone, Copy)]
struct Side {
    value_type: ValueType,
    span: Span,
}
