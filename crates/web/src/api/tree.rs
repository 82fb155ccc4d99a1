//! `/parse_query`: the syntax tree as JSON, fields in alphabetical order, as Prometheus' own page
//! reads it.
//!
//! Source: Prometheus `web/api/v1/translate_ast.go`.

use model::{Matcher, labels, number};
use promql::ast::{
    Aggregate, At, Call, Cardinality, Chain, DurationExpr, DurationKind, Expr, ExprKind, Link, NumberLiteral,
    RangeMode, Shift, Unary, VectorMatching, VectorSelector,
};
use promql::depth::deeper;

use crate::json::{self, Object};

/// Writes `expr`.
pub(super) fn write(out: &mut Vec<u8>, expr: &Expr) {
    deeper(|| match &expr.kind {
        ExprKind::Chain(chain) if chain.groups_from_right() => write_chain_from_right(out, chain),
        ExprKind::Chain(chain) => write_chain(out, chain),
        ExprKind::Unary(unary) => write_unary(out, unary),
        _ => write_plain(out, expr),
    });
}

/// What is one object here and one node in the tree.
fn write_plain(out: &mut Vec<u8>, expr: &Expr) {
    let mut node = Object::new(out);
    match &expr.kind {
        ExprKind::Number(literal) => {
            node.text("type", "numberLiteral");
            node.text("val", &number::format_float(literal.value));
        }
        ExprKind::String(text) => {
            node.text("type", "stringLiteral");
            node.text("val", text);
        }
        ExprKind::Vector(selector) => {
            write_selector(&mut node, selector, None);
            node.text("type", "vectorSelector");
        }
        ExprKind::Matrix(matrix) => {
            write_selector(&mut node, &matrix.selector, Some(&matrix.range));
            node.text("type", "matrixSelector");
        }
        ExprKind::Subquery(subquery) => {
            write(node.field("expr"), &subquery.expr);
            write_length(&mut node, "offset", subquery.shift.offset.as_ref());
            write_length(&mut node, "range", Some(&subquery.range));
            write_at_end(&mut node, &subquery.shift);
            write_length(&mut node, "step", subquery.step.as_ref());
            write_at_time(&mut node, &subquery.shift);
            node.text("type", "subquery");
        }
        ExprKind::Call(call) => write_call(&mut node, call),
        ExprKind::Aggregate(aggregate) => write_aggregate(&mut node, aggregate),
        ExprKind::Chain(_) | ExprKind::Unary(_) => {}
        ExprKind::Paren(inner) => {
            write(node.field("expr"), inner);
            node.text("type", "parenExpr");
        }
    }
    node.end();
}

fn sign(negative: bool) -> &'static str {
    if negative { "-" } else { "+" }
}

fn write_selector(node: &mut Object<'_>, selector: &VectorSelector, range: Option<&DurationExpr>) {
    node.boolean("anchored", selector.mode == RangeMode::Anchored);
    // Prometheus has the matcher of the name last, wherever the name was written
    let is_name = |m: &&Matcher| m.name == labels::METRIC_NAME && selector.name.as_ref() == Some(&m.value);
    let (name, others): (Vec<&Matcher>, Vec<&Matcher>) = selector.matchers.iter().partition(is_name);
    node.array("matchers", others.into_iter().chain(name), |out, matcher| {
        let mut entry = Object::new(out);
        entry.text("name", &matcher.name);
        entry.text("type", &matcher.op.to_string());
        entry.text("value", &matcher.value);
        entry.end();
    });
    node.text("name", selector.name.as_deref().unwrap_or_default());
    write_length(node, "offset", selector.shift.offset.as_ref());
    if range.is_some() {
        write_length(node, "range", range);
    }
    node.boolean("smoothed", selector.mode == RangeMode::Smoothed);
    write_at_end(node, &selector.shift);
    write_at_time(node, &selector.shift);
}

