//! The checks that need a whole tree: types of arguments and operands, vector matching, selectors
//! that would select everything.
//!
//! Source: Prometheus `promql/parser/parse.go`, `checkAST`, whose order of checks decides which of
//! several errors is reported.

use model::labels::METRIC_NAME;

use super::ParseError;
use super::quote::quote;
use crate::ast::{
    Aggregate, AggregateOp, Binary, Call, Cardinality, Expr, ExprKind, Span, ValueType, VectorSelector,
};

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
            ExprKind::Binary(binary) => self.binary(binary, span),
            ExprKind::Unary(unary) => match self.expr(&mut unary.operand)? {
                found @ (ValueType::Scalar | ValueType::Vector) => Ok(found),
                other => {
                    let message = format!(
                        "unary expression only allowed on expressions of type scalar or instant vector, got {}",
                        quote(other.documented())
                    );
                    Err(self.error(span, message))
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

    fn binary(&self, binary: &mut Binary, span: Span) -> Checked {
        use ValueType::{Scalar, Vector};
        let left = self.expr(&mut binary.left)?;
        let right = self.expr(&mut binary.right)?;
        let op = binary.op;
        if binary.return_bool && !op.is_comparison() {
            let message = "bool modifier can only be used on comparison operators";
            return Err(self.error(self.operator_span(binary), message));
        }
        if op.is_comparison() && !binary.return_bool && left == Scalar && right == Scalar {
            let message = "comparisons between scalars must use BOOL modifier";
            return Err(self.error(self.operator_span(binary), message));
        }
        if let Some(matching) = &binary.matching
            && matching.on
            && let Some(twice) = matching.labels.iter().find(|l| matching.include.contains(l))
        {
            let message = format!("label {} must not occur in ON and GROUP clause at once", quote(twice));
            return Err(self.error(self.operator_span(binary), message));
        }
        for (side, found) in [(&binary.left, left), (&binary.right, right)] {
            if found != Scalar && found != Vector {
                let message = "binary expression must contain only scalar and instant vector types";
                return Err(self.error(side.span, message));
            }
        }
        let between_vectors = left == Vector && right == Vector;
        self.matching(binary, between_vectors, span)?;
        if !between_vectors {
            binary.matching = None;
        }
        if (left == Scalar || right == Scalar) && op.is_set() {
            let message =
                format!("set operator {} not allowed in binary scalar expression", quote(op.as_str()));
            return Err(self.error(span, message));
        }
        Ok(if left == Scalar && right == Scalar { Scalar } else { Vector })
    }

    fn matching(&self, binary: &Binary, between_vectors: bool, span: Span) -> Result<(), ParseError> {
        let Some(matching) = &binary.matching else { return Ok(()) };
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
        } else if binary.op.is_set() {
            if matching.card != Cardinality::ManyToMany {
                let message = format!("no grouping allowed for {} operation", quote(binary.op.as_str()));
                return Err(self.error(span, message));
            }
            if fills {
                return Err(self.error(span, "filling in missing series not allowed for set operators"));
            }
        }
        Ok(())
    }

    /// From the operator to the right side, without the spaces around.
    fn operator_span(&self, binary: &Binary) -> Span {
        let bytes = self.text.as_bytes();
        let blank = |at: u32| bytes.get(at as usize).is_some_and(u8::is_ascii_whitespace);
        let (mut start, mut end) = (binary.left.span.end, binary.right.span.start);
        while start < end && blank(start) {
            start += 1;
        }
        while end > start && blank(end - 1) {
            end -= 1;
        }
        Span { start, end }
    }
}
