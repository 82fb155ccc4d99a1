//! From the syntax tree to what is evaluated: durations and `@` become numbers, `start()` and its kin
//! constants, parentheses and unary plus go away, and whatever has the same value at every step is
//! marked, so that it is evaluated once.
//!
//! Source: Prometheus `promql/engine.go` (`PreprocessExpr`), `promql/durations.go`.

use std::cell::Cell;

use model::Matcher;

use super::Steps;
use crate::answer::EvalError;
use crate::ast::{
    Aggregate, AggregateOp, At, BinaryOp, Call, Chain, DurationExpr, DurationKind, Expr, ExprKind, Grouping,
    Link, RangeMode, Shift, Span, Subquery, ValueType, VectorMatching, VectorSelector,
};
use crate::depth::deeper;
use crate::functions::over_time::OverTime;

/// A node of the plan.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

/// What a node does.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A constant.
    Number(f64),
    /// A text.
    Text(String),
    /// The newest sample of each series.
    Select(Selector),
    /// The times of the newest samples, or (`start`) their start timestamps.
    Timestamps { selector: Selector, start: bool },
    /// Windows of samples, as the whole query's value.
    Window(Box<Window>),
    /// A function of windows of samples.
    Over(Box<Over>),
    /// Any other function.
    Call { name: &'static str, args: Vec<Node> },
    /// An aggregation.
    Aggregate(Box<AggregateNode>),
    /// Operands joined by binary operators.
    Chain(Box<ChainNode>),
    /// Unary minus.
    Negate(Box<Node>),
    /// The same at every step.
    Invariant(Box<Node>),
}

/// An instant selector, resolved.
#[derive(Debug)]
pub(crate) struct Selector {
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) when: When,
    pub(crate) mode: RangeMode,
    /// Of histograms only count and sum matter, and whether they were reset.
    pub(crate) statistics: bool,
}

/// `offset` and `@`, resolved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct When {
    pub(crate) offset_ms: i64,
    pub(crate) at_ms: Option<i64>,
}

impl When {
    /// The time that stands for the evaluation time `t_ms`.
    pub(crate) fn reference(self, t_ms: i64) -> i64 {
        self.at_ms.unwrap_or(t_ms).saturating_sub(self.offset_ms)
    }
}

/// Windows of samples: a range selector or a subquery.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) source: WindowSource,
    pub(crate) range_ms: i64,
    pub(crate) span: Span,
}

/// Where the samples come from.
#[derive(Debug)]
pub(crate) enum WindowSource {
    Select(Selector),
    Subquery { node: Node, step_ms: i64, when: When },
}

impl Window {
    pub(crate) fn when(&self) -> When {
        match &self.source {
            WindowSource::Select(selector) => selector.when,
            WindowSource::Subquery { when, .. } => *when,
        }
    }

    pub(crate) fn mode(&self) -> RangeMode {
        match &self.source {
            WindowSource::Select(selector) => selector.mode,
            WindowSource::Subquery { .. } => RangeMode::Plain,
        }
    }
}

/// A function of windows of samples.
#[derive(Debug)]
pub(crate) struct Over {
    pub(crate) function: OverTime,
    pub(crate) window: Window,
    /// The other arguments, all scalars.
    pub(crate) params: Vec<Node>,
}

/// An aggregation.
#[derive(Debug)]
pub(crate) struct AggregateNode {
    pub(crate) op: AggregateOp,
    pub(crate) input: Node,
    pub(crate) param: Option<Node>,
    /// Sorted label names, unique.
    pub(crate) grouping: Grouping,
}

/// Operands joined by binary operators, in the order in which they are evaluated.
#[derive(Debug)]
pub(crate) struct ChainNode {
    pub(crate) first: Node,
    /// At least one.
    pub(crate) links: Vec<LinkNode>,
    /// How many operands are vectors; the others are scalars.
    pub(crate) vectors: usize,
}

/// What is done with the value of a chain so far.
#[derive(Debug)]
pub(crate) struct LinkNode {
    pub(crate) operator: Operator,
    pub(crate) operand: Node,
    pub(crate) operand_type: ValueType,
    /// The operand is the left side, and the value so far the right one, as with `^`.
    pub(crate) operand_left: bool,
}

