//! Who of several members has a target: rendezvous hashing.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Members that share the targets from a tick on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The first tick for which it holds is the first one at or after this, milliseconds since the epoch.
    pub from_ms: i64,
    /// Their names, sorted, each once.
    pub members: Vec<String>,
}

/// The member that has target `key`: the one whose hash together with the key is the greatest. `None` for no
/// members. Without one of the others the answer is the same.
pub fn owner(key: u128, members: &[String]) -> Option<&str> {
    let weight = |name: &str| xxh3_64_with_seed(&key.to_le_bytes(), xxh3_64(name.as_bytes()));
    members.iter().map(String::as_str).max_by_key(|name| (weight(name), *name))
}

/// The view in force at `tick_ms`: the last of those that have begun by then. `views` is sorted by `from_ms`.
pub fn at(views: &[View], tick_ms: i64) -> Option<&View> {
    views.iter().rev().find(|view| view.from_ms <= tick_ms)
}

/// Whether `views` give `member` the target at that tick.
pub(crate) fn gives(views: &[View], member: &str, key: u128, tick_ms: i64) -> bool {
    at(views, tick_ms).and_then(|view| owner(key, &view.members)) == Some(member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("agent-{n}")).collect()
    }

    proptest! {
        #[test]
        fn who_leaves_moves_only_its_own(key: u128, count in 2usize..7, leaver in 0usize..7) {
            let members = names(count);
            let gone = &members[leaver % count];
            let rest: Vec<String> = members.iter().filter(|name| *name != gone).cloned().collect();
            let before = owner(key, &members);
            if before != Some(gone.as_str()) {
                prop_assert_eq!(before, owner(key, &rest));
            } else {
                prop_assert!(owner(key, &rest).is_some_and(|name| name != gone));
            }
        }
    }

    #[test]
    fn shares_are_about_equal() {
        for count in [2_usize, 3, 5] {
            let members = names(count);
            let mut shares = vec![0_usize; count];
            for key in 0..3_000_u128 {
                let name = owner(key.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835), &members);
                let at = members.iter().position(|member| Some(member.as_str()) == name);
                shares[at.expect("one of them")] += 1;
            }
            let fair = 3_000 / count;
            assert!(shares.iter().all(|share| share.abs_diff(fair) < fair / 5), "{shares:?}");
        }
        assert_eq!(owner(1, &[]), None);
    }

    #[test]
    fn the_last_begun_view_is_in_force() {
        let view = |from_ms, count| View { from_ms, members: names(count) };
        let views = [view(10, 1), view(20, 2)];
        for (tick, want) in [(9, None), (10, Some(1)), (19, Some(1)), (20, Some(2)), (99, Some(2))] {
            assert_eq!(at(&views, tick).map(|view| view.members.len()), want, "{tick}");
        }
    }
}
