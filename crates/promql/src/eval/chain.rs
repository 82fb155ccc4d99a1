//! Operands joined by operators: one after the other, so that at any time there is the value so far and
//! one operand, however long the chain is.

use super::binary::drops_name;
use super::plan::{ChainNode, LinkNode, Node, Operator};
use super::rows::{merged, row_weight, weight};
use super::set::SetRun;
use super::{Evaluator, Row, Sink, Steps};
use crate::answer::EvalError;
use crate::ast::ValueType;
use crate::functions::math;

/// The most operators that are applied to the rows of a stream: their scalars are held meanwhile.
const STREAMED_LINKS_MAX: usize = 16;

/// One side of an operator, and what comes of both.
enum Side {
    Scalars(Vec<f64>),
    Rows(Vec<Row>),
}

/// An operator and the scalars that it joins to each row of a stream.
struct Stage<'n> {
    operator: &'n Operator,
    scalars: Vec<f64>,
    scalar_left: bool,
}

fn join_scalars(link: &LinkNode, so_far: &mut [f64], operand: &[f64]) {
    for (value, other) in so_far.iter_mut().zip(operand) {
        let (left, right) = if link.operand_left { (*other, *value) } else { (*value, *other) };
        *value = math::binary(link.operator.op, left, right);
    }
}