impl ChainNode {
    pub(crate) fn first_type(&self) -> ValueType {
        let others = self.links.iter().filter(|link| link.operand_type == ValueType::Vector).count();
        if self.vectors > others { ValueType::Vector } else { ValueType::Scalar }
    }
}

/// A binary operator.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) op: BinaryOp,
    /// Of both sides together.
    pub(crate) span: Span,
    /// Present when both sides are vectors; labels sorted.
    pub(crate) matching: Option<Box<VectorMatching>>,
    pub(crate) return_bool: bool,
}

/// Resolves an expression for the steps of a query.
pub(crate) struct Planner {
    pub(crate) steps: Steps,
    /// `end` as asked for, which need not be a step.
    pub(crate) end_ms: i64,
    /// The step as asked for: 0 for an instant query.
    pub(crate) query_step_ms: i64,
    pub(crate) default_subquery_interval_ms: i64,
    pub(crate) inside: Cell<Inside>,
}

/// What stands around the expression being planned.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Inside {
    /// A function that needs no more of a histogram than its count or sum.
    statistics: bool,
    /// Something that needs its buckets, or all of its samples.
    buckets: bool,
}

/// A node, whether it has the same value at every step, and whether that is worth marking.
struct Planned {
    node: Node,
    invariant: bool,
    wrap: bool,
}

impl Planned {
    fn wrapped(self) -> Node {
        if self.wrap { invariant(self.node) } else { self.node }
    }
}

fn invariant(node: Node) -> Node {
    Node { span: node.span, kind: Kind::Invariant(Box::new(node)) }
}

impl Planner {
    /// The plan of a whole query.
    ///
    /// # Errors
    /// [`EvalError::BadRequest`] for a duration that comes out zero, negative or out of range;
    /// [`EvalError::Exec`] for a range mode that its function cannot take.
    pub(crate) fn plan(&self, expr: &Expr) -> Result<Node, EvalError> {
        Ok(self.expr(expr)?.wrapped())
    }

    fn expr(&self, expr: &Expr) -> Result<Planned, EvalError> {
        deeper(|| self.expr_here(expr))
    }

    fn expr_here(&self, expr: &Expr) -> Result<Planned, EvalError> {
        let outside = self.inside.get();
        let inside = match &expr.kind {
            ExprKind::Call(call) => match call.function.name {
                "histogram_count" | "histogram_sum" | "histogram_avg" => {
                    Inside { statistics: true, ..outside }
                }
                "histogram_quantile" | "histogram_quantiles" | "histogram_fraction" => {
                    Inside { buckets: true, ..outside }
                }
                _ => outside,
            },
            _ => outside,
        };
        self.inside.set(inside);
        let planned = self.expr_inside(expr);
        self.inside.set(outside);
        planned
    }

    fn expr_inside(&self, expr: &Expr) -> Result<Planned, EvalError> {
        let constant = |kind| Planned { node: Node { span: expr.span, kind }, invariant: true, wrap: false };
        Ok(match &expr.kind {
            ExprKind::Number(number) => constant(Kind::Number(number.value)),
            ExprKind::String(text) => constant(Kind::Text(text.clone())),
            ExprKind::Paren(inner) => self.expr(inner)?,
            ExprKind::Unary(unary) => {
                let mut operand = self.expr(&unary.operand)?;
                // Two minuses are not none: the name goes. Four are two.
                let minuses = unary.signs.iter().filter(|sign| sign.negative).count();
                for _ in 0..if minuses < 2 { minuses } else { 2 - minuses % 2 } {
                    let kind = match operand.node.kind {
                        Kind::Number(value) => Kind::Number(-value),
                        _ => Kind::Negate(Box::new(operand.node)),
                    };
                    operand = Planned { node: Node { span: expr.span, kind }, ..operand };
                }
                operand
            }
            ExprKind::Vector(selector) => {
                let selector = self.selector(selector)?;
                let fixed = selector.when.at_ms.is_some();
                let node = Node { span: expr.span, kind: Kind::Select(selector) };
                Planned { node, invariant: fixed, wrap: fixed }
            }
            ExprKind::Matrix(_) | ExprKind::Subquery(_) => {
                let window = self.window(expr)?;
                let invariant = window.when().at_ms.is_some();
                let node = Node { span: expr.span, kind: Kind::Window(Box::new(window)) };
                Planned { node, invariant, wrap: false }
            }
            ExprKind::Call(call) => self.call(expr.span, call)?,
            ExprKind::Aggregate(aggregate) => self.aggregate(expr.span, aggregate)?,
            ExprKind::Chain(chain) => self.chain(expr.span, chain)?,
        })
    }

