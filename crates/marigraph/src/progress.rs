//! Progress of long work on a terminal: one line that is drawn again and again, and goes when the work
//! is done. Elsewhere (a file, a pipe, a service) nothing is written.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two drawings.
const REDRAW: Duration = Duration::from_millis(100);
/// Work shorter than this gets no line at all.
const PATIENCE: Duration = Duration::from_millis(300);
/// Characters of the bar.
const BAR: u64 = 24;

/// A piece of long work, counted in bytes.
#[derive(Debug)]
pub struct Progress {
    doing: String,
    done: u64,
    total: u64,
    started: Instant,
    drawn: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Starts work called `doing` (`checking`) on `total` bytes.
    pub fn new(doing: &str, total: u64) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress { doing: doing.to_owned(), done: 0, total, started: Instant::now(), drawn: None, terminal }
    }

    /// `bytes` more are done.
    pub fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        let due = match self.drawn {
            None => self.started.elapsed() >= PATIENCE,
            Some(drawn) => drawn.elapsed() >= REDRAW,
        };
        if self.terminal && due {
            self.drawn = Some(Instant::now());
            let line = line(&self.doing, self.done, self.total, self.started.elapsed());
            // A terminal that has gone is no reason to stop.
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// The line: what, how far, how fast, how long yet.
fn line(doing: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let full = (share * BAR as f64) as usize;
    let bar: String = (0..BAR as usize).map(|at| if at < full { '█' } else { '░' }).collect();
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = done as f64 / seconds;
    let left = if rate > 0.0 { total.saturating_sub(done) as f64 / rate } else { 0.0 };
    format!(
        "{doing} {bar} {:3.0} %  {} of {}, {}/s, {} left",
        share * 100.0,
        bytes(done),
        bytes(total),
        bytes(rate as u64),
        duration(Duration::from_secs_f64(left.min(1e9)))
    )
}

/// Bytes for people: `512 B`, `1.5 GiB`.
pub fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// A time for people: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `1 part`, `3 parts`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_for_people() {
        for (number, want) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(bytes(number), want);
        }
        for (ms, want) in
            [(400, "0.4 s"), (12_300, "12 s"), (200_000, "3 min 20 s"), (7_500_000, "2 h 5 min")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), want);
        }
        assert_eq!((count(1, "part"), count(0, "part")), ("1 part".into(), "0 parts".into()));
    }

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let half = line("copying", 512 << 20, 1 << 30, Duration::from_secs(4));
        assert_eq!(
            half,
            "copying ████████████░░░░░░░░░░░░  50 %  512.0 MiB of 1.0 GiB, 128.0 MiB/s, 4.0 s left"
        );
        assert!(line("copying", 0, 0, Duration::ZERO).contains("100 %"));
    }
}
