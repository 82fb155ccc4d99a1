//! Tokens to tree: precedence climbing, then a pass that checks types.
//!
//! Errors are worded and placed as Prometheus 3.14 words and places them, because people search for
//! these sentences. There the parser is generated from a grammar whose rules name what they expected
//! where ("in aggregation", "in grouping opts, expected label"); here every such rule is a `Context`
//! that is in force while its part of the text is read, the innermost one speaking. The first error
//! ends the reading.
//!
//! A tree is at most [`LEVELS_MAX`] levels high; operators in a row are one level, however many they are.
//! A text is at most [`TEXT_BYTES_MAX`] long. Time and memory are linear in the text.
//!
//! Source: Prometheus `promql/parser/generated_parser.y` (grammar) and `parse.go` (checks).

mod check;
mod duration;
pub(crate) mod literal;
mod modifier;
pub(crate) mod quote;
mod selector;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::ast::{
    Aggregate, AggregateOp, BinaryOp, Call, Cardinality, Chain, Expr, ExprKind, Grouping, Link,
    NumberLiteral, Sign, Span, Unary, ValueType, VectorMatching,
};
use crate::depth::{LEVELS_MAX, deeper};
use crate::function;
use crate::lexer::{Keyword, Kind, Lexer, Preprocessor, Token};
use quote::quote;

/// How many regular expressions a text may have in its matchers. Each may take milliseconds to
/// compile, during which a query cannot be cancelled.
pub const PATTERNS_MAX: usize = 1000;

/// How much memory the compiled regular expressions of a text may take together, in bytes. One alone may
/// take some 10 MiB.
pub const PATTERN_BYTES_MAX: usize = 64 << 20;

/// The longest text that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// What the language holds beside its stable part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParseOptions {
    /// Experimental functions and aggregations (`promql-experimental-functions`).
    pub experimental_functions: bool,
    /// `fill`, `fill_left`, `fill_right` (`promql-binop-fill-modifiers`).
    pub fill_modifiers: bool,
    /// `anchored`, `smoothed` (`promql-extended-range-selectors`).
    pub extended_ranges: bool,
}

impl ParseOptions {
    /// Everything.
    pub fn all() -> ParseOptions {
        ParseOptions { experimental_functions: true, fill_modifiers: true, extended_ranges: true }
    }
}

/// A text that is not PromQL. Shown as `1:12: parse error: unexpected ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// The part of the text at fault.
    pub span: Span,
    /// Line of its start, from 1; 0 when the text is empty.
    pub line: u32,
    /// Column of its start, in bytes, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(text: &str, span: Span, message: impl Into<String>) -> ParseError {
        let (line, column) = if text.is_empty() { (0, 0) } else { line_and_column(text, span.start) };
        ParseError { span, line, column, message: message.into() }
    }
}

/// Line and column, both from 1 and the column in bytes, of a place in a text.
pub fn line_and_column(text: &str, at: u32) -> (u32, u32) {
    let before = &text.as_bytes()[..(at as usize).min(text.len())];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    (line as u32, (before.len() - line_start + 1) as u32)
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "unknown position: parse error: {}", self.message)
        } else {
            write!(f, "{}:{}: parse error: {}", self.line, self.column, self.message)
        }
    }
}

impl std::error::Error for ParseError {}

/// Parses and checks an expression.
///
/// # Errors
/// [`ParseError`] for the first thing wrong, syntax before types.
pub fn parse(text: &str, options: &ParseOptions) -> Result<Expr, ParseError> {
    let mut parser = Parser::new(text, *options)?;
    if parser.peek()?.kind == Kind::End {
        return Err(parser.error(Span::default(), "no expression found in input"));
    }
    let tree = parser.expression()?;
    parser.end()?;
    let mut expr = *tree.expr;
    check::check(&mut expr, text)?;
    Ok(expr)
}

