//! Who answers at all: a store that keeps silent is not waited for by everybody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a store that has kept silent is left alone; then one request tries again.
const REST: Duration = Duration::from_secs(10);
/// Silence after which only few may wait,
const SILENCE: Duration = Duration::from_secs(2);
/// so many.
const WAITING_MAX: usize = 4;

/// The signs of life of all stores.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulses(Arc<Mutex<HashMap<String, Pulse>>>);

#[derive(Debug)]
struct Pulse {
    /// Requests that have heard nothing yet.
    waiting: usize,
    /// The last sign of life, or when the first of those who wait began.
    since: Instant,
    /// Nobody else asks before.
    rest_until: Option<Instant>,
}

/// A request that waits for its store's first sign.
#[derive(Debug)]
pub(crate) struct Waiting {
    pulses: Pulses,
    store: String,
    heard: bool,
}

impl Pulses {
    /// Begins to wait for `store`, at most for `patience`; or tells why nobody should now.
    pub(crate) fn wait_for(&self, store: &str, now: Instant, patience: Duration) -> Result<Waiting, String> {
        let mut all = self.0.lock();
        let fresh = || Pulse { waiting: 0, since: now, rest_until: None };
        let pulse = all.entry(store.to_owned()).or_insert_with(fresh);
        if let Some(left) = pulse.rest_until.and_then(|until| until.checked_duration_since(now))
            && !left.is_zero()
        {
            let seconds = left.as_secs() + 1;
            return Err(format!("it kept silent a moment ago and is asked again in {seconds} s"));
        }
        if pulse.waiting == 0 {
            pulse.since = now;
        }
        if pulse.waiting >= WAITING_MAX && now.duration_since(pulse.since) > SILENCE {
            return Err(format!("{} requests wait for it already", pulse.waiting));
        }
        pulse.waiting += 1;
        if pulse.rest_until.is_some() {
            // This one tries; the others go without as long.
            pulse.rest_until = Some(now + patience);
        }
        Ok(Waiting { pulses: self.clone(), store: store.to_owned(), heard: false })
    }
}

impl Waiting {
    /// The store has answered, whatever it said.
    pub(crate) fn heard(&mut self, now: Instant) {
        if std::mem::replace(&mut self.heard, true) {
            return;
        }
        if let Some(pulse) = self.pulses.0.lock().get_mut(&self.store) {
            pulse.waiting = pulse.waiting.saturating_sub(1);
            pulse.since = now;
            pulse.rest_until = None;
        }
    }

    /// Whether the store has answered.
    pub(crate) fn was_heard(&self) -> bool {
        self.heard
    }

    /// The time is over; true when the store has given no sign at all.
    pub(crate) fn gave_up(self, now: Instant) -> bool {
        if self.heard {
            return false;
        }
        if let Some(pulse) = self.pulses.0.lock().get_mut(&self.store) {
            pulse.rest_until = Some(now + REST);
        }
        true
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.heard {
            return;
        }
        let mut all = self.pulses.0.lock();
        if let Some(pulse) = all.get_mut(&self.store) {
            pulse.waiting = pulse.waiting.saturating_sub(1);
            if pulse.waiting == 0 && pulse.rest_until.is_none() {
                all.remove(&self.store);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_silent_store_is_tried_by_one_request_at_a_time() {
        let (pulses, begin) = (Pulses::default(), Instant::now());
        let wait = |seconds: u64| pulses.wait_for("a", begin + Duration::from_secs(seconds), PATIENCE);
        let first = wait(0).expect("nothing is known yet");
        assert!(first.gave_up(begin + PATIENCE));
        assert_eq!(wait(11).expect_err("it rests"), "it kept silent a moment ago and is asked again in 10 s");
        assert!(pulses.wait_for("b", begin + PATIENCE, PATIENCE).is_ok(), "another store is another matter");
        let mut again = wait(20).expect("one may try");
        assert!(wait(21).is_err(), "while it tries, the others do not");
        again.heard(begin + Duration::from_secs(21));
        assert!(!again.gave_up(begin + Duration::from_secs(30)), "slow is not silent");
        assert!(wait(30).is_ok());
    }

    #[test]
    fn few_wait_for_a_store_that_gives_no_sign() {
        let (pulses, begin) = (Pulses::default(), Instant::now());
        let wait = |ms: u64| pulses.wait_for("a", begin + Duration::from_millis(ms), PATIENCE);
        let mut waiting: Vec<Waiting> = (0..30).map(|_| wait(0).expect("a burst is no silence")).collect();
        assert_eq!(wait(2001).expect_err("too many"), "30 requests wait for it already");
        waiting[7].heard(begin + Duration::from_millis(2002));
        assert!(wait(2003).is_ok(), "it lives");
        waiting.truncate(3);
        assert!(wait(5000).is_ok(), "who has gone does not wait");
    }
}
