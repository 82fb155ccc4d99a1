//! Operators for a row and a scalar, and for two vectors.
//!
//! Source: Prometheus `promql/engine.go` (`VectorBinop`, `VectorscalarBinop`, `vectorElemBinop`).

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use model::Labels;

use super::matching::{Group, Signatures, changes_meaning, matched_labels, result_labels};
use super::plan::Operator;
use super::rows::LabelMap;
use super::{Cell, Evaluator, Row, Steps, absent, is_absent};
use crate::annotations::{Note, Operation};
use crate::answer::EvalError;
use crate::ast::{BinaryOp, Cardinality, Span, VectorMatching};
use crate::functions::math;
use crate::histogram::FloatHistogram;

/// A value of its own.
#[derive(Debug, Clone)]
enum Value {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

impl Value {
    fn cell(&self) -> Cell<'_> {
        match self {
            Value::Float(v) => Cell::Float(*v),
            Value::Histogram(h) => Cell::Histogram(h),
        }
    }
}

/// The result for a pair of samples, and whether a comparison keeps it.
type Element = Option<(Value, bool)>;

impl Evaluator<'_> {
    /// The operator for one pair of samples; none, with a note, where it has no meaning.
    fn element(&self, op: BinaryOp, left: Cell<'_>, right: Cell<'_>, span: Span) -> Element {
        let incompatible = |l: &str, r: &str| {
            self.note(span, &Note::IncompatibleTypes(l, op.as_str(), r));
            None
        };
        let histogram = |mut h: FloatHistogram, change: &dyn Fn(&mut FloatHistogram)| {
            change(&mut h);
            h.compact();
            Some((Value::Histogram(Arc::new(h)), true))
        };
        match (left, right) {
            (Cell::Absent, _) | (_, Cell::Absent) => None,
            (Cell::Float(_), Cell::Float(_)) if matches!(op, BinaryOp::TrimLower | BinaryOp::TrimUpper) => {
                incompatible("float", "float")
            }
            (Cell::Float(l), Cell::Float(r)) if op.is_comparison() => {
                Some((Value::Float(l), math::compare(op, l, r)))
            }
            (Cell::Float(l), Cell::Float(r)) => Some((Value::Float(math::binary(op, l, r)), true)),
            (Cell::Float(l), Cell::Histogram(r)) if op == BinaryOp::Mul => {
                histogram((**r).clone(), &|h| h.multiply(l))
            }
            (Cell::Float(_), Cell::Histogram(_)) => incompatible("float", "histogram"),
            (Cell::Histogram(l), Cell::Float(r)) => match op {
                BinaryOp::Mul => histogram((**l).clone(), &|h| h.multiply(r)),
                BinaryOp::Div => histogram((**l).clone(), &|h| h.divide(r)),
                BinaryOp::TrimUpper | BinaryOp::TrimLower => {
                    let mut trimmed = (**l).clone();
                    if op == BinaryOp::TrimUpper {
                        trimmed.trim_upper(r)
                    } else {
                        trimmed.trim_lower(r)
                    }
                    Some((Value::Histogram(Arc::new(trimmed)), true))
                }
                _ => incompatible("histogram", "float"),
            },
            (Cell::Histogram(l), Cell::Histogram(r)) => match op {
                BinaryOp::Add | BinaryOp::Sub => self.sum_of_histograms(op, l, r, span),
                BinaryOp::Eql => Some((Value::Histogram(l.clone()), l.same_data(r))),
                BinaryOp::Neq => Some((Value::Histogram(l.clone()), !l.same_data(r))),
                _ => incompatible("histogram", "histogram"),
            },
        }
    }

    fn sum_of_histograms(&self, op: BinaryOp, l: &FloatHistogram, r: &FloatHistogram, span: Span) -> Element {
        let mut result = l.clone();
        let (outcome, operation) = if op == BinaryOp::Add {
            (result.add(r), Operation::Addition)
        } else {
            (result.subtract(r), Operation::Subtraction)
        };
        let Ok(reconciled) = outcome else {
            self.note(span, &Note::IncompatibleBucketLayout(op.as_str()));
            return None;
        };
        if op == BinaryOp::Sub {
            result.counter_reset_hint = model::histogram::CounterResetHint::Gauge;
        }
        if reconciled.custom_bounds {
            self.note(span, &Note::MismatchedCustomBuckets(operation));
        }
        if reconciled.reset_collision {
            self.note(span, &Note::CounterResetCollision(operation));
            return None;
        }
        result.compact();
        Some((Value::Histogram(Arc::new(result)), true))
    }

    /// A row and a scalar for each step.
    pub(crate) fn with_scalars(
        &self,
        mut row: Row,
        scalars: &[f64],
        scalar_left: bool,
        operator: &Operator,
    ) -> Row {
        let (return_bool, span) = (operator.return_bool, operator.span);
        let op = operator.op;
        if row.histograms.is_none() && !matches!(op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
            for (v, s) in row.floats.iter_mut().zip(scalars) {
                if is_absent(*v) {
                    continue;
                }
                let (l, r) = if scalar_left { (*s, *v) } else { (*v, *s) };
                if !op.is_comparison() || return_bool {
                    *v = math::binary(op, l, r);
                } else if !math::compare(op, l, r) {
                    *v = absent();
                }
            }
        } else {
            for (step, s) in scalars.iter().enumerate() {
                let cell = row.cell(step);
                let element = if scalar_left {
                    self.element(op, Cell::Float(*s), cell, span)
                } else {
                    self.element(op, cell, Cell::Float(*s), span)
                };
                match element {
                    Some((_, keep)) if return_bool => {
                        row.set(step, Cell::Float(f64::from(u8::from(keep))));
                    }
                    // A comparison keeps the vector's element, on whichever side it stands.
                    Some((_, true)) if op.is_comparison() => {}
                    Some((value, true)) => row.set(step, value.cell()),
                    _ => row.clear(step),
                }
            }
        }
        if drops_name(operator) {
            self.drop_name(&mut row);
        }
        row
    }

    /// An arithmetic or comparison operator between two vectors.
    pub(crate) fn join_vectors(
        &self,
        operator: &Operator,
        left: Vec<Row>,
        right: Vec<Row>,
        steps: Steps,
    ) -> Result<Vec<Row>, EvalError> {
        let Some(matching) = &operator.matching else {
            return Err(EvalError::Internal("two vectors without matching".into()));
        };
        let swapped = matching.card == Cardinality::OneToMany;
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        let groups = Signatures::new(matching).groups(&many, &one);
        let join = Join {
            evaluator: self,
            operator,
            matching,
            swapped,
            many: &many,
            one: &one,
            // With `group_right` the sides are swapped, but not the fill values.
            fill_many: matching.fill_left,
            fill_one: matching.fill_right,
            steps,
        };
        let rows = join.rows(&groups)?;
        self.settle(rows, steps)
    }
}

