//! Times and steps as promtool reads them from flags and sends them to the API.
//!
//! Source: Prometheus `cmd/promtool/main.go`, `parseTime`, `QueryRange`; `client_golang`, `formatTime`.

use std::str::FromStr;
use std::time::Duration;

use model::labels::write_quoted;

/// A moment, nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(i128);

impl Time {
    /// Now.
    pub fn now() -> Time {
        Time(jiff::Timestamp::now().as_nanosecond())
    }

    /// So much earlier.
    pub fn minus(self, duration: Duration) -> Time {
        Time(self.0 - duration.as_nanos() as i128)
    }

    /// So much later.
    pub fn plus(self, duration: Duration) -> Time {
        Time(self.0 + duration.as_nanos() as i128)
    }

    /// The time from `earlier` to this; `None` when that is the later one.
    pub fn since(self, earlier: Time) -> Option<Duration> {
        u64::try_from(self.0 - earlier.0).ok().map(Duration::from_nanos)
    }

    /// As the API takes it: seconds with a fraction.
    pub fn api(self) -> String {
        let (seconds, nanos) = (self.0.div_euclid(1_000_000_000), self.0.rem_euclid(1_000_000_000));
        (seconds as f64 + nanos as f64 / 1e9).to_string()
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        let bad = || {
            let mut quoted = String::new();
            // Writing to a string does not fail.
            let _ = write_quoted(&mut quoted, text);
            format!("cannot parse {quoted} to a valid timestamp (RFC 3339, or seconds since the epoch)")
        };
        if let Ok(seconds) = text.parse::<f64>() {
            if !(-1e11..=1e11).contains(&seconds) {
                return Err(bad());
            }
            let (whole, fraction) = (seconds.trunc(), seconds.fract());
            return Ok(Time(whole as i128 * 1_000_000_000 + (fraction * 1e9) as i128));
        }
        text.parse::<jiff::Timestamp>().map(|time| Time(time.as_nanosecond())).map_err(|_| bad())
    }
}

/// A step: Go's durations (`1.5s`, `1h2m`, `250ms`) and Prometheus' (`1d`).
pub fn parse_step(text: &str) -> Result<Duration, String> {
    if let Ok(ms) = model::duration::parse(text) {
        return positive(Duration::from_millis(ms.unsigned_abs()));
    }
    let bad = || format!("{text:?} is not a duration; write it as 15s, 1m30s or 250ms");
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit() || c == '.');
        let unit_end = unit_end.map_or(rest.len(), |at| end + at);
        total += number
            * match &rest[end..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = &rest[unit_end..];
    }
    positive(Duration::try_from_secs_f64(total).map_err(|_| bad())?)
}

fn positive(step: Duration) -> Result<Duration, String> {
    if step.is_zero() { Err("a step is longer than nothing".to_owned()) } else { Ok(step) }
}

/// The step of a range for which none is given: whole seconds, a 250th of it.
pub fn default_step(range: Duration) -> Duration {
    Duration::from_secs(((range.as_secs_f64() / 250.0).floor() as u64).max(1))
}

/// A step as the API takes it: seconds with a fraction.
pub fn api_step(step: Duration) -> String {
    step.as_secs_f64().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_promtool_reads_them() {
        let check = |text: &str, want: Result<&str, ()>| {
            let found = text.parse::<Time>().map(Time::api);
            assert_eq!(found.as_deref().map_err(|_| ()), want, "{text}");
        };
        check("1700000000", Ok("1700000000"));
        check("1700000000.5", Ok("1700000000.5"));
        check("-1.25", Ok("-1.25"));
        check("2023-11-14T22:13:20Z", Ok("1700000000"));
        check("2023-11-14T23:13:20.250+01:00", Ok("1700000000.25"));
        check("yesterday", Err(()));
        check("1e300", Err(()));
        check("NaN", Err(()));
    }

    #[test]
    fn steps_are_durations_of_go_or_prometheus() {
        for (text, want) in [
            ("15s", Some("15")),
            ("1m30s", Some("90")),
            ("250ms", Some("0.25")),
            ("1.5s", Some("1.5")),
            ("1d", Some("86400")),
            ("0s", None),
            ("15", None),
            ("s", None),
            ("1x", None),
            ("", None),
        ] {
            let found = parse_step(text).ok().map(api_step);
            assert_eq!(found.as_deref(), want, "{text}");
        }
        assert_eq!(default_step(Duration::from_secs(300)), Duration::from_secs(1));
        assert_eq!(default_step(Duration::from_secs(86_400)), Duration::from_secs(345));
    }
}