    fn aggregate(&self, span: Span, aggregate: &Aggregate) -> Result<Planned, EvalError> {
        let Planned { node: input, invariant, wrap } = self.expr(&aggregate.expr)?;
        let param = aggregate.param.as_ref().map(|p| self.plan(p)).transpose()?;
        let mut grouping = aggregate.grouping.clone().unwrap_or_default();
        grouping.labels.sort_unstable();
        grouping.labels.dedup();
        let kind = Kind::Aggregate(Box::new(AggregateNode { op: aggregate.op, input, param, grouping }));
        Ok(Planned { node: Node { span, kind }, invariant, wrap })
    }

    fn chain(&self, span: Span, chain: &Chain) -> Result<Planned, EvalError> {
        let trims = |link: &Link| matches!(link.op, BinaryOp::TrimLower | BinaryOp::TrimUpper);
        let last_trim = chain.links.iter().rposition(trims);
        if chain.groups_from_right() {
            let mut operands = chain.operands().rev();
            let Some(last) = operands.next() else { return Err(empty_chain()) };
            let mut building = Building::new(span, last, self.expr(last)?);
            for (link, operand) in chain.links.iter().zip(chain.before_links()).rev() {
                building.add(link, operand, self.expr(operand)?, true);
            }
            return Ok(building.done());
        }
        let outside = self.inside.get();
        let within = |trimmed: bool| if trimmed { Inside { buckets: true, ..outside } } else { outside };
        self.inside.set(within(last_trim.is_some()));
        let mut building = Building::new(span, &chain.first, self.expr(&chain.first)?);
        for (at, link) in chain.links.iter().enumerate() {
            self.inside.set(within(last_trim.is_some_and(|trim| at <= trim)));
            building.add(link, &link.operand, self.expr(&link.operand)?, false);
        }
        self.inside.set(outside);
        Ok(building.done())
    }

    fn call(&self, span: Span, call: &Call) -> Result<Planned, EvalError> {
        let name = call.function.name;
        if let Some(value) = self.query_constant(name) {
            return Ok(Planned {
                node: Node { span, kind: Kind::Number(value) },
                invariant: true,
                wrap: false,
            });
        }
        let args: Vec<&Expr> = call.args.iter().map(without_parens).collect();
        if matches!(name, "timestamp" | "start_timestamp")
            && let Some(ExprKind::Vector(selector)) = args.first().map(|a| &a.kind)
        {
            let selector = self.selector(selector)?;
            let fixed = selector.when.at_ms.is_some();
            let kind = Kind::Timestamps { selector, start: name == "start_timestamp" };
            return Ok(Planned { node: Node { span, kind }, invariant: fixed, wrap: fixed });
        }
        let mut invariant = !depends_on_step(name);
        let mut window = None;
        let mut planned = Vec::with_capacity(args.len());
        for arg in args {
            if matches!(arg.kind, ExprKind::Matrix(_) | ExprKind::Subquery(_)) {
                let found = self.window(arg)?;
                invariant &= found.when().at_ms.is_some();
                window = Some(found);
            } else {
                let arg = self.expr(arg)?;
                invariant &= arg.invariant;
                planned.push(arg);
            }
        }
        let args = planned.into_iter().map(|p| if invariant { p.node } else { p.wrapped() }).collect();
        let kind = match (OverTime::by_name(name), window) {
            (Some(function), Some(window)) => {
                check_mode(name, function, window.mode())?;
                Kind::Over(Box::new(Over { function, window, params: args }))
            }
            _ => Kind::Call { name, args },
        };
        Ok(Planned { node: Node { span, kind }, invariant, wrap: invariant })
    }

    /// `start()`, `end()`, `step()` and `range()`, seconds.
    fn query_constant(&self, name: &str) -> Option<f64> {
        let start = self.steps.start_ms;
        Some(match name {
            "start" => start as f64 / 1000.0,
            "end" => self.end_ms as f64 / 1000.0,
            "range" => (self.end_ms - start) as f64 / 1000.0,
            "step" if start == self.end_ms => 0.0,
            "step" => self.query_step_ms as f64 / 1000.0,
            _ => return None,
        })
    }