fn write_at_end(node: &mut Object<'_>, shift: &Shift) {
    match shift.at {
        Some(At::Start) => node.text("startOrEnd", "start"),
        Some(At::End) => node.text("startOrEnd", "end"),
        _ => node.null("startOrEnd"),
    }
}

fn write_at_time(node: &mut Object<'_>, shift: &Shift) {
    match shift.at {
        Some(At::Timestamp(ms)) => node.integer("timestamp", ms),
        _ => node.null("timestamp"),
    }
}

/// A length as `name`, milliseconds, when it is a plain one, and as `nameExpr` when it is computed.
fn write_length(node: &mut Object<'_>, name: &str, length: Option<&DurationExpr>) {
    let plain = length.and_then(|length| plain_seconds(&length.kind));
    node.integer(name, plain.map_or(0, |seconds| (seconds * 1000.0).round() as i64));
    let field = format!("{name}Expr");
    match length {
        Some(length) if plain.is_none() => write_duration(node.field(&field), length, false),
        _ => node.null(&field),
    }
}

fn plain_seconds(kind: &DurationKind) -> Option<f64> {
    match kind {
        DurationKind::Literal(literal) => Some(literal.value),
        DurationKind::Paren(inner) => plain_seconds(&inner.kind),
        DurationKind::Unary { negative, operand } => match operand.kind {
            DurationKind::Literal(literal) => Some(if *negative { -literal.value } else { literal.value }),
            _ => None,
        },
        _ => None,
    }
}

fn write_duration(out: &mut Vec<u8>, expr: &DurationExpr, wrapped: bool) {
    deeper(|| write_duration_here(out, expr, wrapped));
}

fn write_duration_here(out: &mut Vec<u8>, expr: &DurationExpr, wrapped: bool) {
    let (op, left, right) = match &expr.kind {
        DurationKind::Literal(literal) => return write_duration_literal(out, literal),
        DurationKind::Paren(inner) => return write_duration(out, inner, true),
        DurationKind::Unary { negative, operand } => (sign(*negative), None, Some(operand)),
        DurationKind::Binary { op, left, right } => (op.as_str(), Some(left), Some(right)),
        DurationKind::Step => ("step", None, None),
        DurationKind::Range => ("range", None, None),
        DurationKind::MinOf(left, right) => ("min_of", Some(left), Some(right)),
        DurationKind::MaxOf(left, right) => ("max_of", Some(left), Some(right)),
    };
    let mut node = Object::new(out);
    write_side(&mut node, "lhs", left.map(Box::as_ref));
    node.text("op", op);
    write_side(&mut node, "rhs", right.map(Box::as_ref));
    node.text("type", "durationExpr");
    node.boolean("wrapped", wrapped);
    node.end();
}

fn write_side(node: &mut Object<'_>, name: &str, side: Option<&DurationExpr>) {
    match side {
        Some(side) => write_duration(node.field(name), side, false),
        None => node.null(name),
    }
}

fn write_duration_literal(out: &mut Vec<u8>, literal: &NumberLiteral) {
    let mut node = Object::new(out);
    node.boolean("duration", literal.duration);
    node.text("type", "numberLiteral");
    node.text("val", &number::format_float(literal.value));
    node.end();
}

fn write_call(node: &mut Object<'_>, call: &Call) {
    node.array("args", &call.args, write);
    let mut function = Object::new(node.field("func"));
    json::texts(function.field("argTypes"), call.function.args.iter().map(|kind| kind.api()));
    function.text("name", call.function.name);
    function.text("returnType", call.function.returns.api());
    function.integer("variadic", call.function.variadic);
    function.end();
    node.text("type", "call");
}

fn write_aggregate(node: &mut Object<'_>, aggregate: &Aggregate) {
    write(node.field("expr"), &aggregate.expr);
    let grouping = aggregate.grouping.as_ref();
    json::texts(node.field("grouping"), grouping.map(|g| g.labels.as_slice()).unwrap_or_default());
    node.text("op", aggregate.op.as_str());
    match &aggregate.param {
        Some(param) => write(node.field("param"), param),
        None => node.null("param"),
    }
    node.text("type", "aggregation");
    node.boolean("without", grouping.is_some_and(|g| g.without));
}

