//! Tree to text: on one line ([`Display`] of [`Expr`]) and laid out on several
//! ([`pretty`]). Both parse back to the same tree, but for durations, which come out in one notation
//! (`[300]` as `[5m]`). Comments are lost.
//!
//! Source: Prometheus `promql/parser/printer.go`, `prettier.go` and `prettier_rules.md`.

use std::fmt::{self, Display, Write};

use model::Matcher;
use model::labels::{METRIC_NAME, is_legacy_label_name};
use model::number::format_float;

use crate::ast::{
    Aggregate, At, Call, Cardinality, Chain, DurationExpr, DurationKind, Expr, ExprKind, Link,
    MatrixSelector, NumberLiteral, RangeMode, Shift, Subquery, Unary, VectorMatching, VectorSelector,
};
use crate::depth::deeper;
use crate::parser::quote::quote;

/// The longest line, in bytes, that [`pretty`] leaves whole.
const LINE_BYTES_MAX: usize = 100;

/// How far [`pretty`] indents. Every operator of a chain that is split stands a level further in: without
/// an end to it, the text would grow with the square of the chain.
const INDENT_LEVELS_MAX: usize = 200;

/// Lays an expression out: what does not fit a line of 100 bytes is split, its parts indented by two
/// spaces more. Selectors are never split.
pub fn pretty(expr: &Expr) -> String {
    pretty_within(expr, LINE_BYTES_MAX)
}

/// [`pretty`] for lines of another length, in bytes without the indent.
pub fn pretty_within(expr: &Expr, line_bytes: usize) -> String {
    let mut layout = Layout { out: String::new(), line_bytes };
    // Writing to a string does not fail.
    let _ = layout.write(expr, 0);
    layout.out
}

impl Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        deeper(|| match &self.kind {
            ExprKind::Number(number) => number.fmt(f),
            ExprKind::String(text) => f.write_str(&quote(text)),
            ExprKind::Vector(selector) => write_vector(f, selector),
            ExprKind::Matrix(matrix) => write_matrix(f, matrix),
            ExprKind::Subquery(subquery) => {
                subquery.expr.fmt(f)?;
                write_subquery_suffix(f, subquery)
            }
            ExprKind::Call(Call { function, args }) => {
                write!(f, "{}(", function.name)?;
                write_separated(f, args, ", ", |f, arg| arg.fmt(f))?;
                f.write_char(')')
            }
            ExprKind::Aggregate(aggregate) => {
                write_aggregate_head(f, aggregate)?;
                f.write_char('(')?;
                if let Some(param) = &aggregate.param {
                    write!(f, "{param}, ")?;
                }
                write!(f, "{})", aggregate.expr)
            }
            ExprKind::Chain(chain) => write_from(f, chain, 0),
            ExprKind::Unary(unary) => {
                write_signs(f, unary)?;
                unary.operand.fmt(f)
            }
            ExprKind::Paren(inner) => write!(f, "({inner})"),
        })
    }
}

impl Display for NumberLiteral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.duration { write_length(f, self.value) } else { f.write_str(&format_float(self.value)) }
    }
}

impl Display for DurationExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        deeper(|| match &self.kind {
            DurationKind::Literal(number) => number.fmt(f),
            DurationKind::Unary { negative, operand } => {
                write!(f, "{}{operand}", if *negative { "-" } else { "" })
            }
            DurationKind::Binary { op, left, right } => write!(f, "{left} {} {right}", op.as_str()),
            DurationKind::Paren(inner) => write!(f, "({inner})"),
            DurationKind::Step => f.write_str("step()"),
            DurationKind::Range => f.write_str("range()"),
            DurationKind::MinOf(left, right) => write!(f, "min_of({left}, {right})"),
            DurationKind::MaxOf(left, right) => write!(f, "max_of({left}, {right})"),
        })
    }
}