    fn window(&self, expr: &Expr) -> Result<Window, EvalError> {
        match &expr.kind {
            ExprKind::Matrix(matrix) => Ok(Window {
                source: WindowSource::Select(self.selector(&matrix.selector)?),
                range_ms: self.duration(&matrix.range, false)?,
                span: expr.span,
            }),
            ExprKind::Subquery(subquery) => self.subquery(expr.span, subquery),
            _ => Err(EvalError::Internal("not a range vector".into())),
        }
    }

    fn subquery(&self, span: Span, subquery: &Subquery) -> Result<Window, EvalError> {
        let outside = self.inside.replace(Inside { buckets: true, ..self.inside.get() });
        let inner = self.expr(&subquery.expr);
        self.inside.set(outside);
        let inner = inner?;
        let step_ms = match &subquery.step {
            Some(step) => self.duration(step, false)?,
            None => self.default_subquery_interval_ms,
        };
        let node = if inner.invariant { invariant(inner.node) } else { inner.node };
        let when = self.when(&subquery.shift)?;
        let source = WindowSource::Subquery { node, step_ms: step_ms.max(1), when };
        Ok(Window { source, range_ms: self.duration(&subquery.range, false)?, span })
    }

    fn selector(&self, selector: &VectorSelector) -> Result<Selector, EvalError> {
        let inside = self.inside.get();
        Ok(Selector {
            matchers: selector.matchers.clone(),
            when: self.when(&selector.shift)?,
            mode: selector.mode,
            statistics: inside.statistics && !inside.buckets,
        })
    }

    fn when(&self, shift: &Shift) -> Result<When, EvalError> {
        Ok(When {
            offset_ms: shift.offset.as_ref().map_or(Ok(0), |offset| self.duration(offset, true))?,
            at_ms: shift.at.map(|at| match at {
                At::Timestamp(t_ms) => t_ms,
                At::Start => self.steps.start_ms,
                At::End => self.end_ms,
            }),
        })
    }

    /// Milliseconds; positive unless `signed`.
    fn duration(&self, duration: &DurationExpr, signed: bool) -> Result<i64, EvalError> {
        let place = |what: &str| {
            EvalError::BadRequest(format!("{}:{}: {what}", duration.span.start, duration.span.end))
        };
        let seconds = self.seconds(duration)?;
        if !seconds.is_finite() {
            return Err(place("duration is NaN or infinite"));
        }
        if seconds <= 0.0 && !signed {
            return Err(place("duration must be greater than 0"));
        }
        if seconds.abs() > i64::MAX as f64 / 1e9 {
            return Err(place("duration is out of range"));
        }
        // A literal is exact to the nanosecond, arithmetic is cut to the millisecond.
        Ok(match duration.kind {
            DurationKind::Literal(_) => (seconds * 1e9).round() as i64 / 1_000_000,
            _ => (seconds * 1000.0) as i64,
        })
    }

    fn seconds(&self, duration: &DurationExpr) -> Result<f64, EvalError> {
        deeper(|| self.seconds_here(duration))
    }

    fn seconds_here(&self, duration: &DurationExpr) -> Result<f64, EvalError> {
        Ok(match &duration.kind {
            DurationKind::Literal(number) => number.value,
            DurationKind::Paren(inner) => self.seconds(inner)?,
            DurationKind::Unary { negative, operand } => {
                let value = self.seconds(operand)?;
                if *negative { -value } else { value }
            }
            DurationKind::Step => self.query_step_ms as f64 / 1000.0,
            DurationKind::Range => (self.end_ms - self.steps.start_ms) as f64 / 1000.0,
            DurationKind::MinOf(a, b) => crate::functions::math::min(self.seconds(a)?, self.seconds(b)?),
            DurationKind::MaxOf(a, b) => crate::functions::math::max(self.seconds(a)?, self.seconds(b)?),
            DurationKind::Binary { op, left, right } => {
                let (l, r) = (self.seconds(left)?, self.seconds(right)?);
                let zero = |what: &str| {
                    EvalError::BadRequest(format!("{}:{}: {what}", duration.span.start, duration.span.end))
                };
                match op {
                    BinaryOp::Div if r == 0.0 => return Err(zero("division by zero")),
                    BinaryOp::Mod if r == 0.0 => return Err(zero("modulo by zero")),
                    op => crate::functions::math::binary(*op, l, r),
                }
            }
        })
    }
}

