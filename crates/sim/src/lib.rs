//! What the simulations of the fleet share: dice, a network, and the running of seeds. Only tests use it.
//!
//! - `tests/blocks`: opaque blocks; queues, senders and doors with everything that may happen to them;
//! - `tests/rows`: rows through the real encoder, intake and store.

mod network;

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
