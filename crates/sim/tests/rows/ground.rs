//! What really happened, as nobody in the simulation knows it: what was scraped, told, and dropped.

use std::collections::{BTreeMap, BTreeSet};

use storage::{Outcome, Schedule};

/// A sample: its series and timestamp.
pub(crate) type Key = (String, i64);

/// A block of a queue: its incarnation and number.
pub(crate) type Block = (u128, u64);

/// Everything that happened.
#[derive(Debug, Default)]
pub(crate) struct Ground {
    pub(crate) sources: BTreeMap<u128, Account>,
    /// By hub: blocks that a queue has dropped.
    pub(crate) lost: Vec<BTreeSet<Block>>,
    /// By hub: the times that records of those spoke of, both ends included.
    pub(crate) lost_times: Vec<BTreeSet<(i64, i64)>>,
    /// Names given out to agents and their targets.
    pub(crate) names: u64,
    /// Names of agents that have enrolled under another one since.
    pub(crate) renamed: BTreeSet<u64>,
    /// Lives of queues (incarnations) that an agent of another name than theirs holds blocks of.
    pub(crate) brought: BTreeSet<u128>,
}

/// One source.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) schedule: Schedule,
    /// When an agent said that rows are due, and in which block.
    pub(crate) begins: Vec<(i64, Block)>,
    pub(crate) ticks: BTreeMap<i64, Told>,
}

/// What became of a tick, as its agent told it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) outcome: Outcome,
    pub(crate) block: Block,
    /// It was made durable, and has to arrive unless it is dropped.
    pub(crate) required: bool,
    /// The samples of its row, with their bits.
    pub(crate) cells: Vec<(Key, u64)>,
}

impl Ground {
    pub(crate) fn source(&mut self, id: u128, schedule: Schedule) -> &mut Account {
        let empty = || Account { schedule, begins: Vec::new(), ticks: BTreeMap::new() };
        self.sources.entry(id).or_insert_with(empty)
    }

    /// The last tick that anybody told of, milliseconds.
    pub(crate) fn newest_ms(&self) -> i64 {
        let last = |account: &Account| account.ticks.last_key_value().map(|(tick, _)| *tick);
        self.sources.values().filter_map(last).max().unwrap_or(0)
    }

    /// Whether what was told has to be at the hub.
    pub(crate) fn is_due(&self, hub: usize, source: u128, told: &Told) -> bool {
        told.required && !self.is_renamed(source) && !self.lost[hub].contains(&told.block)
    }

    /// Whether rows of that time may have been refused because an agent brought them under another name than theirs: what
    /// one life of a queue wrote is booked from the tick of its first row on, in one piece at the widest.
    pub(crate) fn refused_then(&self, time_ms: i64) -> bool {
        let mut lives: BTreeMap<u128, (i64, i64)> = BTreeMap::new();
        for account in self.sources.values() {
            let brought = |told: &Told| self.brought.contains(&told.block.0);
            for (tick, told) in account.ticks.iter().filter(|(_, told)| brought(told)) {
                let (from, to) = lives.entry(told.block.0).or_insert((*tick, *tick));
                (*from, *to) = ((*from).min(*tick), (*to).max(*tick));
            }
        }
        lives.values().any(|(from, to)| (from - 1_000..=to + 3).contains(&time_ms))
    }

    /// Whether the source is one of an agent that has enrolled under another name since.
    pub(crate) fn is_renamed(&self, source: u128) -> bool {
        self.renamed.contains(&((source / 100) as u64))
    }

    /// Whether a record of dropped rows speaks of that time.
    pub(crate) fn speaks_of(&self, hub: usize, time_ms: i64) -> bool {
        self.lost_times[hub].iter().any(|(from, to)| (*from..=*to).contains(&time_ms))
    }
}

impl Told {
    /// Samples of the exposition, without the report.
    pub(crate) fn samples(&self) -> impl Iterator<Item = &(Key, u64)> {
        self.cells.iter().filter(|((name, _), _)| !name.ends_with("up"))
    }
}
