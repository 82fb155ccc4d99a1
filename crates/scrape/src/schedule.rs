//! When to scrape: ticks on an absolute grid of time.
//!
//! A target's ticks are all times `t` with `t mod interval = offset`, the offset being a hash of the
//! target's identity. So targets are spread over the interval, a restart goes on with the same grid,
//! and two scrapers of one target meet in the same slots.

use std::sync::Arc;
use std::time::Duration;

use model::SourceId;
use parking_lot::Mutex;
use stdx::clock::Clock;
use tokio::time::Instant;

/// A difference to the wall clock beyond which the steady clock jumps instead of slewing.
const STEP: Duration = Duration::from_secs(10);
/// The steady clock runs at most one part in this many faster or slower.
const SLEW: i64 = 20;
/// How late a scrape may begin and still carry its tick as timestamp, at most.
///
/// Source: Prometheus `scrape.ScrapeTimestampTolerance`, and the hundredth of an interval beside it.
const TOLERANCE_MS: i64 = 2;

/// Wall time that runs evenly: monotonic, anchored to the wall clock, drawn towards it slowly.
#[derive(Debug)]
pub(crate) struct SteadyClock {
    wall: Arc<dyn Clock>,
    anchor: Mutex<(i64, Instant)>,
}

impl SteadyClock {
    pub(crate) fn new(wall: Arc<dyn Clock>) -> SteadyClock {
        let now = wall.now_ms().saturating_mul(1000);
        SteadyClock { wall, anchor: Mutex::new((now, Instant::now())) }
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        let wall = self.wall.now_ms().saturating_mul(1000);
        let now = Instant::now();
        let mut anchor = self.anchor.lock();
        let elapsed = micros(now.saturating_duration_since(anchor.1));
        let steady = anchor.0 + elapsed;
        let off = wall - steady;
        // The wall clock counts whole milliseconds; less than one is not a difference.
        let drawn = if off.abs() > micros(STEP) {
            off
        } else if off.abs() < 1000 {
            0
        } else {
            off.clamp(-elapsed / SLEW, elapsed / SLEW)
        };
        *anchor = (steady + drawn, now);
        anchor.0.div_euclid(1000)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Clock for SteadyClock {
    fn now_ms(&self) -> i64 {
        SteadyClock::now_ms(self)
    }
}

/// The grid of one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    interval_ms: i64,
    offset_ms: i64,
}

impl Schedule {
    pub(crate) fn new(id: SourceId, interval: Duration) -> Schedule {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        let offset_ms = i64::try_from(id.0 % interval_ms.unsigned_abs() as u128).unwrap_or(0);
        Schedule { interval_ms, offset_ms }
    }

    /// As those know it who keep account.
    pub(crate) fn stated(self) -> storage::Schedule {
        storage::Schedule { interval_ms: self.interval_ms, offset_ms: self.offset_ms }
    }

    pub(crate) fn interval_ms(self) -> i64 {
        self.interval_ms
    }

    /// The first tick at or after `now_ms` and after `last`, the tick before.
    pub(crate) fn next(self, now_ms: i64, last: Option<i64>) -> i64 {
        let from = last.map_or(now_ms, |last| now_ms.max(last + 1));
        from + (self.offset_ms - from).rem_euclid(self.interval_ms)
    }

    /// Ticks between `last`, a scrape at a tick or a little later, and `tick`, both left out.
    pub(crate) fn skipped(self, last: Option<i64>, tick: i64) -> u64 {
        last.map_or(0, |last| ((tick - last - 1) / self.interval_ms).max(0).unsigned_abs())
    }

    /// The timestamp of a scrape for `tick` that begins at `now_ms`.
    pub(crate) fn timestamp(self, tick: i64, now_ms: i64) -> i64 {
        let tolerance = TOLERANCE_MS.min((self.interval_ms / 100).max(1));
        if (now_ms - tick).abs() <= tolerance { tick } else { now_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stand_on_a_grid() {
        let schedule = Schedule { interval_ms: 15_000, offset_ms: 4_000 };
        for (now, last, want) in [
            (0, None, 4_000),
            (4_000, None, 4_000),
            (4_001, None, 19_000),
            (4_000, Some(4_000), 19_000),
            (3_999, Some(4_000), 19_000),
            (40_000, Some(4_000), 49_000),
            (-20_000, None, -11_000),
        ] {
            assert_eq!(schedule.next(now, last), want, "{now} {last:?}");
        }
        assert_eq!(schedule.skipped(Some(4_000), 19_000), 0);
        assert_eq!(schedule.skipped(Some(4_900), 19_000), 0);
        assert_eq!(schedule.skipped(Some(4_000), 49_000), 2);
        assert_eq!(schedule.skipped(Some(4_900), 49_000), 2);
    }

    #[test]
    fn small_delays_do_not_show() {
        let schedule = Schedule { interval_ms: 15_000, offset_ms: 0 };
        for (now, want) in [(15_000, 15_000), (15_002, 15_000), (14_999, 15_000), (15_003, 15_003)] {
            assert_eq!(schedule.timestamp(15_000, now), want, "{now}");
        }
        let quick = Schedule { interval_ms: 100, offset_ms: 0 };
        assert_eq!(quick.timestamp(100, 102), 102);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_follows_the_wall_slowly_and_jumps_only_far() {
        let wall = stdx::clock::FakeClock::at(1_000_000);
        let steady = SteadyClock::new(wall.clone());
        tokio::time::advance(Duration::from_secs(10)).await;
        wall.advance_ms(10_100); // the wall clock was put forward by 100 ms
        assert_eq!(steady.now_ms(), 1_010_100);
        wall.advance_ms(-5_000); // and back by 5 s
        assert_eq!(steady.now_ms(), 1_010_100);
        tokio::time::advance(Duration::from_secs(20)).await;
        wall.advance_ms(20_000);
        assert_eq!(steady.now_ms(), 1_029_100);
        wall.advance_ms(-60_000);
        assert_eq!(steady.now_ms(), 965_100);
    }
}