/// Parses a series selector without modifiers (`up{job="x"}`), the form of `match[]`.
///
/// That some matcher refuses the empty string, as [`parse`] requires, is not checked.
///
/// # Errors
/// [`ParseError`] for the first thing wrong.
pub fn parse_matchers(text: &str) -> Result<Vec<model::Matcher>, ParseError> {
    let mut parser = Parser::new(text, ParseOptions::default())?;
    let selector = match parser.peek()?.kind {
        Kind::LeftBrace => parser.selector(None)?,
        kind if names_metric(kind) => {
            let name = parser.next()?;
            parser.selector(Some(name))?
        }
        _ => return Err(parser.unexpected()),
    };
    parser.end()?;
    match selector.expr.kind {
        ExprKind::Vector(vector) => Ok(vector.matchers),
        _ => Ok(Vec::new()),
    }
}

/// What the grammar was reading and, where it says so, what it expected next.
#[derive(Debug, Clone, Copy)]
struct Context {
    reading: &'static str,
    expected: &'static str,
}

/// A finished part of the tree.
struct Tree {
    expr: Box<Expr>,
    /// Levels, this one included.
    height: usize,
}

impl Tree {
    fn push_to(self, exprs: &mut Vec<Expr>) {
        exprs.push(*self.expr);
    }
}

/// The heart of the parser: tokens one ahead, and the context that words errors.
struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    ahead: Option<Token>,
    /// End of the last token taken.
    taken_end: u32,
    context: Option<Context>,
    options: ParseOptions,
    /// How deep the descent is.
    depth: usize,
    /// Regular expressions compiled so far.
    patterns: usize,
    pattern_bytes: usize,
}

type Parsed<T> = Result<T, ParseError>;

/// Binding strength of binary operators; unary signs bind as `*` does.
mod power {
    pub(super) const LOWEST: u8 = 1;
    pub(super) const MUL: u8 = 5;
    pub(super) const POW: u8 = 6;
}

fn binding_power(op: BinaryOp) -> u8 {
    use BinaryOp::*;
    match op {
        Or => power::LOWEST,
        And | Unless => 2,
        Eql | Neq | Lss | Lte | Gtr | Gte | TrimUpper | TrimLower => 3,
        Add | Sub => 4,
        Mul | Div | Mod | Atan2 => power::MUL,
        Pow => power::POW,
    }
}

/// Whether the token can name a metric before braces.
fn names_metric(kind: Kind) -> bool {
    use Keyword::{Bool, GroupLeft, GroupRight, Ignoring, On};
    match kind {
        Kind::Identifier | Kind::MetricIdentifier | Kind::Aggregator(_) | Kind::Preprocessor(_) => true,
        Kind::Operator(op) => op.is_set(),
        Kind::Keyword(keyword) => !matches!(keyword, Bool | GroupLeft | GroupRight | Ignoring | On),
        _ => false,
    }
}

/// Whether the token can name a label in a grouping.
fn names_label(kind: Kind) -> bool {
    match kind {
        Kind::Keyword(keyword) => keyword != Keyword::Without,
        Kind::Operator(op) => op.is_set() || op == BinaryOp::Atan2,
        kind => names_metric(kind),
    }
}

/// Whether an expression can start with the token.
fn starts_expression(kind: Kind) -> bool {
    match kind {
        Kind::Number | Kind::Duration | Kind::String | Kind::LeftParen | Kind::LeftBrace => true,
        Kind::Operator(BinaryOp::Add | BinaryOp::Sub) => true,
        kind => names_metric(kind),
    }
}