/// Signs are objects in one another, the first outermost.
fn write_unary(out: &mut Vec<u8>, unary: &Unary) {
    for _ in &unary.signs {
        Object::new(out).field("expr");
    }
    write(out, &unary.operand);
    for sign_of in unary.signs.iter().rev() {
        let mut node = Object::resumed(out);
        node.text("op", sign(sign_of.negative));
        node.text("type", "unaryExpr");
        node.end();
    }
}

/// Operators are objects in one another, the last outermost: its left side is all before it.
fn write_chain(out: &mut Vec<u8>, chain: &Chain) {
    for link in chain.links.iter().rev() {
        write_operator_head(&mut Object::new(out), link);
    }
    write(out, &chain.first);
    for link in &chain.links {
        let mut node = Object::resumed(out);
        write_operator(&mut node, link);
        write(node.field("rhs"), &link.operand);
        node.text("type", "binaryExpr");
        node.end();
    }
}

/// The first operator is outermost: its right side is all behind it.
fn write_chain_from_right(out: &mut Vec<u8>, chain: &Chain) {
    for (left, link) in chain.before_links().zip(&chain.links) {
        let mut node = Object::new(out);
        write(write_operator_head(&mut node, link), left);
        write_operator(&mut node, link);
        node.field("rhs");
    }
    if let Some(last) = chain.operands().next_back() {
        write(out, last);
    }
    for _ in &chain.links {
        let mut node = Object::resumed(out);
        node.text("type", "binaryExpr");
        node.end();
    }
}

/// What stands before the left side, which the caller writes into what it gets.
fn write_operator_head<'o>(node: &'o mut Object<'_>, link: &Link) -> &'o mut Vec<u8> {
    node.boolean("bool", link.return_bool);
    node.field("lhs")
}

/// What stands between the sides.
fn write_operator(node: &mut Object<'_>, link: &Link) {
    match &link.matching {
        Some(matching) => write_matching(node.field("matching"), matching),
        None => node.null("matching"),
    }
    node.text("op", link.op.as_str());
}

fn write_matching(out: &mut Vec<u8>, matching: &VectorMatching) {
    let mut node = Object::new(out);
    let card = match matching.card {
        Cardinality::OneToOne => "one-to-one",
        Cardinality::ManyToOne => "many-to-one",
        Cardinality::OneToMany => "one-to-many",
        Cardinality::ManyToMany => "many-to-many",
    };
    node.text("card", card);
    let mut fill = Object::new(node.field("fillValues"));
    for (side, value) in [("lhs", matching.fill_left), ("rhs", matching.fill_right)] {
        match value {
            Some(value) => fill.number(side, value),
            None => fill.null(side),
        }
    }
    fill.end();
    json::texts(node.field("include"), &matching.include);
    json::texts(node.field("labels"), &matching.labels);
    node.boolean("on", matching.on);
    node.end();
}

#[cfg(test)]
mod tests {
    use promql::parser::{ParseOptions, parse};

    use super::*;

    fn check(query: &str, expected: &str) {
        let expr = parse(query, &ParseOptions::all()).expect("PromQL");
        let mut out = Vec::new();
        write(&mut out, &expr);
        assert_eq!(String::from_utf8_lossy(&out), expected, "{query}");
    }

    const UP: &str = concat!(
        r#"{"anchored":false,"matchers":[{"name":"__name__","type":"=","value":"up"}],"name":"up","offset":0,"#,
        r#""offsetExpr":null,"smoothed":false,"startOrEnd":null,"timestamp":null,"type":"vectorSelector"}"#
    );