fn write_signs(out: &mut dyn Write, unary: &Unary) -> fmt::Result {
    unary.signs.iter().try_for_each(|sign| out.write_char(if sign.negative { '-' } else { '+' }))
}

/// The operands of a chain from the `operand`th on, and the operators between them.
fn write_from(out: &mut dyn Write, chain: &Chain, operand: usize) -> fmt::Result {
    match operand.checked_sub(1) {
        None => write!(out, "{}", chain.first)?,
        Some(link) => write!(out, "{}", chain.links[link].operand)?,
    }
    chain.links[operand..].iter().try_for_each(|link| write_link(out, link))
}

fn write_link(out: &mut dyn Write, link: &Link) -> fmt::Result {
    out.write_char(' ')?;
    write_operator(out, link)?;
    write!(out, " {}", link.operand)
}

fn write_separated<W: Write + ?Sized, T>(
    out: &mut W,
    items: &[T],
    separator: &str,
    mut write: impl FnMut(&mut W, &T) -> fmt::Result,
) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.write_str(separator)?;
        }
        write(out, item)?;
    }
    Ok(())
}

/// Seconds as a duration, or as a number where no unit is small enough.
fn write_length(out: &mut dyn Write, seconds: f64) -> fmt::Result {
    let ns = (seconds * 1e9).round();
    if ns % 1e6 != 0.0 {
        return out.write_str(&format_float(seconds));
    }
    out.write_str(&model::duration::format((ns / 1e6) as i64))
}

/// A duration in brackets or behind `offset`: a plain number is written as a duration there.
fn write_duration(out: &mut dyn Write, duration: &DurationExpr) -> fmt::Result {
    match &duration.kind {
        DurationKind::Literal(number) => write_length(out, number.value),
        _ => write!(out, "{duration}"),
    }
}

fn write_labels(out: &mut dyn Write, labels: &[String]) -> fmt::Result {
    out.write_char('(')?;
    write_separated(out, labels, ", ", |out, label| {
        if is_legacy_label_name(label) { out.write_str(label) } else { out.write_str(&quote(label)) }
    })?;
    out.write_char(')')
}

fn write_aggregate_head(out: &mut dyn Write, aggregate: &Aggregate) -> fmt::Result {
    out.write_str(aggregate.op.as_str())?;
    let Some(grouping) = &aggregate.grouping else { return Ok(()) };
    if !grouping.without && grouping.labels.is_empty() {
        return Ok(()); // `by ()` groups everything into one, as no grouping does
    }
    out.write_str(if grouping.without { " without " } else { " by " })?;
    write_labels(out, &grouping.labels)?;
    out.write_char(' ')
}

/// The operator with its modifiers.
fn write_operator(out: &mut dyn Write, link: &Link) -> fmt::Result {
    out.write_str(link.op.as_str())?;
    if link.return_bool {
        out.write_str(" bool")?;
    }
    match &link.matching {
        Some(matching) => write_matching(out, matching),
        None => Ok(()),
    }
}

fn write_matching(out: &mut dyn Write, matching: &VectorMatching) -> fmt::Result {
    let group = match matching.card {
        Cardinality::ManyToOne => Some(" group_left "),
        Cardinality::OneToMany => Some(" group_right "),
        Cardinality::OneToOne | Cardinality::ManyToMany => None,
    };
    if matching.on || group.is_some() || !matching.labels.is_empty() {
        out.write_str(if matching.on { " on " } else { " ignoring " })?;
        write_labels(out, &matching.labels)?;
    }
    if let Some(group) = group {
        out.write_str(group)?;
        write_labels(out, &matching.include)?;
    }
    let mut fill = |word: &str, value: f64| {
        write!(out, " {word} (")?;
        out.write_str(&model::number::format_general(value))?;
        out.write_char(')')
    };
    match (matching.fill_left, matching.fill_right) {
        (Some(left), Some(right)) if left == right => fill("fill", left),
        (left, right) => {
            left.map_or(Ok(()), |value| fill("fill_left", value))?;
            right.map_or(Ok(()), |value| fill("fill_right", value))
        }
    }
}

