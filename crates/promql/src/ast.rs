//! The syntax tree. Every node carries its span in the query text, in bytes, so that errors,
//! warnings and editors can point.
//!
//! Source: Prometheus `promql/parser/ast.go` for the meaning of the fields.

use std::fmt;

use model::Matcher;

use crate::depth::deeper;

/// A byte range of the query text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// The types of expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// No value (an argument list's end).
    None,
    /// One sample a series.
    Vector,
    /// One number.
    Scalar,
    /// A range of samples a series.
    Matrix,
    /// A text.
    String,
}

impl ValueType {
    /// The name used in error messages: `instant vector`, `range vector`, `scalar`, `string`.
    pub fn documented(self) -> &'static str {
        match self {
            ValueType::None => "none",
            ValueType::Vector => "instant vector",
            ValueType::Scalar => "scalar",
            ValueType::Matrix => "range vector",
            ValueType::String => "string",
        }
    }

    /// The name used in the HTTP API's `resultType`: `vector`, `scalar`, `matrix`, `string`.
    pub fn api(self) -> &'static str {
        match self {
            ValueType::None => "none",
            ValueType::Vector => "vector",
            ValueType::Scalar => "scalar",
            ValueType::Matrix => "matrix",
            ValueType::String => "string",
        }
    }
}

/// An expression and where it stands.
pub struct Expr {
    /// Where.
    pub span: Span,
    /// What.
    pub kind: ExprKind,
}

/// The kinds of expressions.
#[derive(Debug, Clone, PartialEq)]
pub enum ExprKind {
    /// `1.5`, `0x1f`, `Inf`, `5m`
    Number(NumberLiteral),
    /// `"text"`
    String(String),
    /// `metric{label="value"} offset 5m @ 10`
    Vector(VectorSelector),
    /// `selector[5m]`
    Matrix(MatrixSelector),
    /// `expr[1h:5m]`
    Subquery(Subquery),
    /// `rate(...)`
    Call(Call),
    /// `sum by (x) (...)`
    Aggregate(Aggregate),
    /// `a + b - c`
    Chain(Chain),
    /// `-a`, `+a`
    Unary(Unary),
    /// `(a)`
    Paren(Box<Expr>),
}

/// A number as written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NumberLiteral {
    /// The value; seconds for a duration.
    pub value: f64,
    /// Whether it was written as a duration (`5m`): printed back as one.
    pub duration: bool,
}

/// `offset` and `@`, which selectors and subqueries share.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shift {
    /// `offset`, when given.
    pub offset: Option<DurationExpr>,
    /// `@`, when given.
    pub at: Option<At>,
}

/// The argument of `@`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    /// `@ 123.4`: milliseconds since the Unix epoch.
    Timestamp(i64),
    /// `@ start()`
    Start,
    /// `@ end()`
    End,
}

/// A length of time that may need arithmetic.
pub struct DurationExpr {
    /// Where.
    pub span: Span,
    /// What.
    pub kind: DurationKind,
}

/// The kinds of duration expressions.
#[derive(Debug, Clone, PartialEq)]
pub enum DurationKind {
    /// `5m`, `300`: seconds.
    Literal(NumberLiteral),
    /// `-d`, `+d`
    Unary {
        /// Whether the sign is minus.
        negative: bool,
        /// The operand.
        operand: Box<DurationExpr>,
    },
    /// `a + b`, `a * b`, ...
    Binary {
        /// One of `+ - * / % ^`.
        op: BinaryOp,
        /// Left.
        left: Box<DurationExpr>,
        /// Right.
        right: Box<DurationExpr>,
    },
    /// `(d)`
    Paren(Box<DurationExpr>),
    /// `step()`
    Step,
    /// `range()`
    Range,
    /// `min_of(a, b)`
    MinOf(Box<DurationExpr>, Box<DurationExpr>),
    /// `max_of(a, b)`
    MaxOf(Box<DurationExpr>, Box<DurationExpr>),
}

/// How a selector treats the ends of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RangeMode {
    /// Only samples inside.
    #[default]
    Plain,
    /// `anchored`: the last sample at or before the start counts as the first.
    Anchored,
    /// `smoothed`: both ends are interpolated.
    Smoothed,
}

/// An instant selector.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorSelector {
    /// The name written before the braces; its matcher is the first of `matchers`. A name quoted
    /// inside the braces is a matcher and nothing else.
    pub name: Option<String>,
    /// All conditions, `__name__` included, in the order written (a name before the braces first).
    pub matchers: Vec<Matcher>,
    /// `offset`, `@`.
    pub shift: Shift,
    /// `smoothed`, `anchored`.
    pub mode: RangeMode,
}

