//! What the simulations of the fleet share: dice, a network, and the running of seeds. Only tests use it.
//!
//! - `tests/blocks`: opaque blocks. Real are queue, `ship::Sender` and `ship::Door`; the hub's store is one file of
//!   whole blocks. What is looked at: each block is stored once, an acknowledged one for good, dropped ones are told of.
//! - `tests/rows`: scrapes with schedules. Real are encoder, queue, sender, door, intake, ledger and `tsdb`, as the agent
//!   and the hub wire them. What is looked at: each sample is stored once, with its bits; a witness before the store
//!   sees samples that come twice, which a query would not; and the ledger judges each tick as it went. Messages are packets
//!   of [`Network`], or go by the agent's own client (`tunnel::Line`) over [`Lines`].
//! - `tests/tunnel`: tunnels of agents to hubs over [`Lines`], and requests of all kinds on them.
//!
//! **Not real:** TLS, the hub's listener and its routes (a server with the same limits stands for them); threads (the encoder's and the store's
//! work is done in turns, at times the dice choose); the scrape loop, whose ticks and statements the agent of the
//! simulation makes; hubs that tell each other anything; pairs of agents. Bytes on a disk are damaged only as a power
//! cut may, and nobody scrapes a tick for a second time when a clock goes back across a restart.
//!
//! **What happens:** processes are killed; power cuts take what was not synced, or some of it; disks fill up, or die
//! at an operation; volumes are cloned; agents enrol under another name; hubs are out of reach for up to ten minutes;
//! queues reach their limit; clocks of agents jump; packets are lost, late, doubled, cut short, changed. A sender is asked
//! only when it wants to be or has news, so that a wake-up which is forgotten stops the run, and one that lies in the past fails it.
//!
//! **Replay:** a failing test names its seed. `MARIGRAPH_SIM_SEED=53 cargo test -p sim --test rows` runs it again and
//! tells what happens, step by step. Mend the cause and put the seed among the test's `REGRESSIONS`.

mod lines;
mod network;

pub use lines::{Arrived, End, Lines, Overdue, Way};
pub use network::{Network, Packet};

use std::panic::UnwindSafe;

/// Random numbers that are the same for a seed on every machine.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice for a seed.
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(0x5eed_5eed_5eed_5eed) | 1);
        dice.below(2);
        dice
    }

    /// A number below `n`; 0 for 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % n.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Runs `usual` seeds from 0 on; what `run` gives is added up. `MARIGRAPH_SIM_SEEDS` and
/// `MARIGRAPH_SIM_FIRST` say how many and from where, `MARIGRAPH_SIM_SEED` names a single one, for which the
/// second argument of `run` is true: tell what happens.
///
/// # Panics
/// When a seed does; the message names it.
pub fn run_seeds(
    usual: u64,
    run: impl Fn(u64, bool) -> usize + UnwindSafe + std::panic::RefUnwindSafe,
) -> usize {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let one = number("MARIGRAPH_SIM_SEED");
    let first = number("MARIGRAPH_SIM_FIRST").unwrap_or(0);
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => first..first + number("MARIGRAPH_SIM_SEEDS").unwrap_or(usual),
    };
    let mut sum = 0;
    for seed in seeds {
        match std::panic::catch_unwind(|| run(seed, one.is_some())) {
            Ok(count) => sum += count,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                panic!("seed {seed}: {}", text.unwrap_or_default());
            }
        }
    }
    sum
}
