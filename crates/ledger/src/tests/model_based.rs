//! Random statements, in random order and more than once, against a plain map of ticks.

use std::collections::BTreeMap;

use proptest::prelude::*;
use storage::{Account, EndReason, Failure, Outcome};

use super::{Bench, Tally, begin, end, tick, told};
use crate::fact::{Fact, Loss, Verdict};

const TICKS: i64 = 60;

/// A statement about tick `n`, without its source.
#[derive(Debug, Clone, Copy)]
enum Step {
    Begin(i64),
    End(i64, EndReason),
    Tick(i64, Outcome),
    Restart,
    Snapshot,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::Scraped { samples: 10, exposed: 10 }),
        1 => (0u32..10).prop_map(|samples| Outcome::Scraped { samples, exposed: 10 }),
        1 => Just(Outcome::Failed(Failure::Timeout)),
        1 => Just(Outcome::Failed(Failure::Unreachable)),
        1 => Just(Outcome::Skipped),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reason = prop_oneof![
        Just(EndReason::Gone),
        Just(EndReason::Shutdown),
        Just(EndReason::HandedOver),
        Just(EndReason::Reconfigured)
    ];
    let step = prop_oneof![
        30 => (0..TICKS, outcome()).prop_map(|(n, outcome)| Step::Tick(n, outcome)),
        2 => (0..TICKS).prop_map(Step::Begin),
        1 => (0..TICKS, reason).prop_map(|(n, reason)| Step::End(n, reason)),
        1 => Just(Step::Restart),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..200)
}

/// What is known, in its plainest form.
#[derive(Debug, Default)]
struct Plain {
    facts: BTreeMap<i64, Fact>,
    begins: Vec<i64>,
    ends: Vec<(i64, EndReason)>,
}

impl Plain {
    fn take(&mut self, step: Step) {
        match step {
            Step::Begin(n) => self.begins.push(n),
            Step::End(n, reason) => self.ends.push((n, reason)),
            Step::Tick(n, outcome) => {
                let fact = match outcome {
                    Outcome::Scraped { samples, exposed } => Fact::scraped(samples, exposed, 0, Loss::Limit),
                    Outcome::Failed(failure) => Fact::Failed(failure),
                    Outcome::Skipped => Fact::Skipped,
                };
                let known = self.facts.entry(n).or_insert(fact);
                if fact.better_than(*known) {
                    *known = fact;
                }
            }
            Step::Restart | Step::Snapshot => {}
        }
    }

    /// Whether a row was due at tick `n`, and whether its scraper had said that it stops.
    fn expected(&self, n: i64) -> (bool, bool) {
        let begun = self.begins.iter().filter(|at| **at <= n).max();
        let ended = |last: Option<&i64>| {
            let after = self.ends.iter().filter(|(at, _)| *at <= n && last.is_none_or(|begun| at > begun));
            after.map(|(at, reason)| (*at, *reason)).collect::<Vec<_>>()
        };
        let Some(begun) = begun else { return (false, false) };
        let ends = ended(Some(begun));
        let over = ends.iter().any(|(_, r)| matches!(r, EndReason::Gone | EndReason::Reconfigured));
        let last = ends.iter().map(|(at, _)| *at).max();
        let stopped = ends.iter().filter(|(at, _)| Some(*at) == last).map(|(_, reason)| *reason).max();
        (!over, stopped == Some(EndReason::Shutdown))
    }

    fn tally(&self, from: i64, to: i64) -> Tally {
        let mut tally = Tally::default();
        for n in from..to {
            let verdict = match self.facts.get(&n) {
                Some(fact) => {
                    match *fact {
                        Fact::Complete { cells } => tally.cells_stored += u64::from(cells),
                        Fact::Partial { stored, exposed } => {
                            tally.cells_stored += u64::from(stored);
                            tally.cells_lost += u64::from(exposed - stored);
                        }
                        _ => {}
                    }
                    Verdict::from(*fact)
                }
                None => match self.expected(n) {
                    (false, _) => continue,
                    (true, stopped) => self.unknown(n, stopped),
                },
            };
            tally.expected += 1;
            match verdict {
                Verdict::Stored => tally.stored += 1,
                Verdict::Partial => (tally.stored, tally.partial) = (tally.stored + 1, tally.partial + 1),
                other if other.is_unknown() => *tally.unknown.entry(other).or_default() += 1,
                other => *tally.missing.entry(other).or_default() += 1,
            }
        }
        tally
    }

    /// What is said of a tick that nobody has told of: by what comes after it.
    fn unknown(&self, n: i64, stopped: bool) -> Verdict {
        if stopped {
            return Verdict::AgentDown;
        }
        let told = self.facts.keys().find(|at| **at > n).copied().unwrap_or(i64::MAX);
        let begun = self.begins.iter().filter(|at| **at > n).min().copied().unwrap_or(i64::MAX);
        let ended = self.ends.iter().map(|(at, _)| *at).filter(|at| *at > n).min().unwrap_or(i64::MAX);
        let next = told.min(begun).min(ended);
        match next {
            i64::MAX => Verdict::Silent,
            // An end at the time of a begin stands before it.
            _ if next == begun && ended > begun => Verdict::AgentDown,
            _ => Verdict::Undelivered,
        }
    }
}

fn account(step: Step, source: storage::SourceRef) -> Option<Account> {
    match step {
        Step::Begin(n) => Some(begin(source, n)),
        Step::End(n, reason) => Some(end(source, n, reason)),
        Step::Tick(n, outcome) => Some(told(source, n, outcome)),
        Step::Restart | Step::Snapshot => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_says_what_a_plain_map_says(
        first in 0i64..5,
        steps in steps(),
        order in any::<u64>(),
        from in 0..TICKS,
        len in 1..TICKS,
    ) {
        let mut bench = Bench::new();
        let mut plain = Plain::default();
        let mut source = bench.source("a", "node");
        // A schedule that is stated first; without one, it is read off the ticks.
        let mut all = vec![Step::Begin(first)];
        all.extend(steps);
        let mut seed = order | 1;
        for at in (1..all.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if order % 3 > 0 {
                all.swap(at, (seed >> 33) as usize % (at + 1));
            }
        }
        for (at, step) in all.iter().enumerate() {
            plain.take(*step);
            match step {
                Step::Restart => {
                    bench = bench.restarted(bench.disk.after_kill(), "boot");
                    source = bench.source("a", "node");
                }
                Step::Snapshot => bench.appender.commit().unwrap(),
                _ => _ = bench.state(&account(*step, source).into_iter().collect::<Vec<_>>()),
            }
            // Some are told twice.
            if at % 3 == 0 && let Some(account) = account(all[at / 2], source) {
                bench.state(&[account]);
            }
        }
        bench.clock.set_ms(tick(TICKS * 3));
        let to = (from + len).min(TICKS);
        let mut tally = bench.tally(from, to);
        (tally.sources, tally.worst, tally.newest_ms) = (0, None, None);
        // Not of the times asked about, but of now.
        tally.silent_sources = 0;
        prop_assert_eq!(tally, plain.tally(from, to));
    }
}
