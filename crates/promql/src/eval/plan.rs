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
    Aggregate, AggregateOp, At, Binary, BinaryOp, Call, DurationExpr, DurationKind, Expr, ExprKind, Grouping,
    RangeMode, Shift, Span, Subquery, ValueType, VectorMatching, VectorSelector,
};
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
    /// A binary operator.
    Binary(Box<BinaryNode>),
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

/// A binary operator.
#[derive(Debug)]
pub(crate) struct BinaryNode {
    pub(crate) op: BinaryOp,
    pub(crate) left: Node,
    pub(crate) right: Node,
    pub(crate) left_type: ValueType,
    pub(crate) right_type: ValueType,
    /// Present when both sides are vectors.
    pub(crate) matching: Option<VectorMatching>,
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
            ExprKind::Binary(binary) if matches!(binary.op, BinaryOp::TrimLower | BinaryOp::TrimUpper) => {
                Inside { buckets: true, ..outside }
            }
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
                let operand = self.expr(&unary.operand)?;
                if !unary.negative {
                    return Ok(operand);
                }
                let kind = match operand.node.kind {
                    Kind::Number(value) => Kind::Number(-value),
                    _ => Kind::Negate(Box::new(operand.node)),
                };
                Planned { node: Node { span: expr.span, kind }, ..operand }
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
            ExprKind::Binary(binary) => self.binary(expr.span, binary)?,
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

    fn binary(&self, span: Span, binary: &Binary) -> Result<Planned, EvalError> {
        let left = self.expr(&binary.left)?;
        let right = self.expr(&binary.right)?;
        let invariant = left.invariant && right.invariant;
        let (left, right) =
            if invariant { (left.node, right.node) } else { (left.wrapped(), right.wrapped()) };
        let kind = Kind::Binary(Box::new(BinaryNode {
            op: binary.op,
            left,
            right,
            left_type: binary.left.value_type(),
            right_type: binary.right.value_type(),
            matching: binary.matching.clone(),
            return_bool: binary.return_bool,
        }));
        Ok(Planned { node: Node { span, kind }, invariant, wrap: invariant })
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
