//! How the rows of two vectors find each other.

use foldhash::fast::RandomState;
use model::Labels;
use model::labels::METRIC_NAME;
use smallvec::SmallVec;

use super::Row;
use super::rows::{LabelMap, is_metadata};
use crate::ast::{BinaryOp, Cardinality, VectorMatching};

/// Writes the chosen labels as a key: equal keys, equal labels.
pub(crate) fn write_key(key: &mut Vec<u8>, labels: &Labels, chosen: impl Fn(&str) -> bool) {
    key.clear();
    for (name, value) in labels {
        if chosen(name) {
            for text in [name, value] {
                key.extend_from_slice(&(text.len() as u32).to_le_bytes());
                key.extend_from_slice(text.as_bytes());
            }
        }
    }
}

/// Numbers the match groups of the rows of both sides.
pub(crate) struct Signatures<'m> {
    matching: &'m VectorMatching,
    numbers: LabelMap<Box<[u8]>, u32>,
    key: Vec<u8>,
}

/// The rows of a match group.
#[derive(Debug, Default, Clone)]
pub(crate) struct Group {
    pub(crate) left: SmallVec<[u32; 1]>,
    pub(crate) right: SmallVec<[u32; 1]>,
}

impl<'m> Signatures<'m> {
    pub(crate) fn new(matching: &'m VectorMatching) -> Signatures<'m> {
        Signatures { matching, numbers: LabelMap::with_hasher(RandomState::default()), key: Vec::new() }
    }

    /// The number of the match group of a row with these labels; a new one is the count of those before.
    pub(crate) fn number(&mut self, labels: &Labels) -> usize {
        let matching = self.matching;
        write_key(&mut self.key, labels, |name| takes_part(matching, name));
        if let Some(found) = self.numbers.get(self.key.as_slice()) {
            return *found as usize;
        }
        let next = self.numbers.len();
        self.numbers.insert(self.key.as_slice().into(), next as u32);
        next
    }

    /// The number of the match group of a row with these labels, if there is one.
    pub(crate) fn find(&mut self, labels: &Labels) -> Option<usize> {
        let matching = self.matching;
        write_key(&mut self.key, labels, |name| takes_part(matching, name));
        self.numbers.get(self.key.as_slice()).map(|found| *found as usize)
    }

    /// The match groups, in the order in which they appear, left side first.
    pub(crate) fn groups(mut self, left: &[Row], right: &[Row]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::with_capacity(left.len());
        for (rows, is_left) in [(left, true), (right, false)] {
            for (at, row) in rows.iter().enumerate() {
                let number = self.number(&row.labels);
                if number == groups.len() {
                    groups.push(Group::default());
                }
                let group = &mut groups[number];
                if is_left { &mut group.left } else { &mut group.right }.push(at as u32);
            }
        }
        groups
    }
}

fn is_listed(matching: &VectorMatching, name: &str) -> bool {
    matching.labels.binary_search_by(|label| label.as_str().cmp(name)).is_ok()
}

fn takes_part(matching: &VectorMatching, name: &str) -> bool {
    let listed = is_listed(matching, name);
    if matching.on { listed } else { !listed && name != METRIC_NAME }
}

/// The labels that made two rows match.
pub(crate) fn matched_labels(labels: &Labels, matching: &VectorMatching) -> Labels {
    labels.only(|name| takes_part(matching, name))
}

/// The labels of a result.
pub(crate) fn result_labels(
    many: &Labels,
    one: &Labels,
    op: BinaryOp,
    matching: &VectorMatching,
    drop_name: bool,
) -> Labels {
    let drop_name = drop_name || changes_meaning(op);
    let one_to_one = matching.card == Cardinality::OneToOne;
    let keep = |name: &str| {
        !(drop_name && is_metadata(name)) && (!one_to_one || matching.on == is_listed(matching, name))
    };
    let kept = if many.iter().all(|(name, _)| keep(name)) { many.clone() } else { many.only(keep) };
    if matching.include.is_empty() {
        return kept;
    }
    let mut builder = model::LabelsBuilder::from_labels(&kept);
    for name in &matching.include {
        builder.set(name, one.get(name).unwrap_or_default());
    }
    builder.build()
}

/// Whether the result of an operator is no longer the metric it was.
pub(crate) fn changes_meaning(op: BinaryOp) -> bool {
    use BinaryOp::{Add, Atan2, Div, Mod, Mul, Pow, Sub};
    matches!(op, Add | Sub | Mul | Div | Mod | Pow | Atan2)
}
