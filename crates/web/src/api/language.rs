//! The parts of a request that are PromQL.

use std::fmt::Display;

use model::Matcher;
use promql::ast::{Expr, ExprKind};
use promql::depth::deeper;
use promql::parser::{self, ParseError};

use crate::App;
use crate::form::Form;
use crate::reply::ApiError;
use crate::work::Patience;

/// A selector, as `match[]` has it.
pub(crate) fn selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    parser::parse_matchers(text)
}

/// The selectors `match[]` of a form, each with at least one condition that an absent label does not
/// meet. Regular expressions take their time to compile: not for threads that must not block.
///
/// `refuse` words the error of a selector that cannot be taken.
///
/// Source: Prometheus `web/api/v1/api.go`, `parseMatchersParam`.
pub(super) fn selectors(
    form: &Form,
    patience: &Patience,
    refuse: impl Fn(&dyn Display) -> ApiError,
) -> Result<Vec<Vec<Matcher>>, ApiError> {
    let mut sets = Vec::new();
    for text in form.all("match[]") {
        patience.check()?;
        sets.push(selector(text).map_err(|error| refuse(&error))?);
    }
    if sets.iter().any(|set| set.iter().all(Matcher::matches_empty)) {
        return Err(refuse(&"match[] must contain at least one non-empty matcher"));
    }
    Ok(sets)
}

/// A query, in the language that the engine has switched on.
pub(super) fn expression(app: &App, query: &str) -> Result<Expr, ParseError> {
    parser::parse(query, &app.state.engine.options().features)
}

/// The matchers of every selector in `expr`, in the order they stand.
///
/// Source: Prometheus `promql/parser/ast.go`, `ExtractSelectors`.
pub(super) fn selectors_of(expr: &Expr) -> Vec<Vec<Matcher>> {
    let mut found = Vec::new();
    collect_selectors(expr, &mut found);
    found
}

fn collect_selectors(expr: &Expr, found: &mut Vec<Vec<Matcher>>) {
    deeper(|| match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => {}
        ExprKind::Vector(selector) => found.push(selector.matchers.clone()),
        ExprKind::Matrix(matrix) => found.push(matrix.selector.matchers.clone()),
        ExprKind::Subquery(subquery) => collect_selectors(&subquery.expr, found),
        ExprKind::Call(call) => call.args.iter().for_each(|arg| collect_selectors(arg, found)),
        ExprKind::Aggregate(aggregate) => {
            collect_selectors(&aggregate.expr, found);
            aggregate.param.iter().for_each(|param| collect_selectors(param, found));
        }
        ExprKind::Chain(chain) => chain.operands().for_each(|operand| collect_selectors(operand, found)),
        ExprKind::Unary(unary) => collect_selectors(&unary.operand, found),
        ExprKind::Paren(inner) => collect_selectors(inner, found),
    });
}
