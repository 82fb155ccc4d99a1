//! `and`, `or`, `unless`.
//!
//! A run of them that match alike (`a or b or c unless d`) costs what its operands do: the rows so far
//! keep their match groups from one operator to the next.
//!
//! Source: Prometheus `promql/engine.go` (`VectorAnd`, `VectorOr`, `VectorUnless`).

use hashbrown::hash_map::Entry;
use model::Labels;
use smallvec::SmallVec;

use super::matching::Signatures;
use super::rows::{LabelMap, merge_into, weight};
use super::{Row, Steps};
use crate::answer::EvalError;
use crate::ast::{BinaryOp, VectorMatching};

/// The rows so far, by match group.
pub(crate) struct SetRun<'m> {
    signatures: Signatures<'m>,
    steps: Steps,
    /// In order; those that have become empty are gone.
    rows: Vec<Option<Row>>,
    groups: Vec<Group>,
    /// Where the row with these labels is; none where rows with the same labels stay apart.
    places: Option<LabelMap<Labels, u32>>,
    added_weight: u64,
}

/// The rows of a match group.
#[derive(Default)]
struct Group {
    rows: SmallVec<[u32; 1]>,
    /// The steps at which any of them is present, once somebody asked.
    present: Option<Box<[bool]>>,
}

impl<'m> SetRun<'m> {
    /// Starts from `rows`.
    pub(crate) fn new(
        matching: &'m VectorMatching,
        rows: Vec<Row>,
        steps: Steps,
        stays_apart: bool,
    ) -> Result<SetRun<'m>, EvalError> {
        let mut run = SetRun {
            signatures: Signatures::new(matching),
            steps,
            rows: Vec::with_capacity(rows.len()),
            groups: Vec::with_capacity(rows.len()),
            places: (!stays_apart).then(LabelMap::default),
            added_weight: 0,
        };
        for row in rows {
            let group = run.group_of(&row);
            run.push(group, row)?;
        }
        run.added_weight = 0;
        Ok(run)
    }

    /// What the rows that were added count for.
    pub(crate) fn added_weight(&self) -> u64 {
        self.added_weight
    }

    /// The rows, in order.
    pub(crate) fn finish(self) -> Vec<Row> {
        self.rows.into_iter().flatten().filter(|row| !row.is_empty()).collect()
    }

    /// The rows so far, `op`, and `right`.
    pub(crate) fn join(&mut self, op: BinaryOp, right: Vec<Row>) -> Result<(), EvalError> {
        if op == BinaryOp::Or {
            return self.add(right);
        }
        let mut partners: LabelMap<usize, SmallVec<[u32; 1]>> = LabelMap::default();
        for (at, row) in right.iter().enumerate() {
            if let Some(group) = self.signatures.find(&row.labels) {
                partners.entry(group).or_default().push(at as u32);
            }
        }
        if op == BinaryOp::And {
            for group in (0..self.groups.len()).filter(|group| !partners.contains_key(group)) {
                self.clear(group, |_| true);
            }
        }
        let mut found = vec![false; self.steps.count];
        for (group, partners) in partners {
            found.fill(false);
            for at in partners {
                mark_present(&mut found, &right[at as usize]);
            }
            self.clear(group, |step| found[step] != (op == BinaryOp::And));
        }
        Ok(())
    }

    /// Adds what the rows so far do not hide.
    fn add(&mut self, right: Vec<Row>) -> Result<(), EvalError> {
        let mut added: Vec<(usize, Row)> = Vec::with_capacity(right.len());
        for mut row in right {
            let group = self.group_of(&row);
            if !self.groups[group].rows.is_empty() {
                let present = self.present(group);
                for (step, _) in present.iter().enumerate().filter(|(_, present)| **present) {
                    row.clear(step);
                }
            }
            if !row.is_empty() {
                added.push((group, row));
            }
        }
        // Rows of the same side do not hide each other.
        added.into_iter().try_for_each(|(group, row)| self.push(group, row))
    }

    fn group_of(&mut self, row: &Row) -> usize {
        let group = self.signatures.number(&row.labels);
        if group == self.groups.len() {
            self.groups.push(Group::default());
        }
        group
    }

    fn push(&mut self, group: usize, row: Row) -> Result<(), EvalError> {
        if let Some(present) = &mut self.groups[group].present {
            mark_present(present, &row);
        }
        let next = self.rows.len() as u32;
        if let Some(places) = &mut self.places {
            match places.entry(row.labels.clone()) {
                Entry::Occupied(place) => {
                    return match &mut self.rows[*place.get() as usize] {
                        Some(same) => merge_into(same, &row),
                        gone => {
                            *gone = Some(row);
                            Ok(())
                        }
                    };
                }
                Entry::Vacant(place) => place.insert(next),
            };
        }
        self.added_weight += weight(std::slice::from_ref(&row), self.steps);
        self.groups[group].rows.push(next);
        self.rows.push(Some(row));
        Ok(())
    }

    /// The steps at which a group has any row.
    fn present(&mut self, group: usize) -> &[bool] {
        let Group { rows, present } = &mut self.groups[group];
        present.get_or_insert_with(|| {
            let mut present = vec![false; self.steps.count];
            for row in rows.iter().filter_map(|at| self.rows[*at as usize].as_ref()) {
                mark_present(&mut present, row);
            }
            present.into_boxed_slice()
        })
    }

    /// Clears the rows of a group at the steps that `is_hidden` names; rows that are left empty go.
    fn clear(&mut self, group: usize, is_hidden: impl Fn(usize) -> bool) {
        let Group { rows, present } = &mut self.groups[group];
        let steps = self.steps.count;
        if let Some(present) = present {
            (0..steps).filter(|step| is_hidden(*step)).for_each(|step| present[step] = false);
        }
        rows.retain(|at| {
            let Some(row) = &mut self.rows[*at as usize] else { return false };
            (0..steps).filter(|step| is_hidden(*step)).for_each(|step| row.clear(step));
            let stays = !row.is_empty();
            if !stays {
                if let Some(places) = &mut self.places {
                    places.remove(&row.labels);
                }
                self.rows[*at as usize] = None;
            }
            stays
        });
    }
}

fn mark_present(present: &mut [bool], row: &Row) {
    for (step, found) in present.iter_mut().enumerate() {
        *found |= row.has(step);
    }
}