/// Name and conditions.
fn write_selection(out: &mut dyn Write, selector: &VectorSelector) -> fmt::Result {
    let name = selector.name.as_deref().unwrap_or_default();
    out.write_str(name)?;
    let of_name = |m: &Matcher| {
        m.name == METRIC_NAME && m.op == model::MatchOp::Equal && m.value == name && !name.is_empty()
    };
    let mut conditions: Vec<String> =
        selector.matchers.iter().filter(|m| !of_name(m)).map(ToString::to_string).collect();
    if conditions.is_empty() {
        // Only the conditions of `info` may be none at all.
        return if name.is_empty() { out.write_str("{}") } else { Ok(()) };
    }
    conditions.sort_unstable();
    write!(out, "{{{}}}", conditions.join(","))
}

fn write_vector(out: &mut dyn Write, selector: &VectorSelector) -> fmt::Result {
    write_selection(out, selector)?;
    write_at(out, &selector.shift)?;
    write_mode(out, selector.mode)?;
    write_offset(out, &selector.shift)
}

fn write_matrix(out: &mut dyn Write, matrix: &MatrixSelector) -> fmt::Result {
    write_selection(out, &matrix.selector)?;
    out.write_char('[')?;
    write_duration(out, &matrix.range)?;
    out.write_char(']')?;
    write_mode(out, matrix.selector.mode)?;
    write_at(out, &matrix.selector.shift)?;
    write_offset(out, &matrix.selector.shift)
}

fn write_subquery_suffix(out: &mut dyn Write, subquery: &Subquery) -> fmt::Result {
    out.write_char('[')?;
    write_duration(out, &subquery.range)?;
    out.write_char(':')?;
    if let Some(step) = &subquery.step {
        write_duration(out, step)?;
    }
    out.write_char(']')?;
    write_at(out, &subquery.shift)?;
    write_offset(out, &subquery.shift)
}

fn write_mode(out: &mut dyn Write, mode: RangeMode) -> fmt::Result {
    out.write_str(match mode {
        RangeMode::Plain => "",
        RangeMode::Anchored => " anchored",
        RangeMode::Smoothed => " smoothed",
    })
}

fn write_at(out: &mut dyn Write, shift: &Shift) -> fmt::Result {
    match shift.at {
        None => Ok(()),
        Some(At::Start) => out.write_str(" @ start()"),
        Some(At::End) => out.write_str(" @ end()"),
        Some(At::Timestamp(ms)) => {
            let sign = if ms < 0 { "-" } else { "" };
            write!(out, " @ {sign}{}.{:03}", ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000)
        }
    }
}

fn write_offset(out: &mut dyn Write, shift: &Shift) -> fmt::Result {
    let Some(offset) = &shift.offset else { return Ok(()) };
    if matches!(&offset.kind, DurationKind::Literal(number) if number.value == 0.0) {
        return Ok(());
    }
    out.write_str(" offset ")?;
    write_duration(out, offset)
}

/// Refuses to take more bytes than it has room for.
struct Line {
    room: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.room = self.room.checked_sub(text.len()).ok_or(fmt::Error)?;
        Ok(())
    }
}

struct Layout {
    out: String,
    line_bytes: usize,
}

impl Layout {
    fn fits_a_line(&self, expr: &Expr) -> bool {
        write!(Line { room: self.line_bytes }, "{expr}").is_ok()
    }

    fn indent(&mut self, level: usize) {
        self.out.extend(std::iter::repeat_n("  ", level.min(INDENT_LEVELS_MAX)));
    }

    fn write(&mut self, expr: &Expr, level: usize) -> fmt::Result {
        deeper(|| self.write_here(expr, level))
    }

