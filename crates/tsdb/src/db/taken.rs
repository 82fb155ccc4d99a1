//! Which blocks of which queues have been taken: exactly once means not twice.
//!
//! Every start of an agent makes a new incarnation, and only the agent knows when its queue has let go of
//! the last block of an old one. But a block that was taken longer ago than retention has nothing but
//! samples that retention refuses by now: an incarnation is forgotten when its last block was. Without
//! retention none ever is; each costs about a hundred bytes.

use std::collections::BTreeMap;

use model::TenantId;
use storage::BlockKey;

use crate::wal::record::TakenBlocks;

/// Interval sets of block numbers, by tenant, queue and incarnation.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    ranges: BTreeMap<Key, Vec<(u64, u64)>>,
    /// When a block of an incarnation was last taken, or first seen in the log of an earlier run,
    /// milliseconds.
    used: BTreeMap<Key, i64>,
    /// Blocks on their way into the log, with where their records end once they are queued.
    pending: Vec<(TenantId, BlockKey, Option<u64>)>,
}

/// Tenant, queue, incarnation.
type Key = (TenantId, u128, u128);

impl Taken {
    /// Notes a block of the log; false when it had been taken before.
    pub(crate) fn insert(&mut self, tenant: &TenantId, key: &BlockKey) -> bool {
        let ranges = self.ranges.entry((tenant.clone(), key.queue_id, key.incarnation)).or_default();
        insert_in_ranges(ranges, key.block)
    }

    /// Notes a block that is on its way into the log; false when it had been taken before. Ends with
    /// [`settle`](Self::settle) or [`remove`](Self::remove).
    pub(crate) fn begin(&mut self, tenant: &TenantId, key: &BlockKey, now_ms: i64) -> bool {
        self.used.insert((tenant.clone(), key.queue_id, key.incarnation), now_ms);
        let fresh = self.insert(tenant, key);
        if fresh {
            self.pending.push((tenant.clone(), *key, None));
        }
        fresh
    }

    /// The record of a block on its way is queued, and ends at `position`.
    pub(crate) fn submitted(&mut self, tenant: &TenantId, key: &BlockKey, position: u64) {
        let mut pending = self.pending.iter_mut();
        if let Some((_, _, end)) = pending.find(|(whose, other, _)| whose == tenant && other == key) {
            *end = Some(position);
        }
    }

    /// The log has a block that was on its way.
    pub(crate) fn settle(&mut self, tenant: &TenantId, key: &BlockKey) {
        self.pending.retain(|(whose, other, _)| !(whose == tenant && other == key));
    }

    /// Forgets a block whose batch the log has refused.
    pub(crate) fn remove(&mut self, tenant: &TenantId, key: &BlockKey) {
        self.settle(tenant, key);
        self.remove_from_ranges(tenant, key);
    }

    fn remove_from_ranges(&mut self, tenant: &TenantId, key: &BlockKey) {
        let Some(ranges) = self.ranges.get_mut(&(tenant.clone(), key.queue_id, key.incarnation)) else {
            return;
        };
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
        let ranges = self.ranges.entry((tenant.clone(), entry.queue_id, entry.incarnation)).or_default();
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

    /// Forgets incarnations of which no block has been taken since `before_ms`. Those of an earlier run
    /// count as used now.
    pub(crate) fn forget_unused(&mut self, before_ms: i64, now_ms: i64) {
        let used = &mut self.used;
        self.ranges.retain(|key, _| *used.entry(key.clone()).or_insert(now_ms) >= before_ms);
        used.retain(|_, last_ms| *last_ms >= before_ms);
    }

    /// All that the log has, for a checkpoint: a block whose record never was queued, or of which
    /// `failed` says that it was not written, is not in it, even if nobody has taken it back yet.
    pub(crate) fn blocks(&self, failed: impl Fn(u64) -> bool) -> Vec<TakenBlocks> {
        let lost = self.pending.iter().filter(|(_, _, end)| end.is_none_or(&failed));
        let lost: Vec<_> = lost.map(|(tenant, key, _)| (tenant.clone(), *key)).collect();
        if lost.is_empty() {
            return self.listed();
        }
        let mut kept = Taken { ranges: self.ranges.clone(), ..Taken::default() };
        lost.iter().for_each(|(tenant, key)| kept.remove_from_ranges(tenant, key));
        kept.listed()
    }

    fn listed(&self) -> Vec<TakenBlocks> {
        let entry = |(key, blocks): (&Key, &Vec<(u64, u64)>)| {
            let (tenant, queue_id, incarnation) = key;
            let (queue_id, incarnation, blocks) = (*queue_id, *incarnation, blocks.clone());
            TakenBlocks { tenant: tenant.as_str().to_owned(), queue_id, incarnation, blocks }
        };
        self.ranges.iter().filter(|(_, blocks)| !blocks.is_empty()).map(entry).collect()
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
            assert_eq!(taken.blocks(|_| false)[0].blocks, wanted, "{block}");
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

    #[test]
    fn a_checkpoint_has_what_the_log_has() {
        let (tenant, mut taken) = (TenantId::default(), Taken::default());
        let key = |block| BlockKey { queue_id: 1, incarnation: 2, block };
        for block in 1..=4 {
            assert!(taken.begin(&tenant, &key(block), 0));
        }
        taken.submitted(&tenant, &key(1), 100);
        taken.submitted(&tenant, &key(2), 200);
        taken.submitted(&tenant, &key(3), 300);
        taken.settle(&tenant, &key(1));
        // 1 is written, 2 failed, 3 is in what was written meanwhile, 4 is not queued yet.
        let blocks = |taken: &Taken| taken.blocks(|end| end == 200)[0].blocks.clone();
        assert_eq!(blocks(&taken), [(1, 1), (3, 3)]);
        taken.remove(&tenant, &key(2));
        taken.settle(&tenant, &key(3));
        taken.settle(&tenant, &key(4));
        assert_eq!(blocks(&taken), [(1, 1), (3, 4)]);
        assert!(taken.begin(&tenant, &key(2), 0), "a refused block is taken when it comes again");
        assert!(!taken.begin(&tenant, &key(3), 0));
    }

    #[test]
    fn an_incarnation_is_forgotten_when_all_it_sent_has_outlived_retention() {
        let (tenant, mut taken) = (TenantId::default(), Taken::default());
        let key = |incarnation| BlockKey { queue_id: 1, incarnation, block: 0 };
        taken.insert(&tenant, &key(0));
        assert!(taken.begin(&tenant, &key(1), 100) && taken.begin(&tenant, &key(2), 200));
        let known = |taken: &Taken| taken.listed().iter().map(|entry| entry.incarnation).collect::<Vec<_>>();
        for (before_ms, now_ms, wanted) in [
            (100, 150, &[0, 1, 2][..]),
            (101, 151, &[0, 2]),
            (151, 400, &[2]),
            (200, 450, &[2]),
            (201, 451, &[]),
        ] {
            taken.forget_unused(before_ms, now_ms);
            assert_eq!(known(&taken), wanted, "before {before_ms}");
        }
        assert!(taken.used.is_empty());
    }
}
