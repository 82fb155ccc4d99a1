//! Evaluation: a node of the plan, for all steps at once.
//!
//! The value of a vector node is a list of [`Row`]s: a series and a cell for each step. What selects
//! or transforms series one by one is streamed in batches ([`Evaluator::stream`]), so that an
//! aggregation over many series holds only its groups; everything else takes whole lists
//! ([`Evaluator::vector`]). Batches are computed in parallel and consumed in the order of series, so
//! the outcome does not depend on the number of threads.
//!
//! Source: Prometheus `promql/engine.go`.

pub(crate) mod aggregate;
pub(crate) mod ahead;
pub(crate) mod batches;
pub(crate) mod binary;
pub(crate) mod buckets;
pub(crate) mod budget;
pub(crate) mod call;
pub(crate) mod chain;
pub(crate) mod info;
pub(crate) mod matching;
pub(crate) mod plan;
pub(crate) mod rank;
pub(crate) mod rows;
pub(crate) mod select;
pub(crate) mod set;
pub(crate) mod tally;
pub(crate) mod top;
pub(crate) mod window;

use std::sync::atomic::{AtomicU32, Ordering};

use model::{STALE_NAN_BITS, TenantId};
use parking_lot::Mutex;
use storage::Queryable;

use self::batches::Workers;
use self::budget::Budget;
use self::plan::{Kind, Node};
pub(crate) use self::rows::{Cell, Row};
use self::tally::Tally;
use crate::annotations::{Annotations, Note};
use crate::answer::EvalError;
use crate::ast::Span;
use crate::depth::deeper;

/// The value of a cell without a sample. No sample has these bits: they end a series.
#[inline]
pub(crate) fn absent() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// Whether a cell has no float.
#[inline]
pub(crate) fn is_absent(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// The evaluation times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) start_ms: i64,
    /// Positive.
    pub(crate) step_ms: i64,
    pub(crate) count: usize,
}

impl Steps {
    /// The steps from `start_ms` up to at most `end_ms`.
    pub(crate) fn new(start_ms: i64, end_ms: i64, step_ms: i64) -> Steps {
        let span = end_ms.saturating_sub(start_ms);
        let count = if span < 0 { 0 } else { (span / step_ms) as usize + 1 };
        Steps { start_ms, step_ms, count }
    }

    /// The time of a step, milliseconds.
    #[inline]
    pub(crate) fn at(&self, step: usize) -> i64 {
        self.start_ms + step as i64 * self.step_ms
    }

    /// The time of the last step.
    pub(crate) fn last(&self) -> i64 {
        self.at(self.count.saturating_sub(1))
    }

    /// Only the first step.
    pub(crate) fn first(&self) -> Steps {
        Steps { count: self.count.min(1), ..*self }
    }
}

/// Takes a batch of rows of a stream.
pub(crate) type Sink<'s> = &'s mut dyn FnMut(Vec<Row>) -> Result<(), EvalError>;

/// How an aggregation makes fewer rows of those of a batch, in the thread that has computed them.
#[derive(Clone, Copy)]
pub(crate) struct Reduce<'r> {
    pub(crate) rows: &'r (dyn Fn(Vec<Row>) -> Vec<Row> + Sync),
    /// Whether it matters that rows have no names where they should have none.
    pub(crate) uses_names: bool,
}

/// One query being evaluated.
pub(crate) struct Evaluator<'q> {
    pub(crate) store: &'q dyn Queryable,
    pub(crate) tenant: &'q TenantId,
    pub(crate) workers: &'q Workers,
    pub(crate) budget: Budget,
    pub(crate) notes: Mutex<Annotations>,
    pub(crate) lookback_ms: i64,
    pub(crate) delayed_names: bool,
    pub(crate) type_labels: bool,
    pub(crate) start_timestamps: bool,
    /// The steps of the whole query.
    pub(crate) steps: Steps,
    /// Whether samples are counted by step too.
    pub(crate) per_step: bool,
    pub(crate) tally: Mutex<Tally>,
    /// How many subqueries the node being evaluated is in.
    pub(crate) subqueries: AtomicU32,
}

