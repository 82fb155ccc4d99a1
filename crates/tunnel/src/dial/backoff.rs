//! How long to wait before the next attempt.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// After a connection that worked is lost, the next attempt comes within this: when a hub restarts, all
/// its agents lose theirs at the same moment.
const AFTER_LOSS: Duration = Duration::from_secs(4);
/// The longest wait after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait at all. A hub that comes back has its agents back in twice this, connecting included.
const LONGEST: Duration = Duration::from_secs(15);
/// Each wait is at least this part of the longest, chosen at random.
const SHORTEST_PART: f64 = 0.3;
/// A connection that ends sooner has not worked.
const STABLE: Duration = Duration::from_secs(10);

/// Waits that double, with jitter.
pub(super) struct Backoff {
    failures: u32,
    random: StdRng,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Backoff {
        Backoff { failures: 0, random: StdRng::seed_from_u64(seed) }
    }

    /// The wait after an attempt that failed.
    pub(super) fn failed(&mut self) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(self.random.random_range(SHORTEST_PART..1.0))
    }

    /// The wait after a connection that lived so long.
    pub(super) fn lost(&mut self, lived: Duration) -> Duration {
        if lived < STABLE {
            return self.failed();
        }
        self.failures = 0;
        AFTER_LOSS.mul_f64(self.random.random_range(0.0..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_spread() {
        let secs = |wait: Duration| wait.as_secs_f64();
        for (failure, longest) in
            [(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0), (4, 15.0), (5, 15.0), (4_000, 15.0)]
        {
            let waits: Vec<f64> = (0..200)
                .map(|seed| {
                    let mut backoff = Backoff { failures: failure, ..Backoff::new(seed) };
                    secs(backoff.failed())
                })
                .collect();
            let (min, max) = waits.iter().fold((f64::MAX, 0.0f64), |(a, b), w| (a.min(*w), b.max(*w)));
            assert!(min >= longest * SHORTEST_PART && max <= longest, "{failure}: {min}..{max}");
            assert!(max - min > longest * 0.5, "{failure}: all agents would come at once: {min}..{max}");
        }
    }

    #[test]
    fn only_a_connection_that_worked_starts_anew() {
        let mut backoff = Backoff { failures: 5, ..Backoff::new(1) };
        assert!(backoff.lost(Duration::from_secs(1)) > AFTER_LOSS);
        assert!(backoff.lost(Duration::from_secs(60)) < AFTER_LOSS);
        assert!(backoff.failed() <= FIRST);
    }

    /// A thousand agents of a hub that goes and comes back: when each is connected again, after it came
    /// back. An attempt that is refused takes no time, one at a silent machine ten seconds.
    fn returns(down: f64, attempt: f64) -> Vec<f64> {
        let secs = |wait: Duration| wait.as_secs_f64();
        let life = |seed| {
            let mut backoff = Backoff::new(seed);
            let mut at = secs(backoff.lost(Duration::from_secs(3600)));
            // An attempt that is under way when the hub comes back gets through by its retransmissions.
            while at + attempt < down {
                at += attempt + secs(backoff.failed());
            }
            at.max(down) - down
        };
        (0..1000).map(life).collect()
    }

    #[test]
    fn a_thousand_agents_come_back_in_time_and_spread() {
        for (down, attempt, at_once_max) in [
            (0.0, 0.0, 300),
            (1.0, 0.0, 700),
            (5.0, 0.0, 500),
            (20.0, 0.0, 300),
            (300.0, 0.0, 150),
            (3600.0, 0.0, 150),
        ] {
            let returns = returns(down, attempt);
            let latest = returns.iter().fold(0.0f64, |a, b| a.max(*b));
            assert!(latest < 30.0 - 10.0, "down {down} s: the last after {latest} s");
            let most = (0..30).map(|s| returns.iter().filter(|at| **at as usize == s).count()).max();
            assert!(most < Some(at_once_max), "down {down} s: {most:?} of 1000 in a second");
        }
        let latest = returns(300.0, 10.0).into_iter().fold(0.0f64, f64::max);
        assert!(latest < 20.0, "a silent machine: the last after {latest} s");
    }
}