/// Whether the result of an operator goes without the metric's name.
pub(crate) fn drops_name(operator: &Operator) -> bool {
    changes_meaning(operator.op) || operator.return_bool
}

/// An arithmetic or comparison operator between two vectors; "one" is the side of which a match group
/// has at most one sample at a time.
struct Join<'a, 'q> {
    evaluator: &'a Evaluator<'q>,
    operator: &'a Operator,
    matching: &'a VectorMatching,
    /// The "one" side stands on the left.
    swapped: bool,
    many: &'a [Row],
    one: &'a [Row],
    fill_many: Option<f64>,
    fill_one: Option<f64>,
    steps: Steps,
}

impl Join<'_, '_> {
    /// The results, in the order of the "many" side.
    fn rows(&self, groups: &[Group]) -> Result<Vec<Row>, EvalError> {
        let mut out: Vec<(usize, Row)> = Vec::new();
        let has_fill = self.fill_many.is_some() || self.fill_one.is_some();
        let mut any: Option<(Vec<bool>, Vec<bool>)> = None;
        for (at, group) in groups.iter().enumerate() {
            if at % 1024 == 0 {
                self.evaluator.budget.check()?;
            }
            let (manys, ones) = (&group.left, &group.right);
            if !has_fill && (ones.is_empty() || (ones.len() == 1 && manys.is_empty())) {
                continue;
            }
            if !has_fill
                && ones.len() == 1
                && let Some(rows) = self.by_column(manys, ones[0])
            {
                out.extend(rows);
                continue;
            }
            let (any_many, any_one) = any.get_or_insert_with(|| {
                (any_present(self.many, self.steps), any_present(self.one, self.steps))
            });
            let active = |step: usize| {
                if has_fill { any_many[step] || any_one[step] } else { any_many[step] && any_one[step] }
            };
            self.by_step(group, &active, &mut out)?;
        }
        out.sort_by_key(|(order, _)| *order);
        Ok(out.into_iter().map(|(_, row)| row).filter(|row| !row.is_empty()).collect())
    }