impl Evaluator<'_> {
    /// Adds an annotation.
    pub(crate) fn note(&self, span: Span, note: &Note<'_>) {
        self.notes.lock().add(span, note);
    }

    /// Adds what was counted at `steps` to the statistics.
    pub(crate) fn count(&self, tally: &Tally, steps: Steps) {
        let in_subquery = self.subqueries.load(Ordering::Relaxed) > 0;
        self.tally.lock().add(self.steps, steps, tally, in_subquery);
    }

    /// The rows of a vector node.
    pub(crate) fn vector(&self, node: &Node, steps: Steps) -> Result<Vec<Row>, EvalError> {
        deeper(|| self.vector_here(node, steps))
    }

    fn vector_here(&self, node: &Node, steps: Steps) -> Result<Vec<Row>, EvalError> {
        self.budget.check()?;
        if steps.count == 0 {
            return Ok(Vec::new());
        }
        let mark = self.budget.mark();
        // Columns of this many steps are about to be made.
        self.budget.take(rows::row_weight(steps))?;
        let rows = self.vector_unsettled(node, steps)?;
        self.budget.settle(mark, rows::weight(&rows, steps))?;
        Ok(rows)
    }

    fn vector_unsettled(&self, node: &Node, steps: Steps) -> Result<Vec<Row>, EvalError> {
        match &node.kind {
            Kind::Invariant(inner) => {
                if steps.count == 1 {
                    return self.vector(inner, steps);
                }
                let rows = self.vector(inner, steps.first())?;
                self.budget.take(rows.len() as u64 * rows::row_weight(steps))?;
                Ok(rows.into_iter().filter(|r| r.has(0)).map(|r| r.repeated(steps.count)).collect())
            }
            Kind::Aggregate(aggregate) => self.aggregate(node.span, aggregate, steps),
            Kind::Chain(chain) if !self.is_streamed(node) || self.names_may_clash(node) => {
                self.chain(chain, steps)
            }
            Kind::Call { name, args } if !self.is_streamed(node) => self.call(node.span, name, args, steps),
            Kind::Over(over) if !self.is_streamed(node) => self.absent_over_time(over, steps),
            Kind::Number(_) | Kind::Text(_) | Kind::Window(_) => {
                Err(EvalError::Internal("an instant vector was expected".into()))
            }
            _ => {
                let mut all = Vec::new();
                self.stream_batches(node, steps, &mut |rows| {
                    self.budget.take(rows::weight(&rows, steps))?;
                    all.extend(rows);
                    Ok(())
                })?;
                if self.names_may_clash(node) { self.settle(all, steps) } else { Ok(all) }
            }
        }
    }

    /// Hands the rows of a vector node to `sink`, in batches where that is possible.
    pub(crate) fn stream(&self, node: &Node, steps: Steps, sink: Sink<'_>) -> Result<(), EvalError> {
        if self.is_streamed(node) && !self.names_may_clash(node) {
            // A batch comes back up through the sinks of all levels.
            deeper(|| self.stream_batches(node, steps, &mut |rows| deeper(|| sink(rows))))
        } else {
            sink(self.vector(node, steps)?)
        }
    }

    /// As [`Self::stream`], letting `reduce` join the rows of a batch where series come from the store.
    pub(crate) fn stream_reduced(
        &self,
        node: &Node,
        steps: Steps,
        reduce: Reduce<'_>,
        sink: Sink<'_>,
    ) -> Result<(), EvalError> {
        match &node.kind {
            Kind::Select(selector) => self.stream_newest(node.span, selector, steps, Some(reduce), sink),
            Kind::Over(over) if self.is_streamed(node) => self.stream_over(over, steps, Some(reduce), sink),
            _ => self.stream(node, steps, sink),
        }
    }

    fn stream_batches(&self, node: &Node, steps: Steps, sink: Sink<'_>) -> Result<(), EvalError> {
        match &node.kind {
            Kind::Select(selector) => self.stream_newest(node.span, selector, steps, None, sink),
            Kind::Timestamps { selector, start } => {
                self.stream_timestamps(selector, *start, steps, &mut |mut rows| {
                    rows.iter_mut().for_each(|row| self.drop_name(row));
                    sink(rows)
                })
            }
            Kind::Over(over) => self.stream_over(over, steps, None, sink),
            Kind::Negate(inner) => self.stream(inner, steps, &mut |rows| sink(self.negated(rows))),
            Kind::Call { name, args } => self.stream_call(name, args, steps, sink),
            Kind::Chain(chain) => self.stream_chain(chain, steps, sink),
            _ => sink(self.vector(node, steps)?),
        }
    }

    /// Whether a node handles series one by one.
    fn is_streamed(&self, node: &Node) -> bool {
        match &node.kind {
            Kind::Select(_) | Kind::Timestamps { .. } | Kind::Negate(_) => true,
            Kind::Over(over) => over.function != crate::functions::over_time::OverTime::Absent,
            Kind::Call { name, args } => !args.is_empty() && call::is_elementwise(name),
            Kind::Chain(chain) => self.streams_chain(chain),
            _ => false,
        }
    }

    /// Whether dropping names may leave several rows of a stream with the same labels, which only the
    /// whole list can tell.
    pub(crate) fn names_may_clash(&self, node: &Node) -> bool {
        if self.delayed_names {
            return false;
        }
        match &node.kind {
            Kind::Negate(inner) => self.names_differ(inner),
            Kind::Call { args, .. } => args.iter().any(|a| self.names_differ(a)),
            Kind::Chain(chain) => {
                self.names_differ(&chain.first)
                    || chain.links.iter().any(|link| self.names_differ(&link.operand))
            }
            Kind::Timestamps { selector, .. } => !select::pins_name(selector),
            _ => false,
        }
    }

    /// Whether the rows of a node may differ in their names only.
    fn names_differ(&self, node: &Node) -> bool {
        match &node.kind {
            Kind::Number(_) | Kind::Text(_) => false,
            Kind::Select(selector) => !select::pins_name(selector),
            Kind::Over(over) => over.function.keeps_name(),
            Kind::Invariant(inner) => self.names_differ(inner),
            Kind::Negate(inner) => self.names_differ(inner),
            // The rows of its vector, names and all, or none of the names.
            Kind::Chain(chain) => chain.vectors > 1 || self.names_may_clash(node),
            _ => true,
        }
    }

    /// The values of a scalar node, one for each step.
    pub(crate) fn scalar(&self, node: &Node, steps: Steps) -> Result<Vec<f64>, EvalError> {
        deeper(|| self.scalar_here(node, steps))
    }

    fn scalar_here(&self, node: &Node, steps: Steps) -> Result<Vec<f64>, EvalError> {
        self.budget.check()?;
        self.budget.take(rows::row_weight(steps))?;
        let result = match &node.kind {
            Kind::Number(value) => vec![*value; steps.count],
            Kind::Invariant(inner) => {
                let first = self.scalar(inner, steps.first())?;
                vec![first.first().copied().unwrap_or(f64::NAN); steps.count]
            }
            Kind::Negate(inner) => self.scalar(inner, steps)?.into_iter().map(|v| -v).collect(),
            Kind::Chain(chain) => self.scalar_chain(chain, steps)?,
            Kind::Call { name, args } => self.scalar_call(name, args, steps)?,
            _ => return Err(EvalError::Internal("a scalar was expected".into())),
        };
        self.budget.give(rows::row_weight(steps));
        Ok(result)
    }
}