/// A range selector.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixSelector {
    /// What is selected; the shift and mode of the whole stand here.
    pub selector: VectorSelector,
    /// Where the selector without its range stands.
    pub selector_span: Span,
    /// How far back.
    pub range: DurationExpr,
}

/// A subquery.
#[derive(Debug, Clone, PartialEq)]
pub struct Subquery {
    /// What is evaluated.
    pub expr: Box<Expr>,
    /// How far back.
    pub range: DurationExpr,
    /// How often; the default interval when absent.
    pub step: Option<DurationExpr>,
    /// `offset`, `@`.
    pub shift: Shift,
}

/// A function call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The function.
    pub function: &'static crate::function::Signature,
    /// Its arguments.
    pub args: Vec<Expr>,
}

/// The aggregation operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AggregateOp {
    /// `sum`
    Sum,
    /// `avg`
    Avg,
    /// `min`
    Min,
    /// `max`
    Max,
    /// `count`
    Count,
    /// `group`
    Group,
    /// `stddev`
    Stddev,
    /// `stdvar`
    Stdvar,
    /// `topk`
    Topk,
    /// `bottomk`
    Bottomk,
    /// `quantile`
    Quantile,
    /// `count_values`
    CountValues,
    /// `limitk` (experimental)
    Limitk,
    /// `limit_ratio` (experimental)
    LimitRatio,
}

/// `by` or `without`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grouping {
    /// `without` instead of `by`.
    pub without: bool,
    /// The labels, in the order written.
    pub labels: Vec<String>,
}

/// An aggregation.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    /// The operator.
    pub op: AggregateOp,
    /// What is aggregated.
    pub expr: Box<Expr>,
    /// The parameter of `topk`, `bottomk`, `quantile`, `count_values`, `limitk`, `limit_ratio`.
    pub param: Option<Box<Expr>>,
    /// The grouping; absent groups everything into one.
    pub grouping: Option<Grouping>,
}

/// Binary operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
    /// `^`
    Pow,
    /// `atan2`
    Atan2,
    /// `==`
    Eql,
    /// `!=`
    Neq,
    /// `<`
    Lss,
    /// `<=`
    Lte,
    /// `>`
    Gtr,
    /// `>=`
    Gte,
    /// `and`
    And,
    /// `or`
    Or,
    /// `unless`
    Unless,
    /// `</`: trim a native histogram above
    TrimUpper,
    /// `>/`: trim a native histogram below
    TrimLower,
}

impl BinaryOp {
    /// The operator as written.
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Mod => "%",
            BinaryOp::Pow => "^",
            BinaryOp::Atan2 => "atan2",
            BinaryOp::Eql => "==",
            BinaryOp::Neq => "!=",
            BinaryOp::Lss => "<",
            BinaryOp::Lte => "<=",
            BinaryOp::Gtr => ">",
            BinaryOp::Gte => ">=",
            BinaryOp::And => "and",
            BinaryOp::Or => "or",
            BinaryOp::Unless => "unless",
            BinaryOp::TrimUpper => "</",
            BinaryOp::TrimLower => ">/",
        }
    }

    /// `== != < <= > >=`
    pub fn is_comparison(self) -> bool {
        use BinaryOp::{Eql, Gte, Gtr, Lss, Lte, Neq};
        matches!(self, Eql | Neq | Lss | Lte | Gtr | Gte)
    }

    /// `and or unless`
    pub fn is_set(self) -> bool {
        matches!(self, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless)
    }
}

/// How many series a side may have for one of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cardinality {
    /// One to one.
    OneToOne,
    /// `group_left`
    ManyToOne,
    /// `group_right`
    OneToMany,
    /// Set operators.
    ManyToMany,
}

/// How the two sides find each other.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorMatching {
    /// Cardinality.
    pub card: Cardinality,
    /// `on (...)` instead of `ignoring (...)`.
    pub on: bool,
    /// The labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// The labels of `group_left (...)` or `group_right (...)`.
    pub include: Vec<String>,
    /// `fill` or `fill_left`: stands for a missing left side.
    pub fill_left: Option<f64>,
    /// `fill` or `fill_right`: stands for a missing right side.
    pub fill_right: Option<f64>,
}

/// Operands joined by binary operators, as far as no parentheses are needed: `a + b * c > d` is
/// `((a + (b * c)) > d)`, a chain of `a`, `b * c` and `d`. However many operators a text has, whoever
/// walks its tree goes along a list and not down.
///
/// Operators group from the left. Those of [`BinaryOp::Pow`] group from the right, and a chain that has
/// one has no others.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// [`ValueType::Scalar`] when all operands are scalars, otherwise [`ValueType::Vector`].
    pub value_type: ValueType,
    /// The first operand.
    pub first: Box<Expr>,
    /// The others, each with the operator before it; at least one.
    pub links: Vec<Link>,
}

