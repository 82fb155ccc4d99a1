//! What was measured beside what was to be reached.

use std::fmt;

/// Repeated measurements of one figure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle of them; NaN of none.
    pub(crate) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

impl From<f64> for Spread {
    fn from(value: f64) -> Spread {
        Spread(vec![value])
    }
}

/// `1.20`, or of several `1.20 (1.15-1.31)`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$}", self.median())?;
        match (self.0.first(), self.0.last()) {
            (Some(low), Some(high)) if self.0.len() > 1 => write!(f, " ({low:.digits$}-{high:.digits$})"),
            _ => Ok(()),
        }
    }
}

/// One goal of the project's table.
#[derive(Debug)]
struct Verdict {
    what: String,
    measured: Spread,
    /// At most this, or at least.
    goal: f64,
    at_least: bool,
}

/// Goals, as they are measured.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(Vec<Verdict>);

impl Verdicts {
    /// `measured` is to be at most `goal`.
    pub(crate) fn at_most(&mut self, what: impl Into<String>, measured: impl Into<Spread>, goal: f64) {
        self.0.push(Verdict { what: what.into(), measured: measured.into(), goal, at_least: false });
    }

    /// `measured` is to be at least `goal`.
    pub(crate) fn at_least(&mut self, what: impl Into<String>, measured: impl Into<Spread>, goal: f64) {
        self.0.push(Verdict { what: what.into(), measured: measured.into(), goal, at_least: true });
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<66} {:>22} {:>8}  verdict", "goal", "measured", "wanted")?;
        for Verdict { what, measured, goal, at_least } in &self.0 {
            let value = measured.median();
            let reached = if *at_least { value >= *goal } else { value <= *goal };
            let sign = if *at_least { ">=" } else { "<=" };
            let digits = if *goal >= 100.0 { 0 } else { 2 };
            let verdict = match (value.is_nan(), reached) {
                (true, _) => "NOT MEASURED",
                (_, true) => "reached",
                (_, false) => "NOT REACHED",
            };
            let measured = format!("{measured:.digits$}");
            writeln!(f, "{what:<66} {measured:>22} {sign:>2}{goal:>6}  {verdict}")?;
        }
        Ok(())
    }
}