/// The type of an operator's result.
fn joined_type(left: ValueType, right: &Expr) -> ValueType {
    let scalars = left == ValueType::Scalar && right.value_type() == ValueType::Scalar;
    if scalars { ValueType::Scalar } else { ValueType::Vector }
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, options: ParseOptions) -> Parsed<Parser<'a>> {
        if text.len() > TEXT_BYTES_MAX {
            let message = format!("query is longer than {TEXT_BYTES_MAX} bytes");
            return Err(ParseError::new(text, Span::default(), message));
        }
        Ok(Parser {
            text,
            lexer: Lexer::new(text),
            ahead: None,
            taken_end: 0,
            context: None,
            options,
            depth: 0,
            patterns: 0,
            pattern_bytes: 0,
        })
    }

    fn peek(&mut self) -> Parsed<Token> {
        if let Some(token) = self.ahead {
            return Ok(token);
        }
        let token = self.lexer.next()?;
        self.ahead = Some(token);
        Ok(token)
    }

    fn next(&mut self) -> Parsed<Token> {
        let token = self.peek()?;
        if token.kind != Kind::End {
            self.ahead = None;
        }
        self.taken_end = token.span.end;
        Ok(token)
    }

    /// Takes the next token if it is of this kind.
    fn accept(&mut self, kind: Kind) -> Parsed<Option<Token>> {
        if self.peek()?.kind == kind { self.next().map(Some) } else { Ok(None) }
    }

    fn expect(&mut self, kind: Kind) -> Parsed<Token> {
        match self.accept(kind)? {
            Some(token) => Ok(token),
            None => Err(self.unexpected()),
        }
    }

    fn end(&mut self) -> Parsed<()> {
        self.expect(Kind::End).map(drop)
    }

    fn slice(&self, span: Span) -> &'a str {
        &self.text[span.start as usize..span.end as usize]
    }

    /// Takes the next token, whatever it is, as a name.
    fn take_word(&mut self) -> Parsed<String> {
        let token = self.next()?;
        Ok(self.slice(token.span).to_owned())
    }

    /// From `start` to the last token taken.
    fn span_from(&self, start: u32) -> Span {
        Span { start, end: self.taken_end }
    }

    fn error(&self, span: Span, message: impl Into<String>) -> ParseError {
        ParseError::new(self.text, span, message)
    }

    /// Complains about the token ahead, in the words of the innermost context.
    fn unexpected(&mut self) -> ParseError {
        let token = match self.peek() {
            Ok(token) => token,
            Err(error) => return error,
        };
        let mut message = format!("unexpected {}", token.describe(self.text));
        if let Some(context) = self.context {
            message.push_str(" in ");
            message.push_str(context.reading);
            if !context.expected.is_empty() {
                message.push_str(", expected ");
                message.push_str(context.expected);
            }
        }
        self.error(token.span, message)
    }

    /// Runs `read` with `context` in force.
    fn within<T>(
        &mut self,
        reading: &'static str,
        expected: &'static str,
        read: impl FnOnce(&mut Self) -> Parsed<T>,
    ) -> Parsed<T> {
        let outer = self.context.replace(Context { reading, expected });
        let done = read(self)?;
        self.context = outer;
        Ok(done)
    }

    /// Reads what is nested one level deeper.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        if self.depth > LEVELS_MAX {
            return Err(self.too_deep(self.span_from(self.taken_end)));
        }
        let done = deeper(|| read(self))?;
        self.depth -= 1;
        Ok(done)
    }

    fn too_deep(&self, span: Span) -> ParseError {
        self.error(span, format!("expression is nested more than {LEVELS_MAX} levels deep"))
    }

    /// A node above others, the highest of which has `below` levels.
    fn tree(&self, span: Span, kind: ExprKind, below: usize) -> Parsed<Tree> {
        if below >= LEVELS_MAX {
            return Err(self.too_deep(span));
        }
        Ok(Tree { expr: Box::new(Expr { span, kind }), height: below + 1 })
    }

    fn expression(&mut self) -> Parsed<Tree> {
        self.nested(|p| p.binary(power::LOWEST))
    }

    /// Operators that bind at least as strongly as `weakest`, and what they bind.
    fn binary(&mut self, weakest: u8) -> Parsed<Tree> {
        let mut left = self.signed()?;
        while let Some(op) = self.operator(weakest)? {
            left = if op == BinaryOp::Pow { self.powers(left)? } else { self.infix(op, left)? };
        }
        Ok(left)
    }

    /// The operator ahead, if it binds at least as strongly as `weakest`.
    fn operator(&mut self, weakest: u8) -> Parsed<Option<BinaryOp>> {
        match self.peek()?.kind {
            Kind::Operator(op) if binding_power(op) >= weakest => Ok(Some(op)),
            _ => Ok(None),
        }
    }

    /// `left` with the operator ahead, which groups from the left, and its right side.
    fn infix(&mut self, op: BinaryOp, left: Tree) -> Parsed<Tree> {
        let (link, height) = self.link(op, |p| p.binary(binding_power(op) + 1))?;
        let span = Span { start: left.expr.span.start, end: link.operand.span.end };
        self.check_fill(&link, span)?;
        let Tree { mut expr, height: left_height } = left;
        if let ExprKind::Chain(chain) = &mut expr.kind
            && !chain.groups_from_right()
        {
            chain.value_type = joined_type(chain.value_type, &link.operand);
            chain.links.push(link);
            expr.span = span;
            if height >= LEVELS_MAX {
                return Err(self.too_deep(span));
            }
            return Ok(Tree { expr, height: left_height.max(height + 1) });
        }
        let value_type = joined_type(expr.value_type(), &link.operand);
        let chain = Chain { value_type, first: expr, links: vec![link] };
        self.tree(span, ExprKind::Chain(chain), left_height.max(height))
    }

    /// `first` with the `^` ahead and all that follow: they group from the right.
    fn powers(&mut self, first: Tree) -> Parsed<Tree> {
        let Tree { expr: first, height: mut below } = first;
        let mut value_type = first.value_type();
        let mut links = Vec::new();
        while self.operator(power::POW)?.is_some() {
            let (link, height) = self.link(BinaryOp::Pow, Parser::signed)?;
            below = below.max(height);
            value_type = joined_type(value_type, &link.operand);
            links.push(link);
        }
        let chain = Chain { value_type, first, links };
        let end = chain.operands().next_back().map_or(0, |last| last.span.end);
        for (left, link) in chain.before_links().zip(&chain.links).rev() {
            self.check_fill(link, Span { start: left.span.start, end })?;
        }
        let span = Span { start: chain.first.span.start, end };
        self.tree(span, ExprKind::Chain(chain), below)
    }

    /// The operator ahead with its modifiers and its right side, and the levels of that.
    fn link(&mut self, op: BinaryOp, right: impl FnOnce(&mut Self) -> Parsed<Tree>) -> Parsed<(Link, usize)> {
        self.next()?;
        let (matching, return_bool) = self.binary_modifiers(op)?;
        let right = right(self)?;
        self.peek()?; // what cannot be read behind the right side is reported first
        let link = Link { op, matching: Some(Box::new(matching)), return_bool, operand: *right.expr };
        Ok((link, right.height))
    }

    fn check_fill(&self, link: &Link, span: Span) -> Parsed<()> {
        let fills = link.matching.as_ref().is_some_and(|m| m.fill_left.is_some() || m.fill_right.is_some());
        if fills && !self.options.fill_modifiers {
            return Err(self.error(span, "binop fill modifiers are experimental and not enabled"));
        }
        Ok(())
    }

    /// An operand, with its signs before it and its modifiers behind it.
    fn signed(&mut self) -> Parsed<Tree> {
        let mut signs = Vec::new();
        while let Token { kind: Kind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)), span } = self.peek()? {
            self.next()?;
            signs.push(Sign { negative: op == BinaryOp::Sub, at: span.start });
        }
        if signs.is_empty() {
            let operand = self.operand()?;
            return self.modified(operand);
        }
        let operand = self.nested(|p| p.binary(power::POW))?;
        self.apply_signs(signs, operand)
    }

    /// Signs before a number become part of it.
    fn apply_signs(&self, signs: Vec<Sign>, mut operand: Tree) -> Parsed<Tree> {
        let start = signs.first().map_or(operand.expr.span.start, |sign| sign.at);
        let span = Span { start, end: operand.expr.span.end };
        if let ExprKind::Number(number) = &mut operand.expr.kind {
            for _ in signs.iter().filter(|sign| sign.negative) {
                number.value = -number.value;
            }
            operand.expr.span = span;
            return Ok(operand);
        }
        let unary = Unary { signs, operand: operand.expr };
        self.tree(span, ExprKind::Unary(unary), operand.height)
    }

    fn operand(&mut self) -> Parsed<Tree> {
        match self.peek()?.kind {
            Kind::LeftParen => self.paren(),
            kind if names_metric(kind) => self.named(),
            _ => self.leaf(),
        }
    }

    /// What holds no other expressions.
    fn leaf(&mut self) -> Parsed<Tree> {
        let token = self.peek()?;
        let kind = match token.kind {
            Kind::Number | Kind::Duration => ExprKind::Number(self.number_literal()?),
            Kind::String => ExprKind::String(self.string_literal()?),
            Kind::LeftBrace => return self.selector(None),
            _ => return Err(self.unexpected()),
        };
        self.tree(token.span, kind, 0)
    }

    fn paren(&mut self) -> Parsed<Tree> {
        let open = self.next()?.span.start;
        let inner = self.expression()?;
        self.close_paren(open, inner)
    }

    fn close_paren(&mut self, open: u32, inner: Tree) -> Parsed<Tree> {
        self.expect(Kind::RightParen)?;
        self.tree(self.span_from(open), ExprKind::Paren(inner.expr), inner.height)
    }

    /// A function call, an aggregation or a metric: what follows the word decides.
    fn named(&mut self) -> Parsed<Tree> {
        let word = self.next()?;
        let follows = self.peek()?.kind;
        match (word.kind, follows) {
            (Kind::Identifier | Kind::Preprocessor(_), Kind::LeftParen) => self.call(word),
            (
                Kind::Aggregator(op),
                Kind::LeftParen | Kind::Keyword(Keyword::By) | Kind::Keyword(Keyword::Without),
            ) => self.aggregate(word, op),
            _ => self.selector(Some(word)),
        }
    }

    fn call(&mut self, name: Token) -> Parsed<Tree> {
        let (args, below) = self.arguments()?;
        self.call_of(name, args, below)
    }

    fn call_of(&self, name: Token, args: Vec<Expr>, below: usize) -> Parsed<Tree> {
        let word = self.slice(name.span);
        let Some(function) = function::lookup(word) else {
            return Err(self.error(name.span, format!("unknown function with name {}", quote(word))));
        };
        if function.experimental && !self.options.experimental_functions {
            return Err(self.error(name.span, format!("function {} is not enabled", quote(word))));
        }
        self.tree(self.span_from(name.span.start), ExprKind::Call(Call { function, args }), below)
    }

    /// `(a, b)`, and the levels of the highest of them.
    fn arguments(&mut self) -> Parsed<(Vec<Expr>, usize)> {
        self.expect(Kind::LeftParen)?;
        let mut args = Vec::new();
        let mut below = 0;
        if self.accept(Kind::RightParen)?.is_some() {
            return Ok((args, below));
        }
        while self.argument(&mut args, &mut below)? {}
        self.expect(Kind::RightParen)?;
        Ok((args, below))
    }

    /// Reads one argument and the comma behind it; says whether there was one.
    fn argument(&mut self, args: &mut Vec<Expr>, below: &mut usize) -> Parsed<bool> {
        let arg = self.expression()?;
        *below = arg.height.max(*below);
        arg.push_to(args);
        self.another_argument()
    }

    fn another_argument(&mut self) -> Parsed<bool> {
        let Some(comma) = self.accept(Kind::Comma)? else { return Ok(false) };
        if !starts_expression(self.peek()?.kind) {
            return Err(self.error(comma.span, "trailing commas not allowed in function call args"));
        }
        Ok(true)
    }

    fn aggregate(&mut self, word: Token, op: AggregateOp) -> Parsed<Tree> {
        let outer = self.context.replace(Context { reading: "aggregation", expected: "" });
        let mut grouping = self.grouping()?;
        let args = self.arguments()?;
        self.context = outer;
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        self.aggregate_of(word, op, grouping, args)
    }

    fn aggregate_of(
        &mut self,
        word: Token,
        op: AggregateOp,
        grouping: Option<Grouping>,
        (mut args, below): (Vec<Expr>, usize),
    ) -> Parsed<Tree> {
        let span = self.span_from(word.span.start);
        if args.is_empty() {
            return Err(self.error(span, "no arguments for aggregate expression provided"));
        }
        let experimental = matches!(op, AggregateOp::Limitk | AggregateOp::LimitRatio);
        if experimental && !self.options.experimental_functions {
            let message = format!(
                "{}() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
                op.as_str()
            );
            return Err(self.error(span, message));
        }
        let wanted = if op.takes_param() { 2 } else { 1 };
        if args.len() != wanted {
            let message = format!(
                "wrong number of arguments for aggregate expression provided, expected {wanted}, got {}",
                args.len()
            );
            return Err(self.error(span, message));
        }
        let expr = args.pop().map(Box::new);
        let param = args.pop().map(Box::new);
        let Some(expr) = expr else { return Err(self.unexpected()) };
        self.tree(span, ExprKind::Aggregate(Aggregate { op, expr, param, grouping }), below)
    }

    /// `by (...)` or `without (...)`, where one stands.
    fn grouping(&mut self) -> Parsed<Option<Grouping>> {
        let without = match self.peek()?.kind {
            Kind::Keyword(Keyword::By) => false,
            Kind::Keyword(Keyword::Without) => true,
            _ => return Ok(None),
        };
        self.next()?;
        let labels = self.label_list()?;
        Ok(Some(Grouping { without, labels }))
    }

    /// `(a, "b c")`; a comma may stand behind the last.
    fn label_list(&mut self) -> Parsed<Vec<String>> {
        self.within("grouping opts", "\"(\"", |p| p.expect(Kind::LeftParen))?;
        let mut labels = Vec::new();
        if self.accept(Kind::RightParen)?.is_some() {
            return Ok(labels);
        }
        loop {
            labels.push(self.within("grouping opts", "label", Parser::grouping_label)?);
            let comma = self.within("grouping opts", "\",\" or \")\"", |p| {
                let comma = p.accept(Kind::Comma)?;
                if comma.is_none() {
                    p.expect(Kind::RightParen)?;
                }
                Ok(comma.is_some())
            })?;
            if !comma || self.accept(Kind::RightParen)?.is_some() {
                return Ok(labels);
            }
        }
    }

    fn grouping_label(&mut self) -> Parsed<String> {
        let token = self.peek()?;
        let label = match token.kind {
            Kind::String => self.string_literal()?,
            kind if names_label(kind) => self.take_word()?,
            _ => return Err(self.unexpected()),
        };
        if label.is_empty() {
            return Err(self.error(token.span, format!("invalid label name for grouping: {}", quote(&label))));
        }
        Ok(label)
    }

    /// `bool on (...) group_left (...) fill (...)` behind a binary operator.
    fn binary_modifiers(&mut self, op: BinaryOp) -> Parsed<(VectorMatching, bool)> {
        let mut matching = VectorMatching {
            card: if op.is_set() { Cardinality::ManyToMany } else { Cardinality::OneToOne },
            on: false,
            labels: Vec::new(),
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        };
        let return_bool = self.accept(Kind::Keyword(Keyword::Bool))?.is_some();
        if let Kind::Keyword(on @ (Keyword::On | Keyword::Ignoring)) = self.peek()?.kind {
            self.next()?;
            matching.on = on == Keyword::On;
            matching.labels = self.label_list()?;
            if let Kind::Keyword(side @ (Keyword::GroupLeft | Keyword::GroupRight)) = self.peek()?.kind {
                self.next()?;
                matching.card =
                    if side == Keyword::GroupLeft { Cardinality::ManyToOne } else { Cardinality::OneToMany };
                if self.peek()?.kind == Kind::LeftParen {
                    matching.include = self.label_list()?;
                }
            }
        }
        self.fill_modifiers(&mut matching)?;
        Ok((matching, return_bool))
    }

    fn fill_modifiers(&mut self, matching: &mut VectorMatching) -> Parsed<()> {
        let Kind::Keyword(first @ (Keyword::Fill | Keyword::FillLeft | Keyword::FillRight)) =
            self.peek()?.kind
        else {
            return Ok(());
        };
        self.next()?;
        let value = self.fill_value()?;
        if first != Keyword::FillRight {
            matching.fill_left = Some(value);
        }
        if first != Keyword::FillLeft {
            matching.fill_right = Some(value);
        }
        if first == Keyword::FillLeft && self.accept(Kind::Keyword(Keyword::FillRight))?.is_some() {
            matching.fill_right = Some(self.fill_value()?);
        } else if first == Keyword::FillRight && self.accept(Kind::Keyword(Keyword::FillLeft))?.is_some() {
            matching.fill_left = Some(self.fill_value()?);
        }
        Ok(())
    }

    fn fill_value(&mut self) -> Parsed<f64> {
        self.expect(Kind::LeftParen)?;
        let value = self.signed_number()?;
        self.expect(Kind::RightParen)?;
        Ok(value)
    }

    /// A number or duration with at most one sign.
    fn signed_number(&mut self) -> Parsed<f64> {
        let negative = match self.peek()?.kind {
            Kind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) => {
                self.next()?;
                op == BinaryOp::Sub
            }
            _ => false,
        };
        let value = self.number_literal()?.value;
        Ok(if negative { -value } else { value })
    }

    fn number_literal(&mut self) -> Parsed<NumberLiteral> {
        let token = self.peek()?;
        let text = self.slice(token.span);
        let literal = match token.kind {
            Kind::Number => literal::number(text).map(|value| NumberLiteral { value, duration: false }),
            Kind::Duration => model::duration::parse(text)
                .map(|ms| NumberLiteral { value: ms as f64 / 1000.0, duration: true })
                .map_err(|error| error.to_string()),
            _ => return Err(self.unexpected()),
        };
        self.next()?;
        literal.map_err(|message| self.error(token.span, message))
    }

    fn string_literal(&mut self) -> Parsed<String> {
        let token = self.expect(Kind::String)?;
        literal::unquote(self.slice(token.span)).map_err(|message| self.error(token.span, message))
    }

    /// `start` or `end` and the like, followed by `(`.
    fn preprocessor(&mut self, wanted: &[Preprocessor]) -> Parsed<Option<(Token, Preprocessor)>> {
        let token = self.peek()?;
        match token.kind {
            Kind::Preprocessor(found) if wanted.contains(&found) => {
                self.next()?;
                self.expect(Kind::LeftParen)?;
                Ok(Some((token, found)))
            }
            _ => Ok(None),
        }
    }
}

impl AggregateOp {
    /// The operator as written.
    pub fn as_str(self) -> &'static str {
        match self {
            AggregateOp::Sum => "sum",
            AggregateOp::Avg => "avg",
            AggregateOp::Min => "min",
            AggregateOp::Max => "max",
            AggregateOp::Count => "count",
            AggregateOp::Group => "group",
            AggregateOp::Stddev => "stddev",
            AggregateOp::Stdvar => "stdvar",
            AggregateOp::Topk => "topk",
            AggregateOp::Bottomk => "bottomk",
            AggregateOp::Quantile => "quantile",
            AggregateOp::CountValues => "count_values",
            AggregateOp::Limitk => "limitk",
            AggregateOp::LimitRatio => "limit_ratio",
        }
    }

    /// Whether a parameter stands before the aggregated expression.
    pub fn takes_param(self) -> bool {
        use AggregateOp::*;
        matches!(self, Topk | Bottomk | Quantile | CountValues | Limitk | LimitRatio)
    }
}