    #[test]
    fn selectors() {
        check("up", UP);
        check(
            r#"up{job=~"a"} offset -5m @ 1.5"#,
            concat!(
                r#"{"anchored":false,"matchers":[{"name":"job","type":"=~","value":"a"},{"name":"__name__","type":"=","value":"up"}],"#,
                r#""name":"up","offset":-300000,"offsetExpr":null,"smoothed":false,"startOrEnd":null,"timestamp":1500,"type":"vectorSelector"}"#
            ),
        );
        check(
            r#"{job="a"}[5m+1m] @ end()"#,
            concat!(
                r#"{"anchored":false,"matchers":[{"name":"job","type":"=","value":"a"}],"name":"","offset":0,"offsetExpr":null,"#,
                r#""range":0,"rangeExpr":{"lhs":{"duration":true,"type":"numberLiteral","val":"300"},"op":"+","#,
                r#""rhs":{"duration":true,"type":"numberLiteral","val":"60"},"type":"durationExpr","wrapped":false},"#,
                r#""smoothed":false,"startOrEnd":"end","timestamp":null,"type":"matrixSelector"}"#
            ),
        );
    }

    #[test]
    fn operators() {
        check("-1", r#"{"type":"numberLiteral","val":"-1"}"#);
        check(
            "sum by (job) (up)",
            &format!(
                r#"{{"expr":{UP},"grouping":["job"],"op":"sum","param":null,"type":"aggregation","without":false}}"#
            ),
        );
        check(
            "(up) * on (x) group_left up",
            &format!(
                concat!(
                    r#"{{"bool":false,"lhs":{{"expr":{},"type":"parenExpr"}},"matching":{{"card":"many-to-one","#,
                    r#""fillValues":{{"lhs":null,"rhs":null}},"include":[],"labels":["x"],"on":true}},"op":"*","rhs":{},"type":"binaryExpr"}}"#
                ),
                UP, UP
            ),
        );
        check(
            "abs(up)",
            &format!(
                r#"{{"args":[{UP}],"func":{{"argTypes":["vector"],"name":"abs","returnType":"vector","variadic":0}},"type":"call"}}"#
            ),
        );
    }

    #[test]
    fn operators_and_signs_in_a_row_are_objects_in_one_another() {
        let number = |value: u8| format!(r#"{{"type":"numberLiteral","val":"{value}"}}"#);
        let binary = |left: &str, op: &str, right: &str| {
            format!(
                r#"{{"bool":false,"lhs":{left},"matching":null,"op":"{op}","rhs":{right},"type":"binaryExpr"}}"#
            )
        };
        let (one, two, three) = (number(1), number(2), number(3));
        check("1 - 2 + 3", &binary(&binary(&one, "-", &two), "+", &three));
        check("1 + 2 * 3", &binary(&one, "+", &binary(&two, "*", &three)));
        check("1 ^ 2 ^ 3", &binary(&one, "^", &binary(&two, "^", &three)));
        let signed = |op: &str, of: &str| format!(r#"{{"expr":{of},"op":"{op}","type":"unaryExpr"}}"#);
        check("-+up", &signed("-", &signed("+", UP)));
        let long = format!("1{}", " + 1".repeat(20_000));
        let mut expected = r#"{"bool":false,"lhs":"#.repeat(20_000) + &one;
        expected.push_str(
            &format!(r#","matching":null,"op":"+","rhs":{one},"type":"binaryExpr"}}"#).repeat(20_000),
        );
        check(&long, &expected);
    }

    #[test]
    fn subqueries() {
        check(
            "up[1h:5m] offset (1h/2)",
            &format!(
                concat!(
                    r#"{{"expr":{},"offset":0,"offsetExpr":{{"lhs":{{"duration":true,"type":"numberLiteral","val":"3600"}},"op":"/","#,
                    r#""rhs":{{"duration":false,"type":"numberLiteral","val":"2"}},"type":"durationExpr","wrapped":true}},"#,
                    r#""range":3600000,"rangeExpr":null,"startOrEnd":null,"step":300000,"stepExpr":null,"timestamp":null,"type":"subquery"}}"#
                ),
                UP
            ),
        );
    }
}
