//! What receivers refuse: a few lines about it, and what can be learnt from it.

use model::Labels;

use crate::write_out::answer::Answer;

/// Lines within a window.
const LINES_MAX: u32 = 10;
const WINDOW_MS: u64 = 60_000;
/// How long a receiver's word that it takes nothing before some time is believed, milliseconds.
const BELIEVED_MS: u64 = 60_000;

/// What is said of a refusal.
pub(super) struct Line<'a> {
    /// Points given up.
    pub(super) points: usize,
    /// Points of the request.
    pub(super) of: usize,
    /// Series and timestamp of the first of them, where that is known.
    pub(super) first: Option<(&'a Labels, i64)>,
    /// The receiver's words.
    pub(super) answer: &'a str,
}

/// Tells of refusals, but not of all of them.
#[derive(Debug, Default)]
pub(super) struct RefusedLog {
    window_ms: u64,
    lines: u32,
    unsaid: u64,
}

impl RefusedLog {
    pub(super) fn tell(&mut self, remote: &str, line: Line<'_>, now_ms: u64) {
        if now_ms >= self.window_ms + WINDOW_MS {
            (self.window_ms, self.lines) = (now_ms, 0);
        }
        if self.lines == LINES_MAX {
            self.unsaid += line.points as u64;
            return;
        }
        self.lines += 1;
        let unsaid = std::mem::take(&mut self.unsaid);
        let Line { points, of, first, answer } = line;
        match first {
            Some((series, timestamp_ms)) => tracing::warn!(
                remote, %series, timestamp_ms, unsaid, answer, "the receiver refused a sample, it is given up"
            ),
            None => tracing::warn!(
                remote,
                samples = points,
                of,
                unsaid,
                answer,
                "the receiver refused samples, they are given up"
            ),
        }
    }
}

/// A time up to which the receiver takes nothing at all.
///
/// A receiver that has not been reached for hours and has newer samples of its own refuses each sample of
/// the backlog, and asking for each is hopeless. But `out of bounds` speaks of the time alone, not of the
/// series: what is as old or older is refused too. Believed for a minute, then a sample is tried again.
///
/// Source: Prometheus `tsdb/head_append.go`, `ErrOutOfBounds`: older than the head's `minValidTime`.
#[derive(Debug, Default)]
pub(super) struct TooOld {
    until_ms: Option<i64>,
    believed_until_ms: u64,
}

impl TooOld {
    /// A single sample of this time was refused with this answer.
    pub(super) fn learn(&mut self, timestamp_ms: i64, answer: &Answer, now_ms: u64) {
        if answer.text.contains("out of bounds") {
            self.until_ms = Some(self.until_ms.map_or(timestamp_ms, |until_ms| until_ms.max(timestamp_ms)));
            self.believed_until_ms = now_ms + BELIEVED_MS;
        }
    }

    /// Forgets what was said too long ago.
    pub(super) fn forget(&mut self, now_ms: u64) {
        if now_ms >= self.believed_until_ms {
            self.until_ms = None;
        }
    }

    /// The oldest time that may be taken, where there is a bound.
    pub(super) fn oldest_ms(&self) -> Option<i64> {
        self.until_ms.map(|until_ms| until_ms.saturating_add(1))
    }
}
