//! Expositions of awkward targets, as a function of the target and the time.

use std::fmt::Write as _;

/// Seconds for which an exposition stays the same: everybody who scrapes in them gets the same text.
pub(crate) const TICK_SECONDS: u64 = 10;

/// One target with very many series, of which some are replaced all the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Huge {
    pub(crate) series: usize,
    /// One in so many pods is another one at the next tick.
    pub(crate) churn: usize,
}

/// Series of a pod.
const POD_SERIES: usize = 50;

impl Huge {
    pub(crate) fn text(&self, tick: u64) -> String {
        let pods = self.series / POD_SERIES;
        let mut out = String::with_capacity(self.series * 110);
        out.push_str("# TYPE huge_requests_total counter\n");
        for pod in 0..pods as u64 {
            // Each pod is replaced every `churn` ticks, not all at the same one.
            let generation = (tick + pod) / self.churn as u64;
            for path in 0..POD_SERIES as u64 {
                let per_tick = mixed(pod * 64 + path) % 200;
                let value = tick % 100_000 * per_tick;
                let _ = writeln!(
                    out,
                    "huge_requests_total{{namespace=\"ns-{}\",pod=\"web-{pod}-{generation:x}\",path=\"/api/v1/{path}\",code=\"200\"}} {value}",
                    pod % 20,
                );
            }
        }
        out
    }
}

/// A target whose lines carry the times at which its containers were looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnTimes {
    pub(crate) containers: usize,
}

/// Series of a container.
pub(crate) const CONTAINER_SERIES: usize = 20;

impl OwnTimes {
    pub(crate) fn text(&self, target: usize, now_ms: u64) -> String {
        let mut out = String::with_capacity(self.containers * CONTAINER_SERIES * 140);
        for metric in 0..CONTAINER_SERIES as u64 {
            let _ = writeln!(out, "# TYPE container_metric_{metric}_total counter");
            for container in 0..self.containers as u64 {
                let seed = mixed(target as u64 * 4096 + container);
                // Looked at every 10 to 15 s, each by its own clock.
                let period_ms = 10_000 + seed % 5000;
                let looks = (now_ms - seed % 10_000) / period_ms;
                let at_ms = looks * period_ms + seed % 10_000;
                let per_look = mixed(seed + metric) % 100 * u64::from(metric % 3 != 0);
                let value = looks % 100_000 * per_look;
                let _ = writeln!(
                    out,
                    "container_metric_{metric}_total{{container=\"app\",id=\"/kubepods/burstable/pod{seed:016x}/{container}\",image=\"registry/app:1.{}\",namespace=\"ns-{}\",pod=\"app-{container}\"}} {value} {at_ms}",
                    container % 7,
                    container % 20,
                );
            }
        }
        out
    }
}

/// A number that looks random and is always the same.
pub(crate) fn mixed(n: u64) -> u64 {
    let mut n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_pods_that_churn_says_is_replaced() {
        let huge = Huge { series: 5000, churn: 50 };
        let names = |tick| -> std::collections::BTreeSet<String> {
            let text = huge.text(tick);
            text.lines().filter_map(|l| Some(l.split_once('}')?.0.to_owned())).collect()
        };
        let (before, after) = (names(1000), names(1001));
        assert_eq!(before.len(), 5000);
        assert_eq!(before.difference(&after).count(), 100);
    }

    #[test]
    fn times_are_those_of_containers_and_never_ahead() {
        let text = OwnTimes { containers: 30 }.text(3, 1_700_000_000_000);
        let time = |line: &str| line.rsplit_once(' ').and_then(|(_, time)| time.parse::<u64>().ok());
        let times: Vec<u64> = text.lines().filter(|l| !l.starts_with('#')).filter_map(time).collect();
        assert_eq!(times.len(), 30 * CONTAINER_SERIES);
        assert!(times.iter().all(|t| (1_699_999_980_000..=1_700_000_000_000).contains(t)), "{times:?}");
        // Each container by its own clock; of 30 in 15,000 ms, two may meet.
        let distinct = times.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!((28..=30).contains(&distinct), "{distinct}");
    }
}
