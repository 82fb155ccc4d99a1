//! What verbs write for people: tables, sizes, and how far long work has come.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Time between two drawings of a bar.
const REDRAW: Duration = Duration::from_millis(100);
/// Work shorter than this gets no bar at all.
const PATIENCE: Duration = Duration::from_millis(300);
/// Characters of a bar.
const BAR: usize = 24;

/// A piece of long work. On a terminal it is one line of standard error that is drawn again and again, and goes
/// when the work is done; elsewhere (a file, a pipe, a service) nothing is written.
#[derive(Debug)]
pub(crate) struct Progress {
    doing: String,
    amount: Amount,
    started: Instant,
    drawn: Option<Instant>,
    terminal: bool,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
enum Amount {
    Bytes {
        done: u64,
        total: u64,
    },
    /// With the share of the work that they are, 0 to 1.
    Samples {
        done: u64,
        share: f64,
    },
}

impl Progress {
    /// Starts work called `doing` (`checking`) on `total` bytes.
    pub(crate) fn of_bytes(doing: &str, total: u64) -> Progress {
        Progress::of(doing, Amount::Bytes { done: 0, total })
    }

    /// Starts work called `doing` on nobody knows how many samples.
    pub(crate) fn of_samples(doing: &str) -> Progress {
        Progress::of(doing, Amount::Samples { done: 0, share: 0.0 })
    }

    fn of(doing: &str, amount: Amount) -> Progress {
        let terminal = io::stderr().is_terminal();
        Progress { doing: doing.to_owned(), amount, started: Instant::now(), drawn: None, terminal }
    }

    /// `bytes` more are done, of work on bytes.
    pub(crate) fn add(&mut self, bytes: u64) {
        if let Amount::Bytes { done, .. } = &mut self.amount {
            *done = done.saturating_add(bytes);
        }
        self.draw();
    }

    /// A share of the work on samples is done (0 to 1): so many samples in all.
    pub(crate) fn set(&mut self, share: f64, samples: u64) {
        self.amount = Amount::Samples { done: samples, share: share.clamp(0.0, 1.0) };
        self.draw();
    }

    /// Writes a line that stays.
    pub(crate) fn line(&mut self, text: &str) {
        self.clear();
        // Nobody reads standard error: nothing to be done about it.
        let _ = writeln!(io::stderr(), "{text}");
    }

    fn draw(&mut self) {
        let due = match self.drawn {
            None => self.started.elapsed() >= PATIENCE,
            Some(drawn) => drawn.elapsed() >= REDRAW,
        };
        if self.terminal && due {
            self.drawn = Some(Instant::now());
            let _ =
                write!(io::stderr(), "\r\x1b[K{}", picture(&self.doing, self.amount, self.started.elapsed()));
        }
    }

    fn clear(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What, how far, how much, how fast, how long yet.
fn picture(doing: &str, amount: Amount, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let (share, much, fast) = match amount {
        Amount::Bytes { done, total } => {
            let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
            let rate = bytes((done as f64 / seconds) as u64);
            (share, format!("{} of {}", bytes(done), bytes(total)), rate)
        }
        Amount::Samples { done, share } => {
            (share, format!("{} samples", short(done as f64)), short(done as f64 / seconds))
        }
    };
    let full = (share * BAR as f64) as usize;
    let bar: String = (0..BAR).map(|at| if at < full { '█' } else { '░' }).collect();
    let left = if share > 0.0 { seconds * (1.0 - share) / share } else { 0.0 };
    let left = duration(Duration::from_secs_f64(left.min(1e9)));
    format!("{doing} {bar} {:3.0} %  {much}, {fast}/s, {left} left", share * 100.0)
}

/// Writes the whole answer of a verb to standard output.
///
/// # Errors
/// It cannot be written; a reader who has seen enough (`| head`) is none.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write the answer"),
    }
}

/// Columns, each as wide as its widest cell.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people: `512 B`, `1.5 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
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
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `1 part`, `3 parts`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A number for people: `950`, `12.3k`, `4.0M`.
fn short(number: f64) -> String {
    match number {
        n if n < 1e3 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1}k", n / 1e3),
        n if n < 1e9 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}G", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_times_and_counts_are_for_people() {
        for (number, want) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(bytes(number), want);
        }
        for (ms, want) in
            [(400, "0.4 s"), (12_300, "12 s"), (200_000, "3 min 20 s"), (7_500_000, "2 h 5 min")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), want);
        }
        assert_eq!((count(1, "part"), count(0, "part")), ("1 part".into(), "0 parts".into()));
        assert_eq!([950.0, 12_345.0, 4e6, 2.5e9].map(short), ["950", "12.3k", "4.0M", "2.5G"]);
    }

    #[test]
    fn a_bar_says_how_far_how_fast_and_how_long() {
        let check = |doing: &str, amount: Amount, seconds: u64, want: &str| {
            assert_eq!(picture(doing, amount, Duration::from_secs(seconds)), want);
        };
        check(
            "copying",
            Amount::Bytes { done: 512 << 20, total: 1 << 30 },
            4,
            "copying ████████████░░░░░░░░░░░░  50 %  512.0 MiB of 1.0 GiB, 128.0 MiB/s, 4.0 s left",
        );
        check(
            "export",
            Amount::Samples { done: 3_000_000, share: 0.25 },
            10,
            "export ██████░░░░░░░░░░░░░░░░░░  25 %  3.0M samples, 300.0k/s, 30 s left",
        );
        let none = Amount::Bytes { done: 0, total: 0 };
        check("copying", none, 0, "copying ████████████████████████ 100 %  0 B of 0 B, 0 B/s, 0.0 s left");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["NAME", "JOB"], ["zürich", "n"], ["a", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "NAME    JOB\nzürich  n\na\n");
    }
}