    fn write_here(&mut self, expr: &Expr, level: usize) -> fmt::Result {
        match &expr.kind {
            ExprKind::Unary(unary) => {
                self.indent(level);
                write_signs(&mut self.out, unary)?;
                let operand = self.out.len();
                self.write(&unary.operand, level)?;
                // The operand follows its sign, not an indent.
                let blanks = self.out[operand..].len() - self.out[operand..].trim_start().len();
                self.out.replace_range(operand..operand + blanks, "");
                Ok(())
            }
            ExprKind::Subquery(subquery) if !self.fits_a_line(expr) => {
                self.write(&subquery.expr, level)?;
                write_subquery_suffix(&mut self.out, subquery)
            }
            ExprKind::Chain(chain) if !self.fits_a_line(expr) => {
                if chain.groups_from_right() {
                    self.chain_from_right(chain, level)
                } else {
                    self.chain_from_left(chain, level)
                }
            }
            ExprKind::Aggregate(aggregate) if !self.fits_a_line(expr) => {
                self.indent(level);
                write_aggregate_head(&mut self.out, aggregate)?;
                let parts = aggregate.param.iter().chain([&aggregate.expr]).map(AsRef::as_ref);
                self.block(parts, level)
            }
            ExprKind::Call(call) if !self.fits_a_line(expr) => {
                self.indent(level);
                self.out.push_str(call.function.name);
                self.block(call.args.iter(), level)
            }
            ExprKind::Paren(inner) if !self.fits_a_line(expr) => {
                self.indent(level);
                self.block([inner.as_ref()].into_iter(), level)
            }
            _ => {
                self.indent(level);
                write!(self.out, "{expr}")
            }
        }
    }

    /// The last operator stands at `level`, each one before it a level further in, and so on up to what
    /// fits a line.
    fn chain_from_left(&mut self, chain: &Chain, level: usize) -> fmt::Result {
        let links = &chain.links;
        let mut line = Line { room: self.line_bytes };
        let mut whole = 0;
        if write!(line, "{}", chain.first).is_ok() {
            whole = links.iter().take_while(|link| write_link(&mut line, link).is_ok()).count();
        }
        let innermost = level + links.len() - whole;
        if whole == 0 {
            self.write(&chain.first, innermost)?;
        } else {
            self.indent(innermost);
            write!(self.out, "{}", chain.first)?;
            links[..whole].iter().try_for_each(|link| write_link(&mut self.out, link))?;
        }
        for (at, link) in links.iter().enumerate().skip(whole) {
            let level = level + links.len() - 1 - at;
            self.operator_line(link, level)?;
            self.write(&link.operand, level + 1)?;
        }
        Ok(())
    }

    /// The first operator stands at `level`, each one behind it a level further in, and so on down to
    /// what fits a line.
    fn chain_from_right(&mut self, chain: &Chain, level: usize) -> fmt::Result {
        for (at, (operand, link)) in chain.before_links().zip(&chain.links).enumerate() {
            let level = level + at;
            if write_from(&mut Line { room: self.line_bytes }, chain, at).is_ok() {
                self.indent(level);
                return write_from(&mut self.out, chain, at);
            }
            self.write(operand, level + 1)?;
            self.operator_line(link, level)?;
        }
        chain.operands().next_back().map_or(Ok(()), |last| self.write(last, level + chain.links.len()))
    }

    fn operator_line(&mut self, link: &Link, level: usize) -> fmt::Result {
        self.out.push('\n');
        self.indent(level);
        write_operator(&mut self.out, link)?;
        self.out.push('\n');
        Ok(())
    }

    /// Parentheses on lines of their own around `parts`.
    fn block<'a>(&mut self, parts: impl Iterator<Item = &'a Expr>, level: usize) -> fmt::Result {
        self.out.push('(');
        for (at, part) in parts.enumerate() {
            self.out.push_str(if at > 0 { ",\n" } else { "\n" });
            self.write(part, level + 1)?;
        }
        self.out.push('\n');
        self.indent(level);
        self.out.push(')');
        Ok(())
    }
}