impl Evaluator<'_> {
    /// A chain of scalars.
    pub(crate) fn scalar_chain(&self, chain: &ChainNode, steps: Steps) -> Result<Vec<f64>, EvalError> {
        let mut so_far = self.scalar(&chain.first, steps)?;
        for link in &chain.links {
            join_scalars(link, &mut so_far, &self.scalar(&link.operand, steps)?);
        }
        Ok(so_far)
    }

    /// Whether a chain handles series one by one: those of its only vector.
    pub(crate) fn streams_chain(&self, chain: &ChainNode) -> bool {
        chain.vectors == 1 && chain.links.len() <= STREAMED_LINKS_MAX
    }

    /// The rows of the only vector of a chain, with all its scalars joined.
    pub(crate) fn stream_chain(
        &self,
        chain: &ChainNode,
        steps: Steps,
        sink: Sink<'_>,
    ) -> Result<(), EvalError> {
        let held = (chain.links.len() + 1) as u64 * row_weight(steps);
        self.budget.take(held)?;
        let mut stages = Vec::with_capacity(chain.links.len());
        let (mut vector, mut before) = match chain.first_type() {
            ValueType::Vector => (Some(&chain.first), None),
            _ => (None, Some(self.scalar(&chain.first, steps)?)),
        };
        for link in &chain.links {
            let LinkNode { operator, operand, operand_left, .. } = link;
            if link.operand_type == ValueType::Vector {
                vector = Some(operand);
                let scalars = before.take().unwrap_or_default();
                stages.push(Stage { operator, scalars, scalar_left: !operand_left });
                continue;
            }
            let scalars = self.scalar(operand, steps)?;
            match &mut before {
                Some(so_far) => join_scalars(link, so_far, &scalars),
                None => stages.push(Stage { operator, scalars, scalar_left: *operand_left }),
            }
        }
        let Some(vector) = vector else {
            return Err(EvalError::Internal("a chain without its vector".into()));
        };
        self.stream(vector, steps, &mut |rows| {
            let joined = rows.into_iter().map(|row| {
                stages.iter().fold(row, |row, stage| {
                    self.with_scalars(row, &stage.scalars, stage.scalar_left, stage.operator)
                })
            });
            sink(joined.filter(|row| !row.is_empty()).collect())
        })?;
        self.budget.give(held);
        Ok(())
    }

    /// The rows of a chain with at least one vector.
    pub(crate) fn chain(&self, chain: &ChainNode, steps: Steps) -> Result<Vec<Row>, EvalError> {
        let mark = self.budget.mark();
        let mut so_far = self.side(&chain.first, chain.first_type(), steps)?;
        // Rows whose names went once have no others to lose.
        let mut nameless = false;
        let mut links = chain.links.as_slice();
        while let Some((link, rest)) = links.split_first() {
            self.budget.check()?;
            links = rest;
            if link.operator.op.is_set() {
                let Side::Rows(rows) = so_far else { return Err(not_vectors()) };
                let (rows, taken) = self.set_operators(rows, link, rest, steps)?;
                (so_far, nameless, links) = (Side::Rows(rows), false, &rest[taken..]);
                self.budget.settle(mark, so_far.weight(steps))?;
                continue;
            }
            let operand = self.side(&link.operand, link.operand_type, steps)?;
            so_far = match (so_far, operand) {
                (Side::Scalars(mut scalars), Side::Scalars(others)) => {
                    join_scalars(link, &mut scalars, &others);
                    Side::Scalars(scalars)
                }
                (Side::Rows(rows), Side::Scalars(scalars)) => {
                    let rows = self.all_with_scalars(rows, &scalars, link.operand_left, &link.operator);
                    self.nameless(rows, &link.operator, &mut nameless)?
                }
                (Side::Scalars(scalars), Side::Rows(rows)) => {
                    let rows = self.all_with_scalars(rows, &scalars, !link.operand_left, &link.operator);
                    self.nameless(rows, &link.operator, &mut nameless)?
                }
                (Side::Rows(rows), Side::Rows(others)) => {
                    let (left, right) = if link.operand_left { (others, rows) } else { (rows, others) };
                    nameless = false;
                    Side::Rows(self.join_vectors(&link.operator, left, right, steps)?)
                }
            };
            self.budget.settle(mark, so_far.weight(steps))?;
        }
        match so_far {
            Side::Rows(rows) => Ok(rows),
            Side::Scalars(_) => Err(not_vectors()),
        }
    }

    fn side(&self, node: &Node, value_type: ValueType, steps: Steps) -> Result<Side, EvalError> {
        match value_type {
            ValueType::Scalar => {
                let scalars = self.scalar(node, steps)?;
                self.budget.take(row_weight(steps))?;
                Ok(Side::Scalars(scalars))
            }
            _ => Ok(Side::Rows(self.vector(node, steps)?)),
        }
    }

    fn all_with_scalars(
        &self,
        rows: Vec<Row>,
        scalars: &[f64],
        scalar_left: bool,
        operator: &Operator,
    ) -> Vec<Row> {
        let joined = rows.into_iter().map(|row| self.with_scalars(row, scalars, scalar_left, operator));
        joined.filter(|row| !row.is_empty()).collect()
    }

    /// The rows that an operator with scalars has left, of which no two may be the same once their names
    /// are gone.
    fn nameless(&self, rows: Vec<Row>, operator: &Operator, nameless: &mut bool) -> Result<Side, EvalError> {
        if self.delayed_names || *nameless || !drops_name(operator) {
            return Ok(Side::Rows(rows));
        }
        *nameless = true;
        merged(rows).map(Side::Rows)
    }

    /// `so_far` joined by the set operator of `link` and by those of `rest` that match alike; says how
    /// many of `rest` those were.
    fn set_operators(
        &self,
        so_far: Vec<Row>,
        link: &LinkNode,
        rest: &[LinkNode],
        steps: Steps,
    ) -> Result<(Vec<Row>, usize), EvalError> {
        let Some(matching) = &link.operator.matching else { return Err(not_vectors()) };
        let stays_apart = self.delayed_names && steps.count == 1;
        let mut run = SetRun::new(matching, so_far, steps, stays_apart)?;
        let alike = rest
            .iter()
            .take_while(|next| next.operator.op.is_set() && next.operator.matching == link.operator.matching);
        let mark = self.budget.mark();
        let mut taken = 0;
        for link in std::iter::once(link).chain(alike) {
            let right = self.vector(&link.operand, steps)?;
            run.join(link.operator.op, right)?;
            self.budget.settle(mark, run.added_weight())?;
            taken += 1;
        }
        Ok((run.finish(), taken - 1))
    }
}

impl Side {
    fn weight(&self, steps: Steps) -> u64 {
        match self {
            Side::Scalars(_) => row_weight(steps),
            Side::Rows(rows) => weight(rows, steps),
        }
    }
}

fn not_vectors() -> EvalError {
    EvalError::Internal("vectors were expected on both sides".into())
}
