//! The parts of a request that are PromQL.

use std::fmt::Display;

use model::Matcher;
use promql::ast::{Expr, ExprKind};
use promql::parser::{self, ParseError};

use crate::App;
use crate::form::Form;
use crate::reply::ApiError;
use crate::work::Patience;

/// A selector, as `match[]` has it.
pub(super) fn selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
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

/// Whether `expr` reads any series.
pub(super) fn reads_series(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => false,
        ExprKind::Vector(_) | ExprKind::Matrix(_) => true,
        ExprKind::Subquery(subquery) => reads_series(&subquery.expr),
        ExprKind::Call(call) => call.args.iter().any(reads_series),
        ExprKind::Aggregate(aggregate) => {
            reads_series(&aggregate.expr) || aggregate.param.as_deref().is_some_and(reads_series)
        }
        ExprKind::Binary(binary) => reads_series(&binary.left) || reads_series(&binary.right),
        ExprKind::Unary(unary) => reads_series(&unary.operand),
        ExprKind::Paren(inner) => reads_series(inner),
    }
}