fn empty_chain() -> EvalError {
    EvalError::Internal("operators without operands".into())
}

/// A chain being planned. What has the same value at every step is evaluated once, also when it is only
/// the beginning of the chain.
struct Building {
    whole: Span,
    /// Of what has been added.
    span: Span,
    first: Planned,
    links: Vec<LinkNode>,
    vectors: usize,
    invariant: bool,
}

impl Building {
    fn new(whole: Span, expr: &Expr, first: Planned) -> Building {
        let vectors = usize::from(expr.value_type() == ValueType::Vector);
        Building { whole, span: expr.span, invariant: first.invariant, first, links: Vec::new(), vectors }
    }

    fn add(&mut self, link: &Link, expr: &Expr, operand: Planned, operand_left: bool) {
        let both = self.invariant && operand.invariant;
        if !both {
            self.close_invariant();
        }
        self.span = if operand_left {
            Span { start: expr.span.start, end: self.span.end }
        } else {
            Span { start: self.span.start, end: expr.span.end }
        };
        let operand_type = expr.value_type();
        self.vectors += usize::from(operand_type == ValueType::Vector);
        self.links.push(LinkNode {
            operator: Operator {
                op: link.op,
                span: self.span,
                matching: link.matching.clone().map(sorted),
                return_bool: link.return_bool,
            },
            operand: if both { operand.node } else { operand.wrapped() },
            operand_type,
            operand_left,
        });
        self.invariant = both;
    }

    /// Makes one operand of what has been added, to be evaluated once.
    fn close_invariant(&mut self) {
        if !self.invariant {
            return;
        }
        self.invariant = false;
        let placeholder = Planned {
            node: Node { span: self.span, kind: Kind::Number(0.0) },
            invariant: false,
            wrap: false,
        };
        let first = std::mem::replace(&mut self.first, placeholder);
        if self.links.is_empty() {
            self.first.node = first.wrapped();
            return;
        }
        let node =
            ChainNode { first: first.node, links: std::mem::take(&mut self.links), vectors: self.vectors };
        self.vectors = usize::from(self.vectors > 0);
        self.first.node = invariant(Node { span: self.span, kind: Kind::Chain(Box::new(node)) });
    }

    fn done(self) -> Planned {
        // A first operand that differs from step to step was wrapped, if at all, before it was added to.
        let Building { whole, first, links, vectors, invariant, .. } = self;
        let node = ChainNode { first: first.node, links, vectors };
        Planned { node: Node { span: whole, kind: Kind::Chain(Box::new(node)) }, invariant, wrap: invariant }
    }
}

/// Sorted labels are found faster; their order has no meaning.
fn sorted(mut matching: Box<VectorMatching>) -> Box<VectorMatching> {
    for labels in [&mut matching.labels, &mut matching.include] {
        labels.sort_unstable();
        labels.dedup();
    }
    matching
}

fn without_parens(mut expr: &Expr) -> &Expr {
    while let ExprKind::Paren(inner) = &expr.kind {
        expr = inner;
    }
    expr
}

/// Functions that give other results at other steps, also when all their arguments do not.
fn depends_on_step(name: &str) -> bool {
    matches!(name, "predict_linear" | "time" | "timestamp")
        || crate::functions::datetime::by_name(name).is_some()
}

fn check_mode(name: &str, function: OverTime, mode: RangeMode) -> Result<(), EvalError> {
    use OverTime::{Changes, Delta, Increase, Rate, Resets};
    let refuse = |mode: &str, those: &str| {
        Err(EvalError::Exec(format!("{mode} modifier can only be used with: {those} - not with {name}")))
    };
    match (mode, function) {
        (RangeMode::Plain, _) | (_, Rate | Increase | Delta) => Ok(()),
        (RangeMode::Anchored, Changes | Resets) => Ok(()),
        (RangeMode::Anchored, _) => refuse("anchored", "changes, delta, increase, rate, resets"),
        (RangeMode::Smoothed, _) => refuse("smoothed", "delta, increase, rate"),
    }
}