    fn drops_name_now(&self) -> bool {
        !self.evaluator.delayed_names && self.operator.return_bool
    }

    fn labels(&self, many: &Labels, one: &Labels) -> Labels {
        result_labels(many, one, self.operator.op, self.matching, self.drops_name_now())
    }

    /// A group with one row on the "one" side and no two results of the same labels, whole columns at
    /// a time; none when it is not that simple.
    fn by_column(&self, manys: &[u32], one: u32) -> Option<Vec<(usize, Row)>> {
        if self.matching.card == Cardinality::OneToOne && manys.len() > 1 {
            return None;
        }
        let one = &self.one[one as usize];
        let labels: Vec<Labels> =
            manys.iter().map(|m| self.labels(&self.many[*m as usize].labels, &one.labels)).collect();
        if labels.iter().collect::<HashSet<&Labels, RandomState>>().len() < manys.len() {
            return None;
        }
        Some(
            manys
                .iter()
                .zip(labels)
                .map(|(m, labels)| (*m as usize, self.pair(&self.many[*m as usize], one, labels)))
                .collect(),
        )
    }

    fn pair(&self, many: &Row, one: &Row, labels: Labels) -> Row {
        let op = self.operator.op;
        let trims = matches!(op, BinaryOp::TrimLower | BinaryOp::TrimUpper);
        let mut row = Row::empty(labels, self.steps.count);
        row.drop_name = self.operator.return_bool && self.evaluator.delayed_names;
        if many.histograms.is_none() && one.histograms.is_none() && !trims {
            for ((out, m), o) in row.floats.iter_mut().zip(&many.floats).zip(&one.floats) {
                if is_absent(*m) || is_absent(*o) {
                    continue;
                }
                let (l, r) = if self.swapped { (*o, *m) } else { (*m, *o) };
                if !op.is_comparison() || self.operator.return_bool {
                    *out = math::binary(op, l, r);
                } else if math::compare(op, l, r) {
                    *out = l;
                }
            }
            return row;
        }
        for step in 0..self.steps.count {
            if let Some((value, keep)) = self.element(many.cell(step), one.cell(step)) {
                self.put(&mut row, step, &value, keep);
            }
        }
        row
    }

    fn element(&self, many: Cell<'_>, one: Cell<'_>) -> Element {
        let (l, r) = if self.swapped { (one, many) } else { (many, one) };
        self.evaluator.element(self.operator.op, l, r, self.operator.span)
    }

    fn put(&self, row: &mut Row, step: usize, value: &Value, keep: bool) {
        if self.operator.return_bool {
            row.set(step, Cell::Float(f64::from(u8::from(keep))));
        } else if keep {
            row.set(step, value.cell());
        }
    }