impl Chain {
    /// Whether `a ^ b ^ c` means `a ^ (b ^ c)`.
    pub fn groups_from_right(&self) -> bool {
        self.links.first().is_some_and(|link| link.op == BinaryOp::Pow)
    }

    /// The operands, in the order written.
    pub fn operands(&self) -> impl DoubleEndedIterator<Item = &Expr> {
        std::iter::once(&*self.first).chain(self.links.iter().map(|link| &link.operand))
    }

    /// The operand before each link: for `a + b - c` that is `a` and `b`.
    pub fn before_links(&self) -> impl DoubleEndedIterator<Item = &Expr> + ExactSizeIterator {
        (0..self.links.len()).map(|at| match at.checked_sub(1) {
            None => &*self.first,
            Some(before) => &self.links[before].operand,
        })
    }
}

/// A binary operator and the operand behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// The operator.
    pub op: BinaryOp,
    /// Present when both sides are vectors.
    pub matching: Option<Box<VectorMatching>>,
    /// `bool`: a comparison gives 0 and 1 instead of filtering.
    pub return_bool: bool,
    /// The operand.
    pub operand: Expr,
}

/// A signed expression: `-a`, `-+-a`.
#[derive(Debug, Clone, PartialEq)]
pub struct Unary {
    /// The signs, in the order written; at least one.
    pub signs: Vec<Sign>,
    /// The operand.
    pub operand: Box<Expr>,
}

/// The sign of a signed expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign {
    /// Whether it is minus.
    pub negative: bool,
    /// Where it stands, a byte of the query text.
    pub at: u32,
}

impl Expr {
    /// The type of the expression's value.
    pub fn value_type(&self) -> ValueType {
        let mut expr = self;
        loop {
            return match &expr.kind {
                ExprKind::Number(_) => ValueType::Scalar,
                ExprKind::String(_) => ValueType::String,
                ExprKind::Vector(_) | ExprKind::Aggregate(_) => ValueType::Vector,
                ExprKind::Matrix(_) | ExprKind::Subquery(_) => ValueType::Matrix,
                ExprKind::Call(call) => call.function.returns,
                ExprKind::Chain(chain) => chain.value_type,
                ExprKind::Unary(Unary { operand: inner, .. }) | ExprKind::Paren(inner) => {
                    expr = inner;
                    continue;
                }
            };
        }
    }

    /// Calls `change` with every selector in it, in the order written.
    pub fn each_selector_mut(&mut self, change: &mut dyn FnMut(&mut VectorSelector)) {
        deeper(|| match &mut self.kind {
            ExprKind::Number(_) | ExprKind::String(_) => {}
            ExprKind::Vector(selector) => change(selector),
            ExprKind::Matrix(matrix) => change(&mut matrix.selector),
            ExprKind::Subquery(subquery) => subquery.expr.each_selector_mut(change),
            ExprKind::Call(call) => call.args.iter_mut().for_each(|arg| arg.each_selector_mut(change)),
            ExprKind::Aggregate(aggregate) => {
                aggregate.param.iter_mut().for_each(|param| param.each_selector_mut(change));
                aggregate.expr.each_selector_mut(change);
            }
            ExprKind::Chain(chain) => {
                chain.first.each_selector_mut(change);
                chain.links.iter_mut().for_each(|link| link.operand.each_selector_mut(change));
            }
            ExprKind::Unary(unary) => unary.operand.each_selector_mut(change),
            ExprKind::Paren(inner) => inner.each_selector_mut(change),
        });
    }
}

// What would be derived, on a stack that is deep enough.

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        deeper(|| f.debug_struct("Expr").field("span", &self.span).field("kind", &self.kind).finish())
    }
}

impl Clone for Expr {
    fn clone(&self) -> Expr {
        deeper(|| Expr { span: self.span, kind: self.kind.clone() })
    }
}

impl PartialEq for Expr {
    fn eq(&self, other: &Expr) -> bool {
        deeper(|| self.span == other.span && self.kind == other.kind)
    }
}

impl fmt::Debug for DurationExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        deeper(|| f.debug_struct("DurationExpr").field("span", &self.span).field("kind", &self.kind).finish())
    }
}

impl Clone for DurationExpr {
    fn clone(&self) -> DurationExpr {
        deeper(|| DurationExpr { span: self.span, kind: self.kind.clone() })
    }
}

impl PartialEq for DurationExpr {
    fn eq(&self, other: &DurationExpr) -> bool {
        deeper(|| self.span == other.span && self.kind == other.kind)
    }
}
