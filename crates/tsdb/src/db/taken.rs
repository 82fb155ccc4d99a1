//! Which blocks of which queues have been taken: exactly once means not twice (decision 2).

use std::collections::BTreeMap;

use model::TenantId;
use storage::BlockKey;

use crate::wal::record::TakenBlocks;

/// Interval sets of block numbers, by tenant, queue and incarnation.
#[derive(Debug, Default)]
pub(crate) struct Taken(BTreeMap<Key, Vec<(u64, u64)>>);

/// Tenant, queue, incarnation.
type Key = (TenantId, u128, u128);

impl Taken {
    /// Notes a block; false when it had been taken before.
    pub(crate) fn insert(&mut self, tenant: &TenantId, key: &BlockKey) -> bool {
        let ranges = self.0.entry((tenant.clone(), key.queue_id, key.incarnation)).or_default();
        insert_in_ranges(ranges, key.block)
    }

    /// Forgets a block whose batch the log has refused.
    pub(crate) fn remove(&mut self, tenant: &TenantId, key: &BlockKey) {
        let Some(ranges) = self.0.get_mut(&(tenant.clone(), key.queue_id, key.incarnation)) else { return };
        let at = ranges.partition_point(|(_, last)| *last < key.block);
        let Some((first, last)) = ranges.get(at).copied().filter(|(first, _)| *first <= key.block) else {
            return;
        };
        let mut left = Vec::with_capacity(2);
        if first < key.block {
            left.push((first, key.block - 1));
        }
        if key.block < last {
            left.push((key.block + 1, last));
        }
        ranges.splice(at..=at, left);
    }

    /// Adds what a checkpoint says.
    pub(crate) fn extend(&mut self, tenant: &TenantId, entry: &TakenBlocks) {
        let ranges = self.0.entry((tenant.clone(), entry.queue_id, entry.incarnation)).or_default();
        ranges.extend(entry.blocks.iter().copied().filter(|(first, last)| first <= last));
        ranges.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges.drain(..) {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        *ranges = joined;
    }

    /// All of it, for a checkpoint.
    pub(crate) fn blocks(&self) -> Vec<TakenBlocks> {
        let entry = |(key, blocks): (&Key, &Vec<(u64, u64)>)| {
            let (tenant, queue_id, incarnation) = key;
            let (queue_id, incarnation, blocks) = (*queue_id, *incarnation, blocks.clone());
            TakenBlocks { tenant: tenant.as_str().to_owned(), queue_id, incarnation, blocks }
        };
        self.0.iter().map(entry).collect()
    }
}

/// Adds `number` to inclusive, ascending ranges that are apart; false when it was in one.
fn insert_in_ranges(ranges: &mut Vec<(u64, u64)>, number: u64) -> bool {
    let at = ranges.partition_point(|(_, last)| *last < number);
    if ranges.get(at).is_some_and(|(first, _)| *first <= number) {
        return false;
    }
    let joins_before = at > 0 && ranges[at - 1].1.checked_add(1) == Some(number);
    let joins_after = ranges.get(at).is_some_and(|(first, _)| number.checked_add(1) == Some(*first));
    match (joins_before, joins_after) {
        (true, true) => {
            ranges[at - 1].1 = ranges[at].1;
            ranges.remove(at);
        }
        (true, false) => ranges[at - 1].1 = number,
        (false, true) => ranges[at].0 = number,
        (false, false) => ranges.insert(at, (number, number)),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_together_and_break_apart() {
        let (tenant, mut taken) = (TenantId::default(), Taken::default());
        let key = |block| BlockKey { queue_id: 1, incarnation: 2, block };
        let mut check = |block: u64, insert: bool, fresh: bool, wanted: &[(u64, u64)]| {
            if insert {
                assert_eq!(taken.insert(&tenant, &key(block)), fresh, "{block}");
            } else {
                taken.remove(&tenant, &key(block));
            }
            assert_eq!(taken.blocks()[0].blocks, wanted, "{block}");
        };
        check(5, true, true, &[(5, 5)]);
        check(7, true, true, &[(5, 5), (7, 7)]);
        check(6, true, true, &[(5, 7)]);
        check(6, true, false, &[(5, 7)]);
        check(0, true, true, &[(0, 0), (5, 7)]);
        check(u64::MAX, true, true, &[(0, 0), (5, 7), (u64::MAX, u64::MAX)]);
        check(6, false, true, &[(0, 0), (5, 5), (7, 7), (u64::MAX, u64::MAX)]);
        check(0, false, true, &[(5, 5), (7, 7), (u64::MAX, u64::MAX)]);
    }
}