    /// Any group, step by step, with all the checks.
    fn by_step(
        &self,
        group: &Group,
        active: &dyn Fn(usize) -> bool,
        out: &mut Vec<(usize, Row)>,
    ) -> Result<(), EvalError> {
        let mut results = Results::default();
        for step in (0..self.steps.count).filter(|step| active(*step)) {
            if step % 64 == 63 || group.left.len() > 1000 {
                self.evaluator.budget.check()?;
            }
            let one = self.the_one(group, step)?;
            results.matched.clear();
            for at in &group.left {
                let many = &self.many[*at as usize];
                let (cell, one_labels) = match (one, self.fill_one) {
                    _ if !many.has(step) => continue,
                    (Some(one), _) => (one.cell(step), one.labels.clone()),
                    (None, Some(fill)) => (Cell::Float(fill), matched_labels(&many.labels, self.matching)),
                    (None, None) => continue,
                };
                let element = self.element(many.cell(step), cell);
                let labels = self.labels(&many.labels, &one_labels);
                self.accept(element, labels, step, *at as usize, &mut results)?;
            }
            if let (Some(one), Some(fill), true) = (one, self.fill_many, results.matched.is_empty()) {
                let many_labels = matched_labels(&one.labels, self.matching);
                let element = self.element(Cell::Float(fill), one.cell(step));
                let labels = self.labels(&many_labels, &one.labels);
                let order = self.many.len() + group.right[0] as usize;
                self.accept(element, labels, step, order, &mut results)?;
            }
        }
        out.extend(results.rows);
        Ok(())
    }

    fn accept(
        &self,
        element: Element,
        labels: Labels,
        step: usize,
        order: usize,
        results: &mut Results,
    ) -> Result<(), EvalError> {
        let Some((value, keep)) = element else { return Ok(()) };
        if self.matching.card == Cardinality::OneToOne {
            if !results.matched.is_empty() {
                return Err(exec(
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                ));
            }
            results.matched.insert(labels.clone());
        } else if !results.matched.insert(labels.clone()) {
            return Err(exec("multiple matches for labels: grouping labels must ensure unique matches"));
        }
        if keep || self.operator.return_bool {
            let row = results.row(labels, order, self.steps);
            row.drop_name = self.operator.return_bool && self.evaluator.delayed_names;
            self.put(row, step, &value, keep);
        }
        Ok(())
    }

    /// The only row of the "one" side at a step.
    fn the_one(&self, group: &Group, step: usize) -> Result<Option<&Row>, EvalError> {
        let mut present = group.right.iter().map(|at| &self.one[*at as usize]).filter(|row| row.has(step));
        let first = present.next();
        let (Some(a), Some(b)) = (first, present.next()) else { return Ok(first) };
        let side = if self.swapped { "left" } else { "right" };
        let (mut a_text, mut b_text) = (a.labels.to_string(), b.labels.to_string());
        if a_text > b_text {
            std::mem::swap(&mut a_text, &mut b_text);
        }
        Err(EvalError::Exec(format!(
            "found duplicate series for the match group {} on the {side} hand-side of the operation: [{a_text}, {b_text}];many-to-many matching not allowed: matching labels must be unique on one side",
            matched_labels(&b.labels, self.matching),
        )))
    }
}

/// The results of a group, by labels.
#[derive(Default)]
struct Results {
    /// Labels of the results at the present step, kept or not.
    matched: HashSet<Labels, RandomState>,
    place: LabelMap<Labels, usize>,
    rows: Vec<(usize, Row)>,
}

impl Results {
    fn row(&mut self, labels: Labels, order: usize, steps: Steps) -> &mut Row {
        let next = self.rows.len();
        let at = *self.place.entry(labels.clone()).or_insert(next);
        if at == next {
            self.rows.push((order, Row::empty(labels, steps.count)));
        }
        &mut self.rows[at].1
    }
}

fn exec(text: &str) -> EvalError {
    EvalError::Exec(text.into())
}

fn any_present(rows: &[Row], steps: Steps) -> Vec<bool> {
    (0..steps.count).map(|step| rows.iter().any(|row| row.has(step))).collect()
}
