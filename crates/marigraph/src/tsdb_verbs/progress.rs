//! How far long work has come: a bar where somebody looks at it, whole lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Longest time between two pictures of the bar.
const EVERY: Duration = Duration::from_millis(100);
const BAR_CHARS: usize = 24;

/// The state of one piece of work, on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    what: String,
    begin: Instant,
    shown: Option<Instant>,
    /// 0 to 1.
    share: f64,
    samples: u64,
    terminal: bool,
    /// Whether a bar stands on the last line.
    drawn: bool,
}

impl Progress {
    /// Begins; `what` names the work in a word.
    pub(crate) fn new(what: &str) -> Progress {
        Progress {
            what: what.to_owned(),
            begin: Instant::now(),
            shown: None,
            share: 0.0,
            samples: 0,
            terminal: io::stderr().is_terminal(),
            drawn: false,
        }
    }

    /// Says how much is done (0 to 1) and how many samples have gone by in all.
    pub(crate) fn set(&mut self, share: f64, samples: u64) {
        (self.share, self.samples) = (share.clamp(0.0, 1.0), samples);
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed() >= EVERY) {
            self.draw();
        }
    }

    /// Writes a line that stays.
    pub(crate) fn line(&mut self, text: &str) {
        self.clear();
        // Nobody reads standard error: nothing to be done about it.
        let _ = writeln!(io::stderr(), "{text}");
    }

    fn draw(&mut self) {
        self.shown = Some(Instant::now());
        let picture = self.picture(self.begin.elapsed());
        // Back to the start of the line, the bar, and nothing behind it.
        let _ = write!(io::stderr(), "\r{picture}\x1b[K");
        let _ = io::stderr().flush();
        self.drawn = true;
    }

    fn picture(&self, elapsed: Duration) -> String {
        let full = (self.share * BAR_CHARS as f64) as usize;
        let bar: String = (0..BAR_CHARS).map(|at| if at < full { '█' } else { '░' }).collect();
        let rate = self.samples as f64 / elapsed.as_secs_f64().max(0.001);
        let mut picture = format!(
            "{} {bar} {:3.0} %  {} samples, {}/s",
            self.what,
            self.share * 100.0,
            short(self.samples as f64),
            short(rate)
        );
        if self.share > 0.02 && elapsed > Duration::from_secs(2) {
            let left = elapsed.as_secs_f64() * (1.0 - self.share) / self.share;
            picture += &format!(", {} left", model::duration::format(left.round() as i64 * 1000));
        }
        picture
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A count for people: `950`, `12.3k`, `4.0M`.
pub(crate) fn short(count: f64) -> String {
    match count {
        c if c < 1e3 => format!("{c:.0}"),
        c if c < 1e6 => format!("{:.1}k", c / 1e3),
        c if c < 1e9 => format!("{:.1}M", c / 1e6),
        c => format!("{:.1}G", c / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_share_rate_and_time_left() {
        let mut progress = Progress::new("export");
        (progress.share, progress.samples) = (0.25, 3_000_000);
        assert_eq!(
            progress.picture(Duration::from_secs(10)),
            "export ██████░░░░░░░░░░░░░░░░░░  25 %  3.0M samples, 300.0k/s, 30s left"
        );
        assert_eq!([950.0, 12_345.0, 4e6, 2.5e9].map(short), ["950", "12.3k", "4.0M", "2.5G"]);
    }
}
